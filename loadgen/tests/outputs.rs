//! What `--out` writes is read back, and is what was measured; so is what `--prometheus` serves.

#[path = "common/relayed.rs"]
mod relayed;
#[path = "common/schema.rs"]
mod schema;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use loadgen::report::Summary;
use loadgen::report::files::{self, Recorded};
use serde_json::Value;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The rows of a file of comma-separated values, by the names of the columns.
fn rows(csv: &str) -> Vec<HashMap<&str, &str>> {
    let mut lines = csv.lines();
    let columns: Vec<_> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| columns.iter().copied().zip(line.split(',')).collect())
        .collect()
}

/// What every reader of the format does: by tag, the sum of all lines.
fn logged(text: &str) -> HashMap<Option<String>, Histogram<u64>> {
    // The legend is for Java's reader; the crate's wants lines of data.
    let lines = text.lines().filter(|line| !line.starts_with('"'));
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    let mut sums = HashMap::new();
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        let LogEntry::Interval(interval) = entry.unwrap() else {
            continue;
        };
        let bytes = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            interval.encoded_histogram(),
        );
        let one: Histogram<u64> = Deserializer::new()
            .deserialize(&mut &bytes.unwrap()[..])
            .unwrap();
        let largest = interval.max() * 1e6;
        assert!((largest - one.max() as f64).abs() <= 1e-3 * one.max() as f64 + 1_000.0);
        let tag = interval.tag().map(|tag| tag.as_str().to_owned());
        match sums.entry(tag) {
            Entry::Vacant(entry) => drop(entry.insert(one)),
            Entry::Occupied(mut entry) => entry.get_mut().add(&one).unwrap(),
        }
    }
    sums
}

fn json(summary: &Summary) -> Value {
    serde_json::to_value(summary).unwrap()
}

#[test]
fn all_files_say_what_the_summary_says() {
    let directory = relayed::directory("outputs");
    let out = directory.join("run").display().to_string();
    let summary = relayed::run(&format!(
        "pubsub -c 6 --rate 2000 --warmup 1300ms -d 2500ms --cores 2 --broker-name Relay<1> --out {out}"
    ));
    let text = |name: &str| fs::read_to_string(directory.join("run").join(name)).unwrap();
    let latency = summary.latency_us.as_ref().unwrap();
    let lag = summary.generator.send_lag_us.as_ref().unwrap();
    assert_eq!(latency.count, 5_000);

    let written: Value = serde_json::from_str(&text("summary.json")).unwrap();
    assert_eq!(written, json(&summary));
    assert_eq!(schema::breaches(&written), [""; 0]);

    let csv = text("timeline.csv");
    let rows = rows(&csv);
    let sum = |column: &str| -> u64 {
        let values = rows.iter().map(|row| row[column].parse::<u64>().unwrap());
        values.sum()
    };
    assert_eq!(sum("samples"), latency.count);
    assert_eq!(sum("published"), summary.published);
    assert_eq!(sum("delivered"), summary.delivered);
    let phases: Vec<_> = rows
        .iter()
        .map(|row| (row["second"], row["phase"]))
        .collect();
    assert_eq!(
        phases[..5],
        [
            ("-2", "warm-up"),
            ("-1", "warm-up"),
            ("0", "measured"),
            ("1", "measured"),
            ("2", "end")
        ]
    );
    for row in &rows {
        assert_eq!(row["valid"], summary.valid.to_string());
    }
    // The measured interval begins with its second, so that a whole second is one of the rate.
    let whole: u64 = rows[3]["published"].parse().unwrap();
    assert!((1_500..2_500).contains(&whole), "{csv}");

    let log = text("latency.hlog");
    let sums = logged(&log);
    let of = |tag: Option<&str>| &sums[&tag.map(ToOwned::to_owned)];
    assert_eq!(of(None).len(), latency.count);
    assert_eq!(of(None).max() as f64 / 1e3, latency.max);
    assert_eq!(of(None).value_at_quantile(0.99) as f64 / 1e3, latency.p99);
    assert_eq!(of(Some("send-lag")).len(), lag.count);
    assert_eq!(
        of(Some("send-lag")).value_at_quantile(0.5) as f64 / 1e3,
        lag.p50
    );

    let hgrm = text("latency.hgrm");
    let last = hgrm
        .lines()
        .rfind(|line| line.contains(" 1.000000000000 "))
        .unwrap();
    assert!(last.trim_end().ends_with(" 5000"), "{last}");

    let toml: toml::Table = text("run.toml").parse().unwrap();
    assert_eq!(toml["broker"]["name"].as_str(), Some("Relay<1>"));
    assert_eq!(toml["broker"]["same_host"].as_bool(), Some(true));
    assert_eq!(toml["run"]["valid"].as_bool(), Some(summary.valid));
    assert!(toml["host"]["cpus"].as_integer() >= Some(1));

    for name in ["percentiles.svg", "latency.svg", "throughput.svg"] {
        let svg = text(name);
        assert!(
            svg.starts_with("<svg xmlns") && svg.trim_end().ends_with("</svg>"),
            "{name}"
        );
        let outside = svg.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !outside.contains("http") && !outside.contains("@import"),
            "{name}"
        );
        assert!(
            svg.contains("Relay&lt;1&gt;"),
            "the broker's own words are no markup"
        );
    }
    let page = text("report.html");
    assert!(page.contains("Relay&lt;1&gt;") && !page.contains("Relay<1>"));

    let read = Recorded::read(&directory.join("run")).unwrap();
    assert_eq!(read.summary, summary);
    assert_eq!(read.latency(), *of(None));
    // The report is a function of the other files.
    files::rebuild(&[directory.join("run")], None).unwrap();
    assert_eq!(text("report.html"), page);

    // A broker that does not tell its name goes by its program's.
    let mut unnamed = toml;
    unnamed["broker"]["name"] = "".into();
    unnamed["broker"]["command"] = vec!["/opt/broker-of-mine", "-v"].into();
    let unnamed = toml::to_string(&unnamed).unwrap();
    fs::write(directory.join("run/run.toml"), unnamed).unwrap();
    files::rebuild(&[directory.join("run")], None).unwrap();
    assert!(text("report.html").contains("<b>broker-of-mine</b>, at "));
}

/// The program itself, for what only it does.
fn loadgen(words: &str) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(words.split(' '))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

#[test]
fn a_run_that_is_marked_invalid_is_marked_everywhere() {
    let directory = relayed::directory("invalid");
    let run = directory.join("run");
    let mut summary = relayed::run(&format!(
        "pubsub -c 2 --closed-loop --warmup 50ms -d 300ms --out {}",
        run.display()
    ));
    // As if it had been late; how it comes to be so is the judge's test.
    summary.valid = false;
    summary.invalid_because = vec!["it was late".into()];
    let read = Recorded::read(&run).unwrap();
    let mut timeline = loadgen::timeline::Timeline::default();
    let mut interval = loadgen::worker::Interval::of(0);
    interval.latency.record(5_000_000).unwrap();
    timeline.add(&interval);
    files::write(&run, &summary, &read.provenance, &timeline).unwrap();
    for (name, mark) in [
        ("summary.json", "\"valid\": false"),
        ("run.toml", "valid = false"),
        ("timeline.csv", ",false,"),
        ("latency.hlog", "#INVALID: it was late"),
        ("latency.hgrm", "#[INVALID: it was late]"),
        ("percentiles.svg", ">INVALID</text>"),
        ("report.html", "<p class=\"big\">INVALID</p>"),
    ] {
        let text = fs::read_to_string(run.join(name)).unwrap();
        assert!(text.contains(mark), "{name} lacks {mark}");
    }
    assert!(summary.text().contains("INVALID: it was late"));
    let words = format!("compare {0} {0}", run.display());
    let (status, told) = loadgen(&words);
    assert!(
        status == 1 && told.contains("INVALID") && told.contains("it was late"),
        "{told}"
    );
    let (status, told) = loadgen(&format!("{words} --force"));
    assert!(status == 0 && told.contains("INVALID"), "{told}");
}

#[test]
fn compare_and_report_are_commands() {
    let directory = relayed::directory("compare");
    let path = |name: &str| directory.join(name).display().to_string();
    let load = "pubsub -c 2 --rate 500 --warmup 50ms -d 1s";
    relayed::run(&format!("{load} --out {}", path("a")));
    relayed::run(&format!(
        "pubsub -c 3 --rate 500 --warmup 50ms -d 1s --out {}",
        path("c")
    ));
    // A copy whose latencies are twice as long, and whose generator was not late on a busy machine.
    fs::create_dir(path("b")).unwrap();
    for name in ["run.toml", "timeline.csv", "latency.hlog"] {
        fs::copy(
            directory.join("a").join(name),
            directory.join("b").join(name),
        )
        .unwrap();
    }
    let text = fs::read_to_string(directory.join("a/summary.json")).unwrap();
    let mut summary: Summary = serde_json::from_str(&text).unwrap();
    (summary.valid, summary.invalid_because) = (true, Vec::new());
    let save = |name: &str, summary: &Summary| {
        fs::write(
            directory.join(name).join("summary.json"),
            json(summary).to_string(),
        )
        .unwrap();
    };
    save("a", &summary);
    let latency = summary.latency_us.as_mut().unwrap();
    (latency.p50, latency.p99) = (latency.p50 * 2.0, latency.p99 * 2.0);
    save("b", &summary);

    let (status, told) = loadgen(&format!("compare {} {}", path("a"), path("b")));
    assert!(status == 99 && told.contains("REGRESSION"), "{told}");
    let (status, told) = loadgen(&format!(
        "compare {} {} --threshold 150%",
        path("a"),
        path("b")
    ));
    assert_eq!(status, 0, "{told}");
    let (status, told) = loadgen(&format!("compare {} {} --json", path("a"), path("b")));
    let comparison: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (status, comparison["threshold_percent"].as_f64()),
        (99, Some(5.0))
    );
    let (status, told) = loadgen(&format!("compare {} {}", path("a"), path("c")));
    assert!(
        status == 1 && told.contains("publishers differs: 2 and 3"),
        "{told}"
    );
    let (status, told) = loadgen(&format!("compare {} {}", path("a"), path("nowhere")));
    assert!(status == 1 && told.contains("nowhere"), "{told}");

    let report = path("both.html");
    let (status, told) = loadgen(&format!("report {} {} -o {report}", path("a"), path("b")));
    assert_eq!((status, told.trim()), (0, &report[..]));
    assert!(
        fs::read_to_string(&report)
            .unwrap()
            .contains("2 runs over each other")
    );
}

#[test]
fn metrics_are_served_while_it_runs() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let run = thread::spawn(move || {
        relayed::run(&format!(
            "pubsub -c 2 --rate 1000 --warmup 50ms -d 4s --prometheus {address}"
        ))
    });
    let ask = || -> Option<String> {
        let mut stream = TcpStream::connect(address).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    let value = |page: &str, name: &str| -> f64 {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.map_or(0.0, |line| line[name.len() + 1..].parse().unwrap())
    };
    let begun = Instant::now();
    let page = loop {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "there are no metrics"
        );
        match ask() {
            Some(page) if value(&page, "loadgen_latency_seconds_count") > 0.0 => break page,
            _ => thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(
        value(&page, "loadgen_messages_sent_total") >= 500.0,
        "{page}"
    );
    assert!(
        value(&page, "loadgen_messages_received_total") >= 500.0,
        "{page}"
    );
    assert_eq!(value(&page, "loadgen_connections"), 4.0, "{page}");
    assert!(page.contains("loadgen_run_info{verb=\"pubsub\""), "{page}");
    assert_eq!(run.join().unwrap().lost, 0);
    assert!(TcpStream::connect(address).is_err(), "it ends with the run");
}

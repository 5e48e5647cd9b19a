//! The verbs against mosquitto, where it is installed.

#[path = "common/schema.rs"]
mod schema;

use loadgen::cli;
use loadgen::report::Summary;
use loadgen::run;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

struct Mosquitto {
    process: Child,
    port: u16,
    config: PathBuf,
}

impl Mosquitto {
    /// Starts one on a free port; `None`, with the reason printed, when there is none to start.
    fn start() -> Option<Self> {
        let places = [
            "/usr/sbin/mosquitto",
            "/usr/local/sbin/mosquitto",
            "/usr/bin/mosquitto",
        ];
        let Some(program) = places
            .iter()
            .find(|place| fs::exists(place).unwrap_or(false))
        else {
            println!("skipped: mosquitto is not installed");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = std::env::temp_dir().join(format!("loadgen-test-{port}.conf"));
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n\
             max_inflight_messages 1000\nmax_queued_messages 200000\nset_tcp_nodelay true\n"
        );
        fs::write(&config, text).unwrap();
        let process = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let broker = Self {
            process,
            port,
            config,
        };
        for _ in 0..100 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(broker);
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("mosquitto does not listen at {port} after 5 s");
    }

    fn run(&self, words: &str) -> Summary {
        let port = self.port.to_string();
        let pid = self.process.id().to_string();
        let fixed = ["-p", &port, "--broker-pid", &pid];
        let words = ["loadgen"]
            .into_iter()
            .chain(words.split_whitespace())
            .chain(fixed);
        let cli = cli::parse(words).unwrap();
        let summary = run::verb(&cli.verb).unwrap();
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(schema::breaches(&json), [""; 0]);
        summary
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.config);
    }
}

#[test]
fn every_shape_delivers_every_message() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    let time = "--warmup 50ms -d 300ms --verify";
    for (shape, receivers) in [
        ("pubsub -c 4 --closed-loop -F 8 -q 0 -V 3", 1),
        ("pubsub -c 4 --closed-loop -F 8 -q 1 -V 5 --cores 2", 1),
        ("pubsub -c 4 --rate 1000 -q 2 -s 5000", 1),
        ("fanout -c 10 --closed-loop -q 2 --cores 3", 10),
        (
            "fanin -c 10 --closed-loop -q 1 --cores 2 --ifaddr 127.0.0.2,127.0.0.3",
            1,
        ),
        ("shared -c 6 --members 4 --closed-loop -q 1 --cores 2", 1),
        ("slow -c 5 --slow 2 --rate 500 -q 1", 3),
    ] {
        let summary = broker.run(&format!("{shape} {time}"));
        assert_eq!(summary.violations, [""; 0], "{shape}");
        assert!(summary.published > 50, "{shape}: {summary:?}");
        assert_eq!(summary.expected, summary.published * receivers, "{shape}");
        assert_eq!(
            (summary.lost, summary.delivered),
            (0, summary.expected),
            "{shape}"
        );
        let latency = summary.latency_us.as_ref().expect("messages were measured");
        assert!(
            latency.count > 0 && latency.min > 0.0,
            "{shape}: {latency:?}"
        );
        let broker = summary.broker.as_ref().expect("the process was named");
        assert!(
            broker.cpu_ns_per_message.is_some_and(|ns| ns > 100.0),
            "{shape}: {broker:?}"
        );
        assert_eq!(
            summary.acknowledged_us.is_some(),
            summary.qos > 0,
            "{shape}"
        );
    }
}

#[test]
fn every_row_of_steps_comes_to_its_end() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    for churn in [
        "churn -c 8 --warmup 50ms -d 400ms --verify",
        "churn -c 8 --rate 200 -V 5 --keep-sessions --warmup 50ms -d 400ms --verify",
    ] {
        let summary = broker.run(churn);
        assert_eq!(summary.violations, [""; 0], "{churn}");
        let cycles = &summary.steps[0];
        assert!(
            cycles.count > 20 && cycles.cpu_ns_each.is_some(),
            "{cycles:?}"
        );
        if let Some(rate) = summary.rate {
            assert!(
                (cycles.count as f64 - rate * 0.4).abs() < 12.0,
                "{cycles:?}"
            );
        }
        assert!(
            summary
                .latency_us
                .is_some_and(|all| all.count > 20 && all.min > 0.0)
        );
    }
    for (durable, sessions) in [
        ("durable --messages 500 -c 3 --verify", 3),
        ("durable --messages 300 -q 2 -V 5 -F 10 --verify", 1),
    ] {
        let summary = broker.run(durable);
        assert_eq!(summary.violations, [""; 0], "{durable}");
        assert_eq!(
            (summary.lost, summary.delivered),
            (0, summary.published * sessions)
        );
        let names: Vec<_> = summary
            .steps
            .iter()
            .map(|step| step.name.as_str())
            .collect();
        assert_eq!(names, ["queue", "drain"]);
        assert!(summary.steps.iter().all(|step| step.per_s > 0.0));
    }
    for retained in [
        "retained --messages 500 -c 2 -q 1 --verify",
        "retained --messages 500 -V 5 --verify",
    ] {
        let summary = broker.run(retained);
        assert_eq!(summary.violations, [""; 0], "{retained}");
        assert_eq!(
            (summary.lost, summary.delivered),
            (0, summary.expected),
            "{retained}"
        );
        assert_eq!(summary.steps.len(), 3);
    }
    let again = broker.run("sub -t # -d 300ms");
    assert_eq!(
        (again.delivered, again.corrupt),
        (0, 0),
        "retained messages were removed"
    );
}

#[test]
fn storms_and_the_suite_come_to_their_end() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    for (words, births) in [
        ("storm -c 40 --verify", 0),
        ("storm -c 40 --half-open --keep-sessions --verify", 0),
        ("storm -c 30 --births 7 --verify -V 5", 7),
    ] {
        let summary = broker.run(words);
        assert_eq!(summary.violations, [""; 0], "{words}");
        let clients = summary.connections;
        assert_eq!(summary.steps[1].count, clients, "{words}");
        assert_eq!(summary.delivered, clients * births, "{words}");
        assert_eq!(
            summary.connect_us.as_ref().map(|all| all.count),
            Some(clients)
        );
    }
    for (words, sample) in [
        ("inbox -c 300 --probe-rate 1k --sample 50 --verify", 50),
        (
            "inbox --prefix kept -c 40 --probe-rate 0 -q 1 --keep-sessions -V 5 --verify",
            40,
        ),
    ] {
        let summary = broker.run(words);
        assert_eq!(summary.violations, [""; 0], "{words}");
        let all = summary.steps.last().expect("the steps");
        assert_eq!((all.name.as_str(), all.count), ("all", summary.connections));
        assert_eq!(
            all.latency_us.as_ref().map(|all| all.count),
            Some(all.count)
        );
        assert!(summary.delivered >= summary.connections + sample, "{words}");
        assert_eq!(summary.delivered, summary.published, "{words}");
    }
    let words =
        "inbox --prefix heard -c 200 --sample 10 -q 1 --probe-rate 1k --broadcasts 3 --verify";
    let summary = broker.run(words);
    assert_eq!(summary.violations, [""; 0]);
    let steps: Vec<_> = summary.steps.iter().map(|step| &step.name[..]).collect();
    assert_eq!(
        steps,
        [
            "connect",
            "probe",
            "sample",
            "all",
            "subscribe",
            "beside",
            "broadcast"
        ]
    );
    let broadcast = summary.steps.last().expect("the steps");
    assert_eq!(broadcast.count, 600);
    let latency = broadcast.latency_us.as_ref().expect("there were some");
    assert_eq!(latency.count, 600);
    let own: u64 = summary
        .steps
        .iter()
        .filter(|step| ["probe", "sample", "all", "beside"].contains(&&step.name[..]))
        .map(|step| step.count)
        .sum();
    assert_eq!(summary.delivered, own + 600);
    assert_eq!(summary.published, own + 3);
    for (name, messages) in [
        ("gateway --scale 0.1 -d 500ms", true),
        ("sharedsub-1K-5-1K-1K --scale 0.02 -d 500ms", true),
        ("wild100k --scale 0.01 -d 500ms", true),
        ("pingpong -d 300ms", true),
        ("conn-tcp-10K-100 --scale 0.001 -d 100ms", false),
        ("ha-startup --scale 0.02", true),
        ("power-cut --scale 0.005", false),
        ("sparkplug --scale 0.02", true),
    ] {
        let summary = broker.run(&format!("suite {name} -Q"));
        let note = summary.note.as_deref().unwrap_or_default();
        let is_small = name.contains("--scale");
        assert_eq!(note.contains("SHRUNK"), is_small, "{note}");
        assert_eq!(
            (summary.lost, summary.corrupt, summary.duplicates),
            (0, 0, 0),
            "{name}"
        );
        assert_eq!(summary.delivered > 0, messages, "{name}: {summary:?}");
    }
}

#[test]
fn more_than_can_be_done_is_named_as_such() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    let summary = broker.run("pubsub -c 4 --max -d 300ms --warmup 50ms -Q");
    assert!(
        summary.latency_us.is_none() && summary.load == "max",
        "{summary:?}"
    );
    let summary = broker.run("pubsub -c 4 --max --force -d 300ms --warmup 50ms -Q");
    assert!(summary.latency_us.is_some());
    let summary = broker.run("pubsub -c 2 --ramp 0..400@400/s --jitter 50% -q 1 --verify -Q");
    assert_eq!(summary.violations, [""; 0]);
    assert!(
        summary.published.abs_diff(200) <= 1,
        "{}",
        summary.published
    );
    let summary =
        broker.run("pubsub -c 2 --stages 0s:100,1s:100,500ms:0 --cores 2 -q 1 --verify -Q");
    assert!(
        summary.published.abs_diff(125) <= 2,
        "{}",
        summary.published
    );
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    let summary = broker.run("pubsub -c 7 --rate 1000 --warmup 100ms -d 1s --cores 2");
    assert!(
        (summary.published_per_s - 1_000.0).abs() <= 20.0,
        "{}",
        summary.published_per_s
    );
    // The two cores' schedules do not end at the same instant.
    let count = summary.latency_us.as_ref().map_or(0, |all| all.count);
    assert!(
        (998..=1_002).contains(&count) && summary.lost == 0,
        "{count}"
    );
}

#[test]
fn idle_connections_are_counted_and_weighed() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    let summary = broker.run("conn -c 500 --subscribe --hold 100ms");
    assert_eq!(summary.connections, 500);
    assert_eq!(summary.connect_us.as_ref().map(|all| all.count), Some(500));
    let bytes = summary
        .broker
        .as_ref()
        .and_then(|broker| broker.rss_bytes_per_connection);
    assert!(
        bytes.is_some_and(|bytes| (100.0..20_000.0).contains(&bytes)),
        "{bytes:?}"
    );
}

#[test]
fn publishers_and_subscribers_of_two_runs_find_each_other() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    thread::scope(|scope| {
        let subscriber =
            scope.spawn(|| broker.run("sub -c 2 -t way/+ -q 1 -d 2s --verify --prefix a"));
        thread::sleep(Duration::from_millis(700));
        let words =
            "pub -c 3 -n 5 -t way/%i -q 1 --rate 500 --warmup 0s -d 500ms --verify --prefix b";
        let published = broker.run(words);
        assert_eq!(published.violations, [""; 0]);
        assert_eq!(published.published, 250);
        let got = subscriber.join().unwrap();
        assert_eq!(got.violations, [""; 0]);
        assert_eq!((got.delivered, got.lost), (500, 0), "{got:?}");
        assert!(got.latency_us.is_some());
    });
}

#[test]
fn what_was_asserted_decides() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    let directory = std::env::temp_dir().join(format!("loadgen-test-out-{}", broker.port));
    let words = format!(
        "pubsub -c 2 --rate 200 --warmup 0s -d 300ms --assert p50<1us --assert lost==0 --out {}",
        directory.display()
    );
    let summary = broker.run(&words);
    assert!(
        summary.violations[0].starts_with("p50<1us: it is "),
        "{:?}",
        summary.violations
    );
    for file in ["summary.json", "timeline.csv", "latency.hgrm"] {
        assert!(
            fs::metadata(directory.join(file)).unwrap().len() > 50,
            "{file}"
        );
    }
    let json = fs::read_to_string(directory.join("summary.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(parsed["verb"], "pubsub");
    assert_eq!(parsed["latency_us"]["count"], 60);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_broker_that_is_not_there_is_an_error() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    let words = ["loadgen", "pubsub", "--rate", "1", "-Q", "-p", &port];
    let cli = cli::parse(words).unwrap();
    let error = run::verb(&cli.verb).unwrap_err();
    assert!(error.contains("cannot connect"), "{error}");
}

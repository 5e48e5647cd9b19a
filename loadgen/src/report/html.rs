//! The report: a page that needs nothing but itself.

use crate::format::{bytes, count, digits, short, time};
use crate::knee;
use crate::report::charts;
use crate::report::files::Recorded;
use crate::report::svg::{self, Chart, NARROW, WIDE, escaped};
use crate::report::{Percentiles, Summary};
use std::fmt::Write as _;
use std::path::Path;

/// Nothing is loaded from anywhere, and the browser is told so.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// More of the machine in others' hands than this shows in the figures.
const FOREIGN_CORES_MAX: f64 = 0.1;

/// The page of a run, or of several over each other.
pub fn page(runs: &[Recorded]) -> String {
    let (title, body) = match runs {
        [run] => (headline(run), single(run)),
        _ => (format!("{} runs", runs.len()), several(runs)),
    };
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}{} \u{b7} loadgen</title>\n<style>\n{}{}{}</style>\n</head>\n<body>\n<main>\n",
        if runs.iter().all(|run| run.summary.valid) {
            ""
        } else {
            "INVALID: "
        },
        escaped(&title),
        include_str!("colours.css"),
        include_str!("chart.css"),
        include_str!("page.css"),
    );
    out.push_str(&body);
    let _ = write!(
        out,
        "<footer>{FOOTER}</footer>\n</main>\n<script>\n{}</script>\n</body>\n</html>\n",
        include_str!("page.js")
    );
    out
}

const FOOTER: &str = "<p>Latency in an open loop counts from the time a message was <em>due</em>, so a broker that stalls \
    delays all messages that were due meanwhile, and all of them are here. Service time, in a closed loop, leaves \
    those out. Warm-up is in no figure but the count of lost messages. The send lag is the generator\u{2019}s own delay; \
    it is in the latency, and a run in which it matters is marked invalid. Percentiles are exact to three digits.</p>\
    <p>Move the pointer over a chart, or focus it and use the arrow keys, to read values.</p>";

fn single(run: &Recorded) -> String {
    let summary = &run.summary;
    let mut out = invalid(summary);
    let _ = write!(
        out,
        "<header><p class=\"kicker\">loadgen {} \u{b7} {}</p>\n<h1{}>{}</h1>\n<p class=\"deck\">{}</p></header>\n",
        escaped(&summary.verb),
        escaped(&moment(&run.provenance.run.measured_at)),
        if summary.valid {
            ""
        } else {
            " class=\"doubtful\""
        },
        escaped(&headline(run)),
        deck(run)
    );
    if let Some(error) = &summary.error {
        let _ = writeln!(
            out,
            "<div class=\"alarm small\" role=\"alert\"><h2>It ended early.</h2><p>{}</p></div>",
            escaped(error)
        );
    }
    out.push_str(&violations(summary));
    out.push_str(&tiles(run));
    out.push_str(&health(summary));
    let runs = std::slice::from_ref(run);
    let all = [
        charts::knee(run),
        charts::percentiles(runs),
        charts::latency(runs),
        charts::throughput(runs),
        charts::trouble(runs),
    ];
    all.iter()
        .flatten()
        .for_each(|chart| out.push_str(&figure(chart)));
    let cpu = charts::cpu(runs).filter(|_| summary.broker.is_some());
    out.push_str(&pair(&[cpu, charts::memory(runs)]));
    out.push_str(&steps(summary));
    out.push_str(&verification(summary));
    out.push_str(&percentiles(run));
    out.push_str(&what_was_run(run));
    out
}

fn several(runs: &[Recorded]) -> String {
    let mut out = format!(
        "<header><p class=\"kicker\">loadgen report</p>\n<h1>{} runs over each other</h1>\n<p class=\"deck\">{}</p></header>\n",
        runs.len(),
        escaped(&likeness(runs))
    );
    for run in runs.iter().filter(|run| !run.summary.valid) {
        let _ = writeln!(
            out,
            "<div class=\"alarm\" role=\"alert\"><p class=\"big\">INVALID</p><h2>{}</h2>{}</div>",
            escaped(&run.name),
            list(&run.summary.invalid_because)
        );
    }
    out.push_str(&overview(runs));
    let all = [
        charts::percentiles(runs),
        charts::latency(runs),
        charts::throughput(runs),
    ];
    all.iter()
        .flatten()
        .for_each(|chart| out.push_str(&figure(chart)));
    out.push_str(&pair(&[charts::cpu(runs), charts::memory(runs)]));
    let _ = writeln!(
        out,
        "<section><h2>What was run, and on what</h2>{}</section>",
        runs.iter().map(command_line).collect::<String>()
    );
    out
}

fn figure(chart: &Chart) -> String {
    format!(
        "<figure id=\"{}\"><figcaption><h2>{}</h2><p>{}</p></figcaption>\n\
         <div class=\"draw-wide\">{}</div>\n<div class=\"draw-narrow\">{}</div>\n\
         <div class=\"tip\" role=\"status\"></div><script type=\"application/json\">{}</script></figure>\n",
        chart.id,
        escaped(&chart.title),
        escaped(&chart.subtitle),
        svg::draw(chart, WIDE),
        svg::draw(chart, NARROW),
        svg::hover(chart)
    )
}

fn pair(charts: &[Option<Chart>]) -> String {
    let figures: String = charts.iter().flatten().map(figure).collect();
    match charts.iter().flatten().count() {
        0 => String::new(),
        1 => figures,
        _ => format!("<div class=\"pair\">{figures}</div>\n"),
    }
}

fn list(items: &[String]) -> String {
    let items = items
        .iter()
        .map(|item| format!("<li>{}</li>", escaped(item)));
    format!("<ul>{}</ul>", items.collect::<String>())
}

fn invalid(summary: &Summary) -> String {
    if summary.valid {
        return String::new();
    }
    format!(
        "<div class=\"alarm\" role=\"alert\"><p class=\"big\">INVALID</p>\
         <h2>These figures are the generator\u{2019}s, not the broker\u{2019}s.</h2>{}</div>\n",
        list(&summary.invalid_because)
    )
}

fn violations(summary: &Summary) -> String {
    if summary.violations.is_empty() {
        return String::new();
    }
    format!(
        "<div class=\"alarm small\" role=\"alert\"><h2>It did not hold what was asked.</h2>{}</div>\n",
        list(&summary.violations)
    )
}

/// What the run shows, in one sentence.
fn headline(run: &Recorded) -> String {
    let summary = &run.summary;
    if let Some(step) = summary
        .steps
        .iter()
        .find(|step| step.name == "drain" || step.name == "replay")
    {
        let what = if step.name == "drain" {
            "queued"
        } else {
            "retained"
        };
        return format!(
            "{} {what} messages came at {} a second",
            count(step.count as f64),
            count(step.per_s)
        );
    }
    let of = count(summary.expected as f64);
    match (&summary.verb[..], &summary.latency_us) {
        _ if !summary.knee.is_empty() => match knee::best(&summary.knee) {
            Some(best) => format!("It holds up to {} messages a second", count(best.rate)),
            None => "It holds at no rate that was tried".into(),
        },
        _ if summary.lost > 0 && summary.qos > 0 => {
            format!("{} of {of} messages never came", count(summary.lost as f64))
        }
        _ if summary.corrupt > 0 => {
            format!(
                "{} of {of} messages came damaged",
                count(summary.corrupt as f64)
            )
        }
        ("conn", _) => format!(
            "{} clients connected, {} a second",
            count(summary.connections as f64),
            count(summary.connects_per_s)
        ),
        ("churn", _) => format!(
            "{} clients a second came and went",
            count(summary.connects_per_s)
        ),
        (_, Some(latency)) if summary.load == "open" => format!(
            "99 % of the messages came within {}, the slowest in {}",
            time(latency.p99),
            time(latency.max)
        ),
        _ if summary.delivered_per_s > 0.0 => {
            format!(
                "{} messages delivered a second",
                count(summary.delivered_per_s)
            )
        }
        _ => format!(
            "{} messages published a second",
            count(summary.published_per_s)
        ),
    }
}

/// How the run was made, in a few sentences.
fn deck(run: &Recorded) -> String {
    let summary = &run.summary;
    let broker = &run.provenance.broker;
    let program = || Path::new(broker.command.first()?).file_name()?.to_str();
    let name = match &*broker.name {
        "" => program().unwrap_or("a broker that does not tell its name"),
        name => name,
    };
    let place = if broker.same_host {
        "on the same machine as the generator"
    } else {
        "over the network"
    };
    let mut parts = vec![format!("{} connections", count(summary.connections as f64))];
    if summary.publishers > 0 {
        parts.push(format!(
            "{} of them publish",
            count(summary.publishers as f64)
        ));
    }
    match (summary.rate, summary.window) {
        (Some(rate), _) if summary.verb == "churn" => {
            parts.push(format!("open loop of {} cycles a second", count(rate)));
        }
        (Some(rate), _) => parts.push(format!("open loop of {} messages a second", count(rate))),
        (None, Some(window)) => parts.push(format!("closed loop with a window of {window}")),
        (None, None) => {}
    }
    if summary.publishers > 0 || summary.expected > 0 {
        parts.push(format!("QoS {}", summary.qos));
        parts.push(format!("{} B", summary.payload_bytes));
    }
    parts.push(format!("MQTT {}", mqtt_version(summary)));
    if let Some(note) = &summary.note {
        parts.push(note.clone());
    }
    if summary.measured_s > 0.0 {
        parts.push(format!("{} s measured", short(summary.measured_s)));
    }
    format!(
        "<b>{}</b>, at {}, {place}. {}.",
        escaped(name),
        escaped(&summary.broker_address),
        escaped(&parts.join(", "))
    )
}

fn mqtt_version(summary: &Summary) -> &'static str {
    match summary.mqtt_version {
        3 => "3.1",
        4 => "3.1.1",
        _ => "5.0",
    }
}

/// `2026-11-21T06:11:09Z` as `2026-11-21 06:11:09 UTC`.
fn moment(utc: &str) -> String {
    utc.replace('T', " ").replace('Z', " UTC")
}

struct Tile {
    label: String,
    value: String,
    unit: String,
    note: String,
    bad: bool,
}

fn tile(label: &str, value_and_unit: &str, note: String) -> Tile {
    let (value, unit) = value_and_unit
        .split_once(' ')
        .unwrap_or((value_and_unit, ""));
    Tile {
        label: label.into(),
        value: value.into(),
        unit: unit.into(),
        note,
        bad: false,
    }
}

fn tiles(run: &Recorded) -> String {
    let summary = &run.summary;
    let mut tiles = Vec::new();
    if summary.verb == "conn" {
        let rate = format!("{} /s", count(summary.connects_per_s));
        tiles.push(tile("connects", &rate, String::new()));
    }
    for step in &summary.steps {
        let note = format!(
            "{} in {}",
            count(step.count as f64),
            time(step.seconds * 1e6)
        );
        let rate = format!("{} /s", count(step.per_s));
        tiles.push(tile(&step.name, &rate, note));
    }
    let rates = summary.steps.is_empty() && summary.verb != "conn";
    if rates && (summary.delivered_per_s > 0.0 || summary.expected > 0) {
        let note = match summary.rate {
            Some(rate) => format!(
                "{} published, {} asked",
                count(summary.published_per_s),
                count(rate)
            ),
            None => format!("{} published", count(summary.published_per_s)),
        };
        let rate = format!("{} /s", count(summary.delivered_per_s));
        tiles.push(tile("delivered", &rate, note));
    } else if rates {
        let rate = format!("{} /s", count(summary.published_per_s));
        tiles.push(tile("published", &rate, String::new()));
    }
    let connect = if summary.verb == "conn" {
        summary.connect_us.as_ref()
    } else {
        None
    };
    if let Some(times) = summary.latency_us.as_ref().or(connect) {
        let kind = match connect {
            Some(_) if summary.latency_us.is_none() => "to CONNACK",
            _ => charts::kind(run),
        };
        tiles.push(tile("50 % within", &time(times.p50), kind.into()));
        tiles.push(tile("99 % within", &time(times.p99), kind.into()));
        if times.count >= 1_000 {
            tiles.push(tile("99.9 % within", &time(times.p99_9), kind.into()));
        }
        let of = format!("of {}", count(times.count as f64));
        tiles.push(tile("slowest", &time(times.max), of));
    }
    if summary.expected > 0 {
        let of = format!("of {}", count(summary.expected as f64));
        let mut lost = tile("lost", &count(summary.lost as f64), of);
        lost.bad = summary.lost > 0;
        tiles.push(lost);
    }
    if let Some(broker) = &summary.broker {
        if let Some(ns) = broker.cpu_ns_per_message {
            tiles.push(tile(
                "broker CPU",
                &time(ns / 1e3),
                "per delivered message".into(),
            ));
        }
        if let Some(ns) = broker.cpu_ns_per_connect {
            tiles.push(tile("broker CPU", &time(ns / 1e3), "per connection".into()));
        }
        if let Some(each) = broker.rss_bytes_per_connection {
            tiles.push(tile("broker memory", &bytes(each), "per connection".into()));
        }
    }
    let tiles = tiles.iter().map(|tile| {
        format!(
            "<div class=\"tile{}\"><dt>{}</dt><dd><span class=\"value\">{} <span class=\"unit\">{}</span></span>\
             <div class=\"note\">{}</div></dd></div>",
            if tile.bad { " bad" } else { "" },
            escaped(&tile.label),
            escaped(&tile.value),
            escaped(&tile.unit),
            escaped(&tile.note)
        )
    });
    format!("<dl class=\"tiles\">{}</dl>\n", tiles.collect::<String>())
}

/// How the generator did, in a line.
fn health(summary: &Summary) -> String {
    let generator = &summary.generator;
    let verdict = if summary.valid {
        "<span class=\"good-text\">Valid run.</span>"
    } else {
        "<span class=\"bad-text\">Invalid run.</span>"
    };
    let foreign = digits(generator.foreign_cores_busy);
    let others = if generator.foreign_cores_busy > FOREIGN_CORES_MAX {
        format!(
            "<span class=\"bad-text\">Other processes took {foreign} cores meanwhile: \
             run it again on a quiet machine.</span>"
        )
    } else {
        format!("Other processes took {foreign} cores.")
    };
    let lag = generator.send_lag_us.as_ref().map_or(String::new(), |lag| {
        format!(
            ", its send lag at most {} for 99 % of the messages ({} at worst)",
            time(lag.p99),
            time(lag.max)
        )
    });
    format!(
        "<p class=\"health\">{verdict} The generator was {:.0} % busy on {} core{}{lag}. {others}</p>\n",
        100.0 * generator.cores_busy / generator.cores.max(1) as f64,
        generator.cores,
        if generator.cores == 1 { "" } else { "s" },
    )
}

fn steps(summary: &Summary) -> String {
    if summary.steps.is_empty() {
        return String::new();
    }
    let rows = summary.steps.iter().map(|step| {
        let each = |value: Option<f64>, show: fn(f64) -> String| {
            value.map_or_else(|| "\u{2013}".into(), show)
        };
        row(
            &step.name,
            &[
                count(step.count as f64),
                time(step.seconds * 1e6),
                count(step.per_s),
                each(step.cpu_ns_each, |ns| time(ns / 1e3)),
                each(step.rss_bytes_each, bytes),
                each(step.latency_us.as_ref().map(|all| all.p50), time),
                each(step.latency_us.as_ref().map(|all| all.p99), time),
            ],
        )
    });
    table(
        "Step by step",
        "",
        &[
            "step",
            "times",
            "took",
            "per second",
            "broker CPU each",
            "broker memory each",
            "latency p50",
            "latency p99",
        ],
        &rows.collect::<String>(),
    )
}

fn row(name: &str, cells: &[String]) -> String {
    let cells = cells
        .iter()
        .map(|cell| format!("<td class=\"number\">{}</td>", escaped(cell)));
    format!(
        "<tr><th scope=\"row\">{}</th>{}</tr>",
        escaped(name),
        cells.collect::<String>()
    )
}

fn table(title: &str, lead: &str, heads: &[&str], rows: &str) -> String {
    let heads = heads.iter().enumerate().map(|(at, head)| {
        let class = if at == 0 { "" } else { " class=\"number\"" };
        format!("<th scope=\"col\"{class}>{head}</th>")
    });
    format!(
        "<section><h2>{title}</h2>{lead}<div class=\"scroll\"><table><thead><tr>{}</tr></thead>\
         <tbody>{rows}</tbody></table></div></section>\n",
        heads.collect::<String>()
    )
}

/// What MQTT says to a count that is not 0.
enum Promise {
    Promised,
    NotPromised(&'static str),
}

fn verification(summary: &Summary) -> String {
    if summary.expected == 0 && summary.publishers == 0 {
        return String::new();
    }
    let delivery = match summary.qos {
        0 => Promise::NotPromised("QoS 0 promises no delivery"),
        _ => Promise::Promised,
    };
    let order = match summary.order_promised {
        true => Promise::Promised,
        false => Promise::NotPromised("MQTT promises no order here"),
    };
    let mut checks = vec![
        ("lost", summary.lost, delivery),
        ("came twice", summary.duplicates, Promise::Promised),
        ("came after a later one", summary.reordered, order),
        ("damaged", summary.corrupt, Promise::Promised),
    ];
    if summary.qos > 0 {
        checks.push((
            "not acknowledged",
            summary.unacknowledged,
            Promise::Promised,
        ));
        checks.push(("refused", summary.refused, Promise::Promised));
    }
    let disconnects = summary.disconnects.values().sum();
    for (name, number) in [
        ("connections lost", disconnects),
        ("due, and the broker took them not", summary.unsent),
        ("sessions gone", summary.sessions_missing),
        ("windows stalled for 2 s", summary.window_stalls),
    ] {
        if number > 0 {
            checks.push((name, number, Promise::Promised));
        }
    }
    let broken = checks
        .iter()
        .any(|(_, number, promise)| *number > 0 && matches!(promise, Promise::Promised));
    let rows = checks.iter().map(|(name, number, promise)| {
        let (class, verdict) = match (number, promise) {
            (0, _) => ("good-text", "\u{2713} none"),
            (_, Promise::Promised) => ("bad-text", "\u{2717} breaks what MQTT promises"),
            (_, Promise::NotPromised(why)) => ("", *why),
        };
        format!(
            "<tr><th scope=\"row\">{name}</th><td class=\"number\">{}</td><td class=\"{class}\">{verdict}</td></tr>",
            count(*number as f64)
        )
    });
    let title = match (broken, summary.lost) {
        (true, _) => "Not every message arrived as it should",
        (false, 0) => "Every message arrived as it should",
        (false, _) => "Messages were lost, as QoS 0 allows",
    };
    let late = if summary.held_back > 0 {
        format!(
            " {} messages were written late because the broker took no more.",
            count(summary.held_back as f64)
        )
    } else {
        String::new()
    };
    let slow = summary.lost_by_slow.map_or(String::new(), |lost| {
        format!(
            " Subscribers that did not read lost {}, not counted here.",
            count(lost as f64)
        )
    });
    let reasons: String = summary
        .disconnects
        .iter()
        .map(|(why, number)| {
            let number = count(*number as f64);
            format!(
                "<p class=\"lead\">{number} connections lost: {}</p>",
                escaped(why)
            )
        })
        .collect();
    format!(
        "<section id=\"verification\"><h2>{title}</h2><p class=\"lead\">QoS {}: {} deliveries were due in the whole run, \
         and each was checked for its publisher, its number and its bytes.{late}{slow}</p>\
         <table><thead><tr><th scope=\"col\">messages</th><th scope=\"col\" class=\"number\">count</th>\
         <th scope=\"col\"></th></tr></thead><tbody>{}</tbody></table>{reasons}</section>\n",
        summary.qos,
        count(summary.expected as f64),
        rows.collect::<String>()
    )
}

fn percentiles(run: &Recorded) -> String {
    let (summary, kind) = (&run.summary, charts::kind(run));
    let lag = &summary.generator.send_lag_us;
    let sets: [(&str, &Option<Percentiles>); 6] = [
        (kind, &summary.latency_us),
        ("to the last acknowledgement", &summary.acknowledged_us),
        ("to CONNACK", &summary.connect_us),
        ("of that, to the connection", &summary.tcp_connect_us),
        ("and from there", &summary.connack_us),
        ("send lag", lag),
    ];
    let rows: String = sets
        .iter()
        .filter_map(|(name, all)| Some((name, all.as_ref()?)))
        .map(|(name, all)| {
            // Of a hundred values the 99.9th percentile is the slowest, and no percentile.
            let of = |us: f64, samples_min: u64| match all.count >= samples_min {
                true => time(us),
                false => "\u{2013}".into(),
            };
            let cells = [
                time(all.min),
                time(all.p50),
                of(all.p90, 10),
                of(all.p99, 100),
                of(all.p99_9, 1_000),
                of(all.p99_99, 10_000),
                time(all.max),
                time(all.mean),
                count(all.count as f64),
            ];
            row(name, &cells)
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = [
        "", "fastest", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "slowest", "mean", "count",
    ];
    table("All times", "", &heads, &rows)
}

fn overview(runs: &[Recorded]) -> String {
    let rows = runs.iter().enumerate().map(|(at, run)| {
        let summary = &run.summary;
        let times = |of: fn(&Percentiles) -> f64| {
            let all = summary.latency_us.as_ref();
            all.map_or_else(|| "\u{2013}".into(), |all| time(of(all)))
        };
        let broker = summary.broker.as_ref().and_then(|broker| broker.cpu_ns_per_message);
        let valid = if summary.valid {
            ""
        } else {
            " <span class=\"bad-text\">INVALID</span>"
        };
        let name = match &run.provenance.broker.name[..] {
            "" => &summary.broker_address,
            name => name,
        };
        let cells = [
            count(summary.delivered_per_s),
            times(|all| all.p50),
            times(|all| all.p99),
            times(|all| all.max),
            count(summary.lost as f64),
            broker.map_or_else(|| "\u{2013}".into(), |ns| time(ns / 1e3)),
        ];
        let cells = cells.iter().map(|cell| format!("<td class=\"number\">{}</td>", escaped(cell)));
        format!(
            "<tr><th scope=\"row\"><span class=\"swatch\" style=\"background:var(--c-{})\"></span>{}{valid}</th>\
             <td>{}</td>{}</tr>",
            at % 6,
            escaped(&run.name),
            escaped(name),
            cells.collect::<String>()
        )
    });
    format!(
        "<section><div class=\"scroll\"><table><thead><tr><th scope=\"col\">run</th><th scope=\"col\">broker</th>\
         <th scope=\"col\" class=\"number\">delivered /s</th><th scope=\"col\" class=\"number\">50 %</th>\
         <th scope=\"col\" class=\"number\">99 %</th><th scope=\"col\" class=\"number\">slowest</th>\
         <th scope=\"col\" class=\"number\">lost</th><th scope=\"col\" class=\"number\">broker CPU per message</th>\
         </tr></thead><tbody>{}</tbody></table></div></section>\n",
        rows.collect::<String>()
    )
}

/// Whether the runs can be compared, in words.
fn likeness(runs: &[Recorded]) -> String {
    let Some((first, rest)) = runs.split_first() else {
        return String::new();
    };
    let mut differences: Vec<String> = rest
        .iter()
        .flat_map(|run| super::compare::differences(first, run))
        .map(|difference| difference.name)
        .collect();
    differences.sort();
    differences.dedup();
    if differences.is_empty() {
        "The same load on the same kind of machine.".into()
    } else {
        format!(
            "Not the same load: they differ in {}.",
            differences.join(", ")
        )
    }
}

fn command_line(run: &Recorded) -> String {
    format!(
        "<h3>{}</h3><p class=\"lead\">{}; {}, {} CPUs, Linux {}; {}</p><pre>{}</pre>",
        escaped(&run.name),
        escaped(&moment(&run.provenance.run.measured_at)),
        escaped(&run.provenance.host.cpu_model),
        run.provenance.host.cpus,
        escaped(&run.provenance.host.kernel),
        escaped(&run.provenance.broker.name),
        escaped(&shell(&run.provenance.run.command))
    )
}

fn what_was_run(run: &Recorded) -> String {
    let (provenance, host) = (&run.provenance, &run.provenance.host);
    let broker = &provenance.broker;
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let facts = |rows: &[(&str, String)]| -> String {
        let rows = rows.iter().filter(|(_, value)| !value.is_empty());
        let rows = rows.map(|(name, value)| {
            format!(
                "<tr><th scope=\"row\">{name}</th><td>{}</td></tr>",
                escaped(value)
            )
        });
        format!("<table><tbody>{}</tbody></table>", rows.collect::<String>())
    };
    let machine = facts(&[
        ("host", host.name.clone()),
        (
            "CPU",
            format!(
                "{}, {} CPUs, {} for the generator",
                host.cpu_model, host.cpus, host.cpus_usable
            ),
        ),
        ("governor", host.cpu_governor.clone()),
        ("memory", bytes(host.memory_bytes as f64)),
        ("virtual", yes(host.is_virtual)),
        ("kernel", host.kernel.clone()),
        ("system", host.os.clone()),
    ]);
    let both = facts(&[
        ("broker", broker.name.clone()),
        ("address", broker.address.clone()),
        ("same machine", yes(broker.same_host)),
        ("started as", shell(&broker.command)),
        (
            "loadgen",
            format!(
                "{}{}",
                provenance.run.loadgen,
                if provenance.run.optimised {
                    ""
                } else {
                    ", built without optimisation"
                }
            ),
        ),
        ("measured from", moment(&provenance.run.measured_at)),
    ]);
    let settings: String = provenance
        .settings
        .iter()
        .map(|(name, values)| {
            format!(
                "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
                escaped(name),
                escaped(&values.join(" "))
            )
        })
        .collect();
    let settings = if settings.is_empty() {
        String::new()
    } else {
        format!(
            "<details><summary>All settings in effect</summary><table><tbody>{settings}</tbody></table></details>"
        )
    };
    format!(
        "<section><h2>What was run, and on what</h2><pre>{}</pre>\
         <div class=\"facts\">{both}{machine}</div>{settings}</section>\n",
        escaped(&shell(&provenance.run.command))
    )
}

/// Words as a shell would take them.
fn shell(words: &[String]) -> String {
    let quoted = |word: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+*".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

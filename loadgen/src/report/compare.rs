//! Two runs compared, as honestly as two runs allow.
//!
//! What a run measured second by second is drawn again and again with replacement (a bootstrap); where 95 % of the
//! changes so found lie on one side of zero, the runs differ by more than their own unsteadiness.

use crate::format::{bytes, count, time};
use crate::report::Summary;
use crate::report::files::Recorded;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

/// Seconds are put together in so many blocks at most, so that neighbours, which are alike, stay together.
const BLOCKS_MAX: usize = 60;
/// Fewer blocks say nothing about steadiness.
const BLOCKS_MIN: usize = 5;
/// How many times is drawn.
const DRAWS: usize = 1_000;
/// A 99.9th percentile of fewer values is that of a handful.
const P99_9_SAMPLES_MIN: u64 = 10_000;

/// Settings in which runs that are compared may differ: where the broker is, what is reported, how long it is
/// measured; and those that the summary has.
const NEUTRAL_SETTINGS: &[&str] = &[
    "assert",
    "broker-name",
    "broker-pid",
    "cafile",
    "capath",
    "cert",
    "closed-loop",
    "duration",
    "find-max",
    "force",
    "hold",
    "host",
    "ifaddr",
    "inflight",
    "insecure",
    "json",
    "key",
    "lowmem",
    "mqtt-version",
    "out",
    "password",
    "plain",
    "port",
    "prefix",
    "prometheus",
    "qos",
    "quiet",
    "rate",
    "size",
    "unix",
    "url",
    "username",
    "verify",
    "warmup",
];

/// Something in which two runs are not alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it is.
    pub name: String,
    /// In the run that is compared with.
    pub base: String,
    /// In the run in question.
    pub new: String,
}

/// What is to be said of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Better, by more than the runs are unsteady.
    Better,
    /// No more than the runs are unsteady, which is little enough to see a change as large as the threshold.
    WithinNoise,
    /// No more than the runs are unsteady, which is so much that a change as large as the threshold could hide.
    TooNoisy,
    /// Worse, and by no more than the threshold.
    SlightlyWorse,
    /// Worse by more than the threshold.
    Regression,
    /// Shown, not judged.
    NotJudged,
}

/// A figure of both runs.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Of the run that is compared with.
    pub base: f64,
    /// Of the run in question.
    pub new: f64,
    /// The change in percent; `None` where there was nothing to begin with.
    pub change_percent: Option<f64>,
    /// Where 95 % of the changes lie that the seconds of both runs allow, in percent; `None` where there are too few.
    pub interval_percent: Option<(f64, f64)>,
    /// What is to be said of it.
    pub verdict: Verdict,
    /// How the figure is shown.
    #[serde(skip)]
    show: fn(f64) -> String,
}

/// Two runs.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The run that is compared with.
    pub base: String,
    /// The run in question.
    pub new: String,
    /// Why one of them says nothing about a broker.
    pub invalid: Vec<String>,
    /// In what they are not alike.
    pub differences: Vec<Difference>,
    /// From how many percent on it is a regression.
    pub threshold_percent: f64,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// In what two runs are not alike, apart from the broker.
pub fn differences(base: &Recorded, new: &Recorded) -> Vec<Difference> {
    let number = |value: Option<f64>| value.map_or_else(|| "none".into(), count);
    type Of<'a> = (&'a str, fn(&Summary) -> String);
    let of_summary: [Of<'_>; 7] = [
        ("verb", |one| one.verb.clone()),
        ("load", |one| one.load.clone()),
        ("MQTT version", |one| one.mqtt_version.to_string()),
        ("QoS", |one| one.qos.to_string()),
        ("payload bytes", |one| one.payload_bytes.to_string()),
        ("publishers", |one| one.publishers.to_string()),
        ("window", |one| {
            one.window
                .map_or_else(|| "none".into(), |one| one.to_string())
        }),
    ];
    let mut found = Vec::new();
    let mut check = |name: &str, base: String, new: String| {
        if base != new {
            found.push(Difference {
                name: name.into(),
                base,
                new,
            });
        }
    };
    for (name, of) in of_summary {
        check(name, of(&base.summary), of(&new.summary));
    }
    check("rate", number(base.summary.rate), number(new.summary.rate));
    if base.summary.verb != "churn" {
        let connections = |run: &Recorded| run.summary.connections.to_string();
        check("connections", connections(base), connections(new));
    }
    let host = |run: &Recorded| {
        let host = &run.provenance.host;
        let (all, usable) = (host.cpus, host.cpus_usable);
        format!("{}, {all} CPUs, {usable} for the generator", host.cpu_model)
    };
    check("machine", host(base), host(new));
    let place = |run: &Recorded| match run.provenance.broker.same_host {
        true => "on the generator\u{2019}s machine".to_owned(),
        false => "elsewhere".to_owned(),
    };
    check("broker\u{2019}s place", place(base), place(new));
    let built = |run: &Recorded| match run.provenance.run.optimised {
        true => "optimised".to_owned(),
        false => "not optimised".to_owned(),
    };
    check("build of loadgen", built(base), built(new));
    if base.summary.verb != new.summary.verb {
        // What else their flags are does not matter then.
        return found;
    }
    let settings = [&base.provenance.settings, &new.provenance.settings];
    let names: BTreeSet<&String> = settings.iter().flat_map(|one| one.keys()).collect();
    for name in names {
        if !NEUTRAL_SETTINGS.contains(&&name[..]) && name != "verb" {
            let value = |at: usize| {
                settings[at]
                    .get(name)
                    .map_or_else(|| "none".into(), |one| one.join(" "))
            };
            check(&format!("--{name}"), value(0), value(1));
        }
    }
    found
}

/// Compares two runs.
pub fn compare(base: &Recorded, new: &Recorded, threshold_percent: f64) -> Comparison {
    let invalid = [base, new].into_iter().flat_map(|run| {
        let because = run.summary.invalid_because.iter();
        let early = run.summary.error.iter();
        because
            .chain(early)
            .map(|why| format!("{}: {why}", run.name))
    });
    let mut judge = Judge {
        threshold: threshold_percent,
        blocks: [blocks(base), blocks(new)],
        random: 0x9E37_79B9_7F4A_7C15,
        figures: Vec::new(),
    };
    judge.all(&base.summary, &new.summary);
    Comparison {
        base: base.name.clone(),
        new: new.name.clone(),
        invalid: invalid.collect(),
        differences: differences(base, new),
        threshold_percent,
        figures: judge.figures,
    }
}

/// Some seconds of a run.
#[derive(Clone, Debug, Default)]
struct Block {
    seconds: f64,
    published: f64,
    delivered: f64,
    broker_core_seconds: f64,
    /// Latencies and how many there were of each, in order.
    latency: Vec<(u64, u64)>,
}

/// The whole seconds of the measured interval in blocks. What arrived after it is in the last one.
fn blocks(run: &Recorded) -> Vec<Block> {
    let rows: Vec<_> = run.seconds.iter().filter(|row| row.is_measured).collect();
    let together = rows.len().div_ceil(BLOCKS_MAX).max(1);
    let groups = rows.len() / together;
    let mut blocks = Vec::with_capacity(groups);
    for group in 0..groups {
        let from = group * together;
        let is_last = group + 1 == groups;
        let rows = &rows[from..if is_last { rows.len() } else { from + together }];
        let sum = |of: fn(&crate::report::files::Row) -> f64| rows.iter().map(|row| of(row)).sum();
        let range: Range<u64> = match (rows.first(), rows.last()) {
            (Some(first), Some(last)) => {
                let end = if is_last { i64::MAX } else { last.second + 1 };
                first.second.max(0).unsigned_abs()..end.unsigned_abs()
            }
            _ => 0..0,
        };
        let lines = run.log.latency.iter();
        let lines = lines.filter(|line| range.contains(&line.second));
        let mut latency = crate::worker::histogram();
        lines.for_each(|line| crate::hlog::add(&mut latency, &line.values));
        let recorded = latency.iter_recorded();
        blocks.push(Block {
            seconds: rows.len() as f64,
            published: sum(|row| row.published),
            delivered: sum(|row| row.delivered),
            broker_core_seconds: sum(|row| row.broker_cores.unwrap_or(0.0)),
            latency: recorded
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .collect(),
        });
    }
    blocks
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Good {
    High,
    Low,
}

struct Judge {
    threshold: f64,
    blocks: [Vec<Block>; 2],
    random: u64,
    figures: Vec<Figure>,
}

impl Judge {
    fn all(&mut self, base: &Summary, new: &Summary) {
        let both = [base, new];
        let rate = |sum: fn(&Block) -> f64| {
            move |drawn: &[&Block]| {
                let seconds: f64 = drawn.iter().map(|block| block.seconds).sum();
                drawn.iter().map(|block| sum(block)).sum::<f64>() / seconds
            }
        };
        if both.iter().any(|one| one.delivered_per_s > 0.0) && base.steps.is_empty() {
            let figures = both.map(|one| one.delivered_per_s);
            self.seconds(
                "delivered /s",
                figures,
                Good::High,
                count,
                rate(|one| one.delivered),
            );
        } else if both.iter().any(|one| one.published_per_s > 0.0) {
            let figures = both.map(|one| one.published_per_s);
            self.seconds(
                "published /s",
                figures,
                Good::High,
                count,
                rate(|one| one.published),
            );
        }
        if base.verb == "churn" {
            let figures = both.map(|one| one.connects_per_s);
            self.seconds(
                "cycles /s",
                figures,
                Good::High,
                count,
                rate(|one| one.delivered),
            );
        }
        self.latencies(base, new);
        self.resources(both);
        for step in &base.steps {
            let Some(other) = new.steps.iter().find(|other| other.name == step.name) else {
                continue;
            };
            if base.verb != "churn" {
                let name = format!("{} /s", step.name);
                self.single(&name, [step.per_s, other.per_s], Good::High, count);
            }
            if let (Some(base), Some(new)) = (step.cpu_ns_each, other.cpu_ns_each) {
                let name = format!("{}, broker CPU each", step.name);
                self.single(&name, [base / 1e3, new / 1e3], Good::Low, time);
            }
        }
        type Counted = (&'static str, fn(&Summary) -> u64);
        let counts: [Counted; 4] = [
            ("lost", |one| one.lost),
            ("duplicated", |one| one.duplicates),
            ("reordered", |one| one.reordered),
            ("corrupt", |one| one.corrupt),
        ];
        for (name, of) in counts {
            let values = both.map(|one| of(one) as f64);
            let is_promised = match name {
                "lost" => base.qos > 0,
                "reordered" => base.order_promised,
                _ => true,
            };
            if values != [0.0, 0.0] {
                self.count(name, values, is_promised);
            }
        }
    }

    fn latencies(&mut self, base: &Summary, new: &Summary) {
        let (Some(a), Some(b)) = (&base.latency_us, &new.latency_us) else {
            return;
        };
        let kind = &base.latency_kind;
        for (percent, quantile, values) in [
            ("50 %", 0.5, [a.p50, b.p50]),
            ("99 %", 0.99, [a.p99, b.p99]),
            ("99.9 %", 0.999, [a.p99_9, b.p99_9]),
        ] {
            if quantile < 0.999 || a.count.min(b.count) >= P99_9_SAMPLES_MIN {
                let of = move |drawn: &[&Block]| at_quantile(drawn, quantile);
                self.seconds(&format!("{kind}, {percent}"), values, Good::Low, time, of);
            }
        }
        // A single value says nothing about the next run.
        self.push(
            &format!("{kind}, slowest"),
            [a.max, b.max],
            None,
            Verdict::NotJudged,
            time,
        );
    }

    fn resources(&mut self, both: [&Summary; 2]) {
        let [base, new] = both;
        if base.verb == "conn" {
            let rates = both.map(|one| one.connects_per_s);
            self.single("connects /s", rates, Good::High, count);
            if let (Some(a), Some(b)) = (&base.connect_us, &new.connect_us) {
                self.single("to CONNACK, 50 %", [a.p50, b.p50], Good::Low, time);
                self.single("to CONNACK, 99 %", [a.p99, b.p99], Good::Low, time);
            }
        }
        let (Some(a), Some(b)) = (&base.broker, &new.broker) else {
            return;
        };
        if let (Some(a), Some(b)) = (a.cpu_ns_per_message, b.cpu_ns_per_message) {
            let of = |drawn: &[&Block]| {
                let sum = |of: fn(&Block) -> f64| drawn.iter().map(|one| of(one)).sum::<f64>();
                sum(|one| one.broker_core_seconds) / sum(|one| one.delivered)
            };
            let values = [a / 1e3, b / 1e3];
            self.seconds("broker CPU per message", values, Good::Low, time, of);
        }
        if let (Some(a), Some(b)) = (a.cpu_ns_per_connect, b.cpu_ns_per_connect) {
            self.single(
                "broker CPU per connection",
                [a / 1e3, b / 1e3],
                Good::Low,
                time,
            );
        }
        if let (Some(a), Some(b)) = (a.rss_bytes_per_connection, b.rss_bytes_per_connection) {
            self.single("broker memory per connection", [a, b], Good::Low, bytes);
        }
    }

    /// A figure that the seconds of both runs can tell.
    fn seconds(
        &mut self,
        name: &str,
        values: [f64; 2],
        good: Good,
        show: fn(f64) -> String,
        of: impl Fn(&[&Block]) -> f64,
    ) {
        let interval = self.interval(of);
        let verdict = self.verdict(values, interval, good);
        self.push(name, values, interval, verdict, show);
    }

    /// A figure of which each run has one.
    fn single(&mut self, name: &str, values: [f64; 2], good: Good, show: fn(f64) -> String) {
        let verdict = self.verdict(values, None, good);
        self.push(name, values, None, verdict, show);
    }

    /// A number of messages that were to be none.
    fn count(&mut self, name: &str, values: [f64; 2], is_promised: bool) {
        let verdict = match (is_promised, values[1] > values[0]) {
            (false, _) => Verdict::NotJudged,
            (true, true) => Verdict::Regression,
            (true, false) if values[1] < values[0] => Verdict::Better,
            (true, false) => Verdict::NotJudged,
        };
        self.push(name, values, None, verdict, count);
    }

    fn push(
        &mut self,
        name: &str,
        [base, new]: [f64; 2],
        interval_percent: Option<(f64, f64)>,
        verdict: Verdict,
        show: fn(f64) -> String,
    ) {
        self.figures.push(Figure {
            name: name.into(),
            base,
            new,
            change_percent: change(base, new),
            interval_percent,
            verdict,
            show,
        });
    }

    fn verdict(&self, [base, new]: [f64; 2], interval: Option<(f64, f64)>, good: Good) -> Verdict {
        let Some(change) = change(base, new) else {
            return Verdict::NotJudged;
        };
        // From here on more is worse.
        let sign = if good == Good::Low { 1.0 } else { -1.0 };
        let worse = sign * change;
        let Some((low, high)) = interval else {
            return match worse {
                worse if worse > self.threshold => Verdict::Regression,
                worse if worse < -self.threshold => Verdict::Better,
                // Nobody knows how steady a single figure is.
                _ => Verdict::WithinNoise,
            };
        };
        let (low, high) = if good == Good::Low {
            (low, high)
        } else {
            (-high, -low)
        };
        if low <= 0.0 && high >= 0.0 {
            if high > self.threshold {
                Verdict::TooNoisy
            } else {
                Verdict::WithinNoise
            }
        } else if high < 0.0 {
            Verdict::Better
        } else if worse > self.threshold {
            Verdict::Regression
        } else {
            Verdict::SlightlyWorse
        }
    }

    /// Where 95 % of the changes lie, in percent.
    fn interval(&mut self, of: impl Fn(&[&Block]) -> f64) -> Option<(f64, f64)> {
        let [base, new] = &self.blocks;
        if base.len().min(new.len()) < BLOCKS_MIN {
            return None;
        }
        let mut random = self.random;
        let mut draw = |blocks: &[Block]| {
            let drawn: Vec<&Block> = (0..blocks.len())
                .map(|_| &blocks[(next(&mut random) % blocks.len() as u64) as usize])
                .collect();
            of(&drawn)
        };
        let mut changes: Vec<f64> = (0..DRAWS)
            .filter_map(|_| change(draw(base), draw(new)))
            .filter(|change| change.is_finite())
            .collect();
        self.random = random;
        if changes.len() < DRAWS {
            return None;
        }
        changes.sort_by(f64::total_cmp);
        Some((changes[DRAWS / 40], changes[DRAWS - 1 - DRAWS / 40]))
    }
}

/// The change in percent.
fn change(base: f64, new: f64) -> Option<f64> {
    (base > 0.0).then(|| 100.0 * (new - base) / base)
}

/// The next number of a row that is the same for each comparison (SplitMix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A quantile of the latencies of blocks together, in ns.
fn at_quantile(blocks: &[&Block], quantile: f64) -> f64 {
    let mut counts: Vec<(u64, u64)> = blocks.iter().flat_map(|one| one.latency.clone()).collect();
    counts.sort_unstable_by_key(|(value, _)| *value);
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let wanted = (total as f64 * quantile).ceil() as u64;
    let mut seen = 0;
    for (value, count) in counts {
        seen += count;
        if seen >= wanted {
            return value as f64;
        }
    }
    0.0
}

impl Comparison {
    /// Why the runs should not be compared; empty when they may.
    pub fn objections(&self) -> Vec<String> {
        let differences = self
            .differences
            .iter()
            .map(|one| format!("{} differs: {} and {}", one.name, one.base, one.new));
        let invalid = self.invalid.iter().map(|why| format!("INVALID: {why}"));
        invalid.chain(differences).collect()
    }

    /// Whether a figure is worse by more than the threshold.
    pub fn has_regression(&self) -> bool {
        let mut figures = self.figures.iter();
        figures.any(|figure| figure.verdict == Verdict::Regression)
    }

    /// The comparison for people.
    pub fn text(&self) -> String {
        let mut out = format!("A  {}\nB  {}\n\n", self.base, self.new);
        let threshold = self.threshold_percent;
        let rows: Vec<[String; 6]> = self
            .figures
            .iter()
            .map(|figure| {
                let interval = figure.interval_percent.map_or_else(
                    || "-".into(),
                    |(low, high)| format!("{} to {}", percent(low), percent(high)),
                );
                let verdict = match figure.verdict {
                    Verdict::Better => "better".into(),
                    Verdict::WithinNoise if figure.interval_percent.is_none() => {
                        format!("within {threshold} % (one figure for each run)")
                    }
                    Verdict::WithinNoise => "within noise".into(),
                    Verdict::TooNoisy => {
                        format!("within noise, which could hide {threshold} %")
                    }
                    Verdict::SlightlyWorse => format!("worse, by less than {threshold} %"),
                    Verdict::Regression => "REGRESSION".into(),
                    Verdict::NotJudged => "not judged".into(),
                };
                [
                    figure.name.clone(),
                    (figure.show)(figure.base),
                    (figure.show)(figure.new),
                    figure.change_percent.map_or_else(|| "-".into(), percent),
                    interval,
                    verdict,
                ]
            })
            .collect();
        let heads = ["", "A", "B", "change", "95 % of changes", ""].map(String::from);
        let all = || [&heads].into_iter().chain(&rows);
        let width = |column: usize| {
            all()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        for row in all() {
            let mut line = format!("{:<w$}", row[0], w = widths[0]);
            for column in 1..5 {
                let _ = write!(line, "  {:>w$}", row[column], w = widths[column]);
            }
            let _ = writeln!(out, "{line}  {}", row[5]);
        }
        out.push_str(
            "\nThe intervals tell how steady each run was within itself. Two runs of the same broker differ by more:\n\
             run both several times before you believe a small change.\n",
        );
        for objection in self.objections() {
            let _ = writeln!(out, "compared all the same: {objection}");
        }
        out
    }
}

fn percent(value: f64) -> String {
    if value.abs() < 0.05 {
        "0.0 %".into()
    } else {
        format!("{value:+.1} %").replace('-', "\u{2212}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlog::Line;
    use crate::report::Percentiles;
    use crate::report::files::Row;
    use crate::worker::histogram;

    /// A run of 20 s; `us` tells the latency of a message of a second by its number.
    fn run(name: &str, delivered: f64, us: impl Fn(u64, u64) -> u64) -> Recorded {
        let mut run = Recorded {
            name: name.into(),
            ..Recorded::default()
        };
        let mut all = histogram();
        for second in 0..20 {
            let mut values = histogram();
            for message in 0..1_000 {
                values.record(us(second, message) * 1_000).unwrap();
            }
            all.add(&values).unwrap();
            run.log.latency.push(Line { second, values });
            run.seconds.push(Row {
                second: second.cast_signed(),
                is_measured: true,
                delivered: delivered + (second % 3) as f64,
                ..Row::default()
            });
        }
        run.summary = Summary {
            verb: "pubsub".into(),
            delivered_per_s: delivered + 0.95,
            latency_kind: "response time".into(),
            latency_us: Percentiles::of(&all),
            valid: true,
            ..Summary::default()
        };
        run
    }

    fn verdict(comparison: &Comparison, name: &str) -> Verdict {
        let mut figures = comparison.figures.iter();
        let figure = figures.find(|figure| figure.name.contains(name));
        figure
            .unwrap_or_else(|| panic!("{name}: {comparison:?}"))
            .verdict
    }

    #[test]
    fn a_steady_change_is_told_from_noise() {
        let steady = |base: u64| move |second: u64, message: u64| base + second % 5 + message / 20;
        let base = run("a", 1_000.0, steady(500));
        let same = compare(&base, &run("b", 1_000.0, steady(500)), 5.0);
        assert_eq!(verdict(&same, "50 %"), Verdict::WithinNoise);
        assert_eq!(verdict(&same, "delivered"), Verdict::WithinNoise);
        assert!(!same.has_regression() && same.objections().is_empty());
        assert!(same.text().contains("within noise"), "{}", same.text());

        let slower = compare(&base, &run("b", 900.0, steady(600)), 5.0);
        assert_eq!(verdict(&slower, "50 %"), Verdict::Regression);
        assert_eq!(verdict(&slower, "99 %"), Verdict::Regression);
        assert_eq!(verdict(&slower, "delivered"), Verdict::Regression);
        assert_eq!(verdict(&slower, "slowest"), Verdict::NotJudged);
        assert!(slower.has_regression() && slower.text().contains("REGRESSION"));
        let figure = &slower.figures[0];
        let (low, high) = figure.interval_percent.unwrap();
        let change = figure.change_percent.unwrap();
        assert!(low <= change && change <= high, "{figure:?}");

        let little = compare(&base, &run("b", 1_000.0, steady(510)), 5.0);
        assert_eq!(verdict(&little, "50 %"), Verdict::SlightlyWorse);
        assert!(!little.has_regression());
        let faster = compare(&base, &run("b", 1_100.0, steady(400)), 5.0);
        assert_eq!(verdict(&faster, "50 %"), Verdict::Better);
        assert_eq!(verdict(&faster, "delivered"), Verdict::Better);
    }

    #[test]
    fn noise_that_hides_a_regression_is_said_to() {
        let unsteady = |second: u64, message: u64| {
            500 + message / 20 + if second.is_multiple_of(4) { 4_000 } else { 0 }
        };
        let base = run("a", 1_000.0, unsteady);
        let other = run("b", 1_000.0, move |second, message| {
            unsteady(second + 1, message)
        });
        let comparison = compare(&base, &other, 5.0);
        assert_eq!(verdict(&comparison, "99.9 %"), Verdict::WithinNoise);
        let other = run("b", 1_000.0, |second, message| {
            500 + message / 20 + if second.is_multiple_of(3) { 4_400 } else { 0 }
        });
        let comparison = compare(&base, &other, 5.0);
        assert_eq!(verdict(&comparison, "99.9 %"), Verdict::Regression);
        let mut few = base.clone();
        few.seconds.truncate(3);
        let comparison = compare(&few, &base, 5.0);
        assert_eq!(comparison.figures[0].interval_percent, None);
    }

    #[test]
    fn unlike_and_invalid_runs_are_not_to_be_compared() {
        let base = run("a", 1_000.0, |_, _| 500);
        let mut other = base.clone();
        other.summary.qos = 1;
        other.summary.valid = false;
        other.summary.invalid_because = vec!["it was late".into()];
        let cores = |count: &str| ("cores".to_owned(), vec![count.to_owned()]);
        other.provenance.settings.extend([cores("2")]);
        let objections = compare(&base, &other, 5.0).objections().join("; ");
        for part in [
            "INVALID: a: it was late",
            "QoS differs: 0 and 1",
            "--cores differs: none and 2",
        ] {
            assert!(objections.contains(part), "{objections}");
        }
        other = base.clone();
        let port = ("port".to_owned(), vec!["1884".to_owned()]);
        other.provenance.settings.extend([port]);
        assert_eq!(differences(&base, &other), []);
    }

    #[test]
    fn lost_messages_are_a_regression_where_they_are_promised() {
        let mut base = run("a", 1_000.0, |_, _| 500);
        let mut other = base.clone();
        other.summary.lost = 3;
        assert_eq!(
            verdict(&compare(&base, &other, 5.0), "lost"),
            Verdict::NotJudged
        );
        (base.summary.qos, other.summary.qos) = (1, 1);
        assert!(compare(&base, &other, 5.0).has_regression());
        assert_eq!(
            verdict(&compare(&other, &base, 5.0), "lost"),
            Verdict::Better
        );
    }
}

//! The charts of runs: which there are, and what is in them.

use crate::format::{self, bytes, count, digits, time};
use crate::knee::{self, Point};
use crate::report::files::{Recorded, Row};
use crate::report::svg::{Axis, Chart, Series, Stroke, Zone, alone};
use crate::timeline::Trouble;

/// Seconds of a long run are put together until there are at most so many points.
const POINTS_MAX: usize = 600;
/// Points of a percentile curve.
const PERCENTILE_POINTS: u32 = 240;
/// Letters of a run's name that there is room for.
const NAME_LETTERS_MAX: usize = 16;
/// Runs that have a colour of their own.
const COLOURS: usize = 6;

/// The plots of runs as files: names without ending, and SVG.
pub fn plots(runs: &[Recorded]) -> Vec<(&'static str, String)> {
    let source = |run: &Recorded| {
        let broker = match &run.provenance.broker.name[..] {
            "" => &run.provenance.broker.address,
            name => name,
        };
        let at = &run.provenance.run.measured_at;
        format!("loadgen {} \u{b7} {broker} \u{b7} {at}", run.summary.verb)
    };
    let source: Vec<_> = runs.iter().map(source).collect();
    let knee = match runs {
        [run] => knee(run),
        _ => None,
    };
    let charts = [percentiles(runs), latency(runs), throughput(runs), knee];
    let charts = charts.into_iter().flatten();
    charts
        .map(|chart| (chart.id, alone(&chart, &source.join("; "))))
        .collect()
}

/// What the times of a run are called.
pub fn kind(run: &Recorded) -> &str {
    match &run.summary.latency_kind[..] {
        "service time" => "service time",
        "cycle" => "time of a cycle",
        _ => "latency",
    }
}

/// What the times are of.
fn things(runs: &[Recorded]) -> &'static str {
    if runs.iter().any(|run| run.summary.verb == "churn") {
        "cycles"
    } else {
        "messages"
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

fn stamp(runs: &[Recorded]) -> Option<&'static str> {
    // Over several runs one stamp would condemn all: there the names say it.
    (runs.len() == 1 && !runs[0].summary.valid).then_some("INVALID")
}

/// The name of a run among others.
fn name(run: &Recorded) -> String {
    let invalid = if run.summary.valid { "" } else { " (invalid)" };
    // The end of a name tells more than its beginning, and there is not room for all of it.
    let letters: Vec<char> = run.name.chars().collect();
    let cut = letters.len().saturating_sub(NAME_LETTERS_MAX);
    let dots = if cut > 0 { "\u{2026}" } else { "" };
    let name: String = letters[cut..].iter().collect();
    format!("{dots}{name}{invalid}")
}

/// How the line of a run among others is drawn.
fn stroke(run: &Recorded) -> Stroke {
    if run.summary.valid {
        Stroke::Strong
    } else {
        Stroke::Dashed
    }
}

fn colour(at: usize) -> String {
    (at % COLOURS).to_string()
}

/// How slow which part of the messages was.
pub fn percentiles(runs: &[Recorded]) -> Option<Chart> {
    let with_values = runs.iter().filter(|run| run.summary.latency_us.is_some());
    let most = with_values
        .filter_map(|run| run.summary.latency_us.as_ref())
        .max_by(|a, b| a.count.cmp(&b.count))?;
    let nines = (most.count.max(10) as f64).log10();
    let mut series = Vec::new();
    let mut heads = Vec::new();
    let mut told = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        let latency = run.latency();
        if latency.is_empty() {
            continue;
        }
        let all = curve(&latency, nines);
        if heads.len() < all.len() {
            heads = all.iter().map(|(x, _)| (*x, percentile_head(*x))).collect();
        }
        let name = if runs.len() == 1 {
            kind(run).into()
        } else {
            name(run)
        };
        told.push(format!(
            "{name}: half within {}, 99 percent within {}, slowest {}",
            time(latency.value_at_quantile(0.5) as f64 / 1e3),
            time(latency.value_at_quantile(0.99) as f64 / 1e3),
            time(latency.max() as f64 / 1e3)
        ));
        series.push(Series {
            name,
            colour: colour(at),
            stroke: if runs.len() == 1 {
                Stroke::Strong
            } else {
                stroke(run)
            },
            points: all,
            tell: time,
        });
        let lag = run.send_lag();
        if runs.len() == 1 && !lag.is_empty() {
            series.push(Series {
                name: "send lag".into(),
                colour: "muted".into(),
                stroke: Stroke::Dashed,
                points: curve(&lag, nines),
                tell: time,
            });
        }
    }
    // The fast half matters little, and the send lag less: where the scale is by powers it begins at a tenth.
    let times = || {
        runs.iter()
            .filter_map(|run| run.summary.latency_us.as_ref())
    };
    let most_us = times().map(|all| all.max).reduce(f64::max)?;
    let half = times().map(|all| all.p50).reduce(f64::min)?;
    let tenth = |run: &Recorded| run.latency().value_at_quantile(0.1) as f64 / 1e3;
    let least = if Axis::times(half, most_us).is_linear() {
        half
    } else {
        let with_values = runs.iter().filter(|run| run.summary.latency_us.is_some());
        with_values.map(tenth).reduce(f64::min)?
    };
    let title = match runs {
        [run] => format!("{} by percentile", capital(kind(run))),
        _ => "Latency by percentile".into(),
    };
    Some(Chart {
        id: "percentiles",
        title,
        subtitle: "each further nine has the same room, so that the slowest can be seen".into(),
        description: told.join(". "),
        x: Axis::percentiles(most.count as f64, things(runs)),
        y: Axis::times(least, most_us),
        series,
        zones: Vec::new(),
        level: None,
        heads,
        stamp: stamp(runs),
    })
}

/// Times at equal steps of nines.
fn curve(histogram: &hdrhistogram::Histogram<u64>, nines_max: f64) -> Vec<(f64, Option<f64>)> {
    let own_nines = (histogram.len().max(10) as f64).log10();
    let mut points: Vec<_> = (0..PERCENTILE_POINTS)
        .map(|at| nines_max * f64::from(at) / f64::from(PERCENTILE_POINTS))
        .take_while(|nines| *nines < own_nines)
        .map(|nines| {
            let ns = histogram.value_at_quantile(1.0 - 10_f64.powf(-nines));
            (nines, Some(ns as f64 / 1e3))
        })
        .collect();
    points.push((own_nines, Some(histogram.max() as f64 / 1e3)));
    points
}

fn percentile_head(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10_f64.powf(-nines));
    let one_in = 10_f64.powf(nines);
    let digits = nines.floor() as usize;
    // Two digits of it are enough.
    let power = 10_f64.powf((one_in.log10().floor() - 1.0).max(0.0));
    let one_in = (one_in / power).round() * power;
    format!("{percent:.digits$} %, 1 in {} slower", count(one_in))
}

/// The least and the largest value of lines.
fn bounds(series: &[Series]) -> Option<(f64, f64)> {
    let values = || {
        let points = series.iter().flat_map(|one| &one.points);
        points.filter_map(|(_, value)| *value)
    };
    let least = values().filter(|value| *value > 0.0).reduce(f64::min)?;
    Some((least, values().reduce(f64::max)?))
}

/// The seconds of a run that are drawn: those put together that are too many, and of the time after the end of
/// publishing only what is more than a remainder.
fn drawn(run: &Recorded) -> Vec<(f64, Vec<Row>)> {
    let (mut body, after): (Vec<Row>, Vec<Row>) = run
        .seconds
        .iter()
        .partition(|row| (row.second as f64) < run.summary.measured_s);
    if after.iter().filter(|row| row.delivered > 0.0).count() > 1 {
        body.extend(after);
    }
    let together = body.len().div_ceil(POINTS_MAX).max(1);
    let chunks = body.chunks(together);
    chunks
        .map(|rows| {
            let middle = rows.iter().map(|row| row.second as f64 + 0.5).sum::<f64>();
            (middle / rows.len() as f64, rows.to_vec())
        })
        .collect()
}

/// A mean over whole seconds.
fn mean(rows: &[Row], of: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
    let whole = rows.iter().filter(|row| !row.is_end);
    let values: Vec<f64> = whole.filter_map(of).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn worst(rows: &[Row], of: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
    rows.iter().filter_map(of).reduce(f64::max)
}

/// What all charts over time have in common.
fn over_time(runs: &[Recorded], id: &'static str, title: String, subtitle: &str) -> Option<Chart> {
    let seconds = || runs.iter().flat_map(drawn).flat_map(|(_, rows)| rows);
    let first = seconds().map(|row| row.second).min()? as f64;
    let measured = |run: &Recorded| run.summary.measured_s;
    let measured_s = runs.iter().map(measured).reduce(f64::max)?;
    let last = seconds().map(|row| row.second + 1).max()? as f64;
    let last = if last > measured_s.ceil() {
        last
    } else {
        measured_s
    };
    let mut zones = Vec::new();
    let mut zone = |from, to, label: &str| {
        if to > from {
            zones.push(Zone {
                from,
                to,
                label: label.into(),
            });
        }
    };
    zone(first, 0.0, "warm-up");
    zone(measured_s, last, "after publishing");
    let mut heads: Vec<(f64, String)> = Vec::new();
    for (at, rows) in runs.iter().flat_map(drawn) {
        let (from, to) = (rows[0].second, rows[rows.len() - 1].second);
        let head = match (from, from == to) {
            (..0, true) => format!("warm-up, second {from}")
                .replace('-', "\u{2212}")
                .replacen("warm\u{2212}", "warm-", 1),
            (_, true) => format!("second {}", from + 1),
            (_, false) => format!("seconds {} to {}", from + 1, to + 1),
        };
        if !heads.iter().any(|(there, _)| (there - at).abs() < 1e-9) {
            heads.push((at, head));
        }
    }
    heads.sort_by(|a, b| a.0.total_cmp(&b.0));
    // A single point is no course.
    if heads.len() < 2 {
        return None;
    }
    Some(Chart {
        id,
        title,
        subtitle: subtitle.into(),
        description: String::new(),
        x: Axis::seconds(first, last),
        y: Axis::counts(1.0),
        series: Vec::new(),
        zones,
        level: None,
        heads,
        stamp: stamp(runs),
    })
}

/// A line over time.
fn series(
    run: &Recorded,
    name: impl Into<String>,
    colour: impl Into<String>,
    stroke: Stroke,
    tell: fn(f64) -> String,
    value: impl Fn(&[Row]) -> Option<f64>,
) -> Series {
    let points = drawn(run);
    Series {
        name: name.into(),
        colour: colour.into(),
        stroke,
        points: points.iter().map(|(at, rows)| (*at, value(rows))).collect(),
        tell,
    }
}

/// How slow messages were, by the second of their arrival.
pub fn latency(runs: &[Recorded]) -> Option<Chart> {
    let title = match runs {
        [run] => format!("{} over time", capital(kind(run))),
        _ => "Latency over time".into(),
    };
    let subtitle = match runs {
        [_] => format!("of the {} that arrived in each second", things(runs)),
        _ => format!(
            "99th percentile of the {} that arrived in each second",
            things(runs)
        ),
    };
    let mut chart = over_time(runs, "latency", title, &subtitle)?;
    for (at, run) in runs.iter().enumerate() {
        let p99 = |rows: &[Row]| worst(rows, |row| row.p99_us);
        if runs.len() > 1 {
            chart
                .series
                .push(series(run, name(run), colour(at), stroke(run), time, p99));
            continue;
        }
        let max = |rows: &[Row]| worst(rows, |row| row.max_us);
        let p50 = |rows: &[Row]| worst(rows, |row| row.p50_us);
        let lag = |rows: &[Row]| worst(rows, |row| row.send_lag_p99_us);
        chart.series = vec![
            series(run, "slowest", "1", Stroke::Thin, time, max),
            series(run, "99 %", "0", Stroke::Strong, time, p99),
            series(run, "50 %", "2", Stroke::Thin, time, p50),
            series(run, "send lag 99 %", "muted", Stroke::Dashed, time, lag),
        ];
    }
    let has_values = |series: &Series| series.points.iter().any(|(_, value)| value.is_some());
    chart.series.retain(has_values);
    let (least, most) = bounds(&chart.series)?;
    chart.y = Axis::times(least, most);
    chart.description = format!(
        "{}, between {} and {}",
        chart.title,
        time(least),
        time(most)
    );
    Some(chart)
}

/// How many messages went through.
pub fn throughput(runs: &[Recorded]) -> Option<Chart> {
    let is_churn = runs.iter().any(|run| run.summary.verb == "churn");
    let (title, subtitle) = if is_churn {
        ("Cycles over time", "cycles that ended, per second")
    } else {
        ("Throughput over time", "messages per second")
    };
    let mut chart = over_time(runs, "throughput", title.into(), subtitle)?;
    for (at, run) in runs.iter().enumerate() {
        let summary = &run.summary;
        let delivered = |rows: &[Row]| mean(rows, |row| Some(row.delivered));
        let published = |rows: &[Row]| mean(rows, |row| Some(row.published));
        if runs.len() > 1 {
            let of = if summary.delivered_per_s > 0.0 || is_churn {
                series(run, name(run), colour(at), stroke(run), count, delivered)
            } else {
                series(run, name(run), colour(at), stroke(run), count, published)
            };
            chart.series.push(of);
            continue;
        }
        // Each message has this many receivers.
        let copies = summary.expected as f64 / (summary.published.max(1)) as f64;
        let due = move |rows: &[Row]| mean(rows, |row| Some(row.published * copies));
        chart.series = match (summary.publishers > 0, summary.expected > 0) {
            (true, true) if copies > 1.001 => vec![
                series(run, "to be delivered", "soft", Stroke::Broad, count, due),
                series(run, "delivered", "0", Stroke::Strong, count, delivered),
            ],
            (true, true) => vec![
                series(run, "published", "soft", Stroke::Broad, count, published),
                series(run, "delivered", "0", Stroke::Strong, count, delivered),
            ],
            (true, false) => vec![series(
                run,
                "published",
                "0",
                Stroke::Strong,
                count,
                published,
            )],
            (false, _) if is_churn => {
                vec![series(run, "cycles", "0", Stroke::Strong, count, delivered)]
            }
            (false, _) => vec![series(
                run,
                "received",
                "0",
                Stroke::Strong,
                count,
                delivered,
            )],
        };
        if let Some(rate) = summary.rate {
            let copies = if is_churn { 1.0 } else { copies.max(1.0) };
            chart.level = Some((
                rate * copies,
                format!("asked: {}", format::short(rate * copies)),
            ));
        }
    }
    let (_, most) = bounds(&chart.series)?;
    let level = chart.level.as_ref().map_or(0.0, |(value, _)| *value);
    chart.y = Axis::counts(most.max(level) * 1.04);
    chart.description = format!("{}, at most {} per second", chart.title, count(most));
    Some(chart)
}

/// Who was busy.
pub fn cpu(runs: &[Recorded]) -> Option<Chart> {
    let mut chart = over_time(runs, "cpu", "Who was busy".into(), "CPU cores in use")?;
    for (at, run) in runs.iter().enumerate() {
        let broker = |rows: &[Row]| mean(rows, |row| row.broker_cores);
        let own = |rows: &[Row]| mean(rows, |row| row.generator_cores);
        if runs.len() > 1 {
            chart.title = "What the broker took".into();
            chart.series.push(series(
                run,
                name(run),
                colour(at),
                stroke(run),
                digits,
                broker,
            ));
            continue;
        }
        chart.series = vec![
            series(run, "broker", "0", Stroke::Strong, digits, broker),
            series(run, "generator", "muted", Stroke::Dashed, digits, own),
        ];
    }
    let has_values = |series: &Series| series.points.iter().any(|(_, value)| value.is_some());
    chart.series.retain(has_values);
    let (_, most) = bounds(&chart.series)?;
    chart.y = Axis::counts(most * 1.04);
    chart.description = format!("{}: at most {} cores", chart.title, digits(most));
    Some(chart)
}

/// The broker's memory.
pub fn memory(runs: &[Recorded]) -> Option<Chart> {
    let mut chart = over_time(
        runs,
        "memory",
        "The broker\u{2019}s memory".into(),
        "resident",
    )?;
    for (at, run) in runs.iter().enumerate() {
        let rss = |rows: &[Row]| worst(rows, |row| row.broker_rss_bytes);
        let name = if runs.len() > 1 {
            name(run)
        } else {
            "broker".into()
        };
        chart
            .series
            .push(series(run, name, colour(at), Stroke::Strong, bytes, rss));
    }
    let has_values = |series: &Series| series.points.iter().any(|(_, value)| value.is_some());
    chart.series.retain(has_values);
    let (_, most) = bounds(&chart.series)?;
    chart.y = Axis::bytes(most * 1.04);
    chart.description = format!("The broker's memory, at most {}", bytes(most));
    Some(chart)
}

/// What went wrong, and when; only of one run.
pub fn trouble(runs: &[Recorded]) -> Option<Chart> {
    let [run] = runs else { return None };
    let mut chart = over_time(
        runs,
        "trouble",
        "What went wrong".into(),
        "events per second, by reason",
    )?;
    for (at, reason) in Trouble::REASONS.iter().enumerate() {
        let sum = |rows: &[Row]| Some(rows.iter().map(|row| row.trouble[at]).sum::<f64>());
        let one = series(
            run,
            reason.replace('_', " "),
            colour(at),
            Stroke::Thin,
            count,
            sum,
        );
        if one.points.iter().any(|(_, value)| *value > Some(0.0)) {
            chart.series.push(one);
        }
    }
    let (_, most) = bounds(&chart.series)?;
    chart.y = Axis::counts(most * 1.04);
    chart.description = format!(
        "What went wrong: at most {} events in a second",
        count(most)
    );
    Some(chart)
}

/// How latency grows with the load, where the highest rate was looked for.
pub fn knee(run: &Recorded) -> Option<Chart> {
    let points = &run.summary.knee;
    let most = points.iter().map(|point| point.rate).reduce(f64::max)?;
    let line = |name: &str, colour: &str, stroke, of: fn(&Point) -> f64| Series {
        name: name.into(),
        colour: colour.into(),
        stroke,
        points: points
            .iter()
            .map(|point| (point.rate, Some(of(point)).filter(|us| *us > 0.0)))
            .collect(),
        tell: time,
    };
    let series = vec![
        line("99 %", "0", Stroke::Strong, |point| point.p99),
        line("50 %", "2", Stroke::Thin, |point| point.p50),
    ];
    let (least, most_us) = bounds(&series)?;
    let rates = points.iter().map(|point| point.rate);
    let x = Axis::ratios(rates.reduce(f64::min)?, most);
    let best = knee::best(points).map_or(0.0, |best| best.rate);
    let zone = (best < most).then(|| Zone {
        from: best,
        to: f64::MAX,
        label: "did not hold".into(),
    });
    let head = |point: &Point| {
        let verdict = if point.ok { "it held" } else { &point.why };
        (point.rate, format!("{} /s: {verdict}", count(point.rate)))
    };
    Some(Chart {
        id: "knee",
        title: "Latency by load".into(),
        subtitle: "each point is a run at a rate, in messages per second".into(),
        description: format!(
            "Latency by load: it held up to {} messages a second",
            count(best)
        ),
        x: Axis {
            label: "messages per second, asked".into(),
            ..x
        },
        y: Axis::times(least, most_us),
        series,
        zones: zone.into_iter().collect(),
        level: None,
        heads: points.iter().map(head).collect(),
        stamp: stamp(std::slice::from_ref(run)),
    })
}

//! What a run must hold: `p99<5ms`, `lost==0`, `delivered_per_s>=50k`.

use crate::report::{Percentiles, Summary};
use std::fmt;
use std::str::FromStr;

/// One condition on a summary.
#[derive(Clone, Debug)]
pub struct Assertion {
    text: String,
    metric: Metric,
    comparison: Comparison,
    /// In the unit of the summary: microseconds for times.
    value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

#[derive(Clone, Copy, Debug)]
enum Metric {
    Time(Times, Statistic),
    Count(fn(&Summary) -> u64),
    Figure(fn(&Summary) -> Option<f64>),
}

/// Which set of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Latency,
    Acknowledged,
    Connect,
    Lag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statistic {
    Min,
    Mean,
    P50,
    P90,
    P99,
    P99_9,
    P99_99,
    Max,
}

/// The names of single numbers, for the message about an unknown one.
const FIGURES: &[(&str, Metric)] = &[
    ("lost", Metric::Count(|summary| summary.lost)),
    ("duplicates", Metric::Count(|summary| summary.duplicates)),
    ("reordered", Metric::Count(|summary| summary.reordered)),
    ("corrupt", Metric::Count(|summary| summary.corrupt)),
    ("refused", Metric::Count(|summary| summary.refused)),
    (
        "unacknowledged",
        Metric::Count(|summary| summary.unacknowledged),
    ),
    ("held_back", Metric::Count(|summary| summary.held_back)),
    ("unsent", Metric::Count(|summary| summary.unsent)),
    (
        "window_stalls",
        Metric::Count(|summary| summary.window_stalls),
    ),
    (
        "published_per_s",
        Metric::Figure(|summary| Some(summary.published_per_s)),
    ),
    (
        "delivered_per_s",
        Metric::Figure(|summary| Some(summary.delivered_per_s)),
    ),
    (
        "connects_per_s",
        Metric::Figure(|summary| Some(summary.connects_per_s)),
    ),
    (
        "broker.cpu_ns_per_message",
        Metric::Figure(|summary| summary.broker.as_ref()?.cpu_ns_per_message),
    ),
    (
        "broker.rss_bytes_per_connection",
        Metric::Figure(|summary| summary.broker.as_ref()?.rss_bytes_per_connection),
    ),
];

impl Assertion {
    /// `None` when it holds, else what was found, in plain words.
    pub fn breach(&self, summary: &Summary) -> Option<String> {
        let found = match self.metric {
            Metric::Time(times, statistic) => times.of(summary).map(|all| statistic.of(all)),
            Metric::Count(of) => Some(of(summary) as f64),
            Metric::Figure(of) => of(summary),
        };
        let Some(found) = found else {
            return Some(format!("{self}: the run has no such figure"));
        };
        let holds = match self.comparison {
            Comparison::Less => found < self.value,
            Comparison::LessOrEqual => found <= self.value,
            Comparison::Equal => found == self.value,
            Comparison::GreaterOrEqual => found >= self.value,
            Comparison::Greater => found > self.value,
        };
        let unit = if matches!(self.metric, Metric::Time(..)) {
            " us"
        } else {
            ""
        };
        (!holds).then(|| format!("{self}: it is {found}{unit}"))
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let start = text
            .find(['<', '>', '='])
            .ok_or("there is no <, <=, ==, >= or > in it")?;
        let (name, rest) = text.split_at(start);
        let end = rest
            .find(|c| !matches!(c, '<' | '>' | '='))
            .unwrap_or(rest.len());
        let (sign, value) = rest.split_at(end);
        let comparison = match sign {
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            "==" => Comparison::Equal,
            ">=" => Comparison::GreaterOrEqual,
            ">" => Comparison::Greater,
            _ => return Err(format!("{sign} is none of <, <=, ==, >= and >")),
        };
        let metric = metric(name.trim())?;
        let value = value.trim();
        let value = match metric {
            Metric::Time(..) => {
                if !value.ends_with(|c: char| c.is_ascii_alphabetic()) {
                    return Err(format!("{value} needs a unit: us, ms or s"));
                }
                crate::parse::duration(value)?.as_secs_f64() * 1e6
            }
            Metric::Count(_) | Metric::Figure(_) => number(value)?,
        };
        Ok(Self {
            text: text.to_owned(),
            metric,
            comparison,
            value,
        })
    }
}

impl Times {
    fn of(self, summary: &Summary) -> Option<&Percentiles> {
        match self {
            Self::Latency => summary.latency_us.as_ref(),
            Self::Acknowledged => summary.acknowledged_us.as_ref(),
            Self::Connect => summary.connect_us.as_ref(),
            Self::Lag => summary.generator.send_lag_us.as_ref(),
        }
    }
}

impl Statistic {
    fn of(self, times: &Percentiles) -> f64 {
        match self {
            Self::Min => times.min,
            Self::Mean => times.mean,
            Self::P50 => times.p50,
            Self::P90 => times.p90,
            Self::P99 => times.p99,
            Self::P99_9 => times.p99_9,
            Self::P99_99 => times.p99_99,
            Self::Max => times.max,
        }
    }
}

fn metric(name: &str) -> Result<Metric, String> {
    if let Some((_, metric)) = FIGURES.iter().find(|(known, _)| *known == name) {
        return Ok(*metric);
    }
    let (times, statistic) =
        name.split_once('.')
            .map_or((Times::Latency, name), |(set, statistic)| {
                match set {
                    "ack" => (Times::Acknowledged, statistic),
                    "connect" => (Times::Connect, statistic),
                    "lag" => (Times::Lag, statistic),
                    // The point of p99.9.
                    _ => (Times::Latency, name),
                }
            });
    let statistic = match statistic {
        "min" => Statistic::Min,
        "mean" => Statistic::Mean,
        "p50" => Statistic::P50,
        "p90" => Statistic::P90,
        "p99" => Statistic::P99,
        "p99.9" => Statistic::P99_9,
        "p99.99" => Statistic::P99_99,
        "max" => Statistic::Max,
        _ => {
            let known: Vec<_> = FIGURES.iter().map(|(known, _)| *known).collect();
            return Err(format!(
                "{name} is unknown; there are min, mean, p50, p90, p99, p99.9, p99.99, max (of the \
                 latency; with ack., connect. or lag. before it of those times), {}",
                known.join(", ")
            ));
        }
    };
    Ok(Metric::Time(times, statistic))
}

/// A number that may end in k or M.
fn number(text: &str) -> Result<f64, String> {
    let (digits, scale) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1e3),
        None => text
            .strip_suffix('M')
            .map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    let value: f64 = digits
        .parse()
        .map_err(|_| format!("{text} is not a number"))?;
    if value.is_finite() {
        Ok(value * scale)
    } else {
        Err(format!("{text} is not a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        Summary {
            latency_us: Some(Percentiles {
                p99: 5_000.0,
                p99_9: 7_000.0,
                ..Percentiles::default()
            }),
            lost: 3,
            delivered_per_s: 50_000.0,
            ..Summary::default()
        }
    }

    fn breach(text: &str) -> Option<String> {
        text.parse::<Assertion>().unwrap().breach(&summary())
    }

    #[test]
    fn what_holds_and_what_does_not() {
        for holds in [
            "p99<5.001ms",
            "p99<=5ms",
            "p99 == 5000us",
            "p99.9 > 6ms",
            "lost<=3",
            "duplicates==0",
            "delivered_per_s>=50k",
            "delivered_per_s < 0.06M",
        ] {
            assert_eq!(breach(holds), None, "{holds}");
        }
        assert_eq!(breach("p99<5ms").as_deref(), Some("p99<5ms: it is 5000 us"));
        assert_eq!(breach("lost==0").as_deref(), Some("lost==0: it is 3"));
        assert!(breach("p99.9<=6.9ms").is_some() && breach("delivered_per_s>50k").is_some());
    }

    #[test]
    fn a_figure_the_run_does_not_have_is_a_breach() {
        for text in [
            "connect.p99<1s",
            "lag.max<1s",
            "ack.p50<1s",
            "broker.cpu_ns_per_message<1M",
        ] {
            assert!(breach(text).unwrap().ends_with("no such figure"), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "p99",
            "p99<5",
            "p99=5ms",
            "p99<<5ms",
            "p98<5ms",
            "lost<x",
            "lost<5ms",
            "lost<NaN",
            "foo.p99<1s",
        ] {
            assert!(text.parse::<Assertion>().is_err(), "{text}");
        }
    }
}

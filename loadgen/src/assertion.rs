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
        if let Metric::Time(times, statistic) = self.metric
            && matches!(self.comparison, Comparison::Less | Comparison::LessOrEqual)
            && let Some(all) = times.of(summary)
        {
            let never = times.never(summary);
            if never as f64 > statistic.above() * (all.count + never) as f64 {
                let of = all.count + never;
                return Some(format!(
                    "{self}: {never} of {of} never came, so it has no bound"
                ));
            }
        }
        let found = match self.metric {
            Metric::Time(times, statistic) => times.of(summary).map(|all| statistic.of(all)),
            Metric::Count(of) => summary.has_messages().then(|| of(summary) as f64),
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

impl Times {
    /// How many of its kind have no time, because they did not come about. Where nothing is measured but what came, the
    /// slowest of all are left out.
    fn never(self, summary: &Summary) -> u64 {
        match self {
            Self::Latency => summary.lost + summary.unsent,
            Self::Acknowledged => summary.unacknowledged,
            Self::Connect | Self::Lag => 0,
        }
    }
}

impl Statistic {
    /// The part of all times that may be above it.
    fn above(self) -> f64 {
        match self {
            Self::Min => 1.0,
            Self::P50 => 0.5,
            Self::P90 => 0.1,
            Self::P99 => 0.01,
            Self::P99_9 => 0.001,
            Self::P99_99 => 0.0001,
            Self::Mean | Self::Max => 0.0,
        }
    }

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
                count: 50_000,
                p99: 5_000.0,
                p99_9: 7_000.0,
                ..Percentiles::default()
            }),
            lost: 3,
            expected: 50_003,
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
    fn what_never_came_is_above_every_bound() {
        let mut summary = summary();
        let breach =
            |summary: &Summary, text: &str| text.parse::<Assertion>().unwrap().breach(summary);
        assert_eq!(
            breach(&summary, "p99.9<8ms"),
            None,
            "3 of 50,003 are less than one of a thousand"
        );
        let never = "max<1s: 3 of 50003 never came, so it has no bound";
        assert_eq!(breach(&summary, "max<1s").as_deref(), Some(never));
        assert_eq!(breach(&summary, "max>=0s"), None);
        summary.lost = 600;
        for text in ["p99<5.001ms", "p99.9<8ms", "mean<1s"] {
            assert!(
                breach(&summary, text)
                    .unwrap()
                    .contains("600 of 50600 never came"),
                "{text}"
            );
        }
        assert_eq!(breach(&summary, "p90<1s"), None);
    }

    #[test]
    fn a_run_without_messages_holds_nothing_about_them() {
        let found = "lost==0"
            .parse::<Assertion>()
            .unwrap()
            .breach(&Summary::default());
        assert_eq!(
            found.as_deref(),
            Some("lost==0: the run has no such figure")
        );
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

//! The highest rate at which a condition holds: the knee of the curve of latency over load.

use crate::assertion::Assertion;
use crate::report::Summary;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

/// Steps upwards before it is given up: from 1,000 a second that is beyond any machine.
const DOUBLINGS_MAX: u32 = 24;
/// Steps between the last rate that held and the first that did not; afterwards they differ by about 3 %.
const BISECTIONS: u32 = 5;
/// Tries of a rate before it counts as one that does not hold: what else the machine does only makes a try worse.
const TRIES: u32 = 2;
/// The part of the messages that must have come back in the measured interval.
const DELIVERED_MIN: f64 = 0.98;

/// A rate that was tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Messages a second that were asked for.
    pub rate: f64,
    /// Messages a second that were delivered.
    pub delivered: f64,
    /// Half of the latencies were at most this, in microseconds.
    pub p50: f64,
    /// 99 % of the latencies were at most this, in microseconds.
    pub p99: f64,
    /// Whether the condition held.
    pub ok: bool,
    /// Why not.
    pub why: String,
}

/// Steps the rate up from `first` by doubling until a point is not ok, then bisects; the points come back in the
/// order of their rates. When the first is not ok, it steps down likewise. An error of `measure` ends it, and comes
/// back beside the points until then.
pub fn find(
    first: f64,
    measure: impl FnMut(f64) -> Result<Point, String>,
) -> (Vec<Point>, Option<String>) {
    let mut points = Vec::new();
    let ended = search(first, measure, &mut points).err();
    points.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    (points, ended)
}

fn search(
    first: f64,
    mut measure: impl FnMut(f64) -> Result<Point, String>,
    points: &mut Vec<Point>,
) -> Result<(), String> {
    let mut measure = |rate| {
        let mut point = measure(rate)?;
        for _ in 1..TRIES {
            if !point.ok {
                point = measure(rate)?;
            }
        }
        Ok::<_, String>(point)
    };
    points.push(measure(first)?);
    let up = points[0].ok;
    for _ in 0..DOUBLINGS_MAX {
        let last = &points[points.len() - 1];
        if last.ok != up || (!up && last.rate < 2.0) {
            break;
        }
        let next = if up { last.rate * 2.0 } else { last.rate / 2.0 };
        points.push(measure(next)?);
    }
    for _ in 0..BISECTIONS {
        let rates = |ok: bool| points.iter().filter(move |point| point.ok == ok);
        let good = rates(true).map(|point| point.rate).fold(0.0, f64::max);
        let bad = rates(false)
            .map(|point| point.rate)
            .fold(f64::INFINITY, f64::min);
        // A point above one that was not ok is no knee but luck.
        if good == 0.0 || !bad.is_finite() || good > bad {
            break;
        }
        points.push(measure((good + bad) / 2.0)?);
    }
    Ok(())
}

/// What a run says of a rate. Latencies count from when a message was due, so a generator that was late can only have
/// made them worse: it is no reason against a condition that holds, and the likely one where it does not.
pub fn point(rate: f64, condition: &Assertion, summary: &Summary) -> Point {
    let (p50, p99) = summary
        .latency_us
        .as_ref()
        .or(summary.acknowledged_us.as_ref())
        .map_or((0.0, 0.0), |all| (all.p50, all.p99));
    let copies = summary.expected as f64 / summary.published.max(1) as f64;
    let why = condition
        .breach(summary)
        .or_else(|| {
            let asked = rate * copies;
            (copies > 0.0 && summary.delivered_per_s < DELIVERED_MIN * asked).then(|| {
                format!(
                    "{:.0} of {asked:.0} messages a second came",
                    summary.delivered_per_s
                )
            })
        })
        .or_else(|| (summary.lost > 0).then(|| format!("{} messages were lost", summary.lost)))
        .or_else(|| summary.error.clone())
        .map(|why| match summary.invalid_because.first() {
            Some(because) => format!("{why}; {because}"),
            None => why,
        })
        .unwrap_or_default();
    Point {
        rate,
        delivered: summary.delivered_per_s,
        p50,
        p99,
        ok: why.is_empty(),
        why,
    }
}

/// The highest rate that held, if one did.
pub fn best(points: &[Point]) -> Option<&Point> {
    let good = points.iter().filter(|point| point.ok);
    good.max_by(|one, other| one.rate.total_cmp(&other.rate))
}

/// Writes `knee.csv`, when there are points.
///
/// Errors: in plain words, what could not be written.
pub fn write(directory: &Path, points: &[Point]) -> Result<(), String> {
    if points.is_empty() {
        return Ok(());
    }
    let mut text = String::from("rate,delivered,p50_us,p99_us,ok\n");
    for point in points {
        let _ = writeln!(
            text,
            "{},{},{},{},{}",
            point.rate, point.delivered, point.p50, point.p99, point.ok
        );
    }
    let path = directory.join("knee.csv");
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rate {:>9.0}/s  delivered {:>9.0}/s  p50 {:.0}  p99 {:.0} us  {}",
            self.rate,
            self.delivered,
            self.p50,
            self.p99,
            if self.ok { "ok" } else { &self.why }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server whose latency rises slowly up to `knee` and then at once.
    fn server(knee: f64) -> impl FnMut(f64) -> Result<Point, String> {
        move |rate| {
            Ok(Point {
                rate,
                ok: rate <= knee,
                ..Point::default()
            })
        }
    }

    proptest! {
        #[test]
        fn the_knee_of_a_known_server_is_found(knee in 10.0..5e6_f64, first in 10.0..1e6_f64) {
            let points = find(first, server(knee)).0;
            let best = best(&points).unwrap().rate;
            prop_assert!(best <= knee && best > knee * 0.96, "{best} of {knee}");
            prop_assert!(points.is_sorted_by(|one, other| one.rate <= other.rate));
            prop_assert!(points.len() < 40);
        }
    }

    #[test]
    fn a_try_that_was_disturbed_is_no_knee() {
        let mut tries = 0;
        let mut server = server(1e5);
        let points = find(1_000.0, |rate| {
            tries += 1;
            let mut point = server(rate)?;
            point.ok &= tries % 2 == 0;
            Ok(point)
        });
        assert!(best(&points.0).unwrap().rate > 0.96e5);
    }

    #[test]
    fn a_late_generator_fails_only_what_does_not_hold() {
        let late = Summary {
            published: 10,
            invalid_because: vec!["it was late".into()],
            ..Summary::default()
        };
        assert!(point(10.0, &"lost==0".parse().unwrap(), &late).ok);
        let why = point(10.0, &"lost>0".parse().unwrap(), &late).why;
        assert_eq!(why, "lost>0: it is 0; it was late");
    }

    #[test]
    fn a_server_without_a_knee_ends_the_search() {
        assert_eq!(find(1_000.0, server(f64::INFINITY)).0.len(), 25);
        let never = find(1_000.0, server(0.0)).0;
        assert!(best(&never).is_none() && never.len() < 15);
        assert_eq!(
            find(1.0, |_| Err("gone".into())),
            (vec![], Some("gone".into()))
        );
        let mut server = server(f64::INFINITY);
        let dies = |rate| {
            if rate > 3_000.0 {
                Err("gone".into())
            } else {
                server(rate)
            }
        };
        let (points, ended) = find(1_000.0, dies);
        assert_eq!((points.len(), ended), (2, Some("gone".into())));
    }
}

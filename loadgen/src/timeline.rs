//! A run second by second, and the files it leaves.

use crate::report::{Percentiles, Summary};
use crate::worker::{Interval, histogram};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What all cores saw, by second.
#[derive(Debug, Default)]
pub struct Timeline {
    seconds: BTreeMap<u64, Second>,
    /// The first second that was not shown.
    next_shown: u64,
}

#[derive(Debug)]
struct Second {
    published: u64,
    delivered: u64,
    latency: Histogram<u64>,
}

impl Timeline {
    /// Adds one second of one core.
    pub fn add(&mut self, interval: &Interval) {
        let second = self
            .seconds
            .entry(interval.second)
            .or_insert_with(|| Second {
                published: 0,
                delivered: 0,
                latency: histogram(),
            });
        second.published += interval.published;
        second.delivered += interval.delivered;
        second
            .latency
            .add(&interval.latency)
            .expect("all histograms have the same bounds");
    }

    /// The lines of the seconds before `second` that were not shown yet.
    pub fn lines_before(&mut self, second: u64) -> Vec<String> {
        let new = self.next_shown..second.max(self.next_shown);
        self.next_shown = new.end;
        let lines = self.seconds.range(new).map(|(number, second)| {
            let mut line = format!(
                "{:>5} s  published {:>9}/s  delivered {:>9}/s",
                number + 1,
                second.published,
                second.delivered
            );
            if let Some(latency) = Percentiles::of(&second.latency) {
                let _ = write!(
                    line,
                    "  p50 {:.0}  p99 {:.0}  max {:.0} us",
                    latency.p50, latency.p99, latency.max
                );
            }
            line
        });
        lines.collect()
    }

    /// The seconds as comma-separated values. Latencies are those of messages of the measured interval that
    /// arrived in the second; where there are none the fields are empty.
    pub fn csv(&self) -> String {
        let mut csv = String::from("second,published,delivered,samples,p50_us,p99_us,max_us\n");
        for (number, second) in &self.seconds {
            let _ = write!(csv, "{number},{},{},", second.published, second.delivered);
            let _ = match Percentiles::of(&second.latency) {
                Some(all) => writeln!(csv, "{},{},{},{}", all.count, all.p50, all.p99, all.max),
                None => writeln!(csv, "0,,,"),
            };
        }
        csv
    }
}

/// Writes `summary.json`, `timeline.csv` and, when there are latencies, `latency.hgrm`.
///
/// Errors: in plain words, what could not be written.
pub fn write_files(
    directory: &Path,
    summary: &Summary,
    timeline: &Timeline,
    latency: &Histogram<u64>,
) -> Result<(), String> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).map_err(|error| failed(&path, error))
    };
    let json = serde_json::to_string_pretty(summary).expect("a summary has only string keys");
    write("summary.json", &format!("{json}\n"))?;
    write("timeline.csv", &timeline.csv())?;
    if !latency.is_empty() {
        write("latency.hgrm", &percentile_distribution(latency))?;
    }
    Ok(())
}

/// The percentile distribution of nanoseconds in microseconds, in the format that the plotters of
/// HdrHistogram read.
pub fn percentile_distribution(histogram: &Histogram<u64>) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let us = |ns: u64| ns as f64 / 1e3;
    let mut seen = 0;
    for step in histogram.iter_quantiles(5) {
        seen += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = us(step.value_iterated_to());
        let _ = if quantile < 1.0 {
            writeln!(
                text,
                "{value:12.3} {quantile:2.12} {seen:10} {:14.2}",
                1.0 / (1.0 - quantile)
            )
        } else {
            writeln!(text, "{value:12.3} {quantile:2.12} {seen:10}")
        };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]",
        histogram.mean() / 1e3,
        histogram.stdev() / 1e3
    );
    let _ = writeln!(
        text,
        "#[Max     = {:12.3}, Total count    = {:12}]",
        us(histogram.max()),
        histogram.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(second: u64, ns: &[u64]) -> Interval {
        let mut latency = histogram();
        ns.iter().for_each(|ns| latency.record(*ns).unwrap());
        Interval {
            second,
            published: 2,
            delivered: ns.len() as u64,
            latency,
        }
    }

    #[test]
    fn seconds_of_all_cores_are_one_line() {
        let mut timeline = Timeline::default();
        timeline.add(&interval(0, &[1_000, 2_000]));
        timeline.add(&interval(0, &[3_000]));
        assert!(timeline.lines_before(0).is_empty());
        let lines = timeline.lines_before(1);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].contains("published         4/s  delivered         3/s  p50 2 "),
            "{lines:?}"
        );
        assert!(timeline.lines_before(1).is_empty(), "each is shown once");
        timeline.add(&interval(2, &[]));
        let csv = timeline.csv();
        let rows: Vec<_> = csv.lines().collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[2], "2,2,0,0,,,");
        assert!(rows[1].starts_with("0,4,3,3,2"), "{csv}");
        assert_eq!(rows[0].split(',').count(), rows[1].split(',').count());
    }

    #[test]
    fn the_distribution_ends_with_all_values_at_the_maximum() {
        let mut all = histogram();
        (1..=1_000_u64).for_each(|us| all.record(us * 1_000).unwrap());
        let text = percentile_distribution(&all);
        let rows: Vec<Vec<f64>> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                line.split_whitespace()
                    .map(|field| field.parse().unwrap())
                    .collect()
            })
            .collect();
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]));
        let last = rows.last().unwrap();
        assert!((last[0] - 1_000.0).abs() < 1.0 && last[1] == 1.0 && last[2] == 1_000.0);
        let median = rows.iter().find(|row| row[1] >= 0.5).unwrap();
        assert!((median[0] - 500.0).abs() < 2.0, "{median:?}");
        assert!(text.contains("#[Max     ="));
    }
}

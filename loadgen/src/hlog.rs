//! Histograms outside memory: packed for a while, as an interval log, as a percentile distribution.

use crate::worker::histogram;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogHistogram, IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer, V2Serializer};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// The tag of the intervals that hold send lags; those of latencies have none.
const SEND_LAG_TAG: &str = "send-lag";
/// The largest values of the lines are for people, and in milliseconds.
const NS_PER_MS: f64 = 1e6;

/// A histogram without the room for values that were not seen: some hundred bytes instead of 200 KB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed(Vec<u8>);

impl Packed {
    /// Packs; nothing is lost.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        if !histogram.is_empty() {
            V2Serializer::new()
                .serialize(histogram, &mut bytes)
                .expect("memory takes all that is written, and the counts fit");
        }
        Self(bytes)
    }

    /// The histogram again.
    pub fn open(&self) -> Histogram<u64> {
        if self.0.is_empty() {
            return histogram();
        }
        Deserializer::new()
            .deserialize(&mut &self.0[..])
            .expect("what was packed here can be opened")
    }

    /// Whether no value was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the values of another one.
    pub fn add(&mut self, more: &Histogram<u64>) {
        if self.0.is_empty() {
            *self = Self::of(more);
        } else if !more.is_empty() {
            let mut sum = self.open();
            add(&mut sum, more);
            *self = Self::of(&sum);
        }
    }
}

/// Adds a histogram to another one.
pub fn add(sum: &mut Histogram<u64>, more: &Histogram<u64>) {
    sum.add(more).expect("all histograms have the same bounds");
}

/// One line of an interval log: what was seen in a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Which second of the measured interval, from 0; those after its end hold what came late.
    pub second: u64,
    /// Its values, in ns.
    pub values: Histogram<u64>,
}

/// What an interval log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IntervalLog {
    /// Latencies by second.
    pub latency: Vec<Line>,
    /// Send lags by second.
    pub send_lag: Vec<Line>,
}

impl IntervalLog {
    /// Writes the log in the format of HdrHistogram 1.3 (V2, compressed), after lines of comment; `measure_at` is
    /// when second 0 began.
    pub fn text(&self, measure_at: SystemTime, comments: &[String]) -> String {
        let lines = || {
            let tagged = self.send_lag.iter().map(|line| (line, Some(SEND_LAG_TAG)));
            self.latency.iter().map(|line| (line, None)).chain(tagged)
        };
        let mut all: Vec<_> = lines().collect();
        all.sort_by_key(|(line, _)| line.second);
        let mut builder = IntervalLogWriterBuilder::new();
        builder.add_comment("[Histogram log format version 1.3]");
        for comment in comments {
            builder.add_comment(comment);
        }
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut writer = builder
            .with_start_time(measure_at)
            .with_base_time(measure_at)
            .with_max_value_divisor(NS_PER_MS)
            .begin_log_with(&mut bytes, &mut serializer)
            .expect("memory takes all that is written");
        for (line, tag) in all {
            let start = Duration::from_secs(line.second);
            let tag = tag.map(|tag| Tag::new(tag).expect("the tag has no comma or space"));
            writer
                .write_histogram(&line.values, start, Duration::from_secs(1), tag)
                .expect("memory takes all that is written, and the counts fit");
        }
        let text = String::from_utf8(bytes).expect("the log is of ASCII and our comments");
        // Java's reader wants this line; the crate does not write it.
        let legend = "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";
        let header_end = text
            .match_indices('\n')
            .map(|(at, _)| at + 1)
            .take_while(|at| {
                text[..*at]
                    .lines()
                    .last()
                    .is_some_and(|line| line.starts_with('#'))
            })
            .last()
            .unwrap_or(0);
        format!("{}{legend}{}", &text[..header_end], &text[header_end..])
    }

    /// Reads a log that [`Self::text`] wrote.
    ///
    /// Errors: in plain words, what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut log = Self::default();
        // The crate's reader knows comments, and not the legend.
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with('"'))
            .flat_map(|line| [line, "\n"])
            .collect();
        for entry in IntervalLogIterator::new(text.as_bytes()) {
            let entry = entry.map_err(|_| "it is not a histogram log".to_string())?;
            let LogEntry::Interval(interval) = entry else {
                continue;
            };
            let line = Line {
                second: interval.start_timestamp().as_secs(),
                values: decode(&interval)?,
            };
            match interval.tag().as_ref().map(Tag::as_str) {
                None => log.latency.push(line),
                Some(SEND_LAG_TAG) => log.send_lag.push(line),
                Some(_) => {}
            }
        }
        Ok(log)
    }
}

/// The sum of lines.
pub fn total(lines: &[Line]) -> Histogram<u64> {
    let mut sum = histogram();
    lines.iter().for_each(|line| add(&mut sum, &line.values));
    sum
}

fn decode(interval: &IntervalLogHistogram<'_>) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD
        .decode(interval.encoded_histogram())
        .map_err(|error| format!("a histogram is damaged: {error}"))?;
    let read: Histogram<u64> = Deserializer::new()
        .deserialize(&mut &bytes[..])
        .map_err(|error| format!("a histogram is damaged: {error}"))?;
    let mut values = histogram();
    // One with other bounds is not ours.
    values
        .add(&read)
        .map_err(|error| format!("a histogram is not one of loadgen's: {error}"))?;
    Ok(values)
}

/// The percentile distribution of nanoseconds in microseconds, in the format that the plotters of
/// HdrHistogram read, with lines of comment at its end.
pub fn percentile_distribution(histogram: &Histogram<u64>, comments: &[String]) -> String {
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
    for comment in comments {
        let _ = writeln!(text, "#[{comment}]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    fn of(values: &[u64]) -> Histogram<u64> {
        let mut all = histogram();
        values.iter().for_each(|ns| all.saturating_record(*ns));
        all
    }

    proptest! {
        /// However values are spread over cores and seconds, all of them are in the sum, each where it was.
        #[test]
        fn merging_is_recording_all_in_one(
            parts in prop::collection::vec(prop::collection::vec(1..200_000_000_000_u64, 0..40), 1..8)
        ) {
            let all = of(&parts.concat());
            let mut packed = Packed::default();
            let mut lines = Vec::new();
            for (second, part) in (0..).zip(&parts) {
                packed.add(&of(part));
                lines.push(Line { second, values: of(part) });
            }
            prop_assert_eq!(&packed.open(), &all);
            prop_assert_eq!(&total(&lines), &all);
            let log = IntervalLog { latency: lines.clone(), send_lag: lines };
            let text = log.text(UNIX_EPOCH + Duration::from_secs(1_800_000_000), &[]);
            let read = IntervalLog::parse(&text).unwrap();
            prop_assert_eq!(total(&read.latency), all);
            prop_assert_eq!(read, log);
        }
    }

    #[test]
    fn a_log_has_the_lines_that_other_readers_want() {
        let latency = vec![Line {
            second: 0,
            values: of(&[5_000_000]),
        }];
        let log = IntervalLog {
            latency: latency.clone(),
            send_lag: latency,
        };
        let text = log.text(
            UNIX_EPOCH + Duration::from_secs(1_000),
            &["INVALID: it was late".into()],
        );
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..6],
            [
                "#[Histogram log format version 1.3]",
                "#INVALID: it was late",
                "#[StartTime: 1000.000 (seconds since epoch)]",
                "#[BaseTime: 1000.000 (seconds since epoch)]",
                "#[MaxValueDivisor: 1000000.000]",
                "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"",
            ]
        );
        // HISTFAAA is how a compressed V2 histogram begins.
        assert!(lines[6].starts_with("0.000,1.000,5.0"), "{}", lines[6]);
        assert!(lines[6].contains(",HISTFAAA"), "{}", lines[6]);
        assert!(lines[7].starts_with("Tag=send-lag,0.000,"), "{}", lines[7]);
    }

    #[test]
    fn damage_is_told() {
        let log = IntervalLog {
            latency: vec![Line {
                second: 0,
                values: of(&[1, 2, 3]),
            }],
            send_lag: Vec::new(),
        };
        let text = log.text(UNIX_EPOCH, &[]);
        assert!(IntervalLog::parse(&text.replace("HISTF", "HISTX")).is_err());
        assert!(IntervalLog::parse("what is this").is_err());
        assert_eq!(IntervalLog::parse(""), Ok(IntervalLog::default()));
    }

    #[test]
    fn the_distribution_ends_with_all_values_at_the_maximum() {
        let mut all = histogram();
        (1..=1_000_u64).for_each(|us| all.record(us * 1_000).unwrap());
        let text = percentile_distribution(&all, &["INVALID: late".into()]);
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
        assert!(text.contains("#[Max     =") && text.ends_with("#[INVALID: late]\n"));
    }
}

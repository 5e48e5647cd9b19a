//! A run second by second.
//!
//! Second 0 is the first of the measured interval; those of the warm-up are negative.

use crate::hlog::{IntervalLog, Line, Packed, add};
use crate::procfs::Glance;
use crate::report::Percentiles;
use crate::worker::{Interval, histogram};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

/// What went wrong, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Deliveries that repeated another.
    pub duplicates: u64,
    /// Deliveries after a later one of the same publisher.
    pub reordered: u64,
    /// Deliveries that were not as they were sent.
    pub corrupt: u64,
    /// Publications the broker refused.
    pub refused: u64,
    /// Connections that were lost and made again.
    pub disconnects: u64,
    /// Windows given up after two seconds without a delivery.
    pub window_stalls: u64,
    /// Messages that were late because the broker took no more.
    pub held_back: u64,
}

impl Trouble {
    /// The reasons by name, as columns of `timeline.csv` and labels of metrics have them.
    pub const REASONS: [&str; 7] = [
        "duplicates",
        "reordered",
        "corrupt",
        "refused",
        "disconnects",
        "window_stalls",
        "held_back",
    ];

    /// The counts, in the order of [`Self::REASONS`].
    pub fn counts(&self) -> [u64; 7] {
        [
            self.duplicates,
            self.reordered,
            self.corrupt,
            self.refused,
            self.disconnects,
            self.window_stalls,
            self.held_back,
        ]
    }

    /// What has been added since an earlier look.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            duplicates: self.duplicates - earlier.duplicates,
            reordered: self.reordered - earlier.reordered,
            corrupt: self.corrupt - earlier.corrupt,
            refused: self.refused - earlier.refused,
            disconnects: self.disconnects - earlier.disconnects,
            window_stalls: self.window_stalls - earlier.window_stalls,
            held_back: self.held_back - earlier.held_back,
        }
    }

    fn add(&mut self, more: &Self) {
        self.duplicates += more.duplicates;
        self.reordered += more.reordered;
        self.corrupt += more.corrupt;
        self.refused += more.refused;
        self.disconnects += more.disconnects;
        self.window_stalls += more.window_stalls;
        self.held_back += more.held_back;
    }
}

/// What all cores saw, by second.
#[derive(Debug)]
pub struct Timeline {
    seconds: BTreeMap<i64, Second>,
    total: Second,
    latency: Histogram<u64>,
    send_lag: Histogram<u64>,
}

/// What all cores saw in a second.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// Messages written.
    pub published: u64,
    /// Messages received.
    pub delivered: u64,
    /// What went wrong.
    pub trouble: Trouble,
    /// Time that the cores spent waiting awake, in ns.
    pub spin_ns: u64,
    /// Cores that have told of it.
    pub told: usize,
    /// What this process used, when it was looked at.
    pub generator: Option<Glance>,
    /// What the broker used, when it is known and was looked at.
    pub broker: Option<Glance>,
    latency: Packed,
    send_lag: Packed,
}

impl Second {
    /// The latencies of the messages that arrived, in ns.
    pub fn latency(&self) -> Histogram<u64> {
        self.latency.open()
    }

    /// The send lags of the messages that were written, in ns.
    pub fn send_lag(&self) -> Histogram<u64> {
        self.send_lag.open()
    }

    /// Cores that the generator kept busy, waiting awake not counted.
    pub fn generator_cores(&self) -> Option<f64> {
        let used = self.generator?;
        let cpu_ns = used.cpu_ns.saturating_sub(self.spin_ns);
        Some(cpu_ns as f64 / used.interval_ns.max(1) as f64)
    }

    /// Cores that the broker kept busy.
    pub fn broker_cores(&self) -> Option<f64> {
        let used = self.broker?;
        Some(used.cpu_ns as f64 / used.interval_ns.max(1) as f64)
    }

    fn count(&mut self, interval: &Interval) {
        self.published += interval.published;
        self.delivered += interval.delivered;
        self.trouble.add(&interval.trouble);
        self.spin_ns += interval.spin_ns;
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            seconds: BTreeMap::new(),
            total: Second::default(),
            latency: histogram(),
            send_lag: histogram(),
        }
    }
}

impl Timeline {
    /// Adds one second of one core.
    pub fn add(&mut self, interval: &Interval) {
        self.total.count(interval);
        add(&mut self.latency, &interval.latency);
        add(&mut self.send_lag, &interval.send_lag);
        let second = self.seconds.entry(interval.second).or_default();
        second.told += 1;
        second.count(interval);
        second.latency.add(&interval.latency);
        second.send_lag.add(&interval.send_lag);
    }

    /// Notes what the generator and the broker used in a second.
    pub fn note(&mut self, second: i64, generator: Option<Glance>, broker: Option<Glance>) {
        let second = self.seconds.entry(second).or_default();
        second.generator = generator;
        second.broker = broker;
    }

    /// The seconds there are, in order.
    pub fn seconds(&self, range: Range<i64>) -> impl Iterator<Item = (i64, &Second)> {
        let seconds = self.seconds.range(range);
        seconds.map(|(number, second)| (*number, second))
    }

    /// The counts of all seconds.
    pub fn total(&self) -> &Second {
        &self.total
    }

    /// All latencies, in ns: of messages whose intended time was in the measured interval.
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// All send lags, in ns: of messages whose intended time was in the measured interval.
    pub fn send_lag(&self) -> &Histogram<u64> {
        &self.send_lag
    }

    /// The histograms of all seconds.
    pub fn log(&self) -> IntervalLog {
        let lines = |of: fn(&Second) -> &Packed| {
            let seen = self.seconds.iter().filter(|(_, one)| !of(one).is_empty());
            // A clock of another machine may place an arrival before the start.
            let line = |(second, one): (&i64, &Second)| Line {
                second: (*second).max(0).unsigned_abs(),
                values: of(one).open(),
            };
            seen.map(line).collect()
        };
        IntervalLog {
            latency: lines(|second| &second.latency),
            send_lag: lines(|second| &second.send_lag),
        }
    }

    /// The seconds as comma-separated values, for an interval measured for `measured_s`. Latencies and send lags are
    /// those of messages due in the measured interval, latencies by the second of their arrival; where there are none
    /// the fields are empty. `phase` is `measured` where all of the second was. `valid` is that of the run.
    pub fn csv(&self, measured_s: f64, valid: bool) -> String {
        let mut csv = String::from(
            "second,phase,valid,published,delivered,samples,p50_us,p90_us,p99_us,p99_9_us,max_us,\
             send_lag_p50_us,send_lag_p99_us,send_lag_max_us",
        );
        for reason in Trouble::REASONS {
            let _ = write!(csv, ",{reason}");
        }
        csv.push_str(",generator_cores,broker_cores,broker_rss_bytes\n");
        let opt = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        for (number, second) in &self.seconds {
            let phase = match *number {
                ..0 => "warm-up",
                number if number as f64 + 1.0 <= measured_s => "measured",
                number if (number as f64) < measured_s => "end",
                _ => "drain",
            };
            let _ = write!(
                csv,
                "{number},{phase},{valid},{},{}",
                second.published, second.delivered
            );
            let _ = match Percentiles::of(&second.latency()) {
                Some(all) => write!(
                    csv,
                    ",{},{},{},{},{},{}",
                    all.count, all.p50, all.p90, all.p99, all.p99_9, all.max
                ),
                None => write!(csv, ",0,,,,,"),
            };
            let _ = match Percentiles::of(&second.send_lag()) {
                Some(lag) => write!(csv, ",{},{},{}", lag.p50, lag.p99, lag.max),
                None => write!(csv, ",,,"),
            };
            for count in second.trouble.counts() {
                let _ = write!(csv, ",{count}");
            }
            let _ = writeln!(
                csv,
                ",{},{},{}",
                opt(second.generator_cores()),
                opt(second.broker_cores()),
                opt(second.broker.map(|broker| broker.rss_bytes as f64)),
            );
        }
        csv
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlog::total;

    fn interval(second: i64, ns: &[u64]) -> Interval {
        let mut interval = Interval {
            published: 2,
            delivered: ns.len() as u64,
            ..Interval::of(second)
        };
        ns.iter()
            .for_each(|ns| interval.latency.record(*ns).unwrap());
        interval
    }

    #[test]
    fn a_second_is_the_sum_of_all_cores() {
        let mut timeline = Timeline::default();
        timeline.add(&interval(-1, &[]));
        timeline.add(&interval(0, &[1_000, 2_000]));
        timeline.add(&interval(0, &[3_000]));
        timeline.add(&Interval {
            trouble: Trouble {
                corrupt: 7,
                ..Trouble::default()
            },
            ..interval(2, &[])
        });
        timeline.note(
            0,
            None,
            Some(Glance {
                cpu_ns: 500,
                interval_ns: 1_000,
                rss_bytes: 4_096,
            }),
        );
        let csv = timeline.csv(2.5, false);
        let rows: Vec<Vec<_>> = csv.lines().map(|row| row.split(',').collect()).collect();
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{csv}");
        let column = |name: &str| rows[0].iter().position(|one| *one == name).unwrap();
        let of = |row: usize, name: &str| rows[row][column(name)];
        assert_eq!([of(1, "second"), of(1, "phase")], ["-1", "warm-up"]);
        assert_eq!([of(2, "second"), of(2, "phase")], ["0", "measured"]);
        assert_eq!([of(3, "second"), of(3, "phase")], ["2", "end"]);
        assert_eq!([of(2, "published"), of(2, "delivered")], ["4", "3"]);
        assert!(of(2, "p50_us").starts_with('2') && of(2, "max_us").starts_with('3'));
        assert_eq!(
            [of(2, "broker_cores"), of(2, "broker_rss_bytes")],
            ["0.5", "4096"]
        );
        assert_eq!([of(3, "corrupt"), of(3, "p50_us")], ["7", ""]);
        assert_eq!(of(3, "valid"), "false");
        assert_eq!(timeline.total().published, 8);
        assert_eq!(total(&timeline.log().latency), *timeline.latency());
        assert_eq!(timeline.latency().len(), 3);
    }
}

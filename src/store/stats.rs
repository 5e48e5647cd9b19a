//! What the store counts, for the log and for metrics.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a [`Histogram`]: four to an octave, up to about 2^33; of microseconds that is an hour and more.
const BUCKETS: usize = 128;
const PER_OCTAVE: u32 = 4;

/// The counters of one store. They only grow, but for `failing` and `wal_bytes`.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Transactions committed.
    pub commits: AtomicU64,
    /// Records in them.
    pub records: AtomicU64,
    /// Records of a transaction.
    pub batch: Histogram,
    /// Messages written.
    pub messages: AtomicU64,
    /// Messages that were acknowledged by all receivers before they were written.
    pub annihilated: AtomicU64,
    /// Message records refused because they could not be kept.
    pub refused: AtomicU64,
    /// Messages read for a receiver.
    pub fetched: AtomicU64,
    /// Bytes written to the write-ahead log.
    pub written_bytes: AtomicU64,
    /// Bytes now in the write-ahead log.
    pub wal_bytes: AtomicU64,
    /// Times the write-ahead log was brought into the database.
    pub checkpoints: AtomicU64,
    /// 1 while nothing can be written.
    pub failing: AtomicU64,
    /// How long commits took, in microseconds.
    pub commit: Histogram,
    /// How long checkpoints held up the writer, in microseconds.
    pub checkpoint: Histogram,
}

/// A histogram of numbers, accurate to a fifth.
#[derive(Debug)]
pub struct Histogram([AtomicU64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, number: u64) {
        self.0[bucket(number)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a time, in microseconds.
    pub fn record_time(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// The counts now.
    pub fn snapshot(&self) -> HistogramCounts {
        HistogramCounts(std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed)))
    }
}

/// The counts of a [`Histogram`] at one time.
#[derive(Clone, Debug)]
pub struct HistogramCounts([u64; BUCKETS]);

impl HistogramCounts {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] - earlier.0[at]))
    }

    /// What `per_mille` of 1,000 did not exceed, in microseconds.
    pub fn time(&self, per_mille: u64) -> Duration {
        Duration::from_micros(self.quantile(per_mille))
    }

    /// The number that `per_mille` of 1,000 did not exceed; 0 when there was none.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let total: u64 = self.0.iter().sum();
        let wanted = (total * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (at, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return bucket_end(at);
            }
        }
        0
    }
}

fn bucket(us: u64) -> usize {
    if us < u64::from(PER_OCTAVE) {
        return us as usize;
    }
    let octave = us.ilog2();
    let part = (us >> (octave - 2)) & 3;
    (((octave - 1) * PER_OCTAVE) as usize + part as usize).min(BUCKETS - 1)
}

/// The greatest value of a bucket.
fn bucket_end(at: usize) -> u64 {
    if at < PER_OCTAVE as usize {
        return at as u64;
    }
    let octave = at as u32 / PER_OCTAVE + 1;
    let part = (at as u32 % PER_OCTAVE) as u64;
    ((4 + part + 1) << (octave - 2)) - 1
}

/// Writes a number of bytes for people.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..10_000 => write!(f, "{} B", self.0),
            10_000..10_000_000 => write!(f, "{} KB", self.0 / 1_000),
            10_000_000..10_000_000_000 => write!(f, "{} MB", self.0 / 1_000_000),
            _ => write!(f, "{} GB", self.0 / 1_000_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for us in 0..200_000u64 {
            let at = bucket(us);
            assert!(us <= bucket_end(at), "{us}");
            assert!(at == 0 || us > bucket_end(at - 1), "{us}");
            assert!(us < 8 || bucket_end(at) - us <= us / 4, "{us}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_a_window() {
        let durations = Histogram::default();
        durations.record_time(Duration::from_secs(5));
        let before = durations.snapshot();
        for us in 0..1000 {
            durations.record(us);
        }
        let window = durations.snapshot().since(&before);
        let p50 = window.quantile(500);
        let p99 = window.quantile(990);
        assert!(
            (499..600).contains(&p50) && (990..1200).contains(&p99),
            "{p50} {p99}"
        );
        assert_eq!(before.since(&before).time(500), Duration::ZERO);
    }
}

//! When each message is due: an absolute schedule, fixed before the first message is sent.
//!
//! Message `k` of a worker is due at `start + (k + phase) / rate`, whatever happened to the messages before it.
//! A broker that stalls therefore does not make the generator ask less of it, and the time a message
//! waited to be sent is part of its latency. That is what keeps a stall visible in the percentiles
//! (the omission of such waits is known as coordinated omission).

const NS_PER_S: u128 = 1_000_000_000;
/// Denominator of the rate: rates are kept in messages per 10^9 s, so that small parts of small rates are exact.
const SCALE: u128 = 1_000_000_000;

/// The schedule of one worker, whose publishers take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    start_ns: u64,
    /// Messages per 10^9 s.
    rate_nano: u64,
}

impl Pace {
    /// A schedule of `rate` messages a second from `start_ns` on.
    ///
    /// `phase` (0 to 1) shifts it by a part of the interval, so that workers do not send in step. A rate below one in 10^9 s, some
    /// thirty years, is that: a small part of a small rate is no more than nothing.
    ///
    /// Panics: when the rate is not positive or above 10^10.
    pub fn new(start_ns: u64, rate: f64, phase: f64) -> Self {
        assert!(
            rate > 0.0 && rate <= 1e10,
            "the rate is positive and at most 10^10"
        );
        let rate_nano = (rate * SCALE as f64).round().max(1.0);
        let shift_ns = (NS_PER_S * SCALE) as f64 / rate_nano * phase.clamp(0.0, 1.0);
        Self {
            start_ns: start_ns.saturating_add(shift_ns as u64),
            rate_nano: rate_nano as u64,
        }
    }

    /// How many messages are due at `now_ns`.
    pub fn due(&self, now_ns: u64) -> u64 {
        if now_ns < self.start_ns {
            return 0;
        }
        let elapsed = u128::from(now_ns - self.start_ns);
        let count = elapsed * u128::from(self.rate_nano) / (NS_PER_S * SCALE) + 1;
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// When message `index` (from 0) is due.
    pub fn at_ns(&self, index: u64) -> u64 {
        // Rounded up, so that a message is never due before its time.
        let offset = (u128::from(index) * NS_PER_S * SCALE).div_ceil(u128::from(self.rate_nano));
        self.start_ns
            .saturating_add(u64::try_from(offset).unwrap_or(u64::MAX))
    }
}

/// How many of the first `due` messages fall to publisher `index` when `count` of them take turns.
pub fn share(due: u64, index: usize, count: usize) -> u64 {
    let (index, count) = (index as u64, count as u64);
    if due <= index {
        0
    } else {
        (due - index - 1) / count + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_and_at_agree() {
        for rate in [
            1e-9, 1e-6, 0.001, 0.5, 1.0, 3.0, 7_000.0, 33_333.3, 1e6, 2.7e6,
        ] {
            let pace = Pace::new(1_000, rate, 0.0);
            assert_eq!(pace.due(999), 0);
            assert_eq!(pace.at_ns(0), 1_000);
            for index in [0, 1, 2, 3, 10, 1_000, 123_456_789] {
                if index as f64 / rate > 1e9 {
                    // Thirty years and more: later than 64 bits of nanoseconds can say at the least rate.
                    continue;
                }
                let at = pace.at_ns(index);
                assert_eq!(pace.due(at), index + 1, "rate {rate}, message {index}");
                if index > 0 {
                    assert_eq!(pace.due(at - 1), index, "rate {rate}, message {index}");
                }
            }
        }
    }

    #[test]
    fn the_rate_does_not_drift() {
        let pace = Pace::new(0, 3.0, 0.0);
        // A third of a second is no whole number of nanoseconds; after a million seconds it must not show.
        assert_eq!(pace.at_ns(3_000_000), 1_000_000_000_000_000);
        assert_eq!(pace.due(1_000_000_000_000_000 - 1), 3_000_000);
    }

    #[test]
    fn a_late_look_finds_all_that_was_missed() {
        let pace = Pace::new(0, 1_000.0, 0.0);
        assert_eq!(pace.due(5_000_000_000), 5_001);
        assert_eq!(
            pace.at_ns(1),
            1_000_000,
            "and the times stay those of the schedule"
        );
    }

    #[test]
    fn phases_lie_within_an_interval() {
        let half = Pace::new(0, 1_000.0, 0.5);
        assert_eq!(half.at_ns(0), 500_000);
        assert_eq!(half.at_ns(1), 1_500_000);
    }

    #[test]
    fn publishers_share_what_is_due() {
        for count in [1, 2, 3, 64] {
            for due in [0, 1, 2, 63, 64, 65, 1_000] {
                let shares: Vec<_> = (0..count).map(|index| share(due, index, count)).collect();
                assert_eq!(shares.iter().sum::<u64>(), due);
                assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
                assert!(shares.is_sorted_by(|a, b| a >= b));
            }
        }
    }
}

//! The one clock of a run: nanoseconds that never go back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock that counts from the Unix epoch as the system's clock had it when the run began.
///
/// Within a process differences are those of the monotonic clock. Between processes on one machine the
/// time stamps are comparable as far as the system's clock was not set in between.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
    origin_ns: u64,
}

impl Clock {
    /// A clock that starts at the system's time.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self {
            origin: Instant::now(),
            origin_ns: nanoseconds(since_epoch),
        }
    }

    /// Now, in nanoseconds since the Unix epoch.
    pub fn now_ns(&self) -> u64 {
        self.origin_ns + nanoseconds(self.origin.elapsed())
    }

    /// Sleeps until `at_ns`; returns at once when that has passed.
    pub fn sleep_until(&self, at_ns: u64) {
        std::thread::sleep(Duration::from_nanos(at_ns.saturating_sub(self.now_ns())));
    }
}

/// A duration in nanoseconds, at most 584 years.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_forward_from_the_systems_time() {
        let clock = Clock::start();
        let first = clock.now_ns();
        let system = nanoseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        assert!(first.abs_diff(system) < 1_000_000_000, "{first} {system}");
        clock.sleep_until(first + 2_000_000);
        assert!(clock.now_ns() >= first + 2_000_000);
        let before = clock.now_ns();
        clock.sleep_until(first);
        assert!(
            clock.now_ns() - before < 1_000_000_000,
            "the past is not waited for"
        );
    }
}

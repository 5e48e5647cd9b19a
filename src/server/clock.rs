//! The clock that all cores of the process share.

use crate::shard::input::Now;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds before the clock was made at which its monotonic time is 0, so that no deadline that lies a
/// little in the past is ever below 0.
const HEAD_START_MS: u64 = 1_000;

/// Tells the time as the shards want it. All copies of one clock agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now. A process makes one and gives each core a copy.
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// The present.
    pub fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        // A wall clock before 1970 is as good as none.
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            mono_ms: mono_ms.saturating_add(HEAD_START_MS),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn copies_agree_and_never_go_back() {
        let clock = Clock::start();
        let copy = std::thread::spawn(move || clock.now()).join().unwrap();
        let before = clock.now();
        assert!(before.mono_ms >= copy.mono_ms && before.mono_ms >= HEAD_START_MS);
        std::thread::sleep(Duration::from_millis(5));
        let after = clock.now();
        assert!(after.mono_ms >= before.mono_ms + 5 && after.mono_ms < before.mono_ms + 5_000);
        assert!(after.wall_ms > 1_700_000_000_000);
    }
}

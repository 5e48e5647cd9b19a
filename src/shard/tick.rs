//! Time passed.
//!
//! Very much may be due at once: a switch that fails cuts off a hundred thousand clients in the same moment, and their sessions expire in the same moment.
//! So a tick takes so many timers and the next tick, due at once, takes the rest; others are served in between.

use super::Shard;
use super::outbox::Outbox;
use super::timer::TimerKind;

/// Timers that one tick takes: the end of a session costs some microseconds.
const TIMERS_PER_TICK: usize = 512;

impl Shard {
    pub(super) fn tick(&mut self, outbox: &mut Outbox) {
        if self.keeper.is_recovering {
            // Wills and messages would not find those who want them.
            return;
        }
        self.wheel.advance(self.now.mono_ms);
        for _ in 0..TIMERS_PER_TICK {
            let Some(timer) = self.wheel.pop() else {
                break;
            };
            match timer.kind {
                TimerKind::Connection => self.conn_timer(timer, outbox),
                TimerKind::Session => self.session_timer(timer, outbox),
                TimerKind::Retained => self.retained_timer(),
                TimerKind::Rate => self.rate_timer(timer, outbox),
                TimerKind::Memory => self.memory_timer(outbox),
                TimerKind::Hold => self.hold_timer(outbox),
                TimerKind::Linger => self.linger_timer(outbox),
            }
        }
    }
}

//! Time passed.

use super::Shard;
use super::outbox::Outbox;
use super::timer::TimerKind;

impl Shard {
    pub(super) fn tick(&mut self, outbox: &mut Outbox) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(self.now.mono_ms, &mut fired);
        for timer in fired.drain(..) {
            match timer.kind {
                TimerKind::Connection => self.conn_timer(timer, outbox),
                TimerKind::Session => self.session_timer(timer, outbox),
                TimerKind::Retained => self.retained_timer(),
                TimerKind::Rate => self.rate_timer(timer, outbox),
                TimerKind::Memory => self.memory_timer(),
            }
        }
        self.fired = fired;
    }
}

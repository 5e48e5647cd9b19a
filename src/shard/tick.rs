//! Time passed.

use super::Shard;
use super::outbox::Outbox;
use super::timer::TimerKind;

impl Shard {
    pub(super) fn tick(&mut self, outbox: &mut Outbox) {
        if self.keeper.is_recovering {
            // Wills and messages would not find those who want them.
            return;
        }
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(self.now.mono_ms, &mut fired);
        for timer in fired.drain(..) {
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
        self.fired = fired;
    }
}

//! What the store had at the start becomes sessions again.

use super::Shard;
use super::input::Now;
use super::message::{Message, NEVER};
use super::outbox::Outbox;
use super::record::{RecoveredSession, StoredMessage, StoredSession};
use crate::topic::retained::Stamp;

impl Shard {
    /// The greatest numbers that were ever given on this installation, on any shard, as far as the store knows.
    pub fn set_next_numbers(&mut self, session: StoredSession, message: StoredMessage) {
        self.keeper.last_session = self.keeper.last_session.max(session.0);
        self.keeper.last_message = self.keeper.last_message.max(message.0);
    }

    /// Takes a retained message, or the stamp of a topic that was cleared: then its payload is empty.
    pub fn recover_retained(&mut self, message: Message) {
        let stamp = Stamp(message.stamp());
        self.stamps.observe(stamp);
        if message.payload().is_empty() {
            self.retained
                .clear(message.topic(), stamp, self.now.mono_ms);
        } else {
            if message.expires_at_ms() != NEVER {
                self.expiring_retained();
            }
            self.retained.set(stamp, message);
        }
    }

    /// Takes a session that this shard owns.
    ///
    /// Order: by ascending number. `outbox` is to be drained as after `handle`.
    pub fn recover(&mut self, now: Now, recovered: RecoveredSession, outbox: &mut Outbox) {
        self.now = now;
        let _ = (recovered, outbox);
    }

    /// Whether every other shard knows what this one is interested in, so that clients may be let in.
    pub fn is_ready(&self) -> bool {
        self.acknowledged_by_all() >= self.announced
    }
}

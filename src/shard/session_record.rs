//! What is kept of a session beside its messages.

use super::Shard;
use super::outbox::Outbox;
use super::record::{Record, SessionRecord, StoredSession, StoredWill, next_number};
use crate::session::SessionKey;
use crate::topic::interest::{InterestKey, interest_key};

impl Shard {
    /// Makes a session stored that outlives its connection, if there is a store.
    pub(super) fn make_stored(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key.0 as usize];
        if self.keeper.is_on() && session.expiry_s > 0 && session.stored == 0 {
            let last = next_number(self.keeper.last_session, self.id, self.now.wall_ms);
            self.keeper.last_session = last;
            session.stored = last;
        }
    }

    /// Records a session as it is now, if it is stored.
    pub(super) fn keep_session(&mut self, key: SessionKey, outbox: &mut Outbox) {
        let session = &self.sessions[key.0 as usize];
        if session.stored == 0 {
            return;
        }
        let away_ms = self.now.mono_ms as i64 - session.disconnected_at_ms;
        let disconnected_at_ms = session
            .conn
            .is_none()
            .then(|| self.now.wall_ms.saturating_sub(away_ms.max(0) as u64));
        let record = SessionRecord {
            session: StoredSession(session.stored),
            client_id: session.client_id.clone(),
            username: self.owner_of(key).flatten().map(Into::into),
            expiry_s: session.expiry_s,
            queue_full: if session.chose_queue_full {
                session.queue_full.bits()
            } else {
                0
            },
            disconnected_at_ms,
            will: session.will.as_ref().map(|will| StoredWill {
                message: will.message().clone(),
                delay_s: will.delay_s,
                message_expiry_s: will.message_expiry_s,
            }),
        };
        self.keep(Record::Session(record), outbox);
    }

    /// A stored session made a subscription that is not shared. Returns the announcement that the other shards must
    /// acknowledge before SUBACK.
    pub(super) fn add_stored_interest(
        &mut self,
        filter: &str,
        is_new: bool,
        outbox: &mut Outbox,
    ) -> u64 {
        if self.shard_count == 1 {
            return 0;
        }
        let key = interest_key(self.hash_seed, filter);
        if is_new && self.keeper.local_interest.add(key) {
            self.announce_stored_interest(key, true, outbox);
            self.keeper
                .local_interest
                .set_announced(key, self.announced);
        }
        self.keeper.local_interest.announced_at(key)
    }

    /// It ended.
    pub(super) fn remove_stored_interest(&mut self, filter: &str, outbox: &mut Outbox) {
        if self.shard_count > 1 {
            let key = interest_key(self.hash_seed, filter);
            if self.keeper.local_interest.remove(key) {
                self.announce_stored_interest(key, false, outbox);
            }
        }
    }

    fn announce_stored_interest(&mut self, key: InterestKey, wanted: bool, outbox: &mut Outbox) {
        self.announce_interest(key, wanted, true, outbox);
    }
}

//! What waits for the store: everything that a peer may be told only after a record is durable.

use super::Shard;
use super::outbox::Outbox;
use super::record::{Durability, Lsn, Record};

/// What a shard knows of its part of the store.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// `Durability::None`: there is no store, and no session is stored.
    pub(super) durability: Durability,
    /// Records emitted.
    pub(super) emitted: u64,
    /// Records settled.
    pub(super) committed: u64,
    /// The store has room for messages.
    pub(super) accepts: bool,
    /// The last numbers given.
    pub(super) last_session: u64,
    pub(super) last_message: u64,
}

impl Keeper {
    pub(super) fn new(durability: Durability) -> Self {
        Self {
            durability,
            accepts: true,
            ..Self::default()
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.durability != Durability::None
    }
}

impl Shard {
    /// Emits a record.
    pub(super) fn keep(&mut self, record: Record, outbox: &mut Outbox) -> Lsn {
        assert!(self.keeper.is_on());
        self.keeper.emitted += 1;
        outbox.records.push(record);
        Lsn(self.keeper.emitted)
    }

    pub(super) fn committed(&mut self, up_to: Lsn) {
        assert!(self.keeper.committed <= up_to.0);
        assert!(up_to.0 <= self.keeper.emitted);
        self.keeper.committed = up_to.0;
    }
}

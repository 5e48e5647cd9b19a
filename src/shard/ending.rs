//! The end of a stored session: it is recorded when what the session leaves behind has found another home, and a CONNACK for the same
//! Client Identifier waits for that.

use super::Shard;
use super::commit::Wait;
use super::input::ConnKey;
use super::outbox::Outbox;
use super::record::{Record, StoredSession};

/// A session that ended and whose last messages are on their way.
#[derive(Debug)]
pub(super) struct Ending {
    stored: u64,
    /// Hash of its Client Identifier.
    client: u64,
    remaining: u32,
    /// Who is granted the Client Identifier after it.
    connack: Option<ConnKey>,
    /// A later session with the Client Identifier, which ends after it.
    next: Option<usize>,
}

/// Messages of shared groups that a stored session leaves to other members.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    count: u32,
    /// The session has ended meanwhile.
    ending: Option<usize>,
}

/// How far the end of the last session with a Client Identifier has come; there is none once it is durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    /// Its record waits for what it leaves behind.
    Pending(usize),
    /// Its record.
    Recorded(u64),
}

impl Shard {
    /// Begins to end a session; `release_ending` is due once more than `share_ending` was called.
    pub(super) fn begin_ending(&mut self, stored: u64, client_id: &str) -> usize {
        let client = self.client_ids.hash(client_id);
        let ending = self.keeper.endings.insert(Ending {
            stored,
            client,
            remaining: 1,
            connack: None,
            next: None,
        });
        let leaving = self.keeper.leaving.entry(stored).or_default();
        leaving.ending = Some(ending);
        self.keeper.endings[ending].remaining += leaving.count;
        let before = self.keeper.ended.insert(client, Ended::Pending(ending));
        if let Some(Ended::Pending(before)) = before {
            self.keeper.endings[before].next = Some(ending);
            self.share_ending(ending);
        }
        ending
    }

    /// CONNACK waits until the end of the session before is durable, and this record; with neither it goes at once.
    pub(super) fn hold_connack(&mut self, key: ConnKey, client_id: &str, record: Option<u64>) {
        let client = self.client_ids.hash(client_id);
        let until = match self.keeper.ended.get(&client) {
            Some(Ended::Pending(ending)) => {
                self.keeper.endings[*ending].connack = Some(key);
                self.cork(key);
                return;
            }
            Some(Ended::Recorded(ended)) => Some(*ended).max(record),
            None => record,
        };
        if let Some(until) = until {
            self.keeper.wait(until, Wait::Connack(key));
            self.cork(key);
        }
    }

    /// One more thing has to be settled before a session ends.
    pub(super) fn share_ending(&mut self, ending: usize) {
        self.keeper.endings[ending].remaining += 1;
    }

    /// A stored session leaves a message to others: it does not end before that is settled.
    pub(super) fn leave(&mut self, stored: u64) {
        let leaving = self.keeper.leaving.entry(stored).or_default();
        leaving.count += 1;
        if let Some(ending) = leaving.ending {
            self.share_ending(ending);
        }
    }

    /// That is settled.
    pub(super) fn has_left(&mut self, stored: u64, outbox: &mut Outbox) {
        let leaving = self.keeper.leaving.get_mut(&stored);
        let leaving = leaving.expect("it was counted");
        leaving.count -= 1;
        let ending = leaving.ending;
        if leaving.count == 0 && ending.is_none() {
            self.keeper.leaving.remove(&stored);
        }
        if let Some(ending) = ending {
            self.release_ending(ending, outbox);
        }
    }

    /// One thing is settled; with the last of them the session has ended.
    pub(super) fn release_ending(&mut self, ending: usize, outbox: &mut Outbox) {
        let mut next = Some(ending);
        while let Some(ending) = next {
            self.keeper.endings[ending].remaining -= 1;
            if self.keeper.endings[ending].remaining > 0 {
                return;
            }
            let it = self.keeper.endings.remove(ending);
            self.keeper.leaving.remove(&it.stored);
            let record = self.keep(Record::SessionEnded(StoredSession(it.stored)), outbox);
            if let Some(conn) = it.connack {
                self.keeper.wait(record, Wait::Connack(conn));
            }
            if it.next.is_none() {
                let ended = Ended::Recorded(record);
                self.keeper.ended.insert(it.client, ended);
                self.keeper.wait(record, Wait::Ended(it.client));
            }
            next = it.next;
        }
    }

    /// The end of a session is durable.
    pub(super) fn end_is_durable(&mut self, client: u64) {
        if let Some(Ended::Recorded(record)) = self.keeper.ended.get(&client)
            && *record <= self.keeper.committed
        {
            self.keeper.ended.remove(&client);
        }
    }
}

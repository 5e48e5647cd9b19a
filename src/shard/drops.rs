//! Nobody's messages are dropped silently: every drop is counted, and the operator is told whose, and why.

use super::Shard;
use super::counters::DropCause;
use super::outbox::{Dropped, Event, Outbox};
use crate::session::SessionKey;

/// The least time between two log records about dropped messages, in milliseconds.
const TELL_DROPS_MS: u64 = 10_000;
/// Clients and topics that one log record names.
const NAMED_MAX: usize = 32;

/// What the log was told of drops, and what it is to be told next.
#[derive(Debug, Default)]
pub(super) struct Drops {
    told: [u64; DropCause::ALL.len()],
    told_total: u64,
    tell_at_ms: u64,
    named: Vec<(u32, Dropped)>,
}

impl Shard {
    /// Counts messages that were dropped, for a session if one of this shard was to have them.
    pub(super) fn note_drops(
        &mut self,
        session: Option<SessionKey>,
        topic: &str,
        cause: DropCause,
        count: u64,
    ) {
        self.counters.drop_many(cause, count);
        // A QoS 0 message for a client that is away is not owed to it.
        if cause == DropCause::Offline {
            return;
        }
        let Some(SessionKey(key)) = session else {
            return;
        };
        let named = &mut self.drops.named;
        let same = named
            .iter_mut()
            .find(|(of, it)| *of == key && it.cause == cause && *it.topic == *topic);
        if let Some((_, it)) = same {
            it.count += count;
        } else if named.len() < NAMED_MAX {
            let dropped = Dropped {
                client_id: self.sessions[key as usize].client_id.clone(),
                topic: topic.into(),
                cause,
                count,
            };
            named.push((key, dropped));
        }
    }

    /// Has what was dropped until now told at once: nobody may be there to tell it later.
    pub(super) fn tell_drops_now(&mut self) {
        self.drops.tell_at_ms = 0;
    }

    /// When the drops that were not told of yet are to be, in monotonic milliseconds; none when all were.
    pub(super) fn tells_drops_at_ms(&self) -> Option<u64> {
        let is_owed = self.counters.dropped_total != self.drops.told_total;
        is_owed.then_some(self.drops.tell_at_ms)
    }

    /// Tells of drops, if there were any and it is time.
    pub(super) fn tell_drops(&mut self, outbox: &mut Outbox) {
        if self
            .tells_drops_at_ms()
            .is_none_or(|at_ms| self.now.mono_ms < at_ms)
        {
            return;
        }
        let drops = &mut self.drops;
        let told = std::mem::replace(&mut drops.told, self.counters.dropped);
        drops.told_total = self.counters.dropped_total;
        drops.tell_at_ms = self.now.mono_ms + TELL_DROPS_MS;
        let named = std::mem::take(&mut drops.named);
        let mut counts = Box::new(self.counters.dropped);
        for (count, told) in counts.iter_mut().zip(told) {
            *count -= told;
        }
        counts[DropCause::Offline as usize] = 0;
        if counts.iter().any(|count| *count > 0) {
            let named = named.into_iter().map(|(_, dropped)| dropped).collect();
            outbox.events.push(Event::Dropped { counts, named });
        }
    }
}

//! The retained index of this shard: a copy of every other's, with the messages shared (MQTT 5 §3.3.1.3).
//!
//! Two publishers on two shards may retain on one topic at once, and their messages reach the shards in
//! different orders. So each carries a stamp, and the greater stamp wins everywhere.

use super::Shard;
use super::counters::DropCause;
use super::message::{CLEARS, Message, MessageParts, NEVER};
use super::publication::Publication;
use super::timer::{Timer, TimerKind};
use crate::topic::retained::{Cursor, RetainedEntry, ScanOutcome, Stamp};

/// How often tombstones and expired messages are looked for, in milliseconds.
const UPKEEP_MS: u64 = 5_000;
/// The pause between two slices of one search for expired messages, in milliseconds.
const UPKEEP_SLICE_MS: u64 = 50;
/// Messages looked at in one slice.
const UPKEEP_VISITS: usize = 2_000;

/// Upkeep of the retained index.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    timer_is_set: bool,
    /// Whether a message with a Message Expiry Interval may be retained.
    may_expire: bool,
    /// The search under way has found one that expires later.
    found_later: bool,
    /// When it was done last, while there is something to do.
    last_ms: u64,
    cursor: Cursor,
}

impl RetainedEntry for Message {
    fn topic(&self) -> &str {
        Self::topic(self)
    }

    fn topic_bytes(&self) -> &[u8] {
        Self::topic_bytes(self)
    }

    fn bytes(&self) -> usize {
        Self::bytes(self)
    }
}

impl Shard {
    /// The stamp for a message to be retained now. There may be no room for it, which is counted; it is delivered all the same.
    /// Then it is 0, or with [`CLEARS`] if the topic has a message, which is true no more.
    pub(super) fn retain_stamp(&mut self, message: &MessageParts<'_>) -> u64 {
        let bytes = message.encoded_len();
        let has_room = self.has_room_to_retain(bytes)
            && self.retained.count() < self.limits.retained_messages_max as usize;
        let mut clears = 0;
        if !has_room && !message.payload.is_empty() {
            let before = self.retained.get(message.topic).map(Message::bytes);
            let fits =
                before.is_some_and(|old| bytes <= old || self.has_room_to_retain(bytes - old));
            if !fits {
                self.counters.drop_one(DropCause::RetainedLimit);
                if before.is_none() {
                    return 0;
                }
                clears = CLEARS;
            }
        }
        self.stamps.next(self.now.wall_ms).0 | clears
    }

    /// Whether so many bytes more may be retained.
    fn has_room_to_retain(&self, bytes: usize) -> bool {
        let all = (self.retained.bytes() + bytes) as u64;
        all <= self.limits.retained_bytes_max && self.has_memory_to_retain()
    }

    /// Stores a retained message, or clears its topic when the payload is empty ([MQTT-3.3.1-6]) or has no room.
    pub(super) fn retain(&mut self, publication: &mut Publication<'_>) {
        assert!(publication.stamp != 0);
        let stamp = Stamp(publication.stamp & !CLEARS);
        self.stamps.observe(stamp);
        if publication.payload.is_empty() || publication.stamp & CLEARS != 0 {
            self.retained
                .clear(publication.topic, stamp, self.now.mono_ms);
            self.set_upkeep_timer(UPKEEP_MS);
        } else {
            self.retained.set(stamp, publication.shared());
            if publication.expires_at_ms != NEVER {
                self.expiring_retained();
            }
        }
    }

    /// A message that expires is retained.
    pub(super) fn expiring_retained(&mut self) {
        self.upkeep.may_expire = true;
        self.set_upkeep_timer(UPKEEP_MS);
    }

    /// Forgets old tombstones and one slice of the expired messages. Topics that begin with `$` keep an expired
    /// message until it is replaced; it is never sent.
    pub(super) fn retained_timer(&mut self) {
        self.upkeep.timer_is_set = false;
        let now_ms = self.now.mono_ms;
        // Not yet what has become too old since: if the process stood still meanwhile, so did what is on its way between cores.
        let last_ms = std::mem::replace(&mut self.upkeep.last_ms, now_ms);
        self.retained.purge(last_ms);
        if self.upkeep.may_expire {
            let mut expired = Vec::new();
            let mut found_later = self.upkeep.found_later;
            let cursor = &mut self.upkeep.cursor;
            let mut visits = UPKEEP_VISITS;
            let outcome = self
                .retained
                .scan("#", cursor, UPKEEP_VISITS, &mut visits, |message| {
                    if message.expires_at_ms() <= now_ms {
                        expired.push(message.clone());
                    } else {
                        found_later |= message.expires_at_ms() != NEVER;
                    }
                });
            for message in expired {
                self.retained
                    .expire(message.topic(), Stamp(message.stamp()), now_ms);
            }
            self.upkeep.found_later = found_later;
            if outcome == ScanOutcome::More {
                self.set_upkeep_timer(UPKEEP_SLICE_MS);
                return;
            }
            self.upkeep.cursor = Cursor::default();
            self.upkeep.may_expire = std::mem::take(&mut self.upkeep.found_later);
        }
        if self.upkeep.may_expire || self.retained.tombstone_count() > 0 {
            self.set_upkeep_timer(UPKEEP_MS);
        }
    }

    fn set_upkeep_timer(&mut self, after_ms: u64) {
        if !self.upkeep.timer_is_set {
            self.upkeep.timer_is_set = true;
            let tick = self.wheel.tick_for(self.now.mono_ms + after_ms);
            self.wheel.insert(Timer {
                tick,
                index: 0,
                generation: 0,
                kind: TimerKind::Retained,
            });
        }
    }
}

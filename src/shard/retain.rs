//! The retained index of this shard: a copy of every other's, with the messages shared (MQTT 5 §3.3.1.3).
//!
//! Two publishers on two shards may retain on one topic at once, and their messages reach the shards in
//! different orders. So each carries a stamp, and the greater stamp wins everywhere. A stamp is hybrid time: the wall
//! clock, but always greater than every stamp this shard has seen, with the shard's number in the low bits.

use super::Shard;
use super::counters::DropCause;
use super::message::Message;
use super::publication::Publication;
use super::timer::{Timer, TimerKind};
use crate::topic::retained::{RetainedEntry, Stamp};

/// Bits for the shard's number.
const SHARD_BITS: u32 = 6;
/// Bits that count within a millisecond.
const COUNT_BITS: u32 = 10;
/// How often tombstones and expired messages are cleared away, in milliseconds.
const UPKEEP_MS: u64 = 5_000;

impl RetainedEntry for Message {
    fn topic(&self) -> &str {
        Self::topic(self)
    }

    fn bytes(&self) -> usize {
        Self::bytes(self)
    }
}

impl Shard {
    /// The stamp for a message to be retained now, or 0 when the limits forbid to store it: it is delivered all the same.
    pub(super) fn retain_stamp(&mut self, topic: &str, payload: &[u8]) -> u64 {
        let is_full = self.retained.count() >= self.limits.retained_messages_max as usize
            || self.retained.bytes() as u64 >= self.limits.retained_bytes_max;
        if is_full && !payload.is_empty() && self.retained.get(topic).is_none() {
            self.counters.drop_one(DropCause::RetainedLimit);
            return 0;
        }
        self.stamp_clock = (self.stamp_clock + 1).max(self.now.wall_ms << COUNT_BITS);
        (self.stamp_clock << SHARD_BITS) | u64::from(self.id.0)
    }

    /// Stores a retained message, or clears its topic when the payload is empty ([MQTT-3.3.1-6]).
    pub(super) fn retain(&mut self, publication: &mut Publication<'_>) {
        assert!(publication.stamp != 0);
        self.stamp_clock = self.stamp_clock.max(publication.stamp >> SHARD_BITS);
        let stamp = Stamp(publication.stamp);
        if self.retained.is_idle() {
            self.set_retained_timer();
        }
        if publication.payload.is_empty() {
            self.retained.clear(publication.topic, stamp, self.now.mono_ms);
        } else {
            self.retained.set(stamp, publication.shared());
        }
    }

    pub(super) fn retained_timer(&mut self) {
        self.retained.purge(self.now.mono_ms);
        let now_ms = self.now.mono_ms;
        self.retained.sweep_expired(|message| message.expires_at_ms() <= now_ms);
        if !self.retained.is_idle() {
            self.set_retained_timer();
        }
    }

    fn set_retained_timer(&mut self) {
        let tick = self.wheel.tick_for(self.now.mono_ms + UPKEEP_MS);
        self.wheel.insert(Timer { tick, index: 0, generation: 0, kind: TimerKind::Retained });
    }
}

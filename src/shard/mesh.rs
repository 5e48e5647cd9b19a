//! What shards tell each other, and what waits for them.

use super::Shard;
use super::connection::PAUSED_BY_LINK;
use super::input::{ConnKey, Pressure, ShardId};
use super::mesh_message::{GroupAnnouncement, MeshMessage};
use super::message::Envelope;
use super::outbox::Outbox;
use super::publication::{Numbering, Publication};
use super::publish::Dispatched;
use crate::session::Replay;
use crate::topic::index::FilterId;
use crate::topic::interest::InterestKey;
use crate::topic::share::{GroupId, MemberCounts};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A SUBACK that is not true yet.
#[derive(Debug)]
pub(super) struct PendingSuback {
    /// The announcement that all other shards must have acknowledged.
    pub(super) sequence: u64,
    pub(super) conn: ConnKey,
    /// The SUBACK, encoded.
    pub(super) packet: Vec<u8>,
    /// The retained messages that follow it.
    pub(super) replays: BTreeMap<FilterId, Replay>,
    /// The record that must be durable, or 0.
    pub(super) record: u64,
}

impl Shard {
    pub(super) fn mesh(&mut self, from: ShardId, message: MeshMessage, outbox: &mut Outbox) {
        assert!(from != self.id);
        assert!(from.index() < self.shard_count);
        match message {
            MeshMessage::Publish { message, envelope } => {
                self.mesh_publish(&mut Publication::from_message(&message), envelope, outbox);
            }
            MeshMessage::Batch(batch) => {
                let mut coming = batch.iter();
                // Messages that have been read ahead for.
                let mut ahead = if self.index.is_large() { 0 } else { usize::MAX };
                for message in batch.iter() {
                    if ahead == 0 {
                        ahead = self.read_ahead_batch(&mut coming);
                    }
                    ahead -= 1;
                    let publication = &mut Publication::from_batched(&message);
                    self.mesh_publish(publication, message.envelope, outbox);
                }
            }
            MeshMessage::Interest {
                key,
                wanted,
                stored,
                sequence,
            } => {
                let table = if stored {
                    &mut self.keeper.interest
                } else {
                    &mut self.interest
                };
                if wanted {
                    table.set(from.0, key);
                } else {
                    table.clear(from.0, key);
                }
                acknowledge(from, sequence, outbox);
            }
            MeshMessage::Group(group) => {
                self.groups
                    .apply_remote(from.0, &group.text, group.group, group.counts);
                acknowledge(from, group.sequence, outbox);
            }
            MeshMessage::AnnouncementAck { up_to } => {
                assert!(up_to <= self.announced);
                let acknowledged = &mut self.acknowledged[from.index()];
                assert!(*acknowledged <= up_to);
                *acknowledged = up_to;
                self.release_subacks(outbox);
            }
            MeshMessage::Taken(answers) => {
                for taken in answers {
                    self.taken(from, taken, outbox);
                }
            }
            MeshMessage::TakenEnded(ends) => self.taken_ended(&ends, outbox),
            MeshMessage::Stored(numbers) => {
                for number in numbers {
                    self.stored(number.0, outbox);
                }
            }
            MeshMessage::Refused(numbers) => {
                for number in numbers {
                    self.refused(number.0, outbox);
                }
            }
            MeshMessage::Recovered => self.others_recovered(1 << from.0, outbox),
        }
    }

    fn mesh_publish(
        &mut self,
        publication: &mut Publication<'_>,
        envelope: Envelope,
        outbox: &mut Outbox,
    ) {
        publication.asked(envelope.asked);
        if let Some((group, hops)) = envelope.group {
            self.assert_scratch_is_empty();
            let is_passed_on = !self.deliver_to_member(group, publication, outbox)
                && self.dispatch_shared(group, publication, None, hops + 1, outbox)
                    == Dispatched::Away;
            if !is_passed_on {
                self.answer(publication, outbox);
            }
            return;
        }
        if publication.numbering == Numbering::Foreign {
            // Once only: a shard gets a message once beside what it gets for its groups, about which it is asked.
            publication.numbering = Numbering::Unasked;
        }
        if publication.stamp != 0 {
            self.retain(publication);
        }
        let matched = self.deliver_local(None, publication, outbox);
        if publication.number != 0 {
            self.answer(publication, outbox);
        }
        if !matched && publication.stamp == 0 {
            self.counters.mesh_publish_unmatched += 1;
        }
    }

    pub(super) fn acknowledged_by_all(&self) -> u64 {
        self.acknowledged
            .iter()
            .copied()
            .min()
            .expect("there is at least this shard")
    }

    fn release_subacks(&mut self, outbox: &mut Outbox) {
        let up_to = self.acknowledged_by_all();
        while self
            .pending_subacks
            .front()
            .is_some_and(|suback| suback.sequence <= up_to)
        {
            let suback = self.pending_subacks.pop_front().expect("checked");
            self.release_suback(suback, outbox);
        }
        if self.pending_subacks.is_empty() {
            // A burst of subscriptions must not keep its memory.
            self.pending_subacks = VecDeque::new();
        }
    }

    /// Tells all other shards that this one's interest in a key, or that of its stored sessions, appeared or vanished.
    pub(super) fn announce_interest(
        &mut self,
        key: InterestKey,
        wanted: bool,
        stored: bool,
        outbox: &mut Outbox,
    ) {
        self.announced += 1;
        let sequence = self.announced;
        for to in self.others() {
            outbox.send(
                to,
                MeshMessage::Interest {
                    key,
                    wanted,
                    stored,
                    sequence,
                },
            );
        }
    }

    /// Tells all other shards how many members of a group this one has.
    pub(super) fn announce_group(&mut self, group: GroupId, outbox: &mut Outbox) {
        let mut text = String::new();
        self.groups.text(group, &mut text);
        let counts = self.groups.counts(group);
        self.announce_counts(group, text, counts, outbox);
    }

    /// The same for a group that may be gone already, whose text and counts the caller knows.
    pub(super) fn announce_counts(
        &mut self,
        group: GroupId,
        text: String,
        counts: MemberCounts,
        outbox: &mut Outbox,
    ) {
        if self.shard_count == 1 {
            return;
        }
        self.announced += 1;
        let sequence = self.announced;
        let text = text.into_boxed_str();
        let announcement = Arc::new(GroupAnnouncement {
            text,
            group,
            counts,
            sequence,
        });
        for to in self.others() {
            outbox.send(to, MeshMessage::Group(Arc::clone(&announcement)));
        }
    }

    pub(super) fn link(&mut self, to: ShardId, pressure: Pressure, outbox: &mut Outbox) {
        let read_nothing = self.reads_nothing();
        self.pressure[to.index()] = pressure;
        self.note_end_of_reading_nothing(read_nothing);
        if self
            .pressure
            .iter()
            .all(|pressure| *pressure == Pressure::Low)
        {
            for conn in std::mem::take(&mut self.link_paused) {
                self.resume(conn, PAUSED_BY_LINK, outbox);
            }
        }
    }

    pub(super) fn set_store_pressure(&mut self, pressure: Pressure) {
        let read_nothing = self.reads_nothing();
        self.store_pressure = pressure;
        self.note_end_of_reading_nothing(read_nothing);
    }

    /// What clients sent while nothing was read is fed only now: their silence begins anew.
    fn note_end_of_reading_nothing(&mut self, read_nothing: bool) {
        if read_nothing && !self.reads_nothing() {
            self.read_nothing_until_ms = self.now.mono_ms;
        }
    }

    /// Whether the pressure on a link or on the way to the store keeps the shell from feeding what was received.
    pub(super) fn reads_nothing(&self) -> bool {
        self.store_pressure == Pressure::Hard || self.pressure.contains(&Pressure::Hard)
    }

    pub(super) fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let this = self.id;
        (0..self.shard_count as u8)
            .map(ShardId)
            .filter(move |id| *id != this)
    }
}

/// Acknowledges announcements; acknowledgements are cumulative, so one that has not left yet is replaced.
fn acknowledge(to: ShardId, sequence: u64, outbox: &mut Outbox) {
    if let Some((last_to, MeshMessage::AnnouncementAck { up_to })) = outbox.mesh.last_mut()
        && *last_to == to
    {
        assert!(*up_to < sequence);
        *up_to = sequence;
        return;
    }
    outbox.send(to, MeshMessage::AnnouncementAck { up_to: sequence });
}

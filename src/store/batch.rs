//! What is committed together: the records of several turns of several shards, folded into their net effect.
//!
//! Folding is what makes a batch cheap. A message and all of its ends that meet here cancel out and nothing
//! is written; of several changes to one thing the last remains; and each table is written in the order of its keys. It also
//! keeps what waits for a full disk from growing with time instead of with what there is.

use crate::protocol::PacketId;
use crate::shard::message::Message;
use crate::shard::record::{
    Lsn, OutgoingStep, Part, Receiver, Record, SessionRecord, StoredMessage, StoredSession,
};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

/// `SubscribeOptions::bits` and the Subscription Identifier.
pub(super) type Subscription = (u8, Option<NonZeroU32>);

/// Who is done with a message: one session's part in it.
pub(super) type SessionPart = (StoredSession, Part);

/// A message as it came.
#[derive(Debug)]
pub(super) struct NewMessage {
    pub(super) id: StoredMessage,
    pub(super) message: Message,
    pub(super) wall_minus_mono_ms: u64,
    pub(super) receivers: Vec<Receiver>,
    pub(super) received_from: Option<(StoredSession, PacketId)>,
    /// The shard and its record, if there is a publisher to be told.
    refusable: Option<(usize, Lsn)>,
}

/// The part that a receiver has.
pub(super) fn part_of(receiver: &Receiver) -> SessionPart {
    (receiver.session, receiver.flags.part())
}

/// Whether somebody can be told that the record is not kept.
pub(super) fn is_refusable(record: &Record) -> bool {
    matches!(
        record,
        Record::Message {
            refusable: true,
            ..
        } | Record::Retained {
            refusable: true,
            ..
        }
    )
}

/// Whether what follows the record waits until it is durable. What is retained and nobody can be told of is kept until then; but
/// nobody waits for it, and QoS 0 goes on while the disk is full.
fn is_waited_for(record: &Record) -> bool {
    !is_refusable(record) && !matches!(record, Record::Retained { .. })
}

/// Whether nobody waits for the record, and a crash that loses it lets a client have again what it knows to be a repetition:
/// PUBLISH with DUP, or PUBREL.
pub(super) fn can_wait(record: &Record) -> bool {
    matches!(record, Record::Ended { .. } | Record::OutgoingEnded { .. })
}

/// What a batch gave up.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// The records, by shard and ascending.
    pub(super) records: Vec<Vec<Lsn>>,
    /// The messages.
    pub(super) messages: Vec<StoredMessage>,
}

/// The net effect of some records.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) sessions: BTreeMap<StoredSession, SessionRecord>,
    pub(super) sessions_ended: BTreeSet<StoredSession>,
    /// `None` is: unsubscribed.
    pub(super) subscriptions: BTreeMap<(StoredSession, Box<str>), Option<Subscription>>,
    pub(super) messages: Vec<NewMessage>,
    /// Who is done with a message, whether that is in this batch or not. Ascending once [`Batch::sort`] was called.
    pub(super) ended: Vec<(StoredMessage, SessionPart)>,
    /// `None` is: complete.
    pub(super) outgoing: BTreeMap<(StoredSession, PacketId), Option<OutgoingStep>>,
    /// Identifiers that are free again; written before the messages that may use them again.
    pub(super) incoming_ended: BTreeSet<(StoredSession, PacketId)>,
    /// With the difference of the clocks, by topic.
    pub(super) retained: BTreeMap<Box<str>, (Message, u64)>,
    /// Records taken in.
    pub(super) records: u64,
    /// Per shard: the first record that cannot be refused and that others wait for.
    pub(super) steadfast: Vec<Option<Lsn>>,
    /// The records of retained messages that can be refused.
    retained_records: Vec<(usize, Lsn)>,
    /// The topics of those in `retained` that can be refused, with what stays then.
    retained_over: BTreeMap<Box<str>, Option<(Message, u64)>>,
    /// Where in `messages` an identifier came into use.
    incoming: BTreeMap<(StoredSession, PacketId), usize>,
}

impl Batch {
    /// For the records of so many shards.
    pub(super) fn new(shard_count: usize) -> Self {
        Self {
            steadfast: vec![None; shard_count],
            ..Self::default()
        }
    }

    /// Takes in the next record of a shard.
    pub(super) fn add(&mut self, shard: usize, lsn: Lsn, record: Record) {
        self.records += 1;
        if is_waited_for(&record) {
            self.steadfast[shard].get_or_insert(lsn);
        }
        match record {
            Record::Session(session) => {
                self.sessions.insert(session.session, session);
            }
            Record::SessionEnded(session) => {
                self.sessions_ended.insert(session);
            }
            Record::Subscribed {
                session,
                filter,
                options,
                id,
            } => {
                self.subscriptions
                    .insert((session, filter), Some((options, id)));
            }
            Record::Unsubscribed { session, filter } => {
                self.subscriptions.insert((session, filter), None);
            }
            Record::Message {
                id,
                message,
                wall_minus_mono_ms,
                receivers,
                refusable,
                received_from,
            } => {
                if let Some(from) = received_from {
                    self.incoming.insert(from, self.messages.len());
                }
                self.messages.push(NewMessage {
                    id,
                    message,
                    wall_minus_mono_ms,
                    receivers,
                    received_from,
                    refusable: refusable.then_some((shard, lsn)),
                });
            }
            Record::Ended { id, session, part } => self.ended.push((id, (session, part))),
            Record::Outgoing {
                session,
                packet_id,
                step,
            } => {
                self.outgoing.insert((session, packet_id), Some(step));
            }
            Record::OutgoingEnded { session, packet_id } => {
                self.outgoing.insert((session, packet_id), None);
            }
            Record::ReceivedEnded { session, packet_id } => {
                if let Some(at) = self.incoming.remove(&(session, packet_id)) {
                    self.messages[at].received_from = None;
                }
                self.incoming_ended.insert((session, packet_id));
            }
            Record::Retained {
                message,
                wall_minus_mono_ms,
                refusable,
            } => {
                if refusable {
                    self.retained_records.push((shard, lsn));
                }
                self.retain((message, wall_minus_mono_ms), refusable);
            }
        }
    }

    /// The newest of a topic counts, and beneath it the newest that cannot be refused.
    fn retain(&mut self, new: (Message, u64), refusable: bool) {
        let topic: Box<str> = new.0.topic().into();
        let is_newer = |old: &(Message, u64)| old.0.stamp() < new.0.stamp();
        if self.retained.get(&topic).is_none_or(is_newer) {
            if refusable {
                let before = self.retained.insert(topic.clone(), new);
                self.retained_over.entry(topic).or_insert(before);
            } else {
                self.retained_over.remove(&topic);
                self.retained.insert(topic, new);
            }
        } else if !refusable
            && let Some(stays) = self.retained_over.get_mut(&topic)
            && stays.as_ref().is_none_or(is_newer)
        {
            *stays = Some(new);
        }
    }

    /// Gives up what can be refused; the rest stays.
    pub(super) fn refuse(&mut self) -> Refused {
        let mut refused = Refused {
            records: vec![Vec::new(); self.steadfast.len()],
            messages: Vec::new(),
        };
        for (shard, lsn) in self.retained_records.drain(..) {
            refused.records[shard].push(lsn);
        }
        for (topic, stays) in std::mem::take(&mut self.retained_over) {
            match stays {
                Some(stays) => self.retained.insert(topic, stays),
                None => self.retained.remove(&topic),
            };
        }
        self.messages.retain(|message| {
            let Some((shard, lsn)) = message.refusable else {
                return true;
            };
            refused.records[shard].push(lsn);
            refused.messages.push(message.id);
            false
        });
        for records in &mut refused.records {
            records.sort_unstable();
        }
        // What was ahead of a message has nothing to wait for any more.
        if !refused.messages.is_empty() {
            refused.messages.sort_unstable();
            let is_refused = |id: &StoredMessage| refused.messages.binary_search(id).is_ok();
            self.ended.retain(|(id, _)| !is_refused(id));
        }
        self.incoming.clear();
        for (at, message) in self.messages.iter().enumerate() {
            self.incoming
                .extend(message.received_from.map(|from| (from, at)));
        }
        refused
    }

    /// Before it is written.
    pub(super) fn sort(&mut self) {
        self.ended.sort_unstable();
    }

    /// Who is done with this message.
    pub(super) fn ended_of(&self, id: StoredMessage) -> &[(StoredMessage, SessionPart)] {
        let from = self.ended.partition_point(|(other, _)| *other < id);
        let count = self.ended[from..].partition_point(|(other, _)| *other == id);
        &self.ended[from..from + count]
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.sessions_ended.is_empty()
            && self.subscriptions.is_empty()
            && self.messages.is_empty()
            && self.ended.is_empty()
            && self.outgoing.is_empty()
            && self.incoming_ended.is_empty()
            && self.retained.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::QoS;
    use crate::shard::message::MessageParts;

    fn retained(stamp: u64, refusable: bool) -> Record {
        Record::Retained {
            message: Message::new(&MessageParts {
                retain: true,
                stamp,
                ..MessageParts::new("t", QoS::AtLeastOnce, b"x")
            }),
            wall_minus_mono_ms: 0,
            refusable,
        }
    }

    /// Shards' stamps come in any order, and so do those that can be refused.
    #[test]
    fn of_a_topic_the_newest_stays_that_cannot_be_refused() {
        for (records, newest, stays) in [
            (&[(1, true)][..], 1, None),
            (&[(1, false)], 1, Some(1)),
            (&[(1, false), (2, true)], 2, Some(1)),
            (&[(2, true), (1, false)], 2, Some(1)),
            (&[(1, true), (2, false)], 2, Some(2)),
            (&[(2, false), (1, true)], 2, Some(2)),
            (&[(1, false), (3, true), (2, false), (4, true)], 4, Some(2)),
            (&[(2, false), (4, true), (1, false), (3, true)], 4, Some(2)),
            (&[(1, false), (2, true), (3, false), (4, true)], 4, Some(3)),
        ] {
            let mut batch = Batch::new(1);
            for (lsn, (stamp, refusable)) in (1..).zip(records) {
                batch.add(0, Lsn(lsn), retained(*stamp, *refusable));
            }
            let stamp = |batch: &Batch| batch.retained.values().next().map(|(it, _)| it.stamp());
            assert_eq!(stamp(&batch), Some(newest), "{records:?}");
            let refused = batch.refuse();
            let can_be = records.iter().filter(|(_, refusable)| *refusable).count();
            assert_eq!(refused.records[0].len(), can_be, "{records:?}");
            assert_eq!(stamp(&batch), stays, "{records:?}");
            assert_eq!(batch.steadfast, [None], "nobody waits for it");
            // As long as the disk is full it is asked again and again.
            assert!(batch.refuse().records[0].is_empty());
            assert_eq!(stamp(&batch), stays, "{records:?}");
        }
    }
}

//! What waits for the store: everything that a peer may be told only after a record is durable.

use super::Shard;
use super::connect::Before;
use super::connection::PAUSED_BY_RETAINED;
use super::ending::{Ended, Ending, Leaving};
use super::fetch::{FetchFor, Redispatch};
use super::gate::Ticket;
use super::hold::{Hold, Withheld};
use super::input::{ConnKey, ShardId};
use super::linger::Lingering;
use super::mesh::PendingSuback;
use super::mesh_message::{MeshMessage, Taken, TakenEnd};
use super::outbox::Outbox;
use super::record::{Durability, Lsn, Record, StoredMessage};
use super::storing::{AtHand, Storing, Unstored};
use crate::protocol::{PacketId, ReasonCode};
use crate::session::SessionKey;
use crate::session::inflight::Settled;
use crate::topic::interest::{InterestTable, LocalInterest};
use hashbrown::HashMap;
use slab::Slab;
use std::collections::VecDeque;

/// A table keyed by numbers that clients do not choose.
pub(super) type Numbered<T> = HashMap<u64, T, foldhash::fast::FixedState>;

/// What follows when a record is durable.
#[derive(Debug)]
pub(super) enum Wait {
    /// CONNACK leaves, and what stands behind it.
    Connack(ConnKey),
    /// SUBACK leaves.
    Suback(PendingSuback),
    /// UNSUBACK leaves.
    Packet { conn: ConnKey, packet: Vec<u8> },
    /// An acknowledgement leaves in its turn.
    Ack { conn: ConnKey, ticket: Ticket },
    /// A QoS 2 message to a client takes its next step.
    Step {
        session: SessionKey,
        stored: u64,
        packet_id: PacketId,
    },
    /// The end of the last session with a Client Identifier is durable.
    Ended(u64),
    /// A connection is read again.
    Read(ConnKey),
    /// A message is stored: its publisher and its receivers are told.
    Message(u64),
    /// Nothing: it was a message that was refused before its turn.
    Refused,
}

/// What a shard knows of its part of the store.
pub(super) struct Keeper {
    /// `Durability::None`: there is no store, and no session is stored.
    pub(super) durability: Durability,
    /// The store has room for messages.
    pub(super) accepts: bool,
    /// Records emitted.
    pub(super) emitted: u64,
    /// Records settled.
    pub(super) committed: u64,
    /// Of connections whose CONNACK has not left, by index: what the sessions were before that they resume.
    pub(super) ungranted: Numbered<Option<Before>>,
    /// By ascending number of the record.
    pub(super) waits: VecDeque<(u64, Wait)>,
    /// The last numbers given.
    pub(super) last_session: u64,
    pub(super) last_message: u64,
    /// What stored sessions of other shards want.
    pub(super) interest: InterestTable,
    /// What those of this shard want, counted by subscription.
    pub(super) local_interest: LocalInterest,
    /// Messages of publishers of this shard that are not settled.
    pub(super) storing: Numbered<Storing>,
    /// Messages that sessions of this shard took and that are not durable yet.
    pub(super) unstored: Numbered<Unstored>,
    /// Messages that are being refused to those sessions, one after the other.
    pub(super) refused: VecDeque<u64>,
    /// Sessions that ended and whose last messages have not found another home.
    pub(super) endings: Slab<Ending>,
    /// Of sessions that leave messages to others.
    pub(super) leaving: Numbered<Leaving>,
    /// By hash of the Client Identifier.
    pub(super) ended: Numbered<Ended>,
    /// What the publication at hand has come to so far.
    pub(super) at_hand: AtHand,
    /// Answers to other shards, sent at the end of the input.
    pub(super) answers: Vec<(ShardId, Taken)>,
    /// Answers that wait for room in a queue, or for those whom the message is under way to.
    pub(super) withheld: Vec<Withheld>,
    /// Messages whose records linger, by deadline; some are settled.
    pub(super) lingering: VecDeque<Lingering>,
    pub(super) linger_timer_is_set: bool,
    /// Of these, those whose receivers are all done; settled at the end of the input.
    pub(super) over: Vec<u64>,
    /// Ends of messages of other shards, sent at the end of the input.
    pub(super) ends_away: Vec<(ShardId, Vec<TakenEnd>)>,
    /// Deliveries that wait for room, by deadline.
    pub(super) holds: VecDeque<Hold>,
    pub(super) hold_timer_is_set: bool,
    /// What is being read back.
    pub(super) fetches: Numbered<FetchFor>,
    pub(super) last_fetch: u64,
    /// Messages in the store that are to find another member of their group.
    pub(super) redispatches: Slab<Redispatch>,
    /// Sessions are being recovered: no timer fires until all shards know each other's interest.
    pub(super) is_recovering: bool,
    /// The shards that have told all they recovered.
    pub(super) recovered: u64,
}

impl Keeper {
    pub(super) fn new(durability: Durability, hash_seed: u64) -> Self {
        Self {
            durability,
            accepts: true,
            emitted: 0,
            committed: 0,
            ungranted: Numbered::default(),
            waits: VecDeque::new(),
            last_session: 0,
            last_message: 0,
            interest: InterestTable::new(hash_seed),
            local_interest: LocalInterest::new(),
            storing: Numbered::default(),
            unstored: Numbered::default(),
            refused: VecDeque::new(),
            endings: Slab::new(),
            leaving: Numbered::default(),
            ended: Numbered::default(),
            at_hand: AtHand::default(),
            answers: Vec::new(),
            withheld: Vec::new(),
            lingering: VecDeque::new(),
            linger_timer_is_set: false,
            over: Vec::new(),
            ends_away: Vec::new(),
            holds: VecDeque::new(),
            hold_timer_is_set: false,
            fetches: Numbered::default(),
            last_fetch: 0,
            redispatches: Slab::new(),
            is_recovering: durability != Durability::None,
            recovered: 0,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.durability != Durability::None
    }

    /// Makes something follow a record.
    pub(super) fn wait(&mut self, record: u64, wait: Wait) {
        assert!(record > self.committed);
        assert!(record <= self.emitted);
        let at = self.waits.partition_point(|(other, _)| *other <= record);
        self.waits.insert(at, (record, wait));
    }

    /// Takes out the message that waits for this record, if all of its records are `refused`.
    fn refused_before_its_turn(&mut self, record: Lsn, refused: &[Lsn]) -> Option<u64> {
        let from = self.waits.partition_point(|(other, _)| *other < record.0);
        let mut same = self.waits.range_mut(from..);
        let (number, wait) = same.find_map(|(other, wait)| match wait {
            Wait::Message(number) if *other == record.0 => Some((*number, wait)),
            _ => None,
        })?;
        let storing = self.storing.get(&number)?;
        if !storing.is_refused_by(refused) {
            return None;
        }
        *wait = Wait::Refused;
        Some(number)
    }
}

impl Shard {
    /// Emits a record and returns its number.
    pub(super) fn keep(&mut self, record: Record, outbox: &mut Outbox) -> u64 {
        assert!(self.keeper.is_on());
        self.keeper.emitted += 1;
        outbox.records.push(record);
        self.keeper.emitted
    }

    pub(super) fn committed(&mut self, up_to: Lsn, refused: &[Lsn], outbox: &mut Outbox) {
        assert!(self.keeper.committed <= up_to.0);
        assert!(up_to.0 <= self.keeper.emitted);
        debug_assert!(refused.is_sorted());
        self.keeper.committed = up_to.0;
        let mut told = Told::default();
        let ahead = refused.partition_point(|lsn| *lsn <= up_to);
        for lsn in &refused[ahead..] {
            if let Some(number) = self.keeper.refused_before_its_turn(*lsn, refused) {
                self.message_is_settled(number, refused, &mut told, outbox);
            }
        }
        loop {
            let waits = &mut self.keeper.waits;
            if waits.front().is_none_or(|(record, _)| *record > up_to.0) {
                break;
            }
            let (_, wait) = waits.pop_front().expect("looked at");
            match wait {
                Wait::Connack(conn) => self.uncork(conn, outbox),
                Wait::Suback(suback) => self.send_suback(suback, outbox),
                Wait::Packet { conn, packet } => {
                    if self.is_open(conn) {
                        self.control(conn, outbox, |out| out.extend_from_slice(&packet));
                    }
                }
                Wait::Ack { conn, ticket } => {
                    self.open_gate(conn, ticket, ReasonCode::Success, outbox);
                }
                Wait::Step {
                    session,
                    stored,
                    packet_id,
                } => self.step_is_durable(session, stored, packet_id, outbox),
                Wait::Read(conn) => self.resume(conn, PAUSED_BY_RETAINED, outbox),
                Wait::Ended(client) => self.end_is_durable(client),
                Wait::Message(number) => {
                    self.message_is_settled(number, refused, &mut told, outbox)
                }
                Wait::Refused => {}
            }
        }
        told.send(outbox);
        if self.keeper.waits.is_empty() {
            // A burst must not keep its memory.
            self.keeper.waits = VecDeque::new();
        }
    }

    fn step_is_durable(
        &mut self,
        session: SessionKey,
        stored: u64,
        packet_id: PacketId,
        outbox: &mut Outbox,
    ) {
        let Some(found) = self.sessions.get_mut(session.0 as usize) else {
            return;
        };
        let conn = found.conn;
        let Some(state) = found.state.as_mut().filter(|_| found.stored == stored) else {
            return;
        };
        match (state.inflight.settle(packet_id), conn) {
            (Settled::Release, Some(conn)) => self.put_pubrel(conn, packet_id, outbox),
            (Settled::Send, Some(_)) => self.pump(session, outbox),
            _ => {}
        }
    }

    /// Sends the answers that other shards wait for; those to this shard itself are taken.
    pub(super) fn send_answers(&mut self, outbox: &mut Outbox) {
        let mut answers = std::mem::take(&mut self.keeper.answers);
        answers.sort_by_key(|(to, _)| *to);
        let mut batch: Vec<Taken> = Vec::new();
        while let Some((to, taken)) = answers.pop() {
            if to == self.id {
                self.taken(to, taken, outbox);
                continue;
            }
            batch.push(taken);
            if answers.last().is_none_or(|(next, _)| *next != to) {
                batch.reverse();
                outbox.send(to, MeshMessage::Taken(std::mem::take(&mut batch)));
            }
        }
    }
}

/// What other shards are told of messages, gathered over one commit.
#[derive(Default)]
pub(super) struct Told {
    stored: Vec<(ShardId, Vec<StoredMessage>)>,
    refused: Vec<(ShardId, Vec<StoredMessage>)>,
}

impl Told {
    pub(super) fn add(&mut self, takers: u64, number: u64, is_refused: bool) {
        let lists = if is_refused {
            &mut self.refused
        } else {
            &mut self.stored
        };
        let mut mask = takers;
        while mask != 0 {
            let to = ShardId(mask.trailing_zeros() as u8);
            mask &= mask - 1;
            match lists.iter_mut().find(|(shard, _)| *shard == to) {
                Some((_, list)) => list.push(StoredMessage(number)),
                None => lists.push((to, vec![StoredMessage(number)])),
            }
        }
    }

    pub(super) fn send(self, outbox: &mut Outbox) {
        for (to, numbers) in self.stored {
            outbox.send(to, MeshMessage::Stored(numbers));
        }
        for (to, numbers) in self.refused {
            outbox.send(to, MeshMessage::Refused(numbers));
        }
    }
}

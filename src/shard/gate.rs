//! Acknowledgements that wait for the store leave in the order of their packets (MQTT 5 [MQTT-4.6.0-2]), and CONNACK
//! holds back everything behind it.

use super::Shard;
use super::connection::{End, Owed, PAUSED_BY_STORE, Stage};
use super::input::ConnKey;
use super::outbox::Outbox;
use crate::protocol::{PacketId, PacketType, ReasonCode, ack};
use std::collections::VecDeque;

/// The place of an acknowledgement in the line of its connection.
pub(super) type Ticket = u32;

/// An acknowledgement of one connection.
#[derive(Debug)]
struct Waiting {
    packet_type: PacketType,
    packet_id: PacketId,
    /// Once it is known.
    reason: Option<ReasonCode>,
}

/// The acknowledgements of one connection that wait, or stand behind one that does.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// The ticket of `waiting[0]`.
    first: Ticket,
    waiting: VecDeque<Waiting>,
    /// The numbers of its messages that linger, ascending; some are settled.
    pub(super) lingering: VecDeque<u64>,
}

/// Acknowledgements that may wait before the client is not read any more.
const WAITING_MAX: usize = 1_024;

/// Why a connection ends whose message was refused.
const CANNOT_STORE: &str = "a message cannot be stored";

impl Shard {
    /// Whether the connection lives and has a session.
    pub(super) fn is_open(&self, key: ConnKey) -> bool {
        self.conn(key).is_some_and(|conn| conn.stage == Stage::Open)
    }

    /// Acknowledges a packet, behind those that wait.
    pub(super) fn acknowledge(
        &mut self,
        key: ConnKey,
        packet_type: PacketType,
        packet_id: PacketId,
        reason: ReasonCode,
        outbox: &mut Outbox,
    ) {
        if self.open(key).gate.is_none() && !self.must_close_for(key, packet_type, reason) {
            self.put_acknowledgement(key, packet_type, packet_id, reason, outbox);
            return;
        }
        let ticket = self.line_up_ack(key, packet_type, packet_id, outbox);
        self.open_gate(key, ticket, reason, outbox);
    }

    /// Keeps a place for an acknowledgement that has to wait.
    pub(super) fn line_up_ack(
        &mut self,
        key: ConnKey,
        packet_type: PacketType,
        packet_id: PacketId,
        outbox: &mut Outbox,
    ) -> Ticket {
        let gate = self.open(key).gate.get_or_insert_default();
        let ticket = gate.first.wrapping_add(gate.waiting.len() as Ticket);
        gate.waiting.push_back(Waiting {
            packet_type,
            packet_id,
            reason: None,
        });
        if gate.waiting.len() >= WAITING_MAX {
            self.pause(key, PAUSED_BY_STORE, outbox);
        }
        ticket
    }

    /// An acknowledgement need not wait any longer. Nothing happens when its connection is gone.
    pub(super) fn open_gate(
        &mut self,
        key: ConnKey,
        ticket: Ticket,
        reason: ReasonCode,
        outbox: &mut Outbox,
    ) {
        if !self.is_open(key) {
            return;
        }
        let gate = self.open(key).gate.as_mut();
        let gate = gate.expect("who has a ticket stands in line");
        let at = ticket.wrapping_sub(gate.first) as usize;
        let packet_type = gate.waiting[at].packet_type;
        if self.must_close_for(key, packet_type, reason) {
            // Not when its turn has come: what the client has sent behind it must not be taken any more, or it would stand before it
            // when the client sends both again. It keeps its place without a reason, and nothing passes it.
            self.to_end.push((key, End::new(reason, CANNOT_STORE)));
            return;
        }
        let gate = self.open(key).gate.as_mut().expect("looked at");
        gate.waiting[at].reason = Some(reason);
        self.let_pass(key, outbox);
    }

    /// Whether the connection ends after the present input because a message was refused: it will send again what stands behind that.
    pub(super) fn was_refused(&self, key: ConnKey) -> bool {
        let mut ends = self.to_end.iter();
        ends.any(|(other, end)| *other == key && end.what == CANNOT_STORE)
    }

    fn let_pass(&mut self, key: ConnKey, outbox: &mut Outbox) {
        while let Some(gate) = &mut self.open(key).gate {
            let Some(next) = gate.waiting.front() else {
                self.open(key).gate = None;
                break;
            };
            let Some(reason) = next.reason else { break };
            let (packet_type, packet_id) = (next.packet_type, next.packet_id);
            let gate = self.open(key).gate.as_mut().expect("looked at");
            gate.waiting.pop_front();
            gate.first = gate.first.wrapping_add(1);
            self.put_acknowledgement(key, packet_type, packet_id, reason, outbox);
        }
        let waiting = self
            .open(key)
            .gate
            .as_ref()
            .map_or(0, |gate| gate.waiting.len());
        if waiting < WAITING_MAX / 2 {
            self.resume(key, PAUSED_BY_STORE, outbox);
        }
    }

    /// Whether an acknowledgement refuses what it cannot refuse: 3.x has no code for it, so the connection is the only place to
    /// say it.
    fn must_close_for(
        &mut self,
        key: ConnKey,
        packet_type: PacketType,
        reason: ReasonCode,
    ) -> bool {
        let refuses = packet_type != PacketType::Pubcomp && reason as u8 >= 0x80;
        refuses && !self.open(key).version.is_v5()
    }

    fn put_acknowledgement(
        &mut self,
        key: ConnKey,
        packet_type: PacketType,
        packet_id: PacketId,
        reason: ReasonCode,
        outbox: &mut Outbox,
    ) {
        let version = self.open(key).version;
        self.control(key, outbox, |out| {
            ack::put_ack(out, version, packet_type, packet_id, reason);
        });
    }

    /// Holds back everything that is written to a connection, which has nothing outbound yet: for as long as a client has for
    /// its CONNECT.
    pub(super) fn cork(&mut self, key: ConnKey) {
        let conn = self.open(key);
        assert!(conn.owed == Owed::Nothing);
        conn.is_corked = true;
        // So that nobody tells the shell before `uncork` does.
        conn.owed = Owed::Now;
        let allowed_ms = u64::from(self.limits.connect_timeout_ms);
        self.set_conn_timer(key, self.now.mono_ms + allowed_ms);
    }

    /// Lets what was held back go. Nothing happens when the connection is gone.
    pub(super) fn uncork(&mut self, key: ConnKey, outbox: &mut Outbox) {
        let now_ms = self.now.mono_ms;
        if self.is_open(key) && std::mem::take(&mut self.open(key).is_corked) {
            // The time in which it waited for us does not count against the Keep Alive.
            self.open(key).last_received_ms = now_ms;
            self.keeper.ungranted.remove(&u64::from(key.index));
            outbox.dirty.push(key);
        }
    }
}

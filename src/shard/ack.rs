//! PUBACK, PUBREC, PUBREL and PUBCOMP from a client (MQTT 5 §3.4 to §3.7).

use super::Shard;
use super::commit::Wait;
use super::connection::Handled;
use super::input::ConnKey;
use super::outbox::Outbox;
use super::record::{OutgoingStep, Record, StoredSession};
use crate::protocol::ack::{Ack, put_ack};
use crate::protocol::{PacketId, PacketType, ReasonCode};
use crate::session::SessionKey;
use crate::session::inflight::Acked;

impl Shard {
    pub(super) fn acknowledgement(
        &mut self,
        key: ConnKey,
        packet_type: PacketType,
        body: &[u8],
        outbox: &mut Outbox,
    ) -> Handled {
        let conn = self.open(key);
        let (version, session) = (conn.version, conn.session);
        let ack = Ack::decode(version, packet_type, body)?;
        let id = ack.packet_id;
        if packet_type == PacketType::Pubrel {
            self.pubrel(key, session, id, outbox);
            return Ok(());
        }
        let accepted = (ack.reason as u8) < 0x80;
        let stored = self.sessions[session.0 as usize].stored;
        let Some(state) = &mut self.sessions[session.0 as usize].state else {
            self.unknown(key, &ack, packet_type, outbox);
            return Ok(());
        };
        let spares = &mut self.spares;
        let acked = match packet_type {
            PacketType::Puback => state.inflight.puback(id, spares),
            PacketType::Pubrec => state.inflight.pubrec(id, accepted, stored != 0, spares),
            _ => state.inflight.pubcomp(id),
        };
        match acked {
            Acked::Complete(place) => {
                if packet_type == PacketType::Puback {
                    self.note_promptness(session, place.number);
                }
                self.ended(session, place, outbox);
                if stored != 0 && packet_type != PacketType::Puback {
                    let session = StoredSession(stored);
                    let packet_id = id;
                    self.keep(Record::OutgoingEnded { session, packet_id }, outbox);
                }
                self.pump(session, outbox);
            }
            Acked::Release(place) if stored != 0 => {
                self.ended(session, place, outbox);
                self.keep_step(session, id, OutgoingStep::Released, outbox);
            }
            Acked::Release(_) | Acked::ReleaseAgain => self.put_pubrel(key, id, outbox),
            Acked::Held => {}
            Acked::Unknown => self.unknown(key, &ack, packet_type, outbox),
        }
        Ok(())
    }

    fn pubrel(&mut self, key: ConnKey, session_key: SessionKey, id: PacketId, outbox: &mut Outbox) {
        let session = &mut self.sessions[session_key.0 as usize];
        let stored = session.stored;
        let received = &mut session.state().received;
        let pending = received.pending(id);
        let was_open = received.remove(id);
        // What was never recorded as in use need not be freed.
        let is_recorded = pending.is_none_or(|number| self.is_recorded(number));
        if was_open && stored != 0 && is_recorded {
            let session = StoredSession(stored);
            let packet_id = id;
            let record = self.keep(Record::ReceivedEnded { session, packet_id }, outbox);
            let conn = key;
            let ticket = self.line_up_ack(key, PacketType::Pubcomp, id, outbox);
            self.keeper.wait(record, Wait::Ack { conn, ticket });
            return;
        }
        // 3.1.1 knows no reason: PUBCOMP ends the exchange whatever the server remembers (§4.3.3).
        let reason = if was_open {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        self.acknowledge(key, PacketType::Pubcomp, id, reason, outbox);
    }

    /// Records a step of a QoS 2 message to a client; what the step allows to send waits for it.
    pub(super) fn keep_step(
        &mut self,
        session: SessionKey,
        packet_id: PacketId,
        step: OutgoingStep,
        outbox: &mut Outbox,
    ) {
        let stored = self.sessions[session.0 as usize].stored;
        let record = Record::Outgoing {
            session: StoredSession(stored),
            packet_id,
            step,
        };
        let record = self.keep(record, outbox);
        let wait = Wait::Step {
            session,
            stored,
            packet_id,
        };
        self.keeper.wait(record, wait);
    }

    pub(super) fn put_pubrel(&mut self, key: ConnKey, id: PacketId, outbox: &mut Outbox) {
        let version = self.open(key).version;
        self.control(key, outbox, |out| {
            put_ack(out, version, PacketType::Pubrel, id, ReasonCode::Success);
        });
    }

    /// An identifier that is not in flight: a PUBREC that expects one gets PUBREL with 0x92 (3.x: a plain PUBREL), so
    /// that the client's exchange ends too; the others need no answer.
    fn unknown(
        &mut self,
        key: ConnKey,
        ack: &Ack<'_>,
        packet_type: PacketType,
        outbox: &mut Outbox,
    ) {
        if packet_type == PacketType::Pubrec && (ack.reason as u8) < 0x80 {
            let version = self.open(key).version;
            let reason = ReasonCode::PacketIdentifierNotFound;
            self.control(key, outbox, |out| {
                put_ack(out, version, PacketType::Pubrel, ack.packet_id, reason);
            });
        }
    }
}

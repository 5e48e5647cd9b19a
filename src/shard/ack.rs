//! PUBACK, PUBREC, PUBREL and PUBCOMP from a client (MQTT 5 §3.4 to §3.7).

use super::Shard;
use super::connection::Handled;
use super::input::ConnKey;
use super::outbox::Outbox;
use crate::protocol::ack::{Ack, put_ack};
use crate::protocol::{PacketType, ReasonCode};
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
            let state = self.sessions[session.0 as usize].state();
            let was_open = state.received.remove(id);
            // 3.1.1 knows no reason: PUBCOMP ends the exchange whatever the server remembers (§4.3.3).
            let reason = if was_open {
                ReasonCode::Success
            } else {
                ReasonCode::PacketIdentifierNotFound
            };
            self.control(key, outbox, |out| {
                put_ack(out, version, PacketType::Pubcomp, id, reason);
            });
            return Ok(());
        }
        let accepted = (ack.reason as u8) < 0x80;
        let Some(state) = &mut self.sessions[session.0 as usize].state else {
            self.unknown(key, &ack, packet_type, outbox);
            return Ok(());
        };
        let acked = match packet_type {
            PacketType::Puback => state.inflight.puback(id),
            PacketType::Pubrec => state.inflight.pubrec(id, accepted),
            _ => state.inflight.pubcomp(id),
        };
        match acked {
            Acked::Complete => self.pump(session, outbox),
            Acked::Release => self.control(key, outbox, |out| {
                put_ack(out, version, PacketType::Pubrel, id, ReasonCode::Success);
            }),
            Acked::Unknown => self.unknown(key, &ack, packet_type, outbox),
        }
        Ok(())
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

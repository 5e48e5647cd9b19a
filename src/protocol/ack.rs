//! PUBACK, PUBREC, PUBREL and PUBCOMP, which have one layout.

use super::error::DecodeError;
use super::property::{Property, UserProperties, Walker, put_properties, put_some};
use super::wire::{Field, Reader, field, put_u16, put_with_len};
use super::{PacketId, PacketType, ReasonCode, Version};

/// A PUBACK, PUBREC, PUBREL or PUBCOMP packet.
///
/// Spec: MQTT 5 §3.4, §3.5, §3.6, §3.7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The Packet Identifier of the PUBLISH.
    pub packet_id: PacketId,
    /// The result; always success in 3.1 and 3.1.1.
    pub reason: ReasonCode,
    /// The reason, for people.
    pub reason_string: Option<&'a str>,
    /// The User Properties.
    pub user: UserProperties<'a>,
}

static REASON_FIELD: Field = field!("Reason Code");

impl<'a> Ack<'a> {
    /// Reads the body of a packet of the type `packet_type`, one of the four.
    ///
    /// Errors: 0x82 for a Packet Identifier of 0; 0x81 for a Reason Code the packet does not have;
    /// else 0x81 or 0x82.
    /// Panics: when `packet_type` is none of the four.
    ///
    /// Spec: MQTT 5 §3.4.2; MQTT-3.4.2-1, MQTT-3.5.2-1, MQTT-3.6.2-1, MQTT-3.7.2-1.
    pub fn decode(
        version: Version,
        packet_type: PacketType,
        body: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let statement = reason_statement(packet_type);
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut ack = Self {
            packet_id,
            reason: ReasonCode::Success,
            reason_string: None,
            user: UserProperties::default(),
        };
        if version.is_v5() && !reader.is_empty() {
            ack.reason = ReasonCode::from_u8(reader.u8(&REASON_FIELD)?)
                .filter(|reason| reason.valid_in(packet_type))
                .ok_or_else(|| {
                    DecodeError::malformed(statement, "the Reason Code is not one of this packet")
                })?;
            if !reader.is_empty() {
                let raw = reader.properties()?;
                for property in Walker::new(packet_type, raw) {
                    if let Property::ReasonString(text) = property? {
                        ack.reason_string = Some(text);
                    }
                }
                ack.user = UserProperties::over(raw);
            }
        }
        reader.end()?;
        Ok(ack)
    }

    /// Appends the packet in its shortest form; in 3.1 and 3.1.1 only the Packet Identifier.
    ///
    /// Panics: when `packet_type` is none of the four, when the code does not belong to it, or when a string
    /// is longer than 65,535 bytes.
    pub fn encode(&self, version: Version, packet_type: PacketType, out: &mut Vec<u8>) {
        let bare = self.reason_string.is_none() && self.user.clone().next().is_none();
        if bare || !version.is_v5() {
            return put_ack(out, version, packet_type, self.packet_id, self.reason);
        }
        check_reason(packet_type, self.reason);
        out.push(packet_type.first_byte());
        put_with_len(out, |out| {
            put_u16(out, self.packet_id.get());
            out.push(self.reason as u8);
            put_properties(out, |out| {
                put_some(out, self.reason_string.map(Property::ReasonString));
                self.user.put(out);
            });
        });
    }
}

/// Appends a PUBACK, PUBREC, PUBREL or PUBCOMP without properties: four bytes, or five for a Reason
/// Code other than success in 5.0.
///
/// Panics: when `packet_type` is none of the four, or `reason` does not belong to it.
///
/// Spec: MQTT 5 §3.4.2.1.
pub fn put_ack(
    out: &mut Vec<u8>,
    version: Version,
    packet_type: PacketType,
    packet_id: PacketId,
    reason: ReasonCode,
) {
    check_reason(packet_type, reason);
    let first = packet_type.first_byte();
    let [high, low] = packet_id.get().to_be_bytes();
    if reason == ReasonCode::Success || !version.is_v5() {
        out.extend_from_slice(&[first, 2, high, low]);
    } else {
        out.extend_from_slice(&[first, 3, high, low, reason as u8]);
    }
}

fn check_reason(packet_type: PacketType, reason: ReasonCode) {
    let _ = reason_statement(packet_type);
    assert!(
        reason == ReasonCode::Success || reason.valid_in(packet_type),
        "the Reason Code is one of the packet"
    );
}

fn reason_statement(packet_type: PacketType) -> &'static str {
    match packet_type {
        PacketType::Puback => "MQTT-3.4.2-1",
        PacketType::Pubrec => "MQTT-3.5.2-1",
        PacketType::Pubrel => "MQTT-3.6.2-1",
        PacketType::Pubcomp => "MQTT-3.7.2-1",
        other => panic!("{} does not acknowledge a PUBLISH", other.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [PacketType; 4] = [
        PacketType::Puback,
        PacketType::Pubrec,
        PacketType::Pubrel,
        PacketType::Pubcomp,
    ];

    fn id(id: u16) -> PacketId {
        PacketId::new(id).expect("not 0")
    }

    #[test]
    fn the_short_forms() {
        for (packet_type, first) in ALL.into_iter().zip([0x40, 0x50, 0x62, 0x70]) {
            for version in [Version::V31, Version::V311, Version::V5] {
                let mut out = Vec::new();
                put_ack(
                    &mut out,
                    version,
                    packet_type,
                    id(0x1234),
                    ReasonCode::Success,
                );
                assert_eq!(out, [first, 2, 0x12, 0x34]);
                let ack = Ack::decode(version, packet_type, &out[2..]).expect("valid");
                assert_eq!(
                    (ack.packet_id, ack.reason),
                    (id(0x1234), ReasonCode::Success)
                );
            }
        }
        let mut out = Vec::new();
        put_ack(
            &mut out,
            Version::V5,
            PacketType::Pubrel,
            id(1),
            ReasonCode::PacketIdentifierNotFound,
        );
        put_ack(
            &mut out,
            Version::V311,
            PacketType::Puback,
            id(1),
            ReasonCode::NotAuthorized,
        );
        assert_eq!(out, b"\x62\x03\x00\x01\x92\x40\x02\x00\x01");
    }

    #[test]
    fn every_field() {
        let body = b"\x00\x01\x97\x0E\x1F\x00\x04full\x26\x00\x01k\x00\x01v";
        let ack = Ack::decode(Version::V5, PacketType::Puback, body).expect("valid");
        assert_eq!(ack.reason, ReasonCode::QuotaExceeded);
        assert_eq!(ack.reason_string, Some("full"));
        assert_eq!(ack.user.clone().collect::<Vec<_>>(), [("k", "v")]);
        let mut out = Vec::new();
        ack.encode(Version::V5, PacketType::Puback, &mut out);
        assert_eq!(out[2..], body[..]);
        let bare =
            Ack::decode(Version::V5, PacketType::Puback, b"\x00\x01\x10\x00").expect("valid");
        assert_eq!(
            (bare.reason, bare.reason_string),
            (ReasonCode::NoMatchingSubscribers, None)
        );
    }

    #[test]
    fn malformed() {
        use ReasonCode::{MalformedPacket, ProtocolError};
        use Version::{V5, V311};
        for (version, packet_type, body, reason, statement) in [
            (
                V311,
                PacketType::Pubcomp,
                &b"\x00"[..],
                MalformedPacket,
                "§4.13.1",
            ),
            (
                V311,
                PacketType::Puback,
                b"\x00\x01\x00",
                MalformedPacket,
                "§4.13.1",
            ),
            (
                V311,
                PacketType::Puback,
                b"\x00\x00",
                ProtocolError,
                "MQTT-2.2.1-3",
            ),
            (
                V5,
                PacketType::Puback,
                b"\x00\x01\x01",
                MalformedPacket,
                "MQTT-3.4.2-1",
            ),
            (
                V5,
                PacketType::Puback,
                b"\x00\x01\x92",
                MalformedPacket,
                "MQTT-3.4.2-1",
            ),
            (
                V5,
                PacketType::Pubrec,
                b"\x00\x01\x92",
                MalformedPacket,
                "MQTT-3.5.2-1",
            ),
            (
                V5,
                PacketType::Pubrel,
                b"\x00\x01\x10",
                MalformedPacket,
                "MQTT-3.6.2-1",
            ),
            (
                V5,
                PacketType::Pubcomp,
                b"\x00\x01\x80",
                MalformedPacket,
                "MQTT-3.7.2-1",
            ),
            (
                V5,
                PacketType::Puback,
                b"\x00\x01\x00\x01",
                MalformedPacket,
                "§4.13.1",
            ),
            (
                V5,
                PacketType::Puback,
                b"\x00\x01\x00\x00\x00",
                MalformedPacket,
                "§4.13.1",
            ),
            (
                V5,
                PacketType::Puback,
                b"\x00\x01\x00\x02\x01\x00",
                MalformedPacket,
                "§2.2.2.2",
            ),
        ] {
            let error = Ack::decode(version, packet_type, body).expect_err("must be refused");
            assert_eq!(
                (error.reason, error.statement),
                (reason, statement),
                "{body:x?}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "one of the packet")]
    fn a_code_of_another_packet_is_our_own_mistake() {
        put_ack(
            &mut Vec::new(),
            Version::V5,
            PacketType::Pubrel,
            id(1),
            ReasonCode::QuotaExceeded,
        );
    }
}

//! UNSUBSCRIBE.

use super::error::DecodeError;
use super::property::{UserProperties, Walker, put_properties};
use super::wire::{Field, Reader, field, put_binary, put_u16, put_with_len};
use super::{PacketId, PacketType, Version};

/// An UNSUBSCRIBE packet.
///
/// Spec: MQTT 5 §3.10.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// The Packet Identifier, which UNSUBACK repeats.
    pub packet_id: PacketId,
    /// The User Properties.
    pub user: UserProperties<'a>,
    /// The Topic Filters; [`Unsubscribe::decode`] has checked them.
    raw_filters: &'a [u8],
}

static FILTER_FIELD: Field = field!("Topic Filter");

impl<'a> Unsubscribe<'a> {
    /// Reads the body of an UNSUBSCRIBE, and checks every Topic Filter but for its own syntax.
    ///
    /// Errors: 0x82 when there is no Topic Filter; 0x81 for malformed strings.
    ///
    /// Spec: MQTT 5 §3.10; MQTT-3.10.3-2.
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut user = UserProperties::default();
        if version.is_v5() {
            let raw = reader.properties()?;
            for property in Walker::new(PacketType::Unsubscribe, raw) {
                property?;
            }
            user = UserProperties::over(raw);
        }
        let raw_filters = reader.rest();
        if raw_filters.is_empty() {
            return Err(DecodeError::protocol(
                "MQTT-3.10.3-2",
                "UNSUBSCRIBE without a Topic Filter",
            ));
        }
        while !reader.is_empty() {
            reader.utf8(&FILTER_FIELD)?;
        }
        Ok(Self {
            packet_id,
            user,
            raw_filters,
        })
    }

    /// The Topic Filters, in their order; at least one.
    pub fn filters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.raw_filters);
        std::iter::from_fn(move || reader.utf8(&FILTER_FIELD).ok())
    }

    /// Appends an UNSUBSCRIBE.
    ///
    /// Panics: when there is no filter, one is longer than 65,535 bytes, or the packet is larger
    /// than there can be.
    pub fn encode(
        out: &mut Vec<u8>,
        version: Version,
        packet_id: PacketId,
        user: &UserProperties<'_>,
        filters: &[&str],
    ) {
        assert!(
            !filters.is_empty(),
            "UNSUBSCRIBE has at least one Topic Filter"
        );
        out.push(PacketType::Unsubscribe.first_byte());
        put_with_len(out, |out| {
            put_u16(out, packet_id.get());
            if version.is_v5() {
                put_properties(out, |out| user.put(out));
            }
            filters
                .iter()
                .for_each(|filter| put_binary(out, filter.as_bytes()));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ReasonCode;

    #[test]
    fn filters_come_in_their_order() {
        for (version, body) in [
            (Version::V31, &b"\x00\x01\x00\x03a/+\x00\x01#"[..]),
            (Version::V311, b"\x00\x01\x00\x03a/+\x00\x01#"),
            (
                Version::V5,
                b"\x00\x01\x07\x26\x00\x01k\x00\x01v\x00\x03a/+\x00\x01#",
            ),
        ] {
            let unsubscribe = Unsubscribe::decode(version, body).expect("valid");
            let filters: Vec<_> = unsubscribe.filters().collect();
            assert_eq!(filters, ["a/+", "#"]);
            assert_eq!(
                unsubscribe.user.clone().count(),
                usize::from(version.is_v5())
            );
            let mut out = Vec::new();
            Unsubscribe::encode(
                &mut out,
                version,
                unsubscribe.packet_id,
                &unsubscribe.user,
                &filters,
            );
            assert_eq!(out[..2], [0xA2, body.len() as u8]);
            assert_eq!(out[2..], body[..]);
        }
    }

    #[test]
    fn malformed() {
        use ReasonCode::{MalformedPacket, ProtocolError};
        use Version::{V5, V311};
        for (version, body, reason, statement) in [
            (V311, &b"\x00\x01"[..], ProtocolError, "MQTT-3.10.3-2"),
            (V5, b"\x00\x01\x00", ProtocolError, "MQTT-3.10.3-2"),
            (V311, b"\x00\x00\x00\x01t", ProtocolError, "MQTT-2.2.1-3"),
            (V311, b"\x00\x01\x00\x02t", MalformedPacket, "§4.13.1"),
            (V311, b"\x00\x01\x00\x01t\x00", MalformedPacket, "§4.13.1"),
            (
                V5,
                b"\x00\x01\x02\x0B\x01\x00\x01t",
                MalformedPacket,
                "§2.2.2.2",
            ),
        ] {
            let error = Unsubscribe::decode(version, body).expect_err("must be refused");
            assert_eq!(
                (error.reason, error.statement),
                (reason, statement),
                "{body:x?}"
            );
        }
    }
}

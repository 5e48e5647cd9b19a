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

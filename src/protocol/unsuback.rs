//! UNSUBACK.

use super::error::DecodeError;
use super::property::{Property, UserProperties, Walker, put_properties, put_some};
use super::wire::{Reader, put_u16, put_with_len};
use super::{PacketId, PacketType, ReasonCode, Version};

/// An UNSUBACK packet: the server's answer to UNSUBSCRIBE.
///
/// Spec: MQTT 5 §3.11.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsuback<'a> {
    /// The Packet Identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// A Reason Code for each Topic Filter, in their order; empty in 3.1 and 3.1.1.
    pub codes: &'a [u8],
    /// The reason, for people.
    pub reason_string: Option<&'a str>,
    /// The User Properties.
    pub user: UserProperties<'a>,
}

impl<'a> Unsuback<'a> {
    /// Reads the body of an UNSUBACK.
    ///
    /// Errors: 0x81 when it is malformed, or in 5.0 has no code or one that UNSUBACK does not have.
    ///
    /// Spec: MQTT 5 §3.11; MQTT-3.11.3-2.
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let user = UserProperties::default();
        let mut unsuback = Self {
            packet_id,
            codes: &[],
            reason_string: None,
            user,
        };
        if !version.is_v5() {
            reader.end()?;
            return Ok(unsuback);
        }
        let raw = reader.properties()?;
        for property in Walker::new(PacketType::Unsuback, raw) {
            if let Property::ReasonString(text) = property? {
                unsuback.reason_string = Some(text);
            }
        }
        unsuback.user = UserProperties::over(raw);
        unsuback.codes = reader.rest();
        if unsuback.codes.is_empty() || !unsuback.codes.iter().all(|&code| is_code(code)) {
            return Err(DecodeError::malformed(
                "MQTT-3.11.3-2",
                "UNSUBACK without a Reason Code, or with one it does not have",
            ));
        }
        Ok(unsuback)
    }

    /// Appends the packet; in 3.1 and 3.1.1 only the Packet Identifier.
    ///
    /// Panics: when there is no code or a wrong one in 5.0, or a string is longer than 65,535 bytes.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        out.push(PacketType::Unsuback.first_byte());
        put_with_len(out, |out| {
            put_u16(out, self.packet_id.get());
            if !version.is_v5() {
                return;
            }
            assert!(
                !self.codes.is_empty(),
                "UNSUBACK has a Reason Code for each Topic Filter"
            );
            assert!(
                self.codes.iter().all(|&code| is_code(code)),
                "the Reason Codes are those of UNSUBACK"
            );
            put_properties(out, |out| {
                put_some(out, self.reason_string.map(Property::ReasonString));
                self.user.put(out);
            });
            out.extend_from_slice(self.codes);
        });
    }
}

/// Appends an UNSUBACK without properties; in 3.1 and 3.1.1 the codes are left out.
///
/// Panics: when, in 5.0, there is no code or one that UNSUBACK does not have.
///
/// Spec: MQTT 5 §3.11.3.
pub fn put_unsuback(out: &mut Vec<u8>, version: Version, packet_id: PacketId, codes: &[u8]) {
    Unsuback {
        packet_id,
        codes,
        reason_string: None,
        user: UserProperties::default(),
    }
    .encode(version, out);
}

fn is_code(code: u8) -> bool {
    ReasonCode::from_u8(code).is_some_and(|code| code.valid_in(PacketType::Unsuback))
}

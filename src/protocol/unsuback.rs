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

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> PacketId {
        PacketId::new(7).expect("not 0")
    }

    #[test]
    fn short_forms() {
        let mut out = Vec::new();
        put_unsuback(&mut out, Version::V311, id(), &[0, 0x11]);
        assert_eq!(out, b"\xB0\x02\x00\x07");
        assert_eq!(
            Unsuback::decode(Version::V311, &out[2..]).map(|it| it.codes),
            Ok(&[][..])
        );
        out.clear();
        put_unsuback(&mut out, Version::V5, id(), &[0, 0x11]);
        assert_eq!(out, b"\xB0\x05\x00\x07\x00\x00\x11");
        assert_eq!(
            Unsuback::decode(Version::V5, &out[2..]).map(|it| it.codes),
            Ok(&[0, 0x11][..])
        );
    }

    #[test]
    fn every_field() {
        let body = b"\x00\x07\x0B\x1F\x00\x01r\x26\x00\x01k\x00\x01v\x87";
        let unsuback = Unsuback::decode(Version::V5, body).expect("valid");
        assert_eq!(unsuback.reason_string, Some("r"));
        let mut out = Vec::new();
        unsuback.encode(Version::V5, &mut out);
        assert_eq!(out[2..], body[..]);
    }

    #[test]
    fn malformed() {
        use Version::{V5, V311};
        for (version, body, statement) in [
            (V311, &b"\x00\x07\x00"[..], "§4.13.1"),
            (V311, b"\x00", "§4.13.1"),
            (V5, b"\x00\x07\x00", "MQTT-3.11.3-2"),
            (V5, b"\x00\x07\x00\x01", "MQTT-3.11.3-2"),
            (V5, b"\x00\x07", "§4.13.1"),
        ] {
            let error = Unsuback::decode(version, body).expect_err("must be refused");
            assert_eq!(error.statement, statement, "{body:x?}");
        }
    }
}

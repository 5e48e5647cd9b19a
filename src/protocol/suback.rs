//! SUBACK.

use super::error::DecodeError;
use super::property::{Property, UserProperties, Walker, put_properties, put_some};
use super::wire::{Reader, put_u16, put_with_len};
use super::{PacketId, PacketType, ReasonCode, Version};

/// A SUBACK packet: the server's answer to SUBSCRIBE.
///
/// Spec: MQTT 5 §3.9.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suback<'a> {
    /// The Packet Identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// A Reason Code for each Topic Filter, in their order; the values 0, 1, 2 and 0x80 in 3.1
    /// and 3.1.1.
    pub codes: &'a [u8],
    /// The reason, for people.
    pub reason_string: Option<&'a str>,
    /// The User Properties.
    pub user: UserProperties<'a>,
}

impl<'a> Suback<'a> {
    /// Reads the body of a SUBACK.
    ///
    /// Errors: 0x81 when it is malformed, or has no code or one that SUBACK does not have.
    ///
    /// Spec: MQTT 5 §3.9; MQTT-3.9.3-2.
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut reason_string = None;
        let mut user = UserProperties::default();
        if version.is_v5() {
            let raw = reader.properties()?;
            for property in Walker::new(PacketType::Suback, raw) {
                if let Property::ReasonString(text) = property? {
                    reason_string = Some(text);
                }
            }
            user = UserProperties::over(raw);
        }
        let codes = reader.rest();
        if codes.is_empty() || !codes.iter().all(|&code| is_code(version, code)) {
            return Err(DecodeError::malformed(
                "MQTT-3.9.3-2",
                "SUBACK without a Reason Code, or with one it does not have",
            ));
        }
        Ok(Self {
            packet_id,
            codes,
            reason_string,
            user,
        })
    }

    /// Appends the packet; in 3.1 and 3.1.1 as [`put_suback`] does.
    ///
    /// Panics: when there is no code or a wrong one, or a string is longer than 65,535 bytes.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        assert!(
            !self.codes.is_empty(),
            "SUBACK has a Reason Code for each Topic Filter"
        );
        assert!(
            self.codes.iter().all(|&code| is_code(Version::V5, code)),
            "the Reason Codes are those of SUBACK"
        );
        out.push(PacketType::Suback.first_byte());
        put_with_len(out, |out| {
            put_u16(out, self.packet_id.get());
            if version.is_v5() {
                put_properties(out, |out| {
                    put_some(out, self.reason_string.map(Property::ReasonString));
                    self.user.put(out);
                });
                out.extend_from_slice(self.codes);
            } else {
                // 3.1 has no failure code at all; 0x80 is the one its clients get from everyone.
                out.extend(self.codes.iter().map(|&code| code.min(0x80)));
            }
        });
    }
}

/// Appends a SUBACK without properties. In 3.1 and 3.1.1 every failure is 0x80.
///
/// Panics: when there is no code, or one that SUBACK does not have.
///
/// Spec: MQTT 5 §3.9.3.
pub fn put_suback(out: &mut Vec<u8>, version: Version, packet_id: PacketId, codes: &[u8]) {
    Suback {
        packet_id,
        codes,
        reason_string: None,
        user: UserProperties::default(),
    }
    .encode(version, out);
}

fn is_code(version: Version, code: u8) -> bool {
    if version.is_v5() {
        ReasonCode::from_u8(code).is_some_and(|code| code.valid_in(PacketType::Suback))
    } else {
        matches!(code, 0 | 1 | 2 | 0x80)
    }
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
        put_suback(&mut out, Version::V311, id(), &[0, 1, 2, 0x80, 0x8F, 0x97]);
        assert_eq!(out, b"\x90\x08\x00\x07\x00\x01\x02\x80\x80\x80");
        let suback = Suback::decode(Version::V311, &out[2..]).expect("valid");
        assert_eq!(suback.codes, [0, 1, 2, 0x80, 0x80, 0x80]);
        out.clear();
        put_suback(&mut out, Version::V5, id(), &[0, 0x8F]);
        assert_eq!(out, b"\x90\x05\x00\x07\x00\x00\x8F");
    }

    #[test]
    fn every_field() {
        let body = b"\x00\x07\x0B\x1F\x00\x01r\x26\x00\x01k\x00\x01v\x02\x87";
        let suback = Suback::decode(Version::V5, body).expect("valid");
        assert_eq!(
            (suback.reason_string, suback.codes),
            (Some("r"), &[2, 0x87][..])
        );
        assert_eq!(suback.user.clone().collect::<Vec<_>>(), [("k", "v")]);
        let mut out = Vec::new();
        suback.encode(Version::V5, &mut out);
        assert_eq!(out[2..], body[..]);
    }

    #[test]
    fn malformed() {
        use Version::{V5, V311};
        for (version, body, statement) in [
            (V311, &b"\x00"[..], "§4.13.1"),
            (V311, b"\x00\x07", "MQTT-3.9.3-2"),
            (V311, b"\x00\x07\x03", "MQTT-3.9.3-2"),
            (V311, b"\x00\x07\x87", "MQTT-3.9.3-2"),
            (V311, b"\x00\x00\x01", "MQTT-2.2.1-3"),
            (V5, b"\x00\x07\x00", "MQTT-3.9.3-2"),
            (V5, b"\x00\x07\x00\x11", "MQTT-3.9.3-2"),
            (V5, b"\x00\x07\x02\x0B\x01\x00", "§2.2.2.2"),
        ] {
            let error = Suback::decode(version, body).expect_err("must be refused");
            assert_eq!(error.statement, statement, "{body:x?}");
        }
    }
}

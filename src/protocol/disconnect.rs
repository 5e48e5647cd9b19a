//! DISCONNECT.

use super::error::DecodeError;
use super::property::{Property, UserProperties, Walker, put_properties, put_some};
use super::wire::{Field, Reader, field, put_with_len};
use super::{PacketType, ReasonCode, Version};

/// A DISCONNECT packet: the last one of a Network Connection.
///
/// Spec: MQTT 5 §3.14.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why; always success, Normal disconnection, in 3.1 and 3.1.1.
    pub reason: ReasonCode,
    /// From a client: another Session Expiry Interval, in seconds. Whether it may raise the
    /// one in force is the server's to decide (§3.14.2.2.2).
    pub session_expiry_s: Option<u32>,
    /// The reason, for people.
    pub reason_string: Option<&'a str>,
    /// From a server: another server to use.
    pub server_reference: Option<&'a str>,
    /// The User Properties.
    pub user: UserProperties<'a>,
}

static REASON_FIELD: Field = field!("Disconnect Reason Code");

impl<'a> Disconnect<'a> {
    /// A DISCONNECT without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_s: None,
            reason_string: None,
            server_reference: None,
            user: UserProperties::default(),
        }
    }

    /// Reads the body of a DISCONNECT.
    ///
    /// Errors: 0x81 for a Reason Code that DISCONNECT does not have, and for a body in 3.1 and 3.1.1; else
    /// 0x81 or 0x82.
    ///
    /// Spec: MQTT 5 §3.14.2; MQTT-3.14.2-1.
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut disconnect = Self::new(ReasonCode::Success);
        if version.is_v5() && !reader.is_empty() {
            disconnect.reason = ReasonCode::from_u8(reader.u8(&REASON_FIELD)?)
                .filter(|reason| reason.valid_in(PacketType::Disconnect))
                .ok_or(DecodeError::malformed(
                    "MQTT-3.14.2-1",
                    "the Reason Code is not one of DISCONNECT",
                ))?;
            if !reader.is_empty() {
                disconnect.read_properties(reader.properties()?)?;
            }
        }
        reader.end()?;
        Ok(disconnect)
    }

    fn read_properties(&mut self, raw: &'a [u8]) -> Result<(), DecodeError> {
        for property in Walker::new(PacketType::Disconnect, raw) {
            match property? {
                Property::SessionExpiryInterval(s) => self.session_expiry_s = Some(s),
                Property::ReasonString(text) => self.reason_string = Some(text),
                Property::ServerReference(text) => self.server_reference = Some(text),
                _ => {}
            }
        }
        self.user = UserProperties::over(raw);
        Ok(())
    }

    /// Appends the packet in its shortest form; in 3.1 and 3.1.1 it has no body.
    ///
    /// Panics: when the code does not belong to DISCONNECT, or a string is longer than 65,535 bytes.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        assert!(
            self.reason.valid_in(PacketType::Disconnect),
            "the Reason Code is one of DISCONNECT"
        );
        let bare = *self == Self::new(self.reason);
        out.push(PacketType::Disconnect.first_byte());
        put_with_len(out, |out| {
            if !version.is_v5() || bare && self.reason == ReasonCode::Success {
                return;
            }
            out.push(self.reason as u8);
            if bare {
                return;
            }
            put_properties(out, |out| {
                put_some(
                    out,
                    self.session_expiry_s.map(Property::SessionExpiryInterval),
                );
                put_some(out, self.reason_string.map(Property::ReasonString));
                put_some(out, self.server_reference.map(Property::ServerReference));
                self.user.put(out);
            });
        });
    }
}

/// Appends a 5.0 DISCONNECT; a server has none to send in 3.1 and 3.1.1.
///
/// Panics: when `reason` does not belong to DISCONNECT, or the string is longer than 65,535 bytes.
///
/// Spec: MQTT 5 §3.14.
pub fn put_disconnect(out: &mut Vec<u8>, reason: ReasonCode, reason_string: Option<&str>) {
    Disconnect {
        reason_string,
        ..Disconnect::new(reason)
    }
    .encode(Version::V5, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        let mut out = Vec::new();
        Disconnect::new(ReasonCode::Success).encode(Version::V311, &mut out);
        assert_eq!(out, b"\xE0\x00");
        out.clear();
        put_disconnect(&mut out, ReasonCode::Success, None);
        put_disconnect(&mut out, ReasonCode::SessionTakenOver, None);
        put_disconnect(&mut out, ReasonCode::QuotaExceeded, Some("full"));
        assert_eq!(out, b"\xE0\x00\xE0\x01\x8E\xE0\x09\x97\x07\x1F\x00\x04full");
        let normal = Disconnect::new(ReasonCode::Success);
        for body in [&b""[..], b"\x00", b"\x00\x00"] {
            assert_eq!(Disconnect::decode(Version::V5, body).as_ref(), Ok(&normal));
        }
    }

    #[test]
    fn every_field() {
        let body = b"\x04\x14\x11\x00\x00\x00\x3C\x1F\x00\x01r\x1C\x00\x01s\x26\x00\x01k\x00\x01v";
        let disconnect = Disconnect::decode(Version::V5, body).expect("valid");
        assert_eq!(disconnect.reason, ReasonCode::DisconnectWithWill);
        assert_eq!(disconnect.session_expiry_s, Some(60));
        assert_eq!(disconnect.reason_string, Some("r"));
        assert_eq!(disconnect.server_reference, Some("s"));
        assert_eq!(disconnect.user.clone().collect::<Vec<_>>(), [("k", "v")]);
        let mut out = Vec::new();
        disconnect.encode(Version::V5, &mut out);
        assert_eq!(out[2..], body[..]);
    }

    #[test]
    fn malformed() {
        use Version::{V5, V311};
        for (version, body, statement) in [
            (V311, &b"\x00"[..], "§4.13.1"),
            (V5, b"\x01", "MQTT-3.14.2-1"),
            (V5, b"\x86", "MQTT-3.14.2-1"),
            (V5, b"\x00\x05", "§4.13.1"),
            (V5, b"\x00\x00\x00", "§4.13.1"),
            (V5, b"\x00\x03\x21\x00\x01", "§2.2.2.2"),
        ] {
            let error = Disconnect::decode(version, body).expect_err("must be refused");
            assert_eq!(error.statement, statement, "{body:x?}");
        }
    }
}

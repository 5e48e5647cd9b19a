//! AUTH, which only 5.0 has.

use super::error::DecodeError;
use super::property::{Property, UserProperties, Walker, put_properties, put_some};
use super::wire::{Field, Reader, field, put_with_len};
use super::{PacketType, ReasonCode, Version};

/// An AUTH packet: a step of an enhanced authentication.
///
/// Spec: MQTT 5 §3.15.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// The Authentication Method; absent only in the shortest packet, which says success.
    pub method: Option<&'a str>,
    /// What the Authentication Method defines.
    pub data: Option<&'a [u8]>,
    /// The reason, for people.
    pub reason_string: Option<&'a str>,
    /// The User Properties.
    pub user: UserProperties<'a>,
}

static REASON_FIELD: Field = field!("Authenticate Reason Code");

impl<'a> Auth<'a> {
    /// Reads the body of an AUTH.
    ///
    /// Errors: 0x81 in 3.1 and 3.1.1, where type 15 is reserved, and for a Reason Code that AUTH does not
    /// have; 0x82 when there is no Authentication Method.
    ///
    /// Spec: MQTT 5 §3.15.2; MQTT-3.15.2-1.
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        if !version.is_v5() {
            return Err(DecodeError::malformed(
                "§2.1.2",
                "packet type 15 is reserved before 5.0",
            ));
        }
        let mut auth = Self {
            reason: ReasonCode::Success,
            method: None,
            data: None,
            reason_string: None,
            user: UserProperties::default(),
        };
        let mut reader = Reader::new(body);
        if reader.is_empty() {
            return Ok(auth);
        }
        auth.reason = ReasonCode::from_u8(reader.u8(&REASON_FIELD)?)
            .filter(|reason| reason.valid_in(PacketType::Auth))
            .ok_or(DecodeError::malformed(
                "MQTT-3.15.2-1",
                "the Reason Code is not one of AUTH",
            ))?;
        let raw = reader.properties()?;
        for property in Walker::new(PacketType::Auth, raw) {
            match property? {
                Property::AuthenticationMethod(method) => auth.method = Some(method),
                Property::AuthenticationData(data) => auth.data = Some(data),
                Property::ReasonString(text) => auth.reason_string = Some(text),
                _ => {}
            }
        }
        auth.user = UserProperties::over(raw);
        reader.end()?;
        if auth.method.is_none() {
            return Err(DecodeError::protocol(
                "§3.15.2.2.2",
                "AUTH without an Authentication Method",
            ));
        }
        Ok(auth)
    }

    /// Appends the packet, a 5.0 one.
    ///
    /// Panics: when the code does not belong to AUTH, when there is no method and more to say than success,
    /// or when a string is longer than 65,535 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(
            self.reason.valid_in(PacketType::Auth),
            "the Reason Code is one of AUTH"
        );
        out.push(PacketType::Auth.first_byte());
        put_with_len(out, |out| {
            if self.method.is_none() {
                let shortest = self.reason == ReasonCode::Success
                    && self.data.is_none()
                    && self.reason_string.is_none()
                    && self.user.clone().next().is_none();
                assert!(
                    shortest,
                    "AUTH without a method says success and nothing else"
                );
                return;
            }
            out.push(self.reason as u8);
            put_properties(out, |out| {
                put_some(out, self.method.map(Property::AuthenticationMethod));
                put_some(out, self.data.map(Property::AuthenticationData));
                put_some(out, self.reason_string.map(Property::ReasonString));
                self.user.put(out);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field() {
        let body = b"\x18\x13\x15\x00\x01m\x16\x00\x01d\x1F\x00\x01r\x26\x00\x01k\x00\x01v";
        let auth = Auth::decode(Version::V5, body).expect("valid");
        assert_eq!(auth.reason, ReasonCode::ContinueAuthentication);
        assert_eq!((auth.method, auth.data), (Some("m"), Some(&b"d"[..])));
        assert_eq!(auth.reason_string, Some("r"));
        assert_eq!(auth.user.clone().collect::<Vec<_>>(), [("k", "v")]);
        let mut out = Vec::new();
        auth.encode(&mut out);
        assert_eq!(out[2..], body[..]);
    }

    #[test]
    fn the_shortest_says_success() {
        let auth = Auth::decode(Version::V5, b"").expect("valid");
        assert_eq!((auth.reason, auth.method), (ReasonCode::Success, None));
        let mut out = Vec::new();
        auth.encode(&mut out);
        assert_eq!(out, b"\xF0\x00");
    }

    #[test]
    fn malformed_and_forbidden() {
        use ReasonCode::{MalformedPacket, ProtocolError};
        use Version::{V5, V31, V311};
        for (version, body, reason, statement) in [
            (V31, &b""[..], MalformedPacket, "§2.1.2"),
            (V311, b"", MalformedPacket, "§2.1.2"),
            (V5, b"\x01\x00", MalformedPacket, "MQTT-3.15.2-1"),
            (V5, b"\x18", MalformedPacket, "§4.13.1"),
            (V5, b"\x18\x00", ProtocolError, "§3.15.2.2.2"),
            (V5, b"\x18\x04\x15\x00\x01m\x00", MalformedPacket, "§4.13.1"),
            (
                V5,
                b"\x18\x08\x15\x00\x01m\x15\x00\x01m",
                ProtocolError,
                "§2.2.2.2",
            ),
        ] {
            let error = Auth::decode(version, body).expect_err("must be refused");
            assert_eq!(
                (error.reason, error.statement),
                (reason, statement),
                "{body:x?}"
            );
        }
    }
}

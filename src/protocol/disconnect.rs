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

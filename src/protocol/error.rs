//! What a peer did wrong.

use std::fmt;

use super::reason::ReasonCode;

/// A packet that breaks the standard. It ends the Network Connection it came on, and nothing else.
///
/// Spec: MQTT 5 §4.13.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// What a 5.0 peer is told; valid in both CONNACK and DISCONNECT, except
    /// `UnsupportedProtocolVersion` (CONNACK) and `TopicAliasInvalid` (DISCONNECT).
    pub reason: ReasonCode,
    /// The normative statement of MQTT 5.0 that is broken, such as `MQTT-3.8.3-4`, or the section,
    /// such as `§2.2.2.2`, where the standard gives the rule no number.
    pub statement: &'static str,
    /// The same in plain words.
    pub what: &'static str,
}

impl DecodeError {
    /// A Malformed Packet (0x81): one that cannot be parsed.
    pub const fn malformed(statement: &'static str, what: &'static str) -> Self {
        Self {
            reason: ReasonCode::MalformedPacket,
            statement,
            what,
        }
    }

    /// A Protocol Error (0x82): one that can be parsed and is not allowed.
    pub const fn protocol(statement: &'static str, what: &'static str) -> Self {
        Self {
            reason: ReasonCode::ProtocolError,
            statement,
            what,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (0x{:02X} {}, {})",
            self.what,
            self.reason as u8,
            self.reason.name(),
            self.statement
        )
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_words_code_and_statement() {
        let error = DecodeError::malformed("MQTT-2.1.3-1", "reserved flag set");
        assert_eq!(
            error.to_string(),
            "reserved flag set (0x81 Malformed Packet, MQTT-2.1.3-1)"
        );
    }
}

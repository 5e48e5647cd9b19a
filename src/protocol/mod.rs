//! Bytes to packets and packets to bytes, for MQTT 3.1, 3.1.1 and 5.0, in both directions.
//!
//! Pure: no I/O, no clock, no allocation when decoding. [`frame::cut`] finds one packet in the bytes
//! of a Network Connection, and one `decode` per packet type turns its body into a struct that
//! borrows from it. Every `encode` and `put_…` appends to a `Vec<u8>` and never looks at what is
//! there already.
//!
//! What a peer does wrong is a [`DecodeError`]: the Reason Code to answer with, the statement it
//! breaks (numbered as in the 5.0 standard, which has a counterpart of nearly every 3.1.1 statement)
//! and plain words for the log. What only this program can do wrong, such as encoding a
//! string of more than 65,535 bytes, is an `assert!`.
//!
//! Left to the callers: the order of packets, who may send which packet, Topic Filter syntax
//! (`topic`), Topic Aliases beyond their range, quotas.

pub mod ack;
pub mod auth;
pub mod connack;
pub mod connect;
pub mod disconnect;
pub mod error;
pub mod frame;
pub mod ping;
pub mod property;
pub mod publish;
pub mod reason;
pub mod suback;
pub mod subscribe;
pub mod text;
pub mod unsuback;
pub mod unsubscribe;
pub mod varint;
mod wire;

use std::num::NonZeroU16;

pub use ack::{Ack, put_ack};
pub use auth::Auth;
pub use connack::{Connack, ConnackProperties};
pub use connect::{Connect, ConnectError, ConnectProperties, Will};
pub use disconnect::{Disconnect, put_disconnect};
pub use error::DecodeError;
pub use frame::{Cut, FixedHeader, PACKET_BYTES_MAX, cut};
pub use ping::{put_pingreq, put_pingresp};
pub use property::{Forward, Property, SubscriptionIds, UserProperties};
pub use publish::{HeadOffsets, Publish, PublishHead, PublishProperties};
pub use reason::ReasonCode;
pub use suback::{Suback, put_suback};
pub use subscribe::{RetainHandling, Subscribe, SubscribeOptions};
pub use unsuback::{Unsuback, put_unsuback};
pub use unsubscribe::Unsubscribe;

/// The version of MQTT that a Network Connection speaks.
///
/// Spec: MQTT 5 §3.1.2.1 and §3.1.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V311,
    /// MQTT 5.0: protocol name `MQTT`, level 5.
    V5,
}

impl Version {
    /// Whether packets carry properties and Reason Codes.
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }

    /// The protocol level in CONNECT.
    pub fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol name in CONNECT.
    pub fn protocol_name(self) -> &'static str {
        match self {
            Self::V31 => "MQIsdp",
            Self::V311 | Self::V5 => "MQTT",
        }
    }
}

/// Quality of Service: how surely a message is delivered.
///
/// Spec: MQTT 5 §4.3.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// Delivered once or not at all; nothing is acknowledged.
    #[default]
    AtMostOnce = 0,
    /// Delivered at least once; PUBACK acknowledges.
    AtLeastOnce = 1,
    /// Delivered exactly once; PUBREC, PUBREL and PUBCOMP acknowledge.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS that `bits` stands for; `None` for 3 and above.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A Packet Identifier; 0 is not one.
///
/// Spec: MQTT 5 §2.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The smallest Packet Identifier.
    pub const MIN: Self = Self(NonZeroU16::MIN);

    /// The identifier `id`; `None` for 0.
    pub fn new(id: u16) -> Option<Self> {
        NonZeroU16::new(id).map(Self)
    }

    /// The number on the wire.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// The type of an MQTT Control Packet, the upper four bits of its first byte.
///
/// Spec: MQTT 5 §2.1.2. Type 15 is reserved in 3.1 and 3.1.1.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PacketType {
    /// A client asks for a Session.
    Connect = 1,
    /// The server's answer to CONNECT.
    Connack = 2,
    /// An Application Message.
    Publish = 3,
    /// The end of a QoS 1 delivery.
    Puback = 4,
    /// The first answer of a QoS 2 delivery.
    Pubrec = 5,
    /// The second step of a QoS 2 delivery.
    Pubrel = 6,
    /// The end of a QoS 2 delivery.
    Pubcomp = 7,
    /// A client asks for Subscriptions.
    Subscribe = 8,
    /// The server's answer to SUBSCRIBE.
    Suback = 9,
    /// A client gives Subscriptions up.
    Unsubscribe = 10,
    /// The server's answer to UNSUBSCRIBE.
    Unsuback = 11,
    /// A client asks whether the server is there.
    Pingreq = 12,
    /// The server's answer to PINGREQ.
    Pingresp = 13,
    /// The last packet of a Network Connection.
    Disconnect = 14,
    /// A step of an enhanced authentication (5.0 only).
    Auth = 15,
}

impl PacketType {
    /// The type with the number `number`; `None` for 0 and above 15.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The standard's name, such as `PUBLISH`, for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// The first byte of a packet of this type; for PUBLISH the one without DUP, QoS and RETAIN.
    pub(crate) const fn first_byte(self) -> u8 {
        let flags = match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_types_are_inverse() {
        for number in 0..=u8::MAX {
            let Some(packet_type) = PacketType::from_u8(number) else {
                assert!(number == 0 || number > 15);
                continue;
            };
            assert_eq!(packet_type as u8, number);
        }
    }

    #[test]
    fn qos_and_packet_id_have_no_invalid_values() {
        assert_eq!(QoS::from_bits(2), Some(QoS::ExactlyOnce));
        assert_eq!(QoS::from_bits(3), None);
        assert_eq!(PacketId::new(0), None);
        assert_eq!(PacketId::new(65535).map(PacketId::get), Some(65535));
        assert_eq!(size_of::<Option<PacketId>>(), 2);
    }
}

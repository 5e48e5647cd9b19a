//! SUBSCRIBE.

use std::num::NonZeroU32;

use super::error::DecodeError;
use super::property::{Property, UserProperties, Walker, put_properties, put_some};
use super::wire::{Field, Reader, field, put_binary, put_u16, put_with_len};
use super::{PacketId, PacketType, QoS, Version};

/// When retained messages are sent for a Subscription.
///
/// Spec: MQTT 5 §3.8.3.1, Retain Handling.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RetainHandling {
    /// At every SUBSCRIBE; what 3.1 and 3.1.1 do.
    #[default]
    SendAtSubscribe = 0,
    /// At a SUBSCRIBE that makes a new Subscription.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// The Subscription Options that go with a Topic Filter.
///
/// Spec: MQTT 5 §3.8.3.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscribeOptions {
    /// The highest QoS to deliver with.
    pub qos: QoS,
    /// Whether the client's own messages are kept from it.
    pub no_local: bool,
    /// Whether RETAIN is passed on as it was published.
    pub retain_as_published: bool,
    /// When retained messages are sent.
    pub retain_handling: RetainHandling,
}

const QOS_MASK: u8 = 0b0000_0011;
const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING_SHIFT: u32 = 4;
const RESERVED: u8 = 0b1100_0000;

impl SubscribeOptions {
    /// The byte on the wire; in 3.1 and 3.1.1 it is the QoS alone.
    pub fn bits(self) -> u8 {
        let mut bits = self.qos as u8 | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT;
        if self.no_local {
            bits |= NO_LOCAL;
        }
        if self.retain_as_published {
            bits |= RETAIN_AS_PUBLISHED;
        }
        bits
    }

    /// The options that `bits` stand for; `None` for QoS 3, Retain Handling 3 and reserved bits.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let retain_handling = match bits >> RETAIN_HANDLING_SHIFT {
            0 => RetainHandling::SendAtSubscribe,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        };
        Some(Self {
            qos: QoS::from_bits(bits & QOS_MASK)?,
            no_local: bits & NO_LOCAL != 0,
            retain_as_published: bits & RETAIN_AS_PUBLISHED != 0,
            retain_handling,
        })
    }
}

/// A SUBSCRIBE packet.
///
/// Spec: MQTT 5 §3.8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The Packet Identifier, which SUBACK repeats.
    pub packet_id: PacketId,
    /// The number to send with every message that matches.
    pub subscription_id: Option<NonZeroU32>,
    /// The User Properties.
    pub user: UserProperties<'a>,
    /// The Topic Filters and their options; [`Subscribe::decode`] has checked them.
    raw_filters: &'a [u8],
}

static FILTER_FIELD: Field = field!("Topic Filter");
static OPTIONS_FIELD: Field = field!("Subscription Options");

impl<'a> Subscribe<'a> {
    /// Reads the body of a SUBSCRIBE, and checks every Topic Filter but for its own syntax.
    ///
    /// Errors: 0x82 when there is no Topic Filter, for QoS 3 and Retain Handling 3 in 5.0, and for No Local
    /// with a Shared Subscription; 0x81 for reserved bits and malformed strings.
    /// Cost: one pass, no allocation.
    ///
    /// Spec: MQTT 5 §3.8.
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut subscription_id = None;
        let mut user = UserProperties::default();
        if version.is_v5() {
            let raw = reader.properties()?;
            for property in Walker::new(PacketType::Subscribe, raw) {
                if let Property::SubscriptionIdentifier(id) = property? {
                    subscription_id = Some(id);
                }
            }
            user = UserProperties::over(raw);
        }
        let raw_filters = reader.rest();
        if raw_filters.is_empty() {
            return Err(DecodeError::protocol(
                "MQTT-3.8.3-2",
                "SUBSCRIBE without a Topic Filter",
            ));
        }
        while !reader.is_empty() {
            let filter = reader.utf8(&FILTER_FIELD)?;
            check_options(version, filter, reader.u8(&OPTIONS_FIELD)?)?;
        }
        Ok(Self {
            packet_id,
            subscription_id,
            user,
            raw_filters,
        })
    }

    /// The Topic Filters and their options, in their order; at least one.
    pub fn filters(&self) -> impl Iterator<Item = (&'a str, SubscribeOptions)> + use<'a> {
        let mut reader = Reader::new(self.raw_filters);
        std::iter::from_fn(move || {
            let filter = reader.utf8(&FILTER_FIELD).ok()?;
            let options = SubscribeOptions::from_bits(reader.u8(&OPTIONS_FIELD).ok()?)?;
            Some((filter, options))
        })
    }

    /// Appends a SUBSCRIBE. In 3.1 and 3.1.1 only the QoS is left of the options.
    ///
    /// Panics: when there is no filter, one is longer than 65,535 bytes, the Subscription
    /// Identifier is above 268,435,455, or the packet is larger than there can be.
    pub fn encode(
        out: &mut Vec<u8>,
        version: Version,
        packet_id: PacketId,
        subscription_id: Option<NonZeroU32>,
        user: &UserProperties<'_>,
        filters: &[(&str, SubscribeOptions)],
    ) {
        assert!(
            !filters.is_empty(),
            "SUBSCRIBE has at least one Topic Filter"
        );
        out.push(PacketType::Subscribe.first_byte());
        put_with_len(out, |out| {
            put_u16(out, packet_id.get());
            if version.is_v5() {
                put_properties(out, |out| {
                    put_some(out, subscription_id.map(Property::SubscriptionIdentifier));
                    user.put(out);
                });
            }
            for (filter, options) in filters {
                put_binary(out, filter.as_bytes());
                out.push(if version.is_v5() {
                    options.bits()
                } else {
                    options.qos as u8
                });
            }
        });
    }
}

fn check_options(version: Version, filter: &str, bits: u8) -> Result<(), DecodeError> {
    if !version.is_v5() {
        if QoS::from_bits(bits).is_none() {
            // The number is that of 3.1.1; in 5.0 it belongs to No Local.
            return Err(DecodeError::malformed(
                "MQTT-3.8.3-4",
                "the requested QoS is not 0, 1 or 2",
            ));
        }
        return Ok(());
    }
    if bits & RESERVED != 0 {
        return Err(DecodeError::malformed(
            "MQTT-3.8.3-5",
            "a reserved bit of the Subscription Options is set",
        ));
    }
    let Some(options) = SubscribeOptions::from_bits(bits) else {
        return Err(DecodeError::protocol(
            "§3.8.3.1",
            "Maximum QoS or Retain Handling is 3 in the Subscription Options",
        ));
    };
    if options.no_local && filter.starts_with("$share/") {
        return Err(DecodeError::protocol(
            "MQTT-3.8.3-4",
            "No Local with a Shared Subscription",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ReasonCode;

    #[test]
    fn options_and_bits_are_inverse() {
        let mut valid = 0;
        for bits in 0..=u8::MAX {
            if let Some(options) = SubscribeOptions::from_bits(bits) {
                assert_eq!(options.bits(), bits);
                valid += 1;
            }
        }
        assert_eq!(valid, 3 * 2 * 2 * 3);
        assert_eq!(SubscribeOptions::default().bits(), 0);
    }

    #[test]
    fn filters_come_in_their_order() {
        let body = b"\x00\x0A\x00\x03a/#\x01\x00\x01+\x02";
        let subscribe = Subscribe::decode(Version::V311, body).expect("valid");
        assert_eq!(subscribe.packet_id.get(), 10);
        let filters: Vec<_> = subscribe.filters().collect();
        let with = |qos| SubscribeOptions {
            qos,
            ..SubscribeOptions::default()
        };
        assert_eq!(
            filters,
            [
                ("a/#", with(QoS::AtLeastOnce)),
                ("+", with(QoS::ExactlyOnce))
            ]
        );
        let mut out = Vec::new();
        Subscribe::encode(
            &mut out,
            Version::V311,
            subscribe.packet_id,
            None,
            &subscribe.user,
            &filters,
        );
        assert_eq!(out[..2], [0x82, body.len() as u8]);
        assert_eq!(out[2..], body[..]);
    }

    #[test]
    fn every_field_of_5_0() {
        let body = b"\x00\x01\x0A\x0B\x80\x01\x26\x00\x01k\x00\x01v\x00\x01t\x2E";
        let subscribe = Subscribe::decode(Version::V5, body).expect("valid");
        assert_eq!(subscribe.subscription_id.map(NonZeroU32::get), Some(128));
        assert_eq!(subscribe.user.clone().collect::<Vec<_>>(), [("k", "v")]);
        let options = SubscribeOptions {
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
        };
        assert_eq!(subscribe.filters().collect::<Vec<_>>(), [("t", options)]);
        let mut out = Vec::new();
        Subscribe::encode(
            &mut out,
            Version::V5,
            subscribe.packet_id,
            subscribe.subscription_id,
            &subscribe.user,
            &[("t", options)],
        );
        assert_eq!(out[2..], body[..]);
    }

    #[test]
    fn malformed_and_forbidden() {
        use ReasonCode::{MalformedPacket, ProtocolError};
        use Version::{V5, V311};
        for (version, body, reason, statement) in [
            (V311, &b"\x00\x01"[..], ProtocolError, "MQTT-3.8.3-2"),
            (V5, b"\x00\x01\x00", ProtocolError, "MQTT-3.8.3-2"),
            (V5, b"\x00\x01", MalformedPacket, "§4.13.1"),
            (
                V311,
                b"\x00\x01\x00\x01t\x03",
                MalformedPacket,
                "MQTT-3.8.3-4",
            ),
            (
                V311,
                b"\x00\x01\x00\x01t\x04",
                MalformedPacket,
                "MQTT-3.8.3-4",
            ),
            (
                V5,
                b"\x00\x01\x00\x00\x01t\xC0",
                MalformedPacket,
                "MQTT-3.8.3-5",
            ),
            (V5, b"\x00\x01\x00\x00\x01t\x30", ProtocolError, "§3.8.3.1"),
            (V5, b"\x00\x01\x00\x00\x01t\x03", ProtocolError, "§3.8.3.1"),
            (
                V311,
                b"\x00\x00\x00\x01t\x00",
                ProtocolError,
                "MQTT-2.2.1-3",
            ),
            (V311, b"\x00\x01\xFF\xFFa\x00", MalformedPacket, "§4.13.1"),
            (V311, b"\x00\x01\x00\x01a", MalformedPacket, "§4.13.1"),
            (
                V311,
                b"\x00\x01\x00\x01a\x00\x00",
                MalformedPacket,
                "§4.13.1",
            ),
            (
                V311,
                b"\x00\x01\x00\x01\xFF\x00",
                MalformedPacket,
                "MQTT-1.5.4-1",
            ),
            (
                V311,
                b"\x00\x01\x00\x01\0\x00",
                MalformedPacket,
                "MQTT-1.5.4-2",
            ),
            (
                V5,
                b"\x00\x01\x02\x0B\x00\x00\x01t\x00",
                ProtocolError,
                "§3.8.2.1.2",
            ),
            (
                V5,
                b"\x00\x01\x04\x0B\x01\x0B\x02\x00\x01t\x00",
                ProtocolError,
                "§2.2.2.2",
            ),
            (
                V5,
                b"\x00\x01\x00\x00\x0A$share/a/t\x04",
                ProtocolError,
                "MQTT-3.8.3-4",
            ),
        ] {
            let error = Subscribe::decode(version, body).expect_err("must be refused");
            assert_eq!(
                (error.reason, error.statement),
                (reason, statement),
                "{body:x?}"
            );
        }
    }

    #[test]
    fn a_shared_subscription_and_no_local_are_fine_apart() {
        for body in [
            &b"\x00\x01\x00\x00\x0A$share/a/t\x01"[..],
            b"\x00\x01\x00\x00\x01t\x04",
        ] {
            assert!(Subscribe::decode(Version::V5, body).is_ok());
        }
    }

    #[test]
    fn an_empty_filter_is_left_to_the_topic_filter() {
        let body = b"\x00\x01\x00\x00\x00";
        let subscribe = Subscribe::decode(Version::V311, body).expect("well formed");
        assert_eq!(
            subscribe
                .filters()
                .map(|(filter, _)| filter)
                .collect::<Vec<_>>(),
            [""]
        );
    }
}

//! PUBLISH: the hot path of a broker.
//!
//! What it costs, per packet:
//!
//! - [`Publish::decode`]: no allocation, no byte of the payload touched. Two vectorised passes over the
//!   Topic Name (U+0000 and wildcards; UTF-8), one walk over the properties if there are any.
//! - [`PublishHead::encode`]: at most one growth of `out`, reserved before the first byte, and each byte of
//!   the head written once, in order. It never sees the payload. A head that was encoded for one
//!   subscriber serves the others after [`HeadOffsets`] patches two or four bytes.

use std::num::{NonZeroU16, NonZeroU32};

use super::error::DecodeError;
use super::property::{Forward, Property, Splitter, SubscriptionIds, Walker, subscription_id_len};
use super::text::STRING_BYTES_MAX;
use super::varint::{VARINT_MAX, put_varint, varint_len};
use super::wire::{Field, Reader, field, put_binary, put_u16};
use super::{PacketId, PacketType, QoS, Version};

/// The bit of DUP in the first byte.
pub const DUP: u8 = 0b1000;
/// The bit of RETAIN in the first byte.
pub const RETAIN: u8 = 0b0001;
const QOS_SHIFT: u32 = 1;

/// A PUBLISH packet: an Application Message.
///
/// Spec: MQTT 5 §3.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whether this may be a repetition; never with QoS 0.
    pub dup: bool,
    /// The QoS of this hop.
    pub qos: QoS,
    /// To a server: keep the message for later subscribers. From a server: it was kept.
    pub retain: bool,
    /// The Topic Name, without wildcards; empty only with a Topic Alias.
    pub topic: &'a str,
    /// The Packet Identifier, with QoS 1 and 2 and only then.
    pub packet_id: Option<PacketId>,
    /// The properties; none in 3.1 and 3.1.1.
    pub properties: PublishProperties<'a>,
    /// The Application Message itself.
    pub payload: &'a [u8],
}

/// The properties of PUBLISH.
///
/// Spec: MQTT 5 §3.3.2.3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// The number that stands for the Topic Name on this connection.
    pub topic_alias: Option<NonZeroU16>,
    /// The lifetime of the message, in seconds.
    pub message_expiry_s: Option<u32>,
    /// What a server passes on unchanged.
    pub forward: Forward<'a>,
    /// The Subscription Identifiers, from a server only.
    pub subscription_ids: SubscriptionIds<'a>,
}

/// All of a PUBLISH but its payload, as a server sends it to its subscribers.
///
/// In 3.1 and 3.1.1 the properties are left out.
///
/// Spec: MQTT 5 §3.3.
#[derive(Clone, Copy, Debug)]
pub struct PublishHead<'a> {
    /// The version the receiver speaks.
    pub version: Version,
    /// The QoS of this delivery.
    pub qos: QoS,
    /// Whether this may be a repetition; never with QoS 0.
    pub dup: bool,
    /// Whether the message was retained.
    pub retain: bool,
    /// The Topic Name; empty only with a Topic Alias.
    pub topic: &'a str,
    /// The Packet Identifier, with QoS 1 and 2 and only then.
    pub packet_id: Option<PacketId>,
    /// The number that stands for the Topic Name.
    pub topic_alias: Option<NonZeroU16>,
    /// The remaining lifetime of the message, in seconds.
    pub message_expiry_s: Option<u32>,
    /// The Subscription Identifiers of the Subscriptions that match; none is 0.
    pub subscription_ids: &'a [u32],
    /// The bytes of [`Forward`] in one piece.
    pub forward: &'a [u8],
    /// The bytes of the payload, which follows the head.
    pub payload_len: usize,
}

/// Where in an encoded [`PublishHead`] the two fields are that differ between its receivers, in
/// bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadOffsets {
    /// The two bytes of the Packet Identifier.
    pub packet_id: Option<usize>,
    /// The four bytes of the Message Expiry Interval, without the Property Identifier.
    pub message_expiry_s: Option<usize>,
}

impl HeadOffsets {
    /// Writes another Packet Identifier into `head`.
    ///
    /// Panics: when `head` has none (QoS 0), or is not the head these offsets are from.
    pub fn patch_packet_id(&self, head: &mut [u8], packet_id: PacketId) {
        let at = self
            .packet_id
            .expect("a head with QoS 1 or 2 has a Packet Identifier");
        head[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
    }

    /// Writes another Message Expiry Interval into `head`.
    ///
    /// Panics: when `head` has none, or is not the head these offsets are from.
    pub fn patch_message_expiry_s(&self, head: &mut [u8], message_expiry_s: u32) {
        let at = self
            .message_expiry_s
            .expect("the head has a Message Expiry Interval");
        head[at..at + 4].copy_from_slice(&message_expiry_s.to_be_bytes());
    }
}

static TOPIC_FIELD: Field = field!("Topic Name");

/// Who sent a packet, where that decides what it may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
}

impl<'a> Publish<'a> {
    /// Reads the body of a PUBLISH that a client sent; `flags` are those of the fixed header.
    ///
    /// Errors: 0x90 for a wildcard in the Topic Name; 0x82 for an empty one without a Topic Alias, for a
    /// Packet Identifier of 0 and for a Subscription Identifier; 0x94 for Topic Alias 0; else 0x81
    /// or 0x82.
    /// Cost: see the module.
    ///
    /// Spec: MQTT 5 §3.3; MQTT-3.3.4-6.
    pub fn decode(version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        Self::decode_from(Sender::Client, version, flags, body)
    }

    /// Reads the body of a PUBLISH that a server sent, which may have Subscription Identifiers.
    ///
    /// Errors: as [`Publish::decode`], but for the Subscription Identifier.
    ///
    /// Spec: MQTT 5 §3.3.
    pub fn decode_from_server(
        version: Version,
        flags: u8,
        body: &'a [u8],
    ) -> Result<Self, DecodeError> {
        Self::decode_from(Sender::Server, version, flags, body)
    }

    fn decode_from(
        sender: Sender,
        version: Version,
        flags: u8,
        body: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let dup = flags & DUP != 0;
        let retain = flags & RETAIN != 0;
        let qos = QoS::from_bits(flags >> QOS_SHIFT & 0b11).ok_or(DecodeError::malformed(
            "MQTT-3.3.1-4",
            "QoS 3 does not exist",
        ))?;
        if dup && qos == QoS::AtMostOnce {
            return Err(DecodeError::malformed(
                "MQTT-3.3.1-2",
                "DUP is set with QoS 0",
            ));
        }
        let topic = reader.topic_name(&TOPIC_FIELD)?;
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(reader.packet_id()?),
        };
        let properties = match version {
            Version::V5 => PublishProperties::decode(sender, reader.properties()?)?,
            Version::V31 | Version::V311 => PublishProperties::default(),
        };
        if topic.is_empty() && properties.topic_alias.is_none() {
            return Err(match version {
                Version::V5 => DecodeError::protocol(
                    "§3.3.2.1",
                    "the Topic Name is empty and there is no Topic Alias",
                ),
                Version::V31 | Version::V311 => {
                    DecodeError::malformed("MQTT-4.7.3-1", "the Topic Name is empty")
                }
            });
        }
        Ok(Self {
            dup,
            qos,
            retain,
            topic,
            packet_id,
            properties,
            payload: reader.rest(),
        })
    }

    /// Appends the packet.
    ///
    /// Panics: as [`PublishHead::encode`].
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let head = PublishHead {
            version,
            qos: self.qos,
            dup: self.dup,
            retain: self.retain,
            topic: self.topic,
            packet_id: self.packet_id,
            topic_alias: self.properties.topic_alias,
            message_expiry_s: self.properties.message_expiry_s,
            subscription_ids: &[],
            forward: &[],
            payload_len: self.payload.len(),
        };
        let ids = self
            .properties
            .subscription_ids
            .clone()
            .map(NonZeroU32::get);
        head.encode_with(out, ids, self.properties.forward.slices());
        out.extend_from_slice(self.payload);
    }
}

impl<'a> PublishProperties<'a> {
    fn decode(sender: Sender, raw: &'a [u8]) -> Result<Self, DecodeError> {
        let mut properties = Self::default();
        if raw.is_empty() {
            return Ok(properties);
        }
        let mut splitter = Splitter::new(raw);
        let mut walker = Walker::new(PacketType::Publish, raw);
        while let Some(property) = walker.next() {
            let property = property?;
            splitter.take(&property, walker.left());
            match property {
                Property::TopicAlias(alias) => properties.topic_alias = Some(alias),
                Property::MessageExpiryInterval(s) => properties.message_expiry_s = Some(s),
                Property::SubscriptionIdentifier(_) if sender == Sender::Client => {
                    return Err(DecodeError::protocol(
                        "MQTT-3.3.4-6",
                        "a client sent a Subscription Identifier with a PUBLISH",
                    ));
                }
                Property::SubscriptionIdentifier(_) => {
                    properties.subscription_ids = SubscriptionIds::over(raw);
                }
                _ => {}
            }
        }
        properties.forward = splitter.finish();
        Ok(properties)
    }
}

impl PublishHead<'_> {
    /// Appends everything but the payload, and tells where a copy of the head is patched.
    ///
    /// To patch DUP and RETAIN, change [`DUP`] and [`RETAIN`] in the first byte.
    ///
    /// Panics: when the packet is larger than [`PACKET_BYTES_MAX`](super::PACKET_BYTES_MAX) (compare
    /// [`encoded_len`](Self::encoded_len) first), the Topic Name longer than 65,535 bytes or empty
    /// without a Topic Alias, when a Packet Identifier and the QoS do not agree, when DUP is set
    /// with QoS 0, and when a Subscription Identifier is 0 or above 268,435,455.
    pub fn encode(&self, out: &mut Vec<u8>) -> HeadOffsets {
        self.encode_with(
            out,
            self.subscription_ids.iter().copied(),
            [self.forward].into_iter(),
        )
    }

    /// The bytes of the whole packet, payload included.
    pub fn encoded_len(&self) -> usize {
        let properties =
            self.property_len(self.subscription_ids.iter().copied(), self.forward.len());
        let remaining = self.remaining_len(properties);
        1 + capped_varint_len(remaining) + remaining
    }

    fn encode_with<'f>(
        &self,
        out: &mut Vec<u8>,
        subscription_ids: impl Iterator<Item = u32> + Clone,
        forward: impl Iterator<Item = &'f [u8]> + Clone,
    ) -> HeadOffsets {
        let v5 = self.version.is_v5();
        assert!(
            self.topic.len() <= STRING_BYTES_MAX,
            "a Topic Name has at most 65,535 bytes"
        );
        assert!(
            !self.topic.is_empty() || v5 && self.topic_alias.is_some(),
            "an empty Topic Name needs a Topic Alias"
        );
        assert_eq!(
            self.packet_id.is_some(),
            self.qos != QoS::AtMostOnce,
            "a Packet Identifier goes with QoS 1 and 2"
        );
        assert!(
            !self.dup || self.qos != QoS::AtMostOnce,
            "DUP does not go with QoS 0"
        );

        let start = out.len();
        let forward_len = forward.clone().map(<[u8]>::len).sum();
        let properties = self.property_len(subscription_ids.clone(), forward_len);
        let remaining = self.remaining_len(properties);
        out.reserve(1 + varint_len(remaining) + remaining - self.payload_len);
        out.push(self.first_byte());
        put_varint(out, remaining);
        put_binary(out, self.topic.as_bytes());
        let packet_id = self.packet_id.map(|packet_id| {
            put_u16(out, packet_id.get());
            out.len() - 2 - start
        });
        if !v5 {
            return HeadOffsets {
                packet_id,
                message_expiry_s: None,
            };
        }
        put_varint(out, properties);
        if let Some(alias) = self.topic_alias {
            Property::TopicAlias(alias).put(out);
        }
        let message_expiry_s = self.message_expiry_s.map(|expiry_s| {
            Property::MessageExpiryInterval(expiry_s).put(out);
            out.len() - 4 - start
        });
        for id in subscription_ids {
            let id = NonZeroU32::new(id).expect("a Subscription Identifier is not 0");
            Property::SubscriptionIdentifier(id).put(out);
        }
        forward.for_each(|run| out.extend_from_slice(run));
        HeadOffsets {
            packet_id,
            message_expiry_s,
        }
    }

    fn first_byte(&self) -> u8 {
        let mut first = PacketType::Publish.first_byte() | (self.qos as u8) << QOS_SHIFT;
        if self.dup {
            first |= DUP;
        }
        if self.retain {
            first |= RETAIN;
        }
        first
    }

    /// The Property Length; 0 before 5.0.
    fn property_len(
        &self,
        subscription_ids: impl Iterator<Item = u32>,
        forward_len: usize,
    ) -> usize {
        if !self.version.is_v5() {
            return 0;
        }
        let alias = if self.topic_alias.is_some() { 3 } else { 0 };
        let expiry = if self.message_expiry_s.is_some() {
            5
        } else {
            0
        };
        let ids: usize = subscription_ids.map(subscription_id_len).sum();
        alias + expiry + ids + forward_len
    }

    /// The Remaining Length.
    fn remaining_len(&self, properties: usize) -> usize {
        let packet_id = if self.packet_id.is_some() { 2 } else { 0 };
        let property_section = if self.version.is_v5() {
            capped_varint_len(properties) + properties
        } else {
            0
        };
        2 + self.topic.len() + packet_id + property_section + self.payload_len
    }
}

/// The bytes of the length `value`, or four when it is too large to be encoded at all: so the length
/// of a packet that cannot be sent is still told, and is above every limit.
fn capped_varint_len(value: usize) -> usize {
    varint_len(value.min(VARINT_MAX as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{PACKET_BYTES_MAX, ReasonCode};

    fn id(id: u16) -> Option<PacketId> {
        PacketId::new(id)
    }

    fn refused(version: Version, flags: u8, body: &[u8]) -> (ReasonCode, &'static str) {
        let error = Publish::decode(version, flags, body).expect_err("must be refused");
        (error.reason, error.statement)
    }

    #[test]
    fn the_smallest_packets() {
        let publish = Publish::decode(Version::V311, 0, b"\x00\x01tx").expect("valid");
        assert_eq!(publish.topic, "t");
        assert_eq!(publish.payload, b"x");
        assert_eq!(
            (publish.qos, publish.dup, publish.retain),
            (QoS::AtMostOnce, false, false)
        );
        assert_eq!(publish.packet_id, None);
        let publish = Publish::decode(Version::V5, 0, b"\x00\x01t\x00").expect("valid");
        assert_eq!(publish.payload, b"");
        assert_eq!(publish.properties, PublishProperties::default());
    }

    #[test]
    fn every_field() {
        let body = b"\x00\x03a/b\x12\x34\x15\x01\x01\x23\x00\x07\x08\x00\x01r\x02\x00\x00\x00\x3C\
            \x26\x00\x01k\x00\x01vpayload";
        let publish = Publish::decode(Version::V5, 0b1101, body).expect("valid");
        assert_eq!(
            (publish.qos, publish.dup, publish.retain),
            (QoS::ExactlyOnce, true, true)
        );
        assert_eq!(publish.topic, "a/b");
        assert_eq!(publish.packet_id, id(0x1234));
        assert_eq!(publish.payload, b"payload");
        let properties = &publish.properties;
        assert_eq!(properties.topic_alias.map(NonZeroU16::get), Some(7));
        assert_eq!(properties.message_expiry_s, Some(60));
        assert_eq!(properties.subscription_ids.clone().count(), 0);
        let runs: Vec<_> = properties.forward.slices().collect();
        assert_eq!(
            runs,
            [
                &b"\x01\x01"[..],
                b"\x08\x00\x01r",
                b"\x26\x00\x01k\x00\x01v"
            ]
        );
        let mut out = Vec::new();
        publish.encode(Version::V5, &mut out);
        assert_eq!(out[..2], [0x3D, body.len() as u8]);
        assert_eq!(Publish::decode(Version::V5, 0b1101, &out[2..]), Ok(publish));
    }

    #[test]
    fn an_alias_replaces_the_topic_in_5_0_only() {
        let body = b"\x00\x00\x03\x23\x00\x01x";
        let publish = Publish::decode(Version::V5, 0, body).expect("valid");
        assert_eq!(publish.topic, "");
        assert_eq!(
            refused(Version::V5, 0, b"\x00\x00\x00x"),
            (ReasonCode::ProtocolError, "§3.3.2.1")
        );
        assert_eq!(
            refused(Version::V311, 0, body),
            (ReasonCode::MalformedPacket, "MQTT-4.7.3-1")
        );
    }

    #[test]
    fn malformed_and_forbidden() {
        use ReasonCode::{MalformedPacket, ProtocolError, TopicAliasInvalid, TopicNameInvalid};
        for (flags, body, reason, statement) in [
            (
                0b0110,
                &b"\x00\x01t\x00\x01\x00"[..],
                MalformedPacket,
                "MQTT-3.3.1-4",
            ),
            (0b1000, b"\x00\x01t\x00", MalformedPacket, "MQTT-3.3.1-2"),
            (0, b"", MalformedPacket, "§4.13.1"),
            (0, b"\x00", MalformedPacket, "§4.13.1"),
            (0, b"\xFF\xFFab", MalformedPacket, "§4.13.1"),
            (0, b"\x00\x01t", MalformedPacket, "§4.13.1"),
            (0, b"\x00\x03a\0b\x00", MalformedPacket, "MQTT-1.5.4-2"),
            (0, b"\x00\x03a\xFF\xFE\x00", MalformedPacket, "MQTT-1.5.4-1"),
            (0, b"\x00\x03a/+\x00", TopicNameInvalid, "MQTT-3.3.2-2"),
            (0, b"\x00\x03a/#\x00", TopicNameInvalid, "MQTT-3.3.2-2"),
            (2, b"\x00\x01t", MalformedPacket, "§4.13.1"),
            (2, b"\x00\x01t\x00", MalformedPacket, "§4.13.1"),
            (2, b"\x00\x01t\x00\x00\x00", ProtocolError, "MQTT-2.2.1-3"),
            (4, b"\x00\x01t\x00\x00\x00", ProtocolError, "MQTT-2.2.1-3"),
            (
                0,
                b"\x00\x01t\x03\x23\x00\x00x",
                TopicAliasInvalid,
                "MQTT-3.3.2-8",
            ),
            (0, b"\x00\x01t\x02\x0B\x01x", ProtocolError, "MQTT-3.3.4-6"),
            (0, b"\x00\x01t\x02\x01\x02x", ProtocolError, "§3.3.2.3.2"),
            (
                0,
                b"\x00\x01t\x04\x01\x00\x01\x00x",
                ProtocolError,
                "§2.2.2.2",
            ),
            (
                0,
                b"\x00\x01t\x06\x08\x00\x03a/#x",
                ProtocolError,
                "MQTT-3.3.2-14",
            ),
            (
                0,
                b"\x00\x01t\xFF\xFF\xFF\xFF\x01x",
                MalformedPacket,
                "§1.5.5",
            ),
            (0, b"\x00\x01t\x7F\x26\xFF\xFFk", MalformedPacket, "§4.13.1"),
            (
                0,
                b"\x00\x01t\x04\x26\x00\x01kx",
                MalformedPacket,
                "§4.13.1",
            ),
            (
                0,
                b"\x00\x01t\x05\x11\x00\x00\x00\x01x",
                MalformedPacket,
                "§2.2.2.2",
            ),
        ] {
            assert_eq!(
                refused(Version::V5, flags, body),
                (reason, statement),
                "{body:x?}"
            );
        }
    }

    #[test]
    fn only_a_server_sends_subscription_identifiers() {
        let body = b"\x00\x01t\x0D\x0B\x01\x01\x00\x0B\x80\x01\x03\x00\x01c\x0B\x07x";
        let publish = Publish::decode_from_server(Version::V5, 0, body).expect("valid");
        let ids: Vec<u32> = publish
            .properties
            .subscription_ids
            .clone()
            .map(NonZeroU32::get)
            .collect();
        assert_eq!(ids, [1, 128, 7]);
        assert_eq!(
            publish
                .properties
                .forward
                .slices()
                .collect::<Vec<_>>()
                .concat(),
            b"\x01\x00\x03\x00\x01c"
        );
        assert_eq!(publish.payload, b"x");
        assert_eq!(refused(Version::V5, 0, body).1, "MQTT-3.3.4-6");
    }

    fn head(version: Version) -> PublishHead<'static> {
        PublishHead {
            version,
            qos: QoS::AtLeastOnce,
            dup: false,
            retain: true,
            topic: "a/b",
            packet_id: id(1),
            topic_alias: None,
            message_expiry_s: Some(60),
            subscription_ids: &[5, 268_435_455],
            forward: b"\x01\x01",
            payload_len: 4,
        }
    }

    #[test]
    fn a_head_says_its_length_and_where_to_patch_it() {
        for version in [Version::V31, Version::V311, Version::V5] {
            let head = head(version);
            let mut out = vec![0xEE; 3];
            let offsets = head.encode(&mut out);
            let mut encoded = out.split_off(3);
            assert_eq!(out, [0xEE; 3]);
            assert_eq!(encoded.len() + 4, head.encoded_len());
            offsets.patch_packet_id(&mut encoded, PacketId::new(0xABCD).expect("not 0"));
            if version.is_v5() {
                offsets.patch_message_expiry_s(&mut encoded, 59);
            } else {
                assert_eq!(offsets.message_expiry_s, None);
            }
            encoded.extend_from_slice(b"data");
            assert_eq!(encoded[..2], [0x33, encoded.len() as u8 - 2]);
            let publish =
                Publish::decode_from_server(version, 0b0011, &encoded[2..]).expect("valid");
            assert_eq!(publish.packet_id, id(0xABCD));
            assert_eq!(publish.topic, "a/b");
            assert_eq!(publish.payload, b"data");
            assert!(publish.retain);
            let properties = publish.properties;
            let ids: Vec<u32> = properties
                .subscription_ids
                .clone()
                .map(NonZeroU32::get)
                .collect();
            if version.is_v5() {
                assert_eq!(properties.message_expiry_s, Some(59));
                assert_eq!(ids, head.subscription_ids);
                assert_eq!(
                    properties.forward.slices().collect::<Vec<_>>(),
                    [b"\x01\x01"]
                );
            } else {
                assert_eq!(properties, PublishProperties::default());
            }
        }
    }

    #[test]
    fn the_length_of_a_packet_that_cannot_be_sent_is_told() {
        let head = PublishHead {
            payload_len: PACKET_BYTES_MAX,
            ..head(Version::V5)
        };
        assert!(head.encoded_len() > PACKET_BYTES_MAX);
    }

    #[test]
    fn a_head_at_each_length_of_the_remaining_length() {
        for payload_len in [0, 100, 127, 128, 16_383, 16_384, 2_097_152, 268_000_000] {
            let head = PublishHead {
                payload_len,
                ..head(Version::V5)
            };
            let mut out = Vec::new();
            head.encode(&mut out);
            assert_eq!(out.len() + payload_len, head.encoded_len());
        }
    }

    #[test]
    #[should_panic(expected = "goes with QoS 1 and 2")]
    fn a_head_with_qos_0_and_a_packet_id_is_our_own_mistake() {
        PublishHead {
            qos: QoS::AtMostOnce,
            ..head(Version::V5)
        }
        .encode(&mut Vec::new());
    }
}

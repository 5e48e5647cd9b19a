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
use super::varint::{put_varint, varint_len};
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
        // More than four bytes of length cannot be encoded, but the caller wants to know how much it is.
        let capped = remaining.min(super::varint::VARINT_MAX as usize);
        1 + varint_len(capped) + remaining
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
            varint_len(properties) + properties
        } else {
            0
        };
        2 + self.topic.len() + packet_id + property_section + self.payload_len
    }
}

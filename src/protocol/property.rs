//! Properties: one table of what they are and who may carry them, and a validating walk over their
//! bytes.
//!
//! Nothing is collected while decoding: a packet keeps the few values it needs and, for what may
//! repeat or is only passed on, the raw bytes ([`UserProperties`], [`SubscriptionIds`],
//! [`Forward`]), which are walked again when asked.
//!
//! Spec: MQTT 5 §2.2.2.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use super::error::DecodeError;
use super::text::STRING_BYTES_MAX;
use super::varint::{VARINT_MAX, put_varint, varint_len};
use super::wire::{Field, Reader, field, put_binary, put_u16, put_u32, put_with_len};
use super::{PacketType, QoS, ReasonCode};

/// One property.
///
/// Values that the standard forbids (0 for a Receive Maximum, 2 for a Maximum QoS) cannot be
/// expressed, except that strings must have at most 65,535 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property<'a> {
    /// 0x01: whether the payload is UTF-8 text.
    PayloadFormatIndicator(bool),
    /// 0x02: the lifetime of the message, in seconds.
    MessageExpiryInterval(u32),
    /// 0x03: what the payload is, in words the two ends agreed on.
    ContentType(&'a str),
    /// 0x08: the Topic Name for a response.
    ResponseTopic(&'a str),
    /// 0x09: how the requester recognises the response.
    CorrelationData(&'a [u8]),
    /// 0x0B: the number a client gave to a Subscription, at most 268,435,455.
    SubscriptionIdentifier(NonZeroU32),
    /// 0x11: how long the Session outlives its Network Connection, in seconds; `u32::MAX` is for ever.
    SessionExpiryInterval(u32),
    /// 0x12: the Client Identifier that the server made.
    AssignedClientIdentifier(&'a str),
    /// 0x13: the Keep Alive to use instead of the one asked for, in seconds.
    ServerKeepAlive(u16),
    /// 0x15: the name of the enhanced authentication.
    AuthenticationMethod(&'a str),
    /// 0x16: what the Authentication Method defines.
    AuthenticationData(&'a [u8]),
    /// 0x17: whether the server may send Reason Strings and User Properties with failures.
    RequestProblemInformation(bool),
    /// 0x18: how long to wait before the Will is published, in seconds.
    WillDelayInterval(u32),
    /// 0x19: whether the server may send Response Information.
    RequestResponseInformation(bool),
    /// 0x1A: the basis of the client's Response Topics.
    ResponseInformation(&'a str),
    /// 0x1C: another server to use.
    ServerReference(&'a str),
    /// 0x1F: the reason, for people.
    ReasonString(&'a str),
    /// 0x21: how many QoS 1 and 2 messages may be in flight.
    ReceiveMaximum(NonZeroU16),
    /// 0x22: the highest Topic Alias accepted; 0 is none.
    TopicAliasMaximum(u16),
    /// 0x23: a number that stands for the Topic Name.
    TopicAlias(NonZeroU16),
    /// 0x24: the highest QoS the server supports; only 0 and 1 are ever sent.
    MaximumQoS(QoS),
    /// 0x25: whether the server keeps retained messages.
    RetainAvailable(bool),
    /// 0x26: a name and a value of the application's own.
    UserProperty(&'a str, &'a str),
    /// 0x27: the largest packet accepted, in bytes.
    MaximumPacketSize(NonZeroU32),
    /// 0x28: whether the server has Wildcard Subscriptions.
    WildcardSubscriptionAvailable(bool),
    /// 0x29: whether the server has Subscription Identifiers.
    SubscriptionIdentifierAvailable(bool),
    /// 0x2A: whether the server has Shared Subscriptions.
    SharedSubscriptionAvailable(bool),
}

/// The properties of one packet, in their order, each checked when it is reached: its identifier, whether
/// this packet may carry it, whether it may repeat, and its value.
///
/// Nothing follows the first error. Cost: linear in the bytes, no allocation.
///
/// Spec: MQTT 5 §2.2.2.2.
#[derive(Clone, Debug)]
pub struct Walker<'a> {
    reader: Reader<'a>,
    carrier: u16,
    /// One bit per Property Identifier.
    seen: u64,
}

impl<'a> Walker<'a> {
    /// The properties `raw`, without their length, of a packet of type `packet_type`.
    pub fn new(packet_type: PacketType, raw: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(raw),
            carrier: bit(packet_type),
            seen: 0,
        }
    }

    /// The Will Properties `raw`, without their length.
    pub fn new_will(raw: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(raw),
            carrier: WILL,
            seen: 0,
        }
    }

    /// The bytes not walked yet.
    pub(super) fn left(&self) -> usize {
        self.reader.len()
    }

    fn step(&mut self) -> Result<Property<'a>, DecodeError> {
        let id = self.reader.u8(&IDENTIFIER)?;
        let Some(row) = row(id) else {
            return Err(DecodeError::malformed(
                "§2.2.2.2",
                "unknown Property Identifier",
            ));
        };
        if row.carriers & self.carrier == 0 {
            return Err(DecodeError::malformed("§2.2.2.2", row.misplaced));
        }
        let id_bit = 1_u64 << id;
        if self.seen & id_bit != 0 && row.repeatable_in & self.carrier == 0 {
            return Err(DecodeError::protocol("§2.2.2.2", row.repeated));
        }
        self.seen |= id_bit;
        read_value(row, &mut self.reader)
    }
}

impl<'a> Iterator for Walker<'a> {
    type Item = Result<Property<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(step)
    }
}

impl Property<'_> {
    /// The Property Identifier.
    pub fn id(&self) -> u8 {
        match self {
            Self::PayloadFormatIndicator(_) => 0x01,
            Self::MessageExpiryInterval(_) => 0x02,
            Self::ContentType(_) => 0x03,
            Self::ResponseTopic(_) => 0x08,
            Self::CorrelationData(_) => 0x09,
            Self::SubscriptionIdentifier(_) => 0x0B,
            Self::SessionExpiryInterval(_) => 0x11,
            Self::AssignedClientIdentifier(_) => 0x12,
            Self::ServerKeepAlive(_) => 0x13,
            Self::AuthenticationMethod(_) => 0x15,
            Self::AuthenticationData(_) => 0x16,
            Self::RequestProblemInformation(_) => 0x17,
            Self::WillDelayInterval(_) => 0x18,
            Self::RequestResponseInformation(_) => 0x19,
            Self::ResponseInformation(_) => 0x1A,
            Self::ServerReference(_) => 0x1C,
            Self::ReasonString(_) => 0x1F,
            Self::ReceiveMaximum(_) => 0x21,
            Self::TopicAliasMaximum(_) => 0x22,
            Self::TopicAlias(_) => 0x23,
            Self::MaximumQoS(_) => 0x24,
            Self::RetainAvailable(_) => 0x25,
            Self::UserProperty(..) => 0x26,
            Self::MaximumPacketSize(_) => 0x27,
            Self::WildcardSubscriptionAvailable(_) => 0x28,
            Self::SubscriptionIdentifierAvailable(_) => 0x29,
            Self::SharedSubscriptionAvailable(_) => 0x2A,
        }
    }

    /// Appends the property with its identifier.
    ///
    /// With it a client builds what [`Forward::from_raw`] and [`UserProperties::from_raw`] take.
    ///
    /// Panics: when a string is longer than 65,535 bytes, or a Subscription Identifier or Maximum
    /// QoS is above its limit.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.push(self.id());
        match *self {
            Self::PayloadFormatIndicator(value)
            | Self::RequestProblemInformation(value)
            | Self::RequestResponseInformation(value)
            | Self::RetainAvailable(value)
            | Self::WildcardSubscriptionAvailable(value)
            | Self::SubscriptionIdentifierAvailable(value)
            | Self::SharedSubscriptionAvailable(value) => out.push(u8::from(value)),
            Self::MaximumQoS(qos) => {
                assert!(
                    qos < QoS::ExactlyOnce,
                    "a Maximum QoS of 2 is said by leaving it out"
                );
                out.push(qos as u8);
            }
            Self::ServerKeepAlive(value) | Self::TopicAliasMaximum(value) => put_u16(out, value),
            Self::ReceiveMaximum(value) | Self::TopicAlias(value) => put_u16(out, value.get()),
            Self::MessageExpiryInterval(value)
            | Self::SessionExpiryInterval(value)
            | Self::WillDelayInterval(value) => put_u32(out, value),
            Self::MaximumPacketSize(value) => put_u32(out, value.get()),
            Self::SubscriptionIdentifier(value) => put_varint(out, value.get() as usize),
            Self::ContentType(text)
            | Self::ResponseTopic(text)
            | Self::AssignedClientIdentifier(text)
            | Self::AuthenticationMethod(text)
            | Self::ResponseInformation(text)
            | Self::ServerReference(text)
            | Self::ReasonString(text) => put_binary(out, text.as_bytes()),
            Self::CorrelationData(data) | Self::AuthenticationData(data) => put_binary(out, data),
            Self::UserProperty(name, value) => {
                put_binary(out, name.as_bytes());
                put_binary(out, value.as_bytes());
            }
        }
    }
}

/// The properties of a PUBLISH or a Will that a server passes on as they are: Payload Format
/// Indicator, Content Type, Response Topic, Correlation Data and the User Properties, in their order.
///
/// They stay where they were received, as the runs of bytes between the properties that are not
/// passed on (Topic Alias, Message Expiry Interval, Will Delay Interval, Subscription Identifier).
/// What a client sends has at most two of those, and so at most three runs.
///
/// Spec: MQTT 5 §3.3.2.3, MQTT-3.3.2-4, -15, -16, -17, -18, -20.
#[derive(Clone, Copy, Default)]
pub struct Forward<'a> {
    runs: [&'a [u8]; 3],
    /// What comes after the third run, properties that are not passed on included: only a server
    /// sends so many Subscription Identifiers, so a server never has to look here.
    tail: &'a [u8],
}

impl<'a> Forward<'a> {
    /// Properties that a client wrote with [`Property::put`].
    ///
    /// Errors: 0x81 or 0x82 when `raw` is malformed, or has another property than those that are
    /// passed on.
    pub fn from_raw(raw: &'a [u8]) -> Result<Self, DecodeError> {
        let mut splitter = Splitter::new(raw);
        let mut walker = Walker::new(PacketType::Publish, raw);
        while let Some(property) = walker.next() {
            splitter.take(&property?, walker.left());
        }
        let forward = splitter.finish();
        if forward.len() != raw.len() {
            return Err(DecodeError::protocol(
                "§3.3.2.3",
                "a property that is not passed on",
            ));
        }
        Ok(forward)
    }

    /// The runs of bytes; none of them is empty.
    pub fn slices(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let tail = Validated::new(self.tail)
            .filter(|(property, _)| is_forwarded(property))
            .map(|(_, raw)| raw);
        self.runs
            .into_iter()
            .filter(|run| !run.is_empty())
            .chain(tail)
    }

    /// All bytes together.
    pub fn len(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    /// Whether nothing is passed on.
    pub fn is_empty(&self) -> bool {
        self.slices().next().is_none()
    }

    /// The properties, in their order.
    pub fn properties(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        self.slices()
            .flat_map(|run| Validated::new(run).map(|(property, _)| property))
    }

    /// Whether the Payload Format Indicator says that the payload is UTF-8 text.
    pub fn payload_is_utf8(&self) -> bool {
        self.properties()
            .any(|property| property == Property::PayloadFormatIndicator(true))
    }

    /// The Content Type.
    pub fn content_type(&self) -> Option<&'a str> {
        self.properties().find_map(|property| match property {
            Property::ContentType(text) => Some(text),
            _ => None,
        })
    }

    /// The Response Topic.
    pub fn response_topic(&self) -> Option<&'a str> {
        self.properties().find_map(|property| match property {
            Property::ResponseTopic(text) => Some(text),
            _ => None,
        })
    }

    /// The Correlation Data.
    pub fn correlation_data(&self) -> Option<&'a [u8]> {
        self.properties().find_map(|property| match property {
            Property::CorrelationData(data) => Some(data),
            _ => None,
        })
    }

    /// The User Properties.
    pub fn user(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.slices().flat_map(UserProperties::over)
    }
}

/// Equal when the same bytes are passed on.
impl PartialEq for Forward<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.slices().flatten().eq(other.slices().flatten())
    }
}

impl Eq for Forward<'_> {}

impl fmt::Debug for Forward<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.properties()).finish()
    }
}

/// The User Properties of a packet, in their order: an iterator of names and values.
///
/// Spec: MQTT 5 §2.2.2.2.
#[derive(Clone, Default)]
pub struct UserProperties<'a> {
    validated: Validated<'a>,
}

impl<'a> UserProperties<'a> {
    /// User Properties that were written with [`Property::put`].
    ///
    /// Errors: 0x81 or 0x82 when `raw` is malformed or has another property.
    pub fn from_raw(raw: &'a [u8]) -> Result<Self, DecodeError> {
        // Nothing but User Properties may go with a SUBSCRIBE, except an identifier.
        for property in Walker::new(PacketType::Subscribe, raw) {
            if !matches!(property?, Property::UserProperty(..)) {
                return Err(DecodeError::protocol("§2.2.2.2", "not a User Property"));
            }
        }
        Ok(Self::over(raw))
    }

    /// The User Properties among `raw`, which a [`Walker`] has accepted.
    pub(super) fn over(raw: &'a [u8]) -> Self {
        Self {
            validated: Validated::new(raw),
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for (name, value) in self.clone() {
            Property::UserProperty(name, value).put(out);
        }
    }
}

impl<'a> Iterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.validated.find_map(|(property, _)| match property {
            Property::UserProperty(name, value) => Some((name, value)),
            _ => None,
        })
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.clone().eq(other.clone())
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// The Subscription Identifiers of a PUBLISH that a server sent, in their order.
///
/// Spec: MQTT 5 §3.3.2.3.8.
#[derive(Clone, Default)]
pub struct SubscriptionIds<'a> {
    validated: Validated<'a>,
}

impl<'a> SubscriptionIds<'a> {
    /// The Subscription Identifiers among `raw`, which a [`Walker`] has accepted.
    pub(super) fn over(raw: &'a [u8]) -> Self {
        Self {
            validated: Validated::new(raw),
        }
    }
}

impl Iterator for SubscriptionIds<'_> {
    type Item = NonZeroU32;

    fn next(&mut self) -> Option<Self::Item> {
        self.validated.find_map(|(property, _)| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        })
    }
}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.clone().eq(other.clone())
    }
}

impl Eq for SubscriptionIds<'_> {}

impl fmt::Debug for SubscriptionIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// The bytes that [`Property::put`] appends for a Subscription Identifier.
pub(super) fn subscription_id_len(id: u32) -> usize {
    1 + varint_len(id as usize)
}

/// Appends the properties that `write` appends, after their length.
pub(super) fn put_properties(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    put_with_len(out, write);
}

/// Appends `property`, if there is one.
pub(super) fn put_some(out: &mut Vec<u8>, property: Option<Property<'_>>) {
    if let Some(property) = property {
        property.put(out);
    }
}

/// Collects the runs of a [`Forward`] while its properties are walked.
pub(super) struct Splitter<'a> {
    raw: &'a [u8],
    /// Where the next property begins.
    at: usize,
    run_start: usize,
    runs: [&'a [u8]; 3],
    run_count: usize,
}

impl<'a> Splitter<'a> {
    pub(super) fn new(raw: &'a [u8]) -> Self {
        Self {
            raw,
            at: 0,
            run_start: 0,
            runs: [&[]; 3],
            run_count: 0,
        }
    }

    /// Takes the next property, after which `left` bytes remain.
    pub(super) fn take(&mut self, property: &Property<'_>, left: usize) {
        let end = self.raw.len() - left;
        if !is_forwarded(property) && self.run_count < self.runs.len() {
            if self.run_start < self.at {
                self.runs[self.run_count] = &self.raw[self.run_start..self.at];
                self.run_count += 1;
            }
            self.run_start = end;
        }
        self.at = end;
    }

    pub(super) fn finish(mut self) -> Forward<'a> {
        let rest = &self.raw[self.run_start..];
        if self.run_count < self.runs.len() {
            self.runs[self.run_count] = rest;
            return Forward {
                runs: self.runs,
                tail: &[],
            };
        }
        Forward {
            runs: self.runs,
            tail: rest,
        }
    }
}

fn is_forwarded(property: &Property<'_>) -> bool {
    !matches!(
        property,
        Property::MessageExpiryInterval(_)
            | Property::SubscriptionIdentifier(_)
            | Property::WillDelayInterval(_)
            | Property::TopicAlias(_)
    )
}

/// Properties that a [`Walker`] has accepted before, each with its bytes.
#[derive(Clone, Debug, Default)]
struct Validated<'a> {
    raw: &'a [u8],
}

impl<'a> Validated<'a> {
    fn new(raw: &'a [u8]) -> Self {
        Self { raw }
    }
}

impl<'a> Iterator for Validated<'a> {
    type Item = (Property<'a>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader::new(self.raw);
        let row = row(reader.u8(&IDENTIFIER).ok()?)?;
        let property = read_value(row, &mut reader).ok()?;
        let (raw, rest) = self.raw.split_at(self.raw.len() - reader.len());
        self.raw = rest;
        Some((property, raw))
    }
}

/// Reads and checks the value of the property in `row`.
fn read_value<'a>(row: &Row, reader: &mut Reader<'a>) -> Result<Property<'a>, DecodeError> {
    let field = &row.field;
    let outside = || DecodeError::protocol(row.section, row.outside);
    let flag = |reader: &mut Reader<'a>| match reader.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(outside()),
    };
    let nonzero_u32 = |value| NonZeroU32::new(value).ok_or_else(outside);
    Ok(match row.id {
        0x01 => Property::PayloadFormatIndicator(flag(reader)?),
        0x02 => Property::MessageExpiryInterval(reader.u32(field)?),
        0x03 => Property::ContentType(reader.utf8(field)?),
        0x08 => Property::ResponseTopic(response_topic(row, reader)?),
        0x09 => Property::CorrelationData(reader.binary(field)?),
        0x0B => Property::SubscriptionIdentifier(nonzero_u32(reader.varint(field)?)?),
        0x11 => Property::SessionExpiryInterval(reader.u32(field)?),
        0x12 => Property::AssignedClientIdentifier(reader.utf8(field)?),
        0x13 => Property::ServerKeepAlive(reader.u16(field)?),
        0x15 => Property::AuthenticationMethod(reader.utf8(field)?),
        0x16 => Property::AuthenticationData(reader.binary(field)?),
        0x17 => Property::RequestProblemInformation(flag(reader)?),
        0x18 => Property::WillDelayInterval(reader.u32(field)?),
        0x19 => Property::RequestResponseInformation(flag(reader)?),
        0x1A => Property::ResponseInformation(reader.utf8(field)?),
        0x1C => Property::ServerReference(reader.utf8(field)?),
        0x1F => Property::ReasonString(reader.utf8(field)?),
        0x21 => {
            let value = NonZeroU16::new(reader.u16(field)?);
            Property::ReceiveMaximum(value.ok_or_else(outside)?)
        }
        0x22 => Property::TopicAliasMaximum(reader.u16(field)?),
        0x23 => {
            let value = NonZeroU16::new(reader.u16(field)?);
            Property::TopicAlias(value.ok_or(DecodeError {
                reason: ReasonCode::TopicAliasInvalid,
                statement: row.section,
                what: row.outside,
            })?)
        }
        0x24 => Property::MaximumQoS(match flag(reader)? {
            false => QoS::AtMostOnce,
            true => QoS::AtLeastOnce,
        }),
        0x25 => Property::RetainAvailable(flag(reader)?),
        0x26 => Property::UserProperty(reader.utf8(field)?, reader.utf8(field)?),
        0x27 => Property::MaximumPacketSize(nonzero_u32(reader.u32(field)?)?),
        0x28 => Property::WildcardSubscriptionAvailable(flag(reader)?),
        0x29 => Property::SubscriptionIdentifierAvailable(flag(reader)?),
        0x2A => Property::SharedSubscriptionAvailable(flag(reader)?),
        id => unreachable!("property {id:#04x} has a row and no type"),
    })
}

/// A Response Topic must be a Topic Name (MQTT-3.3.2-14, MQTT-4.7.3-1).
fn response_topic<'a>(row: &Row, reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let topic = reader
        .topic_name(&row.field)
        .map_err(|error| match error.reason {
            ReasonCode::TopicNameInvalid => DecodeError::protocol("MQTT-3.3.2-14", error.what),
            _ => error,
        })?;
    if topic.is_empty() {
        return Err(DecodeError::protocol("MQTT-4.7.3-1", row.outside));
    }
    Ok(topic)
}

/// What the standard says about one property.
struct Row {
    id: u8,
    field: Field,
    misplaced: &'static str,
    repeated: &'static str,
    outside: &'static str,
    /// The section on values outside the range.
    section: &'static str,
    /// The packets that may carry it: a bit per packet type, and [`WILL`].
    carriers: u16,
    /// Those in which it may be more than once.
    repeatable_in: u16,
}

const fn bit(packet_type: PacketType) -> u16 {
    1 << packet_type as u8
}

/// There is no packet type 0, so its bit stands for the Will Properties in CONNECT.
const WILL: u16 = 1;
const CONNECT: u16 = bit(PacketType::Connect);
const CONNACK: u16 = bit(PacketType::Connack);
const PUBLISH: u16 = bit(PacketType::Publish);
const PUBLISH_ACKS: u16 = bit(PacketType::Puback)
    | bit(PacketType::Pubrec)
    | bit(PacketType::Pubrel)
    | bit(PacketType::Pubcomp);
const SUBSCRIBE: u16 = bit(PacketType::Subscribe);
const SUBACK: u16 = bit(PacketType::Suback);
const UNSUBSCRIBE: u16 = bit(PacketType::Unsubscribe);
const UNSUBACK: u16 = bit(PacketType::Unsuback);
const DISCONNECT: u16 = bit(PacketType::Disconnect);
const AUTH: u16 = bit(PacketType::Auth);
const WITH_REASON: u16 = CONNACK | PUBLISH_ACKS | SUBACK | UNSUBACK | DISCONNECT | AUTH;
const ALL: u16 = WITH_REASON | CONNECT | WILL | PUBLISH | SUBSCRIBE | UNSUBSCRIBE;

static IDENTIFIER: Field = field!("Property Identifier");

macro_rules! row {
    ($id:literal $name:literal, in $carriers:expr, repeats in $repeatable_in:expr, $section:literal) => {
        Row {
            id: $id,
            field: field!($name),
            misplaced: concat!($name, " does not belong to this packet"),
            repeated: concat!($name, " is there more than once"),
            outside: concat!($name, " has a value outside its range"),
            section: $section,
            carriers: $carriers,
            repeatable_in: $repeatable_in,
        }
    };
}

/// Table 2-4 of the standard, in the order of the identifiers. The type of the value is in
/// [`read_value`] and [`Property::put`].
static TABLE: [Row; 27] = [
    row!(0x01 "Payload Format Indicator", in PUBLISH | WILL, repeats in 0, "§3.3.2.3.2"),
    row!(0x02 "Message Expiry Interval", in PUBLISH | WILL, repeats in 0, "§3.3.2.3.3"),
    row!(0x03 "Content Type", in PUBLISH | WILL, repeats in 0, "§3.3.2.3.9"),
    row!(0x08 "Response Topic", in PUBLISH | WILL, repeats in 0, "§3.3.2.3.5"),
    row!(0x09 "Correlation Data", in PUBLISH | WILL, repeats in 0, "§3.3.2.3.6"),
    row!(0x0B "Subscription Identifier", in PUBLISH | SUBSCRIBE, repeats in PUBLISH, "§3.8.2.1.2"),
    row!(0x11 "Session Expiry Interval", in CONNECT | CONNACK | DISCONNECT, repeats in 0, "§3.1.2.11.2"),
    row!(0x12 "Assigned Client Identifier", in CONNACK, repeats in 0, "§3.2.2.3.7"),
    row!(0x13 "Server Keep Alive", in CONNACK, repeats in 0, "§3.2.2.3.14"),
    row!(0x15 "Authentication Method", in CONNECT | CONNACK | AUTH, repeats in 0, "§3.1.2.11.9"),
    row!(0x16 "Authentication Data", in CONNECT | CONNACK | AUTH, repeats in 0, "§3.1.2.11.10"),
    row!(0x17 "Request Problem Information", in CONNECT, repeats in 0, "§3.1.2.11.7"),
    row!(0x18 "Will Delay Interval", in WILL, repeats in 0, "§3.1.3.2.2"),
    row!(0x19 "Request Response Information", in CONNECT, repeats in 0, "§3.1.2.11.6"),
    row!(0x1A "Response Information", in CONNACK, repeats in 0, "§3.2.2.3.15"),
    row!(0x1C "Server Reference", in CONNACK | DISCONNECT, repeats in 0, "§3.2.2.3.16"),
    row!(0x1F "Reason String", in WITH_REASON, repeats in 0, "§3.2.2.3.9"),
    row!(0x21 "Receive Maximum", in CONNECT | CONNACK, repeats in 0, "§3.1.2.11.3"),
    row!(0x22 "Topic Alias Maximum", in CONNECT | CONNACK, repeats in 0, "§3.1.2.11.5"),
    row!(0x23 "Topic Alias", in PUBLISH, repeats in 0, "MQTT-3.3.2-8"),
    row!(0x24 "Maximum QoS", in CONNACK, repeats in 0, "§3.2.2.3.4"),
    row!(0x25 "Retain Available", in CONNACK, repeats in 0, "§3.2.2.3.5"),
    row!(0x26 "User Property", in ALL, repeats in ALL, "§2.2.2.2"),
    row!(0x27 "Maximum Packet Size", in CONNECT | CONNACK, repeats in 0, "§3.1.2.11.4"),
    row!(0x28 "Wildcard Subscription Available", in CONNACK, repeats in 0, "§3.2.2.3.11"),
    row!(0x29 "Subscription Identifier Available", in CONNACK, repeats in 0, "§3.2.2.3.12"),
    row!(0x2A "Shared Subscription Available", in CONNACK, repeats in 0, "§3.2.2.3.13"),
];

/// Where each identifier is in [`TABLE`]; `NO_ROW` where it is not.
static ROW_BY_ID: [u8; ID_COUNT] = row_by_id();
const ID_COUNT: usize = 0x2B;
const NO_ROW: u8 = u8::MAX;

const fn row_by_id() -> [u8; ID_COUNT] {
    let mut rows = [NO_ROW; ID_COUNT];
    let mut index = 0;
    while index < TABLE.len() {
        rows[TABLE[index].id as usize] = index as u8;
        index += 1;
    }
    rows
}

fn row(id: u8) -> Option<&'static Row> {
    let index = *ROW_BY_ID.get(usize::from(id))?;
    TABLE.get(usize::from(index))
}

const _: () = assert!(
    ID_COUNT <= u64::BITS as usize,
    "Walker::seen has a bit for every identifier"
);
const _: () = assert!(STRING_BYTES_MAX <= VARINT_MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(packet_type: PacketType, raw: &[u8]) -> Result<Vec<Property<'_>>, DecodeError> {
        Walker::new(packet_type, raw).collect()
    }

    fn one_of_each() -> Vec<Property<'static>> {
        let two = NonZeroU16::new(2).expect("not 0");
        let big = NonZeroU32::new(VARINT_MAX).expect("not 0");
        vec![
            Property::PayloadFormatIndicator(true),
            Property::MessageExpiryInterval(0),
            Property::ContentType("text/plain"),
            Property::ResponseTopic("a/b"),
            Property::CorrelationData(b"\0\xFF"),
            Property::SubscriptionIdentifier(big),
            Property::SessionExpiryInterval(u32::MAX),
            Property::AssignedClientIdentifier("c"),
            Property::ServerKeepAlive(0),
            Property::AuthenticationMethod("SCRAM-SHA-256"),
            Property::AuthenticationData(b""),
            Property::RequestProblemInformation(false),
            Property::WillDelayInterval(7),
            Property::RequestResponseInformation(true),
            Property::ResponseInformation("r"),
            Property::ServerReference("other:1883"),
            Property::ReasonString(""),
            Property::ReceiveMaximum(two),
            Property::TopicAliasMaximum(0),
            Property::TopicAlias(two),
            Property::MaximumQoS(QoS::AtLeastOnce),
            Property::RetainAvailable(false),
            Property::UserProperty("k", "v"),
            Property::MaximumPacketSize(big),
            Property::WildcardSubscriptionAvailable(true),
            Property::SubscriptionIdentifierAvailable(false),
            Property::SharedSubscriptionAvailable(true),
        ]
    }

    #[test]
    fn every_property_goes_exactly_where_the_table_says() {
        let all = one_of_each();
        assert_eq!(all.len(), TABLE.len());
        for (property, row) in all.iter().zip(&TABLE) {
            assert_eq!(property.id(), row.id);
            let mut raw = Vec::new();
            property.put(&mut raw);
            for number in 1..=15 {
                let packet_type = PacketType::from_u8(number).expect("1 to 15 are types");
                let walked = walk(packet_type, &raw);
                if row.carriers & bit(packet_type) == 0 {
                    assert_eq!(
                        walked,
                        Err(DecodeError::malformed("§2.2.2.2", row.misplaced)),
                        "{property:?} in {packet_type:?}"
                    );
                    continue;
                }
                assert_eq!(walked, Ok(vec![*property]));
                for len in 1..raw.len() {
                    let error = walk(packet_type, &raw[..len]).expect_err("cut off");
                    assert_eq!(error.reason, ReasonCode::MalformedPacket);
                }
                let twice = [&raw[..], &raw].concat();
                let repeats = row.repeatable_in & bit(packet_type) != 0;
                assert_eq!(walk(packet_type, &twice).is_ok(), repeats, "{property:?}");
            }
            let in_will = Walker::new_will(&raw).all(|property| property.is_ok());
            assert_eq!(in_will, row.carriers & WILL != 0);
        }
    }

    #[test]
    fn carriers_per_packet_are_as_many_as_the_standard_lists() {
        let count = |carrier: u16| {
            TABLE
                .iter()
                .filter(|row| row.carriers & carrier != 0)
                .count()
        };
        assert_eq!(count(CONNECT), 9);
        assert_eq!(count(WILL), 7);
        assert_eq!(count(CONNACK), 17);
        assert_eq!(count(PUBLISH), 8);
        assert_eq!(count(PUBLISH_ACKS), 2);
        assert_eq!(count(SUBSCRIBE), 2);
        assert_eq!(count(SUBACK), 2);
        assert_eq!(count(UNSUBSCRIBE), 1);
        assert_eq!(count(UNSUBACK), 2);
        assert_eq!(count(DISCONNECT), 4);
        assert_eq!(count(AUTH), 4);
        assert_eq!(
            count(bit(PacketType::Pingreq) | bit(PacketType::Pingresp)),
            0
        );
    }

    #[test]
    fn values_outside_their_range() {
        for (packet_type, raw, reason) in [
            (
                PacketType::Publish,
                &b"\x01\x02"[..],
                ReasonCode::ProtocolError,
            ),
            (
                PacketType::Publish,
                b"\x23\x00\x00",
                ReasonCode::TopicAliasInvalid,
            ),
            (
                PacketType::Publish,
                b"\x08\x00\x01#",
                ReasonCode::ProtocolError,
            ),
            (
                PacketType::Publish,
                b"\x08\x00\x01+",
                ReasonCode::ProtocolError,
            ),
            (
                PacketType::Publish,
                b"\x08\x00\x01\0",
                ReasonCode::MalformedPacket,
            ),
            (
                PacketType::Publish,
                b"\x08\x00\x00",
                ReasonCode::ProtocolError,
            ),
            (
                PacketType::Publish,
                b"\x03\x00\x01\xFF",
                ReasonCode::MalformedPacket,
            ),
            (
                PacketType::Subscribe,
                b"\x0B\x00",
                ReasonCode::ProtocolError,
            ),
            (
                PacketType::Subscribe,
                b"\x0B\xFF\xFF\xFF\xFF\x01",
                ReasonCode::MalformedPacket,
            ),
            (
                PacketType::Connect,
                b"\x21\x00\x00",
                ReasonCode::ProtocolError,
            ),
            (
                PacketType::Connect,
                b"\x27\x00\x00\x00\x00",
                ReasonCode::ProtocolError,
            ),
            (PacketType::Connect, b"\x17\x02", ReasonCode::ProtocolError),
            (PacketType::Connect, b"\x19\x02", ReasonCode::ProtocolError),
            (
                PacketType::Connect,
                b"\x7F\x00",
                ReasonCode::MalformedPacket,
            ),
            (PacketType::Connect, b"\x00", ReasonCode::MalformedPacket),
            (PacketType::Connect, b"\x2B", ReasonCode::MalformedPacket),
            (PacketType::Connect, b"\xFF", ReasonCode::MalformedPacket),
            (PacketType::Connack, b"\x24\x02", ReasonCode::ProtocolError),
        ] {
            let error = walk(packet_type, raw).expect_err("outside its range");
            assert_eq!(error.reason, reason, "{raw:x?}: {error}");
        }
    }

    #[test]
    fn nothing_follows_an_error() {
        let mut walker = Walker::new(PacketType::Publish, b"\x7F\x01\x01");
        assert!(walker.next().expect("an error").is_err());
        assert!(walker.next().is_none());
    }

    fn forward_of(properties: &[Property<'_>]) -> (Vec<u8>, Vec<u8>) {
        let mut raw = Vec::new();
        properties
            .iter()
            .for_each(|property| property.put(&mut raw));
        let mut walker = Walker::new(PacketType::Publish, &raw);
        let mut splitter = Splitter::new(&raw);
        while let Some(property) = walker.next() {
            splitter.take(&property.expect("valid"), walker.left());
        }
        let forward = splitter.finish();
        let joined = forward.slices().collect::<Vec<_>>().concat();
        assert_eq!(forward.len(), joined.len());
        assert_eq!(forward.is_empty(), joined.is_empty());
        assert!(forward.slices().all(|run| !run.is_empty()));
        let mut wanted = Vec::new();
        properties
            .iter()
            .filter(|property| is_forwarded(property))
            .for_each(|property| property.put(&mut wanted));
        (joined, wanted)
    }

    #[test]
    fn forward_is_everything_but_what_belongs_to_one_hop() {
        let alias = Property::TopicAlias(NonZeroU16::MIN);
        let expiry = Property::MessageExpiryInterval(9);
        let id = Property::SubscriptionIdentifier(NonZeroU32::MIN);
        let user = Property::UserProperty("k", "v");
        let text = Property::ContentType("t");
        for properties in [
            &[][..],
            &[alias],
            &[alias, expiry],
            &[user, user],
            &[user, alias, text, expiry, user],
            &[alias, user, expiry],
            &[
                user, id, user, id, text, id, user, id, id, user, expiry, user,
            ],
        ] {
            let (joined, wanted) = forward_of(properties);
            assert_eq!(joined, wanted, "{properties:?}");
        }
    }

    #[test]
    fn forward_from_raw_takes_only_what_is_passed_on() {
        let mut raw = Vec::new();
        for property in [
            Property::PayloadFormatIndicator(true),
            Property::ContentType("t"),
            Property::ResponseTopic("r"),
            Property::UserProperty("a", "1"),
            Property::CorrelationData(b"c"),
            Property::UserProperty("a", "2"),
        ] {
            property.put(&mut raw);
        }
        let forward = Forward::from_raw(&raw).expect("all are passed on");
        assert!(forward.payload_is_utf8());
        assert_eq!(forward.content_type(), Some("t"));
        assert_eq!(forward.response_topic(), Some("r"));
        assert_eq!(forward.correlation_data(), Some(&b"c"[..]));
        assert_eq!(forward.user().collect::<Vec<_>>(), [("a", "1"), ("a", "2")]);
        Property::MessageExpiryInterval(1).put(&mut raw);
        assert!(Forward::from_raw(&raw).is_err());
        assert!(UserProperties::from_raw(&raw).is_err());
    }

    #[test]
    fn user_properties_are_found_among_others() {
        let raw = b"\x11\x00\x00\x00\x01\x26\x00\x01k\x00\x01v\x21\x00\x05\x26\x00\x00\x00\x00";
        assert!(walk(PacketType::Connect, raw).is_ok());
        let user = UserProperties::over(raw);
        assert_eq!(user.clone().collect::<Vec<_>>(), [("k", "v"), ("", "")]);
        let mut again = Vec::new();
        user.put(&mut again);
        assert_eq!(UserProperties::from_raw(&again), Ok(user));
    }
}

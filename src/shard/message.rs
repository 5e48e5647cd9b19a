//! An application message as it is shared by all its subscribers, on all cores.

use crate::protocol::QoS;
use crate::topic::share::GroupId;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

const EXPIRES_AT: usize = 0;
const STAMP: usize = 8;
const NUMBER: usize = 16;
const PROPERTIES_LEN: usize = 24;
const TOPIC_LEN: usize = 28;
const FLAGS: usize = 30;
const HEADER: usize = 32;

const FLAG_QOS: u8 = 0b011;
const FLAG_RETAIN: u8 = 0b100;

/// `expires_at_ms` of a message without a Message Expiry Interval.
pub const NEVER: u64 = u64::MAX;

/// In `stamp`: the message found no room among the retained ones, and clears its topic instead of replacing what that had.
/// No time before the year 4199 has this bit.
pub const CLEARS: u64 = 1 << 62;

/// A message of so many bytes may be spare.
const SMALL_BYTES_MAX: usize = 512;

/// One application message: one allocation, a 16-byte handle, immutable.
///
/// The header lies in front of the bytes in the same allocation, so a queue or the retained index pays
/// for the handle alone. Cloning is an atomic increment: clone per core, not per subscriber.
#[derive(Clone)]
pub struct Message(Arc<[u8]>);

/// Small messages that nobody has any more, whose place later ones take.
///
/// Messages are let go of in the order in which they were made, which the system's allocator is slow at; and
/// most have a length that another one had.
#[derive(Debug, Default)]
pub struct Spares(Vec<Rc<Message>>);

/// What a shard says to another beside a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// For one member of this shared group of the receiver, instead of every matching subscription; and how often it was
    /// passed on already because the chosen shard's last member had left.
    pub group: Option<(GroupId, u8)>,
    /// The receiver is to answer with `Taken`; of a group, whoever does not pass it on, to the shard that gave the message its number.
    pub asked: bool,
}

/// The fields a message is made of.
#[derive(Clone, Copy, Debug)]
pub struct MessageParts<'a> {
    /// Topic Name.
    pub topic: &'a str,
    /// The properties a server forwards unaltered, encoded, without their length (MQTT 5 §3.3.2.3).
    pub properties: &'a [&'a [u8]],
    /// Application payload.
    pub payload: &'a [u8],
    /// QoS of the publisher.
    pub qos: QoS,
    /// RETAIN as the publisher set it.
    pub retain: bool,
    /// Monotonic milliseconds after which the message has expired, or [`NEVER`].
    pub expires_at_ms: u64,
    /// Order among retained messages of one topic; 0 when it changes none. See [`CLEARS`].
    pub stamp: u64,
    /// The number under which it is stored for sessions, or 0: a `StoredMessage`'s.
    pub number: u64,
}

impl<'a> MessageParts<'a> {
    /// A message without properties, which does not expire and is neither retained nor stored.
    pub fn new(topic: &'a str, qos: QoS, payload: &'a [u8]) -> Self {
        Self {
            topic,
            properties: &[],
            payload,
            qos,
            retain: false,
            expires_at_ms: NEVER,
            stamp: 0,
            number: 0,
        }
    }

    /// Bytes of the message once it is encoded.
    pub fn encoded_len(&self) -> usize {
        HEADER + self.topic.len() + self.properties_len() + self.payload.len()
    }

    /// Bytes of the properties.
    pub(super) fn properties_len(&self) -> usize {
        self.properties.iter().map(|slice| slice.len()).sum()
    }

    fn header(&self) -> [u8; HEADER] {
        let topic_len = u16::try_from(self.topic.len()).expect("a topic has at most 65,535 bytes");
        let properties_len =
            u32::try_from(self.properties_len()).expect("a packet has at most 268,435,460 bytes");
        let mut header = [0; HEADER];
        header[EXPIRES_AT..EXPIRES_AT + 8].copy_from_slice(&self.expires_at_ms.to_le_bytes());
        header[STAMP..STAMP + 8].copy_from_slice(&self.stamp.to_le_bytes());
        header[NUMBER..NUMBER + 8].copy_from_slice(&self.number.to_le_bytes());
        header[PROPERTIES_LEN..PROPERTIES_LEN + 4].copy_from_slice(&properties_len.to_le_bytes());
        header[TOPIC_LEN..TOPIC_LEN + 2].copy_from_slice(&topic_len.to_le_bytes());
        header[FLAGS] = self.qos as u8 | if self.retain { FLAG_RETAIN } else { 0 };
        header
    }

    /// Writes the message to `to`, which has exactly its length.
    fn encode(&self, to: &mut [u8]) {
        let mut rest = to;
        let mut put = |slice: &[u8]| {
            let (place, behind) = std::mem::take(&mut rest).split_at_mut(slice.len());
            place.copy_from_slice(slice);
            rest = behind;
        };
        put(&self.header());
        put(self.topic.as_bytes());
        self.properties.iter().for_each(|slice| put(slice));
        put(self.payload);
        assert!(rest.is_empty());
    }
}

impl Message {
    /// Copies the parts into one allocation.
    pub fn new(parts: &MessageParts<'_>) -> Self {
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, parts.encoded_len()).collect();
        parts.encode(Arc::get_mut(&mut bytes).expect("nobody else has it yet"));
        Self(bytes)
    }

    /// Becomes another message, in its place if that is as long and nobody else has this one.
    pub fn rewrite(&mut self, parts: &MessageParts<'_>) {
        match Arc::get_mut(&mut self.0) {
            Some(bytes) if bytes.len() == parts.encoded_len() => parts.encode(bytes),
            _ => *self = Self::new(parts),
        }
    }

    /// Topic Name.
    pub fn topic(&self) -> &str {
        std::str::from_utf8(self.topic_bytes()).expect("the topic was copied from a str")
    }

    /// The bytes of the Topic Name, without the check that they are UTF-8.
    pub fn topic_bytes(&self) -> &[u8] {
        &self.0[HEADER..HEADER + self.topic_len()]
    }

    /// The forwarded properties, encoded.
    pub fn properties(&self) -> &[u8] {
        let start = HEADER + self.topic_len();
        &self.0[start..start + self.properties_len()]
    }

    /// Application payload.
    pub fn payload(&self) -> &[u8] {
        &self.0[HEADER + self.topic_len() + self.properties_len()..]
    }

    /// QoS of the publisher.
    pub fn qos(&self) -> QoS {
        QoS::from_bits(self.0[FLAGS] & FLAG_QOS).expect("written from a QoS")
    }

    /// RETAIN as the publisher set it.
    pub fn retain(&self) -> bool {
        self.0[FLAGS] & FLAG_RETAIN != 0
    }

    /// Monotonic milliseconds after which the message has expired, or [`NEVER`].
    pub fn expires_at_ms(&self) -> u64 {
        self.u64_at(EXPIRES_AT)
    }

    /// Order among retained messages of one topic.
    pub fn stamp(&self) -> u64 {
        self.u64_at(STAMP)
    }

    /// The number under which it is stored for sessions, or 0.
    pub fn number(&self) -> u64 {
        self.u64_at(NUMBER)
    }

    /// Bytes of the one allocation, which is what a queue is charged for holding the message.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    fn topic_len(&self) -> usize {
        usize::from(u16::from_le_bytes([
            self.0[TOPIC_LEN],
            self.0[TOPIC_LEN + 1],
        ]))
    }

    fn properties_len(&self) -> usize {
        let bytes = &self.0[PROPERTIES_LEN..PROPERTIES_LEN + 4];
        u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }
}

impl Spares {
    const COUNT_MAX: usize = 1_024;

    /// Keeps a message for `make`, unless somebody else has it, or it is large.
    pub fn give(&mut self, message: Rc<Message>) {
        let is_spare = Rc::strong_count(&message) == 1 && message.bytes() <= SMALL_BYTES_MAX;
        if is_spare && self.0.len() < Self::COUNT_MAX {
            self.0.push(message);
        }
    }

    /// A message of these parts.
    pub fn make(&mut self, parts: &MessageParts<'_>) -> Rc<Message> {
        let Some(mut spare) = self.0.pop() else {
            return Rc::new(Message::new(parts));
        };
        let message = Rc::get_mut(&mut spare).expect("nobody else has a spare one");
        message.rewrite(parts);
        spare
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic())
            .field("qos", &self.qos())
            .field("retain", &self.retain())
            .field("payload_len", &self.payload().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let message = Message::new(&MessageParts {
            topic: "a/b",
            properties: &[&[1, 1], &[], &[3, 0, 1, b'x']],
            payload: b"payload",
            qos: QoS::ExactlyOnce,
            retain: true,
            expires_at_ms: 77,
            stamp: 99,
            number: 1 << 40,
        });
        assert_eq!(message.topic(), "a/b");
        assert_eq!(message.properties(), &[1, 1, 3, 0, 1, b'x']);
        assert_eq!(message.payload(), b"payload");
        assert_eq!(message.qos(), QoS::ExactlyOnce);
        assert!(message.retain());
        assert_eq!((message.expires_at_ms(), message.stamp()), (77, 99));
        assert_eq!(message.number(), 1 << 40);
        assert_eq!(message.bytes(), 32 + 3 + 6 + 7);
    }

    #[test]
    fn a_spare_message_becomes_another_one_and_what_somebody_has_stays() {
        let parts = |payload: &'static [u8]| MessageParts::new("a", QoS::AtLeastOnce, payload);
        let mut spares = Spares::default();
        let first = spares.make(&parts(b"first"));
        let place = Rc::as_ptr(&first);
        let elsewhere = Message::clone(&first);
        spares.give(first);
        let again = spares.make(&parts(b"again"));
        assert_eq!(
            (Rc::as_ptr(&again), again.payload()),
            (place, &b"again"[..])
        );
        assert_eq!(elsewhere.payload(), b"first");
        spares.give(again);
        let longer = spares.make(&parts(b"longer"));
        assert_eq!(longer.payload(), b"longer");
        let kept = Rc::clone(&longer);
        spares.give(longer);
        assert_eq!(spares.make(&parts(b"other")).payload(), b"other");
        assert_eq!(kept.payload(), b"longer");
    }

    #[test]
    fn every_part_may_be_empty() {
        let message = Message::new(&MessageParts::new("", QoS::AtMostOnce, b""));
        assert_eq!((message.topic(), message.payload()), ("", &b""[..]));
        assert!(!message.retain());
    }
}

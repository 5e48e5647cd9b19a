//! An application message as it is shared by all its subscribers, on all cores.

use crate::protocol::QoS;
use std::fmt;
use std::sync::Arc;

const EXPIRES_AT: usize = 0;
const STAMP: usize = 8;
const PROPERTIES_LEN: usize = 16;
const TOPIC_LEN: usize = 20;
const FLAGS: usize = 22;
const HEADER: usize = 24;

const FLAG_QOS: u8 = 0b011;
const FLAG_RETAIN: u8 = 0b100;

/// `expires_at_ms` of a message without a Message Expiry Interval.
pub const NEVER: u64 = u64::MAX;

/// One application message: one allocation, a 16-byte handle, immutable.
///
/// The header lies in front of the bytes in the same allocation, so a queue or the retained index pays
/// for the handle alone. Cloning is an atomic increment: clone per core, not per subscriber.
#[derive(Clone)]
pub struct Message(Arc<[u8]>);

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
    /// Order among retained messages of one topic; 0 when RETAIN is not set.
    pub stamp: u64,
}

impl Message {
    /// Copies the parts into one allocation.
    pub fn new(parts: &MessageParts<'_>) -> Self {
        let properties_len: usize = parts.properties.iter().map(|slice| slice.len()).sum();
        let topic_len = u16::try_from(parts.topic.len()).expect("a topic has at most 65,535 bytes");
        let properties_len_u32 =
            u32::try_from(properties_len).expect("a packet has at most 268,435,455 bytes");
        let mut bytes =
            Vec::with_capacity(HEADER + parts.topic.len() + properties_len + parts.payload.len());
        bytes.extend_from_slice(&parts.expires_at_ms.to_le_bytes());
        bytes.extend_from_slice(&parts.stamp.to_le_bytes());
        bytes.extend_from_slice(&properties_len_u32.to_le_bytes());
        bytes.extend_from_slice(&topic_len.to_le_bytes());
        bytes.push(parts.qos as u8 | if parts.retain { FLAG_RETAIN } else { 0 });
        bytes.push(0);
        bytes.extend_from_slice(parts.topic.as_bytes());
        for slice in parts.properties {
            bytes.extend_from_slice(slice);
        }
        bytes.extend_from_slice(parts.payload);
        Self(bytes.into())
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

    /// Bytes of the one allocation, which is what a queue is charged for holding the message.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    fn topic_len(&self) -> usize {
        usize::from(u16::from_le_bytes([self.0[TOPIC_LEN], self.0[TOPIC_LEN + 1]]))
    }

    fn properties_len(&self) -> usize {
        let bytes = &self.0[PROPERTIES_LEN..PROPERTIES_LEN + 4];
        u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
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
        });
        assert_eq!(message.topic(), "a/b");
        assert_eq!(message.properties(), &[1, 1, 3, 0, 1, b'x']);
        assert_eq!(message.payload(), b"payload");
        assert_eq!(message.qos(), QoS::ExactlyOnce);
        assert!(message.retain());
        assert_eq!((message.expires_at_ms(), message.stamp()), (77, 99));
        assert_eq!(message.bytes(), 24 + 3 + 6 + 7);
    }

    #[test]
    fn every_part_may_be_empty() {
        let message = Message::new(&MessageParts {
            topic: "",
            properties: &[],
            payload: b"",
            qos: QoS::AtMostOnce,
            retain: false,
            expires_at_ms: NEVER,
            stamp: 0,
        });
        assert_eq!((message.topic(), message.payload()), ("", &b""[..]));
        assert!(!message.retain());
    }
}

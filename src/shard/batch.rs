//! Small messages on their way to another shard, copied one behind the other.
//!
//! Most messages that cross cores are delivered at once and kept by nobody. In a batch they cost no allocation and no atomic operation
//! each, and one place in the link for all. Every line of memory that one core writes and another reads costs both of them more than
//! the instructions for it, so a message is as short here as it can be, and what few messages have takes no room in the others.

use super::message::{Envelope, MessageParts, NEVER};
use crate::protocol::QoS;
use crate::topic::share::GroupId;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

// The first byte of a message: its QoS, and what else is said of it or follows.
const QOS: u8 = 0b11;
const RETAIN: u8 = 1 << 2;
const ASKED: u8 = 1 << 3;
const HAS_GROUP: u8 = 1 << 4;
const HAS_EXPIRY: u8 = 1 << 5;
const HAS_STAMP: u8 = 1 << 6;
const HAS_NUMBER: u8 = 1 << 7;
/// That byte and the lengths of topic, properties and payload, two bytes each.
const HEAD: usize = 7;
/// With group, hops, expiry, stamp and number.
const HEAD_MAX: usize = HEAD + 5 + 3 * 8;

/// Small messages for one shard.
#[derive(Clone)]
pub struct MessageBatch(Arc<Vec<u8>>);

/// A message in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Batched<'a> {
    /// The bytes of the Topic Name.
    pub topic: &'a [u8],
    /// The forwarded properties, encoded.
    pub properties: &'a [u8],
    /// Application payload.
    pub payload: &'a [u8],
    /// QoS of the publisher.
    pub qos: QoS,
    /// RETAIN as the publisher set it.
    pub retain: bool,
    /// Monotonic milliseconds after which the message has expired, or [`NEVER`].
    pub expires_at_ms: u64,
    /// Order among retained messages of one topic; 0 when it is not to be retained.
    pub stamp: u64,
    /// The number under which it is stored for sessions, or 0.
    pub number: u64,
    /// What is said beside it.
    pub envelope: Envelope,
}

/// Batches on their way, whose memory later ones take when their receivers are done with them.
///
/// What one thread takes from the system's allocator and another gives back costs more than the messages in it: the memory goes back
/// to the system, and comes again page by page.
#[derive(Debug, Default)]
pub struct SpareBatches(VecDeque<MessageBatch>);

impl MessageBatch {
    /// A batch is closed when another message would make it larger than this.
    pub const BYTES_MAX: usize = 16 << 10;
    /// A message of more bytes, by [`MessageParts::encoded_len`], goes by reference instead.
    pub const MESSAGE_BYTES_MAX: usize = 2 << 10;
    /// What a batch has room for at first, unless it is behind a full one.
    const BYTES_AT_FIRST: usize = 2 << 10;

    /// Appends a message; false when it does not fit.
    ///
    /// Panics: when somebody else has the batch already, or the message is not small.
    pub fn push(&mut self, parts: &MessageParts<'_>, envelope: Envelope) -> bool {
        assert!(parts.encoded_len() <= Self::MESSAGE_BYTES_MAX);
        let bytes = Arc::get_mut(&mut self.0).expect("a batch that is on its way is not added to");
        let properties_len = parts.properties_len();
        let len = parts.topic.len() + properties_len + parts.payload.len();
        if bytes.len() + HEAD_MAX + len > Self::BYTES_MAX {
            return false;
        }
        bytes.reserve(HEAD_MAX + len);
        let flag = |flag: u8, is_set| if is_set { flag } else { 0 };
        let mut head = [0; HEAD];
        head[0] = parts.qos as u8
            | flag(RETAIN, parts.retain)
            | flag(ASKED, envelope.asked)
            | flag(HAS_GROUP, envelope.group.is_some())
            | flag(HAS_EXPIRY, parts.expires_at_ms != NEVER)
            | flag(HAS_STAMP, parts.stamp != 0)
            | flag(HAS_NUMBER, parts.number != 0);
        head[1..3].copy_from_slice(&(parts.topic.len() as u16).to_le_bytes());
        head[3..5].copy_from_slice(&(properties_len as u16).to_le_bytes());
        head[5..7].copy_from_slice(&(parts.payload.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&head);
        if let Some((group, hops)) = envelope.group {
            bytes.extend_from_slice(&group.0.to_le_bytes());
            bytes.push(hops);
        }
        let numbers = [
            (HAS_EXPIRY, parts.expires_at_ms),
            (HAS_STAMP, parts.stamp),
            (HAS_NUMBER, parts.number),
        ];
        for (flag, number) in numbers {
            if head[0] & flag != 0 {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes.extend_from_slice(parts.topic.as_bytes());
        for slice in parts.properties {
            bytes.extend_from_slice(slice);
        }
        bytes.extend_from_slice(parts.payload);
        true
    }

    /// The messages in the order in which they were appended.
    pub fn iter(&self) -> impl Iterator<Item = Batched<'_>> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (head, behind) = rest.split_first_chunk::<HEAD>()?;
            let [flags, t0, t1, pr0, pr1, pa0, pa1] = *head;
            rest = behind;
            let group = (flags & HAS_GROUP != 0).then(|| {
                let group = GroupId(u32::from_le_bytes(take(&mut rest)));
                let [hops] = take(&mut rest);
                (group, hops)
            });
            let mut number = |flag, otherwise| match flags & flag {
                0 => otherwise,
                _ => u64::from_le_bytes(take(&mut rest)),
            };
            let expires_at_ms = number(HAS_EXPIRY, NEVER);
            let stamp = number(HAS_STAMP, 0);
            let number = number(HAS_NUMBER, 0);
            let mut slice = |len| {
                let (slice, behind) = rest.split_at(usize::from(u16::from_le_bytes(len)));
                rest = behind;
                slice
            };
            Some(Batched {
                topic: slice([t0, t1]),
                properties: slice([pr0, pr1]),
                payload: slice([pa0, pa1]),
                qos: QoS::from_bits(flags & QOS).expect("written from a QoS"),
                retain: flags & RETAIN != 0,
                expires_at_ms,
                stamp,
                number,
                envelope: Envelope {
                    group,
                    asked: flags & ASKED != 0,
                },
            })
        })
    }

    /// Bytes of all messages.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

fn take<const LEN: usize>(rest: &mut &[u8]) -> [u8; LEN] {
    let (taken, behind) = rest.split_first_chunk().expect("written as it is read");
    *rest = behind;
    *taken
}

impl SpareBatches {
    /// So many that are on their way are remembered: half a megabyte.
    const COUNT_MAX: usize = 32;

    /// Remembers a batch that leaves.
    pub fn keep(&mut self, batch: &MessageBatch) {
        if self.0.len() == Self::COUNT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(batch.clone());
    }

    /// An empty batch, in the place of the oldest one if that has arrived; else a new one, small at first unless it is behind a full one.
    pub fn make(&mut self, is_behind_full: bool) -> MessageBatch {
        let oldest = self.0.front_mut();
        if let Some(arrived) = oldest.and_then(|batch| Arc::get_mut(&mut batch.0)) {
            arrived.clear();
            return self.0.pop_front().expect("there is an oldest");
        }
        let capacity = match is_behind_full {
            true => MessageBatch::BYTES_MAX,
            false => MessageBatch::BYTES_AT_FIRST,
        };
        MessageBatch(Arc::new(Vec::with_capacity(capacity)))
    }
}

impl fmt::Debug for MessageBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topics = self
            .iter()
            .map(|message| String::from_utf8_lossy(message.topic));
        f.debug_list().entries(topics).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The n-th message, which has what its number's bits say.
    fn message<'a>(n: u32, properties: &'a [&'a [u8]], payload: &'a [u8]) -> MessageParts<'a> {
        let bit = |at: u32| (n >> at) & 1 == 1;
        MessageParts {
            topic: ["", "a/b"][n as usize % 2],
            properties,
            payload,
            qos: QoS::from_bits(n as u8 % 3).unwrap(),
            retain: bit(0),
            expires_at_ms: if bit(1) { u64::from(n) } else { NEVER },
            stamp: if bit(2) { u64::MAX } else { 0 },
            number: if bit(3) { 1 << 40 | u64::from(n) } else { 0 },
        }
    }

    fn envelope(n: u32) -> Envelope {
        Envelope {
            group: ((n >> 4) & 1 == 1).then_some((GroupId(u32::MAX - n), n as u8)),
            asked: (n >> 5) & 1 == 1,
        }
    }

    #[test]
    fn a_batch_gives_back_its_messages_in_order_and_is_bounded() {
        let payload = |n: u32| vec![n as u8; (n * 7 % 700) as usize];
        let mut batch = SpareBatches::default().make(false);
        let mut count = 0;
        while batch.push(
            &message(count, &[&[1, 1], &[], &[2]], &payload(count)),
            envelope(count),
        ) {
            count += 1;
        }
        assert!(batch.bytes() <= MessageBatch::BYTES_MAX);
        assert!(count > 32, "{count}");
        for (n, found) in (0..).zip(batch.iter()) {
            let payload = payload(n);
            let sent = message(n, &[], &payload);
            assert_eq!(found.envelope, envelope(n));
            assert_eq!(found.topic, sent.topic.as_bytes());
            assert_eq!(found.properties, [1, 1, 2]);
            assert_eq!(found.payload, payload);
            assert_eq!((found.qos, found.retain), (sent.qos, sent.retain));
            assert_eq!(found.expires_at_ms, sent.expires_at_ms);
            assert_eq!((found.stamp, found.number), (sent.stamp, sent.number));
        }
        assert_eq!(batch.iter().count(), count as usize);
    }

    #[test]
    fn a_batch_takes_the_place_of_one_that_has_arrived_and_of_no_other() {
        let mut spares = SpareBatches::default();
        let mut full = || {
            let mut batch = spares.make(false);
            assert!(batch.push(&message(1, &[], b"1"), Envelope::default()));
            spares.keep(&batch);
            batch
        };
        let place = |batch: &MessageBatch| Arc::as_ptr(&batch.0);
        let (first, second) = (full(), full());
        let first_place = place(&first);
        drop(second);
        let third = full();
        assert_ne!(place(&third), first_place, "the oldest is on its way");
        drop(first);
        let fourth = full();
        assert_eq!(place(&fourth), first_place);
        assert_eq!((third.iter().count(), fourth.iter().count()), (1, 1));
        let kept: Vec<_> = (0..2 * SpareBatches::COUNT_MAX).map(|_| full()).collect();
        assert_eq!(spares.0.len(), SpareBatches::COUNT_MAX, "{}", kept.len());
    }
}

//! Reading ahead for the messages that come next: see `topic::index::Index::read_ahead`.

use super::Shard;
use super::batch::Batched;
use crate::protocol::PacketType;
use crate::protocol::frame::{Cut, cut};
use crate::topic::AHEAD_MAX;
use std::hint::black_box;

/// Longer topics are not read ahead for: to hash one costs more than to wait.
const TOPIC_BYTES_MAX: usize = 256;

/// Different topics of the messages that come next.
#[derive(Default)]
struct Topics<'a> {
    topics: [&'a [u8]; AHEAD_MAX],
    count: usize,
}

impl<'a> Topics<'a> {
    fn push(&mut self, topic: &'a [u8]) {
        // A client that sends to one topic has it in the cache already.
        if topic.len() <= TOPIC_BYTES_MAX && !self.as_slice().contains(&topic) {
            self.topics[self.count] = topic;
            self.count += 1;
        }
    }

    fn as_slice(&self) -> &[&'a [u8]] {
        &self.topics[..self.count]
    }
}

impl Shard {
    /// Whether an index is so large that reading ahead pays.
    pub(super) fn reads_ahead(&self) -> bool {
        self.index.is_large() || self.interest.is_large()
    }

    /// Reads ahead for the packets at the beginning of `bytes`; returns behind how many packets to do so again.
    pub(super) fn read_ahead(&mut self, mut bytes: &[u8]) -> usize {
        let mut topics = Topics::default();
        let mut looked_at = 0;
        // What is wrong with a packet is said when its turn comes.
        while looked_at < AHEAD_MAX
            && let Ok(Cut::Packet { header, body, len }) = cut(bytes, usize::MAX)
        {
            if header.packet_type == PacketType::Publish {
                topics.push(topic_of(body));
            }
            bytes = &bytes[len..];
            looked_at += 1;
        }
        // One alone would wait for each of its reads here, as it does when its turn comes.
        if topics.count < 2 {
            return usize::MAX;
        }
        self.publishes_ahead(topics.as_slice());
        looked_at
    }

    /// Reads ahead for the messages that `batch` comes to next; returns how many they are.
    pub(super) fn read_ahead_batch<'a>(
        &mut self,
        batch: &mut impl Iterator<Item = Batched<'a>>,
    ) -> usize {
        let mut topics = Topics::default();
        let mut looked_at = 0;
        for message in batch.take(AHEAD_MAX) {
            looked_at += 1;
            // What is for a group is not looked for in the index.
            if message.envelope.group.is_none() {
                topics.push(message.topic);
            }
        }
        if topics.count > 1 {
            self.subscribers_ahead(topics.as_slice());
        }
        looked_at
    }

    fn publishes_ahead(&mut self, topics: &[&[u8]]) {
        for interest in [&self.interest, &self.keeper.interest] {
            if interest.is_large() {
                interest.read_ahead(topics);
            }
        }
        if self.index.is_large() {
            self.subscribers_ahead(topics);
        }
    }

    /// What the matches need, and then, a step for all of them at a time, what the deliveries do.
    fn subscribers_ahead(&mut self, topics: &[&[u8]]) {
        let mut places = std::mem::take(&mut self.places_ahead);
        self.index
            .read_ahead(topics, |found| places.push(found.session));
        for place in &mut places {
            let conn = self.sessions[*place as usize].conn;
            *place = conn.map_or(u32::MAX, |conn| conn.index);
        }
        let mut read = 0;
        for place in places.drain(..) {
            if let Some(conn) = self.conns.get(place as usize) {
                read ^= conn.outbound.as_ref().map_or(0, |out| out.data_bytes());
            }
        }
        // The reads are what this is for.
        black_box(read);
        self.places_ahead = places;
    }
}

/// The Topic Name of a PUBLISH; empty where there is none, or an alias stands for it.
fn topic_of(body: &[u8]) -> &[u8] {
    let Some((len, rest)) = body.split_first_chunk::<2>() else {
        return &[];
    };
    rest.get(..usize::from(u16::from_be_bytes(*len)))
        .unwrap_or_default()
}

//! An ordered set of retained messages, by topic, in few bytes per message.
//!
//! Messages stand in sorted chunks; the chunks stand in one sorted vector. A chunk that ascending topics fill
//! stays full, one that random topics fill is split in halves, and small neighbours are joined, so a slot costs
//! its 24 bytes (for a message handle of 16) and about a fifth more. Finding a topic is two binary searches.

use super::retained::{RetainedEntry, Stamp};
use std::cmp::Ordering;

/// A chunk longer than this is split.
const CHUNK_SLOTS_MAX: usize = 128;
/// Two neighbours with no more slots than this together are joined.
const CHUNK_SLOTS_JOINED_MAX: usize = 64;
/// Chunks grow by this many slots.
const CHUNK_SLOTS_STEP: usize = 16;

pub(super) struct Ordered<M> {
    /// None is empty.
    chunks: Vec<Vec<Slot<M>>>,
    count: usize,
}

pub(super) struct Slot<M> {
    pub(super) stamp: Stamp,
    pub(super) message: M,
}

/// Where a message stands, until the next change.
#[derive(Clone, Copy)]
pub(super) struct Position {
    chunk: usize,
    slot: usize,
}

/// Orders topics level by level: a topic, then everything below it, then its next sibling.
///
/// It is the order of bytes, except that the separator comes before every other byte.
pub(super) fn topic_order(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let equal = equal_bytes(a, b);
    match (a.get(equal), b.get(equal)) {
        (Some(a), Some(b)) => rank(*a).cmp(&rank(*b)),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

/// A topic has no U+0000, so the separator can take its rank.
fn rank(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

/// How many bytes at the beginning are equal; eight at a time, for topics share long beginnings.
fn equal_bytes(a: &[u8], b: &[u8]) -> usize {
    let (a_words, _) = a.as_chunks::<8>();
    let (b_words, _) = b.as_chunks::<8>();
    let mut equal = 0;
    for (a, b) in a_words.iter().zip(b_words) {
        let different = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if different != 0 {
            return equal + different.trailing_zeros() as usize / 8;
        }
        equal += 8;
    }
    equal
        + a[equal..]
            .iter()
            .zip(&b[equal..])
            .take_while(|(a, b)| a == b)
            .count()
}

impl<M: RetainedEntry> Ordered<M> {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            count: 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn find(&self, topic: &str) -> Option<Position> {
        self.search(topic).ok()
    }

    pub(super) fn at(&self, position: Position) -> &Slot<M> {
        &self.chunks[position.chunk][position.slot]
    }

    pub(super) fn at_mut(&mut self, position: Position) -> &mut Slot<M> {
        &mut self.chunks[position.chunk][position.slot]
    }

    /// The first message at `topic` or after it.
    pub(super) fn first_from(&self, topic: &str) -> Option<Position> {
        match self.search(topic) {
            Ok(position) => Some(position),
            Err(position) => self.normal(position),
        }
    }

    /// The first message at `topic` or after it, which is known to be at `from` or after it.
    pub(super) fn first_from_near(&self, from: Position, topic: &str) -> Option<Position> {
        let rest = &self.chunks[from.chunk][from.slot..];
        if rest
            .last()
            .is_some_and(|slot| topic_order(slot.message.topic(), topic).is_lt())
        {
            return self.first_from(topic);
        }
        let before = rest.partition_point(|slot| topic_order(slot.message.topic(), topic).is_lt());
        self.normal(Position {
            chunk: from.chunk,
            slot: from.slot + before,
        })
    }

    /// The message after the one at `position`.
    pub(super) fn after(&self, position: Position) -> Option<Position> {
        self.normal(Position {
            chunk: position.chunk,
            slot: position.slot + 1,
        })
    }

    /// Adds a message whose topic is not present.
    pub(super) fn insert(&mut self, slot: Slot<M>) {
        let Err(Position { chunk, slot: at }) = self.search(slot.message.topic()) else {
            panic!("a topic that is present is replaced in its place");
        };
        self.count += 1;
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
        }
        if self.chunks[chunk].len() < CHUNK_SLOTS_MAX {
            insert_slot(&mut self.chunks[chunk], at, slot);
        } else if chunk + 1 == self.chunks.len() && at == CHUNK_SLOTS_MAX {
            // Topics that come in ascending order leave full chunks behind.
            let mut last = Vec::new();
            insert_slot(&mut last, 0, slot);
            self.chunks.push(last);
        } else {
            let half = CHUNK_SLOTS_MAX / 2;
            let mut upper = self.chunks[chunk].split_off(half);
            let lower = &mut self.chunks[chunk];
            lower.shrink_to(half + CHUNK_SLOTS_STEP);
            if at <= half {
                insert_slot(lower, at, slot);
            } else {
                insert_slot(&mut upper, at - half, slot);
            }
            self.chunks.insert(chunk + 1, upper);
        }
    }

    pub(super) fn remove(&mut self, position: Position) -> Slot<M> {
        let Position { chunk, slot } = position;
        self.count -= 1;
        let removed = self.chunks[chunk].remove(slot);
        self.join_with_next(chunk);
        if chunk > 0 {
            self.join_with_next(chunk - 1);
        }
        // Only the last chunk of all has no neighbour to be joined with.
        if self.count == 0 {
            self.chunks = Vec::new();
        } else if let Some(chunk) = self.chunks.get_mut(chunk)
            && chunk.capacity() - chunk.len() > 2 * CHUNK_SLOTS_STEP
        {
            chunk.shrink_to(chunk.len() + CHUNK_SLOTS_STEP);
        }
        removed
    }

    /// Bytes on the heap, without the messages' own and without what the allocator adds.
    pub(super) fn heap_bytes(&self) -> usize {
        let slot_count: usize = self.chunks.iter().map(Vec::capacity).sum();
        slot_count * size_of::<Slot<M>>() + self.chunks.capacity() * size_of::<Vec<Slot<M>>>()
    }

    /// Where `topic` stands, or where it would have to be inserted.
    fn search(&self, topic: &str) -> Result<Position, Position> {
        let not_after = self
            .chunks
            .partition_point(|chunk| topic_order(chunk[0].message.topic(), topic).is_le());
        let chunk = not_after.saturating_sub(1);
        let Some(slots) = self.chunks.get(chunk) else {
            return Err(Position { chunk: 0, slot: 0 });
        };
        match slots.binary_search_by(|slot| topic_order(slot.message.topic(), topic)) {
            Ok(slot) => Ok(Position { chunk, slot }),
            Err(slot) => Err(Position { chunk, slot }),
        }
    }

    /// The position itself, or the beginning of the next chunk when it is behind the last slot of its own.
    fn normal(&self, position: Position) -> Option<Position> {
        if position.slot < self.chunks.get(position.chunk)?.len() {
            return Some(position);
        }
        let chunk = position.chunk + 1;
        (chunk < self.chunks.len()).then_some(Position { chunk, slot: 0 })
    }

    fn join_with_next(&mut self, chunk: usize) {
        if let Some([lower, upper]) = self.chunks.get_mut(chunk..chunk + 2)
            && lower.len() + upper.len() <= CHUNK_SLOTS_JOINED_MAX
        {
            lower.reserve_exact(upper.len());
            lower.append(upper);
            self.chunks.remove(chunk + 1);
            if self.chunks.capacity() / 4 > self.chunks.len() {
                self.chunks.shrink_to(self.chunks.len() * 2);
            }
        }
    }
}

fn insert_slot<M>(chunk: &mut Vec<Slot<M>>, at: usize, slot: Slot<M>) {
    if chunk.len() == chunk.capacity() {
        chunk.reserve_exact(CHUNK_SLOTS_STEP);
    }
    chunk.insert(at, slot);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    impl RetainedEntry for Rc<str> {
        fn topic(&self) -> &str {
            self
        }

        fn bytes(&self) -> usize {
            self.len()
        }
    }

    fn slot(topic: &str) -> Slot<Rc<str>> {
        Slot {
            stamp: Stamp(1),
            message: topic.into(),
        }
    }

    #[test]
    fn the_order_is_by_levels() {
        let sorted = [
            "",
            "/",
            "//",
            "/a",
            "\u{1}",
            "!",
            "$a",
            "$a/b",
            "$b",
            "a",
            "a/",
            "a//",
            "a/a",
            "a/b",
            "a\u{1}",
            "a\u{1}/x",
            "a!",
            "a.",
            "a.b/c",
            "a0",
            "aa",
            "ab-cd-ef",
            "ab-cd-ef/g",
            "ab-cd-ef/h",
            "ab-cd-ef0",
            "b",
            "ä",
            "ä/b",
        ];
        for (at, a) in sorted.iter().enumerate() {
            for (bt, b) in sorted.iter().enumerate() {
                assert_eq!(topic_order(a, b), at.cmp(&bt), "{a:?} {b:?}");
                let by_levels = a.split('/').cmp(b.split('/'));
                assert_eq!(topic_order(a, b), by_levels, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn agrees_with_a_map_while_it_grows_and_shrinks() {
        let mut ordered = Ordered::new();
        let mut model = BTreeMap::new();
        let mut random = 1_u64;
        for step in 0..60_000_u64 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let number = (random >> 33) % 5_000;
            let topic = format!("{:05}", number);
            let adds = (step / 10_000) % 2 == 0;
            if ((random >> 60) > 3) == adds {
                if model.insert(topic.clone(), ()).is_none() {
                    ordered.insert(slot(&topic));
                }
            } else {
                let found = ordered.find(&topic);
                assert_eq!(found.is_some(), model.remove(&topic).is_some());
                if let Some(position) = found {
                    assert_eq!(*ordered.remove(position).message, *topic);
                }
            }
            let next = ordered
                .first_from(&topic)
                .map(|position| ordered.at(position).message.to_string());
            assert_eq!(
                next.as_ref(),
                model.range(topic..).next().map(|(topic, ())| topic)
            );
            assert_eq!(ordered.count(), model.len());
        }
        let mut position = ordered.first_from("");
        for topic in model.keys() {
            let at = position.expect("as many as in the model");
            assert_eq!(*ordered.at(at).message, **topic);
            position = ordered.after(at);
        }
        assert!(position.is_none());
        for topic in model.keys() {
            let position = ordered.find(topic).expect("present");
            ordered.remove(position);
        }
        assert_eq!((ordered.count(), ordered.heap_bytes()), (0, 0));
    }

    #[test]
    fn a_slot_costs_little_more_than_itself() {
        for stride in [1_u64, 7_919] {
            let mut ordered = Ordered::new();
            for number in 0..20_000_u64 {
                ordered.insert(slot(&format!("t/{:05}", number * stride % 20_000)));
            }
            let bytes_per_slot = ordered.heap_bytes() / ordered.count();
            assert!(bytes_per_slot <= 32, "stride {stride}: {bytes_per_slot}");
        }
    }
}

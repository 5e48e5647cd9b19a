//! An ordered set of retained messages, by topic, in few bytes per message.
//!
//! Messages stand in sorted chunks; the chunks stand in one sorted vector. A chunk that ascending
//! topics fill stays full, one that random topics fill is split in halves, and small neighbours are
//! joined, so a slot costs its 24 bytes (for a message handle of 16), a head of 4, and about a
//! tenth more.
//!
//! Finding a topic is two binary searches: one among the first topics of all chunks, which stay in
//! the cache, and one among the heads of one chunk. A head is the four bytes of a topic that follow
//! what all topics of its chunk begin with: nearly always enough to tell them apart without reading
//! them.

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
    chunks: Vec<Chunk<M>>,
    count: usize,
}

struct Chunk<M> {
    slots: Vec<Slot<M>>,
    /// One for each slot, in ascending order like the slots.
    heads: Vec<u32>,
    /// So many bytes at least are the same at the beginning of every topic.
    common_bytes: usize,
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
pub(super) fn topic_order(a: &[u8], b: &[u8]) -> Ordering {
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

/// The four bytes of `topic` from `common_bytes` on, in the order of [`topic_order`].
fn head(topic: &[u8], common_bytes: usize) -> u32 {
    let mut bytes = [0; 4];
    let rest = topic.get(common_bytes..).unwrap_or_default();
    for (to, from) in bytes.iter_mut().zip(rest) {
        *to = rank(*from);
    }
    u32::from_be_bytes(bytes)
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
        self.search(topic.as_bytes()).ok()
    }

    pub(super) fn at(&self, position: Position) -> &Slot<M> {
        &self.chunks[position.chunk].slots[position.slot]
    }

    /// For replacing a message by another one of the same topic.
    pub(super) fn at_mut(&mut self, position: Position) -> &mut Slot<M> {
        &mut self.chunks[position.chunk].slots[position.slot]
    }

    /// The first message at `topic` or after it.
    pub(super) fn first_from(&self, topic: &str) -> Option<Position> {
        match self.search(topic.as_bytes()) {
            Ok(position) => Some(position),
            Err(position) => self.normal(position),
        }
    }

    /// The first message at `topic` or after it, which is known to be at `from` or after it.
    pub(super) fn first_from_near(&self, from: Position, topic: &str) -> Option<Position> {
        let Position { chunk, slot } = from;
        let (Ok(near) | Err(near)) = self.chunks[chunk].search(topic.as_bytes());
        if near == self.chunks[chunk].slots.len() {
            return self.first_from(topic);
        }
        assert!(near >= slot);
        Some(Position { chunk, slot: near })
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
        let Err(Position { chunk, slot: at }) = self.search(slot.message.topic_bytes()) else {
            panic!("a topic that is present is replaced in its place");
        };
        self.count += 1;
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::new(slot));
        } else if self.chunks[chunk].slots.len() < CHUNK_SLOTS_MAX {
            self.chunks[chunk].insert(at, slot);
        } else if chunk + 1 == self.chunks.len() && at == CHUNK_SLOTS_MAX {
            // Topics that come in ascending order leave full chunks behind.
            self.chunks.push(Chunk::new(slot));
        } else {
            let lower = &mut self.chunks[chunk];
            let mut upper = lower.split_off(CHUNK_SLOTS_MAX / 2);
            let middle = lower.slots.len();
            if at <= middle {
                lower.insert(at, slot);
            } else {
                upper.insert(at - middle, slot);
            }
            self.chunks.insert(chunk + 1, upper);
        }
    }

    pub(super) fn remove(&mut self, position: Position) -> Slot<M> {
        let Position { chunk, slot } = position;
        self.count -= 1;
        let removed = self.chunks[chunk].remove(slot);
        if self.chunks[chunk].slots.is_empty() {
            self.remove_chunk(chunk);
        } else {
            self.join_with_next(chunk);
        }
        if chunk > 0 {
            self.join_with_next(chunk - 1);
        }
        removed
    }

    /// Bytes on the heap, without the messages' own and without what the allocator adds.
    pub(super) fn heap_bytes(&self) -> usize {
        let in_chunks: usize = self.chunks.iter().map(Chunk::heap_bytes).sum();
        in_chunks + self.chunks.capacity() * size_of::<Chunk<M>>()
    }

    /// Where `topic` stands, or where it would have to be inserted.
    fn search(&self, topic: &[u8]) -> Result<Position, Position> {
        let not_after = self
            .chunks
            .partition_point(|chunk| chunk.order(0, topic).is_le());
        let chunk = not_after.saturating_sub(1);
        let Some(slots) = self.chunks.get(chunk) else {
            return Err(Position { chunk: 0, slot: 0 });
        };
        match slots.search(topic) {
            Ok(slot) => Ok(Position { chunk, slot }),
            Err(slot) => Err(Position { chunk, slot }),
        }
    }

    /// The position itself, or the beginning of the next chunk when it is behind the last slot of
    /// its own.
    fn normal(&self, position: Position) -> Option<Position> {
        if position.slot < self.chunks.get(position.chunk)?.slots.len() {
            return Some(position);
        }
        let chunk = position.chunk + 1;
        (chunk < self.chunks.len()).then_some(Position { chunk, slot: 0 })
    }

    fn join_with_next(&mut self, chunk: usize) {
        if let Some([lower, upper]) = self.chunks.get_mut(chunk..chunk + 2)
            && lower.slots.len() + upper.slots.len() <= CHUNK_SLOTS_JOINED_MAX
        {
            lower.append(upper);
            self.remove_chunk(chunk + 1);
        }
    }

    fn remove_chunk(&mut self, chunk: usize) {
        self.chunks.remove(chunk);
        if self.chunks.capacity() / 4 >= self.chunks.len() {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
    }
}

impl<M: RetainedEntry> Chunk<M> {
    fn new(slot: Slot<M>) -> Self {
        let mut chunk = Self {
            slots: Vec::new(),
            heads: Vec::new(),
            common_bytes: 0,
        };
        chunk.insert(0, slot);
        chunk.learn_heads();
        chunk
    }

    fn topic(&self, slot: usize) -> &[u8] {
        self.slots[slot].message.topic_bytes()
    }

    /// How the topic of a slot compares with `topic`.
    fn order(&self, slot: usize, topic: &[u8]) -> Ordering {
        topic_order(self.topic(slot), topic)
    }

    /// Where `topic` stands, or where it would have to be inserted.
    fn search(&self, topic: &[u8]) -> Result<usize, usize> {
        if equal_bytes(self.topic(0), topic) < self.common_bytes {
            // It differs in what all have in common, and so is before or after all.
            return Err(if self.order(0, topic).is_gt() {
                0
            } else {
                self.slots.len()
            });
        }
        let head = head(topic, self.common_bytes);
        let before = self.heads.partition_point(|other| *other < head);
        let alike = self.heads[before..].partition_point(|other| *other == head);
        let slots = &self.slots[before..before + alike];
        match slots.binary_search_by(|slot| topic_order(slot.message.topic_bytes(), topic)) {
            Ok(at) => Ok(before + at),
            Err(at) => Err(before + at),
        }
    }

    fn insert(&mut self, at: usize, slot: Slot<M>) {
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(CHUNK_SLOTS_STEP);
            self.heads.reserve_exact(CHUNK_SLOTS_STEP);
        }
        let topic = slot.message.topic_bytes();
        let common_bytes = self
            .slots
            .first()
            .map_or(0, |first| equal_bytes(first.message.topic_bytes(), topic));
        let head = head(topic, self.common_bytes);
        self.slots.insert(at, slot);
        self.heads.insert(at, head);
        if common_bytes < self.common_bytes {
            self.learn_heads();
        }
    }

    fn remove(&mut self, at: usize) -> Slot<M> {
        let removed = self.slots.remove(at);
        self.heads.remove(at);
        self.give_back();
        removed
    }

    fn split_off(&mut self, at: usize) -> Self {
        let slots = self.slots.split_off(at);
        let heads = self.heads.split_off(at);
        let mut upper = Self {
            slots,
            heads,
            common_bytes: 0,
        };
        upper.learn_heads();
        self.learn_heads();
        self.give_back();
        upper
    }

    fn append(&mut self, upper: &mut Self) {
        self.slots.reserve_exact(upper.slots.len());
        self.heads.reserve_exact(upper.heads.len());
        self.slots.append(&mut upper.slots);
        self.heads.append(&mut upper.heads);
        self.learn_heads();
    }

    /// Finds out what the topics have in common: what the first and the last have, for they are in
    /// order.
    fn learn_heads(&mut self) {
        let (first, last) = (self.topic(0), self.topic(self.slots.len() - 1));
        self.common_bytes = equal_bytes(first, last);
        for (to, slot) in self.heads.iter_mut().zip(&self.slots) {
            *to = head(slot.message.topic_bytes(), self.common_bytes);
        }
    }

    fn give_back(&mut self) {
        if self.slots.capacity() - self.slots.len() > 2 * CHUNK_SLOTS_STEP {
            self.slots.shrink_to(self.slots.len() + CHUNK_SLOTS_STEP);
            self.heads.shrink_to(self.slots.len() + CHUNK_SLOTS_STEP);
        }
    }

    fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<M>>() + self.heads.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
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
                assert_eq!(
                    topic_order(a.as_bytes(), b.as_bytes()),
                    at.cmp(&bt),
                    "{a:?} {b:?}"
                );
                let by_levels = a.split('/').cmp(b.split('/'));
                assert_eq!(
                    topic_order(a.as_bytes(), b.as_bytes()),
                    by_levels,
                    "{a:?} {b:?}"
                );
            }
        }
    }

    /// A topic in the order of its levels, which is the definition of [`topic_order`].
    #[derive(Clone, PartialEq, Eq)]
    struct ByLevels(String);

    impl Ord for ByLevels {
        fn cmp(&self, other: &Self) -> Ordering {
            self.0.split('/').cmp(other.0.split('/'))
        }
    }

    impl PartialOrd for ByLevels {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    fn assert_equal(ordered: &Ordered<Rc<str>>, model: &BTreeSet<ByLevels>) {
        let mut position = ordered.first_from("");
        for topic in model {
            let at = position.expect("as many as in the model");
            assert_eq!(*ordered.at(at).message, *topic.0);
            position = ordered.after(at);
        }
        assert!(position.is_none());
        assert!(ordered.chunks.iter().all(|chunk| !chunk.slots.is_empty()));
    }

    /// Adds mostly and removes mostly by turns, with the topics that `topic` makes of numbers below
    /// 5,000.
    fn check_against_a_set(topic: impl Fn(u64) -> String) {
        let mut ordered = Ordered::new();
        let mut model = BTreeSet::new();
        let mut random = 1_u64;
        for step in 0..60_000_u64 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let topic = ByLevels(topic((random >> 33) % 5_000));
            let adds = (step / 10_000) % 2 == 0;
            let found = ordered.find(&topic.0);
            assert_eq!(found.is_some(), model.contains(&topic));
            if ((random >> 60) > 3) == adds {
                if model.insert(topic.clone()) {
                    ordered.insert(slot(&topic.0));
                }
            } else if let Some(position) = found {
                assert_eq!(*ordered.remove(position).message, *topic.0);
                model.remove(&topic);
            }
            let next = ordered.first_from(&topic.0);
            let next = next.map(|position| ordered.at(position).message.to_string());
            assert_eq!(
                next.as_ref(),
                model.range(&topic..).next().map(|topic| &topic.0)
            );
            assert_eq!(ordered.count(), model.len());
            if step % 2_000 == 0 {
                assert_equal(&ordered, &model);
            }
        }
        for topic in &model {
            let position = ordered.find(&topic.0).expect("present");
            ordered.remove(position);
        }
        assert_eq!((ordered.count(), ordered.heap_bytes()), (0, 0));
    }

    #[test]
    fn agrees_with_a_set_when_heads_tell_topics_apart() {
        check_against_a_set(|number| format!("device/{number:05}/state"));
    }

    #[test]
    fn agrees_with_a_set_when_beginnings_are_long_and_heads_are_alike() {
        check_against_a_set(|number| match number % 3 {
            0 => format!("{}", number / 3),
            1 => format!("the same beginning/{}/and middle/{number:05}", number % 7),
            _ => format!(
                "the same beginning/{}{}",
                "/".repeat(number as usize % 40),
                number % 11
            ),
        });
    }

    #[test]
    fn a_chunk_that_ascending_topics_began_can_be_emptied_beside_a_full_one() {
        let mut ordered = Ordered::new();
        let mut model = BTreeSet::new();
        for number in 0..=CHUNK_SLOTS_MAX {
            let topic = ByLevels(format!("{number:05}"));
            ordered.insert(slot(&topic.0));
            model.insert(topic);
        }
        assert_eq!(ordered.chunks.len(), 2);
        let last = model.pop_last().expect("not empty");
        ordered.remove(ordered.find(&last.0).expect("present"));
        assert_equal(&ordered, &model);
        assert!(ordered.find(&last.0).is_none());
        ordered.insert(slot(&last.0));
        model.insert(last);
        assert_equal(&ordered, &model);
    }

    #[test]
    fn a_slot_costs_little_more_than_itself() {
        for stride in [1_u64, 7_919] {
            let mut ordered = Ordered::new();
            for number in 0..20_000_u64 {
                ordered.insert(slot(&format!("t/{:05}", number * stride % 20_000)));
            }
            let bytes_per_slot = ordered.heap_bytes() / ordered.count();
            assert!(bytes_per_slot <= 34, "stride {stride}: {bytes_per_slot}");
        }
    }
}

//! Which other cores may want a topic, known without asking them.
//!
//! Every core announces, for each of its non-shared filters, one key: of a filter without wildcards
//! the hash of the filter; of a filter with wildcards the hash of its *run*, the levels before the first
//! wildcard, or, when it begins with `+`, those between them and the next one.
//! A topic of depth d is then wanted, if at all, under the key of its own text, of one of its d+1
//! prefixes, or of what begins at a later level. That over-approximates: a key may cover topics that no filter behind it matches (the
//! message is then wasted), but never the other way round. Keys carry the kind of filter, the levels skipped and the
//! length of the run, so a topic probes only where somebody announced something.

use super::LARGE_MIN;
use super::levels::{Levels, PathHasher, levels, levels_of};
use hashbrown::HashTable;
use std::cell::Cell;
use std::hint::black_box;
use std::ops::Range;

/// One bit for each core; core 0 is the lowest.
pub type CoreMask = u64;

/// The most cores a [`CoreMask`] holds.
pub const CORES_MAX: u8 = 64;

/// Keys that are read ahead at a time: so many have topics of few levels.
const AHEAD_KEYS_MAX: usize = 256;

/// What a filter is announced under: 34 bits of hash, and above them six bits for the class of the
/// filter.
///
/// Equal on all cores for equal filters and seeds. Two filters that meet in one key are counted
/// together, so a short hash costs a wasted message now and then (one publish in 10,000 at a
/// million keys), not correctness; and five bytes are what each core keeps per key of each other
/// core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterestKey(pub u64);

const HASH_BITS: u32 = 34;
const CLASS_COUNT: usize = 64;
/// The class of filters without wildcards.
const CLASS_EXACT: usize = CLASS_COUNT - 1;
/// By how many `+` the others begin with, at most three are counted: their first class, that of the empty run. Longer runs have the
/// next ones, and the longest share the last one before the next number of `+`.
const CLASS_SKIPPING: [usize; 4] = [0, 38, 50, 58];

/// A bit for each class of filters that begin with `+`.
const ANY_SKIPPING: u64 = (1 << CLASS_EXACT) - (1 << CLASS_SKIPPING[1]);

/// The classes of runs behind `skipped` levels.
fn classes_skipping(skipped: usize) -> Range<usize> {
    let end = CLASS_SKIPPING.get(skipped + 1).unwrap_or(&CLASS_EXACT);
    CLASS_SKIPPING[skipped]..*end
}

/// The class of a run of `len` levels, of those behind so many that are skipped.
#[inline]
fn run_class(classes: &Range<usize>, len: usize) -> usize {
    (classes.start + len).min(classes.end - 1)
}

/// A bit for each of these classes.
#[inline]
fn class_bits(classes: &Range<usize>) -> u64 {
    (1 << classes.end) - (1 << classes.start)
}

impl InterestKey {
    fn new(hash: u64, class: usize) -> Self {
        Self((class as u64) << HASH_BITS | hash >> (u64::BITS - HASH_BITS))
    }

    /// The class; less than `CLASS_COUNT` whatever a caller made the key of.
    fn class(self) -> usize {
        (self.0 >> HASH_BITS) as usize % CLASS_COUNT
    }

    /// Spread over 64 bits: tables take their bucket from the bottom and their tag from the top.
    fn table_hash(self) -> u64 {
        let product = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        product ^ (product >> 32)
    }
}

/// A number in as many bytes as it needs; tables of millions of keys have no room for padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed<const BYTES: usize>([u8; BYTES]);

impl<const BYTES: usize> Packed<BYTES> {
    fn new(number: u64) -> Self {
        let bytes = number.to_le_bytes();
        assert!(bytes[BYTES..].iter().all(|byte| *byte == 0));
        let mut packed = [0; BYTES];
        packed.copy_from_slice(&bytes[..BYTES]);
        Self(packed)
    }

    fn get(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..BYTES].copy_from_slice(&self.0);
        u64::from_le_bytes(bytes)
    }
}

type PackedKey = Packed<5>;

impl PackedKey {
    fn table_hash(self) -> u64 {
        InterestKey(self.get()).table_hash()
    }
}

/// The key of `filter` (valid, without `$share/NAME/`) in an installation whose seed is `seed`.
pub fn interest_key(seed: u64, filter: &str) -> InterestKey {
    let hasher = PathHasher::new(seed);
    let mut hash = hasher.prefix_start();
    let (mut skipped, mut len, mut is_exact) = (0, 0, true);
    for level in levels(filter) {
        if !matches!(level, b"+" | b"#") {
            hash = hasher.prefix_extend(hash, level);
            len += 1;
            continue;
        }
        is_exact = false;
        let may_skip = level == b"+" && len == 0 && skipped < CLASS_SKIPPING.len() - 1;
        if !may_skip {
            break;
        }
        skipped += 1;
    }
    if is_exact {
        return InterestKey::new(hasher.text(filter.as_bytes()), CLASS_EXACT);
    }
    InterestKey::new(hash, run_class(&classes_skipping(skipped), len))
}

/// This core's own filters per key: what it has announced to the others, and when.
#[derive(Default)]
pub struct LocalInterest {
    keys: HashTable<LocalKey>,
}

#[derive(Debug)]
struct LocalKey {
    key: PackedKey,
    filter_count: Packed<4>,
    /// 48 bits last for 89 years at 100,000 announcements a second.
    announced_at: Packed<6>,
}

const _: () = assert!(size_of::<LocalKey>() == 15);

impl LocalInterest {
    /// No filters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one more filter under `key`; true when it is the first, which must be announced.
    ///
    /// Count *filters*: call this when `Index::subscribe` reports the first subscriber of a filter.
    pub fn add(&mut self, key: InterestKey) -> bool {
        if let Some(local) = self.find_mut(key) {
            local.filter_count = Packed::new(local.filter_count.get() + 1);
            return false;
        }
        let local = LocalKey {
            key: Packed::new(key.0),
            filter_count: Packed::new(1),
            announced_at: Packed::new(0),
        };
        self.keys
            .insert_unique(key.table_hash(), local, |local| local.key.table_hash());
        true
    }

    /// Counts one filter less under `key`; true when it was the last, which must be retracted.
    ///
    /// Panics when nothing was counted under `key`.
    pub fn remove(&mut self, key: InterestKey) -> bool {
        let packed = Packed::new(key.0);
        let mut entry = self
            .keys
            .find_entry(key.table_hash(), |local| local.key == packed)
            .expect("a filter that is removed was counted when it was added");
        let local = entry.get_mut();
        local.filter_count = Packed::new(local.filter_count.get() - 1);
        let last = local.filter_count.get() == 0;
        if last {
            entry.remove();
        }
        last
    }

    /// Remembers the sequence number, below 2^48, under which `key` was announced. Nothing happens
    /// when it is not counted.
    pub fn set_announced(&mut self, key: InterestKey, sequence: u64) {
        if let Some(local) = self.find_mut(key) {
            local.announced_at = Packed::new(sequence);
        }
    }

    /// The sequence number under which `key` was announced; 0 when it was not.
    ///
    /// A SUBACK for a filter under `key` may leave once every core has acknowledged this number.
    pub fn announced_at(&self, key: InterestKey) -> u64 {
        let packed = Packed::new(key.0);
        let local = self
            .keys
            .find(key.table_hash(), |local| local.key == packed);
        local.map_or(0, |local| local.announced_at.get())
    }

    /// Keys with at least one filter.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Every key with at least one filter, in ascending order: what a core must be told that knows
    /// nothing yet.
    pub fn keys(&self) -> Vec<InterestKey> {
        let mut keys: Vec<_> = self
            .keys
            .iter()
            .map(|local| InterestKey(local.key.get()))
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Bytes on the heap.
    pub fn memory_bytes(&self) -> usize {
        self.keys.allocation_size()
    }

    fn find_mut(&mut self, key: InterestKey) -> Option<&mut LocalKey> {
        let packed = Packed::new(key.0);
        self.keys
            .find_mut(key.table_hash(), |local| local.key == packed)
    }
}

/// What the other cores have announced.
pub struct InterestTable {
    hasher: PathHasher,
    keys: HashTable<RemoteKey>,
    /// Keys of each class that at least one core has announced.
    class_counts: [u32; CLASS_COUNT],
    /// A bit for each class that has any.
    classes: u64,
    /// Scratch of [`Self::read_ahead`].
    ahead: Cell<Vec<InterestKey>>,
}

struct RemoteKey {
    key: PackedKey,
    /// A [`CoreMask`], never 0.
    mask: Packed<8>,
}

const _: () = assert!(size_of::<RemoteKey>() == 13);

impl InterestTable {
    /// Nothing announced. `seed` is the seed of the installation, that of [`interest_key`].
    pub fn new(seed: u64) -> Self {
        Self {
            hasher: PathHasher::new(seed),
            keys: HashTable::new(),
            class_counts: [0; CLASS_COUNT],
            classes: 0,
            ahead: Cell::default(),
        }
    }

    /// Core `from` has announced `key`. Announcing again changes nothing.
    ///
    /// Panics when `from` is not below [`CORES_MAX`].
    pub fn set(&mut self, from: u8, key: InterestKey) {
        let bit = core_bit(from);
        let packed = Packed::new(key.0);
        if let Some(remote) = self
            .keys
            .find_mut(key.table_hash(), |remote| remote.key == packed)
        {
            remote.mask = Packed::new(remote.mask.get() | bit);
            return;
        }
        let remote = RemoteKey {
            key: packed,
            mask: Packed::new(bit),
        };
        self.keys
            .insert_unique(key.table_hash(), remote, |remote| remote.key.table_hash());
        self.class_counts[key.class()] += 1;
        self.classes |= 1 << key.class();
    }

    /// Core `from` has retracted `key`. Retracting what was not announced changes nothing.
    ///
    /// Panics when `from` is not below [`CORES_MAX`].
    pub fn clear(&mut self, from: u8, key: InterestKey) {
        let bit = core_bit(from);
        let packed = Packed::new(key.0);
        if let Ok(mut entry) = self
            .keys
            .find_entry(key.table_hash(), |remote| remote.key == packed)
        {
            let mask = entry.get().mask.get() & !bit;
            entry.get_mut().mask = Packed::new(mask);
            if mask == 0 {
                entry.remove();
                let count = &mut self.class_counts[key.class()];
                *count -= 1;
                if *count == 0 {
                    self.classes &= !(1 << key.class());
                }
            }
        }
    }

    /// The cores that may have a filter that matches `topic`; never without one that has.
    ///
    /// Cost: one hash per level, and one probe per length of a run that any key has; as much again for each number of `+` at
    /// the beginning that any has.
    pub fn mask_for(&self, topic: &str) -> CoreMask {
        let mut mask = 0;
        self.keys_of(topic.as_bytes(), |key| mask |= self.mask_of(key));
        mask
    }

    /// Fetches what [`Self::mask_for`] will need for these topics into the cache, for all at a time. It changes nothing, and pays only
    /// where [`Self::is_large`].
    pub fn read_ahead(&self, topics: &[&[u8]]) {
        let mut keys = self.ahead.take();
        keys.clear();
        for topic in topics {
            self.keys_of(topic, |key| {
                if keys.len() < AHEAD_KEYS_MAX {
                    keys.push(key);
                }
            });
        }
        let read = keys.iter().fold(0, |read, key| read ^ self.mask_of(*key));
        // The reads are what this is for.
        black_box(read);
        self.ahead.set(keys);
    }

    /// Whether the table is larger than the cache of a core, so that reading ahead pays.
    pub fn is_large(&self) -> bool {
        self.keys.len() >= LARGE_MIN
    }

    /// Calls `f` with each key under which `topic` may be wanted, of the classes that have any.
    #[inline]
    fn keys_of(&self, topic: &[u8], mut f: impl FnMut(InterestKey)) {
        if self.keys.is_empty() {
            return;
        }
        let present = self.classes;
        let mut probe = |hash: u64, class: usize| {
            if present & 1 << class != 0 {
                f(InterestKey::new(hash, class));
            }
        };
        let start = self.hasher.prefix_start();
        let mut rest = levels_of(topic);
        if present & 1 << CLASS_EXACT != 0 {
            probe(self.hasher.text(topic), CLASS_EXACT);
        }
        self.runs_of(classes_skipping(0), rest.clone(), &mut probe);
        // MQTT 5 §4.7.2: a wildcard as first level does not match a topic that begins with `$`.
        if topic.first() == Some(&b'$') {
            return;
        }
        probe(start, CLASS_SKIPPING[0]);
        if present & ANY_SKIPPING == 0 {
            return;
        }
        for classes in (1..CLASS_SKIPPING.len()).map(classes_skipping) {
            if rest.next().is_none() {
                break;
            }
            probe(start, classes.start);
            self.runs_of(classes, rest.clone(), &mut probe);
        }
    }

    /// Probes for runs of these levels' first ones, in these classes, up to the longest run that any key has.
    #[inline]
    fn runs_of(
        &self,
        classes: Range<usize>,
        levels: Levels<'_>,
        probe: &mut impl FnMut(u64, usize),
    ) {
        let longer_than = |len| {
            let longer = run_class(&classes, len + 1)..classes.end;
            self.classes & class_bits(&longer) != 0
        };
        let mut hash = self.hasher.prefix_start();
        for (len, level) in levels.enumerate() {
            if !longer_than(len) {
                break;
            }
            hash = self.hasher.prefix_extend(hash, level);
            probe(hash, run_class(&classes, len + 1));
        }
    }

    /// Keys that at least one other core has announced.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Bytes on the heap.
    pub fn memory_bytes(&self) -> usize {
        self.keys.allocation_size()
    }

    #[inline]
    fn mask_of(&self, key: InterestKey) -> CoreMask {
        let packed = Packed::new(key.0);
        let remote = self
            .keys
            .find(key.table_hash(), |remote| remote.key == packed);
        remote.map_or(0, |remote| remote.mask.get())
    }
}

fn core_bit(core: u8) -> CoreMask {
    assert!(core < CORES_MAX);
    1 << core
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_with_the_same_levels_before_the_first_wildcard_share_a_key() {
        let key = |filter| interest_key(9, filter);
        assert_eq!(key("a/+/b"), key("a/#"));
        assert_eq!(key("+/b"), key("+/b/+/c"));
        assert_eq!(key("+/#"), key("+"));
        assert_eq!(key("+/+/+/+/b"), key("+/+/+"));
        assert_ne!(key("+/b"), key("b"));
        assert_ne!(key("+/b"), key("b/#"));
        assert_ne!(key("+/b"), key("+/+/b"));
        assert_ne!(key("+"), key("#"));
        assert_ne!(key("a/#"), key("a"));
        assert_ne!(key("a/#"), key("b/#"));
        assert_ne!(key("a/b/#"), key("a/#"));
        assert_ne!(key("a"), interest_key(8, "a"));
    }

    #[test]
    fn a_topic_is_wanted_under_its_text_and_its_prefixes() {
        for (filter, topic, wanted) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/#", "a", true),
            ("a/#", "a/b", true),
            ("a/#", "b", false),
            ("#", "x/y", true),
            ("+/y", "x/y", true),
            ("+/y", "x/z", false),
            ("+/y", "y", false),
            ("+/y/#", "x/y", true),
            ("+/y/z", "x/y/q", false),
            ("+/#", "x", true),
            ("+/+/#", "x", false),
            ("+/+/z", "x/y/z", true),
            ("+/+/z", "x/y/y", false),
            ("+/+/+/+/z", "a/b/c/d/z", true),
            ("+/+/+/+/z", "a/b", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("/#", "/", true),
            ("/#", "a/", false),
        ] {
            let mut table = InterestTable::new(5);
            table.set(3, interest_key(5, filter));
            assert_eq!(
                table.mask_for(topic),
                u64::from(wanted) << 3,
                "{filter} for {topic}"
            );
        }
    }

    #[test]
    fn prefixes_deeper_than_the_classes_are_found() {
        for (skipped, len) in (0..5).flat_map(|skipped| {
            [3, 4, 5, 11, 12, 37, 38, 39, 63, 64, 32_000].map(|len| (skipped, len))
        }) {
            let run = "a/".repeat(len);
            let mut table = InterestTable::new(0);
            let filter = format!("{}{run}#", "+/".repeat(skipped));
            table.set(63, interest_key(0, &filter));
            let topic = "x/".repeat(skipped) + &run;
            let case = format!("{skipped} and {len}");
            let wanted = table.mask_for(topic.trim_end_matches('/'));
            assert_eq!(wanted, 1 << 63, "{case}");
            assert_eq!(table.mask_for(&format!("{topic}x/y")), 1 << 63, "{case}");
            if skipped < CLASS_SKIPPING.len() {
                assert_eq!(table.mask_for(&topic[..topic.len() - 3]), 0, "{case}");
            }
            table.clear(63, interest_key(0, &filter));
            assert_eq!(table.mask_for(&topic), 0);
        }
    }

    #[test]
    fn cores_come_and_go_independently() {
        let mut table = InterestTable::new(0);
        let key = interest_key(0, "a/+");
        table.set(0, key);
        table.set(0, key);
        table.set(7, key);
        assert_eq!(table.mask_for("a/b"), 1 | 1 << 7);
        table.clear(0, key);
        table.clear(0, key);
        assert_eq!(table.mask_for("a/b"), 1 << 7);
        table.clear(7, key);
        assert_eq!((table.mask_for("a/b"), table.key_count()), (0, 0));
    }

    #[test]
    fn only_the_first_and_the_last_filter_of_a_key_are_told() {
        let mut local = LocalInterest::new();
        let key = interest_key(0, "a/#");
        assert_eq!(local.announced_at(key), 0);
        assert!(local.add(key));
        local.set_announced(key, (1 << 48) - 1);
        assert!(!local.add(key));
        assert_eq!(local.announced_at(key), (1 << 48) - 1);
        assert_eq!(local.keys(), [key]);
        assert!(!local.remove(key));
        assert!(local.remove(key));
        assert_eq!((local.announced_at(key), local.key_count()), (0, 0));
        assert!(local.add(key));
        assert_eq!(local.announced_at(key), 0);
    }
}

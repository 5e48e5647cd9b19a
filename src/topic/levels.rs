//! Levels of a topic, and keyed hashes of levels and of prefixes.
//!
//! Hashes are keyed by a seed that no client knows, so nobody can aim many topics at one bucket.

use crate::protocol::text::{EACH_BYTE, zero_bytes};
use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use std::hash::Hasher;

/// The bytes of each level of `text`, in order; `"a//b"` has the levels `a`, an empty one, and `b`.
///
/// Spec: MQTT 5 §4.7.1.1; a text without a separator is one level, also when it is empty.
pub fn levels(text: &str) -> Levels<'_> {
    levels_of(text.as_bytes())
}

/// The levels of a text that was cut out of a `str` at separators.
pub(super) fn levels_of(text: &[u8]) -> Levels<'_> {
    Levels { rest: Some(text) }
}

/// The iterator that [`levels`] returns.
#[derive(Clone)]
pub struct Levels<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Levels<'a> {
    /// The text of the levels that are left; `None` when there is none, which differs from an empty one.
    #[inline]
    pub(super) fn rest(&self) -> Option<&'a [u8]> {
        self.rest
    }
}

impl<'a> Iterator for Levels<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        match separator(rest) {
            Some(at) => {
                self.rest = Some(&rest[at + 1..]);
                Some(&rest[..at])
            }
            None => self.rest.take(),
        }
    }
}

/// Where the first separator stands. Levels are short, and a call to something vectorised costs more than it saves.
#[inline]
fn separator(bytes: &[u8]) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let found = zero_bytes(u64::from_le_bytes(*word) ^ (EACH_BYTE * u64::from(b'/')));
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = tail.iter().position(|byte| *byte == b'/')?;
    Some(words.len() * 8 + at)
}

/// Keyed hashes of whole topics, of levels, and of prefixes that grow level by level.
///
/// Two hashers made from the same seed agree, on whatever core they live.
pub struct PathHasher {
    seeds: SharedSeed,
    start: u64,
}

impl PathHasher {
    /// A hasher keyed by `seed`.
    pub fn new(seed: u64) -> Self {
        // The mixing of the seed keeps zero at zero; an arbitrary constant makes a seed of zero as
        // good as any.
        let seeds = SharedSeed::from_u64(seed ^ 0x6A09_E667_F3BC_C908);
        let start = FoldHasher::with_seed(seed, &seeds).finish_with(b"ringmq topic prefix");
        Self { seeds, start }
    }

    /// The hash of a whole text, or of one level.
    #[inline]
    pub fn text(&self, bytes: &[u8]) -> u64 {
        FoldHasher::with_seed(self.start, &self.seeds).finish_with(bytes)
    }

    /// The hash of the prefix of no levels.
    #[inline]
    pub fn prefix_start(&self) -> u64 {
        self.start
    }

    /// The hash of the prefix whose hash is `prefix`, with one more level.
    #[inline]
    pub fn prefix_extend(&self, prefix: u64, level: &[u8]) -> u64 {
        FoldHasher::with_seed(prefix, &self.seeds).finish_with(level)
    }

    /// The hash of an edge: the level whose hash is `level`, below the node `parent`.
    #[inline]
    pub(super) fn edge(&self, parent: u32, level: u64) -> u64 {
        let mut hasher = FoldHasher::with_seed(level, &self.seeds);
        hasher.write_u32(parent);
        hasher.finish()
    }
}

/// Writes some bytes and finishes, as every hash here does.
trait FinishWith {
    fn finish_with(self, bytes: &[u8]) -> u64;
}

impl FinishWith for FoldHasher<'_> {
    #[inline]
    fn finish_with(mut self, bytes: &[u8]) -> u64 {
        self.write(bytes);
        self.finish()
    }
}

/// A slot of a hash table that keeps half of the hash beside the index it stands for.
///
/// The table can grow without reading the texts again (a growth at a million filters would
/// otherwise be a million cache misses), and a probe reads a text only when 32 bits of hash agree.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashedIndex {
    half: u32,
    pub(super) index: u32,
}

impl HashedIndex {
    #[inline]
    pub(super) fn new(hash: u64, index: u32) -> Self {
        Self {
            half: half(hash),
            index,
        }
    }

    /// The hash under which the table files this slot.
    #[inline]
    pub(super) fn table_hash(&self) -> u64 {
        spread(self.half)
    }

    #[inline]
    pub(super) fn may_be(&self, hash: u64) -> bool {
        self.half == half(hash)
    }
}

/// The hash under which a table of [`HashedIndex`] files what hashes to `hash`.
#[inline]
pub(super) fn table_hash(hash: u64) -> u64 {
    spread(half(hash))
}

#[inline]
fn half(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

/// Spreads 32 good bits over 64: the table takes its tag from the top and its bucket from the
/// bottom.
#[inline]
fn spread(half: u32) -> u64 {
    u64::from(half).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        levels(text)
            .map(|level| std::str::from_utf8(level).expect("cut at '/'"))
            .collect()
    }

    #[test]
    fn levels_agree_with_split() {
        for text in [
            "",
            "/",
            "//",
            "a",
            "a/",
            "/a",
            "a/b",
            "a//b",
            "ä/€/#",
            "$share/n/+/x",
            "seven77/eight888/0.nine999/\u{80}/\u{10FFFF}/.//0/last",
        ] {
            assert_eq!(cut(text), text.split('/').collect::<Vec<_>>(), "{text:?}");
        }
    }

    #[test]
    fn levels_of_the_longest_topic() {
        assert_eq!(levels(&"/".repeat(65_535)).count(), 65_536);
    }

    #[test]
    fn hashes_depend_on_the_seed_and_agree_between_equal_seeds() {
        let (one, same, other) = (PathHasher::new(0), PathHasher::new(0), PathHasher::new(1));
        assert_eq!(one.text(b"a/b"), same.text(b"a/b"));
        assert_ne!(one.text(b"a/b"), other.text(b"a/b"));
        assert_ne!(one.text(b""), one.text(b"a"));
    }

    #[test]
    fn prefixes_differ_where_levels_differ() {
        let hasher = PathHasher::new(7);
        let prefix = |levels: &[&str]| {
            levels.iter().fold(hasher.prefix_start(), |hash, level| {
                hasher.prefix_extend(hash, level.as_bytes())
            })
        };
        let all = [
            prefix(&[]),
            prefix(&[""]),
            prefix(&["", ""]),
            prefix(&["a"]),
            prefix(&["a", "b"]),
            prefix(&["b", "a"]),
            prefix(&["ab"]),
            prefix(&["a", ""]),
            prefix(&["", "a"]),
        ];
        for (at, hash) in all.iter().enumerate() {
            assert!(!all[..at].contains(hash), "prefix {at} collides");
        }
    }
}

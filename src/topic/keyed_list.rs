//! A list of subscribers with at most one entry per key.
//!
//! Most filters have one subscriber, so one entry lives in place. A short list is searched; a long
//! one keeps a table from key to position, so that adding, replacing and removing cost the same at
//! ten entries and at a hundred thousand: a mass disconnect is linear, not quadratic. Removal moves
//! the last entry into the gap; the order depends on the operations alone.

use super::index::Subscriber;
use hashbrown::HashTable;

/// Beyond this many entries a table of positions is faster than a search.
const SEARCHED_ENTRIES_MAX: usize = 16;

pub(super) enum KeyedList<S> {
    Empty,
    One(S),
    Many(Box<Many<S>>),
}

/// At least two entries.
pub(super) struct Many<S> {
    entries: Vec<S>,
    /// Position of each entry, by key; empty while the list is short enough to search.
    positions: HashTable<u32>,
}

impl<S: Subscriber> KeyedList<S> {
    pub(super) fn as_slice(&self) -> &[S] {
        match self {
            Self::Empty => &[],
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(many) => &many.entries,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.as_slice().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(super) fn get(&self, key: u32) -> Option<&S> {
        match self {
            Self::Empty => None,
            Self::One(entry) => (entry.key() == key).then_some(entry),
            Self::Many(many) => many.position(key).map(|at| &many.entries[at]),
        }
    }

    /// Adds `entry`, or puts it in the place of the entry with its key, which is returned.
    pub(super) fn insert(&mut self, entry: S) -> Option<S> {
        match self {
            Self::Empty => {
                *self = Self::One(entry);
                None
            }
            Self::One(present) if present.key() == entry.key() => {
                Some(std::mem::replace(present, entry))
            }
            Self::One(present) => {
                let entries = vec![*present, entry];
                *self = Self::Many(Box::new(Many {
                    entries,
                    positions: HashTable::new(),
                }));
                None
            }
            Self::Many(many) => many.insert(entry),
        }
    }

    pub(super) fn remove(&mut self, key: u32) -> Option<S> {
        match self {
            Self::Empty => None,
            Self::One(entry) if entry.key() == key => {
                let entry = *entry;
                *self = Self::Empty;
                Some(entry)
            }
            Self::One(_) => None,
            Self::Many(many) => {
                let entry = many.remove(key)?;
                if let [last] = many.entries[..] {
                    *self = Self::One(last);
                }
                Some(entry)
            }
        }
    }

    /// Bytes on the heap, without what the allocator adds.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Empty | Self::One(_) => 0,
            Self::Many(many) => {
                size_of::<Many<S>>()
                    + many.entries.capacity() * size_of::<S>()
                    + many.positions.allocation_size()
            }
        }
    }
}

impl<S: Subscriber> Many<S> {
    fn is_searched(&self) -> bool {
        self.positions.is_empty()
    }

    fn position(&self, key: u32) -> Option<usize> {
        if self.is_searched() {
            return self.entries.iter().position(|entry| entry.key() == key);
        }
        let at = |at: &u32| self.entries[*at as usize].key() == key;
        self.positions
            .find(key_hash(key), at)
            .map(|at| *at as usize)
    }

    fn insert(&mut self, entry: S) -> Option<S> {
        if let Some(at) = self.position(entry.key()) {
            return Some(std::mem::replace(&mut self.entries[at], entry));
        }
        self.entries.push(entry);
        let entries = &self.entries;
        let hash_at = |at: &u32| key_hash(entries[*at as usize].key());
        if !self.positions.is_empty() {
            let at = position_u32(entries.len() - 1);
            self.positions
                .insert_unique(key_hash(entry.key()), at, hash_at);
        } else if entries.len() > SEARCHED_ENTRIES_MAX {
            for (at, entry) in entries.iter().enumerate() {
                self.positions
                    .insert_unique(key_hash(entry.key()), position_u32(at), hash_at);
            }
        }
        None
    }

    fn remove(&mut self, key: u32) -> Option<S> {
        let at = self.position(key)?;
        if !self.is_searched() {
            let last = self.entries.len() - 1;
            let last_key = self.entries[last].key();
            self.forget_position(key, at);
            if at != last {
                self.forget_position(last_key, last);
                let entries = &self.entries;
                // The entry of `last_key` is about to be at `at`; every other position is still
                // true.
                self.positions
                    .insert_unique(key_hash(last_key), position_u32(at), |at| {
                        key_hash(entries[*at as usize].key())
                    });
            }
        }
        let entry = self.entries.swap_remove(at);
        self.give_back();
        Some(entry)
    }

    fn forget_position(&mut self, key: u32, at: usize) {
        let at = position_u32(at);
        self.positions
            .find_entry(key_hash(key), |found| *found == at)
            .expect("every entry of a long list has its position in the table")
            .remove();
    }

    /// Returns memory when the list has become much shorter than it was.
    fn give_back(&mut self) {
        let count = self.entries.len();
        if count <= SEARCHED_ENTRIES_MAX / 2 {
            self.positions = HashTable::new();
        }
        if count >= 2 && self.entries.capacity() / 4 >= count {
            self.entries.shrink_to(count * 2);
            let entries = &self.entries;
            let hash_at = |at: &u32| key_hash(entries[*at as usize].key());
            if !self.positions.is_empty() {
                self.positions.shrink_to(count * 2, hash_at);
            }
        }
    }
}

/// Keys are numbers we hand out, not text a Client chose: no secret is needed, only a spread to
/// both ends.
fn key_hash(key: u32) -> u64 {
    let product = u64::from(key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}

fn position_u32(at: usize) -> u32 {
    u32::try_from(at).expect("a list has at most one entry per u32 key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Entry(u32, u32);

    impl Subscriber for Entry {
        fn key(&self) -> u32 {
            self.0
        }
    }

    fn assert_equal(list: &KeyedList<Entry>, model: &BTreeMap<u32, u32>) {
        let mut entries: Vec<_> = list
            .as_slice()
            .iter()
            .map(|entry| (entry.0, entry.1))
            .collect();
        entries.sort_unstable();
        assert_eq!(
            entries,
            model
                .iter()
                .map(|(key, value)| (*key, *value))
                .collect::<Vec<_>>()
        );
        for key in 0..64 {
            assert_eq!(
                list.get(key).map(|entry| entry.1),
                model.get(&key).copied(),
                "key {key}"
            );
        }
    }

    #[test]
    fn agrees_with_a_map_while_it_grows_and_shrinks_across_every_representation() {
        let mut list = KeyedList::Empty;
        let mut model = BTreeMap::new();
        let mut random = 1_u64;
        for step in 0..20_000_u32 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let key = (random >> 33) as u32 % 64;
            // Long stretches of mostly adding, then mostly removing.
            let adds = (step / 500) % 2 == 0;
            if ((random >> 60) > 3) == adds {
                assert_eq!(
                    list.insert(Entry(key, step)).map(|old| old.1),
                    model.insert(key, step)
                );
            } else {
                assert_eq!(list.remove(key).map(|old| old.1), model.remove(&key));
            }
            assert_equal(&list, &model);
            assert_eq!(list.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn a_long_list_gives_its_memory_back() {
        let mut list = KeyedList::Empty;
        for key in 0..10_000 {
            assert_eq!(list.insert(Entry(key, key)), None);
        }
        let full = list.heap_bytes();
        for key in 2..10_000 {
            assert_eq!(list.remove(key), Some(Entry(key, key)));
        }
        assert_eq!(list.count(), 2);
        assert!(list.heap_bytes() < full / 100);
        assert_eq!(list.remove(0), Some(Entry(0, 0)));
        assert_eq!(list.heap_bytes(), 0);
    }
}

//! A map from Topic Filters to values that finds every filter that matches a topic.
//!
//! A filter without wildcards is found by one probe with the hash of the whole topic. Filters with
//! wildcards form a trie of levels: nodes in one vector, an only literal child, the `+` child and the
//! `#` filter as fields of the node, several literal children in one table keyed by parent and level. A match walks the trie one
//! level at a time over the list of nodes reached so far, so it costs what the *reached* nodes
//! cost, whatever else is stored, and needs neither recursion nor, once its two lists have grown,
//! an allocation.

use super::levels::{HashedIndex, PathHasher, levels, table_hash};
use super::text_arena::{TextArena, TextRef};
use hashbrown::HashTable;
use slab::Slab;
use std::cell::Cell;

/// A Topic Filter that has at least one subscriber on this core.
///
/// Valid from the first subscription to the filter until the last one ends; later the number may be
/// used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(pub u32);

/// No node, or no filter.
const NONE: u32 = u32::MAX;

/// The node of no levels. It always exists, and it has no parent.
const ROOT: u32 = 0;

/// A match that needed more room than this gives it back.
const SCRATCH_NODES_MAX: usize = 4_096;

pub(super) struct FilterMap<T> {
    hasher: PathHasher,
    filters: Slab<Filter<T>>,
    /// Filters without wildcards, by the hash of the whole text.
    exact: HashTable<HashedIndex>,
    nodes: Nodes,
    /// Literal edges of the trie, but for only children; the slot holds the child, which knows its parent and its level.
    edges: HashTable<HashedIndex>,
    texts: TextArena,
    scratch: Cell<Scratch>,
}

struct Filter<T> {
    place: Place,
    value: T,
}

/// The fields of a `TextRef` stand here apart, for then the whole has eight bytes.
enum Place {
    Exact { text_index: u32, text_bytes: u16 },
    Wildcard { node: u32, ends: Ends },
}

const _: () = assert!(size_of::<Place>() == 8);

/// How a filter with wildcards ends, relative to its node.
#[derive(Clone, Copy)]
enum Ends {
    /// At the node.
    Here,
    /// With `#` below the node.
    Below,
}

/// Nodes reached at one level and at the next; kept from match to match for their capacity.
#[derive(Default)]
struct Scratch {
    reached: Vec<u32>,
    next: Vec<u32>,
}

impl<T> FilterMap<T> {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            hasher: PathHasher::new(seed),
            filters: Slab::new(),
            exact: HashTable::new(),
            nodes: Nodes::new(),
            edges: HashTable::new(),
            texts: TextArena::new(),
            scratch: Cell::default(),
        }
    }

    pub(super) fn hasher(&self) -> &PathHasher {
        &self.hasher
    }

    pub(super) fn count(&self) -> usize {
        self.filters.len()
    }

    pub(super) fn get(&self, id: FilterId) -> Option<&T> {
        self.filters.get(id.0 as usize).map(|filter| &filter.value)
    }

    pub(super) fn get_mut(&mut self, id: FilterId) -> Option<&mut T> {
        self.filters
            .get_mut(id.0 as usize)
            .map(|filter| &mut filter.value)
    }

    /// The id of `filter`, which must be valid; it is added with the value that `make` returns when
    /// it is new.
    pub(super) fn find_or_insert(&mut self, filter: &str, make: impl FnOnce() -> T) -> FilterId {
        if has_wildcard(filter) {
            let (node, ends) = self.make_path(filter);
            let present = self.nodes.filter(node, ends);
            if present != NONE {
                return FilterId(present);
            }
            let id = self.add(Place::Wildcard { node, ends }, make());
            self.nodes.set_filter(node, ends, id);
            FilterId(id)
        } else {
            let hash = self.hasher.text(filter.as_bytes());
            if let Some(id) = self.find_exact(filter, hash) {
                return FilterId(id);
            }
            let TextRef {
                index: text_index,
                bytes: text_bytes,
            } = self.texts.insert(filter.as_bytes());
            let id = self.add(
                Place::Exact {
                    text_index,
                    text_bytes,
                },
                make(),
            );
            let slot = HashedIndex::new(hash, id);
            self.exact
                .insert_unique(slot.table_hash(), slot, HashedIndex::table_hash);
            FilterId(id)
        }
    }

    pub(super) fn find(&self, filter: &str) -> Option<FilterId> {
        if !has_wildcard(filter) {
            let hash = self.hasher.text(filter.as_bytes());
            return self.find_exact(filter, hash).map(FilterId);
        }
        let mut node = ROOT;
        let mut ends = Ends::Here;
        for level in levels(filter) {
            match level {
                b"#" => ends = Ends::Below,
                b"+" => node = self.nodes.at(node).plus,
                _ => node = self.find_child(node, level, &mut None).unwrap_or(NONE),
            }
            if node == NONE {
                return None;
            }
        }
        let id = self.nodes.filter(node, ends);
        (id != NONE).then_some(FilterId(id))
    }

    /// Removes a filter and returns its value; `None` when there is no such filter.
    pub(super) fn remove(&mut self, id: FilterId) -> Option<T> {
        let filter = self.filters.try_remove(id.0 as usize)?;
        match filter.place {
            Place::Exact {
                text_index: index,
                text_bytes: bytes,
            } => {
                let text = TextRef { index, bytes };
                let hash = table_hash(self.hasher.text(self.texts.get(text)));
                self.texts.remove(text);
                self.exact
                    .find_entry(hash, |slot| slot.index == id.0)
                    .expect("every exact filter is in the table")
                    .remove();
            }
            Place::Wildcard { node, ends } => {
                self.nodes.set_filter(node, ends, NONE);
                self.prune(node);
            }
        }
        Some(filter.value)
    }

    /// Appends the text of a filter to `out`; nothing when there is no such filter.
    pub(super) fn text(&self, id: FilterId, out: &mut String) {
        let Some(filter) = self.filters.get(id.0 as usize) else {
            return;
        };
        match filter.place {
            Place::Exact {
                text_index: index,
                text_bytes: bytes,
            } => {
                let text = std::str::from_utf8(self.texts.get(TextRef { index, bytes }));
                out.push_str(text.expect("copied from a str"));
            }
            Place::Wildcard { node, ends } => self.nodes.path(node, ends, out),
        }
    }

    /// Calls `f` for every filter that matches `topic`, each once, in an order that depends on the
    /// filters and on when they were added, not on the seed.
    pub(super) fn for_each_match(&self, topic: &str, mut f: impl FnMut(FilterId, &T)) {
        let mut found = |id: u32| f(FilterId(id), &self.filters[id as usize].value);
        if !self.exact.is_empty()
            && let Some(id) = self.find_exact(topic, self.hasher.text(topic.as_bytes()))
        {
            found(id);
        }
        if self.nodes.is_bare(ROOT) {
            return;
        }
        // `f` may come back here: it then finds an empty scratch and grows its own.
        let mut scratch = self.scratch.take();
        self.walk(topic, &mut scratch, &mut found);
        if scratch.reached.capacity().max(scratch.next.capacity()) > SCRATCH_NODES_MAX {
            scratch = Scratch::default();
        }
        self.scratch.set(scratch);
    }

    /// Bytes on the heap, without the values' own and without what the allocator adds.
    pub(super) fn heap_bytes(&self) -> usize {
        // A slab entry is as large as a filter when the filter has room for the slab's mark, as
        // ours have.
        self.filters.capacity() * size_of::<Filter<T>>()
            + self.texts.heap_bytes()
            + self.exact.allocation_size()
            + self.edges.allocation_size()
            + self.nodes.heap_bytes()
    }

    fn walk(&self, topic: &str, scratch: &mut Scratch, found: &mut impl FnMut(u32)) {
        let Scratch { reached, next } = scratch;
        reached.clear();
        reached.push(ROOT);
        // MQTT 5 §4.7.2: a wildcard as first level does not match a topic that begins with `$`.
        let mut wildcards_match = !topic.starts_with('$');
        for level in levels(topic) {
            let mut level_hash = None;
            next.clear();
            for &id in reached.iter() {
                let node = self.nodes.at(id);
                if wildcards_match {
                    if node.below != NONE {
                        found(node.below);
                    }
                    if node.plus != NONE {
                        next.push(node.plus);
                    }
                }
                if let Some(child) = self.find_child(id, level, &mut level_hash) {
                    next.push(child);
                }
            }
            if next.is_empty() {
                return;
            }
            wildcards_match = true;
            std::mem::swap(reached, next);
        }
        for &id in reached.iter() {
            let node = self.nodes.at(id);
            if node.here != NONE {
                found(node.here);
            }
            // MQTT 5 §4.7.1.2: `a/#` matches `a` too.
            if node.below != NONE {
                found(node.below);
            }
        }
    }

    fn add(&mut self, place: Place, value: T) -> u32 {
        index_u32(self.filters.insert(Filter { place, value }))
    }

    #[inline]
    fn find_exact(&self, filter: &str, hash: u64) -> Option<u32> {
        let is_it = |slot: &HashedIndex| {
            slot.may_be(hash)
                && match self.filters[slot.index as usize].place {
                    Place::Exact {
                        text_index: index,
                        text_bytes: bytes,
                    } => self.texts.get(TextRef { index, bytes }) == filter.as_bytes(),
                    Place::Wildcard { .. } => false,
                }
        };
        self.exact
            .find(table_hash(hash), is_it)
            .map(|slot| slot.index)
    }

    /// `level_hash` is the hash of the level once somebody has asked for it.
    #[inline]
    fn find_child(&self, parent: u32, level: &[u8], level_hash: &mut Option<u64>) -> Option<u32> {
        match self.nodes.at(parent).literals {
            Literals::None => None,
            Literals::Only(child) => {
                (self.nodes.level(self.nodes.at(child)) == level).then_some(child)
            }
            Literals::Several(_) => {
                let level_hash = level_hash.get_or_insert_with(|| self.hasher.text(level));
                let hash = self.hasher.edge(parent, *level_hash);
                let is_it = |slot: &HashedIndex| {
                    slot.may_be(hash) && {
                        let node = self.nodes.at(slot.index);
                        node.parent == parent && self.nodes.level(node) == level
                    }
                };
                self.edges
                    .find(table_hash(hash), is_it)
                    .map(|slot| slot.index)
            }
        }
    }

    /// The node where `filter` ends, with every node on the way.
    fn make_path(&mut self, filter: &str) -> (u32, Ends) {
        let mut node = ROOT;
        for level in levels(filter) {
            node = match level {
                b"#" => return (node, Ends::Below),
                b"+" => match self.nodes.at(node).plus {
                    NONE => {
                        let child = self.nodes.add(node, level);
                        self.nodes.at_mut(node).plus = child;
                        child
                    }
                    child => child,
                },
                _ => match self.find_child(node, level, &mut None) {
                    Some(child) => child,
                    None => self.add_literal(node, level),
                },
            };
        }
        (node, Ends::Here)
    }

    fn add_literal(&mut self, parent: u32, level: &[u8]) -> u32 {
        let child = self.nodes.add(parent, level);
        let literals = match self.nodes.at(parent).literals {
            Literals::None => Literals::Only(child),
            Literals::Only(first) => {
                self.insert_edge(first);
                self.insert_edge(child);
                Literals::Several(2)
            }
            Literals::Several(count) => {
                self.insert_edge(child);
                Literals::Several(count + 1)
            }
        };
        self.nodes.at_mut(parent).literals = literals;
        child
    }

    fn insert_edge(&mut self, child: u32) {
        let slot = HashedIndex::new(self.edge_hash(child), child);
        self.edges
            .insert_unique(slot.table_hash(), slot, HashedIndex::table_hash);
    }

    fn edge_hash(&self, child: u32) -> u64 {
        let node = self.nodes.at(child);
        let level_hash = self.hasher.text(self.nodes.level(node));
        self.hasher.edge(node.parent, level_hash)
    }

    /// Removes `node` and then its ancestors, as far as nothing is left at or below them.
    fn prune(&mut self, mut node: u32) {
        while node != ROOT && self.nodes.is_bare(node) {
            let parent = self.nodes.at(node).parent;
            if self.nodes.at(parent).plus == node {
                self.nodes.at_mut(parent).plus = NONE;
            } else {
                let literals = match self.nodes.at(parent).literals {
                    Literals::None => unreachable!("a node is a child of its parent"),
                    Literals::Only(_) => Literals::None,
                    Literals::Several(count) => {
                        let hash = table_hash(self.edge_hash(node));
                        self.edges
                            .find_entry(hash, |slot| slot.index == node)
                            .expect("one of several literal children has its edge in the table")
                            .remove();
                        if count == 1 {
                            Literals::None
                        } else {
                            Literals::Several(count - 1)
                        }
                    }
                };
                self.nodes.at_mut(parent).literals = literals;
            }
            self.nodes.remove(node);
            node = parent;
        }
    }
}

fn has_wildcard(filter: &str) -> bool {
    memchr::memchr2(b'+', b'#', filter.as_bytes()).is_some()
}

fn index_u32(index: usize) -> u32 {
    let index = u32::try_from(index).expect("memory ends before four thousand million entries");
    assert_ne!(index, NONE);
    index
}

/// The nodes of the trie, and a list of the free ones through their parents.
struct Nodes {
    nodes: Vec<Node>,
    free: u32,
    long_levels: TextArena,
}

struct Node {
    level: LevelText,
    parent: u32,
    /// The child for the level `+`.
    plus: u32,
    /// The filter that ends at this node.
    here: u32,
    /// The filter that ends with `#` below this node.
    below: u32,
    literals: Literals,
}

// The level that leads to a node stands in it, so checking an edge reads what the walk reads next.
const _: () = assert!(size_of::<Node>() == 40);

/// The children of a node for levels that are no wildcards.
#[derive(Clone, Copy)]
enum Literals {
    None,
    /// Most nodes below the first levels have one, which is found without the table.
    Only(u32),
    /// So many, in the table; there were more than one at some time.
    Several(u32),
}

/// The text of a level: in place when it is short, else where it stands.
struct LevelText {
    /// The length of a level in place, or `LONG_LEVEL`.
    bytes_or_long: u8,
    bytes: [u8; LEVEL_IN_PLACE_BYTES_MAX],
}

const LEVEL_IN_PLACE_BYTES_MAX: usize = 15;
const LONG_LEVEL: u8 = u8::MAX;

impl Nodes {
    fn new() -> Self {
        let mut nodes = Self {
            nodes: Vec::new(),
            free: NONE,
            long_levels: TextArena::new(),
        };
        let root = nodes.add(NONE, b"");
        assert_eq!(root, ROOT);
        nodes
    }

    #[inline]
    fn at(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }

    fn at_mut(&mut self, id: u32) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    #[inline]
    fn level<'a>(&'a self, node: &'a Node) -> &'a [u8] {
        let text = &node.level;
        if text.bytes_or_long == LONG_LEVEL {
            self.long_levels.get(text.long())
        } else {
            &text.bytes[..usize::from(text.bytes_or_long)]
        }
    }

    fn filter(&self, id: u32, ends: Ends) -> u32 {
        match ends {
            Ends::Here => self.at(id).here,
            Ends::Below => self.at(id).below,
        }
    }

    fn set_filter(&mut self, id: u32, ends: Ends, filter: u32) {
        match ends {
            Ends::Here => self.at_mut(id).here = filter,
            Ends::Below => self.at_mut(id).below = filter,
        }
    }

    /// Whether no filter ends at or below the node.
    fn is_bare(&self, id: u32) -> bool {
        let node = self.at(id);
        let has_literals = !matches!(node.literals, Literals::None);
        node.here == NONE && node.below == NONE && node.plus == NONE && !has_literals
    }

    fn add(&mut self, parent: u32, level: &[u8]) -> u32 {
        let level = self.keep_level(level);
        let node = Node {
            level,
            parent,
            plus: NONE,
            here: NONE,
            below: NONE,
            literals: Literals::None,
        };
        if self.free == NONE {
            let id = index_u32(self.nodes.len());
            self.nodes.push(node);
            id
        } else {
            let id = self.free;
            self.free = self.at(id).parent;
            *self.at_mut(id) = node;
            id
        }
    }

    fn remove(&mut self, id: u32) {
        assert_ne!(id, ROOT);
        let text = &self.at(id).level;
        if text.bytes_or_long == LONG_LEVEL {
            let long = text.long();
            self.long_levels.remove(long);
        }
        let free = self.free;
        let node = self.at_mut(id);
        node.level = LevelText::in_place(b"");
        node.parent = free;
        self.free = id;
    }

    fn keep_level(&mut self, level: &[u8]) -> LevelText {
        if level.len() <= LEVEL_IN_PLACE_BYTES_MAX {
            return LevelText::in_place(level);
        }
        LevelText::elsewhere(self.long_levels.insert(level))
    }

    fn path(&self, node: u32, ends: Ends, out: &mut String) {
        let mut nodes = Vec::new();
        let mut at = node;
        while at != ROOT {
            nodes.push(at);
            at = self.at(at).parent;
        }
        let start = out.len();
        let mut first = true;
        for &id in nodes.iter().rev() {
            if !first {
                out.push('/');
            }
            first = false;
            let level = std::str::from_utf8(self.level(self.at(id)));
            out.push_str(level.expect("a level is cut out of a str at separators"));
        }
        if let Ends::Below = ends {
            out.push_str(if first { "#" } else { "/#" });
        }
        assert!(out.len() > start);
    }

    fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.long_levels.heap_bytes()
    }
}

impl LevelText {
    fn in_place(level: &[u8]) -> Self {
        let mut bytes = [0; LEVEL_IN_PLACE_BYTES_MAX];
        bytes[..level.len()].copy_from_slice(level);
        let bytes_or_long = u8::try_from(level.len()).expect("a short level");
        Self {
            bytes_or_long,
            bytes,
        }
    }

    fn elsewhere(text: TextRef) -> Self {
        let mut bytes = [0; LEVEL_IN_PLACE_BYTES_MAX];
        bytes[..4].copy_from_slice(&text.index.to_ne_bytes());
        bytes[4..6].copy_from_slice(&text.bytes.to_ne_bytes());
        Self {
            bytes_or_long: LONG_LEVEL,
            bytes,
        }
    }

    fn long(&self) -> TextRef {
        let [a, b, c, d, e, f, ..] = self.bytes;
        TextRef {
            index: u32::from_ne_bytes([a, b, c, d]),
            bytes: u16::from_ne_bytes([e, f]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(map: &FilterMap<&'static str>, topic: &str) -> Vec<&'static str> {
        let mut found = Vec::new();
        map.for_each_match(topic, |_, text| found.push(*text));
        found.sort_unstable();
        found
    }

    #[test]
    fn a_removed_filter_leaves_no_node_edge_or_text_behind() {
        let filters = [
            "a/b",
            "a/+",
            "a/+/c",
            "#",
            "+",
            "+/#",
            "a/#",
            "/+/",
            "$x/+",
            "a-level-that-does-not-fit-in-place/+/another-level-that-does-not/#",
        ];
        let mut map = FilterMap::new(3);
        for round in 0..3 {
            let ids = filters.map(|filter| map.find_or_insert(filter, || filter));
            for (filter, id) in filters.iter().zip(ids) {
                assert_eq!(map.find(filter), Some(id));
                let mut text = String::new();
                map.text(id, &mut text);
                assert_eq!(text, *filter);
            }
            assert_eq!(map.count(), filters.len());
            for at in 0..filters.len() {
                let at = (at + round) % filters.len();
                assert_eq!(map.remove(ids[at]), Some(filters[at]));
                assert_eq!(map.find(filters[at]), None);
                assert_eq!(map.remove(ids[at]), None);
            }
            assert!(map.nodes.is_bare(ROOT));
            assert!(map.edges.is_empty());
            assert!(map.exact.is_empty());
            assert_eq!((map.texts.count(), map.nodes.long_levels.count()), (0, 0));
        }
        let node_count = map.nodes.nodes.len();
        assert!(
            node_count < 20,
            "free nodes are used again, not added to: {node_count}"
        );
    }

    #[test]
    fn each_match_is_found_once() {
        let mut map = FilterMap::new(0);
        for filter in [
            "a", "a/#", "+/#", "#", "+", "a/+", "a/b", "$x/#", "a//b", "a/+/b",
        ] {
            map.find_or_insert(filter, || filter);
        }
        assert_eq!(matching(&map, "a"), ["#", "+", "+/#", "a", "a/#"]);
        assert_eq!(matching(&map, "a/b"), ["#", "+/#", "a/#", "a/+", "a/b"]);
        assert_eq!(matching(&map, "a//b"), ["#", "+/#", "a/#", "a/+/b", "a//b"]);
        assert_eq!(matching(&map, "$x"), ["$x/#"]);
        assert_eq!(matching(&map, "$y/b"), [""; 0]);
    }

    #[test]
    fn a_callback_may_match_again() {
        let mut map = FilterMap::new(0);
        map.find_or_insert("+/x", || "+/x");
        map.find_or_insert("a/#", || "a/#");
        let mut inner_count = 0;
        map.for_each_match("a/x", |_, _| {
            map.for_each_match("a/x", |_, _| inner_count += 1)
        });
        assert_eq!(inner_count, 4);
    }

    #[test]
    fn the_deepest_filters_are_added_matched_read_and_removed_without_recursion() {
        let separators = "/".repeat(65_535);
        let deep = [
            "+/".repeat(32_767) + "#",
            "/".repeat(65_534) + "+",
            "+".to_string() + &"/".repeat(65_534),
        ];
        let mut map = FilterMap::new(1);
        let ids: Vec<_> = deep
            .iter()
            .map(|filter| map.find_or_insert(filter, || ""))
            .collect();
        let mut count = 0;
        map.for_each_match(&separators, |_, _| count += 1);
        // The last two have 65,535 levels; the topic has 65,536.
        assert_eq!(count, 1);
        map.for_each_match(&separators[1..], |_, _| count += 1);
        assert_eq!(count, 4);
        for (filter, id) in deep.iter().zip(ids) {
            let mut text = String::new();
            map.text(id, &mut text);
            assert_eq!(text, *filter);
            assert!(map.remove(id).is_some());
        }
        assert!(map.nodes.is_bare(ROOT));
    }
}

//! A map from Topic Filters to values that finds every filter that matches a topic.
//!
//! A filter without wildcards is found by one probe with the hash of the whole topic. Filters with
//! wildcards form a trie of levels: nodes in one vector, an only literal child, the `+` child and the
//! `#` filter as fields of the node, several literal children in one table keyed by parent and level. What only one filter has
//! below a node is no nodes but text, its *tail*: of filters that share their first levels alone, each costs one node. A match
//! walks the trie one level at a time over the list of nodes reached so far, so it costs what the *reached* nodes
//! cost, whatever else is stored, and needs neither recursion nor, once its two lists have grown,
//! an allocation.

mod ahead;

use super::filter::levels_match;
use super::levels::{HashedIndex, Levels, PathHasher, levels, levels_of, table_hash};
use super::nodes::{Below, Branch, Ends, Literals, NONE, Nodes, ROOT, index_u32};
use super::text_arena::{TextArena, TextRef};
use ahead::Ahead;
use hashbrown::HashTable;
use slab::Slab;
use std::cell::Cell;

/// A Topic Filter that has at least one subscriber on this core.
///
/// Valid from the first subscription to the filter until the last one ends; later the number may be
/// used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(pub u32);

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
    ahead: Cell<Ahead>,
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
            ahead: Cell::default(),
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
        let mut rest = levels(filter);
        let ends = loop {
            if let Some(tail) = self.nodes.tail(node) {
                if rest.rest() != Some(tail) {
                    return None;
                }
                break Ends::Tail;
            }
            match rest.next() {
                None => break Ends::Here,
                Some(b"#") => break Ends::Below,
                Some(level) => node = self.child(node, level)?,
            }
        };
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
                match ends {
                    Ends::Here | Ends::Below => self.nodes.set_filter(node, ends, NONE),
                    Ends::Tail => drop(self.nodes.take_tail(node)),
                }
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
        let mut rest = levels(topic);
        loop {
            let from_here = rest.clone();
            let Some(level) = rest.next() else { break };
            let mut level_hash = None;
            next.clear();
            for &id in reached.iter() {
                let branch = match &self.nodes.at(id).below {
                    Below::Branch(branch) => branch,
                    Below::Tail { filter, text } => {
                        let tail = levels_of(text.get(&self.nodes.texts));
                        if levels_match(tail, from_here.clone()) {
                            found(*filter);
                        }
                        continue;
                    }
                };
                if wildcards_match {
                    if branch.hash != NONE {
                        found(branch.hash);
                    }
                    if branch.plus != NONE {
                        next.push(branch.plus);
                    }
                }
                if let Some(child) = self.literal_child(id, branch, level, &mut level_hash) {
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
            // A tail wants at least one more level.
            let Below::Branch(branch) = &self.nodes.at(id).below else {
                continue;
            };
            if branch.here != NONE {
                found(branch.here);
            }
            // MQTT 5 §4.7.1.2: `a/#` matches `a` too.
            if branch.hash != NONE {
                found(branch.hash);
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

    /// The child of `parent`, which has no tail, for a level of a filter that is not `#`.
    fn child(&self, parent: u32, level: &[u8]) -> Option<u32> {
        let branch = self.nodes.branch(parent);
        if level == b"+" {
            return (branch.plus != NONE).then_some(branch.plus);
        }
        self.literal_child(parent, branch, level, &mut None)
    }

    /// `level_hash` is the hash of the level once somebody has asked for it.
    #[inline]
    fn literal_child(
        &self,
        parent: u32,
        branch: &Branch,
        level: &[u8],
        level_hash: &mut Option<u64>,
    ) -> Option<u32> {
        match branch.literals {
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

    /// Where `filter` ends, with every node on the way.
    fn make_path(&mut self, filter: &str) -> (u32, Ends) {
        let mut node = ROOT;
        let mut rest = levels(filter);
        loop {
            if let Some(tail) = self.nodes.tail(node) {
                if rest.rest() == Some(tail) {
                    return (node, Ends::Tail);
                }
                node = self.unfold(node, &mut rest);
            }
            let mut after = rest.clone();
            let child = match after.next() {
                None | Some(b"#") => None,
                Some(level) => self.child(node, level),
            };
            let Some(child) = child else {
                return self.hang(node, rest);
            };
            node = child;
            rest = after;
        }
    }

    /// Makes nodes of what the tail of `node` has in common with `rest`, which it is not equal to, and goes along them. Returns
    /// the node where the two part.
    fn unfold(&mut self, mut node: u32, rest: &mut Levels<'_>) -> u32 {
        let (filter, text) = self.nodes.take_tail(node);
        let mut tail = levels_of(&text);
        loop {
            let (mut tail_after, mut rest_after) = (tail.clone(), rest.clone());
            let level = tail_after.next();
            if level != rest_after.next() {
                break;
            }
            node = self.add_child(node, level.expect("they differ somewhere"));
            (tail, *rest) = (tail_after, rest_after);
        }
        let (end, ends) = self.hang(node, tail);
        self.nodes.set_filter(end, ends, filter);
        self.filters[filter as usize].place = Place::Wildcard { node: end, ends };
        node
    }

    /// Gives a filter its end, of which `rest` is left below `node`, where nothing begins with its first level.
    fn hang(&mut self, node: u32, mut rest: Levels<'_>) -> (u32, Ends) {
        let end = match rest.rest() {
            None | Some(b"#") => node,
            Some(_) => self.add_child(node, rest.next().expect("looked at")),
        };
        let ends = match rest.rest() {
            None => Ends::Here,
            Some(b"#") => Ends::Below,
            Some(tail) => {
                self.nodes.set_tail(end, tail);
                Ends::Tail
            }
        };
        (end, ends)
    }

    fn add_child(&mut self, parent: u32, level: &[u8]) -> u32 {
        let child = self.nodes.add(parent, level);
        if level == b"+" {
            self.nodes.branch_mut(parent).plus = child;
            return child;
        }
        let literals = match self.nodes.branch(parent).literals {
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
        self.nodes.branch_mut(parent).literals = literals;
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
            if self.nodes.branch(parent).plus == node {
                self.nodes.branch_mut(parent).plus = NONE;
            } else {
                let literals = match self.nodes.branch(parent).literals {
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
                self.nodes.branch_mut(parent).literals = literals;
            }
            self.nodes.remove(node);
            node = parent;
        }
    }
}

fn has_wildcard(filter: &str) -> bool {
    memchr::memchr2(b'+', b'#', filter.as_bytes()).is_some()
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
            assert_eq!((map.texts.count(), map.nodes.texts.count()), (0, 0));
        }
        let node_count = map.nodes.count();
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
    fn what_one_filter_has_alone_is_a_tail_until_another_shares_it() {
        let mut map = FilterMap::new(0);
        let add = |map: &mut FilterMap<&'static str>, filter| {
            let before = map.nodes.count();
            let id = map.find_or_insert(filter, || filter);
            (id, map.nodes.count() - before)
        };
        // `a`, with the rest as its tail; in place, and elsewhere.
        let (long, made) = add(&mut map, "a/+/c/and-more-than-fits-in-place/#");
        assert_eq!(made, 1);
        assert_eq!(add(&mut map, "b/+/c").1, 1);
        assert_eq!(map.nodes.texts.count(), 1);
        // `+`, `c`, and what both have below it: a tail and `#`, which needs no node.
        assert_eq!(add(&mut map, "a/+/c/#").1, 3);
        // The same filter again finds the first one in its new place.
        assert_eq!(
            add(&mut map, "a/+/c/and-more-than-fits-in-place/#"),
            (long, 0)
        );
        // One is the beginning of the other: the shorter ends at a node, whichever came first.
        assert_eq!(add(&mut map, "b/+").1, 2);
        let (deeper, made) = add(&mut map, "b/+/c/d");
        assert_eq!(made, 1);
        assert_eq!(matching(&map, "a/x/c"), ["a/+/c/#"]);
        assert_eq!(
            matching(&map, "a/x/c/and-more-than-fits-in-place"),
            ["a/+/c/#", "a/+/c/and-more-than-fits-in-place/#"]
        );
        assert_eq!(matching(&map, "b/x/c"), ["b/+/c"]);
        assert_eq!(matching(&map, "b/x"), ["b/+"]);
        assert_eq!(matching(&map, "b"), [""; 0]);
        assert_eq!(map.remove(deeper), Some("b/+/c/d"));
        assert_eq!(map.find("b/+/c/d"), None);
        assert_eq!(map.find("b/+/c/d/e"), None);
        assert!(map.find("b/+/c").is_some());
        assert_eq!(
            map.remove(long),
            Some("a/+/c/and-more-than-fits-in-place/#")
        );
        assert_eq!(
            matching(&map, "a/x/c/and-more-than-fits-in-place"),
            ["a/+/c/#"]
        );
        assert_eq!(map.nodes.texts.count(), 0);
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

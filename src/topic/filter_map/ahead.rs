//! Reading ahead: what the matches of several topics will need, fetched into the cache for all of them at a time.
//!
//! In an index larger than the cache a match is a dozen reads. Each waits for memory, as long as some hundred
//! instructions take, and needs what the one before it has read. But the next topics are known, for their packets stand in the same buffer.
//! Here each step is done for all of them before the next one: these reads do not need each other, so a core waits for many at once.
//!
//! Nothing is kept but what the cache keeps; the matches go their own way behind it. So this may look at too much, where it believes
//! half of a hash, and at too little, where a topic is very deep or reaches very many nodes.

use super::super::levels::{HashedIndex, Levels, levels_of, table_hash};
use super::super::nodes::{Below, Literals, NONE, ROOT};
use super::super::text_arena::TextRef;
use super::{FilterMap, Place};
use crate::topic::AHEAD_MAX;
use std::hint::black_box;

/// Levels that are gone along.
const LEVELS_MAX: usize = 16;
/// Nodes of one level, of all topics.
const NODES_MAX: usize = AHEAD_MAX * 8;

/// Kept for its capacity.
#[derive(Default)]
pub(super) struct Ahead {
    /// The nodes at hand, each with the place of its topic; and those of the next level.
    reached: Vec<(u8, u32)>,
    next: Vec<(u8, u32)>,
    /// Hashes of the edges to look for, likewise.
    edges: Vec<(u8, u64)>,
    found: Vec<u32>,
}

impl<T> FilterMap<T> {
    /// Calls `look` for the value of each filter that matches one of `topics`, at most [`AHEAD_MAX`], and perhaps of others.
    pub(in crate::topic) fn read_ahead(&self, topics: &[&[u8]], mut look: impl FnMut(&T)) {
        assert!(topics.len() <= AHEAD_MAX);
        // `look` does not come back here; if it did, it would find this empty.
        let mut ahead = self.ahead.take();
        ahead.found.clear();
        if !self.exact.is_empty() {
            self.exact_ahead(topics, &mut ahead.found);
        }
        if !self.nodes.is_bare(ROOT) {
            self.walk_ahead(topics, &mut ahead);
        }
        for &id in &ahead.found {
            look(&self.filters[id as usize].value);
        }
        self.ahead.set(ahead);
    }

    fn exact_ahead(&self, topics: &[&[u8]], found: &mut Vec<u32>) {
        let mut hashes = [0; AHEAD_MAX];
        for (hash, topic) in hashes.iter_mut().zip(topics) {
            *hash = self.hasher.text(topic);
        }
        for &hash in &hashes[..topics.len()] {
            let is_it = |slot: &HashedIndex| slot.may_be(hash);
            let slot = self.exact.find(table_hash(hash), is_it);
            found.extend(slot.map(|slot| slot.index));
        }
        let mut read = 0;
        for &id in found.iter() {
            if let Place::Exact {
                text_index: index,
                text_bytes: bytes,
            } = self.filters[id as usize].place
            {
                read ^= self.texts.get(TextRef { index, bytes })[0];
            }
        }
        // The reads are what this is for.
        black_box(read);
    }

    fn walk_ahead(&self, topics: &[&[u8]], ahead: &mut Ahead) {
        let Ahead {
            reached,
            next,
            edges,
            found,
        } = ahead;
        let mut rests: [Levels<'_>; AHEAD_MAX] =
            std::array::from_fn(|at| levels_of(topics.get(at).copied().unwrap_or_default()));
        let mut read = 0;
        reached.clear();
        reached.extend((0..topics.len()).map(|topic| (topic as u8, ROOT)));
        for _ in 0..LEVELS_MAX {
            let levels: [Option<u64>; AHEAD_MAX] = std::array::from_fn(|at| {
                let level = (at < topics.len()).then(|| rests[at].next()).flatten();
                level.map(|level| self.hasher.text(level))
            });
            next.clear();
            edges.clear();
            for &(topic, id) in reached.iter() {
                let branch = match &self.nodes.at(id).below {
                    Below::Branch(branch) => branch,
                    Below::Tail { filter, .. } => {
                        found.push(*filter);
                        continue;
                    }
                };
                found.extend((branch.hash != NONE).then_some(branch.hash));
                let Some(level) = levels[usize::from(topic)] else {
                    found.extend((branch.here != NONE).then_some(branch.here));
                    continue;
                };
                if branch.plus != NONE {
                    next.push((topic, branch.plus));
                }
                match branch.literals {
                    Literals::None => {}
                    // Whether it is that level stands in the child.
                    Literals::Only(child) => next.push((topic, child)),
                    Literals::Several(_) => edges.push((topic, self.hasher.edge(id, level))),
                }
            }
            for &(topic, hash) in edges.iter() {
                let slot = self.edges.find(table_hash(hash), |slot| slot.may_be(hash));
                next.extend(slot.map(|slot| (topic, slot.index)));
            }
            next.truncate(NODES_MAX);
            for &(_, id) in next.iter() {
                read ^= self.nodes.at(id).parent;
            }
            std::mem::swap(reached, next);
            if reached.is_empty() {
                break;
            }
        }
        // The reads are what this is for.
        black_box(read);
    }
}

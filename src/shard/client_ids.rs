//! Which session a Client Identifier belongs to.
//!
//! A table that grows moves all it has, and reads the session of each for its hash: 45 ms for 100,000 clients, in which nobody is
//! served. So there are many tables. Each grows at a moment of its own, and moves little.

use crate::session::Session;
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use slab::Slab;
use std::hash::Hasher;

/// Tables; 2 KiB of them when they are empty.
const PARTS: usize = 64;

/// Keys into the sessions, by Client Identifier.
pub(super) struct ClientIds {
    seed: u64,
    parts: [HashTable<u32>; PARTS],
}

impl ClientIds {
    /// None yet, in an installation whose seed is `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            parts: [const { HashTable::new() }; PARTS],
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(HashTable::len).sum()
    }

    /// The session of a Client Identifier.
    pub(super) fn find(&self, sessions: &Slab<Session>, client_id: &str) -> Option<u32> {
        let hash = self.hash(client_id);
        let is_it = |key: &u32| *sessions[*key as usize].client_id == *client_id;
        self.parts[part(hash)].find(hash, is_it).copied()
    }

    /// Adds a session, which is the only one with its Client Identifier.
    pub(super) fn insert(&mut self, sessions: &Slab<Session>, key: u32) {
        let seed = self.seed;
        let hash_of = |key: &u32| hash(seed, &sessions[*key as usize].client_id);
        let hash = hash_of(&key);
        self.parts[part(hash)].insert_unique(hash, key, hash_of);
    }

    /// Removes a session.
    pub(super) fn remove(&mut self, client_id: &str, key: u32) {
        let hash = self.hash(client_id);
        self.parts[part(hash)]
            .find_entry(hash, |other| *other == key)
            .expect("every session is found by its Client Identifier")
            .remove();
    }

    /// The hash of a Client Identifier, which only this installation knows.
    pub(super) fn hash(&self, client_id: &str) -> u64 {
        hash(self.seed, client_id)
    }
}

/// Not by the bits that a table uses, which are the first and the last.
fn part(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

fn hash(seed: u64, client_id: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, !seed);
    hasher.write(client_id.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::QueueFullPolicy;

    #[test]
    fn everybody_is_found_and_no_table_has_much_more_than_its_share() {
        let mut sessions = Slab::new();
        let mut ids = ClientIds::new(5);
        let name = |n: usize| format!("sensor-{n}");
        for n in 0..20_000 {
            let session = Session::new(name(n).into(), QueueFullPolicy::DropOldest);
            let key = sessions.insert(session) as u32;
            ids.insert(&sessions, key);
        }
        let most = ids.parts.iter().map(HashTable::len).max();
        assert!(
            most.is_some_and(|most| most < 2 * 20_000 / PARTS),
            "{most:?}"
        );
        for n in (0..20_000).step_by(2) {
            let key = ids.find(&sessions, &name(n)).expect("it was added");
            ids.remove(&name(n), key);
            sessions.remove(key as usize);
        }
        assert_eq!(ids.len(), 10_000);
        for n in 0..20_000 {
            let found = ids.find(&sessions, &name(n));
            assert_eq!(found.is_some(), n % 2 == 1);
            assert!(found.is_none_or(|key| *sessions[key as usize].client_id == *name(n)));
        }
    }
}

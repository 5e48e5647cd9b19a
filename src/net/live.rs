//! What a running broker can be given anew: one value for all cores, replaced as a whole.
//!
//! The server puts a new [`Parts`] in place and wakes the cores; each notices at the start of its next turn, by one
//! number, and tells its shard. Connections that there are keep what they came in with: their door, and with it their
//! certificates. Limits hold for them too, except those they were told in CONNACK, which a reload leaves alone.

use super::admission::Admission;
use super::transport::Door;
use crate::access::RulesInForce;
use crate::config::limits::Limits;
use crate::heap;
use crate::mesh::wake::Wake;
use crate::shard::budget::MemoryLevel;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Everything that can be replaced together.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The bounds.
    pub limits: Arc<Limits>,
    /// The listeners with their lists and certificates; always as many as at the start, in that order.
    pub doors: Vec<Arc<Door>>,
    /// Who may publish and read what.
    pub rules: RulesInForce,
    /// The accounts that are no more: whom one of them let in has to go.
    pub withdrawn: Arc<BTreeSet<u64>>,
}

/// The parts in force, and how the cores learn of new ones.
#[derive(Debug)]
pub struct Live {
    /// Changes with every replacement.
    version: AtomicU64,
    parts: Mutex<Parts>,
    /// How short memory is, a `MemoryLevel`.
    memory: AtomicU8,
    memory_bytes_max: u64,
    admission: Arc<Admission>,
    wakes: Vec<Arc<Wake>>,
}

impl Live {
    /// The first parts, for the cores with these wakes. The seed is unknown to clients. More than `memory_bytes_max` of
    /// memory is too much.
    pub fn new(parts: Parts, wakes: Vec<Arc<Wake>>, hash_seed: u64, memory_bytes_max: u64) -> Self {
        Self {
            version: AtomicU64::new(0),
            admission: Arc::new(Admission::new(parts.doors.len(), hash_seed)),
            parts: Mutex::new(parts),
            memory: AtomicU8::new(MemoryLevel::Ample as u8),
            memory_bytes_max,
            wakes,
        }
    }

    /// Who is in, on all cores.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// How short memory is.
    pub fn memory(&self) -> MemoryLevel {
        MemoryLevel::from_u8(self.memory.load(Ordering::Relaxed))
    }

    /// Looks how short memory is, and wakes the cores if that has changed. Each core does it each turn, so that a flood is
    /// noticed before it is over.
    pub fn measure_memory(&self) -> MemoryLevel {
        let before = self.memory();
        let level = MemoryLevel::of(heap::bytes_in_use(), self.memory_bytes_max, before);
        if level != before {
            self.memory.store(level as u8, Ordering::Relaxed);
            self.wakes.iter().for_each(|wake| wake.wake());
        }
        level
    }

    /// The number of the parts in force; a core compares it with that of the parts it has.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The parts in force.
    pub fn parts(&self) -> Parts {
        // It is replaced as a whole, so a panic elsewhere leaves no half of it.
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.clone()
    }

    /// Replaces the parts and wakes all cores.
    ///
    /// Panics: when the number of doors changes.
    pub fn replace(&self, parts: Parts) {
        {
            let mut current = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(current.doors.len() == parts.doors.len());
            *current = parts;
        }
        self.version.fetch_add(1, Ordering::Release);
        self.wakes.iter().for_each(|wake| wake.wake());
    }
}

//! What is remembered for a while, because a record on its way may still need it.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem::take;
use std::time::{Duration, Instant};

/// A map that forgets: what was put into it is there for `span`, and for not much more than twice that; or until `count_max` others have
/// come, and not longer than twice as many.
///
/// It is two generations, and the older is dropped whole: nothing is searched for what is old, and a burst leaves no memory behind.
#[derive(Debug)]
pub(super) struct Remembered<K, V> {
    span: Duration,
    count_max: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// When the young began.
    turned_at: Instant,
}

impl<K: Eq + Hash, V> Remembered<K, V> {
    /// Remembers for `span` at least, unless there are `count_max` in that time.
    pub(super) fn new(span: Duration, count_max: usize) -> Self {
        Self {
            span,
            count_max,
            young: HashMap::new(),
            old: HashMap::new(),
            turned_at: Instant::now(),
        }
    }

    /// Remembers `value`, from now on.
    pub(super) fn insert(&mut self, key: K, value: V, now: Instant) {
        if self.young.len() >= self.count_max {
            self.turn(now);
        }
        self.young.insert(key, value);
    }

    /// What was remembered last.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Whether something is remembered.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Forgets it, and returns what was remembered last.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.old.remove(key);
        self.young.remove(key).or(old)
    }

    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let also_old = |key: &&K| self.old.contains_key(*key);
        self.young.len() + self.old.len() - self.young.keys().filter(also_old).count()
    }

    /// How many it has memory for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.young.capacity() + self.old.capacity()
    }

    /// Forgets what is older than it has to be. To be called now and then.
    pub(super) fn forget_old(&mut self, now: Instant) {
        if now.saturating_duration_since(self.turned_at) >= self.span {
            self.turn(now);
        }
    }

    fn turn(&mut self, now: Instant) {
        self.old = take(&mut self.young);
        self.turned_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_remembered_is_there_for_the_span_and_forgotten_after_twice_that() {
        let mut map = Remembered::new(SPAN, usize::MAX);
        let start = Instant::now() + SPAN;
        map.forget_old(start);
        map.insert(1, "one", start);
        map.forget_old(start + SPAN - Duration::from_secs(1));
        map.insert(2, "two", start);
        map.forget_old(start + SPAN);
        assert_eq!((map.get(&1), map.get(&2)), (Some(&"one"), Some(&"two")));
        // What is young goes before what is old, and is removed with it.
        map.insert(1, "another", start);
        assert_eq!(map.get(&1), Some(&"another"));
        assert_eq!(map.remove(&1), Some("another"));
        assert!(!map.contains(&1) && !map.is_empty());
        map.forget_old(start + 2 * SPAN);
        assert!(map.is_empty());
    }

    #[test]
    fn no_more_are_remembered_than_twice_the_count() {
        let now = Instant::now();
        let mut map = Remembered::new(SPAN, 100);
        for n in 0..1_050 {
            map.insert(n, n, now);
            assert!(map.len() <= 200 && map.contains(&n));
        }
        assert!((950..1_050).all(|n| map.contains(&n)));
        map.forget_old(now + SPAN);
        map.forget_old(now + 2 * SPAN);
        assert!(map.is_empty() && map.capacity() == 0);
    }
}

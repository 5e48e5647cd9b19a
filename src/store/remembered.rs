//! What is remembered for a while, because a record on its way may still need it.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem::take;
use std::time::{Duration, Instant};

/// A map that forgets: what was put into it is there for `span`, and for not much more than twice that.
///
/// It is two generations, and the older is dropped whole: nothing is searched for what is old, and a burst leaves no memory behind.
#[derive(Debug)]
pub(super) struct Remembered<K, V> {
    span: Duration,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    /// When the young began.
    turned_at: Instant,
}

impl<K: Eq + Hash, V> Remembered<K, V> {
    /// Remembers for `span` at least.
    pub(super) fn new(span: Duration) -> Self {
        Self {
            span,
            young: HashMap::new(),
            old: HashMap::new(),
            turned_at: Instant::now(),
        }
    }

    /// Remembers `value`, from now on.
    pub(super) fn insert(&mut self, key: K, value: V) {
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
        let mut map = Remembered::new(SPAN);
        let start = Instant::now() + SPAN;
        map.forget_old(start);
        map.insert(1, "one");
        map.forget_old(start + SPAN - Duration::from_secs(1));
        map.insert(2, "two");
        map.forget_old(start + SPAN);
        assert_eq!((map.get(&1), map.get(&2)), (Some(&"one"), Some(&"two")));
        // What is young goes before what is old, and is removed with it.
        map.insert(1, "another");
        assert_eq!(map.get(&1), Some(&"another"));
        assert_eq!(map.remove(&1), Some("another"));
        assert!(!map.contains(&1) && !map.is_empty());
        map.forget_old(start + 2 * SPAN);
        assert!(map.is_empty());
    }
}

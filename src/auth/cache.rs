//! What was found right once and need not be computed again.

use ring::hmac;
use std::collections::HashMap;
use std::mem::{replace, take};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The tag of credentials, under a key that is made anew by every process: a memory dump is no list of passwords.
pub type Tag = [u8; 32];

/// Makes tags.
#[derive(Debug)]
pub struct Tagger(hmac::Key);

impl Tagger {
    /// With 32 random bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The tag of these parts; equal only for equal parts in the same order.
    pub fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let tag = context.sign();
        *tag.as_ref()
            .first_chunk()
            .expect("HMAC-SHA-256 has 32 bytes")
    }
}

/// A bounded map from tags to what they proved.
///
/// Two generations: when the young one is full it becomes the old one, whose entries go unless they are asked for again.
#[derive(Debug)]
pub struct Cache<T> {
    generations: Mutex<Generations<T>>,
    per_generation_max: usize,
}

#[derive(Debug)]
struct Generations<T> {
    young: HashMap<Tag, (T, Option<Instant>)>,
    old: HashMap<Tag, (T, Option<Instant>)>,
}

impl<T: Clone> Cache<T> {
    /// For at most `entries_max` tags.
    pub fn new(entries_max: usize) -> Self {
        Self {
            generations: Mutex::new(Generations {
                young: HashMap::new(),
                old: HashMap::new(),
            }),
            per_generation_max: entries_max.div_ceil(2),
        }
    }

    /// What is known of a tag, if that holds at `now`.
    pub fn get(&self, tag: &Tag, now: Instant) -> Option<T> {
        let mut generations = self.lock();
        let holds = |(_, until): &(T, Option<Instant>)| until.is_none_or(|until| now < until);
        if let Some(entry) = generations.young.get(tag) {
            return holds(entry).then(|| entry.0.clone());
        }
        let entry = generations.old.remove(tag).filter(holds)?;
        let value = entry.0.clone();
        self.put(&mut generations, *tag, entry);
        Some(value)
    }

    /// Remembers what a tag proves, until `until` if given.
    pub fn insert(&self, tag: Tag, value: T, until: Option<Instant>) {
        self.put(&mut self.lock(), tag, (value, until));
    }

    fn put(&self, generations: &mut Generations<T>, tag: Tag, entry: (T, Option<Instant>)) {
        if generations.young.len() >= self.per_generation_max {
            let young = take(&mut generations.young);
            drop(replace(&mut generations.old, young));
        }
        generations.young.insert(tag, entry);
    }

    fn lock(&self) -> MutexGuard<'_, Generations<T>> {
        // Each change is one insertion or removal.
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tags_tell_parts_apart() {
        let tagger = Tagger::new(&[1; 32]);
        assert_eq!(tagger.tag(&[b"ab", b"c"]), tagger.tag(&[b"ab", b"c"]));
        assert_ne!(tagger.tag(&[b"ab", b"c"]), tagger.tag(&[b"a", b"bc"]));
        assert_ne!(tagger.tag(&[b"ab", b"c"]), tagger.tag(&[b"ab", b"c", b""]));
        let other = Tagger::new(&[2; 32]);
        assert_ne!(tagger.tag(&[b"a"]), other.tag(&[b"a"]));
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let cache = Cache::new(100);
        let now = Instant::now();
        let tag = |n: u32| {
            let mut tag = [0; 32];
            tag[..4].copy_from_slice(&n.to_le_bytes());
            tag
        };
        cache.insert(tag(0), 0, None);
        for n in 1..1_000 {
            cache.insert(tag(n), n, None);
            assert_eq!(cache.get(&tag(0), now), Some(0), "{n}");
            assert_eq!(cache.get(&tag(n), now), Some(n));
        }
        let held = (0..1_000).filter(|n| cache.get(&tag(*n), now).is_some());
        assert!(held.count() <= 100);
    }

    #[test]
    fn it_forgets_in_time() {
        let cache = Cache::new(10);
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        cache.insert([0; 32], (), Some(until));
        assert!(cache.get(&[0; 32], now).is_some());
        assert!(cache.get(&[0; 32], until).is_none());
    }
}

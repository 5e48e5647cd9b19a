//! The non-shared subscriptions of one core: which sessions of this core want a topic.
//!
//! Cost: a match is one probe for filters without wildcards, and for the others a walk over the
//! trie nodes that the topic reaches; neither depends on how many other subscriptions there are.
//! Subscribing and unsubscribing cost one probe (or one walk of the filter's levels) and O(1) in
//! the filter's subscribers, so ending 100,000 subscriptions of one filter is linear. The *caller*
//! bounds `level_count` of wildcard filters: each new level of one may be a node of about 60 bytes.

use super::LARGE_MIN;
pub use super::filter_map::FilterId;
use super::filter_map::FilterMap;
use super::keyed_list::KeyedList;

/// What the index keeps for one subscriber of one filter, such as a session and its Subscription
/// Options.
pub trait Subscriber: Copy {
    /// Who this is; a filter has at most one entry per key.
    fn key(&self) -> u32;

    /// Whether what it has to get is to be stored; always the same for one key.
    fn is_stored(&self) -> bool {
        false
    }
}

/// The subscriptions of one core.
///
/// Memory: about 75 to 100 bytes for a filter of 30 bytes with one subscriber of 12 bytes.
pub struct Index<S: Subscriber> {
    filters: FilterMap<KeyedList<S>>,
    subscription_count: usize,
    list_bytes: usize,
}

/// What [`Index::subscribe`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed<S> {
    /// The filter, for `unsubscribe_id`.
    pub filter_id: FilterId,
    /// The entry that had this key before: an equal filter replaces it (MQTT 5 §3.8.4).
    pub replaced: Option<S>,
    /// Whether the filter had no subscriber on this core before.
    pub first: bool,
}

/// What [`Index::unsubscribe`] removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribed<S> {
    /// The filter; when `last`, it is no longer valid.
    pub filter_id: FilterId,
    /// The entry that was removed.
    pub entry: S,
    /// Whether the filter has no subscriber on this core any more.
    pub last: bool,
}

impl<S: Subscriber> Index<S> {
    /// An empty index whose hashes are keyed by `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            filters: FilterMap::new(seed),
            subscription_count: 0,
            list_bytes: 0,
        }
    }

    /// Adds `entry` to the subscribers of `filter`, or replaces the one with the same key.
    ///
    /// `filter` is what `TopicFilter::filter` returns: valid, without `$share/NAME/`.
    /// Spec: MQTT 5 §3.8.4.
    pub fn subscribe(&mut self, filter: &str, entry: S) -> Subscribed<S> {
        let filter_id = self.filters.find_or_insert(filter, || KeyedList::Empty);
        let list = self
            .filters
            .get_mut(filter_id)
            .expect("found or inserted just now");
        let first = list.is_empty();
        let bytes_before = list.heap_bytes();
        let replaced = list.insert(entry);
        self.list_bytes = self.list_bytes - bytes_before + list.heap_bytes();
        self.subscription_count += usize::from(replaced.is_none());
        Subscribed {
            filter_id,
            replaced,
            first,
        }
    }

    /// Removes the subscription of `key` to `filter`; `None` when there is none.
    pub fn unsubscribe(&mut self, filter: &str, key: u32) -> Option<Unsubscribed<S>> {
        let filter_id = self.find(filter)?;
        self.unsubscribe_id(filter_id, key)
    }

    /// Removes the subscription of `key` to the filter `filter_id`; `None` when there is none.
    pub fn unsubscribe_id(&mut self, filter_id: FilterId, key: u32) -> Option<Unsubscribed<S>> {
        let list = self.filters.get_mut(filter_id)?;
        let bytes_before = list.heap_bytes();
        let entry = list.remove(key)?;
        self.list_bytes = self.list_bytes - bytes_before + list.heap_bytes();
        self.subscription_count -= 1;
        let last = list.is_empty();
        if last {
            self.filters.remove(filter_id);
        }
        Some(Unsubscribed {
            filter_id,
            entry,
            last,
        })
    }

    /// The id of `filter`, when it has a subscriber.
    pub fn find(&self, filter: &str) -> Option<FilterId> {
        self.filters.find(filter)
    }

    /// The entry of `key` among the subscribers of `filter_id`.
    pub fn get(&self, filter_id: FilterId, key: u32) -> Option<&S> {
        self.filters.get(filter_id)?.get(key)
    }

    /// Appends the text of a filter to `out`; nothing when it has no subscriber.
    pub fn filter_text(&self, filter_id: FilterId, out: &mut String) {
        self.filters.text(filter_id, out);
    }

    /// Calls `f` for every filter that matches `topic`, once, with all its subscribers.
    ///
    /// A subscriber with several matching filters is among those of each (MQTT 5 §3.3.4).
    /// Order: the same after the same operations, whatever the seed.
    pub fn for_each_filter(&self, topic: &str, mut f: impl FnMut(FilterId, &[S])) {
        self.filters
            .for_each_match(topic, |id, list| f(id, list.as_slice()));
    }

    /// Fetches what matches of `topics`, at most [`AHEAD_MAX`](super::AHEAD_MAX), will need into the cache, and calls `look` for the first subscriber of each
    /// filter that one of them matches, and perhaps for others.
    ///
    /// It changes nothing, and pays only where [`Index::is_large`].
    pub fn read_ahead(&self, topics: &[&[u8]], mut look: impl FnMut(&S)) {
        self.filters.read_ahead(topics, |list| {
            if let Some(first) = list.as_slice().first() {
                look(first);
            }
        });
    }

    /// Whether the index is larger than the cache of a core, so that reading ahead pays.
    pub fn is_large(&self) -> bool {
        self.filters.count() >= LARGE_MIN
    }

    /// Subscriptions: pairs of a filter and a subscriber.
    pub fn subscription_count(&self) -> usize {
        self.subscription_count
    }

    /// Distinct filters.
    pub fn filter_count(&self) -> usize {
        self.filters.count()
    }

    /// Bytes on the heap, reserved capacity included, without what the allocator adds to each
    /// allocation.
    pub fn memory_bytes(&self) -> usize {
        self.filters.heap_bytes() + self.list_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Entry {
        key: u32,
        options: u32,
    }

    impl Subscriber for Entry {
        fn key(&self) -> u32 {
            self.key
        }
    }

    fn entry(key: u32, options: u32) -> Entry {
        Entry { key, options }
    }

    fn matching(index: &Index<Entry>, topic: &str) -> Vec<(String, u32)> {
        let mut found = Vec::new();
        index.for_each_filter(topic, |id, entries| {
            let mut text = String::new();
            index.filter_text(id, &mut text);
            found.extend(entries.iter().map(|entry| (text.clone(), entry.key)));
        });
        found
    }

    #[test]
    fn an_equal_filter_replaces_the_entry() {
        let mut index = Index::new(0);
        let added = index.subscribe("a/+", entry(1, 0));
        assert_eq!((added.replaced, added.first), (None, true));
        let replaced = index.subscribe("a/+", entry(1, 2));
        assert_eq!(
            (replaced.replaced, replaced.first),
            (Some(entry(1, 0)), false)
        );
        assert_eq!(replaced.filter_id, added.filter_id);
        assert_eq!((index.subscription_count(), index.filter_count()), (1, 1));
        assert_eq!(index.get(added.filter_id, 1), Some(&entry(1, 2)));
    }

    #[test]
    fn the_last_unsubscribe_removes_the_filter() {
        let mut index = Index::new(0);
        let id = index.subscribe("a/#", entry(1, 0)).filter_id;
        index.subscribe("a/#", entry(2, 0));
        assert_eq!(index.unsubscribe("a/#", 3), None);
        assert_eq!(index.unsubscribe("a/+", 1), None);
        let gone = index.unsubscribe("a/#", 1).expect("subscribed");
        assert_eq!(
            (gone.filter_id, gone.entry, gone.last),
            (id, entry(1, 0), false)
        );
        let gone = index.unsubscribe_id(id, 2).expect("subscribed");
        assert!(gone.last);
        assert_eq!(index.unsubscribe_id(id, 2), None);
        assert_eq!(index.find("a/#"), None);
        assert_eq!((index.subscription_count(), index.filter_count()), (0, 0));
    }

    #[test]
    fn the_order_of_matches_does_not_depend_on_the_seed() {
        let found = [0, 1, u64::MAX].map(|seed| {
            let mut index = Index::new(seed);
            for (key, filter) in ["a/b", "+/b", "a/+", "#", "a/#", "+/#"].iter().enumerate() {
                for key in [key as u32, 100, 7] {
                    index.subscribe(filter, entry(key, 0));
                }
            }
            index.unsubscribe("+/b", 100);
            matching(&index, "a/b")
        });
        assert_eq!(found[0].len(), 17);
        assert_eq!(found[0], found[1]);
        assert_eq!(found[0], found[2]);
    }

    #[test]
    fn a_mass_disconnect_is_linear() {
        // At O(n) per removal this would move 40 GB, and the test would take many seconds instead
        // of a blink.
        let mut index = Index::new(0);
        let count = 100_000;
        for key in 0..count {
            index.subscribe("all/#", entry(key, 0));
        }
        assert_eq!(index.subscription_count(), count as usize);
        let id = index.find("all/#").expect("subscribed");
        for key in 0..count {
            let gone = index.unsubscribe_id(id, key).expect("subscribed");
            assert_eq!(gone.last, key + 1 == count);
        }
        assert_eq!(index.list_bytes, 0);
    }
}

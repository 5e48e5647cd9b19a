//! Retained messages: every core holds them all, in topic order, and all cores agree.
//!
//! Each change carries a [`Stamp`]; the greatest stamp of a topic wins on every core, whatever the
//! order in which changes arrive. A cleared topic leaves a tombstone with its stamp, so that an
//! older message that is still on its way does not come back.
//!
//! Topics are in level order (a topic, everything below it, its next sibling), so a filter's
//! matches lie in runs. A scan jumps from run to run: what it costs follows from the matches and
//! the jumps, not from how much is retained. It runs in slices; between two of them anything may
//! change.
//!
//! Spec: MQTT 5 §3.3.1.3, §3.8.4.

use super::levels::{HashedIndex, PathHasher, table_hash};
use super::ordered::{Ordered, Position, Slot};
use hashbrown::HashTable;
use slab::Slab;
use std::collections::VecDeque;

/// A handle of a retained message; a clone shares the message.
pub trait RetainedEntry: Clone {
    /// The Topic Name the message was published to.
    fn topic(&self) -> &str;
    /// The bytes of [`RetainedEntry::topic`], for comparing: a handle that has to check UTF-8 to
    /// return a `str` should return its bytes here without.
    fn topic_bytes(&self) -> &[u8] {
        self.topic().as_bytes()
    }
    /// What the message counts for in [`Retained::bytes`].
    fn bytes(&self) -> usize;
}

/// When a change was made, and on which core: hybrid time in the upper bits, the core in the lowest
/// six.
///
/// The greater stamp wins everywhere. Two changes never have the same stamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

/// Hands out stamps of one core, each greater than every stamp handed out or observed before.
#[derive(Clone, Copy, Debug)]
pub struct StampClock {
    core: u8,
    last: Stamp,
}

const STAMP_CORE_BITS: u32 = 6;
const STAMP_COUNT_BITS: u32 = 10;

/// How long a tombstone is kept, in milliseconds; far longer than a change is on its way between
/// cores.
pub const TOMBSTONE_KEPT_MS: u64 = 60_000;

/// How many tombstones are kept; beyond that the oldest go early.
///
/// Clearing topics that never existed must not fill the memory: this many cost about 30 MB.
pub const TOMBSTONES_MAX: usize = 250_000;

/// Bytes of topic that a scan looks at for one unit of its budget.
const VISIT_BYTES: usize = 256;

/// The retained messages, as one core sees them.
///
/// Memory: about 30 bytes for a message whose handle has 16, beside the message itself.
pub struct Retained<M: RetainedEntry> {
    messages: Ordered<M>,
    bytes: usize,
    hasher: PathHasher,
    tombstones: Slab<Tombstone>,
    tombstones_by_topic: HashTable<HashedIndex>,
    /// Tombstones from oldest to newest; one that was dug up or renewed leaves a stale mention
    /// behind.
    tombstones_by_age: VecDeque<Burial>,
}

struct Tombstone {
    topic: Box<str>,
    stamp: Stamp,
}

struct Burial {
    tombstone: u32,
    stamp: Stamp,
    expires_ms: u64,
}

/// What [`Retained::set`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetOutcome<M> {
    /// The message is retained now, in the place of `replaced`.
    Stored {
        /// The message that was retained for the topic before.
        replaced: Option<M>,
    },
    /// A later change of the topic is known already; nothing happened.
    Stale,
}

/// What [`Retained::clear`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClearOutcome<M> {
    /// Nothing is retained for the topic now.
    Cleared {
        /// The message that was retained for the topic before.
        removed: Option<M>,
    },
    /// A later change of the topic is known already; nothing happened.
    Stale,
}

/// How far a scan has come. It names a topic, not a place, so any change between two slices is
/// harmless.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    reached: Reached,
    topic: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reached {
    #[default]
    Start,
    /// Go on at the cursor's topic.
    Before,
    /// Go on behind the cursor's topic.
    After,
    End,
}

/// Whether a scan is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanOutcome {
    /// Every match has been seen.
    Done,
    /// The slice is over; call again with the same filter and cursor.
    More,
}

impl Stamp {
    /// The core that made the change.
    pub fn core(self) -> u8 {
        (self.0 & ((1 << STAMP_CORE_BITS) - 1)) as u8
    }

    /// The wall clock of the change in milliseconds, or somewhat later when stamps were handed out
    /// faster than 1,024 a millisecond.
    pub fn time_ms(self) -> u64 {
        self.0 >> (STAMP_CORE_BITS + STAMP_COUNT_BITS)
    }
}

impl StampClock {
    /// The clock of `core`.
    ///
    /// Panics when `core` is not below 64.
    pub fn new(core: u8) -> Self {
        assert!(u32::from(core) < 1 << STAMP_CORE_BITS);
        Self {
            core,
            last: Stamp(0),
        }
    }

    /// The next stamp. `now_ms` is the wall clock; when it stands still or goes back, stamps go on.
    pub fn next(&mut self, now_ms: u64) -> Stamp {
        let now = now_ms.min(u64::MAX >> (STAMP_CORE_BITS + STAMP_COUNT_BITS)) << STAMP_COUNT_BITS;
        let logical = now.max((self.last.0 >> STAMP_CORE_BITS).saturating_add(1));
        let logical = logical.min(u64::MAX >> STAMP_CORE_BITS);
        self.last = Stamp(logical << STAMP_CORE_BITS | u64::from(self.core));
        self.last
    }

    /// Takes note of a stamp of another core, or of one read from the store: what is stamped next
    /// is later.
    pub fn observe(&mut self, stamp: Stamp) {
        self.last = self.last.max(stamp);
    }
}

impl<M: RetainedEntry> Retained<M> {
    /// Nothing retained; hashes are keyed by `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            messages: Ordered::new(),
            bytes: 0,
            hasher: PathHasher::new(seed),
            tombstones: Slab::new(),
            tombstones_by_topic: HashTable::new(),
            tombstones_by_age: VecDeque::new(),
        }
    }

    /// Retains `message` for its topic, unless a change with a greater or equal stamp is known.
    pub fn set(&mut self, stamp: Stamp, message: M) -> SetOutcome<M> {
        let message_bytes = message.bytes();
        if let Some(position) = self.messages.find(message.topic()) {
            let slot = self.messages.at_mut(position);
            if slot.stamp >= stamp {
                return SetOutcome::Stale;
            }
            let replaced = std::mem::replace(slot, Slot { stamp, message }).message;
            self.bytes = self.bytes - replaced.bytes() + message_bytes;
            return SetOutcome::Stored {
                replaced: Some(replaced),
            };
        }
        if let Some(at) = self.tombstone(message.topic()) {
            if self.tombstones[at as usize].stamp >= stamp {
                return SetOutcome::Stale;
            }
            self.dig_up(at);
        }
        self.bytes += message_bytes;
        self.messages.insert(Slot { stamp, message });
        SetOutcome::Stored { replaced: None }
    }

    /// Retains nothing for `topic`, unless a change with a greater or equal stamp is known.
    ///
    /// The stamp is remembered for [`TOMBSTONE_KEPT_MS`] from `now_ms`, which does not go back from
    /// call to call.
    pub fn clear(&mut self, topic: &str, stamp: Stamp, now_ms: u64) -> ClearOutcome<M> {
        let mut removed = None;
        if let Some(position) = self.messages.find(topic) {
            if self.messages.at(position).stamp >= stamp {
                return ClearOutcome::Stale;
            }
            let message = self.messages.remove(position).message;
            self.bytes -= message.bytes();
            removed = Some(message);
        } else if let Some(at) = self.tombstone(topic) {
            if self.tombstones[at as usize].stamp >= stamp {
                return ClearOutcome::Stale;
            }
            self.dig_up(at);
        }
        self.bury(topic, stamp, now_ms.saturating_add(TOMBSTONE_KEPT_MS));
        ClearOutcome::Cleared { removed }
    }

    /// Removes the message of `topic` if it is still the one with this stamp, as all cores will: nobody changed the
    /// topic, so the tombstone has the stamp of the message itself. True when it was removed.
    pub fn expire(&mut self, topic: &str, stamp: Stamp, now_ms: u64) -> bool {
        let found = self.messages.find(topic);
        let Some(position) = found.filter(|at| self.messages.at(*at).stamp == stamp) else {
            return false;
        };
        let message = self.messages.remove(position).message;
        self.bytes -= message.bytes();
        self.bury(topic, stamp, now_ms.saturating_add(TOMBSTONE_KEPT_MS));
        true
    }

    /// Forgets the tombstones whose time is over.
    pub fn purge(&mut self, now_ms: u64) {
        while let Some(oldest) = self.tombstones_by_age.front()
            && oldest.expires_ms <= now_ms
        {
            self.purge_oldest();
        }
    }

    /// The message retained for `topic`.
    pub fn get(&self, topic: &str) -> Option<&M> {
        self.messages
            .find(topic)
            .map(|position| &self.messages.at(position).message)
    }

    /// The stamp of the last change of `topic`, as long as it is known.
    pub fn stamp(&self, topic: &str) -> Option<Stamp> {
        if let Some(position) = self.messages.find(topic) {
            return Some(self.messages.at(position).stamp);
        }
        self.tombstone(topic)
            .map(|at| self.tombstones[at as usize].stamp)
    }

    /// Messages retained; tombstones do not count.
    pub fn count(&self) -> usize {
        self.messages.count()
    }

    /// The sum of [`RetainedEntry::bytes`] of the messages retained.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tombstones kept.
    pub fn tombstone_count(&self) -> usize {
        self.tombstones.len()
    }

    /// Bytes on the heap beside the messages themselves, without what the allocator adds.
    ///
    /// Cost: one step per 100 messages or so.
    pub fn memory_bytes(&self) -> usize {
        let topic_bytes: usize = self
            .tombstones
            .iter()
            .map(|(_, tombstone)| tombstone.topic.len())
            .sum();
        self.messages.heap_bytes()
            + topic_bytes
            + self.tombstones.capacity() * size_of::<Tombstone>()
            + self.tombstones_by_topic.allocation_size()
            + self.tombstones_by_age.capacity() * size_of::<Burial>()
    }

    /// Calls `f` for the next matches of `filter` (valid, without `$share/NAME/`), in topic order.
    ///
    /// A slice ends after `limit` matches (at least 1), or when it has visited as many messages as
    /// `visits` (a topic longer than 256 bytes counts for several), which says then how many are
    /// left of them; each slice visits at least one, so a scan always ends. A message that is
    /// retained during the whole scan is seen once. One that comes, goes or changes meanwhile is
    /// seen at most once.
    ///
    /// Cost of a visit: a walk over the levels; of a jump: a binary search. Matches and non-matches
    /// below a `+` cost one visit or jump each; everything else that does not match costs nothing.
    pub fn scan(
        &self,
        filter: &str,
        cursor: &mut Cursor,
        limit: usize,
        visits: &mut usize,
        mut f: impl FnMut(&M),
    ) -> ScanOutcome {
        let mut next = match cursor.reached {
            Reached::End => return ScanOutcome::Done,
            Reached::Start => {
                cursor.topic.clear();
                cursor.topic.push_str(literal_levels(filter));
                cursor.reached = Reached::Before;
                self.messages.first_from(&cursor.topic)
            }
            Reached::Before => self.messages.first_from(&cursor.topic),
            Reached::After => self.first_after(&cursor.topic),
        };
        let mut matches_left = limit;
        *visits = (*visits).max(1);
        // The last message visited, as long as the cursor's topic does not say where to go on.
        let mut last: Option<Position> = None;
        while let Some(position) = next {
            if matches_left == 0 || *visits == 0 {
                if let Some(last) = last {
                    cursor.topic.clear();
                    cursor
                        .topic
                        .push_str(self.messages.at(last).message.topic());
                    cursor.reached = Reached::After;
                } else {
                    cursor.reached = Reached::Before;
                }
                return ScanOutcome::More;
            }
            let message = &self.messages.at(position).message;
            let topic = message.topic();
            *visits = visits.saturating_sub(1 + topic.len() / VISIT_BYTES);
            let Visit { is_match, then } = visit(filter, topic, &mut cursor.topic);
            if is_match {
                matches_left -= 1;
                f(message);
            }
            next = match then {
                Then::Next => {
                    last = Some(position);
                    self.messages.after(position)
                }
                Then::Jump => {
                    last = None;
                    self.messages.first_from_near(position, &cursor.topic)
                }
                Then::Stop => None,
            };
        }
        cursor.reached = Reached::End;
        cursor.topic = String::new();
        ScanOutcome::Done
    }

    fn first_after(&self, topic: &str) -> Option<Position> {
        let position = self.messages.first_from(topic)?;
        if self.messages.at(position).message.topic() == topic {
            return self.messages.after(position);
        }
        Some(position)
    }

    fn tombstone(&self, topic: &str) -> Option<u32> {
        if self.tombstones.is_empty() {
            return None;
        }
        let hash = self.hasher.text(topic.as_bytes());
        let is_it = |slot: &HashedIndex| {
            slot.may_be(hash) && *self.tombstones[slot.index as usize].topic == *topic
        };
        self.tombstones_by_topic
            .find(table_hash(hash), is_it)
            .map(|slot| slot.index)
    }

    fn bury(&mut self, topic: &str, stamp: Stamp, expires_ms: u64) {
        let at = self.tombstones.insert(Tombstone {
            topic: topic.into(),
            stamp,
        });
        let tombstone = u32::try_from(at).expect("tombstones are bounded");
        let slot = HashedIndex::new(self.hasher.text(topic.as_bytes()), tombstone);
        self.tombstones_by_topic
            .insert_unique(slot.table_hash(), slot, HashedIndex::table_hash);
        self.tombstones_by_age.push_back(Burial {
            tombstone,
            stamp,
            expires_ms,
        });
        // Stale mentions count too: setting and clearing one topic again and again must stay
        // bounded as well.
        while self.tombstones_by_age.len() > TOMBSTONES_MAX {
            self.purge_oldest();
        }
    }

    fn purge_oldest(&mut self) {
        let Some(oldest) = self.tombstones_by_age.pop_front() else {
            return;
        };
        // The index may have been used again; the stamp tells, for no two changes have the same
        // one.
        let kept = self.tombstones.get(oldest.tombstone as usize);
        if kept.is_some_and(|tombstone| tombstone.stamp == oldest.stamp) {
            self.dig_up(oldest.tombstone);
        }
        if self.tombstones_by_age.is_empty() {
            assert!(self.tombstones.is_empty());
            self.tombstones = Slab::new();
            self.tombstones_by_topic = HashTable::new();
            self.tombstones_by_age = VecDeque::new();
        }
    }

    fn dig_up(&mut self, at: u32) {
        let tombstone = self.tombstones.remove(at as usize);
        let hash = table_hash(self.hasher.text(tombstone.topic.as_bytes()));
        self.tombstones_by_topic
            .find_entry(hash, |slot| slot.index == at)
            .expect("every tombstone is in the table")
            .remove();
    }
}

/// What a scan learns from one topic.
struct Visit {
    is_match: bool,
    then: Then,
}

enum Then {
    /// Go on with the next topic.
    Next,
    /// Nothing before the topic that was written to the cursor can match.
    Jump,
    /// Nothing behind this topic can match.
    Stop,
}

/// Compares `filter` with `topic`, and writes to `jump` where the next match can be at the
/// earliest.
///
/// `jump` is always behind `topic`. U+0001 is the first character behind the separator, so `x`
/// followed by it is behind `x` and all that is below `x`, and before everything else.
fn visit(filter: &str, topic: &str, jump: &mut String) -> Visit {
    if filter.starts_with(['+', '#']) && topic.starts_with('$') {
        // MQTT 5 §4.7.2. '%' is the character behind '$'.
        jump.clear();
        jump.push('%');
        return Visit {
            is_match: false,
            then: Then::Jump,
        };
    }
    let mut filter_start = 0;
    let mut topic_start = 0;
    // Where the topic's level ends that the last `+` matched.
    let mut plus_end = None;
    loop {
        let filter_end = level_end(filter, filter_start);
        let topic_end = level_end(topic, topic_start);
        let name = &topic[topic_start..topic_end];
        match &filter[filter_start..filter_end] {
            "#" => {
                return Visit {
                    is_match: true,
                    then: Then::Next,
                };
            }
            "+" => plus_end = Some(topic_end),
            level if level == name => {}
            level if name < level => {
                jump.clear();
                jump.push_str(&topic[..topic_start]);
                jump.push_str(literal_levels(&filter[filter_start..]));
                return Visit {
                    is_match: false,
                    then: Then::Jump,
                };
            }
            _ => {
                return Visit {
                    is_match: false,
                    then: past(topic, plus_end, jump),
                };
            }
        }
        match (filter_end == filter.len(), topic_end == topic.len()) {
            (true, is_match) => {
                return Visit {
                    is_match,
                    then: past(topic, plus_end, jump),
                };
            }
            (false, false) => {
                filter_start = filter_end + 1;
                topic_start = topic_end + 1;
            }
            (false, true) => {
                let below = &filter[filter_end + 1..];
                if below == "#" {
                    return Visit {
                        is_match: true,
                        then: Then::Next,
                    };
                }
                jump.clear();
                jump.push_str(topic);
                jump.push('/');
                jump.push_str(literal_levels(below));
                return Visit {
                    is_match: false,
                    then: Then::Jump,
                };
            }
        }
    }
}

/// Where to go when nothing more can match with the same level for the last `+`.
fn past(topic: &str, plus_end: Option<usize>, jump: &mut String) -> Then {
    let Some(end) = plus_end else {
        return Then::Stop;
    };
    jump.clear();
    jump.push_str(&topic[..end]);
    jump.push('\u{1}');
    Then::Jump
}

fn level_end(text: &str, start: usize) -> usize {
    memchr::memchr(b'/', &text.as_bytes()[start..]).map_or(text.len(), |at| start + at)
}

/// The levels of `filter` before its first wildcard.
fn literal_levels(filter: &str) -> &str {
    match memchr::memchr2(b'+', b'#', filter.as_bytes()) {
        Some(at) => &filter[..at.saturating_sub(1)],
        None => filter,
    }
}

#[cfg(test)]
mod tests {
    use super::super::filter::matches;
    use super::*;
    use std::rc::Rc;

    fn retained(topics: &[&str]) -> Retained<Rc<str>> {
        let mut retained = Retained::new(0);
        for (at, topic) in topics.iter().enumerate() {
            let stored = retained.set(Stamp(at as u64 + 1), Rc::from(*topic));
            assert_eq!(stored, SetOutcome::Stored { replaced: None }, "{topic}");
        }
        retained
    }

    fn scanned(
        retained: &Retained<Rc<str>>,
        filter: &str,
        limit: usize,
        visits: usize,
    ) -> Vec<Rc<str>> {
        let mut cursor = Cursor::default();
        let mut found = Vec::new();
        for _ in 0..100_000 {
            let before = found.len();
            let outcome = retained.scan(filter, &mut cursor, limit, &mut { visits }, |message| {
                found.push(message.clone())
            });
            assert!(found.len() - before <= limit);
            if outcome == ScanOutcome::Done {
                return found;
            }
        }
        panic!("{filter} does not come to an end");
    }

    #[test]
    fn a_scan_finds_what_matches_in_order() {
        let topics = [
            "", "/", "//", "/a", "a", "a/", "a//", "a/b", "a/b/c", "a/b/c/d", "a/c", "a!", "a!/b",
            "ab", "ab/b", "b", "b/b", "b/b/c", "c/x/c", "$SYS", "$SYS/a", "$SYS/a/b", "%", "#not",
            "\u{1}", "\u{1}/b",
        ];
        let retained = retained(&topics);
        for filter in [
            "#",
            "+",
            "+/+",
            "+/#",
            "+/b",
            "+/b/#",
            "+/+/c",
            "+/b/+",
            "a",
            "a/#",
            "a/+",
            "a/+/c",
            "a/b/c",
            "/#",
            "/+",
            "//",
            "+/",
            "+//",
            "$SYS/#",
            "$SYS/+",
            "$SYS/+/b",
            "x/#",
            "b",
            "+/x/c",
            "+/+/+/+/+",
            "zz",
            "a/b/c/d/e",
            "+/+/+/d",
        ] {
            let mut expected: Vec<_> = topics
                .iter()
                .copied()
                .filter(|topic| matches(filter, topic))
                .collect();
            expected.sort_unstable_by(|a, b| a.split('/').cmp(b.split('/')));
            for (limit, visits) in [(100, 1_000), (1, 1_000), (100, 1), (2, 3)] {
                let found = scanned(&retained, filter, limit, visits);
                let found: Vec<_> = found.iter().map(|topic| &**topic).collect();
                assert_eq!(found, expected, "{filter} by {limit} and {visits}");
            }
        }
    }

    #[test]
    fn a_scan_jumps_over_what_does_not_match() {
        let topics: Vec<String> = (0..100)
            .flat_map(|a| (0..100).map(move |b| format!("{a:02}/{b:02}/x")))
            .collect();
        let mut retained = Retained::new(0);
        for topic in &topics {
            retained.set(Stamp(1), Rc::from(topic.as_str()));
        }
        let visits_to_finish = |filter: &str| {
            let mut cursor = Cursor::default();
            let mut slices = 1;
            while retained.scan(filter, &mut cursor, usize::MAX, &mut 1, |_| {})
                == ScanOutcome::More
            {
                slices += 1;
            }
            slices
        };
        assert!(visits_to_finish("42/+/x") <= 102);
        assert!(visits_to_finish("42/#") <= 102);
        assert!(visits_to_finish("42/17/x") <= 2);
        // One visit finds the level after the `+` too small or too great, one finds the match.
        assert!(visits_to_finish("+/50/x") <= 202);
        assert!(visits_to_finish("+/50/y") <= 202);
        assert!(visits_to_finish("nothing/#") <= 1);
    }

    #[test]
    fn expiry_is_no_change_of_its_own() {
        let topic: Rc<str> = "a".into();
        let mut retained = retained(&[]);
        retained.set(Stamp(5), topic.clone());
        assert!(!retained.expire("a", Stamp(4), 0));
        assert!(retained.expire("a", Stamp(5), 0));
        assert!(!retained.expire("a", Stamp(5), 0));
        assert_eq!(
            (
                retained.count(),
                retained.bytes(),
                retained.tombstone_count()
            ),
            (0, 0, 1)
        );
        assert_eq!(retained.set(Stamp(5), topic.clone()), SetOutcome::Stale);
        assert_eq!(
            retained.set(Stamp(6), topic),
            SetOutcome::Stored { replaced: None }
        );
    }

    #[test]
    fn the_greater_stamp_wins() {
        let topic: Rc<str> = "a".into();
        let mut retained = retained(&[]);
        assert_eq!(
            retained.clear("a", Stamp(5), 0),
            ClearOutcome::Cleared { removed: None }
        );
        assert_eq!(retained.set(Stamp(4), topic.clone()), SetOutcome::Stale);
        assert_eq!(retained.set(Stamp(5), topic.clone()), SetOutcome::Stale);
        assert_eq!(retained.clear("a", Stamp(4), 0), ClearOutcome::Stale);
        assert_eq!(
            retained.set(Stamp(6), topic.clone()),
            SetOutcome::Stored { replaced: None }
        );
        assert_eq!(
            (
                retained.count(),
                retained.bytes(),
                retained.tombstone_count()
            ),
            (1, 1, 0)
        );
        assert_eq!(retained.set(Stamp(6), topic.clone()), SetOutcome::Stale);
        assert_eq!(retained.clear("a", Stamp(6), 0), ClearOutcome::Stale);
        assert_eq!(
            retained.set(Stamp(7), topic.clone()),
            SetOutcome::Stored {
                replaced: Some(topic.clone())
            }
        );
        assert_eq!(
            retained.clear("a", Stamp(8), 0),
            ClearOutcome::Cleared {
                removed: Some(topic)
            }
        );
        assert_eq!(
            (
                retained.count(),
                retained.bytes(),
                retained.tombstone_count()
            ),
            (0, 0, 1)
        );
        assert_eq!(retained.stamp("a"), Some(Stamp(8)));
    }

    #[test]
    fn tombstones_go_when_their_time_is_over() {
        let mut retained = retained(&[]);
        retained.clear("a", Stamp(1), 0);
        retained.clear("b", Stamp(2), 10);
        retained.clear("a", Stamp(3), 20);
        retained.purge(TOMBSTONE_KEPT_MS - 1);
        assert_eq!(retained.tombstone_count(), 2);
        retained.purge(TOMBSTONE_KEPT_MS + 10);
        assert_eq!(
            (retained.stamp("a"), retained.stamp("b")),
            (Some(Stamp(3)), None)
        );
        retained.purge(TOMBSTONE_KEPT_MS + 20);
        assert_eq!(
            (retained.tombstone_count(), retained.memory_bytes()),
            (0, 0)
        );
    }

    #[test]
    fn tombstones_are_bounded() {
        let mut retained = retained(&[]);
        let count = TOMBSTONES_MAX as u64 + 10;
        for number in 0..count {
            retained.clear(&number.to_string(), Stamp(number + 1), 0);
        }
        assert_eq!(retained.tombstone_count(), TOMBSTONES_MAX);
        assert_eq!(
            (retained.stamp("9"), retained.stamp("10")),
            (None, Some(Stamp(11)))
        );
        for number in 0..count {
            retained.set(Stamp(count + 2 * number), "a".into());
            retained.clear("a", Stamp(count + 2 * number + 1), 0);
        }
        assert_eq!(retained.tombstone_count(), 1);
        assert!(retained.tombstones_by_age.len() <= TOMBSTONES_MAX);
    }

    #[test]
    fn the_deepest_topics_are_scanned_without_recursion() {
        let deep = "/".repeat(65_535);
        let retained = retained(&[&deep, &deep[1..], "a"]);
        for (filter, count) in [
            ("#".to_string(), 3),
            ("+/".repeat(32_767) + "#", 2),
            ("+/".repeat(32_767) + "+", 0),
            ("/".repeat(65_534) + "+", 2 - 1),
        ] {
            assert_eq!(
                scanned(&retained, &filter, 1, 1).len(),
                count,
                "{} bytes",
                filter.len()
            );
        }
    }

    #[test]
    fn stamps_ascend_whatever_the_wall_clock_does() {
        let mut clock = StampClock::new(63);
        let mut last = Stamp(0);
        for now_ms in [1_000, 1_000, 999, 0, 5_000, 4_000, u64::MAX >> 17] {
            let stamp = clock.next(now_ms);
            assert!(stamp > last);
            assert_eq!(stamp.core(), 63);
            assert!(stamp.time_ms() >= now_ms);
            last = stamp;
        }
        let mut other = StampClock::new(0);
        other.observe(last);
        assert!(other.next(1) > last);
    }
}

//! The topic room against naive models: lists, linear matching, nothing clever.
//!
//! Levels come from a very small alphabet, so that filters coincide, contain each other and come
//! back.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use ringmq::topic::filter::{TopicFilter, matches};
use ringmq::topic::index::{FilterId, Index, Subscriber};
use ringmq::topic::interest::{InterestTable, LocalInterest, interest_key};
use ringmq::topic::retained::{Cursor, Retained, RetainedEntry, ScanOutcome, SetOutcome, Stamp};
use ringmq::topic::share::{GroupId, Groups, MemberCounts};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const LONG: &str = "a level that does not fit in place";

fn topic() -> impl Strategy<Value = String> {
    vec(select(&["a", "b", "$x", "", "a!", LONG][..]), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic is not empty", |topic| !topic.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let levels = vec(
        select(&["a", "b", "$x", "", "a!", LONG, "+", "+"][..]),
        0..5,
    );
    (levels, any::<bool>())
        .prop_map(|(mut levels, hash)| {
            if hash {
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("a filter is not empty", |filter| !filter.is_empty())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    key: u32,
    options: u32,
}

impl Subscriber for Entry {
    fn key(&self) -> u32 {
        self.key
    }

    fn is_stored(&self) -> bool {
        self.key.is_multiple_of(2)
    }
}

proptest! {
    /// What `parse` accepts is what the specification's rules accept, stated over a split of the
    /// text.
    #[test]
    fn a_filter_is_valid_by_the_rules(text in "(\\$share/)?[ab+#/$]{0,8}") {
        let plain_is_valid = |text: &str| {
            let levels: Vec<_> = text.split('/').collect();
            let wildcards_stand_alone =
                levels.iter().all(|level| level.len() < 2 || !level.contains(['+', '#']));
            let hash_is_last = levels[..levels.len() - 1].iter().all(|level| *level != "#");
            !text.is_empty() && wildcards_stand_alone && hash_is_last
        };
        let parsed = TopicFilter::parse(&text);
        match text.strip_prefix("$share/").map(|rest| rest.split_once('/')) {
            None => prop_assert_eq!(parsed.is_ok(), plain_is_valid(&text)),
            Some(None) => prop_assert!(parsed.is_err()),
            Some(Some((name, filter))) => {
                let name_is_valid = !name.is_empty() && !name.contains(['+', '#']);
                prop_assert_eq!(parsed.is_ok(), name_is_valid && plain_is_valid(filter));
                if let Ok(parsed) = parsed {
                    prop_assert_eq!(parsed.share_name(), Some(name));
                    prop_assert_eq!(parsed.filter(), filter);
                }
            }
        }
        if let Ok(parsed) = parsed {
            prop_assert_eq!(parsed.has_wildcard(), parsed.filter().contains(['+', '#']));
            prop_assert_eq!(parsed.level_count(), parsed.filter().split('/').count());
        }
    }

    #[test]
    fn the_index_agrees_with_matching_every_filter(
        seed: u64,
        operations in vec((any::<bool>(), filter(), 0_u32..6, any::<u32>()), 1..120),
        topics in vec(topic(), 1..12),
    ) {
        let mut index = Index::new(seed);
        let mut model: BTreeMap<String, BTreeMap<u32, Entry>> = BTreeMap::new();
        let mut ids: BTreeMap<String, FilterId> = BTreeMap::new();
        for (at, (subscribes, filter, key, options)) in operations.iter().enumerate() {
            let entry = Entry { key: *key, options: *options };
            if *subscribes {
                let subscribed = index.subscribe(filter, entry);
                let entries = model.entry(filter.clone()).or_default();
                prop_assert_eq!(subscribed.first, entries.is_empty());
                prop_assert_eq!(subscribed.replaced, entries.insert(*key, entry));
                // A filter keeps its id as long as it has a subscriber, and shares it with no
                // other.
                let id = ids.entry(filter.clone()).or_insert(subscribed.filter_id);
                prop_assert_eq!(*id, subscribed.filter_id);
                prop_assert_eq!(ids.values().collect::<BTreeSet<_>>().len(), ids.len());
            } else {
                let expected = model.get_mut(filter).and_then(|entries| entries.remove(key));
                let unsubscribed = if at % 2 == 0 {
                    index.unsubscribe(filter, *key)
                } else {
                    index.find(filter).and_then(|id| index.unsubscribe_id(id, *key))
                };
                prop_assert_eq!(unsubscribed.map(|gone| gone.entry), expected);
                if model.get(filter).is_some_and(BTreeMap::is_empty) {
                    prop_assert!(unsubscribed.is_some_and(|gone| gone.last));
                    model.remove(filter);
                    ids.remove(filter);
                } else {
                    prop_assert!(unsubscribed.is_none_or(|gone| !gone.last));
                }
            }
            prop_assert_eq!(index.find(filter), ids.get(filter).copied());
            for topic in &topics {
                let mut found = Vec::new();
                index.for_each_filter(topic, |id, entries| {
                    found.extend(entries.iter().map(|entry| (id, *entry)));
                });
                found.sort_unstable();
                let mut expected: Vec<_> = model
                    .iter()
                    .filter(|(filter, _)| matches(filter, topic))
                    .flat_map(|(filter, entries)| entries.values().map(|entry| (ids[filter], *entry)))
                    .collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected, "{}", topic);
            }
        }
        // What is read ahead for several topics at a time has everything that one of them matches.
        for some in topics.chunks(2) {
            let mut read_ahead = BTreeSet::new();
            let bytes: Vec<_> = some.iter().map(String::as_bytes).collect();
            index.read_ahead(&bytes, |entry| {
                read_ahead.insert(*entry);
            });
            for (filter, entries) in &model {
                if some.iter().any(|topic| matches(filter, topic)) {
                    prop_assert!(entries.values().any(|entry| read_ahead.contains(entry)), "{}", filter);
                }
            }
        }
        for (filter, id) in &ids {
            let mut text = String::new();
            index.filter_text(*id, &mut text);
            prop_assert_eq!(&text, filter);
        }
        prop_assert_eq!(index.filter_count(), model.len());
        prop_assert_eq!(index.subscription_count(), model.values().map(BTreeMap::len).sum::<usize>());
    }

    /// Three cores announce to a fourth; its table is exactly the over-approximation that the
    /// module describes, and so never misses a core with a filter that matches.
    #[test]
    fn interest_never_misses_a_match(
        seed: u64,
        operations in vec((any::<bool>(), 0_u8..3, filter()), 1..80),
        topics in vec(topic(), 1..20),
    ) {
        let mut locals: [LocalInterest; 3] = Default::default();
        let mut table = InterestTable::new(seed);
        let mut model: BTreeSet<(u8, String)> = BTreeSet::new();
        for (adds, core, filter) in operations {
            let key = interest_key(seed, &filter);
            let local = &mut locals[usize::from(core)];
            if adds {
                if model.insert((core, filter)) && local.add(key) {
                    table.set(core, key);
                }
            } else if model.remove(&(core, filter)) && local.remove(key) {
                table.clear(core, key);
            }
            for topic in &topics {
                let mask = table.mask_for(topic);
                for core in 0..3_u8 {
                    let filters = || model.iter().filter(|(of, _)| *of == core).map(|(_, filter)| filter);
                    let is_set = mask & (1 << core) != 0;
                    prop_assert!(is_set || !filters().any(|filter| matches(filter, topic)));
                    prop_assert_eq!(is_set, filters().any(|filter| may_match(filter, topic)));
                }
            }
        }
        let filters_of = |core: u8| model.iter().filter(move |(of, _)| *of == core);
        for (core, local) in (0..).zip(&locals) {
            let keys: BTreeSet<_> =
                filters_of(core).map(|(_, filter)| interest_key(seed, filter)).collect();
            prop_assert_eq!(local.keys(), keys.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn retained_replicas_agree_whatever_the_order(
        changes in vec((topic(), any::<bool>()), 1..60),
        order in vec(any::<prop::sample::Index>(), 60),
        filters in vec(filter(), 1..8),
    ) {
        // The stamp is the place in `changes`; the second replica hears of them in another order.
        let changes: Vec<_> = changes
            .into_iter()
            .enumerate()
            .map(|(at, (topic, sets))| (Stamp(at as u64 + 1), topic, sets))
            .collect();
        let mut shuffled = changes.clone();
        for (at, other) in order.iter().take(changes.len()).enumerate() {
            shuffled.swap(at, other.index(changes.len()));
        }
        let mut model: BTreeMap<String, Option<Stamp>> = BTreeMap::new();
        for (stamp, topic, sets) in &changes {
            model.insert(topic.clone(), sets.then_some(*stamp));
        }
        let mut replicas = [changes, shuffled].map(|changes| {
            let mut retained = Retained::new(0);
            for (stamp, topic, sets) in changes {
                if sets {
                    retained.set(stamp, Message::new(&topic, stamp));
                } else {
                    retained.clear(&topic, stamp, 0);
                }
            }
            retained
        });
        let kept = || model.iter().filter_map(|(topic, stamp)| Some((topic, (*stamp)?)));
        for replica in &mut replicas {
            for (topic, stamp) in &model {
                prop_assert_eq!(replica.get(topic).map(|message| message.0.1), *stamp);
            }
            for filter in &filters {
                let found = scan_all(replica, filter);
                prop_assert_eq!(&found, &expected(kept().map(|(topic, _)| topic.as_str()), filter));
            }
            prop_assert_eq!(replica.count(), kept().count());
            prop_assert_eq!(replica.bytes(), kept().map(|(topic, _)| topic.len()).sum::<usize>());
            prop_assert_eq!(replica.tombstone_count(), model.len() - kept().count());
            replica.purge(60_000);
            prop_assert_eq!(replica.tombstone_count(), 0);
            prop_assert_eq!(replica.count(), kept().count());
        }
    }

    /// What is retained during the whole scan is seen exactly once; what comes or goes meanwhile at
    /// most once; what was never retained is not seen.
    #[test]
    fn a_scan_survives_changes_between_its_slices(
        before in vec(topic(), 0..40),
        filter in filter(),
        slices in vec((1_usize..4, 1_usize..6, vec((topic(), any::<bool>()), 0..4)), 1..20),
    ) {
        let mut retained = Retained::new(0);
        let mut stamp = 0;
        let mut present = BTreeSet::new();
        for topic in before {
            stamp += 1;
            retained.set(Stamp(stamp), Message::new(&topic, Stamp(stamp)));
            present.insert(topic);
        }
        let mut throughout = present.clone();
        let mut ever = present.clone();
        let mut cursor = Cursor::default();
        let mut found = Vec::new();
        let mut outcome = ScanOutcome::More;
        for (limit, visits_max, changes) in slices {
            let seen_before = found.len();
            let see = |message: &Message| found.push(message.topic().to_string());
            outcome = retained.scan(&filter, &mut cursor, limit, &mut { visits_max }, see);
            prop_assert!(found.len() - seen_before <= limit.min(visits_max));
            if outcome == ScanOutcome::Done {
                break;
            }
            for (topic, sets) in changes {
                stamp += 1;
                if sets {
                    let set = retained.set(Stamp(stamp), Message::new(&topic, Stamp(stamp)));
                    prop_assert_ne!(set, SetOutcome::Stale);
                    ever.insert(topic);
                } else {
                    retained.clear(&topic, Stamp(stamp), 0);
                    throughout.remove(&topic);
                }
            }
        }
        let rest = |message: &Message| found.push(message.topic().to_string());
        if outcome == ScanOutcome::More {
            let end = retained.scan(&filter, &mut cursor, usize::MAX, &mut { usize::MAX }, rest);
            prop_assert_eq!(end, ScanOutcome::Done);
        }
        prop_assert_eq!(
            retained.scan(&filter, &mut cursor, usize::MAX, &mut { usize::MAX }, |_| panic!("the scan is over")),
            ScanOutcome::Done
        );
        let in_order = found.windows(2).all(|pair| pair[0].split('/').lt(pair[1].split('/')));
        prop_assert!(in_order, "{:?}", found);
        for topic in &found {
            prop_assert!(ever.contains(topic) && matches(&filter, topic), "{}", topic);
        }
        for topic in throughout.iter().filter(|topic| matches(&filter, topic)) {
            prop_assert!(found.contains(topic), "{} is missing", topic);
        }
    }

    /// Enough topics for many chunks, so that jumps cross them and joins and splits happen between
    /// slices.
    #[test]
    fn a_scan_of_many_topics_finds_what_matches(
        numbers in vec((0_u32..10, 0_u32..10, 0_u32..10), 200..700),
        cleared in vec((0_u32..10, 0_u32..10, 0_u32..10), 0..400),
        filter in vec(select(&["0", "3", "7", "9", "+", "+"][..]), 1..4),
        ends_with_hash: bool,
        visits_max in 1_usize..50,
    ) {
        let name = |(a, b, c): (u32, u32, u32)| match c {
            0 => format!("{a}"),
            1 | 2 => format!("{a}/{b}"),
            _ => format!("{a}/{b}/{c}"),
        };
        let mut filter = filter.join("/");
        if ends_with_hash {
            filter.push_str("/#");
        }
        let mut retained = Retained::new(0);
        let mut model = BTreeSet::new();
        let names = numbers.into_iter().map(|numbers| (name(numbers), true));
        let cleared = cleared.into_iter().map(|numbers| (name(numbers), false));
        for (stamp, (topic, sets)) in (1..).zip(names.chain(cleared)) {
            if sets {
                retained.set(Stamp(stamp), Message::new(&topic, Stamp(stamp)));
                model.insert(topic);
            } else {
                retained.clear(&topic, Stamp(stamp), 0);
                model.remove(&topic);
            }
        }
        let mut found = Vec::new();
        let mut cursor = Cursor::default();
        let mut see = |message: &Message| found.push(message.topic().to_string());
        while retained.scan(&filter, &mut cursor, 7, &mut { visits_max }, &mut see) == ScanOutcome::More {}
        prop_assert_eq!(found, expected(model.iter().map(String::as_str), &filter));
        prop_assert_eq!(retained.count(), model.len());
    }

    #[test]
    fn groups_agree_with_a_list_of_members(
        seed: u64,
        operations in vec(group_operation(), 1..100),
        topics in vec(topic(), 1..8),
    ) {
        const THIS_CORE: u8 = 1;
        let mut groups = Groups::new(seed);
        let mut members: BTreeMap<(String, u32), bool> = BTreeMap::new();
        let mut remotes: BTreeMap<(String, u8), (GroupId, MemberCounts)> = BTreeMap::new();
        for (at, (text, operation)) in operations.into_iter().enumerate() {
            let shared = TopicFilter::parse(&text).expect("valid by construction");
            match operation {
                GroupOperation::Join(key, online) => {
                    let joined = groups.join(&shared, Entry { key, options: 0 }, online);
                    let replaced = members.insert((text.clone(), key), online);
                    prop_assert_eq!(joined.replaced.is_some(), replaced.is_some());
                    prop_assert_eq!(groups.find(&shared), Some(joined.group));
                }
                GroupOperation::Leave(key) => {
                    let left = groups.leave(&shared, key);
                    prop_assert_eq!(left.is_some(), members.remove(&(text.clone(), key)).is_some());
                    if let Some(left) = left {
                        prop_assert_eq!(left.gone, groups.find(&shared).is_none());
                        prop_assert_eq!(left.counts, counts(&members, &text));
                    }
                }
                GroupOperation::SetOnline(key, online) => {
                    let changed = groups
                        .find(&shared)
                        .is_some_and(|group| groups.set_online(group, key, online));
                    let member = members.get_mut(&(text.clone(), key));
                    prop_assert_eq!(changed, member.as_ref().is_some_and(|is| **is != online));
                    if let Some(member) = member {
                        *member = online;
                    }
                }
                GroupOperation::Remote(core, online, offline) => {
                    let id = GroupId(at as u32);
                    let counts = MemberCounts { online, offline, stored: offline };
                    groups.apply_remote(core, &text, id, counts);
                    if counts.is_none() {
                        remotes.remove(&(text.clone(), core));
                    } else {
                        remotes.insert((text.clone(), core), (id, counts));
                    }
                }
            }
            let known: BTreeSet<&String> =
                members.keys().map(|(text, _)| text).chain(remotes.keys().map(|(text, _)| text)).collect();
            prop_assert_eq!(groups.count(), known.len());
            for topic in &topics {
                let mut found = Vec::new();
                groups.for_each_match(topic, |group| {
                    let mut text = String::new();
                    groups.text(group, &mut text);
                    found.push(text);
                });
                found.sort_unstable();
                let matching = |text: &&&String| {
                    let shared = TopicFilter::parse(text).expect("valid by construction");
                    matches(shared.filter(), topic)
                };
                let expected: Vec<_> = known.iter().filter(matching).copied().collect();
                prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected);
            }
            let Some(group) = groups.find(&shared) else {
                prop_assert!(!known.contains(&text));
                continue;
            };
            prop_assert_eq!(groups.counts(group), counts(&members, &text));
            let mut weights: BTreeMap<u8, MemberCounts> = remotes
                .iter()
                .filter(|((of, _), _)| *of == text)
                .map(|((_, core), (_, counts))| (*core, *counts))
                .collect();
            for core in weights.keys() {
                prop_assert_eq!(groups.remote_group(group, *core), Some(remotes[&(text.clone(), *core)]));
            }
            weights.insert(THIS_CORE, counts(&members, &text));
            prop_assert_eq!(groups.remote_group(group, THIS_CORE), None);
            check_turns_of_cores(&mut groups, group, THIS_CORE, &weights)?;
            check_turns_of_members(&mut groups, group, &members, &text)?;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum GroupOperation {
    Join(u32, bool),
    Leave(u32),
    SetOnline(u32, bool),
    Remote(u8, u32, u32),
}

fn group_operation() -> impl Strategy<Value = (String, GroupOperation)> {
    let name = select(&["g", "h"][..]);
    let filter = select(&["a", "a/#", "+/b", "a/b", "$x/+", "#"][..]);
    let key = || 0_u32..5;
    let count = || prop_oneof![Just(0), 0_u32..4, Just(50)];
    let operation = prop_oneof![
        (key(), any::<bool>()).prop_map(|(key, online)| GroupOperation::Join(key, online)),
        key().prop_map(GroupOperation::Leave),
        (key(), any::<bool>()).prop_map(|(key, online)| GroupOperation::SetOnline(key, online)),
        (select(&[0_u8, 2, 63][..]), count(), count())
            .prop_map(|(core, online, offline)| GroupOperation::Remote(core, online, offline)),
    ];
    (name, filter, operation)
        .prop_map(|(name, filter, operation)| (format!("$share/{name}/{filter}"), operation))
}

fn counts(members: &BTreeMap<(String, u32), bool>, text: &str) -> MemberCounts {
    let of_group = members.iter().filter(|((of, _), _)| of == text);
    let online = |is: bool| of_group.clone().filter(move |(_, online)| **online == is);
    MemberCounts {
        online: online(true).count() as u32,
        offline: online(false).count() as u32,
        stored: of_group.filter(|((_, key), _)| key % 2 == 0).count() as u32,
    }
}

/// Whatever happened before, each core is picked in proportion to its members, to within two picks.
fn check_turns_of_cores(
    groups: &mut Groups<Entry>,
    group: GroupId,
    this_core: u8,
    weights: &BTreeMap<u8, MemberCounts>,
) -> Result<(), TestCaseError> {
    let any_online = weights.values().any(|counts| counts.online > 0);
    let weight = |core: u8| {
        let MemberCounts {
            online, offline, ..
        } = weights[&core];
        if any_online { online } else { offline }
    };
    let total: u32 = weights.keys().map(|core| weight(*core)).sum();
    let mut picks: BTreeMap<u8, u32> = BTreeMap::new();
    for _ in 0..3 * total {
        let core = groups
            .pick_core(group, this_core, 0)
            .expect("the group has members");
        *picks.entry(core).or_default() += 1;
    }
    for core in weights.keys() {
        let picked = picks.remove(core).unwrap_or_default();
        prop_assert!(
            picked.abs_diff(3 * weight(*core)) <= 2,
            "core {}: {}",
            core,
            picked
        );
        prop_assert!(picked == 0 || weight(*core) > 0);
    }
    prop_assert!(picks.is_empty());
    // Without the core that was picked, another one with members is, if there is any.
    let core = groups
        .pick_core(group, this_core, 0)
        .expect("the group has members");
    let other = groups.pick_core(group, this_core, 1 << core);
    let has_members = |core: u8| weights.get(&core).is_some_and(|counts| !counts.is_none());
    prop_assert!(other != Some(core));
    prop_assert!(other.is_none_or(has_members));
    prop_assert_eq!(
        other.is_some(),
        weights.keys().any(|of| *of != core && has_members(*of))
    );
    Ok(())
}

/// As many picks as there are members online are each of them once; without any, those offline.
fn check_turns_of_members(
    groups: &mut Groups<Entry>,
    group: GroupId,
    members: &BTreeMap<(String, u32), bool>,
    text: &str,
) -> Result<(), TestCaseError> {
    let keys = |is: bool| {
        let of_group = |(member, online): (&(String, u32), &bool)| {
            (member.0 == text && *online == is).then_some(member.1)
        };
        members
            .iter()
            .filter_map(of_group)
            .collect::<BTreeSet<u32>>()
    };
    let expected = if keys(true).is_empty() {
        keys(false)
    } else {
        keys(true)
    };
    let picks: BTreeSet<u32> = (0..expected.len())
        .filter_map(|_| groups.pick_member(group, |_| true))
        .map(|entry| entry.key)
        .collect();
    prop_assert_eq!(picks, expected);
    for key in keys(false) {
        let only = groups.pick_member(group, |entry| entry.key == key);
        prop_assert_eq!(only.map(|entry| entry.key), Some(key));
        prop_assert_eq!(groups.member(group, key).map(|entry| entry.key), Some(key));
    }
    prop_assert_eq!(groups.pick_member(group, |_| false), None);
    Ok(())
}

/// What the interest table promises: the filter, or the levels before its first wildcard, are the topic's; of one that begins
/// with `+`, those behind the first three of them at most.
fn may_match(filter: &str, topic: &str) -> bool {
    if !filter.contains(['+', '#']) {
        return filter == topic;
    }
    let levels: Vec<_> = filter.split('/').collect();
    let skipped = levels
        .iter()
        .take(3)
        .take_while(|level| **level == "+")
        .count();
    let is_literal = |level: &&&str| !matches!(**level, "+" | "#");
    let run: Vec<_> = levels[skipped..].iter().take_while(is_literal).collect();
    let topic_levels: Vec<_> = topic.split('/').collect();
    let there = topic_levels
        .get(skipped..)
        .map(|rest| rest.iter().take(run.len()).eq(run.iter().copied()));
    there == Some(true) && !(topic.starts_with('$') && filter.starts_with(['+', '#']))
}

#[derive(Clone, Debug, PartialEq)]
struct Message(Rc<(String, Stamp)>);

impl Message {
    fn new(topic: &str, stamp: Stamp) -> Self {
        Self(Rc::new((topic.to_string(), stamp)))
    }
}

impl RetainedEntry for Message {
    fn topic(&self) -> &str {
        &self.0.0
    }

    fn bytes(&self) -> usize {
        self.0.0.len()
    }
}

fn scan_all(retained: &Retained<Message>, filter: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut cursor = Cursor::default();
    let see = |message: &Message| found.push(message.topic().to_string());
    let outcome = retained.scan(filter, &mut cursor, usize::MAX, &mut { usize::MAX }, see);
    assert_eq!(outcome, ScanOutcome::Done);
    found
}

fn expected<'a>(topics: impl Iterator<Item = &'a str>, filter: &str) -> Vec<String> {
    let mut topics: Vec<_> = topics.filter(|topic| matches(filter, topic)).collect();
    topics.sort_unstable_by(|a, b| a.split('/').cmp(b.split('/')));
    topics.into_iter().map(str::to_string).collect()
}

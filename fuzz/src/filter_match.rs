//! Subscriptions on three cores against matching every filter by the definition.
//!
//! Input: operations of a byte each with their fields: subscribe, unsubscribe, end a subscriber, look a topic up.
//!
//! What must hold: a core's index finds exactly what matches; the other cores' interest tables never miss
//! it; a shared group is found on every core, and picks a member that is there; at the end nothing is left.

use crate::input::Input;
use crate::text::{any_filter, topic};
use ringmq::topic::filter::{TopicFilter, matches};
use ringmq::topic::index::{FilterId, Index, Subscriber};
use ringmq::topic::interest::{InterestTable, LocalInterest, interest_key};
use ringmq::topic::share::{GroupId, Groups, MemberCounts};
use std::collections::{BTreeMap, BTreeSet};

const CORES: usize = 3;
const OPERATIONS_MAX: usize = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    key: u32,
    options: u8,
}

impl Subscriber for Entry {
    fn key(&self) -> u32 {
        self.key
    }

    fn is_stored(&self) -> bool {
        self.key.is_multiple_of(2)
    }
}

struct Core {
    index: Index<Entry>,
    local: LocalInterest,
    /// What the others announced.
    interest: InterestTable,
    groups: Groups<Entry>,
    /// The naive index: filter and key to entry.
    subscriptions: BTreeMap<(String, u32), Entry>,
    filter_ids: BTreeMap<String, FilterId>,
    /// The naive groups: `$share/…` and key to entry and whether online.
    members: BTreeMap<(String, u32), (Entry, bool)>,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = u64::from(input.byte());
    let mut cores: Vec<Core> = (0..CORES)
        .map(|_| Core {
            index: Index::new(seed),
            local: LocalInterest::new(),
            interest: InterestTable::new(seed),
            groups: Groups::new(seed),
            subscriptions: BTreeMap::new(),
            filter_ids: BTreeMap::new(),
            members: BTreeMap::new(),
        })
        .collect();
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        let operation = input.byte();
        let core = usize::from(operation >> 4) % CORES;
        let key = u32::from(operation >> 6);
        match operation & 0x0F {
            0..=4 => {
                let text = any_filter(&mut input);
                if let Ok(filter) = TopicFilter::parse(&text) {
                    let entry = Entry {
                        key,
                        options: input.byte(),
                    };
                    subscribe(&mut cores, core, seed, &filter, entry);
                }
            }
            5..=7 => {
                let text = any_filter(&mut input);
                if let Ok(filter) = TopicFilter::parse(&text) {
                    unsubscribe(&mut cores, core, seed, &filter, key, operation & 1 == 1);
                }
            }
            8 => end(&mut cores, core, seed, key),
            9 => {
                let online = input.flag();
                set_online(&mut cores, core, key, online);
            }
            _ => {
                let topic = topic(&mut input);
                look_up(&mut cores, &topic, usize::from(operation >> 4));
            }
        }
    }
    for core in 0..CORES {
        for key in 0..4 {
            end(&mut cores, core, seed, key);
        }
    }
    for core in &mut cores {
        assert_eq!(core.index.filter_count(), 0);
        assert_eq!(core.index.subscription_count(), 0);
        assert_eq!(core.local.key_count(), 0);
        assert_eq!(core.interest.key_count(), 0);
        assert_eq!(core.groups.count(), 0);
    }
    look_up(&mut cores, "a/b", 0);
}

fn subscribe(cores: &mut [Core], at: usize, seed: u64, filter: &TopicFilter<'_>, entry: Entry) {
    let core = &mut cores[at];
    if filter.share_name().is_some() {
        let place = (filter.text().to_owned(), entry.key);
        let joined = core.groups.join(filter, entry, true);
        let before = core.members.insert(place, (entry, true));
        assert_eq!(joined.replaced, before.map(|(entry, _)| entry));
        tell_group(cores, at, filter.text(), joined.group);
        return;
    }
    let text = filter.filter().to_owned();
    let subscribed = core.index.subscribe(filter.filter(), entry);
    let first = !core.subscriptions.keys().any(|(known, _)| *known == text);
    assert_eq!(subscribed.first, first);
    let before = core.subscriptions.insert((text.clone(), entry.key), entry);
    assert_eq!(subscribed.replaced, before);
    let id = *core.filter_ids.entry(text).or_insert(subscribed.filter_id);
    assert_eq!(id, subscribed.filter_id);
    let key = interest_key(seed, filter.filter());
    if first && core.local.add(key) {
        for_others(cores, at, |other| other.interest.set(at as u8, key));
    }
}

fn unsubscribe(
    cores: &mut [Core],
    at: usize,
    seed: u64,
    filter: &TopicFilter<'_>,
    key: u32,
    by_id: bool,
) {
    let core = &mut cores[at];
    let place = (filter.text().to_owned(), key);
    if filter.share_name().is_some() {
        let group = core.groups.find(filter);
        let left = match group {
            Some(group) if by_id => core.groups.leave_group(group, key),
            _ => core.groups.leave(filter, key),
        };
        let expected = core.members.remove(&place);
        assert_eq!(
            left.as_ref().map(|left| left.entry),
            expected.map(|(entry, _)| entry)
        );
        if let Some(left) = left {
            tell_counts(cores, at, filter.text(), left.group, left.counts);
        }
        return;
    }
    let gone = match core.index.find(filter.filter()) {
        Some(id) if by_id => core.index.unsubscribe_id(id, key),
        _ => core.index.unsubscribe(filter.filter(), key),
    };
    assert_eq!(
        gone.as_ref().map(|gone| gone.entry),
        core.subscriptions.remove(&place)
    );
    let Some(gone) = gone else { return };
    assert_eq!(core.filter_ids.get(filter.filter()), Some(&gone.filter_id));
    let last = !core
        .subscriptions
        .keys()
        .any(|(known, _)| *known == place.0);
    assert_eq!(gone.last, last);
    if last {
        core.filter_ids.remove(filter.filter());
        let key = interest_key(seed, filter.filter());
        if core.local.remove(key) {
            for_others(cores, at, |other| other.interest.clear(at as u8, key));
        }
    }
}

/// Ends all that a subscriber has, as a session that expires does.
fn end(cores: &mut [Core], at: usize, seed: u64, key: u32) {
    let of_key = |(text, of): &(String, u32)| (*of == key).then(|| text.clone());
    let texts: Vec<_> = cores[at]
        .subscriptions
        .keys()
        .chain(cores[at].members.keys())
        .filter_map(of_key)
        .collect();
    for text in texts {
        let filter = TopicFilter::parse(&text).expect("it was subscribed to");
        unsubscribe(cores, at, seed, &filter, key, true);
    }
}

fn set_online(cores: &mut [Core], at: usize, key: u32, online: bool) {
    let texts: Vec<_> = cores[at]
        .members
        .keys()
        .filter(|(_, of)| *of == key)
        .map(|(text, _)| text.clone())
        .collect();
    for text in texts {
        let core = &mut cores[at];
        let filter = TopicFilter::parse(&text).expect("it was subscribed to");
        let group = core.groups.find(&filter).expect("it has a member");
        let changed = core.groups.set_online(group, key, online);
        let member = core
            .members
            .get_mut(&(text.clone(), key))
            .expect("it is a member");
        assert_eq!(changed, std::mem::replace(&mut member.1, online) != online);
        tell_group(cores, at, &text, group);
    }
}

fn tell_group(cores: &mut [Core], at: usize, text: &str, group: GroupId) {
    let counts = cores[at].groups.counts(group);
    let count = |is_counted: fn(&(Entry, bool)) -> bool| {
        cores[at]
            .members
            .iter()
            .filter(|((of, _), member)| of == text && is_counted(member))
            .count() as u32
    };
    let expected = MemberCounts {
        online: count(|(_, online)| *online),
        offline: count(|(_, online)| !*online),
        stored: count(|(entry, _)| entry.is_stored()),
    };
    assert_eq!(counts, expected);
    tell_counts(cores, at, text, group, counts);
}

fn tell_counts(cores: &mut [Core], at: usize, text: &str, group: GroupId, counts: MemberCounts) {
    for_others(cores, at, |other| {
        other.groups.apply_remote(at as u8, text, group, counts);
    });
}

fn for_others(cores: &mut [Core], at: usize, mut tell: impl FnMut(&mut Core)) {
    for (n, core) in cores.iter_mut().enumerate() {
        if n != at {
            tell(core);
        }
    }
}

fn look_up(cores: &mut [Core], topic: &str, exclude: usize) {
    for at in 0..CORES {
        let core = &cores[at];
        let mut found = Vec::new();
        core.index.for_each_filter(topic, |id, entries| {
            found.extend(entries.iter().map(|entry| (id, *entry)));
        });
        found.sort_unstable();
        let mut expected: Vec<_> = core
            .subscriptions
            .iter()
            .filter(|((filter, _), _)| matches(filter, topic))
            .map(|((filter, _), entry)| (core.filter_ids[filter], *entry))
            .collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "{topic}");
        // Whatever there is, it changes nothing.
        core.index.read_ahead(&[topic.as_bytes(), b"a/b"], |_| ());
        core.interest.read_ahead(&[topic.as_bytes()]);

        let mask = core.interest.mask_for(topic);
        assert_eq!(mask & 1 << at, 0, "a core does not announce to itself");
        for other in (0..CORES).filter(|other| *other != at) {
            let wants = cores[other]
                .subscriptions
                .keys()
                .any(|(filter, _)| matches(filter, topic));
            assert!(
                !wants || mask & 1 << other != 0,
                "core {other} wants {topic}"
            );
        }
    }
    let mut expected = BTreeSet::new();
    for core in &*cores {
        for (text, _) in core.members.keys() {
            let filter = TopicFilter::parse(text).expect("it was subscribed to");
            if matches(filter.filter(), topic) {
                expected.insert(text.clone());
            }
        }
    }
    for at in 0..CORES {
        let mut groups = Vec::new();
        cores[at]
            .groups
            .for_each_match(topic, |group| groups.push(group));
        let texts: BTreeSet<_> = groups
            .iter()
            .map(|group| {
                let mut text = String::new();
                cores[at].groups.text(*group, &mut text);
                text
            })
            .collect();
        assert_eq!(groups.len(), texts.len());
        assert_eq!(texts, expected);
        for group in groups {
            pick(cores, at, group, (exclude & 0b111) as u64);
        }
    }
}

/// The core that is picked has a member, and the core's pick is one of its members, online if any is.
fn pick(cores: &mut [Core], at: usize, group: GroupId, exclude: u64) {
    let mut text = String::new();
    cores[at].groups.text(group, &mut text);
    let count = |cores: &[Core], core: usize, online_only: bool| {
        let of = cores[core]
            .members
            .iter()
            .filter(|((known, _), _)| *known == text);
        of.filter(|(_, (_, online))| *online || !online_only)
            .count()
    };
    let allowed = (0..CORES).filter(|core| exclude & 1 << core == 0);
    let any_online = allowed.clone().any(|core| count(cores, core, true) > 0);
    let any = allowed.clone().any(|core| count(cores, core, false) > 0);
    let Some(picked) = cores[at].groups.pick_core(group, at as u8, exclude) else {
        assert!(!any, "a core with a member of {text} is left");
        return;
    };
    let picked = usize::from(picked);
    assert_eq!(exclude & 1 << picked, 0);
    assert!(count(cores, picked, any_online) > 0);
    let there = if picked == at {
        group
    } else {
        cores[at]
            .groups
            .remote_group(group, picked as u8)
            .expect("the core told its name for it")
            .0
    };
    let member = cores[picked]
        .groups
        .pick_member(there, |_| true)
        .expect("it has a member");
    let (entry, online) = cores[picked].members[&(text.clone(), member.key)];
    assert_eq!(entry, member);
    assert!(online || !any_online);
}

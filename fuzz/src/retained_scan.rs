//! Retained messages of two cores and scans in slices, against a map of topics.
//!
//! Input: operations of a byte each with their fields: set, clear, late and early changes, begin a scan, one
//! slice of a scan, purge.
//!
//! What must hold: both cores agree once both know every change; a scan sees each message that stays throughout
//! exactly once, every other at most once, none that does not match, and not more than a slice may.

use crate::input::Input;
use crate::text::{filter, topic};
use ringmq::topic::filter::matches;
use ringmq::topic::retained::{
    ClearOutcome, Cursor, Retained, RetainedEntry, ScanOutcome, SetOutcome, Stamp,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

const OPERATIONS_MAX: usize = 400;
const SCANS_MAX: usize = 4;

#[derive(Clone, Debug)]
struct Message(Rc<(String, u64)>);

impl RetainedEntry for Message {
    fn topic(&self) -> &str {
        &self.0.0
    }

    fn topic_bytes(&self) -> &[u8] {
        self.0.0.as_bytes()
    }

    fn bytes(&self) -> usize {
        self.0.0.len()
    }
}

struct Scan {
    filter: String,
    cursor: Cursor,
    /// Retained from the beginning until now, without a change.
    throughout: BTreeSet<String>,
    seen: BTreeSet<String>,
}

#[derive(Clone)]
struct Change {
    topic: String,
    stamp: u64,
    sets: bool,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut retained = Retained::new(u64::from(input.byte()));
    let mut replica = Retained::new(u64::from(input.byte()));
    // Topic to the stamp of its last change, and whether a message is retained.
    let mut model: BTreeMap<String, (u64, bool)> = BTreeMap::new();
    let mut late: VecDeque<Change> = VecDeque::new();
    let mut scans: Vec<Scan> = Vec::new();
    let mut stamp = 1;
    let mut old_stamps = BTreeSet::new();
    let mut now_ms = 0;
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        let operation = input.byte();
        match operation & 0x0F {
            0..=6 => {
                stamp += 2;
                let topic = topic(&mut input);
                let sets = operation & 0x0F < 5;
                change(
                    &mut retained,
                    &mut model,
                    &mut scans,
                    Change {
                        topic: topic.clone(),
                        stamp,
                        sets,
                    },
                    now_ms,
                );
                late.push_back(Change { topic, stamp, sets });
            }
            7 => {
                // A change that is older than the last one of its topic, if that has one. No two have one stamp.
                let topic = topic(&mut input);
                let stamp = u64::from(input.byte()) * 2;
                let sets = operation & 0x10 != 0;
                if old_stamps.insert(stamp) {
                    let old = Change { topic, stamp, sets };
                    change(&mut retained, &mut model, &mut scans, old.clone(), now_ms);
                    late.push_back(old);
                }
            }
            8 | 9 => {
                let next = if operation & 0x10 == 0 {
                    late.pop_front()
                } else {
                    late.pop_back()
                };
                if let Some(Change { topic, stamp, sets }) = next {
                    apply(&mut replica, &topic, stamp, sets, now_ms);
                }
            }
            10 if scans.len() < SCANS_MAX => {
                let filter = filter(&mut input);
                let throughout = model
                    .iter()
                    .filter(|(topic, (_, present))| *present && matches(&filter, topic))
                    .map(|(topic, _)| topic.clone())
                    .collect();
                let cursor = Cursor::default();
                scans.push(Scan {
                    filter,
                    cursor,
                    throughout,
                    seen: BTreeSet::new(),
                });
            }
            15 => {
                // Not so far that a change still on its way could meet a forgotten tombstone.
                now_ms += u64::from(operation >> 4);
                retained.purge(now_ms);
                replica.purge(now_ms);
            }
            _ if !scans.is_empty() => {
                let at = usize::from(operation >> 4) % scans.len();
                let (limit, visits_max) = (1 + input.below(4), input.below(8));
                if slice(&retained, &model, &mut scans[at], limit, visits_max) == ScanOutcome::Done
                {
                    scans.remove(at);
                }
            }
            _ => {}
        }
    }
    for mut scan in scans {
        let mut slices = 0;
        while slice(&retained, &model, &mut scan, 3, 3) == ScanOutcome::More {
            slices += 1;
            assert!(slices < 10_000, "a scan ends");
        }
    }
    for Change { topic, stamp, sets } in late {
        apply(&mut replica, &topic, stamp, sets, now_ms);
    }
    check_end(&mut retained, &model);
    check_end(&mut replica, &model);
}

fn change(
    retained: &mut Retained<Message>,
    model: &mut BTreeMap<String, (u64, bool)>,
    scans: &mut [Scan],
    Change { topic, stamp, sets }: Change,
    now_ms: u64,
) {
    let known = model.get(&topic).copied();
    let is_newer = known.is_none_or(|(last, _)| stamp > last);
    let replaced = apply(retained, &topic, stamp, sets, now_ms);
    match (replaced, is_newer) {
        (None, false) => return,
        (Some(replaced), true) => {
            let before = known.filter(|(_, present)| *present).map(|(last, _)| last);
            assert_eq!(replaced, before, "{topic}");
        }
        (replaced, _) => panic!("{topic}: {replaced:?} with {stamp} after {known:?}"),
    }
    for scan in scans {
        scan.throughout.remove(&topic);
    }
    model.insert(topic, (stamp, sets));
}

/// The stamp of the message before, in `Some` when the change was taken.
fn apply(
    retained: &mut Retained<Message>,
    topic: &str,
    stamp: u64,
    sets: bool,
    now_ms: u64,
) -> Option<Option<u64>> {
    let stamp_of = |message: Option<Message>| message.map(|message| message.0.1);
    if sets {
        match retained.set(Stamp(stamp), Message(Rc::new((topic.into(), stamp)))) {
            SetOutcome::Stored { replaced } => Some(stamp_of(replaced)),
            SetOutcome::Stale => None,
        }
    } else {
        match retained.clear(topic, Stamp(stamp), now_ms) {
            ClearOutcome::Cleared { removed } => Some(stamp_of(removed)),
            ClearOutcome::Stale => None,
        }
    }
}

fn slice(
    retained: &Retained<Message>,
    model: &BTreeMap<String, (u64, bool)>,
    scan: &mut Scan,
    limit: usize,
    visits_max: usize,
) -> ScanOutcome {
    let mut count = 0;
    let Scan {
        filter,
        cursor,
        throughout,
        seen,
    } = scan;
    let mut visits = visits_max;
    let outcome = retained.scan(filter, cursor, limit, &mut visits, |message| {
        count += 1;
        let topic = message.topic();
        assert!(matches(filter, topic), "{filter} does not match {topic}");
        assert_eq!(model.get(topic), Some(&(message.0.1, true)), "{topic}");
        assert!(seen.insert(topic.to_owned()), "{topic} was seen before");
    });
    assert!(count <= limit);
    // A slice goes on until one of both is used up, and has one visit at least.
    assert!(visits <= visits_max.max(1));
    if outcome != ScanOutcome::Done {
        assert!(
            count == limit || visits == 0,
            "{filter}: {visits} visits are left"
        );
    }
    if outcome == ScanOutcome::Done {
        for topic in &*throughout {
            assert!(seen.contains(topic), "{filter} missed {topic}");
        }
    }
    outcome
}

fn check_end(retained: &mut Retained<Message>, model: &BTreeMap<String, (u64, bool)>) {
    let mut count = 0;
    let mut bytes = 0;
    for (topic, (stamp, present)) in model {
        let expected = present.then_some(*stamp);
        assert_eq!(
            retained.get(topic).map(|message| message.0.1),
            expected,
            "{topic}"
        );
        if *present {
            count += 1;
            bytes += topic.len();
        }
    }
    assert_eq!(retained.count(), count);
    assert_eq!(retained.bytes(), bytes);
    assert!(retained.tombstone_count() <= model.len());
    retained.purge(u64::MAX);
    assert_eq!(retained.tombstone_count(), 0);
    assert_eq!(retained.count(), count);
}

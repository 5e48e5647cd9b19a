//! Which delivery is owed to what.

use crate::model::{MessageId, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// Something that a delivery can be owed to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The session's subscriptions, as the message that was routed at a tick came by.
    Live(SessionId, MessageId, u64),
    /// One SUBSCRIBE of the session, by its place in `Session::replays`.
    Replay(SessionId, usize),
    /// A shared group, of which each message goes to one member.
    Group(MessageId, String),
}

/// All deliveries on one topic, each with a cause of its own: a matching that is repaired as deliveries come, because
/// several causes may look alike at first.
#[derive(Debug, Default)]
pub struct Causes {
    deliveries: Vec<(Vec<Cause>, Option<Cause>)>,
    used: BTreeMap<Cause, Vec<usize>>,
}

impl Causes {
    /// Finds a cause for one more delivery; false when there is none, whatever the others are owed to.
    pub fn add(&mut self, causes: Vec<Cause>, capacity: &impl Fn(&Cause) -> usize) -> bool {
        self.deliveries.push((causes, None));
        let last = self.deliveries.len() - 1;
        let found = self.assign(last, capacity, &mut BTreeSet::new());
        if !found {
            self.deliveries.pop();
        }
        found
    }

    fn assign(
        &mut self,
        delivery: usize,
        capacity: &impl Fn(&Cause) -> usize,
        visited: &mut BTreeSet<Cause>,
    ) -> bool {
        for cause in self.deliveries[delivery].0.clone() {
            if !visited.insert(cause.clone()) {
                continue;
            }
            let holders = self.used.get(&cause).cloned().unwrap_or_default();
            let is_free = holders.len() < capacity(&cause)
                || holders
                    .into_iter()
                    .any(|holder| self.assign(holder, capacity, visited));
            if is_free {
                if let Some(old) = self.deliveries[delivery].1.replace(cause.clone()) {
                    let holders = self.used.get_mut(&old).expect("it was used");
                    holders.retain(|holder| *holder != delivery);
                }
                self.used.entry(cause).or_default().push(delivery);
                return true;
            }
        }
        false
    }

    /// Which of these causes cannot all have had a delivery of their own.
    pub fn without_delivery(&self, owed: &[Cause]) -> Vec<Cause> {
        let mut holders = BTreeMap::new();
        owed.iter()
            .filter(|cause| !self.hold(cause, &mut holders, &mut BTreeSet::new()))
            .cloned()
            .collect()
    }

    fn hold<'a>(
        &'a self,
        cause: &'a Cause,
        holders: &mut BTreeMap<usize, &'a Cause>,
        visited: &mut BTreeSet<usize>,
    ) -> bool {
        for (at, (causes, _)) in self.deliveries.iter().enumerate() {
            if !causes.contains(cause) || !visited.insert(at) {
                continue;
            }
            let holder = holders.get(&at).copied();
            if holder.is_none_or(|other| self.hold(other, holders, visited)) {
                holders.insert(at, cause);
                return true;
            }
        }
        false
    }
}

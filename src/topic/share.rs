//! Shared Subscriptions: every core knows every group, and how many members each core has.
//!
//! The core of the publisher picks a *core* by smooth weighted round-robin over the members that
//! are online anywhere (over those offline when nobody is); that core picks the *member*. A message
//! therefore crosses cores at most once, no core is the home of a group, and a group's filter is
//! not in the interest table.
//!
//! A group exists on a core while it has a member here or while another core has told of one. A
//! [`GroupId`] is this core's own name for it: the others learn it with the member counts, and send
//! it back with each message. Ids are handed out in ascending order, so one that another core still
//! holds does not soon name another group.
//!
//! Spec: MQTT 5 §4.8.2.

use super::filter::TopicFilter;
use super::filter_map::{FilterId, FilterMap};
use super::index::Subscriber;
use super::interest::{CORES_MAX, CoreMask};
use super::keyed_list::KeyedList;
use super::levels::{HashedIndex, PathHasher, table_hash};
use hashbrown::HashTable;
use slab::Slab;

/// One core's name for a group: a share name and a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// Through what a message comes to a session: its own subscriptions, or one shared group. A session gets a message at most once
/// through each, so this tells its parts in one message apart, in the store too and after a restart.
///
/// Of a group it is a hash of its text. Two groups that share it are taken for one where a session is in both: that harms nobody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part(u32);

impl Part {
    /// The session's own subscriptions.
    pub const OWN: Self = Self(0);
    /// The bits of a part.
    pub const BITS: u32 = 29;

    /// A shared group, by `$share/NAME/FILTER`.
    pub fn of_group(text: &str) -> Self {
        // FNV-1a: the same in every process, so without the seed of the tables.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(((hash >> (64 - Self::BITS)) as u32).max(1))
    }

    /// The number, below 2^`BITS`.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// From what `bits` gave; `None` when it cannot have given this.
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits >> Self::BITS == 0).then_some(Self(bits))
    }

    /// Whether it is a shared group.
    pub fn is_shared(self) -> bool {
        self != Self::OWN
    }
}

/// All groups known on one core.
pub struct Groups<S: Subscriber> {
    /// Filter, without `$share/NAME/`, to the groups that share it, as indexes into `groups`.
    filters: FilterMap<Vec<u32>>,
    groups: Slab<Group<S>>,
    /// Groups by share name and filter.
    by_name: HashTable<HashedIndex>,
    /// Groups by id.
    by_id: HashTable<HashedIndex>,
    id_hasher: PathHasher,
    next_id: u32,
}

/// The members of a group on one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// Members with a Network Connection.
    pub online: u32,
    /// Members without.
    pub offline: u32,
    /// Members of either kind whose messages are stored.
    pub stored: u32,
}

struct Group<S> {
    id: GroupId,
    part: Part,
    name: Box<str>,
    filter: FilterId,
    /// Where this group stands in its filter's list.
    position: usize,
    online: Members<S>,
    offline: Members<S>,
    stored: u32,
    /// What smooth weighted round-robin owes this core.
    local_credit: i64,
    /// In ascending order of `core`, one each.
    remotes: Vec<Remote>,
}

struct Members<S> {
    list: KeyedList<S>,
    /// Whose turn it is.
    next: usize,
}

struct Remote {
    core: u8,
    group: GroupId,
    counts: MemberCounts,
    credit: i64,
}

/// What [`Groups::join`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined<S> {
    /// The group; its counts have changed unless `replaced` was online or offline alike.
    pub group: GroupId,
    /// The entry that had this key before.
    pub replaced: Option<S>,
}

/// What [`Groups::leave`] removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left<S> {
    /// The group; when `gone`, it is no longer valid.
    pub group: GroupId,
    /// The entry that was removed.
    pub entry: S,
    /// The members of this core now.
    pub counts: MemberCounts,
    /// Whether the group has no member on any core any more.
    pub gone: bool,
}

impl<S: Subscriber> Groups<S> {
    /// No groups; hashes are keyed by `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            filters: FilterMap::new(seed),
            groups: Slab::new(),
            by_name: HashTable::new(),
            by_id: HashTable::new(),
            id_hasher: PathHasher::new(seed),
            next_id: 0,
        }
    }

    /// Makes `entry` a member, online or offline, or replaces the member with its key.
    ///
    /// Panics when `filter` is not a Shared Subscription.
    pub fn join(&mut self, filter: &TopicFilter<'_>, entry: S, online: bool) -> Joined<S> {
        let at = self.find_or_add(filter);
        let group = &mut self.groups[at];
        let (into, other) = if online {
            (&mut group.online, &mut group.offline)
        } else {
            (&mut group.offline, &mut group.online)
        };
        let elsewhere = other.list.remove(entry.key());
        let replaced = into.list.insert(entry).or(elsewhere);
        if replaced.is_none() {
            group.stored += u32::from(entry.is_stored());
        }
        Joined {
            group: group.id,
            replaced,
        }
    }

    /// Ends the membership of `key`; `None` when there is none.
    ///
    /// Panics when `filter` is not a Shared Subscription.
    pub fn leave(&mut self, filter: &TopicFilter<'_>, key: u32) -> Option<Left<S>> {
        self.leave_group(self.find(filter)?, key)
    }

    /// Ends the membership of `key` in `group`; `None` when there is none.
    pub fn leave_group(&mut self, group: GroupId, key: u32) -> Option<Left<S>> {
        let at = self.at(group)?;
        let found = &mut self.groups[at];
        let entry = found
            .online
            .list
            .remove(key)
            .or_else(|| found.offline.list.remove(key))?;
        found.stored -= u32::from(entry.is_stored());
        let counts = found.local_counts();
        let gone = self.remove_if_empty(at);
        Some(Left {
            group,
            entry,
            counts,
            gone,
        })
    }

    /// Marks the member `key` as online or offline; true when that changed the counts.
    pub fn set_online(&mut self, group: GroupId, key: u32, online: bool) -> bool {
        let Some(at) = self.at(group) else {
            return false;
        };
        let group = &mut self.groups[at];
        let (into, from) = if online {
            (&mut group.online, &mut group.offline)
        } else {
            (&mut group.offline, &mut group.online)
        };
        let Some(entry) = from.list.remove(key) else {
            return false;
        };
        into.list.insert(entry);
        true
    }

    /// The group of `filter`, when it has a member on any core.
    ///
    /// Panics when `filter` is not a Shared Subscription.
    pub fn find(&self, filter: &TopicFilter<'_>) -> Option<GroupId> {
        let name = share_name(filter);
        let filter_id = self.filters.find(filter.filter())?;
        self.find_at(name, filter_id).map(|at| self.groups[at].id)
    }

    /// The member `key` of `group` on this core.
    pub fn member(&self, group: GroupId, key: u32) -> Option<S> {
        let group = &self.groups[self.at(group)?];
        group
            .online
            .list
            .get(key)
            .or_else(|| group.offline.list.get(key))
            .copied()
    }

    /// The members of `group` on this core, which is what the other cores are told; none when the group does not exist.
    pub fn counts(&self, group: GroupId) -> MemberCounts {
        self.at(group)
            .map_or_else(MemberCounts::default, |at| self.groups[at].local_counts())
    }

    /// Appends `$share/NAME/FILTER` to `out`; nothing when the group does not exist.
    ///
    /// A group that loses its last member is gone: read its text before.
    pub fn text(&self, group: GroupId, out: &mut String) {
        if let Some(at) = self.at(group) {
            let group = &self.groups[at];
            out.push_str("$share/");
            out.push_str(&group.name);
            out.push('/');
            self.filters.text(group.filter, out);
        }
    }

    /// The part that a session has in a message through `group`; its own when the group does not exist.
    pub fn part(&self, group: GroupId) -> Part {
        self.at(group).map_or(Part::OWN, |at| self.groups[at].part)
    }

    /// Core `from` has so many members in the group `text`, which it calls `remote_group`.
    ///
    /// No members means that it has none any more. Returns this core's id of the group, when it
    /// still exists.
    ///
    /// Panics when `from` is not below [`CORES_MAX`], or when `text` is not a valid Shared
    /// Subscription: it was one when the other core parsed it.
    pub fn apply_remote(
        &mut self,
        from: u8,
        text: &str,
        remote_group: GroupId,
        counts: MemberCounts,
    ) -> Option<GroupId> {
        assert!(from < CORES_MAX);
        let filter = TopicFilter::parse(text).expect("a core announces only filters it has parsed");
        if counts.is_none() {
            let group = self.find(&filter)?;
            let at = self.at(group).expect("the group was found just now");
            self.groups[at].remotes.retain(|remote| remote.core != from);
            return (!self.remove_if_empty(at)).then_some(group);
        }
        let at = self.find_or_add(&filter);
        let group = &mut self.groups[at];
        let remote = Remote {
            core: from,
            group: remote_group,
            counts,
            credit: 0,
        };
        match group
            .remotes
            .binary_search_by_key(&from, |remote| remote.core)
        {
            Ok(present) => {
                let credit = group.remotes[present].credit;
                group.remotes[present] = Remote { credit, ..remote };
            }
            Err(absent) => group.remotes.insert(absent, remote),
        }
        Some(group.id)
    }

    /// Calls `f` for every group whose filter matches `topic`, each once.
    ///
    /// Order: the same after the same operations, whatever the seed.
    pub fn for_each_match(&self, topic: &str, mut f: impl FnMut(GroupId)) {
        if self.groups.is_empty() {
            return;
        }
        self.filters.for_each_match(topic, |_, groups| {
            groups.iter().for_each(|at| f(self.groups[*at as usize].id));
        });
    }

    /// The core whose turn it is to take a message for `group`, this one included; none of
    /// `exclude`.
    ///
    /// Smooth weighted round-robin: in any run of as many picks as there are members, each core is
    /// picked as often as it has members, spread out. Cores that are excluded keep their turn.
    /// Offline members count only while no core outside `exclude` has one online. A tie goes to
    /// this core, then to the next one up, so that cores that start at the same moment do not all
    /// begin with the same one.
    ///
    /// `None` when no other core is left. Cost: one pass over the cores with members.
    pub fn pick_core(&mut self, group: GroupId, this_core: u8, exclude: CoreMask) -> Option<u8> {
        assert!(this_core < CORES_MAX);
        let at = self.at(group)?;
        let group = &mut self.groups[at];
        let is_excluded = |core: u8| exclude & (1 << core) != 0;
        let (online, offline) = group.weights(this_core, is_excluded);
        let (total, any_online) = if online > 0 {
            (online, true)
        } else {
            (offline, false)
        };
        let weight = |counts: MemberCounts| {
            i64::from(if any_online {
                counts.online
            } else {
                counts.offline
            })
        };

        let local_weight = weight(group.local_counts());
        let local = (this_core, local_weight, &mut group.local_credit);
        let remotes = group
            .remotes
            .iter_mut()
            .map(|remote| (remote.core, weight(remote.counts), &mut remote.credit));
        let mut best: Option<(u8, &mut i64)> = None;
        for (core, weight, credit) in std::iter::once(local).chain(remotes) {
            if weight == 0 || is_excluded(core) {
                continue;
            }
            // Credit stays within the total by itself; what was earned before the counts changed
            // must not starve anybody now.
            *credit = (*credit).clamp(-total, total) + weight;
            let distance = |core: u8| (core + CORES_MAX - this_core) % CORES_MAX;
            let better = best.as_ref().is_none_or(|(best_core, best_credit)| {
                *credit > **best_credit
                    || (*credit == **best_credit && distance(core) < distance(*best_core))
            });
            if better {
                best = Some((core, credit));
            }
        }
        let (core, credit) = best?;
        *credit -= total;
        Some(core)
    }

    /// What core `core` calls `group`, and its members, when it has any there.
    pub fn remote_group(&self, group: GroupId, core: u8) -> Option<(GroupId, MemberCounts)> {
        let remotes = &self.groups[self.at(group)?].remotes;
        let at = remotes
            .binary_search_by_key(&core, |remote| remote.core)
            .ok()?;
        Some((remotes[at].group, remotes[at].counts))
    }

    /// The member of this core whose turn it is: round-robin over those online, then over those
    /// offline.
    ///
    /// `usable` is asked about each in turn until it agrees; `None` when it never does. A member
    /// that leaves may make another one lose one turn.
    pub fn pick_member(&mut self, group: GroupId, mut usable: impl FnMut(&S) -> bool) -> Option<S> {
        let at = self.at(group)?;
        let group = &mut self.groups[at];
        group
            .online
            .pick(&mut usable)
            .or_else(|| group.offline.pick(&mut usable))
    }

    /// Whether `group` has a member online, on any core.
    pub fn has_online(&self, group: GroupId) -> bool {
        self.at(group).is_some_and(|at| {
            let group = &self.groups[at];
            group.online.list.count() > 0
                || group.remotes.iter().any(|remote| remote.counts.online > 0)
        })
    }

    /// How many groups have a member on any core.
    pub fn count(&self) -> usize {
        self.groups.len()
    }

    /// Whether no group has a member on any core.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn at(&self, group: GroupId) -> Option<usize> {
        let slot = self
            .by_id
            .find(self.id_hash(group), |slot| self.id_at(slot) == group)?;
        Some(slot.index as usize)
    }

    fn id_at(&self, slot: &HashedIndex) -> GroupId {
        self.groups[slot.index as usize].id
    }

    fn id_hash(&self, group: GroupId) -> u64 {
        table_hash(self.id_hasher.edge(group.0, 0))
    }

    fn find_at(&self, name: &str, filter: FilterId) -> Option<usize> {
        let hash = self.name_hash(name, filter);
        let is_it = |slot: &HashedIndex| {
            slot.may_be(hash) && {
                let group = &self.groups[slot.index as usize];
                group.filter == filter && *group.name == *name
            }
        };
        self.by_name
            .find(table_hash(hash), is_it)
            .map(|slot| slot.index as usize)
    }

    fn name_hash(&self, name: &str, filter: FilterId) -> u64 {
        let hasher = self.filters.hasher();
        hasher.edge(filter.0, hasher.text(name.as_bytes()))
    }

    fn find_or_add(&mut self, filter: &TopicFilter<'_>) -> usize {
        let name = share_name(filter);
        let filter_id = self.filters.find_or_insert(filter.filter(), Vec::new);
        if let Some(at) = self.find_at(name, filter_id) {
            return at;
        }
        let id = self.free_id();
        let name_hash = self.name_hash(name, filter_id);
        let id_hash = self.id_hasher.edge(id.0, 0);
        let sharing = self
            .filters
            .get_mut(filter_id)
            .expect("found or inserted just now");
        let at = self.groups.insert(Group {
            id,
            part: Part::of_group(filter.text()),
            name: name.into(),
            filter: filter_id,
            position: sharing.len(),
            online: Members::new(),
            offline: Members::new(),
            stored: 0,
            local_credit: 0,
            remotes: Vec::new(),
        });
        let index = u32::try_from(at).expect("there are fewer groups than ids");
        sharing.push(index);
        for (table, hash) in [(&mut self.by_name, name_hash), (&mut self.by_id, id_hash)] {
            let slot = HashedIndex::new(hash, index);
            table.insert_unique(slot.table_hash(), slot, HashedIndex::table_hash);
        }
        at
    }

    fn free_id(&mut self) -> GroupId {
        loop {
            let id = GroupId(self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            if self.at(id).is_none() {
                return id;
            }
        }
    }

    /// Removes a group that has no member on any core, and says whether it did.
    fn remove_if_empty(&mut self, at: usize) -> bool {
        let group = &self.groups[at];
        if !group.local_counts().is_none() || !group.remotes.is_empty() {
            return false;
        }
        let name_hash = table_hash(self.name_hash(&group.name, group.filter));
        let id_hash = self.id_hash(group.id);
        for (table, hash) in [(&mut self.by_name, name_hash), (&mut self.by_id, id_hash)] {
            table
                .find_entry(hash, |slot| slot.index as usize == at)
                .expect("every group is in both tables")
                .remove();
        }
        let group = self.groups.remove(at);
        let sharing = self
            .filters
            .get_mut(group.filter)
            .expect("a group's filter is in the map");
        sharing.swap_remove(group.position);
        if let Some(moved) = sharing.get(group.position) {
            self.groups[*moved as usize].position = group.position;
        }
        if sharing.is_empty() {
            self.filters.remove(group.filter);
        }
        true
    }
}

impl MemberCounts {
    /// Whether there is no member.
    pub fn is_none(self) -> bool {
        self.online == 0 && self.offline == 0
    }
}

impl<S: Subscriber> Group<S> {
    fn local_counts(&self) -> MemberCounts {
        // A list has one entry per u32 key.
        MemberCounts {
            online: self.online.list.count() as u32,
            offline: self.offline.list.count() as u32,
            stored: self.stored,
        }
    }

    /// Members online and offline on all cores that are not excluded.
    fn weights(&self, this_core: u8, is_excluded: impl Fn(u8) -> bool) -> (i64, i64) {
        let remotes = self
            .remotes
            .iter()
            .map(|remote| (remote.core, remote.counts));
        std::iter::once((this_core, self.local_counts()))
            .chain(remotes)
            .filter(|(core, _)| !is_excluded(*core))
            .fold((0, 0), |sum, (_, counts)| {
                (
                    sum.0 + i64::from(counts.online),
                    sum.1 + i64::from(counts.offline),
                )
            })
    }
}

impl<S: Subscriber> Members<S> {
    fn new() -> Self {
        Self {
            list: KeyedList::Empty,
            next: 0,
        }
    }

    fn pick(&mut self, usable: &mut impl FnMut(&S) -> bool) -> Option<S> {
        let members = self.list.as_slice();
        if self.next >= members.len() {
            self.next = 0;
        }
        let (before, from) = members.split_at(self.next);
        let turn = from.iter().chain(before).position(usable)?;
        let at = (self.next + turn) % members.len();
        self.next = at + 1;
        Some(members[at])
    }
}

fn share_name<'a>(filter: &TopicFilter<'a>) -> &'a str {
    filter
        .share_name()
        .expect("only Shared Subscriptions have groups")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Entry(u32);

    impl Subscriber for Entry {
        fn key(&self) -> u32 {
            self.0
        }

        fn is_stored(&self) -> bool {
            self.0 == 2
        }
    }

    fn counts(online: u32, offline: u32, stored: u32) -> MemberCounts {
        MemberCounts {
            online,
            offline,
            stored,
        }
    }

    fn shared(text: &str) -> TopicFilter<'_> {
        TopicFilter::parse(text).expect("valid")
    }

    fn matching(groups: &Groups<Entry>, topic: &str) -> Vec<String> {
        let mut found = Vec::new();
        groups.for_each_match(topic, |group| {
            let mut text = String::new();
            groups.text(group, &mut text);
            found.push(text);
        });
        found
    }

    #[test]
    fn groups_differ_by_name_and_by_filter() {
        let mut groups = Groups::new(0);
        for text in [
            "$share/a/x",
            "$share/b/x",
            "$share/a/+",
            "$share/a/y",
            "$share/a/x",
        ] {
            groups.join(&shared(text), Entry(1), true);
        }
        assert_eq!(groups.count(), 4);
        assert_eq!(
            matching(&groups, "x"),
            ["$share/a/x", "$share/b/x", "$share/a/+"]
        );
        let left = groups.leave(&shared("$share/a/x"), 1).expect("a member");
        assert!(left.gone);
        assert_eq!(matching(&groups, "x"), ["$share/b/x", "$share/a/+"]);
        assert_eq!(groups.leave(&shared("$share/a/x"), 1), None);
        assert_eq!(groups.leave(&shared("$share/b/x"), 2), None);
    }

    #[test]
    fn an_id_is_not_used_again_at_once() {
        let mut groups = Groups::new(0);
        let first = groups.join(&shared("$share/a/x"), Entry(1), true).group;
        groups.leave_group(first, 1);
        let second = groups.join(&shared("$share/a/x"), Entry(1), true).group;
        assert_ne!(first, second);
        assert_eq!(groups.counts(first), counts(0, 0, 0));
        assert_eq!(groups.pick_core(first, 0, 0), None);
        assert_eq!(groups.pick_member(first, |_| true), None);
        assert_eq!(groups.member(first, 1), None);
    }

    #[test]
    fn ids_skip_those_in_use_after_a_full_round() {
        let mut groups = Groups::new(0);
        assert_eq!(
            groups.join(&shared("$share/a/x"), Entry(1), true).group,
            GroupId(0)
        );
        groups.next_id = u32::MAX;
        assert_eq!(
            groups.join(&shared("$share/a/y"), Entry(1), true).group,
            GroupId(u32::MAX)
        );
        assert_eq!(
            groups.join(&shared("$share/a/z"), Entry(1), true).group,
            GroupId(1)
        );
    }

    #[test]
    fn joining_again_replaces_and_moves_between_online_and_offline() {
        let mut groups = Groups::new(0);
        let filter = shared("$share/g/a/#");
        let group = groups.join(&filter, Entry(1), true).group;
        assert_eq!(groups.counts(group), counts(1, 0, 0));
        assert_eq!(
            groups.join(&filter, Entry(1), false).replaced,
            Some(Entry(1))
        );
        assert_eq!(groups.counts(group), counts(0, 1, 0));
        assert!(groups.set_online(group, 1, true));
        assert!(!groups.set_online(group, 1, true));
        assert!(!groups.set_online(group, 2, true));
        assert_eq!(groups.counts(group), counts(1, 0, 0));
        assert_eq!(groups.member(group, 1), Some(Entry(1)));
    }

    #[test]
    fn members_whose_messages_are_stored_are_counted_online_or_not() {
        let mut groups = Groups::new(0);
        let filter = shared("$share/g/t");
        groups.join(&filter, Entry(1), true);
        let group = groups.join(&filter, Entry(2), true).group;
        assert_eq!(groups.counts(group), counts(2, 0, 1));
        groups.join(&filter, Entry(2), false);
        assert_eq!(groups.counts(group), counts(1, 1, 1));
        groups.set_online(group, 2, true);
        assert_eq!(groups.counts(group), counts(2, 0, 1));
        let left = groups.leave_group(group, 2).expect("a member");
        assert_eq!(left.counts, counts(1, 0, 0));
    }

    #[test]
    fn members_take_turns_online_before_offline_and_unusable_ones_are_skipped() {
        let mut groups = Groups::new(0);
        let filter = shared("$share/g/t");
        for key in 0..3 {
            groups.join(&filter, Entry(key), true);
        }
        let group = groups.join(&filter, Entry(9), false).group;
        let mut picks = |usable: fn(u32) -> bool, count: usize| -> Vec<u32> {
            (0..count)
                .filter_map(|_| groups.pick_member(group, |entry| usable(entry.0)))
                .map(|entry| entry.0)
                .collect()
        };
        assert_eq!(picks(|_| true, 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(picks(|key| key != 1, 4), [2, 0, 2, 0]);
        assert_eq!(picks(|key| key > 2, 2), [9, 9]);
        assert_eq!(picks(|_| false, 2), [0; 0]);
    }

    #[test]
    fn cores_take_turns_by_their_online_members() {
        let mut groups = Groups::new(0);
        let text = "$share/g/t";
        let group = groups.join(&shared(text), Entry(1), true).group;
        groups.apply_remote(3, text, GroupId(77), counts(2, 5, 1));
        groups.apply_remote(1, text, GroupId(78), counts(0, 9, 0));
        assert_eq!(
            groups.remote_group(group, 3),
            Some((GroupId(77), counts(2, 5, 1)))
        );
        assert_eq!(groups.remote_group(group, 2), None);
        let picks: Vec<_> = (0..6)
            .filter_map(|_| groups.pick_core(group, 0, 0))
            .collect();
        assert_eq!(picks, [3, 0, 3, 3, 0, 3]);
    }

    #[test]
    fn offline_members_count_only_when_nobody_else_is_online() {
        let mut groups: Groups<Entry> = Groups::new(0);
        let text = "$share/g/t";
        let group = groups
            .apply_remote(1, text, GroupId(1), counts(1, 0, 0))
            .expect("it has members");
        groups.apply_remote(2, text, GroupId(2), counts(0, 1, 0));
        groups.apply_remote(3, text, GroupId(3), counts(0, 1, 0));
        assert_eq!(groups.pick_core(group, 0, 0), Some(1));
        assert_eq!(groups.pick_core(group, 0, 1 << 1), Some(2));
        assert_eq!(groups.pick_core(group, 0, 1 << 1), Some(3));
        assert_eq!(groups.pick_core(group, 0, 0b1110), None);
        assert_eq!(
            groups.apply_remote(1, text, GroupId(1), counts(0, 0, 0)),
            Some(group)
        );
        assert_eq!(
            groups.apply_remote(2, text, GroupId(2), counts(0, 0, 0)),
            Some(group)
        );
        assert_eq!(
            groups.apply_remote(3, text, GroupId(3), counts(0, 0, 0)),
            None
        );
        assert_eq!(
            groups.apply_remote(3, text, GroupId(3), counts(0, 0, 0)),
            None
        );
        assert!(groups.is_empty());
    }
}

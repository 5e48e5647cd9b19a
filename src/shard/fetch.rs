//! Messages whose payloads are in the store alone are read back when a session can send them, in slices, or when
//! another member of their shared group is to have them.

use super::counters::DropCause;
use super::message::Message;
use super::outbox::Outbox;
use super::record::{Fetch, FetchToken, Record, StoredMessage, StoredSession};
use super::{Shard, Subscription};
use crate::session::inflight::Arrived;
use crate::session::queue::{Front, LetGo};
use crate::session::{SessionKey, StoredDelivery};
use crate::topic::share::{GroupId, Groups, Part};
use std::collections::VecDeque;
use std::rc::Rc;

/// About how many bytes are read back for one session at once.
const FETCH_BYTES: usize = 256 << 10;

/// How many times `queue_resident_max` messages these may be, for a client that takes so many.
const SLICE_RESIDENTS: usize = 8;

/// Whom a read is for.
#[derive(Debug)]
pub(super) enum FetchFor {
    Session { session: SessionKey, stored: u64 },
    Redispatch(usize),
}

/// Messages of shared groups, in the store alone, that one member leaves to others.
#[derive(Debug)]
pub(super) struct Redispatch {
    stored: u64,
    groups: Vec<GroupId>,
    left: VecDeque<StoredDelivery>,
    /// Of `left`, those that are being read.
    fetching: usize,
}

impl Shard {
    /// Sees that the message a session is to send next is in memory. Returns whether one is now.
    pub(super) fn read_back(&mut self, key: SessionKey, outbox: &mut Outbox) -> bool {
        let count_max = self.slice_max(key);
        let Some(state) = &mut self.sessions[key.0 as usize].state else {
            return false;
        };
        if state.is_fetching {
            return false;
        }
        let mut numbers = state.inflight.to_fetch(count_max);
        if numbers.is_empty() {
            if let Some(Front::Stored(next)) = state.queue.front()
                && let Some(unstored) = self.keeper.unstored.get(&next.number)
            {
                let (number, message) = (next.number, Rc::clone(&unstored.message));
                self.arrived(key, number, Some(message), outbox);
                return true;
            }
            numbers = state.queue.to_fetch(count_max, FETCH_BYTES);
            // They are not in the store yet, and stand behind others that are.
            let known = numbers
                .iter()
                .position(|number| self.keeper.unstored.contains_key(number));
            numbers.truncate(known.unwrap_or(numbers.len()));
        }
        if numbers.is_empty() {
            return false;
        }
        state.is_fetching = true;
        let stored = self.sessions[key.0 as usize].stored;
        let session = key;
        self.fetch(numbers, FetchFor::Session { session, stored }, outbox);
        false
    }

    /// How many messages are read back for a session at once: what it can be sent now, within bounds. Each slice wakes two threads.
    fn slice_max(&self, key: SessionKey) -> usize {
        let resident = self.limits.queue_resident_max as usize;
        let conn = self.sessions[key.0 as usize].conn;
        let free = conn.map_or(0, |conn| self.window_free(key, conn));
        free.clamp(resident, resident * SLICE_RESIDENTS)
    }

    fn fetch(&mut self, numbers: Vec<u64>, whom: FetchFor, outbox: &mut Outbox) {
        self.keeper.last_fetch += 1;
        let token = FetchToken(self.keeper.last_fetch);
        self.keeper.fetches.insert(token.0, whom);
        outbox.fetch.push(Fetch {
            token,
            messages: numbers.into_iter().map(StoredMessage).collect(),
            wall_minus_mono_ms: self.wall_minus_mono_ms(),
        });
    }

    pub(super) fn fetched(
        &mut self,
        token: FetchToken,
        messages: Vec<(StoredMessage, Option<Message>)>,
        outbox: &mut Outbox,
    ) {
        let whom = self.keeper.fetches.remove(&token.0);
        match whom.expect("an answer to a question") {
            FetchFor::Session { session, stored } => {
                self.fetched_for(session, stored, messages, outbox);
            }
            FetchFor::Redispatch(job) => self.redispatch_fetched(job, messages, outbox),
        }
    }

    fn fetched_for(
        &mut self,
        key: SessionKey,
        stored: u64,
        messages: Vec<(StoredMessage, Option<Message>)>,
        outbox: &mut Outbox,
    ) {
        let Some(session) = self.sessions.get_mut(key.0 as usize) else {
            return;
        };
        if session.stored != stored {
            return;
        }
        let is_away = session.conn.is_none();
        if let Some(state) = &mut session.state {
            state.is_fetching = false;
        }
        // Whoever is away again does not need them in memory.
        if is_away {
            return;
        }
        for (StoredMessage(number), message) in messages {
            self.arrived(key, number, message.map(Rc::new), outbox);
        }
        self.pump(key, outbox);
    }

    /// A message of a session was read back, or is not there.
    fn arrived(
        &mut self,
        key: SessionKey,
        number: u64,
        message: Option<Rc<Message>>,
        outbox: &mut Outbox,
    ) {
        let session = &mut self.sessions[key.0 as usize];
        let stored = session.stored;
        let Some(state) = &mut session.state else {
            return;
        };
        match state.inflight.arrived(number, message.as_ref()) {
            Arrived::Taken => {}
            Arrived::GivenUp(packet_id, place) => {
                let session = StoredSession(stored);
                self.keep(Record::OutgoingEnded { session, packet_id }, outbox);
                let message = None;
                self.let_go(key, LetGo { place, message }, DropCause::Lost, outbox);
            }
            Arrived::Unknown => {
                let before = state.queue.bytes();
                let groups = &self.groups;
                let gone = state.queue.arrived(number, message, |delivery, message| {
                    let is_in = |group| groups.member(group, key.0).is_some();
                    group_of(groups, message.topic(), delivery.flags.part(), is_in)
                });
                let after = state.queue.bytes();
                self.queued_bytes = self.queued_bytes + after as u64 - before as u64;
                if let Some(gone) = gone {
                    self.let_go(key, gone, DropCause::Lost, outbox);
                }
            }
        }
    }

    /// Gives messages that a member has in the store alone to other members of its groups.
    pub(super) fn begin_redispatch(
        &mut self,
        stored: u64,
        groups: Vec<GroupId>,
        left: Vec<StoredDelivery>,
        outbox: &mut Outbox,
    ) {
        if left.is_empty() {
            return;
        }
        self.leave(stored);
        let job = self.keeper.redispatches.insert(Redispatch {
            stored,
            groups,
            left: left.into(),
            fetching: 0,
        });
        self.go_on_redispatching(job, outbox);
    }

    /// Goes on with what was recovered, now that all shards know each other's groups.
    pub(super) fn redispatch_recovered(&mut self, outbox: &mut Outbox) {
        let jobs: Vec<usize> = self
            .keeper
            .redispatches
            .iter()
            .map(|(job, _)| job)
            .collect();
        for job in jobs {
            self.go_on_redispatching(job, outbox);
        }
    }

    fn go_on_redispatching(&mut self, job: usize, outbox: &mut Outbox) {
        if self.keeper.is_recovering {
            return;
        }
        loop {
            let it = &mut self.keeper.redispatches[job];
            if it.fetching > 0 {
                return;
            }
            let Some(next) = it.left.front() else {
                let it = self.keeper.redispatches.remove(job);
                self.has_left(it.stored, outbox);
                return;
            };
            if let Some(unstored) = self.keeper.unstored.get(&next.number) {
                let message = Rc::clone(&unstored.message);
                self.redispatch_one(job, Some(message), outbox);
                continue;
            }
            let unstored = &self.keeper.unstored;
            let count_max = self.limits.queue_resident_max as usize;
            let numbers: Vec<u64> = it
                .left
                .iter()
                .take(count_max)
                .map(|delivery| delivery.number)
                .take_while(|number| !unstored.contains_key(number))
                .collect();
            it.fetching = numbers.len();
            self.fetch(numbers, FetchFor::Redispatch(job), outbox);
        }
    }

    /// The store has refused a message: what members left of it is given to nobody. Returns how many deliveries these are.
    pub(super) fn refused_of_left(&mut self, number: u64) -> usize {
        let mut dropped = 0;
        for (_, job) in &mut self.keeper.redispatches {
            let before = job.left.len();
            // It stands behind those that are being read: these are durable.
            job.left.retain(|delivery| delivery.number != number);
            assert!(job.left.len() >= job.fetching);
            dropped += before - job.left.len();
        }
        dropped
    }

    fn redispatch_fetched(
        &mut self,
        job: usize,
        messages: Vec<(StoredMessage, Option<Message>)>,
        outbox: &mut Outbox,
    ) {
        let fetching = std::mem::take(&mut self.keeper.redispatches[job].fetching);
        // Fewer if one cannot be read: those are asked for again.
        assert!((1..=fetching).contains(&messages.len()));
        for (number, message) in messages {
            assert_eq!(self.keeper.redispatches[job].left[0].number, number.0);
            self.redispatch_one(job, message.map(Rc::new), outbox);
        }
        self.go_on_redispatching(job, outbox);
    }

    fn redispatch_one(&mut self, job: usize, message: Option<Rc<Message>>, outbox: &mut Outbox) {
        let it = &mut self.keeper.redispatches[job];
        let stored = it.stored;
        let delivery = it.left.pop_front().expect("there is a next");
        let Some(message) = message else {
            self.note_drops(None, "", DropCause::Lost, 1);
            self.ended_for(stored, delivery.place(), outbox);
            return;
        };
        let groups = &it.groups;
        let was_in = |group| groups.contains(&group);
        let part = delivery.flags.part();
        let group = group_of(&self.groups, message.topic(), part, was_in);
        if group.is_none() {
            // The member has left the group, and nobody knows to whom else it might go.
            self.counters.drop_one(DropCause::NoMember);
            self.ended_for(stored, delivery.place(), outbox);
            return;
        }
        let delivery = delivery.with(message, group);
        self.redispatch(&delivery, stored, outbox);
    }
}

/// The shared group that is this part, if it matches the topic and is `wanted`.
fn group_of(
    groups: &Groups<Subscription>,
    topic: &str,
    part: Part,
    wanted: impl Fn(GroupId) -> bool,
) -> Option<GroupId> {
    let mut found = None;
    if part.is_shared() {
        groups.for_each_match(topic, |group| {
            if groups.part(group) == part && wanted(group) {
                found = Some(group);
            }
        });
    }
    found
}

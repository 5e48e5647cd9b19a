//! A session loses its connection, and perhaps ends (MQTT 5 §4.1, §3.1.2.5).

use super::Shard;
use super::access::May;
use super::connection::End;
use super::counters::DropCause;
use super::message::{Message, MessageParts, NEVER};
use super::outbox::{Event, Outbox};
use super::publication::Publication;
use super::storing::{Source, Then};
use super::timer::{Timer, TimerKind};
use crate::protocol::QoS;
use crate::session::will::Will;
use crate::session::{
    Delivery, Place, Session, SessionKey, StoredDelivery, SubscriptionRef, SubscriptionRefs,
};
use crate::topic::share::GroupId;

/// A Session Expiry Interval that never ends (§3.1.2.11.2).
const NEVER_EXPIRES: u32 = u32::MAX;
/// Sessions looked at to find one that may be evicted.
const EVICT_VISITS: usize = 1_024;

impl Shard {
    /// The connection of a session is gone. The Will goes out now, later, or not at all; the session ends now or later.
    pub(super) fn detach(&mut self, key: SessionKey, end: End, outbox: &mut Outbox) {
        let now_ms = self.now.mono_ms;
        let session = &mut self.sessions[key.0 as usize];
        let Some(conn) = session.conn.take() else {
            return;
        };
        session.disconnected_at_ms = now_ms as i64;
        if self.events {
            outbox.events.push(Event::ClientDisconnected {
                conn,
                client_id: session.client_id.clone(),
                reason: end.reason,
                what: end.what,
                statement: end.statement,
            });
        }
        self.take_back_if_ungranted(conn, key);
        let (_, end_ms) = self.session_deadlines(key);
        if end_ms.is_some_and(|end_ms| end_ms <= now_ms) {
            self.end_session(key, outbox);
            return;
        }
        self.sessions[key.0 as usize].trim();
        self.set_online(key, false, outbox);
        if self.is_will_due(key) {
            self.publish_will(key, None, outbox);
        } else {
            self.keep_session(key, outbox);
        }
        self.redispatch_when_offline(key, outbox);
        self.set_session_timer(key);
    }

    /// Marks the session's memberships of shared groups, which then prefer other members or count it again.
    pub(super) fn set_online(&mut self, key: SessionKey, online: bool, outbox: &mut Outbox) {
        for group in groups_of(&self.sessions[key.0 as usize].subscriptions) {
            if self.groups.set_online(group, key.0, online) {
                self.announce_group(group, outbox);
            }
        }
    }

    /// Ends a session: its subscriptions go, its Will goes out if it still has one, and what it had from shared groups goes
    /// to other members. In the store it ends when all of that is settled.
    pub(super) fn end_session(&mut self, key: SessionKey, outbox: &mut Outbox) {
        self.catch_up(key, outbox);
        let session = &mut self.sessions[key.0 as usize];
        assert!(session.conn.is_none());
        let stored = session.stored;
        let subscriptions = std::mem::take(&mut session.subscriptions);
        let state = session.state.take();
        let client_id = session.client_id.clone();
        let ending = (stored != 0).then(|| self.begin_ending(stored, &client_id));
        for subscription in subscriptions.iter() {
            let ended = self.end_subscription(key, subscription, outbox);
            assert!(ended);
        }
        // MQTT 5 [MQTT-3.1.2-8]: at the latest when the session ends.
        self.publish_will(key, ending, outbox);
        if let Some(mut state) = state {
            self.queued_bytes -= state.queue.bytes() as u64;
            let mut left = Vec::new();
            let (under_way, mut ends) = state.inflight.take_unacknowledged();
            for delivery in under_way {
                // MQTT 5 [MQTT-4.8.2-5]: a QoS 2 message that was under way goes to nobody else; only such are under way in
                // the store alone.
                if delivery.options.qos == QoS::AtLeastOnce {
                    left.push(delivery);
                } else {
                    self.ends_with_session(stored, delivery.place(), outbox);
                }
            }
            left.extend(std::iter::from_fn(|| state.queue.pop()));
            for delivery in left {
                self.redispatch(&delivery, stored, outbox);
            }
            let groups = groups_of(&subscriptions);
            let shared = |delivery: &StoredDelivery| delivery.flags.is_shared();
            let in_store = state.queue.take_stored_if(shared);
            ends.extend(state.queue.take_stored_if(|_| true));
            for delivery in ends {
                self.ends_with_session(stored, delivery.place(), outbox);
            }
            self.begin_redispatch(stored, groups, in_store, outbox);
            self.refuse_held(stored, state.on_hold, outbox);
        }
        self.forget_identity(key);
        let mut session = self.sessions.remove(key.0 as usize);
        self.wheel.cancel(&mut session.timer);
        self.client_ids.remove(&session.client_id, key.0);
        if let Some(ending) = ending {
            self.release_ending(ending, outbox);
        }
    }

    /// A message ends with its session. The store takes the session's part out of what it has; what it does not have yet is to
    /// come without.
    fn ends_with_session(&mut self, stored: u64, place: Place, outbox: &mut Outbox) {
        self.counters.drop_one(DropCause::SessionEnded);
        if self.keeper.unstored.contains_key(&place.number) {
            self.ended_for(stored, place, outbox);
        }
    }

    /// Gives a message that came through a shared group to another member, as a new message of this shard: the part of the session that
    /// had it ends with the record of that. Any other message ends with its session.
    pub(super) fn redispatch(&mut self, delivery: &Delivery, stored: u64, outbox: &mut Outbox) {
        let Some(group) = delivery.group else {
            self.ends_with_session(stored, delivery.place(), outbox);
            return;
        };
        let mut publication = Publication::from_local(&delivery.message);
        self.begin_storing(&mut publication);
        self.dispatch_shared(group, &mut publication, None, 0, outbox);
        let place = delivery.place();
        if place.number != 0 {
            self.leave(stored);
        }
        let then = Then {
            ended: (place.number != 0).then_some((place, stored)),
            ..Then::default()
        };
        let source = Source {
            then: Some(Box::new(then)),
            ..Source::default()
        };
        self.finish_storing(&mut publication, source, outbox);
    }

    /// A member that keeps its session has left: what it had from a shared group and not acknowledged goes to a
    /// member that is here, if any. QoS 2 messages under way wait for it ([MQTT-4.8.2-4]). While the broker stops nobody stays:
    /// the last one would get all of it, and have no room.
    fn redispatch_when_offline(&mut self, key: SessionKey, outbox: &mut Outbox) {
        if self.stopping {
            return;
        }
        let session = &mut self.sessions[key.0 as usize];
        let stored = session.stored;
        let Some(state) = &mut session.state else {
            return;
        };
        let groups = &self.groups;
        let goes = |group: Option<GroupId>| group.is_some_and(|group| groups.has_online(group));
        let mut taken = state
            .inflight
            .take_if(|delivery| delivery.options.qos == QoS::AtLeastOnce && goes(delivery.group));
        let before = state.queue.bytes();
        taken.extend(state.queue.take_if(|delivery| goes(delivery.group)));
        // Of what is in the store alone nobody knows through which group it came.
        let mut in_store = Vec::new();
        let all = groups_of(&session.subscriptions);
        if all.iter().any(|group| groups.has_online(*group)) {
            in_store = state
                .queue
                .take_stored_if(|delivery| delivery.flags.is_shared());
        }
        self.queued_bytes -= (before - state.queue.bytes()) as u64;
        for delivery in taken {
            self.redispatch(&delivery, stored, outbox);
        }
        self.begin_redispatch(stored, all, in_store, outbox);
        self.admit_held(key, outbox);
    }

    /// Publishes the session's Will, if it still has one; it has none afterwards.
    pub(super) fn publish_will(
        &mut self,
        key: SessionKey,
        ending: Option<usize>,
        outbox: &mut Outbox,
    ) {
        let session = &mut self.sessions[key.0 as usize];
        let stored = session.stored;
        let Some(will) = session.will.take() else {
            return;
        };
        let topic = will.message().topic();
        if self.owner_of(key).is_some() && !self.may(key, May::Publish(topic)) {
            self.counters.publishes_denied += 1;
            // The record that it has none is due all the same.
            if ending.is_none() {
                self.keep_session(key, outbox);
            }
            return;
        }
        self.counters.wills_published += 1;
        let message = self.will_message(&will);
        let mut publication = Publication::from_message(&message);
        self.begin_storing(&mut publication);
        self.route(Some(key), &mut publication, None, outbox);
        if let Some(ending) = ending {
            self.share_ending(ending);
        }
        // That the session has no Will any more is recorded with the message, lest it be published twice or never.
        let then = Then {
            ended: None,
            will_of: (ending.is_none() && stored != 0).then_some((key, stored)),
            ending,
        };
        let source = Source {
            publish: None,
            is_retained: publication.stamp != 0,
            then: Some(Box::new(then)),
        };
        self.finish_storing(&mut publication, source, outbox);
    }

    fn will_message(&mut self, will: &Will) -> Message {
        let message = will.message();
        let expires_at_ms = will.message_expiry_s.map_or(NEVER, |seconds| {
            self.now.mono_ms + u64::from(seconds) * 1_000
        });
        let mut parts = MessageParts {
            topic: message.topic(),
            properties: &[message.properties()],
            payload: message.payload(),
            qos: message.qos(),
            retain: message.retain(),
            expires_at_ms,
            stamp: 0,
            number: 0,
        };
        if parts.retain {
            parts.stamp = self.retain_stamp(&parts);
        }
        Message::new(&parts)
    }

    /// Ends a session without a connection and without messages to make room for another: the one that would expire first, of some
    /// that are looked at. False when there is none.
    pub(super) fn evict_session(&mut self, outbox: &mut Outbox) -> bool {
        let is_idle = |session: &Session| {
            session.conn.is_none()
                && session.will.is_none()
                && session.state.as_ref().is_none_or(|state| state.is_empty())
        };
        // On from where the last search ended, and around.
        let (before, after): (Vec<_>, Vec<_>) = {
            let all = self.sessions.iter();
            let from = self.evict_at;
            let mut idle = Vec::new();
            let around = all.clone().skip_while(|(key, _)| *key < from).chain(all);
            for (key, session) in around.take(EVICT_VISITS) {
                self.evict_at = key + 1;
                if is_idle(session) {
                    idle.push(SessionKey(key as u32));
                }
            }
            idle.into_iter().partition(|key| (key.0 as usize) < from)
        };
        let soonest = after.into_iter().chain(before).min_by_key(|key| {
            let (_, end) = self.session_deadlines(*key);
            end.unwrap_or(u64::MAX)
        });
        let Some(key) = soonest else {
            return false;
        };
        self.counters.sessions_evicted += 1;
        self.end_session(key, outbox);
        true
    }

    /// When the Will of a session without a connection is due, and when the session ends; monotonic milliseconds.
    pub(super) fn session_deadlines(&self, key: SessionKey) -> (Option<u64>, Option<u64>) {
        let session = &self.sessions[key.0 as usize];
        let at = |seconds: u32| {
            let at_ms = session.disconnected_at_ms + i64::from(seconds) * 1_000;
            at_ms.max(0) as u64
        };
        let end = (session.expiry_s != NEVER_EXPIRES).then(|| at(session.expiry_s));
        (session.will.as_ref().map(|will| at(will.delay_s)), end)
    }

    /// Whether the Will of a session without a connection is to go out.
    pub(super) fn is_will_due(&self, key: SessionKey) -> bool {
        let (will_ms, _) = self.session_deadlines(key);
        will_ms.is_some_and(|will_ms| will_ms <= self.now.mono_ms)
    }

    pub(super) fn set_session_timer(&mut self, key: SessionKey) {
        let (will, end) = self.session_deadlines(key);
        let Some(deadline_ms) = [will, end].into_iter().flatten().min() else {
            return;
        };
        let timer = Timer {
            tick: self.wheel.tick_for(deadline_ms),
            index: key.0,
            generation: 0,
            kind: TimerKind::Session,
        };
        let session = &mut self.sessions[key.0 as usize];
        self.wheel.set(&mut session.timer, timer);
    }

    /// The timer of a session fired: is anything due yet?
    pub(super) fn session_timer(&mut self, timer: Timer, outbox: &mut Outbox) {
        let key = SessionKey(timer.index);
        let session = &mut self.sessions[key.0 as usize];
        session.timer = None;
        if session.conn.is_some() {
            return;
        }
        let (will, end) = self.session_deadlines(key);
        let now_ms = self.now.mono_ms;
        if end.is_some_and(|end| end <= now_ms) {
            self.counters.sessions_expired += 1;
            self.end_session(key, outbox);
            return;
        }
        if will.is_some_and(|will| will <= now_ms) {
            self.publish_will(key, None, outbox);
        }
        self.set_session_timer(key);
    }
}

/// The shared groups that a session is a member of.
pub(super) fn groups_of(subscriptions: &SubscriptionRefs) -> Vec<GroupId> {
    subscriptions
        .iter()
        .filter_map(|subscription| match subscription {
            SubscriptionRef::Group(group) => Some(group),
            SubscriptionRef::Filter(_) => None,
        })
        .collect()
}

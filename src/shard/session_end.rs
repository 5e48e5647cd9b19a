//! A session loses its connection, and perhaps ends (MQTT 5 §4.1, §3.1.2.5).

use super::Shard;
use super::connection::End;
use super::counters::DropCause;
use super::message::{Message, MessageParts, NEVER};
use super::outbox::{Event, Outbox};
use super::publication::Publication;
use super::timer::{Timer, TimerKind, Wheel};
use crate::protocol::QoS;
use crate::session::will::Will;
use crate::session::{Delivery, SessionKey, SubscriptionRef};

/// A Session Expiry Interval that never ends (§3.1.2.11.2).
const NEVER_EXPIRES: u32 = u32::MAX;

impl Shard {
    /// The connection of a session is gone. The Will goes out now, later, or not at all; the session ends now or later.
    pub(super) fn detach(&mut self, key: SessionKey, end: End, outbox: &mut Outbox) {
        let now_ms = self.now.mono_ms;
        let session = &mut self.sessions[key.0 as usize];
        let Some(conn) = session.conn.take() else {
            return;
        };
        session.disconnected_at_ms = now_ms;
        if self.events {
            outbox.events.push(Event::ClientDisconnected {
                conn,
                client_id: session.client_id.clone(),
                reason: end.reason,
                what: end.what,
                statement: end.statement,
            });
        }
        if session.expiry_s == 0 {
            self.end_session(key, outbox);
            return;
        }
        session.trim();
        let will_is_due = session.will.as_ref().is_some_and(|will| will.delay_s == 0);
        self.set_online(key, false, outbox);
        if will_is_due {
            self.publish_will(key, outbox);
        }
        self.redispatch_when_offline(key, outbox);
        self.set_session_timer(key);
    }

    /// Marks the session's memberships of shared groups, which then prefer other members or count it again.
    pub(super) fn set_online(&mut self, key: SessionKey, online: bool, outbox: &mut Outbox) {
        let groups: Vec<_> = self.sessions[key.0 as usize]
            .subscriptions
            .iter()
            .filter_map(|subscription| match subscription {
                SubscriptionRef::Group(group) => Some(group),
                SubscriptionRef::Filter(_) => None,
            })
            .collect();
        for group in groups {
            if self.groups.set_online(group, key.0, online) {
                self.announce_group(group, outbox);
            }
        }
    }

    /// Ends a session: its subscriptions go, its Will goes out if it still has one, and what it had from shared groups goes
    /// to other members.
    pub(super) fn end_session(&mut self, key: SessionKey, outbox: &mut Outbox) {
        let session = &mut self.sessions[key.0 as usize];
        assert!(session.conn.is_none());
        let subscriptions = std::mem::take(&mut session.subscriptions);
        let state = session.state.take();
        for subscription in subscriptions.iter() {
            let ended = self.end_subscription(key, subscription, outbox);
            assert!(ended);
        }
        // MQTT 5 [MQTT-3.1.2-8]: at the latest when the session ends.
        self.publish_will(key, outbox);
        if let Some(mut state) = state {
            let mut left = Vec::new();
            for delivery in state.inflight.take_unacknowledged() {
                // MQTT 5 [MQTT-4.8.2-5]: a QoS 2 message that was under way goes to nobody else.
                if delivery.options.qos == QoS::AtLeastOnce {
                    left.push(delivery);
                } else {
                    self.counters.drop_one(DropCause::SessionEnded);
                }
            }
            left.extend(std::iter::from_fn(|| state.queue.pop()));
            for delivery in left {
                self.redispatch(&delivery, outbox);
            }
        }
        let session = self.sessions.remove(key.0 as usize);
        let hash = self.client_id_hash(&session.client_id);
        let entry = self.by_client_id.find_entry(hash, |other| *other == key.0);
        entry
            .expect("every session is found by its Client Identifier")
            .remove();
    }

    /// Gives a message that came through a shared group to another member; any other message ends with its session.
    fn redispatch(&mut self, delivery: &Delivery, outbox: &mut Outbox) {
        match delivery.group {
            Some(group) => {
                let mut publication = Publication::from_local(&delivery.message);
                self.dispatch_shared(group, &mut publication, None, 0, outbox);
            }
            None => self.counters.drop_one(DropCause::SessionEnded),
        }
    }

    /// A member that keeps its session has left: what it had from a shared group and not acknowledged goes to a
    /// member that is here, if any. QoS 2 messages under way wait for it ([MQTT-4.8.2-4]).
    fn redispatch_when_offline(&mut self, key: SessionKey, outbox: &mut Outbox) {
        let Some(state) = &mut self.sessions[key.0 as usize].state else {
            return;
        };
        let groups = &self.groups;
        let goes =
            |delivery: &Delivery| delivery.group.is_some_and(|group| groups.has_online(group));
        let mut taken = state
            .inflight
            .take_if(|delivery| delivery.options.qos == QoS::AtLeastOnce && goes(delivery));
        taken.extend(state.queue.take_if(goes));
        for delivery in taken {
            self.redispatch(&delivery, outbox);
        }
    }

    /// Publishes the session's Will, if it still has one; it has none afterwards.
    pub(super) fn publish_will(&mut self, key: SessionKey, outbox: &mut Outbox) {
        let Some(will) = self.sessions[key.0 as usize].will.take() else {
            return;
        };
        self.counters.wills_published += 1;
        let message = self.will_message(&will);
        let mut publication = Publication::from_message(&message);
        self.route(Some(key), &mut publication, None, outbox);
    }

    fn will_message(&mut self, will: &Will) -> Message {
        let message = will.message();
        let expires_at_ms = will.message_expiry_s.map_or(NEVER, |seconds| {
            self.now.mono_ms + u64::from(seconds) * 1_000
        });
        let stamp = if message.retain() {
            self.retain_stamp(message.topic(), message.payload())
        } else {
            0
        };
        Message::new(&MessageParts {
            topic: message.topic(),
            properties: &[message.properties()],
            payload: message.payload(),
            qos: message.qos(),
            retain: message.retain(),
            expires_at_ms,
            stamp,
            number: 0,
        })
    }

    /// When the Will of a session without a connection is due, and when the session ends; monotonic milliseconds.
    fn session_deadlines(&self, key: SessionKey) -> (Option<u64>, Option<u64>) {
        let session = &self.sessions[key.0 as usize];
        let at = |seconds: u32| session.disconnected_at_ms + u64::from(seconds) * 1_000;
        let end = (session.expiry_s != NEVER_EXPIRES).then(|| at(session.expiry_s));
        (session.will.as_ref().map(|will| at(will.delay_s)), end)
    }

    fn set_session_timer(&mut self, key: SessionKey) {
        let (will, end) = self.session_deadlines(key);
        let Some(deadline_ms) = [will, end].into_iter().flatten().min() else {
            return;
        };
        let tick = self.wheel.tick_for(deadline_ms);
        let session = &mut self.sessions[key.0 as usize];
        if session.timer_tick != 0 && !Wheel::is_sooner(tick, session.timer_tick) {
            return;
        }
        session.timer_tick = tick;
        self.wheel.insert(Timer {
            tick,
            index: key.0,
            generation: 0,
            kind: TimerKind::Session,
        });
    }

    /// The timer of a session fired: is anything due yet?
    pub(super) fn session_timer(&mut self, timer: Timer, outbox: &mut Outbox) {
        let key = SessionKey(timer.index);
        let Some(session) = self.sessions.get_mut(key.0 as usize) else {
            return;
        };
        if session.timer_tick != timer.tick {
            return;
        }
        session.timer_tick = 0;
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
            self.publish_will(key, outbox);
        }
        self.set_session_timer(key);
    }
}

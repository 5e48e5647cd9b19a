//! SUBSCRIBE (MQTT 5 §3.8).
//!
//! SUBACK is a promise: a PUBLISH sent anywhere after it was received is delivered. So when a filter is new to
//! the other cores, SUBACK waits until each of them has acknowledged the announcement.

use super::access::May;
use super::commit::Wait;
use super::connection::{End, Handled, Stage};
use super::input::ConnKey;
use super::mesh::PendingSuback;
use super::outbox::Outbox;
use super::record::{Record, StoredSession};
use super::{Shard, Subscription};
use crate::protocol::suback::put_suback;
use crate::protocol::subscribe::{RetainHandling, Subscribe, SubscribeOptions};
use crate::protocol::{ReasonCode, Version};
use crate::session::{Replay, SessionKey, SubscriptionRef};
use crate::topic::filter::TopicFilter;
use crate::topic::index::FilterId;
use crate::topic::interest::interest_key;
use crate::topic::retained::Cursor;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// 3.1.1's only code for a refused subscription.
const FAILURE_V3: u8 = 0x80;

impl Shard {
    pub(super) fn subscribe(&mut self, key: ConnKey, body: &[u8], outbox: &mut Outbox) -> Handled {
        let (version, session) = {
            let conn = self.open(key);
            (conn.version, conn.session)
        };
        let subscribe = Subscribe::decode(version, body)?;
        self.subscribes += 1;
        let count = subscribe.filters().count();
        self.check_answer_fits(key, count)?;
        let mut codes = Vec::with_capacity(count);
        let mut replays = BTreeMap::new();
        let mut sequence = 0;
        let recorded = self.keeper.emitted;
        for (text, options) in subscribe.filters() {
            let id = subscribe.subscription_id;
            let code = match self.subscribe_one(key, session, text, options, id, outbox) {
                Ok(subscribed) => {
                    sequence = sequence.max(subscribed.sequence);
                    replays.extend(subscribed.replay);
                    // The granted QoS is its own code.
                    options.qos as u8
                }
                // MQTT 5 [MQTT-3.8.3-4]: a Protocol Error, not a refusal.
                Err(ReasonCode::ProtocolError) => {
                    return Err(End {
                        reason: ReasonCode::ProtocolError,
                        what: "No Local on a shared subscription",
                        statement: "MQTT-3.8.3-4",
                    });
                }
                Err(reason) if version.is_v5() => reason as u8,
                // 3.1 has no code for a refusal, so the connection is the only place to say it.
                Err(_) if version == Version::V31 => {
                    return Err(End::new(
                        ReasonCode::TopicFilterInvalid,
                        "a filter was refused",
                    ));
                }
                Err(_) => FAILURE_V3,
            };
            codes.push(code);
        }
        let mut packet = Vec::with_capacity(count + 8);
        put_suback(&mut packet, version, subscribe.packet_id, &codes);
        let suback = PendingSuback {
            sequence,
            conn: key,
            packet,
            replays,
            record: if self.keeper.emitted > recorded {
                self.keeper.emitted
            } else {
                0
            },
        };
        if sequence <= self.acknowledged_by_all() {
            self.release_suback(suback, outbox);
        } else {
            // Announcement numbers ascend, but this SUBACK may wait for an earlier one than the last in line.
            let at = self
                .pending_subacks
                .partition_point(|waiting| waiting.sequence <= sequence);
            self.pending_subacks.insert(at, suback);
        }
        Ok(())
    }

    fn subscribe_one(
        &mut self,
        conn: ConnKey,
        session_key: SessionKey,
        text: &str,
        options: SubscribeOptions,
        id: Option<NonZeroU32>,
        outbox: &mut Outbox,
    ) -> Result<SubscribedOne, ReasonCode> {
        let filter = TopicFilter::parse(text).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        let is_shared = filter.share_name().is_some();
        if is_shared && options.no_local {
            return Err(ReasonCode::ProtocolError);
        }
        if !self.may(session_key, May::Subscribe(filter.filter())) {
            self.counters.subscribes_denied += 1;
            return Err(ReasonCode::NotAuthorized);
        }
        self.check_filter(conn, text, &filter, outbox)?;
        let stored = self.sessions[session_key.0 as usize].stored;
        let entry = Subscription {
            session: session_key.0,
            id: id.map_or(0, NonZeroU32::get),
            options: options.bits(),
            is_stored: stored != 0,
        };
        if stored != 0 {
            let record = Record::Subscribed {
                session: StoredSession(stored),
                filter: text.into(),
                options: options.bits(),
                id,
            };
            self.keep(record, outbox);
        }
        if is_shared {
            let joined = self.groups.join(&filter, entry, true);
            if joined.replaced.is_none() {
                let session = &mut self.sessions[session_key.0 as usize];
                session
                    .subscriptions
                    .add(SubscriptionRef::Group(joined.group));
                self.announce_group(joined.group, outbox);
            }
            let sequence = self.announced;
            // MQTT 5 §4.8.2: no retained messages for a shared subscription.
            return Ok(SubscribedOne {
                sequence,
                replay: None,
            });
        }
        let subscribed = self.index.subscribe(filter.filter(), entry);
        let is_new = subscribed.replaced.is_none();
        if is_new {
            let session = &mut self.sessions[session_key.0 as usize];
            session
                .subscriptions
                .add(SubscriptionRef::Filter(subscribed.filter_id));
        }
        let mut sequence = self.announce_filter(filter.filter(), subscribed.first, outbox);
        if stored != 0 {
            let stored = self.add_stored_interest(filter.filter(), is_new, outbox);
            sequence = sequence.max(stored);
        }
        // MQTT 5 §3.8.3.1: Retain Handling.
        let wants_retained = match options.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        let replay = (wants_retained && self.retained.count() > 0).then(|| {
            let replay = Replay {
                filter: filter.filter().into(),
                qos: options.qos,
                subscription_id: id,
                cursor: Cursor::default(),
                asked: self.subscribes,
            };
            (subscribed.filter_id, replay)
        });
        Ok(SubscribedOne { sequence, replay })
    }

    /// Makes sure that the other shards know of a filter; returns the number of the announcement.
    pub(super) fn announce_filter(
        &mut self,
        filter: &str,
        is_new: bool,
        outbox: &mut Outbox,
    ) -> u64 {
        if self.shard_count == 1 {
            return 0;
        }
        let interest = interest_key(self.hash_seed, filter);
        if is_new && self.local_interest.add(interest) {
            self.announce_interest(interest, true, false, outbox);
            self.local_interest.set_announced(interest, self.announced);
        }
        self.local_interest.announced_at(interest)
    }

    /// Sends a SUBACK whose promise holds, when its subscriptions are durable.
    pub(super) fn release_suback(&mut self, suback: PendingSuback, outbox: &mut Outbox) {
        if suback.record > self.keeper.committed {
            self.keeper.wait(suback.record, Wait::Suback(suback));
        } else {
            self.send_suback(suback, outbox);
        }
    }

    /// Sends a SUBACK, and starts to replay what is retained.
    pub(super) fn send_suback(&mut self, suback: PendingSuback, outbox: &mut Outbox) {
        let key = suback.conn;
        let Some(conn) = self.conn(key).filter(|conn| conn.stage == Stage::Open) else {
            return;
        };
        let session = conn.session;
        self.control(key, outbox, |out| out.extend_from_slice(&suback.packet));
        let index = &self.index;
        // UNSUBSCRIBE may have ended it while SUBACK waited ([MQTT-3.10.4-2]).
        let is_subscribed = |(id, replay): &(FilterId, Replay)| {
            index.find(&replay.filter) == Some(*id) && index.get(*id, session.0).is_some()
        };
        let mut replays = suback.replays.into_iter().filter(is_subscribed).peekable();
        if replays.peek().is_some() {
            let owed = &mut self.sessions[session.0 as usize].state().replays;
            for (id, replay) in replays {
                // SUBACK may have waited longer than that of a later SUBSCRIBE, whose QoS is in force now.
                if owed.get(&id).is_none_or(|other| other.asked < replay.asked) {
                    owed.insert(id, replay);
                }
            }
            self.pump(session, outbox);
        }
    }
}

struct SubscribedOne {
    /// The announcement that the other shards must acknowledge before SUBACK.
    sequence: u64,
    replay: Option<(FilterId, Replay)>,
}

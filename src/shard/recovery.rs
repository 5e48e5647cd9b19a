//! What the store had at the start becomes sessions again.

use super::input::Now;
use super::mesh_message::MeshMessage;
use super::message::{Message, NEVER};
use super::outbox::Outbox;
use super::record::{RecoveredDelivery, RecoveredSession, StoredMessage, StoredSession};
use super::{Shard, Subscription};
use crate::config::limits::QueueFullPolicy;
use crate::protocol::PacketId;
use crate::protocol::subscribe::SubscribeOptions;
use crate::session::inflight::Inflight;
use crate::session::will::Will;
use crate::session::{SessionKey, StoredDelivery, SubscriptionRef};
use crate::topic::filter::TopicFilter;
use crate::topic::retained::Stamp;
use std::num::NonZeroU32;

impl Shard {
    /// The greatest numbers that were ever given on this installation, on any shard, as far as the store knows.
    pub fn set_next_numbers(&mut self, session: StoredSession, message: StoredMessage) {
        self.keeper.last_session = self.keeper.last_session.max(session.0);
        self.keeper.last_message = self.keeper.last_message.max(message.0);
    }

    /// Takes a retained message, or the stamp of a topic that was cleared: then its payload is empty. Every shard takes all.
    pub fn recover_retained(&mut self, message: Message) {
        let stamp = Stamp(message.stamp());
        self.stamps.observe(stamp);
        if message.payload().is_empty() {
            self.retained
                .clear(message.topic(), stamp, self.now.mono_ms);
        } else {
            if message.expires_at_ms() != NEVER {
                self.expiring_retained();
            }
            self.retained.set(stamp, message);
        }
    }

    /// Takes a session that this shard owns.
    ///
    /// Order: by ascending number. `outbox` is to be drained as after `handle`.
    pub fn recover(&mut self, now: Now, recovered: RecoveredSession, outbox: &mut Outbox) {
        assert!(self.keeper.is_on() && self.keeper.is_recovering);
        let RecoveredSession {
            record,
            subscriptions,
            deliveries,
            released,
            received,
        } = recovered;
        self.now = now;
        assert!(self.placement.owner(&record.client_id) == self.id);
        if let Some(older) = self.find_session(&record.client_id) {
            // It had ended; only what it leaves to others was still to be settled.
            self.sessions[older.0 as usize].will = None;
            self.end_session(older, outbox);
        }
        let key = self.new_session(&record.client_id);
        if let Some(username) = record.username {
            self.set_owner(key, username);
        }
        let away_ms = record.disconnected_at_ms.map(|at_ms| {
            // The clock may have been set back since.
            now.wall_ms.saturating_sub(at_ms)
        });
        let session = &mut self.sessions[key.0 as usize];
        session.stored = record.session.0;
        session.expiry_s = record.expiry_s;
        session.disconnected_at_ms = now.mono_ms as i64 - away_ms.unwrap_or(0) as i64;
        if let Some(chosen) = QueueFullPolicy::from_bits(record.queue_full) {
            (session.queue_full, session.chose_queue_full) = (chosen, true);
        }
        session.will = record.will.map(|will| {
            let will = Will::recovered(will.message, will.delay_s, will.message_expiry_s);
            Box::new(will)
        });
        for (filter, options, id) in subscriptions {
            self.recover_subscription(key, &filter, options, id, outbox);
        }
        self.recover_state(key, deliveries, &released, &received);
        if away_ms.is_none() {
            // It lost its connection with the process: from now on its time runs.
            self.keep_session(key, outbox);
        }
        self.set_session_timer(key);
    }

    /// What is damaged is left out: the store says so.
    fn recover_subscription(
        &mut self,
        key: SessionKey,
        text: &str,
        options: u8,
        id: Option<NonZeroU32>,
        outbox: &mut Outbox,
    ) {
        let (Ok(filter), Some(options)) = (
            TopicFilter::parse(text),
            SubscribeOptions::from_bits(options),
        ) else {
            return;
        };
        let entry = Subscription {
            session: key.0,
            id: id.map_or(0, NonZeroU32::get),
            options: options.bits(),
            is_stored: true,
        };
        let (is_new, subscription) = if filter.share_name().is_some() {
            let joined = self.groups.join(&filter, entry, false);
            self.announce_group(joined.group, outbox);
            (
                joined.replaced.is_none(),
                SubscriptionRef::Group(joined.group),
            )
        } else {
            let subscribed = self.index.subscribe(filter.filter(), entry);
            let is_new = subscribed.replaced.is_none();
            self.announce_filter(filter.filter(), subscribed.first, outbox);
            self.add_stored_interest(filter.filter(), is_new, outbox);
            (is_new, SubscriptionRef::Filter(subscribed.filter_id))
        };
        if is_new {
            self.sessions[key.0 as usize]
                .subscriptions
                .add(subscription);
        }
    }

    fn recover_state(
        &mut self,
        key: SessionKey,
        deliveries: Vec<RecoveredDelivery>,
        released: &[PacketId],
        received: &[PacketId],
    ) {
        if deliveries.is_empty() && released.is_empty() && received.is_empty() {
            return;
        }
        let state = self.sessions[key.0 as usize].state();
        let mut published = Vec::new();
        for delivery in deliveries {
            let stored = StoredDelivery {
                number: delivery.id.0,
                subscription_ids: delivery.subscription_ids,
                bytes: delivery.bytes,
                flags: delivery.flags,
            };
            match delivery.packet_id {
                Some(packet_id) => published.push((packet_id, stored)),
                None => state.queue.recover(stored),
            }
        }
        state.inflight = Inflight::recovered(published, released);
        for packet_id in received {
            if !state.received.contains(*packet_id) {
                state.received.insert(*packet_id);
            }
        }
        self.queued_bytes += state.queue.bytes() as u64;
    }

    /// All that was stored for this shard has been recovered, even if that was nothing: with a store, nothing begins without this.
    pub fn finish_recovery(&mut self, now: Now, outbox: &mut Outbox) {
        self.now = now;
        for to in self.others() {
            outbox.send(to, MeshMessage::Recovered);
        }
        self.others_recovered(1 << self.id.0, outbox);
    }

    /// These shards have announced all that they recovered.
    pub(super) fn others_recovered(&mut self, mask: u64, outbox: &mut Outbox) {
        self.keeper.recovered |= mask;
        let all = self.all_others() | 1 << self.id.0;
        if self.keeper.is_recovering && self.keeper.recovered == all {
            self.keeper.is_recovering = false;
            self.redispatch_recovered(outbox);
        }
    }

    /// Whether this shard and the others know what each wants, so that clients may be let in.
    pub fn is_ready(&self) -> bool {
        !self.keeper.is_recovering && self.acknowledged_by_all() >= self.announced
    }
}

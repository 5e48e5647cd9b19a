//! PUBLISH from a client (MQTT 5 §3.3), and the way of every message through this shard.

use super::Shard;
use super::access::{May, may_have};
use super::connection::{End, Handled, PAUSED_BY_LINK};
use super::counters::DropCause;
use super::deliver::Recipient;
use super::input::{ConnKey, Pressure, ShardId};
use super::limited::Limit;
use super::mesh_message::MeshMessage;
use super::message::{CLEARS, Envelope, MessageParts, NEVER};
use super::outbox::Outbox;
use super::publication::{Numbering, Publication};
use super::storing::{Source, SourcePublish};
use crate::protocol::publish::Publish;
use crate::protocol::subscribe::SubscribeOptions;
use crate::protocol::{PacketId, PacketType, QoS, ReasonCode};
use crate::session::{DeliveryOptions, SessionKey};
use crate::topic::interest::CoreMask;
use crate::topic::share::GroupId;
use std::num::NonZeroU16;

/// How often a message for a shared group is passed on when members leave while it travels.
const SHARED_HOPS_MAX: u8 = 2;

/// What became of a message for a shared group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dispatched {
    /// A member here has it, or there was none at all.
    Here,
    /// It is on its way to another shard.
    Away,
}

impl Shard {
    pub(super) fn publish(
        &mut self,
        key: ConnKey,
        flags: u8,
        body: &[u8],
        outbox: &mut Outbox,
    ) -> Handled {
        let (version, session) = {
            let conn = self.open(key);
            (conn.version, conn.session)
        };
        let publish = Publish::decode(version, flags, body)?;
        if publish.qos != QoS::AtMostOnce && self.was_refused(key) {
            return Ok(());
        }
        self.counters.publish_received += 1;
        self.counters.publish_bytes_received += publish.payload.len() as u64;
        let alias_topic;
        let topic = match publish.properties.topic_alias {
            None => publish.topic,
            Some(alias) => {
                alias_topic = self.resolve_alias(key, alias, publish.topic)?;
                &alias_topic
            }
        };
        self.check_topic(key, topic, outbox)?;
        self.charge(key, body.len(), outbox)?;
        self.pause_for_memory(key, outbox);
        if !self.may(session, May::Publish(topic)) && !self.is_repetition(session, &publish) {
            self.counters.publishes_denied += 1;
            self.deny_publish(key, &publish, outbox);
            return Ok(());
        }
        if publish.qos == QoS::ExactlyOnce {
            let id = publish.packet_id.expect("decode demands one for QoS 2");
            if !self.open_received(key, session, id)? {
                // MQTT 5 §4.3.3: a repetition is acknowledged again, not passed on again.
                self.publish_again(key, session, id, outbox);
                return Ok(());
            }
        }
        let now_ms = self.now.mono_ms;
        let expires_at_ms = publish
            .properties
            .message_expiry_s
            .map_or(NEVER, |seconds| now_ms + u64::from(seconds) * 1_000);
        let mut slices = publish.properties.forward.slices();
        let first = slices.next().unwrap_or(&[]);
        let mut joined = Vec::new();
        for more in slices {
            if joined.is_empty() {
                joined.extend_from_slice(first);
            }
            joined.extend_from_slice(more);
        }
        let properties = [if joined.is_empty() {
            first
        } else {
            &joined[..]
        }];
        let mut parts = MessageParts {
            topic,
            properties: &properties,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expires_at_ms,
            stamp: 0,
            number: 0,
        };
        if publish.retain {
            parts.stamp = self.retain_stamp(&parts);
            if parts.stamp == 0 || parts.stamp & CLEARS != 0 {
                self.refused_under(Limit::Retained, key, outbox);
            }
        }
        let mut publication = Publication::new(&parts);
        self.begin_storing(&mut publication);
        let matched = self.route(Some(session), &mut publication, Some(key), outbox);
        let publish = publish.packet_id.map(|packet_id| SourcePublish {
            conn: key,
            session,
            qos: publish.qos,
            packet_id,
            // MQTT 5 §3.4.2.1: 0x10 tells the publisher that nobody subscribes.
            reason: if matched {
                ReasonCode::Success
            } else {
                ReasonCode::NoMatchingSubscribers
            },
        });
        let source = Source {
            publish,
            is_retained: publication.stamp != 0,
            ..Source::default()
        };
        self.finish_storing(&mut publication, source, outbox);
        if publication.qos == QoS::AtMostOnce && publication.stamp != 0 {
            let bytes = publication.shared().bytes();
            self.wait_for_store(key, bytes, outbox);
        }
        Ok(())
    }

    /// Whether it is a QoS 2 PUBLISH that came again, and so was judged before.
    fn is_repetition(&mut self, session: SessionKey, publish: &Publish<'_>) -> bool {
        let state = &self.sessions[session.0 as usize].state;
        let id = publish
            .packet_id
            .filter(|_| publish.qos == QoS::ExactlyOnce);
        state
            .as_ref()
            .zip(id)
            .is_some_and(|(state, id)| state.received.contains(id))
    }

    /// A message that the client may not publish goes to nobody. MQTT 5 has a Reason Code for that; a client of 3.x is told
    /// that its message has arrived, which is all it can be told (MQTT 3.1.1 §3.3.5).
    fn deny_publish(&mut self, key: ConnKey, publish: &Publish<'_>, outbox: &mut Outbox) {
        let Some(id) = publish.packet_id else { return };
        let answer = match publish.qos {
            QoS::ExactlyOnce => PacketType::Pubrec,
            _ => PacketType::Puback,
        };
        let reason = match self.open(key).version.is_v5() {
            true => ReasonCode::NotAuthorized,
            false => ReasonCode::Success,
        };
        self.acknowledge(key, answer, id, reason, outbox);
    }

    /// A QoS 2 PUBLISH came again: its PUBREC is sent again, and not before the first one may.
    fn publish_again(
        &mut self,
        key: ConnKey,
        session: SessionKey,
        id: PacketId,
        outbox: &mut Outbox,
    ) {
        let received = &self.sessions[session.0 as usize].state().received;
        match received.pending(id) {
            Some(number) => {
                let ticket = self.line_up_ack(key, PacketType::Pubrec, id, outbox);
                self.acknowledge_again(key, ticket, number);
            }
            None => self.acknowledge(key, PacketType::Pubrec, id, ReasonCode::Success, outbox),
        }
    }

    /// Opens an inbound QoS 2 identifier; false when it is open already.
    fn open_received(
        &mut self,
        key: ConnKey,
        session: SessionKey,
        id: PacketId,
    ) -> Result<bool, End> {
        let is_v5 = self.open(key).version.is_v5();
        let maximum = if is_v5 {
            self.limits.receive_maximum
        } else {
            u16::MAX
        };
        let received = &mut self.sessions[session.0 as usize].state().received;
        if received.contains(id) {
            return Ok(false);
        }
        if received.len() >= usize::from(maximum) {
            return Err(End {
                reason: ReasonCode::ReceiveMaximumExceeded,
                what: "more QoS 2 messages unreleased than this broker's Receive Maximum",
                statement: "MQTT-3.3.4-7",
            });
        }
        received.insert(id);
        Ok(true)
    }

    /// Defines or looks up an inbound Topic Alias (MQTT 5 §3.3.2.3.4).
    fn resolve_alias(
        &mut self,
        key: ConnKey,
        alias: NonZeroU16,
        topic: &str,
    ) -> Result<Box<str>, End> {
        let maximum = self.limits.topic_alias_maximum;
        if alias.get() > maximum {
            return Err(End {
                reason: ReasonCode::TopicAliasInvalid,
                what: "a Topic Alias above this broker's Topic Alias Maximum",
                statement: "MQTT-3.3.2-9",
            });
        }
        let aliases = &mut self.open(key).aliases.get_or_insert_default().inbound;
        let at = usize::from(alias.get()) - 1;
        if !topic.is_empty() {
            if aliases.len() <= at {
                aliases.resize_with(at + 1, || None);
            }
            aliases[at] = Some(topic.into());
            return Ok(topic.into());
        }
        aliases.get(at).cloned().flatten().ok_or_else(|| {
            End::new(
                ReasonCode::ProtocolError,
                "a Topic Alias that was never defined",
            )
        })
    }

    /// Brings a publication to everybody: the retained index, the sessions here, the other shards, the shared groups. Returns whether any
    /// subscription matched, as far as this shard knows.
    pub(super) fn route(
        &mut self,
        publisher: Option<SessionKey>,
        publication: &mut Publication<'_>,
        publisher_conn: Option<ConnKey>,
        outbox: &mut Outbox,
    ) -> bool {
        if publication.stamp != 0 {
            self.retain(publication);
        }
        let mut matched = self.deliver_local(publisher, publication, outbox);
        if self.shard_count > 1 {
            let interested = self.interest.mask_for(publication.topic);
            matched |= interested != 0;
            let mut stored = 0;
            if publication.numbering == Numbering::Own {
                stored = self.keeper.interest.mask_for(publication.topic);
            }
            let mut mask = interested | stored;
            if publication.stamp != 0 {
                // Every core holds the retained index.
                mask = self.all_others();
            }
            while mask != 0 {
                let to = ShardId(mask.trailing_zeros() as u8);
                mask &= mask - 1;
                let envelope = Envelope {
                    group: None,
                    asked: stored & (1 << to.0) != 0,
                };
                self.send_publish(to, envelope, publication, publisher_conn, outbox);
            }
        }
        if !self.groups.is_empty() {
            matched |= self.route_shared(publication, publisher_conn, outbox);
        }
        matched
    }

    fn route_shared(
        &mut self,
        publication: &mut Publication<'_>,
        publisher_conn: Option<ConnKey>,
        outbox: &mut Outbox,
    ) -> bool {
        let mut groups = std::mem::take(&mut self.matched_groups);
        self.groups
            .for_each_match(publication.topic, |group| groups.push(group));
        let matched = !groups.is_empty();
        for group in groups.drain(..) {
            self.dispatch_shared(group, publication, publisher_conn, 0, outbox);
        }
        self.matched_groups = groups;
        matched
    }

    /// Gives a message to one member of a group, wherever it is.
    pub(super) fn dispatch_shared(
        &mut self,
        group: GroupId,
        publication: &mut Publication<'_>,
        publisher_conn: Option<ConnKey>,
        hops: u8,
        outbox: &mut Outbox,
    ) -> Dispatched {
        let this = self.id.0;
        let mut exclude: CoreMask = 0;
        if hops > SHARED_HOPS_MAX {
            exclude = self.all_others();
        }
        while let Some(core) = self.groups.pick_core(group, this, exclude) {
            if core != this {
                let Some((remote, counts)) = self.groups.remote_group(group, core) else {
                    exclude |= 1 << core;
                    continue;
                };
                let group = Some((remote, hops));
                let asked = match publication.numbering {
                    // Only a stored session's place has to be known before the message is acknowledged.
                    Numbering::Own => counts.stored > 0,
                    Numbering::Asked => true,
                    Numbering::None | Numbering::Unasked | Numbering::Foreign => false,
                };
                let to = ShardId(core);
                let envelope = Envelope { group, asked };
                self.send_publish(to, envelope, publication, publisher_conn, outbox);
                return Dispatched::Away;
            }
            if self.deliver_to_member(group, publication, outbox) {
                return Dispatched::Here;
            }
            exclude |= 1 << core;
        }
        self.counters.drop_one(DropCause::NoMember);
        Dispatched::Here
    }

    /// Gives a message to a member on this shard; false when it has none.
    pub(super) fn deliver_to_member(
        &mut self,
        group: GroupId,
        publication: &mut Publication<'_>,
        outbox: &mut Outbox,
    ) -> bool {
        let bounds = self.queue_bounds();
        let sessions = &self.sessions;
        let guard = &mut self.guard;
        let topic = publication.topic;
        let mut may = |member: &super::Subscription| {
            may_have(guard, sessions, SessionKey(member.session), topic)
        };
        let bytes = publication.with_parts(|parts| parts.encoded_len());
        let has_space = |member: &super::Subscription| {
            bounds.has_room(&sessions[member.session as usize], bytes)
        };
        let usable = |member: &super::Subscription| has_space(member) && may(member);
        let member = match self.groups.pick_member(group, usable) {
            Some(member) => member,
            // All queues are full: the policy of one of them decides.
            None => match self.groups.pick_member(group, may) {
                Some(member) => member,
                None => return false,
            },
        };
        let options =
            SubscribeOptions::from_bits(member.options).expect("written from SubscribeOptions");
        let ids = if member.id == 0 {
            &[][..]
        } else {
            std::slice::from_ref(&member.id)
        };
        let to = Recipient {
            session: SessionKey(member.session),
            options: DeliveryOptions {
                qos: options.qos.min(publication.qos),
                retain: options.retain_as_published && publication.retain,
            },
            ids,
            group: Some(group),
            part: self.groups.part(group),
        };
        self.deliver(&to, publication, None, outbox);
        true
    }

    /// Puts a publication on the link to another shard.
    fn send_publish(
        &mut self,
        to: ShardId,
        envelope: Envelope,
        publication: &mut Publication<'_>,
        publisher_conn: Option<ConnKey>,
        outbox: &mut Outbox,
    ) {
        assert!(to != self.id);
        let pressure = self.pressure[to.index()];
        if pressure > Pressure::Low {
            if let Some(conn) = publisher_conn.filter(|conn| self.conn(*conn).is_some()) {
                self.pause(conn, PAUSED_BY_LINK, outbox);
                self.link_paused.push(conn);
            }
            if pressure == Pressure::Hard
                && publication.qos == QoS::AtMostOnce
                && publication.stamp == 0
            {
                self.counters.drop_one(DropCause::Link);
                return;
            }
        }
        self.counters.mesh_publish_sent += 1;
        if envelope.asked && publication.numbering == Numbering::Own {
            self.keeper.at_hand.awaited += 1;
        }
        // Every shard keeps a message that is to be retained, and they share it.
        if (envelope.group.is_some() || publication.stamp == 0) && publication.is_small() {
            publication.with_parts(|parts| outbox.send_small(to, parts, envelope));
        } else {
            let message = publication.shared();
            outbox.send(to, MeshMessage::Publish { message, envelope });
        }
    }

    /// The mask of all shards but this one.
    pub(super) fn all_others(&self) -> CoreMask {
        let all = if self.shard_count == 64 {
            u64::MAX
        } else {
            (1 << self.shard_count) - 1
        };
        all & !(1 << self.id.0)
    }
}

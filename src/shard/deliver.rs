//! From one publication to the sessions on this core that match it.
//!
//! Cost per QoS 0 delivery: one look at the session and one at the connection, and one copy of the encoded packet into
//! its outbound bytes. The packet is encoded at most once per layout ({3.x, 5} x QoS) for all subscribers that need
//! nothing of their own; identifiers and flags are patched. No allocation and no atomic operation per subscriber.

use super::Shard;
use super::connection::{Aliases, Connection, Owed};
use super::counters::{Counters, DropCause};
use super::fan_out::AT_ONCE_MAX;
use super::input::ConnKey;
use super::message::{Message, Spares};
use super::outbound::{PAYLOAD_BY_REFERENCE, Pool};
use super::outbox::Outbox;
use super::pages::{Pages, Run};
use super::publication::Publication;
use super::record::{OutgoingStep, Record, StoredMessage, StoredSession};
use super::storing::{Pace, Source};
use crate::config::limits::Limits;
use crate::protocol::publish::PublishHead;
use crate::protocol::subscribe::SubscribeOptions;
use crate::protocol::{PacketId, QoS, Version};
use crate::session::inflight::Resend;
use crate::session::queue::Front;
use crate::session::{Delivery, DeliveryOptions, Progress, SessionKey};
use crate::topic::retained::ScanOutcome;
use crate::topic::share::{GroupId, Part};
use std::num::{NonZeroU16, NonZeroU32};
use std::rc::Rc;

/// The outbound bytes up to which a replay of retained messages goes on; the rest waits for the socket.
const REPLAY_BYTES: usize = 64 << 10;
/// Retained messages taken from the index at once.
const REPLAY_SLICE: usize = 16;
/// Entries of the retained index looked at in a millisecond, whoever asks and whether they match or not: less than a millisecond's work. Where
/// assertions are checked a few are enough, so that tests go that way.
pub(super) const REPLAY_VISITS: usize = if cfg!(debug_assertions) { 64 } else { 4_096 };
/// What it costs to find where a slice begins, in entries.
const REPLAY_BEGIN_VISITS: usize = 8;

/// Sessions of this shard from which on a message goes to very many: a write to each takes microseconds, and nobody else is served
/// until the last is done, unless they are spread over turns. Where assertions are checked a few are enough, so that tests go that way.
const WIDE_MIN: usize = if cfg!(debug_assertions) { 3 } else { 256 };
/// Outbound bytes of a connection that do not wait for later turns, so that nothing is dropped because we took our time.
const LATER_BYTES_MAX: usize = 16 << 10;

/// One session that a publication matches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Match {
    pub(super) session: SessionKey,
    /// Subscription Identifier, or 0.
    id: u32,
    /// As granted; the publication's may be lower.
    pub(super) qos: QoS,
    retain_as_published: bool,
    /// It has more than that one.
    has_more_ids: bool,
}

/// Further identifiers of sessions with overlapping subscriptions, by session.
pub(super) type MoreIds = Vec<(SessionKey, u32)>;

/// Encoded packets of the publication at hand, one per layout, and other scratch; reused.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// By `layout`.
    images: [Image; 6],
    /// Whether one of them is encoded.
    are_used: bool,
    /// Whether the publication goes to very many.
    pub(super) is_wide: bool,
}

#[derive(Debug, Default)]
struct Image {
    /// The packet; without the payload when that goes by reference. Empty: not encoded yet.
    bytes: Vec<u8>,
    packet_id_at: usize,
    /// The same in a page, held.
    shared: Option<Run>,
}

impl Images {
    /// How many of them stand in a page.
    pub(super) fn held(&self) -> usize {
        let images = self.images.iter();
        images.filter(|image| image.shared.is_some()).count()
    }

    pub(super) fn clear(&mut self, pages: &mut Pages) {
        if std::mem::take(&mut self.are_used) {
            for image in &mut self.images {
                image.bytes.clear();
                if let Some(shared) = image.shared.take() {
                    pages.release(shared);
                }
            }
        }
    }
}

fn layout(version: Version, qos: QoS) -> usize {
    usize::from(version.is_v5()) * 3 + qos as usize
}

/// What one PUBLISH packet says beside its publication.
struct Outgoing<'a> {
    options: DeliveryOptions,
    dup: bool,
    packet_id: Option<PacketId>,
    subscription_ids: &'a [u32],
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Yes,
    /// The client does not accept packets of this size (MQTT 5 §3.1.2.11.4).
    TooLarge,
    Expired,
    /// The client may not receive the topic any more.
    Denied,
}

impl Shard {
    /// Delivers to every matching session of this shard that is not a member of a shared group; returns
    /// whether any subscription matched.
    pub(super) fn deliver_local(
        &mut self,
        publisher: Option<SessionKey>,
        publication: &mut Publication<'_>,
        outbox: &mut Outbox,
    ) -> bool {
        let mut matches = std::mem::take(&mut self.matches);
        let mut more_ids = std::mem::take(&mut self.more_ids);
        matches.clear();
        more_ids.clear();
        let mut filter_count = 0;
        let sessions = &mut self.sessions;
        self.index.for_each_filter(publication.topic, |_, found| {
            filter_count += 1;
            if filter_count == 2 {
                // With one filter nobody is found twice, and no session is looked at here.
                for (at, earlier) in (0..).zip(&matches) {
                    sessions[earlier.session.0 as usize].match_at = at;
                }
            }
            for subscription in found {
                let options = SubscribeOptions::from_bits(subscription.options)
                    .expect("written from SubscribeOptions");
                let key = SessionKey(subscription.session);
                // MQTT 5 [MQTT-3.8.3-3]: No Local.
                if options.no_local && publisher == Some(key) {
                    continue;
                }
                if filter_count > 1 {
                    let match_at = &mut sessions[subscription.session as usize].match_at;
                    match matches.get_mut(*match_at as usize) {
                        // Overlapping subscriptions: one message, with the highest QoS and all identifiers (§3.3.4).
                        Some(earlier) if earlier.session == key => {
                            earlier.qos = earlier.qos.max(options.qos);
                            earlier.retain_as_published |= options.retain_as_published;
                            if earlier.id == 0 {
                                earlier.id = subscription.id;
                            } else if subscription.id != 0 {
                                earlier.has_more_ids = true;
                                more_ids.push((key, subscription.id));
                            }
                            continue;
                        }
                        _ => *match_at = matches.len() as u32,
                    }
                }
                matches.push(Match {
                    session: key,
                    id: subscription.id,
                    qos: options.qos,
                    retain_as_published: options.retain_as_published,
                    has_more_ids: false,
                });
            }
        });
        if !more_ids.is_empty() {
            more_ids.sort_by_key(|(session, _)| *session);
        }
        if self.guard.is_on() {
            let found = matches.len();
            matches.retain(|found| self.may_have(found.session, publication.topic));
            self.counters.deliveries_denied += (found - matches.len()) as u64;
        }
        let mut images = self.images.take().unwrap_or_default();
        let cache = matches.len() > 1;
        images.is_wide = matches.len() >= WIDE_MIN;
        if matches.len() > AT_ONCE_MAX {
            // The large allocation goes with the message.
            self.set_aside(std::mem::take(&mut matches), publication, &more_ids, outbox);
        }
        for found in &matches {
            let images_for_all = cache.then_some(&mut *images);
            self.deliver_match(found, publication, &more_ids, images_for_all, outbox);
        }
        images.clear(&mut self.pool.pages);
        self.matches = matches;
        self.more_ids = more_ids;
        self.images = Some(images);
        filter_count > 0
    }

    /// Delivers to one of those who match. A call for each would be 2 % of a fan-out's instructions.
    #[inline(always)]
    pub(super) fn deliver_match(
        &mut self,
        found: &Match,
        publication: &mut Publication<'_>,
        more_ids: &MoreIds,
        images: Option<&mut Images>,
        outbox: &mut Outbox,
    ) {
        let mut ids = std::slice::from_ref(&found.id);
        let all_ids: Vec<u32>;
        if found.id == 0 {
            ids = &[];
        } else if found.has_more_ids {
            let first = more_ids.partition_point(|(session, _)| *session < found.session);
            let more = more_ids[first..].iter();
            let more = more.take_while(|(session, _)| *session == found.session);
            all_ids = std::iter::once(found.id)
                .chain(more.map(|(_, id)| *id))
                .collect();
            ids = &all_ids;
        }
        let to = Recipient {
            session: found.session,
            options: DeliveryOptions {
                qos: found.qos.min(publication.qos),
                retain: found.retain_as_published && publication.retain,
            },
            ids,
            group: None,
            part: Part::OWN,
        };
        self.deliver(&to, publication, images, outbox);
    }

    /// Sends to one session, or queues, or drops and counts.
    pub(super) fn deliver(
        &mut self,
        to: &Recipient<'_>,
        publication: &mut Publication<'_>,
        images: Option<&mut Images>,
        outbox: &mut Outbox,
    ) {
        self.catch_up(to.session, outbox);
        let outbound_bytes_max = self.outbound_bytes_max();
        let session = &mut self.sessions[to.session.0 as usize];
        let Some(key) = session.conn else {
            if to.options.qos == QoS::AtMostOnce {
                self.counters.drop_one(DropCause::Offline);
            } else {
                self.enqueue(to, publication, outbox);
            }
            return;
        };
        let conn = &mut self.conns[key.index as usize];
        let has_room = conn
            .outbound
            .as_ref()
            .is_none_or(|outbound| outbound.data_bytes() < outbound_bytes_max);
        let mut outgoing = Outgoing {
            options: to.options,
            dup: false,
            packet_id: None,
            subscription_ids: to.ids,
        };
        if to.options.qos == QoS::AtMostOnce {
            if !has_room {
                self.note_drops(
                    Some(to.session),
                    publication.topic,
                    DropCause::SlowConsumer,
                    1,
                );
                return;
            }
        } else {
            let window = usize::from(conn.receive_maximum);
            let stored = session.stored;
            let pace = if session.acks_promptly {
                Pace::Prompt
            } else {
                Pace::Slow
            };
            let state = session.state();
            // QoS 2 goes out when the message and its Packet Identifier are durable.
            let must_wait = stored != 0 && to.options.qos == QoS::ExactlyOnce;
            let is_open = state.queue.is_empty()
                && state.on_hold.is_empty()
                && !state.inflight.has_unsent()
                && state.inflight.has_room()
                && state.inflight.sent_count() < window
                && state.inflight.bytes() < self.limits.queue_bytes_max as usize
                && !must_wait;
            if !has_room || !is_open {
                self.enqueue(to, publication, outbox);
                return;
            }
            if stored != 0 {
                let terms = (to.options, to.part, pace);
                self.keeper
                    .own_number(self.id, self.now.wall_ms, publication);
                self.keeper
                    .take(to.session, stored, terms, to.ids, publication);
            }
            let mut delivery = to.delivery(publication, &mut self.spares);
            delivery.is_stored = stored != 0;
            outgoing.packet_id = Some(state.inflight.push(delivery));
        }
        let mut writer = Writer {
            key,
            conn,
            pool: &mut self.pool,
            counters: &mut self.counters,
            limits: &self.limits,
            now_ms: self.now.mono_ms,
        };
        let sent = writer.publish(publication, &outgoing, images, outbox);
        if sent != Sent::Yes {
            self.not_sent(
                to.session,
                outgoing.packet_id,
                publication.topic,
                &sent,
                outbox,
            );
        }
    }

    /// A packet that was given an identifier could not be sent: the client owes nothing for it.
    fn not_sent(
        &mut self,
        session: SessionKey,
        packet_id: Option<PacketId>,
        topic: &str,
        sent: &Sent,
        outbox: &mut Outbox,
    ) {
        let cause = match sent {
            Sent::Yes => return,
            Sent::TooLarge => DropCause::TooLarge,
            Sent::Expired => DropCause::Expired,
            Sent::Denied => DropCause::Denied,
        };
        self.note_drops(Some(session), topic, cause, 1);
        let Some(packet_id) = packet_id else {
            return;
        };
        let found = &mut self.sessions[session.0 as usize];
        let stored = found.stored;
        if let Some((place, qos)) = found.state().inflight.abandon(packet_id) {
            self.ended(session, place, outbox);
            if place.number != 0 && qos == QoS::ExactlyOnce {
                let session = StoredSession(stored);
                self.keep(Record::OutgoingEnded { session, packet_id }, outbox);
            }
        }
    }

    /// Sends what waits for a session, as far as its window and its socket have room: first what was
    /// unacknowledged when the connection was lost, then the queue, then retained messages owed. A retained message is
    /// read when it is sent, so an older one of its topic must not wait in the queue then ([MQTT-4.6.0-6]).
    pub(super) fn pump(&mut self, key: SessionKey, outbox: &mut Outbox) {
        let mut visits = self.replay_visits.at(self.now.mono_ms);
        self.pump_within(key, &mut visits, outbox);
        self.replay_visits.left = visits;
    }

    /// The same; `visits` is how many entries of the retained index may be looked at, and then how many are left of them.
    pub(super) fn pump_within(&mut self, key: SessionKey, visits: &mut usize, outbox: &mut Outbox) {
        self.catch_up(key, outbox);
        let Some(session) = self.sessions.get_mut(key.0 as usize) else {
            return;
        };
        let (Some(conn_key), Some(state)) = (session.conn, session.state.as_ref()) else {
            return;
        };
        if !state.has_waiting() {
            return;
        }
        loop {
            if self.resend_one(key, conn_key, outbox) {
                continue;
            }
            if self.dequeue_one(key, conn_key, outbox) {
                continue;
            }
            if !self.replay_slice(key, conn_key, visits, outbox) {
                return;
            }
        }
    }

    /// Free places in the window, provided that the socket has room too.
    pub(super) fn window_free(&self, key: SessionKey, conn_key: ConnKey) -> usize {
        let conn = &self.conns[conn_key.index as usize];
        let data_bytes = conn
            .outbound
            .as_ref()
            .map_or(0, |outbound| outbound.data_bytes());
        let Some(state) = &self.sessions[key.0 as usize].state else {
            return 0;
        };
        if data_bytes >= self.limits.outbound_bytes_max as usize / 2
            || state.inflight.bytes() >= self.limits.queue_bytes_max as usize
        {
            return 0;
        }
        let window = usize::from(conn.receive_maximum).saturating_sub(state.inflight.open_count());
        window.min(state.inflight.room())
    }

    fn resend_one(&mut self, key: SessionKey, conn_key: ConnKey, outbox: &mut Outbox) -> bool {
        let conn = &mut self.conns[conn_key.index as usize];
        let data_bytes = conn
            .outbound
            .as_ref()
            .map_or(0, |outbound| outbound.data_bytes());
        let window = usize::from(conn.receive_maximum);
        let Some(state) = &mut self.sessions[key.0 as usize].state else {
            return false;
        };
        if data_bytes >= self.limits.outbound_bytes_max as usize
            || state.inflight.sent_count() >= window
        {
            return false;
        }
        let (packet_id, message, options, ids, dup) = match state.inflight.resend_next() {
            None => return false,
            Some(Resend::Fetch) => {
                self.read_back(key, outbox);
                return false;
            }
            Some(Resend::Release(id)) => {
                self.put_pubrel(conn_key, id, outbox);
                return true;
            }
            Some(Resend::Publish { id, delivery, dup }) => (
                id,
                Rc::clone(&delivery.message),
                delivery.options,
                delivery.subscription_ids.clone(),
                dup,
            ),
        };
        let mut publication = Publication::from_local(&message);
        let outgoing = Outgoing {
            options,
            dup,
            packet_id: Some(packet_id),
            subscription_ids: ids.as_ref().map_or(&[], |ids| &ids[..]),
        };
        let sent = self.write_waiting(key, conn_key, &mut publication, &outgoing, outbox);
        self.not_sent(key, Some(packet_id), message.topic(), &sent, outbox);
        if dup && sent != Sent::Yes && options.qos == QoS::ExactlyOnce {
            // It may have reached the client, which would then take another message under its identifier for it.
            self.sessions[key.0 as usize].state().inflight.keep_count();
        }
        true
    }

    fn dequeue_one(&mut self, key: SessionKey, conn_key: ConnKey, outbox: &mut Outbox) -> bool {
        self.drop_aged(key, outbox);
        // The queue may have room by other ways than this. It may come back here, so the window is looked at behind it.
        self.admit_held(key, outbox);
        if self.window_free(key, conn_key) == 0 {
            return false;
        }
        let now_ms = self.now.mono_ms;
        let Some(state) = &mut self.sessions[key.0 as usize].state else {
            return false;
        };
        match state.queue.front() {
            None => return false,
            Some(Front::Stored(_)) => return self.read_back(key, outbox),
            Some(Front::Here(delivery)) => {
                let is_held = delivery.options.qos == QoS::ExactlyOnce && delivery.number() != 0;
                if is_held && self.keeper.unstored.contains_key(&delivery.number()) {
                    return false;
                }
            }
        }
        let mut delivery = state.queue.pop().expect("looked at");
        self.queued_bytes -= delivery.message.bytes() as u64;
        let number = delivery.number();
        if delivery.message.expires_at_ms() <= now_ms {
            self.let_go(key, delivery.into(), DropCause::Expired, outbox);
            self.admit_held(key, outbox);
            return true;
        }
        if number != 0 && delivery.options.qos == QoS::ExactlyOnce {
            delivery.progress = Progress::Held;
            let step = OutgoingStep::Published(StoredMessage(number), delivery.part);
            let packet_id = state.inflight.line_up(delivery);
            self.keep_step(key, packet_id, step, outbox);
        } else if state.inflight.has_unsent() {
            state.inflight.line_up(delivery);
        } else {
            self.send_dequeued(key, conn_key, delivery, outbox);
        }
        self.admit_held(key, outbox);
        true
    }

    fn send_dequeued(
        &mut self,
        key: SessionKey,
        conn_key: ConnKey,
        delivery: Delivery,
        outbox: &mut Outbox,
    ) {
        let message = Rc::clone(&delivery.message);
        let (options, ids) = (delivery.options, delivery.subscription_ids.clone());
        let state = self.sessions[key.0 as usize].state();
        let packet_id = Some(state.inflight.push(delivery));
        let mut publication = Publication::from_local(&message);
        let outgoing = Outgoing {
            options,
            dup: false,
            packet_id,
            subscription_ids: ids.as_ref().map_or(&[][..], |ids| &ids[..]),
        };
        let sent = self.write_waiting(key, conn_key, &mut publication, &outgoing, outbox);
        self.not_sent(key, packet_id, message.topic(), &sent, outbox);
    }

    /// Sends some of the retained messages owed to one subscription; whether it got anywhere. When it may look at no more of them it goes on
    /// in a later turn.
    fn replay_slice(
        &mut self,
        key: SessionKey,
        conn_key: ConnKey,
        visits: &mut usize,
        outbox: &mut Outbox,
    ) -> bool {
        let conn = &self.conns[conn_key.index as usize];
        let data_bytes = conn
            .outbound
            .as_ref()
            .map_or(0, |outbound| outbound.data_bytes());
        if data_bytes >= REPLAY_BYTES {
            return false;
        }
        let window_free = self.window_free(key, conn_key);
        let now_ms = self.now.mono_ms;
        let Some(state) = &mut self.sessions[key.0 as usize].state else {
            return false;
        };
        if state.is_replayed_later {
            return false;
        }
        let Some(mut replay) = state.replays.first_entry() else {
            return false;
        };
        let limit = match replay.get().qos {
            QoS::AtMostOnce => REPLAY_SLICE,
            _ if !state.queue.is_empty() => 0,
            _ => REPLAY_SLICE.min(window_free),
        };
        if limit == 0 {
            return false;
        }
        if *visits == 0 {
            state.is_replayed_later = true;
            self.pump_later.push_back(key);
            return false;
        }
        let mut found = Vec::with_capacity(limit);
        let owed = replay.get_mut();
        let (granted, id) = (owed.qos, owed.subscription_id.map(NonZeroU32::get));
        let ids = id.as_slice();
        let (filter, cursor) = (&owed.filter, &mut owed.cursor);
        let outcome = self
            .retained
            .scan(filter, cursor, limit, visits, |message: &Message| {
                found.push(message.clone());
            });
        *visits = visits.saturating_sub(REPLAY_BEGIN_VISITS);
        if outcome == ScanOutcome::Done {
            replay.remove();
        }
        for message in found {
            if message.expires_at_ms() <= now_ms {
                continue;
            }
            if !self.may_have(key, message.topic()) {
                self.counters.deliveries_denied += 1;
                continue;
            }
            let mut publication = Publication::from_message(&message);
            // MQTT 5 [MQTT-3.3.1-8]: RETAIN is set because the message is sent for a new subscription.
            let options = DeliveryOptions {
                qos: granted.min(publication.qos),
                retain: true,
            };
            let to = Recipient {
                session: key,
                options,
                ids,
                group: None,
                part: Part::OWN,
            };
            self.replay_one(conn_key, &to, &mut publication, outbox);
        }
        true
    }

    /// Sends one retained message to a session. A stored session has it at QoS 2 as a message of its own, because its Packet
    /// Identifier outlives the process; at QoS 1 in memory alone.
    fn replay_one(
        &mut self,
        conn_key: ConnKey,
        to: &Recipient<'_>,
        publication: &mut Publication<'_>,
        outbox: &mut Outbox,
    ) {
        let key = to.session;
        let stored = self.sessions[key.0 as usize].stored;
        let mut packet_id = None;
        if to.options.qos == QoS::ExactlyOnce && stored != 0 {
            self.begin_storing(publication);
            let terms = (to.options, to.part, Pace::Slow);
            self.keeper.take(key, stored, terms, to.ids, publication);
            let mut delivery = to.delivery(publication, &mut self.spares);
            (delivery.is_stored, delivery.progress) = (true, Progress::Held);
            let packet_id = self.sessions[key.0 as usize]
                .state()
                .inflight
                .line_up(delivery);
            let step = OutgoingStep::Published(StoredMessage(publication.number), to.part);
            self.finish_storing(publication, Source::default(), outbox);
            self.keep_step(key, packet_id, step, outbox);
            return;
        }
        if to.options.qos != QoS::AtMostOnce {
            let delivery = to.delivery(publication, &mut self.spares);
            let inflight = &mut self.sessions[key.0 as usize].state().inflight;
            if inflight.has_unsent() {
                inflight.line_up(delivery);
                return;
            }
            packet_id = Some(inflight.push(delivery));
        }
        let outgoing = Outgoing {
            options: to.options,
            dup: false,
            packet_id,
            subscription_ids: to.ids,
        };
        let sent = self.write(conn_key, publication, &outgoing, outbox);
        self.not_sent(key, packet_id, publication.topic, &sent, outbox);
    }

    /// Writes a message that has waited, unless its client may not have it any more.
    fn write_waiting(
        &mut self,
        session: SessionKey,
        key: ConnKey,
        publication: &mut Publication<'_>,
        outgoing: &Outgoing<'_>,
        outbox: &mut Outbox,
    ) -> Sent {
        if !self.may_have(session, publication.topic) {
            return Sent::Denied;
        }
        self.write(key, publication, outgoing, outbox)
    }

    fn write(
        &mut self,
        key: ConnKey,
        publication: &mut Publication<'_>,
        outgoing: &Outgoing<'_>,
        outbox: &mut Outbox,
    ) -> Sent {
        let mut writer = Writer {
            key,
            conn: &mut self.conns[key.index as usize],
            pool: &mut self.pool,
            counters: &mut self.counters,
            limits: &self.limits,
            now_ms: self.now.mono_ms,
        };
        writer.publish(publication, outgoing, None, outbox)
    }
}

/// One session and the terms on which a publication goes to it.
pub(super) struct Recipient<'a> {
    pub(super) session: SessionKey,
    pub(super) options: DeliveryOptions,
    pub(super) ids: &'a [u32],
    pub(super) group: Option<GroupId>,
    pub(super) part: Part,
}

impl Recipient<'_> {
    /// Of a session that is not stored.
    pub(super) fn delivery(
        &self,
        publication: &mut Publication<'_>,
        spares: &mut Spares,
    ) -> Delivery {
        let subscription_ids = (!self.ids.is_empty()).then(|| Box::new(self.ids.to_vec()));
        Delivery {
            message: publication.local_from(spares),
            subscription_ids,
            options: self.options,
            group: self.group,
            part: self.part,
            progress: Progress::Fresh,
            is_stored: false,
        }
    }
}

/// What writing to one connection needs of the shard.
struct Writer<'a> {
    key: ConnKey,
    conn: &'a mut Connection,
    pool: &'a mut Pool,
    counters: &'a mut Counters,
    limits: &'a Limits,
    now_ms: u64,
}

impl Writer<'_> {
    fn publish(
        &mut self,
        publication: &mut Publication<'_>,
        outgoing: &Outgoing<'_>,
        images: Option<&mut Images>,
        outbox: &mut Outbox,
    ) -> Sent {
        let message_expiry_s = match publication.remaining_s(self.now_ms) {
            Ok(message_expiry_s) => message_expiry_s,
            // [MQTT-4.3.3-7], [MQTT-4.4.0-1]: what was sent once is sent again until it is acknowledged.
            Err(_) if outgoing.dup => Some(0),
            Err(_) => return Sent::Expired,
        };
        let is_wide = images.as_ref().is_some_and(|images| images.is_wide);
        let version = self.conn.version;
        let mut head = PublishHead {
            version,
            qos: outgoing.options.qos,
            dup: outgoing.dup,
            retain: outgoing.options.retain,
            topic: publication.topic,
            packet_id: outgoing.packet_id,
            topic_alias: None,
            message_expiry_s: message_expiry_s.filter(|_| version.is_v5()),
            subscription_ids: if version.is_v5() {
                outgoing.subscription_ids
            } else {
                &[]
            },
            forward: if version.is_v5() {
                publication.properties
            } else {
                &[]
            },
            payload_len: publication.payload.len(),
        };
        let by_reference = publication.payload.len() >= PAYLOAD_BY_REFERENCE;
        let of_its_own = self.conn.topic_alias_maximum > 0 || !head.subscription_ids.is_empty();
        let image = images
            .filter(|_| !of_its_own && !outgoing.dup)
            .map(|images| {
                images.are_used = true;
                &mut images.images[layout(version, head.qos)]
            });
        if let Some(image) = image {
            if image.bytes.is_empty() {
                head.retain = false;
                let offsets = head.encode(&mut image.bytes);
                image.packet_id_at = offsets.packet_id.unwrap_or(0);
                if !by_reference {
                    image.bytes.extend_from_slice(publication.payload);
                    if head.qos == QoS::AtMostOnce {
                        let kind = usize::from(version.is_v5());
                        image.shared = self.pool.pages.append(kind, &image.bytes);
                    }
                }
            }
            let packet_bytes = image.bytes.len()
                + if by_reference {
                    publication.payload.len()
                } else {
                    0
                };
            if packet_bytes > self.conn.packet_bytes_max as usize {
                return Sent::TooLarge;
            }
            let copy = |out: &mut Vec<u8>| {
                let start = out.len();
                out.extend_from_slice(&image.bytes);
                out[start] |= u8::from(outgoing.options.retain);
                if let Some(id) = outgoing.packet_id {
                    let at = start + image.packet_id_at;
                    out[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
                }
            };
            let outbound = self.conn.outbound.get_or_insert_with(|| self.pool.take());
            let shared = image.shared.filter(|_| !outgoing.options.retain);
            if by_reference {
                outbound.data_by_reference(self.pool, publication.local(), copy);
            } else if !shared.is_some_and(|packet| outbound.data_shared(self.pool, packet)) {
                outbound.data(self.pool, copy);
            }
        } else {
            let bytes_max = self.conn.packet_bytes_max as usize;
            let topic = head.topic;
            if let Some((alias, is_known)) = self.alias(topic) {
                head.topic_alias = Some(alias);
                if is_known {
                    head.topic = "";
                } else if head.encoded_len() > bytes_max {
                    // The packet may still be small enough without the definition.
                    head.topic_alias = None;
                }
            }
            if head.encoded_len() > bytes_max {
                return Sent::TooLarge;
            }
            if let (Some(alias), false) = (head.topic_alias, head.topic.is_empty()) {
                let aliases = self
                    .conn
                    .aliases
                    .get_or_insert_with(Box::<Aliases>::default);
                aliases.outbound.insert(topic.into(), alias);
            }
            let outbound = self.conn.outbound.get_or_insert_with(|| self.pool.take());
            if by_reference {
                let local = publication.local();
                outbound.data_by_reference(self.pool, local, |out| {
                    head.encode(out);
                });
            } else {
                let payload = publication.payload;
                outbound.data(self.pool, |out| {
                    head.encode(out);
                    out.extend_from_slice(payload);
                });
            }
        }
        self.counters.publish_sent += 1;
        self.counters.publish_bytes_sent += publication.payload.len() as u64;
        if self.conn.owed != Owed::Now {
            self.conn.owe(self.owed(is_wide), self.key, outbox);
        }
        Sent::Yes
    }

    /// When the packet that was appended is to leave.
    #[inline]
    fn owed(&self, is_wide: bool) -> Owed {
        let waits = || {
            let bytes_max = LATER_BYTES_MAX.min(self.limits.outbound_bytes_max as usize / 2);
            let outbound = self.conn.outbound.as_ref();
            outbound.is_some_and(|outbound| outbound.data_bytes() < bytes_max)
        };
        if is_wide && waits() {
            Owed::Later
        } else {
            Owed::Now
        }
    }

    /// The alias under which this client gets the topic, and whether it was told before. The first topics up to the client's
    /// Topic Alias Maximum get one; an alias is never redefined.
    fn alias(&self, topic: &str) -> Option<(NonZeroU16, bool)> {
        let maximum = self
            .conn
            .topic_alias_maximum
            .min(self.limits.outbound_topic_alias_max);
        if maximum == 0 {
            return None;
        }
        let Some(aliases) = &self.conn.aliases else {
            return Some((NonZeroU16::MIN, false));
        };
        if let Some(alias) = aliases.outbound.get(topic) {
            return Some((*alias, true));
        }
        if aliases.outbound.len() >= usize::from(maximum) {
            return None;
        }
        NonZeroU16::new(aliases.outbound.len() as u16 + 1).map(|alias| (alias, false))
    }
}

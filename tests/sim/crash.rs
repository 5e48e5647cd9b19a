//! A crash, as the model sees it: what was acknowledged must be on disk; what was not may be; and from then on the model goes on from
//! what is on disk.

use crate::auditor::Auditor;
use crate::disk::{Disk, OnDisk};
use crate::model::{
    Flight, MessageId, Model, SessionId, Subscription, Will, id_of, matches, span, split_share,
};
use crate::world::{SocketId, World};
use ringmq::protocol::{PacketId, PacketType, QoS, ReasonCode, SubscribeOptions};
use ringmq::shard::message::Message;
use ringmq::shard::record::{OutgoingStep, StoredSession};
use std::collections::{BTreeMap, BTreeSet};

impl Auditor {
    /// The broker has crashed and come back, and nobody is connected yet.
    pub fn crashed(&mut self, world: &World) {
        let disk = world
            .disk
            .as_ref()
            .expect("only a broker with a store comes back");
        self.began_anew(world);
        // A number that is not on disk may be given again.
        self.numbers
            .retain(|number, _| disk.sessions.contains_key(&StoredSession(*number)));
        self.crashed_routings(disk);
        self.crashed_retained(world, disk);
        let mut held = BTreeMap::new();
        for (number, on_disk) in &disk.sessions {
            let client = client_of(&on_disk.record.client_id);
            held.insert(client, (*number, on_disk));
        }
        let clients: BTreeSet<usize> = self.model.sessions.iter().map(|it| it.client).collect();
        for client in clients {
            let live = self.model.live_session(client);
            let found = held
                .get(&client)
                .map(|(number, on_disk)| (self.known(*number), *on_disk));
            self.check_sessions(client, live, found.map(|(session, _)| session));
            for session in 0..self.model.sessions.len() {
                let it = &mut self.model.sessions[session];
                if it.client == client && found.is_none_or(|(found, _)| found != session) {
                    self.lose(session);
                }
            }
            if let Some((session, on_disk)) = found {
                self.come_back(world, session, on_disk, live == Some(session));
            }
        }
        self.model.new_tick();
    }

    fn known(&self, number: StoredSession) -> SessionId {
        self.numbers[&number.0]
    }

    fn began_anew(&mut self, world: &World) {
        self.begin_step(world);
        for conn in &mut self.conns {
            conn.end();
        }
    }

    /// Whether the right session is there, as far as anybody was told.
    fn check_sessions(&self, client: usize, live: Option<SessionId>, found: Option<SessionId>) {
        let sessions = &self.model.sessions;
        if let Some(live) = live
            && sessions[live].expiry_s > 0
            && sessions[live].granted
        {
            assert_eq!(
                found,
                Some(live),
                "(11) the session of client {client} was granted and is not on disk"
            );
        }
        if let Some(found) = found {
            let mut later = sessions[found + 1..].iter();
            assert!(
                !later.any(|it| it.client == client && it.granted),
                "(11) a session of client {client} came back whose successor was granted"
            );
        }
    }

    /// A session that is not on disk is gone without a word.
    fn lose(&mut self, session: SessionId) {
        if !self.model.sessions[session].alive {
            return;
        }
        self.model.sessions[session].will = None;
        self.model.end_session(session);
    }

    fn come_back(&mut self, world: &World, session: SessionId, on_disk: &OnDisk, was_alive: bool) {
        if self.model.sessions[session].socket.is_some() {
            self.model.set_socket(session, None);
        }
        let now = world.now;
        let record = &on_disk.record;
        let tick = self.model.tick;
        let it = &mut self.model.sessions[session];
        it.alive = true;
        if !was_alive {
            it.owed_from = tick;
        }
        it.shard = world.placement.owner(&record.client_id).index();
        it.expiry_s = record.expiry_s;
        it.disconnected_ms = record.disconnected_at_ms.map_or(now.mono_ms, |at_ms| {
            now.mono_ms - now.wall_ms.saturating_sub(at_ms)
        });
        it.will = record.will.as_ref().map(|will| Will {
            message: id_of(will.message.payload()).expect("Wills are numbered"),
            delay_s: will.delay_s,
        });
        // What it was sent may come in the order of another time, and what is owed of retained messages is forgotten.
        it.order.clear();
        for replay in &mut it.replays {
            replay.waived = true;
        }
        self.subscriptions_come_back(session, on_disk, was_alive);
        self.received_come_back(session, on_disk, was_alive);
        self.flights_come_back(world, session, on_disk, was_alive);
    }

    fn subscriptions_come_back(&mut self, session: SessionId, on_disk: &OnDisk, was_alive: bool) {
        let before = self.model.subscriptions(session).to_vec();
        let it = &self.model.sessions[session];
        let client = it.client;
        if was_alive {
            for subscription in before.iter().filter(|it| it.promised) {
                assert!(
                    on_disk.subscriptions.contains_key(&*subscription.text),
                    "(11) client {client} was promised {subscription:?}, which is not on disk"
                );
            }
            for text in &it.unsubscribed {
                assert!(
                    !on_disk.subscriptions.contains_key(&**text),
                    "(11) client {client} has {text} again, of which it was told that it ended"
                );
            }
        }
        let tick = self.model.tick;
        let after: Vec<Subscription> = on_disk
            .subscriptions
            .iter()
            .map(|(text, (bits, id))| {
                let options = SubscribeOptions::from_bits(*bits).expect("valid options");
                let same = before.iter().find(|it| *it.text == **text);
                Subscription {
                    text: text.to_string(),
                    qos: options.qos,
                    no_local: options.no_local,
                    retain_as_published: options.retain_as_published,
                    id: id.map_or(0, std::num::NonZeroU32::get),
                    serial: same.map_or(tick, |same| same.serial),
                    promised: same.is_some_and(|same| same.promised),
                }
            })
            .collect();
        self.model.change(session, |all| *all = after);
    }

    fn received_come_back(&mut self, session: SessionId, on_disk: &OnDisk, was_alive: bool) {
        let it = &mut self.model.sessions[session];
        let client = it.client;
        let held: BTreeSet<u16> = on_disk.received.iter().map(|id| id.get()).collect();
        if was_alive {
            for id in &it.received_told {
                assert!(
                    held.contains(id),
                    "(11) client {client} has PUBREC for {id}, which is not on disk"
                );
            }
            for id in &it.released_told {
                assert!(
                    !held.contains(id),
                    "(11) client {client} has PUBCOMP for {id}, which is in use on disk"
                );
            }
        }
        it.received_told.retain(|id| held.contains(id));
        it.received = held;
        it.uncertain.clear();
    }

    fn flights_come_back(
        &mut self,
        world: &World,
        session: SessionId,
        on_disk: &OnDisk,
        was_alive: bool,
    ) {
        let disk = world.disk.as_ref().expect("it stores");
        let it = &mut self.model.sessions[session];
        let client = it.client;
        let mut before = std::mem::take(&mut it.flights);
        let refused = std::mem::take(&mut it.refused_ids);
        // Nobody remembers under which identifier a QoS 1 message went.
        before.retain(|_, flight| flight.qos == QoS::ExactlyOnce);
        if was_alive {
            for (id, flight) in &before {
                let step = PacketId::new(*id).and_then(|id| on_disk.outgoing.get(&id));
                let is_right = match step {
                    Some(OutgoingStep::Published(..)) => !flight.pubrel_left,
                    Some(OutgoingStep::Released) => flight.released,
                    None => false,
                };
                assert!(
                    is_right || flight.maybe_free && !flight.pubrel_left,
                    "(11) client {client} has seen {flight:?} under {id}; on disk: {step:?}"
                );
            }
        }
        for (packet_id, step) in &on_disk.outgoing {
            let id = packet_id.get();
            let old = before.remove(&id);
            let is_released = *step == OutgoingStep::Released;
            let message = match step {
                OutgoingStep::Released => 0,
                OutgoingStep::Published(number, _) => {
                    let Some(kept) = disk.messages.get(number) else {
                        // It has ended, or was refused; so has this soon.
                        continue;
                    };
                    self.message_of(&kept.message)
                }
            };
            let flight = match old {
                Some(old) => Flight {
                    released: is_released,
                    socket: usize::MAX,
                    maybe_free: false,
                    ..old
                },
                None => Flight {
                    message,
                    qos: QoS::ExactlyOnce,
                    socket: usize::MAX,
                    order: 0,
                    released: is_released,
                    maybe_free: false,
                    counted: is_released || refused.contains(&id),
                    pubrel_left: is_released,
                },
            };
            self.model.sessions[session].flights.insert(id, flight);
        }
    }

    /// A message that was delivered may come again; one that is not on disk and was not acknowledged may not be demanded.
    fn crashed_routings(&mut self, disk: &Disk) {
        let mut on_disk = BTreeSet::new();
        for kept in disk.messages.values() {
            let ids = self.alike(&kept.message);
            for receiver in &kept.receivers {
                let session = self.known(receiver.session);
                for id in &ids {
                    if receiver.flags.options().retain {
                        self.model.sessions[session].replayed.insert(*id);
                    }
                    if receiver.flags.is_shared() {
                        self.model.may_go_to_another(*id);
                    }
                    if receiver.flags.options().qos == QoS::AtLeastOnce {
                        self.model.may_come_again(session, *id);
                    }
                }
            }
            on_disk.extend(ids);
        }
        let tick = self.model.tick;
        for (id, message) in self.model.messages.iter_mut().enumerate() {
            for routing in &mut message.routings {
                routing.settled.get_or_insert(tick);
                routing.until = routing.until.max(routing.settled.unwrap_or(tick));
                if !routing.acked {
                    routing.excused = true;
                    routing.void |= !on_disk.contains(&id);
                }
            }
        }
        self.model.members_end();
        self.model.nothing_travels();
    }

    /// The messages that one on disk may be: several only if it is empty.
    fn alike(&self, message: &Message) -> Vec<MessageId> {
        if let Some(id) = id_of(message.payload()) {
            return vec![id];
        }
        let all = self.model.messages.iter().enumerate();
        let is_sent = |it: &crate::model::Message| !it.routings.is_empty();
        all.filter(|(_, it)| it.payload.is_empty() && it.topic == message.topic() && is_sent(it))
            .map(|(id, _)| id)
            .collect()
    }

    fn message_of(&self, message: &Message) -> MessageId {
        self.alike(message)[0]
    }

    fn crashed_retained(&mut self, world: &World, disk: &Disk) {
        let all = disk.retained_messages(world.wall_minus_mono_ms());
        let found = all.iter().map(|message| (message.topic(), message));
        self.model.retained_come_back(&found.collect());
    }
}

impl Model {
    /// The session of a client that began last, whether or not it lives.
    pub fn last_session(&self, client: usize) -> Option<SessionId> {
        self.sessions
            .iter()
            .rposition(|session| session.client == client)
    }

    /// In a crash: a member had it, and another may get it.
    pub fn may_go_to_another(&mut self, message: MessageId) {
        let topic = &self.messages[message].topic;
        let texts: BTreeSet<String> = self
            .sessions
            .iter()
            .flat_map(|session| &session.history)
            .flat_map(|(_, subscriptions)| subscriptions)
            .map(|subscription| &subscription.text)
            .filter(|text| {
                let (share, filter) = split_share(text);
                share.is_some() && matches(filter, topic)
            })
            .cloned()
            .collect();
        for text in texts {
            *self.lost.entry((message, text)).or_default() += 1;
        }
    }

    /// In a crash: what a member had whose session is not stored ends with both.
    pub fn members_end(&mut self) {
        for session in self.sessions.iter().filter(|session| !session.stored) {
            for (id, message) in self.messages.iter().enumerate() {
                for routing in &message.routings {
                    let spans = span(&session.history, routing.tick, u64::MAX);
                    let texts = spans.iter().flat_map(|(_, all)| all).map(|it| &it.text);
                    let is_group = |text: &&String| {
                        let (share, filter) = split_share(text);
                        share.is_some() && matches(filter, &message.topic)
                    };
                    let groups = texts.filter(is_group).map(|text| (id, text.clone()));
                    self.ended_with_member.extend(groups);
                }
            }
        }
    }

    /// In a crash: that the client has it may be forgotten.
    pub fn may_come_again(&mut self, session: SessionId, message: MessageId) {
        *self.sessions[session].again.entry(message).or_default() += 1;
    }

    /// In a crash: no link holds anything any more.
    pub fn nothing_travels(&mut self) {
        self.unsettled.clear();
        self.step.clear();
    }

    /// In a crash: these messages are retained on disk, by topic; one without a payload has cleared it.
    ///
    /// Panics: when what was acknowledged is not among them.
    pub fn retained_come_back(&mut self, found: &BTreeMap<&str, &Message>) {
        for (topic, updates) in &mut self.retained {
            let messages = &mut self.messages;
            let is_overtaken = |(message, at): (MessageId, usize),
                                messages: &[crate::model::Message]| {
                let of = |(message, at): (MessageId, usize)| &messages[message].routings[at];
                let this = of((message, at));
                updates.iter().any(|later| {
                    let later = of(*later);
                    later.acked && !later.maybe_not_retained && this.until < later.tick
                })
            };
            let held = found.get(&topic[..]);
            let fits = |(id, at): (MessageId, usize), messages: &[crate::model::Message]| {
                held.is_some_and(|held| {
                    let message = &messages[id];
                    message.payload.0 == held.payload()
                        && message.routings[at].expires_at_ms == held.expires_at_ms()
                })
            };
            // Several if it was accepted more than once: which of them it is makes no difference.
            let right: Vec<(MessageId, usize)> = updates
                .iter()
                .filter(|update| fits(**update, messages) && !is_overtaken(**update, messages))
                .copied()
                .collect();
            let must_be = updates.iter().any(|(message, at)| {
                let routing = &messages[*message].routings[*at];
                routing.acked && !routing.maybe_not_retained
            });
            assert!(
                !right.is_empty() || held.is_none() && !must_be,
                "(11) on disk {topic} has {held:?}, which an acknowledged message has replaced: {updates:?}"
            );
            if let [(message, at)] = right[..] {
                messages[message].routings[at].maybe_not_retained = false;
            }
            *updates = right;
        }
        self.retained.retain(|_, updates| !updates.is_empty());
    }
}

/// What a publisher is told, and may do when it is told nothing.
impl Auditor {
    /// A QoS 2 message was repeated that may have been refused the first time: it may be routed again, or not.
    pub fn route_perhaps(
        &mut self,
        socket: SocketId,
        session: SessionId,
        message: MessageId,
        id: u16,
    ) {
        self.model.route(session, message);
        let routings = &mut self.model.messages[message].routings;
        for routing in routings.iter_mut() {
            routing.excused |= !routing.acked;
        }
        let of = (message, routings.len() - 1);
        routings[of.1].maybe_not_retained = true;
        self.conns[socket].accepts.insert(id, of);
        self.model.sessions[session].received_of.insert(id, of);
    }

    /// A publisher is told what became of its message.
    pub fn told(&mut self, socket: SocketId, packet_type: PacketType, id: u16, reason: ReasonCode) {
        let conn = &mut self.conns[socket];
        let session = conn.session.expect("CONNACK came first");
        let Some((message, routing)) = conn.accepts.get(&id).copied() else {
            return;
        };
        let is_accepted = (reason as u8) < 0x80;
        let it = &mut self.model.messages[message].routings[routing];
        it.acked |= is_accepted;
        it.excused |= !is_accepted;
        if packet_type == PacketType::Pubrec {
            let session = &mut self.model.sessions[session];
            if !is_accepted {
                // One of a closed connection may leave when the client has sent it again on the next.
                if session.received_of.get(&id) == Some(&(message, routing)) {
                    session.received.remove(&id);
                    session.received_of.remove(&id);
                }
            } else if session.received.contains(&id) {
                session.received_told.insert(id);
            }
        }
    }
}

fn client_of(client_id: &str) -> usize {
    let number = client_id
        .strip_prefix('c')
        .and_then(|number| number.parse().ok());
    // A probe is no part of the model.
    number.unwrap_or(usize::MAX)
}

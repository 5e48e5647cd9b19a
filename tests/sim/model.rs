//! The oracle: a naive broker. Lists, linear matching, no cores.
//!
//! The real broker is concurrent, so there is no single right answer to what a client gets. The model keeps the *set of
//! allowed outcomes*: it remembers every set of subscriptions that a session has had, and for each message
//! the span of time in which it can have met the session. What every moment of that span demands must happen; what
//! some moment of it permits may.
//!
//! Its time is a counter of events, the *tick*. The simulator knows exactly when a shard handled a packet;
//! a message is on its way until all links of its shard have delivered what they held then.

use crate::causes::{Cause, Causes};
use ringmq::protocol::QoS;
use std::collections::{BTreeMap, BTreeSet};

pub type MessageId = usize;
pub type SessionId = usize;

/// Whether a Topic Filter matches a Topic Name (MQTT 5 §4.7).
pub fn matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter.first(), topic.first()) {
            (Some(&"#"), _) => true,
            (None, None) => true,
            (Some(&"+"), Some(_)) => levels(&filter[1..], &topic[1..]),
            (Some(a), Some(b)) if a == b => levels(&filter[1..], &topic[1..]),
            _ => false,
        }
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    if topic[0].starts_with('$') && (filter[0] == "#" || filter[0] == "+") {
        return false;
    }
    levels(&filter, &topic)
}

/// Splits `$share/NAME/FILTER`.
pub fn split_share(text: &str) -> (Option<&str>, &str) {
    match text.strip_prefix("$share/") {
        Some(rest) => {
            let (name, filter) = rest
                .split_once('/')
                .expect("the simulator builds valid filters");
            (Some(name), filter)
        }
        None => (None, text),
    }
}

/// A payload; told by its length and its beginning.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Payload(pub Vec<u8>);

impl std::ops::Deref for Payload {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, message {:?}", self.0.len(), id_of(&self.0))
    }
}

/// An application message that some client sent or will send.
#[derive(Debug)]
pub struct Message {
    pub publisher: usize,
    pub topic: String,
    pub payload: Payload,
    pub qos: QoS,
    pub retain: bool,
    pub expiry_s: Option<u32>,
    /// The value of a User Property, which the broker passes on.
    pub user: Option<String>,
    pub is_will: bool,
    /// Each time the broker accepted it: more than once when QoS 1 was sent again.
    pub routings: Vec<Routing>,
}

/// One time that the broker accepted a message.
#[derive(Debug)]
pub struct Routing {
    pub session: SessionId,
    pub shard: usize,
    /// When its own shard handled it, and until when that may have been.
    pub tick: u64,
    pub until: u64,
    /// Since when no link can hold it.
    pub settled: Option<u64>,
    pub marks: Vec<u64>,
    pub at_ms: u64,
    pub expires_at_ms: u64,
    /// Whether the limits may have kept it from being retained.
    pub maybe_not_retained: bool,
    /// It may stand behind a refused message of a 3.x client: then it was not taken, and is never acknowledged.
    pub maybe_not_taken: bool,
    /// The publisher was told that it is accepted.
    pub acked: bool,
    /// Nobody has a right to it: it was refused, or it was not acknowledged when the broker crashed.
    pub excused: bool,
    /// It was lost in a crash.
    pub void: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// With the share name, if any.
    pub text: String,
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub id: u32,
    /// When it was made; a replacement keeps it.
    pub serial: u64,
    /// Whether its SUBACK has left the broker.
    pub promised: bool,
}

/// Retained messages owed because of one SUBSCRIBE.
#[derive(Debug)]
pub struct Replay {
    pub tick: u64,
    pub text: String,
    pub qos: QoS,
    pub id: u32,
    pub promised: bool,
    /// Nothing of it can be demanded any more.
    pub waived: bool,
    /// The connection was lost since, and QoS 0 messages with it.
    pub interrupted: bool,
}

/// A PUBLISH under a Packet Identifier, as the wire showed it.
#[derive(Debug)]
pub struct Flight {
    pub message: MessageId,
    pub qos: QoS,
    /// The connection on which it was sent last.
    pub socket: usize,
    /// Order of first sending.
    pub order: u64,
    /// PUBREC was handled.
    pub released: bool,
    /// The broker may have given the identifier up without an acknowledgement.
    pub maybe_free: bool,
    /// It has a cause: it was not only seen on a connection that was closed already.
    pub counted: bool,
    /// PUBREL has left.
    pub pubrel_left: bool,
}

#[derive(Debug)]
pub struct Will {
    pub message: MessageId,
    pub delay_s: u32,
}

/// What a connection changes of a session once it is granted.
#[derive(Debug)]
pub struct Before {
    will: Option<Will>,
    expiry_s: u32,
    disconnected_ms: u64,
}

/// A session, dead ones included.
#[derive(Debug)]
pub struct Session {
    pub client: usize,
    pub shard: usize,
    pub alive: bool,
    pub expiry_s: u32,
    pub will: Option<Will>,
    /// While a CONNACK has not left: what it was, if it is resumed.
    pub before: Option<Option<Before>>,
    pub socket: Option<usize>,
    /// The connection, since when.
    pub sockets: Vec<(u64, Option<usize>)>,
    pub disconnected_ms: u64,
    /// Every set of subscriptions, since when.
    pub history: Vec<(u64, Vec<Subscription>)>,
    pub replays: Vec<Replay>,
    /// Inbound QoS 2 identifiers.
    pub received: BTreeSet<u16>,
    pub flights: BTreeMap<u16, Flight>,
    pub got: BTreeMap<MessageId, Got>,
    /// By publisher, topic and both QoS: the routing delivered last.
    pub order: BTreeMap<(usize, String, QoS, QoS), u64>,
    /// The smallest Maximum Packet Size it has had.
    pub packet_bytes_max: usize,
    /// A CONNACK for it has left.
    pub granted: bool,
    /// The store knows of it.
    pub stored: bool,
    /// What an UNSUBACK has left for, and was not subscribed again.
    pub unsubscribed: BTreeSet<String>,
    /// Inbound identifiers for which PUBREC has left and PUBREL has not come, and for which PUBCOMP has left.
    pub received_told: BTreeSet<u16>,
    pub released_told: BTreeSet<u16>,
    /// Identifiers whose PUBREC was not seen and may have been a refusal, which frees them.
    pub uncertain: BTreeSet<u16>,
    /// What came under the inbound identifiers.
    pub received_of: BTreeMap<u16, (MessageId, usize)>,
    /// Identifiers of messages that the client refused with PUBREC.
    pub refused_ids: BTreeSet<u16>,
    /// How often more a message may come at QoS 1, because of crashes.
    pub again: BTreeMap<MessageId, usize>,
    /// What it held as a retained message when the broker crashed, which nobody else may know any more.
    pub replayed: BTreeSet<MessageId>,
    /// It had ended, and came back after a crash: what came by before then is not owed, for it ended with it.
    pub owed_from: u64,
}

impl Session {
    fn is_due(&self, seconds: u32, now_ms: u64) -> bool {
        self.disconnected_ms + u64::from(seconds) * 1_000 <= now_ms
    }

    pub fn is_will_due(&self, now_ms: u64) -> bool {
        let will = self.will.as_ref();
        will.is_some_and(|will| self.is_due(will.delay_s, now_ms))
    }

    pub fn is_over(&self, now_ms: u64) -> bool {
        self.expiry_s != u32::MAX && self.is_due(self.expiry_s, now_ms)
    }

    pub fn take_before(&mut self) -> Before {
        Before {
            will: self.will.take(),
            expiry_s: self.expiry_s,
            disconnected_ms: self.disconnected_ms,
        }
    }
}

/// What a session got of one message.
#[derive(Debug, Default)]
pub struct Got {
    fresh: usize,
    /// Times it reached the application.
    pub applied: usize,
}

/// What a PUBLISH to a client said.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub topic: String,
    pub payload: Payload,
    pub qos: QoS,
    pub retain: bool,
    /// Sorted; `None` when the client's version has none.
    pub ids: Option<Vec<u32>>,
}

impl Delivered {
    fn is(&self, (qos, retain, ids): &(QoS, bool, Vec<u32>)) -> bool {
        *qos == self.qos
            && *retain == self.retain
            && self.ids.as_ref().is_none_or(|these| these == ids)
    }
}

#[derive(Debug, Default)]
pub struct Model {
    pub tick: u64,
    pub now_ms: u64,
    pub messages: Vec<Message>,
    pub sessions: Vec<Session>,
    /// By topic: what was retained or cleared, in order of `Routing::tick`.
    pub retained: BTreeMap<String, Vec<(MessageId, usize)>>,
    /// By message and group: how often it may have gone to one more member, because an earlier one was lost.
    pub lost: BTreeMap<(MessageId, String), usize>,
    /// By message and group: a member without a stored session may have had it when the broker crashed.
    pub ended_with_member: BTreeSet<(MessageId, String)>,
    /// By topic.
    causes: BTreeMap<String, Causes>,
    pub unsettled: Vec<(MessageId, usize)>,
    /// Routings of the present step.
    pub step: Vec<(MessageId, usize)>,
    order: u64,
    pub deliveries: u64,
    /// Messages may be refused, and then nobody has a right to them.
    pub may_refuse: bool,
}

/// Messages that nobody can account for, and owed messages that never came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing {
    pub queued: Vec<u64>,
    pub qos_0: u64,
    pub shared: u64,
    pub shared_qos_2: u64,
}

impl Model {
    pub fn new(may_refuse: bool) -> Self {
        Self {
            may_refuse,
            ..Self::default()
        }
    }

    pub fn new_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    pub fn live_session(&self, client: usize) -> Option<SessionId> {
        self.sessions
            .iter()
            .rposition(|session| session.alive && session.client == client)
    }

    pub fn new_session(&mut self, client: usize, shard: usize) -> SessionId {
        let tick = self.new_tick();
        self.sessions.push(Session {
            client,
            shard,
            alive: true,
            expiry_s: 0,
            will: None,
            before: None,
            socket: None,
            sockets: vec![(tick, None)],
            disconnected_ms: 0,
            history: vec![(tick, Vec::new())],
            replays: Vec::new(),
            received: BTreeSet::new(),
            flights: BTreeMap::new(),
            got: BTreeMap::new(),
            order: BTreeMap::new(),
            packet_bytes_max: usize::MAX,
            granted: false,
            stored: false,
            unsubscribed: BTreeSet::new(),
            received_told: BTreeSet::new(),
            released_told: BTreeSet::new(),
            uncertain: BTreeSet::new(),
            received_of: BTreeMap::new(),
            refused_ids: BTreeSet::new(),
            again: BTreeMap::new(),
            replayed: BTreeSet::new(),
            owed_from: 0,
        });
        self.sessions.len() - 1
    }

    pub fn set_socket(&mut self, session: SessionId, socket: Option<usize>) {
        let tick = self.new_tick();
        let it = &mut self.sessions[session];
        if it.socket.is_some() && socket.is_none() {
            it.disconnected_ms = self.now_ms;
            for replay in &mut it.replays {
                // A SUBACK that did not leave is forgotten with its connection.
                replay.waived |= !replay.promised;
                replay.interrupted = true;
            }
            self.free_for_groups(session);
        }
        let it = &mut self.sessions[session];
        it.socket = socket;
        it.sockets.push((tick, socket));
    }

    /// What this session got from shared groups and did not acknowledge may go to other members now.
    fn free_for_groups(&mut self, session: SessionId) {
        let it = &mut self.sessions[session];
        let mut freed = Vec::new();
        for flight in it.flights.values_mut() {
            flight.maybe_free = true;
            if flight.qos == QoS::AtLeastOnce {
                freed.push(flight.message);
                let message = &self.messages[flight.message];
                if message.payload.is_empty() {
                    // It may be any of them.
                    let alike =
                        |other: &Message| other.payload.is_empty() && other.topic == message.topic;
                    let all = 0..self.messages.len();
                    freed.extend(all.filter(|id| alike(&self.messages[*id])));
                }
            }
        }
        for message in freed {
            let topic = &self.messages[message].topic;
            let texts: BTreeSet<&String> = self.sessions[session]
                .history
                .iter()
                .flat_map(|(_, subscriptions)| subscriptions)
                .map(|subscription| &subscription.text)
                .filter(|text| {
                    let (share, filter) = split_share(text);
                    share.is_some() && matches(filter, topic)
                })
                .collect();
            for text in texts {
                *self.lost.entry((message, text.clone())).or_default() += 1;
            }
        }
    }

    /// Whether the broker may have given up a message that it had sent: it is too large for a later connection, or
    /// another member of the group has it. That it has expired is no reason ([MQTT-4.3.3-7]).
    pub fn may_be_given_up(&self, session: SessionId, flight: &Flight) -> bool {
        let it = &self.sessions[session];
        let message = &self.messages[flight.message];
        let is_shared = || {
            it.history
                .iter()
                .flat_map(|(_, all)| all)
                .any(|subscription| {
                    let (share, filter) = split_share(&subscription.text);
                    share.is_some() && matches(filter, &message.topic)
                })
        };
        let is_too_large = size_at_most(message) > it.packet_bytes_max;
        if !flight.maybe_free {
            // After a crash it has not been sent yet.
            return is_too_large && flight.socket == usize::MAX;
        }
        let was_lost = flight.qos == QoS::AtLeastOnce;
        is_too_large || !flight.counted || was_lost && is_shared()
    }

    /// A Packet Identifier is used for another message.
    pub fn reuse(&self, session: SessionId, flight: &Flight) {
        assert!(
            self.may_be_given_up(session, flight),
            "(9) the Packet Identifier of {flight:?} is used again"
        );
    }

    /// Ends a session; its Will goes out if it still has one. Returns how many Wills went out.
    pub fn end_session(&mut self, session: SessionId) -> u64 {
        if self.sessions[session].socket.is_some() {
            self.set_socket(session, None);
        }
        self.change(session, Vec::clear);
        let it = &mut self.sessions[session];
        // What is in flight stays known: in a crash the session may come back.
        it.alive = false;
        it.received.clear();
        self.publish_will(session)
    }

    pub fn publish_will(&mut self, session: SessionId) -> u64 {
        let Some(will) = self.sessions[session].will.take() else {
            return 0;
        };
        self.route(session, will.message);
        1
    }

    /// A session's connection is gone; one that was never granted has changed nothing, and had no Will.
    pub fn leave(&mut self, session: SessionId) {
        self.set_socket(session, None);
        let it = &mut self.sessions[session];
        if let Some(before) = it.before.take() {
            it.will = None;
            if let Some(before) = before {
                it.will = before.will;
                it.expiry_s = before.expiry_s;
                it.disconnected_ms = before.disconnected_ms;
            }
        }
    }

    /// A session's connection ended. Returns how many Wills went out.
    pub fn detach(&mut self, session: SessionId) -> u64 {
        self.leave(session);
        let it = &self.sessions[session];
        if it.is_over(self.now_ms) {
            return self.end_session(session);
        }
        if it.is_will_due(self.now_ms) {
            return self.publish_will(session);
        }
        0
    }

    /// Time passed on a shard. Returns how many Wills went out.
    pub fn timers(&mut self, shard: usize) -> u64 {
        let mut wills = 0;
        for session in 0..self.sessions.len() {
            let it = &self.sessions[session];
            if !it.alive || it.socket.is_some() || it.shard != shard {
                continue;
            }
            if it.is_over(self.now_ms) {
                wills += self.end_session(session);
            } else if it.is_will_due(self.now_ms) {
                wills += self.publish_will(session);
            }
        }
        wills
    }

    /// Changes the subscriptions of a session.
    pub fn change(&mut self, session: SessionId, change: impl FnOnce(&mut Vec<Subscription>)) {
        let tick = self.new_tick();
        let mut subscriptions = self.subscriptions(session).to_vec();
        change(&mut subscriptions);
        self.sessions[session].history.push((tick, subscriptions));
    }

    pub fn subscriptions(&self, session: SessionId) -> &[Subscription] {
        &self.sessions[session]
            .history
            .last()
            .expect("it begins with none")
            .1
    }

    /// The broker accepted a message.
    pub fn route(&mut self, session: SessionId, message: MessageId) {
        let tick = self.new_tick();
        let shard = self.sessions[session].shard;
        let it = &mut self.messages[message];
        let expires_at_ms = it
            .expiry_s
            .map_or(u64::MAX, |seconds| self.now_ms + u64::from(seconds) * 1_000);
        it.routings.push(Routing {
            session,
            shard,
            tick,
            until: tick,
            settled: None,
            marks: Vec::new(),
            at_ms: self.now_ms,
            expires_at_ms,
            maybe_not_retained: false,
            maybe_not_taken: false,
            acked: false,
            excused: false,
            void: false,
        });
        let routing = it.routings.len() - 1;
        if it.retain {
            self.retained
                .entry(it.topic.clone())
                .or_default()
                .push((message, routing));
        }
        self.step.push((message, routing));
    }

    /// A step of a shard is over: what it routed is on the links up to `marks`.
    pub fn end_step(&mut self, began: u64, marks: &[u64], retained_limit: bool) {
        let tick = self.tick;
        for (message, routing) in std::mem::take(&mut self.step) {
            let it = &mut self.messages[message];
            let may_be_refused = retained_limit && it.retain && !it.payload.is_empty();
            let is_will = it.is_will;
            let routing_at = &mut it.routings[routing];
            routing_at.marks = marks.to_vec();
            routing_at.maybe_not_retained |= may_be_refused;
            if is_will {
                // Several things end in one step, in an order of the broker's own.
                routing_at.tick = began;
                routing_at.until = tick;
            }
            self.unsettled.push((message, routing));
        }
    }

    /// Asks which messages are no longer on a link.
    pub fn settle(&mut self, has_passed: impl Fn(usize, &[u64]) -> bool) {
        let tick = self.tick;
        let messages = &mut self.messages;
        self.unsettled.retain(|(message, routing)| {
            let routing = &mut messages[*message].routings[*routing];
            if !has_passed(routing.shard, &routing.marks) {
                return true;
            }
            routing.settled = Some(tick);
            false
        });
    }

    /// The sets of subscriptions that a routing can have met.
    fn met(&self, session: SessionId, routing: &Routing) -> &[(u64, Vec<Subscription>)] {
        let it = &self.sessions[session];
        let until = if it.shard == routing.shard {
            routing.until
        } else {
            routing.settled.unwrap_or(u64::MAX)
        };
        span(&it.history, routing.tick, until)
    }

    fn live_outcome(
        &self,
        subscriptions: &[Subscription],
        message: &Message,
        is_own: bool,
    ) -> Option<(QoS, bool, Vec<u32>)> {
        let mut outcome: Option<(QoS, bool, Vec<u32>)> = None;
        for it in subscriptions {
            let (share, filter) = split_share(&it.text);
            if share.is_some() || it.no_local && is_own || !matches(filter, &message.topic) {
                continue;
            }
            let (qos, retain, ids) = outcome.get_or_insert((QoS::AtMostOnce, false, Vec::new()));
            *qos = (*qos).max(it.qos.min(message.qos));
            *retain |= it.retain_as_published && message.retain;
            if it.id != 0 {
                ids.push(it.id);
            }
        }
        if let Some((_, _, ids)) = &mut outcome {
            ids.sort_unstable();
        }
        outcome
    }

    /// A PUBLISH left for a session for the first time. Returns the message; if it is empty, one that it may be.
    ///
    /// Panics: when no history explains it.
    pub fn delivered(&mut self, session: SessionId, it: &Delivered) -> MessageId {
        self.deliveries += 1;
        let client = self.sessions[session].client;
        let candidates = self.candidates_of(it);
        let mut causes = Vec::new();
        let mut live = Vec::new();
        for id in &candidates {
            let ticks = self.live_ticks(session, *id, it);
            causes.extend(ticks.iter().map(|tick| Cause::Live(session, *id, *tick)));
            live.extend(ticks);
            causes.extend(self.other_causes(session, *id, it));
        }
        let is_live = causes.len() == live.len();
        let is_replay = causes.iter().all(|it| matches!(it, Cause::Replay(..)));
        let mut all = self.causes.remove(&it.topic).unwrap_or_default();
        let capacity = |cause: &Cause| match cause {
            Cause::Live(session, message, _) => {
                1 + self.sessions[*session]
                    .again
                    .get(message)
                    .copied()
                    .unwrap_or(0)
            }
            Cause::Replay(..) => 1,
            Cause::Group(message, text) => {
                self.messages[*message].routings.len()
                    + self
                        .lost
                        .get(&(*message, text.clone()))
                        .copied()
                        .unwrap_or(0)
            }
        };
        let has_cause = all.add(causes.clone(), &capacity);
        self.causes.insert(it.topic.clone(), all);
        let messages: Vec<_> = candidates
            .iter()
            .map(|id| (id, &self.messages[*id]))
            .collect();
        assert!(
            has_cause,
            "(1) client {client} got {it:?}; possible causes, all used up: {causes:?}; \
             messages: {messages:?}; its subscriptions: {:?}",
            self.subscriptions(session)
        );
        let id = candidates[0];
        let message = &self.messages[id];
        if (is_live || is_replay) && !message.is_will && !message.payload.is_empty() {
            let key = (
                message.publisher,
                message.topic.clone(),
                message.qos,
                it.qos,
            );
            let last = self.sessions[session].order.entry(key).or_default();
            if is_live {
                let next = live.iter().find(|tick| **tick > *last);
                *last = *next.unwrap_or_else(|| {
                    panic!(
                        "(2) client {client} got message {id} after a later one of its publisher"
                    )
                });
            } else {
                // It may come again, live, but nothing older.
                let ticks = message.routings.iter().map(|routing| routing.tick - 1);
                *last = ticks.min().unwrap_or_default().max(*last);
            }
        }
        self.sessions[session].got.entry(id).or_default().fresh += 1;
        id
    }

    /// The messages that a delivery may be.
    pub fn candidates_of(&self, it: &Delivered) -> Vec<MessageId> {
        let is_it = |message: &Message| {
            message.topic == it.topic
                && message.payload == it.payload
                && !message.routings.is_empty()
        };
        if let Some(id) = id_of(&it.payload) {
            return Vec::from_iter(
                (id < self.messages.len() && is_it(&self.messages[id])).then_some(id),
            );
        }
        (0..self.messages.len())
            .filter(|id| is_it(&self.messages[*id]))
            .collect()
    }

    /// When a message came by that may be this delivery.
    fn live_ticks(&self, session: SessionId, id: MessageId, it: &Delivered) -> Vec<u64> {
        let message = &self.messages[id];
        let may_be = |routing: &&Routing| {
            self.met(session, routing).iter().any(|(_, subscriptions)| {
                self.live_outcome(subscriptions, message, routing.session == session)
                    .is_some_and(|outcome| it.is(&outcome))
            })
        };
        message
            .routings
            .iter()
            .filter(|routing| !routing.void)
            .filter(may_be)
            .map(|routing| routing.tick)
            .collect()
    }

    /// The retained messages and the shared groups that may be its cause.
    fn other_causes(&self, session: SessionId, id: MessageId, it: &Delivered) -> Vec<Cause> {
        let message = &self.messages[id];
        let mut causes = Vec::new();
        for (at, replay) in self.sessions[session].replays.iter().enumerate() {
            let ids = Vec::from_iter((replay.id != 0).then_some(replay.id));
            if it.retain
                && matches(&replay.text, &message.topic)
                && it.is(&(replay.qos.min(message.qos), true, ids))
                && (self.sessions[session].replayed.contains(&id)
                    || self
                        .retained_between(&message.topic, session, replay.tick)
                        .contains(&Some(id)))
            {
                causes.push(Cause::Replay(session, at));
            }
        }
        let groups = self.groups_for(session, id, it);
        causes.extend(groups.into_iter().map(|text| Cause::Group(id, text)));
        causes
    }

    /// The groups through which a session may have got a message.
    fn groups_for(&self, session: SessionId, id: MessageId, it: &Delivered) -> Vec<String> {
        let message = &self.messages[id];
        let Some(first) = message.routings.first() else {
            return Vec::new();
        };
        let mut texts = BTreeSet::new();
        for (_, subscriptions) in span(&self.sessions[session].history, first.tick, u64::MAX) {
            for subscription in subscriptions {
                let (share, filter) = split_share(&subscription.text);
                let ids = Vec::from_iter((subscription.id != 0).then_some(subscription.id));
                if share.is_some()
                    && matches(filter, &message.topic)
                    && subscription.qos.min(message.qos) == it.qos
                    && (subscription.retain_as_published && message.retain) == it.retain
                    && it.ids.as_ref().is_none_or(|it| *it == ids)
                {
                    texts.insert(subscription.text.clone());
                }
            }
        }
        texts.into_iter().collect()
    }

    /// What may have been retained for a topic on the shard of a session at any time since `since`; `None` is nothing.
    fn retained_between(
        &self,
        topic: &str,
        session: SessionId,
        since: u64,
    ) -> BTreeSet<Option<MessageId>> {
        let shard = self.sessions[session].shard;
        let empty = Vec::new();
        let updates = self.retained.get(topic).unwrap_or(&empty);
        let routing =
            |(message, routing): &(MessageId, usize)| &self.messages[*message].routings[*routing];
        let is_superseded = |u: Option<&Routing>| {
            updates.iter().map(routing).any(|v| {
                let arrived = if v.shard == shard {
                    Some(v.until)
                } else {
                    v.settled
                };
                let is_later = u.is_none_or(|u| {
                    let u_known = if u.shard == v.shard {
                        Some(u.until)
                    } else {
                        u.settled
                    };
                    !std::ptr::eq(u, v) && u_known.is_some_and(|known| known < v.tick)
                });
                let is_retained = !v.maybe_not_retained && (v.acked || !v.maybe_not_taken);
                is_later && is_retained && arrived.is_some_and(|arrived| arrived <= since)
            })
        };
        let mut possible = BTreeSet::new();
        if !is_superseded(None) {
            possible.insert(None);
        }
        for update in updates {
            if !is_superseded(Some(routing(update))) {
                let message = &self.messages[update.0];
                possible.insert((!message.payload.is_empty()).then_some(update.0));
                if routing(update).expires_at_ms <= self.now_ms {
                    possible.insert(None);
                }
            }
        }
        possible
    }

    /// The retained messages as they must stand on every shard at rest: by topic, what is possible.
    pub fn retained_at_rest(&self) -> BTreeMap<String, BTreeSet<Option<MessageId>>> {
        assert!(self.unsettled.is_empty());
        self.retained
            .keys()
            .map(|topic| {
                // Any session will do: nothing is on its way.
                let any = BTreeSet::from([None]);
                let possible = if self.sessions.is_empty() {
                    any
                } else {
                    self.retained_between(topic, 0, self.tick)
                };
                (topic.clone(), possible)
            })
            .collect()
    }

    pub fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Whether somebody who was promised every message of this topic has a subscription now.
    pub fn has_promised_subscriber(&self, topic: &str) -> bool {
        self.sessions
            .iter()
            .filter(|session| session.alive)
            .any(|session| {
                session
                    .history
                    .last()
                    .expect("it begins with none")
                    .1
                    .iter()
                    .any(|subscription| {
                        subscription.promised && matches(split_share(&subscription.text).1, topic)
                    })
            })
    }

    /// At rest: what was owed and has not come, apart from what has an excuse of its own.
    pub fn missing(&self, shard_count: usize) -> (Missing, Vec<String>) {
        let mut missing = Missing {
            queued: vec![0; shard_count],
            ..Missing::default()
        };
        let mut words = Vec::new();
        for (id, message) in self.messages.iter().enumerate() {
            if message.payload.is_empty() {
                continue;
            }
            for routing in &message.routings {
                let may_be_refused =
                    self.may_refuse && message.qos != QoS::AtMostOnce && !routing.acked;
                if routing.expires_at_ms <= self.now_ms || routing.excused || may_be_refused {
                    continue;
                }
                for session in 0..self.sessions.len() {
                    self.missing_live(session, id, routing, &mut missing, &mut words);
                }
                self.missing_shared(id, routing, &mut missing, &mut words);
            }
        }
        (missing, words)
    }

    fn missing_live(
        &self,
        session: SessionId,
        id: MessageId,
        routing: &Routing,
        missing: &mut Missing,
        words: &mut Vec<String>,
    ) {
        let message = &self.messages[id];
        let it = &self.sessions[session];
        let is_owed = routing.tick >= it.owed_from;
        if !it.alive || !is_owed || size_at_most(message) > it.packet_bytes_max {
            return;
        }
        let is_own = routing.session == session;
        let (mut qos, mut qos_max) = (QoS::ExactlyOnce, QoS::AtMostOnce);
        let met = self.met(session, routing);
        if met.is_empty() {
            return;
        }
        for (_, subscriptions) in met {
            let promised: Vec<_> = subscriptions
                .iter()
                .filter(|it| it.promised)
                .cloned()
                .collect();
            let all = self.live_outcome(subscriptions, message, is_own);
            let (Some(_), Some(all)) = (self.live_outcome(&promised, message, is_own), all) else {
                return;
            };
            qos = qos.min(all.0);
            qos_max = qos_max.max(all.0);
        }
        let got = it.got.get(&id);
        if qos == QoS::AtMostOnce {
            let connections = span(&it.sockets, routing.tick, u64::MAX);
            let same = connections.iter().all(|(_, socket)| *socket == it.socket);
            if same && qos_max == qos && it.socket.is_some() && got.is_none_or(|got| got.fresh == 0)
            {
                missing.qos_0 += 1;
                words.push(format!(
                    "client {} has not got QoS 0 message {id}",
                    it.client
                ));
            }
        } else if got.is_none_or(|got| got.applied == 0) {
            missing.queued[it.shard] += 1;
            words.push(format!(
                "client {} has not got message {id}: {message:?}",
                it.client
            ));
        }
    }

    fn missing_shared(
        &self,
        id: MessageId,
        routing: &Routing,
        missing: &mut Missing,
        words: &mut Vec<String>,
    ) {
        let message = &self.messages[id];
        if message.qos == QoS::AtMostOnce {
            return;
        }
        // By group: whether nothing excuses it, and the highest QoS that a member may have got it with.
        let mut texts: BTreeMap<&String, (bool, QoS)> = BTreeMap::new();
        for session in &self.sessions {
            let spans = span(&session.history, routing.tick, u64::MAX);
            for subscription in spans.iter().flat_map(|(_, subscriptions)| subscriptions) {
                let (share, filter) = split_share(&subscription.text);
                if share.is_some() && matches(filter, &message.topic) {
                    let (is_owed, qos) = texts
                        .entry(&subscription.text)
                        .or_insert((true, QoS::AtMostOnce));
                    *is_owed &= subscription.qos != QoS::AtMostOnce;
                    *is_owed &= size_at_most(message) <= session.packet_bytes_max;
                    *qos = (*qos).max(subscription.qos.min(message.qos));
                }
            }
        }
        for (text, (is_owed, qos)) in texts {
            let has = |all: &[Subscription]| all.iter().any(|it| it.text == *text && it.promised);
            let stays = |session: &Session| {
                let spans = span(&session.history, routing.tick, u64::MAX);
                session.alive && spans.iter().all(|(_, all)| has(all))
            };
            let has_applied = |session: &Session| {
                let was_member = || {
                    let spans = span(&session.history, routing.tick, u64::MAX);
                    spans
                        .iter()
                        .any(|(_, all)| all.iter().any(|it| it.text == *text))
                };
                session.got.get(&id).is_some_and(|got| got.applied > 0) && was_member()
            };
            let applied = self.sessions.iter().any(has_applied);
            let is_owed = is_owed && !self.ended_with_member.contains(&(id, text.clone()));
            if is_owed && !applied && self.sessions.iter().any(stays) {
                // What was under way with QoS 2 may end with its session ([MQTT-4.8.2-5]).
                if qos == QoS::ExactlyOnce {
                    missing.shared_qos_2 += 1;
                } else {
                    missing.shared += 1;
                }
                words.insert(
                    0,
                    format!("nobody of {text} has got message {id}: {message:?}"),
                );
            }
        }
    }

    /// At rest: retained messages owed to a new subscription that have not come.
    pub fn missing_replays(&self) -> Vec<String> {
        let mut words = Vec::new();
        let none = Causes::default();
        for topic in self.retained.keys() {
            let mut owed = Vec::new();
            for (at, session) in self.sessions.iter().enumerate().filter(|(_, it)| it.alive) {
                let replays = session.replays.iter().enumerate();
                let due = |replay: &Replay| {
                    replay.promised && !replay.waived && matches(&replay.text, topic)
                };
                for (number, replay) in replays.filter(|(_, replay)| due(replay)) {
                    let possible = self.retained_between(topic, at, replay.tick);
                    let Some(Some(id)) = possible.first().filter(|_| possible.len() == 1) else {
                        continue;
                    };
                    let message = &self.messages[*id];
                    let may_be_lost =
                        replay.interrupted && replay.qos.min(message.qos) == QoS::AtMostOnce;
                    if !may_be_lost && size_at_most(message) <= session.packet_bytes_max {
                        owed.push(Cause::Replay(at, number));
                    }
                }
            }
            for cause in self
                .causes
                .get(topic)
                .unwrap_or(&none)
                .without_delivery(&owed)
            {
                let Cause::Replay(session, number) = cause else {
                    unreachable!("only these")
                };
                let session = &self.sessions[session];
                let replay = &session.replays[number];
                words.push(format!(
                    "client {}, topic {topic}: {replay:?}",
                    session.client
                ));
            }
        }
        words
    }
}

/// The entries in force between two ticks, both included.
pub fn span<T>(history: &[(u64, T)], from: u64, to: u64) -> &[(u64, T)] {
    let first = history
        .partition_point(|(tick, _)| *tick <= from)
        .saturating_sub(1);
    let last = history.partition_point(|(tick, _)| *tick <= to);
    if last <= first {
        &[]
    } else {
        &history[first..last]
    }
}

/// The number that stands in front of every payload but the empty one.
pub fn id_of(payload: &[u8]) -> Option<MessageId> {
    Some(u32::from_le_bytes(payload.get(..4)?.try_into().expect("four bytes")) as usize)
}

/// No PUBLISH of this message is larger.
fn size_at_most(message: &Message) -> usize {
    let user = message.user.as_ref().map_or(0, |user| user.len() + 6);
    5 + 2 + message.topic.len() + 2 + 3 + 5 + 3 + 16 * 5 + user + message.payload.len()
}

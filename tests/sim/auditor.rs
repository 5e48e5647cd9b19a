//! Watches every connection at the broker's edge: what a shard has read, which moves the model, and what it
//! writes, which the model must allow.

mod leave;

use crate::model::{
    Delivered, Flight, MessageId, Model, Payload, Replay, SessionId, Subscription, Will, id_of,
    split_share,
};
use crate::world::{Effects, SocketId, Stage, World};
use ringmq::config::limits::{Limits, QueueFullPolicy};
use ringmq::protocol::frame::{Cut, cut};
use ringmq::protocol::{
    Ack, Connack, Connect, Disconnect, PacketId, PacketType, Publish, QoS, ReasonCode,
    RetainHandling, Suback, Subscribe, Unsuback, Unsubscribe, Version,
};
use ringmq::shard::counters::DropCause;
use ringmq::shard::outbox::Event;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the auditor knows of a connection.
#[derive(Debug)]
pub struct Conn {
    pub client: usize,
    version: Version,
    pub session: Option<SessionId>,
    /// Between a CONNECT that was granted and the end.
    open: bool,
    resumed: bool,
    accepted_ms: u64,
    /// Read by a shard and not a whole packet yet.
    fed: Vec<u8>,
    read_count: u64,
    /// From here on the client sends what no client may send.
    pub rude_at: Option<u64>,
    /// Empty messages sent, which have no number of their own.
    pub empty_sent: VecDeque<MessageId>,
    keep_alive_s: u16,
    last_packet_ms: u64,
    receive_maximum: usize,
    packet_bytes_max: usize,
    alias_maximum: u16,
    aliases: BTreeMap<u16, String>,
    /// Written and not a whole packet yet.
    written: Vec<u8>,
    last_resent: u64,
    connack: Option<bool>,
    connack_seen: bool,
    pubacks: VecDeque<u16>,
    pubrecs: VecDeque<u16>,
    pubrels: VecDeque<u16>,
    pubcomps: VecDeque<(u16, bool)>,
    subacks: BTreeMap<u16, PendingSuback>,
    unsubacks: BTreeMap<u16, (Vec<u8>, Vec<String>)>,
    /// What the acknowledgement of a PUBLISH under an identifier is for.
    pub accepts: BTreeMap<u16, (MessageId, usize)>,
    pingresps: usize,
    /// Whether the acknowledgement of a PUBLISH may say that nobody subscribes.
    must_match: BTreeMap<u16, bool>,
    pub disconnect: Option<ReasonCode>,
    disconnect_seen: bool,
}

impl Conn {
    /// The broker is gone.
    pub fn end(&mut self) {
        self.open = false;
    }
}

#[derive(Debug)]
struct PendingSuback {
    codes: Vec<u8>,
    filters: Vec<(String, u64)>,
    /// Ticks of the replays that it begins.
    replays: Vec<u64>,
}

pub struct Auditor {
    pub model: Model,
    pub conns: Vec<Conn>,
    /// Those whose CONNACK has not left.
    ungranted: Vec<SocketId>,
    limits: Limits,
    /// Sockets that the present step must close.
    must_close: BTreeSet<SocketId>,
    wills: u64,
    began: u64,
    pub packets_checked: u64,
    /// Sessions by their numbers in the store.
    pub numbers: BTreeMap<u64, SessionId>,
    /// Tell every packet.
    trace: bool,
}

impl Auditor {
    pub fn new(limits: &Limits, trace: bool) -> Self {
        let refuses = matches!(
            limits.queue_full,
            QueueFullPolicy::Refuse | QueueFullPolicy::Hold
        );
        Self {
            model: Model::new(refuses),
            conns: Vec::new(),
            ungranted: Vec::new(),
            limits: limits.clone(),
            must_close: BTreeSet::new(),
            wills: 0,
            began: 0,
            packets_checked: 0,
            numbers: BTreeMap::new(),
            trace,
        }
    }

    pub fn begin_step(&mut self, world: &World) {
        self.model.now_ms = world.now.mono_ms;
        self.began = self.model.new_tick();
        self.must_close.clear();
        self.wills = 0;
    }

    /// Checks what a step of `shard` did against what the model says.
    pub fn end_step(&mut self, world: &World, shard: usize, effects: &Effects) {
        self.note_granted(world, shard, &effects.events);
        for socket in &effects.closes {
            if !self.must_close.remove(socket) {
                self.closed_by_broker(world, *socket, effects);
            }
        }
        assert!(
            self.must_close.is_empty(),
            "(5) connections {:?} had to be closed and were not",
            self.must_close
        );
        assert_eq!(
            self.wills, effects.wills_published,
            "(12) Wills published in one step"
        );
        for (number, client_id) in &effects.recorded {
            if !self.numbers.contains_key(number)
                && let Some(client) = client_id.strip_prefix('c')
            {
                let client = client.parse().expect("the clients are numbered");
                // It may have ended in the same step.
                let session = self.model.last_session(client);
                let session = session.expect("it is recorded as it begins");
                self.numbers.insert(*number, session);
                self.model.sessions[session].stored = true;
            }
        }
        if world.disk.as_ref().is_some_and(|disk| disk.has_refused) {
            self.model.may_refuse = true;
        }
        self.model.new_tick();
        let limited = effects.dropped[DropCause::RetainedLimit as usize] > 0;
        self.model
            .end_step(self.began, &world.marks_of(shard), limited);
        self.model
            .settle(|shard, marks| world.has_passed(shard, marks));
    }

    pub fn accepted(&mut self, client: usize) {
        self.conns.push(Conn {
            client,
            version: Version::V311,
            session: None,
            open: false,
            resumed: false,
            accepted_ms: self.model.now_ms,
            fed: Vec::new(),
            read_count: 0,
            rude_at: None,
            empty_sent: VecDeque::new(),
            keep_alive_s: 0,
            last_packet_ms: self.model.now_ms,
            receive_maximum: 0,
            packet_bytes_max: usize::MAX,
            alias_maximum: 0,
            aliases: BTreeMap::new(),
            written: Vec::new(),
            last_resent: 0,
            connack: None,
            connack_seen: false,
            pubacks: VecDeque::new(),
            pubrecs: VecDeque::new(),
            pubrels: VecDeque::new(),
            pubcomps: VecDeque::new(),
            subacks: BTreeMap::new(),
            unsubacks: BTreeMap::new(),
            accepts: BTreeMap::new(),
            pingresps: 0,
            must_match: BTreeMap::new(),
            disconnect: None,
            disconnect_seen: false,
        });
    }

    /// The broker closed a connection of its own accord: it needs a reason.
    fn closed_by_broker(&mut self, world: &World, socket: SocketId, effects: &Effects) {
        let now_ms = world.now.mono_ms;
        let key = world.sockets[socket].key;
        let conn = &self.conns[socket];
        let is_rude = conn.rude_at.is_some_and(|at| conn.read_count > at);
        let waited_ms = now_ms - conn.accepted_ms.max(conn.last_packet_ms);
        if !conn.open {
            assert!(
                is_rude || waited_ms >= u64::from(self.limits.connect_timeout_ms),
                "a connection was closed before its CONNECT, after {waited_ms} ms: {:?}",
                effects.events
            );
            return;
        }
        let end = effects.events.iter().find_map(|event| match event {
            Event::ClientDisconnected {
                conn, reason, what, ..
            } if *conn == key => Some((*reason, *what)),
            _ => None,
        });
        let (reason, what) = end.expect("an open connection does not end without an event");
        let kept_unread_ms = world.sockets[socket].kept_unread_ms;
        let silent_ms = now_ms.saturating_sub(conn.last_packet_ms.max(kept_unread_ms));
        if reason == ReasonCode::ServerUnavailable {
            // It waits for the broker, whether or not it is read meanwhile.
            assert!(!conn.connack_seen && waited_ms >= u64::from(self.limits.connect_timeout_ms));
        } else if reason == ReasonCode::KeepAliveTimeout {
            let allowed_ms = u64::from(conn.keep_alive_s) * 1_500;
            assert!(
                conn.keep_alive_s > 0 && silent_ms >= allowed_ms,
                "closed for its Keep Alive after {silent_ms} of {allowed_ms} ms"
            );
        } else if reason == ReasonCode::QuotaExceeded
            && self.model.may_refuse
            && !conn.version.is_v5()
        {
            // It could not be told in any other way.
        } else if reason == ReasonCode::QuotaExceeded && !is_rude {
            assert!(self.limits.queue_full == QueueFullPolicy::Disconnect);
            assert!(effects.dropped[DropCause::QueueFull as usize] > 0);
        } else {
            assert!(is_rude, "closed without a cause: {reason:?}, {what}");
        }
        self.conns[socket].disconnect = Some(reason);
        self.detach(socket);
    }

    fn detach(&mut self, socket: SocketId) {
        let conn = &mut self.conns[socket];
        if std::mem::replace(&mut conn.open, false) {
            let session = conn.session.expect("an open connection has a session");
            let uncertain = &mut self.model.sessions[session].uncertain;
            uncertain.extend(conn.pubrecs.iter());
            if self.model.sessions[session].socket == Some(socket) {
                self.wills += self.model.detach(session);
            }
        }
    }

    /// Time passed on a shard, and it was told.
    pub fn ticked(&mut self, shard: usize) {
        self.wills += self.model.timers(shard);
    }

    /// The broker was told that a socket is gone.
    pub fn gone(&mut self, world: &World, socket: SocketId, drained: bool) {
        let conn = &self.conns[socket];
        if let Some(reason) = conn.disconnect
            && drained
            && conn.version.is_v5()
            && conn.connack_seen
            && 80 <= conn.packet_bytes_max
        {
            assert!(conn.disconnect_seen, "closed without DISCONNECT {reason:?}");
        }
        assert!(world.sockets[socket].stage == Stage::Gone);
        if self.trace {
            println!(
                "{:>6} socket {socket} of client {} is gone",
                self.model.tick, conn.client as isize
            );
        }
        self.detach(socket);
    }

    /// Bytes that went to a shard which passed the connection on.
    pub fn stash(&mut self, socket: SocketId, bytes: &[u8]) {
        let conn = &mut self.conns[socket];
        conn.fed.extend_from_slice(bytes);
        conn.read_count += bytes.len() as u64;
    }

    /// The shard that a connection moved to has read what had come.
    pub fn arrived(&mut self, world: &World, socket: SocketId, unread: &[u8]) {
        let conn = &mut self.conns[socket];
        assert_eq!(
            conn.fed, unread,
            "a connection moves with all that was read"
        );
        conn.fed.clear();
        conn.accepted_ms = self.model.now_ms;
        conn.read_count -= unread.len() as u64;
        self.read(world, socket, unread);
    }

    /// A shard has read bytes of a connection.
    pub fn read(&mut self, world: &World, socket: SocketId, bytes: &[u8]) {
        let conn = &mut self.conns[socket];
        conn.fed.extend_from_slice(bytes);
        conn.read_count += bytes.len() as u64;
        let mut fed = std::mem::take(&mut conn.fed);
        let mut at = 0;
        let start = conn.read_count - fed.len() as u64;
        loop {
            let conn = &self.conns[socket];
            if conn.disconnect.is_some() || conn.session.is_some() && !conn.open {
                // What follows the end is not looked at.
                break;
            }
            if conn.rude_at.is_some_and(|rude| start + at as u64 >= rude) {
                break;
            }
            match cut(&fed[at..], usize::MAX).expect("the simulator's clients know their packets") {
                Cut::Incomplete { .. } => break,
                Cut::Packet { header, body, len } => {
                    if !self.ungranted.contains(&socket) {
                        self.conns[socket].last_packet_ms = self.model.now_ms;
                    }
                    self.packet(world, socket, header.packet_type, header.flags, body);
                    at += len;
                }
            }
        }
        fed.drain(..at);
        self.conns[socket].fed = fed;
    }

    fn packet(
        &mut self,
        world: &World,
        socket: SocketId,
        packet_type: PacketType,
        flags: u8,
        body: &[u8],
    ) {
        self.model.new_tick();
        let version = self.conns[socket].version;
        if self.trace {
            self.tell(world, socket, "->", packet_type, flags, body);
        }
        let conn = &mut self.conns[socket];
        if packet_type == PacketType::Connect {
            let connect = Connect::decode(body).expect("a valid CONNECT");
            self.connect(world, socket, &connect);
            return;
        }
        let session = conn.session.expect("CONNECT comes first");
        match packet_type {
            PacketType::Publish => {
                let publish = Publish::decode(version, flags, body).expect("a valid PUBLISH");
                self.publish(socket, session, &publish);
            }
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                let ack = Ack::decode(version, packet_type, body).expect("a valid acknowledgement");
                let accepted = (ack.reason as u8) < 0x80;
                self.acknowledgement(socket, session, packet_type, ack.packet_id.get(), accepted);
            }
            PacketType::Subscribe => {
                let subscribe = Subscribe::decode(version, body).expect("a valid SUBSCRIBE");
                self.subscribe(socket, session, &subscribe);
            }
            PacketType::Unsubscribe => {
                let unsubscribe = Unsubscribe::decode(version, body).expect("a valid UNSUBSCRIBE");
                self.unsubscribe(socket, session, &unsubscribe);
            }
            PacketType::Pingreq => conn.pingresps += 1,
            PacketType::Disconnect => {
                let disconnect = Disconnect::decode(version, body).expect("a valid DISCONNECT");
                let it = &mut self.model.sessions[session];
                if let Some(expiry_s) = disconnect.session_expiry_s {
                    it.expiry_s = expiry_s.min(self.limits.session_expiry_s_max);
                }
                if disconnect.reason == ReasonCode::Success {
                    it.will = None;
                }
                it.before = None;
                self.must_close.insert(socket);
                self.detach(socket);
            }
            other => panic!("a client does not send {other:?}"),
        }
    }

    fn connect(&mut self, world: &World, socket: SocketId, connect: &Connect<'_>) {
        let client = self.conns[socket].client;
        let existing = self.model.live_session(client);
        let mut resumed = None;
        if let Some(session) = existing {
            let old = self.model.sessions[session].socket;
            if let Some(old) = old {
                self.must_close.insert(old);
                let conn = &mut self.conns[old];
                conn.open = false;
                conn.disconnect = Some(ReasonCode::SessionTakenOver);
                let uncertain = &mut self.model.sessions[session].uncertain;
                uncertain.extend(conn.pubrecs.iter());
                self.model.leave(session);
            }
            let it = &mut self.model.sessions[session];
            if connect.clean_start || it.is_over(self.model.now_ms) {
                self.wills += self.model.end_session(session);
            } else {
                if it.is_will_due(self.model.now_ms) {
                    self.wills += self.model.publish_will(session);
                }
                resumed = Some(session);
            }
        }
        let shard = world.sockets[socket].shard;
        let session = resumed.unwrap_or_else(|| self.model.new_session(client, shard));
        self.model.set_socket(session, Some(socket));
        self.ungranted.push(socket);
        let properties = &connect.properties;
        let it = &mut self.model.sessions[session];
        assert_eq!(it.shard, shard, "a session has one home");
        it.before = Some(resumed.is_some().then(|| it.take_before()));
        it.expiry_s = match connect.version {
            Version::V5 => properties
                .session_expiry_s
                .unwrap_or(0)
                .min(self.limits.session_expiry_s_max),
            _ if connect.clean_start => 0,
            _ => self.limits.session_expiry_v3_s,
        };
        it.will = connect.will.as_ref().map(|will| Will {
            message: id_of(will.payload).expect("Wills are numbered"),
            delay_s: will.delay_s,
        });
        let conn = &mut self.conns[socket];
        conn.packet_bytes_max = properties
            .packet_bytes_max
            .map_or(usize::MAX, |max| max.get() as usize);
        it.packet_bytes_max = it.packet_bytes_max.min(conn.packet_bytes_max);
        conn.version = connect.version;
        conn.session = Some(session);
        conn.open = true;
        conn.resumed = resumed.is_some();
        conn.connack = Some(resumed.is_some());
        conn.keep_alive_s = connect.keep_alive_s;
        conn.receive_maximum = properties
            .receive_maximum
            .map_or(65_535, |max| max.get().into());
        conn.alias_maximum = properties.topic_alias_maximum;
        self.note_granted(world, shard, &[]);
    }

    fn publish(&mut self, socket: SocketId, session: SessionId, publish: &Publish<'_>) {
        let conn = &mut self.conns[socket];
        let message = id_of(publish.payload).unwrap_or_else(|| {
            conn.empty_sent
                .pop_front()
                .expect("empty messages are noted")
        });
        let packet_id = publish.packet_id.map(PacketId::get);
        let must_match = self
            .model
            .has_promised_subscriber(&self.model.messages[message].topic);
        match (publish.qos, packet_id) {
            (QoS::AtMostOnce, _) => {}
            (QoS::AtLeastOnce, Some(id)) => {
                conn.pubacks.push_back(id);
                conn.must_match.insert(id, must_match);
            }
            (_, id) => {
                let id = id.expect("QoS 2 has a Packet Identifier");
                conn.pubrecs.push_back(id);
                let of = self.model.sessions[session].received_of.get(&id);
                if let Some(of) = of {
                    conn.accepts.insert(id, *of);
                }
                let it = &mut self.model.sessions[session];
                let is_uncertain = it.uncertain.remove(&id);
                if !it.received.insert(id) {
                    conn.must_match.insert(id, false);
                    if is_uncertain && self.model.may_refuse {
                        self.route_perhaps(socket, session, message, id);
                    }
                    return;
                }
                conn.must_match.insert(id, must_match);
            }
        }
        self.model.route(session, message);
        let of = (message, self.model.messages[message].routings.len() - 1);
        if let Some(id) = packet_id {
            let may_refuse = self.model.may_refuse && !self.conns[socket].version.is_v5();
            self.model.messages[of.0].routings[of.1].maybe_not_taken = may_refuse;
            self.conns[socket].accepts.insert(id, of);
            if publish.qos == QoS::ExactlyOnce {
                let it = &mut self.model.sessions[session];
                it.received_of.insert(id, of);
                it.released_told.remove(&id);
            }
        }
    }

    fn acknowledgement(
        &mut self,
        socket: SocketId,
        session: SessionId,
        packet_type: PacketType,
        id: u16,
        accepted: bool,
    ) {
        let conn = &mut self.conns[socket];
        let it = &mut self.model.sessions[session];
        let flight = it.flights.get_mut(&id);
        match packet_type {
            PacketType::Puback => {
                if flight.is_some_and(|flight| flight.qos == QoS::AtLeastOnce) {
                    it.flights.remove(&id);
                }
            }
            PacketType::Pubrec => {
                if accepted {
                    conn.pubrels.push_back(id);
                    if let Some(flight) = flight {
                        flight.released = true;
                        flight.socket = socket;
                    }
                } else if flight.is_some_and(|flight| flight.qos == QoS::ExactlyOnce) {
                    it.flights.remove(&id);
                    it.refused_ids.insert(id);
                }
            }
            PacketType::Pubrel => {
                let known = it.received.remove(&id);
                it.received_told.remove(&id);
                it.received_of.remove(&id);
                conn.pubcomps.push_back((id, known));
            }
            _ => {
                it.flights.remove(&id);
            }
        }
    }

    fn subscribe(&mut self, socket: SocketId, session: SessionId, subscribe: &Subscribe<'_>) {
        let version = self.conns[socket].version;
        let mut pending = PendingSuback {
            codes: Vec::new(),
            filters: Vec::new(),
            replays: Vec::new(),
        };
        for (text, options) in subscribe.filters() {
            let (share, filter) = split_share(text);
            let held = self.model.subscriptions(session).to_vec();
            let old = held.iter().find(|it| it.text == text);
            if old.is_none() && held.len() >= self.limits.subscriptions_per_session_max as usize {
                if version == Version::V31 {
                    // It has no code for a refusal.
                    self.conns[socket].disconnect = Some(ReasonCode::TopicFilterInvalid);
                    self.must_close.insert(socket);
                    self.detach(socket);
                    return;
                }
                pending
                    .codes
                    .push(if version.is_v5() { 0x97 } else { 0x80 });
                continue;
            }
            let tick = self.model.new_tick();
            let new = Subscription {
                text: text.to_owned(),
                qos: options.qos,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                id: subscribe
                    .subscription_id
                    .map_or(0, std::num::NonZeroU32::get),
                serial: old.map_or(tick, |old| old.serial),
                promised: old.is_some_and(|old| old.promised),
            };
            pending.codes.push(options.qos as u8);
            pending.filters.push((text.to_owned(), new.serial));
            let wants_retained = match options.retain_handling {
                RetainHandling::SendAtSubscribe => true,
                RetainHandling::SendIfNew => old.is_none(),
                RetainHandling::DoNotSend => false,
            };
            if wants_retained && share.is_none() {
                pending.replays.push(tick);
                let replays = &mut self.model.sessions[session].replays;
                for earlier in replays.iter_mut().filter(|it| it.text == filter) {
                    // What is left of it comes with this one.
                    earlier.waived = true;
                }
                replays.push(Replay {
                    tick,
                    text: filter.to_owned(),
                    qos: new.qos,
                    id: new.id,
                    promised: false,
                    waived: false,
                    interrupted: false,
                });
            }
            self.model.sessions[session].unsubscribed.remove(text);
            for (_, ended) in self.conns[socket].unsubacks.values_mut() {
                // It tells of an end before this beginning.
                ended.retain(|it| it != text);
            }
            self.model.change(session, |all| {
                match all.iter_mut().find(|it| it.text == new.text) {
                    Some(old) => *old = new,
                    None => all.push(new),
                }
            });
        }
        let before = self.conns[socket]
            .subacks
            .insert(subscribe.packet_id.get(), pending);
        assert!(
            before.is_none(),
            "the simulator's clients do not reuse identifiers early"
        );
    }

    fn unsubscribe(&mut self, socket: SocketId, session: SessionId, unsubscribe: &Unsubscribe<'_>) {
        let mut codes = Vec::new();
        for text in unsubscribe.filters() {
            let had = self
                .model
                .subscriptions(session)
                .iter()
                .any(|it| it.text == text);
            codes.push(if had { 0 } else { 0x11 });
            self.model
                .change(session, |all| all.retain(|it| it.text != text));
            for replay in &mut self.model.sessions[session].replays {
                replay.waived |= replay.text == text;
            }
        }
        let texts = unsubscribe.filters().map(str::to_owned).collect();
        self.conns[socket]
            .unsubacks
            .insert(unsubscribe.packet_id.get(), (codes, texts));
    }

    /// One line of a trace.
    fn tell(
        &self,
        world: &World,
        socket: SocketId,
        arrow: &str,
        packet_type: PacketType,
        flags: u8,
        body: &[u8],
    ) {
        let conn = &self.conns[socket];
        let what = match packet_type {
            PacketType::Connect => format!("{:?}", Connect::decode(body).expect("valid")),
            PacketType::Publish => match Publish::decode_from_server(conn.version, flags, body) {
                Ok(publish) => format!(
                    "{} {:?}{}{} id {:?} message {:?} {:?}",
                    publish.topic,
                    publish.qos,
                    if publish.dup { " DUP" } else { "" },
                    if publish.retain { " RETAIN" } else { "" },
                    publish.packet_id.map(PacketId::get),
                    id_of(publish.payload),
                    publish.properties,
                ),
                Err(error) => format!("{error:?}"),
            },
            PacketType::Subscribe => {
                let subscribe = Subscribe::decode(conn.version, body).expect("valid");
                format!("{:?}", subscribe.filters().collect::<Vec<_>>())
            }
            PacketType::Unsubscribe => {
                let unsubscribe = Unsubscribe::decode(conn.version, body).expect("valid");
                format!("{:?}", unsubscribe.filters().collect::<Vec<_>>())
            }
            _ => format!("{body:?}"),
        };
        println!(
            "{:>6} {} ms  client {} socket {socket} shard {} {arrow} {packet_type:?} {what}",
            self.model.tick, self.model.now_ms, conn.client as isize, world.sockets[socket].shard,
        );
    }

    /// The socket took bytes that the broker wrote. They stood in the shard since `dirty_since_ms` at the longest.
    pub fn wrote(&mut self, world: &World, socket: SocketId, bytes: &[u8], dirty_since_ms: u64) {
        self.model.new_tick();
        let conn = &mut self.conns[socket];
        conn.written.extend_from_slice(bytes);
        let written = std::mem::take(&mut conn.written);
        let mut at = 0;
        while let Cut::Packet { header, body, len } =
            cut(&written[at..], usize::MAX).expect("the broker sends packets")
        {
            let max = self.conns[socket].packet_bytes_max;
            assert!(
                len <= max,
                "(9) {:?} of {len} bytes to a client that accepts {max}",
                header.packet_type
            );
            self.packets_checked += 1;
            if self.trace {
                self.tell(world, socket, "<-", header.packet_type, header.flags, body);
            }
            self.reply(
                socket,
                header.packet_type,
                header.flags,
                body,
                dirty_since_ms,
            );
            at += len;
        }
        self.conns[socket].written = written[at..].to_vec();
    }

    fn reply(
        &mut self,
        socket: SocketId,
        packet_type: PacketType,
        flags: u8,
        body: &[u8],
        dirty_since_ms: u64,
    ) {
        let conn = &mut self.conns[socket];
        let version = conn.version;
        assert!(
            conn.connack_seen || packet_type == PacketType::Connack,
            "{packet_type:?} before CONNACK"
        );
        assert!(!conn.disconnect_seen, "{packet_type:?} after DISCONNECT");
        match packet_type {
            PacketType::Connack => {
                let connack = Connack::decode(version, body).expect("a valid CONNACK");
                let present = conn.connack.take().expect("CONNACK without CONNECT");
                conn.connack_seen = true;
                if connack.reason == ReasonCode::ServerUnavailable {
                    assert_eq!(conn.disconnect, Some(connack.reason));
                    conn.disconnect_seen = true;
                    return;
                }
                assert_eq!(connack.reason, ReasonCode::Success);
                let expected = present && version != Version::V31;
                assert_eq!(connack.session_present, expected, "Session Present");
                let session = conn.session.expect("it was granted");
                self.model.sessions[session].granted = true;
            }
            PacketType::Publish => {
                let publish =
                    Publish::decode_from_server(version, flags, body).expect("a valid PUBLISH");
                self.outgoing(socket, &publish, dirty_since_ms);
            }
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                let ack = Ack::decode(version, packet_type, body).expect("a valid acknowledgement");
                self.outgoing_ack(socket, packet_type, &ack);
            }
            PacketType::Suback => {
                let suback = Suback::decode(version, body).expect("a valid SUBACK");
                let pending = conn
                    .subacks
                    .remove(&suback.packet_id.get())
                    .expect("SUBACK without SUBSCRIBE, or twice");
                assert_eq!(suback.codes, pending.codes, "SUBACK codes");
                if conn.open {
                    let session = conn.session.expect("open");
                    self.model.change(session, |all| {
                        for it in all {
                            it.promised |= pending.filters.contains(&(it.text.clone(), it.serial));
                        }
                    });
                    for replay in &mut self.model.sessions[session].replays {
                        replay.promised |= pending.replays.contains(&replay.tick);
                    }
                }
            }
            PacketType::Unsuback => {
                let unsuback = Unsuback::decode(version, body).expect("a valid UNSUBACK");
                let (codes, texts) = conn
                    .unsubacks
                    .remove(&unsuback.packet_id.get())
                    .expect("UNSUBACK without UNSUBSCRIBE, or twice");
                if version.is_v5() {
                    assert_eq!(unsuback.codes, codes, "UNSUBACK codes");
                }
                let session = conn.session.expect("CONNACK came first");
                let held = self.model.subscriptions(session);
                let gone: Vec<String> = texts
                    .into_iter()
                    .filter(|text| held.iter().all(|it| it.text != *text))
                    .collect();
                self.model.sessions[session].unsubscribed.extend(gone);
            }
            PacketType::Pingresp => {
                assert!(conn.pingresps > 0, "PINGRESP without PINGREQ");
                conn.pingresps -= 1;
            }
            PacketType::Disconnect => {
                assert!(version.is_v5(), "a 3.x server does not send DISCONNECT");
                let disconnect = Disconnect::decode(version, body).expect("a valid DISCONNECT");
                assert_eq!(
                    Some(disconnect.reason),
                    conn.disconnect,
                    "the reason of DISCONNECT"
                );
                conn.disconnect_seen = true;
            }
            other => panic!("a server does not send {other:?}"),
        }
    }

    fn outgoing_ack(&mut self, socket: SocketId, packet_type: PacketType, ack: &Ack<'_>) {
        let conn = &mut self.conns[socket];
        let id = ack.packet_id.get();
        match packet_type {
            PacketType::Puback => {
                assert_eq!(
                    conn.pubacks.pop_front(),
                    Some(id),
                    "PUBACK in the order of PUBLISH"
                );
            }
            PacketType::Pubrec => {
                assert_eq!(
                    conn.pubrecs.pop_front(),
                    Some(id),
                    "PUBREC in the order of PUBLISH"
                );
            }
            PacketType::Pubcomp => {
                let (expected, known) = conn.pubcomps.pop_front().expect("PUBCOMP without PUBREL");
                assert_eq!(id, expected, "PUBCOMP in the order of PUBREL");
                if conn.version.is_v5() {
                    assert_eq!(ack.reason == ReasonCode::Success, known, "PUBCOMP's reason");
                }
                let session = conn.session.expect("CONNACK came first");
                let it = &mut self.model.sessions[session];
                if !it.received.contains(&id) {
                    it.released_told.insert(id);
                }
                return;
            }
            _ => {
                if conn.pubrels.front() == Some(&id) {
                    conn.pubrels.pop_front();
                    let session = conn.session.expect("CONNACK came first");
                    if let Some(flight) = self.model.sessions[session].flights.get_mut(&id) {
                        flight.pubrel_left |= flight.released;
                    }
                    return;
                }
                if !conn.open {
                    // Written before the end; the session has gone on, or is gone.
                    return;
                }
                let session = conn.session.expect("open");
                let flight = self.model.sessions[session].flights.get_mut(&id);
                let flight = flight.expect("PUBREL for nothing in flight");
                assert!(
                    flight.released && flight.socket != socket,
                    "PUBREL without PUBREC"
                );
                flight.socket = socket;
                flight.pubrel_left = true;
                return;
            }
        }
        self.told(socket, packet_type, id, ack.reason);
        let conn = &mut self.conns[socket];
        let must_match = conn.must_match.remove(&id).unwrap_or(false);
        assert!(
            !must_match || ack.reason != ReasonCode::NoMatchingSubscribers,
            "(6) a publisher was told that nobody subscribes"
        );
    }

    fn outgoing(&mut self, socket: SocketId, publish: &Publish<'_>, dirty_since_ms: u64) {
        let conn = &mut self.conns[socket];
        let session = conn.session.expect("CONNACK came first");
        let mut topic = publish.topic.to_owned();
        if let Some(alias) = publish.properties.topic_alias {
            let alias = alias.get();
            assert!(alias <= conn.alias_maximum, "(9) Topic Alias {alias}");
            if topic.is_empty() {
                topic = conn
                    .aliases
                    .get(&alias)
                    .expect("(9) an unknown Topic Alias")
                    .clone();
            } else {
                conn.aliases.insert(alias, topic.clone());
            }
        }
        assert!(!topic.is_empty());
        let ids: Vec<u32> = publish
            .properties
            .subscription_ids
            .clone()
            .map(|id| id.get())
            .collect();
        let mut sorted = ids;
        sorted.sort_unstable();
        let it = Delivered {
            topic,
            payload: Payload(publish.payload.to_vec()),
            qos: publish.qos,
            retain: publish.retain,
            ids: conn.version.is_v5().then_some(sorted),
        };
        let (is_open, resumed, version) = (conn.open, conn.resumed, conn.version);
        let candidates = self.model.candidates_of(&it);
        let Some(first) = candidates.first().copied() else {
            panic!("(1) nobody published {it:?}");
        };
        if version.is_v5() && !it.payload.is_empty() {
            self.check_properties(first, publish, dirty_since_ms);
        }
        if !is_open {
            // The rest of a chunk that had begun to leave when the connection was closed.
            self.outgoing_of_closed(socket, session, publish, first);
            return;
        }
        let Some(id) = publish.packet_id.map(PacketId::get) else {
            assert!(!publish.dup, "DUP at QoS 0");
            self.model.delivered(session, &it);
            return;
        };
        // Given to another member, and come back under the same number: that is no repetition.
        let is_anew = !publish.dup
            && self.model.sessions[session]
                .flights
                .get(&id)
                .is_some_and(|flight| self.model.may_be_given_up(session, flight));
        if !is_anew && let Some(flight) = self.model.sessions[session].flights.get_mut(&id) {
            let is_same = candidates.contains(&flight.message) && flight.qos == publish.qos;
            if is_same {
                assert!(
                    flight.socket != socket,
                    "sent twice on one connection: {flight:?}"
                );
                assert!(publish.dup, "sent again without DUP: {flight:?}");
                assert!(!flight.released, "PUBLISH after PUBREC: {flight:?}");
                flight.socket = socket;
                flight.maybe_free = false;
                if !std::mem::replace(&mut flight.counted, true) {
                    self.model.delivered(session, &it);
                }
                let flight = &self.model.sessions[session].flights[&id];
                let order = flight.order;
                let conn = &mut self.conns[socket];
                // After a crash, say, the order of some is not known.
                if order > 0 {
                    assert!(order > conn.last_resent, "sent again in another order");
                    conn.last_resent = order;
                }
                self.check_window(socket, session);
                return;
            }
        }
        if let Some(flight) = self.model.sessions[session].flights.get(&id) {
            self.model.reuse(session, flight);
        }
        assert!(
            !publish.dup || resumed,
            "DUP on a message that was never sent: {it:?}"
        );
        let message = self.model.delivered(session, &it);
        // It was sent first on a connection that was closed already, when something older had this identifier here.
        let order = if publish.dup {
            0
        } else {
            self.model.next_order()
        };
        self.model.sessions[session].flights.insert(
            id,
            Flight {
                message,
                qos: it.qos,
                socket,
                order,
                released: false,
                maybe_free: false,
                counted: true,
                pubrel_left: false,
            },
        );
        self.check_window(socket, session);
    }

    fn outgoing_of_closed(
        &mut self,
        socket: SocketId,
        session: SessionId,
        publish: &Publish<'_>,
        message: MessageId,
    ) {
        let order = self.model.next_order();
        let it = &mut self.model.sessions[session];
        if let Some(id) = publish.packet_id.filter(|_| it.alive) {
            let flight = it.flights.entry(id.get());
            // One that is there may have been acknowledged, and this is the next under its identifier: if it comes again, its
            // order is that of either.
            let flight = flight.and_modify(|older| older.order = 0);
            flight.or_insert(Flight {
                message,
                qos: publish.qos,
                socket,
                order,
                released: false,
                maybe_free: true,
                counted: false,
                pubrel_left: false,
            });
        }
    }

    fn check_window(&self, socket: SocketId, session: SessionId) {
        let conn = &self.conns[socket];
        let maximum = conn
            .receive_maximum
            .min(self.limits.inflight_messages_max.into());
        let flights = self.model.sessions[session].flights.values();
        let in_flight = flights.filter(|flight| flight.socket == socket).count();
        assert!(
            in_flight <= maximum,
            "(9) {in_flight} in flight, Receive Maximum {maximum}"
        );
    }

    fn check_properties(&self, message: MessageId, publish: &Publish<'_>, dirty_since_ms: u64) {
        let message = &self.model.messages[message];
        let user: Vec<_> = publish
            .properties
            .forward
            .user()
            .map(|(_, value)| value)
            .collect();
        assert_eq!(
            user,
            Vec::from_iter(message.user.as_deref()),
            "properties are passed on as they are"
        );
        let now_ms = self.model.now_ms;
        let explains = message.routings.iter().any(|routing| {
            let encoded_ms = dirty_since_ms.max(routing.at_ms);
            if routing.expires_at_ms == u64::MAX {
                return publish.properties.message_expiry_s.is_none();
            }
            let left_s = |at_ms: u64| routing.expires_at_ms.saturating_sub(at_ms).div_ceil(1_000);
            publish.properties.message_expiry_s.is_some_and(|seconds| {
                let seconds = u64::from(seconds);
                (seconds > 0 || publish.dup)
                    && (left_s(now_ms)..=left_s(encoded_ms)).contains(&seconds)
            })
        });
        assert!(
            explains,
            "Message Expiry Interval {:?} of {message:?} at {now_ms} ms",
            publish.properties.message_expiry_s
        );
    }

    /// A PUBLISH reached the application of a client.
    pub fn applied(&mut self, socket: SocketId, payload: &[u8]) {
        let session = self.conns[socket].session.expect("it got a message");
        if let Some(message) = id_of(payload) {
            self.model.sessions[session]
                .got
                .entry(message)
                .or_default()
                .applied += 1;
        }
    }

    /// At rest: every packet that wants an answer has it.
    pub fn check_replies(&self) {
        for conn in self.conns.iter().filter(|conn| conn.open) {
            let owed = conn.pubacks.len()
                + conn.pubrecs.len()
                + conn.pubrels.len()
                + conn.pubcomps.len()
                + conn.subacks.len()
                + conn.unsubacks.len()
                + conn.pingresps;
            assert!(
                owed == 0 && conn.connack_seen,
                "(13) replies are missing: {conn:?}"
            );
            assert!(
                conn.fed.is_empty() && conn.written.is_empty(),
                "(13) half a packet: {conn:?}"
            );
        }
    }
}

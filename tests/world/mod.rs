//! A whole broker in one thread: N shards, the links between them, and clients on byte pipes.
//!
//! The links deliver when the test says so, in any order between links and in FIFO order within one.

#![allow(dead_code, reason = "each test binary uses its part")]

use ringmq::config::limits::Limits;
use ringmq::protocol::frame::{Cut, cut};
use ringmq::protocol::{
    Ack, Connack, Connect, ConnectProperties, Disconnect, Forward, PacketId, PacketType, Publish,
    PublishProperties, QoS, ReasonCode, Suback, Subscribe, SubscribeOptions, Unsubscribe,
    UserProperties, Version, put_ack,
};
use ringmq::shard::input::{CloseCause, ConnKey, Input, Now, ShardId};
use ringmq::shard::mesh_message::MeshMessage;
use ringmq::shard::outbox::Outbox;
use ringmq::shard::placement::Placement;
use ringmq::shard::record::{Durability, Fetch, Lsn, Record, RecoveredSession};
use ringmq::shard::{Shard, ShardSetup};
use std::collections::VecDeque;
use std::sync::Arc;

/// A message as a client received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) id: Option<u16>,
    pub(crate) subscription_ids: Vec<u32>,
    pub(crate) message_expiry_s: Option<u32>,
}

/// A packet as a client received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Connack {
        session_present: bool,
        reason: ReasonCode,
    },
    Publish(Got),
    Ack {
        packet_type: PacketType,
        id: u16,
        reason: ReasonCode,
    },
    Suback(Vec<u8>),
    Unsuback,
    Pingresp,
    Disconnect(ReasonCode),
    Closed,
}

/// A client's end of a connection.
pub(crate) struct Client {
    pub(crate) shard: usize,
    pub(crate) conn: ConnKey,
    pub(crate) version: Version,
    /// Whether it reads.
    pub(crate) reads: bool,
    pub(crate) inbox: Vec<u8>,
    pub(crate) packets: VecDeque<Packet>,
    /// Topics of the aliases the broker defined.
    aliases: Vec<(u16, String)>,
    blocked: bool,
    pub(crate) closed: bool,
    /// Whether the shard does not want to read it.
    pub(crate) paused: bool,
}

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) shards: Vec<Shard>,
    /// `links[from][to]`.
    pub(crate) links: Vec<Vec<VecDeque<MeshMessage>>>,
    /// Whether links deliver by themselves after every step.
    pub(crate) links_flow: bool,
    pub(crate) clients: Vec<Client>,
    /// By shard: recorded and not durable.
    pub(crate) records: Vec<Vec<Record>>,
    /// By shard: asked of the store and not answered.
    pub(crate) fetches: Vec<Vec<Fetch>>,
    /// Whom the shards have told of as `dirty` and as `later`, once a test wants to know.
    pub(crate) told: Option<[Vec<ConnKey>; 2]>,
    emitted: Vec<u64>,
    next_index: Vec<u32>,
    pub(crate) placement: Placement,
}

impl World {
    pub(crate) fn new(shard_count: usize) -> Self {
        Self::with_limits(shard_count, Limits::default())
    }

    pub(crate) fn with_limits(shard_count: usize, limits: Limits) -> Self {
        Self::with_store(shard_count, limits, Durability::None)
    }

    /// A broker whose records are durable when the test says so.
    pub(crate) fn with_store(shard_count: usize, limits: Limits, durability: Durability) -> Self {
        Self::recovering(shard_count, limits, durability, Vec::new())
    }

    /// The same after a restart that found these sessions.
    pub(crate) fn recovering(
        shard_count: usize,
        limits: Limits,
        durability: Durability,
        sessions: Vec<RecoveredSession>,
    ) -> Self {
        let placement = Placement::new([3; 16], shard_count);
        let limits = Arc::new(limits);
        let now = Now {
            mono_ms: 1_000_000,
            wall_ms: 1_700_000_000_000,
        };
        let shards = (0..shard_count)
            .map(|id| {
                Shard::new(ShardSetup {
                    id: ShardId(id as u8),
                    shard_count,
                    limits: Arc::clone(&limits),
                    placement,
                    hash_seed: 77,
                    random_seed: id as u64,
                    events: true,
                    durability,
                    now,
                })
            })
            .collect();
        let mut world = Self {
            now,
            shards,
            records: vec![Vec::new(); shard_count],
            fetches: (0..shard_count).map(|_| Vec::new()).collect(),
            told: None,
            emitted: vec![0; shard_count],
            links: vec![vec![VecDeque::new(); shard_count]; shard_count],
            links_flow: true,
            clients: Vec::new(),
            next_index: vec![0; shard_count],
            placement,
        };
        for session in sessions {
            let shard = placement.owner(&session.record.client_id).index();
            let mut outbox = Outbox::default();
            world.shards[shard].recover(now, session, &mut outbox);
            world.drain(shard, outbox);
        }
        if durability != Durability::None {
            for shard in 0..shard_count {
                let mut outbox = Outbox::default();
                world.shards[shard].finish_recovery(now, &mut outbox);
                world.drain(shard, outbox);
            }
            world.flow();
        }
        world
    }

    /// Everything that a shard has recorded is durable, but for what is refused.
    pub(crate) fn commit_but(&mut self, shard: usize, refuses: impl Fn(&Record) -> bool) {
        let records = std::mem::take(&mut self.records[shard]);
        let first = self.emitted[shard] - records.len() as u64 + 1;
        let up_to = Lsn(self.emitted[shard]);
        let refused: Vec<Lsn> = (first..)
            .zip(&records)
            .filter(|(_, record)| refuses(record))
            .map(|(lsn, _)| Lsn(lsn))
            .collect();
        let refused = &refused;
        self.input(shard, Input::Committed { up_to, refused });
    }

    /// Everything that all shards have recorded is durable, and what follows from that.
    pub(crate) fn commit(&mut self) {
        while self.records.iter().any(|records| !records.is_empty()) {
            for shard in 0..self.shards.len() {
                self.commit_but(shard, |_| false);
            }
        }
    }

    /// A new connection landing on `shard`; nothing is sent yet.
    pub(crate) fn accept(&mut self, shard: usize, version: Version) -> usize {
        let conn = self.new_key(shard);
        self.clients.push(Client {
            shard,
            conn,
            version,
            reads: true,
            inbox: Vec::new(),
            packets: VecDeque::new(),
            aliases: Vec::new(),
            blocked: false,
            closed: false,
            paused: false,
        });
        self.input(shard, Input::Accepted { conn });
        self.clients.len() - 1
    }

    fn new_key(&mut self, shard: usize) -> ConnKey {
        self.next_index[shard] += 1;
        ConnKey {
            index: self.next_index[shard] - 1,
            generation: 1,
        }
    }

    /// A Client Identifier that begins with `role` and whose session this shard owns.
    pub(crate) fn id_on(&self, shard: usize, role: &str) -> String {
        (0..)
            .map(|n| format!("{role}-{n}"))
            .find(|id| self.placement.owner(id).index() == shard)
            .expect("some identifier belongs to every shard")
    }

    /// Connects with Clean Start and no properties.
    pub(crate) fn connect(&mut self, shard: usize, id: &str, version: Version) -> usize {
        self.connect_with(shard, connect(id, version))
    }

    pub(crate) fn connect_with(&mut self, shard: usize, connect: Connect<'_>) -> usize {
        self.reconnect(shard, connect).0
    }

    /// A new connection with its CONNECT; the answer is yet to be looked at.
    pub(crate) fn send_connect(&mut self, shard: usize, connect: Connect<'_>) -> usize {
        let client = self.accept(shard, connect.version);
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        self.send(client, &bytes);
        client
    }

    /// Connects and returns whether a session was resumed.
    pub(crate) fn reconnect(&mut self, shard: usize, connect: Connect<'_>) -> (usize, bool) {
        let client = self.send_connect(shard, connect);
        match self.next(client) {
            Some(Packet::Connack {
                reason: ReasonCode::Success,
                session_present,
            }) => (client, session_present),
            other => panic!("no CONNACK but {other:?}"),
        }
    }

    pub(crate) fn send(&mut self, client: usize, bytes: &[u8]) {
        if self.clients[client].closed {
            return;
        }
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        self.input(shard, Input::Received { conn, bytes });
    }

    pub(crate) fn publish(
        &mut self,
        client: usize,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        id: u16,
    ) {
        self.publish_with(
            client,
            topic,
            payload,
            qos,
            id,
            false,
            PublishProperties::default(),
        );
    }

    #[allow(clippy::too_many_arguments, reason = "each is one field of the packet")]
    pub(crate) fn publish_with(
        &mut self,
        client: usize,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        id: u16,
        retain: bool,
        properties: PublishProperties<'_>,
    ) {
        let publish = Publish {
            dup: false,
            qos,
            retain,
            topic,
            packet_id: PacketId::new(id),
            properties,
            payload,
        };
        let mut bytes = Vec::new();
        publish.encode(self.clients[client].version, &mut bytes);
        self.send(client, &bytes);
    }

    /// Subscribes and expects the SUBACK.
    pub(crate) fn subscribe(&mut self, client: usize, filter: &str, qos: QoS) {
        self.send_subscribe(client, filter, with_qos(qos), None);
        match self.next(client) {
            Some(Packet::Suback(codes)) => assert_eq!(codes, [qos as u8]),
            other => panic!("no SUBACK but {other:?}"),
        }
    }

    pub(crate) fn send_subscribe(
        &mut self,
        client: usize,
        filter: &str,
        options: SubscribeOptions,
        id: Option<u32>,
    ) {
        let mut bytes = Vec::new();
        Subscribe::encode(
            &mut bytes,
            self.clients[client].version,
            PacketId::MIN,
            id.and_then(std::num::NonZeroU32::new),
            &UserProperties::default(),
            &[(filter, options)],
        );
        self.send(client, &bytes);
    }

    pub(crate) fn unsubscribe(&mut self, client: usize, filter: &str) {
        let mut bytes = Vec::new();
        let version = self.clients[client].version;
        let user = UserProperties::default();
        Unsubscribe::encode(&mut bytes, version, PacketId::MIN, &user, &[filter]);
        self.send(client, &bytes);
        assert_eq!(self.next(client), Some(Packet::Unsuback));
    }

    pub(crate) fn ack(&mut self, client: usize, packet_type: PacketType, id: u16) {
        let mut bytes = Vec::new();
        let id = PacketId::new(id).expect("not zero");
        let version = self.clients[client].version;
        put_ack(&mut bytes, version, packet_type, id, ReasonCode::Success);
        self.send(client, &bytes);
    }

    /// The connection breaks.
    pub(crate) fn cut(&mut self, client: usize) {
        if std::mem::replace(&mut self.clients[client].closed, true) {
            return;
        }
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        self.input(
            shard,
            Input::Closed {
                conn,
                cause: CloseCause::Reset,
            },
        );
    }

    pub(crate) fn disconnect(&mut self, client: usize) {
        self.send(client, &[0xe0, 0]);
    }

    /// Time passes, in steps no longer than the shards ask for.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while self.now.mono_ms < end {
            let next = self
                .shards
                .iter()
                .filter_map(Shard::next_deadline)
                .min()
                .unwrap_or(end);
            let to = next.clamp(self.now.mono_ms + 1, end);
            self.now.wall_ms += to - self.now.mono_ms;
            self.now.mono_ms = to;
            for shard in 0..self.shards.len() {
                self.input(shard, Input::Tick);
            }
        }
    }

    /// Delivers everything that is on the links, and what is under way to very many.
    pub(crate) fn flow(&mut self) {
        loop {
            let mut moved = false;
            for shard in 0..self.shards.len() {
                while self.shards[shard].is_fanning_out() {
                    self.handle(shard, Input::FanOut);
                }
            }
            for from in 0..self.shards.len() {
                for to in 0..self.shards.len() {
                    while self.deliver_one(from, to) {
                        moved = true;
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Delivers one message of one link; false when there is none.
    pub(crate) fn deliver_one(&mut self, from: usize, to: usize) -> bool {
        let Some(message) = self.links[from][to].pop_front() else {
            return false;
        };
        self.handle(
            to,
            Input::Mesh {
                from: ShardId(from as u8),
                message,
            },
        );
        true
    }

    pub(crate) fn input(&mut self, shard: usize, input: Input<'_>) {
        self.handle(shard, input);
        if self.links_flow {
            self.flow();
        }
    }

    fn handle(&mut self, shard: usize, input: Input<'_>) {
        let mut outbox = Outbox::default();
        self.shards[shard].handle(self.now, input, &mut outbox);
        self.drain(shard, outbox);
    }

    fn drain(&mut self, shard: usize, mut outbox: Outbox) {
        self.emitted[shard] += outbox.records.len() as u64;
        self.records[shard].append(&mut outbox.records);
        self.fetches[shard].append(&mut outbox.fetch);
        for (to, message) in outbox.take_mesh() {
            self.links[shard][to.index()].push_back(message);
        }
        if let Some([dirty, later]) = &mut self.told {
            dirty.extend(&outbox.dirty);
            later.extend(&outbox.later);
        }
        for conn in outbox.dirty.drain(..).chain(outbox.later.drain(..)) {
            self.write(shard, conn);
        }
        for (conns, paused) in [(&outbox.pause, true), (&outbox.resume, false)] {
            for conn in conns {
                let client = self.client_of(shard, *conn);
                self.clients[client].paused = paused;
            }
        }
        for handover in outbox.handover.drain(..) {
            let to = handover.to.index();
            let conn = self.new_key(to);
            let client = self.client_of(shard, handover.conn);
            self.clients[client].shard = to;
            self.clients[client].conn = conn;
            self.handle(
                to,
                Input::HandedOver {
                    conn,
                    unread: &handover.unread,
                },
            );
        }
        for conn in outbox.close.drain(..) {
            let client = self.client_of(shard, conn);
            self.write(shard, conn);
            self.clients[client].closed = true;
            self.clients[client].packets.push_back(Packet::Closed);
            self.handle(
                shard,
                Input::Closed {
                    conn,
                    cause: CloseCause::Asked,
                },
            );
        }
    }

    fn client_of(&self, shard: usize, conn: ConnKey) -> usize {
        self.clients
            .iter()
            .rposition(|client| client.shard == shard && client.conn == conn)
            .expect("every connection has a client")
    }

    /// What the driver does for a dirty connection.
    fn write(&mut self, shard: usize, conn: ConnKey) {
        let client = self.client_of(shard, conn);
        if !self.clients[client].reads {
            self.clients[client].blocked = true;
            return;
        }
        while self.write_some(client, usize::MAX) > 0 {}
    }

    /// Writes at most so many bytes, whether the client reads or not, and returns how many.
    pub(crate) fn write_some(&mut self, client: usize, bytes_max: usize) -> usize {
        let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
        let bytes: Vec<u8> = self.shards[shard]
            .outbound(conn)
            .flat_map(|slice| slice.iter().copied())
            .take(bytes_max)
            .collect();
        let count = bytes.len();
        if count > 0 {
            self.clients[client].inbox.extend_from_slice(&bytes);
            self.handle(shard, Input::Written { conn, bytes: count });
        }
        count
    }

    /// A client that did not read reads again.
    pub(crate) fn read_again(&mut self, client: usize) {
        self.clients[client].reads = true;
        if std::mem::take(&mut self.clients[client].blocked) {
            let (shard, conn) = (self.clients[client].shard, self.clients[client].conn);
            self.write(shard, conn);
            if self.links_flow {
                self.flow();
            }
        }
    }

    /// The next packet the client received.
    pub(crate) fn next(&mut self, client: usize) -> Option<Packet> {
        self.parse(client);
        self.clients[client].packets.pop_front()
    }

    /// All messages the client received; acknowledgements must not be among them.
    pub(crate) fn messages(&mut self, client: usize) -> Vec<Got> {
        let mut got = Vec::new();
        while let Some(packet) = self.next(client) {
            match packet {
                Packet::Publish(message) => got.push(message),
                other => panic!("not a PUBLISH: {other:?}"),
            }
        }
        got
    }

    pub(crate) fn payloads(&mut self, client: usize) -> Vec<Vec<u8>> {
        self.messages(client)
            .into_iter()
            .map(|got| got.payload)
            .collect()
    }

    fn parse(&mut self, client: usize) {
        let client = &mut self.clients[client];
        let inbox = std::mem::take(&mut client.inbox);
        let mut bytes = &inbox[..];
        let mut closed = client.packets.pop_back();
        if closed
            .as_ref()
            .is_some_and(|packet| *packet != Packet::Closed)
        {
            client.packets.push_back(closed.take().expect("checked"));
        }
        loop {
            match cut(bytes, usize::MAX).expect("the broker sends well-formed packets") {
                Cut::Incomplete { .. } => break,
                Cut::Packet { header, body, len } => {
                    let packet = parse_packet(client, header.packet_type, header.flags, body);
                    client.packets.push_back(packet);
                    bytes = &bytes[len..];
                }
            }
        }
        client.inbox = bytes.to_vec();
        client.packets.extend(closed);
    }
}

fn parse_packet(client: &mut Client, packet_type: PacketType, flags: u8, body: &[u8]) -> Packet {
    let version = client.version;
    match packet_type {
        PacketType::Connack => {
            let connack = Connack::decode(version, body).expect("CONNACK");
            let (session_present, reason) = (connack.session_present, connack.reason);
            Packet::Connack {
                session_present,
                reason,
            }
        }
        PacketType::Publish => {
            let publish = Publish::decode_from_server(version, flags, body).expect("PUBLISH");
            let mut topic = publish.topic.to_owned();
            if let Some(alias) = publish.properties.topic_alias {
                let alias = alias.get();
                match client.aliases.iter().find(|(known, _)| *known == alias) {
                    Some((_, known)) if topic.is_empty() => topic.clone_from(known),
                    _ => client.aliases.push((alias, topic.clone())),
                }
            }
            assert!(!topic.is_empty());
            Packet::Publish(Got {
                topic,
                payload: publish.payload.to_vec(),
                qos: publish.qos,
                retain: publish.retain,
                dup: publish.dup,
                id: publish.packet_id.map(PacketId::get),
                subscription_ids: publish
                    .properties
                    .subscription_ids
                    .clone()
                    .map(|id| id.get())
                    .collect(),
                message_expiry_s: publish.properties.message_expiry_s,
            })
        }
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
            let ack = Ack::decode(version, packet_type, body).expect("an acknowledgement");
            Packet::Ack {
                packet_type,
                id: ack.packet_id.get(),
                reason: ack.reason,
            }
        }
        PacketType::Suback => Packet::Suback(
            Suback::decode(version, body)
                .expect("SUBACK")
                .codes
                .to_vec(),
        ),
        PacketType::Unsuback => Packet::Unsuback,
        PacketType::Pingresp => Packet::Pingresp,
        PacketType::Disconnect => Packet::Disconnect(
            Disconnect::decode(version, body)
                .expect("DISCONNECT")
                .reason,
        ),
        other => panic!("a server does not send {other:?}"),
    }
}

/// CONNECT with Clean Start and defaults.
pub(crate) fn connect(id: &str, version: Version) -> Connect<'_> {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: id,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// CONNECT that keeps its session.
pub(crate) fn persistent(id: &str, version: Version) -> Connect<'_> {
    let mut connect = connect(id, version);
    connect.clean_start = false;
    if version.is_v5() {
        connect.properties.session_expiry_s = Some(3_600);
    }
    connect
}

/// This QoS and no flags.
pub(crate) fn with_qos(qos: QoS) -> SubscribeOptions {
    SubscribeOptions { qos, ..options() }
}

/// QoS 0 and no flags.
pub(crate) fn options() -> SubscribeOptions {
    SubscribeOptions::from_bits(0).expect("valid")
}

/// No properties to forward.
pub(crate) fn nothing() -> Forward<'static> {
    Forward::default()
}

/// Connects a client that keeps its session.
pub(crate) fn keeper(world: &mut World, id: &str) -> usize {
    keeper_of(world, id, Version::V5)
}

/// The same of another version of the protocol.
pub(crate) fn keeper_of(world: &mut World, id: &str, version: Version) -> usize {
    let client = world.send_connect(0, persistent(id, version));
    assert_eq!(world.next(client), None, "CONNACK before its record");
    world.commit();
    assert!(matches!(world.next(client), Some(Packet::Connack { .. })));
    client
}

/// The same with a subscription.
pub(crate) fn subscribed(world: &mut World, id: &str, filter: &str, qos: QoS) -> usize {
    let client = keeper(world, id);
    let options = with_qos(qos);
    world.send_subscribe(client, filter, options, None);
    assert_eq!(world.next(client), None, "SUBACK before its record");
    world.commit();
    assert_eq!(world.next(client), Some(Packet::Suback(vec![qos as u8])));
    client
}

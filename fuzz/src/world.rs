//! Shards, the links between them and the client ends of their connections, in one thread; and what every byte
//! they send is checked for.
//!
//! The driver's side of the contract is kept to the letter: a connection is written as long as the shard owes it bytes,
//! a paused one is not read, an index is reused only with another generation. What the shard says is checked
//! for the other side: bytes wait only on a connection it has named, no request is answered twice, and every packet is
//! well-formed in the version of its client and within what the client allowed.

use ringmq::config::limits::Limits;
use ringmq::protocol::frame::{Cut, PACKET_BYTES_MAX, cut, cut_version};
use ringmq::protocol::{
    Ack, Connack, Connect, Disconnect, PacketType, Publish, QoS, ReasonCode, Suback, Subscribe,
    Unsuback, Unsubscribe, Version, ping,
};
use ringmq::shard::input::{CloseCause, ConnKey, Input, Now, Pressure, ShardId};
use ringmq::shard::mesh_message::MeshMessage;
use ringmq::shard::outbox::{Event, Outbox};
use ringmq::shard::placement::Placement;
use ringmq::shard::{Shard, ShardSetup};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Pieces in which one delivery is read, at most.
const PIECES_MAX: usize = 100;

/// What a client has asked for and not been answered; what it has been sent and not acknowledged.
#[derive(Debug, Default)]
struct Exchanges {
    /// SUBSCRIBE: identifier and number of filters.
    subscribes: Vec<(u16, usize)>,
    unsubscribes: Vec<(u16, usize)>,
    pubacks: Vec<u16>,
    pubrecs: Vec<u16>,
    pubcomps: Vec<u16>,
    pings: usize,
    /// PUBLISH with QoS above 0 that this client has read.
    window: BTreeMap<u16, Unacknowledged>,
    /// It acknowledged what it had not read: the window can no longer be told from outside.
    acknowledged_unread: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unacknowledged {
    AtLeastOnce,
    ExactlyOnce,
    Released,
}

/// The client's end of a connection.
#[derive(Debug)]
struct Peer {
    /// `None` while the connection is handed over.
    at: Option<(usize, ConnKey)>,
    /// Sent by the client and not read by the driver.
    kernel: Vec<u8>,
    paused: bool,
    /// The shard named it dirty, and has not been drained since.
    owed: bool,
    /// The shard wants it closed.
    closing: bool,
    /// Read by the driver and not yet a whole packet.
    sent: Vec<u8>,
    /// What was sent is no MQTT: nothing after it is understood.
    is_broken: bool,
    /// By its CONNECT.
    spoken: Option<Version>,
    /// The same from the shard, as soon as it has accepted CONNECT.
    version: Option<Version>,
    packet_bytes_max: usize,
    receive_maximum: usize,
    topic_alias_maximum: u16,
    received: Vec<u8>,
    connack: Option<ReasonCode>,
    disconnected: bool,
    aliases: BTreeMap<u16, String>,
    exchanges: Exchanges,
}

/// Everything.
pub struct World {
    /// The time.
    pub now: Now,
    shards: Vec<Shard>,
    links: Vec<Vec<VecDeque<MeshMessage>>>,
    handovers: VecDeque<(usize, usize, Vec<u8>)>,
    peers: Vec<Option<Peer>>,
    free_indexes: Vec<Vec<u32>>,
    index_counts: Vec<u32>,
    generation: u32,
    /// PUBLISH packets that clients read.
    pub publish_count: usize,
}

impl World {
    /// Shards without clients, and places for `peer_count` of them.
    pub fn new(shard_count: usize, peer_count: usize, limits: Limits, mono_ms: u64) -> Self {
        let limits = Arc::new(limits);
        let now = Now {
            mono_ms,
            wall_ms: 1_700_000_000_000,
        };
        let shards = (0..shard_count)
            .map(|id| {
                Shard::new(ShardSetup {
                    id: ShardId(id as u8),
                    shard_count,
                    limits: Arc::clone(&limits),
                    placement: Placement::new([3; 16], shard_count),
                    hash_seed: 77,
                    random_seed: id as u64,
                    events: true,
                    now,
                })
            })
            .collect();
        Self {
            now,
            shards,
            links: vec![vec![VecDeque::new(); shard_count]; shard_count],
            handovers: VecDeque::new(),
            peers: (0..peer_count).map(|_| None).collect(),
            free_indexes: vec![Vec::new(); shard_count],
            index_counts: vec![0; shard_count],
            generation: 0,
            publish_count: 0,
        }
    }

    /// A new connection of the client `peer` on `shard`, if it has none.
    pub fn accept(&mut self, peer: usize, shard: usize) {
        if self.peers[peer].is_some() {
            return;
        }
        let conn = self.new_key(shard);
        self.peers[peer] = Some(Peer {
            at: Some((shard, conn)),
            kernel: Vec::new(),
            paused: false,
            owed: false,
            closing: false,
            sent: Vec::new(),
            is_broken: false,
            spoken: None,
            version: None,
            packet_bytes_max: usize::MAX,
            receive_maximum: 65_535,
            topic_alias_maximum: 0,
            received: Vec::new(),
            connack: None,
            disconnected: false,
            aliases: BTreeMap::new(),
            exchanges: Exchanges::default(),
        });
        self.handle(shard, Input::Accepted { conn });
    }

    /// The version in which the shard accepted the client's CONNECT.
    pub fn version(&self, peer: usize) -> Option<Version> {
        self.peers[peer].as_ref()?.version
    }

    /// The client sends, and the driver reads in pieces of `piece` bytes unless it may not read.
    pub fn send(&mut self, peer: usize, bytes: &[u8], piece: usize) {
        let Some(open) = &mut self.peers[peer] else {
            return;
        };
        open.kernel.extend_from_slice(bytes);
        self.read(peer, piece, false);
    }

    /// The driver reads what the client sent; `although_paused` is what was read before the pause was asked for.
    pub fn read(&mut self, peer: usize, piece: usize, although_paused: bool) {
        let Some(open) = &mut self.peers[peer] else {
            return;
        };
        let piece = piece.max(open.kernel.len() / PIECES_MAX + 1);
        let sent = std::mem::take(&mut open.kernel);
        let mut rest = &sent[..];
        while !rest.is_empty()
            && let Some(open) = &mut self.peers[peer]
            && let Some((shard, conn)) = open.at
            && (although_paused || !open.paused)
        {
            let (bytes, after) = rest.split_at(rest.len().min(piece));
            rest = after;
            open.client_sends(bytes);
            self.handle(shard, Input::Received { conn, bytes });
        }
        if let Some(open) = &mut self.peers[peer] {
            open.kernel = rest.to_vec();
        }
    }

    /// The socket takes at most `bytes_max` bytes of what is owed to the client.
    pub fn write(&mut self, peer: usize, bytes_max: usize) {
        let Some(open) = &mut self.peers[peer] else {
            return;
        };
        let Some((shard, conn)) = open.at.filter(|_| open.owed) else {
            return;
        };
        let outbound = self.shards[shard].outbound(conn);
        let bytes: Vec<u8> = outbound.flatten().copied().take(bytes_max).collect();
        self.publish_count += open.client_receives(&bytes);
        self.handle(
            shard,
            Input::Written {
                conn,
                bytes: bytes.len(),
            },
        );
        if self.shards[shard].outbound(conn).next().is_none()
            && let Some(open) = &mut self.peers[peer]
        {
            open.owed = false;
        }
    }

    /// A connection that is to be closed is, once all is written.
    pub fn settle(&mut self, peer: usize) {
        let is_done = |open: &Peer| open.closing && !open.owed;
        if self.peers[peer].as_ref().is_some_and(is_done) {
            self.close(peer, CloseCause::Asked);
        }
    }

    /// The connection is gone.
    pub fn close(&mut self, peer: usize, cause: CloseCause) {
        let Some(open) = &self.peers[peer] else {
            return;
        };
        // What is being handed over is closed when it has arrived.
        let Some((shard, conn)) = open.at else { return };
        self.peers[peer] = None;
        self.handle(shard, Input::Closed { conn, cause });
        self.free_indexes[shard].push(conn.index);
    }

    /// A late event for a connection that is gone.
    pub fn late(&mut self, shard: usize, index: u32, bytes: &[u8]) {
        let conn = ConnKey {
            index,
            generation: u32::MAX,
        };
        self.handle(shard, Input::Received { conn, bytes });
        self.handle(shard, Input::Written { conn, bytes: 0 });
        self.handle(
            shard,
            Input::Closed {
                conn,
                cause: CloseCause::Reset,
            },
        );
    }

    /// Delivers at most `count` messages of the link.
    pub fn flow(&mut self, from: usize, to: usize, count: usize) {
        for _ in 0..count {
            let Some(message) = self.links[from][to].pop_front() else {
                return;
            };
            self.handle(
                to,
                Input::Mesh {
                    from: ShardId(from as u8),
                    message,
                },
            );
        }
    }

    /// Delivers everything on all links, and every handover.
    pub fn flow_all(&mut self) {
        let mut rounds = 0;
        while !self.is_quiet() {
            rounds += 1;
            assert!(rounds < 1_000, "shards do not talk for ever");
            while self.hand_over() {}
            for from in 0..self.shards.len() {
                for to in 0..self.shards.len() {
                    self.flow(from, to, usize::MAX);
                }
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.handovers.is_empty() && self.links.iter().flatten().all(VecDeque::is_empty)
    }

    /// Messages on all links.
    pub fn on_links(&self) -> usize {
        self.links.iter().flatten().map(VecDeque::len).sum()
    }

    /// The oldest connection that is being handed over arrives; false when there is none.
    pub fn hand_over(&mut self) -> bool {
        let Some((peer, to, unread)) = self.handovers.pop_front() else {
            return false;
        };
        let conn = self.new_key(to);
        let open = self.peers[peer]
            .as_mut()
            .expect("a connection handed over is not closed");
        open.at = Some((to, conn));
        self.handle(
            to,
            Input::HandedOver {
                conn,
                unread: &unread,
            },
        );
        self.read(peer, usize::MAX, false);
        true
    }

    /// The pressure on a link changes.
    pub fn pressure(&mut self, from: usize, to: usize, pressure: Pressure) {
        if from != to {
            self.handle(
                from,
                Input::Link {
                    to: ShardId(to as u8),
                    pressure,
                },
            );
        }
        for peer in 0..self.peers.len() {
            self.read(peer, usize::MAX, false);
        }
    }

    /// Time passes, and the shards that want to know are told.
    pub fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        for shard in 0..self.shards.len() {
            if self.shards[shard]
                .next_deadline()
                .is_some_and(|due| due <= self.now.mono_ms)
            {
                self.handle(shard, Input::Tick);
            }
            let next = self.shards[shard].next_deadline();
            assert!(
                next.is_none_or(|due| due > self.now.mono_ms),
                "a Tick settles what is due"
            );
        }
    }

    /// Time passes as far as `ms`, in the steps that the shards ask for.
    pub fn pass_in_steps(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while self.now.mono_ms < end {
            let next = self
                .shards
                .iter()
                .filter_map(Shard::next_deadline)
                .min()
                .unwrap_or(end);
            self.pass(next.clamp(self.now.mono_ms + 1, end) - self.now.mono_ms);
            self.flow_all();
        }
    }

    /// The broker stops.
    pub fn shut_down(&mut self) {
        for shard in 0..self.shards.len() {
            self.handle(shard, Input::Shutdown);
        }
    }

    /// All clients leave, all links flow, and all sessions expire.
    pub fn end(&mut self, expiry_ms: u64) {
        for from in 0..self.shards.len() {
            for to in 0..self.shards.len() {
                self.pressure(from, to, Pressure::Low);
            }
        }
        self.flow_all();
        for peer in 0..self.peers.len() {
            self.write(peer, usize::MAX);
            self.settle(peer);
            self.close(peer, CloseCause::PeerClosed);
        }
        self.flow_all();
        assert!(self.peers.iter().all(Option::is_none));
        self.pass_in_steps(expiry_ms);
        for shard in &self.shards {
            assert_eq!(shard.session_count(), 0, "every session has expired");
        }
        let retained: BTreeSet<_> = self.shards.iter().map(Shard::retained_count).collect();
        assert_eq!(
            retained.len(),
            1,
            "all shards retain the same: {retained:?}"
        );
    }

    fn new_key(&mut self, shard: usize) -> ConnKey {
        self.generation += 1;
        let index = self.free_indexes[shard].pop().unwrap_or_else(|| {
            self.index_counts[shard] += 1;
            self.index_counts[shard] - 1
        });
        ConnKey {
            index,
            generation: self.generation,
        }
    }

    fn handle(&mut self, shard: usize, input: Input<'_>) {
        let mut outbox = Outbox::default();
        self.shards[shard].handle(self.now, input, &mut outbox);
        self.drain(shard, outbox);
        for open in self.peers.iter().flatten() {
            if let Some((shard, conn)) = open.at {
                let waits = self.shards[shard].outbound(conn).next().is_some();
                assert!(
                    !waits || open.owed,
                    "bytes wait that the driver was not told of"
                );
            }
        }
    }

    fn drain(&mut self, shard: usize, outbox: Outbox) {
        for (to, message) in outbox.mesh {
            assert_ne!(to.index(), shard);
            self.links[shard][to.index()].push_back(message);
        }
        for event in outbox.events {
            if let Event::ClientConnected { conn, version, .. } = event
                && let Some(open) = self.peer(shard, conn)
            {
                assert_eq!(open.version.replace(version), None);
                assert_eq!(open.spoken, Some(version));
            }
        }
        for conn in outbox.dirty {
            if let Some(open) = self.peer(shard, conn) {
                assert!(!open.owed, "a connection is dirty once");
                open.owed = true;
            }
        }
        for handover in outbox.handover {
            let to = handover.to.index();
            assert_ne!(to, shard);
            let is_it = |peer: &Option<Peer>| {
                peer.as_ref()
                    .is_some_and(|open| open.at == Some((shard, handover.conn)))
            };
            let peer = self
                .peers
                .iter()
                .position(is_it)
                .expect("a connection is handed over alive");
            let open = self.peers[peer].as_mut().expect("found just now");
            assert!(!open.owed && !open.closing && !open.paused);
            open.at = None;
            self.free_indexes[shard].push(handover.conn.index);
            self.handovers.push_back((peer, to, handover.unread));
        }
        for conn in outbox.close {
            let open = self
                .peer(shard, conn)
                .expect("a connection is closed alive");
            assert!(!open.closing, "a connection is closed once");
            open.closing = true;
        }
        for conn in outbox.pause {
            if let Some(open) = self.peer(shard, conn) {
                assert!(!open.paused);
                open.paused = true;
            }
        }
        for conn in outbox.resume {
            let open = self
                .peer(shard, conn)
                .expect("a connection is resumed alive");
            assert!(open.paused);
            open.paused = false;
        }
    }

    fn peer(&mut self, shard: usize, conn: ConnKey) -> Option<&mut Peer> {
        self.peers
            .iter_mut()
            .flatten()
            .find(|open| open.at == Some((shard, conn)))
    }

    /// The next acknowledgement that the client owes, if any: its packet type and identifier.
    pub fn acknowledgement_due(&self, peer: usize, at: usize) -> Option<(PacketType, u16)> {
        let window = &self.peers[peer].as_ref()?.exchanges.window;
        let (id, state) = window.iter().nth(at % window.len().max(1))?;
        let packet_type = match state {
            Unacknowledged::AtLeastOnce => PacketType::Puback,
            Unacknowledged::ExactlyOnce => PacketType::Pubrec,
            Unacknowledged::Released => PacketType::Pubcomp,
        };
        Some((packet_type, *id))
    }
}

impl Peer {
    /// Takes note of what the client asks for, as the shard will.
    fn client_sends(&mut self, bytes: &[u8]) {
        if self.is_broken {
            return;
        }
        self.sent.extend_from_slice(bytes);
        let sent = std::mem::take(&mut self.sent);
        let mut rest = &sent[..];
        loop {
            match cut_version(rest, PACKET_BYTES_MAX, self.spoken.unwrap_or(Version::V311)) {
                Ok(Cut::Packet { header, body, len }) => {
                    if self.note(header.packet_type, header.flags, body).is_none() {
                        self.is_broken = true;
                        return;
                    }
                    rest = &rest[len..];
                }
                Ok(Cut::Incomplete { .. }) => break,
                Err(_) => {
                    self.is_broken = true;
                    return;
                }
            }
        }
        self.sent = rest.to_vec();
    }

    /// `None` when the packet breaks the connection.
    fn note(&mut self, packet_type: PacketType, flags: u8, body: &[u8]) -> Option<()> {
        let Some(version) = self.spoken else {
            if packet_type != PacketType::Connect {
                return None;
            }
            let connect = Connect::decode(body).ok()?;
            let properties = &connect.properties;
            self.spoken = Some(connect.version);
            let bytes_max = properties
                .packet_bytes_max
                .map_or(usize::MAX, |max| max.get() as usize);
            self.packet_bytes_max = bytes_max;
            self.receive_maximum = properties
                .receive_maximum
                .map_or(65_535, |max| max.get().into());
            self.topic_alias_maximum = properties.topic_alias_maximum;
            return Some(());
        };
        let exchanges = &mut self.exchanges;
        match packet_type {
            PacketType::Publish => {
                let publish = Publish::decode(version, flags, body).ok()?;
                let id = publish.packet_id.map(|id| id.get());
                match publish.qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => exchanges.pubacks.extend(id),
                    QoS::ExactlyOnce => exchanges.pubrecs.extend(id),
                }
            }
            PacketType::Subscribe => {
                let subscribe = Subscribe::decode(version, body).ok()?;
                let count = subscribe.filters().count();
                exchanges
                    .subscribes
                    .push((subscribe.packet_id.get(), count));
            }
            PacketType::Unsubscribe => {
                let unsubscribe = Unsubscribe::decode(version, body).ok()?;
                let count = unsubscribe.filters().count();
                exchanges
                    .unsubscribes
                    .push((unsubscribe.packet_id.get(), count));
            }
            PacketType::Pingreq => exchanges.pings += 1,
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                let ack = Ack::decode(version, packet_type, body).ok()?;
                let accepted = (ack.reason as u8) < 0x80;
                exchanges.client_acknowledges(packet_type, ack.packet_id.get(), accepted);
            }
            _ => {}
        }
        Some(())
    }

    /// Checks what the shard sent; returns how many PUBLISH packets were completed.
    fn client_receives(&mut self, bytes: &[u8]) -> usize {
        self.received.extend_from_slice(bytes);
        let received = std::mem::take(&mut self.received);
        let mut rest = &received[..];
        let mut publish_count = 0;
        loop {
            // DUP in PUBREL is a client's of 3.1; a server's is read by the stricter rules.
            match cut(rest, PACKET_BYTES_MAX).expect("the shard sends packets") {
                Cut::Incomplete { .. } => break,
                Cut::Packet { header, body, len } => {
                    publish_count += usize::from(header.packet_type == PacketType::Publish);
                    self.packet(header.packet_type, header.flags, body, len);
                    rest = &rest[len..];
                }
            }
        }
        self.received = rest.to_vec();
        publish_count
    }

    fn packet(&mut self, packet_type: PacketType, flags: u8, body: &[u8], len: usize) {
        assert!(!self.disconnected, "{packet_type:?} after DISCONNECT");
        if self.connack.is_none() {
            assert_eq!(packet_type, PacketType::Connack, "the first packet");
        }
        let Some(version) = self.version else {
            // A refusal, in a version of which only the layout tells.
            assert_eq!(packet_type, PacketType::Connack);
            let version = if body.len() == 2 {
                Version::V311
            } else {
                Version::V5
            };
            let connack = Connack::decode(version, body).expect("a refusal");
            assert!(connack.reason.is_failure() && self.connack.is_none());
            self.connack = Some(connack.reason);
            return;
        };
        let exchanges = &mut self.exchanges;
        match packet_type {
            PacketType::Connack => {
                let connack = Connack::decode(version, body).expect("CONNACK");
                assert_eq!(connack.reason, ReasonCode::Success);
                assert_eq!(self.connack.replace(connack.reason), None);
            }
            PacketType::Publish => self.publish(version, flags, body, len),
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubcomp => {
                let ack = Ack::decode(version, packet_type, body).expect("an acknowledgement");
                answer(
                    match packet_type {
                        PacketType::Puback => &mut exchanges.pubacks,
                        PacketType::Pubrec => &mut exchanges.pubrecs,
                        _ => &mut exchanges.pubcomps,
                    },
                    ack.packet_id.get(),
                );
            }
            PacketType::Pubrel => {
                let ack = Ack::decode(version, packet_type, body).expect("PUBREL");
                if ack.reason == ReasonCode::Success {
                    // Of this connection, or repeated from one before.
                    exchanges
                        .window
                        .insert(ack.packet_id.get(), Unacknowledged::Released);
                }
            }
            PacketType::Suback => {
                let suback = Suback::decode(version, body).expect("SUBACK");
                answer(
                    &mut exchanges.subscribes,
                    (suback.packet_id.get(), suback.codes.len()),
                );
            }
            PacketType::Unsuback => {
                let unsuback = Unsuback::decode(version, body).expect("UNSUBACK");
                let id = unsuback.packet_id.get();
                let asked = exchanges.unsubscribes.iter().find(|(asked, count)| {
                    *asked == id && (!version.is_v5() || *count == unsuback.codes.len())
                });
                let asked = *asked.expect("UNSUBACK answers an UNSUBSCRIBE");
                answer(&mut exchanges.unsubscribes, asked);
            }
            PacketType::Pingresp => {
                ping::decode(body).expect("PINGRESP");
                exchanges.pings = exchanges
                    .pings
                    .checked_sub(1)
                    .expect("PINGRESP answers PINGREQ");
            }
            PacketType::Disconnect => {
                assert!(version.is_v5(), "only 5.0 has a DISCONNECT of the server");
                Disconnect::decode(version, body).expect("DISCONNECT");
                self.disconnected = true;
            }
            other => panic!("a server does not send {other:?}"),
        }
    }

    fn publish(&mut self, version: Version, flags: u8, body: &[u8], len: usize) {
        let publish = Publish::decode_from_server(version, flags, body).expect("PUBLISH");
        assert!(
            len <= self.packet_bytes_max,
            "{len} bytes to a client that takes fewer"
        );
        if let Some(alias) = publish.properties.topic_alias {
            assert!(alias.get() <= self.topic_alias_maximum);
            if publish.topic.is_empty() {
                assert!(
                    self.aliases.contains_key(&alias.get()),
                    "an alias without a topic"
                );
            } else {
                self.aliases.insert(alias.get(), publish.topic.to_owned());
            }
        }
        if version == Version::V5 {
            assert!(
                publish.properties.message_expiry_s != Some(0),
                "an expired message is not sent"
            );
        }
        let Some(id) = publish.packet_id else { return };
        let state = match publish.qos {
            QoS::AtLeastOnce => Unacknowledged::AtLeastOnce,
            _ => Unacknowledged::ExactlyOnce,
        };
        let before = self.exchanges.window.insert(id.get(), state);
        if !self.exchanges.acknowledged_unread {
            assert_eq!(before, None, "identifier {id:?} is in use");
            let window = self.exchanges.window.len();
            assert!(window <= self.receive_maximum, "{window} unacknowledged");
        }
    }
}

impl Exchanges {
    fn client_acknowledges(&mut self, packet_type: PacketType, id: u16, accepted: bool) {
        use Unacknowledged::{AtLeastOnce, ExactlyOnce, Released};
        if packet_type == PacketType::Pubrel {
            self.pubcomps.push(id);
            return;
        }
        match (packet_type, self.window.get(&id)) {
            (PacketType::Puback, Some(AtLeastOnce)) | (PacketType::Pubcomp, Some(Released)) => {
                self.window.remove(&id);
            }
            (PacketType::Pubrec, Some(ExactlyOnce)) if accepted => {
                self.window.insert(id, Released);
            }
            (PacketType::Pubrec, Some(ExactlyOnce)) => {
                self.window.remove(&id);
            }
            _ => self.acknowledged_unread = true,
        }
    }
}

fn answer<T: PartialEq + std::fmt::Debug>(asked: &mut Vec<T>, answered: T) {
    let at = asked.iter().position(|one| *one == answered);
    let at = at.unwrap_or_else(|| panic!("{answered:?} answers nothing of {asked:?}"));
    asked.remove(at);
}

//! Shards, the links between them and the client ends of their connections, in one thread.
//!
//! The driver's side of the contract is kept to the letter: a connection is written as long as the shard owes it bytes,
//! a paused one is not read, an index is reused only with another generation. What the shard says is checked
//! for the other side: bytes wait only on a connection it has named, and a connection is named once.

use crate::client::Peer;
use ringmq::config::limits::Limits;
use ringmq::protocol::{
    PacketId, PacketType, Publish, PublishProperties, QoS, ReasonCode, Subscribe, SubscribeOptions,
    UserProperties, Version, put_ack,
};
use ringmq::shard::budget::MemoryLevel;
use ringmq::shard::input::{CloseCause, ConnKey, Input, Now, Pressure, ShardId};
use ringmq::shard::mesh_message::MeshMessage;
use ringmq::shard::outbox::{Event, Outbox};
use ringmq::shard::placement::Placement;
use ringmq::shard::record::Durability;
use ringmq::shard::{Shard, ShardSetup};
use ringmq::topic::retained::TOMBSTONE_KEPT_MS;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Pieces in which one delivery is read, at most.
const PIECES_MAX: usize = 100;

/// Rounds in which clients that acknowledge one packet each have got everything there can be for them.
const ROUNDS_MAX: usize = 5_000;

/// The identifier of the probe's packets, which other packets of a client rarely have.
const PROBE_ID: PacketId = PacketId::MIN;

/// Everything.
pub struct World {
    /// The time.
    pub now: Now,
    shards: Vec<Shard>,
    /// Messages to other shards stay in a shard's outbox until its turn ends.
    outboxes: Vec<Outbox>,
    /// Whether turns go on over several inputs.
    pub long_turns: bool,
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
                    durability: Durability::None,
                    now,
                })
            })
            .collect();
        Self {
            now,
            shards,
            outboxes: (0..shard_count).map(|_| Outbox::default()).collect(),
            long_turns: false,
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
        self.peers[peer] = Some(Peer::new(shard, conn));
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
            (open.owed, open.owed_now) = (false, false);
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
        self.end_turn(from);
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

    /// What is under way to very many of a shard goes on; false when nothing is.
    pub fn fan_out(&mut self, shard: usize) -> bool {
        let is_under_way = self.shards[shard].is_fanning_out();
        if is_under_way {
            self.handle(shard, Input::FanOut);
        }
        is_under_way
    }

    /// Delivers everything on all links, every handover, and what is under way to very many.
    pub fn flow_all(&mut self) {
        let mut rounds = 0;
        while !self.is_quiet() {
            rounds += 1;
            assert!(rounds < 1_000, "shards do not talk for ever");
            while self.hand_over() {}
            for shard in 0..self.shards.len() {
                while self.fan_out(shard) {}
            }
            for from in 0..self.shards.len() {
                for to in 0..self.shards.len() {
                    self.flow(from, to, usize::MAX);
                }
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.handovers.is_empty()
            && !self.shards.iter().any(Shard::is_fanning_out)
            && self.links.iter().flatten().all(VecDeque::is_empty)
            && self.outboxes.iter().all(|outbox| outbox.mesh.is_empty())
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

    /// Time passes, and the shards that want to know are told. Over a long time, in which the process stood still, the links flow behind
    /// that: they hold nothing for as long as a cleared topic is remembered.
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
        if ms > TOMBSTONE_KEPT_MS / 2 {
            self.flow_all();
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

    fn is_open(&self, peer: usize) -> bool {
        self.peers[peer].as_ref().is_some_and(Peer::is_open)
    }

    /// Links flow, sockets take everything, and every client acknowledges what it gets, until nothing moves.
    fn calm_down(&mut self) {
        for from in 0..self.shards.len() {
            for to in 0..self.shards.len() {
                self.pressure(from, to, Pressure::Low);
            }
        }
        for _ in 0..ROUNDS_MAX {
            self.flow_all();
            let mut moved = false;
            for peer in 0..self.peers.len() {
                self.read(peer, usize::MAX, false);
                self.write(peer, usize::MAX);
                self.settle(peer);
                moved |= self.peers[peer].as_ref().is_some_and(|open| open.owed);
                let due = self
                    .acknowledgement_due(peer, 0)
                    .filter(|_| self.is_open(peer));
                if let (Some((packet_type, id)), Some(version)) = (due, self.version(peer)) {
                    moved = true;
                    let id = PacketId::new(id).expect("the shard sent it");
                    let mut bytes = Vec::new();
                    put_ack(&mut bytes, version, packet_type, id, ReasonCode::Success);
                    self.send(peer, &bytes, usize::MAX);
                }
            }
            if !moved && self.is_quiet() {
                return;
            }
        }
        panic!("clients that read and acknowledge everything come to rest");
    }

    /// Once everything has come to rest, every request is answered, and a message reaches whoever subscribes to it.
    pub fn probe(&mut self) {
        self.long_turns = false;
        self.calm_down();
        for peer in 0..self.peers.len() {
            if !self.is_open(peer) {
                continue;
            }
            let open = self.peers[peer].as_mut().expect("it is open");
            assert!(
                !open.paused,
                "a client that has read everything is read from"
            );
            assert!(open.is_answered(), "{:?}", open.exchanges);
            if open.packet_bytes_max < 64 {
                continue;
            }
            let topic = format!("probe-{peer}");
            let version = open.version.expect("it is open");
            let options = SubscribeOptions {
                qos: QoS::AtLeastOnce,
                ..SubscribeOptions::default()
            };
            let mut bytes = Vec::new();
            let user = UserProperties::default();
            Subscribe::encode(
                &mut bytes,
                version,
                PROBE_ID,
                None,
                &user,
                &[(&topic, options)],
            );
            self.send(peer, &bytes, usize::MAX);
            self.calm_down();
            let mut published = 0;
            for publisher in 0..self.peers.len() {
                if !self.is_open(publisher) {
                    continue;
                }
                let publish = Publish {
                    dup: false,
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    topic: &topic,
                    packet_id: Some(PROBE_ID),
                    properties: PublishProperties::default(),
                    payload: b"probe",
                };
                let mut bytes = Vec::new();
                publish.encode(self.version(publisher).expect("it is open"), &mut bytes);
                self.send(publisher, &bytes, usize::MAX);
                self.calm_down();
                published += usize::from(self.is_open(publisher));
            }
            if !self.is_open(peer) {
                continue;
            }
            let open = self.peers[peer].as_ref().expect("it is open");
            let received = open.topics.iter().filter(|got| **got == topic).count();
            if open.granted < 0x80 {
                assert!(
                    received >= published,
                    "{received} of {published} messages arrived"
                );
            }
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
        // What they keep only to save time.
        for level in [MemoryLevel::Tight, MemoryLevel::Ample] {
            for shard in 0..self.shards.len() {
                self.handle(shard, Input::Memory(level));
            }
        }
        self.flow_all();
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
        let mut outbox = std::mem::take(&mut self.outboxes[shard]);
        self.shards[shard].handle(self.now, input, &mut outbox);
        self.drain(shard, &mut outbox);
        self.outboxes[shard] = outbox;
        if !self.long_turns {
            self.end_turn(shard);
        }
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

    /// What the shard has for the others goes onto the links.
    fn end_turn(&mut self, shard: usize) {
        for (to, message) in self.outboxes[shard].take_mesh() {
            assert_ne!(to.index(), shard);
            self.links[shard][to.index()].push_back(message);
        }
    }

    fn drain(&mut self, shard: usize, outbox: &mut Outbox) {
        for event in outbox.events.drain(..) {
            if let Event::ClientConnected { conn, version, .. } = event
                && let Some(open) = self.peer(shard, conn)
            {
                assert_eq!(open.version.replace(version), None);
                assert_eq!(open.spoken, Some(version));
            }
        }
        for conn in outbox.later.drain(..) {
            if let Some(open) = self.peer(shard, conn) {
                assert!(!open.owed, "what may wait is told of first, and once");
                open.owed = true;
            }
        }
        for conn in outbox.dirty.drain(..) {
            if let Some(open) = self.peer(shard, conn) {
                assert!(!open.owed_now, "a connection is dirty once");
                (open.owed, open.owed_now) = (true, true);
            }
        }
        for handover in outbox.handover.drain(..) {
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
        for conn in outbox.close.drain(..) {
            let open = self
                .peer(shard, conn)
                .expect("a connection is closed alive");
            assert!(!open.closing, "a connection is closed once");
            open.closing = true;
        }
        for conn in outbox.pause.drain(..) {
            if let Some(open) = self.peer(shard, conn) {
                assert!(!open.paused);
                open.paused = true;
            }
        }
        for conn in outbox.resume.drain(..) {
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
        self.peers[peer].as_ref()?.acknowledgement_due(at)
    }
}

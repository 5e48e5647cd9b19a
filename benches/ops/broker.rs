//! Shards with clients that are byte pipes, as far as the measured operations need them.

use ringmq::config::limits::Limits;
use ringmq::protocol::{
    Connect, ConnectProperties, PacketId, PacketType, Publish, PublishProperties, QoS, ReasonCode,
    Subscribe, SubscribeOptions, UserProperties, Version, put_ack,
};
use ringmq::shard::input::{CloseCause, ConnKey, Input, Now, ShardId};
use ringmq::shard::outbox::Outbox;
use ringmq::shard::placement::Placement;
use ringmq::shard::record::Durability;
use ringmq::shard::{Shard, ShardSetup};
use std::sync::Arc;

/// A connection and where it is.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    shard: usize,
    conn: ConnKey,
}

pub(crate) struct Broker {
    shards: Vec<Shard>,
    outbox: Outbox,
    placement: Placement,
    now: Now,
    /// Per shard: connections made so far.
    connected: Vec<u32>,
    /// Keys to be used again, with their shard.
    free: Vec<Client>,
    /// The last QoS 1 or 2 message that a client was sent.
    delivered: Option<(Client, PacketId)>,
}

impl Broker {
    pub(crate) fn new(shard_count: usize) -> Self {
        let placement = Placement::new([3; 16], shard_count);
        let now = Now {
            mono_ms: 1_000_000,
            wall_ms: 1_700_000_000_000,
        };
        let shards = (0..shard_count).map(|id| {
            Shard::new(ShardSetup {
                id: ShardId(id as u8),
                shard_count,
                limits: Arc::new(Limits::default()),
                placement,
                hash_seed: 7,
                random_seed: id as u64,
                events: false,
                durability: Durability::None,
                now,
            })
        });
        Self {
            shards: shards.collect(),
            outbox: Outbox::default(),
            placement,
            now,
            connected: vec![0; shard_count],
            free: Vec::new(),
            delivered: None,
        }
    }

    /// Connects a client whose session lives on `shard`: its name is made longer until it does.
    pub(crate) fn client(&mut self, name: &str, shard: usize) -> Client {
        let mut client_id = name.to_owned();
        while self.placement.owner(&client_id).index() != shard {
            client_id.push('+');
        }
        let client = match self.free.iter().rposition(|free| free.shard == shard) {
            Some(at) => self.free.swap_remove(at),
            None => {
                let index = self.connected[shard];
                self.connected[shard] += 1;
                let generation = 0;
                let conn = ConnKey { index, generation };
                Client { shard, conn }
            }
        };
        self.input(shard, Input::Accepted { conn: client.conn });
        self.receive(client, &connect(&client_id));
        client
    }

    pub(crate) fn subscribe(&mut self, client: Client, filter: &str, qos: QoS) {
        let options = SubscribeOptions::from_bits(qos as u8).expect("a QoS alone is valid");
        let mut packet = Vec::new();
        Subscribe::encode(
            &mut packet,
            Version::V311,
            PacketId::MIN,
            None,
            &UserProperties::default(),
            &[(filter, options)],
        );
        self.receive(client, &packet);
    }

    /// Sends a PUBLISH of `qos` and every acknowledgement that it leads to.
    pub(crate) fn publish(&mut self, from: Client, packet: &[u8], qos: QoS) {
        self.receive(from, packet);
        if qos == QoS::AtMostOnce {
            return;
        }
        let (to, id) = self.delivered.take().expect("somebody subscribed");
        if qos == QoS::AtLeastOnce {
            return self.acknowledge(to, PacketType::Puback, id);
        }
        self.acknowledge(from, PacketType::Pubrel, PacketId::MIN);
        self.acknowledge(to, PacketType::Pubrec, id);
        self.acknowledge(to, PacketType::Pubcomp, id);
    }

    fn acknowledge(&mut self, client: Client, packet_type: PacketType, id: PacketId) {
        let mut packet = Vec::with_capacity(8);
        put_ack(
            &mut packet,
            Version::V311,
            packet_type,
            id,
            ReasonCode::Success,
        );
        self.receive(client, &packet);
    }

    pub(crate) fn disconnect(&mut self, client: Client) {
        self.receive(client, &[PacketType::Disconnect as u8 * 16, 0]);
        let Client { shard, conn } = client;
        let cause = CloseCause::Asked;
        self.input(shard, Input::Closed { conn, cause });
        let generation = conn.generation + 1;
        let conn = ConnKey { generation, ..conn };
        self.free.push(Client { shard, conn });
    }

    pub(crate) fn ping(&mut self, client: Client) {
        self.receive(client, &[PacketType::Pingreq as u8 * 16, 0]);
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        for shard in 0..self.shards.len() {
            let is_due = |shard: &Shard, now: Now| {
                shard.next_deadline().is_some_and(|due| due <= now.mono_ms)
            };
            while is_due(&self.shards[shard], self.now) {
                self.input(shard, Input::Tick);
            }
        }
    }

    fn receive(&mut self, client: Client, bytes: &[u8]) {
        let conn = client.conn;
        self.input(client.shard, Input::Received { conn, bytes });
    }

    /// Gives an input to a shard and does what it wants done: all is written, all links are drained.
    fn input(&mut self, shard: usize, input: Input<'_>) {
        self.shards[shard].handle(self.now, input, &mut self.outbox);
        self.write(shard);
        while !self.outbox.mesh.is_empty() {
            let mut mesh = self.outbox.take_mesh();
            for (to, message) in mesh.drain(..) {
                let from = ShardId(shard as u8);
                let input = Input::Mesh { from, message };
                self.input(to.index(), input);
            }
            if self.outbox.mesh.is_empty() {
                self.outbox.mesh = mesh;
            }
        }
    }

    fn write(&mut self, shard: usize) {
        while let Some(conn) = self.outbox.dirty.pop().or_else(|| self.outbox.later.pop()) {
            let mut bytes = 0;
            for slice in self.shards[shard].outbound(conn) {
                if bytes == 0
                    && let Some(id) = packet_id(slice)
                {
                    self.delivered = Some((Client { shard, conn }, id));
                }
                bytes += slice.len();
            }
            let written = Input::Written { conn, bytes };
            self.shards[shard].handle(self.now, written, &mut self.outbox);
        }
        self.outbox.close.clear();
        assert!(
            self.outbox.handover.is_empty(),
            "clients connect where their sessions live"
        );
    }
}

/// The identifier of a PUBLISH of QoS 1 or 2 of less than 128 bytes.
fn packet_id(packet: &[u8]) -> Option<PacketId> {
    let is_publish = packet[0] >> 4 == PacketType::Publish as u8;
    if !is_publish || packet[0] & 0b110 == 0 {
        return None;
    }
    let at = 4 + usize::from(packet[3]);
    PacketId::new(u16::from_be_bytes([packet[at], packet[at + 1]]))
}

/// A CONNECT of a client without a session that is kept.
pub(crate) fn connect(client_id: &str) -> Vec<u8> {
    let mut packet = Vec::new();
    let connect = Connect {
        version: Version::V311,
        clean_start: true,
        keep_alive_s: 60,
        client_id,
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    connect.encode(&mut packet);
    packet
}

/// A PUBLISH of 64 bytes.
pub(crate) fn publish(topic: &str, qos: QoS) -> Vec<u8> {
    let mut packet = Vec::new();
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        packet_id: (qos != QoS::AtMostOnce).then_some(PacketId::MIN),
        properties: PublishProperties::default(),
        payload: &super::PAYLOAD,
    };
    publish.encode(Version::V311, &mut packet);
    packet
}

//! A fake client: what it remembers, and the packets it makes. It keeps the rules of MQTT unless it is told to be rude.

use crate::auditor::Auditor;
use crate::model::{Message, MessageId, Payload, SessionId};
use crate::random::Random;
use crate::swarm::{Feature, Swarm};
use crate::world::{SocketId, World};
use ringmq::protocol::frame::{Cut, cut};
use ringmq::protocol::{
    Ack, Connack, Connect, ConnectProperties, Forward, PacketId, PacketType, Property, Publish,
    PublishProperties, QoS, ReasonCode, RetainHandling, Suback, Subscribe, SubscribeOptions,
    Unsuback, Unsubscribe, UserProperties, Version, Will, put_ack, put_pingreq,
};
use std::collections::{BTreeSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};

/// No client sends a PUBLISH that is larger.
pub const PUBLISH_BYTES_MAX: usize = 7_000;

/// A message of its own that is not acknowledged.
#[derive(Debug)]
struct Sent {
    packet_id: u16,
    message: MessageId,
    released: bool,
}

/// The client's end of its present connection.
#[derive(Debug)]
struct Connection {
    socket: SocketId,
    version: Version,
    inbox: Vec<u8>,
    connected: bool,
    session_expiry_s: u32,
    rude: bool,
    stalled: bool,
    keep_alive_s: u16,
    last_sent_ms: u64,
    receive_maximum: usize,
    /// Topics of the aliases it defined.
    aliases: Vec<Option<String>>,
    owes: VecDeque<(PacketType, u16)>,
    subscribing: BTreeSet<u16>,
}

#[derive(Debug)]
pub struct Client {
    pub number: usize,
    connection: Option<Connection>,
    unacknowledged: VecDeque<Sent>,
    /// QoS 2 messages received and not released.
    received: BTreeSet<u16>,
    next_packet_id: u16,
    /// The version of its last connection.
    version: Option<Version>,
    /// The session that its memory is about.
    session: Option<SessionId>,
}

/// What a client acts with.
pub struct Stage<'a> {
    pub world: &'a mut World,
    pub auditor: &'a mut Auditor,
    pub swarm: &'a Swarm,
    pub random: &'a mut Random,
}

impl Client {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            connection: None,
            unacknowledged: VecDeque::new(),
            received: BTreeSet::new(),
            next_packet_id: 0,
            version: None,
            session: None,
        }
    }

    pub fn socket(&self) -> Option<SocketId> {
        self.connection.as_ref().map(|connection| connection.socket)
    }

    pub fn is_connected(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.connected)
    }

    pub fn is_stalled(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.stalled)
    }

    pub fn set_stalled(&mut self, stalled: bool) {
        if let Some(connection) = &mut self.connection {
            connection.stalled = stalled;
        }
    }

    /// Forgets its connection.
    pub fn drop_connection(&mut self) -> Option<SocketId> {
        self.connection.take().map(|connection| connection.socket)
    }

    /// Whether it has nothing to say by itself.
    pub fn is_settled(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            connection.connected && connection.owes.is_empty() && connection.inbox.is_empty()
        }) && self.unacknowledged.is_empty()
    }

    pub fn is_rude(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.rude)
    }

    /// Opens a connection on a socket that was just accepted.
    pub fn connect(&mut self, stage: &mut Stage<'_>, socket: SocketId, calm: Option<bool>) {
        let Stage { swarm, random, .. } = stage;
        let versions: Vec<Version> = [
            (Feature::V31, Version::V31),
            (Feature::V311, Version::V311),
            (Feature::V5, Version::V5),
        ]
        .into_iter()
        .filter_map(|(feature, version)| swarm.has(feature).then_some(version))
        .collect();
        let drawn = if versions.is_empty() {
            Version::V5
        } else {
            *random.pick(&versions)
        };
        // What it has to send again stays as it was.
        let version = self
            .version
            .filter(|_| !self.unacknowledged.is_empty())
            .unwrap_or(drawn);
        self.version = Some(version);
        let clean_start =
            calm.unwrap_or_else(|| !swarm.has(Feature::Sessions) || random.chance(25));
        // A session of 3.1.1 that is kept begins without Clean Session.
        let keeps =
            swarm.has(Feature::Sessions) && swarm.has(Feature::KeptSessions) && calm.is_none();
        let clean_start = clean_start && (version.is_v5() || !keeps);
        let mut properties = ConnectProperties::default();
        if version.is_v5() {
            if swarm.has(Feature::Sessions) && random.chance(90) {
                properties.session_expiry_s =
                    Some(*random.pick(&[0, 3, 20, 100, 10_000, u32::MAX]));
            }
            if calm == Some(false) || keeps {
                properties.session_expiry_s = Some(u32::MAX);
            }
            if calm == Some(true) {
                properties.session_expiry_s = None;
            }
            if swarm.has(Feature::ReceiveMaximum) && random.chance(70) {
                properties.receive_maximum = NonZeroU16::new(random.between(1, 5) as u16);
            }
            if swarm.has(Feature::PacketMaximum) && random.chance(50) {
                properties.packet_bytes_max = NonZeroU32::new(random.between(30, 160) as u32);
            }
            if swarm.has(Feature::Aliases) && random.chance(70) {
                properties.topic_alias_maximum = random.between(0, 4) as u16;
            }
            properties.request_problem_information = random.chance(80);
        }
        let keep_alive_s = if swarm.has(Feature::KeepAlive) && calm.is_none() && random.chance(60) {
            *random.pick(&[2, 10, 60])
        } else {
            0
        };
        let mut will = None;
        let will_topic;
        let will_payload;
        if swarm.has(Feature::Wills) && calm.is_none() && random.chance(60) {
            let mut message = new_message(
                swarm,
                random,
                self.number,
                stage.auditor.model.messages.len(),
            );
            message.is_will = true;
            message.user = None;
            if !version.is_v5() {
                message.expiry_s = None;
            }
            will_topic = message.topic.clone();
            will_payload = message.payload.clone();
            let delayed = version.is_v5() && swarm.has(Feature::WillDelay);
            will = Some(Will {
                qos: message.qos,
                retain: message.retain,
                topic: &will_topic,
                payload: &will_payload,
                delay_s: if delayed {
                    *random.pick(&[0, 1, 5, 30])
                } else {
                    0
                },
                message_expiry_s: message.expiry_s,
                forward: Forward::default(),
            });
            stage.auditor.model.messages.push(message);
        }
        let mut connection = Connection {
            socket,
            version,
            inbox: Vec::new(),
            connected: false,
            session_expiry_s: properties.session_expiry_s.unwrap_or(0),
            rude: false,
            stalled: false,
            keep_alive_s,
            last_sent_ms: stage.world.now.mono_ms,
            receive_maximum: 0,
            aliases: Vec::new(),
            owes: VecDeque::new(),
            subscribing: BTreeSet::new(),
        };
        let client_id = client_id(self.number);
        let connect = Connect {
            version,
            clean_start,
            keep_alive_s,
            client_id: &client_id,
            will,
            username: None,
            password: None,
            properties,
        };
        let mut bytes = Vec::new();
        connect.encode(&mut bytes);
        connection.send(stage.world, &bytes);
        self.connection = Some(connection);
        // What it remembers goes when CONNACK says so: this CONNECT may never arrive.
        let eager = clean_start && calm.is_none() && stage.swarm.has(Feature::EagerClients);
        if eager && stage.random.chance(50) {
            self.subscribe(stage);
        }
    }

    /// Reads `count` bytes from its socket.
    pub fn read(&mut self, stage: &mut Stage<'_>, count: usize) {
        let connection = self.connection.as_mut().expect("it has a socket");
        let down = &mut stage.world.sockets[connection.socket].down;
        connection.inbox.extend(down.drain(..count));
        let inbox = std::mem::take(&mut connection.inbox);
        let mut at = 0;
        while let Cut::Packet { header, body, len } =
            cut(&inbox[at..], usize::MAX).expect("the auditor has seen it")
        {
            self.packet(stage, header.packet_type, header.flags, body);
            at += len;
        }
        if let Some(connection) = &mut self.connection {
            connection.inbox = inbox[at..].to_vec();
        }
    }

    fn packet(&mut self, stage: &mut Stage<'_>, packet_type: PacketType, flags: u8, body: &[u8]) {
        let connection = self.connection.as_mut().expect("it has a socket");
        let (socket, version) = (connection.socket, connection.version);
        match packet_type {
            PacketType::Connack => {
                let connack = Connack::decode(version, body).expect("audited");
                if connack.reason != ReasonCode::Success {
                    return;
                }
                connection.connected = true;
                connection.receive_maximum = connack
                    .properties
                    .receive_maximum
                    .map_or(65_535, |max| max.get().into());
                let aliases = connack.properties.topic_alias_maximum.into();
                connection.aliases = vec![None; if version.is_v5() { aliases } else { 0 }];
                // Session Present does not say whether it is the session that the client remembers: a CONNECT whose
                // CONNACK was lost may have made a new one. Clients are told by the simulator.
                let session = stage.auditor.conns[socket].session;
                if std::mem::replace(&mut self.session, session) == session {
                    self.send_again(stage);
                } else {
                    self.unacknowledged.clear();
                    self.received.clear();
                }
            }
            PacketType::Publish => {
                let publish = Publish::decode_from_server(version, flags, body).expect("audited");
                let id = publish.packet_id.map_or(0, PacketId::get);
                match publish.qos {
                    QoS::AtMostOnce => stage.auditor.applied(socket, publish.payload),
                    QoS::AtLeastOnce => {
                        stage.auditor.applied(socket, publish.payload);
                        connection.owes.push_back((PacketType::Puback, id));
                    }
                    QoS::ExactlyOnce => {
                        if self.received.insert(id) {
                            stage.auditor.applied(socket, publish.payload);
                        }
                        connection.owes.push_back((PacketType::Pubrec, id));
                    }
                }
            }
            PacketType::Pubrel => {
                let ack = Ack::decode(version, packet_type, body).expect("audited");
                let id = ack.packet_id.get();
                self.received.remove(&id);
                connection.owes.push_back((PacketType::Pubcomp, id));
            }
            PacketType::Puback | PacketType::Pubcomp => {
                let ack = Ack::decode(version, packet_type, body).expect("audited");
                let id = ack.packet_id.get();
                self.unacknowledged.retain(|sent| sent.packet_id != id);
            }
            PacketType::Pubrec => {
                let ack = Ack::decode(version, packet_type, body).expect("audited");
                let id = ack.packet_id.get();
                if ack.reason as u8 >= 0x80 {
                    self.unacknowledged.retain(|sent| sent.packet_id != id);
                    return;
                }
                if let Some(sent) = self
                    .unacknowledged
                    .iter_mut()
                    .find(|sent| sent.packet_id == id)
                {
                    sent.released = true;
                }
                let mut bytes = Vec::new();
                put_ack(
                    &mut bytes,
                    version,
                    PacketType::Pubrel,
                    ack.packet_id,
                    ReasonCode::Success,
                );
                connection.send(stage.world, &bytes);
            }
            PacketType::Suback => {
                let suback = Suback::decode(version, body).expect("audited");
                connection.subscribing.remove(&suback.packet_id.get());
            }
            PacketType::Unsuback => {
                let unsuback = Unsuback::decode(version, body).expect("audited");
                connection.subscribing.remove(&unsuback.packet_id.get());
            }
            _ => {}
        }
    }

    /// What a client does when its session was resumed (MQTT 5 §4.4).
    fn send_again(&mut self, stage: &mut Stage<'_>) {
        let connection = self.connection.as_mut().expect("it is connected");
        for sent in &self.unacknowledged {
            let mut bytes = Vec::new();
            let packet_id = PacketId::new(sent.packet_id).expect("not 0");
            if sent.released {
                let version = connection.version;
                put_ack(
                    &mut bytes,
                    version,
                    PacketType::Pubrel,
                    packet_id,
                    ReasonCode::Success,
                );
            } else {
                let message = &stage.auditor.model.messages[sent.message];
                let how = How {
                    packet_id: Some(packet_id),
                    dup: true,
                    alias: None,
                    bare: false,
                };
                encode(connection.version, message, &how, &mut bytes);
                if message.payload.is_empty() {
                    stage.auditor.conns[connection.socket]
                        .empty_sent
                        .push_back(sent.message);
                }
            }
            connection.send(stage.world, &bytes);
        }
    }

    /// Sends one acknowledgement that it owes; false when there is none.
    pub fn acknowledge(&mut self, stage: &mut Stage<'_>) -> bool {
        let Some(connection) = self.connection.as_mut().filter(|it| !it.rude) else {
            return false;
        };
        let mut at = 0;
        if stage.swarm.has(Feature::AckDisorder) && !connection.owes.is_empty() {
            at = stage.random.below(connection.owes.len());
            // PUBCOMP never overtakes the PUBREC of the same message.
            let id = connection.owes[at].1;
            at = connection
                .owes
                .iter()
                .position(|owed| owed.1 == id)
                .expect("it is there");
        }
        let Some((packet_type, id)) = connection.owes.remove(at) else {
            return false;
        };
        let version = connection.version;
        let mut reason = ReasonCode::Success;
        let may_refuse = version.is_v5() && packet_type == PacketType::Pubrec;
        if may_refuse && stage.swarm.has(Feature::AckRefusal) && stage.random.chance(20) {
            reason = ReasonCode::QuotaExceeded;
            self.received.remove(&id);
        }
        let mut bytes = Vec::new();
        let id = PacketId::new(id).expect("not 0");
        put_ack(&mut bytes, version, packet_type, id, reason);
        connection.send(stage.world, &bytes);
        true
    }

    fn packet_id(&mut self) -> PacketId {
        loop {
            self.next_packet_id = self.next_packet_id % 200 + 1;
            let id = self.next_packet_id;
            let is_taken = self.unacknowledged.iter().any(|sent| sent.packet_id == id)
                || self
                    .connection
                    .as_ref()
                    .is_some_and(|it| it.subscribing.contains(&id));
            if !is_taken {
                return PacketId::new(id).expect("not 0");
            }
        }
    }

    pub fn publish(&mut self, stage: &mut Stage<'_>) {
        let Stage { swarm, random, .. } = stage;
        let number = stage.auditor.model.messages.len();
        let mut message = new_message(swarm, random, self.number, number);
        let connection = self.connection.as_ref().expect("it is connected");
        let version = connection.version;
        if !version.is_v5() {
            message.user = None;
            message.expiry_s = None;
        }
        if self.unacknowledged.len() >= connection.receive_maximum.min(100) {
            message.qos = QoS::AtMostOnce;
        }
        if message.retain && swarm.has(Feature::RetainedClear) && random.chance(30) {
            message.payload = Payload::default();
        }
        let mut how = How {
            packet_id: None,
            dup: false,
            alias: None,
            bare: false,
        };
        if message.qos != QoS::AtMostOnce {
            let id = self.packet_id();
            how.packet_id = Some(id);
            self.unacknowledged.push_back(Sent {
                packet_id: id.get(),
                message: number,
                released: false,
            });
        }
        let connection = self.connection.as_mut().expect("it is connected");
        if !connection.aliases.is_empty() && swarm.has(Feature::Aliases) && random.chance(70) {
            let at = random.below(connection.aliases.len());
            how.alias = NonZeroU16::new(at as u16 + 1);
            if connection.aliases[at].as_ref() == Some(&message.topic) && random.chance(80) {
                how.bare = true;
            } else {
                connection.aliases[at] = Some(message.topic.clone());
            }
        }
        let mut bytes = Vec::new();
        encode(version, &message, &how, &mut bytes);
        if message.payload.is_empty() {
            stage.auditor.conns[connection.socket]
                .empty_sent
                .push_back(number);
        }
        stage.auditor.model.messages.push(message);
        connection.send(stage.world, &bytes);
    }

    pub fn subscribe(&mut self, stage: &mut Stage<'_>) {
        let id = self.packet_id();
        let Stage { swarm, random, .. } = stage;
        let connection = self.connection.as_mut().expect("it is connected");
        let version = connection.version;
        let count = if random.chance(80) {
            1
        } else {
            random.between(2, 3)
        };
        let mut filters = Vec::new();
        for _ in 0..count {
            let mut text = filter(swarm, random);
            let mut qos = qos(swarm, random);
            if swarm.has(Feature::Crashes) && swarm.has(Feature::Shared) {
                // Of a message that a session got twice, nobody knows after a crash which had which QoS.
                qos = if swarm.has(Feature::Qos2) {
                    QoS::ExactlyOnce
                } else {
                    QoS::AtLeastOnce
                };
            }
            let mut options = SubscribeOptions {
                qos,
                ..SubscribeOptions::default()
            };
            let shared = swarm.has(Feature::Shared) && random.chance(swarm.shared_percent);
            if shared {
                text = format!("$share/{}/{text}", random.pick(&["g", "h"]));
            }
            if version.is_v5() {
                options.no_local = !shared && swarm.has(Feature::NoLocal) && random.chance(50);
                options.retain_as_published =
                    swarm.has(Feature::RetainAsPublished) && random.chance(50);
                if swarm.has(Feature::RetainHandling) {
                    options.retain_handling = *random.pick(&[
                        RetainHandling::SendAtSubscribe,
                        RetainHandling::SendIfNew,
                        RetainHandling::DoNotSend,
                    ]);
                }
            }
            filters.push((text, options));
        }
        let has_id = version.is_v5() && swarm.has(Feature::SubscriptionIds) && random.chance(60);
        let subscription_id = NonZeroU32::new(random.between(1, 3) as u32).filter(|_| has_id);
        let filters: Vec<_> = filters
            .iter()
            .map(|(text, options)| (text.as_str(), *options))
            .collect();
        let mut bytes = Vec::new();
        let user = UserProperties::default();
        Subscribe::encode(&mut bytes, version, id, subscription_id, &user, &filters);
        connection.subscribing.insert(id.get());
        connection.send(stage.world, &bytes);
    }

    pub fn unsubscribe(&mut self, stage: &mut Stage<'_>) {
        let id = self.packet_id();
        let Stage { swarm, random, .. } = stage;
        let connection = self.connection.as_mut().expect("it is connected");
        let mut text = filter(swarm, random);
        let socket = connection.socket;
        // Mostly one that it has.
        if random.chance(80)
            && let Some(session) = stage.auditor.conns[socket].session
        {
            let held = stage.auditor.model.subscriptions(session);
            if !held.is_empty() {
                text.clone_from(&random.pick(held).text);
            }
        }
        let mut bytes = Vec::new();
        let user = UserProperties::default();
        Unsubscribe::encode(&mut bytes, connection.version, id, &user, &[&text]);
        connection.subscribing.insert(id.get());
        connection.send(stage.world, &bytes);
    }

    pub fn ping(&mut self, stage: &mut Stage<'_>) {
        let mut bytes = Vec::new();
        put_pingreq(&mut bytes);
        self.connection
            .as_mut()
            .expect("it is connected")
            .send(stage.world, &bytes);
    }

    /// Pings when its Keep Alive asks for it.
    pub fn keep_alive(&mut self, stage: &mut Stage<'_>, passing_ms: u64) {
        let Some(connection) = self
            .connection
            .as_ref()
            .filter(|it| it.connected && !it.rude)
        else {
            return;
        };
        let silent_ms = stage.world.now.mono_ms + passing_ms - connection.last_sent_ms;
        if connection.keep_alive_s > 0 && silent_ms >= u64::from(connection.keep_alive_s) * 1_000 {
            self.ping(stage);
        }
    }

    /// DISCONNECT, and the end of the connection.
    pub fn disconnect(&mut self, stage: &mut Stage<'_>, calm: bool) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let mut bytes = vec![0xe0, 0];
        if connection.version.is_v5() && !calm && stage.random.chance(50) {
            // With the Will.
            bytes = vec![0xe0, 1, 4];
        }
        let may_change = connection.version.is_v5() && connection.session_expiry_s > 0;
        if may_change && !calm && stage.random.chance(30) {
            let seconds: u32 = *stage.random.pick(&[0, 5, 1_000, u32::MAX]);
            bytes = vec![0xe0, 7, 0, 5, 0x11];
            bytes.extend(seconds.to_be_bytes());
        }
        connection.send(stage.world, &bytes);
        stage.world.sockets[connection.socket].fin = true;
    }

    /// Sends what no client may send; nothing follows.
    pub fn be_rude(&mut self, stage: &mut Stage<'_>) {
        let connection = self.connection.as_mut().expect("it is connected");
        let kinds: &[&[u8]] = &[
            // Packet type 0.
            &[0x00, 0x00],
            // PUBLISH with QoS 3.
            &[0x36, 5, 0, 1, b'a', 0, 1],
            // A Topic Name with a wildcard.
            &[0x30, 4, 0, 1, b'#', 0],
            // A second CONNECT.
            &[0x10, 0],
            // SUBSCRIBE without a filter.
            &[0x82, 2, 0, 1],
            // A Remaining Length of five bytes.
            &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
            // PUBLISH with Packet Identifier 0.
            &[0x32, 6, 0, 1, b'a', 0, 0, 0],
            // CONNACK from a client.
            &[0x20, 2, 0, 0],
            // PINGREQ with a body.
            &[0xc0, 1, 0],
        ];
        let bytes = stage.random.pick(kinds).to_vec();
        let sent = connection.send(stage.world, &bytes);
        connection.rude = true;
        stage.auditor.conns[connection.socket].rude_at = Some(sent);
    }

    pub fn is_subscribing(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|it| it.subscribing.len() > 4)
    }
}

impl Connection {
    /// Returns how many bytes it had sent before.
    fn send(&mut self, world: &mut World, bytes: &[u8]) -> u64 {
        self.last_sent_ms = world.now.mono_ms;
        let socket = &mut world.sockets[self.socket];
        let before = socket.sent_up;
        if !socket.reset && !self.rude {
            socket.up.extend(bytes);
            socket.sent_up += bytes.len() as u64;
        }
        before
    }
}

/// How a message is sent.
struct How {
    packet_id: Option<PacketId>,
    dup: bool,
    alias: Option<NonZeroU16>,
    /// The alias stands for the topic.
    bare: bool,
}

fn encode(version: Version, message: &Message, how: &How, out: &mut Vec<u8>) {
    let mut raw = Vec::new();
    if let Some(user) = message.user.as_ref().filter(|_| version.is_v5()) {
        Property::UserProperty("u", user).put(&mut raw);
    }
    let publish = Publish {
        dup: how.dup,
        qos: message.qos,
        retain: message.retain,
        topic: if how.bare { "" } else { &message.topic },
        packet_id: how.packet_id,
        properties: PublishProperties {
            topic_alias: how.alias,
            message_expiry_s: message.expiry_s.filter(|_| version.is_v5()),
            forward: Forward::from_raw(&raw).expect("a User Property"),
            ..PublishProperties::default()
        },
        payload: &message.payload,
    };
    publish.encode(version, out);
}

pub fn client_id(number: usize) -> String {
    format!("c{number}")
}

fn qos(swarm: &Swarm, random: &mut Random) -> QoS {
    let drawn = if swarm.avoids_qos_0 {
        random.between(1, 2)
    } else {
        random.below(3)
    };
    match drawn {
        2 if swarm.has(Feature::Qos2) => QoS::ExactlyOnce,
        1 | 2 if swarm.has(Feature::Qos1) => QoS::AtLeastOnce,
        _ => QoS::AtMostOnce,
    }
}

fn topic(swarm: &Swarm, random: &mut Random) -> String {
    loop {
        let depth = random.between(1, swarm.depth_max);
        let levels: Vec<&str> = (0..depth).map(|_| *random.pick(&swarm.levels)).collect();
        let topic = levels.join("/");
        if !topic.is_empty() {
            return topic;
        }
    }
}

fn filter(swarm: &Swarm, random: &mut Random) -> String {
    let topic = topic(swarm, random);
    if !swarm.has(Feature::Wildcards) || random.chance(30) {
        return topic;
    }
    let mut levels: Vec<&str> = topic.split('/').collect();
    for level in &mut levels {
        if random.chance(40) {
            *level = "+";
        }
    }
    if random.chance(40) {
        if random.chance(50) {
            levels.pop();
        }
        levels.push("#");
    }
    levels.join("/")
}

/// A new message; its payload begins with its number.
fn new_message(swarm: &Swarm, random: &mut Random, publisher: usize, number: usize) -> Message {
    let length = if swarm.has(Feature::BigPayloads) && random.chance(20) {
        random.between(100, 6_000)
    } else {
        random.between(0, 20)
    };
    let mut payload = (number as u32).to_le_bytes().to_vec();
    payload.extend((0..length).map(|at| (number + at) as u8));
    let expiry_s = *random.pick(&[1, 2, 10, 60]);
    let may_expire = swarm.has(Feature::MessageExpiry) && random.chance(40);
    let user = random.chance(30).then(|| format!("v{number}"));
    Message {
        publisher,
        topic: topic(swarm, random),
        payload: Payload(payload),
        qos: qos(swarm, random),
        retain: swarm.has(Feature::Retained) && random.chance(40),
        expiry_s: may_expire.then_some(expiry_s),
        user,
        is_will: false,
        routings: Vec::new(),
    }
}

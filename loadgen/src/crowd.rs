//! Clients that go through steps together: all connect, one publishes, all leave.
//!
//! A [`Crowd`] runs on one thread. What it is told to do is done by [`play_until`], which works until a condition
//! holds or nothing moves any more.

use crate::clock::Clock;
use crate::links::{Handler, Links, Reactor, Route};
use crate::payload::{Header, Payloads};
use crate::play::{Player, play_until};
use crate::track::{Arrival, Track};
use crate::wire::{Credentials, SessionKind, put_connect, put_subscribe};
use crate::worker::disconnect;
use ringmq::protocol::frame::FixedHeader;
use ringmq::protocol::{
    Ack, Connack, Disconnect, PacketId, PacketType, Publish, PublishProperties, QoS, ReasonCode,
    Suback, put_ack,
};
use std::ops::Range;

/// Clients that are connecting at a time; see the worker.
const CONNECTING_MAX: usize = 64;
/// Bytes the publisher has ready to be written before it waits.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Packet Identifiers that the publisher goes round; far more than are in flight.
const IDS: u64 = 60_000;

/// Clients on one thread, and the ring that drives them.
pub struct Crowd {
    reactor: Reactor,
    links: Links,
    members: Members,
    clock: Clock,
}

/// What a message is published with.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The client that publishes; it must be ready.
    pub publisher: u32,
    /// The number of the first message.
    pub first: u64,
    /// How many messages.
    pub count: u64,
    /// QoS 1 or 2.
    pub qos: QoS,
    /// Whether the broker is to keep them.
    pub retain: bool,
    /// What the topic begins with.
    pub topic: String,
    /// Whether each message has a topic of its own: the message's number after the beginning.
    pub numbered: bool,
    /// Whether there is a payload; a retained message without one is removed.
    pub has_payload: bool,
    /// Messages whose handshake is not done, at most.
    pub in_flight_max: u64,
}

/// A client's place in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Away,
    Connecting,
    AwaitsConnack,
    AwaitsSuback,
    Ready,
    Leaving,
}

struct Member {
    client_id: String,
    stage: Stage,
    session: SessionKind,
    filter: Option<String>,
    /// Subscriptions beside that one whose SUBACK has not come.
    subscribing: u64,
    track: Track,
}

struct Members {
    credentials: Credentials,
    clock: Clock,
    payloads: Payloads,
    qos: QoS,
    all: Vec<Member>,
    to_connect: Vec<u32>,
    connecting: usize,
    campaign: Option<Campaign>,
    published: u64,
    acknowledged: u64,
    /// Acknowledgements still owed to campaigns that were given up.
    overdue: u64,
    refused: u64,
    received: u64,
    duplicates: u64,
    reordered: u64,
    corrupt: u64,
    sessions_present: u64,
    /// The topic and the payload of the message that is being published.
    topic: String,
    payload: Vec<u8>,
    packets: u64,
    last_arrival_ns: u64,
}

/// What came of the messages so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Publications whose handshake is done.
    pub acknowledged: u64,
    /// Publications that the broker refused.
    pub refused: u64,
    /// Messages received, duplicates not counted.
    pub received: u64,
    /// Messages received again.
    pub duplicates: u64,
    /// Messages received after a later one.
    pub reordered: u64,
    /// Messages that were not as they were sent.
    pub corrupt: u64,
    /// Connections at which the broker still had the session.
    pub sessions_present: u64,
    /// When the last message arrived, in ns of the clock.
    pub last_arrival_ns: u64,
}

impl Crowd {
    /// `client_ids.len()` clients, none of them connected.
    ///
    /// Errors: there is no ring to be had.
    pub fn new(
        route: Route,
        credentials: Credentials,
        clock: Clock,
        client_ids: Vec<String>,
        qos: QoS,
        payload_bytes: usize,
    ) -> Result<Self, String> {
        let mut links = Links::default();
        let member = |client_id| {
            links.add();
            Member {
                client_id,
                stage: Stage::Away,
                session: SessionKind::Clean,
                filter: None,
                subscribing: 0,
                track: Track::default(),
            }
        };
        let all = client_ids.into_iter().map(member).collect();
        let members = Members {
            credentials,
            clock,
            payloads: Payloads::new(payload_bytes),
            qos,
            all,
            to_connect: Vec::new(),
            connecting: 0,
            campaign: None,
            published: 0,
            acknowledged: 0,
            overdue: 0,
            refused: 0,
            received: 0,
            duplicates: 0,
            reordered: 0,
            corrupt: 0,
            sessions_present: 0,
            topic: String::new(),
            payload: Vec::new(),
            packets: 0,
            last_arrival_ns: 0,
        };
        Ok(Self {
            reactor: Reactor::new(route, clock, None, 0)?,
            links,
            members,
            clock,
        })
    }

    /// Connects clients, which then subscribe to `filter` if there is one, and waits until all are ready.
    ///
    /// Errors: not all of them came so far, or something broke.
    pub fn connect(
        &mut self,
        clients: Range<u32>,
        session: SessionKind,
        filter: Option<&str>,
    ) -> Result<(), String> {
        for client in clients.clone().rev() {
            let member = &mut self.members.all[client as usize];
            assert!(member.stage == Stage::Away, "only who is away can come");
            member.session = session;
            member.filter = filter.map(str::to_owned);
            self.members.to_connect.push(client);
        }
        let ready = move |members: &Members| members.are(&clients, Stage::Ready);
        if self.until(ready)? {
            Ok(())
        } else {
            Err("not all clients could connect".into())
        }
    }

    /// Lets clients subscribe to each of these filters with a SUBSCRIBE of its own, and waits until all are granted.
    /// Returns whether they were.
    ///
    /// Errors: something broke.
    pub fn subscribe(
        &mut self,
        clients: Range<u32>,
        filters: impl Iterator<Item = String> + Clone,
    ) -> Result<bool, String> {
        let members = &mut self.members;
        for client in clients.clone() {
            let member = &mut members.all[client as usize];
            for (index, filter) in filters.clone().enumerate() {
                let id = PacketId::new((index as u64 % IDS) as u16 + 1);
                let id = id.expect("identifiers begin with 1");
                let out = self.links.out(client);
                put_subscribe(out, members.credentials.version, id, &filter, members.qos);
                member.subscribing += 1;
            }
        }
        self.until(move |members| {
            let mut all = clients.clone();
            all.all(|client| members.all[client as usize].subscribing == 0)
        })
    }

    /// Stops reading clients for good.
    pub fn pause(&mut self, clients: Range<u32>) {
        clients.for_each(|client| self.links.pause(client));
    }

    /// Disconnects clients and waits until the broker has closed their connections.
    ///
    /// Errors: it did not, or something broke.
    pub fn leave(&mut self, clients: Range<u32>) -> Result<(), String> {
        let bytes = disconnect(self.members.credentials.version);
        for client in clients.clone() {
            self.members.all[client as usize].stage = Stage::Leaving;
            self.links.out(client).extend_from_slice(&bytes);
        }
        let gone = move |members: &Members| members.are(&clients, Stage::Away);
        if self.until(gone)? {
            Ok(())
        } else {
            Err("the broker did not close a connection after DISCONNECT".into())
        }
    }

    /// Publishes, and waits until all is acknowledged. Returns whether it was.
    ///
    /// Errors: something broke.
    pub fn publish(&mut self, campaign: Campaign) -> Result<bool, String> {
        let count = campaign.count;
        let members = &mut self.members;
        members.campaign = Some(campaign);
        members.overdue += members.published - members.acknowledged;
        (members.published, members.acknowledged) = (0, 0);
        let done = self.until(move |members| members.acknowledged == count)?;
        self.members.campaign = None;
        Ok(done)
    }

    /// Waits until `count` messages have been received in all. Returns whether they were.
    ///
    /// Errors: something broke.
    pub fn receive(&mut self, count: u64) -> Result<bool, String> {
        self.until(move |members| members.received >= count)
    }

    /// What came of the messages so far.
    pub fn tally(&self) -> Tally {
        let members = &self.members;
        Tally {
            acknowledged: members.acknowledged,
            refused: members.refused,
            received: members.received,
            duplicates: members.duplicates,
            reordered: members.reordered,
            corrupt: members.corrupt,
            sessions_present: members.sessions_present,
            last_arrival_ns: members.last_arrival_ns,
        }
    }

    /// Messages of `sent` that each of the clients lacks, in all.
    pub fn lost(&self, clients: Range<u32>, sent: u64) -> u64 {
        clients
            .map(|client| self.members.all[client as usize].track.lost(sent))
            .sum()
    }

    fn until(&mut self, done: impl Fn(&Members) -> bool) -> Result<bool, String> {
        let (links, members) = (&mut self.links, &mut self.members);
        play_until(&mut self.reactor, links, members, self.clock, done)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.links
            .close_all(&disconnect(self.members.credentials.version));
    }
}

impl Player for Members {
    fn events(&self) -> u64 {
        self.packets
    }

    fn work(&mut self, links: &mut Links) {
        while self.connecting < CONNECTING_MAX
            && let Some(client) = self.to_connect.pop()
        {
            self.all[client as usize].stage = Stage::Connecting;
            self.connecting += 1;
            links.connect(client);
        }
        let Some(campaign) = &self.campaign else {
            return;
        };
        while self.published < campaign.count
            && self.published - self.acknowledged < campaign.in_flight_max
            && links.out_bytes(campaign.publisher) < OUT_BYTES_MAX
            && !links.is_full(campaign.publisher)
        {
            use std::fmt::Write;
            self.topic.clear();
            self.topic.push_str(&campaign.topic);
            if campaign.numbered {
                // Writing to a string cannot fail.
                let _ = write!(self.topic, "{}", campaign.first + self.published);
            }
            self.payload.clear();
            if campaign.has_payload {
                let intended_ns = self.clock.now_ns();
                let header = Header {
                    publisher: 0,
                    sequence: campaign.first + self.published,
                    intended_ns,
                };
                self.payloads.put(&header, &mut self.payload);
            }
            Publish {
                dup: false,
                qos: campaign.qos,
                retain: campaign.retain,
                topic: &self.topic,
                packet_id: PacketId::new((self.published % IDS) as u16 + 1),
                properties: PublishProperties::default(),
                payload: &self.payload,
            }
            .encode(self.credentials.version, links.out(campaign.publisher));
            self.published += 1;
        }
    }
}

impl Members {
    fn are(&self, clients: &Range<u32>, stage: Stage) -> bool {
        clients
            .clone()
            .all(|client| self.all[client as usize].stage == stage)
    }

    fn on_publish(
        &mut self,
        links: &mut Links,
        link: u32,
        flags: u8,
        body: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        let version = self.credentials.version;
        let publish =
            Publish::decode_from_server(version, flags, body).map_err(|error| error.to_string())?;
        let answer = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(PacketType::Puback),
            QoS::ExactlyOnce => Some(PacketType::Pubrec),
        };
        if let (Some(answer), Some(id)) = (answer, publish.packet_id) {
            put_ack(links.out(link), version, answer, id, ReasonCode::Success);
        }
        let Some(header) = self.payloads.check(publish.payload) else {
            self.corrupt += 1;
            return Ok(());
        };
        match self.all[link as usize].track.see(header.sequence) {
            Arrival::Fresh => {}
            Arrival::Late => self.reordered += 1,
            Arrival::Duplicate => {
                self.duplicates += 1;
                return Ok(());
            }
        }
        self.received += 1;
        self.last_arrival_ns = now_ns;
        Ok(())
    }

    fn on_ack(
        &mut self,
        links: &mut Links,
        link: u32,
        packet_type: PacketType,
        body: &[u8],
    ) -> Result<(), String> {
        let version = self.credentials.version;
        let ack = Ack::decode(version, packet_type, body).map_err(|error| error.to_string())?;
        let id = ack.packet_id;
        match packet_type {
            PacketType::Pubrel => {
                put_ack(
                    links.out(link),
                    version,
                    PacketType::Pubcomp,
                    id,
                    ReasonCode::Success,
                );
            }
            PacketType::Pubrec if !ack.reason.is_failure() => {
                put_ack(
                    links.out(link),
                    version,
                    PacketType::Pubrel,
                    id,
                    ReasonCode::Success,
                );
            }
            _ if self.overdue > 0 => self.overdue -= 1,
            _ if self.acknowledged < self.published => {
                self.refused += u64::from(ack.reason.is_failure());
                self.acknowledged += 1;
            }
            _ => {
                return Err(format!(
                    "{} for a message that was not sent",
                    packet_type.name()
                ));
            }
        }
        Ok(())
    }
}

impl Handler for Members {
    fn on_connected(&mut self, links: &mut Links, link: u32) -> Result<(), String> {
        let member = &mut self.all[link as usize];
        member.stage = Stage::AwaitsConnack;
        put_connect(
            links.out(link),
            &self.credentials,
            &member.client_id,
            member.session,
            0,
        );
        Ok(())
    }

    fn on_packet(
        &mut self,
        links: &mut Links,
        link: u32,
        header: FixedHeader,
        body: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        self.packets += 1;
        let version = self.credentials.version;
        let member = &mut self.all[link as usize];
        match (header.packet_type, member.stage) {
            (PacketType::Publish, _) => self.on_publish(links, link, header.flags, body, now_ns),
            (
                packet_type @ (PacketType::Puback
                | PacketType::Pubrec
                | PacketType::Pubrel
                | PacketType::Pubcomp),
                _,
            ) => self.on_ack(links, link, packet_type, body),
            (PacketType::Connack, Stage::AwaitsConnack) => {
                let connack = Connack::decode(version, body).map_err(|error| error.to_string())?;
                if connack.reason.is_failure() {
                    return Err(format!("the broker refused: {}", connack.reason.name()));
                }
                self.connecting -= 1;
                self.sessions_present += u64::from(connack.session_present);
                match &member.filter {
                    Some(filter) => {
                        member.stage = Stage::AwaitsSuback;
                        put_subscribe(links.out(link), version, PacketId::MIN, filter, self.qos);
                    }
                    None => member.stage = Stage::Ready,
                }
                Ok(())
            }
            (PacketType::Suback, Stage::AwaitsSuback | Stage::Ready) => {
                let suback = Suback::decode(version, body).map_err(|error| error.to_string())?;
                if suback.codes != [self.qos as u8] {
                    return Err(format!("SUBACK with {:?}", suback.codes));
                }
                if member.stage == Stage::Ready {
                    let left = member.subscribing.checked_sub(1);
                    member.subscribing = left.ok_or("SUBACK without a SUBSCRIBE")?;
                }
                member.stage = Stage::Ready;
                Ok(())
            }
            (PacketType::Disconnect, _) => {
                let packet =
                    Disconnect::decode(version, body).map_err(|error| error.to_string())?;
                Err(format!(
                    "the broker sent DISCONNECT: {}",
                    packet.reason.name()
                ))
            }
            (packet_type, _) => Err(format!("{} is not expected here", packet_type.name())),
        }
    }

    fn on_flushed(&mut self, _: &mut Links, _: u32) {}

    fn on_closed(&mut self, links: &mut Links, link: u32, why: &str) -> Result<(), String> {
        self.packets += 1;
        let member = &mut self.all[link as usize];
        if member.stage != Stage::Leaving {
            return Err(format!("client {}: {why}", member.client_id));
        }
        member.stage = Stage::Away;
        links.close(link);
        Ok(())
    }
}

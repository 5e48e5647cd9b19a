//! Very many clients, each with a session and a topic of its own, and messages to some of them and to all.
//!
//! While the crowd grows, a probe goes to a client that is there already, many times a second: what the broker does
//! for the others' sake, such as making a table larger, is in its latency. When all are there, a random sample of
//! them gets a message each, then everybody does. All messages are due on a schedule (open loop).
//!
//! At the end there may be broadcasts: a message that everybody has subscribed to, again when all have had it. What they do to
//! others is in the latency of the probes that go on meanwhile.

use crate::cli::Inbox as Args;
use crate::clock::Clock;
use crate::growth::{Growth, Row};
use crate::leader::Sample;
use crate::links::{Handler, Links, Reactor};
use crate::payload::{Header, Payloads};
use crate::play::{Player, play_until};
use crate::preflight;
use crate::report::{Broker, Generator, Percentiles, Step, Summary};
use crate::run::{judge, resolve_route, save};
use crate::schedule::{Profile, Schedule};
use crate::steps::{generator, since, step, summary};
use crate::timeline::Trouble;
use crate::track::{Arrival, Track};
use crate::wire::{Credentials, SessionKind, put_connect, put_subscribe};
use crate::worker::{disconnect, histogram};
use hdrhistogram::Histogram;
use ringmq::protocol::frame::FixedHeader;
use ringmq::protocol::{
    Ack, Connack, PacketId, PacketType, Publish, PublishProperties, QoS, ReasonCode, Suback,
    put_ack,
};
use std::fmt;

/// Bytes the publisher has ready to be written before it waits.
const OUT_BYTES_MAX: usize = 64 << 10;
/// QoS 1: publications that are not acknowledged; by far fewer than there are Packet Identifiers.
const IN_FLIGHT_MAX: u64 = 10_000;
/// Packet Identifiers that the publisher goes round.
const IDS: u64 = 60_000;

/// Runs it.
///
/// Errors: in plain words, why there is no result.
pub fn run(args: &Args) -> Result<Summary, String> {
    let target = &args.target;
    let clock = Clock::start();
    let route = resolve_route(target)?;
    preflight::check(&preflight::Needs {
        connections: u64::from(args.count) + 1,
        cores: 1,
        route: &route,
    })?;
    let mut crowd = Crowd {
        reactor: Reactor::new(route, clock, None, 0)?,
        links: Links::default(),
        clients: Clients::new(args, clock)?,
        clock,
    };
    for _ in 0..=args.count {
        crowd.links.add();
    }
    crowd.publisher_connects()?;
    let start = Sample::take(target, clock)?;
    let clients = &mut crowd.clients;
    clients.growth.write(&mut clients.row, start.at_ns);
    let count = u64::from(args.count);
    let mut steps = Vec::new();

    crowd.clients.begin("connect", Aim::Random, args.probe_rate);
    crowd.clients.next = 0;
    if !crowd.until(|clients| clients.ready.len() as u64 == count)? {
        let ready = crowd.clients.ready.len();
        return Err(format!("only {ready} of {count} clients could connect"));
    }
    let mut last = crowd.end()?;
    let connected = Sample::take(target, clock)?;
    let connect = step("connect", &start, &connected, count, target).until(&start, last.at_ns);
    let connects_per_s = connect.per_s;
    steps.push(connect);
    if args.probe_rate > 0.0 {
        steps.push(Step {
            cpu_ns_each: None,
            rss_bytes_each: None,
            latency_us: last.latency_us,
            ..step("probe", &start, &connected, last.received, target).until(&start, last.at_ns)
        });
    }

    let sample = crowd.clients.sample(args.sample.min(args.count));
    for (name, aim, rate) in [
        ("sample", Aim::These(sample), args.rate),
        ("all", Aim::All, args.all_rate),
    ] {
        let first = Sample::take(target, clock)?;
        crowd.clients.begin(name, aim, rate);
        crowd.until(Clients::is_published)?;
        last = crowd.end()?;
        let after = Sample::take(target, clock)?;
        steps.push(Step {
            rss_bytes_each: None,
            latency_us: last.latency_us,
            ..step(name, &first, &after, last.received, target).until(&first, last.at_ns)
        });
    }
    if args.broadcasts > 0 {
        crowd.broadcasts(args, &mut steps)?;
    }
    let end = Sample::take(target, clock)?;
    let (clients, links) = (&mut crowd.clients, &mut crowd.links);
    clients.growth.write(&mut clients.row, end.at_ns);
    let lost = clients.lost();
    let seconds = (end.at_ns - start.at_ns) as f64 / 1e9;
    let mut summary = Summary {
        qos: args.qos,
        payload_bytes: args.size,
        connections: clients.ready.len() as u64,
        publishers: 1,
        connects_per_s,
        connect_us: Percentiles::of(&clients.connect),
        measured_s: seconds,
        published: clients.published,
        published_per_s: clients.published as f64 / seconds,
        expected: clients.expected,
        delivered: clients.expected - lost,
        delivered_per_s: steps.last().map_or(0.0, |last| last.per_s),
        lost,
        duplicates: clients.trouble.duplicates,
        reordered: clients.trouble.reordered,
        order_promised: true,
        corrupt: clients.trouble.corrupt,
        refused: clients.trouble.refused,
        held_back: clients.trouble.held_back,
        unacknowledged: clients.in_flight(),
        latency_kind: "response time".into(),
        latency_us: Percentiles::of(clients.growth.timeline.latency()),
        broker: target.broker_pid.map(|_| Broker {
            cpu_ns: end.broker.cpu_ns.saturating_sub(start.broker.cpu_ns),
            interval_ns: end.at_ns - start.at_ns,
            rss_before_bytes: start.broker.rss_bytes,
            rss_after_bytes: connected.broker.rss_bytes,
            rss_bytes_per_connection: steps[0].rss_bytes_each,
            user_percent: start.broker.user_percent_until(&end.broker),
            ..Broker::default()
        }),
        generator: Generator {
            send_lag_us: Percentiles::of(clients.growth.timeline.send_lag()),
            ..generator(&start, &end)
        },
        steps,
        ..summary("inbox", target)?
    };
    judge(&mut summary, args.verify, &target.assertions);
    if args.verify && lost > 0 && args.qos == 0 {
        // Nothing forbids a broker to lose QoS 0; but nobody here is slow, so that it has no reason to.
        summary
            .violations
            .push(format!("{lost} deliveries were lost"));
    }
    let saved = save(
        target,
        &summary,
        &clients.growth.timeline,
        since(start.at_ns),
    );
    links.close_all(&disconnect(clients.credentials.version));
    saved.map(|()| summary)
}

/// The clients, and the ring that drives them.
struct Crowd {
    reactor: Reactor,
    links: Links,
    clients: Clients,
    clock: Clock,
}

/// Messages that have arrived.
struct Heard {
    count: u64,
    latency: Histogram<u64>,
}

/// What came of the messages of a step.
struct Ended {
    received: u64,
    latency_us: Option<Percentiles>,
    /// When the last of it happened.
    at_ns: u64,
}

/// Who gets the messages of a step.
enum Aim {
    /// Somebody who is there, at random, until the step is over.
    Random,
    /// These, one each.
    These(Vec<u32>),
    /// Everybody, one each.
    All,
}

/// The messages of a step.
struct Campaign {
    aim: Aim,
    /// None publishes nothing.
    schedule: Option<Schedule>,
    published: u64,
    /// Messages before this one were late because the broker took no more.
    held_back: u64,
    heard: Heard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Away,
    Connecting,
    AwaitsConnack,
    AwaitsSuback,
    Ready,
    /// Ready, and about to have the subscription for broadcasts, too.
    SubscribesToAll,
}

/// What the clients do one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Connect,
    SubscribeToAll,
}

/// A client: what it has heard, and what was sent to it.
struct Member {
    stage: Stage,
    sent: u32,
    /// When it began to connect.
    began_ns: u64,
    track: Track,
}

/// The clients; the last one is the publisher.
struct Clients {
    clock: Clock,
    credentials: Credentials,
    prefix: String,
    session: SessionKind,
    keep_alive_s: u16,
    qos: QoS,
    at_once: usize,
    payloads: Payloads,
    members: Vec<Member>,
    turn: Turn,
    /// Whose turn is next.
    next: u32,
    /// How many have begun theirs and are not done.
    under_way: usize,
    ready: Vec<u32>,
    campaign: Campaign,
    /// Who has subscribed to broadcasts, in the order of the clients; nobody before all are asked to.
    to_all: Vec<Track>,
    broadcasts: u64,
    broadcast: Heard,
    /// The state of the generator of random numbers.
    random: u64,
    published: u64,
    /// Deliveries that are to come of what was published.
    expected: u64,
    received: u64,
    acknowledged: u64,
    trouble: Trouble,
    connect: Histogram<u64>,
    growth: Growth,
    /// What happened since the last row was written.
    row: Row,
    events: u64,
    last_event_ns: u64,
    topic: String,
    payload: Vec<u8>,
}

impl Crowd {
    fn publisher_connects(&mut self) -> Result<(), String> {
        let publisher = self.clients.publisher();
        self.clients.members[publisher as usize].stage = Stage::Connecting;
        self.links.connect(publisher);
        if self.until(|clients| clients.members[publisher as usize].stage == Stage::Ready)? {
            Ok(())
        } else {
            Err("the publisher could not connect".into())
        }
    }

    /// Waits for what is still to come of a step, and tells what came of it.
    fn end(&mut self) -> Result<Ended, String> {
        if matches!(self.clients.campaign.aim, Aim::Random) {
            self.clients.campaign.schedule = None;
        }
        let last_ns = self.clients.last_event_ns;
        self.until(|clients| clients.received >= clients.expected && clients.in_flight() == 0)?;
        let clients = &self.clients;
        // What a step of messages takes ends with the last of them, but connecting ended before its last probe.
        let at_ns = if matches!(clients.campaign.aim, Aim::Random) {
            last_ns
        } else {
            clients.last_event_ns
        };
        Ok(Ended {
            received: clients.campaign.heard.count,
            latency_us: Percentiles::of(&clients.campaign.heard.latency),
            at_ns,
        })
    }

    /// Everybody subscribes to one topic more, and gets messages of it, each when all have had the one before it.
    fn broadcasts(&mut self, args: &Args, steps: &mut Vec<Step>) -> Result<(), String> {
        let target = &args.target;
        let count = u64::from(args.count);
        let before = Sample::take(target, self.clock)?;
        self.clients.begin("subscribe", Aim::Random, 0.0);
        self.clients.all_subscribe();
        if !self.until(|clients| clients.next == clients.publisher() && clients.under_way == 0)? {
            return Err("not all clients could subscribe to broadcasts".into());
        }
        let last_ns = self.clients.last_event_ns;
        let subscribed = Sample::take(target, self.clock)?;
        steps.push(step("subscribe", &before, &subscribed, count, target).until(&before, last_ns));

        self.clients
            .begin("broadcast", Aim::Random, args.probe_rate);
        for _ in 0..args.broadcasts {
            self.clients.broadcast(&mut self.links);
            let heard = self.clients.broadcasts * count;
            if !self.until(|clients| clients.broadcast.count >= heard)? {
                // What is missing is lost, and told of at the end.
                break;
            }
        }
        let beside = self.end()?;
        let after = Sample::take(target, self.clock)?;
        let broadcast = &self.clients.broadcast;
        for (name, count, latency_us) in [
            ("beside", beside.received, beside.latency_us),
            (
                "broadcast",
                broadcast.count,
                Percentiles::of(&broadcast.latency),
            ),
        ] {
            if count == 0 {
                continue;
            }
            let cpu_is_its_own = name == "broadcast";
            let step =
                step(name, &subscribed, &after, count, target).until(&subscribed, beside.at_ns);
            steps.push(Step {
                cpu_ns_each: step.cpu_ns_each.filter(|_| cpu_is_its_own),
                rss_bytes_each: None,
                latency_us,
                ..step
            });
        }
        Ok(())
    }

    fn until(&mut self, done: impl Fn(&Clients) -> bool) -> Result<bool, String> {
        let (links, clients) = (&mut self.links, &mut self.clients);
        play_until(&mut self.reactor, links, clients, self.clock, done)
    }
}

impl Player for Clients {
    fn events(&self) -> u64 {
        self.events
    }

    fn work(&mut self, links: &mut Links) {
        let now_ns = self.clock.now_ns();
        self.growth.look(&mut self.row, now_ns);
        self.start(links, now_ns);
        self.publish(links, now_ns);
    }

    fn due_ns(&self) -> u64 {
        let campaign = &self.campaign;
        match &campaign.schedule {
            Some(schedule) if campaign.published < campaign.count(self.publisher()) => {
                schedule.at_ns(campaign.published)
            }
            _ => u64::MAX,
        }
    }

    /// Where all of the machine is busy a broker may be silent for seconds.
    fn quiet_ns(&self) -> u64 {
        20_000_000_000
    }
}

impl Clients {
    fn new(args: &Args, clock: Clock) -> Result<Self, String> {
        let member = || Member {
            stage: Stage::Away,
            sent: 0,
            began_ns: 0,
            track: Track::default(),
        };
        Ok(Self {
            clock,
            credentials: args.target.credentials(),
            prefix: args.target.prefix(),
            session: if args.keep_sessions {
                SessionKind::Kept
            } else {
                SessionKind::Clean
            },
            keep_alive_s: args.keepalive,
            qos: QoS::from_bits(args.qos).ok_or("the QoS is 0 or 1")?,
            at_once: args.at_once as usize,
            payloads: Payloads::new(args.size as usize),
            members: (0..=args.count).map(|_| member()).collect(),
            turn: Turn::Connect,
            // Nobody's turn yet.
            next: args.count,
            under_way: 0,
            ready: Vec::with_capacity(args.count as usize),
            campaign: Campaign::new(Aim::All, 0.0, 0),
            to_all: Vec::new(),
            broadcasts: 0,
            broadcast: Heard::nothing(),
            random: u64::from(args.count),
            published: 0,
            expected: 0,
            received: 0,
            acknowledged: 0,
            trouble: Trouble::default(),
            connect: histogram(),
            growth: Growth::new(&args.target, args.count, clock.now_ns())?,
            row: Row::new("start"),
            events: 0,
            last_event_ns: 0,
            topic: String::new(),
            payload: Vec::new(),
        })
    }

    fn publisher(&self) -> u32 {
        self.members.len() as u32 - 1
    }

    fn begin(&mut self, name: &'static str, aim: Aim, rate: f64) {
        self.campaign = Campaign::new(aim, rate, self.clock.now_ns());
        self.row.step = name;
    }

    /// Whether each message of the step is written.
    fn is_published(&self) -> bool {
        self.campaign.published == self.campaign.count(self.publisher())
    }

    /// Publications that are not acknowledged.
    fn in_flight(&self) -> u64 {
        match self.qos {
            QoS::AtMostOnce => 0,
            _ => self.published - self.acknowledged,
        }
    }

    fn lost(&self) -> u64 {
        let lost = |member: &Member| member.track.lost(member.sent.into());
        let of_broadcasts = self.to_all.iter().map(|track| track.lost(self.broadcasts));
        self.members.iter().map(lost).chain(of_broadcasts).sum()
    }

    /// A number below `below`, which is above 0 (splitmix64; the same ones in each run).
    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ mixed >> 31) % below as u64) as usize
    }

    /// `size` different clients.
    fn sample(&mut self, size: u32) -> Vec<u32> {
        let mut all = self.ready.clone();
        for at in 0..size as usize {
            let other = at + self.random(all.len() - at);
            all.swap(at, other);
        }
        all.truncate(size as usize);
        all
    }

    /// From now on they subscribe to broadcasts, one after the other.
    fn all_subscribe(&mut self) {
        self.to_all = vec![Track::default(); self.publisher() as usize];
        self.turn = Turn::SubscribeToAll;
        self.next = 0;
    }

    /// Lets those connect, or subscribe to broadcasts, whose turn it is.
    fn start(&mut self, links: &mut Links, now_ns: u64) {
        while self.next < self.publisher() && self.under_way < self.at_once {
            let member = &mut self.members[self.next as usize];
            match self.turn {
                Turn::Connect => {
                    member.stage = Stage::Connecting;
                    member.began_ns = now_ns;
                    links.connect(self.next);
                }
                Turn::SubscribeToAll => {
                    member.stage = Stage::SubscribesToAll;
                    let (out, version) = (links.out(self.next), self.credentials.version);
                    let filter = format!("{}/all", self.prefix);
                    put_subscribe(out, version, PacketId::MIN, &filter, self.qos);
                }
            }
            self.under_way += 1;
            self.next += 1;
        }
    }

    /// Writes the messages that are due, as far as the broker takes them.
    fn publish(&mut self, links: &mut Links, now_ns: u64) {
        let publisher = self.publisher();
        while self.due_ns() <= now_ns {
            if links.is_full(publisher)
                || links.out_bytes(publisher) >= OUT_BYTES_MAX
                || self.in_flight() >= IN_FLIGHT_MAX
            {
                let schedule = self.campaign.schedule.as_ref();
                self.campaign.held_back = schedule.map_or(0, |schedule| schedule.due(now_ns));
                return;
            }
            let intended_ns = self.due_ns();
            let client = match &self.campaign.aim {
                Aim::All => self.campaign.published as u32,
                Aim::These(clients) => clients[self.campaign.published as usize],
                Aim::Random if self.ready.is_empty() => {
                    self.campaign.published += 1;
                    continue;
                }
                Aim::Random => {
                    let at = self.random(self.ready.len());
                    self.ready[at]
                }
            };
            if self.campaign.published < self.campaign.held_back {
                self.trouble.held_back += 1;
                self.row.interval.trouble.held_back += 1;
            } else {
                let lag = &mut self.row.interval.send_lag;
                lag.saturating_record(now_ns - intended_ns);
            }
            self.put(links, client, intended_ns);
        }
    }

    fn put(&mut self, links: &mut Links, client: u32, intended_ns: u64) {
        let member = &mut self.members[client as usize];
        let header = Header {
            publisher: client,
            sequence: member.sent.into(),
            intended_ns,
        };
        member.sent += 1;
        self.expected += 1;
        self.campaign.published += 1;
        self.encode(links, format_args!("{client}"), &header);
    }

    /// Publishes a message that everybody has subscribed to.
    fn broadcast(&mut self, links: &mut Links) {
        let header = Header {
            publisher: self.publisher(),
            sequence: self.broadcasts,
            intended_ns: self.clock.now_ns(),
        };
        self.broadcasts += 1;
        self.expected += self.to_all.len() as u64;
        self.encode(links, format_args!("all"), &header);
    }

    fn encode(&mut self, links: &mut Links, last_level: fmt::Arguments<'_>, header: &Header) {
        use fmt::Write;
        self.topic.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.topic, "{}/{last_level}", self.prefix);
        self.payload.clear();
        self.payloads.put(header, &mut self.payload);
        Publish {
            dup: false,
            qos: self.qos,
            retain: false,
            topic: &self.topic,
            packet_id: match self.qos {
                QoS::AtMostOnce => None,
                _ => PacketId::new((self.published % IDS) as u16 + 1),
            },
            properties: PublishProperties::default(),
            payload: &self.payload,
        }
        .encode(self.credentials.version, links.out(self.publisher()));
        self.published += 1;
        self.row.interval.published += 1;
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
        if let Some(id) = publish.packet_id {
            let out = links.out(link);
            put_ack(out, version, PacketType::Puback, id, ReasonCode::Success);
        }
        let publisher = self.publisher();
        let trouble = &mut self.trouble;
        let in_second = &mut self.row.interval.trouble;
        let header = self.payloads.check(publish.payload);
        let (header, track, heard) = match header {
            Some(header) if header.publisher == link => {
                let track = &mut self.members[link as usize].track;
                (header, track, &mut self.campaign.heard)
            }
            Some(header) if header.publisher == publisher && !self.to_all.is_empty() => {
                (header, &mut self.to_all[link as usize], &mut self.broadcast)
            }
            _ => {
                trouble.corrupt += 1;
                in_second.corrupt += 1;
                return Ok(());
            }
        };
        match track.see(header.sequence) {
            Arrival::Fresh => {}
            Arrival::Late => {
                trouble.reordered += 1;
                in_second.reordered += 1;
            }
            Arrival::Duplicate => {
                trouble.duplicates += 1;
                in_second.duplicates += 1;
                return Ok(());
            }
        }
        self.received += 1;
        let latency_ns = now_ns.saturating_sub(header.intended_ns);
        heard.count += 1;
        heard.latency.saturating_record(latency_ns);
        let interval = &mut self.row.interval;
        interval.delivered += 1;
        if header.publisher == link {
            // How long everybody takes to have a broadcast is nothing that a second could tell.
            interval.latency.saturating_record(latency_ns);
        }
        Ok(())
    }

    fn name(&self, link: u32) -> String {
        if link == self.publisher() {
            format!("{}-p", self.prefix)
        } else {
            format!("{}-c{link}", self.prefix)
        }
    }
}

impl Campaign {
    /// Messages at `rate` a second from `start_ns` on; a rate of 0 is none.
    fn new(aim: Aim, rate: f64, start_ns: u64) -> Self {
        Self {
            aim,
            schedule: (rate > 0.0).then(|| Profile::constant(rate).schedule(start_ns, 1.0, 0.0)),
            published: 0,
            held_back: 0,
            heard: Heard::nothing(),
        }
    }

    fn count(&self, everybody: u32) -> u64 {
        match &self.aim {
            Aim::Random => u64::MAX,
            Aim::These(clients) => clients.len() as u64,
            Aim::All => everybody.into(),
        }
    }
}

impl Heard {
    fn nothing() -> Self {
        Self {
            count: 0,
            latency: histogram(),
        }
    }
}

impl Handler for Clients {
    fn on_connected(&mut self, links: &mut Links, link: u32) -> Result<(), String> {
        self.members[link as usize].stage = Stage::AwaitsConnack;
        let session = if link == self.publisher() {
            SessionKind::Clean
        } else {
            self.session
        };
        let name = self.name(link);
        let out = links.out(link);
        put_connect(out, &self.credentials, &name, session, self.keep_alive_s);
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
        self.events += 1;
        self.last_event_ns = now_ns;
        let version = self.credentials.version;
        match (header.packet_type, self.members[link as usize].stage) {
            (PacketType::Connack, Stage::AwaitsConnack) => {
                let connack = Connack::decode(version, body).map_err(|error| error.to_string())?;
                if connack.reason.is_failure() {
                    let who = self.name(link);
                    return Err(format!("{who}: refused: {}", connack.reason.name()));
                }
                let publisher = self.publisher();
                let member = &mut self.members[link as usize];
                if link == publisher {
                    member.stage = Stage::Ready;
                    return Ok(());
                }
                member.stage = Stage::AwaitsSuback;
                let connect_ns = now_ns.saturating_sub(member.began_ns);
                self.connect.saturating_record(connect_ns);
                self.row.connect.saturating_record(connect_ns);
                let filter = format!("{}/{link}", self.prefix);
                put_subscribe(links.out(link), version, PacketId::MIN, &filter, self.qos);
                Ok(())
            }
            (PacketType::Suback, stage @ (Stage::AwaitsSuback | Stage::SubscribesToAll)) => {
                let suback = Suback::decode(version, body).map_err(|error| error.to_string())?;
                if suback.codes != [self.qos as u8] {
                    return Err(format!("SUBACK with {:?}", suback.codes));
                }
                self.members[link as usize].stage = Stage::Ready;
                self.under_way -= 1;
                if stage == Stage::AwaitsSuback {
                    self.ready.push(link);
                    self.row.connected = self.ready.len() as u64;
                }
                Ok(())
            }
            (PacketType::Publish, Stage::Ready) if link != self.publisher() => {
                self.on_publish(links, link, header.flags, body, now_ns)
            }
            (PacketType::Puback, Stage::Ready) if link == self.publisher() => {
                let ack = Ack::decode(version, PacketType::Puback, body);
                let ack = ack.map_err(|error| error.to_string())?;
                self.trouble.refused += u64::from(ack.reason.is_failure());
                self.acknowledged += 1;
                Ok(())
            }
            (packet_type, _) => Err(format!("{} is not expected here", packet_type.name())),
        }
    }

    /// Who is idle keeps no memory for writing.
    fn on_flushed(&mut self, links: &mut Links, link: u32) {
        if link != self.publisher() && self.members[link as usize].stage == Stage::Ready {
            links.release(link);
        }
    }

    fn on_closed(&mut self, _: &mut Links, link: u32, why: &str) -> Result<(), String> {
        let stage = match self.members[link as usize].stage {
            Stage::Away | Stage::Connecting => "connecting",
            Stage::AwaitsConnack => "waiting for CONNACK",
            Stage::AwaitsSuback | Stage::SubscribesToAll => "waiting for SUBACK",
            Stage::Ready => "in use",
        };
        Err(format!("client {} ({stage}): {why}", self.name(link)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Verb, parse};

    fn clients(words: &str) -> Clients {
        let words = words.split(' ');
        let Verb::Inbox(args) = parse(words).unwrap().verb else {
            panic!("another verb")
        };
        Clients::new(&args, Clock::start()).unwrap()
    }

    fn links_of(clients: &Clients) -> Links {
        let mut links = Links::default();
        for _ in &clients.members {
            links.add();
        }
        links
    }

    #[test]
    fn a_sample_names_nobody_twice() {
        let mut clients = clients("loadgen inbox -c 1000");
        clients.ready = (0..1_000).collect();
        let mut some = clients.sample(300);
        let other = clients.sample(300);
        assert_ne!(some, other);
        some.sort_unstable();
        some.dedup();
        assert_eq!(some.len(), 300);
        let mut all = clients.sample(1_000);
        all.sort_unstable();
        assert_eq!(all, clients.ready);
    }

    #[test]
    fn messages_are_written_when_they_are_due_and_once_to_each() {
        let mut clients = clients("loadgen inbox -c 10");
        let mut links = links_of(&clients);
        clients.ready = (0..10).collect();
        clients.campaign = Campaign::new(Aim::All, 1_000.0, 0);
        clients.publish(&mut links, 3_500_000);
        assert_eq!(clients.published, 4);
        assert!(!clients.is_published());
        assert_eq!(clients.due_ns(), 4_000_000);
        clients.publish(&mut links, 1_000_000_000);
        assert!(clients.is_published());
        assert_eq!(clients.due_ns(), u64::MAX);
        assert!(clients.members[..10].iter().all(|one| one.sent == 1));
        assert_eq!(clients.lost(), 10, "nothing has arrived");
        assert_eq!(clients.row.interval.send_lag.len(), 10);
    }

    #[test]
    fn a_message_for_somebody_else_counts_as_corrupt() {
        let mut clients = clients("loadgen inbox -c 2 -s 20");
        let mut links = Links::default();
        let header = Header {
            publisher: 1,
            sequence: 0,
            intended_ns: 5,
        };
        let mut payload = Vec::new();
        clients.payloads.put(&header, &mut payload);
        let mut packet = vec![0, 1, b't'];
        packet.extend_from_slice(&payload);
        for link in [0, 1, 1] {
            clients.on_publish(&mut links, link, 0, &packet, 9).unwrap();
        }
        assert_eq!(clients.received, 1);
        assert_eq!(
            (clients.trouble.corrupt, clients.trouble.duplicates),
            (1, 1)
        );
    }

    #[test]
    fn a_broadcast_is_expected_of_everybody_once_they_have_subscribed() {
        let mut clients = clients("loadgen inbox -c 2 -s 20 --probe-rate 0");
        let mut links = links_of(&clients);
        let header = Header {
            publisher: clients.publisher(),
            sequence: 0,
            intended_ns: 5,
        };
        let mut packet = vec![0, 1, b't'];
        clients.payloads.put(&header, &mut packet);
        clients.on_publish(&mut links, 0, 0, &packet, 9).unwrap();
        assert_eq!(clients.trouble.corrupt, 1, "nobody has subscribed to it");
        clients.all_subscribe();
        clients.start(&mut links, 6);
        assert_eq!((clients.next, clients.under_way), (2, 2));
        clients.broadcast(&mut links);
        assert_eq!((clients.published, clients.expected), (1, 2));
        for link in [0, 0, 1] {
            clients.on_publish(&mut links, link, 0, &packet, 9).unwrap();
        }
        assert_eq!((clients.broadcast.count, clients.received), (2, 2));
        assert_eq!((clients.trouble.duplicates, clients.lost()), (1, 0));
        clients.broadcast(&mut links);
        assert_eq!(clients.lost(), 2, "the second has not arrived");
        assert_eq!(clients.campaign.heard.count, 0, "it is no message to one");
    }
}

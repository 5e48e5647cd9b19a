//! Clients that all come at once, after all were cut off: a power cut, or the birth storm that follows it.
//!
//! All times count from the moment at which the power is back and every client is due, so what a client waits for its
//! turn is in them.

use crate::cli::Storm as Args;
use crate::clock::Clock;
use crate::leader::Sample;
use crate::links::{Handler, Links, Reactor, Route};
use crate::payload::{Header, Payloads};
use crate::play::{Player, play_until};
use crate::preflight;
use crate::report::{Broker, Percentiles, Summary};
use crate::run::{judge, resolve_route, save};
use crate::steps::{generator, since, step, summary};
use crate::timeline::Timeline;
use crate::track::{Arrival, Track};
use crate::wire::{Credentials, SessionKind, put_connect, put_subscribe};
use crate::worker::{Interval, disconnect, histogram};
use hdrhistogram::Histogram;
use ringmq::protocol::frame::FixedHeader;
use ringmq::protocol::{Connack, PacketId, PacketType, Publish, PublishProperties, QoS, Suback};

/// Keep Alive, in seconds; the storm is over before.
const KEEP_ALIVE_S: u16 = 300;

/// Runs it.
///
/// Errors: in plain words, why there is no result.
pub fn run(args: &Args) -> Result<Summary, String> {
    let target = &args.target;
    let clock = Clock::start();
    let route = resolve_route(target)?;
    let lives = if args.half_open { 2 } else { 1 };
    preflight::check(&preflight::Needs {
        connections: u64::from(args.count) * lives + 1,
        cores: 1,
        route: &route,
    })?;
    let mut crowd = Crowd::new(args, clock, route)?;
    let start = Sample::take(target, clock)?;
    crowd.host_connects()?;
    crowd.first_life()?;
    let connected = Sample::take(target, clock)?;
    crowd.cut();
    let cut = Sample::take(target, clock)?;
    crowd.second_life(cut.at_ns)?;
    let back = Sample::take(target, clock)?;
    let clients = &crowd.clients;
    let ended_ns = clients.last_event_ns.max(cut.at_ns);
    let expected = u64::from(args.count) * u64::from(args.births);
    let lost: u64 = clients
        .tracks
        .iter()
        .map(|track| track.lost(args.births.into()))
        .sum();
    let mut steps = vec![
        step("connect", &start, &connected, u64::from(args.count), target),
        step("storm", &cut, &back, clients.back, target).until(&cut, ended_ns),
    ];
    if args.births > 0 {
        let births = step("births", &cut, &back, clients.received, target);
        steps.push(births.until(&cut, ended_ns));
    }
    let seconds = steps[1].seconds;
    let mut summary = Summary {
        payload_bytes: args.size,
        connections: clients.back,
        publishers: if args.births > 0 {
            args.count.into()
        } else {
            0
        },
        connects_per_s: clients.back as f64 / seconds,
        connect_us: Percentiles::of(&clients.connect),
        measured_s: seconds,
        published: clients.published,
        expected,
        delivered: expected - lost,
        delivered_per_s: clients.received as f64 / seconds,
        lost,
        duplicates: clients.duplicates,
        reordered: clients.reordered,
        order_promised: true,
        corrupt: clients.corrupt,
        unsent: u64::from(args.count) - clients.back,
        sessions_missing: if args.keep_sessions {
            clients.back - clients.sessions_present
        } else {
            0
        },
        latency_kind: "since the power is back".into(),
        latency_us: Percentiles::of(&clients.latency),
        broker: target.broker_pid.map(|_| Broker {
            cpu_ns: back.broker.cpu_ns.saturating_sub(cut.broker.cpu_ns),
            interval_ns: back.at_ns - cut.at_ns,
            rss_before_bytes: start.broker.rss_bytes,
            rss_after_bytes: back.broker.rss_bytes,
            user_percent: cut.broker.user_percent_until(&back.broker),
            ..Broker::default()
        }),
        steps,
        generator: generator(&cut, &back),
        ..summary("storm", target)?
    };
    judge(&mut summary, args.verify, &target.assertions);
    let mut timeline = Timeline::default();
    timeline.add(&Interval {
        latency: crowd.clients.latency.clone(),
        ..Interval::of(0)
    });
    crowd.leave();
    save(target, &summary, &timeline, since(cut.at_ns))?;
    Ok(summary)
}

/// The clients, and the ring that drives them.
struct Crowd {
    reactor: Reactor,
    links: Links,
    clients: Clients,
    clock: Clock,
    half_open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Away,
    Connecting,
    AwaitsConnack,
    AwaitsSuback,
    Ready,
    /// Its power is gone; what its connection still says is not heard.
    Cut,
}

/// Each client has two links, one for each life; then comes the host application's.
struct Clients {
    clock: Clock,
    credentials: Credentials,
    prefix: String,
    count: u32,
    births: u32,
    session: SessionKind,
    at_once: usize,
    payloads: Payloads,
    stages: Vec<Stage>,
    next: u32,
    connecting: usize,
    ready: u64,
    /// The moment from which times count.
    zero_ns: u64,
    tracks: Vec<Track>,
    connect: Histogram<u64>,
    latency: Histogram<u64>,
    back: u64,
    sessions_present: u64,
    published: u64,
    received: u64,
    duplicates: u64,
    reordered: u64,
    corrupt: u64,
    events: u64,
    last_event_ns: u64,
}

impl Crowd {
    fn new(args: &Args, clock: Clock, route: Route) -> Result<Self, String> {
        let mut links = Links::default();
        let links_count = 2 * args.count as usize + 1;
        for _ in 0..links_count {
            links.add();
        }
        let births = if args.births > 0 { args.count } else { 0 };
        Ok(Self {
            reactor: Reactor::new(route, clock, None, 0)?,
            links,
            clients: Clients {
                clock,
                credentials: args.target.credentials(),
                prefix: args.target.prefix(),
                count: args.count,
                births: args.births,
                session: if args.keep_sessions {
                    SessionKind::Kept
                } else {
                    SessionKind::Clean
                },
                at_once: args.at_once as usize,
                payloads: Payloads::new(args.size as usize),
                stages: vec![Stage::Away; links_count],
                // Nobody's turn yet.
                next: args.count,
                connecting: 0,
                ready: 0,
                zero_ns: 0,
                tracks: vec![Track::default(); births as usize],
                connect: histogram(),
                latency: histogram(),
                back: 0,
                sessions_present: 0,
                published: 0,
                received: 0,
                duplicates: 0,
                reordered: 0,
                corrupt: 0,
                events: 0,
                last_event_ns: 0,
            },
            clock,
            half_open: args.half_open,
        })
    }

    fn host_connects(&mut self) -> Result<(), String> {
        if self.clients.births == 0 {
            return Ok(());
        }
        let host = self.clients.host();
        self.clients.stages[host as usize] = Stage::Connecting;
        self.clients.connecting += 1;
        self.links.connect(host);
        self.until(|clients| clients.stages[host as usize] == Stage::Ready)
            .and_then(|came| {
                came.then_some(())
                    .ok_or_else(|| "the host application could not subscribe".into())
            })
    }

    fn first_life(&mut self) -> Result<(), String> {
        let count = self.clients.count;
        (self.clients.next, self.clients.ready) = (0, 0);
        if self.until(|clients| clients.ready == u64::from(count))? {
            Ok(())
        } else {
            Err("not all clients could connect".into())
        }
    }

    fn cut(&mut self) {
        for client in 0..self.clients.count {
            self.clients.stages[client as usize] = Stage::Cut;
            if self.half_open {
                self.links.pause(client);
            } else {
                self.links.close(client);
            }
        }
    }

    fn second_life(&mut self, zero_ns: u64) -> Result<(), String> {
        let clients = &mut self.clients;
        (clients.next, clients.ready, clients.zero_ns) = (clients.count, 0, zero_ns);
        let (count, births) = (u64::from(clients.count), u64::from(clients.births));
        self.until(|clients| clients.back == count && clients.received >= count * births)?;
        Ok(())
    }

    fn until(&mut self, done: impl Fn(&Clients) -> bool) -> Result<bool, String> {
        let (links, clients) = (&mut self.links, &mut self.clients);
        play_until(&mut self.reactor, links, clients, self.clock, done)
    }

    fn leave(mut self) {
        let bytes = disconnect(self.clients.credentials.version);
        self.links.close_all(&bytes);
    }
}

impl Player for Clients {
    fn events(&self) -> u64 {
        self.events
    }

    /// Lets those connect whose turn it is.
    fn work(&mut self, links: &mut Links) {
        let end = if self.zero_ns == 0 {
            self.count
        } else {
            2 * self.count
        };
        while self.next < end && self.connecting < self.at_once {
            self.stages[self.next as usize] = Stage::Connecting;
            links.connect(self.next);
            self.connecting += 1;
            self.next += 1;
        }
    }
}

impl Clients {
    fn host(&self) -> u32 {
        2 * self.count
    }

    fn is_ready(&mut self, links: &mut Links, link: u32, now_ns: u64) {
        self.stages[link as usize] = Stage::Ready;
        self.connecting -= 1;
        if link == self.host() {
            return;
        }
        self.ready += 1;
        if link < self.count {
            links.release(link);
            return;
        }
        self.back += 1;
        self.last_event_ns = now_ns;
        self.connect.saturating_record(now_ns - self.zero_ns);
        let client = link - self.count;
        let mut payload = Vec::new();
        for sequence in 0..u64::from(self.births) {
            payload.clear();
            let header = Header {
                publisher: client,
                sequence,
                intended_ns: self.zero_ns,
            };
            self.payloads.put(&header, &mut payload);
            Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: false,
                topic: &format!("{}/{client}/birth/{sequence}", self.prefix),
                packet_id: None,
                properties: PublishProperties::default(),
                payload: &payload,
            }
            .encode(self.credentials.version, links.out(link));
            self.published += 1;
        }
    }

    fn on_birth(&mut self, payload: &[u8], now_ns: u64) {
        let checked = self.payloads.check(payload);
        let track = checked.and_then(|header| self.tracks.get_mut(header.publisher as usize));
        let (Some(header), Some(track)) = (checked, track) else {
            self.corrupt += 1;
            return;
        };
        match track.see(header.sequence) {
            Arrival::Fresh => {}
            Arrival::Late => self.reordered += 1,
            Arrival::Duplicate => {
                self.duplicates += 1;
                return;
            }
        }
        self.received += 1;
        self.last_event_ns = now_ns;
        self.latency.saturating_record(now_ns - self.zero_ns);
    }
}

impl Handler for Clients {
    fn on_connected(&mut self, links: &mut Links, link: u32) -> Result<(), String> {
        self.events += 1;
        self.stages[link as usize] = Stage::AwaitsConnack;
        let (id, session) = if link == self.host() {
            (format!("{}-host", self.prefix), SessionKind::Clean)
        } else {
            let client = link % self.count;
            (format!("{}-c{client}", self.prefix), self.session)
        };
        put_connect(
            links.out(link),
            &self.credentials,
            &id,
            session,
            KEEP_ALIVE_S,
        );
        Ok(())
    }

    fn on_packet(
        &mut self,
        links: &mut Links,
        link: u32,
        header: FixedHeader,
        body: &[u8],
        _: u64,
    ) -> Result<(), String> {
        self.events += 1;
        let version = self.credentials.version;
        let now_ns = self.clock.now_ns();
        match (header.packet_type, self.stages[link as usize]) {
            (PacketType::Connack, Stage::AwaitsConnack) => {
                let connack = Connack::decode(version, body).map_err(|error| error.to_string())?;
                if connack.reason.is_failure() {
                    return Err(format!("the broker refused: {}", connack.reason.name()));
                }
                if link == self.host() {
                    self.stages[link as usize] = Stage::AwaitsSuback;
                    let filter = format!("{}/+/birth/+", self.prefix);
                    put_subscribe(
                        links.out(link),
                        version,
                        PacketId::MIN,
                        &filter,
                        QoS::AtMostOnce,
                    );
                    return Ok(());
                }
                let is_second = link >= self.count;
                self.sessions_present += u64::from(is_second && connack.session_present);
                self.is_ready(links, link, now_ns);
                Ok(())
            }
            (PacketType::Suback, Stage::AwaitsSuback) => {
                let suback = Suback::decode(version, body).map_err(|error| error.to_string())?;
                if suback.codes != [0] {
                    return Err(format!("SUBACK with {:?}", suback.codes));
                }
                self.is_ready(links, link, now_ns);
                Ok(())
            }
            (PacketType::Publish, Stage::Ready) if link == self.host() => {
                let publish = Publish::decode_from_server(version, header.flags, body)
                    .map_err(|error| error.to_string())?;
                self.on_birth(publish.payload, now_ns);
                Ok(())
            }
            (_, Stage::Cut) => Ok(()),
            (packet_type, _) => Err(format!("{} is not expected here", packet_type.name())),
        }
    }

    fn on_flushed(&mut self, _: &mut Links, _: u32) {}

    fn on_closed(&mut self, links: &mut Links, link: u32, why: &str) -> Result<(), String> {
        self.events += 1;
        if self.stages[link as usize] == Stage::Cut {
            links.close(link);
            return Ok(());
        }
        let who = if link == self.host() {
            "the host application".to_owned()
        } else {
            format!("client {}-c{}", self.prefix, link % self.count)
        };
        Err(format!("{who}: {why}"))
    }
}

//! Clients that come and go: connect, subscribe, publish to themselves, receive it, leave.
//!
//! A cycle ends when the broker has closed the connection, which it must after DISCONNECT; so what the broker
//! does to take a client apart is part of what is measured.

use crate::clock::Clock;
use crate::links::{Handler, Links, Reactor, Route};
use crate::pace::Pace;
use crate::payload::{Header, Payloads};
use crate::wire::{Credentials, SessionKind, put_connect, put_subscribe};
use crate::worker::{Interval, Times, disconnect, histogram};
use hdrhistogram::Histogram;
use ringmq::protocol::frame::FixedHeader;
use ringmq::protocol::{
    Connack, PacketId, PacketType, Publish, PublishProperties, QoS, ReasonCode, Suback, put_ack,
};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// What all clients do.
#[derive(Clone, Debug)]
pub struct Churn {
    /// Where the broker is.
    pub route: Route,
    /// Who connects.
    pub credentials: Credentials,
    /// Clients that go through their cycles at the same time.
    pub clients: u32,
    /// What Client Identifiers and topics begin with.
    pub prefix: String,
    /// Whether sessions outlive their connections.
    pub session: SessionKind,
    /// Cycles per second on an absolute schedule; `None` begins a cycle whenever a client is free.
    pub rate: Option<f64>,
    /// Bytes of a payload.
    pub payload_bytes: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Cycles that ended in the measured interval.
    pub cycles: u64,
    /// From the start of connecting to CONNACK, in ns, of the same.
    pub connect: Histogram<u64>,
    /// All cycles.
    pub total: u64,
    /// Cycles that were due and did not begin.
    pub not_begun: u64,
    /// Messages that were not as they were sent.
    pub corrupt: u64,
}

/// Runs until the end of `times`, then lets the cycles that have begun come to theirs; `at_edge` is called when
/// the measured interval begins and when it ends. Each second is told to `intervals`: its latencies are from when a
/// cycle was due (with a rate) or begun to its end, of those due or begun in the measured interval.
///
/// Errors: in plain words, what broke.
pub fn run(
    churn: &Churn,
    clock: Clock,
    times: Times,
    mut at_edge: impl FnMut() -> Result<(), String>,
    intervals: Sender<Interval>,
) -> Result<Outcome, String> {
    let mut reactor = Reactor::new(churn.route.clone(), clock, None, 0)?;
    let mut links = Links::default();
    let mut clients = Clients::new(churn, clock, times, intervals);
    for _ in 0..churn.clients {
        links.add();
    }
    let mut edges = [times.measure_ns, times.stop_ns].into_iter().peekable();
    loop {
        reactor.receive(&mut links, &mut clients)?;
        let now_ns = clock.now_ns();
        while edges.next_if(|edge| now_ns >= *edge).is_some() {
            at_edge()?;
        }
        clients.end_interval(times.second(now_ns));
        clients.begin(&mut links, now_ns);
        reactor.flush(&mut links, &mut clients)?;
        if now_ns >= times.stop_ns && clients.free.len() == churn.clients as usize {
            break;
        }
        if now_ns > times.stop_ns + 10_000_000_000 {
            return Err("cycles did not end within 10 s".into());
        }
        if !reactor.has_work()? {
            reactor.wait(Duration::from_nanos(clients.wait_ns(clock.now_ns())))?;
        }
    }
    Ok(clients.into_outcome())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Free,
    Connecting,
    AwaitsConnack,
    AwaitsSuback,
    /// Waits for its own message and for the acknowledgement of it.
    AwaitsBoth,
    AwaitsOne,
    Leaving,
}

struct Client {
    stage: Stage,
    client_id: String,
    topic: String,
    due_ns: u64,
    begun_ns: u64,
    cycle: u64,
}

struct Clients<'a> {
    churn: &'a Churn,
    clock: Clock,
    times: Times,
    pace: Option<Pace>,
    payloads: Payloads,
    all: Vec<Client>,
    free: Vec<u32>,
    interval: Interval,
    intervals: Sender<Interval>,
    outcome: Outcome,
}

impl<'a> Clients<'a> {
    fn new(churn: &'a Churn, clock: Clock, times: Times, intervals: Sender<Interval>) -> Self {
        let client = |number| Client {
            stage: Stage::Free,
            client_id: format!("{}-c{number}", churn.prefix),
            topic: format!("{}/{number}", churn.prefix),
            due_ns: 0,
            begun_ns: 0,
            cycle: 0,
        };
        Self {
            churn,
            clock,
            times,
            pace: churn.rate.map(|rate| Pace::new(times.start_ns, rate, 0.0)),
            payloads: Payloads::new(churn.payload_bytes),
            all: (0..churn.clients).map(client).collect(),
            free: (0..churn.clients).rev().collect(),
            interval: Interval::new(times.second(times.start_ns)),
            intervals,
            outcome: Outcome {
                cycles: 0,
                connect: histogram(),
                total: 0,
                not_begun: 0,
                corrupt: 0,
            },
        }
    }

    fn begin(&mut self, links: &mut Links, now_ns: u64) {
        if now_ns < self.times.start_ns {
            return;
        }
        let until_ns = now_ns.min(self.times.stop_ns - 1);
        loop {
            let due_ns = match self.pace {
                Some(pace) if self.outcome.total < pace.due(until_ns) => {
                    pace.at_ns(self.outcome.total)
                }
                None if now_ns < self.times.stop_ns => now_ns,
                _ => return,
            };
            let Some(link) = self.free.pop() else { return };
            let client = &mut self.all[link as usize];
            client.stage = Stage::Connecting;
            client.due_ns = due_ns;
            client.begun_ns = now_ns;
            client.cycle = self.outcome.total;
            self.outcome.total += 1;
            links.connect(link);
        }
    }

    fn wait_ns(&self, now_ns: u64) -> u64 {
        let edges = [
            self.times.start_ns,
            self.times.measure_ns,
            self.times.stop_ns,
        ];
        let next = edges.into_iter().filter(|edge| *edge > now_ns).min();
        let next = next.unwrap_or(now_ns + 100_000_000);
        let due = self
            .pace
            .map_or(u64::MAX, |pace| pace.at_ns(self.outcome.total));
        let due = if self.free.is_empty() {
            u64::MAX
        } else {
            due.max(now_ns)
        };
        next.min(due) - now_ns
    }

    fn publish(&mut self, links: &mut Links, link: u32) {
        let client = &mut self.all[link as usize];
        client.stage = Stage::AwaitsBoth;
        let header = Header {
            publisher: link,
            sequence: client.cycle,
            intended_ns: client.due_ns,
        };
        let mut payload = Vec::with_capacity(self.payloads.size());
        self.payloads.put(&header, &mut payload);
        Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: &client.topic,
            packet_id: Some(PacketId::MIN),
            properties: PublishProperties::default(),
            payload: &payload,
        }
        .encode(self.churn.credentials.version, links.out(link));
        self.interval.published += 1;
    }

    /// One of the two things that a client waits for has happened.
    fn advance(&mut self, links: &mut Links, link: u32) -> Result<(), String> {
        let client = &mut self.all[link as usize];
        client.stage = match client.stage {
            Stage::AwaitsBoth => Stage::AwaitsOne,
            Stage::AwaitsOne => {
                let bytes = disconnect(self.churn.credentials.version);
                links.out(link).extend_from_slice(&bytes);
                Stage::Leaving
            }
            _ => return Err("a message or an acknowledgement came too early or twice".into()),
        };
        Ok(())
    }

    /// Tells of the interval if another one has begun.
    fn end_interval(&mut self, second: i64) {
        if second > self.interval.second {
            let interval = std::mem::replace(&mut self.interval, Interval::new(second));
            // Nobody may want them.
            let _ = self.intervals.send(interval);
        }
    }

    fn into_outcome(mut self) -> Outcome {
        self.end_interval(i64::MAX);
        if let Some(pace) = self.pace {
            let due = pace.due(self.times.stop_ns - 1);
            self.outcome.not_begun = due.saturating_sub(self.outcome.total);
        }
        self.outcome
    }
}

impl Handler for Clients<'_> {
    fn on_connected(&mut self, links: &mut Links, link: u32) -> Result<(), String> {
        let client = &mut self.all[link as usize];
        client.stage = Stage::AwaitsConnack;
        let churn = self.churn;
        put_connect(
            links.out(link),
            &churn.credentials,
            &client.client_id,
            churn.session,
            60,
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
        let version = self.churn.credentials.version;
        let client = &mut self.all[link as usize];
        match (header.packet_type, client.stage) {
            (PacketType::Connack, Stage::AwaitsConnack) => {
                let connack = Connack::decode(version, body).map_err(|error| error.to_string())?;
                if connack.reason.is_failure() {
                    return Err(format!("the broker refused: {}", connack.reason.name()));
                }
                if self.times.is_measured(client.due_ns) {
                    self.outcome
                        .connect
                        .saturating_record(now_ns - client.begun_ns);
                }
                client.stage = Stage::AwaitsSuback;
                put_subscribe(links.out(link), version, &client.topic, QoS::AtLeastOnce);
                Ok(())
            }
            (PacketType::Suback, Stage::AwaitsSuback) => {
                let suback = Suback::decode(version, body).map_err(|error| error.to_string())?;
                if suback.codes != [QoS::AtLeastOnce as u8] {
                    return Err(format!("SUBACK with {:?}", suback.codes));
                }
                self.publish(links, link);
                Ok(())
            }
            (PacketType::Puback, _) => self.advance(links, link),
            (PacketType::Publish, _) => {
                let publish = Publish::decode_from_server(version, header.flags, body)
                    .map_err(|error| error.to_string())?;
                if let Some(id) = publish.packet_id {
                    let out = links.out(link);
                    put_ack(out, version, PacketType::Puback, id, ReasonCode::Success);
                }
                let checked = self.payloads.check(publish.payload);
                if checked.map(|header| header.sequence) != Some(client.cycle) {
                    self.outcome.corrupt += 1;
                    self.interval.trouble.corrupt += 1;
                }
                self.advance(links, link)
            }
            (packet_type, _) => Err(format!("{} is not expected here", packet_type.name())),
        }
    }

    fn on_flushed(&mut self, _: &mut Links, _: u32) {}

    fn on_closed(&mut self, links: &mut Links, link: u32, why: &str) -> Result<(), String> {
        let client = &mut self.all[link as usize];
        if client.stage != Stage::Leaving {
            return Err(format!("client {}: {why}", client.client_id));
        }
        client.stage = Stage::Free;
        let now_ns = self.clock.now_ns();
        if self.times.is_measured(client.due_ns) {
            let latency = &mut self.interval.latency;
            latency.saturating_record(now_ns - client.due_ns);
        }
        self.outcome.cycles += u64::from(self.times.is_measured(now_ns));
        self.interval.delivered += 1;
        links.close(link);
        self.free.push(link);
        Ok(())
    }
}

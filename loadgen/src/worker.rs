//! One core of the generator: its clients, its ring, its share of the load.
//!
//! A turn takes the completions there are, lets every publisher that may send write what it may, and then
//! makes one write for each connection that has something. Messages are parsed where they were
//! received; nothing is allocated for a message.
//!
//! `connecting` brings clients to where they can be used, and back when their connection was lost; `receiving` and
//! `publishing` are what they do then; `outcome` is what is told of it.

mod connecting;
mod outcome;
mod publishing;
mod receiving;

pub use outcome::{Counts, Interval, Outcome, histogram};

use crate::clock::Clock;
use crate::links::{Handler, Links, Reactor, Route};
use crate::message::Message;
use crate::pace::Pace;
use crate::payload::Payloads;
use crate::plan::{ClientPlan, Hears, Names};
use crate::procfs::own_thread_cpu_ns;
use crate::schedule::{Profile, Schedule};
use crate::shared::Shared;
use crate::sys;
use crate::timeline::Trouble;
use crate::track::Track;
use crate::window::Window;
use crate::wire::Credentials;
use connecting::Away;
use hdrhistogram::Histogram;
use publishing::Publisher;
use ringmq::protocol::frame::FixedHeader;
use ringmq::protocol::{
    Ack, Disconnect, PacketType, QoS, ReasonCode, Version, put_disconnect, put_pingreq,
};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// The longest sleep while someone else may change what this core has to do.
const SLEEP_MAX: Duration = Duration::from_millis(5);
/// Before a due time the core stays awake for this long: sleeping and waking would take as much.
const SPIN_NS: u64 = 30_000;
/// The longest that one look around takes while awake; what is longer was another process's turn.
const SPIN_LOOK_NS: u64 = 10_000;
/// The length of an interval of the timeline.
const INTERVAL_NS: i64 = 1_000_000_000;

/// What all clients of a run have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the broker is, and the version of MQTT.
    pub route: Route,
    /// What clients are called.
    pub names: Names,
    /// The QoS of publications and subscriptions.
    pub qos: QoS,
    /// Whether the broker is to keep what is published.
    pub retain: bool,
    /// What is sent.
    pub payload: Payload,
    /// Seconds; 0 is no Keep Alive and no PINGREQ.
    pub keep_alive_s: u16,
    /// Whether sessions begin anew.
    pub clean_start: bool,
    /// How long sessions outlive their connections; `None` is what the version of MQTT says for `clean_start`.
    pub session_expiry_s: Option<u32>,
    /// Who connects.
    pub credentials: Credentials,
    /// How the publishers are paced.
    pub load: Load,
    /// The number of publisher 0 in its payloads: differs where several processes publish to one subscriber.
    pub publisher_offset: u32,
    /// New connections per second over all cores; `None` is as fast as they are accepted.
    pub connect_rate: Option<f64>,
    /// Whether a lost connection is made again instead of ending the run.
    pub reconnect: bool,
    /// Whether each thread has a CPU, on which both ends of its connections are to be.
    pub near: bool,
    /// QoS 1 and 2 messages of a publisher whose handshake is not done, at most; `None` leaves it to the load.
    pub in_flight_max: Option<u32>,
    /// Messages of all publishers together, at most.
    pub limit: Option<u64>,
    /// Whether times of messages are recorded.
    pub has_latency: bool,
}

/// What is sent, and expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A header and a pattern, of this many bytes in all: what arrives is checked.
    Checked(usize),
    /// The user's own: nothing can be checked.
    Own(Message),
    /// Whatever others send: it is counted and nothing more.
    Any,
}

/// What makes a publisher send its next message.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// Room in a window of this many messages whose delivery has not come back.
    Closed {
        /// Messages.
        window: usize,
    },
    /// The schedule.
    Open(Profile),
    /// Nothing: there are no publishers.
    Idle,
}

/// The times of a run, in nanoseconds of its [`Clock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The first message.
    pub start_ns: u64,
    /// The end of the warm-up.
    pub measure_ns: u64,
    /// The end of publishing.
    pub stop_ns: u64,
}

impl Times {
    /// Whether a moment is in the measured interval.
    pub fn is_measured(&self, at_ns: u64) -> bool {
        (self.measure_ns..self.stop_ns).contains(&at_ns)
    }

    /// The second of a moment: 0 is the first of the measured interval, those of the warm-up are negative.
    pub fn second(&self, at_ns: u64) -> i64 {
        let since_ns = at_ns.max(self.start_ns).cast_signed() - self.measure_ns.cast_signed();
        since_ns.div_euclid(INTERVAL_NS)
    }
}

/// Runs one core's clients from their connecting to the end of the run. When something breaks after the start, the
/// outcome says so and tells what there was until then.
///
/// Errors: in plain words, why there was no start.
pub fn run(
    core: usize,
    clients: &[ClientPlan],
    settings: &Settings,
    shared: &Shared,
    clock: Clock,
    wake: UnixStream,
    intervals: Sender<Interval>,
) -> Result<Outcome, String> {
    let cores = shared.cores.len();
    let cpu = settings.near.then(|| pin(core)).transpose()?;
    let offset = core * settings.route.sources.len() / cores;
    let mut reactor = Reactor::new(settings.route.clone(), clock, Some(wake), offset)?;
    let mut links = Links::default();
    let mut state = State::new(core, cpu, clients, settings, shared, clock, intervals);
    for _ in clients {
        links.add();
    }
    if let Err(why) = state.run(&mut reactor, &mut links) {
        if state.times.is_none() {
            return Err(why);
        }
        state.outcome.ended = Some((clock.now_ns(), why));
    }
    links.close_all(&disconnect(settings.route.version));
    Ok(state.into_outcome())
}

/// Gives the calling thread a CPU of those that there are, and returns which.
///
/// Errors: in plain words.
fn pin(core: usize) -> Result<usize, String> {
    let cpus = sys::cpus().map_err(|error| format!("--near: the CPUs cannot be told: {error}"))?;
    let cpu = cpus[core % cpus.len()];
    sys::stay_on(cpu).map_err(|error| format!("--near: cannot stay on CPU {cpu}: {error}"))?;
    Ok(cpu)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has no connection: it never had one, or lost it.
    Away,
    Connecting,
    AwaitsConnack,
    AwaitsSuback,
    Ready,
}

struct Client {
    stage: Stage,
    /// The broker has accepted it once.
    was_accepted: bool,
    /// Client Identifiers that put it on another CPU.
    far: u8,
    /// Topic Filters that were sent in a SUBSCRIBE.
    subscribed: u32,
    /// From when connecting was due to the established connection, in us.
    tcp_us: u32,
    /// When connecting was due.
    since_ns: u64,
    publisher: Option<u32>,
    /// The publishers it hears, each with what became of its messages here.
    tracks: Box<[Track]>,
}

struct State<'a> {
    core: usize,
    /// Where both ends of its connections are to be, if that matters.
    cpu: Option<usize>,
    plans: &'a [ClientPlan],
    settings: &'a Settings,
    shared: &'a Shared,
    clock: Clock,
    intervals: Sender<Interval>,
    payloads: Payloads,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    /// By group and publisher number; only where subscribers of this core share messages.
    groups: Vec<Vec<Track>>,
    /// By publisher number; only in a closed loop and only where this core has subscribers.
    windows: Vec<Option<Window>>,
    queue: Vec<u32>,
    /// Cores whose publishers' windows moved in this turn.
    touched: Vec<bool>,
    connects: Option<Pace>,
    next_connect: usize,
    connecting: usize,
    ready: usize,
    away: Away,
    /// What ended a connection would end the next one as well.
    given_up: bool,
    times: Option<Times>,
    schedule: Option<Schedule>,
    due: u64,
    pings: Option<Pace>,
    pings_sent: u64,
    received: u64,
    /// Since when it is measured, in ns of the clock, and how long this thread had worked by then, in ns.
    measured_since: Option<(u64, u64)>,
    interval: Interval,
    /// What intervals have told of trouble and of waiting awake.
    reported: (Trouble, u64),
    outcome: Outcome,
}

impl<'a> State<'a> {
    fn new(
        core: usize,
        cpu: Option<usize>,
        plans: &'a [ClientPlan],
        settings: &'a Settings,
        shared: &'a Shared,
        clock: Clock,
        intervals: Sender<Interval>,
    ) -> Self {
        let mut clients = Vec::with_capacity(plans.len());
        let mut publishers = Vec::new();
        let mut groups = 0;
        for (index, plan) in plans.iter().enumerate() {
            let publisher = plan.publishes.as_ref().map(|publishes| {
                let index = index as u32;
                publishers.push(Publisher::new(index, publishes, core, settings, shared));
                publishers.len() as u32 - 1
            });
            let tracks = match &plan.hears {
                Hears::Own(numbers) => numbers.len(),
                Hears::Group { group, .. } => {
                    groups = groups.max(group + 1);
                    0
                }
                Hears::Nothing | Hears::Strangers => 0,
            };
            clients.push(Client {
                stage: Stage::Away,
                was_accepted: false,
                far: 0,
                subscribed: 0,
                tcp_us: 0,
                since_ns: 0,
                publisher,
                tracks: vec![Track::default(); tracks].into(),
            });
        }
        let windows = match settings.load {
            Load::Closed { window } => {
                let here = |cores: &Vec<u32>| cores[core];
                let receivers = shared.receivers.iter().map(here);
                receivers
                    .map(|count| (count > 0).then(|| Window::new(window, count)))
                    .collect()
            }
            Load::Open(_) | Load::Idle => Vec::new(),
        };
        let payload_bytes = match &settings.payload {
            Payload::Checked(bytes) => *bytes,
            Payload::Own(_) | Payload::Any => crate::payload::HEADER_BYTES,
        };
        Self {
            core,
            cpu,
            plans,
            settings,
            shared,
            clock,
            intervals,
            payloads: Payloads::new(payload_bytes),
            clients,
            publishers,
            groups: vec![vec![Track::default(); shared.homes.len()]; groups as usize],
            windows,
            queue: Vec::new(),
            touched: vec![false; shared.cores.len()],
            connects: None,
            next_connect: 0,
            connecting: 0,
            ready: 0,
            away: Away::default(),
            given_up: false,
            times: None,
            schedule: None,
            due: 0,
            pings: None,
            pings_sent: 0,
            received: 0,
            measured_since: None,
            interval: Interval::of(0),
            reported: (Trouble::default(), 0),
            outcome: Outcome::default(),
        }
    }

    fn run(&mut self, reactor: &mut Reactor, links: &mut Links) -> Result<(), String> {
        let begun_ns = self.clock.now_ns();
        let (core, cores) = (self.core as f64, self.shared.cores.len() as f64);
        if let Some(rate) = self.settings.connect_rate {
            self.connects = Some(Pace::new(begun_ns, rate / cores, core / cores));
        }
        if self.settings.keep_alive_s > 0 && !self.clients.is_empty() {
            // Every client is asked twice in its Keep Alive, all of them spread over that time.
            let rate = 2.0 * self.clients.len() as f64 / f64::from(self.settings.keep_alive_s);
            let first_ns = begun_ns + u64::from(self.settings.keep_alive_s) * 500_000_000;
            self.pings = Some(Pace::new(first_ns, rate, 0.0));
        }
        let mut awake_since_ns: Option<u64> = None;
        let shared = self.shared;
        let own = &shared.cores[self.core];
        let mut reported_ready = false;
        loop {
            let took = reactor.receive(links, self)?;
            let now_ns = self.clock.now_ns();
            if let Some(since_ns) = awake_since_ns.take()
                && took == 0
            {
                self.outcome.counts.spin_ns += (now_ns - since_ns).min(SPIN_LOOK_NS);
            }
            if shared.is_over() {
                return Ok(());
            }
            self.start_connects(links, now_ns);
            if !reported_ready && self.ready == self.clients.len() {
                reported_ready = true;
                own.ready.store(true, Ordering::Release);
            }
            if self.times.is_none()
                && let Some(times) = shared.times()
            {
                self.begin(times);
            }
            self.cross_edge(links, now_ns);
            self.publish(links, now_ns);
            self.ping(links, now_ns);
            reactor.flush(links, self)?;
            self.wake_others();
            self.end_interval(now_ns);
            own.received.store(self.received, Ordering::Relaxed);
            own.connected.store(self.ready as u64, Ordering::Relaxed);

            if reactor.has_work()? || !self.queue.is_empty() {
                continue;
            }
            let done_ns = self.clock.now_ns();
            let wait_ns = self.wait_ns(done_ns);
            if wait_ns < SPIN_NS {
                awake_since_ns = Some(done_ns);
                std::hint::spin_loop();
                continue;
            }
            own.asleep.store(true, Ordering::SeqCst);
            if !self.any_remote_progress() {
                let wait = Duration::from_nanos(wait_ns - SPIN_NS / 2);
                reactor.wait(wait.min(SLEEP_MAX))?;
            }
            own.asleep.store(false, Ordering::SeqCst);
        }
    }

    /// When the measured interval begins, and when it ends: lets the slow subscribers stop reading, and go on, and tells
    /// how busy this core is.
    fn cross_edge(&mut self, links: &mut Links, now_ns: u64) {
        let measured = self.times.is_some_and(|times| times.is_measured(now_ns));
        if measured == self.measured_since.is_some() {
            return;
        }
        let work_ns = own_thread_cpu_ns().saturating_sub(self.outcome.counts.spin_ns);
        if let Some((since_ns, before_ns)) = self.measured_since.take() {
            let worked_ns = work_ns.saturating_sub(before_ns);
            self.outcome.busy = worked_ns as f64 / (now_ns - since_ns).max(1) as f64;
        } else {
            self.measured_since = Some((now_ns, work_ns));
        }
        for index in 0..self.plans.len() {
            if !self.plans[index].slow {
                continue;
            }
            if measured {
                links.pause(index as u32);
            } else {
                links.resume(index as u32);
            }
        }
    }

    fn ping(&mut self, links: &mut Links, now_ns: u64) {
        let Some(pings) = self.pings else { return };
        let due = pings.due(now_ns);
        while self.pings_sent < due {
            let index = (self.pings_sent % self.clients.len() as u64) as u32;
            self.pings_sent += 1;
            if self.clients[index as usize].stage == Stage::Ready {
                put_pingreq(links.out(index));
            }
        }
    }

    fn end_interval(&mut self, now_ns: u64) {
        let Some(times) = self.times else { return };
        let second = times.second(now_ns);
        if second > self.interval.second {
            self.send_interval(second);
        }
    }

    /// Tells of the interval that ends, and begins the next.
    fn send_interval(&mut self, next: i64) {
        let now = (self.outcome.counts.trouble(), self.outcome.counts.spin_ns);
        let before = std::mem::replace(&mut self.reported, now);
        self.interval.trouble = now.0.since(&before.0);
        self.interval.spin_ns = now.1 - before.1;
        let interval = std::mem::replace(&mut self.interval, Interval::of(next));
        // Nobody may want them.
        let _ = self.intervals.send(interval);
    }

    // ---- other cores, sleeping ----

    fn wake_others(&mut self) {
        for core in 0..self.touched.len() {
            if std::mem::take(&mut self.touched[core]) && core != self.core {
                self.shared.wake(core);
            }
        }
    }

    fn any_remote_progress(&self) -> bool {
        self.publishers.iter().any(|publisher| {
            publisher.has_remote_receivers
                && self.shared.window_end(publisher.number as usize) > publisher.window_end
        })
    }

    /// How long nothing is due, in ns.
    fn wait_ns(&self, now_ns: u64) -> u64 {
        let mut until_ns = self.away.next_ns();
        if self.next_connect < self.clients.len()
            && let Some(connects) = &self.connects
        {
            until_ns = until_ns.min(connects.at_ns(self.next_connect as u64));
        }
        if let Some(times) = &self.times {
            for at_ns in [times.start_ns, times.stop_ns] {
                if at_ns > now_ns {
                    until_ns = until_ns.min(at_ns);
                }
            }
            if let Some(schedule) = &self.schedule
                && now_ns < times.stop_ns
            {
                until_ns = until_ns.min(schedule.at_ns(self.due));
            }
        } else if self.ready == self.clients.len() {
            // The start is announced without a wake-up.
            until_ns = until_ns.min(now_ns + 1_000_000);
        }
        until_ns.saturating_sub(now_ns)
    }

    // ---- the end ----

    fn into_outcome(mut self) -> Outcome {
        self.send_interval(i64::MAX);
        self.outcome.counts.unsent = self.unsent();
        for publisher in &self.publishers {
            self.outcome.counts.unacknowledged += u64::from(publisher.in_flight);
            self.outcome.sent.push((publisher.number, publisher.next));
            for group in &mut self.groups {
                // A group hears the publishers of its own core.
                let track = std::mem::take(&mut group[publisher.number as usize]);
                self.outcome.tracks.push((publisher.number, track));
            }
        }
        for (client, plan) in self.clients.into_iter().zip(self.plans) {
            let tracks = client.tracks.into_vec();
            match &plan.hears {
                Hears::Own(numbers) if plan.slow => {
                    self.outcome.slow_tracks.extend(numbers.clone().zip(tracks));
                }
                Hears::Own(numbers) => self.outcome.tracks.extend(numbers.clone().zip(tracks)),
                Hears::Strangers => self.outcome.stranger_tracks.extend(tracks),
                Hears::Nothing | Hears::Group { .. } => {}
            }
        }
        self.outcome
    }
}

impl Handler for State<'_> {
    fn on_connected(&mut self, links: &mut Links, link: u32) -> Result<(), String> {
        self.send_connect(links, link);
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
        let version = self.settings.route.version;
        let stage = self.clients[link as usize].stage;
        match (header.packet_type, stage) {
            (PacketType::Publish, Stage::Ready | Stage::AwaitsSuback) => {
                self.on_publish(links, link, header.flags, body, now_ns)
            }
            (
                packet_type @ (PacketType::Puback | PacketType::Pubrec | PacketType::Pubcomp),
                Stage::Ready,
            ) => self.on_ack(links, link, packet_type, body),
            (PacketType::Pubrel, Stage::Ready | Stage::AwaitsSuback) => {
                let ack = Ack::decode(version, PacketType::Pubrel, body)
                    .map_err(|error| error.to_string())?;
                self.answer(links, link, PacketType::Pubcomp, ack.packet_id);
                Ok(())
            }
            (PacketType::Connack, Stage::AwaitsConnack) => self.on_connack(links, link, body),
            (PacketType::Suback, Stage::AwaitsSuback) => self.on_suback(links, link, body),
            (PacketType::Pingresp, Stage::Ready | Stage::AwaitsSuback) => Ok(()),
            (PacketType::Disconnect, _) => {
                let disconnect =
                    Disconnect::decode(version, body).map_err(|error| error.to_string())?;
                Err(format!(
                    "the broker sent DISCONNECT: {}",
                    disconnect.reason.name()
                ))
            }
            (packet_type, _) => Err(format!("{} is not expected here", packet_type.name())),
        }
    }

    /// A publisher that stopped because its buffer was full goes on.
    fn on_flushed(&mut self, _: &mut Links, link: u32) {
        if let Some(index) = self.clients[link as usize].publisher {
            self.go_on(index as usize);
        }
    }

    fn on_closed(&mut self, links: &mut Links, link: u32, why: &str) -> Result<(), String> {
        self.lost(links, link, why)
    }
}

/// What a client says before it closes.
pub fn disconnect(version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    match version {
        Version::V5 => put_disconnect(&mut bytes, ReasonCode::Success, None),
        Version::V31 | Version::V311 => bytes.extend_from_slice(&[0xE0, 0]),
    }
    bytes
}

fn record(histogram: &mut Histogram<u64>, ns: u64) {
    histogram.saturating_record(ns);
}

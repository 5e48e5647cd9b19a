//! One core of the generator: its clients, its ring, its share of the load.
//!
//! A turn takes the completions there are, lets every publisher that may send write what it may, and then
//! makes one write for each connection that has something. Messages are parsed where they were
//! received; nothing is allocated for a message.

use crate::clock::Clock;
use crate::links::{Handler, Links, Reactor, Route};
use crate::pace::{Pace, share};
use crate::payload::{Header, Payloads};
use crate::plan::{ClientPlan, Hears};
use crate::shared::Shared;
use crate::timeline::Trouble;
use crate::track::{Arrival, Track};
use crate::window::Window;
use hdrhistogram::Histogram;
use ringmq::protocol::frame::FixedHeader;
use ringmq::protocol::{
    Ack, Connack, Connect, ConnectProperties, Disconnect, HeadOffsets, PacketId, PacketType,
    Publish, PublishHead, QoS, ReasonCode, Suback, Subscribe, SubscribeOptions, UserProperties,
    Version, put_ack, put_disconnect, put_pingreq,
};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Bytes a connection may have ready to be written before its publisher waits.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Connects that wait for their CONNACK or SUBACK at a time, over all cores: some brokers have a listen queue
/// of 100, and what exceeds it waits a second for its SYN to be sent again.
const CONNECTING_MAX: usize = 64;
/// The longest sleep while someone else may change what this core has to do.
const SLEEP_MAX: Duration = Duration::from_millis(5);
/// Before a due time the core stays awake for this long: sleeping and waking would take as much.
const SPIN_NS: u64 = 30_000;
/// The longest that one look around takes while awake; what is longer was another process's turn.
const SPIN_LOOK_NS: u64 = 10_000;
/// A full window that has not moved for this long is given up.
const STALL_NS: u64 = 2_000_000_000;
/// Publishers of other processes that are told apart.
const STRANGERS_MAX: usize = 1 << 20;
/// The length of an interval of the timeline.
const INTERVAL_NS: i64 = 1_000_000_000;
/// QoS 1 and 2 messages of a publisher whose handshake is not done, at most.
const IN_FLIGHT_MAX: u32 = 16_384;
/// What all clients of a run have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the broker is, and the version of MQTT.
    pub route: Route,
    /// The QoS of publications and subscriptions.
    pub qos: QoS,
    /// Bytes of a payload.
    pub payload_bytes: usize,
    /// Seconds; 0 is no Keep Alive and no PINGREQ.
    pub keep_alive_s: u16,
    /// Whether sessions begin anew and end with their connection.
    pub clean_start: bool,
    /// The User Name.
    pub username: Option<String>,
    /// The Password.
    pub password: Option<String>,
    /// How the publishers are paced.
    pub load: Load,
    /// The number of publisher 0 in its payloads: differs where several processes publish to one subscriber.
    pub publisher_offset: u32,
    /// New connections per second over all cores; `None` is as fast as they are accepted.
    pub connect_rate: Option<f64>,
}

/// What makes a publisher send its next message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Room in a window of this many messages whose delivery has not come back.
    Closed {
        /// Messages.
        window: usize,
    },
    /// The schedule: this many messages a second over all publishers.
    Open {
        /// Messages per second.
        rate: f64,
    },
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

/// What one core saw.
#[derive(Debug)]
pub struct Outcome {
    /// From the intended time to the last acknowledgement of a QoS 1 or 2 message, in ns.
    pub acknowledged: Histogram<u64>,
    /// From the start of connecting to the established connection, in ns.
    pub tcp_connect: Histogram<u64>,
    /// From the start of connecting to CONNACK, in ns.
    pub connect: Histogram<u64>,
    /// Connections that were accepted by the broker.
    pub connected: u64,
    /// Messages written in the measured interval.
    pub published: u64,
    /// Messages received in the measured interval, duplicates not counted.
    pub delivered: u64,
    /// Messages received that were not the first of their kind.
    pub duplicates: u64,
    /// Messages received after a later one of the same publisher.
    pub reordered: u64,
    /// Messages that were not as they were sent.
    pub corrupt: u64,
    /// Messages that were written late because the broker took no more bytes or no more QoS 1 and 2 messages.
    pub held_back: u64,
    /// Messages that were due and could not be sent to the end.
    pub unsent: u64,
    /// Windows that were given up because nothing moved.
    pub window_stalls: u64,
    /// Acknowledgements with a failure code.
    pub refused: u64,
    /// QoS 1 and 2 messages whose handshake was not finished at the end.
    pub unacknowledged: u64,
    /// Number and messages of each publisher here.
    pub sent: Vec<(u32, u64)>,
    /// What became of each publisher's messages, once for each subscriber here.
    pub tracks: Vec<(u32, Track)>,
    /// The same for subscribers that did not read in the measured interval.
    pub slow_tracks: Vec<(u32, Track)>,
    /// What became of the messages of publishers in other processes.
    pub stranger_tracks: Vec<Track>,
    /// Time spent waiting awake, in ns.
    pub spin_ns: u64,
}

impl Outcome {
    /// What went wrong so far.
    fn trouble(&self) -> Trouble {
        Trouble {
            duplicates: self.duplicates,
            reordered: self.reordered,
            corrupt: self.corrupt,
            refused: self.refused,
            window_stalls: self.window_stalls,
            held_back: self.held_back,
        }
    }
}

/// One second of one core.
#[derive(Debug)]
pub struct Interval {
    /// Which second, by [`Times::second`].
    pub second: i64,
    /// Messages written in it.
    pub published: u64,
    /// Messages received in it.
    pub delivered: u64,
    /// Receive time less intended time, in ns, of messages received in it whose intended time was in the measured
    /// interval.
    pub latency: Histogram<u64>,
    /// Time of writing less intended time, in ns, of messages whose intended time was in the measured interval, where
    /// only the generator was in the way.
    pub send_lag: Histogram<u64>,
    /// What went wrong in it.
    pub trouble: Trouble,
    /// Time spent waiting awake, in ns.
    pub spin_ns: u64,
}

impl Interval {
    /// One in which nothing has happened yet.
    pub fn new(second: i64) -> Self {
        Self {
            second,
            published: 0,
            delivered: 0,
            latency: histogram(),
            send_lag: histogram(),
            trouble: Trouble::default(),
            spin_ns: 0,
        }
    }
}

/// Runs one core's clients from their connecting to the end of the run.
///
/// Errors: in plain words, what makes the run worthless.
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
    let offset = core * settings.route.sources.len() / cores;
    let mut reactor = Reactor::new(settings.route.clone(), clock, Some(wake), offset)?;
    let mut links = Links::default();
    let mut state = State::new(core, clients, settings, shared, clock, intervals);
    for _ in clients {
        links.add();
    }
    let result = state.run(&mut reactor, &mut links);
    links.close_all(&disconnect(settings.route.version));
    result.map(|()| state.into_outcome())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Connecting,
    AwaitsConnack,
    AwaitsSuback,
    Ready,
}

struct Client {
    stage: Stage,
    connecting_since_ns: u64,
    publisher: Option<u32>,
    /// The publishers it hears, each with what became of its messages here.
    tracks: Vec<Track>,
}

struct Publisher {
    client: u32,
    number: u32,
    next: u64,
    /// Whether it is in the list of those that may be able to send.
    queued: bool,
    /// A PUBLISH packet up to its payload.
    head: Vec<u8>,
    offsets: HeadOffsets,
    /// The state of each Packet Identifier, from 1; empty with QoS 0.
    ids: Box<[Handshake]>,
    next_id: usize,
    in_flight: u32,
    in_flight_max: u32,
    /// The broker took no more when it was its turn the last time.
    held_back: bool,
    /// In a closed loop, the end of the window.
    window_end: u64,
    moved_ns: u64,
    /// Subscribers on other cores have a say in the window.
    has_remote_receivers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    Free,
    /// PUBLISH is sent; the message was due at this time.
    Published(u64),
    /// PUBREL is sent; the message was due at this time.
    Released(u64),
}

struct State<'a> {
    core: usize,
    plans: &'a [ClientPlan],
    settings: &'a Settings,
    shared: &'a Shared,
    clock: Clock,
    intervals: Sender<Interval>,
    payloads: Payloads,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    /// By publisher number; only where subscribers of this core share a subscription.
    group: Vec<Track>,
    /// By publisher number; only in a closed loop and only where this core has subscribers.
    windows: Vec<Option<Window>>,
    queue: Vec<u32>,
    /// Cores whose publishers' windows moved in this turn.
    touched: Vec<bool>,
    next_connect: usize,
    connecting: usize,
    ready: usize,
    times: Option<Times>,
    pace: Option<Pace>,
    due: u64,
    pings: Option<Pace>,
    pings_sent: u64,
    received: u64,
    slow_paused: bool,
    interval: Interval,
    /// What intervals have told of trouble and of waiting awake.
    reported: (Trouble, u64),
    outcome: Outcome,
}

impl<'a> State<'a> {
    fn new(
        core: usize,
        plans: &'a [ClientPlan],
        settings: &'a Settings,
        shared: &'a Shared,
        clock: Clock,
        intervals: Sender<Interval>,
    ) -> Self {
        let mut clients = Vec::with_capacity(plans.len());
        let mut publishers = Vec::new();
        for (index, plan) in plans.iter().enumerate() {
            let publisher = plan.publishes.as_ref().map(|(number, topic)| {
                let index = index as u32;
                publishers.push(publisher(index, *number, topic, core, settings, shared));
                publishers.len() as u32 - 1
            });
            let tracks = match &plan.hears {
                Hears::Own(numbers) => numbers.len(),
                Hears::Nothing | Hears::Group(_) | Hears::Strangers => 0,
            };
            clients.push(Client {
                stage: Stage::New,
                connecting_since_ns: 0,
                publisher,
                tracks: vec![Track::default(); tracks],
            });
        }
        let in_group = plans
            .iter()
            .any(|plan| matches!(plan.hears, Hears::Group(_)));
        let group = if in_group { shared.homes.len() } else { 0 };
        let windows = match settings.load {
            Load::Closed { window } => {
                let here = |cores: &Vec<u32>| cores[core];
                let receivers = shared.receivers.iter().map(here);
                receivers
                    .map(|count| (count > 0).then(|| Window::new(window, count)))
                    .collect()
            }
            Load::Open { .. } | Load::Idle => Vec::new(),
        };
        Self {
            core,
            plans,
            settings,
            shared,
            clock,
            intervals,
            payloads: Payloads::new(settings.payload_bytes),
            clients,
            publishers,
            group: vec![Track::default(); group],
            windows,
            queue: Vec::new(),
            touched: vec![false; shared.cores.len()],
            next_connect: 0,
            connecting: 0,
            ready: 0,
            times: None,
            pace: None,
            due: 0,
            pings: None,
            pings_sent: 0,
            received: 0,
            slow_paused: false,
            interval: Interval::new(0),
            reported: (Trouble::default(), 0),
            outcome: Outcome {
                acknowledged: histogram(),
                tcp_connect: histogram(),
                connect: histogram(),
                connected: 0,
                published: 0,
                delivered: 0,
                duplicates: 0,
                reordered: 0,
                corrupt: 0,
                held_back: 0,
                unsent: 0,
                window_stalls: 0,
                refused: 0,
                unacknowledged: 0,
                sent: Vec::new(),
                tracks: Vec::new(),
                slow_tracks: Vec::new(),
                stranger_tracks: Vec::new(),
                spin_ns: 0,
            },
        }
    }

    fn run(&mut self, reactor: &mut Reactor, links: &mut Links) -> Result<(), String> {
        let begun_ns = self.clock.now_ns();
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
                self.outcome.spin_ns += (now_ns - since_ns).min(SPIN_LOOK_NS);
            }
            if shared.is_over() {
                return Ok(());
            }
            if self.next_connect < self.clients.len() {
                self.start_connects(links, now_ns, begun_ns);
            }
            if !reported_ready && self.ready == self.clients.len() {
                reported_ready = true;
                own.ready.store(true, Ordering::Release);
            }
            if self.times.is_none()
                && let Some(times) = shared.times()
            {
                self.begin(times);
            }
            self.pause_slow(links, now_ns);
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

    fn describe(&self, index: u32, what: &str) -> String {
        let stage = match self.clients[index as usize].stage {
            Stage::New | Stage::Connecting => "while connecting",
            Stage::AwaitsConnack => "before CONNACK",
            Stage::AwaitsSuback => "before SUBACK",
            Stage::Ready => "in use",
        };
        format!(
            "client {} ({stage}): {what}",
            self.plans[index as usize].client_id
        )
    }

    // ---- connecting ----

    fn start_connects(&mut self, links: &mut Links, now_ns: u64, begun_ns: u64) {
        let allowed = match self.settings.connect_rate {
            Some(rate) => {
                let cores = self.shared.cores.len() as f64;
                let phase = self.core as f64 / cores;
                Pace::new(begun_ns, rate / cores, phase).due(now_ns)
            }
            None => u64::MAX,
        };
        while self.next_connect < self.clients.len()
            && self.connecting < CONNECTING_MAX.div_ceil(self.shared.cores.len())
            && (self.next_connect as u64) < allowed
        {
            let client = &mut self.clients[self.next_connect];
            client.stage = Stage::Connecting;
            client.connecting_since_ns = now_ns;
            links.connect(self.next_connect as u32);
            self.next_connect += 1;
            self.connecting += 1;
        }
    }

    fn on_connack(&mut self, links: &mut Links, index: u32, body: &[u8]) -> Result<(), String> {
        let version = self.settings.route.version;
        let connack = Connack::decode(version, body).map_err(|error| error.to_string())?;
        if connack.reason.is_failure() {
            return Err(format!("the broker refused: {}", connack.reason.name()));
        }
        if connack.properties.qos_maximum < self.settings.qos {
            return Err("the broker does not support the QoS".into());
        }
        let now_ns = self.clock.now_ns();
        let client = &mut self.clients[index as usize];
        record(
            &mut self.outcome.connect,
            now_ns - client.connecting_since_ns,
        );
        self.outcome.connected += 1;
        if let Some(publisher) = client.publisher
            && let Some(maximum) = connack.properties.receive_maximum
        {
            let publisher = &mut self.publishers[publisher as usize];
            publisher.in_flight_max = publisher.in_flight_max.min(maximum.get().into());
        }
        let Some(filter) = &self.plans[index as usize].filter else {
            self.became_ready(index);
            return Ok(());
        };
        client.stage = Stage::AwaitsSuback;
        let options = SubscribeOptions {
            qos: self.settings.qos,
            ..SubscribeOptions::default()
        };
        Subscribe::encode(
            links.out(index),
            version,
            PacketId::MIN,
            None,
            &UserProperties::default(),
            &[(filter, options)],
        );
        Ok(())
    }

    fn on_suback(&mut self, index: u32, body: &[u8]) -> Result<(), String> {
        let suback =
            Suback::decode(self.settings.route.version, body).map_err(|error| error.to_string())?;
        if suback.codes != [self.settings.qos as u8] {
            return Err(format!("SUBACK with {:?}", suback.codes));
        }
        self.became_ready(index);
        Ok(())
    }

    fn became_ready(&mut self, index: u32) {
        self.clients[index as usize].stage = Stage::Ready;
        self.ready += 1;
        self.connecting -= 1;
    }

    // ---- receiving ----

    fn on_publish(
        &mut self,
        links: &mut Links,
        index: u32,
        flags: u8,
        body: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        let publish = Publish::decode_from_server(self.settings.route.version, flags, body)
            .map_err(|error| error.to_string())?;
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => self.answer(links, index, PacketType::Puback, id),
            (QoS::ExactlyOnce, Some(id)) => self.answer(links, index, PacketType::Pubrec, id),
            _ => {}
        }
        let Some((header, arrival)) = self.arrived(index, publish.payload) else {
            self.outcome.corrupt += 1;
            return Ok(());
        };
        match arrival {
            Arrival::Fresh => {}
            Arrival::Late => self.outcome.reordered += 1,
            Arrival::Duplicate => {
                self.outcome.duplicates += 1;
                return Ok(());
            }
        }
        self.received += 1;
        if let Some(times) = &self.times {
            self.interval.delivered += 1;
            self.outcome.delivered += u64::from(times.is_measured(now_ns));
            // Those that slow subscribers let wait are not the broker's doing.
            if times.is_measured(header.intended_ns) && !self.plans[index as usize].slow {
                record(
                    &mut self.interval.latency,
                    now_ns.saturating_sub(header.intended_ns),
                );
            }
        }
        self.move_window(&header);
        Ok(())
    }

    /// Checks a payload and takes note of its arrival; `None` when it is not one that was to come here.
    fn arrived(&mut self, index: u32, payload: &[u8]) -> Option<(Header, Arrival)> {
        let header = self.payloads.check(payload)?;
        let client = &mut self.clients[index as usize];
        let number = header.publisher as usize;
        let track = match &self.plans[index as usize].hears {
            Hears::Nothing => None,
            Hears::Own(numbers) => {
                let at = header.publisher.checked_sub(numbers.start)?;
                client.tracks.get_mut(at as usize)
            }
            Hears::Group(numbers) => numbers
                .contains(&header.publisher)
                .then(|| &mut self.group[number]),
            Hears::Strangers if number < STRANGERS_MAX => {
                while client.tracks.len() <= number {
                    client.tracks.push(Track::from_first_seen());
                }
                client.tracks.get_mut(number)
            }
            Hears::Strangers => None,
        };
        track.map(|track| (header, track.see(header.sequence)))
    }

    fn move_window(&mut self, header: &Header) {
        let number = header.publisher as usize;
        let Some(Some(window)) = self.windows.get_mut(number) else {
            return;
        };
        if !window.got(header.sequence) {
            return;
        }
        let (core, index) = self.shared.homes[number];
        if core == self.core && !self.publishers[index].has_remote_receivers {
            let publisher = &mut self.publishers[index];
            publisher.window_end = window.base() + self.shared.window;
            self.enqueue(index);
            return;
        }
        self.shared
            .progress(number, self.core)
            .store(window.base(), Ordering::Release);
        self.touched[core] = true;
    }

    fn answer(&self, links: &mut Links, index: u32, packet_type: PacketType, id: PacketId) {
        let version = self.settings.route.version;
        put_ack(
            links.out(index),
            version,
            packet_type,
            id,
            ReasonCode::Success,
        );
    }

    fn on_ack(
        &mut self,
        links: &mut Links,
        index: u32,
        packet_type: PacketType,
        body: &[u8],
    ) -> Result<(), String> {
        let ack = Ack::decode(self.settings.route.version, packet_type, body)
            .map_err(|error| error.to_string())?;
        let publisher_index = self.clients[index as usize].publisher.map(|at| at as usize);
        let publisher = publisher_index.and_then(|at| self.publishers.get_mut(at));
        let slot = publisher.and_then(|publisher| {
            let slot = publisher
                .ids
                .get_mut(usize::from(ack.packet_id.get()) - 1)?;
            Some((slot, &mut publisher.in_flight))
        });
        let Some((slot, in_flight)) = slot else {
            return Err(format!(
                "{} for a message that was not sent",
                packet_type.name()
            ));
        };
        let failed = ack.reason.is_failure();
        self.outcome.refused += u64::from(failed);
        let due_ns = match (packet_type, self.settings.qos, *slot) {
            (PacketType::Puback, QoS::AtLeastOnce, Handshake::Published(due_ns))
            | (PacketType::Pubcomp, QoS::ExactlyOnce, Handshake::Released(due_ns)) => due_ns,
            (PacketType::Pubrec, QoS::ExactlyOnce, Handshake::Published(due_ns)) if failed => {
                due_ns
            }
            (PacketType::Pubrec, QoS::ExactlyOnce, Handshake::Published(due_ns)) => {
                *slot = Handshake::Released(due_ns);
                self.answer(links, index, PacketType::Pubrel, ack.packet_id);
                return Ok(());
            }
            _ => {
                return Err(format!(
                    "{} for a message that awaits another",
                    packet_type.name()
                ));
            }
        };
        *slot = Handshake::Free;
        *in_flight -= 1;
        if self.times.is_some_and(|times| times.is_measured(due_ns)) {
            let now_ns = self.clock.now_ns();
            record(
                &mut self.outcome.acknowledged,
                now_ns.saturating_sub(due_ns),
            );
        }
        if let Some(at) = publisher_index {
            self.enqueue(at);
        }
        Ok(())
    }

    /// Lets the slow subscribers stop reading when the measured interval begins, and go on when it ends.
    fn pause_slow(&mut self, links: &mut Links, now_ns: u64) {
        let measured = self.times.is_some_and(|times| times.is_measured(now_ns));
        if measured == self.slow_paused {
            return;
        }
        self.slow_paused = measured;
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

    // ---- publishing ----

    fn begin(&mut self, times: Times) {
        self.times = Some(times);
        self.interval.second = times.second(times.start_ns);
        if let Load::Open { rate } = self.settings.load
            && !self.publishers.is_empty()
        {
            let here = self.publishers.len() as f64;
            let all = self.shared.homes.len() as f64;
            let phase = self.core as f64 / self.shared.cores.len() as f64;
            self.pace = Some(Pace::new(times.start_ns, rate * here / all, phase));
        }
        for index in 0..self.publishers.len() {
            self.publishers[index].moved_ns = times.start_ns;
            self.enqueue(index);
        }
    }

    fn enqueue(&mut self, index: usize) {
        let publisher = &mut self.publishers[index];
        if !publisher.queued {
            publisher.queued = true;
            self.queue.push(index as u32);
        }
    }

    fn publish(&mut self, links: &mut Links, now_ns: u64) {
        let Some(times) = self.times else { return };
        if self.publishers.is_empty() || now_ns < times.start_ns {
            return;
        }
        match self.pace {
            Some(pace) => {
                // What was due before the end is sent even if it is late, or the end would be forgiven.
                self.enqueue_due(pace.due(now_ns.min(times.stop_ns - 1)));
                if now_ns >= times.stop_ns && self.unsent() == 0 {
                    self.settle();
                }
            }
            None if now_ns >= times.stop_ns => {
                self.queue.clear();
                self.settle();
            }
            None => self.look_at_windows(now_ns),
        }
        for at in 0..self.queue.len() {
            let index = self.queue[at] as usize;
            self.publishers[index].queued = false;
            self.fill(links, index, now_ns, times);
        }
        self.queue.clear();
    }

    fn enqueue_due(&mut self, due: u64) {
        let count = self.publishers.len() as u64;
        let new = (due - self.due).min(count);
        for message in due - new..due {
            self.enqueue((message % count) as usize);
        }
        self.due = due;
    }

    /// Takes in what other cores' subscribers got, and gives up on windows that do not move.
    fn look_at_windows(&mut self, now_ns: u64) {
        for index in 0..self.publishers.len() {
            let publisher = &mut self.publishers[index];
            if publisher.has_remote_receivers {
                let end = self.shared.window_end(publisher.number as usize);
                if end > publisher.window_end {
                    publisher.window_end = end;
                    self.enqueue(index);
                }
            } else if now_ns < publisher.moved_ns + STALL_NS {
                continue;
            }
            let publisher = &mut self.publishers[index];
            if publisher.next < publisher.window_end {
                publisher.moved_ns = now_ns;
            } else if now_ns >= publisher.moved_ns + STALL_NS {
                self.outcome.window_stalls += 1;
                publisher.moved_ns = now_ns;
                publisher.window_end = publisher.next + self.shared.window;
                self.enqueue(index);
            }
        }
    }

    fn fill(&mut self, links: &mut Links, index: usize, now_ns: u64, times: Times) {
        let count = self.publishers.len();
        let publisher = &mut self.publishers[index];
        let end = match self.pace {
            Some(_) => share(self.due, index, count),
            None => publisher.window_end,
        };
        if publisher.next >= end {
            return;
        }
        let held_back = std::mem::take(&mut publisher.held_back) || links.is_full(publisher.client);
        let out = links.out(publisher.client);
        let first = publisher.next;
        while publisher.next < end {
            if out.len() >= OUT_BYTES_MAX {
                publisher.held_back = true;
                break;
            }
            let intended_ns = match self.pace {
                Some(pace) => pace.at_ns(publisher.next * count as u64 + index as u64),
                None => now_ns,
            };
            if !publisher.ids.is_empty() {
                if !publisher.has_room() {
                    publisher.held_back = true;
                    break;
                }
                publisher.ids[publisher.next_id] = Handshake::Published(intended_ns);
                publisher.in_flight += 1;
                let id = PacketId::new(publisher.next_id as u16 + 1);
                let id = id.expect("there are at most 32,768 identifiers");
                publisher.offsets.patch_packet_id(&mut publisher.head, id);
                publisher.next_id = (publisher.next_id + 1) % publisher.ids.len();
            }
            out.extend_from_slice(&publisher.head);
            let header = Header {
                publisher: publisher.number + self.settings.publisher_offset,
                sequence: publisher.next,
                intended_ns,
            };
            self.payloads.put(&header, out);
            publisher.next += 1;
            if self.pace.is_some() && times.is_measured(intended_ns) {
                if held_back {
                    self.outcome.held_back += 1;
                } else {
                    record(&mut self.interval.send_lag, now_ns - intended_ns);
                }
            }
        }
        if publisher.next == first {
            return;
        }
        publisher.moved_ns = now_ns;
        self.interval.published += publisher.next - first;
        if times.is_measured(now_ns) {
            self.outcome.published += publisher.next - first;
        }
    }

    /// Messages that are due and not sent.
    fn unsent(&self) -> u64 {
        match self.pace {
            Some(_) => self.due - self.publishers.iter().map(|one| one.next).sum::<u64>(),
            None => 0,
        }
    }

    /// After the end of publishing: tells how many messages there were, and how many are not settled.
    fn settle(&self) {
        let own = &self.shared.cores[self.core];
        let in_flight: u64 = self
            .publishers
            .iter()
            .map(|one| u64::from(one.in_flight))
            .sum();
        own.unsettled.store(in_flight, Ordering::Relaxed);
        let expected = self.publishers.iter().map(|one| {
            let receivers: u32 = self.shared.receivers[one.number as usize].iter().sum();
            one.next * u64::from(receivers)
        });
        own.expected.store(expected.sum(), Ordering::Relaxed);
        own.stopped.store(true, Ordering::Release);
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
        let outcome = &self.outcome;
        let now = (outcome.trouble(), outcome.spin_ns);
        let before = std::mem::replace(&mut self.reported, now);
        self.interval.trouble = now.0.since(&before.0);
        self.interval.spin_ns = now.1 - before.1;
        let interval = std::mem::replace(&mut self.interval, Interval::new(next));
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
        let mut until_ns = u64::MAX;
        if let Some(times) = &self.times {
            for at_ns in [times.start_ns, times.stop_ns] {
                if at_ns > now_ns {
                    until_ns = until_ns.min(at_ns);
                }
            }
            if let Some(pace) = self.pace
                && now_ns < times.stop_ns
            {
                until_ns = until_ns.min(pace.at_ns(self.due));
            }
        } else if self.ready == self.clients.len() {
            // The start is announced without a wake-up.
            until_ns = now_ns + 1_000_000;
        }
        until_ns.saturating_sub(now_ns)
    }

    // ---- the end ----

    fn into_outcome(mut self) -> Outcome {
        self.send_interval(i64::MAX);
        self.outcome.unsent = self.unsent();
        for publisher in &self.publishers {
            self.outcome.unacknowledged += u64::from(publisher.in_flight);
            self.outcome.sent.push((publisher.number, publisher.next));
            if let Some(track) = self.group.get_mut(publisher.number as usize) {
                // A group hears the publishers of its own core.
                self.outcome
                    .tracks
                    .push((publisher.number, std::mem::take(track)));
            }
        }
        for (client, plan) in self.clients.into_iter().zip(self.plans) {
            match &plan.hears {
                Hears::Own(numbers) if plan.slow => {
                    self.outcome
                        .slow_tracks
                        .extend(numbers.clone().zip(client.tracks));
                }
                Hears::Own(numbers) => {
                    self.outcome
                        .tracks
                        .extend(numbers.clone().zip(client.tracks));
                }
                Hears::Strangers => self.outcome.stranger_tracks.extend(client.tracks),
                Hears::Nothing | Hears::Group(_) => {}
            }
        }
        self.outcome
    }
}

impl Handler for State<'_> {
    fn on_connected(&mut self, links: &mut Links, link: u32) -> Result<(), String> {
        let now_ns = self.clock.now_ns();
        let client = &mut self.clients[link as usize];
        record(
            &mut self.outcome.tcp_connect,
            now_ns - client.connecting_since_ns,
        );
        client.stage = Stage::AwaitsConnack;
        let settings = self.settings;
        let connect = Connect {
            version: settings.route.version,
            clean_start: settings.clean_start,
            keep_alive_s: settings.keep_alive_s,
            client_id: &self.plans[link as usize].client_id,
            will: None,
            username: settings.username.as_deref(),
            password: settings.password.as_deref().map(str::as_bytes),
            properties: ConnectProperties {
                session_expiry_s: (!settings.clean_start).then_some(3_600),
                ..ConnectProperties::default()
            },
        };
        connect.encode(links.out(link));
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
            (PacketType::Pubrel, Stage::Ready) => {
                let ack = Ack::decode(version, PacketType::Pubrel, body)
                    .map_err(|error| error.to_string())?;
                self.answer(links, link, PacketType::Pubcomp, ack.packet_id);
                Ok(())
            }
            (PacketType::Connack, Stage::AwaitsConnack) => self.on_connack(links, link, body),
            (PacketType::Suback, Stage::AwaitsSuback) => self.on_suback(link, body),
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
        let Some(index) = self.clients[link as usize].publisher else {
            return;
        };
        let index = index as usize;
        let count = self.publishers.len();
        let publisher = &self.publishers[index];
        let end = match self.pace {
            Some(_) => share(self.due, index, count),
            None => publisher.window_end,
        };
        let has_room = publisher.ids.is_empty() || publisher.has_room();
        let running = self.pace.is_some()
            || self
                .times
                .is_some_and(|times| self.clock.now_ns() < times.stop_ns);
        if publisher.next < end && has_room && running {
            self.enqueue(index);
        }
    }

    fn on_closed(&mut self, _: &mut Links, link: u32, why: &str) -> Result<(), String> {
        Err(self.describe(link, why))
    }
}

impl Publisher {
    /// Whether another QoS 1 or 2 message may be in flight.
    fn has_room(&self) -> bool {
        self.in_flight < self.in_flight_max && self.ids[self.next_id] == Handshake::Free
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

fn publisher(
    client: u32,
    number: u32,
    topic: &str,
    core: usize,
    settings: &Settings,
    shared: &Shared,
) -> Publisher {
    let mut head = Vec::new();
    let offsets = PublishHead {
        version: settings.route.version,
        qos: settings.qos,
        dup: false,
        retain: false,
        topic,
        packet_id: (settings.qos != QoS::AtMostOnce).then_some(PacketId::MIN),
        topic_alias: None,
        message_expiry_s: None,
        subscription_ids: &[],
        forward: &[],
        payload_len: settings.payload_bytes,
    }
    .encode(&mut head);
    let receivers = &shared.receivers[number as usize];
    let has_receivers = receivers.iter().any(|count| *count > 0);
    let in_flight_max = match settings.load {
        // Without subscribers the window is that of the acknowledgements.
        Load::Closed { window } if !has_receivers => window as u32,
        // The handshake of a message may end after its delivery.
        Load::Closed { window } => IN_FLIGHT_MAX.min((2 * window) as u32),
        Load::Open { .. } | Load::Idle => IN_FLIGHT_MAX,
    };
    let ids = match settings.qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce | QoS::ExactlyOnce => 2 * in_flight_max as usize,
    };
    Publisher {
        client,
        number,
        next: 0,
        queued: false,
        head,
        offsets,
        ids: vec![Handshake::Free; ids].into(),
        next_id: 0,
        in_flight: 0,
        in_flight_max,
        held_back: false,
        window_end: if has_receivers {
            shared.window
        } else {
            u64::MAX
        },
        moved_ns: 0,
        has_remote_receivers: receivers
            .iter()
            .enumerate()
            .any(|(at, count)| at != core && *count > 0),
    }
}

/// A histogram of nanoseconds up to two minutes, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("the bounds are valid")
}

fn record(histogram: &mut Histogram<u64>, ns: u64) {
    histogram.saturating_record(ns);
}

//! One core of the generator: its clients, its ring, its share of the load.
//!
//! A turn takes the completions there are, lets every publisher that may send write what it may, and then
//! makes one write for each connection that has something. Messages are parsed where they were
//! received; nothing is allocated for a message.

use crate::clock::Clock;
use crate::pace::{Pace, share};
use crate::payload::{Header, Payloads};
use crate::plan::ClientPlan;
use crate::shared::Shared;
use crate::sys::bind_address_no_port;
use crate::track::{Arrival, Track};
use crate::window::Window;
use hdrhistogram::Histogram;
use ringmq::net::ring::{Completion, Key, Received, Ring, RingConfig};
use ringmq::net::writer;
use ringmq::protocol::frame::{Cut, FixedHeader, PACKET_BYTES_MAX, cut_version};
use ringmq::protocol::{
    Ack, Connack, Connect, ConnectProperties, Disconnect, HeadOffsets, PacketId, PacketType,
    Publish, PublishHead, QoS, ReasonCode, Suback, Subscribe, SubscribeOptions, UserProperties,
    Version, put_ack, put_disconnect, put_pingreq,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bytes a connection may have ready to be written before its publisher waits.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Completions taken in a row before the connections are written.
const COMPLETIONS_MAX: usize = 512;
/// Connects that wait for their CONNACK or SUBACK at a time, over all cores: some brokers have a listen queue
/// of 100, and what exceeds it waits a second for its SYN to be sent again.
const CONNECTING_MAX: usize = 64;
/// The longest sleep while someone else may change what this core has to do.
const SLEEP_MAX: Duration = Duration::from_millis(5);
/// Before a due time the core stays awake for this long: sleeping and waking would take as much.
const SPIN_NS: u64 = 30_000;
/// A full window that has not moved for this long is given up.
const STALL_NS: u64 = 2_000_000_000;
/// QoS 1 and 2 messages of a publisher whose handshake is not done, at most.
const IN_FLIGHT_MAX: u32 = 16_384;
/// The key of the socket through which other cores wake this one.
const WAKE_KEY: Key = Key {
    index: Key::INDEX_END - 1,
    generation: 0,
};

/// What all clients of a run have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the broker listens.
    pub address: SocketAddr,
    /// Source addresses, taken in turn; none leaves the choice to the system.
    pub sources: Vec<IpAddr>,
    /// The version of MQTT.
    pub version: Version,
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
    fn is_measured(&self, at_ns: u64) -> bool {
        (self.measure_ns..self.stop_ns).contains(&at_ns)
    }
}

/// What one core saw.
#[derive(Debug)]
pub struct Outcome {
    /// Receive time less intended time, in ns, of messages whose intended time was in the measured interval.
    pub latency: Histogram<u64>,
    /// Time of writing less intended time, in ns, where only the generator was in the way.
    pub send_lag: Histogram<u64>,
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
    /// Time spent waiting awake, in ns.
    pub spin_ns: u64,
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
    wake: &UnixStream,
) -> Result<Outcome, String> {
    let config = RingConfig {
        submission_entries: 1024,
        completion_entries: 16_384,
        buffer_count: 64,
        buffer_bytes: 64 << 10,
    };
    let mut ring = Ring::new(config).map_err(|error| error.to_string())?;
    ring.recv_multi(wake, WAKE_KEY);
    let mut state = State::new(core, clients, settings, shared, clock);
    let result = state.run(&mut ring, wake);
    state.disconnect();
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
    socket: Option<Socket>,
    stage: Stage,
    /// Whether it is in the list of those to be written.
    dirty: bool,
    /// Whether the socket is full and the ring waits for it.
    full: bool,
    connecting_since_ns: u64,
    publisher: Option<u32>,
    /// The number of the first publisher it hears.
    hears_from: u32,
    tracks: Box<[Track]>,
    /// The first bytes of a packet whose rest has not arrived.
    carry: Vec<u8>,
    out: Vec<u8>,
    /// Bytes of `out` that are written.
    written: usize,
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
    /// PUBLISH is sent.
    Published,
    /// PUBREL is sent.
    Released,
}

struct State<'a> {
    core: usize,
    plans: &'a [ClientPlan],
    settings: &'a Settings,
    shared: &'a Shared,
    clock: Clock,
    payloads: Payloads,
    clients: Vec<Client>,
    publishers: Vec<Publisher>,
    /// By publisher number; only in a closed loop and only where this core has subscribers.
    windows: Vec<Option<Window>>,
    dirty: Vec<u32>,
    queue: Vec<u32>,
    /// Sockets to wait for, and receives to arm again, after the turn: the ring is busy showing bytes.
    rearm: Vec<u32>,
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
    outcome: Outcome,
}

impl<'a> State<'a> {
    fn new(
        core: usize,
        plans: &'a [ClientPlan],
        settings: &'a Settings,
        shared: &'a Shared,
        clock: Clock,
    ) -> Self {
        let mut clients = Vec::with_capacity(plans.len());
        let mut publishers = Vec::new();
        for (index, plan) in plans.iter().enumerate() {
            let publisher = plan.publishes.as_ref().map(|(number, topic)| {
                let index = index as u32;
                publishers.push(publisher(index, *number, topic, core, settings, shared));
                publishers.len() as u32 - 1
            });
            clients.push(Client {
                socket: None,
                stage: Stage::New,
                dirty: false,
                full: false,
                connecting_since_ns: 0,
                publisher,
                hears_from: plan.hears.start,
                tracks: vec![Track::default(); plan.hears.len()].into(),
                carry: Vec::new(),
                out: Vec::new(),
                written: 0,
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
            Load::Open { .. } | Load::Idle => Vec::new(),
        };
        Self {
            core,
            plans,
            settings,
            shared,
            clock,
            payloads: Payloads::new(settings.payload_bytes),
            clients,
            publishers,
            windows,
            dirty: Vec::new(),
            queue: Vec::new(),
            rearm: Vec::new(),
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
            outcome: Outcome {
                latency: histogram(),
                send_lag: histogram(),
                tcp_connect: histogram(),
                connect: histogram(),
                connected: 0,
                published: 0,
                delivered: 0,
                duplicates: 0,
                reordered: 0,
                corrupt: 0,
                held_back: 0,
                window_stalls: 0,
                refused: 0,
                unacknowledged: 0,
                sent: Vec::new(),
                tracks: Vec::new(),
                spin_ns: 0,
            },
        }
    }

    fn run(&mut self, ring: &mut Ring, wake: &UnixStream) -> Result<(), String> {
        let begun_ns = self.clock.now_ns();
        if self.settings.keep_alive_s > 0 && !self.clients.is_empty() {
            // Every client is asked twice in its Keep Alive, all of them spread over that time.
            let rate = 2.0 * self.clients.len() as f64 / f64::from(self.settings.keep_alive_s);
            let first_ns = begun_ns + u64::from(self.settings.keep_alive_s) * 500_000_000;
            self.pings = Some(Pace::new(first_ns, rate, 0.0));
        }
        let mut idle_since_ns = None;
        let shared = self.shared;
        let mut reported_ready = false;
        loop {
            let took = self.take_completions(ring, wake)?;
            let now_ns = self.clock.now_ns();
            if let Some(since_ns) = idle_since_ns.take()
                && took == 0
            {
                self.outcome.spin_ns += now_ns - since_ns;
            }
            if shared.is_over() {
                return Ok(());
            }
            if self.next_connect < self.clients.len() {
                self.start_connects(ring, now_ns, begun_ns)?;
            }
            if !reported_ready && self.ready == self.clients.len() {
                reported_ready = true;
                shared.cores[self.core].ready.store(true, Ordering::Release);
            }
            if self.times.is_none()
                && let Some(times) = shared.times()
            {
                self.begin(times);
            }
            self.publish(now_ns);
            self.ping(now_ns);
            self.flush(ring)?;
            self.wake_others();
            shared.cores[self.core]
                .received
                .store(self.received, Ordering::Relaxed);

            ring.submit().map_err(ring_failed)?;
            if ring.has_work() || !self.queue.is_empty() {
                continue;
            }
            let wait_ns = self.wait_ns(self.clock.now_ns());
            if wait_ns < SPIN_NS {
                idle_since_ns = Some(now_ns);
                std::hint::spin_loop();
                continue;
            }
            let own = &shared.cores[self.core];
            own.asleep.store(true, Ordering::SeqCst);
            if !self.any_remote_progress() {
                let wait = Duration::from_nanos(wait_ns - SPIN_NS / 2);
                ring.wait(wait.min(SLEEP_MAX)).map_err(ring_failed)?;
            }
            own.asleep.store(false, Ordering::SeqCst);
        }
    }

    fn take_completions(&mut self, ring: &mut Ring, wake: &UnixStream) -> Result<usize, String> {
        let mut took = 0;
        while took < COMPLETIONS_MAX {
            let Some(completion) = ring.next_completion() else {
                if took == 0 {
                    return Ok(0);
                }
                // The kernel hands over about twenty at a time; more of them make better batches.
                let before = took;
                ring.submit().map_err(ring_failed)?;
                let Some(next) = ring.next_completion() else {
                    return Ok(before);
                };
                self.completed(ring, wake, next)?;
                took += 1;
                continue;
            };
            self.completed(ring, wake, completion)?;
            took += 1;
        }
        Ok(took)
    }

    fn completed(
        &mut self,
        ring: &mut Ring,
        wake: &UnixStream,
        completion: Completion,
    ) -> Result<(), String> {
        match completion {
            Completion::Received {
                key,
                received,
                more,
            } if key == WAKE_KEY => {
                if let Received::Bytes(buffer) = received {
                    ring.recycle(buffer);
                }
                if !more {
                    ring.recv_multi(wake, WAKE_KEY);
                }
            }
            Completion::Received {
                key,
                received,
                more,
            } => {
                match received {
                    Received::Bytes(buffer) => {
                        let now_ns = self.clock.now_ns();
                        let result = self.receive(key.index, ring.bytes(&buffer), now_ns);
                        ring.recycle(buffer);
                        result.map_err(|what| self.describe(key.index, &what))?;
                    }
                    Received::NoBuffers | Received::Cancelled => {}
                    Received::Eof => {
                        return Err(self.describe(key.index, "the broker closed the connection"));
                    }
                    Received::Failed(error) => {
                        return Err(self.describe(key.index, &format!("receiving failed: {error}")));
                    }
                }
                if !more {
                    self.recv(ring, key.index);
                }
            }
            Completion::Connected { key, result } => {
                result.map_err(|error| {
                    self.describe(key.index, &format!("cannot connect: {error}"))
                })?;
                self.connected(key.index);
                self.recv(ring, key.index);
            }
            Completion::Writable { key } => {
                let client = &mut self.clients[key.index as usize];
                client.full = false;
                self.mark_dirty(key.index);
            }
            Completion::Accepted { .. } | Completion::Timer => {}
        }
        Ok(())
    }

    fn recv(&mut self, ring: &mut Ring, index: u32) {
        let socket = self.clients[index as usize].socket.as_ref();
        let socket = socket.expect("a client with completions has a socket");
        ring.recv_multi(socket, key(index));
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

    fn start_connects(
        &mut self,
        ring: &mut Ring,
        now_ns: u64,
        begun_ns: u64,
    ) -> Result<(), String> {
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
            let index = self.next_connect as u32;
            let socket = self
                .socket(index)
                .map_err(|error| self.describe(index, &format!("no socket: {error}")))?;
            ring.connect(&socket, SockAddr::from(self.settings.address), key(index));
            let client = &mut self.clients[index as usize];
            client.socket = Some(socket);
            client.stage = Stage::Connecting;
            client.connecting_since_ns = now_ns;
            self.next_connect += 1;
            self.connecting += 1;
        }
        Ok(())
    }

    fn socket(&self, index: u32) -> std::io::Result<Socket> {
        let domain = Domain::for_address(self.settings.address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        let sources = &self.settings.sources;
        if !sources.is_empty() {
            // All cores count on from where the others are, so that each address gets its share.
            let place = index as usize * self.shared.cores.len() + self.core;
            bind_address_no_port(&socket)?;
            socket.bind(&SocketAddr::new(sources[place % sources.len()], 0).into())?;
        }
        Ok(socket)
    }

    fn connected(&mut self, index: u32) {
        let now_ns = self.clock.now_ns();
        let client = &mut self.clients[index as usize];
        record(
            &mut self.outcome.tcp_connect,
            now_ns - client.connecting_since_ns,
        );
        client.stage = Stage::AwaitsConnack;
        let settings = self.settings;
        let connect = Connect {
            version: settings.version,
            clean_start: settings.clean_start,
            keep_alive_s: settings.keep_alive_s,
            client_id: &self.plans[index as usize].client_id,
            will: None,
            username: settings.username.as_deref(),
            password: settings.password.as_deref().map(str::as_bytes),
            properties: ConnectProperties {
                session_expiry_s: (!settings.clean_start).then_some(3_600),
                ..ConnectProperties::default()
            },
        };
        connect.encode(&mut client.out);
        self.mark_dirty(index);
    }

    fn on_connack(&mut self, index: u32, body: &[u8]) -> Result<(), String> {
        let version = self.settings.version;
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
            &mut client.out,
            version,
            PacketId::MIN,
            None,
            &UserProperties::default(),
            &[(filter, options)],
        );
        self.mark_dirty(index);
        Ok(())
    }

    fn on_suback(&mut self, index: u32, body: &[u8]) -> Result<(), String> {
        let suback =
            Suback::decode(self.settings.version, body).map_err(|error| error.to_string())?;
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

    fn receive(&mut self, index: u32, bytes: &[u8], now_ns: u64) -> Result<(), String> {
        let version = self.settings.version;
        let mut rest = bytes;
        let mut carry = std::mem::take(&mut self.clients[index as usize].carry);
        while !carry.is_empty() {
            match cut_version(&carry, PACKET_BYTES_MAX, version)
                .map_err(|error| error.to_string())?
            {
                Cut::Packet { header, body, .. } => {
                    self.on_packet(index, header, body, now_ns)?;
                    carry.clear();
                }
                Cut::Incomplete { need } => {
                    if rest.is_empty() {
                        break;
                    }
                    let (more, after) = rest.split_at((need - carry.len()).min(rest.len()));
                    carry.extend_from_slice(more);
                    rest = after;
                }
            }
        }
        if carry.is_empty() {
            loop {
                match cut_version(rest, PACKET_BYTES_MAX, version)
                    .map_err(|error| error.to_string())?
                {
                    Cut::Packet { header, body, len } => {
                        self.on_packet(index, header, body, now_ns)?;
                        rest = &rest[len..];
                    }
                    Cut::Incomplete { .. } => break,
                }
            }
            carry.extend_from_slice(rest);
        }
        self.clients[index as usize].carry = carry;
        Ok(())
    }

    fn on_packet(
        &mut self,
        index: u32,
        header: FixedHeader,
        body: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        let stage = self.clients[index as usize].stage;
        match (header.packet_type, stage) {
            (PacketType::Publish, Stage::Ready | Stage::AwaitsSuback) => {
                self.on_publish(index, header.flags, body, now_ns)
            }
            (
                packet_type @ (PacketType::Puback | PacketType::Pubrec | PacketType::Pubcomp),
                Stage::Ready,
            ) => self.on_ack(index, packet_type, body),
            (PacketType::Pubrel, Stage::Ready) => {
                let version = self.settings.version;
                let ack = Ack::decode(version, PacketType::Pubrel, body)
                    .map_err(|error| error.to_string())?;
                self.answer(index, PacketType::Pubcomp, ack.packet_id);
                Ok(())
            }
            (PacketType::Connack, Stage::AwaitsConnack) => self.on_connack(index, body),
            (PacketType::Suback, Stage::AwaitsSuback) => self.on_suback(index, body),
            (PacketType::Pingresp, Stage::Ready | Stage::AwaitsSuback) => Ok(()),
            (PacketType::Disconnect, _) => {
                let disconnect = Disconnect::decode(self.settings.version, body)
                    .map_err(|error| error.to_string())?;
                Err(format!(
                    "the broker sent DISCONNECT: {}",
                    disconnect.reason.name()
                ))
            }
            (packet_type, _) => Err(format!("{} is not expected here", packet_type.name())),
        }
    }

    fn on_publish(
        &mut self,
        index: u32,
        flags: u8,
        body: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        let publish = Publish::decode_from_server(self.settings.version, flags, body)
            .map_err(|error| error.to_string())?;
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => self.answer(index, PacketType::Puback, id),
            (QoS::ExactlyOnce, Some(id)) => self.answer(index, PacketType::Pubrec, id),
            _ => {}
        }
        let client = &mut self.clients[index as usize];
        let header = self.payloads.check(publish.payload);
        let track = header.and_then(|header| {
            let at = header.publisher.checked_sub(client.hears_from)?;
            client
                .tracks
                .get_mut(at as usize)
                .map(|track| (header, track))
        });
        let Some((header, track)) = track else {
            self.outcome.corrupt += 1;
            return Ok(());
        };
        match track.see(header.sequence) {
            Arrival::Fresh => {}
            Arrival::Late => self.outcome.reordered += 1,
            Arrival::Duplicate => {
                self.outcome.duplicates += 1;
                return Ok(());
            }
        }
        self.received += 1;
        if let Some(times) = &self.times {
            self.outcome.delivered += u64::from(times.is_measured(now_ns));
            if times.is_measured(header.intended_ns) {
                record(
                    &mut self.outcome.latency,
                    now_ns.saturating_sub(header.intended_ns),
                );
            }
        }
        self.move_window(&header);
        Ok(())
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

    fn answer(&mut self, index: u32, packet_type: PacketType, id: PacketId) {
        let out = &mut self.clients[index as usize].out;
        put_ack(
            out,
            self.settings.version,
            packet_type,
            id,
            ReasonCode::Success,
        );
        self.mark_dirty(index);
    }

    fn on_ack(&mut self, index: u32, packet_type: PacketType, body: &[u8]) -> Result<(), String> {
        let ack = Ack::decode(self.settings.version, packet_type, body)
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
        match (packet_type, self.settings.qos, *slot) {
            (PacketType::Puback, QoS::AtLeastOnce, Handshake::Published)
            | (PacketType::Pubcomp, QoS::ExactlyOnce, Handshake::Released) => {
                *slot = Handshake::Free;
                *in_flight -= 1;
            }
            (PacketType::Pubrec, QoS::ExactlyOnce, Handshake::Published) if failed => {
                *slot = Handshake::Free;
                *in_flight -= 1;
            }
            (PacketType::Pubrec, QoS::ExactlyOnce, Handshake::Published) => {
                *slot = Handshake::Released;
                self.answer(index, PacketType::Pubrel, ack.packet_id);
            }
            _ => {
                return Err(format!(
                    "{} for a message that awaits another",
                    packet_type.name()
                ));
            }
        }
        if let Some(at) = publisher_index {
            self.enqueue(at);
        }
        Ok(())
    }

    // ---- publishing ----

    fn begin(&mut self, times: Times) {
        self.times = Some(times);
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

    fn publish(&mut self, now_ns: u64) {
        let Some(times) = self.times else { return };
        if self.publishers.is_empty() || now_ns < times.start_ns {
            return;
        }
        if now_ns >= times.stop_ns {
            self.queue.clear();
            self.settle();
            return;
        }
        if let Some(pace) = self.pace {
            self.enqueue_due(pace.due(now_ns));
        } else {
            self.look_at_windows(now_ns);
        }
        for at in 0..self.queue.len() {
            let index = self.queue[at] as usize;
            self.publishers[index].queued = false;
            self.fill(index, now_ns, times);
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

    fn fill(&mut self, index: usize, now_ns: u64, times: Times) {
        let count = self.publishers.len();
        let publisher = &mut self.publishers[index];
        let client = &mut self.clients[publisher.client as usize];
        let end = match self.pace {
            Some(_) => share(self.due, index, count),
            None => publisher.window_end,
        };
        let held_back = std::mem::take(&mut publisher.held_back) || client.full;
        let first = publisher.next;
        while publisher.next < end {
            if client.out.len() >= OUT_BYTES_MAX {
                publisher.held_back = true;
                break;
            }
            let start = client.out.len();
            if !publisher.ids.is_empty() {
                if publisher.in_flight >= publisher.in_flight_max
                    || publisher.ids[publisher.next_id] != Handshake::Free
                {
                    publisher.held_back = true;
                    break;
                }
                publisher.ids[publisher.next_id] = Handshake::Published;
                publisher.in_flight += 1;
                let id = PacketId::new(publisher.next_id as u16 + 1);
                let id = id.expect("there are at most 32,768 identifiers");
                publisher.offsets.patch_packet_id(&mut publisher.head, id);
                publisher.next_id = (publisher.next_id + 1) % publisher.ids.len();
            }
            let intended_ns = match self.pace {
                Some(pace) => pace.at_ns(publisher.next * count as u64 + index as u64),
                None => now_ns,
            };
            client
                .out
                .reserve(publisher.head.len() + self.payloads.size());
            client.out.extend_from_slice(&publisher.head);
            let header = Header {
                publisher: publisher.number,
                sequence: publisher.next,
                intended_ns,
            };
            self.payloads.put(&header, &mut client.out);
            debug_assert!(client.out.len() > start);
            publisher.next += 1;
            if self.pace.is_some() && times.is_measured(intended_ns) {
                if held_back {
                    self.outcome.held_back += 1;
                } else {
                    record(&mut self.outcome.send_lag, now_ns - intended_ns);
                }
            }
        }
        if publisher.next == first {
            return;
        }
        publisher.moved_ns = now_ns;
        if times.is_measured(now_ns) {
            self.outcome.published += publisher.next - first;
        }
        let client = publisher.client;
        self.mark_dirty(client);
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

    fn ping(&mut self, now_ns: u64) {
        let Some(pings) = self.pings else { return };
        let due = pings.due(now_ns);
        while self.pings_sent < due {
            let index = (self.pings_sent % self.clients.len() as u64) as u32;
            self.pings_sent += 1;
            let client = &mut self.clients[index as usize];
            if client.stage == Stage::Ready {
                put_pingreq(&mut client.out);
                self.mark_dirty(index);
            }
        }
    }

    // ---- writing ----

    fn mark_dirty(&mut self, index: u32) {
        let client = &mut self.clients[index as usize];
        if !client.dirty && !client.full {
            client.dirty = true;
            self.dirty.push(index);
        }
    }

    fn flush(&mut self, ring: &mut Ring) -> Result<(), String> {
        let mut dirty = std::mem::take(&mut self.dirty);
        for &index in &dirty {
            let client = &mut self.clients[index as usize];
            client.dirty = false;
            let Some(socket) = &client.socket else {
                continue;
            };
            let result = writer::write(socket, [&client.out[client.written..]]);
            let wrote = result
                .map_err(|error| self.describe(index, &format!("writing failed: {error}")))?;
            let client = &mut self.clients[index as usize];
            if wrote.is_short() {
                client.written += wrote.accepted;
                client.full = true;
                self.rearm.push(index);
                continue;
            }
            client.out.clear();
            client.written = 0;
            if let Some(publisher) = client.publisher {
                self.enqueue_if_behind(publisher as usize);
            }
        }
        dirty.clear();
        self.dirty = dirty;
        for index in std::mem::take(&mut self.rearm) {
            if let Some(socket) = &self.clients[index as usize].socket {
                ring.poll_writable(socket, key(index));
            }
        }
        Ok(())
    }

    /// A publisher that stopped because its buffer was full goes on now.
    fn enqueue_if_behind(&mut self, index: usize) {
        let count = self.publishers.len();
        let publisher = &self.publishers[index];
        let end = match self.pace {
            Some(_) => share(self.due, index, count),
            None => publisher.window_end,
        };
        let blocked = !publisher.ids.is_empty()
            && (publisher.in_flight >= publisher.in_flight_max
                || publisher.ids[publisher.next_id] != Handshake::Free);
        let running = self
            .times
            .is_some_and(|times| self.clock.now_ns() < times.stop_ns);
        if publisher.next < end && !blocked && running {
            self.enqueue(index);
        }
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

    fn disconnect(&mut self) {
        let mut bytes = Vec::new();
        match self.settings.version {
            Version::V5 => put_disconnect(&mut bytes, ReasonCode::Success, None),
            Version::V31 | Version::V311 => bytes.extend_from_slice(&[0xE0, 0]),
        }
        for client in &self.clients {
            // What is still to be written would be cut off by this, so such a connection is just closed.
            if let Some(socket) = client.socket.as_ref().filter(|_| client.out.is_empty()) {
                let _ = writer::write(socket, [&bytes[..]]);
            }
        }
    }

    fn into_outcome(mut self) -> Outcome {
        for publisher in &self.publishers {
            self.outcome.unacknowledged += u64::from(publisher.in_flight);
            self.outcome.sent.push((publisher.number, publisher.next));
        }
        for client in self.clients {
            let numbers = client.hears_from..;
            self.outcome.tracks.extend(numbers.zip(client.tracks));
        }
        self.outcome
    }
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
        version: settings.version,
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
    let in_flight_max = match settings.load {
        // The handshake of a message may end after its delivery.
        Load::Closed { window } => IN_FLIGHT_MAX.min((2 * window) as u32),
        Load::Open { .. } | Load::Idle => IN_FLIGHT_MAX,
    };
    let ids = match settings.qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce | QoS::ExactlyOnce => 2 * in_flight_max as usize,
    };
    let receivers = &shared.receivers[number as usize];
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
        window_end: shared.window,
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

fn key(index: u32) -> Key {
    Key {
        index,
        generation: 0,
    }
}

fn ring_failed(error: std::io::Error) -> String {
    format!("the ring failed: {error}")
}

//! A Network Connection of a small client: packets in and out, Keep Alive, and whatever else wakes it.

use super::options::ConnectPlan;
use super::property::{
    NumberName, TextName, forward_raw, nonzero_u16, nonzero_u32, number, text, user_raw,
};
use super::stream::Stream;
use super::{EXIT_FAILED, EXIT_NOT_AUTHORIZED, EXIT_UNREACHABLE, Failure};
use crate::protocol::{
    Connack, Connect, ConnectProperties, Cut, Disconnect, FixedHeader, Forward, PACKET_BYTES_MAX,
    PacketType, ReasonCode, UserProperties, Version, Will, cut, put_pingreq,
};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Time for the Network Connection, and again for CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that wait for the next write, at most.
const UNSENT_MAX: usize = 64 << 10;
/// Room for what is read beyond the bytes that are there.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// Packets read ahead of the one being handled.
const EVENTS_AHEAD: usize = 64;

/// What a client waits for.
#[derive(Debug)]
pub(super) enum Event {
    Packet(Packet),
    /// The server closed, or the network failed.
    Closed(Option<io::Error>),
    /// What came is no MQTT.
    Malformed(String),
    /// Lines of stdin without their ends; none at the end of stdin.
    Lines(Vec<Vec<u8>>),
    /// The user wants to stop.
    Stop,
}

/// A packet as it came.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) header: FixedHeader,
    pub(super) body: Vec<u8>,
}

/// An open connection after a successful CONNACK.
pub(super) struct Connection {
    stream: Stream,
    events: Receiver<Event>,
    sender: SyncSender<Event>,
    server: String,
    version: Version,
    debug: bool,
    unsent: Vec<u8>,
    keep_alive: Option<Duration>,
    last_sent: Instant,
    ping_sent: Option<Instant>,
    /// Messages of QoS 1 and 2 the server lets be unacknowledged.
    pub(super) receive_maximum: u16,
    /// Largest packet the server takes.
    pub(super) packet_bytes_max: usize,
}

impl Connection {
    /// Connects, sends CONNECT and waits for CONNACK.
    pub(super) fn open(plan: &ConnectPlan) -> Result<Self, Failure> {
        let server = plan.target.endpoint.to_string();
        let stream = Stream::open(&plan.target, CONNECT_TIMEOUT).map_err(|error| {
            Failure::new(
                EXIT_UNREACHABLE,
                format!("cannot connect to {server}: {error}"),
            )
        })?;
        let (sender, events) = sync_channel(EVENTS_AHEAD);
        let reader = stream.clone();
        let to_events = sender.clone();
        thread::spawn(move || read_packets(&reader, &to_events));
        let now = Instant::now();
        let mut connection = Self {
            stream,
            events,
            sender,
            server,
            version: plan.version,
            debug: plan.debug,
            unsent: Vec::new(),
            keep_alive: None,
            last_sent: now,
            ping_sent: None,
            receive_maximum: u16::MAX,
            packet_bytes_max: PACKET_BYTES_MAX,
        };
        connection.send(&encode_connect(plan))?;
        let deadline = now + CONNECT_TIMEOUT;
        match connection.next(Some(deadline))? {
            Some(Event::Packet(packet)) => connection.take_connack(plan, &packet)?,
            Some(_) => return Err(connection.failure("something came before CONNACK")),
            None => {
                let server = &connection.server;
                let message = format!(
                    "{server} did not answer CONNECT within {} s",
                    CONNECT_TIMEOUT.as_secs()
                );
                return Err(Failure::new(EXIT_UNREACHABLE, message));
            }
        }
        Ok(connection)
    }

    /// The version spoken.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// A sender for events from outside, such as signals and lines of stdin.
    pub(super) fn event_sender(&self) -> SyncSender<Event> {
        self.sender.clone()
    }

    /// Sends whole packets, after all that were queued.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.queue(bytes)?;
        self.flush()
    }

    /// Sends a whole packet with others, at the latest when something is waited for.
    pub(super) fn queue(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.debug {
            let type_name = PacketType::from_u8(bytes[0] >> 4).map_or("?", PacketType::name);
            eprintln!("-> {type_name} ({} bytes)", bytes.len());
        }
        self.unsent.extend_from_slice(bytes);
        if self.unsent.len() > UNSENT_MAX {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        self.last_sent = Instant::now();
        let written = self.stream.write_all(&self.unsent);
        self.unsent.clear();
        self.unsent.shrink_to(2 * UNSENT_MAX);
        if let Err(error) = written {
            // The server may have said why before it closed.
            let deadline = Instant::now() + Duration::from_millis(500);
            while let Ok(event) = self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                if let Event::Packet(packet) = event
                    && packet.header.packet_type == PacketType::Disconnect
                {
                    return Err(self.disconnected(&packet));
                }
            }
            return Err(self.failure(format!("cannot write: {error}")));
        }
        Ok(())
    }

    /// The next event that is not about Keep Alive; none when the deadline is reached.
    ///
    /// Errors: the connection ended.
    pub(super) fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Event>, Failure> {
        self.flush()?;
        loop {
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(None);
            }
            let wake = [deadline, self.ping_due(now)?].into_iter().flatten().min();
            let event = match wake {
                Some(wake) => match self
                    .events
                    .recv_timeout(wake.saturating_duration_since(now))
                {
                    Ok(event) => event,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => unreachable!("self.sender is alive"),
                },
                None => self.events.recv().expect("self.sender is alive"),
            };
            if let Some(event) = self.filter(event)? {
                return Ok(Some(event));
            }
        }
    }

    /// An event that is there already.
    pub(super) fn try_next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            match self.events.try_recv() {
                Ok(event) => match self.filter(event)? {
                    None => {}
                    some => return Ok(some),
                },
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(None),
            }
        }
    }

    /// Says DISCONNECT and closes.
    ///
    /// Errors: the server had something against what was sent last.
    pub(super) fn close(mut self, plan: &ConnectPlan) -> Result<(), Failure> {
        let user = user_raw(&plan.properties.disconnect);
        let disconnect = Disconnect {
            session_expiry_s: number(
                &plan.properties.disconnect,
                NumberName::SessionExpiryInterval,
            ),
            user: UserProperties::from_raw(&user).expect("encoded from User Properties"),
            ..Disconnect::new(ReasonCode::Success)
        };
        let mut bytes = Vec::new();
        disconnect.encode(self.version, &mut bytes);
        self.send(&bytes)?;
        self.stream.shutdown();
        // Leaving bytes unread would reset the connection, and with it what was sent last.
        let deadline = Instant::now() + Duration::from_millis(500);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Packet(packet))
                    if packet.header.packet_type == PacketType::Disconnect =>
                {
                    return Err(self.disconnected(&packet));
                }
                Ok(Event::Closed(Some(error))) => {
                    return Err(self.failure(format!("the connection broke: {error}")));
                }
                Ok(Event::Closed(None)) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    /// A failure of this connection.
    pub(super) fn failure(&self, what: impl std::fmt::Display) -> Failure {
        Failure::new(EXIT_FAILED, format!("{}: {what}", self.server))
    }

    /// A failure the server gave a Reason Code for.
    pub(super) fn refused(
        &self,
        what: impl std::fmt::Display,
        reason: ReasonCode,
        text: Option<&str>,
    ) -> Failure {
        let denied = matches!(
            reason,
            ReasonCode::NotAuthorized | ReasonCode::BadUserNameOrPassword | ReasonCode::Banned
        );
        let exit = if denied {
            EXIT_NOT_AUTHORIZED
        } else {
            EXIT_FAILED
        };
        let text = text.map_or(String::new(), |text| format!(": {text}"));
        let code = reason as u8;
        Failure::new(
            exit,
            format!(
                "{}: {what}: 0x{code:02x} {}{text}",
                self.server,
                reason.name()
            ),
        )
    }

    fn filter(&mut self, event: Event) -> Result<Option<Event>, Failure> {
        match event {
            Event::Packet(packet) => {
                if self.debug {
                    eprintln!(
                        "<- {} ({} bytes)",
                        packet.header.packet_type.name(),
                        packet.body.len()
                    );
                }
                match packet.header.packet_type {
                    PacketType::Pingresp => {
                        self.ping_sent = None;
                        Ok(None)
                    }
                    PacketType::Disconnect => Err(self.disconnected(&packet)),
                    _ => Ok(Some(Event::Packet(packet))),
                }
            }
            Event::Closed(None) => Err(self.failure("the server closed the connection")),
            Event::Closed(Some(error)) => {
                Err(self.failure(format!("the connection broke: {error}")))
            }
            Event::Malformed(what) => {
                Err(self.failure(format!("no MQTT came from the server: {what}")))
            }
            event @ (Event::Lines(_) | Event::Stop) => Ok(Some(event)),
        }
    }

    fn disconnected(&self, packet: &Packet) -> Failure {
        match Disconnect::decode(self.version, &packet.body) {
            Ok(disconnect) => self.refused(
                "the server disconnected",
                disconnect.reason,
                disconnect.reason_string,
            ),
            Err(error) => self.failure(format!("a malformed DISCONNECT: {}", error.what)),
        }
    }

    /// Sends PINGREQ when it is time, and says when it is time next.
    fn ping_due(&mut self, now: Instant) -> Result<Option<Instant>, Failure> {
        let Some(keep_alive) = self.keep_alive else {
            return Ok(None);
        };
        if let Some(sent) = self.ping_sent {
            let answer_due = sent + keep_alive;
            if now >= answer_due {
                let message = format!("{} does not answer PINGREQ", self.server);
                return Err(Failure::new(EXIT_UNREACHABLE, message));
            }
            return Ok(Some(answer_due));
        }
        let due = self.last_sent + keep_alive / 4 * 3;
        if now < due {
            return Ok(Some(due));
        }
        let mut ping = Vec::new();
        put_pingreq(&mut ping);
        self.send(&ping)?;
        self.ping_sent = Some(self.last_sent);
        Ok(Some(self.last_sent + keep_alive))
    }

    fn take_connack(&mut self, plan: &ConnectPlan, packet: &Packet) -> Result<(), Failure> {
        if packet.header.packet_type != PacketType::Connack {
            return Err(self.failure(format!(
                "{} came instead of CONNACK",
                packet.header.packet_type.name()
            )));
        }
        let connack = Connack::decode(self.version, &packet.body)
            .map_err(|error| self.failure(format!("a malformed CONNACK: {}", error.what)))?;
        let properties = &connack.properties;
        if connack.reason.is_failure() {
            return Err(self.refused(
                "connection refused",
                connack.reason,
                properties.reason_string,
            ));
        }
        let keep_alive_s = properties.server_keep_alive_s.unwrap_or(plan.keep_alive_s);
        self.keep_alive = (keep_alive_s > 0).then(|| Duration::from_secs(keep_alive_s.into()));
        self.receive_maximum = properties.receive_maximum.map_or(u16::MAX, Into::into);
        if let Some(bytes) = properties.packet_bytes_max {
            self.packet_bytes_max = bytes.get() as usize;
        }
        Ok(())
    }
}

fn encode_connect(plan: &ConnectPlan) -> Vec<u8> {
    let given = &plan.properties.connect;
    let will_given = &plan.properties.will;
    let user = user_raw(given);
    let forward = forward_raw(will_given);
    let flag = |name| number(given, name).map(|number| number == 1);
    let will = plan.will.as_ref().map(|will| Will {
        qos: will.qos,
        retain: will.retain,
        topic: &will.topic,
        payload: will.payload.as_bytes(),
        delay_s: number(will_given, NumberName::WillDelayInterval).unwrap_or(0),
        message_expiry_s: number(will_given, NumberName::MessageExpiryInterval),
        forward: Forward::from_raw(&forward).expect("encoded from properties that are passed on"),
    });
    let connect = Connect {
        version: plan.version,
        clean_start: plan.clean_start,
        keep_alive_s: plan.keep_alive_s,
        client_id: &plan.client_id,
        will,
        username: plan.username.as_deref(),
        password: plan.password.as_ref().map(String::as_bytes),
        properties: ConnectProperties {
            session_expiry_s: plan.session_expiry_s,
            receive_maximum: nonzero_u16(given, NumberName::ReceiveMaximum),
            packet_bytes_max: nonzero_u32(given, NumberName::MaximumPacketSize),
            topic_alias_maximum: number(given, NumberName::TopicAliasMaximum).map_or(0, |number| {
                u16::try_from(number).expect("the range was checked")
            }),
            request_response_information: flag(NumberName::RequestResponseInformation)
                .unwrap_or(false),
            request_problem_information: flag(NumberName::RequestProblemInformation)
                .unwrap_or(true),
            authentication_method: text(given, TextName::AuthenticationMethod),
            authentication_data: text(given, TextName::AuthenticationData).map(str::as_bytes),
            user: UserProperties::from_raw(&user).expect("encoded from User Properties"),
        },
    };
    let mut bytes = Vec::new();
    connect.encode(&mut bytes);
    bytes
}

/// Cuts what the server sends into packets until it closes or nobody listens any more.
fn read_packets(stream: &Stream, events: &SyncSender<Event>) {
    let mut bytes = Vec::new();
    let mut start = 0;
    loop {
        let (event, used) = match cut(&bytes[start..], PACKET_BYTES_MAX) {
            Ok(Cut::Packet { header, body, len }) => (
                Event::Packet(Packet {
                    header,
                    body: body.to_vec(),
                }),
                len,
            ),
            Ok(Cut::Incomplete { need }) => {
                bytes.drain(..start);
                start = 0;
                // Whatever length a server claims, memory is taken for what came.
                bytes.reserve(
                    need.saturating_sub(bytes.len())
                        .min(bytes.len() + READ_AHEAD_BYTES),
                );
                match stream.read(&mut bytes) {
                    Ok(0) => (Event::Closed(None), 0),
                    Ok(_) => continue,
                    Err(error) => (Event::Closed(Some(error)), 0),
                }
            }
            Err(error) => (Event::Malformed(error.what.to_owned()), 0),
        };
        start += used;
        if events.send(event).is_err() || used == 0 {
            return;
        }
    }
}

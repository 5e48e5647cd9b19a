//! The connections of one core: their sockets, what was read of a packet, what is to be written.
//!
//! [`Links`] knows packets as pieces of bytes and nothing of what they mean; that is the [`Handler`]'s. A turn
//! takes what the ring has, hands each packet to the handler where it was received, and then makes one write
//! for each link that has something. With TLS or WebSocket a link is connected once these are open.

use crate::clock::Clock;
use crate::sys::bind_address_no_port;
use ringmq::net::ring::{Completion, Key, Received, Ring, RingConfig};
use ringmq::net::transport::client::{ClientRoute, ClientTransport};
use ringmq::net::transport::{Heard, Scratch};
use ringmq::net::writer;
use ringmq::protocol::Version;
use ringmq::protocol::frame::{Cut, FixedHeader, PACKET_BYTES_MAX, cut_version};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Completions taken in a row before the links are written.
const COMPLETIONS_MAX: usize = 512;
/// The key of the socket through which other threads wake this one.
const WAKE_KEY: Key = Key {
    index: Key::INDEX_END - 1,
    generation: 0,
};

/// What is done with the events of links.
pub trait Handler {
    /// The connection is established: TCP, and TLS and WebSocket if there are any.
    fn on_connected(&mut self, links: &mut Links, link: u32) -> Result<(), String>;

    /// A packet arrived, at `now_ns`.
    fn on_packet(
        &mut self,
        links: &mut Links,
        link: u32,
        header: FixedHeader,
        body: &[u8],
        now_ns: u64,
    ) -> Result<(), String>;

    /// All that was to be written is written.
    fn on_flushed(&mut self, links: &mut Links, link: u32);

    /// The broker closed the connection, or it failed, for the reason given in plain words.
    fn on_closed(&mut self, links: &mut Links, link: u32, why: &str) -> Result<(), String>;
}

/// Where links lead.
#[derive(Clone, Debug)]
pub struct Route {
    /// The broker.
    pub address: Address,
    /// What lies between the socket and MQTT.
    pub through: ClientRoute,
    /// Source addresses, taken in turn; none leaves the choice to the system.
    pub sources: Vec<IpAddr>,
    /// The version whose framing is used.
    pub version: Version,
}

/// Where a socket leads.
#[derive(Clone, Debug)]
pub enum Address {
    /// To an address and a port.
    Tcp(SocketAddr),
    /// To a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The links of a core, as the handler sees them.
#[derive(Debug, Default)]
pub struct Links {
    links: Vec<Link>,
    dirty: Vec<u32>,
    /// What the ring is asked for when it is free again: while a packet is handled it shows its bytes.
    asked: VecDeque<Ask>,
}

/// A core's ring, which drives the links.
#[derive(Debug)]
pub struct Reactor {
    ring: Ring,
    route: Route,
    clock: Clock,
    wake: Option<UnixStream>,
    /// Connections made, for taking the source addresses in turn.
    connects: usize,
    /// Where transports work.
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct Link {
    socket: Option<Socket>,
    generation: u32,
    /// Whether it is in the list of those to be written.
    dirty: bool,
    /// Whether the socket is full and the ring waits for it.
    full: bool,
    /// Whether received bytes are left where they are.
    paused: bool,
    /// Whether a receive is in flight.
    receiving: bool,
    /// The first bytes of a packet whose rest has not arrived.
    carry: Vec<u8>,
    out: Vec<u8>,
    /// Bytes of `out` that are written.
    written: usize,
    through: Option<Box<Through>>,
}

/// What lies between a link's socket and MQTT, and what it has made for the socket.
#[derive(Debug)]
struct Through {
    transport: ClientTransport,
    wire: Vec<u8>,
    /// Bytes of `wire` that are written.
    written: usize,
    /// Whether the handler knows that the link is connected.
    is_told: bool,
    /// Whether MQTT is in `wire`.
    has_mqtt: bool,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Connect(u32),
    Receive(u32),
    CancelReceive(Key),
    CancelWritable(Key),
}

impl Links {
    /// Makes room for a link that is not connected, and returns its number.
    pub fn add(&mut self) -> u32 {
        self.links.push(Link::default());
        u32::try_from(self.links.len() - 1).expect("links are fewer than descriptors can be")
    }

    /// Starts to connect; `on_connected` or `on_closed` follows.
    pub fn connect(&mut self, link: u32) {
        self.asked.push_back(Ask::Connect(link));
    }

    /// What is to be written on a link, to append to; it is written at the end of the turn.
    pub fn out(&mut self, link: u32) -> &mut Vec<u8> {
        let slot = &mut self.links[link as usize];
        if !slot.dirty && !slot.full {
            slot.dirty = true;
            self.dirty.push(link);
        }
        &mut slot.out
    }

    /// Bytes to be written on a link, among them those that the socket has taken of an unfinished write.
    pub fn out_bytes(&self, link: u32) -> usize {
        let slot = &self.links[link as usize];
        slot.out.len()
            + slot
                .through
                .as_ref()
                .map_or(0, |through| through.wire.len())
    }

    /// The CPU on which the last packet for a link was handled: on loopback, that of the thread that sent it.
    pub fn cpu(&self, link: u32) -> Option<usize> {
        let socket = self.links[link as usize].socket.as_ref()?;
        socket.cpu_affinity().ok()
    }

    /// Whether the socket of a link takes no more at present.
    pub fn is_full(&self, link: u32) -> bool {
        self.links[link as usize].full
    }

    /// Gives back the memory of a link that may have nothing to write for long.
    pub fn release(&mut self, link: u32) {
        let slot = &mut self.links[link as usize];
        if slot.out.is_empty() {
            slot.out = Vec::new();
        }
    }

    /// Stops reading a link. What a receive in flight brings is still handled.
    pub fn pause(&mut self, link: u32) {
        let slot = &mut self.links[link as usize];
        slot.paused = true;
        if slot.receiving {
            self.asked
                .push_back(Ask::CancelReceive(key(link, slot.generation)));
        }
    }

    /// Goes on reading a link.
    pub fn resume(&mut self, link: u32) {
        self.links[link as usize].paused = false;
        self.asked.push_back(Ask::Receive(link));
    }

    /// Closes a link at once; its late completions are ignored, and it can be connected again.
    pub fn close(&mut self, link: u32) {
        let slot = &mut self.links[link as usize];
        let key = key(link, slot.generation);
        if slot.receiving {
            self.asked.push_back(Ask::CancelReceive(key));
        }
        if slot.full {
            self.asked.push_back(Ask::CancelWritable(key));
        }
        slot.socket = None;
        slot.generation = slot.generation.wrapping_add(1);
        (slot.full, slot.paused, slot.receiving) = (false, false, false);
        slot.carry.clear();
        slot.out.clear();
        slot.written = 0;
        slot.through = None;
    }

    /// Writes `bytes` on every link that has nothing else to write, and closes all.
    pub fn close_all(&mut self, bytes: &[u8]) {
        let mut scratch = Scratch::default();
        for slot in &mut self.links {
            let Some(socket) = slot.socket.take().filter(|_| slot.out.is_empty()) else {
                continue;
            };
            let bytes = match &mut slot.through {
                None => bytes,
                Some(through) if through.wire.is_empty() => {
                    let _ = through.transport.seal([bytes].into_iter(), &mut scratch);
                    through.transport.close(None, &mut scratch);
                    &scratch.wire
                }
                Some(_) => continue,
            };
            // It is a courtesy; a link that is gone does not need it.
            let _ = writer::write(&socket, [bytes]);
        }
    }

    fn is_current(&self, key: Key) -> bool {
        let slot = &self.links[key.index as usize];
        slot.socket.is_some() && slot.generation == key.generation
    }

    /// Takes what the socket of a link received, and hands the packets in it to the handler.
    fn packets_through(
        &mut self,
        handler: &mut impl Handler,
        version: Version,
        key: Key,
        bytes: &[u8],
        scratch: &mut Scratch,
        now_ns: u64,
    ) -> Result<(), String> {
        let link = key.index;
        let Some(through) = &mut self.links[link as usize].through else {
            return Ok(());
        };
        let heard = through.transport.receive(bytes, scratch);
        let answers = !scratch.wire.is_empty();
        through.wire.extend_from_slice(&scratch.wire);
        let opens = through.transport.is_open()
            && !std::mem::replace(&mut through.is_told, through.transport.is_open());
        if answers {
            self.out(link);
        }
        if opens {
            handler.on_connected(self, link)?;
        }
        let clear = std::mem::take(&mut scratch.clear);
        let handled = self.packets(handler, version, key, &clear, now_ns);
        scratch.clear = clear;
        handled?;
        match heard? {
            Heard::Closed if self.is_current(key) => Err("the broker closed the connection".into()),
            Heard::Closed | Heard::Open => Ok(()),
        }
    }

    /// Hands the packets in `bytes` to the handler.
    fn packets(
        &mut self,
        handler: &mut impl Handler,
        version: Version,
        key: Key,
        bytes: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        let link = key.index;
        let mut rest = bytes;
        let mut carry = std::mem::take(&mut self.links[link as usize].carry);
        while !carry.is_empty() {
            match cut(&carry, version)? {
                Cut::Packet { header, body, .. } => {
                    handler.on_packet(self, link, header, body, now_ns)?;
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
        while carry.is_empty() && !rest.is_empty() && self.is_current(key) {
            match cut(rest, version)? {
                Cut::Packet { header, body, len } => {
                    handler.on_packet(self, link, header, body, now_ns)?;
                    rest = &rest[len..];
                }
                Cut::Incomplete { .. } => carry.extend_from_slice(rest),
            }
        }
        if self.is_current(key) {
            self.links[link as usize].carry = carry;
        }
        Ok(())
    }
}

impl Reactor {
    /// A reactor for the calling thread. `wake`, if any, gets a byte when this thread must wake up, and `offset` is
    /// where it begins among the source addresses.
    ///
    /// Errors: there is no ring to be had, in plain words.
    pub fn new(
        route: Route,
        clock: Clock,
        wake: Option<UnixStream>,
        offset: usize,
    ) -> Result<Self, String> {
        let config = RingConfig {
            submission_entries: 1024,
            completion_entries: 16_384,
            buffer_count: 64,
            buffer_bytes: 64 << 10,
        };
        let mut ring = Ring::new(config).map_err(|error| error.to_string())?;
        if let Some(wake) = &wake {
            ring.recv_multi(wake, WAKE_KEY);
        }
        Ok(Self {
            ring,
            route,
            clock,
            wake,
            connects: offset,
            scratch: Scratch::default(),
        })
    }

    /// Whether something is there to be done without waiting.
    ///
    /// Errors: the ring's.
    pub fn has_work(&mut self) -> Result<bool, String> {
        self.ring.submit().map_err(ring_failed)?;
        Ok(self.ring.has_work())
    }

    /// Waits for something to be done, at most `wait`.
    ///
    /// Errors: the ring's.
    pub fn wait(&mut self, wait: Duration) -> Result<(), String> {
        self.ring.wait(wait).map_err(ring_failed)
    }

    /// Handles what the ring has and returns how many completions that was.
    ///
    /// Errors: the ring's or the handler's.
    pub fn receive(
        &mut self,
        links: &mut Links,
        handler: &mut impl Handler,
    ) -> Result<usize, String> {
        let mut took = 0;
        while took < COMPLETIONS_MAX {
            let mut next = self.ring.next_completion();
            if next.is_none() && took > 0 {
                // The kernel hands over about twenty at a time; more of them make better batches.
                self.ring.submit().map_err(ring_failed)?;
                next = self.ring.next_completion();
            }
            let Some(completion) = next else { break };
            took += 1;
            self.completed(links, handler, completion)?;
            self.answer(links, handler)?;
        }
        Ok(took)
    }

    /// Writes what is to be written, and starts what was asked for since.
    ///
    /// Errors: the handler's.
    pub fn flush(&mut self, links: &mut Links, handler: &mut impl Handler) -> Result<(), String> {
        self.answer(links, handler)?;
        let mut dirty = std::mem::take(&mut links.dirty);
        for &link in &dirty {
            let slot = &mut links.links[link as usize];
            slot.dirty = false;
            let Some(socket) = &slot.socket else { continue };
            if let Some(through) = &mut slot.through {
                if let Err(what) = write_through(socket, through, &mut slot.out, &mut self.scratch)
                {
                    handler.on_closed(links, link, &what)?;
                } else if !through.wire.is_empty() {
                    slot.full = true;
                    self.ring.poll_writable(socket, key(link, slot.generation));
                } else if std::mem::take(&mut through.has_mqtt) {
                    handler.on_flushed(links, link);
                }
                continue;
            }
            match writer::write(socket, [&slot.out[slot.written..]]) {
                Ok(wrote) if wrote.is_short() => {
                    slot.written += wrote.accepted;
                    slot.full = true;
                    self.ring.poll_writable(socket, key(link, slot.generation));
                }
                Ok(_) => {
                    slot.out.clear();
                    slot.written = 0;
                    handler.on_flushed(links, link);
                }
                Err(error) => {
                    handler.on_closed(links, link, &format!("writing failed: {error}"))?;
                }
            }
        }
        dirty.clear();
        // What became dirty meanwhile is written with the next turn.
        dirty.append(&mut links.dirty);
        links.dirty = dirty;
        self.answer(links, handler)
    }

    fn completed(
        &mut self,
        links: &mut Links,
        handler: &mut impl Handler,
        completion: Completion,
    ) -> Result<(), String> {
        match completion {
            Completion::Received {
                key: WAKE_KEY,
                received,
                more,
            } => {
                if let Received::Bytes(buffer) = received {
                    self.ring.recycle(buffer);
                }
                if !more && let Some(wake) = &self.wake {
                    self.ring.recv_multi(wake, WAKE_KEY);
                }
                Ok(())
            }
            Completion::Received {
                key,
                received,
                more,
            } => self.received(links, handler, key, received, more),
            Completion::Connected { key, result } if links.is_current(key) => match result {
                Ok(()) => {
                    self.receive_more(links, key.index);
                    if self.route.through.is_plain() {
                        handler.on_connected(links, key.index)
                    } else {
                        self.open(links, handler, key.index)
                    }
                }
                Err(error) => {
                    handler.on_closed(links, key.index, &format!("cannot connect: {error}"))
                }
            },
            Completion::Writable { key } if links.is_current(key) => {
                links.links[key.index as usize].full = false;
                links.out(key.index);
                Ok(())
            }
            Completion::Connected { .. }
            | Completion::Writable { .. }
            | Completion::Accepted { .. }
            | Completion::Woken { .. } => Ok(()),
        }
    }

    fn received(
        &mut self,
        links: &mut Links,
        handler: &mut impl Handler,
        key: Key,
        received: Received,
        more: bool,
    ) -> Result<(), String> {
        let current = links.is_current(key);
        if current {
            links.links[key.index as usize].receiving = more;
        }
        match received {
            Received::Bytes(buffer) => {
                let bytes = self.ring.bytes(&buffer);
                let now_ns = self.clock.now_ns();
                let version = self.route.version;
                let result = if !current {
                    Ok(())
                } else if links.links[key.index as usize].through.is_some() {
                    let scratch = &mut self.scratch;
                    links.packets_through(handler, version, key, bytes, scratch, now_ns)
                } else {
                    links.packets(handler, version, key, bytes, now_ns)
                };
                self.ring.recycle(buffer);
                result.or_else(|what| handler.on_closed(links, key.index, &what))?;
            }
            Received::NoBuffers | Received::Cancelled | Received::Readable => {}
            Received::Eof if current => {
                handler.on_closed(links, key.index, "the broker closed the connection")?;
            }
            Received::Failed(error) if current => {
                handler.on_closed(links, key.index, &format!("receiving failed: {error}"))?;
            }
            Received::Eof | Received::Failed(_) => {}
        }
        if !more && links.is_current(key) {
            self.receive_more(links, key.index);
        }
        Ok(())
    }

    /// Does what the handler asked for.
    fn answer(&mut self, links: &mut Links, handler: &mut impl Handler) -> Result<(), String> {
        while let Some(ask) = links.asked.pop_front() {
            match ask {
                Ask::Connect(link) => self.connect(links, handler, link)?,
                Ask::Receive(link) => self.receive_more(links, link),
                Ask::CancelReceive(key) => self.ring.cancel_recv(key),
                Ask::CancelWritable(key) => self.ring.cancel_writable(key),
            }
        }
        Ok(())
    }

    fn connect(
        &mut self,
        links: &mut Links,
        handler: &mut impl Handler,
        link: u32,
    ) -> Result<(), String> {
        let socket = match self.socket() {
            Ok(socket) => socket,
            Err(error) => return handler.on_closed(links, link, &format!("no socket: {error}")),
        };
        let slot = &mut links.links[link as usize];
        assert!(slot.socket.is_none(), "a link is connected once at a time");
        let address = match &self.route.address {
            Address::Tcp(address) => Ok(SockAddr::from(*address)),
            Address::Unix(path) => SockAddr::unix(path),
        };
        let address = match address {
            Ok(address) => address,
            Err(error) => return handler.on_closed(links, link, &format!("no address: {error}")),
        };
        self.ring
            .connect(&socket, address, key(link, slot.generation));
        slot.socket = Some(socket);
        Ok(())
    }

    fn socket(&mut self) -> std::io::Result<Socket> {
        let Address::Tcp(address) = &self.route.address else {
            return Socket::new(Domain::UNIX, Type::STREAM, None);
        };
        let domain = Domain::for_address(*address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        let sources = &self.route.sources;
        if !sources.is_empty() {
            bind_address_no_port(&socket)?;
            socket.bind(&SocketAddr::new(sources[self.connects % sources.len()], 0).into())?;
            self.connects += 1;
        }
        Ok(socket)
    }

    /// Begins what lies between a connected socket and MQTT.
    fn open(
        &mut self,
        links: &mut Links,
        handler: &mut impl Handler,
        link: u32,
    ) -> Result<(), String> {
        // WebSocket keys and masks need not be secret, only different.
        let seed = self.clock.now_ns() ^ u64::from(link) << 40;
        let opened = ClientTransport::new(&self.route.through, seed).and_then(|mut transport| {
            transport.start(&mut self.scratch)?;
            Ok(transport)
        });
        let transport = match opened {
            Ok(transport) => transport,
            Err(what) => return handler.on_closed(links, link, &what),
        };
        let slot = &mut links.links[link as usize];
        slot.through = Some(Box::new(Through {
            transport,
            wire: self.scratch.wire.clone(),
            written: 0,
            is_told: false,
            has_mqtt: false,
        }));
        links.out(link);
        Ok(())
    }

    fn receive_more(&mut self, links: &mut Links, link: u32) {
        let slot = &mut links.links[link as usize];
        if let Some(socket) = &slot.socket
            && !slot.paused
            && !slot.receiving
        {
            slot.receiving = true;
            self.ring.recv_multi(socket, key(link, slot.generation));
        }
    }
}

/// Makes bytes for the socket from those of MQTT, and writes what it takes.
fn write_through(
    socket: &Socket,
    through: &mut Through,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Result<(), String> {
    let mut sealed = 0;
    while sealed < out.len() && through.is_told {
        let count = through
            .transport
            .seal([&out[sealed..]].into_iter(), scratch)?;
        if count == 0 {
            return Err("the connection is closed".into());
        }
        sealed += count;
        through.has_mqtt = true;
        through.wire.extend_from_slice(&scratch.wire);
    }
    out.drain(..sealed);
    let wrote = writer::write(socket, [&through.wire[through.written..]]);
    through.written += wrote
        .map_err(|error| format!("writing failed: {error}"))?
        .accepted;
    if through.written == through.wire.len() {
        // An idle link keeps no buffer.
        through.wire = Vec::new();
        through.written = 0;
    }
    Ok(())
}

fn cut(bytes: &[u8], version: Version) -> Result<Cut<'_>, String> {
    cut_version(bytes, PACKET_BYTES_MAX, version).map_err(|error| error.to_string())
}

fn key(link: u32, generation: u32) -> Key {
    Key {
        index: link,
        generation,
    }
}

fn ring_failed(error: std::io::Error) -> String {
    format!("the ring failed: {error}")
}

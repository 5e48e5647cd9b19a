//! The physical limit: a process that only moves bytes from socket to socket.
//!
//! It answers CONNECT, SUBSCRIBE and PINGREQ so that the generator can connect to it, and from the first
//! PUBLISH of a connection on it copies: it reads the topic once, takes the packet's length as that of all
//! that follow, looks at the first byte of each packet to see that it is one more of them, and appends
//! the run to each receiver's buffer. A turn makes one read for each connection with data and one write for
//! each receiver. There is no topic index, no session, no queue limit, no QoS above 0, and one thread.
//!
//! With a delay it holds what it got for that long and tells, when all connections are gone, how long it really did: a
//! latency that is known from the other side, to hold against the one that the generator reports.
//!
//! What it needs per message is what any broker on this machine needs at least: the kernel's work for the
//! read and the write, and a copy. It is no broker; it understands only what this generator sends it.

use crate::clock::nanoseconds;
use crate::worker::histogram;
use hdrhistogram::Histogram;
use ringmq::net::listener::Listener;
use ringmq::net::ring::{Completion, Key, Received, Ring, RingConfig};
use ringmq::net::writer;
use ringmq::protocol::frame::{Cut, FixedHeader, PACKET_BYTES_MAX, cut_version};
use ringmq::protocol::{
    Connack, ConnackProperties, Connect, PacketType, Publish, QoS, ReasonCode, Subscribe, Version,
    put_pingresp, put_suback,
};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A receiver that is this far behind is cut off, so that the relay's memory stays bounded.
const OUT_BYTES_MAX: usize = 64 << 20;
/// Completions taken in a row before the connections are written.
const COMPLETIONS_MAX: usize = 512;
const LISTENER: Key = Key {
    index: Key::INDEX_END - 1,
    generation: 0,
};

/// Relays until the process is ended.
///
/// Errors: it cannot listen, or the ring fails.
pub fn run(address: SocketAddr, delay: Duration) -> Result<Infallible, String> {
    let mut relay = Relay::bind(address)?;
    relay.table.delay_ns = nanoseconds(delay);
    eprintln!("relay listens at {}", relay.address());
    loop {
        relay.turn(Duration::from_secs(1))?;
    }
}

/// A relay with its listener and connections.
#[derive(Debug)]
pub struct Relay {
    ring: Ring,
    listener: Listener,
    table: Table,
}

#[derive(Debug, Default)]
struct Table {
    conns: Vec<Option<Conn>>,
    free: Vec<u32>,
    generation: u32,
    /// Filter and connection of each subscription.
    subscriptions: Vec<(String, u32)>,
    dirty: Vec<u32>,
    dead: Vec<u32>,
    /// How long messages are held; nothing passes them on at once.
    delay_ns: u64,
    /// What is held: the time it came, the connections it is for, and the bytes.
    held: VecDeque<(u64, Vec<u32>, Vec<u8>)>,
    /// How long what is no longer held was, in ns.
    holding: Option<Histogram<u64>>,
}

#[derive(Debug)]
struct Conn {
    socket: OwnedFd,
    generation: u32,
    version: Option<Version>,
    route: Option<Route>,
    carry: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    dirty: bool,
    full: bool,
    dead: bool,
    /// Operations in flight: a slot is given to another only when there is none.
    receiving: bool,
}

/// What a publishing connection sends, and to whom.
#[derive(Debug)]
struct Route {
    first_byte: u8,
    packet_bytes: usize,
    receivers: Vec<u32>,
}

impl Relay {
    /// Listens.
    ///
    /// Errors: what the system said.
    pub fn bind(address: SocketAddr) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot listen at {address}: {error}");
        let mut listeners = Listener::bind_all(address, 1).map_err(failed)?;
        let listener = listeners.pop().expect("one was asked for");
        listener.listen().map_err(failed)?;
        let config = RingConfig {
            submission_entries: 1024,
            completion_entries: 16_384,
            buffer_count: 64,
            buffer_bytes: 64 << 10,
        };
        let mut ring = Ring::new(config).map_err(|error| error.to_string())?;
        ring.accept(&listener, LISTENER);
        Ok(Self {
            ring,
            listener,
            table: Table::default(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Moves what there is to move; waits for something at most `wait`.
    ///
    /// Errors: the ring failed.
    pub fn turn(&mut self, wait: Duration) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("the ring failed: {error}");
        self.ring.submit().map_err(failed)?;
        if !self.ring.has_work() {
            let wait = wait.min(self.table.next_release());
            if !wait.is_zero() {
                self.ring.wait(wait).map_err(failed)?;
            }
        }
        let mut took = 0;
        while took < COMPLETIONS_MAX {
            let Some(completion) = self.ring.next_completion() else {
                if took == 0 {
                    break;
                }
                let before = took;
                self.ring.submit().map_err(failed)?;
                match self.ring.next_completion() {
                    Some(completion) => self.completed(completion),
                    None => break,
                }
                took = before + 1;
                continue;
            };
            took += 1;
            self.completed(completion);
        }
        self.table.release();
        self.flush();
        Ok(())
    }

    fn completed(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { socket, more, .. } => {
                if let Ok(socket) = socket {
                    let key = self.table.insert(socket);
                    self.receive_more(key);
                }
                if !more {
                    self.ring.accept(&self.listener, LISTENER);
                }
            }
            Completion::Received {
                key,
                received,
                more,
            } => {
                let Some(conn) = self.table.get(key) else {
                    if let Received::Bytes(buffer) = received {
                        self.ring.recycle(buffer);
                    }
                    return;
                };
                conn.receiving = more;
                match received {
                    Received::Bytes(buffer) => {
                        let result = self.table.receive(key.index, self.ring.bytes(&buffer));
                        self.ring.recycle(buffer);
                        if let Err(why) = result {
                            eprintln!("relay: {why}");
                            self.table.kill(key.index);
                        }
                    }
                    Received::NoBuffers | Received::Cancelled | Received::Readable => {}
                    Received::Eof | Received::Failed(_) => self.table.kill(key.index),
                }
                if !more {
                    self.receive_more(key);
                }
            }
            Completion::Writable { key } => {
                if let Some(conn) = self.table.get(key) {
                    conn.full = false;
                    self.table.mark_dirty(key.index);
                }
            }
            Completion::Connected { .. } | Completion::Woken { .. } => {}
        }
    }

    fn receive_more(&mut self, key: Key) {
        if let Some(conn) = self.table.get(key)
            && !conn.dead
        {
            conn.receiving = true;
            self.ring.recv_multi(&conn.socket, key);
        }
    }

    fn flush(&mut self) {
        for index in std::mem::take(&mut self.table.dirty) {
            let Some(conn) = self.table.conns[index as usize].as_mut() else {
                continue;
            };
            conn.dirty = false;
            if conn.dead {
                continue;
            }
            match writer::write(&conn.socket, [&conn.out[conn.written..]]) {
                Ok(wrote) if wrote.is_short() => {
                    conn.written += wrote.accepted;
                    conn.full = true;
                    let key = Key {
                        index,
                        generation: conn.generation,
                    };
                    self.ring.poll_writable(&conn.socket, key);
                    if conn.out.len() - conn.written > OUT_BYTES_MAX {
                        eprintln!("relay: a receiver is 64 MiB behind");
                        self.table.kill(index);
                    }
                }
                Ok(_) => {
                    conn.out.clear();
                    conn.written = 0;
                }
                Err(_) => self.table.kill(index),
            }
        }
        for index in std::mem::take(&mut self.table.dead) {
            let Some(conn) = self.table.conns[index as usize].as_ref() else {
                continue;
            };
            let key = Key {
                index,
                generation: conn.generation,
            };
            if conn.receiving {
                self.ring.cancel_recv(key);
            }
            if conn.full {
                self.ring.cancel_writable(key);
            }
            // Completions of the operations in flight find another generation, or none.
            self.table.conns[index as usize] = None;
            self.table.free.push(index);
        }
        self.table.tell();
    }
}

impl Table {
    fn insert(&mut self, socket: OwnedFd) -> Key {
        self.generation = self.generation.wrapping_add(1);
        let conn = Conn {
            socket,
            generation: self.generation,
            version: None,
            route: None,
            carry: Vec::new(),
            out: Vec::new(),
            written: 0,
            dirty: false,
            full: false,
            dead: false,
            receiving: false,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() as u32 - 1
        });
        self.conns[index as usize] = Some(conn);
        Key {
            index,
            generation: self.generation,
        }
    }

    fn get(&mut self, key: Key) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(key.index as usize)?.as_mut()?;
        (conn.generation == key.generation).then_some(conn)
    }

    fn kill(&mut self, index: u32) {
        let Some(conn) = self.conns[index as usize].as_mut() else {
            return;
        };
        if !conn.dead {
            conn.dead = true;
            self.dead.push(index);
            self.subscriptions.retain(|(_, of)| *of != index);
            self.forget_routes();
        }
    }

    fn forget_routes(&mut self) {
        self.conns
            .iter_mut()
            .flatten()
            .for_each(|conn| conn.route = None);
    }

    fn mark_dirty(&mut self, index: u32) {
        if let Some(conn) = self.conns[index as usize].as_mut()
            && !conn.dirty
            && !conn.full
        {
            conn.dirty = true;
            self.dirty.push(index);
        }
    }

    fn receive(&mut self, index: u32, bytes: &[u8]) -> Result<(), String> {
        let mut carry = match self.conns[index as usize].as_mut() {
            Some(conn) => std::mem::take(&mut conn.carry),
            None => return Ok(()),
        };
        let mut rest = bytes;
        while !carry.is_empty() && !rest.is_empty() {
            let need = match self.cut(index, &carry)? {
                Cut::Incomplete { need } => need - carry.len(),
                Cut::Packet { .. } => return Err("a whole packet was left over".into()),
            };
            let (more, after) = rest.split_at(need.min(rest.len()));
            carry.extend_from_slice(more);
            rest = after;
            if let Cut::Packet { header, body, len } = self.cut(index, &carry)? {
                self.on_packet(index, header, body, &carry[..len])?;
                carry.clear();
            }
        }
        while !rest.is_empty() {
            let run = self.run_bytes(index, rest);
            if run > 0 {
                self.forward(index, &rest[..run]);
                rest = &rest[run..];
                continue;
            }
            match self.cut(index, rest)? {
                Cut::Packet { header, body, len } => {
                    self.on_packet(index, header, body, &rest[..len])?;
                    rest = &rest[len..];
                }
                Cut::Incomplete { .. } => break,
            }
        }
        carry.extend_from_slice(rest);
        if let Some(conn) = self.conns[index as usize].as_mut() {
            conn.carry = carry;
        }
        Ok(())
    }

    fn cut<'b>(&self, index: u32, bytes: &'b [u8]) -> Result<Cut<'b>, String> {
        let version = self.conns[index as usize]
            .as_ref()
            .and_then(|conn| conn.version);
        cut_version(bytes, PACKET_BYTES_MAX, version.unwrap_or(Version::V311))
            .map_err(|error| error.to_string())
    }

    /// The bytes at the start that are whole packets of the kind this connection is known to send.
    fn run_bytes(&self, index: u32, bytes: &[u8]) -> usize {
        let conn = self.conns[index as usize].as_ref();
        let Some(route) = conn.and_then(|conn| conn.route.as_ref()) else {
            return 0;
        };
        let packets = bytes.chunks_exact(route.packet_bytes);
        packets
            .take_while(|packet| packet[0] == route.first_byte)
            .count()
            * route.packet_bytes
    }

    fn forward(&mut self, index: u32, bytes: &[u8]) {
        let Some(conn) = self.conns[index as usize].as_mut() else {
            return;
        };
        let Some(route) = conn.route.take() else {
            return;
        };
        let receivers: &[u32] = if self.delay_ns > 0 {
            let held = (now_ns(), route.receivers.clone(), bytes.to_vec());
            self.held.push_back(held);
            &[]
        } else {
            &route.receivers
        };
        for &receiver in receivers {
            if let Some(conn) = self.conns[receiver as usize].as_mut() {
                conn.out.extend_from_slice(bytes);
                self.mark_dirty(receiver);
            }
        }
        if let Some(conn) = self.conns[index as usize].as_mut() {
            conn.route = Some(route);
        }
    }

    /// How long nothing held is due.
    fn next_release(&self) -> Duration {
        self.held.front().map_or(Duration::MAX, |(came_ns, ..)| {
            Duration::from_nanos((came_ns + self.delay_ns).saturating_sub(now_ns()))
        })
    }

    /// Passes on what was held long enough.
    fn release(&mut self) {
        while let Some((came_ns, ..)) = self.held.front() {
            let held_ns = now_ns() - came_ns;
            if held_ns < self.delay_ns {
                return;
            }
            let (_, receivers, bytes) = self.held.pop_front().expect("it was there");
            self.holding
                .get_or_insert_with(histogram)
                .saturating_record(held_ns);
            for receiver in receivers {
                if let Some(conn) = self.conns[receiver as usize].as_mut() {
                    conn.out.extend_from_slice(&bytes);
                    self.mark_dirty(receiver);
                }
            }
        }
    }

    /// Tells how long messages were held, once all connections are gone.
    fn tell(&mut self) {
        if self.free.len() == self.conns.len()
            && let Some(held) = self.holding.take()
        {
            eprintln!(
                "relay held {} batches: p50 {:.1} p99 {:.1} max {:.1} us",
                held.len(),
                held.value_at_quantile(0.5) as f64 / 1e3,
                held.value_at_quantile(0.99) as f64 / 1e3,
                held.max() as f64 / 1e3
            );
        }
    }

    fn on_packet(
        &mut self,
        index: u32,
        header: FixedHeader,
        body: &[u8],
        packet: &[u8],
    ) -> Result<(), String> {
        let Some(conn) = self.conns[index as usize].as_mut() else {
            return Ok(());
        };
        let version = match (header.packet_type, conn.version) {
            (PacketType::Connect, None) => {
                let connect = Connect::decode(body).map_err(|error| error.to_string())?;
                conn.version = Some(connect.version);
                let connack = Connack {
                    session_present: false,
                    reason: ReasonCode::Success,
                    properties: ConnackProperties {
                        qos_maximum: QoS::AtMostOnce,
                        ..ConnackProperties::default()
                    },
                };
                connack.encode(connect.version, &mut conn.out);
                self.mark_dirty(index);
                return Ok(());
            }
            (_, Some(version)) => version,
            (packet_type, None) => return Err(format!("{} before CONNECT", packet_type.name())),
        };
        match header.packet_type {
            PacketType::Subscribe => {
                let subscribe =
                    Subscribe::decode(version, body).map_err(|error| error.to_string())?;
                let granted: Vec<u8> = subscribe.filters().map(|_| 0).collect();
                put_suback(&mut conn.out, version, subscribe.packet_id, &granted);
                let filters = subscribe
                    .filters()
                    .map(|(filter, _)| (filter.to_owned(), index));
                self.subscriptions.extend(filters);
                self.forget_routes();
                self.mark_dirty(index);
            }
            PacketType::Publish => {
                let publish = Publish::decode(version, header.flags, body)
                    .map_err(|error| error.to_string())?;
                if publish.qos != QoS::AtMostOnce {
                    return Err("the relay knows QoS 0 only".into());
                }
                let matching = self
                    .subscriptions
                    .iter()
                    .filter(|(filter, _)| matches(filter, publish.topic));
                let receivers = matching.map(|(_, receiver)| *receiver).collect();
                conn.route = Some(Route {
                    first_byte: packet[0],
                    packet_bytes: packet.len(),
                    receivers,
                });
                self.forward(index, packet);
            }
            PacketType::Pingreq => {
                put_pingresp(&mut conn.out);
                self.mark_dirty(index);
            }
            PacketType::Disconnect => self.kill(index),
            packet_type => return Err(format!("the relay does not know {}", packet_type.name())),
        }
        Ok(())
    }
}

/// Nanoseconds of a clock that never goes back.
fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    nanoseconds(START.get_or_init(Instant::now).elapsed())
}

/// Whether a filter without wildcards, or with `+` as its last level, matches.
fn matches(filter: &str, topic: &str) -> bool {
    match filter.strip_suffix('+') {
        Some(parent) => topic
            .strip_prefix(parent)
            .is_some_and(|last| !last.contains('/')),
        None => filter == topic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::thread;

    const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a";
    const CONNACK: &[u8] = b"\x20\x02\x00\x00";

    fn exchange(stream: &mut TcpStream, send: &[u8], expect: &[u8]) {
        stream.write_all(send).unwrap();
        let mut got = vec![0; expect.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, expect);
    }

    #[test]
    fn packets_arrive_whole_whatever_the_reads_were() {
        let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = relay.address();
        let clients = thread::spawn(move || {
            let connect = || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                exchange(&mut stream, CONNECT, CONNACK);
                stream
            };
            let mut subscriber = connect();
            exchange(
                &mut subscriber,
                b"\x82\x08\x00\x01\x00\x03t/+\x00",
                b"\x90\x03\x00\x01\x00",
            );
            let mut publishers = [connect(), connect()];
            let packet = |from: usize, number: u8| -> Vec<u8> {
                let mut packet = format!("0\x0a\x00\x03t/{from}").into_bytes();
                packet.extend([from as u8, number, number, number, 0xC0]);
                packet
            };
            for (from, publisher) in publishers.iter_mut().enumerate() {
                let mut bytes: Vec<u8> = (0..100).flat_map(|number| packet(from, number)).collect();
                // A PINGREQ in the middle must not shift the packets behind it.
                bytes.splice(120..120, *b"\xC0\x00");
                for piece in bytes.chunks(7) {
                    publisher.write_all(piece).unwrap();
                }
                exchange(publisher, b"", b"\xD0\x00");
            }
            let mut next = [0_u8; 2];
            for _ in 0..200 {
                let mut got = [0; 12];
                subscriber.read_exact(&mut got).unwrap();
                let from = usize::from(got[7]);
                assert_eq!(got[..], packet(from, next[from]));
                next[from] += 1;
            }
            assert_eq!(next, [100, 100]);
        });
        while !clients.is_finished() {
            relay.turn(Duration::from_millis(10)).unwrap();
        }
        clients.join().unwrap();
        for _ in 0..10 {
            relay.turn(Duration::from_millis(10)).unwrap();
        }
        assert_eq!(relay.table.free.len(), 3, "all connections are gone");
        assert!(relay.table.subscriptions.is_empty());
    }

    #[test]
    fn what_is_held_comes_late_and_whole() {
        let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let delay = Duration::from_millis(30);
        relay.table.delay_ns = nanoseconds(delay);
        let address = relay.address();
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            exchange(&mut stream, CONNECT, CONNACK);
            let subscribe = b"\x82\x06\x00\x01\x00\x01t\x00";
            exchange(&mut stream, subscribe, b"\x90\x03\x00\x01\x00");
            let begun = Instant::now();
            exchange(&mut stream, b"0\x05\x00\x01tab", b"0\x05\x00\x01tab");
            assert!(begun.elapsed() >= delay);
        });
        let mut held = None;
        while !client.is_finished() {
            relay.turn(Duration::from_millis(10)).unwrap();
            held = held.max(relay.table.holding.as_ref().map(|all| all.min()));
        }
        client.join().unwrap();
        assert!(held.is_some_and(|ns| ns >= 29_900_000), "{held:?}");
    }

    #[test]
    fn filters() {
        assert!(matches("a/b", "a/b") && matches("a/+", "a/b"));
        assert!(!matches("a/b", "a/c") && !matches("a/+", "a/b/c") && !matches("a/+", "b/a"));
    }
}

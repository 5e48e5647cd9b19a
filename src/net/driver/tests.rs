//! The driver against real sockets on loopback, with a state machine that does what its peers tell it.

use super::admit::ACCEPT_PAUSE_MS;
use super::flush::{FLUSH_BYTES_MAX, WRITE_BYTES};
use super::*;
use crate::access::RulesInForce;
use crate::config::listener::ListenerSpec;
use crate::mesh::link::{LinkConfig, Mark, full_mesh};
use crate::net::live::Parts;
use crate::net::ring::RingConfig;
use crate::net::sockets::{Reading, Recv};
use crate::net::transport::Door;
use crate::shard::input::CloseCause;
use crate::shard::outbox::Handover;
use socket2::SockRef;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown as Side, SocketAddr, TcpStream};
use std::time::Instant;

/// A chunk of the outbound of [`Fake`].
const CHUNK: usize = 16 << 10;
/// How much [`Fake`] wants of each connection at once, in bytes.
pub(super) const EXPECTED_BYTES: usize = 12_000;

/// Echoes what it receives, except for these commands:
/// * `quit`: answers `bye` and closes.
/// * `over`: hands the connection to shard 1, which answers `here`.
/// * `wait`: stops reading for 50 ms.
/// * `bulk`: sends [`BULK_BYTES`], of which a megabyte at most is outbound at a time.
/// * `mesh`: sends 30 messages to shard 1.
#[derive(Default)]
pub(super) struct Fake {
    conns: HashMap<ConnKey, FakeConn>,
    pub(super) seen: Vec<Seen>,
    /// Of whom, and how many, bytes came.
    pub(super) fed: Vec<(ConnKey, usize)>,
    waiting: Vec<(u64, ConnKey)>,
    made_bytes: u64,
}

#[derive(Default)]
struct FakeConn {
    outbound: VecDeque<Vec<u8>>,
    /// Bytes of bulk not yet in `outbound`, and where in the pattern they begin.
    bulk: usize,
    bulk_at: usize,
    has_moved: bool,
}

/// More than the kernel buffers between two sockets.
pub(super) const BULK_BYTES: usize = 48 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Accepted(ConnKey),
    HandedOver,
    Identified(String),
    Received(usize),
    Written(usize),
    Closed(CloseCause),
    Mesh(u64),
    Link(Pressure),
    Tick,
    Shutdown,
}

pub(super) fn bulk_byte(at: usize) -> u8 {
    (at % 251) as u8
}

impl Fake {
    fn received(&mut self, now: Now, conn: ConnKey, bytes: &[u8], outbox: &mut Outbox) {
        self.seen.push(Seen::Received(bytes.len()));
        self.fed.push((conn, bytes.len()));
        let state = self.conns.get_mut(&conn).expect("fed before Closed only");
        match bytes {
            b"quit" => {
                state.outbound.push_back(b"bye".to_vec());
                outbox.dirty.push(conn);
                outbox.close.push(conn);
            }
            b"over" if state.has_moved => {
                state.outbound.push_back(b"here".to_vec());
                outbox.dirty.push(conn);
            }
            b"over" => {
                self.conns.remove(&conn);
                outbox.handover.push(Handover {
                    conn,
                    to: ShardId(1),
                    unread: bytes.to_vec(),
                });
            }
            b"wait" => {
                outbox.pause.push(conn);
                self.waiting.push((now.mono_ms + 50, conn));
            }
            b"bulk" => {
                state.bulk = BULK_BYTES;
                self.refill(conn);
                outbox.dirty.push(conn);
            }
            b"many" => {
                for (key, state) in &mut self.conns {
                    state.outbound.push_back(bytes.to_vec());
                    outbox.later.push(*key);
                }
            }
            b"mesh" => {
                for up_to in 0..30 {
                    outbox
                        .mesh
                        .push((ShardId(1), MeshMessage::AnnouncementAck { up_to }));
                }
            }
            _ => {
                state.outbound.push_back(bytes.to_vec());
                self.made_bytes += bytes.len() as u64;
                outbox.dirty.push(conn);
            }
        }
    }

    fn refill(&mut self, conn: ConnKey) {
        let state = self.conns.get_mut(&conn).expect("open");
        while state.bulk > 0 && state.outbound.len() < (1 << 20) / CHUNK {
            let count = state.bulk.min(CHUNK);
            state.outbound.push_back(
                (state.bulk_at..state.bulk_at + count)
                    .map(bulk_byte)
                    .collect(),
            );
            state.bulk -= count;
            state.bulk_at += count;
        }
    }
}

impl StateMachine for Fake {
    fn is_ready(&self) -> bool {
        true
    }

    fn handle(&mut self, now: Now, input: Input<'_>, outbox: &mut Outbox) {
        match input {
            Input::Accepted { conn } => {
                self.seen.push(Seen::Accepted(conn));
                assert!(self.conns.insert(conn, FakeConn::default()).is_none());
            }
            Input::HandedOver { conn, unread } => {
                assert!(unread.is_empty(), "it comes when all is told");
                self.seen.push(Seen::HandedOver);
                let state = FakeConn {
                    has_moved: true,
                    ..FakeConn::default()
                };
                assert!(self.conns.insert(conn, state).is_none());
            }
            Input::Identified { username, .. } => self.seen.push(Seen::Identified(username.into())),
            Input::Received { conn, bytes } => {
                assert!(!bytes.is_empty());
                self.received(now, conn, bytes, outbox);
            }
            Input::Written { conn, mut bytes } => {
                self.seen.push(Seen::Written(bytes));
                let state = self.conns.get_mut(&conn).expect("open");
                while bytes > 0 {
                    let front = state
                        .outbound
                        .front_mut()
                        .expect("no more than was offered");
                    let taken = bytes.min(front.len());
                    front.drain(..taken);
                    bytes -= taken;
                    if front.is_empty() {
                        state.outbound.pop_front();
                    }
                }
                self.refill(conn);
            }
            Input::Closed { conn, cause } => {
                self.seen.push(Seen::Closed(cause));
                self.conns.remove(&conn).expect("closed once");
            }
            Input::Mesh { from, message } => {
                let MeshMessage::AnnouncementAck { up_to } = message else {
                    panic!("{message:?}")
                };
                assert_eq!(from, ShardId(0));
                self.seen.push(Seen::Mesh(up_to));
            }
            Input::Link { pressure, .. } => self.seen.push(Seen::Link(pressure)),
            Input::Limits(_) | Input::Memory(_) | Input::Rules { .. } | Input::Withdrawn(_) => {}
            Input::Demanded { .. } | Input::Verdict { .. } => {}
            Input::Tick => {
                self.seen.push(Seen::Tick);
                for (_, conn) in self
                    .waiting
                    .extract_if(.., |(at_ms, _)| *at_ms <= now.mono_ms)
                {
                    outbox.resume.push(conn);
                }
            }
            Input::Committed { .. } | Input::Fetched { .. } | Input::StoreState { .. } => {}
            Input::StorePressure(_) => {}
            Input::FanOut => unreachable!("it fans nothing out"),
            Input::Shutdown => {
                self.seen.push(Seen::Shutdown);
                outbox.close.extend(self.conns.keys());
            }
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        self.waiting.iter().map(|(at_ms, _)| *at_ms).min()
    }

    fn is_fanning_out(&self) -> bool {
        false
    }

    fn outbound(&self, conn: ConnKey) -> impl Iterator<Item = &[u8]> {
        self.conns
            .get(&conn)
            .into_iter()
            .flat_map(|state| state.outbound.iter().map(Vec::as_slice))
    }

    fn acked_not_durable(&self) -> u64 {
        0
    }

    fn expected_bytes(&self, _: ConnKey) -> usize {
        EXPECTED_BYTES
    }

    fn made_bytes(&self) -> u64 {
        self.made_bytes
    }
}

/// When the tests begin.
pub(super) const START: Now = Now {
    mono_ms: 1_000_000,
    wall_ms: 0,
};

/// Cores whose turns the test takes, with time that the test makes.
pub(super) struct Cores {
    pub(super) drivers: Vec<Driver<Fake>>,
    pub(super) shutdown: Arc<Shutdown>,
    pub(super) address: SocketAddr,
    pub(super) now: Now,
}

pub(super) const RING: RingConfig = RingConfig {
    submission_entries: 64,
    completion_entries: 256,
    buffer_count: 16,
    buffer_bytes: 2048,
};

pub(super) fn plain_door() -> Arc<Door> {
    let spec = ListenerSpec::tcp("tcp", (Ipv4Addr::LOCALHOST, 0).into());
    Arc::new(Door::open(spec).unwrap())
}

/// What cores are made from, and where the first one accepts.
pub(super) fn setups(
    door: &Arc<Door>,
    count: usize,
    link: LinkConfig,
) -> (Vec<DriverSetup>, SocketAddr) {
    let wakes: Vec<_> = (0..count).map(|_| Arc::new(Wake::new().unwrap())).collect();
    let shutdown = Arc::new(Shutdown::new(wakes.clone()));
    // Each core has all listeners, but nobody knows the other cores' ports.
    let mut listeners: Vec<_> = (0..count)
        .map(|_| Listener::bind_door(door, 1).unwrap())
        .collect();
    let address = listeners[0][0].address();
    let links = full_mesh(link, &wakes).into_iter();
    let parts = Parts {
        limits: Arc::default(),
        doors: vec![Arc::clone(door)],
        rules: RulesInForce::default(),
        withdrawn: Arc::default(),
    };
    let live = Arc::new(Live::new(parts, wakes.clone(), 1, u64::MAX));
    let setups = links
        .zip(wakes)
        .enumerate()
        .map(|(index, (links, wake))| DriverSetup {
            id: ShardId(index as u8),
            listeners: std::mem::take(&mut listeners[index]),
            links,
            wake,
            shutdown: Arc::clone(&shutdown),
            live: Arc::clone(&live),
            log: None,
            auth: None,
            store: None,
            outbox: Outbox::default(),
            counters: Arc::default(),
        });
    (setups.collect(), address)
}

impl Cores {
    pub(super) fn new(count: usize) -> Self {
        Self::with(count, RING, LinkConfig::default())
    }

    /// Only the first core accepts.
    fn with(count: usize, ring: RingConfig, link: LinkConfig) -> Self {
        Self::behind(&plain_door(), count, ring, link)
    }

    /// Only the first core accepts, through this door.
    pub(super) fn behind(
        door: &Arc<Door>,
        count: usize,
        ring: RingConfig,
        link: LinkConfig,
    ) -> Self {
        let (setups, address) = setups(door, count, link);
        let shutdown = Arc::clone(&setups[0].shutdown);
        let drivers = setups.into_iter().map(|setup| {
            Driver::new(setup, Ring::new(ring).unwrap(), Fake::default(), START).unwrap()
        });
        let mut cores = Self {
            drivers: drivers.collect(),
            shutdown,
            address,
            now: START,
        };
        cores.until(|cores| cores.drivers.iter().all(Driver::is_listening));
        cores
    }

    pub(super) fn turn(&mut self) -> Vec<Turn> {
        let now = self.now;
        self.drivers
            .iter_mut()
            .map(|driver| driver.turn(now).unwrap())
            .collect()
    }

    /// Takes turns of all cores until `condition`, which must come true within 10 s.
    pub(super) fn until(&mut self, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "not within 10 s; {:?}",
                self.drivers[0].shard.seen
            );
            if self.turn().iter().all(|turn| *turn == Turn::Idle) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Takes turns until nothing happens for a while.
    pub(super) fn settle(&mut self) {
        let mut idle = 0;
        while idle < 20 {
            idle = if self.turn().iter().all(|turn| *turn == Turn::Idle) {
                idle + 1
            } else {
                0
            };
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn connect(&mut self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    /// Takes turns until `client` has received `count` bytes.
    pub(super) fn read(&mut self, client: &mut TcpStream, count: usize) -> Vec<u8> {
        let mut got = Vec::new();
        self.until(|_| {
            let mut chunk = vec![0; count - got.len()];
            match client.read(&mut chunk) {
                Ok(0) => panic!("end of file after {} bytes", got.len()),
                Ok(count) => got.extend_from_slice(&chunk[..count]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            got.len() == count
        });
        got
    }

    /// Takes turns until `client` sees the end, which must be a FIN and not a reset.
    fn read_end(&mut self, client: &mut TcpStream) {
        self.until(|_| match client.read(&mut [0]) {
            Ok(0) => true,
            Ok(_) => panic!("more bytes"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        });
    }

    pub(super) fn seen(&self, core: usize) -> &[Seen] {
        &self.drivers[core].shard.seen
    }

    pub(super) fn closed(&self, cause: CloseCause) -> bool {
        self.seen(0).contains(&Seen::Closed(cause))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.drivers.iter().all(|driver| driver.sockets.is_empty())
    }
}

#[test]
fn echoes_and_settles() {
    let mut cores = Cores::new(1);
    let mut client = cores.connect();
    for round in 0..20u8 {
        client.write_all(&[round; 5]).unwrap();
        assert_eq!(cores.read(&mut client, 5), [round; 5]);
    }
    assert!(cores.drivers[0].sockets.len() == 1);
    drop(client);
    cores.until(|cores| cores.is_empty());
    assert!(cores.closed(CloseCause::PeerClosed));
    let counters = &cores.drivers[0].counters;
    assert_eq!(
        (counters.received_bytes.get(), counters.sent_bytes.get()),
        (100, 100)
    );
    assert_eq!(
        (counters.accepted.get(), counters.buffers_missing.get()),
        (1, 0)
    );
}

#[test]
fn slots_are_reused_under_other_keys() {
    let mut cores = Cores::new(1);
    for _ in 0..5 {
        let mut client = cores.connect();
        client.write_all(b"x").unwrap();
        cores.read(&mut client, 1);
        drop(client);
        cores.until(|cores| cores.is_empty());
    }
    let accepted = cores.seen(0).iter().filter_map(|seen| match seen {
        Seen::Accepted(conn) => Some(*conn),
        _ => None,
    });
    let keys: Vec<_> = accepted.collect();
    assert_eq!(keys.len(), 5);
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(key.index, 0);
        assert!(!keys[..at].contains(key));
    }
}

#[test]
fn within_a_turn_a_little_for_each_waits_for_more() {
    let mut cores = Cores::new(1);
    let mut client = cores.connect();
    client.write_all(b"x").unwrap();
    cores.read(&mut client, 1);
    let Seen::Accepted(conn) = cores.seen(0)[0] else {
        panic!("{:?}", cores.seen(0))
    };
    let driver = &mut cores.drivers[0];
    // What is made, what was fed, and whether it leaves.
    let cases = [
        (1, FLUSH_BYTES - 1, false),
        (1, FLUSH_BYTES, false),
        (1, FLUSH_BYTES_MAX, true),
        (WRITE_BYTES as usize, FLUSH_BYTES - 1, false),
        (WRITE_BYTES as usize, FLUSH_BYTES, true),
    ];
    for (made, fed, leaves) in cases {
        let bytes = vec![b'x'; made];
        driver
            .shard
            .received(driver.now, conn, &bytes, &mut driver.outbox);
        driver.fed_bytes = fed;
        driver.flush_if_much_was_fed();
        assert_eq!(driver.outbox.dirty.is_empty(), leaves, "{made} {fed}");
        driver.flush();
    }
}

#[test]
fn what_many_get_leaves_over_turns_and_others_are_served_in_between() {
    let mut cores = Cores::new(1);
    let mut clients: Vec<_> = (0..10).map(|_| cores.connect()).collect();
    cores.until(|cores| cores.drivers[0].shard.conns.len() == 10);
    clients[0].write_all(b"many").unwrap();
    cores.until(|cores| !cores.drivers[0].later.is_empty());
    let last = *cores.drivers[0].later.back().unwrap();
    let mut last = {
        let socket = cores.drivers[0].sockets.get(last).unwrap();
        let address = SockRef::from(&*socket).peer_addr().unwrap().as_socket();
        let is_it = |client: &TcpStream| address == Some(client.local_addr().unwrap());
        clients.remove(clients.iter().position(is_it).unwrap())
    };
    // Something else for one who is to wait takes along what there was.
    last.write_all(b"x").unwrap();
    assert_eq!(cores.read(&mut last, 5), b"manyx");
    assert!(
        cores.drivers[0].later.len() > 2,
        "{:?}",
        cores.drivers[0].later
    );
    for client in &mut clients {
        assert_eq!(cores.read(client, 4), b"many");
    }
    cores.settle();
    assert!(cores.drivers[0].later.is_empty());
    assert_eq!(
        last.read(&mut [0]).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    let mut cores = Cores::new(1);
    let mut client = cores.connect();
    client.write_all(b"bulk").unwrap();
    cores.until(|cores| cores.drivers[0].counters.writes_waited.get() > 0);
    cores.settle();
    assert!(cores.drivers[0].counters.sent_bytes.get() < BULK_BYTES as u64);
    let got = cores.read(&mut client, BULK_BYTES);
    assert!(
        got.iter()
            .enumerate()
            .all(|(at, byte)| *byte == bulk_byte(at))
    );
    // A full socket does not keep others waiting, nor does it keep this one from reading.
    client.write_all(b"still").unwrap();
    assert_eq!(cores.read(&mut client, 5), b"still");
}

#[test]
fn the_last_words_arrive_although_the_peer_goes_on_sending() {
    let mut cores = Cores::new(1);
    let mut client = cores.connect();
    client.write_all(b"quit").unwrap();
    cores.until(|cores| cores.seen(0).len() >= 2);
    // Bytes that nobody reads any more; closing now would reset the connection.
    client.set_nonblocking(false).unwrap();
    client.write_all(&[0; 50_000]).unwrap();
    client.set_nonblocking(true).unwrap();
    assert_eq!(cores.read(&mut client, 3), b"bye");
    cores.read_end(&mut client);
    client.write_all(b"even now").unwrap();
    cores.settle();
    assert!(cores.closed(CloseCause::Asked));
    assert!(!cores.is_empty(), "it drains until the peer shuts its side");
    client.shutdown(Side::Write).unwrap();
    cores.until(|cores| cores.is_empty());
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn draining_has_an_end() {
    let mut cores = Cores::new(1);
    let mut client = cores.connect();
    client.write_all(b"quit").unwrap();
    assert_eq!(cores.read(&mut client, 3), b"bye");
    cores.settle();
    assert!(!cores.is_empty());
    cores.now.mono_ms += LINGER_MS;
    cores.until(|cores| cores.is_empty());
    assert_eq!(cores.drivers[0].counters.lingers_expired.get(), 0);
}

#[test]
fn a_peer_that_does_not_read_its_last_bytes_is_given_up() {
    let mut cores = Cores::new(1);
    let mut client = cores.connect();
    client.write_all(b"bulk").unwrap();
    cores.until(|cores| cores.drivers[0].counters.writes_waited.get() > 0);
    cores.settle();
    client.write_all(b"quit").unwrap();
    cores.until(|cores| {
        let received = |seen: &&Seen| **seen == Seen::Received(4);
        cores.seen(0).iter().filter(received).count() == 2
    });
    cores.settle();
    // As long as bytes move, it has more time.
    let mut read = 0;
    for _ in 0..2 {
        cores.now.mono_ms += LINGER_MS - 1;
        read += cores.read(&mut client, 4 << 20).len();
        cores.now.mono_ms += 1;
        cores.settle();
        assert!(!cores.is_empty(), "{read}");
    }
    // What it read last made room for some more; then nothing moves any more.
    for _ in 0..3 {
        cores.now.mono_ms += LINGER_MS;
        cores.settle();
    }
    assert!(cores.is_empty());
    assert!(cores.closed(CloseCause::LingerExpired));
    assert_eq!(cores.drivers[0].counters.lingers_expired.get(), 1);
}

#[test]
fn a_reset_is_told_after_what_came_before() {
    let mut cores = Cores::new(1);
    let mut client = cores.connect();
    client.write_all(b"hello").unwrap();
    cores.read(&mut client, 5);
    client.write_all(b"last").unwrap();
    // SO_LINGER of 0 makes the close a reset.
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    cores.until(|cores| cores.is_empty());
    let seen = cores.seen(0);
    assert!(
        cores.closed(CloseCause::Reset) || cores.closed(CloseCause::PeerClosed),
        "{seen:?}"
    );
    assert!(matches!(seen.last(), Some(Seen::Closed(_))));
}

#[test]
fn a_connection_moves_to_its_owner() {
    let mut cores = Cores::new(2);
    let mut client = cores.connect();
    client.write_all(b"over").unwrap();
    assert_eq!(cores.read(&mut client, 4), b"here");
    assert_eq!(
        cores.seen(1),
        [Seen::HandedOver, Seen::Received(4), Seen::Written(4)]
    );
    assert!(cores.drivers[0].sockets.is_empty());
    client.write_all(b"echo").unwrap();
    assert_eq!(cores.read(&mut client, 4), b"echo");
    assert_eq!(cores.drivers[0].counters.handed_over.get(), 1);
    drop(client);
    cores.until(|cores| cores.is_empty());
    assert_eq!(
        cores.seen(1).last(),
        Some(&Seen::Closed(CloseCause::PeerClosed))
    );
}

#[test]
fn a_paused_connection_is_not_read_and_loses_nothing() {
    let mut cores = Cores::new(1);
    let mut client = cores.connect();
    client.write_all(b"hello").unwrap();
    cores.read(&mut client, 5);
    for round in 1..4 {
        client.write_all(b"wait").unwrap();
        cores.settle();
        client.write_all(b"later").unwrap();
        cores.settle();
        assert!(client.read(&mut [0]).is_err(), "nothing was echoed");
        cores.now.mono_ms += 50;
        assert_eq!(cores.read(&mut client, 5), b"later");
        assert_eq!(
            cores
                .seen(0)
                .iter()
                .filter(|seen| **seen == Seen::Tick)
                .count(),
            round
        );
    }
}

#[test]
fn under_hard_pressure_nothing_is_fed_and_nothing_is_lost() {
    let link = LinkConfig {
        queue_messages: 4,
        low: Mark {
            messages: 6,
            bytes: 1 << 20,
        },
        soft: Mark {
            messages: 10,
            bytes: 2 << 20,
        },
        hard: Mark {
            messages: 20,
            bytes: 4 << 20,
        },
    };
    let mut cores = Cores::with(2, RING, link);
    let other = cores.drivers.pop().unwrap();
    let mut client = cores.connect();
    let mut second = cores.connect();
    second.write_all(b"2").unwrap();
    cores.read(&mut second, 1);
    client.write_all(b"mesh").unwrap();
    cores.until(|cores| cores.seen(0).contains(&Seen::Link(Pressure::Hard)));
    let fed = cores.seen(0).len();
    // More than all buffers hold.
    let text: Vec<u8> = (0..60_000).map(bulk_byte).collect();
    second.set_nonblocking(false).unwrap();
    second.write_all(&text).unwrap();
    second.set_nonblocking(true).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(Side::Write).unwrap();
    cores.settle();
    assert_eq!(cores.seen(0).len(), fed);
    assert_eq!(cores.drivers[0].ring.buffers_free(), 0);
    assert!(
        cores.drivers[0].may_sleep(),
        "waiting for the link is no reason to stay awake"
    );
    cores.drivers.push(other);
    assert!(cores.read(&mut second, 60_000) == text);
    cores.until(|cores| cores.closed(CloseCause::PeerClosed));
    let acks: Vec<_> = (0..30).map(Seen::Mesh).collect();
    assert_eq!(cores.seen(1), acks);
    assert!(cores.seen(0).contains(&Seen::Link(Pressure::Low)));
    assert_eq!(
        cores.drivers[0].ring.buffers_free(),
        usize::from(RING.buffer_count)
    );
    assert!(cores.drivers[0].counters.buffers_missing.get() > 0);
}

#[test]
fn who_sends_much_waits_for_who_sends_little() {
    let mut cores = Cores::new(1);
    let mut bulk = cores.connect();
    let mut other = cores.connect();
    for client in [&mut bulk, &mut other] {
        client.write_all(b"1").unwrap();
        cores.read(client, 1);
    }
    let begun = cores.seen(0).len();
    let buffer_bytes = RING.buffer_bytes as usize;
    let text: Vec<u8> = (0..10 * buffer_bytes + 7).map(bulk_byte).collect();
    bulk.write_all(&text).unwrap();
    other.write_all(b"hello").unwrap();
    assert!(cores.read(&mut bulk, text.len()) == text);
    assert_eq!(cores.read(&mut other, 5), b"hello");
    let expected = [
        Seen::Received(5),
        Seen::Written(5),
        Seen::Received(buffer_bytes),
    ];
    assert_eq!(cores.seen(0)[begun..][..3], expected);
}

/// A client that has sent so much that it is read by calls, and its key.
pub(super) fn client_that_sends_much(cores: &mut Cores) -> (TcpStream, ConnKey) {
    let mut client = cores.connect();
    client.write_all(b"1").unwrap();
    cores.read(&mut client, 1);
    let (conn, _) = *cores.drivers[0].shard.fed.last().unwrap();
    let text: Vec<u8> = (0..20_000).map(bulk_byte).collect();
    client.write_all(&text).unwrap();
    assert!(cores.read(&mut client, text.len()) == text);
    cores.settle();
    assert_eq!(reading(cores, conn), Reading::Much);
    (client, conn)
}

fn reading(cores: &mut Cores, conn: ConnKey) -> Reading {
    cores.drivers[0].sockets.get(conn).unwrap().reading
}

#[test]
fn who_sends_much_is_read_by_calls_until_it_sends_little() {
    let mut cores = Cores::new(1);
    let (mut client, conn) = client_that_sends_much(&mut cores);
    cores.drivers[0].shard.fed.clear();
    // What is expected at once, twice, and the rest.
    let text: Vec<u8> = (0..2 * EXPECTED_BYTES + 5_000).map(bulk_byte).collect();
    client.write_all(&text).unwrap();
    assert!(cores.read(&mut client, text.len()) == text);
    let fed = [EXPECTED_BYTES, EXPECTED_BYTES, 5_000].map(|count| (conn, count));
    assert_eq!(cores.drivers[0].shard.fed, fed);
    assert_eq!(reading(&mut cores, conn), Reading::Much);
    for _ in 0..2 {
        client.write_all(b"little").unwrap();
        assert_eq!(cores.read(&mut client, 6), b"little");
        assert_eq!(reading(&mut cores, conn), Reading::Settled);
    }
    assert_eq!(
        cores.drivers[0].ring.buffers_free(),
        usize::from(RING.buffer_count)
    );
}

#[test]
fn those_who_send_much_take_turns() {
    let mut cores = Cores::new(1);
    let [(mut one, first), (mut two, second)] = [0, 1].map(|_| client_that_sends_much(&mut cores));
    cores.drivers[0].shard.fed.clear();
    let text: Vec<u8> = (0..3 * FLUSH_BYTES).map(bulk_byte).collect();
    for client in [&mut one, &mut two] {
        client.set_nonblocking(false).unwrap();
        client.write_all(&text).unwrap();
        client.set_nonblocking(true).unwrap();
    }
    for client in [&mut one, &mut two] {
        assert!(cores.read(client, text.len()) == text);
    }
    let fed = &cores.drivers[0].shard.fed;
    let turns: Vec<_> = fed.chunk_by(|(a, _), (b, _)| a == b).collect();
    let reads_per_turn = FLUSH_BYTES.div_ceil(EXPECTED_BYTES);
    for turn in &turns[..4] {
        assert_eq!(turn.len(), reads_per_turn, "{turns:?}");
        assert!([first, second].contains(&turn[0].0));
    }
}

#[test]
fn who_sends_much_is_not_read_while_it_is_paused_or_another_core_is_behind() {
    let mut cores = Cores::new(1);
    let (mut client, conn) = client_that_sends_much(&mut cores);
    let text: Vec<u8> = (0..30_000).map(bulk_byte).collect();
    cores.drivers[0].pause(conn);
    cores.settle();
    let begun = cores.seen(0).len();
    client.write_all(&text).unwrap();
    cores.settle();
    assert_eq!(cores.seen(0).len(), begun);
    cores.drivers[0].resume(conn);
    assert!(cores.read(&mut client, text.len()) == text);
    cores.settle();
    // It is readable when it is paused: that is as far as it comes.
    let begun = cores.seen(0).len();
    cores.drivers[0].links_hard = 2;
    client.write_all(&text).unwrap();
    cores.settle();
    cores.drivers[0].pause(conn);
    cores.drivers[0].links_hard = 0;
    cores.settle();
    assert_eq!(cores.seen(0).len(), begun);
    cores.drivers[0].resume(conn);
    assert!(cores.read(&mut client, text.len()) == text);
}

#[test]
fn who_sends_much_ends_as_others_do() {
    let mut cores = Cores::new(1);
    let (mut client, _) = client_that_sends_much(&mut cores);
    client.write_all(&vec![b'x'; 20_000]).unwrap();
    client.shutdown(Side::Write).unwrap();
    cores.read(&mut client, 20_000);
    cores.until(|cores| cores.is_empty());
    assert!(cores.closed(CloseCause::PeerClosed));
    let (client, _) = client_that_sends_much(&mut cores);
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    cores.until(|cores| cores.is_empty());
    assert!(cores.closed(CloseCause::Reset));
    let (mut client, conn) = client_that_sends_much(&mut cores);
    cores.drivers[0].begin_close(conn);
    cores.drivers[0].finish_closes();
    cores.read_end(&mut client);
    client.write_all(&vec![b'x'; 20_000]).unwrap();
    drop(client);
    cores.until(|cores| cores.is_empty());
    assert!(cores.closed(CloseCause::Asked));
    let (_client, conn) = client_that_sends_much(&mut cores);
    cores.drivers[0].end(conn, CloseCause::LingerExpired);
    cores.until(|cores| cores.is_empty());
}

#[test]
fn who_is_in_line_to_be_read_can_be_closed() {
    let mut cores = Cores::new(1);
    let in_line = |cores: &mut Cores| {
        let (mut client, conn) = client_that_sends_much(cores);
        cores.drivers[0].links_hard = 2;
        client.write_all(&[b'x'; 20_000]).unwrap();
        cores.settle();
        let socket = cores.drivers[0].sockets.get(conn).unwrap();
        assert_eq!(socket.recv, Recv::InLine);
        assert_eq!(cores.turn(), [Turn::Idle]);
        (client, conn)
    };
    let (mut client, conn) = in_line(&mut cores);
    cores.drivers[0].begin_close(conn);
    cores.drivers[0].finish_closes();
    cores.read_end(&mut client);
    drop(client);
    // What it has sent is discarded at once, though nothing is fed.
    cores.until(|cores| cores.is_empty());
    cores.drivers[0].links_hard = 0;
    let (_client, conn) = in_line(&mut cores);
    cores.drivers[0].end(conn, CloseCause::LingerExpired);
    assert!(cores.is_empty());
    // Another in its place is none of its business.
    cores.drivers[0].links_hard = 0;
    let mut other = cores.connect();
    other.write_all(b"other").unwrap();
    assert_eq!(cores.read(&mut other, 5), b"other");
}

#[test]
fn more_senders_than_buffers_are_all_read() {
    let ring = RingConfig {
        buffer_count: 2,
        buffer_bytes: 64,
        ..RING
    };
    let mut cores = Cores::with(1, ring, LinkConfig::default());
    let mut clients: Vec<_> = (0..50).map(|_| cores.connect()).collect();
    for round in 0..3u8 {
        for (at, client) in clients.iter_mut().enumerate() {
            client.write_all(&[at as u8 ^ round; 300]).unwrap();
        }
        for (at, client) in clients.iter_mut().enumerate() {
            assert_eq!(cores.read(client, 300), [at as u8 ^ round; 300]);
        }
    }
    assert!(cores.drivers[0].counters.buffers_missing.get() > 0);
}

#[test]
fn cores_stop_when_all_have_closed_their_connections() {
    let mut cores = Cores::new(2);
    let mut client = cores.connect();
    client.write_all(b"hello").unwrap();
    cores.read(&mut client, 5);
    cores.shutdown.request(Duration::from_secs(3));
    cores.read_end(&mut client);
    cores.settle();
    assert_eq!(cores.turn(), [Turn::Idle; 2], "a peer has not closed yet");
    drop(client);
    cores.until(|cores| cores.turn() == [Turn::Finished; 2]);
    assert!(cores.is_empty());
    assert!((0..2).all(|core| cores.seen(core).contains(&Seen::Shutdown)));
    assert!(TcpStream::connect(cores.address).is_err() || cores.turn() == [Turn::Finished; 2]);
}

#[test]
fn a_stop_does_not_wait_longer_than_it_was_told() {
    let mut cores = Cores::new(1);
    let mut client = cores.connect();
    client.write_all(b"hello").unwrap();
    cores.read(&mut client, 5);
    cores.shutdown.request(Duration::from_millis(500));
    cores.settle();
    assert_eq!(cores.turn(), [Turn::Idle]);
    cores.now.mono_ms += 500;
    assert_eq!(cores.turn(), [Turn::Finished]);
}

/// Lets a core sleep as its thread does until it has something to do, of which `cause` on another thread, a little later,
/// is the reason.
fn sleep_until(cores: &mut Cores, core: usize, cause: impl FnOnce() + Send + 'static) {
    cores.settle();
    let start = Instant::now();
    let wake = Arc::clone(&cores.drivers[core].wake);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        cause();
        // A lost wake is to fail the test, not to hang it.
        std::thread::sleep(Duration::from_secs(5));
        wake.eventfd().write_all(&1u64.to_ne_bytes()).unwrap();
    });
    let now = cores.now;
    while start.elapsed() < Duration::from_secs(5) {
        cores.drivers[core].sleep().unwrap();
        if cores.drivers[core].turn(now).unwrap() != Turn::Idle {
            return;
        }
    }
    panic!("not woken");
}

#[test]
fn a_sleeping_core_wakes_for_sockets_links_deadlines_and_the_end() {
    let mut cores = Cores::new(2);
    let mut client = cores.connect();
    client.write_all(b"hello").unwrap();
    cores.read(&mut client, 5);

    let mut sender = client.try_clone().unwrap();
    sleep_until(&mut cores, 0, move || sender.write_all(b"x").unwrap());
    assert_eq!(cores.read(&mut client, 1), b"x");

    // A message that comes before the sleep keeps the core awake.
    cores.settle();
    client.write_all(b"mesh").unwrap();
    let now = cores.now;
    while cores.drivers[0].turn(now).unwrap() == Turn::Idle {}
    let parks = cores.drivers[1].counters.parks.get();
    cores.drivers[1].sleep().unwrap();
    assert_eq!(cores.drivers[1].counters.parks.get(), parks);
    cores.until(|cores| cores.seen(1).len() == 30);
    // One that comes later wakes it.
    let wake = Arc::clone(&cores.drivers[1].wake);
    cores.settle();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        wake.wake();
    });
    cores.drivers[1].sleep().unwrap();

    client.write_all(b"wait").unwrap();
    cores.settle();
    let start = Instant::now();
    cores.drivers[0].sleep().unwrap();
    let slept = start.elapsed();
    assert!(
        slept >= Duration::from_millis(2) && slept < Duration::from_secs(1),
        "{slept:?}"
    );
    cores.now.mono_ms += 50;
    cores.settle();

    let shutdown = Arc::clone(&cores.shutdown);
    sleep_until(&mut cores, 0, move || shutdown.request(Duration::ZERO));
    cores.until(|cores| cores.turn() == [Turn::Finished; 2]);
}

/// Run by the test below, in a process that may open few files.
#[test]
#[ignore = "needs a process of its own with a low limit on open files"]
fn with_few_descriptors() {
    let mut cores = Cores::new(1);
    let mut clients = Vec::new();
    // The limit is on both ends: half of what is left can be connected.
    while let Ok(client) = TcpStream::connect(cores.address) {
        client.set_nonblocking(true).unwrap();
        clients.push(client);
    }
    let files_for_accepting = 3;
    clients.truncate(clients.len() - files_for_accepting);
    cores.until(|cores| cores.drivers[0].counters.refused.get() > 0);
    cores.settle();
    let accepted = cores.drivers[0].counters.accepted.get() as usize;
    let refused = cores.drivers[0].counters.refused.get() as usize;
    assert!(accepted <= files_for_accepting + 1, "{accepted}");
    assert!(
        accepted + refused >= clients.len(),
        "{accepted} + {refused}"
    );
    let mut ends = 0;
    for client in &mut clients {
        ends += usize::from(matches!(client.read(&mut [0]), Ok(0)));
    }
    assert!(ends > 0, "those who were refused know it");
    clients.clear();
    cores.until(|cores| cores.is_empty());
    // With descriptors, and after the pause, it accepts again.
    let mut client = cores.connect();
    cores.now.mono_ms += ACCEPT_PAUSE_MS;
    client.write_all(b"again").unwrap();
    assert_eq!(cores.read(&mut client, 5), b"again");
}

#[test]
fn running_out_of_descriptors_refuses_and_recovers() {
    let test = std::env::current_exe().unwrap();
    let script =
        "ulimit -n 48 && exec \"$0\" --exact --ignored net::driver::tests::with_few_descriptors";
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(test)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

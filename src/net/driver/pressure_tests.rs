//! The driver with connections that it does not read for a while: paused, or behind another core or the disk.

use super::tests::{
    Cores, EXPECTED_BYTES, RING, START, Seen, client_that_sends_much, plain_door, setups,
};
use super::*;
use crate::mesh::link::LinkConfig;
use crate::protocol::QoS;
use crate::shard::ShardSetup;
use crate::shard::input::CloseCause;
use crate::shard::message::MessageParts;
use crate::shard::placement::Placement;
use crate::shard::record::{Durability, Record};
use crate::store::load::LoadSetup;
use crate::store::port::WAITING_BYTES_MAX;
use crate::store::{Store, schema};
use socket2::SockRef;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;

#[test]
fn who_is_paused_after_a_write_has_failed_is_let_go_of() {
    let mut cores = Cores::new(1);
    let (mut client, conn) = client_that_sends_much(&mut cores);
    // What is read at once, so that its echo fails before the rest is read, which pauses.
    let mut sent = vec![b'x'; FLUSH_BYTES.next_multiple_of(EXPECTED_BYTES)];
    sent.extend_from_slice(b"wait");
    cores.drivers[0].links_hard = 2;
    let socket = SockRef::from(&*cores.drivers[0].sockets.get(conn).unwrap())
        .try_clone()
        .unwrap();
    socket.set_recv_buffer_size(4 * sent.len()).unwrap();
    client.write_all(&sent).unwrap();
    let mut there = vec![MaybeUninit::uninit(); sent.len() + 1];
    cores.until(|_| socket.peek(&mut there).unwrap() == sent.len());
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop((client, socket));
    cores.drivers[0].links_hard = 0;
    cores.settle();
    let end = [Seen::Received(4), Seen::Closed(CloseCause::Reset)];
    assert!(cores.seen(0).ends_with(&end), "{:?}", cores.seen(0));
    assert!(cores.is_empty());
}

/// A core with a real shard, at which one client is: of version 3.1.1, with a Keep Alive of a second.
struct Core {
    driver: Driver<Shard>,
    client: TcpStream,
    now: Now,
}

impl Core {
    fn new(store: StoreLink) -> Self {
        let (mut setups, address) = setups(&plain_door(), 1, LinkConfig::default());
        let setup = DriverSetup {
            store: Some(store),
            ..setups.remove(0)
        };
        let shard = Shard::new(ShardSetup {
            id: ShardId(0),
            shard_count: 1,
            limits: Arc::default(),
            placement: Placement::new([0; 16], 1),
            hash_seed: 1,
            random_seed: 2,
            events: false,
            durability: Durability::None,
            now: START,
        });
        let mut driver = Driver::new(setup, Ring::new(RING).unwrap(), shard, START).unwrap();
        while !driver.is_listening() {
            driver.turn(START).unwrap();
        }
        let client = TcpStream::connect(address).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut core = Self {
            driver,
            client,
            now: START,
        };
        let connack = core.ask(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x01\x00\x01c");
        assert_eq!(connack, b"\x20\x02\x00\x00");
        core
    }

    /// What the client has received a little after it sent `bytes`.
    fn ask(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.client.write_all(bytes).unwrap();
        for _ in 0..10 {
            self.driver.turn(self.now).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut got = Vec::new();
        let error = self.client.read_to_end(&mut got).expect_err("an end");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        got
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.driver.turn(self.now).unwrap();
    }
}

#[test]
fn time_in_which_the_disk_keeps_a_core_from_reading_is_no_silence() {
    const PINGREQ: &[u8] = b"\xc0\x00";
    const PINGRESP: &[u8] = b"\xd0\x00";
    let dir = std::env::temp_dir().join(format!("ringmq-driver-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join(schema::FILE);
    let setup = LoadSetup {
        path: &path,
        shard_count: 1,
        owner: &|_| ShardId(0),
        wall_minus_mono_ms: 0,
    };
    let wakes = [Arc::new(Wake::new().unwrap())];
    let opened = Store::open(&setup, Durability::Process, &wakes, |_, _| {});
    let (store, _, mut links) = opened.unwrap();
    let mut core = Core::new(links.remove(0));
    assert_eq!(core.ask(PINGREQ), PINGRESP);
    // The store waits for another writer, longer than this test takes.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let payload = vec![0; WAITING_BYTES_MAX];
    let large = Record::Retained {
        message: Message::new(&MessageParts {
            stamp: 1,
            ..MessageParts::new("large", QoS::AtMostOnce, &payload)
        }),
        wall_minus_mono_ms: 0,
        refusable: true,
    };
    core.driver.store.as_mut().unwrap().submit(vec![large]);
    for _ in 0..6 {
        core.pass(500);
        assert_eq!(
            core.ask(PINGREQ),
            b"",
            "nothing is fed, and nobody is sent away"
        );
    }
    assert!(core.driver.may_sleep());
    // As if it had caught up, just before the core sleeps: the shard knows nothing of that record.
    core.driver.store = None;
    assert!(!core.driver.may_sleep());
    core.pass(1_400);
    assert_eq!(core.ask(&[]), PINGRESP.repeat(6));
    core.pass(1_400);
    assert_eq!(core.ask(PINGREQ), PINGRESP);
    other.execute_batch("ROLLBACK").unwrap();
    store.stop();
    std::fs::remove_dir_all(&dir).unwrap();
}

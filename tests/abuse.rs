//! Malformed and hostile input, over a real socket, with 1, 2 and 4 shards: the broker answers as
//! it should, its memory stays bounded, and it still serves others.
//!
//! [`table`] holds single inputs; here are the floods, storms and clients that dawdle.

mod common;

#[path = "transport/client.rs"]
#[allow(dead_code, reason = "only its routes are used here")]
mod client;
#[path = "transport/server.rs"]
#[allow(dead_code, reason = "the tests of transports use the rest")]
mod server;
#[path = "abuse/table.rs"]
mod table;
#[path = "transport/tunnel.rs"]
mod tunnel;

use std::net::TcpListener;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use client::Kind;
use common::*;
use ringmq::config::listener::{ListenerSpec, WebSocketSpec};

/// What a case's bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    /// Nothing: they are the first on a connection.
    New,
    /// A CONNECT of MQTT 3.1.1.
    V311,
    /// A CONNECT of MQTT 5.0.
    V5,
}

/// A row of the table.
struct Case {
    on: On,
    bytes: Vec<u8>,
    /// The answers that are right, with `or` between them.
    answers: &'static str,
}

/// How a connection ended up, and what the broker sent until then.
#[derive(Debug)]
enum Outcome {
    /// It answered a PINGREQ after the bytes.
    Open(Vec<Packet>),
    Closed(Vec<Packet>),
    /// Nothing came, and it is still there.
    Silent,
}

impl Case {
    fn run(&self, broker: &Broker) {
        let mut client = match self.on {
            On::New => Raw::open(broker),
            On::V311 => Raw::v311(broker, &unique("abuse")),
            On::V5 => Raw::v5(broker, &unique("abuse")),
        };
        let outcome = self.outcome(&mut client);
        assert!(
            self.answers
                .split(" or ")
                .any(|answer| self.is_answer(answer, &outcome)),
            "wanted {}, got {outcome:02x?}",
            self.answers
        );
        assert_healthy(broker);
    }

    fn outcome(&self, client: &mut Raw) -> Outcome {
        client.try_send(&self.bytes);
        let may_stay_open = ["open", "sub"]
            .iter()
            .any(|answer| self.answers.contains(answer));
        if !may_stay_open {
            let limit = if self.answers.contains("silent") {
                ABSENT
            } else {
                ARRIVES
            };
            return match client.try_closed_within(limit) {
                Ok(sent) => Outcome::Closed(sent),
                Err(sent) if sent.is_empty() => Outcome::Silent,
                Err(sent) => Outcome::Open(sent),
            };
        }
        client.try_send(&pingreq());
        let mut sent = Vec::new();
        loop {
            match client.packet_within(4 * ARRIVES) {
                Ok(Some(packet)) if packet.kind() == PINGRESP => return Outcome::Open(sent),
                Ok(Some(packet)) => sent.push(packet),
                Ok(None) => return Outcome::Closed(sent),
                Err(()) => panic!("neither an answer to PINGREQ nor the end; sent {sent:02x?}"),
            }
        }
    }

    /// Whether `outcome` is what `answer` asks for.
    fn is_answer(&self, answer: &str, outcome: &Outcome) -> bool {
        let may_serve = self.answers.contains("open");
        let (kind, codes) = answer.split_once(':').unwrap_or((answer, ""));
        let has_code = |code: Option<&u8>| {
            let wanted = codes
                .split(',')
                .map(|code| u8::from_str_radix(code, 16).expect("a code"));
            code.is_some_and(|code| wanted.into_iter().any(|wanted| wanted == *code))
        };
        match (kind, outcome) {
            ("open", Outcome::Open(_)) | ("silent", Outcome::Silent) => true,
            ("quiet", Outcome::Closed(sent)) => sent.is_empty(),
            ("close", Outcome::Closed(sent)) => sent.iter().all(|packet| match packet.kind() {
                CONNACK => packet.body.get(1) != Some(&0),
                DISCONNECT => packet.body.first().is_some_and(|reason| *reason >= 0x80),
                // Where staying open is right too, a part may be served before the rest is refused.
                _ => may_serve,
            }),
            ("connack", Outcome::Closed(sent)) => match sent.as_slice() {
                [packet] => packet.kind() == CONNACK && has_code(packet.body.get(1)),
                _ => false,
            },
            ("disc", Outcome::Closed(sent)) => sent
                .last()
                .is_some_and(|packet| packet.kind() == DISCONNECT && has_code(packet.body.first())),
            ("sub", Outcome::Open(sent)) => sent
                .first()
                .is_some_and(|packet| packet.kind() == SUBACK && has_code(packet.body.last())),
            ("open" | "silent" | "quiet" | "close" | "connack" | "disc" | "sub", _) => false,
            _ => panic!("unknown answer {answer:?}"),
        }
    }
}

/// Every row again, through TLS and WebSocket: they change nothing of what MQTT asks for.
#[test]
fn every_row_through_tls_and_websocket() {
    let with = |tls: bool, websocket: bool| ListenerSpec {
        tls: tls.then(server::tls),
        websocket: websocket.then(WebSocketSpec::default),
        ..server::listener(&format!("{tls}-{websocket}"))
    };
    let broker =
        server::Server::start(vec![with(true, false), with(false, true), with(true, true)]);
    for (name, kind) in [
        ("true-false", Kind::Tls),
        ("false-true", Kind::WebSocket),
        ("true-true", Kind::Both),
    ] {
        let through = Broker::at(tunnel::open(broker.address(name), kind.route()));
        let rows = Mutex::new(table::all());
        // Some wait for what must not come.
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let row = rows.lock().expect("rows are only taken").pop();
                        let Some((row, case)) = row else { return };
                        eprintln!("{kind:?} {row}");
                        case.run(&through);
                    }
                });
            }
        });
    }
}

/// Runs `flood` against brokers of its own and checks that the broker's
/// resident memory has grown by less than `bound_mib` while the clients that `flood` returns are
/// still connected, and that it serves others; then through TLS and WebSocket.
fn memory_stays_bounded(bound_mib: u64, flood: impl Fn(&Broker) -> Vec<Raw> + Sync) {
    let check = |broker: &Broker, door: &Broker| {
        // What a broker allocates once, at its first connections, is no growth.
        assert_healthy(door);
        let before = broker.rss_kib();
        let clients = flood(door);
        assert_healthy(door);
        let after = broker.rss_kib();
        drop(clients);
        assert_healthy(door);
        if let Some((before, after)) = before.zip(after) {
            let grown_mib = after.saturating_sub(before) / 1_024;
            assert!(grown_mib < bound_mib, "grew by {grown_mib} MiB");
        }
    };
    on_each_of_its_own(&[], |broker| check(broker, broker));
    let pair = &server::certificates().server;
    let tls = [
        format!("tls.certificate-file={}", pair.certificate.display()),
        format!("tls.key-file={}", pair.key.display()),
    ];
    for (kind, keys) in [
        (Kind::Tls, &tls[..]),
        (Kind::WebSocket, &["websocket=true".to_owned()]),
    ] {
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = free.local_addr().expect("a bound socket has an address");
        drop(free);
        let mut args = vec!["--set".to_owned(), format!("listener.door.bind={address}")];
        for key in keys {
            args.extend(["--set".to_owned(), format!("listener.door.{key}")]);
        }
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let broker = Broker::start(2, &args);
        if broker.is_ours() {
            check(&broker, &Broker::at(tunnel::open(address, kind.route())));
        }
    }
}

/// Opens 64 connections and sends `bytes` on each, as far as the broker takes them.
fn send_on_64(broker: &Broker, connect: Option<Version>, bytes: &[u8]) -> Vec<Raw> {
    let open = |_| match connect {
        None => Raw::open(broker),
        Some(version) => Raw::connect(broker, &Connect::new(version, unique("flood"))),
    };
    let mut clients: Vec<Raw> = (0..64).map(open).collect();
    for client in &mut clients {
        client.try_send(bytes);
    }
    clients
}

/// Row 5 on 64 connections at once: nothing of what is no CONNECT is buffered.
#[test]
fn memory_of_huge_first_publish() {
    let bytes = [hex("30 ff ff ff 7f"), vec![1; 200_000]].concat();
    memory_stays_bounded(16, |broker| send_on_64(broker, None, &bytes));
}

/// Row 6 on 64 connections at once: a CONNECT is bounded before anybody is authenticated.
#[test]
fn memory_of_huge_connect() {
    let bytes = [hex("10 ff ff ff 7f"), vec![1; 200_000]].concat();
    memory_stays_bounded(16, |broker| send_on_64(broker, None, &bytes));
}

/// Row 84 on 64 connections at once: memory follows the bytes that came (12 MiB here), not the
/// 16 GiB that are claimed.
#[test]
fn memory_of_claimed_publishes() {
    let bytes = [hex("30 ff ff ff 7f 00 01 74"), vec![b'x'; 200_000]].concat();
    memory_stays_bounded(48, |broker| send_on_64(broker, Some(Version::V311), &bytes));
}

/// Sends `burst` and a PINGREQ; returns whether the connection is still open after the answers.
fn takes(client: &mut Raw, burst: &[u8], answer: u8) -> bool {
    if !client.try_send(&[burst, &pingreq()[..]].concat()) {
        return false;
    }
    loop {
        match client.packet_within(4 * ARRIVES) {
            Ok(Some(packet)) if packet.kind() == PINGRESP => return true,
            Ok(Some(packet)) => assert_eq!(packet.kind(), answer, "{packet:02x?}"),
            Ok(None) => return false,
            Err(()) => panic!("no answer to PINGREQ"),
        }
    }
}

/// Row 111, a hundred times: of 300,000 retransmissions of one QoS 2 message (32 MB), one is kept.
#[test]
fn memory_of_one_unreleased_message() {
    let burst = table::same_unreleased_publish(3_000);
    memory_stays_bounded(12, |broker| {
        let mut client = Raw::v311(broker, &unique("flood"));
        // Closing instead is right as well.
        let _ = (0..100).all(|_| takes(&mut client, &burst, PUBREC));
        vec![client]
    });
}

/// Row 112, three times by one client after another: 20,000 subscriptions cost less than 2 KiB
/// each, with what other shards know of them, and nothing once their client is gone.
#[test]
fn memory_of_many_subscriptions() {
    let burst = table::subscriptions(20_000);
    memory_stays_bounded(40, |broker| {
        for _ in 0..2 {
            let mut client = Raw::v311(broker, &unique("flood"));
            if takes(&mut client, &burst, SUBACK) {
                client.disconnect();
            }
        }
        let mut last = Raw::v311(broker, &unique("flood"));
        takes(&mut last, &burst, SUBACK);
        vec![last]
    });
}

/// 2,000 sockets that never send a CONNECT do not keep others from working.
#[test]
fn sockets_without_connect() {
    on_each(|broker| {
        let wanted = 2_000;
        let per_broker = open_files_max() / (brokers().len() + 1);
        let count = wanted.min(per_broker.saturating_sub(200));
        if count < wanted {
            eprintln!("{count} sockets instead of {wanted}: the limit of open files is too low");
        }
        let mut silent: Vec<Raw> = (0..count).map(|_| Raw::open(broker)).collect();
        for _ in 0..10 {
            assert_healthy(broker);
        }
        // One of them that does connect, late, is served.
        let mut late = silent.swap_remove(count / 2);
        late.send_connect(&Connect::v311(unique("late")));
        assert_eq!(late.read_connack().code, 0);
        drop(silent);
        late.expect_nothing_before_barrier();
        assert_healthy(broker);
    });
}

/// Clients that do not finish their CONNECT are dropped when its time is over, not sooner, whether
/// they are silent, stop half-way, or send a byte now and then. Others are not touched.
#[test]
fn slow_connect_is_dropped() {
    on_each_of_its_own(&["--set", "limits.connect-timeout=1s"], |broker| {
        if !broker.is_ours() {
            eprintln!("skipped: the time for CONNECT cannot be set at a broker that is not ours");
            return;
        }
        let mut connected = Raw::v311(broker, &unique("quick"));
        let connect = Connect::v311(unique("slow")).encode();
        let start = Instant::now();
        let mut slow: Vec<Raw> = (0..4).map(|_| Raw::open(broker)).collect();
        slow[1].send(&connect[..1]);
        slow[2].send(&connect[..connect.len() - 1]);
        // A byte every 100 ms: it never takes a whole second between two of them.
        for byte in &connect[..5] {
            slow[3].send(&[*byte]);
            slow[3].expect_silence(100);
        }
        for client in &mut slow {
            client.expect_closed_quietly();
        }
        let closed = start.elapsed();
        assert!(
            closed >= Duration::from_millis(900),
            "closed after {closed:?}"
        );
        assert!(
            closed < Duration::from_millis(3_000),
            "closed after {closed:?}"
        );
        connected.expect_nothing_before_barrier();
        assert_healthy(broker);
    });
}

/// Readers that never read, while 10,000 messages match them, do not hold up a healthy reader, and
/// the publisher is not blocked for good.
#[test]
fn reader_that_never_reads() {
    const MESSAGES: u32 = 10_000;
    const WINDOW: u32 = 100;
    on_each(|broker| {
        let topic = unique("never");
        let mut stuck: Vec<Raw> = (0..3)
            .map(|_| Raw::v311(broker, &unique("stuck")))
            .collect();
        for (qos, client) in (0..3).zip(&mut stuck) {
            client.send(&subscribe(Version::V311, 1, &[(&topic, qos)]));
            client.expect_kind(SUBACK);
        }
        let mut healthy = Raw::v311(broker, &unique("healthy"));
        healthy.subscribe(&[(&topic, 1)]);
        let mut publisher = Raw::v311(broker, &unique("never"));
        thread::scope(|scope| {
            let reads = scope.spawn(|| {
                for number in 0..MESSAGES {
                    let message = healthy.take_publish();
                    assert_eq!(
                        message.payload[..4],
                        number.to_be_bytes(),
                        "lost or out of order"
                    );
                }
            });
            for first in (0..MESSAGES).step_by(WINDOW as usize) {
                let burst: Vec<u8> = (first..first + WINDOW)
                    .flat_map(|number| {
                        let mut payload = vec![0; 1_024];
                        payload[..4].copy_from_slice(&number.to_be_bytes());
                        let id = u16::try_from(1 + number).expect("10,000 identifiers");
                        Publish::v311(&topic, payload).qos(1, id).encode()
                    })
                    .collect();
                publisher.send(&burst);
                for _ in 0..WINDOW {
                    publisher.expect_ack(PUBACK);
                }
            }
            if let Err(panic) = reads.join() {
                rethrow(panic);
            }
        });
        assert_healthy(broker);
    });
}

/// 500 connections with one client identifier, each before the one before has ended: every old one
/// is closed, the last one works.
#[test]
fn takeover_storm_of_one_client() {
    // Or the storm would end with a ban.
    on_each_of_its_own(&["--set", "limits.ban-takeovers-max=infinity"], |broker| {
        for clean in [true, false] {
            let connect = Connect::v311(unique("storm")).clean(clean);
            let start = Instant::now();
            let mut old = Vec::new();
            let mut last = Raw::connect(broker, &connect);
            for _ in 0..500 {
                old.push(std::mem::replace(&mut last, Raw::connect(broker, &connect)));
            }
            for client in &mut old {
                client.expect_closed();
            }
            last.expect_nothing_before_barrier();
            let topic = unique("storm");
            last.subscribe(&[(&topic, 1)]);
            last.publish(&topic, 1, "alive");
            assert_eq!(last.take_publish().text(), "alive");
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "took {:?}",
                start.elapsed()
            );
        }
        assert_healthy(broker);
    });
}

//! Every limit over a real broker: what is refused, with which Reason Code, and what the log says of it.

mod common;

use common::*;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[test]
fn connections_in_all_and_of_a_listener() {
    for (set, key) in [
        ("limits.connections-max=3", "limits.connections-max"),
        ("listener.tcp.connections-max=3", "listener.connections-max"),
    ] {
        let broker = Broker::start(2, &["--set", set]);
        let mut held: Vec<_> = (0..3)
            .map(|_| Raw::v311(&broker, &unique("held")))
            .collect();
        for _ in 0..20 {
            Raw::open(&broker).expect_closed_quietly();
        }
        broker.await_log(&format!("turned away: {key}."));
        // Who leaves makes room, wherever the connection had moved.
        held.pop().unwrap().disconnect();
        held.push(until_let_in(&broker));
        Raw::open(&broker).expect_closed_quietly();
    }
}

#[test]
fn connections_from_one_address_and_how_fast_they_come() {
    for (set, key) in [
        (
            "limits.connections-per-address-max=2",
            "limits.connections-per-address-max",
        ),
        (
            "limits.connect-rate-per-address-max=2",
            "limits.connect-rate-per-address-max",
        ),
    ] {
        let broker = Broker::start(2, &["--set", set]);
        let _held = ["one", "two"].map(|stem| Raw::v311(&broker, &unique(stem)));
        let more: Vec<_> = (0..10)
            .map(|_| TcpStream::connect(broker.addr).expect("the kernel accepts"))
            .collect();
        // At a rate of two a second, a few of these may be let in when the machine is slow.
        let closed = more.iter().filter(|stream| !is_open(stream)).count();
        assert!(closed >= 5, "{closed}");
        broker.await_log(&format!("turned away: {key}"));
        let elsewhere = from(Ipv4Addr::new(127, 0, 0, 9), broker.addr);
        assert!(is_open(&elsewhere), "another address has its own count");
    }
}

#[test]
fn connections_that_come_too_fast_wait() {
    let broker = Broker::start(1, &["--set", "limits.connect-rate-max=20"]);
    let started = Instant::now();
    for _ in 0..50 {
        Raw::v311(&broker, &unique("paced")).disconnect();
    }
    // Twenty at once, then twenty a second.
    assert!(started.elapsed() >= Duration::from_millis(1_400));
}

#[test]
fn who_publishes_too_fast_is_not_read_for_a_while() {
    for set in [
        "limits.publish-rate-max=20",
        "limits.publish-bytes-rate-max=1024",
    ] {
        let broker = Broker::start(1, &["--set", set]);
        let topic = unique("rate");
        let id = unique("fast");
        let mut subscriber = Raw::v311(&broker, &unique("s"));
        subscriber.subscribe(&[(&topic, 1)]);
        let mut fast = Raw::v311(&broker, &id);
        let started = Instant::now();
        for _ in 0..3 {
            for n in 0..20 {
                let payload = format!("{n:040}");
                fast.publish(&topic, 0, payload);
            }
            fast.barrier();
        }
        // Nothing is lost, in order, and it takes the time it may take: all but the first second's worth.
        let received = subscriber.receive(60);
        for (n, message) in received.iter().enumerate() {
            assert_eq!(message.text(), format!("{:040}", n % 20));
        }
        assert!(
            started.elapsed() >= Duration::from_millis(900),
            "{:?}",
            started.elapsed()
        );
        let key = set.split('=').next().unwrap();
        broker.await_log(&format!("Client {id} ["));
        broker.await_log(&format!("was limited: {key}"));
    }
}

#[test]
fn or_is_disconnected() {
    for (set, reason) in [
        ("limits.publish-rate-max=5", 0x96),
        ("limits.publish-bytes-rate-max=1KiB", 0x97),
    ] {
        let policy = "limits.publish-rate-full=disconnect";
        let broker = Broker::start(1, &["--set", set, "--set", policy]);
        let mut fast = Raw::v5(&broker, &unique("fast"));
        let one = Publish::v5("t", [b'x'; 300]).encode();
        fast.try_send(&one.repeat(6));
        fast.expect_closed_with(&[reason]);
        assert_healthy_one(&broker);
    }
}

#[test]
fn filters_that_are_not_accepted() {
    let broker = Broker::start(
        2,
        &[
            "--set",
            "limits.topic-levels-max=4",
            "--set",
            "limits.topic-bytes-max=20",
            "--set",
            "limits.wildcard-levels-min=2",
            "--set",
            "limits.subscriptions-per-session-max=3",
        ],
    );
    let id = unique("subscriber");
    let mut client = Raw::v5(&broker, &id);
    for (filter, code) in [
        ("a/b/c/d", 0),
        ("a/b/c/d/e", 0x8f),
        ("twentyone-bytes-long!", 0x8f),
        ("#", 0x8f),
        ("+/b/c", 0x8f),
        ("a/#", 0x8f),
        ("a/b/#", 0),
        ("$share/g/a/+", 0x8f),
        ("$share/g/a/b/+", 0),
        ("one/more", 0x97),
        ("a/b/#", 0),
    ] {
        assert_eq!(client.subscribe(&[(filter, 0)]), [code], "{filter}");
    }
    for key in [
        "topic-levels-max",
        "topic-bytes-max",
        "wildcard-levels-min",
        "subscriptions-per-session-max",
    ] {
        broker.await_log(&format!("Client {id} ["));
        broker.await_log(&format!("was limited: limits.{key}"));
    }
    // 3.1.1 has one code for all of them.
    let mut old = Raw::v311(&broker, &unique("old"));
    assert_eq!(old.subscribe(&[("#", 0), ("a/b", 0)]), [0x80, 0]);

    for topic in ["a/b/c/d/e", "twentyone-bytes-long!"] {
        let mut publisher = Raw::v5(&broker, &unique("publisher"));
        publisher.publish(topic, 0, "x");
        publisher.expect_closed_with(&[0x90]);
        let will = Connect::v5(unique("will")).will(Will::new(topic, "x"));
        let mut willing = Raw::open(&broker);
        willing.send_connect(&will);
        assert_eq!(willing.read_connack().code, 0x90);
    }
}

#[test]
fn sessions_that_are_too_many() {
    let broker = Broker::start(1, &["--set", "limits.sessions-max=2"]);
    let _held: Vec<_> = (0..2)
        .map(|_| Raw::v311(&broker, &unique("held")))
        .collect();
    let id = unique("third");
    for (connect, code) in [(Connect::v5(&id), 0x97), (Connect::v311(&id), 3)] {
        let mut third = Raw::open(&broker);
        third.send_connect(&connect);
        assert_eq!(third.read_connack().code, code);
        third.expect_closed();
    }
    broker.await_log(&format!("Client {id} ["));
    broker.await_log("was limited: limits.sessions-max");
}

#[test]
fn retained_messages_that_are_too_many() {
    let broker = Broker::start(2, &["--set", "limits.retained-messages-max=2"]);
    let id = unique("retainer");
    let mut publisher = Raw::v5(&broker, &id);
    let mut live = Raw::v5(&broker, &unique("live"));
    live.subscribe(&[("r/#", 1)]);
    for n in 0..4 {
        publisher.retain(format!("r/{n}"), 1, "x");
    }
    // A topic that has one may be replaced.
    publisher.retain("r/0", 1, "y");
    assert_eq!(live.receive(5).len(), 5, "all are delivered");
    broker.await_log(&format!("Client {id} ["));
    broker.await_log("was limited: limits.retained-messages-max");
    let mut late = Raw::v5(&broker, &unique("late"));
    late.subscribe(&[("r/#", 1)]);
    let mut kept: Vec<_> = late.receive(2).iter().map(|kept| kept.text()).collect();
    kept.sort_unstable();
    assert_eq!(kept, ["x", "y"]);
    late.expect_nothing_before_barrier();
}

#[test]
fn who_fails_to_authenticate_too_often_is_banned_by_address() {
    let broker = Broker::start(
        2,
        &[
            "--set",
            "limits.ban-auth-failures-max=5",
            "--set",
            "limits.ban-time=2s",
        ],
    );
    // An Authentication Method that nobody knows.
    let stranger = Connect::v5(unique("stranger")).properties(prop::text(0x15, "NOPE"));
    for _ in 0..6 {
        let mut client = Raw::open(&broker);
        client.send_connect(&stranger);
        assert_eq!(client.read_connack().code, 0x8c);
    }
    broker.await_log("is banned for 2 s (limits.ban-auth-failures-max).");
    assert!(is_closed_at_once(&broker));
    let elsewhere = from(Ipv4Addr::new(127, 0, 0, 9), broker.addr);
    assert!(is_open(&elsewhere));
    until_let_in(&broker);
}

#[test]
fn who_is_taken_over_too_often_is_banned_by_client_identifier() {
    let broker = Broker::start(
        2,
        &[
            "--set",
            "limits.ban-takeovers-max=5",
            "--set",
            "limits.ban-time=2s",
        ],
    );
    let id = unique("flapping");
    // To come back often is no reason.
    for _ in 0..20 {
        Raw::v5(&broker, &id).disconnect();
    }
    let _fighting: Vec<_> = (0..7).map(|_| Raw::v5(&broker, &id)).collect();
    broker.await_log(&format!("Client {id} ["));
    broker.await_log("is banned for 2 s (limits.ban-takeovers-max).");
    for (connect, code) in [(Connect::v5(&id), 0x8a), (Connect::v311(&id), 5)] {
        let mut banned = Raw::open(&broker);
        banned.send_connect(&connect);
        assert_eq!(banned.read_connack().code, code);
    }
    broker.await_log("was limited: limits.ban-takeovers-max");
    assert_healthy_one(&broker);
    let deadline = Instant::now() + ARRIVES;
    loop {
        let mut again = Raw::open(&broker);
        again.send_connect(&Connect::v5(&id));
        if again.read_connack().code == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the ban ends");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The order of sacrifice, as far as one flood goes through it: retained messages on new topics first, then new sessions and
/// subscriptions.
#[test]
fn memory_that_is_short() {
    let broker = Broker::start(1, &["--set", "limits.memory-max=64MiB"]);
    let mut old = Raw::v5(&broker, &unique("old"));
    let id = unique("hoarder");
    let mut hoarder = Raw::v5(&broker, &id);
    let payload = vec![b'x'; 256 << 10];
    for n in 0..300 {
        hoarder.retain(format!("hoard/{n}"), 1, &payload);
    }
    broker.await_log("was limited: limits.retained-messages-max");
    broker.await_log(&format!("Client {id} ["));
    if let Some(kib) = broker.rss_kib() {
        assert!(kib < 128 << 10, "{kib} KiB");
    }
    // What was there before goes on.
    old.subscribe(&[("a", 0)]);
    hoarder.publish("a", 0, "x");
    assert_eq!(old.next_publish().text(), "x");
    // What clients hold gives it back.
    for n in 0..300 {
        hoarder.retain(format!("hoard/{n}"), 1, "");
    }
    hoarder.retain("kept", 1, "x");
    let deadline = Instant::now() + ARRIVES;
    loop {
        let mut late = Raw::v5(&broker, &unique("late"));
        late.subscribe(&[("kept", 0)]);
        if let Ok(Some(_)) = late.packet_within(Duration::from_millis(300)) {
            break;
        }
        hoarder.retain("kept", 1, "x");
        assert!(Instant::now() < deadline, "it is retained again");
    }
}

fn is_closed_at_once(broker: &Broker) -> bool {
    let stream = TcpStream::connect(broker.addr).expect("the kernel accepts");
    !is_open(&stream)
}

/// Whether the broker leaves a connection open that says nothing, for a while.
fn is_open(mut stream: &TcpStream) -> bool {
    use std::io::Read;
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("not zero");
    let read = stream.read(&mut [0]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

fn from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let source = SocketAddr::from((source, 0));
    socket.bind(&source.into()).expect("loopback is ours");
    socket.connect(&to.into()).expect("the broker accepts");
    socket.into()
}

/// Tries until a client is let in.
fn until_let_in(broker: &Broker) -> Raw {
    let deadline = Instant::now() + ARRIVES;
    loop {
        let mut client = Raw::open(broker);
        if client.try_send(&Connect::v311(unique("in")).encode())
            && let Ok(Some(_)) = client.packet_within(ARRIVES)
        {
            return client;
        }
        assert!(Instant::now() < deadline, "nobody is let in");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Checks that another client is served.
fn assert_healthy_one(broker: &Broker) {
    Raw::v5(broker, &unique("other")).barrier();
}

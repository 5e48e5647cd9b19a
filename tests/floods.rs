//! Floods, with healthy clients beside them: these are served all the time, and how fast is printed.
//!
//! `cargo test --test floods -- --nocapture --test-threads 1` shows the figures.

mod common;

use common::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What a test does, with a healthy pair of clients that exchange a message every few milliseconds.
fn beside_healthy_clients(name: &str, broker: &Broker, flood: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let (before, during) = thread::scope(|scope| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let done = &done;
        let health = scope.spawn(move || {
            let topic = unique("healthy");
            let mut subscriber = Raw::v311(broker, &unique("hs"));
            subscriber.subscribe(&[(&topic, 0)]);
            let mut publisher = Raw::v311(broker, &unique("hp"));
            let mut round = || {
                let sent = Instant::now();
                publisher.publish(&topic, 0, "x");
                subscriber.next_publish();
                let latency = sent.elapsed();
                thread::sleep(Duration::from_millis(3));
                latency
            };
            let before: Vec<_> = (0..200).map(|_| round()).collect();
            ready.send(()).expect("the test waits for it");
            let mut during = Vec::new();
            while !done.load(Ordering::Relaxed) || during.len() < 200 {
                during.push(round());
            }
            (before, during)
        });
        let ok = is_ready.recv();
        if ok.is_ok() {
            flood();
        }
        done.store(true, Ordering::Relaxed);
        health.join().unwrap_or_else(|panic| rethrow(panic))
    });
    let p99 = |mut latencies: Vec<Duration>| {
        latencies.sort_unstable();
        (latencies.len(), latencies[latencies.len() * 99 / 100])
    };
    let ((_, quiet), (count, flooded)) = (p99(before), p99(during));
    eprintln!("{name}: p99 of {count} messages {flooded:?}, {quiet:?} before the flood");
    assert!(broker.obituary().is_none());
}

/// Connections that are closed as soon as they are open, with and without a limit.
#[test]
fn connection_flood() {
    for set in [
        "limits.connections-max=infinity",
        "limits.connections-per-address-max=50",
    ] {
        let broker = Broker::start(2, &["--set", set]);
        beside_healthy_clients(&format!("connection flood, {set}"), &broker, || {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..1_500 {
                            drop(std::net::TcpStream::connect(broker.addr));
                        }
                    });
                }
            });
        });
    }
}

/// Connections that say nothing, or one byte at a time.
#[test]
fn half_open_connections_and_slowloris() {
    let count = 5_000.min(open_files_max() / 3);
    let broker = Broker::start(2, &["--set", "limits.connect-timeout=3s"]);
    let name = format!("{count} half-open connections, 200 of them slowloris");
    beside_healthy_clients(&name, &broker, || {
        let mut open: Vec<_> = (0..count)
            .map(|_| std::net::TcpStream::connect(broker.addr).expect("the broker accepts"))
            .collect();
        let connect = Connect::v311(unique("slow").repeat(20)).encode();
        for byte in connect.iter().take(30) {
            for stream in open.iter_mut().take(200) {
                // It is closed when the time to CONNECT is over.
                let _ = std::io::Write::write_all(stream, &[*byte]);
            }
            thread::sleep(Duration::from_millis(100));
        }
        for mut stream in open {
            let limit = Some(ARRIVES);
            stream.set_read_timeout(limit).expect("not zero");
            let read = std::io::Read::read(&mut stream, &mut [0]);
            let is_closed = match read {
                Ok(count) => count == 0,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            };
            assert!(
                is_closed,
                "the broker closes whoever does not CONNECT in time"
            );
        }
    });
}

#[test]
fn subscription_bomb() {
    let set = "limits.subscriptions-per-session-max=5000";
    let broker = Broker::start(2, &["--set", set]);
    beside_healthy_clients("subscription bomb", &broker, || {
        let mut bomber = Raw::v5(&broker, &unique("bomber"));
        let mut refused = 0;
        for n in 0..100 {
            let filters: Vec<_> = (0..200).map(|m| (format!("+/{n}/+/{m}/#"), 0)).collect();
            let codes = bomber.subscribe(&filters);
            refused += codes.iter().filter(|code| **code == 0x97).count();
        }
        assert_eq!(refused, 100 * 200 - 5_000);
    });
}

#[test]
fn retained_flood() {
    let set = "limits.retained-messages-max=2000";
    let broker = Broker::start(2, &["--set", set]);
    beside_healthy_clients("retained flood", &broker, || {
        let mut flooder = Raw::v311(&broker, &unique("flooder"));
        for n in 0..100 {
            let burst: Vec<u8> = (0..200)
                .flat_map(|m| {
                    Publish::v311(format!("flood/{n}/{m}"), "x")
                        .retain()
                        .encode()
                })
                .collect();
            flooder.send(&burst);
            flooder.barrier();
        }
        let mut reader = Raw::v311(&broker, &unique("reader"));
        reader.subscribe(&[("flood/#", 0)]);
        reader.receive(2_000);
        reader.expect_nothing_before_barrier();
    });
}

/// A hundred subscribers of a thousand do not read at all. The others get every message, and the broker does not grow
/// beyond what the stalled ones may hold.
#[test]
fn stalled_subscribers_delay_nobody() {
    let (stalled, reading) = (100, 900.min(open_files_max() / 2 - 200));
    let outbound = "limits.outbound-bytes-max=64KiB";
    let broker = Broker::start(2, &["--set", outbound]);
    let topic = unique("all");
    let mut deaf: Vec<_> = (0..stalled)
        .map(|_| Raw::open_with_small_buffer(&broker))
        .collect();
    for client in &mut deaf {
        client.send_connect(&Connect::v311(unique("deaf")));
        client.read_connack();
        client.subscribe(&[(&topic, 0)]);
    }
    let mut subscribers: Vec<_> = (0..reading)
        .map(|_| Raw::v311(&broker, &unique("reads")))
        .collect();
    for client in &mut subscribers {
        client.subscribe(&[(&topic, 0)]);
    }
    let rss_before = broker.rss_kib();
    let name = format!("{stalled} stalled of {} subscribers", stalled + reading);
    beside_healthy_clients(&name, &broker, || {
        let mut publisher = Raw::v311(&broker, &unique("publisher"));
        let payload = vec![b'x'; 8 << 10];
        // 4 MiB for each subscriber: far more than a socket and the outgoing buffer take. No more at a time than the
        // outgoing buffer takes, so that who reads, however slowly, gets everything.
        for _ in 0..128 {
            for _ in 0..4 {
                publisher.publish(&topic, 0, &payload);
            }
            for client in &mut subscribers {
                client.receive(4);
            }
        }
    });
    if let (Some(before), Some(after)) = (rss_before, broker.rss_kib()) {
        let grown = after.saturating_sub(before);
        eprintln!("{name}: memory has grown by {grown} KiB");
        // 64 KiB and a message for each that is stalled, and as much for what is under way.
        let allowed = stalled as u64 * 2 * (64 + 8) + (16 << 10);
        assert!(grown < allowed, "{grown} KiB");
    }
    assert!(broker.obituary().is_none());
}

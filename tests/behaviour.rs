//! What users rely on beyond single statements of the standard, over real sockets, with 1, 2 and 4
//! shards: order under load, takeovers, large requests, slow readers, sessions that come back,
//! shared subscriptions, and agreement between cores.
//!
//! `RINGMQ_TEST_STALL_S` sets how long the reader of retained messages stalls (30 s by default).

mod common;

#[path = "behaviour/cores.rs"]
mod cores;
#[path = "behaviour/shared.rs"]
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::thread;
use std::time::{Duration, Instant};

use common::*;

// ---- order -----------------------------------------------------------------------------------

/// Four publishers send numbered messages at the same time; each of four subscribers must get all
/// of them, and those of each publisher in order.
fn order_under_load(qos: u8, count: u32) {
    on_each(|broker| {
        let prefix = unique("load");
        let filter = format!("{prefix}/+");
        let mut subscribers: Vec<Raw> = (0..4)
            .map(|_| Raw::v311(broker, &unique("loads")))
            .collect();
        for client in &mut subscribers {
            assert_eq!(client.subscribe(&[(&filter, qos)]), [qos]);
        }
        thread::scope(|scope| {
            for who in 0..4 {
                let topic = format!("{prefix}/{who}");
                scope.spawn(move || {
                    let messages: Vec<Publish> = (0..count)
                        .map(|n| Publish::v311(&topic, n.to_be_bytes()))
                        .collect();
                    Raw::v311(broker, &unique("loadp")).publish_all(&messages, qos, 20);
                });
            }
            for client in &mut subscribers {
                scope.spawn(move || {
                    let mut next: BTreeMap<String, u32> = BTreeMap::new();
                    for message in client.receive(4 * count as usize) {
                        let number =
                            u32::from_be_bytes(message.payload.try_into().expect("four bytes"));
                        let expected = next.entry(message.topic).or_default();
                        assert_eq!((message.qos, number), (qos, *expected), "{next:?}");
                        *expected += 1;
                    }
                    client.expect_nothing_before_barrier();
                });
            }
        });
    });
}

#[test]
fn order_under_load_qos_0() {
    order_under_load(0, 2_000);
}

#[test]
fn order_under_load_qos_1() {
    order_under_load(1, 1_000);
}

#[test]
fn order_under_load_qos_2() {
    order_under_load(2, 500);
}

/// One publisher mixes topics and payload sizes, so that messages take different ways through the
/// broker (copied, referenced, in several reads); the order of each topic holds.
#[test]
fn order_with_mixed_payload_sizes() {
    on_each(|broker| {
        let prefix = unique("mixed");
        let mut subscribers: Vec<Raw> = (0..3)
            .map(|_| Raw::v311(broker, &unique("mixeds")))
            .collect();
        for client in &mut subscribers {
            client.subscribe(&[(format!("{prefix}/+"), 1)]);
        }
        let sizes = [4, 100, 1_000, 1_024, 1_025, 4_096, 16_384, 70_000];
        let messages: Vec<Publish> = (0..400u32)
            .map(|number| {
                let mut payload = vec![b'x'; sizes[number as usize * 7 % sizes.len()]];
                payload[..4].copy_from_slice(&number.to_be_bytes());
                Publish::v311(format!("{prefix}/{}", number % 3), payload)
            })
            .collect();
        thread::scope(|scope| {
            let (sent, prefix) = (&messages, &prefix);
            scope.spawn(move || {
                Raw::v311(broker, &unique("mixedp")).publish_all(sent, 1, 10);
            });
            for client in &mut subscribers {
                scope.spawn(move || {
                    let got = client.receive(sent.len());
                    for topic in 0..3 {
                        let topic = format!("{prefix}/{topic}");
                        let of = |topic: &str| {
                            let sent = sent.iter().filter(|m| m.topic == topic.as_bytes());
                            sent.map(|m| m.payload.clone()).collect::<Vec<_>>()
                        };
                        let got: Vec<Vec<u8>> = got
                            .iter()
                            .filter(|m| m.topic == topic)
                            .map(|m| m.payload.clone())
                            .collect();
                        assert!(
                            got == of(&topic),
                            "lost, changed or out of order on {topic}"
                        );
                    }
                });
            }
        });
    });
}

// ---- takeover --------------------------------------------------------------------------------

/// Eight threads connect again and again with one client identifier, with different versions and
/// kinds of session. At the end exactly one connection is alive, and it works.
#[test]
fn takeover_storm_of_many_threads() {
    // Or the storm would end with a ban.
    on_each_of_its_own(&["--set", "limits.ban-takeovers-max=infinity"], |broker| {
        let id = unique("storm");
        let topic = unique("storm");
        let all: Vec<Raw> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|number| {
                    let id = &id;
                    scope.spawn(move || {
                        let connect = match number % 4 {
                            0 => Connect::v311(id),
                            1 => Connect::v311(id).clean(false),
                            2 => Connect::v5(id),
                            _ => Connect::v5(id)
                                .clean(false)
                                .properties(prop::four(prop::SESSION_EXPIRY_INTERVAL, 60)),
                        };
                        // Waiting for CONNACK or the end: a takeover may come before either.
                        let connect_once = |_| {
                            let mut client = Raw::open(broker);
                            client.version = connect.version;
                            if client.try_send(&connect.encode()) {
                                let answer = client.packet_within(2 * ARRIVES);
                                assert!(answer.is_ok(), "neither CONNACK nor the end");
                            }
                            client
                        };
                        (0..50).map(connect_once).collect::<Vec<Raw>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap_or_else(|panic| rethrow(panic)))
                .collect()
        });
        assert_eq!(all.len(), 400);
        let mut alive: Vec<Raw> = all.into_iter().filter_map(alive).collect();
        assert_eq!(alive.len(), 1, "connections that are alive");
        let last = &mut alive[0];
        last.subscribe(&[(&topic, 1)]);
        Raw::v311(broker, &unique("storm")).publish(&topic, 1, "for the last one");
        assert_eq!(last.take_publish().text(), "for the last one");
        // And it can be taken over itself.
        let next = Raw::v311(broker, &id);
        last.expect_closed();
        next.disconnect();
    });
}

/// The client, if it still gets an answer to a PINGREQ.
fn alive(mut client: Raw) -> Option<Raw> {
    if !client.try_send(&pingreq()) {
        return None;
    }
    loop {
        match client.packet_within(ARRIVES) {
            Ok(Some(packet)) if packet.kind() == PINGRESP => return Some(client),
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(()) => panic!("neither an answer to PINGREQ nor the end of the connection"),
        }
    }
}

/// A persistent session is taken over while messages flow to it; none is lost, and none of QoS 2
/// comes twice.
#[test]
fn takeover_while_messages_flow() {
    const COUNT: u32 = 300;
    // Or the takeovers would end with a ban.
    on_each_of_its_own(&["--set", "limits.ban-takeovers-max=infinity"], |broker| {
        for qos in [1, 2] {
            let topic = unique("flow");
            let connect = Connect::v311(unique("flow")).clean(false);
            let mut client = Raw::connect(broker, &connect);
            client.subscribe(&[(&topic, qos)]);
            let messages: Vec<Publish> = (0..COUNT)
                .map(|n| Publish::v311(&topic, n.to_be_bytes()))
                .collect();
            thread::scope(|scope| {
                scope.spawn(|| Raw::v311(broker, &unique("flowp")).publish_all(&messages, qos, 10));
                // A new connection every 20 packets, with whatever is unacknowledged by then.
                let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
                let mut open = BTreeSet::new();
                let mut packets = 0;
                while seen.len() < COUNT as usize || !open.is_empty() {
                    packets += 1;
                    if packets % 20 == 0 {
                        client = Raw::connect(broker, &connect);
                    }
                    let packet = client.read_packet();
                    if packet.kind() == PUBREL {
                        let id = packet.ack(Version::V311).id;
                        client.try_send(&ack(PUBCOMP, id));
                        open.remove(&id);
                        continue;
                    }
                    let message = packet.publish(Version::V311);
                    let is_new = seen.insert(message.payload.clone());
                    if qos == 1 {
                        client.try_send(&ack(PUBACK, message.id));
                    } else {
                        // Method A of a receiver: an identifier that is open is a repetition.
                        assert!(
                            is_new || open.contains(&message.id),
                            "a QoS 2 message came twice"
                        );
                        open.insert(message.id);
                        client.try_send(&ack(PUBREC, message.id));
                    }
                    assert!(
                        is_new || message.dup,
                        "a repetition without DUP: {message:?}"
                    );
                }
            });
            client.expect_nothing_before_barrier();
        }
    });
}

// ---- large requests --------------------------------------------------------------------------

/// 2,000 filters (over 100 KB) in one SUBSCRIBE get 2,000 codes, and each of them works.
#[test]
fn subscribe_with_2000_filters() {
    on_each(|broker| {
        let prefix = format!(
            "{}/{}",
            unique("wide"),
            "a-longer-name-as-users-have/".repeat(2)
        );
        let mut client = Raw::v311(broker, &unique("wide"));
        let filters: Vec<(String, u8)> = (0..2_000u32)
            .map(|n| {
                let ends = ["state", "+", "#"];
                (
                    format!("{prefix}{n}/{}", ends[n as usize % 3]),
                    u8::try_from(n % 2).expect("0 or 1"),
                )
            })
            .collect();
        let wanted: Vec<u8> = filters.iter().map(|(_, qos)| *qos).collect();
        assert_eq!(client.subscribe(&filters), wanted);
        let topics: Vec<String> = (0..2_000).map(|n| format!("{prefix}{n}/state")).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                let messages: Vec<Publish> = topics
                    .iter()
                    .map(|topic| Publish::v311(topic, "on"))
                    .collect();
                Raw::v311(broker, &unique("widep")).publish_all(&messages, 1, 20);
            });
            let got = client.receive(2_000);
            let got_topics: BTreeSet<&str> =
                got.iter().map(|message| message.topic.as_str()).collect();
            assert_eq!(got_topics, topics.iter().map(String::as_str).collect());
        });
        let names: Vec<&String> = filters.iter().map(|(filter, _)| filter).collect();
        client.unsubscribe(&names);
        let end = unique("wide");
        client.subscribe(&[(&end, 1)]);
        let mut publisher = Raw::v311(broker, &unique("widep"));
        publisher.publish(&topics[0], 1, "gone");
        publisher.publish(&end, 1, "end");
        assert_eq!(client.take_publish().topic, end);
    });
}

// ---- slow readers ----------------------------------------------------------------------------

/// How long the reader stalls.
fn stall() -> Duration {
    let seconds = env::var("RINGMQ_TEST_STALL_S").ok();
    let seconds = seconds.map_or(30, |text| {
        text.parse().expect("RINGMQ_TEST_STALL_S is a number")
    });
    if seconds < 30 {
        eprintln!("RINGMQ_TEST_STALL_S: the reader stalls {seconds} s instead of 30 s");
    }
    Duration::from_secs(seconds)
}

/// 10,000 retained messages (20 MB) go to readers that stall: SUBACK comes at once, nothing is
/// lost, and meanwhile the broker does not hold a copy for each reader.
#[test]
fn retained_messages_to_readers_that_stall() {
    const COUNT: u32 = 10_000;
    const PAYLOAD_BYTES: usize = 2_048;
    const GROWTH_MIB_MAX: u64 = 12;
    on_each_of_its_own(&[], |broker| {
        let prefix = unique("stall");
        let messages: Vec<Publish> = (0..COUNT)
            .map(|n| {
                let mut payload = vec![b'x'; PAYLOAD_BYTES];
                payload[..4].copy_from_slice(&n.to_be_bytes());
                Publish::v311(format!("{prefix}/{}/{n}", n % 100), payload).retain()
            })
            .collect();
        Raw::v311(broker, &unique("stallp")).publish_all(&messages, 1, 100);
        let before = broker.rss_kib();
        let mut readers = Vec::new();
        for qos in [0, 1] {
            let mut reader = Raw::open_with_small_buffer(broker);
            reader.send_connect(&Connect::v311(unique("stall")));
            assert_eq!(reader.read_connack().code, 0);
            reader.send(&subscribe(
                Version::V311,
                1,
                &[(format!("{prefix}/#"), qos)],
            ));
            reader.wait_for(SUBACK);
            readers.push(reader);
        }
        // The broker serves others while the readers stall.
        let end = Instant::now() + stall();
        let mut peak = before;
        while Instant::now() < end {
            assert_healthy(broker);
            peak = peak.max(broker.rss_kib());
            thread::sleep(
                Duration::from_millis(500).min(end.saturating_duration_since(Instant::now())),
            );
        }
        for mut reader in readers {
            let got = reader.receive(COUNT as usize);
            assert!(
                got.iter()
                    .all(|message| message.retain && message.payload.len() == PAYLOAD_BYTES)
            );
            let topics: BTreeSet<&str> = got.iter().map(|message| message.topic.as_str()).collect();
            assert_eq!(
                topics.len(),
                COUNT as usize,
                "each retained message comes once"
            );
            reader.expect_nothing_before_barrier();
        }
        if let Some((before, peak)) = before.zip(peak) {
            let grown_mib = (peak - before) / 1_024;
            assert!(
                grown_mib < GROWTH_MIB_MAX,
                "grew by {grown_mib} MiB for two slow readers"
            );
        }
    });
}

// ---- sessions that come back -----------------------------------------------------------------

/// 500 messages wait for a client that is away. It reads without acknowledging, vanishes, and comes
/// back: what it had got comes first, in the same order with the same identifiers and DUP set; the
/// rest follows without DUP; nothing is lost; what is acknowledged does not come again.
#[test]
fn offline_queue_across_reconnects() {
    const COUNT: usize = 500;
    on_each(|broker| {
        let topic = unique("off");
        let connect = Connect::v311(unique("off")).clean(false);
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        let messages: Vec<Publish> = (0..COUNT)
            .map(|n| Publish::v311(&topic, format!("{n}")))
            .collect();
        Raw::v311(broker, &unique("offp")).publish_all(&messages, 1, 50);

        // The broker sends as many as its window allows.
        let mut client = Raw::connect(broker, &connect);
        let mut sent = vec![client.next_publish()];
        while let Ok(Some(packet)) = client.packet_within(2 * ABSENT) {
            sent.push(packet.publish(Version::V311));
        }
        let texts: Vec<String> = sent.iter().map(Received::text).collect();
        assert_eq!(
            texts,
            (0..sent.len()).map(|n| n.to_string()).collect::<Vec<_>>()
        );
        assert!(sent.iter().all(|message| !message.dup && message.qos == 1));
        // A third of them is acknowledged before it vanishes.
        let (acknowledged, unacknowledged) = sent.split_at(sent.len() / 3);
        for message in acknowledged {
            client.send(&ack(PUBACK, message.id));
        }
        client.barrier();
        client.vanish();

        let mut client = Raw::connect(broker, &connect);
        let got = client.receive(COUNT - acknowledged.len());
        let texts: Vec<String> = got.iter().map(Received::text).collect();
        assert_eq!(
            texts,
            (acknowledged.len()..COUNT)
                .map(|n| n.to_string())
                .collect::<Vec<_>>()
        );
        for (again, original) in got.iter().zip(unacknowledged) {
            assert_eq!(
                (again.id, again.dup),
                (original.id, true),
                "{}",
                again.text()
            );
        }
        client.disconnect();

        let mut client = Raw::connect(broker, &connect);
        Raw::v311(broker, &unique("offp")).publish(&topic, 1, "end");
        let end = client.take_publish();
        assert_eq!((end.text().as_str(), end.dup), ("end", false));
    });
}

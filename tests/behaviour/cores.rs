//! What must hold although the clients are served by different cores.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;

/// Clients whose sessions are spread over the cores.
fn spread(broker: &Broker, count: usize) -> Vec<Raw> {
    (0..count)
        .map(|_| Raw::v311(broker, &unique("spread")))
        .collect()
}

/// A chain of takeovers, each ending a connection with a retained Will: every core sees every Will
/// live, in order, and has it retained by then.
#[test]
fn retained_will_at_takeover_is_seen_by_every_core() {
    on_each(|broker| {
        let topic = unique("chain");
        let id = unique("chain");
        let mut watchers = spread(broker, 8);
        for watcher in &mut watchers {
            watcher.subscribe(&[(&topic, 1)]);
        }
        let connect = |round: u32| {
            let will = Will::new(&topic, format!("{round}")).qos(1).retain();
            Raw::connect(broker, &Connect::v311(&id).will(will))
        };
        let mut current = connect(0);
        for round in 0..20 {
            let next = connect(round + 1);
            current.expect_closed();
            current = next;
            for watcher in &mut watchers {
                let live = watcher.take_publish();
                assert_eq!((live.text(), live.retain), (round.to_string(), false));
                watcher.subscribe(&[(&topic, 1)]);
                let kept = watcher.take_publish();
                assert_eq!((kept.text(), kept.retain), (round.to_string(), true));
            }
        }
        current.disconnect();
        for watcher in &mut watchers {
            watcher.expect_nothing_before_barrier();
        }
    });
}

/// Clients of several cores set one retained message at the same time; all cores end with the same
/// one, and after it is cleared, with none.
#[test]
fn cores_agree_on_a_contested_retained_message() {
    on_each(|broker| {
        let topic = unique("race");
        thread::scope(|scope| {
            for who in 0..4 {
                let topic = &topic;
                scope.spawn(move || {
                    let messages: Vec<Publish> = (0..100)
                        .map(|n| Publish::v311(topic, format!("{who}-{n}")).retain())
                        .collect();
                    Raw::v311(broker, &unique("racep")).publish_all(&messages, 1, 10);
                });
            }
        });
        let last = agreed(broker, &topic);
        let last = last.expect("the last one of some publisher is retained");
        assert!(last.ends_with("-99"), "{last} is nobody's last message");
        let mut publisher = Raw::v311(broker, &unique("racep"));
        publisher.retain(&topic, 1, "after the race");
        assert_eq!(agreed(broker, &topic).as_deref(), Some("after the race"));
        publisher.retain(&topic, 1, "");
        assert_eq!(agreed(broker, &topic), None);
    });
}

/// The retained message that new subscribers on all cores get, once they all get the same.
fn agreed(broker: &Broker, topic: &str) -> Option<String> {
    let end = Instant::now() + ARRIVES;
    loop {
        let mut values = BTreeSet::new();
        for mut client in spread(broker, 8) {
            client.subscribe(&[(topic, 1)]);
            let value = client.packet_within(ABSENT / 4);
            values.insert(
                value
                    .ok()
                    .flatten()
                    .map(|packet| packet.publish(Version::V311).text()),
            );
        }
        if values.len() == 1 {
            return values.pop_first().flatten();
        }
        assert!(
            Instant::now() < end,
            "new subscribers get different retained messages: {values:?}"
        );
    }
}

/// A client subscribes and another publishes at once after its SUBACK, over and over: SUBACK is a
/// promise that holds on every core.
#[test]
fn suback_is_a_promise_on_every_core() {
    on_each(|broker| {
        let mut publishers = spread(broker, 4);
        let mut subscribers = spread(broker, 4);
        for round in 0..100 {
            let topic = unique("promise");
            // Filters that the cores know in different ways: exact, and before a wildcard.
            let filter =
                [topic.clone(), format!("{topic}/#"), format!("{topic}/+")][round % 3].clone();
            let name = if round % 3 == 2 {
                format!("{topic}/x")
            } else {
                topic
            };
            let subscriber = &mut subscribers[round % 4];
            subscriber.subscribe(&[(&filter, 0)]);
            for publisher in &mut publishers {
                publisher.send(&Publish::v311(&name, "now").encode());
            }
            for _ in 0..4 {
                assert_eq!(subscriber.take_publish().topic, name);
            }
            subscriber.unsubscribe(&[&filter]);
        }
    });
}

/// A publisher sends a burst and leaves in the same breath, with DISCONNECT or without: all that it
/// sent before is delivered.
#[test]
fn messages_before_the_end_are_delivered() {
    const COUNT: u32 = 1_000;
    on_each(|broker| {
        for says_goodbye in [true, false] {
            let topic = unique("last");
            let mut subscribers = spread(broker, 3);
            for client in &mut subscribers {
                client.subscribe(&[(&topic, 0)]);
            }
            let mut publisher = Raw::open(broker);
            let mut burst = Connect::v311(unique("last")).encode();
            for number in 0..COUNT {
                burst.extend(Publish::v311(&topic, number.to_be_bytes()).encode());
            }
            if says_goodbye {
                burst.extend(disconnect());
            }
            publisher.send(&burst);
            if says_goodbye {
                publisher.expect_closed();
            } else {
                publisher.finish_sending();
            }
            for client in &mut subscribers {
                for (number, message) in (0..COUNT).zip(client.receive(COUNT as usize)) {
                    assert_eq!(message.payload, number.to_be_bytes());
                }
            }
        }
    });
}

/// A message of 4 MiB reaches clients on all cores unchanged, with each QoS, and small messages of
/// the same publisher keep their place around it.
#[test]
fn large_messages_reach_every_core() {
    on_each(|broker| {
        let topic = unique("large");
        let mut subscribers = spread(broker, 4);
        for client in &mut subscribers {
            client.subscribe(&[(&topic, 2)]);
        }
        let payload: Vec<u8> = (0..4u32 << 20)
            .map(|n| (n % 251).to_le_bytes()[0])
            .collect();
        let mut publisher = Raw::v311(broker, &unique("large"));
        for qos in 0..3 {
            thread::scope(|scope| {
                for client in &mut subscribers {
                    let payload = &payload;
                    scope.spawn(move || {
                        let got = client.receive(2);
                        assert_eq!(got[0].text(), "before");
                        assert!(got[1].payload == *payload, "a large message was changed");
                    });
                }
                publisher.publish(&topic, qos, "before");
                publisher.publish(&topic, qos, &payload);
            });
            // Not earlier with QoS 0, which is dropped while the large one fills the buffers.
            publisher.publish(&topic, qos, "after");
            for client in &mut subscribers {
                assert_eq!(client.take_publish().text(), "after");
            }
        }
    });
}

/// 200 clients on all cores vanish at once: every Will is published, once.
#[test]
fn many_wills_at_once() {
    on_each(|broker| {
        let prefix = unique("wills");
        let mut watcher = Raw::v311(broker, &unique("wills"));
        watcher.subscribe(&[(format!("{prefix}/+"), 1)]);
        let clients: Vec<Raw> = (0..200)
            .map(|n| {
                let will = Will::new(format!("{prefix}/{n}"), "gone").qos(1);
                Raw::connect(broker, &Connect::v311(unique("wills")).will(will))
            })
            .collect();
        drop(clients);
        let topics: BTreeSet<String> = watcher
            .receive(200)
            .into_iter()
            .map(|will| will.topic)
            .collect();
        assert_eq!(topics.len(), 200);
        watcher.expect_nothing_before_barrier();
    });
}

/// Requests and answers go back and forth between clients of all cores, one at a time: no message
/// waits for something else to wake its core.
#[test]
fn no_message_waits_for_another() {
    on_each(|broker| {
        let (asks, answers) = (unique("ask"), unique("answer"));
        for _ in 0..4 {
            let mut server = Raw::v311(broker, &unique("server"));
            let mut client = Raw::v311(broker, &unique("client"));
            server.subscribe(&[(&asks, 0)]);
            client.subscribe(&[(&answers, 0)]);
            let mut longest = Duration::ZERO;
            for _ in 0..500 {
                let start = Instant::now();
                client.send(&Publish::v311(&asks, "?").encode());
                assert_eq!(server.next_publish().text(), "?");
                server.send(&Publish::v311(&answers, "!").encode());
                assert_eq!(client.next_publish().text(), "!");
                longest = longest.max(start.elapsed());
            }
            assert!(
                longest < Duration::from_secs(2),
                "one round took {longest:?}"
            );
            server.disconnect();
            client.disconnect();
        }
    });
}

const CHANGING_TOPICS: u32 = 2_000;
const LAST_VALUE: u32 = 4;

/// While retained messages are sent to new subscribers, some of them slow, the messages change.
/// Returns the values that each subscriber saw of each topic.
fn values_of_changing_retained_messages(broker: &Broker) -> Vec<BTreeMap<String, Vec<u32>>> {
    let prefix = unique("back");
    let values = |value: u32| -> Vec<Publish> {
        (0..CHANGING_TOPICS)
            .map(|n| Publish::v311(format!("{prefix}/{n}"), value.to_string()).retain())
            .collect()
    };
    let mut publisher = Raw::v311(broker, &unique("back"));
    publisher.publish_all(&values(0), 1, 100);
    let read = |number: u64| {
        // Each joins at another time; two of them are slow to begin with.
        thread::sleep(Duration::from_millis(30 * number));
        let mut client = Raw::open_with_small_buffer(broker);
        client.send_connect(&Connect::v311(unique("back")));
        assert_eq!(client.read_connack().code, 0);
        client.send(&subscribe(Version::V311, 1, &[(format!("{prefix}/#"), 1)]));
        if number % 2 == 1 {
            thread::sleep(Duration::from_millis(500));
        }
        client.wait_for(SUBACK);
        let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        while let Ok(Some(packet)) = client.packet_within(Duration::from_secs(1)) {
            let message = packet.publish(Version::V311);
            client.acknowledge(&message);
            seen.entry(message.topic.clone())
                .or_default()
                .push(message.text().parse().expect("a number"));
        }
        seen
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|number| scope.spawn(move || read(number)))
            .collect();
        for value in 1..=LAST_VALUE {
            thread::sleep(Duration::from_millis(20));
            publisher.publish_all(&values(value), 1, 100);
        }
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap_or_else(|panic| rethrow(panic)))
            .collect()
    })
}

/// Retained messages that change while they are sent: every subscriber ends with the last value of
/// every topic.
#[test]
fn retained_messages_that_change_end_with_the_last() {
    on_each(|broker| {
        for seen in values_of_changing_retained_messages(broker) {
            assert_eq!(
                seen.len(),
                CHANGING_TOPICS as usize,
                "some topics were not seen at all"
            );
            for (topic, values) in seen {
                assert_eq!(values.last(), Some(&LAST_VALUE), "{topic}: {values:?}");
            }
        }
    });
}

/// Retained messages that change while they are sent: no topic goes back to an older value, as the
/// order of a publisher's messages on one topic holds for retained ones, too [MQTT-4.6.0-6].
#[test]
fn retained_messages_that_change_never_go_back() {
    on_each(|broker| {
        for seen in values_of_changing_retained_messages(broker) {
            for (topic, values) in seen {
                assert!(values.is_sorted(), "{topic}: {values:?}");
            }
        }
    });
}

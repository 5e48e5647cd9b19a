//! Section 3.3.2.3.4: Topic Aliases, both ways.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.3.2-10] | binds clients: which aliases they accept |

use std::collections::BTreeMap;

use crate::common::*;
use crate::support::*;

/// The Topic Alias Maximum that the server announces.
#[track_caller]
fn maximum(broker: &Broker) -> u16 {
    let (_, connack) = Raw::session(broker, &Connect::v5(unique("alias")));
    let maximum = connack
        .properties
        .number(prop::TOPIC_ALIAS_MAXIMUM)
        .unwrap_or(0);
    u16::try_from(maximum).expect("two bytes")
}

/// A PUBLISH with a Topic Alias.
fn with_alias(topic: &str, alias: u16, payload: &str) -> Publish {
    Publish::v5(topic, payload).properties(topic_alias(alias))
}

/// A subscriber that accepts `count` aliases, and what it has learned of them.
struct Learner {
    client: Raw,
    count: u16,
    topics: BTreeMap<u32, String>,
    /// Messages that came without Topic Name.
    by_alias: usize,
}

impl Learner {
    #[track_caller]
    fn new(client: Raw, count: u16) -> Self {
        Self {
            client,
            count,
            topics: BTreeMap::new(),
            by_alias: 0,
        }
    }

    /// The next message with its topic resolved; acknowledged.
    #[track_caller]
    fn take(&mut self) -> (String, String) {
        let message = self.client.take_publish();
        let alias = message.properties.number(prop::TOPIC_ALIAS);
        if let Some(alias) = alias {
            assert!(
                (1..=u32::from(self.count)).contains(&alias),
                "alias {alias}"
            );
        }
        let topic = match (message.topic.as_str(), alias) {
            ("", Some(alias)) => {
                self.by_alias += 1;
                self.topics
                    .get(&alias)
                    .expect("the alias was defined before")
                    .clone()
            }
            ("", None) => panic!("neither Topic Name nor Topic Alias"),
            (topic, Some(alias)) => {
                self.topics.insert(alias, topic.to_owned());
                topic.to_owned()
            }
            (topic, None) => topic.to_owned(),
        };
        (topic, message.text())
    }
}

/// The server does not send an alias above the client's Topic Alias Maximum.
#[test]
fn mqtt_3_1_2_26_server_keeps_to_the_maximum() {
    on_each(|broker| {
        for count in [1, 2, 5] {
            let prefix = unique("alias");
            let client = client_with(broker, topic_alias_maximum(count));
            let mut learner = Learner::new(client, count);
            learner.client.subscribe(&[(format!("{prefix}/+"), 1)]);
            let mut publisher = self::client(broker);
            for round in 0..3 {
                for number in 0..8 {
                    publisher.publish(format!("{prefix}/{number}"), round % 2, "x");
                }
            }
            for _ in 0..3 {
                for number in 0..8 {
                    // `take` checks each alias.
                    assert_eq!(learner.take().0, format!("{prefix}/{number}"));
                }
            }
        }
    });
}

/// Without a Topic Alias Maximum, or with 0, the server sends no alias.
#[test]
fn mqtt_3_1_2_27_no_alias_without_maximum() {
    on_each(|broker| {
        for properties in [vec![], topic_alias_maximum(0)] {
            let topic = unique("alias");
            let mut client = client_with(broker, properties);
            client.subscribe(&[(&topic, 1)]);
            let mut publisher = self::client(broker);
            for number in 0..6 {
                publisher.publish(&topic, number % 2, "x");
                let message = client.take_publish();
                assert_eq!(message.topic, topic);
                assert_eq!(message.properties.number(prop::TOPIC_ALIAS), None);
            }
        }
    });
}

/// A client must not send an alias above the server's Topic Alias Maximum: 0x94.
#[test]
fn mqtt_3_2_2_17_alias_above_the_maximum() {
    on_each(|broker| {
        let maximum = maximum(broker);
        for alias in [maximum + 1, u16::MAX] {
            ends(broker, &with_alias("t", alias, "x").encode(), &[0x94]);
        }
    });
}

/// If the server announces no Topic Alias Maximum, a client must not send any alias: 0x94.
#[test]
fn mqtt_3_2_2_18_no_alias_without_maximum_of_the_server() {
    on_each_of_its_own(&["--set", "limits.topic-alias-maximum=0"], |broker| {
        if !broker.is_ours() {
            eprintln!("skipped: a broker named by RINGMQ_TEST_BROKER cannot be configured");
            return;
        }
        assert_eq!(maximum(broker), 0);
        ends(broker, &with_alias("t", 1, "x").encode(), &[0x94]);
    });
}

/// Aliases do not live longer than their connection, also if the session does: neither those of the
/// client nor those of the server.
#[test]
fn mqtt_3_3_2_7_aliases_end_with_the_connection() {
    on_each(|broker| {
        let (id, topic) = (unique("alias"), unique("alias"));
        let connect = Connect::v5(&id)
            .clean(false)
            .properties([session_expiry_s(600), topic_alias_maximum(5)].concat());
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 1)]);
        client.publish_packet(with_alias(&topic, 1, "x"), 1);
        let mut learner = Learner::new(client, 5);
        assert_eq!(learner.take().0, topic);
        let mut client = learner.client;
        client.publish_packet(with_alias("", 1, "x"), 1);
        client.next_publish();
        client.vanish();
        let client = Raw::connect(broker, &connect);
        // What is sent again must name its topic, as the server's aliases are forgotten.
        let mut learner = Learner::new(client, 5);
        assert_eq!(learner.take().0, topic);
        let mut client = learner.client;
        client.send(&with_alias("", 1, "x").encode());
        client.expect_closed_with(&[PROTOCOL_ERROR, 0x94]);
    });
}

/// Alias 0 is not allowed: 0x94.
#[test]
fn mqtt_3_3_2_8_alias_0() {
    on_each(|broker| {
        let reasons = [0x94, PROTOCOL_ERROR];
        ends(broker, &with_alias("t", 0, "x").encode(), &reasons);
        ends(broker, &with_alias("", 0, "x").encode(), &reasons);
    });
}

/// An alias above the maximum in CONNACK is not allowed, with or without Topic Name, and changes
/// nothing.
#[test]
fn mqtt_3_3_2_9_alias_above_the_maximum_is_not_processed() {
    on_each(|broker| {
        let topic = unique("alias");
        let mut watcher = subscriber(broker, &topic, 1);
        let alias = maximum(broker) + 1;
        ends(
            broker,
            &with_alias(&topic, alias, "never").encode(),
            &[0x94],
        );
        ends(broker, &with_alias("", alias, "never").encode(), &[0x94]);
        nothing_else(&mut watcher, &mut client(broker), &topic, 1);
    });
}

/// The server's aliases are within the client's maximum also when messages wait, and when they are
/// sent again.
#[test]
fn mqtt_3_3_2_11_server_keeps_to_the_maximum_when_messages_wait() {
    on_each(|broker| {
        let (id, prefix) = (unique("alias"), unique("alias"));
        let properties = [session_expiry_s(600), topic_alias_maximum(2)].concat();
        let connect = Connect::v5(&id).clean(false).properties(properties);
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(format!("{prefix}/+"), 1)]);
        let mut publisher = self::client(broker);
        let mut publish = || {
            for number in 0..6 {
                publisher.publish(format!("{prefix}/{}", number % 3), 1, number.to_string());
            }
        };
        publish();
        client.barrier();
        client.vanish();
        publish();
        let mut learner = Learner::new(Raw::connect(broker, &connect), 2);
        for number in (0..6).chain(0..6) {
            let (topic, text) = learner.take();
            assert_eq!(text, number.to_string());
            assert_eq!(topic, format!("{prefix}/{}", number % 3));
        }
    });
}

/// The server accepts every alias from 1 to its maximum, and an alias can be defined again.
#[test]
fn mqtt_3_3_2_12_server_accepts_all_aliases() {
    on_each(|broker| {
        let prefix = unique("alias");
        let mut watcher = subscriber(broker, &format!("{prefix}/+"), 1);
        let maximum = maximum(broker).min(200);
        assert!(maximum > 0, "this server has Topic Aliases");
        let mut client = self::client(broker);
        for shift in [0, 1] {
            for alias in 1..=maximum {
                let topic = format!("{prefix}/{}", alias + shift);
                client.publish_packet(with_alias(&topic, alias, "defined"), 0);
                assert_eq!(watcher.take_publish().topic, topic);
            }
            for alias in (1..=maximum).rev() {
                client.publish_packet(with_alias("", alias, "used"), 1);
                let message = watcher.take_publish();
                assert_eq!(message.topic, format!("{prefix}/{}", alias + shift));
                assert_eq!(message.properties.number(prop::TOPIC_ALIAS), None);
            }
        }
    });
}

/// Section 3.3.2.3.4: an empty Topic Name with an alias that was not defined is a protocol error.
#[test]
fn section_3_3_2_3_4_alias_that_was_not_defined() {
    on_each(|broker| {
        ends(
            broker,
            &with_alias("", 1, "x").encode(),
            &[PROTOCOL_ERROR, 0x94],
        );
    });
}

/// Section 3.3.2.3.4: aliases of two clients have nothing to do with each other.
#[test]
fn section_3_3_2_3_4_aliases_are_of_one_connection() {
    on_each(|broker| {
        let (one, two) = (unique("alias"), unique("alias"));
        let mut watcher = subscriber(broker, &one, 1);
        watcher.subscribe(&[(&two, 1)]);
        let (mut a, mut b) = (client(broker), client(broker));
        a.publish_packet(with_alias(&one, 1, "a"), 1);
        b.publish_packet(with_alias(&two, 1, "b"), 1);
        a.publish_packet(with_alias("", 1, "a"), 1);
        b.publish_packet(with_alias("", 1, "b"), 1);
        for _ in 0..4 {
            let message = watcher.take_publish();
            let topic = if message.text() == "a" { &one } else { &two };
            assert_eq!(&message.topic, topic);
        }
    });
}

/// Section 3.3.2.3.4: the server uses aliases towards a client that accepts them, and each resolves
/// to the topic that was published.
#[test]
fn section_3_3_2_3_4_server_uses_aliases() {
    on_each(|broker| {
        let prefix = unique("alias");
        let client = client_with(broker, topic_alias_maximum(10));
        let mut learner = Learner::new(client, 10);
        learner.client.subscribe(&[(format!("{prefix}/+"), 2)]);
        let mut publisher = self::client(broker);
        for number in 0..30 {
            let topic = format!("{prefix}/a-topic-that-is-worth-an-alias-{}", number % 3);
            publisher.publish(&topic, number % 3, "x");
            assert_eq!(learner.take().0, topic);
        }
        assert!(
            learner.by_alias > 0,
            "no message came without its Topic Name"
        );
    });
}

/// Section 3.3.2.3.4: aliases hold for retained messages, too.
#[test]
fn section_3_3_2_3_4_alias_of_a_retained_message() {
    on_each(|broker| {
        let topic = unique("alias");
        let mut client = client(broker);
        client.publish_packet(with_alias(&topic, 1, "first"), 1);
        client.publish_packet(with_alias("", 1, "kept").retain(), 1);
        let got = retained(broker, &topic, &topic).expect("a retained message");
        assert_eq!(
            (got.text().as_str(), got.topic.as_str()),
            ("kept", topic.as_str())
        );
    });
}

/// Section 3.3.2.3.4: an alias counts as defined only if the PUBLISH that defines it was sent: one
/// that was too large for the client, or had expired, defines nothing.
#[test]
fn section_3_3_2_3_4_alias_of_a_message_that_was_not_sent() {
    on_each(|broker| {
        let (large, late) = (unique("alias"), unique("alias"));
        let properties = [
            topic_alias_maximum(5),
            packet_size_max(200),
            receive_maximum(1),
        ];
        let client = client_with(broker, properties.concat());
        let mut learner = Learner::new(client, 5);
        learner.client.subscribe(&[(&large, 1), (&late, 1)]);
        let mut publisher = self::client(broker);
        for qos in [0, 1] {
            publisher.publish(&large, qos, vec![b'L'; 1_000]);
            publisher.publish(&large, qos, "small");
            assert_eq!(learner.take(), (large.clone(), "small".to_owned()));
        }
        // The window is full while a message on a new topic expires.
        publisher.publish(&large, 1, "holds the window");
        let held = learner.client.next_publish();
        let expires = Publish::v5(&late, "expires").properties(message_expiry_s(1));
        publisher.publish_packet(expires, 1);
        std::thread::sleep(std::time::Duration::from_millis(2_100));
        publisher.publish(&late, 1, "in time");
        learner.client.acknowledge(&held);
        assert_eq!(learner.take(), (late.clone(), "in time".to_owned()));
    });
}

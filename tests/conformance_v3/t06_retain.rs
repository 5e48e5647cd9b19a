//! Section 3.3.1.3: RETAIN.

use crate::common::*;
use crate::{retained, subscriber};

/// A message with RETAIN is stored, with its QoS, for later subscribers.
#[test]
fn mqtt_3_3_1_5_retained_message_is_stored_with_its_qos() {
    on_each(|broker| {
        for qos in 0..3 {
            let topic = unique("ret");
            let mut publisher = Raw::v311(broker, &unique("ret"));
            publisher.retain(&topic, qos, "kept");
            publisher.barrier();
            let message = retained(broker, &topic, &topic).expect("a retained message");
            assert_eq!((message.text().as_str(), message.qos), ("kept", qos));
        }
    });
}

/// A new subscription gets the last retained message of each topic that matches.
#[test]
fn mqtt_3_3_1_6_new_subscription_gets_the_last_retained_messages() {
    on_each(|broker| {
        let prefix = unique("ret");
        let mut publisher = Raw::v311(broker, &unique("ret"));
        for topic in ["a", "a/b", "a/b/c", "d"] {
            publisher.retain(format!("{prefix}/{topic}"), 1, "old");
            publisher.retain(format!("{prefix}/{topic}"), 1, topic);
        }
        for (filter, topics) in [
            ("a", &["a"][..]),
            ("+", &["a", "d"]),
            ("#", &["a", "a/b", "a/b/c", "d"]),
            ("a/#", &["a", "a/b", "a/b/c"]),
            ("+/b", &["a/b"]),
            ("+/+/c", &["a/b/c"]),
            ("x/#", &[]),
        ] {
            let mut client = Raw::v311(broker, &unique("ret"));
            client.subscribe(&[(format!("{prefix}/{filter}"), 1)]);
            let mut got = Vec::new();
            for _ in topics {
                let message = client.take_publish();
                assert!(message.retain);
                assert_eq!(message.topic, format!("{prefix}/{}", message.text()));
                got.push(message.text());
            }
            got.sort();
            assert_eq!(got, topics, "for {filter}");
            client.expect_silence(50);
        }
    });
}

/// A retained message of QoS 0 discards what was retained before; it should take its place.
#[test]
fn mqtt_3_3_1_7_retained_qos_0_discards_the_one_before() {
    on_each(|broker| {
        let topic = unique("ret");
        let mut publisher = Raw::v311(broker, &unique("ret"));
        publisher.retain(&topic, 1, "old");
        publisher.retain(&topic, 0, "new");
        publisher.barrier();
        let message = retained(broker, &topic, &topic).expect("the server should store it");
        assert_eq!(message.text(), "new");
    });
}

/// What is sent because of a new subscription has RETAIN 1.
#[test]
fn mqtt_3_3_1_8_retain_is_1_for_a_new_subscription() {
    on_each(|broker| {
        let topic = unique("ret");
        Raw::v311(broker, &unique("ret")).retain(&topic, 1, "kept");
        let mut client = Raw::v311(broker, &unique("ret"));
        client.subscribe(&[(&topic, 0)]);
        client.expect(&Publish::v311(&topic, "kept").retain().encode());
    });
}

/// What matches an established subscription has RETAIN 0, however it was published.
#[test]
fn mqtt_3_3_1_9_retain_is_0_for_an_established_subscription() {
    on_each(|broker| {
        let topic = unique("ret");
        let mut client = subscriber(broker, &topic, 0);
        let mut publisher = Raw::v311(broker, &unique("ret"));
        publisher.retain(&topic, 1, "retained");
        client.expect(&Publish::v311(&topic, "retained").encode());
        publisher.publish(&topic, 1, "not retained");
        client.expect(&Publish::v311(&topic, "not retained").encode());
    });
}

/// An empty retained message is delivered as usual and removes the retained message.
#[test]
fn mqtt_3_3_1_10_empty_retained_message_removes() {
    on_each(|broker| {
        let topic = unique("ret");
        let mut client = subscriber(broker, &topic, 1);
        let mut publisher = Raw::v311(broker, &unique("ret"));
        for qos in 0..3 {
            publisher.retain(&topic, 1, "kept");
            assert_eq!(client.take_publish().text(), "kept");
            publisher.retain(&topic, qos, "");
            let empty = client.take_publish();
            assert_eq!(
                (empty.payload.len(), empty.retain, empty.qos),
                (0, false, qos.min(1))
            );
            publisher.barrier();
            assert_eq!(retained(broker, &topic, &topic), None);
            assert_eq!(client.take_publish().text(), "sentinel");
        }
    });
}

/// An empty retained message is not stored.
#[test]
fn mqtt_3_3_1_11_empty_retained_message_is_not_stored() {
    on_each(|broker| {
        let topic = unique("ret");
        Raw::v311(broker, &unique("ret")).retain(&topic, 1, "");
        assert_eq!(retained(broker, &topic, &topic), None);
    });
}

/// Without RETAIN, a message is not stored and leaves the retained one alone, even if it is empty.
#[test]
fn mqtt_3_3_1_12_message_without_retain_changes_nothing() {
    on_each(|broker| {
        let topic = unique("ret");
        let mut publisher = Raw::v311(broker, &unique("ret"));
        publisher.publish(&topic, 1, "not stored");
        assert_eq!(retained(broker, &topic, &topic), None);
        publisher.retain(&topic, 1, "kept");
        publisher.publish(&topic, 1, "other");
        publisher.publish(&topic, 1, "");
        let message = retained(broker, &topic, &topic).expect("a retained message");
        assert_eq!(message.text(), "kept");
    });
}

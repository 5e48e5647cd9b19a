//! Section 3.3.1.3 and Retain Handling: retained messages.
//!
//! Every statement of this section is tested.

use std::thread::sleep;
use std::time::Duration;

use crate::common::*;
use crate::support::*;

/// A PUBLISH with RETAIN replaces the retained message of its topic, with its QoS and properties.
#[test]
fn mqtt_3_3_1_5_retained_message_is_stored_and_replaced() {
    on_each(|broker| {
        let topic = unique("retain");
        let mut publisher = client(broker);
        for (qos, text) in [(1, "first"), (0, "second"), (2, "third")] {
            let message = Publish::v5(&topic, text)
                .properties(prop::user("is", text))
                .retain();
            publisher.publish_packet(message, qos);
            publisher.barrier();
            let got = retained(broker, &topic, &topic).expect("a retained message");
            assert_eq!((got.text().as_str(), got.qos), (text, qos));
            assert_eq!(got.properties.user(), [("is", text)]);
        }
    });
}

/// An empty payload is delivered as any other, and removes the retained message.
#[test]
fn mqtt_3_3_1_6_empty_payload_removes_the_retained_message() {
    on_each(|broker| {
        let topic = unique("retain");
        let mut watcher = subscriber(broker, &topic, 1 | RETAIN_AS_PUBLISHED);
        let mut publisher = client(broker);
        publisher.retain(&topic, 1, "here");
        assert_eq!(watcher.take_publish().text(), "here");
        publisher.retain(&topic, 1, "");
        let empty = watcher.take_publish();
        assert_eq!((empty.payload.len(), empty.retain), (0, true));
        assert_eq!(retained(broker, &topic, &topic), None);
    });
}

/// An empty payload is not stored.
#[test]
fn mqtt_3_3_1_7_empty_payload_is_not_retained() {
    on_each(|broker| {
        let topic = unique("retain");
        client(broker).retain(&topic, 1, "");
        assert_eq!(retained(broker, &topic, &topic), None);
    });
}

/// A PUBLISH without RETAIN does not change the retained message.
#[test]
fn mqtt_3_3_1_8_without_retain_nothing_is_stored() {
    on_each(|broker| {
        let topic = unique("retain");
        let mut publisher = client(broker);
        publisher.publish(&topic, 1, "live");
        assert_eq!(retained(broker, &topic, &topic), None);
        publisher.retain(&topic, 1, "kept");
        publisher.publish(&topic, 1, "live");
        publisher.publish(&topic, 1, "");
        let got = retained(broker, &topic, &topic).expect("a retained message");
        assert_eq!(got.text(), "kept");
    });
}

/// The retained messages that come for a subscription with these options, and again for the same
/// subscription, and again after an unsubscription.
#[track_caller]
fn replays(broker: &Broker, options: u8) -> [usize; 3] {
    let prefix = unique("replay");
    let filter = format!("{prefix}/#");
    let mut publisher = client(broker);
    for number in 0..3 {
        publisher.retain(format!("{prefix}/{number}"), 1, "retained");
    }
    let mut client = client(broker);
    let mut count = |client: &mut Raw| {
        assert_eq!(client.subscribe(&[(&filter, options)]), [options & 3]);
        publisher.publish(format!("{prefix}/live"), 1, "sentinel");
        let mut count = 0;
        loop {
            let message = client.take_publish();
            assert_eq!(message.retain, message.text() == "retained");
            if !message.retain {
                return count;
            }
            count += 1;
        }
    };
    let mut counts = [0; 3];
    counts[0] = count(&mut client);
    counts[1] = count(&mut client);
    assert_eq!(client.unsubscribe(&[&filter]), [0]);
    counts[2] = count(&mut client);
    counts
}

/// With Retain Handling 0, retained messages come for each SUBSCRIBE.
#[test]
fn mqtt_3_3_1_9_retain_handling_0() {
    on_each(|broker| assert_eq!(replays(broker, 1), [3, 3, 3]));
}

/// With Retain Handling 1, retained messages come if the subscription did not exist.
#[test]
fn mqtt_3_3_1_10_retain_handling_1() {
    on_each(|broker| {
        assert_eq!(replays(broker, 1 | RETAINED_IF_NEW), [3, 0, 3]);
        // A subscription that a resumed session has exists.
        let (id, topic) = (unique("replay"), unique("replay"));
        let mut publisher = client(broker);
        publisher.retain(&topic, 1, "retained");
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 1 | RETAINED_IF_NEW)]);
        assert_eq!(client.take_publish().text(), "retained");
        client.barrier();
        client.disconnect();
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 1 | RETAINED_IF_NEW)]);
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

/// With Retain Handling 2, no retained messages come.
#[test]
fn mqtt_3_3_1_11_retain_handling_2() {
    on_each(|broker| assert_eq!(replays(broker, 1 | RETAINED_NEVER), [0, 0, 0]));
}

/// Without Retain As Published, what is forwarded has RETAIN 0.
#[test]
fn mqtt_3_3_1_12_retain_as_published_0() {
    on_each(|broker| {
        let topic = unique("rap");
        let mut client = subscriber(broker, &topic, 1);
        let mut publisher = self::client(broker);
        publisher.retain(&topic, 1, "x");
        publisher.publish(&topic, 1, "x");
        assert!(client.receive(2).iter().all(|message| !message.retain));
    });
}

/// With Retain As Published, what is forwarded has the RETAIN it came with, also after it waited.
#[test]
fn mqtt_3_3_1_13_retain_as_published_1() {
    on_each(|broker| {
        let (id, topic) = (unique("rap"), unique("rap"));
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 1 | RETAIN_AS_PUBLISHED)]);
        let mut publisher = self::client(broker);
        let mut both = || {
            publisher.retain(&topic, 1, "retained");
            publisher.publish(&topic, 1, "not");
        };
        let check = |client: &mut Raw| {
            let got = client.receive(2);
            let got: Vec<(String, bool)> = got.iter().map(|m| (m.text(), m.retain)).collect();
            assert_eq!(
                got,
                [("retained".to_owned(), true), ("not".to_owned(), false)]
            );
        };
        both();
        check(&mut client);
        client.barrier();
        client.disconnect();
        both();
        check(&mut Raw::connect(broker, &keeping(&id)));
        // Messages that come for the subscription have RETAIN 1, whatever the option.
        assert!(retained(broker, &topic, &topic).is_some());
    });
}

/// Section 3.3.2.3.3: a retained message expires too.
#[test]
fn section_3_3_2_3_3_retained_message_expires() {
    on_each(|broker| {
        let topic = unique("retain");
        let message = Publish::v5(&topic, "x")
            .properties(message_expiry_s(2))
            .retain();
        client(broker).publish_packet(message, 1);
        assert!(retained(broker, &topic, &topic).is_some());
        sleep(Duration::from_millis(3_100));
        assert_eq!(retained(broker, &topic, &topic), None);
    });
}

/// Section 3.3.1.3: wildcards find retained messages; each comes once for a filter, and not if its
/// topic begins with `$` and the filter with a wildcard.
#[test]
fn section_3_3_1_3_retained_messages_by_wildcard() {
    on_each(|broker| {
        let prefix = unique("retain");
        let mut publisher = client(broker);
        for topic in ["a", "a/b", "a/c", "b/b"] {
            publisher.retain(format!("{prefix}/{topic}"), 1, topic);
        }
        let found = |filter: &str| {
            let mut client = subscriber(broker, &format!("{prefix}/{filter}"), 1);
            client.subscribe(&[(format!("{prefix}/end"), 0)]);
            let mut got = Vec::new();
            client.send(&Publish::v5(format!("{prefix}/end"), "end").encode());
            loop {
                let message = client.take_publish();
                if message.text() == "end" {
                    got.sort();
                    return got;
                }
                got.push(message.text());
            }
        };
        assert_eq!(found("a/+"), ["a/b", "a/c"]);
        assert_eq!(found("a/#"), ["a", "a/b", "a/c"]);
        assert_eq!(found("+/b"), ["a/b", "b/b"]);
        assert_eq!(found("+"), ["a"]);
        assert_eq!(found("c/#"), [""; 0]);
    });
}

/// Section 3.3.1.3: a retained message comes with the lower of its QoS and the granted one.
#[test]
fn section_3_3_1_3_qos_of_retained_messages() {
    on_each(|broker| {
        for published in 0..3 {
            let topic = unique("retain");
            let mut publisher = client(broker);
            publisher.retain(&topic, published, "x");
            publisher.disconnect();
            for granted in 0..3 {
                let message = subscriber(broker, &topic, granted).take_publish();
                assert_eq!(message.qos, granted.min(published));
                assert!(message.retain);
            }
        }
    });
}

/// Section 3.3.1.3: many retained messages all come, once each, beyond the client's window and
/// while others are published.
#[test]
fn section_3_3_1_3_many_retained_messages() {
    const COUNT: usize = 500;
    on_each(|broker| {
        let prefix = unique("retain");
        let mut publisher = client(broker);
        let messages: Vec<Publish> = (0..COUNT)
            .map(|number| Publish::v5(format!("{prefix}/{number}"), "retained").retain())
            .collect();
        publisher.publish_all(&messages, 1, 20);
        let mut client = client_with(broker, receive_maximum(5));
        client.subscribe(&[(format!("{prefix}/#"), 1)]);
        publisher.publish(format!("{prefix}/live"), 1, "live");
        let mut topics: Vec<String> = Vec::new();
        for message in client.receive(COUNT + 1) {
            assert_eq!(message.retain, message.text() == "retained");
            if message.retain {
                topics.push(message.topic);
            }
        }
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), COUNT);
        client.expect_nothing_before_barrier();
    });
}

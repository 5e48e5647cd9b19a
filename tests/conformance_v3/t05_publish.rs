//! Sections 3.3 and 3.6: PUBLISH and PUBREL, without RETAIN.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.3.5-2] | needs a client that may not publish: tested with the access rules |

use crate::common::*;
use crate::{ILL_FORMED, closes_on, nothing_else, subscriber};

/// DUP is 1 when a PUBLISH is delivered again.
#[test]
fn mqtt_3_3_1_1_dup_on_redelivery() {
    on_each(|broker| {
        let (topic, connect) = (unique("dup"), Connect::v311(unique("dup")).clean(false));
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 2)]);
        let mut publisher = Raw::v311(broker, &unique("dup"));
        publisher.publish(&topic, 1, "x");
        publisher.publish(&topic, 2, "x");
        let first = [client.next_publish(), client.next_publish()];
        assert!(first.iter().all(|message| !message.dup), "{first:?}");
        client.vanish();
        let mut client = Raw::connect(broker, &connect);
        let again = [client.next_publish(), client.next_publish()];
        assert!(again.iter().all(|message| message.dup), "{again:?}");
    });
}

/// DUP is 0 in every message of QoS 0.
#[test]
fn mqtt_3_3_1_2_dup_is_0_with_qos_0() {
    on_each(|broker| {
        let topic = unique("dup");
        let mut subscriber = subscriber(broker, &topic, 0);
        let mut publisher = Raw::v311(broker, &unique("dup"));
        for qos in [1, 2] {
            publisher.publish_packet(Publish::v311(&topic, "x").dup(), qos);
            subscriber.expect(&Publish::v311(&topic, "x").encode());
        }
    });
}

/// The DUP flag of an incoming PUBLISH is not passed on.
#[test]
fn mqtt_3_3_1_3_dup_is_not_propagated() {
    on_each(|broker| {
        let topic = unique("dup");
        let mut subscriber = subscriber(broker, &topic, 2);
        let mut publisher = Raw::v311(broker, &unique("dup"));
        for qos in [1, 2] {
            publisher.publish_packet(Publish::v311(&topic, "x").dup(), qos);
            let message = subscriber.take_publish();
            assert_eq!((message.qos, message.dup), (qos, false));
        }
    });
}

/// A PUBLISH with both QoS bits set closes the connection.
#[test]
fn mqtt_3_3_1_4_qos_3_closes() {
    on_each(|broker| {
        closes_on(broker, &Publish::v311(unique("q3"), "x").qos(3, 1).encode());
        closes_on(
            broker,
            &Publish::v311(unique("q3"), "x")
                .qos(3, 1)
                .dup()
                .retain()
                .encode(),
        );
    });
}

/// The Topic Name comes first and is a UTF-8 string.
#[test]
fn mqtt_3_3_2_1_topic_name_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            closes_on(broker, &Publish::v311(bad, "x").encode());
        }
        for not_there in [
            &[0x30, 0x00][..],
            &[0x30, 0x01, 0x00],
            &[0x30, 0x03, 0x00, 0x05, b'a'],
        ] {
            closes_on(broker, not_there);
        }
    });
}

/// The Topic Name has no wildcard characters.
#[test]
fn mqtt_3_3_2_2_topic_name_without_wildcards() {
    on_each(|broker| {
        for topic in ["#", "+", "a/#", "a/+/b", "a#", "a+b"] {
            for qos in 0..3 {
                closes_on(broker, &Publish::v311(topic, "x").qos(qos, 1).encode());
            }
        }
    });
}

/// The Topic Name a subscriber gets is the one that was published, and matches its filter.
#[test]
fn mqtt_3_3_2_3_topic_name_matches_the_filter() {
    on_each(|broker| {
        let prefix = unique("name");
        let mut subscriber = subscriber(broker, &format!("{prefix}/+/x/#"), 1);
        let mut publisher = Raw::v311(broker, &unique("name"));
        for topic in ["a/x", "a/x/y", "/x", "b/x/", "ü/x/🦀"] {
            publisher.publish(format!("{prefix}/a/y"), 1, "does not match");
            publisher.publish(format!("{prefix}/{topic}"), 1, "matches");
            let message = subscriber.take_publish();
            assert_eq!(message.topic, format!("{prefix}/{topic}"));
        }
    });
}

/// A PUBLISH is answered as its QoS says: nothing, PUBACK, PUBREC.
#[test]
fn mqtt_3_3_4_1_response_by_qos() {
    on_each(|broker| {
        let topic = unique("resp");
        let mut client = Raw::v311(broker, &unique("resp"));
        client.send(&Publish::v311(&topic, "x").encode());
        client.expect_nothing_before_barrier();
        client.send(&Publish::v311(&topic, "x").qos(1, 5).encode());
        client.expect(&[0x40, 0x02, 0x00, 0x05]);
        client.send(&Publish::v311(&topic, "x").qos(2, 5).encode());
        client.expect(&[0x50, 0x02, 0x00, 0x05]);
        client.expect_nothing_before_barrier();
    });
}

/// With overlapping subscriptions, the message comes with the highest QoS that matches.
#[test]
fn mqtt_3_3_5_1_overlapping_subscriptions_get_the_maximum_qos() {
    on_each(|broker| {
        let prefix = unique("over");
        let (topic, end) = (format!("{prefix}/a"), format!("{prefix}/b/end"));
        let filters = [
            (topic.clone(), 1),
            (format!("{prefix}/+"), 2),
            (format!("{prefix}/#"), 0),
        ];
        let mut client = Raw::v311(broker, &unique("over"));
        assert_eq!(client.subscribe(&filters), [1, 2, 0]);
        let mut publisher = Raw::v311(broker, &unique("over"));
        for qos in 0..3 {
            publisher.publish(&topic, qos, [qos]);
            publisher.publish(&end, 0, "end");
            // A copy for each subscription is allowed; the best must be among them.
            let mut best = None;
            let mut copies = 0;
            loop {
                let message = client.take_publish();
                if message.topic == end {
                    break;
                }
                assert_eq!((&message.topic, &message.payload), (&topic, &vec![qos]));
                best = best.max(Some(message.qos));
                copies += 1;
            }
            // What is sent with QoS above 0 may overtake the end mark or be overtaken by it.
            while best != Some(qos) && copies < filters.len() {
                best = best.max(Some(client.take_publish().qos));
                copies += 1;
            }
            assert_eq!(best, Some(qos));
        }
    });
}

/// PUBREL has the flags 0010; anything else closes the connection.
#[test]
fn mqtt_3_6_1_1_pubrel_flags() {
    on_each(|broker| {
        for flags in (0..16).filter(|flags| *flags != 2) {
            let mut client = Raw::v311(broker, &unique("rel"));
            client.send(&Publish::v311(unique("rel"), "x").qos(2, 9).encode());
            client.expect(&ack(PUBREC, 9));
            client.send(&[0x60 | flags, 0x02, 0x00, 0x09]);
            client.expect_closed_quietly();
        }
    });
}

/// Section 3.3.3: the payload may be empty, and may hold any bytes.
#[test]
fn section_3_3_3_payload_is_any_bytes() {
    on_each(|broker| {
        let topic = unique("any");
        let mut subscriber = subscriber(broker, &topic, 2);
        let mut publisher = Raw::v311(broker, &unique("any"));
        let all_bytes: Vec<u8> = (0..=255).collect();
        for payload in [&b""[..], b"\0", &all_bytes, &vec![0xff; 70_000]] {
            for qos in 0..3 {
                publisher.publish(&topic, qos, payload);
                let message = subscriber.take_publish();
                assert_eq!((message.qos, message.payload.as_slice()), (qos, payload));
            }
        }
        nothing_else(&mut subscriber, &mut publisher, &topic, 2);
    });
}

//! Sections 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.11.2-2] | this server puts no User Property of its own into UNSUBACK; the size is checked by the test of [MQTT-3.11.2-1] |

use crate::common::*;
use crate::support::*;

/// No subscription existed.
const NONE_EXISTED: u8 = 0x11;

/// UNSUBSCRIBE has the reserved flags 0010.
#[test]
fn mqtt_3_10_1_1_unsubscribe_flags() {
    on_each(|broker| {
        for flags in (0..16).filter(|flags| *flags != 2) {
            let mut bytes = unsubscribe(Version::V5, 1, &["t"]);
            bytes[0] = (UNSUBSCRIBE << 4) | flags;
            ends(broker, &bytes, &[MALFORMED]);
        }
    });
}

/// Topic Filters are UTF-8 Encoded Strings.
#[test]
fn mqtt_3_10_3_1_topic_filter_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            ends(
                broker,
                &unsubscribe(Version::V5, 1, &[&b"good"[..], bad]),
                &[MALFORMED],
            );
        }
    });
}

/// UNSUBSCRIBE has at least one filter.
#[test]
fn mqtt_3_10_3_2_no_filter() {
    on_each(|broker| {
        let none: [&str; 0] = [];
        ends(
            broker,
            &unsubscribe(Version::V5, 1, &none),
            &[MALFORMED, PROTOCOL_ERROR],
        );
    });
}

/// A filter that is equal, character by character, deletes its subscription, and nothing else.
#[test]
fn mqtt_3_10_4_1_filters_are_compared_exactly() {
    on_each(|broker| {
        let prefix = unique("exact");
        let name = |filter: &str| format!("{prefix}/{filter}");
        let mut client = subscriber(broker, &name("a/+"), 1);
        for other in ["a/b", "a/#", "A/+", "a/+/", "+/+", "#"] {
            assert_eq!(client.unsubscribe(&[name(other)]), [NONE_EXISTED]);
        }
        let mut publisher = self::client(broker);
        nothing_else(&mut client, &mut publisher, &name("a/b"), 1);
        assert_eq!(client.unsubscribe(&[name("a/+")]), [0]);
        assert_eq!(
            publish_reason(&mut publisher, Publish::v5(name("a/b"), "x"), 1),
            0x10
        );
        client.expect_nothing_before_barrier();
    });
}

/// After UNSUBSCRIBE no new messages come for the filter; other subscriptions go on.
#[test]
fn mqtt_3_10_4_2_no_new_messages() {
    on_each(|broker| {
        let prefix = unique("stop");
        let (stop, stay) = (format!("{prefix}/stop"), format!("{prefix}/stay"));
        let mut client = subscriber(broker, &stop, 1);
        client.subscribe(&[(&stay, 1)]);
        let mut publishers: Vec<Raw> = (0..4).map(|_| self::client(broker)).collect();
        assert_eq!(client.unsubscribe(&[&stop]), [0]);
        for publisher in &mut publishers {
            publisher.publish(&stop, 1, "too late");
            nothing_else(&mut client, publisher, &stay, 1);
        }
    });
}

/// A message of QoS 1 or 2 whose delivery has begun is delivered to the end.
#[test]
fn mqtt_3_10_4_3_deliveries_are_completed() {
    on_each(|broker| {
        for qos in [1, 2] {
            let (id, topic) = (unique("complete"), unique("complete"));
            let mut client = Raw::connect(broker, &keeping(&id));
            client.subscribe(&[(&topic, qos)]);
            self::client(broker).publish(&topic, qos, "begun");
            let first = client.next_publish();
            assert_eq!(client.unsubscribe(&[&topic]), [0]);
            client.vanish();
            let mut client = Raw::connect(broker, &keeping(&id));
            let again = client.take_publish();
            assert_eq!(
                (again.id, again.dup, again.text()),
                (first.id, true, first.text())
            );
            client.expect_nothing_before_barrier();
        }
    });
}

/// UNSUBSCRIBE is answered with UNSUBACK.
#[test]
fn mqtt_3_10_4_4_unsuback() {
    on_each(|broker| {
        let filter = unique("unsub");
        let mut client = subscriber(broker, &filter, 0);
        client.send(&unsubscribe(Version::V5, 8, &[&filter]));
        let unsuback = client.read_packet().unsuback(Version::V5);
        assert_eq!((unsuback.id, unsuback.codes), (8, vec![0]));
    });
}

/// UNSUBACK has the Packet Identifier of its UNSUBSCRIBE, also if there was no subscription.
#[test]
fn mqtt_3_10_4_5_unsuback_without_subscription() {
    on_each(|broker| {
        let mut client = client(broker);
        for id in [1, 1_000, 65_535] {
            client.send(&unsubscribe(Version::V5, id, &[unique("never")]));
            let unsuback = client.expect_kind(UNSUBACK).unsuback(Version::V5);
            assert_eq!((unsuback.id, unsuback.codes), (id, vec![NONE_EXISTED]));
        }
    });
}

/// Several filters in one UNSUBSCRIBE count as if each had come by itself, with one UNSUBACK.
#[test]
fn mqtt_3_10_4_6_several_filters() {
    on_each(|broker| {
        let prefix = unique("several");
        let name = |filter: &str| format!("{prefix}/{filter}");
        let mut client = client(broker);
        client.subscribe(&[(name("a"), 1), (name("b"), 1), (name("c"), 1)]);
        let codes = client.unsubscribe(&[name("a"), name("x"), name("b"), name("a")]);
        assert_eq!(codes, [0, NONE_EXISTED, 0, NONE_EXISTED]);
        client.expect_nothing_before_barrier();
        let mut publisher = self::client(broker);
        publisher.publish(name("a"), 1, "x");
        publisher.publish(name("b"), 1, "x");
        nothing_else(&mut client, &mut publisher, &name("c"), 1);
    });
}

/// A Reason String that would make UNSUBACK larger than the client's Maximum Packet Size is left
/// out.
#[test]
fn mqtt_3_11_2_1_reason_string_of_unsuback_fits() {
    on_each(|broker| {
        let (mut client, room) = client_with_little_room(broker);
        client.send(&unsubscribe(Version::V5, 1, &[unique("never")]));
        let packet = client.expect_kind(UNSUBACK);
        assert!(packet.bytes().len() <= room, "over {room}: {packet:02x?}");
    });
}

/// The Reason Codes of UNSUBACK are in the order of the filters.
#[test]
fn mqtt_3_11_3_1_order_of_reason_codes() {
    on_each(|broker| {
        let prefix = unique("order");
        let mut client = client(broker);
        let filters: Vec<String> = (0..6).map(|n| format!("{prefix}/{n}")).collect();
        client.subscribe(&[(&filters[1], 0), (&filters[2], 0), (&filters[5], 0)]);
        let wanted = [NONE_EXISTED, 0, 0, NONE_EXISTED, NONE_EXISTED, 0];
        assert_eq!(client.unsubscribe(&filters), wanted);
    });
}

/// UNSUBACK has Reason Codes of the standard: 0x00 and 0x11 where nothing is wrong; a shared
/// subscription is another one than its filter.
#[test]
fn mqtt_3_11_3_2_reason_codes_of_unsuback() {
    on_each(|broker| {
        let topic = unique("code");
        let shared = format!("$share/g/{topic}");
        let mut client = subscriber(broker, &shared, 1);
        assert_eq!(client.unsubscribe(&[&topic]), [NONE_EXISTED]);
        assert_eq!(
            client.unsubscribe(&[format!("$share/h/{topic}")]),
            [NONE_EXISTED]
        );
        assert_eq!(client.unsubscribe(&[&shared]), [0]);
        assert_eq!(client.unsubscribe(&[&shared]), [NONE_EXISTED]);
    });
}

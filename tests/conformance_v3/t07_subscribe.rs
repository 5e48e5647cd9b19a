//! Sections 3.8 and 3.9: SUBSCRIBE and SUBACK.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.8.3-2] | wildcards are supported, as [MQTT-4.7.1-2] and [MQTT-4.7.1-3] test |

use crate::common::*;
use crate::{ILL_FORMED, closes_on, nothing_else, subscriber};

/// SUBSCRIBE has the flags 0010; anything else closes the connection.
#[test]
fn mqtt_3_8_1_1_subscribe_flags() {
    on_each(|broker| {
        for flags in (0..16).filter(|flags| *flags != 2) {
            let mut bad = subscribe(Version::V311, 1, &[("t", 0)]);
            bad[0] = 0x80 | flags;
            closes_on(broker, &bad);
        }
    });
}

/// Topic Filters are UTF-8 strings.
#[test]
fn mqtt_3_8_3_1_topic_filter_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            closes_on(
                broker,
                &subscribe(Version::V311, 1, &[(&b"good"[..], 0), (bad, 0)]),
            );
        }
    });
}

/// A SUBSCRIBE has at least one pair of Topic Filter and QoS.
#[test]
fn mqtt_3_8_3_3_subscribe_without_payload_closes() {
    on_each(|broker| {
        closes_on(broker, &[0x82, 0x02, 0x00, 0x01]);
        // A filter whose QoS is missing, and one that is cut short.
        closes_on(broker, &[0x82, 0x05, 0x00, 0x01, 0x00, 0x01, b'a']);
        closes_on(broker, &[0x82, 0x06, 0x00, 0x01, 0x00, 0x05, b'a', 0x00]);
    });
}

/// Reserved bits beside the requested QoS, or QoS 3, close the connection.
#[test]
fn mqtt_3_8_3_4_reserved_bits_and_qos_3_close() {
    on_each(|broker| {
        for options in [0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x81, 0xff] {
            closes_on(
                broker,
                &subscribe(Version::V311, 1, &[("good", 0), ("bad", options)]),
            );
        }
    });
}

/// SUBSCRIBE is answered with SUBACK.
#[test]
fn mqtt_3_8_4_1_subscribe_gets_suback() {
    on_each(|broker| {
        let mut client = Raw::v311(broker, &unique("sub"));
        client.send(&subscribe(Version::V311, 3, &[(unique("sub"), 1)]));
        client.expect(&[0x90, 0x03, 0x00, 0x03, 0x01]);
    });
}

/// SUBACK has the Packet Identifier of its SUBSCRIBE, also when several are on their way.
#[test]
fn mqtt_3_8_4_2_suback_has_the_packet_identifier() {
    on_each(|broker| {
        let mut client = Raw::v311(broker, &unique("sub"));
        let ids = [9, 3, 65_535, 1];
        for id in ids {
            client.send(&subscribe(Version::V311, id, &[(unique("sub"), 0)]));
        }
        let mut got: Vec<u16> = ids
            .iter()
            .map(|_| client.expect_kind(SUBACK).suback(Version::V311).id)
            .collect();
        got.sort_unstable();
        assert_eq!(got, [1, 3, 9, 65_535]);
    });
}

/// An equal Topic Filter replaces the subscription: the new QoS counts, retained messages are sent
/// again, and no second copy of a message comes.
#[test]
fn mqtt_3_8_4_3_equal_filter_replaces_the_subscription() {
    on_each(|broker| {
        let topic = unique("again");
        let mut publisher = Raw::v311(broker, &unique("again"));
        publisher.retain(&topic, 2, "kept");
        let mut client = Raw::v311(broker, &unique("again"));
        for qos in [2, 0, 1] {
            assert_eq!(client.subscribe(&[(&topic, qos)]), [qos]);
            let kept = client.take_publish();
            assert_eq!(
                (kept.text().as_str(), kept.retain, kept.qos),
                ("kept", true, qos)
            );
            publisher.publish(&topic, 2, "live");
            let live = client.take_publish();
            assert_eq!(
                (live.text().as_str(), live.retain, live.qos),
                ("live", false, qos)
            );
            nothing_else(&mut client, &mut publisher, &topic, 2);
        }
    });
}

/// Replacing a subscription does not interrupt the flow of messages.
#[test]
fn mqtt_3_8_4_3_replacing_does_not_interrupt() {
    on_each(|broker| {
        let topic = unique("flow");
        let mut client = subscriber(broker, &topic, 1);
        let mut publisher = Raw::v311(broker, &unique("flow"));
        for number in 0..100u8 {
            publisher.send(
                &Publish::v311(&topic, [number])
                    .qos(1, 1 + u16::from(number))
                    .encode(),
            );
            if number % 10 == 0 {
                client.send(&subscribe(Version::V311, 1_000, &[(&topic, 1)]));
            }
        }
        let mut got = Vec::new();
        while got.len() < 100 {
            let packet = client.read_packet();
            if packet.kind() == PUBLISH {
                let message = packet.publish(Version::V311);
                client.acknowledge(&message);
                got.push(message.payload[0]);
            }
        }
        assert_eq!(got, (0..100).collect::<Vec<u8>>());
    });
}

/// A SUBSCRIBE with several filters works as several SUBSCRIBEs, with one SUBACK.
#[test]
fn mqtt_3_8_4_4_several_filters_as_a_sequence() {
    on_each(|broker| {
        let topics: Vec<String> = (0..20).map(|_| unique("many")).collect();
        let mut client = Raw::v311(broker, &unique("many"));
        let filters: Vec<(&String, u8)> = topics.iter().map(|topic| (topic, 1)).collect();
        assert_eq!(client.subscribe(&filters), [1; 20]);
        client.expect_nothing_before_barrier();
        let mut publisher = Raw::v311(broker, &unique("many"));
        for topic in &topics {
            publisher.publish(topic, 1, "x");
            assert_eq!(client.take_publish().topic, *topic);
        }
        // The same filter twice: the later one replaces the earlier.
        let twice = unique("many");
        assert_eq!(client.subscribe(&[(&twice, 0), (&twice, 1)]), [0, 1]);
        publisher.publish(&twice, 1, "x");
        assert_eq!(client.take_publish().qos, 1);
        nothing_else(&mut client, &mut publisher, &twice, 1);
    });
}

/// SUBACK has a return code for each filter: the granted QoS, or failure.
#[test]
fn mqtt_3_8_4_5_suback_has_a_code_for_each_filter() {
    on_each(|broker| {
        let mut client = Raw::v311(broker, &unique("codes"));
        let topic = unique("codes");
        let filters: Vec<(String, u8)> =
            (0..9).map(|n| (format!("{topic}/{n}/#"), n % 3)).collect();
        assert_eq!(client.subscribe(&filters), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    });
}

/// A message comes with the lower of the QoS it was published with and the QoS that was granted.
#[test]
fn mqtt_3_8_4_6_qos_is_the_minimum() {
    on_each(|broker| {
        for granted in 0..3 {
            let topic = unique("min");
            let mut client = subscriber(broker, &topic, granted);
            let mut publisher = Raw::v311(broker, &unique("min"));
            for published in 0..3 {
                publisher.publish(&topic, published, [published]);
                let message = client.take_publish();
                assert_eq!(
                    (message.payload[0], message.qos),
                    (published, published.min(granted))
                );
            }
        }
    });
}

/// The return codes come in the order of the filters.
#[test]
fn mqtt_3_9_3_1_codes_in_the_order_of_the_filters() {
    on_each(|broker| {
        let mut client = Raw::v311(broker, &unique("order"));
        let wanted: Vec<u8> = (0..200u8).map(|n| (n % 7 + n / 3) % 3).collect();
        let filters: Vec<(String, u8)> = wanted.iter().map(|qos| (unique("order"), *qos)).collect();
        assert_eq!(client.subscribe(&filters), wanted);
    });
}

/// No return code but 0, 1, 2 and 0x80 is used.
#[test]
fn mqtt_3_9_3_2_no_reserved_return_code() {
    on_each(|broker| {
        // Filters that mean something else, or that a server may refuse.
        let prefix = unique("odd");
        let filters = [
            ("$share/group/x".to_owned(), 1),
            ("$SYS/#".to_owned(), 1),
            ("$unknown/#".to_owned(), 2),
            (format!("{prefix}/{}", "x/".repeat(100)), 1),
            (format!("{prefix}/{}", "y".repeat(10_000)), 1),
            ("/".to_owned(), 0),
        ];
        let mut client = Raw::v311(broker, &unique("odd"));
        let codes = client.subscribe(&filters);
        assert_eq!(codes.len(), filters.len());
        assert!(
            codes.iter().all(|code| matches!(code, 0..=2 | 0x80)),
            "{codes:02x?}"
        );
    });
}

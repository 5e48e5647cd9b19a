//! Sections 3.8, 3.9 and 3.3.4: SUBSCRIBE, its options, Subscription Identifiers, SUBACK.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.3.4-5] | this server sends one copy, with all identifiers; see [MQTT-3.3.4-4] |
//! | [MQTT-3.9.2-2] | this server puts no User Property of its own into SUBACK; the size is checked by the test of [MQTT-3.9.2-1] |

use std::collections::BTreeSet;

use crate::common::*;
use crate::support::*;

/// SUBSCRIBE has the reserved flags 0010.
#[test]
fn mqtt_3_8_1_1_subscribe_flags() {
    on_each(|broker| {
        for flags in (0..16).filter(|flags| *flags != 2) {
            let mut bytes = subscribe(Version::V5, 1, &[("t", 0)]);
            bytes[0] = (SUBSCRIBE << 4) | flags;
            ends(broker, &bytes, &[MALFORMED]);
        }
    });
}

/// Topic Filters are UTF-8 Encoded Strings.
#[test]
fn mqtt_3_8_3_1_topic_filter_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            ends(
                broker,
                &subscribe(Version::V5, 1, &[(&b"good"[..], 0), (bad, 0)]),
                &[MALFORMED],
            );
        }
        let filter = format!("{}/Grüße/日本/🦀", unique("utf8"));
        let mut client = subscriber(broker, &filter, 0);
        client.publish(&filter, 0, "x");
        assert_eq!(client.next_publish().topic, filter);
    });
}

/// SUBSCRIBE has at least one filter.
#[test]
fn mqtt_3_8_3_2_no_filter() {
    on_each(|broker| {
        let none: [(&str, u8); 0] = [];
        ends(
            broker,
            &subscribe(Version::V5, 1, &none),
            &[MALFORMED, PROTOCOL_ERROR],
        );
    });
}

/// With No Local, a message does not go back to the client that published it, on whatever
/// connection.
#[test]
fn mqtt_3_8_3_3_no_local() {
    on_each(|broker| {
        let (id, topic) = (unique("local"), unique("local"));
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 1 | NO_LOCAL)]);
        let mut with_local = subscriber(broker, &topic, 1);
        let mut other = self::client(broker);
        client.publish(&topic, 1, "mine");
        assert_eq!(with_local.take_publish().text(), "mine");
        nothing_else(&mut client, &mut other, &topic, 1);
        client.disconnect();
        // The session is the same: what waits for it is the other's.
        other.publish(&topic, 1, "waits");
        let mut client = Raw::connect(broker, &keeping(&id));
        client.publish(&topic, 1, "mine");
        assert_eq!(client.take_publish().text(), "waits");
        nothing_else(&mut client, &mut other, &topic, 1);
        // Another filter without the option has it sent.
        client.subscribe(&[(format!("{topic}/#"), 1)]);
        client.publish(&topic, 1, "mine");
        assert_eq!(client.take_publish().text(), "mine");
    });
}

/// No Local on a shared subscription is a protocol error.
#[test]
fn mqtt_3_8_3_4_no_local_on_a_shared_subscription() {
    on_each(|broker| {
        let filter = format!("$share/group/{}", unique("local"));
        let bytes = subscribe(Version::V5, 1, &[(&filter, 1 | NO_LOCAL)]);
        ends(broker, &bytes, &[PROTOCOL_ERROR]);
    });
}

/// Reserved bits of the Subscription Options are 0; QoS 3 and Retain Handling 3 do not exist.
#[test]
fn mqtt_3_8_3_5_reserved_subscription_options() {
    on_each(|broker| {
        for options in [0x40, 0x80, 0xc1, 0x03, 0x30] {
            let bytes = subscribe(Version::V5, 1, &[("t", options)]);
            ends(broker, &bytes, &[MALFORMED, PROTOCOL_ERROR]);
        }
    });
}

/// SUBSCRIBE is answered with SUBACK.
#[test]
fn mqtt_3_8_4_1_suback() {
    on_each(|broker| {
        let mut client = client(broker);
        client.send(&subscribe(Version::V5, 1, &[(unique("sub"), 0)]));
        assert_eq!(client.read_packet().kind(), SUBACK);
    });
}

/// SUBACK has the Packet Identifier of its SUBSCRIBE, also if several are under way.
#[test]
fn mqtt_3_8_4_2_suback_has_the_packet_identifier() {
    on_each(|broker| {
        let mut client = client(broker);
        let ids: BTreeSet<u16> = (1..40).map(|n| n * 1_000).collect();
        let all = ids
            .iter()
            .map(|id| subscribe(Version::V5, *id, &[(unique("sub"), 1)]));
        client.send(&all.collect::<Vec<_>>().concat());
        let got: BTreeSet<u16> = ids
            .iter()
            .map(|_| client.expect_kind(SUBACK).suback(Version::V5).id)
            .collect();
        assert_eq!(got, ids);
    });
}

/// A SUBSCRIBE with the filter of an existing subscription replaces it: its QoS, its options, its
/// identifier.
#[test]
fn mqtt_3_8_4_3_subscription_is_replaced() {
    on_each(|broker| {
        let topic = unique("replace");
        let mut client = client(broker);
        let mut publisher = self::client(broker);
        for (options, id) in [
            (2, 5),
            (0, 0),
            (1 | RETAIN_AS_PUBLISHED, 7),
            (2 | NO_LOCAL, 9),
        ] {
            let properties = if id == 0 { vec![] } else { subscription_id(id) };
            subscribe_properties(
                &mut client,
                &properties,
                &[(&topic, options | RETAINED_NEVER)],
            );
            publisher.retain(&topic, 2, "x");
            let message = client.take_publish();
            assert_eq!(message.qos, options & 3);
            assert_eq!(message.retain, options & RETAIN_AS_PUBLISHED != 0);
            let ids: Vec<u32> = (id != 0).then_some(id as u32).into_iter().collect();
            assert_eq!(
                message.properties.numbers(prop::SUBSCRIPTION_IDENTIFIER),
                ids
            );
            // Once only.
            nothing_else(&mut client, &mut publisher, &topic, 2);
        }
    });
}

/// While a subscription is replaced, no message is lost; with Retain Handling 0, the retained
/// messages come again.
#[test]
fn mqtt_3_8_4_4_replacing_loses_nothing() {
    const COUNT: usize = 200;
    on_each(|broker| {
        let topic = unique("replace");
        let mut publisher = self::client(broker);
        publisher.retain(&topic, 1, "retained");
        let mut client = client(broker);
        client.subscribe(&[(&topic, 1)]);
        assert_eq!(client.take_publish().text(), "retained");
        let mut live = Vec::new();
        let mut replayed = 0;
        std::thread::scope(|scope| {
            let topic = &topic;
            scope.spawn(move || {
                for number in 0..COUNT {
                    publisher.publish(topic, 1, number.to_string());
                }
            });
            for round in 0..10 {
                client.subscribe(&[(topic, 1)]);
                while live.len() < (round + 1) * COUNT / 10 {
                    let message = client.take_publish();
                    if message.retain {
                        replayed += 1;
                    } else {
                        live.push(message.text());
                    }
                }
            }
        });
        let wanted: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
        assert_eq!(live, wanted);
        // The last replay may still be on its way.
        while replayed < 10 {
            assert!(client.take_publish().retain);
            replayed += 1;
        }
    });
}

/// Several filters in one SUBSCRIBE count as if each had come by itself, with one SUBACK.
#[test]
fn mqtt_3_8_4_5_several_filters() {
    on_each(|broker| {
        let prefix = unique("several");
        let mut client = client(broker);
        let filters = [
            (format!("{prefix}/a"), 0),
            (format!("{prefix}/b"), 2),
            (format!("{prefix}/a"), 1),
            (format!("{prefix}/c/#"), 1),
        ];
        assert_eq!(client.subscribe(&filters), [0, 2, 1, 1]);
        client.expect_nothing_before_barrier();
        let mut publisher = self::client(broker);
        for (topic, qos) in [("a", 1), ("b", 2), ("c/d", 1)] {
            publisher.publish(format!("{prefix}/{topic}"), 2, "x");
            let message = client.take_publish();
            assert_eq!(
                (message.topic, message.qos),
                (format!("{prefix}/{topic}"), qos)
            );
        }
    });
}

/// SUBACK has a Reason Code for each filter.
#[test]
fn mqtt_3_8_4_6_a_reason_code_for_each_filter() {
    on_each(|broker| {
        let prefix = unique("each");
        let filters: Vec<(String, u8)> = (0..100u8)
            .map(|n| (format!("{prefix}/{n}"), n % 3))
            .collect();
        let wanted: Vec<u8> = (0..100).map(|n| n % 3).collect();
        assert_eq!(client(broker).subscribe(&filters), wanted);
    });
}

/// A Reason Code shows the granted QoS; it is the one that holds.
#[test]
fn mqtt_3_8_4_7_reason_code_is_the_granted_qos() {
    on_each(|broker| {
        for qos in 0..3 {
            let topic = unique("grant");
            let mut client = client(broker);
            let granted = client.subscribe(&[(&topic, qos)])[0];
            assert!(granted <= qos);
            self::client(broker).publish(&topic, 2, "x");
            assert_eq!(client.take_publish().qos, granted);
        }
    });
}

/// A message is delivered with the lower of its QoS and the granted one.
#[test]
fn mqtt_3_8_4_8_the_lower_qos() {
    on_each(|broker| {
        let topic = unique("lower");
        let mut publisher = self::client(broker);
        for granted in 0..3 {
            let mut client = subscriber(broker, &topic, granted);
            for published in 0..3 {
                publisher.publish(&topic, published, "x");
                assert_eq!(client.take_publish().qos, granted.min(published));
            }
        }
    });
}

/// A Reason String that would make SUBACK larger than the client's Maximum Packet Size is left out.
#[test]
fn mqtt_3_9_2_1_reason_string_of_suback_fits() {
    on_each(|broker| {
        // A filter that is refused or malformed, and a good one.
        for filter in ["a/#/b", &unique("room")] {
            let (mut client, room) = client_with_little_room(broker);
            client.send(&subscribe(Version::V5, 1, &[(filter, 0)]));
            let packet = client.read_packet();
            assert!(packet.bytes().len() <= room, "over {room}: {packet:02x?}");
        }
    });
}

/// The Reason Codes of SUBACK are in the order of the filters.
#[test]
fn mqtt_3_9_3_1_order_of_reason_codes() {
    on_each(|broker| {
        let prefix = unique("order");
        let order = [2, 0, 1, 1, 2, 0, 0];
        let filters: Vec<(String, u8)> = order
            .iter()
            .enumerate()
            .map(|(n, qos)| (format!("{prefix}/{n}"), *qos))
            .collect();
        assert_eq!(client(broker).subscribe(&filters), order);
    });
}

/// SUBACK has Reason Codes of the standard; a filter that is not valid is refused with 0x8F, or ends
/// the connection.
#[test]
fn mqtt_3_9_3_2_reason_codes_of_suback() {
    on_each(|broker| {
        for bad in ["a/#/b", "a#", "a+/b", "#/a", ""] {
            let mut client = client(broker);
            client.send(&subscribe(Version::V5, 1, &[(bad, 0)]));
            let packet = client.read_packet();
            if packet.kind() == SUBACK {
                assert_eq!(packet.suback(Version::V5).codes, [0x8f]);
            } else {
                let reason = packet.disconnect().reason;
                assert!(
                    [MALFORMED, PROTOCOL_ERROR, 0x8f].contains(&reason),
                    "{reason:#04x}"
                );
            }
        }
    });
}

// ---- overlapping subscriptions ---------------------------------------------------------------

/// A client with three subscriptions that match `{prefix}/a/b`, and one that does not.
#[track_caller]
fn overlapping(broker: &Broker, prefix: &str) -> Raw {
    let mut client = client(broker);
    for (filter, qos, id) in [
        ("a/b", 0, 1),
        ("a/+", 2, 200),
        ("#", 1, 268_435_455),
        ("b", 2, 4),
    ] {
        let filter = format!("{prefix}/{filter}");
        let suback = subscribe_properties(&mut client, &subscription_id(id), &[(&filter, qos)]);
        assert_eq!(suback.codes, [qos]);
    }
    client
}

/// With overlapping subscriptions, the message is delivered with the highest of their QoS.
#[test]
fn mqtt_3_3_4_2_highest_qos_of_overlapping_subscriptions() {
    on_each(|broker| {
        let prefix = unique("overlap");
        let mut client = overlapping(broker, &prefix);
        let mut publisher = self::client(broker);
        for qos in 0..3 {
            publisher.publish(format!("{prefix}/a/b"), qos, "x");
            assert_eq!(client.take_publish().qos, qos);
        }
        publisher.publish(format!("{prefix}/c"), 2, "x");
        assert_eq!(client.take_publish().qos, 1);
    });
}

/// A message has the Subscription Identifier of the subscription it is sent for, online and after
/// it waited; one for a subscription without has none.
#[test]
fn mqtt_3_3_4_3_subscription_identifier() {
    on_each(|broker| {
        let (id, prefix) = (unique("subid"), unique("subid"));
        let (with, without) = (format!("{prefix}/with"), format!("{prefix}/without"));
        let mut client = Raw::connect(broker, &keeping(&id));
        subscribe_properties(&mut client, &subscription_id(128), &[(&with, 1)]);
        client.subscribe(&[(&without, 1)]);
        let mut publisher = self::client(broker);
        for _ in 0..2 {
            publisher.publish(&with, 1, "x");
            publisher.publish(&without, 1, "x");
            for (topic, ids) in [(&with, vec![128]), (&without, vec![])] {
                let message = client.take_publish();
                assert_eq!(&message.topic, topic);
                assert_eq!(
                    message.properties.numbers(prop::SUBSCRIPTION_IDENTIFIER),
                    ids
                );
            }
            client.barrier();
            client.disconnect();
            publisher.publish(&with, 1, "waits");
            client = Raw::connect(broker, &keeping(&id));
            let message = client.take_publish();
            assert_eq!(
                message.properties.numbers(prop::SUBSCRIPTION_IDENTIFIER),
                [128]
            );
        }
        // One identifier can stand for several filters of one SUBSCRIBE, and retained messages
        // have it.
        publisher.retain(&with, 1, "retained");
        client.take_publish();
        let filters = [(with.as_str(), 1), (without.as_str(), 1)];
        subscribe_properties(&mut client, &subscription_id(3), &filters);
        let message = client.take_publish();
        assert!(message.retain);
        assert_eq!(
            message.properties.numbers(prop::SUBSCRIPTION_IDENTIFIER),
            [3]
        );
    });
}

/// A single copy for several subscriptions has the identifiers of all of them.
#[test]
fn mqtt_3_3_4_4_all_subscription_identifiers() {
    on_each(|broker| {
        let prefix = unique("overlap");
        let mut client = overlapping(broker, &prefix);
        let topic = format!("{prefix}/a/b");
        let mut publisher = self::client(broker);
        for qos in 0..3 {
            publisher.publish(&topic, qos, "x");
            let ids = client
                .take_publish()
                .properties
                .numbers(prop::SUBSCRIPTION_IDENTIFIER);
            let ids: BTreeSet<u32> = ids.into_iter().collect();
            assert_eq!(ids, BTreeSet::from([1, 200, 268_435_455]));
            // One copy.
            nothing_else(&mut client, &mut publisher, &topic, qos);
        }
    });
}

/// Section 3.8.2.1.2: the Subscription Identifier is 1 to 268,435,455, and there is at most one.
#[test]
fn section_3_8_2_1_2_bad_subscription_identifiers() {
    on_each(|broker| {
        let both = [MALFORMED, PROTOCOL_ERROR];
        for properties in [
            subscription_id(0),
            vec![prop::SUBSCRIPTION_IDENTIFIER, 0x80, 0x80, 0x80, 0x80, 0x01],
            [subscription_id(1), subscription_id(2)].concat(),
        ] {
            let bytes = subscribe_with(Version::V5, 1, &properties, &[("t", 0)]);
            ends(broker, &bytes, &both);
        }
    });
}

/// Section 3.8.4: a subscription holds from SUBACK on, for publishers everywhere.
#[test]
fn section_3_8_4_subscription_holds_from_suback() {
    on_each(|broker| {
        let mut publishers: Vec<Raw> = (0..6).map(|_| client(broker)).collect();
        for _ in 0..10 {
            let topic = unique("now");
            let mut client = subscriber(broker, &topic, 1);
            for publisher in &mut publishers {
                assert_eq!(publish_reason(publisher, Publish::v5(&topic, "x"), 1), 0);
                assert_eq!(client.take_publish().text(), "x");
            }
            client.disconnect();
        }
    });
}

/// Section 3.8.4: filters of one SUBSCRIBE count one by one, so a retained message comes for each
/// filter it matches, with what that filter was granted.
#[test]
fn section_3_8_4_retained_messages_for_each_filter() {
    on_each(|broker| {
        let topic = unique("each");
        let mut client = client(broker);
        client.retain(&topic, 2, "retained");
        let filters = [
            (topic.clone(), 1),
            (format!("{topic}/#"), 2),
            (format!("{topic}/+"), 2),
        ];
        assert_eq!(client.subscribe(&filters), [1, 2, 2]);
        let mut qos: Vec<u8> = client.receive(2).iter().map(|m| m.qos).collect();
        qos.sort_unstable();
        assert_eq!(qos, [1, 2]);
        let mut publisher = self::client(broker);
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

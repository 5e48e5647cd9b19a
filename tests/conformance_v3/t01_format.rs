//! Sections 1 and 2: strings, flags, Packet Identifiers.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-2.3.1-2] | binds clients: a new packet has an unused Packet Identifier |
//! | [MQTT-2.3.1-3] | binds clients; the server's side is [MQTT-2.3.1-4] |

use std::collections::HashSet;

use crate::common::*;
use crate::{ILL_FORMED, closes_on, nothing_else, refuses, subscriber};

/// Ill-formed UTF-8 in any string closes the connection.
#[test]
fn mqtt_1_5_3_1_ill_formed_utf8_closes() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            refuses(broker, &Connect::v311(bad).encode());
            closes_on(broker, &Publish::v311(bad, "x").encode());
            closes_on(broker, &subscribe(Version::V311, 1, &[(bad, 0)]));
            closes_on(broker, &unsubscribe(Version::V311, 1, &[bad]));
        }
    });
}

/// U+0000 in any string closes the connection.
#[test]
fn mqtt_1_5_3_2_null_character_closes() {
    on_each(|broker| {
        let bad = b"a\0b";
        refuses(broker, &Connect::v311(bad).encode());
        refuses(
            broker,
            &Connect::v311(unique("nul")).user_name(bad).encode(),
        );
        refuses(
            broker,
            &Connect::v311(unique("nul"))
                .will(Will::new(bad, "x"))
                .encode(),
        );
        closes_on(broker, &Publish::v311(bad, "x").encode());
        closes_on(broker, &subscribe(Version::V311, 1, &[(bad, 0)]));
        closes_on(broker, &unsubscribe(Version::V311, 1, &[bad]));
    });
}

/// EF BB BF is the character U+FEFF, never skipped and never stripped.
#[test]
fn mqtt_1_5_3_3_byte_order_mark_is_a_character() {
    on_each(|broker| {
        let plain = unique("bom");
        let marked = format!("\u{feff}{plain}");
        let mut marked_subscriber = subscriber(broker, &marked, 1);
        let mut plain_subscriber = subscriber(broker, &plain, 1);
        let mut publisher = Raw::v311(broker, &unique("bom"));
        publisher.publish(&marked, 1, "marked");
        assert_eq!(marked_subscriber.take_publish().topic, marked);
        nothing_else(&mut plain_subscriber, &mut publisher, &plain, 1);
        nothing_else(&mut marked_subscriber, &mut publisher, &marked, 1);
    });
}

/// Reserved flag bits have the listed values in every packet the server sends.
#[test]
fn mqtt_2_2_2_1_reserved_flags_of_the_server() {
    on_each(|broker| {
        let topic = unique("flags");
        let mut client = Raw::open(broker);
        client.send(&Connect::v311(unique("flags")).encode());
        client.expect(&[0x20, 0x02, 0x00, 0x00]);
        client.send(&subscribe(Version::V311, 7, &[(&topic, 2)]));
        client.expect(&[0x90, 0x03, 0x00, 0x07, 0x02]);
        client.send(&Publish::v311(unique("nobody"), "x").qos(1, 8).encode());
        client.expect(&[0x40, 0x02, 0x00, 0x08]);
        client.send(&Publish::v311(unique("nobody"), "x").qos(2, 9).encode());
        client.expect(&[0x50, 0x02, 0x00, 0x09]);
        client.send(&ack(PUBREL, 9));
        client.expect(&[0x70, 0x02, 0x00, 0x09]);
        Raw::v311(broker, &unique("flags")).publish(&topic, 2, "x");
        let message = client.next_publish();
        client.send(&ack(PUBREC, message.id));
        client.expect(&ack(PUBREL, message.id));
        client.send(&ack(PUBCOMP, message.id));
        client.send(&unsubscribe(Version::V311, 10, &[&topic]));
        client.expect(&[0xb0, 0x02, 0x00, 0x0a]);
        client.send(&pingreq());
        client.expect(&[0xd0, 0x00]);
    });
}

/// Invalid flags in any packet close the connection.
#[test]
fn mqtt_2_2_2_2_invalid_flags_close() {
    on_each(|broker| {
        for flags in 1..16 {
            let mut connect = Connect::v311(unique("flags")).encode();
            connect[0] |= flags;
            refuses(broker, &connect);
        }
        let rightly_zero = [
            ack(PUBACK, 1),
            ack(PUBREC, 1),
            ack(PUBCOMP, 1),
            pingreq(),
            disconnect(),
        ];
        for mut packet in rightly_zero {
            packet[0] |= 0x01;
            closes_on(broker, &packet);
        }
        let rightly_two = [
            ack(PUBREL, 1),
            subscribe(Version::V311, 1, &[("t", 0)]),
            unsubscribe(Version::V311, 1, &["t"]),
        ];
        for mut packet in rightly_two {
            packet[0] &= 0xf0;
            closes_on(broker, &packet);
        }
    });
}

/// SUBSCRIBE, UNSUBSCRIBE and PUBLISH with QoS above 0 have a Packet Identifier that is not 0.
#[test]
fn mqtt_2_3_1_1_packet_identifier_zero_closes() {
    on_each(|broker| {
        closes_on(broker, &subscribe(Version::V311, 0, &[("t", 0)]));
        closes_on(broker, &unsubscribe(Version::V311, 0, &["t"]));
        closes_on(broker, &Publish::v311("t", "x").qos(1, 0).encode());
        closes_on(broker, &Publish::v311("t", "x").qos(2, 0).encode());
    });
}

/// The server's unacknowledged PUBLISH packets all have different identifiers, never 0, and an
/// identifier can be used again once its exchange has ended.
#[test]
fn mqtt_2_3_1_4_server_identifiers_are_unused_ones() {
    on_each(|broker| {
        let topic = unique("ids");
        let mut subscriber = subscriber(broker, &topic, 2);
        let mut publisher = Raw::v311(broker, &unique("ids"));
        for round in 0..3 {
            let mut open = HashSet::new();
            let mut messages = Vec::new();
            for number in 0..10 {
                publisher.publish(&topic, 1 + number % 2, [number]);
            }
            for _ in 0..10 {
                let message = subscriber.next_publish();
                assert!(
                    open.insert(message.id),
                    "round {round}: {} is in use",
                    message.id
                );
                messages.push(message);
            }
            for message in &messages {
                subscriber.acknowledge(message);
            }
        }
    });
}

/// A PUBLISH with QoS 0 has no Packet Identifier.
#[test]
fn mqtt_2_3_1_5_no_identifier_with_qos_0() {
    on_each(|broker| {
        let topic = unique("noid");
        let mut subscriber = subscriber(broker, &topic, 2);
        let message = Publish::v311(&topic, "payload").encode();
        Raw::v311(broker, &unique("noid")).send(&message);
        subscriber.expect(&message);
    });
}

/// PUBACK, PUBREC and PUBCOMP carry the identifier of their PUBLISH.
#[test]
fn mqtt_2_3_1_6_acknowledgements_carry_the_identifier() {
    on_each(|broker| {
        let mut client = Raw::v311(broker, &unique("ids"));
        let topic = unique("ids");
        for id in [1, 255, 256, 0x1234, 65_535] {
            client.send(&Publish::v311(&topic, "x").qos(1, id).encode());
            client.expect(&ack(PUBACK, id));
            client.send(&Publish::v311(&topic, "x").qos(2, id).encode());
            client.expect(&ack(PUBREC, id));
            client.send(&ack(PUBREL, id));
            client.expect(&ack(PUBCOMP, id));
        }
    });
}

/// SUBACK and UNSUBACK carry the identifier of their request.
#[test]
fn mqtt_2_3_1_7_suback_and_unsuback_carry_the_identifier() {
    on_each(|broker| {
        let mut client = Raw::v311(broker, &unique("ids"));
        let topic = unique("ids");
        for id in [1, 255, 256, 0x1234, 65_535] {
            client.send(&subscribe(Version::V311, id, &[(&topic, 1)]));
            assert_eq!(client.expect_kind(SUBACK).suback(Version::V311).id, id);
            client.send(&unsubscribe(Version::V311, id, &[&topic]));
            assert_eq!(client.expect_kind(UNSUBACK).unsuback(Version::V311).id, id);
        }
    });
}

/// Section 2.2.3: a Remaining Length of one to four bytes is read, and one of five is malformed.
#[test]
fn section_2_2_3_remaining_length() {
    on_each(|broker| {
        let topic = unique("len");
        let mut subscriber = subscriber(broker, &topic, 0);
        let mut publisher = Raw::v311(broker, &unique("len"));
        let head = 2 + topic.len();
        for remaining in [head, 127, 128, 16_383, 16_384, 200_000] {
            let message = Publish::v311(&topic, vec![b'x'; remaining - head]).encode();
            publisher.send(&message);
            subscriber.expect(&message);
        }
        closes_on(broker, &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]);
    });
}

/// Section 2.2.3: packets may come in pieces of any size, and many in one piece.
#[test]
fn section_2_2_3_packets_in_pieces_and_together() {
    on_each(|broker| {
        for piece in [1, 2, 3, 7, usize::MAX] {
            let topic = unique("piece");
            let bytes = [
                Connect::v311(unique("piece")).encode(),
                subscribe(Version::V311, 1, &[(&topic, 0)]),
                Publish::v311(&topic, "hello").encode(),
                pingreq(),
                pingreq(),
            ]
            .concat();
            let mut client = Raw::open(broker);
            for piece in bytes.chunks(piece) {
                client.send(piece);
            }
            assert_eq!(client.read_connack().code, 0);
            // No order is prescribed between answers to different packets.
            let mut kinds: Vec<u8> = (0..4).map(|_| client.read_packet().kind()).collect();
            kinds.sort_unstable();
            assert_eq!(kinds, [PUBLISH, SUBACK, PINGRESP, PINGRESP]);
        }
    });
}

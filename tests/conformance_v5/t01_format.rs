//! Sections 1.5, 2, 4.2 and 4.13: data types, packet format, the byte stream, errors.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-6.0.0-1], [MQTT-6.0.0-2], [MQTT-6.0.0-4] | these tests connect over TCP, not WebSocket |
//! | [MQTT-6.0.0-3] | binds clients: which subprotocol they offer |

use crate::common::*;
use crate::support::*;

/// Strings are well-formed UTF-8; a packet with any other is malformed.
#[test]
fn mqtt_1_5_4_1_ill_formed_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            ends(broker, &Publish::v5(bad, "x").encode(), &[MALFORMED]);
            ends(
                broker,
                &subscribe(Version::V5, 1, &[(bad, 0)]),
                &[MALFORMED],
            );
            ends(broker, &unsubscribe(Version::V5, 1, &[bad]), &[MALFORMED]);
            let content_type = prop::text(prop::CONTENT_TYPE, bad);
            let message = Publish::v5("t", "x").properties(content_type);
            ends(broker, &message.encode(), &[MALFORMED]);
        }
    });
}

/// Strings do not contain U+0000.
#[test]
fn mqtt_1_5_4_2_null_character() {
    on_each(|broker| {
        let bad = "a\0b";
        let reasons = [MALFORMED, 0x90, 0x8f];
        ends(broker, &Publish::v5(bad, "x").encode(), &reasons);
        ends(broker, &subscribe(Version::V5, 1, &[(bad, 0)]), &reasons);
        ends(broker, &unsubscribe(Version::V5, 1, &[bad]), &reasons);
        let message = Publish::v5("t", "x").properties(prop::text(prop::CONTENT_TYPE, bad));
        ends(broker, &message.encode(), &[MALFORMED]);
    });
}

/// 0xEF 0xBB 0xBF is U+FEFF wherever it is, and is never stripped.
#[test]
fn mqtt_1_5_4_3_byte_order_mark_is_kept() {
    on_each(|broker| {
        let topic = format!("\u{feff}{}", unique("bom"));
        let mut client = subscriber(broker, &topic, 0);
        let without = topic.trim_start_matches('\u{feff}');
        client.subscribe(&[(without, 0)]);
        let properties = prop::user("\u{feff}name", "a\u{feff}value");
        let message = Publish::v5(&topic, "x").properties(properties);
        client.send(&message.encode());
        let got = client.next_publish();
        assert_eq!(got.topic, topic);
        assert_eq!(got.properties.user(), [("\u{feff}name", "a\u{feff}value")]);
        client.send(&Publish::v5(without, "y").encode());
        assert_eq!(client.next_publish().topic, without);
    });
}

/// A Variable Byte Integer has the fewest bytes that can hold it.
#[test]
fn mqtt_1_5_5_1_variable_byte_integers_are_minimal() {
    on_each(|broker| {
        let topic = unique("vbi");
        let mut client = subscriber(broker, &topic, 0);
        let overhead = 2 + topic.len() + 1;
        for length in [127, 128, 16_383, 16_384, 100_000] {
            // The Remaining Length is at the edge.
            let message = Publish::v5(&topic, vec![b'x'; length - overhead]).encode();
            client.send(&message);
            client.expect(&message);
        }
        for length in [127, 128, 16_383, 16_384] {
            // The Property Length is at the edge.
            let value = "v".repeat(length - 6);
            let message = Publish::v5(&topic, "x")
                .properties(prop::user("n", &value))
                .encode();
            client.send(&message);
            client.expect(&message);
        }
    });
}

/// Both strings of a String Pair are UTF-8 Encoded Strings.
#[test]
fn mqtt_1_5_7_1_string_pair_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            for (name, value) in [(bad, &b"v"[..]), (&b"n"[..], bad)] {
                let pair = [&[prop::USER_PROPERTY][..], &field(name), &field(value)].concat();
                let message = Publish::v5("t", "x").properties(pair);
                ends(broker, &message.encode(), &[MALFORMED]);
            }
        }
    });
}

/// Reserved flags of the fixed header have the value the standard lists.
#[test]
fn mqtt_2_1_3_1_reserved_flags() {
    on_each(|broker| {
        let packets = [
            ack(PUBACK, 1),
            ack(PUBREC, 1),
            ack(PUBREL, 1),
            ack(PUBCOMP, 1),
            subscribe(Version::V5, 1, &[("t", 0)]),
            unsubscribe(Version::V5, 1, &["t"]),
            pingreq(),
            disconnect(),
        ];
        for good in packets {
            for flip in [1, 2, 4, 8] {
                let mut bad = good.clone();
                bad[0] ^= flip;
                ends(broker, &bad, &[MALFORMED]);
            }
        }
        let mut connect = Connect::v5(unique("flags")).encode();
        connect[0] |= 1;
        refuses(broker, &connect, &[MALFORMED]);
    });
}

/// A PUBLISH with QoS 0 has no Packet Identifier.
#[test]
fn mqtt_2_2_1_2_no_packet_identifier_with_qos_0() {
    on_each(|broker| {
        let topic = unique("id");
        let mut client = subscriber(broker, &topic, 0);
        // Published with QoS 1, so that there was an identifier to forget.
        client.send(&Publish::v5(&topic, "x").qos(1, 77).encode());
        assert_eq!(client.wait_for_ack(PUBACK).id, 77);
        assert_eq!(
            client.expect_kind(PUBLISH).bytes(),
            Publish::v5(&topic, "x").encode()
        );
    });
}

/// A client's new SUBSCRIBE, UNSUBSCRIBE or PUBLISH has a Packet Identifier that is not zero.
#[test]
fn mqtt_2_2_1_3_packet_identifier_zero() {
    on_each(|broker| {
        let reasons = [MALFORMED, PROTOCOL_ERROR];
        ends(broker, &subscribe(Version::V5, 0, &[("t", 0)]), &reasons);
        ends(broker, &unsubscribe(Version::V5, 0, &["t"]), &reasons);
        ends(broker, &Publish::v5("t", "x").qos(1, 0).encode(), &reasons);
        ends(broker, &Publish::v5("t", "x").qos(2, 0).encode(), &reasons);
    });
}

/// A server's new PUBLISH has a Packet Identifier that is not zero and not in use.
#[test]
fn mqtt_2_2_1_4_packet_identifiers_of_the_server_are_unused() {
    on_each(|broker| {
        let topic = unique("id");
        let mut client = subscriber(broker, &topic, 2);
        let mut publisher = self::client(broker);
        let mut in_use = Vec::new();
        for number in 0..60 {
            publisher.publish(&topic, 1 + number % 2, [number]);
            let message = client.next_publish();
            assert!(!in_use.contains(&message.id), "{} is in use", message.id);
            if number % 3 == 0 {
                client.acknowledge(&message);
            } else {
                in_use.push(message.id);
            }
            if in_use.len() > 10 {
                break;
            }
        }
        assert!(in_use.len() > 10);
    });
}

/// The acknowledgements of a PUBLISH carry its Packet Identifier.
#[test]
fn mqtt_2_2_1_5_acknowledgements_carry_the_packet_identifier() {
    on_each(|broker| {
        let mut client = client(broker);
        for id in [1, 256, 0x1234, 65_535] {
            client.send(&Publish::v5(unique("id"), "x").qos(1, id).encode());
            assert_eq!(client.expect_ack(PUBACK).id, id);
            client.send(&Publish::v5(unique("id"), "x").qos(2, id).encode());
            assert_eq!(client.expect_ack(PUBREC).id, id);
            client.send(&ack(PUBREL, id));
            assert_eq!(client.expect_ack(PUBCOMP).id, id);
        }
    });
}

/// Section 2.2.1: client and server assign Packet Identifiers independently, so an exchange each way
/// can have the same one at the same time.
#[test]
fn section_2_2_1_identifiers_of_both_sides_are_independent() {
    on_each(|broker| {
        let (to_client, to_other) = (unique("both"), unique("both"));
        let mut client = subscriber(broker, &to_client, 2);
        let mut other = subscriber(broker, &to_other, 2);
        other.publish(&to_client, 2, "to the client");
        let id = client.next_publish().id;
        client.send(&Publish::v5(&to_other, "to the other").qos(2, id).encode());
        assert_eq!(client.expect_ack(PUBREC).id, id);
        client.send(&ack(PUBREC, id));
        let pubrel = client.expect_ack(PUBREL);
        client.send(&ack(PUBREL, id));
        let pubcomp = client.expect_ack(PUBCOMP);
        assert_eq!((pubrel.id, pubrel.reason), (id, 0));
        assert_eq!((pubcomp.id, pubcomp.reason), (id, 0));
        client.send(&ack(PUBCOMP, id));
        assert_eq!(other.take_publish().text(), "to the other");
        nothing_else(&mut client, &mut other, &to_client, 2);
    });
}

/// SUBACK and UNSUBACK carry the Packet Identifier of their request.
#[test]
fn mqtt_2_2_1_6_suback_and_unsuback_carry_the_packet_identifier() {
    on_each(|broker| {
        let (mut client, filter) = (client(broker), unique("id"));
        for id in [1, 256, 0x1234, 65_535] {
            client.send(&subscribe(Version::V5, id, &[(&filter, 0)]));
            assert_eq!(client.expect_kind(SUBACK).suback(Version::V5).id, id);
            client.send(&unsubscribe(Version::V5, id, &[&filter]));
            assert_eq!(client.expect_kind(UNSUBACK).unsuback(Version::V5).id, id);
        }
    });
}

/// A packet without properties says so with a Property Length of zero.
#[test]
fn mqtt_2_2_2_1_no_properties_is_length_zero() {
    on_each(|broker| {
        let topic = unique("none");
        let mut client = client(broker);
        client.send(&subscribe(Version::V5, 5, &[(&topic, 1)]));
        client.expect(&[0x90, 4, 0, 5, 0, 1]);
        client.send(&Publish::v5(&topic, "x").encode());
        client.expect(&Publish::v5(&topic, "x").encode());
        client.send(&unsubscribe(Version::V5, 6, &[&topic]));
        client.expect(&[0xb0, 4, 0, 6, 0, 0]);
    });
}

/// The transport is an ordered stream of bytes: packets arrive in pieces of any size, and several
/// at once.
#[test]
fn mqtt_4_2_0_1_packets_in_pieces_and_together() {
    on_each(|broker| {
        let topic = unique("pieces");
        let all = [
            Connect::v5(unique("pieces")).encode(),
            subscribe(Version::V5, 1, &[(&topic, 1)]),
            Publish::v5(&topic, "first").qos(1, 2).encode(),
            pingreq(),
        ]
        .concat();
        for piece in [1, 3, all.len()] {
            let mut client = Raw::open(broker);
            client.version = Version::V5;
            for bytes in all.chunks(piece) {
                client.send(bytes);
            }
            assert_eq!(client.read_connack().code, 0);
            // Answers to different packets have no order among them.
            let mut kinds: Vec<u8> = (0..4).map(|_| answered(&mut client, &topic)).collect();
            kinds.sort_unstable();
            assert_eq!(kinds, [PUBLISH, PUBACK, SUBACK, PINGRESP]);
            client.disconnect();
        }
    });
}

/// Checks the next packet as one of the answers to SUBSCRIBE 1 and PUBLISH 2 on `topic`, or to
/// PINGREQ; returns its type.
#[track_caller]
fn answered(client: &mut Raw, topic: &str) -> u8 {
    let packet = client.read_packet();
    match packet.kind() {
        SUBACK => assert_eq!(packet.suback(Version::V5).codes, [1]),
        PUBACK => assert_eq!(packet.ack(Version::V5).id, 2),
        PUBLISH => {
            let message = packet.publish(Version::V5);
            assert_eq!(
                (message.topic.as_str(), message.text().as_str()),
                (topic, "first")
            );
            client.acknowledge(&message);
        }
        kind => assert_eq!(kind, PINGRESP),
    }
    packet.kind()
}

/// The server closes the connection after a packet that is malformed or a protocol error.
#[test]
fn mqtt_4_13_1_1_errors_close_the_connection() {
    on_each(|broker| {
        let both = [MALFORMED, PROTOCOL_ERROR];
        let publish = |properties: &[u8]| Publish::v5("t", "x").properties(properties).encode();
        let twice = |property: Vec<u8>| [property.clone(), property].concat();
        let cases: Vec<(Vec<u8>, &[u8])> = vec![
            // Packets a client never sends, and a type that does not exist.
            (packet(CONNACK << 4, &[0, 0, 0]), &both),
            (packet(SUBACK << 4, &[0, 1, 0, 0]), &both),
            (packet(UNSUBACK << 4, &[0, 1, 0, 0]), &both),
            (packet(PINGRESP << 4, &[]), &both),
            (packet(0, &[]), &both),
            // A Remaining Length of five bytes.
            (vec![0x30, 0x80, 0x80, 0x80, 0x80, 0x01], &[MALFORMED]),
            // Properties: unknown, of another packet, twice, cut short, longer than the packet.
            (publish(&[0x7e, 0]), &[MALFORMED]),
            (publish(&receive_maximum(5)), &both),
            (publish(&twice(message_expiry_s(1))), &[PROTOCOL_ERROR]),
            (
                publish(&twice(prop::text(prop::CONTENT_TYPE, "a"))),
                &[PROTOCOL_ERROR],
            ),
            (
                publish(&[prop::MESSAGE_EXPIRY_INTERVAL, 0, 0]),
                &[MALFORMED],
            ),
            (packet(0x30, &[0, 1, b't', 9, 1, 0]), &[MALFORMED]),
            // Values that are not allowed.
            (
                publish(&prop::byte(prop::PAYLOAD_FORMAT_INDICATOR, 2)),
                &both,
            ),
            // Packets that end too early, and one that ends too late.
            (packet(0x30, &[0, 5, b't']), &[MALFORMED]),
            (packet(PUBACK << 4, &[0]), &[MALFORMED]),
            (
                packet((SUBSCRIBE << 4) | 2, &[0, 1, 0, 0, 1, b't']),
                &[MALFORMED],
            ),
            (packet(PINGREQ << 4, &[0]), &[MALFORMED]),
        ];
        for (bytes, reasons) in cases {
            ends(broker, &bytes, reasons);
        }
    });
}

/// A Reason Code of 0x80 or more in DISCONNECT means that the connection is closed, and nothing
/// happens to other sessions.
#[test]
fn mqtt_4_13_2_1_closed_after_an_error() {
    on_each(|broker| {
        let topic = unique("other");
        let mut other = subscriber(broker, &topic, 1);
        let mut client = client(broker);
        client.send(&[0xf1, 0x00]);
        let reason = client.expect_disconnect().reason;
        assert!(reason >= 0x80, "{reason:#04x}");
        client.expect_closed_quietly();
        let mut publisher = self::client(broker);
        nothing_else(&mut other, &mut publisher, &topic, 1);
    });
}

//! Sections 3.4 to 3.7: PUBACK, PUBREC, PUBREL, PUBCOMP and their Reason Codes.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.4.2-3], [MQTT-3.5.2-3], [MQTT-3.6.2-3], [MQTT-3.7.2-3] | this server puts no User Property of its own into acknowledgements; their size is checked by the tests of [MQTT-3.4.2-2] to [MQTT-3.7.2-2] |

use crate::common::*;
use crate::support::*;

/// Packet Identifier not found.
const NOT_FOUND: u8 = 0x92;

/// PUBACK has a Reason Code of the standard: here, success or no matching subscribers.
#[test]
fn mqtt_3_4_2_1_reason_codes_of_puback() {
    on_each(|broker| {
        let topic = unique("puback");
        let mut client = subscriber(broker, &topic, 0);
        assert_eq!(publish_reason(&mut client, Publish::v5(&topic, "x"), 1), 0);
        client.next_publish();
        let reason = publish_reason(&mut client, Publish::v5(unique("none"), "x"), 1);
        assert_eq!(reason, 0x10);
    });
}

/// Sends `bytes` as a client with little room; the answer must have room, and be of this type.
#[track_caller]
fn has_room(broker: &Broker, bytes: &[u8], kind: u8) {
    let (mut client, room) = client_with_little_room(broker);
    client.send(bytes);
    let packet = client.expect_kind(kind);
    assert!(packet.bytes().len() <= room, "over {room}: {packet:02x?}");
}

/// A Reason String that would make PUBACK too large for the client is left out.
#[test]
fn mqtt_3_4_2_2_reason_string_of_puback_fits() {
    on_each(|broker| {
        let message = Publish::v5(unique("none"), "x").qos(1, 1);
        has_room(broker, &message.encode(), PUBACK);
    });
}

/// PUBREC has a Reason Code of the standard.
#[test]
fn mqtt_3_5_2_1_reason_codes_of_pubrec() {
    on_each(|broker| {
        let topic = unique("pubrec");
        let mut client = subscriber(broker, &topic, 0);
        assert_eq!(publish_reason(&mut client, Publish::v5(&topic, "x"), 2), 0);
        let reason = publish_reason(
            &mut self::client(broker),
            Publish::v5(unique("none"), "x"),
            2,
        );
        assert_eq!(reason, 0x10);
    });
}

/// A Reason String that would make PUBREC too large for the client is left out.
#[test]
fn mqtt_3_5_2_2_reason_string_of_pubrec_fits() {
    on_each(|broker| {
        let message = Publish::v5(unique("none"), "x").qos(2, 1);
        has_room(broker, &message.encode(), PUBREC);
    });
}

/// PUBREL has the reserved flags 0010.
#[test]
fn mqtt_3_6_1_1_pubrel_flags() {
    on_each(|broker| {
        for flags in (0..16).filter(|flags| *flags != 2) {
            let mut client = client(broker);
            client.send(&Publish::v5(unique("flags"), "x").qos(2, 1).encode());
            client.expect_ack(PUBREC);
            client.send(&packet((PUBREL << 4) | flags, &[0, 1]));
            client.expect_closed_with(&[MALFORMED]);
        }
    });
}

/// PUBREL has a Reason Code of the standard: success, or 0x92 for a PUBREC of an unknown identifier.
#[test]
fn mqtt_3_6_2_1_reason_codes_of_pubrel() {
    on_each(|broker| {
        let topic = unique("pubrel");
        let mut client = subscriber(broker, &topic, 2);
        self::client(broker).publish(&topic, 2, "x");
        let message = client.next_publish();
        client.send(&ack(PUBREC, message.id));
        assert_eq!(client.expect_ack(PUBREL).reason, 0);
        let unknown = message.id ^ 0x4000;
        client.send(&ack(PUBREC, unknown));
        let pubrel = client.expect_ack(PUBREL);
        assert_eq!((pubrel.id, pubrel.reason), (unknown, NOT_FOUND));
    });
}

/// A Reason String that would make PUBREL too large for the client is left out.
#[test]
fn mqtt_3_6_2_2_reason_string_of_pubrel_fits() {
    on_each(|broker| has_room(broker, &ack(PUBREC, 1), PUBREL));
}

/// PUBCOMP has a Reason Code of the standard: success, or 0x92 for a PUBREL of an unknown
/// identifier.
#[test]
fn mqtt_3_7_2_1_reason_codes_of_pubcomp() {
    on_each(|broker| {
        let mut client = client(broker);
        client.send(&Publish::v5(unique("pubcomp"), "x").qos(2, 1).encode());
        client.expect_ack(PUBREC);
        for wanted in [(1, 0), (1, NOT_FOUND), (9, NOT_FOUND)] {
            client.send(&ack(PUBREL, wanted.0));
            let pubcomp = client.expect_ack(PUBCOMP);
            assert_eq!((pubcomp.id, pubcomp.reason), wanted);
        }
    });
}

/// A Reason String that would make PUBCOMP too large for the client is left out.
#[test]
fn mqtt_3_7_2_2_reason_string_of_pubcomp_fits() {
    on_each(|broker| has_room(broker, &ack(PUBREL, 1), PUBCOMP));
}

/// Section 4.13.2: acknowledgements of unknown identifiers that expect no answer get none, and do
/// no harm; each form of an acknowledgement is understood.
#[test]
fn section_4_13_2_unknown_packet_identifiers() {
    on_each(|broker| {
        let topic = unique("unknown");
        let mut client = subscriber(broker, &topic, 2);
        let stray = [
            ack(PUBACK, 500),
            ack_v5(PUBACK, 501, 0x10, &prop::user("a", "b")),
            ack(PUBCOMP, 502),
            ack_v5(PUBCOMP, 503, NOT_FOUND, &[]),
            ack_v5(PUBREC, 504, 0x80, &[]),
        ];
        client.send(&stray.concat());
        client.expect_nothing_before_barrier();
        let mut publisher = self::client(broker);
        nothing_else(&mut client, &mut publisher, &topic, 2);
        // Reason Code without properties, and with.
        for properties in [None, Some(prop::text(prop::REASON_STRING, "why"))] {
            publisher.publish(&topic, 2, "x");
            let id = client.next_publish().id;
            let form = |kind| match &properties {
                None => [&[kind << 4, 3][..], &id.to_be_bytes(), &[0]].concat(),
                Some(properties) => ack_v5(kind, id, 0, properties),
            };
            client.send(&form(PUBREC));
            assert_eq!(client.expect_ack(PUBREL).id, id);
            client.send(&form(PUBCOMP));
        }
        nothing_else(&mut client, &mut publisher, &topic, 2);
    });
}

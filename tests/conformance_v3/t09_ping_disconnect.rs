//! Sections 3.12 to 3.14 and 4.8: PINGREQ, DISCONNECT, protocol errors.
//!
//! [MQTT-3.14.4-3] is with the Will. Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.14.4-1], [MQTT-3.14.4-2] | bind clients: close after DISCONNECT, send nothing more |
//! | [MQTT-4.8.0-2] | a transient error of the server cannot be provoked from outside |
//! | [MQTT-6.0.0-1], [MQTT-6.0.0-2], [MQTT-6.0.0-3], [MQTT-6.0.0-4] | WebSocket: tested with it |
//! | [MQTT-7.0.0-1], [MQTT-7.0.0-2], [MQTT-7.1.1-1] | about the whole product, not one behaviour |
//! | [MQTT-7.1.2-1] | binds clients |

use crate::common::*;
use crate::{closes_on, nothing_else, subscriber};

/// PINGREQ is answered with PINGRESP.
#[test]
fn mqtt_3_12_4_1_pingreq_gets_pingresp() {
    on_each(|broker| {
        let mut client = Raw::v311(broker, &unique("ping"));
        client.send(&[0xc0, 0x00]);
        client.expect(&[0xd0, 0x00]);
        client.send(&[0xc0, 0x00, 0xc0, 0x00, 0xc0, 0x00]);
        client.expect(&[0xd0, 0x00, 0xd0, 0x00, 0xd0, 0x00]);
    });
}

/// The reserved bits of DISCONNECT are 0, or the client is disconnected: as a violation, so its
/// Will is published.
#[test]
fn mqtt_3_14_1_1_disconnect_flags() {
    on_each(|broker| {
        let topic = unique("flags");
        let mut watcher = subscriber(broker, &topic, 1);
        for flags in 1..16 {
            let will = Will::new(&topic, [flags]).qos(1);
            let mut client = Raw::connect(broker, &Connect::v311(unique("flags")).will(will));
            client.send(&[0xe0 | flags, 0x00]);
            client.expect_closed_quietly();
            assert_eq!(watcher.take_publish().payload, [flags]);
        }
    });
}

/// Section 3.14.4: the server closes the connection if the client has not.
#[test]
fn section_3_14_4_server_closes_after_disconnect() {
    on_each(|broker| {
        let mut client = Raw::v311(broker, &unique("bye"));
        client.send(&disconnect());
        client.expect_closed_quietly();
    });
}

/// A protocol violation closes the connection it came from, and no other.
#[test]
fn mqtt_4_8_0_1_violation_closes_that_connection_only() {
    on_each(|broker| {
        let topic = unique("other");
        let mut bystander = subscriber(broker, &topic, 1);
        let mut publisher = Raw::v311(broker, &unique("other"));
        for violation in [
            &[0x00, 0x00][..],                     // reserved packet type
            &[0xf0, 0x00],                         // reserved packet type
            &[0x20, 0x02, 0x00, 0x00],             // CONNACK from a client
            &[0x90, 0x03, 0x00, 0x01, 0x00],       // SUBACK from a client
            &[0xb0, 0x02, 0x00, 0x01],             // UNSUBACK from a client
            &[0xd0, 0x00],                         // PINGRESP from a client
            &[0xc0, 0x01, 0x00],                   // PINGREQ with a body
            &[0xe0, 0x01, 0x00],                   // DISCONNECT with a body
            &[0x40, 0x01, 0x00],                   // PUBACK too short
            &[0x40, 0x03, 0x00, 0x01, 0x00],       // PUBACK too long
            &[0x62, 0x00],                         // PUBREL without an identifier
            &[0x40, 0x02, 0x00, 0x00],             // PUBACK with identifier 0
            &[0x32, 0x03, 0x00, 0x01, b'a'],       // PUBLISH without an identifier
            &[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f], // Remaining Length of five bytes
        ] {
            closes_on(broker, violation);
        }
        nothing_else(&mut bystander, &mut publisher, &topic, 1);
    });
}

/// Section 4.8: what came before a violation has been processed, what comes after it is not.
#[test]
fn section_4_8_order_around_a_violation() {
    on_each(|broker| {
        let topic = unique("around");
        let mut watcher = subscriber(broker, &topic, 1);
        let mut client = Raw::v311(broker, &unique("around"));
        let all = [
            Publish::v311(&topic, "before").encode(),
            vec![0xf0, 0x00],
            Publish::v311(&topic, "after").encode(),
        ];
        client.send(&all.concat());
        client.expect_closed();
        assert_eq!(watcher.next_publish().text(), "before");
        watcher.expect_silence(200);
    });
}

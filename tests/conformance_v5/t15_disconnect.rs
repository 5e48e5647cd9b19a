//! Sections 3.12, 3.14, 3.15 and 4.12: PINGREQ, DISCONNECT, AUTH and enhanced authentication.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.14.2-4] | this server puts no User Property of its own into DISCONNECT; the size is checked by the test of [MQTT-3.14.2-3] |
//! | [MQTT-3.15.2-1], [MQTT-3.15.2-2], [MQTT-3.15.2-3] | this server has no Authentication Method, and so sends no AUTH |
//! | [MQTT-4.12.0-2], [MQTT-4.12.0-4], [MQTT-4.12.0-5] | as before |
//! | [MQTT-4.12.0-3] | binds clients: their AUTH packets |
//! | [MQTT-4.12.1-1], [MQTT-4.12.1-2] | re-authentication needs an Authentication Method |

use std::process::Command;

use crate::common::*;
use crate::support::*;

/// PINGREQ is answered with PINGRESP, each of them.
#[test]
fn mqtt_3_12_4_1_pingresp() {
    on_each(|broker| {
        let mut client = client(broker);
        client.send(&[pingreq(), pingreq(), pingreq()].concat());
        client.expect(&[0xd0, 0, 0xd0, 0, 0xd0, 0]);
        client.expect_nothing_before_barrier();
    });
}

/// The server sends no DISCONNECT before a CONNACK that grants.
#[test]
fn mqtt_3_14_0_1_no_disconnect_before_connack() {
    on_each(|broker| {
        // What is wrong before CONNECT, in CONNECT, and what CONNECT asks for in vain.
        refuses_quietly(broker, &[0xf1, 0x00]);
        let flags = Connect::v5(unique("before")).flip_flags(0x01);
        refuses(broker, &flags.encode(), &[MALFORMED]);
        let method = prop::text(prop::AUTHENTICATION_METHOD, "no such method");
        let connect = Connect::v5(unique("before")).properties(method);
        refuses(broker, &connect.encode(), &[0x8c, 0x87]);
    });
}

/// DISCONNECT has the reserved flags 0000; others are answered with 0x81.
#[test]
fn mqtt_3_14_1_1_disconnect_flags() {
    on_each(|broker| {
        for flags in 1..16 {
            ends(
                broker,
                &packet((DISCONNECT << 4) | flags, &[]),
                &[MALFORMED],
            );
        }
    });
}

/// DISCONNECT has a Reason Code of the standard that a server may send.
#[test]
fn mqtt_3_14_2_1_reason_codes_of_disconnect() {
    on_each(|broker| {
        let causes = [
            (packet((DISCONNECT << 4) | 1, &[]), MALFORMED),
            (Connect::v5(unique("code")).encode(), PROTOCOL_ERROR),
            (
                Publish::v5("t", "x")
                    .properties(topic_alias(u16::MAX))
                    .encode(),
                0x94,
            ),
        ];
        for (bytes, reason) in causes {
            ends(broker, &bytes, &[reason]);
        }
        // One that a client must not send is not understood as a normal end: its Will is published.
        let topic = unique("code");
        let mut watcher = subscriber(broker, &topic, 1);
        for bad in [0x01, 0x10, 0x7f, 0xff] {
            let connect = Connect::v5(unique("code")).will(Will::new(&topic, "will").qos(1));
            let mut client = Raw::connect(broker, &connect);
            client.send(&disconnect_v5(bad, &[]));
            client.expect_closed_with(&[MALFORMED, PROTOCOL_ERROR]);
            assert_eq!(watcher.take_publish().text(), "will");
        }
    });
}

/// The server's DISCONNECT has no Session Expiry Interval.
#[test]
fn mqtt_3_14_2_2_no_session_expiry_from_the_server() {
    on_each(|broker| {
        let id = unique("expiry");
        let mut old = Raw::connect(broker, &keeping(&id));
        let mut new = Raw::connect(broker, &keeping(&id));
        let disconnect = old.expect_disconnect();
        assert_eq!(
            disconnect.properties.number(prop::SESSION_EXPIRY_INTERVAL),
            None
        );
        new.send(&[0xf1, 0x00]);
        let disconnect = new.expect_disconnect();
        assert_eq!(
            disconnect.properties.number(prop::SESSION_EXPIRY_INTERVAL),
            None
        );
    });
}

/// A Reason String that would make DISCONNECT larger than the client's Maximum Packet Size is left
/// out; DISCONNECT is sent all the same.
#[test]
fn mqtt_3_14_2_3_reason_string_of_disconnect_fits() {
    on_each(|broker| {
        let causes = [
            (vec![0xf1, 0x00], MALFORMED),
            (Connect::v5(unique("fits")).encode(), PROTOCOL_ERROR),
            (
                Publish::v5("t", "x")
                    .properties(topic_alias(u16::MAX))
                    .encode(),
                0x94,
            ),
        ];
        for (bytes, reason) in causes {
            let (mut client, room) = client_with_little_room(broker);
            client.send(&bytes);
            let packet = client.read_packet();
            assert!(packet.bytes().len() <= room, "over {room}: {packet:02x?}");
            assert_eq!(packet.disconnect().reason, reason);
        }
    });
}

/// After a DISCONNECT, the server sends nothing more, and processes nothing more.
#[test]
fn mqtt_3_14_4_1_nothing_after_disconnect() {
    on_each(|broker| {
        let topic = unique("after");
        let mut watcher = subscriber(broker, &topic, 1);
        // The server's DISCONNECT is its last packet, whatever else was asked of it.
        let mut client = subscriber(broker, &topic, 1);
        let after = [
            vec![0xf1, 0x00],
            pingreq(),
            Publish::v5(&topic, "too late").qos(1, 1).encode(),
        ];
        client.send(&after.concat());
        let sent = client.closed_within(ARRIVES);
        assert_eq!(sent.last().map(Packet::kind), Some(DISCONNECT));
        assert_eq!(sent.len(), 1, "{sent:02x?}");
        // What a client sends after its own is not processed.
        let mut client = self::client(broker);
        let after = [
            disconnect(),
            pingreq(),
            Publish::v5(&topic, "too late").encode(),
        ];
        client.send(&after.concat());
        client.expect_closed_quietly();
        nothing_else(&mut watcher, &mut self::client(broker), &topic, 1);
    });
}

/// After a DISCONNECT, its sender closes the connection; the server does it also for a client that
/// does not.
#[test]
fn mqtt_3_14_4_2_closed_after_disconnect() {
    on_each(|broker| {
        let mut client = client(broker);
        client.send(&[0xf1, 0x00]);
        client.expect_disconnect();
        client.expect_closed_quietly();
        for bytes in [
            disconnect(),
            disconnect_v5(0, &[]),
            disconnect_v5(0x04, &[]),
            disconnect_v5(0x80, &prop::text(prop::REASON_STRING, "why")),
        ] {
            let mut client = self::client(broker);
            client.send(&bytes);
            client.expect_closed_quietly();
        }
    });
}

/// AUTH has the reserved flags 0000.
#[test]
fn mqtt_3_15_1_1_auth_flags() {
    on_each(|broker| {
        let properties = prop::text(prop::AUTHENTICATION_METHOD, "m");
        for flags in 1..16 {
            let mut bytes = auth(0x18, &properties);
            bytes[0] |= flags;
            ends(broker, &bytes, &[MALFORMED, PROTOCOL_ERROR]);
        }
    });
}

/// A client whose Authentication Method the server does not support is refused, with 0x8C or 0x87.
#[test]
fn mqtt_4_12_0_1_unknown_authentication_method() {
    on_each(|broker| {
        for method in ["SCRAM-SHA-1", "", "K\u{e4}se"] {
            let properties = [
                prop::text(prop::AUTHENTICATION_METHOD, method),
                prop::text(prop::AUTHENTICATION_DATA, b"\0\x01"),
            ];
            let connect = Connect::v5(unique("auth")).properties(properties.concat());
            let connack = refused(broker, &connect);
            assert!(
                [0x8c, 0x87].contains(&connack.code),
                "{:#04x}",
                connack.code
            );
        }
    });
}

/// Without Authentication Method in CONNECT, the server sends no AUTH, and no method in CONNACK.
#[test]
fn mqtt_4_12_0_6_no_auth_from_the_server() {
    on_each(|broker| {
        let connect = Connect::v5(unique("auth"))
            .user_name("user")
            .password("password");
        let (mut client, connack) = Raw::session(broker, &connect);
        assert_eq!(connack.properties.bytes(prop::AUTHENTICATION_METHOD), None);
        assert_eq!(connack.properties.bytes(prop::AUTHENTICATION_DATA), None);
        client.expect_nothing_before_barrier();
    });
}

/// Without Authentication Method in CONNECT, a client sends no AUTH: a protocol error.
#[test]
fn mqtt_4_12_0_7_auth_without_method() {
    on_each(|broker| {
        let properties = prop::text(prop::AUTHENTICATION_METHOD, "m");
        for bytes in [
            auth(0x18, &properties),
            auth(0x19, &properties),
            packet(AUTH << 4, &[]),
        ] {
            ends(broker, &bytes, &[PROTOCOL_ERROR]);
        }
    });
}

/// Section 3.14.2.1: a server that stops tells its clients: 0x8B.
#[test]
fn section_3_14_2_1_server_shutting_down() {
    on_each_of_its_own(&[], |broker| {
        let Some(pid) = broker.pid() else {
            eprintln!("skipped: a broker named by RINGMQ_TEST_BROKER is not stopped");
            return;
        };
        let mut clients: Vec<Raw> = (0..8).map(|_| client(broker)).collect();
        let mut old = Raw::v311(broker, &unique("old"));
        let status = Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status();
        assert!(status.expect("there is a kill command").success());
        for client in &mut clients {
            client.expect_closed_with(&[0x8b]);
        }
        old.expect_closed_quietly();
    });
}

//! Sections 3.1 and 3.2: CONNECT and CONNACK, without Will and session state.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.1.2-23] | binds clients: send something within the Keep Alive |
//! | [MQTT-3.1.3-7] | binds clients; the server's side is [MQTT-3.1.3-8] |
//! | [MQTT-3.1.3-9] | no other Client Identifier is rejected, so it is [MQTT-3.1.3-8] |

use std::time::{Duration, Instant};

use crate::common::*;
use crate::{ILL_FORMED, refuses, refuses_quietly, subscriber};

/// A CONNECT of MQTT 3.1.1 with this body in place of the right one.
fn connect_with(name: &str, level: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let body = [&field(name)[..], &[level, flags, 0, 60], payload].concat();
    packet(CONNECT << 4, &body)
}

/// The first packet of a client is CONNECT; anything else closes the connection.
#[test]
fn mqtt_3_1_0_1_first_packet_is_connect() {
    on_each(|broker| {
        for first in [
            Publish::v311("t", "x").encode(),
            Publish::v311("t", "x").qos(1, 1).encode(),
            ack(PUBACK, 1),
            ack(PUBREC, 1),
            ack(PUBREL, 1),
            ack(PUBCOMP, 1),
            subscribe(Version::V311, 1, &[("#", 0)]),
            unsubscribe(Version::V311, 1, &["#"]),
            pingreq(),
            disconnect(),
        ] {
            refuses_quietly(broker, &first);
        }
    });
}

/// A second CONNECT is a protocol violation and closes the connection.
#[test]
fn mqtt_3_1_0_2_second_connect_closes() {
    on_each(|broker| {
        let connect = Connect::v311(unique("twice"));
        let mut client = Raw::connect(broker, &connect);
        client.send(&connect.encode());
        client.expect_closed_quietly();
    });
}

/// A wrong protocol name is not served as MQTT 3.1.1.
#[test]
fn mqtt_3_1_2_1_wrong_protocol_name() {
    on_each(|broker| {
        for name in ["", "MQT", "MQTX", "mqtt", "MQTTT", "MQTT\u{1}", "AMQP"] {
            refuses(broker, &connect_with(name, 4, 2, &field(unique("name"))));
        }
    });
}

/// An unsupported protocol level gets CONNACK 0x01 and is disconnected. For levels above those that
/// exist, 0x84 in the format of MQTT 5.0 says the same.
#[test]
fn mqtt_3_1_2_2_unsupported_level_gets_connack_1() {
    on_each(|broker| {
        for level in [0, 1, 2, 3, 6, 99, 255] {
            let mut client = Raw::open(broker);
            client.send(&connect_with("MQTT", level, 2, &field(unique("lev"))));
            let sent = client.closed_within(ARRIVES);
            let [connack] = sent.as_slice() else {
                panic!("level {level}: sent {sent:02x?}")
            };
            let is_code_1 = connack.bytes() == [0x20, 0x02, 0x00, 0x01];
            let is_code_84 = || connack.connack(Version::V5).code == 0x84;
            assert!(
                is_code_1 || level > 5 && is_code_84(),
                "level {level}: {connack:02x?}"
            );
        }
    });
}

/// The reserved connect flag must be 0.
#[test]
fn mqtt_3_1_2_3_reserved_connect_flag_closes() {
    on_each(|broker| {
        refuses_quietly(
            broker,
            &Connect::v311(unique("res")).flip_flags(0x01).encode(),
        );
    });
}

/// Without the User Name Flag there is no user name in the payload.
#[test]
fn mqtt_3_1_2_18_user_name_without_flag() {
    on_each(|broker| {
        let connect = Connect::v311(unique("user"))
            .user_name("name")
            .flip_flags(0x80);
        refuses_quietly(broker, &connect.encode());
    });
}

/// With the User Name Flag there is a user name in the payload.
#[test]
fn mqtt_3_1_2_19_user_name_flag_without_user_name() {
    on_each(|broker| {
        refuses_quietly(
            broker,
            &Connect::v311(unique("user")).flip_flags(0x80).encode(),
        );
    });
}

/// Without the Password Flag there is no password in the payload.
#[test]
fn mqtt_3_1_2_20_password_without_flag() {
    on_each(|broker| {
        let connect = Connect::v311(unique("pw"))
            .user_name("name")
            .password("x")
            .flip_flags(0x40);
        refuses_quietly(broker, &connect.encode());
    });
}

/// With the Password Flag there is a password in the payload.
#[test]
fn mqtt_3_1_2_21_password_flag_without_password() {
    on_each(|broker| {
        let connect = Connect::v311(unique("pw"))
            .user_name("name")
            .flip_flags(0x40);
        refuses_quietly(broker, &connect.encode());
    });
}

/// The Password Flag needs the User Name Flag.
#[test]
fn mqtt_3_1_2_22_password_needs_user_name() {
    on_each(|broker| {
        refuses_quietly(broker, &Connect::v311(unique("pw")).password("x").encode());
    });
}

/// A client that sends nothing for one and a half times its Keep Alive is disconnected as if the
/// network had failed, and not sooner.
#[test]
fn mqtt_3_1_2_24_keep_alive_one_and_a_half() {
    on_each(|broker| {
        let topic = unique("keep");
        let mut watcher = subscriber(broker, &topic, 1);
        let start = Instant::now();
        let will = Will::new(&topic, "gone").qos(1);
        let mut client = Raw::connect(
            broker,
            &Connect::v311(unique("keep")).keep_alive_s(1).will(will),
        );
        // Half a second beyond the second that is allowed, for a busy machine.
        assert!(client.closed_within(Duration::from_secs(3)).is_empty());
        // Some milliseconds less are a clock that is read once for many packets.
        let closed = start.elapsed();
        assert!(
            closed >= Duration::from_millis(1_490),
            "closed after {closed:?} already"
        );
        assert_eq!(watcher.take_publish().text(), "gone");
    });
}

/// A client that sends something within its Keep Alive stays connected: a PINGREQ, or any other
/// packet. The time counts from the last packet that is complete.
#[test]
fn mqtt_3_1_2_24_keep_alive_is_met_by_any_packet() {
    on_each(|broker| {
        let topic = unique("keep");
        let mut client = Raw::connect(broker, &Connect::v311(unique("keep")).keep_alive_s(1));
        for round in 0..6 {
            client.expect_silence(400);
            if round % 2 == 0 {
                client.expect_nothing_before_barrier();
            } else {
                client.send(&Publish::v311(&topic, "x").encode());
            }
        }
        client.expect_nothing_before_barrier();
    });
}

/// Section 3.1.2.10: Keep Alive 0 means that silence has no limit.
#[test]
fn section_3_1_2_10_keep_alive_0_is_no_limit() {
    on_each(|broker| {
        let mut client = Raw::connect(broker, &Connect::v311(unique("keep")).keep_alive_s(0));
        client.expect_silence(2_500);
        client.expect_nothing_before_barrier();
    });
}

/// The payload's fields come in the order client identifier, Will Topic, Will Message, user name,
/// password.
#[test]
fn mqtt_3_1_3_1_order_of_the_payload() {
    on_each(|broker| {
        let topic = unique("order");
        let mut watcher = subscriber(broker, &topic, 0);
        let connect = Connect::v311(unique("order"))
            .will(Will::new(&topic, "the will message"))
            .user_name("the user name")
            .password("the password");
        Raw::connect(broker, &connect).vanish();
        let will = watcher.next_publish();
        assert_eq!(
            (will.topic, will.payload),
            (topic, b"the will message".to_vec())
        );
    });
}

/// The client identifier is the first field of the payload and must be there.
#[test]
fn mqtt_3_1_3_3_client_identifier_is_present() {
    on_each(|broker| refuses_quietly(broker, &connect_with("MQTT", 4, 2, &[])));
}

/// The client identifier is a UTF-8 string.
#[test]
fn mqtt_3_1_3_4_client_identifier_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            refuses(broker, &Connect::v311(bad).encode());
        }
        let good = format!("{}-ü-ﬀ-🦀", unique("utf"));
        Raw::v311(broker, &good).expect_nothing_before_barrier();
    });
}

/// Client identifiers of 1 to 23 letters and digits are allowed.
#[test]
fn mqtt_3_1_3_5_client_identifiers_that_must_be_allowed() {
    on_each(|broker| {
        for id in [
            "0123456789abcdefghijklm",
            "nopqrstuvwxyzABCDEFGHIJ",
            "KLMNOPQRSTUVWXYZ",
            "0",
            "Z",
        ] {
            Raw::v311(broker, id).disconnect();
        }
        // More than the standard demands, as every broker in use does.
        Raw::v311(broker, &format!("{}{}", unique("long"), "x".repeat(1_000))).disconnect();
        Raw::v311(broker, &format!("{} /$-_.:@", unique("odd"))).disconnect();
    });
}

/// An empty client identifier, if allowed, gets a unique one: two such clients do not collide.
#[test]
fn mqtt_3_1_3_6_empty_client_identifier_is_unique() {
    on_each(|broker| {
        let mut clients: Vec<Raw> = (0..4).map(|_| Raw::v311(broker, "")).collect();
        for client in &mut clients {
            client.expect_nothing_before_barrier();
        }
    });
}

/// An empty client identifier without Clean Session gets CONNACK 0x02 and is disconnected.
#[test]
fn mqtt_3_1_3_8_empty_client_identifier_needs_clean_session() {
    on_each(|broker| {
        let mut client = Raw::open(broker);
        client.send(&Connect::v311("").clean(false).encode());
        client.expect(&[0x20, 0x02, 0x00, 0x02]);
        client.expect_closed_quietly();
    });
}

/// The user name is a UTF-8 string.
#[test]
fn mqtt_3_1_3_11_user_name_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            refuses(
                broker,
                &Connect::v311(unique("user")).user_name(bad).encode(),
            );
        }
    });
}

/// A CONNECT that does not conform closes the connection without a CONNACK.
#[test]
fn mqtt_3_1_4_1_malformed_connect_closes_without_connack() {
    on_each(|broker| {
        let id = field(unique("mal"));
        let cut_short = Connect::v311(unique("mal")).encode();
        for bad in [
            packet(0x10, &[]),
            packet(0x10, &field("MQTT")),
            packet(0x10, &cut_short[2..8]),
            packet(0x10, &cut_short[2..11]),
            connect_with("MQTT", 4, 0x02, &[&id[..], b"\0\x01a"].concat()),
            connect_with("MQTT", 4, 0x02, &[0xff, 0xff, b'a']),
            connect_with("MQTT", 4, 0x06, &id),
            connect_with("MQTT", 4, 0x06, &[&id[..], &field("topic")].concat()),
            connect_with("MQTT", 4, 0xc2, &[&id[..], &field("user")].concat()),
            connect_with("MQTT", 4, 0x03, &id),
            connect_with(
                "MQTT",
                4,
                0x1e,
                &[&id[..], &field("t"), &field("m")].concat(),
            ),
        ] {
            refuses_quietly(broker, &bad);
        }
    });
}

/// A valid CONNECT gets a CONNACK with return code 0.
#[test]
fn mqtt_3_1_4_4_connack_with_return_code_0() {
    on_each(|broker| {
        let mut client = Raw::open(broker);
        client.send(&Connect::v311(unique("ok")).encode());
        client.expect(&[0x20, 0x02, 0x00, 0x00]);
        client.expect_nothing_before_barrier();
    });
}

/// What follows a rejected CONNECT is not processed.
#[test]
fn mqtt_3_1_4_5_nothing_after_a_rejected_connect() {
    on_each(|broker| {
        let topic = unique("rej");
        let mut watcher = subscriber(broker, &topic, 1);
        let mut client = Raw::open(broker);
        let message = Publish::v311(&topic, "smuggled").encode();
        client.send(&[Connect::v311("").clean(false).encode(), message].concat());
        client.expect(&[0x20, 0x02, 0x00, 0x02]);
        client.expect_closed();
        watcher.expect_silence(200);
    });
}

/// Section 3.1.4: a client need not wait for CONNACK; what it sends at once is served after it.
#[test]
fn section_3_1_4_packets_sent_before_connack_are_served() {
    on_each(|broker| {
        // Many identifiers, so that some belong to another core than the one that accepted.
        for _ in 0..20 {
            let topic = unique("early");
            let mut client = Raw::open(broker);
            let all = [
                Connect::v311(unique("early")).encode(),
                subscribe(Version::V311, 1, &[(&topic, 1)]),
                Publish::v311(&topic, "early").qos(1, 2).encode(),
                pingreq(),
            ];
            client.send(&all.concat());
            client.expect(&[0x20, 0x02, 0x00, 0x00]);
            // No order is prescribed between answers to different packets.
            let mut kinds: Vec<u8> = (0..4).map(|_| client.read_packet().kind()).collect();
            kinds.sort_unstable();
            assert_eq!(kinds, [PUBLISH, PUBACK, SUBACK, PINGRESP]);
        }
    });
}

/// The first packet the server sends is CONNACK, even if messages wait for the session.
#[test]
fn mqtt_3_2_0_1_connack_comes_first() {
    on_each(|broker| {
        let topic = unique("first");
        let persistent = Connect::v311(unique("first")).clean(false);
        let mut client = Raw::connect(broker, &persistent);
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        Raw::v311(broker, &unique("first")).publish(&topic, 1, "waiting");
        let mut client = Raw::open(broker);
        client.send_connect(&persistent);
        client.expect(&[0x20, 0x02, 0x01, 0x00]);
        assert_eq!(client.take_publish().text(), "waiting");
    });
}

/// A CONNACK that refuses has Session Present 0, even if there is a session.
#[test]
fn mqtt_3_2_2_4_refusal_has_session_present_0() {
    on_each(|broker| {
        let id = unique("sp");
        Raw::connect(broker, &Connect::v311(&id).clean(false)).disconnect();
        let mut client = Raw::open(broker);
        client.send(&connect_with("MQTT", 2, 0, &field(&id)));
        client.expect(&[0x20, 0x02, 0x00, 0x01]);
        client.expect_closed();
    });
}

/// A CONNACK that refuses is followed by the end of the connection.
#[test]
fn mqtt_3_2_2_5_refusal_closes() {
    on_each(|broker| {
        let mut client = Raw::open(broker);
        client.send(&connect_with("MQTT", 0, 2, &field(unique("no"))));
        client.expect(&[0x20, 0x02, 0x00, 0x01]);
        client.expect_closed_quietly();
    });
}

/// If no return code applies, the connection is closed without a CONNACK.
#[test]
fn mqtt_3_2_2_6_no_connack_if_no_code_applies() {
    on_each(|broker| {
        // A Will of QoS 3 is none of: level, identifier, unavailable, credentials, authorisation.
        let will = Will::new(unique("t"), "x").qos(3);
        refuses_quietly(broker, &Connect::v311(unique("code")).will(will).encode());
    });
}

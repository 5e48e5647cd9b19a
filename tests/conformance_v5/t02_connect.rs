//! Sections 3.1.0 to 3.1.4: CONNECT, except Wills, Clean Start and what CONNECT asks of CONNACK.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.1.2-20], [MQTT-3.1.2-21], [MQTT-3.2.2-21] | bind clients: how often they send |
//! | [MQTT-3.1.2-30] | binds clients: what they send before CONNACK |
//! | [MQTT-3.1.3-8] | a permission; this server refuses no well-formed Client Identifier |

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::support::*;

/// Wrong name or level: Unsupported Protocol Version, or nothing.
const UNSUPPORTED: &[u8] = &[0x84];

/// The first packet on a connection is CONNECT.
#[test]
fn mqtt_3_1_0_1_first_packet_is_connect() {
    on_each(|broker| {
        for bytes in [
            pingreq(),
            disconnect(),
            Publish::v5("t", "x").encode(),
            subscribe(Version::V5, 1, &[("t", 0)]),
            auth(0x18, &prop::text(prop::AUTHENTICATION_METHOD, "m")),
        ] {
            refuses_quietly(broker, &bytes);
        }
    });
}

/// A second CONNECT is a protocol error.
#[test]
fn mqtt_3_1_0_2_second_connect() {
    on_each(|broker| {
        let connect = Connect::v5(unique("second"));
        ends(broker, &connect.encode(), &[PROTOCOL_ERROR]);
        let mut client = Raw::connect(broker, &connect);
        client.send(&connect.encode());
        client.expect_closed_with(&[PROTOCOL_ERROR]);
    });
}

/// The protocol name is "MQTT".
#[test]
fn mqtt_3_1_2_1_protocol_name() {
    on_each(|broker| {
        for name in ["mqtt", "MQTt", "MQTTT", "", "HTTP"] {
            let rest = [&[5, 2, 0, 60, 0][..], &field(unique("name"))].concat();
            let bytes = packet(CONNECT << 4, &[field(name), rest].concat());
            refuses(broker, &bytes, UNSUPPORTED);
        }
    });
}

/// A level that does not exist is refused, with 0x84 (or the 1 that older versions have for it).
#[test]
fn mqtt_3_1_2_2_protocol_version() {
    on_each(|broker| {
        for level in [0, 1, 2, 6, 7, 255] {
            let rest = [&[level, 2, 0, 60, 0][..], &field(unique("level"))].concat();
            let bytes = packet(CONNECT << 4, &[field("MQTT"), rest].concat());
            refuses(broker, &bytes, &[0x84, 1]);
        }
    });
}

/// The reserved flag is 0.
#[test]
fn mqtt_3_1_2_3_reserved_connect_flag() {
    on_each(|broker| {
        let connect = Connect::v5(unique("flag")).flip_flags(0x01);
        refuses(broker, &connect.encode(), &[MALFORMED]);
    });
}

/// Without the User Name Flag, the payload holds no User Name.
#[test]
fn mqtt_3_1_2_16_user_name_without_flag() {
    on_each(|broker| {
        let connect = Connect::v5(unique("user")).user_name("u").flip_flags(0x80);
        refuses(broker, &connect.encode(), &[MALFORMED]);
    });
}

/// With the User Name Flag, the payload holds a User Name.
#[test]
fn mqtt_3_1_2_17_user_name_flag() {
    on_each(|broker| {
        let connect = Connect::v5(unique("user"));
        refuses(
            broker,
            &connect.clone().flip_flags(0x80).encode(),
            &[MALFORMED],
        );
        Raw::connect(broker, &connect.user_name("u")).disconnect();
    });
}

/// Without the Password Flag, the payload holds no Password.
#[test]
fn mqtt_3_1_2_18_password_without_flag() {
    on_each(|broker| {
        let connect = Connect::v5(unique("pass")).user_name("u").password("p");
        refuses(broker, &connect.flip_flags(0x40).encode(), &[MALFORMED]);
    });
}

/// With the Password Flag, the payload holds a Password; it needs no User Name.
#[test]
fn mqtt_3_1_2_19_password_flag() {
    on_each(|broker| {
        let connect = Connect::v5(unique("pass"));
        refuses(
            broker,
            &connect.clone().flip_flags(0x40).encode(),
            &[MALFORMED],
        );
        Raw::connect(broker, &connect.clone().user_name("u").password("p")).disconnect();
        Raw::connect(broker, &connect.password(b"\0\xff any bytes")).disconnect();
    });
}

/// A client that is silent for one and a half times its Keep Alive is disconnected as if the
/// network had failed: its Will is published.
#[test]
fn mqtt_3_1_2_22_keep_alive_runs_out() {
    on_each(|broker| {
        let topic = unique("silent");
        let mut watcher = subscriber(broker, &topic, 1);
        let connect = Connect::v5(unique("silent")).keep_alive_s(1);
        let mut client = Raw::connect(broker, &connect.will(Will::new(&topic, "gone").qos(1)));
        let silent_since = Instant::now();
        let sent = client.closed_within(ARRIVES);
        assert!(silent_since.elapsed() > Duration::from_millis(1_400));
        for packet in sent {
            assert_eq!(packet.disconnect().reason, 0x8d, "Keep Alive timeout");
        }
        assert_eq!(watcher.take_publish().text(), "gone");
    });
}

/// Section 3.1.2.10: a Keep Alive of 0 turns the mechanism off, and every packet counts as a sign
/// of life.
#[test]
fn section_3_1_2_10_keep_alive_off_and_kept() {
    on_each(|broker| {
        let mut off = Raw::connect(broker, &Connect::v5(unique("ka")).keep_alive_s(0));
        let mut kept = Raw::connect(broker, &Connect::v5(unique("ka")).keep_alive_s(2));
        for round in 0..8 {
            sleep(Duration::from_millis(500));
            if round % 2 == 0 {
                kept.barrier();
            } else {
                kept.publish(unique("ka"), 1, "x");
            }
        }
        off.barrier();
    });
}

/// The fields of the payload come in their order: Client Identifier, Will Properties, Will Topic,
/// Will Payload, User Name, Password.
#[test]
fn mqtt_3_1_3_1_order_of_the_payload() {
    on_each(|broker| {
        let topic = unique("order");
        let mut watcher = subscriber(broker, &topic, 0);
        let will = Will::new(&topic, "the will").properties(prop::user("a", "b"));
        let connect = Connect::v5(unique("order"))
            .will(will)
            .user_name("user")
            .password("password");
        Raw::connect(broker, &connect).vanish();
        let got = watcher.next_publish();
        assert_eq!(
            (got.text().as_str(), got.properties.user()),
            ("the will", vec![("a", "b")])
        );
    });
}

/// The Client Identifier names the session.
#[test]
fn mqtt_3_1_3_2_client_identifier_names_the_session() {
    on_each(|broker| {
        let (one, other) = (unique("one"), unique("one"));
        Raw::connect(broker, &keeping(&one)).disconnect();
        assert!(!has_session(broker, &other));
        assert!(has_session(broker, &one));
        // Byte by byte: case and length make another one.
        Raw::connect(broker, &keeping(&one)).disconnect();
        assert!(!has_session(broker, &one.to_uppercase()));
        assert!(!has_session(broker, &format!("{one}x")));
        assert!(!has_session(broker, &one[..one.len() - 1]));
        assert!(has_session(broker, &one));
    });
}

/// The Client Identifier is present, as the first field of the payload.
#[test]
fn mqtt_3_1_3_3_client_identifier_is_present() {
    on_each(|broker| {
        let header = [&field("MQTT")[..], &[5, 2, 0, 60, 0]].concat();
        refuses(broker, &packet(CONNECT << 4, &header), &[MALFORMED, 0x85]);
    });
}

/// The Client Identifier is a UTF-8 Encoded String.
#[test]
fn mqtt_3_1_3_4_client_identifier_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED.into_iter().chain([&b"a\0b"[..]]) {
            refuses(broker, &Connect::v5(bad).encode(), &[MALFORMED, 0x85]);
        }
        let id = format!("Gerät/№ 5 #+ {}", unique("utf8"));
        Raw::v5(broker, &id).disconnect();
    });
}

/// Client Identifiers of 1 to 23 digits and letters are accepted.
#[test]
fn mqtt_3_1_3_5_client_identifiers_that_must_be_accepted() {
    on_each(|broker| {
        for id in [
            "a",
            "Z",
            "0",
            "0123456789abcdefghijklm",
            "nopqrstuvwxyzABCDEFGHIJ",
            "KLMNOPQRSTUVWXYZ",
        ] {
            let (client, connack) = Raw::session(broker, &Connect::v5(id));
            assert_eq!(
                connack.properties.bytes(prop::ASSIGNED_CLIENT_IDENTIFIER),
                None
            );
            client.disconnect();
        }
    });
}

/// An empty Client Identifier gets a unique one: two such clients do not take each other over.
#[test]
fn mqtt_3_1_3_6_empty_client_identifier_is_made_unique() {
    on_each(|broker| {
        let mut clients: Vec<Raw> = (0..8).map(|_| Raw::v5(broker, "")).collect();
        for client in &mut clients {
            client.barrier();
        }
    });
}

/// The assigned Client Identifier is returned in CONNACK, and is as good as one the client gave.
#[test]
fn mqtt_3_1_3_7_assigned_client_identifier_works() {
    on_each(|broker| {
        for clean in [true, false] {
            let (client, connack) = Raw::session(broker, &keeping("").clean(clean));
            assert!(!connack.session_present);
            let assigned = connack.properties.text(prop::ASSIGNED_CLIENT_IDENTIFIER);
            let assigned = assigned.expect("an Assigned Client Identifier");
            client.disconnect();
            assert!(has_session(broker, &assigned));
        }
    });
}

/// The User Name is a UTF-8 Encoded String.
#[test]
fn mqtt_3_1_3_12_user_name_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            let connect = Connect::v5(unique("user")).user_name(bad);
            refuses(broker, &connect.encode(), &[MALFORMED]);
        }
    });
}

/// A CONNECT that does not match its format is refused.
#[test]
fn mqtt_3_1_4_1_malformed_connect() {
    on_each(|broker| {
        let whole = Connect::v5(unique("bad"))
            .properties(session_expiry_s(1))
            .encode();
        let body = &whole[2..];
        // Cut anywhere, with a Remaining Length that fits what is left. No broker can read a level
        // from less than seven bytes, so these need no answer.
        for length in 0..body.len() {
            refuses(
                broker,
                &packet(CONNECT << 4, &body[..length]),
                &[MALFORMED, 0x84, 0x85],
            );
        }
        let longer = [body, b"x"].concat();
        refuses(broker, &packet(CONNECT << 4, &longer), &[MALFORMED]);
    });
}

/// Sections 3.1.2.11 and 3.1.3.2: properties with values, counts or packets that are not allowed.
#[test]
fn section_3_1_2_11_bad_properties() {
    on_each(|broker| {
        let both = [MALFORMED, PROTOCOL_ERROR];
        let bad = [
            receive_maximum(0),
            packet_size_max(0),
            prop::byte(prop::REQUEST_PROBLEM_INFORMATION, 2),
            prop::byte(prop::REQUEST_RESPONSE_INFORMATION, 2),
            prop::text(prop::AUTHENTICATION_DATA, "data without method"),
            topic_alias(1),
            prop::text(prop::REASON_STRING, "not here"),
            [session_expiry_s(1), session_expiry_s(1)].concat(),
            [receive_maximum(5), receive_maximum(5)].concat(),
            [packet_size_max(500), packet_size_max(500)].concat(),
            [topic_alias_maximum(5), topic_alias_maximum(5)].concat(),
            will_delay_s(1),
        ];
        for properties in bad {
            let connect = Connect::v5(unique("bad")).properties(properties);
            refuses(broker, &connect.encode(), &both);
        }
        let bad_of_will = [
            prop::byte(prop::PAYLOAD_FORMAT_INDICATOR, 2),
            [will_delay_s(1), will_delay_s(1)].concat(),
            [message_expiry_s(1), message_expiry_s(1)].concat(),
            session_expiry_s(1),
            topic_alias(1),
        ];
        for properties in bad_of_will {
            let will = Will::new("t", "x").properties(properties);
            let connect = Connect::v5(unique("bad")).will(will);
            refuses(broker, &connect.encode(), &both);
        }
    });
}

/// A CONNECT that fails a further check of the server is refused: here, no more sessions.
#[test]
fn mqtt_3_1_4_2_further_checks() {
    let broker = Broker::start(1, &["--set", "limits.sessions-max=2"]);
    if !broker.is_ours() {
        eprintln!("skipped: a broker named by RINGMQ_TEST_BROKER cannot be configured");
        return;
    }
    let first = Raw::connect(&broker, &Connect::v5(unique("room")));
    let mut second = Raw::connect(&broker, &Connect::v5(unique("room")));
    assert_eq!(refused(&broker, &Connect::v5(unique("room"))).code, 0x97);
    second.barrier();
    first.disconnect();
    Raw::connect(&broker, &Connect::v5(unique("room"))).disconnect();
}

/// A client that connects with the identifier of a connected one takes over: the old one gets
/// DISCONNECT with 0x8E, and is closed.
#[test]
fn mqtt_3_1_4_3_takeover() {
    on_each(|broker| {
        let id = unique("take");
        let mut old = Raw::v5(broker, &id);
        for connect in [
            Connect::v5(&id),
            keeping(&id),
            keeping(&id),
            Connect::v5(&id),
        ] {
            let new = Raw::connect(broker, &connect);
            let disconnect = old.expect_disconnect();
            assert_eq!(disconnect.reason, 0x8e, "Session taken over");
            old.expect_closed_quietly();
            old = new;
        }
        // A client of 3.1.1 is just closed, as it knows no DISCONNECT from a server.
        let mut old = Raw::v311(broker, &id);
        let mut new = Raw::v5(broker, &id);
        old.expect_closed_quietly();
        new.barrier();
    });
}

/// Clean Start is processed at takeover too: 1 ends the session of the connected client, 0
/// continues it.
#[test]
fn mqtt_3_1_4_4_clean_start_at_takeover() {
    on_each(|broker| {
        let (id, topic) = (unique("take"), unique("take"));
        let mut first = Raw::connect(broker, &keeping(&id));
        first.subscribe(&[(&topic, 1)]);
        let (mut second, connack) = Raw::session(broker, &keeping(&id));
        assert!(connack.session_present);
        let mut publisher = client(broker);
        publisher.publish(&topic, 1, "to the second");
        assert_eq!(second.take_publish().text(), "to the second");
        let (mut third, connack) = Raw::session(broker, &keeping(&id).clean(true));
        assert!(!connack.session_present);
        let reason = publish_reason(&mut publisher, Publish::v5(&topic, "to nobody"), 1);
        assert_eq!(reason, 0x10, "the subscription is gone");
        third.expect_nothing_before_barrier();
    });
}

/// A CONNECT that is granted is acknowledged with Reason Code 0.
#[test]
fn mqtt_3_1_4_5_connack() {
    on_each(|broker| {
        let mut client = Raw::open(broker);
        client.send_connect(&Connect::v5(unique("ok")));
        let packet = client.read_packet();
        assert_eq!((packet.first, &packet.body[..2]), (0x20, &[0, 0][..]));
    });
}

/// What follows a CONNECT that was refused is not processed.
#[test]
fn mqtt_3_1_4_6_nothing_is_processed_after_a_refusal() {
    on_each(|broker| {
        let topic = unique("after");
        let mut watcher = subscriber(broker, &topic, 1);
        let method = prop::text(prop::AUTHENTICATION_METHOD, "no such method");
        let connect = Connect::v5(unique("after")).properties(method);
        let message = Publish::v5(&topic, "smuggled").retain();
        let both = [connect.encode(), message.encode()].concat();
        refuses(broker, &both, &[0x8c, 0x87]);
        nothing_else(&mut watcher, &mut client(broker), &topic, 1);
        assert_eq!(retained(broker, &topic, &topic), None);
    });
}

/// Section 3.1.4: a client need not wait for CONNACK before it sends more.
#[test]
fn section_3_1_4_packets_before_connack() {
    on_each(|broker| {
        let topic = unique("early");
        let early = [
            Connect::v5(unique("early")).encode(),
            subscribe(Version::V5, 1, &[(&topic, 0)]),
            Publish::v5(&topic, "early").encode(),
        ];
        let mut client = Raw::open(broker);
        client.version = Version::V5;
        client.send(&early.concat());
        assert_eq!(client.read_connack().code, 0);
        client.wait_for(SUBACK);
        assert_eq!(client.next_publish().text(), "early");
    });
}

//! Sections 3.1.2.5, 3.1.3.2 and 3.14.4: the Will and its delay.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.2.2-12], [MQTT-3.2.2-13] | this server supports every QoS and retained messages |

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::support::*;

/// A CONNECT with a Will of QoS 1 that says `text`, and a session that is kept for `expiry_s`.
fn with_will(client_id: &str, expiry_s: u32, topic: &str, text: &str, delay_s: u32) -> Connect {
    let will = Will::new(topic, text)
        .qos(1)
        .properties(will_delay_s(delay_s));
    keeping_s(client_id, expiry_s).will(will)
}

/// The Will is stored with the session, on the server.
#[test]
fn mqtt_3_1_2_7_will_is_stored() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let clients: Vec<Raw> = (0..5)
            .map(|number| {
                Raw::connect(
                    broker,
                    &with_will(&unique("will"), 0, &topic, &number.to_string(), 0),
                )
            })
            .collect();
        let mut publisher = client(broker);
        nothing_else(&mut watcher, &mut publisher, &topic, 1);
        for (number, client) in clients.into_iter().enumerate() {
            client.vanish();
            assert_eq!(watcher.take_publish().text(), number.to_string());
        }
    });
}

/// The Will is published after the connection ended in any way but DISCONNECT with Reason Code 0.
#[test]
fn mqtt_3_1_2_8_will_is_published() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let mut check = |text: &str| {
            let will = watcher.take_publish();
            assert_eq!((will.text().as_str(), will.qos), (text, 1));
        };
        let connect = |text: &str, expiry_s| {
            Raw::connect(
                broker,
                &with_will(&unique("will"), expiry_s, &topic, text, 0),
            )
        };
        connect("vanished", 0).vanish();
        check("vanished");
        connect("vanished, with a session", 60).vanish();
        check("vanished, with a session");
        let mut client = connect("violation", 60);
        client.send(&[0xf1, 0x00]);
        client.expect_closed();
        check("violation");
        for reason in [0x04, 0x80, 0x81, 0x97] {
            let text = format!("{reason:#04x}");
            let mut client = connect(&text, 60);
            client.send(&disconnect_v5(reason, &[]));
            client.expect_closed();
            check(&text);
        }
    });
}

/// With the Will Flag, the payload holds Will Properties, a Will Topic and a Will Payload.
#[test]
fn mqtt_3_1_2_9_will_flag_without_will() {
    on_each(|broker| {
        let bare = Connect::v5(unique("will")).flip_flags(0x04);
        refuses(broker, &bare.encode(), &[MALFORMED]);
        let header = [&field("MQTT")[..], &[5, 0x06, 0, 60, 0]].concat();
        let parts = [
            field(unique("will")),
            vec![0],
            field("topic"),
            field("payload"),
        ];
        for count in 1..parts.len() {
            let body = [header.clone(), parts[..count].concat()].concat();
            refuses(broker, &packet(CONNECT << 4, &body), &[MALFORMED]);
        }
        let body = [header, parts.concat()].concat();
        let mut client = Raw::open(broker);
        client.version = Version::V5;
        client.send(&packet(CONNECT << 4, &body));
        assert_eq!(client.read_connack().code, 0);
    });
}

/// A Will that was published, or deleted by DISCONNECT, is gone from the session.
#[test]
fn mqtt_3_1_2_10_will_is_removed_once_used() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let id = unique("will");
        Raw::connect(broker, &with_will(&id, 60, &topic, "once", 0)).vanish();
        assert_eq!(watcher.take_publish().text(), "once");
        Raw::connect(broker, &keeping(&id)).vanish();
        Raw::connect(broker, &with_will(&id, 60, &topic, "deleted", 0)).disconnect();
        Raw::connect(broker, &keeping(&id)).vanish();
        sentinel_from_successor(broker, &id, &topic);
        assert_eq!(watcher.take_publish().text(), "sentinel");
    });
}

/// Without the Will Flag, Will QoS is 0.
#[test]
fn mqtt_3_1_2_11_will_qos_without_will_flag() {
    on_each(|broker| {
        for qos_bits in [0x08, 0x10, 0x18] {
            let connect = Connect::v5(unique("will")).flip_flags(qos_bits);
            refuses(broker, &connect.encode(), &[MALFORMED]);
        }
    });
}

/// Will QoS can be 0, 1 or 2, and never 3.
#[test]
fn mqtt_3_1_2_12_will_qos_0_to_2() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 2);
        for qos in 0..3 {
            let connect = Connect::v5(unique("will")).will(Will::new(&topic, [qos]).qos(qos));
            Raw::connect(broker, &connect).vanish();
            let message = watcher.take_publish();
            assert_eq!((message.qos, message.payload), (qos, vec![qos]));
        }
        let connect = Connect::v5(unique("will")).will(Will::new(&topic, "x").qos(3));
        refuses(broker, &connect.encode(), &[MALFORMED]);
    });
}

/// Without the Will Flag, Will Retain is 0.
#[test]
fn mqtt_3_1_2_13_will_retain_without_will_flag() {
    on_each(|broker| {
        let connect = Connect::v5(unique("will")).flip_flags(0x20);
        refuses(broker, &connect.encode(), &[MALFORMED]);
    });
}

/// With Will Retain 0, the Will is not retained.
#[test]
fn mqtt_3_1_2_14_will_is_not_retained() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1 | RETAIN_AS_PUBLISHED);
        Raw::connect(broker, &with_will(&unique("will"), 0, &topic, "x", 0)).vanish();
        assert!(!watcher.take_publish().retain);
        assert_eq!(retained(broker, &topic, &topic), None);
    });
}

/// With Will Retain 1, the Will is published as a retained message.
#[test]
fn mqtt_3_1_2_15_will_is_retained() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1 | RETAIN_AS_PUBLISHED);
        let will = Will::new(&topic, "kept").qos(1).retain();
        Raw::connect(broker, &Connect::v5(unique("will")).will(will)).vanish();
        assert!(watcher.take_publish().retain);
        let message = retained(broker, &topic, &topic).expect("a retained message");
        assert_eq!((message.text().as_str(), message.qos), ("kept", 1));
    });
}

/// A connection to the session before the Will Delay Interval has passed cancels the Will.
#[test]
fn mqtt_3_1_3_9_will_is_cancelled_by_a_new_connection() {
    on_each(|broker| {
        let (id, topic) = (unique("will"), unique("will"));
        let mut watcher = subscriber(broker, &topic, 1);
        // After the connection was lost, and as a takeover.
        Raw::connect(broker, &with_will(&id, 60, &topic, "never", 1)).vanish();
        let second = Raw::connect(broker, &with_will(&id, 60, &topic, "nor this", 1));
        let third = Raw::connect(broker, &keeping(&id));
        sleep(Duration::from_millis(1_700));
        drop((second, third));
        sentinel_from_successor(broker, &unique("will"), &topic);
        assert_eq!(watcher.take_publish().text(), "sentinel");
    });
}

/// User Properties of the Will keep their order; the other Will Properties come with it too.
#[test]
fn mqtt_3_1_3_10_will_properties_are_forwarded_in_order() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let pairs = [("b", "1"), ("a", "2"), ("b", "1"), ("", "")];
        let user: Vec<u8> = pairs.iter().flat_map(|(n, v)| prop::user(n, v)).collect();
        let all = [
            prop::byte(prop::PAYLOAD_FORMAT_INDICATOR, 1),
            message_expiry_s(100),
            prop::text(prop::CONTENT_TYPE, "text/plain"),
            prop::text(prop::RESPONSE_TOPIC, "re/ply"),
            prop::text(prop::CORRELATION_DATA, b"\0\xff"),
            user,
        ];
        let will = Will::new(&topic, "x").qos(1).properties(all.concat());
        Raw::connect(broker, &Connect::v5(unique("will")).will(will)).vanish();
        let got = watcher.take_publish().properties;
        assert_eq!(got.user(), pairs);
        assert_eq!(got.number(prop::PAYLOAD_FORMAT_INDICATOR), Some(1));
        assert_eq!(got.text(prop::CONTENT_TYPE).as_deref(), Some("text/plain"));
        assert_eq!(got.text(prop::RESPONSE_TOPIC).as_deref(), Some("re/ply"));
        assert_eq!(got.bytes(prop::CORRELATION_DATA), Some(&b"\0\xff"[..]));
        let left_s = got.number(prop::MESSAGE_EXPIRY_INTERVAL);
        assert!(
            left_s.is_some_and(|s| (90..=100).contains(&s)),
            "{left_s:?}"
        );
        assert_eq!(got.number(prop::WILL_DELAY_INTERVAL), None);
    });
}

/// The Will Topic is a UTF-8 Encoded String.
#[test]
fn mqtt_3_1_3_11_will_topic_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            let connect = Connect::v5(unique("will")).will(Will::new(bad, "x"));
            refuses(broker, &connect.encode(), &[MALFORMED]);
        }
        for bad in ["", "a/#", "a/+/b"] {
            let connect = Connect::v5(unique("will")).will(Will::new(bad, "x"));
            refuses(
                broker,
                &connect.encode(),
                &[MALFORMED, PROTOCOL_ERROR, 0x90],
            );
        }
    });
}

/// DISCONNECT with Reason Code 0 discards the Will, delayed or not.
#[test]
fn mqtt_3_14_4_3_normal_disconnection_discards_the_will() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let id = unique("will");
        for bytes in [disconnect(), vec![0xe0, 1, 0], disconnect_v5(0, &[])] {
            for delay_s in [0, 1] {
                let mut client = Raw::connect(broker, &with_will(&id, 1, &topic, "never", delay_s));
                client.send(&bytes);
                client.expect_closed_quietly();
            }
        }
        sleep(Duration::from_millis(1_700));
        sentinel_from_successor(broker, &id, &topic);
        assert_eq!(watcher.take_publish().text(), "sentinel");
    });
}

// ---- the delay -------------------------------------------------------------------------------

/// Section 3.1.3.2.2: the Will is published when its delay has passed, not before.
#[test]
fn section_3_1_3_2_2_will_after_its_delay() {
    on_each(|broker| {
        let (id, topic) = (unique("will"), unique("will"));
        let mut watcher = subscriber(broker, &topic, 1);
        let client = Raw::connect(broker, &with_will(&id, 60, &topic, "late", 1));
        let vanished = Instant::now();
        client.vanish();
        assert_eq!(watcher.take_publish().text(), "late");
        let after = vanished.elapsed();
        assert!(after > Duration::from_millis(900), "after {after:?}");
        assert!(has_session(broker, &id), "the session goes on");
    });
}

/// Section 3.1.3.2.2: the Will is published when the session ends, if that is before its delay has
/// passed.
#[test]
fn section_3_1_3_2_2_will_at_the_end_of_the_session() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        // The session ends with the connection.
        Raw::connect(
            broker,
            &with_will(&unique("will"), 0, &topic, "no session", 600),
        )
        .vanish();
        assert_eq!(watcher.take_publish().text(), "no session");
        // It ends a second later.
        let client = Raw::connect(
            broker,
            &with_will(&unique("will"), 1, &topic, "expired", 600),
        );
        let vanished = Instant::now();
        client.vanish();
        assert_eq!(watcher.take_publish().text(), "expired");
        let after = vanished.elapsed();
        assert!(after > Duration::from_millis(900), "after {after:?}");
        // It is ended by DISCONNECT with a Session Expiry Interval of 0.
        let mut client = Raw::connect(
            broker,
            &with_will(&unique("will"), 600, &topic, "0x04", 600),
        );
        client.send(&disconnect_v5(0x04, &session_expiry_s(0)));
        client.expect_closed();
        assert_eq!(watcher.take_publish().text(), "0x04");
        // It is ended by a new one: after the connection was lost, and while it stands.
        let id = unique("will");
        Raw::connect(broker, &with_will(&id, 600, &topic, "clean start", 600)).vanish();
        Raw::v5(broker, &id).disconnect();
        assert_eq!(watcher.take_publish().text(), "clean start");
        let mut old = Raw::connect(broker, &with_will(&id, 600, &topic, "clean takeover", 600));
        Raw::v5(broker, &id).disconnect();
        old.expect_closed();
        assert_eq!(watcher.take_publish().text(), "clean takeover");
    });
}

/// Section 3.14.2.1: DISCONNECT with 0x04 asks for the Will, whose delay counts as after any end.
#[test]
fn section_3_14_2_1_disconnect_with_will_and_delay() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let mut client = Raw::connect(broker, &with_will(&unique("will"), 60, &topic, "late", 1));
        client.send(&disconnect_v5(0x04, &[]));
        let left = Instant::now();
        client.expect_closed();
        assert_eq!(watcher.take_publish().text(), "late");
        let after = left.elapsed();
        assert!(after > Duration::from_millis(900), "after {after:?}");
    });
}

/// Section 3.1.4: a takeover ends the old connection, so a Will without delay is published, even if
/// the session goes on.
#[test]
fn section_3_1_4_takeover_publishes_a_will_without_delay() {
    on_each(|broker| {
        let (id, topic) = (unique("will"), unique("will"));
        let mut watcher = subscriber(broker, &topic, 1);
        let mut old = Raw::connect(broker, &with_will(&id, 60, &topic, "taken over", 0));
        let (_new, connack) = Raw::session(broker, &keeping(&id));
        assert!(connack.session_present);
        old.expect_closed();
        assert_eq!(watcher.take_publish().text(), "taken over");
    });
}

/// Section 3.1.3.2.4: the Message Expiry Interval of a Will counts from its publication.
#[test]
fn section_3_1_3_2_4_expiry_counts_from_publication() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let properties = [will_delay_s(3), message_expiry_s(2)].concat();
        let will = Will::new(&topic, "x").qos(1).properties(properties);
        Raw::connect(broker, &keeping(&unique("will")).will(will)).vanish();
        let got = watcher.take_publish();
        let left_s = got.properties.number(prop::MESSAGE_EXPIRY_INTERVAL);
        assert!(left_s.is_some_and(|s| (1..=2).contains(&s)), "{left_s:?}");
    });
}

/// Section 3.1.2.5: a Will counts as published by its client: No Local keeps it from the client's
/// own session, and those who subscribe later than its CONNECT get it.
#[test]
fn section_3_1_2_5_will_is_a_message_of_its_client() {
    on_each(|broker| {
        let (id, topic) = (unique("will"), unique("will"));
        let mut client = Raw::connect(broker, &with_will(&id, 600, &topic, "mine", 0));
        client.subscribe(&[(&topic, 1 | NO_LOCAL)]);
        let mut watcher = subscriber(broker, &topic, 1);
        client.vanish();
        assert_eq!(watcher.take_publish().text(), "mine");
        let mut client = Raw::connect(broker, &keeping(&id));
        nothing_else(&mut client, &mut watcher, &topic, 1);
    });
}

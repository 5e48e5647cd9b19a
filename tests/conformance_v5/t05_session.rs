//! Sections 3.1.2.4, 3.1.2.11.2, 3.14.2.2.2 and 4.1: sessions, their start and their end.
//!
//! Every statement of these sections is tested.

use std::thread::sleep;
use std::time::Duration;

use crate::common::*;
use crate::support::*;

/// After this time, a session that was to be kept for a second is gone.
const OVER_A_SECOND: Duration = Duration::from_millis(2_200);

/// With Clean Start 1, the session that was is discarded, with all that belongs to it.
#[test]
fn mqtt_3_1_2_4_clean_start_discards_the_session() {
    on_each(|broker| {
        let (id, topic) = (unique("clean"), unique("clean"));
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 2)]);
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 1, "in flight");
        client.next_publish();
        client.send(&Publish::v5(unique("clean"), "x").qos(2, 7).encode());
        client.expect_ack(PUBREC);
        client.vanish();
        publisher.publish(&topic, 1, "queued");
        let (mut client, connack) = Raw::session(broker, &keeping(&id).clean(true));
        assert!(!connack.session_present);
        // No subscription, no message, no identifier of an exchange in which it was the receiver.
        client.expect_nothing_before_barrier();
        assert_eq!(
            publish_reason(&mut publisher, Publish::v5(&topic, "x"), 1),
            0x10
        );
        client.send(&ack(PUBREL, 7));
        assert_eq!(client.expect_ack(PUBCOMP).reason, 0x92);
        client.vanish();
        // And none comes back with the session after the next.
        let (mut client, connack) = Raw::session(broker, &keeping(&id));
        assert!(connack.session_present);
        client.expect_nothing_before_barrier();
    });
}

/// With Clean Start 0 and a session, communication goes on from its state.
#[test]
fn mqtt_3_1_2_5_session_is_resumed() {
    on_each(|broker| {
        let (id, topic) = (unique("resume"), unique("resume"));
        let mut client = Raw::connect(broker, &keeping(&id));
        subscribe_properties(&mut client, &subscription_id(9), &[(&topic, 1)]);
        client.disconnect();
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 2, "queued");
        let (mut client, connack) = Raw::session(broker, &keeping(&id));
        assert!(connack.session_present);
        let queued = client.take_publish();
        assert_eq!(
            (queued.text().as_str(), queued.qos, queued.dup),
            ("queued", 1, false)
        );
        assert_eq!(
            queued.properties.numbers(prop::SUBSCRIPTION_IDENTIFIER),
            [9]
        );
        publisher.publish(&topic, 0, "live");
        let live = client.take_publish();
        assert_eq!((live.text().as_str(), live.qos), ("live", 0));
        assert_eq!(live.properties.numbers(prop::SUBSCRIPTION_IDENTIFIER), [9]);
    });
}

/// With Clean Start 0 and no session, a new one is made.
#[test]
fn mqtt_3_1_2_6_session_is_created() {
    on_each(|broker| {
        let (id, topic) = (unique("create"), unique("create"));
        let (mut client, connack) = Raw::session(broker, &keeping(&id));
        assert!(!connack.session_present);
        client.subscribe(&[(&topic, 1)]);
        client.publish(&topic, 1, "works");
        assert_eq!(client.take_publish().text(), "works");
        client.disconnect();
        assert!(has_session(broker, &id));
    });
}

/// With a Session Expiry Interval, the session state is stored after the connection, however that
/// ended.
#[test]
fn mqtt_3_1_2_23_session_is_stored() {
    on_each(|broker| {
        let (id, topic) = (unique("stored"), unique("stored"));
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        let mut publisher = self::client(broker);
        for round in 0..3 {
            publisher.publish(&topic, 1, [round]);
            let (mut client, connack) = Raw::session(broker, &keeping(&id));
            assert!(connack.session_present);
            assert_eq!(client.take_publish().payload, [round]);
            client.barrier();
            match round {
                0 => client.vanish(),
                1 => client.send(&[0xf1, 0x00]),
                _ => client.send(&disconnect_v5(0x80, &[])),
            }
        }
        assert!(has_session(broker, &id));
    });
}

/// The session state is not discarded while the connection is open, whatever the Session Expiry
/// Interval.
#[test]
fn mqtt_4_1_0_1_session_lives_while_connected() {
    on_each(|broker| {
        let (id, topic) = (unique("lives"), unique("lives"));
        let mut client = Raw::connect(broker, &keeping_s(&id, 1));
        client.subscribe(&[(&topic, 1)]);
        let mut without = subscriber(broker, &topic, 1);
        sleep(OVER_A_SECOND);
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 1, "x");
        for client in [&mut client, &mut without] {
            assert_eq!(client.take_publish().text(), "x");
            client.barrier();
        }
        // Nor after it was resumed in time.
        client.vanish();
        let (mut client, connack) = Raw::session(broker, &keeping_s(&id, 1));
        assert!(connack.session_present);
        sleep(OVER_A_SECOND);
        client.barrier();
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

/// The session state is discarded when the Session Expiry Interval has passed after the connection.
#[test]
fn mqtt_4_1_0_2_session_expires() {
    on_each(|broker| {
        let (id, topic) = (unique("expires"), unique("expires"));
        let mut client = Raw::connect(broker, &keeping_s(&id, 1));
        client.subscribe(&[(&topic, 1)]);
        client.vanish();
        let mut publisher = self::client(broker);
        assert_eq!(
            publish_reason(&mut publisher, Publish::v5(&topic, "kept"), 1),
            0
        );
        sleep(OVER_A_SECOND);
        assert_eq!(
            publish_reason(&mut publisher, Publish::v5(&topic, "x"), 1),
            0x10
        );
        let (mut client, connack) = Raw::session(broker, &keeping(&id));
        assert!(!connack.session_present);
        client.expect_nothing_before_barrier();
    });
}

/// Section 3.1.2.11.2: without a Session Expiry Interval, or with 0, the session ends with its
/// connection.
#[test]
fn section_3_1_2_11_2_session_ends_with_its_connection() {
    on_each(|broker| {
        for connect in [
            Connect::v5(unique("ends")),
            Connect::v5(unique("ends")).clean(false),
            keeping_s(&unique("ends"), 0),
        ] {
            let topic = unique("ends");
            let mut client = Raw::connect(broker, &connect);
            client.subscribe(&[(&topic, 1)]);
            client.disconnect();
            let reason = publish_reason(&mut self::client(broker), Publish::v5(&topic, "x"), 1);
            assert_eq!(reason, 0x10, "the subscription is gone");
            let (_, connack) = Raw::session(broker, &connect.clean(false));
            assert!(!connack.session_present);
        }
    });
}

/// Section 3.1.2.11.2: 0xFFFFFFFF means for ever, and so does not overflow to any time.
#[test]
fn section_3_1_2_11_2_session_that_does_not_expire() {
    on_each(|broker| {
        for seconds in [u32::MAX, u32::MAX - 1] {
            let id = unique("ever");
            let (client, connack) = Raw::session(broker, &keeping_s(&id, seconds));
            let said = connack.properties.number(prop::SESSION_EXPIRY_INTERVAL);
            assert!(said.is_none_or(|said| said > 600), "{said:?}");
            client.disconnect();
            sleep(OVER_A_SECOND);
            assert!(has_session(broker, &id));
        }
    });
}

/// Section 3.1.2.11.2: each CONNECT sets the Session Expiry Interval anew.
#[test]
fn section_3_1_2_11_2_connect_changes_the_expiry() {
    on_each(|broker| {
        let (shorter, longer) = (unique("change"), unique("change"));
        Raw::connect(broker, &keeping(&shorter)).disconnect();
        Raw::connect(broker, &keeping_s(&shorter, 1)).disconnect();
        Raw::connect(broker, &keeping_s(&longer, 1)).disconnect();
        Raw::connect(broker, &keeping(&longer)).disconnect();
        sleep(OVER_A_SECOND);
        assert!(!has_session(broker, &shorter));
        assert!(has_session(broker, &longer));
    });
}

/// Section 3.14.2.2.2: DISCONNECT may change the Session Expiry Interval, to less or to more.
#[test]
fn section_3_14_2_2_2_disconnect_changes_the_expiry() {
    on_each(|broker| {
        let leave = |id: &str, before_s, after_s| {
            let mut client = Raw::connect(broker, &keeping_s(id, before_s));
            client.send(&disconnect_v5(0, &session_expiry_s(after_s)));
            client.expect_closed_quietly();
        };
        let (now, soon, late, ever) = (
            unique("leave"),
            unique("leave"),
            unique("leave"),
            unique("leave"),
        );
        leave(&now, 600, 0);
        assert!(!has_session(broker, &now));
        leave(&soon, 600, 1);
        leave(&late, 1, 600);
        leave(&ever, 1, u32::MAX);
        sleep(OVER_A_SECOND);
        assert!(!has_session(broker, &soon));
        assert!(has_session(broker, &late));
        assert!(has_session(broker, &ever));
    });
}

/// Section 3.14.2.2.2: DISCONNECT cannot keep a session whose CONNECT said 0: a protocol error.
#[test]
fn section_3_14_2_2_2_disconnect_cannot_keep_a_session() {
    on_each(|broker| {
        let id = unique("leave");
        let mut client = Raw::v5(broker, &id);
        client.send(&disconnect_v5(0, &session_expiry_s(60)));
        client.expect_closed_with(&[PROTOCOL_ERROR]);
        assert!(!has_session(broker, &id));
        // 0 is what it was.
        let mut client = Raw::v5(broker, &id);
        client.send(&disconnect_v5(0, &session_expiry_s(0)));
        client.expect_closed_quietly();
    });
}

/// Section 4.1: messages of QoS 1 and 2 wait for a session without connection, in order; whether
/// those of QoS 0 do is left to the server.
#[test]
fn section_4_1_messages_wait_for_the_session() {
    on_each(|broker| {
        let (id, topic) = (unique("waits"), unique("waits"));
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 2)]);
        client.disconnect();
        let mut publisher = self::client(broker);
        let wanted: Vec<(u8, String)> = (0..60).map(|n| (1 + n % 2, n.to_string())).collect();
        for (qos, text) in &wanted {
            publisher.publish(&topic, *qos, text);
        }
        let mut client = Raw::connect(broker, &keeping(&id));
        let got = client.receive(60);
        let got: Vec<(u8, String)> = got.iter().map(|m| (m.qos, m.text())).collect();
        assert_eq!(got, wanted);
        nothing_else(&mut client, &mut publisher, &topic, 2);
    });
}

/// Section 4.1: a session can be resumed by another version of the protocol.
#[test]
fn section_4_1_session_across_versions() {
    on_each(|broker| {
        let (id, topic) = (unique("across"), unique("across"));
        let mut client = Raw::connect(broker, &Connect::v311(&id).clean(false));
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        let mut publisher = self::client(broker);
        let message = Publish::v5(&topic, "one").properties(prop::user("a", "b"));
        publisher.publish_packet(message.clone(), 1);
        let (mut client, connack) = Raw::session(broker, &keeping(&id));
        assert!(connack.session_present);
        let got = client.take_publish();
        assert_eq!(
            (got.text().as_str(), got.properties.user()),
            ("one", vec![("a", "b")])
        );
        client.disconnect();
        publisher.publish_packet(message, 1);
        let (mut client, connack) = Raw::session(broker, &Connect::v311(&id).clean(false));
        assert!(connack.session_present);
        assert_eq!(client.take_publish().text(), "one");
    });
}

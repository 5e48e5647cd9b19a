//! Sections 3.1.2.4, 3.2.2.2, 4.1 and 4.4: the Session.

use crate::common::*;
use crate::{nothing_else, retained, subscriber};

/// A CONNECT that keeps its session.
fn persistent(client_id: &str) -> Connect {
    Connect::v311(client_id).clean(false)
}

/// Without Clean Session, the session goes on where it was; if there is none, one is made.
#[test]
fn mqtt_3_1_2_4_session_is_resumed() {
    on_each(|broker| {
        let (topic, connect) = (unique("res"), persistent(&unique("res")));
        let (mut client, connack) = Raw::session(broker, &connect);
        assert!(!connack.session_present);
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        let mut publisher = Raw::v311(broker, &unique("res"));
        for round in 0..3 {
            let (mut client, connack) = Raw::session(broker, &connect);
            assert!(connack.session_present, "round {round}");
            publisher.publish(&topic, 1, [round]);
            assert_eq!(client.take_publish().payload, [round]);
            if round == 1 {
                client.barrier();
                client.vanish();
            } else {
                client.disconnect();
            }
        }
    });
}

/// While the client is away, messages of QoS 1 and 2 that match its subscriptions are stored.
#[test]
fn mqtt_3_1_2_5_messages_are_stored_while_away() {
    on_each(|broker| {
        let (topic, connect) = (unique("away"), persistent(&unique("away")));
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 2)]);
        client.disconnect();
        let mut publisher = Raw::v311(broker, &unique("away"));
        for number in 0..20 {
            publisher.publish(&topic, 1 + number % 2, [number]);
        }
        let mut client = Raw::connect(broker, &connect);
        let mut got = Vec::new();
        for _ in 0..20 {
            let message = client.take_publish();
            assert_eq!(
                (message.qos, message.dup),
                (1 + message.payload[0] % 2, false)
            );
            got.push(message.payload[0]);
        }
        // The order holds for each QoS; between them the standard says nothing.
        for qos in 0..2 {
            let of_qos: Vec<u8> = got.iter().copied().filter(|n| n % 2 == qos).collect();
            assert!(of_qos.is_sorted() && of_qos.len() == 10, "{got:?}");
        }
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

/// Clean Session discards the session before, and leaves none behind.
#[test]
fn mqtt_3_1_2_6_clean_session_discards() {
    on_each(|broker| {
        let (topic, id) = (unique("clean"), unique("clean"));
        let mut publisher = Raw::v311(broker, &unique("clean"));
        let mut client = Raw::connect(broker, &persistent(&id));
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        publisher.publish(&topic, 1, "stored");
        // It discards what was there.
        let (mut client, connack) = Raw::session(broker, &Connect::v311(&id));
        assert!(!connack.session_present);
        publisher.publish(&topic, 1, "no longer subscribed");
        client.expect_nothing_before_barrier();
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        // It leaves nothing behind.
        let (mut client, connack) = Raw::session(broker, &persistent(&id));
        assert!(!connack.session_present);
        publisher.publish(&topic, 1, "not subscribed");
        client.subscribe(&[(&topic, 1)]);
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

/// Retained messages are no part of a session: they stay when it ends.
#[test]
fn mqtt_3_1_2_7_retained_messages_outlive_the_session() {
    on_each(|broker| {
        let (topic, id) = (unique("ret"), unique("ret"));
        let mut client = Raw::connect(broker, &persistent(&id));
        client.retain(&topic, 1, "kept");
        client.disconnect();
        Raw::v311(broker, &id).disconnect();
        let message = retained(broker, &topic, &topic).expect("a retained message");
        assert_eq!(message.text(), "kept");
        Raw::v311(broker, &id).retain(&topic, 1, "of a clean session");
        let message = retained(broker, &topic, &topic).expect("a retained message");
        assert_eq!(message.text(), "of a clean session");
    });
}

/// The client identifier, byte for byte, identifies the session.
#[test]
fn mqtt_3_1_3_2_client_identifier_identifies_the_session() {
    on_each(|broker| {
        let id = unique("Ident");
        let topic = unique("id");
        let mut client = Raw::connect(broker, &persistent(&id));
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        for other in [
            id.to_lowercase(),
            format!("{id}x"),
            id[..id.len() - 1].to_owned(),
        ] {
            let (client, connack) = Raw::session(broker, &persistent(&other));
            assert!(!connack.session_present, "{other} is not {id}");
            client.disconnect();
            Raw::v311(broker, &other).disconnect();
        }
        assert!(Raw::session(broker, &persistent(&id)).1.session_present);
    });
}

/// A connection with the identifier of a connected client disconnects that one.
#[test]
fn mqtt_3_1_4_2_takeover_disconnects_the_existing_client() {
    on_each(|broker| {
        for clean in [true, false] {
            let connect = Connect::v311(unique("take")).clean(clean);
            let mut last = Raw::connect(broker, &connect);
            for _ in 0..10 {
                let mut next = Raw::connect(broker, &connect);
                last.expect_closed_quietly();
                next.expect_nothing_before_barrier();
                last = next;
            }
        }
    });
}

/// Clean Session is honoured when a connected client is taken over, too.
#[test]
fn mqtt_3_1_4_3_clean_session_processing_at_takeover() {
    on_each(|broker| {
        let (topic, id) = (unique("take"), unique("take"));
        let mut publisher = Raw::v311(broker, &unique("take"));
        let mut first = Raw::connect(broker, &persistent(&id));
        first.subscribe(&[(&topic, 1)]);
        let (mut second, connack) = Raw::session(broker, &persistent(&id));
        assert!(connack.session_present);
        first.expect_closed();
        publisher.publish(&topic, 1, "kept");
        assert_eq!(second.take_publish().text(), "kept");
        let (mut third, connack) = Raw::session(broker, &Connect::v311(&id));
        assert!(!connack.session_present);
        second.expect_closed();
        publisher.publish(&topic, 1, "dropped");
        third.subscribe(&[(&topic, 1)]);
        nothing_else(&mut third, &mut publisher, &topic, 1);
        // Taking over a clean session without Clean Session finds none.
        let (_fourth, connack) = Raw::session(broker, &persistent(&id));
        assert!(!connack.session_present);
        third.expect_closed();
    });
}

/// With Clean Session, Session Present is 0.
#[test]
fn mqtt_3_2_2_1_session_present_0_with_clean_session() {
    on_each(|broker| {
        let id = unique("sp");
        Raw::connect(broker, &persistent(&id)).disconnect();
        let mut client = Raw::open(broker);
        client.send(&Connect::v311(&id).encode());
        client.expect(&[0x20, 0x02, 0x00, 0x00]);
    });
}

/// Without Clean Session, Session Present is 1 if there is a session.
#[test]
fn mqtt_3_2_2_2_session_present_1_with_a_stored_session() {
    on_each(|broker| {
        let id = unique("sp");
        Raw::connect(broker, &persistent(&id)).disconnect();
        let mut client = Raw::open(broker);
        client.send(&persistent(&id).encode());
        client.expect(&[0x20, 0x02, 0x01, 0x00]);
    });
}

/// Without Clean Session, Session Present is 0 if there is no session.
#[test]
fn mqtt_3_2_2_3_session_present_0_without_a_stored_session() {
    on_each(|broker| {
        let mut client = Raw::open(broker);
        client.send(&persistent(&unique("sp")).encode());
        client.expect(&[0x20, 0x02, 0x00, 0x00]);
    });
}

/// Session state is stored for the whole session: subscriptions, what waits, and both halves of
/// unfinished exchanges survive several connections.
#[test]
fn mqtt_4_1_0_1_session_state_is_stored() {
    on_each(|broker| {
        let (topic, connect) = (unique("state"), persistent(&unique("state")));
        let mut publisher = Raw::v311(broker, &unique("state"));
        let mut client = Raw::connect(broker, &connect);
        assert_eq!(client.subscribe(&[(&topic, 2)]), [2]);
        // An incoming QoS 2 message without its PUBREL.
        let elsewhere = unique("state");
        let mut watcher = subscriber(broker, &elsewhere, 2);
        client.send(&Publish::v311(&elsewhere, "in").qos(2, 77).encode());
        client.expect(&ack(PUBREC, 77));
        // An outgoing one without its PUBREC, and another without its PUBCOMP.
        publisher.publish(&topic, 2, "published");
        let published = client.next_publish();
        publisher.publish(&topic, 2, "released");
        let released = client.next_publish();
        client.send(&ack(PUBREC, released.id));
        client.expect(&ack(PUBREL, released.id));
        client.vanish();
        publisher.publish(&topic, 1, "queued");

        for _ in 0..3 {
            let (mut client, connack) = Raw::session(broker, &connect);
            assert!(connack.session_present);
            let again = client.wait_for_ack(PUBREL);
            assert_eq!(again.id, released.id);
            let first = client.next_publish();
            assert_eq!(
                (first.text().as_str(), first.id, first.dup),
                ("published", published.id, true)
            );
            assert_eq!(client.next_publish().text(), "queued");
            // The retransmission of the incoming one is not delivered twice.
            client.send(&Publish::v311(&elsewhere, "in").qos(2, 77).dup().encode());
            client.expect(&ack(PUBREC, 77));
            client.vanish();
        }
        // Once it is released, it has been delivered once. Whether that happens at its PUBLISH or
        // at its PUBREL is the server's choice (section 4.3.3).
        let mut client = Raw::connect(broker, &connect);
        client.wait_for_ack(PUBREL);
        client.send(&ack(PUBREL, 77));
        assert_eq!(client.wait_for_ack(PUBCOMP).id, 77);
        assert_eq!(watcher.take_publish().text(), "in");
        nothing_else(&mut watcher, &mut publisher, &elsewhere, 2);
    });
}

/// A session lasts at least as long as its connection: a clean one keeps its state while the client
/// stays, also when nothing happens.
#[test]
fn mqtt_4_1_0_2_session_lasts_while_connected() {
    on_each(|broker| {
        let topic = unique("last");
        let mut client = subscriber(broker, &topic, 1);
        client.expect_silence(1_000);
        Raw::v311(broker, &unique("last")).publish(&topic, 1, "still subscribed");
        assert_eq!(client.take_publish().text(), "still subscribed");
    });
}

/// After a reconnect without Clean Session, unacknowledged PUBLISH packets and PUBREL packets are
/// sent again with their identifiers.
#[test]
fn mqtt_4_4_0_1_unacknowledged_packets_are_sent_again() {
    on_each(|broker| {
        let (topic, connect) = (unique("again"), persistent(&unique("again")));
        let mut publisher = Raw::v311(broker, &unique("again"));
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 2)]);
        let mut sent = Vec::new();
        for number in 0..3 {
            publisher.publish(&topic, 1, [number]);
            sent.push(client.next_publish());
        }
        publisher.publish(&topic, 2, [3]);
        let exactly_once = client.next_publish();
        client.send(&ack(PUBREC, exactly_once.id));
        client.expect(&ack(PUBREL, exactly_once.id));
        client.send(&ack(PUBACK, sent[1].id));
        client.barrier();
        client.vanish();

        let mut client = Raw::connect(broker, &connect);
        assert_eq!(client.wait_for_ack(PUBREL).id, exactly_once.id);
        for original in [&sent[0], &sent[2]] {
            let again = client.next_publish();
            assert_eq!((again.id, &again.payload), (original.id, &original.payload));
            assert!(again.dup);
            client.acknowledge(&again);
        }
        client.send(&ack(PUBCOMP, exactly_once.id));
        nothing_else(&mut client, &mut publisher, &topic, 2);
        client.disconnect();
        // What has been acknowledged is not sent again.
        let mut client = Raw::connect(broker, &connect);
        nothing_else(&mut client, &mut publisher, &topic, 2);
    });
}

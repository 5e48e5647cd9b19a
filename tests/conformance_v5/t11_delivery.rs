//! Sections 4.3 to 4.6: the QoS protocols, redelivery, order.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-4.3.3-9] | this server sends no PUBREC with 0x80 or more: it has no reason to refuse a message alone |
//! | [MQTT-4.5.0-2] | binds clients: acknowledge every PUBLISH |
//! | [MQTT-4.6.0-2], [MQTT-4.6.0-3], [MQTT-4.6.0-4] | bind clients: the order of their acknowledgements |

use std::thread::sleep;
use std::time::Duration;

use crate::common::*;
use crate::support::*;

/// Packet Identifier not found.
const NOT_FOUND: u8 = 0x92;

/// A client whose session is kept, with a subscription.
#[track_caller]
fn keeper(broker: &Broker, connect: &Connect, topic: &str, qos: u8) -> Raw {
    let mut client = Raw::connect(broker, connect);
    assert_eq!(client.subscribe(&[(topic, qos)]), [qos]);
    client
}

// ---- QoS 0 and 1 -----------------------------------------------------------------------------

/// With QoS 0, the sender sends a PUBLISH with QoS 0 and DUP 0, once.
#[test]
fn mqtt_4_3_1_1_qos_0_is_sent_once() {
    on_each(|broker| {
        let topic = unique("q0");
        let mut client = keeper(broker, &keeping(&unique("q0")), &topic, 0);
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 0, "x");
        client.expect(&Publish::v5(&topic, "x").encode());
        nothing_else(&mut client, &mut publisher, &topic, 0);
    });
}

/// With QoS 1, each new message gets an unused identifier.
#[test]
fn mqtt_4_3_2_1_qos_1_unused_identifier() {
    on_each(|broker| {
        let topic = unique("q1");
        let mut client = subscriber(broker, &topic, 1);
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 1, "a");
        publisher.publish(&topic, 1, "b");
        let (a, b) = (client.next_publish(), client.next_publish());
        assert_ne!(a.id, b.id);
        client.acknowledge(&b);
        publisher.publish(&topic, 1, "c");
        assert_ne!(client.next_publish().id, a.id);
    });
}

/// With QoS 1, the PUBLISH has this identifier, QoS 1 and DUP 0.
#[test]
fn mqtt_4_3_2_2_qos_1_publish() {
    on_each(|broker| {
        let topic = unique("q1");
        let mut client = subscriber(broker, &topic, 1);
        self::client(broker).publish(&topic, 1, "x");
        let got = client.expect_kind(PUBLISH);
        let id = got.publish(Version::V5).id;
        assert_eq!(got.bytes(), Publish::v5(&topic, "x").qos(1, id).encode());
    });
}

/// With QoS 1, the PUBLISH is unacknowledged until its PUBACK.
#[test]
fn mqtt_4_3_2_3_qos_1_unacknowledged_until_puback() {
    on_each(|broker| {
        let (connect, topic) = (keeping(&unique("q1")), unique("q1"));
        let mut client = keeper(broker, &connect, &topic, 1);
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 1, "a");
        publisher.publish(&topic, 1, "b");
        let (a, b) = (client.next_publish(), client.next_publish());
        client.acknowledge(&b);
        client.barrier();
        client.vanish();
        let mut client = Raw::connect(broker, &connect);
        let again = client.take_publish();
        assert_eq!((again.id, again.text()), (a.id, "a".to_owned()));
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

/// With QoS 1, the receiver answers with PUBACK and the identifier, and owns the message.
#[test]
fn mqtt_4_3_2_4_qos_1_puback() {
    on_each(|broker| {
        let (connect, topic) = (keeping(&unique("q1")), unique("q1"));
        keeper(broker, &connect, &topic, 1).disconnect();
        let mut publisher = self::client(broker);
        publisher.send(&Publish::v5(&topic, "owned").qos(1, 42).encode());
        assert_eq!(publisher.expect_ack(PUBACK).id, 42);
        publisher.vanish();
        assert_eq!(
            Raw::connect(broker, &connect).take_publish().text(),
            "owned"
        );
    });
}

/// With QoS 1, after PUBACK the same identifier is a new message, whatever its DUP flag.
#[test]
fn mqtt_4_3_2_5_qos_1_identifier_is_free_after_puback() {
    on_each(|broker| {
        let topic = unique("q1");
        let mut client = subscriber(broker, &topic, 1);
        let mut publisher = self::client(broker);
        for (text, dup) in [
            ("first", false),
            ("second", false),
            ("third", true),
            ("third", true),
        ] {
            let mut message = Publish::v5(&topic, text).qos(1, 42);
            message.dup = dup;
            publisher.send(&message.encode());
            assert_eq!(publisher.expect_ack(PUBACK).id, 42);
            assert_eq!(client.take_publish().text(), text);
        }
    });
}

// ---- QoS 2, the server as sender -------------------------------------------------------------

/// With QoS 2, each new message gets an unused identifier; one is in use until PUBCOMP.
#[test]
fn mqtt_4_3_3_1_qos_2_unused_identifier() {
    on_each(|broker| {
        let topic = unique("q2");
        let mut client = subscriber(broker, &topic, 2);
        let mut publisher = self::client(broker);
        let mut in_use = Vec::new();
        for number in 0..6 {
            publisher.publish(&topic, 2, "x");
            let message = client.next_publish();
            assert!(!in_use.contains(&message.id));
            in_use.push(message.id);
            if number % 2 == 0 {
                client.send(&ack(PUBREC, message.id));
                client.expect_ack(PUBREL);
            }
        }
    });
}

/// With QoS 2, the PUBLISH has this identifier, QoS 2 and DUP 0.
#[test]
fn mqtt_4_3_3_2_qos_2_publish() {
    on_each(|broker| {
        let topic = unique("q2");
        let mut client = subscriber(broker, &topic, 2);
        self::client(broker).publish(&topic, 2, "x");
        let got = client.expect_kind(PUBLISH);
        let id = got.publish(Version::V5).id;
        assert_eq!(got.bytes(), Publish::v5(&topic, "x").qos(2, id).encode());
    });
}

/// With QoS 2, the PUBLISH is unacknowledged until its PUBREC.
#[test]
fn mqtt_4_3_3_3_qos_2_unacknowledged_until_pubrec() {
    on_each(|broker| {
        let (connect, topic) = (keeping(&unique("q2")), unique("q2"));
        let mut client = keeper(broker, &connect, &topic, 2);
        self::client(broker).publish(&topic, 2, "x");
        let first = client.next_publish();
        client.vanish();
        let mut client = Raw::connect(broker, &connect);
        let again = client.take_publish();
        assert_eq!((again.id, again.dup, again.qos), (first.id, true, 2));
        client.barrier();
        client.vanish();
        Raw::connect(broker, &connect).expect_nothing_before_barrier();
    });
}

/// With QoS 2, a PUBREC below 0x80 is answered with PUBREL and its identifier, each time.
#[test]
fn mqtt_4_3_3_4_qos_2_pubrel() {
    on_each(|broker| {
        let topic = unique("q2");
        let mut client = subscriber(broker, &topic, 2);
        self::client(broker).publish(&topic, 2, "x");
        let id = client.next_publish().id;
        for pubrec in [
            ack(PUBREC, id),
            ack_v5(PUBREC, id, 0x10, &[]),
            ack(PUBREC, id),
        ] {
            client.send(&pubrec);
            let pubrel = client.expect_ack(PUBREL);
            assert_eq!((pubrel.id, pubrel.reason), (id, 0));
        }
        client.send(&ack(PUBCOMP, id));
        client.expect_nothing_before_barrier();
    });
}

/// With QoS 2, the PUBREL is unacknowledged until its PUBCOMP.
#[test]
fn mqtt_4_3_3_5_qos_2_pubrel_unacknowledged_until_pubcomp() {
    on_each(|broker| {
        let (connect, topic) = (keeping(&unique("q2")), unique("q2"));
        let mut client = keeper(broker, &connect, &topic, 2);
        self::client(broker).publish(&topic, 2, "x");
        let id = client.next_publish().id;
        client.send(&ack(PUBREC, id));
        for _ in 0..3 {
            assert_eq!(client.expect_ack(PUBREL).id, id);
            client.vanish();
            client = Raw::connect(broker, &connect);
        }
        assert_eq!(client.expect_ack(PUBREL).id, id);
        client.send(&ack(PUBCOMP, id));
        client.barrier();
        client.vanish();
        Raw::connect(broker, &connect).expect_nothing_before_barrier();
    });
}

/// With QoS 2, the PUBLISH is not sent again once its PUBREL was sent.
#[test]
fn mqtt_4_3_3_6_qos_2_no_publish_after_pubrel() {
    on_each(|broker| {
        let (connect, topic) = (keeping(&unique("q2")), unique("q2"));
        let mut client = keeper(broker, &connect, &topic, 2);
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 2, "released");
        publisher.publish(&topic, 2, "not released");
        let (released, other) = (client.next_publish(), client.next_publish());
        client.send(&ack(PUBREC, released.id));
        client.expect_ack(PUBREL);
        client.vanish();
        let mut client = Raw::connect(broker, &connect);
        // In the order in which they were sent first, or PUBREL later: both are known.
        let packets = [client.read_packet(), client.read_packet()];
        let publish = packets.iter().find(|packet| packet.kind() == PUBLISH);
        let publish = publish
            .expect("the message that was not released")
            .publish(Version::V5);
        assert_eq!(
            (publish.id, publish.dup, publish.text()),
            (other.id, true, other.text())
        );
        let pubrel = packets.iter().find(|packet| packet.kind() == PUBREL);
        assert_eq!(pubrel.expect("a PUBREL").ack(Version::V5).id, released.id);
        client.send(&ack(PUBCOMP, released.id));
        client.acknowledge(&publish);
        nothing_else(&mut client, &mut publisher, &topic, 2);
    });
}

/// With QoS 2, a message that was sent does not expire any more: it is sent again after its Message
/// Expiry Interval.
#[test]
fn mqtt_4_3_3_7_qos_2_no_expiry_once_sent() {
    on_each(|broker| {
        sent_again_after_expiry(broker, 2);
    });
}

/// Section 4.4: nor does a message of QoS 1 that was sent, as all that is unacknowledged must be
/// sent again.
#[test]
fn section_4_4_qos_1_no_expiry_once_sent() {
    on_each(|broker| {
        sent_again_after_expiry(broker, 1);
    });
}

/// A message expires between its first delivery and the reconnection.
#[track_caller]
fn sent_again_after_expiry(broker: &Broker, qos: u8) {
    let (connect, topic) = (keeping(&unique("sent")), unique("sent"));
    let mut client = keeper(broker, &connect, &topic, qos);
    let message = Publish::v5(&topic, "x").properties(message_expiry_s(2));
    self::client(broker).publish_packet(message, qos);
    let first = client.next_publish();
    client.vanish();
    sleep(Duration::from_millis(3_100));
    let mut client = Raw::connect(broker, &connect);
    let again = client.take_publish();
    assert_eq!(
        (again.id, again.dup, again.text()),
        (first.id, true, first.text())
    );
}

// ---- QoS 2, the server as receiver -----------------------------------------------------------

/// With QoS 2, the receiver answers with PUBREC and the identifier, and owns the message.
#[test]
fn mqtt_4_3_3_8_qos_2_pubrec() {
    on_each(|broker| {
        let (connect, topic) = (keeping(&unique("q2")), unique("q2"));
        keeper(broker, &connect, &topic, 2).disconnect();
        let sender = keeping(&unique("q2"));
        let mut publisher = Raw::connect(broker, &sender);
        publisher.send(&Publish::v5(&topic, "owned").qos(2, 42).encode());
        assert_eq!(publisher.expect_ack(PUBREC).id, 42);
        publisher.send(&ack(PUBREL, 42));
        assert_eq!(publisher.expect_ack(PUBCOMP).id, 42);
        publisher.vanish();
        let got = Raw::connect(broker, &connect).take_publish();
        assert_eq!((got.text().as_str(), got.qos), ("owned", 2));
    });
}

/// With QoS 2, until PUBREL each PUBLISH with the identifier is acknowledged, and delivered once;
/// also when the sender reconnects in between.
#[test]
fn mqtt_4_3_3_10_qos_2_no_duplicates() {
    on_each(|broker| {
        let topic = unique("q2");
        let mut client = subscriber(broker, &topic, 2);
        let sender = keeping(&unique("q2"));
        let mut publisher = Raw::connect(broker, &sender);
        let message = Publish::v5(&topic, "once").qos(2, 42);
        publisher.send(&message.encode());
        assert_eq!(publisher.expect_ack(PUBREC).id, 42);
        for _ in 0..3 {
            publisher.send(&message.clone().dup().encode());
            assert_eq!(publisher.expect_ack(PUBREC).id, 42);
        }
        publisher.vanish();
        let mut publisher = Raw::connect(broker, &sender);
        publisher.send(&message.dup().encode());
        assert_eq!(publisher.expect_ack(PUBREC).id, 42);
        publisher.send(&ack(PUBREL, 42));
        assert_eq!(publisher.expect_ack(PUBCOMP).reason, 0);
        assert_eq!(client.take_publish().text(), "once");
        nothing_else(&mut client, &mut publisher, &topic, 2);
    });
}

/// With QoS 2, a PUBREL is answered with PUBCOMP and its identifier, also after a reconnection.
#[test]
fn mqtt_4_3_3_11_qos_2_pubcomp() {
    on_each(|broker| {
        let sender = keeping(&unique("q2"));
        let mut publisher = Raw::connect(broker, &sender);
        for id in [1, 2] {
            publisher.send(&Publish::v5(unique("q2"), "x").qos(2, id).encode());
            publisher.expect_ack(PUBREC);
        }
        publisher.send(&ack(PUBREL, 1));
        let pubcomp = publisher.expect_ack(PUBCOMP);
        assert_eq!((pubcomp.id, pubcomp.reason), (1, 0));
        publisher.vanish();
        let mut publisher = Raw::connect(broker, &sender);
        publisher.send(&ack(PUBREL, 2));
        let pubcomp = publisher.expect_ack(PUBCOMP);
        assert_eq!((pubcomp.id, pubcomp.reason), (2, 0));
        // The PUBCOMP was lost: the client releases again, and must get an end.
        publisher.send(&ack(PUBREL, 2));
        let pubcomp = publisher.expect_ack(PUBCOMP);
        assert_eq!((pubcomp.id, pubcomp.reason), (2, NOT_FOUND));
    });
}

/// With QoS 2, after PUBCOMP the same identifier is a new message.
#[test]
fn mqtt_4_3_3_12_qos_2_identifier_is_free_after_pubcomp() {
    on_each(|broker| {
        let topic = unique("q2");
        let mut client = subscriber(broker, &topic, 2);
        let mut publisher = self::client(broker);
        for text in ["first", "second", "third"] {
            publisher.send(&Publish::v5(&topic, text).qos(2, 42).encode());
            assert_eq!(publisher.expect_ack(PUBREC).id, 42);
            publisher.send(&ack(PUBREL, 42));
            assert_eq!(publisher.expect_ack(PUBCOMP).id, 42);
            assert_eq!(client.take_publish().text(), text);
        }
    });
}

/// With QoS 2, the acknowledgements go on also if the message expired in between.
#[test]
fn mqtt_4_3_3_13_qos_2_acknowledgements_after_expiry() {
    on_each(|broker| {
        let (connect, topic) = (keeping(&unique("q2")), unique("q2"));
        keeper(broker, &connect, &topic, 2).disconnect();
        let mut publisher = self::client(broker);
        let message = Publish::v5(&topic, "expires")
            .properties(message_expiry_s(1))
            .qos(2, 5);
        publisher.send(&message.encode());
        publisher.expect_ack(PUBREC);
        sleep(Duration::from_millis(2_100));
        publisher.send(&message.dup().encode());
        assert!(publisher.expect_ack(PUBREC).reason < 0x80);
        publisher.send(&ack(PUBREL, 5));
        let pubcomp = publisher.expect_ack(PUBCOMP);
        assert_eq!((pubcomp.id, pubcomp.reason), (5, 0));
        Raw::connect(broker, &connect).expect_nothing_before_barrier();
    });
}

// ---- redelivery and order --------------------------------------------------------------------

/// After a reconnection, all that is unacknowledged is sent again, once, with its identifiers and in
/// its order; on a live connection nothing is.
#[test]
fn mqtt_4_4_0_1_redelivery() {
    on_each(|broker| {
        let (connect, topic) = (keeping(&unique("again")), unique("again"));
        let mut client = keeper(broker, &connect, &topic, 2);
        let mut publisher = self::client(broker);
        for number in 0..8 {
            publisher.publish(&topic, 1 + number % 2, number.to_string());
        }
        let first: Vec<Received> = (0..8).map(|_| client.next_publish()).collect();
        // Two are acknowledged, which is no reason to send others again.
        client.acknowledge(&first[2]);
        client.acknowledge(&first[5]);
        sleep(Duration::from_millis(1_500));
        client.expect_nothing_before_barrier();
        client.vanish();
        for _ in 0..2 {
            let mut client = Raw::connect(broker, &connect);
            for message in first
                .iter()
                .filter(|message| !["2", "5"].contains(&&*message.text()))
            {
                let again = client.next_publish();
                assert!(again.dup);
                let of = |m: &Received| (m.id, m.text(), m.qos);
                assert_eq!(of(&again), of(message));
            }
            client.expect_nothing_before_barrier();
            client.vanish();
        }
        // A takeover is a reconnection too.
        let mut old = Raw::connect(broker, &connect);
        let mut new = Raw::connect(broker, &connect);
        old.expect_closed();
        assert_eq!(new.receive(6).len(), 6);
        nothing_else(&mut new, &mut publisher, &topic, 2);
    });
}

/// A PUBACK or PUBREC with 0x80 or more ends the exchange: the message is not sent again, and its
/// identifier is free.
#[test]
fn mqtt_4_4_0_2_refused_messages_are_not_sent_again() {
    on_each(|broker| {
        let id = unique("refuse");
        let properties = [session_expiry_s(600), receive_maximum(1)].concat();
        let connect = Connect::v5(&id).clean(false).properties(properties);
        let topic = unique("refuse");
        let mut client = keeper(broker, &connect, &topic, 2);
        let mut publisher = self::client(broker);
        for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
            publisher.publish(&topic, qos, "refused");
            publisher.publish(&topic, qos, "next");
            let message = client.next_publish();
            client.send(&ack_v5(kind, message.id, 0x83, &[]));
            // No PUBREL, and the window is open again.
            assert_eq!(client.take_publish().text(), "next");
            client.barrier();
            client.vanish();
            client = Raw::connect(broker, &connect);
            client.expect_nothing_before_barrier();
        }
    });
}

/// A message the server owns is added to the sessions of all clients with matching subscriptions,
/// connected or not.
#[test]
fn mqtt_4_5_0_1_added_to_all_matching_sessions() {
    on_each(|broker| {
        let topic = unique("all");
        let online: Vec<Raw> = (0..6).map(|_| subscriber(broker, &topic, 1)).collect();
        let offline: Vec<Connect> = (0..6).map(|_| keeping(&unique("all"))).collect();
        for connect in &offline {
            keeper(broker, connect, &topic, 1).disconnect();
        }
        self::client(broker).publish(&topic, 1, "x");
        let resumed = offline.iter().map(|connect| Raw::connect(broker, connect));
        for mut client in online.into_iter().chain(resumed) {
            assert_eq!(client.take_publish().text(), "x");
        }
    });
}

/// What is sent again keeps its order, and comes before what was not sent yet.
#[test]
fn mqtt_4_6_0_1_order_of_redelivery() {
    on_each(|broker| {
        let id = unique("order");
        let properties = [session_expiry_s(600), receive_maximum(5)].concat();
        let connect = Connect::v5(&id).clean(false).properties(properties);
        let topic = unique("order");
        let mut client = keeper(broker, &connect, &topic, 1);
        let mut publisher = self::client(broker);
        let text = |number: u32| number.to_string();
        (0..20).for_each(|number| publisher.publish(&topic, 1, text(number)));
        let first: Vec<Received> = (0..5).map(|_| client.next_publish()).collect();
        client.acknowledge(&first[1]);
        client.next_publish();
        client.vanish();
        let mut client = Raw::connect(broker, &connect);
        let got: Vec<String> = client.receive(19).iter().map(Received::text).collect();
        let wanted: Vec<String> = (0..20).filter(|n| *n != 1).map(text).collect();
        assert_eq!(got, wanted);
    });
}

/// Messages of one client, with the same topic and QoS, come in the order in which they were
/// received.
#[test]
fn mqtt_4_6_0_5_order_of_one_publisher() {
    const COUNT: u32 = 300;
    on_each(|broker| {
        for qos in 0..3 {
            let topic = unique("order");
            let mut clients: Vec<Raw> = (0..3).map(|_| subscriber(broker, &topic, qos)).collect();
            let messages: Vec<Publish> = (0..COUNT)
                .map(|number| Publish::v5(&topic, number.to_be_bytes()))
                .collect();
            // The window is what any server allows, if it says nothing else.
            self::client(broker).publish_all(&messages, qos, 20);
            for client in &mut clients {
                let got = client.receive(COUNT as usize);
                let got: Vec<Vec<u8>> = got.into_iter().map(|message| message.payload).collect();
                assert!(
                    got.iter()
                        .zip(0..COUNT)
                        .all(|(payload, n)| *payload == n.to_be_bytes())
                );
            }
        }
    });
}

/// Every topic is ordered by default: also those that come through wildcards, or after they waited.
#[test]
fn mqtt_4_6_0_6_every_topic_is_ordered() {
    on_each(|broker| {
        let (connect, prefix) = (keeping(&unique("order")), unique("order"));
        let mut client = keeper(broker, &connect, &format!("{prefix}/#"), 1);
        let mut publisher = self::client(broker);
        let text = |number: u32| number.to_string();
        let mut publish = |numbers: std::ops::Range<u32>| {
            for number in numbers {
                publisher.publish(format!("{prefix}/{}", number % 7), 1, text(number));
            }
        };
        publish(0..50);
        let mut got = client.receive(50);
        client.barrier();
        client.disconnect();
        publish(50..100);
        let mut client = Raw::connect(broker, &connect);
        publish(100..150);
        got.extend(client.receive(100));
        for topic in 0..7 {
            let of_topic = got
                .iter()
                .filter(|m| m.topic == format!("{prefix}/{topic}"));
            let got: Vec<String> = of_topic.map(Received::text).collect();
            let wanted: Vec<String> = (0..150).filter(|n| n % 7 == topic).map(text).collect();
            assert_eq!(got, wanted);
        }
    });
}

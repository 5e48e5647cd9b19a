//! Sections 4.3, 4.5 and 4.6: the QoS protocols and the order of messages.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-4.5.0-2] | binds clients: acknowledge every PUBLISH |
//! | [MQTT-4.6.0-2], [MQTT-4.6.0-3] | bind clients: order of PUBACK and PUBREC |

use crate::common::*;
use crate::{nothing_else, subscriber};

/// With QoS 0, the sender sends a PUBLISH with QoS 0 and DUP 0, once.
#[test]
fn mqtt_4_3_1_1_qos_0_is_sent_once() {
    on_each(|broker| {
        let topic = unique("q0");
        let mut client = subscriber(broker, &topic, 0);
        let mut publisher = Raw::v311(broker, &unique("q0"));
        publisher.publish(&topic, 0, "x");
        client.expect(&Publish::v311(&topic, "x").encode());
        nothing_else(&mut client, &mut publisher, &topic, 0);
    });
}

/// With QoS 1, the sender uses an unused identifier and DUP 0, and holds the message as
/// unacknowledged until its PUBACK.
#[test]
fn mqtt_4_3_2_1_qos_1_sender() {
    on_each(|broker| {
        let (topic, connect) = (unique("q1"), Connect::v311(unique("q1")).clean(false));
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 1)]);
        let mut publisher = Raw::v311(broker, &unique("q1"));
        publisher.publish(&topic, 1, "a");
        publisher.publish(&topic, 1, "b");
        let [a, b] = [client.next_publish(), client.next_publish()];
        assert!(a.id != b.id && !a.dup && !b.dup);
        client.send(&ack(PUBACK, b.id));
        client.barrier();
        client.vanish();
        let mut client = Raw::connect(broker, &connect);
        let again = client.next_publish();
        assert_eq!((again.id, again.text()), (a.id, "a".to_owned()));
        client.acknowledge(&again);
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

/// With QoS 1, the receiver answers with PUBACK; after that the same identifier is a new message,
/// whatever its DUP flag.
#[test]
fn mqtt_4_3_2_2_qos_1_receiver() {
    on_each(|broker| {
        let topic = unique("q1");
        let mut client = subscriber(broker, &topic, 1);
        let mut publisher = Raw::v311(broker, &unique("q1"));
        for (text, dup) in [("first", false), ("second", false), ("third", true)] {
            let mut message = Publish::v311(&topic, text).qos(1, 42);
            message.dup = dup;
            publisher.send(&message.encode());
            publisher.expect(&ack(PUBACK, 42));
            assert_eq!(client.take_publish().text(), text);
        }
    });
}

/// With QoS 2, the sender uses an unused identifier and DUP 0, answers PUBREC with PUBREL, holds
/// each as unacknowledged, and does not send the PUBLISH again after the PUBREL.
#[test]
fn mqtt_4_3_3_1_qos_2_sender() {
    on_each(|broker| {
        let (topic, connect) = (unique("q2"), Connect::v311(unique("q2")).clean(false));
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 2)]);
        let mut publisher = Raw::v311(broker, &unique("q2"));
        publisher.publish(&topic, 2, "a");
        let first = client.next_publish();
        assert!(!first.dup && first.qos == 2);
        client.vanish();
        // No PUBREC yet: the PUBLISH comes again.
        let mut client = Raw::connect(broker, &connect);
        let again = client.next_publish();
        assert_eq!(
            (again.id, again.dup, again.text()),
            (first.id, true, "a".to_owned())
        );
        client.send(&ack(PUBREC, first.id));
        client.expect(&ack(PUBREL, first.id));
        client.vanish();
        // PUBREL has been sent: it comes again, and the PUBLISH does not.
        let mut client = Raw::connect(broker, &connect);
        client.expect(&ack(PUBREL, first.id));
        // A PUBREC sent again, as after a loss, gets the PUBREL again.
        client.send(&ack(PUBREC, first.id));
        client.expect(&ack(PUBREL, first.id));
        client.send(&ack(PUBCOMP, first.id));
        nothing_else(&mut client, &mut publisher, &topic, 2);
        client.barrier();
        client.vanish();
        let mut client = Raw::connect(broker, &connect);
        nothing_else(&mut client, &mut publisher, &topic, 2);
    });
}

/// With QoS 2, the receiver answers each PUBLISH with PUBREC but delivers once until PUBREL, which
/// it answers with PUBCOMP; after that the identifier is a new message.
#[test]
fn mqtt_4_3_3_2_qos_2_receiver() {
    on_each(|broker| {
        let topic = unique("q2");
        let mut client = subscriber(broker, &topic, 2);
        let mut publisher = Raw::v311(broker, &unique("q2"));
        for round in ["first", "second"] {
            let message = Publish::v311(&topic, round).qos(2, 42);
            publisher.send(&message.encode());
            publisher.expect(&ack(PUBREC, 42));
            for _ in 0..3 {
                publisher.send(&message.clone().dup().encode());
                publisher.expect(&ack(PUBREC, 42));
            }
            publisher.send(&ack(PUBREL, 42));
            publisher.expect(&ack(PUBCOMP, 42));
            // A PUBREL sent again, as after a loss, gets a PUBCOMP again.
            publisher.send(&ack(PUBREL, 42));
            publisher.expect(&ack(PUBCOMP, 42));
            assert_eq!(client.take_publish().text(), round);
            nothing_else(&mut client, &mut publisher, &topic, 2);
        }
    });
}

/// A message the server takes is added to the session of every client with a matching
/// subscription, connected or not.
#[test]
fn mqtt_4_5_0_1_every_matching_session_gets_the_message() {
    on_each(|broker| {
        let prefix = unique("all");
        let topic = format!("{prefix}/a");
        let filters = [topic.clone(), format!("{prefix}/+"), format!("{prefix}/#")];
        let connects: Vec<Connect> = (0..12)
            .map(|_| Connect::v311(unique("all")).clean(false))
            .collect();
        let mut connected = Vec::new();
        for (index, connect) in connects.iter().enumerate() {
            let mut client = Raw::connect(broker, connect);
            assert_eq!(client.subscribe(&[(&filters[index % 3], 1)]), [1]);
            if index % 2 == 0 {
                connected.push(client);
            } else {
                client.disconnect();
            }
        }
        let mut publisher = Raw::v311(broker, &unique("all"));
        publisher.publish(&topic, 1, "for all");
        for client in &mut connected {
            assert_eq!(client.take_publish().text(), "for all");
        }
        for connect in connects.iter().skip(1).step_by(2) {
            let mut client = Raw::connect(broker, connect);
            assert_eq!(client.take_publish().text(), "for all");
        }
    });
}

/// PUBLISH packets that are sent again come in their original order.
#[test]
fn mqtt_4_6_0_1_resent_in_the_original_order() {
    on_each(|broker| {
        let (topic, connect) = (unique("order"), Connect::v311(unique("order")).clean(false));
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 2)]);
        let mut publisher = Raw::v311(broker, &unique("order"));
        let mut sent = Vec::new();
        for number in 0..10 {
            publisher.publish(&topic, 1 + number % 2, [number]);
            let message = client.next_publish();
            sent.push((message.id, message.payload));
        }
        // Acknowledging some, out of order, makes no difference to the others.
        client.send(&ack(PUBACK, sent[6].0));
        client.send(&ack(PUBACK, sent[2].0));
        client.barrier();
        for gone in [6, 2] {
            sent.remove(gone);
        }
        client.vanish();
        for _ in 0..2 {
            let mut client = Raw::connect(broker, &connect);
            let mut again = Vec::new();
            for _ in &sent {
                let message = client.next_publish();
                assert!(message.dup);
                again.push((message.id, message.payload));
            }
            assert_eq!(again, sent);
            client.vanish();
        }
    });
}

/// PUBREL packets come in the order of the PUBREC packets. [MQTT-4.6.0-6] makes this hold for a
/// server that delivers.
#[test]
fn mqtt_4_6_0_4_pubrel_in_the_order_of_pubrec() {
    on_each(|broker| {
        let topic = unique("order");
        let mut client = subscriber(broker, &topic, 2);
        let mut publisher = Raw::v311(broker, &unique("order"));
        let ids: Vec<u16> = (0..10)
            .map(|number| {
                publisher.publish(&topic, 2, [number]);
                client.next_publish().id
            })
            .collect();
        let order = [3, 1, 2, 0, 9, 8, 5, 7, 6, 4].map(|index: usize| ids[index]);
        for id in order {
            client.send(&ack(PUBREC, id));
        }
        for id in order {
            client.expect(&ack(PUBREL, id));
        }
    });
}

/// Every topic is ordered by default: messages of one publisher arrive in the order they were
/// sent, at connected clients and at those that come back.
#[test]
fn mqtt_4_6_0_5_topics_are_ordered_by_default() {
    on_each(|broker| {
        let prefix = unique("order");
        let filter = format!("{prefix}/+");
        let connect = Connect::v311(unique("order")).clean(false);
        let mut away = Raw::connect(broker, &connect);
        away.subscribe(&[(&filter, 1)]);
        away.disconnect();
        let mut client = subscriber(broker, &filter, 1);
        let mut publisher = Raw::v311(broker, &unique("order"));
        for number in 0..50u8 {
            let topic = format!("{prefix}/{}", number % 5);
            publisher.send(
                &Publish::v311(topic, [number])
                    .qos(1, 1 + u16::from(number))
                    .encode(),
            );
        }
        let mut away = Raw::connect(broker, &connect);
        for reader in [&mut client, &mut away] {
            let got: Vec<u8> = (0..50).map(|_| reader.take_publish().payload[0]).collect();
            for topic in 0..5 {
                let of_topic: Vec<u8> = got.iter().copied().filter(|n| n % 5 == topic).collect();
                assert!(of_topic.len() == 10 && of_topic.is_sorted(), "{got:?}");
            }
        }
    });
}

/// For one topic and QoS, messages are sent to each consumer in the order they came from any one
/// client.
#[test]
fn mqtt_4_6_0_6_order_for_each_publisher_and_qos() {
    on_each(|broker| {
        let topic = unique("order");
        let mut clients: Vec<Raw> = (0..4).map(|_| subscriber(broker, &topic, 2)).collect();
        let mut publishers: Vec<Raw> = (0..3)
            .map(|_| Raw::v311(broker, &unique("order")))
            .collect();
        // Three publishers take turns; each sends 30 messages of each QoS without waiting.
        for number in 0..30u8 {
            for (who, publisher) in (0u8..).zip(&mut publishers) {
                for qos in 0..3 {
                    let id = 1 + u16::from(number) * 3 + u16::from(qos);
                    let message = Publish::v311(&topic, [who, qos, number]).qos(qos, id);
                    publisher.send(&message.encode());
                }
            }
        }
        for publisher in &mut publishers {
            let mut completed = 0;
            while completed < 30 {
                let packet = publisher.read_packet();
                match packet.kind() {
                    PUBREC => publisher.send(&ack(PUBREL, packet.ack(Version::V311).id)),
                    PUBCOMP => completed += 1,
                    other => assert_eq!(other, PUBACK),
                }
            }
        }
        for client in &mut clients {
            let mut next = [[0u8; 3]; 3];
            for _ in 0..3 * 3 * 30 {
                let message = client.take_publish();
                let [who, qos, number] = message.payload[..] else {
                    panic!("{message:?}")
                };
                let expected = &mut next[usize::from(who)][usize::from(qos)];
                assert_eq!((message.qos, number), (qos, *expected), "publisher {who}");
                *expected += 1;
            }
        }
    });
}

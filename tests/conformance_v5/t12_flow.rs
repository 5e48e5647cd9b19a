//! Sections 3.3.4, 4.9 and 3.1.2.11: Receive Maximum both ways, the client's Maximum Packet Size.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.3.4-8] | binds clients: what they must not delay |

use std::collections::VecDeque;

use crate::common::*;
use crate::support::*;

/// The server's Receive Maximum.
fn of_server(connack: &Connack) -> u16 {
    let maximum = connack
        .properties
        .number(prop::RECEIVE_MAXIMUM)
        .unwrap_or(65_535);
    u16::try_from(maximum).expect("two bytes")
}

/// The client's Receive Maximum is never exceeded: PUBACK, PUBCOMP, or a PUBREC that refuses opens
/// the window again, by one, and nothing else does.
#[track_caller]
fn window_is_kept(broker: &Broker, qos: u8, window: u16) {
    let topic = unique("window");
    let mut client = client_with(broker, receive_maximum(window));
    client.subscribe(&[(&topic, qos)]);
    let mut publisher = self::client(broker);
    let count = 5 * usize::from(window);
    for number in 0..count {
        publisher.publish(&topic, qos, number.to_string());
    }
    let mut unacknowledged = VecDeque::new();
    for number in 0..count {
        if unacknowledged.len() == usize::from(window) {
            // Nothing comes while the window is full. The barrier proves it for the core that
            // serves this client, the silence for what other cores may have sent it.
            client.expect_silence(if number == count - 1 { 200 } else { 20 });
            client.expect_nothing_before_barrier();
            let id = unacknowledged.pop_front().expect("the window is full");
            match (qos, number % 3) {
                (1, _) => client.send(&ack(PUBACK, id)),
                (_, 0) => client.send(&ack_v5(PUBREC, id, 0x80, &[])),
                _ => {
                    client.send(&ack(PUBREC, id));
                    assert_eq!(client.expect_ack(PUBREL).id, id);
                    // PUBREC alone does not open the window.
                    client.expect_nothing_before_barrier();
                    client.send(&ack(PUBCOMP, id));
                }
            }
        }
        let message = client.next_publish();
        assert_eq!(message.text(), number.to_string());
        unacknowledged.push_back(message.id);
    }
}

/// A client that has more than the server's Receive Maximum of messages under way is disconnected:
/// 0x93. One that has exactly as many is not.
#[test]
fn mqtt_3_3_4_7_client_exceeds_the_receive_maximum() {
    on_each(|broker| {
        let (mut client, connack) = Raw::session(broker, &Connect::v5(unique("exceed")));
        let maximum = of_server(&connack);
        if maximum == u16::MAX {
            eprintln!("skipped: there are no more packet identifiers than the Receive Maximum");
            return;
        }
        let topic = unique("exceed");
        let message = |id| Publish::v5(&topic, "x").qos(2, id).encode();
        let full: Vec<u8> = (1..=maximum).flat_map(message).collect();
        client.send(&full);
        for id in 1..=maximum {
            assert_eq!(client.expect_ack(PUBREC).id, id);
        }
        // To send one again is not to send one more; QoS 1 comes and goes below the maximum.
        client.send(&Publish::v5(&topic, "x").qos(2, 1).dup().encode());
        assert_eq!(client.expect_ack(PUBREC).id, 1);
        client.send(&ack(PUBREL, maximum));
        client.expect_ack(PUBCOMP);
        for _ in 0..3 {
            client.send(&Publish::v5(&topic, "x").qos(1, 65_000).encode());
            client.expect_ack(PUBACK);
        }
        client.send(&message(maximum));
        assert_eq!(client.expect_ack(PUBREC).id, maximum);
        client.send(&message(maximum + 1));
        client.expect_closed_with(&[0x93]);
    });
}

/// The server has at most the client's Receive Maximum of messages under way.
#[test]
fn mqtt_3_3_4_9_server_keeps_to_the_receive_maximum() {
    on_each(|broker| {
        for (qos, window) in [(1, 1), (2, 1), (1, 5), (2, 6)] {
            window_is_kept(broker, qos, window);
        }
    });
}

/// A client whose window is full, with more waiting for it.
#[track_caller]
fn full_window(broker: &Broker, topic: &str) -> Raw {
    let mut client = client_with(broker, receive_maximum(2));
    client.subscribe(&[(topic, 2)]);
    let mut publisher = self::client(broker);
    for number in 0..6 {
        publisher.publish(topic, 1 + number % 2, "x");
    }
    client.next_publish();
    client.next_publish();
    client
}

/// A full window delays PUBLISH packets of QoS 1 and 2, and nothing else.
#[test]
fn mqtt_3_3_4_10_other_packets_are_not_delayed() {
    on_each(|broker| {
        let topic = unique("full");
        let mut client = full_window(broker, &topic);
        // None of these answers waits for the two messages that are not acknowledged.
        client.barrier();
        assert_eq!(client.subscribe(&[(unique("full"), 1)]), [1]);
        assert_eq!(client.unsubscribe(&[unique("full")]), [0x11]);
        client.send(&Publish::v5(unique("full"), "x").qos(1, 900).encode());
        assert_eq!(client.expect_ack(PUBACK).id, 900);
        client.send(&Publish::v5(unique("full"), "x").qos(2, 901).encode());
        assert_eq!(client.expect_ack(PUBREC).id, 901);
        client.send(&ack(PUBREL, 901));
        assert_eq!(client.expect_ack(PUBCOMP).id, 901);
    });
}

/// The initial quota is not zero and not above the Receive Maximum; each connection sets it anew.
#[test]
fn mqtt_4_9_0_1_initial_send_quota() {
    on_each(|broker| {
        let (id, topic) = (unique("quota"), unique("quota"));
        let connect = |window| {
            let properties = [session_expiry_s(600), receive_maximum(window)].concat();
            Connect::v5(&id).clean(false).properties(properties)
        };
        let mut client = Raw::connect(broker, &connect(4));
        client.subscribe(&[(&topic, 1)]);
        let mut publisher = self::client(broker);
        for number in 0..10 {
            publisher.publish(&topic, 1, number.to_string());
        }
        // Also a smaller window than what is unacknowledged is kept when it is sent again.
        for window in [4, 2, 1, 3] {
            client.vanish();
            client = Raw::connect(broker, &connect(window));
            for number in 0..window {
                assert_eq!(client.next_publish().text(), number.to_string());
            }
            client.expect_silence(150);
        }
        client.vanish();
        let mut client = Raw::connect(broker, &connect(4));
        let got: Vec<String> = client.receive(10).iter().map(Received::text).collect();
        assert_eq!(
            got,
            (0..10).map(|number| number.to_string()).collect::<Vec<_>>()
        );
    });
}

/// At quota zero no more PUBLISH of QoS 1 or 2 is sent, but QoS 0 is.
#[test]
fn mqtt_4_9_0_2_quota_zero() {
    on_each(|broker| {
        let (topic, other) = (unique("quota"), unique("quota"));
        let mut client = full_window(broker, &topic);
        client.subscribe(&[(&other, 0)]);
        self::client(broker).publish(&other, 0, "QoS 0");
        assert_eq!(client.next_publish().text(), "QoS 0");
        client.expect_silence(200);
        // Retained messages of QoS 1 wait too.
        let kept = unique("quota");
        self::client(broker).retain(&kept, 1, "retained");
        client.subscribe(&[(&kept, 1)]);
        client.expect_silence(200);
    });
}

/// At quota zero all other packets are processed and answered.
#[test]
fn mqtt_4_9_0_3_other_packets_at_quota_zero() {
    on_each(|broker| {
        let topic = unique("quota");
        let mut watcher = subscriber(broker, &topic, 2);
        let own = unique("quota");
        let mut client = full_window(broker, &own);
        for qos in 0..3 {
            client.publish(&topic, qos, "x");
            assert_eq!(watcher.take_publish().qos, qos);
        }
        assert_eq!(client.unsubscribe(&[&own]), [0]);
        client.disconnect();
    });
}

// ---- Maximum Packet Size of the client -------------------------------------------------------

/// No packet is larger than the client's Maximum Packet Size; one that is exactly as large is sent.
#[test]
fn mqtt_3_1_2_24_maximum_packet_size_of_the_client() {
    on_each(|broker| {
        let topic = unique("size");
        for qos in 0..3 {
            let fits = Publish::v5(&topic, vec![b'x'; 60])
                .qos(qos, 1)
                .encode()
                .len();
            let mut client = client_with(broker, packet_size_max(fits as u32));
            client.subscribe(&[(&topic, qos)]);
            let mut publisher = self::client(broker);
            for length in [61, 60, 62, 5_000, 59] {
                publisher.publish(&topic, qos, vec![b'x'; length]);
            }
            for length in [60, 59] {
                let got = client.expect_kind(PUBLISH);
                assert!(got.bytes().len() <= fits);
                let message = got.publish(Version::V5);
                assert_eq!(message.payload.len(), length);
                client.acknowledge(&message);
            }
            client.expect_nothing_before_barrier();
        }
    });
}

/// A message that is too large for the client counts as sent: it holds no place in the window, is
/// not sent later, others get it, and its publisher notices nothing.
#[test]
fn mqtt_3_1_2_25_too_large_counts_as_sent() {
    on_each(|broker| {
        let (id, topic) = (unique("size"), unique("size"));
        let small = [
            session_expiry_s(600),
            packet_size_max(200),
            receive_maximum(1),
        ]
        .concat();
        let small = Connect::v5(&id).clean(false).properties(small);
        let mut client = Raw::connect(broker, &small);
        client.subscribe(&[(&topic, 2)]);
        let mut other = subscriber(broker, &topic, 2);
        let mut publisher = self::client(broker);
        let large = vec![b'L'; 1_000];
        for qos in [1, 2, 1, 2, 0] {
            assert_ne!(
                publish_reason_of_any(&mut publisher, &topic, qos, &large),
                0x10
            );
            assert_eq!(other.take_publish().payload, large);
        }
        // The window of one is still open, on this connection and for what waited.
        publisher.publish(&topic, 1, "small");
        assert_eq!(client.take_publish().text(), "small");
        client.barrier();
        client.disconnect();
        publisher.publish(&topic, 1, &large);
        publisher.publish(&topic, 2, "small again");
        let mut client = Raw::connect(broker, &small);
        assert_eq!(client.take_publish().text(), "small again");
        client.barrier();
        client.disconnect();
        // With room for it now, it is not there any more.
        let mut client = Raw::connect(broker, &keeping(&id));
        client.expect_nothing_before_barrier();
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

/// As `publish_reason`, and 0 for QoS 0.
#[track_caller]
fn publish_reason_of_any(client: &mut Raw, topic: &str, qos: u8, payload: &[u8]) -> u8 {
    if qos == 0 {
        client.publish(topic, 0, payload);
        return 0;
    }
    publish_reason(client, Publish::v5(topic, payload), qos)
}

/// Section 3.1.2.11.4: a retained message and properties that are too large are not sent either.
#[test]
fn section_3_1_2_11_4_too_large_in_other_ways() {
    on_each(|broker| {
        let prefix = unique("size");
        let mut publisher = self::client(broker);
        publisher.retain(format!("{prefix}/large"), 1, vec![b'L'; 1_000]);
        publisher.retain(format!("{prefix}/small"), 1, "small");
        let mut client = client_with(broker, packet_size_max(200));
        client.subscribe(&[(format!("{prefix}/#"), 1)]);
        assert_eq!(client.take_publish().text(), "small");
        let long = prop::user("long", &"v".repeat(300));
        let message = Publish::v5(format!("{prefix}/live"), "x").properties(long);
        publisher.publish_packet(message, 1);
        nothing_else(&mut client, &mut publisher, &format!("{prefix}/live"), 1);
    });
}

/// Section 3.1.2.11.4: CONNACK is no exception: a client that has no room for it is not sent one.
#[test]
fn section_3_1_2_11_4_connack_fits() {
    on_each(|broker| {
        for limit in [1, 4, 5, 8, 12] {
            let mut client = Raw::open(broker);
            client.send_connect(&Connect::v5(unique("fits")).properties(packet_size_max(limit)));
            // What is sent at first is all: CONNACK, or nothing and the end.
            if let Ok(Some(packet)) = client.packet_within(ARRIVES) {
                let length = packet.bytes().len();
                assert!(
                    length <= limit as usize,
                    "{length} bytes for a limit of {limit}"
                );
            }
        }
    });
}

/// Section 4.9: acknowledgements and PINGRESP are not stuck behind data: they reach a client for
/// which much is waiting before it has acknowledged any of it.
#[test]
fn section_4_9_acknowledgements_pass_waiting_data() {
    const COUNT: usize = 2_000;
    on_each(|broker| {
        let topic = unique("behind");
        let mut client = client_with(broker, receive_maximum(20));
        client.subscribe(&[(&topic, 1)]);
        let large: Vec<Publish> = (0..COUNT)
            .map(|_| Publish::v5(&topic, vec![b'x'; 1_000]))
            .collect();
        self::client(broker).publish_all(&large, 1, 20);
        // Twenty messages are on their way; the rest waits for their acknowledgements.
        let own = Publish::v5(unique("behind"), "x");
        client.send(
            &[
                own.clone().qos(1, 1).encode(),
                own.qos(2, 2).encode(),
                pingreq(),
            ]
            .concat(),
        );
        assert_eq!(client.wait_for_ack(PUBACK).id, 1);
        assert_eq!(client.wait_for_ack(PUBREC).id, 2);
        client.wait_for(PINGRESP);
        assert_eq!(client.receive(COUNT).len(), COUNT);
    });
}

//! Section 3.2 and what CONNECT asks of the server (3.1.2.11): CONNACK, limits, information.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-3.2.2-4], [MQTT-3.2.2-5] | bind clients: what they do with Session Present |
//! | [MQTT-3.2.2-11], [MQTT-3.2.2-14], [MQTT-3.2.2-15] | bind clients; what this server does to those who do not is in `section_3_2_2_3_6` |
//! | [MQTT-3.2.2-20] | this server puts no User Property of its own into CONNACK; the size is checked by the test of [MQTT-3.2.2-19] |

use std::thread::sleep;
use std::time::Duration;

use crate::common::*;
use crate::support::*;

/// A CONNECT that every server must refuse, unless it knows this Authentication Method.
fn refusable(client_id: &str) -> Connect {
    let method = prop::text(prop::AUTHENTICATION_METHOD, "no such method");
    Connect::v5(client_id).clean(false).properties(method)
}

/// CONNACK comes before everything else, whatever waits for the session.
#[test]
fn mqtt_3_2_0_1_connack_comes_first() {
    on_each(|broker| {
        let (id, topic) = (unique("first"), unique("first"));
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 2)]);
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 1, "sent, not acknowledged");
        client.next_publish();
        client.vanish();
        publisher.publish(&topic, 2, "queued");
        let mut client = Raw::open(broker);
        client.version = Version::V5;
        client.send(&[keeping(&id).encode(), pingreq()].concat());
        assert_eq!(client.read_packet().kind(), CONNACK);
        client.wait_for(PINGRESP);
        assert_eq!(client.receive(2).len(), 2);
    });
}

/// A connection gets one CONNACK.
#[test]
fn mqtt_3_2_0_2_one_connack() {
    on_each(|broker| {
        let mut client = Raw::open(broker);
        let connect = Connect::v5(unique("one"));
        client.send_connect(&connect);
        client.read_connack();
        client.expect_nothing_before_barrier();
        // A second CONNECT does not get a second one.
        client.send(&connect.encode());
        let sent = client.closed_within(ARRIVES);
        assert!(
            sent.iter().all(|packet| packet.kind() == DISCONNECT),
            "{sent:02x?}"
        );
    });
}

/// The upper seven bits of the Connect Acknowledge Flags are 0.
#[test]
fn mqtt_3_2_2_1_connect_acknowledge_flags() {
    on_each(|broker| {
        let id = unique("flags");
        for wanted in [0, 1] {
            let mut client = Raw::open(broker);
            client.send_connect(&keeping(&id));
            assert_eq!(client.expect_kind(CONNACK).body[0], wanted);
            client.disconnect();
        }
        let mut client = Raw::open(broker);
        client.send_connect(&refusable(&id));
        assert_eq!(client.expect_kind(CONNACK).body[0], 0);
    });
}

/// With Clean Start 1, Session Present is 0.
#[test]
fn mqtt_3_2_2_2_session_present_after_clean_start() {
    on_each(|broker| {
        let id = unique("clean");
        Raw::connect(broker, &keeping(&id)).disconnect();
        let (client, connack) = Raw::session(broker, &keeping(&id).clean(true));
        assert!(!connack.session_present);
        client.disconnect();
        let (_, connack) = Raw::session(broker, &keeping(&id));
        assert!(connack.session_present, "the new session was to be kept");
    });
}

/// With Clean Start 0, Session Present tells whether there was a session.
#[test]
fn mqtt_3_2_2_3_session_present() {
    on_each(|broker| {
        let id = unique("present");
        for expected in [false, true, true] {
            let (client, connack) = Raw::session(broker, &keeping(&id));
            assert_eq!(connack.session_present, expected);
            client.vanish();
        }
    });
}

/// A CONNACK with another Reason Code than 0 has Session Present 0, even if there is a session.
#[test]
fn mqtt_3_2_2_6_no_session_present_in_a_refusal() {
    on_each(|broker| {
        let id = unique("refused");
        Raw::connect(broker, &keeping(&id)).disconnect();
        assert!(!refused(broker, &refusable(&id)).session_present);
        assert!(
            has_session(broker, &id),
            "a refusal must not end the session"
        );
    });
}

/// After a CONNACK with 0x80 or more, the server closes the connection.
#[test]
fn mqtt_3_2_2_7_closed_after_a_refusal() {
    on_each(|broker| {
        // `refused` demands that the connection is closed after CONNACK, without another packet.
        assert!(refused(broker, &refusable(&unique("refused"))).code >= 0x80);
    });
}

/// CONNACK has one of the Reason Codes that the standard lists for it.
#[test]
fn mqtt_3_2_2_8_reason_codes_of_connack() {
    on_each(|broker| {
        assert!([0x8c, 0x87].contains(&refused(broker, &refusable(&unique("code"))).code));
        let mut client = Raw::open(broker);
        client.send_connect(&Connect::v5(unique("code")).flip_flags(0x01));
        if let Ok(Some(packet)) = client.packet_within(ARRIVES) {
            assert_eq!(packet.connack(Version::V5).code, MALFORMED);
        }
    });
}

/// A server that supports QoS 2 does not send Maximum QoS; its value can only be 0 or 1.
#[test]
fn mqtt_3_2_2_9_maximum_qos() {
    on_each(|broker| {
        let (mut client, connack) = Raw::session(broker, &Connect::v5(unique("qos")));
        assert_eq!(connack.properties.number(prop::MAXIMUM_QOS), None);
        for qos in 0..3 {
            client.publish(unique("qos"), qos, "x");
        }
        client.barrier();
    });
}

/// SUBSCRIBE may ask for any QoS.
#[test]
fn mqtt_3_2_2_10_subscribe_with_any_qos() {
    on_each(|broker| {
        let (mut client, filter) = (client(broker), unique("qos"));
        for qos in 0..3 {
            assert_eq!(client.subscribe(&[(&filter, qos)]), [qos]);
        }
    });
}

/// An Assigned Client Identifier is one that no other session has.
#[test]
fn mqtt_3_2_2_16_assigned_client_identifiers_are_unused() {
    on_each(|broker| {
        let mut all = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let (client, connack) = Raw::session(broker, &keeping(""));
            assert!(!connack.session_present);
            let assigned = connack.properties.text(prop::ASSIGNED_CLIENT_IDENTIFIER);
            let assigned = assigned.expect("an Assigned Client Identifier");
            assert!(!assigned.is_empty());
            assert!(all.insert(assigned), "assigned twice");
            // The session stays, and with it the identifier.
            client.disconnect();
        }
        assert!(all.iter().all(|id| has_session(broker, id)));
        let (_client, connack) = Raw::session(broker, &Connect::v5(unique("given")));
        assert_eq!(
            connack.properties.bytes(prop::ASSIGNED_CLIENT_IDENTIFIER),
            None
        );
    });
}

/// A Reason String that would make CONNACK larger than the client's Maximum Packet Size is left out.
#[test]
fn mqtt_3_2_2_19_reason_string_of_connack_fits() {
    on_each(|broker| {
        for limit in [5, 8, 20] {
            let connect = refusable(&unique("fits"));
            let properties = [connect.properties.clone(), packet_size_max(limit)].concat();
            let mut client = Raw::open(broker);
            client.send_connect(&connect.properties(properties));
            let sent = client.closed_within(ARRIVES);
            for packet in sent {
                assert!(
                    packet.bytes().len() <= limit as usize,
                    "over {limit}: {packet:02x?}"
                );
            }
        }
    });
}

/// Without Server Keep Alive in CONNACK, the client's own Keep Alive holds.
#[test]
fn mqtt_3_2_2_22_keep_alive_of_the_client() {
    on_each(|broker| {
        let connect = Connect::v5(unique("keep")).keep_alive_s(2);
        let (mut client, connack) = Raw::session(broker, &connect);
        assert_eq!(connack.properties.number(prop::SERVER_KEEP_ALIVE), None);
        sleep(Duration::from_millis(2_300));
        client.barrier();
        client.closed_within(ARRIVES);
    });
}

/// Section 3.2.2.3.14: with a cap on Keep Alive, CONNACK names the one in force, and it is enforced.
#[test]
fn section_3_2_2_3_14_server_keep_alive() {
    on_each_of_its_own(&["--set", "limits.keep-alive-max=1s"], |broker| {
        if !broker.is_ours() {
            eprintln!("skipped: a broker named by RINGMQ_TEST_BROKER cannot be configured");
            return;
        }
        for asked in [0, 60] {
            let connect = Connect::v5(unique("keep")).keep_alive_s(asked);
            let (mut client, connack) = Raw::session(broker, &connect);
            assert_eq!(connack.properties.number(prop::SERVER_KEEP_ALIVE), Some(1));
            client.closed_within(ARRIVES);
        }
        let connect = Connect::v5(unique("keep")).keep_alive_s(1);
        let (_, connack) = Raw::session(broker, &connect);
        assert_eq!(connack.properties.number(prop::SERVER_KEEP_ALIVE), None);
    });
}

/// Section 3.2.2.3: what CONNACK says about the server's capabilities holds.
#[test]
fn section_3_2_2_3_announced_capabilities() {
    on_each(|broker| {
        let (mut client, connack) = Raw::session(broker, &Connect::v5(unique("can")));
        let said = connack.properties;
        for id in [
            prop::RETAIN_AVAILABLE,
            prop::WILDCARD_SUBSCRIPTION_AVAILABLE,
            prop::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
            prop::SHARED_SUBSCRIPTION_AVAILABLE,
        ] {
            assert!(said.numbers(id).len() <= 1);
            assert_ne!(said.number(id), Some(0), "property {id:#04x}");
        }
        assert_ne!(said.number(prop::RECEIVE_MAXIMUM), Some(0));
        assert_ne!(said.number(prop::MAXIMUM_PACKET_SIZE), Some(0));
        assert_eq!(said.bytes(prop::AUTHENTICATION_METHOD), None);
        let topic = unique("can");
        let filters = [(format!("{topic}/+"), 1), (format!("$share/g/{topic}"), 1)];
        assert_eq!(client.subscribe(&filters), [1, 1]);
        let suback =
            subscribe_properties(&mut client, &subscription_id(268_435_455), &[(&topic, 1)]);
        assert_eq!(suback.codes, [1]);
        client.retain(&topic, 1, "retained");
    });
}

/// Section 3.2.2.3.6: the server announces its Maximum Packet Size. A packet of this size is
/// accepted, a larger one is answered with 0x95.
#[test]
fn section_3_2_2_3_6_maximum_packet_size_of_the_server() {
    on_each(|broker| {
        let topic = unique("large");
        let (mut client, connack) = Raw::session(broker, &Connect::v5(unique("large")));
        let limit = connack.properties.number(prop::MAXIMUM_PACKET_SIZE);
        let limit = limit.expect("the server announces its Maximum Packet Size") as usize;
        let of_size = |bytes: usize| {
            // 1 byte of header, 1 to 4 of Remaining Length, topic, identifier, no properties.
            let fixed = 2 + topic.len() + 2 + 1;
            let length = (1..=4)
                .map(|digits| bytes - 1 - digits)
                .find(|length| 1 + varint(*length).len() + length == bytes)
                .expect("a packet of this size exists");
            let message = Publish::v5(&topic, vec![b'x'; length - fixed]).qos(1, 9);
            let encoded = message.encode();
            assert_eq!(encoded.len(), bytes);
            encoded
        };
        client.send(&of_size(limit));
        assert_eq!(client.expect_ack(PUBACK).id, 9);
        // The header alone tells; the rest need not be sent, nor be read.
        client.send(&of_size(limit + 1)[..100]);
        client.expect_closed_with(&[0x95]);
    });
}

/// Section 3.2.2.3.2: CONNACK has a Session Expiry Interval only if the server uses another one than
/// the client asked for.
#[test]
fn section_3_2_2_3_2_session_expiry_interval() {
    on_each(|broker| {
        for asked in [0, 1, 3_600] {
            let (client, connack) = Raw::session(broker, &keeping_s(&unique("expiry"), asked));
            let said = connack.properties.number(prop::SESSION_EXPIRY_INTERVAL);
            assert!(
                said.is_none() || said == Some(asked),
                "{said:?} for {asked}"
            );
            client.disconnect();
        }
    });
    on_each_of_its_own(&["--set", "limits.session-expiry-max=1s"], |broker| {
        if !broker.is_ours() {
            eprintln!("skipped: a broker named by RINGMQ_TEST_BROKER cannot be configured");
            return;
        }
        let id = unique("expiry");
        let (client, connack) = Raw::session(broker, &keeping_s(&id, u32::MAX));
        let said = connack.properties.number(prop::SESSION_EXPIRY_INTERVAL);
        assert_eq!(said, Some(1));
        client.disconnect();
        sleep(Duration::from_millis(2_200));
        assert!(!has_session(broker, &id));
    });
}

// ---- what CONNECT asks for -------------------------------------------------------------------

/// With Request Response Information 0, CONNACK has no Response Information; with 1, it may have.
#[test]
fn mqtt_3_1_2_28_response_information() {
    on_each(|broker| {
        let request = |value| prop::byte(prop::REQUEST_RESPONSE_INFORMATION, value);
        for properties in [vec![], request(0)] {
            let connect = Connect::v5(unique("info")).properties(properties);
            let (client, connack) = Raw::session(broker, &connect);
            assert_eq!(connack.properties.bytes(prop::RESPONSE_INFORMATION), None);
            client.disconnect();
        }
        let connect = Connect::v5(unique("info")).properties(request(1));
        let (mut client, connack) = Raw::session(broker, &connect);
        // What it says is usable as the start of a topic.
        if let Some(info) = connack.properties.text(prop::RESPONSE_INFORMATION) {
            let topic = format!("{info}/{}", unique("info"));
            assert_eq!(client.subscribe(&[(&topic, 0)]), [0]);
            client.publish(&topic, 0, "reply");
            assert_eq!(client.next_publish().text(), "reply");
        }
    });
}

/// With Request Problem Information 0, only PUBLISH, CONNACK and DISCONNECT may have a Reason String
/// or User Properties.
#[test]
fn mqtt_3_1_2_29_no_problem_information() {
    on_each(|broker| {
        let mut client = client_with(broker, prop::byte(prop::REQUEST_PROBLEM_INFORMATION, 0));
        let none = Properties::default();
        // Each of these has a Reason Code that a server might want to explain.
        client.send(&Publish::v5(unique("nobody"), "x").qos(1, 1).encode());
        assert_eq!(client.expect_ack(PUBACK).properties, none);
        client.send(&Publish::v5(unique("nobody"), "x").qos(2, 2).encode());
        assert_eq!(client.expect_ack(PUBREC).properties, none);
        client.send(&ack(PUBREL, 3));
        assert_eq!(client.expect_ack(PUBCOMP).properties, none);
        client.send(&ack(PUBREC, 4));
        assert_eq!(client.expect_ack(PUBREL).properties, none);
        client.send(&subscribe(Version::V5, 5, &[("a/#/b", 0)]));
        match client.read_packet() {
            packet if packet.kind() == SUBACK => {
                assert_eq!(packet.suback(Version::V5).properties, none);
                client.send(&unsubscribe(Version::V5, 6, &[unique("never")]));
                let unsuback = client.expect_kind(UNSUBACK).unsuback(Version::V5);
                assert_eq!(unsuback.properties, none);
            }
            // The filter may also be taken as malformed.
            packet => assert!(packet.disconnect().reason >= 0x80),
        }
        // PUBLISH keeps its User Properties.
        let topic = unique("keeps");
        let mut client = client_with(broker, prop::byte(prop::REQUEST_PROBLEM_INFORMATION, 0));
        client.subscribe(&[(&topic, 0)]);
        client.send(
            &Publish::v5(&topic, "x")
                .properties(prop::user("a", "b"))
                .encode(),
        );
        assert_eq!(client.next_publish().properties.user(), [("a", "b")]);
    });
}

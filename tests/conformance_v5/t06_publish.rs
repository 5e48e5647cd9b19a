//! Sections 3.3.1 to 3.3.4: PUBLISH, its flags and properties, except retained messages, aliases and
//! what belongs to subscriptions.
//!
//! Every statement of these parts is tested.

use std::thread::sleep;
use std::time::Duration;

use crate::common::*;
use crate::support::*;

/// DUP is 1 when a PUBLISH is sent again.
#[test]
fn mqtt_3_3_1_1_dup_is_set_on_redelivery() {
    on_each(|broker| {
        for qos in [1, 2] {
            let (id, topic) = (unique("dup"), unique("dup"));
            let mut client = Raw::connect(broker, &keeping(&id));
            client.subscribe(&[(&topic, qos)]);
            self::client(broker).publish(&topic, qos, "x");
            let first = client.next_publish();
            assert!(!first.dup);
            for _ in 0..3 {
                client.vanish();
                client = Raw::connect(broker, &keeping(&id));
                let again = client.next_publish();
                assert!(again.dup);
                assert_eq!(
                    (again.id, again.text(), again.qos),
                    (first.id, first.text(), qos)
                );
            }
        }
    });
}

/// DUP is 0 with QoS 0.
#[test]
fn mqtt_3_3_1_2_dup_with_qos_0() {
    on_each(|broker| {
        ends(
            broker,
            &Publish::v5("t", "x").dup().encode(),
            &[MALFORMED, PROTOCOL_ERROR],
        );
        // And a message that came with DUP leaves without it.
        let topic = unique("dup");
        let mut client = subscriber(broker, &topic, 0);
        self::client(broker).publish_packet(Publish::v5(&topic, "x").dup(), 1);
        assert!(!client.next_publish().dup);
    });
}

/// DUP of what is sent does not depend on DUP of what came.
#[test]
fn mqtt_3_3_1_3_dup_is_not_propagated() {
    on_each(|broker| {
        let topic = unique("dup");
        let mut client = subscriber(broker, &topic, 2);
        let mut publisher = self::client(broker);
        for qos in [1, 2] {
            publisher.publish_packet(Publish::v5(&topic, "x").dup(), qos);
            let message = client.take_publish();
            assert_eq!((message.qos, message.dup), (qos, false));
        }
    });
}

/// QoS 3 does not exist.
#[test]
fn mqtt_3_3_1_4_qos_3() {
    on_each(|broker| {
        let message = Publish::v5("t", "x").qos(3, 1);
        ends(broker, &message.encode(), &[MALFORMED]);
    });
}

/// The Topic Name is there, and is a UTF-8 Encoded String.
#[test]
fn mqtt_3_3_2_1_topic_name_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            ends(broker, &Publish::v5(bad, "x").encode(), &[MALFORMED]);
        }
        ends(broker, &packet(PUBLISH << 4, &[]), &[MALFORMED]);
        // An empty one needs a Topic Alias.
        ends(
            broker,
            &Publish::v5("", "x").encode(),
            &[MALFORMED, PROTOCOL_ERROR, 0x90],
        );
        let topic = format!("{}/Grüße/日本/🦀", unique("utf8"));
        let mut client = subscriber(broker, &topic, 0);
        client.publish(&topic, 0, "x");
        assert_eq!(client.next_publish().topic, topic);
    });
}

/// The Topic Name of a PUBLISH has no wildcards.
#[test]
fn mqtt_3_3_2_2_topic_name_without_wildcards() {
    on_each(|broker| {
        for bad in ["#", "+", "a/#", "a/+/b", "a#", "a/b+"] {
            let reasons = [MALFORMED, PROTOCOL_ERROR, 0x90];
            ends(broker, &Publish::v5(bad, "x").encode(), &reasons);
        }
    });
}

/// The Topic Name of what a subscriber gets is the one that was published, and matches its filter.
#[test]
fn mqtt_3_3_2_3_topic_name_matches_the_filter() {
    on_each(|broker| {
        let prefix = unique("match");
        let mut client = subscriber(broker, &format!("{prefix}/+/c"), 0);
        let mut publisher = self::client(broker);
        for topic in ["a/b", "b/c", "b/c/d", "/c", "c", "b/C"] {
            publisher.publish(format!("{prefix}/{topic}"), 0, "x");
        }
        for topic in ["b/c", "/c"] {
            assert_eq!(client.next_publish().topic, format!("{prefix}/{topic}"));
        }
        publisher.publish(format!("{prefix}/last/c"), 0, "x");
        assert_eq!(client.next_publish().topic, format!("{prefix}/last/c"));
    });
}

/// Publishes with these properties; returns those that two subscribers got, of which one was not
/// connected, and the one a later subscriber gets with the retained message.
#[track_caller]
fn forwarded(broker: &Broker, properties: &[u8]) -> Vec<Properties> {
    let topic = unique("props");
    let mut online = subscriber(broker, &topic, 1);
    let offline = keeping(&unique("props"));
    let mut client = Raw::connect(broker, &offline);
    client.subscribe(&[(&topic, 1)]);
    client.disconnect();
    let message = Publish::v5(&topic, "x").properties(properties).retain();
    self::client(broker).publish_packet(message, 1);
    let mut all = vec![online.take_publish().properties];
    all.push(Raw::connect(broker, &offline).take_publish().properties);
    let retained = retained(broker, &topic, &topic).expect("a retained message");
    all.push(retained.properties);
    all
}

/// The Payload Format Indicator is forwarded as it is.
#[test]
fn mqtt_3_3_2_4_payload_format_indicator() {
    on_each(|broker| {
        for value in [0, 1] {
            let indicator = prop::byte(prop::PAYLOAD_FORMAT_INDICATOR, value);
            for got in forwarded(broker, &indicator) {
                let got = got.number(prop::PAYLOAD_FORMAT_INDICATOR);
                // 0 is what its absence means.
                assert!(got == Some(value.into()) || (value == 0 && got.is_none()));
            }
        }
    });
}

/// A message whose Message Expiry Interval has passed before its delivery started is deleted.
#[test]
fn mqtt_3_3_2_5_expired_message_is_not_delivered() {
    on_each(|broker| {
        let (id, topic) = (unique("expiry"), unique("expiry"));
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 2)]);
        client.disconnect();
        // Another one is connected, but its window is full.
        let mut full = client_with(broker, receive_maximum(1));
        full.subscribe(&[(&topic, 1)]);
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 1, "first");
        let first = full.next_publish();
        assert_eq!(first.text(), "first");
        let short = |text: &str| Publish::v5(&topic, text).properties(message_expiry_s(1));
        publisher.publish_packet(short("expires, QoS 1"), 1);
        publisher.publish_packet(short("expires, QoS 2"), 2);
        publisher.publish_packet(
            Publish::v5(&topic, "long").properties(message_expiry_s(60)),
            1,
        );
        sleep(Duration::from_millis(2_100));
        full.acknowledge(&first);
        assert_eq!(full.take_publish().text(), "long");
        let mut client = Raw::connect(broker, &keeping(&id));
        assert_eq!(client.take_publish().text(), "first");
        assert_eq!(client.take_publish().text(), "long");
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

/// The Message Expiry Interval that is sent is the received one less the time the message waited.
#[test]
fn mqtt_3_3_2_6_remaining_expiry() {
    on_each(|broker| {
        let (id, topic) = (unique("expiry"), unique("expiry"));
        let mut client = Raw::connect(broker, &keeping(&id));
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        let mut online = subscriber(broker, &topic, 1);
        let message = Publish::v5(&topic, "x")
            .properties(message_expiry_s(100))
            .retain();
        self::client(broker).publish_packet(message, 1);
        let left = |message: Received| message.properties.number(prop::MESSAGE_EXPIRY_INTERVAL);
        let at_once = left(online.take_publish());
        assert!(
            at_once.is_some_and(|s| (95..=100).contains(&s)),
            "{at_once:?}"
        );
        sleep(Duration::from_millis(2_100));
        let queued = left(Raw::connect(broker, &keeping(&id)).take_publish());
        assert!(queued.is_some_and(|s| (90..=98).contains(&s)), "{queued:?}");
        let kept = left(retained(broker, &topic, &topic).expect("a retained message"));
        assert!(kept.is_some_and(|s| (90..=98).contains(&s)), "{kept:?}");
        // A message without one gets none.
        self::client(broker).publish(&topic, 1, "x");
        assert_eq!(left(online.take_publish()), None);
    });
}

/// The Response Topic is a UTF-8 Encoded String.
#[test]
fn mqtt_3_3_2_13_response_topic_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            let message = Publish::v5("t", "x").properties(prop::text(prop::RESPONSE_TOPIC, bad));
            ends(broker, &message.encode(), &[MALFORMED]);
        }
    });
}

/// The Response Topic has no wildcards.
#[test]
fn mqtt_3_3_2_14_response_topic_without_wildcards() {
    on_each(|broker| {
        for bad in ["#", "a/+", "a/#"] {
            let message = Publish::v5("t", "x").properties(prop::text(prop::RESPONSE_TOPIC, bad));
            ends(
                broker,
                &message.encode(),
                &[MALFORMED, PROTOCOL_ERROR, 0x90],
            );
        }
    });
}

/// The Response Topic is forwarded as it is.
#[test]
fn mqtt_3_3_2_15_response_topic() {
    on_each(|broker| {
        for got in forwarded(broker, &prop::text(prop::RESPONSE_TOPIC, "re/plý")) {
            assert_eq!(got.text(prop::RESPONSE_TOPIC).as_deref(), Some("re/plý"));
        }
    });
}

/// The Correlation Data are forwarded as they are.
#[test]
fn mqtt_3_3_2_16_correlation_data() {
    on_each(|broker| {
        for data in [&b""[..], b"\0\xff\xc0", &[7; 1_000]] {
            for got in forwarded(broker, &prop::text(prop::CORRELATION_DATA, data)) {
                assert_eq!(got.bytes(prop::CORRELATION_DATA), Some(data));
            }
        }
    });
}

/// All User Properties are forwarded as they are.
#[test]
fn mqtt_3_3_2_17_user_properties() {
    on_each(|broker| {
        let long = "v".repeat(3_000);
        let pairs = [("name", "value"), ("", ""), ("ünï", "🦀"), ("long", &long)];
        let properties: Vec<u8> = pairs.iter().flat_map(|(n, v)| prop::user(n, v)).collect();
        for got in forwarded(broker, &properties) {
            assert_eq!(got.user(), pairs);
        }
    });
}

/// User Properties keep their order, also where a name occurs again or other properties are between.
#[test]
fn mqtt_3_3_2_18_order_of_user_properties() {
    on_each(|broker| {
        let pairs = [("z", "1"), ("a", "2"), ("z", "0"), ("m", "3"), ("a", "2")];
        let properties = [
            prop::user("z", "1"),
            prop::text(prop::CONTENT_TYPE, "c"),
            prop::user("a", "2"),
            message_expiry_s(100),
            prop::user("z", "0"),
            prop::byte(prop::PAYLOAD_FORMAT_INDICATOR, 1),
            prop::user("m", "3"),
            prop::user("a", "2"),
        ];
        for got in forwarded(broker, &properties.concat()) {
            assert_eq!(got.user(), pairs);
            assert_eq!(got.text(prop::CONTENT_TYPE).as_deref(), Some("c"));
            assert_eq!(got.number(prop::PAYLOAD_FORMAT_INDICATOR), Some(1));
            assert!(got.number(prop::MESSAGE_EXPIRY_INTERVAL).is_some());
        }
    });
}

/// The Content Type is a UTF-8 Encoded String.
#[test]
fn mqtt_3_3_2_19_content_type_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            let message = Publish::v5("t", "x").properties(prop::text(prop::CONTENT_TYPE, bad));
            ends(broker, &message.encode(), &[MALFORMED]);
        }
    });
}

/// The Content Type is forwarded as it is.
#[test]
fn mqtt_3_3_2_20_content_type() {
    on_each(|broker| {
        for text in ["", "application/json; charset=utf-8"] {
            for got in forwarded(broker, &prop::text(prop::CONTENT_TYPE, text)) {
                assert_eq!(got.text(prop::CONTENT_TYPE).as_deref(), Some(text));
            }
        }
    });
}

/// Nothing is answered to QoS 0, PUBACK to QoS 1, PUBREC to QoS 2.
#[test]
fn mqtt_3_3_4_1_answer_by_qos() {
    on_each(|broker| {
        let mut client = client(broker);
        client.publish(unique("qos"), 0, "x");
        client.expect_nothing_before_barrier();
        client.send(&Publish::v5(unique("qos"), "x").qos(1, 3).encode());
        assert_eq!(client.expect_ack(PUBACK).id, 3);
        client.send(&Publish::v5(unique("qos"), "x").qos(2, 4).encode());
        assert_eq!(client.expect_ack(PUBREC).id, 4);
        client.expect_nothing_before_barrier();
    });
}

/// A client's PUBLISH has no Subscription Identifier.
#[test]
fn mqtt_3_3_4_6_subscription_identifier_from_a_client() {
    on_each(|broker| {
        let message = Publish::v5("t", "x").properties(subscription_id(1));
        ends(broker, &message.encode(), &[MALFORMED, PROTOCOL_ERROR]);
    });
}

/// Sections 3.4.2.1 and 3.5.2.1: PUBACK and PUBREC say 0x10 when nobody matches, and 0 otherwise.
#[test]
fn section_3_4_2_1_no_matching_subscribers() {
    on_each(|broker| {
        let topic = unique("nobody");
        let mut publisher = self::client(broker);
        let mut reasons =
            || [1, 2].map(|qos| publish_reason(&mut publisher, Publish::v5(&topic, "x"), qos));
        assert_eq!(reasons(), [0x10, 0x10]);
        let mut subscribers: Vec<Raw> = (0..4).map(|_| subscriber(broker, &topic, 0)).collect();
        assert_eq!(reasons(), [0, 0]);
        // Whoever is left, on whatever core.
        while let Some(mut client) = subscribers.pop() {
            assert_eq!(reasons(), [0, 0]);
            client.unsubscribe(&[&topic]);
            client.disconnect();
        }
        assert_eq!(reasons(), [0x10, 0x10]);
    });
}

/// Section 4.10: a request and its reply through the Response Topic, whose Correlation Data match.
#[test]
fn section_4_10_request_and_response() {
    on_each(|broker| {
        let (requests, replies) = (unique("req"), unique("rep"));
        let mut service = subscriber(broker, &requests, 1);
        let mut asker = subscriber(broker, &replies, 1);
        let properties = [
            prop::text(prop::RESPONSE_TOPIC, &replies),
            prop::text(prop::CORRELATION_DATA, "no. 5"),
        ];
        asker.publish_packet(
            Publish::v5(&requests, "?").properties(properties.concat()),
            1,
        );
        let request = service.take_publish().properties;
        let to = request
            .text(prop::RESPONSE_TOPIC)
            .expect("a Response Topic");
        let data = request
            .bytes(prop::CORRELATION_DATA)
            .expect("Correlation Data");
        let data = prop::text(prop::CORRELATION_DATA, data);
        service.publish_packet(Publish::v5(to, "!").properties(data), 1);
        let reply = asker.take_publish();
        assert_eq!(reply.text(), "!");
        assert_eq!(
            reply.properties.bytes(prop::CORRELATION_DATA),
            Some(&b"no. 5"[..])
        );
    });
}

/// Section 3.3: a client of MQTT 3.1.1 gets the message without properties, and what it publishes
/// has none for a client of MQTT 5.0.
#[test]
fn section_3_3_messages_between_versions() {
    on_each(|broker| {
        let topic = unique("between");
        let mut old = Raw::v311(broker, &unique("between"));
        old.subscribe(&[(&topic, 0)]);
        let mut new = subscriber(broker, &topic, 0);
        let properties = [
            prop::user("a", "b"),
            message_expiry_s(100),
            prop::text(prop::CONTENT_TYPE, "c"),
        ];
        let message = Publish::v5(&topic, "from 5.0").properties(properties.concat());
        new.send(&message.encode());
        old.expect(&Publish::v311(&topic, "from 5.0").encode());
        assert_eq!(new.next_publish().properties.user(), [("a", "b")]);
        old.send(&Publish::v311(&topic, "from 3.1.1").encode());
        new.expect(&Publish::v5(&topic, "from 3.1.1").encode());
        old.expect(&Publish::v311(&topic, "from 3.1.1").encode());
    });
}

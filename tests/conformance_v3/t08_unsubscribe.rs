//! Sections 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use crate::common::*;
use crate::{ILL_FORMED, closes_on, nothing_else, subscriber};

/// UNSUBSCRIBE has the flags 0010; anything else closes the connection.
#[test]
fn mqtt_3_10_1_1_unsubscribe_flags() {
    on_each(|broker| {
        for flags in (0..16).filter(|flags| *flags != 2) {
            let mut bad = unsubscribe(Version::V311, 1, &["t"]);
            bad[0] = 0xa0 | flags;
            closes_on(broker, &bad);
        }
    });
}

/// Topic Filters are UTF-8 strings, one after the other.
#[test]
fn mqtt_3_10_3_1_topic_filter_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            closes_on(broker, &unsubscribe(Version::V311, 1, &[&b"good"[..], bad]));
        }
        closes_on(broker, &[0xa2, 0x05, 0x00, 0x01, 0x00, 0x05, b'a']);
    });
}

/// An UNSUBSCRIBE has at least one filter.
#[test]
fn mqtt_3_10_3_2_unsubscribe_without_payload_closes() {
    on_each(|broker| closes_on(broker, &[0xa2, 0x02, 0x00, 0x01]));
}

/// Filters are compared byte for byte: only an equal one is deleted, matching means nothing.
#[test]
fn mqtt_3_10_4_1_filters_are_compared_byte_for_byte() {
    on_each(|broker| {
        let prefix = unique("Unsub");
        let topic = format!("{prefix}/a");
        let mut client = subscriber(broker, &topic, 1);
        let mut publisher = Raw::v311(broker, &unique("unsub"));
        let others = [
            format!("{prefix}/+"),
            format!("{prefix}/#"),
            "#".to_owned(),
            format!("{prefix}/A"),
            format!("{prefix}/a/"),
            format!("/{prefix}/a"),
            format!("{}/a", prefix.to_lowercase()),
        ];
        client.unsubscribe(&others);
        publisher.publish(&topic, 1, "still there");
        assert_eq!(client.take_publish().text(), "still there");
        client.unsubscribe(&[&topic]);
        publisher.publish(&topic, 1, "gone");
        client.subscribe(&[(&topic, 1)]);
        nothing_else(&mut client, &mut publisher, &topic, 1);
        // A filter with wildcards is deleted by its own text only.
        let wild = format!("{prefix}/+/#");
        client.subscribe(&[(&wild, 1)]);
        client.unsubscribe(&[&topic]);
        publisher.publish(&topic, 1, "through the wildcard");
        assert_eq!(client.take_publish().text(), "through the wildcard");
        client.unsubscribe(&[&wild]);
        publisher.publish(&topic, 1, "gone");
        client.subscribe(&[(&topic, 1)]);
        nothing_else(&mut client, &mut publisher, &topic, 1);
    });
}

/// After UNSUBACK no new message is added for the client.
#[test]
fn mqtt_3_10_4_2_no_new_messages_after_unsubscribe() {
    on_each(|broker| {
        let (topic, other) = (unique("unsub"), unique("unsub"));
        let mut client = subscriber(broker, &topic, 1);
        client.subscribe(&[(&other, 1)]);
        let mut publisher = Raw::v311(broker, &unique("unsub"));
        for _ in 0..10 {
            client.unsubscribe(&[&topic]);
            publisher.publish(&topic, 1, "after");
            nothing_else(&mut client, &mut publisher, &other, 1);
            client.subscribe(&[(&topic, 1)]);
            publisher.publish(&topic, 1, "again");
            assert_eq!(client.take_publish().text(), "again");
        }
    });
}

/// Deliveries of QoS 1 and 2 that had started are completed.
#[test]
fn mqtt_3_10_4_3_started_deliveries_are_completed() {
    on_each(|broker| {
        let topic = unique("unsub");
        let connect = Connect::v311(unique("unsub")).clean(false);
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 2)]);
        let mut publisher = Raw::v311(broker, &unique("unsub"));
        publisher.publish(&topic, 1, "one");
        publisher.publish(&topic, 2, "two");
        let [one, two] = [client.next_publish(), client.next_publish()];
        client.unsubscribe(&[&topic]);
        client.send(&ack(PUBREC, two.id));
        client.expect(&ack(PUBREL, two.id));
        client.vanish();
        let mut client = Raw::connect(broker, &connect);
        assert_eq!(client.wait_for_ack(PUBREL).id, two.id);
        let again = client.next_publish();
        assert_eq!(
            (again.text().as_str(), again.id, again.dup),
            ("one", one.id, true)
        );
        client.send(&[ack(PUBCOMP, two.id), ack(PUBACK, one.id)].concat());
        client.expect_nothing_before_barrier();
    });
}

/// UNSUBACK has the Packet Identifier of its UNSUBSCRIBE and nothing else.
#[test]
fn mqtt_3_10_4_4_unsuback_has_the_packet_identifier() {
    on_each(|broker| {
        let topic = unique("unsub");
        let mut client = subscriber(broker, &topic, 1);
        client.send(&unsubscribe(Version::V311, 0x1234, &[&topic]));
        client.expect(&[0xb0, 0x02, 0x12, 0x34]);
    });
}

/// UNSUBSCRIBE is answered even if nothing was deleted.
#[test]
fn mqtt_3_10_4_5_unsuback_even_if_nothing_is_deleted() {
    on_each(|broker| {
        let mut client = Raw::v311(broker, &unique("unsub"));
        client.send(&unsubscribe(Version::V311, 5, &[unique("never")]));
        client.expect(&[0xb0, 0x02, 0x00, 0x05]);
        client.send(&unsubscribe(Version::V311, 5, &["#", "+/+", "$share/a/b"]));
        client.expect(&[0xb0, 0x02, 0x00, 0x05]);
    });
}

/// An UNSUBSCRIBE with several filters works as several, with one UNSUBACK.
#[test]
fn mqtt_3_10_4_6_several_filters_as_a_sequence() {
    on_each(|broker| {
        let topics: Vec<String> = (0..20).map(|_| unique("unsub")).collect();
        let last = unique("unsub");
        let mut client = subscriber(broker, &last, 1);
        client.subscribe(&topics.iter().map(|topic| (topic, 1)).collect::<Vec<_>>());
        client.unsubscribe(&topics);
        client.expect_nothing_before_barrier();
        let mut publisher = Raw::v311(broker, &unique("unsub"));
        for topic in &topics {
            publisher.publish(topic, 1, "gone");
        }
        nothing_else(&mut client, &mut publisher, &last, 1);
    });
}

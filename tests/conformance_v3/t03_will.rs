//! Section 3.1.2.5: the Will.

use crate::common::*;
use crate::{
    ILL_FORMED, nothing_else, refuses, refuses_quietly, retained, sentinel_from_successor,
    subscriber, with_will,
};

/// A Will is published when the connection ends without DISCONNECT, however it ends, and not
/// if the CONNECT was refused.
#[test]
fn mqtt_3_1_2_8_will_is_published_without_disconnect() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let mut check = |text: &str| {
            let will = watcher.take_publish();
            assert_eq!((will.text().as_str(), will.qos), (text, 1));
        };
        // The client vanishes.
        Raw::connect(
            broker,
            &with_will(&unique("will"), Will::new(&topic, "closed").qos(1)),
        )
        .vanish();
        check("closed");
        // The client breaks the protocol, so that the server closes.
        let will = Will::new(&topic, "violation").qos(1);
        let mut client = Raw::connect(broker, &with_will(&unique("will"), will));
        client.send(&[0xf0, 0x00]);
        client.expect_closed();
        check("violation");
        // Another connection takes the client identifier over.
        let id = unique("will");
        let mut old = Raw::connect(
            broker,
            &with_will(&id, Will::new(&topic, "taken over").qos(1)),
        );
        let successor = Raw::v311(broker, &id);
        old.expect_closed();
        check("taken over");
        successor.disconnect();
        // The Will of a CONNECT that was refused never counts.
        let refused = Connect::v311("")
            .clean(false)
            .will(Will::new(&topic, "refused").qos(1));
        refuses(broker, &refused.encode());
        sentinel_from_successor(broker, &unique("will"), &topic);
        check("sentinel");
    });
}

/// With the Will Flag, the payload holds a Will Topic and a Will Message.
#[test]
fn mqtt_3_1_2_9_will_flag_without_will() {
    on_each(|broker| {
        refuses_quietly(
            broker,
            &Connect::v311(unique("will")).flip_flags(0x04).encode(),
        );
        let id_and_topic = [field(unique("will")), field("topic")].concat();
        let body = [&field("MQTT")[..], &[4, 0x06, 0, 60], &id_and_topic].concat();
        refuses_quietly(broker, &packet(CONNECT << 4, &body));
    });
}

/// A Will that has been published, or deleted by DISCONNECT, is gone: a later connection of the
/// same session does not publish it again.
#[test]
fn mqtt_3_1_2_10_will_is_removed_once_used() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let id = unique("will");
        let persistent = Connect::v311(&id).clean(false);
        let first = persistent.clone().will(Will::new(&topic, "once").qos(1));
        Raw::connect(broker, &first).vanish();
        assert_eq!(watcher.take_publish().text(), "once");
        Raw::connect(broker, &persistent).vanish();
        Raw::connect(broker, &first).disconnect();
        Raw::connect(broker, &persistent).vanish();
        sentinel_from_successor(broker, &id, &topic);
        assert_eq!(watcher.take_publish().text(), "sentinel");
    });
}

/// Without the Will Flag, the payload holds no Will.
#[test]
fn mqtt_3_1_2_11_will_without_will_flag() {
    on_each(|broker| {
        let connect = with_will(&unique("will"), Will::new("topic", "x")).flip_flags(0x04);
        refuses_quietly(broker, &connect.encode());
    });
}

/// Without the Will Flag, nothing is published when the connection ends.
#[test]
fn mqtt_3_1_2_12_no_will_without_will_flag() {
    on_each(|broker| {
        let prefix = unique("will");
        let mut watcher = subscriber(broker, &format!("{prefix}/#"), 1);
        let id = unique("will");
        let mut client = Raw::v311(broker, &id);
        client.publish(format!("{prefix}/alive"), 1, "alive");
        client.vanish();
        assert_eq!(watcher.take_publish().text(), "alive");
        sentinel_from_successor(broker, &id, &prefix);
        assert_eq!(watcher.take_publish().text(), "sentinel");
    });
}

/// Without the Will Flag, Will QoS is 0.
#[test]
fn mqtt_3_1_2_13_will_qos_without_will_flag() {
    on_each(|broker| {
        for qos_bits in [0x08, 0x10, 0x18] {
            refuses_quietly(
                broker,
                &Connect::v311(unique("will")).flip_flags(qos_bits).encode(),
            );
        }
    });
}

/// Will QoS can be 0, 1 or 2, and never 3.
#[test]
fn mqtt_3_1_2_14_will_qos_0_to_2() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 2);
        for qos in 0..3 {
            let will = Will::new(&topic, [qos]).qos(qos);
            Raw::connect(broker, &with_will(&unique("will"), will)).vanish();
            let message = watcher.take_publish();
            assert_eq!((message.qos, message.payload), (qos, vec![qos]));
        }
        refuses_quietly(
            broker,
            &with_will(&unique("will"), Will::new(&topic, "x").qos(3)).encode(),
        );
    });
}

/// Without the Will Flag, Will Retain is 0.
#[test]
fn mqtt_3_1_2_15_will_retain_without_will_flag() {
    on_each(|broker| {
        refuses_quietly(
            broker,
            &Connect::v311(unique("will")).flip_flags(0x20).encode(),
        );
    });
}

/// With Will Retain 0, the Will is not retained.
#[test]
fn mqtt_3_1_2_16_will_is_not_retained() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        Raw::connect(
            broker,
            &with_will(&unique("will"), Will::new(&topic, "x").qos(1)),
        )
        .vanish();
        assert!(!watcher.take_publish().retain);
        assert_eq!(retained(broker, &topic, &topic), None);
    });
}

/// With Will Retain 1, the Will is published as a retained message.
#[test]
fn mqtt_3_1_2_17_will_is_retained() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let will = Will::new(&topic, "kept").qos(1).retain();
        Raw::connect(broker, &with_will(&unique("will"), will)).vanish();
        let live = watcher.take_publish();
        assert_eq!((live.text().as_str(), live.retain), ("kept", false));
        let message = retained(broker, &topic, &topic).expect("a retained message");
        assert_eq!((message.text().as_str(), message.qos), ("kept", 1));
    });
}

/// The Will Topic is a UTF-8 string.
#[test]
fn mqtt_3_1_3_10_will_topic_is_utf8() {
    on_each(|broker| {
        for bad in ILL_FORMED {
            refuses(
                broker,
                &with_will(&unique("will"), Will::new(bad, "x")).encode(),
            );
        }
    });
}

/// Section 3.1.3.3: the Will Message may be empty, and may hold any bytes.
#[test]
fn section_3_1_3_3_will_message_is_any_bytes() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        for payload in [&b""[..], b"\0\xff\xc0 any bytes"] {
            let will = Will::new(&topic, payload).qos(1);
            Raw::connect(broker, &with_will(&unique("will"), will)).vanish();
            assert_eq!(watcher.take_publish().payload, payload);
        }
    });
}

/// DISCONNECT makes the server discard the Will without publishing it.
#[test]
fn mqtt_3_14_4_3_disconnect_discards_the_will() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let id = unique("will");
        let mut client = Raw::connect(broker, &with_will(&id, Will::new(&topic, "never").qos(1)));
        nothing_else(&mut watcher, &mut client, &topic, 1);
        client.disconnect();
        sentinel_from_successor(broker, &id, &topic);
        assert_eq!(watcher.take_publish().text(), "sentinel");
    });
}

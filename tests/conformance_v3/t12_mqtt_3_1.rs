//! MQTT 3.1, which is named MQIsdp and has level 3: what differs from 3.1.1, and that the rest works.

use crate::common::*;
use crate::{nothing_else, refuses, sentinel_from_successor, subscriber};

/// A client with the protocol name MQIsdp and level 3 is served.
#[test]
fn version_3_1_client_is_served() {
    on_each(|broker| {
        let topic = unique("old");
        let mut client = Raw::open(broker);
        client.send_connect(&Connect::v31(unique("old")));
        client.expect(&[0x20, 0x02, 0x00, 0x00]);
        assert_eq!(client.subscribe(&[(&topic, 2)]), [2]);
        for qos in 0..3 {
            // Its own messages come back, so acknowledge after the exchange.
            client.publish(&topic, qos, [qos]);
            let message = client.take_publish();
            assert_eq!((message.qos, message.payload), (qos, vec![qos]));
        }
        client.unsubscribe(&[&topic]);
        client.barrier();
        client.disconnect();
    });
}

/// Client identifiers of more than 23 characters, which the text of 3.1 forbids, are accepted:
/// clients in use have them.
#[test]
fn version_3_1_long_client_identifier_is_accepted() {
    on_each(|broker| {
        for length in [24, 36, 200] {
            let id = format!("{}{}", unique("long"), "x".repeat(length));
            Raw::connect(broker, &Connect::v31(&id)).disconnect();
        }
    });
}

/// The name and the level belong together: neither name takes the other's level.
#[test]
fn version_3_1_name_and_level_belong_together() {
    on_each(|broker| {
        for (name, level) in [
            ("MQIsdp", 4),
            ("MQIsdp", 5),
            ("MQTT", 3),
            ("MQIsdq", 3),
            ("mqisdp", 3),
        ] {
            let body = [&field(name)[..], &[level, 2, 0, 60], &field(unique("name"))].concat();
            refuses(broker, &packet(CONNECT << 4, &body));
        }
    });
}

/// The byte that holds Session Present in 3.1.1 is reserved in 3.1 and stays 0, but the session is
/// resumed all the same.
#[test]
fn version_3_1_connack_has_no_session_present() {
    on_each(|broker| {
        let (topic, connect) = (unique("old"), Connect::v31(unique("old")).clean(false));
        let mut client = Raw::connect(broker, &connect);
        client.subscribe(&[(&topic, 1)]);
        client.disconnect();
        Raw::v311(broker, &unique("new")).publish(&topic, 1, "stored");
        let mut client = Raw::open(broker);
        client.send_connect(&connect);
        client.expect(&[0x20, 0x02, 0x00, 0x00]);
        assert_eq!(client.take_publish().text(), "stored");
    });
}

/// Messages pass between clients of 3.1 and 3.1.1 in both directions, retained ones too.
#[test]
fn version_3_1_and_3_1_1_exchange_messages() {
    on_each(|broker| {
        let topic = unique("mix");
        let mut old = Raw::connect(broker, &Connect::v31(unique("old")));
        old.subscribe(&[(&topic, 2)]);
        let mut new = subscriber(broker, &topic, 2);
        old.retain(&topic, 2, "from 3.1");
        assert_eq!(
            (old.take_publish().text(), new.take_publish().text()),
            ("from 3.1".into(), "from 3.1".into())
        );
        new.publish(&topic, 2, "from 3.1.1");
        assert_eq!(
            (old.take_publish().text(), new.take_publish().text()),
            ("from 3.1.1".into(), "from 3.1.1".into())
        );
        let mut late = Raw::connect(broker, &Connect::v31(unique("old")));
        late.subscribe(&[(&topic, 1)]);
        let kept = late.take_publish();
        assert_eq!(
            (kept.text().as_str(), kept.retain, kept.qos),
            ("from 3.1", true, 1)
        );
    });
}

/// The Will works in 3.1, and one client identifier is one client across versions.
#[test]
fn version_3_1_will_and_takeover() {
    on_each(|broker| {
        let topic = unique("will");
        let mut watcher = subscriber(broker, &topic, 1);
        let id = unique("will");
        let mut old = Raw::connect(
            broker,
            &Connect::v31(&id).will(Will::new(&topic, "old").qos(1)),
        );
        sentinel_from_successor(broker, &id, &topic);
        old.expect_closed();
        assert_eq!(watcher.take_publish().text(), "old");
        assert_eq!(watcher.take_publish().text(), "sentinel");
        let mut publisher = Raw::v311(broker, &unique("will"));
        nothing_else(&mut watcher, &mut publisher, &topic, 1);
    });
}

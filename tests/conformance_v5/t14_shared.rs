//! Section 4.8.2: shared subscriptions.
//!
//! Every statement of this section is tested.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::support::*;

/// Adds `count` members to the group for `topic`, with this QoS.
#[track_caller]
fn members(broker: &Broker, group: &str, topic: &str, count: usize, qos: u8) -> Vec<Raw> {
    let filter = format!("$share/{group}/{topic}");
    (0..count)
        .map(|_| subscriber(broker, &filter, qos))
        .collect()
}

/// Receives until `clients` have got `count` messages among them; acknowledges them. Fails if more
/// come; returns those of each client.
#[track_caller]
fn gather(clients: &mut [Raw], count: usize) -> Vec<Vec<Received>> {
    let mut got: Vec<Vec<Received>> = clients.iter().map(|_| Vec::new()).collect();
    let deadline = Instant::now() + 2 * ARRIVES;
    while got.iter().map(Vec::len).sum::<usize>() < count {
        assert!(Instant::now() < deadline, "not all of {count}: {got:?}");
        for (client, got) in clients.iter_mut().zip(&mut got) {
            while let Ok(Some(packet)) = client.packet_within(Duration::from_millis(10)) {
                let message = packet.publish(Version::V5);
                client.acknowledge(&message);
                got.push(message);
            }
        }
    }
    clients[0].expect_silence(150);
    for client in clients {
        client.expect_nothing_before_barrier();
    }
    got
}

/// A shared subscription begins with `$share/` and a ShareName of at least one character.
#[test]
fn mqtt_4_8_2_1_share_name() {
    on_each(|broker| {
        let topic = unique("share");
        for filter in ["$share//a", "$share/", "$share"] {
            let mut client = client(broker);
            client.send(&subscribe(Version::V5, 1, &[(filter, 0)]));
            let packet = client.read_packet();
            if packet.kind() == SUBACK {
                // `$share` alone may also be taken for a topic like any other.
                let codes = packet.suback(Version::V5).codes;
                assert!(
                    codes == [0x8f] || (filter == "$share" && codes == [0]),
                    "{filter}"
                );
            } else {
                assert!(packet.disconnect().reason >= 0x80);
            }
        }
        // Another beginning is not a shared subscription.
        let mut client = subscriber(broker, &format!("$shared/g/{topic}"), 1);
        assert_eq!(
            publish_reason(&mut self::client(broker), Publish::v5(&topic, "x"), 1),
            0x10
        );
        client.expect_nothing_before_barrier();
        let mut member = members(broker, "n", &topic, 1, 1);
        self::client(broker).publish(&topic, 1, "x");
        assert_eq!(member[0].take_publish().text(), "x");
    });
}

/// The ShareName has no `+` and no `#`, and a Topic Filter follows it.
#[test]
fn mqtt_4_8_2_2_share_name_and_filter() {
    on_each(|broker| {
        for bad in [
            "$share/a+/t",
            "$share/+/t",
            "$share/#/t",
            "$share/a#/t",
            "$share/a/",
            "$share/a",
            "$share/a/t/#/b",
        ] {
            let mut client = client(broker);
            client.send(&subscribe(Version::V5, 1, &[(bad, 0)]));
            let packet = client.read_packet();
            if packet.kind() == SUBACK {
                assert_eq!(packet.suback(Version::V5).codes, [0x8f], "{bad}");
            } else {
                assert!(packet.disconnect().reason >= 0x80, "{bad}");
            }
        }
        // Wildcards and empty levels are welcome in the filter.
        let prefix = unique("share");
        for filter in ["+/x", "a/#", "a//b"] {
            let mut member = members(broker, "ü n", &format!("{prefix}/{filter}"), 1, 1);
            let topic = format!("{prefix}/{}", filter.replace(['+', '#'], "y"));
            self::client(broker).publish(&topic, 1, "x");
            assert_eq!(member[0].take_publish().topic, topic);
        }
    });
}

/// The QoS granted to a member holds for what it gets.
#[test]
fn mqtt_4_8_2_3_granted_qos() {
    on_each(|broker| {
        for granted in 0..3 {
            let topic = unique("share");
            let mut member = members(broker, "g", &topic, 1, granted);
            let mut publisher = client(broker);
            for published in 0..3 {
                publisher.publish(&topic, published, "x");
                assert_eq!(member[0].take_publish().qos, granted.min(published));
            }
        }
    });
}

/// A member that got a message of QoS 2 and lost its connection gets it again when it is back, and
/// nobody else does.
#[test]
fn mqtt_4_8_2_4_qos_2_waits_for_its_member() {
    on_each(|broker| {
        let topic = unique("share");
        let connect = keeping(&unique("share"));
        let mut member = Raw::connect(broker, &connect);
        member.subscribe(&[(format!("$share/g/{topic}"), 2)]);
        self::client(broker).publish(&topic, 2, "for the first");
        let first = member.next_publish();
        let mut other = members(broker, "g", &topic, 1, 2);
        member.vanish();
        other[0].expect_silence(250);
        let mut member = Raw::connect(broker, &connect);
        let again = member.take_publish();
        assert_eq!(
            (again.id, again.dup, again.text()),
            (first.id, true, first.text())
        );
        other[0].expect_nothing_before_barrier();
    });
}

/// If the session of such a member ends instead, nobody else gets the message.
#[test]
fn mqtt_4_8_2_5_qos_2_ends_with_its_session() {
    on_each(|broker| {
        let topic = unique("share");
        // One session ends with the connection, the other by a clean start later.
        let (ends, kept) = (Connect::v5(unique("share")), keeping(&unique("share")));
        let mut publisher = self::client(broker);
        for connect in [ends, kept] {
            let mut member = Raw::connect(broker, &connect);
            member.subscribe(&[(format!("$share/g/{topic}"), 2)]);
            publisher.publish(&topic, 2, "for the first");
            member.next_publish();
            let mut other = members(broker, "g", &topic, 1, 2);
            member.vanish();
            Raw::connect(broker, &connect.clean(true)).disconnect();
            other[0].expect_silence(250);
            nothing_else(&mut other[0], &mut publisher, &topic, 2);
            other.remove(0).disconnect();
        }
    });
}

/// A message that a member refuses with 0x80 or more is discarded: nobody else gets it.
#[test]
fn mqtt_4_8_2_6_refused_message_is_discarded() {
    on_each(|broker| {
        for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
            let topic = unique("share");
            let mut member = members(broker, "g", &topic, 1, qos);
            let mut publisher = self::client(broker);
            publisher.publish(&topic, qos, "refused");
            let id = member[0].next_publish().id;
            let mut other = members(broker, "g", &topic, 1, qos);
            member[0].send(&ack_v5(kind, id, 0x83, &[]));
            member[0].expect_nothing_before_barrier();
            member.remove(0).vanish();
            other[0].expect_silence(250);
            nothing_else(&mut other[0], &mut publisher, &topic, qos);
        }
    });
}

/// Section 4.8.2: each message goes to one member of each group, and to every other subscription.
#[test]
fn section_4_8_2_one_member_of_each_group() {
    const COUNT: usize = 60;
    on_each(|broker| {
        let topic = unique("share");
        let mut groups = [
            members(broker, "one", &topic, 4, 1),
            members(broker, "two", &topic, 3, 1),
        ];
        let mut plain = subscriber(broker, &topic, 1);
        let mut publishers: Vec<Raw> = (0..3).map(|_| client(broker)).collect();
        for number in 0..COUNT {
            publishers[number % 3].publish(&topic, 1, number.to_string());
        }
        assert_eq!(plain.receive(COUNT).len(), COUNT);
        for group in &mut groups {
            let by_member: Vec<Vec<String>> = gather(group, COUNT)
                .iter()
                .map(|got| got.iter().map(Received::text).collect())
                .collect();
            let all: BTreeSet<&String> = by_member.iter().flatten().collect();
            let sum: usize = by_member.iter().map(Vec::len).sum();
            assert_eq!((all.len(), sum), (COUNT, COUNT), "each exactly once");
            assert!(
                by_member.iter().all(|got| !got.is_empty()),
                "a member got nothing"
            );
        }
    });
}

/// Section 4.8.2: what a member had not acknowledged (QoS 1), or what waited for it, goes to other
/// members when its session ends.
#[test]
fn section_4_8_2_messages_go_to_other_members() {
    on_each(|broker| {
        let topic = unique("share");
        let filter = format!("$share/g/{topic}");
        let mut dying = client_with(broker, receive_maximum(3));
        dying.subscribe(&[(&filter, 1)]);
        let mut publisher = self::client(broker);
        for number in 0..10 {
            publisher.publish(&topic, 1, number.to_string());
        }
        let first = dying.next_publish();
        dying.acknowledge(&first);
        dying.barrier();
        let mut others = members(broker, "g", &topic, 3, 1);
        dying.vanish();
        let got = gather(&mut others, 9);
        let got: BTreeSet<String> = got.iter().flatten().map(Received::text).collect();
        let wanted: BTreeSet<String> = (1..10).map(|number| number.to_string()).collect();
        assert_eq!(got, wanted);
    });
}

/// Section 4.8.2: a member that is connected is preferred to one that is not; without any, messages
/// wait for a session.
#[test]
fn section_4_8_2_members_without_connection() {
    on_each(|broker| {
        let topic = unique("share");
        let filter = format!("$share/g/{topic}");
        let connect = keeping(&unique("share"));
        let mut away = Raw::connect(broker, &connect);
        away.subscribe(&[(&filter, 1)]);
        away.disconnect();
        let mut publisher = self::client(broker);
        publisher.publish(&topic, 1, "waits");
        let mut away = Raw::connect(broker, &connect);
        assert_eq!(away.take_publish().text(), "waits");
        away.barrier();
        away.disconnect();
        let mut here = members(broker, "g", &topic, 1, 1);
        for number in 0..8 {
            publisher.publish(&topic, 1, number.to_string());
            assert_eq!(here[0].take_publish().text(), number.to_string());
        }
    });
}

/// Section 4.8.2: retained messages are not sent for a new shared subscription.
#[test]
fn section_4_8_2_no_retained_messages() {
    on_each(|broker| {
        let topic = unique("share");
        let mut publisher = client(broker);
        publisher.retain(&topic, 1, "retained");
        let mut member = members(broker, "g", &topic, 1, 1);
        nothing_else(&mut member[0], &mut publisher, &topic, 1);
    });
}

/// Section 4.8.2: a shared and a plain subscription of one client are two: it gets both copies, each
/// with its Subscription Identifier.
#[test]
fn section_4_8_2_shared_and_plain_in_one_client() {
    on_each(|broker| {
        let topic = unique("share");
        let mut client = client(broker);
        let shared = format!("$share/g/{topic}");
        subscribe_properties(&mut client, &subscription_id(1), &[(&shared, 1)]);
        subscribe_properties(&mut client, &subscription_id(2), &[(&topic, 1)]);
        self::client(broker).publish(&topic, 1, "x");
        let ids: BTreeSet<Vec<u32>> = client
            .receive(2)
            .iter()
            .map(|message| message.properties.numbers(prop::SUBSCRIPTION_IDENTIFIER))
            .collect();
        assert_eq!(ids, BTreeSet::from([vec![1], vec![2]]));
        // And each ends by itself.
        assert_eq!(client.unsubscribe(&[&topic]), [0]);
        self::client(broker).publish(&topic, 1, "x");
        let message = client.take_publish();
        assert_eq!(
            message.properties.numbers(prop::SUBSCRIPTION_IDENTIFIER),
            [1]
        );
    });
}

/// Section 4.8.2: after UNSUBSCRIBE a member gets nothing more; the others get all.
#[test]
fn section_4_8_2_member_leaves() {
    on_each(|broker| {
        let topic = unique("share");
        let mut all = members(broker, "g", &topic, 3, 1);
        let mut leaver = all.remove(0);
        assert_eq!(leaver.unsubscribe(&[format!("$share/g/{topic}")]), [0]);
        let mut publisher = client(broker);
        for number in 0..12 {
            publisher.publish(&topic, 1, number.to_string());
        }
        gather(&mut all, 12);
        leaver.expect_nothing_before_barrier();
        for member in &mut all {
            member.unsubscribe(&[format!("$share/g/{topic}")]);
        }
        assert_eq!(
            publish_reason(&mut publisher, Publish::v5(&topic, "x"), 1),
            0x10
        );
    });
}

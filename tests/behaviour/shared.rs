//! Shared subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::{iter, thread};

use crate::common::*;

/// The members of a shared subscription share the messages: each goes to one member of each group,
/// and to each ordinary subscriber.
#[test]
fn shared_subscription_delivers_once_to_each_group() {
    const COUNT: u32 = 400;
    on_each(|broker| {
        for qos in [0, 1, 2] {
            let topic = unique("share");
            let member = |filter: &str| {
                let mut client = Raw::v5(broker, &unique("member"));
                assert_eq!(client.subscribe(&[(filter, qos)]), [qos]);
                client
            };
            let group = |name: &str| {
                iter::repeat_with(|| member(&format!("$share/{name}/{topic}")))
                    .take(4)
                    .collect::<Vec<Raw>>()
            };
            let groups = [group("one"), group("two")];
            let mut ordinary = member(&topic);
            let messages: Vec<Publish> = (0..COUNT)
                .map(|n| Publish::v5(&topic, n.to_be_bytes()))
                .collect();
            thread::scope(|scope| {
                scope.spawn(|| Raw::v5(broker, &unique("sharep")).publish_all(&messages, qos, 20));
                for message in ordinary.receive(COUNT as usize) {
                    assert_eq!(message.qos, qos);
                }
            });
            for members in groups {
                let mut counts: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
                let mut shares = Vec::new();
                for mut member in members {
                    let got = drain(&mut member);
                    shares.push(got.len());
                    for message in got {
                        *counts.entry(message.payload).or_default() += 1;
                    }
                }
                assert_eq!(
                    counts.len(),
                    COUNT as usize,
                    "QoS {qos}: lost some, shares {shares:?}"
                );
                assert!(
                    counts.values().all(|count| *count == 1),
                    "QoS {qos}: some came twice"
                );
                assert!(
                    shares.iter().all(|share| *share > 0),
                    "QoS {qos}: idle members: {shares:?}"
                );
            }
        }
    });
}

/// Everything that comes until the connection has been silent for a while, acknowledged.
fn drain(client: &mut Raw) -> Vec<Received> {
    let mut messages = Vec::new();
    while let Ok(Some(packet)) = client.packet_within(2 * ABSENT) {
        if packet.kind() == PUBREL {
            let id = packet.ack(client.version).id;
            client.send(&ack(PUBCOMP, id));
            continue;
        }
        let message = packet.publish(client.version);
        match message.qos {
            0 => {}
            1 => client.send(&ack(PUBACK, message.id)),
            _ => client.send(&ack(PUBREC, message.id)),
        }
        messages.push(message);
    }
    messages
}

/// Publishes to a shared subscription of three members, one of which reads, acknowledges nothing,
/// and dies with its session. Returns what it had got, and what the others get in the end.
fn member_dies(broker: &Broker, qos: u8, count: u32) -> (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>) {
    let topic = unique("share");
    let filter = format!("$share/group/{topic}");
    let mut members: Vec<Raw> = (0..3).map(|_| Raw::v5(broker, &unique("member"))).collect();
    for member in &mut members {
        member.subscribe(&[(&filter, qos)]);
    }
    let messages: Vec<Publish> = (0..count)
        .map(|n| Publish::v5(&topic, n.to_be_bytes()))
        .collect();
    Raw::v5(broker, &unique("sharep")).publish_all(&messages, qos, 10);
    let mut dying = members.remove(0);
    let mut unacknowledged = BTreeSet::new();
    while let Ok(Some(packet)) = dying.packet_within(2 * ABSENT) {
        unacknowledged.insert(packet.publish(Version::V5).payload);
    }
    assert!(!unacknowledged.is_empty(), "the member got nothing");
    dying.vanish();
    let mut others = BTreeSet::new();
    // Two rounds of silence from all of them end it.
    let mut silent = 0;
    while silent < 2 {
        let before = others.len();
        for member in &mut members {
            for message in drain(member) {
                assert!(others.insert(message.payload), "the others got one twice");
            }
        }
        silent = if others.len() == before {
            silent + 1
        } else {
            0
        };
    }
    (unacknowledged, others)
}

/// QoS 1 messages that a member had got but not acknowledged when it died go to another member
/// (MQTT 5.0 section 4.8.2).
#[test]
fn shared_subscription_redispatches_qos_1_when_a_member_dies() {
    on_each(|broker| {
        let (unacknowledged, others) = member_dies(broker, 1, 40);
        let lost = unacknowledged.difference(&others).count();
        assert_eq!(
            lost,
            0,
            "of {} that died with their member",
            unacknowledged.len()
        );
        assert_eq!(others.len(), 40);
    });
}

/// QoS 2 messages whose delivery to a member had begun when its session ended go to nobody else
/// [MQTT-4.8.2-5]; all others arrive.
#[test]
fn shared_subscription_never_redispatches_qos_2() {
    on_each(|broker| {
        let (unacknowledged, others) = member_dies(broker, 2, 40);
        assert_eq!(
            unacknowledged.intersection(&others).count(),
            0,
            "went to two members"
        );
        assert_eq!(
            unacknowledged.len() + others.len(),
            40,
            "lost some that had not been sent"
        );
    });
}

/// A session has each message twice: at QoS 1 by its own subscription, at QoS 2 as a member of a group. After a crash the
/// second came at QoS 1 under its Packet Identifier: the record of that did not say which of the two it was for.
#[test]
fn a_packet_identifier_stands_for_the_same_delivery_after_a_crash() {
    for cores in [1, 2] {
        let dir = Scratch::new("identifier");
        let data = dir.path("data");
        let args = ["--data-dir", &data, "--durability", "process"];
        let broker = Broker::start(cores, &args);
        if !broker.is_ours() {
            return;
        }
        let connect = Connect::v5("both")
            .clean(false)
            .properties(prop::four(prop::SESSION_EXPIRY_INTERVAL, 1_000));
        let mut client = Raw::connect(&broker, &connect);
        assert_eq!(client.subscribe(&[("t", 1), ("$share/g/t", 2)]), [1, 2]);
        Raw::v5(&broker, "publisher").publish("t", 2, "x");
        // By QoS.
        let both = |client: &mut Raw| -> BTreeMap<u8, Received> {
            let got = iter::repeat_with(|| client.next_publish()).take(2);
            got.map(|message| (message.qos, message)).collect()
        };
        let before = both(&mut client);
        drop(broker);
        let broker = Broker::start(cores, &args);
        let (mut client, connack) = Raw::session(&broker, &connect);
        assert!(connack.session_present);
        let after = both(&mut client);
        let of_qos_2 = |of: &BTreeMap<u8, Received>| of.get(&2).map(|message| message.id);
        assert_eq!(of_qos_2(&after), of_qos_2(&before), "{before:?}, {after:?}");
        assert!(after[&2].dup && after.contains_key(&1), "{after:?}");
        for message in after.values() {
            client.acknowledge(message);
        }
        client.expect_nothing_before_barrier();
    }
}

//! The state machine of the cores, without sockets: what the conformance suite shows over TCP is not repeated here,
//! only what needs control over links and time.

mod world;

use ringmq::config::limits::{Limits, QueueFullPolicy};
use ringmq::protocol::varint::put_varint;
use ringmq::protocol::{PacketType, PublishProperties, QoS, ReasonCode, Version, Will};
use ringmq::shard::counters::DropCause;
use ringmq::shard::input::{Input, Pressure, ShardId};
use ringmq::shard::outbox::{Event, Outbox};
use world::{Packet, World, connect, nothing, options, persistent, with_qos};

const SHARD_COUNTS: [usize; 3] = [1, 2, 4];
const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

#[test]
fn a_message_reaches_every_version_at_every_qos_on_every_shard() {
    for count in SHARD_COUNTS {
        for from in VERSIONS {
            for to in VERSIONS {
                let mut world = World::new(count);
                let publisher = world.connect(0, "publisher", from);
                let subscribers: Vec<_> = (0..6)
                    .map(|n| world.connect(n % count, &format!("subscriber-{n}"), to))
                    .collect();
                for (n, subscriber) in subscribers.iter().enumerate() {
                    let qos = QoS::from_bits((n % 3) as u8).expect("0 to 2");
                    world.subscribe(*subscriber, ["a/+", "a/b"][n % 2], qos);
                }
                for (id, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
                    .into_iter()
                    .enumerate()
                {
                    let payload = vec![id as u8; 5_000 * id];
                    world.publish(publisher, "a/b", &payload, qos, id as u16);
                    for (n, subscriber) in subscribers.iter().enumerate() {
                        let got = world.messages(*subscriber);
                        assert_eq!(got.len(), 1);
                        assert_eq!(got[0].payload, payload);
                        assert_eq!(got[0].topic, "a/b");
                        assert_eq!(got[0].qos as usize, id.min(n % 3));
                        assert!(!got[0].dup);
                    }
                }
            }
        }
    }
}

#[test]
fn suback_waits_until_every_other_shard_knows() {
    let mut world = World::new(4);
    let subscriber = world.connect(0, "subscriber", Version::V5);
    let home = world.clients[subscriber].shard;
    let others: Vec<_> = (0..4).filter(|shard| *shard != home).collect();
    world.links_flow = false;
    world.send_subscribe(subscriber, "a/b", options(), None);
    for (n, other) in others.iter().enumerate() {
        assert_eq!(world.next(subscriber), None, "after {n} acknowledgements");
        while world.deliver_one(home, *other) {}
        assert_eq!(world.next(subscriber), None);
        while world.deliver_one(*other, home) {}
    }
    assert_eq!(world.next(subscriber), Some(Packet::Suback(vec![0])));
    // A second subscriber of the same filter need not wait any more.
    let id = world.id_on(home, "second");
    let second = world.send_connect(home, connect(&id, Version::V5));
    assert!(matches!(world.next(second), Some(Packet::Connack { .. })));
    world.send_subscribe(second, "a/b", options(), None);
    assert_eq!(world.next(second), Some(Packet::Suback(vec![0])));
}

#[test]
fn takeover_meets_on_the_owner_wherever_the_connections_land() {
    for count in SHARD_COUNTS {
        let mut world = World::new(count);
        let mut last = None;
        for landing in 0..count * 2 {
            let (client, present) =
                world.reconnect(landing % count, persistent("same", Version::V5));
            assert_eq!(present, landing > 0);
            if let Some(old) = last {
                let reason = ReasonCode::SessionTakenOver;
                assert_eq!(world.next(old), Some(Packet::Disconnect(reason)));
                assert_eq!(world.next(old), Some(Packet::Closed));
            }
            last = Some(client);
        }
        let sessions: usize = world
            .shards
            .iter()
            .map(ringmq::shard::Shard::session_count)
            .sum();
        assert_eq!(sessions, 1);
    }
}

#[test]
fn unacknowledged_messages_come_again_in_order_with_dup() {
    for count in SHARD_COUNTS {
        for version in VERSIONS {
            let mut world = World::new(count);
            let publisher = world.connect(0, "publisher", Version::V5);
            let (subscriber, _) = world.reconnect(0, persistent("subscriber", version));
            world.subscribe(subscriber, "t", QoS::ExactlyOnce);
            for id in 1..=4 {
                let qos = if id % 2 == 0 {
                    QoS::ExactlyOnce
                } else {
                    QoS::AtLeastOnce
                };
                world.publish(publisher, "t", &[id as u8], qos, id);
            }
            let first = world.messages(subscriber);
            assert_eq!(first.len(), 4);
            world.ack(subscriber, PacketType::Puback, first[2].id.expect("QoS 1"));
            world.ack(subscriber, PacketType::Pubrec, first[1].id.expect("QoS 2"));
            assert!(matches!(
                world.next(subscriber),
                Some(Packet::Ack {
                    packet_type: PacketType::Pubrel,
                    ..
                })
            ));
            world.cut(subscriber);
            world.publish(publisher, "t", &[5], QoS::AtLeastOnce, 5);
            let (again, present) = world.reconnect(0, persistent("subscriber", version));
            // MQTT 3.1 has no Session Present flag.
            assert_eq!(present, version != Version::V31);
            let mut packets = Vec::new();
            while let Some(packet) = world.next(again) {
                packets.push(packet);
            }
            // PUBREL leaves in the control lane, before the data.
            let Packet::Ack {
                packet_type: PacketType::Pubrel,
                id,
                ..
            } = packets.remove(0)
            else {
                panic!("{packets:?}");
            };
            assert_eq!(Some(id), first[1].id);
            let got: Vec<_> = packets
                .into_iter()
                .map(|packet| match packet {
                    Packet::Publish(got) => (got.payload[0], got.dup, got.id),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(got[0], (1, true, first[0].id));
            assert_eq!(got[1], (4, true, first[3].id));
            assert_eq!((got[2].0, got[2].1), (5, false));
        }
    }
}

#[test]
fn the_window_is_never_wider_than_the_clients_receive_maximum() {
    let mut world = World::new(2);
    let publisher = world.connect(0, "publisher", Version::V5);
    let mut hello = connect("subscriber", Version::V5);
    hello.properties.receive_maximum = std::num::NonZeroU16::new(3);
    let subscriber = world.connect_with(1, hello);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    for id in 1..=10 {
        world.publish(publisher, "t", &[id as u8], QoS::AtLeastOnce, id);
    }
    let mut expected = 1;
    loop {
        let got = world.messages(subscriber);
        assert!(got.len() <= 3);
        let Some(first) = got.first() else { break };
        assert_eq!(first.payload, [expected]);
        for message in &got {
            assert_eq!(message.payload, [expected]);
            expected += 1;
        }
        for message in got {
            world.ack(subscriber, PacketType::Puback, message.id.expect("QoS 1"));
        }
    }
    assert_eq!(expected, 11);
}

#[test]
fn a_queue_is_bounded_and_every_drop_counted() {
    let limits = Limits {
        queue_messages_max: 3,
        ..Limits::default()
    };
    for (policy, kept) in [
        (QueueFullPolicy::DropOldest, vec![vec![3], vec![4], vec![5]]),
        (QueueFullPolicy::DropNewest, vec![vec![1], vec![2], vec![3]]),
    ] {
        let mut world = World::with_limits(
            1,
            Limits {
                queue_full: policy,
                ..limits.clone()
            },
        );
        let publisher = world.connect(0, "publisher", Version::V311);
        let (subscriber, _) = world.reconnect(0, persistent("subscriber", Version::V311));
        world.subscribe(subscriber, "t", QoS::AtLeastOnce);
        world.cut(subscriber);
        for id in 1..=5 {
            world.publish(publisher, "t", &[id as u8], QoS::AtLeastOnce, id);
        }
        let (again, _) = world.reconnect(0, persistent("subscriber", Version::V311));
        assert_eq!(world.payloads(again), kept);
        assert_eq!(world.shards[0].counters().dropped.iter().sum::<u64>(), 2);
    }
}

/// A shard that dropped five messages, and told of the first when it happened.
fn drops_not_told_of_yet() -> World {
    let limits = Limits {
        queue_messages_max: 3,
        ..Limits::default()
    };
    let mut world = World::with_limits(1, limits);
    let publisher = world.connect(0, "publisher", Version::V311);
    let (subscriber, _) = world.reconnect(0, persistent("subscriber", Version::V311));
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    world.cut(subscriber);
    // The time to CONNECT is over, and nothing is due.
    world.pass(60_000);
    for id in 1..=8 {
        world.publish(publisher, "t", &[id as u8], QoS::AtLeastOnce, id);
    }
    assert_eq!(world.shards[0].counters().dropped_total, 5);
    world
}

/// The drops that a shard tells of when it is given `input`.
fn told_with(world: &mut World, input: Input<'_>) -> u64 {
    let mut outbox = Outbox::default();
    world.shards[0].handle(world.now, input, &mut outbox);
    let told = outbox.events.iter().map(|event| match event {
        Event::Dropped { counts, .. } => counts.iter().sum::<u64>(),
        _ => 0,
    });
    told.sum()
}

#[test]
fn drops_not_told_of_yet_are_told_of_at_the_shutdown() {
    let mut world = drops_not_told_of_yet();
    assert_eq!(told_with(&mut world, Input::Shutdown), 4);
}

#[test]
fn drops_not_told_of_yet_are_told_of_in_time_though_nothing_else_happens() {
    let mut world = drops_not_told_of_yet();
    let end_ms = world.now.mono_ms + 10_000;
    let mut told = 0;
    while let Some(due_ms) = world.shards[0].next_deadline().filter(|at| *at <= end_ms) {
        world.now.mono_ms = due_ms.max(world.now.mono_ms + 1);
        told += told_with(&mut world, Input::Tick);
    }
    assert_eq!(told, 4);
}

#[test]
fn a_full_queue_may_end_the_connection() {
    let limits = Limits {
        queue_messages_max: 2,
        inflight_messages_max: 1,
        queue_full: QueueFullPolicy::Disconnect,
        ..Limits::default()
    };
    let mut world = World::with_limits(1, limits);
    let publisher = world.connect(0, "publisher", Version::V311);
    let subscriber = world.connect(0, "subscriber", Version::V5);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    for id in 1..=4 {
        world.publish(publisher, "t", &[id as u8], QoS::AtLeastOnce, id);
    }
    let end = std::iter::from_fn(|| world.next(subscriber))
        .skip(1)
        .collect::<Vec<_>>();
    assert_eq!(
        end,
        [
            Packet::Disconnect(ReasonCode::QuotaExceeded),
            Packet::Closed
        ]
    );
}

#[test]
fn retained_messages_agree_on_all_shards_whatever_the_order_of_arrival() {
    for first in 0..2 {
        let mut world = World::new(2);
        let publishers: Vec<_> = (0..2)
            .map(|shard| {
                let id = world.id_on(shard, "publisher");
                world.connect(shard, &id, Version::V311)
            })
            .collect();
        world.links_flow = false;
        let none = PublishProperties::default;
        for shard in [first, 1 - first] {
            let payload = [shard as u8];
            world.publish_with(
                publishers[shard],
                "t",
                &payload,
                QoS::AtMostOnce,
                0,
                true,
                none(),
            );
        }
        world.flow();
        world.links_flow = true;
        let mut seen = Vec::new();
        for n in 0..8 {
            let subscriber = world.connect(n % 2, &format!("subscriber-{n}"), Version::V5);
            world.subscribe(subscriber, "#", QoS::AtMostOnce);
            let got = world.messages(subscriber);
            assert_eq!(got.len(), 1);
            assert!(got[0].retain);
            seen.push(got[0].payload.clone());
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "all shards have the same message");
    }
}

/// A process that stands still (SIGSTOP, a virtual machine that is moved) stands still with what is on its way between cores: the shard
/// that had cleared the topic forgot that it had, before an older message for it arrived.
#[test]
fn what_was_cleared_stays_so_when_time_jumps() {
    let mut world = World::new(2);
    let publishers = [0, 1].map(|shard| {
        let id = world.id_on(shard, "publisher");
        world.connect(shard, &id, Version::V5)
    });
    world.links_flow = false;
    for (shard, payload) in [(1, &b"old"[..]), (0, b"")] {
        let none = PublishProperties::default();
        world.publish_with(
            publishers[shard],
            "t",
            payload,
            QoS::AtMostOnce,
            0,
            true,
            none,
        );
        world.now.wall_ms += 10;
    }
    world.now.mono_ms += 600_000;
    world.now.wall_ms += 600_000;
    for shard in 0..2 {
        world.input(shard, Input::Tick);
    }
    world.flow();
    world.links_flow = true;
    for shard in &world.shards {
        assert_eq!(shard.retained_count(), 0);
    }
    // And is forgotten in the end.
    world.pass(200_000);
    for shard in &world.shards {
        assert_eq!(shard.next_deadline(), None);
    }
}

#[test]
fn ten_thousand_retained_messages_wait_for_a_reader_that_stalls() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut world = World::new(2);
        let publisher = world.connect(0, "publisher", Version::V311);
        let none = PublishProperties::default;
        for n in 0..10_000 {
            let topic = format!("r/{n}");
            world.publish_with(
                publisher,
                &topic,
                &[1; 100],
                QoS::AtLeastOnce,
                1,
                true,
                none(),
            );
            world.next(publisher);
        }
        let subscriber = world.connect(1, "subscriber", Version::V5);
        world.clients[subscriber].reads = false;
        world.send_subscribe(subscriber, "r/#", with_qos(qos), None);
        let shard = &world.shards[world.clients[subscriber].shard];
        let waiting: usize = shard
            .outbound(world.clients[subscriber].conn)
            .map(<[u8]>::len)
            .sum();
        assert!(waiting < 100_000, "{waiting} bytes wait in memory");
        world.read_again(subscriber);
        assert!(matches!(world.next(subscriber), Some(Packet::Suback(_))));
        let mut count = 0;
        loop {
            let got = world.messages(subscriber);
            if got.is_empty() {
                break;
            }
            count += got.len();
            for id in got.iter().filter_map(|got| got.id) {
                world.ack(subscriber, PacketType::Puback, id);
            }
        }
        assert_eq!(count, 10_000, "{qos:?}");
        assert_eq!(
            world
                .shards
                .iter()
                .map(|s| s.counters().dropped[0])
                .sum::<u64>(),
            0
        );
    }
}

#[test]
fn shared_messages_go_to_one_member_and_to_another_when_it_leaves() {
    for count in SHARD_COUNTS {
        let mut world = World::new(count);
        let publisher = world.connect(0, "publisher", Version::V5);
        let members: Vec<_> = (0..4)
            .map(|n| {
                let member = world.connect(n % count, &format!("member-{n}"), Version::V5);
                world.subscribe(member, "$share/group/t", QoS::AtLeastOnce);
                member
            })
            .collect();
        for id in 1..=40 {
            world.publish(publisher, "t", &[id as u8], QoS::AtLeastOnce, id);
        }
        let mut seen = Vec::new();
        let mut lost = Vec::new();
        for (n, member) in members.iter().enumerate() {
            let got = world.messages(*member);
            assert_eq!(got.len(), 10, "member {n} of {count} shards");
            for message in got {
                // The first member acknowledges nothing.
                if n == 0 {
                    lost.push(message.payload[0]);
                } else {
                    seen.push(message.payload[0]);
                    world.ack(*member, PacketType::Puback, message.id.expect("QoS 1"));
                }
            }
        }
        world.cut(members[0]);
        for member in &members[1..] {
            seen.extend(world.messages(*member).iter().map(|got| got.payload[0]));
        }
        seen.sort_unstable();
        assert_eq!(
            seen,
            (1..=40).collect::<Vec<u8>>(),
            "{lost:?} were lost first"
        );
    }
}

#[test]
fn a_will_waits_for_its_delay_or_the_end_of_the_session() {
    for (delay_s, expiry_s, due_s) in [(0, 100, 0), (5, 100, 5), (5, 3, 3), (5, 0, 0)] {
        let mut world = World::new(2);
        let watcher = world.connect(0, "watcher", Version::V5);
        world.subscribe(watcher, "will", QoS::AtMostOnce);
        let mut hello = connect("mortal", Version::V5);
        hello.properties.session_expiry_s = Some(expiry_s);
        hello.will = Some(Will {
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "will",
            payload: b"gone",
            delay_s,
            message_expiry_s: Some(60),
            forward: nothing(),
        });
        let mortal = world.connect_with(1, hello);
        world.cut(mortal);
        if due_s > 0 {
            world.pass(due_s * 1_000 - 20);
            assert!(
                world.messages(watcher).is_empty(),
                "{delay_s} {expiry_s}: too early"
            );
            world.pass(40);
        }
        let got = world.messages(watcher);
        assert_eq!(got.len(), 1, "{delay_s} {expiry_s}");
        assert_eq!(got[0].message_expiry_s, Some(60));
        world.pass(200_000);
        assert!(
            world.messages(watcher).is_empty(),
            "a Will is published once"
        );
    }
}

#[test]
fn a_will_is_discarded_by_disconnect_and_by_resuming_in_time() {
    let mut world = World::new(2);
    let watcher = world.connect(0, "watcher", Version::V5);
    world.subscribe(watcher, "will", QoS::AtMostOnce);
    let hello = || {
        let mut hello = persistent("mortal", Version::V5);
        hello.will = Some(Will {
            qos: QoS::AtMostOnce,
            retain: false,
            topic: "will",
            payload: b"gone",
            delay_s: 5,
            message_expiry_s: None,
            forward: nothing(),
        });
        hello
    };
    let mortal = world.connect_with(1, hello());
    world.cut(mortal);
    world.pass(4_000);
    let mortal = world.connect_with(0, hello());
    world.pass(10_000);
    assert!(world.messages(watcher).is_empty());
    world.disconnect(mortal);
    world.pass(10_000);
    assert!(world.messages(watcher).is_empty());
}

#[test]
fn keep_alive_is_one_and_a_half_times_exactly() {
    let mut world = World::new(1);
    let mut hello = connect("quiet", Version::V5);
    hello.keep_alive_s = 10;
    let quiet = world.connect_with(0, hello);
    world.pass(14_990);
    world.send(quiet, &[0xc0, 0]);
    assert_eq!(world.next(quiet), Some(Packet::Pingresp));
    world.pass(14_990);
    assert_eq!(world.next(quiet), None);
    world.pass(30);
    assert_eq!(
        world.next(quiet),
        Some(Packet::Disconnect(ReasonCode::KeepAliveTimeout))
    );
    assert_eq!(world.next(quiet), Some(Packet::Closed));
}

#[test]
fn no_connect_no_connection() {
    let mut world = World::new(1);
    let silent = world.accept(0, Version::V311);
    world.send(silent, &[0x10]);
    world.pass(9_990);
    assert_eq!(world.next(silent), None);
    world.pass(20);
    assert_eq!(world.next(silent), Some(Packet::Closed));
}

#[test]
fn sessions_of_3_x_clients_end_after_their_cap() {
    let limits = Limits {
        session_expiry_v3_s: 60,
        ..Limits::default()
    };
    let mut world = World::with_limits(1, limits);
    let (client, _) = world.reconnect(0, persistent("v3", Version::V311));
    world.subscribe(client, "t", QoS::AtLeastOnce);
    world.cut(client);
    world.pass(59_000);
    assert_eq!(world.shards[0].session_count(), 1);
    world.pass(2_000);
    assert_eq!(world.shards[0].session_count(), 0);
    let (_, present) = world.reconnect(0, persistent("v3", Version::V311));
    assert!(!present);
}

#[test]
fn sessions_that_expire_together_end_over_several_ticks() {
    let mut world = World::new(1);
    for n in 0..1_500 {
        let client = world.connect_with(0, persistent(&format!("c{n}"), Version::V5));
        world.cut(client);
    }
    let left = |world: &World| world.shards[0].session_count();
    assert_eq!(left(&world), 1_500);
    let mut ended = Vec::new();
    let before = 3_600_000 - 100;
    world.pass(before);
    for _ in 0..200 {
        let before = left(&world);
        world.pass(1);
        if left(&world) < before {
            ended.push(before - left(&world));
        }
    }
    assert_eq!((left(&world), ended), (0, vec![512, 512, 476]));
    assert_eq!(world.shards[0].next_deadline(), None);
}

#[test]
fn who_is_gone_leaves_no_timer() {
    let mut world = World::new(1);
    // A session of an hour that its client starts over, and connections that would be looked after for a day.
    for _ in 0..10 {
        let mut hello = persistent("c", Version::V5);
        hello.clean_start = true;
        hello.keep_alive_s = u16::MAX;
        let client = world.connect_with(0, hello);
        // The time to CONNECT is over: the next look is that at the Keep Alive.
        world.pass(60_000);
        world.cut(client);
        world.shards[0].check_invariants();
    }
    let client = world.connect_with(0, connect("c", Version::V5));
    world.disconnect(client);
    world.cut(client);
    assert_eq!(world.shards[0].session_count(), 0);
    assert_eq!(world.shards[0].next_deadline(), None);
}

#[test]
fn messages_expire_while_they_wait_and_keep_their_remaining_lifetime() {
    let mut world = World::new(2);
    let publisher = world.connect(0, "publisher", Version::V5);
    let (subscriber, _) = world.reconnect(1, persistent("subscriber", Version::V5));
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    world.cut(subscriber);
    for (id, seconds) in [(1, 5), (2, 20)] {
        let properties = PublishProperties {
            message_expiry_s: Some(seconds),
            ..PublishProperties::default()
        };
        world.publish_with(
            publisher,
            "t",
            &[id],
            QoS::AtLeastOnce,
            id.into(),
            false,
            properties,
        );
    }
    world.pass(10_000);
    let (again, _) = world.reconnect(0, persistent("subscriber", Version::V5));
    let got = world.messages(again);
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].payload[0], got[0].message_expiry_s), (2, Some(10)));
}

#[test]
fn overlapping_subscriptions_give_one_message_with_all_identifiers() {
    let mut world = World::new(2);
    let publisher = world.connect(0, "publisher", Version::V5);
    let subscriber = world.connect(1, "subscriber", Version::V5);
    for (id, filter, bits) in [(1, "a/#", 0), (2, "a/+", 2), (300, "a/b", 1)] {
        let options = ringmq::protocol::SubscribeOptions::from_bits(bits).expect("valid");
        world.send_subscribe(subscriber, filter, options, Some(id));
        assert!(matches!(world.next(subscriber), Some(Packet::Suback(_))));
    }
    world.publish(publisher, "a/b", b"x", QoS::ExactlyOnce, 1);
    let got = world.messages(subscriber);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].qos, QoS::ExactlyOnce);
    let mut ids = got[0].subscription_ids.clone();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 300]);
}

#[test]
fn what_many_have_outbound_at_once_is_each_ones_own() {
    let mut world = World::new(1);
    let publisher = world.connect(0, "publisher", Version::V311);
    let versions = [Version::V31, Version::V311, Version::V5];
    // One filter each, or both: those who have both get runs of a page that do not touch.
    let filters: [&[&str]; 3] = [&["a"], &["b"], &["a", "b"]];
    let readers: Vec<_> = (0..18)
        .map(|n| {
            let reader = world.connect(0, &format!("reader-{n}"), versions[n % 3]);
            for filter in filters[n / 3 % 3] {
                world.subscribe(reader, filter, QoS::AtMostOnce);
            }
            (reader, filters[n / 3 % 3])
        })
        .collect();
    let mut said = Vec::new();
    for round in 0..40 {
        for (n, (reader, _)) in readers.iter().enumerate() {
            match (n + round) % 5 {
                0 => world.read_again(*reader),
                1 => world.clients[*reader].reads = false,
                _ if !world.clients[*reader].reads => {
                    world.write_some(*reader, 1_000 * n);
                }
                _ => {}
            }
        }
        if round % 10 == 9 {
            world.cut(readers[round / 10].0);
        }
        for n in 0..30 {
            let topic = ["a", "b"][(n * n + round) % 3 % 2];
            // Packets of a few bytes, of more than a page takes, and in between.
            let mut payload = vec![b'x'; [10, 700, 4_090, 3_000][n % 4]];
            payload.extend_from_slice(format!("{round}/{n}").as_bytes());
            world.publish(publisher, topic, &payload, QoS::AtMostOnce, 0);
            said.push((topic, payload));
        }
        world.shards[0].check_invariants();
    }
    // The first four were cut.
    for (reader, filters) in readers.into_iter().skip(4) {
        world.read_again(reader);
        let got = world.messages(reader).into_iter();
        let got: Vec<_> = got.map(|got| (got.topic, got.payload)).collect();
        let due = said.iter().filter(|(topic, _)| filters.contains(topic));
        let due = due.map(|(topic, payload)| (topic.to_string(), payload.clone()));
        assert!(got == due.collect::<Vec<_>>(), "reader {reader}");
    }
    world.shards[0].check_invariants();
}

#[test]
fn acknowledgements_overtake_data_that_waits() {
    let mut world = World::new(1);
    let publisher = world.connect(0, "publisher", Version::V311);
    let both = world.connect(0, "both", Version::V311);
    world.subscribe(both, "data", QoS::AtMostOnce);
    world.clients[both].reads = false;
    for _ in 0..100 {
        world.publish(publisher, "data", &[0; 1_000], QoS::AtMostOnce, 0);
    }
    world.publish(both, "elsewhere", b"x", QoS::AtLeastOnce, 7);
    world.read_again(both);
    assert!(matches!(
        world.next(both),
        Some(Packet::Ack {
            packet_type: PacketType::Puback,
            ..
        })
    ));
    assert_eq!(world.messages(both).len(), 100);
}

#[test]
fn what_a_packet_lacks_and_some_like_it_are_expected() {
    let mut world = World::new(1);
    let client = world.connect(0, "client", Version::V311);
    let conn = world.clients[client].conn;
    let expected = |world: &World| world.shards[0].expected_bytes(conn);
    assert_eq!(expected(&world), 0);
    // PUBLISH packets of so many bytes with their fixed header, of which so many arrive; and what is expected then.
    let cases: [(usize, usize, usize); 4] = [
        (100, 40, 60 + 16 * 100),
        (4_000, 2_000, 2_000 + 16 * 4_000),
        (5_000, 4_999, 1 + 64 * 1_024),
        (200_000, 8_192, 191_808 + 64 * 1_024),
    ];
    for (len, arrived, due) in cases {
        let head = match len {
            0..130 => 2,
            130..16_387 => 3,
            _ => 4,
        };
        let mut packet = vec![0x30];
        put_varint(&mut packet, len - head);
        packet.extend([0, 1, b't']);
        packet.resize(len, b'x');
        // Of a length that is not known yet nothing can be expected but the rest of it.
        world.send(client, &packet[..1]);
        assert_eq!(expected(&world), 1 + 16 * 2);
        world.send(client, &packet[1..arrived]);
        assert_eq!(expected(&world), due, "{len}");
        world.send(client, &packet[arrived..]);
        assert_eq!(expected(&world), 0);
    }
    world.cut(client);
    assert_eq!(expected(&world), 0);
}

#[test]
fn unsubscribing_ends_delivery_and_interest() {
    let mut world = World::new(2);
    let publisher = world.connect(0, "publisher", Version::V5);
    let subscriber = world.connect(1, "subscriber", Version::V5);
    for filter in ["a/b", "a/+", "$share/g/a/b"] {
        world.subscribe(subscriber, filter, QoS::AtLeastOnce);
    }
    for filter in ["a/b", "a/+", "$share/g/a/b"] {
        world.unsubscribe(subscriber, filter);
    }
    world.publish(publisher, "a/b", b"x", QoS::AtLeastOnce, 1);
    assert_eq!(
        world.next(publisher),
        Some(Packet::Ack {
            packet_type: PacketType::Puback,
            id: 1,
            reason: ReasonCode::NoMatchingSubscribers
        })
    );
    assert!(world.messages(subscriber).is_empty());
}

#[test]
fn a_client_at_its_limit_of_subscriptions_may_still_change_one() {
    let limits = Limits {
        subscriptions_per_session_max: 2,
        ..Limits::default()
    };
    let mut world = World::with_limits(2, limits);
    let client = world.connect(0, "client", Version::V5);
    let subscribe = |world: &mut World, filter, bits| {
        let options = ringmq::protocol::SubscribeOptions::from_bits(bits).expect("valid");
        world.send_subscribe(client, filter, options, None);
        world.next(client)
    };
    for filter in ["a", "$share/g/a"] {
        assert_eq!(
            subscribe(&mut world, filter, 0),
            Some(Packet::Suback(vec![0]))
        );
    }
    let refused = ReasonCode::QuotaExceeded as u8;
    assert_eq!(
        subscribe(&mut world, "b", 0),
        Some(Packet::Suback(vec![refused]))
    );
    assert_eq!(
        subscribe(&mut world, "$share/h/a", 0),
        Some(Packet::Suback(vec![refused]))
    );
    for filter in ["a", "$share/g/a"] {
        assert_eq!(
            subscribe(&mut world, filter, 1),
            Some(Packet::Suback(vec![1]))
        );
    }
}

#[test]
fn the_identifier_of_what_may_not_be_sent_again_goes_to_no_other_message() {
    // The client may have it, and would take the next message under the identifier for it.
    let mut world = World::new(1);
    let publisher = world.connect(0, "publisher", Version::V5);
    let mut hello = persistent("subscriber", Version::V5);
    let (subscriber, _) = world.reconnect(0, hello.clone());
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    world.publish(publisher, "t", &[1; 200], QoS::ExactlyOnce, 1);
    let id = world.messages(subscriber)[0].id;
    world.cut(subscriber);
    hello.properties.packet_bytes_max = std::num::NonZeroU32::new(100);
    for n in 0..3 {
        let (subscriber, session_present) = world.reconnect(0, hello.clone());
        assert!(session_present);
        let dropped = world.shards[0].counters().dropped[DropCause::TooLarge as usize];
        assert_eq!(dropped, 1);
        world.publish(publisher, "t", b"2", QoS::ExactlyOnce, 2 + n);
        let next = world.messages(subscriber)[0].id;
        assert_ne!(next, id);
        let next = next.expect("of QoS 2");
        world.ack(subscriber, PacketType::Pubrec, next);
        world.next(subscriber);
        world.ack(subscriber, PacketType::Pubcomp, next);
        world.cut(subscriber);
    }
}

#[test]
fn a_topic_alias_does_not_make_a_packet_larger_than_the_client_accepts() {
    // PUBLISH of QoS 0 without properties: 2 + 2 + topic + 1 + payload; an alias adds 3.
    let bytes = 2 + 2 + 5 + 1 + 10;
    for (maximum, alone, later) in [(bytes - 1, 0, 0), (bytes, 1, 1), (bytes + 3, 1, 1)] {
        let mut world = World::new(1);
        let publisher = world.connect(0, "publisher", Version::V5);
        let mut hello = connect("subscriber", Version::V5);
        hello.properties.packet_bytes_max = std::num::NonZeroU32::new(maximum);
        hello.properties.topic_alias_maximum = 5;
        let subscriber = world.accept(0, Version::V5);
        let mut hello_bytes = Vec::new();
        hello.encode(&mut hello_bytes);
        world.send(subscriber, &hello_bytes);
        world.next(subscriber);
        world.subscribe(subscriber, "topic", QoS::AtMostOnce);
        for expected in [alone, later] {
            world.publish(publisher, "topic", &[0; 10], QoS::AtMostOnce, 0);
            let sent: usize = world.clients[subscriber].inbox.len();
            assert!(
                sent <= maximum as usize,
                "{sent} bytes to a client that accepts {maximum}"
            );
            assert_eq!(world.messages(subscriber).len(), expected);
        }
    }
}

#[test]
fn a_reason_string_does_not_make_a_packet_larger_than_the_client_accepts() {
    for maximum in [20, 300] {
        let mut world = World::new(1);
        let mut hello = connect("client", Version::V5);
        hello.properties.packet_bytes_max = std::num::NonZeroU32::new(maximum);
        let client = world.connect_with(0, hello.clone());
        // A second CONNECT.
        world.send(client, &[0x10, 0]);
        let bytes = world.clients[client].inbox.len();
        assert!(bytes <= maximum as usize, "DISCONNECT of {bytes} bytes");
        assert_eq!(
            bytes > 20,
            maximum > 20,
            "a Reason String that fits is sent"
        );
        assert_eq!(
            world.next(client),
            Some(Packet::Disconnect(ReasonCode::ProtocolError))
        );
        // Refused: this broker has no Authentication Methods.
        hello.properties.authentication_method = Some("none");
        let client = world.accept(0, Version::V5);
        let mut hello_bytes = Vec::new();
        hello.encode(&mut hello_bytes);
        world.send(client, &hello_bytes);
        let bytes = world.clients[client].inbox.len();
        assert!(bytes <= maximum as usize, "CONNACK of {bytes} bytes");
        assert_eq!(
            bytes > 20,
            maximum > 20,
            "a Reason String that fits is sent"
        );
    }
}

#[test]
fn time_in_which_a_link_or_the_store_keeps_the_core_from_reading_is_no_silence() {
    let inputs: [fn(ShardId, Pressure) -> Input<'static>; 2] = [
        |to, pressure| Input::Link { to, pressure },
        |_, pressure| Input::StorePressure(pressure),
    ];
    for input in inputs {
        let mut world = World::new(2);
        let mut hello = connect("client", Version::V5);
        hello.keep_alive_s = 2;
        let client = world.connect_with(0, hello);
        let shard = world.clients[client].shard;
        let to = ShardId(1 - shard as u8);
        world.pass(1_000);
        world.input(shard, input(to, Pressure::Hard));
        world.pass(10_000);
        assert_eq!(world.next(client), None);
        world.input(shard, input(to, Pressure::Soft));
        world.pass(2_900);
        assert_eq!(world.next(client), None);
        world.pass(200);
        assert_eq!(
            world.next(client),
            Some(Packet::Disconnect(ReasonCode::KeepAliveTimeout))
        );
    }
}

#[test]
fn a_core_reads_again_when_neither_a_link_nor_the_store_keeps_it_from_it() {
    let mut world = World::new(2);
    let mut hello = connect("client", Version::V5);
    hello.keep_alive_s = 2;
    let client = world.connect_with(0, hello);
    let shard = world.clients[client].shard;
    let to = ShardId(1 - shard as u8);
    world.input(shard, Input::StorePressure(Pressure::Hard));
    let pressure = Pressure::Hard;
    world.input(shard, Input::Link { to, pressure });
    world.pass(10_000);
    world.input(shard, Input::StorePressure(Pressure::Low));
    world.pass(10_000);
    assert_eq!(world.next(client), None);
    let pressure = Pressure::Low;
    world.input(shard, Input::Link { to, pressure });
    world.pass(2_900);
    assert_eq!(world.next(client), None);
    world.pass(200);
    assert_eq!(
        world.next(client),
        Some(Packet::Disconnect(ReasonCode::KeepAliveTimeout))
    );
}

#[test]
fn a_message_does_not_expire_once_it_was_sent() {
    let mut world = World::new(2);
    let publisher = world.connect(0, "publisher", Version::V5);
    let (subscriber, _) = world.reconnect(1, persistent("subscriber", Version::V5));
    world.subscribe(subscriber, "t", QoS::ExactlyOnce);
    for (id, qos) in [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce)] {
        let properties = PublishProperties {
            message_expiry_s: Some(5),
            ..PublishProperties::default()
        };
        world.publish_with(publisher, "t", &[id], qos, id.into(), false, properties);
    }
    let sent = world.messages(subscriber);
    assert_eq!(sent.len(), 2);
    world.cut(subscriber);
    world.pass(10_000);
    let (again, _) = world.reconnect(0, persistent("subscriber", Version::V5));
    let got = world.messages(again);
    let ids = |got: &[world::Got]| got.iter().map(|got| got.id).collect::<Vec<_>>();
    assert_eq!(ids(&got), ids(&sent));
    assert!(
        got.iter()
            .all(|got| got.dup && got.message_expiry_s == Some(0))
    );
}

#[test]
fn a_retained_message_that_expires_does_not_hide_one_that_is_on_its_way() {
    let mut world = World::new(2);
    let on_shard = |world: &mut World, shard: usize, role: &str| {
        let id = world.id_on(shard, role);
        world.connect(shard, &id, Version::V5)
    };
    let publishers = [0, 1].map(|shard| on_shard(&mut world, shard, "publisher"));
    world.links_flow = false;
    let soon = PublishProperties {
        message_expiry_s: Some(1),
        ..PublishProperties::default()
    };
    let never = PublishProperties::default();
    world.publish_with(publishers[0], "t", b"soon", QoS::AtMostOnce, 0, true, soon);
    world.publish_with(
        publishers[1],
        "t",
        b"never",
        QoS::AtMostOnce,
        0,
        true,
        never,
    );
    // Shard 0 looks for what has expired before the other message arrives.
    world.pass(20_000);
    world.flow();
    world.links_flow = true;
    for shard in 0..2 {
        let subscriber = on_shard(&mut world, shard, "subscriber");
        world.subscribe(subscriber, "#", QoS::AtMostOnce);
        assert_eq!(world.payloads(subscriber), [b"never"], "shard {shard}");
    }
}

#[test]
fn unsubscribing_ends_the_replay_of_retained_messages() {
    let mut world = World::new(1);
    let publisher = world.connect(0, "publisher", Version::V311);
    let none = PublishProperties::default;
    for n in 0..5_000 {
        let topic = format!("r/{n}");
        world.publish_with(
            publisher,
            &topic,
            &[1; 100],
            QoS::AtMostOnce,
            0,
            true,
            none(),
        );
    }
    let subscriber = world.connect(0, "subscriber", Version::V5);
    world.clients[subscriber].reads = false;
    world.send_subscribe(subscriber, "r/#", options(), None);
    let mut bytes = Vec::new();
    ringmq::protocol::Unsubscribe::encode(
        &mut bytes,
        Version::V5,
        ringmq::protocol::PacketId::MIN,
        &ringmq::protocol::UserProperties::default(),
        &["r/#"],
    );
    world.send(subscriber, &bytes);
    world.read_again(subscriber);
    let mut count = 0;
    while let Some(packet) = world.next(subscriber) {
        count += u32::from(matches!(packet, Packet::Publish(_)));
    }
    assert!(count < 1_000, "{count} messages came after UNSUBSCRIBE");
}

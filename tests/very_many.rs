//! A message for very many sessions of a shard: when it leaves, what passes it, and what does not (ADR 13 and 15).

mod world;

use ringmq::config::limits::Limits;
use ringmq::protocol::{PacketType, PublishProperties, QoS, ReasonCode, Version};
use ringmq::shard::input::Input;
use ringmq::shard::record::{Durability, Record};
use world::{Packet, World, subscribed};

/// One shard with so many subscribers of `all`, and a publisher.
fn crowd(count: usize, qos: QoS) -> (World, usize, Vec<usize>) {
    let mut world = World::new(1);
    let subscribe = |n| {
        let subscriber = world.connect(0, &format!("s{n}"), Version::V5);
        world.subscribe(subscriber, "all", qos);
        subscriber
    };
    let subscribers = (0..count).map(subscribe).collect();
    let publisher = world.connect(0, "publisher", Version::V5);
    (world, publisher, subscribers)
}

/// The same with so many that a message for them goes on by `Input::FanOut` alone.
fn large_crowd(qos: QoS) -> (World, usize, Vec<usize>) {
    let (mut world, publisher, subscribers) = crowd(1_100, qos);
    world.links_flow = false;
    (world, publisher, subscribers)
}

#[test]
fn what_very_many_get_may_leave_later_unless_there_is_more_for_one_of_them() {
    let (mut world, publisher, subscribers) = crowd(300, QoS::AtLeastOnce);
    let first = subscribers[0];
    let conns: Vec<_> = subscribers
        .iter()
        .map(|at| world.clients[*at].conn)
        .collect();
    let told = |world: &mut World| {
        let lists = world.told.replace(Default::default());
        let [dirty, later] = lists.unwrap_or_default().map(|mut conns| {
            conns.sort_by_key(|conn| conn.index);
            conns
        });
        (dirty, later)
    };
    world.clients[first].reads = false;
    told(&mut world);
    world.publish(publisher, "all", b"1", QoS::AtMostOnce, 0);
    assert_eq!(told(&mut world), (vec![], conns.clone()));
    // The shell knows of the first one already; the others were written to.
    world.publish(publisher, "all", b"2", QoS::AtMostOnce, 0);
    assert_eq!(told(&mut world), (vec![], conns[1..].to_vec()));
    // An answer does not wait for them.
    world.send(first, &[0xc0, 0]);
    assert_eq!(told(&mut world), (vec![conns[0]], vec![]));
    world.publish(publisher, "all", b"3", QoS::AtMostOnce, 0);
    assert_eq!(told(&mut world), (vec![], conns[1..].to_vec()));
    world.read_again(first);
    assert_eq!(world.next(first), Some(Packet::Pingresp));
    assert_eq!(world.payloads(first), [b"1", b"2", b"3"]);
    // Nor does much, or it would be dropped as if the client were slow.
    world.publish(publisher, "all", &[4; 20_000], QoS::AtMostOnce, 0);
    assert_eq!(told(&mut world), (conns.clone(), vec![]));
    assert_eq!(world.messages(first).len(), 1);
    // Few get this.
    world.subscribe(first, "few", QoS::AtMostOnce);
    told(&mut world);
    world.publish(publisher, "few", b"5", QoS::AtMostOnce, 0);
    assert_eq!(told(&mut world), (vec![conns[0]], vec![]));
    for at in &subscribers[1..] {
        assert_eq!(world.messages(*at).len(), 4);
    }
}

#[test]
fn a_message_for_very_many_lets_everything_else_pass() {
    let (mut world, publisher, subscribers) = large_crowd(QoS::AtLeastOnce);
    let other = world.connect(0, "other", Version::V311);
    world.subscribe(other, "few", QoS::AtMostOnce);
    world.publish(publisher, "all", b"1", QoS::AtLeastOnce, 1);
    let acked = Some(Packet::Ack {
        packet_type: PacketType::Puback,
        id: 1,
        reason: ReasonCode::Success,
    });
    assert_eq!(world.next(publisher), acked);
    world.publish(publisher, "few", b"2", QoS::AtMostOnce, 0);
    assert_eq!(world.payloads(other), [b"2"]);
    let mut have = 0;
    let mut pieces = 0;
    while world.shards[0].is_fanning_out() {
        world.input(0, Input::FanOut);
        let got = subscribers.iter().map(|at| world.messages(*at).len());
        let got: usize = got.sum();
        assert!(got < 500, "{got} in one piece");
        (have, pieces) = (have + got, pieces + 1);
    }
    assert_eq!(have, subscribers.len());
    assert!(pieces > 2);
}

#[test]
fn what_is_under_way_to_a_session_comes_before_all_else_that_happens_to_it() {
    let (mut world, publisher, subscribers) = large_crowd(QoS::AtMostOnce);
    let [few, leaves, again, ends, waits] = subscribers[..5] else {
        unreachable!("there are more")
    };
    world.subscribe(few, "few", QoS::AtMostOnce);
    let retained = |world: &mut World, payload: &[u8]| {
        let none = PublishProperties::default;
        world.publish_with(publisher, "all", payload, QoS::AtMostOnce, 0, true, none());
    };
    retained(&mut world, b"1");
    retained(&mut world, b"2");
    assert!(world.payloads(few).is_empty());
    // Another message.
    world.publish(publisher, "few", b"3", QoS::AtMostOnce, 0);
    assert_eq!(world.payloads(few), [b"1", b"2", b"3"]);
    // The end of its subscription.
    world.unsubscribe(leaves, "all");
    assert_eq!(world.payloads(leaves), [b"1", b"2"]);
    // The retained message, which it is owed anew.
    world.subscribe(again, "all", QoS::AtMostOnce);
    assert_eq!(world.payloads(again), [b"1", b"2", b"2"]);
    // Its end: what it does not get is counted.
    let dropped = world.shards[0].counters().dropped_total;
    world.cut(ends);
    assert_eq!(world.shards[0].counters().dropped_total, dropped + 2);
    // Whoever has its number now gets nothing of that.
    let next = world.connect(0, "next", Version::V5);
    world.subscribe(next, "all", QoS::AtMostOnce);
    assert_eq!(world.payloads(next), [b"2"]);
    assert!(world.payloads(waits).is_empty());
    world.flow();
    assert!(world.payloads(next).is_empty());
    for done in [few, leaves, again] {
        assert!(world.payloads(done).is_empty());
    }
    for at in &subscribers[4..] {
        assert_eq!(world.payloads(*at), [b"1", b"2"]);
    }
}

#[test]
fn what_is_under_way_to_very_many_is_bounded_and_all_of_it_arrives() {
    let (mut world, publisher, subscribers) = large_crowd(QoS::AtMostOnce);
    for n in 0..100 {
        world.publish(publisher, "all", &[n], QoS::AtMostOnce, 0);
    }
    // The oldest have left so that there is room.
    let first = world.payloads(subscribers[0]);
    assert!(first.len() >= 100 - 64, "{} of 100", first.len());
    world.flow();
    let rest = world.payloads(subscribers[0]);
    let expected: Vec<_> = (0..100).map(|n| vec![n]).collect();
    assert_eq!([first, rest].concat(), expected);
    for at in &subscribers[1..] {
        assert_eq!(world.payloads(*at), expected);
    }
}

/// So many clients that keep their sessions and subscribe to `all`, and a publisher.
fn stored_crowd(count: usize, shard_count: usize, qos: QoS) -> (World, usize, Vec<usize>) {
    let mut world = World::with_store(shard_count, Limits::default(), Durability::Power);
    let subscribe = |n| subscribed(&mut world, &format!("s{n}"), "all", qos);
    let subscribers = (0..count).map(subscribe).collect();
    let publisher = world.connect(0, "publisher", Version::V5);
    world.links_flow = false;
    (world, publisher, subscribers)
}

#[test]
fn a_message_for_very_many_is_acknowledged_when_all_who_are_stored_have_it() {
    for shard_count in [1, 2] {
        let (mut world, publisher, subscribers) =
            stored_crowd(1_200 * shard_count, shard_count, QoS::AtLeastOnce);
        world.publish(publisher, "all", b"1", QoS::AtLeastOnce, 1);
        let (mut have, mut pieces) = (0, 0);
        let shard = world.clients[publisher].shard;
        while world.shards[shard].is_fanning_out() {
            assert!(world.records.iter().all(Vec::is_empty), "who has it?");
            world.input(shard, Input::FanOut);
            let got = subscribers.iter().map(|at| world.messages(*at).len());
            let got: usize = got.sum();
            assert!(got < 500, "{got} in one piece");
            (have, pieces) = (have + got, pieces + 1);
        }
        assert!(pieces > 2, "{pieces}");
        let here = |at: &&usize| world.clients[**at].shard == shard;
        assert_eq!(have, subscribers.iter().filter(here).count());
        // The other shard has it in pieces, too, and answers behind the last.
        world.flow();
        assert_eq!(world.next(publisher), None, "PUBACK before its record");
        let records: Vec<_> = world.records.iter().flatten().collect();
        let [Record::Message { receivers, .. }] = &records[..] else {
            panic!("{} records", records.len());
        };
        assert_eq!(receivers.len(), subscribers.len());
        world.commit();
        let acked = Some(Packet::Ack {
            packet_type: PacketType::Puback,
            id: 1,
            reason: ReasonCode::Success,
        });
        assert_eq!(world.next(publisher), acked);
    }
}

//! Retained messages owed to a subscription: how many are taken at once, how much work one turn does for them, and when they are no longer
//! owed (MQTT 5 §3.3.1.3, §3.10.4).

mod world;

use ringmq::config::limits::Limits;
use ringmq::protocol::{
    PacketId, PacketType, PublishProperties, QoS, Subscribe, Unsubscribe, UserProperties, Version,
};
use ringmq::shard::input::Input;
use ringmq::shard::record::Durability;
use world::{Packet, World, keeper, options, with_qos};

fn retain(world: &mut World, publisher: usize, topic: &str, qos: QoS) {
    let id = u16::from(qos != QoS::AtMostOnce);
    world.publish_with(
        publisher,
        topic,
        b"x",
        qos,
        id,
        true,
        PublishProperties::default(),
    );
}

#[test]
fn a_replay_stops_where_the_ring_of_identifiers_ends() {
    let mut world = World::new(1);
    let publisher = world.connect(0, "publisher", Version::V5);
    for n in 0..32 {
        retain(&mut world, publisher, &format!("r/{n}"), QoS::AtLeastOnce);
    }
    let subscriber = world.connect(0, "subscriber", Version::V5);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    let mut first = 0;
    for n in 0..64_990 {
        world.publish(publisher, "t", b"x", QoS::AtLeastOnce, 1);
        let [got] = &world.messages(subscriber)[..] else {
            panic!("one each");
        };
        match n {
            0 => first = got.id.unwrap(),
            _ => world.ack(subscriber, PacketType::Puback, got.id.unwrap()),
        }
    }
    world.subscribe(subscriber, "r/#", QoS::AtLeastOnce);
    let mut got = world.messages(subscriber);
    assert!((1..32).contains(&got.len()), "{}", got.len());
    world.ack(subscriber, PacketType::Puback, first);
    got.append(&mut world.messages(subscriber));
    assert_eq!(got.len(), 32);
}

#[test]
fn who_waits_for_little_among_much_does_not_hold_the_core() {
    let mut world = World::new(1);
    let publisher = world.connect(0, "publisher", Version::V5);
    for n in 0..1_000 {
        retain(&mut world, publisher, &format!("a/{n}/b"), QoS::AtMostOnce);
    }
    retain(&mut world, publisher, "z/z/x7", QoS::AtMostOnce);
    let [busy, other] = ["busy", "other"].map(|id| world.connect(0, id, Version::V5));
    world.links_flow = false;
    for n in 0..20 {
        world.send_subscribe(busy, &format!("+/+/x{n}"), options(), None);
    }
    assert!(world.shards[0].is_fanning_out());
    // Somebody else has to look through as much, and does not wait until the first is done.
    world.send_subscribe(other, "+/+/x7", options(), None);
    let mut pieces = 0;
    let mut came_after = [None; 2];
    while world.shards[0].is_fanning_out() {
        world.input(0, Input::FanOut);
        pieces += 1;
        for (client, came_after) in [busy, other].into_iter().zip(&mut came_after) {
            let packets = std::iter::from_fn(|| world.next(client));
            if packets
                .filter(|packet| matches!(packet, Packet::Publish(_)))
                .count()
                > 0
            {
                assert_eq!(came_after.replace(pieces), None, "once");
            }
        }
    }
    let [busy, other] = came_after.map(|pieces| pieces.expect("it came"));
    assert!(pieces > 20, "{pieces}");
    assert!(other < busy, "{other}, {busy}");
}

/// Each SUBSCRIBE had a bound of its own, and thousands of them came at once.
#[test]
fn nor_does_who_asks_again_and_again() {
    let mut world = World::new(1);
    let publisher = world.connect(0, "publisher", Version::V5);
    for n in 0..40 {
        retain(&mut world, publisher, &format!("a/{n}"), QoS::AtMostOnce);
    }
    let client = world.connect(0, "client", Version::V5);
    world.links_flow = false;
    for _ in 0..3 {
        world.send_subscribe(client, "a/+/x", options(), None);
    }
    assert!(world.shards[0].is_fanning_out());
    while world.shards[0].is_fanning_out() {
        world.input(0, Input::FanOut);
    }
    // There is as much again in the next millisecond.
    world.pass(1);
    world.send_subscribe(client, "a/+/x", options(), None);
    assert!(!world.shards[0].is_fanning_out());
}

#[test]
fn to_subscribe_again_begins_the_replay_anew_and_adds_none() {
    let limits = Limits {
        inflight_messages_max: 1,
        ..Limits::default()
    };
    let mut world = World::with_limits(1, limits);
    let publisher = world.connect(0, "publisher", Version::V5);
    for n in 0..10 {
        retain(&mut world, publisher, &format!("r/{n}"), QoS::AtLeastOnce);
    }
    let subscriber = world.connect(0, "subscriber", Version::V5);
    for _ in 0..1_000 {
        world.send_subscribe(subscriber, "r/#", with_qos(QoS::AtLeastOnce), None);
    }
    let mut count = 0;
    while let Some(packet) = world.next(subscriber) {
        if let Packet::Publish(got) = packet {
            count += 1;
            world.ack(subscriber, PacketType::Puback, got.id.unwrap());
        }
    }
    // That which was under way when the last one came, and all behind that.
    assert_eq!(count, 11);
}

/// A SUBACK may wait for the other shards longer than that of a later SUBSCRIBE, of the same filter among others.
#[test]
fn what_was_asked_for_first_does_not_take_the_place_of_what_was_asked_for_later() {
    let limits = Limits {
        inflight_messages_max: 1,
        ..Limits::default()
    };
    let mut world = World::with_limits(2, limits);
    let publisher = world.connect(0, "publisher", Version::V5);
    for n in 0..4 {
        retain(&mut world, publisher, &format!("r/{n}"), QoS::AtLeastOnce);
    }
    // All shards know that this one wants it.
    let other = world.connect(0, "other", Version::V5);
    world.subscribe(other, "r/#", QoS::AtMostOnce);
    let subscriber = world.connect(0, "subscriber", Version::V5);
    world.links_flow = false;
    let both = [("r/#", options()), ("new", options())];
    let mut bytes = Vec::new();
    let user = UserProperties::default();
    Subscribe::encode(&mut bytes, Version::V5, PacketId::MIN, None, &user, &both);
    world.send(subscriber, &bytes);
    assert_eq!(world.next(subscriber), None);
    world.send_subscribe(subscriber, "r/#", with_qos(QoS::AtLeastOnce), None);
    assert_eq!(world.next(subscriber), Some(Packet::Suback(vec![1])));
    world.flow();
    let mut came = Vec::new();
    while let Some(packet) = world.next(subscriber) {
        match packet {
            Packet::Publish(got) => {
                came.push(got.qos);
                if let Some(id) = got.id {
                    world.ack(subscriber, PacketType::Puback, id);
                }
            }
            packet => assert_eq!(packet, Packet::Suback(vec![0, 0])),
        }
    }
    assert_eq!(came, [QoS::AtLeastOnce; 4]);
}

/// What comes after UNSUBACK of a subscription whose SUBACK was not sent yet.
fn replayed_after_unsuback(world: &mut World, subscriber: usize, settle: impl Fn(&mut World)) {
    world.send_subscribe(subscriber, "r/#", options(), None);
    let mut bytes = Vec::new();
    let user = UserProperties::default();
    Unsubscribe::encode(&mut bytes, Version::V5, PacketId::MIN, &user, &["r/#"]);
    world.send(subscriber, &bytes);
    settle(world);
    let mut answers = 0;
    while let Some(packet) = world.next(subscriber) {
        match packet {
            Packet::Suback(_) | Packet::Unsuback => answers += 1,
            other => panic!("{other:?} though it has unsubscribed"),
        }
    }
    assert_eq!(answers, 2);
}

#[test]
fn unsubscribing_ends_a_replay_that_waits_for_the_other_shards() {
    let mut world = World::new(2);
    let publisher = world.connect(0, "publisher", Version::V5);
    retain(&mut world, publisher, "r/1", QoS::AtMostOnce);
    let subscriber = world.connect(0, "subscriber", Version::V5);
    world.links_flow = false;
    replayed_after_unsuback(&mut world, subscriber, World::flow);
}

#[test]
fn unsubscribing_ends_a_replay_that_waits_for_the_store() {
    let mut world = World::with_store(1, Limits::default(), Durability::Power);
    let publisher = world.connect(0, "publisher", Version::V5);
    retain(&mut world, publisher, "r/1", QoS::AtMostOnce);
    world.commit();
    let subscriber = keeper(&mut world, "subscriber");
    replayed_after_unsuback(&mut world, subscriber, World::commit);
}

/// CPU time of this thread.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let first = text.split(' ').next().expect("three numbers");
    first.parse().expect("nanoseconds")
}

/// As many subscriptions as a session may have end in as many steps, whatever their order.
#[test]
fn to_unsubscribe_from_much_takes_no_longer_than_to_subscribe() {
    let count = 100_000;
    let filters: Vec<_> = (0..count).map(|n| format!("f/{n}")).collect();
    let mut world = World::new(1);
    let client = world.connect(0, "client", Version::V5);
    let mut bytes = Vec::new();
    let user = UserProperties::default();
    let all: Vec<_> = filters
        .iter()
        .map(|filter| (&filter[..], options()))
        .collect();
    Subscribe::encode(&mut bytes, Version::V5, PacketId::MIN, None, &user, &all);
    let begun_ns = cpu_ns();
    world.send(client, &bytes);
    let subscribing_ns = cpu_ns() - begun_ns;
    assert_eq!(world.next(client), Some(Packet::Suback(vec![0; count])));
    let all: Vec<_> = filters.iter().map(|filter| &filter[..]).collect();
    bytes.clear();
    Unsubscribe::encode(&mut bytes, Version::V5, PacketId::MIN, &user, &all);
    let begun_ns = cpu_ns();
    world.send(client, &bytes);
    let unsubscribing_ns = cpu_ns() - begun_ns;
    assert_eq!(world.next(client), Some(Packet::Unsuback));
    // With a search for each it is fifty times as much.
    assert!(
        unsubscribing_ns < 10 * subscribing_ns,
        "{unsubscribing_ns} ns beside {subscribing_ns} ns"
    );
}

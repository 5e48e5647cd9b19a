//! What a shard keeps stays within its bounds, and nothing is lost for want of room that there is elsewhere.

mod world;

use ringmq::config::limits::Limits;
use ringmq::protocol::{PublishProperties, QoS, Version};
use ringmq::shard::budget::MemoryLevel;
use ringmq::shard::counters::DropCause;
use ringmq::shard::input::Input;
use ringmq::shard::record::{Durability, Record};
use world::{World, keeper, subscribed};

fn retain(world: &mut World, client: usize, topic: &str, payload: &[u8]) {
    let properties = PublishProperties::default();
    world.publish_with(client, topic, payload, QoS::AtMostOnce, 0, true, properties);
}

/// What is retained below `t/`, as a new subscriber on this shard finds it: topic and bytes of the payload.
fn retained_on(world: &mut World, shard: usize) -> Vec<(String, usize)> {
    let id = world.id_on(shard, "looks");
    let client = world.connect(shard, &id, Version::V5);
    world.subscribe(client, "t/#", QoS::AtMostOnce);
    let found = world.messages(client);
    world.disconnect(client);
    found
        .into_iter()
        .map(|got| (got.topic, got.payload.len()))
        .collect()
}

fn dropped(world: &World, cause: DropCause) -> u64 {
    let all = world.shards.iter();
    all.map(|shard| shard.counters().dropped[cause as usize])
        .sum()
}

/// Twenty topics of a byte each became a thousand bytes each under a limit of 2,000: what replaced a message was never asked how
/// large it was.
#[test]
fn what_replaces_a_retained_message_is_bounded_too() {
    let limits = Limits {
        retained_bytes_max: 2_000,
        ..Limits::default()
    };
    let mut world = World::with_limits(2, limits);
    let publisher = world.connect(0, "publisher", Version::V5);
    let subscriber = world.connect(1, "subscriber", Version::V5);
    world.subscribe(subscriber, "t/#", QoS::AtMostOnce);
    for n in 0..20 {
        retain(&mut world, publisher, &format!("t/{n:02}"), b"x");
    }
    assert_eq!(retained_on(&mut world, 0).len(), 20);
    for n in 0..20 {
        retain(&mut world, publisher, &format!("t/{n:02}"), &[b'x'; 1_000]);
    }
    assert_eq!(world.messages(subscriber).len(), 40, "all are delivered");
    assert_eq!(dropped(&world, DropCause::RetainedLimit), 19);
    // One has room; of the others there is nothing, rather than what is true no more.
    let one = [("t/00".to_owned(), 1_000)];
    for shard in 0..2 {
        assert_eq!(retained_on(&mut world, shard), one, "on shard {shard}");
    }
    // What is no larger than what it replaces has room however little there is.
    retain(&mut world, publisher, "t/00", &[b'y'; 1_000]);
    retain(&mut world, publisher, "t/00", &[b'z'; 900]);
    assert_eq!(retained_on(&mut world, 1), [("t/00".to_owned(), 900)]);
}

#[test]
fn memory_that_is_short_lets_retained_messages_shrink_and_not_grow() {
    let mut world = World::new(2);
    let publisher = world.connect(0, "publisher", Version::V5);
    for topic in ["t/grows", "t/same", "t/shrinks"] {
        retain(&mut world, publisher, topic, b"four");
    }
    for shard in 0..2 {
        world.input(shard, Input::Memory(MemoryLevel::Tight));
    }
    for (topic, payload) in [
        ("t/grows", &b"fourteen"[..]),
        ("t/same", b"five"),
        ("t/shrinks", b"one"),
        ("t/new", b"x"),
    ] {
        retain(&mut world, publisher, topic, payload);
    }
    let left = [("t/same".to_owned(), 4), ("t/shrinks".to_owned(), 3)];
    for shard in 0..2 {
        assert_eq!(retained_on(&mut world, shard), left, "on shard {shard}");
    }
    assert_eq!(dropped(&world, DropCause::RetainedLimit), 2);
}

#[test]
fn the_store_forgets_what_is_not_retained_any_more() {
    let limits = Limits {
        retained_bytes_max: 100,
        ..Limits::default()
    };
    let mut world = World::with_store(1, limits, Durability::Power);
    let subscriber = subscribed(&mut world, "subscriber", "t/a", QoS::AtLeastOnce);
    let publisher = keeper(&mut world, "publisher");
    retain(&mut world, publisher, "t/a", b"small");
    world.commit();
    let (qos, properties) = (QoS::AtLeastOnce, PublishProperties::default());
    world.publish_with(publisher, "t/a", &[b'x'; 200], qos, 1, true, properties);
    let cleared = |record: &Record| match record {
        Record::Retained { message, .. } => {
            message.topic() == "t/a" && message.payload().is_empty()
        }
        _ => false,
    };
    let count = world.records[0].iter().filter(|it| cleared(it)).count();
    assert_eq!(count, 1, "{:?}", world.records);
    let kept = |record: &&Record| match record {
        Record::Message { message, .. } => message.payload().len() == 200,
        _ => false,
    };
    assert_eq!(world.records[0].iter().filter(kept).count(), 1);
    world.commit();
    assert_eq!(world.messages(subscriber).len(), 2);
    assert_eq!(retained_on(&mut world, 0), []);
}

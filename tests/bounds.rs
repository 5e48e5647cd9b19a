//! What a shard keeps stays within its bounds, and nothing is lost for want of room that there is elsewhere.

#[path = "sim/disk.rs"]
#[allow(dead_code, unreachable_pub, reason = "a module of the simulator")]
mod disk;
mod world;

use disk::Disk;
use ringmq::config::limits::Limits;
use ringmq::protocol::{PacketType, PublishProperties, QoS, Version};
use ringmq::shard::budget::MemoryLevel;
use ringmq::shard::counters::DropCause;
use ringmq::shard::input::Input;
use ringmq::shard::message::{Message, MessageParts};
use ringmq::shard::record::{Durability, Record, StoredMessage};
use world::{Packet, World, keeper, subscribed};

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

/// Messages to `t` with payloads of so many bytes that wait in queues.
fn queued(world: &World, payload_bytes: usize) -> usize {
    let message = Message::new(&MessageParts::new(
        "t",
        QoS::AtLeastOnce,
        &vec![0; payload_bytes],
    ));
    world.shards[0].queued_bytes() as usize / message.bytes()
}

/// Two members of `$share/g/t`, one in flight for each: the first acknowledges nothing.
fn stuck_and_idle(
    limits: Limits,
    durability: Durability,
    mut commit: impl FnMut(&mut World),
) -> (World, usize, [usize; 2]) {
    let limits = Limits {
        inflight_messages_max: 1,
        ..limits
    };
    let mut world = World::with_store(1, limits, durability);
    let members = ["stuck", "idle"].map(|id| {
        let member = world.send_connect(0, world::persistent(id, Version::V5));
        commit(&mut world);
        let options = world::with_qos(QoS::AtLeastOnce);
        world.send_subscribe(member, "$share/g/t", options, None);
        commit(&mut world);
        assert!(matches!(world.next(member), Some(Packet::Connack { .. })));
        assert_eq!(world.next(member), Some(Packet::Suback(vec![1])));
        member
    });
    let publisher = world.connect(0, "publisher", Version::V5);
    (world, publisher, members)
}

/// A member that took nothing got every second message of the group, and dropped an older one of each that was acknowledged to its
/// publisher, while the other member was idle: only the number of messages counted as full, not their bytes.
#[test]
fn a_member_whose_queue_is_full_of_bytes_is_passed_over() {
    for durability in [Durability::None, Durability::Power] {
        for limits in [
            Limits {
                queue_bytes_max: 4_096,
                ..Limits::default()
            },
            Limits {
                queue_bytes_all_max: 4_096,
                ..Limits::default()
            },
        ] {
            let (mut world, publisher, [stuck, idle]) =
                stuck_and_idle(limits, durability, World::commit);
            for n in 0..20 {
                let payload = [n; 1_000];
                world.publish(publisher, "t", &payload, QoS::AtLeastOnce, u16::from(n) + 1);
                world.commit();
                while let Some(got) = world.messages(idle).pop() {
                    let id = got.id.expect("QoS 1");
                    world.ack(idle, PacketType::Puback, id);
                    world.commit();
                }
            }
            assert_eq!(dropped(&world, DropCause::QueueFull), 0, "{durability:?}");
            assert_eq!(world.messages(stuck).len(), 1);
            assert_eq!(queued(&world, 1_000), 3, "{durability:?}");
        }
    }
}

/// Everything that is recorded goes to disk, and the shard is told.
fn commit(world: &mut World, disk: &mut Disk) {
    while !world.records[0].is_empty() {
        disk.submit(0, world.records[0].clone(), Vec::new());
        disk.commit(0);
        world.commit_but(0, |_| false);
    }
}

/// The payloads that a member gets, one after the other, with what is read back for it, and acknowledges.
fn take_all(world: &mut World, disk: &mut Disk, member: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    loop {
        commit(world, disk);
        let mut has_more = false;
        for fetch in std::mem::take(&mut world.fetches[0]) {
            has_more = true;
            let read = |id: &StoredMessage| (*id, Some(disk.messages[id].message.clone()));
            let messages = fetch.messages.iter().map(read).collect();
            let token = fetch.token;
            world.input(0, Input::Fetched { token, messages });
        }
        for got in world.messages(member) {
            has_more = true;
            taken.push(got.payload[0]);
            world.ack(member, PacketType::Puback, got.id.expect("QoS 1"));
        }
        if !has_more && world.records[0].is_empty() {
            return taken;
        }
    }
}

/// As the broker stopped, each member's connection was closed in turn, and what it had went to those that were not closed yet: the
/// last one got all of it, and dropped what its queue had no room for. Now it is each member's when it comes back, and another one's
/// if it does not.
#[test]
fn who_is_stopped_keeps_what_it_has_of_a_shared_group() {
    let limits = Limits {
        queue_messages_max: 4,
        ..Limits::default()
    };
    let mut disk = Disk::new(1);
    let (mut world, publisher, members) =
        stuck_and_idle(limits.clone(), Durability::Power, |world| {
            commit(world, &mut disk);
        });
    for n in 0..10 {
        world.publish(publisher, "t", &[n], QoS::AtLeastOnce, u16::from(n) + 1);
        commit(&mut world, &mut disk);
    }
    assert_eq!(queued(&world, 1), 8);
    world.input(0, Input::Shutdown);
    assert_eq!(queued(&world, 1), 8);
    assert_eq!(dropped(&world, DropCause::QueueFull), 0);
    let moved = |record: &Record| matches!(record, Record::Message { .. } | Record::Ended { .. });
    assert!(!world.records[0].iter().any(moved), "{:?}", world.records);
    for member in members {
        assert!(world.clients[member].closed);
    }
    commit(&mut world, &mut disk);

    disk.crash(1);
    let mut world = World::recovering(1, limits, Durability::Power, disk.recovered());
    let idle = world.send_connect(0, world::persistent("idle", Version::V5));
    commit(&mut world, &mut disk);
    assert!(matches!(world.next(idle), Some(Packet::Connack { .. })));
    let mut taken = take_all(&mut world, &mut disk, idle);
    assert_eq!(taken.len(), 5, "what it had");
    world.pass(3_601_000);
    taken.extend(take_all(&mut world, &mut disk, idle));
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(world.shards[0].counters().dropped_total, 0);
}

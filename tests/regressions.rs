//! What fuzzing found, one test each, as small as it got.

#[allow(unreachable_pub, reason = "tests/shard.rs has the same module")]
mod world;

use ringmq::protocol::{
    PacketId, Publish, PublishProperties, QoS, ReasonCode, Subscribe, Unsubscribe, UserProperties,
    Version,
};
use std::fs;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use world::{Packet, World, connect, options};

/// One test at a time: some look at the memory of the process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process's memory, in KiB.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let size = line.and_then(|line| line.split_whitespace().nth(1));
    size.and_then(|size| size.parse().ok())
        .expect("a number of KiB")
}

/// Every read put an empty buffer into the shard's pool, 24 bytes for ever, and on top of the real ones,
/// which so were never used again.
#[test]
fn reading_leaves_nothing_in_the_pool() {
    let _alone = alone();
    let mut world = World::new(1);
    let client = world.connect(0, "client", Version::V311);
    let mut before = 0;
    for round in 0..401_000 {
        if round == 1_000 {
            before = resident_kib();
        }
        // PINGREQ.
        world.send(client, &[0xC0, 0]);
        assert_eq!(world.next(client), Some(Packet::Pingresp));
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 2_000, "{grown} KiB are left by 400,000 packets");
}

/// The long start of a packet was kept in a new buffer, which then went to the pool, until that held all it may.
#[test]
fn packets_that_arrive_in_two_parts_share_one_buffer() {
    let _alone = alone();
    let mut world = World::new(1);
    let client = world.connect(0, "client", Version::V311);
    let mut packet = Vec::new();
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: None,
        properties: PublishProperties::default(),
        payload: &[0; 60_000],
    }
    .encode(Version::V311, &mut packet);
    let (start, rest) = packet.split_at(packet.len() / 2);
    let mut before = 0;
    for round in 0..110 {
        if round == 10 {
            before = resident_kib();
        }
        world.send(client, start);
        world.send(client, rest);
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 1_000, "{grown} KiB are left by 100 packets");
}

/// SUBACK and UNSUBACK have a code for each filter, and went out larger than the client takes ([MQTT-3.1.2-24]).
#[test]
fn no_answer_is_larger_than_the_client_takes() {
    const FITS: usize = 43;
    let _alone = alone();
    let mut hello = connect("client", Version::V5);
    hello.properties.packet_bytes_max = NonZeroU32::new(48);
    for (count, fits) in [(FITS, true), (FITS + 1, false)] {
        let user = UserProperties::default();
        let (mut subscribe, mut unsubscribe) = (Vec::new(), Vec::new());
        let filters = vec![("a", options()); count];
        Subscribe::encode(
            &mut subscribe,
            Version::V5,
            PacketId::MIN,
            None,
            &user,
            &filters,
        );
        let filters = vec!["a"; count];
        Unsubscribe::encode(
            &mut unsubscribe,
            Version::V5,
            PacketId::MIN,
            &user,
            &filters,
        );
        for bytes in [subscribe, unsubscribe] {
            let mut world = World::new(1);
            let client = world.connect_with(0, hello.clone());
            world.send(client, &bytes);
            let answer = world.next(client);
            if fits {
                assert!(matches!(answer, Some(Packet::Suback(_) | Packet::Unsuback)));
            } else {
                assert_eq!(answer, Some(Packet::Disconnect(ReasonCode::PacketTooLarge)));
                assert_eq!(world.next(client), Some(Packet::Closed));
            }
        }
    }
}

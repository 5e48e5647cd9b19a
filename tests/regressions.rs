//! What fuzzing found, one test each, as small as it got.

#[allow(
    dead_code,
    unreachable_pub,
    reason = "the tests of the shard use all of it"
)]
mod world;

use ringmq::protocol::Version;
use std::fs;
use world::{Packet, World};

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

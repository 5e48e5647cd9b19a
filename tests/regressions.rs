//! What fuzzing found, one test each, as small as it got.

mod world;

use ringmq::protocol::{QoS, Version};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use world::World;

/// Counts what the present thread has on the heap: tests run in threads of their own.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to `System` as it is; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as isize);
        // SAFETY: the caller's duty is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: the caller's duty is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes that `f` leaves on the heap.
fn left_by(f: impl FnOnce()) -> isize {
    let before = LIVE.get();
    f();
    LIVE.get() - before
}

/// Every read put an empty buffer into the shard's pool, 24 bytes for ever, and on top of the real ones,
/// which so were never used again.
#[test]
fn reading_leaves_nothing_in_the_pool() {
    let mut world = World::new(1);
    let client = world.connect(0, "client", Version::V311);
    world.subscribe(client, "t", QoS::AtMostOnce);
    let mut some = |count: usize| {
        for _ in 0..count {
            // PINGREQ in two pieces, and a message to itself.
            world.send(client, &[0xC0]);
            world.send(client, &[0]);
            world.publish(client, "t", b"payload", QoS::AtMostOnce, 0);
            let packets = [world.next(client), world.next(client)];
            assert!(packets.iter().all(Option::is_some));
        }
    };
    some(100);
    let left = left_by(|| some(2_000));
    assert!(left < 1_000, "{left} bytes are left by 2,000 messages");
}

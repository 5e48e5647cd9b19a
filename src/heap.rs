//! SHELL. How much memory the process has taken: an allocator that counts.
//!
//! The binary installs it; where it is not installed (tests, fuzz targets) nothing is counted. It is the system's
//! allocator with one addition per call to a number of the thread's own, which goes to the shared one when it has grown: so
//! the sum is right within 64 KiB per thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, Ordering};

/// What a thread may have taken or given back before the sum knows.
const FLUSH_BYTES: usize = 64 << 10;
/// What the system's allocator adds to each piece, and what it rounds to.
const HEADER_BYTES: usize = 8;
const ROUNDED_TO: usize = 16;

static IN_USE: AtomicIsize = AtomicIsize::new(0);

thread_local! {
    static PENDING: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
#[derive(Debug)]
pub struct CountingAllocator;

/// Bytes in use, with what the allocator adds to them.
pub fn bytes_in_use() -> u64 {
    u64::try_from(IN_USE.load(Ordering::Relaxed)).unwrap_or(0)
}

fn note(bytes: isize) {
    PENDING.with(|pending| {
        let sum = pending.get() + bytes;
        if sum.unsigned_abs() < FLUSH_BYTES {
            pending.set(sum);
        } else {
            pending.set(0);
            IN_USE.fetch_add(sum, Ordering::Relaxed);
        }
    });
}

/// What a piece of this size takes. No piece is larger than half of the address space.
fn taken(size: usize) -> isize {
    (size + HEADER_BYTES)
        .next_multiple_of(ROUNDED_TO)
        .cast_signed()
}

// SAFETY: every call is passed on to the system's allocator as it came; counting neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(taken(layout.size()));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(taken(layout.size()));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(-taken(layout.size()));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(taken(size) - taken(layout.size()));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_until_it_is_given_back() {
        let before = bytes_in_use();
        let layout = Layout::from_size_align(1 << 20, 8).unwrap();
        // SAFETY: the layout has a size, and the pointer is given back with the layout it came from.
        let counted = unsafe {
            let at = CountingAllocator.alloc(layout);
            let counted = bytes_in_use();
            CountingAllocator.dealloc(at, layout);
            counted
        };
        // The test harness is not counted, so nobody else moves the number.
        assert!(counted - before >= 1 << 20, "{before} {counted}");
        assert!(bytes_in_use() < counted);
    }

    #[test]
    fn a_piece_takes_what_the_system_rounds_it_to() {
        assert_eq!([1, 8, 9, 24, 25].map(taken), [16, 16, 32, 32, 48]);
    }
}

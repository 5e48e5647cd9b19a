//! What `src/mesh/mod.rs` is there.

#[path = "../../../../src/mesh/link.rs"]
pub mod link;
#[path = "../../../../src/mesh/spsc.rs"]
pub mod spsc;
#[path = "../../../../src/mesh/wake.rs"]
pub mod wake;

/// What `src/mesh/sync.rs` is there.
pub mod sync {
    pub use crate::eventfd::File;
    pub use loom::cell::UnsafeCell;
    pub use loom::sync::Arc;
    pub use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

    /// A flag that two threads set. Loom lets a thread read a store that another one's swap has already replaced,
    /// because it does not put stores that know nothing of each other into one order, as the memory model does. Swaps
    /// it does put in order, so here every store is one.
    #[derive(Debug, Default)]
    pub struct AtomicBool(loom::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(super) fn load(&self, ordering: Ordering) -> bool {
            self.0.load(ordering)
        }

        pub(super) fn store(&self, value: bool, ordering: Ordering) {
            self.0.swap(value, ordering);
        }

        pub(super) fn swap(&self, value: bool, ordering: Ordering) -> bool {
            self.0.swap(value, ordering)
        }
    }
}

//! The links of `src/mesh` as they are, compiled with loom's atomics, cells and threads instead of std's, so that the
//! models in `tests/` run in every order that the memory model allows.
//!
//! The files are included, not linked: only `crate::mesh::sync` and the eventfd are others here.

pub use ringmq::shard;

pub mod mesh;

/// Of `src/net`, what links need.
pub mod net {
    pub use ringmq::net::{admission, transport};

    /// Makes eventfds.
    pub mod ring {
        /// As `eventfd(2)`, but nothing can go wrong.
        ///
        /// Errors: none.
        pub fn eventfd() -> std::io::Result<crate::eventfd::File> {
            Ok(crate::eventfd::File::default())
        }
    }
}

mod eventfd {
    use loom::sync::{Condvar, Mutex};
    use std::io;

    /// The kernel's counter, of which this model needs only whether it is zero.
    #[derive(Debug, Default)]
    pub struct File {
        is_set: Mutex<bool>,
        was_set: Condvar,
    }

    impl File {
        /// Waits until somebody writes, or has written since the last wait. The kernel never waits less; here, whoever
        /// waits although nobody will write is found to be in a deadlock.
        pub fn wait(&self) {
            let mut is_set = self.is_set.lock().expect("no thread panics");
            while !*is_set {
                is_set = self.was_set.wait(is_set).expect("no thread panics");
            }
            *is_set = false;
        }
    }

    impl io::Write for &File {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            *self.is_set.lock().expect("no thread panics") = true;
            self.was_set.notify_one();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

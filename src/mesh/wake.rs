//! How a core goes to sleep without missing what other threads have for it, and how they wake it.
//!
//! A core that finds nothing to do *parks*: it waits for its eventfd, which the kernel writes when its ring
//! has completions and another thread writes when it has put something where the core looks (a link, the
//! shutdown flag). Writing an eventfd costs a system call and an interrupt to the other processor, so it is
//! done only when the core is parked, and only by the first who finds it so.
//!
//! ```text
//! sender                                  core
//! 1 publish the work                      1 parked = true
//! 2 fence                                 2 fence
//! 3 if parked, swap it to false:          3 if there is work: parked = false, do not sleep
//!   if that was true, write the eventfd   4 wait for the eventfd; parked = false
//! ```
//!
//! The fences make it impossible that the sender reads `parked == false` *and* the core sees no work: one of
//! the two comes first in their single order. So either the core stays awake, or somebody writes the
//! eventfd. The eventfd counts, so a write before the wait begins is not lost either. A core may be woken for
//! nothing (it found the work in step 3 and the sender wrote anyway); it must look and park again.
//!
//! [`Parking`] is the protocol alone, without the eventfd, so that it can be checked by itself.

use super::sync::{AtomicBool, File, Ordering, fence};
use crate::net::ring;
use std::io::{self, Write};

/// The flag of a core that may sleep, and the rules for using it.
#[derive(Debug, Default)]
pub struct Parking {
    parked: AtomicBool,
}

impl Parking {
    /// Says that the core is about to sleep. After this it must look for work once more, and call
    /// [`Parking::unpark`] instead of sleeping when there is some.
    pub fn park(&self) {
        self.parked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the core is awake.
    pub fn unpark(&self) {
        self.parked.store(false, Ordering::Relaxed);
    }

    /// After publishing work: whether the caller has to wake the core.
    pub fn claim(&self) -> bool {
        fence(Ordering::SeqCst);
        // The load first, because the swap would take the cache line from a busy core each time.
        self.parked.load(Ordering::Relaxed) && self.parked.swap(false, Ordering::Relaxed)
    }
}

/// What it takes to wake one core; shared by all threads that may.
#[derive(Debug)]
pub struct Wake {
    parking: Parking,
    eventfd: File,
}

impl Wake {
    /// For a core that is awake.
    ///
    /// Errors: what the system said when it refused the eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            parking: Parking::default(),
            eventfd: ring::eventfd()?,
        })
    }

    /// The core's side of the protocol.
    pub fn parking(&self) -> &Parking {
        &self.parking
    }

    /// What the core waits for.
    pub fn eventfd(&self) -> &File {
        &self.eventfd
    }

    /// Wakes the core if it is parked. Call it after publishing the work.
    pub fn wake(&self) {
        if self.parking.claim() {
            // Writing 1 can only fail when the counter is about to overflow, and then the core is woken.
            let _ = (&self.eventfd).write(&1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn only_a_parked_core_is_woken_and_only_once() {
        let parking = Parking::default();
        assert!(!parking.claim());
        parking.park();
        assert!(parking.claim());
        assert!(!parking.claim());
        parking.park();
        parking.unpark();
        assert!(!parking.claim());
    }

    #[test]
    fn no_wake_is_lost_under_stress() {
        const COUNT: u64 = 100_000;
        let wake = Arc::new(Wake::new().unwrap());
        let work = Arc::new(AtomicU64::new(0));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let (wake, work) = (Arc::clone(&wake), Arc::clone(&work));
                thread::spawn(move || {
                    for n in 0..COUNT {
                        work.fetch_add(1, Ordering::Relaxed);
                        wake.wake();
                        if n % 64 == 0 {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let core = thread::spawn(move || {
            let (mut done, mut parks) = (0, 0);
            while done < 2 * COUNT {
                let seen = work.load(Ordering::Relaxed);
                if seen > done {
                    done = seen;
                    continue;
                }
                wake.parking().park();
                if work.load(Ordering::Relaxed) > done {
                    wake.parking().unpark();
                    continue;
                }
                parks += 1;
                // A lost wake would block here for ever.
                wake.eventfd().read_exact(&mut [0; 8]).unwrap();
                wake.parking().unpark();
            }
            parks
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while !core.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(core.is_finished(), "a wake was lost");
        assert!(core.join().unwrap() > 0);
        senders
            .into_iter()
            .for_each(|sender| sender.join().unwrap());
    }
}

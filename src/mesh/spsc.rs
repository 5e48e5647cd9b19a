//! A bounded queue from one thread to one other thread, without locks.
//!
//! Both ends work in batches: the producer stages values and makes all of them visible with one store
//! ([`Producer::publish`]); the consumer takes values and gives all their slots back with one store
//! ([`Consumer::release`]). Each end keeps a copy of the other's position and looks at the shared one only
//! when the copy says full or empty, so a batch costs two cache line transfers however long it is.
//!
//! Positions count up for ever and wrap; a position's slot is its low bits. It always holds that
//! `head <= published tail <= head + capacity`. A slot between the two belongs to the consumer, every other slot
//! to the producer.

use super::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};
use std::fmt;
use std::mem::MaybeUninit;

/// The sending end.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// Where the next value goes; values from the published tail to here are staged.
    tail: usize,
    /// The consumer's position as last seen.
    head_seen: usize,
}

/// The receiving end.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// Where the next value comes from; slots from the released head to here are taken.
    head: usize,
    /// The producer's position as last seen.
    tail_seen: usize,
}

/// A queue with `capacity` places.
///
/// Panics: when `capacity` is not a power of two.
pub fn queue<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two());
    let shared = Arc::new(Shared {
        slots: (0..capacity)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
    });
    let producer = Producer {
        shared: Arc::clone(&shared),
        tail: 0,
        head_seen: 0,
    };
    (
        producer,
        Consumer {
            shared,
            head: 0,
            tail_seen: 0,
        },
    )
}

impl<T> Producer<T> {
    /// Stages a value, or returns it when there is no place.
    pub fn stage(&mut self, value: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head_seen) == self.shared.slots.len() {
            // Acquire: the consumer has read the slots it gave back before we write them.
            self.head_seen = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == self.shared.slots.len() {
                return Err(value);
            }
        }
        self.shared.slot(self.tail).with_mut(|slot| {
            // SAFETY: the slot at `tail` is not between the head and the published tail, so it is the
            // producer's, of which there is one; it holds no value.
            unsafe { (*slot).write(value) };
        });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Makes the staged values visible and returns whether there were any.
    pub fn publish(&mut self) -> bool {
        // Relaxed: only this thread stores the tail.
        let published = self.shared.tail.0.load(Ordering::Relaxed);
        if published == self.tail {
            return false;
        }
        // Release: the values must be visible when the tail is.
        self.shared.tail.0.store(self.tail, Ordering::Release);
        true
    }

    /// Places in all.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// Values the consumer has not given the slots of back yet, staged ones included.
    pub fn len(&self) -> usize {
        self.tail
            .wrapping_sub(self.shared.head.0.load(Ordering::Relaxed))
    }

    /// Whether the consumer has given back every slot.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest visible value. Its slot is given back by `release`.
    pub fn take(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            // Acquire: we see what was written before the tail was stored.
            self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        let value = self.shared.slot(self.head).with_mut(|slot| {
            // SAFETY: the slot at `head` is before the published tail, so it holds a value and is the
            // consumer's, of which there is one; `head` moves on, so the value is read once.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        Some(value)
    }

    /// Gives back the slots of the values taken and returns whether there were any.
    pub fn release(&mut self) -> bool {
        // Relaxed: only this thread stores the head.
        let released = self.shared.head.0.load(Ordering::Relaxed);
        if released == self.head {
            return false;
        }
        // Release: we have read the slots before the producer may write them.
        self.shared.head.0.store(self.head, Ordering::Release);
        true
    }

    /// Places in all.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// Whether no value is visible.
    pub fn is_empty(&self) -> bool {
        self.head == self.shared.tail.0.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.publish();
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.release();
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("is_empty", &self.is_empty())
            .finish_non_exhaustive()
    }
}

/// A value on cache lines of its own; two, because the processor fetches them in pairs.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Written by the consumer.
    head: Padded<AtomicUsize>,
    /// Written by the producer.
    tail: Padded<AtomicUsize>,
}

// SAFETY: the values move from one thread to another (`T: Send`) and no thread sees one that another can
// reach: each slot belongs to one end at a time, and passes with a Release store and an Acquire load.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above; the methods that touch slots need `&mut` of the one producer or the one consumer.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[position & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Relaxed: both ends are gone, and the last of them knew what the other had stored.
        let mut head = self.head.0.load(Ordering::Relaxed);
        let tail = self.tail.0.load(Ordering::Relaxed);
        while head != tail {
            self.slot(head).with_mut(|slot| {
                // SAFETY: both ends are gone and have stored their positions, so exactly the slots between
                // the two hold values, and nobody else can reach them.
                unsafe { (*slot).assume_init_drop() };
            });
            head = head.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn is_a_fifo_over_many_rounds() {
        let (mut producer, mut consumer) = queue(4);
        for round in 0..100u32 {
            for n in 0..3 {
                producer.stage(Box::new(round * 3 + n)).unwrap();
            }
            assert!(consumer.is_empty(), "staged values are not visible");
            assert!(consumer.take().is_none());
            assert!(producer.publish());
            assert!(!producer.publish());
            for n in 0..3 {
                assert_eq!(*consumer.take().unwrap(), round * 3 + n);
            }
            assert!(consumer.take().is_none());
            assert!(consumer.release());
            assert!(!consumer.release());
        }
    }

    #[test]
    fn a_full_queue_returns_the_value_until_slots_are_released() {
        let (mut producer, mut consumer) = queue(2);
        producer.stage(1).unwrap();
        producer.stage(2).unwrap();
        assert_eq!(producer.stage(3), Err(3));
        producer.publish();
        assert_eq!(consumer.take(), Some(1));
        assert_eq!(
            producer.stage(3),
            Err(3),
            "a slot taken is not yet given back"
        );
        consumer.release();
        producer.stage(3).unwrap();
        producer.publish();
        assert_eq!((producer.len(), producer.capacity()), (2, 2));
        assert_eq!(
            [consumer.take(), consumer.take(), consumer.take()],
            [Some(2), Some(3), None]
        );
    }

    #[test]
    fn positions_wrap() {
        let (mut producer, mut consumer) = queue(2);
        let start = usize::MAX - 1;
        producer.shared.head.0.store(start, Ordering::Relaxed);
        producer.shared.tail.0.store(start, Ordering::Relaxed);
        (producer.tail, producer.head_seen) = (start, start);
        (consumer.head, consumer.tail_seen) = (start, start);
        for n in 0..10 {
            producer.stage(n).unwrap();
            producer.publish();
            assert_eq!(consumer.take(), Some(n));
            consumer.release();
        }
    }

    #[test]
    fn values_left_behind_are_dropped_once() {
        let value = Arc::new(());
        let (mut producer, mut consumer) = queue(8);
        for _ in 0..4 {
            producer.stage(Arc::clone(&value)).unwrap();
        }
        producer.publish();
        producer.stage(Arc::clone(&value)).unwrap();
        drop(consumer.take());
        assert_eq!(Arc::strong_count(&value), 5);
        drop(consumer);
        assert_eq!(Arc::strong_count(&value), 5);
        drop(producer);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn two_threads_keep_order_and_content() {
        const COUNT: u64 = 300_000;
        let (mut producer, mut consumer) = queue::<Box<u64>>(64);
        let sender = thread::spawn(move || {
            let mut next = 0;
            while next < COUNT {
                for _ in 0..(next % 17) + 1 {
                    if next < COUNT && producer.stage(Box::new(next)).is_ok() {
                        next += 1;
                    }
                }
                if !producer.publish() {
                    thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            while let Some(value) = consumer.take() {
                assert_eq!(*value, expected);
                expected += 1;
                if expected % 13 == 0 {
                    consumer.release();
                }
            }
            if !consumer.release() {
                thread::yield_now();
            }
        }
        sender.join().unwrap();
        assert!(consumer.is_empty());
    }
}

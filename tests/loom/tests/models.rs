//! The ring, the waker and the link in every interleaving: `scripts/loom`.
//!
//! `tests/loom/mutants.txt` has an ordering weakened, a fence or a second look left out at a time;
//! `scripts/mutants loom` shows that a model finds each.

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use ringmq_loom::mesh::link::{LinkConfig, LinkMessage, LinkReceiver, LinkSender, Mark, link};
use ringmq_loom::mesh::spsc::queue;
use ringmq_loom::mesh::wake::{Parking, Wake};
use ringmq_loom::shard::mesh_message::MeshMessage;

/// Every interleaving with at most `preemptions` threads interrupted where they did not have to wait.
fn check(preemptions: impl Into<Option<usize>>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions.into();
    builder.check(model);
}

/// Values come out whole and in order, staged in batches, while slots are reused; no slot is touched by both at once.
#[test]
fn the_ring_is_a_fifo() {
    check(None, || {
        let (mut producer, mut consumer) = queue(2);
        let sender = thread::spawn(move || {
            for value in 1..=4 {
                while producer.stage(Box::new(value)).is_err() {
                    if !producer.publish() {
                        thread::yield_now();
                    }
                }
                if value != 3 {
                    producer.publish();
                }
            }
        });
        for expected in 1..=4 {
            loop {
                if let Some(value) = consumer.take() {
                    assert_eq!(*value, expected);
                    break;
                }
                if !consumer.release() {
                    thread::yield_now();
                }
            }
            if expected == 2 {
                consumer.release();
            }
        }
        sender.join().expect("the sender has ended");
        assert!(consumer.take().is_none());
    });
}

/// What is left in the ring is dropped once, whichever end goes first. Loom finds what is never dropped.
#[test]
fn the_ring_drops_what_nobody_took() {
    check(None, || {
        let alive = Arc::new(());
        let (mut producer, mut consumer) = queue(2);
        let value = Arc::clone(&alive);
        let sender = thread::spawn(move || {
            producer.stage(Arc::clone(&value)).expect("it is empty");
            producer.publish();
            producer.stage(value).expect("there is one more place");
        });
        drop(consumer.take());
        drop(consumer);
        sender.join().expect("the sender has ended");
        assert_eq!(Arc::strong_count(&alive), 1);
    });
}

/// A core that has parked and sees no work is told by somebody: the protocol of `Parking`, without the eventfd.
#[test]
fn the_core_sees_the_work_or_a_sender_sees_it_parked() {
    check(None, || {
        let core = Arc::new((Parking::default(), AtomicUsize::new(0)));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let core = Arc::clone(&core);
                thread::spawn(move || {
                    core.1.fetch_add(1, Ordering::Relaxed);
                    core.0.claim()
                })
            })
            .collect();
        core.0.park();
        let seen = core.1.load(Ordering::Relaxed);
        let claims = senders
            .into_iter()
            .map(|sender| sender.join().expect("the sender has ended"))
            .filter(|claims| *claims)
            .count();
        assert!(claims <= 1, "the first who finds it parked wakes it");
        assert!(seen == 2 || claims == 1, "a wake was lost");
    });
}

/// The whole of `Wake`: a core that sleeps whenever it may comes to see all work; else it is found in a deadlock.
#[test]
fn no_wake_is_lost() {
    check(None, || {
        let core = Arc::new((Wake::new().expect("it cannot fail"), AtomicUsize::new(0)));
        let sender = {
            let core = Arc::clone(&core);
            thread::spawn(move || {
                for _ in 0..2 {
                    core.1.fetch_add(1, Ordering::Relaxed);
                    core.0.wake();
                }
            })
        };
        let (wake, work) = &*core;
        while work.load(Ordering::Relaxed) < 2 {
            let seen = work.load(Ordering::Relaxed);
            wake.parking().park();
            if work.load(Ordering::Relaxed) == seen && seen < 2 {
                wake.eventfd().wait();
            }
            wake.parking().unpark();
        }
        sender.join().expect("the sender has ended");
    });
}

fn numbered(up_to: u64) -> LinkMessage {
    LinkMessage::Shard(MeshMessage::AnnouncementAck { up_to })
}

/// As a core sends: more than the link holds, asleep until there is room.
fn send_all(sender: &mut LinkSender, count: u64, wake: &Wake) {
    (0..count).for_each(|n| sender.send(numbered(n)));
    sender.flush();
    while sender.is_waiting() {
        wake.parking().park();
        let changed = sender.flush().is_some();
        if sender.is_waiting() && !changed {
            wake.eventfd().wait();
        }
        wake.parking().unpark();
        sender.flush();
    }
}

/// As a core receives: all there is in each turn, asleep when there is nothing.
fn take_all(receiver: &mut LinkReceiver, count: u64, wake: &Wake) {
    let mut expected = 0;
    while expected < count {
        while let Some(message) = receiver.take() {
            let LinkMessage::Shard(MeshMessage::AnnouncementAck { up_to }) = message else {
                panic!("{message:?} was not sent")
            };
            assert_eq!(up_to, expected);
            expected += 1;
        }
        receiver.release();
        if expected < count {
            wake.parking().park();
            if receiver.is_empty() {
                wake.eventfd().wait();
            }
            wake.parking().unpark();
        }
    }
}

fn marks(messages: usize) -> Mark {
    Mark {
        messages,
        bytes: 1_000 * messages as u64,
    }
}

/// Everything arrives in order, both cores sleep whenever they may, and the sender comes to know that the pressure
/// has fallen; else one of them sleeps for ever.
#[test]
fn a_link_moves_everything_and_wakes_both_ends() {
    check(3, || {
        const COUNT: u64 = 3;
        let [near, far] = [(); 2].map(|()| Arc::new(Wake::new().expect("it cannot fail")));
        let config = LinkConfig {
            queue_messages: 2,
            low: marks(1),
            soft: marks(2),
            hard: marks(4),
        };
        let (mut sender, mut receiver) = link(config, Arc::clone(&near), Arc::clone(&far));
        let sending = thread::spawn(move || {
            send_all(&mut sender, COUNT, &near);
            sender
        });
        take_all(&mut receiver, COUNT, &far);
        let sender = sending.join().expect("the sender has ended");
        assert_eq!((sender.messages(), sender.bytes()), (0, 0));
        assert!(receiver.is_empty());
    });
}

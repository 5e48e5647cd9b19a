//! Messages that wait for the client: it is away, its window is full, or it reads slowly.

use super::Delivery;
use crate::config::limits::QueueFullPolicy;
use std::collections::VecDeque;

/// The bounds of one queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Messages.
    pub messages_max: usize,
    /// Bytes of the messages, each charged in full to every queue that holds it.
    pub bytes_max: usize,
    /// What makes room.
    pub policy: QueueFullPolicy,
}

/// What became of a message offered to a queue.
#[derive(Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits.
    Kept,
    /// It waits, and this many older ones were dropped for it.
    KeptDroppedOldest(u32),
    /// It was dropped.
    DroppedNewest,
    /// It was dropped, and the client is to be disconnected.
    Disconnect,
}

/// The waiting messages of one session, oldest first.
///
/// Cost: 32 bytes a message beside the shared message itself.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Delivery>,
    bytes: usize,
}

impl Queue {
    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Asserts that the account of bytes is right. Cost: linear in the messages that wait.
    pub fn check_invariants(&self) {
        let bytes: usize = self
            .waiting
            .iter()
            .map(|delivery| delivery.message.bytes())
            .sum();
        assert_eq!(self.bytes, bytes, "the queue's account of bytes");
    }

    /// Offers a message.
    pub fn push(&mut self, delivery: Delivery, limits: &QueueLimits) -> Queued {
        let bytes = delivery.message.bytes();
        let fits = |queue: &Self| {
            queue.waiting.len() < limits.messages_max && queue.bytes + bytes <= limits.bytes_max
        };
        let mut dropped = 0;
        if !fits(self) {
            match limits.policy {
                QueueFullPolicy::DropNewest => return Queued::DroppedNewest,
                QueueFullPolicy::Disconnect => return Queued::Disconnect,
                QueueFullPolicy::DropOldest => {
                    if bytes > limits.bytes_max || limits.messages_max == 0 {
                        return Queued::DroppedNewest;
                    }
                    while !fits(self) {
                        self.pop()
                            .expect("an empty queue has room for what is within the limits");
                        dropped += 1;
                    }
                }
            }
        }
        self.bytes += bytes;
        self.waiting.push_back(delivery);
        if dropped == 0 {
            Queued::Kept
        } else {
            Queued::KeptDroppedOldest(dropped)
        }
    }

    /// Takes out the messages for which `goes` says so, oldest first.
    pub fn take_if(&mut self, goes: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(goes);
        self.bytes -= taken
            .iter()
            .map(|delivery| delivery.message.bytes())
            .sum::<usize>();
        self.waiting = kept.into();
        taken
    }

    /// Takes the message that has waited longest.
    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.bytes -= delivery.message.bytes();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some(delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::QoS;
    use crate::session::DeliveryOptions;
    use crate::shard::message::{Message, MessageParts, NEVER};
    use std::rc::Rc;

    fn delivery(payload: &[u8]) -> Delivery {
        let message = Message::new(&MessageParts {
            topic: "t",
            properties: &[],
            payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at_ms: NEVER,
            stamp: 0,
            number: 0,
        });
        Delivery {
            message: Rc::new(message),
            subscription_ids: None,
            options: DeliveryOptions {
                qos: QoS::AtLeastOnce,
                retain: false,
            },
            group: None,
        }
    }

    fn limits(messages_max: usize, bytes_max: usize, policy: QueueFullPolicy) -> QueueLimits {
        QueueLimits {
            messages_max,
            bytes_max,
            policy,
        }
    }

    fn payloads(queue: &mut Queue) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop())
            .map(|d| d.message.payload()[0])
            .collect()
    }

    #[test]
    fn drop_oldest_keeps_the_newest_within_both_limits() {
        let one = delivery(b"0").message.bytes();
        let by_count = limits(3, usize::MAX, QueueFullPolicy::DropOldest);
        let by_bytes = limits(100, 3 * one, QueueFullPolicy::DropOldest);
        for limits in [by_count, by_bytes] {
            let mut queue = Queue::default();
            let results: Vec<_> = (0..5)
                .map(|n| queue.push(delivery(&[n]), &limits))
                .collect();
            assert_eq!(results[2], Queued::Kept);
            assert_eq!(results[3], Queued::KeptDroppedOldest(1));
            assert_eq!(queue.bytes(), 3 * one);
            assert_eq!(payloads(&mut queue), [2, 3, 4]);
            assert_eq!(queue.bytes(), 0);
        }
    }

    #[test]
    fn a_message_larger_than_the_queue_drops_itself_alone() {
        let mut queue = Queue::default();
        let limits = limits(10, 100, QueueFullPolicy::DropOldest);
        assert_eq!(queue.push(delivery(b"1"), &limits), Queued::Kept);
        assert_eq!(
            queue.push(delivery(&[2; 200]), &limits),
            Queued::DroppedNewest
        );
        assert_eq!(payloads(&mut queue), [b'1']);
    }

    #[test]
    fn the_other_policies_refuse_the_newest() {
        for (policy, expected) in [
            (QueueFullPolicy::DropNewest, Queued::DroppedNewest),
            (QueueFullPolicy::Disconnect, Queued::Disconnect),
        ] {
            let mut queue = Queue::default();
            let limits = limits(2, usize::MAX, policy);
            queue.push(delivery(b"1"), &limits);
            queue.push(delivery(b"2"), &limits);
            assert_eq!(queue.push(delivery(b"3"), &limits), expected);
            assert_eq!(payloads(&mut queue), [b'1', b'2']);
        }
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest_in_order() {
        let mut queue = Queue::default();
        let limits = limits(10, 1000, QueueFullPolicy::DropOldest);
        for n in 0..5 {
            queue.push(delivery(&[n]), &limits);
        }
        let taken = queue.take_if(|delivery| delivery.message.payload()[0] % 2 == 1);
        assert_eq!(taken.len(), 2);
        assert_eq!(queue.bytes(), 3 * taken[0].message.bytes());
        assert_eq!(payloads(&mut queue), [0, 2, 4]);
        assert_eq!(queue.bytes(), 0);
    }
}

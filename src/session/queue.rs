//! Messages that wait for the client: it is away, its window is full, or it reads slowly.

use super::{Delivery, Place, StoredDelivery, Waiting};
use crate::config::limits::QueueFullPolicy;
use crate::shard::message::Message;
use crate::topic::share::GroupId;
use std::collections::VecDeque;
use std::rc::Rc;

/// The bounds of one queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Messages.
    pub messages_max: usize,
    /// Bytes of the messages, each charged in full to every queue that holds it.
    pub bytes_max: usize,
    /// Messages that wait in memory if they are stored; of those behind only the numbers do.
    pub resident_max: usize,
    /// What makes room.
    pub policy: QueueFullPolicy,
}

/// What became of a message offered to a queue.
#[derive(Debug)]
pub enum Queued {
    /// It waits; older ones may have been dropped for it.
    Kept,
    /// It was dropped.
    DroppedNewest,
    /// It was dropped, and the client is to be disconnected.
    Disconnect,
    /// It was not taken: its publisher is to be told.
    Refused,
    /// It has to wait until there is room.
    Hold(Delivery),
}

/// A message that a queue let go of.
#[derive(Debug)]
pub struct LetGo {
    /// Its place in the store.
    pub place: Place,
    /// It, if it was in memory.
    pub message: Option<Rc<Message>>,
}

impl From<Delivery> for LetGo {
    fn from(delivery: Delivery) -> Self {
        Self {
            place: delivery.place(),
            message: Some(delivery.message),
        }
    }
}

impl From<StoredDelivery> for LetGo {
    fn from(delivery: StoredDelivery) -> Self {
        Self {
            place: delivery.place(),
            message: None,
        }
    }
}

/// The message that has waited longest.
#[derive(Debug)]
pub enum Front<'a> {
    /// It is in memory.
    Here(&'a Waiting),
    /// It is to be read back first.
    Stored(&'a StoredDelivery),
}

/// The waiting messages of one session, oldest first.
///
/// Cost: 40 to 50 bytes a message beside the shared message itself; of a stored session, beyond the first few, 24 to 30 bytes.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Waiting>,
    /// Behind all of `waiting`.
    stored: VecDeque<StoredDelivery>,
    bytes: usize,
}

impl Queue {
    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.stored.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.stored.is_empty()
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Asserts that the account of bytes is right. Cost: linear in the messages that wait.
    pub fn check_invariants(&self) {
        let here = self.waiting.iter().map(|delivery| delivery.message.bytes());
        let stored = self.stored.iter().map(|delivery| delivery.bytes as usize);
        let bytes: usize = here.chain(stored).sum();
        assert_eq!(self.bytes, bytes, "the queue's account of bytes");
    }

    /// Whether a message of this size fits.
    pub fn has_room(&self, bytes: usize, limits: &QueueLimits) -> bool {
        self.len() < limits.messages_max && self.bytes + bytes <= limits.bytes_max
    }

    /// Offers a message; `on_drop` is given every older one that makes room.
    pub fn push(
        &mut self,
        delivery: Delivery,
        limits: &QueueLimits,
        mut on_drop: impl FnMut(LetGo),
    ) -> Queued {
        let bytes = delivery.message.bytes();
        if !self.has_room(bytes, limits) {
            match limits.policy {
                QueueFullPolicy::DropNewest => return Queued::DroppedNewest,
                QueueFullPolicy::Disconnect => return Queued::Disconnect,
                // Nobody can be told of what is not stored.
                QueueFullPolicy::Refuse | QueueFullPolicy::Hold if !delivery.is_stored => {
                    return Queued::DroppedNewest;
                }
                QueueFullPolicy::Refuse => return Queued::Refused,
                // It would wait for ever.
                QueueFullPolicy::Hold if bytes > limits.bytes_max || limits.messages_max == 0 => {
                    return Queued::Refused;
                }
                QueueFullPolicy::Hold => return Queued::Hold(delivery),
                QueueFullPolicy::DropOldest => {
                    if bytes > limits.bytes_max || limits.messages_max == 0 {
                        return Queued::DroppedNewest;
                    }
                    while !self.has_room(bytes, limits) {
                        let oldest = self.drop_front();
                        on_drop(
                            oldest.expect("an empty queue has room for what is within the limits"),
                        );
                    }
                }
            }
        }
        self.bytes += bytes;
        let is_resident = self.stored.is_empty() && self.waiting.len() < limits.resident_max;
        // A session is stored from its beginning, so no message that is not stands behind one that is.
        if is_resident || !delivery.is_stored {
            assert!(self.stored.is_empty());
            push_tight(&mut self.waiting, delivery.into());
        } else {
            push_tight(&mut self.stored, StoredDelivery::of(delivery));
        }
        Queued::Kept
    }

    /// Takes in what waited before a restart.
    pub fn recover(&mut self, delivery: StoredDelivery) {
        self.bytes += delivery.bytes as usize;
        push_tight(&mut self.stored, delivery);
    }

    /// The first of `stored`.
    fn pop_stored(&mut self) -> Option<StoredDelivery> {
        let delivery = self.stored.pop_front()?;
        self.bytes -= delivery.bytes as usize;
        if self.stored.len() < self.stored.capacity() / 4 {
            self.stored.shrink_to(self.stored.len() * 2);
        }
        Some(delivery)
    }

    /// Lets go of the message that has waited longest.
    pub fn drop_front(&mut self) -> Option<LetGo> {
        if let Some(delivery) = self.pop() {
            return Some(delivery.into());
        }
        self.pop_stored().map(LetGo::from)
    }

    /// The message that has waited longest.
    pub fn front(&self) -> Option<Front<'_>> {
        match self.waiting.front() {
            Some(delivery) => Some(Front::Here(delivery)),
            None => self.stored.front().map(Front::Stored),
        }
    }

    /// Takes out the messages for which `goes` says so, oldest first; those in memory only.
    pub fn take_if(&mut self, goes: impl Fn(&Waiting) -> bool) -> Vec<Delivery> {
        let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(goes);
        self.bytes -= taken
            .iter()
            .map(|delivery| delivery.message.bytes())
            .sum::<usize>();
        self.waiting = kept.into();
        taken.into_iter().map(Delivery::from).collect()
    }

    /// The same for those that are in the store alone.
    pub fn take_stored_if(
        &mut self,
        goes: impl Fn(&StoredDelivery) -> bool,
    ) -> Vec<StoredDelivery> {
        let (taken, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.stored).into_iter().partition(goes);
        self.bytes -= taken
            .iter()
            .map(|delivery| delivery.bytes as usize)
            .sum::<usize>();
        self.stored = kept.into();
        taken
    }

    /// Takes the message that has waited longest, if it is in memory.
    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.bytes -= delivery.message.bytes();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some(delivery.into())
    }

    /// The numbers of the messages that are to be read back next: at most `count_max`, and about `bytes_max`.
    pub fn to_fetch(&self, count_max: usize, bytes_max: usize) -> Vec<u64> {
        let mut bytes = 0;
        let within = |delivery: &&StoredDelivery| {
            let fits = bytes < bytes_max;
            bytes += delivery.bytes as usize;
            fits
        };
        let next = self.stored.iter().take(count_max).take_while(within);
        next.map(|delivery| delivery.number).collect()
    }

    /// A message was read back, or is not there: then the delivery is let go of. Nothing happens unless it is the next in the store.
    /// `group` finds the shared group that it came through.
    pub fn arrived(
        &mut self,
        number: u64,
        message: Option<Rc<Message>>,
        group: impl FnOnce(&StoredDelivery, &Message) -> Option<GroupId>,
    ) -> Option<LetGo> {
        if self.stored.front()?.number != number {
            return None;
        }
        let stored = self.pop_stored()?;
        let Some(message) = message else {
            return Some(stored.into());
        };
        self.bytes += message.bytes();
        let group = group(&stored, &message);
        push_tight(&mut self.waiting, stored.with(message, group).into());
        None
    }

    /// Lets go of every delivery of a message that the store has refused; returns how many.
    pub fn refused(&mut self, number: u64) -> usize {
        let here = self.take_if(|delivery| delivery.number() == number);
        let stored = self.take_stored_if(|delivery| delivery.number == number);
        here.len() + stored.len()
    }
}

/// Adds one; room is made for a quarter more, because queues may be long and many.
fn push_tight<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == queue.capacity() {
        queue.reserve_exact((queue.len() / 4).max(4));
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::QoS;
    use crate::session::{DeliveryOptions, Progress};
    use crate::shard::message::{Message, MessageParts};
    use std::rc::Rc;

    fn delivery(payload: &[u8]) -> Delivery {
        let message = Message::new(&MessageParts::new("t", QoS::AtLeastOnce, payload));
        Delivery {
            message: Rc::new(message),
            subscription_ids: None,
            options: DeliveryOptions {
                qos: QoS::AtLeastOnce,
                retain: false,
            },
            group: None,
            part: crate::topic::share::Part::OWN,
            progress: Progress::Fresh,
            is_stored: false,
        }
    }

    fn limits(messages_max: usize, bytes_max: usize, policy: QueueFullPolicy) -> QueueLimits {
        QueueLimits {
            messages_max,
            bytes_max,
            resident_max: 32,
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
            let mut dropped = Vec::new();
            let results: Vec<_> = (0..5)
                .map(|n| {
                    queue.push(delivery(&[n]), &limits, |gone| {
                        dropped.push(gone.message.expect("in memory").payload()[0]);
                    })
                })
                .collect();
            assert!(results.iter().all(|result| matches!(result, Queued::Kept)));
            assert_eq!(dropped, [0, 1]);
            assert_eq!(queue.bytes(), 3 * one);
            assert_eq!(payloads(&mut queue), [2, 3, 4]);
            assert_eq!(queue.bytes(), 0);
        }
    }

    #[test]
    fn a_message_larger_than_the_queue_drops_itself_alone() {
        let mut queue = Queue::default();
        let limits = limits(10, 100, QueueFullPolicy::DropOldest);
        let none = |gone| panic!("{gone:?} had to go");
        let first = queue.push(delivery(b"1"), &limits, none);
        assert!(matches!(first, Queued::Kept));
        let second = queue.push(delivery(&[2; 200]), &limits, none);
        assert!(matches!(second, Queued::DroppedNewest));
        assert_eq!(payloads(&mut queue), [b'1']);
    }

    #[test]
    fn the_other_policies_refuse_the_newest() {
        for (policy, is_stored, expected) in [
            (QueueFullPolicy::DropNewest, false, "DroppedNewest"),
            (QueueFullPolicy::Disconnect, false, "Disconnect"),
            (QueueFullPolicy::Refuse, false, "DroppedNewest"),
            (QueueFullPolicy::Hold, false, "DroppedNewest"),
            (QueueFullPolicy::Refuse, true, "Refused"),
            (QueueFullPolicy::Hold, true, "Hold"),
        ] {
            let mut queue = Queue::default();
            let limits = limits(2, usize::MAX, policy);
            let none = |gone| panic!("{gone:?} had to go");
            queue.push(delivery(b"1"), &limits, none);
            queue.push(delivery(b"2"), &limits, none);
            let mut third = delivery(b"3");
            third.is_stored = is_stored;
            let got = format!("{:?}", queue.push(third, &limits, none));
            assert!(got.starts_with(expected), "{policy:?}: {got}");
            assert_eq!(payloads(&mut queue), [b'1', b'2']);
        }
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest_in_order() {
        let mut queue = Queue::default();
        let limits = limits(10, 1000, QueueFullPolicy::DropOldest);
        for n in 0..5 {
            queue.push(delivery(&[n]), &limits, |_| {});
        }
        let taken = queue.take_if(|delivery| delivery.message.payload()[0] % 2 == 1);
        assert_eq!(taken.len(), 2);
        assert_eq!(queue.bytes(), 3 * taken[0].message.bytes());
        assert_eq!(payloads(&mut queue), [0, 2, 4]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn beyond_the_first_few_only_the_number_of_a_stored_message_stays() {
        let stored = |number: u64| {
            let message = Rc::new(Message::new(&MessageParts {
                number,
                ..MessageParts::new("t", QoS::AtLeastOnce, &number.to_le_bytes())
            }));
            Delivery {
                message,
                is_stored: true,
                ..delivery(b"")
            }
        };
        let mut queue = Queue::default();
        let limits = limits(1_000, usize::MAX, QueueFullPolicy::DropNewest);
        for number in 1..=100 {
            queue.push(stored(number), &limits, |_| {});
        }
        let bytes = queue.bytes();
        assert_eq!(queue.len(), 100);
        let mut next = 1;
        while !queue.is_empty() {
            let here: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            assert!(here.len() <= limits.resident_max);
            for delivery in here {
                next += u64::from(next == 70);
                assert_eq!(delivery.number(), next);
                next += 1;
            }
            queue.check_invariants();
            // One that is not the next is not taken.
            assert!(queue.arrived(next + 1, None, |_, _| None).is_none());
            for number in queue.to_fetch(limits.resident_max, usize::MAX) {
                if number == 70 {
                    let gone = queue.arrived(number, None, |_, _| None).expect("given up");
                    assert_eq!(gone.place.number, 70);
                    continue;
                }
                let message = stored(number).message;
                assert!(queue.arrived(number, Some(message), |_, _| None).is_none());
            }
        }
        assert_eq!(next, 101);
        assert!(bytes > 0);
        assert_eq!(queue.bytes(), 0);
    }
}

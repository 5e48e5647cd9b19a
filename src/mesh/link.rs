//! A link: the one way from a shard to another, first in, first out.
//!
//! A link is a bounded queue (`super::spsc`) and, on the sender's side, an outbox for what the queue
//! has no place for. Sending never fails, never waits and never reorders: what does not fit waits in the
//! outbox and goes first next time. What keeps the outbox small is [`Pressure`]: above the soft limit the
//! sender's shard stops reading the publishers that feed the link, above the hard limit it reads no socket.
//! The receiving core always drains its links, whatever its own outgoing links look like, so the pressure
//! of two cores on each other cannot lock them up.
//!
//! The sender publishes once per turn and wakes the receiver at most once per turn, and only if it sleeps.
//! While the sender waits for the link to empty, because its outbox is in use or its pressure is not
//! [`Pressure::Low`], it says so in the link, and the receiver wakes it, once, after taking something. So a core
//! that wants to sleep flushes its waiting links once more *after* it has declared itself parked.
//!
//! Bytes are charged from `send` until the receiver has taken the message. A message that several cores want is
//! charged on each link, though its bytes exist once.

use super::spsc::{self, Consumer, Producer};
use super::sync::{Arc, AtomicBool, AtomicU64, Ordering, fence};
use super::wake::Wake;
use crate::net::admission::Permit;
use crate::net::transport::Transport;
use crate::shard::input::{Pressure, ShardId};
use crate::shard::mesh_message::MeshMessage;
use crate::shard::record::Receiver;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

/// What travels on a link.
#[derive(Debug)]
pub enum LinkMessage {
    /// From shard to shard.
    Shard(MeshMessage),
    /// From shell to shell: a connection whose session the receiver owns.
    Handover(Box<HandedOverSocket>),
}

// 1,024 of these are a ring, and there is a ring per ordered pair of cores.
const _: () = assert!(size_of::<LinkMessage>() <= 40);

/// A connection on its way to the core that owns its session.
#[derive(Debug)]
pub struct HandedOverSocket {
    /// The socket; no operation on it is in flight.
    pub socket: OwnedFd,
    /// All bytes of MQTT received so far, CONNECT first.
    pub unread: Vec<u8>,
    /// What lies between the socket and MQTT.
    pub transport: Option<Box<Transport>>,
    /// The number of the listener through which it came.
    pub listener: u16,
    /// The place it has taken.
    pub permit: Option<Box<Permit>>,
}

/// An amount of waiting messages; reached when either number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Messages.
    pub messages: usize,
    /// Bytes of messages.
    pub bytes: u64,
}

impl Mark {
    fn is_reached(self, messages: usize, bytes: u64) -> bool {
        messages >= self.messages || bytes >= self.bytes
    }
}

/// The sizes of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Places in the queue; a power of two.
    pub queue_messages: usize,
    /// Below this the pressure returns to [`Pressure::Low`].
    pub low: Mark,
    /// From this on the pressure is at least [`Pressure::Soft`]; below it, no longer [`Pressure::Hard`].
    pub soft: Mark,
    /// From this on it is [`Pressure::Hard`].
    pub hard: Mark,
}

impl LinkConfig {
    /// The sizes for a process of `shard_count` shards: the more links there are, the shorter each is.
    pub fn for_shards(shard_count: usize) -> Self {
        let queue_messages = (16_384 / shard_count.max(1))
            .next_power_of_two()
            .clamp(256, 1024);
        Self {
            queue_messages,
            ..Self::default()
        }
    }
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            queue_messages: 1024,
            low: Mark {
                messages: 2_048,
                bytes: 4 << 20,
            },
            soft: Mark {
                messages: 8_192,
                bytes: 16 << 20,
            },
            hard: Mark {
                messages: 65_536,
                bytes: 64 << 20,
            },
        }
    }
}

/// The sending end of a link.
#[derive(Debug)]
pub struct LinkSender {
    queue: Producer<LinkMessage>,
    /// What found no place in the queue, oldest first.
    outbox: VecDeque<LinkMessage>,
    shared: Arc<Shared>,
    receiver: Arc<Wake>,
    config: LinkConfig,
    /// Bytes of all messages ever sent; wraps.
    bytes_sent: u64,
    pressure: Pressure,
}

/// The receiving end of a link.
#[derive(Debug)]
pub struct LinkReceiver {
    queue: Consumer<LinkMessage>,
    shared: Arc<Shared>,
    sender: Arc<Wake>,
    /// Bytes of all messages ever taken; wraps.
    bytes_taken: u64,
}

/// What the two ends tell each other beside the messages. Aligned so that it shares no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shared {
    /// The receiver's `bytes_taken`.
    bytes_taken: AtomicU64,
    /// The sender wants to be woken when something was taken.
    sender_waits: AtomicBool,
}

/// A link from the core of `sender` to the core of `receiver`.
///
/// Panics: when the marks do not ascend, or the queue's size is not a power of two.
pub fn link(
    config: LinkConfig,
    sender: Arc<Wake>,
    receiver: Arc<Wake>,
) -> (LinkSender, LinkReceiver) {
    assert!(config.low.messages < config.soft.messages);
    assert!(config.soft.messages < config.hard.messages);
    assert!(config.low.bytes < config.soft.bytes);
    assert!(config.soft.bytes < config.hard.bytes);
    let (producer, consumer) = spsc::queue(config.queue_messages);
    let shared = Arc::new(Shared::default());
    let sending = LinkSender {
        queue: producer,
        outbox: VecDeque::new(),
        shared: Arc::clone(&shared),
        receiver,
        config,
        bytes_sent: 0,
        pressure: Pressure::Low,
    };
    (
        sending,
        LinkReceiver {
            queue: consumer,
            shared,
            sender,
            bytes_taken: 0,
        },
    )
}

/// All links of one core.
#[derive(Debug)]
pub struct Links {
    /// To each shard, by its index; none to itself.
    pub senders: Vec<Option<LinkSender>>,
    /// From each other shard.
    pub receivers: Vec<(ShardId, LinkReceiver)>,
}

/// The links of all cores, in the order of their wakes, which is that of the shards.
pub fn full_mesh(config: LinkConfig, wakes: &[Arc<Wake>]) -> Vec<Links> {
    let count = wakes.len();
    assert!(count <= ShardId::COUNT_MAX);
    let mut cores: Vec<_> = (0..count)
        .map(|_| Links {
            senders: (0..count).map(|_| None).collect(),
            receivers: Vec::with_capacity(count.saturating_sub(1)),
        })
        .collect();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            let (sender, receiver) = link(config, Arc::clone(&wakes[from]), Arc::clone(&wakes[to]));
            cores[from].senders[to] = Some(sender);
            cores[to].receivers.push((ShardId(from as u8), receiver));
        }
    }
    cores
}

impl LinkSender {
    /// Queues a message. It is on its way after the next [`LinkSender::flush`].
    pub fn send(&mut self, message: LinkMessage) {
        self.bytes_sent = self.bytes_sent.wrapping_add(message_bytes(&message));
        if !self.outbox.is_empty() {
            self.outbox.push_back(message);
        } else if let Err(message) = self.queue.stage(message) {
            self.outbox.push_back(message);
        }
    }

    /// Makes all that fits visible to the receiver, wakes it if it sleeps, and returns the pressure if it
    /// has changed.
    ///
    /// Call it once per turn after sending; in every turn while [`LinkSender::is_waiting`]; and, while that
    /// is so, between parking and sleeping, where a change of the pressure is a reason to stay awake.
    pub fn flush(&mut self) -> Option<Pressure> {
        let mut published = self.move_outbox();
        let mut pressure = self.measure();
        if !self.outbox.is_empty() || pressure != Pressure::Low {
            self.shared.sender_waits.store(true, Ordering::Relaxed);
            // Either the receiver sees the flag after it has taken more, or what it took is seen here.
            fence(Ordering::SeqCst);
            published |= self.move_outbox();
            pressure = self.measure();
        }
        if published {
            self.receiver.wake();
        }
        if self.outbox.is_empty() && self.outbox.capacity() > 4 * self.queue.capacity() {
            self.outbox = VecDeque::new();
        }
        (std::mem::replace(&mut self.pressure, pressure) != pressure).then_some(pressure)
    }

    /// How full the link was at the last flush.
    pub fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// Whether the link has to be flushed again although nothing new was sent: messages wait in the
    /// outbox, or the pressure has yet to fall.
    pub fn is_waiting(&self) -> bool {
        !self.outbox.is_empty() || self.pressure != Pressure::Low
    }

    /// Messages the receiver has not taken.
    pub fn messages(&self) -> usize {
        self.queue.len() + self.outbox.len()
    }

    /// Bytes of the messages the receiver has not taken.
    pub fn bytes(&self) -> u64 {
        self.bytes_sent
            .wrapping_sub(self.shared.bytes_taken.load(Ordering::Relaxed))
    }

    fn move_outbox(&mut self) -> bool {
        while let Some(message) = self.outbox.pop_front() {
            if let Err(message) = self.queue.stage(message) {
                self.outbox.push_front(message);
                break;
            }
        }
        self.queue.publish()
    }

    /// The pressure now. It falls later than it rises, so that it does not flicker.
    fn measure(&self) -> Pressure {
        let (messages, bytes) = (self.messages(), self.bytes());
        let LinkConfig {
            low, soft, hard, ..
        } = self.config;
        let was = self.pressure;
        if hard.is_reached(messages, bytes) {
            Pressure::Hard
        } else if soft.is_reached(messages, bytes) {
            was.max(Pressure::Soft)
        } else if low.is_reached(messages, bytes) {
            was.min(Pressure::Soft)
        } else {
            Pressure::Low
        }
    }
}

impl LinkReceiver {
    /// Takes the oldest message.
    pub fn take(&mut self) -> Option<LinkMessage> {
        let message = self.queue.take()?;
        self.bytes_taken = self.bytes_taken.wrapping_add(message_bytes(&message));
        Some(message)
    }

    /// Gives back the places of the messages taken; once per turn.
    pub fn release(&mut self) {
        if !self.queue.release() {
            return;
        }
        self.shared
            .bytes_taken
            .store(self.bytes_taken, Ordering::Relaxed);
        // See `LinkSender::flush`.
        fence(Ordering::SeqCst);
        if self.shared.sender_waits.load(Ordering::Relaxed) {
            self.shared.sender_waits.store(false, Ordering::Relaxed);
            self.sender.wake();
        }
    }

    /// Places in the queue: the most that can be taken before the sender adds more.
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// Whether nothing can be taken.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// What a message is charged: what it keeps alive, and its place.
fn message_bytes(message: &LinkMessage) -> u64 {
    let kept = match message {
        LinkMessage::Shard(MeshMessage::Publish { message, .. }) => message.bytes(),
        LinkMessage::Shard(MeshMessage::Batch(batch)) => batch.bytes(),
        LinkMessage::Shard(MeshMessage::Group(group)) => group.text.len(),
        LinkMessage::Shard(MeshMessage::Taken(answers)) => {
            let receivers: usize = answers.iter().map(|taken| taken.receivers.len()).sum();
            size_of_val(&answers[..]) + receivers * size_of::<Receiver>()
        }
        LinkMessage::Shard(MeshMessage::TakenEnded(ends)) => size_of_val(&ends[..]),
        LinkMessage::Shard(MeshMessage::Stored(numbers) | MeshMessage::Refused(numbers)) => {
            size_of_val(&numbers[..])
        }
        LinkMessage::Shard(
            MeshMessage::Interest { .. }
            | MeshMessage::AnnouncementAck { .. }
            | MeshMessage::Recovered,
        ) => 0,
        LinkMessage::Handover(socket) => socket.unread.len(),
    };
    (kept + size_of::<LinkMessage>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::QoS;
    use crate::shard::message::{Envelope, Message, MessageParts};
    use std::io::Read;
    use std::thread;

    const PLACE: u64 = size_of::<LinkMessage>() as u64;

    fn config() -> LinkConfig {
        LinkConfig {
            queue_messages: 4,
            low: Mark {
                messages: 6,
                bytes: 10_000,
            },
            soft: Mark {
                messages: 10,
                bytes: 20_000,
            },
            hard: Mark {
                messages: 20,
                bytes: 40_000,
            },
        }
    }

    fn pair(config: LinkConfig) -> (LinkSender, LinkReceiver) {
        link(
            config,
            Arc::new(Wake::new().unwrap()),
            Arc::new(Wake::new().unwrap()),
        )
    }

    fn numbered(up_to: u64) -> LinkMessage {
        LinkMessage::Shard(MeshMessage::AnnouncementAck { up_to })
    }

    fn number(message: Option<LinkMessage>) -> Option<u64> {
        match message {
            Some(LinkMessage::Shard(MeshMessage::AnnouncementAck { up_to })) => Some(up_to),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    fn publish(payload: &[u8]) -> LinkMessage {
        let message = Message::new(&MessageParts::new("t", QoS::AtMostOnce, payload));
        let envelope = Envelope::default();
        LinkMessage::Shard(MeshMessage::Publish { message, envelope })
    }

    #[test]
    fn what_does_not_fit_waits_and_keeps_its_order() {
        let (mut sender, mut receiver) = pair(config());
        (0..9).for_each(|n| sender.send(numbered(n)));
        assert!(receiver.is_empty(), "nothing travels before the flush");
        assert_eq!(sender.flush(), None);
        assert!(sender.is_waiting());
        // While the outbox holds older messages, a place in the queue must not be taken by a newer one.
        let mut got = vec![number(receiver.take()).unwrap()];
        receiver.release();
        sender.send(numbered(9));
        while got.len() < 10 {
            sender.flush();
            while let Some(n) = number(receiver.take()) {
                got.push(n);
            }
            receiver.release();
        }
        assert_eq!(got, (0..10).collect::<Vec<_>>());
        sender.flush();
        assert!(!sender.is_waiting());
        assert_eq!((sender.messages(), sender.bytes()), (0, 0));
    }

    #[test]
    fn pressure_rises_at_the_limits_and_falls_below_the_marks() {
        let (mut sender, mut receiver) = pair(config());
        let send = |sender: &mut LinkSender, count| {
            (0..count).for_each(|n| sender.send(numbered(n)));
            sender.flush()
        };
        let take = |sender: &mut LinkSender, receiver: &mut LinkReceiver, count| {
            for _ in 0..count {
                receiver.take().unwrap();
                receiver.release();
                sender.move_outbox();
            }
            sender.flush()
        };
        assert_eq!(send(&mut sender, 9), None);
        assert_eq!(send(&mut sender, 1), Some(Pressure::Soft));
        assert_eq!(send(&mut sender, 9), None);
        assert_eq!(send(&mut sender, 1), Some(Pressure::Hard));
        assert_eq!(
            take(&mut sender, &mut receiver, 10),
            None,
            "10 is still the soft limit"
        );
        assert_eq!(sender.pressure(), Pressure::Hard);
        assert_eq!(take(&mut sender, &mut receiver, 1), Some(Pressure::Soft));
        assert_eq!(send(&mut sender, 1), None, "10 again: hard is not reached");
        assert_eq!(
            take(&mut sender, &mut receiver, 4),
            None,
            "6 is still the low mark"
        );
        assert_eq!(take(&mut sender, &mut receiver, 1), Some(Pressure::Low));
        assert_eq!(send(&mut sender, 4), None, "9 is below the soft limit");
    }

    #[test]
    fn bytes_count_until_they_are_taken() {
        let (mut sender, mut receiver) = pair(config());
        sender.send(publish(&[0; 19_000]));
        assert_eq!(sender.flush(), None);
        sender.send(publish(&[0; 1_000]));
        assert_eq!(sender.flush(), Some(Pressure::Soft));
        assert!(
            sender.is_waiting(),
            "two messages fit, but the pressure has to fall"
        );
        assert_eq!(sender.bytes(), 20_000 + 2 * (PLACE + 33));
        receiver.take().unwrap();
        receiver.release();
        assert_eq!(sender.flush(), Some(Pressure::Low));
        sender.send(publish(&[0; 60_000]));
        assert_eq!(sender.flush(), Some(Pressure::Hard));
    }

    #[test]
    fn each_side_wakes_the_other_only_when_it_sleeps_and_has_a_reason() {
        let (near, far) = (
            Arc::new(Wake::new().unwrap()),
            Arc::new(Wake::new().unwrap()),
        );
        let (mut sender, mut receiver) = link(config(), Arc::clone(&near), Arc::clone(&far));
        // `claim` tells whether the flag was still up, that is, whether nobody woke the core.
        far.parking().park();
        sender.flush();
        assert!(far.parking().claim(), "there was nothing to take");
        far.parking().park();
        sender.send(numbered(0));
        sender.flush();
        assert!(!far.parking().claim());
        near.parking().park();
        receiver.take().unwrap();
        receiver.release();
        assert!(near.parking().claim(), "the sender did not wait");
        (0..6).for_each(|n| sender.send(numbered(n)));
        sender.flush();
        near.parking().park();
        receiver.release();
        assert!(near.parking().claim(), "nothing was taken");
        near.parking().park();
        receiver.take().unwrap();
        receiver.release();
        assert!(!near.parking().claim());
    }

    #[test]
    fn a_socket_travels_with_what_it_had_unread() {
        let (mut sender, mut receiver) = pair(config());
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        sender.send(LinkMessage::Handover(Box::new(HandedOverSocket {
            socket: far.into(),
            unread: b"CONNECT".to_vec(),
            transport: None,
            listener: 0,
            permit: None,
        })));
        sender.flush();
        let Some(LinkMessage::Handover(socket)) = receiver.take() else {
            panic!("expected a socket")
        };
        assert_eq!(socket.unread, b"CONNECT");
        drop(socket);
        assert_eq!(
            near.read(&mut [0]).unwrap(),
            0,
            "dropping the message closes the socket"
        );
    }

    #[test]
    fn a_mesh_links_every_ordered_pair() {
        let wakes: Vec<_> = (0..3).map(|_| Arc::new(Wake::new().unwrap())).collect();
        let mut cores = full_mesh(config(), &wakes);
        for (from, core) in cores.iter_mut().enumerate() {
            assert!(core.senders[from].is_none());
            for to in (0..3).filter(|to| *to != from) {
                let sender = core.senders[to].as_mut().unwrap();
                sender.send(numbered((from * 10 + to) as u64));
                sender.flush();
            }
        }
        for (to, core) in cores.iter_mut().enumerate() {
            assert_eq!(core.receivers.len(), 2);
            for (from, receiver) in &mut core.receivers {
                assert_eq!(
                    number(receiver.take()),
                    Some((from.index() * 10 + to) as u64)
                );
            }
        }
    }

    #[test]
    fn two_cores_exchange_everything_while_sleeping_whenever_they_can() {
        const COUNT: u64 = 100_000;
        let (near, far) = (
            Arc::new(Wake::new().unwrap()),
            Arc::new(Wake::new().unwrap()),
        );
        let (mut sender, mut receiver) = link(config(), Arc::clone(&near), Arc::clone(&far));
        let sending = thread::spawn(move || {
            let mut next = 0;
            while next < COUNT || sender.is_waiting() {
                // Like a shard, it stops at the soft limit and sleeps until the link has room.
                while next < COUNT && sender.messages() < 12 {
                    sender.send(numbered(next));
                    next += 1;
                }
                sender.flush();
                if sender.is_waiting() {
                    near.parking().park();
                    sender.flush();
                    if !sender.is_waiting() || sender.messages() < 12 {
                        near.parking().unpark();
                        continue;
                    }
                    near.eventfd().read_exact(&mut [0; 8]).unwrap();
                    near.parking().unpark();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            let mut idle = true;
            while let Some(n) = number(receiver.take()) {
                assert_eq!(n, expected);
                expected += 1;
                idle = false;
            }
            receiver.release();
            if idle {
                far.parking().park();
                if receiver.is_empty() {
                    far.eventfd().read_exact(&mut [0; 8]).unwrap();
                }
                far.parking().unpark();
            }
        }
        sending.join().unwrap();
    }
}

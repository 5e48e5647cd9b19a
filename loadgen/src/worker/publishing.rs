//! When publishers send, and what.

use super::{Load, Payload, Settings, Stage, State, Times, record};
use crate::links::Links;
use crate::message::Prepared;
use crate::pace::share;
use crate::payload::{Header, Payloads};
use crate::plan::{Publishes, Rotation};
use crate::shared::Shared;
use ringmq::protocol::{HeadOffsets, PacketId, PublishHead, QoS};
use std::sync::atomic::Ordering;

/// Bytes a connection may have ready to be written before its publisher waits.
const OUT_BYTES_MAX: usize = 64 << 10;
/// A full window that has not moved for this long is given up.
const STALL_NS: u64 = 2_000_000_000;
/// QoS 1 and 2 messages of a publisher whose handshake is not done, at most.
const IN_FLIGHT_MAX: u32 = 16_384;
/// Packet Identifiers that a publisher begins with; there are more when it needs more.
const IDS_FIRST: usize = 8;

pub(super) struct Publisher {
    pub(super) client: u32,
    pub(super) number: u32,
    pub(super) next: u64,
    /// The end of its messages, where their number is limited.
    limit: u64,
    /// Whether it is in the list of those that may be able to send.
    queued: bool,
    /// A PUBLISH packet up to its payload.
    pub(super) head: Vec<u8>,
    pub(super) offsets: HeadOffsets,
    /// A number in the topic that goes round, and where in the head it is.
    rotation: Option<(usize, Rotation)>,
    /// The user's own payload, if any.
    message: Option<Prepared>,
    /// The state of each Packet Identifier, from 1; empty with QoS 0.
    pub(super) ids: Vec<Handshake>,
    next_id: usize,
    pub(super) in_flight: u32,
    pub(super) in_flight_max: u32,
    /// The broker took no more when it was its turn the last time.
    held_back: bool,
    /// In a closed loop, the end of the window.
    pub(super) window_end: u64,
    pub(super) moved_ns: u64,
    /// Subscribers on other cores have a say in the window.
    pub(super) has_remote_receivers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    Free,
    /// PUBLISH is sent; the message was due at this time and has this number.
    Published(u64, u64),
    /// PUBREL is sent; the message was due at this time.
    Released(u64),
}

impl Publisher {
    pub(super) fn new(
        client: u32,
        publishes: &Publishes,
        core: usize,
        settings: &Settings,
        shared: &Shared,
    ) -> Self {
        let number = publishes.number;
        let (message, payload_len) = match &settings.payload {
            Payload::Own(message) => {
                let message = message.of_publisher(&settings.names, number);
                let len = message.len();
                (Some(message), len)
            }
            Payload::Checked(bytes) => (None, *bytes),
            Payload::Any => unreachable!("who publishes knows what"),
        };
        let mut head = Vec::new();
        let offsets = PublishHead {
            version: settings.route.version,
            qos: settings.qos,
            dup: false,
            retain: settings.retain,
            topic: &publishes.topic,
            packet_id: (settings.qos != QoS::AtMostOnce).then_some(PacketId::MIN),
            topic_alias: None,
            message_expiry_s: None,
            subscription_ids: &[],
            forward: &[],
            payload_len,
        }
        .encode(&mut head);
        let receivers = &shared.receivers[number as usize];
        let has_receivers = receivers.iter().any(|count| *count > 0);
        let in_flight_max = match settings.load {
            // Without subscribers the window is that of the acknowledgements.
            Load::Closed { window } if !has_receivers => window as u32,
            // The handshake of a message may end after its delivery.
            Load::Closed { window } => IN_FLIGHT_MAX.min((2 * window) as u32),
            Load::Open(_) | Load::Idle => settings.in_flight_max.unwrap_or(IN_FLIGHT_MAX),
        };
        let ids = match settings.qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce | QoS::ExactlyOnce => IDS_FIRST,
        };
        // The Topic Name is the first field of the packet, behind its length.
        let rotation = publishes.rotation.map(|rotation| {
            let topic = publishes.topic.as_bytes();
            let at = head.windows(topic.len()).position(|piece| piece == topic);
            let at = at.expect("the topic is in the packet");
            (at + rotation.at, rotation)
        });
        let publishers = shared.homes.len();
        Self {
            client,
            number,
            next: 0,
            limit: settings
                .limit
                .map_or(u64::MAX, |limit| share(limit, number as usize, publishers)),
            queued: false,
            head,
            offsets,
            rotation,
            message,
            ids: vec![Handshake::Free; ids],
            next_id: 0,
            in_flight: 0,
            in_flight_max,
            held_back: false,
            window_end: if has_receivers {
                shared.window
            } else {
                u64::MAX
            },
            moved_ns: 0,
            has_remote_receivers: receivers
                .iter()
                .enumerate()
                .any(|(at, count)| at != core && *count > 0),
        }
    }

    /// Appends a PUBLISH.
    #[inline]
    pub(super) fn put(
        &mut self,
        out: &mut Vec<u8>,
        payloads: &Payloads,
        settings: &Settings,
        sequence: u64,
        intended_ns: u64,
    ) {
        if let Some((at, rotation)) = &self.rotation {
            let mut number = rotation.number(sequence);
            for digit in self.head[*at..at + rotation.digits].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        out.extend_from_slice(&self.head);
        let publisher = self.number + settings.publisher_offset;
        match &self.message {
            None => payloads.put(
                &Header {
                    publisher,
                    sequence,
                    intended_ns,
                },
                out,
            ),
            Some(message) => message.put(out, publisher, sequence, intended_ns),
        }
    }

    /// The Packet Identifiers, less one, of what is in flight, oldest first.
    pub(super) fn ids_in_order(&self) -> Vec<usize> {
        let due = |index: &usize| match self.ids[*index] {
            Handshake::Free => 0,
            Handshake::Published(due_ns, _) | Handshake::Released(due_ns) => due_ns,
        };
        let mut ids: Vec<_> = (0..self.ids.len()).collect();
        ids.sort_by_key(due);
        ids
    }

    /// Whether another QoS 1 or 2 message may be in flight. Finds it a Packet Identifier then.
    fn find_id(&mut self) -> bool {
        if self.in_flight >= self.in_flight_max {
            return false;
        }
        if self.ids[self.next_id] != Handshake::Free {
            // The oldest is slow. Twice as many as can be in flight leave room for it.
            let more = (2 * self.ids.len()).min(2 * self.in_flight_max as usize);
            if more <= self.ids.len() {
                return false;
            }
            self.next_id = self.ids.len();
            self.ids.resize(more, Handshake::Free);
        }
        true
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.in_flight_max
    }
}

impl State<'_> {
    pub(super) fn begin(&mut self, times: Times) {
        self.times = Some(times);
        self.interval.second = times.second(times.start_ns);
        if let Load::Open(profile) = &self.settings.load
            && !self.publishers.is_empty()
        {
            let here = self.publishers.len() as f64;
            let all = self.shared.homes.len() as f64;
            let phase = self.core as f64 / self.shared.cores.len() as f64;
            self.schedule = Some(profile.schedule(times.start_ns, here / all, phase));
        }
        for index in 0..self.publishers.len() {
            self.publishers[index].moved_ns = times.start_ns;
            self.enqueue(index);
        }
    }

    pub(super) fn enqueue(&mut self, index: usize) {
        let publisher = &mut self.publishers[index];
        if !publisher.queued {
            publisher.queued = true;
            self.queue.push(index as u32);
        }
    }

    pub(super) fn publish(&mut self, links: &mut Links, now_ns: u64) {
        let Some(times) = self.times else { return };
        if now_ns < times.start_ns {
            return;
        }
        if self.publishers.is_empty() {
            // The others are not to wait for it.
            self.settle();
            return;
        }
        match &self.schedule {
            Some(schedule) => {
                // What was due before the end is sent even if it is late, or the end would be forgiven.
                let due = schedule.due(now_ns.min(times.stop_ns - 1));
                self.enqueue_due(due);
                if now_ns >= times.stop_ns && self.unsent() == 0 {
                    self.settle();
                }
            }
            None if now_ns >= times.stop_ns => {
                for index in self.queue.drain(..) {
                    self.publishers[index as usize].queued = false;
                }
                self.settle();
            }
            None => self.look_at_windows(now_ns),
        }
        for at in 0..self.queue.len() {
            let index = self.queue[at] as usize;
            self.publishers[index].queued = false;
            self.fill(links, index, now_ns, times);
        }
        self.queue.clear();
    }

    fn enqueue_due(&mut self, due: u64) {
        let count = self.publishers.len() as u64;
        let new = (due - self.due).min(count);
        for message in due - new..due {
            self.enqueue((message % count) as usize);
        }
        self.due = due;
    }

    /// Takes in what other cores' subscribers got, and gives up on windows that do not move.
    fn look_at_windows(&mut self, now_ns: u64) {
        for index in 0..self.publishers.len() {
            let publisher = &mut self.publishers[index];
            if publisher.has_remote_receivers {
                let end = self.shared.window_end(publisher.number as usize);
                if end > publisher.window_end {
                    publisher.window_end = end;
                    self.enqueue(index);
                }
            } else if now_ns < publisher.moved_ns + STALL_NS {
                continue;
            }
            let publisher = &mut self.publishers[index];
            if publisher.next < publisher.window_end {
                publisher.moved_ns = now_ns;
            } else if now_ns >= publisher.moved_ns + STALL_NS {
                self.outcome.counts.window_stalls += 1;
                publisher.moved_ns = now_ns;
                publisher.window_end = publisher.next + self.shared.window;
                self.enqueue(index);
            }
        }
    }

    /// The end of what a publisher may send now, as far as it is not held back.
    fn end_of(&self, index: usize) -> u64 {
        let publisher = &self.publishers[index];
        let end = match &self.schedule {
            Some(_) => share(self.due, index, self.publishers.len()),
            None => publisher.window_end,
        };
        end.min(publisher.limit)
    }

    fn fill(&mut self, links: &mut Links, index: usize, now_ns: u64, times: Times) {
        let count = self.publishers.len() as u64;
        let end = self.end_of(index);
        let publisher = &mut self.publishers[index];
        if publisher.next >= end {
            return;
        }
        if self.clients[publisher.client as usize].stage != Stage::Ready {
            publisher.held_back = true;
            return;
        }
        let held_back = std::mem::take(&mut publisher.held_back) || links.is_full(publisher.client);
        let out = links.out(publisher.client);
        let first = publisher.next;
        while publisher.next < end {
            if out.len() >= OUT_BYTES_MAX {
                publisher.held_back = true;
                break;
            }
            let intended_ns = match &self.schedule {
                Some(schedule) => schedule.at_ns(publisher.next * count + index as u64),
                None => now_ns,
            };
            if !publisher.ids.is_empty() {
                if !publisher.find_id() {
                    publisher.held_back = true;
                    break;
                }
                let at = publisher.next_id;
                publisher.ids[at] = Handshake::Published(intended_ns, publisher.next);
                publisher.in_flight += 1;
                let id = PacketId::new(at as u16 + 1);
                let id = id.expect("there are at most 32,768 identifiers");
                publisher.offsets.patch_packet_id(&mut publisher.head, id);
                publisher.next_id = (at + 1) % publisher.ids.len();
            }
            publisher.put(
                out,
                &self.payloads,
                self.settings,
                publisher.next,
                intended_ns,
            );
            publisher.next += 1;
            if self.schedule.is_some() && times.is_measured(intended_ns) {
                if held_back {
                    self.outcome.counts.held_back += 1;
                } else {
                    record(&mut self.interval.send_lag, now_ns - intended_ns);
                }
            }
        }
        if publisher.next == first {
            return;
        }
        publisher.moved_ns = now_ns;
        self.interval.published += publisher.next - first;
        if times.is_measured(now_ns) {
            self.outcome.counts.published += publisher.next - first;
        }
    }

    /// A publisher whose buffer is empty again may go on.
    pub(super) fn go_on(&mut self, index: usize) {
        let publisher = &self.publishers[index];
        let has_room = publisher.ids.is_empty() || publisher.has_room();
        let running = self.schedule.is_some()
            || self
                .times
                .is_some_and(|times| self.clock.now_ns() < times.stop_ns);
        if publisher.next < self.end_of(index) && has_room && running {
            self.enqueue(index);
        }
    }

    /// Messages that are due and not sent.
    pub(super) fn unsent(&self) -> u64 {
        match self.schedule {
            Some(_) => (0..self.publishers.len())
                .map(|index| self.end_of(index) - self.publishers[index].next)
                .sum(),
            None => 0,
        }
    }

    /// After the end of publishing: tells how many messages there were, and how many are not settled.
    fn settle(&self) {
        let own = &self.shared.cores[self.core];
        let in_flight: u64 = self
            .publishers
            .iter()
            .map(|one| u64::from(one.in_flight))
            .sum();
        own.unsettled.store(in_flight, Ordering::Relaxed);
        let expected = self.publishers.iter().map(|one| {
            let receivers: u32 = self.shared.receivers[one.number as usize].iter().sum();
            one.next * u64::from(receivers)
        });
        own.expected.store(expected.sum(), Ordering::Relaxed);
        own.stopped.store(true, Ordering::Release);
    }
}

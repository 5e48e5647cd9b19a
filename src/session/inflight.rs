//! The outbound window: QoS 1 and 2 messages sent to the client and not yet acknowledged (MQTT 5 §4.3, §4.4, §4.9).
//!
//! Packet Identifiers are handed out in ascending order, so the window is a ring in which the identifier is
//! the position: no map, and order of redelivery is order of sending. An entry acknowledged out of order
//! stays as a gap until all before it are done.

use super::{Delivery, Place, Progress, StoredDelivery};
use crate::protocol::{PacketId, QoS};
use crate::shard::message::{Message, Spares};
use std::collections::VecDeque;
use std::rc::Rc;

/// How far the ring may stretch while its oldest entry is unacknowledged. Identifiers are 16 bits wide, so
/// within this span none can repeat.
const SPAN_MAX: usize = 65_000;

#[derive(Debug)]
enum Entry {
    /// PUBLISH sent; PUBACK (QoS 1) or PUBREC (QoS 2) is due.
    Published(Delivery),
    /// The same before a restart; the message is to be read back.
    Stored(Box<StoredDelivery>),
    /// PUBREL sent; PUBCOMP is due. The message itself is no longer needed (§4.3.3).
    Released {
        /// PUBREL may not be sent before the record of PUBREC is durable.
        held: bool,
    },
    /// Acknowledged; waits for its elders.
    Done,
}

const _: () = assert!(size_of::<Entry>() <= 32);

impl Entry {
    fn into_message(self) -> Option<Rc<Message>> {
        match self {
            Self::Published(delivery) => Some(delivery.message),
            Self::Stored(_) | Self::Released { .. } | Self::Done => None,
        }
    }
}

/// What an acknowledgement meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Acked {
    /// It ended a delivery, which had this place in the store: the window has room for one more.
    Complete(Place),
    /// PUBREC was accepted: PUBREL is due. The place in the store of the message, which is no longer needed.
    Release(Place),
    /// PUBREC was repeated: so is PUBREL.
    ReleaseAgain,
    /// PUBREC was repeated before PUBREL may go out.
    Held,
    /// No such identifier in that state.
    Unknown,
}

/// What follows when the record of a step is durable.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    /// What was held back may be sent in its turn.
    Send,
    /// PUBREL is due at once.
    Release,
    /// Nothing.
    Nothing,
}

/// What became of a message that was read back.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived {
    /// It can be sent.
    Taken,
    /// It cannot be read, and its identifier is given up, with its place in the store.
    GivenUp(PacketId, Place),
    /// Nothing waits for it.
    Unknown,
}

/// What is to be sent again after a reconnect.
#[derive(Debug)]
pub enum Resend<'a> {
    /// PUBLISH; with DUP set if it was sent before.
    Publish {
        /// Under which identifier.
        id: PacketId,
        /// What.
        delivery: &'a Delivery,
        /// Whether it was sent before.
        dup: bool,
    },
    /// PUBREL.
    Release(PacketId),
    /// PUBLISH, once the message is read back; it does not count as sent.
    Fetch,
}

/// The outbound window of one session.
#[derive(Debug)]
pub struct Inflight {
    entries: VecDeque<Entry>,
    /// The Packet Identifier of `entries[0]`.
    first_id: u16,
    /// Entries from this index on were not sent on the present connection. Invariant: `<= entries.len()`.
    unsent_from: usize,
    /// Entries before `unsent_from` that are not done. Invariant: never above the client's Receive Maximum.
    sent_count: usize,
    /// Entries that are not done.
    open_count: usize,
    /// Bytes of the messages held.
    bytes: usize,
    /// See `keep_count`.
    keeps_count: bool,
}

impl Default for Inflight {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            first_id: 1,
            unsent_from: 0,
            sent_count: 0,
            open_count: 0,
            bytes: 0,
            keeps_count: false,
        }
    }
}

impl Inflight {
    /// Messages sent on this connection and not acknowledged: what counts against the client's Receive Maximum.
    pub fn sent_count(&self) -> usize {
        self.sent_count
    }

    /// Messages not acknowledged, sent on this connection or not yet.
    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// Bytes of the messages held for possible redelivery.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether dropping this value would lose nothing.
    pub fn is_unused(&self) -> bool {
        self.entries.is_empty() && !self.keeps_count
    }

    /// The client may still have an identifier that was given up: what comes has others, until all 65,535 were used.
    pub fn keep_count(&mut self) {
        self.keeps_count = true;
    }

    /// Whether something waits to be sent again.
    pub fn has_unsent(&self) -> bool {
        self.unsent_from < self.entries.len()
    }

    /// How many more entries the ring can take.
    pub fn room(&self) -> usize {
        SPAN_MAX.saturating_sub(self.entries.len())
    }

    /// Whether the ring can take another entry.
    pub fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Takes a delivery that is being sent now and returns its Packet Identifier.
    ///
    /// Panics: when something waits to be sent again (order), or the ring is full (`has_room`).
    pub fn push(&mut self, mut delivery: Delivery) -> PacketId {
        assert!(!self.has_unsent());
        delivery.progress = Progress::Sent;
        let id = self.line_up(delivery);
        self.unsent_from += 1;
        self.sent_count += 1;
        id
    }

    /// Takes a delivery that is sent in its turn, by `resend_next`, and returns its Packet Identifier.
    ///
    /// Panics: when the ring is full (`has_room`).
    pub fn line_up(&mut self, delivery: Delivery) -> PacketId {
        assert!(self.has_room());
        assert!(delivery.options.qos != QoS::AtMostOnce);
        let id = self.id_at(self.entries.len());
        self.bytes += delivery.message.bytes();
        self.entries.push_back(Entry::Published(delivery));
        self.open_count += 1;
        id
    }

    /// The window of a session as it was stored: QoS 2 messages under their identifiers, and released identifiers.
    ///
    /// Identifiers were handed out in ascending order and lie within a span of `SPAN_MAX`, so the widest gap
    /// between them on the circle is where the ring was cut.
    pub fn recovered(published: Vec<(PacketId, StoredDelivery)>, released: &[PacketId]) -> Self {
        let published = published
            .into_iter()
            .map(|(id, delivery)| (id.get(), Entry::Stored(Box::new(delivery))));
        let released = released
            .iter()
            .map(|id| (id.get(), Entry::Released { held: false }));
        let mut all: Vec<_> = published.chain(released).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.dedup_by_key(|(id, _)| *id);
        let count = all.len();
        let gap = |at: usize| {
            let before = all[(at + count - 1) % count].0;
            (65_535 + u32::from(all[at].0) - u32::from(before)) % 65_535
        };
        let first = (0..count).max_by_key(|at| gap(*at)).unwrap_or(0);
        all.rotate_left(first);
        let mut inflight = Self::default();
        for (id, entry) in all {
            if inflight.entries.is_empty() {
                inflight.first_id = id;
            }
            let at = inflight.position(id);
            if at >= SPAN_MAX {
                // Nothing this broker stored; the client would not find its way either.
                continue;
            }
            inflight.entries.resize_with(at, || Entry::Done);
            inflight.entries.push_back(entry);
            inflight.open_count += 1;
        }
        inflight
    }

    /// PUBACK arrived. The message leaves its place to a later one.
    pub fn puback(&mut self, id: PacketId, spares: &mut Spares) -> Acked {
        match self.entry(id) {
            Some((at, Entry::Published(delivery))) if delivery.options.qos == QoS::AtLeastOnce => {
                let place = delivery.place();
                if let Some(message) = self.finish(at) {
                    spares.give(message);
                }
                Acked::Complete(place)
            }
            _ => Acked::Unknown,
        }
    }

    /// PUBREC arrived; `accepted` is false for a Reason Code of 0x80 or above, which ends the delivery. `held` keeps PUBREL
    /// back until `settle`. The message leaves its place to a later one.
    pub fn pubrec(
        &mut self,
        id: PacketId,
        accepted: bool,
        held: bool,
        spares: &mut Spares,
    ) -> Acked {
        let (at, place, bytes) = match self.entry(id) {
            Some((at, Entry::Published(delivery))) if delivery.options.qos == QoS::ExactlyOnce => {
                (at, delivery.place(), delivery.message.bytes())
            }
            Some((at, Entry::Stored(delivery))) => (at, delivery.place(), 0),
            // A repeated PUBREC: the client did not see our PUBREL.
            Some((_, Entry::Released { held: false })) => return Acked::ReleaseAgain,
            Some((_, Entry::Released { held: true })) => return Acked::Held,
            _ => return Acked::Unknown,
        };
        let (acked, message) = if accepted {
            self.bytes -= bytes;
            let before = std::mem::replace(&mut self.entries[at], Entry::Released { held });
            (Acked::Release(place), before.into_message())
        } else {
            (Acked::Complete(place), self.finish(at))
        };
        if let Some(message) = message {
            spares.give(message);
        }
        acked
    }

    /// The record of the last step of an entry is durable.
    pub fn settle(&mut self, id: PacketId) -> Settled {
        let Some((at, _)) = self.entry(id) else {
            return Settled::Nothing;
        };
        let is_sent = at < self.unsent_from;
        match &mut self.entries[at] {
            Entry::Published(delivery) if delivery.progress == Progress::Held => {
                delivery.progress = Progress::Fresh;
                Settled::Send
            }
            Entry::Released { held } if *held => {
                *held = false;
                if is_sent {
                    Settled::Release
                } else {
                    Settled::Send
                }
            }
            _ => Settled::Nothing,
        }
    }

    /// PUBCOMP arrived.
    pub fn pubcomp(&mut self, id: PacketId) -> Acked {
        match self.entry(id) {
            Some((at, Entry::Released { held: false })) => {
                self.finish(at);
                Acked::Complete(Place::default())
            }
            _ => Acked::Unknown,
        }
    }

    /// A new connection took the session: everything unacknowledged is to be sent again, in order
    /// (MQTT 5 §4.4, [MQTT-4.6.0-1]).
    pub fn rewind(&mut self) {
        self.unsent_from = 0;
        self.sent_count = 0;
    }

    /// The next thing to send, if any may be sent; it then counts as sent.
    pub fn resend_next(&mut self) -> Option<Resend<'_>> {
        while matches!(self.entries.get(self.unsent_from), Some(Entry::Done)) {
            self.unsent_from += 1;
        }
        let at = self.unsent_from;
        let id = self.id_at(at);
        let entry = self.entries.get_mut(at)?;
        let resend = match entry {
            Entry::Published(delivery) => {
                let before = std::mem::replace(&mut delivery.progress, Progress::Sent);
                if before == Progress::Held {
                    delivery.progress = before;
                    return None;
                }
                Resend::Publish {
                    id,
                    delivery,
                    dup: before == Progress::Sent,
                }
            }
            Entry::Released { held: false } => Resend::Release(id),
            Entry::Released { held: true } => return None,
            Entry::Stored(_) => return Some(Resend::Fetch),
            Entry::Done => unreachable!("done entries were skipped"),
        };
        self.unsent_from += 1;
        self.sent_count += 1;
        Some(resend)
    }

    /// The numbers of the messages next in line that are to be read back, at most `count_max`.
    pub fn to_fetch(&self, count_max: usize) -> Vec<u64> {
        self.entries
            .iter()
            .skip(self.unsent_from)
            .filter_map(|entry| match entry {
                Entry::Stored(delivery) => Some(delivery.number),
                _ => None,
            })
            .take(count_max)
            .collect()
    }

    /// A message was read back, or is not there.
    pub fn arrived(&mut self, number: u64, message: Option<&Rc<Message>>) -> Arrived {
        // Not before: what is sent has been read back.
        let unsent = self.entries.range(self.unsent_from..);
        let mut unsent = unsent.zip(self.unsent_from..);
        let found = unsent.find_map(|(entry, at)| match entry {
            Entry::Stored(stored) if stored.number == number => Some((at, stored.place())),
            _ => None,
        });
        let Some((at, place)) = found else {
            return Arrived::Unknown;
        };
        let Some(message) = message else {
            let id = self.id_at(at);
            self.finish(at);
            self.keep_count();
            return Arrived::GivenUp(id, place);
        };
        if let Entry::Stored(stored) = std::mem::replace(&mut self.entries[at], Entry::Done) {
            let mut delivery = stored.with(Rc::clone(message), None);
            delivery.progress = Progress::Sent;
            self.bytes += message.bytes();
            self.entries[at] = Entry::Published(delivery);
        }
        Arrived::Taken
    }

    /// The store has refused a message: what was sent goes on in memory alone; what was not sent is given up. Returns the
    /// identifiers given up.
    pub fn refused(&mut self, number: u64) -> Vec<(PacketId, QoS)> {
        let mut given_up = Vec::new();
        for at in 0..self.entries.len() {
            let id = self.id_at(at);
            let Entry::Published(delivery) = &mut self.entries[at] else {
                continue;
            };
            if delivery.number() == number {
                if delivery.progress == Progress::Sent {
                    delivery.is_stored = false;
                } else {
                    given_up.push((id, delivery.options.qos));
                }
            }
        }
        for (id, _) in &given_up {
            self.abandon(*id);
        }
        given_up
    }

    /// Gives up the message of an entry that cannot be sent, such as one larger than the client now accepts. Returns its
    /// place in the store and its QoS.
    pub fn abandon(&mut self, id: PacketId) -> Option<(Place, QoS)> {
        let (at, Entry::Published(delivery)) = self.entry(id)? else {
            return None;
        };
        let gone = (delivery.place(), delivery.options.qos);
        self.finish(at);
        Some(gone)
    }

    /// Takes out all messages whose delivery was not completed, oldest first: those in memory, and those to be read back.
    pub fn take_unacknowledged(&mut self) -> (Vec<Delivery>, Vec<StoredDelivery>) {
        let (mut here, mut stored) = (Vec::new(), Vec::new());
        for entry in std::mem::take(self).entries {
            match entry {
                Entry::Published(delivery) => here.push(delivery),
                Entry::Stored(delivery) => stored.push(*delivery),
                Entry::Released { .. } | Entry::Done => {}
            }
        }
        (here, stored)
    }

    /// Takes out the messages awaiting their first acknowledgement for which `goes` says so, oldest first.
    /// Their identifiers are free again; only for a session without a connection.
    pub fn take_if(&mut self, goes: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut taken = Vec::new();
        for entry in &mut self.entries {
            if matches!(entry, Entry::Published(delivery) if goes(delivery))
                && let Entry::Published(delivery) = std::mem::replace(entry, Entry::Done)
            {
                self.bytes -= delivery.message.bytes();
                self.open_count -= 1;
                taken.push(delivery);
            }
        }
        self.rewind();
        self.drop_done();
        taken
    }

    /// Asserts that the accounts are right. Cost: linear in the window.
    pub fn check_invariants(&self) {
        let bytes_of = |entry: &Entry| match entry {
            Entry::Published(delivery) => delivery.message.bytes(),
            Entry::Stored(_) | Entry::Released { .. } | Entry::Done => 0,
        };
        let bytes: usize = self.entries.iter().map(bytes_of).sum();
        assert_eq!(self.bytes, bytes, "the window's account of bytes");
        assert!(self.unsent_from <= self.entries.len());
        let sent = self.entries.iter().take(self.unsent_from);
        assert!(
            sent.clone().all(|entry| !matches!(entry, Entry::Stored(_))),
            "sent, and yet to be read back"
        );
        let sent_count = sent.filter(|entry| !matches!(entry, Entry::Done)).count();
        assert_eq!(
            self.sent_count, sent_count,
            "the window's account of what was sent"
        );
        let open = self.entries.iter();
        let open_count = open.filter(|entry| !matches!(entry, Entry::Done)).count();
        assert_eq!(
            self.open_count, open_count,
            "the window's account of entries"
        );
        assert!(
            !matches!(self.entries.front(), Some(Entry::Done)),
            "a gap at the front"
        );
    }

    fn entry(&self, id: PacketId) -> Option<(usize, &Entry)> {
        let at = self.position(id.get());
        self.entries.get(at).map(|entry| (at, entry))
    }

    /// Where in the ring an identifier stands. They run 1..=65,535 and then 1 again.
    fn position(&self, id: u16) -> usize {
        if id >= self.first_id {
            usize::from(id - self.first_id)
        } else {
            65_535 - usize::from(self.first_id) + usize::from(id)
        }
    }

    fn id_at(&self, at: usize) -> PacketId {
        let id = (usize::from(self.first_id) - 1 + at) % 65_535 + 1;
        PacketId::new(id as u16).expect("1..=65,535")
    }

    fn finish(&mut self, at: usize) -> Option<Rc<Message>> {
        let message = std::mem::replace(&mut self.entries[at], Entry::Done).into_message();
        self.bytes -= message.as_ref().map_or(0, |message| message.bytes());
        if at < self.unsent_from {
            self.sent_count -= 1;
        }
        self.open_count -= 1;
        self.drop_done();
        message
    }

    fn drop_done(&mut self) {
        while matches!(self.entries.front(), Some(Entry::Done)) {
            self.entries.pop_front();
            self.first_id = if self.first_id == 65_535 {
                1
            } else {
                self.first_id + 1
            };
            self.unsent_from = self.unsent_from.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::DeliveryOptions;
    use crate::shard::message::MessageParts;

    fn delivery(qos: QoS) -> Delivery {
        let message = Message::new(&MessageParts::new("t", qos, b"p"));
        Delivery {
            message: Rc::new(message),
            subscription_ids: None,
            options: DeliveryOptions { qos, retain: false },
            group: None,
            part: crate::topic::share::Part::OWN,
            progress: Progress::Fresh,
            is_stored: false,
        }
    }

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    #[test]
    fn identifiers_ascend_and_skip_zero() {
        let mut inflight = Inflight::default();
        for round in 0..70_000u32 {
            let expected = (round % 65_535 + 1) as u16;
            assert_eq!(inflight.push(delivery(QoS::AtLeastOnce)), id(expected));
            assert_eq!(
                inflight.puback(id(expected), &mut Spares::default()),
                Acked::Complete(Place::default())
            );
        }
        assert!(inflight.is_empty());
        assert_eq!(inflight.bytes(), 0);
    }

    #[test]
    fn out_of_order_acknowledgements_leave_gaps_that_close() {
        let mut inflight = Inflight::default();
        for _ in 0..3 {
            inflight.push(delivery(QoS::AtLeastOnce));
        }
        assert_eq!(
            inflight.puback(id(2), &mut Spares::default()),
            Acked::Complete(Place::default())
        );
        assert_eq!(
            inflight.puback(id(2), &mut Spares::default()),
            Acked::Unknown
        );
        assert_eq!(inflight.sent_count(), 2);
        assert_eq!(
            inflight.puback(id(1), &mut Spares::default()),
            Acked::Complete(Place::default())
        );
        assert_eq!(
            inflight.puback(id(3), &mut Spares::default()),
            Acked::Complete(Place::default())
        );
        assert!(inflight.is_empty());
        assert_eq!(inflight.push(delivery(QoS::AtLeastOnce)), id(4));
    }

    #[test]
    fn qos_2_takes_two_steps_and_the_states_do_not_mix() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::ExactlyOnce));
        assert_eq!(
            inflight.puback(id(1), &mut Spares::default()),
            Acked::Unknown
        );
        assert_eq!(inflight.pubcomp(id(1)), Acked::Unknown);
        assert_eq!(
            inflight.pubrec(id(1), true, false, &mut Spares::default()),
            Acked::Release(Place::default())
        );
        assert_eq!(inflight.bytes(), 0);
        assert_eq!(
            inflight.pubrec(id(1), true, false, &mut Spares::default()),
            Acked::ReleaseAgain
        );
        assert_eq!(inflight.pubcomp(id(1)), Acked::Complete(Place::default()));
        assert_eq!(inflight.pubcomp(id(1)), Acked::Unknown);
        inflight.push(delivery(QoS::ExactlyOnce));
        assert_eq!(
            inflight.pubrec(id(2), false, false, &mut Spares::default()),
            Acked::Complete(Place::default())
        );
        assert!(inflight.is_empty());
    }

    #[test]
    fn a_reconnect_sends_again_in_order_what_was_not_acknowledged() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::AtLeastOnce));
        inflight.push(delivery(QoS::ExactlyOnce));
        inflight.push(delivery(QoS::AtLeastOnce));
        inflight.push(delivery(QoS::ExactlyOnce));
        inflight.pubrec(id(2), true, false, &mut Spares::default());
        inflight.puback(id(3), &mut Spares::default());
        inflight.rewind();
        assert_eq!(inflight.sent_count(), 0);
        assert!(
            matches!(inflight.resend_next(), Some(Resend::Publish { id: i, dup: true, .. }) if i == id(1))
        );
        assert!(matches!(inflight.resend_next(), Some(Resend::Release(i)) if i == id(2)));
        assert!(
            matches!(inflight.resend_next(), Some(Resend::Publish { id: i, dup: true, .. }) if i == id(4))
        );
        assert!(inflight.resend_next().is_none());
        assert_eq!(inflight.sent_count(), 3);
    }

    #[test]
    fn an_acknowledgement_before_its_resend_does_not_count_twice() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::AtLeastOnce));
        inflight.push(delivery(QoS::AtLeastOnce));
        inflight.rewind();
        assert_eq!(
            inflight.puback(id(2), &mut Spares::default()),
            Acked::Complete(Place::default())
        );
        assert_eq!(inflight.sent_count(), 0);
        assert!(
            matches!(inflight.resend_next(), Some(Resend::Publish { id: i, dup: true, .. }) if i == id(1))
        );
        assert!(inflight.resend_next().is_none());
        assert_eq!(
            inflight.puback(id(1), &mut Spares::default()),
            Acked::Complete(Place::default())
        );
        assert_eq!((inflight.sent_count(), inflight.bytes()), (0, 0));
    }

    #[test]
    fn what_is_held_blocks_what_stands_behind_it() {
        let mut inflight = Inflight::default();
        let mut held = delivery(QoS::ExactlyOnce);
        held.progress = Progress::Held;
        let first = inflight.line_up(held);
        inflight.line_up(delivery(QoS::AtLeastOnce));
        assert!(inflight.resend_next().is_none());
        assert_eq!((inflight.sent_count(), inflight.open_count()), (0, 2));
        assert_eq!(inflight.settle(first), Settled::Send);
        assert_eq!(inflight.settle(first), Settled::Nothing);
        for expected in [id(1), id(2)] {
            assert!(matches!(
                inflight.resend_next(),
                Some(Resend::Publish { id, dup: false, .. }) if id == expected
            ));
        }
        // The same for PUBREL, on this connection and on the next.
        assert_eq!(
            inflight.pubrec(first, true, true, &mut Spares::default()),
            Acked::Release(Place::default())
        );
        assert_eq!(
            inflight.pubrec(first, true, true, &mut Spares::default()),
            Acked::Held
        );
        assert_eq!(inflight.pubcomp(first), Acked::Unknown);
        inflight.rewind();
        assert!(inflight.resend_next().is_none());
        assert_eq!(inflight.settle(first), Settled::Send);
        assert!(matches!(inflight.resend_next(), Some(Resend::Release(i)) if i == first));
        assert_eq!(inflight.pubcomp(first), Acked::Complete(Place::default()));
        inflight.check_invariants();
    }

    #[test]
    fn a_stored_window_is_a_ring_again() {
        let stored = |number| StoredDelivery {
            number,
            subscription_ids: None,
            bytes: 10,
            flags: crate::session::ReceiverFlags::new(
                delivery(QoS::ExactlyOnce).options,
                crate::topic::share::Part::OWN,
            ),
        };
        let published = vec![(id(2), stored(7)), (id(65_534), stored(5))];
        let mut inflight = Inflight::recovered(published, &[id(65_535), id(4)]);
        inflight.check_invariants();
        assert_eq!(inflight.open_count(), 4);
        assert!(matches!(inflight.resend_next(), Some(Resend::Fetch)));
        assert_eq!(inflight.to_fetch(10), [5, 7]);
        let message = delivery(QoS::ExactlyOnce).message;
        assert_eq!(inflight.arrived(5, Some(&message)), Arrived::Taken);
        assert_eq!(
            inflight.arrived(7, None),
            Arrived::GivenUp(
                id(2),
                Place {
                    number: 7,
                    part: crate::topic::share::Part::OWN,
                }
            )
        );
        assert_eq!(inflight.arrived(7, None), Arrived::Unknown);
        // The client had it before the restart, maybe.
        assert!(inflight.keeps_count);
        assert!(matches!(
            inflight.resend_next(),
            Some(Resend::Publish { id: i, dup: true, .. }) if i == id(65_534)
        ));
        assert!(matches!(inflight.resend_next(), Some(Resend::Release(i)) if i == id(65_535)));
        assert!(matches!(inflight.resend_next(), Some(Resend::Release(i)) if i == id(4)));
        assert_eq!(inflight.line_up(delivery(QoS::AtLeastOnce)), id(5));
        inflight.check_invariants();
    }
}

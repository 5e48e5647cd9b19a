//! The outbound window: QoS 1 and 2 messages sent to the client and not yet acknowledged (MQTT 5 §4.3, §4.4, §4.9).
//!
//! Packet Identifiers are handed out in ascending order, so the window is a ring in which the identifier is
//! the position: no map, and order of redelivery is order of sending. An entry acknowledged out of order
//! stays as a gap until all before it are done.

use super::Delivery;
use crate::protocol::{PacketId, QoS};
use std::collections::VecDeque;

/// How far the ring may stretch while its oldest entry is unacknowledged. Identifiers are 16 bits wide, so
/// within this span none can repeat.
const SPAN_MAX: usize = 65_000;

#[derive(Debug)]
enum Entry {
    /// PUBLISH sent; PUBACK (QoS 1) or PUBREC (QoS 2) is due.
    Published(Delivery),
    /// PUBREL sent; PUBCOMP is due. The message itself is no longer needed (§4.3.3).
    Released,
    /// Acknowledged; waits for its elders.
    Done,
}

/// What an acknowledgement meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Acked {
    /// It ended a delivery: the window has room for one more.
    Complete,
    /// PUBREC was accepted: PUBREL is due.
    Release,
    /// No such identifier in that state.
    Unknown,
}

/// What is to be sent again after a reconnect.
#[derive(Debug)]
pub enum Resend<'a> {
    /// PUBLISH with DUP set.
    Publish(PacketId, &'a Delivery),
    /// PUBREL.
    Release(PacketId),
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
    /// Bytes of the messages held.
    bytes: usize,
}

impl Default for Inflight {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            first_id: 1,
            unsent_from: 0,
            sent_count: 0,
            bytes: 0,
        }
    }
}

impl Inflight {
    /// Messages sent on this connection and not acknowledged: what counts against the client's Receive Maximum.
    pub fn sent_count(&self) -> usize {
        self.sent_count
    }

    /// Bytes of the messages held for possible redelivery.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether something waits to be sent again.
    pub fn has_unsent(&self) -> bool {
        self.unsent_from < self.entries.len()
    }

    /// Whether the ring can take another entry.
    pub fn has_room(&self) -> bool {
        self.entries.len() < SPAN_MAX
    }

    /// Takes a delivery that is being sent now and returns its Packet Identifier.
    ///
    /// Panics: when something waits to be sent again (order), or the ring is full (`has_room`).
    pub fn push(&mut self, delivery: Delivery) -> PacketId {
        assert!(!self.has_unsent());
        assert!(self.has_room());
        assert!(delivery.options.qos != QoS::AtMostOnce);
        let id = self.id_at(self.entries.len());
        self.bytes += delivery.message.bytes();
        self.entries.push_back(Entry::Published(delivery));
        self.unsent_from += 1;
        self.sent_count += 1;
        id
    }

    /// PUBACK arrived.
    pub fn puback(&mut self, id: PacketId) -> Acked {
        match self.entry(id) {
            Some((at, Entry::Published(delivery))) if delivery.options.qos == QoS::AtLeastOnce => {
                self.finish(at);
                Acked::Complete
            }
            _ => Acked::Unknown,
        }
    }

    /// PUBREC arrived; `accepted` is false for a Reason Code of 0x80 or above, which ends the delivery.
    pub fn pubrec(&mut self, id: PacketId, accepted: bool) -> Acked {
        match self.entry(id) {
            Some((at, Entry::Published(delivery))) if delivery.options.qos == QoS::ExactlyOnce => {
                if accepted {
                    let bytes = delivery.message.bytes();
                    self.entries[at] = Entry::Released;
                    self.bytes -= bytes;
                    Acked::Release
                } else {
                    self.finish(at);
                    Acked::Complete
                }
            }
            // A repeated PUBREC: the client did not see our PUBREL.
            Some((_, Entry::Released)) => Acked::Release,
            _ => Acked::Unknown,
        }
    }

    /// PUBCOMP arrived.
    pub fn pubcomp(&mut self, id: PacketId) -> Acked {
        match self.entry(id) {
            Some((at, Entry::Released)) => {
                self.finish(at);
                Acked::Complete
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

    /// The next thing to send again, if any; it then counts as sent.
    pub fn resend_next(&mut self) -> Option<Resend<'_>> {
        while matches!(self.entries.get(self.unsent_from), Some(Entry::Done)) {
            self.unsent_from += 1;
        }
        let at = self.unsent_from;
        let id = self.id_at(at);
        let entry = self.entries.get(at)?;
        self.unsent_from += 1;
        self.sent_count += 1;
        Some(match entry {
            Entry::Published(delivery) => Resend::Publish(id, delivery),
            Entry::Released => Resend::Release(id),
            Entry::Done => unreachable!("done entries were skipped"),
        })
    }

    /// Gives up the message of an entry that cannot be sent, such as one larger than the client now accepts.
    pub fn abandon(&mut self, id: PacketId) {
        if let Some((at, Entry::Published(_))) = self.entry(id) {
            self.finish(at);
        }
    }

    /// Takes out all messages whose delivery was not completed, oldest first.
    pub fn take_unacknowledged(&mut self) -> Vec<Delivery> {
        let taken = std::mem::take(self);
        taken
            .entries
            .into_iter()
            .filter_map(|entry| match entry {
                Entry::Published(delivery) => Some(delivery),
                Entry::Released | Entry::Done => None,
            })
            .collect()
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
            Entry::Released | Entry::Done => 0,
        };
        let bytes: usize = self.entries.iter().map(bytes_of).sum();
        assert_eq!(self.bytes, bytes, "the window's account of bytes");
        assert!(self.unsent_from <= self.entries.len());
        let sent = self.entries.iter().take(self.unsent_from);
        let sent_count = sent.filter(|entry| !matches!(entry, Entry::Done)).count();
        assert_eq!(
            self.sent_count, sent_count,
            "the window's account of what was sent"
        );
        assert!(
            !matches!(self.entries.front(), Some(Entry::Done)),
            "a gap at the front"
        );
    }

    fn entry(&self, id: PacketId) -> Option<(usize, &Entry)> {
        // Identifiers run 1..=65,535 and then 1 again.
        let at = if id.get() >= self.first_id {
            usize::from(id.get() - self.first_id)
        } else {
            65_535 - usize::from(self.first_id) + usize::from(id.get())
        };
        self.entries.get(at).map(|entry| (at, entry))
    }

    fn id_at(&self, at: usize) -> PacketId {
        let id = (usize::from(self.first_id) - 1 + at) % 65_535 + 1;
        PacketId::new(id as u16).expect("1..=65,535")
    }

    fn finish(&mut self, at: usize) {
        if let Entry::Published(delivery) = &self.entries[at] {
            self.bytes -= delivery.message.bytes();
        }
        self.entries[at] = Entry::Done;
        if at < self.unsent_from {
            self.sent_count -= 1;
        }
        self.drop_done();
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
    use crate::shard::message::{Message, MessageParts, NEVER};
    use std::rc::Rc;

    fn delivery(qos: QoS) -> Delivery {
        let message = Message::new(&MessageParts {
            topic: "t",
            properties: &[],
            payload: b"p",
            qos,
            retain: false,
            expires_at_ms: NEVER,
            stamp: 0,
            number: 0,
        });
        Delivery {
            message: Rc::new(message),
            subscription_ids: None,
            options: DeliveryOptions { qos, retain: false },
            group: None,
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
            assert_eq!(inflight.puback(id(expected)), Acked::Complete);
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
        assert_eq!(inflight.puback(id(2)), Acked::Complete);
        assert_eq!(inflight.puback(id(2)), Acked::Unknown);
        assert_eq!(inflight.sent_count(), 2);
        assert_eq!(inflight.puback(id(1)), Acked::Complete);
        assert_eq!(inflight.puback(id(3)), Acked::Complete);
        assert!(inflight.is_empty());
        assert_eq!(inflight.push(delivery(QoS::AtLeastOnce)), id(4));
    }

    #[test]
    fn qos_2_takes_two_steps_and_the_states_do_not_mix() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::ExactlyOnce));
        assert_eq!(inflight.puback(id(1)), Acked::Unknown);
        assert_eq!(inflight.pubcomp(id(1)), Acked::Unknown);
        assert_eq!(inflight.pubrec(id(1), true), Acked::Release);
        assert_eq!(inflight.bytes(), 0);
        assert_eq!(inflight.pubrec(id(1), true), Acked::Release);
        assert_eq!(inflight.pubcomp(id(1)), Acked::Complete);
        assert_eq!(inflight.pubcomp(id(1)), Acked::Unknown);
        inflight.push(delivery(QoS::ExactlyOnce));
        assert_eq!(inflight.pubrec(id(2), false), Acked::Complete);
        assert!(inflight.is_empty());
    }

    #[test]
    fn a_reconnect_sends_again_in_order_what_was_not_acknowledged() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::AtLeastOnce));
        inflight.push(delivery(QoS::ExactlyOnce));
        inflight.push(delivery(QoS::AtLeastOnce));
        inflight.push(delivery(QoS::ExactlyOnce));
        inflight.pubrec(id(2), true);
        inflight.puback(id(3));
        inflight.rewind();
        assert_eq!(inflight.sent_count(), 0);
        assert!(matches!(inflight.resend_next(), Some(Resend::Publish(i, _)) if i == id(1)));
        assert!(matches!(inflight.resend_next(), Some(Resend::Release(i)) if i == id(2)));
        assert!(matches!(inflight.resend_next(), Some(Resend::Publish(i, _)) if i == id(4)));
        assert!(inflight.resend_next().is_none());
        assert_eq!(inflight.sent_count(), 3);
    }

    #[test]
    fn an_acknowledgement_before_its_resend_does_not_count_twice() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::AtLeastOnce));
        inflight.push(delivery(QoS::AtLeastOnce));
        inflight.rewind();
        assert_eq!(inflight.puback(id(2)), Acked::Complete);
        assert_eq!(inflight.sent_count(), 0);
        assert!(matches!(inflight.resend_next(), Some(Resend::Publish(i, _)) if i == id(1)));
        assert!(inflight.resend_next().is_none());
        assert_eq!(inflight.puback(id(1)), Acked::Complete);
        assert_eq!((inflight.sent_count(), inflight.bytes()), (0, 0));
    }
}

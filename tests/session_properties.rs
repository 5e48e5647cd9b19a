//! The queue and the window of a session against models that a reader believes at a glance.

use proptest::prelude::*;
use ringmq::config::limits::QueueFullPolicy;
use ringmq::protocol::{PacketId, QoS};
use ringmq::session::inflight::{Acked, Inflight, Resend};
use ringmq::session::queue::{Queue, QueueLimits, Queued};
use ringmq::session::{Delivery, DeliveryOptions, Place, Progress};
use ringmq::shard::message::{Message, MessageParts, Spares};
use std::collections::BTreeMap;
use std::rc::Rc;

fn delivery(number: u16, payload_bytes: usize, qos: QoS) -> Delivery {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(payload_bytes.max(2), 0);
    let message = Message::new(&MessageParts::new("t", qos, &payload));
    Delivery {
        message: Rc::new(message),
        subscription_ids: None,
        options: DeliveryOptions { qos, retain: false },
        group: None,
        part: ringmq::topic::share::Part::OWN,
        progress: Progress::Fresh,
        is_stored: false,
    }
}

fn number(message: &Message) -> u16 {
    let payload = message.payload();
    u16::from_be_bytes([payload[0], payload[1]])
}

#[derive(Clone, Debug)]
enum QueueStep {
    Push(usize),
    Pop,
    TakeEven,
}

fn queue_step() -> impl Strategy<Value = QueueStep> {
    prop_oneof![
        5 => (2usize..200).prop_map(QueueStep::Push),
        2 => Just(QueueStep::Pop),
        1 => Just(QueueStep::TakeEven),
    ]
}

proptest! {
    /// A list of (number, bytes) with the policies spelled out.
    #[test]
    fn the_queue_is_a_bounded_list(
        steps in proptest::collection::vec(queue_step(), 1..120),
        messages_max in 0usize..8,
        bytes_max in 0usize..900,
        policy in prop_oneof![
            Just(QueueFullPolicy::DropOldest),
            Just(QueueFullPolicy::DropNewest),
            Just(QueueFullPolicy::Disconnect),
        ],
    ) {
        let limits = QueueLimits { messages_max, bytes_max, resident_max: 32, policy };
        let mut queue = Queue::default();
        let mut model: Vec<(u16, usize)> = Vec::new();
        for (next, step) in (0u16..).zip(steps) {
            match step {
                QueueStep::Push(payload_bytes) => {
                    let new = delivery(next, payload_bytes, QoS::AtLeastOnce);
                    let bytes = new.message.bytes();
                    let fits = |model: &[(u16, usize)]| {
                        let held: usize = model.iter().map(|(_, bytes)| bytes).sum();
                        model.len() < messages_max && held + bytes <= bytes_max
                    };
                    let mut expected_drops = Vec::new();
                    let expected = if fits(&model) {
                        model.push((next, bytes));
                        Queued::Kept
                    } else if policy == QueueFullPolicy::Disconnect {
                        Queued::Disconnect
                    } else if policy == QueueFullPolicy::DropNewest || !fits(&[]) {
                        Queued::DroppedNewest
                    } else {
                        while !fits(&model) {
                            expected_drops.push(model.remove(0).0);
                        }
                        model.push((next, bytes));
                        Queued::Kept
                    };
                    let mut dropped = Vec::new();
                    let queued = queue.push(new, &limits, |gone| {
                        let message = gone.message.expect("it was in memory").payload().to_vec();
                        dropped.push(u16::from_be_bytes([message[0], message[1]]));
                    });
                    prop_assert_eq!(std::mem::discriminant(&queued), std::mem::discriminant(&expected));
                    prop_assert_eq!(dropped, expected_drops);
                }
                QueueStep::Pop => {
                    let expected = (!model.is_empty()).then(|| model.remove(0).0);
                    prop_assert_eq!(queue.pop().map(|delivery| number(&delivery.message)), expected);
                }
                QueueStep::TakeEven => {
                    let taken = queue.take_if(|delivery| number(&delivery.message).is_multiple_of(2));
                    let (even, odd): (Vec<_>, Vec<_>) =
                        model.iter().copied().partition(|(number, _)| number.is_multiple_of(2));
                    let even: Vec<u16> = even.into_iter().map(|(number, _)| number).collect();
                    prop_assert_eq!(taken.iter().map(|delivery| number(&delivery.message)).collect::<Vec<_>>(), even);
                    model = odd;
                }
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.bytes(), model.iter().map(|(_, bytes)| bytes).sum::<usize>());
        }
    }
}

#[derive(Clone, Debug)]
enum WindowStep {
    Send(QoS),
    Puback(u16),
    Pubrec(u16, bool),
    Pubcomp(u16),
    Reconnect,
    Resend,
}

fn window_step() -> impl Strategy<Value = WindowStep> {
    // Identifiers near the first ones, so that acknowledgements hit.
    let id = 1u16..24;
    prop_oneof![
        5 => prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)].prop_map(WindowStep::Send),
        3 => id.clone().prop_map(WindowStep::Puback),
        3 => (id.clone(), any::<bool>()).prop_map(|(id, ok)| WindowStep::Pubrec(id, ok)),
        3 => id.prop_map(WindowStep::Pubcomp),
        1 => Just(WindowStep::Reconnect),
        3 => Just(WindowStep::Resend),
    ]
}

/// One message in flight, as the model sees it. Identifiers are not reused within a case, so the map's order is the order of sending.
#[derive(Clone, Copy, Debug)]
struct Flight {
    qos: QoS,
    released: bool,
    sent: bool,
}

proptest! {
    /// A map from identifier to state.
    #[test]
    fn the_window_is_a_map_of_states(
        steps in proptest::collection::vec(window_step(), 1..150),
    ) {
        let mut window = Inflight::default();
        let mut model: BTreeMap<u16, Flight> = BTreeMap::new();
        let mut next = 1u16;
        for step in steps {
            match step {
                WindowStep::Send(qos) => {
                    if model.values().any(|flight| !flight.sent) {
                        continue;
                    }
                    // The window keeps a place for whatever was skipped or finished out of order.
                    while window.has_unsent() {
                        prop_assert!(window.resend_next().is_none());
                    }
                    let id = window.push(delivery(next, 2, qos));
                    prop_assert_eq!(id.get(), next);
                    model.insert(next, Flight { qos, released: false, sent: true });
                    next += 1;
                }
                WindowStep::Puback(id) => {
                    let is_due = model
                        .get(&id)
                        .is_some_and(|flight| flight.qos == QoS::AtLeastOnce);
                    let expected = if is_due { Acked::Complete(Place::default()) } else { Acked::Unknown };
                    if is_due {
                        model.remove(&id);
                    }
                    prop_assert_eq!(window.puback(packet_id(id), &mut Spares::default()), expected);
                }
                WindowStep::Pubrec(id, accepted) => {
                    let expected = match model.get_mut(&id) {
                        Some(flight) if flight.released => Acked::ReleaseAgain,
                        Some(flight) if flight.qos == QoS::ExactlyOnce && accepted => {
                            flight.released = true;
                            Acked::Release(Place::default())
                        }
                        Some(flight) if flight.qos == QoS::ExactlyOnce => {
                            model.remove(&id);
                            Acked::Complete(Place::default())
                        }
                        _ => Acked::Unknown,
                    };
                    prop_assert_eq!(window.pubrec(packet_id(id), accepted, false, &mut Spares::default()), expected);
                }
                WindowStep::Pubcomp(id) => {
                    let is_due = model.get(&id).is_some_and(|flight| flight.released);
                    let expected = if is_due { Acked::Complete(Place::default()) } else { Acked::Unknown };
                    if is_due {
                        model.remove(&id);
                    }
                    prop_assert_eq!(window.pubcomp(packet_id(id)), expected);
                }
                WindowStep::Reconnect => {
                    window.rewind();
                    model.values_mut().for_each(|flight| flight.sent = false);
                }
                WindowStep::Resend => {
                    let expected = model
                        .iter_mut()
                        .find(|(_, flight)| !flight.sent)
                        .map(|(id, flight)| {
                            flight.sent = true;
                            (*id, flight.released)
                        });
                    let got = window.resend_next().map(|resend| match resend {
                        Resend::Publish { id, delivery, dup } => {
                            assert_eq!(number(&delivery.message), id.get());
                            assert!(dup, "what is sent again says so");
                            (id.get(), false)
                        }
                        Resend::Release(id) => (id.get(), true),
                        Resend::Fetch => unreachable!("nothing was stored"),
                    });
                    prop_assert_eq!(got, expected);
                }
            }
            let sent = model.values().filter(|flight| flight.sent).count();
            prop_assert_eq!(window.sent_count(), sent);
            prop_assert_eq!(window.is_empty(), model.is_empty());
        }
    }
}

fn packet_id(id: u16) -> PacketId {
    PacketId::new(id).expect("not 0")
}

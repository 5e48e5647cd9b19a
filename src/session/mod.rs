//! PURE. What outlives a Network Connection: subscriptions, messages in flight, messages waiting, the Will.
//!
//! A session belongs to one shard, so nothing here is shared or locked. The hot part of [`Session`] is
//! small because there may be a million of them; everything that an idle client does not have lies behind
//! one box.

pub mod inflight;
pub mod queue;
pub mod received;
pub mod will;

mod state;
mod stored;

use crate::shard::message::Message;
use std::borrow::Borrow;
use std::rc::Rc;

pub use state::{Replay, Session, SessionKey, SessionState, SubscriptionRef, SubscriptionRefs};

pub use stored::{Place, ReceiverFlags, StoredDelivery};

/// The Subscription Identifiers that one delivery carries; `None` for nearly all.
pub type SubscriptionIds = Option<Box<Vec<u32>>>;

/// How one message goes to one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryOptions {
    /// The lower of the publisher's QoS and the subscription's (MQTT 5 §3.8.4).
    pub qos: crate::protocol::QoS,
    /// The RETAIN flag to send (MQTT 5 §3.3.1.3).
    pub retain: bool,
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It was never sent.
    Fresh,
    /// It may not be sent before the record of its Packet Identifier is durable.
    Held,
    /// It was sent, on this connection or an earlier one.
    Sent,
}

/// A message on its way to one session.
///
/// What is on its way shares the message with all others on its core. What waits for long has it without the box that makes that cheap
/// ([`Waiting`]).
#[derive(Clone, Debug)]
pub struct Delivery<M = Rc<Message>> {
    /// What to deliver.
    pub message: M,
    /// Which Subscription Identifiers to send with it.
    pub subscription_ids: SubscriptionIds,
    /// Under which flags.
    pub options: DeliveryOptions,
    /// The shared group through which it came, if any: the message may go to another member.
    pub group: Option<crate::topic::share::GroupId>,
    /// Which of the session's parts in the message this is.
    pub part: crate::topic::share::Part,
    /// How far it has come.
    pub progress: Progress,
    /// Whether the store keeps the message for this session, under its `Message::number`.
    pub is_stored: bool,
}

/// A message that waits for its session.
pub type Waiting = Delivery<Message>;

impl<M: Borrow<Message>> Delivery<M> {
    /// The number under which the store keeps it for this session, or 0.
    pub fn number(&self) -> u64 {
        if self.is_stored {
            self.message.borrow().number()
        } else {
            0
        }
    }

    /// Its place in the store.
    pub fn place(&self) -> Place {
        Place {
            number: self.number(),
            part: self.part,
        }
    }

    fn hold<N>(self, by: impl FnOnce(M) -> N) -> Delivery<N> {
        Delivery {
            message: by(self.message),
            subscription_ids: self.subscription_ids,
            options: self.options,
            group: self.group,
            part: self.part,
            progress: self.progress,
            is_stored: self.is_stored,
        }
    }
}

impl From<Delivery> for Waiting {
    fn from(delivery: Delivery) -> Self {
        delivery.hold(Rc::unwrap_or_clone)
    }
}

impl From<Waiting> for Delivery {
    fn from(waiting: Waiting) -> Self {
        waiting.hold(Rc::new)
    }
}

// What it costs a session beside the message itself.
const _: () = assert!(size_of::<Delivery>() <= 32 && size_of::<Waiting>() <= 40);

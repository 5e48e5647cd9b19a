//! What the store keeps of a message on its way to a session, beside the message.

use super::{Delivery, DeliveryOptions, Progress, SubscriptionIds};
use crate::protocol::QoS;
use crate::shard::message::Message;
use crate::topic::share::{GroupId, Part};
use std::rc::Rc;

/// A message on its way to one session whose payload is in the store alone.
#[derive(Clone, Debug)]
pub struct StoredDelivery {
    /// Under which number.
    pub number: u64,
    /// Which Subscription Identifiers to send with it.
    pub subscription_ids: SubscriptionIds,
    /// Its `Message::bytes`.
    pub bytes: u32,
    /// On which terms.
    pub flags: ReceiverFlags,
}

// What a message costs in memory that waits for a client which is away.
const _: () = assert!(size_of::<StoredDelivery>() <= 24);

impl StoredDelivery {
    /// What is left of a delivery when its message is in the store.
    pub fn of(delivery: Delivery) -> Self {
        assert!(delivery.number() != 0);
        Self {
            number: delivery.number(),
            bytes: delivery.message.bytes() as u32,
            flags: ReceiverFlags::new(delivery.options, delivery.part),
            subscription_ids: delivery.subscription_ids,
        }
    }

    /// Its place in the store.
    pub fn place(&self) -> Place {
        Place {
            number: self.number,
            part: self.flags.part(),
        }
    }

    /// The delivery, now that its message is here; `group` is the shared group that it came through, if there is one still.
    pub fn with(self, message: Rc<Message>, group: Option<GroupId>) -> Delivery {
        Delivery {
            message,
            subscription_ids: self.subscription_ids,
            options: self.flags.options(),
            group,
            part: self.flags.part(),
            progress: Progress::Fresh,
            is_stored: true,
        }
    }
}

/// One session's part in one stored message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The message's number, or 0 if the store does not keep it for the session.
    pub number: u64,
    /// Which part.
    pub part: Part,
}

/// The terms on which a session gets a message, and which part in it that is, in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverFlags(u32);

impl ReceiverFlags {
    const QOS: u32 = 0b11;
    const RETAIN: u32 = 0b100;
    const PART_SHIFT: u32 = u32::BITS - Part::BITS;

    /// Packs the terms.
    pub fn new(options: DeliveryOptions, part: Part) -> Self {
        let retain = if options.retain { Self::RETAIN } else { 0 };
        Self(options.qos as u32 | retain | part.bits() << Self::PART_SHIFT)
    }

    /// From what `bits` gave; `None` when it cannot have given this.
    pub fn from_bits(bits: u32) -> Option<Self> {
        qos_of(bits).is_some().then_some(Self(bits))
    }

    /// The number.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// QoS and RETAIN.
    pub fn options(self) -> DeliveryOptions {
        DeliveryOptions {
            qos: qos_of(self.0).expect("checked when it was made"),
            retain: self.0 & Self::RETAIN != 0,
        }
    }

    /// Which part it is.
    pub fn part(self) -> Part {
        Part::from_bits(self.0 >> Self::PART_SHIFT).expect("it has as many bits")
    }

    /// Whether the message may go to another member of a shared group.
    pub fn is_shared(self) -> bool {
        self.part().is_shared()
    }
}

fn qos_of(bits: u32) -> Option<QoS> {
    QoS::from_bits((bits & ReceiverFlags::QOS) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_hold_the_terms() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for retain in [false, true] {
                for part in [Part::OWN, Part::of_group("$share/g/t")] {
                    let options = DeliveryOptions { qos, retain };
                    let flags = ReceiverFlags::new(options, part);
                    let again = ReceiverFlags::from_bits(flags.bits()).expect("it was made");
                    assert_eq!((again.options(), again.part()), (options, part));
                    assert_eq!(again.is_shared(), part != Part::OWN);
                }
            }
        }
        assert_eq!(ReceiverFlags::from_bits(3), None);
    }
}

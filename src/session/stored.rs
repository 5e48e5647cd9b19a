//! What the store keeps of a message on its way to a session, beside the message.

use super::{Delivery, DeliveryOptions, Progress, SubscriptionIds};
use crate::protocol::QoS;
use crate::shard::message::Message;
use crate::topic::share::GroupId;
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
    /// The shared group that it came through, see [`StoredDelivery::group_among`].
    pub group: u16,
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
            flags: ReceiverFlags::new(delivery.options, delivery.group.is_some()),
            group: delivery.group.map_or(0, group_bits),
            subscription_ids: delivery.subscription_ids,
        }
    }

    /// A `group` for what was recovered: the store does not know groups, but of a message that a session has more than once each
    /// came through another. `earlier` is the number of those before this one.
    pub fn recovered_group(earlier: usize) -> u16 {
        ORDINALS + u16::try_from(earlier).map_or(ORDINALS_MAX, |earlier| earlier.min(ORDINALS_MAX))
    }

    /// The group that it came through, among those of its topic that the session is in, in their order; if there is one still.
    pub fn group_among(&self, groups: &[GroupId]) -> Option<GroupId> {
        if !self.flags.is_shared() {
            return None;
        }
        match self.group.checked_sub(ORDINALS) {
            Some(earlier) => groups.get(usize::from(earlier)).or(groups.last()).copied(),
            None => {
                let mut groups = groups.iter().copied();
                groups.find(|group| group_bits(*group) == self.group)
            }
        }
    }

    /// The delivery, now that its message is here; `group` is the shared group that it came through, if there is one still.
    pub fn with(self, message: Rc<Message>, group: Option<GroupId>) -> Delivery {
        Delivery {
            message,
            subscription_ids: self.subscription_ids,
            options: self.flags.options(),
            group,
            progress: Progress::Fresh,
            is_stored: true,
        }
    }
}

/// The terms on which a session gets a message, in a byte: QoS, RETAIN, and whether it came through a shared group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverFlags(u8);

impl ReceiverFlags {
    const QOS: u8 = 0b11;
    const RETAIN: u8 = 0b100;
    const SHARED: u8 = 0b1000;

    /// Packs the terms.
    pub fn new(options: DeliveryOptions, is_shared: bool) -> Self {
        let retain = if options.retain { Self::RETAIN } else { 0 };
        let shared = if is_shared { Self::SHARED } else { 0 };
        Self(options.qos as u8 | retain | shared)
    }

    /// From what `bits` gave; `None` when it cannot have given this.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let is_known = bits & !(Self::QOS | Self::RETAIN | Self::SHARED) == 0;
        (is_known && QoS::from_bits(bits & Self::QOS).is_some()).then_some(Self(bits))
    }

    /// The byte.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// QoS and RETAIN.
    pub fn options(self) -> DeliveryOptions {
        DeliveryOptions {
            qos: QoS::from_bits(self.0 & Self::QOS).expect("checked when it was made"),
            retain: self.0 & Self::RETAIN != 0,
        }
    }

    /// Whether the message may go to another member of a shared group.
    pub fn is_shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }
}

/// From here on [`StoredDelivery::group`] is not the last part of a group's number but says which of the groups it is.
const ORDINALS: u16 = u16::MAX - ORDINALS_MAX;
const ORDINALS_MAX: u16 = 64;

fn group_bits(group: GroupId) -> u16 {
    (group.0 % u32::from(ORDINALS)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_hold_the_terms() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for (retain, shared) in [(false, false), (true, false), (false, true), (true, true)] {
                let options = DeliveryOptions { qos, retain };
                let flags = ReceiverFlags::new(options, shared);
                let again = ReceiverFlags::from_bits(flags.bits()).expect("it was made");
                assert_eq!((again.options(), again.is_shared()), (options, shared));
            }
        }
        assert_eq!(ReceiverFlags::from_bits(3), None);
        assert_eq!(ReceiverFlags::from_bits(16), None);
    }
}

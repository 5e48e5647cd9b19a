//! What the store keeps of a message on its way to a session, beside the message.

use super::DeliveryOptions;
use crate::protocol::QoS;

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

//! The Will Message of a session (MQTT 5 §3.1.2.5, §3.1.3.2).

use crate::shard::message::{Message, MessageParts};

/// A Will as its CONNECT gave it.
#[derive(Clone, Debug)]
pub struct Will {
    /// Topic, properties, payload, QoS and RETAIN; without expiry, which starts to count when the Will is published.
    message: Message,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
    /// Message Expiry Interval in seconds, if given.
    pub message_expiry_s: Option<u32>,
}

impl Will {
    /// Copies what a CONNECT said. `delay_s` is zero for 3.x.
    pub fn new(will: &crate::protocol::connect::Will<'_>) -> Self {
        let properties: Vec<&[u8]> = will.forward.slices().collect();
        let message = Message::new(&MessageParts {
            properties: &properties,
            retain: will.retain,
            ..MessageParts::new(will.topic, will.qos, will.payload)
        });
        Self {
            message,
            delay_s: will.delay_s,
            message_expiry_s: will.message_expiry_s,
        }
    }

    /// One that was stored.
    pub fn recovered(message: Message, delay_s: u32, message_expiry_s: Option<u32>) -> Self {
        Self {
            message,
            delay_s,
            message_expiry_s,
        }
    }

    /// The message to publish.
    pub fn message(&self) -> &Message {
        &self.message
    }
}

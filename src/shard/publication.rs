//! A message on its way through this shard: parts that are borrowed until somebody has to keep them.

use super::batch::{Batched, MessageBatch};
use super::message::{Message, MessageParts, NEVER, Spares};
use crate::protocol::QoS;
use std::rc::Rc;

/// Whose the number of a publication is, under which it may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbering {
    /// It has none.
    None,
    /// This shard's: it gathers who takes the message.
    Own,
    /// Another shard's, which waits for an answer.
    Asked,
    /// Another shard's, which does not ask: this one makes its own from it.
    Unasked,
    /// Somebody's from another time: it cannot be used.
    Foreign,
}

impl Numbering {
    /// Of a message that came with this number.
    fn of_another(number: u64) -> Self {
        match number {
            0 => Self::None,
            _ => Self::Foreign,
        }
    }
}

/// One PUBLISH being routed.
///
/// A QoS 0 message between two clients of one shard is never copied out of the read buffer but into the
/// subscribers' outbound bytes. The shared allocation is made when another shard, a queue, a window, the retained index or a
/// large payload first asks for it.
pub(super) struct Publication<'a> {
    pub(super) topic: &'a str,
    /// The properties forwarded unaltered, contiguous.
    pub(super) properties: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) expires_at_ms: u64,
    /// 0 unless the message is to be retained, or clears its topic.
    pub(super) stamp: u64,
    /// See `numbering`; 0 if it has none.
    pub(super) number: u64,
    pub(super) numbering: Numbering,
    shared: Option<Message>,
    local: Option<Rc<Message>>,
}

impl<'a> Publication<'a> {
    /// From borrowed parts; `parts.properties` must be one slice.
    pub(super) fn new(parts: &MessageParts<'a>) -> Self {
        assert!(parts.properties.len() == 1);
        Self {
            topic: parts.topic,
            properties: parts.properties[0],
            payload: parts.payload,
            qos: parts.qos,
            retain: parts.retain,
            expires_at_ms: parts.expires_at_ms,
            stamp: parts.stamp,
            number: parts.number,
            numbering: Numbering::None,
            shared: None,
            local: None,
        }
    }

    /// From one in a batch.
    pub(super) fn from_batched(message: &Batched<'a>) -> Self {
        Self {
            topic: std::str::from_utf8(message.topic).expect("the topic was copied from a str"),
            properties: message.properties,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            expires_at_ms: message.expires_at_ms,
            stamp: message.stamp,
            number: message.number,
            numbering: Numbering::of_another(message.number),
            shared: None,
            local: None,
        }
    }

    fn from_kept(message: &'a Message) -> Self {
        Self {
            topic: message.topic(),
            properties: message.properties(),
            payload: message.payload(),
            qos: message.qos(),
            retain: message.retain(),
            expires_at_ms: message.expires_at_ms(),
            stamp: message.stamp(),
            number: message.number(),
            numbering: Numbering::of_another(message.number()),
            shared: None,
            local: None,
        }
    }

    /// From a message that is shared already.
    pub(super) fn from_message(message: &'a Message) -> Self {
        Self {
            shared: Some(message.clone()),
            ..Self::from_kept(message)
        }
    }

    /// From a message that this shard keeps already.
    pub(super) fn from_local(message: &'a Rc<Message>) -> Self {
        Self {
            local: Some(Rc::clone(message)),
            ..Self::from_kept(message)
        }
    }

    /// It came from another shard, which wants an answer or does not.
    pub(super) fn asked(&mut self, asked: bool) {
        if asked {
            assert!(self.number != 0);
            self.numbering = Numbering::Asked;
        }
    }

    /// Gives it a number of this shard.
    pub(super) fn renumber(&mut self, number: u64) {
        self.number = number;
        self.numbering = Numbering::Own;
        // Others may have it under its old number.
        self.shared = None;
        self.local = None;
    }

    /// Calls `f` with the parts.
    pub(super) fn with_parts<R>(&self, f: impl FnOnce(&MessageParts<'_>) -> R) -> R {
        f(&MessageParts {
            topic: self.topic,
            properties: &[self.properties],
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            expires_at_ms: self.expires_at_ms,
            stamp: self.stamp,
            number: self.number,
        })
    }

    /// Whether a copy for another shard is cheaper than a reference.
    pub(super) fn is_small(&self) -> bool {
        self.with_parts(|parts| parts.encoded_len()) <= MessageBatch::MESSAGE_BYTES_MAX
    }

    /// A handle for another shard or the retained index.
    pub(super) fn shared(&mut self) -> Message {
        if let Some(shared) = &self.shared {
            return shared.clone();
        }
        let message = match &self.local {
            Some(local) => Message::clone(local),
            None => self.with_parts(Message::new),
        };
        self.shared = Some(message.clone());
        message
    }

    /// A handle for a queue or window of this shard: no atomic operation per subscriber.
    pub(super) fn local(&mut self) -> Rc<Message> {
        if self.local.is_none() {
            self.local = Some(Rc::new(self.shared()));
        }
        Rc::clone(self.local.as_ref().expect("made above"))
    }

    /// As `local`; a message that is not there yet is made from a spare one.
    pub(super) fn local_from(&mut self, spares: &mut Spares) -> Rc<Message> {
        if self.local.is_none() && self.shared.is_none() {
            self.local = Some(self.with_parts(|parts| spares.make(parts)));
        }
        self.local()
    }

    /// The remaining Message Expiry Interval in whole seconds, rounded up; `Err` when it has passed.
    pub(super) fn remaining_s(&self, now_ms: u64) -> Result<Option<u32>, Expired> {
        remaining_s(self.expires_at_ms, now_ms)
    }
}

/// The Message Expiry Interval has passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expired;

/// See `Publication::remaining_s`.
pub(super) fn remaining_s(expires_at_ms: u64, now_ms: u64) -> Result<Option<u32>, Expired> {
    if expires_at_ms == NEVER {
        return Ok(None);
    }
    if expires_at_ms <= now_ms {
        return Err(Expired);
    }
    let seconds = (expires_at_ms - now_ms).div_ceil(1_000);
    Ok(Some(u32::try_from(seconds).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remaining_lifetime_is_rounded_up_and_ends() {
        assert_eq!(remaining_s(NEVER, 5), Ok(None));
        assert_eq!(remaining_s(10_000, 0), Ok(Some(10)));
        assert_eq!(remaining_s(10_000, 1), Ok(Some(10)));
        assert_eq!(remaining_s(10_000, 9_999), Ok(Some(1)));
        assert_eq!(remaining_s(10_000, 10_000), Err(Expired));
    }
}

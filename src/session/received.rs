//! The inbound QoS 2 identifiers: received and not yet released by the client's PUBREL (MQTT 5 §4.3.3, method B of the
//! standard's receiver: the message was passed on when it arrived, only its identifier is kept).

use crate::protocol::PacketId;
use std::collections::VecDeque;

/// The identifiers that a repeated PUBLISH may not pass again.
///
/// Cost: clients release in the order in which they published, so a release looks at the front; an insertion
/// compares with all that are open, which is two bytes each.
#[derive(Debug, Default)]
pub struct Received {
    open: VecDeque<u16>,
    /// Those whose message is not durable yet, and its number.
    pending: Vec<(u16, u64)>,
}

impl Received {
    /// Identifiers not yet released.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether this identifier is open: the PUBLISH that carries it is a repetition.
    pub fn contains(&self, id: PacketId) -> bool {
        let (front, back) = self.open.as_slices();
        front.contains(&id.get()) || back.contains(&id.get())
    }

    /// Opens an identifier.
    ///
    /// Panics: when it is open already.
    pub fn insert(&mut self, id: PacketId) {
        debug_assert!(!self.contains(id));
        self.open.push_back(id.get());
    }

    /// Opens an identifier that waits until the message with this number is durable.
    pub fn insert_pending(&mut self, id: PacketId, number: u64) {
        self.pending.push((id.get(), number));
    }

    /// The number of the message that an open identifier waits for.
    pub fn pending(&self, id: PacketId) -> Option<u64> {
        let found = self
            .pending
            .iter()
            .find(|(pending, _)| *pending == id.get());
        found.map(|(_, number)| *number)
    }

    /// The identifier waits no longer for the message with this number; false when it did not.
    pub fn settle(&mut self, id: PacketId, number: u64) -> bool {
        let before = self.pending.len();
        self.pending
            .retain(|pending| *pending != (id.get(), number));
        self.pending.len() < before
    }

    /// Releases an identifier; false when it was not open.
    pub fn remove(&mut self, id: PacketId) -> bool {
        let Some(at) = self.open.iter().position(|open| *open == id.get()) else {
            return false;
        };
        self.open.remove(at);
        self.pending.retain(|(pending, _)| *pending != id.get());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_open_from_insert_to_remove() {
        let mut received = Received::default();
        let (one, two) = (PacketId::new(1).expect("1"), PacketId::new(2).expect("2"));
        received.insert(one);
        received.insert(two);
        assert!(received.contains(one));
        assert!(received.remove(two));
        assert!(!received.remove(two));
        assert!(received.remove(one));
        assert!(received.is_empty());
    }
}

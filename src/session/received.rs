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

    /// Releases an identifier; false when it was not open.
    pub fn remove(&mut self, id: PacketId) -> bool {
        let Some(at) = self.open.iter().position(|open| *open == id.get()) else {
            return false;
        };
        self.open.remove(at);
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

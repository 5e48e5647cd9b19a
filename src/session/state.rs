//! The session itself.

use super::Delivery;
use super::inflight::Inflight;
use super::queue::Queue;
use super::received::Received;
use super::will::Will;
use crate::config::limits::QueueFullPolicy;
use crate::protocol::QoS;
use crate::shard::input::ConnKey;
use crate::topic::index::FilterId;
use crate::topic::retained::Cursor;
use crate::topic::share::GroupId;
use hashbrown::HashTable;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;

/// The number of a session on its shard; reused after the session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u32);

/// One subscription of a session, by its place in the topic room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionRef {
    /// In the index.
    Filter(FilterId),
    /// In a shared group.
    Group(GroupId),
}

/// The subscriptions of a session: most have none or one, which costs no allocation. To add or remove one costs the same whatever their
/// number.
#[derive(Debug, Default)]
pub enum SubscriptionRefs {
    /// None.
    #[default]
    None,
    /// One.
    One(SubscriptionRef),
    /// Several, in no particular order.
    Many(Box<HashTable<SubscriptionRef>>),
}

impl SubscriptionRef {
    /// Spread over 64 bits: the table takes its bucket from the bottom and its tag from the top.
    fn table_hash(&self) -> u64 {
        let number = match self {
            Self::Filter(id) => u64::from(id.0) << 1,
            Self::Group(id) => u64::from(id.0) << 1 | 1,
        };
        let product = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        product ^ (product >> 32)
    }
}

impl SubscriptionRefs {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(refs) => refs.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds one that is not there yet.
    pub fn add(&mut self, new: SubscriptionRef) {
        match self {
            Self::None => *self = Self::One(new),
            Self::One(old) => {
                let mut refs = HashTable::with_capacity(2);
                for one in [*old, new] {
                    refs.insert_unique(one.table_hash(), one, SubscriptionRef::table_hash);
                }
                *self = Self::Many(Box::new(refs));
            }
            Self::Many(refs) => {
                refs.insert_unique(new.table_hash(), new, SubscriptionRef::table_hash);
            }
        }
    }

    /// Removes one, if it is there.
    pub fn remove(&mut self, gone: SubscriptionRef) {
        match self {
            Self::None => {}
            Self::One(old) => {
                if *old == gone {
                    *self = Self::None;
                }
            }
            Self::Many(refs) => {
                if let Ok(found) = refs.find_entry(gone.table_hash(), |old| *old == gone) {
                    found.remove();
                }
                if refs.is_empty() {
                    *self = Self::None;
                } else if refs.len() < refs.capacity() / 4 {
                    refs.shrink_to(refs.len() * 2, SubscriptionRef::table_hash);
                }
            }
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = SubscriptionRef> + '_ {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(one) => (Some(one), None),
            Self::Many(refs) => (None, Some(refs.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten()).copied()
    }
}

/// Retained messages still owed to a new subscription (MQTT 5 §3.3.1.3).
///
/// The index is walked as the socket drains, so the replay is never counted against a drop limit.
#[derive(Debug)]
pub struct Replay {
    /// The filter, without a share name.
    pub filter: Box<str>,
    /// The QoS granted.
    pub qos: QoS,
    /// The Subscription Identifier, if any.
    pub subscription_id: Option<NonZeroU32>,
    /// How far the walk has come.
    pub cursor: Cursor,
    /// Which SUBSCRIBE of the shard's asked for it. What a later one asks for takes its place, and it not that of a later one.
    pub asked: u64,
}

/// What a session has beyond an idle client's: allocated on first need, dropped when all of it is empty.
#[derive(Debug, Default)]
pub struct SessionState {
    /// Sent and not acknowledged.
    pub inflight: Inflight,
    /// Waiting to be sent.
    pub queue: Queue,
    /// Inbound QoS 2 identifiers.
    pub received: Received,
    /// Retained messages owed: for each subscription once, however often it was made.
    pub replays: BTreeMap<FilterId, Replay>,
    /// What is owed goes on in a turn of its own, which is under way.
    pub is_replayed_later: bool,
    /// Messages for which the queue has no room and whose publishers wait, oldest first.
    pub on_hold: VecDeque<Delivery>,
    /// Messages are being read back.
    pub is_fetching: bool,
}

impl SessionState {
    /// Whether something may be sent to the client that it was not sent on this connection.
    pub fn has_waiting(&self) -> bool {
        self.inflight.has_unsent()
            || !self.queue.is_empty()
            || !self.replays.is_empty()
            || !self.on_hold.is_empty()
    }

    /// Whether dropping this value would lose nothing.
    pub fn is_empty(&self) -> bool {
        self.inflight.is_unused()
            && self.queue.is_empty()
            && self.received.is_empty()
            && self.replays.is_empty()
            && self.on_hold.is_empty()
            && !self.is_fetching
    }
}

/// A session: one per Client Identifier (MQTT 5 §4.1).
#[derive(Debug)]
pub struct Session {
    /// Client Identifier.
    pub client_id: Box<str>,
    /// The live connection, if any.
    pub conn: Option<ConnKey>,
    /// Session Expiry Interval in seconds; `u32::MAX` is never.
    pub expiry_s: u32,
    /// Where in the shard's list of matches of one PUBLISH this session stands, if it stands there: how
    /// overlapping subscriptions find each other.
    pub match_at: u32,
    /// Its timer in the shard's wheel.
    pub timer: Option<NonZeroU32>,
    /// What happens when its queue is full.
    pub queue_full: QueueFullPolicy,
    /// Whether the client chose that.
    pub chose_queue_full: bool,
    /// Whether its client's last PUBACK came promptly.
    pub acks_promptly: bool,
    /// Its number in the store, or 0: everything of it ends with the process.
    pub stored: u64,
    /// Monotonic milliseconds at which the connection was lost, which may be before the process began; meaningful while
    /// `conn` is `None`.
    pub disconnected_at_ms: i64,
    /// Its subscriptions.
    pub subscriptions: SubscriptionRefs,
    /// Its Will, until published or discarded.
    pub will: Option<Box<Will>>,
    /// Everything an idle client does not have.
    pub state: Option<Box<SessionState>>,
}

// With a connection of at most 96 bytes this leaves an idle client within the design's 490 bytes.
const _: () = assert!(size_of::<Session>() <= 96);

impl Session {
    /// A new session without a connection.
    pub fn new(client_id: Box<str>, queue_full: QueueFullPolicy) -> Self {
        Self {
            client_id,
            conn: None,
            expiry_s: 0,
            match_at: 0,
            timer: None,
            queue_full,
            chose_queue_full: false,
            acks_promptly: false,
            stored: 0,
            disconnected_at_ms: 0,
            subscriptions: SubscriptionRefs::None,
            will: None,
            state: None,
        }
    }

    /// The cold part, made on first need.
    pub fn state(&mut self) -> &mut SessionState {
        self.state.get_or_insert_default()
    }

    /// Gives the cold part back when it holds nothing.
    pub fn trim(&mut self) {
        if self.state.as_ref().is_some_and(|state| state.is_empty()) {
            self.state = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscription_refs_grow_and_shrink() {
        let filter = |n| SubscriptionRef::Filter(FilterId(n));
        let mut refs = SubscriptionRefs::default();
        refs.add(filter(1));
        refs.add(filter(2));
        refs.add(SubscriptionRef::Group(GroupId(1)));
        assert_eq!(refs.len(), 3);
        refs.remove(filter(1));
        refs.remove(filter(7));
        assert_eq!(refs.len(), 2);
        assert!(refs.iter().all(|r| r != filter(1)));
        refs.remove(filter(2));
        refs.remove(SubscriptionRef::Group(GroupId(1)));
        assert!(refs.is_empty());
    }
}

//! What a shard asks the store to keep: records, and what comes back at the start.
//!
//! A shard numbers its records from 1 ([`Lsn`]) and the store makes them durable in that order; records of
//! different shards come in any order. What a peer is told only after a record is durable waits for its number
//! (`Input::Committed`). All records that one `Outbox` carries are committed together or not at all.
//!
//! # Messages
//!
//! A message is kept as long as some session still has to acknowledge it. [`Record::Message`] is written by the publisher's
//! shard, once, with all receiving sessions on all shards; [`Record::Ended`] by a receiver's shard. These two **commute**: a
//! receiver may end before the message is written, and the message is kept exactly while a receiver is left.
//!
//! # Times
//!
//! A record carries wall-clock times, since monotonic ones mean nothing after a restart. `Message::expires_at_ms` is
//! monotonic in a process and wall-clock in the store; [`Record::Message`] and [`Record::Retained`] say the
//! difference at the time of writing.

use super::message::Message;
use crate::protocol::PacketId;
use crate::session::SubscriptionIds;
use std::num::NonZeroU32;

/// The number of a record of one shard, from 1, ascending by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A stored session: unique for ever on this installation, whatever the number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredSession(pub u64);

/// A stored message: unique for ever on this installation. Of two messages of one shard the later has the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredMessage(pub u64);

/// A session that has to get a message, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Which.
    pub session: StoredSession,
    /// `DeliveryOptions` and whether the message came through a shared group, as `ReceiverFlags` packs them.
    pub flags: u8,
    /// Which Subscription Identifiers go with it.
    pub subscription_ids: SubscriptionIds,
}

/// A Will that outlives the process.
#[derive(Clone, Debug)]
pub struct StoredWill {
    /// Topic, properties, payload, QoS, RETAIN.
    pub message: Message,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
    /// Message Expiry Interval in seconds, if given.
    pub message_expiry_s: Option<u32>,
}

/// The state of a session beside its subscriptions and messages.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// Which.
    pub session: StoredSession,
    /// Client Identifier.
    pub client_id: Box<str>,
    /// Session Expiry Interval in seconds; `u32::MAX` is never.
    pub expiry_s: u32,
    /// When the connection was lost, in wall-clock milliseconds; `None` while there is one.
    pub disconnected_at_ms: Option<u64>,
    /// The Will not yet published.
    pub will: Option<StoredWill>,
}

/// How far a QoS 2 message has come on its way to a client (MQTT 5 §4.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutgoingStep {
    /// PUBLISH is sent, under this identifier and no other.
    Published(StoredMessage),
    /// PUBREC has arrived: only PUBREL may follow.
    Released,
}

/// One change to what is kept.
#[derive(Clone, Debug)]
pub enum Record {
    /// A session began, or its [`SessionRecord`] changed.
    Session(SessionRecord),
    /// A session ended: everything under it goes, its part in messages included.
    SessionEnded(StoredSession),
    /// A subscription was made or replaced.
    Subscribed {
        /// Whose.
        session: StoredSession,
        /// The Topic Filter as the client gave it, share name included.
        filter: Box<str>,
        /// `SubscribeOptions::bits`.
        options: u8,
        /// Its Subscription Identifier.
        id: Option<NonZeroU32>,
    },
    /// A subscription went.
    Unsubscribed {
        /// Whose.
        session: StoredSession,
        /// The Topic Filter.
        filter: Box<str>,
    },
    /// A message that sessions wait for.
    Message {
        /// Its number.
        id: StoredMessage,
        /// What to keep; its expiry is monotonic, `wall_minus_mono_ms` makes it wall-clock.
        message: Message,
        /// Wall-clock minus monotonic milliseconds.
        wall_minus_mono_ms: u64,
        /// Who has to get it; empty only if `received_from` is there.
        receivers: Vec<Receiver>,
        /// The publisher's QoS 2 identifier that is in use from now on: one record with the message, so that "identifier known"
        /// and "message kept" cannot disagree.
        received_from: Option<(StoredSession, PacketId)>,
    },
    /// A receiver is done with a message: acknowledged, expired or dropped.
    Ended {
        /// Which message.
        id: StoredMessage,
        /// Whose part in it.
        session: StoredSession,
    },
    /// A QoS 2 message took a step towards a client.
    Outgoing {
        /// Whose.
        session: StoredSession,
        /// Under which identifier.
        packet_id: PacketId,
        /// How far it is.
        step: OutgoingStep,
    },
    /// A QoS 2 message to a client is complete: PUBCOMP has arrived, or it was given up.
    OutgoingEnded {
        /// Whose.
        session: StoredSession,
        /// Under which identifier.
        packet_id: PacketId,
    },
    /// PUBREL has arrived: the client may use the identifier for another message.
    ReceivedEnded {
        /// Whose.
        session: StoredSession,
        /// Which identifier.
        packet_id: PacketId,
    },
    /// A retained message was set (its `stamp` says when), or cleared if its payload is empty. The greater stamp wins, whatever comes first.
    Retained {
        /// Topic, stamp, payload and the rest.
        message: Message,
        /// Wall-clock minus monotonic milliseconds.
        wall_minus_mono_ms: u64,
    },
}

/// A message that waits for a recovered session: its place, not its payload.
#[derive(Clone, Debug)]
pub struct RecoveredDelivery {
    /// Which message.
    pub id: StoredMessage,
    /// Its `Message::bytes`.
    pub bytes: u32,
    /// See [`Receiver::flags`].
    pub flags: u8,
    /// See [`Receiver::subscription_ids`].
    pub subscription_ids: SubscriptionIds,
    /// Its identifier towards the client, if it is a QoS 2 message that was published.
    pub packet_id: Option<PacketId>,
}

/// One session as the store had it.
#[derive(Clone, Debug)]
pub struct RecoveredSession {
    /// Its state. A session that was connected has `disconnected_at_ms: None`; it lost its connection when the process ended.
    pub record: SessionRecord,
    /// Filter, `SubscribeOptions::bits`, Subscription Identifier.
    pub subscriptions: Vec<(Box<str>, u8, Option<NonZeroU32>)>,
    /// What waits, by ascending message number.
    pub deliveries: Vec<RecoveredDelivery>,
    /// Identifiers for which only PUBREL may follow.
    pub released: Vec<PacketId>,
    /// The client's QoS 2 identifiers in use.
    pub received: Vec<PacketId>,
}

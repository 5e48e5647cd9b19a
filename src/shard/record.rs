//! What a shard asks the store to keep: records, and what comes back at the start.
//!
//! A shard numbers its records from 1 ([`Lsn`]) and the store makes them durable in that order; records of
//! different shards come in any order. What a peer is told only after a record is durable waits for its number
//! (`Input::Committed`). All records that one drain of an `Outbox` carries are committed together or not at all; only
//! [`Record::Message`] and [`Record::Retained`] may be refused one by one, if they say so, when the store has no room for them. All others it
//! tries again until they are in.
//!
//! # Messages
//!
//! A message is kept as long as some session still has to acknowledge it. [`Record::Message`] is written by the publisher's
//! shard, once, with all receiving sessions on all shards; [`Record::Ended`] by a receiver's shard. These two **commute**: a
//! receiver may end before the message is written, and the message is kept exactly while a receiver is left. A session
//! may be among the receivers more than once, by its own subscriptions and through shared groups: `Ended` says which [`Part`] it takes out.
//! An `Ended` that is ahead of its message need not be durable, because the message cannot come after a crash; what is ahead of a
//! message that is refused is forgotten with it; and as a message may be refused before it reaches the store, an `Ended` that is
//! ahead of its message for longer than an answer may wait (`queue-hold`, an hour at most) is to be forgotten in time, too. An `Ended` may come after the `SessionEnded` of its session,
//! when another shard says it; the session's part has gone with the session then, and it counts no more. A message may be written before the `Session` record of a receiver on another
//! shard; if that never comes, its place is dropped at the next start. The store removes nothing of a message by itself, expired or not: that is the
//! receiver's shard to say.
//!
//! # Sessions
//!
//! A session that ended may have messages of shared groups that are yet to find another member. Its
//! [`Record::SessionEnded`] waits for them, so **two sessions may have one Client Identifier for a while**: the one with the
//! greater number is the present one, and [`Shard::recover`](super::Shard::recover) ends the other.
//!
//! # Numbers
//!
//! [`StoredSession`] and [`StoredMessage`] hold the wall-clock time of their making and the shard that gave them
//! ([`number_time_ms`], [`number_shard`]); they fit a signed integer of 64 bits until the year 2248. So messages of several shards are about in
//! the order of their arrival, and a message knows its age after a restart.
//!
//! A session's messages of one publisher come back in their order, because their numbers ascend in it, whoever gave them: a shard that
//! stores by itself what another one published gives it a number between that which it had there and the next one of there.
//!
//! # Recovery
//!
//! On each shard, before anything else happens: `set_next_numbers`, `recover_retained` for every retained message (on *every* shard),
//! then `recover` for the sessions that `Placement` gives to this shard for their Client Identifier, in ascending order
//! of their numbers, then `finish_recovery`. Each fills the `Outbox` (records, mesh messages), to be drained as ever. Clients are let in when
//! `Shard::is_ready` on all shards: then each knows what the others are interested in.
//!
//! # Times
//!
//! A record carries wall-clock times, since monotonic ones mean nothing after a restart. `Message::expires_at_ms` is
//! monotonic in a process and wall-clock in the store; [`Record::Message`] and [`Record::Retained`] say the
//! difference at the time of writing.

use super::input::ShardId;
use super::message::Message;
use crate::protocol::PacketId;
pub use crate::session::ReceiverFlags;
use crate::session::SubscriptionIds;
pub use crate::topic::share::Part;
use std::num::NonZeroU32;

/// What the store of a broker promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// There is none: everything ends with the process.
    #[default]
    None,
    /// What was acknowledged survives the end of the process.
    Process,
    /// And the loss of power.
    Power,
}

impl Durability {
    /// Its word in the configuration, and what CONNACK tells a client that asks.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Power => "power",
        }
    }
}

/// The number of a record of one shard, from 1, ascending by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The low bits of a number: the shard that gave it; above them, in as many, the shard that gave the number it was made from, or the same.
const NUMBER_SHARD_BITS: u32 = 6;
/// The bits below the time: both shards, and a count within the millisecond.
const NUMBER_TIME_SHIFT: u32 = 20;

/// The least number that is greater than `last` and made by `shard` at `wall_ms`. When the clock goes back, or more numbers are
/// wanted than a millisecond has, the time in it is later than the clock.
pub(crate) fn next_number(last: u64, shard: ShardId, wall_ms: u64) -> u64 {
    let step = 1 << (2 * NUMBER_SHARD_BITS);
    let after = (last / step + 1) * step;
    let this = u64::from(shard.0);
    after.max(wall_ms << NUMBER_TIME_SHIFT) | this << NUMBER_SHARD_BITS | this
}

/// The number that `shard` gives to what another shard gave `number`, and that only it gives: of two, the order is the same, whether or
/// not either was made from the other's.
pub(crate) fn number_made_from(number: u64, shard: ShardId) -> u64 {
    let low = (1 << NUMBER_SHARD_BITS) - 1;
    assert!(
        number >> NUMBER_SHARD_BITS & low == number & low && number & low != u64::from(shard.0)
    );
    number & !low | u64::from(shard.0)
}

/// About when the number of a session or message was given, in wall-clock milliseconds.
pub fn number_time_ms(number: u64) -> u64 {
    number >> NUMBER_TIME_SHIFT
}

/// The shard that gave the number of a session or message, which ran in some process.
pub fn number_shard(number: u64) -> ShardId {
    ShardId((number & ((1 << NUMBER_SHARD_BITS) - 1)) as u8)
}

/// A stored session: unique for ever on this installation, whatever the number of shards; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredSession(pub u64);

/// A stored message: unique for ever on this installation, never 0. Of two messages of one shard the later has the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredMessage(pub u64);

/// A session that has to get a message, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Which.
    pub session: StoredSession,
    /// On which terms.
    pub flags: ReceiverFlags,
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
    /// The User Name that began it, as it was verified; none if that was nobody in particular.
    pub username: Option<Box<str>>,
    /// Session Expiry Interval in seconds; `u32::MAX` is never, 0 ends with the connection (and so at a restart).
    pub expiry_s: u32,
    /// What happens when its queue is full, if the client chose it, as `QueueFullPolicy::bits` says; 0 if it did not.
    pub queue_full: u8,
    /// When the connection was lost, in wall-clock milliseconds; `None` while there is one.
    pub disconnected_at_ms: Option<u64>,
    /// The Will not yet published.
    pub will: Option<StoredWill>,
}

/// How far a QoS 2 message has come on its way to a client (MQTT 5 §4.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutgoingStep {
    /// PUBLISH is sent, for this part of the session in this message, under this identifier and no other.
    Published(StoredMessage, Part),
    /// PUBREC has arrived: only PUBREL may follow. The session's part in the message ends with an `Ended` of its own.
    Released,
}

/// One change to what is kept.
#[derive(Clone, Debug)]
pub enum Record {
    /// A session began, or its [`SessionRecord`] changed.
    Session(SessionRecord),
    /// A session ended: everything under it goes, its part in the messages included that are stored by then. Of messages that are
    /// not, its shard says `Ended` by itself.
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
        /// Its number; `Message::number` of what `Input::Fetched` and a retained message bring back, too.
        id: StoredMessage,
        /// What to keep; its expiry is monotonic, `wall_minus_mono_ms` makes it wall-clock.
        message: Message,
        /// Wall-clock minus monotonic milliseconds.
        wall_minus_mono_ms: u64,
        /// Who has to get it; empty only if `received_from` is there.
        receivers: Vec<Receiver>,
        /// Whether the store may refuse it, because there is a publisher to be told. Otherwise it is tried again like any
        /// other record.
        refusable: bool,
        /// The publisher's QoS 2 identifier that is in use from now on: one record with the message, so that "identifier known"
        /// and "message kept" cannot disagree.
        received_from: Option<(StoredSession, PacketId)>,
    },
    /// A receiver is done with its part in a message: acknowledged, expired or dropped.
    Ended {
        /// Which message.
        id: StoredMessage,
        /// Whose part in it.
        session: StoredSession,
        /// Which, if it has several.
        part: Part,
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
        /// Its publisher can be told that it is not kept.
        refusable: bool,
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
    pub flags: ReceiverFlags,
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
    /// Identifiers for which only PUBREL may follow, in any order.
    pub released: Vec<PacketId>,
    /// The client's QoS 2 identifiers in use, in any order.
    pub received: Vec<PacketId>,
}

/// A read of messages whose payloads are in the store alone. All are durable.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Comes back with them in `Input::Fetched`.
    pub token: FetchToken,
    /// Which, at least one.
    pub messages: Vec<StoredMessage>,
    /// The present difference of the clocks, which makes their wall-clock expiry monotonic.
    pub wall_minus_mono_ms: u64,
}

/// Tells the answers to fetches apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchToken(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_know_their_time_and_shard() {
        let shard = ShardId(63);
        let first = next_number(0, shard, 1_700_000_000_000);
        assert_eq!(number_time_ms(first), 1_700_000_000_000);
        assert_eq!(number_shard(first), shard);
        let mut last = first;
        for wall_ms in [1_700_000_000_000, 1_600_000_000_000, 0] {
            for _ in 0..300 {
                let next = next_number(last, shard, wall_ms);
                assert!(next > last);
                assert_eq!(number_shard(next), shard);
                last = next;
            }
        }
        // Another shard after a restart: greater than all before.
        assert!(next_number(last, ShardId(0), 0) > last);
        assert!(i64::try_from(next_number(0, shard, 7_000_000_000_000)).is_ok());
    }

    #[test]
    fn a_number_made_from_another_stands_between_its_neighbours() {
        let first = next_number(0, ShardId(5), 1_700_000_000_000);
        let second = next_number(first, ShardId(5), 1_700_000_000_000);
        let third = next_number(second, ShardId(5), 1_700_000_000_000);
        for shard in [ShardId(0), ShardId(4), ShardId(6), ShardId(63)] {
            let made = number_made_from(second, shard);
            assert!(first < made && made < third);
            assert_eq!(number_shard(made), shard);
            assert_eq!(number_time_ms(made), number_time_ms(second));
            // No other shard's second number, and none of its own.
            assert_ne!(made, number_made_from(first, shard));
            assert_ne!(made, next_number(first, shard, 1_700_000_000_000));
            // After a restart that found this alone, too.
            assert!(next_number(made, ShardId(0), 0) > second);
        }
    }
}

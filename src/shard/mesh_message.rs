//! The vocabulary between shards.
//!
//! A link is a FIFO per ordered pair of shards, and there is no other path between two shards: that is what
//! keeps the order of one publisher's messages (MQTT 5 §4.6), and what makes an acknowledged announcement
//! mean that every later PUBLISH on the acknowledging shard sees it.

use super::batch::MessageBatch;
use super::message::{Envelope, Message};
use super::record::{Part, Receiver, StoredMessage, StoredSession};
use crate::topic::interest::InterestKey;
use crate::topic::share::{GroupId, MemberCounts};
use std::sync::Arc;

/// What one shard says to another.
#[derive(Clone, Debug)]
pub enum MeshMessage {
    /// Deliver to every matching subscription of the receiver, or to a member of a group; with RETAIN, the first also updates its
    /// retained index.
    Publish {
        /// The message.
        message: Message,
        /// To whom, and what is to be answered.
        envelope: Envelope,
    },
    /// The same for small messages that update no retained index, several at once.
    Batch(MessageBatch),
    /// The sender's interest in a key appeared or vanished.
    Interest {
        /// What topics it covers.
        key: InterestKey,
        /// Appeared or vanished.
        wanted: bool,
        /// It is about stored sessions alone.
        stored: bool,
        /// The sender's announcement number, acknowledged by `AnnouncementAck`.
        sequence: u64,
    },
    /// The sender's members of a shared group changed.
    Group(Arc<GroupAnnouncement>),
    /// All announcements of the receiver up to this number are in force on the sender.
    AnnouncementAck {
        /// The receiver's announcement number.
        up_to: u64,
    },
    /// Messages of the receiver were brought to the sender's sessions.
    Taken(Vec<Taken>),
    /// Receivers on the sender are done with messages of the receiver that it took.
    TakenEnded(Vec<TakenEnd>),
    /// Messages of the sender are durable, or need not be.
    Stored(Vec<StoredMessage>),
    /// Messages of the sender were refused: no session of the receiver has them any more, but those that have sent them.
    Refused(Vec<StoredMessage>),
    /// The sender has announced all that it recovered at its start.
    Recovered,
}

/// What became of a message on one shard.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Which.
    pub message: StoredMessage,
    /// The stored sessions of the shard that have to get it.
    pub receivers: Vec<Receiver>,
    /// A session refuses it, so its publisher is to be told that it was not accepted.
    pub refused: bool,
    /// All of the receivers are about to acknowledge it.
    pub promptly: bool,
}

/// A receiver is done with a message that was not durable.
#[derive(Clone, Copy, Debug)]
pub struct TakenEnd {
    /// Which.
    pub message: StoredMessage,
    /// Whose part in it.
    pub session: StoredSession,
    /// Which, if there are several.
    pub part: Part,
}

/// How many members of one shared group a shard has.
#[derive(Clone, Debug)]
pub struct GroupAnnouncement {
    /// `$share/{ShareName}/{filter}`.
    pub text: Box<str>,
    /// The sender's number for the group.
    pub group: GroupId,
    /// The members.
    pub counts: MemberCounts,
    /// The sender's announcement number.
    pub sequence: u64,
}

// A link's ring holds these by value; one cache line each.
const _: () = assert!(size_of::<MeshMessage>() <= 32);

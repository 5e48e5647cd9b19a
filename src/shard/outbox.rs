//! What a core's state machine wants done: filled during a turn, drained by the shell at its end.

use super::batch::SpareBatches;
use super::counters::DropCause;
use super::credentials::AuthRequest;
use super::input::{ConnKey, ShardId};
use super::limited::Limit;
use super::mesh_message::MeshMessage;
use super::message::{Envelope, MessageParts};
use super::record::{Fetch, Record};
use crate::protocol::{ReasonCode, Version};

/// A connection that leaves this shard for the owner of its client id.
#[derive(Debug)]
pub struct Handover {
    /// The connection; its key is dead on this shard once this was emitted.
    pub conn: ConnKey,
    /// The owner.
    pub to: ShardId,
    /// All bytes received so far, CONNECT first.
    pub unread: Vec<u8>,
}

/// What the shell does for a shard, in one reusable value.
///
/// Order: within each list, as emitted. `mesh` keeps the order per receiving shard, which is what makes
/// the order per publisher hold (MQTT 5 §4.6).
#[derive(Debug)]
pub struct Outbox {
    /// Connections that now have outbound bytes. A key is emitted once; from then on the shell owes it
    /// writes until an `Input::Written` leaves its outbound empty.
    pub dirty: Vec<ConnKey>,
    /// The same for connections that may be written to some turns later, because very many have the same message. A key emitted here may be
    /// emitted in `dirty` too, once, when something else comes for it or much has.
    pub later: Vec<ConnKey>,
    /// Messages to other shards, for `take_mesh`. The shell may take them out at any time; only `send` and `send_small` add.
    pub mesh: Vec<(ShardId, MeshMessage)>,
    /// Per shard: where in `mesh` the last message to it stands, if that is a batch.
    open_batch: [Option<u32>; ShardId::COUNT_MAX],
    /// Batches that left with `take_mesh`.
    spare_batches: SpareBatches,
    /// Connections to pass on, socket and all.
    pub handover: Vec<Handover>,
    /// Connections to close once their outbound bytes are written, or the linger time is over. The shell answers with `Input::Closed`.
    pub close: Vec<ConnKey>,
    /// Connections not to read from until `resume` names them.
    pub pause: Vec<ConnKey>,
    /// Connections to read from again.
    pub resume: Vec<ConnKey>,
    /// Clients to be judged; each is answered with `Input::Verdict`.
    pub auth: Vec<AuthRequest>,
    /// What the operator may want to know.
    pub events: Vec<Event>,
    /// Connections whose clients failed to authenticate.
    pub auth_failures: Vec<ConnKey>,
    /// What is to be kept: together or not at all. The shard counts them: the first ever is `Lsn(1)`.
    pub records: Vec<Record>,
    /// What is to be read back, each answered by one `Input::Fetched`.
    pub fetch: Vec<Fetch>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            dirty: Vec::new(),
            later: Vec::new(),
            mesh: Vec::new(),
            open_batch: [None; ShardId::COUNT_MAX],
            spare_batches: SpareBatches::default(),
            handover: Vec::new(),
            close: Vec::new(),
            pause: Vec::new(),
            resume: Vec::new(),
            auth: Vec::new(),
            events: Vec::new(),
            auth_failures: Vec::new(),
            records: Vec::new(),
            fetch: Vec::new(),
        }
    }
}

impl Outbox {
    /// Adds a message to another shard.
    pub fn send(&mut self, to: ShardId, message: MeshMessage) {
        self.open_batch[to.index()] = None;
        self.mesh.push((to, message));
    }

    /// Adds a message of at most `MessageBatch::MESSAGE_BYTES_MAX` bytes to the batch that is the last message to
    /// that shard, or begins one.
    pub fn send_small(&mut self, to: ShardId, parts: &MessageParts<'_>, envelope: Envelope) {
        // A place that the shell has emptied meanwhile holds nothing, or a message to some shard that was added since;
        // a batch to this shard can only be the one remembered.
        let open = self.open_batch[to.index()].and_then(|at| self.mesh.get_mut(at as usize));
        let mut is_behind_full = false;
        if let Some((open_to, MeshMessage::Batch(batch))) = open
            && *open_to == to
        {
            if batch.push(parts, envelope) {
                return;
            }
            is_behind_full = true;
        }
        let mut batch = self.spare_batches.make(is_behind_full);
        let fits = batch.push(parts, envelope);
        assert!(fits, "a small message fits an empty batch");
        self.open_batch[to.index()] = u32::try_from(self.mesh.len()).ok();
        self.mesh.push((to, MeshMessage::Batch(batch)));
    }

    /// Takes what is in `mesh`; the places of its batches are for later ones, once their receivers have let go of them.
    pub fn take_mesh(&mut self) -> Vec<(ShardId, MeshMessage)> {
        for (_, message) in &self.mesh {
            if let MeshMessage::Batch(batch) = message {
                self.spare_batches.keep(batch);
            }
        }
        std::mem::take(&mut self.mesh)
    }

    /// Gives back memory that is kept for later messages.
    pub(super) fn forget_spares(&mut self) {
        self.spare_batches = SpareBatches::default();
    }

    /// Whether nothing is left to do.
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty()
            && self.later.is_empty()
            && self.mesh.is_empty()
            && self.handover.is_empty()
            && self.close.is_empty()
            && self.pause.is_empty()
            && self.resume.is_empty()
            && self.auth.is_empty()
            && self.events.is_empty()
            && self.auth_failures.is_empty()
            && self.records.is_empty()
            && self.fetch.is_empty()
    }
}

/// What a rule kept a client from doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Client Identifier.
    pub client_id: Box<str>,
    /// User Name, if it was verified.
    pub username: Option<Box<str>>,
    /// `publish to`, `subscribe to` or `receive from`.
    pub action: &'static str,
    /// Topic Name or Topic Filter.
    pub topic: Box<str>,
    /// The rule, with its place; none when there was none to permit it.
    pub rule: Option<Box<str>>,
    /// Whether the rule is on trial, so that nothing was denied.
    pub is_shadow: bool,
    /// How often.
    pub count: u64,
}

impl Denial {
    /// Whether the other tells the same of the same client.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.action == other.action
            && self.is_shadow == other.is_shadow
            && self.client_id == other.client_id
            && self.topic == other.topic
    }
}

/// Something the log may tell. The shell adds the peer's address, which only it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session's connection was accepted with CONNACK 0.
    ClientConnected {
        /// The connection.
        conn: ConnKey,
        /// Its Client Identifier.
        client_id: Box<str>,
        /// The protocol it speaks.
        version: Version,
        /// Clean Start (Clean Session in 3.x).
        clean_start: bool,
        /// Whether a session was resumed.
        session_present: bool,
        /// The Keep Alive in force, in seconds; 0 is none.
        keep_alive_s: u16,
        /// The User Name, when given.
        username: Option<Box<str>>,
    },
    /// A CONNECT was refused, or what came was none.
    ConnectRefused {
        /// The connection.
        conn: ConnKey,
        /// The Client Identifier as far as it was read.
        client_id: Option<Box<str>>,
        /// The Reason Code given, or the one that would have been.
        reason: ReasonCode,
        /// What was wrong, in words.
        what: &'static str,
        /// The statement broken, such as `MQTT-3.1.0-1`; empty if none.
        statement: &'static str,
    },
    /// A connection with a session ended.
    ClientDisconnected {
        /// The connection.
        conn: ConnKey,
        /// Its Client Identifier.
        client_id: Box<str>,
        /// Why, as a Reason Code: 0x00 for a normal DISCONNECT.
        reason: ReasonCode,
        /// What happened, in words.
        what: &'static str,
        /// The statement broken, such as `MQTT-3.8.3-4`; empty if none.
        statement: &'static str,
    },
    /// What clients wanted to do was denied since the last such event; at most one every ten seconds.
    Denied {
        /// What, whom and by which rule.
        denials: Box<[Denial]>,
        /// How much more that is not among them.
        more: u64,
    },
    /// A connection lost its session to a newer connection with the same Client Identifier.
    ClientTakeover {
        /// The older connection, being closed.
        old: ConnKey,
        /// The newer one.
        new: ConnKey,
        /// The Client Identifier that both gave.
        client_id: Box<str>,
    },
    /// A connection was closed before anything was read of it; at most one a second for each limit.
    TurnedAway {
        /// The limit.
        limit: Limit,
        /// How many more were, since the last such event.
        more: u64,
    },
    /// Who did something too often is banned from now on.
    Banned {
        /// The connection that did it last.
        conn: ConnKey,
        /// The Client Identifier that is banned; none when the peer's address is.
        client_id: Option<Box<str>>,
        /// The limit that was reached.
        limit: Limit,
        /// How long the ban lasts, in seconds.
        time_s: u32,
    },
    /// Something was refused under a limit; at most one a second for each.
    Limited {
        /// The connection.
        conn: ConnKey,
        /// The Client Identifier, when it is known.
        client_id: Option<Box<str>>,
        /// The limit.
        limit: Limit,
        /// Refusals under it since the last such event, without this one.
        more: u64,
    },
    /// Messages were dropped since the last such event; at most one every ten seconds.
    Dropped {
        /// How many, by `DropCause` in the order of `DropCause::ALL`.
        counts: Box<[u64; DropCause::ALL.len()]>,
        /// The first of them by client, topic and cause.
        named: Vec<Dropped>,
    },
}

/// Messages for one client that were dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Whose they were.
    pub client_id: Box<str>,
    /// Their Topic Name; empty if they were in the store alone.
    pub topic: Box<str>,
    /// Why.
    pub cause: DropCause,
    /// How many.
    pub count: u64,
}

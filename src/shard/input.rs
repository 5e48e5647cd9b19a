//! What a core's state machine is told: everything that can happen to it, as data.

use super::budget::MemoryLevel;
use super::credentials::{Demand, Verdict};
use super::mesh_message::MeshMessage;
use super::message::Message;
use super::record::{FetchToken, Lsn, StoredMessage};
use crate::access::Rules;
use crate::config::limits::Limits;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The number of a shard, 0 to 63. One shard is one core's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u8);

impl ShardId {
    /// The most shards a process may have: a core mask is 64 bits wide.
    pub const COUNT_MAX: usize = 64;

    /// The number as an index into per-shard tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A Network Connection on one shard.
///
/// The shell owns the numbering: an `index` is reused only after `Input::Closed` for it was handled (or the
/// connection was handed over), and then with another `generation`, so a late event for an old connection
/// can be told from one for its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnKey {
    /// Slot in the shell's and the shard's tables; dense from 0.
    pub index: u32,
    /// Distinguishes the connections that used the same slot.
    pub generation: u32,
}

/// The time, sampled once per turn.
///
/// Units: milliseconds. `mono_ms` counts from one origin that all shards of the process share and never
/// goes back; `wall_ms` counts from the Unix epoch and may jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time.
    pub mono_ms: u64,
    /// Wall-clock time.
    pub wall_ms: u64,
}

/// Why the socket of a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The peer closed its side.
    PeerClosed,
    /// The peer or the network reset the connection, or a write failed.
    Reset,
    /// This shard asked for the close through `Outbox::close`.
    Asked,
    /// What lies between the socket and MQTT ended it, for the reason in words: TLS, WebSocket, a PROXY header.
    Transport(&'static str),
    /// The shell gave up: the bytes owed at close did not leave within the linger time.
    LingerExpired,
}

/// How full the link to another shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Below the low mark.
    Low,
    /// Above the soft limit: publishers that feed the link are not read.
    Soft,
    /// Above the hard limit: this shard reads no sockets, and QoS 0 messages to that shard are dropped.
    Hard,
}

/// One thing that happened, in the order in which the shard must see it.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection was accepted on this core.
    Accepted {
        /// Its key.
        conn: ConnKey,
    },
    /// The peer has proved who it is with a certificate. Comes before its first bytes, if at all.
    Identified {
        /// The connection.
        conn: ConnKey,
        /// Its User Name, whatever CONNECT says.
        username: &'a str,
    },
    /// The listener demands something of the client. Comes before its first bytes; without it nothing is demanded.
    Demanded {
        /// The connection.
        conn: ConnKey,
        /// What.
        demand: Demand,
    },
    /// What was asked with `Outbox::auth` is answered. Late, early, or for a connection that is gone: all is well.
    Verdict {
        /// The connection that was asked about.
        conn: ConnKey,
        /// The answer.
        verdict: Verdict,
    },
    /// Other rules hold from now on, also for those who are connected.
    Rules {
        /// Who may do what; none permits everything.
        rules: Option<Arc<Rules>>,
        /// Rules on trial: what they would deny is told, and permitted.
        shadow: Option<Arc<Rules>>,
    },
    /// Whom these accounts let in has to go (`Identity::account`), now or when the verdict comes.
    Withdrawn(Arc<BTreeSet<u64>>),
    /// A connection arrived from the core that accepted it, because this shard owns its client id.
    /// `unread` begins with its whole CONNECT packet, or is empty and comes as `Received` after `Identified`.
    HandedOver {
        /// Its key on this shard.
        conn: ConnKey,
        /// All bytes received so far.
        unread: &'a [u8],
    },
    /// Bytes arrived.
    Received {
        /// From where.
        conn: ConnKey,
        /// At least one byte.
        bytes: &'a [u8],
    },
    /// The first `bytes` bytes of the connection's outbound data were accepted by the socket.
    Written {
        /// Whose.
        conn: ConnKey,
        /// At most what `Shard::outbound` offered; may be 0.
        bytes: usize,
    },
    /// The socket is gone. The key is dead after this.
    Closed {
        /// Whose.
        conn: ConnKey,
        /// Why.
        cause: CloseCause,
    },
    /// A message from another shard.
    Mesh {
        /// The sender.
        from: ShardId,
        /// What it says.
        message: MeshMessage,
    },
    /// The pressure on an outgoing link changed.
    Link {
        /// The receiving end of the link.
        to: ShardId,
        /// The new state.
        pressure: Pressure,
    },
    /// The pressure on the way to the store changed: `Hard`, as long as this shard reads no sockets because of it, or `Low`.
    StorePressure(Pressure),
    /// Other bounds hold from now on. Those that clients were told in CONNACK are the same as before.
    Limits(&'a Arc<Limits>),
    /// How short memory is from now on.
    Memory(MemoryLevel),
    /// Time passed: at or after `Shard::next_deadline`.
    Tick,
    /// There is time and room for more of a message that is under way to very many (`Shard::is_fanning_out`).
    FanOut,
    /// The store has made records durable.
    Committed {
        /// All records up to this one are settled.
        up_to: Lsn,
        /// Those that were refused since the last time, ascending: each a `Record::Message` or `Record::Retained` for which there was no
        /// room. The store keeps nothing of them. Some may be beyond `up_to`, behind what waits for the disk.
        refused: &'a [Lsn],
    },
    /// The store has read what a `Fetch` asked for.
    Fetched {
        /// Which one it answers.
        token: FetchToken,
        /// The messages asked for, in that order, up to the first that cannot be read, which is not the first of all: it may be asked for
        /// again. `None` for one that is not there.
        messages: Vec<(StoredMessage, Option<Message>)>,
    },
    /// Whether the store takes messages: it does until it says otherwise.
    StoreState {
        /// False from the first refusal until there is room again.
        accepting: bool,
    },
    /// The broker is stopping: MQTT 5 clients get DISCONNECT 0x8B, all connections are closed, later
    /// connections are refused.
    Shutdown,
}

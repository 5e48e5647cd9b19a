//! PURE. One core's whole state machine, without I/O, clock or threads.
//!
//! [`Shard::handle`], [`Shard::next_deadline`] and [`Shard::outbound`] are its surface: what happened goes in as
//! an [`Input`], what is to be done comes out in an [`Outbox`], and what is to be written is lent. So any number of
//! shards run in one thread under a seeded test, and a failing seed reproduces.
//!
//! # Invariants
//!
//! 1. A session lives on the shard that [`Placement`] names for its Client Identifier, and nowhere else: takeover, Packet
//!    Identifiers and expiry need no other shard.
//! 2. A connection in stage `Open` has a session whose `conn` is its key; a session's `conn` is a connection in stage `Open`.
//! 3. All messages from one shard to another take one FIFO path, so the messages of one publisher keep their order.
//! 4. No shard waits for another: what must wait (a SUBACK) is kept, and the turn goes on.
//! 5. A message is either sent, queued within the limits, under way to very many (`fan_out`), or counted as dropped under a cause.
//! 6. What a peer is told of a stored session, or of a message for one, it is told after the record of it is durable (ADR 7).
//! 7. No output depends on the iteration order of a hash map.

mod access;
mod ack;
mod ahead;
pub mod ban;
pub mod batch;
pub mod budget;
mod client_ids;
mod commit;
mod connect;
mod connection;
pub mod counters;
pub mod credentials;
mod deliver;
mod disconnect;
mod drops;
mod ending;
mod fan_out;
mod fetch;
mod gate;
mod hold;
pub mod input;
mod invariants;
pub mod limited;
mod linger;
mod login;
mod mesh;
pub mod mesh_message;
pub mod message;
mod outbound;
pub mod outbox;
mod pages;
pub mod placement;
mod publication;
mod publish;
pub mod rate;
pub mod record;
mod recovery;
mod retain;
mod session_end;
mod session_record;
mod storing;
mod subscribe;
mod tick;
mod timer;
mod unsubscribe;

use crate::config::limits::Limits;
use crate::session::{Session, SessionKey};
use crate::topic::index::{Index, Subscriber};
use crate::topic::interest::{InterestTable, LocalInterest};
use crate::topic::retained::{Retained, StampClock};
use crate::topic::share::{GroupId, Groups};
use access::Guard;
use ban::Bans;
use budget::Budget;
use client_ids::ClientIds;
use commit::Keeper;
use connection::{Connection, End};
use counters::Counters;
use deliver::{Images, Match, MoreIds};
use drops::Drops;
use fan_out::{FanOut, ReplayVisits};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use input::{CloseCause, ConnKey, Input, Now, Pressure, ShardId};
use login::Login;
use mesh::PendingSuback;
use message::{Message, Spares};
use outbound::Pool;
use outbox::Outbox;
use placement::Placement;
use rate::Rates;
use record::Durability;
use retain::Upkeep;
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;
use timer::Wheel;

/// What a shard is made from.
#[derive(Clone, Debug)]
pub struct ShardSetup {
    /// Its number.
    pub id: ShardId,
    /// How many shards the process has.
    pub shard_count: usize,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// Who owns which Client Identifier; equal on all shards.
    pub placement: Placement,
    /// Seeds the hash tables; equal on all shards, unknown to clients.
    pub hash_seed: u64,
    /// Seeds assigned client identifiers; different on each shard.
    pub random_seed: u64,
    /// Whether to emit an event for each client that comes and goes.
    pub events: bool,
    /// What the store promises; with `Durability::None` nothing is recorded, and nothing waits.
    pub durability: Durability,
    /// The present, from which the timers count.
    pub now: Now,
}

/// A subscription as the index holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    session: u32,
    /// Subscription Identifier, or 0.
    id: u32,
    /// `SubscribeOptions::bits`.
    options: u8,
    /// Whether the session is stored.
    is_stored: bool,
}

const _: () = assert!(size_of::<Subscription>() <= 12);

impl Subscriber for Subscription {
    fn key(&self) -> u32 {
        self.session
    }

    fn is_stored(&self) -> bool {
        self.is_stored
    }
}

/// One core's state.
pub struct Shard {
    id: ShardId,
    shard_count: usize,
    limits: Arc<Limits>,
    placement: Placement,
    hash_seed: u64,
    random: u64,
    events: bool,
    stopping: bool,
    now: Now,
    /// Indexed by `ConnKey::index`.
    conns: Vec<Connection>,
    sessions: Slab<Session>,
    client_ids: ClientIds,
    index: Index<Subscription>,
    groups: Groups<Subscription>,
    local_interest: LocalInterest,
    interest: InterestTable,
    retained: Retained<Message>,
    stamps: StampClock,
    upkeep: Upkeep,
    /// Number of the last announcement to the other shards.
    announced: u64,
    /// Per shard: the announcement number it has acknowledged; this shard's own entry is `u64::MAX`.
    acknowledged: Vec<u64>,
    /// SUBACKs that wait for acknowledgements, by ascending announcement number.
    pending_subacks: VecDeque<PendingSuback>,
    /// SUBSCRIBEs so far.
    subscribes: u64,
    /// Per shard: the pressure on the link to it.
    pressure: Vec<Pressure>,
    /// The pressure on the way to the store.
    store_pressure: Pressure,
    /// When a link or the store last kept this shard from reading anything; 0 if none did.
    read_nothing_until_ms: u64,
    /// Publishers not read because of a link.
    link_paused: Vec<ConnKey>,
    /// The User Names of connections that showed a certificate, by `ConnKey::index`.
    usernames: HashMap<u32, Box<str>, FixedState>,
    /// What is known of connections whose listener demands something, by `ConnKey::index`.
    logins: HashMap<u32, Box<Login>, FixedState>,
    guard: Guard,
    /// Connections to end once the present input is handled.
    to_end: Vec<(ConnKey, End)>,
    wheel: Wheel,
    pool: Pool,
    spares: Spares,
    counters: Counters,
    rates: Rates,
    budget: Budget,
    /// Client Identifiers that connected too often, by their hash.
    bans: Bans,
    keeper: Keeper,
    /// Bytes in all queues, each message charged to every queue that holds it.
    queued_bytes: u64,
    /// Where the search for a session to evict goes on.
    evict_at: usize,
    drops: Drops,
    /// Messages under way to very many sessions of this shard, oldest first.
    fan_outs: VecDeque<FanOut>,
    /// Sessions that may have what waits for them: a message for very many of them is stored, or they have looked through as much of what is
    /// retained as one turn allows. The first one is next.
    pump_later: VecDeque<SessionKey>,
    replay_visits: ReplayVisits,
    /// Scratch of one PUBLISH.
    matches: Vec<Match>,
    more_matches: Vec<Match>,
    more_ids: MoreIds,
    matched_groups: Vec<GroupId>,
    /// Scratch of reading ahead.
    places_ahead: Vec<u32>,
    images: Option<Box<Images>>,
}

impl Shard {
    /// A shard without clients.
    pub fn new(setup: ShardSetup) -> Self {
        let ShardSetup {
            id,
            shard_count,
            limits,
            placement,
            hash_seed,
            random_seed,
            events,
            durability,
            now,
        } = setup;
        assert!(shard_count <= ShardId::COUNT_MAX);
        assert!(id.index() < shard_count);
        let mut acknowledged = vec![0; shard_count];
        acknowledged[id.index()] = u64::MAX;
        Self {
            id,
            shard_count,
            limits,
            placement,
            hash_seed,
            random: random_seed,
            events,
            stopping: false,
            now,
            conns: Vec::new(),
            sessions: Slab::new(),
            client_ids: ClientIds::new(hash_seed),
            index: Index::new(hash_seed),
            groups: Groups::new(hash_seed),
            local_interest: LocalInterest::new(),
            interest: InterestTable::new(hash_seed),
            retained: Retained::new(hash_seed),
            stamps: StampClock::new(id.0),
            upkeep: Upkeep::default(),
            announced: 0,
            acknowledged,
            pending_subacks: VecDeque::new(),
            subscribes: 0,
            pressure: vec![Pressure::Low; shard_count],
            store_pressure: Pressure::Low,
            read_nothing_until_ms: 0,
            link_paused: Vec::new(),
            to_end: Vec::new(),
            usernames: HashMap::default(),
            logins: HashMap::default(),
            guard: Guard::default(),
            wheel: Wheel::new(now.mono_ms),
            pool: Pool::default(),
            spares: Spares::default(),
            counters: Counters::default(),
            rates: Rates::default(),
            budget: Budget::default(),
            bans: Bans::default(),
            keeper: Keeper::new(durability, hash_seed),
            queued_bytes: 0,
            evict_at: 0,
            drops: Drops::default(),
            matches: Vec::new(),
            more_matches: Vec::new(),
            more_ids: Vec::new(),
            fan_outs: VecDeque::new(),
            pump_later: VecDeque::new(),
            replay_visits: ReplayVisits::default(),
            matched_groups: Vec::new(),
            places_ahead: Vec::new(),
            images: None,
        }
    }

    /// Takes one input and appends what follows from it to `outbox`.
    ///
    /// `now` may not go back. Cost: bounded by the input; nothing here blocks.
    pub fn handle(&mut self, now: Now, input: Input<'_>, outbox: &mut Outbox) {
        debug_assert!(now.mono_ms >= self.now.mono_ms);
        self.now = now;
        match input {
            Input::Received { conn, bytes } => self.received(conn, bytes, outbox),
            Input::Written { conn, bytes } => self.written(conn, bytes, outbox),
            Input::Mesh { from, message } => self.mesh(from, message, outbox),
            Input::Tick => self.tick(outbox),
            Input::FanOut => self.fan_out_piece(outbox),
            Input::Accepted { conn } => self.accepted(conn, outbox),
            Input::Identified { conn, username } => self.identified(conn, username),
            Input::Demanded { conn, demand } => self.demanded(conn, demand),
            Input::Verdict { conn, verdict } => self.verdict(conn, verdict, outbox),
            Input::Rules { rules, shadow } => self.set_rules(rules, shadow),
            Input::Withdrawn(accounts) => self.withdraw(accounts, outbox),
            Input::HandedOver { conn, unread } => self.handed_over(conn, unread, outbox),
            Input::Closed { conn, cause } => {
                let what = match cause {
                    CloseCause::PeerClosed => "the client closed the connection",
                    CloseCause::Reset => "the connection was reset",
                    CloseCause::Asked => "closed by the broker",
                    CloseCause::LingerExpired => {
                        "closed by the broker; its last bytes were not read"
                    }
                    CloseCause::Transport(what) => {
                        self.transport_failed(conn, what, outbox);
                        what
                    }
                };
                self.closed(conn, what, outbox);
            }
            Input::Link { to, pressure } => self.link(to, pressure, outbox),
            Input::StorePressure(pressure) => self.set_store_pressure(pressure),
            Input::Memory(level) => self.memory(level, outbox),
            Input::Limits(limits) => self.limits = Arc::clone(limits),
            Input::Committed { up_to, refused } => self.committed(up_to, refused, outbox),
            Input::Fetched { token, messages } => self.fetched(token, messages, outbox),
            Input::StoreState { accepting } => self.store_state(accepting),
            Input::Shutdown => self.shutdown(outbox),
        }
        while let Some((conn, end)) = self.to_end.pop() {
            self.end_connection(conn, end, outbox);
        }
        if self.keeper.is_on() {
            while !self.keeper.answers.is_empty() || !self.keeper.over.is_empty() {
                self.send_answers(outbox);
                self.settle_over(outbox);
            }
            self.keeper.send_ends(outbox);
        }
        self.tell_drops(outbox);
        self.tell_denials(outbox);
    }

    /// Monotonic milliseconds at which `Input::Tick` is due, if anything is timed.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.wheel.is_due() {
            return Some(self.now.mono_ms);
        }
        let timer_ms = self.wheel.next_deadline_ms();
        match (self.tells_drops_at_ms(), self.guard.tells_at_ms()) {
            (None, None) => timer_ms,
            (drops_ms, denials_ms) => [timer_ms, drops_ms, denials_ms].into_iter().flatten().min(),
        }
    }

    /// The bytes that wait for the connection's socket, in wire order; nothing for a dead key.
    pub fn outbound(&self, conn: ConnKey) -> impl Iterator<Item = &[u8]> {
        let conn = self.conn(conn).filter(|conn| !conn.is_corked);
        let outbound = conn.and_then(|conn| conn.outbound.as_deref());
        outbound.map_or_else(outbound::Slices::default, |outbound| {
            outbound.slices(&self.pool)
        })
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sessions, connected or not.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Retained messages this shard knows: all of the broker's.
    pub fn retained_count(&self) -> usize {
        self.retained.count()
    }

    /// Answers to clients and messages to them that wait for the store or for other shards.
    pub fn waiting_count(&self) -> usize {
        self.keeper.waits.len() + self.keeper.storing.len()
    }

    /// Bytes of the messages in all queues, each charged to every queue that holds it.
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// The next number of a sequence that clients cannot guess.
    fn next_random(&mut self) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

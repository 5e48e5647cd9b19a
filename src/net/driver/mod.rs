//! The turn: how a core's shard, its sockets and its links are driven.
//!
//! One task per core calls [`Driver::turn`] for ever. A turn
//!
//! 1. takes the time once, and tells the shard when one of its deadlines is due;
//! 2. lets the ring work, which is when bytes are received;
//! 3. drains the links from the other cores, always and bounded by their size, whatever the outgoing links
//!    look like: that is what keeps two cores from waiting for each other. It comes after the receiving and before
//!    the feeding, and links are flushed before sockets are written: so what a client sends after it has seen an
//!    acknowledgement from another core meets everything that core had sent here before (unless the link was full);
//! 4. feeds the ring's completions to the shard, those of who sends much last (`waiting`);
//! 5. brings on what is under way to very many, for at most `FAN_OUT_TIME`, unless the line of step 7 is long;
//! 6. flushes: one group of records to the store, one batch per link, one write per connection that has something, closes;
//! 7. writes to those who may wait, for at most `LATER_TIME`: a message for very many leaves over several turns, so that others
//!    are served in between;
//! 8. arms the receives that have ended and are still wanted.
//!
//! Step 6 also happens in between, at the earliest when [`FLUSH_BYTES`] of input were fed, so that what one publisher sends
//! to many subscribers leaves while it is still in the cache; but not before the writes are worth their system calls, as long
//! as that does not take four times as much (`Driver::flush_if_much_was_fed`). Who sends much is fed for at most `BULK_TIME` a turn.
//!
//! # Receiving
//!
//! An accepted connection is read with receives that complete once until bytes were written to it; from
//! then on it is *settled* on this core, and one multishot receive stays armed. A shard passes a connection on
//! to the owner of its session only in answer to that connection's own bytes and before it has written any, so
//! no operation is in flight on a socket that leaves and nothing has to be cancelled. A connection that was handed
//! over to this core is settled from the start, as is each on the only core.
//!
//! Who fills a receive buffer sends much, and from then on is not received from but read: it is waited for until it is readable, and a
//! call takes what is there, up to 256 KB, as much as the packet that has begun still lacks and some more
//! (`Shard::expected_bytes`). A large packet, or some of a few KB, so come in one piece, while they are in the cache, and the
//! peer is told once that there is room. Those who send much take turns of [`FLUSH_BYTES`]. Who is read and has little is
//! received from again.
//!
//! When a link's pressure is [`Pressure::Hard`] nothing that was received is fed: the completions wait in their order,
//! with their buffers, until the pressure falls. That is bounded by the number of buffers, because a receive
//! without a buffer ends.
//!
//! The same holds while the store is behind: what it has to write is bounded.
//!
//! # Starting
//!
//! Nobody is let in before every core has what the store had, and knows what the others are interested in: a message that a
//! recovered session of another core wants must not pass it by. So each core listens when all have said that they are ready.
//!
//! # Through transports
//!
//! A connection with TLS, WebSocket or a PROXY header goes through its [`Transport`](super::transport::Transport)
//! (`through`): what is received before it is fed, what is outbound before it is written. Its handshake is answered in
//! between, so that such a socket is written to before it may move; it counts as settled only when the shard has
//! written. Handshakes are expensive: a turn takes [`HANDSHAKES_PER_TURN`] of their steps, and the others wait in
//! order, their bytes set aside and their sockets unread, while everybody else goes on.
//!
//! # Closing
//!
//! What the shard has left for the peer is written, for at most [`LINGER_MS`], longer while bytes are moving. Then our
//! side is shut and the shard is told; what still arrives is discarded until the peer shuts its side too or
//! [`LINGER_MS`] have passed. Closing at once would answer the peer's unread bytes with a reset, and that could
//! destroy the CONNACK or DISCONNECT that tells the peer why. A slot is free only when the completions of all
//! operations on its socket are in.
//!
//! # Sleeping
//!
//! A turn with nothing to do is followed by [`Driver::sleep`], which looks everywhere once more after it has
//! declared the core parked (`mesh::wake` says why) and then waits in the ring, until the next deadline at the latest. The
//! core's eventfd is one of the ring's operations, so there is one place to wait in and one system call for it.
//!
//! A panic while a turn handles a connection ends the process: in release builds it aborts, and
//! `server::cores` ends the process when a core ends by itself. There is no state worth keeping in a core whose
//! invariants are broken.

mod admit;
#[cfg(test)]
mod admit_tests;
mod auth;
mod close;
mod flush;
#[cfg(test)]
mod pressure_tests;
mod receive;
#[cfg(test)]
mod tests;
mod through;
#[cfg(test)]
mod through_tests;
mod waiting;

use super::counters::NetCounters;
use super::events::LogSink;
use super::listener::{Listener, Reserve};
use super::live::Live;
use super::ring::{Completion, Key, Ring, RingError};
use super::sockets::Sockets;
use super::transport::Scratch;
use crate::access::RulesInForce;
use crate::auth::pool::AuthLink;
use crate::config::limits::Limits;
use crate::mesh::link::{LinkMessage, Links};
use crate::mesh::wake::Wake;
use crate::shard::Shard;
use crate::shard::budget::MemoryLevel;
use crate::shard::input::{ConnKey, Input, Now, Pressure, ShardId};
use crate::shard::mesh_message::MeshMessage;
use crate::shard::message::Message;
use crate::shard::outbox::{Event, Outbox};
use crate::store::port::{News, StoreLink};
use admit::Listening;
use close::Linger;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use waiting::Waiting;

/// Bytes fed to the shard, or sent to it over links, after which output may be flushed within a turn.
pub const FLUSH_BYTES: usize = 64 << 10;
/// How long a turn feeds what waits: so long others wait for the next turn.
const BULK_TIME: Duration = Duration::from_millis(4);
/// How long a turn writes to those who may wait. In tests it writes to one of them, so that they go over many turns.
const LATER_TIME: Duration = match cfg!(any(test, debug_assertions)) {
    true => Duration::ZERO,
    false => Duration::from_millis(2),
};
/// How long a turn brings on what is under way to very many. In tests it does so once.
const FAN_OUT_TIME: Duration = LATER_TIME;
/// Connections in the line of those who may wait from which on it gets no longer, so that a message to everybody does not take memory for
/// everybody at once.
const LATER_MAX: usize = 4_096;
/// Bytes fed in a turn below which the turn is called light.
const LIGHT_BYTES: usize = 16 << 10;
/// Time a connection has to take its last bytes, and then to shut its side.
pub const LINGER_MS: u64 = 1_000;
/// Steps of TLS handshakes per turn: about a millisecond of them.
pub const HANDSHAKES_PER_TURN: usize = 4;
/// The longest sleep of a core that has nothing to wait for.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// Calls to the kernel per turn while it says that it has more: it does about twenty completions per call.
const SUBMITS_PER_TURN: usize = 4;

/// The state machine that a driver drives: a shard, or in tests something simpler.
pub trait StateMachine {
    /// See `Shard::handle`.
    fn handle(&mut self, now: Now, input: Input<'_>, outbox: &mut Outbox);
    /// See `Shard::next_deadline`.
    fn next_deadline(&self) -> Option<u64>;
    /// See `Shard::is_fanning_out`.
    fn is_fanning_out(&self) -> bool;
    /// See `Shard::outbound`.
    fn outbound(&self, conn: ConnKey) -> impl Iterator<Item = &[u8]>;
    /// See `Shard::is_ready`.
    fn is_ready(&self) -> bool;
    /// See `Counters::acked_not_durable`.
    fn acked_not_durable(&self) -> u64;
    /// See `Shard::expected_bytes`.
    fn expected_bytes(&self, conn: ConnKey) -> usize;
    /// About how many bytes of PUBLISH packets were ever made for the connections.
    fn made_bytes(&self) -> u64;
}

impl StateMachine for Shard {
    fn handle(&mut self, now: Now, input: Input<'_>, outbox: &mut Outbox) {
        Self::handle(self, now, input, outbox);
    }

    fn next_deadline(&self) -> Option<u64> {
        Self::next_deadline(self)
    }

    fn is_fanning_out(&self) -> bool {
        Self::is_fanning_out(self)
    }

    fn outbound(&self, conn: ConnKey) -> impl Iterator<Item = &[u8]> {
        Self::outbound(self, conn)
    }

    fn is_ready(&self) -> bool {
        Self::is_ready(self)
    }

    fn acked_not_durable(&self) -> u64 {
        self.counters().acked_not_durable
    }

    fn expected_bytes(&self, conn: ConnKey) -> usize {
        Self::expected_bytes(self, conn)
    }

    fn made_bytes(&self) -> u64 {
        /// A topic, and what stands before it.
        const HEAD_BYTES: u64 = 32;
        let counters = self.counters();
        counters.publish_bytes_sent + HEAD_BYTES * counters.publish_sent
    }
}

/// What a driver is made from, beside its state machine.
#[derive(Debug)]
pub struct DriverSetup {
    /// The shard's number.
    pub id: ShardId,
    /// Where it accepts connections; bound, not yet listening.
    pub listeners: Vec<Listener>,
    /// Its links to and from all other cores.
    pub links: Links,
    /// What wakes it.
    pub wake: Arc<Wake>,
    /// How it is told to stop; shared by all cores.
    pub shutdown: Arc<Shutdown>,
    /// What can be replaced while it runs; shared by all cores.
    pub live: Arc<Live>,
    /// Where the shard's events go, if they are wanted.
    pub log: Option<LogSink>,
    /// Its way to those who judge clients, if there are any.
    pub auth: Option<AuthLink>,
    /// Its end of the store, if there is one.
    pub store: Option<StoreLink>,
    /// What the shard wants done from its recovery.
    pub outbox: Outbox,
    /// Where it counts.
    pub counters: Arc<NetCounters>,
}

/// The request that all cores stop, and how far they are.
#[derive(Debug)]
pub struct Shutdown {
    requested: AtomicBool,
    timeout_ms: AtomicU64,
    /// Cores that have recovered and know the others' interest.
    ready: AtomicUsize,
    /// Cores that have no sockets and owe the others nothing.
    drained: AtomicUsize,
    wakes: Vec<Arc<Wake>>,
}

impl Shutdown {
    /// For the cores with these wakes; not requested.
    pub fn new(wakes: Vec<Arc<Wake>>) -> Self {
        Self {
            requested: AtomicBool::new(false),
            timeout_ms: AtomicU64::new(0),
            ready: AtomicUsize::new(0),
            drained: AtomicUsize::new(0),
            wakes,
        }
    }

    /// Asks all cores to close their connections and end, after `timeout` at the latest.
    pub fn request(&self, timeout: Duration) {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.timeout_ms.store(timeout_ms, Ordering::Relaxed);
        self.requested.store(true, Ordering::Release);
        self.wakes.iter().for_each(|wake| wake.wake());
    }

    /// Whether the cores were asked to end.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    fn report_ready(&self) {
        self.ready.fetch_add(1, Ordering::AcqRel);
        self.wakes.iter().for_each(|wake| wake.wake());
    }

    fn all_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) >= self.wakes.len()
    }

    fn report_drained(&self) {
        self.drained.fetch_add(1, Ordering::AcqRel);
        self.wakes.iter().for_each(|wake| wake.wake());
    }

    fn all_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire) >= self.wakes.len()
    }
}

/// What a turn found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something to do: there may be more.
    Busy,
    /// Little to do: this core is ahead of those it serves.
    Light,
    /// Nothing to do.
    Idle,
    /// The core was asked to stop and has.
    Finished,
}

/// One core's driver. It stays on its thread, as its ring does.
pub struct Driver<S> {
    shard: S,
    id: ShardId,
    now: Now,
    ring: Ring,
    sockets: Sockets,
    listeners: Vec<Listening>,
    reserve: Reserve,
    links: Links,
    wake: Arc<Wake>,
    shutdown: Arc<Shutdown>,
    live: Arc<Live>,
    /// The version of the parts this core has.
    live_version: u64,
    limits: Arc<Limits>,
    /// What the shard was last told.
    memory: MemoryLevel,
    core_count: u32,
    /// How far accepting is ahead of its rates, in monotonic nanoseconds.
    accept_clock_ns: u64,
    handshake_clock_ns: u64,
    log: Option<LogSink>,
    auth: Option<AuthLink>,
    rules: RulesInForce,
    store: Option<StoreLink>,
    counters: Arc<NetCounters>,
    outbox: Outbox,
    waiting: Waiting,
    /// Connections that send much and are readable, in order; those whose receive is not `InLine` any more have left.
    readable: VecDeque<ConnKey>,
    /// Connections whose receive has ended; armed again at the end of the turn if it is wanted.
    to_arm: Vec<ConnKey>,
    /// Connections whose full socket has room again.
    writable: Vec<ConnKey>,
    /// Where transports work.
    layers: Scratch,
    /// Connections whose handshake waits for a later turn, in order.
    handshakes: VecDeque<ConnKey>,
    /// Steps of handshakes that this turn may still take.
    handshakes_left: usize,
    /// Connections that may be written to in a later turn, in order. Those that were written to meanwhile are among them.
    later: VecDeque<ConnKey>,
    /// Connections that the shard asked to close in this turn, or to pause although a write to them has failed.
    closing: Vec<ConnKey>,
    /// Connections with a time limit, by ascending time.
    lingering: VecDeque<Linger>,
    /// Reused by `flush`.
    scratch: Vec<ConnKey>,
    /// Links to which something was sent since they were flushed; a bit per shard.
    links_sent: u64,
    /// Links that have to be flushed even so.
    links_waiting: u64,
    /// Links whose pressure is hard.
    links_hard: u64,
    /// What the shard was last told.
    store_is_full: bool,
    /// Bytes fed since the last flush.
    fed_bytes: usize,
    /// `made_bytes` of the shard at the last flush.
    made_bytes: u64,
    /// When to end, finished or not; set once the shutdown has begun.
    stop_at_ms: Option<u64>,
    start: Start,
    reported_drained: bool,
}

/// How far a core is with its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// The others do not know its interest yet.
    Recovering,
    /// It has said that it is ready.
    Ready,
    /// All are ready: it listens.
    Listening,
}

impl<S: StateMachine> Driver<S> {
    /// A driver on the calling thread, which listens as soon as all cores are ready.
    ///
    /// Errors: what the kernel refused.
    pub fn new(setup: DriverSetup, mut ring: Ring, shard: S, now: Now) -> Result<Self, RingError> {
        let step = |step| move |source| RingError::Other { step, source };
        let DriverSetup {
            id,
            listeners,
            links,
            wake,
            shutdown,
            live,
            log,
            auth,
            store,
            outbox,
            counters,
        } = setup;
        let core_count = u32::try_from(links.receivers.len() + 1).expect("at most 64 cores");
        ring.watch(wake.eventfd());
        let listeners = listeners.into_iter().map(Listening::new).collect();
        Ok(Self {
            shard,
            id,
            now,
            ring,
            sockets: Sockets::default(),
            listeners,
            reserve: Reserve::new().map_err(step("opening /dev/null"))?,
            links,
            wake,
            shutdown,
            // Another one, so that the first turn tells the shard all of them.
            live_version: live.version().wrapping_sub(1),
            limits: live.parts().limits,
            memory: MemoryLevel::Ample,
            core_count,
            accept_clock_ns: 0,
            handshake_clock_ns: 0,
            live,
            log,
            auth,
            rules: RulesInForce::default(),
            store,
            counters,
            outbox,
            waiting: Waiting::default(),
            readable: VecDeque::new(),
            to_arm: Vec::new(),
            writable: Vec::new(),
            layers: Scratch::default(),
            handshakes: VecDeque::new(),
            handshakes_left: 0,
            later: VecDeque::new(),
            closing: Vec::new(),
            lingering: VecDeque::new(),
            scratch: Vec::new(),
            links_sent: 0,
            links_waiting: 0,
            links_hard: 0,
            store_is_full: false,
            fed_bytes: 0,
            made_bytes: 0,
            stop_at_ms: None,
            start: Start::Recovering,
            reported_drained: false,
        })
    }

    /// Does what there is to do; never waits.
    ///
    /// Errors: the ring is useless; the core cannot go on.
    pub fn turn(&mut self, now: Now) -> io::Result<Turn> {
        self.now = now;
        self.look_at_live();
        let mut busy = self.look_at_shutdown();
        busy |= self.look_at_start()?;
        busy |= self.look_at_clock();
        for _ in 0..SUBMITS_PER_TURN {
            self.ring.submit()?;
            if !self.ring.has_deferred_work() {
                break;
            }
        }
        busy |= self.drain_links();
        busy |= self.drain_store();
        busy |= self.look_at_store();
        busy |= self.drain_auth();
        busy |= self.continue_handshakes();
        while let Some(completion) = self.ring.next_completion() {
            busy = true;
            self.complete(completion);
            self.flush_if_much_was_fed();
        }
        self.feed_waiting();
        let is_light = self.fed_bytes < LIGHT_BYTES;
        busy |= self.fan_out();
        self.flush();
        self.write_later();
        self.arm_receives();
        self.counters.turns.add(u64::from(busy));
        busy |= !self.outbox.is_empty() || !self.writable.is_empty() || self.can_feed_waiting();
        busy |= !self.later.is_empty() || !self.closing.is_empty();
        busy |= !self.handshakes.is_empty() && !self.hard_pressure();
        Ok(if self.is_finished() {
            Turn::Finished
        } else if busy && is_light {
            Turn::Light
        } else if busy {
            Turn::Busy
        } else {
            Turn::Idle
        })
    }

    /// Waits until there is something to do: a completion, something from another thread, a deadline. It may also
    /// return for nothing.
    ///
    /// Errors: as [`Driver::turn`].
    pub fn sleep(&mut self) -> io::Result<()> {
        self.wake.parking().park();
        let waited = if self.may_sleep() {
            self.counters.parks.add(1);
            self.ring.wait(self.until_deadline())
        } else {
            Ok(())
        };
        self.wake.parking().unpark();
        waited
    }

    /// Whether no other thread has something for this core, which has just declared itself parked.
    fn may_sleep(&mut self) -> bool {
        let mut stay = self
            .links
            .receivers
            .iter()
            .any(|(_, receiver)| !receiver.is_empty());
        stay |= self.store.as_ref().is_some_and(StoreLink::has_news);
        stay |= self.auth.as_ref().is_some_and(AuthLink::has_news);
        stay |= self.start == Start::Ready && self.shutdown.all_ready();
        stay |= self.shutdown.is_requested() && self.stop_at_ms.is_none();
        stay |= self.live.version() != self.live_version || self.live.memory() != self.memory;
        stay |= self.reported_drained && self.shutdown.all_drained();
        // After `park`, as `LinkSender::flush` asks.
        stay |= self.flush_links();
        // What the store gives up makes room without news.
        stay |= self.look_at_store();
        !stay
    }

    /// Gives `input` to the shard and does at once what cannot wait for the flush.
    fn tell(&mut self, input: Input<'_>) {
        self.shard.handle(self.now, input, &mut self.outbox);
        self.absorb();
    }

    /// Takes from the outbox what must be in force before the next input: a connection that leaves or is
    /// closed must not be fed any more.
    fn absorb(&mut self) {
        if !self.outbox.auth_failures.is_empty() {
            self.count_auth_failures();
        }
        if !self.outbox.events.is_empty() {
            self.log_events();
        }
        for at in 0..self.outbox.close.len() {
            self.begin_close(self.outbox.close[at]);
        }
        self.outbox.close.clear();
        if !self.outbox.handover.is_empty() {
            for handover in std::mem::take(&mut self.outbox.handover) {
                self.hand_over(handover);
            }
        }
        for at in 0..self.outbox.pause.len() {
            self.pause(self.outbox.pause[at]);
        }
        self.outbox.pause.clear();
        for at in 0..self.outbox.resume.len() {
            self.resume(self.outbox.resume[at]);
        }
        self.outbox.resume.clear();
        if !self.outbox.auth.is_empty() {
            self.ask_about_clients();
        }
    }

    fn log_events(&mut self) {
        let Some(log) = self.log.clone() else {
            return self.outbox.events.clear();
        };
        for event in std::mem::take(&mut self.outbox.events) {
            log.put(self.now.mono_ms, event, |event| match event {
                Event::ClientConnected { conn, .. }
                | Event::ConnectRefused { conn, .. }
                | Event::ClientDisconnected { conn, .. }
                | Event::ClientTakeover { new: conn, .. }
                | Event::Banned { conn, .. }
                | Event::Limited { conn, .. } => self.peer(*conn),
                Event::Dropped { .. } | Event::Denied { .. } | Event::TurnedAway { .. } => None,
            });
        }
    }

    /// Tells the shard how short memory is, when that has changed.
    pub(super) fn look_at_memory(&mut self) {
        let memory = self.live.measure_memory();
        if memory != self.memory {
            self.memory = memory;
            self.tell(Input::Memory(memory));
        }
    }

    /// Takes the parts that the server has replaced.
    fn look_at_live(&mut self) {
        self.look_at_memory();
        let version = self.live.version();
        if version == self.live_version {
            return;
        }
        self.live_version = version;
        let parts = self.live.parts();
        for (listening, door) in self.listeners.iter_mut().zip(parts.doors) {
            listening.listener.set_door(door);
        }
        self.tell_rules(parts.rules);
        if !parts.withdrawn.is_empty() {
            self.tell(Input::Withdrawn(parts.withdrawn));
        }
        self.tell(Input::Limits(&parts.limits));
        self.set_limits(parts.limits);
    }

    /// Whether clients are let in: all cores were ready.
    pub fn is_listening(&self) -> bool {
        self.start == Start::Listening
    }

    /// Listens when all cores are ready.
    fn look_at_start(&mut self) -> io::Result<bool> {
        match self.start {
            Start::Listening => return Ok(false),
            Start::Recovering if self.shard.is_ready() && self.outbox.is_empty() => {
                self.start = Start::Ready;
                self.shutdown.report_ready();
            }
            Start::Recovering => return Ok(false),
            Start::Ready => {}
        }
        if !self.shutdown.all_ready() || self.stop_at_ms.is_some() {
            return Ok(false);
        }
        self.start = Start::Listening;
        for listening in &mut self.listeners {
            listening.listener.listen()?;
            listening.accept_at_ms = Some(self.now.mono_ms);
        }
        Ok(true)
    }

    /// Begins the shutdown when it was asked for.
    fn look_at_shutdown(&mut self) -> bool {
        if self.stop_at_ms.is_some() || !self.shutdown.is_requested() {
            return false;
        }
        let timeout_ms = self.shutdown.timeout_ms.load(Ordering::Relaxed);
        self.stop_at_ms = Some(self.now.mono_ms.saturating_add(timeout_ms));
        for (index, listening) in self.listeners.iter_mut().enumerate() {
            listening.accept_at_ms = None;
            if listening.armed > 0 {
                self.ring.cancel_accept(listener_key(index));
            }
        }
        self.tell(Input::Shutdown);
        true
    }

    /// Whether the shutdown is over: all cores have nothing left, or the time is up.
    fn is_finished(&mut self) -> bool {
        let Some(stop_at_ms) = self.stop_at_ms else {
            return false;
        };
        let is_drained = self.sockets.is_empty()
            && self.links_waiting == 0
            && self.links_sent == 0
            && self.outbox.is_empty()
            && self.listeners.iter().all(|listening| listening.armed == 0);
        if is_drained && !self.reported_drained {
            self.reported_drained = true;
            self.shutdown.report_drained();
        }
        self.shutdown.all_drained() || self.now.mono_ms >= stop_at_ms
    }

    /// Does what is due.
    fn look_at_clock(&mut self) -> bool {
        let mono_ms = self.now.mono_ms;
        let mut busy = false;
        if self
            .shard
            .next_deadline()
            .is_some_and(|deadline_ms| deadline_ms <= mono_ms)
        {
            self.tell(Input::Tick);
            busy = true;
        }
        busy |= self.arm_accepts();
        busy | self.end_lingers()
    }

    /// Time from this turn's to the next deadline.
    fn until_deadline(&self) -> Duration {
        let lingering = self.lingering.front().map(|linger| linger.until_ms);
        let accepting = self.listeners.iter();
        let deadlines = [
            self.shard.next_deadline(),
            lingering,
            accepting
                .filter_map(|listening| listening.accept_at_ms)
                .min(),
            self.stop_at_ms,
        ];
        let next_ms = deadlines.into_iter().flatten().min();
        next_ms.map_or(SLEEP_MAX, |at_ms| {
            Duration::from_millis(at_ms.saturating_sub(self.now.mono_ms)).min(SLEEP_MAX)
        })
    }

    fn drain_links(&mut self) -> bool {
        let mut busy = false;
        for at in 0..self.links.receivers.len() {
            // Bounded: what comes while we take is for the next turn.
            for _ in 0..self.links.receivers[at].1.capacity() {
                let (from, receiver) = &mut self.links.receivers[at];
                let from = *from;
                let Some(message) = receiver.take() else {
                    break;
                };
                busy = true;
                match message {
                    LinkMessage::Shard(message) => {
                        self.fed_bytes += match &message {
                            MeshMessage::Publish { message, .. } => message.bytes(),
                            MeshMessage::Batch(batch) => batch.bytes(),
                            _ => 0,
                        };
                        self.tell(Input::Mesh { from, message });
                    }
                    LinkMessage::Handover(socket) => self.take_over(*socket),
                }
                self.flush_if_much_was_fed();
            }
            self.links.receivers[at].1.release();
        }
        busy
    }

    /// Tells the shard what the store says.
    fn drain_store(&mut self) -> bool {
        let Some(store) = &mut self.store else {
            return false;
        };
        if !store.has_news() {
            return false;
        }
        let News {
            settled,
            refused,
            fetched,
            accepting,
        } = store.poll();
        if let Some(up_to) = settled {
            let refused = &refused;
            self.tell(Input::Committed { up_to, refused });
            if let Some(store) = &self.store {
                store.report_early(self.shard.acked_not_durable());
            }
        }
        // Behind what was refused until then.
        if let Some(accepting) = accepting {
            self.tell(Input::StoreState { accepting });
        }
        for (token, messages) in fetched {
            self.fed_bytes += messages
                .iter()
                .map(|(_, message)| message.as_ref().map_or(0, Message::bytes))
                .sum::<usize>();
            self.tell(Input::Fetched { token, messages });
            self.flush_if_much_was_fed();
        }
        true
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Received {
                key,
                received,
                more,
            } => {
                self.received(conn_key(key), received, more);
            }
            Completion::Writable { key } => self.socket_writable(conn_key(key)),
            Completion::Accepted { key, socket, more } => self.accepted(key, socket, more),
            Completion::Woken { more: true } => {}
            Completion::Woken { more: false } => self.ring.watch(self.wake.eventfd()),
            // A broker's driver connects to nobody.
            Completion::Connected { .. } => {}
        }
    }

    /// Whether what was received must wait: for another core, or for the disk.
    fn hard_pressure(&self) -> bool {
        self.links_hard != 0 || self.store_is_full
    }

    fn note_pressure(&mut self, to: ShardId, pressure: Pressure) {
        let bit = 1 << to.index();
        match pressure {
            Pressure::Hard => self.links_hard |= bit,
            Pressure::Low | Pressure::Soft => self.links_hard &= !bit,
        }
        self.tell(Input::Link { to, pressure });
    }
}

fn listener_key(index: usize) -> Key {
    Key {
        index: u32::try_from(index).expect("a process has few listeners"),
        generation: 0,
    }
}

fn conn_key(key: Key) -> ConnKey {
    ConnKey {
        index: key.index,
        generation: key.generation,
    }
}

fn ring_key(conn: ConnKey) -> Key {
    Key {
        index: conn.index,
        generation: conn.generation,
    }
}

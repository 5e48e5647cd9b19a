//! Who comes in: the limits on connections, and what is told of those who do not.
//!
//! A multishot accept takes in all who wait, whatever their number, before a turn can look at them. So where connections
//! have a rate, accepts are armed that take in one each, no more than may come now.

use super::{Driver, StateMachine, listener_key};
use crate::config::limits::{Limits, NO_LIMIT};
use crate::config::listener::Bind;
use crate::net::admission::Newcomer;
use crate::net::listener::{Listener, is_shortage};
use crate::net::ring::Key;
use crate::net::transport::Admitted;
use crate::shard::budget::MemoryLevel;
use crate::shard::input::{CloseCause, ConnKey, Input};
use crate::shard::limited::Limit;
use crate::shard::outbox::Event;
use crate::shard::rate::{advance, room};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Pause before accepting again when descriptors are short.
pub(super) const ACCEPT_PAUSE_MS: u64 = 50;
/// Accepts in flight at a listener whose connections have a rate: so many come in per turn.
const ACCEPTS_MAX: u32 = 16;

/// A listener and its accepts.
pub(super) struct Listening {
    pub(super) listener: Listener,
    /// Accepts in flight: one multishot, or some that take in one connection each.
    pub(super) armed: u32,
    /// When to arm more.
    pub(super) accept_at_ms: Option<u64>,
}

impl Listening {
    pub(super) fn new(listener: Listener) -> Self {
        Self {
            listener,
            armed: 0,
            accept_at_ms: None,
        }
    }

    fn pause(&mut self, until_ms: u64) {
        self.accept_at_ms = self.accept_at_ms.max(Some(until_ms));
    }
}

impl<S: StateMachine> Driver<S> {
    /// Accepts where it is time to; whether it was anywhere.
    pub(super) fn arm_accepts(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.listeners.len() {
            let [rate, handshake_rate] = self.accept_rates(index);
            let listening = &mut self.listeners[index];
            if listening
                .accept_at_ms
                .is_none_or(|at_ms| at_ms > self.now.mono_ms)
            {
                continue;
            }
            listening.accept_at_ms = None;
            busy = true;
            let now_ns = self.now.mono_ms * 1_000_000;
            let handshakes = room(self.handshake_clock_ns, now_ns, handshake_rate);
            let may_come = room(self.accept_clock_ns, now_ns, rate).min(handshakes);
            let key = listener_key(index);
            if may_come == NO_LIMIT {
                if listening.armed == 0 {
                    self.ring.accept(&listening.listener, key);
                    listening.armed = 1;
                }
                continue;
            }
            // At least one: who comes first beyond the rate is let in and begins the pause.
            while listening.armed < may_come.clamp(1, ACCEPTS_MAX) {
                self.ring.accept_once(&listening.listener, key);
                listening.armed += 1;
            }
        }
        busy
    }

    /// An accept has a connection, or has failed.
    pub(super) fn accepted(&mut self, key: Key, socket: io::Result<OwnedFd>, more: bool) {
        let stopping = self.stop_at_ms.is_some();
        let now_ms = self.now.mono_ms;
        let listening = &mut self.listeners[key.index as usize];
        if !more {
            listening.armed -= 1;
            if !stopping && listening.accept_at_ms.is_none() {
                listening.accept_at_ms = Some(now_ms);
            }
        }
        match socket {
            Ok(socket) if !stopping => {
                self.counters.accepted.add(1);
                self.admit(key, socket);
            }
            // It closes here: nobody is accepted any more.
            Ok(_) => {}
            Err(_) if stopping => {}
            // By us: what is armed next, and when, is decided.
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => {
                if is_shortage(&error) && !more {
                    let refused = self.reserve.refuse(&listening.listener);
                    self.counters.refused.add(refused as u64);
                }
                // Most others are the newcomer's own failure (ECONNABORTED and the like): go on. For an error that
                // stays, the pause keeps the core from doing nothing else.
                listening.pause(now_ms + ACCEPT_PAUSE_MS);
            }
        }
    }

    /// Puts other limits in force. Who waits for its time at an old rate waits no longer.
    pub(super) fn set_limits(&mut self, limits: Arc<Limits>) {
        let rates = |limits: &Limits| (limits.connect_rate_max, limits.handshake_rate_max);
        let is_other_pace = rates(&self.limits) != rates(&limits);
        self.limits = limits;
        if !is_other_pace || !self.is_listening() || self.stop_at_ms.is_some() {
            return;
        }
        // A rate begins with a second's worth.
        (self.accept_clock_ns, self.handshake_clock_ns) = (0, 0);
        for (index, listening) in self.listeners.iter_mut().enumerate() {
            // What is in flight is what the old rate allowed.
            if listening.armed > 0 {
                self.ring.cancel_accept(listener_key(index));
            }
            listening.accept_at_ms = Some(self.now.mono_ms);
        }
    }

    /// Takes in a new connection, unless a limit or its listener's lists are against it.
    pub(super) fn admit(&mut self, listener: Key, socket: OwnedFd) {
        self.pace_accepts(listener);
        let index = listener.index as usize;
        let door = self.listeners[index].listener.door().clone();
        if self.memory == MemoryLevel::Exhausted {
            return self.turn_away(Limit::Memory, peer_of(&socket));
        }
        let is_plain = door.is_plain();
        let admission = self.live.admission();
        // Where nobody asks for it, the system is not asked either.
        let wants_peer = !is_plain || admission.wants_address(&self.limits, &door);
        let peer = wants_peer.then(|| peer_of(&socket)).flatten();
        // Who resets the connection before it is accepted has no address any more, but what it sent is still there to be
        // read: neither a list nor a ban may take it for somebody on a unix socket.
        if wants_peer && peer.is_none() && matches!(door.spec().bind, Bind::Tcp(_)) {
            return self.counters.turned_away.add(1);
        }
        let newcomer = Newcomer {
            listener: index,
            address: peer
                .map(|peer| peer.ip())
                .filter(|_| !door.is_behind_proxy()),
            now_ms: self.now.mono_ms,
        };
        let permit = match admission.admit(&self.limits, &door, newcomer) {
            Ok(permit) => permit,
            Err(limit) => return self.turn_away(limit, peer_of(&socket)),
        };
        let transport = if is_plain {
            None
        } else {
            match door.admit(peer) {
                Some(Admitted::Plain) => None,
                Some(Admitted::Through(transport)) => Some(transport),
                None => return self.counters.turned_away.add(1),
            }
        };
        // With nowhere to move to it is settled at once.
        let is_settled = is_plain && self.core_count == 1;
        if let Some(conn) = self.sockets.insert(socket, transport) {
            if let Some(socket) = self.sockets.get(conn).filter(|_| is_settled) {
                socket.settle();
            }
            self.sockets.set_permit(conn, permit);
            let listener = u16::try_from(index).expect("a process has few listeners");
            self.sockets.set_listener(conn, listener);
            self.tell(Input::Accepted { conn });
            self.demand(conn);
            self.to_arm.push(conn);
        }
    }

    /// How many connections per second this core may accept at a listener, and how many of TLS.
    fn accept_rates(&self, index: usize) -> [u32; 2] {
        // The kernel spreads connections over the cores evenly.
        let share = |rate: u32| match rate {
            NO_LIMIT => NO_LIMIT,
            rate => rate.div_ceil(self.core_count),
        };
        let has_tls = self.listeners[index].listener.door().tls().is_some();
        let handshake_rate = if has_tls {
            self.limits.handshake_rate_max
        } else {
            NO_LIMIT
        };
        [share(self.limits.connect_rate_max), share(handshake_rate)]
    }

    /// Stops to accept for a while when connections come faster than they may. They wait in the kernel's queue.
    fn pace_accepts(&mut self, listener: Key) {
        let index = listener.index as usize;
        let [rate, handshake_rate] = self.accept_rates(index);
        let now_ns = self.now.mono_ms * 1_000_000;
        let over_ns = advance(&mut self.accept_clock_ns, now_ns, 1, rate);
        let handshakes_over_ns = advance(&mut self.handshake_clock_ns, now_ns, 1, handshake_rate);
        let over_ns = over_ns.max(handshakes_over_ns);
        if over_ns == 0 || self.stop_at_ms.is_some() {
            return;
        }
        self.counters.accepts_paced.add(1);
        let listening = &mut self.listeners[index];
        listening.pause(self.now.mono_ms + over_ns.div_ceil(1_000_000));
        if listening.armed > 0 {
            self.ring.cancel_accept(listener);
        }
    }

    /// A proxy has named the peer of a connection that has been let in on its word alone.
    pub(super) fn peer_named(&mut self, conn: ConnKey, peer: SocketAddr) {
        let listening = &self.listeners[usize::from(self.sockets.listener(conn))];
        if !listening.listener.door().spec().admits(peer.ip()) {
            self.counters.turned_away.add(1);
            let what = "the listener's lists do not let its address in";
            return self.end(conn, CloseCause::Transport(what));
        }
        let admission = self.live.admission().clone();
        let permit = self.sockets.permit(conn);
        let named = admission.admit_named(permit, &self.limits, peer.ip(), self.now.mono_ms);
        if let Err(limit) = named {
            self.turn_away(limit, Some(peer));
            self.end(conn, CloseCause::Transport(limit.key()));
        }
    }

    /// Counts a connection that is closed because of a limit, and tells of it when it is time.
    fn turn_away(&mut self, limit: Limit, peer: Option<SocketAddr>) {
        self.counters.turned_away.add(1);
        let more = self.live.admission().refused(limit, self.now.mono_ms);
        if let (Some(more), Some(log)) = (more, &self.log) {
            let event = Event::TurnedAway { limit, more };
            log.put(self.now.mono_ms, event, |_| peer);
        }
    }

    /// Counts clients that failed to authenticate; their addresses may be banned for it.
    pub(super) fn count_auth_failures(&mut self) {
        for at in 0..self.outbox.auth_failures.len() {
            let conn = self.outbox.auth_failures[at];
            let Some(peer) = self.peer(conn) else {
                continue;
            };
            let admission = self.live.admission();
            if admission.auth_failed(&self.limits, peer.ip(), self.now.mono_ms) {
                self.outbox.events.push(Event::Banned {
                    conn,
                    client_id: None,
                    limit: Limit::AddressBan,
                    time_s: self.limits.ban_time_s,
                });
            }
        }
        self.outbox.auth_failures.clear();
    }

    /// The peer as proxies that are trusted name it; none for a unix socket, or when it is gone.
    pub(super) fn peer(&mut self, conn: ConnKey) -> Option<SocketAddr> {
        if let Some(transport) = self.sockets.transport(conn) {
            return transport.peer();
        }
        peer_of(&*self.sockets.get(conn)?)
    }
}

/// The socket's own word; none for a unix socket, or when the peer is gone again.
fn peer_of(socket: &impl AsFd) -> Option<SocketAddr> {
    SockRef::from(socket).peer_addr().ok()?.as_socket()
}

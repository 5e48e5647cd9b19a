//! Who comes in: the limits on connections, and what is told of those who do not.

use super::{Driver, StateMachine, listener_key};
use crate::config::limits::NO_LIMIT;
use crate::config::listener::Bind;
use crate::net::admission::Newcomer;
use crate::net::ring::Key;
use crate::net::transport::Admitted;
use crate::shard::budget::MemoryLevel;
use crate::shard::input::{CloseCause, ConnKey, Input};
use crate::shard::limited::Limit;
use crate::shard::outbox::Event;
use crate::shard::rate::advance;
use socket2::SockRef;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

impl<S: StateMachine> Driver<S> {
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

    /// Stops to accept for a while when connections come faster than they may. They wait in the kernel's queue.
    fn pace_accepts(&mut self, listener: Key) {
        // The kernel spreads connections over the cores evenly.
        let share = |rate: u32| match rate {
            NO_LIMIT => NO_LIMIT,
            rate => rate.div_ceil(self.core_count),
        };
        let now_ns = self.now.mono_ms * 1_000_000;
        let rate = share(self.limits.connect_rate_max);
        let mut over_ns = advance(&mut self.accept_clock_ns, now_ns, 1, rate);
        let door = self.listeners[listener.index as usize].listener.door();
        if door.tls().is_some() {
            let rate = share(self.limits.handshake_rate_max);
            over_ns = over_ns.max(advance(&mut self.handshake_clock_ns, now_ns, 1, rate));
        }
        if over_ns == 0 || self.stop_at_ms.is_some() {
            return;
        }
        let at_ms = self.now.mono_ms + over_ns.div_ceil(1_000_000);
        self.accept_at_ms = self.accept_at_ms.max(Some(at_ms));
        self.counters.accepts_paced.add(1);
        if self.listeners[listener.index as usize].armed {
            self.ring
                .cancel_accept(listener_key(listener.index as usize));
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

//! How a connection ends.

use super::{Driver, LINGER_MS, StateMachine, ring_key};
use crate::net::sockets::{Phase, Recv};
use crate::shard::input::{CloseCause, ConnKey, Input};
use socket2::SockRef;
use std::net::Shutdown;

/// Times [`LINGER_MS`] that a close may take while the peer goes on reading.
const LINGER_ROUNDS_MAX: u8 = 5;
/// Connections that may linger; beyond that they are closed without patience.
const LINGERING_MAX: usize = 4_096;

/// A connection that has until a point in time to get out of a phase.
#[derive(Debug)]
pub(super) struct Linger {
    pub(super) until_ms: u64,
    conn: ConnKey,
    phase: Phase,
    rounds: u8,
}

impl<S: StateMachine> Driver<S> {
    /// The shard wants the connection closed: from now on nothing is fed from it.
    pub(super) fn begin_close(&mut self, conn: ConnKey) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        if socket.phase != Phase::Open {
            return;
        }
        socket.phase = Phase::Closing;
        self.closing.push(conn);
        // Reading goes on even if it was paused: a peer that cannot send may not read either.
        if matches!(socket.recv, Recv::Idle | Recv::InLine) {
            socket.recv = Recv::Idle;
            self.to_arm.push(conn);
        }
    }

    /// Writes the last bytes of the connections that the shard closed, and gives those time that cannot take
    /// them now. Those that nothing can be written to any more end.
    pub(super) fn finish_closes(&mut self) {
        while let Some(conn) = self.closing.pop() {
            let failed = self
                .sockets
                .get(conn)
                .is_some_and(|socket| socket.write_failed);
            if failed {
                self.end(conn, CloseCause::Reset);
                continue;
            }
            self.write(conn);
            let Some(socket) = self.sockets.get(conn) else {
                continue;
            };
            if socket.phase != Phase::Closing {
                continue;
            }
            socket.moved = false;
            if self.lingering.len() >= LINGERING_MAX {
                self.end(conn, CloseCause::LingerExpired);
            } else {
                self.linger(conn, Phase::Closing, 1);
            }
        }
    }

    /// Nothing is left to write: a closing connection is shut.
    pub(super) fn all_written(&mut self, conn: ConnKey) {
        if self
            .sockets
            .get(conn)
            .is_some_and(|socket| socket.phase == Phase::Closing)
        {
            self.shut(conn, CloseCause::Asked);
        }
    }

    /// Shuts our side and tells the shard.
    pub(super) fn shut(&mut self, conn: ConnKey, cause: CloseCause) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        // To shut it fails when the peer has reset the connection, and then there is nobody to tell.
        if socket.eof
            || self.lingering.len() >= LINGERING_MAX
            || SockRef::from(&*socket).shutdown(Shutdown::Write).is_err()
        {
            return self.end(conn, cause);
        }
        socket.phase = Phase::Draining;
        self.tell(Input::Closed { conn, cause });
        self.linger(conn, Phase::Draining, 1);
    }

    fn linger(&mut self, conn: ConnKey, phase: Phase, rounds: u8) {
        let until_ms = self.now.mono_ms + LINGER_MS;
        self.lingering.push_back(Linger {
            until_ms,
            conn,
            phase,
            rounds,
        });
    }

    /// Ends the connections whose time is up, and returns whether there were any.
    pub(super) fn end_lingers(&mut self) -> bool {
        let mut busy = false;
        while let Some(linger) = self.lingering.front()
            && linger.until_ms <= self.now.mono_ms
        {
            busy = true;
            let Some(Linger {
                conn,
                phase,
                rounds,
                ..
            }) = self.lingering.pop_front()
            else {
                break;
            };
            let Some(socket) = self.sockets.get(conn) else {
                continue;
            };
            if socket.phase != phase {
                continue;
            }
            if phase == Phase::Draining {
                self.release(conn);
            } else if std::mem::take(&mut socket.moved) && rounds < LINGER_ROUNDS_MAX {
                self.linger(conn, phase, rounds + 1);
            } else {
                self.counters.lingers_expired.add(1);
                self.end(conn, CloseCause::LingerExpired);
            }
        }
        busy
    }

    /// Tells the shard that the socket is gone, once, and lets go of it.
    pub(super) fn end(&mut self, conn: ConnKey, cause: CloseCause) {
        if let Some(socket) = self.sockets.get(conn)
            && socket.phase != Phase::Dead
        {
            socket.phase = Phase::Dead;
            self.tell(Input::Closed { conn, cause });
            self.release(conn);
        }
    }

    /// Cancels what is in flight on the socket, and frees it when nothing is.
    pub(super) fn release(&mut self, conn: ConnKey) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        socket.phase = Phase::Dead;
        if socket.recv == Recv::Armed {
            socket.recv = Recv::Cancelling;
            self.ring.cancel_recv(ring_key(conn));
        }
        if socket.polled {
            self.ring.cancel_writable(ring_key(conn));
        }
        self.free_if_idle(conn);
    }

    /// Closes a socket on which nothing is in flight any more.
    pub(super) fn free_if_idle(&mut self, conn: ConnKey) {
        let is_idle = self
            .sockets
            .get(conn)
            .is_some_and(|socket| socket.is_idle());
        if is_idle {
            // Dropping it closes it.
            self.sockets.remove(conn);
        }
    }
}

//! What arrives: feeding it to the shard, pausing and resuming, taking over and handing over.

use super::{BULK_TIME, Driver, FLUSH_BYTES, StateMachine, ring_key};
use crate::mesh::link::{HandedOverSocket, LinkMessage};
use crate::net::ring::{Buffer, READ_BYTES_MAX, Received};
use crate::net::sockets::{Phase, Reading, Recv};
use crate::shard::input::{CloseCause, ConnKey, Input};
use crate::shard::outbox::Handover;
use std::time::Instant;

impl<S: StateMachine> Driver<S> {
    /// Notes what a completion says about the receive, and feeds its bytes unless they have to wait.
    pub(super) fn received(&mut self, conn: ConnKey, received: Received, more: bool) {
        let phase = self.sockets.get(conn).map(|socket| {
            if !more {
                socket.recv = Recv::Idle;
            }
            socket.phase
        });
        if matches!(received, Received::Readable) {
            return self.line_up(conn);
        }
        let is_full = matches!(&received, Received::Bytes(buffer) if self.ring.is_full(buffer));
        let waits = match &received {
            Received::NoBuffers | Received::Cancelled => false,
            // What is discarded anyway need not wait.
            _ if phase != Some(Phase::Open) => false,
            _ => is_full || self.waiting.holds(conn) || self.hard_pressure(),
        };
        if waits && is_full {
            self.expect_much(conn);
        }
        if waits {
            self.waiting.push(conn, received);
        } else {
            self.feed(conn, received);
        }
    }

    /// Has the connection read by calls, which take more at once than a receive.
    fn expect_much(&mut self, conn: ConnKey) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        if socket.reading != Reading::Settled {
            return;
        }
        socket.reading = Reading::Much;
        if socket.recv == Recv::Armed {
            socket.recv = Recv::Cancelling;
            self.ring.cancel_recv(ring_key(conn));
        }
    }

    /// Has a connection read when it is its turn.
    fn line_up(&mut self, conn: ConnKey) {
        match self.sockets.get(conn) {
            Some(socket) if socket.phase == Phase::Open => {
                socket.recv = Recv::InLine;
                self.readable.push_back(conn);
            }
            _ => self.after_receive(conn),
        }
    }

    /// Feeds what waits, as long as there is no hard pressure and the turn has time for it. What the others have sent leaves
    /// before.
    pub(super) fn feed_waiting(&mut self) {
        if !self.can_feed_waiting() {
            return;
        }
        self.flush();
        let begun = Instant::now();
        while self.can_feed_waiting() {
            if let Some((conn, received)) = self.waiting.pop() {
                self.feed(conn, received);
            } else if let Some(conn) = self.readable.pop_front() {
                self.read_in_turn(conn);
            }
            self.flush_if_much_was_fed();
            if begun.elapsed() >= BULK_TIME {
                return;
            }
        }
    }

    pub(super) fn can_feed_waiting(&self) -> bool {
        let nobody_waits = self.waiting.is_empty() && self.readable.is_empty();
        !nobody_waits && !self.hard_pressure()
    }

    fn feed(&mut self, conn: ConnKey, received: Received) {
        let Some(phase) = self.sockets.get(conn).map(|socket| socket.phase) else {
            self.recycle(received);
            return;
        };
        self.take(conn, phase, received);
        self.after_receive(conn);
    }

    /// Does what was received calls for.
    fn take(&mut self, conn: ConnKey, phase: Phase, received: Received) {
        match received {
            Received::Bytes(buffer) if phase == Phase::Open => self.feed_bytes(conn, buffer),
            Received::Bytes(buffer) => self.ring.recycle(buffer),
            Received::NoBuffers => self.counters.buffers_missing.add(1),
            Received::Cancelled | Received::Readable => {}
            Received::Eof => self.peer_gone(conn, phase, CloseCause::PeerClosed),
            Received::Failed(_) => self.peer_gone(conn, phase, CloseCause::Reset),
        }
    }

    fn feed_bytes(&mut self, conn: ConnKey, buffer: Buffer) {
        self.fed_bytes += buffer.len();
        self.counters.received_bytes.add(buffer.len() as u64);
        if self.sockets.transport(conn).is_some() {
            self.feed_through(conn, &buffer);
        } else {
            let bytes = self.ring.bytes(&buffer);
            let input = Input::Received { conn, bytes };
            self.shard.handle(self.now, input, &mut self.outbox);
            self.absorb();
        }
        self.ring.recycle(buffer);
    }

    /// Reads a connection whose turn it is, and has it wait for its next turn or for more to come.
    fn read_in_turn(&mut self, conn: ConnKey) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        if socket.recv != Recv::InLine {
            return;
        }
        socket.recv = Recv::Idle;
        if self.read(conn) {
            self.line_up(conn);
        } else {
            self.after_receive(conn);
        }
    }

    /// Reads a connection that sends much, and feeds it. Returns whether there may be more, for another turn.
    fn read(&mut self, conn: ConnKey) -> bool {
        let little = self.ring.buffer_bytes();
        let mut fed = 0;
        while fed < FLUSH_BYTES && !self.hard_pressure() {
            let room = self
                .shard
                .expected_bytes(conn)
                .clamp(little, READ_BYTES_MAX);
            let Some(socket) = self.sockets.get(conn) else {
                return false;
            };
            if socket.phase != Phase::Open || socket.paused {
                return false;
            }
            let received = self.ring.read(&*socket, room);
            let count = match &received {
                Received::Bytes(buffer) => buffer.len(),
                _ => 0,
            };
            fed += count;
            if (1..room).contains(&count) && fed <= little {
                socket.reading = Reading::Settled;
            }
            self.take(conn, Phase::Open, received);
            if count < room {
                return false;
            }
        }
        true
    }

    fn peer_gone(&mut self, conn: ConnKey, phase: Phase, cause: CloseCause) {
        match (phase, cause) {
            (Phase::Open, _) | (Phase::Closing, CloseCause::Reset) => self.end(conn, cause),
            // The peer may still read: it has only shut its sending side.
            (Phase::Closing, _) => {
                if let Some(socket) = self.sockets.get(conn) {
                    socket.eof = true;
                }
            }
            (Phase::Draining, _) => self.release(conn),
            (Phase::Dead, _) => {}
        }
    }

    /// Has the receive armed again if it ended, or frees the slot that only waited for its end.
    fn after_receive(&mut self, conn: ConnKey) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        if socket.phase == Phase::Dead {
            self.free_if_idle(conn);
        } else if socket.recv == Recv::Idle && !self.awaits_handshake(conn) {
            self.to_arm.push(conn);
        }
    }

    fn recycle(&mut self, received: Received) {
        if let Received::Bytes(buffer) = received {
            self.ring.recycle(buffer);
        }
    }

    /// Arms the receives that are wanted.
    pub(super) fn arm_receives(&mut self) {
        // Buffers that are held under hard pressure come back with its end, and a receive without buffers
        // would end at once.
        while self.ring.buffers_free() > 0 {
            let Some(conn) = self.to_arm.pop() else {
                return;
            };
            let Some(socket) = self.sockets.get(conn) else {
                continue;
            };
            // Who sends much is read on when what it sent has been fed: the buffers are for all.
            if socket.recv != Recv::Idle || !socket.wants_recv() || self.waiting.holds(conn) {
                continue;
            }
            socket.recv = Recv::Armed;
            let key = ring_key(conn);
            match socket.reading {
                Reading::MayMove if socket.phase == Phase::Open => {
                    self.ring.recv_once(&*socket, key);
                }
                Reading::Much if socket.phase == Phase::Open => {
                    self.ring.poll_readable(&*socket, key);
                }
                _ => self.ring.recv_multi(&*socket, key),
            }
        }
    }

    pub(super) fn pause(&mut self, conn: ConnKey) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        socket.paused = true;
        if socket.phase != Phase::Open {
            return;
        }
        if socket.write_failed {
            // Its receive was to tell why, and without one nobody would notice. It ends with those that close: the shard's other
            // wishes are being taken.
            self.closing.push(conn);
        } else if socket.recv == Recv::Armed {
            socket.recv = Recv::Cancelling;
            self.ring.cancel_recv(ring_key(conn));
        }
    }

    pub(super) fn resume(&mut self, conn: ConnKey) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        socket.paused = false;
        // One that is being cancelled is armed again when it has ended.
        if socket.recv == Recv::Idle {
            self.to_arm.push(conn);
        }
    }

    /// Passes a connection to the core that owns its session.
    ///
    /// Panics: when a receive is in flight on it, that is, when the shard passed it on for another reason than
    /// the bytes just fed.
    pub(super) fn hand_over(&mut self, handover: Handover) {
        let Handover { conn, to, unread } = handover;
        assert!(to != self.id);
        let permit = self.sockets.take_permit(conn);
        let listener = self.sockets.listener(conn);
        let Some((socket, transport)) = self.sockets.remove(conn) else {
            return;
        };
        self.counters.handed_over.add(1);
        let handed_over = HandedOverSocket {
            socket,
            unread,
            transport,
            listener,
            permit,
        };
        self.send(to, LinkMessage::Handover(Box::new(handed_over)));
    }

    /// Takes a connection whose session this shard owns.
    pub(super) fn take_over(&mut self, handed_over: HandedOverSocket) {
        let HandedOverSocket {
            socket,
            unread,
            transport,
            listener,
            permit,
        } = handed_over;
        let username = transport
            .as_ref()
            .and_then(|transport| transport.username().map(Box::<str>::from));
        let Some(conn) = self.sockets.insert(socket, transport) else {
            return;
        };
        self.sockets.set_permit(conn, permit);
        self.sockets.set_listener(conn, listener);
        if let Some(socket) = self.sockets.get(conn) {
            socket.settle();
        }
        self.to_arm.push(conn);
        self.fed_bytes += unread.len();
        self.tell(Input::HandedOver { conn, unread: &[] });
        self.demand(conn);
        if let Some(username) = username {
            self.tell(Input::Identified {
                conn,
                username: &username,
            });
        }
        // The shard closes it when it is stopping.
        let is_open = self
            .sockets
            .get(conn)
            .is_some_and(|socket| socket.phase == Phase::Open);
        if is_open {
            self.tell(Input::Received {
                conn,
                bytes: &unread,
            });
        }
    }
}

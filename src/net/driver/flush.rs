//! What leaves: batches to the other cores, and one write per connection that has something.

use super::{Driver, FAN_OUT_TIME, FLUSH_BYTES, LATER_MAX, LATER_TIME, StateMachine, ring_key};
use crate::mesh::link::LinkMessage;
use crate::net::sockets::Phase;
use crate::net::writer;
use crate::shard::input::{CloseCause, ConnKey, Input, Pressure, ShardId};
use crate::store::port::StoreLink;
use std::collections::VecDeque;
use std::time::Instant;

/// Bytes fed after which output is flushed within a turn, whatever the writes have.
pub(super) const FLUSH_BYTES_MAX: usize = 4 * FLUSH_BYTES;
/// Bytes for one connection that are worth a system call: with fewer, the call costs more than the messages in it.
pub(super) const WRITE_BYTES: u64 = 2 << 10;
/// Writes to one connection before the others get their turn.
pub(super) const WRITES_PER_FLUSH: usize = 4;
/// Times the outbox is emptied in one flush; what is in it then waits for the next turn.
const ROUNDS: usize = 8;
/// Capacity of the line of those who may wait that is kept when it is empty, in connections.
const LATER_CAPACITY_KEPT: usize = 4_096;
/// Capacity of the outbox for the links that is kept from turn to turn, in messages.
const MESH_CAPACITY_KEPT: usize = 4_096;

impl<S: StateMachine> Driver<S> {
    /// Sends what the outbox and the sockets that have room again call for.
    pub(super) fn flush(&mut self) {
        self.fed_bytes = 0;
        self.made_bytes = self.shard.made_bytes();
        for _ in 0..ROUNDS {
            self.flush_store();
            self.flush_mesh();
            self.write_dirty();
            self.later.extend(self.outbox.later.drain(..));
            self.finish_closes();
            if self.outbox.is_empty() && self.writable.is_empty() {
                return;
            }
        }
    }

    /// Flushes within a turn, when much was fed and the writes are worth it, or more was fed than may wait.
    ///
    /// A few publishers' messages for many subscribers are a few for each, and most of what such a message costs is then the
    /// kernel's, for its write. What the next publishers send makes the writes larger.
    pub(super) fn flush_if_much_was_fed(&mut self) {
        if self.fed_bytes < FLUSH_BYTES {
            return;
        }
        self.look_at_memory();
        if self.fed_bytes >= FLUSH_BYTES_MAX || self.writes_are_large() {
            self.flush();
        }
    }

    /// Whether what was made since the last flush is enough for each connection that is to be written to.
    fn writes_are_large(&self) -> bool {
        let made = self.shard.made_bytes() - self.made_bytes;
        made >= WRITE_BYTES * self.outbox.dirty.len() as u64
    }

    pub(super) fn send(&mut self, to: ShardId, message: LinkMessage) {
        let sender = self
            .links
            .senders
            .get_mut(to.index())
            .and_then(Option::as_mut);
        let sender = sender.expect("a shard sends to other shards of its process only");
        sender.send(message);
        self.links_sent |= 1 << to.index();
    }

    fn flush_store(&mut self) {
        let Some(store) = &mut self.store else {
            assert!(self.outbox.records.is_empty() && self.outbox.fetch.is_empty());
            return;
        };
        store.submit(std::mem::take(&mut self.outbox.records));
        for fetch in self.outbox.fetch.drain(..) {
            store.fetch(fetch);
        }
        self.look_at_store();
    }

    /// Tells the shard when so much waits for the store that nothing is fed, and when it is less again; returns whether either is
    /// new.
    pub(super) fn look_at_store(&mut self) -> bool {
        let is_full = self.store.as_ref().is_some_and(StoreLink::is_full);
        if is_full == self.store_is_full {
            return false;
        }
        self.store_is_full = is_full;
        self.tell(Input::StorePressure(if is_full {
            Pressure::Hard
        } else {
            Pressure::Low
        }));
        true
    }

    fn flush_mesh(&mut self) {
        let mut mesh = self.outbox.take_mesh();
        for (to, message) in mesh.drain(..) {
            self.send(to, LinkMessage::Shard(message));
        }
        // Back, for its capacity, unless a burst made it large.
        if mesh.capacity() <= MESH_CAPACITY_KEPT {
            self.outbox.mesh = mesh;
        }
        self.flush_links();
    }

    /// Flushes the links that need it and returns whether a pressure changed, which the shard has been told.
    pub(super) fn flush_links(&mut self) -> bool {
        let mut links = self.links_sent | self.links_waiting;
        self.links_sent = 0;
        let mut changed = false;
        while links != 0 {
            let index = links.trailing_zeros() as usize;
            links &= links - 1;
            let Some(sender) = &mut self.links.senders[index] else {
                continue;
            };
            let pressure = sender.flush();
            if sender.is_waiting() {
                self.links_waiting |= 1 << index;
            } else {
                self.links_waiting &= !(1 << index);
            }
            if let Some(pressure) = pressure {
                changed = true;
                self.note_pressure(ShardId(index as u8), pressure);
            }
        }
        changed
    }

    fn write_dirty(&mut self) {
        let mut conns = std::mem::take(&mut self.scratch);
        conns.append(&mut self.writable);
        conns.append(&mut self.outbox.dirty);
        for conn in conns.drain(..) {
            self.write(conn);
        }
        self.scratch = conns;
    }

    /// Brings on what is under way to very many, and returns whether there was any.
    pub(super) fn fan_out(&mut self) -> bool {
        if !self.shard.is_fanning_out() {
            return false;
        }
        let begun = Instant::now();
        while self.shard.is_fanning_out() && self.later.len() + self.outbox.later.len() < LATER_MAX
        {
            self.tell(Input::FanOut);
            if begun.elapsed() >= FAN_OUT_TIME {
                break;
            }
        }
        true
    }

    /// Writes to those who may wait. What the shard says to that is for the next turn.
    pub(super) fn write_later(&mut self) {
        if self.later.is_empty() {
            return;
        }
        let begun = Instant::now();
        while let Some(conn) = self.later.pop_front() {
            self.write(conn);
            if begun.elapsed() >= LATER_TIME {
                return;
            }
        }
        if self.later.capacity() > LATER_CAPACITY_KEPT {
            self.later = VecDeque::new();
        }
    }

    /// The full socket has room again.
    pub(super) fn socket_writable(&mut self, conn: ConnKey) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        socket.polled = false;
        if socket.phase == Phase::Dead {
            self.free_if_idle(conn);
        } else {
            self.writable.push(conn);
        }
    }

    /// Writes what the connection has, and finishes its close when that was the last.
    pub(super) fn write(&mut self, conn: ConnKey) {
        if self.sockets.through(conn).is_some() {
            return self.write_through(conn);
        }
        for _ in 0..WRITES_PER_FLUSH {
            let Some(socket) = self.sockets.get(conn) else {
                return;
            };
            // A full socket comes back by itself; a failed one is ended by its receive.
            if socket.polled
                || socket.write_failed
                || !matches!(socket.phase, Phase::Open | Phase::Closing)
            {
                return;
            }
            // Why it failed the receive will tell.
            let Ok(wrote) = writer::write(&*socket, self.shard.outbound(conn)) else {
                return self.write_failed(conn);
            };
            if wrote.offered == 0 {
                return self.all_written(conn);
            }
            socket.settle();
            socket.moved |= wrote.accepted > 0;
            self.counters.sent_bytes.add(wrote.accepted as u64);
            self.tell(Input::Written {
                conn,
                bytes: wrote.accepted,
            });
            if wrote.is_short() {
                break;
            }
        }
        self.wait_for_room(conn);
    }

    /// The socket is full, or others come first: the ring brings it back when there is room.
    pub(super) fn wait_for_room(&mut self, conn: ConnKey) {
        if let Some(socket) = self.sockets.get(conn) {
            socket.polled = true;
            self.counters.writes_waited.add(1);
            self.ring.poll_writable(&*socket, ring_key(conn));
        }
    }

    pub(super) fn write_failed(&mut self, conn: ConnKey) {
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        socket.write_failed = true;
        // What the peer sent before it failed can still be received, and then the failure is. Without a
        // receive nobody would notice it.
        if socket.phase == Phase::Closing || socket.paused {
            self.end(conn, CloseCause::Reset);
        }
    }
}

//! The table of a core's sockets.
//!
//! An entry is 16 bytes and knows nothing of MQTT; that is all the shell keeps for an idle connection of a plain
//! listener. What lies between other sockets and MQTT is in a table beside it, which is empty until it is needed.

use crate::net::admission::Permit;
use crate::net::ring::Key;
use crate::net::transport::Transport;
use crate::shard::input::ConnKey;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Whether a receive is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recv {
    /// None is.
    Idle,
    /// None is: it is readable, and stands in the line of those who are read by calls.
    InLine,
    /// One is.
    Armed,
    /// One is, and is being cancelled.
    Cancelling,
}

/// How a socket is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// With receives that complete once, so that none is in flight when the connection leaves: it may.
    MayMove,
    /// With a multishot receive. The connection is settled on this core: bytes were written to it, it was handed over to here,
    /// or there is no other core.
    Settled,
    /// By calls, when it is readable: it is settled, and sends much.
    Much,
}

/// How far the life of a connection has come, as the shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The shard reads and writes.
    Open,
    /// The shard asked for the close: what it has left is written, what arrives is discarded.
    Closing,
    /// All is written and our side is shut, which the shard knows: what arrives is discarded until the
    /// peer has shut its side too, because closing a socket with unread data would reset it and could
    /// destroy what the peer has not read yet.
    Draining,
    /// Only the completions of cancelled operations are waited for.
    Dead,
}

/// One socket.
#[derive(Debug)]
pub struct Socket {
    fd: Option<OwnedFd>,
    generation: u32,
    /// The receive on it.
    pub recv: Recv,
    /// How far it has come.
    pub phase: Phase,
    /// A wait for writability is in flight: the socket is full.
    pub polled: bool,
    /// How it is read.
    pub reading: Reading,
    /// The shard does not want to read.
    pub paused: bool,
    /// A write failed: the receive will tell why, after what the peer sent before.
    pub write_failed: bool,
    /// The peer has shut its side.
    pub eof: bool,
    /// Bytes were written since the linger time was last looked at.
    pub moved: bool,
}

const _: () = assert!(size_of::<Socket>() <= 16);

impl Socket {
    /// Whether a receive should be in flight.
    pub fn wants_recv(&self) -> bool {
        match self.phase {
            Phase::Open => !self.paused,
            Phase::Closing | Phase::Draining => !self.eof,
            Phase::Dead => false,
        }
    }

    /// The connection stays on this core.
    pub fn settle(&mut self) {
        if self.reading == Reading::MayMove {
            self.reading = Reading::Settled;
        }
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        matches!(self.recv, Recv::Idle | Recv::InLine) && !self.polled
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd
            .as_ref()
            .expect("the table gives out occupied slots only")
            .as_fd()
    }
}

/// All sockets of a core, by the index of their key.
#[derive(Debug, Default)]
pub struct Sockets {
    slots: Vec<Socket>,
    /// As long as the last connection needs that has one.
    transports: Vec<Option<Box<Transport>>>,
    /// The same.
    permits: Vec<Option<Box<Permit>>>,
    /// The number of the listener through which each came.
    listeners: Vec<u16>,
    free: Vec<u32>,
}

impl Sockets {
    /// Gives a socket a key, or returns `None` when no index is left; then the socket is closed.
    pub fn insert(&mut self, fd: OwnedFd, transport: Option<Box<Transport>>) -> Option<ConnKey> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).ok();
                let index = index.filter(|index| *index < Key::INDEX_END)?;
                self.slots.push(vacant(0));
                index
            }
        };
        let slot = &mut self.slots[index as usize];
        assert!(slot.fd.is_none());
        *slot = Socket {
            fd: Some(fd),
            ..vacant(slot.generation)
        };
        let generation = slot.generation;
        if let Some(transport) = transport {
            let index = index as usize;
            if index >= self.transports.len() {
                self.transports.resize_with(index + 1, || None);
            }
            self.transports[index] = Some(transport);
        }
        Some(ConnKey { index, generation })
    }

    /// Remembers the number of the listener through which a connection came.
    pub fn set_listener(&mut self, key: ConnKey, listener: u16) {
        let at = key.index as usize;
        if at >= self.listeners.len() {
            self.listeners.resize(at + 1, 0);
        }
        self.listeners[at] = listener;
    }

    /// The number of the listener through which a connection came.
    pub fn listener(&self, key: ConnKey) -> u16 {
        let listener = self.listeners.get(key.index as usize);
        listener
            .copied()
            .expect("it is set when a connection comes")
    }

    /// Keeps the place that a connection has taken until it is removed.
    pub fn set_permit(&mut self, key: ConnKey, permit: Option<Box<Permit>>) {
        let at = key.index as usize;
        if permit.is_some() && at >= self.permits.len() {
            self.permits.resize_with(at + 1, || None);
        }
        if let Some(place) = self.permits.get_mut(at) {
            *place = permit;
        }
    }

    /// The place that a connection has taken, if it was counted.
    pub fn permit(&mut self, key: ConnKey) -> Option<&mut Permit> {
        self.permits.get_mut(key.index as usize)?.as_deref_mut()
    }

    /// The same, for the core to which the connection moves.
    pub fn take_permit(&mut self, key: ConnKey) -> Option<Box<Permit>> {
        self.permits.get_mut(key.index as usize)?.take()
    }

    /// What lies between the socket with this key and MQTT, if anything does or did.
    pub fn transport(&mut self, key: ConnKey) -> Option<&mut Transport> {
        let transport = self
            .transports
            .get_mut(key.index as usize)?
            .as_deref_mut()?;
        let slot = &self.slots[key.index as usize];
        (slot.generation == key.generation).then_some(transport)
    }

    /// The socket and the transport of a connection whose bytes change on the way.
    pub fn through(&mut self, key: ConnKey) -> Option<(&mut Socket, &mut Transport)> {
        let transport = self
            .transports
            .get_mut(key.index as usize)?
            .as_deref_mut()?;
        let slot = &mut self.slots[key.index as usize];
        let is_it = slot.generation == key.generation && !transport.is_passing();
        is_it.then_some((slot, transport))
    }

    /// The socket with this key, unless it is gone.
    pub fn get(&mut self, key: ConnKey) -> Option<&mut Socket> {
        let slot = self.slots.get_mut(key.index as usize)?;
        (slot.fd.is_some() && slot.generation == key.generation).then_some(slot)
    }

    /// Takes a socket out of the table; its key is dead.
    ///
    /// Panics: when an operation is in flight on it, whose completion would find its successor.
    pub fn remove(&mut self, key: ConnKey) -> Option<(OwnedFd, Option<Box<Transport>>)> {
        let slot = self.get(key)?;
        assert!(
            slot.is_idle(),
            "a socket leaves only when nothing is in flight"
        );
        let fd = slot.fd.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        let at = key.index as usize;
        let transport = self.transports.get_mut(at).and_then(Option::take);
        if let Some(permit) = self.permits.get_mut(at) {
            *permit = None;
        }
        Some((fd, transport))
    }

    /// Sockets in the table.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn vacant(generation: u32) -> Socket {
    Socket {
        fd: None,
        generation,
        recv: Recv::Idle,
        phase: Phase::Open,
        polled: false,
        reading: Reading::MayMove,
        paused: false,
        write_failed: false,
        eof: false,
        moved: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn fd() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_slot_is_reused_under_another_generation() {
        let mut sockets = Sockets::default();
        let first = sockets.insert(fd(), None).unwrap();
        let second = sockets.insert(fd(), None).unwrap();
        assert_eq!((first.index, second.index, sockets.len()), (0, 1, 2));
        sockets.get(first).unwrap().paused = true;
        assert!(sockets.remove(first).is_some());
        assert!(sockets.get(first).is_none() && sockets.remove(first).is_none());
        let third = sockets.insert(fd(), None).unwrap();
        assert_eq!(third.index, first.index);
        assert_ne!(third.generation, first.generation);
        assert!(sockets.get(first).is_none());
        assert!(
            !sockets.get(third).unwrap().paused,
            "nothing of the old one is left"
        );
        sockets.remove(second);
        sockets.remove(third);
        assert!(sockets.is_empty());
    }

    #[test]
    #[should_panic(expected = "nothing is in flight")]
    fn a_socket_with_an_operation_in_flight_stays() {
        let mut sockets = Sockets::default();
        let key = sockets.insert(fd(), None).unwrap();
        sockets.get(key).unwrap().polled = true;
        sockets.remove(key);
    }
}

//! The bytes that wait for one socket.
//!
//! Two lanes. *Control* holds acknowledgements and every other packet that is not a PUBLISH; *data* holds
//! PUBLISH packets in chunks of whole packets. Control goes out before data, except behind a chunk of which
//! a part has left already: so an acknowledgement waits for at most one chunk, never for the data queue.
//!
//! Small payloads are copied into a chunk; a large one ends its chunk as a reference to the shared message. What many
//! connections have is a run of a page that they share.
//! An idle connection has no `Outbound` at all: the boxes and their buffers come from a pool per shard.

use super::message::Message;
use super::pages::{Pages, Run};
use std::collections::{VecDeque, vec_deque};
use std::rc::Rc;

/// A chunk is closed once it has this many bytes.
const CHUNK_BYTES: usize = 16 << 10;
/// A payload of at least this size is referenced, not copied.
pub(super) const PAYLOAD_BY_REFERENCE: usize = 4 << 10;
/// Capacity of a new buffer, in bytes; the pool keeps none with less.
const BUFFER_BYTES: usize = 1024;
/// Capacity a pool keeps in all, in bytes.
const POOL_BYTES_MAX: usize = 4 << 20;
/// Boxes a pool keeps.
const POOL_BOXES_MAX: usize = 4_096;

/// Whole packets.
#[derive(Debug)]
enum Chunk {
    /// Of this connection alone; the last one's payload may be the referenced message's.
    Own {
        bytes: Vec<u8>,
        payload: Option<Rc<Message>>,
    },
    /// Of a page; this chunk holds it.
    Shared(Run),
}

impl Chunk {
    fn len(&self) -> usize {
        match self {
            Self::Own { bytes, payload } => {
                bytes.len()
                    + payload
                        .as_ref()
                        .map_or(0, |message| message.payload().len())
            }
            Self::Shared(run) => run.len(),
        }
    }

    /// Whether another packet of its connection may be appended.
    fn is_open(&self) -> bool {
        matches!(self, Self::Own { bytes, payload: None } if bytes.len() < CHUNK_BYTES)
    }

    /// Its bytes from `sent` on.
    fn slices<'a>(&'a self, sent: usize, pages: &'a Pages) -> [&'a [u8]; 2] {
        match self {
            Self::Own { bytes, payload } => {
                let payload = payload.as_ref();
                let payload = payload.map_or(&[][..], |message| message.payload());
                match bytes.get(sent..) {
                    Some(rest) => [rest, payload],
                    None => [&[], &payload[sent - bytes.len()..]],
                }
            }
            Self::Shared(run) => [&pages.bytes(*run)[sent..], &[]],
        }
    }
}

/// The outbound bytes of one connection. Invariant: at most one of `control_sent` and `front_sent` is not 0.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    control: Vec<u8>,
    control_sent: usize,
    data: VecDeque<Chunk>,
    /// Bytes of `data[0]` that have left.
    front_sent: usize,
    /// Bytes in `data` that have not left.
    data_bytes: usize,
}

impl Outbound {
    /// Bytes of PUBLISH packets that wait.
    pub(super) fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// Bytes of other packets that wait.
    pub(super) fn control_bytes(&self) -> usize {
        self.control.len() - self.control_sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.data_bytes == 0 && self.control_bytes() == 0
    }

    /// The lane for whole packets that are not PUBLISH packets.
    pub(super) fn control(&mut self) -> &mut Vec<u8> {
        &mut self.control
    }

    /// Appends one whole PUBLISH packet through `write`, which may only append.
    pub(super) fn data(&mut self, pool: &mut Pool, write: impl FnOnce(&mut Vec<u8>)) {
        self.append(pool, None, write);
    }

    /// Appends a PUBLISH packet that others have too, held by the caller. False when what waits here does not end right before
    /// it; then it has to be copied, or runs would become as many as packets.
    pub(super) fn data_shared(&mut self, pool: &mut Pool, packet: Run) -> bool {
        let extends = match self.data.back_mut() {
            Some(Chunk::Shared(run)) => run.extend(packet),
            _ => false,
        };
        if !extends {
            if !self.data.is_empty() && !packet.begins_page() {
                return false;
            }
            self.data.push_back(Chunk::Shared(pool.pages.hold(packet)));
        }
        self.data_bytes += packet.len();
        true
    }

    /// Appends a PUBLISH packet whose head `write` appends and whose payload is the message's.
    pub(super) fn data_by_reference(
        &mut self,
        pool: &mut Pool,
        message: Rc<Message>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.append(pool, Some(message), write);
    }

    /// Drops PUBLISH packets of which nothing has left, before the connection is closed.
    pub(super) fn drop_unsent_data(&mut self, pool: &mut Pool) {
        let keep = usize::from(self.front_sent > 0);
        while self.data.len() > keep {
            let chunk = self.data.pop_back().expect("longer than keep");
            self.data_bytes -= chunk.len();
            pool.give_chunk(chunk);
        }
    }

    /// Runs of pages that it holds.
    pub(super) fn runs(&self) -> usize {
        let is_run = |chunk: &&Chunk| matches!(chunk, Chunk::Shared(_));
        self.data.iter().filter(is_run).count()
    }

    /// The bytes in wire order.
    pub(super) fn slices<'a>(&'a self, pool: &'a Pool) -> Slices<'a> {
        let mut chunks = self.data.iter();
        let front = if self.front_sent > 0 {
            chunks.next()
        } else {
            None
        };
        let [front, payload] = front.map_or_else(Default::default, |chunk| {
            chunk.slices(self.front_sent, &pool.pages)
        });
        Slices {
            next: [front, payload, &self.control[self.control_sent..]],
            at: 0,
            chunks,
            pages: Some(&pool.pages),
        }
    }

    /// The first `count` bytes of `slices` have left.
    ///
    /// Panics: when there are not as many.
    pub(super) fn consume(&mut self, mut count: usize, pool: &mut Pool) {
        if self.front_sent > 0 {
            count = self.consume_front(count, pool);
        }
        if count > 0 && self.control_bytes() > 0 {
            let taken = count.min(self.control_bytes());
            self.control_sent += taken;
            count -= taken;
            if self.control_sent == self.control.len() {
                self.control.clear();
                self.control_sent = 0;
            }
        }
        while count > 0 {
            count = self.consume_front(count, pool);
        }
    }

    fn consume_front(&mut self, count: usize, pool: &mut Pool) -> usize {
        let len = self
            .data
            .front()
            .expect("no more was consumed than offered")
            .len();
        let taken = count.min(len - self.front_sent);
        self.front_sent += taken;
        self.data_bytes -= taken;
        if self.front_sent == len {
            self.front_sent = 0;
            if let Some(chunk) = self.data.pop_front() {
                pool.give_chunk(chunk);
            }
        }
        count - taken
    }

    /// Appends a packet of this connection alone; `message` has its payload if `write` does not append it.
    fn append(
        &mut self,
        pool: &mut Pool,
        message: Option<Rc<Message>>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if !self.data.back().is_some_and(Chunk::is_open) {
            self.data.push_back(Chunk::Own {
                bytes: pool.take_buffer(),
                payload: None,
            });
        }
        let Some(Chunk::Own { bytes, payload }) = self.data.back_mut() else {
            unreachable!("such a one is open, or was pushed");
        };
        let before = bytes.len();
        write(bytes);
        self.data_bytes += bytes.len() - before;
        if let Some(message) = message {
            self.data_bytes += message.payload().len();
            *payload = Some(message);
        }
    }
}

/// The bytes of an `Outbound` in wire order; no slice is empty.
#[derive(Default)]
pub(super) struct Slices<'a> {
    /// Some may be empty.
    next: [&'a [u8]; 3],
    at: usize,
    /// What comes behind them.
    chunks: vec_deque::Iter<'a, Chunk>,
    /// Whose runs they have; `None` when there are no chunks.
    pages: Option<&'a Pages>,
}

impl<'a> Iterator for Slices<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            while let Some(slice) = self.next.get(self.at) {
                self.at += 1;
                if !slice.is_empty() {
                    return Some(slice);
                }
            }
            let [head, payload] = self.chunks.next()?.slices(0, self.pages?);
            self.next = [&[], head, payload];
            self.at = 1;
        }
    }
}

/// Buffers given back when drained, for the next connection that needs one.
#[derive(Debug, Default)]
pub(super) struct Pool {
    #[allow(
        clippy::vec_box,
        reason = "the boxes are what is pooled: connections hold them"
    )]
    boxes: Vec<Box<Outbound>>,
    buffers: Vec<Vec<u8>>,
    buffer_bytes: usize,
    pub(super) pages: Pages,
}

impl Pool {
    pub(super) fn take(&mut self) -> Box<Outbound> {
        self.boxes.pop().unwrap_or_default()
    }

    /// Takes back an empty `Outbound`.
    pub(super) fn give(&mut self, mut outbound: Box<Outbound>) {
        assert!(outbound.is_empty());
        if self.boxes.len() < POOL_BOXES_MAX {
            if outbound.control.capacity() > CHUNK_BYTES {
                outbound.control = Vec::new();
            }
            self.boxes.push(outbound);
        }
    }

    /// Takes back what is not to be sent any more.
    pub(super) fn discard(&mut self, outbound: Option<Box<Outbound>>) {
        for chunk in outbound.into_iter().flat_map(|outbound| outbound.data) {
            self.give_chunk(chunk);
        }
    }

    fn give_chunk(&mut self, chunk: Chunk) {
        match chunk {
            Chunk::Own { bytes, .. } => self.give_buffer(bytes),
            Chunk::Shared(run) => self.pages.release(run),
        }
    }

    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        match self.buffers.pop() {
            Some(buffer) => {
                self.buffer_bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(BUFFER_BYTES),
        }
    }

    /// Takes back a buffer, or drops it: one without capacity would be for ever in the way of the others, and would not
    /// count as bytes.
    pub(super) fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        let is_worth_it = (BUFFER_BYTES..=4 * CHUNK_BYTES).contains(&capacity);
        if is_worth_it && self.buffer_bytes + capacity <= POOL_BYTES_MAX {
            buffer.clear();
            self.buffer_bytes += capacity;
            self.buffers.push(buffer);
        }
    }
}

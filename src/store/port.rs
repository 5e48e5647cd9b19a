//! Between a core and the threads of the store.
//!
//! A core leaves the records of a turn as one group and goes on; it never waits for the store. What it is told comes back
//! by two ways: the number up to which its records are durable, which is one atomic, and replies, which are rare. The
//! lock is held for moving a vector, by a core and one other thread.
//!
//! ```text
//! core                          writer                          core
//! submit: groups, unpark  ──▶   commit                    ┌──▶  poll: durable first, then replies,
//!                               replies, then durable, wake     so what was refused is known with it
//! ```

use super::batch::can_wait;
use crate::mesh::wake::Wake;
use crate::shard::message::Message;
use crate::shard::record::{Fetch, FetchToken, Lsn, Record, StoredMessage};
use std::collections::VecDeque;
use std::mem::take;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

/// Bytes that may wait to be written for one core; beyond that it reads no sockets until they have become fewer.
pub const WAITING_BYTES_MAX: usize = 16 << 20;
/// Bytes up to which what can wait does, for one core.
const GATHERED_BYTES_MAX: usize = 1 << 20;
/// What a record is charged beside its message.
const RECORD_BYTES: usize = 128;

/// The records of one turn: committed together.
#[derive(Debug)]
pub(super) struct Group {
    /// The number of the first.
    pub(super) first: Lsn,
    pub(super) records: Vec<Record>,
    pub(super) bytes: usize,
    /// How often the shard had been told that the store cannot be written when it made them.
    pub(super) failures: u64,
}

/// What the store tells a core beside what is durable.
#[derive(Debug)]
pub(super) enum Reply {
    /// Records that are not kept, ascending; what stands before them may have to wait for the disk.
    Refused(Vec<Lsn>),
    /// Messages that were asked for, at least one, up to what cannot be read; `None` for one that is not there.
    Fetched(FetchToken, Vec<Read>),
    /// The store can be written again, or cannot.
    Available(bool),
}

/// What a core has left to be written.
#[derive(Debug, Default)]
struct Left {
    groups: Vec<Group>,
    /// Whether one of them is to be written at once.
    is_urgent: bool,
}

/// How soon the store is to write what a core has left. Ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// There is nothing.
    Nothing,
    /// It can gather for a while.
    CanWait,
    /// At once.
    Now,
}

/// One core's place in the store.
#[derive(Debug)]
pub(super) struct Port {
    left: Mutex<Left>,
    waiting_bytes: AtomicUsize,
    durable: AtomicU64,
    replies: Mutex<Vec<Reply>>,
    has_replies: AtomicBool,
    acked_not_durable: AtomicU64,
    wake: Arc<Wake>,
}

/// What wakes the threads of the store, and the reader's work.
#[derive(Debug, Default)]
pub(super) struct Threads {
    pub(super) writer: OnceLock<Thread>,
    pub(super) reader: OnceLock<Thread>,
    /// The shard, and what it asked for.
    pub(super) fetches: Mutex<VecDeque<(usize, Fetch)>>,
}

/// A core's end: it stays on its thread.
#[derive(Debug)]
pub struct StoreLink {
    shard: usize,
    port: Arc<Port>,
    threads: Arc<Threads>,
    submitted: u64,
    durable_seen: u64,
    /// Failures of the store that the shard was told of: before the turn whose records are submitted next, and until now.
    failures_before: u64,
    failures: u64,
}

/// A message that was asked for; `None` if it is not there.
pub type Read = (StoredMessage, Option<Message>);

/// What [`StoreLink::poll`] found.
#[derive(Debug, Default)]
pub struct News {
    /// The number up to which records are settled, if it has grown or some were refused.
    pub settled: Option<Lsn>,
    /// Those that were refused, ascending; some may be beyond that number.
    pub refused: Vec<Lsn>,
    /// Answers to fetches, with the first of what they asked for.
    pub fetched: Vec<(FetchToken, Vec<Read>)>,
    /// Whether the store takes messages, if that has changed.
    pub accepting: Option<bool>,
}

impl Port {
    pub(super) fn new(wake: Arc<Wake>) -> Self {
        Self {
            left: Mutex::default(),
            waiting_bytes: AtomicUsize::new(0),
            durable: AtomicU64::new(0),
            replies: Mutex::default(),
            has_replies: AtomicBool::new(false),
            acked_not_durable: AtomicU64::new(0),
            wake,
        }
    }

    /// Takes all groups that wait, in their order.
    pub(super) fn take_groups(&self) -> Vec<Group> {
        take(&mut *lock(&self.left)).groups
    }

    pub(super) fn urgency(&self) -> Urgency {
        let left = lock(&self.left);
        match (left.is_urgent, left.groups.is_empty()) {
            (true, _) => Urgency::Now,
            (false, false) => Urgency::CanWait,
            (false, true) => Urgency::Nothing,
        }
    }

    /// Says that bytes were written or given up, and makes it known up to which number nothing waits.
    pub(super) fn finish(&self, durable: Lsn, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        // Release: the replies that were made before are seen with it.
        self.durable.store(durable.0, Ordering::Release);
        self.wake.wake();
    }

    pub(super) fn reply(&self, reply: Reply) {
        lock(&self.replies).push(reply);
        self.has_replies.store(true, Ordering::Release);
        self.wake.wake();
    }

    pub(super) fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Relaxed))
    }

    pub(super) fn acked_not_durable(&self) -> u64 {
        self.acked_not_durable.load(Ordering::Relaxed)
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }
}

impl StoreLink {
    pub(super) fn new(shard: usize, port: Arc<Port>, threads: Arc<Threads>) -> Self {
        Self {
            shard,
            port,
            threads,
            submitted: 0,
            durable_seen: 0,
            failures_before: 0,
            failures: 0,
        }
    }

    /// Leaves the records of a turn, to be committed together. To be called in each turn, also when there are none.
    pub fn submit(&mut self, records: Vec<Record>) {
        let failures = std::mem::replace(&mut self.failures_before, self.failures);
        if records.is_empty() {
            return;
        }
        let bytes = records.iter().map(record_bytes).sum();
        let first = Lsn(self.submitted + 1);
        self.submitted += records.len() as u64;
        let before = self.port.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_urgent = before > GATHERED_BYTES_MAX || !records.iter().all(can_wait);
        let is_first = {
            let mut left = lock(&self.port.left);
            left.is_urgent |= is_urgent;
            left.groups.push(Group {
                first,
                records,
                bytes,
                failures,
            });
            left.groups.len() == 1
        };
        // It knows of the others that can wait, and when their time is.
        if (is_urgent || is_first)
            && let Some(writer) = self.threads.writer.get()
        {
            writer.unpark();
        }
    }

    /// Asks for messages; it is answered with `Reply::Fetched`, once the first can be read.
    pub fn fetch(&self, fetch: Fetch) {
        lock(&self.threads.fetches).push_back((self.shard, fetch));
        if let Some(reader) = self.threads.reader.get() {
            reader.unpark();
        }
    }

    /// Whether so much waits to be written that nothing more should be taken in.
    pub fn is_full(&self) -> bool {
        self.port.waiting_bytes() > WAITING_BYTES_MAX
    }

    /// Whether [`StoreLink::poll`] has something to tell.
    pub fn has_news(&self) -> bool {
        self.port.durable.load(Ordering::Relaxed) != self.durable_seen
            || self.port.has_replies.load(Ordering::Relaxed)
    }

    /// What is new since the last call.
    pub fn poll(&mut self) -> News {
        let mut news = News::default();
        if !self.has_news() {
            return news;
        }
        // Before the replies: those that belong to it are there then.
        let durable = self.port.durable.load(Ordering::Acquire);
        if self.port.has_replies.swap(false, Ordering::Acquire) {
            for reply in take(&mut *lock(&self.port.replies)) {
                match reply {
                    Reply::Refused(mut lsns) => news.refused.append(&mut lsns),
                    Reply::Fetched(token, messages) => news.fetched.push((token, messages)),
                    Reply::Available(accepting) => {
                        news.accepting = Some(accepting);
                        self.failures += u64::from(!accepting);
                    }
                }
            }
        }
        if durable != self.durable_seen || !news.refused.is_empty() {
            self.durable_seen = durable;
            news.settled = Some(Lsn(durable));
        }
        news
    }

    /// Says how many messages were acknowledged before they were durable, which is to be 0: for the log.
    pub fn report_early(&self, acked_not_durable: u64) {
        let told = &self.port.acked_not_durable;
        told.store(acked_not_durable, Ordering::Relaxed);
    }

    /// Records that are neither durable nor refused yet.
    pub fn pending(&self) -> u64 {
        self.submitted - self.durable_seen
    }
}

fn record_bytes(record: &Record) -> usize {
    RECORD_BYTES
        + match record {
            Record::Message {
                message, receivers, ..
            } => message.bytes() + 16 * receivers.len(),
            Record::Retained { message, .. } => message.bytes(),
            Record::Session(session) => {
                session.will.as_ref().map_or(0, |will| will.message.bytes())
            }
            _ => 0,
        }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A queue is whole whatever a thread that panicked did with what it took from it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::record::{Part, StoredSession};

    fn link() -> (Arc<Port>, StoreLink) {
        let port = Arc::new(Port::new(Arc::new(Wake::new().unwrap())));
        let link = StoreLink::new(0, Arc::clone(&port), Arc::default());
        (port, link)
    }

    #[test]
    fn groups_are_numbered_and_come_whole() {
        let (port, mut link) = link();
        let record = || Record::SessionEnded(StoredSession(1));
        link.submit(vec![record(), record()]);
        link.submit(vec![]);
        link.submit(vec![record()]);
        let groups = port.take_groups();
        let firsts: Vec<_> = groups.iter().map(|group| group.first.0).collect();
        assert_eq!(firsts, [1, 3]);
        assert_eq!(link.pending(), 3);
        assert_eq!(port.waiting_bytes(), 3 * RECORD_BYTES);
        assert!(!link.is_full() && !link.has_news());
        port.reply(Reply::Refused(vec![Lsn(2), Lsn(3)]));
        let news = link.poll();
        assert_eq!(news.settled, Some(Lsn(0)));
        assert_eq!(news.refused, [Lsn(2), Lsn(3)], "at once");
        port.finish(Lsn(2), 2 * RECORD_BYTES);
        assert!(link.has_news());
        let news = link.poll();
        assert_eq!((news.settled, news.refused), (Some(Lsn(2)), vec![]));
        port.reply(Reply::Available(false));
        port.finish(Lsn(3), RECORD_BYTES);
        let news = link.poll();
        assert_eq!((news.settled, news.refused), (Some(Lsn(3)), vec![]));
        assert_eq!(news.accepting, Some(false));
        assert_eq!((link.pending(), port.waiting_bytes()), (0, 0));
        assert!(!link.has_news() && link.poll().settled.is_none());
    }

    #[test]
    fn what_nobody_waits_for_can_wait_as_long_as_it_is_not_much() {
        let (port, mut link) = link();
        let ended = || Record::Ended {
            id: StoredMessage(1),
            session: StoredSession(1),
            part: Part::OWN,
        };
        assert_eq!(port.urgency(), Urgency::Nothing);
        link.submit(vec![ended(), ended()]);
        assert_eq!(port.urgency(), Urgency::CanWait);
        link.submit(vec![ended(), Record::SessionEnded(StoredSession(1))]);
        link.submit(vec![ended()]);
        assert_eq!(port.urgency(), Urgency::Now);
        assert_eq!(port.take_groups().len(), 3, "all of it, in its order");
        assert_eq!(port.urgency(), Urgency::Nothing);
        port.finish(Lsn(5), 5 * RECORD_BYTES);
        for _ in 0..=GATHERED_BYTES_MAX / RECORD_BYTES {
            assert!(port.urgency() < Urgency::Now);
            link.submit(vec![ended()]);
        }
        assert_eq!(port.urgency(), Urgency::CanWait);
        link.submit(vec![ended()]);
        assert_eq!(port.urgency(), Urgency::Now);
    }
}

//! The thread that reads back messages whose payloads are in the store alone.
//!
//! What cannot be read was acknowledged and stays: the answer ends before it, and what begins with it is tried again every [`RETRY`] until
//! it can be read. SQLite says of a device that does not read (EIO) what it says of a damaged file, so one is as little a reason to give
//! up a message as the other.

use super::codec::{message, number_at, sql};
use super::fault::Fault;
use super::port::{Port, Read, Reply, Threads, lock};
use super::stats::StoreStats;
use super::{StoreLog, give_up};
use crate::config::LogLevel;
use crate::shard::message::Message;
use crate::shard::record::{Fetch, StoredMessage};
use rusqlite::{Connection, Error, OptionalExtension, Result, Statement};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Messages read before the writer may bring its log into the database.
const SLICE: usize = 64;
/// Messages between those wanted, beside half as many as these, after which each is looked for by itself.
const STRANGERS_MAX: usize = 4;
/// Time between two tries of what cannot be read.
const RETRY: Duration = Duration::from_millis(500);
/// Time between two lines in the log about it.
const REPORT: Duration = Duration::from_secs(60);

/// What the reader is made from.
pub(super) struct ReaderSetup {
    pub(super) path: PathBuf,
    pub(super) conn: Connection,
    pub(super) ports: Vec<Arc<Port>>,
    pub(super) threads: Arc<Threads>,
    pub(super) stop: Arc<AtomicBool>,
    /// Held while reading.
    pub(super) reading: Arc<Mutex<()>>,
    pub(super) stats: Arc<StoreStats>,
    pub(super) log: StoreLog,
}

/// Reads until it is asked to stop.
pub(super) fn run(setup: &ReaderSetup) {
    let mut reader = match Reader::new(setup) {
        Ok(reader) => reader,
        // The writer has read this schema a moment ago.
        Err(error) => give_up(setup.log, &setup.path, &error),
    };
    // What could not be read, and when to try again: ascending, because all wait equally long.
    let mut later = VecDeque::new();
    while !setup.stop.load(Ordering::Acquire) {
        let now = Instant::now();
        let next = {
            let mut fetches = lock(&setup.threads.fetches);
            // Behind what has come meanwhile, so that what cannot be read holds up nobody else.
            while let Some((_, fetch)) = later.pop_front_if(|(at, _)| *at <= now) {
                fetches.push_back(fetch);
            }
            fetches.pop_front()
        };
        let Some((shard, fetch)) = next else {
            match later.front() {
                Some((at, _)) => thread::park_timeout(*at - now),
                None => thread::park(),
            }
            continue;
        };
        let messages = reader.read(&fetch);
        if messages.is_empty() {
            later.push_back((Instant::now() + RETRY, (shard, fetch)));
            continue;
        }
        let count = messages.len() as u64;
        setup.stats.fetched.fetch_add(count, Ordering::Relaxed);
        setup.ports[shard].reply(Reply::Fetched(fetch.token, messages));
    }
}

/// Its statements.
struct Reader<'s> {
    setup: &'s ReaderSetup,
    one: Statement<'s>,
    range: Statement<'s>,
    report_at: Instant,
}

impl<'s> Reader<'s> {
    fn new(setup: &'s ReaderSetup) -> Result<Self> {
        let prepare = |which: &str| {
            setup.conn.prepare(&format!(
                "SELECT id, expires_at, qos, retain, stamp, topic, properties, payload FROM msg WHERE {which}"
            ))
        };
        Ok(Self {
            setup,
            one: prepare("id = ?1")?,
            range: prepare("id BETWEEN ?1 AND ?2 ORDER BY id")?,
            report_at: Instant::now(),
        })
    }

    /// Reads messages up to the first that cannot be read.
    fn read(&mut self, fetch: &Fetch) -> Vec<Read> {
        let mut messages = Vec::with_capacity(fetch.messages.len());
        for slice in fetch.messages.chunks(SLICE) {
            let mut read = Vec::with_capacity(slice.len());
            let result = self.read_slice(slice, fetch.wall_minus_mono_ms, &mut read);
            messages.append(&mut read);
            if let Err((id, error)) = result {
                self.report(id, &error);
                break;
            }
        }
        messages
    }

    /// The same for a few. Whoever waits for what cannot be read waits without what is held here, or no log would begin anew.
    fn read_slice(
        &mut self,
        slice: &[StoredMessage],
        wall_minus_mono_ms: u64,
        read: &mut Vec<Read>,
    ) -> Result<(), (StoredMessage, Error)> {
        let setup = self.setup;
        let _reading = lock(&setup.reading);
        // One snapshot for all of them, instead of a lock on the file for each. Without it they are read one by one.
        let _snapshot = setup.conn.unchecked_transaction().ok();
        // What fails is tried again below.
        let _ = self.read_side_by_side(slice, wall_minus_mono_ms, read);
        for id in &slice[read.len()..] {
            let found = self.read_one(*id, wall_minus_mono_ms);
            read.push((*id, found.map_err(|error| (*id, error))?));
        }
        Ok(())
    }

    /// Reads messages as long as they stand in the table one behind the other, give or take a few, which costs half of looking
    /// for each.
    fn read_side_by_side(
        &mut self,
        wanted: &[StoredMessage],
        wall_minus_mono_ms: u64,
        read: &mut Vec<Read>,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (wanted.first(), wanted.iter().max()) else {
            return Ok(());
        };
        let mut rows = self.range.query([sql(first.0), sql(last.0)])?;
        let mut strangers = 0;
        while let Some(next) = wanted.get(read.len())
            && let Some(row) = rows.next()?
        {
            let id = StoredMessage(number_at(row, 0)?);
            if id == *next {
                let found = message(row, 0, wall_minus_mono_ms)?;
                read.push((id, Some(found)));
                continue;
            }
            strangers += 1;
            if id > *next || strangers > STRANGERS_MAX + read.len() / 2 {
                break;
            }
        }
        Ok(())
    }

    /// One message; `None` if it is not there, which is nothing but that: whatever else there is to say of it, it stays.
    fn read_one(&mut self, id: StoredMessage, wall_minus_mono_ms: u64) -> Result<Option<Message>> {
        self.one
            .query_row([sql(id.0)], |row| message(row, 0, wall_minus_mono_ms))
            .optional()
    }

    fn report(&mut self, id: StoredMessage, error: &Error) {
        let now = Instant::now();
        if now < self.report_at {
            return;
        }
        self.report_at = now + REPORT;
        (self.setup.log)(
            LogLevel::Error,
            format!(
                "{}: message {} cannot be read: {}. Until then it waits, and what its clients are to get behind it.",
                self.setup.path.display(),
                id.0,
                Fault::of(error)
            ),
        );
    }
}

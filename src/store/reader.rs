//! The thread that reads back messages whose payloads are in the store alone.

use super::codec::{message, number_at, sql};
use super::fault::{Fault, FaultKind};
use super::port::{Port, Read, Reply, Threads, lock};
use super::stats::StoreStats;
use super::{StoreLog, give_up};
use crate::config::LogLevel;
use crate::shard::message::Message;
use crate::shard::record::StoredMessage;
use rusqlite::{Connection, OptionalExtension, Result, Statement};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Messages read before the writer may bring its log into the database.
const SLICE: usize = 64;
/// Messages between those wanted, beside half as many as these, after which each is looked for by itself.
const STRANGERS_MAX: usize = 4;
/// Time between two tries when the disk does not read.
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
    /// Wall-clock minus monotonic milliseconds, for what expires.
    pub(super) wall_minus_mono_ms: u64,
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
    while !setup.stop.load(Ordering::Acquire) {
        let Some((shard, fetch)) = lock(&setup.threads.fetches).pop_front() else {
            thread::park();
            continue;
        };
        let mut messages = Vec::with_capacity(fetch.messages.len());
        for slice in fetch.messages.chunks(SLICE) {
            let _reading = lock(&setup.reading);
            // One snapshot for all of them, instead of a lock on the file for each. Without it they are read one by one.
            let _snapshot = setup.conn.unchecked_transaction().ok();
            let mut read = Vec::with_capacity(slice.len());
            // What fails is tried again below.
            let _ = reader.read_side_by_side(slice, &mut read);
            for id in &slice[read.len()..] {
                read.push((*id, reader.read(*id)));
            }
            messages.append(&mut read);
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

    /// Reads messages as long as they stand in the table one behind the other, give or take a few, which costs half of looking
    /// for each.
    fn read_side_by_side(&mut self, wanted: &[StoredMessage], read: &mut Vec<Read>) -> Result<()> {
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
                let found = message(row, 0, self.setup.wall_minus_mono_ms)?;
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

    /// One message; waits while the disk fails, because the message is there.
    fn read(&mut self, id: StoredMessage) -> Option<Message> {
        let setup = self.setup;
        loop {
            let result = self
                .one
                .query_row([sql(id.0)], |row| message(row, 0, setup.wall_minus_mono_ms))
                .optional();
            let fault = match result {
                Ok(message) => return message,
                Err(error) => Fault::of(&error),
            };
            let waits = matches!(fault.kind, FaultKind::Io | FaultKind::Busy)
                && !setup.stop.load(Ordering::Acquire);
            let now = Instant::now();
            if now >= self.report_at {
                self.report_at = now + REPORT;
                (setup.log)(
                    LogLevel::Error,
                    format!(
                        "{}: message {} cannot be read: {fault}.",
                        setup.path.display(),
                        id.0
                    ),
                );
            }
            if !waits {
                return None;
            }
            thread::park_timeout(RETRY);
        }
    }
}

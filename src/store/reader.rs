//! The thread that reads back messages whose payloads are in the store alone.

use super::StoreLog;
use super::codec::{message, sql};
use super::fault::{Fault, FaultKind};
use super::port::{Port, Reply, Threads, lock};
use super::stats::StoreStats;
use crate::config::LogLevel;
use crate::shard::message::Message;
use crate::shard::record::StoredMessage;
use rusqlite::{Connection, OptionalExtension, Statement};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Messages read before the writer may bring its log into the database.
const SLICE: usize = 64;
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
    let select = setup.conn.prepare(
        "SELECT id, expires_at, qos, retain, stamp, topic, properties, payload FROM msg WHERE id = ?1",
    );
    let mut select = match select {
        Ok(select) => select,
        Err(error) => {
            // The writer has read this schema a moment ago.
            (setup.log)(
                LogLevel::Error,
                format!("{}: {}", setup.path.display(), Fault::of(&error)),
            );
            std::process::exit(1)
        }
    };
    let mut report_at = Instant::now();
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
            for id in slice {
                let message = read(setup, &mut select, *id, &mut report_at);
                messages.push((*id, message));
            }
        }
        let count = messages.len() as u64;
        setup.stats.fetched.fetch_add(count, Ordering::Relaxed);
        setup.ports[shard].reply(Reply::Fetched(fetch.token, messages));
    }
}

/// One message; waits while the disk fails, because the message is there.
fn read(
    setup: &ReaderSetup,
    select: &mut Statement<'_>,
    id: StoredMessage,
    report_at: &mut Instant,
) -> Option<Message> {
    loop {
        let result = select
            .query_row([sql(id.0)], |row| message(row, 0, setup.wall_minus_mono_ms))
            .optional();
        let fault = match result {
            Ok(message) => return message,
            Err(error) => Fault::of(&error),
        };
        let waits = matches!(fault.kind, FaultKind::Io | FaultKind::Busy)
            && !setup.stop.load(Ordering::Acquire);
        let now = Instant::now();
        if now >= *report_at {
            *report_at = now + REPORT;
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

//! SHELL. What outlives the process: sessions, their subscriptions and messages, retained messages.
//!
//! One SQLite database, written by one thread for all shards. A shard says what is to be kept as
//! [records](crate::shard::record); the writer commits what has come while it was committing, and says how far it is; what a peer is told
//! waits for that. A second thread reads back the messages of sessions that return.
//!
//! | file | what it holds |
//! |---|---|
//! | [`schema`] | the tables, opening, migrations |
//! | [`port`] | a core's end of the store |
//! | `batch`, `tables`, `remembered` | what is committed together, how it is written, and what is known of it for a while |
//! | `writer`, `sweep`, `vacuum` | the writing thread: commits, faults, checkpoints, tidying |
//! | `checkpoint` | the thread that brings the log into the database |
//! | `reader` | the reading thread |
//! | [`load`] | everything at the start |
//! | [`tool`] | `ringmq store` |
//! | [`fault`], [`stats`] | what goes wrong, what is counted |

mod batch;
mod checkpoint;
pub mod codec;
pub mod fault;
#[cfg(test)]
mod kept_tests;
pub mod load;
#[cfg(test)]
mod model_tests;
pub mod port;
mod reader;
mod remembered;
pub mod schema;
pub mod stats;
mod sweep;
mod tables;
#[cfg(test)]
mod testing;
pub mod tool;
mod vacuum;
mod writer;

use crate::config::LogLevel;
use crate::mesh::wake::Wake;
use crate::shard::record::Durability;
use checkpoint::Checkpointer;
use fault::{Fault, FaultKind};
use load::{LoadError, LoadSetup, Recovered};
use port::{Port, StoreLink, Threads};
use stats::StoreStats;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Where the store's lines for the operator go. It does not wait until they are written: so may no commit.
pub type StoreLog = fn(LogLevel, String);

/// Time in which the log writes why the process ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Ends the process: the store, which was read a moment ago, cannot be.
fn give_up(log: StoreLog, path: &Path, error: &rusqlite::Error) -> ! {
    log(
        LogLevel::Error,
        format!("{}: {}", path.display(), Fault::of(error)),
    );
    thread::sleep(LAST_WORDS);
    std::process::exit(1)
}

/// Why there is no store. Its text is for the operator.
#[derive(Debug)]
pub enum StoreError {
    /// The database cannot be opened or loaded.
    Load(LoadError),
    /// It is damaged: why, and what of it can be read.
    Damaged(LoadError, String),
    /// A thread cannot be had.
    Thread(io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(error) => write!(f, "{error}"),
            Self::Damaged(error, report) => write!(
                f,
                "{error}. What can be read, and what would be lost with a repair:\n{report}\
                 The broker does not start on it, so that nothing is lost unseen."
            ),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// The running store.
#[derive(Debug)]
pub struct Store {
    threads: Arc<Threads>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
    stats: Arc<StoreStats>,
}

impl Store {
    /// Opens the database, loads it, and starts the threads. Gives also a link for each shard.
    ///
    /// Panics: with `Durability::None`, for which there is no store.
    pub fn open(
        setup: &LoadSetup<'_>,
        durability: Durability,
        wakes: &[Arc<Wake>],
        log: StoreLog,
    ) -> Result<(Self, Recovered, Vec<StoreLink>), StoreError> {
        assert!(durability != Durability::None);
        assert!(wakes.len() == setup.shard_count);
        let load_error = |error| match error {
            LoadError::Table(_, ref cause) if Fault::of(cause).kind == FaultKind::Damaged => {
                StoreError::Damaged(error, tool::damage_report(setup.path))
            }
            error => StoreError::Load(error),
        };
        let open_error = |error| load_error(LoadError::Open(error));
        let conn = schema::open(setup.path).map_err(open_error)?;
        if durability == Durability::Process {
            conn.pragma_update(None, "synchronous", "NORMAL")
                .map_err(|error| open_error(error.into()))?;
        }
        let mut recovered = load::load(setup).map_err(load_error)?;
        let read_only = schema::open_read_only(setup.path).map_err(open_error)?;
        let log_conn = checkpoint::open(setup.path).map_err(|error| open_error(error.into()))?;
        let ports: Vec<_> = wakes
            .iter()
            .map(|wake| Arc::new(Port::new(Arc::clone(wake))))
            .collect();
        let threads = Arc::new(Threads::default());
        let stop = Arc::new(AtomicBool::new(false));
        let stop_reading = Arc::new(AtomicBool::new(false));
        let reading = Arc::new(Mutex::new(()));
        let stats = Arc::new(StoreStats::default());
        let checkpointer = Checkpointer::start(log_conn, setup.path, Arc::clone(&stats))
            .map_err(StoreError::Thread)?;
        let writer_setup = writer::WriterSetup {
            path: setup.path.to_owned(),
            conn,
            kept: std::mem::take(&mut recovered.kept),
            ports: ports.clone(),
            stop: Arc::clone(&stop),
            reading: Arc::clone(&reading),
            checkpointer,
            stats: Arc::clone(&stats),
            log,
        };
        let reader_setup = reader::ReaderSetup {
            path: setup.path.to_owned(),
            conn: read_only,
            ports: ports.clone(),
            threads: Arc::clone(&threads),
            stop: Arc::clone(&stop_reading),
            reading,
            stats: Arc::clone(&stats),
            log,
        };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.into())
                .spawn(work)
                .map_err(StoreError::Thread)
        };
        let writer = spawn("store", Box::new(move || writer::run(writer_setup)))?;
        let reader = spawn("store-read", Box::new(move || reader::run(&reader_setup)))?;
        // Set once, here.
        let _ = threads.writer.set(writer.thread().clone());
        let _ = threads.reader.set(reader.thread().clone());
        let links = ports
            .into_iter()
            .enumerate()
            .map(|(shard, port)| StoreLink::new(shard, port, Arc::clone(&threads)))
            .collect();
        let store = Self {
            threads,
            writer,
            reader,
            stop,
            stop_reading,
            stats,
        };
        Ok((store, recovered, links))
    }

    /// What it counts.
    pub fn stats(&self) -> &Arc<StoreStats> {
        &self.stats
    }

    /// Writes what still waits and ends the threads. Nothing more may be submitted.
    pub fn stop(self) {
        // The writer is the last to close the database, and so the one that can leave it without a log: the reader cannot write,
        // and of two that close at once neither is the last.
        let threads = [
            (&self.stop_reading, &self.threads.reader, self.reader),
            (&self.stop, &self.threads.writer, self.writer),
        ];
        for (stop, parked, thread) in threads {
            stop.store(true, Ordering::Release);
            if let Some(parked) = parked.get() {
                parked.unpark();
            }
            // A panic has told of itself.
            let _ = thread.join();
        }
    }
}

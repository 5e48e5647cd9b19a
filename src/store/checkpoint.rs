//! The thread that brings the write-ahead log into the database while the writer goes on committing.
//!
//! To copy 64 MB and flush them takes a disk a tenth of a second and more, and a writer that does it itself lets every acknowledgement wait
//! so long. What is left for it is the little that came meanwhile, once the log is to begin anew.
//!
//! To flush a file that grows takes a commit of the file system's journal too, which writes what other programs have not flushed: on a busy
//! disk a second instead of a millisecond. So the thread begins by making the log as long as it will become.

use super::stats::StoreStats;
use super::writer::{PASS_BYTES, WAL_BYTES};
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, OpenFlags, Result};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

/// The length of the log before the first pass: it begins anew at some point before.
const LOG_BYTES: u64 = WAL_BYTES + 2 * PASS_BYTES;
/// What is added to it at once: the writer may have to wait for that.
const PIECE_BYTES: u64 = 4 << 20;

/// What the writer and the thread tell each other.
#[derive(Debug, Default)]
struct Shared {
    is_wanted: AtomicBool,
    stop: AtomicBool,
    /// Frames of the log that the last pass has found or brought into the database.
    done: AtomicU32,
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A connection for it, to the database that another has opened.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    // It finds out about the log when it reads.
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(conn)
}

impl Checkpointer {
    /// Starts the thread.
    pub(super) fn start(
        conn: Connection,
        database: &Path,
        stats: Arc<StoreStats>,
    ) -> io::Result<Self> {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        let log = PathBuf::from(log);
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("store-log".into())
            .spawn(move || run(&conn, &log, &its, &stats))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Begins a pass.
    pub(super) fn begin(&self) {
        self.shared.is_wanted.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Whether a pass is on its way: another checkpoint would wait for it.
    pub(super) fn is_busy(&self) -> bool {
        self.shared.is_wanted.load(Ordering::Acquire)
    }

    /// Frames of a log of so many that are not known to be in the database.
    pub(super) fn left_of(&self, frames: u32) -> u32 {
        let done = self.shared.done.load(Ordering::Relaxed);
        // Or it has begun anew.
        frames.checked_sub(done).unwrap_or(frames)
    }

    /// The log begins anew.
    pub(super) fn forget(&self) {
        self.shared.done.store(0, Ordering::Relaxed);
    }

    /// Ends the thread, once what it has begun is done, and closes its connection.
    pub(super) fn finish(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic has told of itself.
            let _ = thread.join();
        }
    }
}

fn run(conn: &Connection, log: &Path, shared: &Shared, stats: &StoreStats) {
    let mut is_long = false;
    while !shared.stop.load(Ordering::Acquire) {
        if !shared.is_wanted.load(Ordering::Acquire) {
            thread::park();
            continue;
        }
        if !std::mem::replace(&mut is_long, true) {
            // A shorter one is as good, only slower.
            let _ = lengthen(log);
        }
        // One that fails leaves everything in the log, and the writer finds out by itself that the disk does not write.
        if let Ok((_, done)) = conn.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE) {
            let done = u32::try_from(done).unwrap_or(0);
            shared.done.store(done, Ordering::Relaxed);
        }
        stats.checkpoints.fetch_add(1, Ordering::Relaxed);
        shared.is_wanted.store(false, Ordering::Release);
    }
}

/// Adds zeros, which SQLite takes for the end of the log as often as it reads it, and overwrites.
///
/// In append mode, so that whatever SQLite writes meanwhile stands before them. Page by page, because the kernel keeps together what comes in
/// one call, and each time a byte of that is changed it counts all of it as written by this process, though only the page is.
fn lengthen(log: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(log)?;
    let zeros = [0; 4 << 10];
    while file.metadata()?.len() < LOG_BYTES {
        for _ in 0..PIECE_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_data()?;
    }
    Ok(())
}

//! The thread that writes: it takes what waits, commits it, and says so.
//!
//! What a peer waits for is not delayed to gather more: while one transaction is on its way to the disk the next batch gathers by
//! itself, so a batch is as large as the disk is slow. That a client is done with a message is nothing that anybody waits
//! for: such records are written with the next that cannot wait, or after [`GATHER`], so that a message that is stored and fetched
//! costs one flush of the disk where others come behind it, not two. A group is never split.
//!
//! # When the disk refuses
//!
//! The transaction is rolled back and the messages in it are refused to their shards, which refuse them to the
//! publishers. What sessions and clients did stays in the batch, in its net effect, and is tried again every [`RETRY`]
//! with whatever has come since, until it is in. As long as that lasts messages are refused as they come, without a try.
//! A full disk is what happens most, so some space is kept in [`RESERVE_FILE`] and given free for the state of
//! sessions; messages are taken again when that space can be had back, from a shard that knows what was refused: a client that sends its
//! messages again must not find a later one ahead of them.
//!
//! # Checkpoints
//!
//! Another thread brings the write-ahead log into the database, [`PASS_BYTES`] at a time. When it is larger than [`WAL_BYTES`] and
//! nearly all of it is there, or when nothing was written for [`IDLE`], the writer does the rest, so that the log begins anew. The reader is
//! kept out meanwhile, for it can only do so when nobody reads it.

use super::batch::{Batch, is_refusable};
use super::checkpoint::Checkpointer;
use super::fault::Fault;
use super::port::{Group, Port, Reply, Urgency, lock};
use super::stats::{Bytes, HistogramCounts, StoreStats};
use super::sweep::{self, Sweep};
use super::tables::{Kept, Tables};
use super::vacuum::Vacuum;
use super::{StoreLog, give_up};
use crate::config::LogLevel;
use crate::shard::record::Lsn;
use rusqlite::{Connection, hooks::Wal, wal::CheckpointMode};
use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::mem::take;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes of a batch after which no further group is taken into it.
const BATCH_BYTES: usize = 8 << 20;
/// How much of the write-ahead log is brought into the database at once, by the other thread.
pub(super) const PASS_BYTES: u64 = 8 << 20;
/// Size of the write-ahead log at which it is to begin anew.
pub(super) const WAL_BYTES: u64 = 64 << 20;
/// What of it the writer may have to bring into the database then.
const REST_BYTES: u64 = 2 << 20;
/// Size at which it does so whatever is left.
const WAL_BYTES_LATE: u64 = 256 << 20;
/// Size of the write-ahead log at which messages are refused: another program's reading keeps it from beginning anew.
const WAL_BYTES_MAX: u64 = 4 << 30;
/// Time without work after which the log is brought into the database, and free pages are given back.
const IDLE: Duration = Duration::from_secs(1);
/// Time after which what is to be tidied no longer waits for time without work, and between two sweeps beside work.
const OVERDUE: Duration = Duration::from_secs(60);
/// Time between two pieces of a sweep beside work, and after the last.
const PIECE_PAUSE: Duration = Duration::from_millis(20);
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// How long what can wait gathers.
const GATHER: Duration = Duration::from_millis(100);
/// Time between two tries when the disk refuses.
const RETRY: Duration = Duration::from_millis(250);
/// Time between two looks whether the file is still at its place.
const LOOK: Duration = Duration::from_secs(1);
/// What is kept for a full disk.
pub(super) const RESERVE_FILE: &str = "store.reserve";
const RESERVE_BYTES: u64 = 4 << 20;
/// Time between two lines in the log about a fault that goes on, and about the work done.
const REPORT: Duration = Duration::from_secs(60);
/// How long a checkpoint waits for another program that reads.
const CHECKPOINT_BUSY: Duration = Duration::from_millis(20);
/// How long a transaction waits for another program that writes.
const WRITE_BUSY: Duration = Duration::from_secs(2);
/// Time after the start, and then between two, to look for expired retained messages.
const EXPIRE_FIRST: Duration = Duration::from_secs(60);
const EXPIRE: Duration = Duration::from_secs(3_600);
/// How long they have been expired: clocks are set, too.
const EXPIRED_MS: u64 = 3_600_000;

/// What the writer is made from.
pub(super) struct WriterSetup {
    pub(super) path: PathBuf,
    pub(super) conn: Connection,
    pub(super) kept: Kept,
    pub(super) ports: Vec<Arc<Port>>,
    pub(super) stop: Arc<AtomicBool>,
    /// Held while somebody of this process reads the database.
    pub(super) reading: Arc<Mutex<()>>,
    pub(super) checkpointer: Checkpointer,
    pub(super) stats: Arc<StoreStats>,
    pub(super) log: StoreLog,
}

struct Writer<'c> {
    path: PathBuf,
    reserve: PathBuf,
    tables: Tables<'c>,
    ports: Vec<Arc<Port>>,
    reading: Arc<Mutex<()>>,
    checkpointer: Checkpointer,
    stats: Arc<StoreStats>,
    log: StoreLog,
    page_bytes: u64,
    /// Frames in the write-ahead log, as SQLite's hook says after each commit.
    wal_pages: Arc<AtomicU32>,
    /// Until when what can wait stays with the ports, if there is such.
    gather_until: Option<Instant>,
    /// Taken from the ports and not yet in a batch.
    waiting: VecDeque<(usize, Group)>,
    batch: Batch,
    /// Per port: the last record taken into the batch, and the bytes charged for it.
    taken: Vec<(Lsn, usize)>,
    sweep: Option<Sweep>,
    vacuum: Vacuum,
    /// Pages were given back, and the file does not know it yet.
    is_to_be_shorter: bool,
    /// When a piece of them may be done beside work, and when one is to begin there however little there is for it.
    piece_at: Instant,
    overdue_at: Instant,
    /// The topic after which the search for expired retained messages goes on, and when the next begins.
    expired_after: Option<String>,
    expire_at: Instant,
    failing: Option<Failing>,
    /// Times it began to fail.
    failures: u64,
    /// Which file the database was when it was opened, and when to look again whether it still is.
    file: Option<FileId>,
    look_at: Instant,
    report: Report,
}

struct Failing {
    fault: Fault,
    since: Instant,
    retry_at: Instant,
    report_at: Instant,
    refused: u64,
}

/// Device and inode.
type FileId = (u64, u64);

/// What the last report on the work done was based on.
struct Report {
    at: Instant,
    commit: HistogramCounts,
    batch: HistogramCounts,
    checkpoint: HistogramCounts,
    commits: u64,
    records: u64,
    written_bytes: u64,
}

/// Writes until it is asked to stop, then whatever still waits.
pub(super) fn run(setup: WriterSetup) {
    let WriterSetup {
        path,
        mut conn,
        kept,
        ports,
        stop,
        reading,
        checkpointer,
        stats,
        log,
    } = setup;
    let wal_pages = Arc::new(AtomicU32::new(0));
    let pages = Arc::clone(&wal_pages);
    let hook = move |_: &mut Wal, count| {
        pages.store(u32::try_from(count).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    };
    let prepared = conn
        .wal_hook(Some(hook))
        .and_then(|()| conn.busy_timeout(WRITE_BUSY))
        .and_then(|()| conn.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0)))
        .and_then(|page_bytes| Ok((page_bytes, Tables::new(&conn, kept)?)));
    let (page_bytes, tables) = match prepared {
        Ok(prepared) => prepared,
        // It was written a moment ago by the same program.
        Err(error) => give_up(log, &path, &error),
    };
    let count = ports.len();
    let report = Report::new(&stats, Instant::now());
    let reserve = path.with_file_name(RESERVE_FILE);
    // Without it a full disk is the same, only sooner.
    let _ = make_reserve(&reserve);
    let file = file_id(&path);
    let mut writer = Writer {
        path,
        reserve,
        tables,
        ports,
        reading,
        checkpointer,
        stats,
        log,
        page_bytes: u64::from(page_bytes),
        wal_pages,
        gather_until: None,
        waiting: VecDeque::new(),
        batch: Batch::new(count),
        taken: vec![(Lsn(0), 0); count],
        sweep: None,
        vacuum: Vacuum::new(Instant::now()),
        is_to_be_shorter: false,
        piece_at: Instant::now(),
        overdue_at: Instant::now() + OVERDUE,
        expired_after: None,
        expire_at: Instant::now() + EXPIRE_FIRST,
        failing: None,
        failures: 0,
        file,
        look_at: Instant::now(),
        report,
    };
    writer.serve(&stop);
    writer.end();
}

impl Writer<'_> {
    fn serve(&mut self, stop: &AtomicBool) {
        let mut idle_since = Instant::now();
        loop {
            // Before looking: what is left before the request to stop is seen after it.
            let stopping = stop.load(Ordering::Acquire);
            let now = Instant::now();
            self.report_work(now);
            if !stopping && let Some(rest) = self.gathers(now) {
                thread::park_timeout(rest);
                continue;
            }
            self.take();
            if let Some(failing) = &mut self.failing {
                let retry_at = failing.retry_at;
                if now >= retry_at || stopping {
                    self.retry();
                } else {
                    self.refuse();
                    thread::park_timeout(retry_at - now);
                }
                if stopping {
                    return;
                }
            } else if self.has_taken() {
                self.write();
                self.keep_log_short();
                self.tidy_beside_work();
                idle_since = now;
            } else if stopping {
                return;
            } else if now - idle_since < IDLE {
                // What has begun goes on between writes that come now and then.
                self.tidy_beside_work();
                let has_more = self.is_sweeping() || self.vacuum.has_more();
                thread::park_timeout(if has_more { PIECE_PAUSE } else { IDLE });
            } else if !self.tidy() {
                let has_log = self.wal_bytes() > 0 || self.sweep.is_some();
                thread::park_timeout(if has_log { IDLE } else { REPORT });
            }
        }
    }

    /// For how much longer all that there is to write can wait.
    fn gathers(&mut self, now: Instant) -> Option<Duration> {
        let until = self.gather_until.take().unwrap_or(now + GATHER);
        let urgency = self.ports.iter().map(|port| port.urgency()).max();
        let can_wait = urgency == Some(Urgency::CanWait) && self.waiting.is_empty();
        if !can_wait || self.failing.is_some() || now >= until {
            return None;
        }
        self.gather_until = Some(until);
        Some(until - now)
    }

    /// Fills the batch with what waits.
    fn take(&mut self) {
        for (shard, port) in self.ports.iter().enumerate() {
            self.waiting
                .extend(port.take_groups().into_iter().map(|group| (shard, group)));
        }
        let mut bytes: usize = self.taken.iter().map(|(_, bytes)| bytes).sum();
        while bytes < BATCH_BYTES
            && let Some((shard, group)) = self.waiting.pop_front()
        {
            bytes += group.bytes;
            self.taken[shard].1 += group.bytes;
            let knows_refusals = group.failures == self.failures;
            let mut refused = Vec::new();
            let mut lsn = group.first;
            for record in group.records {
                if knows_refusals || !is_refusable(&record) {
                    self.batch.add(shard, lsn, record);
                } else {
                    refused.push(lsn);
                }
                self.taken[shard].0 = lsn;
                lsn.0 += 1;
            }
            self.tell_refused(shard, refused);
        }
    }

    fn has_taken(&self) -> bool {
        self.taken.iter().any(|(_, bytes)| *bytes > 0)
    }

    /// Commits the batch, or refuses what can be refused of it.
    fn write(&mut self) {
        let begin = Instant::now();
        match self.write_within_bounds() {
            Ok(()) => {
                self.stats.commit.record_time(begin.elapsed());
                self.settle();
            }
            Err(fault) => self.failed(fault),
        }
    }

    /// All that was taken is durable, or was refused.
    fn settle(&mut self) {
        self.batch = Batch::new(self.ports.len());
        for (port, (last, bytes)) in self.ports.iter().zip(&mut self.taken) {
            if *bytes > 0 || port.durable() != *last {
                port.finish(*last, take(bytes));
            }
        }
    }

    /// Tries again what could not be written, and ends the failing when there is room for more.
    fn retry(&mut self) {
        self.refuse();
        let has_room = make_reserve(&self.reserve).is_ok();
        if !has_room {
            // What is there of it is for the batch.
            let _ = fs::remove_file(&self.reserve);
        }
        match self.write_within_bounds() {
            Ok(()) => {
                self.settle();
                if has_room {
                    self.recovered();
                } else if let Some(failing) = &mut self.failing {
                    failing.retry_at = Instant::now() + RETRY;
                }
            }
            Err(fault) => self.failed(fault),
        }
    }

    fn write_within_bounds(&mut self) -> Result<(), Fault> {
        let now = Instant::now();
        if self.failing.is_some() || now >= self.look_at {
            self.look_at = now + LOOK;
            if file_id(&self.path) != self.file {
                return Err(Fault::missing());
            }
        }
        if self.wal_bytes() > WAL_BYTES_MAX {
            self.checkpoint();
            if self.wal_bytes() > WAL_BYTES_MAX {
                return Err(Fault::log_too_long());
            }
        }
        let wal_before = self.wal_pages.load(Ordering::Relaxed);
        let rows = self
            .tables
            .write(&mut self.batch, now_ms(), now)
            .map_err(|error| Fault::of(&error))?;
        if let Some(sweep) = &mut self.sweep {
            sweep.note(&self.batch, &self.tables.kept);
        }
        let wal_pages = self.wal_pages.load(Ordering::Relaxed);
        // When the log has begun anew all of its pages are from this commit.
        let pages = if wal_pages >= wal_before {
            wal_pages - wal_before
        } else {
            wal_pages
        };
        let stats = &self.stats;
        stats.commits.fetch_add(1, Ordering::Relaxed);
        stats
            .records
            .fetch_add(self.batch.records, Ordering::Relaxed);
        stats.batch.record(self.batch.records);
        stats.messages.fetch_add(rows.messages, Ordering::Relaxed);
        stats
            .annihilated
            .fetch_add(rows.annihilated, Ordering::Relaxed);
        stats
            .written_bytes
            .fetch_add(self.bytes_of(pages), Ordering::Relaxed);
        stats.wal_bytes.store(self.wal_bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn failed(&mut self, fault: Fault) {
        let now = Instant::now();
        let is_new = self.failing.is_none();
        match &mut self.failing {
            Some(failing) => {
                failing.retry_at = now + RETRY;
                failing.fault = fault;
            }
            None => {
                self.failing = Some(Failing {
                    fault,
                    since: now,
                    retry_at: now + RETRY,
                    report_at: now,
                    refused: 0,
                });
                self.failures += 1;
                self.stats.failing.store(1, Ordering::Relaxed);
                for port in &self.ports {
                    port.reply(Reply::Available(false));
                }
            }
        }
        self.refuse();
        if is_new && fs::remove_file(&self.reserve).is_ok() && self.write_within_bounds().is_ok() {
            self.settle();
        }
        self.report_fault(now);
    }

    /// Tells the shards which records of the batch are not kept. What else it holds stays.
    fn refuse(&mut self) {
        let refused = self.batch.refuse();
        for message in refused.messages {
            self.tables.kept.forget(message);
        }
        for (shard, records) in refused.records.into_iter().enumerate() {
            self.tell_refused(shard, records);
            let port = &self.ports[shard];
            let (last, bytes) = &mut self.taken[shard];
            // Settled is what stands before the first record that waits for the disk. What waits is bounded by what
            // there is, and must not keep the core from reading.
            let settled = self.batch.steadfast[shard].map_or(*last, |first| Lsn(first.0 - 1));
            if *bytes > 0 {
                port.finish(settled, take(bytes));
            }
        }
    }

    fn tell_refused(&mut self, shard: usize, records: Vec<Lsn>) {
        if records.is_empty() {
            return;
        }
        let count = records.len() as u64;
        self.stats.refused.fetch_add(count, Ordering::Relaxed);
        if let Some(failing) = &mut self.failing {
            failing.refused += count;
        }
        self.ports[shard].reply(Reply::Refused(records));
    }

    fn recovered(&mut self) {
        let Some(failing) = self.failing.take() else {
            return;
        };
        self.stats.failing.store(0, Ordering::Relaxed);
        (self.log)(
            LogLevel::Info,
            format!(
                "{}: can be written again after {} s; {} messages were refused meanwhile, nothing acknowledged was lost.",
                self.path.display(),
                failing.since.elapsed().as_secs(),
                failing.refused
            ),
        );
        for port in &self.ports {
            port.reply(Reply::Available(true));
        }
    }

    fn report_fault(&mut self, now: Instant) {
        let Some(failing) = &mut self.failing else {
            return;
        };
        if now < failing.report_at {
            return;
        }
        failing.report_at = now + REPORT;
        (self.log)(
            LogLevel::Error,
            format!(
                "{}: {}. Until then messages that must be stored are refused ({} so far); QoS 0 goes on.",
                self.path.display(),
                failing.fault,
                failing.refused
            ),
        );
    }

    fn report_work(&mut self, now: Instant) {
        self.report_fault(now);
        if now - self.report.at < REPORT {
            return;
        }
        let new = Report::new(&self.stats, now);
        let old = std::mem::replace(&mut self.report, new);
        let commits = self.report.commits - old.commits;
        if commits == 0 {
            return;
        }
        let records = self.report.records - old.records;
        let commit = self.report.commit.since(&old.commit);
        let batch = self.report.batch.since(&old.batch);
        let checkpoint = self.report.checkpoint.since(&old.checkpoint);
        let early: u64 = self.ports.iter().map(|port| port.acked_not_durable()).sum();
        (self.log)(
            LogLevel::Info,
            format!(
                "store: {records} records in {commits} commits of p50 {} p99 {} records, commit p50 {:?} p99 {:?}, checkpoint p99 {:?}, {} written \
                 to the log, {} in it now, {early} acknowledged before they were durable.",
                batch.quantile(500),
                batch.quantile(990),
                commit.time(500),
                commit.time(990),
                checkpoint.time(990),
                Bytes(self.report.written_bytes - old.written_bytes),
                Bytes(self.wal_bytes()),
            ),
        );
    }

    fn wal_bytes(&self) -> u64 {
        self.bytes_of(self.wal_pages.load(Ordering::Relaxed))
    }

    /// What so many frames of the log take.
    fn bytes_of(&self, frames: u32) -> u64 {
        u64::from(frames) * (self.page_bytes + 24)
    }

    /// After a commit.
    fn keep_log_short(&mut self) {
        if self.checkpointer.is_busy() {
            return;
        }
        let frames = self.wal_pages.load(Ordering::Relaxed);
        let bytes = self.bytes_of(frames);
        let left = self.bytes_of(self.checkpointer.left_of(frames));
        let is_due = bytes > WAL_BYTES || self.is_to_be_shorter;
        if bytes > WAL_BYTES_LATE || is_due && left < REST_BYTES {
            self.checkpoint();
        } else if left > PASS_BYTES || is_due {
            self.checkpointer.begin();
        }
    }

    /// Brings the rest of the log into the database, so that the next commit begins it anew.
    fn checkpoint(&mut self) {
        let begin = Instant::now();
        let result = {
            let _reading = lock(&self.reading);
            let conn = self.tables.conn;
            conn.busy_timeout(CHECKPOINT_BUSY)
                .and_then(|()| conn.wal_checkpoint_v2(None::<&str>, CheckpointMode::RESTART))
                .and_then(|result| conn.busy_timeout(WRITE_BUSY).map(|()| result))
        };
        // One that is kept from it, or fails, comes again: everything is in the log.
        if result.is_ok() {
            self.wal_pages.store(0, Ordering::Relaxed);
            self.checkpointer.forget();
            self.is_to_be_shorter = false;
        }
        self.stats.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.stats.checkpoint.record_time(begin.elapsed());
        self.stats
            .wal_bytes
            .store(self.wal_bytes(), Ordering::Relaxed);
    }

    /// Goes on with the sweep if it has waited for long or much has gathered, and then gives back pages that are spare: there may be work
    /// without a pause for years, and what is gone takes memory and space until then.
    fn tidy_beside_work(&mut self) {
        let now = Instant::now();
        if self.failing.is_some() || now < self.piece_at {
            return;
        }
        let sweeps =
            self.is_sweeping() || now >= self.overdue_at || sweep::is_much(&self.tables.kept);
        let was_giving_back = self.vacuum.has_more();
        // What fails is tried again the next time.
        let has_more =
            sweeps && self.sweep() || self.vacuum.step(self.tables.conn, now).unwrap_or(false);
        // The file becomes shorter with a checkpoint, which would be far where little is written, and only with one during which
        // nothing is.
        self.is_to_be_shorter |= was_giving_back && !self.vacuum.has_more();
        self.keep_log_short();
        let pause = if has_more { PIECE_PAUSE } else { SWEEP_PAUSE };
        self.piece_at = Instant::now() + pause;
    }

    fn is_sweeping(&self) -> bool {
        self.sweep.is_some() || self.expired_after.is_some()
    }

    /// Does a piece of what can wait, and returns whether there is more.
    fn tidy(&mut self) -> bool {
        self.tables.kept.forget_old(Instant::now());
        if self.sweep() || self.vacuum.step_idle(self.tables.conn).unwrap_or(false) {
            self.keep_log_short();
            return true;
        }
        if self.wal_bytes() > 0 && !self.checkpointer.is_busy() {
            self.checkpoint();
        }
        false
    }

    /// Removes a piece of what nobody waits for any more, and returns whether there is more.
    fn sweep(&mut self) -> bool {
        if self.sweep.is_none() {
            self.sweep = Sweep::begin(&self.tables);
        }
        if let Some(sweep) = &mut self.sweep {
            match sweep.step(&mut self.tables) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => (self.log)(
                    LogLevel::Warn,
                    format!("{}: {}", self.path.display(), Fault::of(&error)),
                ),
            }
            self.sweep = None;
        }
        if Instant::now() >= self.expire_at {
            let after = self.expired_after.take().unwrap_or_default();
            let before_ms = now_ms().saturating_sub(EXPIRED_MS);
            // What fails is tried again the next time.
            self.expired_after =
                sweep::remove_expired(&mut self.tables, &after, before_ms).unwrap_or(None);
            if self.expired_after.is_some() {
                return true;
            }
            self.expire_at = Instant::now() + EXPIRE;
        }
        self.overdue_at = Instant::now() + OVERDUE;
        false
    }

    fn end(mut self) {
        self.checkpointer.finish();
        if !self.batch.is_empty() {
            (self.log)(
                LogLevel::Error,
                format!(
                    "{}: {} records could not be written: the state of sessions is as it was when the disk began to fail.",
                    self.path.display(),
                    self.batch.records
                ),
            );
        }
        self.checkpoint();
    }
}

impl Report {
    fn new(stats: &StoreStats, now: Instant) -> Self {
        Self {
            at: now,
            commit: stats.commit.snapshot(),
            batch: stats.batch.snapshot(),
            checkpoint: stats.checkpoint.snapshot(),
            commits: stats.commits.load(Ordering::Relaxed),
            records: stats.records.load(Ordering::Relaxed),
            written_bytes: stats.written_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Which file is there; `None` when none is.
fn file_id(path: &Path) -> Option<FileId> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Makes the file that keeps some space, unless it is there.
fn make_reserve(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| found.len() == RESERVE_BYTES) {
        return Ok(());
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let zeros = vec![0; 64 << 10];
    for _ in 0..RESERVE_BYTES / zeros.len() as u64 {
        file.write_all(&zeros)?;
    }
    // Some file systems find out only then that there is no space.
    file.sync_data()
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

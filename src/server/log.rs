//! The log: one line per event on stderr.
//!
//! Nobody but the threads that write waits for stderr: whoever reads it may stand still, and must stop neither a core, nor the
//! store, nor the thread that is to end the process. What it does not take in time is dropped and counted.
//!
//! Lines about clients come from the cores as records (`net::events`). What a flood left out is told every ten seconds; at
//! level `debug` nothing is left out. The broker's own lines have a queue of their own, so that no flood takes their room. When the
//! process ends, [`flush`] gives stderr a moment for them.

use crate::config::LogLevel;
use crate::net::events::{LogRecord, LogTally};
use crate::shard::outbox::Event;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often it is told what was left out.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// The broker's own lines that may wait for stderr.
const LINES_MAX: usize = 1024;
/// How long stderr may take for what waits, when the process has started or ends.
pub(super) const FLUSH_TIME: Duration = Duration::from_secs(2);
/// How often it is looked whether a full queue has room again.
const FLUSH_POLL: Duration = Duration::from_millis(5);

static LOG: OnceLock<Log> = OnceLock::new();
/// The least severe level that is logged, a `LogLevel`.
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);

#[derive(Debug)]
struct Log {
    stamp: Stamp,
    lines: Lines,
}

/// The end of the queue of the broker's own lines at which they are put in.
#[derive(Debug)]
struct Lines {
    entries: SyncSender<Entry>,
    /// Lines that found it full and have not been told of.
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Line(String),
    /// Somebody waits until what was put in before it is written.
    Flush(SyncSender<()>),
}

/// What begins a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    /// The time, in UTC.
    Time,
    /// The priority that journald reads; it knows the time itself.
    Priority,
}

/// Sets the level, and the form that fits where stderr goes, and starts the thread that writes the broker's own lines.
///
/// Panics: when it is called twice.
pub(super) fn start(level: LogLevel) -> io::Result<()> {
    let stamp = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => Stamp::Priority,
        None => Stamp::Time,
    };
    let (lines, entries) = Lines::new(LINES_MAX);
    let lost = Arc::clone(&lines.lost);
    thread::Builder::new()
        .name("log-broker".into())
        .spawn(move || write_lines(&entries, &lost, stamp, io::stderr()))?;
    let log = Log { stamp, lines };
    assert!(LOG.set(log).is_ok(), "the log is started once");
    set_level(level);
    Ok(())
}

/// Changes what is logged from now on.
pub(super) fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

fn is_logged(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Has a line about the broker itself written; does not wait for it.
pub(super) fn line(level: LogLevel, text: impl fmt::Display) {
    if !is_logged(level) {
        return;
    }
    match LOG.get() {
        Some(log) => log
            .lines
            .put(render(log.stamp, now_ms(), level, &text.to_string())),
        // Nothing runs yet that this could hold up.
        None => write(&render(Stamp::Time, now_ms(), level, &text.to_string())),
    }
}

/// Waits until the broker's own lines are written, for [`FLUSH_TIME`] at most.
pub(super) fn flush() {
    if let Some(log) = LOG.get() {
        log.lines.flush(FLUSH_TIME);
    }
}

impl Lines {
    fn new(lines_max: usize) -> (Self, Receiver<Entry>) {
        let (entries, receiver) = sync_channel(lines_max);
        let lost = Arc::default();
        (Self { entries, lost }, receiver)
    }

    fn put(&self, line: String) {
        if self.entries.try_send(Entry::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let (written, is_written) = sync_channel(1);
        let mut flush = Entry::Flush(written);
        while let Err(TrySendError::Full(back)) = self.entries.try_send(flush) {
            if Instant::now() >= deadline {
                return;
            }
            flush = back;
            thread::sleep(FLUSH_POLL);
        }
        // What is not written by then is lost with the process.
        let _ = is_written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Writes the broker's own lines, until nobody can put any in.
fn write_lines(entries: &Receiver<Entry>, lost: &AtomicU64, stamp: Stamp, mut out: impl Write) {
    let mut put = |line: &str| {
        // A log that cannot be written has nowhere to say so.
        let _ = out.write_all(line.as_bytes());
    };
    for entry in entries {
        let flush = match entry {
            Entry::Line(line) => {
                put(&line);
                None
            }
            Entry::Flush(written) => Some(written),
        };
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = format!("{lost} lines about the broker were lost: the log was not read.");
            put(&render(stamp, now_ms(), LogLevel::Warn, &text));
        }
        if let Some(written) = flush {
            // Who has waited long enough does not any more.
            let _ = written.try_send(());
        }
    }
}

/// Writes the records of the cores until all of their sinks are gone; then what is returned reports the close.
pub(super) fn spawn_writer(
    records: Receiver<Box<LogRecord>>,
    tally: Arc<LogTally>,
) -> io::Result<Receiver<()>> {
    let (writing, written) = sync_channel(1);
    thread::Builder::new().name("log".into()).spawn(move || {
        write_records(&records, &tally);
        drop(writing);
    })?;
    Ok(written)
}

fn write_records(records: &Receiver<Box<LogRecord>>, tally: &LogTally) {
    let log = LOG.get().expect("the log is started before its writer");
    let mut tell_at = Instant::now() + TELL_EVERY;
    loop {
        tally.take_all(is_logged(LogLevel::Debug));
        let now = Instant::now();
        if now >= tell_at {
            tell_at = now + TELL_EVERY;
            for (kind, count) in tally.left_out() {
                log.write(
                    LogLevel::Info,
                    &format!("{count} more lines about clients {kind} were left out."),
                );
            }
        }
        match records.recv_timeout(tell_at.saturating_duration_since(now)) {
            Ok(record) => {
                let level = match record.event {
                    Event::Dropped { .. }
                    | Event::TurnedAway { .. }
                    | Event::Banned { .. }
                    | Event::Denied { .. }
                    | Event::Limited { .. } => LogLevel::Warn,
                    _ => LogLevel::Info,
                };
                if is_logged(level) {
                    log.write(level, &record.to_string());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Log {
    fn write(&self, level: LogLevel, text: &str) {
        write(&render(self.stamp, now_ms(), level, text));
    }
}

fn write(line: &str) {
    // A log that cannot be written has nowhere to say so.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

fn render(stamp: Stamp, now_ms: u64, level: LogLevel, text: &str) -> String {
    match stamp {
        Stamp::Time => format!("{} {:<5} {text}\n", Utc(now_ms), level.name()),
        Stamp::Priority => {
            let priority = match level {
                LogLevel::Error => 3,
                LogLevel::Warn => 4,
                LogLevel::Info => 6,
                LogLevel::Debug => 7,
            };
            format!("<{priority}>{text}\n")
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since the Unix epoch as `2026-08-21T10:00:00.123Z`.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (year, month, day) = crate::civil::from_days(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let millis = self.0 % 1000;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_what_their_reader_needs() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_704_067_199_999, "2023-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Utc(ms).to_string(), text);
        }
        assert_eq!(render(Stamp::Priority, 0, LogLevel::Warn, "x"), "<4>x\n");
        assert_eq!(
            render(Stamp::Time, 0, LogLevel::Warn, "x"),
            "1970-01-01T00:00:00.000Z warn  x\n"
        );
    }

    /// A reader that stands still: what is written waits until the test takes it.
    struct Pipe(SyncSender<String>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8(bytes.to_vec()).expect("lines are text");
            let sent = self.0.send(text);
            sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_who_reads_the_log() {
        let (lines, entries) = Lines::new(4);
        let (pipe, reader) = sync_channel(0);
        let lost = Arc::clone(&lines.lost);
        let writer =
            thread::spawn(move || write_lines(&entries, &lost, Stamp::Priority, Pipe(pipe)));
        for number in 0..100 {
            lines.put(format!("{number}\n"));
        }
        let begin = Instant::now();
        lines.flush(Duration::from_millis(50));
        assert!(begin.elapsed() < Duration::from_secs(5));
        // It goes on reading: what was kept comes in order, and then how much was not.
        let reader = thread::spawn(move || reader.iter().collect::<Vec<_>>());
        lines.flush(Duration::from_secs(30));
        lines.put("last\n".into());
        drop(lines);
        writer.join().unwrap();
        let said = reader.join().unwrap();
        let told = said
            .iter()
            .position(|line| line.starts_with("<4>"))
            .unwrap();
        let lost = 100 - (said.len() - 2);
        assert_eq!(
            said[told],
            format!("<4>{lost} lines about the broker were lost: the log was not read.\n")
        );
        assert_eq!(
            (said[0].as_str(), said[said.len() - 1].as_str()),
            ("0\n", "last\n")
        );
        assert!((4..=5).contains(&(100 - lost)), "{lost}");
    }
}

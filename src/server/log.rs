//! The log: one line per event on stderr.
//!
//! Lines about clients come from the cores as records (`net::events`), and one thread writes them, so that no
//! core waits for stderr. What a flood left out is told every ten seconds; at level `debug` nothing is left out.

use crate::config::LogLevel;
use crate::net::events::{LogRecord, LogTally};
use crate::shard::outbox::Event;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often it is told what was left out.
const TELL_EVERY: Duration = Duration::from_secs(10);

static LOG: OnceLock<Log> = OnceLock::new();
/// The least severe level that is logged, a `LogLevel`.
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);

#[derive(Clone, Copy)]
struct Log {
    stamp: Stamp,
}

/// What begins a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    /// The time, in UTC.
    Time,
    /// The priority that journald reads; it knows the time itself.
    Priority,
}

/// Sets the level, and the form that fits where stderr goes.
///
/// Panics: when it is called twice.
pub(super) fn start(level: LogLevel) {
    let stamp = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => Stamp::Priority,
        None => Stamp::Time,
    };
    assert!(LOG.set(Log { stamp }).is_ok(), "the log is started once");
    set_level(level);
}

/// Changes what is logged from now on.
pub(super) fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

fn is_logged(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Writes a line about the broker itself.
pub(super) fn line(level: LogLevel, text: impl fmt::Display) {
    let log = LOG.get().copied().unwrap_or(Log { stamp: Stamp::Time });
    if is_logged(level) {
        log.write(level, &text.to_string());
    }
}

/// Writes the records of the cores until all of their sinks are gone.
pub(super) fn spawn_writer(
    records: Receiver<LogRecord>,
    tally: Arc<LogTally>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("log".into())
        .spawn(move || write_records(&records, &tally))
}

fn write_records(records: &Receiver<LogRecord>, tally: &LogTally) {
    let log = LOG
        .get()
        .copied()
        .expect("the log is started before its writer");
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
    fn write(self, level: LogLevel, text: &str) {
        let line = render(self.stamp, now_ms(), level, text);
        // A log that cannot be written has nowhere to say so.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
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
}

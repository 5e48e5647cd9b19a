//! The log: one line per event on stderr.
//!
//! Lines about clients come from the cores as records (`net::events`), and one thread writes them, so that no
//! core waits for stderr. A reconnect loop must not fill a disk: of records of one kind in ten seconds, only
//! so many are written, and the rest are counted. At level `debug` nothing is left out.

use crate::config::LogLevel;
use crate::net::events::LogRecord;
use crate::shard::outbox::Event;
use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Records of one kind written in one window; more are counted.
const KIND_RECORDS_MAX: u32 = 200;
const WINDOW_MS: u64 = 10_000;

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
pub(super) fn spawn_writer(records: Receiver<LogRecord>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("log".into())
        .spawn(move || write_records(&records))
}

fn write_records(records: &Receiver<LogRecord>) {
    let log = LOG
        .get()
        .copied()
        .expect("the log is started before its writer");
    let mut limiters = [Limiter::default(); KINDS.len()];
    loop {
        let record = records.recv_timeout(Duration::from_millis(WINDOW_MS));
        let now_ms = now_ms();
        for (kind, limiter) in limiters.iter_mut().enumerate() {
            if let Some(count) = limiter.due(now_ms) {
                let kind = KINDS[kind];
                log.write(
                    LogLevel::Info,
                    &format!("{count} more lines about clients {kind} were left out."),
                );
            }
        }
        match record {
            Ok(record) => {
                let level = match record.event {
                    Event::Dropped { .. }
                    | Event::TurnedAway { .. }
                    | Event::Banned { .. }
                    | Event::Denied { .. }
                    | Event::Limited { .. } => LogLevel::Warn,
                    _ => LogLevel::Info,
                };
                let kind = kind(&record.event);
                let admitted = is_logged(LogLevel::Debug) || limiters[kind].admits(now_ms);
                if is_logged(level) && admitted {
                    log.write(level, &record.to_string());
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

const KINDS: [&str; 9] = [
    "connected",
    "refused",
    "disconnected",
    "taken over",
    "and what was dropped",
    "banned",
    "and their limits",
    "turned away",
    "and what was denied",
];

fn kind(event: &Event) -> usize {
    match event {
        Event::ClientConnected { .. } => 0,
        Event::ConnectRefused { .. } => 1,
        Event::ClientDisconnected { .. } => 2,
        Event::ClientTakeover { .. } => 3,
        Event::Dropped { .. } => 4,
        Event::Banned { .. } => 5,
        Event::Limited { .. } => 6,
        Event::TurnedAway { .. } => 7,
        Event::Denied { .. } => 8,
    }
}

/// How many lines of one kind were written in the window, and how many were not.
#[derive(Clone, Copy, Default)]
struct Limiter {
    window_start_ms: u64,
    written: u32,
    left_out: u32,
}

impl Limiter {
    /// Whether one more line may be written.
    fn admits(&mut self, now_ms: u64) -> bool {
        if self.is_over(now_ms) {
            *self = Self {
                window_start_ms: now_ms,
                ..Self::default()
            };
        }
        if self.written < KIND_RECORDS_MAX {
            self.written += 1;
            return true;
        }
        self.left_out = self.left_out.saturating_add(1);
        false
    }

    /// The lines left out in a window that is over, once.
    fn due(&mut self, now_ms: u64) -> Option<u32> {
        if self.left_out == 0 || !self.is_over(now_ms) {
            return None;
        }
        Some(std::mem::take(&mut self.left_out))
    }

    /// A clock that jumps back ends the window too.
    fn is_over(&self, now_ms: u64) -> bool {
        now_ms.abs_diff(self.window_start_ms) >= WINDOW_MS
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
    fn a_flood_is_cut_and_counted() {
        let mut limiter = Limiter::default();
        let admitted = (0..KIND_RECORDS_MAX + 30)
            .filter(|_| limiter.admits(50_000))
            .count();
        assert_eq!(admitted, KIND_RECORDS_MAX as usize);
        assert_eq!(limiter.due(50_000), None);
        assert_eq!(limiter.due(50_000 + WINDOW_MS), Some(30));
        assert_eq!(limiter.due(50_000 + WINDOW_MS), None);
        assert!(limiter.admits(50_000 + WINDOW_MS));
    }

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

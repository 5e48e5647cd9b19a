//! The log: one line per event on stderr, written by its own thread.
//!
//! No shard waits for stderr: a line goes into a bounded queue, and what does not fit is dropped and
//! counted. Events that clients cause are limited too, so that a reconnect loop cannot fill a disk.
//! The sentences about clients are those of mosquitto, which log scrapers know.

use crate::config::LogLevel;
use crate::protocol::{ReasonCode, Version};
use crate::shard::outbox::Event;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Lines waiting for stderr.
const QUEUE_LINES_MAX: usize = 4096;
/// Lines of one kind in one window; more are counted.
const KIND_LINES_MAX: u32 = 200;
const WINDOW_MS: u64 = 10_000;

static LOG: OnceLock<Log> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

struct Log {
    level: LogLevel,
    queue: SyncSender<Entry>,
}

enum Entry {
    Line { level: LogLevel, kind: Kind, text: String },
    Flush(SyncSender<()>),
}

/// What repeats together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The broker itself: never left out.
    Broker,
    NewConnection,
    Connected,
    Refused,
    Disconnected,
    Takeover,
    /// What a shell reports of a connection or a core, such as a refused descriptor.
    Trouble,
}

/// Where and how the lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    /// With the time, in UTC.
    Time,
    /// With the priority that journald reads; it knows the time itself.
    Priority,
}

/// Starts the log. Lines before this go to stderr directly.
///
/// Panics: when it is called twice.
pub(crate) fn start(level: LogLevel) -> io::Result<()> {
    let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
    let stamp = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => Stamp::Priority,
        None => Stamp::Time,
    };
    let limited = level < LogLevel::Debug;
    thread::Builder::new().name("log".into()).spawn(move || write_lines(&lines, stamp, limited))?;
    let started = LOG.set(Log { level, queue });
    assert!(started.is_ok(), "the log is started once");
    Ok(())
}

/// Writes a line about the broker itself.
pub(crate) fn line(level: LogLevel, text: impl fmt::Display) {
    push(level, Kind::Broker, || text.to_string());
}

/// Writes a line about trouble that may repeat with every connection or turn.
pub(crate) fn trouble(level: LogLevel, text: impl fmt::Display) {
    push(level, Kind::Trouble, || text.to_string());
}

/// Writes the line about a connection that was accepted on `port`.
pub(crate) fn new_connection(peer: SocketAddr, port: u16) {
    push(LogLevel::Info, Kind::NewConnection, || format!("New connection from {peer} on port {port}."));
}

/// Writes the line about an event of a client whose connection comes from `peer`.
pub(crate) fn event(event: &Event, peer: SocketAddr) {
    let (level, kind) = match event {
        Event::ClientConnected { .. } => (LogLevel::Info, Kind::Connected),
        Event::ConnectRefused { .. } => (LogLevel::Info, Kind::Refused),
        Event::ClientDisconnected { .. } => (LogLevel::Info, Kind::Disconnected),
        Event::ClientTakeover { .. } => (LogLevel::Info, Kind::Takeover),
    };
    push(level, kind, || sentence(event, peer));
}

/// Waits until every line so far is written, but not longer than a second.
pub(crate) fn flush() {
    if let Some(log) = LOG.get() {
        let (done, wait) = sync_channel(1);
        if log.queue.send(Entry::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }
}

fn push(level: LogLevel, kind: Kind, text: impl FnOnce() -> String) {
    let Some(log) = LOG.get() else {
        eprintln!("{}", text());
        return;
    };
    if level <= log.level && log.queue.try_send(Entry::Line { level, kind, text: text() }).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_lines(lines: &Receiver<Entry>, stamp: Stamp, limited: bool) {
    let mut limiters = [Limiter::default(); Kind::COUNT];
    loop {
        let entry = lines.recv_timeout(Duration::from_millis(WINDOW_MS));
        let now_ms = now_ms();
        let mut out = io::stderr().lock();
        // A log that cannot be written has nowhere to say so.
        let mut put = |level, text: &str| drop(out.write_all(render(stamp, now_ms, level, text).as_bytes()));
        for (kind, limiter) in limiters.iter_mut().enumerate() {
            if let Some(count) = limiter.due(now_ms) {
                put(LogLevel::Info, &format!("{count} more lines like \"{}\" were left out.", Kind::SAMPLES[kind]));
            }
        }
        match LOST.swap(0, Ordering::Relaxed) {
            0 => {}
            count => put(LogLevel::Warn, &format!("{count} lines were lost: stderr is read too slowly.")),
        }
        match entry {
            Ok(Entry::Line { level, kind, text }) => {
                if kind == Kind::Broker || !limited || limiters[kind as usize].admits(now_ms) {
                    put(level, &text);
                }
            }
            Ok(Entry::Flush(done)) => {
                let _ = out.flush();
                let _ = done.send(());
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Kind {
    const SAMPLES: [&str; 7] = [
        "",
        "New connection from",
        "New client connected from",
        "refused",
        "disconnected",
        "already connected",
        "of trouble with connections",
    ];
    const COUNT: usize = Self::SAMPLES.len();
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
            *self = Self { window_start_ms: now_ms, ..Self::default() };
        }
        if self.written < KIND_LINES_MAX {
            self.written += 1;
            return true;
        }
        self.left_out += 1;
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

fn sentence(event: &Event, peer: SocketAddr) -> String {
    match event {
        Event::ClientConnected {
            conn: _,
            client_id,
            version,
            clean_start,
            session_present: _,
            keep_alive_s,
            username,
        } => {
            let level = version.level();
            let clean = u8::from(*clean_start);
            let user = match username {
                Some(name) => format!(", u'{}'", Printable(name)),
                None => String::new(),
            };
            let id = Printable(client_id);
            format!("New client connected from {peer} as {id} (p{level}, c{clean}, k{keep_alive_s}{user}).")
        }
        Event::ConnectRefused { conn: _, client_id, reason, what, statement } => {
            let who = match client_id {
                Some(id) => Printable(id).to_string(),
                None => "<unknown>".into(),
            };
            format!("Client {who} [{peer}] refused: {what} ({}).", Code(*reason, statement))
        }
        Event::ClientDisconnected { conn: _, client_id, reason, what, statement } => {
            let id = Printable(client_id);
            if *reason == ReasonCode::Success {
                format!("Client {id} [{peer}] disconnected.")
            } else {
                format!("Client {id} [{peer}] disconnected: {what} ({}).", Code(*reason, statement))
            }
        }
        Event::ClientTakeover { client_id, .. } => {
            let id = Printable(client_id);
            format!("Client {id} [{peer}] already connected, closing old connection.")
        }
    }
}

/// A peer's text without control characters, so that it cannot make up lines of its own.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

struct Code<'a>(ReasonCode, &'a str);

impl fmt::Display for Code<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02x} {}", self.0 as u8, self.0.name())?;
        if self.1.is_empty() { Ok(()) } else { write!(f, ", {}", self.1) }
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
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
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
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::input::ConnKey;

    const CONN: ConnKey = ConnKey { index: 0, generation: 0 };

    fn peer() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 4000))
    }

    #[test]
    fn the_sentences_are_those_scrapers_know() {
        let connected = Event::ClientConnected {
            conn: CONN,
            client_id: "a\nb".into(),
            version: Version::V5,
            clean_start: true,
            session_present: false,
            keep_alive_s: 60,
            username: Some("u".into()),
        };
        assert_eq!(
            sentence(&connected, peer()),
            "New client connected from 127.0.0.1:4000 as a\\nb (p5, c1, k60, u'u')."
        );
        let mut gone = |reason, what, statement| {
            let client_id = "a".into();
            let event = Event::ClientDisconnected { conn: CONN, client_id, reason, what, statement };
            sentence(&event, peer())
        };
        assert_eq!(gone(ReasonCode::Success, "", ""), "Client a [127.0.0.1:4000] disconnected.");
        assert_eq!(
            gone(ReasonCode::ProtocolError, "a second CONNECT", "MQTT-3.1.0-2"),
            format!(
                "Client a [127.0.0.1:4000] disconnected: a second CONNECT (0x82 {}, MQTT-3.1.0-2).",
                ReasonCode::ProtocolError.name()
            )
        );
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut limiter = Limiter::default();
        let admitted = (0..KIND_LINES_MAX + 30).filter(|_| limiter.admits(50_000)).count();
        assert_eq!(admitted, KIND_LINES_MAX as usize);
        assert_eq!(limiter.due(50_000), None);
        assert_eq!(limiter.due(50_000 + WINDOW_MS), Some(30));
        assert_eq!(limiter.due(50_000 + WINDOW_MS), None);
        assert!(limiter.admits(50_000 + WINDOW_MS));
    }

    #[test]
    fn times_are_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_704_067_199_999, "2023-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc(ms).to_string(), text);
        }
        assert_eq!(render(Stamp::Priority, 0, LogLevel::Warn, "x"), "<4>x\n");
        assert_eq!(render(Stamp::Time, 0, LogLevel::Warn, "x"), "1970-01-01T00:00:00.000Z warn  x\n");
    }
}

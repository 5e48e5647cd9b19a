//! What the log says about connections. The core passes on what happened; a log thread makes the sentence.
//!
//! The sentences are the ones log scrapers know from mosquitto.

use crate::shard::counters::DropCause;
use crate::shard::outbox::{Denial, Event};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// An event and where its connection came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The peer, unless the socket was gone already.
    pub peer: Option<SocketAddr>,
    /// What happened.
    pub event: Event,
}

/// Records of one kind that are taken in one window; more are counted.
const KIND_RECORDS_MAX: u32 = 200;
/// The length of a window, in milliseconds.
const WINDOW_MS: u64 = 10_000;

/// Where the cores put records. It never waits: what a slow log cannot take is dropped and counted.
///
/// A reconnect loop must neither fill a disk nor wake the log thread for each of its lines: of one kind of record in one window
/// only so many are taken, and the rest are counted.
#[derive(Clone, Debug)]
pub struct LogSink {
    /// Boxed: the room for all records is there from the start, and is to cost an empty broker a pointer each.
    sender: SyncSender<Box<LogRecord>>,
    tally: Arc<LogTally>,
}

/// What the sinks of all cores have taken, and what they have not.
#[derive(Debug, Default)]
pub struct LogTally {
    kinds: [KindTally; KINDS.len()],
    /// Whether no kind has a bound.
    takes_all: AtomicBool,
    /// Records that found the log full.
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct KindTally {
    /// The number of the window in which `taken` counts.
    window: AtomicU64,
    taken: AtomicU32,
    left_out: AtomicU64,
}

/// What the records of a kind tell of clients.
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

impl LogSink {
    /// A sink with room for `records_max` records, and the end from which the log thread takes them. That
    /// end reports the close when all sinks are gone.
    pub fn new(records_max: usize) -> (Self, Receiver<Box<LogRecord>>) {
        let (sender, receiver) = sync_channel(records_max);
        let tally = Arc::default();
        (Self { sender, tally }, receiver)
    }

    /// What all clones of this sink have taken.
    pub fn tally(&self) -> &Arc<LogTally> {
        &self.tally
    }

    /// Puts an event in, if there is room for its kind; only then its `peer` is looked up.
    pub(crate) fn put(
        &self,
        mono_ms: u64,
        event: Event,
        peer: impl FnOnce(&Event) -> Option<SocketAddr>,
    ) {
        if !self.tally.admits(kind(&event), mono_ms) {
            return;
        }
        let record = LogRecord {
            peer: peer(&event),
            event,
        };
        if self.sender.try_send(Box::new(record)).is_err() {
            self.tally.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl LogTally {
    /// Lifts the bound of each kind, or sets it again.
    pub fn take_all(&self, takes_all: bool) {
        self.takes_all.store(takes_all, Ordering::Relaxed);
    }

    /// Records dropped since the start because the log was slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Of each kind of which records were left out since the last call: what they tell of clients, and how many.
    pub fn left_out(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.kinds.iter().map(|kind| {
            let is_clean = kind.left_out.load(Ordering::Relaxed) == 0;
            if is_clean {
                0
            } else {
                kind.left_out.swap(0, Ordering::Relaxed)
            }
        });
        KINDS
            .into_iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
    }

    /// Whether one more record of a kind is taken. Cores that begin a window at the same moment may take a few more.
    fn admits(&self, kind: usize, mono_ms: u64) -> bool {
        let kind = &self.kinds[kind];
        let window = mono_ms / WINDOW_MS;
        if kind.window.swap(window, Ordering::Relaxed) != window {
            kind.taken.store(0, Ordering::Relaxed);
        }
        if kind.taken.load(Ordering::Relaxed) < KIND_RECORDS_MAX
            || self.takes_all.load(Ordering::Relaxed)
        {
            kind.taken.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        kind.left_out.fetch_add(1, Ordering::Relaxed);
        false
    }
}

impl fmt::Display for LogRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = Peer(self.peer);
        match &self.event {
            Event::ClientConnected {
                client_id,
                version,
                clean_start,
                keep_alive_s,
                username,
                ..
            } => {
                write!(
                    f,
                    "New client connected from {peer} as {} (p{}, c{}, k{keep_alive_s}",
                    Plain(client_id),
                    version.level(),
                    u8::from(*clean_start),
                )?;
                if let Some(username) = username {
                    write!(f, ", u'{}'", Plain(username))?;
                }
                f.write_str(").")
            }
            Event::ConnectRefused {
                client_id,
                reason,
                what,
                statement,
                ..
            } => {
                write!(
                    f,
                    "Client {}",
                    Plain(client_id.as_deref().unwrap_or("<unknown>"))
                )?;
                write!(
                    f,
                    " [{peer}] refused: {what} ({}, 0x{:02x}).",
                    reason.name(),
                    *reason as u8
                )?;
                Statement(statement).fmt(f)
            }
            Event::ClientDisconnected {
                client_id,
                reason,
                what,
                statement,
                ..
            } => {
                write!(
                    f,
                    "Client {} [{peer}] disconnected: {what}",
                    Plain(client_id)
                )?;
                write!(f, " ({}, 0x{:02x}).", reason.name(), *reason as u8)?;
                Statement(statement).fmt(f)
            }
            Event::ClientTakeover { client_id, .. } => write!(
                f,
                "Client {} [{peer}] already connected, closing old connection.",
                Plain(client_id)
            ),
            Event::Denied { denials, more } => {
                let mut between = "";
                for denial in denials {
                    write!(f, "{between}{denial}")?;
                    between = " ";
                }
                if *more > 0 {
                    write!(f, " {more} more denials are not named.")?;
                }
                Ok(())
            }
            Event::TurnedAway { limit, more } => {
                write!(f, "Connection from {peer} turned away: {}", limit.key())?;
                put_more(f, *more)
            }
            Event::Banned {
                client_id,
                limit,
                time_s,
                ..
            } => {
                match client_id {
                    Some(client_id) => write!(f, "Client {} [{peer}]", Plain(client_id))?,
                    None => write!(f, "Address of {peer}")?,
                }
                write!(f, " is banned for {time_s} s ({}).", limit.key())
            }
            Event::Limited {
                client_id,
                limit,
                more,
                ..
            } => {
                let client_id = client_id.as_deref().unwrap_or("<unknown>");
                write!(
                    f,
                    "Client {} [{peer}] was limited: {}",
                    Plain(client_id),
                    limit.key()
                )?;
                put_more(f, *more)
            }
            Event::Dropped { counts, named } => {
                let total: u64 = counts.iter().sum();
                write!(f, "{total} messages were dropped:")?;
                for (cause, count) in DropCause::ALL.iter().zip(counts.iter()) {
                    if *count > 0 {
                        write!(f, " {}={count}", cause.name())?;
                    }
                }
                let mut between = "; ";
                for dropped in named {
                    let (client_id, topic) = (&dropped.client_id, &dropped.topic);
                    write!(
                        f,
                        "{between}{} of {} on \"{}\" ({})",
                        dropped.count,
                        Plain(client_id),
                        Plain(topic),
                        dropped.cause.name()
                    )?;
                    between = ", ";
                }
                f.write_str(".")
            }
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client {}", Plain(&self.client_id))?;
        if let Some(username) = &self.username {
            write!(f, " (user '{}')", Plain(username))?;
        }
        let verb = match self.is_shadow {
            true => "would not be permitted",
            false => "was not permitted",
        };
        let topic = Plain(&self.topic);
        write!(f, " {verb} to {} \"{topic}\"", self.action)?;
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        match &self.rule {
            Some(rule) => write!(f, ": {}.", Plain(rule)),
            None => f.write_str(": no rule permits it."),
        }
    }
}

fn put_more(f: &mut fmt::Formatter<'_>, more: u64) -> fmt::Result {
    match more {
        0 => f.write_str("."),
        more => write!(f, "; so were {more} others since the last such line."),
    }
}

struct Peer(Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("<unknown>"),
        }
    }
}

struct Statement<'a>(&'a str);

impl fmt::Display for Statement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " [{}]", self.0)
        }
    }
}

/// What a client wrote, so that it can neither break the line nor play with a terminal.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            match part.chars().next_back() {
                Some(last) if last.is_control() => {
                    f.write_str(&part[..part.len() - last.len_utf8()])?;
                    write!(f, "{}", last.escape_default())?;
                }
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ReasonCode, Version};
    use crate::shard::input::ConnKey;

    const CONN: ConnKey = ConnKey {
        index: 0,
        generation: 0,
    };

    fn line(peer: Option<&str>, event: Event) -> String {
        LogRecord {
            peer: peer.map(|peer| peer.parse().unwrap()),
            event,
        }
        .to_string()
    }

    #[test]
    fn sentences_are_those_that_scrapers_know() {
        let connected = Event::ClientConnected {
            conn: CONN,
            client_id: "sensor".into(),
            version: Version::V311,
            clean_start: true,
            session_present: false,
            keep_alive_s: 60,
            username: Some("joe".into()),
        };
        assert_eq!(
            line(Some("10.0.0.1:5000"), connected),
            "New client connected from 10.0.0.1:5000 as sensor (p4, c1, k60, u'joe')."
        );
        let disconnected = Event::ClientDisconnected {
            conn: CONN,
            client_id: "sensor".into(),
            reason: ReasonCode::ProtocolError,
            what: "empty filter",
            statement: "MQTT-4.7.3-1",
        };
        let text = line(None, disconnected);
        assert!(
            text.starts_with("Client sensor [<unknown>] disconnected: empty filter ("),
            "{text}"
        );
        assert!(text.ends_with(", 0x82). [MQTT-4.7.3-1]"), "{text}");
    }

    #[test]
    fn a_client_cannot_break_the_line() {
        let event = Event::ClientTakeover {
            old: CONN,
            new: CONN,
            client_id: "a\nb\u{1b}[0mé".into(),
        };
        assert_eq!(
            line(Some("[::1]:1"), event),
            "Client a\\nb\\u{1b}[0mé [[::1]:1] already connected, closing old connection."
        );
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let tally = LogTally::default();
        let admitted =
            |count: u32, mono_ms| (0..count).filter(|_| tally.admits(0, mono_ms)).count();
        assert_eq!(
            admitted(KIND_RECORDS_MAX + 30, 50_000),
            KIND_RECORDS_MAX as usize
        );
        assert!(tally.admits(1, 50_000), "another kind");
        assert_eq!(tally.left_out().collect::<Vec<_>>(), [(KINDS[0], 30)]);
        assert_eq!(tally.left_out().count(), 0);
        assert!(!tally.admits(0, 49_999 + WINDOW_MS));
        assert!(tally.admits(0, 50_000 + WINDOW_MS));
        tally.take_all(true);
        assert_eq!(admitted(1_000, 50_000 + WINDOW_MS), 1_000);
    }

    #[test]
    fn a_full_sink_drops_and_counts() {
        let (sink, receiver) = LogSink::new(1);
        let event = Event::ClientTakeover {
            old: CONN,
            new: CONN,
            client_id: "a".into(),
        };
        sink.put(0, event.clone(), |_| None);
        sink.put(0, event.clone(), |_| None);
        let record = Box::new(LogRecord { peer: None, event });
        assert_eq!(
            (receiver.recv().unwrap(), sink.tally().dropped()),
            (record, 1)
        );
        drop(sink);
        assert!(receiver.recv().is_err());
    }
}

//! What the log says about connections. The core passes on what happened; a log thread makes the sentence.
//!
//! The sentences are the ones log scrapers know from mosquitto.

use crate::shard::counters::DropCause;
use crate::shard::outbox::{Denial, Event};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// An event and where its connection came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The peer, unless the socket was gone already.
    pub peer: Option<SocketAddr>,
    /// What happened.
    pub event: Event,
}

/// Where the cores put records. It never waits: what a slow log cannot take is dropped and counted.
#[derive(Clone, Debug)]
pub struct LogSink {
    sender: SyncSender<LogRecord>,
    dropped: Arc<AtomicU64>,
}

impl LogSink {
    /// A sink with room for `records_max` records, and the end from which the log thread takes them. That
    /// end reports the close when all sinks are gone.
    pub fn new(records_max: usize) -> (Self, Receiver<LogRecord>) {
        let (sender, receiver) = sync_channel(records_max);
        (
            Self {
                sender,
                dropped: Arc::default(),
            },
            receiver,
        )
    }

    /// Records dropped since the start because the log was slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Puts a record in, if there is room.
    pub(crate) fn put(&self, record: LogRecord) {
        if self.sender.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
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
    fn a_full_sink_drops_and_counts() {
        let (sink, receiver) = LogSink::new(1);
        let event = Event::ClientTakeover {
            old: CONN,
            new: CONN,
            client_id: "a".into(),
        };
        let record = LogRecord { peer: None, event };
        sink.put(record.clone());
        sink.put(record.clone());
        assert_eq!((receiver.recv().unwrap(), sink.dropped()), (record, 1));
        drop(sink);
        assert!(receiver.recv().is_err());
    }
}

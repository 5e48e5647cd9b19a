//! Adding sessions and messages that another store had, through the same batches that the broker writes.
//!
//! All in one transaction: of what was added in part, the rest could not be added later, because its clients have sessions here by then.

use crate::protocol::{PacketId, QoS};
use crate::session::DeliveryOptions;
use crate::shard::input::ShardId;
use crate::shard::message::{Message, MessageParts, NEVER};
use crate::shard::record::{
    Lsn, OutgoingStep, Part, Receiver, ReceiverFlags, Record, SessionRecord, StoredMessage,
    StoredSession, StoredWill, next_number,
};
use crate::store::batch::Batch;
use crate::store::load::{LoadSetup, load};
use crate::store::schema;
use crate::store::tables::Tables;
use crate::store::writer::now_ms;
use rusqlite::{Transaction, TransactionBehavior};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

/// Records given to SQLite at once. It keeps what its cache does not hold in the write-ahead log, which the commit makes count.
const BATCH_RECORDS: u64 = 10_000;

/// What was added, and what was not.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) sessions: u64,
    pub(super) subscriptions: u64,
    pub(super) messages: u64,
    pub(super) retained: u64,
    /// Sessions whose Client Identifier has one here already.
    pub(super) known: u64,
    /// What could not be taken over, and how often.
    pub(super) left_out: Vec<(&'static str, u64)>,
}

impl Report {
    pub(super) fn leave_out(&mut self, what: &'static str, count: u64) {
        if count == 0 {
            return;
        }
        match self.left_out.iter_mut().find(|(known, _)| *known == what) {
            Some((_, sum)) => *sum += count,
            None => self.left_out.push((what, count)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} sessions, {} subscriptions, {} messages that wait and {} retained messages added.",
            self.sessions, self.subscriptions, self.messages, self.retained
        )?;
        if self.known > 0 {
            writeln!(
                f,
                "{} sessions left out: their clients have a session here already.",
                self.known
            )?;
        }
        for (what, count) in &self.left_out {
            writeln!(f, "{count} {what}")?;
        }
        Ok(())
    }
}

/// A message of another store.
pub(super) struct ForeignMessage<'a> {
    pub(super) topic: &'a str,
    pub(super) properties: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Wall-clock milliseconds.
    pub(super) expires_at_ms: Option<u64>,
}

/// One receiver of it.
pub(super) struct ForeignReceiver {
    pub(super) session: StoredSession,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) part: Part,
    pub(super) subscription_ids: Vec<u32>,
    /// Under which the client has it already, for QoS 2.
    pub(super) packet_id: Option<PacketId>,
}

/// Writes into a store until it is finished.
pub(super) struct Importer<'c> {
    tables: Tables<'c>,
    batch: Batch,
    lsn: u64,
    last_number: u64,
    last_stamp: u64,
    here: HashSet<Box<str>>,
    sessions: HashMap<Box<str>, StoredSession>,
    pub(super) report: Report,
}

/// Opens the store, lets `fill` add to it, and returns what was added.
///
/// Errors: a sentence for the operator; nothing was added then.
pub(super) fn import(
    path: &Path,
    fill: impl FnOnce(&mut Importer<'_>) -> Result<(), String>,
) -> Result<Report, String> {
    let conn = schema::open(path).map_err(super::of(path))?;
    let found = load(&LoadSetup {
        path,
        shard_count: 1,
        owner: &|_| ShardId(0),
        wall_minus_mono_ms: 0,
    })
    .map_err(super::of(path))?;
    let here = found
        .sessions
        .iter()
        .flatten()
        .map(|session| session.record.client_id.clone())
        .collect();
    let whole = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate)
        .map_err(super::sqlite(path))?;
    let mut importer = Importer {
        tables: Tables::new(&conn, found.kept).map_err(super::sqlite(path))?,
        batch: Batch::new(1),
        lsn: 0,
        last_number: found.last_session.max(found.last_message),
        last_stamp: found.retained.iter().map(Message::stamp).max().unwrap_or(0),
        here,
        sessions: HashMap::new(),
        report: Report::default(),
    };
    let filled = fill(&mut importer).and_then(|()| importer.flush());
    let report = importer.report;
    // Rolled back if it is dropped without.
    let committed = filled.and_then(|()| whole.commit().map_err(super::sqlite(path)));
    committed.map_err(|error| format!("{error}; nothing was added"))?;
    Ok(report)
}

impl Importer<'_> {
    /// Adds a session unless its client has one here.
    pub(super) fn session(
        &mut self,
        client_id: &str,
        expiry_s: u32,
        disconnected_at_ms: u64,
        queue_full: u8,
        will: Option<StoredWill>,
        username: Option<&str>,
    ) -> Result<Option<StoredSession>, String> {
        if self.here.contains(client_id) || self.sessions.contains_key(client_id) {
            self.report.known += 1;
            return Ok(None);
        }
        let session = StoredSession(self.number());
        self.sessions.insert(client_id.into(), session);
        self.report.sessions += 1;
        self.add(Record::Session(SessionRecord {
            session,
            client_id: client_id.into(),
            expiry_s,
            username: username.map(Into::into),
            queue_full,
            disconnected_at_ms: Some(disconnected_at_ms),
            will,
        }))?;
        Ok(Some(session))
    }

    /// The session that was added for a client.
    pub(super) fn added(&self, client_id: &str) -> Option<StoredSession> {
        self.sessions.get(client_id).copied()
    }

    pub(super) fn subscription(
        &mut self,
        session: StoredSession,
        filter: &str,
        options: u8,
        id: Option<NonZeroU32>,
    ) -> Result<(), String> {
        self.report.subscriptions += 1;
        self.add(Record::Subscribed {
            session,
            filter: filter.into(),
            options,
            id,
        })
    }

    pub(super) fn message(
        &mut self,
        message: &ForeignMessage<'_>,
        mut receivers: Vec<ForeignReceiver>,
    ) -> Result<(), String> {
        // Overlapping subscriptions give a session one message here (MQTT 5 §3.3.4), elsewhere perhaps several.
        let mut seen = HashSet::new();
        receivers.retain(|receiver| seen.insert((receiver.session, receiver.part)));
        if receivers.is_empty() {
            return Ok(());
        }
        let id = StoredMessage(self.number());
        self.report.messages += 1;
        let steps: Vec<_> = receivers
            .iter()
            .filter_map(|it| Some((it.session, it.part, it.packet_id?)))
            .collect();
        let receivers = receivers
            .into_iter()
            .map(|receiver| Receiver {
                session: receiver.session,
                flags: ReceiverFlags::new(
                    DeliveryOptions {
                        qos: receiver.qos,
                        retain: receiver.retain,
                    },
                    receiver.part,
                ),
                subscription_ids: (!receiver.subscription_ids.is_empty())
                    .then(|| Box::new(receiver.subscription_ids)),
            })
            .collect();
        self.add(Record::Message {
            id,
            message: message.made(0, id.0),
            wall_minus_mono_ms: 0,
            receivers,
            refusable: false,
            received_from: None,
        })?;
        for (session, part, packet_id) in steps {
            let step = OutgoingStep::Published(id, part);
            self.add(Record::Outgoing {
                session,
                packet_id,
                step,
            })?;
        }
        Ok(())
    }

    /// A QoS 2 message to the client for which only PUBREL may follow.
    pub(super) fn released(
        &mut self,
        session: StoredSession,
        packet_id: PacketId,
    ) -> Result<(), String> {
        let step = OutgoingStep::Released;
        self.add(Record::Outgoing {
            session,
            packet_id,
            step,
        })
    }

    /// A QoS 2 identifier of the client's that is in use.
    pub(super) fn received(
        &mut self,
        session: StoredSession,
        packet_id: PacketId,
    ) -> Result<(), String> {
        let nothing = ForeignMessage {
            topic: "",
            properties: &[],
            payload: &[],
            qos: QoS::ExactlyOnce,
            retain: false,
            expires_at_ms: None,
        };
        let id = StoredMessage(self.number());
        self.add(Record::Message {
            id,
            message: nothing.made(0, id.0),
            wall_minus_mono_ms: 0,
            receivers: Vec::new(),
            refusable: false,
            received_from: Some((session, packet_id)),
        })
    }

    /// What is retained here already is replaced.
    pub(super) fn retained(&mut self, message: &ForeignMessage<'_>) -> Result<(), String> {
        if message.payload.is_empty() {
            return Ok(());
        }
        // 16 bits below the time, as `topic::retained` has them.
        self.last_stamp = (self.last_stamp + (1 << 6)).max(now_ms() << 16);
        let stamp = self.last_stamp;
        self.report.retained += 1;
        let number = self.number();
        self.add(Record::Retained {
            message: message.made(stamp, number),
            wall_minus_mono_ms: 0,
            refusable: false,
        })
    }

    fn number(&mut self) -> u64 {
        self.last_number = next_number(self.last_number, ShardId(0), now_ms());
        self.last_number
    }

    fn add(&mut self, record: Record) -> Result<(), String> {
        self.lsn += 1;
        self.batch.add(0, Lsn(self.lsn), record);
        if self.batch.records >= BATCH_RECORDS {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let mut batch = std::mem::replace(&mut self.batch, Batch::new(1));
        self.tables
            .write_part(&mut batch, now_ms(), Instant::now())
            .map_err(|error| crate::store::fault::Fault::of(&error).to_string())
    }
}

impl ForeignMessage<'_> {
    fn made(&self, stamp: u64, number: u64) -> Message {
        Message::new(&MessageParts {
            topic: self.topic,
            properties: &[self.properties],
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            expires_at_ms: self.expires_at_ms.unwrap_or(NEVER),
            stamp,
            number,
        })
    }
}

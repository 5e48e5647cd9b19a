//! Reading everything back at the start: several connections at once, each table once.
//!
//! Sessions, subscriptions and identifiers stand in the order of the session's number, so workers take ranges of it and walk the
//! tables side by side. Messages are read after that and put to their sessions; their payloads stay where they
//! are. To whom a session belongs is asked for each, so nothing here depends on how many shards there were.

use super::StoreLog;
use super::batch::part_of;
use super::codec::{blob, each_receiver, message, number_at, unsigned};
use super::schema::{self, OpenError};
use super::sweep::{Done, add_acks, read_done};
use super::tables::Kept;
use crate::config::LogLevel;
use crate::protocol::PacketId;
use crate::shard::input::ShardId;
use crate::shard::message::{Message, MessageParts};
use crate::shard::record::{
    Part, RecoveredDelivery, RecoveredSession, SessionRecord, StoredMessage, StoredSession,
    StoredWill,
};
use rusqlite::{Connection, Row, params};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Rows of one table that could not be understood; they stay where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// How many.
    pub rows: u64,
    /// The first of them, by their key.
    pub examples: Vec<String>,
}

/// What the store had.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Per shard: its sessions, by ascending number.
    pub sessions: Vec<Vec<RecoveredSession>>,
    /// All retained messages, for every shard.
    pub retained: Vec<Message>,
    /// The greatest numbers that stand anywhere, of what is gone, too: was one given again, what is left of its first bearer would be
    /// the second's.
    pub last_session: u64,
    /// See `last_session`.
    pub last_message: u64,
    /// Messages that sessions wait for.
    pub messages: u64,
    /// What could not be understood, by table.
    pub unreadable: BTreeMap<&'static str, Unreadable>,
    pub(super) kept: Kept,
}

impl Recovered {
    /// Says to the operator what was found, and exactly what could not be understood.
    pub fn tell(&self, path: &Path, took: Duration, log: StoreLog) {
        let path = path.display();
        let sessions: usize = self.sessions.iter().map(Vec::len).sum();
        let (messages, retained) = (self.messages, self.retained.len());
        let took = took.as_secs_f32();
        log(
            LogLevel::Info,
            format!(
                "{path}: {sessions} sessions, {messages} messages that wait, {retained} retained messages, read in {took:.1} s."
            ),
        );
        for (table, lost) in &self.unreadable {
            let (rows, examples) = (lost.rows, lost.examples.join(", "));
            log(
                LogLevel::Error,
                format!(
                    "{path}: {rows} rows of table {table} cannot be understood and have no effect: {examples}. \
                         `ringmq store check` shows all, `ringmq store repair` removes them."
                ),
            );
        }
    }
}

/// Why a database cannot be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// It cannot be opened.
    Open(OpenError),
    /// A table cannot be read to its end.
    Table(&'static str, rusqlite::Error),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(f, "{error}"),
            Self::Table(table, error) => {
                write!(f, "table {table}: {}", super::fault::Fault::of(error))
            }
        }
    }
}

impl From<OpenError> for LoadError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

/// Where to load from, and for whom.
pub struct LoadSetup<'a> {
    /// The database.
    pub path: &'a Path,
    /// How many shards there are now.
    pub shard_count: usize,
    /// Who owns the session of a Client Identifier.
    pub owner: &'a (dyn Fn(&str) -> ShardId + Sync),
    /// Wall-clock minus monotonic milliseconds.
    pub wall_minus_mono_ms: u64,
}

/// Numbers are less until the year 2109. One that is not stands in a damaged row, and would leave none to be given.
const NUMBERS_END: u64 = 1 << 62;

/// Raises `last` to a number that was found.
fn note_number(last: &mut u64, number: u64) {
    if number < NUMBERS_END {
        *last = number.max(*last);
    }
}

type Tables = BTreeMap<&'static str, Unreadable>;

/// A session, and its QoS 2 messages on their way to the client.
struct Found {
    session: RecoveredSession,
    published: Vec<(StoredMessage, Part, PacketId)>,
}

/// What a range of session numbers has.
#[derive(Default)]
struct FoundRange {
    found: Vec<Found>,
    lost: Tables,
    last_session: u64,
}

/// Reads everything.
pub fn load(setup: &LoadSetup<'_>) -> Result<Recovered, LoadError> {
    let workers = setup.shard_count.clamp(1, 8);
    let ranges = ranges(&schema::open_read_only(setup.path)?, workers)?;
    let (sessions, retained) = thread::scope(|scope| {
        let sessions: Vec<_> = ranges
            .into_iter()
            .map(|range| scope.spawn(move || read_sessions(setup, range)))
            .collect();
        let retained = scope.spawn(|| read_retained(setup));
        let sessions: Vec<_> = sessions
            .into_iter()
            .map(|worker| worker.join().expect("it has no panic of its own"))
            .collect();
        (
            sessions,
            retained.join().expect("it has no panic of its own"),
        )
    });
    let mut found = Vec::new();
    let mut unreadable = Tables::new();
    let mut last_session = 0;
    for range in sessions {
        let mut range = range?;
        found.append(&mut range.found);
        join(&mut unreadable, range.lost);
        note_number(&mut last_session, range.last_session);
    }
    let (retained, lost) = retained?;
    join(&mut unreadable, lost);
    let mut recovered = Recovered {
        last_session,
        last_message: retained.iter().map(Message::number).max().unwrap_or(0),
        retained,
        unreadable,
        ..Recovered::default()
    };
    read_messages(setup, &mut found, &mut recovered)?;
    recovered.sessions = (0..setup.shard_count).map(|_| Vec::new()).collect();
    for Found {
        mut session,
        published,
    } in found
    {
        for (message, part, packet_id) in published {
            note_number(&mut recovered.last_message, message.0);
            set_packet_id(&mut session.deliveries, message, part, packet_id);
        }
        let owner = (setup.owner)(&session.record.client_id);
        recovered.sessions[owner.index()].push(session);
    }
    Ok(recovered)
}

fn join(all: &mut Tables, part: Tables) {
    for (table, mut lost) in part {
        let sum = all.entry(table).or_default();
        sum.rows += lost.rows;
        sum.examples.append(&mut lost.examples);
        sum.examples.truncate(EXAMPLES);
    }
}

const EXAMPLES: usize = 5;

fn note(lost: &mut Tables, table: &'static str, key: impl FnOnce() -> String) {
    let lost = lost.entry(table).or_default();
    lost.rows += 1;
    if lost.examples.len() < EXAMPLES {
        lost.examples.push(key());
    }
}

/// Puts an identifier to the part that the session has in a message, if it still has it.
fn set_packet_id(
    deliveries: &mut [RecoveredDelivery],
    message: StoredMessage,
    part: Part,
    packet_id: PacketId,
) {
    let first = deliveries.partition_point(|delivery| delivery.id < message);
    let place = deliveries[first..]
        .iter_mut()
        .take_while(|delivery| delivery.id == message)
        .find(|delivery| delivery.flags.part() == part);
    if let Some(delivery) = place {
        delivery.packet_id = Some(packet_id);
    }
}

/// Ranges `first..end` of session numbers with about equally many sessions.
fn ranges(conn: &Connection, workers: usize) -> Result<Vec<(i64, i64)>, LoadError> {
    let failed = |error| LoadError::Table("session", error);
    let count: i64 = conn
        .query_row("SELECT count(*) FROM session", [], |row| row.get(0))
        .map_err(failed)?;
    let mut firsts = vec![i64::MIN];
    let mut select = conn
        .prepare("SELECT id FROM session ORDER BY id LIMIT 1 OFFSET ?1")
        .map_err(failed)?;
    for worker in 1..workers as i64 {
        let offset = count / workers as i64 * worker;
        if offset > 0 {
            firsts.push(
                select
                    .query_row([offset], |row| row.get(0))
                    .map_err(failed)?,
            );
        }
    }
    firsts.dedup();
    let ends = firsts.iter().skip(1).copied().chain([i64::MAX]);
    Ok(firsts.iter().copied().zip(ends).collect())
}

fn read_sessions(setup: &LoadSetup<'_>, range: (i64, i64)) -> Result<FoundRange, LoadError> {
    let conn = schema::open_read_only(setup.path)?;
    let FoundRange {
        mut found,
        mut lost,
        mut last_session,
    } = FoundRange::default();
    each_row(
        &conn,
        "session",
        "SELECT * FROM session WHERE id >= ?1 AND id < ?2 ORDER BY id",
        range,
        |row| {
            note_number(&mut last_session, number_at(row, 0).unwrap_or(0));
            match session(row) {
                Ok(record) => found.push(Found {
                    session: RecoveredSession {
                        record,
                        subscriptions: Vec::new(),
                        deliveries: Vec::new(),
                        released: Vec::new(),
                        received: Vec::new(),
                    },
                    published: Vec::new(),
                }),
                Err(error) => note(&mut lost, "session", || format!("{} ({error})", key(row))),
            }
        },
    )?;
    let mut belongings =
        |table, sql: &str, add: fn(&Row<'_>, &mut Found) -> rusqlite::Result<()>| {
            // Both are in the order of the session's number.
            let mut at = 0;
            each_row(&conn, table, sql, range, |row| {
                let result = number_at(row, 0).and_then(|session| {
                    note_number(&mut last_session, session);
                    while found
                        .get(at)
                        .is_some_and(|found| found.session.record.session.0 < session)
                    {
                        at += 1;
                    }
                    match found.get_mut(at) {
                        Some(found) if found.session.record.session.0 == session => add(row, found),
                        // What a session left behind that is gone is nobody's.
                        _ => Ok(()),
                    }
                });
                if let Err(error) = result {
                    note(&mut lost, table, || {
                        format!("of session {} ({error})", key(row))
                    });
                }
            })
        };
    belongings(
        "subscription",
        "SELECT * FROM subscription WHERE session >= ?1 AND session < ?2 ORDER BY session, filter",
        |row, found| {
            let filter = row.get_ref(1)?.as_str()?.into();
            let id = row.get::<_, Option<u32>>(3)?.and_then(NonZeroU32::new);
            found.session.subscriptions.push((filter, row.get(2)?, id));
            Ok(())
        },
    )?;
    belongings(
        "outgoing",
        "SELECT * FROM outgoing WHERE session >= ?1 AND session < ?2 ORDER BY session, packet_id",
        |row, found| {
            let packet_id = packet_id(row)?;
            match unsigned(row, 2)? {
                Some(message) => {
                    let message = StoredMessage(message);
                    found.published.push((message, part_at(row, 3)?, packet_id));
                }
                None => found.session.released.push(packet_id),
            }
            Ok(())
        },
    )?;
    belongings(
        "incoming",
        "SELECT * FROM incoming WHERE session >= ?1 AND session < ?2 ORDER BY session, packet_id",
        |row, found| {
            found.session.received.push(packet_id(row)?);
            Ok(())
        },
    )?;
    Ok(FoundRange {
        found,
        lost,
        last_session,
    })
}

fn each_row(
    conn: &Connection,
    table: &'static str,
    sql: &str,
    (first, end): (i64, i64),
    mut each: impl FnMut(&Row<'_>),
) -> Result<(), LoadError> {
    let failed = |error| LoadError::Table(table, error);
    let mut select = conn.prepare(sql).map_err(failed)?;
    let mut rows = select.query(params![first, end]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        each(row);
    }
    Ok(())
}

fn key(row: &Row<'_>) -> String {
    row.get_ref(0)
        .map_or_else(|error| error.to_string(), |value| format!("{value:?}"))
}

pub(super) fn packet_id(row: &Row<'_>) -> rusqlite::Result<PacketId> {
    PacketId::new(row.get(1)?).ok_or_else(|| rusqlite::types::FromSqlError::OutOfRange(0).into())
}

pub(super) fn part_at(row: &Row<'_>, at: usize) -> rusqlite::Result<Part> {
    let bits = row.get(at)?;
    let part = Part::from_bits(bits);
    part.ok_or_else(|| rusqlite::types::FromSqlError::OutOfRange(bits.into()).into())
}

/// The columns of `session`.
pub(super) fn session(row: &Row<'_>) -> rusqlite::Result<SessionRecord> {
    let will = match row.get_ref(9)?.as_str_or_null()? {
        None => None,
        Some(topic) => Some(StoredWill {
            message: Message::new(&MessageParts {
                properties: &[blob(row, 10)?],
                retain: row.get(8)?,
                ..MessageParts::new(topic, super::codec::qos(row, 7)?, blob(row, 11)?)
            }),
            delay_s: row.get(5)?,
            message_expiry_s: row.get(6)?,
        }),
    };
    Ok(SessionRecord {
        session: StoredSession(number_at(row, 0)?),
        client_id: row.get_ref(1)?.as_str()?.into(),
        expiry_s: row.get(2)?,
        disconnected_at_ms: unsigned(row, 3)?,
        username: row.get_ref(12)?.as_str_or_null()?.map(Into::into),
        queue_full: row.get(4)?,
        will,
    })
}

fn read_retained(setup: &LoadSetup<'_>) -> Result<(Vec<Message>, Tables), LoadError> {
    let conn = schema::open_read_only(setup.path)?;
    let mut lost = Tables::new();
    let mut messages = Vec::new();
    each_row(
        &conn,
        "retained",
        "SELECT number, expires_at, qos, 1, stamp, topic, properties, payload FROM retained WHERE ?1 < ?2",
        (0, 1),
        |row| match message(row, 0, setup.wall_minus_mono_ms) {
            Ok(message) => messages.push(message),
            Err(error) => note(&mut lost, "retained", || {
                format!("{:?} ({error})", row.get_ref(5))
            }),
        },
    )?;
    Ok((messages, lost))
}

/// Puts the messages that wait to their sessions.
fn read_messages(
    setup: &LoadSetup<'_>,
    found: &mut [Found],
    recovered: &mut Recovered,
) -> Result<(), LoadError> {
    let conn = schema::open_read_only(setup.path)?;
    let (kept, lost) = (&mut recovered.kept, &mut recovered.unreadable);
    let (last_session, last_message) = (&mut recovered.last_session, &mut recovered.last_message);
    let mut done = Done::default();
    read_done(&conn, |seq, newest, acks| {
        kept.done.push_back((seq, newest));
        note_number(last_message, newest.0);
        match add_acks(&mut done, acks) {
            Some(parts) => kept.done_parts += parts,
            None => note(lost, "done", || seq.to_string()),
        }
    })
    .map_err(|error| LoadError::Table("done", error))?;
    for (message, (session, _)) in &done {
        note_number(last_message, message.0);
        note_number(last_session, session.0);
    }
    let overhead = MessageParts::new("", crate::protocol::QoS::AtMostOnce, &[]).encoded_len();
    each_row(
        &conn,
        "msg",
        "SELECT id, receivers, octet_length(topic) + ifnull(octet_length(properties), 0) + octet_length(payload)
         FROM msg WHERE ?1 < ?2 ORDER BY id",
        (0, 1),
        |row| {
            let (mut count, mut ended) = (0, 0);
            let result = (|| {
                let id = StoredMessage(number_at(row, 0)?);
                note_number(last_message, id.0);
                let bytes = number_at(row, 2)? + overhead as u64;
                let is_whole = each_receiver(row.get_ref(1)?.as_str()?, |receiver| {
                    count += 1;
                    let session = receiver.session;
                    note_number(last_session, session.0);
                    if done.contains(&(id, part_of(&receiver))) {
                        ended += 1;
                        return;
                    }
                    let place = found
                        .binary_search_by_key(&session, |found| found.session.record.session);
                    match place {
                        Ok(place) => found[place].session.deliveries.push(RecoveredDelivery {
                            id,
                            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
                            flags: receiver.flags,
                            subscription_ids: receiver.subscription_ids,
                            packet_id: None,
                        }),
                        Err(_) => {
                            kept.gone.insert(session);
                        }
                    }
                });
                recovered.messages += 1;
                if count > 1 {
                    // Those that are gone leave with the next sweep.
                    kept.shared.insert(id, count - ended);
                }
                Ok::<_, rusqlite::Error>(is_whole)
            })();
            match result {
                Ok(true) => {}
                Ok(false) => note(lost, "msg", || format!("{} (its receivers)", key(row))),
                Err(error) => note(lost, "msg", || format!("{} ({error})", key(row))),
            }
        },
    )?;
    Ok(())
}

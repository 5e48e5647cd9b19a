//! Our own form for moving a store: one JSON object a line, which SQLite writes and reads.
//!
//! Client Identifiers stand in place of numbers, so an export can be added to another installation. Bytes are hexadecimal.

use super::import::{ForeignMessage, ForeignReceiver, Report, import as import_into};
use super::{of, printed, sqlite};
use crate::protocol::{PacketId, QoS};
use crate::shard::message::{Message, MessageParts};
use crate::shard::record::{ReceiverFlags, StoredWill};
use crate::store::codec::{blob, number_at, qos, unsigned};
use crate::store::schema;
use rusqlite::{Connection, Result, Row};
use std::io::{self, BufWriter, Write};
use std::num::NonZeroU32;
use std::path::Path;

const LINES: &[&str] = &[
    "SELECT json_object('type', 'session', 'client_id', client_id, 'expiry_s', expiry_s, 'disconnected_at', disconnected_at,
        'queue_full', queue_full, 'will_topic', will_topic, 'will_payload', hex(will_payload), 'will_properties', hex(will_properties),
        'username', username, 'will_qos', will_qos, 'will_retain', will_retain, 'will_delay_s', will_delay_s, 'will_expiry_s', will_expiry_s)
     FROM session ORDER BY id",
    "SELECT json_object('type', 'subscription', 'client_id', client_id, 'filter', filter, 'options', options, 'id', subscription_id)
     FROM subscription JOIN session ON session.id = subscription.session ORDER BY session.id, filter",
    "SELECT json_object('type', 'message', 'topic', topic, 'qos', qos, 'retain', retain, 'expires_at', expires_at,
        'properties', hex(properties), 'payload', hex(payload), 'receivers', json((
            SELECT json_group_array(json_array(client_id, outgoing.packet_id, json_remove(receiver.value, '$[0]')))
            FROM json_each(msg.receivers) AS receiver
                JOIN session ON session.id = json_extract(receiver.value, '$[0]')
                LEFT JOIN outgoing ON outgoing.session = session.id AND outgoing.message = msg.id
                    AND outgoing.part = json_extract(receiver.value, '$[1]') >> 3
            WHERE (msg.id, session.id, json_extract(receiver.value, '$[1]') >> 3)
                NOT IN (SELECT message, session, part FROM done_parts))))
     FROM msg ORDER BY id",
    "SELECT json_object('type', 'released', 'client_id', client_id, 'packet_id', packet_id)
     FROM outgoing JOIN session ON session.id = outgoing.session WHERE message IS NULL",
    "SELECT json_object('type', 'received', 'client_id', client_id, 'packet_id', packet_id)
     FROM incoming JOIN session ON session.id = incoming.session",
    "SELECT json_object('type', 'retained', 'topic', topic, 'qos', qos, 'expires_at', expires_at,
        'properties', hex(properties), 'payload', hex(payload)) FROM retained ORDER BY stamp",
];

pub(super) fn export(path: &Path) -> std::result::Result<(), String> {
    let conn = schema::open_read_only(path).map_err(of(path))?;
    // One transaction: the lines fit together also while the broker writes.
    conn.execute_batch("BEGIN").map_err(sqlite(path))?;
    let mut out = BufWriter::new(io::stdout().lock());
    for sql in LINES {
        let mut select = conn.prepare(sql).map_err(sqlite(path))?;
        let mut rows = select.query([]).map_err(sqlite(path))?;
        while let Some(row) = rows.next().map_err(sqlite(path))? {
            let line: String = row.get(0).map_err(sqlite(path))?;
            match writeln!(out, "{line}") {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                result => printed(result)?,
            }
        }
    }
    printed(out.flush())
}

/// The fields of a line; those that its type does not have are NULL.
const FIELDS: &[&str] = &[
    "type",
    "client_id",
    "expiry_s",
    "disconnected_at",
    "queue_full",
    "username",
    "will_topic",
    "will_qos",
    "will_retain",
    "will_delay_s",
    "will_expiry_s",
    "filter",
    "options",
    "id",
    "topic",
    "qos",
    "retain",
    "expires_at",
    "packet_id",
];
const BYTES: &[&str] = &["will_payload", "will_properties", "properties", "payload"];

fn field(name: &str) -> usize {
    let all = FIELDS.iter().chain(BYTES);
    all.into_iter()
        .position(|known| *known == name)
        .expect("a field of the list above")
}

pub(super) fn import(path: &Path, from: &Path, text: &str) -> std::result::Result<Report, String> {
    let conn = Connection::open_in_memory().map_err(sqlite(from))?;
    let fields = FIELDS
        .iter()
        .map(|name| format!("json_extract(?1, '$.{name}')"));
    let bytes = BYTES
        .iter()
        .map(|name| format!("unhex(json_extract(?1, '$.{name}'))"));
    let columns: Vec<_> = fields.chain(bytes).collect();
    let mut select = conn
        .prepare(&format!("SELECT {}", columns.join(",")))
        .map_err(sqlite(from))?;
    let mut receivers = conn
        .prepare(
            "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2][0]'),
                (SELECT group_concat(id.value) FROM json_each(item.value, '$[2]') AS id WHERE id.key > 0)
             FROM json_each(?1, '$.receivers') AS item",
        )
        .map_err(sqlite(from))?;
    import_into(path, |importer| {
        for (at, line) in text.lines().enumerate() {
            let bad = |error: &dyn std::fmt::Display| {
                format!(
                    "{}:{}: not a line of an export: {error}",
                    from.display(),
                    at + 1
                )
            };
            let mut list = Vec::new();
            let added = select
                .query_row([line], |row| {
                    let kind: String = row.get(field("type"))?;
                    if kind == "message" {
                        let mut rows = receivers.query([line])?;
                        while let Some(receiver) = rows.next()? {
                            list.push(foreign_receiver(importer, receiver)?);
                        }
                    }
                    let list = std::mem::take(&mut list).into_iter().flatten().collect();
                    add(importer, &kind, row, list)
                })
                .map_err(|error| bad(&error))?;
            added.map_err(|error| bad(&error))?;
        }
        Ok(())
    })
}

fn foreign_receiver(
    importer: &super::import::Importer<'_>,
    row: &Row<'_>,
) -> Result<Option<ForeignReceiver>> {
    let Some(session) = importer.added(row.get_ref(0)?.as_str()?) else {
        return Ok(None);
    };
    let flags = ReceiverFlags::from_bits(row.get(2)?);
    let flags = flags.ok_or(rusqlite::types::FromSqlError::OutOfRange(-1))?;
    let ids: Option<String> = row.get(3)?;
    Ok(Some(ForeignReceiver {
        session,
        qos: flags.options().qos,
        retain: flags.options().retain,
        part: flags.part(),
        subscription_ids: ids
            .iter()
            .flat_map(|ids| ids.split(','))
            .filter_map(|id| id.parse().ok())
            .collect(),
        packet_id: row.get::<_, Option<u16>>(1)?.and_then(PacketId::new),
    }))
}

/// Adds what a line says; the inner error is the importer's.
fn add(
    importer: &mut super::import::Importer<'_>,
    kind: &str,
    row: &Row<'_>,
    receivers: Vec<ForeignReceiver>,
) -> Result<std::result::Result<(), String>> {
    let text = |name: &str| -> Result<&str> { Ok(row.get_ref(field(name))?.as_str()?) };
    let message = || -> Result<ForeignMessage<'_>> {
        Ok(ForeignMessage {
            topic: text("topic")?,
            properties: blob(row, field("properties"))?,
            payload: blob(row, field("payload"))?,
            qos: qos(row, field("qos"))?,
            retain: row.get::<_, Option<bool>>(field("retain"))?.unwrap_or(true),
            expires_at_ms: unsigned(row, field("expires_at"))?,
        })
    };
    let session = |importer: &super::import::Importer<'_>| {
        Ok::<_, rusqlite::Error>(importer.added(text("client_id")?))
    };
    let packet_id =
        || -> Result<Option<PacketId>> { Ok(PacketId::new(row.get(field("packet_id"))?)) };
    Ok(match kind {
        "session" => {
            // A session that was connected is without a connection now.
            let since = unsigned(row, field("disconnected_at"))?;
            importer
                .session(
                    text("client_id")?,
                    u32::try_from(number_at(row, field("expiry_s"))?).unwrap_or(u32::MAX),
                    since.unwrap_or_else(crate::store::writer::now_ms),
                    row.get(field("queue_full"))?,
                    will(row)?,
                    row.get_ref(field("username"))?.as_str_or_null()?,
                )
                .map(drop)
        }
        "subscription" => match session(importer)? {
            Some(session) => {
                let id = row
                    .get::<_, Option<u32>>(field("id"))?
                    .and_then(NonZeroU32::new);
                importer.subscription(session, text("filter")?, row.get(field("options"))?, id)
            }
            None => Ok(()),
        },
        "message" => importer.message(&message()?, receivers),
        "released" => match (session(importer)?, packet_id()?) {
            (Some(session), Some(packet_id)) => importer.released(session, packet_id),
            _ => Ok(()),
        },
        "received" => match (session(importer)?, packet_id()?) {
            (Some(session), Some(packet_id)) => importer.received(session, packet_id),
            _ => Ok(()),
        },
        "retained" => importer.retained(&message()?),
        other => Err(format!("unknown type `{other}`")),
    })
}

fn will(row: &Row<'_>) -> Result<Option<StoredWill>> {
    let Some(topic) = row.get_ref(field("will_topic"))?.as_str_or_null()? else {
        return Ok(None);
    };
    let qos: QoS = qos(row, field("will_qos"))?;
    Ok(Some(StoredWill {
        message: Message::new(&MessageParts {
            properties: &[blob(row, field("will_properties"))?],
            retain: row.get(field("will_retain"))?,
            ..MessageParts::new(topic, qos, blob(row, field("will_payload"))?)
        }),
        delay_s: row.get(field("will_delay_s"))?,
        message_expiry_s: row.get(field("will_expiry_s"))?,
    }))
}

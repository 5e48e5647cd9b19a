//! What mosquitto kept: the SQLite store of its 2.1 plugin, and the JSON that `mosquitto_db_dump --json` makes of the older file.
//!
//! SQLite reads both: the dump is taken apart into tables of the same names by its JSON functions, so there is one way to import.

use super::import::{ForeignMessage, ForeignReceiver, Importer, Report, import};
use crate::protocol::{PacketId, QoS};
use crate::store::writer::now_ms;
use crate::topic::filter::TopicFilter;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Result, Row};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;

/// `mosq_md_out` of mosquitto.
const OUT: i64 = 1;
/// States of an outgoing message (`mosquitto_msg_state`): PUBLISH is sent, QoS 2.
const WAIT_FOR_PUBREC: i64 = 5;
/// PUBREC has arrived.
const RELEASED: [i64; 2] = [6, 9];

/// Takes over the database of the plugin `persist-sqlite`.
pub(super) fn import_sqlite(path: &Path, from: &Path) -> Result<Report, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(super::sqlite(from))?;
    let is_mosquitto = source
        .prepare("SELECT store_id, topic FROM base_msgs LIMIT 1")
        .is_ok();
    if !is_mosquitto {
        return Err(format!(
            "{}: not a store of mosquitto's (for one of ringmq's: `ringmq store export`, then import that)",
            from.display()
        ));
    }
    let table = |name: &str| {
        source
            .prepare(&format!("SELECT * FROM {name} LIMIT 1"))
            .and_then(|mut select| select.exists([]))
            .unwrap_or(false)
    };
    let has_wills = table("wills");
    import(path, |importer| {
        if has_wills {
            importer.report.leave_out(
                "Wills of clients that were connected: left out, they were never due.",
                1,
            );
        }
        fill(importer, &source, 0).map_err(super::sqlite(from))?
    })
}

/// Takes over the JSON of `mosquitto_db_dump`.
pub(super) fn import_dump(path: &Path, from: &Path, text: &str) -> Result<Report, String> {
    let (source, unlinked) = dump_tables(text).map_err(super::sqlite(from))?;
    import(path, |importer| {
        fill(importer, &source, unlinked).map_err(super::sqlite(from))?
    })
}

/// The dump as tables; also how many waiting messages it names that it does not have.
fn dump_tables(text: &str) -> Result<(Connection, u64)> {
    let conn = Connection::open_in_memory()?;
    conn.execute_batch(
        "CREATE TABLE dump(j TEXT);
         CREATE TABLE base_msgs(store_id INTEGER PRIMARY KEY, expiry_time, topic, payload, qos, retain, properties);
         CREATE TABLE clients(client_id, session_expiry_time, session_expiry_interval);
         CREATE TABLE client_msgs(cmsg_id INTEGER PRIMARY KEY, client_id, store_id, direction, mid, qos, retain, state, subscription_identifier);
         CREATE TABLE retains(topic, store_id);
         CREATE TABLE subscriptions(client_id, topic, subscription_options, subscription_identifier);",
    )?;
    conn.execute("INSERT INTO dump VALUES (?1)", [text])?;
    let part = |name: &str| format!("FROM dump, json_each(dump.j, '$.\"{name}\"') AS item");
    let field = |name: &str| format!("json_extract(item.value, '$.\"{name}\"')");
    let fill = |into: &str, of: &str, fields: &[&str]| {
        let fields: Vec<_> = fields.iter().map(|name| field(name)).collect();
        conn.execute_batch(&format!(
            "INSERT INTO {into} SELECT {} {}",
            fields.join(","),
            part(of)
        ))
    };
    fill(
        "base_msgs",
        "base-messages",
        &[
            "storeid",
            "expiry-time",
            "topic",
            "payload",
            "qos",
            "retain",
            "properties",
        ],
    )?;
    fill(
        "clients",
        "clients",
        &["clientid", "session-expiry-time", "session-expiry-interval"],
    )?;
    fill(
        "client_msgs(client_id, store_id, direction, mid, qos, retain, state, subscription_identifier)",
        "client-messages",
        &[
            "clientid",
            "storeid",
            "direction",
            "mid",
            "qos",
            "retain-dup",
            "state",
            "subscription-identifier",
        ],
    )?;
    conn.execute_batch(&format!(
        "INSERT INTO subscriptions SELECT {}, {}, {} | {}, {} {}",
        field("clientid"),
        field("topic"),
        field("qos"),
        field("options"),
        field("identifier"),
        part("subscriptions")
    ))?;
    conn.execute_batch(&format!(
        "INSERT INTO retains SELECT topic, store_id FROM base_msgs WHERE store_id IN (SELECT {} {})",
        field("storeid"), part("retained-messages")
    ))?;
    // The payload is base64 there. In some versions the dump gives a waiting message the number of a
    // subscription identifier instead of the message's.
    let unlinked = conn.query_row(
        "SELECT count(*) FROM client_msgs WHERE store_id NOT IN (SELECT store_id FROM base_msgs)",
        [],
        |row| row.get(0),
    )?;
    let mut select =
        conn.prepare("SELECT store_id, payload FROM base_msgs WHERE payload IS NOT NULL")?;
    let mut payloads = Vec::new();
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        payloads.push((row.get::<_, i64>(0)?, base64(row.get_ref(1)?.as_str()?)));
    }
    drop(rows);
    drop(select);
    for (id, payload) in payloads {
        conn.execute(
            "UPDATE base_msgs SET payload = ?2 WHERE store_id = ?1",
            (id, payload),
        )?;
    }
    Ok((conn, unlinked))
}

/// Gives the importer everything; the inner error is the importer's.
fn fill(
    importer: &mut Importer<'_>,
    source: &Connection,
    unlinked: u64,
) -> Result<Result<(), String>> {
    importer.report.leave_out(
        "waiting messages left out: the dump does not say which messages they are (a fault of some mosquitto_db_dump; \
         import the SQLite store of mosquitto 2.1 instead, or drain the queues first).",
        unlinked,
    );
    let now_ms = now_ms();
    let mut select = source
        .prepare("SELECT client_id, session_expiry_time, session_expiry_interval FROM clients")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let expiry_s = u32::try_from(int(row, 2)?).unwrap_or(u32::MAX);
        let expires_s = u64::try_from(int(row, 1)?).unwrap_or(0);
        // mosquitto keeps when the session ends, and 0 while the client is connected.
        let since_ms = match expires_s.checked_sub(u64::from(expiry_s)) {
            Some(since_s) if expires_s > 0 && expiry_s < u32::MAX => (since_s * 1000).min(now_ms),
            _ => now_ms,
        };
        if let Err(error) = importer.session(&text(row, 0)?, expiry_s, since_ms, 0, None, None) {
            return Ok(Err(error));
        }
    }
    if let Err(error) = subscriptions(importer, source)? {
        return Ok(Err(error));
    }
    if let Err(error) = messages(importer, source)? {
        return Ok(Err(error));
    }
    let mut select = source.prepare(&format!(
        "SELECT {MESSAGE} FROM retains JOIN base_msgs AS m ON m.store_id = retains.store_id"
    ))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let topic = text(row, 1)?;
        let message = message(importer, row, &topic)?;
        if let Err(error) = importer.retained(&ForeignMessage {
            retain: true,
            ..message
        }) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

fn subscriptions(importer: &mut Importer<'_>, source: &Connection) -> Result<Result<(), String>> {
    let mut select = source.prepare(
        "SELECT client_id, topic, subscription_options, subscription_identifier FROM subscriptions",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (client, filter) = (text(row, 0)?, text(row, 1)?);
        let Some(session) = importer.added(&client) else {
            continue;
        };
        // Its bits are those of MQTT 5 §3.8.3.1.
        let options = u8::try_from(int(row, 2)? & 0b11_1111).unwrap_or(0);
        if TopicFilter::parse(&filter).is_err() {
            importer
                .report
                .leave_out("subscriptions left out: their filters are not valid.", 1);
            continue;
        }
        let id = u32::try_from(int(row, 3)?).ok().and_then(NonZeroU32::new);
        if let Err(error) = importer.subscription(session, &filter, options, id) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

const MESSAGE: &str =
    "m.store_id, m.topic, m.expiry_time, m.qos, m.retain, m.properties, m.payload";

/// The columns of [`MESSAGE`].
fn message<'r>(
    importer: &mut Importer<'_>,
    row: &'r Row<'_>,
    topic: &'r str,
) -> Result<ForeignMessage<'r>> {
    if !matches!(row.get_ref(5)?, ValueRef::Null) {
        importer
            .report
            .leave_out("messages taken over without their MQTT 5 properties.", 1);
    }
    let payload = match row.get_ref(6)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes,
        _ => &[],
    };
    let expires_s = u64::try_from(int(row, 2)?).unwrap_or(0);
    Ok(ForeignMessage {
        topic,
        properties: &[],
        payload,
        qos: qos(int(row, 3)?),
        retain: int(row, 4)? != 0,
        expires_at_ms: (expires_s > 0).then(|| expires_s.saturating_mul(1000)),
    })
}

fn messages(importer: &mut Importer<'_>, source: &Connection) -> Result<Result<(), String>> {
    let mut receivers: HashMap<i64, Vec<ForeignReceiver>> = HashMap::new();
    let mut select = source.prepare(
        "SELECT client_id, store_id, direction, mid, qos, retain, state, subscription_identifier FROM client_msgs ORDER BY cmsg_id",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let client = text(row, 0)?;
        let Some(session) = importer.added(&client) else {
            continue;
        };
        if int(row, 2)? != OUT {
            importer.report.leave_out(
                "QoS 2 messages left out that their publishers had not released: they will be sent again.",
                1,
            );
            continue;
        }
        let (state, qos) = (int(row, 6)?, qos(int(row, 4)?));
        let packet_id = u16::try_from(int(row, 3)?).ok().and_then(PacketId::new);
        if RELEASED.contains(&state)
            && let Some(packet_id) = packet_id
        {
            if let Err(error) = importer.released(session, packet_id) {
                return Ok(Err(error));
            }
            continue;
        }
        let subscription_id = u32::try_from(int(row, 7)?).unwrap_or(0);
        receivers
            .entry(int(row, 1)?)
            .or_default()
            .push(ForeignReceiver {
                session,
                qos,
                retain: int(row, 5)? & 1 != 0,
                subscription_ids: if subscription_id == 0 {
                    vec![]
                } else {
                    vec![subscription_id]
                },
                packet_id: packet_id.filter(|_| state == WAIT_FOR_PUBREC),
            });
    }
    let mut select = source.prepare(&format!(
        "SELECT {MESSAGE} FROM base_msgs AS m ORDER BY m.store_id"
    ))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let Some(receivers) = receivers.remove(&int(row, 0)?) else {
            continue;
        };
        let topic = text(row, 1)?;
        let message = message(importer, row, &topic)?;
        if let Err(error) = importer.message(&message, receivers) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

fn qos(bits: i64) -> QoS {
    u8::try_from(bits)
        .ok()
        .and_then(QoS::from_bits)
        .unwrap_or(QoS::AtLeastOnce)
}

/// A number; what is none is 0.
fn int(row: &Row<'_>, at: usize) -> Result<i64> {
    Ok(match row.get_ref(at)? {
        ValueRef::Integer(number) => number,
        ValueRef::Real(number) => number as i64,
        _ => 0,
    })
}

/// Text; a topic `1/2` or `7` that SQLite took for a number (their columns are of type STRING) becomes text again.
fn text(row: &Row<'_>, at: usize) -> Result<String> {
    Ok(match row.get_ref(at)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Null => String::new(),
    })
}

/// Decodes base64; what is not of its alphabet is skipped.
fn base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYmFy", b"foobar"),
            ("/+8=", b"\xff\xef"),
        ] {
            assert_eq!(base64(text), bytes, "{text}");
        }
    }
}

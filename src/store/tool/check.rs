//! Finding out what is wrong with a database, and saving what is not.
//!
//! A damaged page makes some rows of one table unreadable and leaves the others whole. So each table is read row by row, and
//! where that fails reading goes on behind the hole.

use super::{of, printed, sqlite};
use crate::store::codec::{blob, each_receiver, number_at, qos, unsigned};
use crate::store::fault::Fault;
use crate::store::sweep::{Done, add_acks};
use crate::store::{load, schema};
use rusqlite::types::{FromSqlError, Value, ValueRef};
use rusqlite::{Connection, Result, Row, params_from_iter};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Faults listed for one table; the others are counted.
const LISTED: usize = 20;

struct Table {
    name: &'static str,
    /// The first column of its key.
    key: &'static str,
    /// Whether a row says something that can be true.
    check: fn(&Row<'_>) -> Result<()>,
}

const TABLES: &[Table] = &[
    Table {
        name: "session",
        key: "id",
        check: |row| load::session(row).map(drop),
    },
    Table {
        name: "subscription",
        key: "session",
        check: |row| {
            number_at(row, 0)?;
            row.get_ref(1)?.as_str()?;
            row.get::<_, u8>(2)?;
            row.get::<_, Option<u32>>(3)?;
            Ok(())
        },
    },
    Table {
        name: "msg",
        key: "id",
        check: |row| {
            number_at(row, 0)?;
            if !each_receiver(row.get_ref(1)?.as_str()?, drop) {
                return Err(FromSqlError::InvalidType.into());
            }
            unsigned(row, 3)?;
            qos(row, 4)?;
            row.get::<_, bool>(5)?;
            unsigned(row, 6)?;
            row.get_ref(7)?.as_str()?;
            blob(row, 8)?;
            blob(row, 9)?;
            Ok(())
        },
    },
    Table {
        name: "done",
        key: "seq",
        check: |row| {
            number_at(row, 0)?;
            number_at(row, 1)?;
            match add_acks(&mut Done::default(), row.get_ref(2)?.as_str()?) {
                Some(_) => Ok(()),
                None => Err(FromSqlError::InvalidType.into()),
            }
        },
    },
    Table {
        name: "outgoing",
        key: "session",
        check: |row| {
            number_at(row, 0)?;
            load::packet_id(row)?;
            unsigned(row, 2)?;
            load::part_at(row, 3).map(drop)
        },
    },
    Table {
        name: "incoming",
        key: "session",
        check: |row| {
            number_at(row, 0)?;
            load::packet_id(row).map(drop)
        },
    },
    Table {
        name: "retained",
        key: "topic",
        check: |row| {
            row.get_ref(0)?.as_str()?;
            number_at(row, 1)?;
            number_at(row, 2)?;
            unsigned(row, 3)?;
            qos(row, 4)?;
            blob(row, 5)?;
            blob(row, 6)?;
            Ok(())
        },
    },
];

/// What of a table can be read.
#[derive(Default)]
struct Found {
    rows: u64,
    faults: Vec<String>,
    more_faults: u64,
}

impl Found {
    fn fault(&mut self, what: String) {
        if self.faults.len() < LISTED {
            self.faults.push(what);
        } else {
            self.more_faults += 1;
        }
    }

    fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }

    /// A line for the table and one for each fault.
    fn describe(&self, table: &Table, text: &mut String) {
        let state = if self.is_whole() {
            "all readable"
        } else {
            "DAMAGED"
        };
        let _ = writeln!(text, "  {:<14} {:>9} rows, {state}", table.name, self.rows);
        for fault in &self.faults {
            let _ = writeln!(text, "    lost: {fault}");
        }
        if self.more_faults > 0 {
            let _ = writeln!(text, "    and {} more", self.more_faults);
        }
    }
}

/// Gives every row that can be read and understood to `keep`, and finds out where there are none.
fn salvage(
    conn: &Connection,
    table: &Table,
    mut keep: impl FnMut(&Row<'_>) -> Result<()>,
) -> Result<Found> {
    let Table { name, key, check } = table;
    let mut found = Found::default();
    let mut last: Option<Value> = None;
    let mut from = String::new();
    // Forward; after a fault behind the hole, as far as the key is a number.
    loop {
        let (seen, error) = pass(
            conn,
            &format!("SELECT * FROM {name} {from} ORDER BY {key}"),
            last.clone().filter(|_| !from.is_empty()),
            &mut |row| read(row, *check, &mut found, &mut keep).map(|()| Next::Go),
        )?;
        last = seen.or(last);
        let Some(error) = error else {
            return Ok(found);
        };
        let at = match &last {
            Some(last) => format!("{key} {}", show(last)),
            None => "the beginning".into(),
        };
        let behind = match last {
            Some(Value::Integer(last)) => next_readable(conn, table, last),
            None if *key != "topic" => next_readable(conn, table, -1),
            _ => None,
        };
        let Some(behind) = behind else {
            found.fault(format!("rows after {at} ({error})"));
            break;
        };
        found.fault(format!("rows between {at} and {key} {behind} ({error})"));
        // One less, because the next pass begins behind it.
        last = Some(Value::Integer(behind - 1));
        from = format!("WHERE {key} > ?1");
    }
    if *key == "topic" {
        // From the other end, down to what is known.
        pass(
            conn,
            &format!("SELECT * FROM {name} ORDER BY {key} DESC"),
            None,
            &mut |row| {
                if let (Some(Value::Text(last)), Ok(topic)) = (&last, row.get_ref(0)?.as_str())
                    && topic <= last.as_str()
                {
                    return Ok(Next::Stop);
                }
                read(row, *check, &mut found, &mut keep).map(|()| Next::Go)
            },
        )?;
    }
    Ok(found)
}

enum Next {
    Go,
    Stop,
}

fn read(
    row: &Row<'_>,
    check: fn(&Row<'_>) -> Result<()>,
    found: &mut Found,
    keep: &mut impl FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    match check(row) {
        Ok(()) => {
            found.rows += 1;
            keep(row)
        }
        Err(error) => {
            let key = row
                .get::<_, Value>(0)
                .map_or_else(|e| e.to_string(), |key| show(&key));
            found.fault(format!(
                "the row {key}, which says what cannot be ({error})"
            ));
            Ok(())
        }
    }
}

/// Reads rows until the end, a stop or a fault of the database; returns the last key and the fault.
fn pass(
    conn: &Connection,
    sql: &str,
    after: Option<Value>,
    each: &mut impl FnMut(&Row<'_>) -> Result<Next>,
) -> Result<(Option<Value>, Option<rusqlite::Error>)> {
    let mut last = None;
    let mut select = match conn.prepare(sql) {
        Ok(select) => select,
        Err(error) => return Ok((None, Some(error))),
    };
    let mut rows = select.query(params_from_iter(after))?;
    loop {
        match rows.next() {
            Ok(Some(row)) => {
                last = row.get::<_, Value>(0).ok();
                if let Next::Stop = each(row)? {
                    return Ok((last, None));
                }
            }
            Ok(None) => return Ok((last, None)),
            Err(error) => return Ok((last, Some(error))),
        }
    }
}

/// The first key behind a hole that can be found, by steps that double.
fn next_readable(conn: &Connection, table: &Table, after: i64) -> Option<i64> {
    let Table { name, key, .. } = table;
    let sql = format!("SELECT {key} FROM {name} WHERE {key} > ?1 ORDER BY {key} LIMIT 1");
    (0..62)
        .filter_map(|step| after.checked_add(1 << step))
        .find_map(|after| conn.query_row(&sql, [after], |row| row.get(0)).ok())
}

fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// Reads all, and says for each table what of it can be read; empty when that is everything.
pub(in crate::store) fn damage_report(path: &Path) -> String {
    let Ok(conn) = schema::open_read_only(path) else {
        return "  nothing of it can be read\n".into();
    };
    let mut text = String::new();
    for table in TABLES {
        if let Ok(found) = salvage(&conn, table, |_| Ok(())) {
            found.describe(table, &mut text);
        }
    }
    text
}

pub(super) fn check(path: &Path) -> std::result::Result<(), String> {
    let conn = schema::open_read_only(path).map_err(of(path))?;
    let mut text = format!("{}\n", path.display());
    let mut is_whole = true;
    for table in TABLES {
        let found = salvage(&conn, table, |_| Ok(())).map_err(sqlite(path))?;
        is_whole &= found.is_whole();
        found.describe(table, &mut text);
    }
    for fault in integrity(&conn) {
        is_whole = false;
        let _ = writeln!(text, "  structure: {fault}");
    }
    for (what, sql) in LEFTOVERS {
        let count: u64 = conn.query_row(sql, [], |row| row.get(0)).unwrap_or(0);
        if count > 0 {
            let _ = writeln!(
                text,
                "  {count} {what} (harmless; the broker ignores or removes them)"
            );
        }
    }
    text.push_str(if is_whole {
        "  nothing is wrong\n"
    } else {
        "  run `ringmq store repair` with the broker stopped: it keeps what is readable\n"
    });
    printed(io::stdout().lock().write_all(text.as_bytes()))?;
    if is_whole {
        Ok(())
    } else {
        Err(format!("{} is damaged", path.display()))
    }
}

/// What may be left behind by sessions that ended.
const LEFTOVERS: &[(&str, &str)] = &[
    (
        "subscriptions of sessions that are gone",
        "SELECT count(*) FROM subscription WHERE session NOT IN (SELECT id FROM session)",
    ),
    (
        "messages whose receivers are all gone",
        "SELECT count(*) FROM msg WHERE NOT EXISTS (SELECT 1 FROM json_each(msg.receivers) AS receiver
         JOIN session ON session.id = json_extract(receiver.value, '$[0]'))",
    ),
];

fn integrity(conn: &Connection) -> Vec<String> {
    let check = || -> Result<Vec<String>> {
        let mut select = conn.prepare("PRAGMA integrity_check(20)")?;
        let lines = select.query_map([], |row| row.get(0))?;
        lines.collect()
    };
    match check() {
        Ok(lines) => lines.into_iter().filter(|line| line != "ok").collect(),
        Err(error) => vec![Fault::of(&error).detail],
    }
}

pub(super) fn repair(path: &Path) -> std::result::Result<(), String> {
    let new_path = path.with_extension("db.new");
    for stale in ["db.new", "db.new-wal", "db.new-shm"] {
        let _ = fs::remove_file(path.with_extension(stale));
    }
    let new = schema::open(&new_path).map_err(of(&new_path))?;
    let mut text = format!("{}\n", path.display());
    match schema::open_read_only(path) {
        Ok(old) => {
            for table in TABLES {
                let found = copy(&old, &new, table).map_err(sqlite(&new_path))?;
                found.describe(table, &mut text);
            }
        }
        Err(error @ (schema::OpenError::TooNew(_) | schema::OpenError::Io(_))) => {
            return Err(of(path)(error));
        }
        Err(error) => {
            let _ = writeln!(
                text,
                "  nothing of it can be read ({error}): the new one is empty"
            );
        }
    }
    new.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .map_err(sqlite(&new_path))?;
    drop(new);
    let aside = format!("db.damaged-{}", crate::store::writer::now_ms() / 1000);
    for (old, aside) in [
        ("db-wal", format!("{aside}-wal")),
        ("db-shm", format!("{aside}-shm")),
        ("db", aside.clone()),
    ] {
        let old = path.with_extension(old);
        if old.exists() {
            fs::rename(&old, path.with_extension(&aside)).map_err(of(&old))?;
        }
    }
    fs::rename(&new_path, path).map_err(of(path))?;
    if let Some(dir) = path.parent() {
        fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(of(dir))?;
    }
    let _ = writeln!(
        text,
        "  the old database is kept as {}",
        path.with_extension(aside).display()
    );
    printed(io::stdout().lock().write_all(text.as_bytes()))
}

fn copy(old: &Connection, new: &Connection, table: &Table) -> Result<Found> {
    new.execute_batch("BEGIN")?;
    let columns = new
        .prepare(&format!("SELECT * FROM {}", table.name))?
        .column_count();
    let places: Vec<_> = (1..=columns).map(|at| format!("?{at}")).collect();
    // What was met from both ends of a hole is one row.
    let insert = format!(
        "INSERT OR IGNORE INTO {} VALUES ({})",
        table.name,
        places.join(",")
    );
    let mut insert = new.prepare(&insert)?;
    let found = salvage(old, table, |row| {
        for at in 0..columns {
            match row.get_ref(at)? {
                ValueRef::Null => insert.raw_bind_parameter(at + 1, None::<i64>)?,
                value => insert.raw_bind_parameter(at + 1, Value::try_from(value)?)?,
            }
        }
        insert.raw_execute().map(drop)
    })?;
    new.execute_batch("COMMIT")?;
    Ok(found)
}

//! `ringmq store`: looking at what is kept, checking, repairing, copying and moving it.
//!
//! What only reads works beside a running broker; what writes takes the data directory's lock, and so needs the broker stopped.

mod check;
mod export;
mod import;
mod mosquitto;

use super::schema;
use super::stats::Bytes;
use crate::server::data_dir;
use clap::{Args, Subcommand};
use rusqlite::Connection;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) use check::damage_report;

/// Something failed, or the store is damaged.
const EXIT_FAILED: u8 = 1;

/// What `ringmq store` does.
#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// Print what is kept, in numbers, and the sessions for which most is kept
    Show(StoreArgs),
    /// Check the database; exit 1 if something is wrong
    Check(StoreArgs),
    /// Salvage what is readable of a damaged database into a new one (the broker must be stopped)
    Repair(StoreArgs),
    /// List sessions that have been without a connection for long
    Sessions(SessionsArgs),
    /// Copy the database while the broker runs
    Backup {
        /// The copy; it must not exist
        to: PathBuf,
        /// Of which store
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Print everything as JSON, one line each
    Export(StoreArgs),
    /// Add what another store has: an export, mosquitto's SQLite store, or the output of `mosquitto_db_dump --json`
    Import {
        /// The file; its form is recognized
        from: PathBuf,
        /// Into which store
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Which store.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// Data directory [default: as for the broker]
    #[arg(long, value_name = "DIR", env = "RINGMQ_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// Which sessions.
#[derive(Args, Clone, Debug)]
pub struct SessionsArgs {
    /// Without a connection for at least this long: 30d, 12h, 90m
    #[arg(long, value_name = "AGE", default_value = "0s")]
    older_than: String,
    /// Delete them, with their subscriptions and messages (the broker must be stopped)
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Does what was asked.
pub fn run(verb: &StoreVerb) -> ExitCode {
    let result = match verb {
        StoreVerb::Show(args) => show(&args.file()),
        StoreVerb::Check(args) => check::check(&args.file()),
        StoreVerb::Repair(args) => args.locked().and_then(|(_lock, path)| check::repair(&path)),
        StoreVerb::Sessions(args) => sessions(args),
        StoreVerb::Backup { to, store } => backup(&store.file(), to),
        StoreVerb::Export(args) => export::export(&args.file()),
        StoreVerb::Import { from, store } => store
            .locked()
            .and_then(|(_lock, path)| import_from(&path, from)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("ringmq: {message}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

impl StoreArgs {
    fn dir(&self) -> PathBuf {
        let given = self.data_dir.clone();
        // Without any home the current directory is as good a guess as none.
        given.or_else(data_dir::default_dir).unwrap_or_default()
    }

    fn file(&self) -> PathBuf {
        self.dir().join(schema::FILE)
    }

    /// The database, with nobody else in it until the lock is dropped.
    fn locked(&self) -> Result<(File, PathBuf), String> {
        let dir = self.dir();
        if !dir.is_dir() {
            return Err(format!("there is no data directory {}", dir.display()));
        }
        let lock = data_dir::lock(&dir)?;
        Ok((lock, dir.join(schema::FILE)))
    }
}

/// Puts the path in front of what went wrong.
fn of<E: Display>(path: &Path) -> impl Fn(E) -> String {
    move |error| format!("{}: {error}", path.display())
}

fn sqlite(path: &Path) -> impl Fn(rusqlite::Error) -> String {
    move |error| format!("{}: {}", path.display(), super::fault::Fault::of(&error))
}

/// What another program did to our output is no failure of ours: a pipe that was closed.
fn printed(result: io::Result<()>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}

fn show(path: &Path) -> Result<(), String> {
    let conn = schema::open_read_only(path).map_err(of(path))?;
    let text = show_text(&conn, path).map_err(sqlite(path))?;
    printed(io::stdout().lock().write_all(text.as_bytes()))
}

fn show_text(conn: &Connection, path: &Path) -> rusqlite::Result<String> {
    let one = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, Option<u64>>(0));
    let count = |sql: &str| one(sql).map(Option::unwrap_or_default);
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    let wal = std::fs::metadata(path.with_extension("db-wal")).map_or(0, |file| file.len());
    let mut text = format!(
        "{}: {}, write-ahead log {}\n",
        path.display(),
        Bytes(bytes),
        Bytes(wal)
    );
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<24} {value}\n"));
    line(
        "sessions",
        format!(
            "{} ({} without a connection)",
            count("SELECT count(*) FROM session")?,
            count("SELECT count(*) FROM session WHERE disconnected_at IS NOT NULL")?
        ),
    );
    line(
        "subscriptions",
        count("SELECT count(*) FROM subscription")?.to_string(),
    );
    line(
        "messages that wait",
        format!(
            "{} ({})",
            count("SELECT count(*) FROM msg")?,
            Bytes(count(
                "SELECT sum(octet_length(topic) + ifnull(octet_length(properties), 0) + octet_length(payload)) FROM msg"
            )?)
        ),
    );
    let oldest = "SELECT datetime(stored_at / 1000, 'unixepoch') FROM msg ORDER BY id LIMIT 1";
    if let Ok(oldest) = conn.query_row(oldest, [], |row| row.get::<_, String>(0)) {
        line("oldest of them", format!("{oldest} UTC"));
    }
    line(
        "retained messages",
        format!(
            "{} ({})",
            count("SELECT count(*) FROM retained")?,
            Bytes(count(
                "SELECT sum(octet_length(topic) + ifnull(octet_length(properties), 0) + octet_length(payload)) FROM retained"
            )?)
        ),
    );
    let mut longest = conn.prepare(
        "SELECT client_id, count(*), sum(octet_length(payload)) FROM queue GROUP BY client_id ORDER BY 2 DESC LIMIT 10",
    )?;
    let mut rows = longest.query([])?;
    let mut is_first = true;
    while let Some(row) = rows.next()? {
        if std::mem::take(&mut is_first) {
            text.push_str("\nmessages      payload  client\n");
        }
        let (client, messages, bytes): (String, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let bytes = Bytes(bytes).to_string();
        text.push_str(&format!("{messages:>8} {bytes:>12}  {client}\n"));
    }
    Ok(text)
}

fn sessions(args: &SessionsArgs) -> Result<(), String> {
    let age_s = parse_age_s(&args.older_than).ok_or_else(|| {
        format!(
            "`{}` is not an age such as 30d, 12h or 90m",
            args.older_than
        )
    })?;
    let before_ms = super::writer::now_ms().saturating_sub(age_s.saturating_mul(1000));
    let before = i64::try_from(before_ms).unwrap_or(i64::MAX);
    let old = "disconnected_at IS NOT NULL AND disconnected_at <= ?1";
    if args.delete {
        let (_lock, path) = args.store.locked()?;
        let mut conn = schema::open(&path).map_err(of(&path))?;
        let count = delete_sessions(&mut conn, old, before).map_err(sqlite(&path))?;
        return printed(writeln!(
            io::stdout(),
            "{count} sessions deleted; their messages go when the broker runs and has time."
        ));
    }
    let path = args.store.file();
    let conn = schema::open_read_only(&path).map_err(of(&path))?;
    let list = || {
        let mut select = conn.prepare(&format!(
            "SELECT datetime(disconnected_at / 1000, 'unixepoch'), expiry_s, client_id FROM session WHERE {old} ORDER BY disconnected_at"
        ))?;
        let mut rows = select.query([before])?;
        let mut text = String::from("disconnected (UTC)   expiry s    client\n");
        while let Some(row) = rows.next()? {
            let (since, expiry_s, client): (String, u32, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let expiry = match expiry_s {
                u32::MAX => "never".into(),
                seconds => seconds.to_string(),
            };
            text.push_str(&format!("{since}  {expiry:<10}  {client}\n"));
        }
        Ok(text)
    };
    let text = list().map_err(sqlite(&path))?;
    printed(io::stdout().lock().write_all(text.as_bytes()))
}

fn delete_sessions(conn: &mut Connection, which: &str, before: i64) -> rusqlite::Result<usize> {
    let transaction = conn.transaction()?;
    for table in ["subscription", "outgoing", "incoming"] {
        let sql =
            format!("DELETE FROM {table} WHERE session IN (SELECT id FROM session WHERE {which})");
        transaction.execute(&sql, [before])?;
    }
    let count = transaction.execute(&format!("DELETE FROM session WHERE {which}"), [before])?;
    transaction.commit()?;
    Ok(count)
}

/// Seconds in `30d`, `12h`, `90m`, `10s` or `10`.
fn parse_age_s(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit_s)
}

/// Copies the database page by page; the broker goes on meanwhile.
fn backup(path: &Path, to: &Path) -> Result<(), String> {
    let conn = schema::open_read_only(path).map_err(of(path))?;
    if to.exists() {
        return Err(format!("{} exists already", to.display()));
    }
    let copy = || {
        // One statement, one state of the database; and the copy has no free pages.
        let name = to
            .to_str()
            .ok_or(rusqlite::Error::InvalidPath(to.to_owned()))?;
        conn.execute("VACUUM INTO ?1", [name])
    };
    copy().map_err(sqlite(to))?;
    File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(of(to))?;
    let bytes = std::fs::metadata(to).map_or(0, |file| file.len());
    printed(writeln!(io::stdout(), "{}: {}", to.display(), Bytes(bytes)))
}

fn import_from(path: &Path, from: &Path) -> Result<(), String> {
    let mut head = [0; 16];
    let file = File::open(from).map_err(of(from))?;
    let count = io::Read::read(&mut &file, &mut head).map_err(of(from))?;
    let report = if head[..count].starts_with(b"SQLite format 3\0") {
        mosquitto::import_sqlite(path, from)?
    } else {
        let text = std::fs::read_to_string(from).map_err(of(from))?;
        if text.contains("\"base-messages\"") {
            mosquitto::import_dump(path, from, &text)?
        } else {
            export::import(path, from, &text)?
        }
    };
    printed(io::stdout().lock().write_all(report.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read() {
        for (text, seconds) in [
            ("30d", 30 * 86_400),
            ("12h", 43_200),
            ("90m", 5_400),
            ("7", 7),
            ("0s", 0),
        ] {
            assert_eq!(parse_age_s(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "d",
            "3y",
            "-1d",
            "1.5h",
            "99999999999999999999d",
            "18446744073709551615w",
        ] {
            assert_eq!(parse_age_s(text), None, "{text}");
        }
    }
}

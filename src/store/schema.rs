//! The database file: its tables, how it is opened, and how an older one is brought up to date.
//!
//! Everything hot is written at the right edge of its table: `msg` by ascending message number, `done` by ascending
//! sequence number. Neither has a secondary index. A message stands in `msg` once, whatever the number of
//! its receivers; a receiver that is done with a message that others still wait for is two numbers in a row of `done`.
//!
//! The views are for people with the stock `sqlite3` tool; the broker does not use them.

use rusqlite::{Connection, OpenFlags};
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// The database in the data directory.
pub const FILE: &str = "store.db";
/// "rmqS": how the file says that it is ours (SQLite's `application_id`).
const APPLICATION_ID: i32 = 0x726d_7153;
/// How long a connection waits for another process, such as a person with `sqlite3`.
const BUSY: Duration = Duration::from_secs(5);
/// Memory for pages of one writing connection, in KiB.
const CACHE_KIB: i32 = 16 << 10;

/// The steps from one version of the schema to the next: step `n` leads from version `n` to `n + 1`, and a new
/// database is made by all of them.
const STEPS: &[&str] = &[STEP_1, STEP_2, STEP_3];

/// The version that this program reads and writes.
pub const VERSION: usize = STEPS.len();

const STEP_1: &str = "
-- A session with a Session Expiry Interval; times are wall-clock milliseconds, NULL in disconnected_at is: connected.
CREATE TABLE session(
    id INTEGER PRIMARY KEY, client_id TEXT NOT NULL, expiry_s INTEGER NOT NULL, disconnected_at INTEGER,
    queue_full INTEGER NOT NULL, will_delay_s INTEGER, will_expiry_s INTEGER, will_qos INTEGER, will_retain INTEGER, will_topic TEXT,
    will_properties BLOB, will_payload BLOB);
CREATE TABLE subscription(
    session INTEGER NOT NULL, filter TEXT NOT NULL, options INTEGER NOT NULL, subscription_id INTEGER,
    PRIMARY KEY(session, filter)) WITHOUT ROWID;
-- receivers: [[session,flags,subscription id...],...]
CREATE TABLE msg(
    id INTEGER PRIMARY KEY, receivers TEXT NOT NULL, stored_at INTEGER NOT NULL, expires_at INTEGER,
    qos INTEGER NOT NULL, retain INTEGER NOT NULL, stamp INTEGER, topic TEXT NOT NULL, properties BLOB, payload BLOB NOT NULL);
-- Who no longer waits for a message that others wait for: [[message,session...],...], a row per commit; newest is the
-- greatest message number in it.
CREATE TABLE done(seq INTEGER PRIMARY KEY, newest INTEGER NOT NULL, acks TEXT NOT NULL);
-- QoS 2 to clients: the message sent under this identifier, or NULL once PUBREC has arrived.
CREATE TABLE outgoing(
    session INTEGER NOT NULL, packet_id INTEGER NOT NULL, message INTEGER, PRIMARY KEY(session, packet_id)) WITHOUT ROWID;
-- QoS 2 from clients: identifiers in use.
CREATE TABLE incoming(
    session INTEGER NOT NULL, packet_id INTEGER NOT NULL, PRIMARY KEY(session, packet_id)) WITHOUT ROWID;
CREATE TABLE retained(
    topic TEXT PRIMARY KEY, stamp INTEGER NOT NULL, number INTEGER NOT NULL, expires_at INTEGER, qos INTEGER NOT NULL, properties BLOB,
    payload BLOB NOT NULL) WITHOUT ROWID;

CREATE VIEW done_parts AS
    SELECT json_extract(ack.value, '$[0]') AS message, part.value AS session
    FROM done, json_each(done.acks) AS ack, json_each(ack.value) AS part WHERE part.key > 0;
CREATE VIEW queue AS
    SELECT session.client_id, msg.id AS message, datetime(msg.stored_at / 1000, 'unixepoch') AS stored,
        msg.topic, msg.qos, msg.payload
    FROM msg, json_each(msg.receivers) AS receiver
        JOIN session ON session.id = json_extract(receiver.value, '$[0]')
    WHERE (msg.id, session.id) NOT IN (SELECT message, session FROM done_parts);
CREATE VIEW sessions AS
    SELECT client_id, expiry_s, datetime(disconnected_at / 1000, 'unixepoch') AS disconnected, will_topic,
        (SELECT count(*) FROM subscription WHERE subscription.session = session.id) AS subscriptions
    FROM session;
CREATE VIEW retained_messages AS
    SELECT topic, qos, datetime((stamp >> 16) / 1000, 'unixepoch') AS set_at, payload FROM retained;
";

const STEP_2: &str = "
-- Whose it is: the User Name that began it; NULL when that was nobody in particular.
ALTER TABLE session ADD COLUMN username TEXT;
";

/// `done.acks` of version 2, with parts.
macro_rules! acks {
    () => {
        "(SELECT json_group_array(json('[' || json_extract(ack.value, '$[0]')
            || (SELECT group_concat(',' || part.value || ',0', '') FROM json_each(ack.value) AS part WHERE part.key > 0)
            || ']')) FROM json_each(done.acks) AS ack)"
    };
}

/// `msg.receivers` of version 2, which did not say which shared group it was: it has become the session's own.
macro_rules! receivers {
    () => {
        "(SELECT json_group_array(json_set(it.value, '$[1]', json_extract(it.value, '$[1]') & 7))
            FROM json_each(msg.receivers) AS it)"
    };
}

const STEP_3: &str = concat!(
    "
-- A session may have several parts in a message: its own, 0, and one of each shared group.
-- msg.receivers is the same, but flags >> 3 is the part; done.acks is [[message,session,part,session,part...],...];
-- outgoing.part is the part of the message that was sent.
ALTER TABLE outgoing ADD COLUMN part INTEGER NOT NULL DEFAULT 0;
UPDATE done SET acks = ",
    acks!(),
    ";
UPDATE msg SET receivers = ",
    receivers!(),
    ";
DROP VIEW queue;
DROP VIEW done_parts;
CREATE VIEW done_parts AS
    SELECT json_extract(ack.value, '$[0]') AS message, session.value AS session,
        json_extract(ack.value, '$[' || (session.key + 1) || ']') AS part
    FROM done, json_each(done.acks) AS ack, json_each(ack.value) AS session WHERE session.key % 2 = 1;
CREATE VIEW queue AS
    SELECT session.client_id, msg.id AS message, datetime(msg.stored_at / 1000, 'unixepoch') AS stored,
        msg.topic, msg.qos, msg.payload
    FROM msg, json_each(msg.receivers) AS receiver
        JOIN session ON session.id = json_extract(receiver.value, '$[0]')
    WHERE (msg.id, session.id, json_extract(receiver.value, '$[1]') >> 3)
        NOT IN (SELECT message, session, part FROM done_parts);
"
);

/// What makes version `n + 1` look like the newest to who only reads.
const AS_NEWEST: [&str; STEPS.len() - 1] =
    [
        "CREATE TEMP VIEW session AS SELECT *, NULL AS username FROM main.session;",
        concat!(
            "CREATE TEMP VIEW done AS SELECT seq, newest, ", acks!(), " AS acks FROM main.done AS done;
            CREATE TEMP VIEW msg AS SELECT id, ", receivers!(), " AS receivers, stored_at, expires_at, qos, retain, stamp, topic,
                properties, payload FROM main.msg AS msg;
            CREATE TEMP VIEW outgoing AS SELECT *, 0 AS part FROM main.outgoing;
            CREATE TEMP VIEW done_parts AS
                SELECT json_extract(ack.value, '$[0]') AS message, session.value AS session,
                    json_extract(ack.value, '$[' || (session.key + 1) || ']') AS part
                FROM done, json_each(done.acks) AS ack, json_each(ack.value) AS session WHERE session.key % 2 = 1;"
        ),
    ];

/// What keeps a database from being opened. Its text is for the operator, and names no path.
#[derive(Debug)]
pub enum OpenError {
    /// SQLite or the system refused.
    Sqlite(rusqlite::Error),
    /// The system refused before SQLite was asked.
    Io(io::Error),
    /// A file of another program.
    Foreign,
    /// Written by a later ringmq, with this version of the schema.
    TooNew(usize),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => write!(f, "{}", super::fault::Fault::of(error)),
            Self::Io(error) => write!(f, "{error}"),
            Self::Foreign => write!(f, "it is a database of another program"),
            Self::TooNew(version) => write!(
                f,
                "a later ringmq wrote it (schema version {version}; this one knows versions up to {VERSION}); \
                 run that ringmq, or export there and import here"
            ),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Opens the database for writing, makes it if it is missing, and brings an older one up to date.
///
/// Ownership: the caller has the data directory's lock.
pub fn open(path: &Path) -> Result<Connection, OpenError> {
    // SQLite would make it readable for all.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(OpenError::Io)?;
    let mut conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BUSY)?;
    // Before the first table is made, or it has no effect.
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    migrate(&mut conn, STEPS)?;
    Ok(conn)
}

/// Opens the database for reading beside the connection that writes, in this process or another.
pub fn open_read_only(path: &Path) -> Result<Connection, OpenError> {
    fs::metadata(path).map_err(OpenError::Io)?;
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BUSY)?;
    match identity(&conn)? {
        (APPLICATION_ID, version @ 1..=VERSION) => {
            for sql in &AS_NEWEST[version - 1..] {
                conn.execute_batch(sql)?;
            }
            Ok(conn)
        }
        (APPLICATION_ID, version @ 1..) => Err(OpenError::TooNew(version)),
        _ => Err(OpenError::Foreign),
    }
}

fn identity(conn: &Connection) -> Result<(i32, usize), OpenError> {
    let application = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: u32 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok((application, version as usize))
}

/// Takes the steps that the database lacks, all in one transaction.
fn migrate(conn: &mut Connection, steps: &[&str]) -> Result<(), OpenError> {
    let (application, version) = identity(conn)?;
    let tables: u32 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (application != 0 || tables > 0) {
        return Err(OpenError::Foreign);
    }
    if version > steps.len() {
        return Err(OpenError::TooNew(version));
    }
    if version == steps.len() {
        return Ok(());
    }
    let transaction = conn.transaction()?;
    for step in &steps[version..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", steps.len() as u32)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::Scratch;

    #[test]
    fn an_older_database_is_brought_up_to_date_and_keeps_its_rows() {
        let scratch = Scratch::new("migrate");
        let path = scratch.path().join(FILE);
        let mut conn = Connection::open(&path).unwrap();
        let old = "CREATE TABLE session(id INTEGER PRIMARY KEY, client_id TEXT)";
        migrate(&mut conn, &[old]).unwrap();
        conn.execute("INSERT INTO session VALUES (7, 'scada')", [])
            .unwrap();
        let step = "ALTER TABLE session ADD COLUMN expiry_s INTEGER NOT NULL DEFAULT 60";
        migrate(&mut conn, &[old, step]).unwrap();
        let row: (String, u32) = conn
            .query_row("SELECT client_id, expiry_s FROM session", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(row, ("scada".into(), 60));
        assert_eq!(identity(&conn).unwrap(), (APPLICATION_ID, 2));
        // Once more has no effect, and an older program keeps away.
        migrate(&mut conn, &[old, step]).unwrap();
        let error = migrate(&mut conn, &[old]).unwrap_err();
        assert!(matches!(error, OpenError::TooNew(2)), "{error}");
    }

    #[test]
    fn an_older_database_reads_as_the_newest() {
        let scratch = Scratch::new("older");
        let path = scratch.path().join(FILE);
        let mut conn = Connection::open(&path).unwrap();
        migrate(&mut conn, &STEPS[..1]).unwrap();
        conn.execute(
            "INSERT INTO session(id, client_id, expiry_s, queue_full) VALUES (7, 'scada', 60, 0)",
            [],
        )
        .unwrap();
        conn.execute_batch(
            "INSERT INTO msg VALUES (5, '[[7,2,70],[8,10]]', 0, NULL, 1, 0, NULL, 't', NULL, x'00');
             INSERT INTO done VALUES (1, 5, '[[5,8],[4,7,8]]');
             INSERT INTO outgoing VALUES (7, 9, 5);",
        )
        .unwrap();
        let read = |conn: &Connection| -> rusqlite::Result<[Option<String>; 6]> {
            let sql = "SELECT session.client_id, username, receivers, acks, done_parts.part, outgoing.part
                FROM session, msg, done, done_parts, outgoing WHERE done_parts.message = 5";
            conn.query_row(sql, [], |row| {
                let text = |at| row.get(at);
                Ok([
                    text(0)?,
                    text(1)?,
                    text(2)?,
                    text(3)?,
                    row.get::<_, i64>(4)?.to_string().into(),
                    row.get::<_, i64>(5)?.to_string().into(),
                ])
            })
        };
        let as_newest = read(&open_read_only(&path).unwrap()).unwrap();
        let texts = [
            "scada",
            "",
            "[[7,2,70],[8,2]]",
            "[[5,8,0],[4,7,0,8,0]]",
            "0",
            "0",
        ];
        let expected = texts.map(|text| (!text.is_empty()).then(|| text.to_owned()));
        assert_eq!(as_newest, expected);
        assert_eq!(identity(&conn).unwrap().1, 1, "it is not changed");
        drop(conn);
        assert_eq!(read(&open(&path).unwrap()).unwrap(), as_newest);
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let scratch = Scratch::new("half-a-step");
        let mut conn = Connection::open(scratch.path().join(FILE)).unwrap();
        migrate(&mut conn, &["CREATE TABLE a(x)"]).unwrap();
        migrate(
            &mut conn,
            &["CREATE TABLE a(x)", "CREATE TABLE b(x); CREATE TABLE a(x)"],
        )
        .unwrap_err();
        assert_eq!(identity(&conn).unwrap().1, 1);
        conn.execute("CREATE TABLE b(x)", []).unwrap();
    }

    #[test]
    fn a_database_of_another_program_is_left_alone() {
        let scratch = Scratch::new("foreign");
        let path = scratch.path().join(FILE);
        let conn = Connection::open(&path).unwrap();
        conn.execute("CREATE TABLE photos(x)", []).unwrap();
        drop(conn);
        assert!(matches!(open(&path), Err(OpenError::Foreign)));
        assert!(matches!(open_read_only(&path), Err(OpenError::Foreign)));
    }

    #[test]
    fn a_new_database_is_private_and_reads_as_one() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new("new");
        let path = scratch.path().join(FILE);
        let conn = open(&path).unwrap();
        for file in [FILE, "store.db-wal", "store.db-shm"] {
            let mode = fs::metadata(scratch.path().join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        for view in ["queue", "sessions", "retained_messages"] {
            let sql = format!("SELECT count(*) FROM {view}");
            let count: u32 = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
            assert_eq!(count, 0);
        }
        let auto_vacuum: u32 = conn
            .pragma_query_value(None, "auto_vacuum", |row| row.get(0))
            .unwrap();
        assert_eq!(auto_vacuum, 2);
        open_read_only(&path).unwrap();
    }
}

//! `ringmq store`, as an operator uses it.

use rusqlite::Connection;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A data directory of one test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    /// With a store that has sessions, messages and retained messages.
    fn new(name: &str, sessions: u64, messages: u64) -> Self {
        let dir = std::env::temp_dir().join(format!("ringmq-tools-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let dir = Self(dir);
        let conn = ringmq::store::schema::open(&dir.db()).unwrap();
        conn.execute_batch("BEGIN").unwrap();
        for n in 1..=sessions {
            conn.execute(
                "INSERT INTO session VALUES (?1, 'client-' || ?1, 3600, ?1 * 1000, 0, 7, NULL, 1, 0, 'will/' || ?1, NULL, x'6279', 'al')",
                [n],
            )
            .unwrap();
            conn.execute("INSERT INTO subscription VALUES (?1, 'a/#', 1, ?1)", [n])
                .unwrap();
        }
        for n in 1..=messages {
            let receivers = format!(
                "[[{},1,7],[{},2]]",
                1 + n % sessions,
                1 + (n + 1) % sessions
            );
            conn.execute(
                "INSERT INTO msg VALUES (?1, ?2, 1700000000000, NULL, 2, 0, NULL, 'a/' || ?1, x'0101', CAST(?3 AS BLOB))",
                (1000 + n, receivers, format!("payload {n} {}", "x".repeat(150))),
            )
            .unwrap();
            conn.execute(
                "INSERT INTO retained VALUES ('keep/' || ?1, ?1, ?1, NULL, 1, NULL, CAST('kept' AS BLOB))",
                [n],
            )
            .unwrap();
        }
        // The second receiver of the first message is done; the first is sent one of QoS 2.
        if messages > 0 {
            let acks = format!("[[1001,{},0]]", 1 + 2 % sessions);
            conn.execute("INSERT INTO done VALUES (1, 1001, ?1)", [acks])
                .unwrap();
            conn.execute(
                "INSERT INTO outgoing VALUES (?1, 9, 1001, 0)",
                [1 + 1 % sessions],
            )
            .unwrap();
            conn.execute("INSERT INTO outgoing VALUES (1, 10, NULL, 0)", [])
                .unwrap();
            conn.execute("INSERT INTO incoming VALUES (1, 11)", [])
                .unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
        dir
    }

    fn db(&self) -> PathBuf {
        self.0.join("store.db")
    }

    /// Runs `ringmq store` and returns whether it succeeded, and what it said.
    fn run(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_ringmq"))
            .arg("store")
            .args(args)
            .arg("--data-dir")
            .arg(&self.0)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text + &errors)
    }

    fn ok(&self, args: &[&str]) -> String {
        let (ok, text) = self.run(args);
        assert!(ok, "{text}");
        text
    }

    fn count(&self, sql: &str) -> u64 {
        let conn = Connection::open(self.db()).unwrap();
        conn.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn show_check_and_sessions_say_what_there_is() {
    let dir = Dir::new("show", 10, 20);
    let text = dir.ok(&["show"]);
    assert!(
        text.contains("10 (10 without a connection)") && text.contains("client-1"),
        "{text}"
    );
    assert!(dir.ok(&["check"]).contains("nothing is wrong"));
    assert_eq!(
        dir.ok(&["sessions", "--older-than", "1d"]).lines().count(),
        11
    );
    assert!(
        dir.ok(&["sessions", "--older-than", "1d", "--delete"])
            .contains("10 sessions deleted")
    );
    assert_eq!(dir.count("SELECT count(*) FROM session"), 0);
    assert_eq!(dir.count("SELECT count(*) FROM subscription"), 0);
    assert!(
        dir.ok(&["check"])
            .contains("20 messages whose receivers are all gone")
    );
}

#[test]
fn a_copy_and_an_export_have_everything() {
    let dir = Dir::new("export", 5, 30);
    let lines = dir.ok(&["export"]);
    let other = Dir::new("import", 1, 0);
    let file = other.0.join("lines.json");
    fs::write(&file, &lines).unwrap();
    let text = other.ok(&["import", file.to_str().unwrap()]);
    // `client-1` has a session there already.
    assert!(
        text.contains("4 sessions, 4 subscriptions") && text.contains("1 sessions left out"),
        "{text}"
    );
    let third = Dir::new("import-empty", 1, 0);
    third.ok(&["sessions", "--delete"]);
    third.ok(&["import", file.to_str().unwrap()]);
    assert_eq!(third.ok(&["export"]), lines);

    let copy = dir.0.join("copy.db");
    dir.ok(&["backup", copy.to_str().unwrap()]);
    let (ok, text) = dir.run(&["backup", copy.to_str().unwrap()]);
    assert!(!ok && text.contains("exists already"), "{text}");
    fs::rename(&copy, third.db()).unwrap();
    for rest in ["store.db-wal", "store.db-shm"] {
        let _ = fs::remove_file(third.0.join(rest));
    }
    assert_eq!(third.ok(&["export"]), lines);
}

#[test]
fn what_writes_needs_the_broker_stopped() {
    let dir = Dir::new("locked", 1, 1);
    let lock = fs::File::create(dir.0.join("lock")).unwrap();
    lock.lock().unwrap();
    for args in [&["repair"][..], &["sessions", "--delete"], &["import", "x"]] {
        let (ok, text) = dir.run(args);
        assert!(!ok && text.contains("in use by"), "{text}");
    }
    dir.ok(&["show"]);
}

#[test]
fn a_damaged_database_is_repaired_as_far_as_it_can_be() {
    let dir = Dir::new("damaged", 50, 3_000);
    Connection::open(dir.db())
        .unwrap()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    // Some pages in the middle, most of them of messages.
    let mut bytes = fs::read(dir.db()).unwrap();
    let pages = bytes.len() / 4096;
    for page in [pages / 3, pages / 2] {
        bytes[page * 4096..(page + 1) * 4096].fill(0x5a);
    }
    fs::write(dir.db(), bytes).unwrap();
    let (ok, text) = dir.run(&["check"]);
    assert!(
        !ok && text.contains("DAMAGED") && text.contains("store repair"),
        "{text}"
    );

    // The broker does not start on it, and says why.
    let output = Command::new(env!("CARGO_BIN_EXE_ringmq"))
        .args(["--bind", "127.0.0.1:0", "--cores", "1", "--data-dir"])
        .arg(&dir.0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("lost: rows between"),
        "{said}"
    );

    let text = dir.ok(&["repair"]);
    assert!(text.contains("lost: rows between"), "{text}");
    assert!(dir.ok(&["check"]).contains("nothing is wrong"));
    let kept = dir.count("SELECT count(*) FROM msg") + dir.count("SELECT count(*) FROM retained");
    assert!((5_000..6_000).contains(&kept), "{kept}");
    assert_eq!(dir.count("SELECT count(*) FROM session"), 50);
    let aside = fs::read_dir(&dir.0).unwrap().flatten();
    assert!(aside.into_iter().any(|file| {
        file.file_name()
            .to_string_lossy()
            .starts_with("store.db.damaged-")
    }));
}

#[test]
fn a_file_that_is_no_database_says_so_and_can_be_replaced() {
    let dir = Dir::new("garbage", 1, 1);
    let _ = fs::remove_file(dir.0.join("store.db-wal"));
    fs::write(dir.db(), vec![0x5a; 20_000]).unwrap();
    let (ok, text) = dir.run(&["check"]);
    assert!(!ok && text.contains("damaged"), "{text}");
    assert!(dir.ok(&["repair"]).contains("nothing of it can be read"));
    assert!(dir.ok(&["check"]).contains("nothing is wrong"));
}

/// The tables of mosquitto 2.1's plugin `persist-sqlite`.
fn mosquitto(path: &Path) {
    Connection::open(path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE base_msgs(store_id INT64 PRIMARY KEY, expiry_time INT64, topic STRING NOT NULL, payload BLOB, source_id STRING,
                 source_username STRING, payloadlen INTEGER, source_mid INTEGER, source_port INTEGER, qos INTEGER, retain INTEGER, properties STRING);
             CREATE TABLE retains(topic STRING PRIMARY KEY, store_id INT64);
             CREATE TABLE clients(client_id TEXT PRIMARY KEY, username TEXT, connection_time INT64, will_delay_time INT64, session_expiry_time INT64,
                 listener_port INT, max_packet_size INT, max_qos INT, retain_available INT, session_expiry_interval INT, will_delay_interval INT);
             CREATE TABLE subscriptions(client_id TEXT NOT NULL, topic TEXT NOT NULL, subscription_options INTEGER, subscription_identifier INTEGER,
                 PRIMARY KEY(client_id, topic));
             CREATE TABLE client_msgs(client_id TEXT NOT NULL, cmsg_id INT64, store_id INT64, dup INTEGER, direction INTEGER, mid INTEGER, qos INTEGER,
                 retain INTEGER, state INTEGER, subscription_identifier INT);
             INSERT INTO clients VALUES ('scada', NULL, 0, 0, 1700003600, 1883, 0, 2, 1, 3600, 0), ('gone', NULL, 0, 0, 0, 1883, 0, 2, 1, 4294967295, 0);
             INSERT INTO subscriptions VALUES ('scada', 'plant/#', 1, 5), ('gone', '+/x', 2, 0), ('gone', 'bad#', 0, 0);
             INSERT INTO base_msgs VALUES (1, 0, 'plant/a', x'01', 'p', NULL, 1, 1, 1883, 1, 0, NULL), (2, 4102444800, 'plant/b', x'02', 'p', NULL, 1, 2, 1883, 2, 0, '[]'),
                 (3, 0, 42, 'text', 'p', NULL, 4, 3, 1883, 0, 1, NULL);
             INSERT INTO retains VALUES (42, 3);
             INSERT INTO client_msgs VALUES ('scada', 1, 1, 0, 1, 0, 1, 0, 11, 5), ('scada', 2, 2, 0, 1, 17, 2, 0, 5, 0), ('gone', 3, 2, 0, 1, 18, 2, 0, 9, 0),
                 ('gone', 4, 1, 0, 0, 19, 2, 0, 7, 0);",
        )
        .unwrap();
}

#[test]
fn mosquittos_sqlite_store_is_taken_over() {
    let dir = Dir::new("mosquitto", 1, 0);
    let file = dir.0.join("mosquitto.sqlite3");
    mosquitto(&file);
    let text = dir.ok(&["import", file.to_str().unwrap()]);
    assert!(
        text.contains("2 sessions, 2 subscriptions, 2 messages that wait and 1 retained"),
        "{text}"
    );
    assert!(
        text.contains("filters are not valid") && text.contains("QoS 2 messages left out"),
        "{text}"
    );
    assert_eq!(
        dir.count("SELECT count(*) FROM queue WHERE client_id = 'scada' AND topic = 'plant/b'"),
        1
    );
    assert_eq!(
        dir.count("SELECT expires_at FROM msg WHERE topic = 'plant/b'"),
        4_102_444_800_000
    );
    assert_eq!(
        dir.count("SELECT disconnected_at FROM session WHERE client_id = 'scada'"),
        1_700_000_000_000
    );
    assert_eq!(
        dir.count("SELECT count(*) FROM outgoing WHERE packet_id = 17 AND message IS NOT NULL"),
        1
    );
    assert_eq!(
        dir.count("SELECT count(*) FROM outgoing WHERE packet_id = 18 AND message IS NULL"),
        1
    );
    assert_eq!(
        dir.count(
            "SELECT count(*) FROM retained WHERE topic = '42' AND payload = CAST('text' AS BLOB)"
        ),
        1
    );
    assert!(dir.ok(&["check"]).contains("nothing is wrong"));
}

#[test]
fn the_dump_of_mosquittos_older_store_is_taken_over() {
    let dir = Dir::new("dump", 1, 0);
    let file = dir.0.join("dump.json");
    let dump = r#"{"base-messages":[
        {"storeid":1,"expiry-time":0,"source-mid":1,"source-port":1883,"qos":1,"retain":0,"topic":"plant/a","clientid":"p","payload":"aGVsbG8="},
        {"storeid":2,"expiry-time":0,"source-mid":0,"source-port":1883,"qos":0,"retain":1,"topic":"keep","payload":"/+8="}],
      "clients":[{"clientid":"scada","session-expiry-time":0,"session-expiry-interval":4294967295,"last-mid":3,"listener-port":1883}],
      "client-messages":[{"clientid":"scada","storeid":1,"mid":0,"qos":1,"state":11,"retain-dup":0,"direction":1,"subscription-identifier":0},
        {"clientid":"scada","storeid":77,"mid":0,"qos":1,"state":11,"retain-dup":0,"direction":1,"subscription-identifier":0}],
      "retained-messages":[{"storeid":2}],
      "subscriptions":[{"clientid":"scada","topic":"plant/#","qos":1,"options":4,"identifier":0}]}"#;
    fs::write(&file, dump).unwrap();
    let text = dir.ok(&["import", file.to_str().unwrap()]);
    assert!(
        text.contains("1 sessions, 1 subscriptions, 1 messages that wait and 1 retained"),
        "{text}"
    );
    assert!(text.contains("1 waiting messages left out"), "{text}");
    assert_eq!(
        dir.count("SELECT count(*) FROM queue WHERE payload = CAST('hello' AS BLOB)"),
        1
    );
    assert_eq!(
        dir.count("SELECT count(*) FROM retained WHERE payload = x'FFEF'"),
        1
    );
    assert_eq!(
        dir.count("SELECT options FROM subscription WHERE filter = 'plant/#'"),
        5
    );
}

#[test]
fn an_import_that_fails_adds_nothing_and_can_be_done_again() {
    let many = Dir::new("many", 12_000, 10);
    let lines = many.ok(&["export"]);
    let other = Dir::new("import-half", 1, 0);
    other.ok(&["sessions", "--delete"]);
    let file = other.0.join("lines.json");
    fs::write(&file, format!("{lines}{{\"type\":\"no such\"}}\n")).unwrap();
    let (ok, text) = other.run(&["import", file.to_str().unwrap()]);
    assert!(!ok, "{text}");
    for table in [
        "session",
        "subscription",
        "msg",
        "outgoing",
        "incoming",
        "retained",
    ] {
        let count = other.count(&format!("SELECT count(*) FROM {table}"));
        assert_eq!(count, 0, "rows in {table}");
    }
    assert!(text.contains("nothing was added"), "{text}");
    fs::write(&file, &lines).unwrap();
    let text = other.ok(&["import", file.to_str().unwrap()]);
    assert!(
        text.contains("12000 sessions, 12000 subscriptions, 10 messages"),
        "{text}"
    );
    assert_eq!(other.ok(&["export"]), lines);
}

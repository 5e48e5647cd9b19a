//! The store alone, without shards: what is settled is there after any end, and a failing disk refuses and recovers.
//!
//! A child process (this binary, running the ignored test `child`) writes with a store of its own and says what is settled; the parent
//! ends it, does to its files what a power cut may do, and looks at what can be loaded. The disk's faults come from
//! `store/faults.c`, loaded before libc.

#[path = "store/shim.rs"]
mod shim;

use ringmq::config::LogLevel;
use ringmq::mesh::wake::Wake;
use ringmq::protocol::QoS;
use ringmq::session::DeliveryOptions;
use ringmq::shard::input::ShardId;
use ringmq::shard::message::{Message, MessageParts};
use ringmq::shard::record::{
    Durability, Fetch, FetchToken, Lsn, Part, Receiver, ReceiverFlags, Record, SessionRecord,
    StoredMessage, StoredSession,
};
use ringmq::store::load::{LoadSetup, Recovered, load};
use ringmq::store::port::{News, StoreLink};
use ringmq::store::{Store, schema};
use rusqlite::Connection;
use shim::shim;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

const SESSION: StoredSession = StoredSession(7);

/// A directory of one test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ringmq-stored-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn db(&self) -> PathBuf {
        self.0.join(schema::FILE)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn setup(path: &Path) -> LoadSetup<'_> {
    LoadSetup {
        path,
        shard_count: 1,
        owner: &|_| ShardId(0),
        wall_minus_mono_ms: 1_000,
    }
}

fn open(path: &Path, durability: Durability) -> (Store, Recovered, StoreLink) {
    let wakes = [Arc::new(Wake::new().unwrap())];
    let log = |level: LogLevel, text: String| eprintln!("{}: {text}", level.name());
    let (store, recovered, mut links) = Store::open(&setup(path), durability, &wakes, log).unwrap();
    (store, recovered, links.remove(0))
}

fn session() -> Record {
    Record::Session(SessionRecord {
        session: SESSION,
        client_id: "scada".into(),
        expiry_s: u32::MAX,
        username: None,
        queue_full: 0,
        disconnected_at_ms: None,
        will: None,
    })
}

fn message(id: u64, payload_bytes: usize) -> Record {
    Record::Message {
        id: StoredMessage(id),
        message: Message::new(&MessageParts {
            number: id,
            ..MessageParts::new(
                "plant/line",
                QoS::AtLeastOnce,
                &vec![id as u8; payload_bytes],
            )
        }),
        wall_minus_mono_ms: 1_000,
        receivers: vec![Receiver {
            session: SESSION,
            flags: ReceiverFlags::new(
                DeliveryOptions {
                    qos: QoS::AtLeastOnce,
                    retain: false,
                },
                Part::OWN,
            ),
            subscription_ids: None,
        }],
        refusable: true,
        received_from: None,
    }
}

fn retained(stamp: u64, topic: &str, payload: &str, refusable: bool) -> Record {
    Record::Retained {
        message: Message::new(&MessageParts {
            retain: true,
            stamp,
            ..MessageParts::new(topic, QoS::AtLeastOnce, payload.as_bytes())
        }),
        wall_minus_mono_ms: 1_000,
        refusable,
    }
}

fn ended(id: u64) -> Record {
    Record::Ended {
        id: StoredMessage(id),
        session: SESSION,
        part: Part::OWN,
    }
}

/// Polls until `done` has what it wants, at most 30 s.
fn until<T>(link: &mut StoreLink, mut done: impl FnMut(News) -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = done(link.poll()) {
            return found;
        }
        assert!(Instant::now() < deadline, "the store says nothing");
        thread::sleep(Duration::from_millis(1));
    }
}

fn settled(link: &mut StoreLink, lsn: u64) -> Vec<Lsn> {
    let mut refused = Vec::new();
    until(link, |news| {
        refused.extend(news.refused);
        (news.settled? >= Lsn(lsn)).then_some(())
    });
    refused
}

fn fetch(link: &StoreLink, token: u64, ids: &[u64]) {
    fetch_at(link, token, ids, 1_000);
}

fn fetch_at(link: &StoreLink, token: u64, ids: &[u64], wall_minus_mono_ms: u64) {
    link.fetch(Fetch {
        token: FetchToken(token),
        messages: ids.iter().copied().map(StoredMessage).collect(),
        wall_minus_mono_ms,
    });
}

/// The next answer to a fetch: its token, and which messages came and which are not there.
fn fetched(link: &mut StoreLink) -> (u64, Vec<(u64, bool)>) {
    let (token, messages) = until(link, |mut news| {
        assert!(news.fetched.len() <= 1);
        news.fetched.pop()
    });
    let came = messages.iter().map(|(id, found)| (id.0, found.is_some()));
    (token.0, came.collect())
}

fn waiting(recovered: &Recovered) -> BTreeSet<u64> {
    let sessions = recovered.sessions.iter().flatten();
    sessions
        .flat_map(|session| &session.deliveries)
        .map(|delivery| delivery.id.0)
        .collect()
}

#[test]
fn what_is_settled_is_there_again_and_can_be_fetched() {
    let scratch = Scratch::new("settled");
    for durability in [Durability::Power, Durability::Process] {
        let path = scratch.0.join(format!("{}.db", durability.name()));
        let (store, recovered, mut link) = open(&path, durability);
        assert!(recovered.sessions[0].is_empty());
        link.submit(vec![session(), message(10, 50), message(11, 50)]);
        link.submit(vec![message(12, 5_000), ended(11)]);
        assert!(settled(&mut link, 5).is_empty());
        fetch(&link, 3, &[12, 11, 10]);
        let (token, fetched) = until(&mut link, |mut news| news.fetched.pop());
        assert_eq!(token, FetchToken(3));
        let payloads: Vec<_> = fetched
            .iter()
            .map(|(id, message)| {
                (
                    id.0,
                    message.as_ref().map(|m| (m.payload().len(), m.number())),
                )
            })
            .collect();
        assert_eq!(
            payloads,
            [(12, Some((5_000, 12))), (11, None), (10, Some((50, 10)))]
        );
        store.stop();
        let (store, recovered, _link) = open(&path, durability);
        assert_eq!(waiting(&recovered), BTreeSet::from([10, 12]));
        assert_eq!((recovered.last_session, recovered.last_message), (7, 12));
        store.stop();
        assert!(
            !path.with_extension("db-wal").exists(),
            "a clean stop leaves one file"
        );
    }
}

#[test]
fn a_message_that_ends_before_it_is_written_costs_nothing() {
    let scratch = Scratch::new("annihilated");
    let (store, _, mut link) = open(&scratch.db(), Durability::Process);
    link.submit(vec![session()]);
    settled(&mut link, 1);
    let stats = Arc::clone(store.stats());
    let before = stats.written_bytes.load(Relaxed);
    let mut records = Vec::new();
    for id in 1..=500 {
        records.extend([ended(id), message(id, 100)]);
    }
    link.submit(records);
    settled(&mut link, 1_001);
    store.stop();
    assert_eq!(stats.annihilated.load(Relaxed), 500);
    assert_eq!(stats.written_bytes.load(Relaxed), before);
}

/// A flush of the disk for each message that is stored and fetched, not two.
#[test]
fn that_a_client_is_done_is_written_with_what_cannot_wait() {
    let scratch = Scratch::new("gathered");
    let (store, _, mut link) = open(&scratch.db(), Durability::Process);
    link.submit(vec![session()]);
    settled(&mut link, 1);
    let stats = Arc::clone(store.stats());
    let (mut lsn, mut alone) = (1, 0);
    const MESSAGES: u64 = 50;
    for id in 1..=MESSAGES {
        link.submit(vec![message(id, 100)]);
        settled(&mut link, lsn + 1);
        let before = stats.commits.load(Relaxed);
        link.submit(vec![ended(id)]);
        thread::sleep(Duration::from_millis(5));
        // On a machine that is busy the sleep may be longer than it waits.
        alone += stats.commits.load(Relaxed) - before;
        lsn += 2;
    }
    assert!(alone < MESSAGES / 2, "{alone} of {MESSAGES} by themselves");
    // Nothing else comes: it is written all the same.
    settled(&mut link, lsn);
    store.stop();
    let (store, recovered, _link) = open(&scratch.db(), Durability::Process);
    assert_eq!(waiting(&recovered), BTreeSet::new());
    store.stop();
}

/// Tidying waited for a second without work, and on a busy broker for ever: the messages of sessions that had ended stayed.
#[test]
fn what_sessions_leave_is_removed_beside_a_stream_that_does_not_pause() {
    let scratch = Scratch::new("swept");
    let (store, _, mut link) = open(&scratch.db(), Durability::Process);
    let mut records = vec![session()];
    records.extend((1..=2_000).map(|id| message(id, 100)));
    link.submit(records);
    settled(&mut link, 2_001);
    let conn = Connection::open(scratch.db()).unwrap();
    let left = || {
        let sql = "SELECT count(*) FROM msg WHERE id <= 2000";
        conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(left(), 2_000);
    // Very many end: it is not to wait for its minute.
    let others = (1..=20_000).map(|n| Record::SessionEnded(StoredSession(1_000 + n)));
    link.submit(others.chain([Record::SessionEnded(SESSION)]).collect());
    settled(&mut link, 22_002);
    let deadline = Instant::now() + Duration::from_secs(30);
    for id in 3_000.. {
        link.submit(vec![message(id, 100)]);
        thread::sleep(Duration::from_millis(5));
        link.poll();
        if id % 50 == 0 && left() == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{} are still there", left());
    }
    drop(conn);
    store.stop();
}

/// The clock of the start counted: where it had been set since, what came later was read back with as much too little or too much time.
#[test]
fn what_is_read_back_expires_by_the_present_clock() {
    let scratch = Scratch::new("clock");
    let (store, _, mut link) = open(&scratch.db(), Durability::Process);
    link.submit(vec![session()]);
    let expiring = |id, present| {
        let parts = MessageParts::new("plant/line", QoS::AtLeastOnce, b"soon");
        let mut record = message(id, 0);
        if let Record::Message {
            message,
            wall_minus_mono_ms,
            ..
        } = &mut record
        {
            *message = Message::new(&MessageParts {
                number: id,
                expires_at_ms: 60_000,
                ..parts
            });
            *wall_minus_mono_ms = present;
        }
        record
    };
    // It started at 1,000.
    for (present, ids) in [(0, [1, 2]), (3_601_000, [3, 4])] {
        link.submit(ids.map(|id| expiring(id, present)).to_vec());
        settled(&mut link, 1 + ids[1]);
        // Side by side, and one by one.
        for ids in [ids, [ids[1], ids[0]]] {
            fetch_at(&link, 1, &ids, present);
            let (_, messages) = until(&mut link, |mut news| news.fetched.pop());
            let expiries = messages.iter().map(|(_, message)| {
                let message = message.as_ref().expect("it is there");
                message.expires_at_ms()
            });
            assert_eq!(expiries.collect::<Vec<_>>(), [60_000, 60_000]);
        }
    }
    store.stop();
}

/// What of it makes no sense was taken for what is not there, and its delivery ended.
#[test]
fn what_cannot_be_read_waits_and_holds_up_nobody() {
    let scratch = Scratch::new("senseless");
    let (store, _, mut link) = open(&scratch.db(), Durability::Process);
    link.submit(vec![session()]);
    link.submit((1..=4).map(|id| message(id, 50)).collect());
    settled(&mut link, 5);
    let conn = Connection::open(scratch.db()).unwrap();
    let set_qos = |qos: u8| {
        let sql = "UPDATE msg SET qos = ?1 WHERE id = 3";
        conn.execute(sql, [qos]).unwrap();
    };
    set_qos(7);
    fetch(&link, 1, &[3, 4]);
    // What stands before it comes, here and for others.
    fetch(&link, 2, &[1, 2, 3, 4]);
    assert_eq!(fetched(&mut link), (2, vec![(1, true), (2, true)]));
    fetch(&link, 3, &[4]);
    assert_eq!(fetched(&mut link), (3, vec![(4, true)]));
    // Commits go on, and so do the checkpoints, for which nobody may be reading.
    link.submit(vec![message(5, 50)]);
    assert!(settled(&mut link, 6).is_empty());
    let deadline = Instant::now() + Duration::from_secs(30);
    while store.stats().wal_bytes.load(Relaxed) > 0 {
        assert!(Instant::now() < deadline, "the log does not begin anew");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(link.poll().fetched.is_empty());
    set_qos(1);
    assert_eq!(fetched(&mut link), (1, vec![(3, true), (4, true)]));
    drop(conn);
    store.stop();
}

/// Stores 48 MB of messages and ends them all; returns how long the file was, and the number of the last record.
fn fill_and_empty(path: &Path, link: &mut StoreLink) -> (u64, u64) {
    const MESSAGES: u64 = 12_000;
    const GROUP: u64 = 500;
    link.submit(vec![session()]);
    let mut lsn = 1;
    for first in (1..=MESSAGES).step_by(GROUP as usize) {
        link.submit(
            (first..first + GROUP)
                .map(|id| message(id, 4_000))
                .collect(),
        );
        lsn += GROUP;
        assert!(settled(link, lsn).is_empty());
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    let length = || fs::metadata(path).unwrap().len();
    while length() < 40 << 20 {
        assert!(Instant::now() < deadline, "the log is not in the database");
        thread::sleep(Duration::from_millis(10));
    }
    let full = length();
    link.submit((1..=MESSAGES).map(ended).collect());
    lsn += MESSAGES;
    settled(link, lsn);
    (full, lsn)
}

/// One page a minute was given back to the file system, and only if nothing was written in that minute.
#[test]
fn a_store_that_was_emptied_becomes_small_when_it_is_idle() {
    let scratch = Scratch::new("small-idle");
    let (store, _, mut link) = open(&scratch.db(), Durability::Process);
    let (full, _) = fill_and_empty(&scratch.db(), &mut link);
    let deadline = Instant::now() + Duration::from_secs(30);
    let length = || fs::metadata(scratch.db()).unwrap().len();
    while length() > 18 << 20 {
        assert!(Instant::now() < deadline, "{} of {full} B", length());
        thread::sleep(Duration::from_millis(50));
    }
    store.stop();
}

#[test]
fn nor_does_it_stay_large_beside_a_trickle_of_writes() {
    let scratch = Scratch::new("small-trickle");
    let (store, _, mut link) = open(&scratch.db(), Durability::Process);
    let (full, mut lsn) = fill_and_empty(&scratch.db(), &mut link);
    let deadline = Instant::now() + Duration::from_secs(60);
    // Up to 8 MB of the log may not be in it yet.
    let length = || fs::metadata(scratch.db()).unwrap().len();
    for id in 20_000.. {
        link.submit(vec![message(id, 100), ended(id - 1)]);
        lsn += 2;
        assert!(settled(&mut link, lsn).is_empty());
        if length() <= 26 << 20 {
            break;
        }
        assert!(Instant::now() < deadline, "{} of {full} B", length());
        thread::sleep(Duration::from_millis(100));
    }
    store.stop();
}

/// What was written into a file that had been removed was acknowledged, and found by nobody.
#[test]
fn a_database_that_is_gone_is_noticed_and_may_come_back() {
    let scratch = Scratch::new("gone");
    let dir = scratch.0.join("data");
    fs::create_dir(&dir).unwrap();
    let (store, _, mut link) = open(&dir.join(schema::FILE), Durability::Process);
    let (mut id, mut lsn) = (0, 1);
    link.submit(vec![session()]);
    let mut is_kept = |link: &mut StoreLink| {
        link.submit(vec![]);
        (id, lsn) = (id + 1, lsn + 1);
        link.submit(vec![message(id, 300)]);
        settled(link, lsn).is_empty()
    };
    assert!(is_kept(&mut link));
    let elsewhere = scratch.0.join("elsewhere");
    fs::rename(&dir, &elsewhere).unwrap();
    let begin = Instant::now();
    while is_kept(&mut link) {
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
    assert_eq!(store.stats().failing.load(Relaxed), 1);
    fs::rename(&elsewhere, &dir).unwrap();
    while !is_kept(&mut link) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(10));
    }
    store.stop();
}

/// What `child` does, by its environment: `RINGMQ_CHILD` is the directory, `RINGMQ_CHILD_WORK` the work.
#[test]
#[ignore = "a process of the tests below"]
fn child() {
    let dir = PathBuf::from(std::env::var_os("RINGMQ_CHILD").expect("started by its parent"));
    // With one CPU the harness has begun a line, to end it with what becomes of this test.
    println!();
    let faults = |mode: &str| fs::write(dir.join("faults"), mode).unwrap();
    let durability = match std::env::var("RINGMQ_CHILD_DURABILITY").as_deref() {
        Ok("process") => Durability::Process,
        _ => Durability::Power,
    };
    let (store, recovered, mut link) = open(&dir.join(schema::FILE), durability);
    match std::env::var("RINGMQ_CHILD_WORK").as_deref() {
        Ok(work @ ("write" | "fill")) => {
            // Waits with each second message until the first is acknowledged, and says what is settled. "fill" writes much, and so keeps
            // nothing of earlier processes.
            let mut id = recovered.last_message;
            let mut first: Vec<_> = waiting(&recovered)
                .into_iter()
                .filter(|id| work == "fill" || id % 3 == 0)
                .map(ended)
                .collect();
            first.push(session());
            let mut lsn = first.len() as u64;
            if work == "fill" {
                println!("from {id}");
            }
            link.submit(first);
            let payload_bytes = if work == "fill" { 30_000 } else { 300 };
            loop {
                let mut group = Vec::new();
                let first = id + 1;
                for _ in 0..1 + id % 7 {
                    id += 1;
                    group.push(message(id, payload_bytes));
                }
                // Acknowledged in another group, as by a client.
                let ends: Vec<_> = (first..=id).filter(|id| id % 3 == 0).collect();
                lsn += group.len() as u64;
                println!("sent {id}");
                link.submit(group);
                assert!(settled(&mut link, lsn).is_empty());
                println!("kept {id}");
                lsn += ends.len() as u64;
                link.submit(ends.iter().map(|id| ended(*id)).collect());
                if !ends.is_empty() {
                    settled(&mut link, lsn);
                }
                println!("done {id}");
            }
        }
        Ok("fail") => {
            let mode = std::env::var("RINGMQ_CHILD_MODE").unwrap();
            link.submit(vec![session(), message(1, 300)]);
            assert!(settled(&mut link, 2).is_empty());
            faults(&mode);
            link.submit(vec![message(2, 300_000)]);
            assert_eq!(settled(&mut link, 3), [Lsn(3)]);
            // State is kept, and messages that follow are refused at once.
            link.submit(vec![ended(1)]);
            link.submit(vec![message(3, 300_000)]);
            let mut refused = Vec::new();
            let mut accepting = None;
            let begin = Instant::now();
            while refused.is_empty() {
                assert!(begin.elapsed() < Duration::from_secs(30));
                refused.extend(link.poll().refused);
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(600));
            faults("n");
            // The state goes in by itself, and then messages do.
            while !(link.pending() == 0 && accepting == Some(true)) {
                assert!(begin.elapsed() < Duration::from_secs(30));
                let news = link.poll();
                refused.extend(news.refused);
                accepting = news.accepting.or(accepting);
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(refused, [Lsn(5)]);
            link.submit(vec![message(4, 300_000)]);
            assert!(settled(&mut link, 6).is_empty());
            store.stop();
            println!("kept 4");
        }
        Ok("late") => {
            let is_failing = |failing: u64| {
                let begin = Instant::now();
                while store.stats().failing.load(Relaxed) != failing {
                    assert!(begin.elapsed() < Duration::from_secs(30));
                    thread::sleep(Duration::from_millis(1));
                }
            };
            link.submit(vec![session()]);
            settled(&mut link, 1);
            faults("e");
            link.submit(vec![message(1, 300)]);
            is_failing(1);
            faults("n");
            is_failing(0);
            // The shard has not been told yet that the first was refused.
            link.submit(vec![message(2, 300), ended(7)]);
            assert_eq!(settled(&mut link, 4), [Lsn(2), Lsn(3)]);
            // What it has made in the turn in which it is told may be older.
            link.submit(vec![message(3, 300)]);
            assert_eq!(settled(&mut link, 5), [Lsn(5)]);
            link.submit(vec![message(4, 300)]);
            assert!(settled(&mut link, 6).is_empty());
            store.stop();
            println!("kept 4");
        }
        Ok("unreadable") => {
            link.submit(vec![session(), message(1, 30_000), message(2, 30_000)]);
            assert!(settled(&mut link, 3).is_empty());
            store.stop();
            let (store, _, mut link) = open(&dir.join(schema::FILE), durability);
            faults("r");
            fetch(&link, 1, &[1, 2]);
            thread::sleep(Duration::from_millis(1_200));
            let answer = link.poll().fetched;
            assert!(answer.is_empty(), "{answer:?}");
            faults("n");
            assert_eq!(fetched(&mut link), (1, vec![(1, true), (2, true)]));
            store.stop();
            println!("read 2");
        }
        Ok("retain") => {
            let set = |stamp, topic, payload, refusable| retained(stamp, topic, payload, refusable);
            link.submit(vec![
                set(1, "a", "online", true),
                set(2, "b", "online", true),
            ]);
            assert!(settled(&mut link, 2).is_empty());
            faults(&std::env::var("RINGMQ_CHILD_MODE").unwrap());
            // A Will, whose publisher is gone, and what a client that is told would replace it with.
            link.submit(vec![
                set(3, "a", "offline", false),
                set(4, "a", "again", true),
            ]);
            let begin = Instant::now();
            let mut refused = Vec::new();
            while refused.is_empty() {
                assert!(begin.elapsed() < Duration::from_secs(30));
                refused.extend(link.poll().refused);
                thread::sleep(Duration::from_millis(1));
            }
            link.submit(vec![
                set(5, "b", "never", true),
                set(6, "b", "offline", false),
            ]);
            // Nobody waits for these, and others need not wait for them.
            let more = settled(&mut link, 6);
            assert_eq!([refused, more].concat(), [Lsn(4), Lsn(5)]);
            faults("n");
            until(&mut link, |news| {
                (news.accepting == Some(true)).then_some(())
            });
            println!("kept 4");
            // It is there without a proper end.
            std::process::exit(0);
        }
        other => panic!("{other:?}"),
    }
}

fn spawn_child(dir: &Path, work: &str, mode: &str, durability: Durability) -> Child {
    let faults = dir.join("faults");
    let changes_it = matches!(work, "fail" | "late" | "retain" | "unreadable");
    fs::write(&faults, if changes_it { "n" } else { mode }).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("RINGMQ_CHILD", dir)
        .env("RINGMQ_CHILD_WORK", work)
        .env("RINGMQ_CHILD_MODE", mode)
        .env("RINGMQ_CHILD_DURABILITY", durability.name())
        .env("RINGMQ_FAULTS", &faults)
        .env("LD_PRELOAD", shim())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn after_failing(work: &str, mode: &str) -> Recovered {
    let scratch = Scratch::new(&format!("{work}-{mode}"));
    let child = spawn_child(&scratch.0, work, mode, Durability::Power);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("kept 4"), "{text}");
    load(&setup(&scratch.db())).unwrap()
}

fn fails_and_recovers(work: &str, mode: &str) {
    assert_eq!(waiting(&after_failing(work, mode)), BTreeSet::from([4]));
}

#[test]
fn a_full_disk_refuses_messages_keeps_state_and_recovers() {
    fails_and_recovers("fail", "f");
}

#[test]
fn a_failing_disk_refuses_messages_keeps_state_and_recovers() {
    fails_and_recovers("fail", "e");
}

/// A Will that was to be retained while the disk was full was refused, to nobody: the next start found the client `online`.
#[test]
fn what_is_retained_while_nobody_can_be_told_that_it_is_not_is_kept() {
    for mode in ["f", "e"] {
        let recovered = after_failing("retain", mode);
        let found: Vec<_> = recovered
            .retained
            .iter()
            .map(|it| (it.topic(), it.payload()))
            .collect();
        assert_eq!(found, [("a", &b"offline"[..]), ("b", b"offline")], "{mode}");
    }
}

/// A client that is disconnected because a message of its was refused sends it again, and what it had sent behind it: the store must not
/// have kept that, or it would stand before it.
#[test]
fn what_was_sent_before_its_shard_knew_of_a_refusal_is_refused_too() {
    fails_and_recovers("late", "e");
}

/// SQLite takes a device that does not read for a database that is damaged, and the reader took that for a message that is not there: its
/// delivery was ended.
#[test]
fn what_a_failing_disk_does_not_read_comes_when_it_does() {
    let scratch = Scratch::new("unreadable");
    let child = spawn_child(&scratch.0, "unreadable", "r", Durability::Power);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("read 2"), "{text}");
}

/// A number that differs from run to run; a failure prints it.
fn seed() -> u64 {
    let given = std::env::var("RINGMQ_CRASH_SEED").ok();
    given.map_or_else(
        || {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap();
            u64::from(now.subsec_nanos())
        },
        |text| text.parse().unwrap(),
    )
}

/// A generator that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What a power cut may leave of a file: each sector as it was flushed or as it was written, and no tail that was not flushed or a part of it.
fn cut_power(file: &Path, random: &mut Random) {
    let synced = PathBuf::from(format!("{}.synced", file.display()));
    let written = fs::read(file).unwrap_or_default();
    let Ok(mut left) = fs::read(&synced) else {
        // Never flushed: gone, but for its name.
        if file.exists() {
            fs::write(file, []).unwrap();
        }
        return;
    };
    let tail = written.len().saturating_sub(left.len()) as u64;
    let tail_kept = if tail == 0 {
        0
    } else {
        random.below(tail + 1) as usize
    };
    left.resize(left.len() + tail_kept, 0);
    for (at, sector) in left.chunks_mut(512).enumerate() {
        if let Some(new) = written.get(at * 512..at * 512 + sector.len())
            && random.below(2) == 0
        {
            sector.copy_from_slice(new);
        }
    }
    fs::write(file, left).unwrap();
    fs::remove_file(synced).unwrap();
}

/// When a child is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    AnyTime,
    /// While it makes the log longer.
    Lengthening,
    /// While it brings the log into the database.
    InCheckpoint,
}

/// Ends a writing child again and again; with `power`, what it had not flushed is lost in part.
///
/// Returns: what was lost, or came back.
fn crash_rounds(
    rounds: u32,
    killed: Killed,
    power: bool,
    durability: Durability,
) -> Result<(), String> {
    let cause = if power { "power" } else { "kill" };
    let scratch = Scratch::new(&format!("{cause}-{killed:?}-{}", durability.name()));
    let (work, mode) = match (killed, power) {
        (Killed::AnyTime, false) => ("write", "n"),
        (Killed::AnyTime, true) => ("write", "s"),
        (Killed::Lengthening, false) => ("fill", "l"),
        (Killed::Lengthening, true) => ("fill", "L"),
        (Killed::InCheckpoint, false) => ("fill", "c"),
        (Killed::InCheckpoint, true) => ("fill", "C"),
    };
    let seed = seed();
    let random = &mut Random(seed);
    let mut sent_ever = 0;
    for round in 0..rounds {
        if power && scratch.db().exists() {
            // What the last round left has been on the disk since.
            fs::copy(scratch.db(), scratch.0.join("store.db.synced")).unwrap();
        }
        let mut child = spawn_child(&scratch.0, work, mode, durability);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = thread::spawn(move || {
            let (mut from, mut sent, mut kept, mut done) = (0, 0, 0, 0);
            for line in lines.map_while(Result::ok) {
                let Some((what, id)) = line.split_once(' ') else {
                    continue;
                };
                let Ok(id) = id.parse::<u64>() else { continue };
                match what {
                    "from" => from = id,
                    "sent" => sent = id,
                    "kept" => kept = id,
                    "done" => done = id,
                    _ => {}
                }
            }
            (from, sent, kept, done)
        });
        match killed {
            Killed::AnyTime => {
                thread::sleep(Duration::from_millis(60 + random.below(250)));
                child.kill().unwrap();
            }
            Killed::Lengthening | Killed::InCheckpoint => {
                let deadline = Instant::now() + Duration::from_secs(60);
                while child.try_wait().unwrap().is_none() {
                    if Instant::now() >= deadline {
                        child.kill().unwrap();
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "round {round} of seed {seed}");
        let (from, sent, kept, done) = reader.join().unwrap();
        if power {
            for name in ["store.db", "store.db-wal"] {
                cut_power(&scratch.0.join(name), random);
            }
            // It is rebuilt from the others.
            let _ = fs::remove_file(scratch.0.join("store.db-shm"));
        }
        let found = match schema::open(&scratch.db()) {
            Ok(conn) => {
                drop(conn);
                waiting(&load(&setup(&scratch.db())).unwrap())
            }
            Err(error) => panic!("round {round} of seed {seed}: {error}"),
        };
        for id in from + 1..=kept {
            let must_wait = id % 3 != 0;
            let must_not_wait = id % 3 == 0 && id <= done;
            if must_wait && !found.contains(&id) || must_not_wait && found.contains(&id) {
                return Err(format!(
                    "round {round} of seed {seed}: message {id} of {sent}, {kept}, {done}"
                ));
            }
        }
        // One that is killed before it sends leaves what an earlier one has sent.
        sent_ever = sent.max(sent_ever);
        assert!(found.last().is_none_or(|last| *last <= sent_ever));
    }
    let hits = fs::read(scratch.0.join("faults.hits")).map_or(0, |hits| hits.len());
    let expected = if killed == Killed::AnyTime { 0 } else { rounds };
    assert_eq!(hits, expected as usize, "it was killed at the wrong time");
    Ok(())
}

/// As many as `RINGMQ_CRASH_ROUNDS` says, or few.
fn rounds() -> u32 {
    std::env::var("RINGMQ_CRASH_ROUNDS").map_or(6, |text| text.parse().unwrap())
}

#[test]
fn a_killed_writer_loses_nothing_that_was_settled() {
    for durability in [Durability::Process, Durability::Power] {
        crash_rounds(rounds(), Killed::AnyTime, false, durability).unwrap();
    }
}

#[test]
fn nor_does_one_that_is_killed_while_it_makes_its_log_longer() {
    for durability in [Durability::Process, Durability::Power] {
        crash_rounds(rounds(), Killed::Lengthening, false, durability).unwrap();
    }
}

#[test]
fn nor_one_that_is_killed_while_it_brings_its_log_into_the_database() {
    for durability in [Durability::Process, Durability::Power] {
        crash_rounds(rounds(), Killed::InCheckpoint, false, durability).unwrap();
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_settled() {
    crash_rounds(rounds(), Killed::AnyTime, true, Durability::Power).unwrap();
}

#[test]
fn nor_does_one_while_the_log_is_made_longer() {
    crash_rounds(rounds(), Killed::Lengthening, true, Durability::Power).unwrap();
}

#[test]
fn nor_one_while_the_log_is_brought_into_the_database() {
    crash_rounds(rounds(), Killed::InCheckpoint, true, Durability::Power).unwrap();
}

/// Or the tests above could not fail.
#[test]
fn a_power_cut_does_lose_what_was_not_flushed() {
    crash_rounds(20, Killed::AnyTime, true, Durability::Process).unwrap_err();
}

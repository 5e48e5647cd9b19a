//! What the writer remembers beside the rows, and which numbers a restart finds.

use super::batch::Batch;
use super::load::{LoadSetup, Recovered, load};
use super::tables::{Kept, Tables};
use super::testing::Scratch;
use super::{schema, writer};
use crate::protocol::QoS;
use crate::session::DeliveryOptions;
use crate::shard::input::ShardId;
use crate::shard::message::{Message, MessageParts};
use crate::shard::record::{
    Lsn, Part, Receiver, ReceiverFlags, Record, SessionRecord, StoredMessage, StoredSession,
    next_number,
};
use std::path::Path;
use std::time::{Duration, Instant};

fn load_from(path: &Path) -> Recovered {
    load(&LoadSetup {
        path,
        shard_count: 1,
        owner: &|_| ShardId(0),
        wall_minus_mono_ms: 0,
    })
    .unwrap()
}

/// The messages that wait for a session.
fn waiting(recovered: &Recovered, session: u64) -> Vec<u64> {
    let sessions = recovered.sessions.iter().flatten();
    sessions
        .filter(|it| it.record.session.0 == session)
        .flat_map(|it| it.deliveries.iter().map(|delivery| delivery.id.0))
        .collect()
}

fn session(number: u64) -> Record {
    Record::Session(SessionRecord {
        session: StoredSession(number),
        client_id: format!("client-{number}").into(),
        username: None,
        expiry_s: u32::MAX,
        queue_full: 0,
        disconnected_at_ms: Some(1),
        will: None,
    })
}

fn message(id: u64, sessions: &[u64]) -> Record {
    let options = DeliveryOptions {
        qos: QoS::AtLeastOnce,
        retain: false,
    };
    let receivers = sessions.iter().map(|session| Receiver {
        session: StoredSession(*session),
        flags: ReceiverFlags::new(options, Part::OWN),
        subscription_ids: None,
    });
    Record::Message {
        id: StoredMessage(id),
        message: Message::new(&MessageParts::new("t", QoS::AtLeastOnce, b"x")),
        wall_minus_mono_ms: 0,
        receivers: receivers.collect(),
        refusable: false,
        received_from: None,
    }
}

fn ended(id: u64, session: u64) -> Record {
    Record::Ended {
        id: StoredMessage(id),
        session: StoredSession(session),
        part: Part::OWN,
    }
}

fn batch(records: impl IntoIterator<Item = Record>) -> Batch {
    let mut batch = Batch::new(1);
    for (at, record) in records.into_iter().enumerate() {
        batch.add(0, Lsn(at as u64 + 1), record);
    }
    batch
}

fn write(tables: &mut Tables<'_>, records: impl IntoIterator<Item = Record>) {
    tables
        .write(&mut batch(records), writer::now_ms(), Instant::now())
        .unwrap();
}

/// The number that is given next when the clock says 1970.
fn next(last: u64) -> u64 {
    next_number(last, ShardId(0), 0)
}

#[test]
fn a_message_after_a_restart_is_not_done_before_it_is_sent() {
    let scratch = Scratch::new("done-numbers");
    let path = scratch.path().join(schema::FILE);
    let (old, newer) = (next(0), next(next(0)));
    let conn = schema::open(&path).unwrap();
    let mut tables = Tables::new(&conn, Kept::default()).unwrap();
    write(&mut tables, [1, 2, 3].map(session));
    // Two sessions keep an old message, and so the rows of done behind it.
    let messages = [message(old, &[2, 3]), message(newer, &[1, 2])];
    write(&mut tables, messages);
    write(&mut tables, [ended(newer, 1)]);
    write(&mut tables, [ended(newer, 2)]);
    drop(tables);

    let found = load_from(&path);
    let third = next(found.last_message);
    let mut tables = Tables::new(&conn, found.kept).unwrap();
    write(&mut tables, [message(third, &[1, 2])]);
    assert_eq!(waiting(&load_from(&path), 1), [third]);
}

#[test]
fn a_session_after_a_restart_is_nobody_elses() {
    let scratch = Scratch::new("gone-numbers");
    let path = scratch.path().join(schema::FILE);
    let (stays, ends) = (next(0), next(next(0)));
    let conn = schema::open(&path).unwrap();
    let mut tables = Tables::new(&conn, Kept::default()).unwrap();
    write(&mut tables, [stays, ends].map(session));
    write(&mut tables, [message(next(0), &[stays, ends])]);
    write(&mut tables, [Record::SessionEnded(StoredSession(ends))]);
    drop(tables);

    let found = load_from(&path);
    let (new, id) = (next(found.last_session), next(found.last_message));
    let mut tables = Tables::new(&conn, found.kept).unwrap();
    write(&mut tables, [session(new)]);
    write(&mut tables, [message(id, &[new])]);
    assert_eq!(waiting(&load_from(&path), new), [id]);
}

#[test]
fn a_restart_finds_every_number_that_stands_anywhere() {
    let tables = [
        (
            "INSERT INTO session VALUES (500, x'00', 1, 1, 0, 7, NULL, 1, 0, 't', NULL, NULL, NULL)",
            500,
            0,
        ),
        (
            "INSERT INTO subscription VALUES (500, 'a', 0, NULL)",
            500,
            0,
        ),
        ("INSERT INTO incoming VALUES (500, 1)", 500, 0),
        ("INSERT INTO outgoing VALUES (500, 1, NULL, 0)", 500, 0),
        // Of a session that lives: its message is gone, and another of its number would have its identifier.
        ("INSERT INTO outgoing VALUES (7, 1, 900, 0)", 7, 900),
        (
            "INSERT INTO msg VALUES (900, '[[500,1]]', 0, NULL, 1, 0, NULL, 't', NULL, x'00')",
            500,
            900,
        ),
        (
            "INSERT INTO msg VALUES (900, x'00', 0, NULL, 1, 0, NULL, 't', NULL, x'00')",
            7,
            900,
        ),
        (
            "INSERT INTO done VALUES (1, 900, '[[800,500,0],[900,7,0]]')",
            500,
            900,
        ),
        (
            "INSERT INTO retained VALUES ('t', 1, 900, NULL, 1, NULL, x'00')",
            7,
            900,
        ),
        // So large a number stands in a damaged row: none is left above it.
        (
            "INSERT INTO done VALUES (1, 9223372036854775807, '[[18446744073709551615,9223372036854775807,0]]')",
            7,
            0,
        ),
    ];
    for (at, (sql, last_session, last_message)) in tables.into_iter().enumerate() {
        let scratch = Scratch::new(&format!("any-number-{at}"));
        let path = scratch.path().join(schema::FILE);
        let conn = schema::open(&path).unwrap();
        let mut tables = Tables::new(&conn, Kept::default()).unwrap();
        write(&mut tables, [session(7)]);
        conn.execute(sql, []).unwrap();
        let found = load_from(&path);
        let numbers = (found.last_session, found.last_message);
        assert_eq!(numbers, (last_session, last_message), "{sql}");
    }
}

#[test]
fn an_end_is_remembered_for_as_long_as_its_message_may_be_held_back() {
    let scratch = Scratch::new("held-back");
    let path = scratch.path().join(schema::FILE);
    let conn = schema::open(&path).unwrap();
    let mut tables = Tables::new(&conn, Kept::default()).unwrap();
    let start = Instant::now();
    let mut write_at = |records: Vec<Record>, s: u64| {
        let mut batch = batch(records);
        let now = start + Duration::from_secs(s);
        tables.write(&mut batch, writer::now_ms(), now).unwrap();
    };
    write_at(vec![session(1), session(2)], 0);
    write_at(vec![ended(9, 1)], 0);
    // Queues on another shard have held it back for as long as they may.
    for minute in 1..60 {
        write_at(vec![session(3)], minute * 60);
    }
    write_at(vec![message(9, &[1, 2])], 3_600);
    assert_eq!(waiting(&load_from(&path), 1), [] as [u64; 0]);
    assert_eq!(waiting(&load_from(&path), 2), [9]);
}

#[test]
fn cleared_topics_are_remembered_up_to_a_bound() {
    let scratch = Scratch::new("cleared");
    let conn = schema::open(&scratch.path().join(schema::FILE)).unwrap();
    let mut tables = Tables::new(&conn, Kept::default()).unwrap();
    for first in (1..=300_000u64).step_by(50_000) {
        let clear = |stamp: u64| Record::Retained {
            message: Message::new(&MessageParts {
                stamp,
                ..MessageParts::new(&format!("t/{stamp}"), QoS::AtMostOnce, b"")
            }),
            wall_minus_mono_ms: 0,
            refusable: true,
        };
        write(&mut tables, (first..first + 50_000).map(clear));
    }
    assert!((100_000..=250_000).contains(&tables.kept.cleared.len()));
}

#[test]
fn what_is_remembered_gives_its_memory_back_while_nothing_is_written() {
    let scratch = Scratch::new("memory-back");
    let conn = schema::open(&scratch.path().join(schema::FILE)).unwrap();
    let mut tables = Tables::new(&conn, Kept::default()).unwrap();
    let gone = (1..=1_000).map(|n| Record::SessionEnded(StoredSession(n)));
    let early = (1..=1_000).map(|n| ended(n, 5_000));
    let now = Instant::now();
    write(&mut tables, gone.chain(early));
    let kept = &mut tables.kept;
    for minutes in [0, 62] {
        kept.forget_old(now + Duration::from_secs(minutes * 60));
        assert_eq!((kept.early.len(), kept.ended.len()), (1_000, 1_000));
    }
    kept.forget_old(now + Duration::from_secs(124 * 60));
    assert_eq!(kept.early.capacity() + kept.ended.capacity(), 0);
}

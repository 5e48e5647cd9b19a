//! Conformance with MQTT 3.1.1 (and 3.1): one test for each normative statement a server can be
//! tested on, over a real socket, with 1, 2 and 4 shards.
//!
//! The number of the statement is in the name of its test: `mqtt_3_1_2_24_…` tests
//! [MQTT-3.1.2-24]. Statements that are not tested stand, with the reason, at the top of the module
//! that would hold them. Tests named `section_…` cover text that has no number.
//!
//! Against any broker: `RINGMQ_TEST_BROKER=host:port cargo test --test conformance_v3`.

mod common;

#[path = "conformance_v3/t01_format.rs"]
mod t01_format;
#[path = "conformance_v3/t02_connect.rs"]
mod t02_connect;
#[path = "conformance_v3/t03_will.rs"]
mod t03_will;
#[path = "conformance_v3/t04_session.rs"]
mod t04_session;
#[path = "conformance_v3/t05_publish.rs"]
mod t05_publish;
#[path = "conformance_v3/t06_retain.rs"]
mod t06_retain;
#[path = "conformance_v3/t07_subscribe.rs"]
mod t07_subscribe;
#[path = "conformance_v3/t08_unsubscribe.rs"]
mod t08_unsubscribe;
#[path = "conformance_v3/t09_ping_disconnect.rs"]
mod t09_ping_disconnect;
#[path = "conformance_v3/t10_delivery.rs"]
mod t10_delivery;
#[path = "conformance_v3/t11_topics.rs"]
mod t11_topics;
#[path = "conformance_v3/t12_mqtt_3_1.rs"]
mod t12_mqtt_3_1;

use common::{Broker, CONNACK, Connect, Packet, Publish, Raw, Will, unique};

/// How many numbered statements each section of the standard has (its appendix B).
const STATEMENTS: [(&str, u32); 39] = [
    ("1.5.3", 3),
    ("2.2.2", 2),
    ("2.3.1", 7),
    ("3.1.0", 2),
    ("3.1.2", 24),
    ("3.1.3", 11),
    ("3.1.4", 5),
    ("3.2.0", 1),
    ("3.2.2", 6),
    ("3.3.1", 12),
    ("3.3.2", 3),
    ("3.3.4", 1),
    ("3.3.5", 2),
    ("3.6.1", 1),
    ("3.8.1", 1),
    ("3.8.3", 4),
    ("3.8.4", 6),
    ("3.9.3", 2),
    ("3.10.1", 1),
    ("3.10.3", 2),
    ("3.10.4", 6),
    ("3.12.4", 1),
    ("3.14.1", 1),
    ("3.14.4", 3),
    ("4.1.0", 2),
    ("4.3.1", 1),
    ("4.3.2", 2),
    ("4.3.3", 2),
    ("4.4.0", 1),
    ("4.5.0", 2),
    ("4.6.0", 6),
    ("4.7.1", 3),
    ("4.7.2", 1),
    ("4.7.3", 4),
    ("4.8.0", 2),
    ("6.0.0", 4),
    ("7.0.0", 2),
    ("7.1.1", 1),
    ("7.1.2", 1),
];

/// Every statement has a test, or a reason in a table why not.
#[test]
fn every_statement_is_accounted_for() {
    let sources = [
        include_str!("conformance_v3/t01_format.rs"),
        include_str!("conformance_v3/t02_connect.rs"),
        include_str!("conformance_v3/t03_will.rs"),
        include_str!("conformance_v3/t04_session.rs"),
        include_str!("conformance_v3/t05_publish.rs"),
        include_str!("conformance_v3/t06_retain.rs"),
        include_str!("conformance_v3/t07_subscribe.rs"),
        include_str!("conformance_v3/t08_unsubscribe.rs"),
        include_str!("conformance_v3/t09_ping_disconnect.rs"),
        include_str!("conformance_v3/t10_delivery.rs"),
        include_str!("conformance_v3/t11_topics.rs"),
    ]
    .concat();
    let mut missing = Vec::new();
    for (section, count) in STATEMENTS {
        for number in 1..=count {
            let test = format!("fn mqtt_{}_{number}_", section.replace('.', "_"));
            let statement = format!("[MQTT-{section}-{number}]");
            let is_in_a_table = |line: &str| {
                line.starts_with("//! | [")
                    && line[6..]
                        .split(" | ")
                        .next()
                        .is_some_and(|cell| cell.contains(&statement))
            };
            if !sources.contains(&test) && !sources.lines().any(is_in_a_table) {
                missing.push(statement);
            }
        }
    }
    assert_eq!(missing, [""; 0]);
}

/// Byte sequences that are not UTF-8: a surrogate, an overlong form, bytes that never occur, a
/// character cut short, a code point above U+10FFFF.
const ILL_FORMED: [&[u8]; 5] = [
    b"a\xed\xa0\x80",
    b"a\xc0\xaf",
    b"a\xff\xfe",
    b"a\xe2\x82",
    b"a\xf4\x90\x80\x80",
];

/// Sends `bytes` on a new connection; the broker must close it without an answer.
#[track_caller]
fn refuses_quietly(broker: &Broker, bytes: &[u8]) {
    assert_eq!(
        sent_before_close(Raw::open(broker), bytes),
        [],
        "answered {bytes:02x?}"
    );
}

/// Sends `bytes` on a new connection; the broker must close it, and may say why in a CONNACK.
#[track_caller]
fn refuses(broker: &Broker, bytes: &[u8]) {
    let sent = sent_before_close(Raw::open(broker), bytes);
    let said_no = |packet: &Packet| packet.kind() == CONNACK && packet.body.get(1) != Some(&0);
    assert!(
        sent.len() <= 1 && sent.iter().all(said_no),
        "answered {bytes:02x?} with {sent:02x?}"
    );
}

/// Sends `bytes` after a CONNECT of MQTT 3.1.1; the broker must close the connection, without a
/// packet, as no packet of MQTT 3.1.1 could say why.
#[track_caller]
fn closes_on(broker: &Broker, bytes: &[u8]) {
    let client = Raw::v311(broker, &unique("bad"));
    assert_eq!(
        sent_before_close(client, bytes),
        [],
        "answered {bytes:02x?}"
    );
}

/// Sends `bytes`, waits for the end of the connection, and returns what the broker sent before.
#[track_caller]
fn sent_before_close(mut client: Raw, bytes: &[u8]) -> Vec<Packet> {
    client.try_send(bytes);
    client
        .try_closed_within(common::ARRIVES)
        .unwrap_or_else(|sent| panic!("still open after {bytes:02x?}; sent {sent:02x?}"))
}

/// A subscriber to `filter` with `qos`, with a clean session.
#[track_caller]
fn subscriber(broker: &Broker, filter: &str, qos: u8) -> Raw {
    let mut client = Raw::v311(broker, &unique("sub"));
    assert_eq!(client.subscribe(&[(filter, qos)]), [qos]);
    client
}

/// Proves that nothing else is on its way to `subscriber` from `publisher`, whose order the broker
/// keeps: a last message on `topic` with `qos` is the next that comes.
#[track_caller]
fn nothing_else(subscriber: &mut Raw, publisher: &mut Raw, topic: &str, qos: u8) {
    publisher.publish(topic, qos, "sentinel");
    let next = subscriber.take_publish();
    assert_eq!(
        next.text(),
        "sentinel",
        "came before the sentinel: {next:?}"
    );
}

/// Connects with the client identifier of a connection that has ended, or ends it, and publishes on
/// `topic`: whatever the broker does at the end of the old one has been done before.
#[track_caller]
fn sentinel_from_successor(broker: &Broker, client_id: &str, topic: &str) {
    Raw::v311(broker, client_id).publish(topic, 1, "sentinel");
}

/// A CONNECT of MQTT 3.1.1 with this Will.
fn with_will(client_id: &str, will: Will) -> Connect {
    Connect::v311(client_id).will(will)
}

/// What a new subscriber to `filter` gets first: the retained message, or `None`.
///
/// Absence is proved by a message that is published after the subscription, on `sentinel_topic`,
/// which must match `filter`.
#[track_caller]
fn retained(broker: &Broker, filter: &str, sentinel_topic: &str) -> Option<common::Received> {
    let mut client = Raw::v311(broker, &unique("ret"));
    assert_eq!(client.subscribe(&[(filter, 2)]), [2]);
    client.send(&Publish::v311(sentinel_topic, "sentinel").encode());
    let first = client.take_publish();
    if first.text() == "sentinel" {
        assert!(!first.retain, "a live message came with RETAIN set");
        return None;
    }
    assert!(
        first.retain,
        "a retained message came without RETAIN: {first:?}"
    );
    Some(first)
}

//! Conformance with MQTT 5.0: one test for each normative statement a server can be tested on, over
//! a real socket, with 1, 2 and 4 shards.
//!
//! The number of the statement is in the name of its test: `mqtt_3_1_2_24_…` tests
//! [MQTT-3.1.2-24]. Statements that are not tested stand, with the reason, at the top of the module
//! that would hold them. Tests named `section_…` cover text that has no number.
//!
//! Against any broker: `RINGMQ_TEST_BROKER=host:port cargo test --test conformance_v5`.

// The lint keeps the pure rooms of the broker from waiting and from asking for the time.
#![allow(clippy::disallowed_methods)]

mod common;

#[path = "conformance_v5/support.rs"]
mod support;
#[path = "conformance_v5/t01_format.rs"]
mod t01_format;
#[path = "conformance_v5/t02_connect.rs"]
mod t02_connect;
#[path = "conformance_v5/t03_will.rs"]
mod t03_will;
#[path = "conformance_v5/t04_connack.rs"]
mod t04_connack;
#[path = "conformance_v5/t05_session.rs"]
mod t05_session;
#[path = "conformance_v5/t06_publish.rs"]
mod t06_publish;
#[path = "conformance_v5/t07_retain.rs"]
mod t07_retain;
#[path = "conformance_v5/t08_alias.rs"]
mod t08_alias;
#[path = "conformance_v5/t09_subscribe.rs"]
mod t09_subscribe;
#[path = "conformance_v5/t10_unsubscribe.rs"]
mod t10_unsubscribe;
#[path = "conformance_v5/t11_delivery.rs"]
mod t11_delivery;
#[path = "conformance_v5/t12_flow.rs"]
mod t12_flow;
#[path = "conformance_v5/t13_topics.rs"]
mod t13_topics;
#[path = "conformance_v5/t14_shared.rs"]
mod t14_shared;
#[path = "conformance_v5/t15_disconnect.rs"]
mod t15_disconnect;
#[path = "conformance_v5/t16_acks.rs"]
mod t16_acks;

/// The first and the last number of the statements in each section (appendix B of the standard).
const STATEMENTS: [(&str, u32, u32); 56] = [
    ("1.5.4", 1, 3),
    ("1.5.5", 1, 1),
    ("1.5.7", 1, 1),
    ("2.1.3", 1, 1),
    ("2.2.1", 2, 6),
    ("2.2.2", 1, 1),
    ("3.1.0", 1, 2),
    ("3.1.2", 1, 30),
    ("3.1.3", 1, 12),
    ("3.1.4", 1, 6),
    ("3.2.0", 1, 2),
    ("3.2.2", 1, 22),
    ("3.3.1", 1, 13),
    ("3.3.2", 1, 20),
    ("3.3.4", 1, 10),
    ("3.4.2", 1, 3),
    ("3.5.2", 1, 3),
    ("3.6.1", 1, 1),
    ("3.6.2", 1, 3),
    ("3.7.2", 1, 3),
    ("3.8.1", 1, 1),
    ("3.8.3", 1, 5),
    ("3.8.4", 1, 8),
    ("3.9.2", 1, 2),
    ("3.9.3", 1, 2),
    ("3.10.1", 1, 1),
    ("3.10.3", 1, 2),
    ("3.10.4", 1, 6),
    ("3.11.2", 1, 2),
    ("3.11.3", 1, 2),
    ("3.12.4", 1, 1),
    ("3.14.0", 1, 1),
    ("3.14.1", 1, 1),
    ("3.14.2", 1, 4),
    ("3.14.4", 1, 3),
    ("3.15.1", 1, 1),
    ("3.15.2", 1, 3),
    ("4.1.0", 1, 2),
    ("4.2.0", 1, 1),
    ("4.3.1", 1, 1),
    ("4.3.2", 1, 5),
    ("4.3.3", 1, 13),
    ("4.4.0", 1, 2),
    ("4.5.0", 1, 2),
    ("4.6.0", 1, 6),
    ("4.7.0", 1, 1),
    ("4.7.1", 1, 2),
    ("4.7.2", 1, 1),
    ("4.7.3", 1, 4),
    ("4.8.2", 1, 6),
    ("4.9.0", 1, 3),
    ("4.12.0", 1, 7),
    ("4.12.1", 1, 2),
    ("4.13.1", 1, 1),
    ("4.13.2", 1, 1),
    ("6.0.0", 1, 4),
];

/// Every statement has a test, or a reason in a table why not.
#[test]
fn every_statement_is_accounted_for() {
    let sources = [
        include_str!("conformance_v5/t01_format.rs"),
        include_str!("conformance_v5/t02_connect.rs"),
        include_str!("conformance_v5/t03_will.rs"),
        include_str!("conformance_v5/t04_connack.rs"),
        include_str!("conformance_v5/t05_session.rs"),
        include_str!("conformance_v5/t06_publish.rs"),
        include_str!("conformance_v5/t07_retain.rs"),
        include_str!("conformance_v5/t08_alias.rs"),
        include_str!("conformance_v5/t09_subscribe.rs"),
        include_str!("conformance_v5/t10_unsubscribe.rs"),
        include_str!("conformance_v5/t11_delivery.rs"),
        include_str!("conformance_v5/t12_flow.rs"),
        include_str!("conformance_v5/t13_topics.rs"),
        include_str!("conformance_v5/t14_shared.rs"),
        include_str!("conformance_v5/t15_disconnect.rs"),
        include_str!("conformance_v5/t16_acks.rs"),
    ]
    .concat();
    let mut missing = Vec::new();
    for (section, first, last) in STATEMENTS {
        for number in first..=last {
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

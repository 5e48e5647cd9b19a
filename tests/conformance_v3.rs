//! Conformance with MQTT 3.1.1 (and 3.1): one test for each normative statement a server can be
//! tested on, over a real socket, with 1, 2 and 4 shards.
//!
//! The number of the statement is in the name of its test. Statements that are not tested stand,
//! with the reason, at the top of the module that would hold them.

mod common;

use common::*;

#[test]
fn smoke() {
    on_each(assert_healthy);
}

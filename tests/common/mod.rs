//! What every integration test shares: brokers to test, and a client that shows every byte.
//!
//! Nothing here uses the broker's own code. The client has its own encoder and parser, written
//! from the standards, because a shared codec would share its mistakes with the thing it tests.
//!
//! * [`broker`]: spawns `ringmq`, one shared instance for each of 1, 2 and 4 shards per test
//!   binary, and [`on_each`], which runs a test against each of them.
//! * [`raw`]: [`Raw`], a blocking client over one socket: byte-exact or packet by packet.
//! * [`packet`]: builders and parsers of packets for MQTT 3.1, 3.1.1 and 5.0.
//!
//! Environment variables:
//!
//! * `RINGMQ_TEST_BROKER=host:port` tests a broker that already runs there instead of spawning
//!   `ringmq`. Checks of the broker's memory are then skipped, and say so.
//! * `RINGMQ_TEST_SHARDS=1,4` limits the shared brokers to these shard counts.
//!
//! Every test makes its own client identifiers and topics with [`unique`], because tests run in
//! parallel against the same brokers.

// Each test binary uses its own part of this module.
#![allow(dead_code, unused_imports)]

pub(crate) mod broker;
pub(crate) mod packet;
pub(crate) mod raw;
pub(crate) mod scratch;

pub(crate) use broker::{
    Broker, SharedBroker, brokers, on_each, on_each_of_its_own, open_files_max, rethrow, unique,
};
pub(crate) use packet::*;
pub(crate) use raw::{ABSENT, ARRIVES, Raw};
pub(crate) use scratch::Scratch;

/// Checks that `broker` still serves others: two new clients connect, one publishes, the other
/// receives the message.
pub(crate) fn assert_healthy(broker: &Broker) {
    let topic = unique("healthy");
    let mut subscriber = Raw::v311(broker, &unique("hs"));
    assert_eq!(subscriber.subscribe(&[(&topic, 1)]), [1]);
    let mut publisher = Raw::v311(broker, &unique("hp"));
    publisher.publish(&topic, 1, b"still here");
    let message = subscriber.next_publish();
    assert_eq!(
        (message.topic.as_str(), message.payload.as_slice()),
        (topic.as_str(), &b"still here"[..])
    );
    subscriber.send(&ack(PUBACK, message.id));
    subscriber.disconnect();
    publisher.disconnect();
}

//! ringmq: an MQTT broker for one Linux machine.

mod civil;
pub mod client;
pub mod config;
pub mod protocol;
pub mod server;
pub mod shard;
pub mod topic;

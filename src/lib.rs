//! ringmq: an MQTT broker for one Linux machine.

pub mod config;
pub mod protocol;
pub mod session;
pub mod shard;
pub mod topic;

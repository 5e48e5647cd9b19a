//! ringmq: an MQTT broker for one Linux machine.

pub mod config;
pub mod shard;

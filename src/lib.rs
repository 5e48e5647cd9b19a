//! ringmq: an MQTT broker for one Linux machine.

pub mod config;
pub mod mesh;
pub mod net;
pub mod protocol;
pub mod session;
pub mod shard;
pub mod topic;

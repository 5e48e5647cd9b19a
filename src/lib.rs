//! ringmq: an MQTT broker for one Linux machine.

pub mod topic;

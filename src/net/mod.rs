//! SHELL. The sockets of a core: its ring, its listeners, its writes, and the turn that drives the shard.

pub mod admission;
pub mod counters;
pub mod driver;
pub mod events;
pub mod listener;
pub mod live;
pub mod ring;
pub mod sockets;
pub mod transport;
pub mod writer;

//! One core's whole state machine, without I/O, clock or threads.

pub mod input;
pub mod message;
pub mod mesh_message;
pub mod outbox;
pub mod placement;

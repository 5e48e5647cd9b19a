//! ringmq: an MQTT broker for one Linux machine. One thread per core, nothing shared, io_uring.
//!
//! # Rooms
//!
//! | room | what it holds | may use |
//! |---|---|---|
//! | [`protocol`] | bytes ⇄ packets, for MQTT 3.1, 3.1.1 and 5.0 | nothing |
//! | [`topic`] | filters, the index of subscriptions, interest of other cores, shared groups, retained messages | `protocol` |
//! | [`access`] | who may publish and read what | `topic` |
//! | [`session`] | what outlives a connection: in flight, received, queue, will | `protocol`, `topic`, `access`, the words of [`shard::input`] and [`shard::message`] |
//! | [`shard`] | a core's whole state: [`shard::input::Input`] in, [`shard::outbox::Outbox`] out | the four above, `config::limits` |
//! | [`net`] | sockets: the core's io_uring, the turn, listening, writing, TLS and WebSocket | all above, `mesh`, `config` |
//! | [`auth`] | who clients are: password files, tokens, SCRAM, a service; and the threads that judge | `access`, `shard::credentials`, `mesh::wake`, `config` |
//! | [`mesh`] | links between cores | `shard`, `net::ring` |
//! | [`store`] | what outlives the process: one SQLite database and its thread | `shard`, `mesh::wake`, `config` |
//! | [`server`] | the process: probe, data directory, cores, signals, log | all above |
//! | [`config`] | everything an operator decides, as plain data | `shard::input` |
//! | [`torture`] | `ringmq torture`: kills a broker under load and checks what it had promised | nothing |
//! | [`client`] | `ringmq pub` and `ringmq sub` | `protocol`, `topic`, `net::transport` |
//! | [`cert`] | `ringmq cert dev` | nothing |
//!
//! # The rule
//!
//! `protocol`, `topic`, `access`, `session` and `shard` are pure: no I/O, no clock, no thread, no `async`, no randomness
//! but from a seed, and no word of the other rooms. Time is passed in, what is to be done comes out, so that
//! many shards with their links run in one thread under a simulator, and a seed repeats a run.
//! `tests/tidy.rs` fails when the rule is broken, and clippy when one of them asks for the time.

#![warn(clippy::disallowed_methods)]

pub mod access;
#[allow(clippy::disallowed_methods, reason = "tokens end in real time")]
pub mod auth;
#[allow(
    clippy::disallowed_methods,
    reason = "a certificate is valid from now on"
)]
pub mod cert;
pub mod civil;
#[allow(clippy::disallowed_methods, reason = "a client lives in real time")]
pub mod client;
pub mod config;
pub mod heap;
#[allow(clippy::disallowed_methods, reason = "its tests wait for the kernel")]
pub mod mesh;
#[allow(
    clippy::disallowed_methods,
    reason = "it waits for the kernel, once at the start and in tests"
)]
pub mod net;
pub mod protocol;
#[allow(
    clippy::disallowed_methods,
    reason = "its clock is the one the shards are told"
)]
pub mod server;
pub mod session;
pub mod shard;
#[allow(clippy::disallowed_methods, reason = "it waits for the disk")]
pub mod store;
pub mod topic;
#[allow(clippy::disallowed_methods, reason = "its clients live in real time")]
pub mod torture;

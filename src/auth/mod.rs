//! SHELL. Who clients are: password files, tokens, SCRAM, a service that is asked over HTTP.
//!
//! A shard asks, through its outbox, and is answered with a later input; in between it goes on. What is to be computed
//! is computed by a few threads of low priority ([`pool`]), and remembered ([`cache`]), so that a fleet that reconnects
//! after a power cut costs the clients that publish nothing. What the answer is, [`verifier`] decides. What a client that is
//! let in may do is a question for `access`, and for its shard alone.

pub mod acl_tool;
pub mod cache;
pub mod claims;
pub mod hash;
pub mod http;
pub mod jwt;
pub mod load;
pub mod passwd;
pub mod pool;
pub mod scram;
pub mod users;
pub mod verifier;

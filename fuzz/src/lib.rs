//! What the fuzz targets do, as plain functions of bytes, so that `cargo test` can replay a corpus without
//! libFuzzer.
//!
//! Every target reads its input from the front, a byte at a time, and takes zeros when it ends: so seeds can be
//! written by hand (`examples/seeds.rs`), and a mutation of one operation leaves the next ones as they were.

pub mod acl_file;
mod client;
pub mod config;
pub mod decode_packet;
pub mod decode_stream;
pub mod filter_match;
pub mod http_upgrade;
pub mod input;
pub mod memory;
pub mod password_file;
pub mod proxy_header;
pub mod record_decode;
pub mod retained_scan;
pub mod round_trip;
pub mod shard_inputs;
pub mod text;
pub mod tls_session;
pub mod token;
pub mod world;
pub mod ws_frame;

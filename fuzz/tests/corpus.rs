//! The committed corpus, replayed without libFuzzer: `cargo test --manifest-path fuzz/Cargo.toml`.

use std::fs;
use std::path::Path;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 15] = [
    ("decode_packet", ringmq_fuzz::decode_packet::run),
    ("decode_stream", ringmq_fuzz::decode_stream::run),
    ("round_trip", ringmq_fuzz::round_trip::run),
    ("filter_match", ringmq_fuzz::filter_match::run),
    ("retained_scan", ringmq_fuzz::retained_scan::run),
    ("shard_inputs", ringmq_fuzz::shard_inputs::run),
    ("config", ringmq_fuzz::config::run),
    ("record_decode", ringmq_fuzz::record_decode::run),
    ("ws_frame", ringmq_fuzz::ws_frame::run),
    ("proxy_header", ringmq_fuzz::proxy_header::run),
    ("http_upgrade", ringmq_fuzz::http_upgrade::run),
    ("tls_session", ringmq_fuzz::tls_session::run),
    ("acl_file", ringmq_fuzz::acl_file::run),
    ("password_file", ringmq_fuzz::password_file::run),
    ("token", ringmq_fuzz::token::run),
];

// One test: `shard_inputs` counts the bytes of the whole process.
#[test]
fn every_input_of_the_corpus_passes() {
    for (name, run) in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut count = 0;
        for entry in fs::read_dir(&directory).expect("every target has a corpus") {
            let path = entry.expect("the corpus can be listed").path();
            println!("{}", path.display());
            run(&fs::read(&path).expect("the input can be read"));
            count += 1;
        }
        assert!(count > 0, "{name} has a corpus");
    }
}

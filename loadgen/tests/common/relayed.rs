//! Runs of loadgen against its own relay.

use loadgen::cli;
use loadgen::relay::Relay;
use loadgen::report::Summary;
use loadgen::run;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Runs a verb, whose words lack the broker's port.
pub(crate) fn run(words: &str) -> Summary {
    let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let words = format!("loadgen {words} -Q -p {}", relay.address().port());
    let cli = cli::parse(words.split(' ')).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            let result = run::verb(&cli.verb);
            over.store(true, Ordering::Release);
            result
        });
        while !over.load(Ordering::Acquire) {
            relay.turn(Duration::from_millis(1)).unwrap();
        }
        run.join().unwrap().unwrap()
    })
}

/// A directory of a test, which is empty.
pub(crate) fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

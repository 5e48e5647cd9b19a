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
#[allow(dead_code, reason = "not all tests run a verb in their own process")]
pub(crate) fn run(words: &str) -> Summary {
    beside(|port| {
        let words = format!("loadgen {words} -Q -p {port}");
        let cli = cli::parse(words.split(' ')).unwrap();
        run::verb(&cli.verb).unwrap()
    })
}

/// Does something while a relay serves the port that it is told.
pub(crate) fn beside<T: Send>(work: impl FnOnce(u16) -> T + Send) -> T {
    let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = relay.address().port();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let done = scope.spawn(|| {
            let _over = Over(&over);
            work(port)
        });
        while !over.load(Ordering::Acquire) {
            relay.turn(Duration::from_millis(1)).unwrap();
        }
        done.join().unwrap()
    })
}

/// Tells that work is over, also when it panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A directory of a test, which is empty.
pub(crate) fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

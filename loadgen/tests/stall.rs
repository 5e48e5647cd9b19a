//! A broker that stops for a moment must show in the percentiles of an open loop, for every message that
//! was due in that moment; and a closed loop must be seen not to show it.

use loadgen::cli;
use loadgen::relay::Relay;
use loadgen::report::Summary;
use loadgen::run;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const STALL: Duration = Duration::from_millis(300);

/// Runs `pubsub` for 2 s against a relay that stops once for [`STALL`] while it is measured.
fn against_a_stall(load: &[&str]) -> Summary {
    let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = relay.address().port().to_string();
    let mut words = vec![
        "loadgen", "pubsub", "-c", "4", "-p", &port, "--warmup", "200ms", "-d", "2s", "-Q",
    ];
    words.extend(load);
    let cli = cli::parse(words).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            let result = run::verb(&cli.verb);
            over.store(true, Ordering::Release);
            result
        });
        let begun = Instant::now();
        let mut stalled = false;
        while !over.load(Ordering::Acquire) {
            relay.turn(Duration::from_millis(1)).unwrap();
            if !stalled && begun.elapsed() > Duration::from_millis(1_200) {
                stalled = true;
                thread::sleep(STALL);
            }
        }
        run.join().unwrap().unwrap()
    })
}

#[test]
fn an_open_loop_shows_the_stall_for_all_messages_that_were_due() {
    let summary = against_a_stall(&["--rate", "2000"]);
    let latency = summary.latency_us.as_ref().unwrap();
    assert_eq!((summary.lost, latency.count), (0, 4_000), "{summary:?}");
    // 600 of 4,000 messages were due while nothing moved: 15 %. The first of them waited for the whole stall,
    // and at the 99th percentile all but a fifteenth of it is left.
    assert!(latency.p99 > 250_000.0, "{latency:?}");
    assert!(latency.max > 290_000.0, "{latency:?}");
    assert!(latency.p90 > 50_000.0, "{latency:?}");
    assert!(latency.p50 < 100_000.0, "{latency:?}");
    // The schedule went on meanwhile: it is the broker that was late, not the generator.
    assert!(
        (summary.published_per_s - 2_000.0).abs() < 20.0,
        "{}",
        summary.published_per_s
    );
}

#[test]
fn a_closed_loop_hides_it_and_says_so() {
    let summary = against_a_stall(&["--closed-loop", "--inflight", "4"]);
    let latency = summary.latency_us.as_ref().unwrap();
    assert_eq!(summary.lost, 0);
    assert!(latency.max > 290_000.0, "{latency:?}");
    assert!(
        latency.p99 < 200_000.0,
        "only 16 messages met the stall: {latency:?}"
    );
    assert_eq!(summary.latency_kind, "service time");
}

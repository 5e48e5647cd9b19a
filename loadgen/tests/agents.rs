//! Several agents are one run: the same clients, the same messages, one histogram.

use loadgen::agent;
use loadgen::cli;
use loadgen::relay::Relay;
use loadgen::report::Summary;
use loadgen::run;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// A relay on a thread of its own; it ends with the test.
fn relay() -> (u16, Stop) {
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let (sender, port) = mpsc::channel();
    let thread = thread::spawn(move || {
        let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        sender.send(relay.address().port()).unwrap();
        while !seen.load(Ordering::Acquire) {
            relay.turn(Duration::from_millis(10)).unwrap();
        }
    });
    (port.recv().unwrap(), Stop(over, Some(thread)))
}

struct Stop(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        let _ = self.1.take().map(thread::JoinHandle::join);
    }
}

/// An agent that serves one leader.
fn agent(secret: &'static str) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || agent::serve_one(&listener, secret).unwrap());
    (address, thread)
}

fn run_on(agents: &[&str], secret: &str, words: &str) -> Result<Summary, String> {
    let agents = agents.join(",");
    let secret: &[&str] = if secret.is_empty() {
        &[]
    } else {
        &["--secret", secret]
    };
    let head = ["loadgen", "run", "--agents", &agents].into_iter();
    let words = head
        .chain(secret.iter().copied())
        .chain(words.split_whitespace());
    let cli = cli::parse(words).unwrap();
    run::verb(&cli.verb)
}

#[test]
fn two_agents_do_what_one_process_does() {
    let (port, _stop) = relay();
    let ((first, one), (second, other)) = (agent("s"), agent("s"));
    let words = format!("pubsub -c 5 --rate 1000 --warmup 200ms -d 1s -Q --verify -p {port}");
    let summary = run_on(&[&first, &second], "s", &words).unwrap();
    let alone = cli::parse(["loadgen"].into_iter().chain(words.split(' '))).unwrap();
    let alone = run::verb(&alone.verb).unwrap();
    assert_eq!((summary.connections, summary.publishers), (10, 5));
    assert_eq!(
        (summary.lost, summary.violations.len()),
        (0, 0),
        "{summary:?}"
    );
    assert_eq!(summary.generator.cores, 2);
    // 3/5 and 2/5 of the rate are whole messages; each schedule may begin or end a slot earlier.
    assert!(
        summary.published.abs_diff(alone.published) <= 2,
        "{summary:?}"
    );
    let count = |of: &Summary| of.latency_us.as_ref().map_or(0, |all| all.count);
    assert!(count(&summary).abs_diff(count(&alone)) <= 2);
    assert!((summary.published_per_s - 1_000.0).abs() < 30.0);
    one.join().unwrap();
    other.join().unwrap();
}

#[test]
fn a_knee_is_searched_for_on_all_agents_together() {
    let (port, _stop) = relay();
    let ((first, one), (second, other)) = (agent(""), agent(""));
    // No rate is too low for this condition, and none is high enough.
    let words =
        format!("pubsub -c 2 --find-max p99<0us --rate 16 --warmup 0s -d 100ms -Q -p {port}");
    let summary = run_on(&[&first, &second], "", &words).unwrap();
    let rates: Vec<_> = summary.knee.iter().map(|point| point.rate).collect();
    assert_eq!(rates, [1.0, 2.0, 4.0, 8.0, 16.0]);
    assert!(
        summary.violations[0].contains("does not hold"),
        "{summary:?}"
    );
    one.join().unwrap();
    other.join().unwrap();
}

#[test]
fn an_agent_without_the_secret_is_not_served() {
    let (address, one) = agent("right");
    let error = run_on(&[&address], "wrong", "conn -c 1 -Q").unwrap_err();
    assert!(error.contains("the secret is wrong"), "{error}");
    one.join().unwrap();
    let open = cli::parse(["loadgen", "agent", "--listen", "0.0.0.0:0"]);
    let error = open.unwrap_err().to_string();
    assert!(error.contains("a secret is needed"), "{error}");
}

/// An agent that says what it should and dies when the run has begun.
fn dying_agent() -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || {
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        lines.next().unwrap().unwrap();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        writeln!(
            stream,
            r#"{{"Welcome":{{"now_ns":{now},"machine":"other"}}}}"#
        )
        .unwrap();
        lines.next().unwrap().unwrap();
        writeln!(stream, r#""Ready""#).unwrap();
        lines.next().unwrap().unwrap();
    });
    (address, thread)
}

#[test]
fn an_agent_that_dies_leaves_the_results_of_the_others() {
    let (port, _stop) = relay();
    let ((first, one), (second, other)) = (agent(""), dying_agent());
    let words = format!("pubsub -c 4 --rate 400 --warmup 0s -d 500ms -Q -p {port}");
    let summary = run_on(&[&first, &second], "", &words).unwrap();
    let error = summary.error.as_ref().unwrap();
    assert!(
        error.contains(&second) && error.contains("closed the connection"),
        "{error}"
    );
    // Its half of the run is there.
    assert_eq!((summary.connections, summary.lost), (4, 0), "{summary:?}");
    assert!((99..=101).contains(&summary.published), "{summary:?}");
    one.join().unwrap();
    other.join().unwrap();
}

#[test]
fn what_cannot_be_shared_is_said() {
    for (words, why) in [
        ("wild --max", "agents share conn"),
        (
            "pub -t a -m template:///etc/hostname -c 2",
            "reads no files",
        ),
        ("pubsub --max -c 1", "at least as many clients"),
    ] {
        // Nobody is asked for it.
        let words = format!("loadgen run --agents 127.0.0.1:1,127.0.0.1:2 {words} -Q");
        let error = cli::parse(words.split(' ')).unwrap_err();
        assert!(error.to_string().contains(why), "{words}: {error}");
        assert_eq!(error.exit_code(), 2, "{words}");
    }
}

//! What is wrong with a command line is said before anything happens, and what is secret in it stays so.

#[path = "common/relayed.rs"]
mod relayed;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Seconds that the program may take, by far more than it needs.
const PATIENCE_S: &str = "30";

/// What the program says to a command line, and its status.
fn loadgen(words: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = Command::new("timeout")
        .args([PATIENCE_S, env!("CARGO_BIN_EXE_loadgen")])
        .args(words)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), said)
}

/// A line is refused, and what is said holds all of these.
fn refuses(words: &[&str], environment: &[(&str, &str)], expected: &[&str]) {
    let (status, said) = loadgen(words, environment);
    let shown: Vec<_> = words
        .iter()
        .map(|word| word.get(..60).unwrap_or(word))
        .collect();
    let said =
        said.get(..600).unwrap_or(&said).to_owned() + &said[said.len().saturating_sub(600)..];
    assert_eq!(status, Some(2), "{shown:?}: {said}");
    for word in expected {
        assert!(said.contains(word), "{shown:?} lacks {word}: {said}");
    }
}

/// A port at which nobody listens.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

#[test]
fn values_that_cannot_work_are_refused_with_the_flag_and_the_limit() {
    let port = closed_port();
    for (line, expected) in [
        ("pubsub --rate 5 -d 9999999h", ["--duration", "168h"]),
        ("pubsub --rate 5 --warmup 9999999h", ["--warmup", "168h"]),
        (
            "pubsub --ramp 0..10@100 --hold 9999999h",
            ["--hold", "168h"],
        ),
        ("pubsub --stages 100h:1,100h:1", ["--stages", "week"]),
        ("pubsub -I 1000000000", ["--message-interval", "604800000"]),
        ("conn -i 18446744073709551615", ["--interval", "604800000"]),
        ("conn --hold 169h", ["--hold", "168h"]),
        ("conn -c 4294967295", ["--count", "1048576"]),
        ("churn -d 9999999h", ["--duration", "168h"]),
        (
            "pub -t a -L 18446744073709551615",
            ["--limit", "1099511627776"],
        ),
        ("pub -t a -L 1000000000", ["--limit", "--rate"]),
        (
            "pub -t a -L 10 --rate 0.001 -d 1s",
            ["--limit", "--duration"],
        ),
        ("pub -t %u", ["--topic", "one character"]),
        (
            "fanout --rate 1 -c 1048576 --publishers 1000",
            ["--count", "16777216"],
        ),
        ("conn -P x", ["--username", "--mqtt-version 5"]),
        ("conn -V 3 -P x", ["--username", "--mqtt-version 5"]),
        ("storm --prefix a+", ["--prefix", "+ and #"]),
        ("sub -t a/#/b", ["--topic", "#"]),
    ] {
        let words: Vec<_> = line.split(' ').chain(["-p", &port]).collect();
        refuses(&words, &[], &expected);
    }
    for verb in ["conn", "churn", "storm", "inbox", "durable", "retained"] {
        let environment = [("LOADGEN_PASSWORD", "x")];
        refuses(
            &[verb, "-p", &port],
            &environment,
            &["LOADGEN_PASSWORD", "--username"],
        );
    }
}

#[test]
fn texts_that_fit_into_no_packet_are_refused() {
    let long = "a".repeat(65_536);
    let ids = "%c".repeat(30_000);
    for (words, expected) in [
        (["conn", "-c1", "-u", &long], ["--username", "65535"]),
        (["conn", "-V5", "-P", &long], ["--password", "65535"]),
        (["durable", "-c1", "--prefix", &long], ["--prefix", "32000"]),
        (["pub", "-c1", "-t", &long], ["--topic", "65535"]),
        (["pub", "-c1", "-t", &ids], ["--topic", "65535"]),
        (["sub", "-c1", "-t", &ids], ["--topic", "65535"]),
        (["conn", "--tls", "--tls-alpn", ""], ["--tls-alpn", "255"]),
        (
            ["conn", "--tls", "--tls-alpn", &long[..256]],
            ["--tls-alpn", "255"],
        ),
    ] {
        let words: Vec<_> = words.into_iter().chain(["-p", "1"]).collect();
        refuses(&words, &[], &expected);
    }
}

#[test]
fn the_largest_and_the_smallest_work() {
    relayed::beside(|port| {
        let port = port.to_string();
        for line in [
            "conn -c 1 -k 65535 --hold 10ms",
            "conn -c 1 -i 604800000 --hold 10ms",
            "pubsub -c 3 -d 10ms --warmup 0s --cores 3 --rate 0.001",
            "pubsub -c 3 -d 10ms --warmup 0s --cores 3 -I 604800000 --jitter 1",
            "pub -t a -c 1 -L 1 -I 10 -V 5 -P x",
        ] {
            let words: Vec<_> = line.split(' ').chain(["-Q", "-p", &port]).collect();
            let (status, said) = loadgen(&words, &[]);
            assert_eq!(status, Some(0), "{line}: {said}");
        }
    });
}

#[test]
fn a_wrong_line_ends_with_status_2_whoever_reads_it() {
    for (line, expected) in [
        ("suite nosuch", ["there is no nosuch", "gateway"]),
        (
            "suite gateway --rate 5",
            ["--rate", "cannot be used multiple times"],
        ),
        ("suite gateway --unknown", ["--unknown", "unexpected"]),
        ("conn --url http://x", ["--url", "mqtts"]),
        ("conn --cafile /nonexist", ["/nonexist", "No such file"]),
        ("conn --insecure", ["--insecure", "--tls"]),
        (
            "pub -t a -m template:///nonexist",
            ["--message", "/nonexist"],
        ),
        (
            "run --agents 127.0.0.1:1 churn",
            ["without --agents", "pubsub"],
        ),
        (
            "run --agents 127.0.0.1:1 pubsub",
            ["--rate", "--closed-loop"],
        ),
        (
            "run --agents a:1,b:1 conn -c 1",
            ["2 agents", "as many clients"],
        ),
        (
            "run --agents a:1 --secret-file /nonexist conn",
            ["--secret-file", "/nonexist"],
        ),
        ("agent --listen 0.0.0.0:0", ["--listen", "--secret-file"]),
    ] {
        refuses(&line.split(' ').collect::<Vec<_>>(), &[], &expected);
    }
}

// ---- the broker's process ----

struct Sleep(Child);

impl Sleep {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_is_not_the_broker_is_noticed() {
    // A relay of another process, so that the sleeper is not its child.
    let port = closed_port();
    let bind = format!("127.0.0.1:{port}");
    let relay = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["relay", "--bind", &bind])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut relay = Sleep(relay);
    while TcpStream::connect(&bind).is_err() {
        assert!(relay.0.try_wait().unwrap().is_none(), "the relay is gone");
        thread::sleep(Duration::from_millis(20));
    }
    let (sleep, relay_pid) = (Sleep::start(), relay.0.id());
    let line = |pid: u32| {
        format!("pubsub -c 1 --closed-loop --warmup 0s -d 50ms -Q -p {port} --broker-pid {pid}")
    };
    let named = format!("--broker-pid {relay_pid}");
    for (pid, expected) in [
        (u32::MAX, ["no such process", "pgrep"]),
        // It has started loadgen, whose time would count as the broker's.
        (std::process::id(), ["own CPU time", &named]),
    ] {
        refuses(&line(pid).split(' ').collect::<Vec<_>>(), &[], &expected);
    }
    // It may be a proxy that listens, so this is no more than doubtful.
    let (status, said) = loadgen(&line(sleep.0.id()).split(' ').collect::<Vec<_>>(), &[]);
    let doubt = format!("sleep does not listen at {bind}, but process {relay_pid} (loadgen) does");
    assert!(status == Some(0) && said.contains(&doubt), "{said}");
    assert!(
        said.contains("INVALID") && said.contains("used no CPU time"),
        "{said}"
    );
    let (status, said) = loadgen(&line(relay_pid).split(' ').collect::<Vec<_>>(), &[]);
    assert!(
        status == Some(0) && !said.contains("--broker-pid"),
        "{said}"
    );
}

// ---- secrets ----

/// Whether a word is in one of the files of a directory.
fn is_written(word: &str, directory: &Path) -> bool {
    let files = fs::read_dir(directory).unwrap();
    files.map(Result::unwrap).any(|file| {
        let bytes = fs::read(file.path()).unwrap();
        String::from_utf8_lossy(&bytes).contains(word)
    })
}

#[test]
fn no_password_is_written_however_it_was_given() {
    let agents = TcpListener::bind("127.0.0.1:0").unwrap();
    let run = format!(
        "run --agents {} --secret hush-17",
        agents.local_addr().unwrap()
    );
    let agent = thread::spawn(move || loadgen::agent::serve_one(&agents, "hush-17").unwrap());
    let load = "-c 1 --closed-loop --warmup 0s -d 50ms";
    let out = relayed::directory("secrets");
    relayed::beside(|port| {
        for (number, line) in [
            format!("pubsub {load} -u me -P hush-17 -p {port}"),
            format!("pubsub {load} -u me -QPhush-17 -p {port}"),
            format!("pubsub {load} -u me -QP hush-17 -p {port}"),
            format!("pubsub {load} -u me --password=hush-17 -p {port}"),
            format!("pubsub {load} --url mqtt://me:hush@hush-17@127.0.0.1:{port}"),
            format!("suite pingpong -d 50ms -u me -QP hush-17 -p {port}"),
            format!("{run} pubsub {load} -u me -QPhush-17 -p {port}"),
            format!("pubsub {load} -u me -p {port}"),
        ]
        .iter()
        .enumerate()
        {
            let directory = out.join(number.to_string());
            let shown = directory.display().to_string();
            let words: Vec<_> = line.split(' ').chain(["--out", &shown]).collect();
            let (status, said) = loadgen(&words, &[("LOADGEN_PASSWORD", "hush-17")]);
            assert_eq!(status, Some(0), "{line}: {said}");
            assert!(!said.contains("hush"), "{line}: {said}");
            assert!(!is_written("hush", &directory), "{line}: see {shown}");
            let run = fs::read_to_string(directory.join("run.toml")).unwrap();
            assert!(run.contains("***") && run.contains("closed-loop"), "{run}");
        }
    });
    agent.join().unwrap();
}

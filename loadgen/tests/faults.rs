//! A broker that loses, repeats, reorders and damages messages on purpose: what it did must be what is counted.
//! And brokers that refuse, hang up or are not there, and systems that are too small.

use loadgen::relay::Relay;
use loadgen::report::Summary;
use loadgen::{cli, knee, run};
use ringmq::protocol::frame::{Cut, cut};
use ringmq::protocol::{Connack, ConnackProperties, PacketType, ReasonCode, Version, put_suback};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// What the broker did to the messages that it got.
#[derive(Debug, Default)]
struct Done {
    received: u64,
    lost: u64,
    repeated: u64,
    reordered: u64,
    damaged: u64,
}

/// Serves one subscriber, which comes first, and one publisher; `fault` decides what becomes of each message.
fn serve(listener: &TcpListener, fault: fn(u64) -> Fault) -> Done {
    let (mut subscriber, _) = listener.accept().unwrap();
    until_subscribed(&mut subscriber);
    let (publisher, _) = listener.accept().unwrap();
    publisher.set_nodelay(true).unwrap();
    let mut done = Done::default();
    let mut held: Option<Vec<u8>> = None;
    packets(publisher, |stream, packet| match packet[0] >> 4 {
        1 => stream.write_all(&connack()).unwrap(),
        3 => {
            let mut packet = packet.to_vec();
            let number = done.received;
            done.received += 1;
            match fault(number) {
                Fault::None => subscriber.write_all(&packet).unwrap(),
                Fault::Lose => done.lost += 1,
                Fault::Repeat => {
                    done.repeated += 1;
                    subscriber.write_all(&packet).unwrap();
                    subscriber.write_all(&packet).unwrap();
                }
                Fault::Damage => {
                    done.damaged += 1;
                    *packet.last_mut().unwrap() ^= 0x10;
                    subscriber.write_all(&packet).unwrap();
                }
                Fault::Hold => {
                    held = Some(packet);
                    return;
                }
            }
            if let Some(late) = held.take() {
                done.reordered += 1;
                subscriber.write_all(&late).unwrap();
            }
        }
        _ => {}
    });
    // Held to the end, it never came.
    done.lost += u64::from(held.is_some());
    done
}

#[derive(Clone, Copy)]
enum Fault {
    None,
    Lose,
    Repeat,
    Damage,
    /// To be sent after the next one.
    Hold,
}

fn until_subscribed(subscriber: &mut TcpStream) {
    subscriber.set_nodelay(true).unwrap();
    let (sender, subscribed): (Sender<()>, _) = mpsc::channel();
    let reader = subscriber.try_clone().unwrap();
    // It goes on to read (PINGREQ, DISCONNECT) until the connection ends.
    thread::spawn(move || {
        packets(reader, |stream, packet| match packet[0] >> 4 {
            1 => stream.write_all(&connack()).unwrap(),
            8 => {
                let id = u16::from_be_bytes([packet[2], packet[3]]);
                let id = ringmq::protocol::PacketId::new(id).unwrap();
                let mut suback = Vec::new();
                put_suback(&mut suback, Version::V311, id, &[0]);
                stream.write_all(&suback).unwrap();
                sender.send(()).unwrap();
            }
            _ => {}
        });
    });
    subscribed.recv().unwrap();
}

fn connack() -> Vec<u8> {
    let mut out = Vec::new();
    let properties = ConnackProperties::default();
    Connack {
        session_present: false,
        reason: ReasonCode::Success,
        properties,
    }
    .encode(Version::V311, &mut out);
    out
}

/// Reads packets until DISCONNECT or the end.
fn packets(mut stream: TcpStream, mut on_packet: impl FnMut(&mut TcpStream, &[u8])) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match cut(&bytes, 1 << 20).unwrap() {
            Cut::Packet { header, len, .. } => {
                if header.packet_type == PacketType::Disconnect {
                    return;
                }
                on_packet(&mut stream, &bytes[..len]);
                bytes.drain(..len);
            }
            Cut::Incomplete { .. } => match stream.read(&mut chunk) {
                Ok(count @ 1..) => bytes.extend_from_slice(&chunk[..count]),
                _ => return,
            },
        }
    }
}

fn run_against(fault: fn(u64) -> Fault) -> (Summary, Done) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let broker = thread::spawn(move || serve(&listener, fault));
    let words = "loadgen pubsub -c 1 --rate 2000 --warmup 100ms -d 400ms --verify -Q -p";
    let words: Vec<_> = words.split(' ').chain([port.as_str()]).collect();
    let cli = cli::parse(words).unwrap();
    let summary = run::verb(&cli.verb).unwrap();
    (summary, broker.join().unwrap())
}

#[test]
fn each_fault_is_counted_once_and_as_what_it_is() {
    let (summary, done) = run_against(|number| match number % 100 {
        10 | 11 => Fault::Lose,
        20 => Fault::Repeat,
        30 => Fault::Damage,
        40 => Fault::Hold,
        _ => Fault::None,
    });
    assert_eq!(summary.published, done.received, "{summary:?}");
    assert!(done.lost >= 10 && done.repeated >= 5 && done.reordered >= 5 && done.damaged >= 5);
    assert_eq!(summary.duplicates, done.repeated);
    assert_eq!(summary.reordered, done.reordered);
    assert_eq!(summary.corrupt, done.damaged);
    // What came damaged did not come as what it was.
    assert_eq!(summary.lost, done.lost + done.damaged);
    assert_eq!(summary.delivered, done.received - summary.lost);
    // With QoS 0 a loss breaks no promise; the other three do.
    assert_eq!(summary.violations.len(), 3, "{:?}", summary.violations);
}

#[test]
fn without_faults_nothing_is_counted() {
    let (summary, done) = run_against(|_| Fault::None);
    assert_eq!(
        (summary.published, summary.delivered),
        (done.received, done.received)
    );
    assert_eq!(summary.published, 1_000);
    assert_eq!(summary.violations, [""; 0]);
}

#[test]
fn losses_at_the_very_end_are_losses() {
    let (summary, done) = run_against(|number| {
        if number >= 990 {
            Fault::Lose
        } else {
            Fault::None
        }
    });
    assert_eq!((summary.lost, done.lost), (10, 10));
}

// ---- brokers that refuse, hang up, or are gone ----

/// Serves connections on a thread: each gets a CONNACK with this code, and a SUBACK for each SUBSCRIBE; `hang_up`
/// decides by what arrived (the packet type) whether the connection is cut.
fn broker(code: u8, hang_up: impl Fn(u64, u8) -> bool + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hang_up = Arc::new(hang_up);
    thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming()) {
            let (stream, hang_up) = (stream.unwrap(), Arc::clone(&hang_up));
            thread::spawn(move || {
                let mut publishes = 0;
                packets(stream, |stream, packet| {
                    let kind = packet[0] >> 4;
                    publishes += u64::from(kind == 3);
                    // Whoever is hung up on may be writing.
                    let _ = match kind {
                        1 => stream.write_all(&[0x20, 2, 0, code]),
                        8 => stream.write_all(&[0x90, 3, packet[2], packet[3], 0]),
                        _ => Ok(()),
                    };
                    if hang_up(number, kind) && (kind != 3 || publishes > 50) {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                });
            });
        }
    });
    port
}

fn attempt(words: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(words.split_whitespace())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_wrong_command_line_ends_with_status_2() {
    for words in [
        "pubsub --rate 5 --unknown",
        "pubsub",
        "nothing",
        "sub -q 1",
        "suite nosuch",
        "suite gateway --rate 5",
        "pubsub --rate 5 --url http://x",
        "pubsub --rate 5 --tls --cafile /nonexistent",
        "run --agents 127.0.0.1:1 churn",
        "conn -c 0",
        "pubsub --rate 5 -c 0",
        "conn -c 4000000000",
        "conn -P hush",
        "conn --broker-pid 4000000000",
        "pubsub --rate 5 -d 9999999h",
        "pubsub --rate 5 --warmup 9999999h",
        "pub -t a -L 18446744073709551615",
        "pub -t a/+ --rate 1",
        "pub -t a -m template:///nonexistent",
        "sub -t a/#/b",
    ] {
        let (status, _, said) = attempt(words);
        assert_eq!(status, Some(2), "{words}");
        assert!(said.contains("error:"), "{said}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_one_line_and_status_1() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for verb in [
        "conn -c 1",
        "pubsub --rate 5",
        "churn",
        "storm",
        "inbox",
        "retained",
        "durable",
    ] {
        let (status, out, said) = attempt(&format!("{verb} -Q -p {port}"));
        assert_eq!((status, out.as_str()), (Some(1), ""), "{verb}");
        let lines: Vec<_> = said.lines().collect();
        assert!(
            matches!(lines[..], [line] if line.starts_with("loadgen: client ") && line.contains("cannot connect")),
            "{verb}: {said}"
        );
    }
    let (status, _, said) = attempt("conn -h no.such.host.invalid");
    assert_eq!(status, Some(1));
    assert!(said.contains("no.such.host.invalid"), "{said}");
}

#[test]
fn a_refused_connect_tells_the_reason_even_where_it_would_try_again() {
    let port = broker(5, |_, _| false);
    for verb in [
        "conn -c 3",
        "conn -c 3 --reconnect",
        "pub -t a -I 10",
        "churn",
        "storm -c 2",
        "inbox",
    ] {
        let (status, _, said) = attempt(&format!("{verb} -Q -p {port}"));
        assert_eq!(status, Some(1), "{verb}");
        assert!(said.contains("refused: Not authorized"), "{verb}: {said}");
    }
}

#[test]
fn a_broker_that_dies_mid_run_leaves_what_was_measured() {
    // The publisher's connection is cut while it publishes.
    let port = broker(0, |_, kind| kind == 3);
    let directory = std::env::temp_dir().join(format!("loadgen-test-died-{port}"));
    let words = format!(
        "pub -t a -I 10 --warmup 0s -d 20s -Q --json --out {} -p {port}",
        directory.display()
    );
    let (status, out, said) = attempt(&words);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("(in use)"), "{said}");
    let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(
        summary["error"].as_str().unwrap().contains("in use"),
        "{out}"
    );
    let published = summary["published"].as_u64().unwrap();
    assert!((51..500).contains(&published), "{out}");
    assert!(summary["measured_s"].as_f64().unwrap() < 15.0, "{out}");
    let written = std::fs::read_to_string(directory.join("summary.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&written).unwrap(),
        summary
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn lost_connections_are_made_again_and_counted() {
    // The first three connections are cut when they publish, the later ones stay.
    let port = broker(0, |number, kind| number < 3 && kind == 3);
    let words = format!("pub -t a -c 3 -I 5 --warmup 0s -d 3s --reconnect -Q --json -p {port}");
    let (status, out, said) = attempt(&words);
    assert_eq!(status, Some(0), "{said}");
    let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(summary["connections"], 3, "{out}");
    assert_eq!(summary["reconnects"], 3, "{out}");
    let lost: u64 = summary["disconnects"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(serde_json::Value::as_u64)
        .sum();
    assert_eq!(lost, 3, "{out}");
    // The schedule went on, and all that was due is sent.
    assert_eq!(
        (&summary["published"], &summary["unsent"]),
        (&1_800.into(), &0.into()),
        "{out}"
    );
}

#[test]
fn a_limit_of_messages_is_kept_to_the_message() {
    let port = broker(0, |_, _| false);
    for (cores, clients) in [(1, 3), (2, 4)] {
        let words = format!(
            "pub -t a/%i -c {clients} --cores {cores} -I 5 -L 101 -m hello%i -Q --json -p {port}"
        );
        let (status, out, said) = attempt(&words);
        assert_eq!(status, Some(0), "{said}");
        let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&summary["published"], &summary["payload_bytes"]),
            (&101.into(), &6.into())
        );
    }
}

#[test]
fn what_the_system_does_not_allow_is_said_before_it_is_tried() {
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -n 100; exec {} conn -c 1000 -Q",
            env!("CARGO_BIN_EXE_loadgen")
        ))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("    ulimit -n 1072"), "{said}");
}

#[test]
fn the_highest_rate_is_one_that_held_though_the_first_did_not() {
    let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = relay.address().port();
    let over = AtomicBool::new(false);
    let words = format!(
        "pubsub -c 1 --find-max published_per_s<500 --rate 800 --warmup 0s -d 200ms -Q -p {port}"
    );
    let cli = cli::parse(format!("loadgen {words}").split(' ')).unwrap();
    let summary = thread::scope(|scope| {
        let run = scope.spawn(|| {
            let summary = run::verb(&cli.verb);
            over.store(true, Ordering::Release);
            summary
        });
        while !over.load(Ordering::Acquire) {
            relay.turn(Duration::from_millis(1)).unwrap();
        }
        run.join().unwrap().unwrap()
    });
    let best = knee::best(&summary.knee).expect("half of the first rate holds");
    assert!(best.rate < 500.0, "{:?}", summary.knee);
    assert_eq!(
        summary.rate,
        Some(best.rate),
        "the figures are those of the rate that held"
    );
    assert!(summary.violations.is_empty(), "{:?}", summary.violations);
}

#[test]
fn a_search_that_the_broker_s_death_ends_leaves_what_it_found() {
    let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = relay.address().port();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("knee-of-the-dead");
    let _ = std::fs::remove_dir_all(&out);
    let words = format!(
        "pubsub -c 1 --find-max p99<1s --rate 50 --warmup 0s -d 400ms -Q --json --out {} -p {port}",
        out.display()
    );
    let (code, summary, why) = thread::scope(|scope| {
        let run = scope.spawn(|| attempt(&words));
        // The first step is done and others are not: there are five at least.
        let end = Instant::now() + Duration::from_millis(1_500);
        while Instant::now() < end {
            relay.turn(Duration::from_millis(1)).unwrap();
        }
        drop(relay);
        run.join().unwrap()
    });
    assert_eq!(code, Some(1), "{why}");
    let summary: Summary = serde_json::from_str(&summary).unwrap();
    assert!(
        summary.error.is_some() && knee::best(&summary.knee).is_some(),
        "{summary:?}"
    );
    let written = std::fs::read_to_string(out.join("knee.csv")).unwrap();
    assert_eq!(written.lines().count(), 1 + summary.knee.len());
}

#[test]
fn nothing_is_not_verified() {
    let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = relay.address().port();
    let over = AtomicBool::new(false);
    let outputs = thread::scope(|scope| {
        let run = scope.spawn(|| {
            let sub = attempt(&format!("sub -t nobody -d 100ms --verify -Q -p {port}"));
            let conn = attempt(&format!(
                "conn -c 2 --hold 50ms --assert lost==0 -Q -p {port}"
            ));
            over.store(true, Ordering::Release);
            [sub, conn]
        });
        while !over.load(Ordering::Acquire) {
            relay.turn(Duration::from_millis(1)).unwrap();
        }
        run.join().unwrap()
    });
    for ((code, out, _), wanted) in outputs.iter().zip([
        "nothing could be verified",
        "lost==0: the run has no such figure",
    ]) {
        assert_eq!(*code, Some(99), "{out}");
        assert!(out.contains(wanted), "{out}");
    }
}

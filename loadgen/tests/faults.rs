//! A broker that loses, repeats, reorders and damages messages on purpose: what it did must be what is counted.

use loadgen::cli;
use loadgen::report::Summary;
use loadgen::run;
use ringmq::protocol::frame::{Cut, cut};
use ringmq::protocol::{Connack, ConnackProperties, PacketType, ReasonCode, Version, put_suback};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::thread;

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

//! `--near`: both ends of each connection on one CPU.

use loadgen::{cli, run, sys};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Accepts everybody, each from the CPU that its Client Identifier gives, and notes who is there.
fn broker(cpu_of: fn(&str) -> usize) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let present = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&present);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let all = Arc::clone(&all);
            thread::spawn(move || serve(stream.unwrap(), cpu_of, &all));
        }
    });
    (port, present)
}

fn serve(mut stream: TcpStream, cpu_of: fn(&str) -> usize, present: &Mutex<Vec<String>>) {
    // MQTT 3.1.1 §3.1: fixed header, name, level, flags, Keep Alive, and the Client Identifier.
    let mut head = [0; 14];
    if stream.read_exact(&mut head).is_err() {
        return;
    }
    let mut client_id = vec![0; head[13].into()];
    stream.read_exact(&mut client_id).unwrap();
    let client_id = String::from_utf8(client_id).unwrap();
    sys::stay_on(cpu_of(&client_id)).unwrap();
    present.lock().unwrap().push(client_id.clone());
    stream.write_all(&[0x20, 2, 0, 0]).unwrap();
    // It says nothing more.
    if stream.read(&mut [0]).unwrap_or(0) == 0 {
        present.lock().unwrap().retain(|other| *other != client_id);
    }
}

fn connect_eight(port: u16) -> Result<u64, String> {
    let port = port.to_string();
    let words = [
        "loadgen", "conn", "-c", "8", "-p", &port, "--hold", "300ms", "--near", "-Q",
    ];
    let cli = cli::parse(words).unwrap();
    run::verb(&cli.verb).map(|summary| summary.connections)
}

/// Names alternate: `…-c0` and `…-c1.1` are here, `…-c1` and `…-c0.1` elsewhere.
fn alternating(client_id: &str) -> usize {
    let sum: usize = client_id
        .bytes()
        .filter(u8::is_ascii_digit)
        .map(usize::from)
        .sum();
    let cpus = sys::cpus().unwrap();
    cpus[sum % 2 % cpus.len()]
}

fn elsewhere(_: &str) -> usize {
    *sys::cpus().unwrap().last().unwrap()
}

#[test]
fn a_client_comes_again_until_both_its_ends_are_on_one_cpu() {
    let cpus = sys::cpus().unwrap();
    if cpus.len() < 2 {
        eprintln!("needs two CPUs");
        return;
    }
    let (port, present) = broker(alternating);
    let watch = thread::spawn(move || {
        // While they are held.
        let begun = std::time::Instant::now();
        loop {
            let now = present.lock().unwrap().clone();
            let near = now.iter().filter(|id| alternating(id) == cpus[0]).count();
            if near == 8 && now.len() == 8 || begun.elapsed().as_secs() > 10 {
                return now;
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    assert_eq!(connect_eight(port), Ok(8));
    let mut present = watch.join().unwrap();
    present.sort();
    assert_eq!(present.len(), 8, "{present:?}");
    assert!(present.iter().any(|id| id.ends_with(".1")), "{present:?}");
    assert!(present.iter().any(|id| !id.contains('.')), "{present:?}");

    let (port, _) = broker(elsewhere);
    let error = connect_eight(port).unwrap_err();
    assert!(error.contains("never answered from CPU"), "{error}");
    // It names the identifier that was refused, not the first one.
    assert!(error.contains(".100 (before CONNACK)"), "{error}");
}

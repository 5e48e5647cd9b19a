//! What TLS and WebSocket have to bear beside what MQTT has (`tests/abuse.rs`): each input ends its own connection
//! at once, and others are served.

use crate::client::{ARRIVES, Client, Kind, socket};
use crate::outside::program;
use crate::server::{Server, certificates};
use crate::{UPGRADE, answer, every_kind, text};
use ringmq::config::limits::Limits;
use ringmq::net::transport::frame::{Opcode, put_frame};
use ringmq::net::transport::tls_files::{ClientTlsSpec, client_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A broker that would wait for longer than the tests do, and lets in few at a time.
fn patient(name: &str) -> Server {
    let limits = Limits {
        connect_timeout_ms: 300_000,
        connections_max: 20,
        ..Limits::default()
    };
    Server::with_limits(every_kind(name), limits)
}

fn assert_serves(server: &Server) {
    for (name, kind) in [
        ("tcp", Kind::Plain),
        ("tls", Kind::Tls),
        ("wss", Kind::Both),
    ] {
        let mut client = Client::connect(&server.bind(name), &kind.route(), "healthy");
        client.subscribe("healthy");
        client.publish("healthy", b"x");
        assert_eq!(client.message().1, b"x");
    }
}

/// The first flight of a client.
fn client_hello() -> Vec<u8> {
    let mut hello = Vec::new();
    let count = connection().write_tls(&mut hello);
    assert!(count.is_ok_and(|count| count > 100));
    hello
}

fn connection() -> ClientConnection {
    let spec = ClientTlsSpec {
        ca_files: vec![certificates().ca.clone()],
        ..ClientTlsSpec::default()
    };
    let config = client_config(&spec).expect("the files are right");
    let name = ServerName::try_from("localhost").expect("it is a name");
    ClientConnection::new(config, name).expect("the configuration works")
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u16).to_be_bytes();
    [&[kind, 3, 3][..], &len, content].concat()
}

#[test]
fn what_is_no_handshake_ends_with_an_alert() {
    const CIPHER: u8 = 20;
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    const DATA: u8 = 23;
    let server = patient("records");
    let hello = client_hello();
    let mut garbled = hello.clone();
    for byte in &mut garbled[5 + 4 + 2 + 32..] {
        *byte ^= 0x55;
    }
    let rows = [
        ("a record of 64 KiB", vec![HANDSHAKE, 3, 1, 0xFF, 0xFF, 1]),
        (
            "a record of a byte too many",
            vec![HANDSHAKE, 3, 3, 0x48, 0x01, 1],
        ),
        (
            "a message of 16 MiB",
            record(HANDSHAKE, &[1, 0xFF, 0xFF, 0xFF]),
        ),
        ("a type that does not exist", record(99, b"?")),
        ("data before keys", record(DATA, b"\x10\x0c\x00\x04MQTT")),
        ("an empty message", record(HANDSHAKE, &[])),
        (
            "ServerHello from a client",
            record(HANDSHAKE, &[2, 0, 0, 2, 3, 3]),
        ),
        (
            "ChangeCipherSpec without end",
            record(CIPHER, &[1]).repeat(1_000),
        ),
        (
            "warnings without end",
            record(ALERT, &[1, 90]).repeat(1_000),
        ),
        (
            "SSL 2",
            b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10".to_vec(),
        ),
        ("a ClientHello of nonsense", garbled),
        ("two of them", [&hello[..], &hello].concat()),
        (
            "data behind it",
            [&hello[..], &record(DATA, &[7; 100])].concat(),
        ),
    ];
    for (what, bytes) in rows {
        for name in ["tls", "wss"] {
            let said = answer(&server.bind(name), &bytes);
            // The last record may be sealed, if keys were agreed on before.
            assert!(
                said.is_empty() || said.contains(&ALERT) || said.contains(&DATA),
                "{what}"
            );
        }
    }
    // A fatal alert is the end, and not answered.
    let said = answer(&server.bind("tls"), &record(ALERT, &[2, 40]));
    assert!(said.is_empty(), "{said:x?}");
    assert_serves(&server);
}

/// Twenty connections are all there may be: each that goes gives its place back.
#[test]
fn whoever_leaves_in_the_middle_leaves_nothing() {
    let server = patient("leaves");
    let hello = client_hello();
    let upgrade = format!("{UPGRADE}\r\n");
    for n in 0..200 {
        let (name, bytes) = [("tls", &hello[..]), ("ws", upgrade.as_bytes())][n % 2];
        let mut socket = socket(&server.bind(name));
        socket
            .write_all(&bytes[..n * bytes.len() / 199])
            .expect("the broker reads");
        drop(socket);
    }
    // The broker may not have seen yet that the last ones are gone.
    let deadline = Instant::now() + ARRIVES;
    while !Client::is_let_in(&server.bind("wss"), &Kind::Both.route(), "healthy") {
        assert!(Instant::now() < deadline, "all places are taken");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn new_keys_without_end_are_given_or_refused() {
    let server = patient("keys");
    let stream = TcpStream::connect(server.address("tls")).expect("the broker listens");
    stream.set_read_timeout(Some(ARRIVES)).expect("not zero");
    let mut tls = StreamOwned::new(connection(), stream);
    tls.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01k")
        .expect("the broker reads");
    let mut connack = [0; 4];
    tls.read_exact(&mut connack).expect("it is let in");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let mut is_open = true;
    for _ in 0..5_000 {
        tls.conn.refresh_traffic_keys().expect("TLS 1.3");
        is_open &= tls.flush().is_ok();
    }
    if is_open {
        let mut pong = [0; 2];
        let answered = tls
            .write_all(&[0xc0, 0])
            .and_then(|()| tls.read_exact(&mut pong));
        assert!(answered.is_err() || pong == [0xd0, 0]);
    }
    assert_serves(&server);
}

/// TLS 1.2 lets a client begin again on an open connection, which costs the server more than the client.
#[test]
fn renegotiation_is_refused() {
    let Some(openssl) = program("openssl") else {
        return;
    };
    let server = patient("again");
    let address = server.address("tls").to_string();
    let mut child = Command::new(openssl)
        .args(["s_client", "-connect", &address, "-tls1_2"])
        .args(["-CAfile", text(&certificates().ca)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is installed");
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(b"R\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(
        said.contains("no renegotiation") || said.contains("error:") || said.contains("errno"),
        "{said}"
    );
    drop(stdin);
    assert_serves(&server);
}

#[test]
fn frames_that_no_client_sends_are_answered_with_a_code() {
    let server = patient("odd");
    let masked = |first: u8, payload: &[u8]| {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    };
    let claims = |len: u64| [&[0x82, 0xFF][..], &len.to_be_bytes(), &[0; 4]].concat();
    let publish = b"\x30\xff\xff\xff\x7f";
    let rows = [
        ("a frame of 2^63 bytes", claims(1 << 63), Some(1002)),
        ("of 100, in eight bytes", claims(100), Some(1002)),
        (
            "of 100, in two bytes",
            vec![0x82, 0xFE, 0, 100, 0, 0, 0, 0],
            Some(1002),
        ),
        ("continues nothing", masked(0x80, b"x"), Some(1002)),
        (
            "a message within another",
            [masked(0x02, b""), masked(0x82, b"")].concat(),
            Some(1002),
        ),
        ("a reserved opcode", masked(0x83, b""), Some(1002)),
        ("a reserved control opcode", masked(0x8B, b""), Some(1002)),
        ("a Ping of 126 bytes", vec![0x89, 0xFE, 0, 126], Some(1002)),
        (
            "a code that must not be sent",
            masked(0x88, &[3, 0xED]),
            Some(1002),
        ),
        ("a code of nobody", masked(0x88, &[0xFF, 0xFF]), Some(1002)),
        (
            "a reason that is no text",
            masked(0x88, &[3, 0xE8, 0xFF]),
            Some(1007),
        ),
        ("HTTP once more", UPGRADE.into(), Some(1002)),
        ("what is no MQTT", masked(0x82, b"GET /"), Some(1000)),
        (
            "a PUBLISH in the place of CONNECT, huge",
            [claims(1 << 62), publish.to_vec()].concat(),
            Some(1000),
        ),
        (
            "a CONNECT of 256 MiB",
            [claims(1 << 40), b"\x10\xff\xff\xff\x7f".to_vec()].concat(),
            Some(1000),
        ),
    ];
    for (what, frames, code) in rows {
        let bytes = [UPGRADE.as_bytes(), b"\r\n", &frames].concat();
        let said = answer(&server.bind("ws"), &bytes);
        let close = said
            .windows(4)
            .rposition(|four| four[..2] == [0x88, 2])
            .map(|at| u16::from_be_bytes([said[at + 2], said[at + 3]]));
        assert_eq!(close, code, "{what}: {said:x?}");
    }
    assert_serves(&server);
}

/// Work for nothing: what is empty is read in linear time, and others are served meanwhile.
#[test]
fn empty_frames_without_end_are_borne() {
    let server = patient("empty");
    let mut client = Client::connect(&server.bind("ws"), &Kind::WebSocket.route(), "empty");
    client.subscribe("empty");
    let mut frames = vec![0x02, 0x80, 0, 0, 0, 0];
    frames.extend([0x00, 0x80, 0, 0, 0, 0].repeat(100_000));
    frames.extend([0x80, 0x80, 0, 0, 0, 0]);
    // A Pong that nobody asked for.
    frames.extend([0x8A, 0x80, 0, 0, 0, 0].repeat(10_000));
    for byte in b"\x30\x08\x00\x05empty!" {
        put_frame(
            &mut frames,
            Opcode::Binary,
            Some([9, 8, 7, 6]),
            [&[*byte][..]],
        );
    }
    client.socket.write_all(&frames).expect("the broker reads");
    assert_serves(&server);
    assert_eq!(client.message().1, b"!");
}

//! TLS, WebSocket, unix sockets and PROXY headers, against a broker with two cores and with outside peers:
//! mosquitto's clients, openssl, paho-mqtt and MQTT.js.
//!
//! Without one of them its tests say so on stderr and pass; with `RINGMQ_TEST_REQUIRE_INTEROP=1` they fail.

#[path = "transport/abuse.rs"]
mod abuse;
#[path = "transport/browser.rs"]
mod browser;
#[path = "../loadgen/tests/common/chromium.rs"]
#[allow(dead_code, reason = "loadgen's tests use the rest")]
mod chromium;
#[path = "transport/client.rs"]
mod client;
#[path = "interop/outside.rs"]
mod outside;
#[path = "transport/server.rs"]
mod server;

use client::{ARRIVES, Client, Kind, socket};
use outside::{Outside, program};
use ringmq::config::limits::Limits;
use ringmq::config::listener::{
    Bind, CertificateName, ClientCertificate, ListenerSpec, ProxySpec, TlsSpec, TlsVersion,
    WebSocketSpec,
};
use ringmq::net::transport::Heard;
use ringmq::net::transport::frame::{Opcode, put_frame};
use ringmq::net::transport::tls_files::ClientTlsSpec;
use server::{Pair, Server, certificates, dir, listener, tls};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const KINDS: [(&str, Kind); 5] = [
    ("tcp", Kind::Plain),
    ("tls", Kind::Tls),
    ("ws", Kind::WebSocket),
    ("wss", Kind::Both),
    ("unix", Kind::Plain),
];

fn with_tls(name: &str, tls: TlsSpec) -> ListenerSpec {
    ListenerSpec {
        tls: Some(tls),
        ..listener(name)
    }
}

fn with_websocket(name: &str, websocket: WebSocketSpec) -> ListenerSpec {
    ListenerSpec {
        websocket: Some(websocket),
        ..listener(name)
    }
}

fn with_proxy(name: &str) -> ListenerSpec {
    ListenerSpec {
        proxy: Some(ProxySpec {
            trusted: vec!["127.0.0.1".parse().expect("it is a network")],
        }),
        ..listener(name)
    }
}

/// A listener for each of [`KINDS`]; `name` tells the unix sockets of the tests apart.
fn every_kind(name: &str) -> Vec<ListenerSpec> {
    vec![
        listener("tcp"),
        with_tls("tls", tls()),
        with_websocket("ws", WebSocketSpec::default()),
        ListenerSpec {
            websocket: Some(WebSocketSpec::default()),
            ..with_tls("wss", tls())
        },
        ListenerSpec {
            bind: Bind::Unix {
                path: dir().join(name),
                mode: 0o600,
            },
            ..listener("unix")
        },
    ]
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

#[test]
fn messages_go_from_every_transport_to_every_other_on_both_cores() {
    let server = Server::start(every_kind("all"));
    // Enough of them that some move to the other core.
    let mut clients: Vec<_> = (0..6)
        .flat_map(|n| KINDS.map(|(name, kind)| (n, name, kind)))
        .map(|(n, name, kind)| {
            let mut client = Client::connect(
                &server.bind(name),
                &kind.route(),
                &format!("all-{name}-{n}"),
            );
            client.subscribe("all/#");
            client
        })
        .collect();
    let handed_over: u64 = server
        .cores()
        .counters()
        .iter()
        .map(|counters| counters.handed_over.get())
        .sum();
    assert!(handed_over >= 5, "{handed_over}");
    let large: Vec<u8> = (0..3 << 20).map(|n| (n % 251) as u8).collect();
    for at in 0..KINDS.len() {
        for payload in [&b""[..], b"x", &large[..125], &large[..70_000], &large] {
            clients[at].publish("all/t", payload);
            for client in &mut clients {
                let (topic, came) = client.message();
                assert!(
                    topic == "all/t" && came == payload,
                    "{} bytes",
                    payload.len()
                );
            }
        }
    }
}

#[test]
fn single_bytes_are_put_together_again() {
    let server = Server::start(every_kind("dribble"));
    for (name, kind) in KINDS {
        // The upgrade request in single bytes as well.
        let mut socket = socket(&server.bind(name));
        socket
            .set_write_timeout(Some(ARRIVES))
            .expect("it is a socket");
        socket.flush().expect("there is nothing to flush");
        let mut client = Client::through(socket, &kind.route());
        client.dribbles = true;
        client.hello(&format!("dribble-{name}"));
        client.subscribe("dribble");
        client.publish("dribble", &[7; 300]);
        assert_eq!(client.message().1, [7; 300], "{name}");
    }
}

#[test]
fn a_slow_reader_delays_nobody_and_gets_what_is_owed() {
    let server = Server::start(every_kind("slow"));
    for (name, kind) in KINDS {
        let mut slow = Client::connect(&server.bind(name), &kind.route(), &format!("slow-{name}"));
        slow.subscribe(&format!("slow/{name}"));
        let mut other =
            Client::connect(&server.bind(name), &kind.route(), &format!("other-{name}"));
        other.subscribe("other");
        for n in 0..20_u8 {
            other.publish(&format!("slow/{name}"), &[n; 100_000]);
            other.publish("other", &[n]);
            assert_eq!(other.message().1, [n]);
        }
        // What was dropped, as QoS 0 may be, was dropped whole.
        let mut last = None;
        other.publish(&format!("slow/{name}"), &[20]);
        while last != Some(20) {
            let (_, payload) = slow.message();
            assert!(payload.iter().all(|byte| *byte == payload[0]) && last < Some(payload[0]));
            last = Some(payload[0]);
            if last < Some(20) {
                other.publish(&format!("slow/{name}"), &[20]);
            }
        }
    }
}

#[test]
fn the_end_is_said_in_the_transport_s_own_way() {
    let server = Server::start(every_kind("end"));
    for (name, kind) in [
        ("tls", Kind::Tls),
        ("ws", Kind::WebSocket),
        ("wss", Kind::Both),
    ] {
        let mut client = Client::connect(&server.bind(name), &kind.route(), &format!("end-{name}"));
        client.send(0xE0, &[]);
        assert_eq!(client.packet(), None);
        assert_eq!(client.end, Some(Ok(Heard::Closed)), "{name}");
        // A broken packet, and a second connection with the same identifier.
        let mut client = Client::connect(&server.bind(name), &kind.route(), &format!("end-{name}"));
        client.send(0xF0, &[]);
        assert_eq!(client.packet(), None);
        assert_eq!(client.end, Some(Ok(Heard::Closed)), "{name}");
        let mut first = Client::connect(&server.bind(name), &kind.route(), &format!("end-{name}"));
        let mut second = Client::connect(&server.bind(name), &kind.route(), &format!("end-{name}"));
        assert_eq!(first.packet(), None);
        assert_eq!(first.end, Some(Ok(Heard::Closed)), "{name}");
        second.subscribe("x");
    }
    let mut clients = [
        ("tls", Kind::Tls),
        ("ws", Kind::WebSocket),
        ("wss", Kind::Both),
    ]
    .map(|(name, kind)| {
        Client::connect(&server.bind(name), &kind.route(), &format!("stop-{name}"))
    });
    drop(server);
    for client in &mut clients {
        assert_eq!(client.packet(), None);
        assert_eq!(client.end, Some(Ok(Heard::Closed)));
    }
}

#[test]
fn the_time_to_connect_covers_the_transports() {
    let limits = Limits {
        connect_timeout_ms: 3_000,
        ..Limits::default()
    };
    let mut listeners = every_kind("time");
    listeners.push(with_proxy("proxy"));
    let server = Server::with_limits(listeners, limits);
    let begin = |name: &str, bytes: &[u8]| {
        let mut socket = socket(&server.bind(name));
        socket.write_all(bytes).expect("the broker reads");
        socket
    };
    let mut waiting = vec![
        begin("tls", &[]),
        begin("tls", &[0x16, 3, 1, 2]),
        begin("tls", &[0x16, 3, 1, 1, 0, 1, 0, 0, 0xFC, 3, 3]),
        begin("ws", b"GET /mqtt HTTP/1.1\r\nHost: x\r\n"),
        begin("wss", &[]),
        begin("proxy", b"PROXY TCP4 1.2.3.4 "),
        begin("proxy", b"PROXY UNKNOWN\r\n"),
    ];
    let opened = [
        ("tls", Kind::Tls),
        ("ws", Kind::WebSocket),
        ("wss", Kind::Both),
    ]
    .map(|(name, kind)| Client::open(&server.bind(name), &kind.route()));
    waiting.extend(opened.into_iter().map(|client| client.socket));
    let since = Instant::now();
    for socket in &mut waiting {
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).expect("it ends");
    }
    assert!(since.elapsed() < ARRIVES);
    // Others are served.
    Client::connect(&server.bind("wss"), &Kind::Both.route(), "time");
}

// WebSocket.

/// What the broker answers to bytes, until it closes.
fn answer(bind: &Bind, bytes: &[u8]) -> Vec<u8> {
    let mut socket = socket(bind);
    socket.write_all(bytes).expect("the broker reads");
    let mut answer = Vec::new();
    // A reset after the answer: it did not want the rest.
    let _ = socket.read_to_end(&mut answer);
    answer
}

const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n";

#[test]
fn requests_that_are_none_are_refused_with_a_status() {
    let server = Server::start(vec![
        with_websocket(
            "ws",
            WebSocketSpec {
                paths: vec!["/mqtt".into()],
                origins: vec!["https://example.org".into()],
                trusted_proxies: Vec::new(),
            },
        ),
        listener("tcp"),
    ]);
    let bind = server.bind("ws");
    let good = format!("{UPGRADE}\r\n");
    for (request, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "HTTP/1.1 404 ",
        ),
        (
            "GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "HTTP/1.1 426 ",
        ),
        (good.replace("GET", "POST"), "HTTP/1.1 405 "),
        (good.replace("Version: 13", "Version: 12"), "HTTP/1.1 426 "),
        (
            good.replace("Protocol: mqtt", "Protocol: chat"),
            "HTTP/1.1 400 ",
        ),
        (
            good.replace("Host: x", "Host: x\r\nOrigin: https://evil.org"),
            "HTTP/1.1 403 ",
        ),
        (
            good.replace("Host: x", &format!("Host: x\r\nA: {}", "x".repeat(1 << 20))),
            "HTTP/1.1 431 ",
        ),
        ("\u{10}\u{c}".to_owned(), "HTTP/1.1 400 "),
    ] {
        let answer = answer(&bind, request.as_bytes());
        let shown = String::from_utf8_lossy(&answer);
        assert!(shown.starts_with(expected), "{expected}: {shown}");
    }
    // HTTP on the plain port, and an allowed Origin.
    assert!(answer(&server.bind("tcp"), good.as_bytes()).is_empty());
    let mut socket = socket(&bind);
    let request = good.replace("Host: x", "Host: x\r\nOrigin: https://example.org");
    socket
        .write_all(request.as_bytes())
        .expect("the broker reads");
    let mut head = [0; 12];
    socket.read_exact(&mut head).expect("it is granted");
    assert_eq!(&head, b"HTTP/1.1 101");
    server.logs(&["refused: the Origin is not allowed"]);
}

#[test]
fn frames_that_break_the_protocol_are_answered_with_a_code() {
    let server = Server::start(every_kind("frames"));
    let bind = server.bind("ws");
    let masked = |first: u8, payload: &[u8]| {
        let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    };
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01w";
    let mut fragmented = masked(0x02, &connect[..4]);
    fragmented.extend(masked(0x89, b"?"));
    fragmented.extend(masked(0x00, &connect[4..9]));
    fragmented.extend(masked(0x80, &connect[9..]));
    fragmented.extend(masked(0x82, b"\xc0"));
    fragmented.extend(masked(0x82, b"\x00\xe0\x00"));
    let good = format!("{UPGRADE}\r\n");
    for (frames, expected) in [
        // A text frame; one without a mask; a fragmented control frame; a close without a code, and with half of one.
        (masked(0x81, connect), &[0x88, 2, 0x03, 0xEB][..]),
        (vec![0x82, 0], &[0x88, 2, 0x03, 0xEA]),
        (masked(0x09, b""), &[0x88, 2, 0x03, 0xEA]),
        (masked(0x88, b""), &[0x88, 0]),
        (masked(0x88, b"\x03"), &[0x88, 2, 0x03, 0xEA]),
        (masked(0x88, b"\x03\xe8bye"), &[0x88, 2, 0x03, 0xE8]),
        (masked(0xC2, connect), &[0x88, 2, 0x03, 0xEA]),
        (
            fragmented,
            &[
                0x8A, 1, b'?', 0x82, 6, 0x20, 2, 0, 0, 0xD0, 0, 0x88, 2, 0x03, 0xE8,
            ],
        ),
    ] {
        let bytes = [good.as_bytes(), &frames].concat();
        let answer = answer(&bind, &bytes);
        let head = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("it is granted");
        assert_eq!(&answer[head + 4..], expected, "{frames:x?}");
    }
    // A page's text frame after CONNECT ends the session, and the log says why.
    let mut client = Client::connect(&bind, &Kind::WebSocket.route(), "texter");
    client
        .socket
        .write_all(&masked(0x81, b"hello"))
        .expect("the broker reads");
    assert_eq!(client.packet(), None);
    server.logs(&["Client texter ", "disconnected: a text frame"]);
}

#[test]
fn frames_of_one_byte_and_of_many_packets_are_the_same() {
    let server = Server::start(every_kind("cut"));
    let mut client = Client::open(&server.bind("ws"), &Kind::WebSocket.route());
    for byte in b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c" {
        client.send_bytes(&[*byte]);
    }
    assert_eq!(client.packet(), Some((0x20, vec![0, 0])));
    client.subscribe("c");
    client.send_bytes(b"\x30\x04\x00\x01c1\x30\x04\x00\x01c2");
    assert_eq!(
        (client.message().1, client.message().1),
        (b"1".to_vec(), b"2".to_vec())
    );
    // Pings without end, unread answers: memory is bounded, and the connection lives.
    let mut pings = Vec::new();
    for _ in 0..10_000 {
        put_frame(
            &mut pings,
            Opcode::Ping,
            Some([1, 2, 3, 4]),
            [&[7; 100][..]],
        );
    }
    client.socket.write_all(&pings).expect("the broker reads");
    client.publish("c", b"3");
    assert_eq!(client.message().1, b"3");
}

#[test]
fn the_log_names_the_client_behind_the_proxies() {
    let server = Server::start(vec![
        with_websocket(
            "ws",
            WebSocketSpec {
                trusted_proxies: vec!["127.0.0.0/8".parse().expect("it is a network")],
                ..WebSocketSpec::default()
            },
        ),
        with_websocket("untrusting", WebSocketSpec::default()),
        with_proxy("proxy"),
        ListenerSpec {
            tls: Some(tls()),
            websocket: Some(WebSocketSpec::default()),
            ..with_proxy("proxy-wss")
        },
        ListenerSpec {
            proxy: Some(ProxySpec {
                trusted: vec!["10.0.0.0/8".parse().expect("it is a network")],
            }),
            ..listener("strangers")
        },
    ]);
    let upgrade = format!("{UPGRADE}X-Forwarded-For: 203.0.113.1, 198.51.100.7, 127.0.0.9\r\n\r\n");
    let mut frame = Vec::new();
    let connect = |client_id: u8| {
        [
            b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01",
            &[client_id][..],
        ]
        .concat()
    };
    put_frame(
        &mut frame,
        Opcode::Binary,
        Some([1, 2, 3, 4]),
        [&connect(b'f')[..]],
    );
    let _kept: Vec<_> = ["ws", "untrusting"]
        .map(|name| {
            let mut socket = socket(&server.bind(name));
            socket
                .write_all(upgrade.as_bytes())
                .expect("the broker reads");
            socket.write_all(&frame).expect("the broker reads");
            let from = if name == "ws" {
                "198.51.100.7"
            } else {
                "127.0.0.1"
            };
            server.logs(&["New client connected from ", from, " as f "]);
            socket
        })
        .into();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend([192, 0, 2, 5, 10, 0, 0, 1, 0x1F, 0x90, 7, 0x5B]);
    for header in [&b"PROXY TCP4 192.0.2.5 10.0.0.1 8080 1883\r\n"[..], &header] {
        let mut socket = socket(&server.bind("proxy"));
        socket
            .write_all(&[header, &connect(b'p')].concat())
            .expect("the broker reads");
        server.logs(&["New client connected from 192.0.2.5:8080 as p "]);
        let mut through = crate::socket(&server.bind("proxy-wss"));
        through.write_all(header).expect("the broker reads");
        Client::through(through, &Kind::Both.route()).hello("q");
        server.logs(&["New client connected from 192.0.2.5:8080 as q "]);
    }
    // Without a header, with one that does not end, and from somebody who is not trusted.
    assert!(answer(&server.bind("proxy"), &connect(b'x')).is_empty());
    assert!(
        answer(
            &server.bind("proxy"),
            &[&b"PROXY "[..], &[b'x'; 200]].concat()
        )
        .is_empty()
    );
    assert!(
        answer(
            &server.bind("strangers"),
            b"PROXY TCP4 192.0.2.5 10.0.0.1 8080 1883\r\n"
        )
        .is_empty()
    );
    server.logs(&["refused: no PROXY header"]);
    server.logs(&["refused: a PROXY line does not end"]);
}

/// Behind a proxy the lists of a listener mean the clients that it names.
#[test]
fn lists_hold_for_the_client_behind_the_proxy() {
    let networks = |list: &[&str]| {
        let networks = list.iter().map(|text| text.parse());
        networks
            .map(|network| network.expect("it is a network"))
            .collect()
    };
    let lists = |listener: ListenerSpec| ListenerSpec {
        allow: networks(&["192.0.2.0/24", "198.51.100.0/24"]),
        deny: networks(&["192.0.2.66/32"]),
        ..listener
    };
    let websocket = WebSocketSpec {
        trusted_proxies: networks(&["127.0.0.1/32"]),
        ..WebSocketSpec::default()
    };
    let server = Server::start(vec![
        lists(with_proxy("proxy")),
        lists(with_websocket("ws", websocket)),
        lists(with_websocket("direct", WebSocketSpec::default())),
    ]);
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01l";
    for (address, is_in) in [
        ("192.0.2.5", true),
        ("192.0.2.66", false),
        ("203.0.113.1", false),
    ] {
        let line = format!("PROXY TCP4 {address} 10.0.0.1 8080 1883\r\n");
        let mut proxied = socket(&server.bind("proxy"));
        proxied
            .write_all(&[line.as_bytes(), connect].concat())
            .expect("the broker reads");
        let mut connack = [0; 4];
        let read = proxied.read_exact(&mut connack);
        assert_eq!(read.is_ok(), is_in, "{address}");

        let mut frame = format!("{UPGRADE}X-Forwarded-For: {address}\r\n\r\n").into_bytes();
        put_frame(
            &mut frame,
            Opcode::Binary,
            Some([1, 2, 3, 4]),
            [&connect[..]],
        );
        let mut upgraded = socket(&server.bind("ws"));
        upgraded.write_all(&frame).expect("the broker reads");
        let mut all = Vec::new();
        let mut bytes = [0; 1024];
        // A frame of four bytes, CONNACK: who is not let in does not get it.
        while let Ok(count @ 1..) = upgraded.read(&mut bytes) {
            all.extend_from_slice(&bytes[..count]);
            if all.ends_with(&[0x20, 2, 0, 0]) {
                break;
            }
        }
        assert_eq!(all.ends_with(&[0x20, 2, 0, 0]), is_in, "{address}");
    }
    // Who does not come through a proxy is judged at once.
    let upgrade = format!("{UPGRADE}X-Forwarded-For: 192.0.2.5\r\n\r\n");
    assert!(answer(&server.bind("direct"), upgrade.as_bytes()).is_empty());
    server.logs(&["the listener's lists do not let its address in"]);
}

// Certificates.

#[test]
fn client_certificates_are_checked_and_name_the_user() {
    let all = certificates();
    let asks = |client_certificate, crl: bool, username_from| TlsSpec {
        client_certificate,
        client_ca: vec![all.ca.clone()],
        crl: if crl {
            vec![all.crl.clone()]
        } else {
            Vec::new()
        },
        username_from,
        ..tls()
    };
    let server = Server::start(vec![
        with_tls(
            "required",
            asks(
                ClientCertificate::Required,
                true,
                CertificateName::CommonName,
            ),
        ),
        with_tls(
            "optional",
            asks(
                ClientCertificate::Optional,
                false,
                CertificateName::DistinguishedName,
            ),
        ),
    ]);
    let outcome = |name: &str, pair: Option<&Pair>, version| {
        let tls = ClientTlsSpec {
            ca_files: vec![all.ca.clone()],
            certificate: pair.map(Pair::spec),
            version: Some(version),
            ..ClientTlsSpec::default()
        };
        Client::is_let_in(&server.bind(name), &Kind::Tls.route_with(&tls), "certified")
    };
    for version in [TlsVersion::V12, TlsVersion::V13] {
        assert!(outcome("required", Some(&all.client), version));
        server.logs(&["as certified (p4, c1, k0, u'joe')"]);
        for (pair, why) in [
            (None, "refused: the client shows no certificate"),
            (Some(&all.expired), "refused: the certificate has expired"),
            (Some(&all.revoked), "refused: the certificate is revoked"),
            (
                Some(&all.stranger),
                "refused: the certificate is not signed by a known authority",
            ),
            (
                Some(&all.server),
                "refused: the certificate is for another purpose",
            ),
        ] {
            assert!(!outcome("required", pair, version), "{why}");
            server.logs(&[why]);
        }
        assert!(outcome("optional", None, version));
        server.logs(&["as certified (p4, c1, k0)"]);
        assert!(
            outcome("optional", Some(&all.revoked), version),
            "without a list nobody is revoked"
        );
        server.logs(&["u'CN=revoked,O=Plant'"]);
        assert!(!outcome("optional", Some(&all.stranger), version));
    }
}

/// Runs a program to its end and returns what it said.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .expect("it can be started");
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn ringmq_pub_and_sub_check_the_server() {
    let all = certificates();
    let with = |pair: &Pair| TlsSpec {
        certificates: vec![pair.spec()],
        ..TlsSpec::default()
    };
    let mut listeners = every_kind("tools");
    listeners.push(with_tls("expired", with(&all.expired_server)));
    listeners.push(with_tls("other", with(&all.other_server)));
    let server = Server::start(listeners);
    let publish = |args: &[&str]| {
        run(Command::new(env!("CARGO_BIN_EXE_ringmq"))
            .args(["pub", "-t", "t", "-m", "x", "-r", "-q", "1"])
            .args(args))
    };
    let url = |scheme: &str, name: &str| format!("{scheme}://localhost:{}", server.port(name));
    let (ca, other_ca) = (text(&all.ca), text(&all.other_ca));
    for (args, expected) in [
        (vec!["-L", &url("mqtts", "tls"), "--cafile", ca], None),
        (
            vec![
                "-L",
                &url("mqtts", "tls"),
                "--cafile",
                ca,
                "--tls-version",
                "tlsv1.2",
                "--tls-alpn",
                "mqtt",
            ],
            None,
        ),
        (vec!["-L", &url("mqtts", "tls"), "--insecure"], None),
        (vec!["-L", &url("wss", "wss"), "--cafile", ca], None),
        (vec!["-L", &url("ws", "ws")], None),
        (
            vec!["-h", "localhost", "-p", &server.port("tls"), "--cafile", ca],
            None,
        ),
        (vec!["--unix", text(&dir().join("tools"))], None),
        (
            vec!["-L", &format!("unix://{}", text(&dir().join("tools")))],
            None,
        ),
        (
            vec!["-L", &url("mqtts", "other"), "--cafile", ca, "--insecure"],
            None,
        ),
        (
            vec!["-L", &url("mqtts", "tls"), "--cafile", other_ca],
            Some("not signed by a known authority"),
        ),
        (
            vec![
                "-L",
                &url("mqtts", "tls"),
                "--cafile",
                other_ca,
                "--insecure",
            ],
            Some("not signed by a known authority"),
        ),
        (
            vec!["-L", &url("mqtts", "expired"), "--cafile", ca],
            Some("has expired"),
        ),
        (
            vec!["-L", &url("mqtts", "other"), "--cafile", ca],
            Some("not valid for the server's name"),
        ),
        (
            vec!["-L", &url("mqtts", "tls"), "--cafile", "/nowhere"],
            Some("/nowhere: cannot be read"),
        ),
        (
            vec!["-L", &url("mqtts", "tcp"), "--cafile", ca],
            Some("closed the connection during the handshake"),
        ),
        (
            vec!["-L", &url("ws", "tcp")],
            Some("closed the connection during the handshake"),
        ),
        (vec!["-L", &url("mqtt", "tls")], Some("no MQTT came")),
        (
            vec![
                "-L",
                &url("mqtts", "tls"),
                "--cafile",
                ca,
                "--tls-alpn",
                "h2",
            ],
            Some("no application protocol"),
        ),
    ] {
        let (status, said) = publish(&args);
        match expected {
            None => assert_eq!((status, said.as_str()), (Some(0), ""), "{args:?}"),
            Some(what) => assert!(status != Some(0) && said.contains(what), "{args:?}: {said}"),
        }
    }
    let (status, said) = run(Command::new(env!("CARGO_BIN_EXE_ringmq")).args([
        "sub",
        "-L",
        &url("wss", "wss"),
        "--cafile",
        ca,
        "-t",
        "t",
        "-C",
        "1",
        "-W",
        "60",
    ]));
    assert_eq!((status, said.as_str()), (Some(0), "x\n"));
}

#[test]
fn mosquitto_s_clients_speak_tls_and_unix() {
    let (Some(publisher), Some(subscriber)) = (program("mosquitto_pub"), program("mosquitto_sub"))
    else {
        return;
    };
    let all = certificates();
    let mut listeners = every_kind("mosquitto");
    listeners.push(with_tls(
        "required",
        TlsSpec {
            client_certificate: ClientCertificate::Required,
            client_ca: vec![all.ca.clone()],
            crl: vec![all.crl.clone()],
            username_from: CertificateName::CommonName,
            ..tls()
        },
    ));
    let server = Server::start(listeners);
    let (ca, tls_port, required) = (text(&all.ca), server.port("tls"), server.port("required"));
    let at = |port: &str| -> Vec<String> {
        ["-h", "localhost", "-p", port, "--cafile", ca]
            .map(Into::into)
            .to_vec()
    };
    let shows = |pair: &Pair| -> Vec<String> {
        let pair = ["--cert", text(&pair.certificate), "--key", text(&pair.key)];
        [at(&required), pair.map(Into::into).to_vec()].concat()
    };
    let more = |args: Vec<String>, more: &[&str]| -> Vec<String> {
        args.into_iter()
            .chain(more.iter().map(ToString::to_string))
            .collect()
    };
    let publish = |args: &[String]| {
        run(Command::new(&publisher)
            .args(args)
            .args(["-t", "t", "-m", "hello", "-q", "2", "-r"]))
    };
    for args in [
        at(&tls_port),
        more(at(&tls_port), &["--tls-version", "tlsv1.2"]),
        more(
            at(&tls_port),
            &["--tls-version", "tlsv1.3", "--tls-alpn", "mqtt"],
        ),
        more(at(&tls_port), &["--tls-alpn", "x-amzn-mqtt-ca", "-V", "5"]),
        shows(&all.client),
        more(Vec::new(), &["--unix", text(&dir().join("mosquitto"))]),
    ] {
        let (status, said) = publish(&args);
        assert_eq!(status, Some(0), "{args:?}: {said}");
        let sub = ["-t", "t", "-C", "1", "-W", "60"];
        let (status, said) = run(Command::new(&subscriber).args(&args).args(sub));
        assert_eq!((status, said.as_str()), (Some(0), "hello\n"), "{args:?}");
    }
    for args in [
        at(&required),
        shows(&all.expired),
        shows(&all.revoked),
        shows(&all.stranger),
        more(
            Vec::new(),
            &[
                "-h",
                "localhost",
                "-p",
                &tls_port,
                "--cafile",
                text(&all.other_ca),
            ],
        ),
        more(at(&tls_port), &["--tls-alpn", "h2"]),
    ] {
        let (status, said) = publish(&args);
        assert_ne!(status, Some(0), "{args:?}: {said}");
    }
    // A megabyte each way.
    let file = dir().join("payload");
    let payload: Vec<u8> = (0..1 << 20).map(|n| (n % 251) as u8).collect();
    fs::write(&file, &payload).expect("the directory for tests is writable");
    let (status, said) = run(Command::new(&publisher).args(at(&tls_port)).args([
        "-t",
        "big",
        "-r",
        "-q",
        "1",
        "-f",
        text(&file),
    ]));
    assert_eq!(status, Some(0), "{said}");
    let output = Command::new(&subscriber)
        .args(at(&tls_port))
        .args(["-t", "big", "-C", "1", "-N", "-W", "60"])
        .output();
    assert!(output.expect("it can be started").stdout == payload);
}

#[test]
fn openssl_sees_what_it_should() {
    let Some(openssl) = program("openssl") else {
        return;
    };
    let all = certificates();
    let server = Server::start(vec![
        with_tls(
            "tls",
            TlsSpec {
                certificates: vec![all.server.spec(), all.other_server.spec()],
                ..TlsSpec::default()
            },
        ),
        with_tls(
            "modern",
            TlsSpec {
                version_min: TlsVersion::V13,
                ..tls()
            },
        ),
    ]);
    let look = |name: &str, args: &[&str]| {
        let address = server.address(name).to_string();
        let mut command = Command::new(&openssl);
        command.args([
            "s_client",
            "-connect",
            &address,
            "-CAfile",
            text(&all.ca),
            "-verify_return_error",
        ]);
        run(command.args(args)).1
    };
    for (version, line) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = look(
            "tls",
            &[version, "-servername", "localhost", "-alpn", "mqtt"],
        );
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(
            said.contains(&format!("New, {line}")) && said.contains("ALPN protocol: mqtt"),
            "{said}"
        );
        assert!(said.contains("CN = server"), "{said}");
        let said = look("tls", &[version, "-servername", "other.example"]);
        assert!(said.contains("CN = other-server"), "{said}");
    }
    for old in ["-tls1", "-tls1_1"] {
        let said = look("tls", &[old, "-cipher", "DEFAULT@SECLEVEL=0"]);
        assert!(
            said.contains("protocol version") || said.contains("handshake failure"),
            "{old}: {said}"
        );
    }
    let said = look("modern", &["-tls1_2"]);
    assert!(said.contains("alert protocol version"), "{said}");
    // Resumption. With 1.3 the ticket comes after the handshake, so there must be something to wait for.
    for version in ["-tls1_2", "-tls1_3"] {
        let file = dir().join(format!("session{version}"));
        let address = server.address("tls").to_string();
        let mut command = Command::new(&openssl);
        command.args([
            "s_client",
            "-connect",
            &address,
            "-CAfile",
            text(&all.ca),
            version,
        ]);
        command
            .args(["-sess_out", text(&file)])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("it was started before");
        let deadline = Instant::now() + ARRIVES;
        while fs::metadata(&file).map_or(0, |data| data.len()) == 0 {
            assert!(Instant::now() < deadline, "no session");
            thread::sleep(Duration::from_millis(20));
        }
        drop(child.stdin.take());
        let _ = child.wait();
        let said = look("tls", &[version, "-sess_in", text(&file)]);
        assert!(said.contains("Reused, TLSv1."), "{said}");
    }
}

fn script(name: &str, file: &str) {
    let Some(outside) = Outside::find(name).map(|outside| outside.with_script(file)) else {
        return;
    };
    let all = certificates();
    let mut listeners = every_kind(name);
    listeners.push(ListenerSpec {
        websocket: Some(WebSocketSpec::default()),
        ..with_tls(
            "required",
            TlsSpec {
                client_certificate: ClientCertificate::Required,
                client_ca: vec![all.ca.clone()],
                ..tls()
            },
        )
    });
    let server = Server::start(listeners);
    let pair = [text(&all.client.certificate), text(&all.client.key)];
    for (n, (scheme, listener, version, pair)) in [
        ("mqtts", "tls", "311", &[][..]),
        ("mqtts", "tls", "5", &[]),
        ("ws", "ws", "31", &[]),
        ("ws", "ws", "311", &[]),
        ("ws", "ws", "5", &[]),
        ("wss", "wss", "311", &[]),
        ("wss", "wss", "5", &[]),
        ("wss", "required", "5", &pair),
    ]
    .into_iter()
    .enumerate()
    {
        // Identifiers of different owners.
        let prefix = format!("{name}{n}");
        let port = server.port(listener);
        let args = [scheme, "localhost", &port, version, &prefix, text(&all.ca)];
        outside.run_args(&[&args, pair].concat());
    }
}

#[test]
fn paho_through_every_transport() {
    script("paho", "paho_transport.py");
}

#[test]
fn mqttjs_through_every_transport() {
    script("mqttjs", "mqttjs_transport.js");
}

#[test]
fn certificates_are_read_again_without_touching_connections() {
    let all = certificates();
    let (certificate, key) = (dir().join("live.crt"), dir().join("live.key"));
    let put = |pair: &Pair| {
        fs::copy(&pair.certificate, &certificate).expect("the directory for tests is writable");
        fs::copy(&pair.key, &key).expect("the directory for tests is writable");
    };
    put(&all.server);
    let live = Pair {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    let server = Server::start(vec![with_tls(
        "tls",
        TlsSpec {
            certificates: vec![live.spec()],
            ..TlsSpec::default()
        },
    )]);
    let doors = server.cores().live().parts().doors;
    let tls = doors[0].tls().expect("it has TLS");
    let can_connect = || Client::is_let_in(&server.bind("tls"), &Kind::Tls.route(), "reload-new");
    let mut old = Client::connect(&server.bind("tls"), &Kind::Tls.route(), "reload-old");
    old.subscribe("reload");
    fs::write(&certificate, "garbage").expect("the directory for tests is writable");
    assert!(tls.has_changed() && tls.reload().is_err());
    assert!(can_connect(), "what there was stays");
    put(&all.other_server);
    tls.reload().expect("the files are right");
    assert!(!can_connect(), "the new one is for another name");
    old.publish("reload", b"still here");
    assert_eq!(old.message().1, b"still here");
    put(&all.server);
    tls.reload().expect("the files are right");
    assert!(can_connect());
}

#[test]
fn half_open_handshakes_do_not_keep_others_out() {
    let server = Server::start(every_kind("half"));
    let address = server.address("tls");
    let mut half: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(address).expect("the broker listens"))
        .collect();
    for (n, stream) in half.iter_mut().enumerate() {
        stream
            .write_all(&[0x16, 3, 1, 2, 0][..n % 6])
            .expect("the broker reads");
    }
    let mut client = Client::connect(&server.bind("tls"), &Kind::Tls.route(), "half");
    client.subscribe("half");
    client.publish("half", b"x");
    assert_eq!(client.message().1, b"x");
}

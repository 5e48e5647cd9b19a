//! The driver with transports, against clients on real sockets.

use super::tests::{BULK_BYTES, Cores, RING, Seen, bulk_byte};
use super::*;
use crate::cert::{DevCertificates, DevFiles, dev};
use crate::config::listener::{
    CertificateName, CertificateSpec, ClientCertificate, ListenerSpec, ProxySpec, TlsSpec,
    WebSocketSpec,
};
use crate::mesh::link::LinkConfig;
use crate::net::sockets::Reading;
use crate::net::transport::client::{ClientRoute, ClientTransport, ClientWebSocket};
use crate::net::transport::frame::{Opcode, put_frame};
use crate::net::transport::tls_files::{ClientTlsSpec, client_config};
use crate::net::transport::{Door, Heard, Scratch};
use crate::shard::input::CloseCause;
use rustls::pki_types::ServerName;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::OnceLock;

fn files() -> &'static DevFiles {
    static FILES: OnceLock<DevFiles> = OnceLock::new();
    FILES.get_or_init(|| {
        dev(&DevCertificates {
            dir: std::env::temp_dir().join(format!("ringmq-test-{}-through", std::process::id())),
            hosts: vec!["localhost".into()],
            client: "joe".into(),
            days: 30,
            force: true,
        })
        .unwrap()
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tls,
    WebSocket,
    Both,
}

const KINDS: [Kind; 3] = [Kind::Tls, Kind::WebSocket, Kind::Both];

impl Kind {
    fn spec(self) -> ListenerSpec {
        let (certificate, key) = files().server.clone();
        let tls = TlsSpec {
            certificates: vec![CertificateSpec { certificate, key }],
            client_certificate: ClientCertificate::Optional,
            client_ca: vec![files().ca.clone()],
            username_from: CertificateName::CommonName,
            ..TlsSpec::default()
        };
        ListenerSpec {
            tls: (self != Self::WebSocket).then_some(tls),
            websocket: (self != Self::Tls).then(WebSocketSpec::default),
            ..ListenerSpec::tcp("test", (Ipv4Addr::LOCALHOST, 0).into())
        }
    }

    fn route(self, certificate: Option<CertificateSpec>) -> ClientRoute {
        let tls = ClientTlsSpec {
            ca_files: vec![files().ca.clone()],
            certificate,
            ..ClientTlsSpec::default()
        };
        ClientRoute {
            tls: (self != Self::WebSocket).then(|| {
                (
                    client_config(&tls).unwrap(),
                    ServerName::try_from("localhost").unwrap(),
                )
            }),
            websocket: (self != Self::Tls).then(|| ClientWebSocket {
                host: "localhost".into(),
                path: "/".into(),
                protocol: "mqtt",
            }),
        }
    }
}

fn cores(spec: ListenerSpec, count: usize) -> Cores {
    Cores::behind(
        &Arc::new(Door::open(spec).unwrap()),
        count,
        RING,
        LinkConfig::default(),
    )
}

struct Client {
    stream: TcpStream,
    transport: ClientTransport,
    scratch: Scratch,
    got: Vec<u8>,
    heard: Result<Heard, String>,
    is_at_end: bool,
}

impl Client {
    /// Connected, with its first message sent.
    fn start(cores: &Cores, route: &ClientRoute) -> Self {
        let stream = TcpStream::connect(cores.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut client = Self {
            stream,
            transport: ClientTransport::new(route, 1).unwrap(),
            scratch: Scratch::default(),
            got: Vec::new(),
            heard: Ok(Heard::Open),
            is_at_end: false,
        };
        client.transport.start(&mut client.scratch).unwrap();
        client.stream.write_all(&client.scratch.wire).unwrap();
        client
    }

    fn open(cores: &mut Cores, route: &ClientRoute) -> Self {
        let mut client = Self::start(cores, route);
        cores.until(|_| {
            client.receive();
            client.transport.is_open()
        });
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        let count = self
            .transport
            .seal([bytes].into_iter(), &mut self.scratch)
            .unwrap();
        assert_eq!(count, bytes.len());
        self.stream.write_all(&self.scratch.wire).unwrap();
    }

    /// Takes what has come.
    fn receive(&mut self) {
        let mut chunk = [0; 65_536];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.is_at_end = true;
                    return;
                }
                Ok(count) => {
                    let heard = self.transport.receive(&chunk[..count], &mut self.scratch);
                    self.got.extend_from_slice(&self.scratch.clear);
                    // A server that has closed its side takes no answer.
                    let _ = self.stream.write_all(&self.scratch.wire);
                    if heard != Ok(Heard::Open) {
                        self.heard = heard;
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return;
                }
            }
        }
    }

    fn read(&mut self, cores: &mut Cores, expected: &[u8]) {
        cores.until(|_| {
            self.receive();
            self.got.len() >= expected.len()
        });
        assert_eq!(self.got, expected);
        self.got.clear();
    }

    fn read_end(&mut self, cores: &mut Cores) {
        cores.until(|_| {
            self.receive();
            self.is_at_end
        });
    }
}

#[test]
fn bytes_go_there_and_back_and_the_end_is_said() {
    for kind in KINDS {
        let mut cores = cores(kind.spec(), 1);
        let mut client = Client::open(&mut cores, &kind.route(None));
        for message in [&b"hello"[..], &[7; 1_500], b"again"] {
            client.send(message);
            client.read(&mut cores, message);
        }
        client.send(b"quit");
        client.read(&mut cores, b"bye");
        client.read_end(&mut cores);
        assert_eq!(client.heard, Ok(Heard::Closed), "{kind:?}");
        drop(client);
        cores.until(|cores| cores.drivers[0].sockets.is_empty());
        let seen = &cores.drivers[0].shard.seen;
        assert_eq!(
            seen.last(),
            Some(&Seen::Closed(CloseCause::Asked)),
            "{kind:?}"
        );
    }
}

#[test]
fn who_sends_much_is_read_by_calls() {
    for kind in KINDS {
        let mut cores = cores(kind.spec(), 1);
        let mut client = Client::open(&mut cores, &kind.route(None));
        client.send(b"x");
        client.read(&mut cores, b"x");
        let (conn, _) = *cores.drivers[0].shard.fed.last().unwrap();
        let text: Vec<u8> = (0..10_000).map(bulk_byte).collect();
        for _ in 0..3 {
            (0..4).for_each(|_| client.send(&text));
            client.read(&mut cores, &text.repeat(4));
            let socket = cores.drivers[0].sockets.get(conn).unwrap();
            assert_eq!(socket.reading, Reading::Much, "{kind:?}");
        }
        client.send(b"quit");
        client.read(&mut cores, b"bye");
        client.read_end(&mut cores);
        assert_eq!(client.heard, Ok(Heard::Closed), "{kind:?}");
    }
}

#[test]
fn a_client_that_says_good_bye_is_answered() {
    for kind in KINDS {
        let mut cores = cores(kind.spec(), 1);
        let mut client = Client::open(&mut cores, &kind.route(None));
        client.send(b"x");
        client.read(&mut cores, b"x");
        client.scratch.clear();
        client.transport.close(None, &mut client.scratch);
        client.stream.write_all(&client.scratch.wire).unwrap();
        client.read_end(&mut cores);
        cores.until(|cores| cores.drivers[0].sockets.is_empty());
        let seen = &cores.drivers[0].shard.seen;
        assert_eq!(
            seen.last(),
            Some(&Seen::Closed(CloseCause::PeerClosed)),
            "{kind:?}"
        );
    }
}

#[test]
fn a_connection_moves_with_its_transport() {
    for kind in KINDS {
        let mut cores = cores(kind.spec(), 2);
        let mut client = Client::open(&mut cores, &kind.route(None));
        client.send(b"over");
        client.read(&mut cores, b"here");
        for message in [&b"hello"[..], &[7; 1_500]] {
            client.send(message);
            client.read(&mut cores, message);
        }
        client.send(b"quit");
        client.read(&mut cores, b"bye");
        client.read_end(&mut cores);
        assert_eq!(client.heard, Ok(Heard::Closed));
        assert_eq!(cores.drivers[1].shard.seen[0], Seen::HandedOver);
        assert!(cores.drivers[0].sockets.is_empty());
    }
}

#[test]
fn a_certificate_is_told_of_before_the_first_bytes_on_either_core() {
    for kind in [Kind::Tls, Kind::Both] {
        let mut cores = cores(kind.spec(), 2);
        let (certificate, key) = files().client.clone();
        let mut client = Client::open(
            &mut cores,
            &kind.route(Some(CertificateSpec { certificate, key })),
        );
        client.send(b"over");
        client.read(&mut cores, b"here");
        let seen = &cores.drivers[0].shard.seen;
        assert!(
            matches!(&seen[..], [Seen::Accepted(_), Seen::Identified(name), Seen::Received(4)] if name == "joe")
        );
        let seen = &cores.drivers[1].shard.seen;
        assert!(
            matches!(&seen[..3], [Seen::HandedOver, Seen::Identified(name), Seen::Received(4)] if name == "joe"),
            "{seen:?}"
        );
    }
}

#[test]
fn a_slow_reader_gets_everything() {
    for kind in KINDS {
        let mut cores = cores(kind.spec(), 1);
        let mut client = Client::open(&mut cores, &kind.route(None));
        client.send(b"bulk");
        cores.settle();
        // Full: it is waited for, and what is kept for it is bounded.
        let kept = cores.drivers[0].sockets.through(ConnKey {
            index: 0,
            generation: 0,
        });
        let unsent = kept.map(|(socket, transport)| (socket.polled, transport.unsent().len()));
        assert!(
            matches!(unsent, Some((true, 0..100_000))),
            "{kind:?} {unsent:?}"
        );
        let mut at = 0;
        cores.until(|_| {
            client.receive();
            assert!(
                client
                    .got
                    .iter()
                    .enumerate()
                    .all(|(n, byte)| *byte == bulk_byte(at + n))
            );
            at += client.got.len();
            client.got.clear();
            at == BULK_BYTES
        });
    }
}

#[test]
fn a_flood_of_handshakes_waits_in_order_while_others_are_served() {
    const FLOOD: usize = 40;
    let mut cores = cores(Kind::Tls.spec(), 1);
    let route = Kind::Tls.route(None);
    let mut settled = Client::open(&mut cores, &route);
    let mut flood: Vec<_> = (0..FLOOD).map(|_| Client::start(&cores, &route)).collect();
    cores.until(|cores| cores.drivers[0].counters.accepted.get() == 1 + FLOOD as u64);
    let mut most_waiting = 0;
    let mut before = cores.drivers[0].handshakes.len();
    cores.until(|cores| {
        let waiting = cores.drivers[0].handshakes.len();
        assert!(
            waiting + HANDSHAKES_PER_TURN >= before,
            "{before} -> {waiting}"
        );
        before = waiting;
        most_waiting = most_waiting.max(waiting);
        if waiting > 0 && settled.got.is_empty() {
            settled.send(b"x");
        }
        settled.receive();
        flood.iter_mut().for_each(Client::receive);
        flood.iter().all(|client| client.transport.is_open())
    });
    assert!(most_waiting > HANDSHAKES_PER_TURN, "{most_waiting}");
    settled.read(&mut cores, &vec![b'x'; settled.got.len().max(1)]);
    for client in &mut flood {
        client.send(b"y");
        client.read(&mut cores, b"y");
    }
    assert_eq!(cores.drivers[0].counters.handshakes.get(), 1 + FLOOD as u64);
}

#[test]
fn a_core_does_not_sleep_while_handshakes_wait_for_their_turn() {
    let mut cores = cores(Kind::Tls.spec(), 1);
    let route = Kind::Tls.route(None);
    // As long as another core is behind, what they send waits.
    cores.drivers[0].links_hard = 2;
    let count = 3 * HANDSHAKES_PER_TURN;
    let mut clients: Vec<_> = (0..count).map(|_| Client::start(&cores, &route)).collect();
    cores.until(|cores| cores.drivers[0].counters.accepted.get() == count as u64);
    cores.settle();
    cores.drivers[0].links_hard = 0;
    while cores.turn() != [Turn::Idle] {}
    assert_eq!(cores.drivers[0].handshakes.len(), 0);
    for client in &mut clients {
        client.receive();
        assert!(client.transport.is_open());
    }
}

#[test]
fn a_stop_ends_handshakes_that_are_half_done() {
    let mut cores = cores(Kind::Both.spec(), 1);
    let hello = {
        let mut transport = ClientTransport::new(&Kind::Both.route(None), 1).unwrap();
        let mut scratch = Scratch::default();
        transport.start(&mut scratch).unwrap();
        scratch.wire
    };
    let mut streams: Vec<_> = (0..20)
        .map(|n| {
            let mut stream = TcpStream::connect(cores.address).unwrap();
            stream.write_all(&hello[..hello.len() * n / 20]).unwrap();
            stream
        })
        .collect();
    cores.settle();
    cores.shutdown.request(Duration::from_secs(5));
    cores.settle();
    for stream in &mut streams {
        stream.set_nonblocking(true).unwrap();
        let mut end = Vec::new();
        let ended = stream.read_to_end(&mut end);
        assert!(ended.is_ok(), "{ended:?}");
    }
    drop(streams);
    cores.until(|cores| cores.drivers[0].sockets.is_empty());
}

#[test]
fn what_breaks_a_transport_is_told_to_both_sides() {
    let mut frames = Vec::new();
    put_frame(&mut frames, Opcode::Binary, None, [&b"x"[..]]);
    for (kind, bytes, answer, what) in [
        (
            Kind::Tls,
            &b"\x10\x0c\x00\x04MQTT"[..],
            &[0x15, 3, 3, 0, 2, 2][..],
            "no TLS",
        ),
        (
            Kind::WebSocket,
            b"\x10\x0c\x00\x04MQTT",
            b"HTTP/1.1 400 ",
            "no HTTP request",
        ),
        (
            Kind::WebSocket,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"HTTP/1.1 426 ",
            "the request does not ask for a WebSocket",
        ),
    ] {
        let mut cores = cores(kind.spec(), 1);
        let mut stream = TcpStream::connect(cores.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut got = Vec::new();
        // A FIN and not a reset, so that the answer arrives.
        cores.until(|_| stream.read_to_end(&mut got).is_ok());
        assert!(got.starts_with(answer), "{kind:?} {got:x?}");
        let seen = &cores.drivers[0].shard.seen;
        assert_eq!(
            seen.last(),
            Some(&Seen::Closed(CloseCause::Transport(what)))
        );
        assert_eq!(cores.drivers[0].counters.transports_failed.get(), 1);
    }
    let mut cores = cores(Kind::Both.spec(), 1);
    let mut client = Client::open(&mut cores, &Kind::Both.route(None));
    client.send(b"x");
    client.read(&mut cores, b"x");
    // Bytes that decrypt to nothing.
    client.stream.write_all(&[0x17, 3, 3, 0, 20]).unwrap();
    client.stream.write_all(&[1; 20]).unwrap();
    client.read_end(&mut cores);
    let error = client.heard.unwrap_err();
    assert!(error.contains("BadRecordMac"), "{error}");
}

#[test]
fn lists_of_networks_are_kept() {
    let refuses = |spec: ListenerSpec| {
        let mut cores = cores(spec, 1);
        let mut stream = TcpStream::connect(cores.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        cores.until(|cores| cores.drivers[0].counters.accepted.get() == 1);
        cores.settle();
        let is_refused = cores.drivers[0].counters.turned_away.get() == 1;
        let is_closed = matches!(stream.read(&mut [0]), Ok(0));
        assert_eq!(is_refused, is_closed);
        assert_eq!(cores.drivers[0].shard.seen.is_empty(), is_refused);
        is_refused
    };
    let plain = ListenerSpec::tcp("test", (Ipv4Addr::LOCALHOST, 0).into());
    let here = || vec!["127.0.0.0/8".parse().unwrap()];
    let elsewhere = || vec!["10.0.0.0/8".parse().unwrap()];
    assert!(!refuses(ListenerSpec {
        allow: here(),
        ..plain.clone()
    }));
    assert!(refuses(ListenerSpec {
        allow: elsewhere(),
        ..plain.clone()
    }));
    assert!(refuses(ListenerSpec {
        deny: here(),
        ..plain.clone()
    }));
    assert!(!refuses(ListenerSpec {
        deny: elsewhere(),
        ..plain.clone()
    }));
    let proxy = |trusted| Some(ProxySpec { trusted });
    assert!(refuses(ListenerSpec {
        proxy: proxy(elsewhere()),
        ..plain.clone()
    }));
    assert!(!refuses(ListenerSpec {
        proxy: proxy(here()),
        ..plain
    }));
}

#[test]
fn behind_a_proxy_header_bytes_pass_as_they_are() {
    let mut cores = cores(
        ListenerSpec {
            proxy: Some(ProxySpec {
                trusted: vec!["127.0.0.1".parse().unwrap()],
            }),
            ..ListenerSpec::tcp("test", (Ipv4Addr::LOCALHOST, 0).into())
        },
        2,
    );
    let mut client = Client::open(&mut cores, &ClientRoute::default());
    client
        .stream
        .write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 50")
        .unwrap();
    cores.settle();
    client.stream.write_all(b"00 1883\r\nover").unwrap();
    client.read(&mut cores, b"here");
    client.send(b"bulk");
    let mut at = 0;
    cores.until(|_| {
        client.receive();
        at += std::mem::take(&mut client.got).len();
        at == BULK_BYTES
    });
    let conn = ConnKey {
        index: 0,
        generation: 0,
    };
    let peer = cores.drivers[1]
        .sockets
        .transport(conn)
        .and_then(|transport| transport.peer());
    assert_eq!(peer, Some("192.0.2.1:5000".parse().unwrap()));
}

//! Both roles against each other, in memory.

use super::client::{ClientRoute, ClientTransport, ClientWebSocket};
use super::tls_files::{ClientTlsSpec, client_config};
use super::*;
use crate::cert::{DevCertificates, DevFiles, dev};
use crate::config::listener::{
    CertificateName, CertificateSpec, ClientCertificate, ProxySpec, TlsSpec, TlsVersion,
    WebSocketSpec,
};
use rustls::pki_types::ServerName;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Certificates for `localhost` and `other.example`, made once.
fn certificates() -> &'static [DevFiles; 2] {
    static FILES: OnceLock<[DevFiles; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        ["localhost", "other.example"].map(|host| {
            dev(&DevCertificates {
                dir: dir().join(host),
                hosts: vec![host.into()],
                client: "joe".into(),
                days: 30,
                force: true,
            })
            .unwrap()
        })
    })
}

fn dir() -> PathBuf {
    std::env::temp_dir().join(format!("ringmq-test-{}-transport", std::process::id()))
}

fn pair((certificate, key): &(PathBuf, PathBuf)) -> CertificateSpec {
    CertificateSpec {
        certificate: certificate.clone(),
        key: key.clone(),
    }
}

fn tls_spec() -> TlsSpec {
    TlsSpec {
        certificates: vec![pair(&certificates()[0].server)],
        ..TlsSpec::default()
    }
}

fn spec(tls: Option<TlsSpec>, websocket: Option<WebSocketSpec>) -> ListenerSpec {
    ListenerSpec {
        tls,
        websocket,
        ..ListenerSpec::tcp("test", (Ipv4Addr::LOCALHOST, 0).into())
    }
}

fn peer() -> Option<SocketAddr> {
    Some((Ipv4Addr::LOCALHOST, 4_000).into())
}

/// Both ends of a connection, and what has come out of them.
struct Ends {
    server: Box<Transport>,
    client: ClientTransport,
    scratch: Scratch,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    at_server: Vec<u8>,
    at_client: Vec<u8>,
    server_heard: Result<Heard, Fault>,
    client_heard: Result<Heard, String>,
}

impl Ends {
    fn new(door: &Arc<Door>, route: &ClientRoute) -> Self {
        let Some(Admitted::Through(server)) = door.admit(peer()) else {
            panic!("not admitted")
        };
        let mut ends = Self {
            server,
            client: ClientTransport::new(route, 7).unwrap(),
            scratch: Scratch::default(),
            to_server: Vec::new(),
            to_client: Vec::new(),
            at_server: Vec::new(),
            at_client: Vec::new(),
            server_heard: Ok(Heard::Open),
            client_heard: Ok(Heard::Open),
        };
        ends.client.start(&mut ends.scratch).unwrap();
        ends.to_server.extend_from_slice(&ends.scratch.wire);
        ends
    }

    /// Moves bytes in pieces of `size` until none are left.
    fn exchange(&mut self, size: usize) {
        while !self.to_server.is_empty() || !self.to_client.is_empty() {
            for piece in std::mem::take(&mut self.to_server).chunks(size) {
                let heard = self.server.receive(piece, &mut self.scratch);
                self.at_server.extend_from_slice(&self.scratch.clear);
                self.to_client.extend_from_slice(&self.scratch.wire);
                if heard != Ok(Heard::Open) {
                    self.server_heard = heard;
                }
            }
            for piece in std::mem::take(&mut self.to_client).chunks(size) {
                let heard = self.client.receive(piece, &mut self.scratch);
                self.at_client.extend_from_slice(&self.scratch.clear);
                self.to_server.extend_from_slice(&self.scratch.wire);
                if heard != Ok(Heard::Open) {
                    self.client_heard = heard;
                }
            }
        }
    }

    fn client_sends(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self
                .client
                .seal([bytes].into_iter(), &mut self.scratch)
                .unwrap();
            self.to_server.extend_from_slice(&self.scratch.wire);
            bytes = &bytes[count..];
        }
    }

    fn server_sends(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = self
                .server
                .seal([bytes].into_iter(), &mut self.scratch)
                .unwrap();
            assert!(count > 0);
            self.to_client.extend_from_slice(&self.scratch.wire);
            bytes = &bytes[count..];
        }
    }
}

fn route(tls: Option<&ClientTlsSpec>, name: &str, websocket: bool) -> ClientRoute {
    ClientRoute {
        tls: tls.map(|tls| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            (client_config(tls).unwrap(), name)
        }),
        websocket: websocket.then(|| ClientWebSocket {
            host: name.into(),
            path: "/mqtt".into(),
            protocol: "mqtt",
        }),
    }
}

fn client_tls() -> ClientTlsSpec {
    ClientTlsSpec {
        ca_files: vec![certificates()[0].ca.clone()],
        ..ClientTlsSpec::default()
    }
}

fn door(spec: ListenerSpec) -> Arc<Door> {
    Arc::new(Door::open(spec).unwrap())
}

#[test]
fn bytes_come_through_every_transport_in_pieces_of_any_size() {
    let large: Vec<u8> = (0..100_000).map(|n| (n % 251) as u8).collect();
    for version in [TlsVersion::V12, TlsVersion::V13] {
        for (has_tls, has_websocket) in [(true, false), (false, true), (true, true)] {
            let websocket = has_websocket.then(WebSocketSpec::default);
            let door = door(spec(has_tls.then(tls_spec), websocket));
            let tls = ClientTlsSpec {
                version: Some(version),
                ..client_tls()
            };
            let route = route(has_tls.then_some(&tls), "localhost", has_websocket);
            for size in [1, 7, 1_000, 8_192, usize::MAX] {
                let mut ends = Ends::new(&door, &route);
                ends.exchange(size);
                assert!(ends.client.is_open() && !ends.server.is_handshaking());
                let message = if size == 1 {
                    &large[..20_000]
                } else {
                    &large[..]
                };
                ends.client_sends(message);
                ends.exchange(size);
                assert!(
                    ends.at_server == message,
                    "{version:?} {has_tls} {has_websocket} {size}"
                );
                ends.server_sends(message);
                ends.exchange(size);
                assert!(ends.at_client == message);
                ends.server
                    .farewell(Some(CloseCode::NORMAL), &mut ends.scratch);
                ends.scratch.clear();
                assert!(ends.server.unsent().is_empty());
            }
        }
    }
}

#[test]
fn either_end_says_good_bye_and_is_answered() {
    for (has_tls, has_websocket) in [(true, false), (false, true), (true, true)] {
        let door = door(spec(
            has_tls.then(tls_spec),
            has_websocket.then(WebSocketSpec::default),
        ));
        let tls = client_tls();
        let route = route(has_tls.then_some(&tls), "localhost", has_websocket);
        let mut ends = Ends::new(&door, &route);
        ends.exchange(100);
        ends.scratch.clear();
        ends.client
            .close(Some(CloseCode::NORMAL), &mut ends.scratch);
        ends.to_server.extend_from_slice(&ends.scratch.wire);
        assert!(!ends.to_server.is_empty());
        let heard = ends
            .server
            .receive(&std::mem::take(&mut ends.to_server), &mut ends.scratch);
        assert_eq!(heard, Ok(Heard::Closed));
        assert!(!ends.scratch.wire.is_empty(), "it answers");
        assert_eq!(
            ends.server
                .seal([&b"late"[..]].into_iter(), &mut ends.scratch),
            Ok(0)
        );

        let mut ends = Ends::new(&door, &route);
        ends.exchange(100);
        ends.scratch.clear();
        ends.server
            .farewell(Some(CloseCode::GOING_AWAY), &mut ends.scratch);
        ends.to_client.extend_from_slice(&ends.scratch.wire);
        ends.exchange(1);
        assert_eq!(ends.client_heard, Ok(Heard::Closed));
    }
}

#[test]
fn the_server_name_picks_the_certificate() {
    let [first, second] = certificates();
    let mut tls = tls_spec();
    tls.certificates.push(pair(&second.server));
    let door = door(spec(Some(tls), None));
    let trusts = |files: &DevFiles| ClientTlsSpec {
        ca_files: vec![files.ca.clone()],
        ..ClientTlsSpec::default()
    };
    for (files, name, works) in [
        (first, "localhost", true),
        (second, "other.example", true),
        (first, "other.example", false),
        // Nobody's name gets the first.
        (first, "third.example", false),
    ] {
        let mut ends = Ends::new(&door, &route(Some(&trusts(files)), name, false));
        ends.exchange(1_000);
        assert_eq!(
            ends.client.is_open(),
            works,
            "{name}: {:?}",
            ends.client_heard
        );
    }
    let mut insecure = trusts(first);
    insecure.insecure = true;
    let mut ends = Ends::new(&door, &route(Some(&insecure), "third.example", false));
    ends.exchange(1_000);
    assert!(ends.client.is_open());
}

#[test]
fn sessions_are_resumed_until_the_files_are_read_again() {
    for version in [TlsVersion::V12, TlsVersion::V13] {
        let door = door(spec(Some(tls_spec()), None));
        let tls = ClientTlsSpec {
            version: Some(version),
            resumes: true,
            ..client_tls()
        };
        let route = route(Some(&tls), "localhost", false);
        let is_resumed = |door: &Arc<Door>| {
            let mut ends = Ends::new(door, &route);
            ends.exchange(1_000);
            assert!(ends.client.is_open(), "{:?}", ends.client_heard);
            ends.client.is_resumed()
        };
        assert!(!is_resumed(&door));
        assert!(is_resumed(&door), "{version:?}");
        door.tls().unwrap().reload().unwrap();
        assert!(!is_resumed(&door), "{version:?}");
        assert!(is_resumed(&door));
    }
}

#[test]
fn client_certificates_name_the_user() {
    let [files, other] = certificates();
    for version in [TlsVersion::V12, TlsVersion::V13] {
        for (asked, shown, expected) in [
            (
                ClientCertificate::Required,
                Some(&files.client),
                Ok(Some("CN=joe")),
            ),
            (
                ClientCertificate::Required,
                None,
                Err("the client shows no certificate"),
            ),
            (
                ClientCertificate::Required,
                Some(&other.client),
                Err("the certificate is not signed by a known authority"),
            ),
            (ClientCertificate::Optional, None, Ok(None)),
            (
                ClientCertificate::Optional,
                Some(&files.client),
                Ok(Some("CN=joe")),
            ),
            (
                ClientCertificate::Optional,
                Some(&other.client),
                Err("the certificate is not signed by a known authority"),
            ),
            (ClientCertificate::None, Some(&files.client), Ok(None)),
            // A server's certificate is for another purpose.
            (
                ClientCertificate::Required,
                Some(&files.server),
                Err("the certificate is for another purpose"),
            ),
        ] {
            let door = door(spec(
                Some(TlsSpec {
                    client_certificate: asked,
                    client_ca: vec![files.ca.clone()],
                    username_from: CertificateName::DistinguishedName,
                    ..tls_spec()
                }),
                None,
            ));
            let tls = ClientTlsSpec {
                certificate: shown.map(pair),
                version: Some(version),
                resumes: true,
                ..client_tls()
            };
            // The second time the session is resumed, and the certificate comes from the ticket.
            let route = route(Some(&tls), "localhost", false);
            for _ in 0..2 {
                let mut ends = Ends::new(&door, &route);
                ends.exchange(1_000);
                let got = match ends.server_heard {
                    Ok(_) => Ok(ends.server.take_identity()),
                    Err(fault) => Err(fault.what),
                };
                let got = got
                    .as_ref()
                    .map(|name| name.as_deref())
                    .map_err(|what| *what);
                assert_eq!(got, expected, "{asked:?} {version:?}");
                assert_eq!(ends.server.take_identity(), None, "it is told once");
            }
        }
    }
}

#[test]
fn what_is_no_tls_is_answered_with_an_alert() {
    let door = door(spec(Some(tls_spec()), None));
    for bytes in [
        &b"\x10\x0c\x00\x04MQTT"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0xFF, 0xFF, 0],
    ] {
        let Some(Admitted::Through(mut server)) = door.admit(peer()) else {
            panic!("not admitted")
        };
        let mut scratch = Scratch::default();
        let fault = server.receive(bytes, &mut scratch).unwrap_err();
        assert!(fault.what.contains("TLS"), "{}", fault.what);
        assert!(scratch.clear.is_empty());
        assert_eq!(scratch.wire.first(), Some(&0x15), "{bytes:x?}");
        assert_eq!(
            server.receive(bytes, &mut scratch),
            Ok(Heard::Open),
            "it is deaf now"
        );
        assert!(scratch.wire.is_empty());
    }
}

/// rustls keeps places in the bytes it was given; they must be there whatever is called next.
#[test]
fn a_handshake_message_in_parts_survives_a_close_in_between() {
    let door = door(spec(Some(tls_spec()), None));
    let tls = client_tls();
    let hello = Ends::new(&door, &route(Some(&tls), "localhost", false)).to_server;
    for cut in 1..hello.len() - 5 {
        let record = |part: &[u8]| {
            let len = (part.len() as u16).to_be_bytes();
            [&[0x16, 3, 1][..], &len, part].concat()
        };
        let (first, second) = hello[5..].split_at(cut);
        let [first, second] = [first, second].map(record);
        for closes in [false, true] {
            let Some(Admitted::Through(mut server)) = door.admit(peer()) else {
                panic!("not admitted")
            };
            let mut scratch = Scratch::default();
            server.receive(&first, &mut scratch).unwrap();
            assert_eq!(
                server.seal([&b"early"[..]].into_iter(), &mut scratch),
                Ok(0)
            );
            if closes {
                server.farewell(None, &mut scratch);
            }
            server.receive(&second, &mut scratch).unwrap();
            assert_eq!(
                scratch.wire.is_empty(),
                closes,
                "it is answered unless it is over"
            );
        }
    }
}

#[test]
fn application_protocols_are_agreed_on() {
    for (has_websocket, offered, works) in [
        (false, &["mqtt"][..], true),
        (false, &["x-amzn-mqtt-ca"], true),
        (false, &["h2", "mqtt"], true),
        (false, &["http/1.1"], false),
        (true, &["http/1.1"], true),
        (true, &["mqtt"], false),
    ] {
        let door = door(spec(
            Some(tls_spec()),
            has_websocket.then(WebSocketSpec::default),
        ));
        let tls = ClientTlsSpec {
            alpn: offered.iter().map(|name| (*name).to_owned()).collect(),
            ..client_tls()
        };
        let mut ends = Ends::new(&door, &route(Some(&tls), "localhost", has_websocket));
        ends.exchange(1_000);
        assert_eq!(
            ends.client.is_open(),
            works,
            "{offered:?} {:?}",
            ends.client_heard
        );
    }
}

#[test]
fn a_ping_is_answered_and_a_text_frame_ends_the_websocket() {
    let door = door(spec(None, Some(WebSocketSpec::default())));
    let mut ends = Ends::new(&door, &route(None, "localhost", true));
    ends.exchange(50);
    let mut frames = Vec::new();
    for ping in [&b"1"[..], b"2", b"3"] {
        put_frame(&mut frames, Opcode::Ping, Some([1, 2, 3, 4]), [ping]);
    }
    put_frame(
        &mut frames,
        Opcode::Binary,
        Some([1, 2, 3, 4]),
        [&b"mqtt"[..]],
    );
    assert_eq!(
        ends.server.receive(&frames, &mut ends.scratch),
        Ok(Heard::Open)
    );
    assert_eq!(
        ends.scratch.wire,
        [0x8A, 1, b'3'],
        "the last one is answered"
    );
    assert_eq!(ends.scratch.clear, b"mqtt");
    let mut frames = Vec::new();
    put_frame(
        &mut frames,
        Opcode::Binary,
        Some([1, 2, 3, 4]),
        [&b"before"[..]],
    );
    frames.extend([0x81, 0x80, 0, 0, 0, 0]);
    let heard = ends.server.receive(&frames, &mut ends.scratch);
    assert_eq!(
        heard,
        Err(Fault {
            what: "a text frame"
        })
    );
    assert_eq!(ends.scratch.wire, [0x88, 2, 3, 0xEB], "1003");
    assert_eq!(ends.scratch.clear, b"before");
}

#[test]
fn a_proxy_speaks_for_the_peer_if_it_is_trusted() {
    let proxied = |websocket: Option<WebSocketSpec>| ListenerSpec {
        proxy: Some(ProxySpec {
            trusted: vec!["127.0.0.0/8".parse().unwrap()],
        }),
        ..spec(None, websocket)
    };
    let plain = door(proxied(None));
    assert!(plain.admit(Some("10.0.0.1:1".parse().unwrap())).is_none());
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883\r\n";
    let Some(Admitted::Through(mut server)) = plain.admit(peer()) else {
        panic!("not admitted")
    };
    let mut scratch = Scratch::default();
    for (at, byte) in header.iter().enumerate() {
        assert!(!server.is_passing(), "{at}");
        assert_eq!(server.receive(&[*byte], &mut scratch), Ok(Heard::Open));
        assert!(scratch.clear.is_empty());
    }
    assert!(server.is_passing());
    assert_eq!(server.peer(), Some("192.0.2.1:5000".parse().unwrap()));
    server.receive(b"mqtt", &mut scratch).unwrap();
    assert_eq!(scratch.clear, b"mqtt");

    // Behind the PROXY header's proxy stands another one, which speaks HTTP.
    let both = door(proxied(Some(WebSocketSpec {
        trusted_proxies: vec!["192.0.2.0/24".parse().unwrap()],
        ..WebSocketSpec::default()
    })));
    let Some(Admitted::Through(mut server)) = both.admit(peer()) else {
        panic!("not admitted")
    };
    let request = upgrade::request("h", "/", "mqtt", [0; 16]).replacen(
        "\r\n",
        "\r\nX-Forwarded-For: 203.0.113.9\r\n",
        1,
    );
    server
        .receive(&[header, request.as_bytes()].concat(), &mut scratch)
        .unwrap();
    assert!(scratch.wire.starts_with(b"HTTP/1.1 101 "));
    assert_eq!(server.peer(), Some("203.0.113.9:0".parse().unwrap()));

    let Some(Admitted::Through(mut server)) = plain.admit(peer()) else {
        panic!("not admitted")
    };
    let fault = server
        .receive(b"\x10\x0c\x00\x04MQTT", &mut scratch)
        .unwrap_err();
    assert_eq!(fault.what, "no PROXY header");
    assert!(scratch.wire.is_empty() && scratch.clear.is_empty());
}

#[test]
fn what_a_client_says_of_itself_hides_nobody() {
    let behind_proxies = |bind: Bind| {
        door(ListenerSpec {
            bind,
            ..spec(
                None,
                Some(WebSocketSpec {
                    trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
                    ..WebSocketSpec::default()
                }),
            )
        })
    };
    let tcp = behind_proxies(Bind::Tcp(peer().unwrap()));
    let unix = behind_proxies(Bind::Unix {
        path: "unused".into(),
        mode: 0o600,
    });
    let named = |door: &Arc<Door>, peer: Option<SocketAddr>, said: &[&str]| {
        let Some(Admitted::Through(mut server)) = door.admit(peer) else {
            panic!("not admitted")
        };
        let fields = said
            .iter()
            .map(|said| format!("\r\nX-Forwarded-For: {said}"));
        let request = upgrade::request("h", "/", "mqtt", [0; 16]).replacen(
            "\r\n",
            &(fields.collect::<String>() + "\r\n"),
            1,
        );
        let mut scratch = Scratch::default();
        server.receive(request.as_bytes(), &mut scratch).unwrap();
        server.take_named_peer().map(|peer| peer.ip().to_string())
    };
    // The proxy appends whom it sees to what the client sent, in the same field or in one more.
    for said in [
        &["x, 198.51.100.7"][..],
        &["x", "198.51.100.7"],
        &["192.0.2.1, x, 198.51.100.7, 127.0.0.9"],
        &["192.0.2.1, x", "198.51.100.7", "127.0.0.9"],
        &["unknown,, 192.0.2.1, 198.51.100.7:80"],
    ] {
        for (door, peer) in [(&tcp, peer()), (&unix, None)] {
            let named = named(door, peer, said);
            assert_eq!(named.as_deref(), Some("198.51.100.7"), "{said:?} {peer:?}");
        }
    }
    // Who stands behind an entry that cannot be read is not known; the last proxy before it is.
    for (said, expected) in [
        (&["192.0.2.1, x"][..], "127.0.0.1"),
        (&["192.0.2.1, x, 127.0.0.9"], "127.0.0.9"),
    ] {
        assert_eq!(named(&tcp, peer(), said).as_deref(), Some(expected));
    }
}

#[test]
fn wrong_files_are_named_and_change_nothing() {
    let here = dir().join("reload");
    fs::create_dir_all(&here).unwrap();
    let [first, second] = certificates();
    let (certificate, key) = (here.join("a.crt"), here.join("a.key"));
    fs::copy(&first.server.0, &certificate).unwrap();
    fs::copy(&first.server.1, &key).unwrap();
    let tls = ServerTls::load(
        &TlsSpec {
            certificates: vec![pair(&(certificate.clone(), key.clone()))],
            ..TlsSpec::default()
        },
        false,
    )
    .unwrap();
    assert!(!tls.has_changed());
    let before = tls.config();
    fs::copy(&second.server.0, &certificate).unwrap();
    assert!(tls.has_changed());
    let error = tls.reload().unwrap_err().to_string();
    assert!(
        error.contains("a.key") && error.contains("does not belong to the certificate"),
        "{error}"
    );
    assert!(
        Arc::ptr_eq(&before, &tls.config()) && !tls.has_changed(),
        "it is not tried again at once"
    );
    fs::copy(&second.server.1, &key).unwrap();
    assert!(tls.has_changed());
    tls.reload().unwrap();
    assert!(!Arc::ptr_eq(&before, &tls.config()));
    for (content, what) in [
        ("", "no certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\n!", "no certificate in PEM"),
    ] {
        fs::write(&certificate, content).unwrap();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains("a.crt") && error.contains(what), "{error}");
    }
    fs::remove_file(&certificate).unwrap();
    assert!(
        tls.reload()
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    fs::remove_dir_all(&here).unwrap();
}

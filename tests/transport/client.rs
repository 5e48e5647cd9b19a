//! A small 3.1.1 client on a blocking socket, through any transport.

use crate::server::certificates;
use ringmq::config::listener::Bind;
use ringmq::net::transport::client::{ClientRoute, ClientTransport, ClientWebSocket};
use ringmq::net::transport::tls_files::{ClientTlsSpec, client_config};
use ringmq::net::transport::{Heard, Scratch};
use rustls::pki_types::ServerName;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

/// How long anything may take.
pub(crate) const ARRIVES: Duration = Duration::from_secs(60);

/// What lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Tls,
    WebSocket,
    Both,
}

impl Kind {
    pub(crate) fn route(self) -> ClientRoute {
        let tls = ClientTlsSpec {
            ca_files: vec![certificates().ca.clone()],
            ..ClientTlsSpec::default()
        };
        self.route_with(&tls)
    }

    pub(crate) fn route_with(self, tls: &ClientTlsSpec) -> ClientRoute {
        let has_tls = matches!(self, Self::Tls | Self::Both);
        let has_websocket = matches!(self, Self::WebSocket | Self::Both);
        ClientRoute {
            tls: has_tls.then(|| {
                let name = ServerName::try_from("localhost").expect("it is a name");
                (client_config(tls).expect("the files are right"), name)
            }),
            websocket: has_websocket.then(|| ClientWebSocket {
                host: "localhost".into(),
                path: "/mqtt".into(),
                protocol: "mqtt",
            }),
        }
    }
}

pub(crate) struct Client {
    pub(crate) socket: Socket,
    transport: Option<ClientTransport>,
    scratch: Scratch,
    clear: Vec<u8>,
    /// How the transport's end was said, once it was.
    pub(crate) end: Option<Result<Heard, String>>,
    /// Whether every byte is a write of its own.
    pub(crate) dribbles: bool,
}

pub(crate) fn socket(bind: &Bind) -> Socket {
    let address = match bind {
        Bind::Tcp(address) => SockAddr::from(*address),
        Bind::Unix { path, .. } => SockAddr::unix(path).expect("the path is short"),
    };
    let socket = Socket::new(
        Domain::from(i32::from(address.family())),
        Type::STREAM,
        None,
    )
    .expect("a socket");
    socket.connect(&address).expect("the broker listens");
    if matches!(bind, Bind::Tcp(_)) {
        socket.set_tcp_nodelay(true).expect("it is TCP");
    }
    socket
        .set_read_timeout(Some(ARRIVES))
        .expect("it is a socket");
    socket
}

impl Client {
    /// A socket with an open transport.
    pub(crate) fn open(bind: &Bind, route: &ClientRoute) -> Self {
        Self::through(socket(bind), route)
    }

    pub(crate) fn through(socket: Socket, route: &ClientRoute) -> Self {
        Self::try_through(socket, route).expect("the transport opens")
    }

    /// As [`Client::through`]; none when the broker does not want it.
    pub(crate) fn try_through(socket: Socket, route: &ClientRoute) -> Option<Self> {
        let transport = ClientTransport::new(route, 1).expect("the configuration works");
        let mut client = Self {
            socket,
            transport: (!route.is_plain()).then_some(transport),
            scratch: Scratch::default(),
            clear: Vec::new(),
            end: None,
            dribbles: false,
        };
        if let Some(transport) = &mut client.transport {
            transport
                .start(&mut client.scratch)
                .expect("nothing was received");
            let wire = std::mem::take(&mut client.scratch.wire);
            client.write(&wire);
        }
        while client
            .transport
            .as_ref()
            .is_some_and(|transport| !transport.is_open())
        {
            if !client.receive() || client.end.is_some() {
                return None;
            }
        }
        Some(client)
    }

    /// Whether the broker lets a client in as far as CONNACK.
    pub(crate) fn is_let_in(bind: &Bind, route: &ClientRoute, client_id: &str) -> bool {
        let Some(mut client) = Self::try_through(socket(bind), route) else {
            return false;
        };
        client.send_connect(client_id);
        client.packet() == Some((0x20, vec![0, 0]))
    }

    /// A session with CONNACK.
    pub(crate) fn connect(bind: &Bind, route: &ClientRoute, client_id: &str) -> Self {
        let mut client = Self::open(bind, route);
        client.hello(client_id);
        client
    }

    pub(crate) fn hello(&mut self, client_id: &str) {
        self.send_connect(client_id);
        assert_eq!(self.packet(), Some((0x20, vec![0, 0])));
    }

    fn send_connect(&mut self, client_id: &str) {
        let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
        text(&mut body, client_id);
        self.send(0x10, &body);
    }

    pub(crate) fn subscribe(&mut self, filter: &str) {
        let mut body = vec![0, 1];
        text(&mut body, filter);
        body.push(0);
        self.send(0x82, &body);
        assert_eq!(self.packet(), Some((0x90, vec![0, 1, 0])));
    }

    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8]) {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend_from_slice(payload);
        self.send(0x30, &body);
    }

    /// Topic and payload of the next PUBLISH of QoS 0.
    pub(crate) fn message(&mut self) -> (String, Vec<u8>) {
        let (kind, body) = self.packet().expect("the connection is open");
        assert_eq!(kind, 0x30);
        let (topic, payload) = body[2..].split_at(usize::from(body[0]) << 8 | usize::from(body[1]));
        (
            String::from_utf8_lossy(topic).into_owned(),
            payload.to_vec(),
        )
    }

    pub(crate) fn send(&mut self, kind: u8, body: &[u8]) {
        let mut packet = vec![kind];
        let mut len = body.len();
        loop {
            let more = if len > 127 { 0x80 } else { 0 };
            packet.push((len & 0x7F) as u8 | more);
            len >>= 7;
            if len == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        self.send_bytes(&packet);
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        let Some(transport) = &mut self.transport else {
            return self.write(bytes);
        };
        let (mut rest, mut wire) = (bytes, Vec::new());
        while !rest.is_empty() {
            let count = transport
                .seal([rest].into_iter(), &mut self.scratch)
                .expect("the keys are good");
            assert!(count > 0);
            wire.extend_from_slice(&self.scratch.wire);
            rest = &rest[count..];
        }
        self.write(&wire);
    }

    /// What a broker that has closed does not take shows when it is read.
    fn write(&mut self, wire: &[u8]) {
        let size = if self.dribbles { 1 } else { wire.len().max(1) };
        for piece in wire.chunks(size) {
            let _ = self.socket.write_all(piece);
        }
    }

    /// The next packet; none at the end.
    pub(crate) fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((packet, len)) = cut(&self.clear) {
                self.clear.drain(..len);
                return Some(packet);
            }
            if !self.receive() {
                return None;
            }
        }
    }

    /// Receives once; false at the end.
    fn receive(&mut self) -> bool {
        let mut chunk = vec![0; 64 << 10];
        let count = match self.socket.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("the broker does not answer: {error}"),
        };
        if count == 0 {
            return false;
        }
        let Some(transport) = &mut self.transport else {
            self.clear.extend_from_slice(&chunk[..count]);
            return true;
        };
        let heard = transport.receive(&chunk[..count], &mut self.scratch);
        self.clear.extend_from_slice(&self.scratch.clear);
        // A broker that has closed its side takes no answer.
        let _ = self.socket.write_all(&self.scratch.wire);
        if heard != Ok(Heard::Open) {
            self.end = Some(heard);
        }
        true
    }
}

fn cut(bytes: &[u8]) -> Option<((u8, Vec<u8>), usize)> {
    let (mut len, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 0x7F) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let body = bytes.get(at..at + len)?;
    Some(((bytes[0], body.to_vec()), at + len))
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&(text.len() as u16).to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

//! What lies between a socket and the bytes of MQTT: PROXY headers, TLS, WebSocket. Both roles, and no I/O.
//!
//! A connection of a plain listener has no transport at all: the driver tests one `Option`. Any other has a
//! [`Transport`] (or, in the connecting role, a [`ClientTransport`](client::ClientTransport)): what the socket
//! received goes in, and out come the bytes of MQTT and the bytes to answer with; what the shard has outbound goes in,
//! and out come the bytes for the socket. It moves with its connection to the core that owns the session.
//!
//! The parsers ([`frame`], [`proxy`], [`upgrade`], [`x509`]) are pure functions of bytes.
//!
//! # Memory
//!
//! Between two calls a connection keeps its keys and what has not arrived whole (a header, a request, a record), and
//! on a socket that is full, what it did not take. Everything else is worked on in the core's one [`Scratch`].
//!
//! # Opening
//!
//! PROXY header, TLS handshake and HTTP request come in this order, each if the listener has it. The shard knows of the
//! connection since it was accepted, so its time to CONNECT covers all of them. Until the shard has sent
//! something, the socket must take at once what a handshake answers; one that does not is closed. So nothing is in
//! flight on a socket that moves.

pub mod client;
pub mod frame;
pub mod proxy;
pub mod tls;
pub mod tls_files;
pub mod upgrade;
pub mod x509;

use crate::config::listener::{Bind, CertificateName, ListenerSpec, Network};
use frame::{CloseCode, FrameReader, Opcode, Role, put_frame};
use proxy::Header;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tls::TlsSession;
use tls_files::{ServerTls, TlsFileError};

/// Bytes of MQTT that are made into one frame, and then into records, at a time.
const SEAL_BYTES_MAX: usize = 32 << 10;
/// Capacity a buffer of the scratch keeps, in bytes.
const SCRATCH_CAPACITY_KEPT: usize = 256 << 10;

/// A listener's description together with the files it names.
#[derive(Debug)]
pub struct Door {
    spec: ListenerSpec,
    tls: Option<ServerTls>,
}

impl Door {
    /// Reads the files that the description names.
    ///
    /// Errors: the first that is missing or wrong.
    pub fn open(spec: ListenerSpec) -> Result<Self, TlsFileError> {
        let is_websocket = spec.websocket.is_some();
        let tls = spec
            .tls
            .as_ref()
            .map(|tls| ServerTls::load(tls, is_websocket))
            .transpose()?;
        Ok(Self { spec, tls })
    }

    /// The description.
    pub fn spec(&self) -> &ListenerSpec {
        &self.spec
    }

    /// Its TLS, for reloading and for what is measured.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }

    /// Whether it is proxies that say where connections come from.
    pub fn is_behind_proxy(&self) -> bool {
        let websocket = self.spec.websocket.as_ref();
        self.spec.proxy.is_some()
            || websocket.is_some_and(|websocket| !websocket.trusted_proxies.is_empty())
    }

    /// Whether it is for a peer to say where its connections come from.
    fn is_proxy(&self, peer: SocketAddr) -> bool {
        let websocket = self.spec.websocket.as_ref();
        self.spec.proxy.is_some()
            || websocket.is_some_and(|websocket| {
                let mut trusted = websocket.trusted_proxies.iter();
                trusted.any(|network| network.contains(peer.ip()))
            })
    }

    /// Whether everybody may come in and nothing lies between the socket and MQTT.
    pub fn is_plain(&self) -> bool {
        let spec = &self.spec;
        self.tls.is_none()
            && spec.websocket.is_none()
            && spec.proxy.is_none()
            && spec.allow.is_empty()
            && spec.deny.is_empty()
    }

    /// Lets a new connection in, or not: none is refused. `peer` is the socket's own word, none for a unix socket only.
    /// Whom a proxy names is judged when it has named it, by [`ListenerSpec::admits`].
    pub fn admit(self: &Arc<Self>, peer: Option<SocketAddr>) -> Option<Admitted> {
        if peer.is_some_and(|peer| !self.is_proxy(peer) && !self.spec.admits(peer.ip())) {
            return None;
        }
        if let Some(proxy) = &self.spec.proxy
            && !is_trusted(peer, &proxy.trusted, &self.spec.bind)
        {
            return None;
        }
        if self.tls.is_none() && self.spec.websocket.is_none() && self.spec.proxy.is_none() {
            return Some(Admitted::Plain);
        }
        // rustls refuses a configuration only for what `ServerTls::load` has checked.
        let tls = self
            .tls
            .as_ref()
            .map(|tls| TlsSession::server(tls.config()))
            .transpose()
            .ok()?;
        Some(Admitted::Through(Box::new(Transport {
            stage: if self.spec.proxy.is_some() {
                Stage::ProxyHeader
            } else {
                Stage::after_proxy_header(self)
            },
            layers: Layers {
                tls,
                websocket: None,
            },
            door: Arc::clone(self),
            held: Vec::new(),
            waiting: Vec::new(),
            unsent: Vec::new(),
            unsent_at: 0,
            peer,
            username: None,
            is_told: false,
            is_named: false,
        })))
    }
}

fn is_trusted(peer: Option<SocketAddr>, trusted: &[Network], bind: &Bind) -> bool {
    match peer {
        Some(peer) => trusted.iter().any(|network| network.contains(peer.ip())),
        // Who can open a unix socket is its mode's business.
        None => matches!(bind, Bind::Unix { .. }),
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub enum Admitted {
    /// It speaks MQTT at once.
    Plain,
    /// It speaks through this.
    Through(Box<Transport>),
}

/// The buffers that one core works in.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Bytes of MQTT that were received.
    pub clear: Vec<u8>,
    /// Bytes for the socket.
    pub wire: Vec<u8>,
    records: Vec<u8>,
    plain: Vec<u8>,
    gathered: Vec<u8>,
    framed: Vec<u8>,
}

impl Scratch {
    /// Empties the two that are shown.
    pub fn clear(&mut self) {
        for buffer in [&mut self.clear, &mut self.wire] {
            buffer.clear();
            buffer.shrink_to(SCRATCH_CAPACITY_KEPT);
        }
    }
}

/// Why a transport ends a connection, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For the log.
    pub what: &'static str,
}

/// What bytes from the socket led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// More may come.
    Open,
    /// The peer has said good-bye in the transport's own way, and been answered.
    Closed,
}

/// How far the opening has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    ProxyHeader,
    /// The TLS handshake.
    Handshake,
    /// The HTTP request.
    Request,
    Open,
    /// Nothing is sent any more: the good-bye is said, or something went wrong.
    Over,
}

impl Stage {
    fn after_proxy_header(door: &Door) -> Self {
        match (&door.tls, &door.spec.websocket) {
            (Some(_), _) => Self::Handshake,
            (None, Some(_)) => Self::Request,
            (None, None) => Self::Open,
        }
    }
}

/// What lies between one accepted socket and its bytes of MQTT.
#[derive(Debug)]
pub struct Transport {
    door: Arc<Door>,
    stage: Stage,
    layers: Layers,
    /// A PROXY header or an HTTP request that has not arrived whole.
    held: Vec<u8>,
    /// Received bytes that wait for their turn in the handshake.
    waiting: Vec<u8>,
    /// What a full socket did not take, and how much of it has left since.
    unsent: Vec<u8>,
    unsent_at: usize,
    peer: Option<SocketAddr>,
    username: Option<Box<str>>,
    is_told: bool,
    is_named: bool,
}

impl Transport {
    /// The peer as the proxies that are trusted name it; none for a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Whether bytes pass through unchanged: only a PROXY header was to be taken off.
    pub fn is_passing(&self) -> bool {
        self.stage == Stage::Open && self.layers.tls.is_none() && self.layers.websocket.is_none()
    }

    /// Whether the next bytes may cost what a handshake costs.
    pub fn is_handshaking(&self) -> bool {
        self.layers
            .tls
            .as_ref()
            .is_some_and(TlsSession::is_handshaking)
            && self.stage != Stage::Over
    }

    /// Where the peer is, once, when it can send MQTT and it was for proxies to say.
    pub fn take_named_peer(&mut self) -> Option<SocketAddr> {
        if self.stage != Stage::Open || self.is_named || !self.door.is_behind_proxy() {
            return None;
        }
        self.is_named = true;
        self.peer
    }

    /// Who the peer has proved to be, once, when it can send MQTT: the User Name of its certificate.
    pub fn take_identity(&mut self) -> Option<Box<str>> {
        if self.stage != Stage::Open || self.is_told {
            return None;
        }
        self.is_told = true;
        self.username.clone()
    }

    /// The same, whether it was told or not: for the core to which the connection moves.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Keeps bytes until [`Transport::take_waiting`]; whether others wait already.
    pub fn wait(&mut self, bytes: &[u8]) -> bool {
        let is_first = self.waiting.is_empty();
        self.waiting.extend_from_slice(bytes);
        !is_first
    }

    /// Whether bytes wait.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The bytes that wait.
    pub fn take_waiting(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.waiting)
    }

    /// Takes what the socket received. `scratch` then has the bytes of MQTT in it, and those to answer with at once.
    ///
    /// Errors: the connection is to be closed after the answer; the bytes of MQTT before the fault still count.
    pub fn receive(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Result<Heard, Fault> {
        scratch.clear();
        let heard = match self.stage {
            Stage::ProxyHeader => self.receive_proxy_header(bytes, scratch),
            Stage::Over => Ok(Heard::Open),
            _ => self.receive_records(bytes, scratch),
        };
        match heard {
            Ok(Heard::Closed) => self.farewell(None, scratch),
            Err(fault) if self.stage != Stage::Over => {
                self.layers.close_tls(scratch);
                self.stage = Stage::Over;
                return Err(fault);
            }
            _ => {}
        }
        heard
    }

    fn receive_proxy_header(
        &mut self,
        bytes: &[u8],
        scratch: &mut Scratch,
    ) -> Result<Heard, Fault> {
        self.held.extend_from_slice(bytes);
        match proxy::parse(&self.held) {
            Ok(Header::Incomplete) => Ok(Heard::Open),
            Ok(Header::Whole { len, source }) => {
                let held = std::mem::take(&mut self.held);
                self.peer = source.or(self.peer);
                self.stage = Stage::after_proxy_header(&self.door);
                self.receive_records(&held[len..], scratch)
            }
            Err(what) => Err(Fault { what }),
        }
    }

    fn receive_records(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Result<Heard, Fault> {
        if self.layers.tls.is_none() {
            return self.receive_plain(bytes, scratch);
        }
        let mut plain = std::mem::take(&mut scratch.plain);
        plain.clear();
        let heard = self
            .layers
            .decrypt(bytes, &mut plain, scratch)
            .and_then(|heard| {
                if self.stage == Stage::Handshake && !self.is_handshaking() {
                    self.read_certificate()?;
                    self.stage = match self.door.spec.websocket {
                        Some(_) => Stage::Request,
                        None => Stage::Open,
                    };
                }
                let heard_above = self.receive_plain(&plain, scratch)?;
                Ok(if heard_above == Heard::Closed {
                    heard_above
                } else {
                    heard
                })
            });
        plain.shrink_to(SCRATCH_CAPACITY_KEPT);
        scratch.plain = plain;
        heard
    }

    fn receive_plain(&mut self, plain: &[u8], scratch: &mut Scratch) -> Result<Heard, Fault> {
        match self.stage {
            Stage::Request => self.receive_request(plain, scratch),
            Stage::Open => {
                // Who does not read its answers gets no more of them.
                let answers_pings = self.unsent.is_empty();
                self.layers.unframe(plain, answers_pings, scratch)
            }
            // Nothing is said before the handshake is done.
            _ => Ok(Heard::Open),
        }
    }

    fn receive_request(&mut self, plain: &[u8], scratch: &mut Scratch) -> Result<Heard, Fault> {
        let Some(spec) = &self.door.spec.websocket else {
            return Ok(Heard::Open);
        };
        self.held.extend_from_slice(plain);
        match upgrade::accept(&self.held, spec) {
            Ok(None) => Ok(Heard::Open),
            Ok(Some(granted)) => {
                self.layers.send(granted.answer.as_bytes(), scratch)?;
                self.peer = behind(self.peer, &granted.forwarded_for, &spec.trusted_proxies);
                self.layers.websocket = Some(WebSocket::server());
                self.stage = Stage::Open;
                let held = std::mem::take(&mut self.held);
                self.layers.unframe(&held[granted.len..], true, scratch)
            }
            Err(refusal) => {
                self.layers
                    .send(upgrade::refusal(refusal).as_bytes(), scratch)?;
                Err(Fault { what: refusal.what })
            }
        }
    }

    fn read_certificate(&mut self) -> Result<(), Fault> {
        let from = self
            .door
            .spec
            .tls
            .as_ref()
            .map_or(CertificateName::None, |tls| tls.username_from);
        let certificate = self
            .layers
            .tls
            .as_ref()
            .and_then(TlsSession::peer_certificate);
        let (Some(certificate), true) = (certificate, from != CertificateName::None) else {
            return Ok(());
        };
        let name = x509::name(certificate, from).ok_or(Fault {
            what: "the client's certificate has not the name that is its User Name",
        })?;
        self.username = Some(name.into());
        Ok(())
    }

    /// Makes the bytes for the socket from some of the outbound ones, in `scratch.wire`, and returns how many of
    /// the outbound ones that were.
    ///
    /// Errors: the keys are used up (TLS 1.2 cannot renew them); the connection is to be closed.
    pub fn seal<'a>(
        &mut self,
        outbound: impl Iterator<Item = &'a [u8]>,
        scratch: &mut Scratch,
    ) -> Result<usize, Fault> {
        scratch.clear();
        if self.stage != Stage::Open {
            return Ok(0);
        }
        self.layers.seal(outbound, scratch)
    }

    /// Says good-bye, once: what is to be sent for it is appended to `scratch.wire`. Nothing is sent after it.
    pub fn farewell(&mut self, code: Option<CloseCode>, scratch: &mut Scratch) {
        if self.stage == Stage::Open {
            // Without it the peer sees the end of the connection all the same.
            let _ = self.layers.close_websocket(code, scratch);
        }
        if self.stage != Stage::Over {
            self.layers.close_tls(scratch);
            self.stage = Stage::Over;
        }
    }

    /// What a full socket did not take.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent[self.unsent_at..]
    }

    /// The socket took this much of it.
    pub fn sent(&mut self, bytes: usize) {
        self.unsent_at += bytes;
        if self.unsent().is_empty() {
            self.unsent = Vec::new();
            self.unsent_at = 0;
        }
    }

    /// The socket did not take these bytes; they follow those that it did not take before.
    pub fn keep_unsent(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }
}

fn behind(
    peer: Option<SocketAddr>,
    forwarded_for: &[IpAddr],
    trusted: &[Network],
) -> Option<SocketAddr> {
    if forwarded_for.is_empty() || trusted.is_empty() {
        return peer;
    }
    match peer {
        Some(peer) => {
            let client = upgrade::client_behind(peer.ip(), forwarded_for, trusted);
            let port = if client == peer.ip() { peer.port() } else { 0 };
            Some(SocketAddr::new(client, port))
        }
        // A proxy on a unix socket of this machine.
        None => {
            let (last, rest) = forwarded_for.split_last()?;
            Some(SocketAddr::new(
                upgrade::client_behind(*last, rest, trusted),
                0,
            ))
        }
    }
}

/// The layers of a connection in either role.
#[derive(Debug)]
struct Layers {
    tls: Option<TlsSession>,
    /// Once it is agreed on.
    websocket: Option<WebSocket>,
}

#[derive(Debug)]
struct WebSocket {
    reader: FrameReader,
    /// Whether a Close frame was sent.
    is_closed: bool,
    /// What the peer's Close frame said, to be echoed.
    heard_code: Option<CloseCode>,
    /// Where a client's masks come from.
    masks: Option<Masks>,
}

impl WebSocket {
    fn server() -> Self {
        Self::new(Role::Server, None)
    }

    fn client(masks: Masks) -> Self {
        Self::new(Role::Client, Some(masks))
    }

    fn new(role: Role, masks: Option<Masks>) -> Self {
        Self {
            reader: FrameReader::new(role),
            is_closed: false,
            heard_code: None,
            masks,
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
        let mask = self.masks.as_mut().map(Masks::next);
        put_frame(out, opcode, mask, [payload]);
    }
}

/// Masks keep pages from putting text of their choice on the wire (RFC 6455 §10.3). What runs here is no page, so
/// they need not be secret: this is SplitMix64.
#[derive(Debug)]
struct Masks(u64);

impl Masks {
    fn next(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) as u32).to_ne_bytes()
    }
}

impl Layers {
    fn decrypt(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<Heard, Fault> {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(bytes);
            return Ok(Heard::Open);
        };
        let received = tls.receive(bytes, &mut scratch.records, plain, &mut scratch.wire);
        scratch.records.shrink_to(SCRATCH_CAPACITY_KEPT);
        received.map_err(|error| Fault {
            what: describe(&error),
        })?;
        Ok(if tls.is_closed() {
            Heard::Closed
        } else {
            Heard::Open
        })
    }

    /// Takes bytes out of their frames, if there are frames, and answers Pings if it is to.
    fn unframe(
        &mut self,
        plain: &[u8],
        answers_pings: bool,
        scratch: &mut Scratch,
    ) -> Result<Heard, Fault> {
        let Some(websocket) = &mut self.websocket else {
            scratch.clear.extend_from_slice(plain);
            return Ok(Heard::Open);
        };
        if websocket.is_closed {
            return Ok(Heard::Open);
        }
        let mut answers = std::mem::take(&mut scratch.framed);
        answers.clear();
        let masks = &mut websocket.masks;
        // Only the last Ping needs an answer (RFC 6455 §5.5.3), so a peer cannot make us hold many.
        let heard = websocket.reader.read(plain, &mut scratch.clear, |ping| {
            if !answers_pings {
                return;
            }
            answers.clear();
            put_frame(
                &mut answers,
                Opcode::Pong,
                masks.as_mut().map(Masks::next),
                [ping],
            );
        });
        let sent = self.send(&answers, scratch);
        scratch.framed = answers;
        sent?;
        match heard {
            Ok(frame::Heard::Open) => Ok(Heard::Open),
            Ok(frame::Heard::Close(code)) => {
                if let Some(websocket) = &mut self.websocket {
                    websocket.heard_code = code;
                }
                Ok(Heard::Closed)
            }
            Err(error) => {
                self.close_websocket(Some(error.code), scratch)?;
                Err(Fault { what: error.what })
            }
        }
    }

    /// Sends whole bytes through TLS, if there is TLS.
    fn send(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.tls {
            Some(tls) => tls.seal(bytes, &mut scratch.wire).map_err(|error| Fault {
                what: describe(&error),
            }),
            None => {
                scratch.wire.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Frames and encrypts some of the outbound bytes, and returns how many.
    fn seal<'a>(
        &mut self,
        outbound: impl Iterator<Item = &'a [u8]>,
        scratch: &mut Scratch,
    ) -> Result<usize, Fault> {
        let mut gathered = std::mem::take(&mut scratch.gathered);
        gathered.clear();
        for slice in outbound {
            let room = SEAL_BYTES_MAX - gathered.len();
            gathered.extend_from_slice(&slice[..slice.len().min(room)]);
            if slice.len() >= room {
                break;
            }
        }
        let count = gathered.len();
        let sent = if count == 0 {
            Ok(())
        } else if let Some(websocket) = &mut self.websocket {
            let mut framed = std::mem::take(&mut scratch.framed);
            framed.clear();
            websocket.put(&mut framed, Opcode::Binary, &gathered);
            let sent = self.send(&framed, scratch);
            scratch.framed = framed;
            sent
        } else {
            self.send(&gathered, scratch)
        };
        scratch.gathered = gathered;
        sent.map(|()| count)
    }

    /// Sends a Close frame unless one was sent: with the peer's code if it closed first, else with `code`.
    fn close_websocket(
        &mut self,
        code: Option<CloseCode>,
        scratch: &mut Scratch,
    ) -> Result<(), Fault> {
        let Some(websocket) = self
            .websocket
            .as_mut()
            .filter(|websocket| !websocket.is_closed)
        else {
            return Ok(());
        };
        websocket.is_closed = true;
        let code = websocket
            .heard_code
            .or(code)
            .map(|code| code.0.to_be_bytes());
        let mut frame = Vec::new();
        websocket.put(
            &mut frame,
            Opcode::Close,
            code.as_ref().map_or(&[], |code| code),
        );
        self.send(&frame, scratch)
    }

    fn close_tls(&mut self, scratch: &mut Scratch) {
        if let Some(tls) = &mut self.tls {
            tls.close(&mut scratch.wire);
        }
    }
}

/// What went wrong with TLS, for a log that tells one kind of trouble from another.
fn describe(error: &rustls::Error) -> &'static str {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error};
    match error {
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => "no TLS",
        Error::InappropriateHandshakeMessage { .. } => "a TLS handshake out of order",
        Error::NoCertificatesPresented => "the client shows no certificate",
        Error::NoApplicationProtocol => "TLS: no application protocol in common (ALPN)",
        Error::PeerIncompatible(_) => "TLS: no version or cipher suite in common",
        Error::PeerMisbehaved(_) => "a breach of TLS",
        Error::DecryptError => "TLS: a record that cannot be decrypted",
        Error::PeerSentOversizedRecord => "TLS: a record that is too long",
        Error::EncryptError => "TLS: the keys are used up",
        Error::InvalidCertificate(certificate) => match certificate {
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                "the certificate has expired"
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "the certificate is not valid yet"
            }
            Certificate::Revoked => "the certificate is revoked",
            Certificate::UnknownRevocationStatus => "no revocation list tells of the certificate",
            Certificate::ExpiredRevocationList
            | Certificate::ExpiredRevocationListContext { .. } => "the revocation list has expired",
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "the certificate is not valid for the server's name"
            }
            Certificate::InvalidPurpose | Certificate::InvalidPurposeContext { .. } => {
                "the certificate is for another purpose"
            }
            // The latter when two authorities have the same name.
            Certificate::UnknownIssuer | Certificate::BadSignature => {
                "the certificate is not signed by a known authority"
            }
            _ => "the certificate is not valid",
        },
        Error::AlertReceived(alert) => match alert {
            Alert::BadCertificate => "the peer says: bad certificate",
            Alert::CertificateExpired => "the peer says: certificate expired",
            Alert::CertificateRevoked => "the peer says: certificate revoked",
            Alert::CertificateRequired => "the peer says: a certificate is required",
            Alert::CertificateUnknown => "the peer says: certificate unknown",
            Alert::UnknownCA => "the peer says: unknown authority",
            Alert::HandshakeFailure => "the peer says: handshake failure",
            Alert::ProtocolVersion => "the peer says: another version of TLS",
            Alert::NoApplicationProtocol => {
                "the peer says: no application protocol in common (ALPN)"
            }
            _ => "the peer ended TLS with an alert",
        },
        Error::HandshakeNotComplete => "the TLS handshake is not complete",
        _ => "TLS failed",
    }
}

#[cfg(test)]
mod tests;

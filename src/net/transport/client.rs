//! The connecting role: what a client puts between its socket and its bytes of MQTT.

use super::frame::CloseCode;
use super::tls::TlsSession;
use super::{Fault, Heard, Layers, Masks, Scratch, WebSocket, describe, upgrade};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;

/// What a connection goes through, the same for all connections to one broker.
#[derive(Clone, Debug, Default)]
pub struct ClientRoute {
    /// TLS, and the name that the server's certificate must be valid for.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// WebSocket.
    pub websocket: Option<ClientWebSocket>,
}

impl ClientRoute {
    /// Whether there is nothing between the socket and MQTT.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none() && self.websocket.is_none()
    }
}

/// What a client asks for when it makes a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientWebSocket {
    /// `Host` of the request: with the port, unless it is the usual one.
    pub host: String,
    /// The path, such as `/mqtt`.
    pub path: String,
    /// The subprotocol: `mqtt`, or `mqttv3.1` for MQTT 3.1.
    pub protocol: &'static str,
}

/// One connection.
///
/// Begin with [`ClientTransport::start`] when the socket is connected; then give [`ClientTransport::receive`] what the
/// socket receives, and [`ClientTransport::seal`] what is to be sent, once [`ClientTransport::is_open`] says so.
/// After each of them `Scratch::wire` is to be written to the socket, in order and whole.
#[derive(Debug)]
pub struct ClientTransport {
    layers: Layers,
    /// While the server's answer is waited for: what was asked, and the part of the answer that has come.
    asked: Option<Asked>,
    is_over: bool,
}

#[derive(Debug)]
struct Asked {
    websocket: ClientWebSocket,
    key: [u8; 16],
    masks: Masks,
    is_sent: bool,
    answer: Vec<u8>,
}

impl ClientTransport {
    /// A connection that has sent nothing. `seed` makes the WebSocket's key and masks; different connections should
    /// have different ones.
    ///
    /// Errors: the TLS configuration does not work, in words.
    pub fn new(route: &ClientRoute, seed: u64) -> Result<Self, String> {
        let tls = match &route.tls {
            Some((config, name)) => {
                let session = TlsSession::client(Arc::clone(config), name.clone());
                Some(session.map_err(|error| error.to_string())?)
            }
            None => None,
        };
        let mut masks = Masks(seed);
        let mut key = [0; 16];
        key.as_chunks_mut::<4>().0.fill_with(|| masks.next());
        Ok(Self {
            layers: Layers {
                tls,
                websocket: None,
            },
            asked: route.websocket.clone().map(|websocket| Asked {
                websocket,
                key,
                masks,
                is_sent: false,
                answer: Vec::new(),
            }),
            is_over: false,
        })
    }

    /// Makes the first bytes.
    ///
    /// Errors: as [`ClientTransport::receive`].
    pub fn start(&mut self, scratch: &mut Scratch) -> Result<(), String> {
        self.receive(&[], scratch).map(drop)
    }

    /// Whether MQTT can be sent.
    pub fn is_open(&self) -> bool {
        self.asked.is_none()
            && !self.is_over
            && !self
                .layers
                .tls
                .as_ref()
                .is_some_and(TlsSession::is_handshaking)
    }

    /// Whether the TLS session continues an earlier one.
    pub fn is_resumed(&self) -> bool {
        self.layers.tls.as_ref().is_some_and(TlsSession::is_resumed)
    }

    /// Takes what the socket received: the bytes of MQTT are then in `scratch.clear`.
    ///
    /// Errors: what the server did, in words; `scratch.wire` still has to be written.
    pub fn receive(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Result<Heard, String> {
        scratch.clear();
        if self.is_over {
            return Ok(Heard::Open);
        }
        let heard = self.receive_records(bytes, scratch);
        match &heard {
            Ok(Heard::Open) => {}
            Ok(Heard::Closed) => self.close(None, scratch),
            Err(_) => {
                self.layers.close_tls(scratch);
                self.is_over = true;
            }
        }
        heard
    }

    fn receive_records(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Result<Heard, String> {
        let mut plain = std::mem::take(&mut scratch.plain);
        plain.clear();
        let heard = match self.layers.decrypt_for_client(bytes, &mut plain, scratch) {
            Ok(heard) => self
                .receive_plain(&plain, scratch)
                .map(|above| if above == Heard::Closed { above } else { heard }),
            Err(error) => Err(error),
        };
        scratch.plain = plain;
        heard
    }

    fn receive_plain(&mut self, plain: &[u8], scratch: &mut Scratch) -> Result<Heard, String> {
        if self
            .layers
            .tls
            .as_ref()
            .is_some_and(TlsSession::is_handshaking)
        {
            return Ok(Heard::Open);
        }
        let words = |fault: Fault| fault.what.to_owned();
        let Some(asked) = &mut self.asked else {
            return self.layers.unframe(plain, true, scratch).map_err(words);
        };
        if !asked.is_sent {
            asked.is_sent = true;
            let ClientWebSocket {
                host,
                path,
                protocol,
            } = &asked.websocket;
            let request = upgrade::request(host, path, protocol, asked.key);
            self.layers
                .send(request.as_bytes(), scratch)
                .map_err(words)?;
        }
        asked.answer.extend_from_slice(plain);
        let Some(len) = upgrade::check_answer(&asked.answer, asked.key)? else {
            return Ok(Heard::Open);
        };
        let Some(Asked { answer, masks, .. }) = self.asked.take() else {
            return Ok(Heard::Open);
        };
        self.layers.websocket = Some(WebSocket::client(masks));
        self.layers
            .unframe(&answer[len..], true, scratch)
            .map_err(words)
    }

    /// Makes `scratch.wire` from bytes of MQTT, and returns how many of them it took.
    ///
    /// Errors: the keys are used up.
    pub fn seal<'a>(
        &mut self,
        outbound: impl Iterator<Item = &'a [u8]>,
        scratch: &mut Scratch,
    ) -> Result<usize, String> {
        scratch.clear();
        if !self.is_open() {
            return Ok(0);
        }
        self.layers
            .seal(outbound, scratch)
            .map_err(|fault| fault.what.to_owned())
    }

    /// Says good-bye, once: what is to be sent for it is appended to `scratch.wire`.
    pub fn close(&mut self, code: Option<CloseCode>, scratch: &mut Scratch) {
        if self.is_open() {
            // Without it the server sees the end of the connection all the same.
            let _ = self.layers.close_websocket(code, scratch);
        }
        if !self.is_over {
            self.layers.close_tls(scratch);
            self.is_over = true;
        }
    }
}

impl Layers {
    /// As [`Layers::decrypt`], with rustls' own words: a person reads them.
    fn decrypt_for_client(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> Result<Heard, String> {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(bytes);
            return Ok(Heard::Open);
        };
        let received = tls.receive(bytes, &mut scratch.records, plain, &mut scratch.wire);
        received.map_err(|error| match describe(&error) {
            "TLS failed" => error.to_string(),
            what => format!("{what} ({error})"),
        })?;
        Ok(if tls.is_closed() {
            Heard::Closed
        } else {
            Heard::Open
        })
    }
}

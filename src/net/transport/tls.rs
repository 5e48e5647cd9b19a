//! One TLS connection, either end of it, without a socket: records in, bytes out, and the other way round.
//!
//! rustls' unbuffered interface is used, so that nothing is kept between calls but the keys and a record that has not
//! arrived whole. What one core works on at a time lies in [`Scratch`](super::Scratch), which all its connections
//! share.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedConnectionCommon,
    UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// Bytes of an unfinished handshake that are kept; rustls takes messages of 64 KiB.
const HANDSHAKE_BYTES_MAX: usize = 96 << 10;
/// The most that a record adds to its content, in either version.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// The most that a record holds.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// Header of a record.
const RECORD_HEAD_BYTES: usize = 5;

/// A TLS connection.
pub struct TlsSession {
    end: End,
    /// Records that have not arrived whole.
    ///
    /// rustls remembers places in these bytes, so every call gets them.
    carry: Vec<u8>,
    is_closed: bool,
    /// It failed: rustls is not to be called any more.
    is_over: bool,
}

enum End {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession")
            .field("is_handshaking", &self.is_handshaking())
            .finish_non_exhaustive()
    }
}

impl TlsSession {
    /// The accepting end.
    ///
    /// Errors: the configuration does not work.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(|conn| Self::new(End::Server(Box::new(conn))))
    }

    /// The connecting end. Its first [`TlsSession::receive`], without bytes, makes the first message.
    ///
    /// Errors: the configuration does not work.
    pub fn client(config: Arc<ClientConfig>, server: ServerName<'static>) -> Result<Self, Error> {
        UnbufferedClientConnection::new(config, server)
            .map(|conn| Self::new(End::Client(Box::new(conn))))
    }

    fn new(end: End) -> Self {
        Self {
            end,
            carry: Vec::new(),
            is_closed: false,
            is_over: false,
        }
    }

    /// Whether the keys are not agreed on yet, or the peer has not proved who it is.
    pub fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Whether the peer said that it sends no more.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The peer's certificate, if it showed one.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.state().peer_certificates()?.first()
    }

    /// Whether the keys come from an earlier connection.
    pub fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    fn state(&self) -> &CommonState {
        match &self.end {
            End::Server(conn) => conn,
            End::Client(conn) => conn,
        }
    }

    /// Takes what the socket received. What it says is appended to `plain`, what is to be answered to `wire`.
    ///
    /// Errors: the connection is over; `wire` has the alert that tells the peer.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        records: &mut Vec<u8>,
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if self.is_closed || self.is_over {
            // Nothing after a close_notify counts.
            return Ok(());
        }
        if self.is_record_short_of(bytes.len()) {
            self.carry.extend_from_slice(bytes);
            return Ok(());
        }
        records.clear();
        records.extend_from_slice(&self.carry);
        records.extend_from_slice(bytes);
        let read = match &mut self.end {
            End::Server(conn) => read(&mut ***conn, records, plain, wire),
            End::Client(conn) => read(&mut ***conn, records, plain, wire),
        };
        self.is_over = read.is_err();
        let Read { taken, is_closed } = read?;
        self.is_closed = is_closed;
        let rest = &records[taken..];
        if rest.is_empty() || is_closed {
            self.carry = Vec::new();
        } else if rest.len() > HANDSHAKE_BYTES_MAX {
            self.is_over = true;
            return Err(Error::General("the handshake is too long".into()));
        } else {
            self.carry.clear();
            self.carry.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Whether what is kept is the first part of a record that is not whole with `more` bytes either.
    fn is_record_short_of(&self, more: usize) -> bool {
        let have = self.carry.len() + more;
        match self.carry.get(3..RECORD_HEAD_BYTES) {
            Some(len) => have < RECORD_HEAD_BYTES + usize::from(len[0]) * 256 + usize::from(len[1]),
            None => false,
        }
    }

    /// Appends `plain`, encrypted, to `wire`.
    ///
    /// Errors: the handshake is not done, or the keys are used up.
    pub fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), Error> {
        if self.is_over {
            return Err(Error::EncryptError);
        }
        match &mut self.end {
            End::Server(conn) => seal(&mut ***conn, &mut self.carry, plain, wire),
            End::Client(conn) => seal(&mut ***conn, &mut self.carry, plain, wire),
        }
    }

    /// Appends close_notify to `wire`: nothing is sent after it. Before the handshake is done there is none.
    pub fn close(&mut self, wire: &mut Vec<u8>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        match &mut self.end {
            End::Server(conn) => close(&mut ***conn, &mut self.carry, wire),
            End::Client(conn) => close(&mut ***conn, &mut self.carry, wire),
        }
    }
}

/// What both ends have, but no trait of rustls.
trait Records<Data> {
    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Data>;

    /// Whether rustls has something to send itself.
    fn wants_write(&self) -> bool;
}

impl Records<ServerConnectionData> for UnbufferedConnectionCommon<ServerConnectionData> {
    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(records)
    }

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

impl Records<ClientConnectionData> for UnbufferedConnectionCommon<ClientConnectionData> {
    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(records)
    }

    fn wants_write(&self) -> bool {
        CommonState::wants_write(self)
    }
}

struct Read {
    /// Bytes of the records that are done with.
    taken: usize,
    is_closed: bool,
}

fn read<Data>(
    conn: &mut impl Records<Data>,
    records: &mut [u8],
    plain: &mut Vec<u8>,
    wire: &mut Vec<u8>,
) -> Result<Read, Error> {
    let mut read = Read {
        taken: 0,
        is_closed: false,
    };
    loop {
        let UnbufferedStatus { mut discard, state } = conn.process(&mut records[read.taken..]);
        let is_done = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                put(wire, 0, |room| message.encode(room).map_err(encode_size))?;
                false
            }
            Ok(ConnectionState::TransmitTlsData(transmit)) => {
                transmit.done();
                false
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                read.is_closed = true;
                true
            }
            // Early data is not offered, so none comes.
            Ok(_) => true,
            Err(error) => {
                put_alert(conn, &mut records[read.taken + discard..], wire);
                return Err(error);
            }
        };
        read.taken += discard;
        if is_done {
            return Ok(read);
        }
    }
}

/// Appends the alert that an error has left behind.
fn put_alert<Data>(conn: &mut impl Records<Data>, records: &mut [u8], wire: &mut Vec<u8>) {
    // What is to be sent comes before what is to be read. Once it has come, rustls would only fail again.
    while conn.wants_write()
        && let Ok(ConnectionState::EncodeTlsData(mut message)) = conn.process(records).state
    {
        if put(wire, 0, |room| message.encode(room).map_err(encode_size)).is_err() {
            return;
        }
    }
}

fn seal<Data>(
    conn: &mut impl Records<Data>,
    carry: &mut Vec<u8>,
    plain: &[u8],
    wire: &mut Vec<u8>,
) -> Result<(), Error> {
    let records = plain.len() / RECORD_BYTES_MAX + 1;
    let guess = plain.len() + records * RECORD_OVERHEAD_BYTES;
    with_traffic(conn, carry, wire, |traffic, wire| {
        put(wire, guess, |room| {
            traffic.encrypt(plain, room).map_err(encrypt_size)
        })
    })
}

fn close<Data>(conn: &mut impl Records<Data>, carry: &mut Vec<u8>, wire: &mut Vec<u8>) {
    // Without it the peer sees the end of the connection all the same.
    let _ = with_traffic(conn, carry, wire, |traffic, wire| {
        put(wire, 0, |room| {
            traffic.queue_close_notify(room).map_err(encrypt_size)
        })
    });
}

/// Calls `write` when application data can be sent, after what rustls has to say itself.
fn with_traffic<Data>(
    conn: &mut impl Records<Data>,
    carry: &mut Vec<u8>,
    wire: &mut Vec<u8>,
    write: impl FnOnce(&mut WriteTraffic<'_, Data>, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        let UnbufferedStatus { discard, state } = conn.process(carry);
        match state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                write(&mut traffic, wire)?;
                carry.drain(..discard);
                return Ok(());
            }
            ConnectionState::EncodeTlsData(mut message) => {
                put(wire, 0, |room| message.encode(room).map_err(encode_size))?;
            }
            ConnectionState::TransmitTlsData(transmit) => transmit.done(),
            // Told once; after it data may still be sent.
            ConnectionState::PeerClosed => {}
            _ => return Err(Error::HandshakeNotComplete),
        }
        carry.drain(..discard);
    }
}

/// The room that is missing, or nothing when something else is wrong.
fn encode_size(error: EncodeError) -> Option<usize> {
    match error {
        EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
            Some(required_size)
        }
        EncodeError::AlreadyEncoded => None,
    }
}

fn encrypt_size(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => {
            Some(required_size)
        }
        EncryptError::EncryptExhausted => None,
    }
}

/// Appends what `write` writes into a room that is `guess` bytes long, or as long as it says.
fn put(
    wire: &mut Vec<u8>,
    guess: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let start = wire.len();
    wire.resize(start + guess, 0);
    let mut result = write(&mut wire[start..]);
    if let Err(Some(size)) = result {
        wire.resize(start + size, 0);
        result = write(&mut wire[start..]);
    }
    wire.truncate(start + result.unwrap_or(0));
    result.map(drop).map_err(|_| Error::EncryptError)
}

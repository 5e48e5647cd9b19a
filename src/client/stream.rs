//! A client's socket with what lies between it and MQTT: one thread reads, another writes.
//!
//! Everything a transport makes for the socket goes into one queue, in the order in which it was made; only the holder
//! of the socket's lock takes it out. So nobody waits for a lock while a full socket makes another wait, and
//! the reader goes on whatever the writer waits for.

use super::target::{Endpoint, Target};
use crate::net::transport::client::{ClientRoute, ClientTransport};
use crate::net::transport::frame::CloseCode;
use crate::net::transport::{Heard, Scratch};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Shutdown, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// An open stream; its clones share it.
#[derive(Clone)]
pub(super) struct Stream {
    socket: Arc<Socket>,
    through: Option<Arc<Through>>,
}

struct Through {
    state: Mutex<State>,
    /// Who may write to the socket.
    writer: Mutex<()>,
}

struct State {
    transport: ClientTransport,
    scratch: Scratch,
    /// For the socket.
    to_send: Vec<u8>,
    /// MQTT that came before anybody read it.
    early: Vec<u8>,
}

impl Stream {
    /// Connects, and opens what lies between; all within `timeout`.
    pub(super) fn open(target: &Target, timeout: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + timeout;
        let socket = Arc::new(connect(&target.endpoint, timeout)?);
        if target.route.is_plain() {
            return Ok(Self {
                socket,
                through: None,
            });
        }
        let through = Through {
            state: Mutex::new(State::new(&target.route)?),
            writer: Mutex::new(()),
        };
        let stream = Self {
            socket,
            through: Some(Arc::new(through)),
        };
        stream.handshake(deadline)?;
        Ok(stream)
    }

    fn handshake(&self, deadline: Instant) -> io::Result<()> {
        let Some(through) = &self.through else {
            return Ok(());
        };
        let mut chunk = vec![0; CHUNK_BYTES];
        {
            let mut state = lock(&through.state);
            let State {
                transport,
                scratch,
                to_send,
                ..
            } = &mut *state;
            transport.start(scratch).map_err(io::Error::other)?;
            to_send.extend_from_slice(&scratch.wire);
        }
        self.flush(through)?;
        while !lock(&through.state).transport.is_open() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            let count = match (&*self.socket).read(&mut chunk) {
                Ok(0) => {
                    return Err(io::Error::other(
                        "the server closed the connection during the handshake",
                    ));
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            let heard = lock(&through.state).receive(&chunk[..count]);
            self.flush(through)?;
            if heard? == Heard::Closed {
                return Err(io::Error::other(
                    "the server closed the connection during the handshake",
                ));
            }
        }
        self.socket.set_read_timeout(None)
    }

    /// Appends what the server sends to `out` and returns how many bytes of MQTT that were; 0 at the end.
    pub(super) fn read(&self, out: &mut Vec<u8>) -> io::Result<usize> {
        let start = out.len();
        if let Some(through) = &self.through {
            out.append(&mut lock(&through.state).early);
        }
        while out.len() == start {
            let mut chunk = [0; CHUNK_BYTES];
            let count = match (&*self.socket).read(&mut chunk) {
                Ok(0) => return Ok(0),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let Some(through) = &self.through else {
                out.extend_from_slice(&chunk[..count]);
                break;
            };
            let mut state = lock(&through.state);
            let heard = state.receive(&chunk[..count]);
            out.append(&mut state.early);
            drop(state);
            // Whoever is writing also sends what was answered; so does the next one who writes.
            if let Ok(writer) = through.writer.try_lock() {
                self.send_all(through, writer)?;
            }
            if heard? == Heard::Closed {
                break;
            }
        }
        Ok(out.len() - start)
    }

    /// Sends whole packets.
    pub(super) fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(through) = &self.through else {
            return (&*self.socket).write_all(bytes);
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut state = lock(&through.state);
            let State {
                transport,
                scratch,
                to_send,
                ..
            } = &mut *state;
            let count = transport
                .seal([rest].into_iter(), scratch)
                .map_err(io::Error::other)?;
            if count == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            to_send.extend_from_slice(&scratch.wire);
            drop(state);
            rest = &rest[count..];
            self.flush(through)?;
        }
        Ok(())
    }

    /// Says good-bye and shuts the sending side. That it fails means that the server is gone.
    pub(super) fn shutdown(&self) {
        if let Some(through) = &self.through {
            let mut state = lock(&through.state);
            let State {
                transport,
                scratch,
                to_send,
                ..
            } = &mut *state;
            scratch.clear();
            transport.close(Some(CloseCode::NORMAL), scratch);
            to_send.extend_from_slice(&scratch.wire);
            drop(state);
            let _ = self.flush(through);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn flush(&self, through: &Through) -> io::Result<()> {
        self.send_all(through, lock(&through.writer))
    }

    fn send_all(&self, through: &Through, _writer: MutexGuard<'_, ()>) -> io::Result<()> {
        loop {
            let to_send = std::mem::take(&mut lock(&through.state).to_send);
            if to_send.is_empty() {
                return Ok(());
            }
            (&*self.socket).write_all(&to_send)?;
        }
    }
}

impl State {
    fn new(route: &ClientRoute) -> io::Result<Self> {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let seed = since.as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
        Ok(Self {
            transport: ClientTransport::new(route, seed).map_err(io::Error::other)?,
            scratch: Scratch::default(),
            to_send: Vec::new(),
            early: Vec::new(),
        })
    }

    /// Takes what the socket received: MQTT is appended to `early`, answers to `to_send`.
    fn receive(&mut self, bytes: &[u8]) -> io::Result<Heard> {
        let heard = self.transport.receive(bytes, &mut self.scratch);
        self.early.extend_from_slice(&self.scratch.clear);
        self.to_send.extend_from_slice(&self.scratch.wire);
        heard.map_err(io::Error::other)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked ends the client.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(endpoint: &Endpoint, timeout: Duration) -> io::Result<Socket> {
    let (host, port) = match endpoint {
        Endpoint::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.connect(&SockAddr::unix(path)?)?;
            return Ok(socket);
        }
        Endpoint::Tcp(host, port) => (host.as_str(), *port),
    };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        match socket.connect_timeout(&address.into(), timeout) {
            Ok(()) => {
                socket.set_tcp_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

//! Listening sockets: one per core and address, all on the same port (SO_REUSEPORT), so that the kernel
//! spreads the connections and no core hands sockets to another just for balance.
//!
//! When the process is out of descriptors, accepting fails at once and for ever, and the clients in the
//! backlog wait for nothing. So each core keeps one descriptor in [`Reserve`], gives it up to accept and
//! close those who wait, and tries again some time later.

use socket2::{Domain, Protocol, Socket, Type};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

/// Connections that may wait for `accept`, per core; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// How long a start waits for the port of a broker that has just been killed.
pub const PORT_WAIT: Duration = Duration::from_secs(2);
/// Newcomers turned away at a time when descriptors are short.
const REFUSED_MAX: usize = 64;

/// A socket bound to one address, which listens once [`Listener::listen`] was called.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
}

impl Listener {
    /// Binds `count` sockets, one per core, to one address.
    ///
    /// With port 0 the first bind picks the port and the others share it. An IPv6 address does not also
    /// take IPv4.
    ///
    /// Errors: what the system said; also `AddrInUse` when another process listens there, even one that
    /// would share its port, such as a second broker. It takes up to [`PORT_WAIT`] to say so, because the kernel takes
    /// down the ring of a broker that was killed, and with it its listeners, some time after the process is gone.
    pub fn bind_all(address: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        if address.port() != 0 {
            let start = Instant::now();
            // Without SO_REUSEPORT this fails where a second broker's sockets would join the first's.
            while let Err(error) = unbound(address)?.bind(&address.into()) {
                if error.kind() != io::ErrorKind::AddrInUse || start.elapsed() > PORT_WAIT {
                    return Err(error);
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        let mut listeners = Vec::with_capacity(count);
        let mut address = address;
        for _ in 0..count {
            let socket = unbound(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            let bound = socket
                .local_addr()?
                .as_socket()
                .ok_or(io::ErrorKind::InvalidData)?;
            address.set_port(bound.port());
            listeners.push(Self { socket, address });
        }
        Ok(listeners)
    }

    /// Starts to listen: from now on the kernel sends this core its share of the connections.
    pub fn listen(&self) -> io::Result<()> {
        self.socket.listen(BACKLOG)
    }

    /// The bound address, with the port that was picked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A port with connections in TIME_WAIT can be bound again after a restart.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The accepted sockets inherit it: an acknowledgement must not wait for company.
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Whether `accept` failed because descriptors or memory are short, which only time can change.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// A descriptor kept for the time when there are no others.
#[derive(Debug)]
pub struct Reserve {
    file: Option<File>,
}

impl Reserve {
    /// Takes a descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            file: Some(File::open("/dev/null")?),
        })
    }

    /// Accepts and closes some of those who wait at `listener`, so that they learn it now, and returns how many.
    ///
    /// No accept may be in flight on the listener: it is made non-blocking for the moment.
    pub fn refuse(&mut self, listener: &Listener) -> usize {
        self.file = None;
        let mut refused = 0;
        if listener.socket.set_nonblocking(true).is_ok() {
            while refused < REFUSED_MAX && listener.socket.accept().is_ok() {
                refused += 1;
            }
        }
        // Blocking again, as the ring needs it. Changing a flag of an open socket does not fail.
        let _ = listener.socket.set_nonblocking(false);
        // Another thread may have been faster; then the next shortage has one refusal less.
        self.file = File::open("/dev/null").ok();
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    fn any_port() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn cores_share_the_port_that_the_first_one_got() {
        let listeners = Listener::bind_all(any_port(), 3).unwrap();
        let port = listeners[0].address().port();
        assert_ne!(port, 0);
        assert!(
            listeners
                .iter()
                .all(|listener| listener.address().port() == port)
        );
        assert!(
            TcpStream::connect(listeners[0].address()).is_err(),
            "not before `listen`"
        );
        listeners
            .iter()
            .for_each(|listener| listener.listen().unwrap());
        let clients: Vec<_> = (0..60)
            .map(|_| TcpStream::connect(listeners[0].address()).unwrap())
            .collect();
        let mut accepted = 0;
        for listener in &listeners {
            listener.socket.set_nonblocking(true).unwrap();
            let before = accepted;
            while let Ok((socket, _)) = listener.socket.accept() {
                assert!(socket.tcp_nodelay().unwrap());
                accepted += 1;
            }
            assert!(accepted > before, "each core gets a share");
        }
        assert_eq!(accepted, clients.len());
    }

    #[test]
    fn a_second_broker_does_not_share_the_port() {
        let first = Listener::bind_all(any_port(), 2).unwrap();
        first.iter().for_each(|listener| listener.listen().unwrap());
        let error = Listener::bind_all(first[0].address(), 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn ipv6_leaves_ipv4_alone() {
        let Ok(v6) = Listener::bind_all((Ipv6Addr::UNSPECIFIED, 0).into(), 1) else {
            // A machine without IPv6.
            return;
        };
        let port = v6[0].address().port();
        v6[0].listen().unwrap();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        assert!(Listener::bind_all((Ipv4Addr::UNSPECIFIED, port).into(), 1).is_ok());
    }

    #[test]
    fn refusing_closes_those_who_wait() {
        use std::io::Read;
        let listeners = Listener::bind_all(any_port(), 1).unwrap();
        listeners[0].listen().unwrap();
        let mut reserve = Reserve::new().unwrap();
        assert_eq!(
            reserve.refuse(&listeners[0]),
            0,
            "nobody waits, and it does not wait either"
        );
        let mut clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(listeners[0].address()).unwrap())
            .collect();
        assert_eq!(reserve.refuse(&listeners[0]), 3);
        for client in &mut clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        assert!(reserve.file.is_some());
    }
}

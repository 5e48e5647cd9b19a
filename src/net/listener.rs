//! Listening sockets: one per core and address, all on the same port (SO_REUSEPORT), so that the kernel
//! spreads the connections and no core hands sockets to another just for balance. A unix socket is one for all cores:
//! whichever is free accepts.
//!
//! Options of TCP are set once, on the listening socket: accepted sockets inherit them.
//!
//! When the process is out of descriptors, accepting fails at once and for ever, and the clients in the
//! backlog wait for nothing. So each core keeps one descriptor in [`Reserve`], gives it up to accept and
//! close those who wait, and tries again some time later.

use super::transport::Door;
use crate::config::listener::{Bind, ListenerSpec, TcpSpec};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use std::fs::{self, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Connections that may wait for `accept`, per core; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
/// How long a start waits for the port of a broker that has just been killed.
pub const PORT_WAIT: Duration = Duration::from_secs(2);
/// Newcomers turned away at a time when descriptors are short.
const REFUSED_MAX: usize = 64;
/// Probes that stay unanswered before the kernel ends a connection.
const KEEPALIVE_PROBES: u32 = 3;

/// A socket bound to one address, which listens once [`Listener::listen`] was called.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    bind: Bind,
    door: Arc<Door>,
    /// Held by the core that refuses: cores that share a unix socket share whether it blocks.
    refusing: Arc<Mutex<()>>,
}

impl Listener {
    /// As [`Listener::bind_door`], for plain MQTT.
    pub fn bind_all(address: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        let door = Door::open(ListenerSpec::tcp("tcp", address));
        let door = door.expect("a listener without TLS names no files");
        Self::bind_door(&Arc::new(door), count)
    }

    /// Binds `count` sockets, one per core, to one address.
    ///
    /// With port 0 the first bind picks the port and the others share it. An IPv6 address does not also
    /// take IPv4, unless that was asked for. The file of a unix socket is made anew if nobody listens on it.
    ///
    /// Errors: what the system said; also `AddrInUse` when another process listens there, even one that
    /// would share its port, such as a second broker. It takes up to [`PORT_WAIT`] to say so, because the kernel takes
    /// down the ring of a broker that was killed, and with it its listeners, some time after the process is gone.
    pub fn bind_door(door: &Arc<Door>, count: usize) -> io::Result<Vec<Self>> {
        match &door.spec().bind {
            Bind::Tcp(address) => Self::bind_tcp(door, *address, count),
            Bind::Unix { path, mode } => Self::bind_unix(door, path, *mode, count),
        }
    }

    fn bind_tcp(door: &Arc<Door>, address: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        let options = &door.spec().tcp;
        if address.port() != 0 {
            // Without SO_REUSEPORT this fails where a second broker's sockets would join the first's.
            wait_for_port(|| unbound(address, options)?.bind(&address.into()))?;
        }
        let mut listeners = Vec::with_capacity(count);
        let mut address = address;
        for _ in 0..count {
            let socket = unbound(address, options)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            let bound = socket
                .local_addr()?
                .as_socket()
                .ok_or(io::ErrorKind::InvalidData)?;
            address.set_port(bound.port());
            listeners.push(Self {
                socket,
                bind: Bind::Tcp(address),
                door: Arc::clone(door),
                refusing: Arc::default(),
            });
        }
        Ok(listeners)
    }

    fn bind_unix(door: &Arc<Door>, path: &Path, mode: u32, count: usize) -> io::Result<Vec<Self>> {
        wait_for_port(|| remove_stale(path))?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Nobody can connect before `listen`, so nobody comes in with the mode it was made with.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        let bind = &door.spec().bind;
        let refusing = Arc::default();
        let listener = |_| {
            Ok(Self {
                socket: socket.try_clone()?,
                bind: bind.clone(),
                door: Arc::clone(door),
                refusing: Arc::clone(&refusing),
            })
        };
        (0..count).map(listener).collect()
    }

    /// Starts to listen: from now on the kernel sends this core its share of the connections.
    pub fn listen(&self) -> io::Result<()> {
        self.socket.listen(BACKLOG)
    }

    /// Where it is bound, with the port that was picked.
    pub fn bind(&self) -> &Bind {
        &self.bind
    }

    /// The bound address.
    ///
    /// Panics: when it is a unix socket.
    pub fn address(&self) -> SocketAddr {
        match self.bind {
            Bind::Tcp(address) => address,
            Bind::Unix { .. } => panic!("a unix socket has no address"),
        }
    }

    /// Asks something else of those who come in from now on.
    pub fn set_door(&mut self, door: Arc<Door>) {
        self.door = door;
    }

    /// What is asked of those who come in.
    pub fn door(&self) -> &Arc<Door> {
        &self.door
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Tries again while the address is in use, for [`PORT_WAIT`] at most.
fn wait_for_port(mut bind: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match bind() {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < PORT_WAIT =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Removes the file of a unix socket on which nobody listens.
///
/// Errors: somebody does (`AddrInUse`), or it is another kind of file.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other("there is a file that is not a socket"));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Somebody listens, or may.
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error),
    }
}

fn unbound(address: SocketAddr, options: &TcpSpec) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A port with connections in TIME_WAIT can be bound again after a restart.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!options.dual_stack)?;
    }
    // The accepted sockets inherit it: an acknowledgement must not wait for company.
    socket.set_tcp_nodelay(true)?;
    if let Some(idle_s) = options.keepalive_s {
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(idle_s.into()))
            .with_interval(Duration::from_secs((idle_s / 10).max(1).into()))
            .with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if let Some(timeout_ms) = options.user_timeout_ms {
        socket.set_tcp_user_timeout(Some(Duration::from_millis(timeout_ms.into())))?;
    }
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

    /// Accepts and closes some of those who wait at `listener`, so that they learn it now, and returns how many. None
    /// while another core does so on the same socket.
    ///
    /// The listener is made non-blocking for the moment: an accept that another core's ring begins meanwhile fails with EAGAIN.
    pub fn refuse(&mut self, listener: &Listener) -> usize {
        // Who is done first would make it blocking between two accepts of the other.
        let Ok(_refusing) = listener.refusing.try_lock() else {
            return 0;
        };
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
    use std::sync::atomic::{AtomicBool, Ordering};

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
        // A connection of somebody else may have the port on IPv4; not of all of these.
        let left_alone = (0..20).any(|_| {
            let Ok(v6) = Listener::bind_all((Ipv6Addr::UNSPECIFIED, 0).into(), 1) else {
                // A machine without IPv6.
                return true;
            };
            let port = v6[0].address().port();
            v6[0].listen().unwrap();
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err()
                && Listener::bind_all((Ipv4Addr::UNSPECIFIED, port).into(), 1).is_ok()
        });
        assert!(left_alone);
    }

    #[test]
    fn dual_stack_takes_both() {
        let address: SocketAddr = (Ipv6Addr::UNSPECIFIED, 0).into();
        let mut spec = ListenerSpec::tcp("tcp", address);
        spec.tcp.dual_stack = true;
        let Ok(both) = Listener::bind_door(&Arc::new(Door::open(spec).unwrap()), 1) else {
            // A machine without IPv6.
            return;
        };
        both[0].listen().unwrap();
        let port = both[0].address().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let mut spec = ListenerSpec::tcp("tcp", any_port());
        spec.tcp.keepalive_s = Some(40);
        spec.tcp.user_timeout_ms = Some(5_000);
        let listeners = Listener::bind_door(&Arc::new(Door::open(spec).unwrap()), 1).unwrap();
        listeners[0].listen().unwrap();
        let _client = TcpStream::connect(listeners[0].address()).unwrap();
        let (socket, _) = listeners[0].socket.accept().unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(40)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(4)
        );
        let timeout = socket.tcp_user_timeout().unwrap();
        assert_eq!(timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_nothing_else_is() {
        let dir = std::env::temp_dir().join(format!("ringmq-test-{}-listener", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let spec = ListenerSpec {
            bind: Bind::Unix {
                path: path.clone(),
                mode: 0o620,
            },
            ..ListenerSpec::tcp("unix", any_port())
        };
        let door = Arc::new(Door::open(spec).unwrap());
        let first = Listener::bind_door(&door, 2).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o620
        );
        first[0].listen().unwrap();
        UnixStream::connect(&path).unwrap();
        let error = Listener::bind_door(&door, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(path.exists());
        let second = Listener::bind_door(&door, 1).unwrap();
        second[0].listen().unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(Listener::bind_door(&door, 1).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_dir_all(&dir).unwrap();
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

    #[test]
    fn cores_that_share_a_socket_refuse_and_do_not_wait() {
        let dir = std::env::temp_dir().join(format!("ringmq-test-{}-refuse", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let spec = ListenerSpec {
            bind: Bind::Unix {
                path: path.clone(),
                mode: 0o600,
            },
            ..ListenerSpec::tcp("unix", any_port())
        };
        let listeners = Listener::bind_door(&Arc::new(Door::open(spec).unwrap()), 2).unwrap();
        listeners[0].listen().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let cores = listeners.into_iter().map(|listener| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                let mut reserve = Reserve::new().unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    reserve.refuse(&listener);
                }
            })
        });
        let cores: Vec<_> = cores.collect();
        for _ in 0..1_000 {
            UnixStream::connect(&path).unwrap();
        }
        // Nobody comes any more whom one of them could wait for.
        thread::sleep(Duration::from_millis(300));
        is_over.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !cores.iter().all(thread::JoinHandle::is_finished) {
            assert!(Instant::now() < deadline, "a core waits in accept");
            thread::sleep(Duration::from_millis(5));
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}

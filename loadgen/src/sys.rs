//! The one socket option that no library offers.

use socket2::Socket;
use std::io;
use std::os::fd::AsRawFd;

/// Lets `bind` pick only the address and `connect` the port, so that one source address carries a full range
/// of ports to each destination instead of one range in all (IP_BIND_ADDRESS_NO_PORT).
pub fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of `on`, which outlives the call; the descriptor is open
    // because `socket` owns it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};
    use std::net::SocketAddr;

    #[test]
    fn a_bound_address_has_no_port_yet() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bind_address_no_port(&socket).unwrap();
        let address: SocketAddr = "127.0.0.9:0".parse().unwrap();
        socket.bind(&address.into()).unwrap();
        let bound = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!((bound.ip(), bound.port()), (address.ip(), 0));
    }
}

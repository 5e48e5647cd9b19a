//! The calls that no library offers: a socket option, the limits of this process, the CPU of a thread.

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

/// Raises the limit on open files as far as this process may, and returns it.
pub fn raise_files_limit() -> u64 {
    let Some(mut limit) = limit(libc::RLIMIT_NOFILE) else {
        return 0;
    };
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid rlimit for the duration of the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if result == 0 { limit.rlim_cur } else { before }
}

/// The CPUs that the calling thread may use, in order.
///
/// Errors: what the kernel says.
pub fn cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a `cpu_set_t` is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the length are those of `set`, which outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let count = libc::CPU_SETSIZE as usize;
    // SAFETY: `cpu` is below the number of CPUs that a set has room for.
    Ok((0..count)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Keeps the calling thread on a CPU, one of [`cpus`].
///
/// Errors: what the kernel says.
pub fn stay_on(cpu: usize) -> io::Result<()> {
    // SAFETY: as in `cpus`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the caller's number is one that the kernel gave.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the length are those of `set`, which outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The bytes that this process may lock.
pub fn locked_bytes_limit() -> u64 {
    limit(libc::RLIMIT_MEMLOCK).map_or(0, |limit| limit.rlim_cur)
}

fn limit(resource: libc::__rlimit_resource_t) -> Option<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid, writable rlimit for the duration of the call.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    (result == 0).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};
    use std::net::SocketAddr;

    #[test]
    fn limits_are_read_and_raised() {
        let files = raise_files_limit();
        assert!(files > 0);
        assert_eq!(raise_files_limit(), files, "there is nothing left to raise");
        assert!(locked_bytes_limit() > 0);
    }

    #[test]
    fn a_thread_stays_on_its_cpu() {
        for cpu in cpus().unwrap() {
            std::thread::spawn(move || {
                stay_on(cpu).unwrap();
                assert_eq!(cpus().unwrap(), [cpu]);
            })
            .join()
            .unwrap();
        }
    }

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

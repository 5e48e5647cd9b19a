//! Whether the process whose CPU time and memory are reported is the broker: whether it listens where the clients connect to.

use crate::procfs::descendants;
use crate::report::provenance::is_own;
use ringmq::client::target::Endpoint;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::ToSocketAddrs;
use std::path::Path;

/// The state of a TCP socket that listens, as `/proc/net/tcp` has it.
const TCP_LISTEN: &str = "0A";
/// The flag of a unix socket that listens.
const UNIX_LISTENS: u32 = 1 << 16;

/// Looks whether process `pid`, or one that comes from it, listens at the broker's place. Returns what lets one doubt it.
///
/// Errors: there is no such process, or it is the generator, or what the generator comes from.
pub fn check(pid: u32, endpoint: &Endpoint) -> Result<Option<String>, String> {
    if !Path::new(&format!("/proc/{pid}")).exists() {
        return Err(format!(
            "--broker-pid {pid}: there is no such process; `pgrep -xo NAME` tells a broker's"
        ));
    }
    let inodes = listening(pid, endpoint);
    let mut tree = descendants(pid).unwrap_or_default();
    tree.push(pid);
    let held: Vec<_> = tree.iter().map(|one| holds(*one, &inodes)).collect();
    let holder = tree
        .iter()
        .zip(&held)
        .find(|(_, held)| matches!(held, Ok(true)));
    let own = std::process::id();
    if tree.contains(&own) && holder.is_none_or(|(holder, _)| *holder != own) {
        let hint = holder.map_or(String::new(), |(one, _)| format!(": --broker-pid {one}"));
        return Err(format!(
            "--broker-pid {pid}: loadgen's own CPU time is in that of {}; name the broker{hint}",
            name(pid)
        ));
    }
    let is_elsewhere = namespace(pid) != namespace(own);
    if !is_elsewhere && !is_here(endpoint) {
        return Ok(Some(format!("{endpoint} is not on this machine")));
    }
    if holder.is_some() {
        return Ok(None);
    }
    if let Some(Err(error)) = held.iter().find(|held| held.is_err()) {
        return Ok(Some(format!("its sockets cannot be looked at: {error}")));
    }
    if is_elsewhere {
        return Ok(Some(format!(
            "nothing in its network listens at {endpoint}"
        )));
    }
    if inodes.is_empty() {
        // Connecting will tell.
        return Ok(None);
    }
    let mut others = processes().into_iter();
    let Some(other) = others.find(|other| matches!(holds(*other, &inodes), Ok(true))) else {
        return Ok(Some(format!("it does not listen at {endpoint}")));
    };
    let is_kin =
        descendants(other).is_ok_and(|kin| kin.contains(&pid)) || program(other) == program(pid);
    let (it, other_name) = (name(pid), name(other));
    if is_kin {
        return Ok(Some(format!(
            "{it} does not listen at {endpoint}, but process {other} ({other_name}) does, its kin"
        )));
    }
    // It may be a proxy's, with the broker behind it.
    Ok(Some(format!(
        "{it} does not listen at {endpoint}, but process {other} ({other_name}) does"
    )))
}

/// The inodes of the sockets that listen at a place, in the network of process `pid`. Addresses are not looked at.
fn listening(pid: u32, endpoint: &Endpoint) -> BTreeSet<u64> {
    let read =
        |table: &str| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    match endpoint {
        Endpoint::Tcp(_, port) => tcp_listeners(&(read("tcp") + &read("tcp6")), *port),
        Endpoint::Unix(path) => unix_listeners(&read("unix"), path),
    }
}

fn tcp_listeners(table: &str, port: u16) -> BTreeSet<u64> {
    let port = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // sl local remote st queues timer retransmits uid timeout inode
        let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == TCP_LISTEN;
        fields.get(9)?.parse().ok().filter(|_| listens)
    };
    table.lines().filter_map(inode).collect()
}

fn unix_listeners(table: &str, path: &Path) -> BTreeSet<u64> {
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // number references protocol flags type state inode path
        let listens = u32::from_str_radix(fields.get(3)?, 16).ok()? & UNIX_LISTENS != 0;
        let is_it = listens && Path::new(fields.get(7)?) == path;
        fields.get(6)?.parse().ok().filter(|_| is_it)
    };
    table.lines().filter_map(inode).collect()
}

/// Whether a process has one of these sockets open.
fn holds(pid: u32, inodes: &BTreeSet<u64>) -> io::Result<bool> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // What is closed meanwhile is none of them.
        let link = fs::read_link(entry?.path()).unwrap_or_default();
        let link = link.to_string_lossy();
        let inode = link
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        if inode
            .and_then(|inode| inode.parse().ok())
            .is_some_and(|inode| inodes.contains(&inode))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn is_here(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(_) => true,
        // A name without an address is for the run to tell.
        Endpoint::Tcp(host, port) => (host.as_str(), *port)
            .to_socket_addrs()
            .map_or(true, |mut all| {
                all.next().is_none_or(|one| is_own(one.ip()))
            }),
    }
}

fn namespace(pid: u32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

fn program(pid: u32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command};

    struct Sleep(Child);

    impl Sleep {
        fn start() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn pid(&self) -> u32 {
            self.0.id()
        }
    }

    impl Drop for Sleep {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn at(listener: &TcpListener) -> Endpoint {
        let address = listener.local_addr().unwrap();
        Endpoint::Tcp(address.ip().to_string(), address.port())
    }

    #[test]
    fn who_listens_is_the_broker() {
        let own = std::process::id();
        for place in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(place).unwrap();
            assert_eq!(check(own, &at(&listener)), Ok(None));
        }
        let path = std::env::temp_dir().join(format!("loadgen-listener-{own}"));
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(check(own, &Endpoint::Unix(path.clone())), Ok(None));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn who_does_not_listen_is_refused_and_the_other_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Other tests have children as well, but this process listens.
        let (sleep, own) = (Sleep::start(), std::process::id());
        let doubt = check(sleep.pid(), &at(&listener)).unwrap().unwrap();
        assert!(
            doubt.contains("its kin") && doubt.contains(&own.to_string()),
            "{doubt}"
        );
        let place = at(&listener);
        drop(listener);
        // Nobody listens: connecting will tell.
        assert_eq!(check(sleep.pid(), &place), Ok(None));
        let error = check(own, &place).unwrap_err();
        assert!(error.contains("own CPU time"), "{error}");
        let error = check(u32::MAX, &place).unwrap_err();
        assert!(error.contains("no such process") && error.contains("--broker-pid 4294967295"));
        // An address for documentation (RFC 5737).
        let far = Endpoint::Tcp("192.0.2.1".into(), 1883);
        let doubt = check(sleep.pid(), &far).unwrap().unwrap();
        assert!(
            doubt.contains("192.0.2.1:1883 is not on this machine"),
            "{doubt}"
        );
    }

    #[test]
    fn tables_of_sockets_are_read() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                   0: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100\n   \
                   1: 0100007F:075B 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100\n   \
                   2: 00000000:075C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100\n";
        assert_eq!(tcp_listeners(tcp, 1883), BTreeSet::from([4711]));
        let unix = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    0: 00000002 00000000 00010000 0001 01 17 /run/x\n\
                    0: 00000003 00000000 00000000 0001 03 18 /run/x\n\
                    0: 00000003 00000000 00000000 0001 03 19\n";
        assert_eq!(
            unix_listeners(unix, Path::new("/run/x")),
            BTreeSet::from([17])
        );
        assert!(tcp_listeners("", 1).is_empty() && unix_listeners("", Path::new("/")).is_empty());
    }
}

//! What the system must allow for a run, looked at before the first connection, so that what is missing is named
//! together with the line that gives it.

use crate::links::{Address, Route};
use crate::sys;
use std::fs;
use std::net::SocketAddr;

/// Descriptors beside those of the connections.
const OTHER_FILES: u64 = 64;
/// Locked memory of a core's ring, on kernels that count it.
const RING_BYTES: u64 = 512 << 10;

/// What a run needs.
#[derive(Clone, Copy, Debug)]
pub struct Needs<'a> {
    /// Connections at a time.
    pub connections: u64,
    /// Threads with a ring.
    pub cores: usize,
    /// Where the connections lead, and from where.
    pub route: &'a Route,
}

/// What the system allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Files that this process may have open.
    pub files: u64,
    /// The first and the last port that connections go out from.
    pub ports: (u64, u64),
    /// Connections that the firewall follows, and how many it can; none when it follows none.
    pub tracked: Option<(u64, u64)>,
    /// Bytes that this process may lock.
    pub locked_bytes: u64,
}

/// Something that the system does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What it is, in plain words.
    pub what: String,
    /// The lines that change it.
    pub lines: Vec<String>,
    /// Whether the run cannot work without it.
    pub is_fatal: bool,
}

/// Looks at the system, after raising the limit on open files as far as this process may.
///
/// Errors: what is missing, with the lines that give it. What may be missing goes to stderr.
pub fn check(needs: &Needs<'_>) -> Result<(), String> {
    let lacks = lacks(needs, &facts());
    let text = |lack: &Lack| format!("{}\n    {}", lack.what, lack.lines.join("\n    "));
    for lack in lacks.iter().filter(|lack| !lack.is_fatal) {
        eprintln!("loadgen: {}", text(lack));
    }
    let fatal: Vec<_> = lacks.iter().filter(|lack| lack.is_fatal).collect();
    if fatal.is_empty() {
        return Ok(());
    }
    Err(fatal
        .into_iter()
        .map(text)
        .collect::<Vec<_>>()
        .join("\nloadgen: "))
}

/// What is missing.
pub fn lacks(needs: &Needs<'_>, facts: &Facts) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let connections = needs.connections;
    let files = connections + OTHER_FILES + 8 * needs.cores as u64;
    if files > facts.files {
        lacks.push(Lack {
            what: format!(
                "{connections} connections need {files} open files, and this process may have {}",
                facts.files
            ),
            lines: vec![
                format!("ulimit -n {files}"),
                format!(
                    "# in a systemd unit: LimitNOFILE={files}; in Docker: --ulimit nofile={files}"
                ),
            ],
            is_fatal: true,
        });
    }
    let (first, last) = facts.ports;
    let ports = (last + 1).saturating_sub(first);
    let sources = needs.route.sources.len().max(1) as u64;
    if let Address::Tcp(address) = &needs.route.address
        && connections > sources * ports
    {
        lacks.push(ports_lack(connections, address, ports, sources));
    }
    if let Some((tracked, max)) = facts.tracked
        && tracked + connections > max
    {
        let enough = (tracked + connections) * 5 / 4;
        lacks.push(Lack {
            what: format!(
                "the firewall follows {tracked} of at most {max} connections, and {connections} more will \
                 not fit if it follows these too"
            ),
            lines: vec![format!("sysctl -w net.netfilter.nf_conntrack_max={enough}")],
            is_fatal: false,
        });
    }
    let locked = RING_BYTES * needs.cores as u64;
    if facts.locked_bytes < locked {
        lacks.push(Lack {
            what: format!(
                "this process may lock {} KiB; a kernel that counts rings may want {} KiB",
                facts.locked_bytes >> 10,
                locked >> 10
            ),
            lines: vec![format!("ulimit -l {}", locked >> 10)],
            is_fatal: false,
        });
    }
    lacks
}

fn ports_lack(connections: u64, address: &SocketAddr, ports: u64, sources: u64) -> Lack {
    let ports_max = 65_535 - 1_024 + 1;
    let mut lines = Vec::new();
    if ports < ports_max {
        lines.push("sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"".to_owned());
    }
    if connections > sources * ports_max {
        let addresses = connections.div_ceil(ports_max.min(30_000));
        let bits = 32 - (addresses + 2).next_power_of_two().ilog2();
        lines.push(match address {
            SocketAddr::V4(address) if address.ip().is_loopback() => {
                format!("loadgen ... --ifaddr 127.1.0.0/{bits}")
            }
            _ => format!("loadgen ... --ifaddr A,B,...   # {addresses} addresses of this host"),
        });
    }
    Lack {
        what: format!(
            "{connections} connections to one address need as many ports, and {sources} source \
             address(es) have {ports} each"
        ),
        lines,
        is_fatal: true,
    }
}

fn facts() -> Facts {
    let number = |path: &str| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let ports = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = ports
        .split_whitespace()
        .filter_map(|port| port.parse().ok());
    Facts {
        files: sys::raise_files_limit(),
        ports: (
            ports.next().unwrap_or(32_768),
            ports.next().unwrap_or(60_999),
        ),
        tracked: number("/proc/sys/net/netfilter/nf_conntrack_count")
            .zip(number("/proc/sys/net/netfilter/nf_conntrack_max")),
        locked_bytes: sys::locked_bytes_limit(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::addresses;
    use ringmq::net::transport::client::ClientRoute;
    use ringmq::protocol::Version;

    const ROOMY: Facts = Facts {
        files: 2_000_000,
        ports: (1_024, 65_535),
        tracked: None,
        locked_bytes: 8 << 20,
    };

    fn route(address: &str, sources: &str) -> Route {
        Route {
            address: Address::Tcp(address.parse().unwrap()),
            through: ClientRoute::default(),
            sources: if sources.is_empty() {
                Vec::new()
            } else {
                addresses(sources).unwrap().0
            },
            version: Version::V5,
        }
    }

    fn found(connections: u64, route: &Route, facts: &Facts) -> Vec<Lack> {
        lacks(
            &Needs {
                connections,
                cores: 1,
                route,
            },
            facts,
        )
    }

    #[test]
    fn nothing_is_missing_where_there_is_room() {
        assert_eq!(found(60_000, &route("127.0.0.1:1883", ""), &ROOMY), []);
        let many = route("127.0.0.1:1883", "127.1.0.0/24");
        assert_eq!(found(1_000_000, &many, &ROOMY), []);
    }

    #[test]
    fn each_lack_names_the_line_that_ends_it() {
        let local = route("127.0.0.1:1883", "");
        let few_files = Facts {
            files: 1_024,
            ..ROOMY
        };
        let lack = &found(10_000, &local, &few_files)[0];
        assert!(
            lack.is_fatal && lack.lines[0] == "ulimit -n 10072",
            "{lack:?}"
        );
        // The line is enough.
        assert_eq!(
            found(
                10_000,
                &local,
                &Facts {
                    files: 10_072,
                    ..ROOMY
                }
            ),
            []
        );

        let few_ports = Facts {
            ports: (32_768, 60_999),
            ..ROOMY
        };
        let lack = &found(40_000, &local, &few_ports)[0];
        assert_eq!(
            lack.lines,
            ["sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""]
        );

        let lack = &found(1_000_000, &local, &ROOMY)[0];
        assert_eq!(lack.lines, ["loadgen ... --ifaddr 127.1.0.0/26"]);
        let with_it = route("127.0.0.1:1883", "127.1.0.0/26");
        assert_eq!(found(1_000_000, &with_it, &ROOMY), []);
        let far = route("10.0.0.1:1883", "10.0.0.2");
        assert!(found(1_000_000, &far, &ROOMY)[0].lines[0].contains("34 addresses"));

        let firewalled = Facts {
            tracked: Some((100, 1_000)),
            ..ROOMY
        };
        let lack = &found(1_000, &local, &firewalled)[0];
        assert!(!lack.is_fatal);
        assert_eq!(
            lack.lines,
            ["sysctl -w net.netfilter.nf_conntrack_max=1375"]
        );

        let unlockable = Facts {
            locked_bytes: 64 << 10,
            ..ROOMY
        };
        assert_eq!(found(1, &local, &unlockable)[0].lines, ["ulimit -l 512"]);
    }

    #[test]
    fn the_system_is_read() {
        let facts = facts();
        assert!(
            facts.files > 0 && facts.ports.0 < facts.ports.1,
            "{facts:?}"
        );
    }
}

//! What was run, and on what: `run.toml`.

use crate::args::Target;
use crate::given::without_password;
use ringmq::civil;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::{SystemTime, UNIX_EPOCH};

/// What stands where a secret was.
const HIDDEN: &str = "***";
/// Another program's words whose value is a secret when a flag's name has one of them.
const SECRET_WORDS: [&str; 4] = ["pass", "secret", "token", "jwt"];

/// All that one needs to know of a run to do it again, apart from its figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// The run.
    pub run: Run,
    /// The broker.
    pub broker: Broker,
    /// The machine the generator ran on.
    pub host: Host,
    /// The effective settings, those that were not given included, by the long names of their flags.
    pub settings: BTreeMap<String, Vec<String>>,
}

/// The run itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// The command line by the long names of its flags, without secrets.
    pub command: Vec<String>,
    /// When the measured interval began, in UTC.
    pub measured_at: String,
    /// The version of loadgen.
    pub loadgen: String,
    /// Whether the generator was compiled with optimisation.
    pub optimised: bool,
    /// Whether the figures are the broker's.
    pub valid: bool,
    /// Why not.
    pub invalid_because: Vec<String>,
}

/// The broker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Broker {
    /// Its address.
    pub address: String,
    /// What it is, as `--broker-name` or `$SYS/broker/version` says; empty when neither does.
    pub name: String,
    /// The command line of its process, when `--broker-pid` names it.
    pub command: Vec<String>,
    /// Whether it ran on the generator's machine.
    pub same_host: bool,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The CPU's name.
    pub cpu_model: String,
    /// Its CPUs.
    pub cpus: usize,
    /// Those that the generator may use.
    pub cpus_usable: usize,
    /// The governor of the CPU's frequency; `none` where there is nothing to govern.
    pub cpu_governor: String,
    /// Whether it is a virtual machine, as far as the CPU tells.
    pub is_virtual: bool,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The kernel's version.
    pub kernel: String,
    /// The distribution.
    pub os: String,
}

impl Provenance {
    /// That of a run of this process against `target`.
    pub fn collect(target: &Target, broker: Broker, measured_at: SystemTime) -> Self {
        Self {
            run: Run {
                command: target.given.command.clone(),
                measured_at: utc(measured_at),
                loadgen: env!("CARGO_PKG_VERSION").into(),
                optimised: !cfg!(debug_assertions),
                valid: true,
                invalid_because: Vec::new(),
            },
            broker: Broker {
                command: target.broker_pid.map_or(Vec::new(), command_of),
                ..broker
            },
            host: Host::this(),
            settings: target.given.settings.clone(),
        }
    }
}

impl Host {
    fn this() -> Self {
        let line = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let cpuinfo = line("/proc/cpuinfo");
        let cpu = |name: &str| field(&cpuinfo, name, ':');
        let memory = field(&line("/proc/meminfo"), "MemTotal", ':');
        let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let governor = line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Self {
            name: line("/proc/sys/kernel/hostname"),
            cpu_model: cpu("model name"),
            cpus: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            cpus_usable: available_parallelism().map_or(1, NonZero::get),
            cpu_governor: if governor.is_empty() {
                "none".into()
            } else {
                governor
            },
            is_virtual: cpu("flags").split(' ').any(|flag| flag == "hypervisor"),
            memory_bytes: kib * 1024,
            kernel: line("/proc/sys/kernel/osrelease"),
            os: field(&line("/etc/os-release"), "PRETTY_NAME", '=')
                .trim_matches('"')
                .to_owned(),
        }
    }
}

/// The value after a name and a separator.
fn field(text: &str, name: &str, separator: char) -> String {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(separator)?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_default()
}

/// Whether an address is one of this machine.
pub fn is_own(address: IpAddr) -> bool {
    // The route to an own address begins at that address. Nothing is sent.
    let route = || {
        let any: IpAddr = match address {
            IpAddr::V4(_) => [0; 4].into(),
            IpAddr::V6(_) => [0; 16].into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    address.is_loopback() || route().is_ok_and(|local| local.ip() == address)
}

fn command_of(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&bytes);
    let words: Vec<_> = words
        .split_terminator('\0')
        .map(ToOwned::to_owned)
        .collect();
    without_secrets(&words)
}

fn is_secret(flag: &str) -> bool {
    let flag = flag.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| flag.contains(word))
}

/// A command line of another program, in which nobody's password is left as far as one can tell.
fn without_secrets(words: &[String]) -> Vec<String> {
    let mut hides_next = false;
    let hide = |word: &String| {
        if std::mem::take(&mut hides_next) {
            return HIDDEN.into();
        }
        match word.split_once('=') {
            Some((flag, _)) if is_secret(flag) => return format!("{flag}={HIDDEN}"),
            _ => {}
        }
        if word.starts_with("-P") && word.len() > 2 {
            return format!("-P{HIDDEN}");
        }
        hides_next = word == "-P" || (word.starts_with('-') && is_secret(word));
        without_password(word)
    };
    words.iter().map(hide).collect()
}

/// A moment as RFC 3339 writes it, to the second.
pub fn utc(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil::from_days(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// The moment that [`utc`] wrote.
pub fn from_utc(text: &str) -> Option<SystemTime> {
    let mut numbers = text.trim_end_matches('Z').split(['-', 'T', ':']);
    let mut next = || numbers.next()?.parse::<u64>().ok();
    let (year, month, day) = (next()?, next()?, next()?);
    let valid = (1970..10_000).contains(&year) && (1..=12).contains(&month);
    let days = (valid && (1..=31).contains(&day)).then(|| civil::to_days(year, month, day))?;
    let second = next()? * 3_600 + next()? * 60 + next()?;
    Some(UNIX_EPOCH + std::time::Duration::from_secs(days * 86_400 + second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(ToOwned::to_owned).collect()
    }

    #[test]
    fn no_brokers_password_is_written_down() {
        let hidden = |line| without_secrets(&words(line)).join(" ");
        assert_eq!(hidden("x -Phush --password hush"), "x -P*** --password ***");
        assert_eq!(hidden("x --auth-token=hush"), "x --auth-token=***");
        assert_eq!(
            hidden("x mqtts://me:hu@sh@host:1 mqtt://me@host"),
            "x mqtts://me:***@host:1 mqtt://me@host"
        );
    }

    #[test]
    fn the_machine_is_known_and_its_own_addresses() {
        let host = Host::this();
        assert!(host.cpus >= 1 && host.memory_bytes > 1 << 20, "{host:?}");
        assert!(!host.kernel.is_empty() && !host.name.is_empty(), "{host:?}");
        assert!(is_own("127.0.0.9".parse().unwrap()) && is_own("::1".parse().unwrap()));
        // An address for documentation (RFC 5737), which nobody has.
        assert!(!is_own("192.0.2.1".parse().unwrap()));
        let own = command_of(std::process::id());
        assert_eq!(own.first(), std::env::args().next().as_ref());
    }

    #[test]
    fn moments_are_written_and_read() {
        let at = UNIX_EPOCH + Duration::from_secs(1_795_241_469);
        assert_eq!(utc(at), "2026-11-21T06:11:09Z");
        assert_eq!(from_utc("2026-11-21T06:11:09Z"), Some(at));
        assert_eq!(from_utc("yesterday"), None);
    }
}

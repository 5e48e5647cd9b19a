//! What the kernel must grant, asked for before any executor starts, so that a refusal is explained.
//!
//! io_uring is refused where many people first try a broker: by the default seccomp profiles of Docker and
//! of Kubernetes, and by a sysctl on some distributions.

use io_uring::{IoUring, Probe, opcode};
use std::fmt;
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

const KIB: u64 = 1 << 10;

/// Registered memory per shard: the executor's buffers, three times 64 KiB, with room for the pages around.
const MEMLOCK_BYTES_PER_SHARD: u64 = 256 * KIB;
/// The least the executor starts with, whoever the user is.
const MEMLOCK_BYTES_MIN: u64 = 512 * KIB;
/// What is recommended: a process that just ended gives its registered memory back late.
const MEMLOCK_BYTES_PER_SHARD_GOOD: u64 = 1024 * KIB;

const ENOMEM_RETRIES: u32 = 50;
const ENOMEM_PAUSE: Duration = Duration::from_millis(100);

const CAP_IPC_LOCK: u32 = 14;

/// Why the broker cannot run here. Its text is the whole explanation for the operator.
#[derive(Debug)]
pub(super) enum Refusal {
    /// `io_uring_setup` failed.
    Setup {
        error: io::Error,
        disabled: Option<String>,
    },
    /// The kernel's io_uring lacks operations.
    Operations(Vec<&'static str>),
    /// `RLIMIT_MEMLOCK` is too low and cannot be raised.
    Memlock { limit_bytes: u64, shards: usize },
}

/// Raises the limits of this process and asks the kernel for an io_uring as every shard will.
///
/// Returns the number of descriptors the process may have open.
pub(super) fn check(shards: usize) -> Result<u64, Refusal> {
    let nofile = raise(libc::RLIMIT_NOFILE, 0);
    let needed = MEMLOCK_BYTES_MIN.max(MEMLOCK_BYTES_PER_SHARD * shards as u64);
    let memlock = raise(libc::RLIMIT_MEMLOCK, needed);
    // The executor looks at the limit even where the kernel does not.
    let needed = if is_exempt_from_memlock() {
        MEMLOCK_BYTES_MIN
    } else {
        needed
    };
    if memlock < needed {
        return Err(Refusal::Memlock {
            limit_bytes: memlock,
            shards,
        });
    }
    let ring = set_up_ring().map_err(|error| Refusal::Setup {
        disabled: fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
            .ok()
            .map(|text| text.trim().to_owned()),
        error,
    })?;
    let missing = missing_operations(&ring);
    if missing.is_empty() {
        Ok(nofile)
    } else {
        Err(Refusal::Operations(missing))
    }
}

fn set_up_ring() -> io::Result<IoUring> {
    let mut attempt = 0;
    loop {
        // The flags net/ring.rs sets; they came with Linux 6.1.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(64);
        match ring {
            Err(error)
                if error.raw_os_error() == Some(libc::ENOMEM) && attempt < ENOMEM_RETRIES =>
            {
                attempt += 1;
                thread::sleep(ENOMEM_PAUSE);
            }
            done => return done,
        }
    }
}

fn missing_operations(ring: &IoUring) -> Vec<&'static str> {
    let operations = [
        ("accept", opcode::Accept::CODE),
        ("recv", opcode::Recv::CODE),
        ("send", opcode::Send::CODE),
        ("sendmsg", opcode::SendMsg::CODE),
        ("read", opcode::Read::CODE),
        ("poll", opcode::PollAdd::CODE),
        ("cancel", opcode::AsyncCancel::CODE),
        ("shutdown", opcode::Shutdown::CODE),
    ];
    let mut probe = Probe::new();
    if ring.submitter().register_probe(&mut probe).is_err() {
        return vec!["probe"];
    }
    operations
        .into_iter()
        .filter(|(_, code)| !probe.is_supported(*code))
        .map(|(name, _)| name)
        .collect()
}

/// Raises the soft limit to the hard one, and both to `wanted` where we may; returns the soft limit then.
fn raise(resource: libc::__rlimit_resource_t, wanted: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid, writable rlimit for the duration of the call.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return 0;
    }
    for max in [limit.rlim_max.max(wanted), limit.rlim_max] {
        let raised = libc::rlimit {
            rlim_cur: max,
            rlim_max: max,
        };
        // SAFETY: `raised` is a valid rlimit for the duration of the call.
        if unsafe { libc::setrlimit(resource, &raw const raised) } == 0 {
            return max;
        }
    }
    limit.rlim_cur
}

fn is_exempt_from_memlock() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|mask| mask & (1 << CAP_IPC_LOCK) != 0)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup { error, disabled } => explain_setup(f, error, disabled.as_deref()),
            Self::Operations(missing) => write!(
                f,
                "ringmq cannot start: the io_uring of this kernel lacks {}.\n  \
                 Linux 6.1 or newer is needed; `uname -r` prints yours.",
                missing.join(", ")
            ),
            Self::Memlock {
                limit_bytes,
                shards,
            } => {
                let good = MEMLOCK_BYTES_PER_SHARD_GOOD * *shards as u64 / KIB;
                write!(
                    f,
                    "ringmq cannot start: RLIMIT_MEMLOCK is {} KiB, too little for {shards} shards.\n  \
                     Give it {good} KiB:\n  \
                     shell:    ulimit -l {good}\n  \
                     systemd:  LimitMEMLOCK={good}K\n  \
                     Docker:   --ulimit memlock={}\n  \
                     or run fewer shards: --cores 1",
                    limit_bytes / KIB,
                    good * KIB
                )
            }
        }
    }
}

fn explain_setup(
    f: &mut fmt::Formatter<'_>,
    error: &io::Error,
    disabled: Option<&str>,
) -> fmt::Result {
    writeln!(
        f,
        "ringmq cannot start: the kernel refused io_uring_setup: {error}."
    )?;
    writeln!(
        f,
        "  ringmq drives every socket through io_uring and has no other way."
    )?;
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some(value @ ("1" | "2"))) => {
            writeln!(
                f,
                "  kernel.io_uring_disabled is {value}: io_uring is switched off on this machine."
            )?;
            writeln!(f, "  Switch it on:  sysctl -w kernel.io_uring_disabled=0")?;
            write!(
                f,
                "  and write the same setting to a file in /etc/sysctl.d to keep it."
            )
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            let state = disabled.unwrap_or("not known to this kernel");
            writeln!(
                f,
                "  kernel.io_uring_disabled is {state}, so it is not the kernel: the seccomp filter of a"
            )?;
            writeln!(
                f,
                "  container or sandbox blocks it. Allow io_uring_setup, io_uring_enter and io_uring_register:"
            )?;
            writeln!(
                f,
                "  Docker, Podman:  --security-opt seccomp=PROFILE.json, or seccomp=unconfined to try it"
            )?;
            writeln!(
                f,
                "  Kubernetes:      securityContext.seccompProfile of type Localhost, or Unconfined to try it"
            )?;
            write!(
                f,
                "  systemd:         SystemCallFilter= must list the three calls"
            )
        }
        (Some(libc::ENOSYS), _) => {
            writeln!(
                f,
                "  This kernel was built without io_uring, or a sandbox such as gVisor hides it."
            )?;
            write!(f, "  Linux 6.1 or newer with CONFIG_IO_URING is needed.")
        }
        (Some(libc::EINVAL), _) => {
            write!(
                f,
                "  This kernel is too old: Linux 6.1 or newer is needed; `uname -r` prints yours."
            )
        }
        (Some(libc::ENOMEM), _) => {
            writeln!(
                f,
                "  Memory for io_uring was refused for five seconds: RLIMIT_MEMLOCK is used up by other"
            )?;
            write!(
                f,
                "  processes of this user, or the memory limit of the container is too low."
            )
        }
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            write!(
                f,
                "  No descriptor is left: raise RLIMIT_NOFILE (ulimit -n)."
            )
        }
        _ => write!(f, "  The kernel log (dmesg) may say more."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(errno: i32, disabled: Option<&str>) -> String {
        let error = io::Error::from_raw_os_error(errno);
        Refusal::Setup {
            error,
            disabled: disabled.map(str::to_owned),
        }
        .to_string()
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        for (text, hint) in [
            (explained(libc::EPERM, Some("0")), "--security-opt seccomp="),
            (explained(libc::EPERM, Some("0")), "Kubernetes"),
            (explained(libc::EPERM, None), "--security-opt seccomp="),
            (
                explained(libc::EPERM, Some("2")),
                "sysctl -w kernel.io_uring_disabled=0",
            ),
            (explained(libc::ENOSYS, None), "CONFIG_IO_URING"),
            (explained(libc::EINVAL, None), "Linux 6.1"),
            (explained(libc::ENOMEM, None), "RLIMIT_MEMLOCK"),
            (explained(libc::EMFILE, None), "RLIMIT_NOFILE"),
            (Refusal::Operations(vec!["recv"]).to_string(), "lacks recv"),
            (
                Refusal::Memlock {
                    limit_bytes: 65_536,
                    shards: 2,
                }
                .to_string(),
                "ulimit -l 2048",
            ),
        ] {
            assert!(text.starts_with("ringmq cannot start: "), "{text}");
            assert!(text.contains(hint), "{hint} in {text}");
        }
        assert!(!explained(libc::EPERM, Some("2")).contains("Docker"));
    }
}

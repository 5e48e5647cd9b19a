//! How much memory the broker may take when its configuration leaves that to us.

use crate::config::limits::MEMORY_AUTO;
use std::fs;

/// The bytes that `limits.memory-max` stands for.
pub(super) fn bytes_max(configured: u64) -> u64 {
    if configured != MEMORY_AUTO {
        return configured;
    }
    let total = machine_bytes().min(cgroup_bytes().unwrap_or(u64::MAX));
    total / 5 * 4
}

/// The machine's memory; no bound when it is not told.
fn machine_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    let kib = kib.and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib << 10)
}

/// The least that this process' control group or one above it allows.
fn cgroup_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut least = None;
    let mut path = std::path::Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    while path.starts_with("/sys/fs/cgroup") {
        let text = fs::read_to_string(path.join("memory.max")).unwrap_or_default();
        let allowed = text.trim().parse::<u64>().ok();
        least = allowed.into_iter().chain(least).min();
        path.pop();
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_less_than_the_machine_has() {
        assert!(bytes_max(MEMORY_AUTO) < machine_bytes());
        assert!(bytes_max(MEMORY_AUTO) > 1 << 20);
        assert_eq!(bytes_max(7), 7);
    }
}

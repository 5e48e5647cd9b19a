//! How many CPUs this process may use: its affinity mask, cut by the CPU quota of its control group.

use std::fs;
use std::path::Path;

/// The CPUs this process may use, at least 1.
///
/// A quota of a control group (version 1 or 2), which is how containers are limited, is rounded up: half a
/// CPU is one shard, not 64.
pub(super) fn available() -> usize {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let allowed = allowed_count(&status)
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    match quota(Path::new("/sys/fs/cgroup"), &groups) {
        Some(quota) => allowed.min(quota),
        None => allowed,
    }
}

/// The length of `Cpus_allowed_list` in `/proc/…/status`, such as `0-3,8`.
fn allowed_count(status: &str) -> Option<usize> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut count = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    (count > 0).then_some(count)
}

/// The smallest quota of the groups in `/proc/self/cgroup` and of their parents, in whole CPUs.
fn quota(root: &Path, groups: &str) -> Option<usize> {
    let mut smallest = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let mount = if controllers.is_empty() {
            root.to_owned()
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            root.join(controllers)
        } else {
            continue;
        };
        // In a container the path may name a group that is not visible there; its parents then are.
        let group = mount.join(path.trim_start_matches('/'));
        for dir in group.ancestors().take_while(|dir| dir.starts_with(&mount)) {
            let here = version_2(dir).or_else(|| version_1(dir));
            smallest = [smallest, here].into_iter().flatten().min();
        }
    }
    smallest
}

fn version_2(dir: &Path) -> Option<usize> {
    let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    whole_cpus(quota.parse().ok()?, period.parse().ok()?)
}

fn version_1(dir: &Path) -> Option<usize> {
    let number = |name: &str| {
        fs::read_to_string(dir.join(name))
            .ok()?
            .trim()
            .parse::<i64>()
            .ok()
    };
    // No quota is -1.
    let quota = u64::try_from(number("cpu.cfs_quota_us")?).ok()?;
    whole_cpus(quota, u64::try_from(number("cpu.cfs_period_us")?).ok()?)
}

fn whole_cpus(quota: u64, period: u64) -> Option<usize> {
    if period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period).max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_counted() {
        for (list, count) in [
            ("0", Some(1)),
            ("0-3", Some(4)),
            ("0-3,8,10-11", Some(7)),
            ("x", None),
        ] {
            let status = format!("Name:\tringmq\nCpus_allowed_list:\t{list}\nMems_allowed:\t1\n");
            assert_eq!(allowed_count(&status), count, "{list}");
        }
        assert_eq!(allowed_count(""), None);
        assert!(available() >= 1);
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_counts() {
        let root = std::env::temp_dir().join(format!("ringmq-cgroup-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("pod/cpu.max", "150000 100000\n");
        write("pod/box/cpu.max", "max 100000\n");
        write("small/cpu.max", "50000 100000\n");
        write("cpu,cpuacct/old/cpu.cfs_quota_us", "300000\n");
        write("cpu,cpuacct/old/cpu.cfs_period_us", "100000\n");
        write("cpu,cpuacct/free/cpu.cfs_quota_us", "-1\n");
        write("cpu,cpuacct/free/cpu.cfs_period_us", "100000\n");
        for (groups, expected) in [
            ("0::/pod/box\n", Some(2)),
            ("0::/small\n", Some(1)),
            ("0::/\n", None),
            ("0::/not/visible\n", None),
            ("4:memory:/old\n3:cpu,cpuacct:/old\n", Some(3)),
            ("3:cpu,cpuacct:/free\n", None),
            ("3:cpu,cpuacct:/old\n0::/small\n", Some(1)),
        ] {
            assert_eq!(quota(&root, groups), expected, "{groups}");
        }
        fs::remove_dir_all(&root).unwrap();
    }
}

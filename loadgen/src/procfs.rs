//! What another process (the broker), or this one, has used: read from `/proc`.

use std::fs;
use std::io;

/// The tick that user space sees on all the machines we build for.
const TICK_NS: u64 = 10_000_000;

/// CPU time and memory of a process and its descendants, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all living threads, in nanoseconds.
    pub cpu_ns: u64,
    /// The user part of the CPU time in clock ticks, which are coarse; only its share is of use.
    pub user_ticks: u64,
    /// The system part, likewise.
    pub system_ticks: u64,
    /// Resident memory in bytes; kernel memory, such as that of sockets, is not in it.
    pub rss_bytes: u64,
    /// Voluntary and involuntary context switches.
    pub context_switches: u64,
}

impl Usage {
    /// The use of process `pid` and its descendants. Of threads that ended, nothing is known any more.
    ///
    /// Errors: there is no such process, or it may not be looked at.
    pub fn of_tree(pid: u32) -> io::Result<Self> {
        let mut usage = Self::of_process(pid)?;
        for child in descendants(pid)? {
            // A child may end while we look.
            if let Ok(more) = Self::of_process(child) {
                usage.add(&more);
            }
        }
        Ok(usage)
    }

    /// The use of this process alone.
    pub fn of_self() -> io::Result<Self> {
        Self::of_process(std::process::id())
    }

    /// The user part of the CPU time between this moment and a later one, in percent.
    pub fn user_percent_until(&self, later: &Self) -> f64 {
        let user = later.user_ticks.saturating_sub(self.user_ticks);
        let system = later.system_ticks.saturating_sub(self.system_ticks);
        100.0 * user as f64 / (user + system).max(1) as f64
    }

    fn of_process(pid: u32) -> io::Result<Self> {
        let mut usage = Self {
            rss_bytes: rss_bytes(pid)?,
            ..Self::default()
        };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = task?.path();
            let Ok(schedstat) = fs::read_to_string(path.join("schedstat")) else {
                continue;
            };
            usage.cpu_ns += first_number(&schedstat);
            if let Ok(stat) = fs::read_to_string(path.join("stat")) {
                let fields = after_name(&stat);
                usage.user_ticks += fields.get(11).map_or(0, |field| first_number(field));
                usage.system_ticks += fields.get(12).map_or(0, |field| first_number(field));
            }
            if let Ok(status) = fs::read_to_string(path.join("status")) {
                usage.context_switches += status
                    .lines()
                    .filter(|line| line.contains("voluntary_ctxt_switches"))
                    .map(|line| {
                        line.split_once(':')
                            .map_or(0, |(_, count)| first_number(count))
                    })
                    .sum::<u64>();
            }
        }
        Ok(usage)
    }

    fn add(&mut self, more: &Self) {
        self.cpu_ns += more.cpu_ns;
        self.user_ticks += more.user_ticks;
        self.system_ticks += more.system_ticks;
        self.rss_bytes += more.rss_bytes;
        self.context_switches += more.context_switches;
    }
}

/// CPU time of the calling thread so far, in nanoseconds; 0 where the kernel does not tell.
pub fn own_thread_cpu_ns() -> u64 {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat");
    schedstat.map_or(0, |schedstat| first_number(&schedstat))
}

/// What processes used in an interval, as far as it can be seen without disturbing them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// CPU time in the interval, in ns; the kernel counts it in ticks of 10 ms.
    pub cpu_ns: u64,
    /// The interval's length, in ns.
    pub interval_ns: u64,
    /// Resident bytes at its end, by the counters that may lag by some pages.
    pub rss_bytes: u64,
}

/// Looks at processes again and again, at the cost of two small reads for each.
#[derive(Debug)]
pub struct Watch {
    pids: Vec<u32>,
    last_ns: u64,
    last_cpu_ns: u64,
}

impl Watch {
    /// Watches a process and those that are its descendants now.
    ///
    /// Errors: the processes cannot be listed.
    pub fn of_tree(pid: u32, now_ns: u64) -> io::Result<Self> {
        let mut pids = descendants(pid)?;
        pids.push(pid);
        let mut watch = Self {
            pids,
            last_ns: now_ns,
            last_cpu_ns: 0,
        };
        watch.look(now_ns);
        Ok(watch)
    }

    /// What was used since the last look; processes that are gone count as nothing.
    pub fn look(&mut self, now_ns: u64) -> Glance {
        let (mut ticks, mut rss_kib) = (0, 0);
        for pid in &self.pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = after_name(&stat);
            let field = |at: usize| fields.get(at).map_or(0, |field| first_number(field));
            ticks += field(11) + field(12);
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            rss_kib += rss.map_or(0, first_number);
        }
        let cpu_ns = ticks * TICK_NS;
        let glance = Glance {
            cpu_ns: cpu_ns.saturating_sub(self.last_cpu_ns),
            interval_ns: now_ns.saturating_sub(self.last_ns),
            rss_bytes: rss_kib * 1024,
        };
        (self.last_ns, self.last_cpu_ns) = (now_ns, cpu_ns);
        glance
    }
}

/// The memory of the machine's kernel, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineMemory {
    /// The kernel's own objects: sockets, files, requests to rings.
    pub slab_bytes: u64,
    /// What is in the buffers of TCP sockets.
    pub socket_bytes: u64,
    /// Memory that nobody uses.
    pub free_bytes: u64,
    /// TCP sockets; both ends of a connection on loopback count.
    pub tcp_sockets: u64,
}

impl MachineMemory {
    /// As it is now; what cannot be read is 0.
    pub fn now() -> Self {
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        Self::parse(&memory, &sockets)
    }

    fn parse(memory: &str, sockets: &str) -> Self {
        let kib = |name: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(name));
            line.map_or(0, first_number) * 1024
        };
        let tcp = sockets.lines().find_map(|line| line.strip_prefix("TCP:"));
        let of_tcp = |name: &str| {
            let mut words = tcp.unwrap_or_default().split_whitespace();
            words.find(|word| *word == name);
            words.next().map_or(0, first_number)
        };
        // The kernel counts these in pages.
        let page_bytes = 4096;
        Self {
            slab_bytes: kib("Slab:"),
            socket_bytes: of_tcp("mem") * page_bytes,
            free_bytes: kib("MemFree:"),
            tcp_sockets: of_tcp("inuse"),
        }
    }
}

/// The CPU time of all processes on the machine together, in nanoseconds, to the tick (10 ms).
pub fn machine_cpu_ns() -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(first_number).collect();
    // user nice system idle iowait irq softirq; guest time is in user already.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum();
    Ok(busy * TICK_NS)
}

fn rss_bytes(pid: u32) -> io::Result<u64> {
    // The rollup is exact; the counters in `status` may lag by some pages per core.
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .or_else(|_| fs::read_to_string(format!("/proc/{pid}/status")))?;
    let line = text.lines().find_map(|line| {
        line.strip_prefix("Rss:")
            .or_else(|| line.strip_prefix("VmRSS:"))
    });
    Ok(line.map_or(0, first_number) * 1024)
}

/// All that come from a process, themselves not counted.
///
/// Errors: processes cannot be listed.
pub fn descendants(pid: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(child) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) {
            let parent = after_name(&stat)
                .get(1)
                .map_or(0, |field| first_number(field));
            parents.push((child, parent));
        }
    }
    let mut found = vec![u64::from(pid)];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        let children = parents.iter().filter(|(_, of)| *of == parent);
        found.extend(children.map(|(child, _)| u64::from(*child)));
        at += 1;
    }
    Ok(found
        .into_iter()
        .skip(1)
        .filter_map(|pid| u32::try_from(pid).ok())
        .collect())
}

/// The fields of a `stat` line from the state on: the name before it may hold spaces and brackets.
fn after_name(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map_or(Vec::new(), |(_, fields)| {
        fields.split_whitespace().collect()
    })
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn the_memory_of_the_kernel_is_read() {
        let memory = "MemTotal:  24 kB\nMemFree:     7 kB\nSlab:   3 kB\nSReclaimable:   1 kB\n";
        let sockets =
            "sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 6 mem 2\nUDP: inuse 1 mem 1\n";
        let expected = MachineMemory {
            slab_bytes: 3 << 10,
            socket_bytes: 2 * 4096,
            free_bytes: 7 << 10,
            tcp_sockets: 5,
        };
        assert_eq!(MachineMemory::parse(memory, sockets), expected);
        assert_eq!(MachineMemory::parse("", ""), MachineMemory::default());
        assert!(MachineMemory::now().slab_bytes > 0);
    }

    /// Works for a while, and then sleeps: time is booked at the latest when a thread gives up the core.
    fn burn(duration: Duration) {
        let start = Instant::now();
        let mut bytes = vec![1_u8; 1 << 20];
        while start.elapsed() < duration {
            bytes
                .iter_mut()
                .for_each(|byte| *byte = byte.wrapping_mul(3));
        }
        assert!(std::hint::black_box(bytes)[0] != 0);
        std::thread::sleep(Duration::from_millis(1));
    }

    #[test]
    fn work_shows_as_cpu_time_and_memory() {
        // The time of another test's thread is no longer counted once that has ended; so it may take several looks.
        let (before, after) = (0..100)
            .map(|_| {
                let before = Usage::of_self().unwrap();
                burn(Duration::from_millis(20));
                (before, Usage::of_self().unwrap())
            })
            .find(|(before, after)| after.cpu_ns > before.cpu_ns + 1_000_000)
            .expect("work takes time");
        assert!(before.rss_bytes > 1 << 16);
        assert!(after.context_switches > before.context_switches);
    }

    #[test]
    fn children_are_counted_and_strangers_are_an_error() {
        let mut child = Command::new("sleep")
            .arg("30")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let found = descendants(std::process::id()).unwrap();
        assert!(found.contains(&child.id()), "{found:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Usage::of_tree(u32::MAX).is_err());
    }

    #[test]
    fn names_with_brackets_do_not_shift_the_fields() {
        assert_eq!(after_name("12 (a) b (c)) S 7 12"), ["S", "7", "12"]);
    }

    #[test]
    fn a_watch_sees_what_was_used_since_its_last_look() {
        let mut watch = Watch::of_tree(std::process::id(), 1_000).unwrap();
        let seen = (2..100).map(|look| {
            burn(Duration::from_millis(20));
            watch.look(look * 1_000)
        });
        let used: Vec<_> = seen.take_while(|one| one.cpu_ns == 0).collect();
        assert!(used.len() < 98, "work takes time");
        let idle = watch.look(200_000);
        assert!(idle.interval_ns > 0 && idle.rss_bytes > 1 << 16, "{idle:?}");
        // Who is gone uses nothing.
        let mut gone = Watch {
            pids: vec![u32::MAX],
            ..watch
        };
        assert_eq!(
            (gone.look(300_000).cpu_ns, gone.look(300_000).rss_bytes),
            (0, 0)
        );
    }
}

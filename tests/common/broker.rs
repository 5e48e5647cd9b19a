//! Brokers under test: spawned, shared by the tests of one binary, and gone when it is gone.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};
use std::{env, io, process, thread};

/// How long a broker may take from its start to listening on every core.
const STARTS: Duration = Duration::from_secs(30);

/// The shard counts that every shared test runs with.
const SHARD_COUNTS: [usize; 3] = [1, 2, 4];

/// A broker to test: one that this process spawned, or the one `RINGMQ_TEST_BROKER` names.
///
/// A spawned broker is killed when this is dropped, and by the kernel when the test process ends
/// in any other way.
pub(crate) struct Broker {
    /// Where it listens for plain MQTT.
    pub(crate) addr: SocketAddr,
    /// Number of shards it was started with; 0 when it is not ours.
    pub(crate) cores: usize,
    spawned: Option<Spawned>,
}

/// One of the brokers that all tests of a binary share; it lives until the process ends.
pub(crate) type SharedBroker = Broker;

struct Spawned {
    child: Mutex<Child>,
    /// Its working directory, with its log and whatever it stores.
    dir: PathBuf,
}

impl Broker {
    /// Starts a broker with `cores` shards on a free loopback port and waits until it listens.
    ///
    /// The contract with `ringmq`: for each listener bound to port 0 it prints one line
    /// `listening on ADDR:PORT` to its standard output, flushed, when every core is ready.
    ///
    /// With `RINGMQ_TEST_BROKER` set, nothing is started and `extra_args` have no effect.
    pub(crate) fn start(cores: usize, extra_args: &[&str]) -> Self {
        Self::try_start(cores, extra_args).unwrap_or_else(|why| panic!("{why}"))
    }

    /// One that listens at `addr` and is somebody else's.
    #[allow(dead_code, reason = "not every test that shares this file uses it")]
    pub(crate) fn at(addr: SocketAddr) -> Self {
        Self {
            addr,
            cores: 0,
            spawned: None,
        }
    }

    /// As [`Broker::start`], but says why the broker does not listen, with the end of its log.
    pub(crate) fn try_start(cores: usize, extra_args: &[&str]) -> Result<Self, String> {
        if let Some(addr) = external() {
            return Ok(Self::at(addr));
        }
        sweep_once();
        open_files_max();
        let dir = env::temp_dir().join(format!("ringmq-test-{}-{}", process::id(), next_number()));
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let log = dir.join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
        command
            .args(["--bind", "127.0.0.1:0", "--cores", &cores.to_string()])
            .args(extra_args)
            .current_dir(&dir)
            .env_remove("STATE_DIRECTORY")
            .env("XDG_STATE_HOME", dir.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("the new directory is writable"));
        // Nothing in our environment may configure the broker under test.
        for (name, _) in
            env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RINGMQ_"))
        {
            command.env_remove(name);
        }
        // A flag of the test's own wins over it.
        let durability = env::var("RINGMQ_TEST_DURABILITY").unwrap_or_else(|_| "none".into());
        command.env("RINGMQ_DURABILITY", durability);
        let mut child = spawn_to_die_with_us(command).expect("the broker's binary can be started");
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let (said, says) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The receiver is gone once the broker listens; reading on keeps the pipe empty.
                let _ = said.send(line);
            }
        });
        let addr = loop {
            match says.recv_timeout(STARTS) {
                Ok(line) => {
                    if let Some(addr) = listening_on(&line) {
                        break addr;
                    }
                }
                Err(why) => {
                    let _ = child.kill();
                    let status = child.wait();
                    let log = tail(&log);
                    let _ = fs::remove_dir_all(&dir);
                    return Err(format!(
                        "broker with {cores} shards does not listen ({why}, {status:?}); its log:\n{log}"
                    ));
                }
            }
        };
        Ok(Self {
            addr,
            cores,
            spawned: Some(Spawned {
                child: Mutex::new(child),
                dir,
            }),
        })
    }

    /// Whether this process started the broker, so that its memory can be looked at.
    pub(crate) fn is_ours(&self) -> bool {
        self.spawned.is_some()
    }

    /// The process id of a broker that is ours.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.spawned.as_ref().map(|spawned| spawned.child().id())
    }

    /// How the broker ended and the end of its log, if it is ours and has ended.
    pub(crate) fn obituary(&self) -> Option<String> {
        let spawned = self.spawned.as_ref()?;
        let status = spawned
            .child()
            .try_wait()
            .expect("our child can be waited for")?;
        Some(format!(
            "the broker has ended ({status}); its log:\n{}",
            self.log_tail()
        ))
    }

    /// Resident memory of the broker in KiB, or `None` (after saying so) when it is not ours.
    pub(crate) fn rss_kib(&self) -> Option<u64> {
        let Some(pid) = self.pid() else {
            eprintln!("skipped: the memory of a broker named by RINGMQ_TEST_BROKER is not checked");
            return None;
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the broker runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line
            .and_then(|line| line.split_whitespace().nth(1))
            .expect("VmRSS has a value");
        Some(kib.parse().expect("VmRSS is a number"))
    }

    /// What to call it in a message.
    pub(crate) fn name(&self) -> String {
        match self.cores {
            0 => format!("the broker at {}", self.addr),
            1 => "1 shard".to_owned(),
            n => format!("{n} shards"),
        }
    }

    /// The broker's log so far; empty when it is not ours.
    pub(crate) fn log(&self) -> String {
        let spawned = self.spawned.as_ref();
        let log = spawned.map(|spawned| fs::read(spawned.dir.join("log")).unwrap_or_default());
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }

    /// Waits until the log of a broker that is ours has `text` in it.
    #[track_caller]
    pub(crate) fn await_log(&self, text: &str) {
        if !self.is_ours() {
            return;
        }
        let deadline = Instant::now() + STARTS;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "{text} in\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has the broker read everything again, and waits until it says that it has, or that it does not want to.
    #[track_caller]
    pub(crate) fn read_again(&self) {
        let pid = self.pid().expect("it is ours");
        let done = |log: &str| {
            let said = ["SIGHUP: read again;", "SIGHUP: nothing was changed;"];
            said.iter()
                .map(|text| log.matches(text).count())
                .sum::<usize>()
        };
        let before = done(&self.log());
        let status = Command::new("kill")
            .args(["-HUP", &pid.to_string()])
            .status();
        assert!(status.expect("there is a program kill").success());
        let deadline = Instant::now() + STARTS;
        while done(&self.log()) == before {
            assert!(Instant::now() < deadline, "{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The end of the broker's log, for a test that failed.
    pub(crate) fn log_tail(&self) -> String {
        self.spawned
            .as_ref()
            .map_or_else(String::new, |spawned| tail(&spawned.dir.join("log")))
    }
}

impl Spawned {
    fn child(&self) -> MutexGuard<'_, Child> {
        // A test that panicked with the lock held has not left the child in a wrong state.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let failed = thread::panicking();
        if failed && self.is_ours() {
            eprintln!(
                "log of the broker with {}:\n{}",
                self.name(),
                self.log_tail()
            );
        }
        if let Some(spawned) = &self.spawned {
            let _ = spawned.child().kill();
            let _ = spawned.child().wait();
            let _ = fs::remove_dir_all(&spawned.dir);
        }
    }
}

/// The brokers that the tests of this binary share: with 1, 2 and 4 shards, started at first use.
pub(crate) fn brokers() -> &'static [SharedBroker] {
    // A failure is kept too, so that each test reports it without waiting for it again.
    static BROKERS: OnceLock<Result<Vec<SharedBroker>, String>> = OnceLock::new();
    let started = BROKERS.get_or_init(|| {
        if external().is_some() {
            return Broker::try_start(0, &[]).map(|broker| vec![broker]);
        }
        shard_counts()
            .into_iter()
            .map(|cores| Broker::try_start(cores, &[]))
            .collect()
    });
    started.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// Runs `body` against each shared broker, all at the same time; a failure names the shard count.
pub(crate) fn on_each(body: impl Fn(&SharedBroker) + Sync) {
    run_on(brokers(), body);
}

/// As [`on_each`], with brokers that only this test uses: for what looks at memory.
pub(crate) fn on_each_of_its_own(extra_args: &[&str], body: impl Fn(&Broker) + Sync) {
    let counts = if external().is_some() {
        vec![0]
    } else {
        shard_counts()
    };
    let brokers: Vec<Broker> = counts
        .into_iter()
        .map(|cores| Broker::start(cores, extra_args))
        .collect();
    run_on(&brokers, body);
}

fn run_on(brokers: &[Broker], body: impl Fn(&Broker) + Sync) {
    let body = &body;
    thread::scope(|scope| {
        let runs: Vec<_> = brokers
            .iter()
            .map(|broker| {
                (
                    broker,
                    scope.spawn(|| catch_unwind(AssertUnwindSafe(|| body(broker)))),
                )
            })
            .collect();
        let mut failures = Vec::new();
        for (broker, run) in runs {
            if let Err(panic) = run.join().expect("a caught panic does not end the thread") {
                failures.push(format!(
                    "with {}: {}",
                    broker.name(),
                    message_of(panic.as_ref())
                ));
                failures.extend(broker.obituary());
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
}

/// A name that nothing else in this process, or in another run, uses: for client identifiers and
/// for the first level of topics. It is 1 to 23 letters and digits if `stem` has at most 8, which
/// every server must accept as a client identifier [MQTT-3.1.3-5].
pub(crate) fn unique(stem: &str) -> String {
    format!("{stem}x{:x}x{:x}", process::id(), next_number())
}

/// How many files this process, and each broker it starts, may open. Raises the soft limit to the
/// hard one first.
pub(crate) fn open_files_max() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only use the local that they are given.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    assert_eq!(raised, 0, "a process may raise its soft limit");
    usize::try_from(limit.rlim_max).unwrap_or(usize::MAX)
}

/// Sends `panic`, caught elsewhere, on its way in this thread.
pub(crate) fn rethrow(panic: Box<dyn std::any::Any + Send>) -> ! {
    resume_unwind(panic)
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without text")
        .to_owned()
}

fn next_number() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

fn external() -> Option<SocketAddr> {
    let name = env::var("RINGMQ_TEST_BROKER")
        .ok()
        .filter(|name| !name.is_empty())?;
    let mut addrs = name
        .to_socket_addrs()
        .expect("RINGMQ_TEST_BROKER is host:port");
    Some(addrs.next().expect("the host has an address"))
}

fn shard_counts() -> Vec<usize> {
    let Ok(list) = env::var("RINGMQ_TEST_SHARDS") else {
        return SHARD_COUNTS.to_vec();
    };
    eprintln!("RINGMQ_TEST_SHARDS: only {list} shards are tested");
    list.split(',')
        .map(|n| n.trim().parse().expect("RINGMQ_TEST_SHARDS is numbers"))
        .collect()
}

fn listening_on(line: &str) -> Option<SocketAddr> {
    let addr = line.strip_prefix("listening on ")?;
    addr.split_whitespace().next()?.parse().ok()
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let from = text.len().saturating_sub(4096);
    String::from_utf8_lossy(&text[from..]).into_owned()
}

/// Spawns `command` so that the kernel kills it when this process ends, however it ends.
///
/// PR_SET_PDEATHSIG watches the *thread* that spawned the child, so one thread that lives as long
/// as the process spawns all of them.
fn spawn_to_die_with_us(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (order, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                // SAFETY: prctl is async-signal-safe and touches no memory of ours.
                unsafe {
                    command.pre_exec(
                        || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                            0 => Ok(()),
                            _ => Err(io::Error::last_os_error()),
                        },
                    );
                }
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(order)
    });
    let (reply, replies) = mpsc::channel();
    let sent = spawner
        .lock()
        .expect("no holder of this lock panics")
        .send((command, reply));
    sent.expect("the spawner lives as long as the process");
    replies.recv().expect("the spawner answers every order")
}

/// Removes what earlier test processes left behind: shared brokers outlive every `Drop`.
fn sweep_once() {
    static SWEPT: OnceLock<()> = OnceLock::new();
    SWEPT.get_or_init(|| {
        for entry in fs::read_dir(env::temp_dir())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name
                .strip_prefix("ringmq-test-")
                .and_then(|rest| rest.split('-').next());
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    });
}

//! SHELL. `ringmq torture`: a self-test for operators, on their disk and their kernel.
//!
//! It starts a broker on a directory, puts load on it, kills it at a random moment with SIGKILL, starts it again with another number
//! of cores, and so on. The clients go on where they were, as real ones do. In the end every acknowledged message must
//! have come to every subscriber, those of QoS 2 once, all in their order; and what is retained and subscribed must be what was
//! acknowledged last.

mod client;
mod load;

use clap::Args;
use load::{Manner, Published, Seen};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const PUBLISHERS: usize = 3;
const MANNERS: [Manner; 3] = [Manner::Steady, Manner::Fickle, Manner::TakesOver];
/// How long the broker may take to listen: it may have to read a large store.
const START: Duration = Duration::from_secs(120);
/// Time without anything new after which the clients have what there is.
const QUIET: Duration = Duration::from_secs(8);
/// Complaints printed; the others are counted.
const COMPLAINTS_MAX: usize = 50;
const EXIT_FAILED: u8 = 1;

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct TortureArgs {
    /// Directory on the disk to test; the broker uses its subdirectory ringmq-torture, which is emptied first
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How often to kill it
    #[arg(long, value_name = "N", default_value_t = 20)]
    rounds: u32,
    /// What is to survive: power or process
    #[arg(long, value_name = "LEVEL", default_value = "power")]
    durability: String,
    /// Shards; without it another number in each round
    #[arg(long, value_name = "N")]
    cores: Option<usize>,
    /// Repeats the random choices of a run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The longest load of a round, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 800)]
    round_ms: u64,
}

/// What the clients and the one who kills share.
struct Shared {
    address: SocketAddr,
    seed: u64,
    round: AtomicU32,
    draining: AtomicBool,
    over: AtomicBool,
    subscribed: AtomicUsize,
    /// Counts what is new to a subscriber.
    progress: AtomicU64,
    unique: AtomicU64,
    complaints: Mutex<Vec<String>>,
}

/// A generator that a seed repeats.
struct Random(u64);

impl Random {
    /// 0 to `end`, without it.
    fn below(&mut self, end: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

impl Shared {
    fn random(&self, of: u64) -> Random {
        Random(self.seed ^ of << 32)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn round(&self) -> u32 {
        self.round.load(Ordering::Relaxed)
    }

    fn subscribed(&self) {
        self.subscribed.fetch_add(1, Ordering::Relaxed);
    }

    fn progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    fn unique(&self) -> String {
        let number = self.unique.fetch_add(1, Ordering::Relaxed);
        format!("mark {} {number}", self.seed)
    }

    fn complain(&self, what: String) {
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        complaints.push(format!("round {}: {what}", self.round()));
    }
}

/// Runs the torture.
///
/// Returns: 0 when every promise was kept, 1 when not, or when the broker did not start.
pub fn run(args: &TortureArgs) -> ExitCode {
    match torture(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            eprintln!("ringmq: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn torture(args: &TortureArgs) -> io::Result<bool> {
    let dir = args.dir.join("ringmq-torture");
    // A directory of an earlier run has sessions that this run knows nothing of.
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::from(now.subsec_nanos()) ^ u64::from(std::process::id()) << 32
    });
    // A port that is free now, and most likely later: each broker listens on it again.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let shared = Shared {
        address,
        seed,
        round: AtomicU32::new(0),
        draining: AtomicBool::new(false),
        over: AtomicBool::new(false),
        subscribed: AtomicUsize::new(0),
        progress: AtomicU64::new(0),
        unique: AtomicU64::new(0),
        complaints: Mutex::default(),
    };
    println!(
        "seed {seed}; broker on {address}, data in {}",
        dir.display()
    );
    thread::scope(|scope| {
        // Whatever ends this function, the clients end too.
        let _over = Over(&shared);
        let mut random = shared.random(1);
        let cores = |random: &mut Random| args.cores.unwrap_or(1 + random.below(4) as usize);
        let mut broker = Broker::start(args, &shared, cores(&mut random))?;
        let subscribers: Vec<_> = MANNERS
            .iter()
            .enumerate()
            .map(|(index, manner)| {
                let shared = &shared;
                scope.spawn(move || load::subscriber(shared, index, *manner))
            })
            .collect();
        let begin = Instant::now();
        while shared.subscribed.load(Ordering::Relaxed) < MANNERS.len() {
            if begin.elapsed() > START {
                return Err(io::Error::other("the subscribers were not acknowledged"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|index| {
                let shared = &shared;
                scope.spawn(move || load::publisher(shared, index))
            })
            .collect();
        let retainer = scope.spawn(|| load::retainer(&shared));
        let churner = scope.spawn(|| load::churner(&shared));
        for round in 1..=args.rounds {
            thread::sleep(Duration::from_millis(
                30 + random.below(args.round_ms.max(1)),
            ));
            broker.kill()?;
            shared.round.store(round, Ordering::Relaxed);
            broker = Broker::start(args, &shared, cores(&mut random))?;
            if round % 10 == 0 || round == args.rounds {
                println!("killed {round} times");
            }
        }
        shared.draining.store(true, Ordering::Relaxed);
        let published: Vec<_> = publishers.into_iter().map(join).collect();
        let retained = join(retainer);
        let changes = join(churner);
        wait_for_quiet(&shared);
        retained.check(&shared)?;
        shared.over.store(true, Ordering::Relaxed);
        let seen: Vec<_> = subscribers.into_iter().map(join).collect();
        broker.kill()?;
        compare(&shared, &published, &seen);
        println!(
            "{} retained messages set or cleared, {changes} subscriptions made or given up",
            retained.total
        );
        Ok(report(&shared))
    })
}

struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().expect("a client has no panic of its own")
}

/// Waits until the subscribers get nothing new.
fn wait_for_quiet(shared: &Shared) {
    let mut last = (shared.progress.load(Ordering::Relaxed), Instant::now());
    while last.1.elapsed() < QUIET {
        thread::sleep(Duration::from_millis(50));
        let progress = shared.progress.load(Ordering::Relaxed);
        if progress != last.0 {
            last = (progress, Instant::now());
        }
    }
}

/// Every acknowledged message must have come to every subscriber.
fn compare(shared: &Shared, published: &[Published], seen: &[Vec<Seen>]) {
    let (mut sent, mut acked, mut repeated) = (0, 0, 0);
    for (index, publisher) in published.iter().enumerate() {
        sent += publisher.sent;
        acked += publisher.acked.len();
        for (subscriber, seen) in seen.iter().enumerate() {
            let counts: &BTreeMap<u64, u32> = &seen[index].counts;
            repeated += counts
                .values()
                .map(|count| u64::from(count - 1))
                .sum::<u64>();
            for (sequence, round) in &publisher.acked {
                if !counts.contains_key(sequence) {
                    shared.complain(format!(
                        "torture-sub-{subscriber} never got torture/{index} {sequence}, QoS {}, acknowledged in round {round}",
                        load::qos(*sequence)
                    ));
                }
            }
        }
    }
    println!(
        "{sent} messages sent, {acked} acknowledged, each to {} subscribers; {repeated} came again (QoS 1, permitted)",
        seen.len()
    );
}

fn report(shared: &Shared) -> bool {
    let complaints = shared
        .complaints
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for complaint in complaints.iter().take(COMPLAINTS_MAX) {
        println!("BROKEN: {complaint}");
    }
    if complaints.is_empty() {
        println!("every promise was kept");
    } else {
        println!(
            "{} promises were broken (seed {})",
            complaints.len(),
            shared.seed
        );
    }
    // A closed pipe is no failure of the broker's.
    let _ = io::stdout().flush();
    complaints.is_empty()
}

/// A broker that is killed when this is dropped.
struct Broker(Child);

impl Broker {
    fn start(args: &TortureArgs, shared: &Shared, cores: usize) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--data-dir")
            .arg(args.dir.join("ringmq-torture"))
            .args(["--bind", &shared.address.to_string()])
            .args(["--cores", &cores.to_string()])
            .args(["--durability", &args.durability, "--log-level", "warn"])
            .args(["--set", "limits.queue-messages-max=10000000"])
            .args(["--set", "limits.queue-bytes-max=4GB"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let broker = Self(child);
        let (said, listens) = std::sync::mpsc::channel();
        // It ends with the broker.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("listening on ") {
                    let _ = said.send(());
                }
            }
        });
        match listens.recv_timeout(START) {
            Ok(()) => Ok(broker),
            Err(_) => Err(io::Error::other(
                "the broker does not start; its log says why",
            )),
        }
    }

    fn kill(mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

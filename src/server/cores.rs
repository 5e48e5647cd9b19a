//! The cores: one executor thread per shard, and what starts, keeps awake and stops them.
//!
//! The main thread binds the sockets, makes the links and spawns the threads; each builds its shard, its ring and
//! its driver by itself, because none of the three may change threads, and reports. From then on the main thread only
//! waits. A core that ends without having been asked to takes the process with it: its sessions and its share
//! of the connections would be gone, and the others could not tell.
//!
//! An executor has this one task and no other: the driver waits in its own ring, not in the executor's (ADR 10).

use super::clock::Clock;
use super::{log, memory};
use crate::access::RulesInForce;
use crate::auth::pool::Pool;
use crate::config::LogLevel;
use crate::config::limits::Limits;
use crate::config::listener::{Bind, ListenerSpec};
use crate::mesh::link::{LinkConfig, full_mesh};
use crate::mesh::wake::Wake;
use crate::net::counters::NetCounters;
use crate::net::driver::{Driver, DriverSetup, Shutdown, Turn};
use crate::net::events::LogSink;
use crate::net::listener::Listener;
use crate::net::live::{Live, Parts};
use crate::net::ring::{Ring, RingConfig, RingError};
use crate::net::transport::Door;
use crate::net::transport::tls_files::TlsFileError;
use crate::shard::input::{Now, ShardId};
use crate::shard::message::Message;
use crate::shard::outbox::Outbox;
use crate::shard::placement::Placement;
use crate::shard::record::{Durability, RecoveredSession, StoredMessage, StoredSession};
use crate::shard::{Shard, ShardSetup};
use crate::store::load::{LoadSetup, Recovered};
use crate::store::port::StoreLink;
use crate::store::stats::StoreStats;
use crate::store::{Store, StoreError, StoreLog};
use glommio::{CpuSet, ExecutorJoinHandle, LocalExecutorBuilder};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Time a core has to start to listen, beside its time for each session and retained message that it takes back.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const RECOVER_TIMEOUT: Duration = Duration::from_micros(200);
/// Time in which locked memory that an earlier process gave back is waited for.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(5);
/// The least that glommio takes; it is for file reads, which a core does not do.
const EXECUTOR_MEMORY_BYTES: usize = 64 << 10;
/// Exit status of a process whose core has ended: EX_SOFTWARE.
const EXIT_CORE_ENDED: i32 = 70;

/// What the cores are made from.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// How many, 1 to [`ShardId::COUNT_MAX`]; more than there are CPUs is allowed.
    pub shard_count: usize,
    /// Whether to bind each to a CPU of its own. Without effect when there are too few, or when the system
    /// does not tell which there are.
    pub pin: bool,
    /// Where to listen, and what is spoken there.
    pub listeners: Vec<ListenerSpec>,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// The installation's key for placing sessions.
    pub placement_key: [u8; 16],
    /// Seeds the shards' hash tables; unknown to clients.
    pub hash_seed: u64,
    /// Seeds what the shards assign at random; unknown to clients.
    pub random_seed: u64,
    /// Where events about clients go; `None` emits none.
    pub log: Option<LogSink>,
    /// Whether the log is told of each client that comes and goes.
    pub log_clients: bool,
    /// The sizes of each core's ring.
    pub ring: RingConfig,
    /// The sizes of the links; `None` are those that fit the number of shards.
    pub link: Option<LinkConfig>,
    /// Who may publish and read what.
    pub rules: RulesInForce,
    /// Those who judge clients; without them no listener that asks for a proof lets anybody in.
    pub judges: Option<Arc<Pool>>,
    /// What outlives the process, if anything does.
    pub store: Option<StoreConfig>,
}

/// What the store is made from.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The database.
    pub path: PathBuf,
    /// What it promises: not `Durability::None`.
    pub durability: Durability,
    /// Where its lines go.
    pub log: StoreLog,
}

/// Why the cores did not start. Its text is for the operator.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Bind {
        /// Which.
        address: Bind,
        /// What the system said.
        source: io::Error,
    },
    /// A file of a listener's TLS is missing or wrong.
    Tls {
        /// The listener's name.
        listener: String,
        /// What is wrong.
        source: TlsFileError,
    },
    /// A thread or an eventfd cannot be had.
    System(io::Error),
    /// There is no store.
    Store {
        /// The database.
        path: PathBuf,
        /// Why not.
        source: Box<StoreError>,
    },
    /// A core has no ring.
    Ring(RingError),
    /// A core has no executor.
    Executor(String),
    /// A core did not report in time.
    Timeout,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Tls { listener, source } => write!(f, "listener {listener}: {source}"),
            Self::System(source) => write!(f, "cannot start a core: {source}"),
            Self::Store { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Ring(error) => write!(f, "cannot start a core: {error}"),
            Self::Executor(error) => write!(f, "cannot start a core's executor: {error}"),
            Self::Timeout => f.write_str("a core did not start in time"),
        }
    }
}

impl std::error::Error for StartError {}

/// The running cores.
pub struct Cores {
    threads: Vec<ExecutorJoinHandle<()>>,
    shutdown: Arc<Shutdown>,
    addresses: Vec<Bind>,
    live: Arc<Live>,
    counters: Vec<Arc<NetCounters>>,
    store: Option<Store>,
}

impl fmt::Debug for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cores")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Cores {
    /// Starts the cores and returns when all of them listen.
    ///
    /// Errors: the first thing that failed; then no core is left running.
    /// Panics: when `shard_count` is out of range.
    pub fn start(config: &CoreConfig) -> Result<Self, StartError> {
        let count = config.shard_count;
        assert!((1..=ShardId::COUNT_MAX).contains(&count));
        let doors = open_doors(&config.listeners)?;
        let (listeners, addresses) = bind(&doors, count)?;
        let live_parts = Parts {
            limits: Arc::clone(&config.limits),
            doors,
            rules: config.rules.clone(),
            withdrawn: Arc::default(),
        };
        let wakes = (0..count)
            .map(|_| Wake::new().map(Arc::new))
            .collect::<Result<Vec<_>, _>>();
        let wakes = wakes.map_err(StartError::System)?;
        let clock = Clock::start();
        let (store, parts) = open_store(config, &wakes, clock.now())?;
        let recovered: usize = parts.iter().map(RecoveredPart::len).sum();
        let link = config.link.unwrap_or_else(|| LinkConfig::for_shards(count));
        let links = full_mesh(link, &wakes);
        let cpus = if config.pin {
            cpus_for(count)
        } else {
            Vec::new()
        };
        let live = Arc::new(Live::new(
            live_parts,
            wakes.clone(),
            config.hash_seed,
            memory::bytes_max(config.limits.memory_bytes_max),
        ));
        let mut cores = Self {
            threads: Vec::with_capacity(count),
            shutdown: Arc::new(Shutdown::new(wakes.clone())),
            addresses,
            live,
            counters: (0..count).map(|_| Arc::default()).collect(),
            store,
        };
        let mut reports = Vec::with_capacity(count);
        let cores_parts = links.into_iter().zip(wakes).zip(listeners).zip(parts);
        for (index, (((links, wake), listeners), recovered)) in cores_parts.enumerate() {
            let core = Core {
                index,
                config: config.clone(),
                clock,
                setup: DriverSetup {
                    id: ShardId(index as u8),
                    listeners,
                    links,
                    wake,
                    shutdown: Arc::clone(&cores.shutdown),
                    live: Arc::clone(&cores.live),
                    log: config.log.clone(),
                    auth: None,
                    store: None,
                    outbox: Outbox::default(),
                    counters: Arc::clone(&cores.counters[index]),
                },
                recovered,
            };
            match core.spawn(cpus.get(index).copied()) {
                Ok((thread, report)) => {
                    cores.threads.push(thread);
                    reports.push(report);
                }
                Err(error) => return Err(cores.abandon(error)),
            }
        }
        let recover = RECOVER_TIMEOUT.saturating_mul(u32::try_from(recovered).unwrap_or(u32::MAX));
        let deadline = Instant::now() + START_TIMEOUT + recover;
        for (index, report) in reports.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            match report.recv_timeout(left) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(cores.abandon(error)),
                Err(RecvTimeoutError::Timeout) => return Err(StartError::Timeout),
                Err(RecvTimeoutError::Disconnected) => {
                    // The executor failed before it ran anything; its thread knows why.
                    let error = match cores.threads.remove(index).join() {
                        Ok(()) => "it ended at once".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    return Err(cores.abandon(StartError::Executor(error)));
                }
            }
        }
        Ok(cores)
    }

    /// The addresses listened on, in the order of `listeners`, with the ports that were picked.
    pub fn addresses(&self) -> &[Bind] {
        &self.addresses
    }

    /// What can be replaced while they run.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// What each core counts about its sockets.
    pub fn counters(&self) -> &[Arc<NetCounters>] {
        &self.counters
    }

    /// What the store counts, if there is one.
    pub fn store_stats(&self) -> Option<&Arc<StoreStats>> {
        self.store.as_ref().map(Store::stats)
    }

    /// What asks the cores to stop, for another thread such as the one that waits for signals.
    pub fn stopper(&self) -> Arc<Shutdown> {
        Arc::clone(&self.shutdown)
    }

    /// Asks the cores to close their connections and returns when they have ended, which they do after
    /// `timeout` even if peers do not cooperate.
    pub fn shutdown(self, timeout: Duration) {
        self.shutdown.request(timeout);
        self.wait();
    }

    /// Waits until the cores have ended, which they only do when asked to.
    pub fn wait(self) {
        for thread in self.threads {
            if let Err(error) = thread.join() {
                end_process(&error.to_string());
            }
        }
        // After the cores: what they have left is written.
        if let Some(store) = self.store {
            store.stop();
        }
    }

    /// Stops the cores that have started, because `error` kept another from it.
    fn abandon(self, error: StartError) -> StartError {
        self.shutdown.request(Duration::ZERO);
        // Those whose own start failed have nothing to add.
        self.threads
            .into_iter()
            .for_each(|thread| drop(thread.join()));
        if let Some(store) = self.store {
            store.stop();
        }
        error
    }
}

/// What one core takes back at its start.
#[derive(Default)]
struct RecoveredPart {
    sessions: Vec<RecoveredSession>,
    /// The same for all.
    retained: Arc<Vec<Message>>,
    last_session: u64,
    last_message: u64,
    link: Option<StoreLink>,
}

impl RecoveredPart {
    fn len(&self) -> usize {
        self.sessions.len() + self.retained.len()
    }
}

/// Opens the store, if there is to be one, and deals out what it had.
fn open_store(
    config: &CoreConfig,
    wakes: &[Arc<Wake>],
    now: Now,
) -> Result<(Option<Store>, Vec<RecoveredPart>), StartError> {
    let Some(store) = &config.store else {
        let nothing = wakes.iter().map(|_| RecoveredPart::default());
        return Ok((None, nothing.collect()));
    };
    let placement = Placement::new(config.placement_key, config.shard_count);
    let setup = LoadSetup {
        path: &store.path,
        shard_count: config.shard_count,
        owner: &|client_id| placement.owner(client_id),
        wall_minus_mono_ms: now.wall_ms.saturating_sub(now.mono_ms),
    };
    let begin = Instant::now();
    let opened = Store::open(&setup, store.durability, wakes, store.log);
    let (opened, recovered, links) = opened.map_err(|source| StartError::Store {
        path: store.path.clone(),
        source: Box::new(source),
    })?;
    recovered.tell(&store.path, begin.elapsed(), store.log);
    let Recovered {
        sessions,
        retained,
        last_session,
        last_message,
        ..
    } = recovered;
    let retained = Arc::new(retained);
    let parts = sessions
        .into_iter()
        .zip(links)
        .map(|(sessions, link)| RecoveredPart {
            sessions,
            retained: Arc::clone(&retained),
            last_session,
            last_message,
            link: Some(link),
        });
    Ok((Some(opened), parts.collect()))
}

/// A core that has not started.
struct Core {
    index: usize,
    config: CoreConfig,
    clock: Clock,
    setup: DriverSetup,
    recovered: RecoveredPart,
}

type Report = Result<(), StartError>;

impl Core {
    fn spawn(
        self,
        cpu: Option<usize>,
    ) -> Result<(ExecutorJoinHandle<()>, Receiver<Report>), StartError> {
        let placement = cpu.map_or(glommio::Placement::Unbound, glommio::Placement::Fixed);
        let (sender, receiver) = sync_channel(1);
        let thread = LocalExecutorBuilder::new(placement)
            .name("core")
            .io_memory(EXECUTOR_MEMORY_BYTES)
            .spawn(move || self.run(sender))
            .map_err(|error| StartError::Executor(error.to_string()))?;
        Ok((thread, receiver))
    }

    async fn run(self, report: SyncSender<Report>) {
        let Self {
            index,
            config,
            clock,
            setup,
            recovered,
        } = self;
        let driver = match start_driver(&config, clock, setup, recovered) {
            Ok(driver) => driver,
            Err(error) => {
                // The main thread waits for it, or has given up.
                let _ = report.send(Err(error));
                return;
            }
        };
        let guard = EndGuard {
            index,
            asked: false,
        };
        match drive(driver, clock, report) {
            Ok(()) => guard.end_as_asked(),
            Err(error) => end_process(&format!("core {index} cannot go on: {error}")),
        }
    }
}

fn start_driver(
    config: &CoreConfig,
    clock: Clock,
    mut setup: DriverSetup,
    recovered: RecoveredPart,
) -> Result<Driver<Shard>, StartError> {
    let now = clock.now();
    let mut shard = Shard::new(ShardSetup {
        id: setup.id,
        shard_count: config.shard_count,
        limits: Arc::clone(&config.limits),
        placement: Placement::new(config.placement_key, config.shard_count),
        hash_seed: config.hash_seed,
        // Far apart, so that no two shards' sequences meet.
        random_seed: config
            .random_seed
            .wrapping_add((setup.id.index() as u64).wrapping_mul(0xd1b5_4a32_d192_ed03)),
        events: config.log_clients && config.log.is_some(),
        durability: config
            .store
            .as_ref()
            .map_or(Durability::None, |store| store.durability),
        now,
    });
    setup.store = recovered.link;
    let judges = config.judges.as_ref();
    setup.auth = judges.map(|judges| judges.link(Arc::clone(&setup.wake)));
    shard.set_next_numbers(
        StoredSession(recovered.last_session),
        StoredMessage(recovered.last_message),
    );
    for message in recovered.retained.iter() {
        shard.recover_retained(message.clone());
    }
    for session in recovered.sessions {
        shard.recover(now, session, &mut setup.outbox);
    }
    if config.store.is_some() {
        shard.finish_recovery(now, &mut setup.outbox);
    }
    let ring = make_ring(config.ring).map_err(StartError::Ring)?;
    Driver::new(setup, ring, shard, now).map_err(StartError::Ring)
}

/// A ring; waits while the kernel has not yet taken back the locked memory of a process that has just ended.
fn make_ring(config: RingConfig) -> Result<Ring, RingError> {
    let deadline = Instant::now() + MEMORY_TIMEOUT;
    loop {
        match Ring::new(config) {
            Err(RingError::NoMemory(_)) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

/// Turns until the core was asked to stop. It reports when the core listens.
fn drive(mut driver: Driver<Shard>, clock: Clock, report: SyncSender<Report>) -> io::Result<()> {
    let mut report = Some(report);
    loop {
        let turn = driver.turn(clock.now())?;
        if driver.is_listening()
            && let Some(report) = report.take()
        {
            // The main thread waits for it, or has given up.
            let _ = report.send(Ok(()));
        }
        match turn {
            Turn::Busy => {}
            // Whoever else has work for this CPU goes first, and what has arrived meanwhile makes the next turn
            // larger. Where nobody waits for the CPU this costs one system call.
            Turn::Light => thread::yield_now(),
            Turn::Idle => driver.sleep()?,
            Turn::Finished => return Ok(()),
        }
    }
}

/// Ends the process when a core ends without having been asked to.
struct EndGuard {
    index: usize,
    asked: bool,
}

impl EndGuard {
    fn end_as_asked(mut self) {
        self.asked = true;
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if !self.asked {
            end_process(&format!("core {} has ended unexpectedly", self.index));
        }
    }
}

fn end_process(why: &str) -> ! {
    log::line(LogLevel::Error, format_args!("{why}; the process ends"));
    log::flush();
    std::process::exit(EXIT_CORE_ENDED)
}

fn open_doors(listeners: &[ListenerSpec]) -> Result<Vec<Arc<Door>>, StartError> {
    let open = |spec: &ListenerSpec| {
        let door = Door::open(spec.clone()).map_err(|source| StartError::Tls {
            listener: spec.name.clone(),
            source,
        });
        door.map(Arc::new)
    };
    listeners.iter().map(open).collect()
}

/// The listeners of each core, and the addresses they share.
fn bind(doors: &[Arc<Door>], count: usize) -> Result<(Vec<Vec<Listener>>, Vec<Bind>), StartError> {
    let mut cores: Vec<Vec<Listener>> = (0..count).map(|_| Vec::new()).collect();
    let mut addresses = Vec::with_capacity(doors.len());
    for door in doors {
        let listeners = Listener::bind_door(door, count).map_err(|source| StartError::Bind {
            address: door.spec().bind.clone(),
            source,
        })?;
        addresses.extend(listeners.first().map(|listener| listener.bind().clone()));
        for (core, listener) in cores.iter_mut().zip(listeners) {
            core.push(listener);
        }
    }
    Ok((cores, addresses))
}

/// A CPU for each of `count` cores, or none when there are too few or the system does not say.
fn cpus_for(count: usize) -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let allowed = allowed
        .and_then(|list| parse_list(list.trim()))
        .unwrap_or_default();
    // What glommio does not know it refuses.
    let Ok(online) = CpuSet::online() else {
        return Vec::new();
    };
    let mut cpus: Vec<_> = online
        .iter()
        .map(|location| location.cpu)
        .filter(|cpu| allowed.contains(cpu))
        .collect();
    cpus.sort_unstable();
    if cpus.len() < count {
        return Vec::new();
    }
    cpus.truncate(count);
    cpus
}

/// The numbers in a list such as `0-3,8`.
fn parse_list(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    fn config(shard_count: usize) -> CoreConfig {
        CoreConfig {
            shard_count,
            pin: false,
            listeners: vec![ListenerSpec::tcp("tcp", (Ipv4Addr::LOCALHOST, 0).into())],
            limits: Arc::default(),
            placement_key: [3; 16],
            hash_seed: 1,
            random_seed: 2,
            log: None,
            log_clients: false,
            ring: RingConfig {
                buffer_count: 64,
                ..RingConfig::default()
            },
            link: None,
            rules: RulesInForce::default(),
            judges: None,
            store: None,
        }
    }

    /// A 3.1.1 client on a blocking socket, whose packets are shorter than 128 bytes.
    struct Client(TcpStream);

    impl Client {
        fn connect(cores: &Cores, client_id: &str) -> Self {
            let Bind::Tcp(address) = cores.addresses()[0] else {
                panic!("the tests listen on TCP")
            };
            let stream = TcpStream::connect(address).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let mut client = Self(stream);
            let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
            text(&mut body, client_id);
            client.send(0x10, &body);
            assert_eq!(client.receive(), (0x20, vec![0, 0]));
            client
        }

        fn subscribe(&mut self, filter: &str) {
            let mut body = vec![0, 1];
            text(&mut body, filter);
            body.push(0);
            self.send(0x82, &body);
            assert_eq!(self.receive(), (0x90, vec![0, 1, 0]));
        }

        fn publish(&mut self, topic: &str, payload: &str) {
            let mut body = Vec::new();
            text(&mut body, topic);
            body.extend_from_slice(payload.as_bytes());
            self.send(0x30, &body);
        }

        fn received(&mut self) -> String {
            let (kind, body) = self.receive();
            assert_eq!(kind, 0x30);
            let topic_len = usize::from(body[0]) << 8 | usize::from(body[1]);
            String::from_utf8(body[2 + topic_len..].to_vec()).unwrap()
        }

        fn send(&mut self, kind: u8, body: &[u8]) {
            assert!(body.len() < 128);
            self.0
                .write_all(&[&[kind, body.len() as u8], body].concat())
                .unwrap();
        }

        fn receive(&mut self) -> (u8, Vec<u8>) {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).unwrap();
            let mut body = vec![0; usize::from(head[1])];
            self.0.read_exact(&mut body).unwrap();
            (head[0], body)
        }
    }

    fn text(body: &mut Vec<u8>, text: &str) {
        body.extend_from_slice(&(text.len() as u16).to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }

    fn sum(cores: &Cores, counter: impl Fn(&NetCounters) -> u64) -> u64 {
        cores
            .counters()
            .iter()
            .map(|counters| counter(counters))
            .sum()
    }

    #[test]
    fn more_shards_than_cpus_carry_every_message_to_every_subscriber() {
        let cores = Cores::start(&config(4)).unwrap();
        let mut subscribers: Vec<_> = (0..16)
            .map(|n| Client::connect(&cores, &format!("sub-{n}")))
            .collect();
        subscribers
            .iter_mut()
            .for_each(|client| client.subscribe("a/+"));
        let mut publishers: Vec<_> = (0..4)
            .map(|n| Client::connect(&cores, &format!("pub-{n}")))
            .collect();
        for round in 0..50 {
            for (at, publisher) in publishers.iter_mut().enumerate() {
                publisher.publish(&format!("a/{at}"), &format!("{at} {round}"));
            }
        }
        for subscriber in &mut subscribers {
            let mut next = [0; 4];
            for _ in 0..200 {
                let payload = subscriber.received();
                let (at, round) = payload.split_once(' ').unwrap();
                let at: usize = at.parse().unwrap();
                assert_eq!(
                    round.parse::<u32>().unwrap(),
                    next[at],
                    "in the publisher's order"
                );
                next[at] += 1;
            }
            assert_eq!(next, [50; 4]);
        }
        assert_eq!(sum(&cores, |counters| counters.accepted.get()), 20);
        let handed_over = sum(&cores, |counters| counters.handed_over.get());
        assert!((1..20).contains(&handed_over), "{handed_over}");
        drop(publishers);
        let start = Instant::now();
        let closers: Vec<_> = subscribers
            .into_iter()
            .map(|mut client| thread::spawn(move || client.0.read(&mut [0]).unwrap()))
            .collect();
        cores.shutdown(Duration::from_secs(5));
        assert!(
            start.elapsed() < Duration::from_secs(4),
            "{:?}",
            start.elapsed()
        );
        closers
            .into_iter()
            .for_each(|closer| assert_eq!(closer.join().unwrap(), 0));
    }

    #[test]
    fn idle_cores_sleep_and_wake() {
        let cores = Cores::start(&config(2)).unwrap();
        let mut client = Client::connect(&cores, "c");
        client.subscribe("t");
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(10));
            client.publish("t", "x");
            assert_eq!(client.received(), "x");
        }
        let turns = sum(&cores, |counters| counters.turns.get());
        let parks = sum(&cores, |counters| counters.parks.get());
        assert!(turns < 200 && parks >= 10, "{turns} turns, {parks} parks");
        drop(client);
        cores.shutdown(Duration::from_secs(3));
    }

    #[test]
    fn pinned_cores_start_too() {
        let cores = Cores::start(&CoreConfig {
            pin: true,
            ..config(1)
        })
        .unwrap();
        Client::connect(&cores, "c");
        cores.shutdown(Duration::from_secs(3));
        assert!(cpus_for(10_000).is_empty());
        assert_eq!(parse_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_list("0-x"), None);
    }

    #[test]
    fn an_address_in_use_is_an_error_that_names_it() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let error = Cores::start(&CoreConfig {
            listeners: vec![ListenerSpec::tcp("tcp", address)],
            ..config(2)
        })
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("cannot listen on {address}: ")),
            "{text}"
        );
    }

    #[test]
    fn a_ring_that_cannot_be_had_is_an_error() {
        // More completions than the kernel allows.
        let ring = RingConfig {
            completion_entries: 1 << 20,
            ..RingConfig::default()
        };
        let error = Cores::start(&CoreConfig { ring, ..config(2) }).unwrap_err();
        assert!(
            matches!(error, StartError::Ring(RingError::TooOld(_))),
            "{error}"
        );
    }
}

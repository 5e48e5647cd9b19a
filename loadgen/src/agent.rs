//! One run on several processes or hosts: agents that do the work, and the one that leads them.
//!
//! They talk in lines of JSON. The leader sends the command and each agent's place among the agents; every agent takes its
//! part of the clients and of the rate, connects, and says that it is ready. Then all begin at one moment, which is
//! told to each by its own clock. Seconds come back as they pass, and histograms at the end, and are added up.
//!
//! A publisher and its subscribers are on one agent, so that latencies are differences on one clock; only `pub`
//! and `sub` have nobody on the other side.

use crate::args::{Common, LoadArgs};
use crate::cli::{self, Verb};
use crate::clock::{Clock, nanoseconds};
use crate::given::Secret;
use crate::leader::{Conductor, Figures, Measured, Sample, broker_usage};
use crate::live::Live;
use crate::parse::RATE_MAX;
use crate::plan::part;
use crate::run::Job;
use crate::worker::{Interval, Times};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Agents of a run: a part of the smallest rate for each is still one.
const AGENTS_MAX: usize = 1_000;
/// The longest line: the histograms of a run are a few megabytes at most.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// From the last agent's being ready to the start: time for the news to reach all of them.
const START_DELAY_NS: u64 = 300_000_000;
/// How often the leader looks at what is new.
const LOOK: Duration = Duration::from_millis(20);
/// How long somebody may take to say hello.
const HELLO: Duration = Duration::from_secs(10);

/// An agent.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Where to listen for the leader. Beyond loopback there must be a secret.
    #[arg(long, default_value = "127.0.0.1:9700")]
    pub listen: SocketAddr,
    /// What it shares with the leader.
    #[command(flatten)]
    pub secret: SecretArgs,
}

/// A run on agents.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The agents, as host:port,host:port.
    #[arg(long, value_name = "AGENTS", value_delimiter = ',', required = true)]
    pub agents: Vec<String>,
    /// What it shares with the agents.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// The verb and its flags, as without agents. Clients, rates and connect rates are those of all agents together.
    #[arg(
        value_name = "VERB",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true
    )]
    pub words: Vec<String>,
    /// The same, as it was read.
    #[arg(skip)]
    pub verb: Option<Box<Verb>>,
}

/// A secret. It crosses the network as it is: use it where nobody listens, or through a tunnel.
#[derive(Clone, Debug, Args)]
pub struct SecretArgs {
    /// The secret.
    #[arg(
        long,
        env = "LOADGEN_SECRET",
        hide_env_values = true,
        conflicts_with = "secret_file"
    )]
    secret: Option<Secret>,
    /// The file that it is in.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

impl SecretArgs {
    fn read(&self) -> Result<String, String> {
        let Some(path) = &self.secret_file else {
            let secret = self.secret.as_ref().map_or("", Secret::reveal);
            return Ok(secret.to_owned());
        };
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| format!("--secret-file {}: {error}", path.display()))?;
        Ok(text.trim().to_owned())
    }
}

impl AgentArgs {
    /// What it shares with the leader.
    ///
    /// Errors: it cannot be read, or there must be one and is none.
    pub fn secret(&self) -> Result<String, String> {
        let secret = self.secret.read()?;
        if secret.is_empty() && !self.listen.ip().is_loopback() {
            return Err(format!(
                "--listen {}: it can be reached from elsewhere, so a secret is needed (--secret-file, or LOADGEN_SECRET)",
                self.listen
            ));
        }
        Ok(secret)
    }
}

impl RunArgs {
    /// What it shares with the agents.
    ///
    /// Errors: it cannot be read.
    pub fn secret(&self) -> Result<String, String> {
        self.secret.read()
    }

    /// Errors: the verb is wrong, or cannot be shared among so many.
    pub fn check(&mut self) -> Result<(), String> {
        let of = self.agents.len();
        if of > AGENTS_MAX {
            return Err(format!(
                "--agents: these are {of}; at most {AGENTS_MAX} can be led"
            ));
        }
        let Some(verb) = &mut self.verb else {
            return Ok(());
        };
        cli::check(verb)?;
        // The last has the smallest part.
        part_of((**verb).clone(), Place { index: of - 1, of }, "", None).map(drop)
    }
}

/// What the leader says.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Hello {
        secret: String,
        version: String,
    },
    Prepare {
        /// The verb and its flags, without secrets.
        words: Vec<String>,
        /// With which the clients connect.
        password: Option<String>,
        index: usize,
        of: usize,
        /// What Client Identifiers and topics of all agents begin with.
        prefix: String,
        /// The rate of this step over all agents, where a rate is searched for.
        rate: Option<f64>,
    },
    Begin {
        at_ns: u64,
    },
}

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
enum News {
    Welcome { now_ns: u64, machine: String },
    Refused(String),
    Ready,
    Second(Box<Interval>),
    Done(Box<Figures>),
    Failed(String),
}

// ---- the agent ----

/// Serves leaders, one after the other, until the process is ended.
///
/// Errors: it cannot listen, or may not without a secret.
pub fn serve(args: &AgentArgs) -> Result<Infallible, String> {
    let secret = args.secret()?;
    let listener = TcpListener::bind(args.listen)
        .map_err(|error| format!("cannot listen at {}: {error}", args.listen))?;
    eprintln!("agent listens at {}", args.listen);
    loop {
        serve_one(&listener, &secret)?;
    }
}

/// Serves the next leader until it leaves.
///
/// Errors: the listener failed.
pub fn serve_one(listener: &TcpListener, secret: &str) -> Result<(), String> {
    let (stream, peer) = listener.accept().map_err(|error| error.to_string())?;
    match Link::new(stream).and_then(|link| attend(link, secret)) {
        Ok(()) => {}
        Err(why) => eprintln!("agent: {peer}: {why}"),
    }
    Ok(())
}

fn attend(mut link: Link, secret: &str) -> Result<(), String> {
    link.set_timeout(Some(HELLO))?;
    let Some(Order::Hello {
        secret: said,
        version,
    }) = link.hear()?
    else {
        return Err("it did not say hello".into());
    };
    if !is_same(&said, secret) {
        link.say(&News::Refused("the secret is wrong".into()))?;
        return Err("the secret is wrong".into());
    }
    if version != env!("CARGO_PKG_VERSION") {
        let why = format!("this agent is of version {}", env!("CARGO_PKG_VERSION"));
        return link.say(&News::Refused(why));
    }
    link.set_timeout(None)?;
    let machine = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    link.say(&News::Welcome {
        now_ns: Clock::start().now_ns(),
        machine,
    })?;
    while let Some(order) = link.hear()? {
        let Order::Prepare {
            words,
            password,
            index,
            of,
            prefix,
            rate,
        } = order
        else {
            return Err("it did not say what to prepare".into());
        };
        let place = Place { index, of };
        let conductor = Led {
            link: Mutex::new(link),
            is_over: AtomicBool::new(false),
        };
        let result = ordered(&words, password)
            .and_then(|verb| part_of(verb, place, &prefix, rate))
            .and_then(|verb| Job::of(&verb)?.measure(&conductor));
        link = conductor.link.into_inner().map_err(|_| "a thread died")?;
        link.say(&match result {
            Ok(measured) => News::Done(Box::new(measured.figures)),
            Err(why) => News::Failed(why),
        })?;
    }
    Ok(())
}

/// An agent's run: the leader says when it begins.
struct Led {
    link: Mutex<Link>,
    is_over: AtomicBool,
}

impl Conductor for Led {
    fn begin_ns(&self, _: Clock) -> Result<u64, String> {
        let mut link = self.link.lock().map_err(|_| "a thread died")?;
        link.say(&News::Ready)?;
        match link.hear()? {
            Some(Order::Begin { at_ns }) => Ok(at_ns),
            _ => Err("the leader did not say when to begin".into()),
        }
    }

    fn second(&self, interval: &Interval) {
        let said = self.link.lock().map(|link| link.say_second(interval));
        if !matches!(said, Ok(Ok(()))) {
            // Nobody waits for the result any more.
            self.is_over.store(true, Ordering::Release);
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

/// An agent's place among the agents.
#[derive(Clone, Copy, Debug)]
struct Place {
    index: usize,
    of: usize,
}

/// What a leader says, with the password that the clients have.
fn ordered(words: &[String], password: Option<String>) -> Result<Verb, String> {
    let all = std::iter::once("loadgen").chain(words.iter().map(String::as_str));
    let read = cli::read(all.map(Into::into).collect());
    let mut verb = read.map_err(|error| error.to_string())?.verb;
    if let Some(target) = verb.target() {
        // Not that of the agent's own environment.
        target.password = password.map(Secret::from);
    }
    Ok(verb)
}

/// The part of a verb that falls to an agent.
///
/// Errors: it cannot be shared, or not among so many.
fn part_of(mut verb: Verb, place: Place, prefix: &str, rate: Option<f64>) -> Result<Verb, String> {
    if place.index >= place.of || place.of > AGENTS_MAX {
        return Err("there are fewer agents than that".into());
    }
    if rate.is_some_and(|rate| !(rate > 0.0 && rate <= RATE_MAX)) {
        return Err("there is no such rate".into());
    }
    let few = || {
        format!(
            "{} agents need at least as many clients of each kind",
            place.of
        )
    };
    let own = |count: u32| {
        let own = part(count, place.index, place.of);
        (own > 0).then_some(own).ok_or_else(few)
    };
    let before = |count: u32| {
        (0..place.index)
            .map(|index| part(count, index, place.of))
            .sum::<u32>()
    };
    let common = |common: &mut Common, is_own: bool| {
        // Clients of one agent must not hear those of another, but those of `pub` and `sub` name their topics.
        common.target.prefix = Some(if is_own {
            format!("{prefix}-{}", place.index)
        } else {
            prefix.to_owned()
        });
        common.target.out = None;
        common.target.prometheus = None;
        common.target.broker_pid = None;
        common.target.quiet = true;
        let of = place.of as f64;
        common.connect_rate = common.connect_rate().map(|rate| rate / of);
        common.interval = None;
    };
    let load = |load: &mut LoadArgs, count: u32, own: u32| {
        let share = f64::from(own) / f64::from(count);
        if let Some(rate) = rate {
            load.find_max = None;
            load.rate = Some(rate);
        }
        load.rate = load.rate.map(|rate| rate * share);
        load.ramp = load.ramp.take().map(|profile| profile.scaled(share));
        load.stages = load.stages.take().map(|profile| profile.scaled(share));
    };
    match &mut verb {
        Verb::Conn(args) => {
            common(&mut args.common, true);
            args.count = own(args.count)?;
        }
        Verb::Pubsub(args) | Verb::Fanin(args) => {
            common(&mut args.common, true);
            let count = own(args.count)?;
            load(&mut args.load, args.count, count);
            args.count = count;
        }
        Verb::Fanout(args) => {
            common(&mut args.common, true);
            load(&mut args.load, place.of as u32, 1);
            args.count = own(args.count)?;
        }
        Verb::Slow(args) => {
            common(&mut args.common, true);
            load(&mut args.load, place.of as u32, 1);
            args.count = own(args.count)?;
            args.slow = part(args.slow, place.index, place.of);
        }
        Verb::Shared(args) => {
            common(&mut args.common, true);
            let count = own(args.count)?;
            load(&mut args.load, args.count, count);
            (args.count, args.members) = (count, own(args.members)?);
        }
        Verb::Pub(args) => {
            common(&mut args.common, false);
            if args
                .message
                .as_ref()
                .is_some_and(|text| text.starts_with("template://"))
            {
                return Err("an agent reads no files: give the message itself".into());
            }
            args.common.startnumber += before(args.count);
            let count = own(args.count)?;
            load(&mut args.load, args.count, count);
            let limit = args.limit * u64::from(count) / u64::from(args.count);
            if args.limit > 0 && limit == 0 {
                return Err(format!(
                    "{} agents need a --limit of more messages",
                    place.of
                ));
            }
            (args.count, args.limit) = (count, limit);
        }
        Verb::Sub(args) => {
            common(&mut args.common, false);
            args.common.startnumber += before(args.count);
            args.count = own(args.count)?;
        }
        _ => {
            return Err(
                "agents share conn, pubsub, fanin, fanout, slow, shared, pub and sub; run the other verbs without --agents"
                    .into(),
            );
        }
    }
    cli::check(&mut verb)?;
    Ok(verb)
}

// ---- the leader ----

/// Runs a verb on agents.
///
/// Errors: in plain words, why there is no result.
pub fn run(args: &RunArgs) -> Result<crate::report::Summary, String> {
    let verb = args.verb.as_ref().ok_or("there is no verb")?;
    let job = Job::of(verb)?;
    let secret = args.secret()?;
    let mut agents = Vec::new();
    let (sender, events) = mpsc::channel();
    for (index, address) in args.agents.iter().enumerate() {
        let reached = Agent::reach(address, &secret);
        let (agent, link) = reached.map_err(|why| format!("agent {address}: {why}"))?;
        agents.push(agent);
        let sender = sender.clone();
        thread::spawn(move || listen(index, link, &sender));
    }
    let mut leader = Agents {
        agents,
        events,
        words: args.words.clone(),
        password: job.common().target.credentials().password,
        prefix: job.common().target.prefix(),
    };
    job.run_with(|job| leader.measure(job))
}

/// An agent, as the leader sees it.
struct Agent {
    address: String,
    stream: TcpStream,
    /// By how much its clock is ahead of ours.
    ahead_ns: i64,
    machine: String,
}

struct Agents {
    agents: Vec<Agent>,
    events: Receiver<Event>,
    words: Vec<String>,
    password: Option<Secret>,
    prefix: String,
}

/// What came from which agent; nothing when it is gone.
type Event = (usize, Result<News, String>);

impl Agent {
    /// Connects to an agent; it is heard on the link.
    fn reach(address: &str, secret: &str) -> Result<(Self, Link), String> {
        let mut addresses = address
            .to_socket_addrs()
            .map_err(|error| error.to_string())?;
        let place = addresses.next().ok_or("it has no address")?;
        let stream =
            TcpStream::connect_timeout(&place, HELLO).map_err(|error| error.to_string())?;
        let mut link = Link::new(stream)?;
        link.set_timeout(Some(HELLO))?;
        let clock = Clock::start();
        let asked_ns = clock.now_ns();
        link.say(&Order::Hello {
            secret: secret.to_owned(),
            version: env!("CARGO_PKG_VERSION").into(),
        })?;
        let news = link.hear()?;
        let middle_ns = asked_ns.midpoint(clock.now_ns());
        link.set_timeout(None)?;
        match news {
            Some(News::Welcome { now_ns, machine }) => {
                let stream = link.stream.try_clone();
                let agent = Self {
                    address: address.to_owned(),
                    stream: stream.map_err(|error| error.to_string())?,
                    ahead_ns: now_ns.cast_signed() - middle_ns.cast_signed(),
                    machine,
                };
                Ok((agent, link))
            }
            Some(News::Refused(why)) => Err(why),
            _ => Err("it did not answer".into()),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The thread that hears it has the connection as well.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Agents {
    /// Lets all agents run a step. One that dies leaves the result of the others, which says so.
    fn measure(&mut self, job: &Job<'_>) -> Result<Measured, String> {
        let clock = Clock::start();
        let target = &job.common().target;
        let broker_before = broker_usage(target)?;
        let of = self.agents.len();
        let rate = job.searched_rate();
        for (index, agent) in self.agents.iter().enumerate() {
            let order = Order::Prepare {
                words: self.words.clone(),
                password: self
                    .password
                    .as_ref()
                    .map(|secret| secret.reveal().to_owned()),
                index,
                of,
                prefix: self.prefix.clone(),
                rate,
            };
            let said = say(&agent.stream, &order);
            said.map_err(|why| format!("agent {}: {why}", agent.address))?;
        }
        let events = &self.events;
        let head = job.head(of);
        let connections = head.connections;
        let (seconds, receiver) = mpsc::channel();
        let live = Live::new(target, head, clock.now_ns())?.hear(receiver, |_| {});
        let mut gathered = Gathered {
            agents: &self.agents,
            figures: None,
            seconds,
            live,
            connections,
            waiting: (0..of).collect(),
            ended: None,
        };
        gathered.until_ready(events)?;
        let broker_connected = broker_usage(target)?;
        let begin_ns = clock.now_ns() + START_DELAY_NS;
        for agent in &self.agents {
            let at_ns = begin_ns.saturating_add_signed(agent.ahead_ns);
            // Whether it is still there will be seen.
            let _ = say(&agent.stream, &Order::Begin { at_ns });
        }
        let (warmup, duration) = job.times();
        let measure_ns = begin_ns + nanoseconds(warmup);
        let times = Times {
            start_ns: begin_ns,
            measure_ns,
            stop_ns: measure_ns + nanoseconds(duration),
        };
        gathered.live.begin(times, clock.now_ns());
        gathered.until(events, clock, times.measure_ns);
        let first = Sample::take(target, clock)?;
        gathered.until(events, clock, times.stop_ns);
        let last = Sample::take(target, clock).unwrap_or(first);
        gathered.until(events, clock, u64::MAX);
        let ended = gathered.ended;
        let Some(mut figures) = gathered.figures else {
            return Err(ended.unwrap_or_else(|| "no agent had a result".into()));
        };
        figures.total.ended = figures.total.ended.or(ended);
        Ok(Measured {
            figures,
            broker_before,
            broker_connected,
            broker_first: first.broker,
            broker_last: last.broker,
            times,
            timeline: gathered.live.into_timeline(),
        })
    }
}

/// What agents have told of a step.
struct Gathered<'a> {
    agents: &'a [Agent],
    figures: Option<Figures>,
    /// Where the seconds of all agents go, to be shown and kept.
    seconds: Sender<Interval>,
    live: Live<'a>,
    connections: u64,
    /// Agents that owe something.
    waiting: Vec<usize>,
    ended: Option<String>,
}

impl Gathered<'_> {
    fn until_ready(&mut self, events: &Receiver<Event>) -> Result<(), String> {
        let mut ready = 0;
        while ready < self.agents.len() {
            let (index, news) = events.recv().map_err(|_| "all agents are gone")?;
            let address = &self.agents[index].address;
            match news {
                Ok(News::Ready) => ready += 1,
                Ok(News::Failed(why)) | Err(why) => return Err(format!("agent {address}: {why}")),
                Ok(_) => return Err(format!("agent {address} said what makes no sense")),
            }
        }
        Ok(())
    }

    /// Takes in what agents tell until a moment, or until all have told everything.
    fn until(&mut self, events: &Receiver<Event>, clock: Clock, until_ns: u64) {
        let is_last = until_ns == u64::MAX;
        while clock.now_ns() < until_ns && !(is_last && self.waiting.is_empty()) {
            let wait = Duration::from_nanos(until_ns - clock.now_ns()).min(LOOK);
            self.live.tick(self.connections, clock.now_ns());
            match events.recv_timeout(wait) {
                Ok((index, news)) => self.take(index, news),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if is_last => return,
                Err(RecvTimeoutError::Disconnected) => thread::sleep(wait),
            }
        }
    }

    fn take(&mut self, index: usize, news: Result<News, String>) {
        match news {
            Ok(News::Second(interval)) => {
                // They are heard as long as there is a step.
                let _ = self.seconds.send(*interval);
            }
            Ok(News::Done(more)) => {
                self.waiting.retain(|one| *one != index);
                let machine = &self.agents[index].machine;
                let has_told = |at: usize| !self.waiting.contains(&at) && at != index;
                let mut others = (0..self.agents.len()).filter(|at| has_told(*at));
                let shares = others.any(|at| self.agents[at].machine == *machine);
                match &mut self.figures {
                    Some(figures) => figures.add(&more, shares),
                    None => self.figures = Some(*more),
                }
            }
            Ok(News::Failed(why)) | Err(why) => {
                self.waiting.retain(|one| *one != index);
                let address = &self.agents[index].address;
                let why =
                    format!("agent {address} ended: {why}; the figures are those of the others");
                eprintln!("loadgen: {why}");
                self.ended.get_or_insert(why);
            }
            Ok(News::Ready | News::Welcome { .. } | News::Refused(_)) => {}
        }
    }
}

/// Passes on what an agent says until it is gone.
fn listen(index: usize, mut link: Link, sender: &Sender<Event>) {
    loop {
        let news = match link.hear() {
            Ok(Some(news)) => Ok(news),
            Ok(None) => Err("it closed the connection".into()),
            Err(why) => Err(why),
        };
        let is_last = news.is_err();
        if sender.send((index, news)).is_err() || is_last {
            return;
        }
    }
}

// ---- lines ----

/// A connection on which lines of JSON go both ways.
struct Link {
    reader: BufReader<TcpStream>,
    stream: TcpStream,
}

impl Link {
    fn new(stream: TcpStream) -> Result<Self, String> {
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let reader = stream.try_clone().map_err(|error| error.to_string())?;
        Ok(Self {
            reader: BufReader::new(reader),
            stream,
        })
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), String> {
        let set = self.stream.set_read_timeout(timeout);
        set.map_err(|error| error.to_string())
    }

    fn say(&self, what: &impl Serialize) -> Result<(), String> {
        say(&self.stream, what)
    }

    fn say_second(&self, interval: &Interval) -> Result<(), String> {
        /// [`News`] without a copy.
        #[derive(Serialize)]
        enum Passing<'a> {
            Second(&'a Interval),
        }
        self.say(&Passing::Second(interval))
    }

    /// The next line; nothing at the end.
    fn hear<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>, String> {
        let mut line = Vec::new();
        let mut limited = self.reader.by_ref().take(LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut line);
        read.map_err(|error| error.to_string())?;
        if line.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| format!("it said what makes no sense: {error}"))
    }
}

fn say(mut stream: &TcpStream, what: &impl Serialize) -> Result<(), String> {
    let mut line = serde_json::to_vec(what).map_err(|error| error.to_string())?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|error| error.to_string())
}

/// Compares two texts in a time that does not tell where they differ.
fn is_same(one: &str, other: &str) -> bool {
    let differing = one
        .bytes()
        .zip(other.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && differing == 0
}

//! A run from its beginning to its summary: starts the cores, keeps the times, samples the broker.

use crate::assertion::Assertion;
use crate::cli::{
    Common, Conn, LoadArgs, Publish, Shape, Shared as SharedArgs, Slow, Subscribe, Target,
};
use crate::clock::{Clock, nanoseconds};
use crate::format::count;
use crate::links::{Address, Route};
use crate::live::{Head, Live};
use crate::plan::{ClientPlan, Hears, Names, Plan};
use crate::probe::broker_version;
use crate::procfs::{Usage, machine_cpu_ns};
use crate::report::provenance::{self, Provenance, is_own};
use crate::report::{Broker, Generator, Percentiles, Summary, files};
use crate::shared::Shared;
use crate::timeline::Timeline;
use crate::track::Track;
use crate::wire::Credentials;
use crate::worker::{self, Load, Outcome, Settings, Times};
use ringmq::client::target::{Endpoint, Target as ClientTarget};
use ringmq::protocol::QoS;
use std::net::ToSocketAddrs;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

/// From the announcement of the start to the start.
const START_DELAY_NS: u64 = 50_000_000;
/// How often the leading thread looks at the cores.
const LOOK_NS: u64 = 2_000_000;
/// After publishing: when nothing has arrived for this long the rest is lost.
const QUIET_NS: u64 = 2_000_000_000;
/// After publishing: the longest wait for the rest.
const DRAIN_NS: u64 = 30_000_000_000;
/// How long the broker's memory may settle after the last connect.
const SETTLE_NS: u64 = 500_000_000;
/// Connecting without any progress for this long is a failure.
const CONNECT_STALL_NS: u64 = 30_000_000_000;

/// Which shape a [`Shape`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pairs.
    Pubsub,
    /// One to many.
    Fanout,
    /// Many to one.
    Fanin,
}

/// Connects idle clients and tells what they cost.
///
/// Errors: in plain words, why there is no result.
pub fn conn(args: &Conn) -> Result<Summary, String> {
    let common = &args.common;
    let plan = Plan::conn(&names(common), args.count, args.subscribe);
    let settings = Settings {
        clean_start: false,
        ..settings(common, Load::Idle)?
    };
    let leader = Leader {
        common,
        settings: &settings,
        clock: Clock::start(),
        verify: false,
    };
    let measured = leader.run("conn", &plan, args.hold, Duration::ZERO)?;
    let mut summary = leader.summary("conn", &plan, &measured);
    if let Some(broker) = &mut summary.broker {
        let connections = measured.total.connected.max(1) as f64;
        let (before, after) = (&measured.broker_before, &measured.broker_connected);
        broker.cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns);
        broker.interval_ns = measured.connect_ns;
        broker.cpu_ns_per_connect = Some(broker.cpu_ns as f64 / connections);
        broker.cores_busy = broker.cpu_ns as f64 / measured.connect_ns.max(1) as f64;
        broker.user_percent = before.user_percent_until(after);
        broker.rss_after_bytes = after.rss_bytes;
        let growth = broker.rss_after_bytes as f64 - broker.rss_before_bytes as f64;
        broker.rss_bytes_per_connection = Some(growth / connections);
        broker.cpu_ns_per_message = None;
        broker.switches_per_1000 = None;
    }
    leader.finish(summary, &measured)
}

/// Runs publishers and subscribers.
///
/// Errors: in plain words, why there is no result.
pub fn shape(kind: Kind, args: &Shape) -> Result<Summary, String> {
    let names = names(&args.common);
    let (verb, plan) = match kind {
        Kind::Pubsub => ("pubsub", Plan::pubsub(&names, args.count)),
        Kind::Fanout => ("fanout", Plan::fanout(&names, args.count)),
        Kind::Fanin => ("fanin", Plan::fanin(&names, args.count)),
    };
    load(verb, &plan, &args.common, &args.load)
}

/// Runs publishers and subscribers that share.
///
/// Errors: in plain words, why there is no result.
pub fn shared(args: &SharedArgs) -> Result<Summary, String> {
    let cores = u32::from(args.common.cores);
    if args.count < cores || args.members < cores {
        return Err(
            "each core needs a publisher and a member: fewer --cores or more of them".into(),
        );
    }
    let plan = Plan::shared(&names(&args.common), args.count, args.members);
    load("shared", &plan, &args.common, &args.load)
}

/// Runs a publisher and subscribers some of which stop reading.
///
/// Errors: in plain words, why there is no result.
pub fn slow(args: &Slow) -> Result<Summary, String> {
    if args.load.closed_loop {
        return Err("a closed loop would wait for the slow ones: use --rate".into());
    }
    if args.slow >= args.count {
        return Err("one subscriber at least must keep up: fewer --slow or more of them".into());
    }
    let plan = Plan::slow(&names(&args.common), args.count, args.slow);
    load("slow", &plan, &args.common, &args.load)
}

/// Runs publishers alone.
///
/// Errors: in plain words, why there is no result.
pub fn publish(args: &Publish) -> Result<Summary, String> {
    if args.load.closed_loop && args.load.qos == 0 {
        return Err("nothing comes back for QoS 0: use --rate, or QoS 1 or 2".into());
    }
    let plan = Plan::publish(&names(&args.common), args.count, &args.topic);
    load("pub", &plan, &args.common, &args.load)
}

/// Runs subscribers alone.
///
/// Errors: in plain words, why there is no result.
pub fn subscribe(args: &Subscribe) -> Result<Summary, String> {
    let plan = Plan::subscribe(&names(&args.common), args.count, &args.topic);
    let settings = Settings {
        qos: QoS::from_bits(args.qos).ok_or("the QoS is 0, 1 or 2")?,
        payload_bytes: args.size as usize,
        ..settings(&args.common, Load::Idle)?
    };
    let leader = Leader {
        common: &args.common,
        settings: &settings,
        clock: Clock::start(),
        verify: args.verify,
    };
    let measured = leader.run("sub", &plan, args.duration, Duration::ZERO)?;
    leader.finish(leader.summary("sub", &plan, &measured), &measured)
}

fn load(verb: &str, plan: &Plan, common: &Common, args: &LoadArgs) -> Result<Summary, String> {
    let load = match args.rate {
        Some(rate) => Load::Open { rate },
        None => Load::Closed {
            window: args.inflight as usize,
        },
    };
    let settings = Settings {
        qos: QoS::from_bits(args.qos).ok_or("the QoS is 0, 1 or 2")?,
        payload_bytes: args.size as usize,
        publisher_offset: if verb == "pub" { common.startnumber } else { 0 },
        ..settings(common, load)?
    };
    let leader = Leader {
        common,
        settings: &settings,
        clock: Clock::start(),
        verify: args.verify,
    };
    let measured = leader.run(verb, plan, args.duration, args.warmup)?;
    leader.finish(leader.summary(verb, plan, &measured), &measured)
}

struct Leader<'a> {
    common: &'a Common,
    settings: &'a Settings,
    clock: Clock,
    verify: bool,
}

/// The usage of everyone at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// When, in ns of the clock.
    pub at_ns: u64,
    /// The broker; nothing when its process is not known.
    pub broker: Usage,
    /// This process.
    pub generator: Usage,
    /// All processes of the machine.
    pub machine_cpu_ns: u64,
}

impl Sample {
    /// Looks at everyone.
    ///
    /// Errors: someone cannot be looked at.
    pub fn take(target: &Target, clock: Clock) -> Result<Self, String> {
        Ok(Self {
            at_ns: clock.now_ns(),
            broker: broker_usage(target)?,
            generator: Usage::of_self().map_err(|error| error.to_string())?,
            machine_cpu_ns: machine_cpu_ns().map_err(|error| error.to_string())?,
        })
    }
}

/// What the broker has used; nothing when its process is not known.
///
/// Errors: there is no such process.
pub fn broker_usage(target: &Target) -> Result<Usage, String> {
    let Some(pid) = target.broker_pid else {
        return Ok(Usage::default());
    };
    Usage::of_tree(pid).map_err(|error| format!("--broker-pid {pid}: {error}"))
}

/// Judges a summary by its own figures and by what was asked of it.
pub fn judge(summary: &mut Summary, verify: bool, assertions: &[Assertion]) {
    summary.judge();
    if verify {
        summary.violations = summary.verify();
    }
    let breaches: Vec<_> = assertions
        .iter()
        .filter_map(|one| one.breach(summary))
        .collect();
    summary.violations.extend(breaches);
    if !assertions.is_empty() && !summary.valid {
        summary
            .violations
            .push("an invalid run cannot show that the assertions hold".into());
    }
}

struct Measured {
    times: Times,
    /// How long connecting took.
    connect_ns: u64,
    broker_before: Usage,
    /// After all connections had settled.
    broker_connected: Usage,
    first: Sample,
    last: Sample,
    total: Outcome,
    lost: u64,
    expected: u64,
    lost_by_slow: Option<u64>,
    timeline: Timeline,
}

impl Leader<'_> {
    fn run(
        &self,
        verb: &str,
        plan: &Plan,
        duration: Duration,
        warmup: Duration,
    ) -> Result<Measured, String> {
        let cores = usize::from(self.common.cores);
        let broker_before = self.broker()?;
        let mut wakes = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..cores {
            let (near, far) = UnixStream::pair().map_err(|error| error.to_string())?;
            near.set_nonblocking(true)
                .map_err(|error| error.to_string())?;
            wakes.push(near);
            ends.push(far);
        }
        let shared = Shared::new(plan, self.settings.load, wakes);
        let mut plans: Vec<Vec<ClientPlan>> = vec![Vec::new(); cores];
        for client in &plan.clients {
            plans[client.core].push(client.clone());
        }
        let (shared, settings, clock) = (&shared, self.settings, self.clock);
        let (sender, receiver) = mpsc::channel();
        let head = Head {
            verb: verb.into(),
            broker: settings.route.address.to_string(),
            load: self.describe(plan),
            connections: plan.clients.len() as u64,
            cores,
            measured_s: duration.as_secs_f64(),
        };
        let mut live = Live::new(&self.common.target, head, receiver, clock.now_ns())?;
        thread::scope(|scope| {
            let start_ns = clock.now_ns();
            let workers: Vec<_> = plans
                .iter()
                .zip(ends)
                .enumerate()
                .map(|(core, (clients, wake))| {
                    let sender = sender.clone();
                    scope.spawn(move || {
                        let result =
                            worker::run(core, clients, settings, shared, clock, wake, sender);
                        if result.is_err() {
                            // Without this core the others would measure something else.
                            shared.end();
                        }
                        result
                    })
                })
                .collect();
            let led = self.lead(shared, &mut live, start_ns, broker_before, duration, warmup);
            shared.end();
            (0..cores).for_each(|core| shared.wake(core));
            let mut outcomes = Vec::new();
            for worker in workers {
                outcomes.push(
                    worker
                        .join()
                        .map_err(|_| "a core of the generator panicked")??,
                );
            }
            let led = led?;
            Ok(merge(led, outcomes, live.into_timeline()))
        })
    }

    /// Keeps the times of a run while the cores work.
    fn lead(
        &self,
        shared: &Shared,
        live: &mut Live,
        start_ns: u64,
        broker_before: Usage,
        duration: Duration,
        warmup: Duration,
    ) -> Result<Led, String> {
        let clock = self.clock;
        let stopped = || Err("the run was ended by a core".to_string());
        while !shared
            .cores
            .iter()
            .all(|core| core.ready.load(Ordering::Acquire))
        {
            if shared.is_over() {
                return stopped();
            }
            if clock.now_ns() > start_ns + CONNECT_STALL_NS && self.settings.connect_rate.is_none()
            {
                return Err("not all clients were connected within 30 s".into());
            }
            live.connecting(connected(shared), clock.now_ns());
            clock.sleep_until(clock.now_ns() + LOOK_NS);
        }
        let connect_ns = clock.now_ns() - start_ns;
        let mut broker_connected = Usage::default();
        if self.settings.load == Load::Idle {
            // What connecting cost ends here; memory settles a little longer.
            broker_connected = self.broker()?;
            clock.sleep_until(clock.now_ns() + SETTLE_NS);
            broker_connected.rss_bytes = self.broker()?.rss_bytes;
        }
        let begin_ns = clock.now_ns() + START_DELAY_NS;
        let measure_ns = begin_ns + nanoseconds(warmup);
        let stop_ns = measure_ns + nanoseconds(duration);
        let times = Times {
            start_ns: begin_ns,
            measure_ns,
            stop_ns,
        };
        shared.start(times);
        live.begin(times, clock.now_ns());
        self.wait(shared, live, measure_ns)?;
        let first = self.sample()?;
        self.wait(shared, live, stop_ns)?;
        let last = self.sample()?;
        self.drain(shared, live)?;
        Ok(Led {
            times,
            connect_ns,
            broker_before,
            broker_connected,
            first,
            last,
        })
    }

    fn wait(&self, shared: &Shared, live: &mut Live, until_ns: u64) -> Result<(), String> {
        while self.clock.now_ns() < until_ns {
            live.tick(connected(shared), self.clock.now_ns());
            if shared.is_over() {
                return Err("the run was ended by a core".into());
            }
            self.clock
                .sleep_until(until_ns.min(self.clock.now_ns() + 20_000_000));
        }
        Ok(())
    }

    /// Waits until all messages have arrived, or no more arrive.
    fn drain(&self, shared: &Shared, live: &mut Live) -> Result<(), String> {
        if self.settings.load == Load::Idle {
            return Ok(());
        }
        let begun_ns = self.clock.now_ns();
        let mut news = (0, 0);
        let mut news_ns = begun_ns;
        loop {
            if shared.is_over() {
                return Err("the run was ended by a core".into());
            }
            let sum = |of: fn(&crate::shared::CoreNews) -> u64| shared.cores.iter().map(of).sum();
            let stopped = shared.cores.iter().all(|core| {
                core.stopped.load(Ordering::Acquire) || core.expected.load(Ordering::Relaxed) > 0
            });
            let received: u64 = sum(|core| core.received.load(Ordering::Relaxed));
            let expected: u64 = sum(|core| core.expected.load(Ordering::Relaxed));
            let unsettled: u64 = sum(|core| core.unsettled.load(Ordering::Relaxed));
            if stopped && received >= expected && unsettled == 0 {
                return Ok(());
            }
            let now_ns = self.clock.now_ns();
            if (received, unsettled) != news {
                news = (received, unsettled);
                news_ns = now_ns;
            }
            if now_ns > news_ns + QUIET_NS || now_ns > begun_ns + DRAIN_NS {
                return Ok(());
            }
            live.tick(connected(shared), now_ns);
            self.clock.sleep_until(now_ns + LOOK_NS);
        }
    }

    /// The load, in a few words.
    fn describe(&self, plan: &Plan) -> String {
        let settings = self.settings;
        let load = match settings.load {
            Load::Open { rate } => format!("open loop, {} msg/s", count(rate)),
            Load::Closed { window } => format!("closed loop, window {window}"),
            Load::Idle if plan.clients.iter().all(|one| one.hears == Hears::Nothing) => {
                return "idle".into();
            }
            Load::Idle => "what others publish".into(),
        };
        let qos = settings.qos as u8;
        format!("{load}, QoS {qos}, {} B", settings.payload_bytes)
    }

    /// Judges a summary and writes what was asked for.
    fn finish(&self, mut summary: Summary, measured: &Measured) -> Result<Summary, String> {
        let target = &self.common.target;
        judge(&mut summary, self.verify, &target.assertions);
        save(target, &summary, &measured.timeline, measured.times)?;
        Ok(summary)
    }

    fn broker(&self) -> Result<Usage, String> {
        broker_usage(&self.common.target)
    }

    fn sample(&self) -> Result<Sample, String> {
        Sample::take(&self.common.target, self.clock)
    }

    fn summary(&self, verb: &str, plan: &Plan, measured: &Measured) -> Summary {
        let settings = self.settings;
        let total = &measured.total;
        let measured_s = (measured.times.stop_ns - measured.times.measure_ns) as f64 / 1e9;
        let sampled_ns = (measured.last.at_ns - measured.first.at_ns).max(1);
        let per_second = |count: u64| count as f64 / measured_s.max(1e-9);
        let own = measured
            .last
            .generator
            .cpu_ns
            .saturating_sub(measured.first.generator.cpu_ns);
        let broker_cpu = measured
            .last
            .broker
            .cpu_ns
            .saturating_sub(measured.first.broker.cpu_ns);
        let machine = measured
            .last
            .machine_cpu_ns
            .saturating_sub(measured.first.machine_cpu_ns);
        let busy = |cpu_ns: u64| cpu_ns as f64 / sampled_ns as f64;
        let broker = self.common.target.broker_pid.map(|_| {
            let delivered = per_second(total.delivered) * sampled_ns as f64 / 1e9;
            let switches = measured
                .last
                .broker
                .context_switches
                .saturating_sub(measured.first.broker.context_switches);
            Broker {
                cpu_ns: broker_cpu,
                interval_ns: sampled_ns,
                cores_busy: busy(broker_cpu),
                cpu_ns_per_message: (delivered > 0.0).then(|| broker_cpu as f64 / delivered),
                cpu_ns_per_connect: None,
                user_percent: measured
                    .first
                    .broker
                    .user_percent_until(&measured.last.broker),
                switches_per_1000: (delivered > 0.0).then(|| switches as f64 * 1e3 / delivered),
                rss_before_bytes: measured.broker_before.rss_bytes,
                rss_after_bytes: measured.last.broker.rss_bytes,
                rss_bytes_per_connection: None,
            }
        });
        Summary {
            verb: verb.into(),
            broker_address: settings.route.address.to_string(),
            load: match settings.load {
                Load::Open { .. } => "open",
                Load::Closed { .. } => "closed",
                Load::Idle => "idle",
            }
            .into(),
            rate: match settings.load {
                Load::Open { rate } => Some(rate),
                Load::Closed { .. } | Load::Idle => None,
            },
            window: match settings.load {
                Load::Closed { window } => Some(window as u64),
                Load::Open { .. } | Load::Idle => None,
            },
            mqtt_version: settings.route.version.level(),
            qos: settings.qos as u8,
            payload_bytes: settings.payload_bytes as u32,
            connections: total.connected,
            publishers: plan.publisher_count.into(),
            connects_per_s: total.connected as f64 * 1e9 / measured.connect_ns.max(1) as f64,
            connect_us: Percentiles::of(&total.connect),
            tcp_connect_us: Percentiles::of(&total.tcp_connect),
            measured_s,
            published_per_s: per_second(total.published),
            delivered_per_s: per_second(total.delivered),
            published: total.sent.iter().map(|(_, sent)| sent).sum(),
            expected: measured.expected,
            delivered: measured.expected - measured.lost,
            lost: measured.lost,
            duplicates: total.duplicates,
            reordered: total.reordered,
            order_promised: !plan
                .clients
                .iter()
                .any(|one| matches!(one.hears, Hears::Group(_))),
            corrupt: total.corrupt,
            unacknowledged: total.unacknowledged,
            refused: total.refused,
            window_stalls: total.window_stalls,
            held_back: total.held_back,
            unsent: total.unsent,
            acknowledged_us: Percentiles::of(&total.acknowledged),
            lost_by_slow: measured.lost_by_slow,
            latency_kind: match settings.load {
                Load::Open { .. } => "response time",
                Load::Closed { .. } => "service time",
                Load::Idle => "since the time stamp",
            }
            .into(),
            latency_us: Percentiles::of(measured.timeline.latency()),
            broker,
            generator: Generator {
                cores_busy: busy(own.saturating_sub(total.spin_ns)),
                cores: usize::from(self.common.cores),
                send_lag_us: Percentiles::of(measured.timeline.send_lag()),
                foreign_cores_busy: busy(machine.saturating_sub(own + broker_cpu)),
            },
            sessions_missing: 0,
            steps: Vec::new(),
            valid: true,
            invalid_because: Vec::new(),
            violations: Vec::new(),
        }
    }
}

/// What [`Leader::lead`] found out.
struct Led {
    times: Times,
    connect_ns: u64,
    broker_before: Usage,
    broker_connected: Usage,
    first: Sample,
    last: Sample,
}

/// Clients that are connected and subscribed.
fn connected(shared: &Shared) -> u64 {
    let counts = shared.cores.iter().map(|core| &core.connected);
    counts.map(|count| count.load(Ordering::Relaxed)).sum()
}

/// Writes what `--out` asks for.
///
/// Errors: in plain words, what could not be written.
pub fn save(
    target: &Target,
    summary: &Summary,
    timeline: &Timeline,
    times: Times,
) -> Result<(), String> {
    let Some(directory) = &target.out else {
        return Ok(());
    };
    let route = resolve_route(target)?;
    let is_here = match &route.address {
        Address::Tcp(address) => is_own(address.ip()),
        Address::Unix(_) => true,
    };
    let same_host = is_here || target.broker_pid.is_some();
    let ask = || broker_version(route, credentials(target), format!("{}-v", prefix(target)));
    let broker = provenance::Broker {
        address: summary.broker_address.clone(),
        name: target.broker_name.clone().or_else(ask).unwrap_or_default(),
        command: Vec::new(),
        same_host,
    };
    let measured_at = UNIX_EPOCH + Duration::from_nanos(times.measure_ns);
    let provenance = Provenance::collect(target, broker, measured_at);
    files::write(directory, summary, &provenance, timeline)
}

/// Who connects.
pub fn credentials(target: &Target) -> Credentials {
    Credentials {
        version: target.version(),
        username: target.username.clone(),
        password: target.password.clone(),
    }
}

fn merge(led: Led, outcomes: Vec<Outcome>, timeline: Timeline) -> Measured {
    let mut outcomes = outcomes.into_iter();
    let mut total = outcomes.next().expect("there is at least one core");
    for one in outcomes {
        for (all, part) in [
            (&mut total.tcp_connect, &one.tcp_connect),
            (&mut total.connect, &one.connect),
            (&mut total.acknowledged, &one.acknowledged),
        ] {
            all.add(part).expect("all histograms have the same bounds");
        }
        total.connected += one.connected;
        total.published += one.published;
        total.delivered += one.delivered;
        total.duplicates += one.duplicates;
        total.reordered += one.reordered;
        total.corrupt += one.corrupt;
        total.held_back += one.held_back;
        total.unsent += one.unsent;
        total.window_stalls += one.window_stalls;
        total.refused += one.refused;
        total.unacknowledged += one.unacknowledged;
        total.spin_ns += one.spin_ns;
        total.sent.extend(one.sent);
        total.tracks.extend(one.tracks);
        total.slow_tracks.extend(one.slow_tracks);
        total.stranger_tracks.extend(one.stranger_tracks);
    }
    let mut sent = vec![0; total.sent.len()];
    for (number, count) in &total.sent {
        sent[*number as usize] = *count;
    }
    let of = |number: &u32| sent.get(*number as usize).copied().unwrap_or(0);
    let lost_of = |tracks: &[(u32, Track)]| -> u64 {
        tracks
            .iter()
            .map(|(number, track)| track.lost(of(number)))
            .sum()
    };
    let strangers = || total.stranger_tracks.iter();
    let lost = lost_of(&total.tracks) + strangers().map(Track::missing).sum::<u64>();
    let lost_by_slow = (!total.slow_tracks.is_empty()).then(|| lost_of(&total.slow_tracks));
    let expected = total
        .tracks
        .iter()
        .map(|(number, _)| of(number))
        .sum::<u64>()
        + strangers().map(Track::seen_or_missing).sum::<u64>();
    let Led {
        times,
        connect_ns,
        broker_before,
        broker_connected,
        first,
        last,
    } = led;
    Measured {
        times,
        connect_ns,
        broker_before,
        broker_connected,
        first,
        last,
        total,
        lost,
        expected,
        lost_by_slow,
        timeline,
    }
}

fn names(common: &Common) -> Names {
    Names {
        prefix: prefix(&common.target),
        start_number: common.startnumber,
        cores: usize::from(common.cores),
    }
}

fn settings(common: &Common, load: Load) -> Result<Settings, String> {
    Ok(Settings {
        route: resolve_route(&common.target)?,
        qos: QoS::AtMostOnce,
        payload_bytes: 64,
        keep_alive_s: common.keepalive,
        clean_start: true,
        username: common.target.username.clone(),
        password: common.target.password.clone(),
        load,
        publisher_offset: 0,
        connect_rate: common.connect_rate,
    })
}

/// What Client Identifiers and topics begin with.
pub fn prefix(target: &Target) -> String {
    let own = || format!("loadgen-{}", std::process::id());
    target.prefix.clone().unwrap_or_else(own)
}

/// Where the broker is.
///
/// Errors: the name has no address, or a file of TLS is wrong.
pub fn resolve_route(target: &Target) -> Result<Route, String> {
    let ClientTarget { endpoint, route } = target.broker()?;
    let address = match endpoint {
        Endpoint::Unix(path) => Address::Unix(path),
        Endpoint::Tcp(host, port) => {
            let found = (host.as_str(), port).to_socket_addrs();
            let mut found = found.map_err(|error| format!("{host}: {error}"))?;
            let address = found
                .next()
                .ok_or_else(|| format!("{host} has no address"))?;
            Address::Tcp(address)
        }
    };
    Ok(Route {
        address,
        through: route,
        sources: target
            .ifaddr
            .clone()
            .map_or(Vec::new(), |addresses| addresses.0),
        version: target.version(),
    })
}

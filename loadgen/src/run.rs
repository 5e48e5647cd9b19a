//! A run from its beginning to its summary: starts the cores, keeps the times, samples the broker.

use crate::cli::{Common, Conn, Shape};
use crate::clock::{Clock, nanoseconds};
use crate::plan::{ClientPlan, Names, Plan};
use crate::procfs::{Usage, machine_cpu_ns};
use crate::report::{Broker, Generator, Percentiles, Summary};
use crate::shared::Shared;
use crate::worker::{self, Load, Outcome, Settings, Times};
use ringmq::protocol::{QoS, Version};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

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
        connect_rate: args.connect_rate,
        ..settings(common, Load::Idle)?
    };
    let leader = Leader {
        common,
        settings: &settings,
        clock: Clock::new(),
    };
    let measured = leader.run(&plan, args.hold, Duration::ZERO)?;
    let mut summary = leader.summary("conn", &plan, &measured);
    if let Some(broker) = &mut summary.broker {
        let connections = measured.total.connected.max(1) as f64;
        let used = measured
            .broker_connected
            .cpu_ns
            .saturating_sub(measured.broker_before.cpu_ns);
        broker.cpu_ns = used;
        broker.interval_ns = measured.connect_ns;
        broker.cpu_ns_per_connect = Some(used as f64 / connections);
        broker.cores_busy = used as f64 / measured.connect_ns.max(1) as f64;
        broker.rss_after_bytes = measured.broker_connected.rss_bytes;
        let growth = broker.rss_after_bytes as f64 - broker.rss_before_bytes as f64;
        broker.rss_bytes_per_connection = Some(growth / connections);
        broker.cpu_ns_per_message = None;
        broker.switches_per_1000 = None;
    }
    Ok(summary)
}

/// Runs publishers and subscribers.
///
/// Errors: in plain words, why there is no result.
pub fn shape(kind: Kind, args: &Shape) -> Result<Summary, String> {
    let common = &args.common;
    let names = names(common);
    let (verb, plan) = match kind {
        Kind::Pubsub => ("pubsub", Plan::pubsub(&names, args.count)),
        Kind::Fanout => ("fanout", Plan::fanout(&names, args.count)),
        Kind::Fanin => ("fanin", Plan::fanin(&names, args.count)),
    };
    let load = match args.rate {
        Some(rate) => Load::Open { rate },
        None => Load::Closed {
            window: args.inflight as usize,
        },
    };
    let settings = Settings {
        qos: QoS::from_bits(args.qos).ok_or("the QoS is 0, 1 or 2")?,
        payload_bytes: args.size as usize,
        ..settings(common, load)?
    };
    let leader = Leader {
        common,
        settings: &settings,
        clock: Clock::new(),
    };
    let measured = leader.run(&plan, args.duration, args.warmup)?;
    let mut summary = leader.summary(verb, &plan, &measured);
    if args.verify {
        summary.violations = summary.verify();
    }
    Ok(summary)
}

struct Leader<'a> {
    common: &'a Common,
    settings: &'a Settings,
    clock: Clock,
}

/// The usage of everyone at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at_ns: u64,
    broker: Usage,
    generator: Usage,
    machine_cpu_ns: u64,
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
}

impl Leader<'_> {
    fn run(&self, plan: &Plan, duration: Duration, warmup: Duration) -> Result<Measured, String> {
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
        thread::scope(|scope| {
            let start_ns = clock.now_ns();
            let workers: Vec<_> = plans
                .iter()
                .zip(&ends)
                .enumerate()
                .map(|(core, (clients, wake))| {
                    scope.spawn(move || {
                        let result = worker::run(core, clients, settings, shared, clock, wake);
                        if result.is_err() {
                            // Without this core the others would measure something else.
                            shared.end();
                        }
                        result
                    })
                })
                .collect();
            let led = self.lead(shared, start_ns, broker_before, duration, warmup);
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
            Ok(merge(led, outcomes))
        })
    }

    /// Keeps the times of a run while the cores work.
    fn lead(
        &self,
        shared: &Shared,
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
        self.wait(shared, measure_ns)?;
        let first = self.sample()?;
        self.wait(shared, stop_ns)?;
        let last = self.sample()?;
        self.drain(shared)?;
        Ok(Led {
            times,
            connect_ns,
            broker_before,
            broker_connected,
            first,
            last,
        })
    }

    fn wait(&self, shared: &Shared, until_ns: u64) -> Result<(), String> {
        while self.clock.now_ns() < until_ns {
            if shared.is_over() {
                return Err("the run was ended by a core".into());
            }
            self.clock
                .sleep_until(until_ns.min(self.clock.now_ns() + 20_000_000));
        }
        Ok(())
    }

    /// Waits until all messages have arrived, or no more arrive.
    fn drain(&self, shared: &Shared) -> Result<(), String> {
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
            self.clock.sleep_until(now_ns + LOOK_NS);
        }
    }

    fn broker(&self) -> Result<Usage, String> {
        let Some(pid) = self.common.broker_pid else {
            return Ok(Usage::default());
        };
        Usage::of_tree(pid).map_err(|error| format!("--broker-pid {pid}: {error}"))
    }

    fn sample(&self) -> Result<Sample, String> {
        Ok(Sample {
            at_ns: self.clock.now_ns(),
            broker: self.broker()?,
            generator: Usage::of_self().map_err(|error| error.to_string())?,
            machine_cpu_ns: machine_cpu_ns().map_err(|error| error.to_string())?,
        })
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
        let broker = self.common.broker_pid.map(|_| {
            let delivered = per_second(total.delivered) * sampled_ns as f64 / 1e9;
            let user = measured
                .last
                .broker
                .user_ticks
                .saturating_sub(measured.first.broker.user_ticks);
            let system = measured
                .last
                .broker
                .system_ticks
                .saturating_sub(measured.first.broker.system_ticks);
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
                user_percent: 100.0 * user as f64 / (user + system).max(1) as f64,
                switches_per_1000: (delivered > 0.0).then(|| switches as f64 * 1e3 / delivered),
                rss_before_bytes: measured.broker_before.rss_bytes,
                rss_after_bytes: measured.last.broker.rss_bytes,
                rss_bytes_per_connection: None,
            }
        });
        Summary {
            verb: verb.into(),
            broker_address: settings.address.to_string(),
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
            mqtt_version: settings.version.level(),
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
            corrupt: total.corrupt,
            unacknowledged: total.unacknowledged,
            refused: total.refused,
            window_stalls: total.window_stalls,
            held_back: total.held_back,
            latency_kind: match settings.load {
                Load::Open { .. } => "response time",
                Load::Closed { .. } => "service time",
                Load::Idle => "none",
            }
            .into(),
            latency_us: Percentiles::of(&total.latency),
            broker,
            generator: Generator {
                cores_busy: busy(own.saturating_sub(total.spin_ns)),
                cores: usize::from(self.common.cores),
                send_lag_us: Percentiles::of(&total.send_lag),
                foreign_cores_busy: busy(machine.saturating_sub(own + broker_cpu)),
            },
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

fn merge(led: Led, outcomes: Vec<Outcome>) -> Measured {
    let mut outcomes = outcomes.into_iter();
    let mut total = outcomes.next().expect("there is at least one core");
    for one in outcomes {
        for (all, part) in [
            (&mut total.latency, &one.latency),
            (&mut total.send_lag, &one.send_lag),
            (&mut total.tcp_connect, &one.tcp_connect),
            (&mut total.connect, &one.connect),
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
        total.window_stalls += one.window_stalls;
        total.refused += one.refused;
        total.unacknowledged += one.unacknowledged;
        total.spin_ns += one.spin_ns;
        total.sent.extend(one.sent);
        total.tracks.extend(one.tracks);
    }
    let mut sent = vec![0; total.sent.len()];
    for (number, count) in &total.sent {
        sent[*number as usize] = *count;
    }
    let of = |number: &u32| sent.get(*number as usize).copied().unwrap_or(0);
    let lost = total
        .tracks
        .iter()
        .map(|(number, track)| track.lost(of(number)))
        .sum();
    let expected = total.tracks.iter().map(|(number, _)| of(number)).sum();
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
    }
}

fn names(common: &Common) -> Names {
    Names {
        prefix: common
            .prefix
            .clone()
            .unwrap_or_else(|| format!("loadgen-{}", std::process::id())),
        start_number: common.startnumber,
        cores: usize::from(common.cores),
    }
}

fn settings(common: &Common, load: Load) -> Result<Settings, String> {
    let address = resolve(&common.host, common.port)?;
    Ok(Settings {
        address,
        sources: common
            .ifaddr
            .clone()
            .map_or(Vec::new(), |addresses| addresses.0),
        version: match common.version {
            3 => Version::V31,
            4 => Version::V311,
            _ => Version::V5,
        },
        qos: QoS::AtMostOnce,
        payload_bytes: 64,
        keep_alive_s: common.keepalive,
        clean_start: true,
        username: common.username.clone(),
        password: common.password.clone(),
        load,
        connect_rate: None,
    })
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("{host}: {error}"))?;
    found.next().ok_or_else(|| format!("{host} has no address"))
}

//! Leads the cores through a run: starts them, keeps the times, samples the broker, takes together what they saw.

use crate::args::{Common, Target};
use crate::clock::{Clock, nanoseconds};
use crate::format::count;
use crate::live::{Head, Live};
use crate::plan::Plan;
use crate::preflight;
use crate::procfs::{Usage, machine_cpu_ns};
use crate::shared::Shared;
use crate::timeline::Timeline;
use crate::total::Total;
use crate::worker::{self, Interval, Load, Settings, Times};
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
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
/// Connecting for this long without any progress, and without a rate that explains it, is a failure.
const CONNECT_STALL_NS: u64 = 30_000_000_000;

/// Who says when a run begins whose clients are all connected, and who hears of its seconds.
pub trait Conductor: Sync {
    /// The moment of the first message, in ns of `clock`.
    ///
    /// Errors: it will not begin.
    fn begin_ns(&self, clock: Clock) -> Result<u64, String>;

    /// A core has seen a second pass.
    fn second(&self, interval: &Interval);

    /// Whether nobody wants the result any more.
    fn is_over(&self) -> bool;
}

/// A run of this process alone.
#[derive(Debug)]
pub struct Alone;

impl Conductor for Alone {
    fn begin_ns(&self, clock: Clock) -> Result<u64, String> {
        Ok(clock.now_ns() + START_DELAY_NS)
    }

    fn second(&self, _: &Interval) {}

    fn is_over(&self) -> bool {
        false
    }
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

/// A run as it was measured.
#[derive(Debug)]
pub struct Measured {
    /// What can be added up over processes.
    pub figures: Figures,
    /// The broker before the first connection.
    pub broker_before: Usage,
    /// The broker after all connections had settled.
    pub broker_connected: Usage,
    /// The broker when the measured interval began.
    pub broker_first: Usage,
    /// The broker when it ended.
    pub broker_last: Usage,
    /// When it began, was measured and ended.
    pub times: Times,
    /// Second by second.
    pub timeline: Timeline,
}

/// What can be added up over processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The measured interval, in ns.
    pub measured_ns: u64,
    /// Between the samples at its edges, in ns.
    pub sampled_ns: u64,
    /// How long connecting took, in ns.
    pub connect_ns: u64,
    /// CPU time of the generator between the samples, in ns.
    pub generator_cpu_ns: u64,
    /// Threads of the generator that carry load.
    pub generator_cores: usize,
    /// CPU time of all processes on the machine between the samples, in ns.
    pub machine_cpu_ns: u64,
    /// What the cores saw.
    pub total: Total,
}

impl Figures {
    /// Adds what another process measured at the same time; `same_machine` when both share one.
    pub fn add(&mut self, more: &Self, same_machine: bool) {
        self.measured_ns = self.measured_ns.max(more.measured_ns);
        self.sampled_ns = self.sampled_ns.max(more.sampled_ns);
        self.connect_ns = self.connect_ns.max(more.connect_ns);
        self.generator_cpu_ns += more.generator_cpu_ns;
        self.generator_cores += more.generator_cores;
        if same_machine {
            self.machine_cpu_ns = self.machine_cpu_ns.max(more.machine_cpu_ns);
        } else {
            self.machine_cpu_ns += more.machine_cpu_ns;
        }
        self.total.add(&more.total);
    }
}

/// Leads a run.
pub struct Leader<'a> {
    /// The verb.
    pub verb: &'a str,
    /// The flags.
    pub common: &'a Common,
    /// What the clients have in common.
    pub settings: &'a Settings,
    /// The clock of the run.
    pub clock: Clock,
    /// Who says when it begins.
    pub conductor: &'a dyn Conductor,
}

impl Leader<'_> {
    /// Runs a plan. What breaks after the start ends the run, and what was measured until then is the result.
    ///
    /// Errors: in plain words, why there is no result.
    pub fn run(
        &self,
        plan: &Plan,
        duration: Duration,
        warmup: Duration,
    ) -> Result<Measured, String> {
        let cores = plan.cores.len();
        preflight::check(&preflight::Needs {
            connections: plan.clients().count() as u64,
            cores,
            route: &self.settings.route,
        })?;
        let broker_before = broker_usage(&self.common.target)?;
        let mut wakes = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..cores {
            let (near, far) = UnixStream::pair().map_err(|error| error.to_string())?;
            near.set_nonblocking(true)
                .map_err(|error| error.to_string())?;
            wakes.push(near);
            ends.push(far);
        }
        let shared = Shared::new(plan, &self.settings.load, wakes);
        let (shared, settings, clock) = (&shared, self.settings, self.clock);
        let (sender, receiver) = mpsc::channel();
        let head = head(self.verb, settings, plan, cores, duration);
        let conductor = self.conductor;
        let mut live = Live::new(&self.common.target, head, clock.now_ns())?
            .hear(receiver, |interval| conductor.second(interval));
        thread::scope(|scope| {
            let start_ns = clock.now_ns();
            let workers: Vec<_> = plan
                .cores
                .iter()
                .zip(ends)
                .enumerate()
                .map(|(core, (clients, wake))| {
                    let sender = sender.clone();
                    scope.spawn(move || {
                        let result =
                            worker::run(core, clients, settings, shared, clock, wake, sender);
                        // Without this core the others would measure something else.
                        shared.end();
                        result
                    })
                })
                .collect();
            let led = self.lead(shared, &mut live, start_ns, duration, warmup);
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
            let timeline = live.into_timeline();
            let mut total = Total::of(outcomes);
            // What the seconds hold is all there is.
            total.latency.clone_from(timeline.latency());
            total.send_lag.clone_from(timeline.send_lag());
            if total.ended.is_some() && led.measured_ns == 0 {
                return Err(total.ended.unwrap_or_default());
            }
            Ok(Measured {
                figures: Figures {
                    measured_ns: led.measured_ns,
                    sampled_ns: (led.last.at_ns - led.first.at_ns).max(1),
                    connect_ns: led.connect_ns,
                    generator_cpu_ns: led
                        .last
                        .generator
                        .cpu_ns
                        .saturating_sub(led.first.generator.cpu_ns),
                    generator_cores: cores,
                    machine_cpu_ns: led
                        .last
                        .machine_cpu_ns
                        .saturating_sub(led.first.machine_cpu_ns),
                    total,
                },
                broker_before,
                broker_connected: led.broker_connected,
                broker_first: led.first.broker,
                broker_last: led.last.broker,
                times: led.times,
                timeline,
            })
        })
    }

    /// Keeps the times of a run while the cores work.
    fn lead(
        &self,
        shared: &Shared,
        live: &mut Live<'_>,
        start_ns: u64,
        duration: Duration,
        warmup: Duration,
    ) -> Result<Led, String> {
        let clock = self.clock;
        let (mut progress, mut progress_ns) = (0, start_ns);
        while !shared
            .cores
            .iter()
            .all(|core| core.ready.load(Ordering::Acquire))
        {
            if shared.is_over() {
                return Err("the run was ended by a core".into());
            }
            let now_ns = clock.now_ns();
            let count = connected(shared);
            if count != progress {
                (progress, progress_ns) = (count, now_ns);
            }
            if now_ns > progress_ns + CONNECT_STALL_NS && self.settings.connect_rate.is_none() {
                let what = "no client could connect for 30 s";
                return Err(format!("{what}; {count} have done so"));
            }
            live.connecting(count, now_ns);
            clock.sleep_until(now_ns + LOOK_NS);
        }
        let connect_ns = clock.now_ns() - start_ns;
        let mut broker_connected = Usage::default();
        if self.settings.load == Load::Idle {
            // What connecting cost ends here; memory settles a little longer.
            broker_connected = broker_usage(&self.common.target)?;
            clock.sleep_until(clock.now_ns() + SETTLE_NS);
            broker_connected.rss_bytes = broker_usage(&self.common.target)?.rss_bytes;
        }
        let begin_ns = self.conductor.begin_ns(clock)?;
        let measure_ns = begin_ns + nanoseconds(warmup);
        let stop_ns = measure_ns + nanoseconds(duration);
        let times = Times {
            start_ns: begin_ns,
            measure_ns,
            stop_ns,
        };
        shared.start(times);
        live.begin(times, clock.now_ns());
        self.wait(shared, live, measure_ns);
        let first = Sample::take(&self.common.target, clock)?;
        self.wait(shared, live, stop_ns);
        let end_ns = clock.now_ns().min(stop_ns);
        // Of a broker that died nothing can be known.
        let last = Sample::take(&self.common.target, clock).unwrap_or_else(|_| Sample {
            at_ns: clock.now_ns(),
            ..first
        });
        self.drain(shared, live);
        Ok(Led {
            times,
            measured_ns: end_ns.saturating_sub(measure_ns),
            connect_ns,
            broker_connected,
            first,
            last,
        })
    }

    /// Waits for a moment, or for the end.
    fn wait(&self, shared: &Shared, live: &mut Live<'_>, until_ns: u64) {
        while self.clock.now_ns() < until_ns && !shared.is_over() && !self.conductor.is_over() {
            live.tick(connected(shared), self.clock.now_ns());
            self.clock
                .sleep_until(until_ns.min(self.clock.now_ns() + 20_000_000));
        }
    }

    /// Waits until all messages have arrived, or no more arrive.
    fn drain(&self, shared: &Shared, live: &mut Live<'_>) {
        if self.settings.load == Load::Idle {
            return;
        }
        let begun_ns = self.clock.now_ns();
        let mut news = (0, 0);
        let mut news_ns = begun_ns;
        while !shared.is_over() {
            let sum = |of: fn(&crate::shared::CoreNews) -> u64| shared.cores.iter().map(of).sum();
            let stopped = shared.cores.iter().all(|core| {
                core.stopped.load(Ordering::Acquire) || core.expected.load(Ordering::Relaxed) > 0
            });
            let received: u64 = sum(|core| core.received.load(Ordering::Relaxed));
            let expected: u64 = sum(|core| core.expected.load(Ordering::Relaxed));
            let unsettled: u64 = sum(|core| core.unsettled.load(Ordering::Relaxed));
            if stopped && received >= expected && unsettled == 0 {
                return;
            }
            let now_ns = self.clock.now_ns();
            if (received, unsettled) != news {
                news = (received, unsettled);
                news_ns = now_ns;
            }
            if now_ns > news_ns + QUIET_NS || now_ns > begun_ns + DRAIN_NS {
                return;
            }
            live.tick(connected(shared), now_ns);
            self.clock.sleep_until(now_ns + LOOK_NS);
        }
    }
}

/// What a run is called, and how large it is to be.
pub fn head(
    verb: &str,
    settings: &Settings,
    plan: &Plan,
    cores: usize,
    duration: Duration,
) -> Head {
    Head {
        verb: verb.into(),
        broker: settings.route.address.to_string(),
        load: describe(settings),
        connections: plan.clients().count() as u64,
        cores,
        measured_s: duration.as_secs_f64(),
        order_promised: plan.order_is_promised(),
    }
}

/// A load, in a few words.
fn describe(settings: &Settings) -> String {
    let load = match &settings.load {
        Load::Open(profile) => {
            format!("open loop, up to {} msg/s", count(profile.rate_max()))
        }
        Load::Closed { window } => format!("closed loop, window {window}"),
        Load::Idle => return "no messages of its own".into(),
    };
    format!("{load}, QoS {}", settings.qos as u8)
}

/// Clients that are connected and subscribed.
fn connected(shared: &Shared) -> u64 {
    let counts = shared.cores.iter().map(|core| &core.connected);
    counts.map(|count| count.load(Ordering::Relaxed)).sum()
}

/// What [`Leader::lead`] found out.
struct Led {
    times: Times,
    measured_ns: u64,
    connect_ns: u64,
    broker_connected: Usage,
    first: Sample,
    last: Sample,
}

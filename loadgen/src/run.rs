//! From a verb to its summary.

use crate::agent;
use crate::args::{Common, LoadArgs, Pacing, Target};
use crate::assertion::Assertion;
use crate::cli::{Conn, Fanout, Publish, Shape, Shared, Slow, Subscribe, Verb, Wild};
use crate::clock::Clock;
use crate::inbox;
use crate::knee;
use crate::leader::{self, Alone, Conductor, Leader, Measured};
use crate::links::{Address, Route};
use crate::live::Head;
use crate::message::Message;
use crate::plan::{Names, Plan};
use crate::probe::broker_version;
use crate::report::provenance::{self, Provenance, is_own};
use crate::report::{Broker, Generator, Percentiles, Summary, files};
use crate::schedule::Profile;
use crate::steps;
use crate::storm;
use crate::timeline::Timeline;
use crate::worker::{Load, Payload, Settings, Times};
use ringmq::client::target::{Endpoint, Target as ClientTarget};
use ringmq::protocol::QoS;
use std::net::ToSocketAddrs;
use std::time::{Duration, UNIX_EPOCH};

/// Where the search for the highest rate begins, in messages per second, when nothing is said.
const RATE_FIRST: f64 = 1_000.0;

/// Runs a verb that puts load on a broker.
///
/// Errors: in plain words, why there is no result.
pub fn verb(verb: &Verb) -> Result<Summary, String> {
    match verb {
        Verb::Churn(args) => steps::churn(args),
        Verb::Storm(args) => storm::run(args),
        Verb::Inbox(args) => inbox::run(args),
        Verb::Durable(args) => steps::durable(args),
        Verb::Retained(args) => steps::retained(args),
        Verb::Run(args) => agent::run(args),
        _ => Job::of(verb)?.run_with(|job| job.measure(&Alone)),
    }
}

/// A verb that runs for a time, made ready.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    name: &'static str,
    common: &'a Common,
    plan: Plan,
    settings: Settings,
    pacing: Pacing,
    find_max: Option<&'a Assertion>,
    /// Where the search for the highest rate begins.
    first_rate: f64,
    verify: bool,
}

impl<'a> Job<'a> {
    /// Makes a verb ready.
    ///
    /// Errors: in plain words, what is wrong with it.
    pub fn of(verb: &'a Verb) -> Result<Self, String> {
        match verb {
            Verb::Conn(args) => Self::conn(args),
            Verb::Pubsub(args) => Self::shape("pubsub", args, Plan::pubsub),
            Verb::Fanin(args) => Self::shape("fanin", args, |names, count| {
                Plan::fanout(names, count, 1, 0, true)
            }),
            Verb::Fanout(args) => Self::fanout(args),
            Verb::Shared(args) => Self::shared(args),
            Verb::Slow(args) => Self::slow(args),
            Verb::Wild(args) => Self::wild(args),
            Verb::Pub(args) => Self::publish(args),
            Verb::Sub(args) => Self::subscribe(args),
            Verb::Churn(_)
            | Verb::Storm(_)
            | Verb::Inbox(_)
            | Verb::Durable(_)
            | Verb::Retained(_)
            | Verb::Suite(_)
            | Verb::Agent(_)
            | Verb::Run(_)
            | Verb::Report(_)
            | Verb::Compare(_)
            | Verb::Relay(_) => Err("this verb does not run for a time".into()),
        }
    }

    /// Runs it, or finds the highest rate if that was asked for, judges the result and writes what was asked for.
    /// `measure` runs it once.
    ///
    /// Errors: in plain words, why there is no result.
    pub fn run_with(
        &self,
        mut measure: impl FnMut(&Self) -> Result<Measured, String>,
    ) -> Result<Summary, String> {
        let Some(condition) = self.find_max else {
            let measured = measure(self)?;
            let mut summary = self.summary(&measured);
            summary.judge();
            return self.conclude(summary, &measured);
        };
        // The step with the highest rate that held, or else the first, and which of both it is.
        let mut best: Option<(bool, Measured, Summary)> = None;
        let (points, ended) = knee::find(self.first_rate, |rate| {
            let mut step = self.clone();
            step.pacing.load = Load::Open(Profile::constant(rate));
            let measured = measure(&step)?;
            let mut summary = step.summary(&measured);
            summary.judge();
            let point = knee::point(rate, condition, &summary);
            if !self.common.target.quiet {
                eprintln!("{point}");
            }
            let is_better = best.as_ref().is_none_or(|(held, _, best)| {
                point.ok && (!held || best.rate.is_some_and(|best| best < rate))
            });
            if is_better {
                best = Some((point.ok, measured, summary));
            }
            Ok(point)
        });
        let Some((_, measured, mut summary)) = best else {
            return Err(ended.unwrap_or_else(|| "no step was measured".into()));
        };
        summary.knee = points;
        // What broke the search says more than what ended a step that asked for too much.
        summary.error = ended.or_else(|| summary.error.take());
        if knee::best(&summary.knee).is_none() {
            let why = format!("{condition}: it does not hold at any rate that was tried");
            summary.violations.push(why);
        }
        self.conclude(summary, &measured)
    }

    /// The flags of all verbs like this.
    pub fn common(&self) -> &Common {
        self.common
    }

    /// What the run is called, on so many threads.
    pub fn head(&self, cores: usize) -> Head {
        let settings = Settings {
            load: self.pacing.load.clone(),
            ..self.settings.clone()
        };
        leader::head(
            self.name,
            &settings,
            &self.plan,
            cores,
            self.pacing.duration,
        )
    }

    /// Warm-up and measured interval.
    pub fn times(&self) -> (Duration, Duration) {
        (self.pacing.warmup, self.pacing.duration)
    }

    /// The rate of this step, where the highest is searched for.
    pub fn searched_rate(&self) -> Option<f64> {
        match (&self.pacing.load, self.find_max) {
            (Load::Open(profile), Some(_)) => Some(profile.rate_max()),
            _ => None,
        }
    }

    /// Runs it once.
    ///
    /// Errors: in plain words, why there is no result.
    pub fn measure(&self, conductor: &dyn Conductor) -> Result<Measured, String> {
        let settings = Settings {
            load: self.pacing.load.clone(),
            has_latency: self.pacing.has_latency,
            ..self.settings.clone()
        };
        let leader = Leader {
            verb: self.name,
            common: self.common,
            settings: &settings,
            clock: Clock::start(),
            conductor,
        };
        leader.run(&self.plan, self.pacing.duration, self.pacing.warmup)
    }

    fn conclude(&self, mut summary: Summary, measured: &Measured) -> Result<Summary, String> {
        check(&mut summary, self.verify, &self.common.target.assertions);
        let target = &self.common.target;
        save(target, &summary, &measured.timeline, measured.times)?;
        if let Some(directory) = &target.out {
            knee::write(directory, &summary.knee)?;
        }
        Ok(summary)
    }

    // ---- the verbs ----

    fn conn(args: &'a Conn) -> Result<Self, String> {
        let settings = Self::settings(&args.common, args.short_ids)?;
        Ok(Self {
            name: "conn",
            common: &args.common,
            plan: Plan::conn(&settings.names, args.count, args.subscribe),
            settings,
            pacing: idle(args.hold),
            find_max: None,
            first_rate: 0.0,
            verify: false,
        })
    }

    fn shape(
        name: &'static str,
        args: &'a Shape,
        plan: impl Fn(&Names, u32) -> Plan,
    ) -> Result<Self, String> {
        Self::loaded(name, &args.common, &args.load, |names| {
            plan(names, args.count)
        })
    }

    fn fanout(args: &'a Fanout) -> Result<Self, String> {
        Self::loaded("fanout", &args.common, &args.load, |names| {
            Plan::fanout(names, args.publishers, args.count, 0, false)
        })
    }

    fn shared(args: &'a Shared) -> Result<Self, String> {
        Self::loaded("shared", &args.common, &args.load, |names| {
            Plan::shared(names, args.count, args.members)
        })
    }

    fn slow(args: &'a Slow) -> Result<Self, String> {
        Self::loaded("slow", &args.common, &args.load, |names| {
            Plan::fanout(names, 1, args.count, args.slow, false)
        })
    }

    fn wild(args: &'a Wild) -> Result<Self, String> {
        Self::loaded("wild", &args.common, &args.load, |names| {
            Plan::wild(names, args.publishers, args.count, args.filters)
        })
    }

    fn publish(args: &'a Publish) -> Result<Self, String> {
        let mut job = Self::loaded("pub", &args.common, &args.load, |names| {
            let names = Names {
                short_ids: args.short_ids,
                ..names.clone()
            };
            Plan::publish(&names, args.count, &args.topic)
        })?;
        job.settings.names.short_ids = args.short_ids;
        job.settings.publisher_offset = args.common.startnumber;
        job.settings.retain = args.retain;
        if let Some(text) = &args.message {
            job.settings.payload = Payload::Own(Message::read(text)?);
        }
        if let Some(seconds) = args.limited_s() {
            job.settings.limit = Some(args.limit);
            job.pacing.duration = Duration::from_secs_f64(seconds);
            job.pacing.warmup = Duration::ZERO;
        }
        Ok(job)
    }

    fn subscribe(args: &'a Subscribe) -> Result<Self, String> {
        let settings = Settings {
            qos: qos(args.qos)?,
            payload: if args.any_payload {
                Payload::Any
            } else {
                Payload::Checked(args.size as usize)
            },
            ..Self::settings(&args.common, args.short_ids)?
        };
        Ok(Self {
            name: "sub",
            common: &args.common,
            plan: Plan::subscribe(&settings.names, args.count, &args.topic),
            settings,
            pacing: idle(args.duration),
            find_max: None,
            first_rate: 0.0,
            verify: args.verify,
        })
    }

    fn loaded(
        name: &'static str,
        common: &'a Common,
        load: &'a LoadArgs,
        plan: impl Fn(&Names) -> Plan,
    ) -> Result<Self, String> {
        let settings = Settings {
            qos: qos(load.qos)?,
            payload: Payload::Checked(load.size as usize),
            in_flight_max: load.inflight.filter(|count| *count > 0),
            ..Self::settings(common, false)?
        };
        let plan = plan(&settings.names);
        let pacing = load.pacing(plan.publisher_count);
        Ok(Self {
            name,
            common,
            plan,
            settings,
            pacing,
            find_max: load.find_max.as_ref(),
            first_rate: load.rate.unwrap_or(RATE_FIRST),
            verify: load.verify,
        })
    }

    fn settings(common: &Common, short_ids: bool) -> Result<Settings, String> {
        let target = &common.target;
        Ok(Settings {
            route: resolve_route(target)?,
            names: common.names(short_ids),
            qos: QoS::AtMostOnce,
            retain: false,
            payload: Payload::Checked(crate::payload::HEADER_BYTES),
            keep_alive_s: common.keepalive,
            clean_start: common.clean,
            session_expiry_s: common.session_expiry,
            credentials: target.credentials(),
            load: Load::Idle,
            publisher_offset: 0,
            connect_rate: common.connect_rate(),
            reconnect: common.reconnect,
            near: common.near,
            in_flight_max: None,
            limit: None,
            has_latency: true,
        })
    }

    // ---- the summary ----

    fn summary(&self, measured: &Measured) -> Summary {
        let (settings, load) = (&self.settings, &self.pacing.load);
        let figures = &measured.figures;
        let total = &figures.total;
        let measured_s = figures.measured_ns as f64 / 1e9;
        let per_second = |count: u64| count as f64 / measured_s.max(1e-9);
        let busy = |cpu_ns: u64| cpu_ns as f64 / figures.sampled_ns as f64;
        let broker = measured.broker_cpu_ns();
        let others = figures
            .machine_cpu_ns
            .saturating_sub(figures.generator_cpu_ns + broker);
        Summary {
            verb: self.name.into(),
            note: self.common.target.note.clone(),
            broker_address: settings.route.address.to_string(),
            load: match load {
                Load::Open(_) => "open",
                Load::Closed { .. } if !self.pacing.has_latency => "max",
                Load::Closed { .. } => "closed",
                Load::Idle => "idle",
            }
            .into(),
            rate: match load {
                Load::Open(profile) => Some(profile.rate_max()),
                Load::Closed { .. } | Load::Idle => None,
            },
            window: match load {
                Load::Closed { window } => Some(*window as u64),
                Load::Open(_) | Load::Idle => None,
            },
            mqtt_version: settings.route.version.level(),
            qos: settings.qos as u8,
            payload_bytes: match &settings.payload {
                Payload::Checked(bytes) => *bytes as u32,
                Payload::Own(message) => message.of_publisher(&settings.names, 0).len() as u32,
                Payload::Any => 0,
            },
            connections: total.counts.connected,
            publishers: self.plan.publisher_count.into(),
            connects_per_s: total.counts.connected as f64 * 1e9 / figures.connect_ns.max(1) as f64,
            connect_us: Percentiles::of(&total.counts.connect),
            tcp_connect_us: Percentiles::of(&total.counts.tcp_connect),
            connack_us: Percentiles::of(&total.counts.connack),
            reconnects: total.counts.reconnects,
            disconnects: total.counts.disconnects.clone(),
            measured_s,
            published_per_s: per_second(total.counts.published),
            delivered_per_s: per_second(total.counts.delivered),
            published: total.sent,
            expected: total.expected,
            delivered: total.expected - total.lost,
            lost: total.lost,
            duplicates: total.counts.duplicates,
            reordered: total.counts.reordered,
            order_promised: self.plan.order_is_promised(),
            corrupt: total.counts.corrupt,
            unacknowledged: total.counts.unacknowledged,
            refused: total.counts.refused,
            window_stalls: total.counts.window_stalls,
            held_back: total.counts.held_back,
            unsent: total.counts.unsent,
            acknowledged_us: Percentiles::of(&total.counts.acknowledged),
            lost_by_slow: total.lost_by_slow,
            latency_kind: match load {
                Load::Open(_) => "response time",
                Load::Closed { .. } => "service time",
                Load::Idle => "since the time stamp",
            }
            .into(),
            latency_us: Percentiles::of(&total.latency),
            broker: self.broker(measured, per_second(total.counts.delivered)),
            generator: Generator {
                cores_busy: busy(
                    figures
                        .generator_cpu_ns
                        .saturating_sub(total.counts.spin_ns),
                ),
                cores: figures.generator_cores,
                busiest_core: total.busiest,
                send_lag_us: Percentiles::of(&total.send_lag),
                foreign_cores_busy: busy(others),
            },
            error: total.ended.clone(),
            valid: true,
            ..Summary::default()
        }
    }

    fn broker(&self, measured: &Measured, delivered_per_s: f64) -> Option<Broker> {
        self.common.target.broker_pid?;
        let figures = &measured.figures;
        if self.name == "conn" {
            let (before, after) = (&measured.broker_before, &measured.broker_connected);
            let connections = figures.total.counts.connected.max(1) as f64;
            let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns);
            let growth = after.rss_bytes as f64 - before.rss_bytes as f64;
            return Some(Broker {
                cpu_ns,
                interval_ns: figures.connect_ns,
                cores_busy: cpu_ns as f64 / figures.connect_ns.max(1) as f64,
                cpu_ns_per_connect: Some(cpu_ns as f64 / connections),
                user_percent: before.user_percent_until(after),
                rss_before_bytes: before.rss_bytes,
                rss_after_bytes: after.rss_bytes,
                rss_bytes_per_connection: Some(growth / connections),
                ..Broker::default()
            });
        }
        let (first, last) = (&measured.broker_first, &measured.broker_last);
        let cpu_ns = measured.broker_cpu_ns();
        let delivered = delivered_per_s * figures.sampled_ns as f64 / 1e9;
        let switches = last.context_switches.saturating_sub(first.context_switches);
        Some(Broker {
            cpu_ns,
            interval_ns: figures.sampled_ns,
            cores_busy: cpu_ns as f64 / figures.sampled_ns as f64,
            cpu_ns_per_message: (delivered > 0.0).then(|| cpu_ns as f64 / delivered),
            cpu_ns_per_connect: None,
            user_percent: first.user_percent_until(last),
            switches_per_1000: (delivered > 0.0).then(|| switches as f64 * 1e3 / delivered),
            rss_before_bytes: measured.broker_before.rss_bytes,
            rss_after_bytes: last.rss_bytes,
            rss_bytes_per_connection: None,
        })
    }
}

impl Measured {
    fn broker_cpu_ns(&self) -> u64 {
        self.broker_last
            .cpu_ns
            .saturating_sub(self.broker_first.cpu_ns)
    }
}

/// Judges a summary by its own figures and by what was asked of it.
pub fn judge(summary: &mut Summary, verify: bool, assertions: &[Assertion]) {
    summary.judge();
    check(summary, verify, assertions);
}

fn check(summary: &mut Summary, verify: bool, assertions: &[Assertion]) {
    if verify {
        summary.violations.extend(summary.verify());
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
    let same_host = target.broker_pid.is_some()
        || match &route.address {
            Address::Tcp(address) => is_own(address.ip()),
            Address::Unix(_) => true,
        };
    let client_id = format!("{}-v", target.prefix());
    let ask = || broker_version(route, target.credentials(), client_id);
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

fn idle(duration: Duration) -> Pacing {
    Pacing {
        load: Load::Idle,
        warmup: Duration::ZERO,
        duration,
        has_latency: true,
    }
}

fn qos(number: u8) -> Result<QoS, String> {
    QoS::from_bits(number).ok_or_else(|| format!("there is no QoS {number}"))
}

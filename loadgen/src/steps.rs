//! Loads that are a row of steps instead of a stream: `churn`, `durable`, `retained`.

use crate::churn::{self, Churn};
use crate::cli::{Churn as ChurnArgs, Durable, Retained, Target};
use crate::clock::{Clock, nanoseconds};
use crate::crowd::{Campaign, Crowd};
use crate::format;
use crate::leader::{Sample, broker_usage};
use crate::live::{Head, Live};
use crate::procfs::Usage;
use crate::report::{Broker, Generator, Percentiles, Step, Summary};
use crate::run::{judge, resolve_route, save};
use crate::timeline::Timeline;
use crate::wire::SessionKind;
use crate::worker::Times;
use ringmq::protocol::QoS;
use std::num::NonZero;
use std::sync::mpsc;
use std::thread::{self, available_parallelism};

/// From the beginning to the first cycle.
const START_DELAY_NS: u64 = 50_000_000;
/// How often the leading thread looks for a second that has ended.
const LOOK_NS: u64 = 20_000_000;

/// Clients come and go.
///
/// Errors: in plain words, why there is no result.
pub fn churn(args: &ChurnArgs) -> Result<Summary, String> {
    let target = &args.target;
    let clock = Clock::start();
    let before = broker_usage(target)?;
    let start_ns = clock.now_ns() + START_DELAY_NS;
    let measure_ns = start_ns + nanoseconds(args.warmup);
    let times = Times {
        start_ns,
        measure_ns,
        stop_ns: measure_ns + nanoseconds(args.duration),
    };
    let load = Churn {
        route: resolve_route(target)?,
        credentials: target.credentials(),
        clients: args.count,
        prefix: target.prefix(),
        session: if args.keep_sessions {
            SessionKind::Kept
        } else {
            SessionKind::Clean
        },
        rate: args.rate,
        payload_bytes: args.size as usize,
    };
    let mut samples = Vec::new();
    let at_edge = || {
        samples.push(Sample::take(target, clock)?);
        Ok(())
    };
    let (sender, receiver) = mpsc::channel();
    let head = Head {
        verb: "churn".into(),
        broker: load.route.address.to_string(),
        load: match args.rate {
            Some(rate) => format!("open loop, {} cycles/s", format::count(rate)),
            None => "closed loop, each client begins again when it is done".into(),
        },
        connections: args.count.into(),
        cores: 1,
        measured_s: args.duration.as_secs_f64(),
        order_promised: true,
    };
    let mut live = Live::new(target, head, clock.now_ns())?.hear(receiver, |_| ());
    live.begin(times, clock.now_ns());
    let outcome = thread::scope(|scope| {
        let worker = scope.spawn(|| churn::run(&load, clock, times, at_edge, sender));
        while !worker.is_finished() {
            live.tick(args.count.into(), clock.now_ns());
            clock.sleep_until(clock.now_ns() + LOOK_NS);
        }
        worker.join().map_err(|_| "the generator panicked")?
    })?;
    let timeline = live.into_timeline();
    let [first, last] = samples[..] else {
        return Err("the run was cut short".into());
    };
    let measured_s = (times.stop_ns - times.measure_ns) as f64 / 1e9;
    let cycles = outcome.cycles.max(1) as f64;
    let cpu_ns = last.broker.cpu_ns.saturating_sub(first.broker.cpu_ns);
    let interval_ns = (last.at_ns - first.at_ns).max(1);
    let mut summary = Summary {
        qos: 1,
        payload_bytes: args.size,
        load: if args.rate.is_some() {
            "open"
        } else {
            "closed"
        }
        .into(),
        rate: args.rate,
        connections: outcome.total,
        connect_us: Percentiles::of(&outcome.connect),
        measured_s,
        connects_per_s: outcome.cycles as f64 / measured_s.max(1e-9),
        latency_kind: "cycle".into(),
        latency_us: Percentiles::of(timeline.latency()),
        corrupt: outcome.corrupt,
        unsent: outcome.not_begun,
        steps: vec![Step {
            name: "cycle".into(),
            seconds: measured_s,
            count: outcome.cycles,
            per_s: outcome.cycles as f64 / measured_s.max(1e-9),
            cpu_ns_each: target.broker_pid.map(|_| cpu_ns as f64 / cycles),
            rss_bytes_each: None,
            latency_us: None,
        }],
        broker: target.broker_pid.map(|_| Broker {
            cpu_ns,
            interval_ns,
            cores_busy: cpu_ns as f64 / interval_ns as f64,
            cpu_ns_per_connect: Some(cpu_ns as f64 / cycles),
            rss_before_bytes: before.rss_bytes,
            rss_after_bytes: last.broker.rss_bytes,
            user_percent: first.broker.user_percent_until(&last.broker),
            ..Broker::default()
        }),
        generator: generator(&first, &last),
        ..summary("churn", target)?
    };
    judge(&mut summary, args.verify, &target.assertions);
    save(target, &summary, &timeline, times)?;
    Ok(summary)
}

/// Messages are queued for sessions that are away, which then come for them.
///
/// Errors: in plain words, why there is no result.
pub fn durable(args: &Durable) -> Result<Summary, String> {
    let target = &args.target;
    let clock = Clock::start();
    let qos = QoS::from_bits(args.qos).ok_or("the QoS is 1 or 2")?;
    let prefix = target.prefix();
    let count = args.messages;
    let mut crowd = crowd(target, clock, &prefix, args.count, qos, args.size)?;
    let (subscribers, publisher) = (0..args.count, args.count);
    let filter = format!("{prefix}/queue");
    crowd.connect(subscribers.clone(), SessionKind::Kept, Some(&filter))?;
    crowd.leave(subscribers.clone())?;
    crowd.connect(publisher..publisher + 1, SessionKind::Clean, None)?;

    let start = Sample::take(target, clock)?;
    let acknowledged = crowd.publish(Campaign {
        publisher,
        first: 0,
        count,
        qos,
        retain: false,
        topic: filter.clone(),
        numbered: false,
        has_payload: true,
        in_flight_max: args.inflight.into(),
    })?;
    let queued = Sample::take(target, clock)?;
    let refused = crowd.tally().refused;
    let expected = count * u64::from(args.count);
    crowd.connect(subscribers.clone(), SessionKind::Kept, None)?;
    let all_came = crowd.receive(expected)?;
    let drained = Sample::take(target, clock)?;
    let tally = crowd.tally();
    // The wait for what did not come is no part of the draining.
    let drained_ns = if all_came {
        drained.at_ns
    } else {
        tally.last_arrival_ns
    };
    // Leave nothing behind: sessions that begin anew end with their connections.
    crowd.leave(subscribers.clone())?;
    crowd.connect(subscribers.clone(), SessionKind::Clean, None)?;
    let queue = step("queue", &start, &queued, expected, target);
    let drain = step("drain", &queued, &drained, tally.received, target).until(&queued, drained_ns);
    let mut summary = Summary {
        qos: args.qos,
        payload_bytes: args.size,
        connections: u64::from(args.count) + 1,
        publishers: 1,
        published: count,
        delivered_per_s: drain.per_s,
        expected,
        delivered: tally.received,
        lost: crowd.lost(subscribers, count),
        duplicates: tally.duplicates,
        reordered: tally.reordered,
        order_promised: true,
        corrupt: tally.corrupt,
        refused,
        unacknowledged: if acknowledged {
            0
        } else {
            count - tally.acknowledged
        },
        sessions_missing: u64::from(args.count).saturating_sub(tally.sessions_present),
        steps: vec![
            queue,
            Step {
                rss_bytes_each: None,
                ..drain
            },
        ],
        generator: generator(&start, &drained),
        ..summary("durable", target)?
    };
    judge(&mut summary, args.verify, &target.assertions);
    save(target, &summary, &Timeline::default(), since(start.at_ns))?;
    Ok(summary)
}

/// Retained messages are stored, replayed to new subscribers, and removed.
///
/// Errors: in plain words, why there is no result.
pub fn retained(args: &Retained) -> Result<Summary, String> {
    let target = &args.target;
    let clock = Clock::start();
    let qos = QoS::from_bits(args.qos).ok_or("the QoS is 0, 1 or 2")?;
    let prefix = target.prefix();
    let (count, entities) = (args.messages, args.entities);
    let (subscribers, publisher) = (0..args.count, args.count + args.slow);
    let slow = args.count..publisher;
    let mut crowd = crowd(target, clock, &prefix, publisher, qos, args.size)?;
    crowd.connect(publisher..publisher + 1, SessionKind::Clean, None)?;
    crowd.connect(
        slow.clone(),
        SessionKind::Clean,
        Some(&format!("{prefix}/#")),
    )?;
    crowd.pause(slow);
    let campaign = Campaign {
        publisher,
        first: 0,
        count,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: format!("{prefix}/"),
        numbered: true,
        has_payload: true,
        in_flight_max: args.inflight.into(),
    };
    let more = Campaign {
        first: count,
        count: entities,
        topic: format!("{prefix}/entity/"),
        ..campaign
    };
    let mut unacknowledged = 0;
    let start = Sample::take(target, clock)?;
    for campaign in [&campaign, &more] {
        if !crowd.publish(campaign.clone())? {
            unacknowledged += campaign.count - crowd.tally().acknowledged;
        }
    }
    let stored = Sample::take(target, clock)?;
    let refused = crowd.tally().refused;
    let mut steps = vec![step("store", &start, &stored, count + entities, target)];

    let each = u64::from(args.count);
    let filter = format!("{prefix}/+");
    crowd.connect(subscribers.clone(), SessionKind::Clean, Some(&filter))?;
    steps.push(arrive(
        &mut crowd,
        "replay",
        &stored,
        (0, count * each),
        target,
        clock,
    )?);
    if entities > 0 {
        let begun = Sample::take(target, clock)?;
        let filters = (count..count + entities).map(|number| format!("{prefix}/entity/{number}"));
        if !crowd.subscribe(subscribers.clone(), filters)? {
            return Err("not all subscriptions were granted".into());
        }
        let numbers = (count * each, (count + entities) * each);
        steps.push(arrive(
            &mut crowd, "entities", &begun, numbers, target, clock,
        )?);
    }
    let tally = crowd.tally();
    crowd.leave(subscribers.clone())?;
    let clearing = Sample::take(target, clock)?;
    for campaign in [campaign, more] {
        let campaign = Campaign {
            has_payload: false,
            ..campaign
        };
        if !crowd.publish(campaign.clone())? {
            unacknowledged += campaign.count - crowd.tally().acknowledged;
        }
    }
    let cleared = Sample::take(target, clock)?;
    steps.push(Step {
        rss_bytes_each: None,
        ..step("clear", &clearing, &cleared, count + entities, target)
    });
    let mut summary = Summary {
        qos: args.qos,
        payload_bytes: args.size,
        connections: u64::from(publisher) + 1,
        publishers: 1,
        published: count + entities,
        delivered_per_s: steps[1].per_s,
        expected: (count + entities) * each,
        delivered: tally.received,
        lost: crowd.lost(subscribers, count + entities),
        duplicates: tally.duplicates,
        reordered: tally.reordered,
        // Each message has its own topic, and MQTT orders the messages of one topic.
        order_promised: false,
        corrupt: tally.corrupt,
        refused,
        unacknowledged,
        steps,
        generator: generator(&start, &cleared),
        ..summary("retained", target)?
    };
    judge(&mut summary, args.verify, &target.assertions);
    save(target, &summary, &Timeline::default(), since(start.at_ns))?;
    Ok(summary)
}

/// Waits until `expected` messages have arrived in all, of which `before` had when the step began with `begun`.
fn arrive(
    crowd: &mut Crowd,
    name: &str,
    begun: &Sample,
    (before, expected): (u64, u64),
    target: &Target,
    clock: Clock,
) -> Result<Step, String> {
    let all_came = crowd.receive(expected)?;
    let arrived = Sample::take(target, clock)?;
    let tally = crowd.tally();
    let step = Step {
        rss_bytes_each: None,
        ..step(name, begun, &arrived, tally.received - before, target)
    };
    // The wait for what did not come is no part of it.
    Ok(if all_came {
        step
    } else {
        step.until(begun, tally.last_arrival_ns)
    })
}

/// The times of a load that only begins.
pub fn since(start_ns: u64) -> Times {
    Times {
        start_ns,
        measure_ns: start_ns,
        stop_ns: start_ns,
    }
}

fn crowd(
    target: &Target,
    clock: Clock,
    prefix: &str,
    subscribers: u32,
    qos: QoS,
    payload_bytes: u32,
) -> Result<Crowd, String> {
    let ids = (0..subscribers).map(|number| format!("{prefix}-s{number}"));
    let ids = ids.chain([format!("{prefix}-p")]).collect();
    let route = resolve_route(target)?;
    Crowd::new(
        route,
        target.credentials(),
        clock,
        ids,
        qos,
        payload_bytes as usize,
    )
}

/// What was done between two samples.
pub fn step(name: &str, first: &Sample, last: &Sample, count: u64, target: &Target) -> Step {
    let seconds = (last.at_ns - first.at_ns).max(1) as f64 / 1e9;
    let each = |total: f64| target.broker_pid.map(|_| total / count.max(1) as f64);
    let cpu_ns = last.broker.cpu_ns.saturating_sub(first.broker.cpu_ns);
    Step {
        name: name.into(),
        seconds,
        count,
        per_s: count as f64 / seconds,
        cpu_ns_each: each(cpu_ns as f64),
        rss_bytes_each: each(last.broker.rss_bytes as f64 - first.broker.rss_bytes as f64),
        latency_us: None,
    }
}

impl Step {
    /// The step, had it ended at another time than its last sample was taken.
    pub fn until(self, first: &Sample, end_ns: u64) -> Self {
        let seconds = end_ns.saturating_sub(first.at_ns).max(1) as f64 / 1e9;
        Self {
            seconds,
            per_s: self.count as f64 / seconds,
            ..self
        }
    }
}

/// How the generator did between two samples, which waits asleep.
pub fn generator(first: &Sample, last: &Sample) -> Generator {
    let interval_ns = (last.at_ns - first.at_ns).max(1);
    let spent = |of: fn(&Sample) -> Usage| of(last).cpu_ns.saturating_sub(of(first).cpu_ns);
    let own = spent(|sample| sample.generator);
    let machine = last.machine_cpu_ns.saturating_sub(first.machine_cpu_ns);
    let machine_cores = available_parallelism().map_or(1, NonZero::get) as f64;
    let foreign = machine.saturating_sub(own + spent(|sample| sample.broker));
    Generator {
        cores_busy: own as f64 / interval_ns as f64,
        cores: 1,
        busiest_core: own as f64 / interval_ns as f64,
        send_lag_us: None,
        // The machine's counters step by 10 ms, which is too coarse for short steps.
        foreign_cores_busy: (foreign as f64 / interval_ns as f64).min(machine_cores),
    }
}

/// What the summaries of all rows of steps have in common.
///
/// Errors: the broker's name has no address.
pub fn summary(verb: &str, target: &Target) -> Result<Summary, String> {
    Ok(Summary {
        verb: verb.into(),
        note: target.note.clone(),
        broker_address: resolve_route(target)?.address.to_string(),
        load: "steps".into(),
        mqtt_version: target.mqtt_version,
        valid: true,
        ..Summary::default()
    })
}

//! The summary of a run, and what is made of it: text, files, a page, a comparison.

pub mod charts;
pub mod compare;
pub mod files;
pub mod html;
pub mod provenance;
pub mod svg;
mod text;

use crate::format::time;
use crate::knee::Point;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Percentiles of a set of times, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are the percentiles")]
pub struct Percentiles {
    /// How many times were recorded.
    pub count: u64,
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub p99_99: f64,
    pub max: f64,
}

impl Percentiles {
    /// Those of a histogram of nanoseconds; `None` when it is empty.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            min: us(histogram.min()),
            mean: (histogram.mean() / 10.0).round() / 100.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: us(histogram.max()),
        })
    }
}

/// What the broker used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Broker {
    /// CPU time in the measured interval (`conn`: while connecting), in ns.
    pub cpu_ns: u64,
    /// The interval's length, in ns.
    pub interval_ns: u64,
    /// Cores busy on average.
    pub cores_busy: f64,
    /// CPU time per delivered message, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ns_per_message: Option<f64>,
    /// CPU time per connection that was made, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ns_per_connect: Option<f64>,
    /// The user part of the CPU time, in percent.
    pub user_percent: f64,
    /// Context switches per 1,000 delivered messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switches_per_1000: Option<f64>,
    /// Resident bytes before the first connection.
    pub rss_before_bytes: u64,
    /// Resident bytes at the end of the measured interval (`conn`: when all had settled).
    pub rss_after_bytes: u64,
    /// Growth of the resident bytes by connection; kernel memory is not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes_per_connection: Option<f64>,
}

/// How the generator itself did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Generator {
    /// Cores busy on average in the measured interval, waiting awake not counted.
    pub cores_busy: f64,
    /// Its threads that carry load.
    pub cores: usize,
    /// The part of its time that the busiest of these worked, waiting awake not counted.
    pub busiest_core: f64,
    /// Time between the due time and the writing of messages, where nothing but the generator was in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_lag_us: Option<Percentiles>,
    /// Cores that processes other than the broker and the generator kept busy.
    pub foreign_cores_busy: f64,
}

/// One step of a load that is a row of steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// How many times it was done.
    pub count: u64,
    /// How many times a second.
    pub per_s: f64,
    /// The broker's CPU time for each, in ns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ns_each: Option<f64>,
    /// Growth of the broker's resident bytes for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes_each: Option<f64>,
    /// The times that its messages took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Percentiles>,
}

/// All that is known of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// The verb.
    pub verb: String,
    /// What somebody said of the run; a load of the suite says how far it is from what was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The broker's address.
    pub broker_address: String,
    /// `open`, `closed` or `idle`.
    pub load: String,
    /// Asked messages per second in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// The window in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// MQTT version: 3, 4 or 5.
    pub mqtt_version: u8,
    /// QoS of publications and subscriptions.
    pub qos: u8,
    /// Bytes of a payload.
    pub payload_bytes: u32,
    /// Connections.
    pub connections: u64,
    /// Publishers among them.
    pub publishers: u64,
    /// Connections per second while connecting.
    pub connects_per_s: f64,
    /// From the start of connecting to CONNACK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_us: Option<Percentiles>,
    /// From the start of connecting to the established TCP connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_connect_us: Option<Percentiles>,
    /// From the established TCP connection to CONNACK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connack_us: Option<Percentiles>,
    /// Connections that took the place of lost ones.
    pub reconnects: u64,
    /// Connections that were lost and made again, by the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub disconnects: BTreeMap<String, u64>,
    /// Seconds measured.
    pub measured_s: f64,
    /// Messages published per second in the measured interval.
    pub published_per_s: f64,
    /// Messages delivered per second in the measured interval.
    pub delivered_per_s: f64,
    /// Messages published in the whole run.
    pub published: u64,
    /// Deliveries those had to lead to.
    pub expected: u64,
    /// Deliveries there were.
    pub delivered: u64,
    /// Deliveries there were not.
    pub lost: u64,
    /// Deliveries that repeated another.
    pub duplicates: u64,
    /// Deliveries after a later one of the same publisher.
    pub reordered: u64,
    /// Whether MQTT promises the order: not across the members of a shared subscription.
    pub order_promised: bool,
    /// Deliveries that were not as they were sent.
    pub corrupt: u64,
    /// Publications whose handshake was not finished.
    pub unacknowledged: u64,
    /// Publications the broker refused.
    pub refused: u64,
    /// Windows given up after two seconds without a delivery.
    pub window_stalls: u64,
    /// Messages that were late because the broker took no more.
    pub held_back: u64,
    /// Messages that were due and that the broker did not take to the end.
    pub unsent: u64,
    /// Of messages that were due or sent in the measured interval: from then to the last acknowledgement, QoS 1
    /// and 2 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_us: Option<Percentiles>,
    /// Deliveries that subscribers lost which did not read while it was measured; they are not in `lost`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_by_slow: Option<u64>,
    /// `response time` in an open loop, `service time` in a closed one.
    pub latency_kind: String,
    /// From the intended (open loop) or actual (closed loop) time of sending to the receiving.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Percentiles>,
    /// Sessions that were to be there still and were not.
    pub sessions_missing: u64,
    /// The steps, where the load is a row of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// The rates that were tried to find the highest, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub knee: Vec<Point>,
    /// What broke, and ended the run before its time; the figures are those until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the broker used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<Broker>,
    /// How the generator did.
    pub generator: Generator,
    /// Whether the figures are the broker's; if not, `invalid_because` says what else they show.
    pub valid: bool,
    /// Why the figures are not the broker's alone.
    pub invalid_because: Vec<String>,
    /// What `--verify` and `--assert` object to.
    pub violations: Vec<String>,
}

impl Generator {
    /// The part of its time that the busiest of its threads worked: one alone can be what limits the others.
    pub fn busy(&self) -> f64 {
        let mean = self.cores_busy / self.cores.max(1) as f64;
        mean.max(self.busiest_core)
    }
}

impl Summary {
    /// Tells what of the figures is the generator's own doing.
    pub fn judge(&mut self) {
        let generator = &self.generator;
        let p99 = |all: &Option<Percentiles>| all.as_ref().map(|all| all.p99);
        self.invalid_because.extend(invalidity(
            generator.busy(),
            p99(&generator.send_lag_us),
            p99(&self.latency_us),
        ));
        if self.broker_was_idle() {
            let why = "the process of --broker-pid used no CPU time, so it is not the broker's";
            self.invalid_because.push(why.into());
        }
        self.valid = self.invalid_because.is_empty();
    }

    /// Whether the process of `--broker-pid` did nothing for what went through the broker.
    fn broker_was_idle(&self) -> bool {
        let has_connected = self
            .broker
            .iter()
            .any(|one| one.cpu_ns_per_connect.is_some());
        let had_work = self.published_per_s + self.delivered_per_s > 0.0
            || has_connected && self.connections > 0
            || self.steps.iter().any(|step| step.count > 0);
        let of_run = self.broker.iter().map(|one| one.cpu_ns as f64);
        let of_steps = self.steps.iter().filter_map(|step| step.cpu_ns_each);
        let used: Vec<_> = of_run.chain(of_steps).collect();
        // What a process that has died used before is not known.
        let is_known = self.error.is_none() && !used.is_empty();
        is_known && had_work && used.iter().all(|used| *used == 0.0)
    }

    /// Whether anything was sent, was to come, or was done in a step: else nothing can be said of it.
    pub fn has_messages(&self) -> bool {
        self.published > 0 || self.expected > 0 || self.steps.iter().any(|step| step.count > 0)
    }

    /// What is wrong with the messages, by the promises of their QoS.
    pub fn verify(&self) -> Vec<String> {
        let mut violations = Vec::new();
        if !self.has_messages() {
            violations.push("nothing could be verified: there was no message".into());
        }
        let mut check = |count: u64, what: &str| {
            if count > 0 {
                violations.push(format!("{count} {what}"));
            }
        };
        check(self.sessions_missing, "sessions were gone");
        check(self.unsent, "messages could not be sent");
        check(self.corrupt, "deliveries were corrupt");
        if self.order_promised {
            check(self.reordered, "deliveries were reordered");
        }
        if self.qos >= 1 {
            check(self.lost, "deliveries were lost");
            check(self.refused, "publications were refused");
            check(self.unacknowledged, "publications were not acknowledged");
        }
        // MQTT lets a broker repeat QoS 1 messages, but only on a new connection.
        let may_repeat = self.qos == 1 && self.reconnects > 0;
        check(
            if may_repeat { 0 } else { self.duplicates },
            "deliveries were duplicated",
        );
        violations
    }
}

/// What makes figures the generator's own: `busy` is the part of its time that its busiest thread works, the others are the
/// 99th percentiles of send lag and latency in µs.
pub fn invalidity(busy: f64, send_lag_us: Option<f64>, latency_us: Option<f64>) -> Vec<String> {
    let mut because = Vec::new();
    if busy > 0.9 {
        because.push(format!(
            "the generator was {:.0} % busy on one core: it limits the broker; give it more --cores",
            100.0 * busy
        ));
    }
    if let (Some(lag), Some(latency)) = (send_lag_us, latency_us)
        && lag > 0.2 * latency
        && lag > 20.0
    {
        because.push(format!(
            "the generator itself was late: the send lag's p99 is {}, the latency's {}",
            time(lag),
            time(latency)
        ));
    }
    because
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::histogram;

    #[test]
    fn percentiles_of_merged_histograms_are_those_of_all_values() {
        let mut all = histogram();
        let mut merged = histogram();
        for core in 0..4_u64 {
            let mut part = histogram();
            for value in 0..1_000 {
                let ns = (value * 4 + core) * 1_000 + 1_000;
                part.record(ns).unwrap();
                all.record(ns).unwrap();
            }
            merged.add(&part).unwrap();
        }
        let merged = Percentiles::of(&merged).unwrap();
        assert_eq!(Some(&merged), Percentiles::of(&all).as_ref());
        assert_eq!(merged.count, 4_000);
        assert!((merged.p50 - 2_000.0).abs() <= 2.0 && (merged.p99 - 3_960.0).abs() <= 4.0);
        assert!((merged.max - 4_000.0).abs() <= 4.0 && (merged.mean - 2_000.5).abs() <= 2.0);
        assert_eq!(Percentiles::of(&histogram()), None);
    }

    #[test]
    fn a_late_or_busy_generator_makes_a_run_invalid() {
        let times = |p99| {
            Some(Percentiles {
                p99,
                ..Percentiles::default()
            })
        };
        let run = |lag, latency, (cores_busy, busiest_core)| {
            let mut summary = Summary {
                latency_us: times(latency),
                generator: Generator {
                    cores_busy,
                    busiest_core,
                    cores: 2,
                    send_lag_us: times(lag),
                    ..Generator::default()
                },
                ..Summary::default()
            };
            summary.judge();
            summary.valid
        };
        let idle = (1.0, 0.6);
        assert!(run(15.0, 100.0, idle));
        assert!(
            run(19.0, 20.0, idle),
            "what little there is does not matter"
        );
        assert!(!run(30.0, 100.0, idle));
        assert!(!run(1.0, 100.0, (1.9, 0.0)));
        assert!(
            !run(1.0, 100.0, (1.0, 0.95)),
            "one thread is the limit, whatever the others do"
        );
    }

    #[test]
    fn a_broker_that_did_nothing_is_another_process() {
        let is_valid = |cpu_ns, summary: &Summary| {
            let broker = summary.broker.clone();
            let mut summary = Summary {
                broker: broker.map(|broker| Broker { cpu_ns, ..broker }),
                ..summary.clone()
            };
            for step in &mut summary.steps {
                step.cpu_ns_each = Some(cpu_ns as f64);
            }
            summary.judge();
            summary.valid
        };
        let nothing = Summary {
            broker: Some(Broker::default()),
            ..Summary::default()
        };
        let published = Summary {
            published_per_s: 5.0,
            ..nothing.clone()
        };
        let connected = Summary {
            connections: 5,
            broker: Some(Broker {
                cpu_ns_per_connect: Some(0.0),
                ..Broker::default()
            }),
            ..Summary::default()
        };
        let queued = Summary {
            steps: vec![Step {
                count: 5,
                ..Step::default()
            }],
            ..Summary::default()
        };
        for one in [&published, &connected, &queued] {
            assert!(is_valid(1_000, one) && !is_valid(0, one), "{one:?}");
        }
        assert!(is_valid(0, &nothing));
        let died = Summary {
            error: Some("the broker closed the connection".into()),
            ..published
        };
        assert!(is_valid(0, &died), "nothing is known of what it used");
    }

    #[test]
    fn verification_knows_what_a_qos_promises() {
        let nothing = Summary::default();
        assert_eq!(
            nothing.verify().len(),
            1,
            "what did not happen was not well"
        );
        let some = Summary {
            published: 10,
            ..nothing
        };
        let lossy = Summary {
            lost: 3,
            ..some.clone()
        };
        assert!(lossy.verify().is_empty(), "QoS 0 may lose");
        assert_eq!(
            Summary { qos: 1, ..lossy }.verify(),
            ["3 deliveries were lost"]
        );
        for damaged in [
            Summary {
                corrupt: 1,
                ..some.clone()
            },
            Summary {
                reordered: 1,
                order_promised: true,
                ..some.clone()
            },
            Summary {
                duplicates: 1,
                ..some.clone()
            },
            Summary {
                qos: 2,
                unacknowledged: 1,
                ..some
            },
        ] {
            assert_eq!(damaged.verify().len(), 1, "{damaged:?}");
        }
    }
}

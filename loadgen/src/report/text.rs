//! The summary as lines for people.

use crate::knee;
use crate::report::{Broker, Percentiles, Step, Summary};
use std::fmt::Write as _;

impl Percentiles {
    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  p99.99 {:.1}  max {:.1} us  ({} samples)",
            self.p50, self.p90, self.p99, self.p99_9, self.p99_99, self.max, self.count
        )
    }
}

impl Summary {
    /// The summary for people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        if let Some(note) = &self.note {
            line(note.clone());
        }
        line(format!(
            "{} at {}: MQTT {}, {} connections in {}",
            self.verb,
            self.broker_address,
            ["", "", "", "3.1", "3.1.1", "5.0"][usize::from(self.mqtt_version.min(5))],
            self.connections,
            match (self.rate, self.window) {
                (Some(rate), _) => format!("an open loop of {rate} msg/s"),
                (None, Some(window)) => format!("a closed loop, window {window}"),
                (None, None) if self.steps.is_empty() => "idleness".into(),
                (None, None) => "steps".into(),
            },
        ));
        if self.expected > 0 || self.publishers > 0 || self.verb == "sub" {
            let measured = if self.steps.is_empty() {
                format!(", {:.2} s measured", self.measured_s)
            } else {
                String::new()
            };
            line(format!(
                "QoS {}, {} B, {} publishers{measured}",
                self.qos, self.payload_bytes, self.publishers
            ));
            if self.steps.is_empty() {
                line(format!(
                    "published  {:.0} msg/s   delivered  {:.0} msg/s",
                    self.published_per_s, self.delivered_per_s
                ));
            }
        }
        for step in &self.steps {
            line(step.line());
        }
        if let Some(latency) = &self.latency_us {
            line(format!("{}  {}", self.latency_kind, latency.line()));
        }
        if let Some(connect) = &self.connect_us {
            line(format!(
                "connects  {:.0}/s   to CONNACK  {}",
                self.connects_per_s,
                connect.line()
            ));
        }
        if let (Some(tcp), Some(connack)) = (&self.tcp_connect_us, &self.connack_us) {
            line(format!("  of that TCP  {}", tcp.line()));
            line(format!("  and CONNACK  {}", connack.line()));
        }
        for (why, count) in &self.disconnects {
            line(format!("{count} connections lost: {why}"));
        }
        if !self.disconnects.is_empty() {
            line(format!("{} connections made again", self.reconnects));
        }
        if self.publishers > 0 {
            line(format!(
                "of {} deliveries: {} lost, {} duplicated, {} reordered{}, {} corrupt; {} unacknowledged, {} refused",
                self.expected,
                self.lost,
                self.duplicates,
                self.reordered,
                if self.order_promised || self.reordered == 0 {
                    ""
                } else {
                    " (no order is promised here)"
                },
                self.corrupt,
                self.unacknowledged,
                self.refused
            ));
        }
        if let Some(acknowledged) = &self.acknowledged_us {
            line(format!(
                "to the last acknowledgement  {}",
                acknowledged.line()
            ));
        }
        if let Some(lost) = self.lost_by_slow {
            line(format!("subscribers that did not read lost {lost}"));
        }
        if self.window_stalls > 0 {
            line(format!(
                "{} windows stalled for 2 s and were given up",
                self.window_stalls
            ));
        }
        if self.held_back > 0 {
            line(format!(
                "{} messages were late because the broker took no more",
                self.held_back
            ));
        }
        if self.unsent > 0 {
            line(format!(
                "{} messages were due and could not be sent",
                self.unsent
            ));
        }
        if let Some(broker) = &self.broker {
            line(broker.line());
        }
        line(format!(
            "generator  {:.0} % of {} core(s), the busiest {:.0} %; others {:.2} cores",
            100.0 * self.generator.cores_busy / self.generator.cores.max(1) as f64,
            self.generator.cores,
            100.0 * self.generator.busy(),
            self.generator.foreign_cores_busy
        ));
        if let Some(lag) = &self.generator.send_lag_us {
            line(format!("send lag  {}", lag.line()));
        }
        for point in &self.knee {
            line(point.to_string());
        }
        if let Some(best) = knee::best(&self.knee) {
            line(format!(
                "the highest rate that held is {:.0} msg/s",
                best.rate
            ));
        }
        if let Some(error) = &self.error {
            line(format!("ENDED EARLY: {error}"));
        }
        for why in &self.invalid_because {
            line(format!("INVALID: {why}"));
        }
        for violation in &self.violations {
            line(format!("FAILED: {violation}"));
        }
        out
    }
}

impl Step {
    fn line(&self) -> String {
        let mut line = format!(
            "{}  {} in {:.3} s, {:.0}/s",
            self.name, self.count, self.seconds, self.per_s
        );
        if let Some(ns) = self.cpu_ns_each {
            let _ = write!(line, ", {ns:.0} ns of broker CPU each");
        }
        if let Some(bytes) = self.rss_bytes_each {
            let _ = write!(line, ", {bytes:.0} B of broker memory each");
        }
        if let Some(latency) = &self.latency_us {
            let _ = write!(line, "; {}", latency.line());
        }
        line
    }
}

impl Broker {
    fn line(&self) -> String {
        let mut line = format!("broker  {:.2} cores", self.cores_busy);
        if let Some(ns) = self.cpu_ns_per_message {
            let _ = write!(line, ", {ns:.0} ns of CPU per delivered message");
        }
        if let Some(ns) = self.cpu_ns_per_connect {
            let _ = write!(line, ", {:.1} us of CPU per connection", ns / 1e3);
        }
        if let Some(switches) = self.switches_per_1000 {
            let _ = write!(line, ", {switches:.1} context switches per 1,000");
        }
        let _ = write!(
            line,
            " ({:.0} % user); RSS {:.1} -> {:.1} MB",
            self.user_percent,
            self.rss_before_bytes as f64 / 1e6,
            self.rss_after_bytes as f64 / 1e6
        );
        if let Some(bytes) = self.rss_bytes_per_connection {
            let _ = write!(line, ", {bytes:.0} B per connection");
        }
        line
    }
}

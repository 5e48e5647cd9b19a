//! What one core saw.

use crate::timeline::Trouble;
use crate::total::recorded;
use crate::track::Track;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What went by, in numbers that add up: over cores, and over processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// From the intended time to the last acknowledgement of a QoS 1 or 2 message, in ns.
    #[serde(with = "recorded")]
    pub acknowledged: Histogram<u64>,
    /// From when connecting was due to the established connection, in ns.
    #[serde(with = "recorded")]
    pub tcp_connect: Histogram<u64>,
    /// From the established connection to CONNACK, in ns.
    #[serde(with = "recorded")]
    pub connack: Histogram<u64>,
    /// From when connecting was due to CONNACK, in ns.
    #[serde(with = "recorded")]
    pub connect: Histogram<u64>,
    /// Clients that were accepted by the broker.
    pub connected: u64,
    /// Connections that took the place of lost ones.
    pub reconnects: u64,
    /// Connections that were lost and were to be made again, by the reason.
    pub disconnects: BTreeMap<String, u64>,
    /// Messages written in the measured interval.
    pub published: u64,
    /// Messages received in the measured interval, duplicates not counted.
    pub delivered: u64,
    /// Messages received that were not the first of their kind.
    pub duplicates: u64,
    /// Messages received after a later one of the same publisher.
    pub reordered: u64,
    /// Messages that were not as they were sent.
    pub corrupt: u64,
    /// Messages that were written late because the broker took no more bytes or no more QoS 1 and 2 messages.
    pub held_back: u64,
    /// Messages that were due and could not be sent to the end.
    pub unsent: u64,
    /// Windows that were given up because nothing moved.
    pub window_stalls: u64,
    /// Acknowledgements with a failure code.
    pub refused: u64,
    /// QoS 1 and 2 messages whose handshake was not finished at the end, or ended with its connection.
    pub unacknowledged: u64,
    /// Messages received whose payload was not looked at.
    pub unchecked: u64,
    /// Time spent waiting awake, in ns.
    pub spin_ns: u64,
}

/// What one core saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What went by.
    pub counts: Counts,
    /// Number and messages of each publisher here.
    pub sent: Vec<(u32, u64)>,
    /// What became of each publisher's messages, once for each copy that was to come here.
    pub tracks: Vec<(u32, Track)>,
    /// The same for subscribers that did not read in the measured interval.
    pub slow_tracks: Vec<(u32, Track)>,
    /// What became of the messages of publishers in other processes.
    pub stranger_tracks: Vec<Track>,
    /// The part of the measured interval that it worked, waiting awake not counted; 0 if it did not get to its end.
    pub busy: f64,
    /// Why this core ended before the run did, and when in ns of the clock.
    pub ended: Option<(u64, String)>,
}

impl Counts {
    /// What went wrong so far.
    pub fn trouble(&self) -> Trouble {
        Trouble {
            duplicates: self.duplicates,
            reordered: self.reordered,
            corrupt: self.corrupt,
            refused: self.refused,
            disconnects: self.disconnects.values().sum(),
            window_stalls: self.window_stalls,
            held_back: self.held_back,
        }
    }

    /// Adds what others saw.
    pub fn add(&mut self, more: &Self) {
        for (all, part) in [
            (&mut self.acknowledged, &more.acknowledged),
            (&mut self.tcp_connect, &more.tcp_connect),
            (&mut self.connack, &more.connack),
            (&mut self.connect, &more.connect),
        ] {
            all.add(part).expect("all histograms have the same bounds");
        }
        for (why, count) in &more.disconnects {
            *self.disconnects.entry(why.clone()).or_default() += count;
        }
        for (all, part) in [
            (&mut self.connected, more.connected),
            (&mut self.reconnects, more.reconnects),
            (&mut self.published, more.published),
            (&mut self.delivered, more.delivered),
            (&mut self.duplicates, more.duplicates),
            (&mut self.reordered, more.reordered),
            (&mut self.corrupt, more.corrupt),
            (&mut self.held_back, more.held_back),
            (&mut self.unsent, more.unsent),
            (&mut self.window_stalls, more.window_stalls),
            (&mut self.refused, more.refused),
            (&mut self.unacknowledged, more.unacknowledged),
            (&mut self.unchecked, more.unchecked),
            (&mut self.spin_ns, more.spin_ns),
        ] {
            *all += part;
        }
    }
}

/// One second of one core.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// Which second, by [`Times::second`](crate::worker::Times::second).
    pub second: i64,
    /// Messages written in it.
    pub published: u64,
    /// Messages received in it.
    pub delivered: u64,
    /// Receive time less intended time, in ns, of messages received in it whose intended time was in the measured
    /// interval.
    #[serde(with = "recorded")]
    pub latency: Histogram<u64>,
    /// Time of writing less intended time, in ns, of messages whose intended time was in the measured interval, where
    /// only the generator was in the way.
    #[serde(with = "recorded")]
    pub send_lag: Histogram<u64>,
    /// What went wrong in it.
    pub trouble: Trouble,
    /// Time spent waiting awake, in ns.
    pub spin_ns: u64,
}

impl Interval {
    /// A second in which nothing has happened yet.
    pub fn of(second: i64) -> Self {
        Self {
            second,
            published: 0,
            delivered: 0,
            latency: histogram(),
            send_lag: histogram(),
            trouble: Trouble::default(),
            spin_ns: 0,
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            acknowledged: histogram(),
            tcp_connect: histogram(),
            connack: histogram(),
            connect: histogram(),
            connected: 0,
            reconnects: 0,
            disconnects: BTreeMap::new(),
            published: 0,
            delivered: 0,
            duplicates: 0,
            reordered: 0,
            corrupt: 0,
            held_back: 0,
            unsent: 0,
            window_stalls: 0,
            refused: 0,
            unacknowledged: 0,
            unchecked: 0,
            spin_ns: 0,
        }
    }
}

/// A histogram of nanoseconds up to two minutes, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("the bounds are valid")
}

//! What all cores saw together: of one process, or of several.

use crate::track::Track;
use crate::worker::{Outcome, histogram};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What all cores saw together. The fields are those of [`Outcome`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of Outcome")]
pub struct Total {
    #[serde(with = "recorded")]
    pub latency: Histogram<u64>,
    #[serde(with = "recorded")]
    pub send_lag: Histogram<u64>,
    #[serde(with = "recorded")]
    pub acknowledged: Histogram<u64>,
    #[serde(with = "recorded")]
    pub tcp_connect: Histogram<u64>,
    #[serde(with = "recorded")]
    pub connack: Histogram<u64>,
    #[serde(with = "recorded")]
    pub connect: Histogram<u64>,
    pub connected: u64,
    pub reconnects: u64,
    pub disconnects: BTreeMap<String, u64>,
    pub published: u64,
    pub delivered: u64,
    pub duplicates: u64,
    pub reordered: u64,
    pub corrupt: u64,
    pub held_back: u64,
    pub unsent: u64,
    pub window_stalls: u64,
    pub refused: u64,
    pub unacknowledged: u64,
    pub unchecked: u64,
    pub spin_ns: u64,
    /// Messages of all publishers in the whole run.
    pub sent: u64,
    /// Deliveries those had to lead to.
    pub expected: u64,
    /// Deliveries there were not.
    pub lost: u64,
    /// Of subscribers that did not read in the measured interval, where there are such.
    pub lost_by_slow: Option<u64>,
    /// Why it ended before its time.
    pub ended: Option<String>,
}

impl Default for Total {
    fn default() -> Self {
        Self {
            latency: histogram(),
            send_lag: histogram(),
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
            sent: 0,
            expected: 0,
            lost: 0,
            lost_by_slow: None,
            ended: None,
        }
    }
}

impl Total {
    /// What the cores of one process saw: their tracks and what was sent belong together. Latencies and send lags are in
    /// their seconds, and not here.
    pub fn of(outcomes: Vec<Outcome>) -> Self {
        let mut total = Self::default();
        let mut sent = BTreeMap::new();
        let (mut tracks, mut slow, mut strangers) = (Vec::new(), Vec::new(), Vec::new());
        for one in outcomes {
            sent.extend(one.sent.iter().copied());
            tracks.extend(one.tracks);
            slow.extend(one.slow_tracks);
            strangers.extend(one.stranger_tracks);
            total.add(&Self {
                latency: histogram(),
                send_lag: histogram(),
                acknowledged: one.acknowledged,
                tcp_connect: one.tcp_connect,
                connack: one.connack,
                connect: one.connect,
                connected: one.connected,
                reconnects: one.reconnects,
                disconnects: one.disconnects,
                published: one.published,
                delivered: one.delivered,
                duplicates: one.duplicates,
                reordered: one.reordered,
                corrupt: one.corrupt,
                held_back: one.held_back,
                unsent: one.unsent,
                window_stalls: one.window_stalls,
                refused: one.refused,
                unacknowledged: one.unacknowledged,
                unchecked: one.unchecked,
                spin_ns: one.spin_ns,
                sent: one.sent.iter().map(|(_, count)| count).sum(),
                expected: one.unchecked,
                lost: 0,
                lost_by_slow: None,
                ended: one.ended.map(|(_, why)| why),
            });
        }
        let of = |number: &u32| sent.get(number).copied().unwrap_or(0);
        let lost_of = |tracks: &[(u32, Track)]| -> u64 {
            tracks
                .iter()
                .map(|(number, track)| track.lost(of(number)))
                .sum()
        };
        total.lost = lost_of(&tracks) + strangers.iter().map(Track::missing).sum::<u64>();
        total.lost_by_slow = (!slow.is_empty()).then(|| lost_of(&slow));
        total.expected += tracks.iter().map(|(number, _)| of(number)).sum::<u64>()
            + strangers.iter().map(Track::seen_or_missing).sum::<u64>();
        total
    }

    /// Adds what others saw.
    pub fn add(&mut self, more: &Self) {
        for (all, part) in [
            (&mut self.latency, &more.latency),
            (&mut self.send_lag, &more.send_lag),
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
            (&mut self.sent, more.sent),
            (&mut self.expected, more.expected),
            (&mut self.lost, more.lost),
        ] {
            *all += part;
        }
        if let Some(lost) = more.lost_by_slow {
            *self.lost_by_slow.get_or_insert(0) += lost;
        }
        if self.ended.is_none() {
            self.ended.clone_from(&more.ended);
        }
    }
}

/// A histogram as its values and how often each was recorded.
pub mod recorded {
    use crate::worker::histogram;
    use hdrhistogram::Histogram;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the values that were recorded.
    pub fn serialize<S: Serializer>(all: &Histogram<u64>, to: S) -> Result<S::Ok, S::Error> {
        let values = all.iter_recorded();
        to.collect_seq(values.map(|one| (one.value_iterated_to(), one.count_at_value())))
    }

    /// Records the values again, which fall into the same classes.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Histogram<u64>, D::Error> {
        let values = Vec::<(u64, u64)>::deserialize(from)?;
        let mut all = histogram();
        for (value, count) in values {
            all.saturating_record_n(value, count);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(latencies: &[u64], delivered: u64) -> Total {
        let mut total = Total {
            delivered,
            disconnects: [("gone".to_string(), delivered)].into(),
            ..Total::default()
        };
        for ns in latencies {
            total.latency.record(*ns).unwrap();
        }
        total
    }

    proptest! {
        #[test]
        fn what_went_over_the_wire_is_what_it_was(values in prop::collection::vec(1..100_000_000_000_u64, 0..200)) {
            let sent = total(&values, 7);
            let text = serde_json::to_string(&sent).unwrap();
            let got: Total = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(sent, got);
        }

        #[test]
        fn parts_add_up_to_the_whole(values in prop::collection::vec(1..100_000_000_000_u64, 1..200), cut in 0.0..1.0_f64) {
            let (left, right) = values.split_at((values.len() as f64 * cut) as usize);
            let mut merged = total(left, left.len() as u64);
            merged.add(&total(right, right.len() as u64));
            prop_assert_eq!(merged, total(&values, values.len() as u64));
        }
    }
}

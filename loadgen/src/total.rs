//! What all cores saw together: of one process, or of several.

use crate::track::Track;
use crate::worker::{Counts, Outcome, histogram};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What all cores saw together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Total {
    /// Receive time less intended time of the measured messages, in ns.
    #[serde(with = "recorded")]
    pub latency: Histogram<u64>,
    /// Time of writing less intended time of the measured messages, in ns, where only the generator was in the way.
    #[serde(with = "recorded")]
    pub send_lag: Histogram<u64>,
    /// What went by on all cores.
    pub counts: Counts,
    /// Messages of all publishers in the whole run.
    pub sent: u64,
    /// Deliveries those had to lead to.
    pub expected: u64,
    /// Deliveries there were not.
    pub lost: u64,
    /// Of subscribers that did not read in the measured interval, where there are such.
    pub lost_by_slow: Option<u64>,
    /// The part of the measured interval that the busiest core worked.
    pub busiest: f64,
    /// Why it ended before its time.
    pub ended: Option<String>,
}

impl Default for Total {
    fn default() -> Self {
        Self {
            latency: histogram(),
            send_lag: histogram(),
            counts: Counts::default(),
            sent: 0,
            expected: 0,
            lost: 0,
            lost_by_slow: None,
            busiest: 0.0,
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
            total.counts.add(&one.counts);
            total.sent += one.sent.iter().map(|(_, count)| count).sum::<u64>();
            total.expected += one.counts.unchecked;
            total.busiest = total.busiest.max(one.busy);
            if total.ended.is_none() {
                total.ended = one.ended.map(|(_, why)| why);
            }
            sent.extend(one.sent);
            tracks.extend(one.tracks);
            slow.extend(one.slow_tracks);
            strangers.extend(one.stranger_tracks);
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
        ] {
            all.add(part).expect("all histograms have the same bounds");
        }
        self.counts.add(&more.counts);
        self.sent += more.sent;
        self.expected += more.expected;
        self.lost += more.lost;
        self.busiest = self.busiest.max(more.busiest);
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
        let mut total = Total::default();
        total.counts.delivered = delivered;
        total.counts.disconnects = [("gone".to_string(), delivered)].into();
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

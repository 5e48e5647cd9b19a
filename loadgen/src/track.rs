//! What became of one publisher's messages on their way to one subscriber.
//!
//! Sequence numbers rise by one. A number above the next one leaves a gap; a number in a gap came late; any
//! other number has been here before. What is still missing when all has had time to arrive is lost.

use std::collections::BTreeMap;

/// Gaps that are remembered; with more the oldest is given up, and what fills it would count as a duplicate.
const GAPS_MAX: usize = 1 << 20;

/// What an arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first, in its order or after a gap.
    Fresh,
    /// The first, but after a later one.
    Late,
    /// Not the first.
    Duplicate,
}

/// The messages of one publisher as one subscriber saw them.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// One more than the highest number seen.
    next: u64,
    /// First and end of each run of numbers that are missing below `next`; almost always empty.
    gaps: BTreeMap<u64, u64>,
    /// Missing numbers whose gap was given up.
    given_up: u64,
    /// Whether what came before the first number seen does not count.
    joins_late: bool,
    /// The number at which a late subscriber began.
    first: u64,
}

impl Track {
    /// For a subscriber that may have come after the first messages: what it did not see of them is not lost.
    pub fn from_first_seen() -> Self {
        Self {
            joins_late: true,
            ..Self::default()
        }
    }

    /// Numbers that are missing so far below the highest seen.
    pub fn missing(&self) -> u64 {
        self.gaps
            .iter()
            .map(|(first, end)| end - first)
            .sum::<u64>()
            + self.given_up
    }

    /// Numbers from the first that counts to the highest seen.
    pub fn seen_or_missing(&self) -> u64 {
        self.next - self.first
    }

    /// Takes note of number `sequence`.
    pub fn see(&mut self, sequence: u64) -> Arrival {
        if sequence == self.next {
            self.joins_late = false;
            self.next += 1;
            return Arrival::Fresh;
        }
        if std::mem::take(&mut self.joins_late) {
            self.first = sequence;
            self.next = sequence + 1;
            return Arrival::Fresh;
        }
        if sequence > self.next {
            self.add_gap(self.next, sequence);
            self.next = sequence + 1;
            return Arrival::Fresh;
        }
        let Some((&first, &end)) = self.gaps.range(..=sequence).next_back() else {
            return Arrival::Duplicate;
        };
        if sequence >= end {
            return Arrival::Duplicate;
        }
        self.gaps.remove(&first);
        if first < sequence {
            self.gaps.insert(first, sequence);
        }
        if sequence + 1 < end {
            self.gaps.insert(sequence + 1, end);
        }
        Arrival::Late
    }

    /// Numbers below `sent` that never arrived.
    pub fn lost(&self, sent: u64) -> u64 {
        self.missing() + sent.saturating_sub(self.next)
    }

    fn add_gap(&mut self, first: u64, end: u64) {
        if self.gaps.len() >= GAPS_MAX
            && let Some((first, end)) = self.gaps.pop_first()
        {
            self.given_up += end - first;
        }
        self.gaps.insert(first, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(numbers: &[u64]) -> (Track, Vec<Arrival>) {
        let mut track = Track::default();
        let arrivals = numbers.iter().map(|number| track.see(*number)).collect();
        (track, arrivals)
    }

    #[test]
    fn in_order_nothing_is_lost() {
        let (track, arrivals) = track(&[0, 1, 2, 3]);
        assert_eq!(arrivals, [Arrival::Fresh; 4]);
        assert_eq!(track.lost(4), 0);
        assert_eq!(track.lost(6), 2, "the last two never came");
    }

    #[test]
    fn gaps_are_lost_until_they_fill() {
        use Arrival::{Duplicate, Fresh, Late};
        let (track, arrivals) = track(&[0, 5, 3, 1, 3, 6, 2, 0, 4, 4]);
        assert_eq!(
            arrivals,
            [
                Fresh, Fresh, Late, Late, Duplicate, Fresh, Late, Duplicate, Late, Duplicate
            ]
        );
        assert_eq!(track.lost(7), 0);
    }

    #[test]
    fn losses_at_both_ends_and_within_count() {
        let (track, _) = track(&[2, 3, 7]);
        assert_eq!(track.lost(10), 2 + 3 + 2);
    }

    #[test]
    fn who_joins_late_has_lost_nothing_before() {
        let mut track = Track::from_first_seen();
        assert_eq!(track.see(100), Arrival::Fresh);
        assert_eq!(track.see(102), Arrival::Fresh);
        assert_eq!(
            (track.missing(), track.lost(103), track.seen_or_missing()),
            (1, 1, 3)
        );
        assert_eq!(
            track.see(99),
            Arrival::Duplicate,
            "or out of order before the first: not told apart"
        );
    }

    #[test]
    fn gaps_given_up_stay_lost() {
        let mut track = Track::default();
        for number in 0..GAPS_MAX as u64 + 100 {
            track.see(number * 2 + 1);
        }
        assert_eq!(track.gaps.len(), GAPS_MAX);
        assert_eq!(
            track.lost(2 * (GAPS_MAX as u64 + 100)),
            GAPS_MAX as u64 + 100
        );
    }
}

//! How many messages a second are asked for at each moment, and so when each is due.
//!
//! A [`Profile`] is what the whole run asks for; a [`Schedule`] is one worker's part of it. Like a
//! [`Pace`], a schedule is fixed before the first message is sent: message `k` is due when the integral
//! of the rate reaches `k`, whatever became of the messages before it.

use crate::pace::Pace;
use std::time::Duration;

/// A part of a profile: the rate goes straight from where it is to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// How long that takes; nothing for a jump.
    pub duration: Duration,
    /// Messages a second at its end.
    pub to: f64,
}

/// What a run asks for over all publishers.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    shape: Shape,
    /// The part of its slot in which a message may be due at random, 0 to 1.
    jitter: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Constant(f64),
    Legs(Vec<Leg>),
}

/// A straight piece of the rate.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Leg {
    /// Seconds from the start of the profile.
    start_s: f64,
    duration_s: f64,
    /// Messages a second at its beginning.
    from: f64,
    /// By how much that changes in each second.
    slope: f64,
    /// Messages that are due before it.
    before: f64,
}

impl Profile {
    /// `rate` messages a second without an end.
    pub fn constant(rate: f64) -> Self {
        Self {
            shape: Shape::Constant(rate),
            jitter: 0.0,
        }
    }

    /// A rate that begins with `from` and goes through `stages`.
    pub fn stages(from: f64, stages: &[Stage]) -> Self {
        let (mut from, mut start_s, mut before) = (from, 0.0, 0.0);
        let mut legs = Vec::new();
        for stage in stages {
            let duration_s = stage.duration.as_secs_f64();
            if duration_s > 0.0 {
                let leg = Leg {
                    start_s,
                    duration_s,
                    from,
                    slope: (stage.to - from) / duration_s,
                    before,
                };
                legs.push(leg);
                start_s += duration_s;
                before += (from + stage.to) / 2.0 * duration_s;
            }
            from = stage.to;
        }
        Self {
            shape: Shape::Legs(legs),
            jitter: 0.0,
        }
    }

    /// The same, and then its last rate for a time.
    pub fn held(mut self, hold: Duration) -> Self {
        let rate = self.rate_max_or_last(false);
        let (messages, duration) = (self.messages(), self.duration());
        if let (Shape::Legs(legs), Some(duration)) = (&mut self.shape, duration)
            && !hold.is_zero()
        {
            legs.push(Leg {
                start_s: duration.as_secs_f64(),
                duration_s: hold.as_secs_f64(),
                from: rate,
                slope: 0.0,
                before: messages,
            });
        }
        self
    }

    /// The same, with each message due at a random moment of this part (0 to 1) of its slot. Messages stay in
    /// their order, and their number is the same.
    pub fn jittered(self, jitter: f64) -> Self {
        Self { jitter, ..self }
    }

    /// The same with all rates multiplied.
    pub fn scaled(mut self, by: f64) -> Self {
        match &mut self.shape {
            Shape::Constant(rate) => *rate *= by,
            Shape::Legs(legs) => {
                for leg in legs {
                    *leg = leg.scaled(by);
                }
            }
        }
        self
    }

    /// How long it goes on; `None` when it has no end.
    pub fn duration(&self) -> Option<Duration> {
        let Shape::Legs(legs) = &self.shape else {
            return None;
        };
        let end_s = legs.last().map_or(0.0, |leg| leg.start_s + leg.duration_s);
        Some(Duration::from_secs_f64(end_s))
    }

    /// How many messages that are: the integral of the rate; none when it has no end.
    pub fn messages(&self) -> f64 {
        match &self.shape {
            Shape::Constant(_) => 0.0,
            Shape::Legs(legs) => legs
                .last()
                .map_or(0.0, |leg| leg.before + leg.messages(leg.duration_s)),
        }
    }

    /// The highest rate in it, per second.
    pub fn rate_max(&self) -> f64 {
        self.rate_max_or_last(true)
    }

    fn rate_max_or_last(&self, max: bool) -> f64 {
        match &self.shape {
            Shape::Constant(rate) => *rate,
            Shape::Legs(legs) if max => legs
                .iter()
                .map(|leg| leg.from.max(leg.rate(leg.duration_s)))
                .fold(0.0, f64::max),
            Shape::Legs(legs) => legs.last().map_or(0.0, |leg| leg.rate(leg.duration_s)),
        }
    }

    /// A worker's `share` (0 to 1) of it, from `start_ns` on. `phase` (0 to 1) shifts it by a part of a slot, so
    /// that workers do not send in step.
    pub fn schedule(&self, start_ns: u64, share: f64, phase: f64) -> Schedule {
        let shape = match &self.shape {
            Shape::Constant(rate) => Kind::Constant(Pace::new(start_ns, rate * share, phase)),
            Shape::Legs(legs) => Kind::Legs {
                start_ns,
                phase: phase.clamp(0.0, 1.0),
                messages: self.messages() * share,
                legs: legs.iter().map(|leg| leg.scaled(share)).collect(),
            },
        };
        Schedule {
            kind: shape,
            jitter: self.jitter,
        }
    }
}

impl Leg {
    fn scaled(&self, by: f64) -> Self {
        Self {
            from: self.from * by,
            slope: self.slope * by,
            before: self.before * by,
            ..*self
        }
    }

    fn rate(&self, at_s: f64) -> f64 {
        self.slope.mul_add(at_s, self.from)
    }

    /// Messages that are due in its first `at_s` seconds.
    fn messages(&self, at_s: f64) -> f64 {
        (self.from + self.slope * at_s / 2.0) * at_s
    }

    /// When `messages` of its messages are due, in seconds from its beginning.
    fn at_s(&self, messages: f64) -> f64 {
        let at_s = if self.slope == 0.0 {
            // A pause begins with its first message, which is none of its own.
            if self.from == 0.0 {
                0.0
            } else {
                messages / self.from
            }
        } else {
            // Each step of this rises (or falls) with the messages, so the result never goes back.
            let square = self.from * self.from + 2.0 * self.slope * messages;
            (square.max(0.0).sqrt() - self.from) / self.slope
        };
        at_s.clamp(0.0, self.duration_s)
    }
}

/// One worker's part of a [`Profile`].
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: Kind,
    jitter: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Constant(Pace),
    Legs {
        start_ns: u64,
        phase: f64,
        messages: f64,
        legs: Box<[Leg]>,
    },
}

impl Schedule {
    /// When message `index` (from 0) is due; the end of time when there is no such message.
    pub fn at_ns(&self, index: u64) -> u64 {
        match &self.kind {
            Kind::Constant(pace) if self.jitter == 0.0 => pace.at_ns(index),
            Kind::Constant(pace) => {
                let slot_ns = pace.at_ns(index + 1) - pace.at_ns(index);
                let shift_ns = (self.shift(index) * slot_ns as f64) as u64;
                pace.at_ns(index).saturating_add(shift_ns)
            }
            Kind::Legs {
                start_ns,
                phase,
                messages,
                legs,
            } => {
                if index as f64 + phase >= *messages {
                    return u64::MAX;
                }
                let place = (index as f64 + phase + self.shift(index)).min(*messages);
                let after = legs.partition_point(|leg| leg.before <= place);
                let leg = &legs[after.saturating_sub(1)];
                let at_s = leg.start_s + leg.at_s(place - leg.before);
                start_ns + (at_s * 1e9) as u64
            }
        }
    }

    /// How many messages are due at `now_ns`.
    pub fn due(&self, now_ns: u64) -> u64 {
        match &self.kind {
            Kind::Constant(pace) => {
                let due = pace.due(now_ns);
                let late = self.jitter > 0.0 && due > 0 && self.at_ns(due - 1) > now_ns;
                due - u64::from(late)
            }
            Kind::Legs { start_ns, legs, .. } => {
                let Some(elapsed_ns) = now_ns.checked_sub(*start_ns) else {
                    return 0;
                };
                let now_s = elapsed_ns as f64 / 1e9;
                let begun = legs.partition_point(|leg| leg.start_s <= now_s);
                let Some(leg) = legs[..begun].last() else {
                    return 0;
                };
                let in_leg_s = (now_s - leg.start_s).min(leg.duration_s);
                let mut due = (leg.before + leg.messages(in_leg_s)) as u64;
                // The estimate is off by one at most by rounding, phase and jitter; `at_ns` decides.
                let is_due = |index| self.at_ns(index) <= now_ns.min(u64::MAX - 1);
                while is_due(due) {
                    due += 1;
                }
                while due > 0 && !is_due(due - 1) {
                    due -= 1;
                }
                due
            }
        }
    }

    /// By which part of a slot message `index` is moved.
    fn shift(&self, index: u64) -> f64 {
        if self.jitter == 0.0 {
            return 0.0;
        }
        // SplitMix64: the same run has the same jitter.
        let mut word = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^= word >> 31;
        (word >> 11) as f64 / (1_u64 << 53) as f64 * self.jitter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn stage(seconds: f64, to: f64) -> Stage {
        Stage {
            duration: Duration::from_secs_f64(seconds),
            to,
        }
    }

    #[test]
    fn a_ramp_is_dense_where_the_rate_is_high() {
        let profile = Profile::stages(0.0, &[stage(10.0, 1_000.0)]);
        assert_eq!(profile.messages(), 5_000.0);
        let schedule = profile.schedule(SECOND, 1.0, 0.0);
        assert_eq!(schedule.at_ns(0), SECOND);
        // Half of the time is a quarter of the messages.
        assert_eq!(schedule.due(6 * SECOND), 1_251);
        assert_eq!(schedule.due(u64::MAX), 5_000);
        assert_eq!(schedule.at_ns(5_000), u64::MAX);
        assert_eq!(schedule.due(SECOND - 1), 0);
    }

    #[test]
    fn a_pause_between_stages_has_no_messages() {
        let stages = [
            stage(0.0, 100.0),
            stage(1.0, 100.0),
            stage(0.0, 0.0),
            stage(5.0, 0.0),
            stage(0.0, 100.0),
            stage(1.0, 100.0),
        ];
        let schedule = Profile::stages(0.0, &stages).schedule(0, 1.0, 0.0);
        assert_eq!(schedule.due(SECOND - 1), 100);
        assert_eq!(schedule.due(6 * SECOND - 1), 100);
        assert_eq!(schedule.at_ns(100), 6 * SECOND);
        assert_eq!(schedule.due(7 * SECOND), 200);
    }

    #[test]
    fn what_is_held_goes_on_with_the_last_rate() {
        let profile = Profile::stages(0.0, &[stage(2.0, 50.0)]).held(Duration::from_secs(3));
        assert_eq!(profile.messages(), 200.0);
        assert_eq!(profile.duration(), Some(Duration::from_secs(5)));
        assert_eq!(profile.rate_max(), 50.0);
    }

    fn profiles() -> impl Strategy<Value = Profile> {
        let stage = (0.0..5.0_f64, prop_oneof![Just(0.0), 0.0..20_000.0_f64]);
        let stages = (
            prop::collection::vec(stage, 1..6),
            0.0..1_000.0_f64,
            prop_oneof![Just(0.0), 0.0..=1.0_f64],
        );
        stages.prop_map(|(stages, from, jitter)| {
            let stages: Vec<_> = stages
                .into_iter()
                .map(|(seconds, to)| Stage {
                    duration: Duration::from_secs_f64(seconds),
                    to,
                })
                .collect();
            Profile::stages(from, &stages).jittered(jitter)
        })
    }

    proptest! {
        #[test]
        fn there_are_as_many_messages_as_the_integral_of_the_rate(
            profile in profiles(),
            share in 0.1..=1.0_f64,
            phase in 0.0..1.0_f64,
        ) {
            let schedule = profile.schedule(7, share, phase);
            let due = schedule.due(u64::MAX);
            prop_assert!((due as f64 - profile.messages() * share).abs() <= 1.0 + 1e-6, "{due}");
        }

        #[test]
        fn due_times_never_go_back_and_agree_with_what_is_due(
            profile in profiles(),
            phase in 0.0..1.0_f64,
            first in 0.0..1.0_f64,
        ) {
            let schedule = profile.schedule(1_000, 1.0, phase);
            let count = schedule.due(u64::MAX);
            let from = (count as f64 * first) as u64;
            let mut before = 0;
            for index in from..count.min(from + 200) {
                let at_ns = schedule.at_ns(index);
                prop_assert!(at_ns >= before && at_ns < u64::MAX);
                before = at_ns;
                prop_assert!(schedule.due(at_ns) > index);
                prop_assert!(at_ns == 0 || schedule.due(at_ns - 1) <= index);
            }
        }

        #[test]
        fn a_constant_rate_keeps_its_number_and_order_with_jitter(
            rate in 1.0..1e6_f64,
            jitter in 0.0..=1.0_f64,
            now in 0..10 * SECOND,
        ) {
            let schedule = Profile::constant(rate).jittered(jitter).schedule(0, 1.0, 0.0);
            let due = schedule.due(now);
            prop_assert!(due.abs_diff((now as f64 / 1e9 * rate) as u64) <= 1);
            prop_assert!(due == 0 || schedule.at_ns(due - 1) <= now);
            prop_assert!(schedule.at_ns(due) > now);
            prop_assert!(schedule.at_ns(due + 1) >= schedule.at_ns(due));
        }
    }
}

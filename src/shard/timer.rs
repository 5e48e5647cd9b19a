//! A hierarchical timing wheel over the caller's time.
//!
//! Entries are small and cannot be cancelled: whoever set one checks, when it fires, whether it still means
//! something and sets it anew if it fired too early. So a packet that arrives costs one store of its time, not
//! a timer operation. Level 0 has 256 slots of one tick; each of the three levels above has 64 slots of
//! everything below it; what lies beyond the top waits in its last slot and is sorted again from there.

use std::mem;

/// Milliseconds per tick: how late a timer may fire.
pub(super) const TICK_MS: u64 = 8;

const SLOTS_0: u64 = 256;
const WORDS: usize = (SLOTS_0 / 64) as usize;
const SLOTS_N: u64 = 64;
const LEVELS_ABOVE: usize = 3;
/// Ticks per slot of each level above level 0.
const SPAN: [u64; LEVELS_ABOVE] = [SLOTS_0, SLOTS_0 * SLOTS_N, SLOTS_0 * SLOTS_N * SLOTS_N];

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum TimerKind {
    /// A connection: time to CONNECT, Keep Alive. `index` and `generation` are its key's.
    Connection,
    /// A session without a connection: Will Delay, Session Expiry. `index` is its key.
    Session,
    /// Upkeep of the retained index.
    Retained,
    /// A connection that published too fast may be read again. `index` and `generation` are its key's.
    Rate,
    /// Memory is exhausted, and there may be more to give up.
    Memory,
    /// Messages that wait for room in a queue.
    Hold,
    /// Messages that wait for their receivers' acknowledgements.
    Linger,
}

/// A timer. The tick at which it was due tells its owner whether it is the latest one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    pub(super) tick: u32,
    pub(super) index: u32,
    pub(super) generation: u32,
    pub(super) kind: TimerKind,
}

// A million sessions have a million of these.
const _: () = assert!(size_of::<Timer>() <= 16);

/// The farthest a timer may be set: ticks are kept modulo 2^32. It is 198 days; what is due later fires then, and its
/// owner sets it anew.
const REACH: u64 = i32::MAX as u64;

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    /// The tick that fires next.
    current: u64,
    level_0: Vec<Vec<Timer>>,
    /// A bit per slot of level 0 that has a timer: the next one is asked for every turn.
    occupied: [u64; WORDS],
    above: Vec<Vec<Vec<Timer>>>,
    len: usize,
}

impl Wheel {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            current: now_ms / TICK_MS,
            level_0: vec![Vec::new(); SLOTS_0 as usize],
            occupied: [0; WORDS],
            above: vec![vec![Vec::new(); SLOTS_N as usize]; LEVELS_ABOVE],
            len: 0,
        }
    }

    /// The tick, modulo 2^32, at which something due at `deadline_ms` fires: never early within `REACH`.
    pub(super) fn tick_for(&self, deadline_ms: u64) -> u32 {
        let tick = deadline_ms
            .div_ceil(TICK_MS)
            .clamp(self.current, self.current + REACH);
        tick as u32
    }

    /// Whether `a` fires before `b`.
    pub(super) fn is_sooner(a: u32, b: u32) -> bool {
        (a.wrapping_sub(b) as i32) < 0
    }

    /// Sets a timer for its tick.
    pub(super) fn insert(&mut self, timer: Timer) {
        self.len += 1;
        self.place(timer);
    }

    /// A time at or before which nothing fires; `None` when no timer is set. Calling `advance` then may only
    /// sort timers from a higher level down.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        Some(self.next_occupied() * TICK_MS)
    }

    /// The first tick from `current` on at which level 0 has a timer, or the next boundary, at which
    /// higher levels are sorted down.
    fn next_occupied(&self) -> u64 {
        let from = self.current % SLOTS_0;
        let mut not_before = u64::MAX << (from % 64);
        for word in (from / 64) as usize..WORDS {
            let bits = self.occupied[word] & not_before;
            if bits != 0 {
                let slot = word as u64 * 64 + u64::from(bits.trailing_zeros());
                return self.current - from + slot;
            }
            not_before = u64::MAX;
        }
        self.current - from + SLOTS_0
    }

    /// Moves everything due at `now_ms` to `fired`, in order of ticks.
    pub(super) fn advance(&mut self, now_ms: u64, fired: &mut impl Extend<Timer>) {
        let now = now_ms / TICK_MS;
        if self.len == 0 {
            self.current = self.current.max(now + 1);
            return;
        }
        while self.current <= now {
            let slot = (self.current % SLOTS_0) as usize;
            let due = mem::take(&mut self.level_0[slot]);
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            self.len -= due.len();
            fired.extend(due);
            self.current += 1;
            if !self.current.is_multiple_of(SLOTS_0) {
                self.current = self.next_occupied().min(now + 1);
            }
            if self.current.is_multiple_of(SLOTS_0) {
                self.cascade();
            }
        }
    }

    /// `current` reached a boundary: the slots of higher levels that begin here are sorted down.
    fn cascade(&mut self) {
        for level in (0..LEVELS_ABOVE).rev() {
            if self.current.is_multiple_of(SPAN[level]) {
                let slot = (self.current / SPAN[level] % SLOTS_N) as usize;
                for timer in mem::take(&mut self.above[level][slot]) {
                    self.place(timer);
                }
            }
        }
    }

    fn place(&mut self, timer: Timer) {
        let ahead = timer.tick.wrapping_sub(self.current as u32) as i32;
        let tick = self.current + u64::from(ahead.max(0) as u32);
        if tick - self.current < SLOTS_0 - self.current % SLOTS_0 {
            let slot = (tick % SLOTS_0) as usize;
            self.level_0[slot].push(timer);
            self.occupied[slot / 64] |= 1 << (slot % 64);
            return;
        }
        for (slots, span) in self.above.iter_mut().zip(SPAN) {
            // A level holds what falls into its next 63 slots; the present slot was sorted down already.
            let slots_ahead = tick / span - self.current / span;
            if slots_ahead < SLOTS_N {
                debug_assert!(slots_ahead > 0);
                slots[(tick / span % SLOTS_N) as usize].push(timer);
                return;
            }
        }
        let top = LEVELS_ABOVE - 1;
        let last = self.current / SPAN[top] + SLOTS_N - 1;
        self.above[top][(last % SLOTS_N) as usize].push(timer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn timer(tick: u32, index: u32) -> Timer {
        Timer {
            tick,
            index,
            generation: 0,
            kind: TimerKind::Session,
        }
    }

    /// The tick nearest to `now_ms` that is `tick` modulo 2^32.
    fn widen(tick: u32, now_ms: u64) -> u64 {
        let now = now_ms / TICK_MS;
        now.wrapping_add_signed(i64::from(tick.wrapping_sub(now as u32) as i32))
    }

    /// Every timer fires in the first `advance` at or after its deadline, and none before.
    #[test]
    fn fires_like_a_sorted_map() {
        let mut seed = 0x9e37_79b9_u64;
        let mut random = move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for round in 0..40 {
            // Beyond 2^32 ticks too: a process may run for years.
            let mut now_ms = random(1 << 37);
            let mut wheel = Wheel::new(now_ms);
            let mut model: BTreeMap<(u64, u32), ()> = BTreeMap::new();
            let reach = [100, 10_000, 1_000_000, 100_000_000, 16_000_000_000][round % 5];
            for index in 0..400 {
                if random(3) > 0 {
                    let tick = wheel.tick_for(now_ms + random(reach));
                    wheel.insert(timer(tick, index));
                    model.insert((widen(tick, now_ms), index), ());
                }
                now_ms += match random(4) {
                    0 => random(reach.min(4_000_000) / 4),
                    1 => 0,
                    _ => random(64),
                };
                let mut fired = Vec::new();
                wheel.advance(now_ms, &mut fired);
                let mut fired: Vec<_> = fired
                    .iter()
                    .map(|t| (widen(t.tick, now_ms), t.index))
                    .collect();
                fired.sort_unstable();
                let due: Vec<_> = model
                    .keys()
                    .copied()
                    .take_while(|(tick, _)| tick * TICK_MS <= now_ms / TICK_MS * TICK_MS)
                    .collect();
                assert_eq!(fired, due);
                for key in due {
                    model.remove(&key);
                }
                match wheel.next_deadline_ms() {
                    None => assert!(model.is_empty()),
                    Some(deadline) => {
                        let (first, _) = model.keys().next().expect("a deadline has a timer");
                        assert!(deadline <= first * TICK_MS);
                    }
                }
            }
        }
    }

    #[test]
    fn a_timer_beyond_the_top_level_waits() {
        let mut wheel = Wheel::new(0);
        let far_ms = 150 * 24 * 3600 * 1000;
        let tick = wheel.tick_for(far_ms);
        wheel.insert(timer(tick, 1));
        let mut fired = Vec::new();
        // Day by day: a wheel is made for a clock that runs, not for one that jumps.
        for day in 1..150 {
            wheel.advance(day * 24 * 3600 * 1000, &mut fired);
        }
        wheel.advance(far_ms - TICK_MS, &mut fired);
        assert!(fired.is_empty());
        wheel.advance(far_ms, &mut fired);
        assert_eq!(fired.len(), 1);
    }
}

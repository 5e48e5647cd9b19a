//! A hierarchical timing wheel over the caller's time.
//!
//! Whoever set a timer and still has work checks, when it fires, whether it is time, and sets it anew if it fired too early: so a packet
//! that arrives costs one store of its time, not a timer operation. Whoever ends cancels its timer: a client that comes and goes must leave
//! nothing behind, however long its session was to last. Level 0 has 256 slots of one tick; each of the three levels above has 64 slots of
//! everything below it; what lies beyond the top waits in its last slot and is sorted again from there.
//!
//! All timers stand in one vector. A slot is a list through it, both ways and closed by an entry of the slot's own, so that a timer leaves
//! its list without knowing which it is.

use std::num::NonZeroU32;

/// Milliseconds per tick: how late a timer may fire.
pub(super) const TICK_MS: u64 = 8;

const SLOTS_0: u64 = 256;
const WORDS: usize = (SLOTS_0 / 64) as usize;
const SLOTS_N: u64 = 64;
const LEVELS_ABOVE: usize = 3;
/// Ticks per slot of each level above level 0.
const SPAN: [u64; LEVELS_ABOVE] = [SLOTS_0, SLOTS_0 * SLOTS_N, SLOTS_0 * SLOTS_N * SLOTS_N];
/// The list of the timers that are due. Those before it are the slots', level by level.
const DUE: u32 = (SLOTS_0 + LEVELS_ABOVE as u64 * SLOTS_N) as u32;
/// The entries that close lists.
const LISTS: usize = DUE as usize + 1;
/// Capacity for entries that is kept when there are none.
const CAPACITY_KEPT: usize = 4_096;

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
    /// A connection that published too fast may be read again. `index` and `generation` are its key's, which may be gone.
    Rate,
    /// Memory is exhausted, and there may be more to give up.
    Memory,
    /// Messages that wait for room in a queue.
    Hold,
    /// Messages that wait for their receivers' acknowledgements.
    Linger,
}

/// A timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    pub(super) tick: u32,
    pub(super) index: u32,
    pub(super) generation: u32,
    pub(super) kind: TimerKind,
}

/// A timer that is set, until it fires or is cancelled.
pub(super) type TimerId = NonZeroU32;

/// A timer in its list, or what closes a list. One that is free is in the list of these, by `next` alone.
#[derive(Debug)]
struct Entry {
    timer: Timer,
    next: u32,
    previous: u32,
}

// A million sessions have a million of these.
const _: () = assert!(size_of::<Entry>() <= 24);

/// The farthest a timer may be set: ticks are kept modulo 2^32. It is 198 days; what is due later fires then, and its
/// owner sets it anew.
const REACH: u64 = i32::MAX as u64;

/// The wheel.
#[derive(Debug)]
pub(super) struct Wheel {
    /// The tick that becomes due next.
    current: u64,
    entries: Vec<Entry>,
    /// The first entry that is free, or 0.
    free: u32,
    /// A bit per slot of level 0 that has a timer: the next one is asked for every turn.
    occupied: [u64; WORDS],
    /// Timers that are set.
    len: usize,
}

impl Wheel {
    pub(super) fn new(now_ms: u64) -> Self {
        let closing = |list| Entry {
            timer: Timer {
                tick: 0,
                index: 0,
                generation: 0,
                kind: TimerKind::Connection,
            },
            next: list,
            previous: list,
        };
        Self {
            current: now_ms / TICK_MS,
            entries: (0..LISTS as u32).map(closing).collect(),
            free: 0,
            occupied: [0; WORDS],
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

    /// Sets a timer for its tick.
    pub(super) fn insert(&mut self, timer: Timer) -> TimerId {
        let entry = Entry {
            timer,
            next: 0,
            previous: 0,
        };
        let id = if self.free == 0 {
            self.entries.push(entry);
            self.entries.len() as u32 - 1
        } else {
            let id = self.free;
            self.free = self.entries[id as usize].next;
            self.entries[id as usize] = entry;
            id
        };
        self.len += 1;
        self.place(id);
        TimerId::new(id).expect("the first entries close lists")
    }

    /// Sees to it that its owner, who has `set`, has a timer that fires at this one's tick or before.
    pub(super) fn set(&mut self, set: &mut Option<TimerId>, timer: Timer) {
        if let Some(id) = *set {
            let is_sooner = (timer.tick.wrapping_sub(self.timer(id).tick) as i32) < 0;
            if !is_sooner {
                return;
            }
            self.remove(id.get());
        }
        *set = Some(self.insert(timer));
    }

    /// The owner of a timer ends, or needs none any more.
    pub(super) fn cancel(&mut self, set: &mut Option<TimerId>) {
        if let Some(id) = set.take() {
            self.remove(id.get());
        }
    }

    /// The timer, which is set.
    pub(super) fn timer(&self, id: TimerId) -> Timer {
        self.entries[id.get() as usize].timer
    }

    /// Whether `pop` has a timer.
    pub(super) fn is_due(&self) -> bool {
        self.entries[DUE as usize].next != DUE
    }

    /// A timer that is due, in order of ticks. Its owner has none any more.
    pub(super) fn pop(&mut self) -> Option<Timer> {
        let first = self.entries[DUE as usize].next;
        (first != DUE).then(|| self.remove(first))
    }

    /// A time at or before which nothing becomes due; `None` when no timer is set. Calling `advance` then may only
    /// sort timers from a higher level down.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        Some(self.next_occupied() * TICK_MS)
    }

    /// Timers that are set, by kind.
    pub(super) fn count(&self, kind: TimerKind) -> usize {
        let lists = (0..=DUE).map(|list| {
            let next = |at: &u32| Some(self.entries[*at as usize].next);
            let timers = std::iter::successors(next(&list), next);
            let timers = timers.take_while(|at| *at != list);
            timers
                .filter(|at| self.entries[*at as usize].timer.kind == kind)
                .count()
        });
        lists.sum()
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

    /// Makes everything due that is at `now_ms`, in order of ticks.
    pub(super) fn advance(&mut self, now_ms: u64) {
        let now = now_ms / TICK_MS;
        if self.len == 0 {
            self.current = self.current.max(now + 1);
            return;
        }
        while self.current <= now {
            let slot = (self.current % SLOTS_0) as usize;
            self.occupied[slot / 64] &= !(1 << (slot % 64));
            self.append_list(slot as u32, DUE);
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
                let list = list_above(level, self.current / SPAN[level]);
                let mut at = self.entries[list as usize].next;
                self.close_empty(list);
                // What is sorted down never comes back into the same slot.
                while at != list {
                    let next = self.entries[at as usize].next;
                    self.place(at);
                    at = next;
                }
            }
        }
    }

    /// Appends a timer, which is in no list, to that of its tick.
    fn place(&mut self, id: u32) {
        let ahead = self.entries[id as usize]
            .timer
            .tick
            .wrapping_sub(self.current as u32) as i32;
        let tick = self.current + u64::from(ahead.max(0) as u32);
        if tick - self.current < SLOTS_0 - self.current % SLOTS_0 {
            let slot = (tick % SLOTS_0) as usize;
            self.occupied[slot / 64] |= 1 << (slot % 64);
            return self.append(id, slot as u32);
        }
        for (level, span) in SPAN.into_iter().enumerate() {
            // A level holds what falls into its next 63 slots; the present slot was sorted down already.
            let slots_ahead = tick / span - self.current / span;
            if slots_ahead < SLOTS_N {
                debug_assert!(slots_ahead > 0);
                return self.append(id, list_above(level, tick / span));
            }
        }
        let top = LEVELS_ABOVE - 1;
        let last = self.current / SPAN[top] + SLOTS_N - 1;
        self.append(id, list_above(top, last));
    }

    fn append(&mut self, id: u32, list: u32) {
        let last = std::mem::replace(&mut self.entries[list as usize].previous, id);
        self.entries[last as usize].next = id;
        let entry = &mut self.entries[id as usize];
        (entry.previous, entry.next) = (last, list);
    }

    /// Appends what is in one list to another.
    fn append_list(&mut self, from: u32, to: u32) {
        let Entry { next, previous, .. } = self.entries[from as usize];
        if next == from {
            return;
        }
        self.close_empty(from);
        let last = std::mem::replace(&mut self.entries[to as usize].previous, previous);
        self.entries[last as usize].next = next;
        self.entries[next as usize].previous = last;
        self.entries[previous as usize].next = to;
    }

    fn close_empty(&mut self, list: u32) {
        let closing = &mut self.entries[list as usize];
        (closing.next, closing.previous) = (list, list);
    }

    /// Takes a timer out of its list, and frees its place.
    fn remove(&mut self, id: u32) -> Timer {
        let Entry {
            timer,
            next,
            previous,
        } = self.entries[id as usize];
        self.entries[previous as usize].next = next;
        self.entries[next as usize].previous = previous;
        if next == previous && u64::from(next) < SLOTS_0 {
            // It was the only one of its slot.
            self.occupied[next as usize / 64] &= !(1 << (next % 64));
        }
        self.entries[id as usize].next = std::mem::replace(&mut self.free, id);
        self.len -= 1;
        if self.len == 0 && self.entries.capacity() > CAPACITY_KEPT {
            self.entries.truncate(LISTS);
            self.entries.shrink_to(CAPACITY_KEPT);
            self.free = 0;
        }
        timer
    }
}

/// The list of a slot above level 0, `slot` modulo the slots of a level.
fn list_above(level: usize, slot: u64) -> u32 {
    (SLOTS_0 + level as u64 * SLOTS_N + slot % SLOTS_N) as u32
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

    fn fired(wheel: &mut Wheel) -> Vec<Timer> {
        std::iter::from_fn(|| wheel.pop()).collect()
    }

    /// Every timer fires in the first `advance` at or after its deadline and none before, unless it was cancelled.
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
            let mut model: BTreeMap<(u64, u32), TimerId> = BTreeMap::new();
            let reach = [100, 10_000, 1_000_000, 100_000_000, 16_000_000_000][round % 5];
            for index in 0..400 {
                if random(3) > 0 {
                    let tick = wheel.tick_for(now_ms + random(reach));
                    let id = wheel.insert(timer(tick, index));
                    model.insert((widen(tick, now_ms), index), id);
                }
                let cancelled = random(3 * model.len() as u64 + 1) as usize;
                if let Some(key) = model.keys().nth(cancelled).copied() {
                    let mut id = model.remove(&key);
                    wheel.cancel(&mut id);
                    assert_eq!(id, None);
                }
                now_ms += match random(4) {
                    0 => random(reach.min(4_000_000) / 4),
                    1 => 0,
                    _ => random(64),
                };
                wheel.advance(now_ms);
                let is_due = wheel.is_due();
                let mut fired: Vec<_> = fired(&mut wheel)
                    .iter()
                    .map(|t| (widen(t.tick, now_ms), t.index))
                    .collect();
                assert_eq!(is_due, !fired.is_empty());
                assert!(fired.is_sorted_by_key(|(tick, _)| *tick));
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
                assert_eq!(wheel.count(TimerKind::Session), model.len());
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
        // Day by day: a wheel is made for a clock that runs, not for one that jumps.
        for day in 1..150 {
            wheel.advance(day * 24 * 3600 * 1000);
        }
        wheel.advance(far_ms - TICK_MS);
        assert!(!wheel.is_due());
        wheel.advance(far_ms);
        assert_eq!(fired(&mut wheel).len(), 1);
    }

    #[test]
    fn one_that_is_due_can_be_cancelled_until_it_is_taken() {
        let mut wheel = Wheel::new(0);
        let mut ids = [1, 2, 3].map(|index| Some(wheel.insert(timer(5, index))));
        wheel.advance(5 * TICK_MS);
        wheel.cancel(&mut ids[1]);
        let later = wheel.insert(timer(5, 4));
        let taken: Vec<_> = fired(&mut wheel).iter().map(|timer| timer.index).collect();
        assert_eq!(
            taken,
            [1, 3],
            "and what is set meanwhile fires in the next tick"
        );
        assert_eq!(wheel.timer(later).index, 4);
        wheel.advance(6 * TICK_MS);
        assert_eq!(wheel.pop(), Some(timer(5, 4)));
    }

    #[test]
    fn an_owner_has_one_timer_the_soonest_that_it_asked_for() {
        let mut wheel = Wheel::new(0);
        let mut id = None;
        for (tick, fires) in [(1_000, 1_000), (2_000, 1_000), (10, 10), (11, 10)] {
            wheel.set(&mut id, timer(tick, 1));
            assert_eq!(wheel.timer(id.unwrap()).tick, fires);
            assert_eq!(wheel.count(TimerKind::Session), 1);
        }
        assert_eq!(wheel.next_deadline_ms(), Some(10 * TICK_MS));
        wheel.cancel(&mut id);
        assert_eq!((id, wheel.next_deadline_ms()), (None, None));
    }

    #[test]
    fn memory_is_used_again_and_given_back() {
        let mut wheel = Wheel::new(0);
        let mut ids: Vec<_> = (0..10_000)
            .map(|n| Some(wheel.insert(timer(n, n))))
            .collect();
        let entries = wheel.entries.len();
        for (n, id) in ids.iter_mut().enumerate() {
            wheel.cancel(id);
            *id = Some(wheel.insert(timer(n as u32 / 2, n as u32)));
        }
        assert_eq!(wheel.entries.len(), entries);
        ids.iter_mut().for_each(|id| wheel.cancel(id));
        assert!(wheel.entries.capacity() <= CAPACITY_KEPT);
        assert_eq!(wheel.occupied, [0; WORDS]);
        wheel.insert(timer(1, 1));
        wheel.advance(TICK_MS);
        assert_eq!(fired(&mut wheel), [timer(1, 1)]);
    }
}

//! Who does something too often is banned for a while.
//!
//! Those who are counted are known by a keyed 64-bit hash, and only the busiest of each slot of a small table is counted,
//! so that a flood of new ones costs no memory: a newcomer takes one from the count of the slot's holder, and the slot
//! when nothing is left of it. Who does something a hundred times a minute holds its slot.

use crate::config::limits::{Limits, NO_LIMIT};
use hashbrown::HashMap;

const SLOTS: usize = 1_024;
/// Bans at a time; more are not made until some have ended.
const BANS_MAX: usize = 65_536;

/// How often is too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanRule {
    /// Times within the window that are still allowed; [`NO_LIMIT`] allows all.
    pub count_max: u32,
    /// The window.
    pub window_ms: u64,
    /// How long a ban lasts; `u64::MAX` is for ever.
    pub time_ms: u64,
}

impl BanRule {
    /// With the window and the time of the limits.
    pub fn new(count_max: u32, limits: &Limits) -> Self {
        Self {
            count_max,
            window_ms: u64::from(limits.ban_window_s) * 1_000,
            time_ms: match limits.ban_time_s {
                NO_LIMIT => u64::MAX,
                seconds => u64::from(seconds) * 1_000,
            },
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: u64,
    count: u32,
    window_start_ms: u64,
}

/// Who is counted and who is banned.
#[derive(Debug, Default)]
pub struct Bans {
    /// Empty until something is counted.
    slots: Vec<Slot>,
    /// When each ban ends.
    until_ms: HashMap<u64, u64, foldhash::fast::FixedState>,
}

impl Bans {
    /// Whether this one is banned now.
    pub fn is_banned(&self, hash: u64, now_ms: u64) -> bool {
        let until_ms = self.until_ms.get(&hash);
        until_ms.is_some_and(|until_ms| now_ms < *until_ms)
    }

    /// Counts one more time, and returns whether that led to a ban.
    pub fn count(&mut self, hash: u64, rule: BanRule, now_ms: u64) -> bool {
        if rule.count_max == NO_LIMIT {
            return false;
        }
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, Slot::default());
        }
        let slot = &mut self.slots[hash as usize % SLOTS];
        let is_over = now_ms - slot.window_start_ms.min(now_ms) >= rule.window_ms;
        if slot.hash != hash && slot.count > 1 && !is_over {
            slot.count -= 1;
            return false;
        }
        if slot.hash != hash || is_over {
            *slot = Slot {
                hash,
                count: 0,
                window_start_ms: now_ms,
            };
        }
        slot.count += 1;
        if slot.count <= rule.count_max {
            return false;
        }
        slot.count = 0;
        if self.until_ms.len() >= BANS_MAX {
            self.until_ms.retain(|_, until_ms| now_ms < *until_ms);
        }
        if self.until_ms.len() < BANS_MAX {
            let until_ms = now_ms.saturating_add(rule.time_ms);
            self.until_ms.insert(hash, until_ms);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: BanRule = BanRule {
        count_max: 3,
        window_ms: 1_000,
        time_ms: 5_000,
    };

    #[test]
    fn too_often_within_the_window_is_banned_for_the_time() {
        let mut bans = Bans::default();
        for n in 0..3 {
            assert!(!bans.count(7, RULE, 100 + n));
        }
        assert!(!bans.is_banned(7, 200));
        assert!(bans.count(7, RULE, 200));
        assert!(bans.is_banned(7, 200) && bans.is_banned(7, 5_199));
        assert!(!bans.is_banned(7, 5_200) && !bans.is_banned(8, 200));
        // After it, counting begins anew.
        assert!(!bans.count(7, RULE, 5_200));
    }

    #[test]
    fn slowly_is_not_too_often() {
        let mut bans = Bans::default();
        for n in 0..100 {
            assert!(!bans.count(7, RULE, n * 400));
        }
        let never = BanRule {
            count_max: NO_LIMIT,
            ..RULE
        };
        assert!((0..1_000).all(|_| !bans.count(7, never, 0)));
    }

    #[test]
    fn many_who_are_seen_once_do_not_hide_one_who_is_seen_often() {
        let mut bans = Bans::default();
        let rule = BanRule {
            count_max: 100,
            window_ms: 60_000,
            time_ms: 1,
        };
        let mut banned_after = 0;
        for n in 1..=100_000_u64 {
            assert!(!bans.count(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), rule, n / 100));
            if n % 100 == 0 && bans.count(12_345, rule, n / 100) {
                banned_after = n / 100;
                break;
            }
        }
        assert!((100..200).contains(&banned_after), "{banned_after}");
    }
}

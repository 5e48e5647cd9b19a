//! What is given up when memory is short, in this order; docs/limits.md publishes it.
//!
//! The shell measures how much the whole process takes and tells every shard the level. Each level keeps what the
//! levels below it do:
//!
//! | level | from | what is given up |
//! |---|---|---|
//! | tight | 80 % | what only saves time (up to a megabyte of a core); QoS 0 messages of clients that do not keep up, at an eighth of their outgoing buffer; what is retained on new topics, or takes more than what it replaces |
//! | scarce | 90 % | room in queues that are not stored: each new message takes the place of older ones; new sessions and new subscriptions |
//! | exhausted | 100 % | new connections (by the shell); the queues of sessions that are away, unless they are stored; and publishers are not read until it is over |

use super::Shard;
use super::connection::PAUSED_BY_MEMORY;
use super::counters::DropCause;
use super::input::ConnKey;
use super::limited::Limit;
use super::message::Spares;
use super::outbox::Outbox;
use super::timer::{Timer, TimerKind};
use crate::config::limits::QueueFullPolicy;
use crate::session::queue::QueueLimits;
use crate::session::{Session, SessionKey};

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MemoryLevel {
    /// It is not.
    #[default]
    Ample,
    /// From four fifths of `limits.memory-max`.
    Tight,
    /// From nine tenths.
    Scarce,
    /// From the whole.
    Exhausted,
}

impl MemoryLevel {
    /// The level whose number this is; the highest for any other.
    pub fn from_u8(number: u8) -> Self {
        match number {
            0 => Self::Ample,
            1 => Self::Tight,
            2 => Self::Scarce,
            _ => Self::Exhausted,
        }
    }

    /// The level at which `bytes` of `bytes_max` are taken, after `before`: a level is left a little below where it is
    /// entered, so that it does not flap.
    pub fn of(bytes: u64, bytes_max: u64, before: Self) -> Self {
        let percent = bytes / (bytes_max / 100).max(1);
        let from = |level| {
            let entered = match level {
                Self::Ample => 0,
                Self::Tight => 80,
                Self::Scarce => 90,
                Self::Exhausted => 100,
            };
            if before >= level {
                entered - 5
            } else {
                entered
            }
        };
        let levels = [Self::Exhausted, Self::Scarce, Self::Tight];
        let reached = levels.into_iter().find(|level| percent >= from(*level));
        reached.unwrap_or(Self::Ample)
    }
}

/// How often an exhausted shard looks for more to give up, in milliseconds.
const SACRIFICE_MS: u64 = 100;
/// Sessions looked at each time.
const SACRIFICE_VISITS: usize = 10_000;

/// What a shard knows of the memory.
#[derive(Debug, Default)]
pub(super) struct Budget {
    level: MemoryLevel,
    /// Where the search for queues to give up goes on.
    at: usize,
    timer_is_set: bool,
    /// Publishers that are not read.
    paused: Vec<ConnKey>,
}

impl Shard {
    /// The shell says how short memory is.
    pub(super) fn memory(&mut self, level: MemoryLevel, outbox: &mut Outbox) {
        self.budget.level = level;
        if level > MemoryLevel::Ample {
            self.spares = Spares::default();
            outbox.forget_spares();
        }
        if level == MemoryLevel::Exhausted {
            self.sacrifice(outbox);
        } else {
            for conn in std::mem::take(&mut self.budget.paused) {
                self.resume(conn, PAUSED_BY_MEMORY, outbox);
            }
        }
    }

    /// Whether nothing that stays may be added.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.budget.level >= MemoryLevel::Scarce
    }

    /// Whether what is retained may become more.
    pub(super) fn has_memory_to_retain(&self) -> bool {
        self.budget.level == MemoryLevel::Ample
    }

    /// Outbound bytes of one connection above which its QoS 0 messages are dropped.
    pub(super) fn outbound_bytes_max(&self) -> usize {
        let bytes_max = self.limits.outbound_bytes_max as usize;
        match self.budget.level {
            MemoryLevel::Ample => bytes_max,
            _ => bytes_max / 8,
        }
    }

    /// A client publishes: it is not read any more while memory is exhausted.
    pub(super) fn pause_for_memory(&mut self, key: ConnKey, outbox: &mut Outbox) {
        if self.budget.level == MemoryLevel::Exhausted
            && self.open(key).paused & PAUSED_BY_MEMORY == 0
        {
            self.refused_under(Limit::Memory, key, outbox);
            self.pause(key, PAUSED_BY_MEMORY, outbox);
            self.budget.paused.push(key);
        }
    }

    /// Empties the queues of some sessions that are away, and comes back for more while memory is exhausted.
    fn sacrifice(&mut self, outbox: &mut Outbox) {
        let count = self.sessions.capacity();
        for _ in 0..count.min(SACRIFICE_VISITS) {
            self.budget.at = (self.budget.at + 1) % count;
            self.give_up_queue(SessionKey(self.budget.at as u32), outbox);
        }
        if !self.budget.timer_is_set {
            self.budget.timer_is_set = true;
            let tick = self.wheel.tick_for(self.now.mono_ms + SACRIFICE_MS);
            self.wheel.insert(Timer {
                tick,
                index: 0,
                generation: 0,
                kind: TimerKind::Memory,
            });
        }
    }

    /// Drops what waits for a session that is away, unless it is stored: that takes little memory, and was promised.
    fn give_up_queue(&mut self, key: SessionKey, outbox: &mut Outbox) {
        loop {
            let Some(session) = self.sessions.get_mut(key.0 as usize) else {
                return;
            };
            let Some(state) = &mut session.state else {
                return;
            };
            if session.conn.is_some() || session.stored != 0 {
                return;
            }
            let before = state.queue.bytes();
            let Some(gone) = state.queue.drop_front() else {
                return session.trim();
            };
            self.queued_bytes -= (before - state.queue.bytes()) as u64;
            self.let_go(key, gone, DropCause::Memory, outbox);
        }
    }

    /// It is time to look for more.
    pub(super) fn memory_timer(&mut self, outbox: &mut Outbox) {
        self.budget.timer_is_set = false;
        if self.budget.level == MemoryLevel::Exhausted {
            self.sacrifice(outbox);
        }
    }
}

/// Bounds a queue more tightly for want of memory, unless its messages are stored.
pub(super) fn tighten(session: &Session, limits: QueueLimits) -> QueueLimits {
    if session.stored != 0 {
        return limits;
    }
    let queued = session.state.as_ref().map_or(0, |state| state.queue.len());
    QueueLimits {
        messages_max: limits.messages_max.min(queued.max(1)),
        policy: match limits.policy {
            QueueFullPolicy::DropOldest => QueueFullPolicy::DropOldest,
            _ => QueueFullPolicy::DropNewest,
        },
        ..limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_entered_in_order_and_left_a_little_lower() {
        use MemoryLevel::{Ample, Exhausted, Scarce, Tight};
        for (percent, before, level) in [
            (79, Ample, Ample),
            (80, Ample, Tight),
            (90, Ample, Scarce),
            (100, Tight, Exhausted),
            (200, Ample, Exhausted),
            (96, Exhausted, Exhausted),
            (94, Exhausted, Scarce),
            (86, Scarce, Scarce),
            (84, Scarce, Tight),
            (76, Tight, Tight),
            (74, Exhausted, Ample),
        ] {
            assert_eq!(MemoryLevel::of(percent, 100, before), level, "{percent}");
        }
        assert_eq!(MemoryLevel::of(u64::MAX, u64::MAX, Ample), Exhausted);
        assert_eq!(MemoryLevel::of(0, 0, Ample), Ample);
    }
}

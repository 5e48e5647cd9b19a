//! How fast a client may publish.
//!
//! Each connection has two clocks that run ahead of the time by what it has sent: a message moves one of them by the
//! time that it may take at the allowed rate. When one is more than a second ahead, the client has had its second's
//! worth at once, and is not read until the clock is back within it; what it had sent before that is not lost. Nothing is
//! kept while there are no such limits.

use super::Shard;
use super::connection::{End, Handled, PAUSED_BY_RATE};
use super::input::ConnKey;
use super::limited::Limit;
use super::outbox::Outbox;
use super::timer::{Timer, TimerKind};
use crate::config::limits::{NO_LIMIT, PublishRatePolicy};
use crate::protocol::ReasonCode;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// The clocks of one connection, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Clocks {
    generation: u32,
    messages_ns: u64,
    bytes_ns: u64,
}

/// The clocks of all connections, by the index of their key; as long as the last one needs that publishes.
#[derive(Debug, Default)]
pub(super) struct Rates(Vec<Clocks>);

/// Moves a clock by `amount` at `rate` per second, and returns how far beyond a second ahead it is, in nanoseconds.
/// A rate of [`NO_LIMIT`] leaves it alone.
pub fn advance(clock_ns: &mut u64, now_ns: u64, amount: u64, rate: u32) -> u64 {
    if rate == NO_LIMIT {
        return 0;
    }
    let cost_ns = amount.saturating_mul(NS_PER_S) / u64::from(rate);
    *clock_ns = (*clock_ns).max(now_ns).saturating_add(cost_ns);
    (*clock_ns - now_ns).saturating_sub(NS_PER_S)
}

/// How many times [`advance`] can move a clock by 1 before it is more than a second ahead; [`NO_LIMIT`] at that rate.
pub fn room(clock_ns: u64, now_ns: u64, rate: u32) -> u32 {
    if rate == NO_LIMIT {
        return NO_LIMIT;
    }
    let left_ns = (now_ns + NS_PER_S).saturating_sub(clock_ns.max(now_ns));
    let cost_ns = (NS_PER_S / u64::from(rate)).max(1);
    u32::try_from(left_ns / cost_ns).expect("a second has fewer nanoseconds")
}

impl Shard {
    /// Charges a PUBLISH of `bytes` bytes to its client.
    ///
    /// Errors: 0x96 or 0x97 when clients that are too fast are to be disconnected.
    pub(super) fn charge(&mut self, key: ConnKey, bytes: usize, outbox: &mut Outbox) -> Handled {
        let (rate, bytes_rate) = (
            self.limits.publish_rate_max,
            self.limits.publish_bytes_rate_max,
        );
        if rate == NO_LIMIT && bytes_rate == NO_LIMIT {
            return Ok(());
        }
        let at = key.index as usize;
        if at >= self.rates.0.len() {
            self.rates.0.resize(at + 1, Clocks::default());
        }
        let clocks = &mut self.rates.0[at];
        if clocks.generation != key.generation {
            *clocks = Clocks {
                generation: key.generation,
                ..Clocks::default()
            };
        }
        let now_ns = self.now.mono_ms * NS_PER_MS;
        let over_ns = advance(&mut clocks.messages_ns, now_ns, 1, rate);
        let bytes_over_ns = advance(&mut clocks.bytes_ns, now_ns, bytes as u64, bytes_rate);
        let (limit, over_ns) = if over_ns >= bytes_over_ns {
            (Limit::PublishRate, over_ns)
        } else {
            (Limit::PublishBytesRate, bytes_over_ns)
        };
        if over_ns == 0 {
            return Ok(());
        }
        // What was received before it was paused is still fed, and is one refusal.
        if self.open(key).paused & PAUSED_BY_RATE != 0 {
            return Ok(());
        }
        self.refused_under(limit, key, outbox);
        if self.limits.publish_rate_full == PublishRatePolicy::Disconnect {
            return Err(match limit {
                Limit::PublishRate => End::new(
                    ReasonCode::MessageRateTooHigh,
                    "limits.publish-rate-max: more messages per second than a client may publish",
                ),
                _ => End::new(
                    ReasonCode::QuotaExceeded,
                    "limits.publish-bytes-rate-max: more bytes per second than a client may publish",
                ),
            });
        }
        self.pause(key, PAUSED_BY_RATE, outbox);
        self.set_rate_timer(key, over_ns);
        Ok(())
    }

    fn set_rate_timer(&mut self, key: ConnKey, over_ns: u64) {
        let resume_at_ms = self.now.mono_ms + over_ns.div_ceil(NS_PER_MS);
        let tick = self.wheel.tick_for(resume_at_ms);
        self.wheel.insert(Timer {
            tick,
            index: key.index,
            generation: key.generation,
            kind: TimerKind::Rate,
        });
    }

    /// A client may be back within its rate.
    pub(super) fn rate_timer(&mut self, timer: Timer, outbox: &mut Outbox) {
        let key = ConnKey {
            index: timer.index,
            generation: timer.generation,
        };
        let Some(clocks) = self.rates.0.get(key.index as usize) else {
            return;
        };
        let ahead_ns = clocks.messages_ns.max(clocks.bytes_ns);
        let over_ns = ahead_ns.saturating_sub(self.now.mono_ms * NS_PER_MS + NS_PER_S);
        if clocks.generation != key.generation || self.conn(key).is_none() {
            return;
        }
        if over_ns > 0 {
            self.set_rate_timer(key, over_ns);
        } else {
            self.resume(key, PAUSED_BY_RATE, outbox);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_is_allowed_at_once_and_then_the_rate() {
        let mut clock_ns = 0;
        let start_ns = 1_000 * NS_PER_S;
        let over = |clock_ns: &mut u64, now_ns| advance(clock_ns, now_ns, 1, 10);
        for used in 0..10 {
            assert_eq!(room(clock_ns, start_ns, 10), 10 - used);
            assert_eq!(over(&mut clock_ns, start_ns), 0);
        }
        assert_eq!(room(clock_ns, start_ns, 10), 0);
        assert_eq!(over(&mut clock_ns, start_ns), NS_PER_S / 10);
        assert_eq!(room(clock_ns, start_ns, 10), 0);
        assert_eq!(room(clock_ns, start_ns, NO_LIMIT), NO_LIMIT);
        // A second later one more is allowed beyond the debt of one.
        assert_eq!(over(&mut clock_ns, start_ns + NS_PER_S / 5), 0);
        assert_eq!(over(&mut clock_ns, start_ns + NS_PER_S / 5), NS_PER_S / 10);
        let mut unlimited = 0;
        assert_eq!(advance(&mut unlimited, start_ns, u64::MAX, NO_LIMIT), 0);
    }

    #[test]
    fn one_large_message_is_allowed_and_paid_for_later() {
        let mut clock_ns = 0;
        let over_ns = advance(&mut clock_ns, 5 * NS_PER_S, 10_000, 1_000);
        assert_eq!(over_ns, 9 * NS_PER_S);
        assert_eq!(advance(&mut clock_ns, 15 * NS_PER_S, 1_000, 1_000), 0);
    }
}

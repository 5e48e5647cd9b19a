//! What is refused because of a limit: under which, how often, and what the operator is told.
//!
//! Every refusal is counted. A line of the log names the limit and the client of the first refusal, and then of one
//! per second at most, with the number of those that were not told.

use super::Shard;
use super::ban::BanRule;
use super::connection::{End, Stage};
use super::input::ConnKey;
use super::outbox::{Event, Outbox};
use crate::protocol::ReasonCode;
use crate::protocol::connect::Connect;
use crate::topic::filter::TopicFilter;

/// The least time between two log records about one limit, in milliseconds.
const TELL_MS: u64 = 1_000;

/// A limit under which a shard or its shell refuses something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limit {
    /// Connections in all.
    Connections,
    /// Connections of one listener.
    ListenerConnections,
    /// Connections from one address.
    AddressConnections,
    /// Connections per second from one address.
    AddressConnectRate,
    /// The address failed to authenticate too often.
    AddressBan,
    /// The Client Identifier connected too often.
    ClientBan,
    /// Sessions in all.
    Sessions,
    /// Subscriptions of one session.
    Subscriptions,
    /// Levels of a Topic Name or Topic Filter.
    TopicLevels,
    /// Bytes of a Topic Name or Topic Filter.
    TopicBytes,
    /// Levels before the first wildcard.
    WildcardLevels,
    /// Messages per second from one client.
    PublishRate,
    /// Bytes per second from one client.
    PublishBytesRate,
    /// Retained messages, or their bytes.
    Retained,
    /// Memory in all.
    Memory,
}

impl Limit {
    /// All limits, in the order of their counters.
    pub const ALL: [Self; 15] = [
        Self::Connections,
        Self::ListenerConnections,
        Self::AddressConnections,
        Self::AddressConnectRate,
        Self::AddressBan,
        Self::ClientBan,
        Self::Sessions,
        Self::Subscriptions,
        Self::TopicLevels,
        Self::TopicBytes,
        Self::WildcardLevels,
        Self::PublishRate,
        Self::PublishBytesRate,
        Self::Retained,
        Self::Memory,
    ];

    /// Its key in the configuration; also what the log and a metric's label call it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Connections => "limits.connections-max",
            Self::ListenerConnections => "listener.connections-max",
            Self::AddressConnections => "limits.connections-per-address-max",
            Self::AddressConnectRate => "limits.connect-rate-per-address-max",
            Self::AddressBan => "limits.ban-auth-failures-max",
            Self::ClientBan => "limits.ban-takeovers-max",
            Self::Sessions => "limits.sessions-max",
            Self::Subscriptions => "limits.subscriptions-per-session-max",
            Self::TopicLevels => "limits.topic-levels-max",
            Self::TopicBytes => "limits.topic-bytes-max",
            Self::WildcardLevels => "limits.wildcard-levels-min",
            Self::PublishRate => "limits.publish-rate-max",
            Self::PublishBytesRate => "limits.publish-bytes-rate-max",
            Self::Retained => "limits.retained-messages-max, retained-bytes-max",
            Self::Memory => "limits.memory-max",
        }
    }
}

/// How much was refused under each limit, and what the log was told of it.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    counts: [u64; Limit::ALL.len()],
    told: [u64; Limit::ALL.len()],
    tell_at_ms: [u64; Limit::ALL.len()],
}

impl Refusals {
    /// Counts one refusal. When it is time to tell of it: how many were not told before it.
    pub fn count(&mut self, limit: Limit, now_ms: u64) -> Option<u64> {
        let at = limit as usize;
        self.counts[at] += 1;
        if now_ms < self.tell_at_ms[at] {
            return None;
        }
        self.tell_at_ms[at] = now_ms + TELL_MS;
        let told = std::mem::replace(&mut self.told[at], self.counts[at]);
        Some(self.counts[at] - told - 1)
    }

    /// Refusals since the start, in the order of [`Limit::ALL`].
    pub fn counts(&self) -> &[u64; Limit::ALL.len()] {
        &self.counts
    }
}

impl Shard {
    /// Counts what was refused to a connection, and tells of it when it is time.
    pub(super) fn refused_under(&mut self, limit: Limit, key: ConnKey, outbox: &mut Outbox) {
        let client_id = self
            .conn(key)
            .filter(|conn| conn.stage == Stage::Open)
            .map(|conn| conn.session);
        let Some(more) = self.counters.refusals.count(limit, self.now.mono_ms) else {
            return;
        };
        let client_id =
            client_id.map(|session| self.sessions[session.0 as usize].client_id.clone());
        outbox.events.push(Event::Limited {
            conn: key,
            client_id,
            limit,
            more,
        });
    }

    /// The same for a CONNECT, whose client has no session here.
    pub(super) fn connect_refused_under(
        &mut self,
        limit: Limit,
        key: ConnKey,
        client_id: &str,
        outbox: &mut Outbox,
    ) {
        if let Some(more) = self.counters.refusals.count(limit, self.now.mono_ms) {
            outbox.events.push(Event::Limited {
                conn: key,
                client_id: Some(client_id.into()),
                limit,
                more,
            });
        }
    }

    /// Counts a takeover of its Client Identifier, which is banned when there are too many.
    pub(super) fn count_takeover(&mut self, key: ConnKey, client_id: &str, outbox: &mut Outbox) {
        let rule = BanRule::new(self.limits.ban_takeovers_max, &self.limits);
        let hash = self.client_ids.hash(client_id);
        if self.bans.count(hash, rule, self.now.mono_ms) {
            outbox.events.push(Event::Banned {
                conn: key,
                client_id: Some(client_id.into()),
                limit: Limit::ClientBan,
                time_s: self.limits.ban_time_s,
            });
        }
    }

    /// The limit that stands against a CONNECT, and how it is refused.
    pub(super) fn limit_of_connect(
        &mut self,
        connect: &Connect<'_>,
        client_id: &str,
        outbox: &mut Outbox,
    ) -> Option<(Limit, End)> {
        let hash = self.client_ids.hash(client_id);
        if self.bans.is_banned(hash, self.now.mono_ms) {
            let what = "the Client Identifier is banned for a while: too many took its session from each other";
            return Some((Limit::ClientBan, End::new(ReasonCode::Banned, what)));
        }
        if self.find_session(client_id).is_none() {
            let sessions_max = (self.limits.sessions_max as usize).div_ceil(self.shard_count);
            if self.sessions.len() >= sessions_max && !self.evict_session(outbox) {
                let what = "limits.sessions-max: no more sessions on this broker";
                return Some((Limit::Sessions, End::new(ReasonCode::QuotaExceeded, what)));
            }
            if self.is_short_of_memory() {
                let what = "limits.memory-max: no new sessions for want of memory";
                return Some((Limit::Memory, End::new(ReasonCode::QuotaExceeded, what)));
            }
        }
        let topic = connect.will.as_ref().map(|will| will.topic);
        topic
            .and_then(|topic| self.limit_of_topic(topic))
            .map(|limit| {
                let what = match limit {
                    Limit::TopicLevels => "the Will Topic has more levels than this broker allows",
                    _ => "the Will Topic is longer than this broker allows",
                };
                (limit, End::new(ReasonCode::TopicNameInvalid, what))
            })
    }

    /// The limit that a Topic Name exceeds.
    fn limit_of_topic(&self, topic: &str) -> Option<Limit> {
        let levels_max = usize::from(self.limits.topic_levels_max);
        let levels = || memchr::memchr_iter(b'/', topic.as_bytes()).count() + 1;
        // Most topics are too short to have too many.
        if topic.len() >= levels_max && levels() > levels_max {
            Some(Limit::TopicLevels)
        } else if topic.len() > usize::from(self.limits.topic_bytes_max) {
            Some(Limit::TopicBytes)
        } else {
            None
        }
    }

    /// Whether a client may publish on a topic.
    ///
    /// Errors: 0x90.
    pub(super) fn check_topic(
        &mut self,
        key: ConnKey,
        topic: &str,
        outbox: &mut Outbox,
    ) -> Result<(), End> {
        let Some(limit) = self.limit_of_topic(topic) else {
            return Ok(());
        };
        self.refused_under(limit, key, outbox);
        let what = match limit {
            Limit::TopicLevels => "the Topic Name has more levels than this broker allows",
            _ => "the Topic Name is longer than this broker allows",
        };
        Err(End::new(ReasonCode::TopicNameInvalid, what))
    }

    /// Whether a client may have a subscription to `filter`; `text` is the filter as it came.
    ///
    /// Errors: 0x8F for a filter that is not accepted, 0x97 for one too many.
    pub(super) fn check_filter(
        &mut self,
        key: ConnKey,
        text: &str,
        filter: &TopicFilter<'_>,
        outbox: &mut Outbox,
    ) -> Result<(), ReasonCode> {
        let Some((limit, reason)) = self.limit_of_filter(key, text, filter) else {
            return Ok(());
        };
        self.refused_under(limit, key, outbox);
        Err(reason)
    }

    fn limit_of_filter(
        &mut self,
        key: ConnKey,
        text: &str,
        filter: &TopicFilter<'_>,
    ) -> Option<(Limit, ReasonCode)> {
        let limits = &self.limits;
        if filter.level_count() > usize::from(limits.topic_levels_max) {
            return Some((Limit::TopicLevels, ReasonCode::TopicFilterInvalid));
        }
        if text.len() > usize::from(limits.topic_bytes_max) {
            return Some((Limit::TopicBytes, ReasonCode::TopicFilterInvalid));
        }
        let levels_min = usize::from(limits.wildcard_levels_min);
        if filter.has_wildcard() && literal_levels(filter.filter()) < levels_min {
            return Some((Limit::WildcardLevels, ReasonCode::TopicFilterInvalid));
        }
        let subscriptions_max = limits.subscriptions_per_session_max as usize;
        let session = self.open(key).session;
        let held = self.sessions[session.0 as usize].subscriptions.len();
        let limit = if held >= subscriptions_max {
            Limit::Subscriptions
        } else if self.is_short_of_memory() {
            Limit::Memory
        } else {
            return None;
        };
        let is_new = self.find_subscription(session, filter).is_none();
        is_new.then_some((limit, ReasonCode::QuotaExceeded))
    }
}

/// Levels of a filter before its first wildcard.
fn literal_levels(filter: &str) -> usize {
    let levels = filter.split('/');
    levels
        .take_while(|level| !matches!(*level, "+" | "#"))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_its_own_counter_and_key() {
        let mut refusals = Refusals::default();
        for limit in Limit::ALL {
            assert_eq!(refusals.count(limit, 0), Some(0));
        }
        assert!(refusals.counts().iter().all(|count| *count == 1));
        let mut keys: Vec<_> = Limit::ALL.iter().map(|limit| limit.key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), Limit::ALL.len());
    }

    #[test]
    fn one_refusal_a_second_is_told_with_the_number_of_the_others() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.count(Limit::Sessions, 5_000), Some(0));
        for _ in 0..7 {
            assert_eq!(refusals.count(Limit::Sessions, 5_999), None);
        }
        assert_eq!(refusals.count(Limit::Retained, 5_999), Some(0));
        assert_eq!(refusals.count(Limit::Sessions, 6_000), Some(7));
        assert_eq!(refusals.count(Limit::Sessions, 7_000), Some(0));
    }

    #[test]
    fn literal_levels_end_at_the_first_wildcard() {
        for (filter, count) in [("#", 0), ("+/a", 0), ("a/#", 1), ("a/b/+/c", 2), ("/#", 1)] {
            assert_eq!(literal_levels(filter), count, "{filter}");
        }
    }
}

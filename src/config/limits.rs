//! Every bound of the broker in one place, with its unit and its default.
//!
//! The key each bound has in a configuration file, its range and its unit are in `config/keys.rs`.

/// The longest that `queue_hold_ms` may be.
pub const QUEUE_HOLD_MS_MAX: u64 = 3_600_000;

/// What happens to a QoS 1 or 2 message for a session whose queue is full. Every drop is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFullPolicy {
    /// The message that has waited longest makes room.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// The client is disconnected with 0x97 (Quota exceeded); its session and queue stay.
    Disconnect,
    /// The new message is refused, and its publisher is told so with 0x97. Where sessions are not stored it is dropped.
    Refuse,
    /// The publisher's acknowledgement waits until there is room, for `queue_hold_ms` at most; then the message is refused.
    Hold,
}

impl QueueFullPolicy {
    /// All policies with their words, in the order of their numbers.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::DropOldest, "drop-oldest"),
        (Self::DropNewest, "drop-newest"),
        (Self::Disconnect, "disconnect"),
        (Self::Refuse, "refuse"),
        (Self::Hold, "hold"),
    ];

    /// Its word.
    pub fn name(self) -> &'static str {
        Self::ALL[usize::from(self.bits()) - 1].1
    }

    /// The policy of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known)| *known == name);
        found.map(|(policy, _)| *policy)
    }

    /// A number for the store, never 0.
    pub fn bits(self) -> u8 {
        self as u8 + 1
    }

    /// The policy of this number.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let (policy, _) = Self::ALL.get(usize::from(bits).checked_sub(1)?)?;
        Some(*policy)
    }
}

/// A policy for the sessions of some clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueFullRule {
    /// The Client Identifiers it is for; `*` stands for any characters.
    pub client_id: Box<str>,
    /// What happens when such a client's queue is full.
    pub policy: QueueFullPolicy,
}

/// What happens to a client that publishes faster than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishRatePolicy {
    /// It is not read until it is back within its rate: the network slows it down, and nothing is lost.
    Wait,
    /// It is disconnected with 0x96 (Message rate too high).
    Disconnect,
}

/// A bound that bounds nothing.
pub const NO_LIMIT: u32 = u32::MAX;
/// [`Limits::memory_bytes_max`]: four fifths of the memory this process may have.
pub const MEMORY_AUTO: u64 = 0;

/// The bounds of one broker. All sizes are bytes, all times say their unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all, beside what RLIMIT_NOFILE allows; [`NO_LIMIT`] is none.
    pub connections_max: u32,
    /// Connections from one address; [`NO_LIMIT`] is none.
    pub connections_per_address_max: u32,
    /// Connections accepted per second in all; more wait in the kernel. [`NO_LIMIT`] is none.
    pub connect_rate_max: u32,
    /// Connections accepted per second from one address; more are closed. [`NO_LIMIT`] is none.
    pub connect_rate_per_address_max: u32,
    /// TLS handshakes begun per second in all; more wait in the kernel. [`NO_LIMIT`] is none.
    pub handshake_rate_max: u32,
    /// Largest packet accepted from a client after CONNECT; announced in CONNACK. At most 268,435,460.
    pub packet_bytes_max: u32,
    /// Largest CONNECT packet.
    pub connect_packet_bytes_max: u32,
    /// Time a new connection has for its whole CONNECT.
    pub connect_timeout_ms: u32,
    /// QoS 1 and 2 messages a client may have unacknowledged towards the broker; announced as Receive Maximum.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages the broker has unacknowledged towards one client, at most; the client's Receive Maximum may be lower.
    pub inflight_messages_max: u16,
    /// Topic aliases a client may define; announced in CONNACK.
    pub topic_alias_maximum: u16,
    /// Topic aliases the broker defines towards one client, at most; the client's Topic Alias Maximum may be lower.
    pub outbound_topic_alias_max: u16,
    /// Messages waiting for one session.
    pub queue_messages_max: u32,
    /// Bytes of messages waiting for one session.
    pub queue_bytes_max: u32,
    /// What happens when either is reached.
    pub queue_full: QueueFullPolicy,
    /// The same for some clients: the first rule that matches.
    pub queue_full_rules: Vec<QueueFullRule>,
    /// Messages of a stored session that wait in memory, and are read back at once; of those behind them only the numbers are in memory.
    pub queue_resident_max: u32,
    /// Seconds a stored message may wait for one session; `u32::MAX` is for ever.
    pub queue_age_s_max: u32,
    /// Bytes of messages waiting for all sessions, spread over the shards; each message is charged to every queue that holds it.
    pub queue_bytes_all_max: u64,
    /// How long the acknowledgement of a message may wait for room in a queue.
    pub queue_hold_ms: u32,
    /// Outbound bytes of one connection above which its QoS 0 messages are dropped and others wait in the queue.
    pub outbound_bytes_max: u32,
    /// Cap on the Session Expiry Interval an MQTT 5 client may ask for; `u32::MAX` is none.
    pub session_expiry_s_max: u32,
    /// Session Expiry Interval of 3.x clients with Clean Session 0, which cannot name one.
    pub session_expiry_v3_s: u32,
    /// Longest Keep Alive in seconds; a client that asks for more, or for none, gets this one (Server Keep Alive). 0 is no cap.
    pub keep_alive_s_max: u16,
    /// Subscriptions of one session.
    pub subscriptions_per_session_max: u32,
    /// Levels of a Topic Name or Topic Filter.
    pub topic_levels_max: u16,
    /// Retained messages in all.
    pub retained_messages_max: u32,
    /// Bytes of retained messages in all.
    pub retained_bytes_max: u64,
    /// Sessions in all, spread over the shards.
    pub sessions_max: u32,
    /// Bytes of a Topic Name or Topic Filter.
    pub topic_bytes_max: u16,
    /// Levels a Topic Filter has before its first wildcard, at least; 0 allows `#`.
    pub wildcard_levels_min: u16,
    /// PUBLISH packets per second from one client, with one second's worth at once; [`NO_LIMIT`] is none.
    pub publish_rate_max: u32,
    /// Bytes of PUBLISH packets per second from one client, with one second's worth at once; [`NO_LIMIT`] is none.
    pub publish_bytes_rate_max: u32,
    /// What happens to a client beyond either.
    pub publish_rate_full: PublishRatePolicy,
    /// Memory the broker may take, in bytes of its heap; [`MEMORY_AUTO`] or `u64::MAX` for none.
    pub memory_bytes_max: u64,
    /// Failed authentications from one address within `ban_window_s` that ban it; [`NO_LIMIT`] never does.
    pub ban_auth_failures_max: u32,
    /// Takeovers of one Client Identifier within `ban_window_s` that ban it; [`NO_LIMIT`] never does.
    pub ban_takeovers_max: u32,
    /// The time in which they are counted.
    pub ban_window_s: u32,
    /// How long a ban lasts.
    pub ban_time_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: NO_LIMIT,
            connections_per_address_max: NO_LIMIT,
            connect_rate_max: NO_LIMIT,
            connect_rate_per_address_max: NO_LIMIT,
            handshake_rate_max: NO_LIMIT,
            packet_bytes_max: 8 << 20,
            connect_packet_bytes_max: 64 << 10,
            connect_timeout_ms: 10_000,
            receive_maximum: 1_024,
            inflight_messages_max: 1_024,
            topic_alias_maximum: 32,
            outbound_topic_alias_max: 32,
            queue_messages_max: 10_000,
            queue_bytes_max: 16 << 20,
            queue_full: QueueFullPolicy::DropOldest,
            queue_full_rules: Vec::new(),
            queue_resident_max: 32,
            queue_age_s_max: u32::MAX,
            queue_bytes_all_max: 1 << 40,
            queue_hold_ms: 5_000,
            outbound_bytes_max: 1 << 20,
            session_expiry_s_max: u32::MAX,
            session_expiry_v3_s: 24 * 60 * 60,
            keep_alive_s_max: 0,
            subscriptions_per_session_max: 100_000,
            topic_levels_max: 128,
            retained_messages_max: 2_000_000,
            retained_bytes_max: 1 << 30,
            sessions_max: 2_000_000,
            topic_bytes_max: u16::MAX,
            wildcard_levels_min: 0,
            publish_rate_max: NO_LIMIT,
            publish_bytes_rate_max: NO_LIMIT,
            publish_rate_full: PublishRatePolicy::Wait,
            memory_bytes_max: MEMORY_AUTO,
            ban_auth_failures_max: 100,
            ban_takeovers_max: 60,
            ban_window_s: 60,
            ban_time_s: 300,
        }
    }
}

impl Limits {
    /// What happens when the queue of a client is full that did not choose.
    pub fn queue_full_for(&self, client_id: &str) -> QueueFullPolicy {
        let rule = self
            .queue_full_rules
            .iter()
            .find(|rule| matches_pattern(&rule.client_id, client_id));
        rule.map_or(self.queue_full, |rule| rule.policy)
    }
}

/// Whether `text` is what `pattern` says, in which `*` stands for any characters.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        // The earliest place leaves most for the others.
        let Some(at) = text.find(part) else {
            return false;
        };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_a_shell_would() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("*", "", true),
            ("*", "abc", true),
            ("a*", "abc", true),
            ("a*", "bc", false),
            ("*c", "abc", true),
            ("a*a", "a", false),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "axc", false),
            ("*b*b*", "abab", true),
            ("*b*b*", "ab", false),
            ("**", "ab", true),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn policies_have_names_and_numbers() {
        for (policy, name) in QueueFullPolicy::ALL {
            assert_eq!(policy.name(), name);
            assert_eq!(QueueFullPolicy::from_name(name), Some(policy));
            assert_eq!(QueueFullPolicy::from_bits(policy.bits()), Some(policy));
        }
        assert_eq!(QueueFullPolicy::from_bits(0), None);
        assert_eq!(QueueFullPolicy::from_bits(6), None);
    }
}

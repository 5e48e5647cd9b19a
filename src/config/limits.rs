//! Every bound of the broker in one place, with its unit and its default.
//!
//! The key each bound has in a configuration file, its range and its unit are in `config/keys.rs`.

/// What happens to a QoS 1 or 2 message for a session whose queue is full. Every drop is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFullPolicy {
    /// The message that has waited longest makes room.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// The client is disconnected with 0x97 (Quota exceeded); its session and queue stay.
    Disconnect,
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
    /// CONNECTs of one Client Identifier within `ban_window_s` that ban it; [`NO_LIMIT`] never does.
    pub ban_connects_max: u32,
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
            ban_connects_max: 300,
            ban_window_s: 60,
            ban_time_s: 300,
        }
    }
}

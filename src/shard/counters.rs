//! What a shard counts: plain integers, summed over the shards by whoever asks.

use super::limited::Refusals;

/// Why a message was not delivered to a session, or not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropCause {
    /// QoS 0, and the client reads more slowly than messages arrive.
    SlowConsumer,
    /// The session's queue was full.
    QueueFull,
    /// The Message Expiry Interval passed.
    Expired,
    /// Larger than the client's Maximum Packet Size.
    TooLarge,
    /// QoS 0 for a session without a connection.
    Offline,
    /// QoS 0, and the link to the other core was over its hard limit.
    Link,
    /// A retained message not stored because the limit was reached.
    RetainedLimit,
    /// A shared group had no member left to take the message.
    NoMember,
    /// The session ended while the message waited.
    SessionEnded,
    /// It waited for a session that was away when memory was exhausted.
    Memory,
    /// It waited longer than the operator allows.
    Aged,
    /// A queue or the store refused it, and its publisher was told.
    Refused,
    /// The store could not read it back.
    Lost,
    /// While it waited, its client lost the right to receive it.
    Denied,
}

impl DropCause {
    /// All causes, in the order of their counters.
    pub const ALL: [Self; 14] = [
        Self::SlowConsumer,
        Self::QueueFull,
        Self::Expired,
        Self::TooLarge,
        Self::Offline,
        Self::Link,
        Self::RetainedLimit,
        Self::NoMember,
        Self::SessionEnded,
        Self::Memory,
        Self::Aged,
        Self::Refused,
        Self::Lost,
        Self::Denied,
    ];

    /// The cause as a metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::Offline => "offline",
            Self::Link => "link",
            Self::RetainedLimit => "retained_limit",
            Self::NoMember => "no_member",
            Self::SessionEnded => "session_ended",
            Self::Memory => "memory",
            Self::Aged => "aged",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Denied => "denied",
        }
    }
}

/// Counts since the start, and the present sizes.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Connections accepted on this core.
    pub connections_accepted: u64,
    /// Connections passed on to the owner of their client id.
    pub connections_handed_over: u64,
    /// CONNECT packets answered with success.
    pub connects: u64,
    /// Connections whose session was taken over.
    pub takeovers: u64,
    /// Connections closed for what the peer sent.
    pub protocol_errors: u64,
    /// Connections closed because the Keep Alive ran out.
    pub keep_alive_timeouts: u64,
    /// PUBLISH packets from clients.
    pub publish_received: u64,
    /// PUBLISH packets from clients that may not publish to their topic.
    pub publishes_denied: u64,
    /// Filters that clients may not subscribe to.
    pub subscribes_denied: u64,
    /// Deliveries left out because the client may not receive the topic.
    pub deliveries_denied: u64,
    /// PUBLISH packets to clients.
    pub publish_sent: u64,
    /// Payload bytes from clients.
    pub publish_bytes_received: u64,
    /// Payload bytes to clients.
    pub publish_bytes_sent: u64,
    /// Bytes from clients.
    pub bytes_received: u64,
    /// Bytes to clients.
    pub bytes_sent: u64,
    /// Messages passed to other cores.
    pub mesh_publish_sent: u64,
    /// Messages from other cores that no subscription here matched: the cost of the interest table's coarseness.
    pub mesh_publish_unmatched: u64,
    /// Sessions that ended by expiry.
    pub sessions_expired: u64,
    /// Sessions without a connection that made room for others.
    pub sessions_evicted: u64,
    /// Acknowledgements that left before what they acknowledge was durable: none.
    pub acked_not_durable: u64,
    /// Wills published.
    pub wills_published: u64,
    /// Messages dropped, by `DropCause`.
    pub dropped: [u64; DropCause::ALL.len()],
    /// Messages dropped under all causes.
    pub dropped_total: u64,
    /// What was refused under a limit.
    pub refusals: Refusals,
}

impl Counters {
    /// Counts one drop.
    pub fn drop_one(&mut self, cause: DropCause) {
        self.drop_many(cause, 1);
    }

    /// Counts several drops.
    pub fn drop_many(&mut self, cause: DropCause, count: u64) {
        self.dropped[cause as usize] += count;
        self.dropped_total += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_own_counter_and_name() {
        let mut counters = Counters::default();
        for cause in DropCause::ALL {
            counters.drop_one(cause);
        }
        assert!(counters.dropped.iter().all(|count| *count == 1));
        let mut names: Vec<_> = DropCause::ALL.iter().map(|cause| cause.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropCause::ALL.len());
    }
}

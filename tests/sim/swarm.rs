//! What one seed's run is made of. Each seed draws its own mix, because a run that does everything at once
//! hides what only happens when something is *not* done.

use crate::random::Random;
use ringmq::config::limits::{Limits, QueueFullPolicy};

macro_rules! features {
    ($($feature:ident $name:literal,)*) => {
        /// Something a run does or does not do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Feature { $($feature,)* }

        impl Feature {
            pub const ALL: &[(Self, &'static str)] = &[$((Self::$feature, $name),)*];
        }
    };
}

features! {
    V31 "v3.1",
    V311 "v3.1.1",
    V5 "v5",
    Qos1 "qos1",
    Qos2 "qos2",
    Wildcards "wildcards",
    Shared "shared",
    Retained "retained",
    RetainedClear "retained-clear",
    Wills "wills",
    WillDelay "will-delay",
    MessageExpiry "message-expiry",
    Sessions "sessions",
    SessionExpiry "session-expiry",
    ReceiveMaximum "receive-maximum",
    PacketMaximum "packet-maximum",
    Aliases "aliases",
    SubscriptionIds "subscription-ids",
    NoLocal "no-local",
    RetainAsPublished "retain-as-published",
    RetainHandling "retain-handling",
    Unsubscribe "unsubscribe",
    TinyWindow "tiny-window",
    TinyQueue "tiny-queue",
    TinyOutbound "tiny-outbound",
    TinyRetained "tiny-retained",
    TinySubscriptions "tiny-subscriptions",
    BigPayloads "big-payloads",
    Resets "resets",
    HalfOpen "half-open",
    Takeover "takeover",
    Stalls "stalls",
    ShortReads "short-reads",
    ShortWrites "short-writes",
    SlowLinks "slow-links",
    LinkPressure "link-pressure",
    KeepAlive "keep-alive",
    ClockJumps "clock-jumps",
    WallJumps "wall-jumps",
    Rude "rude",
    AckDisorder "ack-disorder",
    AckRefusal "ack-refusal",
    EagerClients "eager-clients",
    LongTurns "long-turns",
    FrozenLinks "frozen-links",
    Store "store",
    Crashes "crashes",
    DiskFull "disk-full",
    SlowDisk "slow-disk",
    TinyResident "tiny-resident",
    RefuseOrHold "refuse-or-hold",
    KeptSessions "kept-sessions",
    UntimelyCrashes "untimely-crashes",
    StoreBacklog "store-backlog",
}

/// One seed's mix.
#[derive(Clone, Debug)]
pub struct Swarm {
    on: Vec<bool>,
    pub shard_count: usize,
    pub client_count: usize,
    pub turns: u64,
    pub limits: Limits,
    /// Names of topic levels; few, so that filters and topics meet.
    pub levels: Vec<&'static str>,
    pub depth_max: usize,
    /// Whether QoS 0 is drawn only when nothing else is allowed: then more is owed.
    pub avoids_qos_0: bool,
    /// How many of 100 subscriptions are shared, when any are.
    pub shared_percent: usize,
}

/// What the command line fixes.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub shards: Option<usize>,
    pub clients: Option<usize>,
    pub turns: Option<u64>,
    pub without: Vec<Feature>,
    /// Tell every packet.
    pub trace: bool,
}

impl Swarm {
    pub fn draw(seed: u64, overrides: &Overrides) -> Self {
        // A stream of their own: a new feature at the end leaves everything else as it was.
        let mut features = Random::stream(seed, "features");
        let busy = features.between(25, 75);
        let mut on: Vec<bool> = Feature::ALL.iter().map(|_| features.chance(busy)).collect();
        let mut random = Random::stream(seed, "swarm");
        let shard_count = *random.pick(&[1, 2, 2, 3, 4, 4, 5]);
        let client_count = random.between(2, 8);
        let turns = *random.pick(&[500, 1_000, 2_000, 4_000]);
        for feature in &overrides.without {
            on[*feature as usize] = false;
        }
        if !on[Feature::Store as usize] {
            for feature in [Feature::Crashes, Feature::DiskFull, Feature::StoreBacklog] {
                on[feature as usize] = false;
            }
        }
        if !on[Feature::Crashes as usize] {
            on[Feature::UntimelyCrashes as usize] = false;
        }
        if on[Feature::Store as usize] && on[Feature::RefuseOrHold as usize] {
            // Others cannot be told; their connections would be closed for ever while a queue of their own is full.
            on[Feature::V31 as usize] = false;
            on[Feature::V311 as usize] = false;
        }
        if on[Feature::Crashes as usize]
            || on[Feature::Store as usize] && on[Feature::MessageExpiry as usize]
        {
            // What was on disk expires by the wall clock, at another time than for the model.
            on[Feature::WallJumps as usize] = false;
        }
        let mut limits = Limits {
            queue_messages_max: 100_000,
            queue_full: *random.pick(&[
                QueueFullPolicy::DropOldest,
                QueueFullPolicy::DropNewest,
                QueueFullPolicy::Disconnect,
            ]),
            connect_timeout_ms: 10_000,
            ..Limits::default()
        };
        let window = (random.between(1, 5) as u16, random.between(1, 5) as u16);
        let queue = (
            random.between(1, 6) as u32,
            random.between(100, 2_000) as u32,
        );
        let outbound = random.between(100, 3_000) as u32;
        let retained = random.between(1, 5) as u32;
        let subscriptions = random.between(1, 4) as u32;
        let alias = (random.between(0, 3) as u16, random.between(0, 3) as u16);
        let expiry_s = random.between(5, 200) as u32;
        let has = |feature: Feature| on[feature as usize];
        if has(Feature::TinyWindow) {
            (limits.inflight_messages_max, limits.receive_maximum) = window;
        }
        if has(Feature::TinyQueue) {
            limits.queue_messages_max = queue.0;
            if queue.1.is_multiple_of(2) {
                limits.queue_bytes_max = queue.1;
            }
        }
        if has(Feature::TinyOutbound) {
            limits.outbound_bytes_max = outbound;
        }
        if has(Feature::TinyRetained) {
            limits.retained_messages_max = retained;
        }
        if has(Feature::TinySubscriptions) {
            limits.subscriptions_per_session_max = subscriptions;
        }
        if has(Feature::Aliases) {
            (limits.topic_alias_maximum, limits.outbound_topic_alias_max) = alias;
        }
        if has(Feature::SessionExpiry) {
            limits.session_expiry_s_max = expiry_s;
            limits.session_expiry_v3_s = expiry_s;
        }
        if on[Feature::Store as usize] {
            // A stream of its own: what is not stored stays as it was.
            let mut random = Random::stream(seed, "store");
            if on[Feature::TinyResident as usize] {
                limits.queue_resident_max = random.between(1, 3) as u32;
            }
            if limits.queue_full == QueueFullPolicy::Disconnect {
                // Who publishes to a full queue of its own is closed before its message is durable, sends it again, and so on.
                limits.queue_full = QueueFullPolicy::DropNewest;
            }
            if on[Feature::RefuseOrHold as usize] {
                limits.queue_full = *random.pick(&[QueueFullPolicy::Refuse, QueueFullPolicy::Hold]);
                limits.queue_hold_ms = random.between(100, 20_000) as u32;
            }
        }
        let levels = random.between(1, 3);
        let depth_max = random.between(1, 3);
        Self {
            shard_count: overrides.shards.unwrap_or(shard_count),
            client_count: overrides.clients.unwrap_or(client_count),
            turns: overrides.turns.unwrap_or(turns),
            limits,
            levels: ["a", "", "$b"][..levels].to_vec(),
            depth_max,
            shared_percent: *random.pick(&[20, 50, 90]),
            avoids_qos_0: random.chance(35),
            on,
        }
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.on[feature as usize]
    }

    /// With how many drains that wait for the store a shard reads again, and with how many it reads nothing.
    pub fn backlog_marks(&self, seed: u64) -> Option<(usize, usize)> {
        self.has(Feature::StoreBacklog).then(|| {
            // A stream of its own: everything else stays as it was.
            let mut random = Random::stream(seed, "store-backlog");
            let low = random.between(0, 2);
            (low, low + random.between(1, 6))
        })
    }

    /// The features that are on.
    pub fn features(&self) -> impl Iterator<Item = (Feature, &'static str)> {
        Feature::ALL
            .iter()
            .copied()
            .filter(|(feature, _)| self.has(*feature))
    }
}

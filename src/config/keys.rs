//! The vocabulary of the configuration: every key with its range, its unit and what it says.
//!
//! A flag, a key of the file, an environment variable, the printed sample and every error use these words.

use super::limits::{Limits, QueueFullPolicy};
use super::value::{Unit, closest};
use super::{Config, CoreCount, Listener, LogLevel};
use crate::shard::input::ShardId;
use crate::shard::record::Durability;
use std::ops::RangeInclusive;

/// One number among the limits.
pub(super) struct LimitKey {
    /// The key under `[limits]`.
    pub(super) name: &'static str,
    /// The name of the field, which is accepted as a key too: `connect_timeout_ms`.
    field: &'static str,
    /// What it counts.
    pub(super) unit: Unit,
    /// What the broker can work with.
    range: RangeInclusive<u64>,
    /// The number that `"infinity"` stands for.
    infinity: Option<u64>,
    /// What it bounds, for the sample.
    pub(super) doc: &'static str,
    /// Reads the field.
    get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u64),
}

macro_rules! limit_keys {
    ($($field:ident: $type:ty, $name:literal, $unit:ident, $range:expr, $infinity:expr, $doc:literal;)*) => {
        /// Every number among the limits, in the order of `config show`.
        pub(super) static LIMIT_KEYS: &[LimitKey] = &[$(LimitKey {
            name: $name,
            field: stringify!($field),
            unit: Unit::$unit,
            range: $range,
            infinity: $infinity,
            doc: $doc,
            get: |limits| limits.$field as u64,
            set: |limits, number| {
                limits.$field = <$type>::try_from(number).expect("the range fits the field");
            },
        }),*];

        // A limit that has no key does not compile.
        const _: fn(&Limits) = |limits| {
            let Limits { $($field: _,)* queue_full: _, queue_full_rules: _ } = limits;
        };
    };
}

const U16: u64 = u16::MAX as u64;
const U32: u64 = u32::MAX as u64;
const GIB: u64 = 1 << 30;

limit_keys! {
    packet_bytes_max: u32, "packet-bytes-max", Bytes, 32..=268_435_460, None,
        "Largest packet accepted from a client; announced to MQTT 5 clients.";
    connect_packet_bytes_max: u32, "connect-packet-bytes-max", Bytes, 128..=(16 << 20), None,
        "Largest CONNECT packet.";
    connect_timeout_ms: u32, "connect-timeout", Milliseconds, 100..=3_600_000, None,
        "Time a new connection has for its whole CONNECT.";
    receive_maximum: u16, "receive-maximum", Count, 1..=U16, None,
        "QoS 1 and 2 messages a client may have unacknowledged towards the broker.";
    inflight_messages_max: u16, "inflight-messages-max", Count, 1..=U16, None,
        "QoS 1 and 2 messages the broker has unacknowledged towards one client.";
    topic_alias_maximum: u16, "topic-alias-maximum", Count, 0..=U16, None,
        "Topic aliases a client may define.";
    outbound_topic_alias_max: u16, "outbound-topic-alias-max", Count, 0..=U16, None,
        "Topic aliases the broker defines towards one client.";
    queue_messages_max: u32, "queue-messages-max", Count, 1..=U32, None,
        "Messages waiting for one session.";
    queue_bytes_max: u32, "queue-bytes-max", Bytes, 1..=U32, None,
        "Bytes of messages waiting for one session.";
    queue_resident_max: u32, "queue-resident-max", Count, 1..=65_536, None,
        "Stored messages of one session that wait in memory too; of others only the numbers are.";
    queue_age_s_max: u32, "queue-age-max", Seconds, 1..=U32, Some(U32),
        "How long a stored message may wait for one session.";
    queue_bytes_all_max: u64, "queue-bytes-all-max", Bytes, 1024..=(1024 * GIB), None,
        "Bytes of messages waiting for all sessions.";
    queue_hold_ms: u32, "queue-hold", Milliseconds, 1..=3_600_000, None,
        "How long an acknowledgement may wait for room in a queue whose policy is \"hold\".";
    outbound_bytes_max: u32, "outbound-bytes-max", Bytes, 1024..=U32, None,
        "Outbound bytes of one connection above which its QoS 0 messages are dropped and others wait.";
    session_expiry_s_max: u32, "session-expiry-max", Seconds, 0..=U32, Some(U32),
        "Longest Session Expiry Interval a client may ask for.";
    session_expiry_v3_s: u32, "session-expiry-v3", Seconds, 0..=U32, Some(U32),
        "How long the session of a 3.x client with Clean Session 0 outlives its connection.";
    keep_alive_s_max: u16, "keep-alive-max", Seconds, 0..=U16, Some(0),
        "Longest Keep Alive; a client that asks for more, or for none, gets this one.";
    subscriptions_per_session_max: u32, "subscriptions-per-session-max", Count, 1..=U32, None,
        "Subscriptions of one session.";
    topic_levels_max: u16, "topic-levels-max", Count, 1..=U16, None,
        "Levels of a topic name or topic filter.";
    retained_messages_max: u32, "retained-messages-max", Count, 0..=U32, None,
        "Retained messages in all.";
    retained_bytes_max: u64, "retained-bytes-max", Bytes, 0..=1024 * GIB, None,
        "Bytes of retained messages in all.";
    sessions_max: u32, "sessions-max", Count, 1..=U32, None,
        "Sessions in all.";
}

/// A key outside `[limits]` and `[listener.NAME]`.
pub(super) struct TopKey {
    /// The key.
    pub(super) name: &'static str,
    /// What it says, for the sample.
    pub(super) doc: &'static str,
}

/// Every key outside `[limits]` and `[listener.NAME]`.
pub(super) static TOP_KEYS: &[TopKey] = &[
    TopKey {
        name: "cores",
        doc: "Shards, one thread each: a number from 1 to 64, or \"auto\" for the CPUs this process may use.",
    },
    TopKey {
        name: "pin",
        doc: "Whether each shard's thread stays on one CPU.",
    },
    TopKey {
        name: "data-dir",
        doc: "Directory of what outlives the process; without one it is ringmq in $XDG_STATE_HOME or ~/.local/state.",
    },
    TopKey {
        name: "durability",
        doc: "What is acknowledged survives \"power\" loss, the end of the \"process\", or \"none\" of them: then nothing is stored.",
    },
    TopKey {
        name: "log-level",
        doc: "\"error\", \"warn\", \"info\" or \"debug\".",
    },
    TopKey {
        name: "allow-anonymous",
        doc: "Whether clients without credentials may connect from other machines; there is no authentication yet.",
    },
];

const QUEUE_FULL: &str = "queue-full";
/// What `limits.queue-full` says, for the sample.
pub(super) const QUEUE_FULL_DOC: &str =
    "What a full queue does: \"drop-oldest\", \"drop-newest\" or \"disconnect\".";

impl LimitKey {
    /// The value in force, as it would be written in a file.
    pub(super) fn show(&self, limits: &Limits) -> String {
        let number = (self.get)(limits);
        if self.infinity == Some(number) {
            return "\"infinity\"".into();
        }
        let text = self.unit.format(number);
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            text
        } else {
            format!("\"{text}\"")
        }
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.field.replace('_', "-") == name
    }

    fn parse(&self, name: &str, text: &str) -> Result<u64, String> {
        if text == "infinity" {
            return self
                .infinity
                .ok_or_else(|| format!("`{name}` cannot be infinite"));
        }
        // Under the field's name, which says the unit, a plain integer is in that unit.
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if plain && name.ends_with("-ms") {
            self.unit.parse(&format!("{text}ms"))
        } else {
            self.unit.parse(text)
        };
        let number = number.map_err(|error| format!("`{name}`: {error}"))?;
        if self.range.contains(&number) {
            return Ok(number);
        }
        let (low, high) = (
            self.unit.format(*self.range.start()),
            self.unit.format(*self.range.end()),
        );
        Err(format!(
            "`{name}` is {text}; it must be from {low} to {high}"
        ))
    }
}

/// The value of `limits.queue-full`, as it would be written in a file.
pub(super) fn show_queue_full(limits: &Limits) -> String {
    format!("\"{}\"", limits.queue_full.name())
}

/// The value of a key of [`TOP_KEYS`], as it would be written in a file; none when it is unset.
pub(super) fn show_top(config: &Config, name: &str) -> Option<String> {
    match name {
        "cores" => Some(match config.cores {
            CoreCount::Auto => "\"auto\"".into(),
            CoreCount::Exactly(count) => count.to_string(),
        }),
        "pin" => Some(config.pin.to_string()),
        "data-dir" => config
            .data_dir
            .as_ref()
            .map(|dir| format!("{:?}", dir.display().to_string())),
        "durability" => Some(format!("\"{}\"", config.durability.name())),
        "log-level" => Some(format!("\"{}\"", config.log_level.name())),
        "allow-anonymous" => Some(config.allow_anonymous.to_string()),
        _ => unreachable!("the caller names a key of TOP_KEYS"),
    }
}

/// Sets the key `name` (`cores`, `limits.packet-bytes-max`, `listener.tcp.bind`) from its text.
///
/// Errors: a sentence for the operator, which names the key.
pub(super) fn set(config: &mut Config, name: &str, text: &str) -> Result<(), String> {
    let bad = |wanted: &str| format!("`{name}` is `{text}`; it must be {wanted}");
    match name {
        "cores" if text == "auto" => config.cores = CoreCount::Auto,
        "cores" => {
            let count = text
                .parse()
                .ok()
                .filter(|count| (1..=ShardId::COUNT_MAX).contains(count));
            let wanted = "\"auto\" or a whole number from 1 to 64";
            config.cores = CoreCount::Exactly(count.ok_or_else(|| bad(wanted))?);
        }
        "pin" => config.pin = parse_bool(text).ok_or_else(|| bad("true or false"))?,
        "data-dir" if text.is_empty() => return Err(bad("a directory")),
        "data-dir" => config.data_dir = Some(text.into()),
        "durability" => {
            let known = [Durability::Power, Durability::Process, Durability::None];
            let found = known.into_iter().find(|known| known.name() == text);
            config.durability = found.ok_or_else(|| bad("\"power\", \"process\" or \"none\""))?;
        }
        "log-level" => {
            let level = LogLevel::parse(text);
            config.log_level =
                level.ok_or_else(|| bad("\"error\", \"warn\", \"info\" or \"debug\""))?;
        }
        "allow-anonymous" => {
            config.allow_anonymous = parse_bool(text).ok_or_else(|| bad("true or false"))?;
        }
        _ => match name.split_once('.') {
            Some(("limits", limit)) => set_limit(&mut config.limits, limit, text)?,
            Some(("listener", rest)) => set_listener(config, rest, text)?,
            _ => return Err(unknown(name)),
        },
    }
    Ok(())
}

fn set_limit(limits: &mut Limits, name: &str, text: &str) -> Result<(), String> {
    if name == QUEUE_FULL {
        let policy = QueueFullPolicy::from_name(text);
        let wanted = "\"drop-oldest\", \"drop-newest\", \"disconnect\", \"refuse\" or \"hold\"";
        let bad = || format!("`limits.{name}` is `{text}`; it must be {wanted}");
        limits.queue_full = policy.ok_or_else(bad)?;
        return Ok(());
    }
    let key = LIMIT_KEYS.iter().find(|key| key.is_called(name));
    let key = key.ok_or_else(|| unknown(&format!("limits.{name}")))?;
    let number = key.parse(&format!("limits.{name}"), text)?;
    (key.set)(limits, number);
    Ok(())
}

fn set_listener(config: &mut Config, rest: &str, text: &str) -> Result<(), String> {
    let Some((listener_name, "bind")) = rest.rsplit_once('.') else {
        let name = format!("listener.{rest}");
        return Err(format!(
            "unknown key `{name}`; a listener has one key, `listener.NAME.bind`"
        ));
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if listener_name.is_empty() || !listener_name.chars().all(is_word) {
        return Err(format!(
            "`{listener_name}` is no name for a listener; use letters, digits, - and _"
        ));
    }
    let bind = parse_bind(text)?;
    match config
        .listeners
        .iter_mut()
        .find(|listener| listener.name == listener_name)
    {
        Some(listener) => listener.bind = bind,
        None => config.listeners.push(Listener {
            name: listener_name.into(),
            bind,
        }),
    }
    Ok(())
}

/// Reads `ADDR:PORT`.
pub(super) fn parse_bind(text: &str) -> Result<std::net::SocketAddr, String> {
    let text = text.trim();
    let resolved = text
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    resolved.as_deref().unwrap_or(text).parse().map_err(|_| {
        format!("`{text}` is no address to listen on; write ADDR:PORT, such as 127.0.0.1:1883 or [::]:1883")
    })
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

fn unknown(name: &str) -> String {
    let limits = LIMIT_KEYS.iter().map(|key| format!("limits.{}", key.name));
    let tops = TOP_KEYS.iter().map(|key| key.name.to_owned());
    let others = [
        "limits.queue-full".to_owned(),
        "listener.NAME.bind".to_owned(),
    ];
    let all: Vec<String> = limits.chain(tops).chain(others).collect();
    let plain = name.replace('_', "-");
    // A limit's own name is enough to find it: people forget the table.
    let in_limits = format!("limits.{plain}");
    let meant = all
        .iter()
        .find(|key| **key == in_limits)
        .map(String::as_str);
    let meant = meant.or_else(|| closest(&plain, all.iter().map(String::as_str)));
    match meant {
        Some(meant) => format!("unknown key `{name}`; did you mean `{meant}`?"),
        None => format!("unknown key `{name}`; `ringmq config default` prints them all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_takes_the_ends_of_its_range_and_not_more() {
        for key in LIMIT_KEYS {
            let mut config = Config::default();
            let name = format!("limits.{}", key.name);
            for end in [*key.range.start(), *key.range.end()] {
                let text = key.unit.format(end);
                set(&mut config, &name, &text).unwrap();
                assert_eq!((key.get)(&config.limits), end, "{name}");
                let shown = key.show(&config.limits);
                set(&mut config, &name, shown.trim_matches('"')).unwrap();
                assert_eq!((key.get)(&config.limits), end, "{name} {shown}");
            }
            let beyond = set(&mut config, &name, &key.unit.format(*key.range.end() + 1));
            assert!(beyond.unwrap_err().contains(key.name));
            assert!(key.range.contains(&(key.get)(&Limits::default())), "{name}");
        }
    }

    #[test]
    fn a_limit_under_its_fields_name_counts_in_the_fields_unit() {
        let mut config = Config::default();
        set(&mut config, "limits.connect-timeout-ms", "1500").unwrap();
        assert_eq!(config.limits.connect_timeout_ms, 1_500);
        set(&mut config, "limits.connect-timeout", "2").unwrap();
        assert_eq!(config.limits.connect_timeout_ms, 2_000);
        set(&mut config, "limits.session-expiry-s-max", "infinity").unwrap();
        assert_eq!(config.limits.session_expiry_s_max, u32::MAX);
        set(&mut config, "limits.keep-alive-max", "infinity").unwrap();
        assert_eq!(config.limits.keep_alive_s_max, 0);
    }

    #[test]
    fn errors_name_key_value_and_range() {
        let mut config = Config::default();
        let mut error = |name, text| set(&mut config, name, text).unwrap_err();
        assert_eq!(
            error("limits.packet-bytes-max", "1GiB"),
            "`limits.packet-bytes-max` is 1GiB; it must be from 32 to 268435460"
        );
        assert_eq!(
            error("limits.sessions-max", "many"),
            "`limits.sessions-max`: `many` is not a whole number"
        );
        assert_eq!(
            error("limits.receive-maximum", "infinity"),
            "`limits.receive-maximum` cannot be infinite"
        );
        assert_eq!(
            error("cores", "0"),
            "`cores` is `0`; it must be \"auto\" or a whole number from 1 to 64"
        );
        assert_eq!(
            error("croes", "1"),
            "unknown key `croes`; did you mean `cores`?"
        );
        assert_eq!(
            error("limits.queue_byte_max", "1"),
            "unknown key `limits.queue_byte_max`; did you mean `limits.queue-bytes-max`?"
        );
        assert_eq!(
            error("sessions-max", "1"),
            "unknown key `sessions-max`; did you mean `limits.sessions-max`?"
        );
        assert!(error("listener.tcp.bind", "1883").contains("ADDR:PORT"));
        assert!(error("listener.tcp.port", "1883").contains("listener.NAME.bind"));
        assert!(error("limits.queue-full", "explode").contains("drop-oldest"));
    }
}

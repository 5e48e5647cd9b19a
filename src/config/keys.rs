//! The vocabulary of the configuration: every key with its range, its unit and what it says.
//!
//! A flag, a key of the file, an environment variable, the printed sample and every error use these words.

use super::key::{Change, Key, Kind, Places, Value, one_of};
use super::limits::{Limits, PublishRatePolicy, QUEUE_HOLD_MS_MAX, QueueFullPolicy, QueueFullRule};
use super::listener::{
    AuthMethod, Bind, CertificateName, CertificateSpec, ClientCertificate, ListenerSpec, Network,
    ProxySpec, TlsSpec, TlsVersion, WebSocketSpec,
};
use super::login::{ACL_KEYS, LOGIN_KEYS};
use super::value::{Unit, closest};
use super::{Config, CoreCount, LogLevel};
use crate::shard::input::ShardId;
use crate::shard::record::Durability;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

const U16: u64 = u16::MAX as u64;
const U32: u64 = u32::MAX as u64;
const GIB: u64 = 1 << 30;

/// The word for a number that bounds nothing.
const ENDLESS: &[(&str, u64)] = &[("infinity", U32)];

macro_rules! limit_keys {
    (
        numbers { $($field:ident: $type:ty, $name:literal, $change:ident, $unit:ident, $range:expr, $words:expr, $doc:literal;)* }
        words { $($word_field:ident, $word_name:literal, $word_table:ident, $word_doc:literal;)* }
        others { $($other_field:ident: $other:expr;)* }
    ) => {
        /// Every key of `[limits]`, in the order of `config show`.
        pub(super) static LIMIT_KEYS: &[Key<Limits>] = &[
            $(Key {
                name: $name,
                doc: $doc,
                change: Change::$change,
                kind: Kind::Number {
                    unit: Unit::$unit,
                    range: $range,
                    words: $words,
                    get: |limits| limits.$field as u64,
                    set: |limits, number| {
                        limits.$field = <$type>::try_from(number).expect("the range fits the field");
                    },
                },
            },)*
            $(Key {
                name: $word_name,
                doc: $word_doc,
                change: Change::Live,
                kind: Kind::Word {
                    words: &names_of!($word_table),
                    get: |limits| Some(name_of($word_table, limits.$word_field)),
                    set: |limits, word| limits.$word_field = meant_by($word_table, word),
                },
            },)*
            $($other,)*
        ];

        // A limit that has no key does not compile.
        const _: fn(&Limits) = |limits| {
            let Limits { $($field: _,)* $($word_field: _,)* $($other_field: _,)* } = limits;
        };
    };
}

/// The names in a table of words.
macro_rules! names_of {
    ($table:ident) => {{
        const NAMES: [&str; $table.len()] = {
            let mut names = [""; $table.len()];
            let mut at = 0;
            while at < names.len() {
                names[at] = $table[at].0;
                at += 1;
            }
            names
        };
        NAMES
    }};
}

const QUEUE_FULL: &[(&str, QueueFullPolicy)] = &[
    ("drop-oldest", QueueFullPolicy::DropOldest),
    ("drop-newest", QueueFullPolicy::DropNewest),
    ("disconnect", QueueFullPolicy::Disconnect),
    ("refuse", QueueFullPolicy::Refuse),
    ("hold", QueueFullPolicy::Hold),
];
const DURABILITIES: &[(&str, Durability)] = &[
    ("power", Durability::Power),
    ("process", Durability::Process),
    ("none", Durability::None),
];
const PUBLISH_RATE_FULL: &[(&str, PublishRatePolicy)] = &[
    ("wait", PublishRatePolicy::Wait),
    ("disconnect", PublishRatePolicy::Disconnect),
];
const LOG_LEVELS: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
];
const AUTH_METHODS: &[(&str, AuthMethod)] = &[
    ("anonymous", AuthMethod::Anonymous),
    ("password", AuthMethod::Password),
    ("cert", AuthMethod::Certificate),
    ("jwt", AuthMethod::Jwt),
    ("http", AuthMethod::Http),
];
const CLIENT_CERTIFICATES: &[(&str, ClientCertificate)] = &[
    ("none", ClientCertificate::None),
    ("optional", ClientCertificate::Optional),
    ("required", ClientCertificate::Required),
];
const CERTIFICATE_NAMES: &[(&str, CertificateName)] = &[
    ("none", CertificateName::None),
    ("cn", CertificateName::CommonName),
    ("san", CertificateName::SubjectAlternativeName),
    ("dn", CertificateName::DistinguishedName),
];
const TLS_VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)];

limit_keys! {
    numbers {
    connections_max: u32, "connections-max", Live, Count, 1..=U32, ENDLESS,
        "Connections in all, beside what RLIMIT_NOFILE allows.";
    connections_per_address_max: u32, "connections-per-address-max", Live, Count, 1..=U32, ENDLESS,
        "Connections from one address at a time.";
    connect_rate_max: u32, "connect-rate-max", Live, Count, 1..=U32, ENDLESS,
        "Connections accepted per second in all; more wait in the kernel's queue.";
    connect_rate_per_address_max: u32, "connect-rate-per-address-max", Live, Count, 1..=U32, ENDLESS,
        "Connections accepted per second from one address.";
    handshake_rate_max: u32, "handshake-rate-max", Live, Count, 1..=U32, ENDLESS,
        "TLS connections accepted per second in all; more wait in the kernel's queue.";
    connect_timeout_ms: u32, "connect-timeout", Live, Milliseconds, 100..=3_600_000, &[],
        "Time a new connection has for its whole CONNECT, with the handshakes before it, and then the store for its session.";
    connect_packet_bytes_max: u32, "connect-packet-bytes-max", Live, Bytes, 128..=(16 << 20), &[],
        "Largest CONNECT packet.";
    packet_bytes_max: u32, "packet-bytes-max", Restart, Bytes, 32..=268_435_460, &[],
        "Largest packet accepted from a client; announced to MQTT 5 clients.";
    receive_maximum: u16, "receive-maximum", Restart, Count, 1..=U16, &[],
        "QoS 1 and 2 messages a client may have unacknowledged towards the broker.";
    inflight_messages_max: u16, "inflight-messages-max", Live, Count, 1..=U16, &[],
        "QoS 1 and 2 messages the broker has unacknowledged towards one client.";
    topic_alias_maximum: u16, "topic-alias-maximum", Restart, Count, 0..=U16, &[],
        "Topic aliases a client may define.";
    outbound_topic_alias_max: u16, "outbound-topic-alias-max", Live, Count, 0..=U16, &[],
        "Topic aliases the broker defines towards one client.";
    publish_rate_max: u32, "publish-rate-max", Live, Count, 1..=U32, ENDLESS,
        "Messages per second from one client.";
    publish_bytes_rate_max: u32, "publish-bytes-rate-max", Live, Bytes, 1024..=U32, ENDLESS,
        "Bytes of messages per second from one client.";
    queue_messages_max: u32, "queue-messages-max", Live, Count, 1..=U32, &[],
        "Messages waiting for one session.";
    queue_bytes_max: u32, "queue-bytes-max", Live, Bytes, 1..=U32, &[],
        "Bytes of messages waiting for one session.";
    queue_resident_max: u32, "queue-resident-max", Live, Count, 1..=65_536, &[],
        "Stored messages of one session that wait in memory too; of others only the numbers are.";
    queue_age_s_max: u32, "queue-age-max", Live, Seconds, 1..=U32, ENDLESS,
        "How long a stored message may wait for one session.";
    queue_bytes_all_max: u64, "queue-bytes-all-max", Live, Bytes, 1024..=(1024 * GIB), &[],
        "Bytes of messages waiting for all sessions.";
    queue_hold_ms: u32, "queue-hold", Live, Milliseconds, 1..=QUEUE_HOLD_MS_MAX, &[],
        "How long an acknowledgement may wait for room in a queue whose policy is \"hold\".";
    outbound_bytes_max: u32, "outbound-bytes-max", Live, Bytes, 1024..=U32, &[],
        "Outbound bytes of one connection above which its QoS 0 messages are dropped and others wait.";
    session_expiry_s_max: u32, "session-expiry-max", Live, Seconds, 0..=U32, ENDLESS,
        "Longest Session Expiry Interval a client may ask for.";
    session_expiry_v3_s: u32, "session-expiry-v3", Live, Seconds, 0..=U32, ENDLESS,
        "How long the session of a 3.x client with Clean Session 0 outlives its connection.";
    keep_alive_s_max: u16, "keep-alive-max", Live, Seconds, 0..=U16, &[("infinity", 0)],
        "Longest Keep Alive; a client that asks for more, or for none, gets this one.";
    sessions_max: u32, "sessions-max", Live, Count, 1..=U32, &[],
        "Sessions in all.";
    subscriptions_per_session_max: u32, "subscriptions-per-session-max", Live, Count, 1..=U32, &[],
        "Subscriptions of one session.";
    topic_levels_max: u16, "topic-levels-max", Live, Count, 1..=U16, &[],
        "Levels of a topic name or topic filter.";
    topic_bytes_max: u16, "topic-bytes-max", Live, Bytes, 1..=U16, &[],
        "Bytes of a topic name or topic filter.";
    wildcard_levels_min: u16, "wildcard-levels-min", Live, Count, 0..=U16, &[],
        "Levels a filter has before its first wildcard, at least: 1 refuses # and +/a, 2 also a/#.";
    retained_messages_max: u32, "retained-messages-max", Live, Count, 0..=U32, &[],
        "Retained messages in all.";
    retained_bytes_max: u64, "retained-bytes-max", Live, Bytes, 0..=1024 * GIB, &[],
        "Bytes of retained messages in all.";
    memory_bytes_max: u64, "memory-max", Restart, Bytes, (16 << 20)..=1024 * GIB, &[("auto", 0), ("infinity", u64::MAX)],
        "Memory of the broker; near it, work is refused in the order of docs/limits.md. \"auto\" is four fifths of what the process may have.";
    ban_auth_failures_max: u32, "ban-auth-failures-max", Live, Count, 1..=U32, ENDLESS,
        "Failed authentications from one address within ban-window that ban it.";
    ban_takeovers_max: u32, "ban-takeovers-max", Live, Count, 1..=U32, ENDLESS,
        "Connects with an identifier that is connected, within ban-window, that ban it: two clients that fight over one.";
    ban_window_s: u32, "ban-window", Live, Seconds, 1..=86_400, &[],
        "The time in which these are counted.";
    ban_time_s: u32, "ban-time", Live, Seconds, 1..=U32, ENDLESS,
        "How long a ban lasts.";
    }
    words {
    queue_full, "queue-full", QUEUE_FULL,
        "What a full queue does: \"drop-oldest\", \"drop-newest\", \"disconnect\", \"refuse\" or \"hold\".";
    publish_rate_full, "publish-rate-full", PUBLISH_RATE_FULL,
        "What happens to a client that publishes too fast: \"wait\" (it is not read) or \"disconnect\".";
    }
    others {
        queue_full_rules: Key {
            name: "queue-full-rules",
            doc: "The same for some clients, such as [\"sensor-*=drop-newest\"]; the first whose client identifier matches holds.",
            change: Change::Live,
            kind: Kind::List {
                wanted: "rules",
                get: |limits| {
                    let rule = |rule: &QueueFullRule| format!("{}={}", rule.client_id, rule.policy.name());
                    limits.queue_full_rules.iter().map(rule).collect()
                },
                set: |limits, items| {
                    limits.queue_full_rules = items.iter().map(|item| parse_rule(item)).collect::<Result<_, _>>()?;
                    Ok(())
                },
            },
        };
    }
}

/// Every key outside `[limits]` and `[listener.NAME]`.
pub(super) static TOP_KEYS: &[Key<Config>] = &[
    Key {
        name: "cores",
        doc: "Shards, one thread each: a number from 1 to 64, or \"auto\" for the CPUs this process may use.",
        change: Change::Restart,
        kind: Kind::Text {
            wanted: "\"auto\" or a whole number from 1 to 64",
            get: |config| {
                Some(match config.cores {
                    CoreCount::Auto => "auto".into(),
                    CoreCount::Exactly(count) => count.to_string(),
                })
            },
            set: |config, text| {
                config.cores = match text {
                    "auto" => CoreCount::Auto,
                    _ => {
                        let count = text.parse().ok();
                        let count = count.filter(|count| (1..=ShardId::COUNT_MAX).contains(count));
                        CoreCount::Exactly(count.ok_or("")?)
                    }
                };
                Ok(())
            },
        },
    },
    Key {
        name: "pin",
        doc: "Whether each shard's thread stays on one CPU.",
        change: Change::Restart,
        kind: Kind::Bool {
            get: |config| config.pin,
            set: |config, pin| config.pin = pin,
        },
    },
    Key {
        name: "data-dir",
        doc: "Directory of what outlives the process; without one it is ringmq in $XDG_STATE_HOME or ~/.local/state.",
        change: Change::Restart,
        kind: Kind::Text {
            wanted: "a directory",
            get: |config| Some(config.data_dir.as_ref()?.display().to_string()),
            set: |config, text| {
                config.data_dir = Some(text.into());
                Ok(())
            },
        },
    },
    Key {
        name: "durability",
        doc: "What is acknowledged survives \"power\" loss, the end of the \"process\", or \"none\" of them: then nothing is stored.",
        change: Change::Restart,
        kind: Kind::Word {
            words: &names_of!(DURABILITIES),
            get: |config| Some(name_of(DURABILITIES, config.durability)),
            set: |config, word| config.durability = meant_by(DURABILITIES, word),
        },
    },
    Key {
        name: "log-level",
        doc: "\"error\", \"warn\", \"info\" or \"debug\".",
        change: Change::Live,
        kind: Kind::Word {
            words: &names_of!(LOG_LEVELS),
            get: |config| Some(name_of(LOG_LEVELS, config.log_level)),
            set: |config, word| config.log_level = meant_by(LOG_LEVELS, word),
        },
    },
    Key {
        name: "auth",
        doc: "How clients of every listener that does not say it itself prove who they are: \"anonymous\" (not at all), \"password\", \"cert\", \"jwt\" or \"http\".",
        change: Change::Live,
        kind: Kind::Word {
            words: &names_of!(AUTH_METHODS),
            get: |config| Some(name_of(AUTH_METHODS, config.auth?)),
            set: |config, word| config.auth = Some(meant_by(AUTH_METHODS, word)),
        },
    },
];

/// Every key of `[listener.NAME]`.
pub(super) static LISTENER_KEYS: &[Key<ListenerSpec>] = &[
    Key {
        name: "bind",
        doc: "Address and port, such as 0.0.0.0:1883 or [::]:8883, or unix:/run/ringmq/mqtt.sock.",
        change: Change::Restart,
        kind: Kind::Text {
            wanted: BIND_WANTED,
            get: |spec| Some(spec.bind.to_string()),
            set: |spec, text| {
                spec.bind = parse_bind(text)?;
                Ok(())
            },
        },
    },
    Key {
        name: "auth",
        doc: "How clients prove who they are: \"anonymous\" (not at all), \"password\", \"cert\", \"jwt\" or \"http\". Needed where other machines can connect.",
        change: Change::Live,
        kind: Kind::Word {
            words: &names_of!(AUTH_METHODS),
            get: |spec| Some(name_of(AUTH_METHODS, spec.auth?)),
            set: |spec, word| spec.auth = Some(meant_by(AUTH_METHODS, word)),
        },
    },
    Key {
        name: "connections-max",
        doc: "Connections through this listener at a time.",
        change: Change::Live,
        kind: Kind::Number {
            unit: Unit::Count,
            range: 1..=U32,
            words: ENDLESS,
            get: |spec| spec.connections_max.into(),
            set: |spec, number| {
                spec.connections_max = u32::try_from(number).expect("the range fits the field");
            },
        },
    },
    Key {
        name: "allow",
        doc: "Networks that may connect, such as [\"10.0.0.0/8\"]; none lets all in.",
        change: Change::Live,
        kind: Kind::List {
            wanted: "networks",
            get: |spec| texts(&spec.allow),
            set: |spec, items| {
                spec.allow = parse_all(items)?;
                Ok(())
            },
        },
    },
    Key {
        name: "deny",
        doc: "Networks that may not, even when `allow` names them.",
        change: Change::Live,
        kind: Kind::List {
            wanted: "networks",
            get: |spec| texts(&spec.deny),
            set: |spec, items| {
                spec.deny = parse_all(items)?;
                Ok(())
            },
        },
    },
    Key {
        name: "websocket",
        doc: "Whether MQTT comes in WebSocket frames.",
        change: Change::Live,
        kind: Kind::Bool {
            get: |spec| spec.websocket.is_some(),
            set: |spec, is_on| {
                spec.websocket = is_on.then(|| spec.websocket.take().unwrap_or_default());
            },
        },
    },
    Key {
        name: "unix-mode",
        doc: "Permission bits of a unix socket's file.",
        change: Change::Restart,
        kind: Kind::Text {
            wanted: "permission bits such as \"0660\"",
            get: |spec| match spec.bind {
                Bind::Unix { mode, .. } => Some(format!("0{mode:o}")),
                Bind::Tcp(_) => None,
            },
            set: |spec, text| match &mut spec.bind {
                Bind::Unix { mode, .. } => {
                    let bits = u32::from_str_radix(text, 8).ok();
                    *mode = bits.filter(|bits| *bits <= 0o777).ok_or("")?;
                    Ok(())
                }
                Bind::Tcp(_) => Err("only a unix socket has a file".into()),
            },
        },
    },
    Key {
        name: "websocket.paths",
        doc: "Paths that are served, such as [\"/mqtt\"]; none is any.",
        change: Change::Live,
        kind: Kind::List {
            wanted: "paths",
            get: |spec| from_websocket(spec, |websocket| websocket.paths.clone()),
            set: |spec, items| {
                if let Some(item) = items.iter().find(|item| !item.starts_with('/')) {
                    return Err(format!("`{item}` is no path; it must begin with /"));
                }
                spec.websocket.get_or_insert_default().paths = items.to_vec();
                Ok(())
            },
        },
    },
    Key {
        name: "websocket.origins",
        doc: "Origins of pages that may connect, such as [\"https://example.org\"]; none is any.",
        change: Change::Live,
        kind: Kind::List {
            wanted: "origins",
            get: |spec| from_websocket(spec, |websocket| websocket.origins.clone()),
            set: |spec, items| {
                if let Some(item) = items.iter().find(|item| !item.contains("://")) {
                    return Err(format!("`{item}` is no origin such as https://example.org"));
                }
                spec.websocket.get_or_insert_default().origins = items.to_vec();
                Ok(())
            },
        },
    },
    Key {
        name: "websocket.trusted-proxies",
        doc: "Networks of proxies whose X-Forwarded-For is believed.",
        change: Change::Live,
        kind: Kind::List {
            wanted: "networks",
            get: |spec| from_websocket(spec, |websocket| texts(&websocket.trusted_proxies)),
            set: |spec, items| {
                spec.websocket.get_or_insert_default().trusted_proxies = parse_all(items)?;
                Ok(())
            },
        },
    },
    Key {
        name: "proxy.trusted",
        doc: "Networks of proxies, whose connections must begin with a PROXY header; others are closed.",
        change: Change::Live,
        kind: Kind::List {
            wanted: "networks",
            get: |spec| {
                let trusted = spec.proxy.as_ref().map(|proxy| texts(&proxy.trusted));
                trusted.unwrap_or_default()
            },
            set: |spec, items| {
                let trusted = parse_all(items)?;
                spec.proxy = Some(ProxySpec { trusted });
                Ok(())
            },
        },
    },
    Key {
        name: "tls.certificate-file",
        doc: "The server's certificate and those between it and its root (PEM); a list for several names.",
        change: Change::Live,
        kind: Kind::Files {
            get: |spec| {
                from_tls(spec, |tls| {
                    paths(&tls.certificates, |pair| &pair.certificate)
                })
            },
            set: |spec, paths| {
                for (pair, path) in pairs(spec, paths.len()).iter_mut().zip(paths) {
                    pair.certificate = path;
                }
            },
        },
    },
    Key {
        name: "tls.key-file",
        doc: "The private key of each certificate (PEM), in the same order.",
        change: Change::Live,
        kind: Kind::Files {
            get: |spec| from_tls(spec, |tls| paths(&tls.certificates, |pair| &pair.key)),
            set: |spec, paths| {
                for (pair, path) in pairs(spec, paths.len()).iter_mut().zip(paths) {
                    pair.key = path;
                }
            },
        },
    },
    Key {
        name: "tls.version-min",
        doc: "The oldest version that is spoken: \"1.2\" or \"1.3\".",
        change: Change::Live,
        kind: Kind::Word {
            words: &names_of!(TLS_VERSIONS),
            get: |spec| Some(name_of(TLS_VERSIONS, spec.tls.as_ref()?.version_min)),
            set: |spec, word| tls(spec).version_min = meant_by(TLS_VERSIONS, word),
        },
    },
    Key {
        name: "tls.client-certificate",
        doc: "Whether clients show certificates: \"none\", \"optional\" or \"required\".",
        change: Change::Live,
        kind: Kind::Word {
            words: &names_of!(CLIENT_CERTIFICATES),
            get: |spec| {
                Some(name_of(
                    CLIENT_CERTIFICATES,
                    spec.tls.as_ref()?.client_certificate,
                ))
            },
            set: |spec, word| tls(spec).client_certificate = meant_by(CLIENT_CERTIFICATES, word),
        },
    },
    Key {
        name: "tls.client-ca-file",
        doc: "The authorities of client certificates (PEM).",
        change: Change::Live,
        kind: Kind::Files {
            get: |spec| from_tls(spec, |tls| paths(&tls.client_ca, |path| path)),
            set: |spec, paths| tls(spec).client_ca = paths,
        },
    },
    Key {
        name: "tls.crl-file",
        doc: "Lists of revoked client certificates (PEM).",
        change: Change::Live,
        kind: Kind::Files {
            get: |spec| from_tls(spec, |tls| paths(&tls.crl, |path| path)),
            set: |spec, paths| tls(spec).crl = paths,
        },
    },
    Key {
        name: "tls.username-from",
        doc: "What of a client's certificate is its user name: \"none\", \"cn\", \"san\" or \"dn\".",
        change: Change::Live,
        kind: Kind::Word {
            words: &names_of!(CERTIFICATE_NAMES),
            get: |spec| Some(name_of(CERTIFICATE_NAMES, spec.tls.as_ref()?.username_from)),
            set: |spec, word| tls(spec).username_from = meant_by(CERTIFICATE_NAMES, word),
        },
    },
    Key {
        name: "tcp.keepalive",
        doc: "Silence after which the kernel probes whether the peer is there.",
        change: Change::Restart,
        kind: Kind::Number {
            unit: Unit::Seconds,
            range: 1..=32_767,
            words: &[("infinity", 0)],
            get: |spec| spec.tcp.keepalive_s.unwrap_or(0).into(),
            set: |spec, number| spec.tcp.keepalive_s = some_unless_0(number),
        },
    },
    Key {
        name: "tcp.user-timeout",
        doc: "Time that sent bytes may stay unacknowledged before the connection ends; \"infinity\" leaves it to the kernel.",
        change: Change::Restart,
        kind: Kind::Number {
            unit: Unit::Milliseconds,
            range: 1..=U32,
            words: &[("infinity", 0)],
            get: |spec| spec.tcp.user_timeout_ms.unwrap_or(0).into(),
            set: |spec, number| spec.tcp.user_timeout_ms = some_unless_0(number),
        },
    },
    Key {
        name: "tcp.dual-stack",
        doc: "Whether [::] takes IPv4 connections too.",
        change: Change::Restart,
        kind: Kind::Bool {
            get: |spec| spec.tcp.dual_stack,
            set: |spec, is_on| spec.tcp.dual_stack = is_on,
        },
    },
];

/// The permission bits of a unix socket whose configuration does not say.
const UNIX_MODE: u32 = 0o660;
/// The tables of the file.
const TABLES: [&str; 4] = ["listener", "login", "acl", "limits"];
const BIND_WANTED: &str = "ADDR:PORT or unix:PATH";

/// A listener of which nothing but the name is known yet.
pub(super) fn unbound_listener(name: &str) -> ListenerSpec {
    ListenerSpec::tcp(name, SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)))
}

fn tls(spec: &mut ListenerSpec) -> &mut TlsSpec {
    spec.tls.get_or_insert_default()
}

/// The certificates of a listener, `count` of them at least.
fn pairs(spec: &mut ListenerSpec, count: usize) -> &mut [CertificateSpec] {
    let pairs = &mut tls(spec).certificates;
    let missing = || CertificateSpec {
        certificate: PathBuf::new(),
        key: PathBuf::new(),
    };
    pairs.resize_with(count.max(pairs.len()), missing);
    pairs
}

fn from_tls<'a, R: Default>(spec: &'a ListenerSpec, get: impl FnOnce(&'a TlsSpec) -> R) -> R {
    spec.tls.as_ref().map(get).unwrap_or_default()
}

fn from_websocket(
    spec: &ListenerSpec,
    get: impl FnOnce(&WebSocketSpec) -> Vec<String>,
) -> Vec<String> {
    spec.websocket.as_ref().map(get).unwrap_or_default()
}

fn paths<T>(items: &[T], path: impl Fn(&T) -> &PathBuf) -> Vec<&Path> {
    let paths = items.iter().map(|item| path(item).as_path());
    paths.filter(|path| !path.as_os_str().is_empty()).collect()
}

fn texts(items: &[impl Display]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn parse_all(items: &[String]) -> Result<Vec<Network>, String> {
    items.iter().map(|item| Network::from_str(item)).collect()
}

/// Reads `CLIENT-ID=POLICY`.
fn parse_rule(text: &str) -> Result<QueueFullRule, String> {
    let rule = text.rsplit_once('=').and_then(|(client_id, policy)| {
        Some(QueueFullRule {
            client_id: client_id.into(),
            policy: QueueFullPolicy::from_name(policy)?,
        })
    });
    let policies = one_of(&names_of!(QUEUE_FULL));
    rule.ok_or_else(|| format!("`{text}` is no rule such as sensor-*=POLICY with {policies}"))
}

fn some_unless_0(number: u64) -> Option<u32> {
    let number = u32::try_from(number).expect("the range fits the field");
    (number != 0).then_some(number)
}

fn name_of<T: Copy + PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    let found = table.iter().find(|(_, other)| *other == value);
    found.expect("every value has a word").0
}

fn meant_by<T: Copy>(table: &[(&'static str, T)], word: &str) -> T {
    let found = table.iter().find(|(name, _)| *name == word);
    found.expect("the key lets no other word through").1
}

/// Reads where to listen.
pub(super) fn parse_bind(text: &str) -> Result<Bind, String> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        if !path.starts_with('/') {
            return Err(format!("`{path}` must be an absolute path"));
        }
        return Ok(Bind::Unix {
            path: path.into(),
            mode: UNIX_MODE,
        });
    }
    let resolved = text
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    let address = resolved.as_deref().unwrap_or(text).parse();
    address.map(Bind::Tcp).map_err(|_| {
        format!("`{text}` is no address to listen on; write ADDR:PORT, such as 127.0.0.1:1883 or [::]:1883, or unix:PATH")
    })
}

/// Sets the key `name` (`cores`, `limits.packet-bytes-max`, `listener.tcp.bind`).
///
/// Errors: a sentence for the operator, which names the key.
pub(super) fn set(
    config: &mut Config,
    name: &str,
    value: &Value,
    places: Places<'_>,
) -> Result<(), String> {
    if let Some(key) = TOP_KEYS.iter().find(|key| key.name == name) {
        return key.set(name, config, value, places);
    }
    match name.split_once('.') {
        Some(("limits", rest)) => match LIMIT_KEYS.iter().find(|key| key.name == rest) {
            Some(key) => key.set(name, &mut config.limits, value, places),
            None => Err(unknown(name)),
        },
        Some(("login", rest)) => match LOGIN_KEYS.iter().find(|key| key.name == rest) {
            Some(key) => key.set(name, &mut config.login, value, places),
            None if matches!(rest, "jwt" | "http") && *value == Value::Table => Ok(()),
            None => Err(unknown(name)),
        },
        Some(("acl", rest)) => match ACL_KEYS.iter().find(|key| key.name == rest) {
            Some(key) => key.set(name, &mut config.acl, value, places),
            None => Err(unknown(name)),
        },
        Some(("listener", rest)) => set_listener(config, name, rest, value, places),
        // `[limits]` without a key says nothing, and is no mistake.
        None if TABLES.contains(&name) && *value == Value::Table => Ok(()),
        _ => Err(unknown(name)),
    }
}

fn set_listener(
    config: &mut Config,
    name: &str,
    rest: &str,
    value: &Value,
    places: Places<'_>,
) -> Result<(), String> {
    let (listener, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if listener.is_empty() || !listener.chars().all(is_word) {
        return Err(format!(
            "`{listener}` is no name for a listener; use letters, digits, - and _"
        ));
    }
    let key = LISTENER_KEYS.iter().find(|key| key.name == rest);
    let is_table = rest.is_empty() || LISTENER_KEYS.iter().any(|key| is_below(key.name, rest));
    let key = match key {
        Some(key) => key,
        None if is_table && *value == Value::Table => return Ok(()),
        None => return Err(unknown(name)),
    };
    // The environment knows neither small letters nor dashes.
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    let at = config
        .listeners
        .iter()
        .position(|spec| plain(&spec.name) == plain(listener));
    let at = at.unwrap_or_else(|| {
        config.listeners.push(unbound_listener(listener));
        config.listeners.len() - 1
    });
    key.set(name, &mut config.listeners[at], value, places)
}

/// Whether `key` is in the table `table`.
fn is_below(key: &str, table: &str) -> bool {
    key.strip_prefix(table)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// What to say of a key that does not exist.
pub(super) fn unknown(name: &str) -> String {
    if name == "allow-anonymous" || name == "allow_anonymous" {
        return format!(
            "unknown key `{name}`; write `auth = \"anonymous\"`, here or in a listener's table"
        );
    }
    let plain = name.replace('_', "-");
    // In a listener's table the listener's own name is not the mistake.
    let listener = plain
        .strip_prefix("listener.")
        .and_then(|rest| rest.split_once('.'))
        .map(|(listener, _)| format!("listener.{listener}."));
    let tops = TOP_KEYS.iter().map(|key| key.name.to_owned());
    let limits = LIMIT_KEYS.iter().map(|key| format!("limits.{}", key.name));
    let prefix = listener.as_deref().unwrap_or("listener.NAME.");
    let listeners = LISTENER_KEYS
        .iter()
        .map(|key| format!("{prefix}{}", key.name));
    let login = LOGIN_KEYS.iter().map(|key| format!("login.{}", key.name));
    let acl = ACL_KEYS.iter().map(|key| format!("acl.{}", key.name));
    // The table that the key is in is not what was meant.
    let tables = TABLES.iter().filter(|table| !is_below(&plain, table));
    let tables = tables.map(|&table| table.to_owned());
    let all: Vec<String> = tops
        .chain(limits)
        .chain(listeners)
        .chain(login)
        .chain(acl)
        .chain(tables)
        .collect();
    // A key's last name is enough to find it: people forget the table.
    let last = plain.rsplit('.').next().unwrap_or_default();
    let ends = |key: &&String| key.rsplit('.').next() == Some(last);
    let meant = closest(&plain, all.iter().map(String::as_str))
        .or_else(|| all.iter().find(ends).map(String::as_str));
    match meant {
        Some(meant) => format!("unknown key `{name}`; did you mean `{meant}`?"),
        None => format!("unknown key `{name}`; `ringmq config default` prints them all"),
    }
}

/// Whether an environment variable that begins with `RINGMQ_` is meant to be a key, and not one of those that an
/// orchestrator sets for a service of that name.
pub(super) fn is_meant(name: &str) -> bool {
    let tops = || TOP_KEYS.iter().map(|key| key.name).chain(["bind"]);
    let table = name.split_once('.').map(|(table, _)| table);
    table.is_some_and(|table| TABLES.contains(&table))
        || tops().any(|top| top == name)
        || closest(name, tops()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_to(config: &mut Config, name: &str, text: &str) -> Result<(), String> {
        set(config, name, &Value::Commas(text.into()), Places::default())
    }

    #[test]
    fn every_limit_takes_the_ends_of_its_range_and_not_more() {
        for key in LIMIT_KEYS {
            let Kind::Number {
                unit,
                range,
                words,
                get,
                ..
            } = &key.kind
            else {
                continue;
            };
            let mut config = Config::default();
            let name = format!("limits.{}", key.name);
            for end in [*range.start(), *range.end()] {
                set_to(&mut config, &name, &unit.format(end)).unwrap();
                assert_eq!(get(&config.limits), end, "{name}");
                let shown = key.show(&config.limits).unwrap();
                set_to(&mut config, &name, shown.trim_matches('"')).unwrap();
                assert_eq!(get(&config.limits), end, "{name} {shown}");
            }
            let beyond = set_to(&mut config, &name, &unit.format(*range.end() + 1));
            assert!(beyond.unwrap_err().contains(key.name));
            let default = get(&Limits::default());
            let is_word = words.iter().any(|(_, meant)| *meant == default);
            assert!(is_word || range.contains(&default), "{name}");
            for (word, meant) in *words {
                set_to(&mut config, &name, word).unwrap();
                assert_eq!(get(&config.limits), *meant, "{name}");
                assert_eq!(key.show(&config.limits).unwrap(), format!("{word:?}"));
            }
        }
    }

    #[test]
    fn words_are_taken_and_shown() {
        let mut config = Config::default();
        for (name, word) in [
            ("auth", "cert"),
            ("log-level", "debug"),
            ("limits.queue-full", "disconnect"),
            ("listener.a.auth", "anonymous"),
            ("listener.a.tls.version-min", "1.3"),
            ("listener.a.tls.client-certificate", "required"),
            ("listener.a.tls.username-from", "san"),
        ] {
            set_to(&mut config, name, word).unwrap();
            let error = set_to(&mut config, name, "odd").unwrap_err();
            assert!(error.contains(&format!("{word:?}")), "{error}");
        }
        assert_eq!(config.limits.queue_full, QueueFullPolicy::Disconnect);
        let tls = config.listeners[0].tls.as_ref().unwrap();
        assert_eq!(tls.version_min, TlsVersion::V13);
        assert_eq!(tls.username_from, CertificateName::SubjectAlternativeName);
    }

    #[test]
    fn errors_name_key_value_and_range() {
        let mut config = Config::default();
        let mut error = |name, text| set_to(&mut config, name, text).unwrap_err();
        for (name, text, message) in [
            (
                "limits.packet-bytes-max",
                "1GiB",
                "`limits.packet-bytes-max` is 1GiB; it must be from 32 to 268435460",
            ),
            (
                "limits.connections-max",
                "0",
                "`limits.connections-max` is 0; it must be from 1 to 4294967295, or \"infinity\"",
            ),
            (
                "limits.sessions-max",
                "many",
                "`limits.sessions-max`: `many` is not a whole number",
            ),
            (
                "limits.receive-maximum",
                "infinity",
                "`limits.receive-maximum` cannot be infinite",
            ),
            (
                "cores",
                "0",
                "`cores` is `0`; it must be \"auto\" or a whole number from 1 to 64",
            ),
            ("croes", "1", "unknown key `croes`; did you mean `cores`?"),
            (
                "limits.x",
                "1",
                "unknown key `limits.x`; `ringmq config default` prints them all",
            ),
            (
                "limits.queue_byte_max",
                "1",
                "unknown key `limits.queue_byte_max`; did you mean `limits.queue-bytes-max`?",
            ),
            (
                "sessions-max",
                "1",
                "unknown key `sessions-max`; did you mean `limits.sessions-max`?",
            ),
            (
                "listener.lan.tls.certificate",
                "a.pem",
                "unknown key `listener.lan.tls.certificate`; did you mean `listener.lan.tls.certificate-file`?",
            ),
            (
                "listener.lan.bnid",
                "a",
                "unknown key `listener.lan.bnid`; did you mean `listener.lan.bind`?",
            ),
            (
                "listeners.lan.bind",
                "a",
                "unknown key `listeners.lan.bind`; did you mean `listener.NAME.bind`?",
            ),
            (
                "login.password_file",
                "a",
                "unknown key `login.password_file`; did you mean `login.password-file`?",
            ),
            (
                "password-file",
                "a",
                "unknown key `password-file`; did you mean `login.password-file`?",
            ),
            (
                "acl.rule",
                "read a",
                "unknown key `acl.rule`; did you mean `acl.rules`?",
            ),
            (
                "allow-anonymous",
                "true",
                "unknown key `allow-anonymous`; write `auth = \"anonymous\"`, here or in a listener's table",
            ),
            (
                "limits.queue-full-rules",
                "a*=odd",
                "`limits.queue-full-rules`: `a*=odd` is no rule such as sensor-*=POLICY with \"drop-oldest\", \
                 \"drop-newest\", \"disconnect\", \"refuse\" or \"hold\"",
            ),
            (
                "listener.lan.deny",
                "10.0.0.1/8",
                "`listener.lan.deny`: `10.0.0.1/8` has bits beyond its prefix: 10.0.0.0/8 is meant?",
            ),
            (
                "listener.lan.unix-mode",
                "0660",
                "`listener.lan.unix-mode`: only a unix socket has a file",
            ),
            (
                "listener.lan.websocket.paths",
                "mqtt",
                "`listener.lan.websocket.paths`: `mqtt` is no path; it must begin with /",
            ),
            (
                "listener.a b.bind",
                "x",
                "`a b` is no name for a listener; use letters, digits, - and _",
            ),
        ] {
            assert_eq!(error(name, text), message);
        }
        assert!(error("listener.tcp.bind", "1883").contains("ADDR:PORT"));
        assert!(error("limits.queue-full", "explode").contains("drop-oldest"));
        let error = set(&mut config, "cores", &Value::Table, Places::default());
        assert_eq!(
            error.unwrap_err(),
            "`cores` must be \"auto\" or a whole number from 1 to 64"
        );
    }
}

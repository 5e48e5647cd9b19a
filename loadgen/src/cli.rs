//! The command line.

use crate::assertion::Assertion;
use clap::{ArgAction, Args, Parser, Subcommand};
use ringmq::client::target::TransportArgs;
use ringmq::client::url;
use ringmq::protocol::Version;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A load generator for MQTT brokers that checks what it received.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, disable_help_flag = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Print help.
    #[arg(long, action = ArgAction::Help, global = true)]
    help: Option<bool>,
}

/// The shapes of load.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Connect clients that stay idle, and tell what each costs the broker.
    Conn(Conn),
    /// Pairs of a publisher and a subscriber.
    Pubsub(Shape),
    /// One publisher to many subscribers.
    Fanout(Shape),
    /// Many publishers to one subscriber.
    Fanin(Shape),
    /// Many publishers to subscribers that share their subscription.
    Shared(Shared),
    /// One publisher to many subscribers, some of which stop reading while it is measured.
    Slow(Slow),
    /// Clients that come and go: each connects, subscribes, publishes to itself with QoS 1, receives it, leaves.
    Churn(Churn),
    /// Queue messages for sessions that are away, then let them come for them.
    Durable(Durable),
    /// Store retained messages, replay them to new subscribers, remove them.
    Retained(Retained),
    /// Publish, for subscribers of other processes.
    Pub(Publish),
    /// Subscribe to what `loadgen pub` publishes elsewhere.
    Sub(Subscribe),
    /// Make the report of runs that were written with --out again; several are laid over each other.
    Report(Report),
    /// Compare two runs that were written with --out.
    Compare(Compare),
    /// Be a byte relay: the physical limit to compare a broker with. QoS 0 only, for this generator only.
    Relay(RelayArgs),
}

/// Idle connections.
#[derive(Debug, Args)]
pub struct Conn {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// Connections.
    #[arg(short = 'c', long, default_value_t = 1_000)]
    pub count: u32,
    /// Let each client subscribe to a topic of its own.
    #[arg(long)]
    pub subscribe: bool,
    /// How long to stay once all are connected.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub hold: Duration,
}

/// Publishers and subscribers.
#[derive(Debug, Args)]
pub struct Shape {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// The messages.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Pairs (pubsub), subscribers (fanout) or publishers (fanin).
    #[arg(short = 'c', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
}

/// Publishers and a group of subscribers.
#[derive(Debug, Args)]
pub struct Shared {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// The messages.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publishers.
    #[arg(short = 'c', long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// Subscribers that share. With --cores N there are N groups, each with its part of the publishers.
    #[arg(short = 'm', long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub members: u32,
}

/// A publisher and subscribers that do not all keep up.
#[derive(Debug, Args)]
pub struct Slow {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// The messages; only an open loop makes sense.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Subscribers.
    #[arg(short = 'c', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// How many of them do not read in the measured interval. Latencies and losses are those of the others.
    #[arg(long, default_value_t = 1)]
    pub slow: u32,
}

/// Clients that come and go.
#[derive(Debug, Args)]
pub struct Churn {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Clients that go through their cycles at the same time.
    #[arg(short = 'c', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// Open loop: cycles per second on an absolute schedule, whose times count from when a cycle was due.
    /// Without it each client begins again as soon as it is done.
    #[arg(short = 'r', long, value_parser = rate)]
    pub rate: Option<f64>,
    /// Let sessions outlive their connections (for an hour), so that each cycle finds the last one's.
    #[arg(long)]
    pub keep_sessions: bool,
    /// Payload bytes.
    #[arg(short = 's', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16 << 20))]
    pub size: u32,
    /// How long to go before measuring.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// How long to measure.
    #[arg(short = 'd', long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Fail (exit 99) when a message is corrupt or a cycle that was due did not begin.
    #[arg(long)]
    pub verify: bool,
}

/// Queued messages.
#[derive(Debug, Args)]
pub struct Durable {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Sessions that are away.
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub count: u32,
    /// Messages for each of them.
    #[arg(short = 'm', long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub messages: u64,
    /// QoS of publication and subscriptions.
    #[arg(short = 'q', long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub qos: u8,
    /// Payload bytes.
    #[arg(short = 's', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16 << 20))]
    pub size: u32,
    /// Publications whose handshake is not done, at most.
    #[arg(short = 'F', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub inflight: u32,
    /// Fail (exit 99) when a message is lost, duplicated, reordered, corrupt, refused or not acknowledged, or
    /// a session was gone.
    #[arg(long)]
    pub verify: bool,
}

/// Retained messages.
#[derive(Debug, Args)]
pub struct Retained {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Subscribers that come when all messages are stored.
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub count: u32,
    /// Retained messages, each with a topic of its own; they are stored with QoS 1.
    #[arg(short = 'm', long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    pub messages: u64,
    /// QoS of the subscriptions.
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes.
    #[arg(short = 's', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16 << 20))]
    pub size: u32,
    /// Publications whose handshake is not done, at most.
    #[arg(short = 'F', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub inflight: u32,
    /// Fail (exit 99) when a message is duplicated, corrupt, refused or not acknowledged, or (QoS 1 and 2) lost.
    #[arg(long)]
    pub verify: bool,
}

/// Publishers only.
#[derive(Debug, Args)]
pub struct Publish {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// The messages. In a closed loop the window is that of the acknowledgements.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publishers.
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// The topic; %i is the publisher's number from --startnumber on, %c its Client Identifier.
    #[arg(short = 't', long)]
    pub topic: String,
}

/// Subscribers only.
#[derive(Debug, Args)]
pub struct Subscribe {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// Subscribers.
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// The filter; %i is the subscriber's number from --startnumber on, %c its Client Identifier.
    #[arg(short = 't', long)]
    pub topic: String,
    /// QoS of the subscriptions.
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes that the publishers send; other messages count as corrupt.
    #[arg(short = 's', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16 << 20))]
    pub size: u32,
    /// How long to count.
    #[arg(short = 'd', long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Fail (exit 99) as the other verbs do. Of the loss only what later messages show is known.
    #[arg(long)]
    pub verify: bool,
}

/// The messages and their pace.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// QoS of publications and subscriptions.
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes, at least 16; they carry publisher, sequence and intended time.
    #[arg(short = 's', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16 << 20))]
    pub size: u32,
    /// Open loop: messages per second over all publishers, on an absolute schedule. Latency counts from the
    /// time a message was due.
    #[arg(short = 'r', long, value_parser = rate, required_unless_present = "closed_loop", conflicts_with = "closed_loop")]
    pub rate: Option<f64>,
    /// Closed loop: each publisher sends as soon as its window has room. The latency is then service time: it
    /// leaves out what a stall would have cost messages that were not sent.
    #[arg(long)]
    pub closed_loop: bool,
    /// Closed loop: messages of a publisher whose delivery has not come back.
    #[arg(short = 'F', long, default_value_t = 32, conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub inflight: u32,
    /// How long to send before measuring.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// How long to measure.
    #[arg(short = 'd', long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Fail (exit 99) when a message is corrupt, duplicated or reordered, or one of QoS 1 or 2 is lost,
    /// refused or not acknowledged.
    #[arg(long)]
    pub verify: bool,
}

/// Reports.
#[derive(Debug, Args)]
pub struct Report {
    /// Directories that --out wrote.
    #[arg(value_name = "DIR", required = true)]
    pub runs: Vec<PathBuf>,
    /// Where to write the report [default: report.html in the directory, or here when there are several]
    #[arg(short = 'o', long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Comparisons.
#[derive(Debug, Args)]
pub struct Compare {
    /// The directory of the run to compare with.
    #[arg(value_name = "A")]
    pub base: PathBuf,
    /// The directory of the run in question.
    #[arg(value_name = "B")]
    pub new: PathBuf,
    /// A change for the worse by more than this, in percent, is a regression (exit 99).
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT", value_parser = percent)]
    pub threshold: f64,
    /// Compare runs that are not alike, and runs that are invalid.
    #[arg(long)]
    pub force: bool,
    /// Print the comparison as JSON.
    #[arg(long)]
    pub json: bool,
}

/// The relay.
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub bind: SocketAddr,
}

/// The broker, and what is reported of it.
#[derive(Debug, Args)]
pub struct Target {
    /// The broker's host name or address.
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub host: String,
    /// The broker's port [default: 1883, with TLS 8883, with WebSocket 80 or 443]
    #[arg(short = 'p', long)]
    pub port: Option<u16>,
    /// Host, port and transport in one: mqtt://host:port, or mqtts, ws, wss, unix
    #[arg(short = 'L', long, value_name = "URL", conflicts_with_all = ["host", "port", "unix"])]
    pub url: Option<String>,
    /// Use TLS, as --tls
    #[arg(short = 'S', long)]
    pub ssl: bool,
    /// TLS, WebSocket and unix sockets.
    #[command(flatten)]
    pub transport: TransportArgs,
    /// MQTT version: 3 (3.1), 4 (3.1.1) or 5.
    #[arg(short = 'V', long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(3..=5))]
    pub mqtt_version: u8,
    /// The User Name.
    #[arg(short = 'u', long)]
    pub username: Option<String>,
    /// The Password.
    #[arg(short = 'P', long, env = "LOADGEN_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// What Client Identifiers and topics begin with; by default it names this process.
    #[arg(long)]
    pub prefix: Option<String>,
    /// Source addresses, as a list or an IPv4 network: 127.0.0.2,127.0.0.3 or 127.0.1.0/24.
    #[arg(long, value_parser = addresses)]
    pub ifaddr: Option<Addresses>,
    /// The broker's process on this machine: its CPU time and memory are reported, children included.
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// What the broker is and its version, for the outputs; by default what it says of itself in
    /// $SYS/broker/version.
    #[arg(long, value_name = "TEXT")]
    pub broker_name: Option<String>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// Show nothing on stderr while it runs.
    #[arg(short = 'Q', long)]
    pub quiet: bool,
    /// Write a line each second, also on a terminal.
    #[arg(long, conflicts_with = "quiet")]
    pub plain: bool,
    /// Write report.html, summary.json, run.toml, timeline.csv, latency.hlog, latency.hgrm and plots into this
    /// directory, which is made if need be.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Serve metrics for Prometheus at this address while it runs, such as 127.0.0.1:9464.
    #[arg(long, value_name = "ADDR")]
    pub prometheus: Option<SocketAddr>,
    /// Fail (exit 99) unless this holds, such as 'p99<5ms', 'lost==0', 'delivered_per_s>=50k' (repeatable).
    #[arg(long = "assert", value_name = "CONDITION")]
    pub assertions: Vec<Assertion>,
}

impl Target {
    /// The broker's place, and what lies between.
    ///
    /// Errors: what cannot be, or a file of TLS that is wrong; in words.
    pub fn broker(&self) -> Result<ringmq::client::target::Target, String> {
        let url = self.url.as_deref().map(url::parse).transpose()?;
        let transport = self.transport.clone().or_tls(self.ssl);
        let host = Some(self.host.clone());
        ringmq::client::target::Target::new(
            &transport,
            url.as_ref(),
            host,
            self.port,
            self.version(),
        )
    }

    /// The version of MQTT.
    pub fn version(&self) -> Version {
        match self.mqtt_version {
            3 => Version::V31,
            4 => Version::V311,
            _ => Version::V5,
        }
    }
}

/// What the verbs have in common that run for a time.
#[derive(Debug, Args)]
pub struct Common {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Keep Alive in seconds; 0 is none.
    #[arg(short = 'k', long, default_value_t = 300)]
    pub keepalive: u16,
    /// The number of the first client in its Client Identifier.
    #[arg(short = 'n', long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=15 << 20))]
    pub startnumber: u32,
    /// New connections per second; without it, as fast as the broker accepts them.
    #[arg(short = 'R', long, value_parser = rate)]
    pub connect_rate: Option<f64>,
    /// Threads of the generator, each with its own ring. They are not pinned: use taskset.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub cores: u16,
}

/// Addresses to connect from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(pub Vec<IpAddr>);

fn addresses(text: &str) -> Result<Addresses, String> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let Some((network, bits)) = part.split_once('/') else {
            all.push(
                part.parse()
                    .map_err(|_| format!("{part} is not an IP address"))?,
            );
            continue;
        };
        let network: std::net::Ipv4Addr = network
            .parse()
            .map_err(|_| format!("{network} is not an IPv4 address"))?;
        let bits: u32 = bits
            .parse()
            .ok()
            .filter(|bits| (16..=32).contains(bits))
            .ok_or_else(|| format!("{part}: the prefix must be of 16 to 32 bits"))?;
        let size = 1_u32 << (32 - bits);
        let first = u32::from(network) & !(size - 1);
        // The first and the last address of a real network are not hosts.
        let hosts = if bits >= 31 { 0..size } else { 1..size - 1 };
        all.extend(hosts.map(|host| IpAddr::from(std::net::Ipv4Addr::from(first + host))));
    }
    Ok(Addresses(all))
}

/// Reads a percentage such as `5` or `2.5%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a percentage"))?;
    if (0.0..=1_000.0).contains(&number) {
        Ok(number)
    } else {
        Err("a threshold is at least 0 % and at most 1,000 %".into())
    }
}

/// Reads a duration such as `500ms`, `10s`, `2m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(format!("{unit} is not one of us, ms, s, m, h")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a duration"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|error| error.to_string())
}

/// Reads a number per second such as `250`, `50k`, `1.5M`.
pub fn rate(text: &str) -> Result<f64, String> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    let (number, scale) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1e3),
        None => text
            .strip_suffix(['m', 'M'])
            .map_or((text, 1.0), |number| (number, 1e6)),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a rate"))?;
    let rate = number * scale;
    if (0.001..=1e9).contains(&rate) {
        Ok(rate)
    } else {
        Err("a rate is at least 0.001 and at most 1,000,000,000 per second".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_of_rate_and_closed_loop_is_needed() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        assert!(parse("loadgen pubsub -r 5k").is_ok());
        assert!(parse("loadgen pubsub --closed-loop -F 8").is_ok());
        assert!(parse("loadgen pubsub").is_err());
        assert!(parse("loadgen pubsub -r 5k --closed-loop").is_err());
        assert!(parse("loadgen pubsub -r 5k -F 8").is_err());
        assert!(parse("loadgen pubsub -r 5k -s 15").is_err());
        assert!(parse("loadgen pubsub -r 5k -h localhost -p 1884 -V 5 -q 2").is_ok());
    }

    #[test]
    fn durations_and_rates() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5x").is_err() && duration("s").is_err() && duration("-1s").is_err());
        assert_eq!(rate("50k"), Ok(50_000.0));
        assert_eq!(rate("1.5M"), Ok(1_500_000.0));
        assert_eq!(rate("250/s"), Ok(250.0));
        assert!(rate("0").is_err() && rate("fast").is_err() && rate("NaN").is_err());
    }

    #[test]
    fn source_addresses() {
        let parsed = addresses("127.0.0.2,127.0.1.0/30").unwrap().0;
        let shown: Vec<_> = parsed.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.2", "127.0.1.1", "127.0.1.2"]);
        assert_eq!(addresses("127.0.0.9/32").unwrap().0.len(), 1);
        assert_eq!(addresses("127.0.0.0/16").unwrap().0.len(), 65_534);
        assert!(addresses("127.0.0.0/8").is_err() && addresses("localhost").is_err());
    }
}

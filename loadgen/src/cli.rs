//! The command line: its verbs, and what each takes.
//!
//! The letters are those of emqtt-bench, so that a command written for it does here what it does there. Where we
//! have more to say there are long names only.

pub use crate::args::{Common, LoadArgs, Target};

use crate::agent::{AgentArgs, RunArgs};
use crate::given::Given;
use crate::listener;
use crate::message::Message;
use crate::parse::{duration, percent, rate, rate_or_zero};
use crate::payload::SEQUENCES_MAX;
use crate::plan::{Names, Role};
use crate::suite::{self, Suite};
use crate::worker::Load;
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use ringmq::protocol::text::STRING_BYTES_MAX;
use ringmq::topic::filter::TopicFilter;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The longest that a limit of messages may take, in seconds: ten years, whose nanoseconds are far from the largest number.
const LIMITED_S_MAX: f64 = 10.0 * 365.0 * 86_400.0;
/// Subscriptions of a fan-out; each takes some hundred bytes.
const SUBSCRIPTIONS_MAX: u32 = 1 << 24;

/// A load generator for MQTT brokers that checks what it received.
#[derive(Clone, Debug, Parser)]
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
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Connect clients that stay idle, and tell what each costs the broker.
    Conn(Conn),
    /// Pairs of a publisher and a subscriber.
    Pubsub(Shape),
    /// One publisher (or more) to many subscribers.
    Fanout(Fanout),
    /// Many publishers to one subscriber.
    Fanin(Shape),
    /// Many publishers to subscribers that share their subscription.
    Shared(Shared),
    /// One publisher to many subscribers, some of which stop reading while it is measured.
    Slow(Slow),
    /// Publishers and a very large number of filters with wildcards; each message matches three of them.
    Wild(Wild),
    /// Clients that come and go: each connects, subscribes, publishes to itself with QoS 1, receives it, leaves.
    Churn(Churn),
    /// Clients that all come at once, after all were cut off: a power cut, or a birth storm.
    Storm(Storm),
    /// Very many clients with a topic each: connect them, then send to a random few of them and to all.
    Inbox(Inbox),
    /// Queue messages for sessions that are away, then let them come for them.
    Durable(Durable),
    /// Store retained messages, replay them to new subscribers, remove them.
    Retained(Retained),
    /// Publish, for subscribers of other processes.
    Pub(Publish),
    /// Subscribe to what `loadgen pub` publishes elsewhere.
    Sub(Subscribe),
    /// Run a load that has a name, such as those of the Open MQTT Benchmark Suite.
    Suite(Suite),
    /// Do what a leader says: one of several processes or hosts of a run.
    Agent(AgentArgs),
    /// Run a verb on several agents and add up what they saw.
    Run(RunArgs),
    /// Make the report of runs that were written with --out again; several are laid over each other.
    Report(Report),
    /// Compare two runs that were written with --out.
    Compare(Compare),
    /// Be a byte relay: the physical limit to compare a broker with. QoS 0 only, for this generator only.
    Relay(RelayArgs),
}

/// Idle connections.
#[derive(Clone, Debug, Args)]
pub struct Conn {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// Connections.
    #[arg(short = 'c', long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// Let each client subscribe to a topic of its own.
    #[arg(long)]
    pub subscribe: bool,
    /// How long to stay once all are connected.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub hold: Duration,
    /// Let Client Identifiers be the prefix and a number alone.
    #[arg(short = 's', long = "shortids")]
    pub short_ids: bool,
}

/// Publishers and subscribers.
#[derive(Clone, Debug, Args)]
pub struct Shape {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// The messages.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Pairs (pubsub) or publishers (fanin).
    #[arg(short = 'c', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
}

/// Few publishers and many subscribers.
#[derive(Clone, Debug, Args)]
pub struct Fanout {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// The messages.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Subscribers.
    #[arg(short = 'c', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// Publishers, each with its own topic; every subscriber subscribes to all of these.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub publishers: u32,
}

/// Publishers and a group of subscribers.
#[derive(Clone, Debug, Args)]
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
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub members: u32,
}

/// A publisher and subscribers that do not all keep up.
#[derive(Clone, Debug, Args)]
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

/// Publishers and filters with wildcards.
#[derive(Clone, Debug, Args)]
pub struct Wild {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// The messages.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Subscribers that the filters are spread over.
    #[arg(short = 'c', long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(3..=1 << 20))]
    pub count: u32,
    /// Publishers; each goes through all topics.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub publishers: u32,
    /// Filters: w/N/+/t, w/N/x/# and +/N/x/+ for each topic w/N/x/t.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(3..=2_999_999))]
    pub filters: u32,
}

/// Clients that come and go.
#[derive(Clone, Debug, Args)]
pub struct Churn {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Clients that go through their cycles at the same time.
    #[arg(short = 'c', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// Open loop: cycles per second on an absolute schedule, whose times count from when a cycle was due.
    /// Without it each client begins again as soon as it is done.
    #[arg(long, value_parser = rate)]
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

/// Clients that come all at once.
#[derive(Clone, Debug, Args)]
pub struct Storm {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Clients.
    #[arg(short = 'c', long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// Connects that are under way at a time; more than the broker's listen queue holds have to be repeated by
    /// the system, after a second.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub at_once: u32,
    /// Messages (QoS 0) that each publishes as soon as it is connected; a host application hears all of them.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub births: u32,
    /// Payload bytes of each.
    #[arg(short = 's', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16 << 20))]
    pub size: u32,
    /// Leave the connections of before the cut open, as a power cut does: the broker must find out by itself that
    /// their clients are gone. Needs twice the files.
    #[arg(long)]
    pub half_open: bool,
    /// Let sessions outlive the cut (for an hour).
    #[arg(long)]
    pub keep_sessions: bool,
    /// Fail (exit 99) when a client does not come back, or a message is lost, duplicated, reordered or corrupt.
    #[arg(long)]
    pub verify: bool,
}

/// Very many clients.
#[derive(Clone, Debug, Args)]
pub struct Inbox {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Clients, each with one subscription, to a topic of its own.
    #[arg(short = 'c', long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// Connects that are under way at a time; more than the broker's listen queue holds have to be repeated by
    /// the system, after a second.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub at_once: u32,
    /// Keep Alive in seconds; 0 is none. Nobody sends PINGREQ, so it is to be longer than the run.
    #[arg(short = 'k', long, default_value_t = 0)]
    pub keepalive: u16,
    /// Let sessions outlive their connections (for an hour).
    #[arg(long)]
    pub keep_sessions: bool,
    /// Messages a second, while they connect or get broadcasts, to somebody who is there already; 0 is none.
    #[arg(long, default_value = "100", value_parser = rate_or_zero)]
    pub probe_rate: f64,
    /// When all are there: how many of them, chosen at random, get a message first.
    #[arg(long, default_value_t = 1_000)]
    pub sample: u32,
    /// Open loop: messages a second to these.
    #[arg(long, default_value = "1k", value_parser = rate)]
    pub rate: f64,
    /// Open loop: messages a second when everybody gets one.
    #[arg(long, default_value = "10k", value_parser = rate)]
    pub all_rate: f64,
    /// Then everybody subscribes to one topic more, and gets so many messages of it, each when all have had the one before
    /// it. Probes go on meanwhile.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub broadcasts: u32,
    /// QoS of publications and subscriptions.
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub qos: u8,
    /// Payload bytes.
    #[arg(short = 's', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=1 << 16))]
    pub size: u32,
    /// Fail (exit 99) when a message is lost, duplicated, reordered, corrupt, refused or not acknowledged.
    #[arg(long)]
    pub verify: bool,
}

/// Queued messages.
#[derive(Clone, Debug, Args)]
pub struct Durable {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Sessions that are away.
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub count: u32,
    /// Messages for each of them.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
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
#[derive(Clone, Debug, Args)]
pub struct Retained {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Subscribers that come when all messages are stored.
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub count: u32,
    /// Retained messages, each with a topic of its own; they are stored with QoS 1.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    pub messages: u64,
    /// As many more retained messages to which each subscriber subscribes one by one.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub entities: u64,
    /// Subscribers to everything that come first and do not read until the others have all of it.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub slow: u32,
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
#[derive(Clone, Debug, Args)]
pub struct Publish {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// The messages; without a pace, one each second from each publisher. In a closed loop the window is that of
    /// the acknowledgements.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Publishers.
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// The topic; %i is the publisher's number from --startnumber on, %c its Client Identifier, %u its User Name.
    #[arg(short = 't', long)]
    pub topic: String,
    /// Let the broker keep the messages.
    #[arg(short = 'r', long, action = ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub retain: bool,
    /// The payload, or template://FILE: nothing can be checked then. Beside %i, %c and %u there are %TIMESTAMP%
    /// (s), %TIMESTAMPMS%, %TIMESTAMPUS%, %TIMESTAMPNS%, %UNIQUE% and %RANDOM%.
    #[arg(short = 'm', long, conflicts_with = "size")]
    pub message: Option<String>,
    /// Open loop: end after this many messages of all publishers together; 0 is no end.
    #[arg(short = 'L', long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..SEQUENCES_MAX), conflicts_with_all = ["closed_loop", "max", "ramp", "stages", "find_max", "duration"])]
    pub limit: u64,
    /// Let Client Identifiers be the prefix and a number alone.
    #[arg(long = "shortids")]
    pub short_ids: bool,
    /// For commands written for emqtt-bench: publishing always waits until all are connected.
    #[arg(short = 'w', long, hide = true, action = ArgAction::Set, num_args = 0..=1, default_value_t = true, default_missing_value = "true")]
    pub wait_before_publishing: bool,
}

/// Subscribers only.
#[derive(Clone, Debug, Args)]
pub struct Subscribe {
    /// The broker and what to report.
    #[command(flatten)]
    pub common: Common,
    /// Subscribers.
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub count: u32,
    /// The filter; %i is the subscriber's number from --startnumber on, %c its Client Identifier, %u its User
    /// Name.
    #[arg(short = 't', long)]
    pub topic: String,
    /// QoS of the subscriptions.
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes that the publishers send; other messages count as corrupt.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16 << 20))]
    pub size: u32,
    /// Count messages of any kind, and check nothing.
    #[arg(long, conflicts_with_all = ["size", "verify"])]
    pub any_payload: bool,
    /// Let Client Identifiers be the prefix and a number alone.
    #[arg(short = 's', long = "shortids")]
    pub short_ids: bool,
    /// How long to count.
    #[arg(short = 'd', long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// Fail (exit 99) as the other verbs do. Of the loss only what later messages show is known.
    #[arg(long)]
    pub verify: bool,
}

/// Reports.
#[derive(Clone, Debug, Args)]
pub struct Report {
    /// Directories that --out wrote.
    #[arg(value_name = "DIR", required = true)]
    pub runs: Vec<PathBuf>,
    /// Where to write the report [default: report.html in the directory, or here when there are several]
    #[arg(short = 'o', long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Comparisons.
#[derive(Clone, Debug, Args)]
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
#[derive(Clone, Debug, Args)]
pub struct RelayArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub bind: SocketAddr,
    /// Hold each message for this long, and tell how long it was when all clients have gone: a latency known from
    /// the other side.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub delay: Duration,
}

impl Verb {
    /// The broker and what to report of it, where there is one.
    pub fn target(&mut self) -> Option<&mut Target> {
        Some(match self {
            Self::Conn(args) => &mut args.common.target,
            Self::Pubsub(args) | Self::Fanin(args) => &mut args.common.target,
            Self::Fanout(args) => &mut args.common.target,
            Self::Shared(args) => &mut args.common.target,
            Self::Slow(args) => &mut args.common.target,
            Self::Wild(args) => &mut args.common.target,
            Self::Pub(args) => &mut args.common.target,
            Self::Sub(args) => &mut args.common.target,
            Self::Churn(args) => &mut args.target,
            Self::Storm(args) => &mut args.target,
            Self::Inbox(args) => &mut args.target,
            Self::Durable(args) => &mut args.target,
            Self::Retained(args) => &mut args.target,
            Self::Run(args) => args.verb.as_mut()?.target()?,
            Self::Suite(_)
            | Self::Agent(_)
            | Self::Report(_)
            | Self::Compare(_)
            | Self::Relay(_) => return None,
        })
    }

    /// The messages and their pace, where there must be one.
    fn load(&self) -> Option<&LoadArgs> {
        match self {
            Self::Pubsub(args) | Self::Fanin(args) => Some(&args.load),
            Self::Fanout(args) => Some(&args.load),
            Self::Shared(args) => Some(&args.load),
            Self::Slow(args) => Some(&args.load),
            Self::Wild(args) => Some(&args.load),
            _ => None,
        }
    }
}

impl Publish {
    /// How long `--limit` takes, in seconds, if there is one.
    pub fn limited_s(&self) -> Option<f64> {
        let Load::Open(profile) = self.load.pacing(self.count).load else {
            return None;
        };
        // The last message of the slowest core is due a slot of that core later.
        let messages = self.limit as f64 + f64::from(self.common.cores);
        (self.limit > 0).then(|| messages / profile.rate_max())
    }

    fn check(&self) -> Result<(), String> {
        let names = self.common.names(self.short_ids);
        check_topic(&names, &self.topic, Role::Publisher, self.count)?;
        if names.username.contains(['+', '#']) && self.topic.contains("%u")
            || self.topic.contains(['+', '#'])
        {
            return Err("--topic: a Topic Name has no wildcards".into());
        }
        let waits_for_acks = self.load.closed_loop || self.load.find_max.is_some();
        if waits_for_acks && self.load.qos == 0 {
            return Err(
                "nothing comes back for QoS 0: use an open loop, --max, or --qos 1 or 2".into(),
            );
        }
        match self.limited_s() {
            Some(seconds) if seconds > LIMITED_S_MAX => Err(format!(
                "--limit {}: at this rate that takes longer than ten years: fewer, or a higher --rate",
                self.limit
            )),
            _ => Ok(()),
        }
    }
}

/// Errors: the topic, with its places filled in, is empty or does not fit into a packet.
fn check_topic(names: &Names, topic: &str, role: Role, count: u32) -> Result<(), String> {
    let bytes = names.filled_bytes(topic, role, count.saturating_sub(1));
    match bytes {
        0 => Err("--topic: it has at least one character".into()),
        1..=STRING_BYTES_MAX => Ok(()),
        _ => Err(format!(
            "--topic: with its places filled in it has {bytes} bytes; at most {STRING_BYTES_MAX} can be sent"
        )),
    }
}

/// Reads a command line, the program's name first.
///
/// Errors: clap's, which say what is wrong and end a program with status 2 (`--help`: 0).
pub fn parse<Words>(words: Words) -> Result<Cli, clap::Error>
where
    Words: IntoIterator,
    Words::Item: Into<OsString> + Clone,
{
    let mut cli = read(words.into_iter().map(Into::into).collect())?;
    check(&mut cli.verb)
        .and_then(|()| check_surroundings(&mut cli.verb))
        .map_err(wrong)?;
    Ok(cli)
}

/// Reads a command line word by word: whether what it says goes together is for [`check`] to say. A load of the suite becomes
/// the verb that it stands for.
///
/// Errors: as those of [`parse`].
pub fn read(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(words)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    let given = Given::of(&command, &matches);
    match &mut cli.verb {
        Verb::Suite(args) if !args.list => return read(suite::command(args).map_err(wrong)?),
        Verb::Run(args) => {
            let words = std::iter::once("loadgen").chain(args.words.iter().map(String::as_str));
            let mut led = read(words.map(Into::into).collect())?;
            if let Some(target) = led.verb.target() {
                args.words = target.given.command[1..].to_vec();
                target.given.lead(&given);
            }
            args.verb = Some(Box::new(led.verb));
        }
        verb => {
            if let Some(target) = verb.target() {
                target.given = given;
            }
        }
    }
    Ok(cli)
}

fn wrong(what: String) -> clap::Error {
    Cli::command().error(ErrorKind::ValueValidation, what)
}

/// Errors: what a verb's flags say does not go together.
pub fn check(verb: &mut Verb) -> Result<(), String> {
    if let Some(target) = verb.target() {
        target.check()?;
    }
    if verb.load().is_some_and(|load| !load.has_pace()) {
        return Err(
            "how fast? One of --rate, --message-interval, --ramp, --stages, --closed-loop, --max and --find-max is needed"
                .into(),
        );
    }
    let wrong = |what: &str| Err(what.to_owned());
    match verb {
        Verb::Pub(args) => args.check(),
        Verb::Sub(args) => {
            let names = args.common.names(args.short_ids);
            check_topic(&names, &args.topic, Role::Subscriber, args.count)?;
            let filter = names.fill(&args.topic, Role::Subscriber, 0);
            let parsed = TopicFilter::parse(&filter);
            parsed
                .map(drop)
                .map_err(|error| format!("--topic: {error}"))
        }
        Verb::Fanout(args) if args.count.saturating_mul(args.publishers) > SUBSCRIPTIONS_MAX => {
            Err(format!(
                "every subscriber subscribes to each publisher, which is too much: at most {SUBSCRIPTIONS_MAX} \
                 for --count times --publishers"
            ))
        }
        Verb::Slow(args) if args.load.closed_loop || args.load.max => {
            wrong("a closed loop would wait for the slow ones: use --rate")
        }
        Verb::Slow(args) if args.slow >= args.count => {
            wrong("one subscriber at least must keep up: fewer --slow or more of them")
        }
        Verb::Shared(args) if args.count.min(args.members) < u32::from(args.common.cores) => {
            wrong("each core needs a publisher and a member: fewer --cores or more of them")
        }
        Verb::Wild(args)
            if args.count.min(args.filters) < 3 * u32::from(args.common.cores)
                || args.publishers < u32::from(args.common.cores) =>
        {
            wrong("each core needs a publisher, three subscribers and three filters")
        }
        Verb::Run(args) => args.check(),
        _ => Ok(()),
    }
}

/// Errors: a file that is named is not there or wrong, or a process that is named is not what it should be.
fn check_surroundings(verb: &mut Verb) -> Result<(), String> {
    if let Some(target) = verb.target() {
        let endpoint = target.broker()?.endpoint;
        if let Some(pid) = target.broker_pid
            && let Some(doubt) = listener::check(pid, &endpoint)?
        {
            eprintln!(
                "loadgen: --broker-pid {pid}: {doubt}; if it is not the broker, the broker's CPU time and memory are wrong"
            );
        }
    }
    match verb {
        Verb::Pub(args) => {
            let Some(text) = &args.message else {
                return Ok(());
            };
            let message = Message::read(text)?;
            message.check(&args.common.names(args.short_ids), args.count)
        }
        Verb::Run(args) => args.secret().map(drop),
        Verb::Agent(args) => args.secret().map(drop),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Cli, clap::Error> {
        super::parse(words.split(' '))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_pace_is_needed_and_no_more() {
        for good in [
            "loadgen pubsub --rate 5k",
            "loadgen pubsub -I 100",
            "loadgen pubsub --closed-loop -F 8",
            "loadgen pubsub --max --force",
            "loadgen pubsub --ramp 0..1k@100/s --hold 5s",
            "loadgen pubsub --stages 1m:1k,0s:0,1m:0 --jitter 50%",
            "loadgen pubsub --find-max p99<10ms",
            "loadgen pubsub --find-max p99<10ms --rate 5k",
            "loadgen pubsub --rate 5k -F 8",
            "loadgen pubsub --rate 5k -h localhost -p 1884 -V 5 -q 2 -Q",
            "loadgen pub -t a",
        ] {
            assert!(parse(good).is_ok(), "{good}: {:?}", parse(good));
        }
        for wrong in [
            "loadgen pubsub",
            "loadgen pubsub --rate 5k --closed-loop",
            "loadgen pubsub --rate 5k --max",
            "loadgen pubsub --rate 5k --hold 1s",
            "loadgen pubsub --rate 5k --force",
            "loadgen pubsub --ramp 0..1k@100/s -d 5s",
            "loadgen pubsub --max --find-max p99<10ms",
            "loadgen pubsub --max --jitter 0.5",
            "loadgen pubsub --rate 5k -s 15",
            "loadgen pubsub --rate 5k --unknown",
            "loadgen slow --closed-loop",
            "loadgen slow --rate 5 -c 2 --slow 2",
            "loadgen shared --max -c 1 --cores 2",
            "loadgen pub -t a/+ -I 5",
            "loadgen pub -t a --closed-loop",
        ] {
            let error = parse(wrong).expect_err(wrong);
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }
}

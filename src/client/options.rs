//! The flags of `ringmq pub` and `ringmq sub`, and what they mean together.

use super::format::Format;
use super::property::{NumberName, Properties, number};
use super::target::{Target, TransportArgs};
use super::{EXIT_USAGE, Failure, url};
use crate::protocol::subscribe::{RetainHandling, SubscribeOptions};
use crate::protocol::text::{STRING_BYTES_MAX, topic_name};
use crate::protocol::{QoS, Version};
use crate::topic::filter::TopicFilter;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::path::PathBuf;
use std::time::Duration;

/// Flags that both clients have.
#[derive(Args, Clone, Debug)]
struct CommonArgs {
    /// Host of the broker [default: localhost]
    #[arg(short = 'h', long, value_name = "HOST")]
    host: Option<String>,
    /// Port of the broker [default: 1883]
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// User Name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password
    #[arg(
        short = 'P',
        long = "pw",
        value_name = "PASSWORD",
        allow_hyphen_values = true
    )]
    password: Option<String>,
    /// Client Identifier; without one the broker chooses
    #[arg(short, long, value_name = "ID", allow_hyphen_values = true)]
    id: Option<String>,
    /// Everything in one: mqtt://[user[:password]@]host[:port][/topic], or mqtts, ws, wss, unix
    #[arg(short = 'L', long, value_name = "URL", conflicts_with_all = ["host", "port", "unix"])]
    url: Option<String>,
    #[command(flatten)]
    transport: TransportArgs,
    /// Quality of Service: 0, 1 or 2
    #[arg(short, long, value_name = "QOS", default_value = "0", value_parser = parse_qos)]
    qos: QoS,
    /// Version of MQTT: 31, 311 or 5 [default: 311, or 5 when -D or -x is given]
    #[arg(short = 'V', long, value_name = "VERSION", value_parser = parse_version)]
    protocol_version: Option<Version>,
    /// Keep Alive in seconds
    #[arg(short, long, value_name = "SECONDS", default_value = "60")]
    keepalive: u16,
    /// Keep the session after disconnecting (needs -i)
    #[arg(short = 'c', long)]
    disable_clean_session: bool,
    /// Session Expiry Interval in seconds, or "infinity" (MQTT 5)
    #[arg(short = 'x', long, value_name = "SECONDS", value_parser = parse_expiry)]
    session_expiry_interval: Option<u32>,
    /// A property of a packet: -D publish message-expiry-interval 60 (MQTT 5; repeatable)
    #[command(flatten)]
    properties: PropertyArgs,
    /// Topic of the will
    #[arg(long, value_name = "TOPIC")]
    will_topic: Option<String>,
    /// Payload of the will
    #[arg(
        long,
        value_name = "PAYLOAD",
        allow_hyphen_values = true,
        requires = "will_topic"
    )]
    will_payload: Option<String>,
    /// QoS of the will
    #[arg(long, value_name = "QOS", value_parser = parse_qos, requires = "will_topic")]
    will_qos: Option<QoS>,
    /// Retain the will
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
    /// Tell on stderr which packets are sent and received
    #[arg(short = 'd', long)]
    debug: bool,
    /// Print nothing but failures of the connection
    #[arg(long)]
    quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Every `-D`, each with its two or three words after the packet kept together.
#[derive(Clone, Debug, Default)]
struct PropertyArgs(Vec<Vec<String>>);

impl Args for PropertyArgs {
    fn augment_args(command: Command) -> Command {
        command.arg(
            Arg::new("property")
                .short('D')
                .long("property")
                .value_names(["PACKET", "NAME", "VALUE"])
                .num_args(3..=4)
                .action(ArgAction::Append)
                .help("A property of a packet: -D publish message-expiry-interval 60 (MQTT 5; repeatable)"),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for PropertyArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let occurrences = matches.get_occurrences::<String>("property");
        let lists = occurrences.into_iter().flatten();
        Ok(Self(
            lists.map(|values| values.cloned().collect()).collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Publish messages: a small client with the flags of mosquitto_pub.
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct PubArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Topic to publish to
    #[arg(short, long, value_name = "TOPIC", allow_hyphen_values = true)]
    topic: Option<String>,
    /// Publish this text
    #[arg(
        short,
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        group = "what"
    )]
    message: Option<String>,
    /// Publish the content of a file
    #[arg(short, long, value_name = "FILE", group = "what")]
    file: Option<PathBuf>,
    /// Publish each line of stdin
    #[arg(short = 'l', long, group = "what")]
    stdin_line: bool,
    /// Publish an empty message, which removes a retained one
    #[arg(short, long, group = "what")]
    null_message: bool,
    /// Publish all of stdin as one message
    #[arg(short, long, group = "what")]
    stdin_file: bool,
    /// Retain the message
    #[arg(short, long)]
    retain: bool,
    /// Publish that many times
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Seconds between two of them
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    repeat_delay: Duration,
}

/// Subscribe and print: a small client with the flags of mosquitto_sub.
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct SubArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Topic Filter to subscribe to (repeatable)
    #[arg(short, long, value_name = "FILTER")]
    topic: Vec<String>,
    /// Leave out messages whose topic matches (repeatable)
    #[arg(short = 'T', long, value_name = "FILTER")]
    filter_out: Vec<String>,
    /// Give up a subscription of a kept session (repeatable)
    #[arg(short = 'U', long, value_name = "FILTER")]
    unsubscribe: Vec<String>,
    /// Print the topic before each payload
    #[arg(short, long, conflicts_with = "format")]
    verbose: bool,
    /// Print each message in this format, as mosquitto_sub does: %t topic, %p payload, %q %r %m %l %x %j …
    #[arg(short = 'F', long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not end each message with a line feed
    #[arg(short = 'N')]
    no_line_feed: bool,
    /// Leave after this many messages
    #[arg(short = 'C', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Leave after this many seconds with exit status 27
    #[arg(short = 'W', value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Leave once subscribed
    #[arg(short = 'E')]
    exit_after_subscribe: bool,
    /// Leave out retained messages
    #[arg(short = 'R')]
    no_retained: bool,
    /// Print retained messages only, and leave when a fresh one comes
    #[arg(long, conflicts_with = "no_retained")]
    retained_only: bool,
    /// Keep the RETAIN flag as it was published (MQTT 5)
    #[arg(long)]
    retain_as_published: bool,
    /// When retained messages are sent: always, new or never (MQTT 5)
    #[arg(long, value_name = "WHEN", value_parser = ["always", "new", "never"])]
    retain_handling: Option<String>,
    /// Do not receive what this client publishes itself (MQTT 5)
    #[arg(long)]
    no_local: bool,
}

/// How to connect.
#[derive(Debug)]
pub(super) struct ConnectPlan {
    pub(super) target: Target,
    pub(super) version: Version,
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) clean_start: bool,
    pub(super) keep_alive_s: u16,
    pub(super) session_expiry_s: Option<u32>,
    pub(super) will: Option<WillPlan>,
    pub(super) properties: Properties,
    pub(super) debug: bool,
    pub(super) quiet: bool,
}

/// The will to leave with the broker.
#[derive(Debug)]
pub(super) struct WillPlan {
    pub(super) topic: String,
    pub(super) payload: String,
    pub(super) qos: QoS,
    pub(super) retain: bool,
}

/// What to publish.
#[derive(Debug)]
pub(super) struct PubPlan {
    pub(super) connect: ConnectPlan,
    pub(super) topic: String,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) source: Source,
}

/// Where the messages come from.
#[derive(Debug)]
pub(super) enum Source {
    /// One payload, some times.
    Payload {
        payload: Payload,
        count: u32,
        delay: Duration,
    },
    /// Each line of stdin.
    Lines,
}

/// One payload, not read yet.
#[derive(Debug)]
pub(super) enum Payload {
    Bytes(Vec<u8>),
    File(PathBuf),
    Stdin,
}

/// What to subscribe to, and what to do with what comes.
#[derive(Debug)]
pub(super) struct SubPlan {
    pub(super) connect: ConnectPlan,
    pub(super) filters: Vec<String>,
    pub(super) options: SubscribeOptions,
    pub(super) filter_out: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    pub(super) format: Format,
    pub(super) line_feed: bool,
    pub(super) count: Option<u64>,
    pub(super) timeout: Option<Duration>,
    pub(super) exit_after_subscribe: bool,
    pub(super) retained: Retained,
}

/// Which messages are printed, by their RETAIN flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retained {
    All,
    LeaveOut,
    Only,
}

impl PubPlan {
    pub(super) fn new(args: PubArgs) -> Result<Self, Failure> {
        let (connect, url_topic) = ConnectPlan::new(args.common.clone())?;
        let topic = args
            .topic
            .or(url_topic)
            .ok_or_else(|| usage("a topic is needed: -t TOPIC"))?;
        let aliased = number(&connect.properties.publish, NumberName::TopicAlias).is_some();
        check_topic(&topic, aliased)?;
        let payload = if let Some(text) = args.message {
            Some(Payload::Bytes(text.into_bytes()))
        } else if let Some(path) = args.file {
            Some(Payload::File(path))
        } else if args.stdin_file {
            Some(Payload::Stdin)
        } else {
            args.null_message.then(|| Payload::Bytes(Vec::new()))
        };
        let source = match payload {
            Some(payload) => Source::Payload {
                payload,
                count: args.repeat,
                delay: args.repeat_delay,
            },
            None if args.stdin_line => Source::Lines,
            None => return Err(usage("a message is needed: -m TEXT, -f FILE, -l, -n or -s")),
        };
        Ok(Self {
            connect,
            topic,
            qos: args.common.qos,
            retain: args.retain,
            source,
        })
    }
}

impl SubPlan {
    pub(super) fn new(args: SubArgs) -> Result<Self, Failure> {
        let (connect, url_topic) = ConnectPlan::new(args.common.clone())?;
        let mut filters = args.topic;
        filters.extend(url_topic);
        if filters.is_empty() && args.unsubscribe.is_empty() {
            return Err(usage("a topic filter is needed: -t FILTER"));
        }
        for filter in filters
            .iter()
            .chain(&args.filter_out)
            .chain(&args.unsubscribe)
        {
            if TopicFilter::parse(filter).is_err() || filter.contains('\0') {
                return Err(usage(format!("`{filter}` is no topic filter")));
            }
        }
        let retain_handling = match args.retain_handling.as_deref() {
            Some("new") => RetainHandling::SendIfNew,
            Some("never") => RetainHandling::DoNotSend,
            _ => RetainHandling::SendAtSubscribe,
        };
        let wants_v5 = args.no_local || args.retain_as_published || args.retain_handling.is_some();
        if wants_v5 && !connect.version.is_v5() {
            return Err(usage(
                "--no-local, --retain-as-published and --retain-handling need -V 5",
            ));
        }
        let options = SubscribeOptions {
            qos: args.common.qos,
            no_local: args.no_local,
            retain_as_published: args.retain_as_published,
            retain_handling,
        };
        let format = match args.format.as_deref() {
            Some(text) => Format::parse(text).map_err(usage)?,
            None => Format::plain(args.verbose),
        };
        let retained = if args.no_retained {
            Retained::LeaveOut
        } else if args.retained_only {
            Retained::Only
        } else {
            Retained::All
        };
        Ok(Self {
            connect,
            filters,
            options,
            filter_out: args.filter_out,
            unsubscribe: args.unsubscribe,
            format,
            line_feed: !args.no_line_feed,
            count: args.count,
            timeout: args.timeout,
            exit_after_subscribe: args.exit_after_subscribe,
            retained,
        })
    }
}

impl ConnectPlan {
    /// The plan, and the topic that the URL names.
    fn new(args: CommonArgs) -> Result<(Self, Option<String>), Failure> {
        let mut properties = Properties::default();
        for values in &args.properties.0 {
            properties.add(values).map_err(usage)?;
        }
        let url = args
            .url
            .as_deref()
            .map(url::parse)
            .transpose()
            .map_err(usage)?;
        let (mut username, mut password, mut topic) = (args.username, args.password, None);
        if let Some(url) = &url {
            username = username.or_else(|| url.username.clone());
            password = password.or_else(|| url.password.clone());
            // The path of a WebSocket names no topic.
            topic = url.path.clone().filter(|_| !url.scheme.has_websocket());
        }

        let needs_v5 = !properties.is_empty() || args.session_expiry_interval.is_some();
        let version = match args.protocol_version {
            Some(version) if needs_v5 && !version.is_v5() => {
                return Err(usage("-D and -x need MQTT 5: -V 5"));
            }
            Some(version) => version,
            None => {
                if needs_v5 {
                    Version::V5
                } else {
                    Version::V311
                }
            }
        };
        let clean_start = !args.disable_clean_session;
        let client_id = match args.id {
            Some(id) => id,
            None if !clean_start => {
                return Err(usage("-c keeps the session of a client id: -i ID"));
            }
            // MQTT 3.1 has no empty Client Identifier.
            None if version == Version::V31 => format!("ringmq-{}", std::process::id()),
            None => String::new(),
        };
        if !version.is_v5() && password.is_some() && username.is_none() {
            return Err(usage(
                "before MQTT 5, a password needs a user name: -u NAME",
            ));
        }
        for text in [
            Some(&client_id),
            username.as_ref(),
            password.as_ref(),
            args.will_payload.as_ref(),
        ] {
            if text.is_some_and(|text| text.len() > STRING_BYTES_MAX) {
                return Err(usage(
                    "client id, user name, password and will have at most 65535 bytes",
                ));
            }
        }
        for text in [Some(&client_id), username.as_ref()] {
            if text.is_some_and(|text| text.contains('\0')) {
                return Err(usage("client id and user name have no NUL"));
            }
        }
        let will = args.will_topic.map(|topic| {
            check_topic(&topic, false)?;
            Ok(WillPlan {
                topic,
                payload: args.will_payload.unwrap_or_default(),
                qos: args.will_qos.unwrap_or_default(),
                retain: args.will_retain,
            })
        });
        // As mosquitto: in MQTT 5 a kept session without an expiry would end with the connection.
        let kept = (version.is_v5() && !clean_start).then_some(u32::MAX);
        let session_expiry_s = args
            .session_expiry_interval
            .or_else(|| number(&properties.connect, NumberName::SessionExpiryInterval))
            .or(kept);
        let target = Target::new(&args.transport, url.as_ref(), args.host, args.port, version);
        let plan = Self {
            target: target.map_err(usage)?,
            version,
            client_id,
            username,
            password,
            clean_start,
            keep_alive_s: args.keepalive,
            session_expiry_s,
            will: will.transpose()?,
            properties,
            debug: args.debug,
            quiet: args.quiet,
        };
        Ok((plan, topic))
    }
}

fn usage(message: impl std::fmt::Display) -> Failure {
    Failure::new(EXIT_USAGE, message)
}

fn check_topic(topic: &str, may_be_empty: bool) -> Result<(), Failure> {
    let valid = topic.len() <= STRING_BYTES_MAX
        && topic_name(topic.as_bytes()).is_ok()
        && (may_be_empty || !topic.is_empty());
    if valid {
        return Ok(());
    }
    Err(usage(format!(
        "`{topic}` is no topic to publish to; it must not be empty or contain + or #"
    )))
}

fn parse_qos(text: &str) -> Result<QoS, String> {
    let bits = text.parse().ok().and_then(QoS::from_bits);
    bits.ok_or_else(|| "QoS is 0, 1 or 2".into())
}

fn parse_version(text: &str) -> Result<Version, String> {
    match text.trim_start_matches("mqttv") {
        "31" => Ok(Version::V31),
        "311" => Ok(Version::V311),
        "5" => Ok(Version::V5),
        _ => Err("the version is 31, 311 or 5".into()),
    }
}

fn parse_expiry(text: &str) -> Result<u32, String> {
    match text {
        "infinity" | "∞" => Ok(u32::MAX),
        _ => text
            .parse()
            .map_err(|_| "seconds up to 4294967295, or \"infinity\"".into()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    // Far above any use, and far below what a clock cannot add.
    duration
        .filter(|duration| duration.as_secs() < 1 << 32)
        .ok_or_else(|| "a number of seconds, such as 5 or 0.5".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    enum Verb {
        Pub(PubArgs),
        Sub(SubArgs),
    }

    fn pub_plan(line: &str) -> Result<PubPlan, Failure> {
        match Verb::try_parse_from(["ringmq", "pub"].into_iter().chain(line.split(' '))).unwrap() {
            Verb::Pub(args) => PubPlan::new(args),
            Verb::Sub(_) => unreachable!("the verb is pub"),
        }
    }

    fn sub_plan(line: &str) -> Result<SubPlan, Failure> {
        match Verb::try_parse_from(["ringmq", "sub"].into_iter().chain(line.split(' '))).unwrap() {
            Verb::Sub(args) => SubPlan::new(args),
            Verb::Pub(_) => unreachable!("the verb is sub"),
        }
    }

    #[test]
    fn the_flags_are_those_of_mosquitto() {
        let plan = pub_plan("-h ::1 -p 1884 -t a/b -m -5 -q 2 -r -i me -V mqttv5 -D publish user-property k v -D connect receive-maximum 3 -x 10").unwrap();
        assert_eq!(plan.connect.target.endpoint.to_string(), "[::1]:1884");
        assert_eq!(
            (plan.topic.as_str(), plan.qos, plan.retain),
            ("a/b", QoS::ExactlyOnce, true)
        );
        assert_eq!(plan.connect.session_expiry_s, Some(10));
        assert_eq!(plan.connect.properties.publish.len(), 1);
        assert!(
            matches!(plan.source, Source::Payload { payload: Payload::Bytes(bytes), .. } if bytes == b"-5")
        );

        let plan = sub_plan("-L mqtt://u:p@broker/x/# -c -i me -V 5 -C 2 -W 0.5 -v").unwrap();
        assert_eq!(plan.connect.target.endpoint.to_string(), "broker:1883");
        assert_eq!(plan.connect.username.as_deref(), Some("u"));
        assert_eq!(plan.filters, ["x/#"]);
        assert_eq!(plan.timeout, Some(Duration::from_millis(500)));
        assert_eq!(plan.connect.session_expiry_s, Some(u32::MAX));
        assert_eq!(plan.format, Format::plain(true));
    }

    #[test]
    fn properties_choose_the_version_unless_it_is_named() {
        assert_eq!(pub_plan("-t a -n").unwrap().connect.version, Version::V311);
        assert_eq!(
            pub_plan("-t a -n -x 5").unwrap().connect.version,
            Version::V5
        );
        assert_eq!(
            pub_plan("-t a -n -x 5 -V 311").unwrap_err().exit,
            EXIT_USAGE
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "-t a",
            "-m x",
            "-t a/# -m x",
            "-t a -m x -c",
            "-t a -m x -P p",
            "-t a -m x --will-topic +",
        ] {
            assert_eq!(pub_plan(line).unwrap_err().exit, EXIT_USAGE, "{line}");
        }
        for line in [
            "-v",
            "-t a/#/b",
            "-t a -T +b",
            "-t a --no-local",
            "-t a -F %y",
        ] {
            assert_eq!(sub_plan(line).unwrap_err().exit, EXIT_USAGE, "{line}");
        }
    }
}

//! The flags that several verbs have in common.

use crate::assertion::Assertion;
use crate::given::{Given, Secret};
use crate::parse::{
    Addresses, RATE_MAX, addresses, broker_url, duration, milliseconds, part, password, prefix,
    ramp, rate, stages, string,
};
use crate::plan::Names;
use crate::schedule::Profile;
use crate::wire::Credentials;
use crate::worker::Load;
use clap::{ArgAction, Args};
use ringmq::client::target::{Target as ClientTarget, TransportArgs};
use ringmq::client::url::Url;
use ringmq::protocol::Version;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The window of `--max`, where `--inflight` does not say.
const WINDOW_MAX: u32 = 1_024;
/// The window of a closed loop, where `--inflight` does not say.
const WINDOW: u32 = 32;

/// The broker, and what is reported of it.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The broker's host name or address.
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub host: String,
    /// The broker's port [default: 1883, with TLS 8883, with WebSocket 80 or 443]
    #[arg(short = 'p', long)]
    pub port: Option<u16>,
    /// Host, port, transport and who connects in one: mqtt://user:password@host:port, or mqtts, ws, wss, unix
    #[arg(long, value_name = "URL", value_parser = broker_url, conflicts_with_all = ["host", "port", "unix"])]
    pub url: Option<Url>,
    /// Use TLS, as --tls
    #[arg(short = 'S', long, action = ArgAction::Set, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub ssl: bool,
    /// TLS, WebSocket and unix sockets.
    #[command(flatten)]
    pub transport: TransportArgs,
    /// MQTT version: 3 (3.1), 4 (3.1.1) or 5.
    #[arg(short = 'V', long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(3..=5))]
    pub mqtt_version: u8,
    /// The User Name.
    #[arg(short = 'u', long, value_parser = string)]
    pub username: Option<String>,
    /// The Password.
    #[arg(short = 'P', long, env = "LOADGEN_PASSWORD", hide_env_values = true, value_parser = password)]
    pub password: Option<Secret>,
    /// What Client Identifiers and topics begin with; by default it names this process.
    #[arg(long, value_parser = prefix)]
    pub prefix: Option<String>,
    /// Source addresses, as a list or IPv4 networks: 127.0.0.2,127.0.0.3 or 127.1.0.0/16.
    #[arg(long, value_parser = addresses)]
    pub ifaddr: Option<Addresses>,
    /// The broker's process on this machine: its CPU time and memory are reported, children included.
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// A line that stands at the top of every output.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// What the broker is and its version, for the outputs; by default what it says of itself in
    /// $SYS/broker/version.
    #[arg(long, value_name = "TEXT")]
    pub broker_name: Option<String>,
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
    /// The command line of all this, for the outputs.
    #[arg(skip)]
    pub given: Given,
}

impl Target {
    /// The broker's place, and what lies between.
    ///
    /// Errors: what cannot be, or a file of TLS that is wrong; in words.
    pub fn broker(&self) -> Result<ClientTarget, String> {
        let transport = self.transport.clone().or_tls(self.ssl);
        let host = Some(self.host.clone());
        let url = self.url.as_ref();
        ClientTarget::new(&transport, url, host, self.port, self.version())
    }

    /// Who connects.
    pub fn credentials(&self) -> Credentials {
        let of_url = || self.url.clone()?.password;
        let name_of_url = || self.url.clone()?.username;
        Credentials {
            version: self.version(),
            username: self.username.clone().or_else(name_of_url),
            password: self.password.clone().or_else(|| of_url().map(Secret::from)),
        }
    }

    /// Errors: nobody can connect so.
    pub fn check(&self) -> Result<(), String> {
        let who = self.credentials();
        if who.password.is_some() && who.username.is_none() && who.version != Version::V5 {
            // MQTT-3.1.2-22 of 3.1.1; 5.0 has no such rule.
            return Err(
                "--password (or LOADGEN_PASSWORD) needs a User Name before MQTT 5: give --username NAME, or \
                 --mqtt-version 5"
                    .into(),
            );
        }
        Ok(())
    }

    /// The version of MQTT.
    pub fn version(&self) -> Version {
        match self.mqtt_version {
            3 => Version::V31,
            4 => Version::V311,
            _ => Version::V5,
        }
    }

    /// What Client Identifiers and topics begin with.
    pub fn prefix(&self) -> String {
        let own = || format!("loadgen-{}", std::process::id());
        self.prefix.clone().unwrap_or_else(own)
    }
}

/// What the verbs have in common that run for a time.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The broker and what to report.
    #[command(flatten)]
    pub target: Target,
    /// Keep Alive in seconds; 0 is none.
    #[arg(short = 'k', long, default_value_t = 300)]
    pub keepalive: u16,
    /// Clean Session, in MQTT 5 Clean Start.
    #[arg(short = 'C', long, action = ArgAction::Set, num_args = 0..=1, default_value_t = true, default_missing_value = "true")]
    pub clean: bool,
    /// MQTT 5: seconds that a session outlives its connection [default: 3600 with --clean false, else 0].
    #[arg(short = 'x', long)]
    pub session_expiry: Option<u32>,
    /// The number of the first client in its Client Identifier.
    #[arg(short = 'n', long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=15 << 20))]
    pub startnumber: u32,
    /// New connections per second; without it, as fast as the broker accepts them. Connects are due on a
    /// schedule of their own, from which their times count.
    #[arg(short = 'R', long, alias = "connrate", value_parser = rate)]
    pub connect_rate: Option<f64>,
    /// The same as the time between two connects, in ms.
    #[arg(short = 'i', long, value_name = "MS", value_parser = milliseconds, conflicts_with = "connect_rate")]
    pub interval: Option<Duration>,
    /// Connect again when a connection is lost or cannot be made, at first after 0.1 s, at last every 10 s;
    /// without it, that ends the run.
    #[arg(long)]
    pub reconnect: bool,
    /// Threads of the generator, each with its own ring. They are not pinned, but for --near: use taskset.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub cores: u16,
    /// Pin each thread to a CPU, and have both ends of each connection on one: a client whose broker answers from another CPU
    /// connects again, under another Client Identifier, until it does not. For a broker on this machine that pins its threads and
    /// has its clients on all of them, by their identifiers or connections.
    #[arg(long)]
    pub near: bool,
    /// For commands written for emqtt-bench: memory is always low here.
    #[arg(short = 'l', long, hide = true)]
    pub lowmem: bool,
}

impl Common {
    /// New connections per second, if that is limited.
    pub fn connect_rate(&self) -> Option<f64> {
        let of_interval = |interval: Duration| 1.0 / interval.as_secs_f64().max(1e-9);
        self.connect_rate
            .or_else(|| self.interval.filter(|one| !one.is_zero()).map(of_interval))
    }

    /// What clients and their topics are called.
    pub fn names(&self, short_ids: bool) -> Names {
        Names {
            prefix: self.target.prefix(),
            start_number: self.startnumber,
            short_ids,
            username: self.target.credentials().username.unwrap_or_default(),
            cores: usize::from(self.cores),
        }
    }
}

/// The messages and their pace.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// QoS of publications and subscriptions.
    #[arg(short = 'q', long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload bytes, at least 16; they carry publisher, sequence and intended time.
    #[arg(short = 's', long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=16 << 20))]
    pub size: u32,
    /// Open loop: messages per second over all publishers, on an absolute schedule. Latency counts from the
    /// time a message was due.
    #[arg(long, value_parser = rate, group = "pace")]
    pub rate: Option<f64>,
    /// Open loop: the time between two messages of a publisher, in ms.
    #[arg(short = 'I', long, alias = "interval_of_msg", value_name = "MS", value_parser = milliseconds, group = "pace")]
    pub message_interval: Option<Duration>,
    /// Open loop: a rate that rises or falls, such as 0..100k@5k/s (from, to, in each second); then it stays for
    /// --hold, if given. All of it is measured.
    #[arg(long, value_parser = ramp, group = "pace", conflicts_with_all = ["duration", "warmup"])]
    pub ramp: Option<Profile>,
    /// Open loop: stages such as 1m:1k/s,5m:50k/s,1m:0. In each the rate goes straight from where it is (at first
    /// 0) to the one named; 0s:1k/s is a jump. All of them are measured.
    #[arg(long, value_parser = stages, group = "pace", conflicts_with_all = ["duration", "warmup"])]
    pub stages: Option<Profile>,
    /// Closed loop: each publisher sends as soon as its window has room. The latency is then service time: it
    /// leaves out what a stall would have cost messages that were not sent.
    #[arg(long, group = "pace")]
    pub closed_loop: bool,
    /// As much as goes: a closed loop with a large window, whose times say nothing and are not shown.
    #[arg(long, group = "pace")]
    pub max: bool,
    /// Find the highest rate at which this holds, such as 'p99<10ms': the rate is stepped up from --rate (or 1k/s)
    /// until it does not, and then bisected. --duration is that of one step.
    #[arg(long, value_name = "CONDITION", conflicts_with_all = ["message_interval", "ramp", "stages", "closed_loop", "max"])]
    pub find_max: Option<Assertion>,
    /// How long the last rate of --ramp stays.
    #[arg(long, value_parser = duration, requires = "ramp", conflicts_with_all = ["rate", "message_interval", "stages", "closed_loop", "max", "find_max"])]
    pub hold: Option<Duration>,
    /// Open loop: let each message be due at a random moment of this part of its slot (0.5 or 50%). Their number
    /// and order stay.
    #[arg(long, value_name = "PART", default_value = "0", value_parser = part, conflicts_with_all = ["closed_loop", "max"])]
    pub jitter: f64,
    /// Show the times of --max all the same.
    #[arg(long, requires = "max", conflicts_with_all = ["rate", "message_interval", "ramp", "stages", "closed_loop", "find_max"])]
    pub force: bool,
    /// Closed loop: messages of a publisher whose delivery has not come back [default: 32, with --max 1024]. Open
    /// loop: QoS 1 and 2 messages of a publisher whose handshake is not done; 0 is as many as there can be.
    #[arg(short = 'F', long, value_parser = clap::value_parser!(u32).range(0..=8192))]
    pub inflight: Option<u32>,
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

/// When messages are sent, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Pacing {
    /// What makes a publisher send.
    pub load: Load,
    /// How long to send before measuring.
    pub warmup: Duration,
    /// How long to measure.
    pub duration: Duration,
    /// Whether times are worth showing.
    pub has_latency: bool,
}

impl LoadArgs {
    /// Whether anything says how fast to send.
    pub fn has_pace(&self) -> bool {
        self.rate.is_some()
            || self.message_interval.is_some()
            || self.ramp.is_some()
            || self.stages.is_some()
            || self.closed_loop
            || self.max
            || self.find_max.is_some()
    }

    /// The pace of `publishers`. Without any it is a message a second from each, as emqtt-bench has it.
    pub fn pacing(&self, publishers: u32) -> Pacing {
        let window = |default| match self.inflight {
            None => default,
            Some(0) => 8_192,
            Some(window) => window,
        };
        let closed = |window: u32| Load::Closed {
            window: window as usize,
        };
        let open = |profile: Profile| Load::Open(profile.jittered(self.jitter));
        let load = if self.max {
            closed(window(WINDOW_MAX))
        } else if self.closed_loop {
            closed(window(WINDOW))
        } else if let Some(ramp) = &self.ramp {
            open(ramp.clone().held(self.hold.unwrap_or_default()))
        } else if let Some(stages) = &self.stages {
            open(stages.clone())
        } else if let Some(rate) = self.rate {
            open(Profile::constant(rate))
        } else {
            let interval = self.message_interval.unwrap_or(Duration::from_secs(1));
            let interval_s = interval.as_secs_f64().max(1e-6);
            let rate = f64::from(publishers) / interval_s;
            open(Profile::constant(rate.min(RATE_MAX)))
        };
        let whole = match &load {
            Load::Open(profile) => profile.duration(),
            Load::Closed { .. } | Load::Idle => None,
        };
        Pacing {
            load,
            warmup: if whole.is_some() {
                Duration::ZERO
            } else {
                self.warmup
            },
            duration: whole.unwrap_or(self.duration),
            has_latency: !self.max || self.force,
        }
    }
}

//! The configuration, as plain data, and how it is put together: default, then file, then environment,
//! then flags; the last word on a key holds.

mod file;
mod keys;
pub mod limits;
pub mod listener;
mod value;

use crate::shard::record::Durability;
use limits::Limits;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Everything an operator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to listen; never empty once loaded.
    pub listeners: Vec<Listener>,
    /// How many shards.
    pub cores: CoreCount,
    /// Whether each shard's thread stays on one CPU.
    pub pin: bool,
    /// Where what outlives the process is kept; none leaves the choice to the server.
    pub data_dir: Option<PathBuf>,
    /// What an acknowledgement is worth.
    pub durability: Durability,
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// Whether clients from other machines may connect without credentials.
    pub allow_anonymous: bool,
    /// Every bound.
    pub limits: Limits,
}

/// One address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name in the file.
    pub name: String,
    /// The address; port 0 lets the kernel choose one.
    pub bind: SocketAddr,
}

/// How many shards to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreCount {
    /// One for each CPU this process may use.
    Auto,
    /// This many, 1 to 64.
    Exactly(usize),
}

/// How severe a line of the log is; a lower one includes all above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something the operator should look at.
    Warn,
    /// Clients coming and going.
    Info,
    /// Everything, with no line left out.
    Debug,
}

impl LogLevel {
    /// Its word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| level.name() == text)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            cores: CoreCount::Auto,
            pin: false,
            data_dir: None,
            durability: Durability::Power,
            log_level: LogLevel::Info,
            allow_anonymous: false,
            limits: Limits::default(),
        }
    }
}

/// Where a setting was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nowhere: the default holds.
    Default,
    /// A file; line and column count from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag.
    Flag(String),
}

impl Origin {
    fn file(path: &Path, text: &str, offset: usize) -> Self {
        // An offset within a character would be the parser's mistake, and no reason to panic.
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Self::File {
            path: path.to_owned(),
            line,
            column,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::Env(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One key with its value as text, before it is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `cores`, `limits.packet-bytes-max`, `listener.tcp.bind`, or `bind`: a comma-separated list that
    /// replaces all listeners (flags and environment only).
    pub name: String,
    /// The value.
    pub text: String,
    /// Where it was made.
    pub origin: Origin,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub origin: Origin,
    /// What, and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Default => f.write_str(&self.message),
            _ => write!(f, "{}: {}", self.origin, self.message),
        }
    }
}

/// A configuration together with where each of its settings was made.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// The file it was read from, if any.
    pub path: Option<PathBuf>,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Puts a configuration together from a file's path and text, the environment and the flags.
    ///
    /// Errors: everything that is wrong with it, in the order in which it was met.
    pub fn new(
        file: Option<(&Path, &str)>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = Setting>,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut settings = match file {
            Some((path, text)) => file::settings(path, text)?,
            None => Vec::new(),
        };
        for (variable, text) in env {
            if variable == "STATE_DIRECTORY" {
                settings.insert(0, state_directory(&text));
            } else {
                settings.extend(env_setting(variable, text));
            }
        }
        settings.extend(flags);

        let mut loaded = Self {
            config: Config::default(),
            path: file.map(|(path, _)| path.to_owned()),
            origins: BTreeMap::new(),
        };
        let mut errors = Vec::new();
        for setting in settings {
            let Setting { name, text, origin } = setting;
            match loaded.apply(&name, &text, &origin) {
                Ok(()) => {}
                Err(message) => errors.push(ConfigError { origin, message }),
            }
        }
        if loaded.config.listeners.is_empty() {
            let bind = SocketAddr::from(([127, 0, 0, 1], 1883));
            loaded.config.listeners.push(Listener {
                name: "tcp".into(),
                bind,
            });
        }
        errors.extend(loaded.contradictions());
        if errors.is_empty() {
            Ok(loaded)
        } else {
            Err(errors)
        }
    }

    /// The whole configuration as a file, with the origin of each value.
    pub fn show(&self) -> String {
        let mut lines = Vec::new();
        for key in keys::TOP_KEYS {
            match keys::show_top(&self.config, key.name) {
                Some(value) => {
                    lines.push((format!("{} = {value}", key.name), self.origin(key.name)));
                }
                None => lines.push((format!("# {} is not set", key.name), Origin::Default)),
            }
        }
        for listener in &self.config.listeners {
            let name = format!("listener.{}.bind", listener.name);
            lines.push((String::new(), Origin::Default));
            lines.push((format!("[listener.{}]", listener.name), Origin::Default));
            lines.push((format!("bind = \"{}\"", listener.bind), self.origin(&name)));
        }
        lines.push((String::new(), Origin::Default));
        lines.push(("[limits]".into(), Origin::Default));
        for (name, value, _) in limit_lines(&self.config.limits) {
            let origin = self.origin(&format!("limits.{name}"));
            lines.push((format!("{name} = {value}"), origin));
        }
        let mut text = String::new();
        for (line, origin) in lines {
            if line.contains(" = ") {
                text.push_str(&format!("{line:<44} # {origin}\n"));
            } else {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }

    /// The limits a newcomer meets first and those that differ from their defaults, as `name=value`.
    pub fn banner_limits(&self) -> Vec<String> {
        let first = ["packet-bytes-max", "queue-messages-max", "sessions-max"];
        let defaults = limit_lines(&Limits::default());
        limit_lines(&self.config.limits)
            .into_iter()
            .zip(defaults)
            .filter(|((name, value, _), (_, default, _))| value != default || first.contains(name))
            .map(|((name, value, _), _)| format!("{name}={}", value.trim_matches('"')))
            .collect()
    }

    /// Whether every listener can be reached from this machine only.
    pub fn is_local_only(&self) -> bool {
        self.config
            .listeners
            .iter()
            .all(|listener| listener.bind.ip().is_loopback())
    }

    fn apply(&mut self, name: &str, text: &str, origin: &Origin) -> Result<(), String> {
        if name != "bind" || matches!(origin, Origin::File { .. }) {
            keys::set(&mut self.config, name, text)?;
            self.origins.insert(canonical(name), origin.clone());
            return Ok(());
        }
        let binds = text
            .split(',')
            .map(keys::parse_bind)
            .collect::<Result<Vec<_>, _>>()?;
        self.config.listeners.clear();
        for (n, bind) in binds.into_iter().enumerate() {
            let name = if n == 0 {
                "tcp".to_owned()
            } else {
                format!("tcp-{}", n + 1)
            };
            self.origins
                .insert(format!("listener.{name}.bind"), origin.clone());
            self.config.listeners.push(Listener { name, bind });
        }
        Ok(())
    }

    fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).cloned().unwrap_or(Origin::Default)
    }

    fn contradictions(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let listeners = &self.config.listeners;
        for (n, listener) in listeners.iter().enumerate() {
            let origin = self.origin(&format!("listener.{}.bind", listener.name));
            let same = |other: &&Listener| other.bind == listener.bind && listener.bind.port() != 0;
            if let Some(first) = listeners[..n].iter().find(same) {
                let message = format!(
                    "{} is already bound by listener `{}`",
                    listener.bind, first.name
                );
                errors.push(ConfigError {
                    origin: origin.clone(),
                    message,
                });
            }
            if !listener.bind.ip().is_loopback() && !self.config.allow_anonymous {
                let message = format!(
                    "{} can be reached from other machines, and there is no authentication yet: anyone \
                     who reaches it could read and publish everything. Bind 127.0.0.1 instead, or add \
                     --allow-anonymous (allow-anonymous = true) if that is what you want",
                    listener.bind
                );
                errors.push(ConfigError { origin, message });
            }
        }
        errors
    }
}

/// A file with every key, its default and what it says; all commented out.
pub fn sample() -> String {
    let defaults = Config::default();
    let mut text = String::from(
        "# The configuration of ringmq. Every key is shown with its default.\n\
         # A flag, an environment variable (RINGMQ_CORES, RINGMQ_LIMITS__PACKET_BYTES_MAX) and --set\n\
         # (--set limits.packet-bytes-max=64MiB) use the same words and win over this file.\n\n",
    );
    for key in keys::TOP_KEYS {
        let value = keys::show_top(&defaults, key.name);
        let value = value.unwrap_or_else(|| "\"/var/lib/ringmq\"".into());
        text.push_str(&format!("# {}\n#{} = {value}\n\n", key.doc, key.name));
    }
    text.push_str(
        "# One table for each address to listen on; the name is yours.\n\
         #[listener.tcp]\n#bind = \"127.0.0.1:1883\"\n\n#[limits]\n",
    );
    for (name, value, doc) in limit_lines(&defaults.limits) {
        text.push_str(&format!("# {doc}\n#{name} = {value}\n"));
    }
    text
}

/// Name, value as in a file, and what it says, of every limit.
fn limit_lines(limits: &Limits) -> Vec<(&'static str, String, &'static str)> {
    let mut lines: Vec<_> = keys::LIMIT_KEYS
        .iter()
        .map(|key| (key.name, key.show(limits), key.doc))
        .collect();
    lines.push((
        "queue-full",
        keys::show_queue_full(limits),
        keys::QUEUE_FULL_DOC,
    ));
    lines
}

/// The setting an environment variable makes.
///
/// `RINGMQ_CORES` sets `cores`; two underscores are a dot: `RINGMQ_LIMITS__SESSIONS_MAX`. Other variables
/// that begin with `RINGMQ_` are not ours to judge: Kubernetes sets `RINGMQ_PORT` for a service called ringmq.
fn env_setting(variable: String, text: String) -> Option<Setting> {
    let rest = variable.strip_prefix("RINGMQ_")?;
    let name = rest.to_lowercase().replace("__", ".").replace('_', "-");
    let known = name == "bind"
        || keys::TOP_KEYS.iter().any(|key| key.name == name)
        || name.starts_with("limits.")
        || name.starts_with("listener.");
    if !known || text.is_empty() {
        return None;
    }
    Some(Setting {
        name,
        text,
        origin: Origin::Env(variable),
    })
}

/// The default of `data-dir` under systemd: the first directory that `StateDirectory=` made for the unit.
fn state_directory(list: &str) -> Setting {
    let text = list.split(':').next().unwrap_or_default().to_owned();
    Setting {
        name: "data-dir".into(),
        text,
        origin: Origin::Env("STATE_DIRECTORY".into()),
    }
}

/// The key under which a setting is listed, also when it was made under the field's name.
fn canonical(name: &str) -> String {
    match name.strip_prefix("limits.") {
        Some(limit) => {
            let key = keys::LIMIT_KEYS.iter().find(|key| key.is_called(limit));
            format!("limits.{}", key.map_or(limit, |key| key.name))
        }
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(name: &str, text: &str) -> Setting {
        Setting {
            name: name.into(),
            text: text.into(),
            origin: Origin::Flag(format!("--{name}")),
        }
    }

    fn env(variable: &str, text: &str) -> (String, String) {
        (variable.into(), text.into())
    }

    #[test]
    fn the_last_word_holds() {
        let file = (
            Path::new("a.toml"),
            "cores = 2\npin = true\n[limits]\nsessions-max = 10\n",
        );
        let loaded = Loaded::new(
            Some(file),
            [
                env("RINGMQ_CORES", "3"),
                env("RINGMQ_LIMITS__SESSIONS_MAX", "20"),
                env("RINGMQ_PORT", "tcp://x"),
            ],
            [flag("cores", "4")],
        )
        .unwrap();
        assert_eq!(loaded.config.cores, CoreCount::Exactly(4));
        assert!(loaded.config.pin);
        assert_eq!(loaded.config.limits.sessions_max, 20);
        let shown = loaded.show();
        for line in [
            "cores = 4 # --cores",
            "pin = true # a.toml:2:1",
            "sessions-max = 20 # RINGMQ_LIMITS__SESSIONS_MAX",
        ] {
            let squeezed: Vec<String> = shown
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            assert!(
                squeezed.iter().any(|have| have == line),
                "{line} in\n{shown}"
            );
        }
        assert_eq!(
            loaded.banner_limits(),
            [
                "packet-bytes-max=8MiB",
                "queue-messages-max=10000",
                "sessions-max=20"
            ]
        );
    }

    #[test]
    fn the_state_directory_of_systemd_is_the_least_word() {
        let state = || env("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
        let dir =
            |file: Option<(&Path, &str)>| Loaded::new(file, [state()], []).unwrap().config.data_dir;
        assert_eq!(dir(None), Some("/var/lib/a".into()));
        assert_eq!(
            dir(Some((Path::new("a.toml"), "data-dir = \"/c\"\n"))),
            Some("/c".into())
        );
    }

    #[test]
    fn what_is_shown_and_the_sample_are_files() {
        let loaded = Loaded::new(None, [], [flag("bind", "127.0.0.1:1,[::1]:2")]).unwrap();
        let shown = loaded.show();
        let again = Loaded::new(Some((Path::new("shown"), &shown)), [], []).unwrap();
        assert_eq!(again.config, loaded.config);

        let uncommented: String = sample()
            .lines()
            .filter(|line| !line.starts_with("# "))
            .map(|line| format!("{}\n", line.trim_start_matches('#')))
            .collect();
        let sampled = Loaded::new(Some((Path::new("sample"), &uncommented)), [], []).unwrap();
        let defaults = Loaded::new(None, [], []).unwrap();
        assert_eq!(
            sampled.config,
            Config {
                data_dir: Some("/var/lib/ringmq".into()),
                ..defaults.config
            }
        );
    }

    #[test]
    fn listeners_are_replaced_by_bind_and_added_by_name() {
        let file = (
            Path::new("a.toml"),
            "[listener.a]\nbind = \"127.0.0.1:1\"\n",
        );
        let binds = |flags: Vec<Setting>| {
            let loaded = Loaded::new(Some(file), [], flags).unwrap();
            loaded
                .config
                .listeners
                .iter()
                .map(|listener| listener.bind.port())
                .collect::<Vec<_>>()
        };
        assert_eq!(binds(vec![]), [1]);
        assert_eq!(binds(vec![flag("listener.b.bind", "127.0.0.1:2")]), [1, 2]);
        assert_eq!(binds(vec![flag("bind", "127.0.0.1:3,localhost:4")]), [3, 4]);
    }

    #[test]
    fn a_public_address_needs_allow_anonymous() {
        let errors = Loaded::new(None, [], [flag("bind", "0.0.0.0:1883")]).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].to_string().starts_with("--bind: 0.0.0.0:1883"),
            "{}",
            errors[0]
        );
        assert!(errors[0].message.contains("--allow-anonymous"));
        let flags = [
            flag("bind", "0.0.0.0:1883"),
            flag("allow-anonymous", "true"),
        ];
        assert!(!Loaded::new(None, [], flags).unwrap().is_local_only());
        assert!(Loaded::new(None, [], []).unwrap().is_local_only());
    }

    #[test]
    fn every_error_is_told_with_its_place() {
        let text = "croes = 2\n[limits]\nsessions-max = 0\n";
        let errors = Loaded::new(Some((Path::new("a.toml"), text)), [], []).unwrap_err();
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "a.toml:1:1: unknown key `croes`; did you mean `cores`?",
                "a.toml:3:1: `limits.sessions-max` is 0; it must be from 1 to 4294967295",
            ]
        );
        let errors = Loaded::new(None, [env("RINGMQ_LIMITS__SESSION_MAX", "1")], []).unwrap_err();
        assert!(
            errors[0]
                .to_string()
                .contains("did you mean `limits.sessions-max`?")
        );
        let twice = [flag("bind", "127.0.0.1:1,127.0.0.1:1")];
        assert!(
            Loaded::new(None, [], twice).unwrap_err()[0]
                .message
                .contains("already bound")
        );
    }
}

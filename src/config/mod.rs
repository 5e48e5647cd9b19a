//! The configuration, as plain data, and how it is put together: default, then files, then environment,
//! then flags; the last word on a key holds.

mod document;
mod file;
mod key;
mod keys;
pub mod limits;
pub mod listener;
pub mod login;
mod reload;
mod sources;
mod value;

pub use document::{sample, schema};
pub use key::Value;
pub use reload::Difference;
pub use sources::Sources;

use crate::shard::record::Durability;
use key::Places;
use limits::Limits;
use listener::{AuthMethod, Bind, ClientCertificate, ListenerSpec};
use login::{AclSpec, LoginSpec};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Everything an operator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to listen; never empty once loaded.
    pub listeners: Vec<ListenerSpec>,
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
    /// What a listener asks of its clients that does not say so itself.
    pub auth: Option<AuthMethod>,
    /// With what clients are judged.
    pub login: LoginSpec,
    /// Who may publish and read what.
    pub acl: AclSpec,
    /// Every bound.
    pub limits: Limits,
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
            auth: None,
            login: LoginSpec::default(),
            acl: AclSpec::default(),
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

/// One key with its value, before it is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `cores`, `limits.packet-bytes-max`, `listener.tcp.bind`, or `bind`: a list of places to listen that
    /// replaces all listeners (flags and environment only).
    pub name: String,
    /// What it says.
    pub value: Value,
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
    /// The files it was read from.
    pub files: Vec<PathBuf>,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Puts a configuration together from files with their texts, the environment and the flags.
    ///
    /// Errors: everything that is wrong with it, in the order in which it was met.
    pub fn new(
        files: &[(PathBuf, String)],
        env: impl IntoIterator<Item = (String, String)>,
        flags: impl IntoIterator<Item = Setting>,
    ) -> Result<Self, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut settings = Vec::new();
        let mut credentials = None;
        let mut from_env = Vec::new();
        for (variable, text) in env {
            match &*variable {
                "STATE_DIRECTORY" => settings.push(state_directory(&text)),
                "CREDENTIALS_DIRECTORY" => credentials = Some(PathBuf::from(text)),
                _ => from_env.extend(env_setting(variable, text)),
            }
        }
        for (path, text) in files {
            let (mut of_file, mistakes) = file::settings(path, text);
            in_order(&mut of_file);
            settings.append(&mut of_file);
            errors.extend(mistakes);
        }
        in_order(&mut from_env);
        settings.append(&mut from_env);
        let mut from_flags: Vec<_> = flags.into_iter().collect();
        in_order(&mut from_flags);
        settings.append(&mut from_flags);

        let mut loaded = Self {
            config: Config::default(),
            files: files.iter().map(|(path, _)| path.clone()).collect(),
            origins: BTreeMap::new(),
        };
        for setting in settings {
            if let Err(message) = loaded.apply(&setting, credentials.as_deref()) {
                let origin = setting.origin;
                errors.push(ConfigError { origin, message });
            }
        }
        if loaded.config.listeners.is_empty() {
            let listener = keys::unbound_listener("tcp");
            loaded.config.listeners.push(listener);
            loaded
                .origins
                .insert("listener.tcp.bind".into(), Origin::Default);
        }
        for listener in &mut loaded.config.listeners {
            listener.auth = listener.auth.or(loaded.config.auth);
        }
        // What else follows from a mistake is no news.
        if errors.is_empty() {
            errors = loaded.contradictions();
        }
        if errors.is_empty() {
            Ok(loaded)
        } else {
            Err(errors)
        }
    }

    /// That something is wrong with the file that the key `name` names, with where it does.
    pub fn wrong_file(&self, name: &str, what: impl fmt::Display) -> String {
        let origin = self.origin(name);
        let message = format!("`{name}`: {what}");
        ConfigError { origin, message }.to_string()
    }

    /// As [`Loaded::wrong_file`], for a file of a listener's TLS.
    pub fn wrong_tls_file(&self, listener: &str, path: &Path, what: impl fmt::Display) -> String {
        let mut listeners = self.config.listeners.iter();
        let spec = listeners.find(|spec| spec.name == listener);
        let tls = spec.and_then(|spec| spec.tls.as_ref());
        let key = tls.map_or("tls", |tls| tls.key_of(path));
        self.wrong_file(&format!("listener.{listener}.{key}"), what)
    }

    /// Where the rules of `[acl]` stand.
    pub fn acl_place(&self) -> String {
        self.origin("acl.rules").to_string()
    }

    /// Whether every listener can be reached from this machine only.
    pub fn is_local_only(&self) -> bool {
        self.config
            .listeners
            .iter()
            .all(ListenerSpec::is_local_only)
    }

    /// The listeners through which other machines come in without a proof of who they are.
    pub fn open_to_all(&self) -> impl Iterator<Item = &ListenerSpec> {
        let listeners = self.config.listeners.iter();
        listeners.filter(|listener| !listener.is_local_only() && listener.is_open())
    }

    fn apply(&mut self, setting: &Setting, credentials: Option<&Path>) -> Result<(), String> {
        let Setting {
            name,
            value,
            origin,
        } = setting;
        let beside = match origin {
            Origin::File { path, .. } => path.parent(),
            _ => None,
        };
        if let (Value::Commas(binds), "bind") = (value, &**name) {
            return self.bind(binds, origin);
        }
        let places = Places {
            credentials,
            beside,
        };
        keys::set(&mut self.config, name, value, places)?;
        self.origins.insert(plain(name), origin.clone());
        Ok(())
    }

    /// Replaces all listeners by plain ones.
    fn bind(&mut self, binds: &str, origin: &Origin) -> Result<(), String> {
        let binds = binds.split(',').map(keys::parse_bind);
        let binds = binds.collect::<Result<Vec<_>, _>>()?;
        self.config.listeners.clear();
        for (n, bind) in binds.into_iter().enumerate() {
            let name = match (&bind, n) {
                (Bind::Unix { .. }, _) => format!("unix-{}", n + 1),
                (Bind::Tcp(_), 0) => "tcp".to_owned(),
                (Bind::Tcp(_), _) => format!("tcp-{}", n + 1),
            };
            let key = format!("listener.{name}.bind");
            self.origins.insert(key, origin.clone());
            let listener = ListenerSpec {
                bind,
                ..keys::unbound_listener(&name)
            };
            self.config.listeners.push(listener);
        }
        Ok(())
    }

    fn origin(&self, name: &str) -> Origin {
        let origin = self.origins.get(&plain(name)).cloned();
        origin.unwrap_or(Origin::Default)
    }

    /// Where the key of a listener was set, or else where the listener was bound.
    fn origin_in(&self, listener: &ListenerSpec, key: &str) -> Origin {
        let found = |key: &str| {
            let name = plain(&format!("listener.{}.{key}", listener.name));
            self.origins.get(&name).cloned()
        };
        found(key)
            .or_else(|| found("bind"))
            .unwrap_or(Origin::Default)
    }

    /// What is wrong although each key by itself is right.
    fn contradictions(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let listeners = &self.config.listeners;
        for (n, listener) in listeners.iter().enumerate() {
            let mut wrong = |key: &str, message: String| {
                let origin = self.origin_in(listener, key);
                errors.push(ConfigError { origin, message });
            };
            let name = &listener.name;
            if !self
                .origins
                .contains_key(&plain(&format!("listener.{name}.bind")))
            {
                let prefix = plain(&format!("listener.{name}."));
                let first = self.origins.range(prefix.clone()..).next();
                let first = first.filter(|(key, _)| key.starts_with(&prefix));
                let message = format!("listener `{name}` has no `bind`; say where it listens");
                errors.push(ConfigError {
                    origin: first.map_or(Origin::Default, |(_, origin)| origin.clone()),
                    message,
                });
                continue;
            }
            if let Some(first) = listeners[..n].iter().find(|other| is_same(other, listener)) {
                let message = format!(
                    "{} is already bound by listener `{}`",
                    listener.bind, first.name
                );
                wrong("bind", message);
            }
            if !listener.is_local_only() && listener.auth.is_none() {
                wrong(
                    "bind",
                    format!(
                        "{} can be reached from other machines, and nothing says how their clients prove who they are. \
                         Add auth = \"anonymous\" (--auth anonymous) to let everybody read and publish everything, \
                         or auth = {}, or bind 127.0.0.1 instead",
                        listener.bind,
                        key::one_of(&["password", "cert", "jwt", "http"]),
                    ),
                );
            }
            for (key, message) in inconsistencies(listener, &self.config.login) {
                wrong(key, message);
            }
        }
        errors
    }
}

/// Whether two listeners would listen in one place.
fn is_same(a: &ListenerSpec, b: &ListenerSpec) -> bool {
    match (&a.bind, &b.bind) {
        (Bind::Tcp(a), Bind::Tcp(b)) => a == b && a.port() != 0,
        (Bind::Unix { path: a, .. }, Bind::Unix { path: b, .. }) => a == b,
        _ => false,
    }
}

/// What in a listener does not fit together, by its key.
fn inconsistencies(listener: &ListenerSpec, login: &LoginSpec) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    if let Some(tls) = &listener.tls {
        let is_missing = |path: &PathBuf| path.as_os_str().is_empty();
        let keys = tls
            .certificates
            .iter()
            .filter(|pair| !is_missing(&pair.key));
        let certificates = tls.certificates.iter();
        let certificates = certificates.filter(|pair| !is_missing(&pair.certificate));
        let (certificates, keys) = (certificates.count(), keys.count());
        if certificates != keys || keys == 0 {
            let message = format!(
                "`tls.certificate-file` names {certificates} files and `tls.key-file` {keys}; \
                 TLS needs at least one certificate, and a key for each"
            );
            wrong.push(("tls.certificate-file", message));
        }
        let asks = tls.client_certificate != ClientCertificate::None;
        if asks && tls.client_ca.is_empty() {
            let message = "`tls.client-certificate` needs `tls.client-ca-file`, the authorities that are believed";
            wrong.push(("tls.client-certificate", message.into()));
        }
        let names_authorities = !tls.client_ca.is_empty() || !tls.crl.is_empty();
        if names_authorities && !asks {
            let message =
                "it has no effect without `tls.client-certificate` = \"optional\" or \"required\"";
            let key = if tls.client_ca.is_empty() {
                "tls.crl-file"
            } else {
                "tls.client-ca-file"
            };
            wrong.push((key, format!("`{key}`: {message}")));
        }
    }
    if let Some(proxy) = &listener.proxy
        && proxy.trusted.is_empty()
        && !listener.is_local_only()
    {
        let message = "`proxy.trusted` names nobody, so nobody could connect";
        wrong.push(("proxy.trusted", message.into()));
    }
    let requires_certificate = listener
        .tls
        .as_ref()
        .is_some_and(|tls| tls.client_certificate == ClientCertificate::Required);
    match listener.auth {
        Some(AuthMethod::Certificate) if !requires_certificate => {
            let message = "`auth` = \"cert\" needs `tls.client-certificate` = \"required\"";
            wrong.push(("auth", message.into()));
        }
        Some(AuthMethod::Password) if login.password_file.is_none() => {
            wrong.push((
                "auth",
                "`auth` = \"password\" needs `login.password-file`".into(),
            ));
        }
        Some(AuthMethod::Jwt) if !login.jwt.has_keys() => {
            let message = "`auth` = \"jwt\" needs `login.jwt.secret-file`, `login.jwt.key-file` or `login.jwt.jwks-file`";
            wrong.push(("auth", message.into()));
        }
        Some(AuthMethod::Http) if login.http.url.is_none() => {
            wrong.push(("auth", "`auth` = \"http\" needs `login.http.url`".into()));
        }
        _ => {}
    }
    wrong
}

/// Sorts the settings of one source, so that what a key builds on is there before it; otherwise the order stays.
fn in_order(settings: &mut [Setting]) {
    settings.sort_by_key(|setting| match &*setting.name {
        "bind" => 0,
        name if name.starts_with("listener.") && name.ends_with(".bind") => 1,
        _ => 2,
    });
}

/// A key as the environment can write it.
fn plain(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// The setting an environment variable makes.
///
/// `RINGMQ_CORES` sets `cores`; two underscores are a dot: `RINGMQ_LIMITS__SESSIONS_MAX`. A variable that is not close to
/// any key is not ours to judge: Kubernetes sets `RINGMQ_SERVICE_HOST` for a service called ringmq.
fn env_setting(variable: String, text: String) -> Option<Setting> {
    let rest = variable.strip_prefix("RINGMQ_")?;
    let name = rest.to_lowercase().replace("__", ".").replace('_', "-");
    if text.is_empty() || name == "config" || !keys::is_meant(&name) {
        return None;
    }
    Some(Setting {
        name,
        value: Value::Commas(text),
        origin: Origin::Env(variable),
    })
}

/// The default of `data-dir` under systemd: the first directory that `StateDirectory=` made for the unit.
fn state_directory(list: &str) -> Setting {
    let text = list.split(':').next().unwrap_or_default().to_owned();
    Setting {
        name: "data-dir".into(),
        value: Value::One(text),
        origin: Origin::Env("STATE_DIRECTORY".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(name: &str, text: &str) -> Setting {
        Setting {
            name: name.into(),
            value: Value::Commas(text.into()),
            origin: Origin::Flag(format!("--{name}")),
        }
    }

    fn env(variable: &str, text: &str) -> (String, String) {
        (variable.into(), text.into())
    }

    fn file(name: &str, text: &str) -> (PathBuf, String) {
        (name.into(), text.into())
    }

    fn from_file(text: &str) -> Result<Loaded, Vec<ConfigError>> {
        Loaded::new(&[file("a.toml", text)], [], [])
    }

    fn errors(text: &str) -> Vec<String> {
        let errors = from_file(text).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    fn squeezed(shown: &str) -> Vec<String> {
        let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        shown.lines().map(squeeze).collect()
    }

    #[test]
    fn a_list_on_the_command_line_has_commas_or_is_an_array() {
        let groups = |text: &str| {
            let loaded = Loaded::new(&[], [], [flag("acl.groups", text)])?;
            Ok::<_, Vec<ConfigError>>(loaded.config.acl.groups)
        };
        for text in ["crew: al,night: bo", "[\"crew: al\", 'night: bo']"] {
            assert_eq!(groups(text).unwrap(), ["crew: al", "night: bo"]);
        }
        assert_eq!(groups("[\"crew: al, bo\"]").unwrap(), ["crew: al, bo"]);
        let wrong = groups("[\"crew: al, bo").unwrap_err()[0].to_string();
        assert!(wrong.contains("acl.groups"), "{wrong}");
    }

    #[test]
    fn the_last_word_holds() {
        let files = [
            file(
                "a.toml",
                "cores = 2\npin = true\n[limits]\nsessions-max = 10\n",
            ),
            file(
                "conf.d/b.toml",
                "cores = 1\n[limits]\nconnections-max = 7\n",
            ),
        ];
        let loaded = Loaded::new(
            &files,
            [
                env("RINGMQ_CORES", "3"),
                env("RINGMQ_LIMITS__SESSIONS_MAX", "20"),
                env("RINGMQ_PORT", "tcp://x"),
                env("RINGMQ_SERVICE_HOST", "10.0.0.1"),
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
            "connections-max = 7 # conf.d/b.toml:3:1",
            "connect-rate-max = \"infinity\" # default",
        ] {
            assert!(
                squeezed(&shown).contains(&line.into()),
                "{line} in\n{shown}"
            );
        }
        let limits = loaded.banner_limits();
        assert_eq!(
            limits,
            [
                "connections-max=7",
                "packet-bytes-max=8MiB",
                "queue-messages-max=10000",
                "sessions-max=20"
            ]
        );
    }

    #[test]
    fn the_state_directory_of_systemd_is_the_least_word() {
        let state = || env("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
        let dir = |files: &[_]| Loaded::new(files, [state()], []).unwrap().config.data_dir;
        assert_eq!(dir(&[]), Some("/var/lib/a".into()));
        let files = [file("a.toml", "data-dir = \"/c\"\n")];
        assert_eq!(dir(&files), Some("/c".into()));
    }

    #[test]
    fn what_is_shown_and_the_sample_are_files() {
        let text = "data-dir = \"/d\\u0019\\\"\\u00e9\"\n[listener.ws]\nbind = \"unix:/run/x\"\nunix-mode = \"0600\"\n[listener.ws.websocket]\n\
                    [listener.tls]\nbind = \"0.0.0.0:8883\"\nauth = \"cert\"\nallow = [\"10.0.0.0/8\"]\n\
                    [listener.tls.tls]\ncertificate-file = [\"a.pem\", \"b.pem\"]\nkey-file = [\"a.key\", \"/b.key\"]\n\
                    client-certificate = \"required\"\nclient-ca-file = \"ca.pem\"\nusername-from = \"cn\"\n\
                    [listener.tls.websocket]\npaths = \"/mqtt\"\n[listener.tls.tcp]\nuser-timeout = \"30s\"\n";
        let loaded = Loaded::new(&[file("/etc/a.toml", text)], [], []).unwrap();
        let tls = loaded.config.listeners[1].tls.as_ref().unwrap();
        assert_eq!(tls.certificates[0].certificate, Path::new("/etc/a.pem"));
        assert_eq!(tls.certificates[1].key, Path::new("/b.key"));
        let shown = loaded.show();
        let again = Loaded::new(&[file("shown", &shown)], [], []);
        assert_eq!(again.unwrap().config, loaded.config, "{shown}");

        let uncommented: String = sample()
            .lines()
            .filter(|line| !line.starts_with("# "))
            .map(|line| format!("{}\n", line.trim_start_matches('#')))
            .filter(|line| !line.starts_with(':'))
            .collect();
        let sampled = from_file(&uncommented).unwrap();
        let defaults = Loaded::new(&[], [], []).unwrap();
        assert_eq!(sampled.config, defaults.config);
    }

    #[test]
    fn listeners_are_replaced_by_bind_and_added_by_name() {
        let files = [file("a.toml", "[listener.a_b]\nbind = \"127.0.0.1:1\"\n")];
        let binds = |env: Vec<(String, String)>, flags: Vec<Setting>| {
            let loaded = Loaded::new(&files, env, flags).unwrap();
            let listeners = loaded.config.listeners.iter();
            let binds = listeners.map(|listener| format!("{} {}", listener.name, listener.bind));
            binds.collect::<Vec<_>>()
        };
        assert_eq!(binds(vec![], vec![]), ["a_b 127.0.0.1:1"]);
        assert_eq!(
            binds(
                vec![env("RINGMQ_LISTENER__A_B__BIND", "127.0.0.1:9")],
                vec![]
            ),
            ["a_b 127.0.0.1:9"]
        );
        assert_eq!(
            binds(vec![], vec![flag("listener.b.bind", "127.0.0.1:2")]),
            ["a_b 127.0.0.1:1", "b 127.0.0.1:2"]
        );
        assert_eq!(
            binds(
                vec![],
                vec![flag("bind", "127.0.0.1:3,localhost:4,unix:/run/x")]
            ),
            ["tcp 127.0.0.1:3", "tcp-2 127.0.0.1:4", "unix-3 unix:/run/x"]
        );
    }

    #[test]
    fn a_public_address_needs_a_choice() {
        let bind = || flag("bind", "0.0.0.0:1883");
        let errors = Loaded::new(&[], [], [bind()]).unwrap_err();
        assert_eq!(errors.len(), 1);
        let text = errors[0].to_string();
        assert!(text.starts_with("--bind: 0.0.0.0:1883"), "{text}");
        assert!(text.contains("--auth anonymous"), "{text}");
        let open = Loaded::new(&[], [], [bind(), flag("auth", "anonymous")]).unwrap();
        assert!(!open.is_local_only());
        assert_eq!(open.open_to_all().count(), 1);
        let local = Loaded::new(&[], [], []).unwrap();
        assert!(local.is_local_only());
        assert_eq!(local.open_to_all().count(), 0);
        // One listener's word is not another's.
        let text = "[listener.a]\nbind = \"0.0.0.0:1\"\nauth = \"anonymous\"\n[listener.b]\nbind = \"[::]:2\"\n";
        let errors = from_file(text).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0]
                .to_string()
                .starts_with("a.toml:5:1: [::]:2 can be reached")
        );
    }

    #[test]
    fn every_error_is_told_with_its_place() {
        let text = "croes = 2\n[limits]\nsessions-max = 0\nqueue-full = [\"x\"]\n[listner]\n";
        assert_eq!(
            errors(text),
            [
                "a.toml:1:1: unknown key `croes`; did you mean `cores`?",
                "a.toml:3:1: `limits.sessions-max` is 0; it must be from 1 to 4294967295",
                "a.toml:4:1: `limits.queue-full` must be \"drop-oldest\", \"drop-newest\", \"disconnect\", \"refuse\" or \"hold\"",
                "a.toml:5:2: unknown key `listner`; did you mean `listener`?",
            ]
        );
        for (variable, meant) in [
            ("RINGMQ_LIMITS__SESSION_MAX", "limits.sessions-max"),
            ("RINGMQ_LISTENER__TCP__BND", "listener.tcp.bind"),
            ("RINGMQ_CORE", "cores"),
        ] {
            let errors = Loaded::new(&[], [env(variable, "1")], []).unwrap_err();
            let text = errors[0].to_string();
            let expected = format!("did you mean `{meant}`?");
            assert!(
                text.starts_with(variable) && text.ends_with(&expected),
                "{text}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_together_is_told_with_its_place() {
        for (text, error) in [
            (
                "[listener.a]\nauth = \"anonymous\"\n",
                "a.toml:2:1: listener `a` has no `bind`; say where it listens",
            ),
            (
                "[listener.a]\nbind = \"127.0.0.1:1\"\n[listener.b]\nbind = \"127.0.0.1:1\"\n",
                "a.toml:4:1: 127.0.0.1:1 is already bound by listener `a`",
            ),
            (
                "[listener.a]\nbind = \"127.0.0.1:1\"\ntls.key-file = \"x\"\n",
                "a.toml:2:1: `tls.certificate-file` names 0 files and `tls.key-file` 1; \
                 TLS needs at least one certificate, and a key for each",
            ),
            (
                "[listener.a]\nbind = \"127.0.0.1:1\"\nauth = \"cert\"\n",
                "a.toml:3:1: `auth` = \"cert\" needs `tls.client-certificate` = \"required\"",
            ),
            (
                "[listener.a]\nbind = \"127.0.0.1:1\"\ntls.key-file = \"x\"\ntls.certificate-file = \"x\"\ntls.crl-file = \"x\"\n",
                "a.toml:5:5: `tls.crl-file`: it has no effect without `tls.client-certificate` = \"optional\" or \"required\"",
            ),
            (
                "[listener.a]\nbind = \"127.0.0.1:1\"\ntls.key-file = \"x\"\ntls.certificate-file = \"x\"\ntls.client-certificate = \"optional\"\n",
                "a.toml:5:5: `tls.client-certificate` needs `tls.client-ca-file`, the authorities that are believed",
            ),
            (
                "auth = \"anonymous\"\n[listener.a]\nbind = \"0.0.0.0:1\"\nproxy.trusted = []\n",
                "a.toml:4:7: `proxy.trusted` names nobody, so nobody could connect",
            ),
        ] {
            assert_eq!(errors(text), [error]);
        }
    }

    #[test]
    fn a_relative_file_is_a_credential_or_beside_its_setting() {
        let dir = std::env::temp_dir().join(format!("ringmq-credentials-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("server.key"), "").unwrap();
        let text = "[listener.a]\nbind = \"127.0.0.1:1\"\n\
                    tls.key-file = \"server.key\"\ntls.certificate-file = \"server.pem\"\n";
        let credentials = env("CREDENTIALS_DIRECTORY", dir.to_str().unwrap());
        let loaded = Loaded::new(&[file("/etc/ringmq/a.toml", text)], [credentials], []).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let pair = &loaded.config.listeners[0]
            .tls
            .as_ref()
            .unwrap()
            .certificates[0];
        assert_eq!(pair.key, dir.join("server.key"));
        assert_eq!(pair.certificate, Path::new("/etc/ringmq/server.pem"));
    }

    #[test]
    fn the_difference_says_what_holds_and_what_waits() {
        let before = from_file("cores = 1\n[listener.a]\nbind = \"127.0.0.1:1\"\n[listener.b]\nbind = \"127.0.0.1:2\"\n").unwrap();
        let after = from_file(
            "cores = 2\nlog-level = \"debug\"\n[listener.a]\nbind = \"127.0.0.1:3\"\ndeny = \"10.0.0.0/8\"\n\
             [listener.c]\nbind = \"127.0.0.1:2\"\n[limits]\nsessions-max = 3\npacket-bytes-max = 100\n",
        )
        .unwrap();
        let difference = before.difference(&after);
        assert_eq!(
            difference.to_string(),
            "changed: log-level, limits.sessions-max; \
             needs restart: cores, listener.a.bind, listener.a.deny, listener.b, listener.c, limits.packet-bytes-max"
        );
        let now = before.with_changes(&after).unwrap();
        assert_eq!(before.difference(&now).needs_restart, [""; 0]);
        assert_eq!(before.difference(&now).changed, difference.changed);
        assert_eq!(
            now.difference(&after).needs_restart,
            difference.needs_restart
        );
        assert_eq!(before.difference(&before).to_string(), "no key has changed");
    }
}

//! The command line: one binary that is the broker, its configuration checker and two small clients.

use clap::{ArgAction, Args, Parser, Subcommand};
use ringmq::access::Rules;
use ringmq::auth::acl_tool::AclQuestion;
use ringmq::auth::load;
use ringmq::auth::passwd::PasswdArgs;
use ringmq::cert::DevCertificates;
use ringmq::client::{PubArgs, SubArgs};
use ringmq::config::{ConfigError, Origin, Setting, Sources, Value};
use ringmq::store::tool::StoreVerb;
use ringmq::torture::TortureArgs;
use std::path::PathBuf;

/// An MQTT 3.1, 3.1.1 and 5.0 broker for one Linux machine.
///
/// Without a command it runs the broker in the foreground, for clients on this machine.
#[derive(Debug, Parser)]
#[command(name = "ringmq", version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Verb>,
    #[command(flatten)]
    pub(crate) broker: BrokerArgs,
    /// Check the configuration and exit
    #[arg(long)]
    pub(crate) test_config: bool,
}

const AFTER_HELP: &str = "\
Every option can also be given in the environment (RINGMQ_CORES=2, RINGMQ_BIND=ADDR:PORT,ADDR:PORT, \
RINGMQ_CONFIG=FILE, RINGMQ_LIMITS__SESSIONS_MAX=1000) and in the file of --config; `ringmq config default` \
prints that file with every key. Files named conf.d/*.toml beside it are read after it. A flag wins over the \
environment, and the environment over the files. SIGHUP reads all of it again.

Exit status: 0 after a graceful stop, 1 failure, 2 usage, 3 invalid configuration, 70 when a core failed, 78 when the kernel does \
not grant what is needed (it says what to do).";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check or print the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Look at, check, repair, copy and move what is stored
    #[command(subcommand)]
    Store(StoreVerb),
    /// Kill a broker under load again and again, and check that it keeps what it had acknowledged
    Torture(TortureArgs),
    /// Make password files (the flags of mosquitto_passwd)
    Passwd(PasswdArgs),
    /// Ask the rules of who may publish and read what
    #[command(subcommand)]
    Acl(AclVerb),
    /// Make certificates
    #[command(subcommand)]
    Cert(CertVerb),
    /// Publish messages (the flags of mosquitto_pub)
    Pub(Box<PubArgs>),
    /// Subscribe and print messages (the flags of mosquitto_sub)
    Sub(Box<SubArgs>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Check the configuration; exit 3 if it is not valid
    Check(BrokerArgs),
    /// Print the configuration in force, with the origin of each value
    Show(BrokerArgs),
    /// Print a file with every key, its default and what it says
    Default,
    /// Print the JSON schema of the file, for editors
    Schema,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AclVerb {
    /// Say whether a client may do something, and which rule says so; exit 0 if it may, 4 if not
    Test(AclTestArgs),
}

#[derive(Args, Debug)]
pub(crate) struct AclTestArgs {
    #[command(flatten)]
    pub(crate) question: AclQuestion,
    /// Rules in mosquitto's grammar, instead of those of the configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl AclTestArgs {
    /// The rules that are asked.
    ///
    /// Errors: everything that is wrong with them.
    pub(crate) fn rules(&self) -> Result<Rules, Vec<String>> {
        if let Some(file) = &self.file {
            return load::rules_of_file(file);
        }
        let file = self.config.clone();
        let sources = Sources {
            file: file.or_else(|| std::env::var_os("RINGMQ_CONFIG").map(PathBuf::from)),
            flags: Vec::new(),
        };
        let in_words = |errors: Vec<ConfigError>| errors.iter().map(ToString::to_string).collect();
        let loaded = sources.load().map_err(in_words as fn(_) -> Vec<String>)?;
        match load::rules(&loaded)?.rules {
            Some(rules) => Ok((*rules).clone()),
            None => Err(vec![
                "the configuration has no rules, so everything is permitted; --file names others"
                    .into(),
            ]),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertVerb {
    /// Make a CA, a server's and a client's certificate for trying out TLS
    Dev(CertDevArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CertDevArgs {
    /// Directory for the files
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// Host name or address of the server (repeatable) [default: localhost, 127.0.0.1, ::1]
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Common Name of the client
    #[arg(long, value_name = "NAME", default_value = "client")]
    client: String,
    /// Days for which the certificates are valid
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

impl CertDevArgs {
    pub(crate) fn what(self) -> DevCertificates {
        let hosts = if self.host.is_empty() {
            ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec()
        } else {
            self.host
        };
        DevCertificates {
            dir: self.dir,
            hosts,
            client: self.client,
            days: self.days,
            force: self.force,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BrokerArgs {
    /// Address to listen on, or unix:PATH (repeatable) [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR:PORT")]
    bind: Vec<String>,
    /// How clients prove who they are, where their listener does not say it: anonymous, password, cert, jwt or
    /// http. Needed for addresses that other machines can reach [default: anonymous, on this machine only]
    #[arg(long, value_name = "METHOD")]
    auth: Option<String>,
    /// Shards, a thread each: 1 to 64, or "auto" for the CPUs this process may use [default: auto]
    #[arg(long, value_name = "N")]
    cores: Option<String>,
    /// Keep each shard's thread on one CPU
    #[arg(long, action = ArgAction::SetTrue)]
    pin: bool,
    /// Directory of what outlives the process [default: $STATE_DIRECTORY, else ringmq in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// What an acknowledged message survives: power, process (its end) or none [default: power]
    #[arg(long, value_name = "LEVEL")]
    durability: Option<String>,
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged: error, warn, info or debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Set any key of the configuration file: --set limits.packet-bytes-max=64MiB (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl BrokerArgs {
    /// Where the configuration comes from.
    ///
    /// Errors: a flag that is none.
    pub(crate) fn sources(&self) -> Result<Sources, Vec<ConfigError>> {
        let file = self.config.clone();
        Ok(Sources {
            file: file.or_else(|| std::env::var_os("RINGMQ_CONFIG").map(PathBuf::from)),
            flags: self.settings()?,
        })
    }

    fn settings(&self) -> Result<Vec<Setting>, Vec<ConfigError>> {
        let mut settings = Vec::new();
        let mut flag = |flag: &str, name: &str, text: String| {
            settings.push(Setting {
                name: name.into(),
                value: Value::Commas(text),
                origin: Origin::Flag(flag.into()),
            });
        };
        if !self.bind.is_empty() {
            flag("--bind", "bind", self.bind.join(","));
        }
        if let Some(cores) = &self.cores {
            flag("--cores", "cores", cores.clone());
        }
        if self.pin {
            flag("--pin", "pin", "true".into());
        }
        if let Some(dir) = &self.data_dir {
            flag("--data-dir", "data-dir", dir.to_string_lossy().into_owned());
        }
        if let Some(durability) = &self.durability {
            flag("--durability", "durability", durability.clone());
        }
        if let Some(level) = &self.log_level {
            flag("--log-level", "log-level", level.clone());
        }
        if let Some(method) = &self.auth {
            flag("--auth", "auth", method.clone());
        }
        for set in &self.set {
            let Some((key, value)) = set.split_once('=') else {
                let origin = Origin::Flag("--set".into());
                let message =
                    format!("`{set}` is not KEY=VALUE, such as limits.packet-bytes-max=64MiB");
                return Err(vec![ConfigError { origin, message }]);
            };
            flag("--set", key.trim(), value.trim().into());
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

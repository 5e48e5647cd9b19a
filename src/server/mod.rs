//! SHELL. The process: what it needs from the kernel, its data directory, its cores, its log and its end.

mod certificates;
pub mod clock;
pub mod cores;
mod cpus;
pub(crate) mod data_dir;
mod log;
mod memory;
mod probe;
mod reload;
mod signals;

use crate::auth::load;
use crate::auth::pool::Pool;
use crate::config::listener::Bind;
use crate::config::{CoreCount, Loaded, LogLevel, Sources};
use crate::net::events::LogSink;
use crate::net::ring::RingConfig;
use crate::net::transport::Door;
use crate::shard::input::ShardId;
use crate::shard::record::Durability;
use crate::store::schema;
use cores::{CoreConfig, Cores, StartError, StoreConfig};
use data_dir::Installation;
use reload::Reloader;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Something failed; the log says what.
const EXIT_FAILED: u8 = 1;
/// The kernel does not grant what is needed: EX_CONFIG of sysexits.h.
const EXIT_REFUSED: u8 = 78;
/// Time that connections have, after the first signal, to take what is still owed to them.
const DRAIN: Duration = Duration::from_secs(5);
/// Records of client events that may wait for stderr.
const LOG_RECORDS_MAX: usize = 8192;

/// Runs the broker that `loaded` describes until it is asked to stop; on SIGHUP `sources` are read again.
///
/// Prints the banner, and, when all cores are ready, a line `listening on ADDR:PORT` for each listener, to stdout.
///
/// Returns: 0 after a graceful stop, 1 when something failed, 78 when the kernel does not grant what is needed.
pub fn run(sources: &Sources, loaded: &Loaded) -> ExitCode {
    if let Err(error) = log::start(loaded.config.log_level) {
        eprintln!("ringmq: cannot start a thread: {error}");
        return ExitCode::from(EXIT_FAILED);
    }
    let code = match serve(sources, loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Refused(refusal)) => {
            eprintln!("{refusal}");
            ExitCode::from(EXIT_REFUSED)
        }
        Err(Failure::Other(message)) => {
            log::line(LogLevel::Error, message);
            ExitCode::from(EXIT_FAILED)
        }
    };
    log::flush();
    code
}

/// Reads every file that the configuration names, and keeps nothing of it.
///
/// Errors: everything that is wrong with them, with file and line.
pub fn check_files(loaded: &Loaded) -> Result<(), Vec<String>> {
    let mut mistakes = Vec::new();
    for spec in &loaded.config.listeners {
        if let Err(error) = Door::open(spec.clone()) {
            mistakes.push(loaded.wrong_tls_file(&spec.name, &error.path, &error));
        }
    }
    // Whom an unknown user looks like is no matter here.
    let judgement = load::judgement(loaded, &[0; 32]).map(drop);
    let rules = load::rules(loaded).map(drop);
    for read in [judgement, rules] {
        mistakes.extend(read.err().into_iter().flatten());
    }
    if mistakes.is_empty() {
        Ok(())
    } else {
        Err(mistakes)
    }
}

enum Failure {
    Refused(probe::Refusal),
    Other(String),
}

fn serve(sources: &Sources, loaded: &Loaded) -> Result<(), Failure> {
    let config = &loaded.config;
    let shard_count = shard_count(config.cores);
    let nofile = probe::check(shard_count).map_err(Failure::Refused)?;
    let installation = Installation::open(data_dir::choose(config).map_err(Failure::Other)?)
        .map_err(Failure::Other)?;
    let failed = |what: &str, error: &dyn fmt::Display| Failure::Other(format!("{what}: {error}"));

    let random = |_| data_dir::random_key().map_err(|error| failed("no random bytes", &error));
    let secret = [random(())?, random(())?].concat();
    let secret: [u8; 32] = secret.try_into().expect("two keys of sixteen bytes");
    let in_lines = |errors: Vec<String>| Failure::Other(errors.join("\n"));
    let rules = load::rules(loaded).map_err(in_lines)?;
    let judgement = load::judgement(loaded, &secret).map_err(in_lines)?;
    let judges = Pool::new(
        judgement.sources,
        &secret,
        config.login.waiting_max as usize,
    );
    judges
        .grow(judgement.threads)
        .map_err(|error| failed("cannot start a thread", &error))?;
    let judges = Arc::new(judges);
    let seeds = data_dir::random_key().map_err(|error| failed("no random bytes", &error))?;
    let (hash_seed, random_seed) = seeds.split_at(seeds.len() / 2);
    let number = |bytes: &[u8]| {
        u64::from_le_bytes(bytes.try_into().expect("half of the key is eight bytes"))
    };
    let (sink, records) = LogSink::new(LOG_RECORDS_MAX);
    let records_written = log::spawn_writer(records, Arc::clone(sink.tally()))
        .map_err(|error| failed("cannot start a thread", &error))?;
    let core_config = CoreConfig {
        shard_count,
        pin: config.pin,
        listeners: config.listeners.clone(),
        limits: Arc::new(config.limits.clone()),
        placement_key: installation.placement_key,
        hash_seed: number(hash_seed),
        random_seed: number(random_seed),
        log: (config.log_level >= LogLevel::Warn).then(|| sink.clone()),
        log_clients: config.log_level >= LogLevel::Info,
        ring: RingConfig::default(),
        link: None,
        rules,
        judges: Some(Arc::clone(&judges)),
        store: installation
            .dir
            .as_ref()
            .filter(|_| config.durability != Durability::None)
            .map(|dir| StoreConfig {
                path: dir.join(schema::FILE),
                durability: config.durability,
                log: |level, text| log::line(level, text),
            }),
    };
    let cores = Cores::start(&core_config).map_err(|error| {
        Failure::Other(match error {
            StartError::Tls { listener, source } => {
                loaded.wrong_tls_file(&listener, &source.path, &source)
            }
            error => error.to_string(),
        })
    })?;
    // The log ends when the last sink is gone.
    drop(core_config);

    certificates::watch(Arc::clone(cores.live()))
        .map_err(|error| failed("cannot start a thread", &error))?;
    let stopper = cores.stopper();
    let mut reloader = Reloader::new(
        sources.clone(),
        loaded.clone(),
        Arc::clone(cores.live()),
        judges,
        secret,
    );
    let (telling, told) = sync_channel::<()>(1);
    let stop = move |signal| {
        // First, so that nothing about the log can keep the broker from it.
        stopper.request(DRAIN);
        log::line(
            LogLevel::Info,
            format_args!("{signal}: stopping; a second signal stops at once."),
        );
        drop(telling);
    };
    signals::listen(stop, move || reloader.reload())
        .map_err(|error| failed("cannot listen for signals", &error))?;

    log::line(
        LogLevel::Info,
        banner(loaded, &installation, shard_count, nofile, &cores),
    );
    warn_of_open_listeners(loaded);
    if config.pin && shard_count > cpus::available() {
        log::line(
            LogLevel::Warn,
            format_args!(
                "pin has no effect: {shard_count} shards are more than the CPUs this process may use."
            ),
        );
    }
    // Who waits for it to listen finds in the log what the start had to say.
    log::flush();
    announce(&cores).map_err(|error| failed("cannot write to stdout", &error))?;

    cores.wait();
    // The signal's line comes before those of the end.
    let _ = told.recv_timeout(log::FLUSH_TIME);
    if sink.tally().dropped() > 0 {
        log::line(
            LogLevel::Warn,
            format_args!("{} lines about clients were lost.", sink.tally().dropped()),
        );
    }
    drop(sink);
    // It reports the close, or stderr does not take what is left.
    let _ = records_written.recv_timeout(log::FLUSH_TIME);
    log::line(LogLevel::Info, "ringmq has stopped.");
    Ok(())
}

/// Said at each start: nobody shall be open to the world without knowing it.
fn warn_of_open_listeners(loaded: &Loaded) {
    for listener in loaded.open_to_all() {
        log::line(
            LogLevel::Warn,
            format_args!(
                "listener {} at {} is open: auth = \"anonymous\", so anyone who reaches it can read and publish everything.",
                listener.name, listener.bind
            ),
        );
    }
}

fn shard_count(cores: CoreCount) -> usize {
    match cores {
        CoreCount::Exactly(count) => count,
        CoreCount::Auto => cpus::available().min(ShardId::COUNT_MAX),
    }
}

/// One line `listening on ADDR:PORT` for each listener, for people and for programs that wait for it.
fn announce(cores: &Cores) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for address in cores.addresses() {
        writeln!(out, "listening on {address}")?;
    }
    out.flush()
}

/// What a newcomer asks next, in one line.
fn banner(
    loaded: &Loaded,
    installation: &Installation,
    shard_count: usize,
    nofile: u64,
    cores: &Cores,
) -> String {
    let mut parts = vec![format!("ringmq {}", env!("CARGO_PKG_VERSION"))];
    if loaded.is_local_only() {
        parts.push(
            "local only: just this machine can connect (to open it to everybody: --bind 0.0.0.0:1883 --auth anonymous)".into(),
        );
    }
    let files: Vec<String> = loaded
        .files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    parts.push(match files.is_empty() {
        true => "no configuration file".into(),
        false => format!("configuration {}", files.join(" ")),
    });
    parts.push(match shard_count {
        1 => "1 shard".into(),
        count => format!("{count} shards"),
    });
    let addresses: Vec<String> = cores
        .live()
        .parts()
        .doors
        .iter()
        .zip(cores.addresses())
        .map(|(door, address)| match (door.spec().scheme(), address) {
            ("unix", Bind::Unix { path, .. }) => format!("unix://{}", path.display()),
            (scheme, address) => format!("{scheme}://{address}"),
        })
        .collect();
    parts.push(addresses.join(" "));
    let durability = loaded.config.durability.name();
    parts.push(match &installation.dir {
        Some(dir) => format!("durability {durability}; data directory {}", dir.display()),
        None => format!("durability {durability}: sessions and messages end with this process"),
    });
    parts.push(format!(
        "limits {} nofile={nofile}",
        loaded.banner_limits().join(" ")
    ));
    parts.join("; ")
}

//! The `ringmq` binary: reads the command line and does what it says.

mod cli;

use clap::Parser;
use cli::{AclTestArgs, AclVerb, BrokerArgs, CertDevArgs, CertVerb, Cli, ConfigVerb, Verb};
use ringmq::auth::passwd;
use ringmq::config::{self, Loaded, Sources};
use ringmq::heap::CountingAllocator;
use ringmq::{cert, client, server, store, torture};
use std::fmt::Display;
use std::process::ExitCode;

/// The configuration is not valid; the number is mosquitto's.
const EXIT_CONFIG: u8 = 3;

#[global_allocator]
static HEAP: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None if cli.test_config => check(&cli.broker),
        None => with_files(&cli.broker, server::run),
        Some(Verb::Config(ConfigVerb::Check(args))) => check(&args),
        Some(Verb::Config(ConfigVerb::Show(args))) => with_config(&args, |_, loaded| {
            print!("{}", loaded.show());
            ExitCode::SUCCESS
        }),
        Some(Verb::Config(ConfigVerb::Default)) => {
            print!("{}", config::sample());
            ExitCode::SUCCESS
        }
        Some(Verb::Config(ConfigVerb::Schema)) => {
            print!("{}", config::schema());
            ExitCode::SUCCESS
        }
        Some(Verb::Store(verb)) => store::tool::run(&verb),
        Some(Verb::Torture(args)) => torture::run(&args),
        Some(Verb::Passwd(args)) => passwd::run(&args),
        Some(Verb::Acl(AclVerb::Test(args))) => test_acl(&args),
        Some(Verb::Cert(CertVerb::Dev(args))) => make_certificates(args),
        Some(Verb::Pub(args)) => client::run_pub(*args),
        Some(Verb::Sub(args)) => client::run_sub(*args),
    }
}

fn make_certificates(args: CertDevArgs) -> ExitCode {
    match cert::dev(&args.what()) {
        Ok(files) => {
            for file in [
                &files.ca,
                &files.server.0,
                &files.server.1,
                &files.client.0,
                &files.client.1,
            ] {
                println!("{}", file.display());
            }
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("ringmq: {message}");
            ExitCode::FAILURE
        }
    }
}

fn test_acl(args: &AclTestArgs) -> ExitCode {
    match args.rules() {
        Ok(rules) => args.question.run(&rules),
        Err(errors) => refuse(errors),
    }
}

fn check(args: &BrokerArgs) -> ExitCode {
    with_files(args, |_, _| {
        println!("The configuration is valid.");
        ExitCode::SUCCESS
    })
}

/// As [`with_config`], when the files that the configuration names are right too.
fn with_files(args: &BrokerArgs, run: impl FnOnce(&Sources, &Loaded) -> ExitCode) -> ExitCode {
    with_config(args, |sources, loaded| match server::check_files(loaded) {
        Ok(()) => run(sources, loaded),
        Err(errors) => refuse(errors),
    })
}

fn with_config(args: &BrokerArgs, run: impl FnOnce(&Sources, &Loaded) -> ExitCode) -> ExitCode {
    let loaded = args.sources().and_then(|sources| {
        let loaded = sources.load()?;
        Ok((sources, loaded))
    });
    match loaded {
        Ok((sources, loaded)) => run(&sources, &loaded),
        Err(errors) => refuse(errors),
    }
}

fn refuse(errors: Vec<impl Display>) -> ExitCode {
    for error in errors {
        eprintln!("ringmq: {error}");
    }
    ExitCode::from(EXIT_CONFIG)
}

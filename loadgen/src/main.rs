//! `loadgen`: puts load on an MQTT broker, measures it, and checks every message.

use clap::Parser;
use loadgen::cli::{Cli, Compare, Report, Verb};
use loadgen::relay;
use loadgen::report::compare;
use loadgen::report::files::{self, Recorded};
use loadgen::run::{self, Kind};
use loadgen::steps;
use std::process::ExitCode;

/// The run did not come about, or was cut short.
const EXIT_ERROR: u8 = 1;
/// The run came about and did not hold what was asked of it.
const EXIT_BREACH: u8 = 99;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (json, result) = match &cli.verb {
        Verb::Conn(args) => (args.common.target.json, run::conn(args)),
        Verb::Pubsub(args) => (args.common.target.json, run::shape(Kind::Pubsub, args)),
        Verb::Fanout(args) => (args.common.target.json, run::shape(Kind::Fanout, args)),
        Verb::Fanin(args) => (args.common.target.json, run::shape(Kind::Fanin, args)),
        Verb::Shared(args) => (args.common.target.json, run::shared(args)),
        Verb::Slow(args) => (args.common.target.json, run::slow(args)),
        Verb::Pub(args) => (args.common.target.json, run::publish(args)),
        Verb::Sub(args) => (args.common.target.json, run::subscribe(args)),
        Verb::Churn(args) => (args.target.json, steps::churn(args)),
        Verb::Durable(args) => (args.target.json, steps::durable(args)),
        Verb::Retained(args) => (args.target.json, steps::retained(args)),
        Verb::Report(args) => return report(args),
        Verb::Compare(args) => return compare(args),
        Verb::Relay(args) => {
            let Err(error) = relay::run(args.bind);
            return failed(&error);
        }
    };
    let summary = match result {
        Ok(summary) => summary,
        Err(error) => return failed(&error),
    };
    if json {
        let text = serde_json::to_string_pretty(&summary).expect("a summary has only string keys");
        println!("{text}");
    } else {
        print!("{}", summary.text());
    }
    if summary.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_BREACH)
    }
}

fn report(args: &Report) -> ExitCode {
    match files::rebuild(&args.runs, args.out.as_deref()) {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn compare(args: &Compare) -> ExitCode {
    let read = |directory| Recorded::read(directory);
    let (base, new) = match (read(&args.base), read(&args.new)) {
        (Ok(base), Ok(new)) => (base, new),
        (Err(error), _) | (_, Err(error)) => return failed(&error),
    };
    let comparison = compare::compare(&base, &new, args.threshold);
    let objections = comparison.objections();
    if !objections.is_empty() && !args.force {
        let why = objections.join("\n  ");
        return failed(&format!(
            "these runs do not compare (--force does it all the same):\n  {why}"
        ));
    }
    if args.json {
        let text = serde_json::to_string_pretty(&comparison);
        println!("{}", text.expect("a comparison has only string keys"));
    } else {
        print!("{}", comparison.text());
    }
    if comparison.has_regression() {
        ExitCode::from(EXIT_BREACH)
    } else {
        ExitCode::SUCCESS
    }
}

fn failed(error: &str) -> ExitCode {
    eprintln!("loadgen: {error}");
    ExitCode::from(EXIT_ERROR)
}

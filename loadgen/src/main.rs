//! `loadgen`: puts load on an MQTT broker, measures it, and checks every message.

use clap::Parser;
use loadgen::cli::{Cli, Verb};
use loadgen::relay;
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
        Verb::Report(_)|Verb::Compare(_) => return ExitCode::SUCCESS,
        Verb::Relay(args) => {
            let Err(error) = relay::run(args.bind);
            eprintln!("loadgen: {error}");
            return ExitCode::from(EXIT_ERROR);
        }
    };
    let summary = match result {
        Ok(summary) => summary,
        Err(error) => {
            eprintln!("loadgen: {error}");
            return ExitCode::from(EXIT_ERROR);
        }
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

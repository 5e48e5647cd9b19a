//! `loadgen`: puts load on an MQTT broker, measures it, and checks every message.

use loadgen::cli::{self, Compare, Report, Verb};
use loadgen::report::Summary;
use loadgen::report::compare;
use loadgen::report::files::{self, Recorded};
use loadgen::{agent, relay, run, suite};
use std::process::ExitCode;

/// The run did not come about, or was cut short.
const EXIT_ERROR: u8 = 1;
/// The run came about and did not hold what was asked of it.
const EXIT_BREACH: u8 = 99;

fn main() -> ExitCode {
    let mut cli = cli::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let json = cli.verb.target().is_some_and(|target| target.json);
    let result = match &cli.verb {
        Verb::Suite(_) => {
            print!("{}", suite::list());
            return ExitCode::SUCCESS;
        }
        Verb::Report(args) => return report(args),
        Verb::Compare(args) => return compare(args),
        Verb::Relay(args) => relay::run(args.bind, args.delay).map(|never| match never {}),
        Verb::Agent(args) => agent::serve(args).map(|never| match never {}),
        verb => run::verb(verb),
    };
    match result {
        Ok(summary) => show(&summary, json),
        Err(error) => failed(&error),
    }
}

/// Prints a summary, and turns it into the status that the program ends with.
fn show(summary: &Summary, json: bool) -> ExitCode {
    if json {
        let text = serde_json::to_string_pretty(summary).expect("a summary has only string keys");
        println!("{text}");
    } else {
        print!("{}", summary.text());
    }
    if let Some(error) = &summary.error {
        eprintln!("loadgen: {error}");
        ExitCode::from(EXIT_ERROR)
    } else if summary.violations.is_empty() {
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
    let (base, new) = match (Recorded::read(&args.base), Recorded::read(&args.new)) {
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

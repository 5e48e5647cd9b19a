//! The broker's pure core under a seeded scheduler, checked against a naive broker. See `docs/simulation.md`.
//!
//! `cargo test --test sim` runs the kept seeds and some new ones; `-- --seed S` runs one.

#![allow(unreachable_pub, reason = "the modules of one test")]

mod auditor;
mod causes;
mod client;
mod crash;
mod disk;
mod model;
mod random;
mod run;
mod swarm;
mod world;

use run::{Run, Summary};
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use swarm::{Feature, Overrides, Swarm};

/// What the options do.
const HELP: &str = "\
--seed S              play this seed alone
--seeds-from S        play seeds from this one on, after the kept ones
--seeds N             at most so many
--seconds N           for so long at most
--minutes N           the same in minutes
--fresh-only          from a seed that nobody has seen, and without the kept ones
--shards N            with so many shards, whatever the seed says
--clients N           with so many clients
--turns N             with so many turns
--without A,B         without these features, as a failure lists them
--check-twice         play each seed twice: are the outputs the same?
--trace               tell every packet at the broker's edge; implies --no-shrink
--no-shrink           leave a failing run as it is
--help                print this";

/// Seeds that failed once, each with its options.
const KEPT: &str = include_str!("seeds.txt");
/// The seeds by which a change is judged are 1 to this one.
const JUDGES: u64 = 250;
/// How long seeds are tried, from 1 or with SIM_FRESH from anywhere, unless SIM_SECONDS says otherwise.
const SECONDS: u64 = 10;

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Options {
    seed: Option<u64>,
    seeds_from: Option<u64>,
    seeds_max: u64,
    overrides: Overrides,
    time: Duration,
    check_twice: bool,
    shrink: bool,
    /// Leave the kept seeds out.
    fresh_only: bool,
}

/// A run that broke a rule.
struct Failure {
    what: String,
    turn: u64,
    description: String,
}

impl Failure {
    /// Where it was noticed: what stays the same while a run is made smaller.
    fn place(&self) -> &str {
        self.what.lines().next().unwrap_or_default()
    }
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        LAST_PANIC.with(|last| *last.borrow_mut() = info.to_string());
    }));
    let seconds = std::env::var("SIM_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let mut options = Options {
        seed: None,
        seeds_from: None,
        seeds_max: u64::MAX,
        overrides: Overrides::default(),
        time: Duration::from_secs(seconds.unwrap_or(SECONDS)),
        check_twice: false,
        shrink: true,
        fresh_only: false,
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if let Err(what) = parse(arguments.iter().map(String::as_str), &mut options) {
        eprintln!("{what}; --help lists the options");
        return ExitCode::from(2);
    }
    if let Some(seed) = options.seed {
        return if check(seed, &options.overrides, &options) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    for line in KEPT
        .lines()
        .filter(|line| !options.fresh_only && !line.is_empty() && !line.starts_with('#'))
    {
        let mut kept = Options {
            overrides: Overrides::default(),
            ..options
        };
        parse(line.split_whitespace(), &mut kept).expect("seeds.txt holds valid options");
        let seed = kept.seed.expect("seeds.txt holds seeds");
        if !check(seed, &kept.overrides, &kept) {
            return ExitCode::FAILURE;
        }
    }
    // A change is judged by the same seeds each time; new ones are for whoever looks for bugs.
    let from = match options.seeds_from {
        Some(from) => from,
        None if std::env::var_os("SIM_FRESH").is_some() || options.fresh_only => {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970");
            since.as_nanos() as u64 % 1_000_000_000_000
        }
        None => {
            options.seeds_max = options.seeds_max.min(JUDGES);
            1
        }
    };
    let start = Instant::now();
    let (mut seeds, mut turns, mut totals) = (0, 0, [0; 4]);
    while start.elapsed() < options.time && seeds < options.seeds_max {
        let seed = from + seeds;
        match verify(seed, &options.overrides, options.check_twice) {
            Ok((summary, played)) => {
                turns += played;
                let Summary {
                    steps,
                    packets,
                    deliveries,
                    drops,
                    ..
                } = summary;
                for (total, count) in totals.iter_mut().zip([steps, packets, deliveries, drops]) {
                    *total += count;
                }
            }
            Err(failure) => {
                println!("seed {} of this run", seeds + 1);
                report(seed, failure, &options.overrides, options.shrink);
                return ExitCode::FAILURE;
            }
        }
        seeds += 1;
    }
    let [steps, packets, deliveries, drops] = totals;
    println!(
        "sim: {seeds} seeds from {from}, {turns} turns, {steps} steps, {packets} packets checked, \
         {deliveries} deliveries explained, {drops} drops counted, {:.1} s",
        start.elapsed().as_secs_f64()
    );
    ExitCode::SUCCESS
}

fn parse<'a>(
    mut arguments: impl Iterator<Item = &'a str>,
    options: &mut Options,
) -> Result<(), String> {
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))
        };
        let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
        match argument {
            "--seed" => options.seed = Some(number(value()?)?),
            "--seeds-from" => options.seeds_from = Some(number(value()?)?),
            "--seeds" => options.seeds_max = number(value()?)?,
            "--shards" => options.overrides.shards = Some(number(value()?)? as usize),
            "--clients" => options.overrides.clients = Some(number(value()?)? as usize),
            "--turns" => options.overrides.turns = Some(number(value()?)?),
            "--minutes" => options.time = Duration::from_secs(60 * number(value()?)?),
            "--seconds" => options.time = Duration::from_secs(number(value()?)?),
            "--without" => {
                for name in value()?.split(',') {
                    let found = Feature::ALL.iter().find(|(_, known)| *known == name);
                    let (feature, _) = found.ok_or_else(|| format!("no feature {name}"))?;
                    options.overrides.without.push(*feature);
                }
            }
            "--check-twice" => options.check_twice = true,
            "--trace" => {
                options.overrides.trace = true;
                options.shrink = false;
            }
            "--fresh-only" => options.fresh_only = true,
            "--no-shrink" => options.shrink = false,
            // What `cargo test` may pass on.
            "--nocapture" | "--quiet" | "-q" => {}
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(())
}

fn check(seed: u64, overrides: &Overrides, options: &Options) -> bool {
    match verify(seed, overrides, options.check_twice) {
        Ok((summary, turns)) => {
            println!("sim: seed {seed}, {turns} turns: {summary:?}");
            true
        }
        Err(failure) => {
            report(seed, failure, overrides, options.shrink);
            false
        }
    }
}

/// Plays a seed, and again if asked, to see whether anything but the seed decides what happens.
fn verify(seed: u64, overrides: &Overrides, twice: bool) -> Result<(Summary, u64), Failure> {
    let (summary, turns) = play(seed, overrides)?;
    if twice {
        let (again, _) = play(seed, overrides)?;
        if again != summary {
            return Err(Failure {
                what: format!("not deterministic: {summary:?}, then {again:?}"),
                turn: turns,
                description: String::new(),
            });
        }
    }
    Ok((summary, turns))
}

fn play(seed: u64, overrides: &Overrides) -> Result<(Summary, u64), Failure> {
    let mut run = Run::new(seed, Swarm::draw(seed, overrides), overrides.trace);
    match std::panic::catch_unwind(AssertUnwindSafe(|| run.play())) {
        Ok(summary) => Ok((summary, run.turn)),
        Err(_) => Err(Failure {
            what: LAST_PANIC.with(|last| last.borrow().clone()),
            turn: run.turn,
            description: run.describe(),
        }),
    }
}

/// Makes a failing run smaller and prints it.
fn report(seed: u64, mut failure: Failure, overrides: &Overrides, shrink: bool) {
    let mut smaller = overrides.clone();
    println!("seed {seed} FAILED at git commit {}", commit());
    if shrink {
        let attempt = |candidate: Overrides, smaller: &mut Overrides, failure: &mut Failure| {
            if let Err(found) = play(seed, &candidate)
                && found.place() == failure.place()
            {
                *smaller = candidate;
                *failure = found;
            }
        };
        for _ in 0..3 {
            let drawn = Swarm::draw(seed, &smaller);
            for (feature, _) in drawn.features() {
                let mut candidate = smaller.clone();
                candidate.without.push(feature);
                attempt(candidate, &mut smaller, &mut failure);
            }
            for clients in 1..drawn.client_count {
                let candidate = Overrides {
                    clients: Some(clients),
                    ..smaller.clone()
                };
                attempt(candidate, &mut smaller, &mut failure);
            }
            for shards in 1..drawn.shard_count {
                let candidate = Overrides {
                    shards: Some(shards),
                    ..smaller.clone()
                };
                attempt(candidate, &mut smaller, &mut failure);
            }
            let mut cut = failure.turn;
            while cut > 1 {
                let now = smaller.turns.unwrap_or(drawn.turns);
                let turns = now.saturating_sub(cut).max(1);
                let candidate = Overrides {
                    turns: Some(turns),
                    ..smaller.clone()
                };
                let before = smaller.turns;
                attempt(candidate, &mut smaller, &mut failure);
                if smaller.turns == before {
                    cut /= 2;
                }
            }
        }
    }
    let swarm = Swarm::draw(seed, &smaller);
    let mut options = format!(
        "--seed {seed} --shards {} --turns {}",
        swarm.shard_count, swarm.turns
    );
    if let Some(clients) = smaller.clients {
        options += &format!(" --clients {clients}");
    }
    if !smaller.without.is_empty() {
        let names: Vec<&str> = Feature::ALL
            .iter()
            .filter(|(feature, _)| smaller.without.contains(feature))
            .map(|(_, name)| *name)
            .collect();
        options += &format!(" --without {}", names.join(","));
    }
    println!("  cargo test --test sim -- {options}");
    println!("  {}", failure.description);
    println!("  {}", failure.what);
}

fn commit() -> String {
    let output = std::process::Command::new("git")
        .args([
            "describe",
            "--always",
            "--abbrev=12",
            "--dirty=, with changes",
        ])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

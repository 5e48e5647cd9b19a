//! Loads with a name, so that results can be compared with those that others published.
//!
//! Each is a command line of this program: what a name means can be read, and run without the name.

use crate::parse::duration;
use clap::Args;
use std::ffi::OsString;
use std::fmt::Write;
use std::time::Duration;

/// A load of the suite.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: &'static str,
    /// What it is for, in a line.
    what: &'static str,
    /// The command, with `{N}` for numbers that shrink with the scale.
    command: &'static str,
    /// How long it goes on as published; nothing for what ends by itself.
    duration: Option<Duration>,
}

const HALF_HOUR: Option<Duration> = Some(Duration::from_secs(1_800));
const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

const ENTRIES: &[Entry] = &[
    Entry {
        name: "conn-tcp-10K-100",
        what: "Open MQTT Benchmark Suite: 10,000 clients connect, 100 a second, and stay",
        command: "conn -c {10000} -R {100} -V 4 -k 300",
        duration: HALF_HOUR,
    },
    Entry {
        name: "conn-tcp-1M-5K",
        what: "Open MQTT Benchmark Suite: 1,000,000 clients connect, 5,000 a second, and stay",
        command: "conn -c {1000000} -R {5000} -V 4 -k 300",
        duration: HALF_HOUR,
    },
    Entry {
        name: "fanout-1-1K-1-1K",
        what: "Open MQTT Benchmark Suite: one message a second to 1,000 subscribers",
        command: "fanout --publishers 1 -c {1000} --rate 1 -q 1 -s 16 -V 4 -k 300",
        duration: HALF_HOUR,
    },
    Entry {
        name: "fanout-5-1000-5-250K",
        what: "Open MQTT Benchmark Suite: 5 publishers of 50 a second to 1,000 subscribers each, 250,000 deliveries a second",
        command: "fanout --publishers 5 -c {1000} --rate 250 -q 1 -s 16 -V 4 -k 300",
        duration: HALF_HOUR,
    },
    Entry {
        name: "p2p-1K-1K-1K-1K",
        what: "Open MQTT Benchmark Suite: 1,000 pairs, one message a second each",
        command: "pubsub -c {1000} --rate {1000} -q 1 -s 16 -V 4 -k 300",
        duration: HALF_HOUR,
    },
    Entry {
        name: "p2p-50K-50K-50K-50K",
        what: "Open MQTT Benchmark Suite: 50,000 pairs, one message a second each",
        command: "pubsub -c {50000} --rate {50000} -q 1 -s 16 -V 4 -k 300",
        duration: HALF_HOUR,
    },
    Entry {
        name: "sharedsub-1K-5-1K-1K",
        what: "Open MQTT Benchmark Suite: 1,000 publishers of one a second to 5 sharing subscribers",
        command: "shared -c {1000} --members {5} --rate {1000} -q 1 -s 16 -V 5 -k 300",
        duration: HALF_HOUR,
    },
    Entry {
        name: "sharedsub-50K-500-50K-50K",
        what: "Open MQTT Benchmark Suite: 50,000 publishers of one a second to 500 sharing subscribers",
        command: "shared -c {50000} --members {500} --rate {50000} -q 1 -s 16 -V 5 -k 300",
        duration: HALF_HOUR,
    },
    Entry {
        name: "ha-startup",
        what: "home automation starts: 5,000 retained configurations by one filter and 2,000 entities by a filter each, while another subscriber does not read",
        command: "retained --messages {5000} --entities {2000} --slow 1 -c 1 -q 0 -s 512 -V 5",
        duration: None,
    },
    Entry {
        name: "power-cut",
        what: "10,000 clients lose power and come back at once while the broker still holds their connections; give -u and -P for passwords, --tls for TLS",
        command: "storm -c {10000} --half-open --keep-sessions -V 4",
        duration: None,
    },
    Entry {
        name: "gateway",
        what: "a site's gateway: 200 devices of one message a second each, QoS 1, one consumer",
        command: "fanin -c {200} --rate {200} -q 1 -s 256 -V 5 --jitter 1",
        duration: MINUTE,
    },
    Entry {
        name: "sparkplug",
        what: "a birth storm: 500 edge nodes come back at once with a birth of their own and of 10 devices each, all heard by the host application",
        command: "storm -c {500} --births 11 -s 1024 -V 4",
        duration: None,
    },
    Entry {
        name: "wild100k",
        what: "a row of our own table: 100,000 filters with wildcards over 500 clients, each message matches three",
        command: "wild -c {500} --filters {100000} --closed-loop -F 32",
        duration: Some(Duration::from_secs(10)),
    },
    Entry {
        name: "pingpong",
        what: "a row of our own table: one message at a time, there and back",
        command: "pubsub -c 1 --closed-loop -F 1",
        duration: Some(Duration::from_secs(10)),
    },
];

/// The suite.
#[derive(Clone, Debug, Args)]
pub struct Suite {
    /// Which load; --list tells of all of them.
    #[arg(value_name = "NAME", required_unless_present = "list")]
    pub name: Option<String>,
    /// Tell what each load is, and the command that it stands for.
    #[arg(long)]
    pub list: bool,
    /// Shrink clients and rates to this part, for small machines.
    #[arg(long, default_value_t = 1.0, value_parser = crate::parse::part)]
    pub scale: f64,
    /// Measure for this long instead of as long as published.
    #[arg(short = 'd', long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// More flags for the command, such as --host, --tls, --broker-pid, --out, --assert.
    #[arg(
        value_name = "FLAGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub flags: Vec<String>,
}

/// Tells of all loads.
pub fn list() -> String {
    let mut text = String::new();
    for entry in ENTRIES {
        let words = words(entry, 1.0, None).join(" ");
        let _ = writeln!(
            text,
            "{}\n    {}\n    loadgen {words}",
            entry.name, entry.what
        );
    }
    text
}

/// The command line that a load stands for, with what else is given.
///
/// Errors: there is none of that name.
pub fn command(suite: &Suite) -> Result<Vec<OsString>, String> {
    let name = suite.name.as_deref().unwrap_or_default();
    let Some(entry) = ENTRIES
        .iter()
        .find(|entry| entry.name.eq_ignore_ascii_case(name))
    else {
        let names: Vec<_> = ENTRIES.iter().map(|entry| entry.name).collect();
        return Err(format!(
            "there is no {name}; there are {}",
            names.join(", ")
        ));
    };
    let words = words(entry, suite.scale, suite.duration);
    let mut note = format!("suite {}", entry.name);
    if suite.scale < 1.0 {
        let _ = write!(
            note,
            ", SHRUNK to {} of what was published (--scale): not to be compared with it",
            percent(suite.scale)
        );
    }
    match (suite.duration, entry.duration) {
        (Some(own), Some(published)) if own != published => {
            let _ = write!(
                note,
                ", for {} s instead of {} s",
                own.as_secs_f64(),
                published.as_secs()
            );
        }
        _ => {}
    }
    let _ = write!(note, ": loadgen {}", words.join(" "));
    let all = std::iter::once("loadgen".to_owned())
        .chain(words)
        .chain(["--note".to_owned(), note])
        .chain(suite.flags.iter().cloned());
    Ok(all.map(OsString::from).collect())
}

/// The command of a load at a scale.
fn words(entry: &Entry, scale: f64, duration: Option<Duration>) -> Vec<String> {
    let word = |word: &str| match word
        .strip_prefix('{')
        .and_then(|word| word.strip_suffix('}'))
    {
        Some(number) => {
            let number: f64 = number.parse().expect("a number is in the brackets");
            // Filters come in threes, for three subscribers at least.
            let least: f64 = if number > 10_000.0 { 9.0 } else { 3.0 };
            ((number * scale).round().max(least.min(number)) as u64).to_string()
        }
        None => word.to_owned(),
    };
    let mut words: Vec<_> = entry.command.split(' ').map(word).collect();
    if let Some(duration) = duration
        .filter(|_| entry.duration.is_some())
        .or(entry.duration)
    {
        let flag = if words[0] == "conn" {
            "--hold"
        } else {
            "--duration"
        };
        words.extend([flag.to_owned(), format!("{}ms", duration.as_millis())]);
    }
    words
}

fn percent(part: f64) -> String {
    // Two digits are enough for what somebody typed.
    format!("{:.2} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Cli};
    use crate::run::Job;

    fn ready(words: &str) -> Result<Cli, String> {
        let words = format!("loadgen suite {words}");
        cli::parse(words.split(' ')).map_err(|error| error.to_string())
    }

    #[test]
    fn every_name_is_a_command_at_every_scale() {
        for entry in ENTRIES {
            for scale in [1.0, 0.5, 0.01, 0.0] {
                let ready = ready(&format!("{} --scale {scale} -p 1 -Q", entry.name));
                let mut ready = ready.unwrap_or_else(|error| panic!("{}: {error}", entry.name));
                let target = ready.verb.target().unwrap();
                let note = target.note.as_ref().unwrap();
                assert!(note.contains(entry.name));
                assert_eq!(note.contains("SHRUNK"), scale < 1.0);
                assert_eq!((target.port, target.quiet), (Some(1), true));
                if scale < 0.1 && !matches!(entry.name, "ha-startup" | "power-cut" | "sparkplug") {
                    Job::of(&ready.verb).unwrap();
                }
            }
            assert!(list().contains(entry.name));
        }
    }

    #[test]
    fn published_numbers_are_what_is_run() {
        let command = |name: &str, scale| {
            let entry = ENTRIES.iter().find(|entry| entry.name == name).unwrap();
            words(entry, scale, None).join(" ")
        };
        assert_eq!(
            command("p2p-50K-50K-50K-50K", 1.0),
            "pubsub -c 50000 --rate 50000 -q 1 -s 16 -V 4 -k 300 --duration 1800000ms"
        );
        assert_eq!(
            command("sharedsub-50K-500-50K-50K", 0.01),
            "shared -c 500 --members 5 --rate 500 -q 1 -s 16 -V 5 -k 300 --duration 1800000ms"
        );
        assert_eq!(
            command("conn-tcp-10K-100", 0.1),
            "conn -c 1000 -R 10 -V 4 -k 300 --hold 1800000ms"
        );
    }

    #[test]
    fn what_is_not_there_or_wrong_is_said() {
        let error = ready("p2p-1-1-1-1").unwrap_err();
        assert!(error.contains("p2p-1K-1K-1K-1K"), "{error}");
        let error = ready("gateway --unknown").unwrap_err();
        assert!(error.contains("--unknown"), "{error}");
    }
}

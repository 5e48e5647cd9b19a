//! A command line as others may see it: without secrets.
//!
//! What is a secret is told by its type. The value of a flag that is a [`Secret`] is never written down, whatever the flag is
//! called, wherever in the line it stood, and whether it came from the environment.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;

/// What stands where a secret was.
const HIDDEN: &str = "***";

/// A password or the like, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Secret {
    /// The secret itself, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// What a command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The command line by the long names of its flags, secrets left out.
    pub command: Vec<String>,
    /// The effective settings, those that were not given included, by the long names of their flags.
    pub settings: BTreeMap<String, Vec<String>>,
}

impl Given {
    /// What `matches` of `command` say of their verb. What follows another verb (`run`) is not looked at.
    pub fn of(command: &Command, matches: &ArgMatches) -> Self {
        let mut given = Self {
            command: vec![command.get_name().to_owned()],
            settings: BTreeMap::new(),
        };
        let Some((verb, matches)) = matches.subcommand() else {
            return given;
        };
        given.command.push(verb.to_owned());
        given.settings.insert("verb".into(), vec![verb.to_owned()]);
        let verb = command.find_subcommand(verb);
        let mut typed = Vec::new();
        for arg in verb.into_iter().flat_map(Command::get_arguments) {
            let id = arg.get_id().as_str();
            let values = matches.try_get_raw(id).ok().flatten();
            let Some(values) = values.filter(|_| !arg.is_trailing_var_arg_set()) else {
                continue;
            };
            let is_secret = arg.get_value_parser().type_id() == TypeId::of::<Secret>();
            let values: Vec<_> = match is_secret {
                true => vec![HIDDEN.to_owned()],
                false => values
                    .map(|value| without_password(&value.to_string_lossy()))
                    .collect(),
            };
            if !is_secret && matches.value_source(id) == Some(ValueSource::CommandLine) {
                typed.push((matches.index_of(id), words(arg, &values)));
            }
            let name = arg.get_long().unwrap_or(id);
            given.settings.insert(name.to_owned(), values);
        }
        typed.sort();
        let typed = typed.into_iter().flat_map(|(_, words)| words);
        given.command.extend(typed);
        given
    }

    /// Puts what a leading command line says before its verb's.
    pub fn lead(&mut self, leader: &Self) {
        self.command.splice(..1, leader.command.iter().cloned());
        for (name, values) in &leader.settings {
            let settings = self.settings.entry(name.clone());
            settings.or_insert_with(|| values.clone());
        }
    }
}

/// An argument as it can be typed.
fn words(arg: &Arg, values: &[String]) -> Vec<String> {
    let Some(name) = arg.get_long() else {
        return values.to_vec();
    };
    let flag = format!("--{name}");
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return vec![flag];
    }
    let pair = |value: &String| match value.starts_with('-') {
        true => vec![format!("{flag}={value}")],
        false => vec![flag.clone(), value.clone()],
    };
    values.iter().flat_map(pair).collect()
}

/// A URL without the password in it; anything else as it is.
pub fn without_password(word: &str) -> String {
    let user = word
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)));
    match user {
        Some((scheme, (user, place))) if user.contains(':') => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}:{HIDDEN}@{place}")
        }
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn given(line: &str) -> Given {
        let mut cli = cli::parse(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        cli.verb.target().unwrap().given.clone()
    }

    #[test]
    fn nobodys_password_is_written_down() {
        for line in [
            "loadgen pubsub --rate 5k -u me -P hush",
            "loadgen pubsub --rate 5k -u me -Phush",
            "loadgen pubsub --rate 5k -u me -QPhush",
            "loadgen pubsub --rate 5k -QP hush -u me",
            "loadgen pubsub --rate 5k -u me --password=hush --note=-a",
            "loadgen pubsub --rate 5k --url mqtt://me:hu@hush@host:1",
            "loadgen suite gateway --scale 0.1 -u me -QPhush",
            "loadgen run --agents a:1 --secret hush pubsub --rate 5k -u me -QP hush",
            "loadgen run --agents a:1 suite gateway -u me -Phush",
        ] {
            let said = format!("{:?}", given(line));
            assert!(!said.contains("hush"), "{line}: {said}");
            assert!(
                said.contains("***") && said.contains("rate"),
                "{line}: {said}"
            );
        }
    }

    #[test]
    fn the_command_is_what_was_typed() {
        for (line, command) in [
            (
                "loadgen fanout -c 7 --closed-loop -Q -h ::1 --assert lost==0 --assert p99<5ms -S",
                "loadgen fanout --count 7 --closed-loop --quiet --host ::1 --assert lost==0 --assert p99<5ms --ssl true",
            ),
            (
                "loadgen run --agents a:1,b:2 --secret hush conn -c 9 -u me -P hush",
                "loadgen run --agents a:1 --agents b:2 conn --count 9 --username me",
            ),
        ] {
            let given = given(line);
            assert_eq!(given.command.join(" "), command);
            // It says the same again.
            let again = super::tests::given(command);
            assert_eq!(again.command, given.command);
        }
    }

    #[test]
    fn settings_are_those_that_were_in_effect() {
        let settings = given("loadgen fanout -c 7 --closed-loop --ifaddr 127.0.0.2").settings;
        let one = |name: &str| settings[name].join(" ");
        assert_eq!([one("verb"), one("count")], ["fanout", "7"]);
        assert_eq!([one("closed-loop"), one("warmup")], ["true", "1s"]);
        assert_eq!([one("size"), one("ifaddr")], ["64", "127.0.0.2"]);
        assert!(!settings.contains_key("rate"));
        let settings = given("loadgen suite gateway --scale 0.5").settings;
        assert_eq!(settings["rate"], ["100"]);
    }
}

//! One key of the configuration: what it may say, how it is read into its field and written back.
//!
//! Everything that knows keys works on tables of these: files, flags, the environment, `config show`, the sample,
//! the schema for editors, the tables in docs/, and the difference that a reload tells of.

use super::file;
use super::value::Unit;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A key of the table that `T` is read from.
pub(super) struct Key<T: 'static> {
    /// The key, below the table's own name.
    pub(super) name: &'static str,
    /// What it decides, for the sample.
    pub(super) doc: &'static str,
    /// When a change of it takes effect.
    pub(super) change: Change,
    /// What it may say.
    pub(super) kind: Kind<T>,
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// When the configuration is read again.
    Live,
    /// When the broker starts again.
    Restart,
}

/// What a key may say, and where its field is.
pub(super) enum Kind<T: 'static> {
    /// True or false.
    Bool {
        get: fn(&T) -> bool,
        set: fn(&mut T, bool),
    },
    /// One of a few words; none while nobody has said one.
    Word {
        words: &'static [&'static str],
        get: fn(&T) -> Option<&'static str>,
        set: fn(&mut T, &str),
    },
    /// A number with a unit; `words` stand for numbers of their own, within the range or not.
    Number {
        unit: Unit,
        range: RangeInclusive<u64>,
        words: &'static [(&'static str, u64)],
        get: fn(&T) -> u64,
        set: fn(&mut T, u64),
    },
    /// A text, which is `wanted`; an error without words says that it is not.
    Text {
        wanted: &'static str,
        get: fn(&T) -> Option<String>,
        set: fn(&mut T, &str) -> Result<(), String>,
    },
    /// Several texts, each of which is `wanted`.
    List {
        wanted: &'static str,
        get: fn(&T) -> Vec<String>,
        set: fn(&mut T, &[String]) -> Result<(), String>,
    },
    /// The path of a file that is read.
    File {
        get: fn(&T) -> Option<&Path>,
        set: fn(&mut T, PathBuf),
    },
    /// The paths of files that are read.
    Files {
        get: fn(&T) -> Vec<&Path>,
        set: fn(&mut T, Vec<PathBuf>),
    },
}

/// What a setting says, before its key is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text, a number or a boolean.
    One(String),
    /// An array.
    Many(Vec<String>),
    /// How flags and the environment write a list: with commas, or as in a file where its items have commas.
    Commas(String),
    /// A table without keys: `[listener.ws.websocket]`.
    Table,
}

impl Value {
    /// The items of a list.
    ///
    /// Errors: why it is no list, in words.
    fn items(&self) -> Result<Vec<String>, String> {
        match self {
            Self::One(text) => Ok(vec![text.clone()]),
            Self::Many(items) => Ok(items.clone()),
            Self::Commas(text) if text.trim_start().starts_with('[') => file::array(text),
            Self::Commas(text) => Ok(text.split(',').map(|item| item.trim().to_owned()).collect()),
            Self::Table => Ok(Vec::new()),
        }
    }

    fn one(&self) -> Option<&str> {
        match self {
            Self::One(text) | Self::Commas(text) => Some(text),
            Self::Many(_) | Self::Table => None,
        }
    }
}

/// Where the files are that a setting names by a relative path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places<'a> {
    /// systemd's `$CREDENTIALS_DIRECTORY`, which is looked into first.
    pub(super) credentials: Option<&'a Path>,
    /// The directory of the file that the setting is in; none for flags and the environment.
    pub(super) beside: Option<&'a Path>,
}

impl Places<'_> {
    fn resolve(self, text: &str) -> PathBuf {
        let path = Path::new(text);
        if path.is_absolute() {
            return path.to_owned();
        }
        if let Some(credential) = self.credentials.map(|dir| dir.join(path))
            && credential.exists()
        {
            return credential;
        }
        self.beside
            .map_or_else(|| path.to_owned(), |dir| dir.join(path))
    }
}

impl<T> Key<T> {
    /// Reads `value` into the field. `name` is the key in full, for the error.
    ///
    /// Errors: a sentence for the operator, which names the key and what it may say.
    pub(super) fn set(
        &self,
        name: &str,
        target: &mut T,
        value: &Value,
        places: Places<'_>,
    ) -> Result<(), String> {
        let bad = |wanted: &str| match value.one() {
            Some(text) => format!("`{name}` is `{text}`; it must be {wanted}"),
            None => format!("`{name}` must be {wanted}"),
        };
        match &self.kind {
            Kind::Bool { set, .. } => {
                let flag = match value {
                    Value::Table => Some(true),
                    value => value.one().and_then(parse_bool),
                };
                set(target, flag.ok_or_else(|| bad("true or false"))?);
            }
            Kind::Word { words, set, .. } => {
                let word = value.one().filter(|text| words.contains(text));
                set(target, word.ok_or_else(|| bad(&one_of(words)))?);
            }
            Kind::Number {
                unit,
                range,
                words,
                set,
                ..
            } => {
                let text = value.one().ok_or_else(|| bad(unit.wanted()))?;
                set(target, parse_number(name, text, *unit, range, words)?);
            }
            Kind::Text { wanted, set, .. } => {
                let text = value.one().filter(|text| !text.is_empty());
                let text = text.ok_or_else(|| bad(wanted))?;
                set(target, text).map_err(|error| match error.is_empty() {
                    true => bad(wanted),
                    false => format!("`{name}`: {error}"),
                })?;
            }
            Kind::List { wanted, set, .. } => {
                if *value == Value::Table {
                    return Err(bad(&format!("a list of {wanted}")));
                }
                let items = value.items();
                items
                    .and_then(|items| set(target, &items))
                    .map_err(|error| format!("`{name}`: {error}"))?;
            }
            Kind::File { set, .. } => {
                let path = value.one().filter(|path| !path.is_empty());
                set(target, places.resolve(path.ok_or_else(|| bad("one file"))?));
            }
            Kind::Files { set, .. } => {
                let items = value
                    .items()
                    .map_err(|error| format!("`{name}`: {error}"))?;
                if *value == Value::Table || items.iter().any(String::is_empty) {
                    return Err(bad("a file or a list of files"));
                }
                set(
                    target,
                    items.iter().map(|item| places.resolve(item)).collect(),
                );
            }
        }
        Ok(())
    }

    /// Gives `to` the number or the word that `from` has. Other kinds are left as they are.
    pub(super) fn copy(&self, from: &T, to: &mut T) {
        match &self.kind {
            Kind::Number { get, set, .. } => set(to, get(from)),
            Kind::Word { get, set, .. } => {
                if let Some(word) = get(from) {
                    set(to, word);
                }
            }
            _ => {}
        }
    }

    /// The value in force, as it would be written in a file; none when it is not set.
    pub(super) fn show(&self, target: &T) -> Option<String> {
        match &self.kind {
            Kind::Bool { get, .. } => Some(get(target).to_string()),
            Kind::Word { get, .. } => get(target).map(quoted),
            Kind::Number {
                unit, words, get, ..
            } => {
                let number = get(target);
                if let Some((word, _)) = words.iter().find(|(_, meant)| *meant == number) {
                    return Some(quoted(word));
                }
                let text = unit.format(number);
                let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
                Some(if is_plain { text } else { quoted(text) })
            }
            Kind::Text { get, .. } => {
                let text = get(target)?;
                let is_plain = text
                    .parse()
                    .is_ok_and(|number: u32| number.to_string() == text);
                Some(if is_plain { text } else { quoted(text) })
            }
            Kind::List { get, .. } => list(get(target).into_iter().map(quoted)),
            Kind::File { get, .. } => get(target).map(|path| quoted(path.display())),
            Kind::Files { get, .. } => list(get(target).iter().map(|path| quoted(path.display()))),
        }
    }
}

/// `"a", "b" or "c"`.
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(quoted).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// A TOML string, on one line whatever is in it.
pub(super) fn quoted(text: impl ToString) -> String {
    let mut quoted = String::from('"');
    for character in text.to_string().chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(character)));
            }
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

fn list(items: impl Iterator<Item = String>) -> Option<String> {
    let items: Vec<String> = items.collect();
    (!items.is_empty()).then(|| format!("[{}]", items.join(", ")))
}

fn parse_number(
    name: &str,
    text: &str,
    unit: Unit,
    range: &RangeInclusive<u64>,
    words: &[(&str, u64)],
) -> Result<u64, String> {
    if let Some((_, meant)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*meant);
    }
    if text == "infinity" {
        return Err(format!("`{name}` cannot be infinite"));
    }
    let number = unit
        .parse(text)
        .map_err(|error| format!("`{name}`: {error}"))?;
    if range.contains(&number) {
        return Ok(number);
    }
    let (low, high) = (unit.format(*range.start()), unit.format(*range.end()));
    let or = words
        .iter()
        .map(|(word, _)| format!(", or \"{word}\""))
        .collect::<String>();
    Err(format!(
        "`{name}` is {text}; it must be from {low} to {high}{or}"
    ))
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

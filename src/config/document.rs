//! What is written from the tables of keys: the configuration in force, the sample, the schema for editors, and the
//! table of limits in docs/.

use super::key::{Key, Kind, quoted};
use super::keys::{LIMIT_KEYS, LISTENER_KEYS, TOP_KEYS};
use super::limits::Limits;
use super::login::{ACL_KEYS, AclSpec, LOGIN_KEYS, LoginSpec};
use super::{Config, Loaded, Origin};
use std::fmt::Write;

impl Loaded {
    /// The whole configuration as a file, with the origin of each value.
    pub fn show(&self) -> String {
        let mut text = String::new();
        put(&mut text, TOP_KEYS, &self.config, |name| self.origin(name));
        for listener in &self.config.listeners {
            let _ = writeln!(text, "\n[listener.{}]", listener.name);
            put(&mut text, LISTENER_KEYS, listener, |name| {
                let own = self.origin(&format!("listener.{}.{name}", listener.name));
                // Where a listener does not say it itself, the broker's word holds.
                match own {
                    Origin::Default if name == "auth" => self.origin(name),
                    own => own,
                }
            });
        }
        text.push_str("\n[login]\n");
        put(&mut text, LOGIN_KEYS, &self.config.login, |name| {
            self.origin(&format!("login.{name}"))
        });
        text.push_str("\n[acl]\n");
        put(&mut text, ACL_KEYS, &self.config.acl, |name| {
            self.origin(&format!("acl.{name}"))
        });
        text.push_str("\n[limits]\n");
        put(&mut text, LIMIT_KEYS, &self.config.limits, |name| {
            self.origin(&format!("limits.{name}"))
        });
        text
    }

    /// The limits a newcomer meets first and those that differ from their defaults, as `name=value`.
    pub fn banner_limits(&self) -> Vec<String> {
        let first = ["packet-bytes-max", "queue-messages-max", "sessions-max"];
        let defaults = Limits::default();
        LIMIT_KEYS
            .iter()
            .map(|key| (key, key.show(&self.config.limits)))
            .filter(|(key, value)| *value != key.show(&defaults) || first.contains(&key.name))
            .filter_map(|(key, value)| Some(format!("{}={}", key.name, value?.trim_matches('"'))))
            .collect()
    }
}

/// Appends a line for each key that is set.
fn put<T>(text: &mut String, keys: &[Key<T>], target: &T, origin: impl Fn(&str) -> Origin) {
    let shown: Vec<_> = keys.iter().map(|key| (key, key.show(target))).collect();
    for (key, value) in &shown {
        let Some(value) = value else { continue };
        // A table that has keys is on without a word of its own, and TOML does not take both.
        let is_in = |name: &str| {
            name.strip_prefix(key.name)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        if shown
            .iter()
            .any(|(other, value)| is_in(other.name) && value.is_some())
        {
            continue;
        }
        let line = format!("{} = {value}", key.name);
        let _ = writeln!(text, "{line:<44} # {}", origin(key.name));
    }
}

/// A file with every key, its default and what it says; all commented out.
pub fn sample() -> String {
    let mut text = String::from(
        "#:schema ringmq.schema.json\n\
         # The configuration of ringmq. Every key is shown with its default.\n\
         # A flag, an environment variable (RINGMQ_CORES, RINGMQ_LIMITS__PACKET_BYTES_MAX) and --set\n\
         # (--set limits.packet-bytes-max=64MiB) use the same words and win over this file. Files named\n\
         # conf.d/*.toml beside it are read after it.\n\n",
    );
    put_sample(&mut text, TOP_KEYS, &Config::default());
    text.push_str(
        "# One table for each place to listen; the name is yours. A relative path of a *-file key is looked for\n\
         # in $CREDENTIALS_DIRECTORY, then beside this file.\n#[listener.tcp]\n",
    );
    put_sample(
        &mut text,
        LISTENER_KEYS,
        &super::keys::unbound_listener("tcp"),
    );
    text.push_str("#[login]\n");
    put_sample(&mut text, LOGIN_KEYS, &LoginSpec::default());
    text.push_str("#[acl]\n");
    put_sample(&mut text, ACL_KEYS, &AclSpec::default());
    text.push_str("#[limits]\n");
    put_sample(&mut text, LIMIT_KEYS, &Limits::default());
    text
}

fn put_sample<T>(text: &mut String, keys: &[Key<T>], defaults: &T) {
    for key in keys {
        let _ = writeln!(text, "# {}", key.doc);
        match key.show(defaults) {
            Some(value) => _ = writeln!(text, "#{} = {value}", key.name),
            None => _ = writeln!(text, "# {} is not set", key.name),
        }
    }
    text.push('\n');
}

/// The schema of a configuration file, for editors (JSON Schema, draft 7).
pub fn schema() -> String {
    let limits = object(LIMIT_KEYS, &Limits::default(), 6);
    let listener = object(LISTENER_KEYS, &super::keys::unbound_listener("tcp"), 6);
    let login = object(LOGIN_KEYS, &LoginSpec::default(), 6);
    let acl = object(ACL_KEYS, &AclSpec::default(), 6);
    let top = properties(TOP_KEYS, &Config::default(), 4);
    format!(
        r#"{{
  "$schema": "http://json-schema.org/draft-07/schema#",
  "title": "ringmq",
  "type": "object",
  "additionalProperties": false,
  "properties": {{
{top},
    "listener": {{
      "description": "One table for each place to listen; the name is yours.",
      "type": "object",
      "additionalProperties": {listener}
    }},
    "login": {login},
    "acl": {acl},
    "limits": {limits}
  }}
}}
"#
    )
}

/// The schema of a table.
fn object<T>(keys: &[Key<T>], defaults: &T, indent: usize) -> String {
    let (outer, inner) = (" ".repeat(indent - 2), " ".repeat(indent));
    format!(
        "{{\n{inner}\"type\": \"object\",\n{inner}\"additionalProperties\": false,\n{inner}\"properties\": {{\n{}\n{inner}}}\n{outer}}}",
        properties(keys, defaults, indent + 2)
    )
}

fn properties<T>(keys: &[Key<T>], defaults: &T, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let mut tables: Vec<&str> = Vec::new();
    let mut lines = Vec::new();
    for key in keys {
        let Some((table, _)) = key.name.split_once('.') else {
            let has_table = keys
                .iter()
                .any(|other| other.name.starts_with(&format!("{}.", key.name)));
            if !has_table {
                lines.push(format!(
                    "{pad}{}: {}",
                    quoted(key.name),
                    schema_of(key, defaults)
                ));
            }
            continue;
        };
        if tables.contains(&table) {
            continue;
        }
        tables.push(table);
        let inside: Vec<String> = keys
            .iter()
            .filter_map(|key| Some((key.name.strip_prefix(table)?.strip_prefix('.')?, key)))
            .map(|(name, key)| format!("{pad}    {}: {}", quoted(name), schema_of(key, defaults)))
            .collect();
        let is_word = keys.iter().any(|key| key.name == table);
        let kind = if is_word {
            r#"["object", "boolean"]"#
        } else {
            r#""object""#
        };
        lines.push(format!(
            "{pad}{}: {{\n{pad}  \"type\": {kind},\n{pad}  \"additionalProperties\": false,\n{pad}  \"properties\": {{\n{}\n{pad}  }}\n{pad}}}",
            quoted(table),
            inside.join(",\n")
        ));
    }
    lines.join(",\n")
}

fn schema_of<T>(key: &Key<T>, defaults: &T) -> String {
    let kind = match &key.kind {
        Kind::Bool { .. } => r#""type": "boolean""#.to_owned(),
        Kind::Word { words, .. } => {
            let words: Vec<String> = words.iter().map(quoted).collect();
            format!(r#""enum": [{}]"#, words.join(", "))
        }
        Kind::Number { .. } | Kind::Text { .. } => r#""type": ["string", "integer"]"#.to_owned(),
        Kind::File { .. } => r#""type": "string""#.to_owned(),
        Kind::List { .. } | Kind::Files { .. } => {
            r#""type": ["string", "array"], "items": {"type": "string"}"#.to_owned()
        }
    };
    let default = key
        .show(defaults)
        .map(|value| format!(r#", "default": {value}"#));
    format!(
        r#"{{{kind}{}, "description": {}}}"#,
        default.unwrap_or_default(),
        quoted(key.doc)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::key::Change;
    use std::fs;

    const BEGIN: &str = "<!-- limits: generated; a test says how -->\n";
    const END: &str = "<!-- end -->";

    #[test]
    fn the_table_in_docs_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/limits.md");
        let text = fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        let current = format!("{before}{BEGIN}{}{END}{after}", limits_table());
        if std::env::var_os("RINGMQ_WRITE_DOCS").is_some() {
            fs::write(path, &current).unwrap();
        }
        assert!(
            text == current,
            "RINGMQ_WRITE_DOCS=1 cargo test the_table_in_docs writes it anew"
        );
    }

    /// The table of all limits in docs/limits.md.
    fn limits_table() -> String {
        let defaults = Limits::default();
        let mut text = String::from(
            "| key of `[limits]` | default | what it bounds | changes |\n|---|---|---|---|\n",
        );
        for key in LIMIT_KEYS {
            let value = key.show(&defaults).unwrap_or_default();
            let change = match key.change {
                Change::Live => "on SIGHUP",
                Change::Restart => "at the next start",
            };
            let value = value.trim_matches('"');
            let _ = writeln!(
                text,
                "| `{}` | {value} | {} | {change} |",
                key.name, key.doc
            );
        }
        text
    }
}

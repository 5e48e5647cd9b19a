//! mosquitto's file of rules.
//!
//! ```text
//! # A comment: the first character of a line.
//! topic read news/#               for clients without a User Name, until the first `user` line
//! user alice
//! topic readwrite home/#          for alice
//! topic deny home/safe
//! pattern write sensors/%c/#      for everybody; %c is the Client Identifier, %u the User Name
//! ```

use super::pattern::Pattern;
use super::rules::{Place, Rule, RuleError};
use super::words;
use std::sync::Arc;

/// A file that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclFile {
    pub(super) rules: Vec<(Owner, Rule)>,
}

/// Whom a rule concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Clients without a User Name.
    Anonymous,
    /// The client with this one.
    User(Box<str>),
    /// All: it is a `pattern`.
    Everyone,
}

impl AclFile {
    /// Reads the text of a file called `name`.
    ///
    /// Errors: every line that is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<RuleError>> {
        let source: Arc<str> = name.into();
        let mut file = Self::default();
        let mut errors = Vec::new();
        let mut user = Owner::Anonymous;
        for (line, number) in text.lines().zip(1..) {
            let place = || Place {
                source: Arc::clone(&source),
                line: number,
            };
            match parse_line(line) {
                Ok(Line::Nothing) => {}
                Ok(Line::User(name)) => user = Owner::User(name.into()),
                Ok(Line::Rule { is_pattern, text }) => {
                    let read = if is_pattern {
                        words::parse(text, Pattern::template)
                    } else {
                        words::parse(text, Pattern::literal)
                    };
                    match read {
                        Ok((pattern, effect)) => {
                            let owner = if is_pattern {
                                Owner::Everyone
                            } else {
                                user.clone()
                            };
                            let rule = Rule {
                                pattern,
                                effect,
                                place: place(),
                            };
                            file.rules.push((owner, rule));
                        }
                        Err(message) => errors.push(RuleError {
                            place: place(),
                            message,
                        }),
                    }
                }
                Err(message) => errors.push(RuleError {
                    place: place(),
                    message,
                }),
            }
        }
        if errors.is_empty() {
            Ok(file)
        } else {
            Err(errors)
        }
    }

    /// How many rules it has.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }
}

enum Line<'a> {
    Nothing,
    User(&'a str),
    Rule { is_pattern: bool, text: &'a str },
}

fn parse_line(line: &str) -> Result<Line<'_>, String> {
    let line = line.trim_end();
    if line.starts_with('#') {
        return Ok(Line::Nothing);
    }
    let line = line.trim_start_matches(' ');
    if line.is_empty() {
        return Ok(Line::Nothing);
    }
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "topic" | "pattern" if rest.trim_start_matches(' ').is_empty() => {
            Err(format!("`{word}` without a topic"))
        }
        "topic" | "pattern" => Ok(Line::Rule {
            is_pattern: word == "pattern",
            text: rest,
        }),
        "user" => match rest.trim() {
            "" => Err("`user` without a name".into()),
            name => Ok(Line::User(name)),
        },
        _ if line.starts_with('#') => Err("a comment must begin at the start of its line".into()),
        _ if word.contains('\t') => {
            Err("the words of a rule are separated by spaces, not by tabs".into())
        }
        _ => Err(format!("`{word}` is not `topic`, `user` or `pattern`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file() {
        let text = "# first\n\ntopic read a/#\r\n  \nuser bob  builder \n topic deny a b\npattern write %c/x\ntopic x\nuser al\n";
        let text = text.replace("topic deny a b", "topic deny a b/c");
        let file = AclFile::parse("acl", &text).expect("valid");
        let shown: Vec<_> = file
            .rules
            .iter()
            .map(|(owner, rule)| format!("{owner:?} {rule} {}", rule.place))
            .collect();
        assert_eq!(
            shown,
            [
                "Anonymous read a/# acl:3",
                "User(\"bob  builder\") deny a b/c acl:6",
                "Everyone write %c/x acl:7",
                "User(\"bob  builder\") readwrite x acl:8",
            ]
        );
        assert_eq!(file.rule_count(), 4);
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text =
            "topic\nuser\nread a\n # c\ntopic my topic\npattern x+\ntopic\ta\ntopic read a/#/b\n";
        let errors = AclFile::parse("acl", text).expect_err("wrong");
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "acl:1: `topic` without a topic",
                "acl:2: `user` without a name",
                "acl:3: `read` is not `topic`, `user` or `pattern`",
                "acl:4: a comment must begin at the start of its line",
                "acl:5: `my` is not `read`, `write`, `readwrite` or `deny`; one of them must stand before a topic with spaces",
                "acl:6: `x+`: `+` and `#` must have a level of the topic for themselves",
                "acl:7: the words of a rule are separated by spaces, not by tabs",
                "acl:8: `a/#/b`: `#` must be the last level of the topic",
            ]
        );
    }
}

//! `ringmq acl test`: may this client do that, and which rule says so?

use crate::access::{Access, Identity, May, Rule, Rules};
use crate::topic::filter::TopicFilter;
use clap::{ArgGroup, Args};
use std::process::ExitCode;

/// Not authorised.
const EXIT_DENIED: u8 = 4;
/// What was asked about is no topic.
const EXIT_USAGE: u8 = 2;

/// What `ringmq acl test` is asked.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("action").required(true))]
pub struct AclQuestion {
    /// User Name; without it the client has none
    #[arg(long, short = 'u')]
    user: Option<String>,
    /// Client Identifier
    #[arg(long, short = 'i', default_value = "client")]
    client: String,
    /// A group that the client's token names (repeatable)
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// May it publish to this topic?
    #[arg(long, value_name = "TOPIC", group = "action")]
    write: Option<String>,
    /// May it subscribe to this filter, or receive messages of this topic?
    #[arg(long, value_name = "FILTER", group = "action")]
    read: Option<String>,
}

impl AclQuestion {
    /// Prints `allowed` or `denied` with the rule that says so.
    ///
    /// Returns: 0 for allowed, 4 for denied, 2 for a topic that is none.
    pub fn run(&self, rules: &Rules) -> ExitCode {
        match self.answer(rules) {
            Ok((is_allowed, text)) => {
                println!("{text}");
                ExitCode::from(if is_allowed { 0 } else { EXIT_DENIED })
            }
            Err(message) => {
                eprintln!("ringmq acl test: {message}");
                ExitCode::from(EXIT_USAGE)
            }
        }
    }

    fn answer(&self, rules: &Rules) -> Result<(bool, String), String> {
        let access = Access::new(Identity {
            username: self.user.as_deref().map(Into::into),
            groups: self.group.iter().map(|name| name.as_str().into()).collect(),
            ..Identity::default()
        });
        let asked = self.write.as_deref().or(self.read.as_deref());
        let asked = asked.unwrap_or_default();
        let filter = TopicFilter::parse(asked).map_err(|error| error.to_string())?;
        let may = if self.write.is_some() {
            if filter.has_wildcard() {
                return Err("nobody publishes to a wildcard".into());
            }
            May::Publish(asked)
        } else if filter.has_wildcard() || filter.share_name().is_some() {
            May::Subscribe(filter.filter())
        } else {
            May::Receive(asked)
        };
        Ok(told(access.deciding(rules, &self.client, may).as_ref()))
    }
}

fn told(rule: Option<&Rule>) -> (bool, String) {
    match rule {
        Some(rule) if rule.effect.permits => (true, format!("allowed by {}: {rule}", rule.place)),
        Some(rule) => (false, format!("denied by {}: {rule}", rule.place)),
        None => (false, "denied: no rule permits it".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_the_rule() {
        let file = "user al\ntopic read a/#\ntopic deny a/x\n";
        let rules = Rules::new(Some(("acl", file)), &[], &[]).expect("valid");
        let ask = |user: Option<&str>, write: Option<&str>, read: Option<&str>| {
            let question = AclQuestion {
                user: user.map(Into::into),
                client: "c".into(),
                group: vec![],
                write: write.map(Into::into),
                read: read.map(Into::into),
            };
            question.answer(&rules).map(|(_, text)| text)
        };
        let allowed = Ok("allowed by acl:2: read a/#".to_owned());
        let denied = Ok("denied: no rule permits it".to_owned());
        assert_eq!(ask(Some("al"), None, Some("a/b")), allowed);
        assert_eq!(ask(Some("al"), None, Some("$share/g/#")), allowed);
        assert_eq!(ask(Some("al"), Some("a/b"), None), denied);
        assert_eq!(ask(None, None, Some("a/b")), denied);
        assert_eq!(
            ask(Some("al"), None, Some("a/x")),
            Ok("denied by acl:3: deny a/x".into())
        );
        assert!(ask(None, Some("a/#"), None).is_err());
        assert!(ask(None, None, Some("a+")).is_err());
    }
}

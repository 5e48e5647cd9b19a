//! Rules that come with a token or with the answer of a service, in the two forms that EMQX knows.
//!
//! ```json
//! {"pub": ["sensors/${clientid}/#"], "sub": ["news/#"], "all": ["home/%u/#"]}
//! [{"permission": "allow", "action": "publish", "topic": "a/#"}, {"permission": "deny", "action": "all", "topic": "a/b"}]
//! ```
//!
//! Pure. A denial wins wherever it stands.

use crate::access::pattern::Pattern;
use crate::access::rules::{Effect, Place, Rule, RuleList};
use serde_json::Value;
use std::sync::Arc;

/// A token brings no more than these.
const RULES_MAX: usize = 256;
const GROUPS_MAX: usize = 64;

/// Reads rules; `source` says where they came from. Null is none.
///
/// Errors: a sentence for the log.
pub fn rules(value: &Value, source: &str) -> Result<Option<RuleList>, &'static str> {
    let source: Arc<str> = source.into();
    let mut list = RuleList::default();
    let mut count = 0;
    let mut push = |topic: &Value, effect: Effect| {
        count += 1;
        if count > RULES_MAX {
            return Err("there are more than 256 rules");
        }
        let topic = topic.as_str().ok_or("the topic of a rule is no text")?;
        let topic = topic
            .replace("${clientid}", "%c")
            .replace("${username}", "%u");
        if topic.contains("${") {
            return Err(
                "the topic of a rule has another placeholder than ${clientid} and ${username}",
            );
        }
        let pattern = Pattern::template(&topic)?;
        let place = Place {
            source: Arc::clone(&source),
            line: 0,
        };
        list.push(Rule {
            pattern,
            effect,
            place,
        });
        Ok(())
    };
    match value {
        Value::Null => return Ok(None),
        Value::Object(of_action) => {
            for (action, topics) in of_action {
                let effect = effect("allow", action)?;
                let topics = topics
                    .as_array()
                    .ok_or("the topics of a rule are no list")?;
                for topic in topics {
                    push(topic, effect)?;
                }
            }
        }
        Value::Array(rules) => {
            for rule in rules {
                let word = |name: &str| rule.get(name).and_then(Value::as_str);
                let permission = word("permission").ok_or("a rule has no permission")?;
                let action = word("action").unwrap_or("all");
                push(
                    rule.get("topic").unwrap_or(&Value::Null),
                    effect(permission, action)?,
                )?;
            }
        }
        _ => return Err("the rules are neither a list nor an object"),
    }
    Ok(Some(list))
}

/// Reads names of groups. Null is none.
///
/// Errors: a sentence for the log.
pub fn groups(value: &Value) -> Result<Vec<Box<str>>, &'static str> {
    let names = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(names) if names.len() <= GROUPS_MAX => names,
        _ => return Err("the groups are no list of at most 64 names"),
    };
    let name = |name: &Value| name.as_str().map(Into::into);
    names
        .iter()
        .map(|value| name(value).ok_or("the name of a group is no text"))
        .collect()
}

fn effect(permission: &str, action: &str) -> Result<Effect, &'static str> {
    let (write, read) = match action {
        "pub" | "publish" => (true, false),
        "sub" | "subscribe" => (false, true),
        "all" => (true, true),
        _ => return Err("the action of a rule is not publish, subscribe or all"),
    };
    let permits = match permission {
        "allow" => true,
        "deny" => false,
        _ => return Err("the permission of a rule is not allow or deny"),
    };
    Ok(Effect {
        permits,
        write,
        read,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Access, Identity, May, Rules};
    use serde_json::json;

    fn client(value: &Value) -> Access {
        Access::new(Identity {
            username: Some("al".into()),
            rules: rules(value, "token").expect("valid").map(Box::new),
            ..Identity::default()
        })
    }

    #[test]
    fn both_forms_mean_the_same() {
        let short = client(&json!({"pub": ["p/${clientid}/#"], "sub": ["s/#"], "all": ["h/%u"]}));
        let long = client(&json!([
            {"permission": "allow", "action": "publish", "topic": "p/%c/#"},
            {"permission": "allow", "action": "subscribe", "topic": "s/#"},
            {"permission": "allow", "topic": "h/${username}"},
            {"permission": "deny", "action": "publish", "topic": "p/c1/secret"},
        ]));
        let none = Rules::default();
        type Ask = for<'a> fn(&'a str) -> May<'a>;
        const READ: Ask = |topic| May::Receive(topic);
        const WRITE: Ask = |topic| May::Publish(topic);
        for (ask, topic, short_may, long_may) in [
            (WRITE, "p/c1/x", true, true),
            (WRITE, "p/c1/secret", true, false),
            (WRITE, "p/c2/x", false, false),
            (READ, "p/c1/x", false, false),
            (READ, "s/x", true, true),
            (WRITE, "h/al", true, true),
            (READ, "h/al", true, true),
        ] {
            let may = |access: &Access| {
                let rule = access.deciding(&none, "c1", ask(topic));
                rule.is_some_and(|rule| rule.effect.permits)
            };
            assert_eq!((may(&short), may(&long)), (short_may, long_may), "{topic}");
        }
    }

    #[test]
    fn what_is_not_understood_is_no_rule() {
        assert_eq!(rules(&Value::Null, "t"), Ok(None));
        for wrong in [
            json!("all"),
            json!({"pub": "a"}),
            json!({"publish": [1]}),
            json!({"may": ["a"]}),
            json!({"pub": ["a+"]}),
            json!({"pub": ["${other}"]}),
            json!([{"action": "all", "topic": "a"}]),
            json!([{"permission": "maybe", "topic": "a"}]),
            json!([{"permission": "allow"}]),
            json!({"pub": vec!["a"; 257]}),
        ] {
            assert!(rules(&wrong, "t").is_err(), "{wrong}");
        }
        assert_eq!(groups(&json!(["a", "b"])), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(groups(&Value::Null), Ok(vec![]));
        for wrong in [json!("a"), json!([1]), json!(vec!["a"; 65])] {
            assert!(groups(&wrong).is_err(), "{wrong}");
        }
    }
}

//! All rules in force, and the one that decides a question.

use super::acl_file::{AclFile, Owner};
use super::client::Bound;
use super::pattern::{Pattern, Values};
use super::words;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A question about one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May<'a> {
    /// Publish to this Topic Name?
    Publish(&'a str),
    /// Receive a message with this Topic Name?
    Receive(&'a str),
    /// Subscribe to this Topic Filter, which stands without its share name? It may if there is something that it
    /// matches and the client may receive, unless all that it matches is denied first.
    Subscribe(&'a str),
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A file, or what else the rule came from.
    pub source: Arc<str>,
    /// Its line, from 1; 0 where there are none.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.source),
            line => write!(f, "{}:{line}", self.source),
        }
    }
}

/// What is wrong with a rule, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// Where it stands.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for RuleError {}

/// Rules, and rules on trial.
#[derive(Clone, Debug, Default)]
pub struct RulesInForce {
    /// Those that hold; none permits everything.
    pub rules: Option<Arc<Rules>>,
    /// Those of which it is told what they would deny.
    pub shadow: Option<Arc<Rules>>,
}

/// What a rule says of the topics it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Whether it permits; otherwise it denies.
    pub permits: bool,
    /// Whether it speaks of publishing.
    pub write: bool,
    /// Whether it speaks of receiving.
    pub read: bool,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The topics it means.
    pub pattern: Pattern,
    /// What it says of them.
    pub effect: Effect,
    /// Where it stands.
    pub place: Place,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Effect {
            permits,
            write,
            read,
        } = self.effect;
        let words = match (permits, write, read) {
            (true, true, true) => "readwrite",
            (true, true, false) => "write",
            (true, false, _) => "read",
            (false, true, false) => "deny publishing to",
            (false, false, true) => "deny receiving from",
            (false, ..) => "deny",
        };
        write!(f, "{words} {}", self.pattern.text())
    }
}

/// Rules that concern the same clients, apart by what they say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleList {
    denials: Vec<Rule>,
    permissions: Vec<Rule>,
}

impl RuleList {
    /// Adds a rule behind those there are.
    pub fn push(&mut self, rule: Rule) {
        if rule.effect.permits {
            self.permissions.push(rule);
        } else {
            self.denials.push(rule);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.denials.is_empty() && self.permissions.is_empty()
    }
}

/// Whom a rule of the configuration concerns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Every client.
    Everyone,
    /// Clients without a User Name that was verified.
    Anonymous,
    /// The clients with this User Name.
    User(Box<str>),
    /// The clients whose User Name belongs to this group, or whose token says that they do.
    Group(Box<str>),
}

/// A rule of the configuration: `text` is an access word and a topic, as in a rule file behind `topic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRule {
    /// Whom it concerns.
    pub subject: Subject,
    /// `write sensors/%c/#`, `deny home/safe`.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

/// A group of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: Box<str>,
    /// The User Names in it.
    pub users: Vec<Box<str>>,
}

/// All rules of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    lists: Vec<RuleList>,
    /// Of a rule file: the rules below `user NAME`, and those of clients without a name.
    file_users: BTreeMap<Box<str>, u32>,
    file_anonymous: Option<u32>,
    patterns: RuleList,
    /// Of the configuration.
    listed: BTreeMap<Subject, u32>,
    /// User Name to groups.
    groups_of: BTreeMap<Box<str>, Vec<Box<str>>>,
}

impl Rules {
    /// Puts rules together: those of a file, as `name` and text, and those of the configuration.
    ///
    /// Errors: everything that is wrong, in order; then nothing of it holds.
    pub fn new(
        file: Option<(&str, &str)>,
        listed: &[ListedRule],
        groups: &[Group],
    ) -> Result<Self, Vec<RuleError>> {
        let mut rules = Self::default();
        let mut errors = Vec::new();
        if let Some((name, text)) = file {
            match AclFile::parse(name, text) {
                Ok(file) => rules.take_file(file),
                Err(mut wrong) => errors.append(&mut wrong),
            }
        }
        for rule in listed {
            match words::parse(&rule.text, Pattern::template) {
                Ok((pattern, effect)) => {
                    let place = rule.place.clone();
                    let list = rules.listed_list(&rule.subject);
                    list.push(Rule {
                        pattern,
                        effect,
                        place,
                    });
                }
                Err(message) => errors.push(RuleError {
                    place: rule.place.clone(),
                    message,
                }),
            }
        }
        for group in groups {
            for user in &group.users {
                let of_user = rules.groups_of.entry(user.clone()).or_default();
                if !of_user.contains(&group.name) {
                    of_user.push(group.name.clone());
                }
            }
        }
        if errors.is_empty() {
            Ok(rules)
        } else {
            Err(errors)
        }
    }

    fn take_file(&mut self, file: AclFile) {
        for (owner, rule) in file.rules {
            let list = match owner {
                Owner::Anonymous => *self.file_anonymous.get_or_insert_with(|| {
                    self.lists.push(RuleList::default());
                    self.lists.len() as u32 - 1
                }),
                Owner::User(name) => *self.file_users.entry(name).or_insert_with(|| {
                    self.lists.push(RuleList::default());
                    self.lists.len() as u32 - 1
                }),
                Owner::Everyone => {
                    self.patterns.push(rule);
                    continue;
                }
            };
            self.lists[list as usize].push(rule);
        }
    }

    fn listed_list(&mut self, subject: &Subject) -> &mut RuleList {
        let next = self.lists.len() as u32;
        let at = *self.listed.entry(subject.clone()).or_insert(next);
        if at == next {
            self.lists.push(RuleList::default());
        }
        &mut self.lists[at as usize]
    }

    /// Which lists concern a client.
    pub(super) fn bind(&self, username: Option<&str>, groups: &[Box<str>]) -> Bound {
        let file = match username {
            Some(name) => self.file_users.get(name).copied(),
            None => self.file_anonymous,
        };
        let own = match username {
            Some(name) => Subject::User(name.into()),
            None => Subject::Anonymous,
        };
        let of_user = username.and_then(|name| self.groups_of.get(name));
        let in_groups = of_user.into_iter().flatten().chain(groups);
        let subjects = [Subject::Everyone, own]
            .into_iter()
            .chain(in_groups.map(|name| Subject::Group(name.clone())));
        let mut listed: Vec<u32> = subjects
            .filter_map(|subject| self.listed.get(&subject).copied())
            .collect();
        listed.sort_unstable();
        listed.dedup();
        Bound {
            file,
            listed: listed.into(),
        }
    }

    /// The rules that decide about a client, in the order in which they are asked; the first that fits has the last word.
    fn in_order<'a>(
        &'a self,
        bound: &'a Bound,
        own: Option<&'a RuleList>,
    ) -> impl Iterator<Item = &'a Rule> {
        let list = |at: &u32| &self.lists[*at as usize];
        let listed = || bound.listed.iter().map(list).chain(own);
        let of_file = bound
            .file
            .as_ref()
            .map(list)
            .into_iter()
            .chain([&self.patterns]);
        listed()
            .flat_map(|list| &list.denials)
            .chain(of_file.flat_map(|list| list.denials.iter().chain(&list.permissions)))
            .chain(listed().flat_map(|list| &list.permissions))
    }

    /// The rule that decides about a client; none is a denial.
    pub(super) fn deciding<'a>(
        &'a self,
        bound: &'a Bound,
        own: Option<&'a RuleList>,
        may: May<'_>,
        values: Values<'_>,
    ) -> Option<&'a Rule> {
        self.in_order(bound, own).find(|rule| {
            let (pattern, effect) = (&rule.pattern, rule.effect);
            match (may, effect.permits) {
                (May::Publish(_), _) if !effect.write => false,
                (May::Receive(_) | May::Subscribe(_), _) if !effect.read => false,
                (May::Publish(topic) | May::Receive(topic), true) => pattern.matches(topic, values),
                (May::Publish(topic) | May::Receive(topic), false) => {
                    pattern.matches_spliced(topic, values)
                }
                (May::Subscribe(filter), true) => pattern.overlaps(filter, values),
                (May::Subscribe(filter), false) => pattern.covers(filter, values),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::{Access, Identity};
    use super::*;

    fn place(line: u32) -> Place {
        Place {
            source: "config".into(),
            line,
        }
    }

    fn listed(subject: Subject, text: &str, line: u32) -> ListedRule {
        ListedRule {
            subject,
            text: text.into(),
            place: place(line),
        }
    }

    fn access(username: Option<&str>) -> Access {
        Access::new(Identity {
            username: username.map(Into::into),
            ..Identity::default()
        })
    }

    type Ask = for<'a> fn(&'a str) -> May<'a>;
    const READ: Ask = |topic| May::Receive(topic);
    const WRITE: Ask = |topic| May::Publish(topic);

    fn decides(rules: &Rules, username: Option<&str>, may: May<'_>) -> String {
        let access = access(username);
        match access.deciding(rules, "c1", may) {
            Some(rule) => rule.place.to_string(),
            None => "nothing".into(),
        }
    }

    const FILE: &str = "\
topic read public/#
user al
topic home/#
topic deny home/safe
topic read %c/literal
pattern write dev/%c/#
pattern deny dev/c1/secret
pattern deny home/#
pattern read %u/inbox
";

    #[test]
    fn a_file_decides_as_in_mosquitto() {
        let rules = Rules::new(Some(("acl", FILE)), &[], &[]).expect("valid");
        for (user, may, topic, by) in [
            (None, READ, "public/x", "acl:1"),
            (None, WRITE, "public/x", "nothing"),
            // The rules of clients without a name are not those of the others.
            (Some("al"), READ, "public/x", "nothing"),
            (Some("al"), WRITE, "home/light", "acl:3"),
            (Some("al"), WRITE, "home/safe", "acl:4"),
            (Some("al"), READ, "home/safe", "acl:4"),
            // A rule of the user's own comes before the denial of a pattern.
            (Some("al"), READ, "home/door", "acl:3"),
            (Some("bo"), READ, "home/door", "acl:8"),
            (Some("al"), READ, "%c/literal", "acl:5"),
            (Some("al"), READ, "c1/literal", "nothing"),
            (Some("bo"), WRITE, "dev/c1/x", "acl:6"),
            (None, WRITE, "dev/c1/secret", "acl:7"),
            (Some("bo"), WRITE, "dev/c2/x", "nothing"),
            (Some("bo"), READ, "bo/inbox", "acl:9"),
            (None, READ, "bo/inbox", "nothing"),
        ] {
            assert_eq!(decides(&rules, user, may(topic)), by, "{user:?} {topic}");
        }
    }

    #[test]
    fn in_the_configuration_a_denial_wins_wherever_it_stands() {
        let group = Group {
            name: "crew".into(),
            users: vec!["al".into(), "bo".into()],
        };
        let rules = [
            listed(Subject::Everyone, "read #", 1),
            listed(Subject::User("al".into()), "write home/%u/%c", 2),
            listed(Subject::Group("crew".into()), "write deck/#", 3),
            listed(Subject::Group("crew".into()), "deny deck/bridge", 4),
            listed(Subject::User("bo".into()), "readwrite deck/bridge", 5),
            listed(Subject::Anonymous, "deny private/#", 6),
        ];
        let alone = Rules::new(None, &rules, std::slice::from_ref(&group)).expect("valid");
        let file = "user bo\ntopic deck/bridge\ntopic other\n";
        let with_file = Rules::new(Some(("acl", file)), &rules, &[group]).expect("valid");
        for (user, may, topic, by) in [
            (None, READ, "x", "config:1"),
            (None, READ, "private/x", "config:6"),
            (Some("al"), READ, "private/x", "config:1"),
            (Some("al"), WRITE, "home/al/c1", "config:2"),
            (Some("bo"), WRITE, "home/al/c1", "nothing"),
            (Some("bo"), WRITE, "deck/x", "config:3"),
            (Some("bo"), WRITE, "deck/bridge", "config:4"),
            (Some("cy"), WRITE, "deck/x", "nothing"),
            (None, READ, "$SYS/x", "nothing"),
        ] {
            assert_eq!(decides(&alone, user, may(topic)), by, "{user:?} {topic}");
            assert_eq!(
                decides(&with_file, user, may(topic)),
                by,
                "{user:?} {topic}"
            );
        }
        assert_eq!(decides(&with_file, Some("bo"), WRITE("other")), "acl:3");
    }

    #[test]
    fn a_subscription_needs_something_to_read() {
        let text = "user al\ntopic read a/b/#\ntopic write w/#\ntopic deny a/b/secret/#\n";
        let rules = Rules::new(Some(("acl", text)), &[], &[]).expect("valid");
        let al = access(Some("al"));
        for (filter, may) in [
            ("#", true),
            ("a/#", true),
            ("a/+/c", true),
            ("a/b", true),
            ("a/b/secret/#", false),
            ("a/b/secret/x", false),
            ("a/b/+/x", true),
            ("w/#", false),
            ("a", false),
            ("b/#", false),
            ("$SYS/#", false),
        ] {
            let rule = al.deciding(&rules, "c1", May::Subscribe(filter));
            assert_eq!(
                rule.is_some_and(|rule| rule.effect.permits),
                may,
                "{filter}"
            );
        }
    }

    #[test]
    fn every_mistake_is_told() {
        let rules = [
            listed(Subject::Everyone, "may a", 1),
            listed(Subject::Everyone, "read a", 2),
            listed(Subject::Everyone, "read ", 3),
        ];
        let errors = Rules::new(Some(("acl", "topic a\nx\n")), &rules, &[]).expect_err("wrong");
        let errors: Vec<_> = errors.iter().map(|error| error.place.to_string()).collect();
        assert_eq!(errors, ["acl:2", "config:1"]);
    }
}

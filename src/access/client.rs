//! One client among the rules.

use super::pattern::Values;
use super::rules::{May, Rule, RuleList, Rules};

/// The longest Topic Name whose permission is remembered, in bytes.
const REMEMBERED_BYTES_MAX: usize = 256;

/// Who a client is, as it was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The User Name; what a client merely says of itself is none.
    pub username: Option<Box<str>>,
    /// Groups that its token names, beside those of the configuration.
    pub groups: Vec<Box<str>>,
    /// Rules that came with its token.
    pub rules: Option<Box<RuleList>>,
    /// Whether no rule concerns it.
    pub is_superuser: bool,
    /// When its token ends, in wall-clock milliseconds.
    pub expires_at_ms: Option<u64>,
    /// The line of the password file that let it in, as a fingerprint.
    pub account: Option<u64>,
}

/// A client's place among the rules.
#[derive(Clone, Debug)]
pub struct Access {
    identity: Identity,
    /// Meaningful while `epoch` is the rules'.
    bound: Bound,
    epoch: u32,
    /// The last Topic Name that it was permitted to publish to, in this epoch; most clients publish to one or a few.
    last_written: String,
}

/// Which of the rules' lists concern a client.
#[derive(Clone, Debug, Default)]
pub(super) struct Bound {
    pub(super) file: Option<u32>,
    /// Ascending.
    pub(super) listed: Box<[u32]>,
}

/// The rules in force on a shard, and how often they have changed.
#[derive(Clone, Copy, Debug)]
pub struct InForce<'a> {
    /// None permits everything to clients without rules of their own.
    pub rules: Option<&'a Rules>,
    /// Another number for other rules; never 0.
    pub epoch: u32,
}

impl Access {
    /// For a client that was verified as this.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            bound: Bound::default(),
            epoch: 0,
            last_written: String::new(),
        }
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the client may do this.
    ///
    /// Cost: a comparison for the Topic Name that it published to last; else a walk over the rules that concern it.
    pub fn may(&mut self, force: InForce<'_>, client_id: &str, may: May<'_>) -> bool {
        if self.is_free(force) {
            return true;
        }
        if self.epoch != force.epoch {
            self.bind(force);
        }
        if let May::Publish(topic) = may
            && self.last_written == topic
            && !topic.is_empty()
        {
            return true;
        }
        let own = self.identity.rules.as_deref();
        let none = Rules::default();
        let rules = force.rules.unwrap_or(&none);
        let rule = rules.deciding(&self.bound, own, may, self.values(client_id));
        let is_permitted = rule.is_some_and(|rule| rule.effect.permits);
        if let May::Publish(topic) = may
            && is_permitted
            && topic.len() <= REMEMBERED_BYTES_MAX
        {
            self.last_written.clear();
            self.last_written.push_str(topic);
        }
        is_permitted
    }

    /// The rule that decides; none is a denial. For explanations, which have no epoch.
    pub fn deciding(&self, rules: &Rules, client_id: &str, may: May<'_>) -> Option<Rule> {
        let bound = rules.bind(self.identity.username.as_deref(), &self.identity.groups);
        let own = self.identity.rules.as_deref();
        let rule = rules.deciding(&bound, own, may, self.values(client_id));
        rule.cloned()
    }

    /// Whether nothing is denied to it.
    fn is_free(&self, force: InForce<'_>) -> bool {
        self.identity.is_superuser || (force.rules.is_none() && self.identity.rules.is_none())
    }

    fn bind(&mut self, force: InForce<'_>) {
        self.epoch = force.epoch;
        self.last_written = String::new();
        self.bound = force.rules.map_or_else(Bound::default, |rules| {
            rules.bind(self.identity.username.as_deref(), &self.identity.groups)
        });
    }

    fn values<'a>(&'a self, client_id: &'a str) -> Values<'a> {
        Values {
            client_id,
            username: self.identity.username.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::Pattern;
    use super::super::rules::{Effect, Place};
    use super::*;

    fn rules(text: &str) -> Rules {
        Rules::new(Some(("acl", text)), &[], &[]).expect("valid")
    }

    fn client(username: &str) -> Access {
        Access::new(Identity {
            username: Some(username.into()),
            ..Identity::default()
        })
    }

    #[test]
    fn without_rules_everything_is_permitted_and_with_none_that_fits_nothing() {
        let mut access = client("al");
        let nothing = InForce {
            rules: None,
            epoch: 1,
        };
        let all = [May::Publish("a"), May::Receive("a"), May::Subscribe("#")];
        assert!(all.iter().all(|may| access.may(nothing, "c", *may)));
        let empty = rules("");
        let force = InForce {
            rules: Some(&empty),
            epoch: 2,
        };
        assert!(!all.iter().any(|may| access.may(force, "c", *may)));
        access.identity.is_superuser = true;
        assert!(all.iter().all(|may| access.may(force, "c", *may)));
    }

    #[test]
    fn what_is_remembered_is_forgotten_when_the_rules_change() {
        let mut access = client("al");
        let (before, after) = (
            rules("user al\ntopic write a\n"),
            rules("user al\ntopic write b\n"),
        );
        let force = |rules, epoch| InForce {
            rules: Some(rules),
            epoch,
        };
        assert!(access.may(force(&before, 1), "c", May::Publish("a")));
        assert!(access.may(force(&before, 1), "c", May::Publish("a")));
        assert!(!access.may(force(&after, 2), "c", May::Publish("a")));
        assert!(access.may(force(&after, 2), "c", May::Publish("b")));
        assert!(!access.may(force(&after, 2), "c", May::Publish("a")));
        assert!(!access.may(force(&after, 2), "c", May::Receive("b")));
    }

    #[test]
    fn rules_of_a_token_bind_their_client_alone() {
        let mut own = RuleList::default();
        own.push(Rule {
            pattern: Pattern::template("t/%c").expect("valid"),
            effect: Effect {
                permits: true,
                write: true,
                read: false,
            },
            place: Place {
                source: "token".into(),
                line: 0,
            },
        });
        let mut access = Access::new(Identity {
            rules: Some(Box::new(own)),
            ..Identity::default()
        });
        let force = InForce {
            rules: None,
            epoch: 1,
        };
        assert!(access.may(force, "c", May::Publish("t/c")));
        assert!(!access.may(force, "c", May::Publish("t/d")));
        assert!(!access.may(force, "c", May::Receive("t/c")));
        assert!(client("al").may(force, "c", May::Publish("t/d")));
    }
}

//! One client among the rules.

use super::pattern::Values;
use super::rules::{Action, Rule, RuleList, Rules};

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

    /// Whether the client may publish to the Topic Name `topic`.
    ///
    /// Cost: a comparison if it is the same topic as the last time.
    pub fn may_publish(&mut self, force: InForce<'_>, client_id: &str, topic: &str) -> bool {
        if self.is_free(force) {
            return true;
        }
        self.refresh(force);
        if !topic.is_empty() && self.last_written == topic {
            return true;
        }
        let is_permitted = self.decide(force, client_id, Action::Write, topic);
        if is_permitted && topic.len() <= REMEMBERED_BYTES_MAX {
            self.last_written.clear();
            self.last_written.push_str(topic);
        }
        is_permitted
    }

    /// Whether the client may receive a message with the Topic Name `topic`.
    pub fn may_receive(&mut self, force: InForce<'_>, client_id: &str, topic: &str) -> bool {
        if self.is_free(force) {
            return true;
        }
        self.refresh(force);
        self.decide(force, client_id, Action::Read, topic)
    }

    /// Whether the client may receive anything that `filter` matches, a Topic Filter without share name.
    pub fn may_subscribe(&mut self, force: InForce<'_>, client_id: &str, filter: &str) -> bool {
        if self.is_free(force) {
            return true;
        }
        self.refresh(force);
        let none = Rules::default();
        let rule = force.rules.unwrap_or(&none).deciding_subscribe(
            &self.bound,
            self.identity.rules.as_deref(),
            filter,
            self.values(client_id),
        );
        rule.is_some_and(|rule| rule.effect.permits)
    }

    /// The rule that decides about a Topic Name; none is a denial. For `ringmq acl test`, which has no epoch.
    pub fn deciding(
        &self,
        rules: &Rules,
        client_id: &str,
        action: Action,
        topic: &str,
    ) -> Option<Rule> {
        let bound = rules.bind(self.identity.username.as_deref(), &self.identity.groups);
        let own = self.identity.rules.as_deref();
        rules
            .deciding(&bound, own, action, topic, self.values(client_id))
            .cloned()
    }

    /// The rule that decides about a Topic Filter without share name; none is a denial.
    pub fn deciding_subscribe(
        &self,
        rules: &Rules,
        client_id: &str,
        filter: &str,
    ) -> Option<Rule> {
        let bound = rules.bind(self.identity.username.as_deref(), &self.identity.groups);
        let own = self.identity.rules.as_deref();
        rules
            .deciding_subscribe(&bound, own, filter, self.values(client_id))
            .cloned()
    }

    /// Whether nothing is denied to it.
    fn is_free(&self, force: InForce<'_>) -> bool {
        self.identity.is_superuser || (force.rules.is_none() && self.identity.rules.is_none())
    }

    fn refresh(&mut self, force: InForce<'_>) {
        if self.epoch == force.epoch {
            return;
        }
        self.epoch = force.epoch;
        self.last_written = String::new();
        self.bound = force.rules.map_or_else(Bound::default, |rules| {
            rules.bind(self.identity.username.as_deref(), &self.identity.groups)
        });
    }

    fn decide(&self, force: InForce<'_>, client_id: &str, action: Action, topic: &str) -> bool {
        let none = Rules::default();
        let rule = force.rules.unwrap_or(&none).deciding(
            &self.bound,
            self.identity.rules.as_deref(),
            action,
            topic,
            self.values(client_id),
        );
        rule.is_some_and(|rule| rule.effect.permits)
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
    use super::super::rules::{Effect, Place};
    use super::super::pattern::Pattern;
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
        assert!(access.may_publish(nothing, "c", "a"));
        assert!(access.may_receive(nothing, "c", "a"));
        assert!(access.may_subscribe(nothing, "c", "#"));
        let empty = rules("");
        let force = InForce {
            rules: Some(&empty),
            epoch: 2,
        };
        assert!(!access.may_publish(force, "c", "a"));
        assert!(!access.may_receive(force, "c", "a"));
        assert!(!access.may_subscribe(force, "c", "#"));
        access.identity.is_superuser = true;
        assert!(access.may_publish(force, "c", "a"));
    }

    #[test]
    fn what_is_remembered_is_forgotten_when_the_rules_change() {
        let mut access = client("al");
        let (before, after) = (rules("user al\ntopic write a\n"), rules("user al\ntopic write b\n"));
        let force = |rules, epoch| InForce {
            rules: Some(rules),
            epoch,
        };
        assert!(access.may_publish(force(&before, 1), "c", "a"));
        assert!(access.may_publish(force(&before, 1), "c", "a"));
        assert!(!access.may_publish(force(&after, 2), "c", "a"));
        assert!(access.may_publish(force(&after, 2), "c", "b"));
        assert!(!access.may_publish(force(&after, 2), "c", "a"));
        assert!(!access.may_receive(force(&after, 2), "c", "b"));
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
        assert!(access.may_publish(force, "c", "t/c"));
        assert!(!access.may_publish(force, "c", "t/d"));
        assert!(!access.may_receive(force, "c", "t/c"));
        assert!(client("al").may_publish(force, "c", "t/d"));
    }
}

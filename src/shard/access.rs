//! What a client may do, asked where it does it.
//!
//! Without rules every question costs one branch. With rules it is asked when a message is published, when a filter is
//! subscribed to, when a message finds a session, and when one that waited is sent: a queue may be older than the rules, or
//! than the process. A session whose client has not been here since the process began is given messages unasked,
//! because nobody knows yet what it may have; they are judged when they are sent.

use super::Shard;
use super::connection::End;
use super::outbox::{Denial, Event, Outbox};
pub(super) use crate::access::May;
use crate::access::{Access, Identity, InForce, Rules};
use crate::protocol::ReasonCode;
use crate::session::SessionKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The least time between two log records about denials, in milliseconds.
const TELL_DENIALS_MS: u64 = 10_000;
/// What is said of a client whose line in the password file is gone, or another.
pub(super) const ACCOUNT_WITHDRAWN: &str = "its password was withdrawn";
/// Clients and topics that one log record names.
const NAMED_MAX: usize = 32;

/// The rules in force, and who they are for.
#[derive(Debug, Default)]
pub(super) struct Guard {
    rules: Option<Arc<Rules>>,
    /// Rules on trial: what they would deny is told, and permitted.
    shadow: Option<Arc<Rules>>,
    epoch: u32,
    /// The accounts that are no more.
    withdrawn: Arc<BTreeSet<u64>>,
    /// Whether there is anything to ask: rules, or a client with rules of its own.
    is_on: bool,
    /// By `SessionKey`; as long as the last session needs of whose client something is known.
    clients: Vec<Option<Box<Access>>>,
    /// Whose the recovered sessions are whose clients have not been here since.
    owners: BTreeMap<SessionKey, Box<str>>,
    /// What is to be told; it outlives its session.
    named: Vec<Denial>,
    unnamed: u64,
    tell_at_ms: u64,
}

impl Guard {
    /// Whether there is anything to ask.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// When the denials that were not told of yet are to be, in monotonic milliseconds; none when all were.
    pub(super) fn tells_at_ms(&self) -> Option<u64> {
        (!self.named.is_empty()).then_some(self.tell_at_ms)
    }

    /// Has what was denied until now told at once: nobody may be there to tell it later.
    pub(super) fn tell_now(&mut self) {
        self.tell_at_ms = 0;
    }

    /// Answers for a client that has no session yet.
    fn ask_as(&mut self, identity: &Identity, client_id: &str, may: May<'_>) -> bool {
        let force = InForce {
            rules: self.rules.as_deref(),
            epoch: 1,
        };
        let mut access = Access::new(identity.clone());
        let is_permitted = access.may(force, client_id, may);
        let news = self.news(&access, client_id, may, is_permitted);
        self.note(news);
        is_permitted
    }

    /// Answers for the client of a session that is connected, or was since the process began.
    fn ask(&mut self, session: SessionKey, client_id: &str, may: May<'_>) -> bool {
        let force = InForce {
            rules: self.rules.as_deref(),
            epoch: self.epoch,
        };
        let at = session.0 as usize;
        if at >= self.clients.len() {
            self.clients.resize_with(at + 1, || None);
        }
        let access =
            self.clients[at].get_or_insert_with(|| Box::new(Access::new(Identity::default())));
        let is_permitted = access.may(force, client_id, may);
        let asked = self.clients[at].as_deref().expect("it was just asked");
        let news = self.news(asked, client_id, may, is_permitted);
        self.note(news);
        is_permitted
    }

    /// What the operator is to know of an answer.
    fn news(
        &self,
        access: &Access,
        client_id: &str,
        may: May<'_>,
        is_permitted: bool,
    ) -> Option<Denial> {
        if is_permitted {
            let shadow = self.shadow.as_deref()?;
            return denial(shadow, access, client_id, may, true);
        }
        // What a client does not receive is filtered, as the rules want it, and no news.
        if matches!(may, May::Receive(_)) {
            return None;
        }
        let none = Rules::default();
        let rules = self.rules.as_deref().unwrap_or(&none);
        denial(rules, access, client_id, may, false)
    }

    /// Whether what let a client in is no more.
    pub(super) fn is_withdrawn(&self, identity: &Identity) -> bool {
        let mut account = identity.account.iter();
        account.any(|account| self.withdrawn.contains(account))
    }

    fn note(&mut self, denial: Option<Denial>) {
        let Some(denial) = denial else { return };
        let mut named = self.named.iter_mut();
        if let Some(same) = named.find(|it| it.is_as(&denial)) {
            same.count += 1;
        } else if self.named.len() < NAMED_MAX {
            self.named.push(denial);
        } else {
            self.unnamed += 1;
        }
    }
}

/// What the log is told when these rules deny something; none when they permit it.
fn denial(
    rules: &Rules,
    access: &Access,
    client_id: &str,
    may: May<'_>,
    is_shadow: bool,
) -> Option<Denial> {
    let (action, topic) = match may {
        May::Publish(topic) => ("publish to", topic),
        May::Receive(topic) => ("receive from", topic),
        May::Subscribe(filter) => ("subscribe to", filter),
    };
    let rule = access.deciding(rules, client_id, may);
    if access.identity().is_superuser || rule.as_ref().is_some_and(|rule| rule.effect.permits) {
        return None;
    }
    Some(Denial {
        client_id: client_id.into(),
        username: access.identity().username.clone(),
        action,
        topic: topic.into(),
        rule: rule.map(|rule| format!("{}: {rule}", rule.place).into()),
        is_shadow,
        count: 1,
    })
}

impl Shard {
    /// Other rules hold from now on, for whoever is connected too.
    pub(super) fn set_rules(&mut self, rules: Option<Arc<Rules>>, shadow: Option<Arc<Rules>>) {
        let guard = &mut self.guard;
        let has_own = |access: &Option<Box<Access>>| {
            let own = access
                .as_ref()
                .map(|access| access.identity().rules.is_some());
            own.unwrap_or(false)
        };
        guard.is_on = rules.is_some() || shadow.is_some() || guard.clients.iter().any(has_own);
        guard.rules = rules;
        guard.shadow = shadow;
        // It is 0 for a client that was never asked about.
        guard.epoch = guard.epoch.checked_add(1).unwrap_or(1);
    }

    /// These accounts are no more: whom they let in has to go.
    pub(super) fn withdraw(&mut self, accounts: Arc<BTreeSet<u64>>, outbox: &mut Outbox) {
        self.guard.withdrawn = accounts;
        let clients = self.guard.clients.iter().enumerate();
        let gone: Vec<_> = clients
            .filter(|(_, access)| {
                let access = access.as_deref();
                access.is_some_and(|access| self.guard.is_withdrawn(access.identity()))
            })
            .filter_map(|(at, _)| self.sessions[at].conn)
            .collect();
        for conn in gone {
            let end = End::new(ReasonCode::NotAuthorized, ACCOUNT_WITHDRAWN);
            self.end_connection(conn, end, outbox);
        }
    }

    /// Whether the client of a connected session may do this.
    pub(super) fn may(&mut self, session: SessionKey, may: May<'_>) -> bool {
        if !self.guard.is_on {
            return true;
        }
        let client_id = &self.sessions[session.0 as usize].client_id;
        self.guard.ask(session, client_id, may)
    }

    /// Whether a client that has no session yet may do this.
    pub(super) fn may_as(&mut self, identity: &Identity, client_id: &str, may: May<'_>) -> bool {
        // Rules of its own are none of the broker's yet.
        let is_asked = self.guard.is_on || identity.rules.is_some();
        !is_asked || self.guard.ask_as(identity, client_id, may)
    }

    /// Whether a message with this Topic Name may go to a session, be its client here or not.
    pub(super) fn may_have(&mut self, session: SessionKey, topic: &str) -> bool {
        if !self.guard.is_on {
            return true;
        }
        let (guard, sessions) = (&mut self.guard, &self.sessions);
        may_have(guard, sessions, session, topic)
    }

    /// A client has a session. Who it was before does not matter any more.
    pub(super) fn set_identity(&mut self, session: SessionKey, identity: Identity) {
        let guard = &mut self.guard;
        guard.owners.remove(&session);
        guard.is_on |= identity.rules.is_some();
        let at = session.0 as usize;
        if identity == Identity::default() && !guard.is_on {
            // Nobody in particular, with nothing to ask about.
            self.forget_identity(session);
            return;
        }
        if at >= guard.clients.len() {
            guard.clients.resize_with(at + 1, || None);
        }
        guard.clients[at] = Some(Box::new(Access::new(identity)));
    }

    /// The session has ended; its number may be given to another.
    pub(super) fn forget_identity(&mut self, session: SessionKey) {
        self.guard.owners.remove(&session);
        if let Some(client) = self.guard.clients.get_mut(session.0 as usize) {
            *client = None;
        }
    }

    /// The session was recovered; this User Name began it. What else its client may do is not known before it comes.
    pub(super) fn set_owner(&mut self, session: SessionKey, username: Box<str>) {
        self.guard.owners.insert(session, username);
    }

    /// The User Name of the client that has, or last had, a session; the outer none when nobody knows.
    #[expect(
        clippy::option_option,
        reason = "a client without a name is somebody else than an unknown one"
    )]
    pub(super) fn owner_of(&self, session: SessionKey) -> Option<Option<&str>> {
        let guard = &self.guard;
        match guard.clients.get(session.0 as usize) {
            Some(Some(access)) => Some(access.identity().username.as_deref()),
            _ => guard.owners.get(&session).map(|owner| Some(&**owner)),
        }
    }

    /// Tells the operator what was denied, or would be, and by which rule.
    pub(super) fn tell_denials(&mut self, outbox: &mut Outbox) {
        let guard = &mut self.guard;
        if guard
            .tells_at_ms()
            .is_none_or(|at_ms| self.now.mono_ms < at_ms)
        {
            return;
        }
        guard.tell_at_ms = self.now.mono_ms + TELL_DENIALS_MS;
        outbox.events.push(Event::Denied {
            denials: std::mem::take(&mut guard.named).into(),
            more: std::mem::take(&mut guard.unnamed),
        });
    }
}

/// As [`Shard::may_have`], while other parts of the shard are lent out.
pub(super) fn may_have(
    guard: &mut Guard,
    sessions: &slab::Slab<crate::session::Session>,
    session: SessionKey,
    topic: &str,
) -> bool {
    if !guard.is_on {
        return true;
    }
    let found = &sessions[session.0 as usize];
    let is_known = guard
        .clients
        .get(session.0 as usize)
        .is_some_and(Option::is_some);
    if found.conn.is_none() && !is_known {
        return true;
    }
    guard.ask(session, &found.client_id, May::Receive(topic))
}

//! Between the shard and those who judge clients.

use super::{Driver, StateMachine};
use crate::access::RulesInForce;
use crate::auth::verifier::Task;
use crate::config::listener::AuthMethod;
use crate::protocol::ReasonCode;
use crate::shard::credentials::{Demand, Verdict};
use crate::shard::input::{ConnKey, Input};
use std::mem::take;
use std::sync::Arc;

/// Verdicts that a turn passes on: clients that wait for the same one are let in together, thousands after a power cut, and each has
/// to be written to.
const VERDICTS_PER_TURN: usize = 128;

impl<S: StateMachine> Driver<S> {
    /// Tells the shard what the listener of a new connection demands.
    pub(super) fn demand(&mut self, conn: ConnKey) {
        let demand = match self.auth_method(conn) {
            AuthMethod::Anonymous => return,
            AuthMethod::Certificate => Demand::Certificate,
            AuthMethod::Password | AuthMethod::Jwt | AuthMethod::Http => Demand::Proof,
        };
        self.tell(Input::Demanded { conn, demand });
    }

    fn auth_method(&self, conn: ConnKey) -> AuthMethod {
        let listening = &self.listeners[usize::from(self.sockets.listener(conn))];
        let method = listening.listener.door().spec().auth;
        method.unwrap_or(AuthMethod::Anonymous)
    }

    /// Passes on what the shard asks, and answers at once what can be.
    pub(super) fn ask_about_clients(&mut self) {
        for request in take(&mut self.outbox.auth) {
            let conn = request.conn;
            if self.sockets.get(conn).is_none() {
                continue;
            }
            let door = self.listeners[usize::from(self.sockets.listener(conn))]
                .listener
                .door();
            let task = Task {
                request,
                method: self.auth_method(conn),
                listener: door.spec().name.as_str().into(),
                peer: self.peer(conn).map(|peer| peer.ip()),
            };
            let verdict = match &self.auth {
                Some(auth) => auth.submit(task),
                None => Some(Verdict::Refused {
                    reason: ReasonCode::ServerUnavailable,
                    what: "nobody is here to judge clients",
                }),
            };
            if let Some(verdict) = verdict {
                self.tell(Input::Verdict { conn, verdict });
            }
        }
    }

    /// Tells the shard what was judged.
    pub(super) fn drain_auth(&mut self) -> bool {
        let verdicts = match &self.auth {
            Some(auth) => auth.poll(VERDICTS_PER_TURN),
            None => return false,
        };
        let is_busy = !verdicts.is_empty();
        for (conn, verdict) in verdicts {
            self.tell(Input::Verdict { conn, verdict });
            self.flush_if_much_was_fed();
        }
        is_busy
    }

    /// Tells the shard of other rules.
    pub(super) fn tell_rules(&mut self, next: RulesInForce) {
        let is_same = |a: &Option<Arc<_>>, b: &Option<Arc<_>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if is_same(&self.rules.rules, &next.rules) && is_same(&self.rules.shadow, &next.shadow) {
            return;
        }
        self.rules = next.clone();
        let RulesInForce { rules, shadow } = next;
        self.tell(Input::Rules { rules, shadow });
    }
}

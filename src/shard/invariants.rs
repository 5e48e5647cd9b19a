//! What must hold between two inputs, looked at all at once: for tests, because it costs a look at everything.

use super::Shard;
use super::connection::Stage;
use super::fan_out::FanOut;
use super::input::ConnKey;
use super::timer::TimerKind;
use crate::session::SessionKey;

impl Shard {
    /// Asserts invariants 1, 2 and 5 of this module, and the accounts of every queue and window.
    ///
    /// Panics: when one does not hold. Cost: linear in all that the shard holds.
    pub fn check_invariants(&self) {
        for (index, conn) in self.conns.iter().enumerate() {
            if conn.stage == Stage::Open {
                let key = ConnKey {
                    index: index as u32,
                    generation: conn.generation,
                };
                let session = self.sessions.get(conn.session.0 as usize);
                let session = session.expect("an open connection has a session");
                assert_eq!(
                    session.conn,
                    Some(key),
                    "the session has another connection"
                );
            }
        }
        let outbounds = self.conns.iter().filter_map(|conn| conn.outbound.as_ref());
        let runs: usize = outbounds.map(|outbound| outbound.runs()).sum();
        let under_way: usize = self.fan_outs.iter().map(FanOut::held).sum();
        let holders = self.pool.pages.holders();
        assert_eq!(holders, runs + under_way, "a page has other holders");
        for fan_out in &self.fan_outs {
            fan_out.check_invariants(&self.sessions);
        }
        assert_eq!(self.client_ids.len(), self.sessions.len());
        let queues = self
            .sessions
            .iter()
            .filter_map(|(_, session)| session.state.as_ref());
        let queued_bytes: usize = queues.map(|state| state.queue.bytes()).sum();
        assert_eq!(
            self.queued_bytes, queued_bytes as u64,
            "the account of all queues"
        );
        let waits = self.keeper.waits.iter();
        assert!(waits.clone().is_sorted_by_key(|(record, _)| *record));
        for (record, _) in waits {
            assert!(*record > self.keeper.committed && *record <= self.keeper.emitted);
        }
        self.assert_scratch_is_empty();
        assert!(self.keeper.answers.is_empty(), "an answer was not sent");
        assert_eq!(self.counters.acked_not_durable, 0);
        for (key, session) in &self.sessions {
            let key = SessionKey(key as u32);
            assert_eq!(self.placement.owner(&session.client_id), self.id);
            assert_eq!(self.find_session(&session.client_id), Some(key));
            let receive_maximum = session.conn.map(|conn| {
                let conn = self.conn(conn).expect("a session's connection lives");
                assert!(conn.stage == Stage::Open && conn.session == key);
                usize::from(conn.receive_maximum)
            });
            let subscriptions_max = self.limits.subscriptions_per_session_max as usize;
            assert!(session.subscriptions.len() <= subscriptions_max);
            assert!(
                self.keeper.is_on() || session.stored == 0,
                "stored without a store"
            );
            // One that is stored may be about to end with its connection.
            let outlives = self.keeper.is_on() && session.expiry_s > 0;
            assert!(session.stored != 0 || !outlives);
            let Some(state) = &session.state else {
                continue;
            };
            assert!(session.stored != 0 || state.on_hold.is_empty() && !state.is_fetching);
            state.queue.check_invariants();
            state.inflight.check_invariants();
            // After a restart the queue has what was in flight too, and what was acknowledged while the disk was slow.
            if session.stored == 0 {
                assert!(state.queue.len() <= self.limits.queue_messages_max as usize);
                assert!(state.queue.bytes() <= self.limits.queue_bytes_max as usize);
            }
            let sent_max = receive_maximum.unwrap_or(usize::MAX);
            assert!(
                state.inflight.sent_count() <= sent_max,
                "more in flight than allowed"
            );
        }
        self.check_timers();
        let sequences = self.pending_subacks.iter().map(|suback| suback.sequence);
        assert!(
            sequences.is_sorted(),
            "SUBACKs wait in the order of their announcements"
        );
    }
    /// Each timer of a connection or a session is known to it, and none is left of those that are gone.
    fn check_timers(&self) {
        let conns = self.conns.iter().enumerate();
        let conns = conns.filter_map(|(index, conn)| Some((index, conn.generation, conn.timer?)));
        let sessions = self.sessions.iter();
        let sessions = sessions.filter_map(|(index, session)| Some((index, 0, session.timer?)));
        let owners: [(_, Vec<_>); 2] = [
            (TimerKind::Connection, conns.collect()),
            (TimerKind::Session, sessions.collect()),
        ];
        for (kind, owners) in owners {
            for (index, generation, id) in &owners {
                let timer = self.wheel.timer(*id);
                let has = (timer.kind, timer.index as usize, timer.generation);
                assert_eq!(has, (kind, *index, *generation));
            }
            assert_eq!(
                self.wheel.count(kind),
                owners.len(),
                "{kind:?}: one is gone"
            );
        }
    }
}

//! Writing a batch: one transaction, prepared statements, each table in the order of its keys.

use super::batch::{Batch, NewMessage, SessionPart, part_of};
use super::codec::{acks_text, expiry_to_wall, optional, receivers_text, sql};
use super::remembered::Remembered;
use crate::config::limits::QUEUE_HOLD_MS_MAX;
use crate::shard::record::{OutgoingStep, Receiver, SessionRecord, StoredMessage, StoredSession};
use crate::topic::retained::TOMBSTONES_MAX;
use rusqlite::{Connection, Result, Statement, params};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// How long an end is remembered whose message has not come. The answer of one shard may wait for queues while a receiver on another has
/// acknowledged.
const EARLY: Duration = Duration::from_secs(61 * 60);
const _: () = assert!(EARLY.as_millis() > QUEUE_HOLD_MS_MAX as u128);

/// How long something else is remembered that a record on its way may still need, which takes milliseconds.
const LATELY: Duration = Duration::from_secs(60);
/// Of how many cleared topics and ended sessions the older are forgotten sooner: in the milliseconds that matter there are far fewer. No
/// more cleared topics are remembered than the retained index does.
const CLEARED_COUNT_MAX: usize = TOMBSTONES_MAX / 2;
const ENDED_COUNT_MAX: usize = 500_000;

/// Messages between those to be removed, beside as many as these, after which the others are looked for one by one.
const STRANGERS_MAX: usize = 64;

/// What the writer knows by heart about the rows. Bounds: 24 bytes for each message with more than one receiver, 16
/// for each row of `done`, and what happened lately.
#[derive(Debug)]
pub(super) struct Kept {
    /// Messages that several receivers wait for, and how many still do.
    pub(super) shared: BTreeMap<StoredMessage, u32>,
    /// The rows of `done`: sequence number, greatest message number.
    pub(super) done: VecDeque<(u64, StoredMessage)>,
    /// The last sequence number given to one. None is given twice: a sweep on its way will remove the rows up to that which it has read.
    done_seq: u64,
    /// Pairs in the rows of `done`.
    pub(super) done_parts: u64,
    /// Ends whose message has not come yet.
    pub(super) early: Remembered<StoredMessage, Vec<SessionPart>>,
    /// The stamps of cleared topics.
    pub(super) cleared: Remembered<Box<str>, u64>,
    /// Sessions that ended since the last sweep: messages may still name them.
    pub(super) gone: BTreeSet<StoredSession>,
    /// Sessions that ended lately: what another shard says of them may come after their end, and counts no more.
    pub(super) ended: Remembered<StoredSession, ()>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            shared: BTreeMap::new(),
            done: VecDeque::new(),
            done_seq: 0,
            done_parts: 0,
            early: Remembered::new(EARLY, usize::MAX),
            cleared: Remembered::new(LATELY, CLEARED_COUNT_MAX),
            gone: BTreeSet::new(),
            ended: Remembered::new(LATELY, ENDED_COUNT_MAX),
        }
    }
}

/// What a transaction will have changed in [`Kept`] once it is committed.
#[derive(Debug, Default)]
struct Delta {
    shared: Vec<(StoredMessage, u32)>,
    early: Vec<(StoredMessage, Vec<SessionPart>)>,
    done: Option<(u64, StoredMessage)>,
    acks: Vec<(StoredMessage, Vec<SessionPart>)>,
    done_until: Option<u64>,
    cleared: Vec<(Box<str>, u64)>,
}

/// Rows written and removed by a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// Messages written.
    pub(super) messages: u64,
    /// Messages that were done before they were written.
    pub(super) annihilated: u64,
}

/// The tables, open for writing.
pub(super) struct Tables<'c> {
    pub(super) conn: &'c Connection,
    pub(super) kept: Kept,
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    session: Statement<'c>,
    session_ended: [Statement<'c>; 4],
    subscribed: Statement<'c>,
    unsubscribed: Statement<'c>,
    message: Statement<'c>,
    message_ids: Statement<'c>,
    message_ended: Statement<'c>,
    messages_ended: Statement<'c>,
    done: Statement<'c>,
    done_until: Statement<'c>,
    outgoing: Statement<'c>,
    outgoing_ended: Statement<'c>,
    incoming: Statement<'c>,
    incoming_ended: Statement<'c>,
    retained: Statement<'c>,
    retained_cleared: Statement<'c>,
}

impl<'c> Tables<'c> {
    /// Prepares the statements; `kept` is what loading has found.
    pub(super) fn new(conn: &'c Connection, mut kept: Kept) -> Result<Self> {
        kept.done_seq = kept.done.back().map_or(0, |(seq, _)| *seq);
        let prepare = |text: &str| conn.prepare(text);
        Ok(Self {
            conn,
            kept,
            begin: prepare("BEGIN IMMEDIATE")?,
            commit: prepare("COMMIT")?,
            rollback: prepare("ROLLBACK")?,
            session: prepare("REPLACE INTO session VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)")?,
            session_ended: [
                prepare("DELETE FROM session WHERE id = ?1")?,
                prepare("DELETE FROM subscription WHERE session = ?1")?,
                prepare("DELETE FROM outgoing WHERE session = ?1")?,
                prepare("DELETE FROM incoming WHERE session = ?1")?,
            ],
            subscribed: prepare("REPLACE INTO subscription VALUES (?1,?2,?3,?4)")?,
            unsubscribed: prepare("DELETE FROM subscription WHERE session = ?1 AND filter = ?2")?,
            message: prepare("INSERT INTO msg VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)")?,
            message_ids: prepare("SELECT id FROM msg WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?,
            message_ended: prepare("DELETE FROM msg WHERE id = ?1")?,
            messages_ended: prepare("DELETE FROM msg WHERE id BETWEEN ?1 AND ?2")?,
            done: prepare("INSERT INTO done VALUES (?1,?2,?3)")?,
            done_until: prepare("DELETE FROM done WHERE seq <= ?1")?,
            outgoing: prepare("REPLACE INTO outgoing VALUES (?1,?2,?3,?4)")?,
            outgoing_ended: prepare("DELETE FROM outgoing WHERE session = ?1 AND packet_id = ?2")?,
            incoming: prepare("INSERT OR IGNORE INTO incoming VALUES (?1,?2)")?,
            incoming_ended: prepare("DELETE FROM incoming WHERE session = ?1 AND packet_id = ?2")?,
            // Records of different shards come in any order: the greater stamp wins.
            retained: prepare(
                "INSERT INTO retained VALUES (?1,?2,?3,?4,?5,?6,?7) ON CONFLICT(topic) DO UPDATE SET
                 stamp = excluded.stamp, number = excluded.number, expires_at = excluded.expires_at, qos = excluded.qos,
                 properties = excluded.properties, payload = excluded.payload WHERE excluded.stamp > stamp",
            )?,
            retained_cleared: prepare("DELETE FROM retained WHERE topic = ?1 AND stamp < ?2")?,
        })
    }

    /// Writes the batch in one transaction. If it fails nothing has changed. An empty batch writes something too: it
    /// tries the disk. `wall_ms` is for people; how long something is remembered must not hang on a clock that can be set.
    pub(super) fn write(&mut self, batch: &mut Batch, wall_ms: u64, now: Instant) -> Result<Rows> {
        batch.sort();
        let batch = &*batch;
        let (delta, rows) = self.transaction(|tables| {
            if batch.is_empty() {
                tables
                    .conn
                    .pragma_update(None, "user_version", super::schema::VERSION as u32)?;
            }
            tables.apply(batch, wall_ms)
        })?;
        self.kept.merge(batch, delta, now);
        Ok(rows)
    }

    /// Writes a batch within a transaction of the caller's, which is to end with the use of this if it fails or is rolled back: what is gone
    /// then was taken for written here.
    pub(super) fn write_part(
        &mut self,
        batch: &mut Batch,
        wall_ms: u64,
        now: Instant,
    ) -> Result<()> {
        batch.sort();
        let (delta, _) = self.apply(batch, wall_ms)?;
        self.kept.merge(batch, delta, now);
        Ok(())
    }

    /// Does `work` in a transaction.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.begin.execute([])?;
        let result = work(self).and_then(|value| self.commit.execute([]).map(|_| value));
        if result.is_err() && !self.conn.is_autocommit() {
            // What made the transaction fail is the news.
            let _ = self.rollback.execute([]);
        }
        result
    }

    fn apply(&mut self, batch: &Batch, wall_ms: u64) -> Result<(Delta, Rows)> {
        for session in batch.sessions.values() {
            if !batch.sessions_ended.contains(&session.session) {
                self.write_session(session)?;
            }
        }
        let lives = |session: &StoredSession| !batch.sessions_ended.contains(session);
        for ((session, filter), subscription) in &batch.subscriptions {
            match subscription {
                Some((options, id)) if lives(session) => self.subscribed.execute(params![
                    sql(session.0),
                    filter,
                    options,
                    id.map(|id| id.get())
                ])?,
                Some(_) => 0,
                None => self.unsubscribed.execute(params![sql(session.0), filter])?,
            };
        }
        for (session, packet_id) in &batch.incoming_ended {
            self.incoming_ended
                .execute(params![sql(session.0), packet_id.get()])?;
        }
        let mut delta = Delta::default();
        // Shards interleave, so the numbers of a batch are nearly in order.
        let mut messages: Vec<&NewMessage> = batch.messages.iter().collect();
        messages.sort_unstable_by_key(|new| new.id);
        let rows = self.write_messages(batch, &messages, &mut delta, wall_ms)?;
        self.end_messages(batch, &messages, &mut delta)?;
        for ((session, packet_id), step) in &batch.outgoing {
            let (message, part) = match step {
                Some(_) if !lives(session) => continue,
                Some(OutgoingStep::Published(message, part)) => (Some(sql(message.0)), part.bits()),
                Some(OutgoingStep::Released) => (None, 0),
                None => {
                    self.outgoing_ended
                        .execute(params![sql(session.0), packet_id.get()])?;
                    continue;
                }
            };
            self.outgoing
                .execute(params![sql(session.0), packet_id.get(), message, part])?;
        }
        self.write_retained(batch, &mut delta)?;
        for session in &batch.sessions_ended {
            for statement in &mut self.session_ended {
                statement.execute([sql(session.0)])?;
            }
        }
        Ok((delta, rows))
    }

    fn write_session(&mut self, record: &SessionRecord) -> Result<()> {
        let will = record.will.as_ref();
        let message = will.map(|will| &will.message);
        self.session.execute(params![
            sql(record.session.0),
            record.client_id,
            record.expiry_s,
            record.disconnected_at_ms.map(sql),
            record.queue_full,
            will.map(|will| will.delay_s),
            will.and_then(|will| will.message_expiry_s),
            message.map(|message| message.qos() as u8),
            message.map(|message| message.retain()),
            message.map(|message| message.topic()),
            message.and_then(|message| optional(message.properties())),
            message.map(|message| message.payload()),
            record.username,
        ])?;
        Ok(())
    }

    fn write_messages(
        &mut self,
        batch: &Batch,
        messages: &[&NewMessage],
        delta: &mut Delta,
        wall_ms: u64,
    ) -> Result<Rows> {
        let mut rows = Rows::default();
        for new in messages {
            if let Some((session, packet_id)) = new.received_from
                && !batch.sessions_ended.contains(&session)
            {
                self.incoming
                    .execute(params![sql(session.0), packet_id.get()])?;
            }
            let receivers = self.receivers_left(new, batch);
            if receivers.is_empty() {
                rows.annihilated += u64::from(!new.receivers.is_empty());
                continue;
            }
            let message = &new.message;
            self.message.execute(params![
                sql(new.id.0),
                receivers_text(&receivers),
                sql(wall_ms),
                expiry_to_wall(message.expires_at_ms(), new.wall_minus_mono_ms),
                message.qos() as u8,
                message.retain(),
                (message.stamp() != 0).then(|| sql(message.stamp())),
                message.topic(),
                optional(message.properties()),
                message.payload(),
            ])?;
            rows.messages += 1;
            if receivers.len() > 1 {
                let left = u32::try_from(receivers.len()).expect("sessions are fewer than 2^32");
                delta.shared.push((new.id, left));
            }
        }
        Ok(rows)
    }

    /// Who still waits for a new message.
    fn receivers_left<'m>(&self, new: &'m NewMessage, batch: &Batch) -> Cow<'m, [Receiver]> {
        let now = batch.ended_of(new.id);
        let early = self.kept.early.get(&new.id);
        if now.is_empty()
            && early.is_none()
            && batch.sessions_ended.is_empty()
            && self.kept.gone.is_empty()
            && self.kept.ended.is_empty()
        {
            return Cow::Borrowed(&new.receivers);
        }
        let now = now.iter().map(|(_, part)| part);
        let done: BTreeSet<_> = now.chain(early.into_iter().flatten()).collect();
        let left = new.receivers.iter().filter(|receiver| {
            let session = &receiver.session;
            !done.contains(&part_of(receiver))
                && !batch.sessions_ended.contains(session)
                && !self.kept.gone.contains(session)
                && !self.kept.ended.contains(session)
        });
        Cow::Owned(left.cloned().collect())
    }

    /// Removes the messages that nobody waits for any more, and notes who is done with the others.
    fn end_messages(
        &mut self,
        batch: &Batch,
        messages: &[&NewMessage],
        delta: &mut Delta,
    ) -> Result<()> {
        let mut over = Vec::new();
        for parts in batch.ended.chunk_by(|one, other| one.0 == other.0) {
            let id = parts[0].0;
            if messages.binary_search_by_key(&id, |new| new.id).is_ok() {
                continue;
            }
            let count = self.still_there(parts).count();
            if count == 0 {
                continue;
            }
            if let Some(&left) = self.kept.shared.get(&id) {
                let left = left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
                delta.shared.push((id, left));
                if left > 0 {
                    delta.acks.push((id, self.still_there(parts).collect()));
                    continue;
                }
            }
            over.push(id);
        }
        for id in self.remove_messages(&over)? {
            let parts = self.still_there(batch.ended_of(id)).collect();
            delta.early.push((id, parts));
        }
        if let Some(newest) = delta.acks.iter().map(|(id, _)| *id).max() {
            let seq = self.kept.done_seq + 1;
            self.done
                .execute(params![sql(seq), sql(newest.0), acks_text(&delta.acks)])?;
            delta.done = Some((seq, newest));
        }
        self.prune_done(delta)
    }

    /// Those of sessions that have not ended: the part of one that has went with it, or goes with the next sweep.
    fn still_there<'p>(
        &self,
        parts: &'p [(StoredMessage, SessionPart)],
    ) -> impl Iterator<Item = SessionPart> + use<'p, '_> {
        let parts = parts.iter().map(|(_, part)| *part);
        parts.filter(|(session, _)| !self.kept.ended.contains(session))
    }

    /// Removes messages, by ascending number, and returns those that are not there. What stands side by side goes at once, for a third of
    /// what it costs one by one.
    fn remove_messages(&mut self, over: &[StoredMessage]) -> Result<Vec<StoredMessage>> {
        let mut missing = Vec::new();
        let mut runs: Vec<(i64, i64)> = Vec::new();
        let mut at = 0;
        if let [first, .., last] = over {
            let mut rows = self.message_ids.query([sql(first.0), sql(last.0)])?;
            let (mut goes_on, mut strangers) = (false, 0);
            while let Some(row) = rows.next()? {
                let id: i64 = row.get(0)?;
                while sql(over[at].0) < id {
                    missing.push(over[at]);
                    at += 1;
                }
                if sql(over[at].0) == id {
                    at += 1;
                    match runs.last_mut() {
                        Some((_, end)) if goes_on => *end = id,
                        _ => runs.push((id, id)),
                    }
                    goes_on = true;
                } else {
                    goes_on = false;
                    strangers += 1;
                    if strangers > STRANGERS_MAX + at {
                        break;
                    }
                }
            }
        }
        for (first, last) in runs {
            self.messages_ended.execute([first, last])?;
        }
        for id in &over[at..] {
            if self.message_ended.execute([sql(id.0)])? == 0 {
                missing.push(*id);
            }
        }
        Ok(missing)
    }

    /// Removes the rows of `done` whose messages are all gone.
    fn prune_done(&mut self, delta: &mut Delta) -> Result<()> {
        if self.kept.done.is_empty() {
            return Ok(());
        }
        let ended: BTreeSet<_> = delta
            .shared
            .iter()
            .filter(|(_, left)| *left == 0)
            .map(|(id, _)| id)
            .collect();
        // What is new in this transaction is in no row yet.
        let oldest = self.kept.shared.keys().find(|id| !ended.contains(id));
        let is_over = |newest: &StoredMessage| oldest.is_none_or(|oldest| newest < oldest);
        let over = self
            .kept
            .done
            .iter()
            .take_while(|(_, newest)| is_over(newest));
        delta.done_until = over.last().map(|(seq, _)| *seq);
        if let Some(seq) = delta.done_until {
            self.done_until.execute([sql(seq)])?;
        }
        Ok(())
    }

    fn write_retained(&mut self, batch: &Batch, delta: &mut Delta) -> Result<()> {
        for (topic, (message, wall_minus_mono_ms)) in &batch.retained {
            let cleared = self.kept.cleared.get(topic);
            if cleared.is_some_and(|stamp| *stamp >= message.stamp()) {
                continue;
            }
            let stamp = sql(message.stamp());
            if message.payload().is_empty() {
                self.retained_cleared.execute(params![topic, stamp])?;
                delta.cleared.push((topic.clone(), message.stamp()));
                continue;
            }
            self.retained.execute(params![
                topic,
                stamp,
                sql(message.number()),
                expiry_to_wall(message.expires_at_ms(), *wall_minus_mono_ms),
                message.qos() as u8,
                optional(message.properties()),
                message.payload(),
            ])?;
        }
        Ok(())
    }
}

impl Kept {
    /// A message was refused: nothing waits for it.
    pub(super) fn forget(&mut self, message: StoredMessage) {
        self.early.remove(&message);
    }

    /// Takes over what a transaction has changed.
    fn merge(&mut self, batch: &Batch, delta: Delta, now: Instant) {
        for (id, left) in delta.shared {
            if left == 0 {
                self.shared.remove(&id);
            } else {
                self.shared.insert(id, left);
            }
        }
        if let Some(row) = delta.done {
            self.done_seq = row.0;
            self.done.push_back(row);
            self.done_parts += delta
                .acks
                .iter()
                .map(|(_, parts)| parts.len() as u64)
                .sum::<u64>();
        }
        if let Some(until) = delta.done_until {
            while self.done.front().is_some_and(|(seq, _)| *seq <= until) {
                self.done.pop_front();
            }
            if self.done.is_empty() {
                self.done_parts = 0;
            }
        }
        if !self.early.is_empty() {
            for new in &batch.messages {
                self.early.remove(&new.id);
            }
        }
        for (id, mut parts) in delta.early {
            parts.extend(self.early.remove(&id).unwrap_or_default());
            self.early.insert(id, parts, now);
        }
        for (topic, stamp) in delta.cleared {
            self.cleared.insert(topic, stamp, now);
        }
        self.gone.extend(&batch.sessions_ended);
        for session in &batch.sessions_ended {
            self.ended.insert(*session, (), now);
        }
        self.forget_old(now);
    }

    /// Forgets what no record on its way can need any more.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.early.forget_old(now);
        self.cleared.forget_old(now);
        self.ended.forget_old(now);
    }
}

//! Taking out of the stored messages the receivers that are gone, piece by piece: while there is nothing else to do, and beside
//! work when that lasts.
//!
//! A session that ended stays among the receivers of its messages, because finding them would take an index on a hot table; and
//! a message that one receiver never fetches keeps the rows of `done` behind it. A sweep goes once through `msg`, writes
//! anew the receivers of each row that names somebody who is gone or done, and then removes the rows of `done` that it has
//! made superfluous. Rows that come meanwhile name nobody who is gone.

use super::batch::{Batch, SessionPart, part_of};
use super::codec::{each_list, each_receiver, receivers_text, sql};
use super::tables::{Kept, Tables};
use crate::shard::record::{Part, Receiver, StoredMessage, StoredSession};
use rusqlite::{Result, params};
use std::collections::{BTreeSet, HashSet};

/// Rows looked at in one transaction.
const ROWS: u32 = 500;
/// The same of a sweep, which in the test of the model has few rows.
const SWEPT_ROWS: u32 = if cfg!(test) { 3 } else { ROWS };
/// Pairs in `done` above which they are swept even if no session ended.
const DONE_PARTS: u64 = 200_000;
/// Sessions that ended above which a sweep waits for nothing.
const GONE: usize = 10_000;

/// Who is done with which message.
pub(super) type Done = HashSet<(StoredMessage, SessionPart)>;

/// Whether so much has gathered that it costs memory.
pub(super) fn is_much(kept: &Kept) -> bool {
    kept.gone.len() >= GONE || kept.done_parts >= DONE_PARTS
}

/// A sweep on its way.
pub(super) struct Sweep {
    gone: BTreeSet<StoredSession>,
    done: Done,
    /// The rows of `done` that it will have made superfluous.
    done_until: u64,
    /// The last row looked at.
    at: StoredMessage,
}

impl Sweep {
    /// Begins a sweep if one is worth while.
    pub(super) fn begin(tables: &Tables<'_>) -> Option<Self> {
        let kept = &tables.kept;
        if kept.gone.is_empty() && kept.done_parts < DONE_PARTS {
            return None;
        }
        let mut done = Done::default();
        // What cannot be read keeps its messages, and costs space only.
        let done_until = read_done(tables.conn, |_, _, acks| {
            add_acks(&mut done, acks);
        })
        .unwrap_or(0);
        Some(Self {
            gone: kept.gone.clone(),
            done,
            done_until,
            at: StoredMessage(0),
        })
    }

    /// Takes note of what was committed meanwhile: of rows that others still wait for, and that are to be looked at.
    pub(super) fn note(&mut self, batch: &Batch, kept: &Kept) {
        let at = self.at;
        let ended = batch.ended.iter();
        let ended = ended.filter(|(id, _)| *id > at && kept.shared.contains_key(id));
        self.done.extend(ended);
    }

    /// Looks at the next rows, and returns whether there are more.
    pub(super) fn step(&mut self, tables: &mut Tables<'_>) -> Result<bool> {
        let mut rows = Vec::new();
        let mut select = tables
            .conn
            .prepare("SELECT id, receivers FROM msg WHERE id > ?1 ORDER BY id LIMIT ?2")?;
        let mut found = select.query(params![sql(self.at.0), SWEPT_ROWS])?;
        while let Some(row) = found.next()? {
            let id = StoredMessage(super::codec::number_at(row, 0)?);
            let mut receivers = Vec::new();
            // A damaged row is for `ringmq store check`.
            if each_receiver(row.get_ref(1)?.as_str()?, |receiver| {
                receivers.push(receiver)
            }) {
                rows.push((id, receivers));
            }
            self.at = id;
        }
        drop(found);
        drop(select);
        if rows.is_empty() {
            self.end(tables)?;
            return Ok(false);
        }
        let mut changed = Vec::new();
        for (id, receivers) in rows {
            let left = self.left(id, &receivers);
            if left.len() != receivers.len() {
                changed.push((id, left));
            }
        }
        if changed.is_empty() {
            return Ok(true);
        }
        tables.transaction(|tables| {
            let mut delete = tables.conn.prepare("DELETE FROM msg WHERE id = ?1")?;
            let mut update = tables
                .conn
                .prepare("UPDATE msg SET receivers = ?2 WHERE id = ?1")?;
            for (id, left) in &changed {
                if left.is_empty() {
                    delete.execute([sql(id.0)])?;
                } else {
                    update.execute(params![sql(id.0), receivers_text(left)])?;
                }
            }
            Ok(())
        })?;
        for (id, left) in changed {
            if left.len() > 1 {
                tables.kept.shared.insert(id, left.len() as u32);
            } else {
                tables.kept.shared.remove(&id);
            }
        }
        Ok(true)
    }

    fn left(&self, id: StoredMessage, receivers: &[Receiver]) -> Vec<Receiver> {
        let is_left = |receiver: &&Receiver| {
            !self.gone.contains(&receiver.session) && !self.done.contains(&(id, part_of(receiver)))
        };
        receivers.iter().filter(is_left).cloned().collect()
    }

    fn end(&mut self, tables: &mut Tables<'_>) -> Result<()> {
        let until = self.done_until;
        tables.transaction(|tables| {
            tables
                .conn
                .execute("DELETE FROM done WHERE seq <= ?1", [sql(until)])
        })?;
        let kept = &mut tables.kept;
        while kept.done.front().is_some_and(|(seq, _)| *seq <= until) {
            kept.done.pop_front();
        }
        kept.done_parts = 0;
        kept.gone.retain(|session| !self.gone.contains(session));
        Ok(())
    }
}

/// Removes some retained messages that have expired long ago, and returns after which topic to go on; `None` at the end.
///
/// A shard forgets them without a record; this only gives the space back.
pub(super) fn remove_expired(
    tables: &mut Tables<'_>,
    after: &str,
    before_ms: u64,
) -> Result<Option<String>> {
    let mut last = None;
    let mut expired = Vec::new();
    {
        let mut select = tables.conn.prepare(
            "SELECT topic, expires_at < ?2 FROM retained WHERE topic > ?1 ORDER BY topic LIMIT ?3",
        )?;
        let mut rows = select.query(params![after, sql(before_ms), ROWS])?;
        while let Some(row) = rows.next()? {
            let topic: String = row.get(0)?;
            if row.get::<_, Option<bool>>(1)? == Some(true) {
                expired.push(topic.clone());
            }
            last = Some(topic);
        }
    }
    if !expired.is_empty() {
        tables.transaction(|tables| {
            let mut delete = tables
                .conn
                .prepare("DELETE FROM retained WHERE topic = ?1")?;
            for topic in &expired {
                delete.execute([topic])?;
            }
            Ok(())
        })?;
    }
    Ok(last)
}

/// Gives each row of `done` to `row` (sequence number, greatest message, acks) and returns the last sequence number.
pub(super) fn read_done(
    conn: &rusqlite::Connection,
    mut row: impl FnMut(u64, StoredMessage, &str),
) -> Result<u64> {
    let mut select = conn.prepare("SELECT seq, newest, acks FROM done ORDER BY seq")?;
    let mut rows = select.query([])?;
    let mut last = 0;
    while let Some(found) = rows.next()? {
        last = super::codec::number_at(found, 0)?;
        let newest = StoredMessage(super::codec::number_at(found, 1)?);
        row(last, newest, found.get_ref(2)?.as_str()?);
    }
    Ok(last)
}

/// Adds what a row of `done` says, and returns how many pairs it has; `None` when it is damaged.
pub(super) fn add_acks(done: &mut Done, acks: &str) -> Option<u64> {
    let mut count = 0;
    let is_whole = each_list(acks, |numbers| {
        let [message, parts @ ..] = numbers else {
            return false;
        };
        let (parts, rest) = parts.as_chunks();
        rest.is_empty()
            && parts.iter().all(|[session, part]| {
                let part = u32::try_from(*part).ok().and_then(Part::from_bits);
                let part = part.map(|part| (StoredSession(*session), part));
                done.extend(part.map(|part| (StoredMessage(*message), part)));
                count += 1;
                part.is_some()
            })
    });
    is_whole.then_some(count)
}

//! Giving free pages back to the file system, piece by piece: while there is nothing else to do, and beside work those that nobody
//! needs.
//!
//! A store is as large as what waits for its clients was at its worst, and a backlog of one night would keep its space for years. But pages
//! that will be needed again are cheaper kept: giving one back means to write another one, and the file grows again later. So beside work only
//! those go that were free all through the last [`SPARE`], and some are kept in any case.

use rusqlite::{Connection, Result};
use std::time::{Duration, Instant};

/// Pages given back in one transaction when nothing else is to do.
const PAGES: u64 = 256;
/// The same beside work, where a commit may have to wait for it: 0.9 ms with its flush, where 256 take 2.8.
const PAGES_BESIDE: u64 = 64;
/// Free pages that are kept for what comes next.
const KEPT: u64 = 4_096;
/// How long a page must have been free to be given back beside work.
const SPARE: Duration = if cfg!(debug_assertions) {
    Duration::from_secs(2)
} else {
    Duration::from_secs(60)
};

/// Which free pages are to go.
pub(super) struct Vacuum {
    /// The fewest that were free at once since the last account, and when the next is due.
    fewest: u64,
    account_at: Instant,
    /// What the last account found to be spare, and has not been given back.
    spare: u64,
}

impl Vacuum {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            fewest: u64::MAX,
            account_at: now + SPARE,
            spare: 0,
        }
    }

    /// Whether there is more to give back beside work.
    pub(super) fn has_more(&self) -> bool {
        self.spare >= PAGES_BESIDE
    }

    /// Gives back a piece while nothing else is to do, and returns whether there is more.
    pub(super) fn step_idle(&mut self, conn: &Connection) -> Result<bool> {
        if free_pages(conn)? < KEPT + PAGES {
            return Ok(false);
        }
        Ok(give_back(conn, PAGES)? > 0)
    }

    /// Gives back a piece beside work, and returns whether there is more.
    pub(super) fn step(&mut self, conn: &Connection, now: Instant) -> Result<bool> {
        let free = free_pages(conn)?;
        self.fewest = self.fewest.min(free);
        if now >= self.account_at {
            self.account_at = now + SPARE;
            self.spare = self.fewest.saturating_sub(KEPT);
            self.fewest = free;
        }
        // Some may have been used since.
        self.spare = self.spare.min(free.saturating_sub(KEPT));
        if !self.has_more() {
            return Ok(false);
        }
        let given = give_back(conn, PAGES_BESIDE)?;
        self.fewest = self.fewest.saturating_sub(given);
        // A database that does not give back any is left alone.
        self.spare = if given == 0 { 0 } else { self.spare - given };
        Ok(self.has_more())
    }
}

fn free_pages(conn: &Connection) -> Result<u64> {
    conn.pragma_query_value(None, "freelist_count", |row| row.get(0))
}

/// Gives back so many pages, and returns how many there were.
fn give_back(conn: &Connection, pages: u64) -> Result<u64> {
    let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    // Each step gives back one.
    while rows.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;
    use crate::store::testing::Scratch;

    /// A database with so many free pages and as many that are not.
    fn with_free(scratch: &Scratch, pages: u64) -> Connection {
        let conn = schema::open(&scratch.path().join(schema::FILE)).unwrap();
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
            INSERT INTO msg SELECT i, '[]', 0, NULL, 1, 0, NULL, 't', NULL, zeroblob(3500) FROM n";
        conn.execute(sql, [2 * pages]).unwrap();
        conn.execute("DELETE FROM msg WHERE id <= ?1", [pages])
            .unwrap();
        conn
    }

    #[test]
    fn a_step_gives_back_a_whole_piece_and_some_are_kept() {
        let scratch = Scratch::new("vacuum");
        let conn = with_free(&scratch, KEPT + 5 * PAGES);
        let mut vacuum = Vacuum::new(Instant::now());
        let mut free = free_pages(&conn).unwrap();
        while free >= KEPT + PAGES {
            assert!(vacuum.step_idle(&conn).unwrap());
            let left = free_pages(&conn).unwrap();
            assert_eq!(free - left, PAGES);
            free = left;
        }
        assert!(free >= KEPT);
        assert!(!vacuum.step_idle(&conn).unwrap());
        assert_eq!(free_pages(&conn).unwrap(), free);
    }

    #[test]
    fn beside_work_only_those_go_that_were_free_for_long() {
        let scratch = Scratch::new("vacuum-spare");
        let begin = Instant::now();
        let conn = with_free(&scratch, KEPT + 4 * PAGES);
        let free = || free_pages(&conn).unwrap();
        let mut vacuum = Vacuum::new(begin);
        // Nearly all of them are used for a moment.
        conn.execute_batch(
            "CREATE TABLE backlog(payload BLOB); INSERT INTO backlog VALUES(zeroblob(19000000))",
        )
        .unwrap();
        assert!(free() < KEPT);
        assert!(!vacuum.step(&conn, begin).unwrap());
        conn.execute_batch("DELETE FROM backlog").unwrap();
        let before = free();
        assert!(!vacuum.step(&conn, begin + SPARE).unwrap());
        assert_eq!(free(), before);
        // It stays away.
        let now = begin + 2 * SPARE;
        loop {
            let before = free();
            let has_more = vacuum.step(&conn, now).unwrap();
            assert_eq!(before - free(), PAGES_BESIDE);
            if !has_more {
                break;
            }
        }
        assert!((KEPT..KEPT + PAGES_BESIDE).contains(&free()));
    }

    #[test]
    fn a_database_that_gives_back_nothing_is_left_alone() {
        let scratch = Scratch::new("vacuum-none");
        let conn = with_free(&scratch, KEPT + 2 * PAGES);
        conn.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM")
            .unwrap();
        conn.execute_batch("DELETE FROM msg").unwrap();
        let begin = Instant::now();
        let mut vacuum = Vacuum::new(begin);
        assert!(free_pages(&conn).unwrap() >= KEPT + PAGES);
        assert!(!vacuum.step_idle(&conn).unwrap());
        assert!(!vacuum.step(&conn, begin + SPARE).unwrap());
    }
}

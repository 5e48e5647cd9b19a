//! What was received and is not fed yet, so that few who send much do not delay the many who send little.
//!
//! A receive that fills its buffer tells of a sender with more to come. Such bytes wait until everybody else has been fed,
//! and then the senders take turns. Under hard pressure all that arrives waits here.

use crate::net::ring::Received;
use crate::shard::input::ConnKey;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use std::collections::VecDeque;

/// Buffers of one sender before it is another's turn: so much that a write to its subscriber is worth it.
const BUFFERS_PER_TURN: usize = 8;
/// Capacity that is kept when nobody waits, in connections.
const CAPACITY_KEPT: usize = 4_096;

/// By connection, in order; no more in all than the ring has buffers, and an end for each connection. So they may be as many as there
/// are connections, when all of them end while nothing is fed, and what is asked for each of them does not search.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    lines: HashMap<ConnKey, Line, FixedState>,
    /// Those of `lines`; it is the first one's turn.
    turns: VecDeque<ConnKey>,
}

#[derive(Debug, Default)]
struct Line {
    received: VecDeque<Received>,
    /// Taken since it is this line's turn.
    taken: usize,
}

impl Waiting {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether something of `conn` waits, so that what comes after it must wait too.
    pub(super) fn holds(&self, conn: ConnKey) -> bool {
        self.lines.contains_key(&conn)
    }

    /// Puts something behind what waits of the same connection.
    pub(super) fn push(&mut self, conn: ConnKey, received: Received) {
        let line = match self.lines.entry(conn) {
            Entry::Occupied(line) => line.into_mut(),
            Entry::Vacant(place) => {
                self.turns.push_back(conn);
                place.insert(Line::default())
            }
        };
        line.received.push_back(received);
    }

    /// Takes one thing of the connection whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(ConnKey, Received)> {
        let conn = *self.turns.front()?;
        let line = self.lines.get_mut(&conn).expect("who has a turn waits");
        let received = line.received.pop_front();
        line.taken += 1;
        if line.received.is_empty() {
            self.lines.remove(&conn);
            self.turns.pop_front();
        } else if line.taken >= BUFFERS_PER_TURN {
            line.taken = 0;
            self.turns.rotate_left(1);
        }
        if self.turns.is_empty() && self.turns.capacity() > CAPACITY_KEPT {
            *self = Self::default();
        }
        Some((conn, received.expect("who has nothing is in no line")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::time::{Duration, Instant};

    fn conn(index: u32) -> ConnKey {
        ConnKey {
            index,
            generation: 7,
        }
    }

    /// Something to be told from others by its number.
    fn numbered(number: i32) -> Received {
        Received::Failed(io::Error::from_raw_os_error(number))
    }

    fn pop(waiting: &mut Waiting) -> Option<(u32, i32)> {
        let (conn, received) = waiting.pop()?;
        let Received::Failed(error) = received else {
            panic!("{received:?}")
        };
        assert!(conn.generation == 7);
        Some((conn.index, error.raw_os_error().unwrap()))
    }

    #[test]
    fn what_waits_leaves_in_order_and_connections_take_turns() {
        let mut waiting = Waiting::default();
        let count = 2 * BUFFERS_PER_TURN as i32 + 1;
        for number in 0..count {
            waiting.push(conn(1), numbered(number));
        }
        for index in [0, 2] {
            waiting.push(conn(index), numbered(0));
        }
        let other = ConnKey {
            generation: 8,
            ..conn(1)
        };
        assert!(waiting.holds(conn(1)) && !waiting.holds(other) && !waiting.holds(conn(3)));
        let mut expected: Vec<_> = (0..count).map(|number| (1, number)).collect();
        // Behind the first turn of who has much; and who comes again stands behind the others.
        expected.splice(8..8, [(0, 0), (2, 0)]);
        expected.insert(18, (0, 1));
        for (at, next) in expected.iter().enumerate() {
            assert_eq!(pop(&mut waiting), Some(*next));
            assert_eq!(waiting.holds(conn(1)), at + 1 < expected.len());
            if *next == (0, 0) {
                waiting.push(conn(0), numbered(1));
            }
        }
        assert!(waiting.is_empty() && pop(&mut waiting).is_none());
    }

    #[test]
    fn the_ends_of_very_many_cost_as_much_each_as_those_of_few() {
        const COUNT: u32 = 100_000;
        let mut waiting = Waiting::default();
        let begun = Instant::now();
        for index in 0..COUNT {
            assert!(!waiting.holds(conn(index)));
            waiting.push(conn(index), Received::Eof);
            let elapsed = begun.elapsed();
            assert!(elapsed < Duration::from_secs(1), "{elapsed:?} for {index}");
        }
        for index in 0..COUNT {
            assert!(waiting.holds(conn(index)));
            assert!(matches!(waiting.pop(), Some((key, Received::Eof)) if key == conn(index)));
        }
        assert!(waiting.is_empty());
    }
}

//! What was received and is not fed yet, so that few who send much do not delay the many who send little.
//!
//! A receive that fills its buffer tells of a sender with more to come. Such bytes wait until everybody else has been fed,
//! and then the senders take turns. Under hard pressure all that arrives waits here.

use crate::net::ring::Received;
use crate::shard::input::ConnKey;
use std::collections::VecDeque;

/// Buffers of one sender before it is another's turn: so much that a write to its subscriber is worth it.
const BUFFERS_PER_TURN: usize = 8;

/// By connection, in order; no more in all than the ring has buffers, and an end for each connection.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    lines: VecDeque<Line>,
}

#[derive(Debug)]
struct Line {
    conn: ConnKey,
    received: VecDeque<Received>,
    /// Taken since it is this line's turn.
    taken: usize,
}

impl Waiting {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether something of `conn` waits, so that what comes after it must wait too.
    pub(super) fn holds(&self, conn: ConnKey) -> bool {
        self.lines.iter().any(|line| line.conn == conn)
    }

    /// Puts something behind what waits of the same connection.
    pub(super) fn push(&mut self, conn: ConnKey, received: Received) {
        match self.lines.iter_mut().find(|line| line.conn == conn) {
            Some(line) => line.received.push_back(received),
            None => self.lines.push_back(Line {
                conn,
                received: VecDeque::from([received]),
                taken: 0,
            }),
        }
    }

    /// Takes one thing of the connection whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(ConnKey, Received)> {
        let line = self.lines.front_mut()?;
        let conn = line.conn;
        let received = line.received.pop_front();
        line.taken += 1;
        if line.received.is_empty() {
            self.lines.pop_front();
        } else if line.taken >= BUFFERS_PER_TURN {
            line.taken = 0;
            self.lines.rotate_left(1);
        }
        Some((conn, received.expect("who has nothing is in no line")))
    }
}

//! What a core counts about its sockets, for others to read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers since the start. One core writes them, any thread may read them; each is right by itself.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct NetCounters {
    /// Connections accepted on this core.
    pub accepted: Counter,
    /// Connections closed at once because descriptors or memory were short.
    pub refused: Counter,
    /// Connections closed at once because their listener's lists of networks are against them.
    pub turned_away: Counter,
    /// TLS handshakes that were completed.
    pub handshakes: Counter,
    /// Connections that TLS, WebSocket or a PROXY header ended.
    pub transports_failed: Counter,
    /// Times accepting was stopped because connections came faster than they may.
    pub accepts_paced: Counter,
    /// Connections passed to the core that owns their session.
    pub handed_over: Counter,
    /// Bytes received from sockets.
    pub received_bytes: Counter,
    /// Bytes that sockets accepted.
    pub sent_bytes: Counter,
    /// Times a connection's bytes had to wait until its socket had room.
    pub writes_waited: Counter,
    /// Receives that found no free buffer.
    pub buffers_missing: Counter,
    /// Turns in which there was something to do.
    pub turns: Counter,
    /// Times the core went to sleep.
    pub parks: Counter,
    /// Connections closed although the peer had not read the last bytes.
    pub lingers_expired: Counter,
}

/// A number that one thread adds to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only from the core that owns the counter, so no atomic read-modify-write is needed.
    pub fn add(&self, count: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(count);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

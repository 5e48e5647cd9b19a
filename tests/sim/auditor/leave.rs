//! Who was granted a connection, and who is told to leave.

use super::Auditor;
use crate::world::World;
use ringmq::protocol::ReasonCode;
use ringmq::shard::outbox::Event;

impl Auditor {
    /// After something happened on a shard: a connection is granted once its CONNACK has left or can leave. Of one that the store
    /// does not take in time it is another CONNACK that leaves.
    pub(super) fn note_granted(&mut self, world: &World, shard: usize, events: &[Event]) {
        let (conns, model) = (&self.conns, &mut self.model);
        self.ungranted.retain(|socket| {
            let (conn, it) = (&conns[*socket], &world.sockets[*socket]);
            let key = it.key;
            if it.shard != shard {
                return true;
            }
            let refuses = |event: &Event| match event {
                Event::ClientDisconnected { conn, reason, .. } => {
                    *conn == key && *reason == ReasonCode::ServerUnavailable
                }
                _ => false,
            };
            if !conn.open || events.iter().any(refuses) {
                return false;
            }
            let mut outbound = world.shards[it.shard].outbound(key);
            let leaves = conn.connack_seen || outbound.any(|slice| !slice.is_empty());
            if leaves {
                let session = conn.session.expect("it has connected");
                model.sessions[session].before = None;
            }
            !leaves
        });
    }

    /// A shard was told to stop: it closes everything and publishes no Will.
    pub fn shut_down(&mut self, world: &World, shard: usize) {
        for socket in 0..self.conns.len() {
            let it = &world.sockets[socket];
            if it.shard != shard || !self.conns[socket].open {
                continue;
            }
            self.must_close.insert(socket);
            self.conns[socket].disconnect = Some(ReasonCode::ServerShuttingDown);
            let session = self.conns[socket].session.expect("it is open");
            self.model.sessions[session].will = None;
            self.detach(socket);
        }
    }
}

//! DISCONNECT from a client (MQTT 5 §3.14), and the broker's own stop.

use super::Shard;
use super::connection::{End, Handled, Stage};
use super::input::ConnKey;
use super::outbox::Outbox;
use crate::protocol::ReasonCode;
use crate::protocol::disconnect::{Disconnect, put_disconnect};

impl Shard {
    pub(super) fn disconnect(&mut self, key: ConnKey, body: &[u8], outbox: &mut Outbox) -> Handled {
        let conn = self.open(key);
        let (version, session_key) = (conn.version, conn.session);
        let disconnect = Disconnect::decode(version, body)?;
        let session_expiry_s_max = self.limits.session_expiry_s_max;
        let session = &mut self.sessions[session_key.0 as usize];
        if let Some(expiry_s) = disconnect.session_expiry_s {
            if session.expiry_s == 0 && expiry_s != 0 {
                return Err(End::new(
                    ReasonCode::ProtocolError,
                    "DISCONNECT raises a Session Expiry Interval of 0 (§3.14.2.2.2)",
                ));
            }
            session.expiry_s = expiry_s.min(session_expiry_s_max);
        }
        // MQTT 5 [MQTT-3.14.4-3]: only a normal disconnection discards the Will.
        if disconnect.reason == ReasonCode::Success {
            session.will = None;
        }
        // A client need not wait for CONNACK to say what it wants (§3.1.4).
        self.keeper.ungranted.remove(&u64::from(key.index));
        self.close(key, outbox);
        self.detach(
            session_key,
            End::new(disconnect.reason, "DISCONNECT received"),
            outbox,
        );
        Ok(())
    }

    /// Closes every connection; MQTT 5 clients are told why. Wills are not published: their clients did not fail
    /// (§3.1.2.5 leaves it to the server).
    pub(super) fn shutdown(&mut self, outbox: &mut Outbox) {
        self.stopping = true;
        self.tell_drops_now();
        self.guard.tell_now();
        for index in 0..self.conns.len() {
            let conn = &self.conns[index];
            let key = ConnKey {
                index: index as u32,
                generation: conn.generation,
            };
            match conn.stage {
                Stage::Vacant | Stage::Closing => {}
                Stage::AwaitsConnect | Stage::Authenticating => self.close(key, outbox),
                Stage::Open => {
                    let session = conn.session;
                    if conn.version.is_v5() {
                        self.control(key, outbox, |out| {
                            put_disconnect(out, ReasonCode::ServerShuttingDown, None);
                        });
                    }
                    self.close(key, outbox);
                    self.sessions[session.0 as usize].will = None;
                    let end = End::new(ReasonCode::ServerShuttingDown, "the broker is stopping");
                    self.detach(session, end, outbox);
                }
            }
        }
    }
}

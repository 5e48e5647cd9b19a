//! Connections with something between their socket and MQTT.

use super::flush::WRITES_PER_FLUSH;
use super::{Driver, HANDSHAKES_PER_TURN, StateMachine};
use crate::net::ring::Buffer;
use crate::net::sockets::{Phase, Reading};
use crate::net::transport::frame::CloseCode;
use crate::net::transport::{Fault, Heard};
use crate::net::writer;
use crate::shard::input::{CloseCause, ConnKey, Input};
use std::io;

impl<S: StateMachine> Driver<S> {
    /// Feeds what was received, or sets it aside when this turn has seen enough handshakes.
    pub(super) fn feed_through(&mut self, conn: ConnKey, buffer: &Buffer) {
        let bytes = self.ring.bytes(buffer);
        let Some(transport) = self.sockets.transport(conn) else {
            return;
        };
        let was_handshaking = transport.is_handshaking();
        if was_handshaking {
            // Those who came before go first.
            if self.handshakes_left == 0 || !self.handshakes.is_empty() {
                if !transport.wait(bytes) {
                    self.handshakes.push_back(conn);
                }
                return;
            }
            self.handshakes_left -= 1;
        }
        let heard = transport.receive(bytes, &mut self.layers);
        self.heard(conn, was_handshaking, heard);
    }

    /// Whether bytes of the connection wait for their turn; until then no others are received.
    pub(super) fn awaits_handshake(&mut self, conn: ConnKey) -> bool {
        self.sockets
            .transport(conn)
            .is_some_and(|transport| transport.is_waiting())
    }

    /// Takes steps of the handshakes that wait, and returns whether there were any.
    pub(super) fn continue_handshakes(&mut self) -> bool {
        self.handshakes_left = HANDSHAKES_PER_TURN;
        if self.handshakes.is_empty() || self.hard_pressure() {
            return false;
        }
        while self.handshakes_left > 0
            && let Some(conn) = self.handshakes.pop_front()
        {
            let Some(phase) = self.sockets.get(conn).map(|socket| socket.phase) else {
                continue;
            };
            let Some(transport) = self.sockets.transport(conn) else {
                continue;
            };
            let bytes = transport.take_waiting();
            self.to_arm.push(conn);
            // One that is closing meanwhile is only drained.
            if phase == Phase::Open {
                self.handshakes_left -= 1;
                let heard = transport.receive(&bytes, &mut self.layers);
                self.heard(conn, true, heard);
            }
        }
        true
    }

    /// Answers, feeds what the shard is to see, and ends the connection if it came to that.
    fn heard(&mut self, conn: ConnKey, was_handshaking: bool, heard: Result<Heard, Fault>) {
        let wire = std::mem::take(&mut self.layers.wire);
        let answered = self.answer(conn, &wire);
        self.layers.wire = wire;
        if matches!(&answered, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            return self.end(conn, CloseCause::Reset);
        }
        if was_handshaking
            && let Some(transport) = self.sockets.transport(conn)
            && !transport.is_handshaking()
            && heard.is_ok()
        {
            self.counters.handshakes.add(1);
        }
        let named = self
            .sockets
            .transport(conn)
            .and_then(|transport| transport.take_named_peer());
        if let Some(peer) = named {
            self.peer_named(conn, peer);
        }
        let identity = self
            .sockets
            .transport(conn)
            .and_then(|transport| transport.take_identity());
        if let Some(username) = identity {
            self.tell(Input::Identified {
                conn,
                username: &username,
            });
        }
        let clear = std::mem::take(&mut self.layers.clear);
        if !clear.is_empty() {
            self.shard.handle(
                self.now,
                Input::Received {
                    conn,
                    bytes: &clear,
                },
                &mut self.outbox,
            );
            self.absorb();
        }
        self.layers.clear = clear;
        // It may have moved, or be closing on the shard's own account.
        let Some(socket) = self.sockets.get(conn) else {
            return;
        };
        match (heard, socket.phase) {
            (_, Phase::Open) if answered.is_err() => self.end(conn, CloseCause::Reset),
            (Ok(Heard::Open), _) => {}
            (Ok(Heard::Closed), Phase::Open) => self.end(conn, CloseCause::PeerClosed),
            (Ok(Heard::Closed), _) => socket.eof = true,
            (Err(Fault { what }), phase) => {
                self.counters.transports_failed.add(1);
                if phase == Phase::Open {
                    self.shut(conn, CloseCause::Transport(what));
                }
            }
        }
    }

    /// Writes what a transport answers by itself. A connection that may still move must take it at once, so that
    /// nothing is in flight on its socket; another one's waits behind what waits already.
    fn answer(&mut self, conn: ConnKey, wire: &[u8]) -> io::Result<()> {
        let Some((socket, transport)) = self.sockets.through(conn).filter(|_| !wire.is_empty())
        else {
            return Ok(());
        };
        let accepted = if transport.unsent().is_empty() {
            writer::write(&*socket, [wire])?.accepted
        } else {
            0
        };
        self.counters.sent_bytes.add(accepted as u64);
        if accepted == wire.len() {
            return Ok(());
        }
        if socket.reading == Reading::MayMove {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        transport.keep_unsent(&wire[accepted..]);
        if !socket.polled {
            self.wait_for_room(conn);
        }
        Ok(())
    }

    /// As [`Driver::write`], through the transport.
    pub(super) fn write_through(&mut self, conn: ConnKey) {
        for _ in 0..WRITES_PER_FLUSH {
            let Some((socket, transport)) = self.sockets.through(conn) else {
                return;
            };
            if socket.polled
                || socket.write_failed
                || !matches!(socket.phase, Phase::Open | Phase::Closing)
            {
                return;
            }
            let mut taken = 0;
            let wrote = if transport.unsent().is_empty() {
                match transport.seal(self.shard.outbound(conn), &mut self.layers) {
                    Ok(count) => taken = count,
                    Err(Fault { what }) => {
                        self.counters.transports_failed.add(1);
                        return self.shut(conn, CloseCause::Transport(what));
                    }
                }
                if taken == 0 && socket.phase == Phase::Closing {
                    let code = if self.stop_at_ms.is_some() {
                        CloseCode::GOING_AWAY
                    } else {
                        CloseCode::NORMAL
                    };
                    transport.farewell(Some(code), &mut self.layers);
                }
                let wrote = writer::write(&*socket, [&self.layers.wire[..]]);
                if let Ok(wrote) = wrote {
                    transport.keep_unsent(&self.layers.wire[wrote.accepted..]);
                }
                wrote
            } else {
                let wrote = writer::write(&*socket, [transport.unsent()]);
                if let Ok(wrote) = wrote {
                    transport.sent(wrote.accepted);
                }
                wrote
            };
            // Why it failed the receive will tell.
            let Ok(wrote) = wrote else {
                return self.write_failed(conn);
            };
            if wrote.offered == 0 {
                return self.all_written(conn);
            }
            socket.moved |= wrote.accepted > 0;
            self.counters.sent_bytes.add(wrote.accepted as u64);
            if taken > 0 {
                socket.settle();
                self.tell(Input::Written { conn, bytes: taken });
            }
            if wrote.is_short() {
                break;
            }
        }
        self.wait_for_room(conn);
    }
}

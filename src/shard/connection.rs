//! One Network Connection on its shard: the bytes that came in, cut into packets, and what they lead to.

use super::Shard;
use super::gate::Gate;
use super::input::ConnKey;
use super::outbound::Outbound;
use super::outbox::{Event, Outbox};
use super::timer::{TICK_MS, Timer, TimerId, TimerKind};
use crate::protocol::frame::{Cut, FixedHeader, PACKET_BYTES_MAX, cut, cut_version};
use crate::protocol::varint::varint_len;
use crate::protocol::{DecodeError, PacketType, ReasonCode, Version, disconnect};
use crate::session::SessionKey;
use hashbrown::HashMap;
use std::num::NonZeroU16;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The slot is free.
    Vacant,
    /// No CONNECT yet.
    AwaitsConnect,
    /// Its CONNECT is being judged.
    Authenticating,
    /// It has a session.
    Open,
    /// What is outbound is still written; what arrives is ignored.
    Closing,
}

/// Why a connection is not read, as a bit of `Connection::paused`: a link to another shard is full.
pub(super) const PAUSED_BY_LINK: u8 = 1;
/// The client does not read its acknowledgements.
pub(super) const PAUSED_BY_OUTBOUND: u8 = 2;
/// It published faster than it may.
pub(super) const PAUSED_BY_RATE: u8 = 4;
/// It publishes while memory is exhausted.
pub(super) const PAUSED_BY_MEMORY: u8 = 8;
/// Too many of its acknowledgements wait for the store.
pub(super) const PAUSED_BY_STORE: u8 = 16;
/// It publishes retained messages of QoS 0 faster than the store takes them.
pub(super) const PAUSED_BY_RETAINED: u8 = 64;
/// Somebody has to say first who it is.
pub(super) const PAUSED_BY_LOGIN: u8 = 32;

/// Packets that are expected behind one that has begun to arrive, if they are as long.
const PACKETS_AHEAD: usize = 16;
/// And at most so many bytes of them.
const BYTES_AHEAD_MAX: usize = 64 << 10;

/// Control bytes outbound above which the client is not read until it has read some.
const CONTROL_BYTES_MAX: usize = 64 << 10;

/// Topic aliases of one connection, both ways (MQTT 5 §3.3.2.3.4).
#[derive(Debug, Default)]
pub(super) struct Aliases {
    /// What the client defined; index 0 is alias 1.
    pub(super) inbound: Vec<Option<Box<str>>>,
    /// What this broker defined: the first topics sent, up to the client's maximum.
    pub(super) outbound: HashMap<Box<str>, NonZeroU16, foldhash::fast::FixedState>,
}

/// What the shell knows of a connection's outbound bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owed {
    /// There are none.
    Nothing,
    /// It writes them when it has time: very many others have the same.
    Later,
    /// It writes them in this turn.
    Now,
}

/// The hot part of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) generation: u32,
    pub(super) stage: Stage,
    pub(super) version: Version,
    /// The writes that the shell owes it.
    pub(super) owed: Owed,
    /// Why it is not read: bits `PAUSED_BY_…`.
    pub(super) paused: u8,
    /// Nothing leaves yet: what CONNACK says is not durable.
    pub(super) is_corked: bool,
    /// CONNECT asked for Reason Strings and User Properties (§3.1.2.11.7).
    pub(super) wants_problem_information: bool,
    pub(super) session: SessionKey,
    /// Keep Alive in force, in seconds; 0 is none.
    pub(super) keep_alive_s: u16,
    /// The client's Receive Maximum, capped by our own window.
    pub(super) receive_maximum: u16,
    /// The client's Maximum Packet Size.
    pub(super) packet_bytes_max: u32,
    /// The client's Topic Alias Maximum, capped by our own.
    pub(super) topic_alias_maximum: u16,
    /// Its timer in the wheel.
    pub(super) timer: Option<TimerId>,
    /// When the last packet, or the connection itself, arrived.
    pub(super) last_received_ms: u64,
    /// A packet that has not arrived whole.
    pub(super) carry: Vec<u8>,
    pub(super) outbound: Option<Box<Outbound>>,
    pub(super) aliases: Option<Box<Aliases>>,
    /// Acknowledgements that wait for the store.
    pub(super) gate: Option<Box<Gate>>,
}

// Part of the design's budget of 490 bytes for an idle client.
const _: () = assert!(size_of::<Connection>() <= 96);

impl Connection {
    pub(super) fn vacant() -> Self {
        Self {
            generation: 0,
            stage: Stage::Vacant,
            version: Version::V311,
            owed: Owed::Nothing,
            paused: 0,
            is_corked: false,
            wants_problem_information: true,
            session: SessionKey(u32::MAX),
            keep_alive_s: 0,
            receive_maximum: u16::MAX,
            packet_bytes_max: u32::MAX,
            topic_alias_maximum: 0,
            timer: None,
            last_received_ms: 0,
            carry: Vec::new(),
            outbound: None,
            aliases: None,
            gate: None,
        }
    }

    /// Tells the shell of outbound bytes, unless it knows.
    #[inline]
    pub(super) fn owe(&mut self, owed: Owed, key: ConnKey, outbox: &mut Outbox) {
        if self.owed >= owed {
            return;
        }
        self.owed = owed;
        match owed {
            Owed::Nothing => {}
            Owed::Later => outbox.later.push(key),
            Owed::Now => outbox.dirty.push(key),
        }
    }
}

/// Why and how this shard ends a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) reason: ReasonCode,
    pub(super) what: &'static str,
    pub(super) statement: &'static str,
}

impl End {
    pub(super) fn new(reason: ReasonCode, what: &'static str) -> Self {
        Self {
            reason,
            what,
            statement: "",
        }
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self {
            reason: error.reason,
            what: error.what,
            statement: error.statement,
        }
    }
}

/// Whether the packets that follow on this connection are still to be handled.
pub(super) type Handled = Result<(), End>;

impl Shard {
    pub(super) fn conn(&self, key: ConnKey) -> Option<&Connection> {
        self.conns
            .get(key.index as usize)
            .filter(|conn| conn.generation == key.generation && conn.stage != Stage::Vacant)
    }

    pub(super) fn conn_mut(&mut self, key: ConnKey) -> Option<&mut Connection> {
        self.conns
            .get_mut(key.index as usize)
            .filter(|conn| conn.generation == key.generation && conn.stage != Stage::Vacant)
    }

    /// A connection whose stage says that it has a session.
    pub(super) fn open(&mut self, key: ConnKey) -> &mut Connection {
        let conn = &mut self.conns[key.index as usize];
        assert!(conn.generation == key.generation);
        assert!(conn.stage == Stage::Open);
        conn
    }

    pub(super) fn accepted(&mut self, key: ConnKey, outbox: &mut Outbox) {
        self.counters.connections_accepted += 1;
        self.occupy(key);
        if self.stopping {
            self.close(key, outbox);
        }
    }

    pub(super) fn handed_over(&mut self, key: ConnKey, unread: &[u8], outbox: &mut Outbox) {
        self.occupy(key);
        if self.stopping {
            self.close(key, outbox);
        } else if !unread.is_empty() {
            self.received(key, unread, outbox);
        }
    }

    pub(super) fn identified(&mut self, key: ConnKey, username: &str) {
        if self.conn(key).is_some() {
            self.usernames.insert(key.index, username.into());
        }
    }

    /// Tells the operator of a connection that did not come as far as CONNECT.
    pub(super) fn transport_failed(
        &mut self,
        key: ConnKey,
        what: &'static str,
        outbox: &mut Outbox,
    ) {
        let awaits_connect = self
            .conn(key)
            .is_some_and(|conn| conn.stage == Stage::AwaitsConnect);
        if self.events && awaits_connect {
            outbox.events.push(Event::ConnectRefused {
                conn: key,
                client_id: None,
                reason: ReasonCode::ProtocolError,
                what,
                statement: "",
            });
        }
    }

    fn occupy(&mut self, key: ConnKey) {
        let index = key.index as usize;
        if index >= self.conns.len() {
            self.conns.resize_with(index + 1, Connection::vacant);
        }
        assert!(self.conns[index].stage == Stage::Vacant);
        self.conns[index] = Connection {
            generation: key.generation,
            stage: Stage::AwaitsConnect,
            last_received_ms: self.now.mono_ms,
            ..Connection::vacant()
        };
        let deadline_ms = self.now.mono_ms + u64::from(self.limits.connect_timeout_ms);
        self.set_conn_timer(key, deadline_ms);
    }

    pub(super) fn received(&mut self, key: ConnKey, bytes: &[u8], outbox: &mut Outbox) {
        let Some(conn_stage) = self.conn(key).map(|conn| conn.stage) else {
            return;
        };
        if conn_stage == Stage::Closing {
            return;
        }
        self.counters.bytes_received += bytes.len() as u64;
        if conn_stage == Stage::Authenticating {
            match self.takes_login_bytes(key, bytes) {
                Ok(true) => {}
                Ok(false) => return,
                Err(end) => return self.end_connection(key, end, outbox),
            }
        }
        self.feed(key, bytes, outbox);
    }

    /// Handles bytes that have arrived, just now or before.
    pub(super) fn feed(&mut self, key: ConnKey, bytes: &[u8], outbox: &mut Outbox) {
        if let Err(end) = self.packets(key, bytes, outbox) {
            self.counters.protocol_errors += 1;
            self.end_connection(key, end, outbox);
        }
    }

    /// Cuts the bytes into packets and handles each.
    fn packets(&mut self, key: ConnKey, mut bytes: &[u8], outbox: &mut Outbox) -> Handled {
        let mut carry = std::mem::take(&mut self.conns[key.index as usize].carry);
        while !carry.is_empty() {
            let header_and_len = match self.cut_next(key, &carry)? {
                Cut::Incomplete { need } => {
                    if bytes.is_empty() {
                        self.conns[key.index as usize].carry = carry;
                        return Ok(());
                    }
                    let taken = bytes.len().min(need - carry.len());
                    // Memory is committed as bytes arrive, not as the header claims.
                    if carry.capacity() < carry.len() + taken {
                        let grown = need.min((2 * carry.len()).max(carry.len() + taken));
                        carry.reserve_exact(grown - carry.len());
                    }
                    carry.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    continue;
                }
                Cut::Packet { header, body, len } => (header, carry.len() - body.len(), len),
            };
            let (header, body_at, len) = header_and_len;
            assert!(len == carry.len());
            let whole = Whole {
                packet: &carry,
                body: &carry[body_at..],
                rest: bytes,
            };
            if self.packet(key, header, &whole, outbox)? == Next::Stop {
                return Ok(());
            }
            carry.clear();
        }
        self.pool.give_buffer(carry);
        // Packets that have been read ahead for.
        let mut ahead = if self.reads_ahead() { 0 } else { usize::MAX };
        while !bytes.is_empty() {
            if ahead == 0 {
                ahead = self.read_ahead(bytes);
            }
            ahead -= 1;
            match self.cut_next(key, bytes)? {
                Cut::Incomplete { .. } => {
                    // From the pool, however long it is: it goes back there.
                    let mut carry = self.pool.take_buffer();
                    carry.extend_from_slice(bytes);
                    self.conns[key.index as usize].carry = carry;
                    return Ok(());
                }
                Cut::Packet { header, body, len } => {
                    let whole = Whole {
                        packet: &bytes[..len],
                        body,
                        rest: &bytes[len..],
                    };
                    if self.packet(key, header, &whole, outbox)? == Next::Stop {
                        return Ok(());
                    }
                    bytes = &bytes[len..];
                }
            }
        }
        Ok(())
    }

    /// How much is worth reading at once from a connection that sends much, in bytes: what the packet lacks that has begun to arrive,
    /// and some packets like it. So a large packet is put together in few steps, and no read holds very many small ones.
    pub fn expected_bytes(&self, key: ConnKey) -> usize {
        let Some(conn) = self.conn(key).filter(|conn| !conn.carry.is_empty()) else {
            return 0;
        };
        match cut_version(&conn.carry, PACKET_BYTES_MAX, conn.version) {
            Ok(Cut::Incomplete { need }) => {
                need - conn.carry.len() + (PACKETS_AHEAD * need).min(BYTES_AHEAD_MAX)
            }
            _ => 0,
        }
    }

    fn cut_next<'a>(&self, key: ConnKey, bytes: &'a [u8]) -> Result<Cut<'a>, End> {
        let conn = &self.conns[key.index as usize];
        if conn.stage != Stage::AwaitsConnect {
            let bytes_max = match conn.stage {
                Stage::Authenticating => self.limits.connect_packet_bytes_max,
                _ => self.limits.packet_bytes_max,
            };
            return Ok(cut_version(bytes, bytes_max as usize, conn.version)?);
        }
        // MQTT 5 [MQTT-3.1.0-1]: the first byte alone tells, so nothing is buffered for another protocol.
        if bytes[0] >> 4 != PacketType::Connect as u8 {
            return Err(End {
                reason: ReasonCode::ProtocolError,
                what: "the first packet is not a CONNECT",
                statement: "MQTT-3.1.0-1",
            });
        }
        Ok(cut(bytes, self.limits.connect_packet_bytes_max as usize)?)
    }

    fn packet(
        &mut self,
        key: ConnKey,
        header: FixedHeader,
        whole: &Whole<'_>,
        outbox: &mut Outbox,
    ) -> Result<Next, End> {
        let conn = &mut self.conns[key.index as usize];
        // The time to CONNACK is that since CONNECT, whatever comes meanwhile.
        if !conn.is_corked {
            conn.last_received_ms = self.now.mono_ms;
        }
        let (version, body) = (conn.version, whole.body);
        if conn.stage == Stage::AwaitsConnect {
            return self.connect(key, whole, outbox);
        }
        if conn.stage == Stage::Authenticating {
            return self.login_packet(key, header.packet_type, whole, outbox);
        }
        match header.packet_type {
            PacketType::Publish => self.publish(key, header.flags, body, outbox)?,
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                self.acknowledgement(key, header.packet_type, body, outbox)?;
            }
            PacketType::Subscribe => self.subscribe(key, body, outbox)?,
            PacketType::Unsubscribe => self.unsubscribe(key, body, outbox)?,
            PacketType::Pingreq => {
                crate::protocol::ping::decode(body)?;
                self.control(key, outbox, crate::protocol::ping::put_pingresp);
            }
            PacketType::Disconnect => self.disconnect(key, body, outbox)?,
            PacketType::Connect => {
                return Err(End {
                    reason: ReasonCode::ProtocolError,
                    what: "a second CONNECT",
                    statement: "MQTT-3.1.0-2",
                });
            }
            PacketType::Auth if version.is_v5() => self.reauthenticate(key, body, outbox)?,
            PacketType::Auth => {
                return Err(End::new(
                    ReasonCode::MalformedPacket,
                    "packet type 15 is reserved",
                ));
            }
            PacketType::Connack
            | PacketType::Suback
            | PacketType::Unsuback
            | PacketType::Pingresp => {
                return Err(End::new(
                    ReasonCode::ProtocolError,
                    "a packet that only a server may send",
                ));
            }
        }
        let open = self.conns[key.index as usize].stage == Stage::Open;
        Ok(if open { Next::Continue } else { Next::Stop })
    }

    /// Whether the client takes a SUBACK or UNSUBACK with `code_count` Reason Codes. There is no smaller one that would
    /// answer, so the connection ends before anything is done that the client would not be told of.
    ///
    /// Errors: 0x95.
    pub(super) fn check_answer_fits(&mut self, key: ConnKey, code_count: usize) -> Handled {
        // Packet Identifier, no properties, and the codes.
        let remaining = 2 + 1 + code_count;
        let bytes = 1 + varint_len(remaining) + remaining;
        if bytes <= self.open(key).packet_bytes_max as usize {
            return Ok(());
        }
        Err(End {
            reason: ReasonCode::PacketTooLarge,
            what: "the answer would be larger than the client's Maximum Packet Size",
            statement: "MQTT-3.1.2-24",
        })
    }

    /// Appends a packet to the control lane of a connection.
    pub(super) fn control(
        &mut self,
        key: ConnKey,
        outbox: &mut Outbox,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let conn = &mut self.conns[key.index as usize];
        debug_assert!(conn.generation == key.generation);
        let outbound = conn.outbound.get_or_insert_with(|| self.pool.take());
        write(outbound.control());
        let control_bytes = outbound.control_bytes();
        conn.owe(Owed::Now, key, outbox);
        if control_bytes > CONTROL_BYTES_MAX {
            self.pause(key, PAUSED_BY_OUTBOUND, outbox);
        }
    }

    /// The shell wrote bytes: what waits for room may follow.
    pub(super) fn written(&mut self, key: ConnKey, bytes: usize, outbox: &mut Outbox) {
        let Some(conn) = self.conns.get_mut(key.index as usize) else {
            return;
        };
        if conn.generation != key.generation || conn.stage == Stage::Vacant {
            return;
        }
        let Some(outbound) = &mut conn.outbound else {
            assert!(bytes == 0);
            return;
        };
        self.counters.bytes_sent += bytes as u64;
        outbound.consume(bytes, &mut self.pool);
        let control_bytes = outbound.control_bytes();
        let low = outbound.data_bytes() < self.limits.outbound_bytes_max as usize / 2;
        if conn.stage == Stage::Open {
            if conn.paused & PAUSED_BY_OUTBOUND != 0 && control_bytes < CONTROL_BYTES_MAX / 2 {
                self.resume(key, PAUSED_BY_OUTBOUND, outbox);
            }
            if low {
                let session = self.conns[key.index as usize].session;
                self.pump(session, outbox);
            }
        }
        let conn = &mut self.conns[key.index as usize];
        if let Some(outbound) = conn.outbound.take_if(|outbound| outbound.is_empty()) {
            conn.owed = Owed::Nothing;
            self.pool.give(outbound);
        }
    }

    pub(super) fn pause(&mut self, key: ConnKey, reason: u8, outbox: &mut Outbox) {
        let conn = &mut self.conns[key.index as usize];
        if conn.paused == 0 {
            outbox.pause.push(key);
        }
        conn.paused |= reason;
    }

    pub(super) fn resume(&mut self, key: ConnKey, reason: u8, outbox: &mut Outbox) {
        let Some(conn) = self.conn_mut(key) else {
            return;
        };
        if conn.paused & reason == 0 {
            return;
        }
        conn.paused &= !reason;
        if conn.paused == 0 {
            let is_corked = conn.is_corked;
            let now_ms = self.now.mono_ms;
            // The time in which we chose not to read does not count against the Keep Alive.
            if !is_corked {
                self.conns[key.index as usize].last_received_ms = now_ms;
            }
            outbox.resume.push(key);
        }
    }

    /// Ends a connection for a reason of ours: says so where the protocol can, closes, and lets the session go on without it.
    pub(super) fn end_connection(&mut self, key: ConnKey, end: End, outbox: &mut Outbox) {
        let Some(conn) = self.conn(key) else { return };
        match conn.stage {
            Stage::Vacant | Stage::Closing => {}
            Stage::AwaitsConnect | Stage::Authenticating => {
                if self.events {
                    outbox.events.push(Event::ConnectRefused {
                        conn: key,
                        client_id: None,
                        reason: end.reason,
                        what: end.what,
                        statement: end.statement,
                    });
                }
                self.close(key, outbox);
            }
            Stage::Open => {
                let (version, session) = (conn.version, conn.session);
                if version.is_v5() {
                    let reason_string = conn.wants_problem_information.then_some(end.what);
                    let bytes_max = conn.packet_bytes_max as usize;
                    self.control(key, outbox, |out| {
                        let start = out.len();
                        disconnect::put_disconnect(out, end.reason, reason_string);
                        // MQTT 5 [MQTT-3.14.2-3].
                        if out.len() - start > bytes_max {
                            out.truncate(start);
                            disconnect::put_disconnect(out, end.reason, None);
                        }
                    });
                }
                self.close(key, outbox);
                self.detach(session, end, outbox);
            }
        }
    }

    /// Asks the shell to close the connection once its outbound bytes have left. PUBLISH packets that
    /// wait are not sent any more: the session still has what QoS 1 and 2 need.
    pub(super) fn close(&mut self, key: ConnKey, outbox: &mut Outbox) {
        let conn = &mut self.conns[key.index as usize];
        assert!(conn.stage != Stage::Closing);
        conn.stage = Stage::Closing;
        conn.carry = Vec::new();
        conn.aliases = None;
        conn.gate = None;
        if std::mem::take(&mut conn.is_corked) {
            // It was not granted: nothing can be said.
            self.pool.discard(conn.outbound.take());
        }
        if let Some(outbound) = &mut conn.outbound {
            outbound.drop_unsent_data(&mut self.pool);
        }
        outbox.close.push(key);
    }

    /// The socket is gone.
    pub(super) fn closed(&mut self, key: ConnKey, what: &'static str, outbox: &mut Outbox) {
        let Some(conn) = self.conn_mut(key) else {
            return;
        };
        let (stage, session) = (conn.stage, conn.session);
        self.vacate(key);
        if stage == Stage::Open {
            let end = End::new(ReasonCode::UnspecifiedError, what);
            self.detach(session, end, outbox);
        }
    }

    /// Frees the slot.
    pub(super) fn vacate(&mut self, key: ConnKey) {
        self.usernames.remove(&key.index);
        self.logins.remove(&key.index);
        let conn = &mut self.conns[key.index as usize];
        self.pool.discard(conn.outbound.take());
        self.wheel.cancel(&mut conn.timer);
        let generation = conn.generation;
        *conn = Connection {
            generation,
            ..Connection::vacant()
        };
    }

    /// Makes the timer of a connection fire at `deadline_ms` at the latest.
    pub(super) fn set_conn_timer(&mut self, key: ConnKey, deadline_ms: u64) {
        let timer = Timer {
            tick: self.wheel.tick_for(deadline_ms),
            index: key.index,
            generation: key.generation,
            kind: TimerKind::Connection,
        };
        let conn = &mut self.conns[key.index as usize];
        self.wheel.set(&mut conn.timer, timer);
    }

    /// The timer of a connection fired: is it time yet?
    pub(super) fn conn_timer(&mut self, timer: Timer, outbox: &mut Outbox) {
        let key = ConnKey {
            index: timer.index,
            generation: timer.generation,
        };
        let connect_timeout_ms = u64::from(self.limits.connect_timeout_ms);
        let now_ms = self.now.mono_ms;
        let reads_nothing = self.reads_nothing();
        let login = self.logins.get(&key.index);
        let expires_at_ms = login.and_then(|login| login.expires_at_ms);
        let read_nothing_until_ms = self.read_nothing_until_ms;
        let conn = self.conn_mut(key);
        let conn = conn.expect("a connection that is gone has no timer");
        conn.timer = None;
        let allowed_ms = match conn.stage {
            Stage::Vacant | Stage::Closing => return,
            Stage::AwaitsConnect | Stage::Authenticating => connect_timeout_ms,
            Stage::Open if conn.is_corked => connect_timeout_ms,
            Stage::Open => match (conn.keep_alive_s, expires_at_ms) {
                (0, None) => return,
                (0, Some(_)) => u64::from(u32::MAX) * 1_000,
                (keep_alive_s, _) => keep_alive_ms(keep_alive_s),
            },
        };
        // Time in which we chose not to read is no silence of the client's. Who waits for CONNACK has said all, and waits for us.
        let waits_for_us = conn.stage == Stage::Authenticating || conn.is_corked;
        if (conn.paused != 0 || reads_nothing) && !waits_for_us {
            conn.last_received_ms = now_ms;
        }
        conn.last_received_ms = conn.last_received_ms.max(read_nothing_until_ms);
        // Only whole packets count as received, so bytes that drip in do not prolong the time to CONNECT.
        let silent_at_ms = conn.last_received_ms + allowed_ms;
        let (stage, session, is_corked) = (conn.stage, conn.session, conn.is_corked);
        let deadline_ms = expires_at_ms.map_or(silent_at_ms, |at_ms| at_ms.min(silent_at_ms));
        if deadline_ms > now_ms {
            self.set_conn_timer(key, deadline_ms);
            if stage == Stage::Open {
                // An idle client's empty boxes are given back now, not after every message.
                self.sessions[session.0 as usize].trim();
            }
            return;
        }
        let end = if stage == Stage::AwaitsConnect {
            End::new(
                ReasonCode::ProtocolError,
                "no CONNECT within the time allowed",
            )
        } else if stage == Stage::Authenticating {
            return self.login_timed_out(key, outbox);
        } else if is_corked {
            return self.connack_timed_out(key, outbox);
        } else if expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            End::new(
                ReasonCode::MaximumConnectTime,
                "the token with which the client came in has expired",
            )
        } else {
            self.counters.keep_alive_timeouts += 1;
            End::new(
                ReasonCode::KeepAliveTimeout,
                "nothing received for 1.5 times the Keep Alive",
            )
        };
        self.end_connection(key, end, outbox);
    }
}

/// How long a client may be silent: one and a half times its Keep Alive (MQTT 5 [MQTT-3.1.2-22]), and a little, because
/// a packet is taken to have arrived when the turn began that read it.
pub(super) fn keep_alive_ms(keep_alive_s: u16) -> u64 {
    u64::from(keep_alive_s) * 1_500 + TICK_MS
}

/// A whole packet and its surroundings.
pub(super) struct Whole<'a> {
    /// The packet with its fixed header.
    pub(super) packet: &'a [u8],
    /// Without it.
    pub(super) body: &'a [u8],
    /// What came behind it.
    pub(super) rest: &'a [u8],
}

/// Whether the connection still belongs to this shard and is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    Stop,
}

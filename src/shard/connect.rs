//! CONNECT (MQTT 5 §3.1): to the owner of the session first, then takeover, session, CONNACK.

use super::Shard;
use super::access::May;
use super::connection::{End, Next, Owed, Stage, Whole, keep_alive_ms};
use super::input::ConnKey;
use super::login::Admission;
use super::outbox::{Event, Handover, Outbox};
use super::record::Durability;
use crate::config::limits::QueueFullPolicy;
use crate::protocol::connack::{Connack, ConnackProperties};
use crate::protocol::connect::Connect;
use crate::protocol::disconnect::put_disconnect;
use crate::protocol::{Property, ReasonCode, UserProperties, Version};
use crate::session::will::Will;
use crate::session::{Session, SessionKey};
use crate::topic::filter::TopicFilter;
use std::num::{NonZeroU16, NonZeroU32};

/// A client that accepts packets of this size accepts every CONNACK: its longest parts are an identifier of 65,535 bytes
/// in the Response Information, and some fifty bytes of limits.
const SMALL_PACKET_BYTES_MAX: u32 = 128 << 10;

/// The User Property of CONNECT, with any value, that CONNACK answers with what the store promises for the session.
const DURABILITY: &str = "ringmq-durability";
/// The User Property of CONNECT that names what happens when the session's queue is full.
const QUEUE_FULL: &str = "ringmq-queue-full";

impl Shard {
    pub(super) fn connect(
        &mut self,
        key: ConnKey,
        whole: &Whole<'_>,
        outbox: &mut Outbox,
    ) -> Result<Next, End> {
        let connect = match Connect::decode(whole.body) {
            Ok(connect) => connect,
            Err(refused) => {
                let end = End::from(refused.error);
                return Ok(self.refuse(key, refused.answer, None, end, outbox));
            }
        };
        let version = connect.version;
        if connect.client_id.is_empty() && !version.is_v5() {
            // 3.1 demands an identifier; 3.1.1 only with Clean Session 0 ([MQTT-3.1.3-8]).
            if version == Version::V31 || !connect.clean_start {
                let end = End {
                    reason: ReasonCode::ClientIdentifierNotValid,
                    what: "an empty Client Identifier",
                    statement: "MQTT-3.1.3-8",
                };
                return Ok(self.refuse(key, Some(version), None, end, outbox));
            }
        }
        let assigned = connect.client_id.is_empty().then(|| {
            self.assigned_before(key)
                .unwrap_or_else(|| self.assign_client_id())
        });
        let client_id = assigned.as_deref().unwrap_or(connect.client_id);
        let owner = self.placement.owner(client_id);
        if owner != self.id {
            self.counters.connections_handed_over += 1;
            let mut unread = Vec::with_capacity(whole.packet.len() + whole.rest.len());
            unread.extend_from_slice(whole.packet);
            unread.extend_from_slice(whole.rest);
            outbox.handover.push(Handover {
                conn: key,
                to: owner,
                unread,
            });
            self.vacate(key);
            return Ok(Next::Stop);
        }
        self.conns[key.index as usize].packet_bytes_max = connect
            .properties
            .packet_bytes_max
            .map_or(u32::MAX, NonZeroU32::get);
        let admitted = match self.admission(key, &connect, assigned.as_deref(), whole, outbox) {
            Admission::Granted(admitted) => *admitted,
            Admission::Waits => return Ok(Next::Stop),
            Admission::Refused(end) => {
                return Ok(self.refuse(key, Some(version), Some(client_id), end, outbox));
            }
        };
        if let Some(will) = &connect.will
            && !self.may_as(&admitted.identity, client_id, May::Publish(will.topic))
        {
            self.counters.publishes_denied += 1;
            let what = "the client may not publish to its Will Topic";
            let end = End::new(ReasonCode::NotAuthorized, what);
            return Ok(self.refuse(key, Some(version), Some(client_id), end, outbox));
        }
        if let Some(end) = self.reason_to_refuse(&connect, assigned.as_deref()) {
            return Ok(self.refuse(key, Some(version), Some(client_id), end, outbox));
        }
        if let Some((limit, end)) = self.limit_of_connect(&connect, client_id, outbox) {
            self.connect_refused_under(limit, key, client_id, outbox);
            return Ok(self.refuse(key, Some(version), Some(client_id), end, outbox));
        }
        let recorded = self.keeper.emitted;
        let identity = admitted.identity;
        let username = identity.username.clone();
        let (session, before) =
            self.session_for(key, &connect, client_id, username.as_deref(), outbox);
        let session_present = before.is_some();
        self.open_connection(key, &connect, session);
        self.let_in(key, identity);
        self.keep_session(session, outbox);
        if self.keeper.is_on() {
            let record = Some(self.keeper.emitted).filter(|last| *last > recorded);
            self.hold_connack(key, client_id, record);
            if self.open(key).is_corked {
                self.keeper.ungranted.insert(key.index.into(), before);
            }
        }
        self.set_online(session, true, outbox);
        self.counters.connects += 1;
        let mut connack = self.pool.take_buffer();
        let durability = asks_for(&connect, DURABILITY).map(|_| {
            let session = &self.sessions[session.0 as usize];
            let is_stored = session.stored != 0;
            if is_stored {
                self.keeper.durability.name()
            } else {
                Durability::None.name()
            }
        });
        let mut user = Vec::new();
        if let Some(durability) = durability {
            Property::UserProperty(DURABILITY, durability).put(&mut user);
        }
        let granted = Granted {
            assigned: assigned.as_deref(),
            session_present,
            user: UserProperties::from_raw(&user).expect("written just now"),
            method: self.login_method(key),
            data: admitted.data.as_deref(),
        };
        self.put_connack(&mut connack, &connect, &granted);
        self.control(key, outbox, |out| out.extend_from_slice(&connack));
        self.pool.give_buffer(connack);
        if self.events {
            outbox.events.push(Event::ClientConnected {
                conn: key,
                client_id: client_id.into(),
                version,
                clean_start: connect.clean_start,
                session_present,
                keep_alive_s: self.open(key).keep_alive_s,
                username: username.or_else(|| connect.username.map(Into::into)),
            });
        }
        self.pump(session, outbox);
        Ok(Next::Continue)
    }

    /// What stands against this client, after its packet was found well-formed.
    fn reason_to_refuse(&self, connect: &Connect<'_>, assigned: Option<&str>) -> Option<End> {
        if let Some(packet_bytes_max) = connect.properties.packet_bytes_max
            && packet_bytes_max.get() < SMALL_PACKET_BYTES_MAX
        {
            let mut connack = Vec::new();
            let mut user = Vec::new();
            if asks_for(connect, DURABILITY).is_some() {
                Property::UserProperty(DURABILITY, Durability::Process.name()).put(&mut user);
            }
            let granted = Granted {
                assigned,
                session_present: false,
                user: UserProperties::from_raw(&user).expect("written just now"),
                method: None,
                data: None,
            };
            self.put_connack(&mut connack, connect, &granted);
            if connack.len() > packet_bytes_max.get() as usize {
                return Some(End {
                    reason: ReasonCode::PacketTooLarge,
                    what: "the CONNACK with this broker's limits is larger than the client's Maximum Packet Size",
                    statement: "MQTT-3.1.2-24",
                });
            }
        }
        None
    }

    /// Finds or makes the session, and ends the connection that had it (§3.1.4). Returns what it was before, if it is resumed.
    fn session_for(
        &mut self,
        key: ConnKey,
        connect: &Connect<'_>,
        client_id: &str,
        username: Option<&str>,
        outbox: &mut Outbox,
    ) -> (SessionKey, Option<Before>) {
        let mut existing = self.find_session(client_id);
        if let Some(session_key) = existing {
            if let Some(old) = self.sessions[session_key.0 as usize].conn {
                self.counters.takeovers += 1;
                self.count_takeover(key, client_id, outbox);
                if self.events {
                    outbox.events.push(Event::ClientTakeover {
                        old,
                        new: key,
                        client_id: client_id.into(),
                    });
                }
                if self.open(old).version.is_v5() {
                    // MQTT 5 [MQTT-3.1.4-3]: 0x8E before closing.
                    self.control(old, outbox, |out| {
                        put_disconnect(out, ReasonCode::SessionTakenOver, None);
                    });
                }
                self.close(old, outbox);
                let session = &mut self.sessions[session_key.0 as usize];
                session.conn = None;
                session.disconnected_at_ms = self.now.mono_ms as i64;
                self.take_back_if_ungranted(old, session_key);
                self.set_online(session_key, false, outbox);
            }
            // What waits for one user is none of another's business, though both give the same Client Identifier.
            let is_of_another = self
                .owner_of(session_key)
                .is_some_and(|owner| owner != username);
            let will_is_due = self.is_will_due(session_key);
            // A session whose time is over is not resumed, even when both meet (§3.1.2.11.2).
            let (_, end_ms) = self.session_deadlines(session_key);
            let is_over = end_ms.is_some_and(|end_ms| end_ms <= self.now.mono_ms);
            if connect.clean_start || is_over || is_of_another {
                self.end_session(session_key, outbox);
                existing = None;
            } else if will_is_due {
                self.publish_will(session_key, None, outbox);
            }
        }
        let before = existing.map(|session_key| {
            let session = &mut self.sessions[session_key.0 as usize];
            Before {
                // [MQTT-3.1.3-9]: resumed before the Will Delay Interval passed.
                will: session.will.take(),
                expiry_s: session.expiry_s,
                disconnected_at_ms: session.disconnected_at_ms,
            }
        });
        let session_key = existing.unwrap_or_else(|| self.new_session(client_id));
        let expiry_s = match connect.version {
            Version::V5 => connect
                .properties
                .session_expiry_s
                .unwrap_or(0)
                .min(self.limits.session_expiry_s_max),
            _ if connect.clean_start => 0,
            _ => self.limits.session_expiry_v3_s,
        };
        let session = &mut self.sessions[session_key.0 as usize];
        session.conn = Some(key);
        session.expiry_s = expiry_s;
        session.will = connect.will.as_ref().map(|will| Box::new(Will::new(will)));
        if let Some(state) = &mut session.state {
            state.inflight.rewind();
        }
        if connect.version.is_v5() {
            let chosen = asks_for(connect, QUEUE_FULL).and_then(QueueFullPolicy::from_name);
            session.chose_queue_full = chosen.is_some();
            session.queue_full =
                chosen.unwrap_or_else(|| self.limits.queue_full_for(&session.client_id));
        }
        self.make_stored(session_key);
        (session_key, before)
    }

    /// The connection of a session ends. If its CONNACK has not left, it was never accepted: its Will is nobody's (§3.1.2.5), and
    /// the time of the session, and of the Will of the connection before, runs on.
    pub(super) fn take_back_if_ungranted(&mut self, key: ConnKey, session: SessionKey) {
        let Some(before) = self.keeper.ungranted.remove(&u64::from(key.index)) else {
            return;
        };
        let session = &mut self.sessions[session.0 as usize];
        session.will = None;
        if let Some(before) = before {
            session.will = before.will;
            session.expiry_s = before.expiry_s;
            session.disconnected_at_ms = before.disconnected_at_ms;
        }
    }

    pub(super) fn new_session(&mut self, client_id: &str) -> SessionKey {
        let queue_full = self.limits.queue_full_for(client_id);
        let session = Session::new(client_id.into(), queue_full);
        let key = self.sessions.insert(session) as u32;
        self.client_ids.insert(&self.sessions, key);
        SessionKey(key)
    }

    pub(super) fn find_session(&self, client_id: &str) -> Option<SessionKey> {
        let found = self.client_ids.find(&self.sessions, client_id);
        found.map(SessionKey)
    }

    fn open_connection(&mut self, key: ConnKey, connect: &Connect<'_>, session: SessionKey) {
        let now_ms = self.now.mono_ms;
        let limits = &self.limits;
        let keep_alive_s = keep_alive_in_force(connect, limits.keep_alive_s_max);
        let conn = &mut self.conns[key.index as usize];
        assert!(conn.stage == Stage::AwaitsConnect);
        conn.stage = Stage::Open;
        conn.version = connect.version;
        conn.session = session;
        conn.keep_alive_s = keep_alive_s;
        let properties = &connect.properties;
        conn.wants_problem_information = properties.request_problem_information;
        conn.receive_maximum = properties
            .receive_maximum
            .map_or(u16::MAX, NonZeroU16::get)
            .min(limits.inflight_messages_max);
        conn.topic_alias_maximum = properties
            .topic_alias_maximum
            .min(limits.outbound_topic_alias_max);
        if keep_alive_s > 0 {
            self.set_conn_timer(key, now_ms + keep_alive_ms(keep_alive_s));
        }
    }

    /// Appends the CONNACK that grants a CONNECT.
    fn put_connack(&self, out: &mut Vec<u8>, connect: &Connect<'_>, granted: &Granted<'_>) {
        let assigned = granted.assigned;
        let limits = &self.limits;
        let asked_expiry_s = connect.properties.session_expiry_s.unwrap_or(0);
        let keep_alive_s = keep_alive_in_force(connect, limits.keep_alive_s_max);
        let mut response_topic = None;
        if connect.properties.request_response_information {
            let client_id = assigned.unwrap_or(connect.client_id);
            let topic = format!("response/{client_id}");
            let is_usable = TopicFilter::parse(&topic).is_ok_and(|filter| !filter.has_wildcard());
            response_topic = is_usable.then_some(topic);
        }
        // Everything that differs from MQTT 5's defaults (§3.2.2.3).
        let properties = ConnackProperties {
            session_expiry_s: (asked_expiry_s > limits.session_expiry_s_max)
                .then_some(limits.session_expiry_s_max),
            receive_maximum: NonZeroU16::new(limits.receive_maximum),
            packet_bytes_max: NonZeroU32::new(limits.packet_bytes_max),
            assigned_client_id: assigned,
            topic_alias_maximum: limits.topic_alias_maximum,
            server_keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            response_information: response_topic.as_deref(),
            user: granted.user.clone(),
            authentication_method: granted.method,
            authentication_data: granted.data,
            ..ConnackProperties::default()
        };
        let connack = Connack {
            session_present: granted.session_present,
            reason: ReasonCode::Success,
            properties,
        };
        connack.encode(connect.version, out);
    }

    /// Answers a CONNECT that cannot be granted, in the version it was sent in if that is known, and closes.
    pub(super) fn refuse(
        &mut self,
        key: ConnKey,
        answer: Option<Version>,
        client_id: Option<&str>,
        end: End,
        outbox: &mut Outbox,
    ) -> Next {
        if let Some(version) = answer {
            self.put_refusal(key, version, end, outbox);
        }
        if matches!(
            end.reason,
            ReasonCode::BadUserNameOrPassword
                | ReasonCode::NotAuthorized
                | ReasonCode::BadAuthenticationMethod
        ) {
            outbox.auth_failures.push(key);
        }
        if self.events {
            outbox.events.push(Event::ConnectRefused {
                conn: key,
                client_id: client_id.map(Into::into),
                reason: end.reason,
                what: end.what,
                statement: end.statement,
            });
        }
        self.close(key, outbox);
        Next::Stop
    }

    /// The store has not taken the session in time. The client is told, and may try another broker; the session goes on
    /// without it.
    pub(super) fn connack_timed_out(&mut self, key: ConnKey, outbox: &mut Outbox) {
        let conn = self.open(key);
        let (version, session) = (conn.version, conn.session);
        // What was to leave behind CONNACK does not.
        conn.is_corked = false;
        conn.owed = Owed::Nothing;
        let outbound = conn.outbound.take();
        self.pool.discard(outbound);
        let end = End::new(
            ReasonCode::ServerUnavailable,
            "the store does not take the session",
        );
        self.put_refusal(key, version, end, outbox);
        self.close(key, outbox);
        self.detach(session, end, outbox);
    }

    /// Writes a CONNACK that grants nothing.
    fn put_refusal(&mut self, key: ConnKey, version: Version, end: End, outbox: &mut Outbox) {
        // A client of a version that does not exist yet may not know what follows the Reason Code.
        let is_known = end.reason != ReasonCode::UnsupportedProtocolVersion;
        let explains = version.is_v5() && is_known;
        let connack = |reason_string| {
            let properties = ConnackProperties {
                reason_string,
                ..ConnackProperties::default()
            };
            Connack {
                session_present: false,
                reason: end.reason,
                properties,
            }
        };
        let bytes_max = self.conns[key.index as usize].packet_bytes_max as usize;
        self.control(key, outbox, |out| {
            let start = out.len();
            connack(explains.then_some(end.what)).encode(version, out);
            // MQTT 5 [MQTT-3.2.2-19].
            if out.len() - start > bytes_max {
                out.truncate(start);
                connack(None).encode(version, out);
            }
            // [MQTT-3.1.2-24]: then nothing can be said.
            if out.len() - start > bytes_max {
                out.truncate(start);
            }
        });
    }

    /// A Client Identifier that nobody has and this shard owns, so that the connection need not move.
    fn assign_client_id(&mut self) -> Box<str> {
        loop {
            let id = format!("auto-{:016x}", self.next_random());
            if self.placement.owner(&id) == self.id && self.find_session(&id).is_none() {
                return id.into();
            }
        }
    }
}

/// What a connection that is granted changes of the session that it resumes.
#[derive(Debug)]
pub(super) struct Before {
    will: Option<Box<Will>>,
    expiry_s: u32,
    disconnected_at_ms: i64,
}

/// What CONNACK says beside the limits.
struct Granted<'a> {
    assigned: Option<&'a str>,
    session_present: bool,
    user: UserProperties<'a>,
    /// Authentication Method, and the data with which the server proves itself (§3.2.2.3.17).
    method: Option<&'a str>,
    data: Option<&'a [u8]>,
}

/// The value of a User Property of CONNECT.
fn asks_for<'a>(connect: &Connect<'a>, name: &str) -> Option<&'a str> {
    let mut user = connect.properties.user.clone();
    user.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn keep_alive_in_force(connect: &Connect<'_>, keep_alive_s_max: u16) -> u16 {
    let asked = connect.keep_alive_s;
    // Only MQTT 5 clients can be told of another Keep Alive (§3.2.2.3.14).
    if keep_alive_s_max == 0 || !connect.version.is_v5() {
        return asked;
    }
    if asked == 0 {
        keep_alive_s_max
    } else {
        asked.min(keep_alive_s_max)
    }
}

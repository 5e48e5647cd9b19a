//! A client whose listener demands a proof waits until somebody has judged it.
//!
//! ```text
//! AwaitsConnect ── CONNECT ──▶ Asked ── Granted ──▶ CONNECT again, and what came behind it ──▶ Open
//!                                │ ▲                                                            │ ▲
//!                       Continue ▼ │ AUTH                                          AUTH 0x19    ▼ │
//!                             AwaitsAuth                                     ReauthAsked, ReauthAwaitsAuth
//! ```
//!
//! While it is asked about, the client is not read; what had arrived already is kept, bounded. The connect timeout goes
//! on. A connection that closes meanwhile takes its question back. An enhanced authentication (MQTT 5 §4.12) takes
//! several steps; the connection that began with one may go through it again (§4.12.1), and goes on meanwhile.

use super::Shard;
use super::access::ACCOUNT_WITHDRAWN;
use super::connection::{End, Handled, Next, PAUSED_BY_LOGIN, Stage, Whole};
use super::credentials::{AuthRequest, Demand, ExchangeState, Proof, Verdict};
use super::input::ConnKey;
use super::outbox::Outbox;
use crate::access::Identity;
use crate::protocol::auth::Auth;
use crate::protocol::connect::Connect;
use crate::protocol::{PacketType, ReasonCode, UserProperties, Version};
use std::mem::take;
use std::sync::Arc;

/// Bytes kept of a client that is asked about; more than what is under way when it is not read any more.
const HELD_BYTES_MAX: usize = 256 << 10;

/// What is known of a connection whose listener demands something.
#[derive(Debug)]
pub(super) struct Login {
    demand: Demand,
    step: Step,
    client_id: Box<str>,
    /// Whether the Client Identifier is ours.
    is_assigned: bool,
    /// The CONNECT packet.
    connect: Vec<u8>,
    /// What came behind it.
    rest: Vec<u8>,
    /// Authentication Method.
    method: Option<Box<str>>,
    state: Option<ExchangeState>,
    granted: Option<Box<Granted>>,
    /// Alive while an answer is waited for.
    wanted: Option<Arc<()>>,
    /// When its right to be connected ends, in monotonic milliseconds.
    pub(super) expires_at_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    AwaitsConnect,
    Asked,
    AwaitsAuth,
    Granted,
    Open,
    ReauthAsked,
    ReauthAwaitsAuth,
}

/// Who may come in.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) identity: Identity,
    /// Authentication Data of CONNACK.
    pub(super) data: Option<Box<[u8]>>,
}

/// What becomes of a CONNECT.
pub(super) enum Admission {
    Granted(Box<Granted>),
    /// It comes again when it was judged.
    Waits,
    Refused(End),
}

impl Login {
    fn new(demand: Demand) -> Self {
        Self {
            demand,
            step: Step::AwaitsConnect,
            client_id: "".into(),
            is_assigned: false,
            connect: Vec::new(),
            rest: Vec::new(),
            method: None,
            state: None,
            granted: None,
            wanted: None,
            expires_at_ms: None,
        }
    }

    /// Makes a question of which the answer is waited for.
    fn question(
        &mut self,
        conn: ConnKey,
        certified: Option<Box<str>>,
        proof: Proof,
    ) -> AuthRequest {
        let wanted = Arc::new(());
        let request = AuthRequest {
            conn,
            wanted: Arc::downgrade(&wanted),
            client_id: self.client_id.clone(),
            certified,
            proof,
        };
        self.wanted = Some(wanted);
        request
    }

    fn exchange(&mut self, conn: ConnKey, data: Option<&[u8]>) -> Option<AuthRequest> {
        let proof = Proof::Exchange {
            method: self.method.clone()?,
            data: data.unwrap_or_default().into(),
            state: self.state.take(),
        };
        Some(self.question(conn, None, proof))
    }
}

impl Shard {
    pub(super) fn demanded(&mut self, key: ConnKey, demand: Demand) {
        if demand != Demand::Nothing && self.conn(key).is_some() {
            self.logins.insert(key.index, Box::new(Login::new(demand)));
        }
    }

    /// The Client Identifier that was assigned to a client the first time its CONNECT was looked at.
    pub(super) fn assigned_before(&self, key: ConnKey) -> Option<Box<str>> {
        let login = self
            .logins
            .get(&key.index)
            .filter(|login| login.is_assigned)?;
        Some(login.client_id.clone())
    }

    /// Whether the client of a CONNECT may come in, or who has to say so.
    pub(super) fn admission(
        &mut self,
        key: ConnKey,
        connect: &Connect<'_>,
        assigned: Option<&str>,
        whole: &Whole<'_>,
        outbox: &mut Outbox,
    ) -> Admission {
        let certified = self.usernames.get(&key.index).cloned();
        let method = connect.properties.authentication_method;
        let demand = self.logins.get(&key.index).map(|login| login.demand);
        if demand != Some(Demand::Proof) {
            if method.is_some() {
                return Admission::Refused(End {
                    reason: ReasonCode::BadAuthenticationMethod,
                    what: "no such Authentication Method",
                    statement: "MQTT-4.12.0-1",
                });
            }
            // What a client says of itself where nobody checks it makes it nobody.
            let identity = Identity {
                username: certified,
                ..Identity::default()
            };
            let data = None;
            return Admission::Granted(Box::new(Granted { identity, data }));
        }
        let login = self.logins.get_mut(&key.index).expect("it has a demand");
        if let Some(granted) = login.granted.take_if(|_| login.step == Step::Granted) {
            return Admission::Granted(granted);
        }
        login.client_id = assigned.unwrap_or(connect.client_id).into();
        login.is_assigned = assigned.is_some();
        login.connect = whole.packet.to_vec();
        login.rest = whole.rest.to_vec();
        login.method = method.map(Into::into);
        login.step = Step::Asked;
        let proof = match method {
            Some(method) => Proof::Exchange {
                method: method.into(),
                data: connect
                    .properties
                    .authentication_data
                    .unwrap_or_default()
                    .into(),
                state: None,
            },
            None => Proof::Password {
                username: certified
                    .clone()
                    .or_else(|| connect.username.map(Into::into)),
                password: connect.password.map(Into::into),
            },
        };
        outbox.auth.push(login.question(key, certified, proof));
        let conn = &mut self.conns[key.index as usize];
        conn.stage = Stage::Authenticating;
        conn.version = connect.version;
        self.pause(key, PAUSED_BY_LOGIN, outbox);
        Admission::Waits
    }

    /// Bytes from a client that is being authenticated: AUTH packets when it is its turn, else kept for later.
    ///
    /// Returns whether they are to be cut into packets now.
    pub(super) fn takes_login_bytes(&mut self, key: ConnKey, bytes: &[u8]) -> Result<bool, End> {
        let login = self
            .logins
            .get_mut(&key.index)
            .expect("it is being authenticated");
        if login.step == Step::AwaitsAuth {
            return Ok(true);
        }
        if login.rest.len() + bytes.len() > HELD_BYTES_MAX {
            return Err(End::new(
                ReasonCode::QuotaExceeded,
                "too many packets before CONNACK",
            ));
        }
        login.rest.extend_from_slice(bytes);
        Ok(false)
    }

    /// A packet before CONNACK: the next step of an exchange, or a farewell (MQTT 5 [MQTT-3.1.2-30]).
    pub(super) fn login_packet(
        &mut self,
        key: ConnKey,
        packet_type: PacketType,
        whole: &Whole<'_>,
        outbox: &mut Outbox,
    ) -> Result<Next, End> {
        match self.login_step(key, packet_type, whole, outbox) {
            // It is CONNACK that says why (§4.13.1); who gave up does not listen any more.
            Err(end) if end.reason != ReasonCode::Success => {
                let version = self.conns[key.index as usize].version;
                let client_id = self.logins.get(&key.index).map(|it| it.client_id.clone());
                Ok(self.refuse(key, Some(version), client_id.as_deref(), end, outbox))
            }
            done => done,
        }
    }

    fn login_step(
        &mut self,
        key: ConnKey,
        packet_type: PacketType,
        whole: &Whole<'_>,
        outbox: &mut Outbox,
    ) -> Result<Next, End> {
        match packet_type {
            PacketType::Auth => {}
            PacketType::Disconnect => {
                return Err(End::new(ReasonCode::Success, "the client gave up"));
            }
            _ => {
                return Err(End {
                    reason: ReasonCode::ProtocolError,
                    what: "a packet other than AUTH and DISCONNECT before CONNACK",
                    statement: "MQTT-3.1.2-30",
                });
            }
        }
        let auth = Auth::decode(Version::V5, whole.body)?;
        let login = self
            .logins
            .get_mut(&key.index)
            .expect("it is being authenticated");
        check_method(&auth, login)?;
        if auth.reason != ReasonCode::ContinueAuthentication {
            return Err(not_its_turn());
        }
        login.rest = whole.rest.to_vec();
        login.step = Step::Asked;
        outbox.auth.extend(login.exchange(key, auth.data));
        self.pause(key, PAUSED_BY_LOGIN, outbox);
        Ok(Next::Stop)
    }

    /// AUTH of a client that has a session (§4.12.1).
    pub(super) fn reauthenticate(
        &mut self,
        key: ConnKey,
        body: &[u8],
        outbox: &mut Outbox,
    ) -> Handled {
        let login = self
            .logins
            .get_mut(&key.index)
            .filter(|login| login.method.is_some());
        let Some(login) = login else {
            return Err(End {
                reason: ReasonCode::ProtocolError,
                what: "AUTH without an Authentication Method in CONNECT",
                statement: "MQTT-4.12.0-7",
            });
        };
        let auth = Auth::decode(Version::V5, body)?;
        check_method(&auth, login)?;
        match (login.step, auth.reason) {
            (Step::Open, ReasonCode::Reauthenticate) => login.state = None,
            (Step::ReauthAwaitsAuth, ReasonCode::ContinueAuthentication) => {}
            _ => return Err(not_its_turn()),
        }
        login.step = Step::ReauthAsked;
        outbox.auth.extend(login.exchange(key, auth.data));
        Ok(())
    }

    /// Somebody has judged.
    pub(super) fn verdict(&mut self, key: ConnKey, verdict: Verdict, outbox: &mut Outbox) {
        let Some(stage) = self.conn(key).map(|conn| conn.stage) else {
            return;
        };
        let Some(login) = self.logins.get_mut(&key.index) else {
            return;
        };
        if login.wanted.take().is_none() {
            return;
        }
        let verdict = match verdict {
            // It was judged by what held before.
            Verdict::Granted { identity, .. } if self.guard.is_withdrawn(&identity) => {
                Verdict::Refused {
                    reason: ReasonCode::BadUserNameOrPassword,
                    what: ACCOUNT_WITHDRAWN,
                }
            }
            verdict => verdict,
        };
        match (stage, login.step) {
            (Stage::Authenticating, Step::Asked) => self.judged(key, verdict, outbox),
            (Stage::Open, Step::ReauthAsked) => self.judged_again(key, verdict, outbox),
            _ => {}
        }
    }

    fn judged(&mut self, key: ConnKey, verdict: Verdict, outbox: &mut Outbox) {
        let login = self.logins.get_mut(&key.index).expect("it was asked about");
        match verdict {
            Verdict::Granted { identity, data } => {
                let identity = *identity;
                login.granted = Some(Box::new(Granted { identity, data }));
                login.step = Step::Granted;
                let mut bytes = take(&mut login.connect);
                bytes.append(&mut login.rest);
                self.conns[key.index as usize].stage = Stage::AwaitsConnect;
                self.resume(key, PAUSED_BY_LOGIN, outbox);
                self.feed(key, &bytes, outbox);
            }
            Verdict::Continue { data, state } => {
                login.state = Some(state);
                login.step = Step::AwaitsAuth;
                let rest = take(&mut login.rest);
                self.put_auth(key, ReasonCode::ContinueAuthentication, Some(&data), outbox);
                self.resume(key, PAUSED_BY_LOGIN, outbox);
                if !rest.is_empty() {
                    self.feed(key, &rest, outbox);
                }
            }
            Verdict::Refused { reason, what } => {
                let client_id = login.client_id.clone();
                let version = self.conns[key.index as usize].version;
                let end = End::new(reason, what);
                self.refuse(key, Some(version), Some(&client_id), end, outbox);
            }
        }
    }

    /// The connect timeout has passed while the client, or whoever judges, was to say something.
    pub(super) fn login_timed_out(&mut self, key: ConnKey, outbox: &mut Outbox) {
        let login = self
            .logins
            .get(&key.index)
            .expect("it is being authenticated");
        let end = if login.step == Step::AwaitsAuth {
            let what = "no AUTH within the time allowed";
            End::new(ReasonCode::NotAuthorized, what)
        } else {
            let what = "nobody could say in time who the client is";
            End::new(ReasonCode::ServerBusy, what)
        };
        let client_id = login.client_id.clone();
        let version = self.conns[key.index as usize].version;
        self.refuse(key, Some(version), Some(&client_id), end, outbox);
    }

    fn judged_again(&mut self, key: ConnKey, verdict: Verdict, outbox: &mut Outbox) {
        let session = self.open(key).session;
        let login = self.logins.get_mut(&key.index).expect("it was asked about");
        match verdict {
            Verdict::Granted { identity, data } => {
                login.step = Step::Open;
                let is_other = self
                    .owner_of(session)
                    .is_some_and(|owner| owner != identity.username.as_deref());
                if is_other {
                    let end = End::new(
                        ReasonCode::NotAuthorized,
                        "a re-authentication as somebody else",
                    );
                    return self.end_connection(key, end, outbox);
                }
                self.put_auth(key, ReasonCode::Success, data.as_deref(), outbox);
                self.let_in(key, *identity);
            }
            Verdict::Continue { data, state } => {
                login.state = Some(state);
                login.step = Step::ReauthAwaitsAuth;
                self.put_auth(key, ReasonCode::ContinueAuthentication, Some(&data), outbox);
            }
            Verdict::Refused { reason, what } => {
                // DISCONNECT has no code for bad credentials (§3.14.2.1).
                let reason = match reason {
                    ReasonCode::ServerBusy => reason,
                    _ => ReasonCode::NotAuthorized,
                };
                self.end_connection(key, End::new(reason, what), outbox);
            }
        }
    }

    /// The client of an open connection is this one, until its token ends.
    pub(super) fn let_in(&mut self, key: ConnKey, identity: Identity) {
        let session = self.open(key).session;
        let expires_at_ms = identity.expires_at_ms.map(|wall_ms| {
            let remaining_ms = wall_ms.saturating_sub(self.now.wall_ms);
            self.now.mono_ms.saturating_add(remaining_ms)
        });
        self.set_identity(session, identity);
        let Some(login) = self.logins.get_mut(&key.index) else {
            return;
        };
        login.step = Step::Open;
        login.expires_at_ms = expires_at_ms;
        if login.method.is_none() && expires_at_ms.is_none() {
            self.logins.remove(&key.index);
        }
        if let Some(at_ms) = expires_at_ms {
            self.set_conn_timer(key, at_ms);
        }
    }

    /// The Authentication Method that CONNACK has to name again (§3.2.2.3.17).
    pub(super) fn login_method(&self, key: ConnKey) -> Option<&str> {
        self.logins.get(&key.index)?.method.as_deref()
    }

    fn put_auth(
        &mut self,
        key: ConnKey,
        reason: ReasonCode,
        data: Option<&[u8]>,
        outbox: &mut Outbox,
    ) {
        let method = self.login_method(key).map(Box::<str>::from);
        self.control(key, outbox, |out| {
            Auth {
                reason,
                method: method.as_deref(),
                data,
                reason_string: None,
                user: UserProperties::default(),
            }
            .encode(out);
        });
    }
}

/// MQTT 5 [MQTT-4.12.0-5], [MQTT-4.12.1-1]: the method stays the same.
fn check_method(auth: &Auth<'_>, login: &Login) -> Handled {
    if auth.method == login.method.as_deref() {
        return Ok(());
    }
    Err(End {
        reason: ReasonCode::BadAuthenticationMethod,
        what: "AUTH with another Authentication Method than CONNECT",
        statement: "MQTT-4.12.0-5",
    })
}

fn not_its_turn() -> End {
    End::new(
        ReasonCode::ProtocolError,
        "AUTH at this point of the exchange",
    )
}

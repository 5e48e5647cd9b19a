//! What a shard asks about a client that wants in, and what it is answered.
//!
//! A shard never checks a password: it leaves an [`AuthRequest`] in its `Outbox`, keeps the client waiting, and goes on
//! when an `Input::Verdict` comes. Whoever answers may take as long as the connect timeout allows, in any order.

use super::input::ConnKey;
use crate::access::Identity;
use crate::protocol::ReasonCode;
use std::fmt;
use std::sync::Weak;

/// What the listener of a connection demands of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: what a client says of itself is not looked at, and it is nobody in particular.
    #[default]
    Nothing,
    /// A certificate, which the transport has verified.
    Certificate,
    /// A proof that somebody else has to judge.
    Proof,
}

/// A question about one client.
#[derive(Debug)]
pub struct AuthRequest {
    /// Whose answer it will be.
    pub conn: ConnKey,
    /// Dead when nobody waits for the answer any more.
    pub wanted: Weak<()>,
    /// Client Identifier.
    pub client_id: Box<str>,
    /// The User Name in the client's certificate, if it showed one.
    pub certified: Option<Box<str>>,
    /// What it shows.
    pub proof: Proof,
}

/// What a client shows of itself.
pub enum Proof {
    /// User Name and Password of CONNECT.
    Password {
        /// User Name; that of the certificate, if there is one.
        username: Option<Box<str>>,
        /// Password.
        password: Option<Box<[u8]>>,
    },
    /// A step of an enhanced authentication (MQTT 5 §4.12).
    Exchange {
        /// Authentication Method.
        method: Box<str>,
        /// Authentication Data.
        data: Box<[u8]>,
        /// What [`Verdict::Continue`] brought for this step; none for the first.
        state: Option<ExchangeState>,
    },
}

impl fmt::Debug for Proof {
    /// Without its secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => f
                .debug_struct("Password")
                .field("username", username)
                .finish_non_exhaustive(),
            Self::Exchange { method, .. } => f
                .debug_struct("Exchange")
                .field("method", method)
                .finish_non_exhaustive(),
        }
    }
}

/// What whoever judges has to know again at the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeState(pub Box<str>);

/// The answer to an [`AuthRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client is who it says.
    Granted {
        /// Who that is.
        identity: Box<Identity>,
        /// Authentication Data of the CONNACK, or of the AUTH that ends a re-authentication.
        data: Option<Box<[u8]>>,
    },
    /// The exchange goes on.
    Continue {
        /// Authentication Data of the AUTH to send.
        data: Box<[u8]>,
        /// To be given back with the client's next step.
        state: ExchangeState,
    },
    /// It is not, or nobody can tell at present.
    Refused {
        /// One of CONNACK's: 0x86, 0x87, 0x88, 0x89, 0x8C.
        reason: ReasonCode,
        /// What happened, in words.
        what: &'static str,
    },
}

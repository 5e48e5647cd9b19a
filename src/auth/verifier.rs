//! Judges what a client shows, with everything that was loaded for it.

use super::cache::{Cache, Tag, Tagger};
use super::http::{Answer, Question, Service};
use super::jwt::{self, Bearer, TokenKeys};
use super::scram::{self, ScramError};
use super::users::Users;
use crate::access::Identity;
use crate::config::listener::AuthMethod;
use crate::config::login::TokenRules;
use crate::protocol::ReasonCode;
use crate::shard::credentials::{AuthRequest, ExchangeState, Proof, Verdict};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Credentials that are remembered: about 100 bytes each.
const CACHE_ENTRIES_MAX: usize = 1 << 16;
/// A client that comes again with another Password of this length or more is refused unread: hashing is not free.
const PASSWORD_BYTES_MAX: usize = 8 << 10;

const WRONG_PASSWORD: Verdict = Verdict::Refused {
    reason: ReasonCode::BadUserNameOrPassword,
    what: "the User Name or the Password is wrong",
};

fn not_authorized(what: &'static str) -> Verdict {
    Verdict::Refused {
        reason: ReasonCode::NotAuthorized,
        what,
    }
}

/// A request with what the shell knows of the connection.
#[derive(Debug)]
pub struct Task {
    /// What the shard asks.
    pub request: AuthRequest,
    /// What its listener wants.
    pub method: AuthMethod,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The client's address, if it has one.
    pub peer: Option<IpAddr>,
}

/// What was loaded: replaced as a whole when it is read again.
#[derive(Debug, Default)]
pub struct Sources {
    /// The password file.
    pub users: Option<Users>,
    /// Keys and demands of tokens.
    pub tokens: Option<(TokenKeys, TokenRules)>,
    /// The service.
    pub service: Option<Service>,
}

/// What outlives a reload.
#[derive(Debug)]
pub struct Memory {
    tagger: Tagger,
    passwords: Cache<()>,
    answers: Cache<Box<Identity>>,
    random: SystemRandom,
}

impl Memory {
    /// Empty, with 32 random bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self {
            tagger: Tagger::new(secret),
            passwords: Cache::new(CACHE_ENTRIES_MAX),
            answers: Cache::new(CACHE_ENTRIES_MAX),
            random: SystemRandom::new(),
        }
    }
}

/// Sources and memory together.
#[derive(Clone, Copy, Debug)]
pub struct Verifier<'a> {
    /// What was loaded.
    pub sources: &'a Sources,
    /// What is remembered.
    pub memory: &'a Memory,
}

impl Verifier<'_> {
    /// The verdict on what was found right before, in a microsecond; none has to be computed.
    pub fn recall(&self, task: &Task) -> Option<Verdict> {
        let Proof::Password { username, password } = &task.request.proof else {
            return None;
        };
        let password = password.as_deref()?;
        let now = Instant::now();
        match task.method {
            AuthMethod::Password => {
                let name = username.as_deref()?;
                let tag = self.password_tag(name, password)?;
                self.memory.passwords.get(&tag, now)?;
                Some(granted(self.user(name)))
            }
            AuthMethod::Http => {
                let tag = self.answer_tag(task)?;
                let identity = self.memory.answers.get(&tag, now)?;
                Some(granted_box(identity))
            }
            _ => None,
        }
    }

    /// The verdict. May take a tenth of a second of computing, or as long as a service is given for its answer.
    pub fn judge(&self, task: &Task) -> Verdict {
        if let Some(verdict) = self.recall(task) {
            return verdict;
        }
        match (&task.request.proof, task.method) {
            (Proof::Exchange { method, .. }, AuthMethod::Password)
                if &**method == scram::METHOD =>
            {
                self.exchange(&task.request)
            }
            (Proof::Exchange { .. }, _) => Verdict::Refused {
                reason: ReasonCode::BadAuthenticationMethod,
                what: "no such Authentication Method",
            },
            (Proof::Password { username, password }, method) => {
                let (username, password) = (username.as_deref(), password.as_deref());
                if password.is_some_and(|password| {
                    method == AuthMethod::Password && password.len() > PASSWORD_BYTES_MAX
                }) {
                    return WRONG_PASSWORD;
                }
                match method {
                    AuthMethod::Password => self.password(username, password),
                    AuthMethod::Jwt => self.token(password, &task.request.client_id),
                    AuthMethod::Http => self.ask(task, username, password),
                    AuthMethod::Anonymous | AuthMethod::Certificate => {
                        not_authorized("its listener asks for nothing that could be checked")
                    }
                }
            }
        }
    }

    fn password(&self, username: Option<&str>, password: Option<&[u8]>) -> Verdict {
        let Some(users) = &self.sources.users else {
            return not_authorized("there is no password file");
        };
        let (Some(name), Some(password)) = (username, password) else {
            return not_authorized("no User Name and Password");
        };
        let Some(found) = users.find(name) else {
            return WRONG_PASSWORD;
        };
        // Both are always looked at, so that time does not tell whether there is such a user.
        let is_right = found.hash.verify(password);
        if !is_right || !found.is_known {
            return WRONG_PASSWORD;
        }
        if let Some(tag) = self.password_tag(name, password) {
            self.memory.passwords.insert(tag, (), None);
        }
        granted(self.user(name))
    }

    /// Somebody of the password file.
    fn user(&self, name: &str) -> Identity {
        let users = self.sources.users.as_ref();
        Identity {
            username: Some(name.into()),
            account: users.and_then(|users| users.fingerprint(name)),
            ..Identity::default()
        }
    }

    /// With the hash in it, what is remembered ends when the user's line changes.
    fn password_tag(&self, name: &str, password: &[u8]) -> Option<Tag> {
        let found = self.sources.users.as_ref()?.find(name)?;
        let hash = found.is_known.then(|| found.hash.to_string())?;
        Some(
            self.memory
                .tagger
                .tag(&[name.as_bytes(), password, hash.as_bytes()]),
        )
    }

    fn token(&self, password: Option<&[u8]>, client_id: &str) -> Verdict {
        let Some((keys, rules)) = &self.sources.tokens else {
            return not_authorized("there are no keys for tokens");
        };
        let Some(token) = password else {
            return not_authorized("no token in the Password");
        };
        let bearer = Bearer {
            client_id,
            now_s: since_1970().as_secs(),
        };
        match jwt::verify(keys, rules, token, bearer) {
            Ok(identity) => granted(identity),
            Err(what) => not_authorized(what),
        }
    }

    fn ask(&self, task: &Task, username: Option<&str>, password: Option<&[u8]>) -> Verdict {
        let Some(service) = &self.sources.service else {
            return not_authorized("there is no authentication service");
        };
        let Ok(password) = password.map(std::str::from_utf8).transpose() else {
            return WRONG_PASSWORD;
        };
        let peer = task.peer.map(|peer| peer.to_string());
        let question = Question {
            client_id: &task.request.client_id,
            username,
            password,
            peer: peer.as_deref(),
            listener: &task.listener,
            certified: task.request.certified.as_deref(),
        };
        match service.ask(question) {
            Answer::Allow(identity) => {
                let left = identity.expires_at_ms.map(|at_ms| {
                    let at = Duration::from_millis(at_ms);
                    at.saturating_sub(since_1970())
                });
                if left == Some(Duration::ZERO) {
                    return not_authorized("what the authentication service grants is over");
                }
                let cache_time = service.cache_time().min(left.unwrap_or(Duration::MAX));
                if let Some(tag) = self
                    .answer_tag(task)
                    .filter(|_| cache_time > Duration::ZERO)
                {
                    let until = Instant::now() + cache_time;
                    self.memory
                        .answers
                        .insert(tag, identity.clone(), Some(until));
                }
                granted_box(identity)
            }
            Answer::Deny => WRONG_PASSWORD,
            Answer::Unavailable(what) => Verdict::Refused {
                reason: ReasonCode::ServerUnavailable,
                what,
            },
        }
    }

    /// Everything that the service is told.
    fn answer_tag(&self, task: &Task) -> Option<Tag> {
        let Proof::Password { username, password } = &task.request.proof else {
            return None;
        };
        let peer = task.peer.map(|peer| peer.to_string());
        let text = |text: Option<&str>| text.map_or_else(|| "-".into(), |text| format!("={text}"));
        Some(self.memory.tagger.tag(&[
            task.request.client_id.as_bytes(),
            text(username.as_deref()).as_bytes(),
            password.as_deref()?,
            text(peer.as_deref()).as_bytes(),
            task.listener.as_bytes(),
            text(task.request.certified.as_deref()).as_bytes(),
        ]))
    }

    fn exchange(&self, request: &AuthRequest) -> Verdict {
        let Proof::Exchange { data, state, .. } = &request.proof else {
            return WRONG_PASSWORD;
        };
        let Some(users) = &self.sources.users else {
            return not_authorized("there is no password file");
        };
        let failed = |error| match error {
            ScramError::Malformed(what) => not_authorized(what),
            ScramError::WrongProof => not_authorized("the User Name or the Password is wrong"),
        };
        match state {
            None => {
                let mut nonce = [0; 18];
                if self.memory.random.fill(&mut nonce).is_err() {
                    return Verdict::Refused {
                        reason: ReasonCode::ServerUnavailable,
                        what: "the system gives no random bytes",
                    };
                }
                match scram::begin(users, data, &STANDARD_NO_PAD.encode(nonce)) {
                    Ok(first) => Verdict::Continue {
                        data: first.reply.into_bytes().into(),
                        state: ExchangeState(first.state.into()),
                    },
                    Err(error) => failed(error),
                }
            }
            Some(ExchangeState(state)) => match scram::finish(users, state, data) {
                Ok(finished) => Verdict::Granted {
                    identity: Box::new(self.user(&finished.username)),
                    data: Some(finished.reply.into_bytes().into()),
                },
                Err(error) => failed(error),
            },
        }
    }
}

/// The time of day.
fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

fn granted(identity: Identity) -> Verdict {
    granted_box(Box::new(identity))
}

fn granted_box(identity: Box<Identity>) -> Verdict {
    Verdict::Granted {
        identity,
        data: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::{HashKind, PasswordHash};
    use super::*;
    use crate::shard::input::ConnKey;
    use std::sync::Weak;

    fn users(kind: HashKind, password: &[u8]) -> Users {
        let line = format!("al:{}\n", PasswordHash::new(kind, password, [9; 16]));
        Users::parse("users", &line, &[1; 32]).expect("valid")
    }

    fn task(method: AuthMethod, username: Option<&str>, password: Option<&[u8]>) -> Task {
        let request = AuthRequest {
            conn: ConnKey {
                index: 0,
                generation: 0,
            },
            wanted: Weak::new(),
            client_id: "c1".into(),
            certified: None,
            proof: Proof::Password {
                username: username.map(Into::into),
                password: password.map(Into::into),
            },
        };
        Task {
            request,
            method,
            listener: "tcp".into(),
            peer: None,
        }
    }

    fn name(verdict: &Verdict) -> Result<&str, ReasonCode> {
        match verdict {
            Verdict::Granted { identity, .. } => Ok(identity.username.as_deref().unwrap_or("")),
            Verdict::Refused { reason, .. } => Err(*reason),
            Verdict::Continue { .. } => Err(ReasonCode::ContinueAuthentication),
        }
    }

    #[test]
    fn passwords_are_remembered_until_their_line_changes() {
        let memory = Memory::new(&[1; 32]);
        let mut sources = Sources {
            users: Some(users(HashKind::Sha512Pbkdf2, b"secret")),
            ..Sources::default()
        };
        let right = task(AuthMethod::Password, Some("al"), Some(b"secret"));
        let judge = |sources: &Sources, task: &Task| {
            let verifier = Verifier {
                sources,
                memory: &memory,
            };
            (verifier.recall(task).is_some(), verifier.judge(task))
        };
        let (recalled, verdict) = judge(&sources, &right);
        assert!(!recalled);
        assert_eq!(name(&verdict), Ok("al"));
        assert!(judge(&sources, &right).0);
        for wrong in [
            task(AuthMethod::Password, Some("al"), Some(b"Secret")),
            task(AuthMethod::Password, Some("bo"), Some(b"secret")),
            task(
                AuthMethod::Password,
                Some("al"),
                Some(&[b'x'; PASSWORD_BYTES_MAX + 1]),
            ),
        ] {
            // Whatever is wrong, the answer is the same.
            assert_eq!(judge(&sources, &wrong), (false, WRONG_PASSWORD));
        }
        for (username, password) in [
            (None, None),
            (Some("al"), None),
            (None, Some(&b"secret"[..])),
        ] {
            let (_, verdict) = judge(&sources, &task(AuthMethod::Password, username, password));
            assert_eq!(name(&verdict), Err(ReasonCode::NotAuthorized));
        }
        sources.users = Some(users(HashKind::Sha512Pbkdf2, b"other"));
        assert_eq!(judge(&sources, &right), (false, WRONG_PASSWORD));
        sources.users = None;
        assert_eq!(
            name(&judge(&sources, &right).1),
            Err(ReasonCode::NotAuthorized)
        );
    }

    #[test]
    fn what_is_not_loaded_lets_nobody_in() {
        let (sources, memory) = (Sources::default(), Memory::new(&[1; 32]));
        let verifier = Verifier {
            sources: &sources,
            memory: &memory,
        };
        for method in [
            AuthMethod::Anonymous,
            AuthMethod::Password,
            AuthMethod::Certificate,
            AuthMethod::Jwt,
            AuthMethod::Http,
        ] {
            let verdict = verifier.judge(&task(method, Some("al"), Some(b"secret")));
            assert_eq!(name(&verdict), Err(ReasonCode::NotAuthorized), "{method:?}");
        }
    }
}

//! A service that is asked over HTTP, in the words of EMQX.
//!
//! ```text
//! POST  {"clientid": "c1", "username": "al", "password": "secret", "peerhost": "10.0.0.7", "listener": "tcp"}
//! 200   {"result": "allow", "is_superuser": false, "acl": […], "groups": […], "expire_at": 1790000000}
//! 204   the same as {"result": "allow"}
//! ```
//!
//! `result` may also be `deny` or `ignore`, which lets nobody in either, for there is nobody else to ask. Any other status, an
//! answer that is not understood, and no answer in time are no verdict: the client is told to come again. After several
//! of these in a row the service is left alone for a while.

use super::claims;
use crate::access::Identity;
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// An answer longer than this is none of ours.
const ANSWER_BYTES_MAX: u64 = 256 << 10;
/// Failures in a row after which the service is left alone.
const FAILURES_MAX: u32 = 5;
/// For how long.
const REST: Duration = Duration::from_secs(5);
/// Where Linux distributions keep the authorities that everyone trusts.
const SYSTEM_CA_FILES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// `http://` or `https://`.
    pub url: String,
    /// For the whole of question and answer.
    pub timeout: Duration,
    /// How long an `allow` is remembered; zero is not at all.
    pub cache: Duration,
    /// Authorities of the service's certificate; none is those of the system.
    pub ca_file: Option<PathBuf>,
    /// Value of the header `Authorization`, if the service wants to know who asks.
    pub authorization: Option<String>,
}

/// What the service is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Client Identifier.
    pub client_id: &'a str,
    /// User Name.
    pub username: Option<&'a str>,
    /// Password; one that is not UTF-8 cannot be asked about.
    pub password: Option<&'a str>,
    /// The client's address.
    pub peer: Option<&'a str>,
    /// The name of its listener.
    pub listener: &'a str,
    /// The name in its certificate.
    pub certified: Option<&'a str>,
}

/// What it said.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The client may come in.
    Allow(Box<Identity>),
    /// It may not.
    Deny,
    /// Nothing that could be used.
    Unavailable(&'static str),
}

/// The service.
pub struct Service {
    spec: ServiceSpec,
    agent: Agent,
    breaker: Mutex<Breaker>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("url", &self.spec.url)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Reads the authorities and prepares to ask; nobody is asked yet.
    ///
    /// Errors: a file that cannot be read or has no certificate.
    pub fn new(spec: ServiceSpec) -> Result<Self, String> {
        let mut config = Agent::config_builder()
            .timeout_global(Some(spec.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("ringmq/", env!("CARGO_PKG_VERSION")));
        if spec.url.starts_with("https://") {
            let roots = authorities(spec.ca_file.clone())?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            config = config.tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::from(roots))
                    .unversioned_rustls_crypto_provider(provider)
                    .build(),
            );
        }
        Ok(Self {
            spec,
            agent: config.build().new_agent(),
            breaker: Mutex::default(),
        })
    }

    /// How long an `allow` may be remembered.
    pub fn cache_time(&self) -> Duration {
        self.spec.cache
    }

    /// Asks. Waits for the answer as long as the timeout allows, or not at all while the service is left alone.
    pub fn ask(&self, question: Question<'_>) -> Answer {
        if !self.breaker().lets_through(Instant::now()) {
            return Answer::Unavailable(
                "the authentication service fails and is left alone for now",
            );
        }
        let answer = self.exchange(question);
        let is_answer = !matches!(answer, Answer::Unavailable(_));
        self.breaker().note(is_answer, Instant::now());
        answer
    }

    fn exchange(&self, question: Question<'_>) -> Answer {
        let body = json!({
            "clientid": question.client_id,
            "username": question.username,
            "password": question.password,
            "peerhost": question.peer,
            "listener": question.listener,
            "cert_common_name": question.certified,
        });
        let mut request = self
            .agent
            .post(&self.spec.url)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json");
        if let Some(authorization) = &self.spec.authorization {
            request = request.header("Authorization", authorization);
        }
        let Ok(mut response) = request.send(&body.to_string()) else {
            return Answer::Unavailable("the authentication service does not answer");
        };
        let status = response.status().as_u16();
        if status == 204 {
            return understood(&json!({"result": "allow"}), question);
        }
        if status != 200 {
            return Answer::Unavailable("the authentication service answers with an error");
        }
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec();
        let Some(value) = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body).ok())
        else {
            return Answer::Unavailable("the answer of the authentication service is no JSON");
        };
        understood(&value, question)
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        // Two numbers, whole after any panic.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn understood(answer: &Value, question: Question<'_>) -> Answer {
    const NOT_UNDERSTOOD: Answer =
        Answer::Unavailable("the answer of the authentication service is not understood");
    match answer.get("result").and_then(Value::as_str) {
        Some("allow") => {}
        Some("deny" | "ignore") => return Answer::Deny,
        _ => return NOT_UNDERSTOOD,
    }
    let field = |name: &str| answer.get(name).unwrap_or(&Value::Null);
    let expires_at_ms = match field("expire_at") {
        Value::Null => None,
        value => match value
            .as_u64()
            .and_then(|seconds| seconds.checked_mul(1_000))
        {
            Some(at_ms) => Some(at_ms),
            None => return NOT_UNDERSTOOD,
        },
    };
    let is_superuser = match field("is_superuser") {
        Value::Null => false,
        Value::Bool(is_superuser) => *is_superuser,
        _ => return NOT_UNDERSTOOD,
    };
    let rules = claims::rules(field("acl"), "the authentication service");
    let (Ok(rules), Ok(groups)) = (rules, claims::groups(field("groups"))) else {
        return NOT_UNDERSTOOD;
    };
    Answer::Allow(Box::new(Identity {
        username: question.username.map(Into::into),
        groups,
        rules: rules.map(Box::new),
        is_superuser,
        expires_at_ms,
        account: None,
    }))
}

fn authorities(file: Option<PathBuf>) -> Result<Vec<Certificate<'static>>, String> {
    let file = file
        .or_else(|| {
            let mut known = SYSTEM_CA_FILES.iter().map(PathBuf::from);
            known.find(|path| path.exists())
        })
        .ok_or("this system has no file of certificate authorities; name one")?;
    let shown = file.display();
    let pem = std::fs::read(&file).map_err(|error| format!("{shown}: {error}"))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(format!("{shown}: there is no certificate in it"));
    }
    Ok(certificates)
}

/// Counts failures in a row; from [`FAILURES_MAX`] on, one question per [`REST`] is let through.
#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Breaker {
    fn lets_through(&mut self, now: Instant) -> bool {
        match self.rests_until {
            Some(until) if now < until => false,
            Some(_) => {
                // This one tries; the others wait for what becomes of it.
                self.rests_until = Some(now + REST);
                true
            }
            None => true,
        }
    }

    fn note(&mut self, is_answer: bool, now: Instant) {
        if is_answer {
            *self = Self::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX {
            self.rests_until = Some(now + REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread;

    const QUESTION: Question<'static> = Question {
        client_id: "c1",
        username: Some("al"),
        password: Some("secret"),
        peer: Some("127.0.0.1"),
        listener: "tcp",
        certified: None,
    };

    /// A service that gives these answers, one per connection, and returns the bodies it was sent.
    fn service(answers: Vec<String>) -> (Service, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let url = format!("http://{}/auth", listener.local_addr().expect("bound"));
        let thread = thread::spawn(move || {
            let mut bodies = Vec::new();
            for answer in answers {
                let (stream, _) = listener.accept().expect("a question");
                let mut reader = BufReader::new(stream);
                let mut bytes = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).expect("a header");
                    if line == "\r\n" {
                        break;
                    }
                    if let Some(length) = line.to_lowercase().strip_prefix("content-length: ") {
                        bytes = length.trim().parse().expect("a number");
                    }
                }
                let mut body = vec![0; bytes];
                reader.read_exact(&mut body).expect("a body");
                bodies.push(String::from_utf8(body).expect("text"));
                reader
                    .get_mut()
                    .write_all(answer.as_bytes())
                    .expect("answered");
            }
            bodies
        });
        let spec = ServiceSpec {
            url,
            timeout: Duration::from_secs(20),
            cache: Duration::ZERO,
            ca_file: None,
            authorization: None,
        };
        (Service::new(spec).expect("valid"), thread)
    }

    fn answer(status: &str, body: &str) -> String {
        let bytes = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n{body}")
    }

    #[test]
    fn answers_are_understood() {
        let full = r#"{"result":"allow","is_superuser":true,"expire_at":1000,"groups":["g"],"acl":{"pub":["a"]}}"#;
        let (service, thread) = service(vec![
            answer("200 OK", full),
            answer("204 No Content", ""),
            answer("200 OK", r#"{"result":"deny"}"#),
            answer("200 OK", r#"{"result":"ignore"}"#),
            answer("200 OK", r#"{"result":"allow","acl":3}"#),
            answer("500 Oops", "{}"),
            answer("200 OK", "hello"),
            answer("302 Found", ""),
        ]);
        let Answer::Allow(identity) = service.ask(QUESTION) else {
            panic!("refused");
        };
        assert_eq!(identity.username.as_deref(), Some("al"));
        assert!(identity.is_superuser && identity.rules.is_some());
        assert_eq!(identity.expires_at_ms, Some(1_000_000));
        assert_eq!(identity.groups, ["g".into()]);
        assert!(matches!(service.ask(QUESTION), Answer::Allow(_)));
        assert_eq!(service.ask(QUESTION), Answer::Deny);
        assert_eq!(service.ask(QUESTION), Answer::Deny);
        for _ in 0..4 {
            assert!(matches!(service.ask(QUESTION), Answer::Unavailable(_)));
        }
        let bodies = thread.join().expect("all were asked");
        let body: Value = serde_json::from_str(&bodies[0]).expect("JSON");
        assert_eq!(body["clientid"], "c1");
        assert_eq!(body["password"], "secret");
        assert_eq!(body["cert_common_name"], Value::Null);
    }

    #[test]
    fn a_service_that_fails_is_left_alone_and_tried_again() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(breaker.lets_through(start));
            breaker.note(false, start);
        }
        assert!(!breaker.lets_through(start));
        assert!(breaker.lets_through(start + REST));
        assert!(!breaker.lets_through(start + REST));
        breaker.note(true, start + REST);
        assert!(breaker.lets_through(start + REST));
        assert!(breaker.lets_through(start + REST));
    }
}

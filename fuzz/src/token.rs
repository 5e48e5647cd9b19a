//! Tokens: the files of keys, and JSON Web Tokens with their claims; and what a service says of a client, which has the same rules.
//!
//! Input: a file of keys, and after bytes 0x01 a header and a payload. What is no UTF-8 is replaced.
//!
//! What must hold: a token is of those who know the key, so a mistake in one byte of its signature is refused; and whoever is let in has
//! a name, and no end that has passed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ringmq::auth::http::{Answer, Question, read_answer};
use ringmq::auth::jwt::{Bearer, TokenKeys, verify};
use ringmq::config::login::TokenRules;

const SECRET: &[u8; 32] = b"a secret that is of 32 bytes....";

/// Runs one input.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\u{1}');
    let file = parts.next().expect("there is at least one part");
    let header = parts.next().unwrap_or(r#"{"alg":"HS256"}"#);
    let payload = parts.next().unwrap_or(file);
    let rules = TokenRules::default();
    let bearer = Bearer {
        client_id: "c1",
        now_s: 1_700_000_000,
    };
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let files = [
        TokenKeys::from_jwks("keys", file),
        TokenKeys::from_pem("keys", file),
        TokenKeys::from_secret("keys", data),
    ];
    for keys in files.into_iter().flatten() {
        for token in [text.as_bytes(), format!("{message}.AAAA").as_bytes()] {
            assert!(verify(&keys, &rules, token, bearer).is_err());
        }
    }
    let keys = TokenKeys::from_secret("keys", SECRET).expect("long enough");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let mut tag = hmac::sign(&key, message.as_bytes()).as_ref().to_vec();
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(&tag));
    if let Ok(identity) = verify(&keys, &rules, token.as_bytes(), bearer) {
        assert!(identity.username.is_some_and(|name| !name.is_empty()));
        let ends = identity.expires_at_ms.expect("one without is refused");
        assert!(ends > bearer.now_s * 1_000);
    }
    tag[data.len() % 32] ^= 1;
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(&tag));
    assert!(verify(&keys, &rules, token.as_bytes(), bearer).is_err());

    let question = Question {
        client_id: "c1",
        username: Some("al"),
        password: None,
        peer: None,
        listener: "tcp",
        certified: None,
    };
    match read_answer(payload.as_bytes(), question) {
        Answer::Allow(identity) => assert_eq!(identity.username.as_deref(), Some("al")),
        Answer::Deny => {}
        Answer::Unavailable(why) => assert!(!why.is_empty()),
    }
}

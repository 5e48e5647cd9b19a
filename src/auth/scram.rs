//! The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding.
//!
//! ```text
//! client  n,,n=NAME,r=NONCE               CONNECT, or AUTH 0x19
//! server  r=NONCE+,s=SALT,i=ITERATIONS    AUTH 0x18
//! client  c=biws,r=NONCE+,p=PROOF         AUTH 0x18
//! server  v=SIGNATURE                     CONNACK, or AUTH 0x00
//! ```
//!
//! Pure: the server's part of the nonce is passed in, and what has to be remembered between the steps comes out. It holds
//! no secret: both sides have sent all of it. A name is taken as it is, without SASLprep.

use super::hash::ScramKeys;
use super::users::Users;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac};
use subtle::ConstantTimeEq;

/// The Authentication Method's name.
pub const METHOD: &str = "SCRAM-SHA-256";
/// A message longer than this is none of ours.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// What the first message led to.
#[derive(Debug)]
pub struct First {
    /// The server's answer.
    pub reply: String,
    /// To be given to [`finish`].
    pub state: String,
}

/// What the last message led to.
#[derive(Debug)]
pub struct Finished {
    /// Who it is.
    pub username: String,
    /// The server's proof.
    pub reply: String,
}

/// What a client sent is not SCRAM, or does not prove anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramError {
    /// The message breaks RFC 5802, in words.
    Malformed(&'static str),
    /// The client does not know the password, or there is no such user.
    WrongProof,
}

use ScramError::Malformed;

/// Reads the client's first message.
///
/// Errors: [`ScramError::Malformed`]. A user that does not exist gets an answer like any other.
pub fn begin(users: &Users, message: &[u8], nonce: &str) -> Result<First, ScramError> {
    let message = text(message)?;
    let (gs2, bare) = split_gs2(message)?;
    let client = ClientFirst::parse(bare)?;
    let decoy;
    let (salt, iterations) = match users.scram(&client.username) {
        Some(keys) => (&keys.salt[..], keys.iterations.get()),
        None => {
            decoy = users.decoy_salt(&client.username);
            (&decoy[..], users.decoy_iterations())
        }
    };
    let salt = STANDARD.encode(salt);
    let reply = format!("r={}{nonce},s={salt},i={iterations}", client.nonce);
    // No field has a line break: `text` has looked.
    let state = format!("{gs2}\n{bare}\n{reply}");
    Ok(First { reply, state })
}

/// Reads the client's last message; `state` is [`First::state`].
///
/// Errors: both of [`ScramError`].
pub fn finish(users: &Users, state: &str, message: &[u8]) -> Result<Finished, ScramError> {
    let message = text(message)?;
    let mut parts = state.splitn(3, '\n');
    let (Some(gs2), Some(bare), Some(server_first)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed("there was no first message"));
    };
    let (without_proof, proof) = message
        .rsplit_once(",p=")
        .ok_or(Malformed("there is no proof"))?;
    let mut fields = without_proof.split(',');
    let binding = fields.next().and_then(|field| field.strip_prefix("c="));
    if binding != Some(&STANDARD.encode(gs2)) {
        return Err(Malformed(
            "the channel binding is not that of the first message",
        ));
    }
    let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
    let expected = server_first
        .split(',')
        .next()
        .and_then(|field| field.strip_prefix("r="));
    if nonce.is_none() || nonce != expected {
        return Err(Malformed("the nonce is not the one that was agreed on"));
    }
    let proof: [u8; 32] = STANDARD
        .decode(proof)
        .ok()
        .and_then(|proof| proof.try_into().ok())
        .ok_or(Malformed("the proof is not base64 of 32 bytes"))?;
    let client = ClientFirst::parse(bare)?;
    let auth_message = format!("{bare},{server_first},{without_proof}");
    let keys = users
        .scram(&client.username)
        .ok_or(ScramError::WrongProof)?;
    if !is_proof(keys, &auth_message, proof) {
        return Err(ScramError::WrongProof);
    }
    let server_key = hmac::Key::new(hmac::HMAC_SHA256, &keys.server_key);
    let signature = hmac::sign(&server_key, auth_message.as_bytes());
    Ok(Finished {
        username: client.username,
        reply: format!("v={}", STANDARD.encode(signature)),
    })
}

fn is_proof(keys: &ScramKeys, auth_message: &str, mut proof: [u8; 32]) -> bool {
    let stored_key = hmac::Key::new(hmac::HMAC_SHA256, &keys.stored_key);
    let signature = hmac::sign(&stored_key, auth_message.as_bytes());
    for (byte, mask) in proof.iter_mut().zip(signature.as_ref()) {
        *byte ^= mask;
    }
    let stored = digest::digest(&digest::SHA256, &proof);
    stored.as_ref().ct_eq(&keys.stored_key).into()
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Malformed("the message is too long"));
    }
    let text = std::str::from_utf8(message).map_err(|_| Malformed("the message is not UTF-8"))?;
    if text.contains(['\0', '\n']) {
        return Err(Malformed("the message has a control character"));
    }
    Ok(text)
}

/// The GS2 header with its comma, and the rest.
fn split_gs2(message: &str) -> Result<(&str, &str), ScramError> {
    let mut fields = message.splitn(3, ',');
    let binding = fields.next().unwrap_or_default();
    let authzid = fields.next().ok_or(Malformed("there is no GS2 header"))?;
    let bare = fields.next().ok_or(Malformed("there is no GS2 header"))?;
    if binding != "n" && binding != "y" {
        return Err(Malformed("channel binding is not offered"));
    }
    if !authzid.is_empty() {
        return Err(Malformed("nobody may act for somebody else"));
    }
    Ok((&message[..message.len() - bare.len()], bare))
}

struct ClientFirst<'a> {
    username: String,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(bare: &'a str) -> Result<Self, ScramError> {
        let mut fields = bare.split(',');
        // A mandatory extension, `m=`, would come first.
        let name = fields.next().and_then(|field| field.strip_prefix("n="));
        let name = name.ok_or(Malformed("there is no user name"))?;
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let nonce = nonce.ok_or(Malformed("there is no nonce"))?;
        let is_printable = |byte: u8| matches!(byte, 0x21..=0x7E);
        if nonce.is_empty() || !nonce.bytes().all(is_printable) {
            return Err(Malformed("the nonce is not printable"));
        }
        Ok(Self {
            username: unescaped(name)?,
            nonce,
        })
    }
}

/// RFC 5802 §5.1: `=2C` and `=3D` are the comma and the equals sign, which do not stand for themselves.
fn unescaped(name: &str) -> Result<String, ScramError> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('=') {
        out.push_str(before);
        (out, rest) = if let Some(after) = after.strip_prefix("2C") {
            (out + ",", after)
        } else if let Some(after) = after.strip_prefix("3D") {
            (out + "=", after)
        } else {
            return Err(Malformed("the user name has a bare equals sign"));
        };
    }
    out.push_str(rest);
    if out.is_empty() {
        return Err(Malformed("there is no user name"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn users() -> Users {
        // RFC 7677 §3.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let keys = ScramKeys::new(b"pencil", &salt, NonZeroU32::new(4096).expect("not zero"));
        let line = format!(
            "user:SCRAM-SHA-256$4096:{}${}:{}\nplain:$7$1$AAAAAAAA${}\n",
            STANDARD.encode(&keys.salt),
            STANDARD.encode(keys.stored_key),
            STANDARD.encode(keys.server_key),
            STANDARD.encode([0; 64]),
        );
        Users::parse("users", &line, &[5; 32]).expect("valid")
    }

    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    #[test]
    fn the_example_of_rfc_7677() {
        let users = users();
        let first = begin(&users, CLIENT_FIRST.as_bytes(), NONCE).expect("valid");
        assert_eq!(first.reply, SERVER_FIRST);
        let finished = finish(&users, &first.state, CLIENT_FINAL.as_bytes()).expect("valid");
        assert_eq!(finished.reply, SERVER_FINAL);
        assert_eq!(finished.username, "user");
    }

    #[test]
    fn nothing_but_the_proof_proves() {
        let users = users();
        let first = begin(&users, CLIENT_FIRST.as_bytes(), NONCE).expect("valid");
        for (from, to, error) in [
            ("p=dHzb", "p=dHza", ScramError::WrongProof),
            (
                "c=biws",
                "c=eSws",
                Malformed("the channel binding is not that of the first message"),
            ),
            (
                "$k0,",
                "$k1,",
                Malformed("the nonce is not the one that was agreed on"),
            ),
            (",p=", ",x=1,p=", ScramError::WrongProof),
            (
                "p=dHzb",
                "p=",
                Malformed("the proof is not base64 of 32 bytes"),
            ),
            (",p=", ",q=", Malformed("there is no proof")),
        ] {
            let message = CLIENT_FINAL.replace(from, to);
            let result = finish(&users, &first.state, message.as_bytes());
            assert_eq!(result.expect_err(&message), error);
        }
        let other = begin(&users, CLIENT_FIRST.as_bytes(), "another").expect("valid");
        assert!(finish(&users, &other.state, CLIENT_FINAL.as_bytes()).is_err());
        assert!(finish(&users, "", CLIENT_FINAL.as_bytes()).is_err());
    }

    #[test]
    fn an_unknown_user_gets_an_answer_like_any_other() {
        let users = users();
        for name in ["nobody", "plain"] {
            let message = format!("n,,n={name},r=abc");
            let one = begin(&users, message.as_bytes(), "x").expect("valid");
            let two = begin(&users, message.as_bytes(), "x").expect("valid");
            assert_eq!(one.reply, two.reply);
            assert!(one.reply.ends_with(",i=4096"), "{}", one.reply);
            let proof = STANDARD.encode([0; 32]);
            let last = format!("c=biws,r=abcx,p={proof}");
            let error = finish(&users, &one.state, last.as_bytes()).expect_err("no such user");
            assert_eq!(error, ScramError::WrongProof);
        }
    }

    #[test]
    fn what_is_not_scram_is_refused() {
        let users = users();
        for message in [
            "",
            "n",
            "n,,",
            "n,,n=user",
            "n,,n=user,r=",
            "p=tls-unique,,n=user,r=a",
            "n,a=admin,n=user,r=a",
            "n,,m=x,n=user,r=a",
            "n,,n=,r=a",
            "n,,n=a=b,r=a",
            "n,,n=user,r=a\nb",
            "n,,n=user,r=\u{e4}",
        ] {
            assert!(begin(&users, message.as_bytes(), "x").is_err(), "{message}");
        }
        assert!(begin(&users, b"n,,n=\xff,r=a", "x").is_err());
        assert!(begin(&users, b"y,,n=user,r=a,ext=1", "x").is_ok());
        assert_eq!(unescaped("a=2Cb=3Dc"), Ok("a,b=c".into()));
    }
}

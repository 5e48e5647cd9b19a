//! JSON Web Tokens (RFC 7519) in the place of a password.
//!
//! What a key is decides which signatures it can check: an RSA key is never taken for the secret of an HMAC, and `none` is no
//! signature. Pure: the time is passed in. The cryptography is ring's.

use super::claims;
use super::users::LineError;
use crate::access::Identity;
use crate::config::login::TokenRules;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value};

/// Keys in a file.
const KEYS_MAX: usize = 64;
/// A secret shorter than the tag it makes can be guessed (RFC 7518 §3.2).
const SECRET_BYTES_MIN: usize = 32;
/// The latest time that is taken for one: the year 9999.
const LATEST_S: f64 = 253_402_300_799.0;

/// The keys of those who may sign tokens.
#[derive(Debug, Default)]
pub struct TokenKeys {
    keys: Vec<TokenKey>,
}

#[derive(Debug)]
struct TokenKey {
    id: Option<String>,
    /// The only algorithm it may be used with, if it says.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Secret(Secret),
    /// PKCS #1.
    RsaDer(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl TokenKeys {
    /// A secret that signer and broker share, for HS256, HS384 and HS512. A line break at its end is none of it.
    ///
    /// Errors: a secret of less than 32 bytes.
    pub fn from_secret(file: &str, bytes: &[u8]) -> Result<Self, LineError> {
        let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        let wrong = |message: &str| error(file, 0, message);
        if secret.starts_with(b"-----BEGIN") {
            return Err(wrong(
                "this is a PEM file, not a secret that signer and broker share",
            ));
        }
        if secret.len() < SECRET_BYTES_MIN {
            return Err(wrong("a secret of less than 32 bytes can be guessed"));
        }
        let material = Material::Secret(Secret(secret.to_vec()));
        Ok(Self::one(material))
    }

    /// Public keys in PEM (`PUBLIC KEY` or `RSA PUBLIC KEY`): RSA, P-256, P-384, Ed25519.
    ///
    /// Errors: what is not such a key, with its line.
    pub fn from_pem(file: &str, text: &str) -> Result<Self, LineError> {
        let mut keys = Vec::new();
        let mut block: Option<(&str, u32, String)> = None;
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if let Some(label) = line.strip_prefix("-----BEGIN ") {
                let label = label.strip_suffix("-----").unwrap_or(label);
                block = Some((label, number, String::new()));
            } else if line.starts_with("-----END ") {
                let Some((label, start, base64)) = block.take() else {
                    return Err(error(file, number, "an end without a beginning"));
                };
                let der = STANDARD.decode(base64);
                let der =
                    der.map_err(|_| error(file, start, "what is in the PEM block is not base64"))?;
                let material = public_key(label, der).map_err(|what| error(file, start, what))?;
                keys.push(TokenKey {
                    id: None,
                    algorithm: None,
                    material,
                });
            } else if let Some((_, _, base64)) = &mut block {
                base64.push_str(line);
            }
        }
        if let Some((_, start, _)) = block {
            return Err(error(file, start, "a beginning without an end"));
        }
        Self::several(file, keys)
    }

    /// A JSON Web Key Set (RFC 7517). Keys for something else than signatures, and of kinds that are not known, are left out.
    ///
    /// Errors: no set, a key that is broken, no key that can be used.
    pub fn from_jwks(file: &str, text: &str) -> Result<Self, LineError> {
        let set: Value = serde_json::from_str(text).map_err(|wrong| {
            let line = u32::try_from(wrong.line()).unwrap_or(0);
            error(file, line, &format!("this is no JSON: {wrong}"))
        })?;
        let listed = set.get("keys").and_then(Value::as_array);
        let listed = listed.ok_or_else(|| error(file, 0, "there is no list `keys`"))?;
        let mut keys = Vec::new();
        for (key, nth) in listed.iter().zip(1..) {
            let wrong = |what: &str| error(file, 0, &format!("key {nth}: {what}"));
            let word = |name: &str| key.get(name).and_then(Value::as_str);
            if word("use").is_some_and(|purpose| purpose != "sig") {
                continue;
            }
            if let Some(material) = web_key(key).map_err(wrong)? {
                keys.push(TokenKey {
                    id: word("kid").map(Into::into),
                    algorithm: word("alg").map(Into::into),
                    material,
                });
            }
        }
        Self::several(file, keys)
    }

    fn one(material: Material) -> Self {
        let key = TokenKey {
            id: None,
            algorithm: None,
            material,
        };
        Self { keys: vec![key] }
    }

    fn several(file: &str, keys: Vec<TokenKey>) -> Result<Self, LineError> {
        match keys.len() {
            0 => Err(error(file, 0, "there is no key that can be used")),
            1..=KEYS_MAX => Ok(Self { keys }),
            _ => Err(error(file, 0, "there are more than 64 keys")),
        }
    }

    /// Takes over the keys of another set.
    pub fn add(&mut self, others: Self) {
        self.keys.extend(others.keys);
    }

    /// Whether one of the keys has made the signature.
    fn have_signed(&self, header: &Header<'_>, message: &[u8], tag: &[u8]) -> bool {
        self.keys
            .iter()
            .filter(|key| match (&key.id, header.key_id) {
                (Some(id), Some(wanted)) => id == wanted,
                _ => true,
            })
            .filter(|key| match &key.algorithm {
                Some(only) => only == header.algorithm,
                None => true,
            })
            .any(|key| key.material.has_signed(header.algorithm, message, tag))
    }
}

impl Material {
    fn has_signed(&self, algorithm: &str, message: &[u8], tag: &[u8]) -> bool {
        match self {
            Self::Secret(Secret(secret)) => {
                let digest = match algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => return false,
                };
                hmac::verify(&hmac::Key::new(digest, secret), message, tag).is_ok()
            }
            Self::RsaDer(der) => rsa_parameters(algorithm).is_some_and(|parameters| {
                UnparsedPublicKey::new(parameters, der)
                    .verify(message, tag)
                    .is_ok()
            }),
            Self::Rsa { n, e } => rsa_parameters(algorithm).is_some_and(|parameters| {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, tag).is_ok()
            }),
            Self::P256(point) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                algorithm == "ES256" && key.verify(message, tag).is_ok()
            }
            Self::P384(point) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point);
                algorithm == "ES384" && key.verify(message, tag).is_ok()
            }
            Self::Ed25519(point) => {
                let key = UnparsedPublicKey::new(&signature::ED25519, point);
                algorithm == "EdDSA" && key.verify(message, tag).is_ok()
            }
        }
    }
}

fn rsa_parameters(algorithm: &str) -> Option<&'static signature::RsaParameters> {
    Some(match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// What a token is shown by.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    /// The Client Identifier; a claim `clientid`, if there is one, must say the same.
    pub client_id: &'a str,
    /// Now, in seconds since the Unix epoch.
    pub now_s: u64,
}

/// Checks a token and says whose it is.
///
/// Errors: a sentence for the log; the client learns only that it is not authorised.
pub fn verify(
    keys: &TokenKeys,
    rules: &TokenRules,
    token: &[u8],
    bearer: Bearer<'_>,
) -> Result<Identity, &'static str> {
    let token = std::str::from_utf8(token).map_err(|_| "the token is not text")?;
    let (message, tag) = token.rsplit_once('.').ok_or("this is no token")?;
    let (header, payload) = message.split_once('.').ok_or("this is no token")?;
    let header_json = object(header).ok_or("the token's header is not readable")?;
    let header = Header::of(&header_json)?;
    let tag = URL_SAFE_NO_PAD
        .decode(tag)
        .map_err(|_| "the token's signature is not base64")?;
    if !keys.have_signed(&header, message.as_bytes(), &tag) {
        return Err("the token is not signed by a known key");
    }
    let claims = object(payload).ok_or("the token's claims are not readable")?;
    identity(rules, &claims, bearer)
}

fn identity(
    rules: &TokenRules,
    claims: &Map<String, Value>,
    bearer: Bearer<'_>,
) -> Result<Identity, &'static str> {
    let (now_s, leeway_s) = (bearer.now_s as f64, f64::from(rules.leeway_s));
    let time = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(time) if (0.0..=LATEST_S).contains(&time) => Ok(Some(time)),
            _ => Err("a time in the token is none"),
        },
    };
    let expires_s = time("exp")?;
    match expires_s {
        Some(expires_s) if now_s >= expires_s + leeway_s => return Err("the token has expired"),
        None if rules.needs_expiry => return Err("the token has no expiry"),
        _ => {}
    }
    if time("nbf")?.is_some_and(|from_s| now_s + leeway_s < from_s) {
        return Err("the token is not valid yet");
    }
    let says = |name: &str, wanted: &str| match claims.get(name) {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Array(texts)) => texts.iter().any(|text| text.as_str() == Some(wanted)),
        _ => false,
    };
    if rules
        .issuer
        .as_ref()
        .is_some_and(|issuer| claims.get("iss").and_then(Value::as_str) != Some(issuer))
    {
        return Err("the token is of another issuer");
    }
    if rules
        .audience
        .as_ref()
        .is_some_and(|audience| !says("aud", audience))
    {
        return Err("the token is for another audience");
    }
    if claims.contains_key("clientid") && !says("clientid", bearer.client_id) {
        return Err("the token is for another Client Identifier");
    }
    let claim = |name: &str| claims.get(name).unwrap_or(&Value::Null);
    let username = claim(&rules.username_claim)
        .as_str()
        .filter(|name| !name.is_empty());
    let username = username.ok_or("the token names no user")?;
    let acl = claims::rules(claim(&rules.acl_claim), "token")?;
    Ok(Identity {
        username: Some(username.into()),
        groups: claims::groups(claim(&rules.groups_claim))?,
        rules: acl.map(Box::new),
        is_superuser: false,
        // The leeway is for clocks that differ, so it counts at both ends.
        expires_at_ms: expires_s.map(|expires_s| ((expires_s + leeway_s) * 1_000.0) as u64),
        account: None,
    })
}

struct Header<'a> {
    algorithm: &'a str,
    key_id: Option<&'a str>,
}

impl<'a> Header<'a> {
    fn of(header: &'a Map<String, Value>) -> Result<Self, &'static str> {
        // RFC 7515 §4.1.11: what it lists must be understood, and nothing is.
        if header.contains_key("crit") {
            return Err("the token demands an extension");
        }
        let algorithm = header.get("alg").and_then(Value::as_str);
        Ok(Self {
            algorithm: algorithm.ok_or("the token's header names no algorithm")?,
            key_id: header.get("kid").and_then(Value::as_str),
        })
    }
}

fn object(base64: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(base64).ok()?;
    match serde_json::from_slice(&bytes).ok()? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// What stands before the key itself in a SubjectPublicKeyInfo; DER leaves no other way to write it.
const ED25519_PREFIX: &[u8] = &[
    0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A,
    0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P384_PREFIX: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x05, 0x2B,
    0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];
/// The algorithm rsaEncryption, between two lengths of two bytes.
const RSA_ALGORITHM: &[u8] = &[
    0x30, 0x0D, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01, 0x05, 0x00,
];

fn public_key(label: &str, der: Vec<u8>) -> Result<Material, &'static str> {
    match label {
        "PUBLIC KEY" => {}
        "RSA PUBLIC KEY" => return rsa_der(der),
        "CERTIFICATE" => {
            return Err("a certificate; `openssl x509 -pubkey -noout` takes the key out of it");
        }
        label if label.ends_with("PRIVATE KEY") => {
            return Err(
                "a private key; the broker needs the public one, and nobody else should have this",
            );
        }
        _ => return Err("the PEM block is not a PUBLIC KEY"),
    }
    let key_after = |prefix: &[u8], bytes: usize| {
        let key = der.strip_prefix(prefix).filter(|key| key.len() == bytes);
        key.map(<[u8]>::to_vec)
    };
    if let Some(key) = key_after(ED25519_PREFIX, 32) {
        return Ok(Material::Ed25519(key));
    }
    if let Some(key) = key_after(P256_PREFIX, 65) {
        return Ok(Material::P256(key));
    }
    if let Some(key) = key_after(P384_PREFIX, 97) {
        return Ok(Material::P384(key));
    }
    let rsa = der
        .get(4..)
        .and_then(|rest| rest.strip_prefix(RSA_ALGORITHM))
        .and_then(|rest| rest.strip_prefix(&[0x03, 0x82]))
        // The length, and no unused bits.
        .and_then(|rest| rest.get(2..))
        .and_then(|rest| rest.strip_prefix(&[0x00]));
    rsa.map_or(
        Err("the key is not RSA of 2048 bits or more, P-256, P-384 or Ed25519"),
        |rsa| rsa_der(rsa.to_vec()),
    )
}

fn rsa_der(der: Vec<u8>) -> Result<Material, &'static str> {
    // A sequence of the modulus, 256 bytes at least, and the exponent.
    if der.first() == Some(&0x30) && der.len() > 256 {
        Ok(Material::RsaDer(der))
    } else {
        Err("the RSA key is broken, or shorter than 2048 bits")
    }
}

/// A key of a set; none if it is of a kind that is not used here.
fn web_key(key: &Value) -> Result<Option<Material>, &'static str> {
    let bytes = |name: &'static str| {
        let text = key.get(name).and_then(Value::as_str);
        let text = text.ok_or("a field is missing")?;
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| "a field is not base64")
    };
    let point = |field_bytes: usize| {
        let (x, y) = (bytes("x")?, bytes("y")?);
        if x.len() != field_bytes || y.len() != field_bytes {
            return Err("a coordinate has the wrong length");
        }
        Ok([&[0x04][..], &x, &y].concat())
    };
    let word = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or_default();
    Ok(Some(match (word("kty"), word("crv")) {
        ("oct", _) => match bytes("k")? {
            secret if secret.len() >= SECRET_BYTES_MIN => Material::Secret(Secret(secret)),
            _ => return Err("a secret of less than 32 bytes can be guessed"),
        },
        ("RSA", _) => Material::Rsa {
            n: bytes("n")?,
            e: bytes("e")?,
        },
        ("EC", "P-256") => Material::P256(point(32)?),
        ("EC", "P-384") => Material::P384(point(48)?),
        ("OKP", "Ed25519") => Material::Ed25519(bytes("x")?),
        _ => return Ok(None),
    }))
}

fn error(file: &str, line: u32, message: &str) -> LineError {
    LineError {
        file: file.to_owned(),
        line,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests;

//! Hashed passwords, as the lines of a password file have them.
//!
//! | line | what made it |
//! |---|---|
//! | `$6$SALT$HASH` | mosquitto up to 1.6: SHA-512 of password and salt |
//! | `$7$ITERATIONS$SALT$HASH` | mosquitto 2: PBKDF2 with HMAC-SHA-512 |
//! | `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH` | mosquitto 2.1, `ringmq passwd` |
//! | `PBKDF2$sha512$ITERATIONS$SALT$HASH` | mosquitto-go-auth |
//! | `SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER` | `ringmq passwd -H scram-sha-256` (RFC 5803) |
//!
//! Salts and hashes are base64, with padding or without.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::{digest, hmac, pbkdf2};
use std::fmt;
use std::num::NonZeroU32;
use subtle::ConstantTimeEq;

/// Padding does not matter to what is read.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const UNPADDED: GeneralPurpose = base64::engine::general_purpose::STANDARD_NO_PAD;

/// What a line may ask for at most: nobody's file shall keep a thread busy for minutes or take the machine's memory.
const ITERATIONS_MAX: u32 = 10_000_000;
const ARGON2_KIB_MAX: u32 = 1 << 20;
const ARGON2_PASSES_MAX: u32 = 64;
const ARGON2_LANES_MAX: u32 = 64;
const SALT_BYTES_MAX: usize = 256;
const HASH_BYTES_MAX: usize = 256;

/// mosquitto's: 46 MiB and one pass, about a tenth of a second.
const ARGON2_KIB: u32 = 47_104;
const ARGON2_PASSES: u32 = 1;
/// mosquitto 2.1's number for `sha512-pbkdf2`; RFC 7677 §4 demands 4096 for SCRAM at least.
const PBKDF2_ITERATIONS: NonZeroU32 = NonZeroU32::new(1_000).expect("not zero");
const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::new(4_096).expect("not zero");
const HASH_BYTES: usize = 64;

/// How a new password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKind {
    /// Slow and large on purpose.
    Argon2id,
    /// Fast enough for a fleet that reconnects at once; for passwords that were made by a machine.
    Sha512Pbkdf2,
    /// mosquitto 1.6's, not salted enough for what people choose.
    Sha512,
    /// For clients that prove that they know the password without sending it.
    ScramSha256,
}

impl HashKind {
    /// All of them with their words, the default first.
    pub const ALL: [(&'static str, Self); 4] = [
        ("argon2id", Self::Argon2id),
        ("sha512-pbkdf2", Self::Sha512Pbkdf2),
        ("sha512", Self::Sha512),
        ("scram-sha-256", Self::ScramSha256),
    ];
}

/// A hashed password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Sha512 {
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
    Pbkdf2 {
        digest: Pbkdf2Digest,
        spelling: Spelling,
        iterations: NonZeroU32,
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
    Argon2id {
        params: Argon2Params,
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
    Scram(ScramKeys),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pbkdf2Digest {
    Sha256,
    Sha512,
}

impl Pbkdf2Digest {
    fn algorithm(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Mosquitto,
    GoAuth,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Argon2Params {
    kib: u32,
    passes: u32,
    lanes: u32,
}

/// What a server keeps of a password for SCRAM-SHA-256 (RFC 5802 §3): enough to recognise it, not to use it elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// Rounds of PBKDF2.
    pub iterations: NonZeroU32,
    /// Its salt.
    pub salt: Vec<u8>,
    /// Tells a client that knows the password.
    pub stored_key: [u8; 32],
    /// Tells a client that the server knows it too.
    pub server_key: [u8; 32],
}

impl ScramKeys {
    /// From the password; `salt` must be new for each.
    pub fn new(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            password,
            &mut salted,
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&key, b"Client Key");
        let server_key = hmac::sign(&key, b"Server Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: stored_key.as_ref().try_into().expect("SHA-256"),
            server_key: server_key.as_ref().try_into().expect("SHA-256"),
        }
    }
}

impl PasswordHash {
    /// Hashes a password; `salt` is 16 random bytes.
    pub fn new(kind: HashKind, password: &[u8], salt: [u8; 16]) -> Self {
        Self(match kind {
            HashKind::Argon2id => {
                let params = Argon2Params {
                    kib: ARGON2_KIB,
                    passes: ARGON2_PASSES,
                    lanes: 1,
                };
                Kind::Argon2id {
                    params,
                    salt: salt.to_vec(),
                    hash: argon2id(params, &salt, password, HASH_BYTES)
                        .expect("the parameters are valid"),
                }
            }
            HashKind::Sha512Pbkdf2 => {
                // mosquitto 2.0 reads salts of 12 bytes and no others.
                let salt = salt[..12].to_vec();
                let mut hash = vec![0; HASH_BYTES];
                pbkdf2::derive(
                    pbkdf2::PBKDF2_HMAC_SHA512,
                    PBKDF2_ITERATIONS,
                    &salt,
                    password,
                    &mut hash,
                );
                Kind::Pbkdf2 {
                    digest: Pbkdf2Digest::Sha512,
                    spelling: Spelling::Mosquitto,
                    iterations: PBKDF2_ITERATIONS,
                    salt,
                    hash,
                }
            }
            HashKind::Sha512 => {
                let salt = salt[..12].to_vec();
                let hash = salted_sha512(password, &salt);
                Kind::Sha512 { salt, hash }
            }
            HashKind::ScramSha256 => Kind::Scram(ScramKeys::new(password, &salt, SCRAM_ITERATIONS)),
        })
    }

    /// Reads what stands behind the name in a line.
    ///
    /// Errors: a sentence that says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split('$').collect();
        let kind = match fields[..] {
            ["", "6", salt, hash] => Kind::Sha512 {
                salt: bytes("salt", salt, SALT_BYTES_MAX)?,
                hash: exactly(bytes("hash", hash, HASH_BYTES)?, HASH_BYTES)?,
            },
            ["", "7", iterations, salt, hash] => Kind::Pbkdf2 {
                digest: Pbkdf2Digest::Sha512,
                spelling: Spelling::Mosquitto,
                iterations: rounds(iterations)?,
                salt: bytes("salt", salt, SALT_BYTES_MAX)?,
                hash: exactly(bytes("hash", hash, HASH_BYTES)?, HASH_BYTES)?,
            },
            [
                "PBKDF2",
                digest @ ("sha512" | "sha256"),
                iterations,
                salt,
                hash,
            ] => Kind::Pbkdf2 {
                digest: if digest == "sha512" {
                    Pbkdf2Digest::Sha512
                } else {
                    Pbkdf2Digest::Sha256
                },
                spelling: Spelling::GoAuth,
                iterations: rounds(iterations)?,
                salt: bytes("salt", salt, SALT_BYTES_MAX)?,
                hash: at_least(bytes("hash", hash, HASH_BYTES_MAX)?, 16)?,
            },
            ["", "argon2id", "v=19", params, salt, hash] => Kind::Argon2id {
                params: argon2_params(params)?,
                // The PHC string format allows 48 bytes; mosquitto 2.1 uses 64.
                salt: at_least(bytes("salt", salt, SALT_BYTES_MAX)?, 8)?,
                hash: at_least(bytes("hash", hash, HASH_BYTES_MAX)?, 16)?,
            },
            ["SCRAM-SHA-256", salt, keys] => Kind::Scram(scram_keys(salt, keys)?),
            [_] => {
                return Err(
                    "the password is not hashed; `ringmq passwd -U FILE` hashes all of a file"
                        .into(),
                );
            }
            _ => {
                return Err(
                    "the hash is none of $6$, $7$, $argon2id$v=19$, PBKDF2$ and SCRAM-SHA-256$"
                        .into(),
                );
            }
        };
        Ok(Self(kind))
    }

    /// Whether this is the password. Takes as long for one that is not.
    pub fn verify(&self, password: &[u8]) -> bool {
        match &self.0 {
            Kind::Sha512 { salt, hash } => salted_sha512(password, salt).ct_eq(hash).into(),
            Kind::Pbkdf2 {
                digest,
                iterations,
                salt,
                hash,
                ..
            } => pbkdf2::verify(digest.algorithm(), *iterations, salt, password, hash).is_ok(),
            Kind::Argon2id { params, salt, hash } => argon2id(*params, salt, password, hash.len())
                .is_some_and(|computed| computed.ct_eq(hash).into()),
            Kind::Scram(keys) => {
                let computed = ScramKeys::new(password, &keys.salt, keys.iterations);
                computed.stored_key.ct_eq(&keys.stored_key).into()
            }
        }
    }

    /// What SCRAM-SHA-256 needs, if the line has it.
    pub fn scram(&self) -> Option<&ScramKeys> {
        match &self.0 {
            Kind::Scram(keys) => Some(keys),
            _ => None,
        }
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let padded = |bytes: &[u8]| LENIENT.encode(bytes);
        match &self.0 {
            Kind::Sha512 { salt, hash } => write!(f, "$6${}${}", padded(salt), padded(hash)),
            Kind::Pbkdf2 {
                digest,
                spelling,
                iterations,
                salt,
                hash,
            } => {
                match (spelling, digest) {
                    (Spelling::Mosquitto, _) => f.write_str("$7$")?,
                    (Spelling::GoAuth, Pbkdf2Digest::Sha256) => f.write_str("PBKDF2$sha256$")?,
                    (Spelling::GoAuth, Pbkdf2Digest::Sha512) => f.write_str("PBKDF2$sha512$")?,
                }
                write!(f, "{iterations}${}${}", padded(salt), padded(hash))
            }
            Kind::Argon2id { params, salt, hash } => {
                let Argon2Params { kib, passes, lanes } = params;
                let (salt, hash) = (UNPADDED.encode(salt), UNPADDED.encode(hash));
                write!(
                    f,
                    "$argon2id$v=19$m={kib},t={passes},p={lanes}${salt}${hash}"
                )
            }
            Kind::Scram(keys) => write!(
                f,
                "SCRAM-SHA-256${}:{}${}:{}",
                keys.iterations,
                padded(&keys.salt),
                padded(&keys.stored_key),
                padded(&keys.server_key)
            ),
        }
    }
}

impl fmt::Debug for PasswordHash {
    /// A hash is a secret too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Kind::Sha512 { .. } => "$6$…",
            Kind::Pbkdf2 { .. } => "$7$…",
            Kind::Argon2id { .. } => "$argon2id$…",
            Kind::Scram(_) => "SCRAM-SHA-256$…",
        })
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys")
    }
}

fn salted_sha512(password: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA512);
    context.update(password);
    context.update(salt);
    context.finish().as_ref().to_vec()
}

fn argon2id(params: Argon2Params, salt: &[u8], password: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let Argon2Params { kib, passes, lanes } = params;
    let params = Params::new(kib, passes, lanes, Some(bytes)).ok()?;
    let mut hash = vec![0; bytes];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, salt, &mut hash)
        .ok()?;
    Some(hash)
}

fn argon2_params(text: &str) -> Result<Argon2Params, String> {
    let mut params = [None; 3];
    for item in text.split(',') {
        let (name, number) = item
            .split_once('=')
            .ok_or("the parameters are not m=,t=,p=")?;
        let at = ["m", "t", "p"].iter().position(|known| *known == name);
        let at = at.ok_or("a parameter other than m, t and p")?;
        params[at] = number.parse::<u32>().ok();
    }
    let [Some(kib), Some(passes), Some(lanes)] = params else {
        return Err("the parameters are not m=KIB,t=PASSES,p=LANES".into());
    };
    if kib > ARGON2_KIB_MAX || passes > ARGON2_PASSES_MAX || lanes > ARGON2_LANES_MAX {
        return Err(format!(
            "the parameters are too large: at most m={ARGON2_KIB_MAX},t={ARGON2_PASSES_MAX},p={ARGON2_LANES_MAX}"
        ));
    }
    Params::new(kib, passes, lanes, Some(HASH_BYTES)).map_err(|error| error.to_string())?;
    Ok(Argon2Params { kib, passes, lanes })
}

fn scram_keys(salt: &str, keys: &str) -> Result<ScramKeys, String> {
    let halves = |text: &'static str| move || format!("`{text}` is not two fields with a colon");
    let (iterations, salt) = salt.split_once(':').ok_or_else(halves("ITERATIONS:SALT"))?;
    let (stored, server) = keys.split_once(':').ok_or_else(halves("STORED:SERVER"))?;
    let key = |name, text| -> Result<[u8; 32], String> {
        let key = exactly(bytes(name, text, 32)?, 32)?;
        Ok(key.try_into().expect("exactly so long"))
    };
    Ok(ScramKeys {
        iterations: rounds(iterations)?,
        salt: at_least(bytes("salt", salt, SALT_BYTES_MAX)?, 1)?,
        stored_key: key("stored key", stored)?,
        server_key: key("server key", server)?,
    })
}

fn rounds(text: &str) -> Result<NonZeroU32, String> {
    let number = text.parse::<NonZeroU32>().ok();
    number
        .filter(|number| number.get() <= ITERATIONS_MAX)
        .ok_or_else(|| format!("the iterations are not a number from 1 to {ITERATIONS_MAX}"))
}

fn bytes(name: &str, text: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
    let bytes = LENIENT.decode(text).ok();
    bytes
        .filter(|bytes| bytes.len() <= bytes_max)
        .ok_or_else(|| format!("the {name} is not base64 of at most {bytes_max} bytes"))
}

fn exactly(bytes: Vec<u8>, count: usize) -> Result<Vec<u8>, String> {
    if bytes.len() == count {
        Ok(bytes)
    } else {
        Err(format!("{} bytes where there must be {count}", bytes.len()))
    }
}

fn at_least(bytes: Vec<u8>, count: usize) -> Result<Vec<u8>, String> {
    if bytes.len() >= count {
        Ok(bytes)
    } else {
        Err(format!(
            "{} bytes where there must be {count} or more",
            bytes.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by Debian's mosquitto_passwd 2.0.11 (the first two), Python's hashlib, the reference implementation of Argon2 and the
    /// Python package scramp; the password is `secret`.
    const VECTORS: &[&str] = &[
        "$7$101$THJ5PonN2//excv1$oh0OD7V8xDy+iXCLk9/a71TA6OK6GXE7zr4cNkQKdVOjBoYTW7knfaMdVujiDOCQkpBQZ4qaptU/U2lzNYXnOQ==",
        "$6$t/l1jOpzJ379cy2j$LhBlkt0hFWVD6+gDDBOPZnJSiDy7VKDN4fJMGerqBKh560h4NTumW7r83tc1azG4Vd1aZcC71WLMZ4TvWSUaYA==",
        "$6$AAECAwQFBgcICQoL$JqsxEv/ucyxjA5DKsQ+Y8CDWaQDNQI9FpAkmfwAqWfwZLk/JEGgM0EpylrJHAZKKyFQjJeZ3nFaHjPzOzPPmPw==",
        "$7$1000$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==$j5aX3DstWRgO5cjjfvKvsf7Z/KK812T4wGDMih+DCHQg8P7++fmj4sZcMp1smkEafZL0QZ29tE5ezahL/nyffw==",
        "PBKDF2$sha512$100000$AAECAwQFBgcICQoLDA0ODw==$8D/+fphIDJ8V6resDaLEgTmLA/mso7U8hGFlcB5Amh/qIgWTnctC9uAIf/rO5TM2Wb05/6RZjQItG/g3DQXDFQ==",
        "PBKDF2$sha256$1000$AAECAwQFBgcICQoLDA0ODw==$Tvsru20utY6o3q7VRBeuL9h/1QqKhWhwk2PaYNRWBgY=",
        "$argon2id$v=19$m=47104,t=1,p=1$bW9zcXVpdHRvIHNhbHQgb2Ygc2l4dHktZm91ciBieXRlcywgYXMgbW9zcXVpdHRvIDIuMSB3cml0ZXMgb25lIQ$brVDMu2Fbn6875GLDkrP7nIEIAyCOnMlufrs32wogjYNmV69WTc3RB9gI6Khl7rQH+E1TZWtM98U8wl7ztue6w",
        "$argon2id$v=19$m=256,t=3,p=4$c2l4dGVlbiBieXRlcyBvaw$E9j/HhAWlktnRtrGKyjG8De589kDZc6TKDS1FBd77FY",
        "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$bpSY5Ze9NUH+I35LC3gVq+DpBfK46iXBxvhAKqVu9pE=:VpYlBuxyzeCI1KnctrefdljpB1mk3Gp7sBI/t11+NkQ=",
    ];

    #[test]
    fn what_others_made_is_recognised() {
        for text in VECTORS {
            let hash = PasswordHash::parse(text).expect(text);
            assert!(hash.verify(b"secret"), "{text}");
            assert!(!hash.verify(b"Secret"), "{text}");
            assert!(!hash.verify(b""), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (word, kind) in HashKind::ALL {
            let hash = PasswordHash::new(kind, b"p\xC3\xA4ss", [7; 16]);
            let text = hash.to_string();
            let read = PasswordHash::parse(&text).expect(&text);
            assert!(read == hash, "{word}");
            assert!(read.verify(b"p\xC3\xA4ss"), "{word}");
            assert!(!read.verify(b"pass"), "{word}");
            assert_eq!(read.scram().is_some(), word == "scram-sha-256");
            assert!(!format!("{read:?}").contains(&text[12..]));
        }
    }

    #[test]
    fn what_is_no_hash_is_told() {
        for (text, says) in [
            ("plain", "not hashed"),
            ("", "not hashed"),
            ("$5$a$b", "none of"),
            ("$6$c2FsdA==$c2FsdA==", "4 bytes where there must be 64"),
            ("$6$!$AAAA", "the salt is not base64"),
            ("$7$0$AAAA$AAAA", "iterations"),
            ("$7$99999999$AAAA$AAAA", "iterations"),
            ("$argon2i$v=19$m=8,t=1,p=1$AAAA$AAAA", "none of"),
            ("$argon2id$v=16$m=8,t=1,p=1$AAAA$AAAA", "none of"),
            ("$argon2id$v=19$m=8,t=1$AAAA$AAAA", "m=KIB"),
            ("$argon2id$v=19$m=8,t=1,p=1,x=2$AAAA$AAAA", "other than"),
            ("$argon2id$v=19$m=4294967295,t=1,p=1$AAAA$AAAA", "too large"),
            ("$argon2id$v=19$m=1,t=1,p=1$AAAA$AAAA", "m"),
            ("$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA", "8 or more"),
            ("SCRAM-SHA-256$4096$a:b", "ITERATIONS:SALT"),
            (
                "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
                "where there must be 32",
            ),
            ("PBKDF2$md5$1$AAAA$AAAA", "none of"),
        ] {
            let error = PasswordHash::parse(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}

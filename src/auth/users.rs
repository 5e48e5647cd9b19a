//! The file of users and their hashed passwords: `NAME:HASH`, a line each, `#` for comments.

use super::hash::{PasswordHash, ScramKeys};
use ring::hmac;
use std::collections::BTreeMap;
use std::fmt;

/// What is wrong with a line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 for the file itself.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

impl std::error::Error for LineError {}

/// Everybody who has a password.
#[derive(Debug)]
pub struct Users {
    by_name: BTreeMap<Box<str>, PasswordHash>,
    /// Chooses whom an unknown user looks like.
    key: hmac::Key,
}

/// What was found of a user.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The user's hash, or that of somebody else: checking takes the same time either way.
    pub hash: &'a PasswordHash,
    /// Whether there is such a user.
    pub is_known: bool,
}

impl Users {
    /// Reads the text of a file called `file`. `secret` chooses whom an unknown user looks like.
    ///
    /// Errors: every line that is wrong; then nothing of it holds.
    pub fn parse(file: &str, text: &str, secret: &[u8; 32]) -> Result<Self, Vec<LineError>> {
        let mut by_name: BTreeMap<Box<str>, PasswordHash> = BTreeMap::new();
        let mut errors = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let read = parse_line(line).and_then(|user| match user {
                Some((name, _)) if by_name.contains_key(name) => {
                    Err(format!("`{name}` is in the file already"))
                }
                user => Ok(user),
            });
            match read {
                Ok(None) => {}
                Ok(Some((name, hash))) => {
                    by_name.insert(name.into(), hash);
                }
                Err(message) => errors.push(LineError {
                    file: file.to_owned(),
                    line: number,
                    message,
                }),
            }
        }
        if errors.is_empty() {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
            Ok(Self { by_name, key })
        } else {
            Err(errors)
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// The hash of a user, or one that stands in for it; none only when there are no users at all.
    pub fn find(&self, name: &str) -> Option<Found<'_>> {
        if let Some(hash) = self.by_name.get(name) {
            return Some(Found {
                hash,
                is_known: true,
            });
        }
        let count = u64::try_from(self.by_name.len())
            .ok()
            .filter(|count| *count > 0)?;
        let nth = self.number_for(name) % count;
        let hash = self.by_name.values().nth(usize::try_from(nth).ok()?)?;
        Some(Found {
            hash,
            is_known: false,
        })
    }

    /// The SCRAM keys of a user.
    pub fn scram(&self, name: &str) -> Option<&ScramKeys> {
        self.by_name.get(name).and_then(PasswordHash::scram)
    }

    /// What an unknown user is told for a salt: the same each time, and like any other.
    pub fn decoy_salt(&self, name: &str) -> [u8; 16] {
        let tag = hmac::sign(&self.key, format!("salt\0{name}").as_bytes());
        *tag.as_ref()
            .first_chunk()
            .expect("HMAC-SHA-256 has 32 bytes")
    }

    /// The iterations of a user that is there, for one that is not.
    pub fn decoy_iterations(&self) -> u32 {
        let known = self.by_name.values().find_map(PasswordHash::scram);
        known.map_or(4_096, |keys| keys.iterations.get())
    }

    /// A number for each user's line, which changes when the line does.
    pub fn fingerprints(&self) -> impl Iterator<Item = u64> {
        let users = self.by_name.iter();
        users.map(|(name, hash)| self.fingerprint_of(name, hash))
    }

    /// That of one user.
    pub fn fingerprint(&self, name: &str) -> Option<u64> {
        let hash = self.by_name.get(name)?;
        Some(self.fingerprint_of(name, hash))
    }

    fn fingerprint_of(&self, name: &str, hash: &PasswordHash) -> u64 {
        // There is no colon in a name.
        self.number_for(&format!("{name}:{hash}"))
    }

    fn number_for(&self, text: &str) -> u64 {
        let tag = hmac::sign(&self.key, text.as_bytes());
        let bytes = tag
            .as_ref()
            .first_chunk()
            .expect("HMAC-SHA-256 has 32 bytes");
        u64::from_le_bytes(*bytes)
    }
}

/// Name and hash in a line; none in a comment or an empty one.
///
/// Errors: a sentence that says what is wrong.
pub(super) fn parse_line(line: &str) -> Result<Option<(&str, PasswordHash)>, String> {
    let line = line.trim_end();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, hash) = line
        .split_once(':')
        .ok_or("there is no colon between a name and a hash")?;
    if name.is_empty() {
        return Err("there is no name before the colon".into());
    }
    Ok(Some((name, PasswordHash::parse(hash)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::hash::HashKind;

    fn hashed(kind: HashKind) -> String {
        PasswordHash::new(kind, b"secret", [1; 16]).to_string()
    }

    #[test]
    fn users_are_found_and_others_look_like_them() {
        let text = format!(
            "# users\r\n\nal:{}\nbo b:{}  \n",
            hashed(HashKind::Sha512Pbkdf2),
            hashed(HashKind::ScramSha256)
        );
        let users = Users::parse("users", &text, &[3; 32]).expect("valid");
        assert_eq!(users.count(), 2);
        assert!(users.find("al").is_some_and(|found| found.is_known));
        assert!(users.find("bo b").is_some_and(|found| found.is_known));
        assert!(users.scram("bo b").is_some() && users.scram("al").is_none());
        let mut stand_ins = std::collections::BTreeSet::new();
        for n in 0..64 {
            let name = format!("nobody {n}");
            let found = users.find(&name).expect("there are users");
            assert!(!found.is_known);
            stand_ins.insert(format!("{:?}", found.hash));
            assert_eq!(users.decoy_salt(&name), users.decoy_salt(&name));
        }
        assert_eq!(stand_ins.len(), 2);
        assert_ne!(users.decoy_salt("a"), users.decoy_salt("b"));
        assert_eq!(users.decoy_iterations(), 4_096);
        let again = Users::parse("users", &text.replace("al:", "cy:"), &[3; 32]).expect("valid");
        assert_eq!(users.fingerprint("bo b"), again.fingerprint("bo b"));
        assert_ne!(users.fingerprint("al"), again.fingerprint("cy"));
        assert_eq!(users.fingerprint("nobody"), None);
        let all: Vec<_> = users.fingerprints().map(Some).collect();
        assert_eq!(all, [users.fingerprint("al"), users.fingerprint("bo b")]);
        let nobody = Users::parse("users", "", &[3; 32]).expect("valid");
        assert!(nobody.find("al").is_none());
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let hash = hashed(HashKind::Sha512Pbkdf2);
        let text = format!("al:{hash}\nplain\n:{hash}\nbo:secret\nal:{hash}\n\ncy:$7$x$y$z\n");
        let errors = Users::parse("users", &text, &[3; 32]).expect_err("wrong");
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "users:2: there is no colon between a name and a hash",
                "users:3: there is no name before the colon",
                "users:4: the password is not hashed; `ringmq passwd -U FILE` hashes all of a file",
                "users:5: `al` is in the file already",
                "users:7: the iterations are not a number from 1 to 10000000",
            ]
        );
        assert!(errors.iter().all(|error| !error.contains(&hash)));
    }
}

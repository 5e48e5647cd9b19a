//! A payload of the user's own (`-m`), with places that are filled in for each message.
//!
//! What is filled in has the same width each time, so a message is a copy and a few digits. A payload like this
//! carries no header: nothing can be checked where it arrives.

use crate::plan::{Names, Role};
use std::fs::File;
use std::io::{Read, Write};

/// Bytes of a message, as of one that is made up (`--size`).
const BYTES_MAX: usize = 16 << 20;

/// What `-m` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    text: String,
}

/// One publisher's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    bytes: Vec<u8>,
    patches: Vec<(usize, Patch)>,
}

/// What is filled in anew for each message, with as many digits as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patch {
    Seconds,
    Milliseconds,
    Microseconds,
    Nanoseconds,
    Unique,
    Random,
}

/// The places, and how wide they are.
const PATCHES: &[(&str, Patch, usize)] = &[
    ("%TIMESTAMP%", Patch::Seconds, 10),
    ("%TIMESTAMPMS%", Patch::Milliseconds, 13),
    ("%TIMESTAMPUS%", Patch::Microseconds, 16),
    ("%TIMESTAMPNS%", Patch::Nanoseconds, 19),
    ("%UNIQUE%", Patch::Unique, 20),
    ("%RANDOM%", Patch::Random, 10),
];

impl Message {
    /// Reads the text itself, or with `template://FILE` the file's.
    ///
    /// Errors: the file cannot be read.
    pub fn read(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix("template://") else {
            return Ok(Self { text: text.into() });
        };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| {
            // What is longer is refused for its length.
            file.take(BYTES_MAX as u64 + 1).read_to_string(&mut text)
        });
        match read {
            Ok(_) => Ok(Self { text }),
            Err(error) => Err(format!("--message: {path}: {error}")),
        }
    }

    /// Errors: it is too long with its places filled in for one of `count` publishers.
    pub fn check(&self, names: &Names, count: u32) -> Result<(), String> {
        let last = count.saturating_sub(1);
        let bytes = names.filled_bytes(&self.text, Role::Publisher, last);
        if bytes <= BYTES_MAX {
            return Ok(());
        }
        Err(format!(
            "--message: it has {bytes} bytes or more; at most {BYTES_MAX} are sent"
        ))
    }

    /// The message of publisher `number`, with `%i`, `%c` and `%u` filled in.
    pub fn of_publisher(&self, names: &Names, number: u32) -> Prepared {
        let text = names.fill(&self.text, Role::Publisher, number);
        let mut prepared = Prepared {
            bytes: Vec::new(),
            patches: Vec::new(),
        };
        let mut rest = text.as_str();
        while let Some(at) = rest.find('%') {
            prepared.bytes.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at..];
            let place = PATCHES.iter().find(|(name, ..)| rest.starts_with(name));
            let len = if let Some((name, patch, width)) = place {
                prepared.patches.push((prepared.bytes.len(), *patch));
                prepared.bytes.resize(prepared.bytes.len() + width, b'0');
                name.len()
            } else {
                prepared.bytes.push(b'%');
                1
            };
            rest = &rest[len..];
        }
        prepared.bytes.extend_from_slice(rest.as_bytes());
        prepared
    }
}

impl Prepared {
    /// Its length, the same for each message.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends message `sequence` of publisher `number`, due at `intended_ns`.
    pub fn put(&self, out: &mut Vec<u8>, number: u32, sequence: u64, intended_ns: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        for (at, patch) in &self.patches {
            let unique = u64::from(number) << 40 | sequence;
            let (value, width) = match patch {
                Patch::Seconds => (intended_ns / 1_000_000_000, 10),
                Patch::Milliseconds => (intended_ns / 1_000_000, 13),
                Patch::Microseconds => (intended_ns / 1_000, 16),
                Patch::Nanoseconds => (intended_ns, 19),
                Patch::Unique => (unique, 20),
                // A multiplication spreads the numbers well enough for a payload.
                Patch::Random => (unique.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32, 10),
            };
            let mut place = &mut out[start + at..start + at + width];
            write!(place, "{value:0width$}").expect("the values have at most that many digits");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names() -> Names {
        Names {
            prefix: "p".into(),
            start_number: 0,
            short_ids: false,
            username: "u".into(),
            cores: 1,
        }
    }

    #[test]
    fn places_are_filled_in_and_the_rest_stays() {
        let text = "%i %c %u %d 100%|%TIMESTAMPMS%|%UNIQUE%|%RANDOM%%TIMESTAMP%é%";
        let prepared = Message::read(text).unwrap().of_publisher(&names(), 3);
        let mut out = b"before".to_vec();
        prepared.put(&mut out, 3, 7, 1_700_000_000_123_456_789);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.len(), "before".len() + prepared.len());
        assert!(
            text.starts_with("before3 p-p3 u %d 100%|1700000000123|000"),
            "{text}"
        );
        assert!(text.ends_with("1700000000é%"), "{text}");
        let mut next = Vec::new();
        prepared.put(&mut next, 3, 8, 1_700_000_000_123_456_789);
        assert_eq!(next.len(), prepared.len());
        assert_ne!(next, text.as_bytes()["before".len()..]);
    }

    #[test]
    fn a_template_is_a_file() {
        let path = std::env::temp_dir().join(format!("loadgen-message-{}", std::process::id()));
        fs::write(&path, "from %i").unwrap();
        let message = Message::read(&format!("template://{}", path.display())).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(message.text, "from %i");
        assert!(Message::read("template:///nowhere/at/all").is_err());
        assert!(
            Message::read("")
                .unwrap()
                .of_publisher(&names(), 0)
                .is_empty()
        );
    }
}

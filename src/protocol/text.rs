//! UTF-8 Encoded Strings and Topic Names, without their two-byte length.
//!
//! The rules are the same in 3.1, 3.1.1 and 5.0: well-formed UTF-8 (so no surrogates and no overlong
//! forms) and no U+0000. A byte order mark stays in the string. Control characters and
//! noncharacters, which a receiver may refuse, are let through.

use std::fmt;

/// The longest UTF-8 Encoded String and Binary Data, in bytes.
///
/// Spec: MQTT 5 §1.5.4 and §1.5.6.
pub const STRING_BYTES_MAX: usize = 65_535;

/// Why bytes are not a string or a Topic Name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFault {
    /// Not well-formed UTF-8 (MQTT-1.5.4-1).
    IllFormed,
    /// Has U+0000 in it (MQTT-1.5.4-2).
    Nul,
    /// A Topic Name with `+` or `#` in it (MQTT-3.3.2-2).
    Wildcard,
}

impl fmt::Display for TextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IllFormed => "not well-formed UTF-8",
            Self::Nul => "has U+0000 in it",
            Self::Wildcard => "has a wildcard character in it",
        })
    }
}

impl std::error::Error for TextFault {}

/// `bytes` as the text of a UTF-8 Encoded String.
///
/// Errors: `IllFormed` and `Nul`, Reason Code 0x81.
///
/// Spec: MQTT 5 §1.5.4.
pub fn utf8(bytes: &[u8]) -> Result<&str, TextFault> {
    if any_word(bytes, zero_bytes) {
        return Err(TextFault::Nul);
    }
    std::str::from_utf8(bytes).map_err(|_| TextFault::IllFormed)
}

/// `bytes` as a Topic Name, which may still be empty: the caller knows whether that is allowed.
///
/// Errors: `IllFormed` and `Nul`, Reason Code 0x81; `Wildcard`, 0x90.
/// Cost: two passes, eight bytes at a time: one finds U+0000, `+` and `#`, one checks the UTF-8.
///
/// Spec: MQTT 5 §4.7, MQTT-3.3.2-2.
pub fn topic_name(bytes: &[u8]) -> Result<&str, TextFault> {
    // `+` and `#` differ in the bit 0x08. In UTF-8 the three bytes are never part of another character.
    let wildcards = |word| zero_bytes((word | (EACH_BYTE * 0x08)) ^ (EACH_BYTE * u64::from(b'+')));
    if any_word(bytes, |word| zero_bytes(word) | wildcards(word)) {
        return Err(match memchr::memchr3(0, b'+', b'#', bytes) {
            Some(at) if bytes[at] != 0 => TextFault::Wildcard,
            _ => TextFault::Nul,
        });
    }
    std::str::from_utf8(bytes).map_err(|_| TextFault::IllFormed)
}

/// Times a byte: a word of eight of them.
pub(crate) const EACH_BYTE: u64 = u64::MAX / 0xFF;

/// Not 0 if and only if a byte of the word is 0; the lowest bit is then in the lowest of them.
pub(crate) fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(EACH_BYTE) & !word & (EACH_BYTE << 7)
}

/// Whether `test` is not 0 for some eight bytes. The last word begins before the others end, or is filled up with spaces: texts are
/// short, and a call to something vectorised costs more than it saves.
fn any_word(bytes: &[u8], test: impl Fn(u64) -> u64) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    let last = bytes.last_chunk::<8>().copied().unwrap_or_else(|| {
        let mut last = [b' '; 8];
        last[..bytes.len()].copy_from_slice(bytes);
        last
    });
    let words = words.iter().chain(std::iter::once(&last));
    words.fold(0, |found, word| found | test(u64::from_le_bytes(*word))) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings() {
        assert_eq!(utf8(b""), Ok(""));
        assert_eq!(utf8("A\u{2A6D4}".as_bytes()), Ok("A\u{2A6D4}"));
        assert_eq!(utf8(b"\xEF\xBB\xBFx"), Ok("\u{FEFF}x"));
        assert_eq!(utf8(b"+#"), Ok("+#"));
        assert_eq!(utf8(b"a\0b"), Err(TextFault::Nul));
        assert_eq!(
            utf8(b"a\xED\xA0\x80"),
            Err(TextFault::IllFormed),
            "a surrogate"
        );
        assert_eq!(
            utf8(b"a\xC0\xAF"),
            Err(TextFault::IllFormed),
            "an overlong form"
        );
        assert_eq!(
            utf8(b"a\xF4\x90\x80\x80"),
            Err(TextFault::IllFormed),
            "above U+10FFFF"
        );
        assert_eq!(utf8(b"a\xE2\x82"), Err(TextFault::IllFormed), "cut off");
    }

    #[test]
    fn topic_names() {
        assert_eq!(topic_name(b""), Ok(""));
        assert_eq!(topic_name(b"/a//b/"), Ok("/a//b/"));
        assert_eq!(topic_name("$SYS/\u{e9}".as_bytes()), Ok("$SYS/\u{e9}"));
        assert_eq!(topic_name(b"a/+"), Err(TextFault::Wildcard));
        assert_eq!(topic_name(b"a#"), Err(TextFault::Wildcard));
        assert_eq!(topic_name(b"a\0"), Err(TextFault::Nul));
        assert_eq!(topic_name(b"a\xFF"), Err(TextFault::IllFormed));
    }

    #[test]
    fn a_forbidden_byte_is_found_wherever_it_stands() {
        for len in 1..40 {
            let topic = vec![b'\x22'; len];
            assert!(topic_name(&topic).is_ok());
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut topic = topic.clone();
                    topic[at] = byte;
                    let expected = match byte {
                        0 => Err(TextFault::Nul),
                        b'+' | b'#' => Err(TextFault::Wildcard),
                        128.. => Err(TextFault::IllFormed),
                        _ => Ok(()),
                    };
                    assert_eq!(topic_name(&topic).map(drop), expected, "{byte} at {at}");
                    let expected = expected.or_else(|fault| match fault {
                        TextFault::Wildcard => Ok(()),
                        fault => Err(fault),
                    });
                    assert_eq!(utf8(&topic).map(drop), expected, "{byte} at {at}");
                }
            }
        }
    }
}

//! What a message carries: who sent it, its number, when it was due, and bytes that show damage.
//!
//! ```text
//! 0        3            8                16
//! ┌────────┬────────────┬────────────────┬─────────────────────────────
//! │publish.│ sequence   │ intended time  │ pattern, different for each
//! │ 24 bits│ 40 bits    │ ns since 1970  │ publisher and sequence
//! └────────┴────────────┴────────────────┴─────────────────────────────
//! ```
//!
//! All numbers are big-endian. The pattern is a piece of one fixed table, so writing and checking it is a
//! copy and a comparison of memory.

/// Bytes of the header; no payload is shorter.
pub const HEADER_BYTES: usize = 16;
/// Publishers that can be told apart.
pub const PUBLISHERS_MAX: u32 = 1 << 24;
/// Messages of one publisher that can be told apart.
pub const SEQUENCES_MAX: u64 = 1 << 40;
/// Different places at which a pattern begins; a prime, so that neighbours differ.
const STARTS: u64 = 251;

/// The first bytes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which publisher of the run.
    pub publisher: u32,
    /// Which of its messages, from 0.
    pub sequence: u64,
    /// When it was due, in nanoseconds of [`Clock`](crate::clock::Clock).
    pub intended_ns: u64,
}

impl Header {
    /// Reads the header; `None` when there are fewer than [`HEADER_BYTES`].
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (first, rest) = payload.split_first_chunk::<8>()?;
        let (second, _) = rest.split_first_chunk::<8>()?;
        let word = u64::from_be_bytes(*first);
        Some(Self {
            publisher: (word >> 40) as u32,
            sequence: word & (SEQUENCES_MAX - 1),
            intended_ns: u64::from_be_bytes(*second),
        })
    }

    fn bytes(&self) -> [u8; HEADER_BYTES] {
        assert!(self.publisher < PUBLISHERS_MAX && self.sequence < SEQUENCES_MAX);
        let word = u64::from(self.publisher) << 40 | self.sequence;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&word.to_be_bytes());
        bytes[8..].copy_from_slice(&self.intended_ns.to_be_bytes());
        bytes
    }
}

/// The payloads of one size.
#[derive(Clone, Debug)]
pub struct Payloads {
    size: usize,
    table: Vec<u8>,
}

impl Payloads {
    /// Payloads of `size` bytes.
    ///
    /// Panics: when that is less than [`HEADER_BYTES`].
    pub fn new(size: usize) -> Self {
        assert!(size >= HEADER_BYTES, "a payload has room for its header");
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let table = (0..size - HEADER_BYTES + STARTS as usize)
            .map(|_| {
                // xorshift64: any table does that does not repeat with a short period.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        Self { size, table }
    }

    /// Bytes of a payload.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Appends the payload with this header.
    pub fn put(&self, header: &Header, out: &mut Vec<u8>) {
        out.extend_from_slice(&header.bytes());
        out.extend_from_slice(self.pattern(header));
    }

    /// Reads a payload, and returns `None` when a byte of it is not as it was sent.
    pub fn check(&self, payload: &[u8]) -> Option<Header> {
        let header = Header::read(payload)?;
        (payload[HEADER_BYTES..] == *self.pattern(&header)).then_some(header)
    }

    fn pattern(&self, header: &Header) -> &[u8] {
        let start = (header.sequence * 31 + u64::from(header.publisher) * 7) % STARTS;
        let start = start as usize;
        &self.table[start..start + self.size - HEADER_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(publisher: u32, sequence: u64) -> Header {
        Header {
            publisher,
            sequence,
            intended_ns: 1_700_000_000_123_456_789,
        }
    }

    #[test]
    fn what_is_put_checks() {
        for size in [16, 17, 64, 1_024, 100_000] {
            let payloads = Payloads::new(size);
            for header in [
                header(0, 0),
                header(PUBLISHERS_MAX - 1, SEQUENCES_MAX - 1),
                header(7, 9),
            ] {
                let mut bytes = Vec::new();
                payloads.put(&header, &mut bytes);
                assert_eq!(bytes.len(), size);
                assert_eq!(payloads.check(&bytes), Some(header));
            }
        }
    }

    #[test]
    fn every_damaged_byte_of_the_pattern_is_seen() {
        let payloads = Payloads::new(64);
        let mut bytes = Vec::new();
        payloads.put(&header(3, 1_000), &mut bytes);
        for at in HEADER_BYTES..64 {
            bytes[at] ^= 1;
            assert_eq!(payloads.check(&bytes), None, "byte {at}");
            bytes[at] ^= 1;
        }
        assert_eq!(payloads.check(&bytes[..63]), None, "a byte short");
        assert_eq!(payloads.check(&bytes[..15]), None, "no header");
        bytes.push(0);
        assert_eq!(payloads.check(&bytes), None, "a byte more");
    }

    #[test]
    fn the_body_of_one_message_does_not_fit_the_header_of_its_neighbours() {
        let payloads = Payloads::new(64);
        let bytes = |header: &Header| {
            let mut bytes = Vec::new();
            payloads.put(header, &mut bytes);
            bytes
        };
        let body = bytes(&header(3, 1_000));
        for other in [
            header(3, 1_001),
            header(3, 999),
            header(4, 1_000),
            header(2, 1_000),
        ] {
            let mut mixed = bytes(&other);
            mixed[HEADER_BYTES..].copy_from_slice(&body[HEADER_BYTES..]);
            assert_eq!(payloads.check(&mixed), None, "{other:?}");
        }
    }
}

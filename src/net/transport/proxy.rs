//! The PROXY protocol, versions 1 and 2: a proxy's word on who is behind it.
//!
//! The header is read only from peers on the listener's trust list; `net::transport` sees to that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str;

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The first bytes of version 1.
const PREFIX: &[u8; 6] = b"PROXY ";
/// Longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// Longest header of version 2 that is taken. Addresses are at most 216 bytes; the rest is what a proxy tells
/// of its own connection.
const HEADER_BYTES_MAX: usize = 4 << 10;

/// What the bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The first part of a header.
    Incomplete,
    /// A header.
    Whole {
        /// Its bytes.
        len: usize,
        /// Who is behind the proxy; none when the proxy speaks for itself or does not know.
        source: Option<SocketAddr>,
    },
}

/// Reads the header at the start of `bytes`.
///
/// Errors: what is wrong, in words; there is no header.
pub fn parse(bytes: &[u8]) -> Result<Header, &'static str> {
    if begins(bytes, SIGNATURE) {
        parse_2(bytes)
    } else if begins(bytes, PREFIX) {
        parse_1(bytes)
    } else {
        Err("no PROXY header")
    }
}

/// Whether `bytes` is the start of `text`, or starts with it.
fn begins(bytes: &[u8], text: &[u8]) -> bool {
    let len = bytes.len().min(text.len());
    bytes[..len] == text[..len]
}

fn parse_1(bytes: &[u8]) -> Result<Header, &'static str> {
    let line = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() == LINE_BYTES_MAX {
            Err("a PROXY line does not end")
        } else {
            Ok(Header::Incomplete)
        };
    };
    let line = line[..end]
        .strip_suffix(b"\r")
        .and_then(|line| str::from_utf8(line).ok());
    let wrong = "a malformed PROXY line";
    let mut words = line.ok_or(wrong)?.split(' ').skip(1);
    let len = end + 1;
    let is_v4 = match words.next() {
        // Whatever follows it is to be ignored.
        Some("UNKNOWN") => return Ok(Header::Whole { len, source: None }),
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(wrong),
    };
    let mut address = || {
        words
            .next()?
            .parse::<IpAddr>()
            .ok()
            .filter(|ip| ip.is_ipv4() == is_v4)
    };
    let (source, _) = address().zip(address()).ok_or(wrong)?;
    let mut port = || words.next()?.parse::<u16>().ok();
    let (port, _) = port().zip(port()).ok_or(wrong)?;
    if words.next().is_some() {
        return Err(wrong);
    }
    Ok(Header::Whole {
        len,
        source: Some(SocketAddr::new(source, port)),
    })
}

fn parse_2(bytes: &[u8]) -> Result<Header, &'static str> {
    let Some([version_command, family, high, low]) = bytes.get(12..16) else {
        return Ok(Header::Incomplete);
    };
    let body_len = usize::from(u16::from_be_bytes([*high, *low]));
    let len = 16 + body_len;
    if len > HEADER_BYTES_MAX {
        return Err("a PROXY header is too long");
    }
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err("a PROXY header of an unknown version or command"),
    };
    let Some(body) = bytes.get(16..len) else {
        return Ok(Header::Incomplete);
    };
    let source = match family >> 4 {
        // The proxy checks whether we live.
        _ if is_local => None,
        0x1 => Some(source_v4(body)),
        0x2 => Some(source_v6(body)),
        // Unix sockets, and what will be.
        _ => None,
    };
    match source {
        Some(None) => Err("a PROXY header is too short for its addresses"),
        source => Ok(Header::Whole {
            len,
            source: source.flatten(),
        }),
    }
}

/// The source of: source address, destination address, source port, destination port.
fn source_v4(body: &[u8]) -> Option<SocketAddr> {
    let address: [u8; 4] = *body.get(..12)?.first_chunk()?;
    let port = [body[8], body[9]];
    Some((Ipv4Addr::from(address), u16::from_be_bytes(port)).into())
}

fn source_v6(body: &[u8]) -> Option<SocketAddr> {
    let address: [u8; 16] = *body.get(..36)?.first_chunk()?;
    let port = [body[32], body[33]];
    Some((Ipv6Addr::from(address), u16::from_be_bytes(port)).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const V4: [u8; 12] = [10, 0, 0, 1, 10, 0, 0, 2, 0x1F, 0x90, 0, 80];

    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let mut v6 = [0; 36];
        v6[0] = 0xfd;
        v6[15] = 1;
        v6[33] = 9;
        vec![
            (
                b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 80\r\n".to_vec(),
                Some("10.0.0.1:8080"),
            ),
            (
                b"PROXY TCP6 fd00::1 ::1 9 80\r\n".to_vec(),
                Some("[fd00::1]:9"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f...f:ffff 65535\r\n".to_vec(), None),
            (header_2(0x21, 0x11, &V4), Some("10.0.0.1:8080")),
            (
                header_2(0x21, 0x11, &[&V4[..], &[3, 0, 1, 7]].concat()),
                Some("10.0.0.1:8080"),
            ),
            (header_2(0x21, 0x21, &v6), Some("[fd00::1]:9")),
            (header_2(0x20, 0x00, &[]), None),
            (header_2(0x20, 0x11, &V4), None),
            (header_2(0x21, 0x31, &[0; 216]), None),
        ]
    }

    #[test]
    fn headers_are_read_and_every_part_of_one_is_incomplete() {
        for (bytes, source) in good() {
            let source = source.map(|source| source.parse().unwrap());
            let len = bytes.len();
            for end in 0..len {
                assert_eq!(
                    parse(&bytes[..end]),
                    Ok(Header::Incomplete),
                    "{end} of {bytes:?}"
                );
            }
            let followed = [&bytes[..], b"\x10\x0c\n"].concat();
            assert_eq!(
                parse(&followed),
                Ok(Header::Whole { len, source }),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bytes in [
            b"\x10\x0c".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 8080\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 80 1\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 8080 80\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 80800 80\r\n".to_vec(),
            b"PROXY TCP5 10.0.0.1 10.0.0.2 8080 80\r\n".to_vec(),
            b"PROXY UNKNOWN\n".to_vec(),
            [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
            header_2(0x31, 0x11, &V4),
            header_2(0x22, 0x11, &V4),
            header_2(0x21, 0x11, &V4[..11]),
            header_2(0x21, 0x21, &V4),
            header_2(0x21, 0x11, &[0; 5_000]),
        ] {
            assert!(parse(&bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        /// More bytes never change an answer that was given.
        #[test]
        fn an_answer_stands(seed in 0_usize..10, cut in 0_usize..60, tail in proptest::collection::vec(any::<u8>(), 0..60)) {
            let (good, _) = good().swap_remove(seed);
            let bytes = [&good[..cut.min(good.len())], &tail].concat();
            let mut answer = Ok(Header::Incomplete);
            for end in 0..=bytes.len() {
                let now = parse(&bytes[..end]);
                prop_assert!(answer == Ok(Header::Incomplete) || answer == now);
                answer = now;
            }
        }
    }
}

//! PROXY headers, of both versions.
//!
//! Input: the bytes. What must hold: an answer given for the first bytes stands when more come, and a header is never
//! longer than the bytes.

use ringmq::net::transport::proxy::{Header, parse};

/// Runs one input.
pub fn run(data: &[u8]) {
    let whole = parse(data);
    if let Ok(Header::Whole { len, .. }) = whole {
        assert!(len <= data.len());
        assert_eq!(parse(&data[..len]), whole);
    }
    let mut answer = Ok(Header::Incomplete);
    for end in 0..=data.len() {
        let now = parse(&data[..end]);
        assert!(answer == Ok(Header::Incomplete) || answer == now);
        answer = now;
    }
    assert_eq!(answer, whole);
}

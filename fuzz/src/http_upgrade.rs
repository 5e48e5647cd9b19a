//! The request and the answer that make a WebSocket.
//!
//! Input: a byte for what the listener allows, and then the bytes. What must hold: an answer given for the first bytes
//! stands when more come; a head is never longer than its bound; no header of the answer is the client's; and nobody but a trusted proxy
//! says for whom it speaks.

use crate::input::Input;
use ringmq::config::listener::WebSocketSpec;
use ringmq::net::transport::upgrade::{
    HEAD_BYTES_MAX, accept, check_answer, client_behind, refusal,
};
use std::net::IpAddr;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let allows = input.byte();
    let spec = WebSocketSpec {
        paths: if allows & 1 == 0 {
            Vec::new()
        } else {
            vec!["/mqtt".into()]
        },
        origins: if allows & 2 == 0 {
            Vec::new()
        } else {
            vec!["https://a".into()]
        },
        trusted_proxies: Vec::new(),
    };
    let bytes = input.rest();
    let whole = accept(bytes, &spec);
    match &whole {
        Ok(None) => assert!(bytes.len() < HEAD_BYTES_MAX),
        Ok(Some(granted)) => {
            assert!(granted.len <= bytes.len().min(HEAD_BYTES_MAX));
            let (peer, trusted) = (
                IpAddr::from([10, 0, 0, 1]),
                "10.0.0.0/8".parse().expect("valid"),
            );
            let said = &granted.forwarded_for;
            assert_eq!(client_behind(peer, said, &[]), peer);
            let client = client_behind(peer, said, &[trusted]);
            assert!(client == peer || said.contains(&client));
            // Three lines or four, and the empty one.
            let lines = granted.answer.matches("\r\n").count();
            assert!(
                matches!(lines, 5 | 6) && granted.answer.ends_with("\r\n\r\n"),
                "{}",
                granted.answer
            );
        }
        Err(refused) => {
            let answer = refusal(*refused);
            assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"));
        }
    }
    // A few lengths: each looks at all bytes before it.
    let mut answer = Ok(None);
    for end in (0..bytes.len())
        .step_by(1 + bytes.len() / 64)
        .chain([bytes.len()])
    {
        let now = accept(&bytes[..end], &spec);
        assert!(answer == Ok(None) || answer == now);
        answer = now;
    }
    if let Ok(Some(len)) = check_answer(bytes, [7; 16]) {
        assert!(len <= bytes.len());
    }
}

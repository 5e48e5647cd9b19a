//! The HTTP request that becomes a WebSocket (RFC 6455 §4), both sides of it.
//!
//! Parsing is strict where a mistake would be somebody's attempt to say two things at once (a header twice, folded
//! lines, bodies) and bounded: a head of more than [`HEAD_BYTES_MAX`] bytes is refused. Its time is bounded by the time
//! to CONNECT.

use crate::config::listener::{Network, WebSocketSpec};
use ring::digest;
use std::fmt::Write;
use std::net::IpAddr;
use std::str;

/// Longest head of a request or an answer.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// What is appended to a key before it is hashed (§1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The subprotocols that are ours (MQTT 5 §6.0 [MQTT-6.0.0-4]; `mqttv3.1` is what MQTT 3.1 clients ask for).
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: u16,
    /// What was wrong, in words.
    pub what: &'static str,
}

fn refuse<T>(status: u16, what: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, what })
}

/// A request that is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Bytes of its head; frames follow.
    pub len: usize,
    /// The answer.
    pub answer: String,
    /// The addresses of X-Forwarded-For, nearest last; those behind one that cannot be read are left out.
    pub forwarded_for: Vec<IpAddr>,
}

/// Reads the request at the start of `bytes`; none while it has not arrived whole.
///
/// Errors: it is not granted; [`refusal`] makes the answer.
pub fn accept(bytes: &[u8], spec: &WebSocketSpec) -> Result<Option<Granted>, Refusal> {
    let Some(head) = head(bytes)? else {
        return Ok(None);
    };
    let mut words = head.first.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next())
    else {
        return refuse(400, "no HTTP request");
    };
    if !matches!(version, "HTTP/1.1") {
        return match version.starts_with("HTTP/") {
            true => refuse(505, "another version than HTTP/1.1"),
            false => refuse(400, "no HTTP request"),
        };
    }
    if method != "GET" {
        return refuse(405, "another method than GET");
    }
    let path = target.split('?').next().unwrap_or_default();
    if !path.starts_with('/') {
        return refuse(400, "the request names no path");
    }
    if head.one("host")?.is_none() {
        return refuse(400, "the request names no Host");
    }
    if head.one("content-length")?.is_some_and(|len| len != "0")
        || head.one("transfer-encoding")?.is_some()
    {
        return refuse(400, "the request has a body");
    }
    if !spec.paths.is_empty() && !spec.paths.iter().any(|served| served == path) {
        return refuse(404, "the path is not served");
    }
    if !head.has_word("upgrade", "websocket") || !head.has_word("connection", "upgrade") {
        return refuse(426, "the request does not ask for a WebSocket");
    }
    if head.one("sec-websocket-version")? != Some("13") {
        return refuse(426, "another version of WebSocket than 13");
    }
    let Some(key) = head.one("sec-websocket-key")?.filter(|key| is_key(key)) else {
        return refuse(400, "Sec-WebSocket-Key is not 16 bytes in base64");
    };
    if let Some(origin) = head.one("origin")?
        && !spec.origins.is_empty()
        && !spec
            .origins
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(origin))
    {
        return refuse(403, "the Origin is not allowed");
    }
    let mut offered = head.list("sec-websocket-protocol").peekable();
    let offers_any = offered.peek().is_some();
    let protocol = offered.find(|name| PROTOCOLS.contains(name));
    if offers_any && protocol.is_none() {
        return refuse(400, "the subprotocols offered are not MQTT's");
    }
    let mut answer = String::from(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    );
    // Writing to a String does not fail.
    let _ = write!(answer, "Sec-WebSocket-Accept: {}\r\n", accept_key(key));
    if let Some(protocol) = protocol {
        let _ = write!(answer, "Sec-WebSocket-Protocol: {protocol}\r\n");
    }
    answer.push_str("\r\n");
    Ok(Some(Granted {
        len: head.len,
        answer,
        forwarded_for: forwarded_for(&head),
    }))
}

/// What stands before an entry that cannot be read counts for nothing: nobody can tell whether a proxy said it. What
/// stands after it was said by nearer proxies; a client that sends rubbish must not make them unheard.
fn forwarded_for(head: &Head<'_>) -> Vec<IpAddr> {
    let mut said = Vec::new();
    for entry in head.list("x-forwarded-for") {
        match forwarded(entry) {
            Some(address) => said.push(address),
            None => said.clear(),
        }
    }
    said
}

/// The answer to a request that is refused; the connection is closed after it.
pub fn refusal(refusal: Refusal) -> String {
    let Refusal { status, what } = refusal;
    let (reason, more) = match status {
        403 => ("Forbidden", ""),
        404 => ("Not Found", ""),
        405 => ("Method Not Allowed", "Allow: GET\r\n"),
        426 => (
            "Upgrade Required",
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        ),
        431 => ("Request Header Fields Too Large", ""),
        505 => ("HTTP Version Not Supported", ""),
        _ => ("Bad Request", ""),
    };
    let connection = if status == 426 {
        "Upgrade, close"
    } else {
        "close"
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\nConnection: {connection}\r\n{more}Content-Type: text/plain\r\n\
         Content-Length: {}\r\n\r\n{what}\n",
        what.len() + 1
    )
}

/// Who is behind the trusted proxies: the nearest address that is not one of them, or the farthest of all.
pub fn client_behind(peer: IpAddr, forwarded_for: &[IpAddr], trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(*address));
    let mut client = peer;
    for address in forwarded_for.iter().rev() {
        if !is_trusted(&client) {
            break;
        }
        client = *address;
    }
    client
}

/// A client's request. `key` is 16 random bytes.
pub fn request(host: &str, path: &str, protocol: &str, key: [u8; 16]) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n",
        base64(&key)
    )
}

/// Reads a server's answer to [`request`] and returns the length of its head; none while it has not arrived whole.
///
/// Errors: the server does not speak WebSocket; what it said instead.
pub fn check_answer(bytes: &[u8], key: [u8; 16]) -> Result<Option<usize>, String> {
    let head = match head(bytes) {
        Ok(Some(head)) => head,
        Ok(None) => return Ok(None),
        Err(refusal) => return Err(format!("no WebSocket answer: {}", refusal.what)),
    };
    let status = head.first.strip_prefix("HTTP/1.1 ");
    let Some(status) = status.filter(|status| status.starts_with("101")) else {
        return Err(format!(
            "the server refuses the WebSocket: {}",
            head.first.escape_default()
        ));
    };
    let accepted = head.one("sec-websocket-accept").ok().flatten();
    if accepted != Some(&accept_key(&base64(&key))) {
        return Err(format!(
            "the server's {status} is not an answer to this request"
        ));
    }
    Ok(Some(head.len))
}

/// The head of a request or an answer.
struct Head<'a> {
    /// Its first line.
    first: &'a str,
    /// The others.
    fields: &'a str,
    /// All its bytes, the empty line included.
    len: usize,
}

/// The head at the start of `bytes`; none while it has not arrived whole.
fn head(bytes: &[u8]) -> Result<Option<Head<'_>>, Refusal> {
    // What cannot become a head is refused at its first byte: another protocol, mostly.
    if bytes
        .first()
        .is_some_and(|first| !first.is_ascii_uppercase())
    {
        return refuse(400, "no HTTP request");
    }
    let searched = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let Some(end) = memchr::memmem::find(searched, b"\r\n\r\n") else {
        if bytes.len() >= HEAD_BYTES_MAX {
            return refuse(431, "the head of the request is too long");
        }
        return Ok(None);
    };
    let text = str::from_utf8(&searched[..end]).ok();
    let Some(text) = text.filter(|text| text.bytes().all(is_text)) else {
        return refuse(400, "the head of the request has bytes that are no text");
    };
    let (first, fields) = text.split_once("\r\n").unwrap_or((text, ""));
    let is_line = |line: &str| !line.contains(['\r', '\n']);
    let is_field = |line: &str| {
        let name = line.split_once(':').map_or("", |(name, _)| name);
        is_line(line) && !name.is_empty() && name.bytes().all(is_token)
    };
    if !is_line(first) || (!fields.is_empty() && !fields.split("\r\n").all(is_field)) {
        return refuse(400, "a malformed line in the head of the request");
    }
    Ok(Some(Head {
        first,
        fields,
        len: end + 4,
    }))
}

impl<'a> Head<'a> {
    /// The values of a field, whose name is given in lower case.
    fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim_matches([' ', '\t']))
    }

    /// The value of a field that may be there once.
    fn one(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let mut values = self.all(name);
        let value = values.next();
        if values.next().is_some() {
            return refuse(400, "a header that may be there once is there twice");
        }
        Ok(value)
    }

    /// The words of a field that is a list.
    fn list(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(|word| word.trim_matches([' ', '\t']))
            .filter(|word| !word.is_empty())
    }

    fn has_word(&self, name: &str, word: &str) -> bool {
        self.list(name).any(|have| have.eq_ignore_ascii_case(word))
    }
}

/// Whether a byte may stand in a head: no control characters but those that end lines, and the tabulator.
fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7F || matches!(byte, b'\r' | b'\n' | b'\t')
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An address of X-Forwarded-For; some proxies add the port.
fn forwarded(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches('"');
    let address = text.parse().ok();
    address
        .or_else(|| {
            text.parse()
                .ok()
                .map(|address: std::net::SocketAddr| address.ip())
        })
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

/// Whether `key` is 16 bytes in base64.
fn is_key(key: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    key.strip_suffix("==")
        .is_some_and(|digits| digits.len() == 22 && digits.bytes().all(is_digit))
}

/// §4.2.2: SHA-1 serves no security here; it shows that the server speaks WebSocket.
fn accept_key(key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(ACCEPT_GUID);
    base64(context.finish().as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// A good request with some fields put in place of others: an empty value leaves the field out.
    fn text(changes: &[(&str, &str)]) -> String {
        let mut fields = vec![
            ("Host", "broker"),
            ("Upgrade", "websocket"),
            ("Connection", "keep-alive, Upgrade"),
            ("Sec-WebSocket-Key", KEY),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Protocol", "mqtt"),
        ];
        for (name, value) in changes {
            fields.retain(|(field, _)| field != name);
            if !value.is_empty() {
                fields.push((name, value));
            }
        }
        let fields: String = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!("GET /mqtt?a=b HTTP/1.1\r\n{fields}\r\n")
    }

    fn granted(text: &str, spec: &WebSocketSpec) -> Granted {
        accept(text.as_bytes(), spec).unwrap().unwrap()
    }

    fn status(text: &str) -> u16 {
        accept(text.as_bytes(), &WebSocketSpec::default())
            .expect_err(text)
            .status
    }

    #[test]
    fn the_example_of_rfc_6455() {
        assert_eq!(accept_key(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let text = text(&[]);
        let granted = granted(&(text.clone() + "more"), &WebSocketSpec::default());
        assert_eq!(granted.len, text.len());
        assert!(
            granted
                .answer
                .contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
        );
        assert!(
            granted
                .answer
                .contains("\r\nSec-WebSocket-Protocol: mqtt\r\n")
        );
    }

    #[test]
    fn every_part_of_a_request_is_incomplete() {
        let text = text(&[]);
        for end in 0..text.len() {
            assert_eq!(
                accept(&text.as_bytes()[..end], &WebSocketSpec::default()),
                Ok(None),
                "{end}"
            );
        }
    }

    #[test]
    fn subprotocols_are_echoed() {
        let spec = WebSocketSpec::default();
        for (offered, taken) in [
            ("mqttv3.1", "mqttv3.1"),
            ("chat, mqtt", "mqtt"),
            ("mqttv3.1,mqtt", "mqttv3.1"),
        ] {
            let answer = granted(&text(&[("Sec-WebSocket-Protocol", offered)]), &spec).answer;
            assert!(
                answer.contains(&format!("\r\nSec-WebSocket-Protocol: {taken}\r\n")),
                "{answer}"
            );
        }
        let answer = granted(&text(&[("Sec-WebSocket-Protocol", "")]), &spec).answer;
        assert!(!answer.contains("Protocol:"));
        // Nothing is agreed on, whatever is offered.
        assert!(
            !granted(
                &text(&[("Sec-WebSocket-Extensions", "permessage-deflate")]),
                &spec
            )
            .answer
            .contains("Extensions")
        );
    }

    #[test]
    fn what_is_refused_says_why() {
        for (name, value, expected) in [
            ("Host", "", 400),
            ("Upgrade", "", 426),
            ("Upgrade", "h2c", 426),
            ("Connection", "keep-alive", 426),
            ("Sec-WebSocket-Key", "", 400),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ", 400),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==AAAA", 400),
            ("Sec-WebSocket-Version", "8", 426),
            ("Sec-WebSocket-Version", "", 426),
            ("Sec-WebSocket-Protocol", "chat", 400),
            ("Content-Length", "5", 400),
            ("Transfer-Encoding", "chunked", 400),
            ("X Y", "1", 400),
        ] {
            assert_eq!(status(&text(&[(name, value)])), expected, "{name}: {value}");
        }
        for (from, to, expected) in [
            ("GET", "POST", 405),
            ("GET", "get", 400),
            ("HTTP/1.1", "HTTP/1.0", 505),
            ("HTTP/1.1", "FTP", 400),
            ("/mqtt?a=b", "mqtt", 400),
            ("/mqtt?a=b", "/mqtt a", 400),
            ("Host", " Host", 400),
            ("Host:", "Host", 400),
            ("broker", "bro\0ker", 400),
            ("Host: broker\r\n", "Host: broker\r\nhost: other\r\n", 400),
            ("Host: broker\r\n", "Host: broker\r\n folded\r\n", 400),
            ("Host: broker\r\n", "Host: broker\n", 400),
        ] {
            assert_eq!(
                status(&text(&[]).replacen(from, to, 1)),
                expected,
                "{from} -> {to}"
            );
        }
        assert_eq!(status("\x16\x03\x01"), 400, "TLS on a plain port");
        assert_eq!(status("\x10\x0c"), 400, "MQTT without WebSocket");
        assert_eq!(
            status(&("GET / HTTP/1.1\r\nA: ".to_owned() + &"x".repeat(HEAD_BYTES_MAX))),
            431
        );
        let answer = refusal(Refusal {
            status: 426,
            what: "why",
        });
        assert!(
            answer.contains("\r\nSec-WebSocket-Version: 13\r\n")
                && answer.ends_with("\r\n\r\nwhy\n")
        );
    }

    #[test]
    fn paths_and_origins_may_be_limited() {
        let spec = WebSocketSpec {
            paths: vec!["/mqtt".into()],
            origins: vec!["https://example.org".into()],
            ..WebSocketSpec::default()
        };
        granted(&text(&[]), &spec);
        granted(&text(&[("Origin", "https://Example.org")]), &spec);
        let refused = |text: &str| accept(text.as_bytes(), &spec).unwrap_err().status;
        assert_eq!(
            refused(&text(&[("Origin", "https://example.org.evil")])),
            403
        );
        assert_eq!(refused(&text(&[]).replacen("/mqtt", "/other", 1)), 404);
    }

    #[test]
    fn the_client_is_the_nearest_that_is_no_trusted_proxy() {
        let spec = WebSocketSpec::default();
        let text = text(&[
            ("X-Forwarded-For", "1.1.1.1, 2.2.2.2:80, 10.0.0.9"),
            ("X-Other", "1"),
        ]);
        let text = text.replace("X-Other: 1", "x-forwarded-for: [fd00::1]");
        let forwarded_for = granted(&text, &spec).forwarded_for;
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let expected = ["1.1.1.1", "2.2.2.2", "10.0.0.9", "fd00::1"].map(address);
        assert_eq!(forwarded_for, expected);
        let trusted: Vec<Network> =
            vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        assert_eq!(
            client_behind(address("10.1.1.1"), &forwarded_for, &trusted),
            address("2.2.2.2")
        );
        assert_eq!(
            client_behind(address("9.9.9.9"), &forwarded_for, &trusted),
            address("9.9.9.9")
        );
        assert_eq!(
            client_behind(address("10.1.1.1"), &[], &trusted),
            address("10.1.1.1")
        );
    }

    #[test]
    fn a_client_and_a_server_agree() {
        let key = *b"the sample nonce";
        let request = request("broker:80", "/mqtt", "mqtt", key);
        let answer = granted(&request, &WebSocketSpec::default()).answer;
        assert_eq!(check_answer(answer.as_bytes(), key), Ok(Some(answer.len())));
        assert_eq!(check_answer(&answer.as_bytes()[..40], key), Ok(None));
        assert!(check_answer(answer.as_bytes(), [1; 16]).is_err());
        assert!(
            check_answer(b"HTTP/1.1 404 Not Found\r\n\r\n", key)
                .unwrap_err()
                .contains("404")
        );
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
    }

    proptest! {
        /// Whatever comes after the first refusal or grant, it stands.
        #[test]
        fn an_answer_stands(cut in 0_usize..220, tail in "[ -~\r\n]{0,60}") {
            let text = text(&[]);
            let bytes = [&text.as_bytes()[..cut.min(text.len())], tail.as_bytes()].concat();
            let spec = WebSocketSpec::default();
            let mut answer = Ok(None);
            for end in 0..=bytes.len() {
                let now = accept(&bytes[..end], &spec);
                prop_assert!(answer == Ok(None) || answer == now);
                answer = now;
            }
        }
    }
}

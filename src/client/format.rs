//! How a received message is printed: payload, topic and payload, or a format as of `mosquitto_sub -F`.

use crate::protocol::publish::Publish;
use crate::protocol::{Property, QoS};
use std::fmt::Write as _;
use std::io::{self, Write};

/// When a message arrived: seconds and nanoseconds since the Unix epoch, in UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) seconds: u64,
    pub(super) nanos: u32,
}

/// A format, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Format(Vec<Piece>);

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Field { letter: char, layout: Layout },
    Time(char),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Layout {
    left: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
}

const FIELDS: &str = "ACDEFIJPRSUXjlmpqrtx";
const TIMES: &str = "@aAbBdDeFHjmMNsSTyYzZ";
/// Keeps a mistyped width from filling the memory.
const WIDTH_MAX: usize = 10_000;

impl Format {
    /// The payload alone, or after the topic.
    pub(super) fn plain(with_topic: bool) -> Self {
        Self::parse(if with_topic { "%t %p" } else { "%p" }).expect("the format is known")
    }

    /// Reads a format.
    ///
    /// Errors: a sentence for the user.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let piece = match c {
                '%' => {
                    let mut layout = Layout::default();
                    while let Some(flag) = chars.next_if(|c| matches!(c, '0' | '-')) {
                        layout.left |= flag == '-';
                        layout.zeros |= flag == '0';
                    }
                    layout.width = take_number(&mut chars)?.unwrap_or(0);
                    if chars.next_if_eq(&'.').is_some() {
                        layout.precision = Some(take_number(&mut chars)?.unwrap_or(0));
                    }
                    match chars.next() {
                        Some('%') => {
                            literal.push(b'%');
                            continue;
                        }
                        Some(letter) if FIELDS.contains(letter) => Piece::Field { letter, layout },
                        Some(letter) => {
                            return Err(format!("-F: `%{letter}` is no field; there are {FIELDS}"));
                        }
                        None => return Err("-F: a `%` at the end".into()),
                    }
                }
                '@' => match chars.next() {
                    Some('@') => {
                        literal.push(b'@');
                        continue;
                    }
                    Some(letter) if TIMES.contains(letter) => Piece::Time(letter),
                    Some(letter) => {
                        return Err(format!(
                            "-F: `@{letter}` is no part of a time; there are {TIMES}"
                        ));
                    }
                    None => return Err("-F: an `@` at the end".into()),
                },
                '\\' => {
                    literal.push(match chars.next() {
                        Some('0') => 0,
                        Some('a') => 7,
                        Some('e') => 27,
                        Some('n') => b'\n',
                        Some('r') => b'\r',
                        Some('t') => b'\t',
                        Some('v') => 11,
                        Some('\\') => b'\\',
                        _ => return Err("-F: after `\\` comes one of 0 a e n r t v \\".into()),
                    });
                    continue;
                }
                other => {
                    literal.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }

    /// Writes one message. `topic` is the one meant, also where the packet has an alias only.
    pub(super) fn write(
        &self,
        out: &mut impl Write,
        publish: &Publish<'_>,
        topic: &str,
        at: Arrival,
    ) -> io::Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Literal(bytes) => out.write_all(bytes)?,
                Piece::Field { letter: 'p', .. } => out.write_all(publish.payload)?,
                Piece::Field { letter: 'D', .. } => {
                    out.write_all(
                        publish
                            .properties
                            .forward
                            .correlation_data()
                            .unwrap_or_default(),
                    )?;
                }
                Piece::Field { letter, layout } => {
                    let text = field(*letter, publish, topic, at);
                    out.write_all(layout.apply(*letter, &text).as_bytes())?;
                }
                Piece::Time(letter) => out.write_all(time(*letter, at).as_bytes())?,
            }
        }
        Ok(())
    }
}

fn take_number(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> Result<Option<usize>, String> {
    let mut number = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let next = number.unwrap_or(0) * 10 + digit as usize;
        if next > WIDTH_MAX {
            return Err(format!("-F: a width above {WIDTH_MAX}"));
        }
        number = Some(next);
    }
    Ok(number)
}

impl Layout {
    fn apply(self, letter: char, text: &str) -> String {
        let cut = match self.precision {
            Some(precision) if precision < text.len() && "CIRt".contains(letter) => {
                let end = (0..=precision).rev().find(|at| text.is_char_boundary(*at));
                &text[..end.unwrap_or(0)]
            }
            _ => text,
        };
        let missing = self.width.saturating_sub(cut.len());
        if missing == 0 || !"ACEFIlmpRStxX".contains(letter) {
            cut.to_owned()
        } else if self.left {
            format!("{cut}{}", " ".repeat(missing))
        } else {
            let zeros = self.zeros && "AEFlmSXx".contains(letter);
            format!("{}{cut}", if zeros { "0" } else { " " }.repeat(missing))
        }
    }
}

fn field(letter: char, publish: &Publish<'_>, topic: &str, at: Arrival) -> String {
    let properties = &publish.properties;
    let forward = &properties.forward;
    let number = |number: Option<u32>| number.map_or(String::new(), |number| number.to_string());
    match letter {
        'A' => number(properties.topic_alias.map(|alias| u32::from(alias.get()))),
        'C' => forward.content_type().unwrap_or_default().to_owned(),
        'E' => number(properties.message_expiry_s),
        'F' => number(payload_format(publish)),
        'I' => iso_seconds(at) + "+0000",
        'J' | 'j' => json(publish, topic, at, letter == 'J'),
        'P' => {
            let pairs: Vec<String> = forward
                .user()
                .map(|(name, value)| format!("{name}:{value}"))
                .collect();
            pairs.join(" ")
        }
        'R' => forward.response_topic().unwrap_or_default().to_owned(),
        'S' => {
            let ids: Vec<String> = properties
                .subscription_ids
                .clone()
                .map(|id| id.to_string())
                .collect();
            ids.join(" ")
        }
        'U' => format!("{}.{:09}", at.seconds, at.nanos),
        'X' => hex(publish.payload).to_uppercase(),
        'x' => hex(publish.payload),
        'l' => publish.payload.len().to_string(),
        'm' => publish.packet_id.map_or(0, |id| id.get()).to_string(),
        'q' => (publish.qos as u8).to_string(),
        'r' => u8::from(publish.retain).to_string(),
        't' => topic.to_owned(),
        other => unreachable!("parse admits no field {other}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

fn payload_format(publish: &Publish<'_>) -> Option<u32> {
    publish
        .properties
        .forward
        .properties()
        .find_map(|property| match property {
            Property::PayloadFormatIndicator(is_text) => Some(u32::from(is_text)),
            _ => None,
        })
}

/// The message as a JSON object, with the names of `mosquitto_sub`.
fn json(publish: &Publish<'_>, topic: &str, at: Arrival, raw_payload: bool) -> String {
    let mut text = format!(
        "{{\"tst\":\"{}.{:06}Z+0000\",\"topic\":{},\"qos\":{},\"retain\":{},\"payloadlen\":{},",
        iso_seconds(at),
        at.nanos / 1000,
        quoted(topic),
        publish.qos as u8,
        u8::from(publish.retain),
        publish.payload.len()
    );
    if publish.qos != QoS::AtMostOnce {
        let id = publish.packet_id.map_or(0, |id| id.get());
        write!(text, "\"mid\":{id},").expect("a String takes everything");
    }
    let properties = json_properties(publish);
    if !properties.is_empty() {
        write!(text, "\"properties\":{{{}}},", properties.join(","))
            .expect("a String takes everything");
    }
    text.push_str("\"payload\":");
    match std::str::from_utf8(publish.payload) {
        Ok(payload) if raw_payload && is_json(payload) => text.push_str(payload),
        Ok(payload) => text.push_str(&quoted(payload)),
        Err(_) => text.push_str(&quoted(&String::from_utf8_lossy(publish.payload))),
    }
    text.push('}');
    text
}

fn json_properties(publish: &Publish<'_>) -> Vec<String> {
    let forward = &publish.properties.forward;
    let mut pairs = Vec::new();
    let users: Vec<String> = forward
        .user()
        .map(|(name, value)| format!("{}:{}", quoted(name), quoted(value)))
        .collect();
    if !users.is_empty() {
        pairs.push(format!("\"user-properties\":{{{}}}", users.join(",")));
    }
    if let Some(content_type) = forward.content_type() {
        pairs.push(format!("\"content-type\":{}", quoted(content_type)));
    }
    if let Some(format) = payload_format(publish) {
        pairs.push(format!("\"payload-format-indicator\":{format}"));
    }
    if let Some(topic) = forward.response_topic() {
        pairs.push(format!("\"response-topic\":{}", quoted(topic)));
    }
    if let Some(data) = forward.correlation_data() {
        pairs.push(format!(
            "\"correlation-data\":{}",
            quoted(&String::from_utf8_lossy(data))
        ));
    }
    if let Some(alias) = publish.properties.topic_alias {
        pairs.push(format!("\"topic-alias\":{alias}"));
    }
    if let Some(expiry_s) = publish.properties.message_expiry_s {
        pairs.push(format!("\"message-expiry-interval\":{expiry_s}"));
    }
    let ids: Vec<String> = publish
        .properties
        .subscription_ids
        .clone()
        .map(|id| id.to_string())
        .collect();
    if !ids.is_empty() {
        pairs.push(format!("\"subscription-identifier\":[{}]", ids.join(",")));
    }
    pairs
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => write!(out, "\\u{:04x}", c as u32).expect("a String takes everything"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether `text` is one JSON value (RFC 8259), nested at most 64 deep.
fn is_json(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    json_value(bytes, &mut at, 64) && {
        skip_space(bytes, &mut at);
        at == bytes.len()
    }
}

fn skip_space(bytes: &[u8], at: &mut usize) {
    while bytes.get(*at).is_some_and(|byte| b" \t\r\n".contains(byte)) {
        *at += 1;
    }
}

fn take(bytes: &[u8], at: &mut usize, wanted: &[u8]) -> bool {
    let there = bytes[*at..].starts_with(wanted);
    if there {
        *at += wanted.len();
    }
    there
}

fn json_value(bytes: &[u8], at: &mut usize, depth: u32) -> bool {
    skip_space(bytes, at);
    match bytes.get(*at) {
        Some(b'{') if depth > 0 => json_list(bytes, at, b"}", |at| {
            skip_space(bytes, at);
            json_string(bytes, at) && {
                skip_space(bytes, at);
                take(bytes, at, b":") && json_value(bytes, at, depth - 1)
            }
        }),
        Some(b'[') if depth > 0 => {
            json_list(bytes, at, b"]", |at| json_value(bytes, at, depth - 1))
        }
        Some(b'"') => json_string(bytes, at),
        Some(b't') => take(bytes, at, b"true"),
        Some(b'f') => take(bytes, at, b"false"),
        Some(b'n') => take(bytes, at, b"null"),
        _ => json_number(bytes, at),
    }
}

fn json_list(
    bytes: &[u8],
    at: &mut usize,
    end: &[u8],
    mut item: impl FnMut(&mut usize) -> bool,
) -> bool {
    *at += 1;
    skip_space(bytes, at);
    if take(bytes, at, end) {
        return true;
    }
    loop {
        if !item(at) {
            return false;
        }
        skip_space(bytes, at);
        if take(bytes, at, end) {
            return true;
        }
        if !take(bytes, at, b",") {
            return false;
        }
    }
}

fn json_string(bytes: &[u8], at: &mut usize) -> bool {
    if !take(bytes, at, b"\"") {
        return false;
    }
    while let Some(byte) = bytes.get(*at) {
        *at += 1;
        match byte {
            b'"' => return true,
            b'\\' => {
                let hex_digits = match bytes.get(*at) {
                    Some(b'u') => 4,
                    Some(escape) if b"\"\\/bfnrt".contains(escape) => 0,
                    _ => return false,
                };
                let digits = bytes.get(*at + 1..*at + 1 + hex_digits);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return false;
                }
                *at += 1 + hex_digits;
            }
            0..=0x1f => return false,
            _ => {}
        }
    }
    false
}

fn json_number(bytes: &[u8], at: &mut usize) -> bool {
    let digits = |at: &mut usize| {
        let start = *at;
        while bytes.get(*at).is_some_and(u8::is_ascii_digit) {
            *at += 1;
        }
        *at > start
    };
    take(bytes, at, b"-");
    if !take(bytes, at, b"0") && !digits(at) {
        return false;
    }
    if take(bytes, at, b".") && !digits(at) {
        return false;
    }
    if take(bytes, at, b"e") || take(bytes, at, b"E") {
        if !take(bytes, at, b"+") {
            take(bytes, at, b"-");
        }
        return digits(at);
    }
    true
}

const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

fn iso_seconds(at: Arrival) -> String {
    format!("{}T{}", time('F', at), time('T', at))
}

/// What strftime(3) makes of `%letter`, in UTC.
fn time(letter: char, at: Arrival) -> String {
    let days = at.seconds / 86_400;
    let (year, month, day) = crate::civil::from_days(days);
    let (hour, minute, second) = (
        at.seconds / 3600 % 24,
        at.seconds / 60 % 60,
        at.seconds % 60,
    );
    // 1970-01-01 was a Thursday.
    let weekday = DAYS[(days % 7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
    match letter {
        'a' => weekday[..3].to_owned(),
        'A' => weekday.to_owned(),
        'b' => month_name[..3].to_owned(),
        'B' => month_name.to_owned(),
        'd' => format!("{day:02}"),
        'D' => format!("{month:02}/{day:02}/{:02}", year % 100),
        'e' => format!("{day:2}"),
        'F' => format!("{year:04}-{month:02}-{day:02}"),
        'H' => format!("{hour:02}"),
        'j' => format!("{:03}", days - crate::civil::to_days(year, 1, 1) + 1),
        'm' => format!("{month:02}"),
        'M' => format!("{minute:02}"),
        'N' => format!("{:09}", at.nanos),
        's' => at.seconds.to_string(),
        'S' => format!("{second:02}"),
        'T' => format!("{hour:02}:{minute:02}:{second:02}"),
        'y' => format!("{:02}", year % 100),
        'Y' => year.to_string(),
        'z' => "+0000".to_owned(),
        'Z' => "UTC".to_owned(),
        other => unreachable!("parse admits no time {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Forward, PacketId, PublishProperties};

    const AT: Arrival = Arrival {
        seconds: 1_470_818_943,
        nanos: 7_000,
    };

    fn printed(format: &str, publish: &Publish<'_>) -> String {
        let mut out = Vec::new();
        Format::parse(format)
            .unwrap()
            .write(&mut out, publish, publish.topic, AT)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    fn publish<'a>(payload: &'a [u8], raw: &'a [u8]) -> Publish<'a> {
        Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: "a/b",
            packet_id: PacketId::new(7),
            properties: PublishProperties {
                forward: Forward::from_raw(raw).unwrap(),
                message_expiry_s: Some(60),
                ..PublishProperties::default()
            },
            payload,
        }
    }

    #[test]
    fn fields_are_those_of_mosquitto_sub() {
        let raw = crate::client::property::forward_raw(&[
            crate::client::property::Given::User("k".into(), "v".into()),
            crate::client::property::Given::Text(
                crate::client::property::TextName::ContentType,
                "ct".into(),
            ),
        ]);
        let publish = publish(b"{\"x\":1}", &raw);
        for (format, expected) in [
            ("%t %p", "a/b {\"x\":1}"),
            ("%q%r %m %l", "11 7 7"),
            (
                "[%6t][%-6t][%.2t][%04l][%-4l]",
                "[   a/b][a/b   ][a/][0007][7   ]",
            ),
            ("%x|%X", "7b2278223a317d|7B2278223A317D"),
            ("%P|%C|%E|%A|%S|%R", "k:v|ct|60|||"),
            ("%I|%U", "2016-08-10T08:49:03+0000|1470818943.000007000"),
            ("@Y-@m-@d @a @j @@ %%", "2016-08-10 Wed 223 @ %"),
            ("a\\tb\\\\", "a\tb\\"),
            (
                "%J",
                "{\"tst\":\"2016-08-10T08:49:03.000007Z+0000\",\"topic\":\"a/b\",\"qos\":1,\"retain\":1,\
                 \"payloadlen\":7,\"mid\":7,\"properties\":{\"user-properties\":{\"k\":\"v\"},\
                 \"content-type\":\"ct\",\"message-expiry-interval\":60},\"payload\":{\"x\":1}}",
            ),
        ] {
            assert_eq!(printed(format, &publish), expected, "{format}");
        }
    }

    #[test]
    fn a_payload_that_is_no_json_is_quoted() {
        let text = printed("%J", &publish(b"5\"\n\x01\xff", b""));
        assert!(
            text.ends_with("\"payload\":\"5\\\"\\n\\u0001\u{fffd}\"}"),
            "{text}"
        );
    }

    #[test]
    fn formats_that_mean_nothing_are_refused() {
        for format in ["%", "%y", "@", "@Q", "\\x", "%99999999t"] {
            assert!(Format::parse(format).is_err(), "{format}");
        }
    }

    #[test]
    fn json_is_told_from_what_is_not() {
        for text in [
            "1",
            "-1.5e+3",
            "\"a\\u00e9\"",
            "[]",
            " [1, {\"a\": null}] ",
            "true",
            "{}",
            "0",
        ] {
            assert!(is_json(text), "{text}");
        }
        let deep = "[".repeat(1_000);
        for text in [
            "", "01", "1.", "[1,]", "{\"a\"}", "\"\\x\"", "\"", "nul", "1 2", "\"\\u00e", &deep,
        ] {
            assert!(!is_json(text), "{text}");
        }
    }
}

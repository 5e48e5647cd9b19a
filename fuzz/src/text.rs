//! Topics, filters and strings from a small alphabet, so that they meet.

use crate::input::Input;
use ringmq::protocol::Version;

/// All versions; a byte of the input chooses.
pub const VERSIONS: [Version; 3] = [Version::V311, Version::V5, Version::V31];

const LONG: &str = "a level that is longer than what an index keeps in place";
const LEVELS: [&str; 8] = ["a", "b", "", "$x", "a!", "\u{e9}\u{1}", LONG, "c"];

/// A Topic Name of one to eight levels; never empty.
pub fn topic(input: &mut Input<'_>) -> String {
    let byte = input.byte();
    let level_count = 1 + usize::from(byte & 7);
    let mut topic = String::new();
    for at in 0..level_count {
        if at > 0 {
            topic.push('/');
        }
        topic.push_str(input.choose(&LEVELS));
    }
    if topic.is_empty() {
        topic.push('a');
    }
    if byte & 0xF8 == 0xF8 {
        // Rarely, one as long as there can be.
        while topic.len() < 60_000 {
            topic.push('/');
            topic.push_str(LONG);
        }
    }
    topic
}

/// A Topic Filter, not shared, valid and not empty.
pub fn filter(input: &mut Input<'_>) -> String {
    let byte = input.byte();
    let level_count = 1 + usize::from(byte & 7);
    let mut filter = String::new();
    for at in 0..level_count {
        if at > 0 {
            filter.push('/');
        }
        let choice = input.byte();
        if choice & 0b1000 != 0 {
            filter.push('+');
        } else {
            filter.push_str(LEVELS[usize::from(choice & 7)]);
        }
    }
    if byte & 0b1000 != 0 {
        filter.push_str(if filter.is_empty() { "#" } else { "/#" });
    }
    if filter.is_empty() {
        filter.push('#');
    }
    filter
}

/// A Topic Filter that may be shared, and rarely is not valid.
pub fn any_filter(input: &mut Input<'_>) -> String {
    let kind = input.byte();
    let filter = filter(input);
    match kind & 0x0F {
        0..=7 => filter,
        8..=11 => format!("$share/{}/{filter}", (b'g' + (kind >> 4 & 1)) as char),
        12 => format!("$share//{filter}"),
        13 => format!("{filter}#"),
        14 => String::from_utf8_lossy(input.take(usize::from(kind >> 4))).replace('\0', ""),
        _ => "$share/g".into(),
    }
}

/// A string without U+0000.
pub fn string(input: &mut Input<'_>) -> String {
    let len = usize::from(input.byte());
    if len == 255 {
        return "long".repeat(16_000);
    }
    String::from_utf8_lossy(input.take(len % 32)).replace('\0', "0")
}

/// Binary Data.
pub fn binary(input: &mut Input<'_>) -> Vec<u8> {
    let len = usize::from(input.byte());
    if len == 255 {
        return vec![0xA5; 65_535];
    }
    input.take(len % 32).to_vec()
}

//! Topic Filters: what is valid, and what matches.
//!
//! Spec: MQTT 5 §4.7 (Topic Names and Topic Filters) and §4.8.2 (Shared Subscriptions).

use super::levels::{Levels, levels};
use std::error::Error;
use std::fmt;

/// A Topic Filter longer than this cannot be encoded, in bytes.
pub const TOPIC_BYTES_MAX: usize = 65_535;

const SHARE_PREFIX: &str = "$share/";

/// A valid Topic Filter; the type exists only for text that passed [`TopicFilter::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicFilter<'a> {
    text: &'a str,
    /// Where the part after `$share/NAME/` begins; 0 when the filter is not shared.
    filter_start: usize,
    wildcard: bool,
    level_count: usize,
}

/// Why a text is not a Topic Filter. Positions are byte offsets into the text as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// The filter has no character. [MQTT-4.7.3-1]
    Empty,
    /// The filter is longer than 65,535 bytes. [MQTT-4.7.3-3]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// U+0000 occurs. [MQTT-4.7.3-2]
    Null {
        /// Where it is.
        at: usize,
    },
    /// `#` is not the last level. [MQTT-4.7.1-1]
    HashNotLast {
        /// Where the `#` is.
        at: usize,
    },
    /// `#` shares its level with other characters. [MQTT-4.7.1-1]
    HashNotAlone {
        /// Where the `#` is.
        at: usize,
    },
    /// `+` shares its level with other characters. [MQTT-4.7.1-2]
    PlusNotAlone {
        /// Where the `+` is.
        at: usize,
    },
    /// `$share/` is not followed by a share name. [MQTT-4.8.2-1]
    ShareNameEmpty,
    /// The share name contains `+` or `#`. [MQTT-4.8.2-2]
    ShareNameWildcard {
        /// Where the wildcard is.
        at: usize,
    },
    /// The share name is not followed by `/` and a Topic Filter. [MQTT-4.8.2-2]
    ShareFilterMissing,
}

impl FilterError {
    /// Whether the text begins like a Shared Subscription and breaks the rules for those (§4.8.2),
    /// rather than the rules for every Topic Filter (§4.7).
    pub fn is_share_syntax(&self) -> bool {
        matches!(
            self,
            Self::ShareNameEmpty | Self::ShareNameWildcard { .. } | Self::ShareFilterMissing
        )
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(out, "the Topic Filter is empty"),
            Self::TooLong { bytes } => {
                write!(
                    out,
                    "the Topic Filter has {bytes} bytes, more than {TOPIC_BYTES_MAX}"
                )
            }
            Self::Null { at } => write!(out, "the Topic Filter contains U+0000 at byte {at}"),
            Self::HashNotLast { at } => {
                write!(
                    out,
                    "'#' at byte {at} is not the last level of the Topic Filter"
                )
            }
            Self::HashNotAlone { at } => write!(out, "'#' at byte {at} is not alone in its level"),
            Self::PlusNotAlone { at } => write!(out, "'+' at byte {at} is not alone in its level"),
            Self::ShareNameEmpty => write!(out, "'$share/' is not followed by a share name"),
            Self::ShareNameWildcard { at } => {
                write!(out, "the share name contains a wildcard at byte {at}")
            }
            Self::ShareFilterMissing => {
                write!(
                    out,
                    "the share name is not followed by '/' and a Topic Filter"
                )
            }
        }
    }
}

impl Error for FilterError {}

impl<'a> TopicFilter<'a> {
    /// Reads `text` as a Topic Filter, shared when it begins with `$share/`.
    ///
    /// Errors: [`FilterError`]; the Reason Code is 0x8F, Topic Filter invalid.
    /// Cost: one pass over the text.
    /// Spec: MQTT 5 §4.7.1, §4.7.3, §4.8.2. `$share` without a separator is an ordinary filter.
    pub fn parse(text: &'a str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if text.len() > TOPIC_BYTES_MAX {
            return Err(FilterError::TooLong { bytes: text.len() });
        }
        if let Some(at) = memchr::memchr(0, text.as_bytes()) {
            return Err(FilterError::Null { at });
        }
        let filter_start = share_end(text)?;
        let mut wildcard = false;
        let mut level_count = 0;
        let mut start = filter_start;
        for level in levels(&text[filter_start..]) {
            level_count += 1;
            let end = start + level.len();
            if let Some(at) = memchr::memchr2(b'#', b'+', level) {
                wildcard = true;
                if level.len() > 1 {
                    let at = start + at;
                    return Err(match text.as_bytes()[at] {
                        b'#' => FilterError::HashNotAlone { at },
                        _ => FilterError::PlusNotAlone { at },
                    });
                }
                if level == b"#" && end != text.len() {
                    return Err(FilterError::HashNotLast { at: start });
                }
            }
            start = end + 1;
        }
        Ok(Self {
            text,
            filter_start,
            wildcard,
            level_count,
        })
    }

    /// The whole text, as the Client gave it, with `$share/NAME/`.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The share name, when this is a Shared Subscription.
    pub fn share_name(&self) -> Option<&'a str> {
        // What precedes the filter is "$share/", the name, and a separator.
        (self.filter_start > 0).then(|| &self.text[SHARE_PREFIX.len()..self.filter_start - 1])
    }

    /// The filter that topics are matched against: the text without `$share/NAME/`.
    pub fn filter(&self) -> &'a str {
        &self.text[self.filter_start..]
    }

    /// Whether [`TopicFilter::filter`] contains `+` or `#`.
    pub fn has_wildcard(&self) -> bool {
        self.wildcard
    }

    /// How many levels [`TopicFilter::filter`] has; at least 1 and at most 65,536.
    ///
    /// A wildcard filter costs memory and time per level, far more than its bytes: limit it at
    /// SUBSCRIBE.
    pub fn level_count(&self) -> usize {
        self.level_count
    }
}

/// Whether the Topic Filter `filter` (valid, without `$share/NAME/`) matches the Topic Name
/// `topic`.
///
/// This is the definition, one level after the other; everything faster is tested against it.
///
/// Spec: MQTT 5 §4.7: `a/#` matches `a` (§4.7.1.2), and a wildcard as first level does not match a
/// topic that begins with `$` (§4.7.2).
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    levels_match(levels(filter), levels(topic))
}

/// Whether what is left of a filter matches what is left of a topic.
pub(super) fn levels_match(filter: Levels<'_>, mut names: Levels<'_>) -> bool {
    for level in filter {
        if level == b"#" {
            return true;
        }
        match names.next() {
            Some(name) if level == b"+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// Where the filter begins after `$share/NAME/`, or 0 when the text is not shared.
fn share_end(text: &str) -> Result<usize, FilterError> {
    let Some(rest) = text.strip_prefix(SHARE_PREFIX) else {
        return Ok(0);
    };
    let name_bytes = memchr::memchr(b'/', rest.as_bytes()).unwrap_or(rest.len());
    if name_bytes == 0 {
        return Err(FilterError::ShareNameEmpty);
    }
    if let Some(at) = memchr::memchr2(b'#', b'+', &rest.as_bytes()[..name_bytes]) {
        return Err(FilterError::ShareNameWildcard {
            at: SHARE_PREFIX.len() + at,
        });
    }
    let filter_start = SHARE_PREFIX.len() + name_bytes + 1;
    if filter_start >= text.len() {
        return Err(FilterError::ShareFilterMissing);
    }
    Ok(filter_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_filters() {
        for (text, share, filter, wildcard, level_count) in [
            ("a", None, "a", false, 1),
            ("/", None, "/", false, 2),
            ("//", None, "//", false, 3),
            ("#", None, "#", true, 1),
            ("+", None, "+", true, 1),
            ("+/+/#", None, "+/+/#", true, 3),
            ("/+", None, "/+", true, 2),
            ("a/#", None, "a/#", true, 2),
            ("sport/tennis/+", None, "sport/tennis/+", true, 3),
            ("$SYS/#", None, "$SYS/#", true, 2),
            ("$share", None, "$share", false, 1),
            ("$shared/n/a", None, "$shared/n/a", false, 3),
            (" / ", None, " / ", false, 2),
            ("ä/€", None, "ä/€", false, 2),
            ("$share/n/a", Some("n"), "a", false, 1),
            ("$share/n//", Some("n"), "/", false, 2),
            ("$share/name/+/b/#", Some("name"), "+/b/#", true, 3),
            ("$share/n/$share/m/a", Some("n"), "$share/m/a", false, 3),
            ("$share/$x/#", Some("$x"), "#", true, 1),
        ] {
            let parsed = TopicFilter::parse(text).expect(text);
            assert_eq!(parsed.text(), text);
            assert_eq!(parsed.share_name(), share, "{text}");
            assert_eq!(parsed.filter(), filter, "{text}");
            assert_eq!(parsed.has_wildcard(), wildcard, "{text}");
            assert_eq!(parsed.level_count(), level_count, "{text}");
        }
    }

    #[test]
    fn invalid_filters() {
        for (text, error) in [
            ("", FilterError::Empty),
            ("a\0b", FilterError::Null { at: 1 }),
            ("a/#/b", FilterError::HashNotLast { at: 2 }),
            ("#/", FilterError::HashNotLast { at: 0 }),
            ("a#", FilterError::HashNotAlone { at: 1 }),
            ("a/#b", FilterError::HashNotAlone { at: 2 }),
            ("##", FilterError::HashNotAlone { at: 0 }),
            ("a+", FilterError::PlusNotAlone { at: 1 }),
            ("a/+b/c", FilterError::PlusNotAlone { at: 2 }),
            ("++", FilterError::PlusNotAlone { at: 0 }),
            ("+#", FilterError::PlusNotAlone { at: 0 }),
            ("$share/n/a/#/b", FilterError::HashNotLast { at: 11 }),
            ("$share/n/a+", FilterError::PlusNotAlone { at: 10 }),
        ] {
            assert_eq!(TopicFilter::parse(text), Err(error), "{text:?}");
            assert!(!error.is_share_syntax(), "{text:?}");
        }
    }

    #[test]
    fn invalid_shares() {
        for (text, error) in [
            ("$share/", FilterError::ShareNameEmpty),
            ("$share//a", FilterError::ShareNameEmpty),
            ("$share/n", FilterError::ShareFilterMissing),
            ("$share/n/", FilterError::ShareFilterMissing),
            ("$share/+/a", FilterError::ShareNameWildcard { at: 7 }),
            ("$share/n#/a", FilterError::ShareNameWildcard { at: 8 }),
            ("$share/#", FilterError::ShareNameWildcard { at: 7 }),
        ] {
            assert_eq!(TopicFilter::parse(text), Err(error), "{text:?}");
            assert!(error.is_share_syntax(), "{text:?}");
        }
    }

    #[test]
    fn the_length_limit_is_inclusive() {
        let longest = "+/".repeat(32_767) + "+";
        let parsed = TopicFilter::parse(&longest).expect("65,535 bytes");
        assert_eq!(parsed.level_count(), 32_768);
        let longer = longest + "/";
        assert_eq!(
            TopicFilter::parse(&longer),
            Err(FilterError::TooLong { bytes: 65_536 })
        );
    }

    #[test]
    fn errors_say_what_and_where() {
        let error = TopicFilter::parse("a/#/b").expect_err("'#' is not last");
        assert_eq!(
            error.to_string(),
            "'#' at byte 2 is not the last level of the Topic Filter"
        );
    }

    #[test]
    fn matching_follows_the_specification() {
        // §4.7.1.2, §4.7.1.3 and §4.7.2 by their own examples, and what surrounds them.
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
            ),
            ("sport/#", "sport"),
            ("#", "sport"),
            ("#", "/"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+/#", "a"),
            ("a/+/#", "a/b"),
            ("a/+/#", "a/b/c/d"),
            ("$SYS/#", "$SYS/"),
            ("$SYS/#", "$SYS"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("a/+", "a/$b"),
            ("a//b", "a//b"),
            ("a/+/b", "a//b"),
        ] {
            assert!(matches(filter, topic), "{filter} must match {topic}");
        }
        for (filter, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("a", "A"),
            ("a", "a/"),
            ("a/", "a"),
            ("/a", "a"),
            ("#", "$SYS/x"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("+", "$"),
            ("a/#", "ab"),
            ("a/#", "b"),
            ("a/+/#", "a"),
            ("a//b", "a/b"),
        ] {
            assert!(!matches(filter, topic), "{filter} must not match {topic}");
        }
    }

    #[test]
    fn the_deepest_filters_match_without_recursion() {
        let topic = "/".repeat(65_535);
        assert!(matches(&topic, &topic));
        assert!(matches(&("+/".repeat(32_767) + "#"), &topic));
    }
}

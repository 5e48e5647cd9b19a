//! The Topic Filter of a rule, in which `%c` stands for the Client Identifier and `%u` for the User Name.

use crate::topic::filter;
use crate::topic::levels::levels;

/// A filter with or without placeholders.
///
/// A placeholder stands for its value literally, within one level: a Client Identifier `+` or `a/#` does not widen the
/// pattern, since no Topic Name has such a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// Whether `%c` and `%u` stand for something, and occur.
    has_placeholder: bool,
}

/// What the placeholders stand for.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Client Identifier.
    pub client_id: &'a str,
    /// User Name; a pattern with `%u` concerns nobody who has none.
    pub username: Option<&'a str>,
}

impl Pattern {
    /// Reads a filter in which `%c` and `%u` are ordinary characters.
    ///
    /// Errors: a sentence that says why it is no Topic Filter (MQTT 5 §4.7.1, §4.7.3).
    pub fn literal(text: &str) -> Result<Self, &'static str> {
        check(text)?;
        Ok(Self {
            text: text.into(),
            has_placeholder: false,
        })
    }

    /// Reads a filter in which `%c` and `%u` are placeholders.
    ///
    /// Errors: as [`Pattern::literal`].
    pub fn template(text: &str) -> Result<Self, &'static str> {
        check(text)?;
        let has_placeholder = next_placeholder(text.as_bytes()).is_some();
        Ok(Self {
            text: text.into(),
            has_placeholder,
        })
    }

    /// The filter as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a placeholder occurs.
    pub fn has_placeholder(&self) -> bool {
        self.has_placeholder
    }

    /// Whether the Topic Name `topic` is among those that the pattern means for this client.
    ///
    /// Cost: one pass over both, no allocation.
    #[inline]
    pub fn matches(&self, topic: &str, values: Values<'_>) -> bool {
        if !self.has_placeholder {
            return filter::matches(&self.text, topic);
        }
        if topic.starts_with('$') && self.text.starts_with(['+', '#']) {
            return false;
        }
        let mut names = levels(topic);
        for level in levels(&self.text) {
            if level == b"#" {
                return true;
            }
            match names.next() {
                Some(name) if level == b"+" || fits(level, name, values) => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether the pattern with its values put in, separators and all, matches: what a denial goes by, so that a `/` in a name
    /// does not slip past it.
    pub fn matches_spliced(&self, topic: &str, values: Values<'_>) -> bool {
        if !self.has_placeholder {
            return filter::matches(&self.text, topic);
        }
        self.spliced(values)
            .is_some_and(|text| filter::matches(&text, topic))
    }

    /// Whether some Topic Name is meant by the pattern and matched by `asked`, a Topic Filter without share name.
    pub fn overlaps(&self, asked: &str, values: Values<'_>) -> bool {
        if is_apart(&self.text, asked) {
            return false;
        }
        let mut theirs = levels(asked);
        for level in levels(&self.text) {
            if level == b"#" {
                return true;
            }
            match theirs.next() {
                Some(b"#") => return true,
                Some(b"+") => {}
                Some(name) if level == b"+" || self.fits(level, name, values) => {}
                _ => return false,
            }
        }
        // `a/#` matches `a` (§4.7.1.2).
        matches!(theirs.next(), None | Some(b"#"))
    }

    /// Whether every Topic Name that `asked` matches is meant by the pattern, as [`Pattern::matches_spliced`] sees it.
    pub fn covers(&self, asked: &str, values: Values<'_>) -> bool {
        let spliced;
        let text = if self.has_placeholder {
            match self.spliced(values) {
                Some(text) => {
                    spliced = text;
                    &spliced
                }
                None => return false,
            }
        } else {
            &*self.text
        };
        if is_apart(text, asked) {
            return false;
        }
        let mut theirs = levels(asked);
        for level in levels(text) {
            if level == b"#" {
                return true;
            }
            match theirs.next() {
                Some(b"#") | None => return false,
                Some(name) if level == b"+" || level == name => {}
                Some(_) => return false,
            }
        }
        theirs.next().is_none()
    }

    fn fits(&self, level: &[u8], name: &[u8], values: Values<'_>) -> bool {
        if self.has_placeholder {
            fits(level, name, values)
        } else {
            level == name
        }
    }

    /// The filter with the values in it; none if it concerns nobody with these values.
    fn spliced(&self, values: Values<'_>) -> Option<String> {
        let mut out = String::with_capacity(self.text.len());
        let mut rest = &*self.text;
        while let Some((at, placeholder)) = next_placeholder(rest.as_bytes()) {
            let value = placeholder.value(values)?;
            // No Topic Name has a wildcard, so nothing literal could match.
            if value.contains(['+', '#']) {
                return None;
            }
            out.push_str(&rest[..at]);
            out.push_str(value);
            rest = &rest[at + 2..];
        }
        out.push_str(rest);
        Some(out)
    }
}

#[derive(Clone, Copy)]
enum Placeholder {
    ClientId,
    Username,
}

impl Placeholder {
    fn value(self, values: Values<'_>) -> Option<&str> {
        match self {
            Self::ClientId => Some(values.client_id),
            Self::Username => values.username,
        }
    }
}

fn next_placeholder(text: &[u8]) -> Option<(usize, Placeholder)> {
    memchr::memchr_iter(b'%', text).find_map(|at| match text.get(at + 1) {
        Some(b'c') => Some((at, Placeholder::ClientId)),
        Some(b'u') => Some((at, Placeholder::Username)),
        _ => None,
    })
}

/// Whether one level of a Topic Name is what a level with placeholders means. A value with a separator or a wildcard is
/// no level.
fn fits(mut level: &[u8], mut name: &[u8], values: Values<'_>) -> bool {
    while let Some((at, placeholder)) = next_placeholder(level) {
        let Some(value) = placeholder.value(values) else {
            return false;
        };
        if value.contains(['/', '+', '#']) {
            return false;
        }
        let after = name
            .strip_prefix(&level[..at])
            .and_then(|name| name.strip_prefix(value.as_bytes()));
        let Some(after) = after else {
            return false;
        };
        name = after;
        level = &level[at + 2..];
    }
    name == level
}

/// Whether two filters have nothing in common because one of them begins with `$` (§4.7.2).
fn is_apart(one: &str, other: &str) -> bool {
    let begins_with_wildcard = |text: &str| text.starts_with(['+', '#']);
    (one.starts_with('$') && begins_with_wildcard(other))
        || (other.starts_with('$') && begins_with_wildcard(one))
}

fn check(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("there is no topic");
    }
    if text.len() > filter::TOPIC_BYTES_MAX {
        return Err("the topic is longer than 65,535 bytes");
    }
    if text.contains('\0') {
        return Err("the topic contains U+0000");
    }
    let last = levels(text).count() - 1;
    for (at, level) in levels(text).enumerate() {
        if memchr::memchr2(b'+', b'#', level).is_some() && level.len() > 1 {
            return Err("`+` and `#` must have a level of the topic for themselves");
        }
        if level == b"#" && at != last {
            return Err("`#` must be the last level of the topic");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values<'a>(client_id: &'a str, username: Option<&'a str>) -> Values<'a> {
        Values {
            client_id,
            username,
        }
    }

    #[test]
    fn placeholders_stand_for_one_literal_level() {
        for (pattern, client_id, username, topic, is_meant) in [
            ("a/%c", "me", None, "a/me", true),
            ("a/%c", "me", None, "a/you", false),
            ("a/%c/#", "me", None, "a/me", true),
            ("a/%c/#", "me", None, "a/me/x/y", true),
            ("a/x-%c-%u-y", "me", Some("u"), "a/x-me-u-y", true),
            ("a/x-%c-%u-y", "me", Some("u"), "a/x-me-u-z", false),
            ("a/%u", "me", None, "a/", false),
            ("a/%u", "me", Some(""), "a/", true),
            ("a/%u", "me", Some("%c"), "a/me", false),
            ("a/%u", "me", Some("%c"), "a/%c", true),
            ("%c", "$SYS", None, "$SYS", true),
            ("%c/%%c", "me", None, "me/%me", true),
            ("a/%d", "me", None, "a/%d", true),
            ("a/%", "me", None, "a/%", true),
            ("a/%c", "+", None, "a/x", false),
            ("a/%c", "#", None, "a/x", false),
            ("%c", "#", None, "x", false),
            ("a/%c", "b/c", None, "a/b/c", false),
            ("+/%c", "me", None, "$SYS/me", false),
        ] {
            let pattern = Pattern::template(pattern).expect("valid");
            let values = values(client_id, username);
            assert_eq!(
                pattern.matches(topic, values),
                is_meant,
                "{pattern:?} {values:?} {topic}"
            );
        }
        let literal = Pattern::literal("a/%c").expect("valid");
        assert!(literal.matches("a/%c", values("me", None)));
        assert!(!literal.matches("a/me", values("me", None)));
    }

    #[test]
    fn a_separator_in_a_name_does_not_slip_past_a_denial() {
        let pattern = Pattern::template("a/%u/#").expect("valid");
        assert!(pattern.matches_spliced("a/b/c/d", values("me", Some("b/c"))));
        assert!(!pattern.matches("a/b/c/d", values("me", Some("b/c"))));
        assert!(!pattern.matches_spliced("a/b", values("me", Some("+"))));
        assert!(!pattern.matches_spliced("a/b", values("me", None)));
    }

    #[test]
    fn only_filters_are_patterns() {
        for text in ["", "a+", "a/#/b", "#a", "a/+b/c", "a\0"] {
            assert!(Pattern::template(text).is_err(), "{text}");
        }
        for text in ["#", "+", "/", "a//b", "$SYS/#", "a b/c", "$share/x"] {
            assert!(Pattern::literal(text).is_ok(), "{text}");
        }
    }

    fn name() -> impl Strategy<Value = String> {
        "[ab/+#$%cu]{0,5}"
    }

    fn filter_text() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![
                Just("a"),
                Just("b"),
                Just("+"),
                Just(""),
                Just("$s"),
                Just("%c"),
                Just("x%u"),
                Just("a%cb")
            ],
            1..4,
        )
        .prop_flat_map(|levels| {
            let text = levels.join("/");
            prop_oneof![
                Just(text.clone()),
                Just(format!("{text}/#")),
                Just("#".to_owned())
            ]
        })
        .prop_filter("no filter", |text| check(text).is_ok())
    }

    fn topic() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![
                Just("a"),
                Just("b"),
                Just(""),
                Just("$s"),
                Just("xa"),
                Just("aab"),
                Just("x")
            ],
            1..5,
        )
        .prop_map(|levels| levels.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// What matches is what the definition of filters says of the text in which each value is put in, and no value
        /// widens it: the topic has as many levels as the pattern, and the value is in it as it is.
        #[test]
        fn substitution_is_literal(pattern in filter_text(), client in name(), user in proptest::option::of(name()), topic in topic()) {
            let values = values(&client, user.as_deref());
            let read = Pattern::template(&pattern).expect("filtered");
            let is_level = |value: &str| !value.contains(['/', '+', '#']);
            let uses = |what: &str| pattern.contains(what);
            let usable = (!uses("%c") || is_level(&client)) && (!uses("%u") || user.as_deref().is_some_and(is_level));
            let put_in = pattern.replace("%c", "\u{1}").replace("%u", user.as_deref().unwrap_or("")).replace('\u{1}', &client);
            let expected = usable && filter::matches(&put_in, &topic);
            prop_assert_eq!(read.matches(&topic, values), expected);
            // A denial reaches at least as far.
            prop_assert!(!expected || read.matches_spliced(&topic, values));
        }

        #[test]
        fn overlap_and_cover_agree_with_matching(pattern in filter_text(), asked in filter_text(), topic in topic()) {
            let values = values("a", Some("a"));
            let pattern = Pattern::template(&pattern).expect("filtered");
            let asked = asked.replace('%', "a");
            let both = pattern.matches(&topic, values) && filter::matches(&asked, &topic);
            prop_assert!(!both || pattern.overlaps(&asked, values));
            if filter::matches(&asked, &topic) && pattern.covers(&asked, values) {
                prop_assert!(pattern.matches(&topic, values));
            }
            prop_assert!(!pattern.covers(&asked, values) || pattern.overlaps(&asked, values));
        }
    }
}

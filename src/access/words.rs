//! The words of a rule: what is permitted, and on which topic.

use super::pattern::Pattern;
use super::rules::Effect;

/// Reads `[read|write|readwrite|deny] TOPIC`. A topic may contain spaces when an access word stands before it.
///
/// Errors: a sentence that says what is wrong.
pub(super) fn parse(
    text: &str,
    pattern: impl Fn(&str) -> Result<Pattern, &'static str>,
) -> Result<(Pattern, Effect), String> {
    // The separator is a space and nothing else, as in mosquitto.
    let text = text.trim_start_matches(' ').trim_end();
    let (access, topic) = match text.split_once(' ') {
        Some((access, topic)) => (effect(access), topic.trim()),
        None => (effect("readwrite"), text),
    };
    let Some(effect) = access else {
        let word = text.split(' ').next().unwrap_or_default();
        return Err(format!(
            "`{word}` is not `read`, `write`, `readwrite` or `deny`; one of them must stand before a topic with spaces"
        ));
    };
    let pattern = pattern(topic).map_err(|what| format!("`{topic}`: {what}"))?;
    Ok((pattern, effect))
}

fn effect(word: &str) -> Option<Effect> {
    let (permits, write, read) = match word {
        "read" => (true, false, true),
        "write" => (true, true, false),
        "readwrite" => (true, true, true),
        "deny" => (false, true, true),
        _ => return None,
    };
    Some(Effect {
        permits,
        write,
        read,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_mosquitto_reads_them() {
        for (text, topic, permits, write, read) in [
            ("a/b", "a/b", true, true, true),
            ("read a/b", "a/b", true, false, true),
            ("  write   a b/c  ", "a b/c", true, true, false),
            ("readwrite #", "#", true, true, true),
            ("deny +/x", "+/x", false, true, true),
            ("read", "read", true, true, true),
        ] {
            let (pattern, effect) = parse(text, Pattern::literal).expect(text);
            assert_eq!(pattern.text(), topic);
            assert_eq!(
                (effect.permits, effect.write, effect.read),
                (permits, write, read),
                "{text}"
            );
        }
        for (text, says) in [
            ("", "there is no topic"),
            ("my topic", "`my` is not `read`"),
            ("READ a", "`READ` is not"),
            ("read a+", "level of the topic for themselves"),
        ] {
            let error = parse(text, Pattern::literal).expect_err(text);
            assert!(error.contains(says), "{error}");
        }
    }
}

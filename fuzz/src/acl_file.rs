//! mosquitto's file of rules, and what it permits.
//!
//! Input: the file, and after each byte 0x01 a topic or filter that is asked about. What is no UTF-8 is replaced.
//!
//! What must hold: the file is read whole or every error names a line of it; whoever may subscribe to a topic without wildcards may
//! receive it; and a question that is asked twice has one answer.

use ringmq::access::acl_file::AclFile;
use ringmq::access::{Access, Identity, InForce, May, Rules};

/// Runs one input.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (file, asked) = text.split_once('\u{1}').unwrap_or((&text, "a/b"));
    let rules = match (
        AclFile::parse("acl", file),
        Rules::new(Some(("acl", file)), &[], &[]),
    ) {
        (Ok(read), Ok(rules)) => {
            assert!(read.rule_count() <= file.lines().count());
            rules
        }
        (Err(errors), Err(same)) => {
            assert!(!errors.is_empty() && errors.len() == same.len());
            let lines = file.lines().count() as u32;
            assert!(
                errors
                    .iter()
                    .all(|error| (1..=lines).contains(&error.place.line))
            );
            return;
        }
        (read, rules) => panic!("{read:?} and {:?}", rules.err()),
    };
    let force = InForce {
        rules: Some(&rules),
        epoch: 1,
    };
    for username in [None, Some("al"), Some("a/+")] {
        let mut access = Access::new(Identity {
            username: username.map(Into::into),
            ..Identity::default()
        });
        for topic in asked.split('\u{1}').filter(|topic| !topic.is_empty()) {
            for may in [
                May::Publish(topic),
                May::Receive(topic),
                May::Subscribe(topic),
            ] {
                let first = access.may(force, "c1", may);
                assert_eq!(first, access.may(force, "c1", may), "{may:?}");
            }
            let is_plain = !topic.contains(['+', '#']);
            if is_plain && access.may(force, "c1", May::Subscribe(topic)) {
                assert!(access.may(force, "c1", May::Receive(topic)), "{topic}");
            }
        }
    }
}

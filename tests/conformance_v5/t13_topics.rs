//! Section 4.7: Topic Names and Topic Filters.
//!
//! Every statement of this section is tested.

use crate::common::*;
use crate::support::*;

/// What an invalid Topic Name may end with.
const BAD_NAME: [u8; 3] = [MALFORMED, PROTOCOL_ERROR, 0x90];

/// A filter that is not valid is refused in SUBACK with 0x8F, or ends the connection.
#[track_caller]
fn bad_filter(broker: &Broker, filter: &str) {
    let mut client = client(broker);
    client.send(&subscribe(Version::V5, 1, &[(filter, 0)]));
    let packet = client.read_packet();
    if packet.kind() == SUBACK {
        assert_eq!(packet.suback(Version::V5).codes, [0x8f], "{filter:?}");
    } else {
        let reason = packet.disconnect().reason;
        assert!(
            [MALFORMED, PROTOCOL_ERROR, 0x8f].contains(&reason),
            "{filter:?}: {reason:#04x}"
        );
        client.expect_closed_quietly();
    }
}

/// Checks which of `topics` (after a unique level) reach a subscriber to `filter`.
#[track_caller]
fn matches(broker: &Broker, filter: &str, topics: &[&str], wanted: &[&str]) {
    let prefix = unique("topic");
    let mut client = subscriber(broker, &format!("{prefix}{filter}"), 1);
    let end = unique("end");
    client.subscribe(&[(&end, 1)]);
    let mut publisher = self::client(broker);
    for topic in topics {
        publisher.publish(format!("{prefix}{topic}"), 1, "x");
    }
    publisher.publish(&end, 1, "end");
    let mut got = Vec::new();
    loop {
        let topic = client.take_publish().topic;
        if topic == end {
            break;
        }
        got.push(
            topic
                .strip_prefix(&prefix)
                .expect("a topic of this test")
                .to_owned(),
        );
    }
    assert_eq!(got, wanted, "{filter}");
}

/// Wildcards may be in Topic Filters, and never in a Topic Name.
#[test]
fn mqtt_4_7_0_1_no_wildcards_in_topic_names() {
    on_each(|broker| {
        let prefix = unique("wild");
        let mut watcher = subscriber(broker, &format!("{prefix}/#"), 1);
        for bad in ["#", "+", "a/#", "a/+/b"] {
            let topic = format!("{prefix}/{bad}");
            ends(broker, &Publish::v5(&topic, "never").encode(), &BAD_NAME);
            ends(
                broker,
                &Publish::v5(&topic, "never").qos(1, 1).encode(),
                &BAD_NAME,
            );
        }
        nothing_else(&mut watcher, &mut client(broker), &format!("{prefix}/a"), 1);
    });
}

/// `#` stands alone or after a separator, at the end; it matches the parent level too.
#[test]
fn mqtt_4_7_1_1_multi_level_wildcard() {
    on_each(|broker| {
        for bad in ["a/#/b", "#/a", "a#", "a/b#", "##", "#a", "a/##"] {
            bad_filter(broker, bad);
        }
        let topics = ["", "/", "/a", "/a/b", "/a/b/c", "x", "/ab"];
        matches(
            broker,
            "/#",
            &topics,
            &["", "/", "/a", "/a/b", "/a/b/c", "/ab"],
        );
        matches(broker, "/a/#", &topics, &["/a", "/a/b", "/a/b/c"]);
    });
}

/// `+` stands for one whole level, at any place.
#[test]
fn mqtt_4_7_1_2_single_level_wildcard() {
    on_each(|broker| {
        for bad in ["a+", "+a", "a/b+", "a/+b/c", "++"] {
            bad_filter(broker, bad);
        }
        let topics = ["/a", "/a/b", "/a/b/c", "//", "/", "", "/a/"];
        matches(broker, "/+", &topics, &["/a", "/"]);
        matches(broker, "/+/+", &topics, &["/a/b", "//", "/a/"]);
        matches(broker, "/+/b/+", &topics, &["/a/b/c"]);
        matches(broker, "/+/b/#", &topics, &["/a/b", "/a/b/c"]);
    });
    // With a wildcard at the first level, a core is interested in every topic, which tests of the
    // Reason Code 0x10 would notice.
    on_each_of_its_own(&[], |broker| {
        let second = unique("topic");
        let mut client = subscriber(broker, &format!("+/{second}"), 0);
        client.publish(format!("any/{second}"), 0, "x");
        assert_eq!(client.next_publish().topic, format!("any/{second}"));
    });
}

/// A filter that begins with a wildcard does not match a topic that begins with `$`.
#[test]
fn mqtt_4_7_2_1_wildcards_and_dollar_topics() {
    on_each_of_its_own(&[], |broker| {
        let name = unique("dollar");
        let topic = format!("${name}/a");
        let mut wild = client(broker);
        wild.subscribe(&[("#", 1), ("+/a", 1)]);
        let mut exact = subscriber(broker, &topic, 1);
        let mut below = subscriber(broker, &format!("${name}/+"), 1);
        let mut publisher = client(broker);
        publisher.publish(&topic, 1, "x");
        publisher.retain(&topic, 1, "x");
        assert_eq!(exact.receive(2).len(), 2);
        assert_eq!(below.receive(2).len(), 2);
        // Nothing that comes begins with `$`; nor does the retained message come for such filters.
        let mut later = client(broker);
        later.subscribe(&[("#", 1), ("+/a", 1)]);
        let end = format!("{name}/end");
        publisher.publish(&end, 1, "end");
        for wild in [&mut wild, &mut later] {
            loop {
                let message = wild.take_publish();
                assert!(!message.topic.starts_with('$'), "{}", message.topic);
                if message.topic == end {
                    break;
                }
            }
        }
        publisher.retain(&topic, 1, "");
    });
}

/// Topic Names and Topic Filters have at least one character.
#[test]
fn mqtt_4_7_3_1_at_least_one_character() {
    on_each(|broker| {
        ends(broker, &Publish::v5("", "x").encode(), &BAD_NAME);
        bad_filter(broker, "");
        // A separator alone is a topic of two empty levels.
        matches(broker, "/", &["/"], &["/"]);
        let mut client = client(broker);
        assert_eq!(client.subscribe(&[("/", 0)]), [0]);
        let text = unique("slash");
        client.publish("/", 0, &text);
        while client.next_publish().text() != text {}
    });
}

/// Topic Names and Topic Filters do not contain U+0000.
#[test]
fn mqtt_4_7_3_2_no_null_character() {
    on_each(|broker| {
        for bad in ["\0", "a/\0/b", "a\0"] {
            ends(broker, &Publish::v5(bad, "x").encode(), &BAD_NAME);
            bad_filter(broker, bad);
        }
    });
}

/// Topic Names and Topic Filters have up to 65,535 bytes; a filter this long works, or is refused
/// alone.
#[test]
fn mqtt_4_7_3_3_longest_topics() {
    on_each(|broker| {
        let prefix = unique("long");
        let topic = format!("{prefix}{}", "x".repeat(65_535 - prefix.len()));
        let mut client = client(broker);
        assert_eq!(client.subscribe(&[(&topic, 1)]), [1]);
        client.publish(&topic, 1, "x");
        assert_eq!(client.take_publish().topic, topic);
        assert_eq!(client.unsubscribe(&[&topic]), [0]);
    });
}

/// Topics are compared as they are: no normalization, no case, no stripping.
#[test]
fn mqtt_4_7_3_4_no_normalization() {
    on_each(|broker| {
        let all = [
            "/a",
            "/A",
            "/a ",
            "/ a",
            "/ä",
            "/a\u{308}",
            "/\u{feff}a",
            "/a/",
            "//a",
            "/./a",
            "/%61",
        ];
        for one in all {
            matches(broker, one, &all, &[one]);
        }
    });
}

//! Section 4.7: Topic Names and Topic Filters.
//!
//! Not tested here:
//!
//! | statement | why |
//! |---|---|
//! | [MQTT-4.7.3-3] | longer than 65,535 bytes cannot be written: the length has two bytes |

use crate::common::*;
use crate::{closes_on, nothing_else, subscriber};

/// Subscribes to `filter`; it must be refused: by closing, or with a failure code.
fn filter_is_refused(broker: &Broker, filter: &str) {
    let mut client = Raw::v311(broker, &unique("filt"));
    client.send(&subscribe(Version::V311, 1, &[(filter, 0)]));
    match client.packet_within(ARRIVES) {
        Ok(None) => {}
        Ok(Some(packet)) => {
            assert_eq!(packet.suback(Version::V311).codes, [0x80], "{filter:?}");
        }
        Err(()) => panic!("{filter:?} got no answer"),
    }
}

/// Wildcard characters are for Topic Filters, never in a Topic Name.
#[test]
fn mqtt_4_7_1_1_no_wildcards_in_topic_names() {
    on_each(|broker| {
        for topic in ["#", "+", "sport/#", "sport/+/player1", "sport+"] {
            closes_on(broker, &Publish::v311(topic, "x").encode());
        }
        refuses_will(broker, "sport/#");
        refuses_will(broker, "sport/+");
    });
}

fn refuses_will(broker: &Broker, topic: &str) {
    crate::refuses(
        broker,
        &Connect::v311(unique("will"))
            .will(Will::new(topic, "x"))
            .encode(),
    );
}

/// `#` stands alone or after a separator, and last.
#[test]
fn mqtt_4_7_1_2_multi_level_wildcard_is_last() {
    on_each(|broker| {
        for filter in [
            "sport/tennis#",
            "sport/tennis/#/ranking",
            "##",
            "#/",
            "/#/",
            "a/#b",
            "+#",
        ] {
            filter_is_refused(broker, filter);
        }
        for filter in ["#", "sport/tennis/#", "/#", "+/#", "a//#"] {
            subscriber(broker, filter, 0).disconnect();
        }
    });
}

/// `+` occupies a whole level, anywhere.
#[test]
fn mqtt_4_7_1_3_single_level_wildcard_is_a_level() {
    on_each(|broker| {
        for filter in [
            "sport+",
            "+sport",
            "sport/+tennis",
            "sport/tennis+/x",
            "++",
            "a/++/b",
        ] {
            filter_is_refused(broker, filter);
        }
        for filter in [
            "+",
            "+/+",
            "/+",
            "+/tennis/#",
            "sport/+/player1",
            "+/",
            "//+//",
        ] {
            subscriber(broker, filter, 0).disconnect();
        }
    });
}

/// A filter that starts with a wildcard does not match a topic that starts with `$`.
#[test]
fn mqtt_4_7_2_1_dollar_topics_do_not_match_leading_wildcards() {
    on_each(|broker| {
        let name = unique("dollar");
        let mut wild = Raw::v311(broker, &unique("dollar"));
        // The last level is the name, so that messages of other tests do not match.
        let filters = [format!("+/{name}"), format!("+/+/{name}")];
        assert_eq!(wild.subscribe(&filters.map(|filter| (filter, 1))), [1, 1]);
        let mut everything = Raw::v311(broker, &unique("dollar"));
        assert_eq!(everything.subscribe(&[("#", 1)]), [1]);
        let dollars =
            ["$x/NAME", "$/NAME", "$x/y/NAME", "$NAME"].map(|topic| topic.replace("NAME", &name));
        let mut publisher = Raw::v311(broker, &unique("dollar"));
        for topic in &dollars {
            // A server may keep such topics for itself, and close.
            publisher.try_send(&Publish::v311(topic, "dollar").encode());
            if !publisher.try_send(&pingreq())
                || !matches!(publisher.packet_within(ARRIVES), Ok(Some(_)))
            {
                eprintln!("{topic} cannot be published; $SYS is all there is to test with");
                publisher = Raw::v311(broker, &unique("dollar"));
            }
        }
        let plain = format!("x{name}/{name}");
        publisher.publish(&plain, 1, "sentinel");
        let first = wild.take_publish();
        assert_eq!(
            (first.topic.as_str(), first.text().as_str()),
            (plain.as_str(), "sentinel")
        );
        loop {
            let message = everything.take_publish();
            assert!(
                !message.topic.starts_with('$'),
                "# matched {}",
                message.topic
            );
            if message.topic == plain {
                break;
            }
        }
    });
}

/// A Topic Name or Filter has at least one character.
#[test]
fn mqtt_4_7_3_1_at_least_one_character() {
    on_each(|broker| {
        closes_on(broker, &Publish::v311("", "x").encode());
        closes_on(broker, &Publish::v311("", "x").qos(1, 1).encode());
        filter_is_refused(broker, "");
        refuses_will(broker, "");
        // One character is enough, and it may be the separator.
        let mut client = subscriber(broker, "/", 1);
        let mut publisher = Raw::v311(broker, &unique("one"));
        publisher.publish("/", 1, "slash");
        assert_eq!(client.take_publish().topic, "/");
    });
}

/// A Topic Name or Filter has no U+0000.
#[test]
fn mqtt_4_7_3_2_no_null_character() {
    on_each(|broker| {
        closes_on(broker, &Publish::v311("a/\0/b", "x").encode());
        closes_on(broker, &subscribe(Version::V311, 1, &[("a/\0/b", 0)]));
    });
}

/// Names are matched byte for byte: no case folding, no Unicode normalisation, no trimming.
#[test]
fn mqtt_4_7_3_4_no_normalisation() {
    on_each(|broker| {
        let prefix = unique("norm");
        let pairs = [
            ("ACCOUNTS", "Accounts"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("\u{fb01}", "fi"),
            ("a b", "a  b"),
            (" a", "a"),
            ("a", "a/"),
            ("a", "/a"),
            ("a//b", "a/b"),
            ("%41", "A"),
            ("./a", "a"),
        ];
        let mut publisher = Raw::v311(broker, &unique("norm"));
        for (one, other) in pairs {
            let (one, other) = (format!("{prefix}/{one}"), format!("{prefix}/{other}"));
            let mut client = subscriber(broker, &one, 1);
            publisher.publish(&other, 1, "another topic");
            nothing_else(&mut client, &mut publisher, &one, 1);
            client.disconnect();
        }
        // Unrecognised characters are kept as they are. Not among them: control characters and
        // noncharacters, for which a server may close (section 1.5.3).
        let odd = format!("{prefix}/\u{378}\u{e000}\u{e0001}\u{10fffd}\u{fffd}");
        let mut client = subscriber(broker, &format!("{prefix}/+"), 1);
        publisher.publish(&odd, 1, "odd");
        assert_eq!(client.take_publish().topic, odd);
    });
}

/// Section 4.7.1: the examples of the standard, and some beside them.
#[test]
fn section_4_7_1_what_matches() {
    on_each(|broker| {
        let table: [(&str, &[&str], &[&str]); 12] = [
            (
                "sport/tennis/player1/#",
                &[
                    "sport/tennis/player1",
                    "sport/tennis/player1/ranking",
                    "sport/tennis/player1/a/b",
                ],
                &[
                    "sport/tennis/player10",
                    "sport/tennis",
                    "sport/tennis/player2/ranking",
                ],
            ),
            (
                "sport/#",
                &["sport", "sport/", "sport/a/b"],
                &["sports", "spor", "/sport"],
            ),
            (
                "sport/tennis/+",
                &["sport/tennis/player1", "sport/tennis/"],
                &["sport/tennis", "sport/tennis/a/b"],
            ),
            ("sport/+", &["sport/"], &["sport", "sport/a/b"]),
            (
                "+/+",
                &["/finance", "a/b", "/", "a/"],
                &["finance", "a/b/c"],
            ),
            ("/+", &["/finance", "/"], &["finance", "a/finance", "//"]),
            ("+", &["finance", "a"], &["/finance", "a/b"]),
            (
                "+/tennis/#",
                &["sport/tennis", "/tennis", "a/tennis/b"],
                &["tennis", "a/b/tennis"],
            ),
            (
                "sport/+/player1",
                &["sport/tennis/player1", "sport//player1"],
                &["sport/player1", "sport/a/b/player1"],
            ),
            (
                "a/+/+/b/#",
                &["a/x/y/b", "a///b/c"],
                &["a/x/b", "a/x/y/z/b"],
            ),
            ("//#", &["//", "/", "//a"], &["a//", "/a/b"]),
            ("+/", &["a/", "/"], &["a", "a/b"]),
        ];
        let mut publisher = Raw::v311(broker, &unique("match"));
        for (filter, matching, others) in table {
            let prefix = unique("match");
            let filter = format!("{prefix}/{filter}");
            let mut client = subscriber(broker, &filter, 1);
            // A second subscription marks the end of each step.
            let end = unique("end");
            client.subscribe(&[(&end, 1)]);
            for topic in matching {
                publisher.publish(format!("{prefix}/{topic}"), 1, "x");
                let message = client.take_publish();
                assert_eq!(message.topic, format!("{prefix}/{topic}"), "for {filter}");
            }
            for topic in others {
                publisher.publish(format!("{prefix}/{topic}"), 1, *topic);
            }
            nothing_else(&mut client, &mut publisher, &end, 1);
            client.disconnect();
        }
    });
}

//! The table of malformed and hostile packets: one test a row.
//!
//! Each names the bytes, what they follow (nothing, or a CONNECT of a version), and the answers
//! that are right:
//!
//! * `close`: the broker closes; a CONNACK or DISCONNECT with a failure code first is fine
//! * `quiet`: it closes without having sent anything
//! * `connack:XX`: a CONNACK with that code, then it closes
//! * `disc:XX,YY`: in MQTT 5.0, it closes after a DISCONNECT with one of these codes
//! * `open`: the connection stays usable
//! * `silent`: the broker waits for the rest
//! * `sub:XX`: a SUBACK whose first code is XX
//!
//! Many of them have crashed, stalled or bloated some broker before.

use crate::common::*;
use crate::{Case, On};

/// Makes a test of each row, and one that counts them.
macro_rules! cases {
    ($($(#[$doc:meta])* $number:literal $name:ident: $on:ident, $bytes:expr => $answers:literal;)*) => {
        $(
            $(#[$doc])*
            #[test]
            fn $name() {
                let case = Case { on: On::$on, bytes: $bytes, answers: $answers };
                on_each(|broker| case.run(broker));
            }
        )*

        /// Every row with its name.
        pub(crate) fn all() -> Vec<(&'static str, Case)> {
            vec![$((stringify!($name), Case { on: On::$on, bytes: $bytes, answers: $answers })),*]
        }

        /// No row is lost.
        #[test]
        fn table_is_complete() {
            assert_eq!([$($number),*], std::array::from_fn::<u32, 112, _>(|index| 1 + index as u32));
        }
    };
}

/// A CONNECT with this many User Properties: reading them must take linear time.
fn connect_with_user_properties(count: usize) -> Vec<u8> {
    Connect::v5(unique("props"))
        .properties(prop::user("k", "v").repeat(count))
        .encode()
}

/// A shared subscription without a filter, then messages that a careless matcher trips over.
fn share_and_messages() -> Vec<u8> {
    [
        subscribe(Version::V5, 1, &[("$share/ab", 0)]),
        Publish::v5("ab", "x").encode(),
        Publish::v5("$share/ab", "x").encode(),
    ]
    .concat()
}

/// One PUBLISH of QoS 2, never released, this many times.
pub(crate) fn same_unreleased_publish(count: usize) -> Vec<u8> {
    Publish::v311("t", [b'x'; 100])
        .qos(2, 7)
        .encode()
        .repeat(count)
}

/// This many SUBSCRIBE packets, each with another filter.
pub(crate) fn subscriptions(count: u16) -> Vec<u8> {
    (0..count)
        .flat_map(|n| subscribe(Version::V311, n + 1, &[(format!("f/{n}"), 0)]))
        .collect()
}

cases! {
    /// First packet is PUBLISH.
    1 first_not_connect_publish: New, hex("30 04 00 01 74 78") => "quiet";

    /// First packet is SUBSCRIBE.
    2 first_not_connect_subscribe: New, hex("82 06 00 01 00 01 23 00") => "quiet";

    /// First packet is PINGREQ.
    3 first_not_connect_pingreq: New, hex("c0 00") => "quiet";

    /// First packet is AUTH.
    4 first_auth: New, hex("f0 00") => "quiet";

    /// First packet claims 256 MiB and is no CONNECT: refuse at its first byte, buffer nothing.
    5 huge_first_publish: New, [hex("30 ff ff ff 7f"), vec![1; 200_000]].concat() => "quiet";

    /// CONNECT claims 256 MiB: memory per unauthenticated peer must stay bounded.
    6 huge_connect_length: New, [hex("10 ff ff ff 7f"), vec![1; 100_000]].concat() => "close or connack:95 or connack:81";

    /// Packet type 0.
    7 reserved_type_0: New, hex("00 00") => "quiet";

    /// Packet type 15 in 3.1.1.
    8 reserved_type_15_v4: V311, hex("f0 00") => "close";

    /// Remaining Length of five bytes.
    9 varint_5_bytes: New, hex("10 ff ff ff ff 7f") => "quiet or connack:81";

    /// HTTP request on the MQTT port.
    10 http_on_tcp: New, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec() => "quiet";

    /// TLS ClientHello on the plain port.
    11 tls_hello_on_tcp: New, [hex("16 03 01 00 a5 01 00 00 a1 03 03"), vec![0; 60]].concat() => "quiet";

    /// Second CONNECT on one connection.
    12 second_connect_v4: V311, hex("10 11 00 04 4d 51 54 54 04 02 00 3c 00 05 61 62 75 73 65") => "close";

    /// Second CONNECT on one connection.
    13 second_connect_v5: V5, hex("10 12 00 04 4d 51 54 54 05 02 00 3c 00 00 05 61 62 75 73 65") => "disc:82";

    /// Reserved bit 0 of the connect flags set (3.1.1: disconnect).
    14 connect_flags_reserved: New, hex("10 11 00 04 4d 51 54 54 04 03 00 3c 00 05 61 62 75 73 65") => "quiet";

    /// The same in 5.0.
    15 connect_flags_reserved_v5: New, hex("10 12 00 04 4d 51 54 54 05 03 00 3c 00 00 05 61 62 75 73 65") => "close or connack:81";

    /// Fixed header flags of CONNECT not 0.
    16 connect_header_flags: New, hex("11 11 00 04 4d 51 54 54 04 02 00 3c 00 05 61 62 75 73 65") => "close";

    /// Unknown protocol level: CONNACK 0x01 (or 0x84), then close.
    17 connect_level_99: New, hex("10 11 00 04 4d 51 54 54 63 02 00 3c 00 05 61 62 75 73 65") => "connack:01 or connack:84 or close";

    /// Wrong protocol name.
    18 connect_level_5_name_bad: New, hex("10 12 00 04 4d 51 54 58 05 02 00 3c 00 00 05 61 62 75 73 65") => "close or connack:84";

    /// Protocol name longer than the packet.
    19 connect_name_length_overrun: New, hex("10 0d ff ff 4d 51 54 54 04 02 00 3c 00 01 61") => "quiet or connack:81";

    /// CONNECT without a variable header.
    20 connect_empty_body: New, hex("10 00") => "quiet";

    /// Client identifier longer than the packet.
    21 connect_cid_overrun: New, hex("10 0d 00 04 4d 51 54 54 04 02 00 3c ff ff 61") => "quiet";

    /// Bytes after the last field of the payload.
    22 connect_trailing: New, hex("10 16 00 04 4d 51 54 54 04 02 00 3c 00 05 61 62 75 73 65 00 03 61 62 63") => "close";

    /// Will QoS 3.
    23 connect_will_qos3: New, hex("10 17 00 04 4d 51 54 54 04 1e 00 3c 00 05 61 62 75 73 65 00 01 77 00 01 6d") => "quiet";

    /// Will QoS 3 in 5.0.
    24 connect_will_qos3_v5: New, hex("10 19 00 04 4d 51 54 54 05 1e 00 3c 00 00 05 61 62 75 73 65 00 00 01 77 00 01 6d") => "close or connack:81";

    /// Will QoS 1 without the will flag.
    25 connect_will_off_qos1: New, hex("10 11 00 04 4d 51 54 54 04 0a 00 3c 00 05 61 62 75 73 65") => "quiet";

    /// Will retain without the will flag.
    26 connect_will_off_retain: New, hex("10 11 00 04 4d 51 54 54 04 22 00 3c 00 05 61 62 75 73 65") => "quiet";

    /// Will flag set, no will in the payload.
    27 connect_will_missing: New, hex("10 11 00 04 4d 51 54 54 04 06 00 3c 00 05 61 62 75 73 65") => "quiet";

    /// Will topic with a wildcard.
    28 connect_will_wildcard: New, hex("10 19 00 04 4d 51 54 54 04 06 00 3c 00 05 61 62 75 73 65 00 03 61 2f 23 00 01 6d") => "close or connack:90";

    /// Empty will topic with a will delay.
    29 connect_will_empty_topic_v5: New, hex("10 1d 00 04 4d 51 54 54 05 06 00 3c 00 00 05 61 62 75 73 65 05 18 00 00 00 05 00 00 00 01 6d") => "close or connack:81 or connack:82 or connack:90";

    /// Password flag without user name flag in 3.1.1.
    30 connect_pw_no_user_v4: New, hex("10 14 00 04 4d 51 54 54 04 42 00 3c 00 05 61 62 75 73 65 00 01 70") => "quiet";

    /// U+0000 in the client identifier.
    31 connect_cid_nul: New, hex("10 0f 00 04 4d 51 54 54 04 02 00 3c 00 03 61 00 62") => "close or connack:02";

    /// UTF-16 surrogate in the client identifier.
    32 connect_cid_surrogate: New, hex("10 10 00 04 4d 51 54 54 04 02 00 3c 00 04 61 ed a0 80") => "close or connack:02";

    /// Overlong UTF-8.
    33 connect_cid_overlong: New, hex("10 0f 00 04 4d 51 54 54 04 02 00 3c 00 03 61 c0 af") => "close or connack:02";

    /// Empty client identifier with clean session 0: CONNACK 0x02, then close.
    34 connect_empty_cid_persist: New, hex("10 0c 00 04 4d 51 54 54 04 00 00 3c 00 00") => "connack:02";

    /// Session expiry twice.
    35 connect_prop_twice: New, hex("10 1c 00 04 4d 51 54 54 05 02 00 3c 0a 11 00 00 00 01 11 00 00 00 01 00 05 61 62 75 73 65") => "close or connack:82";

    /// Receive Maximum 0.
    36 connect_recvmax_0: New, hex("10 15 00 04 4d 51 54 54 05 02 00 3c 03 21 00 00 00 05 61 62 75 73 65") => "close or connack:82";

    /// Maximum Packet Size 0.
    37 connect_maxpacket_0: New, hex("10 17 00 04 4d 51 54 54 05 02 00 3c 05 27 00 00 00 00 00 05 61 62 75 73 65") => "close or connack:82";

    /// Request Problem Information 2.
    38 connect_reqproblem_2: New, hex("10 14 00 04 4d 51 54 54 05 02 00 3c 02 17 02 00 05 61 62 75 73 65") => "close or connack:82";

    /// Authentication Data without Authentication Method.
    39 connect_authdata_alone: New, hex("10 16 00 04 4d 51 54 54 05 02 00 3c 04 16 00 01 78 00 05 61 62 75 73 65") => "close or connack:82";

    /// Topic alias in CONNECT properties.
    40 connect_prop_of_publish: New, hex("10 15 00 04 4d 51 54 54 05 02 00 3c 03 23 00 01 00 05 61 62 75 73 65") => "close or connack:81 or connack:82";

    /// Unknown property.
    41 connect_prop_unknown: New, hex("10 14 00 04 4d 51 54 54 05 02 00 3c 02 7f 00 00 05 61 62 75 73 65") => "close or connack:81 or connack:82";

    /// Property length runs past the packet.
    42 connect_prop_len_overrun: New, hex("10 13 00 04 4d 51 54 54 05 02 00 3c 7f 11 00 00 00 01 00 01 61") => "close or connack:81";

    /// 5000 user properties: linear time, bounded memory.
    43 connect_userprops_5000: New, connect_with_user_properties(5_000) => "open";

    /// CONNACK from a client; mosquitto CVE-2021-28166: authenticated client, crash.
    44 server_packet_connack: V311, hex("20 02 00 00") => "close";

    /// SUBACK from a client.
    45 server_packet_suback: V311, hex("90 03 00 01 00") => "close";

    /// UNSUBACK from a client.
    46 server_packet_unsuback: V5, hex("b0 04 00 01 00 00") => "disc:81,82";

    /// PINGRESP from a client.
    47 server_packet_pingresp: V311, hex("d0 00") => "close";

    /// Reserved flag in PINGREQ.
    48 pingreq_flags: V311, hex("c1 00") => "close";

    /// PINGREQ with a body.
    49 pingreq_body: V311, hex("c0 01 00") => "close";

    /// Reserved flag in DISCONNECT; the will is then due.
    50 disconnect_flags: V311, hex("e1 00") => "close";

    /// SUBSCRIBE with flags 0000.
    51 subscribe_flags: V311, hex("80 06 00 01 00 01 74 00") => "close";

    /// SUBSCRIBE without a filter.
    52 subscribe_empty: V311, hex("82 02 00 01") => "close";

    /// SUBSCRIBE without a filter.
    53 subscribe_empty_v5: V5, hex("82 03 00 01 00") => "disc:82,81";

    /// Requested QoS 3.
    54 subscribe_qos3: V311, hex("82 06 00 01 00 01 74 03") => "close";

    /// Reserved subscription options.
    55 subscribe_reserved_bits: V5, hex("82 07 00 01 00 00 01 74 c0") => "disc:81,82";

    /// Retain Handling 3.
    56 subscribe_rh3: V5, hex("82 07 00 01 00 00 01 74 30") => "disc:82,81";

    /// Packet identifier 0.
    57 subscribe_mid0: V311, hex("82 06 00 00 00 01 74 00") => "close";

    /// # not last.
    58 subscribe_bad_filter_1: V311, hex("82 0a 00 01 00 05 61 2f 23 2f 62 00") => "close or sub:80";

    /// + inside a level.
    59 subscribe_bad_filter_2: V311, hex("82 09 00 01 00 04 61 2b 2f 62 00") => "close or sub:80";

    /// Empty filter.
    60 subscribe_empty_filter: V311, hex("82 05 00 01 00 00 00") => "close or sub:80";

    /// Filter longer than the packet.
    61 subscribe_filter_overrun: V311, hex("82 06 00 01 ff ff 61 00") => "close";

    /// Subscription Identifier 0.
    62 subscribe_subid_0: V5, hex("82 09 00 01 02 0b 00 00 01 74 00") => "disc:82,81";

    /// Two Subscription Identifiers.
    63 subscribe_subid_twice: V5, hex("82 0b 00 01 04 0b 01 0b 02 00 01 74 00") => "disc:82,81";

    /// Empty ShareName.
    64 subscribe_share_empty: V5, hex("82 0f 00 01 00 00 09 24 73 68 61 72 65 2f 2f 74 00") => "disc:8f,81,82 or sub:8f";

    /// Wildcard in ShareName.
    65 subscribe_share_wild: V5, hex("82 11 00 01 00 00 0b 24 73 68 61 72 65 2f 61 2b 2f 74 00") => "disc:8f,81,82 or sub:8f";

    /// $share/name without a filter.
    66 subscribe_share_nofilter: V5, hex("82 0e 00 01 00 00 08 24 73 68 61 72 65 2f 61 00") => "disc:8f,81,82 or sub:8f";

    /// No Local on a shared subscription.
    67 subscribe_share_nolocal: V5, hex("82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 61 2f 74 04") => "disc:82";

    /// 65535 levels: no stack overflow, bounded time (mosquitto crashed recursing).
    68 subscribe_65535_slashes: V311, subscribe(Version::V311, 1, &[("/".repeat(65_535), 0)]) => "open or close or sub:80";

    /// 32768 wildcard levels.
    69 subscribe_plus_32767: V311, subscribe(Version::V311, 1, &[(format!("{}+", "+/".repeat(32_767)), 0)]) => "open or close or sub:80";

    /// UNSUBSCRIBE without a filter.
    70 unsubscribe_empty: V311, hex("a2 02 00 01") => "close";

    /// UNSUBSCRIBE with flags 0000.
    71 unsubscribe_flags: V311, hex("a0 05 00 01 00 01 74") => "close";

    /// Odd shared filters in UNSUBSCRIBE.
    72 unsubscribe_twice_bad: V5, [unsubscribe(Version::V5, 1, &["$share//"]), unsubscribe(Version::V5, 1, &["$share/"])].concat() => "open or disc:8f,81,82";

    /// QoS 3.
    73 publish_qos3: V311, hex("36 06 00 01 74 00 01 78") => "close";

    /// QoS 3.
    74 publish_qos3_v5: V5, hex("36 07 00 01 74 00 01 00 78") => "disc:81,82";

    /// DUP with QoS 0 (the sender must not; most servers close).
    75 publish_dup_qos0: V311, hex("38 04 00 01 74 78") => "close or open";

    /// Packet identifier 0 with QoS 1.
    76 publish_mid0: V311, hex("32 06 00 01 74 00 00 78") => "close";

    /// Wildcard in a topic name.
    77 publish_wildcard: V311, hex("30 06 00 03 61 2f 2b 78") => "close";

    /// Wildcard in a topic name.
    78 publish_wildcard_v5: V5, hex("30 07 00 03 61 2f 23 00 78") => "disc:90,81,82";

    /// Empty topic name.
    79 publish_empty_topic: V311, hex("30 03 00 00 78") => "close";

    /// Empty topic without an alias.
    80 publish_empty_topic_noalias: V5, hex("30 04 00 00 00 78") => "disc:82,81,90";

    /// U+0000 in the topic.
    81 publish_nul_topic: V311, hex("30 06 00 03 61 00 62 78") => "close";

    /// Topics beginning with $.
    82 publish_dollar_empty: V311, ["$", "$/", "$test/test"].map(|topic| Publish::v311(topic, "x").encode()).concat() => "open or close";

    /// Remaining Length not in its shortest form: refuse or accept, do not misread.
    83 publish_overlong_varint: V311, hex("30 84 00 00 01 74 78") => "open or close";

    /// Authenticated PUBLISH claims 256 MiB and stalls: commit memory as bytes arrive, not by the claim.
    84 publish_claims_256_mib: V311, [hex("30 ff ff ff 7f 00 01 74"), vec![b'x'; 100_000]].concat() => "silent or close";

    /// Topic alias among the will properties.
    85 will_invalid_prop: New, hex("10 1c 00 04 4d 51 54 54 05 06 00 3c 00 00 05 61 62 75 73 65 03 23 00 01 00 01 77 00 01 6d") => "close or connack:81 or connack:82";

    /// The same, then a PUBLISH that would match.
    86 share_then_publish: V5, share_and_messages() => "close or open";

    /// Ill-formed UTF-8 topic.
    87 publish_bad_utf8: V311, hex("30 06 00 03 61 ff fe 78") => "close";

    /// PUBLISH with Remaining Length 0.
    88 publish_rl_0: V311, hex("30 00") => "close";

    /// PUBLISH with half a topic length.
    89 publish_rl_1: V311, hex("30 01 00") => "close";

    /// Topic longer than the packet.
    90 publish_topic_overrun: V311, hex("30 04 ff ff 61 62") => "close";

    /// QoS 1 without room for the identifier.
    91 publish_qos1_no_mid: V311, hex("32 03 00 01 61") => "close";

    /// Topic alias 0.
    92 publish_alias_0: V5, hex("30 08 00 01 74 03 23 00 00 78") => "disc:94,82,81";

    /// Topic alias above the server's maximum.
    93 publish_alias_high: V5, hex("30 08 00 01 74 03 23 ff ff 78") => "disc:94,82 or open";

    /// Alias never set, empty topic.
    94 publish_alias_unknown: V5, hex("30 07 00 00 03 23 00 01 78") => "disc:82,94";

    /// Subscription Identifier from a client.
    95 publish_subid: V5, hex("30 07 00 01 74 02 0b 01 78") => "disc:82,81";

    /// Payload Format Indicator 2.
    96 publish_pfi_2: V5, hex("30 07 00 01 74 02 01 02 78") => "disc:81,82,99 or open";

    /// Wildcard in the Response Topic.
    97 publish_response_wild: V5, hex("30 0b 00 01 74 06 08 00 03 61 2f 23 78") => "disc:82,81,90";

    /// Five-byte property length.
    98 publish_prop_varint: V5, hex("30 09 00 01 74 ff ff ff ff 01 78") => "disc:81,82";

    /// User property longer than the packet.
    99 publish_prop_overrun: V5, hex("30 08 00 01 74 7f 26 ff ff 6b") => "disc:81,82";

    /// User property without a value.
    100 publish_userprop_half: V5, hex("30 09 00 01 74 04 26 00 01 6b 78") => "disc:81,82";

    /// PUBACK for an unknown identifier: must not crash; ignoring or closing are both allowed.
    101 puback_unknown: V311, hex("40 02 12 34") => "open or close";

    /// PUBREL for an unknown identifier: PUBCOMP expected.
    102 pubrel_unknown_v4: V311, hex("62 02 12 34") => "open or close";

    /// PUBREL with flags 0000.
    103 pubrel_flags: V311, hex("60 02 00 01") => "close";

    /// PUBREC for an unknown identifier; PUBREL 0x92 expected.
    104 pubrec_unknown_v5: V5, hex("50 02 12 34") => "open or disc:82,81";

    /// PUBCOMP of one byte.
    105 pubcomp_short: V311, hex("70 01 00") => "close";

    /// PUBACK with an undefined reason code.
    106 puback_rc_bad: V5, hex("40 03 00 01 01") => "disc:81,82 or open";

    /// DISCONNECT with an undefined reason code.
    107 disconnect_rc_bad: V5, hex("e0 01 01") => "close";

    /// DISCONNECT raises the session expiry from 0.
    108 disconnect_expiry_raise: V5, hex("e0 07 00 05 11 00 00 00 3c") => "disc:82";

    /// AUTH without an Authentication Method in CONNECT.
    109 auth_unasked: V5, hex("f0 00") => "disc:82,81";

    /// Unknown authentication method: CONNACK 0x8C.
    110 connect_auth_method_unknown: New, hex("10 19 00 04 4d 51 54 54 05 02 00 3c 07 15 00 04 4e 4f 50 45 00 05 61 62 75 73 65") => "connack:8c or connack:87 or close";

    /// 3000 times one unreleased QoS 2 PUBLISH: no memory growth (mosquitto leaked on each).
    111 flood_same_mid_qos2: V311, same_unreleased_publish(3_000) => "open or close";

    /// 20000 subscriptions by one client: bounded memory, others served.
    112 flood_subscribe_20000: V311, subscriptions(20_000) => "open or close";
}

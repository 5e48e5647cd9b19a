//! The codec as a whole: what is encoded decodes to the same, a stream of packets gives the same
//! packets however it is split, no bytes at all make the decoder panic, and every malformed packet
//! of the list of hostile inputs gets its answer.

use std::num::{NonZeroU16, NonZeroU32};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use ringmq::protocol::property::Property;
use ringmq::protocol::{
    Ack, Auth, Connack, ConnackProperties, Connect, ConnectProperties, Cut, DecodeError,
    Disconnect, FixedHeader, Forward, PACKET_BYTES_MAX, PacketId, PacketType, Publish, PublishHead,
    PublishProperties, QoS, ReasonCode, RetainHandling, Suback, Subscribe, SubscribeOptions,
    Unsuback, Unsubscribe, UserProperties, Version, Will, cut, frame, ping, put_pingreq,
    put_pingresp,
};

/// A packet of any type, as its receiver sees it.
#[derive(Debug, PartialEq)]
enum Packet<'a> {
    Connect(Connect<'a>),
    Connack(Connack<'a>),
    Publish(Publish<'a>),
    Ack(PacketType, Ack<'a>),
    Subscribe(Subscribe<'a>),
    Suback(Suback<'a>),
    Unsubscribe(Unsubscribe<'a>),
    Unsuback(Unsuback<'a>),
    Ping(PacketType),
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

fn decode(version: Version, header: FixedHeader, body: &[u8]) -> Result<Packet<'_>, DecodeError> {
    let packet_type = header.packet_type;
    Ok(match packet_type {
        PacketType::Connect => {
            Packet::Connect(Connect::decode(body).map_err(|refusal| refusal.error)?)
        }
        PacketType::Connack => Packet::Connack(Connack::decode(version, body)?),
        PacketType::Publish => {
            Packet::Publish(Publish::decode_from_server(version, header.flags, body)?)
        }
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
            Packet::Ack(packet_type, Ack::decode(version, packet_type, body)?)
        }
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(version, body)?),
        PacketType::Suback => Packet::Suback(Suback::decode(version, body)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(version, body)?),
        PacketType::Unsuback => Packet::Unsuback(Unsuback::decode(version, body)?),
        PacketType::Pingreq | PacketType::Pingresp => {
            ping::decode(body)?;
            Packet::Ping(packet_type)
        }
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(version, body)?),
        PacketType::Auth => Packet::Auth(Auth::decode(version, body)?),
    })
}

/// The one packet in `bytes`.
fn decode_whole(version: Version, bytes: &[u8]) -> Packet<'_> {
    match cut(bytes, PACKET_BYTES_MAX) {
        Ok(Cut::Packet { header, body, len }) => {
            assert_eq!(len, bytes.len(), "one packet and nothing else");
            decode(version, header, body).expect("what we encoded is valid")
        }
        other => panic!("not a whole packet: {other:?}"),
    }
}

fn encode(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    match packet {
        Packet::Connect(connect) => connect.encode(&mut out),
        Packet::Connack(connack) => connack.encode(version, &mut out),
        Packet::Publish(publish) => publish.encode(version, &mut out),
        Packet::Ack(packet_type, ack) => ack.encode(version, *packet_type, &mut out),
        Packet::Subscribe(it) => {
            let filters: Vec<_> = it.filters().collect();
            let id = it.subscription_id;
            Subscribe::encode(&mut out, version, it.packet_id, id, &it.user, &filters);
        }
        Packet::Suback(suback) => suback.encode(version, &mut out),
        Packet::Unsubscribe(it) => {
            let filters: Vec<_> = it.filters().collect();
            Unsubscribe::encode(&mut out, version, it.packet_id, &it.user, &filters);
        }
        Packet::Unsuback(unsuback) => unsuback.encode(version, &mut out),
        Packet::Ping(PacketType::Pingreq) => put_pingreq(&mut out),
        Packet::Ping(_) => put_pingresp(&mut out),
        Packet::Disconnect(disconnect) => disconnect.encode(version, &mut out),
        Packet::Auth(auth) => auth.encode(&mut out),
    }
    out
}

// What random packets are made of, owned, so that packets can borrow from it.

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V31), Just(Version::V311), Just(Version::V5)]
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

/// Any string without U+0000, now and then too long for a length of one byte.
fn text() -> impl Strategy<Value = String> {
    let chars = prop_oneof![
        8 => prop::char::range('a', 'z'),
        1 => prop::char::range('\u{1}', '\u{2A6D4}'),
    ];
    prop_oneof![
        20 => vec(chars.clone(), 0..12),
        1 => vec(chars, 200..400),
    ]
    .prop_map(|chars| chars.into_iter().collect())
}

fn topic() -> impl Strategy<Value = String> {
    text().prop_map(|text| {
        let topic: String = text
            .chars()
            .map(|c| if matches!(c, '+' | '#') { '/' } else { c })
            .collect();
        if topic.is_empty() {
            "/".to_owned()
        } else {
            topic
        }
    })
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![10 => vec(any::<u8>(), 0..24), 1 => vec(any::<u8>(), 100..20_000)]
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).expect("not 0"))
}

fn nonzero_u16() -> impl Strategy<Value = NonZeroU16> {
    (1..=u16::MAX).prop_map(|value| NonZeroU16::new(value).expect("not 0"))
}

fn nonzero_u32() -> impl Strategy<Value = NonZeroU32> {
    (1..=u32::MAX).prop_map(|value| NonZeroU32::new(value).expect("not 0"))
}

fn subscription_id() -> impl Strategy<Value = NonZeroU32> {
    (1..=268_435_455_u32).prop_map(|value| NonZeroU32::new(value).expect("not 0"))
}

fn user() -> impl Strategy<Value = Vec<u8>> {
    vec((text(), text()), 0..4).prop_map(|pairs| {
        let mut raw = Vec::new();
        for (name, value) in &pairs {
            Property::UserProperty(name, value).put(&mut raw);
        }
        raw
    })
}

fn forward() -> impl Strategy<Value = Vec<u8>> {
    let parts = (
        option::of(any::<bool>()),
        option::of(text()),
        option::of(topic()),
        option::of(data()),
        user(),
    );
    parts.prop_map(
        |(is_utf8, content_type, response_topic, correlation, user)| {
            let mut raw = Vec::new();
            if let Some(is_utf8) = is_utf8 {
                Property::PayloadFormatIndicator(is_utf8).put(&mut raw);
            }
            if let Some(text) = &content_type {
                Property::ContentType(text).put(&mut raw);
            }
            raw.extend_from_slice(&user);
            if let Some(topic) = &response_topic {
                Property::ResponseTopic(topic).put(&mut raw);
            }
            if let Some(data) = &correlation {
                Property::CorrelationData(data).put(&mut raw);
            }
            raw
        },
    )
}

fn reason(packet_type: PacketType) -> impl Strategy<Value = ReasonCode> {
    let codes: Vec<_> = (0..=u8::MAX)
        .filter_map(ReasonCode::from_u8)
        .filter(|code| code.valid_in(packet_type))
        .collect();
    prop::sample::select(codes)
}

fn codes(packet_type: PacketType) -> impl Strategy<Value = Vec<u8>> {
    vec(reason(packet_type).prop_map(|code| code as u8), 1..6)
}

fn options() -> impl Strategy<Value = SubscribeOptions> {
    let retain_handling = prop_oneof![
        Just(RetainHandling::SendAtSubscribe),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend),
    ];
    (qos(), any::<bool>(), any::<bool>(), retain_handling).prop_map(
        |(qos, no_local, retain_as_published, retain_handling)| SubscribeOptions {
            qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

fn user_of(raw: &[u8]) -> UserProperties<'_> {
    UserProperties::from_raw(raw).expect("only User Properties")
}

fn forward_of(raw: &[u8]) -> Forward<'_> {
    Forward::from_raw(raw).expect("only what is passed on")
}

/// Checks that `packet` survives encoding and decoding, and returns its bytes.
fn round_trip(version: Version, packet: &Packet<'_>) -> Vec<u8> {
    let bytes = encode(packet, version);
    assert_eq!(decode_whole(version, &bytes), *packet);
    bytes
}

fn connect_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    let will = (
        qos(),
        any::<bool>(),
        topic(),
        data(),
        any::<u32>(),
        option::of(any::<u32>()),
        forward(),
    );
    let numbers = (
        any::<bool>(),
        any::<u16>(),
        option::of(any::<u32>()),
        option::of(nonzero_u16()),
        option::of(nonzero_u32()),
        any::<u16>(),
        any::<bool>(),
        any::<bool>(),
    );
    let texts = (
        text(),
        option::of(text()),
        option::of(data()),
        option::of((text(), option::of(data()))),
        user(),
    );
    (option::of(will), numbers, texts).prop_map(move |(will, numbers, texts)| {
        let v5 = version.is_v5();
        let (clean_start, keep_alive_s, expiry, receive, size, alias, response, problem) = numbers;
        let (client_id, username, password, authentication, user) = &texts;
        let mut connect = Connect {
            version,
            clean_start,
            keep_alive_s,
            client_id,
            will: will.as_ref().map(
                |(qos, retain, topic, payload, delay_s, expiry_s, forward)| Will {
                    qos: *qos,
                    retain: *retain,
                    topic,
                    payload,
                    delay_s: if v5 { *delay_s } else { 0 },
                    message_expiry_s: expiry_s.filter(|_| v5),
                    forward: if v5 {
                        forward_of(forward)
                    } else {
                        Forward::default()
                    },
                },
            ),
            username: username.as_deref(),
            password: password.as_deref().filter(|_| v5 || username.is_some()),
            properties: ConnectProperties::default(),
        };
        if v5 {
            connect.properties = ConnectProperties {
                session_expiry_s: expiry,
                receive_maximum: receive,
                packet_bytes_max: size,
                topic_alias_maximum: alias,
                request_response_information: response,
                request_problem_information: problem,
                authentication_method: authentication.as_ref().map(|(method, _)| method.as_str()),
                authentication_data: authentication
                    .as_ref()
                    .and_then(|(_, data)| data.as_deref()),
                user: user_of(user),
            };
        }
        round_trip(version, &Packet::Connect(connect))
    })
}

fn connack_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    let numbers = (
        option::of(any::<u32>()),
        option::of(nonzero_u16()),
        qos(),
        option::of(nonzero_u32()),
        any::<u16>(),
        option::of(any::<u16>()),
        any::<[bool; 5]>(),
    );
    let texts = (vec(option::of(text()), 5), option::of(data()), user());
    (reason(PacketType::Connack), numbers, texts).prop_map(move |(reason, numbers, texts)| {
        let (expiry, receive, qos_maximum, size, alias, keep_alive, flags) = numbers;
        let (strings, authentication_data, user) = &texts;
        let string = |index: usize| strings[index].as_deref();
        // Before 5.0 only six of the codes can be told.
        let told = ReasonCode::from_connack_v3(reason.connack_v3()).expect("0 to 5 are defined");
        let reason = if version.is_v5() { reason } else { told };
        let mut connack = Connack::refusal(reason);
        connack.session_present = flags[0] && !reason.is_failure() && version != Version::V31;
        if version.is_v5() {
            connack.properties = ConnackProperties {
                session_expiry_s: expiry,
                receive_maximum: receive,
                qos_maximum,
                retain_available: flags[1],
                packet_bytes_max: size,
                assigned_client_id: string(0),
                topic_alias_maximum: alias,
                reason_string: string(1),
                wildcard_subscription_available: flags[2],
                subscription_ids_available: flags[3],
                shared_subscription_available: flags[4],
                server_keep_alive_s: keep_alive,
                response_information: string(2),
                server_reference: string(3),
                authentication_method: string(4),
                authentication_data: authentication_data.as_deref(),
                user: user_of(user),
            };
        }
        round_trip(version, &Packet::Connack(connack))
    })
}

fn publish_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    let flags = (qos(), any::<bool>(), any::<bool>(), packet_id());
    let properties = (
        option::of(nonzero_u16()),
        option::of(any::<u32>()),
        forward(),
    );
    (flags, topic(), any::<bool>(), properties, data()).prop_map(
        move |((qos, dup, retain, id), topic, by_alias, (alias, expiry_s, forward), payload)| {
            let v5 = version.is_v5();
            let alias = alias.filter(|_| v5);
            let publish = Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                topic: if by_alias && alias.is_some() {
                    ""
                } else {
                    &topic
                },
                packet_id: Some(id).filter(|_| qos != QoS::AtMostOnce),
                properties: PublishProperties {
                    topic_alias: alias,
                    message_expiry_s: expiry_s.filter(|_| v5),
                    forward: if v5 {
                        forward_of(&forward)
                    } else {
                        Forward::default()
                    },
                    ..PublishProperties::default()
                },
                payload: &payload,
            };
            round_trip(version, &Packet::Publish(publish))
        },
    )
}

/// A PUBLISH as a server sends it, by way of [`PublishHead`].
fn publish_head_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    let ids = vec(subscription_id(), 0..6);
    let times = (
        option::of(any::<u32>()),
        any::<u32>(),
        packet_id(),
        packet_id(),
    );
    (
        qos(),
        topic(),
        option::of(nonzero_u16()),
        times,
        ids,
        forward(),
        data(),
    )
        .prop_map(
            move |(
                qos,
                topic,
                alias,
                (expiry_s, patched_s, first_id, id),
                ids,
                forward,
                payload,
            )| {
                let with_id = qos != QoS::AtMostOnce;
                let id_numbers: Vec<u32> = ids.iter().map(|id| id.get()).collect();
                let head = PublishHead {
                    version,
                    qos,
                    dup: false,
                    retain: true,
                    topic: &topic,
                    packet_id: Some(first_id).filter(|_| with_id),
                    topic_alias: alias,
                    message_expiry_s: expiry_s,
                    subscription_ids: &id_numbers,
                    forward: &forward,
                    payload_len: payload.len(),
                };
                let mut bytes = Vec::new();
                let offsets = head.encode(&mut bytes);
                assert_eq!(offsets.packet_id.is_some(), with_id);
                assert_eq!(
                    offsets.message_expiry_s.is_some(),
                    version.is_v5() && expiry_s.is_some()
                );
                if with_id {
                    offsets.patch_packet_id(&mut bytes, id);
                }
                if offsets.message_expiry_s.is_some() {
                    offsets.patch_message_expiry_s(&mut bytes, patched_s);
                }
                bytes.extend_from_slice(&payload);
                assert_eq!(bytes.len(), head.encoded_len());

                let Packet::Publish(publish) = decode_whole(version, &bytes) else {
                    panic!("a PUBLISH was encoded");
                };
                assert_eq!(
                    (publish.qos, publish.dup, publish.retain),
                    (qos, false, true)
                );
                assert_eq!(publish.topic, topic);
                assert_eq!(publish.packet_id, Some(id).filter(|_| with_id));
                assert_eq!(publish.payload, payload);
                let properties = &publish.properties;
                if version.is_v5() {
                    assert_eq!(properties.topic_alias, alias);
                    assert_eq!(properties.message_expiry_s, expiry_s.map(|_| patched_s));
                    assert_eq!(properties.subscription_ids.clone().collect::<Vec<_>>(), ids);
                    assert_eq!(properties.forward, forward_of(&forward));
                } else {
                    assert_eq!(*properties, PublishProperties::default());
                }
                assert_eq!(encode(&Packet::Publish(publish), version), bytes);
                bytes
            },
        )
}

fn ack_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    const TYPES: [PacketType; 4] = [
        PacketType::Puback,
        PacketType::Pubrec,
        PacketType::Pubrel,
        PacketType::Pubcomp,
    ];
    prop::sample::select(&TYPES[..])
        .prop_flat_map(|packet_type| {
            (
                Just(packet_type),
                packet_id(),
                reason(packet_type),
                option::of(text()),
                user(),
            )
        })
        .prop_map(
            move |(packet_type, packet_id, reason, reason_string, user)| {
                let v5 = version.is_v5();
                let ack = Ack {
                    packet_id,
                    reason: if v5 { reason } else { ReasonCode::Success },
                    reason_string: reason_string.as_deref().filter(|_| v5),
                    user: user_of(if v5 { &user } else { &[] }),
                };
                round_trip(version, &Packet::Ack(packet_type, ack))
            },
        )
}

fn subscribe_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    let filters = vec((text(), options()), 1..5);
    (packet_id(), option::of(subscription_id()), user(), filters).prop_map(
        move |(packet_id, subscription_id, user, filters)| {
            let told = |options: SubscribeOptions| match version {
                Version::V5 => options,
                Version::V31 | Version::V311 => SubscribeOptions {
                    qos: options.qos,
                    ..SubscribeOptions::default()
                },
            };
            let filters: Vec<_> = filters
                .iter()
                .map(|(filter, options)| (filter.as_str(), *options))
                .collect();
            let mut bytes = Vec::new();
            let user = user_of(&user);
            Subscribe::encode(
                &mut bytes,
                version,
                packet_id,
                subscription_id,
                &user,
                &filters,
            );
            let Packet::Subscribe(subscribe) = decode_whole(version, &bytes) else {
                panic!("a SUBSCRIBE was encoded");
            };
            assert_eq!(subscribe.packet_id, packet_id);
            let wanted: Vec<_> = filters
                .iter()
                .map(|(filter, options)| (*filter, told(*options)))
                .collect();
            assert_eq!(subscribe.filters().collect::<Vec<_>>(), wanted);
            if version.is_v5() {
                assert_eq!(
                    (subscribe.subscription_id, &subscribe.user),
                    (subscription_id, &user)
                );
            }
            round_trip(version, &Packet::Subscribe(subscribe))
        },
    )
}

fn unsubscribe_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    (packet_id(), user(), vec(text(), 1..5)).prop_map(move |(packet_id, user, filters)| {
        let filters: Vec<_> = filters.iter().map(String::as_str).collect();
        let mut bytes = Vec::new();
        Unsubscribe::encode(&mut bytes, version, packet_id, &user_of(&user), &filters);
        let Packet::Unsubscribe(unsubscribe) = decode_whole(version, &bytes) else {
            panic!("an UNSUBSCRIBE was encoded");
        };
        assert_eq!(unsubscribe.packet_id, packet_id);
        assert_eq!(unsubscribe.filters().collect::<Vec<_>>(), filters);
        round_trip(version, &Packet::Unsubscribe(unsubscribe))
    })
}

fn suback_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    (
        packet_id(),
        codes(PacketType::Suback),
        option::of(text()),
        user(),
    )
        .prop_map(move |(packet_id, codes, reason_string, user)| {
            let v5 = version.is_v5();
            let v3_codes: Vec<u8> = codes.iter().map(|code| (*code).min(0x80)).collect();
            let suback = Suback {
                packet_id,
                codes: if v5 { &codes } else { &v3_codes },
                reason_string: reason_string.as_deref().filter(|_| v5),
                user: user_of(if v5 { &user } else { &[] }),
            };
            round_trip(version, &Packet::Suback(suback))
        })
}

fn unsuback_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    (
        packet_id(),
        codes(PacketType::Unsuback),
        option::of(text()),
        user(),
    )
        .prop_map(move |(packet_id, codes, reason_string, user)| {
            let v5 = version.is_v5();
            let unsuback = Unsuback {
                packet_id,
                codes: if v5 { &codes } else { &[] },
                reason_string: reason_string.as_deref().filter(|_| v5),
                user: user_of(if v5 { &user } else { &[] }),
            };
            round_trip(version, &Packet::Unsuback(unsuback))
        })
}

fn disconnect_bytes(version: Version) -> impl Strategy<Value = Vec<u8>> {
    let texts = (option::of(text()), option::of(text()), user());
    (
        reason(PacketType::Disconnect),
        option::of(any::<u32>()),
        texts,
    )
        .prop_map(
            move |(reason, session_expiry_s, (reason_string, server_reference, user))| {
                let disconnect = match version {
                    Version::V5 => Disconnect {
                        reason,
                        session_expiry_s,
                        reason_string: reason_string.as_deref(),
                        server_reference: server_reference.as_deref(),
                        user: user_of(&user),
                    },
                    Version::V31 | Version::V311 => Disconnect::new(ReasonCode::Success),
                };
                round_trip(version, &Packet::Disconnect(disconnect))
            },
        )
}

fn auth_bytes() -> impl Strategy<Value = Vec<u8>> {
    let texts = (text(), option::of(data()), option::of(text()), user());
    (reason(PacketType::Auth), texts).prop_map(|(reason, (method, data, reason_string, user))| {
        let auth = Auth {
            reason,
            method: Some(&method),
            data: data.as_deref(),
            reason_string: reason_string.as_deref(),
            user: user_of(&user),
        };
        round_trip(Version::V5, &Packet::Auth(auth))
    })
}

/// The bytes of a random packet that has already survived a round trip.
fn packet_bytes(version: Version) -> BoxedStrategy<Vec<u8>> {
    let ping = prop_oneof![Just(PacketType::Pingreq), Just(PacketType::Pingresp)]
        .prop_map(move |packet_type| round_trip(version, &Packet::Ping(packet_type)));
    let any_version = prop_oneof![
        connect_bytes(version),
        connack_bytes(version),
        publish_bytes(version),
        publish_head_bytes(version),
        ack_bytes(version),
        subscribe_bytes(version),
        suback_bytes(version),
        unsubscribe_bytes(version),
        unsuback_bytes(version),
        prop_oneof![ping, disconnect_bytes(version)],
    ];
    match version {
        Version::V5 => prop_oneof![10 => any_version, 1 => auth_bytes()].boxed(),
        Version::V31 | Version::V311 => any_version.boxed(),
    }
}

fn version_and_packet() -> impl Strategy<Value = (Version, Vec<u8>)> {
    version().prop_flat_map(|version| (Just(version), packet_bytes(version)))
}

/// Decodes `body` as every type of packet in every version, and walks all that came out.
fn decode_everything(body: &[u8]) {
    for version in [Version::V31, Version::V311, Version::V5] {
        for first in 0..=u8::MAX {
            let Ok(header) = FixedHeader::from_byte(first, version) else {
                continue;
            };
            match decode(version, header, body) {
                Ok(packet) => drop(format!("{packet:?}")),
                Err(error) => {
                    assert!(!error.what.is_empty() && !error.statement.is_empty());
                    assert!(
                        error.reason.valid_in(PacketType::Disconnect)
                            || error.reason == ReasonCode::UnsupportedProtocolVersion,
                        "{error}"
                    );
                }
            }
        }
        if let Ok(publish) = Publish::decode(version, 0, body) {
            let mut again = Vec::new();
            publish.encode(version, &mut again);
            assert!(matches!(
                cut(&again, PACKET_BYTES_MAX),
                Ok(Cut::Packet { .. })
            ));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_decodes_to_the_same(
        (version, bytes) in version_and_packet(),
    ) {
        // Each packet was compared when it was made; here that its bytes are stable.
        let packet = decode_whole(version, &bytes);
        prop_assert_eq!(encode(&packet, version), bytes.clone());
    }

    #[test]
    fn any_split_gives_the_same_packets(
        (version, packets, pieces) in version().prop_flat_map(|version| {
            (Just(version), vec(packet_bytes(version), 1..8), vec(1..40_usize, 1..30))
        }),
    ) {
        let stream = packets.concat();
        let mut buffer = Vec::new();
        let mut sent = 0;
        let mut received = Vec::new();
        for piece in pieces.iter().copied().cycle() {
            if sent == stream.len() {
                break;
            }
            let piece = piece.min(stream.len() - sent);
            buffer.extend_from_slice(&stream[sent..sent + piece]);
            sent += piece;
            let mut used = 0;
            loop {
                match frame::cut_version(&buffer[used..], PACKET_BYTES_MAX, version) {
                    Ok(Cut::Packet { header, body, len }) => {
                        prop_assert!(decode(version, header, body).is_ok());
                        received.push(buffer[used..used + len].to_vec());
                        used += len;
                    }
                    Ok(Cut::Incomplete { need }) => {
                        let have = buffer.len() - used;
                        prop_assert!(need > have, "need {need} of {have}");
                        if let Some(next) = packets.get(received.len()) {
                            prop_assert!(need <= next.len());
                        }
                        break;
                    }
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
            buffer.drain(..used);
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(received, packets);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        decode_everything(&bytes);
        let _ = cut(&bytes, 100);
    }

    #[test]
    fn a_valid_packet_with_changed_bytes_never_panics(
        (_, mut bytes) in version_and_packet(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in any::<prop::sample::Index>(),
    ) {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decode_everything(&bytes[2..]);
        decode_everything(&bytes[..keep.index(bytes.len())]);
        if let Ok(Cut::Packet { body, .. }) = cut(&bytes, PACKET_BYTES_MAX) {
            decode_everything(body);
        }
    }

    #[test]
    fn a_packet_cut_short_is_never_a_packet(
        (version, bytes) in version_and_packet(),
        keep in any::<prop::sample::Index>(),
    ) {
        let keep = keep.index(bytes.len());
        let cut = frame::cut_version(&bytes[..keep], PACKET_BYTES_MAX, version);
        let incomplete = matches!(cut, Ok(Cut::Incomplete { .. }));
        prop_assert!(incomplete);
    }
}

/// What the list of hostile inputs demands of the codec.
enum Answer {
    /// Refused before or in CONNECT, and nothing may be sent but the close.
    Quiet,
    /// Refused in CONNECT, and a CONNACK with one of these codes may be sent.
    Connack(Version, &'static [u8]),
    /// Refused in 3.1.1, which has no DISCONNECT from a server.
    Close,
    /// Refused in 5.0, and a DISCONNECT with one of these codes may be sent.
    Disconnect(&'static [u8]),
    /// A valid packet, for the server to judge.
    Open,
}

#[test]
fn hostile_input_gets_its_answer() {
    use Answer::{Close, Connack, Disconnect, Open, Quiet};
    use Version::{V5, V311};
    let rows: &[(&str, &[u8], Answer)] = &[
        ("first-auth", b"\xF0\x00", Open),
        ("reserved-type-0", b"\x00\x00", Quiet),
        ("varint-5-bytes", b"\x10\xFF\xFF\xFF\xFF\x7F", Quiet),
        ("http-on-tcp", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Quiet),
        ("tls-hello-on-tcp", b"\x16\x03\x01\x00\xA5\x01\x00\x00\xA1\x03\x03", Quiet),
        ("connect-flags-reserved", b"\x10\x11\x00\x04MQTT\x04\x03\x00\x3C\x00\x05abuse", Quiet),
        (
            "connect-flags-reserved-v5",
            b"\x10\x12\x00\x04MQTT\x05\x03\x00\x3C\x00\x00\x05abuse",
            Connack(V5, &[0x81]),
        ),
        ("connect-header-flags", b"\x11\x11\x00\x04MQTT\x04\x02\x00\x3C\x00\x05abuse", Quiet),
        (
            "connect-level-99",
            b"\x10\x11\x00\x04MQTT\x63\x02\x00\x3C\x00\x05abuse",
            Connack(V5, &[0x84]),
        ),
        ("connect-level-5-name-bad", b"\x10\x12\x00\x04MQTX\x05\x02\x00\x3C\x00\x00\x05abuse", Quiet),
        ("connect-name-length-overrun", b"\x10\x0D\xFF\xFFMQTT\x04\x02\x00\x3C\x00\x01a", Quiet),
        ("connect-empty-body", b"\x10\x00", Quiet),
        ("connect-cid-overrun", b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x3C\xFF\xFFa", Quiet),
        (
            "connect-trailing",
            b"\x10\x16\x00\x04MQTT\x04\x02\x00\x3C\x00\x05abuse\x00\x03abc",
            Quiet,
        ),
        (
            "connect-will-qos3",
            b"\x10\x17\x00\x04MQTT\x04\x1E\x00\x3C\x00\x05abuse\x00\x01w\x00\x01m",
            Quiet,
        ),
        (
            "connect-will-qos3-v5",
            b"\x10\x19\x00\x04MQTT\x05\x1E\x00\x3C\x00\x00\x05abuse\x00\x00\x01w\x00\x01m",
            Connack(V5, &[0x81]),
        ),
        ("connect-will-off-qos1", b"\x10\x11\x00\x04MQTT\x04\x0A\x00\x3C\x00\x05abuse", Quiet),
        ("connect-will-off-retain", b"\x10\x11\x00\x04MQTT\x04\x22\x00\x3C\x00\x05abuse", Quiet),
        ("connect-will-missing", b"\x10\x11\x00\x04MQTT\x04\x06\x00\x3C\x00\x05abuse", Quiet),
        (
            "connect-will-wildcard",
            b"\x10\x19\x00\x04MQTT\x04\x06\x00\x3C\x00\x05abuse\x00\x03a/#\x00\x01m",
            Quiet,
        ),
        (
            "connect-will-empty-topic-v5",
            b"\x10\x1D\x00\x04MQTT\x05\x06\x00\x3C\x00\x00\x05abuse\x05\x18\x00\x00\x00\x05\x00\x00\x00\x01m",
            Connack(V5, &[0x81, 0x82, 0x90]),
        ),
        (
            "connect-pw-no-user-v4",
            b"\x10\x14\x00\x04MQTT\x04\x42\x00\x3C\x00\x05abuse\x00\x01p",
            Quiet,
        ),
        ("connect-cid-nul", b"\x10\x0F\x00\x04MQTT\x04\x02\x00\x3C\x00\x03a\x00b", Quiet),
        (
            "connect-cid-surrogate",
            b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3C\x00\x04a\xED\xA0\x80",
            Quiet,
        ),
        ("connect-cid-overlong", b"\x10\x0F\x00\x04MQTT\x04\x02\x00\x3C\x00\x03a\xC0\xAF", Quiet),
        ("connect-empty-cid-persist", b"\x10\x0C\x00\x04MQTT\x04\x00\x00\x3C\x00\x00", Open),
        (
            "connect-prop-twice",
            b"\x10\x1C\x00\x04MQTT\x05\x02\x00\x3C\x0A\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01\x00\x05abuse",
            Connack(V5, &[0x82]),
        ),
        (
            "connect-recvmax-0",
            b"\x10\x15\x00\x04MQTT\x05\x02\x00\x3C\x03\x21\x00\x00\x00\x05abuse",
            Connack(V5, &[0x82]),
        ),
        (
            "connect-maxpacket-0",
            b"\x10\x17\x00\x04MQTT\x05\x02\x00\x3C\x05\x27\x00\x00\x00\x00\x00\x05abuse",
            Connack(V5, &[0x82]),
        ),
        (
            "connect-reqproblem-2",
            b"\x10\x14\x00\x04MQTT\x05\x02\x00\x3C\x02\x17\x02\x00\x05abuse",
            Connack(V5, &[0x82]),
        ),
        (
            "connect-authdata-alone",
            b"\x10\x16\x00\x04MQTT\x05\x02\x00\x3C\x04\x16\x00\x01x\x00\x05abuse",
            Connack(V5, &[0x82]),
        ),
        (
            "connect-prop-of-publish",
            b"\x10\x15\x00\x04MQTT\x05\x02\x00\x3C\x03\x23\x00\x01\x00\x05abuse",
            Connack(V5, &[0x81, 0x82]),
        ),
        (
            "connect-prop-unknown",
            b"\x10\x14\x00\x04MQTT\x05\x02\x00\x3C\x02\x7F\x00\x00\x05abuse",
            Connack(V5, &[0x81, 0x82]),
        ),
        (
            "connect-prop-len-overrun",
            b"\x10\x13\x00\x04MQTT\x05\x02\x00\x3C\x7F\x11\x00\x00\x00\x01\x00\x01a",
            Connack(V5, &[0x81]),
        ),
        (
            "will-invalid-prop",
            b"\x10\x1C\x00\x04MQTT\x05\x06\x00\x3C\x00\x00\x05abuse\x03\x23\x00\x01\x00\x01w\x00\x02mm",
            Connack(V5, &[0x81, 0x82]),
        ),
        ("reserved-type-15-v4", b"\xF0\x00", Close),
        ("pingreq-flags", b"\xC1\x00", Close),
        ("pingreq-body", b"\xC0\x01\x00", Close),
        ("disconnect-flags", b"\xE1\x00", Close),
        ("subscribe-flags", b"\x80\x06\x00\x01\x00\x01t\x00", Close),
        ("subscribe-empty", b"\x82\x02\x00\x01", Close),
        ("subscribe-empty-v5", b"\x82\x03\x00\x01\x00", Disconnect(&[0x82, 0x81])),
        ("subscribe-qos3", b"\x82\x06\x00\x01\x00\x01t\x03", Close),
        (
            "subscribe-reserved-bits",
            b"\x82\x07\x00\x01\x00\x00\x01t\xC0",
            Disconnect(&[0x81, 0x82]),
        ),
        ("subscribe-rh3", b"\x82\x07\x00\x01\x00\x00\x01t\x30", Disconnect(&[0x82, 0x81])),
        ("subscribe-mid0", b"\x82\x06\x00\x00\x00\x01t\x00", Close),
        ("subscribe-filter-overrun", b"\x82\x06\x00\x01\xFF\xFFa\x00", Close),
        (
            "subscribe-subid-0",
            b"\x82\x09\x00\x01\x02\x0B\x00\x00\x01t\x00",
            Disconnect(&[0x82, 0x81]),
        ),
        (
            "subscribe-subid-twice",
            b"\x82\x0B\x00\x01\x04\x0B\x01\x0B\x02\x00\x01t\x00",
            Disconnect(&[0x82, 0x81]),
        ),
        (
            "subscribe-share-nolocal",
            b"\x82\x10\x00\x01\x00\x00\x0A$share/a/t\x04",
            Disconnect(&[0x82]),
        ),
        ("unsubscribe-empty", b"\xA2\x02\x00\x01", Close),
        ("unsubscribe-flags", b"\xA0\x05\x00\x01\x00\x01t", Close),
        ("publish-qos3", b"\x36\x06\x00\x01t\x00\x01x", Close),
        ("publish-qos3-v5", b"\x36\x07\x00\x01t\x00\x01\x00x", Disconnect(&[0x81, 0x82])),
        ("publish-dup-qos0", b"\x38\x04\x00\x01tx", Close),
        ("publish-mid0", b"\x32\x06\x00\x01t\x00\x00x", Close),
        ("publish-wildcard", b"\x30\x06\x00\x03a/+x", Close),
        ("publish-wildcard-v5", b"\x30\x07\x00\x03a/#\x00x", Disconnect(&[0x90, 0x81, 0x82])),
        ("publish-empty-topic", b"\x30\x03\x00\x00x", Close),
        (
            "publish-empty-topic-noalias",
            b"\x30\x04\x00\x00\x00x",
            Disconnect(&[0x82, 0x81, 0x90]),
        ),
        ("publish-nul-topic", b"\x30\x06\x00\x03a\x00bx", Close),
        ("publish-bad-utf8", b"\x30\x06\x00\x03a\xFF\xFEx", Close),
        ("publish-rl-0", b"\x30\x00", Close),
        ("publish-rl-1", b"\x30\x01\x00", Close),
        ("publish-topic-overrun", b"\x30\x04\xFF\xFFab", Close),
        ("publish-qos1-no-mid", b"\x32\x03\x00\x01a", Close),
        (
            "publish-alias-0",
            b"\x30\x08\x00\x01t\x03\x23\x00\x00x",
            Disconnect(&[0x94, 0x82, 0x81]),
        ),
        ("publish-subid", b"\x30\x07\x00\x01t\x02\x0B\x01x", Disconnect(&[0x82, 0x81])),
        ("publish-pfi-2", b"\x30\x07\x00\x01t\x02\x01\x02x", Disconnect(&[0x81, 0x82, 0x99])),
        (
            "publish-response-wild",
            b"\x30\x0B\x00\x01t\x06\x08\x00\x03a/#x",
            Disconnect(&[0x82, 0x81, 0x90]),
        ),
        (
            "publish-prop-varint",
            b"\x30\x09\x00\x01t\xFF\xFF\xFF\xFF\x01x",
            Disconnect(&[0x81, 0x82]),
        ),
        ("publish-prop-overrun", b"\x30\x08\x00\x01t\x7F\x26\xFF\xFFk", Disconnect(&[0x81, 0x82])),
        (
            "publish-userprop-half",
            b"\x30\x09\x00\x01t\x04\x26\x00\x01kx",
            Disconnect(&[0x81, 0x82]),
        ),
        ("publish-overlong-varint", b"\x30\x84\x00\x00\x01tx", Open),
        ("pubrel-flags", b"\x60\x02\x00\x01", Close),
        ("pubcomp-short", b"\x70\x01\x00", Close),
        ("puback-rc-bad", b"\x40\x03\x00\x01\x01", Disconnect(&[0x81, 0x82])),
        ("disconnect-rc-bad", b"\xE0\x01\x01", Disconnect(&[0x81, 0x82])),
    ];
    for (name, bytes, answer) in rows {
        let version = match answer {
            Disconnect(_) => V5,
            Open if *name == "first-auth" => V5,
            _ => V311,
        };
        // (the error, the version a CONNACK may be sent in)
        let refused = match cut(bytes, PACKET_BYTES_MAX) {
            Err(error) => Err((error, None)),
            Ok(Cut::Incomplete { need }) => panic!("{name}: {need} bytes needed"),
            Ok(Cut::Packet { header, body, .. }) => match header.packet_type {
                PacketType::Connect => Connect::decode(body)
                    .map(drop)
                    .map_err(|it| (it.error, it.answer)),
                PacketType::Publish => Publish::decode(version, header.flags, body)
                    .map(drop)
                    .map_err(|error| (error, None)),
                _ => decode(version, header, body)
                    .map(drop)
                    .map_err(|error| (error, None)),
            },
        };
        match (answer, refused) {
            (Open, Ok(())) | (Close, Err((_, None))) | (Quiet, Err((_, None))) => {}
            (Connack(version, codes), Err((error, Some(told)))) => {
                assert_eq!(*version, told, "{name}");
                assert!(codes.contains(&(error.reason as u8)), "{name}: {error}");
                assert!(
                    error.reason.valid_in(PacketType::Connack),
                    "{name}: {error}"
                );
            }
            (Disconnect(codes), Err((error, None))) => {
                assert!(codes.contains(&(error.reason as u8)), "{name}: {error}");
                assert!(
                    error.reason.valid_in(PacketType::Disconnect),
                    "{name}: {error}"
                );
            }
            (_, refused) => panic!("{name}: {refused:?}"),
        }
    }
}

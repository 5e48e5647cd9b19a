//! The codec against two others: random valid packets in both directions, and damaged ones. Here that of rumqttc;
//! `protocol_core` has that of mqtt-protocol-core.
//!
//! A valid packet goes from ours through theirs and back: they read what we wrote, and we read what they write of
//! it. Of a damaged one both must say the same, or the difference must be one that is listed here with
//! the standard's word on it. rumqttc is a client's codec and trusts its server, so most of what we refuse and it
//! accepts is what a server has to refuse.

#[path = "codec_differential/protocol_core.rs"]
mod protocol_core;

use bytes::BytesMut;
use ringmq::protocol::frame::{Cut, FixedHeader, PACKET_BYTES_MAX, cut_version};
use ringmq::protocol::{
    Ack, Connack, ConnackProperties, Connect, ConnectProperties, DecodeError, Disconnect, Forward,
    PacketId, PacketType, Property, Publish, PublishProperties, QoS, ReasonCode, Suback, Subscribe,
    SubscribeOptions, Unsuback, Unsubscribe, UserProperties, Version, Will, ping, put_pingreq,
    put_pingresp,
};
use rumqttc::mqttbytes as v4;
use rumqttc::v5::mqttbytes as v5;
use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};

const VALID_COUNT: u64 = 20_000;
const DAMAGED_COUNT: u64 = 60_000;
const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

#[test]
fn valid_packets_mean_the_same_to_both() {
    for seed in 0..VALID_COUNT {
        for version in VERSIONS {
            let mut random = Random(seed);
            let ours = packet(&mut random, version);
            let theirs = read_theirs(&ours, version).unwrap_or_else(|error| {
                panic!("seed {seed}: they refuse {ours:x?}: {error}");
            });
            let back = theirs.write();
            let (header, body) = cut_one(&back, version);
            assert_eq!(
                meaning(version, header, body).expect("what they write is valid"),
                meaning_of(&ours, version).expect("what we write is valid"),
                "seed {seed}: {ours:x?} came back as {back:x?}"
            );
            theirs.compare_fields(&ours, version);
        }
    }
}

#[test]
fn damaged_packets_are_judged_alike_or_the_standard_is_on_our_side() {
    let mut refused_by_us = BTreeMap::new();
    let mut refused_by_them = BTreeMap::new();
    let mut agreed = 0;
    for seed in 0..DAMAGED_COUNT {
        for version in VERSIONS {
            let mut random = Random(seed);
            let mut bytes = packet(&mut random, version);
            damage(&mut random, &mut bytes);
            let ours = meaning_of(&bytes, version);
            // Theirs is asked about the bytes that make a packet; where there is none yet, both wait.
            let theirs = match cut_version(&bytes, PACKET_BYTES_MAX, version) {
                Ok(Cut::Incomplete { .. }) => continue,
                _ => read_theirs(&bytes, version),
            };
            match (ours, theirs) {
                (Err(_), Err(_)) => agreed += 1,
                (Ok(ours), Ok(theirs)) => {
                    agreed += 1;
                    let back = theirs.write();
                    let (header, body) = cut_one(&back, version);
                    let again = meaning(version, header, body);
                    assert_eq!(again.as_ref(), Ok(&ours), "seed {seed}: {bytes:x?}");
                }
                (Err(error), Ok(_)) => {
                    assert!(
                        WE_REFUSE
                            .iter()
                            .any(|(statement, _)| *statement == error.statement),
                        "seed {seed}: {bytes:x?} is refused by us alone: {error}"
                    );
                    *refused_by_us.entry(error.statement).or_insert(0) += 1;
                }
                (Ok(ours), Err(error)) => {
                    let reason = THEY_REFUSE
                        .iter()
                        .find(|(of, text, _)| ours.starts_with(of) && error.contains(text));
                    let Some((of, text, _)) = reason else {
                        panic!(
                            "seed {seed}: {bytes:x?} is {ours} to us, and refused by them: {error}"
                        );
                    };
                    *refused_by_them.entry((of, text)).or_insert(0) += 1;
                }
            }
        }
    }
    // The lists hold nothing that does not happen, and most damage is judged alike.
    for (statement, reason) in WE_REFUSE {
        assert!(
            refused_by_us.contains_key(statement),
            "{statement} never happens: {reason}"
        );
    }
    for (of, text, reason) in THEY_REFUSE {
        assert!(
            refused_by_them.contains_key(&(of, text)),
            "{of}, {text} never happens: {reason}"
        );
    }
    let differing: u64 = refused_by_us.values().chain(refused_by_them.values()).sum();
    assert!(agreed > differing, "{agreed} agreed, {differing} differed");
}

/// What we refuse and they accept: the statement we name, and why it is for a server to refuse.
const WE_REFUSE: &[(&str, &str)] = &[
    ("MQTT-1.5.4-1", "they take a Topic Name for bytes"),
    ("MQTT-1.5.4-2", "they do not look for U+0000"),
    (
        "MQTT-2.1.3-1",
        "reserved flags of the fixed header: a receiver must close",
    ),
    ("MQTT-3.6.1-1", "the same for PUBREL, whose flags are 0010"),
    ("MQTT-3.8.1-1", "the same for SUBSCRIBE"),
    ("MQTT-3.10.1-1", "the same for UNSUBSCRIBE"),
    ("MQTT-3.14.1-1", "the same for DISCONNECT"),
    (
        "MQTT-2.2.1-3",
        "0 is no Packet Identifier; they look only in PUBLISH",
    ),
    (
        "MQTT-3.1.2-3",
        "the reserved Connect Flag: the server must close",
    ),
    ("MQTT-3.1.2-22", "3.1.1: a Password needs a User Name"),
    ("MQTT-3.2.2-1", "the reserved flags of CONNACK must be 0"),
    ("MQTT-3.2.2-6", "Session Present goes with success only"),
    ("MQTT-3.3.1-2", "DUP must be 0 with QoS 0"),
    ("MQTT-3.3.2-2", "wildcards in a Topic Name"),
    ("MQTT-3.3.2-8", "Topic Alias 0"),
    ("MQTT-3.3.2-14", "wildcards in a Response Topic"),
    (
        "MQTT-3.8.3-4",
        "3.1.1: a requested QoS above 2, reserved bits included, must be refused",
    ),
    ("MQTT-3.8.3-5", "reserved bits of the Subscription Options"),
    ("MQTT-3.10.3-2", "UNSUBSCRIBE has at least one Topic Filter"),
    ("MQTT-4.7.3-1", "a Topic Name has at least one character"),
    (
        "§2.2.2.2",
        "properties that are unknown, misplaced or repeated; they read on behind the Property Length, \
        and take the last of two",
    ),
    ("§3.1.2.11.3", "Receive Maximum 0 is a Protocol Error"),
    ("§3.1.2.11.4", "Maximum Packet Size 0 is a Protocol Error"),
    ("§3.1.2.11.6", "Request Response Information is 0 or 1"),
    ("§3.1.2.11.7", "Request Problem Information is 0 or 1"),
    ("§3.2.2.3.4", "Maximum QoS is 0 or 1"),
    ("§3.2.2.3.5", "Retain Available is 0 or 1"),
    ("§3.2.2.3.11", "Wildcard Subscription Available is 0 or 1"),
    ("§3.2.2.3.12", "Subscription Identifier Available is 0 or 1"),
    ("§3.2.2.3.13", "Shared Subscription Available is 0 or 1"),
    ("§3.3.2.1", "an empty Topic Name needs a Topic Alias"),
    ("§3.3.2.3.2", "Payload Format Indicator is 0 or 1"),
    (
        "§3.8.2.1.2",
        "Subscription Identifier 0 is a Protocol Error",
    ),
    ("§3.12.1", "PINGREQ and PINGRESP have no body"),
    (
        "§4.13.1",
        "bytes behind the last field, and fields that run past the Property Length: a packet that \
        cannot be parsed by the specification is malformed",
    ),
];

/// What they refuse and we accept: the packet, their words, and why it is valid.
const THEY_REFUSE: &[(&str, &str, &str)] = &[
    ("Auth", "InvalidPacketType", "they cannot read AUTH"),
    (
        "Connect",
        "TopicNotUtf8",
        "MQTT 5 §3.1.3.6: a Password is Binary Data, not a string",
    ),
    (
        "Disconnect",
        "InsufficientBytes",
        "MQTT 5 §3.14.2.2.1: below 2 bytes there is no Property Length",
    ),
    (
        "Disconnect",
        "PayloadRequired",
        "MQTT 5 §3.14.2.1: without a Reason Code it is 0x00",
    ),
];

/// A packet as they read it.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
enum Theirs {
    V4(v4::v4::Packet),
    V5(v5::v5::Packet),
}

fn read_theirs(bytes: &[u8], version: Version) -> Result<Theirs, String> {
    let mut stream = BytesMut::from(bytes);
    if version.is_v5() {
        let read = v5::v5::Packet::read(&mut stream, None);
        read.map(Theirs::V5).map_err(|error| format!("{error:?}"))
    } else {
        let read = v4::v4::Packet::read(&mut stream, PACKET_BYTES_MAX);
        read.map(Theirs::V4).map_err(|error| format!("{error:?}"))
    }
}

impl Theirs {
    fn write(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        match self {
            Self::V4(packet) => drop(packet.write(&mut out, PACKET_BYTES_MAX)),
            Self::V5(packet) => drop(packet.write(&mut out, None)),
        }
        out.to_vec()
    }

    /// The fields that matter most, one by one: a codec that is wrong both ways would not show in `write`.
    fn compare_fields(&self, bytes: &[u8], version: Version) {
        let (header, body) = cut_one(bytes, version);
        match (self, header.packet_type) {
            (Self::V5(v5::v5::Packet::Publish(theirs)), PacketType::Publish) => {
                let ours = Publish::decode_from_server(version, header.flags, body).expect("valid");
                assert_eq!(theirs.topic, ours.topic);
                assert_eq!(theirs.payload, ours.payload);
                assert_eq!(theirs.qos as u8, ours.qos as u8);
                assert_eq!((theirs.dup, theirs.retain), (ours.dup, ours.retain));
                assert_eq!(theirs.pkid, ours.packet_id.map_or(0, PacketId::get));
                if let Some(properties) = &theirs.properties {
                    let ours = &ours.properties;
                    assert_eq!(
                        properties.topic_alias,
                        ours.topic_alias.map(NonZeroU16::get)
                    );
                    assert_eq!(properties.message_expiry_interval, ours.message_expiry_s);
                    assert_eq!(
                        properties.content_type.as_deref(),
                        ours.forward.content_type()
                    );
                    assert_eq!(
                        properties.response_topic.as_deref(),
                        ours.forward.response_topic()
                    );
                    let data = properties.correlation_data.as_deref();
                    assert_eq!(data, ours.forward.correlation_data());
                }
            }
            (Self::V4(v4::v4::Packet::Publish(theirs)), PacketType::Publish) => {
                let ours = Publish::decode(version, header.flags, body).expect("valid");
                assert_eq!(theirs.topic, ours.topic);
                assert_eq!(theirs.payload, ours.payload);
                assert_eq!(theirs.qos as u8, ours.qos as u8);
                assert_eq!((theirs.dup, theirs.retain), (ours.dup, ours.retain));
                assert_eq!(theirs.pkid, ours.packet_id.map_or(0, PacketId::get));
            }
            (Self::V5(v5::v5::Packet::Connect(theirs, will, _)), PacketType::Connect) => {
                let ours = Connect::decode(body).expect("valid");
                assert_eq!(theirs.client_id, ours.client_id);
                assert_eq!(theirs.keep_alive, ours.keep_alive_s);
                assert_eq!(theirs.clean_start, ours.clean_start);
                let ours = ours
                    .will
                    .map(|will| (will.topic.to_owned(), will.qos as u8, will.retain));
                let theirs = will.as_ref().map(|will| {
                    let topic = String::from_utf8(will.topic.to_vec()).expect("UTF-8");
                    (topic, will.qos as u8, will.retain)
                });
                assert_eq!(theirs, ours);
            }
            (Self::V4(v4::v4::Packet::Connect(theirs)), PacketType::Connect) => {
                let ours = Connect::decode(body).expect("valid");
                assert_eq!(theirs.client_id, ours.client_id);
                assert_eq!(theirs.keep_alive, ours.keep_alive_s);
                assert_eq!(theirs.clean_session, ours.clean_start);
            }
            (Self::V5(v5::v5::Packet::Subscribe(theirs)), PacketType::Subscribe) => {
                let ours = Subscribe::decode(version, body).expect("valid");
                assert_eq!(theirs.pkid, ours.packet_id.get());
                let id = theirs
                    .properties
                    .as_ref()
                    .and_then(|properties| properties.id);
                assert_eq!(id, ours.subscription_id.map(|id| id.get() as usize));
                let filters = ours.filters().map(|(filter, options)| {
                    (
                        filter,
                        options.qos as u8,
                        options.no_local,
                        options.retain_as_published,
                    )
                });
                assert!(filters.eq(theirs.filters.iter().map(|filter| {
                    (
                        &filter.path[..],
                        filter.qos as u8,
                        filter.nolocal,
                        filter.preserve_retain,
                    )
                })));
            }
            (Self::V4(v4::v4::Packet::Subscribe(theirs)), PacketType::Subscribe) => {
                let ours = Subscribe::decode(version, body).expect("valid");
                assert_eq!(theirs.pkid, ours.packet_id.get());
                let filters = ours
                    .filters()
                    .map(|(filter, options)| (filter, options.qos as u8));
                assert!(
                    filters.eq(theirs
                        .filters
                        .iter()
                        .map(|filter| (&filter.path[..], filter.qos as u8)))
                );
            }
            _ => {}
        }
    }
}

fn cut_one(bytes: &[u8], version: Version) -> (FixedHeader, &[u8]) {
    match cut_version(bytes, PACKET_BYTES_MAX, version) {
        Ok(Cut::Packet { header, body, .. }) => (header, body),
        other => panic!("{bytes:x?} is no packet: {other:?}"),
    }
}

fn meaning_of(bytes: &[u8], version: Version) -> Result<String, DecodeError> {
    match cut_version(bytes, PACKET_BYTES_MAX, version)? {
        Cut::Packet { header, body, .. } => meaning(version, header, body),
        Cut::Incomplete { .. } => Ok("the beginning of a packet".into()),
    }
}

/// What a packet says, in words that do not depend on the order of its properties.
fn meaning(version: Version, header: FixedHeader, body: &[u8]) -> Result<String, DecodeError> {
    Ok(match header.packet_type {
        PacketType::Connect => {
            let connect = Connect::decode(body).map_err(|refused| refused.error)?;
            if connect.version != version {
                return Err(DecodeError::malformed(
                    "§3.1.2.2",
                    "another version than asked for",
                ));
            }
            let mut words = format!("{connect:?}");
            if let Some(will) = &connect.will {
                words += &sorted(&will.forward);
                words = words.replace(&format!("{:?}", will.forward), "…");
            }
            words
        }
        PacketType::Connack => format!("{:?}", Connack::decode(version, body)?),
        PacketType::Publish => {
            let publish = Publish::decode_from_server(version, header.flags, body)?;
            let forward = &publish.properties.forward;
            format!("{publish:?}").replace(&format!("{forward:?}"), "…") + &sorted(forward)
        }
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
            let ack = Ack::decode(version, header.packet_type, body)?;
            format!("{} {ack:?}", header.packet_type.name())
        }
        PacketType::Subscribe => {
            let subscribe = Subscribe::decode(version, body)?;
            let filters: Vec<_> = subscribe.filters().collect();
            let (id, user) = (subscribe.subscription_id, &subscribe.user);
            format!(
                "Subscribe {} {id:?} {user:?} {filters:?}",
                subscribe.packet_id.get()
            )
        }
        PacketType::Suback => format!("{:?}", Suback::decode(version, body)?),
        PacketType::Unsubscribe => {
            let unsubscribe = Unsubscribe::decode(version, body)?;
            let filters: Vec<_> = unsubscribe.filters().collect();
            format!(
                "Unsubscribe {} {:?} {filters:?}",
                unsubscribe.packet_id.get(),
                unsubscribe.user
            )
        }
        PacketType::Unsuback => format!("{:?}", Unsuback::decode(version, body)?),
        PacketType::Pingreq | PacketType::Pingresp => {
            ping::decode(body)?;
            header.packet_type.name().into()
        }
        PacketType::Disconnect => format!("{:?}", Disconnect::decode(version, body)?),
        PacketType::Auth => format!("{:?}", ringmq::protocol::Auth::decode(version, body)?),
    })
}

/// The properties that are passed on: User Properties in their order, the others by name.
fn sorted(forward: &Forward<'_>) -> String {
    let mut words: Vec<_> = forward
        .properties()
        .filter(|property| !matches!(property, Property::UserProperty(..)))
        .map(|property| format!("{property:?}"))
        .collect();
    words.sort();
    format!("{words:?} {:?}", forward.user().collect::<Vec<_>>())
}

/// Flips, drops, doubles and inserts bytes, and makes the Remaining Length fit again in most cases.
fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(2) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.choose(&[0, 1, 0x7F, 0x80, 0xFF, b'+', b'#', b'/']),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, random.below(256) as u8),
            4 => bytes.truncate(at),
            _ => bytes.extend_from_within(at..),
        }
        if bytes.len() < 2 {
            bytes.resize(2, 0);
        }
    }
    if bytes.len() <= 129 && random.below(8) > 0 {
        bytes[1] = (bytes.len() - 2) as u8;
    }
}

/// A valid packet that rumqttc can say too: no AUTH, no empty User Name or Password, no Password that is not text, and of
/// DISCONNECT neither a short form (see `THEY_REFUSE`) nor 0x8C, which §2.4 gives it and §3.14.2.1 does not list.
fn packet(random: &mut Random, version: Version) -> Vec<u8> {
    let is_v5 = version.is_v5();
    let mut out = Vec::new();
    let (mut user_raw, text, more) = (Vec::new(), random.text(), random.text());
    for _ in 0..random.below(3) {
        Property::UserProperty(&random.text(), &random.text()).put(&mut user_raw);
    }
    let user = if is_v5 {
        UserProperties::from_raw(&user_raw).expect("built so")
    } else {
        UserProperties::default()
    };
    match random.below(11) {
        0 => connect(random, version, user, &mut out),
        1 => connack(random, version, user, &mut out),
        2 | 3 => publish(random, version, &mut out),
        4 => {
            let packet_type = random.choose(&[
                PacketType::Puback,
                PacketType::Pubrec,
                PacketType::Pubrel,
                PacketType::Pubcomp,
            ]);
            let reason = if is_v5 {
                random.reason(packet_type)
            } else {
                ReasonCode::Success
            };
            let reason_string = (is_v5 && random.flag()).then_some(&text[..]);
            Ack {
                packet_id: random.packet_id(),
                reason,
                reason_string,
                user,
            }
            .encode(version, packet_type, &mut out);
        }
        5 => {
            let filters: Vec<_> = (0..=random.below(3))
                .map(|_| {
                    let mut options = SubscribeOptions::from_bits(random.below(48) as u8);
                    if let Some(options) = &mut options
                        && !is_v5
                    {
                        *options = SubscribeOptions {
                            qos: options.qos,
                            ..Default::default()
                        };
                    }
                    (
                        random.choose(&["a/+", "#", "x", "+/b"]),
                        options.unwrap_or_default(),
                    )
                })
                .collect();
            let id = NonZeroU32::new(random.below(300) as u32).filter(|_| is_v5);
            // rumqttc counts the bytes of an identifier twice, and so loses the property after it.
            let user = if id.is_some() {
                UserProperties::default()
            } else {
                user
            };
            Subscribe::encode(&mut out, version, random.packet_id(), id, &user, &filters);
        }
        6 => {
            let codes: Vec<u8> = (0..=random.below(3))
                .map(|_| match version {
                    Version::V5 => random.reason(PacketType::Suback) as u8,
                    _ => random.choose(&[0, 1, 2, 0x80]),
                })
                .collect();
            let reason_string = (is_v5 && random.flag()).then_some(&text[..]);
            Suback {
                packet_id: random.packet_id(),
                codes: &codes,
                reason_string,
                user,
            }
            .encode(version, &mut out);
        }
        7 => {
            let filters: Vec<_> = (0..=random.below(3))
                .map(|_| random.choose(&["a/+", "#", "x"]))
                .collect();
            Unsubscribe::encode(&mut out, version, random.packet_id(), &user, &filters);
        }
        8 => {
            let codes: Vec<u8> = (0..=random.below(3))
                .map(|_| random.reason(PacketType::Unsuback) as u8)
                .collect();
            let reason_string = (is_v5 && random.flag()).then_some(&text[..]);
            Unsuback {
                packet_id: random.packet_id(),
                codes: &codes,
                reason_string,
                user,
            }
            .encode(version, &mut out);
        }
        9 => match random.flag() {
            true => put_pingreq(&mut out),
            false => put_pingresp(&mut out),
        },
        _ => {
            let mut disconnect = Disconnect::new(ReasonCode::Success);
            if is_v5 {
                disconnect = Disconnect {
                    reason: match random.reason(PacketType::Disconnect) {
                        ReasonCode::BadAuthenticationMethod => ReasonCode::ProtocolError,
                        reason => reason,
                    },
                    session_expiry_s: random.flag().then(|| random.next() as u32),
                    reason_string: Some(&text),
                    server_reference: random.flag().then_some(&more),
                    user,
                };
            }
            disconnect.encode(version, &mut out);
        }
    }
    out
}

fn connect(random: &mut Random, version: Version, user: UserProperties<'_>, out: &mut Vec<u8>) {
    let is_v5 = version.is_v5();
    let texts: [String; 4] = std::array::from_fn(|_| random.text());
    let payload = random.bytes();
    let forward_raw = forward(random, is_v5);
    let will = random.flag().then(|| Will {
        qos: random.qos(),
        retain: random.flag(),
        topic: random.choose(&["w", "a/b"]),
        payload: &payload,
        delay_s: if is_v5 { random.below(3) as u32 } else { 0 },
        message_expiry_s: (is_v5 && random.flag()).then(|| random.next() as u32),
        forward: Forward::from_raw(&forward_raw).expect("built so"),
    });
    let mut properties = ConnectProperties::default();
    if is_v5 {
        let method = random.flag();
        properties = ConnectProperties {
            session_expiry_s: random.flag().then(|| random.next() as u32),
            receive_maximum: NonZeroU16::new(random.below(3) as u16),
            packet_bytes_max: NonZeroU32::new(random.below(3) as u32),
            topic_alias_maximum: random.below(3) as u16,
            request_response_information: random.flag(),
            request_problem_information: random.flag(),
            authentication_method: method.then_some(&texts[0]),
            authentication_data: (method && random.flag()).then_some(texts[1].as_bytes()),
            user,
        };
    }
    let has_login = random.flag();
    Connect {
        version,
        clean_start: random.flag(),
        keep_alive_s: random.next() as u16,
        client_id: &texts[2],
        will,
        username: has_login.then_some("user"),
        password: (has_login && random.flag()).then_some(b"password"),
        properties,
    }
    .encode(out);
}

fn connack(random: &mut Random, version: Version, user: UserProperties<'_>, out: &mut Vec<u8>) {
    let texts: [String; 5] = std::array::from_fn(|_| random.text());
    let data = random.bytes();
    let reason = match version {
        Version::V5 => random.reason(PacketType::Connack),
        _ => random.choose(&[ReasonCode::Success, ReasonCode::NotAuthorized]),
    };
    let mut properties = ConnackProperties::default();
    if version.is_v5() {
        let mut some = |at: usize| random.flag().then_some(&texts[at][..]);
        let [assigned, text, information, reference, method] = std::array::from_fn(&mut some);
        properties = ConnackProperties {
            session_expiry_s: random.flag().then(|| random.next() as u32),
            receive_maximum: NonZeroU16::new(random.below(3) as u16),
            qos_maximum: random.qos(),
            retain_available: random.flag(),
            packet_bytes_max: NonZeroU32::new(random.below(3) as u32),
            assigned_client_id: assigned,
            topic_alias_maximum: random.below(3) as u16,
            reason_string: text,
            wildcard_subscription_available: random.flag(),
            subscription_ids_available: random.flag(),
            shared_subscription_available: random.flag(),
            server_keep_alive_s: random.flag().then(|| random.next() as u16),
            response_information: information,
            server_reference: reference,
            authentication_method: method,
            authentication_data: random.flag().then_some(&data),
            user,
        };
    }
    let session_present = random.flag() && !reason.is_failure();
    Connack {
        session_present,
        reason,
        properties,
    }
    .encode(version, out);
}

fn publish(random: &mut Random, version: Version, out: &mut Vec<u8>) {
    let is_v5 = version.is_v5();
    let qos = random.qos();
    let payload = random.bytes();
    let forward_raw = forward(random, is_v5);
    let topic_alias = NonZeroU16::new(random.below(3) as u16).filter(|_| is_v5);
    Publish {
        dup: qos != QoS::AtMostOnce && random.flag(),
        qos,
        retain: random.flag(),
        topic: if topic_alias.is_some() && random.flag() {
            ""
        } else {
            "a/b"
        },
        packet_id: (qos != QoS::AtMostOnce).then(|| random.packet_id()),
        properties: PublishProperties {
            topic_alias,
            message_expiry_s: (is_v5 && random.flag()).then(|| random.next() as u32),
            forward: Forward::from_raw(&forward_raw).expect("built so"),
            ..PublishProperties::default()
        },
        payload: &payload,
    }
    .encode(version, out);
}

fn forward(random: &mut Random, is_v5: bool) -> Vec<u8> {
    let mut raw = Vec::new();
    if !is_v5 {
        return raw;
    }
    if random.flag() {
        Property::PayloadFormatIndicator(random.flag()).put(&mut raw);
    }
    if random.flag() {
        Property::ContentType(&random.text()).put(&mut raw);
    }
    for _ in 0..random.below(3) {
        Property::UserProperty(&random.text(), &random.text()).put(&mut raw);
    }
    if random.flag() {
        Property::ResponseTopic("r/t").put(&mut raw);
    }
    if random.flag() {
        Property::CorrelationData(&random.bytes()).put(&mut raw);
    }
    raw
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn qos(&mut self) -> QoS {
        self.choose(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
    }

    fn packet_id(&mut self) -> PacketId {
        PacketId::new(self.next() as u16).unwrap_or(PacketId::MIN)
    }

    fn reason(&mut self, of: PacketType) -> ReasonCode {
        loop {
            let reason = ReasonCode::from_u8(self.next() as u8);
            if let Some(reason) = reason.filter(|reason| reason.valid_in(of)) {
                return reason;
            }
        }
    }

    fn text(&mut self) -> String {
        let length = self.below(5);
        (0..length)
            .map(|_| self.choose(&['a', 'b', '/', '\u{e9}', '\u{20ac}', '\u{1f980}']))
            .collect()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.below(9);
        (0..length).map(|_| self.next() as u8).collect()
    }
}

//! Any packet that can be built, encoded and decoded again, in every version.
//!
//! Input: packets, one after the other, each a byte for its kind, one for the version, and its fields.
//!
//! What must hold: what decodes is what was encoded, less what the version cannot say.

use crate::decode_packet::again;
use crate::input::Input;
use crate::text::{VERSIONS, any_filter, binary, string, topic};
use ringmq::protocol::frame::{Cut, PACKET_BYTES_MAX, cut_version};
use ringmq::protocol::{
    Ack, Auth, Connack, ConnackProperties, Connect, ConnectProperties, Disconnect, Forward,
    PacketId, PacketType, Property, Publish, PublishProperties, QoS, ReasonCode, Suback, Subscribe,
    SubscribeOptions, Unsuback, Unsubscribe, UserProperties, Version, Will,
};
use std::num::{NonZeroU16, NonZeroU32};

/// Packets of one input, at most.
const PACKETS_MAX: usize = 16;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    for _ in 0..PACKETS_MAX {
        if input.is_empty() {
            return;
        }
        packet(&mut input);
    }
}

fn packet(input: &mut Input<'_>) {
    let kind = input.below(11);
    let version = input.choose(&VERSIONS);
    let v5 = version.is_v5();
    let user_raw = if v5 { user(input) } else { Vec::new() };
    let user = UserProperties::from_raw(&user_raw).expect("they were built as User Properties");
    match kind {
        0 => connect(input, version, user),
        1 => connack(input, version, user),
        2 => publish(input, version),
        3 => ack(input, version, user),
        4 => subscribe(input, version, &user),
        5 => {
            let count = 1 + input.below(5);
            let codes = codes(input, version, PacketType::Suback, count);
            let text = string(input);
            let suback = Suback {
                packet_id: packet_id(input),
                codes: &codes,
                reason_string: (v5 && input.flag()).then_some(&text),
                user,
            };
            again!(
                version,
                suback,
                |out: &mut Vec<u8>| suback.encode(version, out),
                |header, body| Suback::decode(version, body)
            );
        }
        6 => {
            let filters: Vec<_> = (0..1 + input.below(5)).map(|_| any_filter(input)).collect();
            let filters: Vec<_> = filters.iter().map(String::as_str).collect();
            let id = packet_id(input);
            let mut bytes = Vec::new();
            Unsubscribe::encode(&mut bytes, version, id, &user, &filters);
            let body = body_of(&bytes, version);
            let unsubscribe = Unsubscribe::decode(version, body).expect("encoded just now");
            assert_eq!(unsubscribe.packet_id, id);
            assert_eq!(unsubscribe.user, user);
            assert!(unsubscribe.filters().eq(filters));
        }
        7 => {
            let count = 1 + input.below(5);
            let codes = codes(input, version, PacketType::Unsuback, count);
            let text = string(input);
            let unsuback = Unsuback {
                packet_id: packet_id(input),
                codes: if v5 { &codes } else { &[] },
                reason_string: (v5 && input.flag()).then_some(&text),
                user,
            };
            again!(
                version,
                unsuback,
                |out: &mut Vec<u8>| unsuback.encode(version, out),
                |header, body| Unsuback::decode(version, body)
            );
        }
        8 => {
            let (text, server) = (string(input), string(input));
            let disconnect = if v5 {
                Disconnect {
                    reason: reason(input, PacketType::Disconnect),
                    session_expiry_s: some(input, Input::u32),
                    reason_string: input.flag().then_some(&text),
                    server_reference: input.flag().then_some(&server),
                    user,
                }
            } else {
                Disconnect::new(ReasonCode::Success)
            };
            again!(
                version,
                disconnect,
                |out: &mut Vec<u8>| disconnect.encode(version, out),
                |header, body| Disconnect::decode(version, body)
            );
        }
        9 => {
            let (method, data, text) = (string(input), binary(input), string(input));
            let auth = Auth {
                reason: reason(input, PacketType::Auth),
                method: Some(&method),
                data: input.flag().then_some(&data),
                reason_string: input.flag().then_some(&text),
                user,
            };
            let spoken = Version::V5;
            again!(
                spoken,
                auth,
                |out: &mut Vec<u8>| auth.encode(out),
                |header, body| { Auth::decode(spoken, body) }
            );
        }
        _ => {
            for put in [
                ringmq::protocol::put_pingreq,
                ringmq::protocol::put_pingresp,
            ] {
                let mut bytes = Vec::new();
                put(&mut bytes);
                ringmq::protocol::ping::decode(body_of(&bytes, version)).expect("no body");
            }
        }
    }
}

fn connect(input: &mut Input<'_>, version: Version, user: UserProperties<'_>) {
    let v5 = version.is_v5();
    let (client_id, username, method) = (string(input), string(input), string(input));
    let (password, data, payload) = (binary(input), binary(input), binary(input));
    let will_topic = topic(input);
    let forward_raw = if v5 { forward(input) } else { Vec::new() };
    let flags = input.byte();
    let will = (flags & 1 != 0).then(|| Will {
        qos: qos(input),
        retain: input.flag(),
        topic: &will_topic,
        payload: &payload,
        delay_s: if v5 { input.u32() } else { 0 },
        message_expiry_s: some(input, Input::u32).filter(|_| v5),
        forward: Forward::from_raw(&forward_raw).expect("built so"),
    });
    let properties = if v5 {
        let with_method = flags & 2 != 0;
        ConnectProperties {
            session_expiry_s: some(input, Input::u32),
            receive_maximum: NonZeroU16::new(input.u16()),
            packet_bytes_max: NonZeroU32::new(input.u32()),
            topic_alias_maximum: input.u16(),
            request_response_information: input.flag(),
            request_problem_information: input.flag(),
            authentication_method: with_method.then_some(&method),
            authentication_data: (with_method && flags & 4 != 0).then_some(&data),
            user,
        }
    } else {
        ConnectProperties::default()
    };
    let has_username = flags & 8 != 0;
    let connect = Connect {
        version,
        clean_start: flags & 16 != 0,
        keep_alive_s: input.u16(),
        client_id: &client_id,
        will,
        username: has_username.then_some(&username),
        password: (flags & 32 != 0 && (v5 || has_username)).then_some(&password),
        properties,
    };
    again!(
        version,
        connect,
        |out: &mut Vec<u8>| connect.encode(out),
        |header, body| { Connect::decode(body) }
    );
}

fn connack(input: &mut Input<'_>, version: Version, user: UserProperties<'_>) {
    let texts: [String; 5] = std::array::from_fn(|_| string(input));
    let data = binary(input);
    if !version.is_v5() {
        let reason = reason(input, PacketType::Connack);
        let session_present = input.flag() && !reason.is_failure();
        let mut bytes = Vec::new();
        Connack {
            session_present,
            reason,
            properties: ConnackProperties::default(),
        }
        .encode(version, &mut bytes);
        let decoded = Connack::decode(version, body_of(&bytes, version)).expect("encoded just now");
        assert_eq!(decoded.reason.is_failure(), reason.is_failure());
        assert_eq!(
            decoded.session_present,
            session_present && version != Version::V31
        );
        return;
    }
    let reason = reason(input, PacketType::Connack);
    let flags = input.u16();
    let text = |at: usize| (flags & 1 << at != 0).then_some(texts[at].as_str());
    let connack = Connack {
        session_present: input.flag() && !reason.is_failure(),
        reason,
        properties: ConnackProperties {
            session_expiry_s: some(input, Input::u32),
            receive_maximum: NonZeroU16::new(input.u16()),
            qos_maximum: qos(input),
            retain_available: input.flag(),
            packet_bytes_max: NonZeroU32::new(input.u32()),
            assigned_client_id: text(0),
            topic_alias_maximum: input.u16(),
            reason_string: text(1),
            wildcard_subscription_available: input.flag(),
            subscription_ids_available: input.flag(),
            shared_subscription_available: input.flag(),
            server_keep_alive_s: some(input, Input::u16),
            response_information: text(2),
            server_reference: text(3),
            authentication_method: text(4),
            authentication_data: (flags & 1 << 5 != 0).then_some(&data),
            user,
        },
    };
    again!(
        version,
        connack,
        |out: &mut Vec<u8>| connack.encode(version, out),
        |header, body| Connack::decode(version, body)
    );
}

fn publish(input: &mut Input<'_>, version: Version) {
    let v5 = version.is_v5();
    let qos = qos(input);
    let name = topic(input);
    let payload = binary(input);
    let forward_raw = if v5 { forward(input) } else { Vec::new() };
    let topic_alias = NonZeroU16::new(input.u16()).filter(|_| v5);
    let publish = Publish {
        dup: input.flag() && qos != QoS::AtMostOnce,
        qos,
        retain: input.flag(),
        topic: if topic_alias.is_some() && input.flag() {
            ""
        } else {
            &name
        },
        packet_id: (qos != QoS::AtMostOnce).then(|| packet_id(input)),
        properties: PublishProperties {
            topic_alias,
            message_expiry_s: some(input, Input::u32).filter(|_| v5),
            forward: Forward::from_raw(&forward_raw).expect("built so"),
            ..PublishProperties::default()
        },
        payload: &payload,
    };
    again!(
        version,
        publish,
        |out: &mut Vec<u8>| publish.encode(version, out),
        |header, body| Publish::decode(version, header.flags, body)
    );
}

fn ack(input: &mut Input<'_>, version: Version, user: UserProperties<'_>) {
    let packet_type = input.choose(&[
        PacketType::Puback,
        PacketType::Pubrec,
        PacketType::Pubrel,
        PacketType::Pubcomp,
    ]);
    let text = string(input);
    let v5 = version.is_v5();
    let ack = Ack {
        packet_id: packet_id(input),
        reason: if v5 {
            reason(input, packet_type)
        } else {
            ReasonCode::Success
        },
        reason_string: (v5 && input.flag()).then_some(&text),
        user,
    };
    again!(
        version,
        ack,
        |out: &mut Vec<u8>| ack.encode(version, packet_type, out),
        |header, body| Ack::decode(version, header.packet_type, body)
    );
}

fn subscribe(input: &mut Input<'_>, version: Version, user: &UserProperties<'_>) {
    let filters: Vec<(String, SubscribeOptions)> = (0..1 + input.below(5))
        .map(|_| {
            let filter = any_filter(input);
            let mut options = SubscribeOptions::from_bits(input.byte()).unwrap_or_default();
            options.no_local &= !filter.starts_with("$share/");
            if !version.is_v5() {
                options = SubscribeOptions {
                    qos: options.qos,
                    ..SubscribeOptions::default()
                };
            }
            (filter, options)
        })
        .collect();
    let filters: Vec<_> = filters
        .iter()
        .map(|(filter, options)| (&filter[..], *options))
        .collect();
    let id = packet_id(input);
    let subscription_id = NonZeroU32::new(input.u32() & 0x0FFF_FFFF).filter(|_| version.is_v5());
    let mut bytes = Vec::new();
    Subscribe::encode(&mut bytes, version, id, subscription_id, user, &filters);
    let subscribe = Subscribe::decode(version, body_of(&bytes, version)).expect("encoded just now");
    assert_eq!(subscribe.packet_id, id);
    assert_eq!(subscribe.subscription_id, subscription_id);
    assert_eq!(subscribe.user, *user);
    assert!(subscribe.filters().eq(filters));
}

fn body_of(bytes: &[u8], version: Version) -> &[u8] {
    match cut_version(bytes, PACKET_BYTES_MAX, version) {
        Ok(Cut::Packet { body, len, .. }) => {
            assert_eq!(len, bytes.len());
            body
        }
        other => panic!("{bytes:x?} is no packet: {other:?}"),
    }
}

fn codes(input: &mut Input<'_>, version: Version, of: PacketType, count: usize) -> Vec<u8> {
    (0..count)
        .map(|_| {
            if version.is_v5() {
                reason(input, of) as u8
            } else {
                input.choose(&[0, 1, 2, 0x80])
            }
        })
        .collect()
}

fn reason(input: &mut Input<'_>, of: PacketType) -> ReasonCode {
    let start = input.byte();
    (0..=u8::MAX)
        .filter_map(|step| ReasonCode::from_u8(start.wrapping_add(step)))
        .find(|reason| reason.valid_in(of))
        .expect("every packet with Reason Codes has one")
}

fn packet_id(input: &mut Input<'_>) -> PacketId {
    PacketId::new(input.u16()).unwrap_or(PacketId::MIN)
}

fn qos(input: &mut Input<'_>) -> QoS {
    input.choose(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn some<'a, T>(input: &mut Input<'a>, read: impl FnOnce(&mut Input<'a>) -> T) -> Option<T> {
    input.flag().then(|| read(input))
}

/// User Properties, encoded.
pub fn user(input: &mut Input<'_>) -> Vec<u8> {
    let mut raw = Vec::new();
    for _ in 0..input.below(4) {
        Property::UserProperty(&string(input), &string(input)).put(&mut raw);
    }
    raw
}

/// Properties that a server passes on, encoded, in some order.
pub fn forward(input: &mut Input<'_>) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut seen = 0_u8;
    for _ in 0..input.below(6) {
        let kind = input.below(5);
        if kind < 4 && seen & 1 << kind != 0 {
            continue;
        }
        seen |= 1 << kind;
        match kind {
            0 => Property::PayloadFormatIndicator(input.flag()).put(&mut raw),
            1 => Property::ContentType(&string(input)).put(&mut raw),
            2 => Property::ResponseTopic(&topic(input)).put(&mut raw),
            3 => Property::CorrelationData(&binary(input)).put(&mut raw),
            _ => Property::UserProperty(&string(input), &string(input)).put(&mut raw),
        }
    }
    raw
}

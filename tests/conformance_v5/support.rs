//! What the tests of MQTT 5.0 share beyond the harness: clients, subscriptions, and the ways in
//! which a broker may end a connection.

use crate::common::*;

/// Subscription option: not my own messages.
pub(crate) const NO_LOCAL: u8 = 0x04;
/// Subscription option: RETAIN as the publisher set it.
pub(crate) const RETAIN_AS_PUBLISHED: u8 = 0x08;
/// Retain Handling 1: retained messages only for a subscription that is new.
pub(crate) const RETAINED_IF_NEW: u8 = 0x10;
/// Retain Handling 2: no retained messages.
pub(crate) const RETAINED_NEVER: u8 = 0x20;

/// Malformed Packet.
pub(crate) const MALFORMED: u8 = 0x81;
/// Protocol Error.
pub(crate) const PROTOCOL_ERROR: u8 = 0x82;

/// Byte sequences that are not UTF-8: a surrogate, an overlong form, bytes that never occur, a
/// character cut short, a code point above U+10FFFF.
pub(crate) const ILL_FORMED: [&[u8]; 5] = [
    b"a\xed\xa0\x80",
    b"a\xc0\xaf",
    b"a\xff\xfe",
    b"a\xe2\x82",
    b"a\xf4\x90\x80\x80",
];

// ---- clients ---------------------------------------------------------------------------------

/// A client with a session that ends with its connection.
#[track_caller]
pub(crate) fn client(broker: &Broker) -> Raw {
    Raw::v5(broker, &unique("c"))
}

/// A client that is connected with these properties.
#[track_caller]
pub(crate) fn client_with(broker: &Broker, properties: impl AsRef<[u8]>) -> Raw {
    Raw::connect(broker, &Connect::v5(unique("c")).properties(properties))
}

/// A new client with a subscription to `filter`; the low bits of `options` are its QoS.
#[track_caller]
pub(crate) fn subscriber(broker: &Broker, filter: &str, options: u8) -> Raw {
    let mut client = client(broker);
    assert_eq!(client.subscribe(&[(filter, options)]), [options & 3]);
    client
}

/// A client with the smallest Maximum Packet Size that has room for the server's CONNACK; and this
/// size in bytes. Smaller ones may get no connection, as a packet that is too large is not sent.
#[track_caller]
pub(crate) fn client_with_little_room(broker: &Broker) -> (Raw, usize) {
    let mut first = Raw::open(broker);
    first.send_connect(&Connect::v5(unique("c")));
    let room = first.read_packet().bytes().len();
    let limit = u32::try_from(room).expect("four bytes");
    (client_with(broker, packet_size_max(limit)), room)
}

/// A CONNECT that resumes a session, and keeps it for `expiry_s` after the connection.
pub(crate) fn keeping_s(client_id: &str, expiry_s: u32) -> Connect {
    Connect::v5(client_id)
        .clean(false)
        .properties(session_expiry_s(expiry_s))
}

/// A CONNECT that resumes a session, and keeps it for longer than any test.
pub(crate) fn keeping(client_id: &str) -> Connect {
    keeping_s(client_id, 600)
}

/// Whether the broker has a session for `client_id`; it has none afterwards.
#[track_caller]
pub(crate) fn has_session(broker: &Broker, client_id: &str) -> bool {
    let (client, connack) = Raw::session(broker, &keeping_s(client_id, 0));
    client.disconnect();
    connack.session_present
}

// ---- properties ------------------------------------------------------------------------------

pub(crate) fn session_expiry_s(seconds: u32) -> Vec<u8> {
    prop::four(prop::SESSION_EXPIRY_INTERVAL, seconds)
}

pub(crate) fn message_expiry_s(seconds: u32) -> Vec<u8> {
    prop::four(prop::MESSAGE_EXPIRY_INTERVAL, seconds)
}

pub(crate) fn will_delay_s(seconds: u32) -> Vec<u8> {
    prop::four(prop::WILL_DELAY_INTERVAL, seconds)
}

pub(crate) fn receive_maximum(count: u16) -> Vec<u8> {
    prop::two(prop::RECEIVE_MAXIMUM, count)
}

pub(crate) fn packet_size_max(bytes: u32) -> Vec<u8> {
    prop::four(prop::MAXIMUM_PACKET_SIZE, bytes)
}

pub(crate) fn topic_alias(alias: u16) -> Vec<u8> {
    prop::two(prop::TOPIC_ALIAS, alias)
}

pub(crate) fn topic_alias_maximum(count: u16) -> Vec<u8> {
    prop::two(prop::TOPIC_ALIAS_MAXIMUM, count)
}

pub(crate) fn subscription_id(id: usize) -> Vec<u8> {
    prop::var(prop::SUBSCRIPTION_IDENTIFIER, id)
}

// ---- operations ------------------------------------------------------------------------------

/// Publishes `message` with QoS 1 or 2 and returns the Reason Code of PUBACK or PUBREC; the exchange
/// is complete.
#[track_caller]
pub(crate) fn publish_reason(client: &mut Raw, message: Publish, qos: u8) -> u8 {
    let id = client.next_id();
    client.send(&message.qos(qos, id).encode());
    let first = client.wait_for_ack(if qos == 1 { PUBACK } else { PUBREC });
    assert_eq!(first.id, id);
    if qos == 2 && first.reason < 0x80 {
        client.send(&ack(PUBREL, id));
        assert_eq!(client.wait_for_ack(PUBCOMP).id, id);
    }
    first.reason
}

/// Subscribes with properties; returns SUBACK. Messages that come before it are kept.
#[track_caller]
pub(crate) fn subscribe_properties(
    client: &mut Raw,
    properties: &[u8],
    filters: &[(&str, u8)],
) -> Suback {
    let id = client.next_id();
    client.send(&subscribe_with(Version::V5, id, properties, filters));
    let suback = client.wait_for(SUBACK).suback(Version::V5);
    assert_eq!(suback.id, id);
    suback
}

/// Proves that nothing else is on its way to `subscriber` from `publisher`, whose order the broker
/// keeps: a last message on `topic` with `qos` is the next that comes.
#[track_caller]
pub(crate) fn nothing_else(subscriber: &mut Raw, publisher: &mut Raw, topic: &str, qos: u8) {
    publisher.publish(topic, qos, "sentinel");
    let next = subscriber.take_publish();
    assert_eq!(
        next.text(),
        "sentinel",
        "came before the sentinel: {next:?}"
    );
}

/// Connects with the client identifier of a connection that has ended, or ends it, and publishes on
/// `topic`: whatever the broker does at the end of the old one has been done before.
#[track_caller]
pub(crate) fn sentinel_from_successor(broker: &Broker, client_id: &str, topic: &str) {
    Raw::v5(broker, client_id).publish(topic, 1, "sentinel");
}

/// What a new subscriber to `filter` gets first: the retained message, or `None`.
///
/// Absence is proved by a message that is published after the subscription, on `sentinel_topic`,
/// which must match `filter`.
#[track_caller]
pub(crate) fn retained(broker: &Broker, filter: &str, sentinel_topic: &str) -> Option<Received> {
    let mut client = client(broker);
    assert_eq!(client.subscribe(&[(filter, 2)]), [2]);
    let sentinel = unique("sentinel");
    client.send(&Publish::v5(sentinel_topic, &sentinel).encode());
    // That of an earlier call may be on its way to this client's core still, where somebody has subscribed to everything.
    let is_earlier = |it: &Received| it.text().starts_with("sentinel") && it.text() != sentinel;
    let first = loop {
        let next = client.take_publish();
        if !is_earlier(&next) || next.retain {
            break next;
        }
    };
    if first.text() == sentinel {
        assert!(!first.retain, "a live message came with RETAIN set");
        return None;
    }
    assert!(
        first.retain,
        "a retained message came without RETAIN: {first:?}"
    );
    Some(first)
}

// ---- ends ------------------------------------------------------------------------------------

/// Sends `bytes` on a new connection; the broker must close it, and may say why in a CONNACK with
/// one of `codes`.
#[track_caller]
pub(crate) fn refuses(broker: &Broker, bytes: &[u8], codes: &[u8]) {
    let mut raw = Raw::open(broker);
    raw.try_send(bytes);
    let sent = raw
        .try_closed_within(ARRIVES)
        .unwrap_or_else(|sent| panic!("still open after {bytes:02x?}; sent {sent:02x?}"));
    let says_no = |packet: &Packet| {
        packet.kind() == CONNACK
            && packet.body.first() == Some(&0)
            && packet.body.get(1).is_some_and(|code| codes.contains(code))
    };
    assert!(
        sent.len() <= 1 && sent.iter().all(says_no),
        "answered {bytes:02x?} with {sent:02x?}"
    );
}

/// Sends `bytes` on a new connection; the broker must close it without a packet.
#[track_caller]
pub(crate) fn refuses_quietly(broker: &Broker, bytes: &[u8]) {
    refuses(broker, bytes, &[]);
}

/// Sends `connect`; returns the CONNACK with which the broker must refuse it before it closes.
#[track_caller]
pub(crate) fn refused(broker: &Broker, connect: &Connect) -> Connack {
    let mut raw = Raw::open(broker);
    raw.send_connect(connect);
    let connack = raw.read_connack();
    assert!(connack.code >= 0x80, "{connect:?} was granted");
    raw.expect_closed_quietly();
    connack
}

/// Sends `bytes` after a CONNECT of MQTT 5.0; the broker must send DISCONNECT with one of `reasons`
/// and close.
#[track_caller]
pub(crate) fn ends(broker: &Broker, bytes: &[u8], reasons: &[u8]) {
    let mut client = client(broker);
    client.try_send(bytes);
    let sent = client
        .try_closed_within(ARRIVES)
        .unwrap_or_else(|sent| panic!("still open after {bytes:02x?}; sent {sent:02x?}"));
    let reason = sent
        .last()
        .filter(|packet| packet.kind() == DISCONNECT)
        .map(|packet| packet.disconnect().reason);
    assert!(
        reason.is_some_and(|reason| reasons.contains(&reason)),
        "after {bytes:02x?}: wanted DISCONNECT with one of {reasons:02x?}, got {sent:02x?}"
    );
}

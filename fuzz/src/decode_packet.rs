//! One packet from arbitrary bytes, as a server and as a client would read it.
//!
//! Input: a byte whose lowest bits choose the version, then the bytes of the connection.
//!
//! What must hold: nothing panics; what is refused names its reason; what is accepted can be
//! encoded again, and that decodes to the same.

use crate::text::VERSIONS;
use ringmq::protocol::frame::{Cut, FixedHeader, PACKET_BYTES_MAX, cut_version};
use ringmq::protocol::publish::PublishHead;
use ringmq::protocol::{
    Ack, Auth, Connack, Connect, DecodeError, Disconnect, PacketType, Publish, Suback, Subscribe,
    Unsuback, Unsubscribe, Version, ping,
};

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((&mode, bytes)) = data.split_first() else {
        return;
    };
    let version = VERSIONS[usize::from(mode) % 3];
    let packet_bytes_max = if mode & 0x80 == 0 {
        PACKET_BYTES_MAX
    } else {
        64
    };
    match cut_version(bytes, packet_bytes_max, version) {
        Err(error) => check_error(&error),
        Ok(Cut::Incomplete { need }) => {
            assert!(need > bytes.len());
            assert!(need <= packet_bytes_max.max(5));
        }
        Ok(Cut::Packet { header, body, len }) => {
            assert!(len <= packet_bytes_max);
            assert!(bytes[..len].ends_with(body));
            check_prefixes(&bytes[..len], packet_bytes_max, version);
            if let Err(error) = decode(version, header, body) {
                check_error(&error);
            }
        }
    }
}

fn check_error(error: &DecodeError) {
    assert!(error.reason.is_failure());
    assert!(error.statement.starts_with("MQTT-") || error.statement.starts_with('§'));
    assert!(!error.what.is_empty());
}

/// No part of a packet is another packet, and what is needed is never more than the whole.
fn check_prefixes(packet: &[u8], packet_bytes_max: usize, version: Version) {
    for len in (0..packet.len()).take(8).chain([packet.len() - 1]) {
        match cut_version(&packet[..len], packet_bytes_max, version) {
            Ok(Cut::Incomplete { need }) => assert!(need > len && need <= packet.len()),
            other => panic!("{len} bytes of {packet:x?} are {other:?}"),
        }
    }
}

/// Encodes with `$encode`, decodes with `$decode`, and compares with `$packet`.
macro_rules! again {
    ($version:ident, $packet:expr, $encode:expr, |$header:ident, $body:ident| $decode:expr) => {{
        let mut bytes = vec![0xEE];
        $encode(&mut bytes);
        let $header;
        let $body;
        match cut_version(&bytes[1..], PACKET_BYTES_MAX, $version) {
            Ok(Cut::Packet { header, body, len }) => {
                assert_eq!(len, bytes.len() - 1);
                ($header, $body) = (header, body);
            }
            other => panic!("{:?} is encoded as {bytes:x?}: {other:?}", $packet),
        }
        let _ = $header;
        match $decode {
            Ok(decoded) => assert_eq!(decoded, $packet),
            Err(error) => panic!("{:?} is encoded as {bytes:x?}: {error}", $packet),
        }
        let mut twice = vec![0xEE];
        $encode(&mut twice);
        assert_eq!(bytes, twice);
    }};
}
pub(crate) use again;

fn decode(version: Version, header: FixedHeader, body: &[u8]) -> Result<(), DecodeError> {
    match header.packet_type {
        PacketType::Connect => {
            let connect = Connect::decode(body).map_err(|refused| refused.error)?;
            let spoken = connect.version;
            again!(
                spoken,
                connect,
                |out: &mut Vec<u8>| connect.encode(out),
                |header, body| { Connect::decode(body) }
            );
        }
        PacketType::Connack => {
            let connack = Connack::decode(version, body)?;
            again!(
                version,
                connack,
                |out: &mut Vec<u8>| connack.encode(version, out),
                |header, body| Connack::decode(version, body)
            );
        }
        PacketType::Publish => {
            let as_server = Publish::decode(version, header.flags, body);
            let publish = Publish::decode_from_server(version, header.flags, body)?;
            if let Ok(as_server) = as_server {
                assert_eq!(as_server, publish);
                check_head(version, &publish);
            }
            let forward = publish.properties.forward;
            let raw: Vec<u8> = forward.slices().flatten().copied().collect();
            assert_eq!(raw.len(), forward.len());
            assert_eq!(raw.is_empty(), forward.is_empty());
            assert_eq!(
                ringmq::protocol::Forward::from_raw(&raw).expect("it was taken from a packet"),
                forward
            );
            again!(
                version,
                publish,
                |out: &mut Vec<u8>| publish.encode(version, out),
                |header, body| Publish::decode_from_server(version, header.flags, body)
            );
        }
        PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
            let ack = Ack::decode(version, header.packet_type, body)?;
            again!(
                version,
                ack,
                |out: &mut Vec<u8>| ack.encode(version, header.packet_type, out),
                |again, body| Ack::decode(version, again.packet_type, body)
            );
        }
        PacketType::Subscribe => {
            let subscribe = Subscribe::decode(version, body)?;
            let filters: Vec<_> = subscribe.filters().collect();
            assert!(!filters.is_empty());
            again!(
                version,
                subscribe,
                |out: &mut Vec<u8>| Subscribe::encode(
                    out,
                    version,
                    subscribe.packet_id,
                    subscribe.subscription_id,
                    &subscribe.user,
                    &filters
                ),
                |header, body| Subscribe::decode(version, body)
            );
        }
        PacketType::Suback => {
            let suback = Suback::decode(version, body)?;
            again!(
                version,
                suback,
                |out: &mut Vec<u8>| suback.encode(version, out),
                |header, body| Suback::decode(version, body)
            );
        }
        PacketType::Unsubscribe => {
            let unsubscribe = Unsubscribe::decode(version, body)?;
            let filters: Vec<_> = unsubscribe.filters().collect();
            assert!(!filters.is_empty());
            again!(
                version,
                unsubscribe,
                |out: &mut Vec<u8>| Unsubscribe::encode(
                    out,
                    version,
                    unsubscribe.packet_id,
                    &unsubscribe.user,
                    &filters
                ),
                |header, body| Unsubscribe::decode(version, body)
            );
        }
        PacketType::Unsuback => {
            let unsuback = Unsuback::decode(version, body)?;
            again!(
                version,
                unsuback,
                |out: &mut Vec<u8>| unsuback.encode(version, out),
                |header, body| Unsuback::decode(version, body)
            );
        }
        PacketType::Pingreq | PacketType::Pingresp => ping::decode(body)?,
        PacketType::Disconnect => {
            let disconnect = Disconnect::decode(version, body)?;
            again!(
                version,
                disconnect,
                |out: &mut Vec<u8>| disconnect.encode(version, out),
                |header, body| Disconnect::decode(version, body)
            );
        }
        PacketType::Auth => {
            let auth = Auth::decode(version, body)?;
            again!(
                version,
                auth,
                |out: &mut Vec<u8>| auth.encode(out),
                |header, body| { Auth::decode(version, body) }
            );
        }
    }
    Ok(())
}

/// The head that a broker makes of the PUBLISH, for every version, patched, is what it says.
fn check_head(from: Version, publish: &Publish<'_>) {
    if publish.topic.is_empty() {
        return;
    }
    let forward: Vec<u8> = publish
        .properties
        .forward
        .slices()
        .flatten()
        .copied()
        .collect();
    for version in VERSIONS {
        let head = PublishHead {
            version,
            qos: publish.qos,
            dup: publish.dup,
            retain: publish.retain,
            topic: publish.topic,
            packet_id: publish.packet_id,
            topic_alias: None,
            message_expiry_s: publish.properties.message_expiry_s,
            subscription_ids: &[7, 268_435_455],
            forward: &forward,
            payload_len: publish.payload.len(),
        };
        let mut bytes = Vec::new();
        let offsets = head.encode(&mut bytes);
        if let Some(id) = publish.packet_id {
            offsets.patch_packet_id(&mut bytes, id);
        }
        if let (true, Some(expiry_s)) = (version.is_v5(), publish.properties.message_expiry_s) {
            offsets.patch_message_expiry_s(&mut bytes, expiry_s);
        }
        bytes.extend_from_slice(publish.payload);
        assert_eq!(bytes.len(), head.encoded_len());
        let Ok(Cut::Packet { header, body, .. }) = cut_version(&bytes, PACKET_BYTES_MAX, version)
        else {
            panic!("{head:?} is encoded as {bytes:x?}");
        };
        let sent = Publish::decode_from_server(version, header.flags, body)
            .expect("a head encodes a PUBLISH");
        assert_eq!(
            (
                sent.dup,
                sent.qos,
                sent.retain,
                sent.topic,
                sent.packet_id,
                sent.payload
            ),
            (
                publish.dup,
                publish.qos,
                publish.retain,
                publish.topic,
                publish.packet_id,
                publish.payload
            )
        );
        if version.is_v5() {
            assert_eq!(
                sent.properties.message_expiry_s,
                publish.properties.message_expiry_s
            );
            assert_eq!(sent.properties.forward, publish.properties.forward);
            let ids: Vec<_> = sent
                .properties
                .subscription_ids
                .clone()
                .map(|id| id.get())
                .collect();
            assert_eq!(ids, [7, 268_435_455]);
        } else if !from.is_v5() {
            assert_eq!(sent, *publish);
        }
    }
}

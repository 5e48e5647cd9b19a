//! The same packets against the codec of mqtt-protocol-core, which serves clients and brokers alike, and so checks
//! what a server has to check.

use super::{
    DAMAGED_COUNT, Random, VALID_COUNT, VERSIONS, cut_one, damage, meaning, meaning_of, packet,
};
use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};
use ringmq::protocol::frame::{Cut, PACKET_BYTES_MAX, cut_version};
use ringmq::protocol::{PacketType, Publish, QoS, Version};
use std::collections::BTreeSet;

#[test]
fn valid_packets_mean_the_same_to_both() {
    for seed in 0..VALID_COUNT {
        for version in VERSIONS {
            let ours = packet(&mut Random(seed), version);
            let back = read_and_write(&ours, version).unwrap_or_else(|error| {
                panic!("seed {seed}: they refuse {ours:x?}: {error}");
            });
            let (header, body) = cut_one(&back, version);
            assert_eq!(
                meaning(version, header, body).expect("what they write is valid"),
                meaning_of(&ours, version).expect("what we write is valid"),
                "seed {seed}: {ours:x?} came back as {back:x?}"
            );
            if header.packet_type == PacketType::Publish {
                compare_publish(&ours, version);
            }
        }
    }
}

#[test]
fn damaged_packets_are_judged_alike_or_the_standard_is_on_our_side() {
    let mut refused_by_us = BTreeSet::new();
    let mut agreed = 0;
    let mut differed = 0;
    for seed in 0..DAMAGED_COUNT {
        for version in VERSIONS {
            let mut random = Random(seed);
            let mut bytes = packet(&mut random, version);
            damage(&mut random, &mut bytes);
            // Theirs takes packets that are cut already.
            let Ok(Cut::Packet { .. }) = cut_version(&bytes, PACKET_BYTES_MAX, version) else {
                continue;
            };
            let theirs = read_and_write(&bytes, version);
            match (meaning_of(&bytes, version), theirs) {
                (Err(_), Err(_)) => agreed += 1,
                (Ok(ours), Ok(back)) => {
                    agreed += 1;
                    // They count the bytes of an integer that was longer than needed, and write it in its shortest form.
                    let Ok(Cut::Packet { header, body, .. }) =
                        cut_version(&back, PACKET_BYTES_MAX, version)
                    else {
                        assert!(has_long_varint(&bytes), "seed {seed}: {bytes:x?}");
                        continue;
                    };
                    if has_long_varint(&bytes) {
                        continue;
                    }
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
                    refused_by_us.insert(error.statement);
                    differed += 1;
                }
                (Ok(ours), Err(error)) => {
                    panic!("seed {seed}: {bytes:x?} is {ours} to us, and refused by them: {error}");
                }
            }
        }
    }
    for (statement, reason) in WE_REFUSE {
        assert!(
            refused_by_us.contains(statement),
            "{statement} never happens: {reason}"
        );
    }
    assert!(
        agreed > 50 * differed,
        "{agreed} agreed, {differed} differed"
    );
}

/// What we refuse and they accept; they refuse nothing that we accept.
const WE_REFUSE: &[(&str, &str)] = &[
    ("MQTT-1.5.4-2", "they do not look for U+0000"),
    (
        "MQTT-2.2.1-3",
        "0 is no Packet Identifier; they take it in SUBACK and UNSUBACK",
    ),
    (
        "MQTT-3.1.2-3",
        "the reserved Connect Flag: the server must close",
    ),
    ("MQTT-3.1.2-11", "3.1.1: without a Will its QoS is 0"),
    ("MQTT-3.1.2-13", "without a Will there is no Will Retain"),
    ("MQTT-3.2.2-1", "the reserved flags of CONNACK must be 0"),
    ("MQTT-3.2.2-6", "Session Present goes with success only"),
    ("MQTT-3.3.2-2", "wildcards in a Topic Name"),
    ("MQTT-3.3.2-14", "wildcards in a Response Topic"),
    (
        "MQTT-3.8.3-4",
        "3.1.1: the reserved bits behind the requested QoS must be 0",
    ),
    ("MQTT-4.7.3-1", "a Topic Name has at least one character"),
    ("§3.3.2.1", "an empty Topic Name needs a Topic Alias"),
    (
        "§4.13.1",
        "bytes behind the last field in 3.1.1, which they take for a Reason Code, and properties of a PUBLISH that \
        run past its end",
    ),
];

/// Whether an integer of these bytes may have been written longer than needed.
fn has_long_varint(bytes: &[u8]) -> bool {
    bytes
        .windows(2)
        .any(|pair| pair[0] & 0x80 != 0 && pair[1] == 0)
}

/// What they make of a packet, in bytes again.
fn read_and_write(bytes: &[u8], version: Version) -> Result<Vec<u8>, String> {
    let (header, body) = cut_one(bytes, version);
    macro_rules! back {
        ($parsed:expr) => {{
            let (packet, used) = $parsed.map_err(|error| format!("{error:?}"))?;
            if used != body.len() {
                return Err(format!("{} bytes behind the last field", body.len() - used));
            }
            packet.to_continuous_buffer()
        }};
    }
    let flags = header.flags;
    Ok(if version.is_v5() {
        use v5_0::*;
        match header.packet_type {
            PacketType::Connect => back!(Connect::parse(body)),
            PacketType::Connack => back!(Connack::parse(body)),
            PacketType::Publish => back!(v5_0::Publish::parse(flags, body.into())),
            PacketType::Puback => back!(Puback::parse(body)),
            PacketType::Pubrec => back!(Pubrec::parse(body)),
            PacketType::Pubrel => back!(Pubrel::parse(body)),
            PacketType::Pubcomp => back!(Pubcomp::parse(body)),
            PacketType::Subscribe => back!(Subscribe::parse(body)),
            PacketType::Suback => back!(Suback::parse(body)),
            PacketType::Unsubscribe => back!(Unsubscribe::parse(body)),
            PacketType::Unsuback => back!(Unsuback::parse(body)),
            PacketType::Pingreq => back!(Pingreq::parse(body)),
            PacketType::Pingresp => back!(Pingresp::parse(body)),
            PacketType::Disconnect => back!(Disconnect::parse(body)),
            PacketType::Auth => back!(Auth::parse(body)),
        }
    } else {
        use v3_1_1::*;
        match header.packet_type {
            PacketType::Connect => back!(Connect::parse(body)),
            PacketType::Connack => back!(Connack::parse(body)),
            PacketType::Publish => back!(v3_1_1::Publish::parse(flags, body.into())),
            PacketType::Puback => back!(Puback::parse(body)),
            PacketType::Pubrec => back!(Pubrec::parse(body)),
            PacketType::Pubrel => back!(Pubrel::parse(body)),
            PacketType::Pubcomp => back!(Pubcomp::parse(body)),
            PacketType::Subscribe => back!(Subscribe::parse(body)),
            PacketType::Suback => back!(Suback::parse(body)),
            PacketType::Unsubscribe => back!(Unsubscribe::parse(body)),
            PacketType::Unsuback => back!(Unsuback::parse(body)),
            PacketType::Pingreq => back!(Pingreq::parse(body)),
            PacketType::Pingresp => back!(Pingresp::parse(body)),
            PacketType::Disconnect => back!(Disconnect::parse(body)),
            PacketType::Auth => return Err("3.1.1 has no AUTH".into()),
        }
    })
}

/// The fields that matter most: a codec that is wrong both ways would not show in what it writes.
fn compare_publish(bytes: &[u8], version: Version) {
    let (header, body) = cut_one(bytes, version);
    let ours = Publish::decode_from_server(version, header.flags, body).expect("valid");
    let id = ours.packet_id.map(|id| id.get());
    macro_rules! compare {
        ($module:ident) => {{
            let (theirs, _) = $module::Publish::parse(header.flags, body.into()).expect("valid");
            assert_eq!(theirs.topic_name(), ours.topic);
            assert_eq!(theirs.payload().as_slice(), ours.payload);
            assert_eq!(theirs.qos() as u8, ours.qos as u8);
            assert_eq!((theirs.dup(), theirs.retain()), (ours.dup, ours.retain));
            assert_eq!(
                theirs.packet_id(),
                id.filter(|_| ours.qos != QoS::AtMostOnce)
            );
        }};
    }
    if version.is_v5() {
        compare!(v5_0);
    } else {
        compare!(v3_1_1);
    }
}

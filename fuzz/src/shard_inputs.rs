//! One to three shards, their links and five clients, driven by arbitrary inputs.
//!
//! Input: a byte for the number of shards and the limits, then operations of a byte each with their fields: accept,
//! arbitrary bytes, whole packets, acknowledgements that are due, reads, short writes, closes, links, pressure, time.
//!
//! What must hold, beside what `world` checks at every step: nothing panics; memory is bounded by the limits, not by what
//! clients send; at the end every request has been answered and every session gets what is published for it; when all clients have left and their sessions have expired, nothing of them is left; and doing the same
//! again and again takes no more memory.

use crate::input::Input;
use crate::memory::live_bytes;
use crate::round_trip::{forward, user};
use crate::text::{VERSIONS, any_filter, topic};
use crate::world::World;
use ringmq::config::limits::{Limits, QueueFullPolicy};
use ringmq::protocol::{
    Connect, ConnectProperties, Disconnect, Forward, PacketId, PacketType, Publish,
    PublishProperties, QoS, ReasonCode, Subscribe, SubscribeOptions, Unsubscribe, UserProperties,
    Version, Will, put_ack, put_pingreq,
};
use ringmq::shard::input::{CloseCause, Pressure};
use std::num::{NonZeroU16, NonZeroU32};

const PEERS: usize = 5;
const OPERATIONS_MAX: usize = 300;
const SESSION_EXPIRY_S_MAX: u32 = 100;
/// Until the last session has expired, its Will too, and the upkeep of every shard has seen that.
const SETTLE_MS: u64 = 1_000 * (SESSION_EXPIRY_S_MAX as u64 + 255 + 45);
/// Messages on links, above which they flow.
const ON_LINKS_MAX: usize = 500;
/// What all shards together may hold under the limits below, with five clients.
const LIVE_BYTES_MAX: usize = 24 << 20;
/// How often the same is done, to see whether something is left each time: so often, and on until the last three times have left
/// nothing more, at most so often. What is kept for later is bounded, and may take more than the first to fill.
const REPETITIONS_MIN: usize = 8;
const REPETITIONS_MAX: usize = 64;
const CALM: usize = 3;
/// What may be left more after the last of them than before the first: tables that grow in steps.
const GROWTH_BYTES_MAX: usize = 2 << 10;
/// Shortly before the ticks of the timer, counted in 32 bits, begin again.
const NEAR_THE_WRAP_MS: u64 = (1 << 32) * 8 - 20_000;

/// Runs one input.
pub fn run(data: &[u8]) {
    let before = live_bytes();
    let mut input = Input::new(data);
    let mode = input.byte();
    let shard_count = 1 + usize::from(mode & 3) % 3;
    let start_ms = if mode & 4 == 0 {
        1_000_000
    } else {
        NEAR_THE_WRAP_MS
    };
    let mut world = World::new(shard_count, PEERS, limits(input.byte()), start_ms);
    if mode & 0xE0 == 0xE0 {
        let mut left = Vec::with_capacity(REPETITIONS_MAX);
        let is_calm = |left: &[usize]| {
            let last = left.last_chunk::<{ CALM + 1 }>();
            last.is_some_and(|last| last[CALM].saturating_sub(last[0]) <= GROWTH_BYTES_MAX)
        };
        while left.len() < REPETITIONS_MIN || !is_calm(&left) {
            assert!(
                left.len() < REPETITIONS_MAX,
                "the same again leaves more each time: {left:?}"
            );
            drive(
                &mut world,
                &mut input.clone(),
                shard_count,
                before,
                Stop::Never,
            );
            world.probe();
            world.end(SETTLE_MS);
            left.push(live_bytes());
        }
    } else {
        drive(&mut world, &mut input, shard_count, before, Stop::Allowed);
        world.probe();
        world.end(SETTLE_MS);
    }
}

fn limits(byte: u8) -> Limits {
    let is_small = byte & 1 == 1;
    Limits {
        packet_bytes_max: if is_small { 4 << 10 } else { 128 << 10 },
        connect_packet_bytes_max: 8 << 10,
        receive_maximum: if is_small { 3 } else { 100 },
        inflight_messages_max: if is_small { 2 } else { 100 },
        topic_alias_maximum: 4,
        outbound_topic_alias_max: 4,
        queue_messages_max: if is_small { 3 } else { 200 },
        queue_bytes_max: if is_small { 1 << 10 } else { 64 << 10 },
        queue_full: match byte >> 1 & 3 {
            0 => QueueFullPolicy::DropOldest,
            1 => QueueFullPolicy::DropNewest,
            _ => QueueFullPolicy::Disconnect,
        },
        outbound_bytes_max: if byte & 8 == 0 { 64 << 10 } else { 512 },
        session_expiry_s_max: SESSION_EXPIRY_S_MAX,
        session_expiry_v3_s: SESSION_EXPIRY_S_MAX,
        keep_alive_s_max: if byte & 16 == 0 { 0 } else { 20 },
        subscriptions_per_session_max: if byte & 32 == 0 { 6 } else { 100 },
        topic_levels_max: if byte & 64 == 0 { 8 } else { 2_000 },
        retained_messages_max: if is_small { 4 } else { 50 },
        retained_bytes_max: 64 << 10,
        sessions_max: if byte & 128 == 0 { 12 } else { 3 },
        ..Limits::default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Never,
    Allowed,
}

fn drive(world: &mut World, input: &mut Input<'_>, shard_count: usize, before: usize, stop: Stop) {
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            return;
        }
        let operation = input.byte();
        let peer = usize::from(operation >> 5) % PEERS;
        let shard = usize::from(operation >> 5) % shard_count;
        match operation & 0x1F {
            0 => world.accept(peer, input.below(shard_count)),
            1..=2 => {
                // The whole way to a client with a session, which is what most of the rest needs.
                world.accept(peer, input.below(shard_count));
                let bytes = connect(input, peer);
                world.send(peer, &bytes, usize::MAX);
                if operation & 0x1F == 1 {
                    world.flow_all();
                    world.write(peer, usize::MAX);
                }
            }
            3 | 4 => {
                let len = usize::from(input.byte());
                let piece = 1 + usize::from(input.byte());
                let bytes = input.take(len);
                world.send(peer, bytes, piece);
            }
            5..=12 => {
                let piece = match input.byte() {
                    piece @ 1..=16 => usize::from(piece),
                    _ => usize::MAX,
                };
                let mut bytes = Vec::new();
                let version = world.version(peer).unwrap_or(Version::V5);
                for _ in 0..1 + usize::from(operation & 0x1F == 12) * 3 {
                    packet(input, version, &mut bytes);
                }
                world.send(peer, &bytes, piece);
            }
            13 | 14 => {
                let at = input.below(256);
                let fails = operation & 0x1F == 14 && input.flag();
                if let (Some((packet_type, id)), Some(version)) =
                    (world.acknowledgement_due(peer, at), world.version(peer))
                {
                    let id = PacketId::new(id).expect("the shard sent it");
                    let reason = match packet_type {
                        PacketType::Puback | PacketType::Pubrec if fails && version.is_v5() => {
                            ReasonCode::QuotaExceeded
                        }
                        _ => ReasonCode::Success,
                    };
                    let mut bytes = Vec::new();
                    put_ack(&mut bytes, version, packet_type, id, reason);
                    world.send(peer, &bytes, usize::MAX);
                }
            }
            15 => world.read(peer, 1 + usize::from(input.u16()), input.flag()),
            16 => world.write(peer, usize::from(input.byte())),
            17 => world.write(peer, usize::from(input.u16())),
            18 => (0..PEERS).for_each(|peer| world.write(peer, usize::MAX)),
            31 if operation == 31 => world.long_turns = !world.long_turns,
            19 => (0..PEERS).for_each(|peer| world.settle(peer)),
            20 => {
                let causes = [
                    CloseCause::PeerClosed,
                    CloseCause::Reset,
                    CloseCause::LingerExpired,
                ];
                world.close(peer, input.choose(&causes));
            }
            21 => world.late(shard, u32::from(input.byte()), b"\xC0\x00"),
            22 => world.flow(shard, input.below(shard_count), 1 + input.below(4)),
            23 => world.flow_all(),
            24 => drop(world.hand_over()),
            25 => {
                let pressure = input.choose(&[Pressure::Low, Pressure::Soft, Pressure::Hard]);
                world.pressure(shard, input.below(shard_count), pressure);
            }
            26 => world.pass(u64::from(input.byte())),
            27 => world.pass(u64::from(input.u16()) * 10),
            28 => world.pass_in_steps(u64::from(input.byte()) * 250),
            29 => {
                // The wall clock jumps.
                world.now.wall_ms = u64::from(input.u32());
            }
            30 => {
                // Everything as a quiet network does it.
                world.flow_all();
                for peer in 0..PEERS {
                    world.write(peer, usize::MAX);
                    world.settle(peer);
                }
                world.flow_all();
            }
            31 if operation >> 5 < 4 => drop(world.fan_out(shard)),
            _ if stop == Stop::Allowed && input.byte() == 0xAA => world.shut_down(),
            _ => {}
        }
        if world.on_links() > ON_LINKS_MAX {
            world.flow_all();
        }
        let live = live_bytes() - before;
        assert!(live <= LIVE_BYTES_MAX, "{live} bytes are live");
    }
}

/// A CONNECT of the client `peer`, which mostly uses its own identifier.
fn connect(input: &mut Input<'_>, peer: usize) -> Vec<u8> {
    const IDS: [&str; 8] = ["c0", "c1", "c2", "c3", "c4", "", "c5", "c6"];
    let version = input.choose(&VERSIONS);
    let v5 = version.is_v5();
    let flags = input.byte();
    let id = if flags & 0xE0 == 0 {
        input.choose(&IDS)
    } else {
        IDS[peer]
    };
    let will_topic;
    let forward_raw = if v5 && flags & 4 != 0 {
        forward(input)
    } else {
        Vec::new()
    };
    let will = if flags & 4 != 0 {
        will_topic = topic(input);
        let bits = input.byte();
        Some(Will {
            qos: QoS::from_bits(bits & 3).unwrap_or_default(),
            retain: bits & 4 != 0,
            topic: &will_topic,
            payload: if bits & 8 == 0 { b"will" } else { b"" },
            delay_s: if v5 { u32::from(input.byte()) } else { 0 },
            message_expiry_s: (v5 && bits & 16 != 0).then(|| u32::from(input.byte())),
            forward: Forward::from_raw(&forward_raw).expect("built so"),
        })
    } else {
        None
    };
    let properties = if v5 {
        let bits = input.byte();
        ConnectProperties {
            session_expiry_s: (bits & 1 != 0).then(|| u32::from(input.byte()) * 2),
            receive_maximum: NonZeroU16::new((bits >> 1 & 3).into()),
            packet_bytes_max: match bits >> 3 & 3 {
                0 | 1 => None,
                2 => NonZeroU32::new(1 + u32::from(input.byte())),
                _ => NonZeroU32::new(1 + u32::from(input.u16())),
            },
            topic_alias_maximum: (bits >> 5 & 3).into(),
            request_problem_information: bits & 128 == 0,
            ..ConnectProperties::default()
        }
    } else {
        ConnectProperties::default()
    };
    let mut bytes = Vec::new();
    Connect {
        version,
        clean_start: flags & 1 != 0,
        keep_alive_s: if flags & 2 == 0 {
            0
        } else {
            input.byte().into()
        },
        client_id: id,
        will,
        username: None,
        password: None,
        properties,
    }
    .encode(&mut bytes);
    bytes
}

/// A packet of a client, well-formed more often than not.
fn packet(input: &mut Input<'_>, version: Version, out: &mut Vec<u8>) {
    let v5 = version.is_v5();
    let kind = input.byte();
    match kind & 0x0F {
        0..=5 => publish(input, version, out),
        6..=8 => {
            let filters: Vec<_> = (0..1 + usize::from(kind >> 6))
                .map(|_| {
                    let filter = any_filter(input);
                    let mut options = SubscribeOptions::from_bits(input.byte() & 0x2F);
                    if let Some(options) = &mut options {
                        options.no_local &= !filter.starts_with("$share/");
                    }
                    (filter, options.unwrap_or_default())
                })
                .collect();
            let filters: Vec<_> = filters
                .iter()
                .map(|(filter, options)| (&filter[..], *options))
                .collect();
            let id = if kind & 0x10 == 0 {
                None
            } else {
                NonZeroU32::new(input.byte().into())
            };
            let user = UserProperties::default();
            Subscribe::encode(out, version, packet_id(input), id, &user, &filters);
        }
        9 | 10 => {
            let filters: Vec<_> = (0..1 + usize::from(kind >> 6))
                .map(|_| any_filter(input))
                .collect();
            let filters: Vec<_> = filters.iter().map(String::as_str).collect();
            let user_raw = user(input);
            let user = UserProperties::from_raw(&user_raw).expect("built so");
            Unsubscribe::encode(out, version, packet_id(input), &user, &filters);
        }
        11 => put_pingreq(out),
        12 => put_ack(
            out,
            version,
            PacketType::Pubrel,
            packet_id(input),
            ReasonCode::Success,
        ),
        13 => {
            let types = [PacketType::Puback, PacketType::Pubrec, PacketType::Pubcomp];
            put_ack(
                out,
                version,
                input.choose(&types),
                packet_id(input),
                ReasonCode::Success,
            );
        }
        14 => {
            let mut disconnect = Disconnect::new(ReasonCode::Success);
            if v5 && kind & 0x10 != 0 {
                disconnect.reason = ReasonCode::DisconnectWithWill;
            }
            if v5 && kind & 0x20 != 0 {
                disconnect.session_expiry_s = Some(input.byte().into());
            }
            disconnect.encode(version, out);
        }
        _ => {
            let bytes = input.take(usize::from(kind >> 4));
            out.extend_from_slice(bytes);
        }
    }
}

fn publish(input: &mut Input<'_>, version: Version, out: &mut Vec<u8>) {
    let v5 = version.is_v5();
    let bits = input.byte();
    let qos = QoS::from_bits(bits & 3).unwrap_or_default();
    let alias = if v5 && bits & 8 != 0 {
        NonZeroU16::new((input.byte() & 7).into())
    } else {
        None
    };
    let name = if alias.is_some() && bits & 16 != 0 {
        String::new()
    } else {
        topic(input)
    };
    let forward_raw = if v5 && bits & 32 != 0 {
        forward(input)
    } else {
        Vec::new()
    };
    let payload_len = match input.byte() {
        len @ 0..=127 => usize::from(len & 15),
        len @ 128..=247 => usize::from(len) * 16,
        _ => 100_000,
    };
    Publish {
        dup: bits & 64 != 0 && qos != QoS::AtMostOnce,
        qos,
        retain: bits & 4 != 0,
        topic: &name,
        packet_id: (qos != QoS::AtMostOnce).then(|| packet_id(input)),
        properties: PublishProperties {
            topic_alias: alias,
            message_expiry_s: (v5 && bits & 128 != 0).then(|| input.byte().into()),
            forward: Forward::from_raw(&forward_raw).expect("built so"),
            ..PublishProperties::default()
        },
        payload: &vec![b'p'; payload_len],
    }
    .encode(version, out);
}

fn packet_id(input: &mut Input<'_>) -> PacketId {
    PacketId::new(u16::from(input.byte()) & 7).unwrap_or(PacketId::MIN)
}

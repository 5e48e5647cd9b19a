//! The same bytes of one connection, whole and in pieces.
//!
//! Input: a byte for the version and the limits, a byte for the number of sizes of pieces, these sizes, and then the bytes.
//!
//! What must hold: the packets cut are the same, and so is the error at the end; a buffer never asks for less
//! than it has; and a shard that is told of the pieces sends and does the same as one that is told of the whole.

use crate::input::Input;
use crate::text::VERSIONS;
use ringmq::config::limits::Limits;
use ringmq::protocol::frame::{Cut, FixedHeader, cut_version};
use ringmq::protocol::{Connect, ConnectProperties, DecodeError, Version};
use ringmq::shard::counters::DropCause;
use ringmq::shard::input::{ConnKey, Input as ShardInput, Now, ShardId};
use ringmq::shard::outbox::{Event, Outbox};
use ringmq::shard::placement::Placement;
use ringmq::shard::record::Durability;
use ringmq::shard::{Shard, ShardSetup};
use std::sync::Arc;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.byte();
    let version = VERSIONS[usize::from(mode & 0x0F) % 3];
    let packet_bytes_max = if mode & 0x80 == 0 { 1 << 20 } else { 40 };
    let count = input.below(16);
    let sizes: Vec<usize> = input
        .take(count)
        .iter()
        .map(|size| 1 + usize::from(*size))
        .collect();
    let bytes = input.rest();
    assert_eq!(
        cut_whole(bytes, packet_bytes_max, version),
        cut_pieces(bytes, &sizes, packet_bytes_max, version)
    );

    let whole = shard_sees(version, mode, packet_bytes_max, [bytes].into_iter());
    let pieces = shard_sees(version, mode, packet_bytes_max, pieces(bytes, &sizes));
    assert_eq!(whole, pieces);
}

type CutPackets = (Vec<(FixedHeader, Vec<u8>)>, Option<DecodeError>);

fn cut_whole(mut bytes: &[u8], packet_bytes_max: usize, version: Version) -> CutPackets {
    let mut packets = Vec::new();
    loop {
        match cut_version(bytes, packet_bytes_max, version) {
            Ok(Cut::Packet { header, body, len }) => {
                packets.push((header, body.to_vec()));
                bytes = &bytes[len..];
            }
            Ok(Cut::Incomplete { need }) => {
                assert!(need > bytes.len());
                return (packets, None);
            }
            Err(error) => return (packets, Some(error)),
        }
    }
}

/// Buffers the pieces, and looks for a packet only when there are as many bytes as were asked for.
fn cut_pieces(
    bytes: &[u8],
    sizes: &[usize],
    packet_bytes_max: usize,
    version: Version,
) -> CutPackets {
    let mut packets = Vec::new();
    let mut buffer = Vec::new();
    let mut needed = 0;
    for piece in pieces(bytes, sizes) {
        buffer.extend_from_slice(piece);
        while buffer.len() >= needed {
            match cut_version(&buffer, packet_bytes_max, version) {
                Ok(Cut::Packet { header, body, len }) => {
                    packets.push((header, body.to_vec()));
                    buffer.drain(..len);
                    needed = 0;
                }
                Ok(Cut::Incomplete { need }) => {
                    assert!(need > buffer.len());
                    assert!(need <= packet_bytes_max.max(5));
                    needed = need;
                }
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    // What was asked for did not come; what is there may still be wrong.
    let error = cut_version(&buffer, packet_bytes_max, version).err();
    (packets, error)
}

fn pieces<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes: Vec<usize> = if sizes.is_empty() {
        vec![1]
    } else {
        sizes.to_vec()
    };
    sizes.reverse();
    std::iter::from_fn(move || {
        // The sizes are used in turns.
        let size = sizes.pop().expect("at least one size");
        sizes.insert(0, size);
        let (piece, rest) = bytes.split_at(size.min(bytes.len()));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// What a shard did: the bytes it sent, what it told the operator, whether it paused and closed, what it keeps, and what it
/// dropped.
type Done = (
    Vec<u8>,
    Vec<Event>,
    usize,
    usize,
    usize,
    [u64; DropCause::ALL.len()],
);

fn shard_sees<'a>(
    version: Version,
    mode: u8,
    packet_bytes_max: usize,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Done {
    let now = Now {
        mono_ms: 1_000_000,
        wall_ms: 1_700_000_000_000,
    };
    let mut shard = Shard::new(ShardSetup {
        id: ShardId(0),
        shard_count: 1,
        limits: Arc::new(Limits {
            packet_bytes_max: packet_bytes_max as u32,
            connect_packet_bytes_max: 1 << 10,
            ..Limits::default()
        }),
        placement: Placement::new([3; 16], 1),
        hash_seed: 7,
        random_seed: 1,
        events: true,
        durability: Durability::None,
        now,
    });
    let mut outbox = Outbox::default();
    let conn = ConnKey {
        index: 0,
        generation: 1,
    };
    shard.handle(now, ShardInput::Accepted { conn }, &mut outbox);
    if mode & 0x40 == 0 {
        let mut hello = Vec::new();
        Connect {
            version,
            clean_start: true,
            keep_alive_s: 0,
            client_id: "c",
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        }
        .encode(&mut hello);
        shard.handle(
            now,
            ShardInput::Received {
                conn,
                bytes: &hello,
            },
            &mut outbox,
        );
    }
    for bytes in pieces.filter(|piece| !piece.is_empty()) {
        shard.handle(now, ShardInput::Received { conn, bytes }, &mut outbox);
    }
    let sent = shard.outbound(conn).flatten().copied().collect();
    assert!(
        outbox.dirty.len() + outbox.later.len() <= 1
            && outbox.mesh.is_empty()
            && outbox.handover.is_empty()
    );
    let kept = shard.session_count() + 1_000 * shard.retained_count();
    // Behind an input, and at most one every ten seconds: when it comes and what it has seen goes by the inputs.
    outbox
        .events
        .retain(|event| !matches!(event, Event::Dropped { .. }));
    (
        sent,
        outbox.events,
        outbox.pause.len(),
        outbox.close.len(),
        kept,
        shard.counters().dropped,
    )
}

//! The frames of a WebSocket, whole and in pieces.
//!
//! Input: a byte for the role, a byte for the number of sizes of pieces, these sizes, and then the bytes.
//!
//! What must hold: payload, pings and the end are the same for the whole and for the pieces; payload is never longer
//! than what was received; and what was read, written again as frames, is read back.

use crate::input::Input;
use ringmq::net::transport::frame::{FrameError, FrameReader, Heard, Opcode, Role, put_frame};

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let role = input.choose(&[Role::Server, Role::Client]);
    let count = input.below(16);
    let mut sizes: Vec<usize> = input
        .take(count)
        .iter()
        .map(|size| 1 + usize::from(*size))
        .collect();
    if sizes.is_empty() {
        sizes.push(1);
    }
    let bytes = input.rest();
    let whole = read(role, [bytes]);
    assert_eq!(whole, read(role, pieces(bytes, &sizes)));
    let read_bytes = whole.payload.len() + whole.pings.iter().map(Vec::len).sum::<usize>();
    assert!(read_bytes <= bytes.len());

    let mask = (role == Role::Server).then_some([1, 2, 3, 4]);
    let mut frames = Vec::new();
    put_frame(&mut frames, Opcode::Binary, mask, [&whole.payload[..]]);
    for ping in &whole.pings {
        put_frame(&mut frames, Opcode::Ping, mask, [&ping[..]]);
    }
    let again = read(role, [&frames[..]]);
    assert_eq!(
        (again.payload, again.pings, again.end),
        (whole.payload, whole.pings, None)
    );
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    payload: Vec<u8>,
    pings: Vec<Vec<u8>>,
    end: Option<Result<Heard, FrameError>>,
}

fn read<'a>(role: Role, pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut reader = FrameReader::new(role);
    let mut read = Read::default();
    for piece in pieces {
        let pings = &mut read.pings;
        let heard = reader.read(piece, &mut read.payload, |ping| pings.push(ping.to_vec()));
        if heard != Ok(Heard::Open) {
            read.end = Some(heard);
            break;
        }
    }
    read
}

/// The bytes in pieces of these sizes, used in turns.
fn pieces<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at((*size).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

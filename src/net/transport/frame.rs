//! WebSocket frames (RFC 6455 §5): reading them from any pieces of bytes, and writing them.
//!
//! MQTT does not care where frames begin and end (MQTT 5 §6.0 [MQTT-6.0.0-2]), so payload is passed on as it
//! arrives: a frame of any length needs no buffer, and only a control frame's payload, at most 125 bytes, is
//! collected.

use std::str;

/// Largest payload of a control frame (§5.5).
const CONTROL_BYTES_MAX: u64 = 125;
/// Longest head of a frame: two bytes, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

/// Which end of the connection this is. A client masks what it sends (§5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It accepted the connection.
    Server,
    /// It made the connection.
    Client,
}

/// The kinds of frames that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// Payload of MQTT.
    Binary = 2,
    /// The end.
    Close = 8,
    /// A question.
    Ping = 9,
    /// Its answer.
    Pong = 10,
}

/// A status of a Close frame (§7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server goes down.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A text frame came (MQTT 5 §6.0 [MQTT-6.0.0-1]).
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// What should be UTF-8 is not.
    pub const INVALID_PAYLOAD: Self = Self(1007);

    /// Whether a peer may send it (§7.4).
    fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// What a peer's frames did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameError {
    /// The code to close with.
    pub code: CloseCode,
    /// What, in words.
    pub what: &'static str,
}

fn wrong(what: &'static str) -> FrameError {
    FrameError {
        code: CloseCode::PROTOCOL_ERROR,
        what,
    }
}

/// What came beside payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing that ends the connection.
    Open,
    /// The peer closes; the code is to be echoed. What it sent after it is left out.
    Close(Option<CloseCode>),
}

/// Reads the frames of one direction.
#[derive(Debug)]
pub struct FrameReader {
    role: Role,
    /// The first bytes of a head that has not arrived whole.
    head: [u8; HEAD_BYTES_MAX],
    head_len: u8,
    /// Whether a fragmented message is under way.
    in_message: bool,
    /// Whether a frame's payload is arriving: then its first byte, what is left of it, and its mask turned to the
    /// next byte.
    in_frame: bool,
    first: u8,
    left: u64,
    mask: [u8; 4],
    /// The payload of a control frame so far.
    control: Vec<u8>,
}

impl FrameReader {
    /// For the frames that an end with this role receives.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            head: [0; HEAD_BYTES_MAX],
            head_len: 0,
            in_message: false,
            in_frame: false,
            first: 0,
            left: 0,
            mask: [0; 4],
            control: Vec::new(),
        }
    }

    /// Reads `bytes`: payload is appended to `payload`, and each Ping is given to `ping`.
    ///
    /// Errors: the connection has to be closed with the code; what was appended before is valid.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        payload: &mut Vec<u8>,
        mut ping: impl FnMut(&[u8]),
    ) -> Result<Heard, FrameError> {
        while !bytes.is_empty() {
            if !self.in_frame {
                let taken = self.read_head(bytes)?;
                bytes = &bytes[taken..];
                if !self.in_frame {
                    break;
                }
            }
            let count =
                usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (part, rest) = bytes.split_at(count);
            bytes = rest;
            self.left -= count as u64;
            self.in_frame = self.left > 0;
            if !is_control(self.first) {
                append_unmasked(payload, part, &mut self.mask);
                continue;
            }
            append_unmasked(&mut self.control, part, &mut self.mask);
            if self.in_frame {
                continue;
            }
            let control = std::mem::take(&mut self.control);
            match self.first & 0x0F {
                0x8 => return close(&control).map(Heard::Close),
                0x9 => ping(&control),
                // A Pong nobody asked for is allowed (§5.5.3).
                _ => {}
            }
        }
        Ok(Heard::Open)
    }

    /// Takes what belongs to a frame's head and returns how many bytes that was. `in_frame` tells whether the
    /// head is whole.
    fn read_head(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        let mut taken = 0;
        while usize::from(self.head_len) < self.head_need() {
            let Some(byte) = bytes.get(taken) else {
                return Ok(taken);
            };
            self.head[usize::from(self.head_len)] = *byte;
            self.head_len += 1;
            taken += 1;
            // What is wrong is told at once, not when the rest of the head is there.
            match self.head_len {
                1 => self.check_first(*byte)?,
                2 => self.check_second(*byte)?,
                _ => {}
            }
        }
        let head_len = usize::from(std::mem::take(&mut self.head_len));
        let [first, second, ..] = self.head;
        let is_masked = second & 0x80 != 0;
        let mask_at = head_len - if is_masked { 4 } else { 0 };
        let extended = &self.head[2..mask_at];
        let number = extended
            .iter()
            .fold(0, |len, byte| len << 8 | u64::from(*byte));
        let (len, is_shortest) = match extended.len() {
            0 => (u64::from(second & 0x7F), true),
            2 => (number, number > CONTROL_BYTES_MAX),
            _ => (number, number > 0xFFFF && number >> 63 == 0),
        };
        if !is_shortest {
            return Err(wrong("a frame's length is not in its shortest form"));
        }
        self.mask = [0; 4];
        if is_masked {
            self.mask.copy_from_slice(&self.head[mask_at..head_len]);
        }
        if !is_control(first) {
            self.in_message = first & 0x80 == 0;
        }
        self.first = first;
        self.left = len;
        self.in_frame = true;
        Ok(taken)
    }

    /// Bytes of the head, as far as its first two tell.
    fn head_need(&self) -> usize {
        if self.head_len < 2 {
            return 2;
        }
        let second = self.head[1];
        let extended = match second & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if second & 0x80 != 0 { 4 } else { 0 }
    }

    fn check_first(&self, first: u8) -> Result<(), FrameError> {
        if first & 0x70 != 0 {
            return Err(wrong("a frame uses an extension that was not agreed on"));
        }
        let fin = first & 0x80 != 0;
        match first & 0x0F {
            0x0 if !self.in_message => Err(wrong("a continuation continues nothing")),
            0x2 if self.in_message => Err(wrong("a message begins within another")),
            0x0 | 0x2 => Ok(()),
            0x1 => Err(FrameError {
                code: CloseCode::UNSUPPORTED_DATA,
                what: "a text frame",
            }),
            0x8..=0xA if !fin => Err(wrong("a control frame is fragmented")),
            0x8..=0xA => Ok(()),
            _ => Err(wrong("a frame has a reserved opcode")),
        }
    }

    fn check_second(&self, second: u8) -> Result<(), FrameError> {
        let is_masked = second & 0x80 != 0;
        if is_masked != (self.role == Role::Server) {
            return Err(wrong(match self.role {
                Role::Server => "a client's frame is not masked",
                Role::Client => "a server's frame is masked",
            }));
        }
        if is_control(self.head[0]) && u64::from(second & 0x7F) > CONTROL_BYTES_MAX {
            return Err(wrong("a control frame is longer than 125 bytes"));
        }
        Ok(())
    }
}

fn is_control(first: u8) -> bool {
    first & 0x08 != 0
}

/// What a Close frame says (§5.5.1).
fn close(payload: &[u8]) -> Result<Option<CloseCode>, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(wrong("a Close frame has half a code"))
        };
    };
    let code = CloseCode(u16::from_be_bytes(*code));
    if !code.may_be_sent() {
        return Err(wrong("a Close frame has a code that must not be sent"));
    }
    if str::from_utf8(reason).is_err() {
        return Err(FrameError {
            code: CloseCode::INVALID_PAYLOAD,
            what: "the reason in a Close frame is not UTF-8",
        });
    }
    Ok(Some(code))
}

/// Appends `bytes` without their mask, and turns the mask to what follows them.
fn append_unmasked(out: &mut Vec<u8>, bytes: &[u8], mask: &mut [u8; 4]) {
    let start = out.len();
    out.extend_from_slice(bytes);
    apply_mask(&mut out[start..], *mask);
    mask.rotate_left(bytes.len() % 4);
}

/// Masks or unmasks (§5.3): both are the same.
fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from(u32::from_ne_bytes(mask));
    let wide = wide << 32 | wide;
    let (words, rest) = bytes.as_chunks_mut::<8>();
    // The compiler makes vector instructions of it.
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Appends a whole frame; with a mask, as a client must.
pub fn put_frame<'a>(
    out: &mut Vec<u8>,
    opcode: Opcode,
    mask: Option<[u8; 4]>,
    payload: impl IntoIterator<Item = &'a [u8]> + Clone,
) {
    let len: usize = payload.clone().into_iter().map(<[u8]>::len).sum();
    out.push(0x80 | opcode as u8);
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    match len {
        0..126 => out.push(mask_bit | len as u8),
        126..0x1_0000 => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(mask.as_ref().map_or(&[], |mask| mask));
    let start = out.len();
    payload
        .into_iter()
        .for_each(|part| out.extend_from_slice(part));
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Read {
        payload: Vec<u8>,
        pings: Vec<Vec<u8>>,
        end: Option<Result<Option<CloseCode>, FrameError>>,
    }

    /// Reads pieces until the end, or until all is read.
    fn read<'a>(role: Role, pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let mut reader = FrameReader::new(role);
        let mut read = Read::default();
        for piece in pieces {
            let pings = &mut read.pings;
            let heard = reader.read(piece, &mut read.payload, |ping| pings.push(ping.to_vec()));
            read.end = match heard {
                Ok(Heard::Open) => continue,
                Ok(Heard::Close(code)) => Some(Ok(code)),
                Err(error) => Some(Err(error)),
            };
            break;
        }
        read
    }

    fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, opcode, Some(MASK), [payload]);
        out
    }

    fn whole(bytes: &[u8]) -> Read {
        read(Role::Server, [bytes])
    }

    #[test]
    fn the_examples_of_rfc_6455() {
        // §5.7: a masked "Hello", here as binary; a fragmented unmasked one; a masked Pong.
        let hello = whole(&[
            0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ]);
        assert_eq!(hello.payload, b"Hello");
        let parts = [0x02, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
        assert_eq!(read(Role::Client, [&parts[..]]).payload, b"Hello");
        let pong = whole(&[
            0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ]);
        assert_eq!(pong, Read::default());
    }

    #[test]
    fn lengths_take_their_shortest_form() {
        for (len, head) in [(0, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let payload = vec![7; len];
            let bytes = frame(Opcode::Binary, &payload);
            assert_eq!(bytes.len(), len + head);
            assert_eq!(whole(&bytes).payload, payload);
        }
        for bad in [
            &[0x82, 0xfe, 0, 125][..],
            &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            &[0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0],
        ] {
            let bytes = [bad, &MASK].concat();
            let end = whole(&bytes).end;
            assert!(
                matches!(end, Some(Err(error)) if error.code == CloseCode::PROTOCOL_ERROR),
                "{bad:x?}"
            );
        }
    }

    #[test]
    fn a_fragmented_message_may_be_interrupted_by_control_frames() {
        let mut bytes = frame(Opcode::Binary, b"one");
        bytes[0] &= 0x7F;
        bytes.extend(frame(Opcode::Ping, b"?"));
        let mut last = frame(Opcode::Binary, b"two");
        last[0] = 0x80;
        bytes.extend(last);
        let read = whole(&bytes);
        assert_eq!(
            (&read.payload[..], &read.pings[..]),
            (&b"onetwo"[..], &[b"?".to_vec()][..])
        );
        assert_eq!(read.end, None);
    }

    #[test]
    fn what_breaks_the_protocol_ends_it_with_the_right_code() {
        for (bytes, code) in [
            (&[0x81][..], CloseCode::UNSUPPORTED_DATA),
            (&[0x01], CloseCode::UNSUPPORTED_DATA),
            (&[0xC2], CloseCode::PROTOCOL_ERROR),
            (&[0x83], CloseCode::PROTOCOL_ERROR),
            (&[0x8B], CloseCode::PROTOCOL_ERROR),
            (&[0x80], CloseCode::PROTOCOL_ERROR),
            (&[0x09], CloseCode::PROTOCOL_ERROR),
            (&[0x89, 0xFE], CloseCode::PROTOCOL_ERROR),
            (&[0x82, 0x01], CloseCode::PROTOCOL_ERROR),
            (&[0x02, 0x80, 0, 0, 0, 0, 0x82], CloseCode::PROTOCOL_ERROR),
            (&[0x88, 0x81, 0, 0, 0, 0, 3], CloseCode::PROTOCOL_ERROR),
            (
                &[0x88, 0x82, 0, 0, 0, 0, 3, 0xED],
                CloseCode::PROTOCOL_ERROR,
            ),
            (
                &[0x88, 0x83, 0, 0, 0, 0, 3, 0xE8, 0xFF],
                CloseCode::INVALID_PAYLOAD,
            ),
        ] {
            let Some(Err(error)) = whole(bytes).end else {
                panic!("{bytes:x?} is taken");
            };
            assert_eq!(error.code, code, "{bytes:x?}: {}", error.what);
        }
        let Some(Err(error)) = read(Role::Client, [&[0x82, 0x80][..]]).end else {
            panic!("a server's frame is masked")
        };
        assert_eq!(error.code, CloseCode::PROTOCOL_ERROR);
    }

    #[test]
    fn a_close_is_heard_and_what_follows_is_not() {
        let mut bytes = frame(Opcode::Close, &[3, 0xE8]);
        bytes.extend(frame(Opcode::Binary, b"late"));
        let read = whole(&bytes);
        assert_eq!(
            (read.end, read.payload),
            (Some(Ok(Some(CloseCode::NORMAL))), Vec::new())
        );
        assert_eq!(whole(&frame(Opcode::Close, &[])).end, Some(Ok(None)));
    }

    #[test]
    fn the_mask_follows_the_bytes() {
        let plain: Vec<u8> = (0..100).collect();
        let mut masked = plain.clone();
        for (at, byte) in masked.iter_mut().enumerate() {
            *byte ^= MASK[at % 4];
        }
        for split in 0..plain.len() {
            let (mut out, mut mask) = (Vec::new(), MASK);
            append_unmasked(&mut out, &masked[..split], &mut mask);
            append_unmasked(&mut out, &masked[split..], &mut mask);
            assert_eq!(out, plain, "{split}");
        }
    }

    #[derive(Clone, Debug)]
    enum Part {
        Binary(Vec<u8>, bool),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
        let part = prop_oneof![
            (bytes(300), any::<bool>()).prop_map(|(bytes, fin)| Part::Binary(bytes, fin)),
            bytes(126).prop_map(Part::Ping),
            bytes(126).prop_map(Part::Pong),
        ];
        proptest::collection::vec(part, 0..12)
    }

    proptest! {
        #[test]
        fn pieces_read_as_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..80), size in 1_usize..9) {
            for role in [Role::Server, Role::Client] {
                prop_assert_eq!(read(role, [&bytes[..]]), read(role, bytes.chunks(size)));
            }
        }

        #[test]
        fn what_is_written_is_read_back(parts in parts(), mask: [u8; 4], size in 1_usize..50) {
            for role in [Role::Server, Role::Client] {
                let mask = (role == Role::Server).then_some(mask);
                let (mut bytes, mut expected, mut in_message) = (Vec::new(), Read::default(), false);
                for part in &parts {
                    let start = bytes.len();
                    match part {
                        Part::Binary(payload, fin) => {
                            put_frame(&mut bytes, Opcode::Binary, mask, [&payload[..]]);
                            let opcode = if in_message { 0 } else { 2 };
                            bytes[start] = opcode | if *fin { 0x80 } else { 0 };
                            in_message = !fin;
                            expected.payload.extend_from_slice(payload);
                        }
                        Part::Ping(payload) => {
                            put_frame(&mut bytes, Opcode::Ping, mask, [&payload[..]]);
                            expected.pings.push(payload.clone());
                        }
                        Part::Pong(payload) => put_frame(&mut bytes, Opcode::Pong, mask, [&payload[..]]),
                    }
                }
                prop_assert_eq!(&read(role, bytes.chunks(size)), &expected);
            }
        }
    }
}

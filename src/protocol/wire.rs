//! Reading and writing the data types of the standard (MQTT 5 §1.5).

use super::error::DecodeError;
use super::text::{self, STRING_BYTES_MAX, TextFault};
use super::varint::{Varint, read_varint, varint_bytes};
use super::{PacketId, ReasonCode};

/// What is said when a field cannot be read. Made by [`field!`].
#[derive(Debug)]
pub(super) struct Field {
    pub(super) short: &'static str,
    pub(super) ill_formed: &'static str,
    pub(super) nul: &'static str,
    pub(super) wildcard: &'static str,
    pub(super) varint: &'static str,
}

/// The [`Field`] with this name.
macro_rules! field {
    ($name:literal) => {
        $crate::protocol::wire::Field {
            short: concat!($name, " runs past the end of the packet"),
            ill_formed: concat!($name, " is not well-formed UTF-8"),
            nul: concat!($name, " has U+0000 in it"),
            wildcard: concat!($name, " has a wildcard character in it"),
            varint: concat!($name, " has more than four bytes"),
        }
    };
}
pub(super) use field;

static PACKET_ID: Field = field!("Packet Identifier");
static PROPERTY_LENGTH: Field = field!("Property Length");
static PROPERTY_SECTION: Field = field!("Property section");

/// The part of a packet that has not been read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(self) -> usize {
        self.bytes.len()
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn u8(&mut self, field: &Field) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(super) fn u16(&mut self, field: &Field) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &Field) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn varint(&mut self, field: &Field) -> Result<u32, DecodeError> {
        match read_varint(self.bytes) {
            Varint::Value { value, len } => {
                self.bytes = &self.bytes[len..];
                Ok(value)
            }
            Varint::Incomplete => Err(short(field)),
            Varint::TooLong => Err(DecodeError::malformed("§1.5.5", field.varint)),
        }
    }

    /// Binary Data: a length of two bytes, and as many bytes.
    pub(super) fn binary(&mut self, field: &Field) -> Result<&'a [u8], DecodeError> {
        let len = self.u16(field)?;
        self.take(usize::from(len), field)
    }

    /// A UTF-8 Encoded String.
    pub(super) fn utf8(&mut self, field: &Field) -> Result<&'a str, DecodeError> {
        text::utf8(self.binary(field)?).map_err(|fault| fault_error(fault, field))
    }

    /// A Topic Name, which may be empty.
    pub(super) fn topic_name(&mut self, field: &Field) -> Result<&'a str, DecodeError> {
        text::topic_name(self.binary(field)?).map_err(|fault| fault_error(fault, field))
    }

    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        let id = self.u16(&PACKET_ID)?;
        PacketId::new(id).ok_or(DecodeError::protocol(
            "MQTT-2.2.1-3",
            "Packet Identifier is 0",
        ))
    }

    /// The properties, without their length.
    pub(super) fn properties(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.varint(&PROPERTY_LENGTH)?;
        self.take(len as usize, &PROPERTY_SECTION)
    }

    /// Refuses bytes after the last field.
    pub(super) fn end(self) -> Result<(), DecodeError> {
        if self.is_empty() {
            return Ok(());
        }
        Err(DecodeError::malformed(
            "§4.13.1",
            "bytes follow the last field of the packet",
        ))
    }

    fn take(&mut self, count: usize, field: &Field) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(count)
            .ok_or_else(|| short(field))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &Field) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or_else(|| short(field))?;
        self.bytes = rest;
        Ok(*taken)
    }
}

#[cold]
fn short(field: &Field) -> DecodeError {
    DecodeError::malformed("§4.13.1", field.short)
}

#[cold]
fn fault_error(fault: TextFault, field: &Field) -> DecodeError {
    match fault {
        TextFault::IllFormed => DecodeError::malformed("MQTT-1.5.4-1", field.ill_formed),
        TextFault::Nul => DecodeError::malformed("MQTT-1.5.4-2", field.nul),
        TextFault::Wildcard => DecodeError {
            reason: ReasonCode::TopicNameInvalid,
            statement: "MQTT-3.3.2-2",
            what: field.wildcard,
        },
    }
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a UTF-8 Encoded String or Binary Data.
///
/// Panics: when `bytes` are more than [`STRING_BYTES_MAX`].
pub(super) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    assert!(
        bytes.len() <= STRING_BYTES_MAX,
        "a string has at most 65,535 bytes"
    );
    put_u16(out, bytes.len() as u16);
    out.extend_from_slice(bytes);
}

/// Appends what `write` appends, after its length as a Variable Byte Integer.
///
/// Below 128 bytes, the usual case, nothing is moved.
pub(super) fn put_with_len(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    write(out);
    let (bytes, len) = varint_bytes(out.len() - at - 1);
    out.splice(at..=at, bytes[..len].iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    static FIELD: Field = field!("the field");

    #[test]
    fn fields_are_read_in_order_and_the_end_is_checked() {
        let mut reader = Reader::new(b"\x01\x00\x02\x00\x00\x00\x03\x80\x01\x00\x01a\x00\x00");
        assert_eq!(reader.u8(&FIELD), Ok(1));
        assert_eq!(reader.u16(&FIELD), Ok(2));
        assert_eq!(reader.u32(&FIELD), Ok(3));
        assert_eq!(reader.varint(&FIELD), Ok(128));
        assert_eq!(reader.utf8(&FIELD), Ok("a"));
        assert!(reader.end().is_err());
        assert_eq!(reader.binary(&FIELD), Ok(&b""[..]));
        assert!(reader.end().is_ok());
    }

    #[test]
    fn what_is_cut_off_is_refused_by_name() {
        let what = |result: Result<(), DecodeError>| result.expect_err("cut off").what;
        let short = "the field runs past the end of the packet";
        assert_eq!(what(Reader::new(b"").u8(&FIELD).map(drop)), short);
        assert_eq!(what(Reader::new(b"\x00").u16(&FIELD).map(drop)), short);
        assert_eq!(
            what(Reader::new(b"\x00\x00\x00").u32(&FIELD).map(drop)),
            short
        );
        assert_eq!(what(Reader::new(b"\x80").varint(&FIELD).map(drop)), short);
        assert_eq!(
            what(Reader::new(b"\x00\x02a").utf8(&FIELD).map(drop)),
            short
        );
        assert_eq!(
            what(Reader::new(b"\x05a").properties().map(drop)),
            PROPERTY_SECTION.short
        );
        assert_eq!(
            Reader::new(b"\xFF\xFF\xFF\xFF\x01").varint(&FIELD),
            Err(DecodeError::malformed(
                "§1.5.5",
                "the field has more than four bytes"
            ))
        );
    }

    #[test]
    fn put_with_len_makes_room_for_a_long_length() {
        for len in [0, 1, 127, 128, 20_000] {
            let mut out = vec![0xEE];
            put_with_len(&mut out, |out| out.resize(out.len() + len, 7));
            let mut reader = Reader::new(&out[1..]);
            assert_eq!(reader.varint(&FIELD), Ok(len as u32));
            assert_eq!(reader.rest(), vec![7; len]);
        }
    }
}

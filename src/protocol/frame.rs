//! Packets in a stream of bytes: the fixed header.
//!
//! The first byte is checked as soon as it is there, and the length as soon as the fixed header is
//! complete, so nothing is buffered for a packet that will be refused anyway.

use super::error::DecodeError;
use super::varint::{VARINT_MAX, Varint, read_varint};
use super::{PacketType, ReasonCode, Version};

/// The largest packet there can be, fixed header included, in bytes.
///
/// Spec: MQTT 5 §2.1.4.
pub const PACKET_BYTES_MAX: usize = VARINT_MAX as usize + 5;

/// The type and the flags of a packet: its first byte.
///
/// Spec: MQTT 5 §2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    /// The upper four bits.
    pub packet_type: PacketType,
    /// The lower four bits; for PUBLISH they are DUP, QoS (2) and RETAIN.
    pub flags: u8,
}

/// What the first bytes of a buffer hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    /// Not a whole packet yet.
    Incomplete {
        /// The bytes of the whole packet, fixed header included, if its length is known already;
        /// else the least number of bytes that tells more. Always above the bytes there are.
        need: usize,
    },
    /// A whole packet.
    Packet {
        /// Its type and flags.
        header: FixedHeader,
        /// What follows the fixed header.
        body: &'a [u8],
        /// The bytes of the whole packet, fixed header included.
        len: usize,
    },
}

/// Looks for one packet at the start of `bytes`, by the rules of 3.1.1 and 5.0.
///
/// `packet_bytes_max` counts the fixed header too, like the Maximum Packet Size property.
///
/// Errors: 0x81 for packet type 0, wrong flags and a Remaining Length of more than four bytes; 0x95
/// for a packet larger than `packet_bytes_max`. Each as soon as the bytes that show it are there.
///
/// Spec: MQTT 5 §2.1.
pub fn cut(bytes: &[u8], packet_bytes_max: usize) -> Result<Cut<'_>, DecodeError> {
    cut_version(bytes, packet_bytes_max, Version::V311)
}

/// [`cut`] by the rules of `version`.
///
/// They differ in one place: 3.1 has the DUP flag in PUBREL, SUBSCRIBE and UNSUBSCRIBE sent again.
///
/// Errors: as [`cut`].
///
/// Spec: MQTT 3.1 §2.1.
pub fn cut_version(
    bytes: &[u8],
    packet_bytes_max: usize,
    version: Version,
) -> Result<Cut<'_>, DecodeError> {
    let Some((&first, after)) = bytes.split_first() else {
        return Ok(Cut::Incomplete { need: 2 });
    };
    let header = FixedHeader::from_byte(first, version)?;
    let (remaining, varint_len) = match read_varint(after) {
        Varint::Value { value, len } => (value as usize, len),
        Varint::Incomplete => {
            return Ok(Cut::Incomplete {
                need: bytes.len() + 1,
            });
        }
        Varint::TooLong => {
            return Err(DecodeError::malformed(
                "§1.5.5",
                "Remaining Length has more than four bytes",
            ));
        }
    };
    let len = 1 + varint_len + remaining;
    if len > packet_bytes_max {
        return Err(DecodeError {
            reason: ReasonCode::PacketTooLarge,
            statement: "MQTT-3.2.2-15",
            what: "the packet is larger than the Maximum Packet Size",
        });
    }
    match bytes.get(1 + varint_len..len) {
        Some(body) => Ok(Cut::Packet { header, body, len }),
        None => Ok(Cut::Incomplete { need: len }),
    }
}

impl FixedHeader {
    /// The fixed header that begins with `byte`, in a connection that speaks `version`.
    ///
    /// With it a server can refuse anything but CONNECT at the first byte of a connection.
    ///
    /// Errors: 0x81 for packet type 0 and wrong flags.
    ///
    /// Spec: MQTT 5 §2.1.3; MQTT-3.3.1-2 and MQTT-3.3.1-4 for PUBLISH.
    pub fn from_byte(byte: u8, version: Version) -> Result<Self, DecodeError> {
        let flags = byte & 0x0F;
        let packet_type = PacketType::from_u8(byte >> 4).ok_or(DecodeError::malformed(
            "§2.1.2",
            "packet type 0 is reserved",
        ))?;
        let flags_valid = match packet_type {
            PacketType::Publish => {
                return publish_flags(flags).map(|()| Self { packet_type, flags });
            }
            PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe
                if version == Version::V31 =>
            {
                flags & 0b0111 == 0b0010
            }
            _ => byte == packet_type.first_byte(),
        };
        if !flags_valid {
            return Err(DecodeError::malformed(
                flags_statement(packet_type),
                "the flags of the fixed header are not those of the packet type",
            ));
        }
        Ok(Self { packet_type, flags })
    }
}

fn publish_flags(flags: u8) -> Result<(), DecodeError> {
    match flags >> 1 & 0b11 {
        3 => Err(DecodeError::malformed(
            "MQTT-3.3.1-4",
            "QoS 3 does not exist",
        )),
        0 if flags & 0b1000 != 0 => Err(DecodeError::malformed(
            "MQTT-3.3.1-2",
            "DUP is set with QoS 0",
        )),
        _ => Ok(()),
    }
}

fn flags_statement(packet_type: PacketType) -> &'static str {
    match packet_type {
        PacketType::Pubrel => "MQTT-3.6.1-1",
        PacketType::Subscribe => "MQTT-3.8.1-1",
        PacketType::Unsubscribe => "MQTT-3.10.1-1",
        PacketType::Disconnect => "MQTT-3.14.1-1",
        PacketType::Auth => "MQTT-3.15.1-1",
        _ => "MQTT-2.1.3-1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1000;

    fn refused(bytes: &[u8]) -> (ReasonCode, &'static str) {
        let error = cut(bytes, MAX).expect_err("must be refused");
        (error.reason, error.statement)
    }

    #[test]
    fn a_whole_packet_and_what_follows_it() {
        assert_eq!(
            cut(b"\x32\x05\x00\x01a\x00\x07\xC0", MAX),
            Ok(Cut::Packet {
                header: FixedHeader {
                    packet_type: PacketType::Publish,
                    flags: 2
                },
                body: b"\x00\x01a\x00\x07",
                len: 7,
            })
        );
        assert_eq!(
            cut(b"\xC0\x00", MAX),
            Ok(Cut::Packet {
                header: FixedHeader {
                    packet_type: PacketType::Pingreq,
                    flags: 0
                },
                body: b"",
                len: 2,
            })
        );
    }

    #[test]
    fn need_is_exact_once_the_length_is_known() {
        let need = |bytes: &[u8]| match cut(bytes, MAX) {
            Ok(Cut::Incomplete { need }) => need,
            other => panic!("{other:?}"),
        };
        assert_eq!(need(b""), 2);
        assert_eq!(need(b"\x30"), 2);
        assert_eq!(need(b"\x30\x80"), 3);
        assert_eq!(need(b"\x30\x80\x01"), 131);
        assert_eq!(need(b"\x30\x04\x00"), 6);
    }

    #[test]
    fn the_first_byte_alone_is_refused() {
        for byte in 0..=u8::MAX {
            let valid = match byte >> 4 {
                0 => false,
                3 => !matches!(byte & 0x0F, 6 | 7 | 8 | 9 | 14 | 15),
                6 | 8 | 10 => byte & 0x0F == 2,
                _ => byte & 0x0F == 0,
            };
            assert_eq!(cut(&[byte], MAX).is_ok(), valid, "{byte:#x}");
        }
        assert_eq!(refused(b"\x00"), (ReasonCode::MalformedPacket, "§2.1.2"));
        assert_eq!(
            refused(b"\x11"),
            (ReasonCode::MalformedPacket, "MQTT-2.1.3-1")
        );
        assert_eq!(
            refused(b"\x36"),
            (ReasonCode::MalformedPacket, "MQTT-3.3.1-4")
        );
        assert_eq!(
            refused(b"\x38"),
            (ReasonCode::MalformedPacket, "MQTT-3.3.1-2")
        );
        assert_eq!(
            refused(b"\x60"),
            (ReasonCode::MalformedPacket, "MQTT-3.6.1-1")
        );
        assert_eq!(
            refused(b"\x80"),
            (ReasonCode::MalformedPacket, "MQTT-3.8.1-1")
        );
        assert_eq!(
            refused(b"\xA0"),
            (ReasonCode::MalformedPacket, "MQTT-3.10.1-1")
        );
        assert_eq!(
            refused(b"\xE1"),
            (ReasonCode::MalformedPacket, "MQTT-3.14.1-1")
        );
        assert_eq!(
            refused(b"GET / HTTP/1.1"),
            (ReasonCode::MalformedPacket, "MQTT-2.1.3-1")
        );
        assert_eq!(
            refused(b"\x16\x03\x01"),
            (ReasonCode::MalformedPacket, "MQTT-2.1.3-1")
        );
    }

    #[test]
    fn only_3_1_sends_dup_with_pubrel_subscribe_and_unsubscribe() {
        for byte in [0x6A, 0x8A, 0xAA] {
            assert!(cut_version(&[byte, 0], MAX, Version::V31).is_ok());
            assert!(cut_version(&[byte, 0], MAX, Version::V311).is_err());
            assert!(cut_version(&[byte, 0], MAX, Version::V5).is_err());
            assert!(cut_version(&[byte | 1, 0], MAX, Version::V31).is_err());
            assert!(cut_version(&[byte ^ 2, 0], MAX, Version::V31).is_err());
        }
    }

    #[test]
    fn the_limit_counts_the_fixed_header() {
        assert_eq!(cut(b"\x30\x08", 10), Ok(Cut::Incomplete { need: 10 }));
        assert_eq!(
            cut(b"\x30\x09", 10).map_err(|error| error.reason),
            Err(ReasonCode::PacketTooLarge)
        );
        assert_eq!(
            refused(b"\x30\xFF\xFF\xFF\x7F").0,
            ReasonCode::PacketTooLarge
        );
        assert_eq!(
            cut(b"\x30\xFF\xFF\xFF\x7F", PACKET_BYTES_MAX),
            Ok(Cut::Incomplete {
                need: PACKET_BYTES_MAX
            })
        );
    }

    #[test]
    fn a_remaining_length_of_five_bytes_is_refused_at_the_fourth() {
        assert_eq!(
            refused(b"\x10\xFF\xFF\xFF\xFF"),
            (ReasonCode::MalformedPacket, "§1.5.5")
        );
        assert_eq!(
            cut(b"\x10\xFF\xFF\xFF", MAX),
            Ok(Cut::Incomplete { need: 5 })
        );
    }

    #[test]
    fn a_padded_remaining_length_is_read_for_its_value() {
        let Ok(Cut::Packet { body, len, .. }) = cut(b"\x30\x84\x00\x00\x01tx", MAX) else {
            panic!("must be accepted");
        };
        assert_eq!((body, len), (&b"\x00\x01tx"[..], 7));
    }
}

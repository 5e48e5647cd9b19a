//! PINGREQ and PINGRESP.

use super::PacketType;
use super::error::DecodeError;

/// Checks the body of a PINGREQ or PINGRESP, which must be empty.
///
/// Errors: 0x81 when it is not.
///
/// Spec: MQTT 5 §3.12 and §3.13.
pub fn decode(body: &[u8]) -> Result<(), DecodeError> {
    if body.is_empty() {
        return Ok(());
    }
    Err(DecodeError::malformed(
        "§3.12.1",
        "PINGREQ and PINGRESP have no body",
    ))
}

/// Appends a PINGREQ.
pub fn put_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[PacketType::Pingreq.first_byte(), 0]);
}

/// Appends a PINGRESP.
pub fn put_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[PacketType::Pingresp.first_byte(), 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bytes_each_and_no_body() {
        let mut out = Vec::new();
        put_pingreq(&mut out);
        put_pingresp(&mut out);
        assert_eq!(out, b"\xC0\x00\xD0\x00");
        assert_eq!(decode(b""), Ok(()));
        assert!(decode(b"\x00").is_err());
    }
}

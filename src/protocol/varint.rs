//! Variable Byte Integers: seven bits a byte, least significant first, at most four bytes.
//!
//! A form longer than needed is read for its value as long as it has at most four bytes: 3.1 and
//! 3.1.1 have no rule against it, and some of their clients reserve four bytes for the Remaining
//! Length. We never write one (MQTT-1.5.5-1).

/// The largest value a Variable Byte Integer holds.
pub const VARINT_MAX: u32 = 268_435_455;

/// What the first bytes of a buffer say about a Variable Byte Integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Varint {
    /// The buffer ends inside the integer.
    Incomplete,
    /// The integer has more than four bytes: malformed.
    TooLong,
    /// The integer.
    Value {
        /// Its value, at most [`VARINT_MAX`].
        value: u32,
        /// The bytes it takes, 1 to 4.
        len: usize,
    },
}

/// Reads the Variable Byte Integer at the start of `bytes`.
///
/// Spec: MQTT 5 §1.5.5.
pub fn read_varint(bytes: &[u8]) -> Varint {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Varint::Value {
                value,
                len: index + 1,
            };
        }
    }
    if bytes.len() < 4 {
        Varint::Incomplete
    } else {
        Varint::TooLong
    }
}

/// Appends `value` in its shortest form.
///
/// Panics: when `value` is above [`VARINT_MAX`].
///
/// Spec: MQTT 5 §1.5.5, MQTT-1.5.5-1.
pub fn put_varint(out: &mut Vec<u8>, value: usize) {
    if value < 0x80 {
        return out.push(value as u8);
    }
    let (bytes, len) = varint_bytes(value);
    out.extend_from_slice(&bytes[..len]);
}

/// The bytes that [`put_varint`] appends for `value`.
///
/// Panics: when `value` is above [`VARINT_MAX`].
pub fn varint_len(value: usize) -> usize {
    assert!(
        value <= VARINT_MAX as usize,
        "a Variable Byte Integer has at most four bytes"
    );
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// The shortest form of `value` and its length.
pub(super) fn varint_bytes(value: usize) -> ([u8; 4], usize) {
    let len = varint_len(value);
    let mut bytes = [0; 4];
    for (index, byte) in bytes[..len].iter_mut().enumerate() {
        let continuation = if index + 1 < len { 0x80 } else { 0 };
        *byte = (value >> (7 * index) & 0x7F) as u8 | continuation;
    }
    (bytes, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_each_length_as_in_table_1_1() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (VARINT_MAX, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value as usize);
            assert_eq!(out, bytes);
            assert_eq!(varint_len(value as usize), bytes.len());
            assert_eq!(
                read_varint(bytes),
                Varint::Value {
                    value,
                    len: bytes.len()
                }
            );
            assert_eq!(read_varint(&bytes[..bytes.len() - 1]), Varint::Incomplete);
        }
    }

    #[test]
    fn long_forms_are_read_up_to_four_bytes() {
        assert_eq!(
            read_varint(&[0x84, 0x00]),
            Varint::Value { value: 4, len: 2 }
        );
        assert_eq!(
            read_varint(&[0x84, 0x80, 0x80, 0x00]),
            Varint::Value { value: 4, len: 4 }
        );
        assert_eq!(
            read_varint(&[0x84, 0x80, 0x80, 0x80, 0x00]),
            Varint::TooLong
        );
        assert_eq!(read_varint(&[0xFF, 0xFF, 0xFF, 0xFF]), Varint::TooLong);
    }

    #[test]
    #[should_panic(expected = "at most four bytes")]
    fn a_value_above_the_limit_is_our_own_mistake() {
        put_varint(&mut Vec::new(), VARINT_MAX as usize + 1);
    }
}

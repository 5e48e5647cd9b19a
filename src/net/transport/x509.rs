//! The few things that are wanted of a certificate that rustls has verified: its names and its last day.
//!
//! A walk over DER (X.690) that never allocates for what it skips and never goes deeper than a certificate's own
//! structure (RFC 5280 §4.1). What does not look as expected is `None`.

use crate::civil;
use crate::config::listener::CertificateName;
use std::fmt::Write;
use std::ops::Range;

const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const OCTET_STRING: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
/// `[0] EXPLICIT` version and `[3] EXPLICIT` extensions of a certificate.
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];

/// Attribute types that RFC 2253 §2.3 names, and the e-mail address that every tool names.
const ATTRIBUTES: [(&[u8], &str); 10] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x0A], "O"),
    (&[0x55, 0x04, 0x0B], "OU"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x09], "STREET"),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x19],
        "DC",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x01],
        "UID",
    ),
    (
        &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x09, 0x01],
        "emailAddress",
    ),
];

/// The name in a certificate that the operator chose; none if it has no such name, or an empty one.
pub fn name(certificate: &[u8], kind: CertificateName) -> Option<String> {
    let parts = Parts::of(certificate)?;
    let name = match kind {
        CertificateName::None => None,
        CertificateName::CommonName => parts.common_name(),
        CertificateName::SubjectAlternativeName => parts.subject_alternative_name(),
        CertificateName::DistinguishedName => parts.distinguished_name(),
    };
    name.filter(|name| !name.is_empty())
}

/// The second after which a certificate is not valid any more, counted from the Unix epoch; 0 when that is before.
pub fn not_after_s(certificate: &[u8]) -> Option<i64> {
    let mut validity = Reader(Parts::of(certificate)?.validity);
    validity.next()?;
    let (tag, text) = validity.next()?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |range: Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, at) = match tag {
        // RFC 5280 §4.1.2.5.1: 50 to 99 are of the last century.
        UTC_TIME => match number(0..2)? {
            year @ 0..50 => (2000 + year, 2),
            year => (1900 + year, 2),
        },
        GENERALIZED_TIME => (number(0..4)?, 4),
        _ => return None,
    };
    let two = |index: usize| number(at + 2 * index..at + 2 * index + 2);
    let (month, day) = (two(0)?, two(1)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if year < 1970 {
        return Some(0);
    }
    let hours = civil::to_days(year, month, day) * 24 + two(2)?;
    i64::try_from((hours * 60 + two(3)?) * 60 + two(4)?).ok()
}

/// What of a certificate is looked at.
struct Parts<'a> {
    validity: &'a [u8],
    subject: &'a [u8],
    extensions: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(certificate: &'a [u8]) -> Option<Self> {
        let certificate = Reader(certificate).expect(SEQUENCE)?;
        let mut fields = Reader(Reader(certificate).expect(SEQUENCE)?);
        if fields.peek()? == VERSION {
            fields.next()?;
        }
        fields.expect(INTEGER)?;
        // Signature algorithm and issuer.
        fields.expect(SEQUENCE)?;
        fields.expect(SEQUENCE)?;
        let validity = fields.expect(SEQUENCE)?;
        let subject = fields.expect(SEQUENCE)?;
        let mut extensions: &[u8] = &[];
        for (tag, value) in fields {
            if tag == EXTENSIONS {
                extensions = Reader(value).expect(SEQUENCE)?;
            }
        }
        Some(Self {
            validity,
            subject,
            extensions,
        })
    }

    fn common_name(&self) -> Option<String> {
        let attributes = Reader(self.subject).flat_map(|(_, set)| Reader(set));
        let names = attributes.filter_map(|(_, attribute)| attribute_of(attribute));
        let (_, tag, value) = names.filter(|(oid, ..)| *oid == COMMON_NAME).last()?;
        text(tag, value)
    }

    fn subject_alternative_name(&self) -> Option<String> {
        for (_, extension) in Reader(self.extensions) {
            let mut fields = Reader(extension);
            if fields.expect(OID) != Some(SUBJECT_ALT_NAME) {
                continue;
            }
            if fields.peek()? == BOOLEAN {
                fields.next()?;
            }
            let names = Reader(Reader(fields.expect(OCTET_STRING)?).expect(SEQUENCE)?);
            // rfc822Name, dNSName and uniformResourceIdentifier; all are ASCII.
            let mut named = names.filter(|(tag, _)| matches!(tag, 0x81 | 0x82 | 0x86));
            return named.next().and_then(|(_, name)| text(0x16, name));
        }
        None
    }

    /// RFC 2253: the last part comes first.
    fn distinguished_name(&self) -> Option<String> {
        let mut sets: Vec<&[u8]> = Vec::new();
        for (tag, set) in Reader(self.subject) {
            (tag == SET).then_some(())?;
            sets.push(set);
        }
        let mut name = String::new();
        for set in sets.into_iter().rev() {
            for (at, (_, attribute)) in Reader(set).enumerate() {
                let (oid, tag, value) = attribute_of(attribute)?;
                if !name.is_empty() {
                    name.push(if at == 0 { ',' } else { '+' });
                }
                match ATTRIBUTES.iter().find(|(known, _)| *known == oid) {
                    Some((_, short)) => name.push_str(short),
                    None => put_oid(&mut name, oid)?,
                }
                name.push('=');
                put_escaped(&mut name, &text(tag, value)?);
            }
        }
        Some(name)
    }
}

/// Type, tag and content of an attribute's value.
fn attribute_of(attribute: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let mut fields = Reader(attribute);
    let oid = fields.expect(OID)?;
    let (tag, value) = fields.next()?;
    Some((oid, tag, value))
}

/// The text of a string type. Control characters are no part of a name.
fn text(tag: u8, value: &[u8]) -> Option<String> {
    let text = match tag {
        // UTF8String, and the ones that are ASCII: Numeric, Printable, IA5, Visible.
        0x0C | 0x12 | 0x13 | 0x16 | 0x1A => std::str::from_utf8(value).ok()?.to_owned(),
        // T61String, in practice Latin 1.
        0x14 => value.iter().map(|byte| char::from(*byte)).collect(),
        // BMPString.
        0x1E => {
            let units = value
                .chunks(2)
                .map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()?
        }
        _ => return None,
    };
    Some(text).filter(|text: &String| !text.chars().any(char::is_control))
}

fn put_oid(out: &mut String, oid: &[u8]) -> Option<()> {
    let (mut number, mut is_first) = (0_u64, true);
    for byte in oid {
        number = number.checked_mul(128)? + u64::from(byte & 0x7F);
        if byte & 0x80 != 0 {
            continue;
        }
        // Writing to a String does not fail.
        let _ = if is_first {
            let top = (number / 40).min(2);
            write!(out, "{top}.{}", number - 40 * top)
        } else {
            write!(out, ".{number}")
        };
        (number, is_first) = (0, false);
    }
    Some(())
}

/// RFC 2253 §2.4.
fn put_escaped(out: &mut String, text: &str) {
    let last = text.chars().count().saturating_sub(1);
    for (at, c) in text.chars().enumerate() {
        let is_edge_space = c == ' ' && (at == 0 || at == last);
        if is_edge_space || (at == 0 && c == '#') || ",+\"\\<>;".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
}

/// Values one after another.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The content of the next value, which must have this tag.
    fn expect(&mut self, expected: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.next()?;
        (tag == expected).then_some(content)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = (u8, &'a [u8]);

    /// The next value; none at the end, and none for what is no DER.
    fn next(&mut self) -> Option<Self::Item> {
        let [tag, first, rest @ ..] = self.0 else {
            return None;
        };
        let (len, rest) = match *first {
            short @ 0..0x80 => (usize::from(short), rest),
            long => {
                let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7F))?;
                if digits.is_empty() || digits.len() > 4 {
                    return None;
                }
                let len = digits
                    .iter()
                    .fold(0, |len, digit| len << 8 | usize::from(*digit));
                (len, rest)
            }
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((*tag, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    fn certificate(make: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        make(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn sensor() -> Vec<u8> {
        certificate(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::CountryName, "DE");
            name.push(
                DnType::OrganizationName,
                DnValue::Utf8String("Müller, Söhne + Co".into()),
            );
            name.push(DnType::CustomDnType(vec![1, 2, 840, 7]), "x");
            name.push(DnType::CommonName, " sensor#1 ");
            params.subject_alt_names = vec![
                SanType::IpAddress([127, 0, 0, 1].into()),
                SanType::DnsName("sensor.example".try_into().unwrap()),
                SanType::URI("urn:x".try_into().unwrap()),
            ];
            params.not_after = rcgen::date_time_ymd(2031, 3, 1);
        })
    }

    #[test]
    fn names_are_found() {
        let certificate = sensor();
        let name = |kind| name(&certificate, kind);
        assert_eq!(
            name(CertificateName::CommonName).as_deref(),
            Some(" sensor#1 ")
        );
        assert_eq!(
            name(CertificateName::SubjectAlternativeName).as_deref(),
            Some("sensor.example")
        );
        assert_eq!(
            name(CertificateName::DistinguishedName).as_deref(),
            Some("CN=\\ sensor#1\\ ,1.2.840.7=x,O=Müller\\, Söhne \\+ Co,C=DE")
        );
        assert_eq!(name(CertificateName::None), None);
    }

    #[test]
    fn a_certificate_without_names_has_none() {
        let certificate = certificate(|_| {});
        for kind in [
            CertificateName::CommonName,
            CertificateName::SubjectAlternativeName,
            CertificateName::DistinguishedName,
        ] {
            assert_eq!(name(&certificate, kind), None);
        }
    }

    #[test]
    fn the_last_second_is_found() {
        assert_eq!(not_after_s(&sensor()), Some(1_930_089_600));
        let far = certificate(|params| params.not_after = rcgen::date_time_ymd(2100, 12, 31));
        assert_eq!(not_after_s(&far), Some(4_133_894_400));
        let past = certificate(|params| params.not_after = rcgen::date_time_ymd(1960, 1, 1));
        assert_eq!(not_after_s(&past), Some(0));
    }

    #[test]
    fn a_name_with_control_characters_is_none() {
        let certificate =
            certificate(|params| params.distinguished_name.push(DnType::CommonName, "a\nb"));
        assert_eq!(name(&certificate, CertificateName::CommonName), None);
    }

    proptest! {
        #[test]
        fn a_damaged_certificate_does_no_harm(at in 0_usize..600, byte: u8, end in 0_usize..600) {
            let mut certificate = sensor();
            let len = certificate.len();
            certificate[at % len] = byte;
            certificate.truncate(end.max(1));
            for kind in [CertificateName::CommonName, CertificateName::SubjectAlternativeName, CertificateName::DistinguishedName] {
                let _ = name(&certificate, kind);
            }
            let _ = not_after_s(&certificate);
        }
    }
}

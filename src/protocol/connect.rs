//! CONNECT, and the Will in it.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use super::error::DecodeError;
use super::property::{
    Forward, Property, Splitter, UserProperties, Walker, put_properties, put_some,
};
use super::wire::{Field, Reader, field, put_binary, put_u16, put_with_len};
use super::{PacketType, QoS, ReasonCode, Version};

/// A CONNECT packet: a client asks for a Session.
///
/// Spec: MQTT 5 §3.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the connection will speak.
    pub version: Version,
    /// Whether to begin with a new Session; in 3.1 and 3.1.1 Clean Session.
    pub clean_start: bool,
    /// The longest silence of the client, in seconds; 0 is no limit.
    pub keep_alive_s: u16,
    /// The Client Identifier. It may be empty in every version: what that means is the
    /// server's to answer (0x02 in 3.1, and in 3.1.1 without Clean Session).
    pub client_id: &'a str,
    /// What to publish when the client is gone.
    pub will: Option<Will<'a>>,
    /// The User Name.
    pub username: Option<&'a str>,
    /// The Password; without a User Name only in 5.0.
    pub password: Option<&'a [u8]>,
    /// The properties; the defaults in 3.1 and 3.1.1.
    pub properties: ConnectProperties<'a>,
}

/// The properties of CONNECT.
///
/// Spec: MQTT 5 §3.1.2.11.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// How long the Session outlives the connection, in seconds; `u32::MAX` is for ever, absent is 0.
    pub session_expiry_s: Option<u32>,
    /// How many QoS 1 and 2 messages the client takes at a time; absent is 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The largest packet the client takes, in bytes.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The highest Topic Alias the client takes; 0 is none.
    pub topic_alias_maximum: u16,
    /// Whether the client would like Response Information.
    pub request_response_information: bool,
    /// Whether the client takes Reason Strings and User Properties with failures; absent is yes.
    pub request_problem_information: bool,
    /// The name of the enhanced authentication the client wants.
    pub authentication_method: Option<&'a str>,
    /// What the Authentication Method defines; only with a method.
    pub authentication_data: Option<&'a [u8]>,
    /// The User Properties.
    pub user: UserProperties<'a>,
}

/// The Will Message: what the server publishes when the client is gone without a proper farewell.
///
/// Spec: MQTT 5 §3.1.2.5 and §3.1.3.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// The QoS of the message.
    pub qos: QoS,
    /// Whether the message will be retained.
    pub retain: bool,
    /// The Topic Name; never empty.
    pub topic: &'a str,
    /// The payload.
    pub payload: &'a [u8],
    /// How long to wait before publishing it, in seconds.
    pub delay_s: u32,
    /// The lifetime of the message once published, in seconds.
    pub message_expiry_s: Option<u32>,
    /// The properties to publish with it.
    pub forward: Forward<'a>,
}

/// A CONNECT that breaks the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// What is wrong.
    pub error: DecodeError,
    /// The version in which a CONNACK with the error's Reason Code may be sent before closing;
    /// `None` means to close without a word.
    pub answer: Option<Version>,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for ConnectError {}

const RESERVED: u8 = 0b0000_0001;
const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS_SHIFT: u32 = 3;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USERNAME: u8 = 0b1000_0000;

static NAME_FIELD: Field = field!("Protocol Name");
static LEVEL_FIELD: Field = field!("Protocol Version");
static FLAGS_FIELD: Field = field!("Connect Flags");
static KEEP_ALIVE_FIELD: Field = field!("Keep Alive");
static CLIENT_ID_FIELD: Field = field!("Client Identifier");
static WILL_TOPIC_FIELD: Field = field!("Will Topic");
static WILL_PAYLOAD_FIELD: Field = field!("Will Payload");
static USERNAME_FIELD: Field = field!("User Name");
static PASSWORD_FIELD: Field = field!("Password");

impl<'a> Connect<'a> {
    /// Reads the body of a CONNECT.
    ///
    /// Errors: 0x84 for another protocol or version, 0x90 for a Will Topic with a wildcard or without
    /// a character, else 0x81 or 0x82. Before the version is known, and in 3.1 and 3.1.1, nothing
    /// may be answered but the refusal of the version.
    ///
    /// Spec: MQTT 5 §3.1.4, MQTT-3.1.4-1.
    pub fn decode(body: &'a [u8]) -> Result<Self, ConnectError> {
        let mut reader = Reader::new(body);
        let version = decode_version(&mut reader)?;
        Self::decode_after_version(version, reader).map_err(|error| ConnectError {
            error,
            answer: version.is_v5().then_some(version),
        })
    }

    fn decode_after_version(version: Version, mut reader: Reader<'a>) -> Result<Self, DecodeError> {
        let flags = reader.u8(&FLAGS_FIELD)?;
        check_flags(version, flags)?;
        let keep_alive_s = reader.u16(&KEEP_ALIVE_FIELD)?;
        let properties = match version {
            Version::V5 => ConnectProperties::decode(reader.properties()?)?,
            Version::V31 | Version::V311 => ConnectProperties::default(),
        };
        let client_id = reader.utf8(&CLIENT_ID_FIELD)?;
        let will = if flags & WILL != 0 {
            Some(Will::decode(version, flags, &mut reader)?)
        } else {
            None
        };
        // MQTT 3.1 §3.1: the strings may be missing in spite of their flags.
        let missing = |reader: &Reader<'_>| version == Version::V31 && reader.is_empty();
        let username = if flags & USERNAME != 0 && !missing(&reader) {
            Some(reader.utf8(&USERNAME_FIELD)?)
        } else {
            None
        };
        let password = if flags & PASSWORD != 0 && !missing(&reader) {
            Some(reader.binary(&PASSWORD_FIELD)?)
        } else {
            None
        };
        reader.end()?;
        let clean_start = flags & CLEAN_START != 0;
        Ok(Self {
            version,
            clean_start,
            keep_alive_s,
            client_id,
            will,
            username,
            password,
            properties,
        })
    }

    /// Appends the packet.
    ///
    /// Panics: when a string is longer than 65,535 bytes, or there is a Password without a User
    /// Name in 3.1 or 3.1.1, or Authentication Data without a method.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let v5 = self.version.is_v5();
        assert!(
            v5 || self.password.is_none() || self.username.is_some(),
            "before 5.0 a Password needs a User Name"
        );
        let mut flags = 0;
        if self.clean_start {
            flags |= CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= WILL | (will.qos as u8) << WILL_QOS_SHIFT;
            if will.retain {
                flags |= WILL_RETAIN;
            }
        }
        if self.username.is_some() {
            flags |= USERNAME;
        }
        if self.password.is_some() {
            flags |= PASSWORD;
        }
        out.push(PacketType::Connect.first_byte());
        put_with_len(out, |out| {
            put_binary(out, self.version.protocol_name().as_bytes());
            out.push(self.version.level());
            out.push(flags);
            put_u16(out, self.keep_alive_s);
            if v5 {
                put_properties(out, |out| self.properties.put(out));
            }
            put_binary(out, self.client_id.as_bytes());
            if let Some(will) = &self.will {
                will.put(self.version, out);
            }
            if let Some(username) = self.username {
                put_binary(out, username.as_bytes());
            }
            if let Some(password) = self.password {
                put_binary(out, password);
            }
        });
    }
}

/// Reads the Protocol Name and the Protocol Version.
fn decode_version(reader: &mut Reader<'_>) -> Result<Version, ConnectError> {
    let quiet = |error| ConnectError {
        error,
        answer: None,
    };
    let name = reader.binary(&NAME_FIELD).map_err(quiet)?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(quiet(DecodeError {
            reason: ReasonCode::UnsupportedProtocolVersion,
            statement: "MQTT-3.1.2-1",
            what: "the Protocol Name is not MQTT",
        }));
    }
    let level = reader.u8(&LEVEL_FIELD).map_err(quiet)?;
    match (name, level) {
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        _ => Err(ConnectError {
            error: DecodeError {
                reason: ReasonCode::UnsupportedProtocolVersion,
                statement: "MQTT-3.1.2-2",
                what: "the Protocol Version is not 3.1, 3.1.1 or 5.0",
            },
            // A level above 5 is a later MQTT, told in 5.0. Bridges of mosquitto first try the level
            // with the top bit set, and fall back when they are told in 3.1.1.
            answer: Some(if (6..0x80).contains(&level) {
                Version::V5
            } else {
                Version::V311
            }),
        }),
    }
}

/// 3.1 has no rule on the reserved bit, and ignores the Will flags when there is no Will.
fn check_flags(version: Version, flags: u8) -> Result<(), DecodeError> {
    let malformed = DecodeError::malformed;
    let lenient = version == Version::V31;
    if flags & RESERVED != 0 && !lenient {
        return Err(malformed(
            "MQTT-3.1.2-3",
            "the reserved Connect Flag is set",
        ));
    }
    let will_qos = will_qos_bits(flags);
    if flags & WILL == 0 {
        if will_qos != 0 && !lenient {
            return Err(malformed("MQTT-3.1.2-11", "a Will QoS without a Will"));
        }
        if flags & WILL_RETAIN != 0 && !lenient {
            return Err(malformed("MQTT-3.1.2-13", "Will Retain without a Will"));
        }
    } else if will_qos == 3 {
        return Err(malformed("MQTT-3.1.2-12", "Will QoS 3 does not exist"));
    }
    if flags & PASSWORD != 0 && flags & USERNAME == 0 && !version.is_v5() {
        // The number is that of 3.1.1; 5.0 has no such rule.
        return Err(malformed("MQTT-3.1.2-22", "a Password without a User Name"));
    }
    Ok(())
}

fn will_qos_bits(flags: u8) -> u8 {
    flags >> WILL_QOS_SHIFT & 0b11
}

impl<'a> Will<'a> {
    fn decode(version: Version, flags: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let qos = QoS::from_bits(will_qos_bits(flags)).expect("check_flags refused Will QoS 3");
        let mut will = Will {
            qos,
            retain: flags & WILL_RETAIN != 0,
            topic: "",
            payload: &[],
            delay_s: 0,
            message_expiry_s: None,
            forward: Forward::default(),
        };
        if version.is_v5() {
            will.read_properties(reader.properties()?)?;
        }
        will.topic = reader.topic_name(&WILL_TOPIC_FIELD)?;
        if will.topic.is_empty() {
            return Err(DecodeError {
                reason: ReasonCode::TopicNameInvalid,
                statement: "MQTT-4.7.3-1",
                what: "the Will Topic is empty",
            });
        }
        will.payload = reader.binary(&WILL_PAYLOAD_FIELD)?;
        Ok(will)
    }

    fn read_properties(&mut self, raw: &'a [u8]) -> Result<(), DecodeError> {
        let mut splitter = Splitter::new(raw);
        let mut walker = Walker::new_will(raw);
        while let Some(property) = walker.next() {
            let property = property?;
            splitter.take(&property, walker.left());
            match property {
                Property::WillDelayInterval(delay_s) => self.delay_s = delay_s,
                Property::MessageExpiryInterval(expiry_s) => self.message_expiry_s = Some(expiry_s),
                _ => {}
            }
        }
        self.forward = splitter.finish();
        Ok(())
    }

    fn put(&self, version: Version, out: &mut Vec<u8>) {
        if version.is_v5() {
            put_properties(out, |out| {
                if self.delay_s != 0 {
                    Property::WillDelayInterval(self.delay_s).put(out);
                }
                put_some(
                    out,
                    self.message_expiry_s.map(Property::MessageExpiryInterval),
                );
                self.forward
                    .slices()
                    .for_each(|run| out.extend_from_slice(run));
            });
        }
        put_binary(out, self.topic.as_bytes());
        put_binary(out, self.payload);
    }
}

/// What a client gets that sends no properties.
impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry_s: None,
            receive_maximum: None,
            packet_bytes_max: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
            user: UserProperties::default(),
        }
    }
}

impl<'a> ConnectProperties<'a> {
    fn decode(raw: &'a [u8]) -> Result<Self, DecodeError> {
        let mut properties = Self {
            user: UserProperties::over(raw),
            ..Self::default()
        };
        for property in Walker::new(PacketType::Connect, raw) {
            match property? {
                Property::SessionExpiryInterval(s) => properties.session_expiry_s = Some(s),
                Property::ReceiveMaximum(maximum) => properties.receive_maximum = Some(maximum),
                Property::MaximumPacketSize(bytes) => properties.packet_bytes_max = Some(bytes),
                Property::TopicAliasMaximum(maximum) => properties.topic_alias_maximum = maximum,
                Property::RequestResponseInformation(wanted) => {
                    properties.request_response_information = wanted;
                }
                Property::RequestProblemInformation(wanted) => {
                    properties.request_problem_information = wanted;
                }
                Property::AuthenticationMethod(method) => {
                    properties.authentication_method = Some(method);
                }
                Property::AuthenticationData(data) => properties.authentication_data = Some(data),
                _ => {}
            }
        }
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(DecodeError::protocol(
                "§3.1.2.11.10",
                "Authentication Data without an Authentication Method",
            ));
        }
        Ok(properties)
    }

    fn put(&self, out: &mut Vec<u8>) {
        assert!(
            self.authentication_data.is_none() || self.authentication_method.is_some(),
            "Authentication Data needs an Authentication Method"
        );
        put_some(
            out,
            self.session_expiry_s.map(Property::SessionExpiryInterval),
        );
        put_some(out, self.receive_maximum.map(Property::ReceiveMaximum));
        put_some(out, self.packet_bytes_max.map(Property::MaximumPacketSize));
        if self.topic_alias_maximum != 0 {
            Property::TopicAliasMaximum(self.topic_alias_maximum).put(out);
        }
        if self.request_response_information {
            Property::RequestResponseInformation(true).put(out);
        }
        if !self.request_problem_information {
            Property::RequestProblemInformation(false).put(out);
        }
        put_some(
            out,
            self.authentication_method
                .map(Property::AuthenticationMethod),
        );
        put_some(
            out,
            self.authentication_data.map(Property::AuthenticationData),
        );
        self.user.put(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body of a CONNECT of the client `abuse` with the Keep Alive 60.
    fn body(level: u8, flags: u8, properties: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut body = b"\x00\x04MQTT".to_vec();
        body.extend_from_slice(&[level, flags, 0, 60]);
        if level == 5 {
            put_binary_len_1(&mut body, properties);
        }
        put_binary(&mut body, b"abuse");
        body.extend_from_slice(rest);
        body
    }

    fn put_binary_len_1(out: &mut Vec<u8>, bytes: &[u8]) {
        out.push(bytes.len() as u8);
        out.extend_from_slice(bytes);
    }

    fn encoded(connect: &Connect<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        connect.encode(&mut out);
        assert_eq!(out[..2], [0x10, out.len() as u8 - 2]);
        out.split_off(2)
    }

    #[test]
    fn the_smallest_of_each_version() {
        let v31 = b"\x00\x06MQIsdp\x03\x02\x00\x0A\x00\x01c";
        let v311 = b"\x00\x04MQTT\x04\x02\x00\x0A\x00\x01c";
        let v5 = b"\x00\x04MQTT\x05\x02\x00\x0A\x00\x00\x01c";
        for (body, version) in [
            (&v31[..], Version::V31),
            (v311, Version::V311),
            (v5, Version::V5),
        ] {
            let connect = Connect::decode(body).expect("valid");
            assert_eq!(
                connect,
                Connect {
                    version,
                    clean_start: true,
                    keep_alive_s: 10,
                    client_id: "c",
                    will: None,
                    username: None,
                    password: None,
                    properties: ConnectProperties::default(),
                }
            );
            assert_eq!(encoded(&connect), body);
        }
    }

    #[test]
    fn every_field_of_5_0() {
        let properties =
            b"\x11\x00\x00\x00\x0A\x21\x00\x14\x27\x00\x00\x01\x00\x22\x00\x05\x19\x01\x17\x00\
            \x15\x00\x01m\x16\x00\x01d\x26\x00\x01k\x00\x01v";
        let rest = b"\x0F\x18\x00\x00\x00\x05\x02\x00\x00\x00\x06\x03\x00\x02ct\
            \x00\x03w/t\x00\x01p\x00\x01u\x00\x02\xFF\x00";
        let body = body(5, 0b1111_0110, properties, rest);
        let connect = Connect::decode(&body).expect("valid");
        let will = connect.will.as_ref().expect("a Will");
        assert_eq!((will.qos, will.retain), (QoS::ExactlyOnce, true));
        assert_eq!((will.topic, will.payload), ("w/t", &b"p"[..]));
        assert_eq!((will.delay_s, will.message_expiry_s), (5, Some(6)));
        assert_eq!(will.forward.content_type(), Some("ct"));
        assert_eq!(will.forward.len(), 5);
        assert_eq!(
            (connect.username, connect.password),
            (Some("u"), Some(&b"\xFF\x00"[..]))
        );
        let got = &connect.properties;
        assert_eq!(got.session_expiry_s, Some(10));
        assert_eq!(got.receive_maximum.map(NonZeroU16::get), Some(20));
        assert_eq!(got.packet_bytes_max.map(NonZeroU32::get), Some(256));
        assert_eq!(got.topic_alias_maximum, 5);
        assert!(got.request_response_information);
        assert!(!got.request_problem_information);
        assert_eq!(got.authentication_method, Some("m"));
        assert_eq!(got.authentication_data, Some(&b"d"[..]));
        assert_eq!(got.user.clone().collect::<Vec<_>>(), [("k", "v")]);
        assert_eq!(encoded(&connect), body);
    }

    #[test]
    fn names_and_levels() {
        use Version::{V5, V311};
        for (body, statement, answer) in [
            (&b""[..], "§4.13.1", None),
            (b"\xFF\xFFMQTT\x04\x02\x00\x3C\x00\x01a", "§4.13.1", None),
            (b"\x00\x04MQTT", "§4.13.1", None),
            (
                b"\x00\x04MQTX\x05\x02\x00\x3C\x00\x00\x01a",
                "MQTT-3.1.2-1",
                None,
            ),
            (
                b"\x00\x04mqtt\x04\x02\x00\x3C\x00\x01a",
                "MQTT-3.1.2-1",
                None,
            ),
            (
                b"\x00\x04MQTT\x63\x02\x00\x3C\x00\x01a",
                "MQTT-3.1.2-2",
                Some(V5),
            ),
            (b"\x00\x04MQTT\x06", "MQTT-3.1.2-2", Some(V5)),
            (b"\x00\x04MQTT\x03", "MQTT-3.1.2-2", Some(V311)),
            (b"\x00\x04MQTT\x00", "MQTT-3.1.2-2", Some(V311)),
            (b"\x00\x04MQTT\x7F", "MQTT-3.1.2-2", Some(V5)),
            (b"\x00\x04MQTT\x80", "MQTT-3.1.2-2", Some(V311)),
            (b"\x00\x04MQTT\x84", "MQTT-3.1.2-2", Some(V311)),
            (b"\x00\x06MQIsdp\x04", "MQTT-3.1.2-2", Some(V311)),
        ] {
            let error = Connect::decode(body).expect_err("must be refused");
            assert_eq!(
                (error.error.statement, error.answer),
                (statement, answer),
                "{body:x?}"
            );
            if answer.is_some() {
                assert_eq!(error.error.reason, ReasonCode::UnsupportedProtocolVersion);
                assert_eq!(error.error.reason.connack_v3(), 1);
            }
        }
    }

    #[test]
    fn malformed_in_3_1_1_is_not_answered() {
        for (body, statement) in [
            (body(4, 0b0000_0011, b"", b""), "MQTT-3.1.2-3"),
            (
                body(4, 0b0001_1110, b"", b"\x00\x01w\x00\x01m"),
                "MQTT-3.1.2-12",
            ),
            (body(4, 0b0000_1010, b"", b""), "MQTT-3.1.2-11"),
            (body(4, 0b0010_0010, b"", b""), "MQTT-3.1.2-13"),
            (body(4, 0b0000_0110, b"", b""), "§4.13.1"),
            (
                body(4, 0b0000_0110, b"", b"\x00\x03a/#\x00\x01m"),
                "MQTT-3.3.2-2",
            ),
            (
                body(4, 0b0000_0110, b"", b"\x00\x00\x00\x01m"),
                "MQTT-4.7.3-1",
            ),
            (body(4, 0b0100_0010, b"", b"\x00\x01p"), "MQTT-3.1.2-22"),
            (body(4, 0b1000_0010, b"", b""), "§4.13.1"),
            (body(4, 0b1000_0010, b"", b"\x00\x01\xFF"), "MQTT-1.5.4-1"),
            (body(4, 0b0000_0010, b"", b"\x00\x03abc"), "§4.13.1"),
            (b"\x00\x04MQTT\x04\x02\x00\x3C\xFF\xFFa".to_vec(), "§4.13.1"),
            (
                b"\x00\x04MQTT\x04\x02\x00\x3C\x00\x03a\0b".to_vec(),
                "MQTT-1.5.4-2",
            ),
            (
                b"\x00\x04MQTT\x04\x02\x00\x3C\x00\x04a\xED\xA0\x80".to_vec(),
                "MQTT-1.5.4-1",
            ),
            (
                b"\x00\x04MQTT\x04\x02\x00\x3C\x00\x03a\xC0\xAF".to_vec(),
                "MQTT-1.5.4-1",
            ),
            (b"\x00\x04MQTT\x04\x02\x00".to_vec(), "§4.13.1"),
        ] {
            let error = Connect::decode(&body).expect_err("must be refused");
            assert_eq!(
                (error.error.statement, error.answer),
                (statement, None),
                "{body:x?}"
            );
        }
    }

    #[test]
    fn malformed_in_5_0_is_answered_with_its_code() {
        use ReasonCode::{MalformedPacket, ProtocolError, TopicNameInvalid};
        let will = 0b0000_0110;
        for (flags, properties, rest, reason) in [
            (0b0000_0011, &b""[..], &b""[..], MalformedPacket),
            (0b0001_1110, b"", b"\x00\x00\x01w\x00\x01m", MalformedPacket),
            (will, b"", b"\x00\x00\x03a/+\x00\x01m", TopicNameInvalid),
            (
                will,
                b"",
                b"\x05\x18\x00\x00\x00\x05\x00\x00\x00\x01m",
                TopicNameInvalid,
            ),
            (
                will,
                b"",
                b"\x03\x23\x00\x01\x00\x01w\x00\x01m",
                MalformedPacket,
            ),
            (
                will,
                b"",
                b"\x04\x01\x00\x01\x00\x00\x01w\x00\x01m",
                ProtocolError,
            ),
            (
                2,
                b"\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01",
                b"",
                ProtocolError,
            ),
            (2, b"\x21\x00\x00", b"", ProtocolError),
            (2, b"\x27\x00\x00\x00\x00", b"", ProtocolError),
            (2, b"\x17\x02", b"", ProtocolError),
            (2, b"\x16\x00\x01x", b"", ProtocolError),
            (2, b"\x23\x00\x01", b"", MalformedPacket),
            (2, b"\x7F\x00", b"", MalformedPacket),
            (2, b"", b"\x00", MalformedPacket),
        ] {
            let body = body(5, flags, properties, rest);
            let error = Connect::decode(&body).expect_err("must be refused");
            assert_eq!(
                (error.error.reason, error.answer),
                (reason, Some(Version::V5)),
                "{body:x?}"
            );
            assert!(reason.valid_in(PacketType::Connack));
        }
        let overrun = b"\x00\x04MQTT\x05\x02\x00\x3C\x7F\x11\x00\x00\x00\x01\x00\x01a";
        let error = Connect::decode(overrun).expect_err("must be refused").error;
        assert_eq!(
            error.what,
            "Property section runs past the end of the packet"
        );
    }

    #[test]
    fn an_empty_client_id_is_left_to_the_server() {
        for flags in [0, CLEAN_START] {
            let body = [b"\x00\x04MQTT\x04", &[flags, 0, 60, 0, 0][..]].concat();
            assert_eq!(
                Connect::decode(&body).map(|connect| connect.client_id),
                Ok("")
            );
        }
        let long = "x".repeat(65_535);
        let mut body = b"\x00\x06MQIsdp\x03\x02\x00\x0A".to_vec();
        put_binary(&mut body, long.as_bytes());
        assert_eq!(
            Connect::decode(&body).map(|connect| connect.client_id),
            Ok(&long[..])
        );
    }

    #[test]
    fn a_password_alone_is_for_5_0() {
        let body = body(5, 0b0100_0010, b"", b"\x00\x01p");
        let connect = Connect::decode(&body).expect("valid");
        assert_eq!(
            (connect.username, connect.password),
            (None, Some(&b"p"[..]))
        );
    }

    #[test]
    fn leniency_that_3_1_demands() {
        let v31 = |flags: u8, rest: &[u8]| {
            [b"\x00\x06MQIsdp\x03", &[flags, 0, 10, 0, 1, b'c'][..], rest].concat()
        };
        for (body, username) in [
            (v31(0b1100_0010, b""), None),
            (v31(0b1100_0010, b"\x00\x01u"), Some("u")),
            (v31(0b0010_1011, b""), None),
        ] {
            let connect = Connect::decode(&body).expect("valid in 3.1");
            assert_eq!((connect.username, connect.password), (username, None));
            assert_eq!(connect.will, None);
        }
        assert!(Connect::decode(&v31(0b1000_0010, b"\x00\x02u")).is_err());
    }

    #[test]
    fn five_thousand_user_properties_are_no_trouble() {
        let mut body = b"\x00\x04MQTT\x05\x02\x00\x3C".to_vec();
        put_properties(&mut body, |out| {
            for _ in 0..5000 {
                Property::UserProperty("k", "v").put(out);
            }
        });
        put_binary(&mut body, b"c");
        let connect = Connect::decode(&body).expect("valid");
        assert_eq!(connect.properties.user.count(), 5000);
    }
}

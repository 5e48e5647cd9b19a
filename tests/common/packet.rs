//! Packets of MQTT 3.1, 3.1.1 and 5.0: builders that can also build what is forbidden, and
//! parsers that accept whatever a test may want to look at.

/// Packet types, as the high half of the first byte.
pub(crate) const CONNECT: u8 = 1;
pub(crate) const CONNACK: u8 = 2;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const PUBREL: u8 = 6;
pub(crate) const PUBCOMP: u8 = 7;
pub(crate) const SUBSCRIBE: u8 = 8;
pub(crate) const SUBACK: u8 = 9;
pub(crate) const UNSUBSCRIBE: u8 = 10;
pub(crate) const UNSUBACK: u8 = 11;
pub(crate) const PINGREQ: u8 = 12;
pub(crate) const PINGRESP: u8 = 13;
pub(crate) const DISCONNECT: u8 = 14;
pub(crate) const AUTH: u8 = 15;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V31,
    V311,
    V5,
}

impl Version {
    /// The protocol level that CONNECT carries.
    pub(crate) fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol name that CONNECT carries.
    pub(crate) fn name(self) -> &'static str {
        if self == Self::V31 { "MQIsdp" } else { "MQTT" }
    }
}

// ---- encoding --------------------------------------------------------------------------------

/// A Variable Byte Integer, in its shortest form.
pub(crate) fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits fit a byte");
        value >>= 7;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

/// A string or binary field: two bytes of length, then the bytes, checked for nothing.
pub(crate) fn field(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let length = u16::try_from(bytes.len()).expect("a field has at most 65,535 bytes");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// A packet: the first byte, the Remaining Length that fits, the body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first][..], &varint(body.len()), body].concat()
}

/// Raw properties of MQTT 5.0, one function for each kind of value; join them with `concat`.
pub(crate) mod prop {
    use super::{field, varint};

    pub(crate) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0b;
    pub(crate) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1a;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1c;
    pub(crate) const REASON_STRING: u8 = 0x1f;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER_PROPERTY: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(crate) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2a;

    pub(crate) fn byte(id: u8, value: u8) -> Vec<u8> {
        vec![id, value]
    }

    pub(crate) fn two(id: u8, value: u16) -> Vec<u8> {
        [&[id][..], &value.to_be_bytes()].concat()
    }

    pub(crate) fn four(id: u8, value: u32) -> Vec<u8> {
        [&[id][..], &value.to_be_bytes()].concat()
    }

    pub(crate) fn var(id: u8, value: usize) -> Vec<u8> {
        [&[id][..], &varint(value)].concat()
    }

    /// A property whose value is a string or binary data.
    pub(crate) fn text(id: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
        [&[id][..], &field(value)].concat()
    }

    pub(crate) fn user(name: &str, value: &str) -> Vec<u8> {
        [&[USER_PROPERTY][..], &field(name), &field(value)].concat()
    }
}

/// A Will to put into a CONNECT.
#[derive(Clone, Debug, Default)]
pub(crate) struct Will {
    pub(crate) topic: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// Raw properties, MQTT 5.0 only.
    pub(crate) properties: Vec<u8>,
}

impl Will {
    /// A Will of QoS 0 that is not retained.
    pub(crate) fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.as_ref().to_vec(),
            payload: payload.as_ref().to_vec(),
            ..Self::default()
        }
    }

    pub(crate) fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn properties(mut self, raw: impl AsRef<[u8]>) -> Self {
        self.properties = raw.as_ref().to_vec();
        self
    }
}

/// A CONNECT: clean, keep alive 60 s, no Will and no credentials unless said otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: Vec<u8>,
    /// Clean Session, or Clean Start in MQTT 5.0.
    pub(crate) clean: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) will: Option<Will>,
    pub(crate) user_name: Option<Vec<u8>>,
    pub(crate) password: Option<Vec<u8>>,
    /// Raw properties, MQTT 5.0 only.
    pub(crate) properties: Vec<u8>,
    /// Exclusive-or'ed into the connect flags, for flags that are wrong on purpose.
    pub(crate) flip_flags: u8,
}

impl Connect {
    pub(crate) fn new(version: Version, client_id: impl AsRef<[u8]>) -> Self {
        Self {
            version,
            client_id: client_id.as_ref().to_vec(),
            clean: true,
            keep_alive_s: 60,
            will: None,
            user_name: None,
            password: None,
            properties: Vec::new(),
            flip_flags: 0,
        }
    }

    pub(crate) fn v31(client_id: impl AsRef<[u8]>) -> Self {
        Self::new(Version::V31, client_id)
    }

    pub(crate) fn v311(client_id: impl AsRef<[u8]>) -> Self {
        Self::new(Version::V311, client_id)
    }

    pub(crate) fn v5(client_id: impl AsRef<[u8]>) -> Self {
        Self::new(Version::V5, client_id)
    }

    pub(crate) fn clean(mut self, clean: bool) -> Self {
        self.clean = clean;
        self
    }

    pub(crate) fn keep_alive_s(mut self, seconds: u16) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    pub(crate) fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub(crate) fn user_name(mut self, name: impl AsRef<[u8]>) -> Self {
        self.user_name = Some(name.as_ref().to_vec());
        self
    }

    pub(crate) fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.password = Some(password.as_ref().to_vec());
        self
    }

    pub(crate) fn properties(mut self, raw: impl AsRef<[u8]>) -> Self {
        self.properties = raw.as_ref().to_vec();
        self
    }

    pub(crate) fn flip_flags(mut self, mask: u8) -> Self {
        self.flip_flags = mask;
        self
    }

    /// The connect flags as they will be sent.
    pub(crate) fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| {
            0x04 | (will.qos << 3) | if will.retain { 0x20 } else { 0 }
        });
        let clean = if self.clean { 0x02 } else { 0 };
        let password = if self.password.is_some() { 0x40 } else { 0 };
        let user_name = if self.user_name.is_some() { 0x80 } else { 0 };
        (will | clean | password | user_name) ^ self.flip_flags
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let is_v5 = self.version == Version::V5;
        let mut body = field(self.version.name());
        body.push(self.version.level());
        body.push(self.flags());
        body.extend(self.keep_alive_s.to_be_bytes());
        if is_v5 {
            body.extend(varint(self.properties.len()));
            body.extend(&self.properties);
        }
        body.extend(field(&self.client_id));
        if let Some(will) = &self.will {
            if is_v5 {
                body.extend(varint(will.properties.len()));
                body.extend(&will.properties);
            }
            body.extend(field(&will.topic));
            body.extend(field(&will.payload));
        }
        for credential in [&self.user_name, &self.password].into_iter().flatten() {
            body.extend(field(credential));
        }
        packet(CONNECT << 4, &body)
    }
}

/// A PUBLISH to send: QoS 0, not retained, not a duplicate unless said otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Publish {
    pub(crate) version: Version,
    pub(crate) topic: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// Packet Identifier; sent when the QoS is not 0.
    pub(crate) id: u16,
    /// Raw properties, MQTT 5.0 only.
    pub(crate) properties: Vec<u8>,
}

impl Publish {
    pub(crate) fn new(
        version: Version,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Self {
        Self {
            version,
            topic: topic.as_ref().to_vec(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            retain: false,
            dup: false,
            id: 0,
            properties: Vec::new(),
        }
    }

    pub(crate) fn v311(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self::new(Version::V311, topic, payload)
    }

    pub(crate) fn v5(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Self::new(Version::V5, topic, payload)
    }

    /// Sets the QoS and the Packet Identifier.
    pub(crate) fn qos(mut self, qos: u8, id: u16) -> Self {
        self.qos = qos;
        self.id = id;
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    pub(crate) fn properties(mut self, raw: impl AsRef<[u8]>) -> Self {
        self.properties = raw.as_ref().to_vec();
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let dup = if self.dup { 0x08 } else { 0 };
        let first = (PUBLISH << 4) | dup | (self.qos << 1) | u8::from(self.retain);
        let mut body = field(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if self.version == Version::V5 {
            body.extend(varint(self.properties.len()));
            body.extend(&self.properties);
        }
        body.extend(&self.payload);
        packet(first, &body)
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP without a Reason Code: right in every version.
pub(crate) fn ack(kind: u8, id: u16) -> Vec<u8> {
    let flags = if kind == PUBREL { 2 } else { 0 };
    packet((kind << 4) | flags, &id.to_be_bytes())
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP of MQTT 5.0 with a Reason Code and raw properties.
pub(crate) fn ack_v5(kind: u8, id: u16, reason: u8, properties: &[u8]) -> Vec<u8> {
    let flags = if kind == PUBREL { 2 } else { 0 };
    let body = [
        &id.to_be_bytes()[..],
        &[reason],
        &varint(properties.len()),
        properties,
    ]
    .concat();
    packet((kind << 4) | flags, &body)
}

/// SUBSCRIBE with the options byte (in MQTT 3: the requested QoS) of each filter.
pub(crate) fn subscribe<F: AsRef<[u8]>>(version: Version, id: u16, filters: &[(F, u8)]) -> Vec<u8> {
    subscribe_with(version, id, &[], filters)
}

/// SUBSCRIBE with raw properties, which only MQTT 5.0 has.
pub(crate) fn subscribe_with<F: AsRef<[u8]>>(
    version: Version,
    id: u16,
    properties: &[u8],
    filters: &[(F, u8)],
) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.extend(varint(properties.len()));
        body.extend(properties);
    }
    for (filter, options) in filters {
        body.extend(field(filter));
        body.push(*options);
    }
    packet((SUBSCRIBE << 4) | 2, &body)
}

/// UNSUBSCRIBE without properties.
pub(crate) fn unsubscribe<F: AsRef<[u8]>>(version: Version, id: u16, filters: &[F]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        body.extend(field(filter));
    }
    packet((UNSUBSCRIBE << 4) | 2, &body)
}

pub(crate) fn pingreq() -> Vec<u8> {
    packet(PINGREQ << 4, &[])
}

/// DISCONNECT without a Reason Code: normal disconnection in every version.
pub(crate) fn disconnect() -> Vec<u8> {
    packet(DISCONNECT << 4, &[])
}

/// DISCONNECT of MQTT 5.0 with a Reason Code and raw properties.
pub(crate) fn disconnect_v5(reason: u8, properties: &[u8]) -> Vec<u8> {
    packet(
        DISCONNECT << 4,
        &[&[reason][..], &varint(properties.len()), properties].concat(),
    )
}

/// AUTH of MQTT 5.0 with a Reason Code and raw properties.
pub(crate) fn auth(reason: u8, properties: &[u8]) -> Vec<u8> {
    packet(
        AUTH << 4,
        &[&[reason][..], &varint(properties.len()), properties].concat(),
    )
}

/// Bytes from hexadecimal text; blanks are ignored.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| {
            u8::try_from(c.to_digit(16).expect("a hexadecimal digit")).expect("it is below 16")
        })
        .collect();
    assert!(
        digits.len().is_multiple_of(2),
        "an odd number of digits: {text}"
    );
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

// ---- parsing ---------------------------------------------------------------------------------

/// A packet as it came: its first byte, and what the Remaining Length covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

/// The value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A byte, a two or four byte integer, or a Variable Byte Integer.
    Number(u32),
    /// A string or binary data.
    Bytes(Vec<u8>),
    /// A User Property.
    Pair(String, String),
}

/// The properties of a packet in the order they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties(pub(crate) Vec<(u8, Value)>);

impl Properties {
    /// The first integer with this identifier.
    pub(crate) fn number(&self, id: u8) -> Option<u32> {
        self.numbers(id).first().copied()
    }

    /// All integers with this identifier.
    pub(crate) fn numbers(&self, id: u8) -> Vec<u32> {
        let of_id = self.0.iter().filter(|(found, _)| *found == id);
        of_id
            .filter_map(|(_, v)| {
                if let Value::Number(n) = v {
                    Some(*n)
                } else {
                    None
                }
            })
            .collect()
    }

    /// The first string or binary value with this identifier.
    pub(crate) fn bytes(&self, id: u8) -> Option<&[u8]> {
        self.0
            .iter()
            .filter(|(found, _)| *found == id)
            .find_map(|(_, value)| match value {
                Value::Bytes(bytes) => Some(bytes.as_slice()),
                Value::Number(_) | Value::Pair(..) => None,
            })
    }

    /// The first value with this identifier as text.
    pub(crate) fn text(&self, id: u8) -> Option<String> {
        self.bytes(id)
            .map(|bytes| String::from_utf8(bytes.to_vec()).expect("well-formed UTF-8"))
    }

    /// All User Properties in order.
    pub(crate) fn user(&self) -> Vec<(&str, &str)> {
        let pairs = self.0.iter().filter_map(|(_, value)| match value {
            Value::Pair(name, value) => Some((name.as_str(), value.as_str())),
            Value::Number(_) | Value::Bytes(_) => None,
        });
        pairs.collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connack {
    pub(crate) session_present: bool,
    /// Return code in MQTT 3, Reason Code in MQTT 5.0.
    pub(crate) code: u8,
    pub(crate) properties: Properties,
}

/// A PUBLISH that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// 0 when the QoS is 0.
    pub(crate) id: u16,
    pub(crate) properties: Properties,
}

impl Received {
    /// The payload as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// A PUBACK, PUBREC, PUBREL or PUBCOMP that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) id: u16,
    /// 0 when the packet carries none.
    pub(crate) reason: u8,
    pub(crate) properties: Properties,
}

/// A SUBACK or UNSUBACK that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suback {
    pub(crate) id: u16,
    /// One for each filter; none in an UNSUBACK of MQTT 3.
    pub(crate) codes: Vec<u8>,
    pub(crate) properties: Properties,
}

/// A DISCONNECT or AUTH that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disconnect {
    /// 0 when the packet carries none.
    pub(crate) reason: u8,
    pub(crate) properties: Properties,
}

impl Packet {
    /// The packet type.
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The flags of the fixed header.
    pub(crate) fn flags(&self) -> u8 {
        self.first & 0x0f
    }

    /// The packet as it was on the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        packet(self.first, &self.body)
    }

    #[track_caller]
    pub(crate) fn connack(&self, version: Version) -> Connack {
        let mut reader = self.reader_of(CONNACK);
        assert_eq!(self.flags(), 0, "reserved flags of CONNACK: {self:02x?}");
        let flags = reader.byte();
        assert!(
            flags <= 1,
            "reserved bits of the CONNACK flags: {self:02x?}"
        );
        let code = reader.byte();
        let properties = if version == Version::V5 {
            reader.properties()
        } else {
            Properties::default()
        };
        reader.end();
        Connack {
            session_present: flags == 1,
            code,
            properties,
        }
    }

    #[track_caller]
    pub(crate) fn publish(&self, version: Version) -> Received {
        let mut reader = self.reader_of(PUBLISH);
        let qos = (self.first >> 1) & 3;
        assert!(qos < 3, "QoS 3: {self:02x?}");
        let topic = reader.text();
        let id = if qos > 0 { reader.two() } else { 0 };
        assert!(qos == 0 || id != 0, "Packet Identifier 0: {self:02x?}");
        let properties = if version == Version::V5 {
            reader.properties()
        } else {
            Properties::default()
        };
        Received {
            topic,
            payload: reader.rest(),
            qos,
            retain: self.first & 1 != 0,
            dup: self.first & 8 != 0,
            id,
            properties,
        }
    }

    /// Reads any of PUBACK, PUBREC, PUBREL and PUBCOMP.
    #[track_caller]
    pub(crate) fn ack(&self, version: Version) -> Ack {
        assert!(
            (PUBACK..=PUBCOMP).contains(&self.kind()),
            "not an acknowledgement: {self:02x?}"
        );
        assert_eq!(
            self.flags(),
            if self.kind() == PUBREL { 2 } else { 0 },
            "flags: {self:02x?}"
        );
        let mut reader = self.reader_of(self.kind());
        let id = reader.two();
        let is_v5 = version == Version::V5;
        let reason = if is_v5 && reader.left() > 0 {
            reader.byte()
        } else {
            0
        };
        let properties = if is_v5 && reader.left() > 0 {
            reader.properties()
        } else {
            Properties::default()
        };
        reader.end();
        Ack {
            id,
            reason,
            properties,
        }
    }

    #[track_caller]
    pub(crate) fn suback(&self, version: Version) -> Suback {
        self.codes(SUBACK, version)
    }

    #[track_caller]
    pub(crate) fn unsuback(&self, version: Version) -> Suback {
        self.codes(UNSUBACK, version)
    }

    #[track_caller]
    pub(crate) fn disconnect(&self) -> Disconnect {
        self.reason(DISCONNECT)
    }

    #[track_caller]
    pub(crate) fn auth(&self) -> Disconnect {
        self.reason(AUTH)
    }

    #[track_caller]
    fn codes(&self, kind: u8, version: Version) -> Suback {
        let mut reader = self.reader_of(kind);
        assert_eq!(self.flags(), 0, "reserved flags: {self:02x?}");
        let id = reader.two();
        let properties = if version == Version::V5 {
            reader.properties()
        } else {
            Properties::default()
        };
        Suback {
            id,
            codes: reader.rest(),
            properties,
        }
    }

    #[track_caller]
    fn reason(&self, kind: u8) -> Disconnect {
        let mut reader = self.reader_of(kind);
        assert_eq!(self.flags(), 0, "reserved flags: {self:02x?}");
        let reason = if reader.left() > 0 { reader.byte() } else { 0 };
        let properties = if reader.left() > 0 {
            reader.properties()
        } else {
            Properties::default()
        };
        reader.end();
        Disconnect { reason, properties }
    }

    #[track_caller]
    fn reader_of(&self, kind: u8) -> Reader<'_> {
        assert_eq!(self.kind(), kind, "another packet type came: {self:02x?}");
        Reader {
            packet: self,
            at: 0,
        }
    }
}

/// Reads fields from a packet's body; a packet that is too short fails the test.
struct Reader<'a> {
    packet: &'a Packet,
    at: usize,
}

impl Reader<'_> {
    fn left(&self) -> usize {
        self.packet.body.len() - self.at
    }

    fn take(&mut self, length: usize) -> &[u8] {
        assert!(
            length <= self.left(),
            "a field runs past the packet: {:02x?}",
            self.packet
        );
        self.at += length;
        &self.packet.body[self.at - length..self.at]
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn two(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn four(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn var(&mut self) -> u32 {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte();
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
        }
        panic!(
            "a Variable Byte Integer of five bytes: {:02x?}",
            self.packet
        );
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = usize::from(self.two());
        self.take(length).to_vec()
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.bytes()).expect("a server sends well-formed UTF-8 [MQTT-1.5.3-1]")
    }

    fn rest(&mut self) -> Vec<u8> {
        self.take(self.left()).to_vec()
    }

    fn end(&self) {
        assert_eq!(
            self.left(),
            0,
            "bytes after the last field: {:02x?}",
            self.packet
        );
    }

    fn properties(&mut self) -> Properties {
        let length = usize::try_from(self.var()).expect("28 bits fit");
        assert!(
            length <= self.left(),
            "the properties run past the packet: {:02x?}",
            self.packet
        );
        let end = self.at + length;
        let mut all = Vec::new();
        while self.at < end {
            let id = self.byte();
            let value = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => {
                    Value::Number(self.byte().into())
                }
                0x13 | 0x21 | 0x22 | 0x23 => Value::Number(self.two().into()),
                0x02 | 0x11 | 0x18 | 0x27 => Value::Number(self.four()),
                0x0b => Value::Number(self.var()),
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
                    Value::Bytes(self.bytes())
                }
                0x26 => Value::Pair(self.text(), self.text()),
                _ => panic!("unknown property {id:#04x}: {:02x?}", self.packet),
            };
            all.push((id, value));
        }
        assert_eq!(
            self.at, end,
            "a property runs past the properties: {:02x?}",
            self.packet
        );
        Properties(all)
    }
}

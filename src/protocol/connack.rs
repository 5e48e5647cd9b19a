//! CONNACK.

use std::num::{NonZeroU16, NonZeroU32};

use super::error::DecodeError;
use super::property::{Property, UserProperties, Walker, put_properties, put_some};
use super::wire::{Field, Reader, field, put_with_len};
use super::{PacketType, QoS, ReasonCode, Version};

/// A CONNACK packet: the server's answer to CONNECT.
///
/// Spec: MQTT 5 §3.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Whether the server had a Session for this client; never with a failure, and never told in 3.1.
    pub session_present: bool,
    /// Success, or why not.
    pub reason: ReasonCode,
    /// The properties; not told in 3.1 and 3.1.1.
    pub properties: ConnackProperties<'a>,
}

/// The properties of CONNACK. What is at its default is not sent.
///
/// Spec: MQTT 5 §3.2.2.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnackProperties<'a> {
    /// The Session Expiry Interval in use, in seconds; absent is the one that was asked for.
    pub session_expiry_s: Option<u32>,
    /// How many QoS 1 and 2 messages the server takes at a time; absent is 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest QoS the server supports; 2 is said by leaving it out.
    pub qos_maximum: QoS,
    /// Whether the server keeps retained messages.
    pub retain_available: bool,
    /// The largest packet the server takes, in bytes.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The Client Identifier that the server made, if the client sent an empty one.
    pub assigned_client_id: Option<&'a str>,
    /// The highest Topic Alias the server takes; 0 is none.
    pub topic_alias_maximum: u16,
    /// The reason, for people.
    pub reason_string: Option<&'a str>,
    /// Whether the server has Wildcard Subscriptions.
    pub wildcard_subscription_available: bool,
    /// Whether the server has Subscription Identifiers.
    pub subscription_ids_available: bool,
    /// Whether the server has Shared Subscriptions.
    pub shared_subscription_available: bool,
    /// The Keep Alive the client must use, in seconds; absent is the one it asked for.
    pub server_keep_alive_s: Option<u16>,
    /// The basis of the client's Response Topics.
    pub response_information: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// The name of the enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// What the Authentication Method defines.
    pub authentication_data: Option<&'a [u8]>,
    /// The User Properties.
    pub user: UserProperties<'a>,
}

static FLAGS_FIELD: Field = field!("Connect Acknowledge Flags");
static REASON_FIELD: Field = field!("Connect Reason Code");

impl<'a> Connack<'a> {
    /// The refusal of a CONNECT, without properties.
    pub fn refusal(reason: ReasonCode) -> Self {
        Self {
            session_present: false,
            reason,
            properties: ConnackProperties::default(),
        }
    }

    /// Reads the body of a CONNACK.
    ///
    /// Errors: 0x81 or 0x82 when it is malformed, has a code that CONNACK does not have, or Session
    /// Present with a failure.
    ///
    /// Spec: MQTT 5 §3.2.2.
    pub fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = reader.u8(&FLAGS_FIELD)?;
        // 3.1 reserves the whole byte and says nothing of its value.
        if flags > 1 && version != Version::V31 {
            return Err(DecodeError::malformed(
                "MQTT-3.2.2-1",
                "a reserved Connect Acknowledge Flag is set",
            ));
        }
        let session_present = flags == 1 && version != Version::V31;
        let code = reader.u8(&REASON_FIELD)?;
        let reason = match version {
            Version::V5 => {
                ReasonCode::from_u8(code).filter(|reason| reason.valid_in(PacketType::Connack))
            }
            Version::V31 | Version::V311 => ReasonCode::from_connack_v3(code),
        };
        let reason = reason.ok_or(DecodeError::malformed(
            "MQTT-3.2.2-8",
            "the Reason Code is not one of CONNACK",
        ))?;
        if session_present && reason.is_failure() {
            return Err(DecodeError::protocol(
                "MQTT-3.2.2-6",
                "Session Present with a failure",
            ));
        }
        let properties = match version {
            Version::V5 => ConnackProperties::decode(reader.properties()?)?,
            Version::V31 | Version::V311 => ConnackProperties::default(),
        };
        reader.end()?;
        Ok(Self {
            session_present,
            reason,
            properties,
        })
    }

    /// Appends the packet; in 3.1 and 3.1.1 with the nearest return code and without the properties.
    ///
    /// Panics: when the code does not belong to CONNACK, when Session Present comes with a failure,
    /// or when a string is longer than 65,535 bytes.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        assert!(
            self.reason.valid_in(PacketType::Connack),
            "the Reason Code is one of CONNACK"
        );
        assert!(
            !self.session_present || !self.reason.is_failure(),
            "Session Present does not go with a failure"
        );
        let flags = u8::from(self.session_present && version != Version::V31);
        if !version.is_v5() {
            let first = PacketType::Connack.first_byte();
            out.extend_from_slice(&[first, 2, flags, self.reason.connack_v3()]);
            return;
        }
        out.push(PacketType::Connack.first_byte());
        put_with_len(out, |out| {
            out.extend_from_slice(&[flags, self.reason as u8]);
            put_properties(out, |out| self.properties.put(out));
        });
    }
}

/// What a server says that sends no properties.
impl Default for ConnackProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry_s: None,
            receive_maximum: None,
            qos_maximum: QoS::ExactlyOnce,
            retain_available: true,
            packet_bytes_max: None,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            reason_string: None,
            wildcard_subscription_available: true,
            subscription_ids_available: true,
            shared_subscription_available: true,
            server_keep_alive_s: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
            user: UserProperties::default(),
        }
    }
}

impl<'a> ConnackProperties<'a> {
    fn decode(raw: &'a [u8]) -> Result<Self, DecodeError> {
        let mut properties = Self {
            user: UserProperties::over(raw),
            ..Self::default()
        };
        for property in Walker::new(PacketType::Connack, raw) {
            properties.set(property?);
        }
        Ok(properties)
    }

    fn set(&mut self, property: Property<'a>) {
        match property {
            Property::SessionExpiryInterval(s) => self.session_expiry_s = Some(s),
            Property::ReceiveMaximum(maximum) => self.receive_maximum = Some(maximum),
            Property::MaximumQoS(qos) => self.qos_maximum = qos,
            Property::RetainAvailable(available) => self.retain_available = available,
            Property::MaximumPacketSize(bytes) => self.packet_bytes_max = Some(bytes),
            Property::AssignedClientIdentifier(id) => self.assigned_client_id = Some(id),
            Property::TopicAliasMaximum(maximum) => self.topic_alias_maximum = maximum,
            Property::ReasonString(text) => self.reason_string = Some(text),
            Property::WildcardSubscriptionAvailable(available) => {
                self.wildcard_subscription_available = available;
            }
            Property::SubscriptionIdentifierAvailable(available) => {
                self.subscription_ids_available = available;
            }
            Property::SharedSubscriptionAvailable(available) => {
                self.shared_subscription_available = available;
            }
            Property::ServerKeepAlive(s) => self.server_keep_alive_s = Some(s),
            Property::ResponseInformation(text) => self.response_information = Some(text),
            Property::ServerReference(text) => self.server_reference = Some(text),
            Property::AuthenticationMethod(method) => self.authentication_method = Some(method),
            Property::AuthenticationData(data) => self.authentication_data = Some(data),
            _ => {}
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_some(
            out,
            self.session_expiry_s.map(Property::SessionExpiryInterval),
        );
        put_some(out, self.receive_maximum.map(Property::ReceiveMaximum));
        if self.qos_maximum != QoS::ExactlyOnce {
            Property::MaximumQoS(self.qos_maximum).put(out);
        }
        put_some(out, self.packet_bytes_max.map(Property::MaximumPacketSize));
        put_some(
            out,
            self.assigned_client_id
                .map(Property::AssignedClientIdentifier),
        );
        if self.topic_alias_maximum != 0 {
            Property::TopicAliasMaximum(self.topic_alias_maximum).put(out);
        }
        put_some(out, self.reason_string.map(Property::ReasonString));
        for (available, property) in [
            (self.retain_available, Property::RetainAvailable(false)),
            (
                self.wildcard_subscription_available,
                Property::WildcardSubscriptionAvailable(false),
            ),
            (
                self.subscription_ids_available,
                Property::SubscriptionIdentifierAvailable(false),
            ),
            (
                self.shared_subscription_available,
                Property::SharedSubscriptionAvailable(false),
            ),
        ] {
            if !available {
                property.put(out);
            }
        }
        put_some(out, self.server_keep_alive_s.map(Property::ServerKeepAlive));
        put_some(
            out,
            self.response_information.map(Property::ResponseInformation),
        );
        put_some(out, self.server_reference.map(Property::ServerReference));
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

    fn encoded(connack: &Connack<'_>, version: Version) -> Vec<u8> {
        let mut out = Vec::new();
        connack.encode(version, &mut out);
        out
    }

    #[test]
    fn the_smallest_of_each_version() {
        let connack = Connack {
            session_present: true,
            ..Connack::refusal(ReasonCode::Success)
        };
        assert_eq!(encoded(&connack, Version::V31), b"\x20\x02\x00\x00");
        assert_eq!(encoded(&connack, Version::V311), b"\x20\x02\x01\x00");
        assert_eq!(encoded(&connack, Version::V5), b"\x20\x03\x01\x00\x00");
        let connack = Connack::refusal(ReasonCode::NotAuthorized);
        assert_eq!(encoded(&connack, Version::V311), b"\x20\x02\x00\x05");
        assert_eq!(encoded(&connack, Version::V5), b"\x20\x03\x00\x87\x00");
        let connack = Connack::refusal(ReasonCode::UnsupportedProtocolVersion);
        assert_eq!(encoded(&connack, Version::V311), b"\x20\x02\x00\x01");
    }

    #[test]
    fn every_property() {
        let mut user = Vec::new();
        Property::UserProperty("k", "v").put(&mut user);
        let connack = Connack {
            session_present: true,
            reason: ReasonCode::Success,
            properties: ConnackProperties {
                session_expiry_s: Some(1),
                receive_maximum: NonZeroU16::new(2),
                qos_maximum: QoS::AtLeastOnce,
                retain_available: false,
                packet_bytes_max: NonZeroU32::new(3),
                assigned_client_id: Some("id"),
                topic_alias_maximum: 4,
                reason_string: Some("why"),
                wildcard_subscription_available: false,
                subscription_ids_available: false,
                shared_subscription_available: false,
                server_keep_alive_s: Some(5),
                response_information: Some("r"),
                server_reference: Some("s"),
                authentication_method: Some("m"),
                authentication_data: Some(b"d"),
                user: UserProperties::from_raw(&user).expect("a User Property"),
            },
        };
        let out = encoded(&connack, Version::V5);
        // 17 properties, all different from their defaults, so all are there.
        let walked = Walker::new(PacketType::Connack, &out[5..])
            .filter(Result::is_ok)
            .count();
        assert_eq!(walked, 17);
        assert_eq!(Connack::decode(Version::V5, &out[2..]), Ok(connack));
    }

    #[test]
    fn malformed() {
        use Version::{V5, V31, V311};
        for (version, body, statement) in [
            (V311, &b""[..], "§4.13.1"),
            (V311, b"\x00", "§4.13.1"),
            (V311, b"\x02\x00", "MQTT-3.2.2-1"),
            (V311, b"\x00\x06", "MQTT-3.2.2-8"),
            (V311, b"\x01\x05", "MQTT-3.2.2-6"),
            (V311, b"\x00\x00\x00", "§4.13.1"),
            (V31, b"\x00\x06", "MQTT-3.2.2-8"),
            (V5, b"\x00\x00", "§4.13.1"),
            (V5, b"\x00\x01\x00", "MQTT-3.2.2-8"),
            (V5, b"\x00\x8E\x00", "MQTT-3.2.2-8"),
            (V5, b"\x01\x87\x00", "MQTT-3.2.2-6"),
            (V5, b"\x00\x00\x02\x24\x02", "§3.2.2.3.4"),
            (V5, b"\x00\x00\x03\x23\x00\x01", "§2.2.2.2"),
            (V5, b"\x00\x00\x00\x00", "§4.13.1"),
        ] {
            let error = Connack::decode(version, body).expect_err("must be refused");
            assert_eq!(error.statement, statement, "{version:?} {body:x?}");
        }
        let v31 = Connack::decode(V31, b"\xFF\x00").expect("3.1 reserves the byte");
        assert_eq!(v31, Connack::refusal(ReasonCode::Success));
    }
}

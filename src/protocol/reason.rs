//! Reason Codes: the one-byte results in CONNACK, the acknowledgements, DISCONNECT and AUTH.

use super::PacketType;

/// The result of an operation; 0x80 and above is a failure.
///
/// Spec: MQTT 5 §2.4.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReasonCode {
    /// Success; in DISCONNECT Normal disconnection, in SUBACK Granted QoS 0.
    Success = 0x00,
    /// The Subscription is accepted with QoS 1 at most.
    GrantedQoS1 = 0x01,
    /// The Subscription is accepted with QoS 2 at most.
    GrantedQoS2 = 0x02,
    /// The client disconnects and wants its Will published.
    DisconnectWithWill = 0x04,
    /// The message is accepted and nobody subscribes to it.
    NoMatchingSubscribers = 0x10,
    /// There was nothing to unsubscribe from.
    NoSubscriptionExisted = 0x11,
    /// The authentication goes on with another step.
    ContinueAuthentication = 0x18,
    /// The client starts to authenticate again.
    Reauthenticate = 0x19,
    /// An error that has no other code, or is not told.
    UnspecifiedError = 0x80,
    /// A packet could not be parsed.
    MalformedPacket = 0x81,
    /// A packet is not allowed by the protocol.
    ProtocolError = 0x82,
    /// The packet is valid and this receiver does not accept it.
    ImplementationSpecificError = 0x83,
    /// The server does not speak this version of MQTT.
    UnsupportedProtocolVersion = 0x84,
    /// The Client Identifier is not allowed by the server.
    ClientIdentifierNotValid = 0x85,
    /// The User Name or the Password is not accepted.
    BadUserNameOrPassword = 0x86,
    /// The client is not allowed to do this.
    NotAuthorized = 0x87,
    /// The server is not available.
    ServerUnavailable = 0x88,
    /// The server is busy; try again later.
    ServerBusy = 0x89,
    /// The client is banned by an administrator.
    Banned = 0x8A,
    /// The server is shutting down.
    ServerShuttingDown = 0x8B,
    /// The Authentication Method is not supported or not the current one.
    BadAuthenticationMethod = 0x8C,
    /// Nothing arrived for one and a half Keep Alive times.
    KeepAliveTimeout = 0x8D,
    /// Another connection uses the same Client Identifier.
    SessionTakenOver = 0x8E,
    /// The Topic Filter is well formed and not accepted.
    TopicFilterInvalid = 0x8F,
    /// The Topic Name is not accepted.
    TopicNameInvalid = 0x90,
    /// The Packet Identifier is already in use.
    PacketIdentifierInUse = 0x91,
    /// The Packet Identifier is not known.
    PacketIdentifierNotFound = 0x92,
    /// More QoS 1 and 2 messages are in flight than allowed.
    ReceiveMaximumExceeded = 0x93,
    /// The Topic Alias is 0 or above the maximum.
    TopicAliasInvalid = 0x94,
    /// The packet is larger than its receiver allows.
    PacketTooLarge = 0x95,
    /// Messages arrive too fast.
    MessageRateTooHigh = 0x96,
    /// A limit of the implementation or of the administrator is reached.
    QuotaExceeded = 0x97,
    /// An administrator closes the connection.
    AdministrativeAction = 0x98,
    /// The payload is not what its Payload Format Indicator says.
    PayloadFormatInvalid = 0x99,
    /// The server does not keep retained messages.
    RetainNotSupported = 0x9A,
    /// The QoS is above the server's Maximum QoS.
    QoSNotSupported = 0x9B,
    /// Use another server for now.
    UseAnotherServer = 0x9C,
    /// Use another server from now on.
    ServerMoved = 0x9D,
    /// The server has no Shared Subscriptions.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connections arrive too fast.
    ConnectionRateExceeded = 0x9F,
    /// The connection has lasted as long as it may.
    MaximumConnectTime = 0xA0,
    /// The server has no Subscription Identifiers.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// The server has no Wildcard Subscriptions.
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// The Reason Code with the value `value`; `None` where MQTT 5 defines none.
    pub fn from_u8(value: u8) -> Option<Self> {
        ROWS.binary_search_by_key(&value, |row| row.code as u8)
            .ok()
            .map(|index| ROWS[index].code)
    }

    /// The standard's name, such as `Not authorized`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether the code reports a failure.
    pub fn is_failure(self) -> bool {
        self as u8 >= 0x80
    }

    /// Whether MQTT 5 allows the code in packets of type `packet_type`.
    ///
    /// Spec: MQTT 5 §2.4 and the Reason Code table of each packet.
    pub fn valid_in(self, packet_type: PacketType) -> bool {
        self.row().packets & bit(packet_type) != 0
    }

    /// The return code of a 3.1 or 3.1.1 CONNACK that says the same: 0 for success, else 1 to 5.
    ///
    /// What those versions have no code for is 3, Server unavailable.
    ///
    /// Spec: MQTT 3.1.1 §3.2.2.3.
    pub fn connack_v3(self) -> u8 {
        match self {
            code if !code.is_failure() => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword => 4,
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => 5,
            _ => 3,
        }
    }

    /// What the return code of a 3.1 or 3.1.1 CONNACK means; `None` above 5.
    ///
    /// Spec: MQTT 3.1.1 §3.2.2.3.
    pub fn from_connack_v3(return_code: u8) -> Option<Self> {
        Some(match return_code {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }

    fn row(self) -> &'static Row {
        let index = ROWS
            .binary_search_by_key(&(self as u8), |row| row.code as u8)
            .expect("ROWS has every Reason Code, in order");
        &ROWS[index]
    }
}

struct Row {
    code: ReasonCode,
    name: &'static str,
    /// The packets that may carry the code, one bit per type.
    packets: u16,
}

const fn bit(packet_type: PacketType) -> u16 {
    1 << packet_type as u8
}

const fn row(code: ReasonCode, name: &'static str, packets: u16) -> Row {
    Row {
        code,
        name,
        packets,
    }
}

const CONNACK: u16 = bit(PacketType::Connack);
const PUBACK: u16 = bit(PacketType::Puback);
const PUBREC: u16 = bit(PacketType::Pubrec);
const PUBREL: u16 = bit(PacketType::Pubrel);
const PUBCOMP: u16 = bit(PacketType::Pubcomp);
const SUBACK: u16 = bit(PacketType::Suback);
const UNSUBACK: u16 = bit(PacketType::Unsuback);
const DISCONNECT: u16 = bit(PacketType::Disconnect);
const AUTH: u16 = bit(PacketType::Auth);

/// In ascending order of the code.
static ROWS: [Row; 43] = [
    row(
        ReasonCode::Success,
        "Success",
        CONNACK | PUBACK | PUBREC | PUBREL | PUBCOMP | SUBACK | UNSUBACK | DISCONNECT | AUTH,
    ),
    row(ReasonCode::GrantedQoS1, "Granted QoS 1", SUBACK),
    row(ReasonCode::GrantedQoS2, "Granted QoS 2", SUBACK),
    row(
        ReasonCode::DisconnectWithWill,
        "Disconnect with Will Message",
        DISCONNECT,
    ),
    row(
        ReasonCode::NoMatchingSubscribers,
        "No matching subscribers",
        PUBACK | PUBREC,
    ),
    row(
        ReasonCode::NoSubscriptionExisted,
        "No subscription existed",
        UNSUBACK,
    ),
    row(
        ReasonCode::ContinueAuthentication,
        "Continue authentication",
        AUTH,
    ),
    row(ReasonCode::Reauthenticate, "Re-authenticate", AUTH),
    row(
        ReasonCode::UnspecifiedError,
        "Unspecified error",
        CONNACK | PUBACK | PUBREC | SUBACK | UNSUBACK | DISCONNECT,
    ),
    row(
        ReasonCode::MalformedPacket,
        "Malformed Packet",
        CONNACK | DISCONNECT,
    ),
    row(
        ReasonCode::ProtocolError,
        "Protocol Error",
        CONNACK | DISCONNECT,
    ),
    row(
        ReasonCode::ImplementationSpecificError,
        "Implementation specific error",
        CONNACK | PUBACK | PUBREC | SUBACK | UNSUBACK | DISCONNECT,
    ),
    row(
        ReasonCode::UnsupportedProtocolVersion,
        "Unsupported Protocol Version",
        CONNACK,
    ),
    row(
        ReasonCode::ClientIdentifierNotValid,
        "Client Identifier not valid",
        CONNACK,
    ),
    row(
        ReasonCode::BadUserNameOrPassword,
        "Bad User Name or Password",
        CONNACK,
    ),
    row(
        ReasonCode::NotAuthorized,
        "Not authorized",
        CONNACK | PUBACK | PUBREC | SUBACK | UNSUBACK | DISCONNECT,
    ),
    row(ReasonCode::ServerUnavailable, "Server unavailable", CONNACK),
    row(ReasonCode::ServerBusy, "Server busy", CONNACK | DISCONNECT),
    row(ReasonCode::Banned, "Banned", CONNACK),
    row(
        ReasonCode::ServerShuttingDown,
        "Server shutting down",
        DISCONNECT,
    ),
    row(
        ReasonCode::BadAuthenticationMethod,
        "Bad authentication method",
        CONNACK | DISCONNECT,
    ),
    row(
        ReasonCode::KeepAliveTimeout,
        "Keep Alive timeout",
        DISCONNECT,
    ),
    row(
        ReasonCode::SessionTakenOver,
        "Session taken over",
        DISCONNECT,
    ),
    row(
        ReasonCode::TopicFilterInvalid,
        "Topic Filter invalid",
        SUBACK | UNSUBACK | DISCONNECT,
    ),
    row(
        ReasonCode::TopicNameInvalid,
        "Topic Name invalid",
        CONNACK | PUBACK | PUBREC | DISCONNECT,
    ),
    row(
        ReasonCode::PacketIdentifierInUse,
        "Packet Identifier in use",
        PUBACK | PUBREC | SUBACK | UNSUBACK,
    ),
    row(
        ReasonCode::PacketIdentifierNotFound,
        "Packet Identifier not found",
        PUBREL | PUBCOMP,
    ),
    row(
        ReasonCode::ReceiveMaximumExceeded,
        "Receive Maximum exceeded",
        DISCONNECT,
    ),
    row(
        ReasonCode::TopicAliasInvalid,
        "Topic Alias invalid",
        DISCONNECT,
    ),
    row(
        ReasonCode::PacketTooLarge,
        "Packet too large",
        CONNACK | DISCONNECT,
    ),
    row(
        ReasonCode::MessageRateTooHigh,
        "Message rate too high",
        DISCONNECT,
    ),
    row(
        ReasonCode::QuotaExceeded,
        "Quota exceeded",
        CONNACK | PUBACK | PUBREC | SUBACK | DISCONNECT,
    ),
    row(
        ReasonCode::AdministrativeAction,
        "Administrative action",
        DISCONNECT,
    ),
    row(
        ReasonCode::PayloadFormatInvalid,
        "Payload format invalid",
        CONNACK | PUBACK | PUBREC | DISCONNECT,
    ),
    row(
        ReasonCode::RetainNotSupported,
        "Retain not supported",
        CONNACK | DISCONNECT,
    ),
    row(
        ReasonCode::QoSNotSupported,
        "QoS not supported",
        CONNACK | DISCONNECT,
    ),
    row(
        ReasonCode::UseAnotherServer,
        "Use another server",
        CONNACK | DISCONNECT,
    ),
    row(
        ReasonCode::ServerMoved,
        "Server moved",
        CONNACK | DISCONNECT,
    ),
    row(
        ReasonCode::SharedSubscriptionsNotSupported,
        "Shared Subscriptions not supported",
        SUBACK | DISCONNECT,
    ),
    row(
        ReasonCode::ConnectionRateExceeded,
        "Connection rate exceeded",
        CONNACK | DISCONNECT,
    ),
    row(
        ReasonCode::MaximumConnectTime,
        "Maximum connect time",
        DISCONNECT,
    ),
    row(
        ReasonCode::SubscriptionIdentifiersNotSupported,
        "Subscription Identifiers not supported",
        SUBACK | DISCONNECT,
    ),
    row(
        ReasonCode::WildcardSubscriptionsNotSupported,
        "Wildcard Subscriptions not supported",
        SUBACK | DISCONNECT,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_complete() {
        assert!(
            ROWS.windows(2)
                .all(|pair| (pair[0].code as u8) < pair[1].code as u8)
        );
        for value in 0..=u8::MAX {
            if let Some(code) = ReasonCode::from_u8(value) {
                assert_eq!(code as u8, value);
                assert!(!code.name().is_empty());
            }
        }
        assert_eq!((0..=u8::MAX).filter_map(ReasonCode::from_u8).count(), 43);
        assert_eq!(ReasonCode::from_u8(0x03), None);
        assert_eq!(ReasonCode::from_u8(0xA3), None);
    }

    #[test]
    fn codes_per_packet_are_as_many_as_the_standard_lists() {
        let count = |packet| ROWS.iter().filter(|row| row.code.valid_in(packet)).count();
        assert_eq!(count(PacketType::Connack), 22);
        assert_eq!(count(PacketType::Puback), 9);
        assert_eq!(count(PacketType::Pubrec), 9);
        assert_eq!(count(PacketType::Pubrel), 2);
        assert_eq!(count(PacketType::Pubcomp), 2);
        assert_eq!(count(PacketType::Suback), 12);
        assert_eq!(count(PacketType::Unsuback), 7);
        // 29 in §3.14.2.1, and 0x8C, which §2.4 gives to DISCONNECT as well.
        assert_eq!(count(PacketType::Disconnect), 30);
        assert_eq!(count(PacketType::Auth), 3);
    }

    #[test]
    fn connack_v3_maps_to_the_six_return_codes() {
        for return_code in 0..=5 {
            let code = ReasonCode::from_connack_v3(return_code).expect("0 to 5 are defined");
            assert_eq!(code.connack_v3(), return_code);
        }
        assert_eq!(ReasonCode::from_connack_v3(6), None);
        assert_eq!(ReasonCode::ServerBusy.connack_v3(), 3);
        assert_eq!(ReasonCode::Banned.connack_v3(), 5);
    }
}

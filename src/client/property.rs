//! MQTT 5 properties from the command line: `-D PACKET NAME VALUE`, with the names of mosquitto.

use crate::protocol::property::Property;
use std::num::{NonZeroU16, NonZeroU32};

/// The properties of each packet this client sends, as they were given.
#[derive(Clone, Debug, Default)]
pub(super) struct Properties {
    pub(super) connect: Vec<Given>,
    pub(super) publish: Vec<Given>,
    pub(super) will: Vec<Given>,
    pub(super) subscribe: Vec<Given>,
    pub(super) unsubscribe: Vec<Given>,
    pub(super) disconnect: Vec<Given>,
}

/// One property with the text it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    Number(NumberName, u32),
    Text(TextName, String),
    User(String, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberName {
    PayloadFormatIndicator,
    MessageExpiryInterval,
    SessionExpiryInterval,
    ReceiveMaximum,
    TopicAliasMaximum,
    TopicAlias,
    MaximumPacketSize,
    WillDelayInterval,
    SubscriptionIdentifier,
    RequestProblemInformation,
    RequestResponseInformation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextName {
    ContentType,
    ResponseTopic,
    CorrelationData,
    AuthenticationMethod,
    AuthenticationData,
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 2;
const WILL: u8 = 4;
const SUBSCRIBE: u8 = 8;
const DISCONNECT: u8 = 16;

/// Name, the packets it may go with, and its smallest and largest value.
const NUMBERS: &[(&str, NumberName, u8, u32, u32)] = &[
    (
        "payload-format-indicator",
        NumberName::PayloadFormatIndicator,
        PUBLISH | WILL,
        0,
        1,
    ),
    (
        "message-expiry-interval",
        NumberName::MessageExpiryInterval,
        PUBLISH | WILL,
        0,
        u32::MAX,
    ),
    (
        "session-expiry-interval",
        NumberName::SessionExpiryInterval,
        CONNECT | DISCONNECT,
        0,
        u32::MAX,
    ),
    (
        "receive-maximum",
        NumberName::ReceiveMaximum,
        CONNECT,
        1,
        65_535,
    ),
    (
        "topic-alias-maximum",
        NumberName::TopicAliasMaximum,
        CONNECT,
        0,
        65_535,
    ),
    ("topic-alias", NumberName::TopicAlias, PUBLISH, 1, 65_535),
    (
        "maximum-packet-size",
        NumberName::MaximumPacketSize,
        CONNECT,
        1,
        u32::MAX,
    ),
    (
        "will-delay-interval",
        NumberName::WillDelayInterval,
        WILL,
        0,
        u32::MAX,
    ),
    (
        "subscription-identifier",
        NumberName::SubscriptionIdentifier,
        SUBSCRIBE,
        1,
        268_435_455,
    ),
    (
        "request-problem-information",
        NumberName::RequestProblemInformation,
        CONNECT,
        0,
        1,
    ),
    (
        "request-response-information",
        NumberName::RequestResponseInformation,
        CONNECT,
        0,
        1,
    ),
];

const TEXTS: &[(&str, TextName, u8)] = &[
    ("content-type", TextName::ContentType, PUBLISH | WILL),
    ("response-topic", TextName::ResponseTopic, PUBLISH | WILL),
    (
        "correlation-data",
        TextName::CorrelationData,
        PUBLISH | WILL,
    ),
    (
        "authentication-method",
        TextName::AuthenticationMethod,
        CONNECT,
    ),
    ("authentication-data", TextName::AuthenticationData, CONNECT),
];

impl Properties {
    /// Takes the values of one `-D`.
    ///
    /// Errors: a sentence for the user.
    pub(super) fn add(&mut self, values: &[String]) -> Result<(), String> {
        let (packet, rest) = values
            .split_first()
            .ok_or("-D takes a packet, a property and its value")?;
        let (list, bit) = match packet.as_str() {
            "connect" => (&mut self.connect, CONNECT),
            "publish" => (&mut self.publish, PUBLISH),
            "will" => (&mut self.will, WILL),
            "subscribe" => (&mut self.subscribe, SUBSCRIBE),
            "unsubscribe" => (&mut self.unsubscribe, 0),
            "disconnect" => (&mut self.disconnect, DISCONNECT),
            other => {
                return Err(format!(
                    "-D: `{other}` is none of connect, publish, will, subscribe, unsubscribe, disconnect"
                ));
            }
        };
        let given = given(rest).map_err(|error| format!("-D {packet}: {error}"))?;
        let allowed = match &given {
            Given::User(..) => true,
            Given::Number(name, _) => NUMBERS.iter().any(|row| row.1 == *name && row.2 & bit != 0),
            Given::Text(name, _) => TEXTS.iter().any(|row| row.1 == *name && row.2 & bit != 0),
        };
        if !allowed {
            return Err(format!("-D: `{}` does not belong to {packet}", rest[0]));
        }
        if !matches!(given, Given::User(..)) && list.iter().any(|other| other.same_name(&given)) {
            return Err(format!("-D {packet}: `{}` is there twice", rest[0]));
        }
        list.push(given);
        Ok(())
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        [
            &self.connect,
            &self.publish,
            &self.will,
            &self.subscribe,
            &self.unsubscribe,
            &self.disconnect,
        ]
        .iter()
        .all(|list| list.is_empty())
    }
}

/// The value of a number among `list`.
pub(super) fn number(list: &[Given], name: NumberName) -> Option<u32> {
    list.iter().find_map(|given| match given {
        Given::Number(have, number) if *have == name => Some(*number),
        _ => None,
    })
}

/// The value of a text among `list`.
pub(super) fn text(list: &[Given], name: TextName) -> Option<&str> {
    list.iter().find_map(|given| match given {
        Given::Text(have, text) if *have == name => Some(text.as_str()),
        _ => None,
    })
}

/// The User Properties of `list`, encoded.
pub(super) fn user_raw(list: &[Given]) -> Vec<u8> {
    let mut raw = Vec::new();
    for given in list {
        if let Given::User(name, value) = given {
            Property::UserProperty(name, value).put(&mut raw);
        }
    }
    raw
}

/// What a server passes on with a message, encoded.
pub(super) fn forward_raw(list: &[Given]) -> Vec<u8> {
    let mut raw = Vec::new();
    for given in list {
        let property = match given {
            Given::Number(NumberName::PayloadFormatIndicator, number) => {
                Property::PayloadFormatIndicator(*number == 1)
            }
            Given::Text(TextName::ContentType, text) => Property::ContentType(text),
            Given::Text(TextName::ResponseTopic, text) => Property::ResponseTopic(text),
            Given::Text(TextName::CorrelationData, text) => {
                Property::CorrelationData(text.as_bytes())
            }
            Given::User(name, value) => Property::UserProperty(name, value),
            Given::Number(..) | Given::Text(..) => continue,
        };
        property.put(&mut raw);
    }
    raw
}

/// A number that was checked to be 1 to 65,535.
pub(super) fn nonzero_u16(list: &[Given], name: NumberName) -> Option<NonZeroU16> {
    let number = number(list, name)?;
    Some(
        u16::try_from(number)
            .ok()
            .and_then(NonZeroU16::new)
            .expect("the range was checked"),
    )
}

/// A number that was checked not to be 0.
pub(super) fn nonzero_u32(list: &[Given], name: NumberName) -> Option<NonZeroU32> {
    Some(NonZeroU32::new(number(list, name)?).expect("the range was checked"))
}

impl Given {
    fn same_name(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a, _), Self::Number(b, _)) => a == b,
            (Self::Text(a, _), Self::Text(b, _)) => a == b,
            _ => false,
        }
    }
}

fn given(values: &[String]) -> Result<Given, String> {
    let short = |text: &str| {
        if text.len() <= usize::from(u16::MAX) {
            Ok(text.to_owned())
        } else {
            Err("a value is too long")
        }
    };
    match values {
        [name, key, value] if name == "user-property" => {
            Ok(Given::User(short(key)?, short(value)?))
        }
        [name, ..] if name == "user-property" => {
            Err("`user-property` takes a name and a value".into())
        }
        [name, value] => {
            if let Some((_, number_name, _, low, high)) = NUMBERS.iter().find(|row| row.0 == name) {
                let number = value
                    .parse()
                    .ok()
                    .filter(|number| (*low..=*high).contains(number));
                let bad = || format!("`{name}` is `{value}`; it must be from {low} to {high}");
                return Ok(Given::Number(*number_name, number.ok_or_else(bad)?));
            }
            match TEXTS.iter().find(|row| row.0 == name) {
                Some((_, text_name, _)) => Ok(Given::Text(*text_name, short(value)?)),
                None => Err(format!("unknown property `{name}`")),
            }
        }
        _ => Err("a property takes one value".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(properties: &mut Properties, text: &str) -> Result<(), String> {
        let values: Vec<String> = text.split(' ').map(str::to_owned).collect();
        properties.add(&values)
    }

    #[test]
    fn properties_go_to_their_packet() {
        let mut properties = Properties::default();
        assert!(properties.is_empty());
        add(&mut properties, "publish message-expiry-interval 60").unwrap();
        add(&mut properties, "publish user-property k v").unwrap();
        add(&mut properties, "publish user-property k v2").unwrap();
        add(&mut properties, "publish content-type text/plain").unwrap();
        add(&mut properties, "connect receive-maximum 5").unwrap();
        assert_eq!(
            number(&properties.publish, NumberName::MessageExpiryInterval),
            Some(60)
        );
        assert_eq!(
            text(&properties.publish, TextName::ContentType),
            Some("text/plain")
        );
        assert_eq!(
            nonzero_u16(&properties.connect, NumberName::ReceiveMaximum),
            NonZeroU16::new(5)
        );
        assert_eq!(forward_raw(&properties.publish).len(), 7 + 8 + 13);
        assert_eq!(user_raw(&properties.publish).len(), 7 + 8);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut properties = Properties::default();
        for text in [
            "puplish content-type x",
            "publish contents-type x",
            "publish receive-maximum 5",
            "publish topic-alias 0",
            "publish topic-alias many",
            "publish user-property k",
            "publish content-type x y",
            "unsubscribe session-expiry-interval 1",
        ] {
            assert!(add(&mut properties, text).is_err(), "{text}");
        }
        add(&mut properties, "will content-type x").unwrap();
        assert!(
            add(&mut properties, "will content-type y")
                .unwrap_err()
                .contains("twice")
        );
    }
}

//! Packets that a client sends, for the kinds of load that go through steps.

use crate::given::Secret;
use ringmq::protocol::{
    Connect, ConnectProperties, PacketId, QoS, Subscribe, SubscribeOptions, UserProperties, Version,
};

/// Who connects.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The version of MQTT.
    pub version: Version,
    /// The User Name.
    pub username: Option<String>,
    /// The Password.
    pub password: Option<Secret>,
}

impl Credentials {
    /// The Password, as it is sent.
    pub fn password(&self) -> Option<&[u8]> {
        let password = self.password.as_ref();
        password.map(|secret| secret.reveal().as_bytes())
    }
}

/// What becomes of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// It begins anew and ends with the connection.
    Clean,
    /// It is the one there was, if any, and stays for an hour.
    Kept,
}

/// Appends a CONNECT.
pub fn put_connect(
    out: &mut Vec<u8>,
    credentials: &Credentials,
    client_id: &str,
    session: SessionKind,
    keep_alive_s: u16,
) {
    let kept = session == SessionKind::Kept;
    Connect {
        version: credentials.version,
        clean_start: !kept,
        keep_alive_s,
        client_id,
        will: None,
        username: credentials.username.as_deref(),
        password: credentials.password(),
        properties: ConnectProperties {
            session_expiry_s: kept.then_some(3_600),
            ..ConnectProperties::default()
        },
    }
    .encode(out);
}

/// Appends a SUBSCRIBE with one filter.
pub fn put_subscribe(out: &mut Vec<u8>, version: Version, id: PacketId, filter: &str, qos: QoS) {
    let options = SubscribeOptions {
        qos,
        ..SubscribeOptions::default()
    };
    let user = UserProperties::default();
    Subscribe::encode(out, version, id, None, &user, &[(filter, options)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmq::protocol::frame::{Cut, cut};

    #[test]
    fn what_is_put_is_read_back() {
        let credentials = Credentials {
            version: Version::V5,
            username: Some("u".into()),
            password: None,
        };
        let mut out = Vec::new();
        put_connect(&mut out, &credentials, "me", SessionKind::Kept, 7);
        let Ok(Cut::Packet { body, len, .. }) = cut(&out, 1_000) else {
            panic!("{out:?}")
        };
        assert_eq!(len, out.len());
        let connect = Connect::decode(body).unwrap();
        assert_eq!(
            (connect.client_id, connect.clean_start, connect.keep_alive_s),
            ("me", false, 7)
        );
        assert_eq!(connect.properties.session_expiry_s, Some(3_600));
        assert_eq!(connect.username, Some("u"));
        out.clear();
        put_subscribe(
            &mut out,
            Version::V311,
            PacketId::MIN,
            "a/+",
            QoS::AtLeastOnce,
        );
        let Ok(Cut::Packet { body, .. }) = cut(&out, 1_000) else {
            panic!("{out:?}")
        };
        let subscribe = Subscribe::decode(Version::V311, body).unwrap();
        let filters: Vec<_> = subscribe
            .filters()
            .map(|(filter, options)| (filter, options.qos))
            .collect();
        assert_eq!(filters, [("a/+", QoS::AtLeastOnce)]);
    }
}

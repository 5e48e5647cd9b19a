//! The client's end of a connection, and what every byte that the shard sends it is checked for: every packet is
//! well-formed in the version of its client and within what the client allowed, and no request is answered twice.

use ringmq::protocol::frame::{Cut, PACKET_BYTES_MAX, cut, cut_version};
use ringmq::protocol::{
    Ack, Connack, Connect, Disconnect, PacketType, Publish, QoS, ReasonCode, Suback, Subscribe,
    Unsuback, Unsubscribe, Version, ping,
};
use ringmq::shard::input::ConnKey;
use std::collections::BTreeMap;

/// What a client has asked for and not been answered; what it has been sent and not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    /// SUBSCRIBE: identifier and number of filters.
    pub(crate) subscribes: Vec<(u16, usize)>,
    pub(crate) unsubscribes: Vec<(u16, usize)>,
    pub(crate) pubacks: Vec<u16>,
    pub(crate) pubrecs: Vec<u16>,
    pub(crate) pubcomps: Vec<u16>,
    pub(crate) pings: usize,
    /// PUBLISH with QoS above 0 that this client has read.
    pub(crate) window: BTreeMap<u16, Unacknowledged>,
    /// It acknowledged what it had not read: the window can no longer be told from outside.
    pub(crate) acknowledged_unread: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unacknowledged {
    AtLeastOnce,
    ExactlyOnce,
    /// PUBREC is sent; PUBREL has not been read.
    Recorded,
    Released,
}

/// The client's end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `None` while the connection is handed over.
    pub(crate) at: Option<(usize, ConnKey)>,
    /// Sent by the client and not read by the driver.
    pub(crate) kernel: Vec<u8>,
    pub(crate) paused: bool,
    /// The shard named it, as dirty or for later, and has not been drained since.
    pub(crate) owed: bool,
    /// The shard named it dirty, and has not been drained since.
    pub(crate) owed_now: bool,
    /// The shard wants it closed.
    pub(crate) closing: bool,
    /// Read by the driver and not yet a whole packet.
    pub(crate) sent: Vec<u8>,
    /// What was sent is no MQTT: nothing after it is understood.
    pub(crate) is_broken: bool,
    /// By its CONNECT.
    pub(crate) spoken: Option<Version>,
    /// The same from the shard, as soon as it has accepted CONNECT.
    pub(crate) version: Option<Version>,
    pub(crate) packet_bytes_max: usize,
    pub(crate) receive_maximum: usize,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) received: Vec<u8>,
    pub(crate) connack: Option<ReasonCode>,
    pub(crate) disconnected: bool,
    /// The code of the last SUBACK.
    pub(crate) granted: u8,
    /// The topics of the PUBLISH packets read, since a probe began.
    pub(crate) topics: Vec<String>,
    pub(crate) aliases: BTreeMap<u16, String>,
    pub(crate) exchanges: Exchanges,
}

impl Peer {
    /// A connection that was accepted just now.
    pub(crate) fn new(shard: usize, conn: ConnKey) -> Self {
        Self {
            at: Some((shard, conn)),
            kernel: Vec::new(),
            paused: false,
            owed: false,
            owed_now: false,
            closing: false,
            sent: Vec::new(),
            is_broken: false,
            spoken: None,
            version: None,
            packet_bytes_max: usize::MAX,
            receive_maximum: 65_535,
            topic_alias_maximum: 0,
            received: Vec::new(),
            connack: None,
            disconnected: false,
            granted: 0x80,
            topics: Vec::new(),
            aliases: BTreeMap::new(),
            exchanges: Exchanges::default(),
        }
    }

    /// Whether the client has a session, and nothing is half sent.
    pub(crate) fn is_open(&self) -> bool {
        let is_whole = self.sent.is_empty() && self.received.is_empty() && self.kernel.is_empty();
        let is_accepted = self.at.is_some() && self.version.is_some();
        is_accepted && is_whole && !self.closing && !self.is_broken
    }

    /// Whether every request was answered.
    pub(crate) fn is_answered(&self) -> bool {
        let asked = &self.exchanges;
        asked.subscribes.is_empty()
            && asked.unsubscribes.is_empty()
            && asked.pubacks.is_empty()
            && asked.pubrecs.is_empty()
            && asked.pubcomps.is_empty()
            && asked.pings == 0
    }

    /// The acknowledgement that the client owes for the `at`th message it has, if any: packet type and identifier.
    pub(crate) fn acknowledgement_due(&self, at: usize) -> Option<(PacketType, u16)> {
        let window = &self.exchanges.window;
        let (id, state) = window.iter().nth(at % window.len().max(1))?;
        let packet_type = match state {
            Unacknowledged::AtLeastOnce => PacketType::Puback,
            Unacknowledged::ExactlyOnce => PacketType::Pubrec,
            Unacknowledged::Recorded => return None,
            Unacknowledged::Released => PacketType::Pubcomp,
        };
        Some((packet_type, *id))
    }

    /// Takes note of what the client asks for, as the shard will.
    pub(crate) fn client_sends(&mut self, bytes: &[u8]) {
        if self.is_broken {
            return;
        }
        self.sent.extend_from_slice(bytes);
        let sent = std::mem::take(&mut self.sent);
        let mut rest = &sent[..];
        loop {
            match cut_version(rest, PACKET_BYTES_MAX, self.spoken.unwrap_or(Version::V311)) {
                Ok(Cut::Packet { header, body, len }) => {
                    if self.note(header.packet_type, header.flags, body).is_none() {
                        self.is_broken = true;
                        return;
                    }
                    rest = &rest[len..];
                }
                Ok(Cut::Incomplete { .. }) => break,
                Err(_) => {
                    self.is_broken = true;
                    return;
                }
            }
        }
        self.sent = rest.to_vec();
    }

    /// `None` when the packet breaks the connection.
    fn note(&mut self, packet_type: PacketType, flags: u8, body: &[u8]) -> Option<()> {
        let Some(version) = self.spoken else {
            if packet_type != PacketType::Connect {
                return None;
            }
            let connect = Connect::decode(body).ok()?;
            let properties = &connect.properties;
            self.spoken = Some(connect.version);
            let bytes_max = properties
                .packet_bytes_max
                .map_or(usize::MAX, |max| max.get() as usize);
            self.packet_bytes_max = bytes_max;
            self.receive_maximum = properties
                .receive_maximum
                .map_or(65_535, |max| max.get().into());
            self.topic_alias_maximum = properties.topic_alias_maximum;
            return Some(());
        };
        let exchanges = &mut self.exchanges;
        match packet_type {
            PacketType::Publish => {
                let publish = Publish::decode(version, flags, body).ok()?;
                let id = publish.packet_id.map(|id| id.get());
                match publish.qos {
                    QoS::AtMostOnce => {}
                    QoS::AtLeastOnce => exchanges.pubacks.extend(id),
                    QoS::ExactlyOnce => exchanges.pubrecs.extend(id),
                }
            }
            PacketType::Subscribe => {
                let subscribe = Subscribe::decode(version, body).ok()?;
                let count = subscribe.filters().count();
                exchanges
                    .subscribes
                    .push((subscribe.packet_id.get(), count));
            }
            PacketType::Unsubscribe => {
                let unsubscribe = Unsubscribe::decode(version, body).ok()?;
                let count = unsubscribe.filters().count();
                exchanges
                    .unsubscribes
                    .push((unsubscribe.packet_id.get(), count));
            }
            PacketType::Pingreq => exchanges.pings += 1,
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubrel | PacketType::Pubcomp => {
                let ack = Ack::decode(version, packet_type, body).ok()?;
                let accepted = (ack.reason as u8) < 0x80;
                exchanges.client_acknowledges(packet_type, ack.packet_id.get(), accepted);
            }
            _ => {}
        }
        Some(())
    }

    /// Checks what the shard sent; returns how many PUBLISH packets were completed.
    pub(crate) fn client_receives(&mut self, bytes: &[u8]) -> usize {
        self.received.extend_from_slice(bytes);
        let received = std::mem::take(&mut self.received);
        let mut rest = &received[..];
        let mut publish_count = 0;
        loop {
            // DUP in PUBREL is a client's of 3.1; a server's is read by the stricter rules.
            match cut(rest, PACKET_BYTES_MAX).expect("the shard sends packets") {
                Cut::Incomplete { .. } => break,
                Cut::Packet { header, body, len } => {
                    publish_count += usize::from(header.packet_type == PacketType::Publish);
                    self.packet(header.packet_type, header.flags, body, len);
                    rest = &rest[len..];
                }
            }
        }
        self.received = rest.to_vec();
        publish_count
    }

    fn packet(&mut self, packet_type: PacketType, flags: u8, body: &[u8], len: usize) {
        assert!(!self.disconnected, "{packet_type:?} after DISCONNECT");
        if self.connack.is_none() {
            assert_eq!(packet_type, PacketType::Connack, "the first packet");
        }
        let Some(version) = self.version else {
            // A refusal, in a version of which only the layout tells.
            assert_eq!(packet_type, PacketType::Connack);
            let version = if body.len() == 2 {
                Version::V311
            } else {
                Version::V5
            };
            let connack = Connack::decode(version, body).expect("a refusal");
            assert!(connack.reason.is_failure() && self.connack.is_none());
            self.connack = Some(connack.reason);
            return;
        };
        let bytes_max = self.packet_bytes_max;
        assert!(
            len <= bytes_max,
            "{packet_type:?} of {len} bytes to a client that takes {bytes_max}"
        );
        let exchanges = &mut self.exchanges;
        match packet_type {
            PacketType::Connack => {
                let connack = Connack::decode(version, body).expect("CONNACK");
                assert_eq!(connack.reason, ReasonCode::Success);
                assert_eq!(self.connack.replace(connack.reason), None);
            }
            PacketType::Publish => self.publish(version, flags, body),
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubcomp => {
                let ack = Ack::decode(version, packet_type, body).expect("an acknowledgement");
                answer(
                    match packet_type {
                        PacketType::Puback => &mut exchanges.pubacks,
                        PacketType::Pubrec => &mut exchanges.pubrecs,
                        _ => &mut exchanges.pubcomps,
                    },
                    ack.packet_id.get(),
                );
            }
            PacketType::Pubrel => {
                let ack = Ack::decode(version, packet_type, body).expect("PUBREL");
                let id = ack.packet_id.get();
                // A PUBREC for a message with QoS 1 is answered in 3.x by the same PUBREL; that message still waits.
                let is_other = exchanges.window.get(&id) == Some(&Unacknowledged::AtLeastOnce);
                if ack.reason == ReasonCode::Success && !is_other {
                    // Of this connection, or repeated from one before.
                    exchanges.window.insert(id, Unacknowledged::Released);
                }
            }
            PacketType::Suback => {
                let suback = Suback::decode(version, body).expect("SUBACK");
                self.granted = suback.codes[0];
                answer(
                    &mut exchanges.subscribes,
                    (suback.packet_id.get(), suback.codes.len()),
                );
            }
            PacketType::Unsuback => {
                let unsuback = Unsuback::decode(version, body).expect("UNSUBACK");
                let id = unsuback.packet_id.get();
                let asked = exchanges.unsubscribes.iter().find(|(asked, count)| {
                    *asked == id && (!version.is_v5() || *count == unsuback.codes.len())
                });
                let asked = *asked.expect("UNSUBACK answers an UNSUBSCRIBE");
                answer(&mut exchanges.unsubscribes, asked);
            }
            PacketType::Pingresp => {
                ping::decode(body).expect("PINGRESP");
                exchanges.pings = exchanges
                    .pings
                    .checked_sub(1)
                    .expect("PINGRESP answers PINGREQ");
            }
            PacketType::Disconnect => {
                assert!(version.is_v5(), "only 5.0 has a DISCONNECT of the server");
                Disconnect::decode(version, body).expect("DISCONNECT");
                self.disconnected = true;
            }
            other => panic!("a server does not send {other:?}"),
        }
    }

    fn publish(&mut self, version: Version, flags: u8, body: &[u8]) {
        let publish = Publish::decode_from_server(version, flags, body).expect("PUBLISH");
        if let Some(alias) = publish.properties.topic_alias {
            assert!(alias.get() <= self.topic_alias_maximum);
            if publish.topic.is_empty() {
                assert!(
                    self.aliases.contains_key(&alias.get()),
                    "an alias without a topic"
                );
            } else {
                self.aliases.insert(alias.get(), publish.topic.to_owned());
            }
        }
        let alias = publish
            .properties
            .topic_alias
            .filter(|_| publish.topic.is_empty());
        self.topics.push(match alias {
            Some(alias) => self.aliases[&alias.get()].clone(),
            None => publish.topic.to_owned(),
        });
        if version.is_v5() && !publish.dup {
            // What was sent once is sent again until it is acknowledged (MQTT-4.4.0-1), then with 0.
            let expiry_s = publish.properties.message_expiry_s;
            assert_ne!(expiry_s, Some(0), "an expired message is not sent");
        }
        let Some(id) = publish.packet_id else { return };
        let state = match publish.qos {
            QoS::AtLeastOnce => Unacknowledged::AtLeastOnce,
            _ => Unacknowledged::ExactlyOnce,
        };
        let before = self.exchanges.window.insert(id.get(), state);
        if !self.exchanges.acknowledged_unread {
            assert_eq!(before, None, "identifier {id:?} is in use");
            let window = self.exchanges.window.len();
            assert!(window <= self.receive_maximum, "{window} unacknowledged");
        }
    }
}

impl Exchanges {
    fn client_acknowledges(&mut self, packet_type: PacketType, id: u16, accepted: bool) {
        use Unacknowledged::{AtLeastOnce, ExactlyOnce, Recorded, Released};
        if packet_type == PacketType::Pubrel {
            self.pubcomps.push(id);
            return;
        }
        match (packet_type, self.window.get(&id)) {
            (PacketType::Puback, Some(AtLeastOnce)) | (PacketType::Pubcomp, Some(Released)) => {
                self.window.remove(&id);
            }
            (PacketType::Pubrec, Some(ExactlyOnce)) if accepted => {
                self.window.insert(id, Recorded);
            }
            (PacketType::Pubrec, Some(ExactlyOnce)) => {
                self.window.remove(&id);
            }
            _ => self.acknowledged_unread = true,
        }
    }
}

fn answer<T: PartialEq + std::fmt::Debug>(asked: &mut Vec<T>, answered: T) {
    let at = asked.iter().position(|one| *one == answered);
    let at = at.unwrap_or_else(|| panic!("{answered:?} answers nothing of {asked:?}"));
    asked.remove(at);
}

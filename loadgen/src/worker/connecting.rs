//! From nothing to a client that can be used, and back when its connection is lost.

use super::publishing::Handshake;
use super::{Load, Stage, State, record};
use crate::links::Links;
use ringmq::protocol::{
    Connack, Connect, ConnectProperties, PacketId, PacketType, ReasonCode, Suback, Subscribe,
    SubscribeOptions, UserProperties,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Connects that wait for their CONNACK or SUBACK at a time, over all cores: some brokers have a listen queue
/// of 100, and what exceeds it waits a second for its SYN to be sent again.
const CONNECTING_MAX: usize = 64;
/// The same where a rate is asked for, which then decides.
const CONNECTING_AT_RATE_MAX: usize = 4_096;
/// Topic Filters in one SUBSCRIBE, at most.
const FILTERS_IN_PACKET: usize = 100;
/// Client Identifiers of a client that may put it on another CPU, with `--near`.
const FAR_MAX: u8 = 100;
/// How long a client waits before it connects again the first time.
const BACKOFF_FIRST_NS: u64 = 100_000_000;
/// The longest it waits.
const BACKOFF_MAX_NS: u64 = 10_000_000_000;

/// Clients that lost their connection.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// When each is to come back.
    until: BinaryHeap<Reverse<(u64, u32)>>,
    /// How many times each of them tried.
    tries: BTreeMap<u32, u32>,
}

impl Away {
    /// When the next one is to come back; the end of time when there is none.
    pub(super) fn next_ns(&self) -> u64 {
        self.until.peek().map_or(u64::MAX, |next| next.0.0)
    }

    fn add(&mut self, client: u32, now_ns: u64) {
        let tries = self.tries.entry(client).or_default();
        let wait_ns = (BACKOFF_FIRST_NS << (*tries).min(20)).min(BACKOFF_MAX_NS);
        *tries += 1;
        // Spread over half of the time, so that those cut off together do not come together for ever.
        let spread = u64::from(client).wrapping_add(u64::from(*tries) << 32);
        let spread = spread.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let shorter_ns = ((wait_ns / 2) * spread) >> 32;
        self.until
            .push(Reverse((now_ns + wait_ns - shorter_ns, client)));
    }

    fn take(&mut self, now_ns: u64) -> Option<u32> {
        let next = self.until.peek()?.0;
        (next.0 <= now_ns).then(|| {
            self.until.pop();
            next.1
        })
    }
}

impl State<'_> {
    pub(super) fn start_connects(&mut self, links: &mut Links, now_ns: u64) {
        if self.next_connect == self.clients.len() && self.away.until.is_empty() {
            return;
        }
        let allowed = self
            .connects
            .map_or(u64::MAX, |connects| connects.due(now_ns));
        let at_once = match self.connects {
            Some(_) => CONNECTING_AT_RATE_MAX,
            None => CONNECTING_MAX,
        };
        let at_once = at_once.div_ceil(self.shared.cores.len());
        while self.connecting < at_once
            && let Some(client) = self.away.take(now_ns)
        {
            self.start_connect(links, client, now_ns);
        }
        while self.next_connect < self.clients.len()
            && self.connecting < at_once
            && (self.next_connect as u64) < allowed
        {
            let due_ns = self
                .connects
                .map_or(now_ns, |connects| connects.at_ns(self.next_connect as u64));
            self.start_connect(links, self.next_connect as u32, due_ns);
            self.next_connect += 1;
        }
    }

    fn start_connect(&mut self, links: &mut Links, index: u32, due_ns: u64) {
        let client = &mut self.clients[index as usize];
        client.stage = Stage::Connecting;
        client.since_ns = due_ns;
        client.subscribed = 0;
        self.connecting += 1;
        links.connect(index);
    }

    pub(super) fn send_connect(&mut self, links: &mut Links, index: u32) {
        let now_ns = self.clock.now_ns();
        let client = &mut self.clients[index as usize];
        let tcp_ns = now_ns.saturating_sub(client.since_ns);
        record(&mut self.outcome.counts.tcp_connect, tcp_ns);
        client.tcp_us = u32::try_from(tcp_ns / 1_000).unwrap_or(u32::MAX);
        client.stage = Stage::AwaitsConnack;
        let settings = self.settings;
        let is_kept = !settings.clean_start;
        let connect = Connect {
            version: settings.route.version,
            clean_start: settings.clean_start,
            keep_alive_s: settings.keep_alive_s,
            client_id: &self.client_id(index),
            will: None,
            username: settings.credentials.username.as_deref(),
            password: settings.credentials.password(),
            properties: ConnectProperties {
                session_expiry_s: settings
                    .session_expiry_s
                    .or_else(|| is_kept.then_some(3_600)),
                ..ConnectProperties::default()
            },
        };
        connect.encode(links.out(index));
    }

    /// The Client Identifier under which a client connects now.
    fn client_id(&self, index: u32) -> String {
        let plan = &self.plans[index as usize];
        let id = self.settings.names.client_id(plan.role, plan.number);
        match self.clients[index as usize].far {
            0 => id,
            far => format!("{id}.{far}"),
        }
    }

    pub(super) fn on_connack(
        &mut self,
        links: &mut Links,
        index: u32,
        body: &[u8],
    ) -> Result<(), String> {
        let version = self.settings.route.version;
        let connack = Connack::decode(version, body).map_err(|error| error.to_string())?;
        if connack.reason.is_failure() {
            self.away.tries.remove(&index);
            let passes = matches!(
                connack.reason,
                ReasonCode::ServerUnavailable | ReasonCode::ServerBusy
            );
            let why = format!("the broker refused: {}", connack.reason.name());
            return if passes { Err(why) } else { self.give_up(&why) };
        }
        if connack.properties.qos_maximum < self.settings.qos {
            return self.give_up("the broker does not support the QoS");
        }
        if self.cpu.is_some() && links.cpu(index) != self.cpu {
            return self.come_nearer(links, index);
        }
        let now_ns = self.clock.now_ns();
        let client = &mut self.clients[index as usize];
        let connect_ns = now_ns.saturating_sub(client.since_ns);
        record(&mut self.outcome.counts.connect, connect_ns);
        let connack_ns = connect_ns.saturating_sub(u64::from(client.tcp_us) * 1_000);
        record(&mut self.outcome.counts.connack, connack_ns);
        self.away.tries.remove(&index);
        if std::mem::replace(&mut client.was_accepted, true) {
            self.outcome.counts.reconnects += 1;
        } else {
            self.outcome.counts.connected += 1;
        }
        if let Some(at) = client.publisher {
            let publisher = &mut self.publishers[at as usize];
            if let Some(maximum) = connack.properties.receive_maximum {
                publisher.in_flight_max = publisher.in_flight_max.min(maximum.get().into());
            }
            self.begin_again(links, at as usize, connack.session_present);
        }
        if connack.session_present {
            // The session still has its subscriptions.
            self.became_ready(links, index);
            return Ok(());
        }
        self.subscribe(links, index);
        Ok(())
    }

    /// Connects again under another Client Identifier: the broker's end of the connection is on another CPU.
    ///
    /// Errors: none of many brought it here.
    fn come_nearer(&mut self, links: &mut Links, index: u32) -> Result<(), String> {
        let client = &mut self.clients[index as usize];
        if client.far == FAR_MAX {
            let cpu = self.cpu.unwrap_or_default();
            return self.give_up(&format!(
                "--near: {FAR_MAX} Client Identifiers, and the broker never answered from CPU {cpu}; does it pin a thread to it?"
            ));
        }
        client.far += 1;
        links.close(index);
        self.connecting -= 1;
        self.start_connect(links, index, self.clock.now_ns());
        Ok(())
    }

    pub(super) fn on_suback(
        &mut self,
        links: &mut Links,
        index: u32,
        body: &[u8],
    ) -> Result<(), String> {
        let version = self.settings.route.version;
        let suback = Suback::decode(version, body).map_err(|error| error.to_string())?;
        let granted = self.settings.qos as u8;
        if let Some(code) = suback.codes.iter().find(|code| **code != granted) {
            return self.give_up(&format!("the broker answered SUBSCRIBE with {code:#04x}"));
        }
        self.subscribe(links, index);
        Ok(())
    }

    /// Subscribes to the next filters; a client that has all of them is ready.
    fn subscribe(&mut self, links: &mut Links, index: u32) {
        let client = &mut self.clients[index as usize];
        let filters = &self.plans[index as usize].filters[client.subscribed as usize..];
        if filters.is_empty() {
            self.became_ready(links, index);
            return;
        }
        let options = SubscribeOptions {
            qos: self.settings.qos,
            ..SubscribeOptions::default()
        };
        let batch: Vec<_> = filters
            .iter()
            .take(FILTERS_IN_PACKET)
            .map(|filter| (filter.as_str(), options))
            .collect();
        client.stage = Stage::AwaitsSuback;
        client.subscribed += batch.len() as u32;
        Subscribe::encode(
            links.out(index),
            self.settings.route.version,
            PacketId::MIN,
            None,
            &UserProperties::default(),
            &batch,
        );
    }

    fn became_ready(&mut self, links: &mut Links, index: u32) {
        let client = &mut self.clients[index as usize];
        client.stage = Stage::Ready;
        self.ready += 1;
        self.connecting -= 1;
        match client.publisher {
            Some(publisher) if self.times.is_some() => self.enqueue(publisher as usize),
            Some(_) => {}
            // It may stay for long without anything to say.
            None => links.release(index),
        }
    }

    /// The connection of a client is gone.
    ///
    /// Errors: that ends the run.
    pub(super) fn lost(&mut self, links: &mut Links, index: u32, why: &str) -> Result<(), String> {
        let client = &mut self.clients[index as usize];
        let stage = client.stage;
        if !self.settings.reconnect || self.given_up {
            let id = self.client_id(index);
            return Err(format!("client {id} ({}): {why}", stage.name()));
        }
        if stage == Stage::Away {
            // Its end was known already.
            return Ok(());
        }
        client.stage = Stage::Away;
        if stage == Stage::Ready {
            self.ready -= 1;
        } else {
            self.connecting -= 1;
        }
        links.close(index);
        match self.outcome.counts.disconnects.get_mut(why) {
            Some(count) => *count += 1,
            None => {
                self.outcome.counts.disconnects.insert(why.to_owned(), 1);
            }
        }
        self.away.add(index, self.clock.now_ns());
        Ok(())
    }

    /// What happened would happen again.
    fn give_up(&mut self, why: &str) -> Result<(), String> {
        self.given_up = true;
        Err(why.to_owned())
    }

    /// What a publisher had in flight is sent again where the broker still knows of it, and else given up.
    ///
    /// MQTT 5 §4.4: PUBLISH with DUP, and PUBREL, with their Packet Identifiers.
    fn begin_again(&mut self, links: &mut Links, at: usize, session_present: bool) {
        let version = self.settings.route.version;
        let publisher = &mut self.publishers[at];
        if publisher.in_flight == 0 {
            return;
        }
        for index in publisher.ids_in_order() {
            let id = PacketId::new(index as u16 + 1).expect("identifiers begin with 1");
            match publisher.ids[index] {
                Handshake::Free => {}
                _ if !session_present => {
                    publisher.ids[index] = Handshake::Free;
                    publisher.in_flight -= 1;
                    self.outcome.counts.unacknowledged += 1;
                }
                Handshake::Published(due_ns, sequence) => {
                    let out = links.out(publisher.client);
                    let start = out.len();
                    publisher.offsets.patch_packet_id(&mut publisher.head, id);
                    publisher.put(out, &self.payloads, self.settings, sequence, due_ns);
                    // MQTT 5 §3.3.1.1: DUP is bit 3 of the first byte.
                    out[start] |= 0x08;
                }
                Handshake::Released(_) => {
                    let out = links.out(publisher.client);
                    let success = ReasonCode::Success;
                    ringmq::protocol::put_ack(out, version, PacketType::Pubrel, id, success);
                }
            }
        }
        if matches!(self.settings.load, Load::Closed { .. }) {
            publisher.moved_ns = self.clock.now_ns();
        }
    }
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Away | Self::Connecting => "while connecting",
            Self::AwaitsConnack => "before CONNACK",
            Self::AwaitsSuback => "before SUBACK",
            Self::Ready => "in use",
        }
    }
}

//! `ringmq sub`: a subscription, and messages printed as they come.

use super::connection::{Connection, Event, Packet};
use super::format::Arrival;
use super::options::{Retained, SubPlan};
use super::property::{NumberName, nonzero_u32, user_raw};
use super::{EXIT_FAILED, EXIT_TIMEOUT, Failure};
use crate::protocol::{
    Ack, PacketId, PacketType, Publish, QoS, ReasonCode, Suback, Subscribe, Unsubscribe,
    UserProperties, put_ack,
};
use crate::topic::filter::matches;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::num::NonZeroU16;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time for the last steps of QoS 2 deliveries before leaving.
const LINGER: Duration = Duration::from_secs(2);
/// Packets after which what they brought is printed, even if more is there.
const BATCH_PACKETS: u32 = 256;
/// Text after which it is printed.
const PAGE_BYTES: usize = 1 << 20;
const SUBSCRIBE_ID: u16 = 1;
const UNSUBSCRIBE_ID: u16 = 2;

/// Whether there is more to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    More,
    Done,
}

/// Why nothing more is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    TimedOut,
}

struct Subscriber {
    connection: Connection,
    plan: SubPlan,
    /// Text to be printed.
    page: Vec<u8>,
    /// Acknowledgements of what is on the page.
    acks: Vec<u8>,
    /// Messages of QoS 2 that were printed and whose PUBREL has not come.
    unreleased: HashSet<PacketId>,
    aliases: HashMap<NonZeroU16, String>,
    printed: u64,
}

pub(super) fn run(plan: SubPlan) -> Result<(), Failure> {
    let deadline = plan.timeout.map(|timeout| Instant::now() + timeout);
    let connection = Connection::open(&plan.connect)?;
    stop_on_signals(&connection)?;
    let mut subscriber = Subscriber {
        connection,
        plan,
        page: Vec::new(),
        acks: Vec::new(),
        unreleased: HashSet::new(),
        aliases: HashMap::new(),
        printed: 0,
    };
    subscriber.send_subscribe()?;
    let end = subscriber.receive(deadline)?;
    subscriber.finish()?;
    match end {
        End::TimedOut => Err(Failure::new(EXIT_TIMEOUT, "")),
        End::Done => Ok(()),
    }
}

fn stop_on_signals(connection: &Connection) -> Result<(), Failure> {
    let events = connection.event_sender();
    let mut signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|error| Failure::new(EXIT_FAILED, error))?;
    thread::spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            // A second one does not wait for the server.
            if count > 0 {
                std::process::exit(128 + signal);
            }
            let events = events.clone();
            thread::spawn(move || events.send(Event::Stop));
        }
    });
    Ok(())
}

impl Subscriber {
    fn send_subscribe(&mut self) -> Result<(), Failure> {
        let version = self.connection.version();
        let properties = &self.plan.connect.properties;
        let mut bytes = Vec::new();
        if !self.plan.filters.is_empty() {
            let filters: Vec<_> = self
                .plan
                .filters
                .iter()
                .map(|filter| (filter.as_str(), self.plan.options))
                .collect();
            let user = user_raw(&properties.subscribe);
            Subscribe::encode(
                &mut bytes,
                version,
                PacketId::new(SUBSCRIBE_ID).expect("not 0"),
                nonzero_u32(&properties.subscribe, NumberName::SubscriptionIdentifier),
                &UserProperties::from_raw(&user).expect("encoded from User Properties"),
                &filters,
            );
        }
        if !self.plan.unsubscribe.is_empty() {
            let filters: Vec<&str> = self.plan.unsubscribe.iter().map(String::as_str).collect();
            let user = user_raw(&properties.unsubscribe);
            Unsubscribe::encode(
                &mut bytes,
                version,
                PacketId::new(UNSUBSCRIBE_ID).expect("not 0"),
                &UserProperties::from_raw(&user).expect("encoded from User Properties"),
                &filters,
            );
        }
        self.connection.send(&bytes)
    }

    /// Prints and acknowledges what comes, in batches of what is there.
    fn receive(&mut self, deadline: Option<Instant>) -> Result<End, Failure> {
        let mut batch = 0;
        loop {
            let there = if batch < BATCH_PACKETS && self.page.len() < PAGE_BYTES {
                self.connection.try_next()?
            } else {
                None
            };
            let event = if there.is_some() {
                batch += 1;
                there
            } else {
                batch = 0;
                if self.settle()? == Flow::Done {
                    return Ok(End::Done);
                }
                self.connection.next(deadline)?
            };
            match event {
                Some(Event::Packet(packet)) => {
                    if self.take(&packet)? == Flow::Done {
                        self.settle()?;
                        return Ok(End::Done);
                    }
                }
                Some(Event::Stop) => {
                    self.settle()?;
                    return Ok(End::Done);
                }
                Some(_) => {}
                None => return Ok(End::TimedOut),
            }
        }
    }

    /// Prints the page, and then acknowledges what was on it, so that a kept session loses nothing.
    fn settle(&mut self) -> Result<Flow, Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(&self.page).and_then(|()| out.flush()) {
            Ok(()) => {}
            // The reader of a pipe has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Flow::Done),
            Err(error) => return Err(Failure::new(EXIT_FAILED, format!("cannot print: {error}"))),
        }
        self.page.clear();
        self.page.shrink_to(2 * PAGE_BYTES);
        if !self.acks.is_empty() {
            self.connection.send(&self.acks)?;
            self.acks.clear();
        }
        Ok(Flow::More)
    }

    fn take(&mut self, packet: &Packet) -> Result<Flow, Failure> {
        match packet.header.packet_type {
            PacketType::Suback => self.take_suback(packet),
            PacketType::Unsuback if self.plan.filters.is_empty() => Ok(Flow::Done),
            PacketType::Publish => self.take_publish(packet),
            PacketType::Pubrel => self.take_pubrel(packet).map(|()| Flow::More),
            _ => Ok(Flow::More),
        }
    }

    fn take_suback(&self, packet: &Packet) -> Result<Flow, Failure> {
        let suback = Suback::decode(self.connection.version(), &packet.body).map_err(|error| {
            self.connection
                .failure(format!("a malformed SUBACK: {}", error.what))
        })?;
        let mut last_refusal = None;
        let mut granted = 0;
        for (filter, code) in self.plan.filters.iter().zip(suback.codes) {
            let Some(reason) = ReasonCode::from_u8(*code).filter(|reason| reason.is_failure())
            else {
                granted += 1;
                continue;
            };
            let what = format!("the subscription to {filter} was refused");
            let failure = self.connection.refused(what, reason, suback.reason_string);
            if let Some(earlier) = last_refusal.replace(failure) {
                self.warn(&earlier);
            }
        }
        match last_refusal {
            Some(refusal) if granted == 0 => return Err(refusal),
            Some(refusal) => self.warn(&refusal),
            None => {}
        }
        Ok(if self.plan.exit_after_subscribe {
            Flow::Done
        } else {
            Flow::More
        })
    }

    fn take_publish(&mut self, packet: &Packet) -> Result<Flow, Failure> {
        let version = self.connection.version();
        let publish = Publish::decode_from_server(version, packet.header.flags, &packet.body)
            .map_err(|error| {
                self.connection
                    .failure(format!("a malformed PUBLISH: {}", error.what))
            })?;
        if let Some(alias) = publish.properties.topic_alias
            && !publish.topic.is_empty()
        {
            self.aliases.insert(alias, publish.topic.to_owned());
        }
        let topic = match publish
            .properties
            .topic_alias
            .and_then(|alias| self.aliases.get(&alias))
        {
            Some(topic) => topic.clone(),
            None => publish.topic.to_owned(),
        };
        if self.plan.retained == Retained::Only && !publish.retain {
            return Ok(Flow::Done);
        }
        let is_new = match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) => self.unreleased.insert(id),
            _ => true,
        };
        let mut flow = Flow::More;
        let stale = self.plan.retained == Retained::LeaveOut && publish.retain;
        let filtered_out = || {
            self.plan
                .filter_out
                .iter()
                .any(|filter| matches(filter, &topic))
        };
        if is_new && !stale && !filtered_out() {
            flow = self.put_on_page(&publish, &topic);
        }
        let answer = match publish.qos {
            QoS::AtMostOnce => return Ok(flow),
            QoS::AtLeastOnce => PacketType::Puback,
            QoS::ExactlyOnce => PacketType::Pubrec,
        };
        let id = publish
            .packet_id
            .expect("QoS 1 and 2 have a Packet Identifier");
        put_ack(&mut self.acks, version, answer, id, ReasonCode::Success);
        Ok(flow)
    }

    fn take_pubrel(&mut self, packet: &Packet) -> Result<(), Failure> {
        let version = self.connection.version();
        let ack = Ack::decode(version, PacketType::Pubrel, &packet.body).map_err(|error| {
            self.connection
                .failure(format!("a malformed PUBREL: {}", error.what))
        })?;
        self.unreleased.remove(&ack.packet_id);
        put_ack(
            &mut self.acks,
            version,
            PacketType::Pubcomp,
            ack.packet_id,
            ReasonCode::Success,
        );
        Ok(())
    }

    fn put_on_page(&mut self, publish: &Publish<'_>, topic: &str) -> Flow {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let at = Arrival {
            seconds: now.as_secs(),
            nanos: now.subsec_nanos(),
        };
        let format = &self.plan.format;
        format
            .write(&mut self.page, publish, topic, at)
            .expect("a Vec takes everything");
        if self.plan.line_feed {
            self.page.push(b'\n');
        }
        self.printed += 1;
        let enough = self.plan.count.is_some_and(|count| self.printed >= count);
        if enough { Flow::Done } else { Flow::More }
    }

    /// Leaves, once the QoS 2 deliveries under way are complete or the linger time is over.
    fn finish(mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + LINGER;
        while !self.unreleased.is_empty() {
            match self.connection.next(Some(deadline))? {
                Some(Event::Packet(packet)) if packet.header.packet_type == PacketType::Pubrel => {
                    self.take_pubrel(&packet)?;
                    self.settle()?;
                }
                // What comes now is not acknowledged, so a kept session delivers it again.
                Some(_) => {}
                None => break,
            }
        }
        // What was asked for is printed; how the server takes the farewell changes nothing.
        let _ = self.connection.close(&self.plan.connect);
        Ok(())
    }

    fn warn(&self, failure: &Failure) {
        if !self.plan.connect.quiet {
            eprintln!("ringmq sub: {}", failure.message);
        }
    }
}

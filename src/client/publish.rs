//! `ringmq pub`: messages out, acknowledgements in.

use super::connection::{Connection, Event, Packet};
use super::options::{Payload, PubPlan, Source};
use super::property::{NumberName, forward_raw, nonzero_u16, number};
use super::{EXIT_FAILED, Failure};
use crate::protocol::{
    Ack, Forward, PacketId, PacketType, Publish, PublishProperties, QoS, ReasonCode, put_ack,
};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

/// Messages unacknowledged at a time, where the server does not say less. Before MQTT 5 it cannot say, and
/// mosquitto ends the connection of a client that has more.
const WINDOW: u16 = 20;

/// What an unacknowledged message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Puback,
    Pubrec,
    Pubcomp,
}

struct Publisher {
    connection: Connection,
    plan: PubPlan,
    forward: Vec<u8>,
    unacknowledged: HashMap<PacketId, Waiting>,
    last_id: u16,
    /// Lines of stdin that came while something else was waited for.
    lines: Option<Vec<Vec<u8>>>,
    refused: Option<Failure>,
}

pub(super) fn run(plan: PubPlan) -> Result<(), Failure> {
    let payload = match &plan.source {
        Source::Payload { payload, .. } => Some(read_payload(payload)?),
        Source::Lines => None,
    };
    let connection = Connection::open(&plan.connect)?;
    let forward = forward_raw(&plan.connect.properties.publish);
    let mut publisher = Publisher {
        connection,
        plan,
        forward,
        unacknowledged: HashMap::new(),
        last_id: 0,
        lines: None,
        refused: None,
    };
    match (&publisher.plan.source, payload) {
        (Source::Payload { count, delay, .. }, Some(payload)) => {
            let (count, delay) = (*count, *delay);
            for n in 0..count {
                let sent = Instant::now();
                publisher.publish(&payload)?;
                if n + 1 < count {
                    publisher.wait_until(sent + delay)?;
                }
            }
        }
        _ => publisher.publish_lines()?,
    }
    publisher.finish()
}

fn read_payload(payload: &Payload) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    match payload {
        Payload::Bytes(given) => return Ok(given.clone()),
        Payload::File(path) => File::open(path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| {
                Failure::new(
                    EXIT_FAILED,
                    format!("cannot read {}: {error}", path.display()),
                )
            })?,
        Payload::Stdin => io::stdin()
            .lock()
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::new(EXIT_FAILED, format!("cannot read stdin: {error}")))?,
    };
    Ok(bytes)
}

/// The next line, and those behind it that are there already, without their ends; none at the end.
///
/// A read that fails is the end too: there is nothing more to publish.
fn read_lines(input: &mut BufReader<impl Read>) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if !input
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            return lines;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        lines.push(line);
        // Only a line that is whole already is read without waiting.
        if !input.buffer().contains(&b'\n') {
            return lines;
        }
    }
}

impl Publisher {
    fn publish(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let packet_id = match self.plan.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(self.take_packet_id()?),
        };
        let given = &self.plan.connect.properties.publish;
        let publish = Publish {
            dup: false,
            qos: self.plan.qos,
            retain: self.plan.retain,
            topic: &self.plan.topic,
            packet_id,
            properties: PublishProperties {
                topic_alias: nonzero_u16(given, NumberName::TopicAlias),
                message_expiry_s: number(given, NumberName::MessageExpiryInterval),
                forward: Forward::from_raw(&self.forward)
                    .expect("encoded from properties that are passed on"),
                ..PublishProperties::default()
            },
            payload,
        };
        // The head is the topic, the properties and at most 32 bytes of fields.
        let most = self.plan.topic.len() + self.forward.len() + payload.len() + 32;
        if most
            > self
                .connection
                .packet_bytes_max
                .min(crate::protocol::PACKET_BYTES_MAX)
        {
            let limit = self.connection.packet_bytes_max;
            return Err(self.connection.failure(format!(
                "the message of {} bytes is larger than the packet of {limit} bytes the server takes",
                payload.len()
            )));
        }
        let mut bytes = Vec::with_capacity(most);
        publish.encode(self.connection.version(), &mut bytes);
        if let Some(id) = packet_id {
            let waiting = if self.plan.qos == QoS::AtLeastOnce {
                Waiting::Puback
            } else {
                Waiting::Pubrec
            };
            self.unacknowledged.insert(id, waiting);
        }
        self.connection.queue(&bytes)?;
        self.take_what_is_there()
    }

    fn publish_lines(&mut self) -> Result<(), Failure> {
        let (want, wanted) = sync_channel::<()>(1);
        let events = self.connection.event_sender();
        thread::spawn(move || {
            let mut stdin = BufReader::with_capacity(64 << 10, io::stdin().lock());
            // What is not asked for is not read, so a slow server slows the reading down.
            while wanted.recv().is_ok() {
                let lines = read_lines(&mut stdin);
                let ended = lines.is_empty();
                if events.send(Event::Lines(lines)).is_err() || ended {
                    return;
                }
            }
        });
        loop {
            want.send(())
                .map_err(|_| self.connection.failure("stdin cannot be read"))?;
            let lines = loop {
                if let Some(lines) = self.lines.take() {
                    break lines;
                }
                self.wait(None)?;
            };
            if lines.is_empty() {
                return Ok(());
            }
            for line in lines.iter().filter(|line| !line.is_empty()) {
                self.publish(line)?;
            }
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        while !self.unacknowledged.is_empty() {
            self.wait(None)?;
        }
        self.connection.close(&self.plan.connect)?;
        self.refused.map_or(Ok(()), Err)
    }

    fn wait_until(&mut self, deadline: Instant) -> Result<(), Failure> {
        while self.wait(Some(deadline))? {}
        Ok(())
    }

    /// Waits for one event and handles it; false when the deadline is reached.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<bool, Failure> {
        match self.connection.next(deadline)? {
            Some(event) => self.take(event).map(|()| true),
            None => Ok(false),
        }
    }

    fn take_what_is_there(&mut self) -> Result<(), Failure> {
        while let Some(event) = self.connection.try_next()? {
            self.take(event)?;
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Packet(packet) => self.take_packet(&packet),
            Event::Lines(lines) => {
                self.lines = Some(lines);
                Ok(())
            }
            Event::Closed(_) | Event::Malformed(_) | Event::Stop => Ok(()),
        }
    }

    fn take_packet(&mut self, packet: &Packet) -> Result<(), Failure> {
        let packet_type = packet.header.packet_type;
        let waiting = match packet_type {
            PacketType::Puback => Waiting::Puback,
            PacketType::Pubrec => Waiting::Pubrec,
            PacketType::Pubcomp => Waiting::Pubcomp,
            // What a kept session still had to deliver stays there: nobody would see it here.
            _ => return Ok(()),
        };
        let version = self.connection.version();
        let ack = Ack::decode(version, packet_type, &packet.body).map_err(|error| {
            self.connection.failure(format!(
                "a malformed {}: {}",
                packet_type.name(),
                error.what
            ))
        })?;
        if self.unacknowledged.get(&ack.packet_id) != Some(&waiting) {
            return Ok(());
        }
        if ack.reason.is_failure() {
            self.unacknowledged.remove(&ack.packet_id);
            let what = format!("a message to {} was refused", self.plan.topic);
            let failure = self.connection.refused(what, ack.reason, ack.reason_string);
            self.refused.get_or_insert(failure);
            return Ok(());
        }
        match waiting {
            Waiting::Puback | Waiting::Pubcomp => {
                self.unacknowledged.remove(&ack.packet_id);
            }
            Waiting::Pubrec => {
                self.unacknowledged.insert(ack.packet_id, Waiting::Pubcomp);
                let mut pubrel = Vec::new();
                put_ack(
                    &mut pubrel,
                    version,
                    PacketType::Pubrel,
                    ack.packet_id,
                    ReasonCode::Success,
                );
                self.connection.send(&pubrel)?;
            }
        }
        Ok(())
    }

    fn take_packet_id(&mut self) -> Result<PacketId, Failure> {
        let window = usize::from(self.connection.receive_maximum.min(WINDOW));
        while self.unacknowledged.len() >= window {
            self.wait(None)?;
        }
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = PacketId::new(self.last_id).expect("counts from 1");
            if !self.unacknowledged.contains_key(&id) {
                return Ok(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_batches_of_what_is_there() {
        let mut input = BufReader::with_capacity(8, &b"a\nbc\n\nlong line\nrest"[..]);
        let mut batches = Vec::new();
        loop {
            let lines = read_lines(&mut input);
            if lines.is_empty() {
                break;
            }
            batches.push(lines);
        }
        let all: Vec<Vec<u8>> = batches.concat();
        assert_eq!(all, [&b"a"[..], b"bc", b"", b"long line", b"rest"]);
        assert_eq!(batches[0].len(), 3);
    }
}

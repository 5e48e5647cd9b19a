//! What arrives: messages, and acknowledgements of messages.

use super::publishing::Handshake;
use super::{Payload, State, record};
use crate::links::Links;
use crate::payload::Header;
use crate::plan::Hears;
use crate::track::{Arrival, Track};
use ringmq::protocol::{Ack, PacketId, PacketType, Publish, QoS, ReasonCode, put_ack};
use std::sync::atomic::Ordering;

/// Publishers of other processes that are told apart.
const STRANGERS_MAX: usize = 1 << 20;

impl State<'_> {
    pub(super) fn on_publish(
        &mut self,
        links: &mut Links,
        index: u32,
        flags: u8,
        body: &[u8],
        now_ns: u64,
    ) -> Result<(), String> {
        let publish = Publish::decode_from_server(self.settings.route.version, flags, body)
            .map_err(|error| error.to_string())?;
        match (publish.qos, publish.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => self.answer(links, index, PacketType::Puback, id),
            (QoS::ExactlyOnce, Some(id)) => self.answer(links, index, PacketType::Pubrec, id),
            _ => {}
        }
        if !matches!(self.settings.payload, Payload::Checked(_)) {
            self.outcome.counts.unchecked += 1;
            self.count(now_ns);
            return Ok(());
        }
        let Some((header, arrival)) = self.arrived(index, publish.payload) else {
            self.outcome.counts.corrupt += 1;
            return Ok(());
        };
        match arrival {
            Arrival::Fresh => {}
            Arrival::Late => self.outcome.counts.reordered += 1,
            Arrival::Duplicate => {
                self.outcome.counts.duplicates += 1;
                return Ok(());
            }
        }
        self.count(now_ns);
        if self.settings.has_latency
            && let Some(times) = &self.times
            // Those that slow subscribers let wait are not the broker's doing.
            && times.is_measured(header.intended_ns)
            && !self.plans[index as usize].slow
        {
            record(
                &mut self.interval.latency,
                now_ns.saturating_sub(header.intended_ns),
            );
        }
        self.move_window(&header);
        Ok(())
    }

    /// Counts a message that arrived.
    fn count(&mut self, now_ns: u64) {
        self.received += 1;
        if let Some(times) = &self.times {
            self.interval.delivered += 1;
            self.outcome.counts.delivered += u64::from(times.is_measured(now_ns));
        }
    }

    /// Checks a payload and takes note of its arrival; `None` when it is not one that was to come here.
    fn arrived(&mut self, index: u32, payload: &[u8]) -> Option<(Header, Arrival)> {
        let header = self.payloads.check(payload)?;
        let client = &mut self.clients[index as usize];
        let number = header.publisher as usize;
        let track = match &self.plans[index as usize].hears {
            Hears::Nothing => None,
            Hears::Own(numbers) => {
                let at = header.publisher.checked_sub(numbers.start)?;
                client.tracks.get_mut(at as usize)
            }
            Hears::Group { group, publishers } => publishers
                .contains(&header.publisher)
                .then(|| &mut self.groups[*group as usize][number]),
            Hears::Strangers if number < STRANGERS_MAX => {
                if client.tracks.len() <= number {
                    let mut tracks = std::mem::take(&mut client.tracks).into_vec();
                    tracks.resize_with(number + 1, Track::from_first_seen);
                    client.tracks = tracks.into();
                }
                client.tracks.get_mut(number)
            }
            Hears::Strangers => None,
        };
        track.map(|track| (header, track.see(header.sequence)))
    }

    fn move_window(&mut self, header: &Header) {
        let number = header.publisher as usize;
        let Some(Some(window)) = self.windows.get_mut(number) else {
            return;
        };
        if !window.got(header.sequence) {
            return;
        }
        let (core, index) = self.shared.homes[number];
        if core == self.core && !self.publishers[index].has_remote_receivers {
            let publisher = &mut self.publishers[index];
            publisher.window_end = window.base() + self.shared.window;
            self.enqueue(index);
            return;
        }
        self.shared
            .progress(number, self.core)
            .store(window.base(), Ordering::Release);
        self.touched[core] = true;
    }

    pub(super) fn answer(
        &self,
        links: &mut Links,
        index: u32,
        packet_type: PacketType,
        id: PacketId,
    ) {
        let version = self.settings.route.version;
        put_ack(
            links.out(index),
            version,
            packet_type,
            id,
            ReasonCode::Success,
        );
    }

    pub(super) fn on_ack(
        &mut self,
        links: &mut Links,
        index: u32,
        packet_type: PacketType,
        body: &[u8],
    ) -> Result<(), String> {
        let ack = Ack::decode(self.settings.route.version, packet_type, body)
            .map_err(|error| error.to_string())?;
        let publisher_index = self.clients[index as usize].publisher.map(|at| at as usize);
        let publisher = publisher_index.and_then(|at| self.publishers.get_mut(at));
        let slot = publisher.and_then(|publisher| {
            let slot = publisher
                .ids
                .get_mut(usize::from(ack.packet_id.get()) - 1)?;
            Some((slot, &mut publisher.in_flight))
        });
        let Some((slot, in_flight)) = slot else {
            return Err(format!(
                "{} for a message that was not sent",
                packet_type.name()
            ));
        };
        let failed = ack.reason.is_failure();
        self.outcome.counts.refused += u64::from(failed);
        let due_ns = match (packet_type, self.settings.qos, *slot) {
            (PacketType::Puback, QoS::AtLeastOnce, Handshake::Published(due_ns, _))
            | (PacketType::Pubcomp, QoS::ExactlyOnce, Handshake::Released(due_ns)) => due_ns,
            (PacketType::Pubrec, QoS::ExactlyOnce, Handshake::Published(due_ns, _)) if failed => {
                due_ns
            }
            (PacketType::Pubrec, QoS::ExactlyOnce, Handshake::Published(due_ns, _)) => {
                *slot = Handshake::Released(due_ns);
                self.answer(links, index, PacketType::Pubrel, ack.packet_id);
                return Ok(());
            }
            _ => {
                return Err(format!(
                    "{} for a message that awaits another",
                    packet_type.name()
                ));
            }
        };
        *slot = Handshake::Free;
        *in_flight -= 1;
        if self.settings.has_latency && self.times.is_some_and(|times| times.is_measured(due_ns)) {
            let now_ns = self.clock.now_ns();
            record(
                &mut self.outcome.counts.acknowledged,
                now_ns.saturating_sub(due_ns),
            );
        }
        if let Some(at) = publisher_index {
            self.enqueue(at);
        }
        Ok(())
    }
}

//! A message whose receivers are about to acknowledge it need not reach the disk: its record lingers.
//!
//! A QoS 1 message that went straight to clients which acknowledged the one before within [`PROMPT_MS`] waits for them, for
//! [`LINGER_MS`] and at most a tick of the timers more. When the last of them has acknowledged, nothing is left to be kept, and the publisher is
//! told at once; what is left at the end, or when a later message of that publisher is recorded, is recorded like any other. So the acknowledgement is as true as ever, and a
//! message that is read as it comes costs the store nothing.
//!
//! A receiver's shard tells the publisher's of an end as long as the message is not durable as far as it knows; the
//! publisher's takes the receiver out, or records the end if the message is recorded already.

use super::Shard;
use super::commit::{Keeper, Told};
use super::input::ConnKey;
use super::mesh_message::{MeshMessage, TakenEnd};
use super::outbox::Outbox;
use super::record::{StoredMessage, StoredSession, number_shard, number_time_ms};
use super::timer::{Timer, TimerKind};
use crate::session::SessionKey;

/// How soon a client acknowledges for its next message to linger.
const PROMPT_MS: u64 = 4;
/// How long that does.
const LINGER_MS: u64 = 8;

/// A message that lingers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lingering {
    deadline_ms: u64,
    number: u64,
}

impl Shard {
    /// A client has acknowledged a QoS 1 message with this number: was that prompt?
    pub(super) fn note_promptness(&mut self, session: SessionKey, number: u64) {
        if number != 0 {
            let took_ms = self.now.wall_ms.saturating_sub(number_time_ms(number));
            self.sessions[session.0 as usize].acks_promptly = took_ms <= PROMPT_MS;
        }
    }

    /// Lets the record of a message wait for its receivers.
    pub(super) fn linger(&mut self, number: u64, publisher: ConnKey) {
        if self.is_open(publisher) {
            let gate = self.conns[publisher.index as usize].gate.as_mut();
            let lingering = &mut gate.expect("its acknowledgement stands in line").lingering;
            let storing = &self.keeper.storing;
            if lingering.len() == lingering.capacity() {
                lingering.retain(|it| storing.contains_key(it));
            }
            lingering.push_back(number);
        }
        let deadline_ms = self.now.mono_ms + LINGER_MS;
        let lingering = Lingering {
            deadline_ms,
            number,
        };
        self.keeper.lingering.push_back(lingering);
        self.set_linger_timer();
    }

    fn set_linger_timer(&mut self) {
        let keeper = &mut self.keeper;
        let Some(first) = keeper.lingering.front() else {
            return;
        };
        if !std::mem::replace(&mut keeper.linger_timer_is_set, true) {
            self.wheel.insert(Timer {
                tick: self.wheel.tick_for(first.deadline_ms),
                index: 0,
                generation: 0,
                kind: TimerKind::Linger,
            });
        }
    }

    /// Records what has lingered long enough.
    pub(super) fn linger_timer(&mut self, outbox: &mut Outbox) {
        self.keeper.linger_timer_is_set = false;
        let now_ms = self.now.mono_ms;
        while let Some(first) = self.keeper.lingering.front()
            && first.deadline_ms <= now_ms
        {
            let number = first.number;
            self.keeper.lingering.pop_front();
            // Most are settled by then.
            if self.keeper.lingers(number) {
                self.record_message(number, outbox);
            }
        }
        self.set_linger_timer();
    }

    /// Records what lingers of the same publisher and came earlier: after a crash its receivers would have the later message first.
    pub(super) fn record_earlier(&mut self, number: u64, publisher: ConnKey, outbox: &mut Outbox) {
        let is_open = self.is_open(publisher);
        loop {
            // Of one that is gone nobody knows which those are.
            let lingering = if is_open {
                let gate = self.conns[publisher.index as usize].gate.as_mut();
                gate.and_then(|gate| gate.lingering.pop_front_if(|it| *it < number))
            } else {
                let lingering = &mut self.keeper.lingering;
                let next = lingering.pop_front_if(|it| it.number < number);
                next.map(|it| it.number)
            };
            let Some(earlier) = lingering else { break };
            if self.keeper.lingers(earlier) {
                self.record_one(earlier, outbox);
            }
        }
    }

    /// A receiver of another shard is done with messages of this one.
    pub(super) fn taken_ended(&mut self, ends: &[TakenEnd], outbox: &mut Outbox) {
        for end in ends {
            let TakenEnd { message, session } = *end;
            if !self.end_unwritten(message, session) {
                self.record_end(message, session, outbox);
            }
        }
    }

    /// Takes a receiver out of a message of this shard that is not recorded yet; false if it is, or is not known to have it.
    pub(super) fn end_unwritten(&mut self, message: StoredMessage, session: StoredSession) -> bool {
        let keeper = &mut self.keeper;
        let Some(storing) = keeper.storing.get_mut(&message.0) else {
            return false;
        };
        if !storing.end_unwritten(session) {
            return false;
        }
        if storing.is_over() {
            keeper.over.push(message.0);
        }
        true
    }

    /// Settles messages that lingered and whose receivers are all done.
    pub(super) fn settle_over(&mut self, outbox: &mut Outbox) {
        let mut told = Told::default();
        let mut over = std::mem::take(&mut self.keeper.over);
        for number in over.drain(..) {
            if self.keeper.storing.contains_key(&number) {
                self.message_is_settled(number, &[], &mut told, outbox);
            }
        }
        told.send(outbox);
        if self.keeper.over.is_empty() {
            self.keeper.over = over;
        }
    }
}

impl Keeper {
    /// Whether nothing of a message is settled or recorded yet.
    fn lingers(&self, number: u64) -> bool {
        let storing = self.storing.get(&number);
        storing.is_some_and(|storing| !storing.is_recorded())
    }

    /// Notes an end for the shard that the message is of.
    pub(super) fn end_away(&mut self, message: StoredMessage, session: StoredSession) {
        let to = number_shard(message.0);
        let end = TakenEnd { message, session };
        match self.ends_away.iter_mut().find(|(shard, _)| *shard == to) {
            Some((_, ends)) => ends.push(end),
            None => self.ends_away.push((to, vec![end])),
        }
    }

    /// Sends what was noted. Behind the answers of the same input: a message is taken before it ends.
    pub(super) fn send_ends(&mut self, outbox: &mut Outbox) {
        for (to, ends) in self.ends_away.drain(..) {
            outbox.send(to, MeshMessage::TakenEnded(ends));
        }
    }
}

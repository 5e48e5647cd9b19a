//! The queue of one session: what is offered to it, what its policy makes of that when it is full, and what is held back until there is
//! room.

use super::Shard;
use super::budget::tighten;
use super::connection::End;
use super::counters::DropCause;
use super::deliver::Recipient;
use super::input::ShardId;
use super::mesh_message::Taken;
use super::outbox::Outbox;
use super::publication::Publication;
use super::record::{
    Receiver, ReceiverFlags, StoredMessage, StoredSession, number_shard, number_time_ms,
};
use super::storing::{AtHand, Pace};
use super::timer::{Timer, TimerKind};
use crate::protocol::ReasonCode;
use crate::session::queue::{Front, LetGo, Queue, QueueLimits, Queued};
use crate::session::{Delivery, Session, SessionKey};

/// Messages that one session may hold back.
const ON_HOLD_MAX: usize = 32;

/// A delivery that waits for room in a queue.
#[derive(Debug)]
pub(super) struct Hold {
    deadline_ms: u64,
    session: SessionKey,
    stored: u64,
    number: u64,
}

/// An answer to another shard that waits for queues here, or for those whom the message is under way to.
#[derive(Debug)]
pub(super) struct Withheld {
    to: ShardId,
    taken: Taken,
    /// The sessions that have not decided.
    holding: Vec<u64>,
    /// Sessions are still to have the message.
    is_under_way: bool,
}

impl Withheld {
    /// Of a message with this number, whose shard asked what it has come to.
    pub(super) fn new(number: u64, at_hand: AtHand) -> Self {
        Self {
            to: number_shard(number),
            taken: Taken {
                message: StoredMessage(number),
                receivers: at_hand.receivers,
                refused: at_hand.refused,
                promptly: !at_hand.slowly && at_hand.holding.is_empty(),
            },
            holding: at_hand.holding,
            is_under_way: at_hand.awaited > 0,
        }
    }

    /// Whether this message is under way. What a shared group was asked about is another answer of the same number.
    pub(super) fn is_under_way(&self, number: u64) -> bool {
        self.is_under_way && self.taken.message.0 == number
    }

    /// Adds what more sessions have made of the message.
    pub(super) fn add(&mut self, more: AtHand) {
        assert!(more.awaited == 0);
        let taken = &mut self.taken;
        taken.receivers.extend(more.receivers);
        taken.refused |= more.refused;
        taken.promptly &= !more.slowly && more.holding.is_empty();
        self.holding.extend(more.holding);
    }
}

/// What bounds every queue of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueBounds {
    messages_max: usize,
    bytes_max: usize,
    /// Of `queue-bytes-all-max`, what no queue has taken.
    bytes_left: usize,
    resident_max: usize,
    is_short_of_memory: bool,
}

impl QueueBounds {
    /// The bounds of the queue of this session.
    fn of(&self, session: &Session) -> QueueLimits {
        let queue = session.state.as_ref().map(|state| &state.queue);
        let queued = queue.map_or(0, Queue::bytes);
        let limits = QueueLimits {
            messages_max: self.messages_max,
            bytes_max: self.bytes_max.min(queued.saturating_add(self.bytes_left)),
            resident_max: self.resident_max,
            policy: session.queue_full,
        };
        if self.is_short_of_memory {
            tighten(session, limits)
        } else {
            limits
        }
    }

    /// Whether a message of this size may wait for the session too. Cost where nothing waits: this branch; a client that
    /// is here and owed nothing is most likely sent it.
    pub(super) fn has_room(&self, session: &Session, bytes: usize) -> bool {
        let Some(state) = &session.state else {
            return true;
        };
        state.queue.is_empty() && session.conn.is_some()
            || state.on_hold.is_empty() && state.queue.has_room(bytes, &self.of(session))
    }
}

impl Shard {
    /// Offers a message to the queue of a session.
    pub(super) fn enqueue(
        &mut self,
        to: &Recipient<'_>,
        publication: &mut Publication<'_>,
        outbox: &mut Outbox,
    ) {
        let stored = self.sessions[to.session.0 as usize].stored;
        if stored != 0 {
            self.keeper
                .own_number(self.id, self.now.wall_ms, publication);
            self.drop_aged(to.session, outbox);
        }
        let mut delivery = to.delivery(publication, &mut self.spares);
        delivery.is_stored = stored != 0;
        match self.offer(to.session, delivery, outbox) {
            Queued::Kept => {
                if stored != 0 {
                    let terms = (to.options, to.part, Pace::Slow);
                    self.keeper
                        .take(to.session, stored, terms, to.ids, publication);
                }
            }
            Queued::DroppedNewest => {
                self.note_drops(Some(to.session), publication.topic, DropCause::QueueFull, 1);
            }
            Queued::Disconnect => {
                self.note_drops(Some(to.session), publication.topic, DropCause::QueueFull, 1);
                if let Some(conn) = self.sessions[to.session.0 as usize].conn {
                    // Ended after the present input: its Will may be a publication of its own.
                    let end = End::new(ReasonCode::QuotaExceeded, "the session's queue is full");
                    self.to_end.push((conn, end));
                }
            }
            Queued::Refused => self.refuse_publication(to, publication),
            Queued::Hold(delivery) => self.hold(to, publication, delivery),
        }
    }

    fn refuse_publication(&mut self, to: &Recipient<'_>, publication: &Publication<'_>) {
        self.keeper.at_hand.refused = true;
        self.note_drops(Some(to.session), publication.topic, DropCause::Refused, 1);
    }

    fn hold(&mut self, to: &Recipient<'_>, publication: &Publication<'_>, delivery: Delivery) {
        let session = &mut self.sessions[to.session.0 as usize];
        let stored = session.stored;
        let on_hold = &mut session.state().on_hold;
        if on_hold.len() >= ON_HOLD_MAX {
            self.refuse_publication(to, publication);
            return;
        }
        on_hold.push_back(delivery);
        let deadline_ms = self.now.mono_ms + u64::from(self.limits.queue_hold_ms);
        self.keeper.at_hand.holding.push(stored);
        self.keeper.holds.push_back(Hold {
            deadline_ms,
            session: to.session,
            stored,
            number: publication.number,
        });
        self.set_hold_timer();
    }

    /// The bounds of a session's queue as they are now.
    fn queue_limits(&self, session: SessionKey) -> QueueLimits {
        let bounds = self.queue_bounds();
        bounds.of(&self.sessions[session.0 as usize])
    }

    /// What bounds the queues of this shard as it is now.
    pub(super) fn queue_bounds(&self) -> QueueBounds {
        let all_max = self.limits.queue_bytes_all_max / self.shard_count as u64;
        let left = all_max.saturating_sub(self.queued_bytes);
        QueueBounds {
            messages_max: self.limits.queue_messages_max as usize,
            bytes_max: self.limits.queue_bytes_max as usize,
            bytes_left: usize::try_from(left).unwrap_or(usize::MAX),
            resident_max: self.limits.queue_resident_max as usize,
            is_short_of_memory: self.is_short_of_memory(),
        }
    }

    /// Puts a message into a queue, if its policy allows.
    fn offer(&mut self, key: SessionKey, delivery: Delivery, outbox: &mut Outbox) -> Queued {
        let limits = self.queue_limits(key);
        let mut dropped = Vec::new();
        let state = self.sessions[key.0 as usize].state();
        let before = state.queue.bytes();
        let queued = if state.on_hold.is_empty() || !delivery.is_stored {
            state
                .queue
                .push(delivery, &limits, |gone| dropped.push(gone))
        } else {
            // Those before it have no room either.
            Queued::Hold(delivery)
        };
        self.queued_bytes = self.queued_bytes + state.queue.bytes() as u64 - before as u64;
        for gone in dropped {
            self.let_go(key, gone, DropCause::QueueFull, outbox);
        }
        queued
    }

    /// A queue let go of a message.
    pub(super) fn let_go(
        &mut self,
        key: SessionKey,
        gone: LetGo,
        cause: DropCause,
        outbox: &mut Outbox,
    ) {
        let topic = gone.message.as_ref().map_or("", |message| message.topic());
        self.note_drops(Some(key), topic, cause, 1);
        self.dropped(key, gone.place, outbox);
    }

    /// Drops what has waited too long, from the front.
    pub(super) fn drop_aged(&mut self, key: SessionKey, outbox: &mut Outbox) {
        let age_s_max = self.limits.queue_age_s_max;
        if age_s_max == u32::MAX {
            return;
        }
        let oldest_ms = self
            .now
            .wall_ms
            .saturating_sub(u64::from(age_s_max) * 1_000);
        loop {
            let Some(state) = &mut self.sessions[key.0 as usize].state else {
                return;
            };
            let number = match state.queue.front() {
                Some(Front::Here(delivery)) => delivery.number(),
                Some(Front::Stored(delivery)) => delivery.number,
                None => return,
            };
            if number == 0 || number_time_ms(number) >= oldest_ms {
                return;
            }
            let before = state.queue.bytes();
            let gone = state.queue.drop_front().expect("it has a front");
            self.queued_bytes -= (before - state.queue.bytes()) as u64;
            self.let_go(key, gone, DropCause::Aged, outbox);
        }
    }

    /// The queue of a session may have room for what it held back.
    pub(super) fn admit_held(&mut self, key: SessionKey, outbox: &mut Outbox) {
        while let Some(state) = &self.sessions[key.0 as usize].state
            && let Some(held) = state.on_hold.front()
        {
            let limits = self.queue_limits(key);
            if !state.queue.has_room(held.message.bytes(), &limits) {
                return;
            }
            let stored = self.sessions[key.0 as usize].stored;
            let on_hold = &mut self.sessions[key.0 as usize].state().on_hold;
            let held = on_hold.pop_front().expect("looked at");
            let number = held.number();
            let receiver = Receiver {
                session: StoredSession(stored),
                flags: ReceiverFlags::new(held.options, held.part),
                subscription_ids: held.subscription_ids.clone(),
            };
            self.keeper
                .note_unstored(number, std::rc::Rc::clone(&held.message), key);
            let queued = self.offer_admitted(key, held);
            assert!(matches!(queued, Queued::Kept));
            self.decide(number, stored, Some(receiver), outbox);
        }
    }

    fn offer_admitted(&mut self, key: SessionKey, held: Delivery) -> Queued {
        let limits = self.queue_limits(key);
        let queue = &mut self.sessions[key.0 as usize].state().queue;
        let before = queue.bytes();
        let queued = queue.push(held, &limits, |gone| {
            unreachable!("there is room: {gone:?}")
        });
        self.queued_bytes = self.queued_bytes + queue.bytes() as u64 - before as u64;
        queued
    }

    /// Refuses what a session that ends held back.
    pub(super) fn refuse_held(
        &mut self,
        stored: u64,
        on_hold: impl IntoIterator<Item = Delivery>,
        outbox: &mut Outbox,
    ) {
        for held in on_hold {
            self.note_drops(None, held.message.topic(), DropCause::Refused, 1);
            self.decide(held.number(), stored, None, outbox);
        }
    }

    /// A session has taken or refused a message that it held back.
    fn decide(
        &mut self,
        number: u64,
        stored: u64,
        receiver: Option<Receiver>,
        outbox: &mut Outbox,
    ) {
        let is_it = |withheld: &Withheld| {
            withheld.taken.message.0 == number && withheld.holding.contains(&stored)
        };
        let Some(at) = self.keeper.withheld.iter().position(is_it) else {
            self.held_back(number, receiver, outbox);
            return;
        };
        let withheld = &mut self.keeper.withheld[at];
        let one = withheld.holding.iter().position(|holder| *holder == stored);
        withheld.holding.swap_remove(one.expect("looked at"));
        withheld.taken.refused |= receiver.is_none();
        withheld.taken.receivers.extend(receiver);
        let withheld = self.keeper.withheld.swap_remove(at);
        self.answer_or_withhold(withheld);
    }

    /// A message of another shard is no longer under way here.
    pub(super) fn all_have(&mut self, number: u64) {
        let mut all = self.keeper.withheld.iter();
        let at = all.position(|withheld| withheld.is_under_way(number));
        let at = at.expect("its answer waits for this");
        let mut withheld = self.keeper.withheld.swap_remove(at);
        withheld.is_under_way = false;
        self.answer_or_withhold(withheld);
    }

    /// Lets an answer go if it waits for nothing any more.
    pub(super) fn answer_or_withhold(&mut self, withheld: Withheld) {
        if withheld.holding.is_empty() && !withheld.is_under_way {
            self.keeper.answers.push((withheld.to, withheld.taken));
        } else {
            self.keeper.withheld.push(withheld);
        }
    }

    fn set_hold_timer(&mut self) {
        if self.keeper.hold_timer_is_set {
            return;
        }
        let Some(first) = self.keeper.holds.front() else {
            return;
        };
        self.keeper.hold_timer_is_set = true;
        let tick = self.wheel.tick_for(first.deadline_ms);
        self.wheel.insert(Timer {
            tick,
            index: 0,
            generation: 0,
            kind: TimerKind::Hold,
        });
    }

    /// Refuses what was held back for too long.
    pub(super) fn hold_timer(&mut self, outbox: &mut Outbox) {
        self.keeper.hold_timer_is_set = false;
        let now_ms = self.now.mono_ms;
        loop {
            let holds = &mut self.keeper.holds;
            if holds.front().is_none_or(|hold| hold.deadline_ms > now_ms) {
                break;
            }
            let hold = holds.pop_front().expect("looked at");
            let Some(session) = self.sessions.get_mut(hold.session.0 as usize) else {
                continue;
            };
            let Some(state) = session
                .state
                .as_mut()
                .filter(|_| session.stored == hold.stored)
            else {
                continue;
            };
            let is_it = |held: &Delivery| held.number() == hold.number;
            if let Some(at) = state.on_hold.iter().position(is_it) {
                let held = state.on_hold.remove(at).expect("looked at");
                self.note_drops(
                    Some(hold.session),
                    held.message.topic(),
                    DropCause::Refused,
                    1,
                );
                self.decide(hold.number, hold.stored, None, outbox);
            }
        }
        self.set_hold_timer();
    }
}

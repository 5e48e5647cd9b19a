//! A message on its way into the store (ADR 7): its number, who took it on which shard, the one record of it, and who is told when it
//! is durable or refused.

use super::Shard;
use super::commit::{Keeper, Told, Wait};
use super::connection::PAUSED_BY_RETAINED;
use super::counters::DropCause;
use super::fan_out::AT_ONCE_MAX;
use super::gate::Ticket;
use super::hold::Withheld;
use super::input::{ConnKey, ShardId};
use super::mesh_message::{Taken, TakenEnd};
use super::message::{CLEARS, Message, MessageParts};
use super::outbox::Outbox;
use super::publication::{Numbering, Publication};
use super::record::{
    Lsn, Part, Receiver, ReceiverFlags, Record, StoredMessage, StoredSession, next_number,
    number_made_from, number_shard,
};
use crate::protocol::{PacketId, PacketType, QoS, ReasonCode};
use crate::session::{DeliveryOptions, Place, SessionKey};
use crate::topic::interest::CoreMask;
use hashbrown::hash_map::Entry;
use std::rc::Rc;

/// Records that may wait for the store while a client goes on that gets no acknowledgement.
const RECORDS_AHEAD_MAX: u64 = 4_096;
/// Bytes of a message above which it waits alone.
const BYTES_AHEAD_MAX: usize = 64 << 10;

/// A message that the store is to have, until its publisher is told.
#[derive(Debug)]
pub(super) struct Storing {
    /// Until its record is written.
    message: Option<Message>,
    receivers: Vec<Receiver>,
    /// Answers that have not come: of other shards, and of queues here that hold it back.
    awaiting: u32,
    /// Receivers that were done while answers were awaited, perhaps that which names them.
    ended: Vec<(StoredSession, Part)>,
    /// A receiver refuses it.
    refused: bool,
    /// A receiver is not about to acknowledge it.
    slowly: bool,
    /// The other shards with receivers.
    takers: CoreMask,
    /// The number of its record, and of that of the retained message; 0 if there is none yet.
    message_record: u64,
    retained_record: u64,
    source: Source,
    acks: Acks,
}

/// What the sessions here have made of a publication so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AtHand {
    /// Who took it.
    pub(super) receivers: Vec<Receiver>,
    /// The sessions that hold it back.
    pub(super) holding: Vec<u64>,
    /// Other shards that were asked, and one if it is still under way to sessions of this one.
    pub(super) awaited: u32,
    /// A session refuses it.
    pub(super) refused: bool,
    /// One of those who took it is not about to acknowledge it.
    pub(super) slowly: bool,
}

/// Whom to acknowledge it.
#[derive(Debug, Default)]
struct Acks {
    first: Option<(ConnKey, Ticket)>,
    /// Of repetitions of its PUBLISH.
    more: Vec<(ConnKey, Ticket)>,
}

/// Where a message comes from, and what follows when it is settled.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The PUBLISH to acknowledge; without one the message cannot be refused.
    pub(super) publish: Option<SourcePublish>,
    /// This shard stamped it as a retained message, which is to be kept too.
    pub(super) is_retained: bool,
    /// Rare, and kept small for the others.
    pub(super) then: Option<Box<Then>>,
}

/// The PUBLISH packet that a message came with.
#[derive(Debug)]
pub(super) struct SourcePublish {
    pub(super) conn: ConnKey,
    pub(super) session: SessionKey,
    pub(super) qos: QoS,
    pub(super) packet_id: PacketId,
    /// What the acknowledgement says if all goes well.
    pub(super) reason: ReasonCode,
}

/// Records that go with that of a message.
#[derive(Debug, Default)]
pub(super) struct Then {
    /// It had been another session's, whose place under the old number ends.
    pub(super) ended: Option<(Place, u64)>,
    /// It was the Will of this session.
    pub(super) will_of: Option<(SessionKey, u64)>,
    /// It was left by a session that ends when all of that is settled.
    pub(super) ending: Option<usize>,
}

/// When a session that takes a message will have acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// In a moment, most likely.
    Prompt,
    /// Nobody knows.
    Slow,
}

/// A message that sessions of this shard took and that is not durable yet.
#[derive(Debug)]
pub(super) struct Unstored {
    pub(super) message: Rc<Message>,
    first: SessionKey,
    more: Vec<SessionKey>,
    /// Places of stored sessions that have dropped it, if it is another shard's.
    dropped: Vec<(u64, Part)>,
}

impl AtHand {
    fn add(&mut self, more: Self) {
        self.receivers.extend(more.receivers);
        self.holding.extend(more.holding);
        self.awaited += more.awaited;
        self.refused |= more.refused;
        self.slowly |= more.slowly;
    }
}

impl Unstored {
    fn sessions(&self) -> impl Iterator<Item = SessionKey> + '_ {
        std::iter::once(self.first).chain(self.more.iter().copied())
    }
}

impl Storing {
    /// Receivers that may be looked through for each that ends. Behind a message with more their ends are recorded.
    const SEARCHED_MAX: usize = AT_ONCE_MAX;

    /// Takes a receiver out while nothing is recorded; false if something is, or it is not among the receivers, or these are very many.
    pub(super) fn end_unwritten(&mut self, session: StoredSession, part: Part) -> bool {
        if self.awaiting > 0 {
            // An answer may wait for an hour, and the message be refused then: the store is not to hear of it.
            self.ended.push((session, part));
            return true;
        }
        if self.receivers.len() > Self::SEARCHED_MAX {
            return false;
        }
        let mut receivers = self.receivers.iter();
        let at = receivers.position(|it| it.session == session && it.flags.part() == part);
        // Without the message its records are written, or are being decided on.
        let at = at.filter(|_| self.message.is_some());
        if let Some(at) = at {
            self.receivers.swap_remove(at);
        }
        at.is_some()
    }

    /// All answers are there: takes out who was done before.
    fn take_out_ended(&mut self) {
        if !self.ended.is_empty() {
            let mut ended = std::mem::take(&mut self.ended);
            ended.sort_unstable();
            let place = |it: &Receiver| ended.binary_search(&(it.session, it.flags.part()));
            self.receivers.retain(|it| place(it).is_err());
        }
    }

    /// Adds what more sessions of its shard have made of it.
    fn add(&mut self, more: AtHand) {
        assert!(more.awaited == 0);
        self.awaiting += more.holding.len() as u32;
        self.refused |= more.refused;
        self.slowly |= more.slowly;
        self.receivers.extend(more.receivers);
    }

    /// Whether its records are written, or are being decided on.
    pub(super) fn is_recorded(&self) -> bool {
        self.message.is_none()
    }

    /// Whether the store has refused all that was recorded of it.
    pub(super) fn is_refused_by(&self, refused: &[Lsn]) -> bool {
        let records = [self.message_record, self.retained_record];
        let is_among = |record: &u64| *record == 0 || refused.binary_search(&Lsn(*record)).is_ok();
        records.iter().all(is_among)
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_over(&self) -> bool {
        self.receivers.is_empty() && self.awaiting == 0
    }
}

impl Keeper {
    /// Gives a publication a number under which this shard's stored sessions may take it.
    pub(super) fn own_number(
        &mut self,
        shard: ShardId,
        wall_ms: u64,
        publication: &mut Publication<'_>,
    ) {
        match publication.numbering {
            Numbering::Own | Numbering::Asked => {}
            Numbering::Unasked => {
                publication.renumber(number_made_from(publication.number, shard));
            }
            Numbering::None | Numbering::Foreign => {
                self.last_message = next_number(self.last_message, shard, wall_ms);
                publication.renumber(self.last_message);
            }
        }
    }

    /// A stored session takes a publication that has a number of its own or one that was asked about.
    pub(super) fn take(
        &mut self,
        session: SessionKey,
        stored: u64,
        (options, part, pace): (DeliveryOptions, Part, Pace),
        ids: &[u32],
        publication: &mut Publication<'_>,
    ) {
        assert!(matches!(
            publication.numbering,
            Numbering::Own | Numbering::Asked
        ));
        self.at_hand.slowly |= pace == Pace::Slow;
        let subscription_ids = (!ids.is_empty()).then(|| Box::new(ids.to_vec()));
        self.at_hand.receivers.push(Receiver {
            session: StoredSession(stored),
            flags: ReceiverFlags::new(options, part),
            subscription_ids,
        });
        let message = publication.local();
        self.note_unstored(publication.number, message, session);
    }

    pub(super) fn note_unstored(&mut self, number: u64, message: Rc<Message>, session: SessionKey) {
        match self.unstored.entry(number) {
            Entry::Occupied(mut known) => known.get_mut().more.push(session),
            Entry::Vacant(new) => {
                new.insert(Unstored {
                    message,
                    first: session,
                    more: Vec::new(),
                    dropped: Vec::new(),
                });
            }
        }
    }
}

impl Shard {
    /// Before a publication of this shard is routed. Cost without a store: this branch.
    pub(super) fn begin_storing(&mut self, publication: &mut Publication<'_>) {
        if self.keeper.is_on() && publication.qos != QoS::AtMostOnce {
            publication.numbering = Numbering::None;
            self.keeper
                .own_number(self.id, self.now.wall_ms, publication);
        }
        self.assert_scratch_is_empty();
    }

    pub(super) fn assert_scratch_is_empty(&self) {
        assert!(self.keeper.at_hand == AtHand::default());
    }

    /// After it was routed: acknowledges it now or when it is stored, and sees that it is.
    pub(super) fn finish_storing(
        &mut self,
        publication: &mut Publication<'_>,
        source: Source,
        outbox: &mut Outbox,
    ) {
        if publication.numbering != Numbering::Own {
            if source.is_retained && self.keeper.is_on() {
                let record = self.retained_record(publication.shared(), source.publish.is_some());
                self.keep(record, outbox);
            }
            self.acknowledge_source(&source, outbox);
            self.follow(source.then, outbox);
            return;
        }
        let number = publication.number;
        let AtHand {
            receivers,
            holding,
            awaited,
            refused,
            slowly,
        } = std::mem::take(&mut self.keeper.at_hand);
        let awaiting = awaited + holding.len() as u32;
        let received_from = source
            .publish
            .as_ref()
            .filter(|publish| publish.qos == QoS::ExactlyOnce)
            .is_some_and(|publish| self.sessions[publish.session.0 as usize].stored != 0);
        if receivers.is_empty()
            && awaiting == 0
            && !refused
            && !source.is_retained
            && !received_from
        {
            self.acknowledge_source(&source, outbox);
            self.follow(source.then, outbox);
            return;
        }
        let mut acks = Acks::default();
        if let Some(publish) = &source.publish {
            if publish.qos == QoS::ExactlyOnce {
                let session = &mut self.sessions[publish.session.0 as usize];
                let received = &mut session.state().received;
                received.insert_pending(publish.packet_id, number);
            }
            let packet_type = acknowledgement_of(publish.qos);
            let ticket = self.line_up_ack(publish.conn, packet_type, publish.packet_id, outbox);
            acks.first = Some((publish.conn, ticket));
        }
        self.keeper.storing.insert(
            number,
            Storing {
                message: Some(publication.shared()),
                receivers,
                awaiting,
                ended: Vec::new(),
                refused,
                slowly,
                takers: 0,
                message_record: 0,
                retained_record: 0,
                source,
                acks,
            },
        );
        if awaiting == 0 {
            self.gathered(number, outbox);
        }
    }

    /// After a connection had a retained message of QoS 0 stored. No acknowledgement holds it back, and if the store fell
    /// behind, the shell would read nobody.
    pub(super) fn wait_for_store(&mut self, key: ConnKey, bytes: usize, outbox: &mut Outbox) {
        let last = self.keeper.emitted;
        let ahead = last - self.keeper.committed;
        let is_far = ahead > RECORDS_AHEAD_MAX || ahead > 0 && bytes > BYTES_AHEAD_MAX;
        if is_far && self.open(key).paused & PAUSED_BY_RETAINED == 0 {
            self.pause(key, PAUSED_BY_RETAINED, outbox);
            self.keeper.wait(last, Wait::Read(key));
        }
    }

    /// After a publication of another shard was brought to its receivers here: answers if that shard asked, and stores it here if not.
    pub(super) fn answer(&mut self, publication: &mut Publication<'_>, outbox: &mut Outbox) {
        match publication.numbering {
            Numbering::None | Numbering::Unasked | Numbering::Foreign => {
                self.assert_scratch_is_empty();
            }
            Numbering::Own => self.finish_storing(publication, Source::default(), outbox),
            Numbering::Asked => {
                let at_hand = std::mem::take(&mut self.keeper.at_hand);
                let withheld = Withheld::new(publication.number, at_hand);
                self.answer_or_withhold(withheld);
            }
        }
    }

    /// Some more sessions of this shard have a message that is under way to very many of them.
    pub(super) fn more_have(&mut self, number: u64, more: AtHand) {
        if let Some(storing) = self.keeper.storing.get_mut(&number) {
            storing.add(more);
            return;
        }
        let mut withheld = self.keeper.withheld.iter_mut();
        match withheld.find(|withheld| withheld.is_under_way(number)) {
            Some(withheld) => withheld.add(more),
            // It is at hand still: a session that it is under way to has it through a shared group, too.
            None => self.keeper.at_hand.add(more),
        }
    }

    /// Another shard has brought a message of this one to its receivers.
    pub(super) fn taken(&mut self, from: ShardId, taken: Taken, outbox: &mut Outbox) {
        let number = taken.message.0;
        let storing = self.keeper.storing.get_mut(&number);
        let storing = storing.expect("a message waits for all its answers");
        if from != self.id && !taken.receivers.is_empty() {
            storing.takers |= 1 << from.0;
        }
        storing.receivers.extend(taken.receivers);
        storing.refused |= taken.refused;
        storing.slowly |= !taken.promptly;
        self.answered(number, outbox);
    }

    /// One of the answers that a message waits for has come.
    pub(super) fn answered(&mut self, number: u64, outbox: &mut Outbox) {
        let storing = self.keeper.storing.get_mut(&number);
        let storing = storing.expect("a message waits for all its answers");
        assert!(storing.awaiting > 0);
        storing.awaiting -= 1;
        if storing.awaiting == 0 {
            self.gathered(number, outbox);
        }
    }

    /// The store takes messages again, or takes none.
    pub(super) fn store_state(&mut self, accepting: bool) {
        self.keeper.accepts = accepting;
        if !accepting {
            return;
        }
        // Who was disconnected because a message was refused sends it again, and all that it has sent since. What of that still waits for
        // answers must not stand before it.
        let mut storing = std::mem::take(&mut self.keeper.storing);
        for storing in storing.values_mut() {
            let publish = storing.source.publish.as_ref();
            if storing.awaiting > 0 && publish.is_some_and(|publish| !self.is_open(publish.conn)) {
                storing.refused = true;
            }
        }
        self.keeper.storing = storing;
    }

    /// A queue that held back a message of this shard has decided.
    pub(super) fn held_back(
        &mut self,
        number: u64,
        receiver: Option<Receiver>,
        outbox: &mut Outbox,
    ) {
        let storing = self.keeper.storing.get_mut(&number);
        let storing = storing.expect("a message waits for all its answers");
        storing.refused |= receiver.is_none();
        storing.slowly = true;
        storing.receivers.extend(receiver);
        self.answered(number, outbox);
    }

    /// All answers are there: the records are written, now or later.
    fn gathered(&mut self, number: u64, outbox: &mut Outbox) {
        let keeper = &mut self.keeper;
        let storing = keeper.storing.get_mut(&number).expect("it is being stored");
        assert!(storing.awaiting == 0 && storing.message_record == 0);
        storing.take_out_ended();
        let is_retained = storing.source.is_retained;
        let is_refusable = storing.source.publish.is_some();
        let wants_room = is_retained || !storing.receivers.is_empty();
        if is_refusable && (storing.refused || wants_room && !keeper.accepts) {
            storing.refused = true;
            let accepts = keeper.accepts;
            let then = std::mem::take(&mut storing.source.then);
            let message = storing.message.take().expect("its record is not written");
            if is_retained && accepts {
                // It is in force on every shard already.
                let record = self.retained_record(message, is_refusable);
                self.keep(record, outbox);
            }
            self.follow(then, outbox);
            self.settle_now(number, outbox);
            return;
        }
        // There is nobody to be told that some queue refuses it.
        storing.refused = false;
        let may_linger = !storing.slowly
            && !is_retained
            && (1..=Storing::SEARCHED_MAX).contains(&storing.receivers.len());
        match &storing.source.publish {
            Some(publish) if publish.qos == QoS::AtLeastOnce && may_linger => {
                let publisher = publish.conn;
                self.linger(number, publisher);
            }
            _ => self.record_message(number, outbox),
        }
    }

    /// Writes the records of a message, behind those of earlier ones of its publisher.
    pub(super) fn record_message(&mut self, number: u64, outbox: &mut Outbox) {
        let storing = self.storing(number);
        if let Some(publish) = &storing.source.publish
            && !storing.receivers.is_empty()
        {
            let publisher = publish.conn;
            self.record_earlier(number, publisher, outbox);
        }
        self.record_one(number, outbox);
    }

    /// Writes the records of a message.
    pub(super) fn record_one(&mut self, number: u64, outbox: &mut Outbox) {
        let storing = self.storing(number);
        assert!(storing.awaiting == 0 && storing.message_record == 0);
        let message = storing.message.take().expect("its record is not written");
        let then = std::mem::take(&mut storing.source.then);
        let is_retained = storing.source.is_retained;
        let is_refusable = storing.source.publish.is_some();
        let storing = self
            .keeper
            .storing
            .get(&number)
            .expect("it is being stored");
        let received_from = storing.source.publish.as_ref().and_then(|publish| {
            let session = self.sessions.get(publish.session.0 as usize)?;
            let received = &session.state.as_ref()?.received;
            let is_pending = received.pending(publish.packet_id) == Some(number);
            (is_pending && session.stored != 0)
                .then_some((StoredSession(session.stored), publish.packet_id))
        });
        let receivers = std::mem::take(&mut self.storing(number).receivers);
        if !receivers.is_empty() || received_from.is_some() {
            let record = Record::Message {
                id: StoredMessage(number),
                message: message.clone(),
                wall_minus_mono_ms: self.wall_minus_mono_ms(),
                receivers,
                refusable: is_refusable,
                received_from,
            };
            let record = self.keep(record, outbox);
            self.storing(number).message_record = record;
        }
        if is_retained {
            let record = self.retained_record(message, is_refusable);
            let record = self.keep(record, outbox);
            self.storing(number).retained_record = record;
        }
        self.follow(then, outbox);
        let storing = self.storing(number);
        let last = storing.message_record.max(storing.retained_record);
        if last == 0 {
            self.settle_now(number, outbox);
        } else {
            self.keeper.wait(last, Wait::Message(number));
        }
    }

    fn storing(&mut self, number: u64) -> &mut Storing {
        let storing = self.keeper.storing.get_mut(&number);
        storing.expect("it is being stored")
    }

    fn settle_now(&mut self, number: u64, outbox: &mut Outbox) {
        let mut told = Told::default();
        self.message_is_settled(number, &[], &mut told, outbox);
        told.send(outbox);
    }

    /// The records of a message are durable, or it was refused: everybody is told.
    pub(super) fn message_is_settled(
        &mut self,
        number: u64,
        refused: &[Lsn],
        told: &mut Told,
        outbox: &mut Outbox,
    ) {
        let storing = self.keeper.storing.remove(&number);
        let mut storing = storing.expect("it is being stored");
        let is_among = |record: u64| refused.binary_search(&Lsn(record)).is_ok();
        let is_refused = storing.refused || is_among(storing.message_record);
        told.add(storing.takers, number, is_refused);
        if is_refused {
            self.refused(number, outbox);
        } else {
            self.stored(number, outbox);
        }
        let Some(publish) = &mut storing.source.publish else {
            return;
        };
        if is_refused || is_among(storing.retained_record) {
            publish.reason = ReasonCode::QuotaExceeded;
        }
        let reason = publish.reason;
        let last = storing.message_record.max(storing.retained_record);
        if (reason as u8) < 0x80 && last > self.keeper.committed {
            self.counters.acked_not_durable += 1;
        }
        if publish.qos == QoS::ExactlyOnce
            && let Some(session) = self.sessions.get_mut(publish.session.0 as usize)
        {
            let stored = session.stored;
            let received = &mut session.state().received;
            // A PUBREC that refuses frees the identifier (MQTT 5 §4.3.3).
            if received.settle(publish.packet_id, number) && (reason as u8) >= 0x80 {
                received.remove(publish.packet_id);
                // It was recorded as in use when its retained message alone is refused.
                if !is_refused && storing.message_record != 0 && stored != 0 {
                    let session = StoredSession(stored);
                    let packet_id = publish.packet_id;
                    self.keep(Record::ReceivedEnded { session, packet_id }, outbox);
                }
            }
        }
        let first = storing.acks.first.into_iter();
        for (conn, ticket) in first.chain(storing.acks.more) {
            self.open_gate(conn, ticket, reason, outbox);
        }
    }

    /// A PUBLISH was repeated whose message is not durable yet: its acknowledgement waits too.
    pub(super) fn acknowledge_again(&mut self, conn: ConnKey, ticket: Ticket, number: u64) {
        self.storing(number).acks.more.push((conn, ticket));
    }

    /// The client has released an identifier whose message is not durable yet, before it was told that it may: there is
    /// nothing to remember of it.
    pub(super) fn is_recorded(&mut self, number: u64) -> bool {
        self.storing(number).message_record != 0
    }

    /// A message that sessions of this shard took is durable.
    pub(super) fn stored(&mut self, number: u64, outbox: &mut Outbox) {
        if let Some(unstored) = self.keeper.unstored.remove(&number) {
            for (session, part) in &unstored.dropped {
                let session = StoredSession(*session);
                self.record_end(StoredMessage(number), session, *part, outbox);
            }
            if unstored.more.len() < AT_ONCE_MAX {
                for session in unstored.sessions() {
                    self.pump(session, outbox);
                }
            } else {
                self.pump_later.extend(unstored.sessions());
            }
        }
    }

    /// A message that sessions of this shard took was refused. Those that have sent it go on in memory; for the others it never
    /// was. What it makes room for may be refused in turn: one after the other, not each within the one before.
    pub(super) fn refused(&mut self, number: u64, outbox: &mut Outbox) {
        self.keeper.refused.push_back(number);
        if self.keeper.refused.len() > 1 {
            return;
        }
        while let Some(number) = self.keeper.refused.front() {
            self.refuse_one(*number, outbox);
            self.keeper.refused.pop_front();
        }
    }

    fn refuse_one(&mut self, number: u64, outbox: &mut Outbox) {
        let Some(unstored) = self.keeper.unstored.remove(&number) else {
            return;
        };
        let topic = unstored.message.topic();
        let left = self.refused_of_left(number);
        if left > 0 {
            self.note_drops(None, topic, DropCause::Refused, left as u64);
        }
        for key in unstored.sessions() {
            let Some(session) = self.sessions.get_mut(key.0 as usize) else {
                continue;
            };
            let stored = session.stored;
            let Some(state) = &mut session.state else {
                continue;
            };
            let before = state.queue.bytes();
            let given_up = state.inflight.refused(number);
            let dropped = state.queue.refused(number) + given_up.len();
            self.queued_bytes -= (before - state.queue.bytes()) as u64;
            for (packet_id, qos) in given_up {
                let session = StoredSession(stored);
                // Only the identifiers of QoS 2 messages are recorded.
                if qos == QoS::ExactlyOnce {
                    self.keep(Record::OutgoingEnded { session, packet_id }, outbox);
                }
            }
            if dropped > 0 {
                self.note_drops(Some(key), topic, DropCause::Refused, dropped as u64);
            }
        }
        for key in unstored.sessions() {
            self.pump(key, outbox);
        }
    }

    /// A session drops a message that has a number. Its end stands among the records of this shard, ahead of what is recorded of
    /// the messages behind it: if the message's shard recorded it, a crash in between would bring it back behind these.
    pub(super) fn dropped(&mut self, session: SessionKey, place: Place, outbox: &mut Outbox) {
        if place.number != 0
            && number_shard(place.number) != self.id
            && let Some(unstored) = self.keeper.unstored.get_mut(&place.number)
        {
            let stored = self.sessions[session.0 as usize].stored;
            unstored.dropped.push((stored, place.part));
            return;
        }
        self.ended(session, place, outbox);
    }

    /// A session is done with a message that has a number: acknowledged, or it cannot be sent.
    pub(super) fn ended(&mut self, session: SessionKey, place: Place, outbox: &mut Outbox) {
        if place.number == 0 {
            return;
        }
        let stored = self.sessions[session.0 as usize].stored;
        self.ended_for(stored, place, outbox);
    }

    pub(super) fn ended_for(&mut self, stored: u64, place: Place, outbox: &mut Outbox) {
        assert!(stored != 0);
        let Place { number, part } = place;
        let (message, session) = (StoredMessage(number), StoredSession(stored));
        if number_shard(number) != self.id {
            if self.keeper.unstored.contains_key(&number) {
                self.keeper.end_away(TakenEnd {
                    message,
                    session,
                    part,
                });
                return;
            }
        } else if self.end_unwritten(message, session, part) {
            return;
        }
        self.record_end(message, session, part, outbox);
    }

    pub(super) fn record_end(
        &mut self,
        id: StoredMessage,
        session: StoredSession,
        part: Part,
        outbox: &mut Outbox,
    ) {
        self.keep(Record::Ended { id, session, part }, outbox);
    }

    /// Acknowledges a PUBLISH for which nothing has to be stored.
    fn acknowledge_source(&mut self, source: &Source, outbox: &mut Outbox) {
        if let Some(publish) = &source.publish {
            let packet_type = acknowledgement_of(publish.qos);
            self.acknowledge(
                publish.conn,
                packet_type,
                publish.packet_id,
                publish.reason,
                outbox,
            );
        }
    }

    /// Emits the records that go with that of a message.
    fn follow(&mut self, then: Option<Box<Then>>, outbox: &mut Outbox) {
        let Some(then) = then else {
            return;
        };
        if let Some((Place { number, part }, stored)) = then.ended {
            // Recorded whatever the message has come to: it is not over for its publisher, it has moved.
            self.record_end(StoredMessage(number), StoredSession(stored), part, outbox);
            self.has_left(stored, outbox);
        }
        if let Some((session, stored)) = then.will_of
            && let Some(found) = self.sessions.get(session.0 as usize)
            && found.stored == stored
        {
            self.keep_session(session, outbox);
        }
        if let Some(ending) = then.ending {
            self.release_ending(ending, outbox);
        }
    }

    /// The record of a retained message, or of the topic that it clears.
    fn retained_record(&self, mut message: Message, refusable: bool) -> Record {
        if message.stamp() & CLEARS != 0 {
            message = Message::new(&MessageParts {
                retain: true,
                stamp: message.stamp() & !CLEARS,
                ..MessageParts::new(message.topic(), message.qos(), b"")
            });
        }
        Record::Retained {
            message,
            wall_minus_mono_ms: self.wall_minus_mono_ms(),
            refusable,
        }
    }

    pub(super) fn wall_minus_mono_ms(&self) -> u64 {
        self.now.wall_ms.saturating_sub(self.now.mono_ms)
    }
}

/// What acknowledges a PUBLISH first.
pub(super) fn acknowledgement_of(qos: QoS) -> PacketType {
    if qos == QoS::AtLeastOnce {
        PacketType::Puback
    } else {
        PacketType::Pubrec
    }
}

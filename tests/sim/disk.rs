//! A store that is a map: what `src/store` promises, without files.
//!
//! - The records of one drain of an `Outbox` are applied together or not at all, those of one shard in order, those of
//!   different shards in any; each is durable some time before its shard is told.
//! - A crash loses every drain that was not applied, and whatever the shards were not told. Half a transaction, a torn page, a failed
//!   write and its repetition are all the same from above: not applied yet.
//! - While the disk is full, messages and retained messages that may be refused are, each by itself, and their shard is told at once;
//!   everything else goes in.
//! - It is strict about what a shard may ask: a read of what is not durable, a step of a session that does not exist, or an
//!   end that has no beginning breaks the run.

use ringmq::protocol::PacketId;
use ringmq::shard::message::{Message, MessageParts, NEVER};
use ringmq::shard::record::{
    Fetch, FetchToken, Lsn, OutgoingStep, Part, Receiver, Record, RecoveredDelivery,
    RecoveredSession, SessionRecord, StoredMessage, StoredSession,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;

/// A session on disk.
#[derive(Debug)]
pub struct OnDisk {
    pub record: SessionRecord,
    pub subscriptions: BTreeMap<Box<str>, (u8, Option<NonZeroU32>)>,
    pub outgoing: BTreeMap<PacketId, OutgoingStep>,
    pub received: BTreeSet<PacketId>,
}

/// A message on disk.
#[derive(Debug)]
pub struct Kept {
    pub message: Message,
    expires_wall_ms: u64,
    pub receivers: Vec<Receiver>,
}

/// What a shard is to be told.
#[derive(Debug)]
pub enum News {
    Committed { up_to: Lsn, refused: Vec<Lsn> },
    State { accepting: bool },
}

#[derive(Debug, Default)]
struct Port {
    waiting: VecDeque<Vec<Record>>,
    last: u64,
    news: VecDeque<News>,
    fetches: VecDeque<Fetch>,
}

#[derive(Debug, Default)]
pub struct Disk {
    pub sessions: BTreeMap<StoredSession, OnDisk>,
    pub messages: BTreeMap<StoredMessage, Kept>,
    /// By topic; a cleared topic has a message without a payload.
    pub retained: BTreeMap<String, (u64, Message, u64)>,
    ports: Vec<Port>,
    /// Receivers that ended before their message was written: in memory only.
    early: Vec<(StoredMessage, StoredSession, Part)>,
    /// Sessions that ended: what is said of them later counts no more.
    ended: BTreeSet<StoredSession>,
    last_session: u64,
    last_message: u64,
    pub is_full: bool,
    /// Whether it ever refused anything.
    pub has_refused: bool,
}

impl Disk {
    pub fn new(shard_count: usize) -> Self {
        let mut disk = Self::default();
        disk.ports.resize_with(shard_count, Port::default);
        disk
    }

    pub fn submit(&mut self, shard: usize, records: Vec<Record>, fetches: Vec<Fetch>) {
        for id in fetches.iter().flat_map(|fetch| &fetch.messages) {
            assert!(
                self.messages.contains_key(id),
                "(11) a read of what is not on disk"
            );
        }
        let port = &mut self.ports[shard];
        if !records.is_empty() {
            port.waiting.push_back(records);
        }
        port.fetches.extend(fetches);
    }

    /// The shards with records that are not applied.
    pub fn behind(&self) -> Vec<usize> {
        (0..self.ports.len())
            .filter(|shard| !self.ports[*shard].waiting.is_empty())
            .collect()
    }

    /// Drains of a shard that are not applied.
    pub fn backlog(&self, shard: usize) -> usize {
        self.ports[shard].waiting.len()
    }

    /// The shards that are to be told something.
    pub fn untold(&self) -> Vec<usize> {
        (0..self.ports.len())
            .filter(|shard| {
                let port = &self.ports[*shard];
                !port.news.is_empty() || !port.fetches.is_empty()
            })
            .collect()
    }

    /// Makes the next drain of a shard durable. Returns whether something is over with it.
    pub fn commit(&mut self, shard: usize) -> bool {
        let Some(records) = self.ports[shard].waiting.pop_front() else {
            return false;
        };
        let mut is_over = false;
        let mut refused = Vec::new();
        let before = Lsn(self.ports[shard].last);
        for record in records {
            self.ports[shard].last += 1;
            let lsn = Lsn(self.ports[shard].last);
            is_over |= matches!(record, Record::Ended { .. } | Record::SessionEnded(_));
            let may_refuse = match &record {
                Record::Message { refusable, .. } | Record::Retained { refusable, .. } => {
                    *refusable
                }
                _ => false,
            };
            if self.is_full && may_refuse {
                refused.push(lsn);
                if let Record::Message { id, .. } = record {
                    self.early.retain(|(early, ..)| *early != id);
                }
            } else {
                self.apply(record);
            }
        }
        if !refused.is_empty() {
            self.has_refused = true;
            let up_to = before;
            let news = News::Committed { up_to, refused };
            self.ports[shard].news.push_back(news);
        }
        let (up_to, refused) = (Lsn(self.ports[shard].last), Vec::new());
        let news = News::Committed { up_to, refused };
        self.ports[shard].news.push_back(news);
        is_over
    }

    /// The disk is full, or there is room again.
    pub fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
        for port in &mut self.ports {
            let accepting = !is_full;
            port.news.push_back(News::State { accepting });
        }
        self.has_refused |= is_full;
    }

    pub fn next_news(&mut self, shard: usize) -> Option<News> {
        self.ports[shard].news.pop_front()
    }

    /// Reads what a shard asked for.
    #[allow(clippy::type_complexity, reason = "as the input has it")]
    pub fn next_fetch(
        &mut self,
        shard: usize,
        wall_minus_mono_ms: u64,
    ) -> Option<(FetchToken, Vec<(StoredMessage, Option<Message>)>)> {
        let fetch = self.ports[shard].fetches.pop_front()?;
        assert!(!fetch.messages.is_empty());
        // Often it cannot read all of them.
        let count = 1 + fetch.token.0 as usize % fetch.messages.len();
        let messages = fetch.messages[..count]
            .iter()
            .map(|id| {
                // Ended meanwhile, it may be gone.
                let kept = self.messages.get(id);
                let message =
                    kept.map(|kept| at(&kept.message, kept.expires_wall_ms, wall_minus_mono_ms));
                (*id, message)
            })
            .collect();
        Some((fetch.token, messages))
    }

    fn session(&mut self, session: StoredSession) -> &mut OnDisk {
        let found = self.sessions.get_mut(&session);
        found.expect("(11) a record of a session that is not on disk")
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Session(record) => {
                let number = record.session;
                assert!(number.0 != 0);
                self.last_session = self.last_session.max(number.0);
                match self.sessions.get_mut(&number) {
                    Some(found) => {
                        assert_eq!(found.record.client_id, record.client_id);
                        found.record = record;
                    }
                    None => {
                        let new = OnDisk {
                            record,
                            subscriptions: BTreeMap::new(),
                            outgoing: BTreeMap::new(),
                            received: BTreeSet::new(),
                        };
                        self.sessions.insert(number, new);
                    }
                }
            }
            Record::SessionEnded(number) => {
                let ended = self.sessions.remove(&number);
                assert!(ended.is_some(), "(11) a session ends that is not on disk");
                self.ended.insert(number);
                self.messages.retain(|_, kept| {
                    kept.receivers.retain(|receiver| receiver.session != number);
                    !kept.receivers.is_empty()
                });
            }
            Record::Subscribed {
                session,
                filter,
                options,
                id,
            } => {
                let subscriptions = &mut self.session(session).subscriptions;
                subscriptions.insert(filter, (options, id));
            }
            Record::Unsubscribed { session, filter } => {
                let gone = self.session(session).subscriptions.remove(&filter);
                assert!(
                    gone.is_some(),
                    "(11) a subscription ends that is not on disk"
                );
            }
            Record::Message {
                id,
                message,
                wall_minus_mono_ms,
                mut receivers,
                received_from,
                ..
            } => {
                assert!(!receivers.is_empty() || received_from.is_some());
                let mut parts = BTreeSet::new();
                let is_new = |it: &Receiver| parts.insert((it.session, it.flags.part()));
                assert!(receivers.iter().all(is_new), "(11) a part is given twice");
                self.last_message = self.last_message.max(id.0);
                if let Some((session, packet_id)) = received_from {
                    // The publisher's session may have ended since.
                    if let Some(session) = self.sessions.get_mut(&session) {
                        session.received.insert(packet_id);
                    }
                }
                receivers.retain(|receiver| !self.ended.contains(&receiver.session));
                let early = &mut self.early;
                receivers.retain(|receiver| {
                    let it = (id, receiver.session, receiver.flags.part());
                    let found = early.iter().position(|early| *early == it);
                    found.map(|at| early.swap_remove(at)).is_none()
                });
                self.early.retain(|(early, ..)| *early != id);
                if !receivers.is_empty() {
                    let expires_wall_ms = wall(message.expires_at_ms(), wall_minus_mono_ms);
                    let kept = Kept {
                        message,
                        expires_wall_ms,
                        receivers,
                    };
                    let before = self.messages.insert(id, kept);
                    assert!(before.is_none(), "(11) a number is used twice");
                }
            }
            Record::Ended { session, .. } if self.ended.contains(&session) => {}
            Record::Ended { id, session, part } => match self.messages.get_mut(&id) {
                Some(kept) => {
                    let is_it = |it: &Receiver| it.session == session && it.flags.part() == part;
                    let at = kept.receivers.iter().position(is_it);
                    kept.receivers
                        .remove(at.expect("(11) an end for who has no part in it"));
                    if kept.receivers.is_empty() {
                        self.messages.remove(&id);
                    }
                }
                None => self.early.push((id, session, part)),
            },
            Record::Outgoing {
                session,
                packet_id,
                step,
            } => {
                if let OutgoingStep::Published(id, part) = step {
                    let is_it = |it: &Receiver| it.session == session && it.flags.part() == part;
                    let kept = self.messages.get(&id);
                    assert!(
                        kept.is_some_and(|kept| kept.receivers.iter().any(is_it)),
                        "(11) an identifier for who has no part in it"
                    );
                }
                self.session(session).outgoing.insert(packet_id, step);
            }
            Record::OutgoingEnded { session, packet_id } => {
                let gone = self.session(session).outgoing.remove(&packet_id);
                assert!(gone.is_some(), "(11) an exchange ends that is not on disk");
            }
            Record::ReceivedEnded { session, packet_id } => {
                let gone = self.session(session).received.remove(&packet_id);
                assert!(gone, "(11) an identifier ends that is not on disk");
            }
            Record::Retained {
                message,
                wall_minus_mono_ms,
                ..
            } => {
                let stamp = message.stamp();
                assert!(stamp != 0);
                let held = self.retained.get(message.topic()).map_or(0, |held| held.0);
                if stamp > held {
                    let expires_wall_ms = wall(message.expires_at_ms(), wall_minus_mono_ms);
                    let topic = message.topic().to_owned();
                    self.retained
                        .insert(topic, (stamp, message, expires_wall_ms));
                }
            }
        }
    }

    /// Everything that is not durable is gone.
    pub fn crash(&mut self, shard_count: usize) {
        self.ports.clear();
        self.ports.resize_with(shard_count, Port::default);
        self.early.clear();
        // A session whose beginning was lost takes no part any more.
        let sessions = &self.sessions;
        self.messages.retain(|_, kept| {
            kept.receivers
                .retain(|receiver| sessions.contains_key(&receiver.session));
            !kept.receivers.is_empty()
        });
        if self.is_full {
            self.set_full(true);
        }
    }

    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.behind().is_empty() && self.untold().is_empty()
    }

    /// At rest nobody ends what does not come.
    pub fn check_at_rest(&self, may_refuse: bool) {
        // Who ended what was refused did not know yet.
        assert!(
            may_refuse || self.early.is_empty(),
            "(10) ends of messages that never came: {:?}",
            self.early
        );
        let left = self.messages.first_key_value();
        assert!(left.is_none(), "(10) a message is left on disk: {left:?}");
        for (number, session) in &self.sessions {
            let outgoing = &session.outgoing;
            assert!(outgoing.is_empty(), "(10) {number:?} has {outgoing:?}");
        }
    }

    pub fn numbers(&self) -> (StoredSession, StoredMessage) {
        (
            StoredSession(self.last_session),
            StoredMessage(self.last_message),
        )
    }

    pub fn retained_messages(&self, wall_minus_mono_ms: u64) -> Vec<Message> {
        let all = self.retained.values();
        all.map(|(_, message, expires)| at(message, *expires, wall_minus_mono_ms))
            .collect()
    }

    /// What the store gives back at the start, by ascending number.
    pub fn recovered(&self) -> Vec<RecoveredSession> {
        let of = |(number, session): (&StoredSession, &OnDisk)| {
            let mut deliveries = Vec::new();
            for (id, kept) in &self.messages {
                for receiver in &kept.receivers {
                    if receiver.session != *number {
                        continue;
                    }
                    let this = OutgoingStep::Published(*id, receiver.flags.part());
                    let mut outgoing = session.outgoing.iter();
                    let published = outgoing.find(|(_, step)| **step == this);
                    deliveries.push(RecoveredDelivery {
                        id: *id,
                        bytes: kept.message.bytes() as u32,
                        flags: receiver.flags,
                        subscription_ids: receiver.subscription_ids.clone(),
                        packet_id: published.map(|(packet_id, _)| *packet_id),
                    });
                }
            }
            let released = session.outgoing.iter();
            let released = released.filter(|(_, step)| **step == OutgoingStep::Released);
            RecoveredSession {
                record: session.record.clone(),
                subscriptions: session
                    .subscriptions
                    .iter()
                    .map(|(filter, (options, id))| (filter.clone(), *options, *id))
                    .collect(),
                deliveries,
                released: released.map(|(packet_id, _)| *packet_id).collect(),
                received: session.received.iter().copied().collect(),
            }
        };
        self.sessions.iter().map(of).collect()
    }
}

fn wall(expires_at_ms: u64, wall_minus_mono_ms: u64) -> u64 {
    if expires_at_ms == NEVER {
        NEVER
    } else {
        expires_at_ms + wall_minus_mono_ms
    }
}

/// A message with its expiry in the time of this process.
fn at(message: &Message, expires_wall_ms: u64, wall_minus_mono_ms: u64) -> Message {
    Message::new(&MessageParts {
        topic: message.topic(),
        properties: &[message.properties()],
        payload: message.payload(),
        qos: message.qos(),
        retain: message.retain(),
        expires_at_ms: if expires_wall_ms == NEVER {
            NEVER
        } else {
            expires_wall_ms.saturating_sub(wall_minus_mono_ms)
        },
        stamp: message.stamp(),
        number: message.number(),
    })
}

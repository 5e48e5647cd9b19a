//! Random records against a model that applies them one by one, with a look at what is loaded after each crash.

use super::batch::{Batch, SessionPart, part_of};
use super::load::{LoadSetup, Recovered, load};
use super::sweep::Sweep;
use super::tables::{Kept, Tables};
use super::testing::{Random, Scratch};
use super::{schema, writer};
use crate::protocol::{PacketId, QoS};
use crate::shard::input::ShardId;
use crate::shard::message::{Message, MessageParts, NEVER};
use crate::shard::record::{
    Lsn, OutgoingStep, Part, Receiver, ReceiverFlags, Record, SessionRecord, StoredMessage,
    StoredSession, StoredWill,
};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;

const WALL_MINUS_MONO_MS: u64 = 1_000_000_000;

/// What should be kept, in the plainest form.
#[derive(Clone, Default)]
struct Model {
    sessions: BTreeMap<u64, SessionRecord>,
    subscriptions: BTreeMap<(u64, String), (u8, Option<NonZeroU32>)>,
    messages: BTreeMap<u64, (Message, Vec<Receiver>)>,
    early: BTreeMap<u64, Vec<SessionPart>>,
    outgoing: BTreeMap<(u64, u16), OutgoingStep>,
    incoming: BTreeSet<(u64, u16)>,
    retained: BTreeMap<String, Message>,
    gone: BTreeSet<u64>,
}

impl Model {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Session(session) => {
                self.sessions.insert(session.session.0, session);
            }
            Record::SessionEnded(session) => {
                self.gone.insert(session.0);
                self.sessions.remove(&session.0);
                self.subscriptions
                    .retain(|(owner, _), _| *owner != session.0);
                self.outgoing.retain(|(owner, _), _| *owner != session.0);
                self.incoming.retain(|(owner, _)| *owner != session.0);
                for (_, receivers) in self.messages.values_mut() {
                    receivers.retain(|receiver| receiver.session != session);
                }
            }
            Record::Subscribed {
                session,
                filter,
                options,
                id,
            } => {
                self.subscriptions
                    .insert((session.0, filter.into()), (options, id));
            }
            Record::Unsubscribed { session, filter } => {
                self.subscriptions.remove(&(session.0, filter.into()));
            }
            Record::Message {
                id,
                message,
                mut receivers,
                received_from,
                ..
            } => {
                receivers.retain(|receiver| !self.gone.contains(&receiver.session.0));
                for part in self.early.remove(&id.0).unwrap_or_default() {
                    remove_one(&mut receivers, part);
                }
                self.incoming
                    .extend(received_from.map(|(session, id)| (session.0, id.get())));
                self.messages.insert(id.0, (message, receivers));
            }
            Record::Ended { id, session, part } => match self.messages.get_mut(&id.0) {
                Some((_, receivers)) => remove_one(receivers, (session, part)),
                None => self.early.entry(id.0).or_default().push((session, part)),
            },
            Record::Outgoing {
                session,
                packet_id,
                step,
            } => {
                self.outgoing.insert((session.0, packet_id.get()), step);
            }
            Record::OutgoingEnded { session, packet_id } => {
                self.outgoing.remove(&(session.0, packet_id.get()));
            }
            Record::ReceivedEnded { session, packet_id } => {
                self.incoming.remove(&(session.0, packet_id.get()));
            }
            Record::Retained { message, .. } => {
                let old = self.retained.get(message.topic()).map_or(0, Message::stamp);
                if old < message.stamp() {
                    self.retained.insert(message.topic().into(), message);
                }
            }
        }
    }

    /// What is lost with the process: what was ahead of its message, and the stamps of cleared topics.
    fn crash(&mut self) {
        self.early.clear();
        self.retained
            .retain(|_, message| !message.payload().is_empty());
    }

    fn check(&self, recovered: &Recovered) {
        assert!(
            recovered.unreadable.is_empty(),
            "{:?}",
            recovered.unreadable
        );
        let mut deliveries = BTreeMap::<u64, Vec<(u64, u32, Option<Box<Vec<u32>>>)>>::new();
        for (id, (_, receivers)) in &self.messages {
            for receiver in receivers {
                deliveries.entry(receiver.session.0).or_default().push((
                    *id,
                    receiver.flags.bits(),
                    receiver.subscription_ids.clone(),
                ));
            }
        }
        let mut seen = 0;
        for (shard, sessions) in recovered.sessions.iter().enumerate() {
            assert!(sessions.is_sorted_by_key(|session| session.record.session));
            for session in sessions {
                seen += 1;
                let id = session.record.session.0;
                assert_eq!(owner(&session.record.client_id).index(), shard);
                let expected = &self.sessions[&id];
                assert_eq!(format!("{:?}", session.record), format!("{expected:?}"));
                let payload = |record: &SessionRecord| {
                    record
                        .will
                        .as_ref()
                        .map(|will| will.message.payload().to_vec())
                };
                assert_eq!(payload(&session.record), payload(expected));
                let subscriptions: BTreeMap<_, _> = self
                    .subscriptions
                    .range((id, String::new())..(id + 1, String::new()))
                    .map(|((_, filter), (options, id))| (filter.as_str(), (*options, *id)))
                    .collect();
                let found: BTreeMap<_, _> = session
                    .subscriptions
                    .iter()
                    .map(|(filter, options, id)| (&**filter, (*options, *id)))
                    .collect();
                assert_eq!(found, subscriptions);
                let mut found: Vec<_> = session
                    .deliveries
                    .iter()
                    .map(|d| (d.id.0, d.flags.bits(), d.subscription_ids.clone()))
                    .collect();
                assert!(found.is_sorted_by_key(|(id, _, _)| *id));
                let mut expected = deliveries.remove(&id).unwrap_or_default();
                found.sort();
                expected.sort();
                assert_eq!(found, expected);
                let part = |bits| ReceiverFlags::from_bits(bits).unwrap().part();
                let places = expected.iter().map(|d| (d.0, part(d.1)));
                let places: Vec<_> = places.collect();
                for delivery in &session.deliveries {
                    let message = &self.messages[&delivery.id.0].0;
                    assert_eq!(delivery.bytes as usize, message.bytes());
                }
                let range = (id, 0)..(id + 1, 0);
                let released: Vec<_> = self
                    .outgoing
                    .range(range.clone())
                    .filter(|(_, step)| matches!(step, OutgoingStep::Released))
                    .map(|((_, id), _)| *id)
                    .collect();
                let found: Vec<_> = session.released.iter().map(|id| id.get()).collect();
                assert_eq!(found, released);
                let published: BTreeSet<_> = self
                    .outgoing
                    .range(range.clone())
                    .filter_map(|((_, packet_id), step)| match step {
                        OutgoingStep::Published(message, part) => {
                            Some(((message.0, *part), *packet_id))
                        }
                        OutgoingStep::Released => None,
                    })
                    .filter(|(place, _)| places.contains(place))
                    .collect();
                let found: BTreeSet<_> = session
                    .deliveries
                    .iter()
                    .filter_map(|d| Some(((d.id.0, d.flags.part()), d.packet_id?.get())))
                    .collect();
                assert_eq!(found, published);
                let received: Vec<_> = self.incoming.range(range).map(|(_, id)| *id).collect();
                let found: Vec<_> = session.received.iter().map(|id| id.get()).collect();
                assert_eq!(found, received);
            }
        }
        assert_eq!(seen, self.sessions.len());
        let retained: BTreeMap<_, _> = recovered
            .retained
            .iter()
            .map(|message| (message.topic(), (message.stamp(), message.payload())))
            .collect();
        let expected: BTreeMap<_, _> = self
            .retained
            .values()
            .filter(|message| !message.payload().is_empty())
            .map(|message| (message.topic(), (message.stamp(), message.payload())))
            .collect();
        assert_eq!(retained, expected);
    }
}

fn remove_one(receivers: &mut Vec<Receiver>, part: SessionPart) {
    let at = receivers.iter().position(|it| part_of(it) == part);
    if let Some(at) = at {
        receivers.remove(at);
    }
}

fn owner(client_id: &str) -> ShardId {
    ShardId(client_id.len() as u8 % 3)
}

fn load_from(path: &Path) -> Recovered {
    load(&LoadSetup {
        path,
        shard_count: 3,
        owner: &owner,
        wall_minus_mono_ms: WALL_MINUS_MONO_MS,
    })
    .unwrap()
}

fn message(random: &mut Random, topic: &str, stamp: u64, payload: &[u8]) -> Message {
    Message::new(&MessageParts {
        topic,
        properties: &[if random.below(2) == 0 { &[] } else { &[1, 1] }],
        payload,
        qos: QoS::from_bits(random.below(3) as u8).unwrap(),
        retain: random.below(2) == 0,
        expires_at_ms: if random.below(3) == 0 {
            5_000 + random.below(9_000)
        } else {
            NEVER
        },
        stamp,
        number: 0,
    })
}

/// Makes up records as shards may emit them.
#[derive(Default)]
struct Source {
    next: u64,
    alive: Vec<u64>,
    /// Numbered, and not written yet.
    unwritten: Vec<Record>,
    /// Places that have not ended.
    places: Vec<(u64, u64, Part)>,
    incoming: Vec<(u64, u16)>,
    outgoing: Vec<(u64, u16)>,
    /// Places that were given an identifier.
    sent: Vec<(u64, u64, Part)>,
}

impl Source {
    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn session(&mut self, random: &mut Random) -> Option<StoredSession> {
        random.pick(&self.alive).map(StoredSession)
    }

    fn record(&mut self, random: &mut Random) -> Option<Record> {
        match random.below(20) {
            0 | 1 => {
                let session = if random.below(2) == 0 {
                    random.pick(&self.alive)
                } else {
                    None
                };
                let session = session.unwrap_or_else(|| {
                    let id = self.next();
                    self.alive.push(id);
                    id
                });
                let will = (random.below(3) == 0).then(|| StoredWill {
                    message: Message::new(&MessageParts {
                        properties: &[&[1, 0]],
                        retain: random.below(2) == 0,
                        ..MessageParts::new("last/words", QoS::AtLeastOnce, &session.to_le_bytes())
                    }),
                    delay_s: 7,
                    message_expiry_s: (random.below(2) == 0).then_some(9),
                });
                Some(Record::Session(SessionRecord {
                    session: StoredSession(session),
                    client_id: format!("client-{session}").into(),
                    username: (random.below(2) == 0).then(|| "al".into()),
                    expiry_s: random.below(u64::from(u32::MAX)) as u32,
                    queue_full: random.below(4) as u8,
                    disconnected_at_ms: (random.below(2) == 0).then_some(1_700_000_000_000),
                    will,
                }))
            }
            2 if random.below(3) == 0 && !self.alive.is_empty() => {
                let at = random.below(self.alive.len() as u64) as usize;
                let session = self.alive.swap_remove(at);
                self.places.retain(|(_, owner, _)| *owner != session);
                self.incoming.retain(|(owner, _)| *owner != session);
                self.outgoing.retain(|(owner, _)| *owner != session);
                // Its part in what is not written yet ends with it.
                Some(Record::SessionEnded(StoredSession(session)))
            }
            3 | 4 => Some(Record::Subscribed {
                session: self.session(random)?,
                filter: format!("f/{}", random.below(4)).into(),
                options: random.below(64) as u8,
                id: NonZeroU32::new(random.below(3) as u32),
            }),
            5 => Some(Record::Unsubscribed {
                session: self.session(random)?,
                filter: format!("f/{}", random.below(4)).into(),
            }),
            6..=8 => {
                let id = self.next();
                let count = 1 + random.below(3) * random.below(3);
                let mut receivers = Vec::new();
                for _ in 0..count {
                    let session = self.session(random)?;
                    let qos = random.below(3) as u32;
                    let flags = ReceiverFlags::from_bits(qos | (random.below(3) as u32) << 3);
                    let flags = flags.unwrap();
                    let place = (id, session.0, flags.part());
                    if self.places.contains(&place) {
                        continue;
                    }
                    receivers.push(Receiver {
                        session,
                        flags,
                        subscription_ids: (random.below(3) == 0).then(|| Box::new(vec![1, 70_000])),
                    });
                    self.places.push(place);
                }
                let from = self.session(random)?;
                let packet_id = 1 + random.below(5) as u16;
                let received_from = (random.below(3) == 0
                    && !self.incoming.contains(&(from.0, packet_id)))
                .then(|| {
                    self.incoming.push((from.0, packet_id));
                    (from, PacketId::new(packet_id).unwrap())
                });
                let payload = vec![id as u8; random.below(600) as usize];
                self.unwritten.push(Record::Message {
                    id: StoredMessage(id),
                    message: message(random, "t", 0, &payload),
                    wall_minus_mono_ms: WALL_MINUS_MONO_MS,
                    receivers,
                    refusable: random.below(2) == 0,
                    received_from,
                });
                None
            }
            9..=11 if !self.unwritten.is_empty() => {
                let at = random.below(self.unwritten.len() as u64) as usize;
                Some(self.unwritten.swap_remove(at))
            }
            12..=14 if !self.places.is_empty() => {
                let at = random.below(self.places.len() as u64) as usize;
                let (id, session, part) = self.places.swap_remove(at);
                Some(Record::Ended {
                    id: StoredMessage(id),
                    session: StoredSession(session),
                    part,
                })
            }
            15 => {
                let place = random.pick(&self.places)?;
                let (id, session, part) = place;
                let packet_id = 1 + random.below(9) as u16;
                if self.outgoing.contains(&(session, packet_id)) || self.sent.contains(&place) {
                    return None;
                }
                self.outgoing.push((session, packet_id));
                self.sent.push(place);
                Some(Record::Outgoing {
                    session: StoredSession(session),
                    packet_id: PacketId::new(packet_id).unwrap(),
                    step: OutgoingStep::Published(StoredMessage(id), part),
                })
            }
            16 => {
                let (session, packet_id) = random.pick(&self.outgoing)?;
                let packet_id = PacketId::new(packet_id).unwrap();
                let session = StoredSession(session);
                if random.below(2) == 0 {
                    let step = OutgoingStep::Released;
                    return Some(Record::Outgoing {
                        session,
                        packet_id,
                        step,
                    });
                }
                self.outgoing
                    .retain(|out| *out != (session.0, packet_id.get()));
                Some(Record::OutgoingEnded { session, packet_id })
            }
            17 => {
                let written = |source: &Self, of: (u64, u16)| {
                    !source.unwritten.iter().any(|record| {
                        matches!(record,
                        Record::Message { received_from: Some((session, id)), .. }
                            if (session.0, id.get()) == of)
                    })
                };
                let (session, packet_id) = random
                    .pick(&self.incoming)
                    .filter(|of| written(self, *of))?;
                self.incoming.retain(|of| *of != (session, packet_id));
                Some(Record::ReceivedEnded {
                    session: StoredSession(session),
                    packet_id: PacketId::new(packet_id).unwrap(),
                })
            }
            _ => {
                // Shards' stamps interleave.
                let stamp = self.next() * 4 + random.below(40);
                let topic = format!("r/{}", random.below(5));
                let payload = vec![7; random.below(3) as usize];
                Some(Record::Retained {
                    message: message(random, &topic, stamp, &payload),
                    wall_minus_mono_ms: WALL_MINUS_MONO_MS,
                    refusable: random.below(2) == 0,
                })
            }
        }
    }

    fn crash(&mut self) {
        for record in self.unwritten.drain(..) {
            if let Record::Message {
                id, received_from, ..
            } = record
            {
                self.places.retain(|(message, ..)| *message != id.0);
                self.incoming.retain(|of| {
                    received_from.is_none_or(|(session, id)| *of != (session.0, id.get()))
                });
            }
        }
    }
}

fn run(seed: u64) {
    let scratch = Scratch::new(&format!("model-{seed}"));
    let path = scratch.path().join(schema::FILE);
    let random = &mut Random(seed);
    let (mut model, mut source) = (Model::default(), Source::default());
    let mut kept = Kept::default();
    for _life in 0..4 {
        let conn = schema::open(&path).unwrap();
        conn.pragma_update(None, "synchronous", "OFF").unwrap();
        let mut tables = Tables::new(&conn, std::mem::take(&mut kept)).unwrap();
        let mut lsn = 0;
        let mut sweep: Option<Sweep> = None;
        for _ in 0..15 {
            let mut batch = Batch::new(3);
            for _ in 0..random.below(40) {
                if let Some(record) = source.record(random) {
                    lsn += 1;
                    model.apply(record.clone());
                    batch.add(random.below(3) as usize, Lsn(lsn), record);
                }
            }
            tables
                .write(&mut batch, writer::now_ms(), Instant::now())
                .unwrap();
            // Beside what is written, piece by piece.
            if let Some(sweep) = &mut sweep {
                sweep.note(&batch, &tables.kept);
            }
            if random.below(6) == 0 {
                sweep = sweep.or_else(|| Sweep::begin(&tables));
            }
            for _ in 0..random.below(4) {
                sweep.take_if(|sweep| !sweep.step(&mut tables).unwrap());
            }
            model.check(&load_from(&path));
        }
        drop(tables);
        drop(conn);
        model.crash();
        source.crash();
        let recovered = load_from(&path);
        model.check(&recovered);
        kept = recovered.kept;
    }
    // When all is done nothing is left.
    let conn = schema::open(&path).unwrap();
    let mut tables = Tables::new(&conn, kept).unwrap();
    let mut batch = Batch::new(1);
    for (at, (id, session, part)) in source.places.drain(..).enumerate() {
        let (id, session) = (StoredMessage(id), StoredSession(session));
        batch.add(0, Lsn(at as u64 + 1), Record::Ended { id, session, part });
    }
    tables
        .write(&mut batch, writer::now_ms(), Instant::now())
        .unwrap();
    while let Some(mut sweep) = Sweep::begin(&tables) {
        while sweep.step(&mut tables).unwrap() {}
    }
    for table in ["msg", "done"] {
        let count: u32 = conn
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(count, 0, "rows left in {table}");
    }
    assert!(tables.kept.shared.is_empty() && tables.kept.done.is_empty());
}

#[test]
fn expired_retained_messages_are_removed_in_slices() {
    let scratch = Scratch::new("expired");
    let conn = schema::open(&scratch.path().join(schema::FILE)).unwrap();
    let mut tables = Tables::new(&conn, Kept::default()).unwrap();
    let mut batch = Batch::new(1);
    for n in 1..=1_700u64 {
        let message = Message::new(&MessageParts {
            topic: &format!("t/{n}"),
            properties: &[],
            payload: b"x",
            qos: QoS::AtMostOnce,
            retain: true,
            expires_at_ms: [NEVER, 1_000, 9_000][n as usize % 3],
            stamp: n,
            number: n,
        });
        batch.add(
            0,
            Lsn(n),
            Record::Retained {
                message,
                wall_minus_mono_ms: 0,
                refusable: false,
            },
        );
    }
    tables.write(&mut batch, 1, Instant::now()).unwrap();
    let mut after = Some(String::new());
    let mut slices = 0;
    while let Some(topic) = after {
        after = super::sweep::remove_expired(&mut tables, &topic, 5_000).unwrap();
        slices += 1;
    }
    assert_eq!(slices, 5);
    let left = "SELECT count(*), sum(expires_at = 1000) FROM retained";
    let left: (u32, u32) = conn
        .query_row(left, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(left, (1_700 - 567, 0));
}

#[test]
fn what_is_loaded_is_what_the_records_say() {
    let seeds = std::env::var("RINGMQ_STORE_SEEDS").map_or(30, |text| text.parse().unwrap());
    for seed in 0..seeds {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("seed {seed}");
        }
    }
}

//! The world around the shards: links, sockets and a clock, driven one step at a time.
//!
//! A link is a FIFO whose head is delivered when the scheduler says so, and it is the only path between two
//! shards; a connection that is handed over travels on it too. Its length makes the pressure that the driver
//! would report. A socket is two byte pipes with a bounded kernel buffer towards the client. Nothing here
//! knows MQTT.
//!
//! A crash drops every shard, link and socket at once, and makes new shards, of another number perhaps, from what is on disk.

use crate::disk::{Disk, News};
use crate::random::Random;
use ringmq::config::limits::Limits;
use ringmq::shard::counters::DropCause;
use ringmq::shard::input::{CloseCause, ConnKey, Input, Now, Pressure, ShardId};
use ringmq::shard::mesh_message::MeshMessage;
use ringmq::shard::outbox::{Event, Outbox};
use ringmq::shard::placement::Placement;
use ringmq::shard::record::{Durability, Record};
use ringmq::shard::{Shard, ShardSetup};
use std::collections::VecDeque;
use std::sync::Arc;

/// Times are multiples of this, the shards' own grain, so that whoever watches knows when a timer is due.
pub const GRAIN_MS: u64 = 8;
/// No link holds a message longer than this: the broker counts on it when it forgets tombstones.
pub const LINK_DELAY_MAX_MS: u64 = 20_000;
/// Bytes that the kernel takes for a client that does not read.
const SOCKET_BYTES: usize = 2_000;

/// Marks of a link's fullness, in messages.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    pub low: usize,
    pub soft: usize,
    pub hard: usize,
}

/// A socket by its number; numbers are not reused.
pub type SocketId = usize;

enum Item {
    Mesh(MeshMessage),
    HandOver { socket: SocketId, unread: Vec<u8> },
}

/// One direction between two shards.
struct Link {
    items: VecDeque<(u64, Item)>,
    pushed: u64,
    popped: u64,
    pressure: Pressure,
}

/// How far a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Live,
    /// On a link to another shard.
    Moving,
    /// The broker asked for the close.
    Closing,
    /// The broker has seen the end of it.
    Gone,
}

/// One Network Connection.
pub struct Socket {
    pub shard: usize,
    pub key: ConnKey,
    pub stage: Stage,
    /// From the client, not read by the broker yet.
    pub up: VecDeque<u8>,
    /// To the client, not read by it yet.
    pub down: VecDeque<u8>,
    /// The client has closed its end; `up` is still to be read.
    pub fin: bool,
    /// The connection was reset; nothing more passes.
    pub reset: bool,
    /// The client is gone and nobody tells the broker.
    pub silent: bool,
    pub paused: bool,
    /// Whether the shard has bytes for it, and since when.
    pub dirty_since_ms: Option<u64>,
    /// When its CONNECT was granted: what follows may be held back for a while.
    granted_ms: Option<u64>,
    /// When bytes were last kept from the shard by our own choice.
    pub kept_unread_ms: u64,
    /// Bytes that the client has sent.
    pub sent_up: u64,
}

/// What a step did, besides what it wrote to sockets.
#[derive(Default)]
pub struct Effects {
    /// Sockets that the broker asked to close.
    pub closes: Vec<SocketId>,
    pub handed_over: Vec<SocketId>,
    pub events: Vec<Event>,
    pub wills_published: u64,
    pub dropped: [u64; DropCause::ALL.len()],
    /// Numbers under which sessions were recorded, and their clients.
    pub recorded: Vec<(u64, Box<str>)>,
}

/// What a hand-over delivered: these bytes were now read by the new shard.
pub struct Arrived {
    pub socket: SocketId,
    pub unread: Vec<u8>,
}

pub struct World {
    pub now: Now,
    pub shards: Vec<Shard>,
    pub sockets: Vec<Socket>,
    pub placement: Placement,
    pub disk: Option<Disk>,
    /// Messages dropped before the last crash, by cause.
    pub dropped_before: [u64; DropCause::ALL.len()],
    seed: u64,
    limits: Arc<Limits>,
    links: Vec<Vec<Link>>,
    marks: Option<Marks>,
    /// [`Swarm::backlog_marks`](crate::swarm::Swarm::backlog_marks).
    backlog_marks: Option<(usize, usize)>,
    store_pressure: Vec<Pressure>,
    /// One per shard, reused as the driver does.
    outboxes: Vec<Outbox>,
    /// Whether a turn may be longer than a step: what goes to other shards then leaves later.
    turns: Option<Random>,
    /// Per shard and slot: the generation and the socket.
    slots: Vec<Vec<(u32, Option<SocketId>)>>,
    /// Everything that came out, hashed.
    pub hash: u64,
    pub steps: u64,
}

impl World {
    pub fn new(
        seed: u64,
        shard_count: usize,
        limits: &Limits,
        marks: Option<Marks>,
        backlog_marks: Option<(usize, usize)>,
        long_turns: bool,
        stores: bool,
    ) -> Self {
        let limits = Arc::new(limits.clone());
        let now = Now {
            mono_ms: 1_000_000,
            wall_ms: 1_700_000_000_000,
        };
        let mut world = Self {
            now,
            shards: Vec::new(),
            sockets: Vec::new(),
            placement: placement(seed, shard_count),
            disk: stores.then(|| Disk::new(shard_count)),
            dropped_before: [0; DropCause::ALL.len()],
            seed,
            limits,
            links: Vec::new(),
            marks,
            backlog_marks,
            store_pressure: Vec::new(),
            outboxes: Vec::new(),
            turns: long_turns.then(|| Random::stream(seed, "turns")),
            slots: Vec::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
        };
        world.start(shard_count);
        world
    }

    /// Makes the shards and what is between them, from what is on disk.
    fn start(&mut self, shard_count: usize) {
        self.placement = placement(self.seed, shard_count);
        let durability = if self.disk.is_some() {
            Durability::Process
        } else {
            Durability::None
        };
        let shard = |id| {
            Shard::new(ShardSetup {
                id: ShardId(id as u8),
                shard_count,
                limits: Arc::clone(&self.limits),
                placement: self.placement,
                hash_seed: self.seed ^ 77,
                random_seed: self.seed.wrapping_add(id as u64),
                events: true,
                durability,
                now: self.now,
            })
        };
        self.shards = (0..shard_count).map(shard).collect();
        let link = || Link {
            items: VecDeque::new(),
            pushed: 0,
            popped: 0,
            pressure: Pressure::Low,
        };
        self.links = (0..shard_count)
            .map(|_| (0..shard_count).map(|_| link()).collect())
            .collect();
        self.outboxes = (0..shard_count).map(|_| Outbox::default()).collect();
        self.slots = vec![Vec::new(); shard_count];
        self.store_pressure = vec![Pressure::Low; shard_count];
        self.recover();
    }

    pub fn wall_minus_mono_ms(&self) -> u64 {
        self.now.wall_ms - self.now.mono_ms
    }

    fn recover(&mut self) {
        let Some(disk) = &self.disk else { return };
        let retained = disk.retained_messages(self.wall_minus_mono_ms());
        let (session, message) = disk.numbers();
        let recovered = disk.recovered();
        for shard in &mut self.shards {
            shard.set_next_numbers(session, message);
            for message in &retained {
                shard.recover_retained(message.clone());
            }
        }
        for session in recovered {
            let owner = self.placement.owner(&session.record.client_id).index();
            self.shards[owner].recover(self.now, session, &mut self.outboxes[owner]);
            self.end_turn(owner);
        }
        for shard in 0..self.shards.len() {
            self.shards[shard].finish_recovery(self.now, &mut self.outboxes[shard]);
            self.end_turn(shard);
        }
        while !self.shards.iter().all(Shard::is_ready) {
            self.end_turns();
            let busy = self.busy_links();
            assert!(!busy.is_empty(), "a recovered broker does not become ready");
            for (from, to) in busy {
                self.deliver(from, to);
            }
        }
    }

    /// The process ends, and begins anew with another number of shards.
    pub fn crash(&mut self, shard_count: usize) {
        for shard in &self.shards {
            let dropped = shard.counters().dropped;
            for (before, now) in self.dropped_before.iter_mut().zip(dropped) {
                *before += now;
            }
        }
        for socket in &mut self.sockets {
            socket.stage = Stage::Gone;
            socket.reset = true;
            socket.up.clear();
            socket.down.clear();
            socket.dirty_since_ms = None;
        }
        self.disk.as_mut().expect("it stores").crash(shard_count);
        self.start(shard_count);
    }

    /// Tells a shard the next of what the store has for it.
    pub fn tell(&mut self, shard: usize) -> Effects {
        let wall_minus_mono_ms = self.wall_minus_mono_ms();
        let disk = self.disk.as_mut().expect("it stores");
        match disk.next_news(shard) {
            Some(News::Committed { up_to, refused }) => {
                let refused = &refused;
                self.handle(shard, Input::Committed { up_to, refused })
            }
            Some(News::State { accepting }) => self.handle(shard, Input::StoreState { accepting }),
            None => match disk.next_fetch(shard, wall_minus_mono_ms) {
                Some((token, messages)) => self.handle(shard, Input::Fetched { token, messages }),
                None => Effects::default(),
            },
        }
    }

    /// A connection that landed on `shard`.
    pub fn accept(&mut self, shard: usize) -> (SocketId, Effects) {
        let socket = self.sockets.len();
        self.sockets.push(Socket {
            shard,
            key: ConnKey {
                index: 0,
                generation: 0,
            },
            stage: Stage::Live,
            up: VecDeque::new(),
            down: VecDeque::new(),
            fin: false,
            reset: false,
            silent: false,
            paused: false,
            dirty_since_ms: None,
            granted_ms: None,
            kept_unread_ms: 0,
            sent_up: 0,
        });
        let conn = self.seat(shard, socket);
        let effects = self.handle(shard, Input::Accepted { conn });
        (socket, effects)
    }

    fn seat(&mut self, shard: usize, socket: SocketId) -> ConnKey {
        let slots = &mut self.slots[shard];
        let index = slots
            .iter()
            .position(|(_, holder)| holder.is_none())
            .unwrap_or_else(|| {
                slots.push((0, None));
                slots.len() - 1
            });
        slots[index].0 += 1;
        slots[index].1 = Some(socket);
        let key = ConnKey {
            index: index as u32,
            generation: slots[index].0,
        };
        self.sockets[socket].shard = shard;
        self.sockets[socket].key = key;
        key
    }

    pub fn socket_of(&self, shard: usize, key: ConnKey) -> Option<SocketId> {
        let (generation, holder) = self.slots[shard].get(key.index as usize)?;
        if *generation == key.generation {
            *holder
        } else {
            None
        }
    }

    /// Whether the driver would read this socket now.
    pub fn may_read(&self, socket: SocketId) -> bool {
        let it = &self.sockets[socket];
        it.stage == Stage::Live && !it.paused && !self.is_hard(it.shard)
    }

    fn is_hard(&self, shard: usize) -> bool {
        self.links[shard]
            .iter()
            .any(|link| link.pressure == Pressure::Hard)
            || self.store_pressure[shard] == Pressure::Hard
    }

    /// Moves `count` bytes of a socket into its shard; returns them.
    pub fn read(&mut self, socket: SocketId, count: usize) -> (Vec<u8>, Effects) {
        assert!(self.may_read(socket));
        let it = &mut self.sockets[socket];
        let bytes: Vec<u8> = it.up.drain(..count).collect();
        let (shard, conn) = (it.shard, it.key);
        let effects = self.handle(
            shard,
            Input::Received {
                conn,
                bytes: &bytes,
            },
        );
        (bytes, effects)
    }

    /// Room in the kernel's buffer towards the client.
    pub fn room(&self, socket: SocketId) -> usize {
        let it = &self.sockets[socket];
        if it.reset || it.silent && it.down.len() > SOCKET_BYTES / 2 {
            return 0;
        }
        SOCKET_BYTES.saturating_sub(it.down.len())
    }

    pub fn outbound_len(&self, socket: SocketId) -> usize {
        let it = &self.sockets[socket];
        if it.stage == Stage::Moving || it.stage == Stage::Gone {
            return 0;
        }
        self.shards[it.shard]
            .outbound(it.key)
            .map(<[u8]>::len)
            .sum()
    }

    /// The first `count` bytes that wait for a socket, without taking them.
    pub fn peek(&self, socket: SocketId, count: usize) -> Vec<u8> {
        let it = &self.sockets[socket];
        self.shards[it.shard]
            .outbound(it.key)
            .flatten()
            .copied()
            .take(count)
            .collect()
    }

    /// The socket took these bytes, the first of those that wait.
    pub fn write(&mut self, socket: SocketId, bytes: &[u8]) -> Effects {
        let it = &mut self.sockets[socket];
        it.down.extend(bytes);
        let (shard, conn) = (it.shard, it.key);
        self.note(bytes);
        let effects = self.handle(
            shard,
            Input::Written {
                conn,
                bytes: bytes.len(),
            },
        );
        if self.outbound_len(socket) == 0 {
            self.sockets[socket].dirty_since_ms = None;
        }
        effects
    }

    /// Tells the shard that a socket is gone.
    pub fn close(&mut self, socket: SocketId, cause: CloseCause) -> Effects {
        let it = &mut self.sockets[socket];
        assert!(it.stage == Stage::Live || it.stage == Stage::Closing);
        it.stage = Stage::Gone;
        it.up.clear();
        let (shard, conn) = (it.shard, it.key);
        let effects = self.handle(shard, Input::Closed { conn, cause });
        self.slots[shard][conn.index as usize].1 = None;
        effects
    }

    /// Delivers the head of a link; `None` when it is empty.
    pub fn deliver(&mut self, from: usize, to: usize) -> Option<(Option<Arrived>, Effects)> {
        let link = &mut self.links[from][to];
        let (_, item) = link.items.pop_front()?;
        link.popped += 1;
        let (arrived, effects) = match item {
            Item::Mesh(message) => {
                let from = ShardId(from as u8);
                (None, self.handle(to, Input::Mesh { from, message }))
            }
            Item::HandOver { socket, unread } => {
                let conn = self.seat(to, socket);
                self.sockets[socket].stage = Stage::Live;
                let effects = self.handle(
                    to,
                    Input::HandedOver {
                        conn,
                        unread: &unread,
                    },
                );
                (Some(Arrived { socket, unread }), effects)
            }
        };
        Some((arrived, effects))
    }

    /// The links that hold something.
    pub fn busy_links(&self) -> Vec<(usize, usize)> {
        let count = self.shards.len();
        (0..count)
            .flat_map(|from| (0..count).map(move |to| (from, to)))
            .filter(|(from, to)| !self.links[*from][*to].items.is_empty())
            .collect()
    }

    /// Whether the head of some link has waited as long as it may.
    pub fn overdue_link(&self, passing_ms: u64) -> Option<(usize, usize)> {
        self.busy_links().into_iter().find(|(from, to)| {
            let (pushed_ms, _) = &self.links[*from][*to].items[0];
            self.now.mono_ms + passing_ms > pushed_ms + LINK_DELAY_MAX_MS
        })
    }

    /// How much each link of a shard has carried so far, what waits included.
    pub fn marks_of(&self, shard: usize) -> Vec<u64> {
        let mesh = &self.outboxes[shard].mesh;
        let links = self.links[shard].iter().enumerate();
        links
            .map(|(at, link)| {
                let waiting = mesh.iter().filter(|(to, _)| to.index() == at).count();
                link.pushed + waiting as u64
            })
            .collect()
    }

    /// Whether everything up to those marks has arrived.
    pub fn has_passed(&self, shard: usize, marks: &[u64]) -> bool {
        self.links[shard]
            .iter()
            .zip(marks)
            .all(|(link, mark)| link.popped >= *mark)
    }

    /// Reports a link, or a way to the store, whose pressure changed, if there is one; no two at once.
    pub fn report_pressure(&mut self) -> Option<(usize, Effects)> {
        self.report_store_pressure()
            .or_else(|| self.report_link_pressure())
    }

    fn report_store_pressure(&mut self) -> Option<(usize, Effects)> {
        let (low, hard) = self.backlog_marks?;
        let disk = self.disk.as_ref()?;
        for shard in 0..self.shards.len() {
            let waiting = disk.backlog(shard);
            let pressure = if waiting >= hard {
                Pressure::Hard
            } else if waiting <= low {
                Pressure::Low
            } else {
                continue;
            };
            if pressure != self.store_pressure[shard] {
                self.store_pressure[shard] = pressure;
                let effects = self.handle(shard, Input::StorePressure(pressure));
                return Some((shard, effects));
            }
        }
        None
    }

    fn report_link_pressure(&mut self) -> Option<(usize, Effects)> {
        let marks = self.marks?;
        for from in 0..self.links.len() {
            for to in 0..self.links.len() {
                let link = &mut self.links[from][to];
                let waiting = link.items.len();
                let was = link.pressure;
                let is = if waiting >= marks.hard {
                    Pressure::Hard
                } else if waiting >= marks.soft {
                    was.max(Pressure::Soft)
                } else if waiting >= marks.low {
                    was.min(Pressure::Soft)
                } else {
                    Pressure::Low
                };
                if is != was {
                    link.pressure = is;
                    let effects = self.handle(
                        from,
                        Input::Link {
                            to: ShardId(to as u8),
                            pressure: is,
                        },
                    );
                    return Some((from, effects));
                }
            }
        }
        None
    }

    /// Time passes; the shards are yet to be told.
    pub fn pass(&mut self, ms: u64, wall_ms: i64) {
        assert!(ms.is_multiple_of(GRAIN_MS));
        self.note_unread();
        self.now.mono_ms += ms;
        self.now.wall_ms = self.now.wall_ms.wrapping_add_signed(wall_ms);
        self.note_unread();
    }

    fn note_unread(&mut self) {
        for socket in 0..self.sockets.len() {
            let it = &self.sockets[socket];
            let is_kept =
                it.stage == Stage::Moving || it.stage == Stage::Live && !self.may_read(socket);
            if is_kept {
                self.sockets[socket].kept_unread_ms = self.now.mono_ms;
            }
        }
    }

    pub fn tick(&mut self, shard: usize) -> Effects {
        self.handle(shard, Input::Tick)
    }

    /// The shards from which a message is under way to very many.
    pub fn fanning_out(&self) -> Vec<usize> {
        let mut shards: Vec<_> = (0..self.shards.len()).collect();
        shards.retain(|shard| self.shards[*shard].is_fanning_out());
        shards
    }

    /// It goes on.
    pub fn fan_out(&mut self, shard: usize) -> Effects {
        self.handle(shard, Input::FanOut)
    }

    /// The broker is told to stop.
    pub fn shut_down(&mut self, shard: usize) -> Effects {
        self.handle(shard, Input::Shutdown)
    }

    fn handle(&mut self, shard: usize, input: Input<'_>) -> Effects {
        self.steps += 1;
        let before = self.shards[shard].counters().clone();
        let outbox = &mut self.outboxes[shard];
        let records_before = outbox.records.len();
        self.shards[shard].handle(self.now, input, outbox);
        let mut dirty = std::mem::take(&mut outbox.dirty);
        dirty.append(&mut outbox.later);
        let handover = std::mem::take(&mut outbox.handover);
        let pause = std::mem::take(&mut outbox.pause);
        let resume = std::mem::take(&mut outbox.resume);
        let close = std::mem::take(&mut outbox.close);
        let events = std::mem::take(&mut outbox.events);
        let recorded = outbox.records[records_before..].iter();
        let recorded = recorded
            .filter_map(|record| match record {
                Record::Session(record) => Some((record.session.0, record.client_id.clone())),
                _ => None,
            })
            .collect();
        let after = self.shards[shard].counters();
        let mut effects = Effects {
            wills_published: after.wills_published - before.wills_published,
            recorded,
            ..Effects::default()
        };
        for (at, dropped) in effects.dropped.iter_mut().enumerate() {
            *dropped = after.dropped[at] - before.dropped[at];
        }
        let now_ms = self.now.mono_ms;
        for event in &events {
            if let Event::ClientConnected { conn, .. } = event
                && let Some(socket) = self.socket_of(shard, *conn)
            {
                self.sockets[socket].granted_ms = Some(now_ms);
            }
        }
        for key in dirty {
            let socket = self
                .socket_of(shard, key)
                .expect("only live connections become dirty");
            let socket = &mut self.sockets[socket];
            let since_ms = socket.granted_ms.take().unwrap_or(now_ms);
            // Whoever may wait is told of again when there is more for it.
            socket.dirty_since_ms.get_or_insert(since_ms);
        }
        for handover in handover {
            let socket = self
                .socket_of(shard, handover.conn)
                .expect("a live connection moves");
            self.slots[shard][handover.conn.index as usize].1 = None;
            self.sockets[socket].stage = Stage::Moving;
            self.sockets[socket].paused = false;
            effects.handed_over.push(socket);
            self.end_turn(shard);
            self.push(
                shard,
                handover.to.index(),
                Item::HandOver {
                    socket,
                    unread: handover.unread,
                },
            );
        }
        for key in pause {
            self.note(format!("pause {key:?}").as_bytes());
            if let Some(socket) = self.socket_of(shard, key) {
                assert!(!self.sockets[socket].paused, "paused twice");
                self.sockets[socket].paused = true;
            }
        }
        for key in resume {
            self.note(format!("resume {key:?}").as_bytes());
            if let Some(socket) = self.socket_of(shard, key) {
                assert!(self.sockets[socket].paused, "resumed without a pause");
                self.sockets[socket].paused = false;
            }
        }
        for key in close {
            self.note(format!("close {key:?}").as_bytes());
            let socket = self
                .socket_of(shard, key)
                .expect("only live connections are closed");
            assert!(self.sockets[socket].stage == Stage::Live, "closed twice");
            self.sockets[socket].stage = Stage::Closing;
            effects.closes.push(socket);
        }
        self.note(format!("{events:?}").as_bytes());
        effects.events = events;
        let goes_on = self.turns.as_mut().is_some_and(|turns| turns.chance(60));
        if !goes_on {
            self.end_turn(shard);
        }
        effects
    }

    /// What a shard has for the others goes to the links.
    fn end_turn(&mut self, shard: usize) {
        let records = std::mem::take(&mut self.outboxes[shard].records);
        let fetches = std::mem::take(&mut self.outboxes[shard].fetch);
        for record in &records {
            self.note(format!("{record:?}").as_bytes());
        }
        match &mut self.disk {
            Some(disk) => disk.submit(shard, records, fetches),
            None => assert!(records.is_empty() && fetches.is_empty()),
        }
        let mesh = self.outboxes[shard].take_mesh();
        for (to, message) in mesh {
            self.note(format!("{to:?}{message:?}").as_bytes());
            self.push(shard, to.index(), Item::Mesh(message));
        }
    }

    /// Ends the turns of all shards.
    pub fn end_turns(&mut self) {
        (0..self.shards.len()).for_each(|shard| self.end_turn(shard));
    }

    fn push(&mut self, from: usize, to: usize, item: Item) {
        assert!(from != to, "a shard has no link to itself");
        let link = &mut self.links[from][to];
        link.items.push_back((self.now.mono_ms, item));
        link.pushed += 1;
    }

    fn note(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn placement(seed: u64, shard_count: usize) -> Placement {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    Placement::new(key, shard_count)
}

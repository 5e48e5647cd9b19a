//! One run: a seeded scheduler between clients, sockets, links and the clock; a phase of faults, then a phase in which
//! everything heals and every debt must be paid, and so on; at the end everything is torn down and must be gone.

use crate::auditor::Auditor;
use crate::client::{Client, PUBLISH_BYTES_MAX, Stage as ClientStage, client_id};
use crate::model::Payload;
use crate::random::Random;
use crate::swarm::{Feature, Swarm};
use crate::world::{Arrived, Effects, GRAIN_MS, LINK_DELAY_MAX_MS, Marks, SocketId, Stage, World};
use ringmq::protocol::frame::{Cut, cut};
use ringmq::protocol::{
    PacketType, Publish, QoS, Subscribe, SubscribeOptions, UserProperties, Version,
};
use ringmq::shard::Shard;
use ringmq::shard::counters::DropCause;
use ringmq::shard::input::CloseCause;
use std::collections::{BTreeMap, BTreeSet};

/// Rounds in which everything must come to rest once the faults have stopped.
const HEAL_ROUNDS_MAX: usize = 20_000;

/// Seconds in which queues may hold back messages once the faults have stopped.
const HOLDS_MAX: usize = 60;

/// How often a turn that has nothing to do is drawn again.
const TRIES: usize = 4;
/// Steps between two looks at the invariants of a shard.
const INVARIANTS_EVERY: u64 = 8;

pub struct Run {
    swarm: Swarm,
    world: World,
    auditor: Auditor,
    clients: Vec<Client>,
    schedule: Random,
    io: Random,
    act: Random,
    clock: Random,
    pub turn: u64,
    heal_phases: u64,
    /// The run ends with a stop of the broker.
    stops: bool,
    /// Links that deliver nothing for a while.
    frozen: BTreeSet<(usize, usize)>,
}

/// What a run says about itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    pub hash: u64,
    pub steps: u64,
    pub packets: u64,
    pub deliveries: u64,
    pub drops: u64,
}

impl Run {
    pub fn new(seed: u64, swarm: Swarm, trace: bool) -> Self {
        let mut random = Random::stream(seed, "world");
        let marks = swarm.has(Feature::LinkPressure).then(|| {
            let low = random.between(1, 3);
            let soft = low + random.between(1, 6);
            Marks {
                low,
                soft,
                hard: soft + random.between(1, 10),
            }
        });
        Self {
            world: World::new(
                seed,
                swarm.shard_count,
                &swarm.limits,
                marks,
                swarm.backlog_marks(seed),
                swarm.has(Feature::LongTurns),
                swarm.has(Feature::Store),
            ),
            auditor: Auditor::new(&swarm.limits, trace),
            clients: (0..swarm.client_count).map(Client::new).collect(),
            schedule: Random::stream(seed, "schedule"),
            io: Random::stream(seed, "io"),
            act: Random::stream(seed, "clients"),
            clock: Random::stream(seed, "clock"),
            turn: 0,
            heal_phases: 0,
            stops: random.chance(10),
            frozen: BTreeSet::new(),
            swarm,
        }
    }

    /// Plays the run to its end. Panics when the broker breaks a rule.
    pub fn play(&mut self) -> Summary {
        let phases = 1 + self.swarm.turns / 2_000;
        for phase in 1..=phases {
            while self.turn < self.swarm.turns * phase / phases {
                self.turn += 1;
                self.one_turn();
            }
            self.heal();
            self.check_at_rest();
        }
        if self.stops {
            self.shut_down();
        } else {
            self.check_retained();
            self.tear_down();
        }
        let drops = self
            .world
            .shards
            .iter()
            .map(|it| it.counters().dropped.iter().sum::<u64>());
        Summary {
            hash: self.world.hash,
            steps: self.world.steps,
            packets: self.auditor.packets_checked,
            deliveries: self.auditor.model.deliveries,
            drops: drops.sum(),
        }
    }

    fn one_turn(&mut self) {
        // What has nothing to do gives its turn away, a few times.
        let _ = (0..TRIES).any(|_| self.one_action());
        self.report_pressure();
    }

    /// Returns whether there was anything to do.
    fn one_action(&mut self) -> bool {
        let slow = self.swarm.has(Feature::SlowLinks);
        let disk = match (
            self.swarm.has(Feature::Store),
            self.swarm.has(Feature::SlowDisk),
        ) {
            (false, _) => 0,
            (true, false) => 30,
            (true, true) => 6,
        };
        let wide = self.world.fanning_out();
        let weights = [
            if slow { 6 } else { 30 }, // a link delivers
            25,                        // a shard reads
            25,                        // a socket takes
            20,                        // a client reads
            35,                        // a client acts
            4,                         // time passes
            2,                         // a fault
            2,                         // an end is noticed
            disk,                      // the store commits
            disk,                      // the store answers
            12 * wide.len().min(1),    // a message goes to more of very many
        ];
        let mut drawn = self.schedule.below(weights.iter().sum());
        let mut what = 0;
        while drawn >= weights[what] {
            drawn -= weights[what];
            what += 1;
        }
        match what {
            0 => {
                let mut links = self.world.busy_links();
                links.retain(|link| !self.frozen.contains(link));
                if links.is_empty() {
                    return false;
                }
                let (from, to) = *self.schedule.pick(&links);
                self.deliver(from, to);
            }
            1 => {
                let wants = |world: &World, it: SocketId| {
                    world.may_read(it) && !world.sockets[it].up.is_empty()
                };
                let Some(socket) = self.pick_socket(wants) else {
                    return false;
                };
                let length = self.world.sockets[socket].up.len();
                let count = self.some(length, Feature::ShortReads);
                self.shard_reads(socket, count);
            }
            2 => {
                let wants =
                    |world: &World, it: SocketId| world.room(it) > 0 && world.outbound_len(it) > 0;
                let Some(socket) = self.pick_socket(wants) else {
                    return false;
                };
                let length = self.world.outbound_len(socket).min(self.world.room(socket));
                let count = self.some(length, Feature::ShortWrites);
                self.shard_writes(socket, count);
            }
            3 => {
                let client = self.schedule.below(self.clients.len());
                return !self.clients[client].is_stalled() && self.client_reads(client, false);
            }
            4 => {
                let client = self.schedule.below(self.clients.len());
                return self.client_acts(client);
            }
            5 => self.time_passes(),
            6 => self.fault(),
            8 => {
                let behind = self.world.disk.as_ref().expect("it stores").behind();
                if behind.is_empty() {
                    return false;
                }
                let shard = *self.schedule.pick(&behind);
                let disk = self.world.disk.as_mut().expect("it stores");
                let is_over = disk.commit(shard);
                // What comes in the place of what has ended must be durable too.
                let crashes = is_over && self.swarm.has(Feature::UntimelyCrashes);
                if crashes && self.schedule.chance(3) {
                    self.crash();
                }
            }
            9 => {
                let untold = self.world.disk.as_ref().expect("it stores").untold();
                if untold.is_empty() {
                    return false;
                }
                let shard = *self.schedule.pick(&untold);
                self.disk_tells(shard);
            }
            10 => {
                let shard = *self.schedule.pick(&wide);
                self.fan_out(shard);
            }
            _ => {
                let Some(socket) = self.pick_socket(is_ending) else {
                    return false;
                };
                self.notice_end(socket);
            }
        }
        true
    }

    fn pick_socket(&mut self, of: impl Fn(&World, SocketId) -> bool) -> Option<SocketId> {
        let some: Vec<_> = self.sockets().filter(|it| of(&self.world, *it)).collect();
        if some.is_empty() {
            None
        } else {
            Some(*self.schedule.pick(&some))
        }
    }

    fn sockets(&self) -> impl Iterator<Item = SocketId> {
        (0..self.world.sockets.len()).filter(|it| self.world.sockets[*it].stage != Stage::Gone)
    }

    /// How many of `length` bytes move at once.
    fn some(&mut self, length: usize, short: Feature) -> usize {
        if !self.swarm.has(short) || self.io.chance(30) {
            return length;
        }
        if self.io.chance(30) {
            1
        } else {
            self.io.between(1, length)
        }
    }

    fn end_step(&mut self, shard: usize, effects: &Effects) {
        self.auditor.end_step(&self.world, shard, effects);
        if self.world.steps.is_multiple_of(INVARIANTS_EVERY) {
            self.world.shards[shard].check_invariants();
        }
    }

    fn deliver(&mut self, from: usize, to: usize) {
        self.auditor.begin_step(&self.world);
        let Some((arrived, effects)) = self.world.deliver(from, to) else {
            return;
        };
        if let Some(Arrived { socket, unread }) = arrived {
            self.auditor.arrived(&self.world, socket, &unread);
        }
        self.end_step(to, &effects);
    }

    fn fan_out(&mut self, shard: usize) {
        self.auditor.begin_step(&self.world);
        let effects = self.world.fan_out(shard);
        self.end_step(shard, &effects);
    }

    /// What is under way to very many goes to all of them; returns whether something was.
    fn fan_out_all(&mut self) -> bool {
        let before = self.world.steps;
        while let Some(shard) = self.world.fanning_out().first() {
            self.fan_out(*shard);
        }
        self.world.steps > before
    }

    fn shard_reads(&mut self, socket: SocketId, count: usize) {
        self.auditor.begin_step(&self.world);
        let shard = self.world.sockets[socket].shard;
        let (bytes, effects) = self.world.read(socket, count);
        if effects.handed_over.contains(&socket) {
            self.auditor.stash(socket, &bytes);
        } else {
            self.auditor.read(&self.world, socket, &bytes);
        }
        self.end_step(shard, &effects);
    }

    fn shard_writes(&mut self, socket: SocketId, count: usize) {
        self.auditor.begin_step(&self.world);
        let it = &self.world.sockets[socket];
        let shard = it.shard;
        let dirty_since_ms = it
            .dirty_since_ms
            .expect("what has outbound bytes was called dirty");
        let waiting = self.world.outbound_len(socket);
        assert!(
            waiting <= self.outbound_max(),
            "(10) {waiting} bytes wait for one socket"
        );
        let bytes = self.world.peek(socket, count);
        assert_eq!(bytes.len(), count);
        self.auditor
            .wrote(&self.world, socket, &bytes, dirty_since_ms);
        let effects = self.world.write(socket, &bytes);
        self.end_step(shard, &effects);
    }

    /// What may wait for a socket: the limit and a message, or a slice of a replay, and control packets up to the pause
    /// and what one read may add to them.
    fn outbound_max(&self) -> usize {
        const REPLAY: usize = 64 << 10;
        const REPLAY_SLICE: usize = 16;
        const CONTROL: usize = 64 << 10;
        let data = (self.swarm.limits.outbound_bytes_max as usize).max(REPLAY);
        data + REPLAY_SLICE * PUBLISH_BYTES_MAX + 2 * CONTROL
    }

    fn close(&mut self, socket: SocketId, cause: CloseCause) {
        self.auditor.begin_step(&self.world);
        let drained = cause == CloseCause::Asked && self.world.outbound_len(socket) == 0;
        let shard = self.world.sockets[socket].shard;
        let effects = self.world.close(socket, cause);
        self.auditor.gone(&self.world, socket, drained);
        self.end_step(shard, &effects);
    }

    fn disk_tells(&mut self, shard: usize) {
        self.auditor.begin_step(&self.world);
        let effects = self.world.tell(shard);
        self.end_step(shard, &effects);
    }

    /// The store has done and said all it was asked for; returns whether that was anything.
    fn disk_flows(&mut self) -> bool {
        let Some(disk) = &mut self.world.disk else {
            return false;
        };
        if disk.is_full {
            disk.set_full(false);
        }
        let behind = disk.behind();
        for shard in &behind {
            disk.commit(*shard);
        }
        let untold = disk.untold();
        for shard in &untold {
            self.disk_tells(*shard);
        }
        !behind.is_empty() || !untold.is_empty()
    }

    /// The broker dies and comes back.
    fn crash(&mut self) {
        let shard_count = self.schedule.between(1, 5);
        self.world.crash(shard_count);
        self.swarm.shard_count = shard_count;
        self.frozen.clear();
        self.auditor.crashed(&self.world);
        for client in &mut self.clients {
            client.drop_connection();
        }
    }

    fn report_pressure(&mut self) {
        loop {
            self.auditor.begin_step(&self.world);
            let Some((shard, effects)) = self.world.report_pressure() else {
                return;
            };
            self.end_step(shard, &effects);
        }
    }

    fn notice_end(&mut self, socket: SocketId) {
        let it = &self.world.sockets[socket];
        let cause = if it.reset {
            CloseCause::Reset
        } else if it.stage == Stage::Closing {
            if self.world.outbound_len(socket) == 0 {
                CloseCause::Asked
            } else {
                CloseCause::LingerExpired
            }
        } else {
            CloseCause::PeerClosed
        };
        self.close(socket, cause);
    }

    fn stage(&mut self) -> (ClientStage<'_>, &mut Vec<Client>) {
        let stage = ClientStage {
            world: &mut self.world,
            auditor: &mut self.auditor,
            swarm: &self.swarm,
            random: &mut self.act,
        };
        (stage, &mut self.clients)
    }

    /// Returns whether there was anything to read.
    fn client_reads(&mut self, client: usize, all: bool) -> bool {
        let Some(socket) = self.clients[client].socket() else {
            return false;
        };
        let it = &self.world.sockets[socket];
        let length = it.down.len();
        if length == 0 {
            if it.stage == Stage::Gone {
                // The broker has closed it.
                return self.clients[client].drop_connection().is_some();
            }
            return false;
        }
        let count = if all {
            length
        } else {
            self.some(length, Feature::ShortReads)
        };
        let (mut stage, clients) = self.stage();
        clients[client].read(&mut stage, count);
        true
    }

    /// Returns whether the client could do anything.
    fn client_acts(&mut self, client: usize) -> bool {
        if self.clients[client].socket().is_none() {
            let connects = self.act.chance(30);
            if connects {
                self.connect(client, None);
            }
            return connects;
        }
        if !self.clients[client].is_connected() || self.clients[client].is_rude() {
            return false;
        }
        let drawn = self.act.below(100);
        let unsubscribes = self.swarm.has(Feature::Unsubscribe);
        let is_rude = self.swarm.has(Feature::Rude);
        let (mut stage, clients) = self.stage();
        let it = &mut clients[client];
        match drawn {
            0..40 => return it.acknowledge(&mut stage),
            40..75 => it.publish(&mut stage),
            75..88 if !it.is_subscribing() => it.subscribe(&mut stage),
            88..94 if unsubscribes && !it.is_subscribing() => it.unsubscribe(&mut stage),
            94..97 => it.ping(&mut stage),
            97 => it.disconnect(&mut stage, false),
            98 if is_rude => it.be_rude(&mut stage),
            _ => return false,
        }
        true
    }

    fn connect(&mut self, client: usize, calm: Option<bool>) {
        let shard = self.act.below(self.swarm.shard_count);
        self.auditor.begin_step(&self.world);
        let (socket, effects) = self.world.accept(shard);
        self.auditor.accepted(client);
        self.end_step(shard, &effects);
        let (mut stage, clients) = self.stage();
        clients[client].connect(&mut stage, socket, calm);
    }

    fn fault(&mut self) {
        if self.swarm.has(Feature::Crashes) && self.schedule.chance(8) {
            self.crash();
            return;
        }
        if self.swarm.has(Feature::DiskFull) && self.schedule.chance(10) {
            let disk = self.world.disk.as_mut().expect("it stores");
            disk.set_full(!disk.is_full);
            return;
        }
        if self.swarm.has(Feature::FrozenLinks) && self.schedule.chance(40) {
            let count = self.swarm.shard_count;
            let link = (self.schedule.below(count), self.schedule.below(count));
            if !self.frozen.remove(&link) {
                self.frozen.insert(link);
            }
            return;
        }
        let client = self.schedule.below(self.clients.len());
        let Some(socket) = self.clients[client].socket() else {
            return;
        };
        let kinds = [
            Feature::Resets,
            Feature::HalfOpen,
            Feature::Takeover,
            Feature::Stalls,
        ];
        match *self.schedule.pick(&kinds) {
            it if !self.swarm.has(it) => {}
            Feature::Resets => {
                self.reset(socket);
                self.clients[client].drop_connection();
            }
            Feature::HalfOpen => {
                self.world.sockets[socket].silent = true;
                self.clients[client].drop_connection();
            }
            Feature::Takeover => {
                // What it had sent may still be read, before or after the new CONNECT.
                self.world.sockets[socket].silent = true;
                self.clients[client].drop_connection();
                for _ in 0..self.schedule.between(1, 3) {
                    if let Some(older) = self.clients[client].drop_connection() {
                        self.world.sockets[older].silent = true;
                    }
                    self.connect(client, None);
                }
            }
            _ => {
                let stalled = self.clients[client].is_stalled();
                self.clients[client].set_stalled(!stalled);
            }
        }
    }

    fn reset(&mut self, socket: SocketId) {
        let it = &mut self.world.sockets[socket];
        it.reset = true;
        it.up.clear();
        it.down.clear();
    }

    fn time_passes(&mut self) {
        let jumps = self.swarm.has(Feature::ClockJumps);
        let ms = match self.clock.below(100) {
            0..70 => self.clock.between(1, 20) as u64 * GRAIN_MS,
            70..97 => self.clock.between(20, 400) as u64 * GRAIN_MS,
            97..99 if jumps => self.clock.between(1_000, 20_000) as u64 * GRAIN_MS,
            99 if jumps => self.clock.between(20_000, 2_000_000) as u64 * GRAIN_MS,
            _ => 1_000,
        };
        let mut wall_ms = ms as i64;
        if self.swarm.has(Feature::WallJumps) && self.clock.chance(20) {
            wall_ms += self.clock.between(0, 20_000) as i64 - 10_000;
        }
        self.pass(ms, wall_ms);
    }

    fn pass(&mut self, ms: u64, wall_ms: i64) {
        for client in 0..self.clients.len() {
            if !self.clients[client].is_stalled() {
                let (mut stage, clients) = self.stage();
                clients[client].keep_alive(&mut stage, ms);
            }
        }
        loop {
            self.world.end_turns();
            let Some((from, to)) = self.world.overdue_link(ms) else {
                break;
            };
            self.deliver(from, to);
        }
        if ms > LINK_DELAY_MAX_MS {
            self.fan_out_all();
        }
        self.world.pass(ms, wall_ms);
        for shard in 0..self.swarm.shard_count {
            self.auditor.begin_step(&self.world);
            let is_due = self.world.shards[shard]
                .next_deadline()
                .is_some_and(|deadline_ms| deadline_ms <= self.world.now.mono_ms);
            // A tick too many does no harm, one too few would.
            let effects = if is_due || self.clock.chance(10) {
                self.world.tick(shard)
            } else {
                Effects::default()
            };
            self.auditor.ticked(shard);
            self.end_step(shard, &effects);
        }
    }

    /// The faults stop: everything flows, everybody reads and acknowledges, whoever has a session comes back.
    fn heal(&mut self) {
        self.heal_phases += 1;
        for client in 0..self.clients.len() {
            self.clients[client].set_stalled(false);
        }
        let mut waits = 0;
        for _ in 0..HEAL_ROUNDS_MAX {
            if self.heal_round() {
                continue;
            }
            // Two queues may hold back what the other waits for, until their time is up.
            let is_held = |shard: &Shard| shard.waiting_count() > 0;
            if waits == HOLDS_MAX || !self.world.shards.iter().any(is_held) {
                return;
            }
            waits += 1;
            self.pass(1_000, 1_000);
        }
        panic!("(13) not at rest {HEAL_ROUNDS_MAX} rounds after the faults stopped");
    }

    /// Returns whether anything happened.
    fn heal_round(&mut self) -> bool {
        self.world.end_turns();
        let mut moved = self.disk_flows();
        moved |= self.fan_out_all();
        for (from, to) in self.world.busy_links() {
            self.deliver(from, to);
            moved = true;
        }
        self.report_pressure();
        for socket in self.sockets().collect::<Vec<_>>() {
            if self.world.sockets[socket].silent
                && self.world.sockets[socket].stage != Stage::Moving
            {
                self.reset(socket);
            }
            if is_ending(&self.world, socket)
                && !(self.world.sockets[socket].stage == Stage::Closing
                    && self.world.outbound_len(socket) > 0
                    && self.world.room(socket) > 0)
            {
                self.notice_end(socket);
                moved = true;
                continue;
            }
            if self.world.may_read(socket) && !self.world.sockets[socket].up.is_empty() {
                let count = self.world.sockets[socket].up.len();
                self.shard_reads(socket, count);
                moved = true;
            }
            let count = self.world.outbound_len(socket).min(self.world.room(socket));
            if count > 0 {
                self.shard_writes(socket, count);
                moved = true;
            }
        }
        for client in 0..self.clients.len() {
            if self.clients[client].socket().is_none() {
                self.connect(client, Some(false));
                moved = true;
                continue;
            }
            let before = self.clients[client]
                .socket()
                .map(|it| self.world.sockets[it].down.len());
            self.client_reads(client, true);
            moved |= before != Some(0) || self.clients[client].socket().is_none();
            let (mut stage, clients) = self.stage();
            while clients[client].acknowledge(&mut stage) {
                moved = true;
            }
        }
        moved
    }

    fn dropped(&self, shard: usize, cause: DropCause) -> u64 {
        self.world.shards[shard].counters().dropped[cause as usize]
    }

    fn dropped_in_all(&self, cause: DropCause) -> u64 {
        let now: u64 = (0..self.swarm.shard_count)
            .map(|shard| self.dropped(shard, cause))
            .sum();
        now + self.world.dropped_before[cause as usize]
    }

    fn check_at_rest(&self) {
        self.world.shards.iter().for_each(Shard::check_invariants);
        self.auditor.check_replies();
        self.check_flights();
        for client in &self.clients {
            assert!(client.is_settled(), "(13) not settled: {client:?}");
        }
        let (missing, words) = self.auditor.model.missing(self.swarm.shard_count);
        let words = || words[..words.len().min(5)].join("\n  ");
        let before = self.world.dropped_before[DropCause::QueueFull as usize];
        for (shard, count) in missing.queued.iter().enumerate() {
            let counted = self.dropped(shard, DropCause::QueueFull) + before;
            assert!(
                *count <= counted,
                "(3) shard {shard} owes {count} messages and counted {counted} drops:\n  {}",
                words()
            );
        }
        // What is dropped at a link is missing at every client behind it.
        let counted = self.dropped_in_all(DropCause::SlowConsumer)
            + self.dropped_in_all(DropCause::Link) * self.swarm.client_count as u64;
        assert!(
            missing.qos_0 <= counted,
            "(6) {} QoS 0 messages are missing and {counted} drops were counted:\n  {}",
            missing.qos_0,
            words()
        );
        let mut counted =
            self.dropped_in_all(DropCause::NoMember) + self.dropped_in_all(DropCause::QueueFull);
        if self.swarm.has(Feature::RefuseOrHold) {
            // One member left it, and the queue of the next is full: there is no publisher to tell.
            counted += self.dropped_in_all(DropCause::Refused);
        }
        assert!(
            missing.shared <= counted,
            "(8) {} messages to groups are missing and {counted} drops were counted:\n  {}",
            missing.shared,
            words()
        );
        let counted = counted + self.dropped_in_all(DropCause::SessionEnded);
        assert!(
            missing.shared_qos_2 <= counted,
            "(8) {} QoS 2 messages to groups are missing and {counted} drops were counted:\n  {}",
            missing.shared_qos_2,
            words()
        );
        let replays = self.auditor.model.missing_replays();
        assert!(
            replays.is_empty(),
            "(7) retained messages are missing:\n  {}",
            replays.join("\n  ")
        );
        self.check_causes();
        if let Some(disk) = &self.world.disk {
            assert!(disk.is_idle());
            disk.check_at_rest(self.auditor.model.may_refuse);
            for shard in &self.world.shards {
                assert_eq!(
                    shard.waiting_count(),
                    0,
                    "(13) something waits for the store"
                );
            }
        }
    }

    /// At rest: everything that was sent is acknowledged.
    fn check_flights(&self) {
        for (at, session) in self
            .auditor
            .model
            .sessions
            .iter()
            .enumerate()
            .filter(|(_, it)| it.alive)
        {
            for flight in session.flights.values() {
                assert!(
                    self.auditor.model.may_be_given_up(at, flight),
                    "(3) client {} was not sent again: {flight:?}",
                    session.client
                );
            }
        }
    }

    /// Nothing is dropped under a cause that cannot have been.
    fn check_causes(&self) {
        let has = |feature| self.swarm.has(feature);
        let none = |cause: DropCause| {
            assert_eq!(
                self.dropped_in_all(cause),
                0,
                "dropped without a cause: {}",
                cause.name()
            );
        };
        if !has(Feature::TinyQueue) {
            none(DropCause::QueueFull);
            if !has(Feature::DiskFull) {
                none(DropCause::Refused);
            }
        }
        none(DropCause::Lost);
        none(DropCause::Aged);
        if !has(Feature::PacketMaximum) {
            none(DropCause::TooLarge);
        }
        if !has(Feature::LinkPressure) {
            none(DropCause::Link);
        }
        if !has(Feature::TinyRetained) {
            none(DropCause::RetainedLimit);
        }
        if !has(Feature::MessageExpiry) {
            none(DropCause::Expired);
        }
        if !has(Feature::TinyOutbound) {
            none(DropCause::SlowConsumer);
        }
    }

    /// A client that is no part of the model.
    fn probe(&mut self, shard: usize) -> Probe {
        let id = (0..)
            .map(|n| format!("probe-{n}"))
            .find(|id| self.world.placement.owner(id).index() == shard)
            .expect("some identifier belongs to every shard");
        let (socket, _) = self.world.accept(shard);
        self.auditor.accepted(usize::MAX);
        let mut bytes = Vec::new();
        let connect = ringmq::protocol::Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive_s: 0,
            client_id: &id,
            will: None,
            username: None,
            password: None,
            properties: ringmq::protocol::ConnectProperties::default(),
        };
        connect.encode(&mut bytes);
        let probe = Probe { socket };
        self.probe_sends(&probe, &bytes);
        probe
    }

    /// Sends bytes and flows until nothing moves; returns what came back.
    fn probe_sends(&mut self, probe: &Probe, bytes: &[u8]) -> Vec<u8> {
        self.world.sockets[probe.socket].up.extend(bytes);
        let mut got = Vec::new();
        loop {
            let mut moved = self.fan_out_all();
            self.world.end_turns();
            for (from, to) in self.world.busy_links() {
                self.world.deliver(from, to);
                moved = true;
            }
            while self.world.report_pressure().is_some() {}
            if let Some(disk) = &mut self.world.disk {
                for shard in disk.behind() {
                    disk.commit(shard);
                }
                for shard in disk.untold() {
                    self.world.tell(shard);
                    moved = true;
                }
            }
            if self.world.may_read(probe.socket) && !self.world.sockets[probe.socket].up.is_empty()
            {
                let count = self.world.sockets[probe.socket].up.len();
                self.world.read(probe.socket, count);
                moved = true;
            }
            for socket in self.sockets().collect::<Vec<_>>() {
                let count = self.world.outbound_len(socket).min(self.world.room(socket));
                if count > 0 {
                    let bytes = self.world.peek(socket, count);
                    self.world.write(socket, &bytes);
                    moved = true;
                }
                let down: Vec<u8> = self.world.sockets[socket].down.drain(..).collect();
                if socket == probe.socket {
                    got.extend(down);
                }
            }
            if !moved {
                return got;
            }
        }
    }

    /// All shards hold the same retained messages, and they are the latest.
    fn check_retained(&mut self) {
        let expected = self.auditor.model.retained_at_rest();
        let mut first: Option<BTreeMap<String, Payload>> = None;
        for shard in 0..self.swarm.shard_count {
            let mut retained = BTreeMap::new();
            for filter in ["#", "$b/#"] {
                self.probe_retained(shard, filter, &mut retained);
            }
            for (topic, possible) in &expected {
                let holds = retained.get(topic);
                let messages = &self.auditor.model.messages;
                let allowed = possible
                    .iter()
                    .any(|id| id.map(|id| &messages[id].payload) == holds);
                assert!(
                    allowed,
                    "(7) shard {shard} holds {holds:?} on {topic}, not {possible:?}"
                );
            }
            let known = retained.keys().all(|topic| expected.contains_key(topic));
            assert!(known, "(7) shard {shard} holds what nobody retained");
            match &first {
                None => first = Some(retained),
                Some(first) => assert_eq!(*first, retained, "(7) shards 0 and {shard} differ"),
            }
        }
    }

    /// Adds what is retained under `filter` on a shard.
    fn probe_retained(
        &mut self,
        shard: usize,
        filter: &str,
        retained: &mut BTreeMap<String, Payload>,
    ) {
        let probe = self.probe(shard);
        let mut bytes = Vec::new();
        Subscribe::encode(
            &mut bytes,
            Version::V5,
            ringmq::protocol::PacketId::MIN,
            None,
            &UserProperties::default(),
            &[(filter, SubscribeOptions::default())],
        );
        let got = self.probe_sends(&probe, &bytes);
        let mut at = 0;
        while let Cut::Packet { header, body, len } =
            cut(&got[at..], usize::MAX).expect("the broker sends packets")
        {
            if header.packet_type == PacketType::Publish {
                let publish = Publish::decode_from_server(Version::V5, header.flags, body)
                    .expect("a valid PUBLISH");
                assert!(publish.retain && publish.qos == QoS::AtMostOnce);
                let before =
                    retained.insert(publish.topic.to_owned(), Payload(publish.payload.to_vec()));
                assert!(before.is_none(), "(7) two messages retained on one topic");
            }
            at += len;
        }
        self.probe_sends(&probe, &[0xe0, 0]);
        self.world.close(probe.socket, CloseCause::Asked);
    }

    /// The broker stops: every connection is told and closed.
    fn shut_down(&mut self) {
        for shard in 0..self.swarm.shard_count {
            self.auditor.begin_step(&self.world);
            let effects = self.world.shut_down(shard);
            self.auditor.shut_down(&self.world, shard);
            self.end_step(shard, &effects);
        }
        for socket in self.sockets().collect::<Vec<_>>() {
            self.world.sockets[socket].down.clear();
            let count = self.world.outbound_len(socket).min(self.world.room(socket));
            if count > 0 {
                self.shard_writes(socket, count);
            }
            assert!(self.world.sockets[socket].stage == Stage::Closing);
            self.notice_end(socket);
        }
        for shard in 0..self.swarm.shard_count {
            let (_, effects) = self.world.accept(shard);
            self.auditor.accepted(usize::MAX);
            assert_eq!(effects.closes.len(), 1, "a stopping broker accepts nobody");
        }
    }

    /// Ends every session and clears what is retained: nothing may be left.
    fn tear_down(&mut self) {
        for client in 0..self.clients.len() {
            let (mut stage, clients) = self.stage();
            clients[client].disconnect(&mut stage, true);
            self.settle_without(client);
            self.connect(client, Some(true));
            for _ in 0..HEAL_ROUNDS_MAX {
                if self.clients[client].is_connected() {
                    break;
                }
                self.flow(client);
            }
            let (mut stage, clients) = self.stage();
            clients[client].disconnect(&mut stage, true);
            self.settle_without(client);
        }
        let sessions: usize = self
            .world
            .shards
            .iter()
            .map(|shard| shard.session_count())
            .sum();
        assert_eq!(sessions, 0, "(10) sessions are left: {:?}", client_id(0));
        let probe = self.probe(0);
        let topics: Vec<String> = self.auditor.model.retained_at_rest().into_keys().collect();
        for topic in &topics {
            self.probe_sends(&probe, &publish_bytes(topic, true));
        }
        for shard in &self.world.shards {
            assert_eq!(shard.retained_count(), 0, "(10) retained messages are left");
        }
        self.probe_sends(&probe, &[0xe0, 0]);
        self.world.close(probe.socket, CloseCause::Asked);
        // Nobody is interested any more, and every shard knows.
        for shard in 0..self.swarm.shard_count {
            let probe = self.probe(shard);
            let before = self.world.shards[shard].counters().mesh_publish_sent;
            for topic in [
                "a", "a/a", "$b", "$b/a", "/a", "a//a", "a/$b", "/", "a/a/a", "a/",
            ] {
                self.probe_sends(&probe, &publish_bytes(topic, false));
            }
            let after = self.world.shards[shard].counters().mesh_publish_sent;
            assert_eq!(after, before, "(10) interest is left on shard {shard}");
            self.probe_sends(&probe, &[0xe0, 0]);
            self.world.close(probe.socket, CloseCause::Asked);
        }
    }

    /// Lets everything flow until the sockets of a client are gone.
    fn settle_without(&mut self, client: usize) {
        for _ in 0..HEAL_ROUNDS_MAX {
            if self
                .sockets()
                .all(|socket| self.auditor.conns[socket].client != client)
            {
                return;
            }
            self.flow(client);
        }
        panic!("(13) a connection of client {client} does not end");
    }

    fn flow(&mut self, client: usize) {
        self.world.end_turns();
        self.disk_flows();
        for (from, to) in self.world.busy_links() {
            self.deliver(from, to);
        }
        self.report_pressure();
        for socket in self.sockets().collect::<Vec<_>>() {
            if self.world.may_read(socket) && !self.world.sockets[socket].up.is_empty() {
                let count = self.world.sockets[socket].up.len();
                self.shard_reads(socket, count);
            }
            let count = self.world.outbound_len(socket).min(self.world.room(socket));
            if count > 0 {
                self.shard_writes(socket, count);
            }
            if is_ending(&self.world, socket) {
                self.notice_end(socket);
            }
        }
        for other in 0..self.clients.len() {
            self.client_reads(other, true);
            if other != client {
                let (mut stage, clients) = self.stage();
                while clients[other].acknowledge(&mut stage) {}
            }
        }
    }

    /// Where the run stands, for a report of a failure.
    pub fn describe(&self) -> String {
        let features: Vec<&str> = self.swarm.features().map(|(_, name)| name).collect();
        let policy = self.swarm.limits.queue_full.name();
        format!(
            "turn {}, phase of healing {}, {} clients, policy {policy}, features: {}",
            self.turn,
            self.heal_phases,
            self.swarm.client_count,
            features.join(" ")
        )
    }
}

struct Probe {
    socket: SocketId,
}

fn publish_bytes(topic: &str, retain: bool) -> Vec<u8> {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain,
        topic,
        packet_id: None,
        properties: ringmq::protocol::PublishProperties::default(),
        payload: &[],
    };
    let mut bytes = Vec::new();
    publish.encode(Version::V5, &mut bytes);
    bytes
}

/// Whether the broker may be told now that this socket is gone.
fn is_ending(world: &World, socket: SocketId) -> bool {
    let it = &world.sockets[socket];
    match it.stage {
        Stage::Gone | Stage::Moving => false,
        Stage::Closing => true,
        Stage::Live => it.reset || it.fin && it.up.is_empty(),
    }
}

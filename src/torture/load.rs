//! The clients of a torture: each knows what it was promised, and complains when it is not so.

use super::client::{Client, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet, SUBACK, UNSUBACK};
use super::{PUBLISHERS, Shared};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// Messages that a publisher has unacknowledged.
const WINDOW: usize = 16;
/// Retained topics, and filters that come and go.
const TOPICS: u64 = 8;
/// How long a client waits for a packet before it looks around.
const LOOK: Duration = Duration::from_millis(20);

/// What was sent, and in which round it was acknowledged.
#[derive(Default)]
pub(super) struct Published {
    pub(super) sent: u64,
    /// By sequence number from 1.
    pub(super) acked: BTreeMap<u64, u32>,
}

/// What a subscriber has seen of one publisher.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) counts: BTreeMap<u64, u32>,
    /// The greatest sequence number of QoS 1 and of QoS 2.
    last: [u64; 2],
}

/// QoS 1 and 2 alternate.
pub(super) fn qos(sequence: u64) -> u8 {
    1 + (sequence % 2) as u8
}

/// Connects again and again until there is a broker, or all is over. A session once promised must be there.
fn connect(shared: &Shared, id: &str, promised: bool) -> Option<(Client, bool)> {
    while !shared.is_over() {
        if let Ok((client, present)) = Client::connect(shared.address, id, false) {
            if promised && !present {
                shared.complain(format!("the session of {id} is lost"));
            }
            return Some((client, present));
        }
        thread::sleep(LOOK);
    }
    None
}

struct Outgoing {
    sequence: u64,
    packet_id: u16,
    released: bool,
}

/// Publishes until the draining begins, then until everything is acknowledged.
pub(super) fn publisher(shared: &Shared, index: usize) -> Published {
    let id = format!("torture-pub-{index}");
    let topic = format!("torture/{index}");
    let mut published = Published::default();
    let mut in_flight: VecDeque<Outgoing> = VecDeque::new();
    let mut promised = false;
    while let Some((mut client, _)) = connect(shared, &id, promised) {
        promised = true;
        let mut talk = || -> io::Result<bool> {
            for out in &in_flight {
                if out.released {
                    client.ack(PUBREL, out.packet_id)?;
                } else {
                    send(&mut client, &topic, index, out, 0x08)?;
                }
            }
            loop {
                while in_flight.len() < WINDOW && !shared.is_draining() {
                    published.sent += 1;
                    let out = Outgoing {
                        sequence: published.sent,
                        packet_id: 1 + (published.sent % 60_000) as u16,
                        released: false,
                    };
                    send(&mut client, &topic, index, &out, 0)?;
                    in_flight.push_back(out);
                }
                if in_flight.is_empty() && shared.is_draining() {
                    client.disconnect();
                    return Ok(true);
                }
                let Some(packet) = client.receive(LOOK)? else {
                    if shared.is_over() {
                        return Ok(true);
                    }
                    continue;
                };
                let id = packet.packet_id();
                let Some(at) = in_flight.iter().position(|out| out.packet_id == id) else {
                    continue;
                };
                let sequence = in_flight[at].sequence;
                match packet.kind() {
                    PUBACK | PUBCOMP => {
                        in_flight.remove(at);
                    }
                    PUBREC => {
                        in_flight[at].released = true;
                        client.ack(PUBREL, id)?;
                    }
                    _ => continue,
                }
                published.acked.entry(sequence).or_insert(shared.round());
            }
        };
        if let Ok(true) = talk() {
            break;
        }
    }
    published
}

fn send(client: &mut Client, topic: &str, index: usize, out: &Outgoing, dup: u8) -> io::Result<()> {
    let payload = format!(
        "{index} {} {}",
        out.sequence,
        "x".repeat((out.sequence % 200) as usize)
    );
    let flags = qos(out.sequence) << 1 | dup;
    client.publish(flags, topic, out.packet_id, payload.as_bytes())
}

/// How a subscriber treats its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// It stays.
    Steady,
    /// It goes away for a while, with DISCONNECT or without.
    Fickle,
    /// It connects anew while it is connected.
    TakesOver,
}

/// Receives until it has everything that was acknowledged, or nothing comes any more.
pub(super) fn subscriber(shared: &Shared, index: usize, manner: Manner) -> Vec<Seen> {
    let id = format!("torture-sub-{index}");
    let random = &mut shared.random(index as u64 + 100);
    let mut seen: Vec<Seen> = (0..PUBLISHERS).map(|_| Seen::default()).collect();
    let mut held = BTreeSet::new();
    let mut promised = false;
    let mut previous = None;
    while let Some((mut client, present)) = connect(shared, &id, promised) {
        // Dropped only now: it was taken over.
        drop(previous.take());
        if !present {
            held.clear();
        }
        let leave_at = match manner {
            Manner::Steady => None,
            _ => Some(Instant::now() + Duration::from_millis(20 + random.below(300))),
        };
        let mut talk = || -> io::Result<()> {
            if !promised {
                client.subscribe(1, "torture/+", 2)?;
            }
            while !shared.is_over() {
                if leave_at.is_some_and(|at| Instant::now() >= at) && !shared.is_draining() {
                    return Ok(());
                }
                let Some(packet) = client.receive(LOOK)? else {
                    continue;
                };
                match packet.kind() {
                    SUBACK => {
                        promised = true;
                        shared.subscribed();
                    }
                    PUBREL => {
                        held.remove(&packet.packet_id());
                        client.ack(PUBCOMP, packet.packet_id())?;
                    }
                    PUBLISH => take(shared, &id, &mut client, &packet, &mut held, &mut seen)?,
                    _ => {}
                }
            }
            Ok(())
        };
        // A connection that failed is made again like any other.
        let _ = talk();
        match manner {
            Manner::Steady => {}
            Manner::TakesOver => previous = Some(client),
            Manner::Fickle => {
                if random.below(2) == 0 {
                    client.disconnect();
                }
                drop(client);
                thread::sleep(Duration::from_millis(random.below(300)));
            }
        }
    }
    seen
}

fn take(
    shared: &Shared,
    id: &str,
    client: &mut Client,
    packet: &Packet,
    held: &mut BTreeSet<u16>,
    seen: &mut [Seen],
) -> io::Result<()> {
    let Some((topic, packet_id, payload)) = packet.publication() else {
        return Ok(());
    };
    let is_new = packet.qos() != 2 || held.insert(packet_id);
    if is_new {
        let text = String::from_utf8_lossy(payload);
        let mut words = text.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (publisher, sequence) = (number(), number());
        let known = publisher.zip(sequence).and_then(|(publisher, sequence)| {
            Some((seen.get_mut(usize::try_from(publisher).ok()?)?, sequence))
        });
        match known {
            Some((seen, sequence)) => count(shared, id, topic, packet.qos(), seen, sequence),
            None => shared.complain(format!("{id} received `{text}`, which nobody sent")),
        }
    }
    let answer = if packet.qos() == 2 { PUBREC } else { PUBACK };
    client.ack(answer, packet_id)
}

fn count(shared: &Shared, id: &str, topic: &str, got: u8, seen: &mut Seen, sequence: u64) {
    shared.progress();
    let qos = qos(sequence);
    if got != qos {
        shared.complain(format!(
            "{id}: {topic} {sequence} came with QoS {got}, not {qos}"
        ));
    }
    let count = seen.counts.entry(sequence).or_default();
    *count += 1;
    if *count > 1 {
        if qos == 2 {
            shared.complain(format!(
                "{id}: {topic} {sequence}, QoS 2, came {count} times"
            ));
        }
        return;
    }
    let last = &mut seen.last[usize::from(qos) - 1];
    if sequence < *last {
        shared.complain(format!(
            "{id}: {topic} {sequence}, QoS {qos}, came after {last}"
        ));
    }
    *last = (*last).max(sequence);
}

/// What is retained: for each topic the changes made, and how many are acknowledged.
#[derive(Default)]
pub(super) struct Retained {
    /// `None` is: cleared. The first is that nothing was ever retained.
    changes: BTreeMap<u64, Vec<Option<String>>>,
    acked: BTreeMap<u64, usize>,
    pub(super) total: u64,
}

/// Sets and clears retained messages.
pub(super) fn retainer(shared: &Shared) -> Retained {
    let random = &mut shared.random(7);
    let mut retained = Retained::default();
    for topic in 0..TOPICS {
        retained.changes.insert(topic, vec![None]);
        retained.acked.insert(topic, 0);
    }
    while !shared.is_draining() {
        let Some((mut client, _)) = connect(shared, "torture-retain", false) else {
            break;
        };
        let mut talk = || -> io::Result<()> {
            while !shared.is_draining() {
                let topic = random.below(TOPICS);
                retained.total += 1;
                let value = (random.below(4) > 0).then(|| format!("value {}", retained.total));
                let payload = value.clone().unwrap_or_default();
                let changes = retained.changes.entry(topic).or_default();
                changes.push(value);
                let change = changes.len() - 1;
                client.publish(0x03, &format!("keep/{topic}"), 1, payload.as_bytes())?;
                while client
                    .receive(LOOK)?
                    .is_none_or(|packet| packet.kind() != PUBACK)
                {
                    if shared.is_over() {
                        return Ok(());
                    }
                }
                retained.acked.insert(topic, change);
            }
            Ok(())
        };
        let _ = talk();
    }
    retained
}

impl Retained {
    /// Looks at what is retained now.
    pub(super) fn check(&self, shared: &Shared) -> io::Result<()> {
        let (mut client, _) = Client::connect(shared.address, "torture-look", true)?;
        client.subscribe(1, "keep/+", 0)?;
        let mut found = BTreeMap::new();
        while let Some(packet) = client.receive(Duration::from_millis(500))? {
            if let (PUBLISH, Some((topic, _, payload))) = (packet.kind(), packet.publication()) {
                found.insert(
                    topic.to_owned(),
                    String::from_utf8_lossy(payload).into_owned(),
                );
            }
        }
        for (topic, changes) in &self.changes {
            let topic_name = format!("keep/{topic}");
            let value = found.get(&topic_name).cloned();
            let acked = self.acked[topic];
            // Changes that were not acknowledged may have been made or not.
            if !changes[acked..].contains(&value) {
                shared.complain(format!(
                    "{topic_name} is {value:?}; the last acknowledged was {:?}",
                    changes[acked]
                ));
            }
        }
        Ok(())
    }
}

/// Subscribes and unsubscribes, and finds out after each new connection what it is subscribed to.
pub(super) fn churner(shared: &Shared) -> u64 {
    const ID: &str = "torture-churn";
    let random = &mut shared.random(9);
    // What it is, as far as it is known.
    let mut state: BTreeMap<u64, Option<bool>> = (0..TOPICS).map(|n| (n, Some(false))).collect();
    let (mut promised, mut changes) = (false, 0);
    while !shared.is_over() {
        let Some((mut client, _)) = connect(shared, ID, promised) else {
            break;
        };
        promised = true;
        let mut talk = || -> io::Result<()> {
            look(shared, &mut client, &mut state)?;
            while !shared.is_draining() {
                let n = random.below(TOPICS);
                let filter = format!("churn/{n}");
                let subscribe = random.below(2) == 0;
                state.insert(n, None);
                let answer = if subscribe {
                    client.subscribe(9, &filter, 1)?;
                    SUBACK
                } else {
                    client.unsubscribe(9, &filter)?;
                    UNSUBACK
                };
                while client
                    .receive(LOOK)?
                    .is_none_or(|packet| packet.kind() != answer)
                {
                    if shared.is_over() {
                        return Ok(());
                    }
                }
                state.insert(n, Some(subscribe));
                changes += 1;
                thread::sleep(Duration::from_millis(random.below(10)));
            }
            Ok(())
        };
        if talk().is_ok() {
            client.disconnect();
            break;
        }
    }
    changes
}

/// Publishes to each topic, to itself, and compares what comes with what it was promised.
fn look(
    shared: &Shared,
    client: &mut Client,
    state: &mut BTreeMap<u64, Option<bool>>,
) -> io::Result<()> {
    let mark = shared.unique();
    for n in 0..TOPICS {
        client.publish(0x02, &format!("churn/{n}"), 100 + n as u16, mark.as_bytes())?;
    }
    let (mut acked, mut came) = (0, BTreeSet::new());
    let mut quiet_at = Instant::now() + Duration::from_secs(20);
    while Instant::now() < quiet_at {
        let Some(packet) = client.receive(LOOK)? else {
            if shared.is_over() {
                return Ok(());
            }
            continue;
        };
        match packet.kind() {
            PUBACK => acked += 1,
            PUBLISH => {
                if let Some((topic, id, payload)) = packet.publication() {
                    if payload == mark.as_bytes() {
                        came.extend(topic.rsplit('/').next().and_then(|n| n.parse::<u64>().ok()));
                    }
                    client.ack(PUBACK, id)?;
                }
            }
            _ => {}
        }
        if acked == TOPICS {
            // What comes after the acknowledgements comes soon.
            quiet_at = quiet_at.min(Instant::now() + Duration::from_millis(300));
        }
    }
    if acked < TOPICS {
        shared.complain("the churning client's messages were not acknowledged within 20 s".into());
        return Ok(());
    }
    for (n, known) in state {
        let is = came.contains(n);
        if known.is_some_and(|known| known != is) {
            let what = if is { "back" } else { "lost" };
            shared.complain(format!("the subscription to churn/{n} is {what}"));
        }
        *known = Some(is);
    }
    Ok(())
}

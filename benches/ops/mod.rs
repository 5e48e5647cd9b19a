//! The operations that are measured: each is one function that does one unit of work.
//!
//! Each works on what a broker in use would hold: an index of 100,000 filters, 10,000 retained messages, and so on.

mod broker;

use broker::Broker;
use ringmq::mesh::link::{LinkConfig, LinkMessage, LinkReceiver, LinkSender, link};
use ringmq::mesh::wake::Wake;
use ringmq::protocol::frame::{Cut, cut};
use ringmq::protocol::publish::PublishHead;
use ringmq::protocol::{Connect, Publish, QoS, Version};
use ringmq::shard::input::ShardId;
use ringmq::shard::mesh_message::MeshMessage;
use ringmq::shard::message::{Envelope, Message, MessageParts};
use ringmq::shard::outbox::Outbox;
use ringmq::topic::index::{Index, Subscriber};
use ringmq::topic::interest::{InterestTable, interest_key};
use ringmq::topic::retained::{Cursor, Retained, Stamp};
use std::hint::black_box;
use std::sync::Arc;

/// One operation.
pub(crate) struct Op {
    /// How it is asked for.
    pub(crate) name: &'static str,
    /// Prepares the state it works on.
    pub(crate) prepare: fn() -> Box<dyn FnMut()>,
}

/// All of them. What one call does stands in the name or beside it.
pub(crate) const OPS: &[Op] = &[
    op("decode-publish", decode_publish),
    op("decode-connect", decode_connect),
    op("encode-publish-head", encode_publish_head),
    op("match-exact", match_exact),
    op("match-wildcards", match_wildcards),
    op("interest-mask", interest_mask),
    op("retained-scan-100", retained_scan),
    op("message-batch", message_batch),
    op("link", link_hop),
    // A PUBLISH of 64 bytes from the socket's bytes to the subscriber's, acknowledgements included.
    op("publish-q0", || publish(QoS::AtMostOnce)),
    op("publish-q1", || publish(QoS::AtLeastOnce)),
    op("publish-q2", || publish(QoS::ExactlyOnce)),
    op("publish-q0-fan-out-100", fan_out),
    op("publish-q0-other-shard", other_shard),
    // CONNECT, SUBSCRIBE, PUBLISH to itself, DISCONNECT.
    op("connect-to-disconnect", connect_to_disconnect),
    // 40 ms go by, in which one of 1,000 clients sends PINGREQ and timers of others may be due.
    op("keep-alive-of-1000-clients", keep_alive),
];

const fn op(name: &'static str, prepare: fn() -> Box<dyn FnMut()>) -> Op {
    Op { name, prepare }
}

const PAYLOAD: [u8; 64] = [b'x'; 64];
const SEED: u64 = 7;

fn decode_publish() -> Box<dyn FnMut()> {
    let packet = broker::publish("sensors/line-7/42/temperature", QoS::AtLeastOnce);
    Box::new(move || {
        let Ok(Cut::Packet { header, body, .. }) = cut(black_box(&packet), 1 << 20) else {
            unreachable!("a whole packet");
        };
        black_box(Publish::decode(Version::V311, header.flags, body).is_ok());
    })
}

fn decode_connect() -> Box<dyn FnMut()> {
    let packet = broker::connect("device-000042");
    Box::new(move || {
        let Ok(Cut::Packet { body, .. }) = cut(black_box(&packet), 1 << 20) else {
            unreachable!("a whole packet");
        };
        black_box(Connect::decode(body).is_ok());
    })
}

fn encode_publish_head() -> Box<dyn FnMut()> {
    let mut out = Vec::with_capacity(256);
    Box::new(move || {
        out.clear();
        let head = PublishHead {
            version: Version::V5,
            qos: QoS::AtMostOnce,
            dup: false,
            retain: false,
            topic: black_box("sensors/line-7/42/temperature"),
            packet_id: None,
            topic_alias: None,
            message_expiry_s: None,
            subscription_ids: &[],
            forward: &[],
            payload_len: PAYLOAD.len(),
        };
        black_box(head.encode(&mut out));
    })
}

#[derive(Clone, Copy)]
struct Entry(u32);

impl Subscriber for Entry {
    fn key(&self) -> u32 {
        self.0
    }
}

/// Topics that a fixed step visits in an order that a cache does not guess.
fn topics(make: impl Fn(usize) -> String) -> impl FnMut() -> String {
    let mut at = 0;
    move || {
        at = (at + 61_803) % 100_000;
        make(at)
    }
}

/// One topic after the other.
fn matching(index: Index<Entry>, topics: Vec<String>) -> Box<dyn FnMut()> {
    let mut at = 0;
    Box::new(move || {
        at = (at + 1) % topics.len();
        let mut found = 0;
        index.for_each_filter(&topics[at], |_, entries| {
            found += entries.iter().map(|entry| entry.0).sum::<u32>();
        });
        black_box(found);
    })
}

fn match_exact() -> Box<dyn FnMut()> {
    let mut index = Index::new(SEED);
    for n in 0..100_000 {
        index.subscribe(&format!("sensors/{}/{n}/temperature", n % 100), Entry(n));
    }
    let mut next = topics(|n| format!("sensors/{}/{n}/temperature", n % 100));
    let topics: Vec<_> = (0..1_000).map(|_| next()).collect();
    matching(index, topics)
}

/// 100,000 filters with wildcards, of which three match.
fn match_wildcards() -> Box<dyn FnMut()> {
    let mut index = Index::new(SEED);
    for n in 0..33_333_u32 {
        index.subscribe(&format!("plant/{n}/+/state"), Entry(n));
        index.subscribe(&format!("plant/{n}/#"), Entry(n + 1));
        index.subscribe(&format!("plant/+/{n}/state"), Entry(n + 2));
    }
    let topics: Vec<_> = (0..1_000_u32)
        .map(|n| format!("plant/{}/{}/state", n * 31, n * 17))
        .collect();
    matching(index, topics)
}

fn interest_mask() -> Box<dyn FnMut()> {
    let mut table = InterestTable::new(SEED);
    for n in 0..10_000_u32 {
        table.set((n % 4) as u8, interest_key(SEED, &format!("plant/{n}/#")));
        table.set(
            (n % 3) as u8,
            interest_key(SEED, &format!("plant/{n}/state")),
        );
    }
    let topics: Vec<_> = (0..1_000).map(|n| format!("plant/{n}/state")).collect();
    let mut at = 0;
    Box::new(move || {
        at = (at + 1) % topics.len();
        black_box(table.mask_for(&topics[at]));
    })
}

fn message(topic: &str, stamp: u64) -> Message {
    Message::new(&MessageParts {
        stamp,
        ..parts(topic)
    })
}

fn parts(topic: &str) -> MessageParts<'_> {
    MessageParts {
        properties: &[&[]],
        ..MessageParts::new(topic, QoS::AtMostOnce, &PAYLOAD)
    }
}

/// A hundred matches out of 10,000 retained messages.
fn retained_scan() -> Box<dyn FnMut()> {
    let mut retained = Retained::new(SEED);
    for n in 0..10_000_u64 {
        let topic = format!("home/{}/{n}/config", n % 100);
        retained.set(Stamp(n + 1), message(&topic, n + 1));
    }
    Box::new(move || {
        let mut found = 0;
        let mut cursor = Cursor::default();
        retained.scan(
            black_box("home/42/#"),
            &mut cursor,
            1_000,
            &mut 10_000,
            |_| found += 1,
        );
        assert_eq!(found, 100);
    })
}

/// One message into a batch for another core, and out of it again.
fn message_batch() -> Box<dyn FnMut()> {
    let mut outbox = Outbox::default();
    let mut calls = 0;
    Box::new(move || {
        outbox.send_small(
            ShardId(1),
            &parts(black_box("sensors/line-7/42/temperature")),
            Envelope::default(),
        );
        calls += 1;
        if calls % 100 == 0 {
            for (_, message) in outbox.take_mesh() {
                let MeshMessage::Batch(batch) = message else {
                    unreachable!("only batches were sent");
                };
                black_box(
                    batch
                        .iter()
                        .map(|message| message.topic.len())
                        .sum::<usize>(),
                );
            }
        }
    })
}

fn wake() -> Arc<Wake> {
    Arc::new(Wake::new().expect("an eventfd"))
}

/// One message over a link, in batches of 16, on one thread: no contention.
fn link_hop() -> Box<dyn FnMut()> {
    let (mut sender, mut receiver): (LinkSender, LinkReceiver) =
        link(LinkConfig::default(), wake(), wake());
    let message = message("sensors/line-7/42/temperature", 0);
    let mut calls = 0;
    Box::new(move || {
        let message = message.clone();
        let envelope = Envelope::default();
        let message = MeshMessage::Publish { message, envelope };
        sender.send(LinkMessage::Shard(message));
        calls += 1;
        if calls % 16 == 0 {
            sender.flush();
            while let Some(message) = receiver.take() {
                black_box(message);
            }
            receiver.release();
        }
    })
}

fn publish(qos: QoS) -> Box<dyn FnMut()> {
    let mut broker = Broker::new(1);
    let publisher = broker.client("publisher", 0);
    let subscriber = broker.client("subscriber", 0);
    broker.subscribe(subscriber, "sensors/42", qos);
    let packet = broker::publish("sensors/42", qos);
    Box::new(move || broker.publish(publisher, &packet, qos))
}

fn fan_out() -> Box<dyn FnMut()> {
    let mut broker = Broker::new(1);
    let publisher = broker.client("publisher", 0);
    for n in 0..100 {
        let subscriber = broker.client(&format!("subscriber-{n}"), 0);
        broker.subscribe(subscriber, "sensors/42", QoS::AtMostOnce);
    }
    let packet = broker::publish("sensors/42", QoS::AtMostOnce);
    Box::new(move || broker.publish(publisher, &packet, QoS::AtMostOnce))
}

/// The publisher's session lives on one shard, the subscriber's on another.
fn other_shard() -> Box<dyn FnMut()> {
    let mut broker = Broker::new(2);
    let publisher = broker.client("publisher", 0);
    let subscriber = broker.client("subscriber", 1);
    broker.subscribe(subscriber, "sensors/42", QoS::AtMostOnce);
    let packet = broker::publish("sensors/42", QoS::AtMostOnce);
    Box::new(move || broker.publish(publisher, &packet, QoS::AtMostOnce))
}

fn connect_to_disconnect() -> Box<dyn FnMut()> {
    let mut broker = Broker::new(1);
    let packet = broker::publish("device-000042", QoS::AtMostOnce);
    Box::new(move || {
        let client = broker.client("device-000042", 0);
        broker.subscribe(client, "device-000042", QoS::AtMostOnce);
        broker.publish(client, &packet, QoS::AtMostOnce);
        broker.disconnect(client);
    })
}

fn keep_alive() -> Box<dyn FnMut()> {
    let mut broker = Broker::new(1);
    let clients: Vec<_> = (0..1_000)
        .map(|n| broker.client(&format!("device-{n}"), 0))
        .collect();
    let mut at = 0;
    Box::new(move || {
        // Each has its turn after 40 s, of a Keep Alive of 60 s.
        broker.pass(40);
        broker.ping(clients[at]);
        at = (at + 1) % clients.len();
    })
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

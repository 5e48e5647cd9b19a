//! What a client is told of a stored session waits for the store: each gate by itself, on one shard and across two.

mod world;

use ringmq::config::limits::{Limits, QueueFullPolicy};
use ringmq::protocol::frame::{Cut, cut};
use ringmq::protocol::{
    Connack, Connect, PacketId, PacketType, PublishProperties, QoS, ReasonCode, UserProperties,
    Version,
};
use ringmq::session::DeliveryOptions;
use ringmq::shard::counters::DropCause;
use ringmq::shard::input::{Input, Pressure};
use ringmq::shard::message::{Message, MessageParts};
use ringmq::shard::record::{
    Durability, OutgoingStep, Part, ReceiverFlags, Record, RecoveredDelivery, RecoveredSession,
    SessionRecord, StoredMessage, StoredSession,
};
use world::{Packet, World, connect, keeper, keeper_of, persistent, subscribed, with_qos};

fn stored(shard_count: usize) -> World {
    World::with_store(shard_count, Limits::default(), Durability::Power)
}

/// One in flight for each, so many in the queue, and what comes then is held back.
fn holding_back(queue_messages_max: u32) -> World {
    let limits = Limits {
        queue_messages_max,
        inflight_messages_max: 1,
        queue_full: QueueFullPolicy::Hold,
        ..Limits::default()
    };
    World::with_store(1, limits, Durability::Power)
}

fn ack_of(packet_type: PacketType, id: u16, reason: ReasonCode) -> Option<Packet> {
    Some(Packet::Ack {
        packet_type,
        id,
        reason,
    })
}

#[test]
fn puback_waits_for_the_one_record_of_all_receivers() {
    for count in [1, 2, 4] {
        let mut world = stored(count);
        let subscribers: Vec<_> = (0..4)
            .map(|n| subscribed(&mut world, &format!("s{n}"), "t", QoS::AtLeastOnce))
            .collect();
        let publisher = world.connect(0, "publisher", Version::V5);
        world.publish(publisher, "t", b"x", QoS::AtLeastOnce, 1);
        // QoS 1 is delivered before it is stored.
        for subscriber in &subscribers {
            assert_eq!(world.messages(*subscriber).len(), 1);
        }
        assert_eq!(world.next(publisher), None, "PUBACK before its record");
        let records: Vec<_> = world.records.iter().flatten().collect();
        let [Record::Message { receivers, .. }] = &records[..] else {
            panic!("{records:?}");
        };
        assert_eq!(receivers.len(), 4);
        world.commit();
        let puback = ack_of(PacketType::Puback, 1, ReasonCode::Success);
        assert_eq!(world.next(publisher), puback);
    }
}

#[test]
fn nobody_who_is_stored_means_nothing_to_wait_for() {
    let mut world = stored(2);
    let subscriber = world.connect(0, "subscriber", Version::V5);
    world.subscribe(subscriber, "t", QoS::AtLeastOnce);
    let publisher = world.connect(1, "publisher", Version::V5);
    world.publish(publisher, "t", b"x", QoS::AtLeastOnce, 1);
    assert!(matches!(world.next(publisher), Some(Packet::Ack { .. })));
    assert!(world.records.iter().all(Vec::is_empty));
}

/// QoS 0 is not acknowledged, so nothing else holds back who retains faster than the disk is.
#[test]
fn who_retains_faster_than_the_store_is_not_read_for_a_while() {
    let mut world = stored(1);
    let [many, one, other] = ["many", "one", "other"].map(|id| world.connect(0, id, Version::V5));
    let retain = |world: &mut World, client, topic: &str, payload: &[u8]| {
        let none = PublishProperties::default();
        world.publish_with(client, topic, payload, QoS::AtMostOnce, 0, true, none);
    };
    retain(&mut world, one, "large", &[0; 100_000]);
    assert!(world.clients[one].paused);
    world.commit();
    assert!(!world.clients[one].paused);
    for n in 0..4_097 {
        assert!(!world.clients[many].paused, "{n}");
        retain(&mut world, many, &n.to_string(), b"x");
    }
    assert!(world.clients[many].paused);
    // Others go on.
    world.publish(other, "t", b"x", QoS::AtMostOnce, 0);
    assert!(!world.clients[one].paused && !world.clients[other].paused);
    world.commit();
    assert!(!world.clients[many].paused);
    // Nobody who has gone meanwhile is missed.
    retain(&mut world, one, "large", &[1; 100_000]);
    world.send(one, &[0xe0, 0]);
    world.commit();
}

/// The publisher's shard recorded the end of what a queue on another shard had dropped. A crash before that was durable brought the
/// message back, behind a later one that the queue's shard had recorded as sent.
#[test]
fn what_is_dropped_ends_before_what_takes_its_place_is_sent() {
    let limits = Limits {
        queue_messages_max: 1,
        inflight_messages_max: 1,
        queue_full: QueueFullPolicy::DropOldest,
        ..Limits::default()
    };
    let mut world = World::with_store(2, limits, Durability::Power);
    let (here, there) = (world.id_on(0, "publisher"), world.id_on(1, "subscriber"));
    let subscriber = subscribed(&mut world, &there, "t", QoS::ExactlyOnce);
    let publisher = world.connect(0, &here, Version::V5);
    world.publish(publisher, "t", b"1", QoS::ExactlyOnce, 1);
    world.commit();
    assert_eq!(world.payloads(subscriber), [b"1".to_vec()]);
    world.publish(publisher, "t", b"2", QoS::ExactlyOnce, 2);
    world.publish(publisher, "t", b"3", QoS::ExactlyOnce, 3);
    let number = |world: &World, wanted: &[u8]| {
        let found = world.records[0].iter().find_map(|record| match record {
            Record::Message { id, message, .. } if message.payload() == wanted => Some(*id),
            _ => None,
        });
        found.expect("it is recorded")
    };
    let (dropped, later) = (number(&world, b"2"), number(&world, b"3"));
    assert!(world.records[1].is_empty());
    world.commit_but(0, |_| false);
    assert!(world.records[0].is_empty(), "{:?}", world.records[0]);
    let [Record::Ended { id, .. }] = &world.records[1][..] else {
        panic!("{:?}", world.records[1]);
    };
    assert_eq!(*id, dropped);
    world.ack(subscriber, PacketType::Pubrec, 1);
    world.commit_but(1, |_| false);
    world.ack(subscriber, PacketType::Pubcomp, 1);
    let sent = |record: &Record| match record {
        Record::Outgoing { step, .. } => *step == OutgoingStep::Published(later, Part::OWN),
        _ => false,
    };
    assert!(world.records[1].iter().any(sent));
    world.commit();
    let pubrel = ack_of(PacketType::Pubrel, 1, ReasonCode::Success);
    assert_eq!(world.next(subscriber), pubrel);
    assert_eq!(world.payloads(subscriber), [b"3".to_vec()]);
    // What is refused ends with that.
    world.publish(publisher, "t", b"4", QoS::ExactlyOnce, 4);
    world.publish(publisher, "t", b"5", QoS::ExactlyOnce, 5);
    let refused = number(&world, b"4");
    world.commit_but(
        0,
        |record| matches!(record, Record::Message { id, .. } if *id == refused),
    );
    assert!(world.records[1].is_empty(), "{:?}", world.records[1]);
}

/// A message that reaches a stored session on another shard before its publisher's shard knows to ask got a number
/// there, when it arrived: greater than those of later messages that were asked about, and a restart put it behind them.
#[test]
fn what_was_not_asked_about_is_numbered_in_its_order() {
    let mut world = stored(2);
    let (here, there) = (world.id_on(0, "client"), world.id_on(1, "client"));
    let subscriber = keeper(&mut world, &there);
    // Shard 1 is interested, as far as shard 0 knows, but not for a stored session.
    let other = world.connect(1, "other", Version::V5);
    world.subscribe(other, "t", QoS::AtMostOnce);
    assert_eq!(world.clients[other].shard, 1);
    let publisher = world.connect(0, &here, Version::V5);
    world.links_flow = false;
    let at_least_once = with_qos(QoS::AtLeastOnce);
    world.send_subscribe(subscriber, "t", at_least_once, None);
    world.publish(publisher, "t", b"1", QoS::AtLeastOnce, 1);
    while world.deliver_one(1, 0) {}
    world.now.wall_ms += 8;
    world.publish(publisher, "t", b"2", QoS::AtLeastOnce, 2);
    world.now.wall_ms += 8;
    world.links_flow = true;
    world.flow();
    assert_eq!(world.payloads(subscriber), [b"1".to_vec(), b"2".to_vec()]);
    let mut stored: Vec<_> = world
        .records
        .iter()
        .flatten()
        .filter_map(|record| match record {
            Record::Message { id, message, .. } => Some((*id, message.payload().to_vec())),
            _ => None,
        })
        .collect();
    stored.sort();
    let in_order: Vec<_> = stored.into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(in_order, [b"1".to_vec(), b"2".to_vec()]);
}

/// A session had a message by its own subscription and through shared groups, and an end said only that it was one of these. The store
/// took the first: after a restart the session was without a message that it had not acknowledged.
#[test]
fn an_end_says_which_part_of_a_session_it_is() {
    let mut world = stored(1);
    let subscriber = subscribed(&mut world, "subscriber", "t", QoS::AtLeastOnce);
    let filters = ["$share/g/t", "$share/h/t"];
    for filter in filters {
        let qos = QoS::AtLeastOnce;
        let options = with_qos(qos);
        world.send_subscribe(subscriber, filter, options, None);
        world.commit();
        assert_eq!(world.next(subscriber), Some(Packet::Suback(vec![1])));
    }
    let publisher = world.connect(0, "publisher", Version::V5);
    world.publish(publisher, "t", b"x", QoS::AtLeastOnce, 1);
    let records: Vec<_> = world.records[0].iter().collect();
    let [Record::Message { receivers, .. }] = &records[..] else {
        panic!("{records:?}");
    };
    let parts: Vec<_> = receivers.iter().map(|it| it.flags.part()).collect();
    let groups = filters.map(Part::of_group);
    assert_eq!(parts, [Part::OWN, groups[0], groups[1]]);
    world.commit();
    let got = world.messages(subscriber);
    for (at, part) in parts.into_iter().enumerate().rev() {
        world.ack(subscriber, PacketType::Puback, got[at].id.expect("QoS 1"));
        let ended = world.records[0].last();
        assert!(
            matches!(ended, Some(Record::Ended { part: this, .. }) if *this == part),
            "{ended:?}"
        );
    }
}

/// Of two deliveries of a message to one session, the record of a Packet Identifier did not say for which it is: after a
/// restart it was given to the first of them, whatever its QoS.
#[test]
fn a_packet_identifier_is_recorded_for_its_part_of_a_session() {
    let mut world = stored(1);
    let subscriber = subscribed(&mut world, "subscriber", "t", QoS::AtLeastOnce);
    let qos = QoS::ExactlyOnce;
    let options = with_qos(qos);
    world.send_subscribe(subscriber, "$share/g/t", options, None);
    world.commit();
    assert_eq!(world.next(subscriber), Some(Packet::Suback(vec![2])));
    let publisher = keeper(&mut world, "publisher");
    world.publish(publisher, "t", b"x", QoS::ExactlyOnce, 1);
    world.commit_but(0, |_| false);
    let steps: Vec<_> = world.records[0].iter().collect();
    let [Record::Outgoing { step, .. }] = &steps[..] else {
        panic!("{steps:?}");
    };
    let part = Part::of_group("$share/g/t");
    assert!(
        matches!(step, OutgoingStep::Published(_, this) if *this == part),
        "{step:?}"
    );
}

#[test]
fn acknowledgements_keep_their_order() {
    let mut world = stored(1);
    subscribed(&mut world, "subscriber", "t", QoS::AtLeastOnce);
    let publisher = world.connect(0, "publisher", Version::V5);
    world.publish(publisher, "t", b"x", QoS::AtLeastOnce, 1);
    world.publish(publisher, "nobody", b"x", QoS::AtLeastOnce, 2);
    assert_eq!(world.next(publisher), None);
    world.commit();
    let first = ack_of(PacketType::Puback, 1, ReasonCode::Success);
    let second = ack_of(PacketType::Puback, 2, ReasonCode::NoMatchingSubscribers);
    assert_eq!(world.next(publisher), first);
    assert_eq!(world.next(publisher), second);
}

#[test]
fn qos_2_takes_each_step_when_the_one_before_is_durable() {
    for count in [1, 2, 4] {
        let mut world = stored(count);
        let subscriber = subscribed(&mut world, "subscriber", "t", QoS::ExactlyOnce);
        let publisher = keeper(&mut world, "publisher");
        world.publish(publisher, "t", b"x", QoS::ExactlyOnce, 7);
        assert_eq!(world.next(publisher), None, "PUBREC before its record");
        assert_eq!(world.next(subscriber), None, "PUBLISH before its record");
        // A repetition waits with the first.
        world.publish(publisher, "t", b"x", QoS::ExactlyOnce, 7);
        assert_eq!(
            world.next(publisher),
            None,
            "PUBREC of a repetition before its record"
        );
        world.commit();
        let pubrec = ack_of(PacketType::Pubrec, 7, ReasonCode::Success);
        assert_eq!(world.next(publisher), pubrec);
        assert_eq!(world.next(publisher), pubrec);
        let got = world.messages(subscriber);
        assert_eq!(got.len(), 1);
        let id = got[0].id.expect("QoS 2");
        world.ack(subscriber, PacketType::Pubrec, id);
        assert_eq!(world.next(subscriber), None, "PUBREL before its record");
        world.commit();
        let pubrel = ack_of(PacketType::Pubrel, id, ReasonCode::Success);
        assert_eq!(world.next(subscriber), pubrel);
        world.ack(subscriber, PacketType::Pubcomp, id);
        world.ack(publisher, PacketType::Pubrel, 7);
        assert_eq!(world.next(publisher), None, "PUBCOMP before its record");
        world.commit();
        let pubcomp = ack_of(PacketType::Pubcomp, 7, ReasonCode::Success);
        assert_eq!(world.next(publisher), pubcomp);
        for shard in &world.shards {
            assert_eq!(shard.waiting_count(), 0);
            shard.check_invariants();
        }
    }
}

#[test]
fn a_clean_start_waits_for_the_end_of_the_session_before() {
    let mut world = stored(1);
    keeper(&mut world, "client");
    let client = world.send_connect(0, connect("client", Version::V5));
    assert_eq!(
        world.next(client),
        None,
        "CONNACK before the end of the session"
    );
    world.commit();
    assert!(matches!(
        world.next(client),
        Some(Packet::Connack {
            session_present: false,
            ..
        })
    ));
}

#[test]
fn who_waits_too_long_for_the_store_is_refused() {
    for (version, is_new) in [(Version::V5, true), (Version::V311, false)] {
        let mut world = stored(1);
        if !is_new {
            let before = keeper_of(&mut world, "client", version);
            world.cut(before);
            world.commit();
        }
        // With a Keep Alive that ends sooner, and one that ends later.
        let keep_alive_s = if is_new { 1 } else { 60 };
        let connect = || Connect {
            keep_alive_s,
            ..persistent("client", version)
        };
        let client = world.send_connect(0, connect());
        let timeout_ms = u64::from(Limits::default().connect_timeout_ms);
        world.pass(timeout_ms - 100);
        assert_eq!(world.next(client), None);
        world.pass(200);
        assert_eq!(
            world.next(client),
            Some(Packet::Connack {
                reason: ReasonCode::ServerUnavailable,
                session_present: false
            })
        );
        assert_eq!(world.next(client), Some(Packet::Closed));
        // The disk works again, and the session is there.
        world.commit();
        let client = world.send_connect(0, connect());
        world.commit();
        assert!(matches!(
            world.next(client),
            Some(Packet::Connack {
                reason: ReasonCode::Success,
                session_present: true
            })
        ));
        world.pass(timeout_ms);
        assert_eq!(
            world.clients[client].closed, is_new,
            "its Keep Alive counts"
        );
    }
}

#[test]
fn so_is_who_is_not_read_meanwhile() {
    let not_read: [fn(&mut World, usize); 2] = [
        // The answers to what it sends behind CONNECT are too many.
        |world, client| world.send(client, &b"\xc0\x00".repeat(40_000)),
        |world, _| world.input(0, Input::StorePressure(Pressure::Hard)),
    ];
    for not_read in not_read {
        let mut world = stored(1);
        let client = world.send_connect(0, persistent("client", Version::V5));
        not_read(&mut world, client);
        world.pass(u64::from(Limits::default().connect_timeout_ms) + 200);
        assert_eq!(
            world.next(client),
            Some(Packet::Connack {
                reason: ReasonCode::ServerUnavailable,
                session_present: false
            })
        );
        assert_eq!(world.next(client), Some(Packet::Closed));
    }
}

#[test]
fn the_time_to_connack_is_that_since_connect() {
    let timeout_ms = u64::from(Limits::default().connect_timeout_ms);
    let mut world = stored(1);
    let client = world.send_connect(0, persistent("client", Version::V5));
    // A client may send before it has CONNACK (§3.1.4).
    for _ in 0..4 {
        world.pass(timeout_ms / 4 - 10);
        world.send(client, b"\xc0\x00");
    }
    assert_eq!(world.next(client), None);
    world.pass(200);
    assert!(matches!(
        world.next(client),
        Some(Packet::Connack {
            reason: ReasonCode::ServerUnavailable,
            ..
        })
    ));
}

#[test]
fn the_time_to_connack_is_no_silence_of_the_client() {
    let timeout_ms = u64::from(Limits::default().connect_timeout_ms);
    let mut world = stored(1);
    let connect = Connect {
        keep_alive_s: 2,
        ..persistent("client", Version::V5)
    };
    let client = world.send_connect(0, connect);
    world.pass(timeout_ms - 100);
    world.commit();
    assert!(matches!(
        world.next(client),
        Some(Packet::Connack {
            reason: ReasonCode::Success,
            ..
        })
    ));
    world.pass(2_000);
    assert!(!world.clients[client].closed, "it has its Keep Alive");
}

/// A connection that waits for CONNACK does not prolong the session that it would have resumed ([MQTT-4.1.0-2]).
#[test]
fn a_session_whose_time_is_over_is_not_resumed_by_who_takes_over() {
    let mut world = stored(1);
    let mut connect = persistent("client", Version::V5);
    connect.properties.session_expiry_s = Some(5);
    let mut clients = Vec::new();
    for wait_ms in [0, 4_000, 4_000] {
        world.pass(wait_ms);
        let client = world.send_connect(0, connect.clone());
        if wait_ms == 0 {
            world.commit();
            assert!(world.next(client).is_some());
            world.cut(client);
            world.commit();
        }
        clients.push(client);
    }
    world.commit();
    assert!(matches!(
        world.next(clients[2]),
        Some(Packet::Connack {
            session_present: false,
            ..
        })
    ));
}

#[test]
fn unsuback_waits_too() {
    let mut world = stored(2);
    let client = subscribed(&mut world, "client", "t", QoS::AtMostOnce);
    let mut bytes = Vec::new();
    let user = ringmq::protocol::UserProperties::default();
    let id = ringmq::protocol::PacketId::MIN;
    ringmq::protocol::Unsubscribe::encode(&mut bytes, Version::V5, id, &user, &["t"]);
    world.send(client, &bytes);
    assert_eq!(world.next(client), None, "UNSUBACK before its record");
    world.commit();
    assert_eq!(world.next(client), Some(Packet::Unsuback));
}

#[test]
fn what_the_store_refuses_is_refused_to_the_publisher() {
    for count in [1, 2] {
        let mut world = stored(count);
        let subscriber = subscribed(&mut world, "subscriber", "t", QoS::ExactlyOnce);
        let publisher = world.connect(0, "publisher", Version::V5);
        world.publish(publisher, "t", b"x", QoS::ExactlyOnce, 1);
        for shard in 0..count {
            world.commit_but(shard, |record| matches!(record, Record::Message { .. }));
        }
        let refused = ack_of(PacketType::Pubrec, 1, ReasonCode::QuotaExceeded);
        assert_eq!(world.next(publisher), refused);
        world.commit();
        assert_eq!(
            world.next(subscriber),
            None,
            "it was refused before it was sent"
        );
        let old = world.connect(0, "old", Version::V311);
        world.publish(old, "t", b"x", QoS::AtLeastOnce, 1);
        for shard in 0..count {
            world.commit_but(shard, |record| matches!(record, Record::Message { .. }));
        }
        assert_eq!(
            world.next(old),
            Some(Packet::Closed),
            "3.x has no other word for it"
        );
    }
}

/// The acknowledgement of an earlier packet waited for the store, and only behind it would the connection of a 3.x client end whose message
/// was refused. What came meanwhile was taken, and stood before the refused message when the client sent both again.
#[test]
fn nothing_passes_what_was_refused_to_a_client_of_3_1_1() {
    let mut world = stored(1);
    let subscriber = subscribed(&mut world, "subscriber", "t", QoS::AtLeastOnce);
    let publisher = keeper_of(&mut world, "publisher", Version::V311);
    world.publish(publisher, "t", b"0", QoS::ExactlyOnce, 7);
    world.commit();
    let pubrec = ack_of(PacketType::Pubrec, 7, ReasonCode::Success);
    assert_eq!(world.next(publisher), pubrec);
    world.cut(subscriber);
    world.input(0, Input::StoreState { accepting: false });
    world.ack(publisher, PacketType::Pubrel, 7);
    world.publish(publisher, "t", b"1", QoS::AtLeastOnce, 1);
    world.input(0, Input::StoreState { accepting: true });
    world.publish(publisher, "t", b"2", QoS::AtLeastOnce, 2);
    assert_eq!(world.next(publisher), Some(Packet::Closed));
    world.commit();
    let subscriber = keeper(&mut world, "subscriber");
    assert_eq!(world.payloads(subscriber), [b"0".to_vec()]);
}

/// What is stored with it does not take it along.
#[test]
fn what_was_refused_to_a_client_of_3_1_1_is_not_acknowledged() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut world = stored(1);
        let subscriber = subscribed(&mut world, "subscriber", "t", QoS::ExactlyOnce);
        world.cut(subscriber);
        let publisher = keeper_of(&mut world, "publisher", Version::V311);
        world.publish(publisher, "t", b"1", qos, 1);
        world.publish(publisher, "t", b"2", qos, 2);
        world.commit_but(
            0,
            |record| matches!(record, Record::Message { message, .. } if message.payload() == b"1"),
        );
        assert_eq!(world.next(publisher), Some(Packet::Closed));
    }
}

/// The same with what waits for the answer of another shard.
#[test]
fn nor_what_was_on_its_way() {
    let mut world = stored(2);
    let (here, there) = (world.id_on(0, "client"), world.id_on(1, "client"));
    let subscriber = subscribed(&mut world, &there, "t", QoS::AtLeastOnce);
    world.cut(subscriber);
    let publisher = world.connect(0, &here, Version::V311);
    world.links_flow = false;
    world.publish(publisher, "t", b"1", QoS::AtLeastOnce, 1);
    world.publish(publisher, "t", b"2", QoS::AtLeastOnce, 2);
    // The answer about the second is still on its way when the first is refused.
    assert!(world.deliver_one(0, 1));
    assert!(world.deliver_one(1, 0));
    let [Record::Message { .. }] = world.records[0][..] else {
        panic!("{:?}", world.records[0]);
    };
    world.commit_but(0, |_| true);
    assert_eq!(world.next(publisher), Some(Packet::Closed));
    world.input(0, Input::StoreState { accepting: true });
    world.links_flow = true;
    world.flow();
    world.commit();
    let subscriber = keeper(&mut world, &there);
    assert_eq!(world.payloads(subscriber), Vec::<Vec<u8>>::new());
}

/// Only when the message itself was refused did PUBREC free its identifier: when the store refused what was to be retained, the
/// next PUBLISH under it was taken for a repetition and went to nobody.
#[test]
fn a_refused_identifier_is_free_whatever_was_refused() {
    let mut world = stored(1);
    let subscriber = subscribed(&mut world, "subscriber", "t", QoS::AtLeastOnce);
    let publisher = keeper(&mut world, "publisher");
    let properties = PublishProperties::default;
    let qos = QoS::ExactlyOnce;
    world.publish_with(publisher, "t", b"first", qos, 1, true, properties());
    world.commit_but(0, |record| matches!(record, Record::Retained { .. }));
    let refused = ack_of(PacketType::Pubrec, 1, ReasonCode::QuotaExceeded);
    assert_eq!(world.next(publisher), refused);
    let freed = |record: &Record| matches!(record, Record::ReceivedEnded { .. });
    assert!(world.records[0].iter().any(freed), "in the store too");
    world.publish_with(publisher, "t", b"second", qos, 1, false, properties());
    world.commit();
    let accepted = ack_of(PacketType::Pubrec, 1, ReasonCode::Success);
    assert_eq!(world.next(publisher), accepted);
    assert_eq!(
        world.payloads(subscriber),
        [b"first".to_vec(), b"second".to_vec()]
    );
}

/// What a member has not acknowledged goes to the next one when it leaves, and is stored for that one before, or together with, its end
/// for the first: a crash finds it with one of them.
#[test]
fn what_a_member_leaves_is_stored_for_the_next() {
    for count in [1, 2] {
        let mut world = stored(count);
        let ids = [world.id_on(0, "first"), world.id_on(count - 1, "second")];
        let first = subscribed(&mut world, &ids[0], "$share/g/t", QoS::AtLeastOnce);
        let publisher = world.connect(0, "publisher", Version::V5);
        world.publish(publisher, "t", b"left", QoS::AtLeastOnce, 1);
        world.commit();
        assert_eq!(world.payloads(first), [b"left"]);
        let second = subscribed(&mut world, &ids[1], "$share/g/t", QoS::AtLeastOnce);
        world.cut(first);
        let mut is_stored = false;
        for record in world.records.iter().flatten() {
            match record {
                Record::Message {
                    message, receivers, ..
                } if message.payload() == b"left" => {
                    assert_eq!(receivers.len(), 1);
                    is_stored = true;
                }
                Record::Ended { .. } => assert!(is_stored, "it ends before it is stored again"),
                _ => {}
            }
        }
        assert!(is_stored, "{count} shards: {:?}", world.records);
        world.commit();
        assert_eq!(world.payloads(second), [b"left"]);
    }
}

/// A member of a group left while a message of its queue waited for the store, behind one that had to be read
/// back first. Then the store refused it, and the shard looked for it there: counted as lost, which is an alarm.
#[test]
fn what_a_member_left_may_be_refused_too() {
    let limits = Limits {
        queue_resident_max: 1,
        inflight_messages_max: 1,
        ..Limits::default()
    };
    let mut world = World::with_store(1, limits, Durability::Power);
    let first = subscribed(&mut world, "first", "$share/g/t", QoS::AtLeastOnce);
    let publisher = world.connect(0, "publisher", Version::V5);
    // One in flight, one waits in memory, one in the store alone.
    for id in 1..=3 {
        world.publish(publisher, "t", &[id], QoS::AtLeastOnce, id.into());
    }
    world.commit();
    world.publish(publisher, "t", &[4], QoS::AtLeastOnce, 4);
    let second = world.connect(0, "second", Version::V5);
    world.subscribe(second, "$share/g/t", QoS::AtLeastOnce);
    world.cut(first);
    world.commit_but(
        0,
        |record| matches!(record, Record::Message { message, .. } if message.payload() == [4]),
    );
    let dropped = world.shards[0].counters().dropped;
    assert_eq!(dropped[DropCause::Refused as usize], 1);
}

/// A message of a recovered session's window, which had not been read back, ended with the session and was not counted: a client
/// that begins anew after a crash, or whose session expires, lost QoS 2 messages that nobody was told of.
#[test]
fn what_ends_with_a_recovered_session_is_counted_once() {
    for expires in [false, true] {
        let message = |number| {
            let parts = MessageParts::new("t", QoS::ExactlyOnce, b"lost");
            Message::new(&MessageParts { number, ..parts })
        };
        let group = Part::of_group("$share/g/t");
        let parts = [
            (Part::OWN, true),
            (group, true),
            (Part::OWN, false),
            (group, false),
        ];
        let deliveries = (1..).zip(parts).map(|(number, (part, is_published))| {
            let options = DeliveryOptions {
                qos: QoS::ExactlyOnce,
                retain: false,
            };
            RecoveredDelivery {
                id: StoredMessage(number),
                bytes: message(number).bytes() as u32,
                flags: ReceiverFlags::new(options, part),
                subscription_ids: None,
                packet_id: is_published.then(|| PacketId::new(number as u16).unwrap()),
            }
        });
        let options = with_qos(QoS::ExactlyOnce);
        let subscription = |filter: &str| (filter.into(), options.bits(), None);
        let session = RecoveredSession {
            record: SessionRecord {
                session: StoredSession(1),
                client_id: "gone".into(),
                username: None,
                expiry_s: 3,
                queue_full: 0,
                disconnected_at_ms: None,
                will: None,
            },
            subscriptions: vec![subscription("t"), subscription("$share/g/t")],
            deliveries: deliveries.collect(),
            released: Vec::new(),
            received: Vec::new(),
        };
        let (limits, durability) = (Limits::default(), Durability::Power);
        let mut world = World::recovering(1, limits, durability, vec![session]);
        if expires {
            world.pass(4_000);
        } else {
            world.send_connect(0, connect("gone", Version::V5));
        }
        // What waited for it through the group would go to another member.
        let [fetch] = &world.fetches[0][..] else {
            panic!("{:?}", world.fetches);
        };
        assert_eq!(fetch.messages, [StoredMessage(4)]);
        let answer = Input::Fetched {
            token: fetch.token,
            messages: vec![(StoredMessage(4), Some(message(4)))],
        };
        world.input(0, answer);
        world.commit();
        let counters = world.shards[0].counters();
        assert_eq!(counters.dropped[DropCause::SessionEnded as usize], 3);
        assert_eq!(counters.dropped[DropCause::NoMember as usize], 1);
        assert_eq!(counters.dropped_total, 4);
    }
}

/// The store answers up to what it cannot read: what stands behind that is asked for again, and keeps its place.
#[test]
fn what_is_read_back_in_parts_keeps_its_order() {
    let message = |number: u64| {
        let payload = number.to_le_bytes();
        let parts = MessageParts::new("t", QoS::AtLeastOnce, &payload);
        Message::new(&MessageParts { number, ..parts })
    };
    for part in [Part::OWN, Part::of_group("$share/g/t")] {
        let deliveries = (1..=4).map(|number| RecoveredDelivery {
            id: StoredMessage(number),
            bytes: message(number).bytes() as u32,
            flags: ReceiverFlags::new(
                DeliveryOptions {
                    qos: QoS::AtLeastOnce,
                    retain: false,
                },
                part,
            ),
            subscription_ids: None,
            packet_id: None,
        });
        let options = with_qos(QoS::AtLeastOnce);
        let session = RecoveredSession {
            record: SessionRecord {
                session: StoredSession(1),
                client_id: "first".into(),
                username: None,
                expiry_s: 3_600,
                queue_full: 0,
                disconnected_at_ms: None,
                will: None,
            },
            subscriptions: vec![("$share/g/t".into(), options.bits(), None)],
            deliveries: deliveries.collect(),
            released: Vec::new(),
            received: Vec::new(),
        };
        let (limits, durability) = (Limits::default(), Durability::Power);
        let mut world = World::recovering(1, limits, durability, vec![session]);
        let receiver = if part == Part::OWN {
            world.send_connect(0, persistent("first", Version::V5))
        } else {
            // It leaves, and its messages go to the next.
            let second = subscribed(&mut world, "second", "$share/g/t", QoS::AtLeastOnce);
            world.send_connect(0, connect("first", Version::V5));
            second
        };
        world.commit();
        if part == Part::OWN {
            assert!(matches!(world.next(receiver), Some(Packet::Connack { .. })));
        }
        for asked in [vec![1, 2, 3, 4], vec![2, 3, 4], vec![3, 4], vec![4]] {
            let fetch = world.fetches[0].remove(0);
            let numbers: Vec<_> = fetch.messages.iter().map(|id| id.0).collect();
            assert_eq!(numbers, asked);
            let present = world.now.wall_ms - world.now.mono_ms;
            assert_eq!(fetch.wall_minus_mono_ms, present);
            world.now.wall_ms += 5_000;
            let first = (fetch.messages[0], Some(message(asked[0])));
            let (token, messages) = (fetch.token, vec![first]);
            world.input(0, Input::Fetched { token, messages });
            assert!(asked.len() == 1 || world.fetches[0].len() == 1);
        }
        world.commit();
        let all: Vec<_> = (1..=4_u64).map(|number| number.to_le_bytes()).collect();
        assert_eq!(world.payloads(receiver), all, "{part:?}");
        assert!(world.fetches[0].is_empty());
    }
}

/// A queue became empty because the store refused what was in it, and nobody looked after what was held back behind that: the next message
/// went past it.
#[test]
fn nothing_passes_what_is_held_back() {
    let limits = Limits {
        queue_messages_max: 1,
        inflight_messages_max: 1,
        queue_full: QueueFullPolicy::Hold,
        queue_hold_ms: 1_000,
        ..Limits::default()
    };
    let mut world = World::with_store(1, limits, Durability::Power);
    let subscriber = subscribed(&mut world, "subscriber", "t", QoS::AtLeastOnce);
    let publisher = world.connect(0, "publisher", Version::V5);
    // One in flight, one in the queue, one held back.
    for id in 1..=3 {
        world.publish(publisher, "t", &[id], QoS::AtLeastOnce, id.into());
    }
    world.commit_but(
        0,
        |record| matches!(record, Record::Message { message, .. } if message.payload() == [2]),
    );
    let mut got = Vec::new();
    for next in 4..=5 {
        for message in world.messages(subscriber) {
            got.push(message.payload[0]);
            world.ack(subscriber, PacketType::Puback, message.id.expect("QoS 1"));
        }
        world.publish(publisher, "t", &[next], QoS::AtLeastOnce, next.into());
        world.commit();
    }
    got.extend(world.payloads(subscriber).iter().map(|payload| payload[0]));
    assert!(got.starts_with(&[1, 3, 4]), "{got:?}");
}

/// What is held back behind a message that the store refuses is refused in turn, and goes out of the queues of others, too. One of these
/// had the first message still: it was given an identifier, which was recorded, as if it were in the store.
#[test]
fn what_is_refused_is_given_no_identifier() {
    for order in [["a", "b"], ["b", "a"]] {
        let mut world = holding_back(2);
        for id in order {
            subscribed(&mut world, id, "both", QoS::ExactlyOnce);
        }
        let of_a = with_qos(QoS::ExactlyOnce);
        let a = usize::from(order[1] == "a");
        world.send_subscribe(a, "a", of_a, None);
        world.commit();
        let publisher = world.connect(0, "publisher", Version::V5);
        // One in flight and one in the queue.
        for id in [1, 2] {
            world.publish(publisher, "a", &[id], QoS::ExactlyOnce, id.into());
            world.commit();
        }
        // One behind it, and one that is held back; the other client has both in its queue.
        for id in [3, 4] {
            world.publish(publisher, "both", &[id], QoS::ExactlyOnce, id.into());
        }
        world.input(0, Input::StoreState { accepting: false });
        world.commit_but(0, |record| matches!(record, Record::Message { .. }));
        let (kept, refused) = (ReasonCode::Success, ReasonCode::QuotaExceeded);
        for (id, reason) in [(1, kept), (2, kept), (3, refused), (4, refused)] {
            let pubrec = ack_of(PacketType::Pubrec, id, reason);
            assert_eq!(world.next(publisher), pubrec);
        }
        assert!(world.records[0].is_empty(), "{:?}", world.records[0]);
    }
}

/// Each message that the store refused made room for one that was held back, which was refused in turn, and so on: each within the one
/// before, so that a full disk and enough clients that hold back overflowed the stack.
#[test]
fn what_is_held_back_behind_what_is_refused_does_not_pile_up() {
    const CLIENTS: u16 = 100;
    const HELD_MAX: u16 = 32;
    let mut world = holding_back(1);
    let exactly_once = with_qos(QoS::ExactlyOnce);
    for n in 0..CLIENTS {
        let client = subscribed(&mut world, &n.to_string(), &n.to_string(), QoS::ExactlyOnce);
        let shared_with_the_next = format!("{n}/last");
        for topic in [format!("{}/last", n.wrapping_sub(1)), shared_with_the_next] {
            world.send_subscribe(client, &topic, exactly_once, None);
        }
    }
    world.commit();
    let publishers: Vec<_> = (0..CLIENTS)
        .map(|n| world.connect(0, &format!("publisher-{n}"), Version::V5))
        .collect();
    for (n, publisher) in (0..).zip(&publishers) {
        // The queue of each but the first has the last message of the one before.
        for id in u16::from(n > 0)..=HELD_MAX {
            let topic = if id == HELD_MAX {
                format!("{n}/last")
            } else {
                n.to_string()
            };
            world.publish(*publisher, &topic, b"x", QoS::ExactlyOnce, id + 1);
        }
    }
    world.input(0, Input::StoreState { accepting: false });
    world.commit_but(0, |record| matches!(record, Record::Message { .. }));
    let held = u64::from(CLIENTS * HELD_MAX);
    let refused = world.shards[0].counters().dropped[DropCause::Refused as usize];
    assert_eq!(refused, 1 + held + u64::from(CLIENTS - 1));
}

fn user_property(key: &str, value: &str) -> Vec<u8> {
    let mut raw = vec![0x26];
    for text in [key, value] {
        raw.extend_from_slice(&(text.len() as u16).to_be_bytes());
        raw.extend_from_slice(text.as_bytes());
    }
    raw
}

#[test]
fn connack_says_what_is_promised_for_the_session_to_who_asks() {
    let asks = user_property("ringmq-durability", "?");
    for (durability, of_stored) in [
        (Durability::Power, "power"),
        (Durability::Process, "process"),
        (Durability::None, "none"),
    ] {
        for (is_kept, asked) in [(true, true), (false, true), (true, false)] {
            let mut world = World::with_store(1, Limits::default(), durability);
            let mut packet = match is_kept {
                true => persistent("client", Version::V5),
                false => connect("client", Version::V5),
            };
            if asked {
                packet.properties.user = UserProperties::from_raw(&asks).expect("well-formed");
            }
            let client = world.send_connect(0, packet);
            world.commit();
            let inbox = std::mem::take(&mut world.clients[client].inbox);
            let Ok(Cut::Packet { body, .. }) = cut(&inbox, usize::MAX) else {
                panic!("no CONNACK");
            };
            let connack = Connack::decode(Version::V5, body).expect("CONNACK");
            let said: Vec<_> = connack.properties.user.clone().collect();
            let promised = if is_kept { of_stored } else { "none" };
            let due = [("ringmq-durability", promised)];
            assert_eq!(said, if asked { &due[..] } else { &[] });
        }
    }
}

#[test]
fn a_client_may_say_what_its_full_queue_does() {
    for (said, kept) in [
        ("drop-newest", ["1", "2"]),
        ("drop-oldest", ["2", "3"]),
        ("something", ["2", "3"]),
    ] {
        let limits = Limits {
            queue_messages_max: 2,
            queue_full: QueueFullPolicy::DropOldest,
            ..Limits::default()
        };
        let mut world = World::with_limits(1, limits);
        let chooses = user_property("ringmq-queue-full", said);
        let mut packet = persistent("client", Version::V5);
        packet.properties.user = UserProperties::from_raw(&chooses).expect("well-formed");
        let client = world.connect_with(0, packet);
        world.subscribe(client, "t", QoS::AtLeastOnce);
        world.cut(client);
        let publisher = world.connect(0, "publisher", Version::V5);
        for payload in ["1", "2", "3"] {
            world.publish(publisher, "t", payload.as_bytes(), QoS::AtLeastOnce, 1);
        }
        let (client, is_present) = world.reconnect(0, persistent("client", Version::V5));
        assert!(is_present);
        assert_eq!(
            world.payloads(client),
            kept.map(|text| text.as_bytes().to_vec())
        );
    }
}

#[test]
fn a_full_queue_may_refuse_or_hold() {
    for (policy, count) in [
        (QueueFullPolicy::Refuse, 1),
        (QueueFullPolicy::Refuse, 2),
        (QueueFullPolicy::Hold, 1),
        (QueueFullPolicy::Hold, 2),
    ] {
        let limits = Limits {
            queue_messages_max: 1,
            queue_full: policy,
            queue_hold_ms: 1_000,
            ..Limits::default()
        };
        let mut world = World::with_store(count, limits, Durability::Process);
        let subscriber = subscribed(&mut world, "subscriber", "t", QoS::AtLeastOnce);
        world.cut(subscriber);
        let publisher = world.connect(0, "publisher", Version::V5);
        world.publish(publisher, "t", b"1", QoS::AtLeastOnce, 1);
        world.publish(publisher, "t", b"2", QoS::AtLeastOnce, 2);
        world.commit();
        let accepted = ack_of(PacketType::Puback, 1, ReasonCode::Success);
        assert_eq!(world.next(publisher), accepted);
        let refused = ack_of(PacketType::Puback, 2, ReasonCode::QuotaExceeded);
        if policy == QueueFullPolicy::Hold {
            assert_eq!(world.next(publisher), None, "it is held back");
            world.pass(1_100);
            world.commit();
        }
        assert_eq!(world.next(publisher), refused);
    }
}

/// A receiver acknowledged what another one of its shard held back. Its end went to the store ahead of the message, and stayed there when
/// that was refused.
#[test]
fn who_is_done_with_what_is_held_back_is_not_recorded() {
    for is_refused in [true, false] {
        let limits = Limits {
            queue_messages_max: 1,
            inflight_messages_max: 1,
            queue_full: QueueFullPolicy::Hold,
            queue_hold_ms: 1_000,
            ..Limits::default()
        };
        let mut world = World::with_store(2, limits, Durability::Power);
        let [slow, quick, here] =
            [(1, "slow"), (1, "quick"), (0, "here")].map(|(shard, id)| world.id_on(shard, id));
        let slow = subscribed(&mut world, &slow, "t", QoS::AtLeastOnce);
        let quick = subscribed(&mut world, &quick, "t", QoS::AtLeastOnce);
        let publisher = world.connect(0, &here, Version::V5);
        // One in flight, one in the queue, one held back.
        for id in 1..=3 {
            world.publish(publisher, "t", &[id as u8], QoS::AtLeastOnce, id);
            for message in world.messages(quick) {
                world.ack(quick, PacketType::Puback, message.id.expect("QoS 1"));
            }
            if id < 3 {
                world.pass(100);
                world.commit();
                let accepted = ack_of(PacketType::Puback, id, ReasonCode::Success);
                assert_eq!(world.next(publisher), accepted);
            }
        }
        let is_empty = |world: &World| world.records.iter().all(Vec::is_empty);
        assert!(is_empty(&world), "{:?}", world.records);
        if is_refused {
            world.pass(1_100);
            let refused = ack_of(PacketType::Puback, 3, ReasonCode::QuotaExceeded);
            assert_eq!(world.next(publisher), refused);
            assert!(is_empty(&world), "{:?}", world.records);
            continue;
        }
        let first = world.messages(slow).remove(0);
        world.ack(slow, PacketType::Puback, first.id.expect("QoS 1"));
        let receivers = world.records[0].iter().map(|record| match record {
            Record::Message { receivers, .. } => receivers.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(receivers.collect::<Vec<_>>(), [1], "the quick one is done");
    }
}

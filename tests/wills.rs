//! Wills and the store: a CONNECT that was never granted has none, and one that goes out while the disk fails is not forgotten.

mod world;

use ringmq::config::limits::Limits;
use ringmq::protocol::connect::Will;
use ringmq::protocol::{Connect, PublishProperties, QoS, ReasonCode, Version};
use ringmq::shard::record::{Durability, Record, SessionRecord};
use world::{Packet, World, nothing, persistent};

fn will(payload: &[u8], delay_s: u32) -> Will<'_> {
    Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "wills",
        payload,
        delay_s,
        message_expiry_s: None,
        forward: nothing(),
    }
}

fn with_will<'a>(payload: &'a [u8], delay_s: u32) -> Connect<'a> {
    Connect {
        will: Some(will(payload, delay_s)),
        ..persistent("client", Version::V5)
    }
}

/// A broker with a store, and who sees the Wills.
fn watched() -> (World, usize) {
    let mut world = World::with_store(1, Limits::default(), Durability::Power);
    let watcher = world.connect(0, "watcher", Version::V5);
    world.subscribe(watcher, "wills", QoS::AtMostOnce);
    (world, watcher)
}

fn granted(world: &mut World, connect: Connect<'_>) -> usize {
    let client = world.send_connect(0, connect);
    world.commit();
    assert!(matches!(world.next(client), Some(Packet::Connack { .. })));
    client
}

/// The last that was recorded of the session of `client`.
fn recorded(world: &World) -> &SessionRecord {
    let last = world.records[0]
        .iter()
        .rev()
        .find_map(|record| match record {
            Record::Session(session) if &*session.client_id == "client" => Some(session),
            _ => None,
        });
    last.expect("a record of the session")
}

const TIMEOUT_MS: u64 = 10_100;

/// How a connection ends whose CONNACK has not left.
#[derive(Clone, Copy, Debug)]
enum Ends {
    TimesOut,
    BreaksOff,
    IsTakenOver,
}

fn end(world: &mut World, client: usize, ends: Ends) -> Option<usize> {
    match ends {
        Ends::TimesOut => {
            world.pass(TIMEOUT_MS);
            let refused = Packet::Connack {
                reason: ReasonCode::ServerUnavailable,
                session_present: false,
            };
            assert_eq!(world.next(client), Some(refused));
        }
        Ends::BreaksOff => world.cut(client),
        Ends::IsTakenOver => return Some(world.send_connect(0, persistent("client", Version::V5))),
    }
    None
}

const ALL: [Ends; 3] = [Ends::TimesOut, Ends::BreaksOff, Ends::IsTakenOver];

/// The Will of a CONNECT that the store did not take in time was published, though no connection had been accepted (§3.1.2.5).
#[test]
fn a_connection_that_was_never_granted_has_no_will() {
    for ends in ALL {
        for is_new in [true, false] {
            let (mut world, watcher) = watched();
            if !is_new {
                let before = granted(&mut world, persistent("client", Version::V5));
                world.disconnect(before);
                world.commit();
            }
            let client = world.send_connect(0, with_will(b"never here", 0));
            end(&mut world, client, ends);
            assert_eq!(world.payloads(watcher), Vec::<Vec<u8>>::new(), "{ends:?}");
            assert!(recorded(&world).will.is_none(), "{ends:?}");
            world.commit();
            world.pass(60_000);
            assert_eq!(world.payloads(watcher), Vec::<Vec<u8>>::new(), "{ends:?}");
        }
    }
}

/// It also ended the wait of the Will of the connection before, which was then never published ([MQTT-3.1.3-9] speaks of a new
/// connection).
#[test]
fn the_will_of_the_connection_before_waits_on() {
    for ends in [Ends::TimesOut, Ends::BreaksOff] {
        let (mut world, watcher) = watched();
        let before = granted(&mut world, with_will(b"gone", 30));
        world.cut(before);
        world.commit();
        let client = world.send_connect(0, with_will(b"never here", 0));
        end(&mut world, client, ends);
        let recorded = recorded(&world).will.as_ref().expect("it waits on");
        assert_eq!(recorded.message.payload(), b"gone");
        world.commit();
        assert_eq!(world.payloads(watcher), Vec::<Vec<u8>>::new(), "{ends:?}");
        // Its time has run on meanwhile.
        world.pass(30_000);
        assert_eq!(world.payloads(watcher), [b"gone"], "{ends:?}");
    }
    // What has become due while the store was waited for goes out then.
    let (mut world, watcher) = watched();
    let before = granted(&mut world, with_will(b"gone", 5));
    world.cut(before);
    world.commit();
    let client = world.send_connect(0, with_will(b"never here", 0));
    end(&mut world, client, Ends::TimesOut);
    assert_eq!(world.payloads(watcher), [b"gone"]);
    // A connection that is accepted in the end discards it, also after one that was not.
    let (mut world, watcher) = watched();
    let before = granted(&mut world, with_will(b"gone", 30));
    world.cut(before);
    world.commit();
    let never = world.send_connect(0, with_will(b"never here", 0));
    let client = end(&mut world, never, Ends::IsTakenOver).expect("the one that took over");
    world.commit();
    assert!(matches!(world.next(client), Some(Packet::Connack { .. })));
    world.pass(60_000);
    assert_eq!(world.payloads(watcher), Vec::<Vec<u8>>::new());
}

/// A CONNECT that asked for a session of no length, and was refused, ended the one that was there.
#[test]
fn a_session_stays_as_it_was_before_a_connect_that_was_refused() {
    let (mut world, _) = watched();
    let before = granted(&mut world, persistent("client", Version::V5));
    world.disconnect(before);
    world.commit();
    let mut short = persistent("client", Version::V5);
    short.properties.session_expiry_s = None;
    let client = world.send_connect(0, short);
    end(&mut world, client, Ends::TimesOut);
    world.commit();
    let (_, is_present) = {
        let client = world.send_connect(0, persistent("client", Version::V5));
        world.commit();
        match world.next(client) {
            Some(Packet::Connack {
                session_present, ..
            }) => (client, session_present),
            other => panic!("{other:?}"),
        }
    };
    assert!(is_present);
}

/// Who takes its leave of a connection that is not granted yet was there.
#[test]
fn what_a_client_says_before_its_connack_holds() {
    let (mut world, watcher) = watched();
    let before = granted(&mut world, with_will(b"gone", 30));
    world.cut(before);
    world.commit();
    let client = world.send_connect(0, with_will(b"with a word", 0));
    // DISCONNECT with Will Message.
    world.send(client, &[0xe0, 1, 4]);
    assert_eq!(world.payloads(watcher), [b"with a word"]);
    world.commit();
    world.pass(60_000);
    assert_eq!(world.payloads(watcher), Vec::<Vec<u8>>::new());
}

/// What was to be retained while the disk failed was refused, by a Will or at QoS 0 to nobody: the store kept the message before it, and
/// the next start retained that again.
#[test]
fn what_nobody_can_be_told_of_is_not_refused() {
    let can_be = |world: &World| -> Vec<bool> {
        let retained = world.records[0].iter().filter_map(|record| match record {
            Record::Retained { refusable, .. } => Some(*refusable),
            _ => None,
        });
        retained.collect()
    };
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (mut world, _) = watched();
        let connect = Connect {
            will: Some(Will {
                qos,
                retain: true,
                ..will(b"offline", 0)
            }),
            ..persistent("client", Version::V5)
        };
        let client = granted(&mut world, connect);
        let properties = PublishProperties::default();
        let id = u16::from(qos != QoS::AtMostOnce);
        world.publish_with(client, "state", b"online", qos, id, true, properties);
        assert_eq!(can_be(&world), [qos != QoS::AtMostOnce], "{qos:?}");
        world.commit();
        world.cut(client);
        assert_eq!(can_be(&world), [false], "{qos:?}");
    }
}

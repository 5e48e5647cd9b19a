//! Who comes in, against clients on real sockets.

use super::tests::{Cores, RING, Seen};
use super::*;
use crate::config::limits::NO_LIMIT;
use crate::config::listener::{ListenerSpec, WebSocketSpec};
use crate::mesh::link::LinkConfig;
use crate::net::live::Parts;
use crate::net::transport::Door;
use socket2::SockRef;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};

fn tcp() -> ListenerSpec {
    ListenerSpec::tcp("test", (Ipv4Addr::LOCALHOST, 0).into())
}

fn core(spec: ListenerSpec) -> Cores {
    let door = Arc::new(Door::open(spec).unwrap());
    Cores::behind(&door, 1, RING, LinkConfig::default())
}

/// As SIGHUP does.
fn set_limits(cores: &mut Cores, limits: Limits) {
    let live = Arc::clone(&cores.drivers[0].live);
    live.replace(Parts {
        limits: Arc::new(limits),
        ..live.parts()
    });
    cores.settle();
}

fn accepted(cores: &Cores) -> u64 {
    cores.drivers[0].counters.accepted.get()
}

/// Connects, says something, and is gone with a reset before the core looks.
fn come_and_go(cores: &Cores, bytes: &[u8]) {
    let mut client = TcpStream::connect(cores.address).unwrap();
    client.write_all(bytes).unwrap();
    let no_linger = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    no_linger.unwrap();
}

#[test]
fn who_resets_before_it_is_accepted_is_not_taken_for_nobody() {
    let here = || vec!["127.0.0.0/8".parse().unwrap()];
    let denied = ListenerSpec {
        deny: here(),
        ..tcp()
    };
    let not_allowed = ListenerSpec {
        allow: vec!["10.0.0.0/8".parse().unwrap()],
        ..tcp()
    };
    let behind_proxies = ListenerSpec {
        websocket: Some(WebSocketSpec {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..WebSocketSpec::default()
        }),
        ..denied.clone()
    };
    for spec in [denied, not_allowed, behind_proxies] {
        let mut cores = core(spec);
        come_and_go(&cores, b"in");
        cores.settle();
        assert_eq!(cores.drivers[0].shard.seen, []);
        let counters = &cores.drivers[0].counters;
        assert_eq!(
            (counters.accepted.get(), counters.turned_away.get()),
            (1, 1)
        );
    }
    // Bans and limits of addresses too.
    let mut cores = core(tcp());
    set_limits(
        &mut cores,
        Limits {
            connect_rate_per_address_max: 1_000,
            ..Limits::default()
        },
    );
    come_and_go(&cores, b"in");
    cores.settle();
    assert_eq!(cores.drivers[0].shard.seen, []);
    assert_eq!(cores.drivers[0].counters.turned_away.get(), 1);
    // Where nobody asks who it is, it is served as ever.
    set_limits(&mut cores, Limits::default());
    come_and_go(&cores, b"in");
    cores.settle();
    assert!(cores.drivers[0].shard.seen.contains(&Seen::Received(2)));
}

#[test]
fn a_backlog_comes_in_at_the_rate() {
    let with_rate = |connect_rate_max| Limits {
        connect_rate_max,
        ..Limits::default()
    };
    let mut cores = core(tcp());
    set_limits(&mut cores, with_rate(2));
    let _clients: Vec<_> = (0..40)
        .map(|_| TcpStream::connect(cores.address).unwrap())
        .collect();
    cores.settle();
    let at_once = accepted(&cores);
    assert!((2..=4).contains(&at_once), "{at_once} at once");
    for second in 1..=3 {
        cores.now.mono_ms += 1_000;
        cores.settle();
        let since = accepted(&cores) - at_once;
        assert!(
            (2 * second - 1..=2 * second).contains(&since),
            "{since} after {second} s"
        );
    }
    // What waits for a second yet comes in at once when it may.
    let before = accepted(&cores);
    set_limits(&mut cores, with_rate(10));
    let since = accepted(&cores) - before;
    assert!((10..=12).contains(&since), "{since} at the new rate");
    set_limits(&mut cores, with_rate(NO_LIMIT));
    assert_eq!(accepted(&cores), 40);
}

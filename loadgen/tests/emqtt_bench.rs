//! Commands written for emqtt-bench do here what they do there. The commands are those of its README and of
//! documents about it, with the name of the program left out.

use loadgen::cli::{self, Cli, Verb};
use loadgen::given::Secret;
use loadgen::worker::Load;
use std::time::Duration;

fn parse(command: &str) -> Cli {
    let words = std::iter::once("loadgen").chain(command.split_whitespace());
    let read = cli::read(words.map(Into::into).collect());
    // Without the files that it names.
    let mut cli = read.unwrap_or_else(|error| panic!("{command}: {error}"));
    cli::check(&mut cli.verb).unwrap_or_else(|error| panic!("{command}: {error}"));
    cli
}

/// What a command comes to: clients, their connects per second, QoS, and messages per second.
#[derive(Debug, PartialEq)]
struct Come {
    clients: u32,
    connects: Option<f64>,
    qos: u8,
    rate: f64,
}

fn come(command: &str) -> Come {
    let (common, clients, qos, rate) = match parse(command).verb {
        Verb::Conn(args) => (args.common, args.count, 0, 0.0),
        Verb::Sub(args) => (args.common, args.count, args.qos, 0.0),
        Verb::Pub(args) => {
            let Load::Open(profile) = args.load.pacing(args.count).load else {
                panic!("{command} is an open loop")
            };
            (args.common, args.count, args.load.qos, profile.rate_max())
        }
        other => panic!("{other:?}"),
    };
    Come {
        clients,
        connects: common.connect_rate(),
        qos,
        rate,
    }
}

#[test]
fn each_example_comes_to_the_plan_it_describes() {
    let table = [
        ("conn -c 50000 -i 10", 50_000, Some(100.0), 0, 0.0),
        ("conn -h 127.0.0.1 -c 1000", 1_000, None, 0, 0.0),
        (
            "conn -c 100 -R 50 -n 1000 --prefix a -s",
            100,
            Some(50.0),
            0,
            0.0,
        ),
        (
            "sub -c 50000 -i 10 -t bench/%i -q 2",
            50_000,
            Some(100.0),
            2,
            0.0,
        ),
        ("sub -t t -h localhost -c 500", 500, None, 0, 0.0),
        (
            "sub -t test -p 1887 -u smqtt -P smqtt -c 5000 -i 4 -q 0",
            5_000,
            Some(250.0),
            0,
            0.0,
        ),
        (
            "sub -t $share/group1/device/+/telemetry -c 2 -u test -P password@123",
            2,
            None,
            0,
            0.0,
        ),
        (
            "sub -c 200000 -t perf/test --ifaddr 192.168.200.18,192.168.200.19,192.168.200.20",
            200_000,
            None,
            0,
            0.0,
        ),
        (
            "pub -c 100 -I 10 -t bench/%i -s 256",
            100,
            None,
            0,
            10_000.0,
        ),
        (
            "pub -t t -h localhost -s 16 -q 0 -c 10 -I 10",
            10,
            None,
            0,
            1_000.0,
        ),
        (
            "sub -c 100 -i 10 -t bench/%i -p 8883 --ssl",
            100,
            Some(100.0),
            0,
            0.0,
        ),
        (
            "pub -c 100 -I 10 -t bench/%i -p 8883 -s 256 --ssl",
            100,
            None,
            0,
            10_000.0,
        ),
        (
            "sub -c 100 -i 10 -t bench/%i -p 8883 --ssl --certfile client.pem --keyfile client.key",
            100,
            Some(100.0),
            0,
            0.0,
        ),
        ("pub -c 10 -t a -S true --ws", 10, None, 0, 10.0),
        ("pub -t t/1 -c 1 -I 1", 1, None, 0, 1_000.0),
        (
            "pub -t test -p 1887 -u smqtt -P smqtt -s 1024 -q 0 -c 1 -I 1000 -i 2 -L 1000000",
            1,
            Some(500.0),
            0,
            1.0,
        ),
        (
            "pub -t device/%i/telemetry -c 10000 -m payload -u test -P password@123",
            10_000,
            None,
            0,
            10_000.0,
        ),
        (
            "pub -c 5 -t bench/%u/%c -q 1 -r -C false -x 60 -k 30 -F 10 -w true -l -V 5 -I 100",
            5,
            None,
            1,
            50.0,
        ),
    ];
    for (command, clients, connects, qos, rate) in table {
        let expected = Come {
            clients,
            connects,
            qos,
            rate,
        };
        assert_eq!(come(command), expected, "{command}");
    }
}

#[test]
fn letters_mean_what_they_mean_there() {
    let Verb::Pub(args) = parse(
        "pub -h h -p 1884 -V 3 -c 7 -n 40 -u me -P pw -t a/%i -s 20 -q 2 -r -k 7 -C false -x 9 -L 30 \
         --prefix z --ifaddr 127.0.0.2 -F 0 -w -I 5 -i 50",
    )
    .verb
    else {
        panic!("the verb is pub")
    };
    let target = &args.common.target;
    assert_eq!(
        (target.host.as_str(), target.port, target.mqtt_version),
        ("h", Some(1_884), 3)
    );
    assert_eq!((args.count, args.common.startnumber), (7, 40));
    assert_eq!(target.username.as_deref(), Some("me"));
    assert_eq!(target.password.as_ref().map(Secret::reveal), Some("pw"));
    assert_eq!(
        (args.topic.as_str(), args.load.size, args.load.qos),
        ("a/%i", 20, 2)
    );
    assert!(args.retain && !args.common.clean && args.wait_before_publishing);
    assert_eq!(
        (args.common.keepalive, args.common.session_expiry),
        (7, Some(9))
    );
    assert_eq!((args.limit, args.load.inflight), (30, Some(0)));
    assert_eq!(target.prefix.as_deref(), Some("z"));
    assert_eq!(args.load.message_interval, Some(Duration::from_millis(5)));
    assert_eq!(args.common.interval, Some(Duration::from_millis(50)));
    let Verb::Pub(args) = parse("pub -t a -r false -C -m hi%i").verb else {
        panic!("the verb is pub")
    };
    assert!(!args.retain && args.common.clean);
    assert_eq!(args.message.as_deref(), Some("hi%i"));
    // What emqtt-bench itself refuses is refused.
    assert!(cli::parse(["loadgen", "pub", "--ifaddr", "192.168.1.10"]).is_err());
}

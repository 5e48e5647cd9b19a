//! Runs through TLS, WebSocket and a unix socket, against ringmq in this process.

use ringmq::cert::{DevCertificates, dev};
use ringmq::config::listener::{Bind, CertificateSpec, ListenerSpec, TlsSpec, WebSocketSpec};
use ringmq::net::ring::RingConfig;
use ringmq::server::cores::{CoreConfig, Cores};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn every_verb_s_links_go_through_every_transport() {
    let dir =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("transport-{}", std::process::id()));
    let files = dev(&DevCertificates {
        dir: dir.clone(),
        hosts: vec!["localhost".into()],
        client: "loadgen".into(),
        days: 30,
        force: true,
    })
    .expect("the directory for tests is writable");
    let (certificate, key) = files.server;
    let tls = TlsSpec {
        certificates: vec![CertificateSpec { certificate, key }],
        ..TlsSpec::default()
    };
    let plain = ListenerSpec::tcp("test", (Ipv4Addr::LOCALHOST, 0).into());
    let socket = dir.join("socket");
    let listeners = vec![
        ListenerSpec {
            tls: Some(tls.clone()),
            ..plain.clone()
        },
        ListenerSpec {
            websocket: Some(WebSocketSpec::default()),
            ..plain.clone()
        },
        ListenerSpec {
            tls: Some(tls),
            websocket: Some(WebSocketSpec::default()),
            ..plain.clone()
        },
        ListenerSpec {
            bind: Bind::Unix {
                path: socket.clone(),
                mode: 0o600,
            },
            ..plain.clone()
        },
        plain,
    ];
    let cores = Cores::start(&CoreConfig {
        shard_count: 2,
        pin: false,
        listeners,
        limits: Arc::default(),
        placement_key: [3; 16],
        hash_seed: 1,
        random_seed: 2,
        log: None,
        log_clients: false,
        ring: RingConfig::default(),
        link: None,
        rules: ringmq::access::RulesInForce::default(),
        judges: None,
        store: None,
    })
    .expect("the broker starts");
    let port = |at: usize| match &cores.addresses()[at] {
        Bind::Tcp(address) => address.port(),
        Bind::Unix { .. } => panic!("a unix socket"),
    };
    let ca = files.ca.to_str().expect("the path is text");
    let [tls_port, websocket_port, both_port, plain_port] =
        [0, 1, 2, 4].map(|at| port(at).to_string());
    let loadgen = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(args)
            .output();
        let output = output.expect("it can be started");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    let run = "pubsub --rate 2000 -q 1 -s 200 -d 1s --warmup 100ms --verify -Q";
    let churn = "churn -c 8 -d 1s --warmup 100ms --verify";
    let closed = "pubsub --closed-loop -F 16 -s 40000 -d 1s --warmup 100ms --verify -Q";
    for transport in [
        vec!["-h", "localhost", "-p", &tls_port, "-S", "--cafile", ca],
        vec![
            "--url",
            &format!("mqtts://localhost:{tls_port}"),
            "--insecure",
        ],
        vec!["--url", &format!("ws://localhost:{websocket_port}/mqtt")],
        vec![
            "--url",
            &format!("wss://localhost:{both_port}/mqtt"),
            "--cafile",
            ca,
        ],
        vec!["--unix", socket.to_str().expect("the path is text")],
        vec!["--url", &format!("mqtt://localhost:{plain_port}")],
    ] {
        for verb in [run, churn, closed] {
            let args: Vec<_> = verb.split(' ').chain(transport.iter().copied()).collect();
            let (status, said) = loadgen(&args);
            assert_eq!(status, Some(0), "{args:?}: {said}");
        }
    }
    // What does not fit is an error that says what.
    let (status, said) = loadgen(&[
        "conn",
        "-c",
        "1",
        "-h",
        "127.0.0.1",
        "-p",
        &tls_port,
        "--cafile",
        ca,
    ]);
    assert!(
        status != Some(0) && said.contains("not valid for the server's name"),
        "{said}"
    );
    let (status, said) = loadgen(&[
        "conn",
        "-c",
        "1",
        "-h",
        "localhost",
        "-p",
        &tls_port,
        "--cafile",
        "/nowhere",
    ]);
    assert!(
        status != Some(0) && said.contains("/nowhere: cannot be read"),
        "{said}"
    );
    cores.shutdown(Duration::from_secs(5));
    std::fs::remove_dir_all(&dir).expect("it is this test's own");
}

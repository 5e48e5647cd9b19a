//! A TLS session that gets a client's first flight with damage, in pieces, with closes in between.
//!
//! Input: how many of the following are operations, the operations, the sizes of pieces. What must hold: nothing panics,
//! least of all inside rustls, whose unbuffered interface trusts its caller.

use crate::input::Input;
use ringmq::cert::{DevCertificates, dev};
use ringmq::config::listener::{CertificateSpec, ListenerSpec, TlsSpec};
use ringmq::net::transport::client::{ClientRoute, ClientTransport};
use ringmq::net::transport::tls_files::{ClientTlsSpec, client_config};
use ringmq::net::transport::{Admitted, Door, Scratch};
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};

struct Sides {
    door: Arc<Door>,
    route: ClientRoute,
}

/// Runs one input.
pub fn run(data: &[u8]) {
    static SIDES: OnceLock<Sides> = OnceLock::new();
    let Sides { door, route } = SIDES.get_or_init(sides);
    let mut input = Input::new(data);
    let Some(Admitted::Through(mut server)) = door.admit(None) else {
        panic!("the listener admits everybody")
    };
    let mut client = ClientTransport::new(route, 1).expect("the configuration works");
    let mut scratch = Scratch::default();
    client.start(&mut scratch).expect("nothing was received");
    let mut to_server = scratch.wire.clone();
    let mut to_client = Vec::new();
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0 if !to_server.is_empty() => {
                let at = usize::from(input.u16()) % to_server.len();
                to_server[at] ^= input.byte();
            }
            1 => {
                let count = input.below(32);
                to_server.extend_from_slice(input.take(count));
            }
            2 => {
                // A record of a part of what follows.
                let len = (1 + input.below(200)).min(to_server.len());
                let part: Vec<u8> = to_server.drain(..len).collect();
                let head = [0x16, 3, 1, 0, len as u8];
                let record = [&head[..], &part].concat();
                to_server.splice(..0, record);
            }
            3 => {
                server.farewell(None, &mut scratch);
                to_client.extend_from_slice(&scratch.wire);
            }
            4 => {
                let _ = server.seal([&b"hello"[..]].into_iter(), &mut scratch);
                to_client.extend_from_slice(&scratch.wire);
            }
            5 => {
                let _ = client.receive(&std::mem::take(&mut to_client), &mut scratch);
                to_server.extend_from_slice(&scratch.wire);
            }
            6 if client.is_open() => {
                let _ = client.seal([&b"hello"[..]].into_iter(), &mut scratch);
                to_server.extend_from_slice(&scratch.wire);
            }
            _ => {
                let len = (1 + usize::from(input.u16())).min(to_server.len());
                let piece: Vec<u8> = to_server.drain(..len).collect();
                let _ = server.receive(&piece, &mut scratch);
                to_client.extend_from_slice(&scratch.wire);
            }
        }
    }
}

fn sides() -> Sides {
    let dir = std::env::temp_dir().join(format!("ringmq-fuzz-{}", std::process::id()));
    let files = dev(&DevCertificates {
        dir: dir.clone(),
        hosts: vec!["localhost".into()],
        client: "c".into(),
        days: 365,
        force: true,
    })
    .expect("the temporary directory is writable");
    let (certificate, key) = files.server;
    let spec = ListenerSpec {
        tls: Some(TlsSpec {
            certificates: vec![CertificateSpec { certificate, key }],
            ..TlsSpec::default()
        }),
        ..ListenerSpec::tcp("fuzz", (Ipv4Addr::LOCALHOST, 0).into())
    };
    let client = ClientTlsSpec {
        ca_files: vec![files.ca],
        ..ClientTlsSpec::default()
    };
    let name = "localhost".try_into().expect("it is a name");
    let sides = Sides {
        door: Arc::new(Door::open(spec).expect("the files are right")),
        route: ClientRoute {
            tls: Some((client_config(&client).expect("the files are right"), name)),
            websocket: None,
        },
    };
    let _ = std::fs::remove_dir_all(dir);
    sides
}

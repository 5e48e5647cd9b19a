//! A listener whose connections are carried to a broker through a transport: what speaks plain MQTT to it, speaks
//! TLS or WebSocket to the broker.

use ringmq::net::transport::client::{ClientRoute, ClientTransport};
use ringmq::net::transport::{Heard, Scratch};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Opens one that lives as long as the process, and returns where it listens.
pub(crate) fn open(broker: SocketAddr, route: ClientRoute) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let route = route.clone();
            thread::spawn(move || carry(near, broker, &route));
        }
    });
    address
}

/// One connection, until both sides have ended. Errors end it, as they would end a plain one.
fn carry(near: TcpStream, broker: SocketAddr, route: &ClientRoute) -> Option<()> {
    let mut far = TcpStream::connect(broker).ok()?;
    let mut scratch = Scratch::default();
    let mut transport = ClientTransport::new(route, 1).ok()?;
    transport.start(&mut scratch).ok()?;
    far.write_all(&scratch.wire).ok()?;
    let mut chunk = vec![0; 16 << 10];
    while !transport.is_open() {
        let count = far.read(&mut chunk).ok().filter(|count| *count > 0)?;
        transport.receive(&chunk[..count], &mut scratch).ok()?;
        far.write_all(&scratch.wire).ok()?;
    }
    let shared = Arc::new(Mutex::new(transport));
    let forth = {
        let (near, far, shared) = (
            near.try_clone().ok()?,
            far.try_clone().ok()?,
            Arc::clone(&shared),
        );
        thread::spawn(move || carry_forth(near, far, &shared))
    };
    carry_back(&near, far, &shared);
    let _ = near.shutdown(Shutdown::Write);
    let _ = forth.join();
    Some(())
}

fn carry_forth(mut near: TcpStream, mut far: TcpStream, shared: &Mutex<ClientTransport>) {
    let (mut scratch, mut chunk) = (Scratch::default(), vec![0; 16 << 10]);
    loop {
        let count = near.read(&mut chunk).unwrap_or(0);
        let mut transport = shared.lock().expect("no holder of this lock panics");
        if count == 0 {
            scratch.clear();
            transport.close(None, &mut scratch);
            let _ = far.write_all(&scratch.wire);
            let _ = far.shutdown(Shutdown::Write);
            return;
        }
        let mut rest = &chunk[..count];
        while !rest.is_empty() {
            match transport.seal([rest].into_iter(), &mut scratch) {
                Ok(taken @ 1..) if far.write_all(&scratch.wire).is_ok() => rest = &rest[taken..],
                _ => return,
            }
        }
    }
}

fn carry_back(mut near: &TcpStream, mut far: TcpStream, shared: &Mutex<ClientTransport>) {
    let (mut scratch, mut chunk) = (Scratch::default(), vec![0; 16 << 10]);
    loop {
        let count = far.read(&mut chunk).unwrap_or(0);
        if count == 0 {
            return;
        }
        let mut transport = shared.lock().expect("no holder of this lock panics");
        let heard = transport.receive(&chunk[..count], &mut scratch);
        let _ = far.write_all(&scratch.wire);
        drop(transport);
        if near.write_all(&scratch.clear).is_err() || heard != Ok(Heard::Open) {
            return;
        }
    }
}

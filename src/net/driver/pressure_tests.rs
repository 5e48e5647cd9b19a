//! The driver with connections that it does not read for a while: paused, or behind another core or the disk.

use super::tests::{Cores, EXPECTED_BYTES, Seen, client_that_sends_much};
use super::*;
use crate::shard::input::CloseCause;
use socket2::SockRef;
use std::io::Write;
use std::mem::MaybeUninit;

#[test]
fn who_is_paused_after_a_write_has_failed_is_let_go_of() {
    let mut cores = Cores::new(1);
    let (mut client, conn) = client_that_sends_much(&mut cores);
    // What is read at once, so that its echo fails before the rest is read, which pauses.
    let mut sent = vec![b'x'; FLUSH_BYTES.next_multiple_of(EXPECTED_BYTES)];
    sent.extend_from_slice(b"wait");
    cores.drivers[0].links_hard = 2;
    let socket = SockRef::from(&*cores.drivers[0].sockets.get(conn).unwrap())
        .try_clone()
        .unwrap();
    socket.set_recv_buffer_size(4 * sent.len()).unwrap();
    client.write_all(&sent).unwrap();
    let mut there = vec![MaybeUninit::uninit(); sent.len() + 1];
    cores.until(|_| socket.peek(&mut there).unwrap() == sent.len());
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop((client, socket));
    cores.drivers[0].links_hard = 0;
    cores.settle();
    let end = [Seen::Received(4), Seen::Closed(CloseCause::Reset)];
    assert!(cores.seen(0).ends_with(&end), "{:?}", cores.seen(0));
    assert!(cores.is_empty());
}

//! [`Raw`]: a blocking client that does nothing by itself and hides nothing.
//!
//! Its methods fail the test at the line that called them (`track_caller`).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::broker::Broker;
use super::packet::{
    Ack, CONNACK, Connack, Connect, Disconnect, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL,
    Packet, Publish, Received, SUBACK, UNSUBACK, Version, ack, disconnect, pingreq, subscribe,
    unsubscribe,
};

/// How long a test waits for what must arrive.
pub(crate) const ARRIVES: Duration = Duration::from_secs(5);

/// How long a test watches for what must not arrive, where no barrier can prove its absence.
pub(crate) const ABSENT: Duration = Duration::from_millis(200);

/// One connection. Reading is packet by packet; PUBLISH packets that come while a test waits for
/// something else are kept for [`Raw::next_publish`].
///
/// Nothing is acknowledged unless the test does it.
pub(crate) struct Raw {
    stream: TcpStream,
    /// Decides how packets are parsed; set by [`Raw::send_connect`].
    pub(crate) version: Version,
    buffer: Vec<u8>,
    /// Packets that came before the one a test waited for, oldest first.
    kept: VecDeque<Packet>,
    last_id: u16,
}

/// What came from the socket.
enum Came {
    Bytes,
    Closed,
    Nothing,
}

impl Raw {
    // ---- connecting --------------------------------------------------------------------------

    /// Opens a connection and sends nothing.
    #[track_caller]
    pub(crate) fn open(broker: &Broker) -> Self {
        Self::open_at(broker.addr)
    }

    /// Opens a connection to `addr` and sends nothing.
    #[track_caller]
    pub(crate) fn open_at(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&addr, ARRIVES).expect("the broker accepts"))
    }

    /// Opens a connection whose receive buffer in the kernel is small, for a reader that stalls.
    ///
    /// The size is set before connecting: a window that shrinks later makes TCP itself stall.
    #[track_caller]
    pub(crate) fn open_with_small_buffer(broker: &Broker) -> Self {
        let socket =
            Socket::new(Domain::for_address(broker.addr), Type::STREAM, None).expect("a socket");
        socket
            .set_recv_buffer_size(64 * 1_024)
            .expect("a TCP socket has a receive buffer");
        socket
            .connect_timeout(&broker.addr.into(), ARRIVES)
            .expect("the broker accepts");
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Self {
        stream
            .set_nodelay(true)
            .expect("a TCP socket has TCP_NODELAY");
        stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        Self {
            stream,
            version: Version::V311,
            buffer: Vec::new(),
            kept: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Connects, and returns what CONNACK said, which must be success.
    #[track_caller]
    pub(crate) fn session(broker: &Broker, connect: &Connect) -> (Self, Connack) {
        let mut client = Self::open(broker);
        client.send_connect(connect);
        let connack = client.read_connack();
        assert_eq!(connack.code, 0, "CONNECT {connect:?} was refused");
        (client, connack)
    }

    /// Connects, which must succeed.
    #[track_caller]
    pub(crate) fn connect(broker: &Broker, connect: &Connect) -> Self {
        Self::session(broker, connect).0
    }

    /// A client of MQTT 3.1.1 with a clean session.
    #[track_caller]
    pub(crate) fn v311(broker: &Broker, client_id: &str) -> Self {
        Self::connect(broker, &Connect::v311(client_id))
    }

    /// A client of MQTT 5.0 with a clean start and a session that ends with the connection.
    #[track_caller]
    pub(crate) fn v5(broker: &Broker, client_id: &str) -> Self {
        Self::connect(broker, &Connect::v5(client_id))
    }

    /// Sends CONNECT and parses what follows in its version.
    #[track_caller]
    pub(crate) fn send_connect(&mut self, connect: &Connect) {
        self.version = connect.version;
        self.send(&connect.encode());
    }

    #[track_caller]
    pub(crate) fn read_connack(&mut self) -> Connack {
        let version = self.version;
        self.expect_kind(CONNACK).connack(version)
    }

    /// Sends DISCONNECT and waits until the broker has closed the connection.
    #[track_caller]
    pub(crate) fn disconnect(mut self) {
        self.send(&disconnect());
        self.expect_closed();
    }

    /// Closes the connection as a crash of the client would: without DISCONNECT.
    ///
    /// The broker may learn of a next connection before it reads what was sent last on this one;
    /// if that matters, as for an acknowledgement, call [`Raw::barrier`] first.
    pub(crate) fn vanish(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Closes the sending half, as a client does that has sent its last byte and just ends.
    #[track_caller]
    pub(crate) fn finish_sending(&self) {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("the connection is open");
    }

    // ---- bytes -------------------------------------------------------------------------------

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .expect("the broker takes bytes");
    }

    /// Sends what may make the broker close meanwhile; returns whether all of it was taken.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Waits for exactly these bytes next; nothing may have been kept.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        assert!(self.kept.is_empty(), "came before: {:02x?}", self.kept);
        let deadline = Instant::now() + ARRIVES;
        while self.buffer.len() < bytes.len() && bytes.starts_with(&self.buffer) {
            match self.fill(deadline) {
                Came::Bytes => {}
                Came::Closed => panic!("closed after {:02x?}, wanted {bytes:02x?}", self.buffer),
                Came::Nothing => panic!("only {:02x?} came, wanted {bytes:02x?}", self.buffer),
            }
        }
        assert!(
            self.buffer.starts_with(bytes),
            "got {:02x?}, wanted {bytes:02x?}",
            self.buffer
        );
        self.buffer.drain(..bytes.len());
    }

    /// Waits until the broker closes the connection, whatever it sends before.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        self.closed_within(ARRIVES);
    }

    /// Waits until the broker closes the connection and returns the packets it sent before.
    #[track_caller]
    pub(crate) fn closed_within(&mut self, limit: Duration) -> Vec<Packet> {
        self.try_closed_within(limit)
            .unwrap_or_else(|sent| panic!("still open after {limit:?}; it sent {sent:02x?}"))
    }

    /// The packets that came before the broker closed the connection; as an error if it did not.
    pub(crate) fn try_closed_within(
        &mut self,
        limit: Duration,
    ) -> Result<Vec<Packet>, Vec<Packet>> {
        let mut packets: Vec<Packet> = self.kept.drain(..).collect();
        let deadline = Instant::now() + limit;
        loop {
            while let Some(packet) = self.parse() {
                packets.push(packet);
            }
            match self.fill(deadline) {
                Came::Bytes => {}
                Came::Closed => return Ok(packets),
                Came::Nothing => return Err(packets),
            }
        }
    }

    /// Waits until the broker closes the connection without having sent anything more.
    #[track_caller]
    pub(crate) fn expect_closed_quietly(&mut self) {
        let sent = self.closed_within(ARRIVES);
        assert!(
            sent.is_empty() && self.buffer.is_empty(),
            "sent {sent:02x?} before it closed"
        );
    }

    /// Waits until the broker closes, in MQTT 5.0, after a DISCONNECT with one of these Reason
    /// Codes, or in MQTT 3 without any packet, as no packet there could say why.
    #[track_caller]
    pub(crate) fn expect_closed_with(&mut self, reasons: &[u8]) {
        let sent = self.closed_within(ARRIVES);
        if self.version != Version::V5 {
            assert!(sent.is_empty(), "sent {sent:02x?} before it closed");
            return;
        }
        let reason = sent.last().map(|packet| packet.disconnect().reason);
        assert!(
            reason.is_some_and(|reason| reasons.contains(&reason)),
            "wanted {reasons:02x?}: {sent:02x?}"
        );
    }

    /// Checks that the broker sends nothing, and does not close, for `ms` milliseconds.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self, ms: u64) {
        assert!(
            self.kept.is_empty() && self.buffer.is_empty(),
            "came before: {:02x?}",
            self.kept
        );
        match self.fill(Instant::now() + Duration::from_millis(ms)) {
            Came::Bytes => panic!("unexpected: {:02x?}", self.buffer),
            Came::Closed => panic!("the broker closed the connection"),
            Came::Nothing => {}
        }
    }

    // ---- packets -----------------------------------------------------------------------------

    /// The next packet; fails when none comes in time.
    #[track_caller]
    pub(crate) fn read_packet(&mut self) -> Packet {
        match self.packet_within(ARRIVES) {
            Ok(Some(packet)) => packet,
            Ok(None) => panic!("the broker closed the connection; a packet was expected"),
            Err(()) => panic!(
                "no packet came within {ARRIVES:?}; buffered: {:02x?}",
                self.buffer
            ),
        }
    }

    /// The next packet, `Ok(None)` if the broker closed, `Err` if nothing came within `limit`.
    pub(crate) fn packet_within(&mut self, limit: Duration) -> Result<Option<Packet>, ()> {
        if let Some(packet) = self.kept.pop_front() {
            return Ok(Some(packet));
        }
        let deadline = Instant::now() + limit;
        loop {
            if let Some(packet) = self.parse() {
                return Ok(Some(packet));
            }
            match self.fill(deadline) {
                Came::Bytes => {}
                Came::Closed => return Ok(None),
                Came::Nothing => return Err(()),
            }
        }
    }

    /// The next packet, which must be of this type.
    #[track_caller]
    pub(crate) fn expect_kind(&mut self, kind: u8) -> Packet {
        let packet = self.read_packet();
        assert_eq!(packet.kind(), kind, "another packet came: {packet:02x?}");
        packet
    }

    /// The first packet of this type; PUBLISH packets before it are kept, others fail the test.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, kind: u8) -> Packet {
        let mut passed = VecDeque::new();
        let found = loop {
            let packet = self.read_packet();
            if packet.kind() == kind {
                break packet;
            }
            assert_eq!(
                packet.kind(),
                PUBLISH,
                "waiting for type {kind}: {packet:02x?}"
            );
            passed.push_back(packet);
        };
        passed.append(&mut self.kept);
        self.kept = passed;
        found
    }

    /// The next packet, which must be a PUBLISH. It is not acknowledged.
    #[track_caller]
    pub(crate) fn next_publish(&mut self) -> Received {
        let version = self.version;
        self.expect_kind(PUBLISH).publish(version)
    }

    /// The next packet, which must be a PUBLISH; acknowledges it as its QoS demands.
    #[track_caller]
    pub(crate) fn take_publish(&mut self) -> Received {
        let message = self.next_publish();
        self.acknowledge(&message);
        message
    }

    /// Acknowledges a message as its QoS demands, to the end of the exchange.
    #[track_caller]
    pub(crate) fn acknowledge(&mut self, message: &Received) {
        match message.qos {
            0 => {}
            1 => self.send(&ack(PUBACK, message.id)),
            _ => {
                self.send(&ack(PUBREC, message.id));
                assert_eq!(self.wait_for_ack(PUBREL).id, message.id);
                self.send(&ack(PUBCOMP, message.id));
            }
        }
    }

    /// Receives `count` messages as a fast client would: acknowledges each when it comes, without
    /// waiting for the end of its exchange, and returns when all exchanges have ended.
    #[track_caller]
    pub(crate) fn receive(&mut self, count: usize) -> Vec<Received> {
        let mut messages = Vec::with_capacity(count);
        let mut unreleased = 0;
        while messages.len() < count || unreleased > 0 {
            let packet = self.read_packet();
            if packet.kind() == PUBREL {
                self.send(&ack(PUBCOMP, packet.ack(self.version).id));
                unreleased -= 1;
                continue;
            }
            let message = packet.publish(self.version);
            match message.qos {
                0 => {}
                1 => self.send(&ack(PUBACK, message.id)),
                _ => {
                    self.send(&ack(PUBREC, message.id));
                    unreleased += 1;
                }
            }
            messages.push(message);
        }
        assert_eq!(messages.len(), count, "more messages came than were wanted");
        messages
    }

    /// Publishes all of `messages` with `qos`, at most `window` of them under way at a time, and
    /// returns when all exchanges have ended. With QoS 0, a barrier ends each window.
    #[track_caller]
    pub(crate) fn publish_all(&mut self, messages: &[Publish], qos: u8, window: usize) {
        for messages in messages.chunks(window) {
            let mut burst = Vec::new();
            for message in messages {
                let id = self.next_id();
                burst.extend(message.clone().qos(qos, id).encode());
            }
            self.send(&burst);
            let mut under_way = messages.len();
            if qos == 0 {
                self.barrier();
                continue;
            }
            while under_way > 0 {
                let packet = self.read_packet();
                let id = packet.ack(self.version).id;
                match packet.kind() {
                    PUBREC => self.send(&ack(PUBREL, id)),
                    PUBACK | PUBCOMP => under_way -= 1,
                    _ => panic!("not an answer to PUBLISH: {packet:02x?}"),
                }
            }
        }
    }

    /// The next packet, which must be this acknowledgement.
    #[track_caller]
    pub(crate) fn expect_ack(&mut self, kind: u8) -> Ack {
        let version = self.version;
        self.expect_kind(kind).ack(version)
    }

    /// The first acknowledgement of this kind; PUBLISH packets before it are kept.
    #[track_caller]
    pub(crate) fn wait_for_ack(&mut self, kind: u8) -> Ack {
        let version = self.version;
        self.wait_for(kind).ack(version)
    }

    /// The next packet, which must be a DISCONNECT of MQTT 5.0.
    #[track_caller]
    pub(crate) fn expect_disconnect(&mut self) -> Disconnect {
        self.read_packet().disconnect()
    }

    // ---- operations --------------------------------------------------------------------------

    /// A Packet Identifier this client has not used for a while.
    pub(crate) fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id % 65_535 + 1;
        self.last_id
    }

    /// Subscribes, and returns the codes of SUBACK. Messages that come before it are kept.
    #[track_caller]
    pub(crate) fn subscribe<F: AsRef<[u8]>>(&mut self, filters: &[(F, u8)]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&subscribe(self.version, id, filters));
        let suback = self.wait_for(SUBACK).suback(self.version);
        assert_eq!(
            suback.id, id,
            "SUBACK has the Packet Identifier of its SUBSCRIBE"
        );
        suback.codes
    }

    /// Unsubscribes, and returns the codes of UNSUBACK (none in MQTT 3).
    #[track_caller]
    pub(crate) fn unsubscribe<F: AsRef<[u8]>>(&mut self, filters: &[F]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&unsubscribe(self.version, id, filters));
        let unsuback = self.wait_for(UNSUBACK).unsuback(self.version);
        assert_eq!(
            unsuback.id, id,
            "UNSUBACK has the Packet Identifier of its UNSUBSCRIBE"
        );
        unsuback.codes
    }

    /// Publishes, and completes the exchange of its QoS.
    #[track_caller]
    pub(crate) fn publish(&mut self, topic: impl AsRef<[u8]>, qos: u8, payload: impl AsRef<[u8]>) {
        let message = Publish::new(self.version, topic, payload);
        self.publish_packet(message, qos);
    }

    /// Publishes a retained message, and completes the exchange of its QoS.
    #[track_caller]
    pub(crate) fn retain(&mut self, topic: impl AsRef<[u8]>, qos: u8, payload: impl AsRef<[u8]>) {
        let message = Publish::new(self.version, topic, payload).retain();
        self.publish_packet(message, qos);
    }

    /// Publishes `message` with `qos` and a new Packet Identifier, to the end of the exchange.
    #[track_caller]
    pub(crate) fn publish_packet(&mut self, message: Publish, qos: u8) {
        let id = self.next_id();
        self.send(&message.qos(qos, id).encode());
        match qos {
            0 => {}
            1 => assert_eq!(self.wait_for_ack(PUBACK).id, id),
            _ => {
                assert_eq!(self.wait_for_ack(PUBREC).id, id);
                self.send(&ack(PUBREL, id));
                assert_eq!(self.wait_for_ack(PUBCOMP).id, id);
            }
        }
    }

    /// PINGREQ and its PINGRESP: everything this client sent before has been handled by the core
    /// that serves it. It says nothing about messages on their way from other clients.
    #[track_caller]
    pub(crate) fn barrier(&mut self) {
        self.send(&pingreq());
        let pong = self.wait_for(PINGRESP);
        assert_eq!(pong.bytes(), [0xd0, 0x00]);
    }

    /// Checks with a barrier that nothing is waiting and that the connection still works.
    #[track_caller]
    pub(crate) fn expect_nothing_before_barrier(&mut self) {
        self.barrier();
        assert!(self.kept.is_empty(), "unexpected: {:02x?}", self.kept);
    }

    // ---- the socket --------------------------------------------------------------------------

    /// Takes one whole packet from the buffer.
    fn parse(&mut self) -> Option<Packet> {
        let mut length = 0usize;
        for (index, shift) in [0, 7, 14, 21].into_iter().enumerate() {
            let byte = *self.buffer.get(1 + index)?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 != 0 {
                continue;
            }
            let start = 2 + index;
            if self.buffer.len() < start + length {
                return None;
            }
            let first = self.buffer[0];
            let body = self.buffer[start..start + length].to_vec();
            self.buffer.drain(..start + length);
            return Some(Packet { first, body });
        }
        panic!(
            "the broker sent a Remaining Length of five bytes: {:02x?}",
            &self.buffer[..5]
        );
    }

    /// Reads once, until `deadline`.
    fn fill(&mut self, deadline: Instant) -> Came {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A timeout of zero would mean for ever.
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).expect("not zero");
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Came::Closed,
                Ok(length) => {
                    self.buffer.extend_from_slice(&chunk[..length]);
                    return Came::Bytes;
                }
                Err(why) => match why.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Came::Nothing,
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset
                    | ErrorKind::BrokenPipe
                    | ErrorKind::ConnectionAborted => {
                        return Came::Closed;
                    }
                    _ => panic!("reading from the broker: {why}"),
                },
            }
        }
    }
}

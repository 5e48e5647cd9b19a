//! A client that speaks just enough MQTT 3.1.1 to know exactly what it was told, on a blocking socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long the broker may take to answer CONNECT: its disk may be slow.
const CONNACK_TIMEOUT: Duration = Duration::from_secs(20);

/// Fixed header bytes.
pub(super) const PUBLISH: u8 = 0x30;
pub(super) const PUBACK: u8 = 0x40;
pub(super) const PUBREC: u8 = 0x50;
pub(super) const PUBREL: u8 = 0x62;
pub(super) const PUBCOMP: u8 = 0x70;
pub(super) const SUBACK: u8 = 0x90;
pub(super) const UNSUBACK: u8 = 0xb0;

/// A Network Connection.
pub(super) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

/// A packet: its first byte, and what follows the fixed header.
pub(super) struct Packet {
    pub(super) first: u8,
    pub(super) body: Vec<u8>,
}

impl Client {
    /// Connects, and says whether there was a session. A Will of the client's is an id in `will/ID`.
    pub(super) fn connect(address: SocketAddr, id: &str, clean: bool) -> io::Result<(Self, bool)> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        let mut client = Self {
            stream,
            received: Vec::new(),
        };
        let mut body = b"\x00\x04MQTT\x04".to_vec();
        body.extend([if clean { 2 } else { 0 }, 0, 0]);
        put_text(&mut body, id);
        client.send(0x10, &body)?;
        let deadline = Instant::now() + CONNACK_TIMEOUT;
        loop {
            if let Some(packet) = client.receive(Duration::from_millis(100))? {
                return match (packet.first, &packet.body[..]) {
                    (0x20, [present, 0]) => Ok((client, *present == 1)),
                    _ => Err(io::Error::other("CONNECT was refused")),
                };
            }
            if Instant::now() > deadline {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }

    pub(super) fn send(&mut self, first: u8, body: &[u8]) -> io::Result<()> {
        let mut packet = vec![first];
        let mut left = body.len();
        loop {
            let more = if left > 127 { 0x80 } else { 0 };
            packet.push((left & 0x7f) as u8 | more);
            left >>= 7;
            if left == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        self.stream.write_all(&packet)
    }

    pub(super) fn publish(
        &mut self,
        flags: u8,
        topic: &str,
        packet_id: u16,
        payload: &[u8],
    ) -> io::Result<()> {
        let mut body = Vec::new();
        put_text(&mut body, topic);
        body.extend(packet_id.to_be_bytes());
        body.extend_from_slice(payload);
        self.send(PUBLISH | flags, &body)
    }

    pub(super) fn ack(&mut self, first: u8, packet_id: u16) -> io::Result<()> {
        self.send(first, &packet_id.to_be_bytes())
    }

    pub(super) fn subscribe(&mut self, packet_id: u16, filter: &str, qos: u8) -> io::Result<()> {
        let mut body = packet_id.to_be_bytes().to_vec();
        put_text(&mut body, filter);
        body.push(qos);
        self.send(0x82, &body)
    }

    pub(super) fn unsubscribe(&mut self, packet_id: u16, filter: &str) -> io::Result<()> {
        let mut body = packet_id.to_be_bytes().to_vec();
        put_text(&mut body, filter);
        self.send(0xa2, &body)
    }

    pub(super) fn disconnect(&mut self) {
        // The connection ends either way.
        let _ = self.send(0xe0, &[]);
    }

    /// The next packet, if one comes in time.
    ///
    /// Errors: the connection is over.
    pub(super) fn receive(&mut self, timeout: Duration) -> io::Result<Option<Packet>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(packet) = self.cut() {
                return Ok(Some(packet));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn cut(&mut self) -> Option<Packet> {
        let mut len = 0;
        for at in 1..5 {
            let byte = *self.received.get(at)?;
            len |= usize::from(byte & 0x7f) << (7 * (at - 1));
            if byte & 0x80 == 0 {
                let body = self.received.get(at + 1..at + 1 + len)?.to_vec();
                let first = self.received[0];
                self.received.drain(..at + 1 + len);
                return Some(Packet { first, body });
            }
        }
        None
    }
}

impl Packet {
    /// What kind of packet it is, without the flags of PUBLISH.
    pub(super) fn kind(&self) -> u8 {
        if self.first >> 4 == 3 {
            PUBLISH
        } else {
            self.first
        }
    }

    /// The Packet Identifier of anything but PUBLISH.
    pub(super) fn packet_id(&self) -> u16 {
        match self.body[..] {
            [high, low, ..] => u16::from_be_bytes([high, low]),
            _ => 0,
        }
    }

    /// Topic Name, Packet Identifier (0 for QoS 0) and payload of a PUBLISH.
    pub(super) fn publication(&self) -> Option<(&str, u16, &[u8])> {
        let len = usize::from(u16::from_be_bytes([
            *self.body.first()?,
            *self.body.get(1)?,
        ]));
        let topic = std::str::from_utf8(self.body.get(2..2 + len)?).ok()?;
        let rest = self.body.get(2 + len..)?;
        if self.qos() == 0 {
            return Some((topic, 0, rest));
        }
        let id = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
        Some((topic, id, rest.get(2..)?))
    }

    pub(super) fn qos(&self) -> u8 {
        self.first >> 1 & 3
    }
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("texts of ours are short");
    body.extend(len.to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

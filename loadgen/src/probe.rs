//! Asks a broker what it is.

use crate::clock::Clock;
use crate::links::{Handler, Links, Reactor, Route};
use crate::wire::{Credentials, SessionKind, put_connect, put_subscribe};
use crate::worker::disconnect;
use ringmq::protocol::frame::FixedHeader;
use ringmq::protocol::{Connack, PacketType, Publish, QoS};
use std::time::Duration;

/// Where most brokers tell their name and version, as a retained message.
const VERSION_TOPIC: &str = "$SYS/broker/version";
/// How long the broker may take, from connecting to the message.
const PATIENCE_NS: u64 = 500_000_000;
/// More of an answer is cut off.
const ANSWER_BYTES_MAX: usize = 200;

/// What the broker says in `$SYS/broker/version`; `None` when it says nothing within half a second.
pub fn broker_version(route: Route, credentials: Credentials, client_id: String) -> Option<String> {
    let clock = Clock::start();
    let mut links = Links::default();
    let mut probe = Probe {
        credentials,
        client_id,
        answer: None,
    };
    let asked = ask(route, clock, &mut links, &mut probe);
    links.close_all(&disconnect(probe.credentials.version));
    asked.ok().and(probe.answer)
}

struct Probe {
    credentials: Credentials,
    client_id: String,
    answer: Option<String>,
}

fn ask(route: Route, clock: Clock, links: &mut Links, probe: &mut Probe) -> Result<(), String> {
    let mut reactor = Reactor::new(route, clock, None, 0)?;
    let link = links.add();
    links.connect(link);
    let end_ns = clock.now_ns() + PATIENCE_NS;
    while probe.answer.is_none() && clock.now_ns() < end_ns {
        reactor.receive(links, probe)?;
        reactor.flush(links, probe)?;
        if !reactor.has_work()? {
            reactor.wait(Duration::from_nanos(end_ns.saturating_sub(clock.now_ns())))?;
        }
    }
    Ok(())
}

impl Handler for Probe {
    fn on_connected(&mut self, links: &mut Links, link: u32) -> Result<(), String> {
        let session = SessionKind::Clean;
        let out = links.out(link);
        put_connect(out, &self.credentials, &self.client_id, session, 60);
        Ok(())
    }

    fn on_packet(
        &mut self,
        links: &mut Links,
        link: u32,
        header: FixedHeader,
        body: &[u8],
        _: u64,
    ) -> Result<(), String> {
        let version = self.credentials.version;
        match header.packet_type {
            PacketType::Connack => {
                let connack = Connack::decode(version, body).map_err(|error| error.to_string())?;
                if connack.reason.is_failure() {
                    return Err(connack.reason.name().into());
                }
                put_subscribe(links.out(link), version, VERSION_TOPIC, QoS::AtMostOnce);
            }
            PacketType::Publish => {
                let publish = Publish::decode_from_server(version, header.flags, body)
                    .map_err(|error| error.to_string())?;
                let bytes = &publish.payload[..publish.payload.len().min(ANSWER_BYTES_MAX)];
                let text = String::from_utf8_lossy(bytes);
                let plain = text.chars().filter(|c| !c.is_control());
                self.answer = Some(plain.collect::<String>().trim().to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn on_flushed(&mut self, _: &mut Links, _: u32) {}

    fn on_closed(&mut self, _: &mut Links, _: u32, why: &str) -> Result<(), String> {
        Err(why.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Address;
    use ringmq::net::transport::client::ClientRoute;
    use ringmq::protocol::Version;
    use std::net::TcpListener;

    #[test]
    fn a_broker_that_is_gone_or_silent_has_no_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let route = Route {
            address: Address::Tcp(listener.local_addr().unwrap()),
            through: ClientRoute::default(),
            sources: Vec::new(),
            version: Version::V311,
        };
        let credentials = Credentials {
            version: Version::V311,
            username: None,
            password: None,
        };
        let ask = || broker_version(route.clone(), credentials.clone(), "probe".into());
        assert_eq!(ask(), None, "it accepts and says nothing");
        drop(listener);
        assert_eq!(ask(), None);
    }
}

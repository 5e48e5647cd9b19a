//! What rumqttc, the Rust client, does against a broker, with its types for 3.1.1 and for 5.

use rumqttc::v5::mqttbytes::v5 as packets_v5;
use rumqttc::v5::{self as client_v5};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const ARRIVES: Duration = Duration::from_secs(60);
const ABSENT: Duration = Duration::from_millis(500);
const PACKET_BYTES_MAX: usize = 80 << 20;

/// A message as it came.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
}

enum Happened {
    Connected { session_present: bool },
    Subscribed,
    Acknowledged,
    Came(Message),
}

/// How to connect.
pub(crate) struct Plan<'a> {
    addr: SocketAddr,
    id: String,
    clean: bool,
    will: Option<(&'a str, &'a [u8], u8)>,
    /// Whether the client is to end without a word.
    vanishes: bool,
}

type Publish = Box<dyn Fn(String, u8, bool, Vec<u8>)>;

/// A client of either version.
pub(crate) struct Client {
    publish: Publish,
    subscribe: Box<dyn Fn(String, u8)>,
    disconnect: Box<dyn Fn()>,
    events: Receiver<Happened>,
    waiting: Vec<Message>,
    session_present: bool,
    vanish: Arc<AtomicBool>,
    pump: JoinHandle<()>,
}

/// Polls a connection until it ends, or until it shall vanish: then the socket is closed without DISCONNECT.
///
/// Only the polls of a client that vanishes have a timeout: one that is cut off in the middle of a
/// large write loses the rest of it, and one that is cut off before CONNACK leaves a connection whose Will is due, and
/// opens another.
macro_rules! pump {
    ($connection:ident, $happened:ident, $timeout:path, $will:expr) => {{
        let mut patience = Duration::from_secs(3600);
        let vanishes: bool = $will;
        let (sender, events): (Sender<Happened>, _) = channel();
        let vanish = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&vanish);
        let pump = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match $connection.recv_timeout(patience) {
                    Ok(Ok(event)) => {
                        if vanishes {
                            patience = Duration::from_millis(20);
                        }
                        if $happened(event).is_some_and(|happened| sender.send(happened).is_err()) {
                            return;
                        }
                    }
                    Err($timeout) => {}
                    _ => return,
                }
            }
        });
        (events, vanish, pump)
    }};
}

/// The client for 3.1.1.
pub(crate) fn v4(plan: &Plan<'_>) -> Client {
    let mut options =
        rumqttc::MqttOptions::new(&plan.id, plan.addr.ip().to_string(), plan.addr.port());
    options
        .set_keep_alive(Duration::from_secs(30))
        .set_clean_session(plan.clean);
    options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    if let Some((topic, payload, qos)) = plan.will {
        let qos = rumqttc::qos(qos).expect("0 to 2");
        options.set_last_will(rumqttc::LastWill::new(topic, payload, qos, false));
    }
    let (client, mut connection) = rumqttc::Client::new(options, 100);
    let (events, vanish, pump) = pump!(
        connection,
        happened_v4,
        rumqttc::RecvTimeoutError::Timeout,
        plan.vanishes
    );
    let (publisher, subscriber) = (client.clone(), client.clone());
    Client {
        publish: Box::new(move |topic, qos, retain, payload| {
            let qos = rumqttc::qos(qos).expect("0 to 2");
            publisher
                .publish(topic, qos, retain, payload)
                .expect("the client runs");
        }),
        subscribe: Box::new(move |filter, qos| {
            subscriber
                .subscribe(filter, rumqttc::qos(qos).expect("0 to 2"))
                .expect("the client runs");
        }),
        disconnect: Box::new(move || client.disconnect().expect("the client runs")),
        events,
        waiting: Vec::new(),
        session_present: false,
        vanish,
        pump,
    }
}

fn happened_v4(event: rumqttc::Event) -> Option<Happened> {
    use rumqttc::Packet;
    let rumqttc::Event::Incoming(packet) = event else {
        return None;
    };
    match packet {
        Packet::ConnAck(connack) => {
            assert_eq!(connack.code, rumqttc::ConnectReturnCode::Success);
            Some(Happened::Connected {
                session_present: connack.session_present,
            })
        }
        Packet::SubAck(suback) => {
            let granted = |code: &rumqttc::SubscribeReasonCode| {
                matches!(code, rumqttc::SubscribeReasonCode::Success(_))
            };
            assert!(suback.return_codes.iter().all(granted), "{suback:?}");
            Some(Happened::Subscribed)
        }
        Packet::PubAck(_) | Packet::PubComp(_) => Some(Happened::Acknowledged),
        Packet::Publish(publish) => Some(Happened::Came(Message {
            topic: publish.topic,
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
        })),
        _ => None,
    }
}

/// The client for 5.
pub(crate) fn v5(plan: &Plan<'_>) -> Client {
    let mut options =
        client_v5::MqttOptions::new(&plan.id, plan.addr.ip().to_string(), plan.addr.port());
    options
        .set_keep_alive(Duration::from_secs(30))
        .set_clean_start(plan.clean);
    options.set_max_packet_size(Some(u32::try_from(PACKET_BYTES_MAX).expect("80 MiB fit")));
    options.set_session_expiry_interval(Some(if plan.clean { 0 } else { 600 }));
    if let Some((topic, payload, qos)) = plan.will {
        let will = packets_v5::LastWill::new(topic, payload, qos_v5(qos), false, None);
        options.set_last_will(will);
    }
    let (client, mut connection) = client_v5::Client::new(options, 100);
    let (events, vanish, pump) = pump!(
        connection,
        happened_v5,
        client_v5::RecvTimeoutError::Timeout,
        plan.vanishes
    );
    let (publisher, subscriber) = (client.clone(), client.clone());
    Client {
        publish: Box::new(move |topic, qos, retain, payload| {
            publisher
                .publish(topic, qos_v5(qos), retain, payload)
                .expect("the client runs");
        }),
        subscribe: Box::new(move |filter, qos| {
            subscriber
                .subscribe(filter, qos_v5(qos))
                .expect("the client runs");
        }),
        disconnect: Box::new(move || client.disconnect().expect("the client runs")),
        events,
        waiting: Vec::new(),
        session_present: false,
        vanish,
        pump,
    }
}

fn qos_v5(qos: u8) -> client_v5::mqttbytes::QoS {
    client_v5::mqttbytes::qos(qos).expect("0 to 2")
}

fn happened_v5(event: client_v5::Event) -> Option<Happened> {
    use packets_v5::Packet;
    let client_v5::Event::Incoming(packet) = event else {
        return None;
    };
    match packet {
        Packet::ConnAck(connack) => {
            assert_eq!(connack.code, packets_v5::ConnectReturnCode::Success);
            Some(Happened::Connected {
                session_present: connack.session_present,
            })
        }
        Packet::SubAck(suback) => {
            let granted = |code: &packets_v5::SubscribeReasonCode| {
                matches!(code, packets_v5::SubscribeReasonCode::Success(_))
            };
            assert!(suback.return_codes.iter().all(granted), "{suback:?}");
            Some(Happened::Subscribed)
        }
        Packet::PubAck(_) | Packet::PubComp(_) => Some(Happened::Acknowledged),
        Packet::Publish(publish) => Some(Happened::Came(Message {
            topic: String::from_utf8(publish.topic.to_vec()).expect("a topic is UTF-8"),
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
        })),
        _ => None,
    }
}

impl Client {
    fn subscribe(&mut self, filter: &str, qos: u8) {
        (self.subscribe)(filter.to_owned(), qos);
        self.wait(
            |happened| matches!(happened, Happened::Subscribed),
            "SUBACK",
        );
    }

    /// Publishes and, for QoS 1 and 2, waits for the acknowledgement.
    fn publish(&mut self, topic: &str, qos: u8, retain: bool, payload: &[u8]) {
        (self.publish)(topic.to_owned(), qos, retain, payload.to_vec());
        if qos > 0 {
            self.wait(
                |happened| matches!(happened, Happened::Acknowledged),
                "the acknowledgement",
            );
        }
    }

    fn expect(&mut self, topic: &str, qos: u8, retain: bool, payload: &[u8]) {
        let message = match self.waiting.is_empty() {
            false => self.waiting.remove(0),
            true => match self.events.recv_timeout(ARRIVES) {
                Ok(Happened::Came(message)) => message,
                Ok(_) => panic!("{topic}: something else came"),
                Err(error) => panic!("{topic}: {error}"),
            },
        };
        let length = message.payload.len();
        assert!(
            message.payload == payload,
            "{topic}: {length} bytes came of {}",
            payload.len()
        );
        assert_eq!(
            (message.topic.as_str(), message.qos, message.retain),
            (topic, qos, retain)
        );
    }

    fn expect_nothing(&mut self) {
        assert_eq!(self.waiting, []);
        if let Ok(Happened::Came(message)) = self.events.recv_timeout(ABSENT) {
            panic!("{} came, and nothing should have", message.topic);
        }
    }

    fn close(self) {
        (self.disconnect)();
        self.pump.join().expect("rumqttc does not panic");
    }

    fn vanish(self) {
        self.vanish.store(true, Ordering::Relaxed);
        self.pump.join().expect("rumqttc does not panic");
    }

    fn wait(&mut self, is_it: impl Fn(&Happened) -> bool, what: &str) {
        let deadline = Instant::now() + ARRIVES;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(happened) if is_it(&happened) => {
                    if let Happened::Connected { session_present } = happened {
                        self.session_present = session_present;
                    }
                    return;
                }
                Ok(Happened::Came(message)) => self.waiting.push(message),
                Ok(_) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
}

/// Does everything with the client that `connect` makes.
pub(crate) fn run(
    connect: fn(&Plan<'_>) -> Client,
    addr: SocketAddr,
    prefix: &str,
    large_mib: usize,
) {
    let open = |name: &str, clean: bool, will: Option<(&str, &[u8], u8)>| {
        let mut client = connect(&Plan {
            addr,
            id: format!("{prefix}{name}"),
            clean,
            will,
            vanishes: name == "victim",
        });
        client.wait(
            |happened| matches!(happened, Happened::Connected { .. }),
            "CONNACK",
        );
        client
    };
    let topic = |rest: &str| format!("{prefix}/{rest}");

    // Every QoS.
    let mut subscriber = open("sub", true, None);
    let mut publisher = open("pub", true, None);
    subscriber.subscribe(&topic("q/#"), 2);
    for qos in 0..=2 {
        for n in 0..20 {
            publisher.publish(&topic("q/x"), qos, false, format!("{qos}-{n}").as_bytes());
        }
    }
    for qos in 0..=2 {
        for n in 0..20 {
            subscriber.expect(&topic("q/x"), qos, false, format!("{qos}-{n}").as_bytes());
        }
    }
    subscriber.expect_nothing();

    // Retained messages.
    publisher.publish(&topic("r/kept"), 1, true, b"kept");
    publisher.publish(&topic("r/gone"), 1, true, b"gone");
    publisher.publish(&topic("r/gone"), 1, true, b"");
    subscriber.subscribe(&topic("r/+"), 1);
    subscriber.expect(&topic("r/kept"), 1, true, b"kept");
    subscriber.expect_nothing();
    publisher.publish(&topic("r/kept"), 1, true, b"");
    subscriber.expect(&topic("r/kept"), 1, false, b"");

    // Wills.
    let will = topic("w/x");
    subscriber.subscribe(&topic("w/#"), 1);
    open("polite", true, Some((&will, b"not sent", 1))).close();
    open("victim", true, Some((&will, b"last words", 1))).vanish();
    subscriber.expect(&will, 1, false, b"last words");
    subscriber.expect_nothing();

    // A session with messages that came while its client was away.
    let mut keeper = open("keep", false, None);
    assert!(!keeper.session_present);
    keeper.subscribe(&topic("s/#"), 2);
    keeper.close();
    for n in 0..40 {
        publisher.publish(&topic("s/x"), 1, false, n.to_string().as_bytes());
    }
    let mut keeper = open("keep", false, None);
    assert!(keeper.session_present, "the session is gone");
    for n in 0..40 {
        keeper.expect(&topic("s/x"), 1, false, n.to_string().as_bytes());
    }
    keeper.expect_nothing();
    keeper.close();
    open("keep", true, None).close();

    // Large payloads.
    subscriber.subscribe(&topic("large"), 1);
    for mib in [1, large_mib] {
        let payload: Vec<u8> = (0..mib << 20).map(|n| (n % 251) as u8).collect();
        publisher.publish(&topic("large"), 1, false, &payload);
        subscriber.expect(&topic("large"), 1, false, &payload);
    }
    subscriber.close();
    publisher.close();
}

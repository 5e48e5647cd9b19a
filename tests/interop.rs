//! Outside clients against `ringmq` with 1, 2 and 4 shards, and `ringmq pub` and `ringmq sub` against mosquitto.
//!
//! The clients are what `scripts/test` installs: mosquitto_pub and mosquitto_sub, paho-mqtt and gmqtt for
//! Python, MQTT.js for Node, and rumqttc for Rust. Each does what its users do: every QoS, retained
//! messages, wills, sessions with messages that came while they were away, and payloads of 1 and 64 MiB.
//!
//! Without a client its tests say so on stderr and pass; with `RINGMQ_TEST_REQUIRE_INTEROP=1` they fail.

mod common;
#[path = "interop/outside.rs"]
mod outside;
#[path = "interop/rumqttc.rs"]
mod rumqttc_client;
#[path = "interop/tools.rs"]
mod tools;

use common::{Broker, unique};
use outside::{Mosquitto, Outside};
use std::sync::OnceLock;
use std::thread;
use tools::Tools;

/// The large payload, in MiB.
const LARGE_MIB: usize = 64;

/// Room for the large payload, on its way in and in the queue of a session.
const LIMITS: [&str; 4] = [
    "--set",
    "limits.packet-bytes-max=80MiB",
    "--set",
    "limits.queue-bytes-max=320MiB",
];

/// Runs `body` against brokers with 1, 2 and 4 shards at the same time, which all tests share.
fn on_each_broker(body: impl Fn(&Broker) + Sync) {
    static BROKERS: OnceLock<Vec<Broker>> = OnceLock::new();
    let brokers = BROKERS.get_or_init(|| {
        let mut brokers: Vec<Broker> = [1, 2, 4]
            .into_iter()
            .map(|cores| Broker::start(cores, &LIMITS))
            .collect();
        // An outside broker is the same each time.
        brokers.dedup_by_key(|broker| broker.addr);
        brokers
    });
    thread::scope(|scope| {
        for broker in brokers {
            let name = broker.name();
            thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, || body(broker))
                .expect("a thread can be started");
        }
    });
}

fn script(name: &str, version: &str, large_mib: usize) {
    let Some(outside) = Outside::find(name) else {
        return;
    };
    on_each_broker(|broker| {
        outside.run(broker.addr, version, &unique(name), large_mib);
    });
}

fn tools(tools: &Tools, version: &str) {
    on_each_broker(|broker| tools.run(broker.addr, version, &unique("tools"), LARGE_MIB));
}

#[test]
fn paho_with_mqtt_3_1() {
    script("paho", "31", LARGE_MIB);
}

#[test]
fn paho_with_mqtt_3_1_1() {
    script("paho", "311", LARGE_MIB);
}

#[test]
fn paho_with_mqtt_5() {
    script("paho", "5", LARGE_MIB);
}

/// gmqtt copies what it has of a packet with every read, so its time grows with the square of the payload, and 64 MiB
/// take it half a minute of a quiet core. One broker has to do for those.
const GMQTT_LARGE_MIB: usize = 8;

#[test]
fn gmqtt_with_mqtt_3_1_1() {
    script("gmqtt", "311", GMQTT_LARGE_MIB);
}

#[test]
fn gmqtt_with_mqtt_5() {
    script("gmqtt", "5", GMQTT_LARGE_MIB);
}

#[test]
fn gmqtt_with_64_mib() {
    if let Some(outside) = Outside::find("gmqtt") {
        let broker = Broker::start(2, &LIMITS);
        outside.run(broker.addr, "5", &unique("gmqtt"), LARGE_MIB);
    }
}

#[test]
fn mqttjs_with_mqtt_3_1() {
    script("mqttjs", "31", LARGE_MIB);
}

#[test]
fn mqttjs_with_mqtt_3_1_1() {
    script("mqttjs", "311", LARGE_MIB);
}

#[test]
fn mqttjs_with_mqtt_5() {
    script("mqttjs", "5", LARGE_MIB);
}

#[test]
fn rumqttc_with_mqtt_3_1_1() {
    on_each_broker(|broker| {
        rumqttc_client::run(
            rumqttc_client::v4,
            broker.addr,
            &unique("rumqttc"),
            LARGE_MIB,
        );
    });
}

#[test]
fn rumqttc_with_mqtt_5() {
    on_each_broker(|broker| {
        rumqttc_client::run(
            rumqttc_client::v5,
            broker.addr,
            &unique("rumqttc"),
            LARGE_MIB,
        );
    });
}

#[test]
fn mosquitto_tools_with_mqtt_3_1() {
    if let Some(found) = Tools::mosquitto() {
        tools(&found, "31");
    }
}

#[test]
fn mosquitto_tools_with_mqtt_3_1_1() {
    if let Some(found) = Tools::mosquitto() {
        tools(&found, "311");
    }
}

#[test]
fn mosquitto_tools_with_mqtt_5() {
    if let Some(found) = Tools::mosquitto() {
        tools(&found, "5");
    }
}

#[test]
fn ringmq_tools_with_every_version() {
    for version in ["31", "311", "5"] {
        tools(&Tools::ringmq(), version);
    }
}

#[test]
fn ringmq_tools_against_mosquitto() {
    let Some(mosquitto) = Mosquitto::start() else {
        return;
    };
    for version in ["31", "311", "5"] {
        Tools::ringmq().run(mosquitto.addr, version, &unique("tools"), LARGE_MIB);
    }
}

#[test]
fn ringmq_sub_prints_as_mosquitto_sub_does() {
    let Some(mosquitto) = Tools::mosquitto() else {
        return;
    };
    let broker = Broker::start(1, &[]);
    let topic = unique("format");
    let properties = [
        "publish user-property k v",
        "publish user-property k2 v2",
        "publish content-type text/plain",
        "publish response-topic answers",
        "publish correlation-data 17",
        "publish payload-format-indicator 1",
    ];
    let mut publish = vec!["-t", &topic, "-q", "1", "-r", "-m", "{\"x\": \"é\\n\"}"];
    for property in properties {
        publish.push("-D");
        publish.extend(property.split(' '));
    }
    let [ours, theirs] = [Tools::ringmq(), mosquitto].map(|tools| {
        tools.publish_5(broker.addr, &publish);
        [
            "%t %p",
            "%q%r%m|%l|%05l|%-5l|%10t|%-30t|%.3t",
            "%x|%X",
            "%C|%R|%D|%F|%E|%A|%S|%P",
            "%%|@@|\\t|\\\\",
        ]
        .map(|format| tools.print_5(broker.addr, &topic, format))
    });
    assert_eq!(ours, theirs);
}

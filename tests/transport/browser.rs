//! MQTT.js in a page of headless Chromium, over WebSocket.

use crate::chromium::Chromium;
use crate::outside::Outside;
use crate::server::{self, Server, dir};
use crate::{with_tls, with_websocket};
use ringmq::config::listener::{ListenerSpec, WebSocketSpec};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

/// A page that has MQTT.js.
const PAGE: &str = "<!doctype html><title>MQTT</title><script src=\"/mqtt.js\"></script>";

/// What the page does at a broker: a function of its URL and the protocol's version, which comes to a report in words.
const VISIT: &str = "async (url, protocolVersion) => {
    const client = mqtt.connect(url, { protocolVersion, reconnectPeriod: 0, connectTimeout: 60000 });
    try {
        await new Promise((resolve, reject) => {
            client.once('connect', resolve);
            client.once('error', reject);
            client.once('close', () => reject(new Error('closed')));
        });
        const topic = 'page/' + Math.random();
        const messages = [];
        let wake = () => {};
        client.on('message', (topic, payload) => { messages.push(payload); wake(); });
        await client.subscribeAsync(topic, { qos: 2 });
        for (const qos of [0, 1, 2]) {
            for (const size of [0, 125, 126, 70000, 1 << 20]) {
                await client.publishAsync(topic, 'x'.repeat(size), { qos });
                while (messages.length === 0) await new Promise(resolve => { wake = resolve; });
                const came = messages.shift();
                if (came.length !== size || came.some(byte => byte !== 120)) return `QoS ${qos}, ${size} bytes: ${came.length}`;
            }
        }
        client.removeAllListeners('close');
        await client.endAsync();
        return 'all came back';
    } catch (error) {
        return String(error.message || error);
    } finally {
        client.end(true);
    }
}";

#[test]
fn mqttjs_in_a_page_of_chromium() {
    let Some(mqttjs) = Outside::find("mqttjs") else {
        return;
    };
    let Some(mut browser) = Chromium::start(&dir().join("chromium")) else {
        return;
    };
    let bundle = fs::read(mqttjs.installed("mqtt/dist/mqtt.min.js")).expect("MQTT.js is installed");
    let site = serve(bundle);
    let here = WebSocketSpec {
        origins: vec![format!("http://{site}")],
        ..WebSocketSpec::default()
    };
    let elsewhere = WebSocketSpec {
        origins: vec!["https://example.org".into()],
        ..WebSocketSpec::default()
    };
    let server = Server::start(vec![
        with_websocket("ws", here.clone()),
        with_websocket("elsewhere", elsewhere),
        ListenerSpec {
            websocket: Some(here),
            ..with_tls("wss", server::tls())
        },
    ]);
    browser.visit(&format!("http://{site}/"));
    let mut visit = |scheme: &str, listener: &str, version: u8| {
        let url = format!("{scheme}://localhost:{}/mqtt", server.port(listener));
        let said = browser.evaluate(&format!("({VISIT})({url:?}, {version})"));
        said.as_str().expect("a report").to_owned()
    };
    for version in [4, 5] {
        assert_eq!(visit("ws", "ws", version), "all came back");
        assert_eq!(visit("wss", "wss", version), "all came back");
    }
    assert_ne!(visit("ws", "elsewhere", 4), "all came back");
    server.logs(&["refused: the Origin is not allowed"]);
}

/// Serves the page and what it needs, until the process ends.
fn serve(bundle: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
            let wanted = head.next().unwrap_or_default();
            head.take_while(|line| !line.is_empty()).for_each(drop);
            let (kind, body) = if wanted.starts_with("GET /mqtt.js ") {
                ("text/javascript", &bundle[..])
            } else {
                ("text/html", PAGE.as_bytes())
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    address
}

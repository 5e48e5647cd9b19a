//! Metrics for Prometheus, served while a run lasts.

use crate::timeline::{Timeline, Trouble};
use hdrhistogram::Histogram;
use std::fmt::{Display, Write as _};
use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Who asks has this long to do so, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A request that is longer is not answered.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Upper ends of the buckets of times, in ns: 1, 2 and 5 of each decade from 10 us to 10 s.
const BUCKETS_NS: [u64; 19] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Serves a page until it is dropped.
#[derive(Debug)]
pub struct Exporter {
    address: SocketAddr,
    page: Arc<Mutex<String>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Starts to serve at an address.
    ///
    /// Errors: it cannot be listened at.
    pub fn start(address: SocketAddr) -> Result<Self, String> {
        let failed = |error: io::Error| format!("--prometheus {address}: {error}");
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let page = Arc::new(Mutex::new(String::new()));
        let over = Arc::new(AtomicBool::new(false));
        let (shared, ends) = (page.clone(), over.clone());
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Acquire) {
                    break;
                }
                let text = || {
                    shared
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .clone()
                };
                // Who went away or asked in another language gets nothing, and the run goes on.
                let _ = stream.and_then(|stream| answer(stream, text));
            }
        });
        Ok(Self {
            address,
            page,
            over,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the page.
    pub fn set(&self, text: String) {
        *self.page.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // The thread waits for a connection; where none can be made it ends with the process.
        if TcpStream::connect_timeout(&self.address, PATIENCE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, page: impl Fn() -> String) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut chunk)?;
        if count == 0 || request.len() + count > REQUEST_BYTES_MAX {
            return Ok(());
        }
        request.extend_from_slice(&chunk[..count]);
    }
    let request = String::from_utf8_lossy(&request);
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = path.split('?').next().unwrap_or(path);
    let (status, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics" | "/") => ("200 OK", page()),
        ("GET" | "HEAD", _) => ("404 Not Found", "The metrics are at /metrics.\n".into()),
        _ => ("405 Method Not Allowed", String::new()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

/// What a page tells apart from the timeline.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Labels of the run: names and values.
    pub labels: Vec<(&'static str, String)>,
    /// Clients that are connected and subscribed.
    pub connected: u64,
    /// Clients there are to be.
    pub connections: u64,
    /// The last second that is complete.
    pub last: Option<i64>,
    /// Whether the figures so far are the broker's.
    pub valid: bool,
}

/// The page, in the text format of Prometheus.
pub fn page(state: &State, timeline: &Timeline) -> String {
    let mut page = Page(String::new());
    let mut labels = String::new();
    for (name, value) in &state.labels {
        let separator = if labels.is_empty() { "" } else { "," };
        let _ = write!(labels, "{separator}{name}=\"{}\"", escaped(value));
    }
    page.head("loadgen_run_info", "gauge", "What is run.");
    page.value("loadgen_run_info", &labels, 1);
    page.head(
        "loadgen_valid",
        "gauge",
        "1 unless the generator itself is late or busy.",
    );
    page.value("loadgen_valid", "", u8::from(state.valid));
    page.head(
        "loadgen_connections",
        "gauge",
        "Clients that are connected and subscribed.",
    );
    page.value("loadgen_connections", "", state.connected);
    page.head(
        "loadgen_connections_target",
        "gauge",
        "Clients there are to be.",
    );
    page.value("loadgen_connections_target", "", state.connections);
    let total = timeline.total();
    page.head(
        "loadgen_messages_sent_total",
        "counter",
        "Messages published.",
    );
    page.value("loadgen_messages_sent_total", "", total.published);
    page.head(
        "loadgen_messages_received_total",
        "counter",
        "Messages delivered, duplicates not counted.",
    );
    page.value("loadgen_messages_received_total", "", total.delivered);
    page.head(
        "loadgen_errors_total",
        "counter",
        "What went wrong, by reason.",
    );
    for (reason, count) in Trouble::REASONS.iter().zip(total.trouble.counts()) {
        page.value(
            "loadgen_errors_total",
            &format!("reason=\"{reason}\""),
            count,
        );
    }
    page.histogram(
        "loadgen_latency_seconds",
        "From the intended time of sending to the receiving, of messages due in the measured interval.",
        timeline.latency(),
    );
    page.histogram(
        "loadgen_send_lag_seconds",
        "From the intended time of sending to the writing, where nothing but the generator was in the way.",
        timeline.send_lag(),
    );
    let last = state
        .last
        .and_then(|last| timeline.seconds(last..last + 1).next());
    let Some((_, last)) = last else { return page.0 };
    let latency = last.latency();
    if !latency.is_empty() {
        let name = "loadgen_last_second_latency_seconds";
        page.head(
            name,
            "gauge",
            "Latency of the messages received in the last second, by quantile.",
        );
        for quantile in [0.5, 0.99, 1.0] {
            let seconds = latency.value_at_quantile(quantile) as f64 / 1e9;
            page.value(name, &format!("quantile=\"{quantile}\""), seconds);
        }
    }
    for (name, value, help) in [
        (
            "loadgen_generator_cpu_cores",
            last.generator_cores(),
            "Cores the generator kept busy in the last second.",
        ),
        (
            "loadgen_broker_cpu_cores",
            last.broker_cores(),
            "Cores the broker kept busy in the last second.",
        ),
        (
            "loadgen_broker_resident_bytes",
            last.broker.map(|broker| broker.rss_bytes as f64),
            "The broker's resident memory.",
        ),
    ] {
        if let Some(value) = value {
            page.head(name, "gauge", help);
            page.value(name, "", value);
        }
    }
    page.0
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    fn histogram(&mut self, name: &str, help: &str, times: &Histogram<u64>) {
        self.head(name, "histogram", help);
        let mut recorded = times.iter_recorded().peekable();
        let mut seen = 0;
        for end_ns in BUCKETS_NS {
            while let Some(step) = recorded.next_if(|step| step.value_iterated_to() <= end_ns) {
                seen += step.count_at_value();
            }
            let labels = format!("le=\"{}\"", end_ns as f64 / 1e9);
            self.value(&format!("{name}_bucket"), &labels, seen);
        }
        self.value(&format!("{name}_bucket"), "le=\"+Inf\"", times.len());
        let sum = if times.is_empty() {
            0.0
        } else {
            times.mean() * times.len() as f64 / 1e9
        };
        self.value(&format!("{name}_sum"), "", sum);
        self.value(&format!("{name}_count"), "", times.len());
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Interval;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_raw_request_gets_the_page() {
        let exporter = Exporter::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = exporter.address();
        exporter.set("loadgen_valid 1\n".into());
        let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        assert!(head.contains("Content-Length: 16\r\n"), "{head}");
        assert_eq!(body, "loadgen_valid 1\n");
        assert!(ask(address, "HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        assert!(ask(address, "GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
        let endless = format!("GET /{} HTTP/1.1", "x".repeat(REQUEST_BYTES_MAX));
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(endless.as_bytes());
        // Whether it was reset or closed: nobody answers.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty());
        let taken = Exporter::start(address).unwrap_err();
        assert!(taken.contains(&address.to_string()), "{taken}");
        drop(exporter);
        Exporter::start(address).expect("the address is free again");
    }

    #[test]
    fn the_page_holds_counters_and_cumulative_buckets() {
        let mut timeline = Timeline::default();
        let mut interval = Interval {
            published: 5,
            delivered: 4,
            ..Interval::new(3)
        };
        for ns in [15_000, 15_000, 700_000, 60_000_000_000] {
            interval.latency.record(ns).unwrap();
        }
        interval.trouble.corrupt = 2;
        timeline.add(&interval);
        let state = State {
            labels: vec![("verb", "pubsub".into()), ("broker", "a\"b".into())],
            connected: 7,
            connections: 8,
            last: Some(3),
            valid: true,
        };
        let page = page(&state, &timeline);
        for line in [
            "loadgen_run_info{verb=\"pubsub\",broker=\"a\\\"b\"} 1",
            "loadgen_valid 1",
            "loadgen_connections 7",
            "loadgen_connections_target 8",
            "loadgen_messages_sent_total 5",
            "loadgen_messages_received_total 4",
            "loadgen_errors_total{reason=\"corrupt\"} 2",
            "loadgen_errors_total{reason=\"duplicates\"} 0",
            "loadgen_latency_seconds_bucket{le=\"0.00001\"} 0",
            "loadgen_latency_seconds_bucket{le=\"0.00002\"} 2",
            "loadgen_latency_seconds_bucket{le=\"0.0005\"} 2",
            "loadgen_latency_seconds_bucket{le=\"0.001\"} 3",
            "loadgen_latency_seconds_bucket{le=\"10\"} 3",
            "loadgen_latency_seconds_bucket{le=\"+Inf\"} 4",
            "loadgen_latency_seconds_count 4",
            "loadgen_send_lag_seconds_count 0",
        ] {
            assert!(
                page.lines().any(|one| one == line),
                "{line} is not in\n{page}"
            );
        }
        let quantile = "loadgen_last_second_latency_seconds{quantile=\"0.5\"} 0.00001";
        assert!(page.contains(quantile), "{page}");
        // Every value has a name that was introduced, as the format wants it.
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            assert!(page.contains(&format!("# TYPE {family} ")), "{line}");
            assert!(
                line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}

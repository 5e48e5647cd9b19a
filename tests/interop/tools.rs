//! `mosquitto_pub` and `mosquitto_sub`, or `ringmq pub` and `ringmq sub`, which take the same flags.

use crate::outside::program;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const ARRIVES: Duration = Duration::from_secs(60);
/// How long a message that must not come is waited for, in seconds as `-W` takes them.
const ABSENT_S: &str = "1";
/// What both give back when the time of `-W` is over.
const TIMED_OUT: i32 = 27;

/// A pair of command line clients.
pub(crate) struct Tools {
    publish: Vec<PathBuf>,
    subscribe: Vec<PathBuf>,
}

/// The pair with all that every call has in common.
struct Session<'a> {
    tools: &'a Tools,
    addr: SocketAddr,
    version: &'a str,
    prefix: &'a str,
}

impl Tools {
    /// Those of mosquitto; none, after saying so, when they are not installed.
    pub(crate) fn mosquitto() -> Option<Self> {
        let publish = vec![program("mosquitto_pub")?];
        Some(Self {
            publish,
            subscribe: vec![program("mosquitto_sub")?],
        })
    }

    /// Ours.
    pub(crate) fn ringmq() -> Self {
        let ringmq = PathBuf::from(env!("CARGO_BIN_EXE_ringmq"));
        Self {
            publish: vec![ringmq.clone(), "pub".into()],
            subscribe: vec![ringmq, "sub".into()],
        }
    }

    /// Publishes with MQTT 5.
    pub(crate) fn publish_5(&self, addr: SocketAddr, args: &[&str]) {
        Session {
            tools: self,
            addr,
            version: "5",
            prefix: "",
        }
        .publish(args);
    }

    /// Prints the retained message of `topic` in a format, received with MQTT 5.
    pub(crate) fn print_5(&self, addr: SocketAddr, topic: &str, format: &str) -> String {
        let session = Session {
            tools: self,
            addr,
            version: "5",
            prefix: "",
        };
        let args = ["-t", topic, "-q", "1", "-C", "1", "-W", "60", "-F", format];
        let output = session.subscribe(&args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Does everything against the broker at `addr`; topics and client identifiers begin with `prefix`.
    pub(crate) fn run(&self, addr: SocketAddr, version: &str, prefix: &str, large_mib: usize) {
        // MQTT 3.1 has client identifiers of at most 23 bytes.
        let prefix = &format!("{prefix}v{version}");
        let session = Session {
            tools: self,
            addr,
            version,
            prefix,
        };
        session.every_qos();
        session.retained();
        session.will();
        session.offline();
        session.payload(1);
        session.payload(large_mib);
    }
}

impl Session<'_> {
    fn every_qos(&self) {
        let mut live = self.live("q", &["-q", "2", "-F", "%t %q %r %p"]);
        for qos in ["0", "1", "2"] {
            let topic = self.topic(&format!("q/{qos}"));
            self.publish(&["-t", &topic, "-q", qos, "-m", "hello", "--repeat", "3"]);
            for _ in 0..3 {
                assert_eq!(live.line(), format!("{topic} {qos} 0 hello"));
            }
        }
    }

    fn retained(&self) {
        let topic = self.topic("kept");
        self.publish(&["-t", &topic, "-q", "1", "-r", "-m", "kept"]);
        let kept = self.subscribe(&["-t", &topic, "-C", "1", "-W", "60", "-F", "%r %p"]);
        assert_eq!(lines(&kept), ["1 kept"]);
        self.publish(&["-t", &topic, "-q", "1", "-r", "-n"]);
        let gone = self.subscribe(&["-t", &topic, "-W", ABSENT_S]);
        assert_eq!(
            (gone.status.code(), lines(&gone).len()),
            (Some(TIMED_OUT), 0)
        );
    }

    fn will(&self) {
        let mut watcher = self.live("w", &["-q", "1"]);
        let will = self.topic("w/will");
        // Once its own live message came, the client with the will is connected for sure.
        let mut victim = self.live(
            "v",
            &[
                "--will-topic",
                &will,
                "--will-payload",
                "last words",
                "--will-qos",
                "1",
            ],
        );
        victim.child.kill().expect("the client runs");
        assert_eq!(watcher.line(), "last words");
    }

    fn offline(&self) {
        let filter = self.topic("s/+");
        let id = format!("{}s", self.prefix);
        let mut keep = vec!["-c", "-i", &id, "-q", "2", "-t", &filter];
        if self.version == "5" {
            keep.extend(["-x", "600"]);
        }
        let made = self.subscribe(&[&keep[..], &["-E"]].concat());
        assert!(made.status.success(), "{made:?}");
        let sent: Vec<String> = (0..40).map(|n| format!("message {n}")).collect();
        for qos in ["1", "2"] {
            let topic = self.topic(&format!("s/{qos}"));
            let mut publisher = self.command(&self.tools.publish, &["-t", &topic, "-q", qos, "-l"]);
            publisher.stdin(Stdio::piped());
            let mut publisher = publisher.spawn().expect("the client can be started");
            let mut stdin = publisher
                .stdin
                .take()
                .expect("stdin was asked to be a pipe");
            stdin
                .write_all((sent.join("\n") + "\n").as_bytes())
                .expect("the client reads");
            drop(stdin);
            assert!(
                publisher
                    .wait()
                    .expect("a child can be waited for")
                    .success()
            );
        }
        let came = self.subscribe(&[&keep[..], &["-C", "80", "-W", "60", "-F", "%q %p"]].concat());
        assert!(came.status.success(), "{came:?}");
        for qos in ["1", "2"] {
            let of_qos: Vec<String> = lines(&came)
                .into_iter()
                .filter_map(|line| line.strip_prefix(&format!("{qos} ")).map(str::to_owned))
                .collect();
            assert_eq!(of_qos, sent, "QoS {qos}");
        }
        let rest = self.subscribe(&[&keep[..], &["-W", ABSENT_S]].concat());
        assert_eq!(
            (rest.status.code(), lines(&rest).len()),
            (Some(TIMED_OUT), 0),
            "delivered twice"
        );
        // Leaves nothing behind.
        assert!(
            self.subscribe(&["-i", &id, "-t", &filter, "-E"])
                .status
                .success()
        );
    }

    fn payload(&self, mib: usize) {
        let payload: Vec<u8> = (0..mib << 20).map(|n| (n % 251) as u8).collect();
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-payload", self.prefix));
        fs::write(&file, &payload).expect("the directory for tests is writable");
        let id = format!("{}p", self.prefix);
        let topic = self.topic("payload");
        let keep = ["-c", "-i", &id, "-q", "1", "-t", &topic];
        assert!(
            self.subscribe(&[&keep[..], &["-E"]].concat())
                .status
                .success()
        );
        let path = file.to_str().expect("the path is text");
        self.publish(&["-t", &topic, "-q", "1", "-f", path]);
        let came = self.subscribe(&[&keep[..], &["-C", "1", "-N", "-W", "60"]].concat());
        assert!(
            came.stdout == payload,
            "{mib} MiB were sent, {} bytes came",
            came.stdout.len()
        );
        fs::remove_file(&file).expect("the file was written");
        assert!(
            self.subscribe(&["-i", &id, "-t", &topic, "-E"])
                .status
                .success()
        );
    }

    fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    fn publish(&self, args: &[&str]) {
        let output = self
            .command(&self.tools.publish, args)
            .output()
            .expect("the client can be started");
        assert!(
            output.status.success(),
            "{args:?} on {:?}: {output:?}",
            thread::current().name()
        );
    }

    fn subscribe(&self, args: &[&str]) -> Output {
        self.command(&self.tools.subscribe, args)
            .output()
            .expect("the client can be started")
    }

    /// Starts a subscription to everything below `topic`, and waits until it is in force.
    fn live(&self, topic: &str, args: &[&str]) -> Live {
        let filter = self.topic(&format!("{topic}/#"));
        let mut command = self.command(&self.tools.subscribe, args);
        command.args(["-t", &filter]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the client can be started");
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let (said, says) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        let live = Live { child, says };
        let deadline = Instant::now() + ARRIVES;
        let ready = self.topic(&format!("{topic}/ready"));
        loop {
            self.publish(&["-t", &ready, "-m", READY]);
            match live.says.recv_timeout(Duration::from_millis(100)) {
                Ok(line) if line.ends_with(READY) => return live,
                _ => assert!(Instant::now() < deadline, "{filter}: nothing comes"),
            }
        }
    }

    fn command(&self, program: &[PathBuf], args: &[&str]) -> Command {
        let mut command = Command::new(&program[0]);
        command
            .args(&program[1..])
            .args([
                "-h",
                &self.addr.ip().to_string(),
                "-p",
                &self.addr.port().to_string(),
                "-V",
                self.version,
            ])
            .args(args)
            .stdin(Stdio::null());
        command
    }
}

const READY: &str = "are you there";

/// A subscription under way.
struct Live {
    child: Child,
    says: Receiver<String>,
}

impl Live {
    /// The next line it prints.
    fn line(&mut self) -> String {
        loop {
            let line = self.says.recv_timeout(ARRIVES).expect("a message comes");
            if !line.ends_with(READY) {
                return line;
            }
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

//! Finding and running what is not ours.

use std::env;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Time for a client to do everything it has to do.
const SCRIPT_S: u64 = 300;

/// A client library with the script that uses it.
pub(crate) struct Outside {
    program: PathBuf,
    script: PathBuf,
    node_path: PathBuf,
}

impl Outside {
    /// Finds `paho`, `gmqtt` or `mqttjs`; none, after saying so, when it is not installed.
    ///
    /// Panics: when it is not installed and `RINGMQ_TEST_REQUIRE_INTEROP` is 1.
    #[allow(dead_code, reason = "one of the tests that share this file uses it")]
    pub(crate) fn find(name: &str) -> Option<Self> {
        let installed = installed_dir();
        let node_path = installed.join("node_modules");
        let python = [installed.join("venv/bin/python"), "python3".into()];
        let (programs, probe, file) = match name {
            "paho" => (
                &python[..],
                ["-c", "import paho.mqtt.client as m; m.CallbackAPIVersion"],
                "paho_scenario.py",
            ),
            "gmqtt" => (&python[..], ["-c", "import gmqtt"], "gmqtt_scenario.py"),
            "mqttjs" => (
                &["node".into()][..],
                ["-e", "require('mqtt')"],
                "mqttjs_scenario.js",
            ),
            other => panic!("there is no script for {other}"),
        };
        let works = |program: &&PathBuf| {
            let mut command = Command::new(program);
            command.args(probe).env("NODE_PATH", &node_path);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let Some(program) = programs.iter().find(works).cloned() else {
            missing(name);
            return None;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/interop")
            .join(file);
        Some(Self {
            program,
            script,
            node_path,
        })
    }

    /// The same program with another script of the same directory.
    #[allow(dead_code, reason = "one of the tests that share this file uses it")]
    pub(crate) fn with_script(mut self, file: &str) -> Self {
        self.script.set_file_name(file);
        self
    }

    /// A file of those that Node's package manager has installed.
    #[allow(dead_code, reason = "one of the tests that share this file uses it")]
    pub(crate) fn installed(&self, file: &str) -> PathBuf {
        self.node_path.join(file)
    }

    /// Runs the script; it says itself what went wrong.
    #[allow(dead_code, reason = "one of the tests that share this file uses it")]
    pub(crate) fn run(&self, addr: SocketAddr, version: &str, prefix: &str, large_mib: usize) {
        self.run_args(&[
            &addr.ip().to_string(),
            &addr.port().to_string(),
            version,
            prefix,
            &large_mib.to_string(),
        ]);
    }

    /// Runs the script with these arguments.
    pub(crate) fn run_args(&self, args: &[&str]) {
        let mut command = Command::new(&self.program);
        command
            .arg(&self.script)
            .args(args)
            .env("NODE_PATH", &self.node_path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().expect("the program was run before");
        let pid = child.id();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if is_done
                .recv_timeout(Duration::from_secs(SCRIPT_S))
                .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        });
        let output = child.wait_with_output().expect("a child can be waited for");
        drop(done);
        watchdog.join().expect("the watchdog does not panic");
        assert!(
            output.status.success(),
            "{} {args:?} on {}: {}\n{}{}",
            self.script.display(),
            thread::current().name().unwrap_or("?"),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
    }
}

/// A mosquitto broker of this test, killed when this is dropped.
#[allow(dead_code, reason = "one of the tests that share this file uses it")]
pub(crate) struct Mosquitto {
    pub(crate) addr: SocketAddr,
    child: Child,
    config: PathBuf,
}

impl Mosquitto {
    /// Starts one on a free port; none, after saying so, when it is not installed.
    #[allow(dead_code, reason = "one of the tests that share this file uses it")]
    pub(crate) fn start() -> Option<Self> {
        let program = program("mosquitto")?;
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let addr = free.local_addr().expect("a bound socket has an address");
        drop(free);
        let config = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("mosquitto-{}.conf", std::process::id()));
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\npersistence false\n",
            addr.port()
        );
        fs::write(&config, text).expect("the directory for tests is writable");
        let child = Command::new(program)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto can be started");
        let mosquitto = Self {
            addr,
            child,
            config,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(addr).is_err() {
            assert!(
                Instant::now() < deadline,
                "mosquitto does not listen on {addr}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Some(mosquitto)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

/// The path of an installed program; none, after saying so, when there is none.
///
/// Panics: when there is none and `RINGMQ_TEST_REQUIRE_INTEROP` is 1.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    // Debian has the daemon where users without rights do not look.
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = dirs.map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        missing(name);
    }
    found
}

fn missing(name: &str) {
    let required = env::var("RINGMQ_TEST_REQUIRE_INTEROP").is_ok_and(|value| value == "1");
    assert!(
        !required,
        "{name} is not installed, and RINGMQ_TEST_REQUIRE_INTEROP is 1; scripts/test installs it"
    );
    let test = thread::current().name().unwrap_or("?").to_owned();
    let line = format!("skipped {test}: {name} is not installed; scripts/test installs it\n");
    // Not through eprintln!, which the test harness swallows when the test passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Where `scripts/test` installs what it gets from Python's and Node's package managers.
#[allow(dead_code, reason = "one of the tests that share this file uses it")]
fn installed_dir() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    target
        .expect("cargo's directory for tests lies in the target directory")
        .join("interop")
}

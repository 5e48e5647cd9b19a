//! The commands of the manual's first steps, run as they are written.
//!
//! Only what would collide with others is changed: ports, the address of all networks, and that the broker goes into
//! the background.

mod common;
#[path = "interop/outside.rs"]
mod outside;

use common::*;
use outside::program;
use std::env;
use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// The blocks of commands in a chapter.
fn blocks(file: &str, heading: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(file);
    let text = fs::read_to_string(file).expect("the manual is there");
    let (_, chapter) = text.split_once(heading).expect("the chapter is there");
    let chapter = chapter.split("\n## ").next().unwrap_or_default();
    let fenced = chapter.split("```\n").skip(1).step_by(2);
    fenced.map(ToOwned::to_owned).collect()
}

/// Waits for the broker that listens on these ports, with a shell's means.
fn await_broker(ports: &[u16]) -> String {
    ports.iter().fold(String::new(), |mut script, port| {
        let _ = writeln!(
            script,
            "for n in $(seq 600); do (: < /dev/tcp/127.0.0.1/{port}) 2>&- && break; sleep 0.05; done"
        );
        script
    })
}

/// Runs a script in a directory of its own and returns what it said.
fn run(script: &str, input: &'static str, dir: &Scratch) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_ringmq"));
    let beside = binary.parent().expect("it is a file");
    let path = env::var("PATH").unwrap_or_default();
    let script = format!("set -euxo pipefail\ntrap 'kill $(jobs -p)' EXIT\n{script}");
    let file = dir.write("input", input);
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(dir.path(""))
        .env("PATH", format!("{}:{path}", beside.display()))
        .env("XDG_STATE_HOME", dir.path("state"))
        .env_remove("STATE_DIRECTORY")
        .stdin(Stdio::from(fs::File::open(file).expect("just written")))
        .output()
        .expect("there is a shell");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr();
    address.expect("a bound socket has an address").port()
}

#[test]
fn the_quickest_way_to_a_password() {
    let [first, second] = &blocks("security.md", "## The quickest way to a password")[..] else {
        panic!("a block for each terminal");
    };
    let (dir, port) = (Scratch::new("password"), free_port());
    let first = first
        .replace("0.0.0.0:1883", &format!("127.0.0.1:{port}"))
        .replace("--config ringmq.toml", "--config ringmq.toml &");
    let mut script = first + &await_broker(&[port]);
    for line in second.lines() {
        let (command, says) = line.split_once("  # ").unwrap_or((line, ""));
        let command = match command.split_whitespace().nth(1) {
            Some("sub") => format!("{command} -p {port} -W 60 -C 1 > heard & heard=$!"),
            Some("pub") => format!("{command} -p {port} -q 1 -r\nwait $heard\ncat heard"),
            _ => format!("{command} > answer\ngrep -F '{}' answer", says.trim()),
        };
        script += &format!("{command}\n");
    }
    let said = run(&script, "secret\n", &dir);
    assert!(said.contains("\nhome/lamp on\n"), "{said}");
}

#[test]
fn a_try_at_tls_and_websocket() {
    if program("mosquitto_pub").is_none() || program("openssl").is_none() {
        return;
    }
    let [first, second] = &blocks("transport.md", "## Try it")[..] else {
        panic!("the broker, and its clients");
    };
    let (dir, tls, web) = (Scratch::new("tls"), free_port(), free_port());
    let here = |text: &str| {
        text.replace("8883", &tls.to_string())
            .replace("8443", &web.to_string())
            .replace("mqtts://localhost ", &format!("mqtts://localhost:{tls} "))
    };
    let first = here(first).replace("--config ringmq.toml", "--config ringmq.toml &");
    let mut script = first + &await_broker(&[tls, web]);
    for line in here(second).lines() {
        script += &match line.split_whitespace().next() {
            // It is another package's.
            Some("loadgen") => continue,
            Some("openssl") => format!("{line} < input | grep 'Verification: OK'\n"),
            Some("ringmq") if line.starts_with("ringmq sub") => {
                format!("{line} -W 60 -C 1 > heard & heard=$!\n")
            }
            _ => format!("{line} -q 1 -r\n"),
        };
    }
    script += "wait $heard\ngrep -F 'a hello' heard\n";
    run(&script, "", &dir);
}

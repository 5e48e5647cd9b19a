//! Who comes in: every way to prove who one is, over a real broker, with outside clients and outside makers of files.

mod common;
#[path = "interop/outside.rs"]
mod outside;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::*;
use outside::{Outside, program};
use ring::hmac;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Lines that mosquitto 1.6, 2.0 and 2.1 wrote; the password is `secret`.
const LINES: &str = "\
# what mosquitto and its plugin write
six:$6$t/l1jOpzJ379cy2j$LhBlkt0hFWVD6+gDDBOPZnJSiDy7VKDN4fJMGerqBKh560h4NTumW7r83tc1azG4Vd1aZcC71WLMZ4TvWSUaYA==
seven:$7$101$THJ5PonN2//excv1$oh0OD7V8xDy+iXCLk9/a71TA6OK6GXE7zr4cNkQKdVOjBoYTW7knfaMdVujiDOCQkpBQZ4qaptU/U2lzNYXnOQ==
argon:$argon2id$v=19$m=47104,t=1,p=1$bW9zcXVpdHRvIHNhbHQgb2Ygc2l4dHktZm91ciBieXRlcywgYXMgbW9zcXVpdHRvIDIuMSB3cml0ZXMgb25lIQ$brVDMu2Fbn6875GLDkrP7nIEIAyCOnMlufrs32wogjYNmV69WTc3RB9gI6Khl7rQH+E1TZWtM98U8wl7ztue6w
";
/// A second in which machines under load may be late.
const SOON: Duration = Duration::from_secs(60);

fn ringmq(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command.args(args).stdin(Stdio::null());
    command.output().expect("the binary can be started")
}

/// A line of a password file.
fn line(kind: &str, user: &str, password: &str) -> String {
    let made = ringmq(&["passwd", "-b", "-H", kind, "-", user, password]);
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).expect("text")
}

fn with_passwords(file: &str, more: &[&str]) -> Broker {
    let file = format!("login.password-file={file}");
    let args = [&["--auth", "password", "--set", &file][..], more].concat();
    Broker::start(2, &args)
}

/// The code of CONNACK, and whether the client stays.
fn code(broker: &Broker, connect: &Connect) -> (u8, Raw) {
    let mut client = Raw::open(broker);
    client.send_connect(connect);
    let code = client.read_connack().code;
    if code != 0 {
        client.expect_closed();
    }
    (code, client)
}

fn as_user(user: &str, password: impl AsRef<[u8]>) -> Connect {
    Connect::v5(unique("c")).user_name(user).password(password)
}

#[test]
fn passwords_in_every_format_let_in_who_knows_them() {
    let dir = Scratch::new("passwords");
    let ours: String = ["argon2id", "sha512-pbkdf2", "scram-sha-256"]
        .map(|kind| line(kind, kind, "secret"))
        .concat();
    let file = dir.write("passwords", &format!("{LINES}{ours}"));
    let broker = with_passwords(&file, &[]);
    for user in [
        "six",
        "seven",
        "argon",
        "argon2id",
        "sha512-pbkdf2",
        "scram-sha-256",
    ] {
        // The second time it is remembered.
        for _ in 0..2 {
            assert_eq!(code(&broker, &as_user(user, "secret")).0, 0, "{user}");
        }
        assert_eq!(code(&broker, &as_user(user, "Secret")).0, 0x86, "{user}");
        let old = Connect::v311(unique("c")).user_name(user);
        assert_eq!(code(&broker, &old.password("secret")).0, 0, "{user}");
    }
    // One answer for who is unknown and who is wrong, in each version's words.
    assert_eq!(code(&broker, &as_user("nobody", "secret")).0, 0x86);
    let old = Connect::v311(unique("c")).user_name("six");
    assert_eq!(code(&broker, &old.password("wrong")).0, 4);
    assert_eq!(code(&broker, &Connect::v5(unique("c"))).0, 0x87);
    assert_eq!(code(&broker, &Connect::v311(unique("c"))).0, 5);
    assert_eq!(
        code(&broker, &Connect::v5(unique("c")).user_name("six")).0,
        0x87
    );
    broker.await_log("refused: the User Name or the Password is wrong");
    let log = broker.log();
    assert!(!log.contains("secret") && !log.contains("$argon"), "{log}");
}

#[test]
fn what_is_sent_behind_connect_waits_for_the_verdict() {
    let dir = Scratch::new("behind");
    let file = dir.write("passwords", &line("argon2id", "al", "secret"));
    let broker = with_passwords(&file, &[]);
    let topic = unique("behind");
    let mut bytes = as_user("al", "secret").encode();
    bytes.extend(subscribe(Version::V5, 1, &[(&topic, 1)]));
    let mut client = Raw::open(&broker);
    client.version = Version::V5;
    client.send(&bytes);
    assert_eq!(client.read_connack().code, 0);
    assert_eq!(client.wait_for(SUBACK).suback(Version::V5).codes, [1]);
    client.publish(&topic, 1, "x");
    assert_eq!(client.next_publish().text(), "x");
    // Of somebody who is not let in, nothing is done.
    let mut bytes = as_user("al", "wrong").encode();
    bytes.extend(Publish::v5(&topic, "y").qos(1, 2).encode());
    let mut stranger = Raw::open(&broker);
    stranger.version = Version::V5;
    stranger.send(&bytes);
    assert_eq!(stranger.read_connack().code, 0x86);
    client.expect_nothing_before_barrier();
}

/// The makers of password files understand each other, both ways, and mosquitto's clients hear what is wrong.
#[test]
fn mosquitto_s_tools_and_broker() {
    let (Some(maker), Some(publisher), Some(mosquitto)) = (
        program("mosquitto_passwd"),
        program("mosquitto_pub"),
        program("mosquitto"),
    ) else {
        return;
    };
    let dir = Scratch::new("tools");
    let file = dir.path("passwords");
    for (first, user) in [("-c", "al"), ("-b", "bo b")] {
        let mut make = Command::new(&maker);
        if first == "-c" {
            make.arg("-c");
        }
        let made = make.args(["-b", &file, user, "secret"]).output();
        assert!(made.expect("it is installed").status.success());
    }
    let publish = |port: u16, user: &str, password: &str| {
        let mut command = Command::new(&publisher);
        command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        command.args(["-t", "t", "-m", "x", "-q", "1", "-u", user, "-P", password]);
        let output = command.output().expect("it is installed");
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        (output.status.success(), said)
    };
    let broker = with_passwords(&file, &[]);
    let port = broker.addr.port();
    assert!(publish(port, "al", "secret").0);
    assert!(publish(port, "bo b", "secret").0);
    let (is_in, said) = publish(port, "al", "wrong");
    assert!(!is_in && said.contains("refused"), "{said}");

    // And mosquitto reads what ours writes: new, added, upgraded from plain text, deleted.
    let ours = dir.write("ours", "cy:secret\ndi:secret\n");
    let passwd = |args: &[&str]| {
        let made = ringmq(&[&["passwd", "-H", "sha512-pbkdf2"], args].concat());
        assert!(made.status.success(), "{made:?}");
    };
    passwd(&["-U", &ours]);
    passwd(&["-b", &ours, "ed", "secret"]);
    passwd(&["-D", &ours, "di"]);
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let config = format!(
        "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {ours}\npersistence false\n"
    );
    let config = dir.write("mosquitto.conf", &config);
    let mut command = Command::new(mosquitto);
    command.args(["-c", &config]).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut theirs = command.spawn().expect("it is installed");
    let deadline = std::time::Instant::now() + SOON;
    while TcpStream::connect(("127.0.0.1", port)).is_err() && std::time::Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let seen = ["cy", "di", "ed"].map(|user| publish(port, user, "secret").0);
    let _ = theirs.kill();
    let _ = theirs.wait();
    assert_eq!(seen, [true, false, true]);
}

#[test]
fn sighup_takes_new_passwords_or_keeps_the_old() {
    let dir = Scratch::new("again");
    let (al, bo) = (
        line("sha512-pbkdf2", "al", "secret"),
        line("sha512-pbkdf2", "bo", "secret"),
    );
    let file = dir.write("passwords", &al);
    let broker = with_passwords(&file, &[]);
    let (code_of_al, mut stays) = code(&broker, &as_user("al", "secret"));
    assert_eq!(code_of_al, 0);
    for (text, says) in [
        (format!("{al}bo:secret\n"), ":2: the password is not hashed"),
        (format!("{al}\n{al}"), ":3: `al` is in the file already"),
        (
            "al:$7$x$y$z\n".to_owned(),
            ":1: the iterations are not a number",
        ),
    ] {
        dir.write("passwords", &text);
        broker.read_again();
        broker.await_log(&format!("SIGHUP: {file}{says}"));
        assert_eq!(code(&broker, &as_user("al", "secret")).0, 0);
    }
    fs::remove_file(&file).expect("it was there");
    broker.read_again();
    broker.await_log(&format!("`login.password-file`: {file}: No such file"));
    assert_eq!(code(&broker, &as_user("al", "secret")).0, 0);

    stays.barrier();

    dir.write("passwords", &format!("{bo}{al}"));
    broker.read_again();
    let (code_of_bo, mut bo_is_in) = code(&broker, &as_user("bo", "secret"));
    assert_eq!(code_of_bo, 0);
    dir.write("passwords", &bo);
    broker.read_again();
    assert_eq!(code(&broker, &as_user("al", "secret")).0, 0x86);
    // Whose line is gone goes; whose line is the same stays, wherever it stands.
    stays.expect_closed_with(&[0x87]);
    broker.await_log("disconnected: its password was withdrawn");
    bo_is_in.barrier();
    // Another hash is another line, though the password is the same.
    dir.write("passwords", &line("scram-sha-256", "bo", "secret"));
    broker.read_again();
    bo_is_in.expect_closed_with(&[0x87]);
    // A line that is back is as good as new.
    dir.write("passwords", &al);
    broker.read_again();
    let (code_of_al, mut stays) = code(&broker, &as_user("al", "secret"));
    assert_eq!(code_of_al, 0);
    broker.read_again();
    stays.barrier();
}

#[test]
fn a_session_is_its_user_s_after_a_restart_too() {
    let dir = Scratch::new("owner");
    let users = [
        line("sha512-pbkdf2", "al", "secret"),
        line("sha512-pbkdf2", "bo", "secret"),
    ];
    let file = dir.write("passwords", &users.concat());
    let data = dir.path("data");
    let start = || with_passwords(&file, &["--data-dir", &data, "--durability", "power"]);
    let ids = [unique("c"), unique("c")];
    let present = |broker: &Broker, user: &str, id: &str| {
        let hour = prop::four(0x11, 3_600);
        let connect = Connect::v5(id).clean(false).properties(hour);
        let mut client = Raw::open(broker);
        client.send_connect(&connect.user_name(user).password("secret"));
        let connack = client.read_connack();
        assert_eq!(connack.code, 0);
        client.disconnect();
        connack.session_present
    };
    let broker = start();
    for id in &ids {
        assert!(!present(&broker, "al", id));
        assert!(present(&broker, "al", id));
    }
    drop(broker);
    // Once more without anybody having come in between.
    drop(start());
    let broker = start();
    assert!(present(&broker, "al", &ids[0]));
    assert!(!present(&broker, "bo", &ids[1]), "it is al's");
    assert!(!present(&broker, "al", &ids[1]), "it is bo's now");
}

#[test]
fn each_listener_asks_for_its_own_proof() {
    let dir = Scratch::new("each");
    let file = dir.write("passwords", &line("sha512-pbkdf2", "al", "secret"));
    let socket = dir.path("socket");
    let bind = format!("listener.local.bind=unix:{socket}");
    let set = ["--set", &bind, "--set", "listener.local.auth=anonymous"];
    let broker = with_passwords(&file, &set);
    assert_eq!(code(&broker, &Connect::v5(unique("c"))).0, 0x87);
    assert_eq!(code(&broker, &as_user("al", "secret")).0, 0);
    let local = ringmq(&["pub", "--unix", &socket, "-t", "t", "-m", "x", "-q", "1"]);
    assert!(local.status.success(), "{local:?}");
}

#[test]
fn who_may_not_wait_is_told_to_come_again() {
    let dir = Scratch::new("busy");
    let file = dir.write("passwords", &line("argon2id", "al", "secret"));
    let set = [
        "--set",
        "login.waiting-max=2",
        "--set",
        "login.threads=1",
        "--set",
        "limits.ban-auth-failures-max=infinity",
    ];
    let broker = with_passwords(&file, &set);
    // All at once, each with another password, so that nothing is remembered.
    let mut crowd: Vec<Raw> = (0..40).map(|_| Raw::open(&broker)).collect();
    for (n, client) in crowd.iter_mut().enumerate() {
        client.send_connect(&as_user("al", format!("wrong {n}")));
    }
    let mut codes: Vec<u8> = crowd
        .iter_mut()
        .map(|client| client.read_connack().code)
        .collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes, [0x86, 0x89]);
    assert_eq!(code(&broker, &as_user("al", "secret")).0, 0);
}

// Tokens.

const SECRET: &[u8] = b"a secret of thirty-two bytes or more";

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is later").as_secs()
}

fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!(
        "{}.{}",
        part(&json!({"alg": "HS256", "typ": "JWT"})),
        part(claims)
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let tag = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[test]
fn a_token_says_who_what_and_how_long() {
    let dir = Scratch::new("tokens");
    let file = dir.write("secret", std::str::from_utf8(SECRET).expect("text"));
    let set = format!("login.jwt.secret-file={file}");
    let leeway = "login.jwt.leeway=0";
    let broker = Broker::start(2, &["--auth", "jwt", "--set", &set, "--set", leeway]);
    let with = |claims: &Value| as_user("whatever", token(claims));
    let hour = now_s() + 3_600;
    for (claims, wanted) in [
        (json!({"sub": "al", "exp": hour}), 0),
        (json!({"sub": "al"}), 0x87),
        (json!({"sub": "al", "exp": now_s() - 1}), 0x87),
        (json!({"sub": "al", "exp": hour, "nbf": hour}), 0x87),
        (json!({"sub": "al", "exp": hour, "clientid": "other"}), 0x87),
    ] {
        assert_eq!(code(&broker, &with(&claims)).0, wanted, "{claims}");
    }
    let forged = token(&json!({"sub": "al", "exp": hour})).replace('.', ".e");
    assert_eq!(code(&broker, &as_user("al", forged)).0, 0x87);
    assert_eq!(code(&broker, &as_user("al", "no token")).0, 0x87);

    // Rules that come with it hold for its client.
    let acl = json!({"pub": ["up/%u/#"], "sub": ["down/${clientid}"]});
    let id = unique("ruled");
    let connect = Connect::v5(&id).password(token(&json!({"sub": "al", "exp": hour, "acl": acl})));
    let mut client = Raw::open(&broker);
    client.send_connect(&connect);
    assert_eq!(client.read_connack().code, 0);
    assert_eq!(
        client.subscribe(&[("#", 0), (&format!("down/{id}"), 0), ("up/al/x", 0)]),
        [0, 0, 0x87]
    );
    for (topic, reason) in [("up/al/x", 0), ("up/bo/x", 0x87), ("down/x", 0x87)] {
        let publish = Publish::v5(topic, "x").qos(1, client.next_id());
        client.send(&publish.encode());
        assert_eq!(client.wait_for_ack(PUBACK).reason, reason, "{topic}");
    }

    // And the client goes when it ends.
    let ends = json!({"sub": "al", "exp": now_s() + 2});
    let (ended, mut client) = code(&broker, &with(&ends));
    assert_eq!(ended, 0);
    client.expect_closed_with(&[0xa0]);
    let mut old = Raw::open(&broker);
    let ends = json!({"sub": "al", "exp": now_s() + 2});
    old.send_connect(
        &Connect::v311(unique("old"))
            .user_name("al")
            .password(token(&ends)),
    );
    assert_eq!(old.read_connack().code, 0);
    old.expect_closed_quietly();
    broker.await_log("the token with which the client came in has expired");
}

/// Tokens signed by OpenSSL with each kind of key, in paho's hands.
#[test]
fn paho_with_tokens_of_openssl() {
    let (Some(paho), Some(_)) = (Outside::find("paho"), program("openssl")) else {
        return;
    };
    let dir = Scratch::new("paho");
    let secret = dir.write("secret", std::str::from_utf8(SECRET).expect("text"));
    let keys = [
        (
            "rsa",
            &[
                "genpkey",
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
            ][..],
        ),
        (
            "p256",
            &[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ],
        ),
        ("ed25519", &["genpkey", "-algorithm", "ED25519"]),
    ];
    let openssl = |args: &[&str]| {
        let made = Command::new("openssl").args(args).output();
        assert!(made.expect("it is installed").status.success(), "{args:?}");
    };
    let mut args = vec!["--auth".to_owned(), "jwt".into()];
    args.extend(["--set".into(), format!("login.jwt.secret-file={secret}")]);
    let mut public = Vec::new();
    for (name, make) in keys {
        let (key, shown) = (
            dir.path(&format!("{name}.key")),
            dir.path(&format!("{name}.pub")),
        );
        openssl(&[make, &["-out", &key]].concat());
        openssl(&["pkey", "-in", &key, "-pubout", "-out", &shown]);
        public.push(shown);
    }
    args.extend([
        "--set".into(),
        format!("login.jwt.key-file={}", public.join(",")),
    ]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let broker = Broker::start(2, &args);
    let keys = dir.path("");
    let (host, port) = (broker.addr.ip().to_string(), broker.addr.port().to_string());
    paho.with_script("paho_tokens.py")
        .run_args(&[&host, &port, &unique("paho"), &keys]);
}

// SCRAM.

/// MQTT.js does SCRAM-SHA-256 with Node's cryptography: in, again, and with a wrong password.
#[test]
fn mqttjs_with_scram() {
    let Some(mqttjs) = Outside::find("mqttjs") else {
        return;
    };
    let dir = Scratch::new("scram");
    let file = dir.write(
        "passwords",
        &(line("scram-sha-256", "al", "secret") + &line("argon2id", "bo", "secret")),
    );
    let broker = with_passwords(&file, &[]);
    let (host, port) = (broker.addr.ip().to_string(), broker.addr.port().to_string());
    mqttjs
        .with_script("mqttjs_scram.js")
        .run_args(&[&host, &port, &unique("scram")]);
}

#[test]
fn an_exchange_that_goes_wrong_ends() {
    let dir = Scratch::new("exchange");
    let file = dir.write("passwords", &line("scram-sha-256", "al", "secret"));
    let broker = with_passwords(&file, &[]);
    let method = |name: &str| prop::text(0x15, name);
    let begins = |data: &str| {
        let properties = [method("SCRAM-SHA-256"), prop::text(0x16, data)].concat();
        Connect::v5(unique("c")).properties(properties)
    };
    let unknown = Connect::v5(unique("c")).properties(method("GS2-KRB5"));
    assert_eq!(code(&broker, &unknown).0, 0x8c);
    assert_eq!(code(&broker, &begins("nonsense")).0, 0x87);
    let first = begins("n,,n=al,r=abcdefghijklmnop");
    let challenged = || {
        let mut client = Raw::open(&broker);
        client.send_connect(&first);
        let auth = client.read_packet().auth();
        assert_eq!(auth.reason, 0x18);
        client
    };
    for (bytes, reason) in [
        // Another method, a proof that is none, another packet, AUTH with the wrong code.
        (auth(0x18, &method("PLAIN")), 0x8c),
        (
            auth(
                0x18,
                &[method("SCRAM-SHA-256"), prop::text(0x16, "c=biws")].concat(),
            ),
            0x87,
        ),
        (pingreq(), 0x82),
        (auth(0x19, &method("SCRAM-SHA-256")), 0x82),
    ] {
        let mut client = challenged();
        client.try_send(&bytes);
        let sent = client.closed_within(ARRIVES);
        let last = sent.last().expect("it is told why");
        let told = match last.kind() {
            CONNACK => last.connack(Version::V5).code,
            _ => last.disconnect().reason,
        };
        assert_eq!(told, reason);
    }
    // Who says nothing is told so in the end.
    let hasty = with_passwords(&file, &["--set", "limits.connect-timeout=500ms"]);
    let mut client = Raw::open(&hasty);
    client.send_connect(&first);
    assert_eq!(client.read_packet().auth().reason, 0x18);
    assert_eq!(client.read_connack().code, 0x87);
    client.expect_closed();
    hasty.await_log("refused: no AUTH within the time allowed");
    // Who came in with a password has nothing to say again.
    let (code, mut client) = code(&broker, &as_user("al", "secret"));
    assert_eq!(code, 0);
    client.try_send(&auth(0x19, &method("SCRAM-SHA-256")));
    client.expect_closed_with(&[0x82]);
}

// A service.

/// A service that answers by User Name, and counts what it is asked.
struct Service {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let url = format!("http://{}/auth", listener.local_addr().expect("bound"));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let count = Arc::clone(&count);
                thread::spawn(move || serve(stream, &count));
            }
        });
        Self { url, asked }
    }

    fn broker(&self, more: &[&str]) -> Broker {
        let url = format!("login.http.url={}", self.url);
        let args = [&["--auth", "http", "--set", &url][..], more].concat();
        Broker::start(2, &args)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, count: &AtomicUsize) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut bytes, mut is_authorized, mut line) = (0, false, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let lower = line.to_lowercase();
            is_authorized |= line.trim_end() == "authorization: Bearer hello";
            if let Some(length) = lower.strip_prefix("content-length: ") {
                bytes = length.trim().parse().expect("a number");
            }
            if lower == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; bytes];
        reader.read_exact(&mut body).expect("a body");
        let question: Value = serde_json::from_slice(&body).expect("JSON");
        count.fetch_add(1, Ordering::SeqCst);
        let hour = now_s() + 3_600;
        let (status, answer) = match question["username"].as_str().unwrap_or("") {
            "al" => ("200 OK", json!({"result": "allow"})),
            "ruled" => (
                "200 OK",
                json!({"result": "allow", "expire_at": hour, "acl": [
                    {"permission": "allow", "action": "publish", "topic": "up/#"}]}),
            ),
            "over" => ("200 OK", json!({"result": "allow", "expire_at": 1_000})),
            "soon" => (
                "200 OK",
                json!({"result": "allow", "expire_at": now_s() + 2}),
            ),
            "bearer" if is_authorized => ("200 OK", json!({"result": "allow"})),
            "broken" => ("500 Internal Server Error", json!({})),
            "slow" => {
                thread::sleep(Duration::from_secs(5));
                ("200 OK", json!({"result": "allow"}))
            }
            _ => ("200 OK", json!({"result": "deny"})),
        };
        let answer = answer.to_string();
        let bytes = answer.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\n\r\n{answer}");
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn a_service_says_who_comes_in() {
    let service = Service::start();
    let dir = Scratch::new("service");
    let bearer = dir.write("bearer", "Bearer hello\n");
    let set = format!("login.http.authorization-file={bearer}");
    let broker = service.broker(&["--set", &set]);
    for (user, wanted) in [
        ("al", 0),
        ("bearer", 0),
        ("nobody", 0x86),
        ("over", 0x87),
        ("broken", 0x88),
    ] {
        assert_eq!(code(&broker, &as_user(user, "secret")).0, wanted, "{user}");
    }
    let (ruled, mut client) = code(&broker, &as_user("ruled", "secret"));
    assert_eq!((ruled, client.subscribe(&[("up/x", 0)])), (0, vec![0x87]));
    let (soon, mut client) = code(&broker, &as_user("soon", "secret"));
    assert_eq!(soon, 0);
    client.expect_closed_with(&[0xa0]);

    // An answer is remembered for the same client with the same words.
    let connect = as_user("al", "remembered");
    assert_eq!(code(&broker, &connect).0, 0);
    let before = service.asked();
    for _ in 0..5 {
        assert_eq!(code(&broker, &connect).0, 0);
    }
    assert_eq!(service.asked(), before);
    assert_eq!(code(&broker, &as_user("al", "remembered")).0, 0);
    assert_eq!(service.asked(), before + 1);
}

#[test]
fn a_service_that_fails_is_left_alone() {
    let service = Service::start();
    let set = ["--set", "login.http.timeout=200ms"];
    let never = ["--set", "limits.ban-auth-failures-max=infinity"];
    let broker = service.broker(&[set, never].concat());
    for _ in 0..5 {
        assert_eq!(code(&broker, &as_user("slow", "x")).0, 0x88);
    }
    broker.await_log("the authentication service does not answer");
    let before = service.asked();
    for _ in 0..10 {
        assert_eq!(code(&broker, &as_user("al", "x")).0, 0x88);
    }
    assert!(service.asked() <= before + 1);
    broker.await_log("is left alone for now");
    let deadline = std::time::Instant::now() + SOON;
    while code(&broker, &as_user("al", "x")).0 != 0 {
        assert!(std::time::Instant::now() < deadline, "it is asked again");
        thread::sleep(Duration::from_millis(200));
    }
}

// Certificates.

#[test]
fn a_certificate_says_who_its_client_is() {
    let dir = Scratch::new("certificates");
    let certs = dir.path("certs");
    let made = ringmq(&["cert", "dev", "--dir", &certs, "--client", "sensor"]);
    assert!(made.status.success(), "{made:?}");
    let file = |name: &str| dir.path(&format!("certs/{name}"));
    let acl = dir.write("acl", "user sensor\ntopic write up/#\n");
    let set: Vec<String> = [
        ("listener.tcp.auth", "cert"),
        ("listener.tcp.tls.certificate-file", &file("server.crt")),
        ("listener.tcp.tls.key-file", &file("server.key")),
        ("listener.tcp.tls.client-ca-file", &file("ca.crt")),
        ("listener.tcp.tls.client-certificate", "required"),
        ("listener.tcp.tls.username-from", "cn"),
        ("acl.file", &acl),
    ]
    .iter()
    .flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")])
    .collect();
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let broker = Broker::start(2, &set);
    let port = broker.addr.port().to_string();
    let (ca, certificate, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let mut tools = vec![vec![
        env!("CARGO_BIN_EXE_ringmq").to_owned(),
        "pub".to_owned(),
    ]];
    if let Some(mosquitto) = program("mosquitto_pub") {
        tools.push(vec![mosquitto.to_str().expect("text").to_owned()]);
    }
    for tool in tools {
        let publish = |more: &[&str]| {
            let mut command = Command::new(&tool[0]);
            command.args(&tool[1..]).args(["-h", "localhost"]);
            command.args([
                "-p", &port, "--cafile", &ca, "-m", "x", "-q", "1", "-V", "5",
            ]);
            let output = command.args(more).output().expect("it is installed");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).to_lowercase();
            (output.status.success(), said)
        };
        let shown = ["--cert", &certificate, "--key", &key];
        // A User Name that it merely says changes nothing.
        let may = publish(&[&shown[..], &["-t", "up/x", "-u", "root", "-P", "x"]].concat());
        assert!(may.0 && !may.1.contains("not authorized"), "{may:?}");
        let (_, said) = publish(&[&shown[..], &["-t", "down/x"]].concat());
        assert!(
            said.contains("not authorized") || said.contains("not authorised"),
            "{tool:?}: {said}"
        );
        assert!(!publish(&["-t", "up/x"]).0, "{tool:?}");
    }
    broker.await_log("(user 'sensor') was not permitted to publish to \"down/x\"");
}

// Files with mistakes.

/// Everything that is wrong with files is told at once, by `--test-config`, `config check` and at the start.
#[test]
fn mistakes_in_files_are_told_with_their_place() {
    let dir = Scratch::new("mistakes");
    let passwords = dir.write("passwords", "al:secret\nplain\n");
    let acl = dir.write("acl", "user al\ntopic read a/#/b\nallow a\n");
    let shadow = dir.write("shadow", "topic\n");
    let jwks = dir.write("keys.json", "{\n\"keys\": oops\n}\n");
    let pem = dir.write(
        "key.pem",
        "# a key\n-----BEGIN PUBLIC KEY-----\n!!\n-----END PUBLIC KEY-----\n",
    );
    let short = dir.write("short", "too short");
    let crt = dir.write("server.crt", "no certificate\n");
    let config = dir.write(
        "ringmq.toml",
        "[login]\npassword-file = \"passwords\"\njwt.jwks-file = \"keys.json\"\njwt.key-file = \"key.pem\"\n\
         jwt.secret-file = \"short\"\n[acl]\nfile = \"acl\"\nshadow-file = \"shadow\"\n\
         [listener.tls]\nbind = \"127.0.0.1:0\"\ntls.certificate-file = \"server.crt\"\ntls.key-file = \"missing.key\"\n",
    );
    for args in [
        &["--test-config", "--config", &config][..],
        &["config", "check", "--config", &config],
        &["--config", &config],
    ] {
        let output = ringmq(args);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for wanted in [
            format!("ringmq: {passwords}:1: the password is not hashed"),
            format!("ringmq: {passwords}:2: there is no colon"),
            format!("ringmq: {acl}:2: `a/#/b`: `#` must be the last level"),
            format!("ringmq: {acl}:3: `allow` is not `topic`, `user` or `pattern`"),
            format!("ringmq: {shadow}:1: `topic` without a topic"),
            format!("ringmq: {jwks}:2: this is no JSON"),
            format!("ringmq: {pem}:2: what is in the PEM block is not base64"),
            format!("ringmq: {short}: a secret of less than 32 bytes can be guessed"),
            format!(
                "ringmq: {config}:11:5: `listener.tls.tls.certificate-file`: {crt}: no certificate in PEM"
            ),
        ] {
            assert!(said.contains(&wanted), "{wanted} in\n{said}");
        }
    }
}

//! Who may publish and read what, over a real broker: rules at every place that asks them, while they change, and on trial.

mod common;
#[path = "interop/outside.rs"]
mod outside;

use common::*;
use outside::program;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const RULES: &str = "\
# who has no name
topic read public/#
user al
topic readwrite house/#
topic deny house/safe/#
topic read news/+
user bo
topic write house/#
pattern readwrite own/%u/%c/#
";

fn ringmq(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command.args(args).stdin(Stdio::null());
    command.output().expect("the binary can be started")
}

/// A broker with the users al, bo and root, whose password is their name.
struct Guarded {
    broker: Broker,
    dir: Scratch,
}

impl Guarded {
    fn start(rules: &str, more: &[&str]) -> Self {
        let dir = Scratch::new("access");
        let mut passwords = String::new();
        for user in ["al", "bo", "root"] {
            let args = ["passwd", "-b", "-H", "sha512-pbkdf2", "-", user, user];
            let made = ringmq(&args);
            passwords.push_str(std::str::from_utf8(&made.stdout).expect("text"));
        }
        let passwords = format!("login.password-file={}", dir.write("passwords", &passwords));
        let file = format!("acl.file={}", dir.write("acl", rules));
        let args = ["--auth", "password", "--set", &passwords, "--set", &file];
        let broker = Broker::start(2, &[&args[..], more].concat());
        Self { broker, dir }
    }

    fn client(&self, user: &str) -> Raw {
        self.named(user, &unique(user))
    }

    fn named(&self, user: &str, id: &str) -> Raw {
        let connect = Connect::v5(id).user_name(user).password(user);
        Raw::connect(&self.broker, &connect)
    }

    /// Changes the rules.
    fn rules(&self, rules: &str) {
        self.dir.write("acl", rules);
        self.broker.read_again();
    }
}

/// The Reason Code of a QoS 1 PUBLISH.
fn publish(client: &mut Raw, topic: &str, payload: &str) -> u8 {
    let id = client.next_id();
    client.send(&Publish::v5(topic, payload).qos(1, id).encode());
    client.wait_for_ack(PUBACK).reason
}

#[test]
fn publishing_and_subscribing() {
    let guarded = Guarded::start(RULES, &[]);
    let id = unique("al");
    let mut al = guarded.named("al", &id);
    for (topic, reason) in [
        ("house/a", 0x10),
        ("house/safe/a", 0x87),
        ("news/a", 0x87),
        ("public/a", 0x87),
        (&format!("own/al/{id}/x"), 0x10),
        (&format!("own/bo/{id}/x"), 0x87),
        ("own/al/other/x", 0x87),
        ("elsewhere", 0x87),
    ] {
        assert_eq!(publish(&mut al, topic, "x"), reason, "{topic}");
    }
    for (filter, code) in [
        ("house/#", 0),
        ("#", 0),
        ("news/x", 0),
        ("house/safe/#", 0x87),
        ("public/#", 0x87),
        ("$SYS/#", 0x87),
        ("$share/g/house/a", 0),
        ("$share/g/house/safe/a", 0x87),
        (&format!("own/al/{id}/#"), 0),
        ("own/bo/#", 0x87),
    ] {
        assert_eq!(al.subscribe(&[(filter, 0)]), [code], "{filter}");
    }
    // QoS 2 is told in PUBREC, and its Packet Identifier is free again; QoS 0 goes nowhere.
    let mut bo = guarded.client("bo");
    let id = bo.next_id();
    bo.send(&Publish::v5("news/a", "x").qos(2, id).encode());
    assert_eq!(bo.wait_for_ack(PUBREC).reason, 0x87);
    bo.send(&Publish::v5("house/a", "x").qos(2, id).encode());
    assert_eq!(bo.wait_for_ack(PUBREC).reason, 0);
    bo.send(&ack(PUBREL, id));
    bo.wait_for_ack(PUBCOMP);
    bo.publish("news/a", 0, "x");
    bo.barrier();
    let log = |text: &str| guarded.broker.await_log(text);
    log("(user 'al') was not permitted to publish to \"house/safe/a\"");
    log("(user 'al') was not permitted to subscribe to \"house/safe/#\"");
    log("acl:5: deny house/safe/#");

    // 3.1.1 has one code for a filter, and none for a message.
    let connect = Connect::v311(unique("old")).user_name("al");
    let mut old = Raw::connect(&guarded.broker, &connect.password("al"));
    assert_eq!(
        old.subscribe(&[("house/safe/#", 1), ("house/a", 1)]),
        [0x80, 1]
    );
    old.publish("house/safe/a", 1, "x");
    old.publish("house/safe/a", 2, "x");
    old.publish("house/a", 1, "y");
    assert_eq!(old.next_publish().text(), "y");
}

#[test]
fn what_is_delivered_is_judged_message_by_message() {
    let guarded = Guarded::start(&format!("{RULES}user root\ntopic readwrite #\n"), &[]);
    let mut root = guarded.client("root");
    for topic in ["house/a", "house/safe/a", "news/a", "news/a/b"] {
        root.retain(topic, 1, format!("kept {topic}"));
    }
    let mut al = guarded.client("al");
    al.subscribe(&[("#", 1)]);
    let texts = |client: &mut Raw, count| {
        let received = client.receive(count);
        let mut texts: Vec<String> = received.iter().map(Received::text).collect();
        texts.sort_unstable();
        texts
    };
    assert_eq!(texts(&mut al, 2), ["kept house/a", "kept news/a"]);
    for topic in ["house/safe/b", "public/b", "news/b", "house/b"] {
        root.publish(topic, 1, topic);
    }
    assert_eq!(texts(&mut al, 2), ["house/b", "news/b"]);
    al.expect_nothing_before_barrier();
    // A shared subscription gives each message to a member that may have it.
    let mut bo = guarded.client("bo");
    let mut other = guarded.client("root");
    let filter = "$share/g/house/#";
    assert_eq!(bo.subscribe(&[(filter, 1)]), [0x87]);
    al.unsubscribe(&["#"]);
    assert_eq!(al.subscribe(&[(filter, 1)]), [1]);
    assert_eq!(other.subscribe(&[(filter, 1)]), [1]);
    for n in 0..20 {
        root.publish("house/safe/shared", 1, n.to_string());
    }
    assert_eq!(other.receive(20).len(), 20);
    al.expect_nothing_before_barrier();
}

#[test]
fn wills() {
    let guarded = Guarded::start(RULES, &[]);
    let with_will = |topic: &str| {
        let will = Will::new(topic, "gone");
        let connect = Connect::v5(unique("willing")).user_name("bo");
        connect.password("bo").will(will)
    };
    for (connect, code) in [
        (with_will("house/a"), 0),
        (with_will("news/a"), 0x87),
        (with_will("house/a"), 0),
    ] {
        let mut client = Raw::open(&guarded.broker);
        client.send_connect(&connect);
        assert_eq!(client.read_connack().code, code);
    }
    let old = Connect::v311(unique("old")).user_name("bo").password("bo");
    let mut client = Raw::open(&guarded.broker);
    client.send_connect(&old.will(Will::new("news/a", "gone")));
    assert_eq!(client.read_connack().code, 5);
    // One that was granted is not published once the rules are others.
    let mut al = guarded.client("al");
    al.subscribe(&[("house/#", 1)]);
    let may = Raw::connect(&guarded.broker, &with_will("house/before"));
    may.vanish();
    assert_eq!(al.next_publish().topic, "house/before");
    let may_not = Raw::connect(&guarded.broker, &with_will("house/after"));
    guarded.rules("user al\ntopic read house/#\n");
    may_not.vanish();
    guarded
        .broker
        .await_log("(user 'bo') was not permitted to publish to \"house/after\"");
    al.expect_nothing_before_barrier();
}

#[test]
fn other_rules_hold_at_once_for_whoever_is_there() {
    let guarded = Guarded::start("user al\ntopic read #\nuser root\ntopic #\n", &[]);
    let id = unique("away");
    let mut root = guarded.client("root");
    let mut al = guarded.client("al");
    al.subscribe(&[("#", 1), ("$share/g/a", 1)]);
    // One whose messages wait for it.
    let connect = |clean: bool| {
        let stays = prop::four(0x11, 3_600);
        let connect = Connect::v5(&id).user_name("al").password("al");
        connect.clean(clean).properties(stays)
    };
    let mut away = Raw::connect(&guarded.broker, &connect(true));
    away.subscribe(&[("#", 1)]);
    away.disconnect();
    let told = |topic: &str, al: &mut Raw, root: &mut Raw| {
        root.publish(topic, 1, topic);
        assert_eq!(al.next_publish().topic, topic);
    };
    told("b", &mut al, &mut root);

    // A file with mistakes: everything stays.
    for (text, says) in [
        ("user al\ntopic read b\nread c\n", ":3: `read` is not"),
        ("user\ntopic read #\n", ":1: `user` without a name"),
    ] {
        guarded.rules(text);
        let file = guarded.dir.path("acl");
        guarded.broker.await_log(&format!("SIGHUP: {file}{says}"));
        told("c", &mut al, &mut root);
    }

    // A right one: the subscriptions that there are, the queue of who is away, and publishing.
    guarded.rules("user al\ntopic read d\ntopic deny c\nuser root\ntopic #\ntopic deny secret\n");
    for topic in ["b", "c", "a"] {
        assert_ne!(publish(&mut root, topic, topic), 0x87);
    }
    told("d", &mut al, &mut root);
    assert_eq!(publish(&mut root, "secret", "x"), 0x87);
    let mut back = Raw::connect(&guarded.broker, &connect(false));
    assert_eq!(back.next_publish().topic, "d");
    back.expect_nothing_before_barrier();

    // And back.
    guarded.rules("user al\ntopic read #\nuser root\ntopic #\n");
    told("b", &mut al, &mut root);
}

#[test]
fn rules_and_groups_of_the_configuration() {
    let dir = Scratch::new("groups");
    let config = dir.write(
        "ringmq.toml",
        "[acl]\ngroups = [\"crew: al, bo\"]\n\
         rules = [\"group crew: readwrite deck/%u/#\", \"deny deck/al/safe\", \"user root: #\"]\n",
    );
    let rules = "user al\ntopic readwrite deck/al/safe\n";
    let guarded = Guarded::start(rules, &["--config", &config]);
    // A denial of the configuration wins over the file.
    for (user, topic, reason) in [
        ("al", "deck/al/x", 0x10),
        ("al", "deck/al/safe", 0x87),
        ("al", "deck/bo/x", 0x87),
        ("bo", "deck/bo/x", 0x10),
        ("bo", "engine", 0x87),
        ("root", "engine", 0x10),
        ("root", "deck/al/safe", 0x87),
    ] {
        let mut client = guarded.client(user);
        assert_eq!(publish(&mut client, topic, "x"), reason, "{topic}");
    }
}

#[test]
fn rules_on_trial_are_told_and_not_kept() {
    let dir = Scratch::new("shadow");
    let trial = dir.write("next", "user al\ntopic read a\ntopic deny b\n");
    let set = format!("acl.shadow-file={trial}");
    let guarded = Guarded::start("user al\ntopic #\n", &["--set", &set]);
    let id = unique("al");
    let mut al = guarded.named("al", &id);
    assert_eq!(al.subscribe(&[("a", 1), ("b", 1), ("c", 1)]), [1, 1, 1]);
    for topic in ["a", "b", "c"] {
        al.publish(topic, 1, topic);
        assert_eq!(al.next_publish().topic, topic);
    }
    let will = unique("al");
    let connect = Connect::v5(&will).user_name("al").password("al");
    Raw::connect(&guarded.broker, &connect.will(Will::new("d", "x")));
    for text in [
        format!("Client {will} (user 'al') would not be permitted to publish to \"d\""),
        format!(
            "Client {id} (user 'al') would not be permitted to publish to \"b\": {trial}:3: deny b"
        ),
        format!("Client {id} (user 'al') would not be permitted to subscribe to \"c\""),
        format!("Client {id} (user 'al') would not be permitted to receive from \"b\""),
    ] {
        guarded.broker.await_log(&text);
    }
    assert!(!guarded.broker.log().contains("subscribe to \"a\""));
}

#[test]
fn acl_test_answers_with_file_and_line() {
    let dir = Scratch::new("acl-test");
    let file = dir.write("acl", RULES);
    let config = dir.write(
        "ringmq.toml",
        "[acl]\nfile = \"acl\"\nrules = [\"user al: read extra/#\", \"group crew: deny news/old\"]\n",
    );
    let ask = |args: &[&str]| {
        let output = ringmq(&[&["acl", "test"], args].concat());
        let said = String::from_utf8(output.stdout).expect("text");
        (output.status.code(), said.trim_end().to_owned())
    };
    for (args, status, said) in [
        (
            &["--user", "al", "--write", "house/a"][..],
            0,
            format!("allowed by {file}:4: readwrite house/#"),
        ),
        (
            &["--user", "al", "--write", "house/safe/a"],
            4,
            format!("denied by {file}:5: deny house/safe/#"),
        ),
        (
            &["--user", "al", "--read", "news/+"],
            0,
            format!("allowed by {file}:6: read news/+"),
        ),
        (
            &["--user", "bo", "--client", "c1", "--write", "own/bo/c1/x"],
            0,
            format!("allowed by {file}:9: readwrite own/%u/%c/#"),
        ),
        (
            &["--read", "public/a"],
            0,
            format!("allowed by {file}:2: read public/#"),
        ),
        (
            &["--user", "bo", "--read", "house/a"],
            4,
            "denied: no rule permits it".into(),
        ),
        (
            &["--user", "al", "--read", "extra/a"],
            0,
            format!("allowed by {config}:3:1 rule 1: read extra/#"),
        ),
        (
            &["--user", "al", "--group", "crew", "--read", "news/old"],
            4,
            format!("denied by {config}:3:1 rule 2: deny news/old"),
        ),
    ] {
        let args = [args, &["--config", &config]].concat();
        assert_eq!(ask(&args), (Some(status), said), "{args:?}");
    }
    let one = ["--file", &file, "--user", "al", "--write", "house/a"];
    assert_eq!(ask(&one).0, Some(0));
    let wrong = dir.write("wrong", "topic\n");
    let asked = ringmq(&["acl", "test", "--file", &wrong, "--read", "a"]);
    assert_eq!(asked.status.code(), Some(3));
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(
        said.contains(&format!("{wrong}:1: `topic` without a topic")),
        "{said}"
    );
}

/// The same file in mosquitto: who may publish what, as its subscribers see it.
#[test]
fn mosquitto_says_the_same() {
    let (Some(mosquitto), Some(maker)) = (program("mosquitto"), program("mosquitto_passwd")) else {
        return;
    };
    let rules = "\
topic read open/#
topic open/b
user al
topic readwrite a/#
topic deny a/x
topic read a/+/r
topic write w/+
pattern read p/%u/#
pattern write p/%c/in
user bo
topic deny #
user root
topic #
";
    let guarded = Guarded::start(rules, &[]);
    let dir = &guarded.dir;
    let passwords = dir.path("theirs");
    for (n, user) in ["al", "bo", "root"].iter().enumerate() {
        let mut make = Command::new(&maker);
        if n == 0 {
            make.arg("-c");
        }
        let made = make.args(["-b", &passwords, user, user]).output();
        assert!(made.expect("it is installed").status.success());
    }
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let addr = free.local_addr().expect("bound");
    drop(free);
    let config = format!(
        "listener {} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\nacl_file {}\npersistence false\n",
        addr.port(),
        dir.path("acl")
    );
    let mut command = Command::new(mosquitto);
    command.args(["-c", &dir.write("mosquitto.conf", &config)]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("it is installed");
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(addr).is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let theirs = Broker::at(addr);
    let topics = [
        "open/a", "open/b", "a", "a/x", "a/b/r", "a/x/r", "w/1", "w/1/2", "p/al/1", "p/c1/in",
        "p/c1/out", "p/bo/in", "z",
    ];
    // What each broker lets users publish and receive; root sees and sends everything.
    let seen = [&guarded.broker, &theirs].map(|broker| {
        let connect = |user: &str, id: &str| Connect::v5(id).user_name(user).password(user);
        let mut root = Raw::connect(broker, &connect("root", &unique("root")));
        root.subscribe(&[("#", 0)]);
        let mut may = Vec::new();
        for user in ["al", "bo"] {
            let mut client = Raw::connect(broker, &connect(user, "c1"));
            for topic in topics {
                client.publish(topic, 0, "up");
            }
            client.subscribe(&[("#", 0), ("+/+", 0), ("+/+/+", 0)]);
            client.barrier();
            for topic in topics {
                root.publish(topic, 0, "down");
            }
            root.publish("a/last/r", 0, "down");
            let mut up = Vec::new();
            let mut down = Vec::new();
            loop {
                let message = root.take_publish();
                match message.text().as_str() {
                    "up" => up.push(message.topic),
                    _ if message.topic == "a/last/r" => break,
                    _ => {}
                }
            }
            thread::sleep(Duration::from_millis(300));
            client.send(&pingreq());
            loop {
                let packet = client.read_packet();
                if packet.kind() != PUBLISH {
                    break;
                }
                let message = packet.publish(Version::V5);
                // Its own went up and came down.
                if message.text() == "down" {
                    down.push(message.topic);
                }
            }
            down.sort();
            down.dedup();
            may.push((user, up, down));
            client.disconnect();
        }
        may
    });
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(seen[0], seen[1]);
}

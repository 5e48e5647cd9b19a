//! The command line as an operator meets it: configuration, refusals, start, signals, and the small clients.

mod common;

use common::{Broker, Connect, Raw, Scratch, unique};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_file_that_is_missing_is_named_with_the_key_that_names_it_and_its_place() {
    let dir = Scratch::new("missing");
    let there = dir.write("there.pem", "nothing of that kind\n");
    let file = dir.write(
        "ringmq.toml",
        "[listener.a]\nbind = \"127.0.0.1:8883\"\ntls.certificate-file = \"a.pem\"\ntls.key-file = \"a.key\"\n\n\
         [listener.b]\nbind = \"127.0.0.1:1884\"\n\n\
         [acl]\nfile = \"rules\"\n\n\
         [login]\njwt.key-file = [\"there.pem\", \"token.pem\"]\npassword-file = \"users\"\n\
         http.url = \"http://127.0.0.1:1/\"\nhttp.authorization-file = \"bearer\"\n",
    );
    let shadow = format!("acl.shadow-file={}", dir.path("shadow"));
    let output = ringmq(&["--test-config", "--config", &file, "--set", &shadow]);
    assert_eq!(output.status.code(), Some(3));
    let of = |place: &str, key: &str, name: &str, what: &str| {
        let name = dir.path(name);
        format!("ringmq: {place}: `{key}`: {name}: {what}No such file or directory (os error 2)\n")
    };
    let at = |place: &str| format!("{file}:{place}");
    let expected = [
        of(
            &at("3:5"),
            "listener.a.tls.certificate-file",
            "a.pem",
            "cannot be read: ",
        ),
        of(&at("14:1"), "login.password-file", "users", ""),
        format!("ringmq: {there}: there is no key that can be used\n"),
        of(&at("13:5"), "login.jwt.key-file", "token.pem", ""),
        of(&at("16:6"), "login.http.authorization-file", "bearer", ""),
        of(&at("10:1"), "acl.file", "rules", ""),
        of("--set", "acl.shadow-file", "shadow", ""),
    ];
    assert_eq!(stderr(&output), expected.concat());
}

#[test]
fn a_mistake_in_the_file_is_named_with_its_place() {
    let dir = Scratch::new("mistake");
    let file = dir.write(
        "ringmq.toml",
        "cores = 2\n\n[limits]\npakcet-bytes-max = \"8MiB\"\nsessions-max = 0\n\n\
         [login]\npassword-file = [\"one\", \"two\"]\n",
    );
    let output = ringmq(&["config", "check", "--config", &file]);
    assert_eq!(output.status.code(), Some(3));
    let lines = stderr(&output);
    let expected = format!(
        "ringmq: {file}:4:1: unknown key `limits.pakcet-bytes-max`; did you mean `limits.packet-bytes-max`?\n\
         ringmq: {file}:5:1: `limits.sessions-max` is 0; it must be from 1 to 4294967295\n\
         ringmq: {file}:8:1: `login.password-file` must be one file\n"
    );
    assert_eq!(lines, expected);
    assert_eq!(
        ringmq(&["--test-config", "--config", &file]).status.code(),
        Some(3)
    );
    assert_eq!(ringmq(&["--config", &file]).status.code(), Some(3));

    let file = dir.write("good.toml", "[limits]\npacket-bytes-max = \"8MiB\"\n");
    for args in [
        &["config", "check", "--config", &file][..],
        &["--test-config", "--config", &file],
    ] {
        assert!(ringmq(args).status.success());
    }
    let missing = dir.path("missing.toml");
    let output = ringmq(&["config", "check", "--config", &missing]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("missing.toml"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn drop_ins_are_read_after_the_file_and_every_mistake_is_told() {
    let dir = Scratch::new("drop-ins");
    let file = dir.write("ringmq.toml", "[limits]\nsessions-max = 1\n");
    fs::create_dir(dir.path("conf.d")).unwrap();
    dir.write("conf.d/20.toml", "[limits]\nsessions-max = 3\n");
    dir.write("conf.d/10.toml", "[limits]\nsessions-max = 2\n");
    dir.write("conf.d/30.toml.bak", "no toml");
    let shown = stdout(&ringmq(&["config", "show", "--config", &file]));
    let line = shown.lines().find(|line| line.starts_with("sessions-max"));
    let place = dir.path("conf.d/20.toml:2:1");
    assert!(line.is_some_and(|line| line.ends_with(&place)), "{shown}");

    dir.write("ringmq.toml", "pin = 3\n");
    dir.write("conf.d/10.toml", "cores = \nlimits = \n");
    dir.write("conf.d/20.toml", "[listener.a]\nbind = \"nowhere\"\n");
    let said = stderr(&ringmq(&["config", "check", "--config", &file]));
    let places: Vec<_> = said
        .lines()
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    let expected = [
        dir.path("conf.d/10.toml:1:9"),
        dir.path("conf.d/10.toml:2:10"),
        format!("{file}:1:1"),
        dir.path("conf.d/20.toml:2:1"),
    ];
    assert_eq!(places, expected, "{said}");
}

#[test]
fn the_schema_in_docs_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ringmq.schema.json");
    let schema = stdout(&ringmq(&["config", "schema"]));
    assert!(
        fs::read_to_string(path).unwrap() == schema,
        "`ringmq config schema > docs/ringmq.schema.json` writes it anew"
    );
}

#[test]
fn what_is_in_force_is_shown_with_its_origin() {
    let dir = Scratch::new("show");
    let file = dir.write(
        "ringmq.toml",
        "cores = 2\npin = true\nlog-level = \"warn\"\n",
    );
    let output = command(&[
        "config",
        "show",
        "--config",
        &file,
        "--cores",
        "3",
        "--set",
        "limits.connect-timeout=2s",
    ])
    .env("RINGMQ_LOG_LEVEL", "debug")
    .env("RINGMQ_LIMITS__QUEUE_FULL", "disconnect")
    .output()
    .unwrap();
    let shown = stdout(&output);
    let squeezed: Vec<String> = shown
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for line in [
        "cores = 3 # --cores".to_owned(),
        format!("pin = true # {file}:2:1"),
        "log-level = \"debug\" # RINGMQ_LOG_LEVEL".to_owned(),
        "connect-timeout = \"2s\" # --set".to_owned(),
        "queue-full = \"disconnect\" # RINGMQ_LIMITS__QUEUE_FULL".to_owned(),
        "bind = \"127.0.0.1:1883\" # default".to_owned(),
    ] {
        assert!(squeezed.contains(&line), "{line} in\n{shown}");
    }
    // What is shown, and the sample, are files themselves.
    for text in [shown, stdout(&ringmq(&["config", "default"]))] {
        let file = dir.write("again.toml", &text);
        assert!(
            ringmq(&["config", "check", "--config", &file])
                .status
                .success(),
            "{text}"
        );
    }
}

#[test]
fn a_listener_for_other_machines_needs_a_word_for_it() {
    let output = ringmq(&["--bind", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        stderr(&output),
        "ringmq: --bind: 0.0.0.0:0 can be reached from other machines, and nothing says how their clients prove \
         who they are. Add auth = \"anonymous\" (--auth anonymous) to let everybody read and publish everything, \
         or auth = \"password\", \"cert\", \"jwt\" or \"http\", or bind 127.0.0.1 instead\n"
    );

    let mut broker =
        Running::start(&["--bind", "0.0.0.0:0", "--cores", "1", "--auth", "anonymous"]);
    broker.stop("TERM");
    let log = broker.log();
    assert!(
        log.contains("anyone who reaches it can read and publish everything"),
        "{log}"
    );
    assert!(!log.contains("local only"), "{log}");
}

#[test]
fn the_banner_is_one_line_and_each_listener_has_one() {
    let mut broker = Running::start(&[
        "--bind",
        "127.0.0.1:0",
        "--bind",
        "127.0.0.2:0",
        "--cores",
        "2",
        "--set",
        "limits.sessions-max=7",
    ]);
    let second = broker.line();
    assert!(second.starts_with("listening on 127.0.0.2:"), "{second}");
    broker.stop("INT");
    assert_eq!(broker.rest_of_stdout(), "");
    let log = broker.log();
    let banner = log.lines().find(|line| line.contains("ringmq "));
    let banner = banner.unwrap_or_default();
    for part in [
        env!("CARGO_PKG_VERSION"),
        "local only",
        "--auth anonymous",
        "no configuration file",
        "2 shards",
        &format!("mqtt://{}", broker.addr),
        "sessions-max=7",
    ] {
        assert!(banner.contains(part), "{part} in {banner}");
    }
}

#[test]
fn under_systemd_the_log_has_priorities_and_no_times() {
    let mut broker = Running::spawn(
        command(&["--bind", "127.0.0.1:0", "--cores", "1"]).env("JOURNAL_STREAM", "8:1"),
    );
    broker.stop("TERM");
    assert!(
        broker.log().lines().all(|line| line.starts_with("<6>")),
        "{}",
        broker.log()
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = ringmq(&["--bind", &addr, "--cores", "2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(&format!("cannot listen on {addr}")),
        "{}",
        stderr(&output)
    );
}

/// The kernel keeps the port of a ring with armed accepts a little longer than the process that had it.
#[test]
fn a_broker_that_was_killed_can_be_started_again_at_once() {
    let mut broker = Running::start(&["--bind", "127.0.0.1:0", "--cores", "2"]);
    let bind = broker.addr.to_string();
    for _ in 0..5 {
        let _client = connect_v5(broker.addr, "left-behind");
        broker.child.kill().unwrap();
        broker.child.wait().unwrap();
        broker = Running::start(&["--bind", &bind, "--cores", "2"]);
    }
    connect_v5(broker.addr, "served");
}

#[test]
fn a_data_directory_has_one_process_and_keeps_its_key() {
    let dir = Scratch::new("data");
    let data = dir.path("made/by/ringmq");
    let args = ["--bind", "127.0.0.1:0", "--cores", "1", "--data-dir", &data];
    let mut broker = Running::start(&args);
    let key_file = Path::new(&data).join("placement-key");
    let key = fs::read(&key_file).unwrap();
    assert_eq!(key.len(), 16);
    assert_eq!(
        fs::metadata(&key_file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let output = ringmq(&args);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("is in use by process {}", broker.child.id());
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));

    // However the first one ends, the directory is free again.
    broker.child.kill().unwrap();
    broker.child.wait().unwrap();
    let mut broker = Running::spawn(
        command(&["--bind", "127.0.0.1:0", "--cores", "1"]).env("STATE_DIRECTORY", &data),
    );
    broker.stop("TERM");
    assert!(
        broker.log().contains(&format!("data directory {data}")),
        "{}",
        broker.log()
    );
    assert_eq!(fs::read(&key_file).unwrap(), key);
}

#[test]
fn the_first_signal_says_goodbye_and_ends_with_0() {
    for signal in ["TERM", "INT"] {
        let mut broker = Running::start(&["--bind", "127.0.0.1:0", "--cores", "2"]);
        let mut client = connect_v5(broker.addr, &unique("bye"));
        let started = Instant::now();
        let status = broker.stop(signal);
        assert_eq!(status.code(), Some(0), "{}", broker.log());
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{:?}",
            started.elapsed()
        );
        // MQTT 5 §4.13.2: Server shutting down.
        assert_eq!(client.expect_disconnect().reason, 0x8b);
        client.expect_closed();
    }
}

#[test]
fn sighup_reads_everything_again_or_changes_nothing() {
    let dir = Scratch::new("sighup");
    let listener = "[listener.lan]\nbind = \"127.0.0.1:0\"\n";
    let file = dir.write("ringmq.toml", &format!("cores = 1\n{listener}"));
    let mut broker = Running::start(&["--config", &file]);
    let mut stays = connect_v5(broker.addr, &unique("stays"));

    let limits = "[limits]\nsessions-max = 1\npacket-bytes-max = \"1KiB\"\n";
    dir.write("ringmq.toml", &format!("cores = 2\n{listener}{limits}"));
    broker.signal("HUP");
    broker.await_log(
        "SIGHUP: read again; changed: limits.sessions-max; needs restart: cores, limits.packet-bytes-max.",
    );
    let mut refused = Raw::open_at(broker.addr);
    refused.send_connect(&Connect::v5(unique("refused")));
    assert_eq!(refused.read_connack().code, 0x97);
    stays.barrier();

    // A mistake anywhere: nothing changes.
    dir.write(
        "ringmq.toml",
        &format!("{listener}[limits]\nsessions-max = 5\nqueue-full = \"odd\"\n"),
    );
    broker.signal("HUP");
    broker.await_log(&format!("SIGHUP: {file}:5:1: `limits.queue-full` is `odd`"));
    broker.await_log("SIGHUP: nothing was changed");
    let mut refused = Raw::open_at(broker.addr);
    refused.send_connect(&Connect::v5(unique("refused")));
    assert_eq!(refused.read_connack().code, 0x97);

    // The lists of a listener are read at accept.
    dir.write(
        "ringmq.toml",
        &format!("{listener}deny = \"127.0.0.0/8\"\n"),
    );
    broker.signal("HUP");
    broker.await_log("changed: listener.lan.deny, limits.sessions-max; needs restart: cores.");
    Raw::open_at(broker.addr).expect_closed();
    stays.barrier();
    assert!(broker.stop("TERM").success());
}

#[test]
fn certificates_are_replaced_without_a_restart() {
    let dir = Scratch::new("certificates");
    let certs = dir.path("certs");
    let make = || {
        let made = ringmq(&["cert", "dev", "--dir", &certs, "--force"]);
        assert!(made.status.success(), "{made:?}");
    };
    make();
    let text = "[listener.tls]\nbind = \"127.0.0.1:0\"\n[listener.tls.tls]\n\
                certificate-file = \"certs/server.crt\"\nkey-file = \"certs/server.key\"\n";
    let file = dir.write("ringmq.toml", text);
    let mut broker = Running::start(&["--config", &file, "--cores", "1"]);
    fs::write(dir.path("certs/server.key"), "no key").unwrap();
    broker.signal("HUP");
    broker.await_log("`listener.tls.tls.key-file`: ");
    broker.await_log("SIGHUP: nothing was changed");
    // Also when they were found wrong before: by the thread that watches them, or by this.
    broker.signal("HUP");
    broker.await_times("`listener.tls.tls.key-file`: ", 2);
    make();
    broker.signal("HUP");
    broker.await_log("SIGHUP: read again; no key has changed");
    // By whom they were read is a matter of who comes first.
    let log = broker.log();
    assert!(
        log.contains("new certificates: listener.tls.")
            || log.contains("TLS of tls: the files were read again."),
        "{log}"
    );
    assert!(broker.stop("TERM").success());
}

#[test]
fn the_second_signal_does_not_wait() {
    let mut broker = Running::start(&["--bind", "127.0.0.1:0", "--cores", "1"]);
    // A client that is owed more than its socket takes, and does not read.
    let mut deaf = connect_v5(broker.addr, &unique("deaf"));
    assert_eq!(deaf.subscribe(&[("deaf", 1)]), [1]);
    let port = broker.addr.port().to_string();
    let payload = "x".repeat(7 << 20);
    let dir = Scratch::new("deaf");
    let file = dir.write("payload", &payload);
    for _ in 0..2 {
        let sent = ringmq(&[
            "pub",
            "-p",
            &port,
            "-h",
            "127.0.0.1",
            "-q",
            "1",
            "-t",
            "deaf",
            "-f",
            &file,
        ]);
        assert!(sent.status.success(), "{sent:?}");
    }
    let started = Instant::now();
    broker.signal("TERM");
    thread::sleep(Duration::from_millis(300));
    assert!(
        broker.child.try_wait().unwrap().is_none(),
        "it waits for the client: {}",
        broker.log()
    );
    let status = broker.stop("TERM");
    // As a shell shows a process that died of SIGTERM.
    assert_eq!(status.code(), Some(128 + 15), "{}", broker.log());
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}

/// Whoever reads the log may stand still: that holds up no stop, and what waited is written if it goes on in time.
#[test]
fn a_log_that_is_not_read_does_not_hold_up_the_end() {
    for is_read_in_the_end in [false, true] {
        let (mut log, stderr) = UnixStream::pair().unwrap();
        let mut child = command(&["--bind", "127.0.0.1:0", "--cores", "1"])
            .stdout(Stdio::piped())
            .stderr(OwnedFd::from(stderr.try_clone().unwrap()))
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let line = lines.recv_timeout(PATIENCE).unwrap();
        let addr = line.strip_prefix("listening on ").unwrap().parse().unwrap();
        // From now on it takes nothing.
        stderr.set_nonblocking(true).unwrap();
        while (&stderr).write(b".").is_ok() {}
        stderr.set_nonblocking(false).unwrap();
        drop(stderr);
        for _ in 0..300 {
            drop(connect_v5(addr, &unique("unread")));
        }
        let pid = child.id().to_string();
        for signal in ["-HUP", "-TERM"] {
            let sent = Command::new("kill").args([signal, &pid]).status();
            assert!(sent.unwrap().success());
        }
        let reader = if is_read_in_the_end {
            Some(thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                let mut said = String::new();
                log.read_to_string(&mut said).map(|_| said)
            }))
        } else {
            None
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                child.kill().unwrap();
                panic!("the broker does not stop");
            }
            thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}");
        if let Some(reader) = reader {
            let said = reader.join().unwrap().unwrap();
            for told in [
                "SIGHUP: read again",
                "SIGTERM: stopping",
                "ringmq has stopped.",
            ] {
                assert!(said.contains(told), "{told} in {said}");
            }
        }
    }
}

#[test]
fn a_sandbox_without_io_uring_is_explained() {
    for (errno, hint) in [
        (libc::EPERM, "--security-opt seccomp="),
        (libc::ENOSYS, "CONFIG_IO_URING"),
    ] {
        let mut command = command(&["--bind", "127.0.0.1:0"]);
        // SAFETY: the closure makes two system calls and touches no memory but its own.
        unsafe { command.pre_exec(move || deny_io_uring(errno)) };
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(
            said.starts_with("ringmq cannot start: the kernel refused io_uring_setup"),
            "{said}"
        );
        assert!(said.contains(hint), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn too_little_lockable_memory_is_explained() {
    let without_rights = |kib: u64, args: &[&str]| {
        let mut command = command(args);
        // SAFETY: the closure makes system calls and touches no memory but its own.
        unsafe { command.pre_exec(move || limit_memlock(kib << 10)) };
        command
    };
    let output = without_rights(64, &["--bind", "127.0.0.1:0", "--cores", "4"])
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("RLIMIT_MEMLOCK is 64 KiB, too little for 4 shards"),
        "{said}"
    );
    assert!(said.contains("ulimit -l 4096"), "{said}");

    // What distributions give every user is enough.
    let mut broker = Running::spawn(&mut without_rights(
        8192,
        &["--bind", "127.0.0.1:0", "--cores", "2"],
    ));
    assert!(broker.stop("TERM").success(), "{}", broker.log());
}

#[test]
fn the_small_clients_say_what_went_wrong() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    let output = ringmq(&[
        "pub",
        "-h",
        "127.0.0.1",
        "-p",
        &nobody,
        "-t",
        "a",
        "-m",
        "x",
    ]);
    assert_eq!(output.status.code(), Some(5));
    assert!(
        stderr(&output).contains(&format!("cannot connect to 127.0.0.1:{nobody}")),
        "{}",
        stderr(&output)
    );

    let output = ringmq(&["pub", "-t", "a/#", "-m", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("`a/#`"), "{}", stderr(&output));

    let broker = Broker::start(1, &["--set", "limits.packet-bytes-max=1KiB"]);
    let port = broker.addr.port().to_string();
    let at = ["-h", "127.0.0.1", "-p", &port, "-V", "5"];
    let topic = unique("t");
    let output = ringmq(&[&["sub", "-t", &topic, "-W", "0.3"], &at[..]].concat());
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(27), String::new())
    );

    let large = "x".repeat(2000);
    let output = ringmq(&[&["pub", "-t", &topic, "-m", &large], &at[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("the packet of 1024 bytes the server takes"),
        "{}",
        stderr(&output)
    );

    // Before 5 the server cannot announce its limit: it closes, and QoS 1 shows that.
    let output = ringmq(&[
        "pub",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-t",
        &topic,
        "-q",
        "1",
        "-m",
        &large,
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains(&format!("127.0.0.1:{port}: ")),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_first_message_of_the_readme() {
    let broker = Broker::start(2, &[]);
    let port = broker.addr.port().to_string();
    let topic = unique("demo");
    let mut subscriber = command(&[
        "sub",
        "-p",
        &port,
        "-h",
        "127.0.0.1",
        "-t",
        &topic,
        "-v",
        "-C",
        "1",
        "-d",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    // -d tells of the SUBACK.
    let mut told = BufReader::new(subscriber.stderr.take().unwrap()).lines();
    assert!(told.any(|line| line.unwrap().contains("SUBACK")));
    let sent = ringmq(&[
        "pub",
        "-p",
        &port,
        "-h",
        "127.0.0.1",
        "-t",
        &topic,
        "-m",
        "hello",
    ]);
    assert!(sent.status.success(), "{sent:?}");
    let mut printed = String::new();
    subscriber
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut printed)
        .unwrap();
    assert_eq!(printed, format!("{topic} hello\n"));
    assert!(subscriber.wait().unwrap().success());
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        // What the machine decides for its own broker is not for these.
        if name.to_string_lossy().starts_with("RINGMQ_") {
            command.env_remove(name);
        }
    }
    // Two brokers do not share a data directory.
    static COMMANDS: AtomicUsize = AtomicUsize::new(0);
    let number = COMMANDS.fetch_add(1, Ordering::Relaxed);
    let state = format!("cli-{}-{number}", std::process::id());
    command
        .env(
            "XDG_STATE_HOME",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(state),
        )
        .env_remove("JOURNAL_STREAM")
        .env_remove("STATE_DIRECTORY");
    command
}

fn ringmq(args: &[&str]) -> Output {
    command(args).output().expect("the binary can be started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn connect_v5(addr: SocketAddr, id: &str) -> Raw {
    let mut client = Raw::open_at(addr);
    client.send_connect(&Connect::v5(id));
    assert_eq!(client.read_connack().code, 0);
    client
}

/// A broker whose end is part of the test.
struct Running {
    child: Child,
    addr: SocketAddr,
    lines: Receiver<String>,
    log: Receiver<String>,
    logged: String,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        Self::spawn(&mut command(args))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let log = lines_of(child.stderr.take().unwrap());
        let mut running = Self {
            child,
            addr: ([0, 0, 0, 0], 0).into(),
            lines,
            log,
            logged: String::new(),
        };
        let Ok(line) = running.lines.recv_timeout(PATIENCE) else {
            let _ = running.child.kill();
            panic!("the broker does not listen: {}", running.log());
        };
        running.addr = line.strip_prefix("listening on ").unwrap().parse().unwrap();
        running
    }

    /// The next line of stdout.
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }

    fn rest_of_stdout(&self) -> String {
        self.lines.iter().collect()
    }

    /// What is in the log so far; all of it once the broker has ended.
    fn log(&mut self) -> String {
        let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
        let more: Vec<String> = if ended {
            self.log.iter().collect()
        } else {
            self.log.try_iter().collect()
        };
        for line in more {
            self.logged.push_str(&line);
            self.logged.push('\n');
        }
        self.logged.clone()
    }

    /// Waits for a line of the log that contains `text`.
    fn await_log(&mut self, text: &str) {
        self.await_times(text, 1);
    }

    /// Waits until the log contains `text` so many times.
    fn await_times(&mut self, text: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.log().matches(text).count() < count {
            assert!(Instant::now() < deadline, "{text} in {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Sends a signal and waits for the end.
    fn stop(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the broker does not stop: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Makes io_uring_setup fail with `errno` in this process, as the seccomp profile of a container does.
fn deny_io_uring(errno: i32) -> std::io::Result<()> {
    let filter = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load_number = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let if_equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let mut program = [
        filter(load_number, 0, 0, 0),
        filter(if_equal, 0, 1, libc::SYS_io_uring_setup as u32),
        filter(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        filter(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the calls read `program`, which lives until they return.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) != 0
    };
    if failed {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Limits the memory this process may lock, and takes away the rights to exceed or to raise that.
fn limit_memlock(bytes: u64) -> std::io::Result<()> {
    const CAP_IPC_LOCK: libc::c_ulong = 14;
    const CAP_SYS_RESOURCE: libc::c_ulong = 24;
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: `limit` lives until the call returns; prctl takes numbers.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // Who is not root has neither, and may not drop them.
        libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0);
        libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0);
    }
    Ok(())
}

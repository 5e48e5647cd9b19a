//! The whole broker, killed again and again under load: what was acknowledged is there.
//!
//! `ringmq torture` does the work. Few rounds here; `scripts/crash` runs many (`RINGMQ_CRASH_ROUNDS`). The failing disk and the
//! cut power come from `store/faults.c`.

#[path = "store/shim.rs"]
mod shim;

use shim::shim;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A directory of one test, removed at its end unless it failed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("ringmq-crash-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn rounds() -> u32 {
    std::env::var("RINGMQ_CRASH_ROUNDS").map_or(8, |text| text.parse().unwrap())
}

fn torture(dir: &Path, durability: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    command
        .arg("torture")
        .arg("--dir")
        .arg(dir)
        .args(["--rounds", &rounds().to_string(), "--round-ms", "500"])
        .args(["--durability", durability]);
    command
}

fn passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("every promise was kept"),
        "{text}\n{errors}"
    );
}

#[test]
fn killed_brokers_keep_what_they_acknowledged() {
    for durability in ["power", "process"] {
        let scratch = Scratch::new(durability);
        passed(&torture(&scratch.0, durability).output().unwrap());
    }
}

#[test]
fn so_they_do_on_a_disk_that_is_full_and_fails_at_times() {
    let scratch = Scratch::new("faults");
    let faults = scratch.0.join("faults");
    fs::write(&faults, "n").unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Uneven, so that it meets all that the broker does.
            for (at, mode) in ["f", "e"].iter().cycle().enumerate() {
                thread::sleep(Duration::from_millis(150 + (at as u64 * 67) % 200));
                fs::write(&faults, mode).unwrap();
                thread::sleep(Duration::from_millis(50 + (at as u64 * 41) % 150));
                fs::write(&faults, "n").unwrap();
                if over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let output = torture(&scratch.0, "power")
            .env("LD_PRELOAD", shim())
            .env("RINGMQ_FAULTS", &faults)
            .output();
        over.store(true, Ordering::Relaxed);
        passed(&output.unwrap());
    });
}

/// Tortures a broker whose power is cut at each kill: `cut` makes of its directory what the disk would have.
fn cut_the_power(name: &str, cut: &str) {
    let scratch = Scratch::new(name);
    let faults = scratch.0.join("faults");
    fs::write(&faults, "s").unwrap();
    let program = scratch.0.join("cut");
    fs::write(&program, format!("#!/bin/sh\nset -e\ncd \"$1\"\n{cut}")).unwrap();
    fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let output = torture(&scratch.0, "power")
        .arg("--after-kill")
        .arg(&program)
        .env("LD_PRELOAD", shim())
        .env("RINGMQ_FAULTS", &faults)
        .output();
    passed(&output.unwrap());
}

#[test]
fn so_they_do_when_the_power_fails() {
    // All that was not flushed is lost.
    cut_the_power(
        "power-cut",
        "rm -f store.db-shm\nfor f in store.db store.db-wal; do\n\
            if [ -e $f.synced ]; then mv $f.synced $f; elif [ -e $f ]; then : >$f; fi\ndone\n\
            cp store.db store.db.synced\n",
    );
}

#[test]
fn so_they_do_when_the_power_fails_in_the_middle_of_writing() {
    // Of what was written behind the last flush the log has a part, which ends anywhere and in rubbish.
    cut_the_power(
        "torn",
        "rm -f store.db-shm\nlog=store.db-wal\n\
            if [ -e store.db.synced ]; then mv store.db.synced store.db; else : >store.db; fi\n\
            cp store.db store.db.synced\n[ -e $log ] || exit 0\n\
            [ -e $log.synced ] || : >$log.synced\n\
            same=$(cmp $log $log.synced 2>/dev/null | tr -dc '0-9 ' | awk '{print $1 - 1}')\n\
            [ -n \"$same\" ] || same=$(wc -c <$log.synced)\n\
            more=$(($(wc -c <$log) - same))\n\
            if [ $more -gt 0 ]; then\n\
            part=$((same + $(od -An -N4 -tu4 /dev/urandom) % more))\n\
            head -c $part $log >torn\nhead -c 500 /dev/urandom >>torn\n\
            tail -c +$((part + 501)) $log.synced >>torn\nmv torn $log\nfi\nrm -f $log.synced\n",
    );
}

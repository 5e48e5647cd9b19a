//! `scripts/million` does what it says, at a size that needs neither root nor time.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn a_small_million_comes_to_its_end() {
    let programs = Path::new(env!("CARGO_BIN_EXE_loadgen")).parent().unwrap();
    let has_python = || {
        let mut python = Command::new("python3");
        python.arg("-V").stdout(Stdio::null()).status().is_ok()
    };
    if !programs.join("ringmq").exists() || !has_python() {
        // `cargo test --workspace` builds it; `scripts/test` installs Python.
        println!("skipped: there is no ringmq beside loadgen, or no python3");
        let required = std::env::var_os("RINGMQ_TEST_REQUIRE_INTEROP");
        assert!(required.is_none(), "it was to be there");
        return;
    }
    let out = std::env::temp_dir().join(format!("loadgen-test-million-{}", std::process::id()));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/million");
    let said = Command::new(script)
        .args(["200", "--direct", "--shards", "2", "--qos", "1"])
        .args(["--sample", "50", "--timeout", "120"])
        .arg("--bin")
        .arg(programs)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&said.stdout);
    let stderr = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{stdout}{stderr}");
    assert!(
        !stdout.contains("raising"),
        "it changed this machine: {stdout}"
    );
    let json = fs::read_to_string(out.join("million.json")).unwrap();
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found["clients"], 200);
    assert_eq!(found["messages"]["lost"], 0);
    assert_eq!(found["latency_us"]["sample"]["count"], 50);
    assert_eq!(found["latency_us"]["all"]["count"], 200);
    let summary = fs::read_to_string(out.join("summary.txt")).unwrap();
    assert!(summary.contains("200 clients with a session"), "{summary}");
    for plot in ["growth.svg", "latency.svg"] {
        let svg = fs::read_to_string(out.join(plot)).unwrap();
        assert!(
            svg.contains("<polyline") && svg.ends_with("</svg>\n"),
            "{plot}"
        );
    }
    fs::remove_dir_all(out).unwrap();
}

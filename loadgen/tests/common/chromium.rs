//! A headless Chromium, led over a pipe with the DevTools protocol.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A browser with one page.
pub(crate) struct Chromium {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    last_id: u64,
    session: String,
    /// What the page and the browser said meanwhile.
    events: Vec<Value>,
}

impl Chromium {
    /// Starts one; `None`, with the reason printed, when there is none to start.
    ///
    /// Panics: when it is not installed and `RINGMQ_TEST_REQUIRE_INTEROP` is 1.
    pub(crate) fn start(profile: &Path) -> Option<Self> {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let is_there = |name: &&&str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|place| place.join(name).is_file())
        };
        let Some(name) = names.iter().find(is_there) else {
            let required = std::env::var("RINGMQ_TEST_REQUIRE_INTEROP").is_ok_and(|set| set == "1");
            assert!(
                !required,
                "chromium is not installed; scripts/test installs it"
            );
            eprintln!("skipped: chromium is not installed");
            return None;
        };
        // It reads from descriptor 3 and writes to 4, which a shell can arrange. It knows none of the authorities of tests.
        let script = format!(
            "exec {name} --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
             --no-first-run --disable-background-networking --disable-component-update --disable-sync --ignore-certificate-errors \
             --remote-debugging-pipe --user-data-dir=\"$0\" about:blank 3<&0 4>&1 </dev/null >/dev/null 2>&1"
        );
        let mut process = Command::new("sh")
            .args(["-c", &script])
            .arg(profile)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut browser = Self {
            requests: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
            last_id: 0,
            session: String::new(),
            events: Vec::new(),
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Opens a file at a width, in light or dark, and returns what it complained about and what it asked the network for.
    pub(crate) fn open(&mut self, file: &Path, width: u32, scheme: &str) -> Vec<String> {
        let metrics =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": [feature] }),
        );
        let url = format!("file://{}", file.display());
        self.visit(&url);
        // Whatever the page does late it does within a frame or two.
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))");
        let events = std::mem::take(&mut self.events);
        events
            .iter()
            .filter_map(|event| {
                let detail = &event["params"];
                match event["method"].as_str().unwrap_or_default() {
                    "Runtime.exceptionThrown" => Some(format!("exception: {detail}")),
                    "Runtime.consoleAPICalled" => Some(format!("console: {detail}")),
                    "Log.entryAdded" => Some(format!("log: {detail}")),
                    "Network.requestWillBeSent" if detail["request"]["url"] != *url => {
                        Some(format!("request: {}", detail["request"]["url"]))
                    }
                    _ => None,
                }
            })
            .collect()
    }

    /// Opens a page.
    pub(crate) fn visit(&mut self, url: &str) {
        self.events.clear();
        self.call("Page.navigate", json!({ "url": url }));
        while !self
            .events
            .iter()
            .any(|event| event["method"] == "Page.loadEventFired")
        {
            let event = self.next();
            self.events.push(event);
        }
    }

    /// The value of an expression in the page; of a promise, what it comes to.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let wanted =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", wanted);
        assert!(
            result.get("exceptionDetails").is_none(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// Moves the pointer.
    pub(crate) fn point(&mut self, x: f64, y: f64) {
        self.call(
            "Input.dispatchMouseEvent",
            json!({ "type": "mouseMoved", "x": x, "y": y }),
        );
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: &str) {
        self.call(
            "Input.dispatchKeyEvent",
            json!({ "type": "keyDown", "key": key }),
        );
    }

    /// Takes a picture of the whole page.
    pub(crate) fn picture(&mut self, file: &Path) {
        let height = self.evaluate("document.documentElement.scrollHeight");
        let width = self.evaluate("innerWidth");
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let wanted = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.call("Page.captureScreenshot", wanted);
        let data = picture["data"].as_str().unwrap();
        let engine = &base64::engine::general_purpose::STANDARD;
        let bytes = base64::Engine::decode(engine, data).unwrap();
        std::fs::write(file, bytes).unwrap();
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.requests.write_all(&bytes).unwrap();
        loop {
            let answer = self.next();
            if answer["id"] == self.last_id {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    fn next(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.answers.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser is gone");
        serde_json::from_slice(&bytes).unwrap()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // It ends with its pipe; and if it is stuck, by force.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

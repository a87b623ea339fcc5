//! A real Chromium without a window, driven through its DevTools protocol over pipes. It can reach the loopback address alone.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_mins(1);

/// A browser with one tab; it and what it stored are gone when it is dropped.
pub struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: String,
    next: u64,
    /// What the tab told of without being asked, as it came.
    pub events: Vec<Value>,
    _folder: tempfile::TempDir,
}

impl Browser {
    /// Starts it with an empty profile.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new("bash")
            // DevTools speaks on descriptors 3 and 4.
            .args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "chromium"])
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args([
                "--no-first-run",
                "--no-proxy-server",
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args([
                "--disable-sync",
                "--disable-extensions",
                "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            ])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (to, from) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut browser =
            Self { process, to, from, session: String::new(), next: 0, events: Vec::new(), _folder: folder };
        let tab = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attached = json!({"targetId": tab["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attached).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// One call of the protocol and its result.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).await.unwrap();
        loop {
            let heard = self.hear().await;
            if heard["id"] == self.next {
                assert!(heard["error"].is_null(), "{method}: {}", heard["error"]);
                return heard["result"].clone();
            }
            self.events.push(heard);
        }
    }

    async fn hear(&mut self) -> Value {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.from.read_until(0, &mut bytes)).await;
        assert!(
            matches!(read, Ok(Ok(length)) if length > 0),
            "chromium went away: is the package `chromium` installed? (dev/prerequisites)"
        );
        bytes.pop();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&mut self, url: &str) {
        self.events.clear();
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let heard = self.hear().await;
            self.events.push(heard);
        }
    }

    /// The value of an expression in the page; a promise is awaited.
    pub async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let told = self.call("Runtime.evaluate", params).await;
        assert!(told["exceptionDetails"].is_null(), "{expression}: {told}");
        told["result"]["value"].clone()
    }

    /// Asks until the expression is something.
    pub async fn until(&mut self, expression: &str) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let value = self.value(expression).await;
            if value != Value::Null && value != Value::Bool(false) {
                return value;
            }
            assert!(tokio::time::Instant::now() < deadline, "not after {PATIENCE:?}: {expression}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Moves the mouse to the middle of an element, in view, and presses its button there.
    pub async fn click(&mut self, selector: &str) {
        let place = format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        );
        let place = self.value(&place).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let mouse = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", mouse).await;
        }
    }

    /// Types into what has the focus.
    pub async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Where requests went, the page's own included.
    pub fn requests(&self) -> Vec<String> {
        self.told("Network.requestWillBeSent", |event| event["request"]["url"].as_str().map(str::to_owned))
    }

    /// What stands in red in the console.
    pub fn complaints(&self) -> Vec<String> {
        let mut all = self.told("Runtime.exceptionThrown", |event| Some(event.to_string()));
        all.extend(self.told("Runtime.consoleAPICalled", |event| {
            ["error", "warning", "assert"].iter().any(|kind| event["type"] == *kind).then(|| event.to_string())
        }));
        all.extend(self.told("Log.entryAdded", |event| {
            let level = &event["entry"]["level"];
            (level == "error" || level == "warning").then(|| event["entry"].to_string())
        }));
        all
    }

    fn told(&self, method: &str, pick: impl Fn(&Value) -> Option<String>) -> Vec<String> {
        self.events
            .iter()
            .filter(|event| event["method"] == method)
            .filter_map(|event| pick(&event["params"]))
            .collect()
    }

    /// Ends it, so that its folder can go.
    pub async fn close(mut self) {
        self.process.kill().await.unwrap();
    }
}

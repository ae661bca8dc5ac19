//! A browser: headless Chromium, driven through its DevTools protocol over a pipe.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A browser with one tab.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Session of the tab.
    session: String,
    /// Number of the last command.
    number: u64,
    /// Events that came between answers.
    events: Vec<Value>,
}

impl Browser {
    /// Starts a browser whose files are in a directory.
    pub fn start(directory: &Path) -> Self {
        // The browser takes commands at descriptor 3, and answers at descriptor 4. It ends by
        // itself if a test hangs.
        let script = "exec timeout 300 chromium \"$@\" 3<&0 4>&1 </dev/null >\"$LOG\" 2>&1";
        let mut sh = Command::new("sh");
        sh.args(["-c", script, "sh", "--headless=new", "--disable-gpu", "--hide-scrollbars"]);
        sh.args(["--remote-debugging-pipe", "--no-first-run", "--disable-background-networking"]);
        // The sandbox of the browser does not work for root. The pages are those of the daemon.
        sh.arg("--no-sandbox").arg(format!("--user-data-dir={}", directory.join("profile").display()));
        sh.arg("about:blank").env("LOG", directory.join("chromium.log"));
        let mut child = sh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let (commands, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let answers = BufReader::new(answers);
        let session = String::new();
        let mut browser = Self { child, commands, answers, session, number: 0, events: Vec::new() };
        let tab = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": tab["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Log", "Runtime", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Sets the width of the window in pixels, and whether the person prefers dark pages.
    pub fn show_as(&mut self, width: u32, is_dark: bool) {
        let window = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", window);
        let value = if is_dark { "dark" } else { "light" };
        let feature = json!({ "name": "prefers-color-scheme", "value": value });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
    }

    /// Loads a page. Returns the status of HTTP, and the errors and warnings of the browser.
    pub fn open(&mut self, url: &str) -> (u64, Vec<String>) {
        self.events.clear();
        self.call("Page.navigate", json!({ "url": url }));
        let is_loaded = |event: &Value| event["method"] == "Page.loadEventFired";
        while !self.events.iter().any(is_loaded) {
            let event = self.read();
            self.events.push(event);
        }
        // The answer comes after what the page has caused until now.
        self.evaluate("document.readyState");
        let of = |method: &'static str| self.events.iter().filter(move |event| event["method"] == method);
        let document = of("Network.responseReceived").find(|event| event["params"]["type"] == "Document");
        let status = document.and_then(|event| event["params"]["response"]["status"].as_u64());
        let words = ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"];
        let complaints = words.into_iter().flat_map(of).map(|event| event["params"].to_string());
        (status.expect("an answer"), complaints.collect())
    }

    /// Value of an expression in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let answer =
            self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Has the page that is open make a request. Returns the status of HTTP, also of an answer that
    /// the page does not see.
    pub fn request(&mut self, method: &str, url: &str) -> u64 {
        self.events.clear();
        let call =
            format!("fetch({url:?}, {{ method: {method:?}, mode: 'no-cors' }}).then(() => 0, () => 0)");
        self.call("Runtime.evaluate", json!({ "expression": call, "awaitPromise": true }));
        let is_answer = |event: &&Value| {
            event["method"] == "Network.responseReceived" && event["params"]["response"]["url"] == url
        };
        loop {
            if let Some(answer) = self.events.iter().find(is_answer) {
                return answer["params"]["response"]["status"].as_u64().expect("a status");
            }
            let event = self.read();
            self.events.push(event);
        }
    }

    /// Presses a key, by its name in the UI Events specification.
    pub fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "ArrowRight" => 39,
            other => panic!("{other} is not known here"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if (key, kind) == ("Enter", "keyDown") {
                event["text"] = "\r".into();
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Saves a picture of the page, of at most `height` pixels from its top.
    pub fn screenshot(&mut self, file: &Path, height: u64) {
        let size = self.call("Page.getLayoutMetrics", json!({}))["cssContentSize"].clone();
        let height = size["height"].as_u64().expect("a height").min(height);
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1 });
        let picture =
            self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true, "clip": clip }));
        let png = STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64");
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        fs::write(file, png).expect("a file");
    }

    /// Sends a command, and waits for the answer.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut command = json!({ "id": self.number, "method": method, "params": parameters });
        if !self.session.is_empty() {
            command["sessionId"] = self.session.clone().into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).expect("a browser that takes commands");
        loop {
            let message = self.read();
            if message["id"] != self.number {
                self.events.push(message);
                continue;
            }
            assert!(message["error"].is_null(), "{method}: {message}");
            return message["result"].clone();
        }
    }

    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        self.answers.read_until(0, &mut message).expect("a browser that answers");
        assert_eq!(message.pop(), Some(0), "the browser has ended");
        serde_json::from_slice(&message).expect("JSON")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let close = json!({ "id": self.number + 1, "method": "Browser.close" });
        let _ = self.commands.write_all(format!("{close}\0").as_bytes());
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Forwards a port of loopback to a Unix socket, as `ssh -L` does, until the end of this process.
/// Returns the port.
pub fn forward(socket: &Path) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let socket = socket.to_owned();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            // A daemon that has ended refuses, and so does this port.
            let Ok(far) = UnixStream::connect(&socket) else { continue };
            let (near_too, far_too) =
                (near.try_clone().expect("a handle"), far.try_clone().expect("a handle"));
            thread::spawn(move || copy(&near_too, &far_too, || drop(far_too.shutdown(Shutdown::Write))));
            thread::spawn(move || copy(&far, &near, || drop(TcpStream::shutdown(&near, Shutdown::Write))));
        }
    });
    port
}

/// Copies until the end of one side, then ends the other side.
fn copy(mut from: impl io::Read, mut to: impl Write, end: impl FnOnce()) {
    let _ = io::copy(&mut from, &mut to);
    end();
}

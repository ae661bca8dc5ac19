//! Certificates that renew themselves: the daemon, the agent and the deployer, with pebble as the
//! authority and real servers.

mod accounts;
mod by_hand;
mod compromised;
mod faults;
mod hooks;
mod hostile;
mod interrupted;
mod issued;
mod meant;
mod page;
mod places;
mod revocations;
mod servers;
mod wishes;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyward_tests::pebble::Settings;
use keyward_tests::server::Site;
use keyward_tests::tool::{Process, succeed, wait_for};
use keyward_tests::{Daemon, Handshake, Load, Nginx, Pebble, built};
use serde_json::{Value, json};

/// A daemon with a plan `shop`, its agent and its deployer.
struct Scene {
    daemon: Daemon,
    pebble: Pebble,
    /// The server that gets the files.
    site: Site,
    agent: Option<Process>,
    deployer: Option<Process>,
}

impl Scene {
    /// Starts a daemon and an authority. `plan` has more lines for the plan.
    fn start(settings: Settings, plan: impl FnOnce(&Daemon, &Pebble) -> String) -> Self {
        Self::start_on(Daemon::prepare(""), settings, plan)
    }

    /// Starts a daemon that was prepared, and an authority.
    fn start_on(daemon: Daemon, settings: Settings, plan: impl FnOnce(&Daemon, &Pebble) -> String) -> Self {
        let mut scene = Self::prepare(daemon, settings);
        let lines = plan(&scene.daemon, &scene.pebble);
        scene.configure(&scene.pebble.section(), &lines);
        scene.daemon.resume();
        scene
    }

    /// Starts an authority beside a daemon that does not run yet, and has no plan.
    fn prepare(daemon: Daemon, settings: Settings) -> Self {
        let pebble = Pebble::start_with(&daemon.path("pebble"), settings);
        let [certificate, key] = ["fullchain.pem", "key.pem"].map(|name| daemon.path("live/shop").join(name));
        let site = Site::new(certificate, key);
        Self { daemon, pebble, site, agent: None, deployer: None }
    }

    /// Adds the role of the agent, the section of an authority, and the plan.
    fn configure(&self, authority: &str, plan: &str) {
        self.daemon.configure_more(&format!(
            "{}{authority}\n[[certificate]]\nname = \"shop\"\nnames = [\"shop.example\", \"www.shop.example\"]\n{plan}",
            role()
        ));
    }

    /// Starts a daemon and an authority. `keyward cert plan` makes the plan, with these words.
    /// Returns what the command says, too.
    fn planned(settings: Settings, words: &[&str]) -> (Self, String) {
        let mut scene = Self::prepare(Daemon::prepare(""), settings);
        scene.daemon.configure_more(&format!("{}{}", role(), scene.pebble.section()));
        scene.daemon.resume();
        let listener = scene.site.address.to_string();
        let names = ["cert", "plan", "shop", "--names", "shop.example", "www.shop.example", "--ca", "pebble"];
        let config = scene.daemon.path("keyward.toml").display().to_string();
        let more = ["--listener", &listener, "--config", &config];
        let told = succeed(&mut scene.daemon.keyward(&[&names, words, &more].concat()));
        (scene, told)
    }

    /// Starts nginx beside a daemon, an authority and a deployer, with the lines that the command
    /// prints.
    fn with_nginx(settings: Settings) -> (Self, Nginx) {
        let (mut scene, told) = Self::planned(settings, &["--for", "nginx"]);
        scene.start_deployer();
        let line = line_of(&told, "location ");
        let directives = format!("listen 127.0.0.1:{}; {line}", scene.pebble.challenges());
        let nginx =
            Nginx::start_with_directives(&scene.daemon, std::slice::from_ref(&scene.site), &directives);
        (scene, nginx)
    }

    /// The command of an agent.
    fn agent(&self) -> Command {
        let mut command = Command::new(built("keyward-acme"));
        command.arg("--runtime-dir").arg(self.daemon.path("run"));
        command
    }

    fn start_agent(&mut self) {
        self.agent = Some(Process::start(&mut self.agent(), &self.daemon.path("agent.log")));
    }

    /// The command of a deployer.
    fn deployer(&self) -> Command {
        let mut command = Command::new(built("keyward-deploy"));
        command.arg("--runtime-dir").arg(self.daemon.path("run"));
        command.arg("--config").arg(self.daemon.path("keyward.toml")).arg("--live").arg(self.live());
        command.env("OPENSSL_CONF", self.daemon.openssl_conf());
        command
    }

    fn start_deployer(&mut self) {
        self.deployer = Some(Process::start(&mut self.deployer(), &self.daemon.path("deployer.log")));
        // The placeholder, so that the server starts.
        wait_for("the files", || self.site.key.exists().then_some(()));
    }

    fn live(&self) -> PathBuf {
        self.daemon.path("live")
    }

    fn handshake(&self) -> Handshake {
        Handshake::new(self.pebble.issued(), self.site.address).asking_for("shop.example")
    }

    fn plan(&self) -> Value {
        let (status, body) = self.daemon.get("/v1/plans");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()[0].clone()
    }

    /// Waits until the plan is as `is` says.
    fn wait(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || Some(self.plan()).filter(|plan| is(plan)))
    }

    /// Waits for a failure with these words.
    fn failing(&self, words: &str) -> Value {
        self.wait(words, |plan| {
            plan["state"] == "failing" && plan["last_error"].as_str().unwrap_or_default().contains(words)
        })
    }

    /// Waits for another certificate than before.
    fn renewed(&self, before: &Value) -> Value {
        self.wait("a new certificate", |plan| {
            plan["certificate"].is_object()
                && plan["certificate"]["fingerprint"] != before["certificate"]["fingerprint"]
                && plan["state"] == "valid"
        })
    }

    /// Asks for a renewal.
    fn ask(&self) {
        succeed(&mut self.daemon.keyward(&["cert", "renew", "shop", "--now"]));
    }

    /// Asks for a renewal, and waits until it is served.
    fn renew(&self) -> Value {
        let before = self.plan()["certificate"]["fingerprint"].clone();
        self.ask();
        let begin = Instant::now();
        let attached = self.wait("a new certificate", |plan| plan["certificate"]["fingerprint"] != before);
        let attached_after = begin.elapsed();
        let new = &attached["certificate"]["fingerprint"];
        let served = self.wait("the new certificate at the server", |plan| {
            plan["certificate"]["fingerprint"] == *new && plan["is_served"] == true
        });
        let after = begin.elapsed().saturating_sub(attached_after);
        assert!(after < Duration::from_secs(10), "served after {after:?}");
        served
    }

    /// Adds a line to the plan, which is last in the configuration.
    fn change_plan(&self, line: &str) {
        self.daemon.configure_more(line);
        self.daemon.reload();
    }

    /// Makes a request as this process: an agent is known by its process id.
    fn post(&self, path: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.daemon.path("run/admin.sock")).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        // A refusal may come before the end of the body, which the daemon then does not read.
        let _ = stream.write_all(body);
        let mut text = String::new();
        let read = stream.read_to_string(&mut text);
        assert!(read.is_ok() || !text.is_empty(), "{read:?}");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    }

    /// Records of the audit trail with an action.
    fn records(&self, action: &str) -> usize {
        let mut show = Command::new(built("keyward"));
        let text =
            succeed(show.args(["audit", "show", "--json", "--dir"]).arg(self.daemon.path("state/audit")));
        text.lines().filter(|line| line.contains(&format!("\"{action}\""))).count()
    }

    /// Number of messages so far that order a certificate.
    fn orders(&self) -> usize {
        self.records("new-order")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["agent.log", "deployer.log"] {
                println!("{log}:\n{}", fs::read_to_string(self.daemon.path(log)).unwrap_or_default());
            }
            let log = self.daemon.log();
            println!("{}", log.lines().filter(|line| !line.contains("DEBUG")).collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The section of the role of the agent, for the user of the test.
fn role() -> String {
    format!("[[role]]\nrole = \"agent\"\nuid = {}\n", rustix::process::geteuid().as_raw())
}

/// A line that a command prints for a server.
fn line_of<'t>(told: &'t str, begin: &str) -> &'t str {
    let line = told.lines().map(str::trim).find(|line| line.starts_with(begin));
    line.unwrap_or_else(|| panic!("no line {begin:?} in:\n{told}"))
}

/// Writes a program.
fn program(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;

    fs::write(path, format!("#!/bin/sh -e\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn assert_none_failed(load: Load) {
    let attempts = load.stop();
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), attempts.len(), failed[0]);
    assert!(attempts.len() > 20, "{}", attempts.len());
}

/// True in `make soak`.
fn is_long() -> bool {
    std::env::var_os("KEYWARD_SOAK").is_some()
}

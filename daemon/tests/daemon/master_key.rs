//! The daemon has another master key than the key store was made with, or none. It runs, signs with
//! no key, makes no key, and reports the reason everywhere.

use std::fs;

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, certificate_verify};

#[test]
fn another_master_key_is_reported_everywhere() {
    let mut scene = Scene::new();
    scene.daemon.new_master_key();
    let names = [scene.needed.clone(), "the master key of the embedded unit is".into()];
    scene.assert_closed(&names);
    scene.assert_signs_again();
}

#[test]
fn a_missing_master_key_is_reported_everywhere() {
    let mut scene = Scene::new();
    fs::remove_file(scene.daemon.path("master.key")).unwrap();
    let file = scene.daemon.path("master.key").display().to_string();
    scene.assert_closed(&[scene.needed.clone(), file]);
    // The same is true for a master key that is no longer configured.
    scene.daemon.end(Signal::TERM);
    let configuration = scene.daemon.production_configuration(&GRANTS);
    let grants = configuration.find("[[grant]]").unwrap();
    scene.daemon.configure(&configuration[grants..]);
    scene.assert_closed(&[scene.needed.clone(), "master-key in section [embedded]".into()]);
    scene.daemon.end(Signal::TERM);
    scene.daemon.configure(&configuration);
    scene.assert_signs_again();
}

/// A store key in a file opens the store. Another master key must not wrap that store key.
#[test]
fn another_master_key_does_not_wrap_the_store_key() {
    let mut scene = Scene::with_store_key();
    scene.daemon.new_master_key();
    scene.daemon.start(&[]);
    assert_eq!(scene.daemon.outcome("shop", &certificate_verify()), Outcome::OtherMasterKey);
    let (status, line) = scene.daemon.fail(&["key", "rotate", "shop"]);
    assert!(status == 78 && line.contains(&scene.needed), "{status} {line}");
    scene.daemon.end(Signal::TERM);
    // The file is not needed afterwards.
    scene.daemon.configure(&scene.daemon.production_configuration(&GRANTS));
    scene.assert_signs_again();
}

/// A store with a key, whose master key was moved away, and a stopped daemon.
struct Scene {
    daemon: Daemon,
    /// Name of the master key that the store needs.
    needed: String,
    kept: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        Self::of(Daemon::production(&GRANTS))
    }

    fn with_store_key() -> Self {
        let mut daemon = Daemon::prepare("");
        daemon.new_master_key();
        daemon.new_key("store.key");
        let store = format!("[store]\nkey = {:?}\n", daemon.path("store.key"));
        daemon.configure(&(daemon.production_configuration(&GRANTS) + &store));
        daemon.start(&[]);
        Self::of(daemon)
    }

    fn of(mut daemon: Daemon) -> Self {
        daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
        let units: Value = serde_json::from_str(&daemon.succeed(&["unit", "list", "--json"])).unwrap();
        let needed = units[0]["wkid"].as_str().unwrap().to_owned();
        daemon.end(Signal::TERM);
        let kept = fs::read(daemon.path("master.key")).unwrap();
        Self { daemon, needed, kept }
    }

    /// Starts the daemon, and checks that each report has these words.
    fn assert_closed(&mut self, words: &[String]) {
        let has_all = |text: &str| {
            assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
            assert!(!text.contains("openssl rand"), "no advice to make another one: {text}");
        };
        // A master key that is not configured may come as a credential, so its absence is only a
        // warning.
        let checked = self.daemon.serve(&["--check-config"]).output().unwrap();
        let line = String::from_utf8(checked.stderr).unwrap();
        assert!(checked.status.code() == Some(78) || line.contains("warning: "), "{line}");
        assert!(line.contains("master key") && !line.contains("openssl rand"), "{line}");
        let before = self.daemon.log().len();
        let daemon = &mut self.daemon;
        daemon.start(&[]);
        let log = daemon.log();
        // The audit trail, which cannot be signed, points to the reason.
        let told = log[before..].lines().filter(|line| !line.contains("the audit trail is not signed"));
        let mut told = told.filter(|line| line.contains("master key"));
        has_all(told.next_back().unwrap_or_default());
        let (status, ready) = daemon.http("GET", "/ready", "").unwrap();
        assert_eq!(status, 503);
        has_all(&ready);
        let (_, metrics) = daemon.http("GET", "/metrics", "").unwrap();
        assert!(metrics.contains("keyward_backend_ready{backend=\"embedded\"} 0"), "{metrics}");
        let units = daemon.succeed(&["unit", "list"]);
        assert!(units.contains("down"), "{units}");
        has_all(&units);
        let doctor = daemon.keyward(&["doctor", "--json"]);
        let findings: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
        let failed = findings.iter().filter(|finding| finding["verdict"] == "fail").map(Value::to_string);
        has_all(&failed.collect::<String>());
        for words in [&["key", "generate", "new", "--type", "p256"][..], &["key", "rotate", "shop"]] {
            let (status, line) = daemon.fail(words);
            assert!(status == 78 && line.contains("master key"), "{status} {line}");
        }
        assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::OtherMasterKey);
    }

    /// Moves the master key back, and checks that the daemon signs.
    fn assert_signs_again(&mut self) {
        fs::remove_file(self.daemon.path("master.key")).unwrap_or_default();
        self.daemon.new_master_key();
        fs::write(self.daemon.path("master.key"), &self.kept).unwrap();
        self.daemon.end_if_running();
        self.daemon.start(&[]);
        assert_eq!(self.daemon.http("GET", "/ready", "").unwrap().0, 200);
        assert_eq!(self.daemon.outcome("shop", &certificate_verify()), Outcome::Done);
        let keys: Value = serde_json::from_str(&self.daemon.succeed(&["key", "list", "--json"])).unwrap();
        assert_eq!(keys.as_array().unwrap().len(), 1, "nothing was made meanwhile: {keys}");
    }
}

const GRANTS: [(&str, &str); 1] = [("*", "tls-server")];

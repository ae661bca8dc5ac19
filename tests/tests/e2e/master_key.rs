//! The master key of the embedded unit changes, and no signature fails. The change continues after
//! any interruption.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use keyward_client::{Address, Client, Input, Label};
use keyward_proto::{Outcome, Scheme};
use keyward_tests::attacker::is_soak;
use keyward_tests::signers::failures;
use keyward_tests::tool::{Process, fail, succeed, wait_for};
use keyward_tests::{Daemon, Signers};
use serde_json::Value;

#[test]
fn a_new_master_key_is_put_in_force_under_load() {
    let mut daemon = Daemon::start();
    let keys =
        [("shop", "p256"), ("mail", "rsa2048"), ("idle", "ed25519"), ("slow", "rsa4096"), ("off", "p256")];
    for (label, key_type) in keys {
        daemon.generate_for(label, key_type, "any");
    }
    succeed(&mut daemon.keyward(&["key", "disable", "idle"]));
    daemon.generate_for("old", "rsa2048", "rsa-key-exchange");
    let old = wkid(&daemon);
    let (status, line) = fail(&mut rewrap(&daemon, &["--finish"]));
    assert!(status.code() == Some(73) && line.contains("keyward unit rotate"), "{status} {line}");

    // 500 signatures a second, from before the unit has another master key until only that one is
    // left.
    let load = Signers::start(&daemon, "shop", P256, 500.0, 4);
    load.let_sign(100);
    // And more signatures of a slow kind than can be made: the blobs change while these wait for
    // their turn.
    let queue = Queue::start(&daemon, 30);
    queue.let_sign(30);
    let text = succeed(&mut rewrap(&daemon, &[]));
    assert!(text.starts_with("6 blobs wrapped, 6 keys of backend embedded are ready"), "{text}");
    // A change that is given up leaves everything as it was.
    succeed(&mut daemon.keyward(&["unit", "rotate", "--abandon"]));
    queue.let_sign(30);
    load.let_sign(100);
    assert_eq!(wkid(&daemon), old);
    let text = succeed(&mut rewrap(&daemon, &[]));
    assert!(text.starts_with("6 blobs wrapped, 6 keys of backend embedded are ready"), "{text}");
    // A key that was disabled meanwhile is rewrapped too.
    succeed(&mut daemon.keyward(&["key", "disable", "off"]));
    daemon.generate_for("late", "p256", "any");
    let (status, line) = fail(&mut rewrap(&daemon, &["--finish"]));
    assert!(status.code() == Some(73) && line.contains("late;") && !line.contains("shop"), "{line}");
    succeed(&mut rewrap(&daemon, &[]));
    load.let_sign(100);
    queue.let_sign(30);
    let text = succeed(&mut rewrap(&daemon, &["--finish"]));
    queue.let_sign(30);
    let second = wkid(&daemon);
    assert!(text.contains(&format!("are wrapped with the master key {second}")), "{text}");
    assert_ne!(second, old);
    // The whole change in one command.
    let text = succeed(&mut daemon.keyward(&["unit", "rotate"]));
    let new = wkid(&daemon);
    assert!(text.contains(&format!("the master key {new} is in force")) && new != second, "{text}");
    daemon.generate_for("new", "p256", "any");
    load.let_sign(100);
    let signed = load.stop();
    let failed = failures(&signed);
    assert!(failed.is_empty(), "{} of {}: {:?}\n{}", failed.len(), signed.len(), failed[0], daemon.log());
    queue.stop();
    for label in ["idle", "off"] {
        assert_eq!(sign(&daemon, label), Outcome::KeyDisabled);
        succeed(&mut daemon.keyward(&["key", "enable", label]));
    }

    // The file, which was the first master key, keeps the new one.
    let all = ["shop", "mail", "idle", "off", "late", "new"];
    daemon.stop();
    daemon.resume();
    // Each act is signed soon after it, with a key that was rewrapped meanwhile.
    assert!(!daemon.log().contains("the audit trail is not signed"), "{}", daemon.log());
    all.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::Done, "{label}"));
    let file = daemon.path("state/dev-master.key");
    let digits = fs::read(&file).unwrap();
    daemon.stop();
    fs::write(&file, "5ca1ab1e".repeat(7) + "0badcafe").unwrap();
    daemon.resume();
    all.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::OtherMasterKey, "{label}"));
    assert!(daemon.log().contains(&new), "{}", daemon.log());
    // Without the state of the unit, the file has the first master key only.
    daemon.stop();
    fs::write(&file, &digits).unwrap();
    let (state, away) = (daemon.path("state/unit"), daemon.path("unit.away"));
    fs::rename(&state, &away).unwrap();
    daemon.resume();
    all.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::OtherMasterKey, "{label}"));
    daemon.stop();
    fs::remove_dir_all(&state).unwrap();
    fs::rename(&away, &state).unwrap();
    daemon.resume();
    all.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::Done, "{label}"));
}

#[test]
fn a_change_that_is_killed_goes_on() {
    let keys = if is_soak() { 400 } else { 40 };
    let mut daemon = Daemon::start();
    let labels: Vec<_> = (0..keys).map(|number| format!("key-{number:03}")).collect();
    labels.iter().for_each(|label| daemon.generate_for(label, "p256", "any"));
    let before = wkid(&daemon);
    let store = daemon.path("state/keys.redb");
    let log = daemon.path("rewrap.log");
    for words in [&[][..], &["--finish"]] {
        let (mut kills, mut done) = (0, false);
        while !done {
            let before = fs::metadata(&store).unwrap().modified().unwrap();
            let mut command = Process::start(&mut rewrap(&daemon, words), &log);
            let changed = || fs::metadata(&store).unwrap().modified().unwrap() > before;
            wait_for("a change of the store, or the end", || {
                (changed() || !command.is_running()).then_some(())
            });
            // No further interruptions: the change now runs to its end.
            if kills == keys / 10 || !command.is_running() {
                assert!(command.wait().success(), "{}", fs::read_to_string(&log).unwrap());
                done = true;
            } else {
                daemon.kill();
                command.wait();
                kills += 1;
                daemon.resume();
            }
            labels.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::Done, "{label}"));
        }
        assert!(kills > 2, "{words:?}: killed {kills} times");
    }
    assert_ne!(wkid(&daemon), before);
    daemon.stop();
    daemon.resume();
    labels.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::Done, "{label}"));
}

/// Threads that each make RSA signatures of 4,096 bits, one after the other.
struct Queue {
    signed: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Queue {
    fn start(daemon: &Daemon, threads: usize) -> Self {
        let (signed, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let address = Address::try_from(daemon.socket().as_path()).unwrap();
        let client = Arc::new(Client::new(address, Duration::from_secs(20)));
        let threads = (0..threads).map(|_| {
            let (signed, ended, client) = (Arc::clone(&signed), Arc::clone(&ended), Arc::clone(&client));
            thread::spawn(move || {
                let label: Label = "slow".parse().unwrap();
                while !ended.load(Ordering::Relaxed) {
                    let input = Input::Message(b"message");
                    client.sign(&label, Scheme::RsaPssRsaeSha256, input).unwrap();
                    signed.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self { signed: Arc::clone(&signed), ended: Arc::clone(&ended), threads: threads.collect() }
    }

    fn let_sign(&self, count: usize) {
        let enough = self.signed.load(Ordering::Relaxed) + count;
        wait_for("signatures", || (self.signed.load(Ordering::Relaxed) >= enough).then_some(()));
    }

    fn stop(self) {
        self.ended.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn rewrap(daemon: &Daemon, more: &[&str]) -> Command {
    daemon.keyward(&[&["key", "rewrap", "--backend", "embedded"], more].concat())
}

/// The name of the master key in force.
fn wkid(daemon: &Daemon) -> String {
    let units: Value =
        serde_json::from_str(&succeed(&mut daemon.keyward(&["unit", "list", "--json"]))).unwrap();
    units[0]["wkid"].as_str().unwrap().to_owned()
}

fn sign(daemon: &Daemon, label: &str) -> Outcome {
    let client = Client::new(Address::try_from(daemon.socket().as_path()).unwrap(), Client::DEFAULT_TIMEOUT);
    let scheme = match label {
        "mail" => Scheme::RsaPssRsaeSha256,
        "idle" => Scheme::Ed25519,
        _ => P256,
    };
    match client.sign(&label.parse::<Label>().unwrap(), scheme, Input::Message(label.as_bytes())) {
        Ok(_) => Outcome::Done,
        Err(keyward_client::Error::Refused(outcome)) => outcome,
        Err(error) => panic!("{label}: {error}\n{}", daemon.log()),
    }
}

const P256: Scheme = Scheme::EcdsaSecp256r1Sha256;

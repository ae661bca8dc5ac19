//! The master key of the embedded unit changes, and no signature fails; wherever that is broken off, it goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use keyward_client::{Address, Client, Input};
use keyward_proto::{Outcome, Scheme};
use keyward_tests::attacker::is_soak;
use keyward_tests::signers::failures;
use keyward_tests::tool::{Process, fail, succeed, wait_for};
use keyward_tests::{Daemon, Signers};
use serde_json::Value;

#[test]
fn a_new_master_key_is_put_in_force_under_load() {
    let mut daemon = Daemon::start();
    for (label, key_type) in [("shop", "p256"), ("mail", "rsa2048"), ("idle", "ed25519")] {
        daemon.generate_for(label, key_type, "any");
    }
    succeed(&mut daemon.keyward(&["key", "disable", "idle"]));
    daemon.generate_for("old", "rsa2048", "rsa-key-exchange");
    let old = wkid(&daemon);
    let (status, line) = fail(&mut rewrap(&daemon, &[]));
    assert!(status.code() == Some(64) && line.contains("next-master-key"), "{line}");

    // 500 signatures a second, from before the daemon knows of the new one until only that is left.
    let load = Signers::start(&daemon, "shop", P256, 500.0, 4);
    load.let_sign(100);
    let next = next_master_key(&daemon);
    daemon.configure_more(&format!("[embedded]\nnext-master-key = {next:?}\n"));
    daemon.reload();
    let (status, line) = fail(&mut rewrap(&daemon, &["--finish"]));
    assert!(status.code() == Some(73) && line.contains("keyward key rewrap --backend embedded"), "{line}");
    let text = succeed(&mut rewrap(&daemon, &[]));
    assert!(text.starts_with("4 blobs wrapped, 4 keys of backend embedded are ready"), "{text}");
    daemon.generate_for("late", "p256", "any");
    let (status, line) = fail(&mut rewrap(&daemon, &["--finish"]));
    assert!(status.code() == Some(73) && line.contains("late;") && !line.contains("shop"), "{line}");
    succeed(&mut rewrap(&daemon, &[]));
    load.let_sign(100);
    let text = succeed(&mut rewrap(&daemon, &["--finish"]));
    let new = wkid(&daemon);
    assert!(text.contains(&format!("have the master key {new}")) && text.contains("as master-key"), "{text}");
    assert_ne!(new, old);
    daemon.generate_for("new", "p256", "any");
    load.let_sign(100);
    let signed = load.stop();
    let failed = failures(&signed);
    assert!(failed.is_empty(), "{} of {}: {:?}\n{}", failed.len(), signed.len(), failed[0], daemon.log());
    // Not back again.
    let (status, line) = fail(&mut rewrap(&daemon, &[]));
    assert!(status.code() == Some(64) && line.contains(&new), "{line}");
    succeed(&mut daemon.keyward(&["key", "enable", "idle"]));

    // With both, with the new one alone, and not with the old one alone.
    let all = ["shop", "mail", "idle", "late", "new"];
    let file = daemon.path("state/dev-master.key");
    let old_digits = fs::read(&file).unwrap();
    for digits in [&old_digits, &fs::read(&next).unwrap()] {
        assert!(daemon.stop().success());
        fs::write(&file, digits).unwrap();
        daemon.resume();
        all.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::Done, "{label}"));
    }
    assert!(daemon.stop().success());
    let configuration = fs::read_to_string(daemon.path("keyward.toml")).unwrap();
    daemon.configure(configuration.split("[embedded]").next().unwrap());
    daemon.resume();
    all.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::Done, "{label}"));
    assert!(daemon.stop().success());
    fs::write(&file, &old_digits).unwrap();
    daemon.resume();
    all.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::OtherMasterKey, "{label}"));
    assert!(daemon.log().contains(&new), "{}", daemon.log());
}

#[test]
fn a_change_that_is_killed_goes_on() {
    let keys = if is_soak() { 400 } else { 40 };
    let mut daemon = Daemon::start();
    let labels: Vec<_> = (0..keys).map(|number| format!("key-{number:03}")).collect();
    labels.iter().for_each(|label| daemon.generate_for(label, "p256", "any"));
    let next = next_master_key(&daemon);
    daemon.configure_more(&format!("[embedded]\nnext-master-key = {next:?}\n"));
    daemon.reload();
    let store = daemon.path("state/keys.redb");
    let log = daemon.path("rewrap.log");
    for words in [&[][..], &["--finish"]] {
        let mut kills = 0;
        let mut done = false;
        while !done {
            let before = fs::metadata(&store).unwrap().modified().unwrap();
            let mut command = Process::start(&mut rewrap(&daemon, words), &log);
            let changed = || fs::metadata(&store).unwrap().modified().unwrap() > before;
            wait_for("a change of the store, or the end", || {
                (changed() || !command.is_running()).then_some(())
            });
            // Enough of that: now to its end.
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
    assert_ne!(wkid(&daemon), "");
    fs::copy(&next, daemon.path("state/dev-master.key")).unwrap();
    assert!(daemon.stop().success());
    daemon.resume();
    labels.iter().for_each(|label| assert_eq!(sign(&daemon, label), Outcome::Done, "{label}"));
}

fn rewrap(daemon: &Daemon, more: &[&str]) -> Command {
    daemon.keyward(&[&["key", "rewrap", "--backend", "embedded"], more].concat())
}

fn next_master_key(daemon: &Daemon) -> PathBuf {
    let path = daemon.path("next.key");
    succeed(&mut daemon.shell(&format!("(umask 077; set -C; openssl rand -hex 32 > {})", path.display())));
    path
}

/// The name of the master key in force.
fn wkid(daemon: &Daemon) -> String {
    let units: Value =
        serde_json::from_str(&succeed(&mut daemon.keyward(&["unit", "list", "--json"]))).unwrap();
    units[0]["wkid"].as_str().unwrap().to_owned()
}

fn sign(daemon: &Daemon, label: &str) -> Outcome {
    let client = Client::new(Address::from_path(&daemon.socket()).unwrap(), Client::DEFAULT_TIMEOUT);
    let scheme = match label {
        "mail" => Scheme::RsaPssRsaeSha256,
        "idle" => Scheme::Ed25519,
        _ => P256,
    };
    match client.sign(&label.parse().unwrap(), 0, scheme, Input::Message(label.as_bytes())) {
        Ok(_) => Outcome::Done,
        Err(keyward_client::Error::Refused(outcome)) => outcome,
        Err(error) => panic!("{label}: {error}\n{}", daemon.log()),
    }
}

const P256: Scheme = Scheme::EcdsaSecp256r1Sha256;

//! Losses that would cost the master key at the next start: the secret of the host, the state of
//! the unit, the key store. The daemon tells of each while everything can be put right.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::audit::await_some;
use crate::ceremony::Ceremony;
use crate::fixture::{Daemon, certificate_verify, has_root};

/// A daemon whose unit has made its master key, which the secret `unseal.key` keeps, and the key
/// `shop`.
fn kept() -> Daemon {
    let mut daemon = Daemon::prepare("");
    daemon.new_key("unseal.key");
    let uid = rustix::process::getuid().as_raw();
    let grant = format!("[[grant]]\nuid = {uid}\nkeys = [\"*\"]\nuses = [\"tls-server\"]\n");
    daemon.configure(&format!("{grant}[embedded]\nunseal-key = {:?}\n", daemon.path("unseal.key")));
    daemon.start(&[]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon
}

fn problems(daemon: &Daemon) -> String {
    let report: Value = serde_json::from_str(&daemon.http("GET", "/v1/status", "").unwrap().1).unwrap();
    report["problems"].to_string()
}

#[test]
fn a_secret_that_is_gone_is_told_before_the_next_start() {
    let mut daemon = kept();
    let secret = daemon.path("unseal.key");
    let away = daemon.path("away");
    assert_eq!(problems(&daemon), "[]");
    for how in ["removed", "replaced"] {
        fs::rename(&secret, &away).unwrap();
        if how == "replaced" {
            daemon.new_key("unseal.key");
        }
        let (status, line) = daemon.fail(&["unit", "rotate"]);
        assert!(
            status != 0 && line.contains("the next start cannot open the embedded unit"),
            "{how}: {line}"
        );
        assert!(problems(&daemon).contains("the next start cannot open"), "{}", problems(&daemon));
        assert_eq!(daemon.http("GET", "/ready", "").unwrap().0, 200, "the daemon still signs");
        let status = daemon.keyward(&["status"]);
        assert_eq!(status.status.code(), Some(1), "{how}");
        fs::rename(&away, &secret).unwrap();
        daemon.succeed(&["reload"]);
        daemon.await_ready();
        assert_eq!(problems(&daemon), "[]", "{how}");
    }
    daemon.succeed(&["unit", "rotate"]);
    // As the message says, a reload also takes a new secret.
    daemon.new_key("unseal.key");
    daemon.succeed(&["reload"]);
    daemon.await_ready();
    daemon.end(Signal::TERM);
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
}

#[test]
fn a_state_that_is_gone_is_written_again() {
    let mut daemon = kept();
    let unit = daemon.path("state/unit");
    let old = fs::read(unit.join("state")).unwrap();
    fs::remove_dir_all(&unit).unwrap();
    await_some(|| unit.join("state").exists().then_some(()));
    daemon.await_log("the unit has written its state again");
    daemon.succeed(&["unit", "rotate"]);
    // An old state of the same unit does not have the master key in force.
    fs::write(unit.join("state"), &old).unwrap();
    daemon.end(Signal::TERM);
    assert_eq!(fs::read(unit.join("state.found-1")).unwrap(), old, "nothing is lost");
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    // A state that is restored while the daemon runs without one stays as it is.
    daemon.end(Signal::TERM);
    let state = fs::read(unit.join("state")).unwrap();
    fs::remove_dir_all(&unit).unwrap();
    daemon.start(&[]);
    assert_ne!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    fs::write(unit.join("state"), &state).unwrap();
    daemon.end(Signal::TERM);
    assert_eq!(fs::read(unit.join("state")).unwrap(), state);
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
}

#[test]
fn no_master_key_is_changed_while_the_store_is_missing() {
    let mut daemon = kept();
    daemon.end(Signal::TERM);
    let store = daemon.path("state/keys.redb");
    let away = daemon.path("away");
    fs::rename(&store, &away).unwrap();
    daemon.start(&[]);
    let (status, line) = daemon.fail(&["unit", "rotate"]);
    assert!(status != 0 && line.contains("keys that are not here would be lost"), "{line}");
    daemon.end(Signal::TERM);
    fs::rename(&away, &store).unwrap();
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
}

/// The owners bring their parts while the secret cannot be read. The state still keeps the master
/// key by that secret.
#[test]
fn a_secret_that_is_back_opens_the_unit_again() {
    if !has_root() {
        return;
    }
    let mut ceremony = Ceremony::owned();
    let state = ceremony.daemon.path("state/unit/state");
    let without_key = fs::read(&state).unwrap();
    ceremony.daemon.new_key("unseal.key");
    let configuration = fs::read_to_string(ceremony.daemon.path("keyward.toml")).unwrap();
    let secret = ceremony.daemon.path("unseal.key");
    ceremony.daemon.configure(&format!("{configuration}[embedded]\nunseal-key = {secret:?}\n"));
    ceremony.restart();
    ceremony.put_in_force(&["dave", "erin"]);
    ceremony.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let away = ceremony.daemon.path("away");
    fs::rename(&secret, &away).unwrap();
    ceremony.restart();
    assert_eq!(ceremony.outcome(), Outcome::UnitSealed);
    ceremony.unseal("dave").unwrap();
    ceremony.unseal("erin").unwrap();
    fs::rename(&away, &secret).unwrap();
    ceremony.restart();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    // A note that others can change says nothing about the owners.
    ceremony.daemon.end(Signal::TERM);
    let note = ceremony.daemon.path("state/unit.known");
    fs::set_permissions(&note, Permissions::from_mode(0o666)).unwrap();
    let mut serve = ceremony.daemon.serve(&[]);
    let (status, line) =
        crate::fixture::failure_of(&serve.env_remove("CREDENTIALS_DIRECTORY").output().unwrap());
    assert!(status != 0 && line.contains("unit.known"), "{line}");
    // An upgrade asks the new program first.
    let mut check = ceremony.daemon.serve(&["--check-config"]);
    let checked = check.env_remove("CREDENTIALS_DIRECTORY").output().unwrap();
    assert!(!checked.status.success(), "{checked:?}");
    fs::set_permissions(&note, Permissions::from_mode(0o600)).unwrap();
    ceremony.start();
    assert_eq!(ceremony.outcome(), Outcome::Done);
    // A state of before the first master key, which no master key authenticates.
    ceremony.daemon.end(Signal::TERM);
    let kept = fs::read(&state).unwrap();
    fs::write(&state, &without_key).unwrap();
    let noted = fs::read_to_string(&note).unwrap();
    assert!(noted.ends_with(" owned key\n"), "{noted}");
    ceremony.start();
    let (_, ready) = ceremony.daemon.http("GET", "/ready", "").unwrap();
    assert!(ready.contains("is lost or an old one"), "{ready}");
    ceremony.daemon.end(Signal::TERM);
    fs::write(&state, &kept).unwrap();
    ceremony.start();
    assert_eq!(ceremony.outcome(), Outcome::Done);
}

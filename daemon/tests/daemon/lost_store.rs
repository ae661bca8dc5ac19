//! A key store that is empty, gone or replaced, and a full disk: no acknowledged change is lost,
//! and the daemon reports each loss.

use std::fs;
use std::process::Command;

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, certificate_verify, failure_of, has_root};

#[test]
fn an_empty_store_that_had_keys_is_reported_until_there_is_a_key() {
    for how in ["emptied", "removed"] {
        let mut daemon = Daemon::production(&[("*", "tls-server")]);
        daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
        let units: Value = serde_json::from_str(&daemon.succeed(&["unit", "list", "--json"])).unwrap();
        let wkid = units[0]["wkid"].as_str().unwrap().to_owned();
        // A store whose last key was deleted is not a lost store.
        daemon.succeed(&["key", "generate", "other", "--type", "p256"]);
        daemon.destroy("other");
        daemon.end(Signal::TERM);
        let store = daemon.path("state/keys.redb");
        let kept = fs::read(&store).unwrap();
        match how {
            "emptied" => fs::write(&store, "").unwrap(),
            _ => fs::remove_file(&store).unwrap(),
        }
        // At each start, not only at the first.
        for _ in 0..2 {
            let before = daemon.log().len();
            daemon.start(&[]);
            let log = daemon.log()[before..].to_owned();
            assert!(log.contains("has no key, and the store that was there before had keys"), "{how}: {log}");
            assert!(log.contains(&wkid) && log.contains("keyward restore FILE"), "{log}");
            let (status, ready) = daemon.http("GET", "/ready", "").unwrap();
            assert!(status == 503 && ready.contains("before had keys"), "{status} {ready}");
            let (_, metrics) = daemon.http("GET", "/metrics", "").unwrap();
            assert!(metrics.contains("\nkeyward_keys 0\n"), "{metrics}");
            let doctor = daemon.keyward(&["doctor", "--json"]);
            let findings: Vec<Value> = serde_json::from_slice(&doctor.stdout).unwrap();
            let told = |finding: &&Value| finding.to_string().contains("before had keys");
            assert_eq!(findings.iter().find(told).unwrap()["verdict"], "fail");
            daemon.end(Signal::TERM);
        }
        // The daemon does not advise to make another master key.
        let key = fs::read(daemon.path("master.key")).unwrap();
        fs::remove_file(daemon.path("master.key")).unwrap();
        fs::remove_file(&store).unwrap();
        for more in [&[][..], &["--check-config"]] {
            let (status, line) = failure_of(&daemon.serve(more).output().unwrap());
            assert!(status == 78 && line.contains("cannot read the master key"), "{status} {line}");
            assert!(!line.contains("openssl rand"), "{line}");
        }
        daemon.new_master_key();
        fs::write(daemon.path("master.key"), key).unwrap();
        if how == "emptied" {
            // After the store is restored, all keys are there.
            fs::write(&store, &kept).unwrap();
            daemon.start(&[]);
            assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
        } else {
            daemon.start(&[]);
            daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
        }
        assert_eq!(daemon.http("GET", "/ready", "").unwrap().0, 200);
        daemon.end(Signal::TERM);
        let before = daemon.log().len();
        daemon.start(&[]);
        assert!(!daemon.log()[before..].contains("before had keys"), "{}", daemon.log());
    }
}

#[test]
fn a_daemon_whose_last_key_was_deleted_is_ready() {
    let mut daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.destroy("shop");
    daemon.end(Signal::TERM);
    daemon.start(&["--dev"]);
    let (status, text) = daemon.http("GET", "/ready", "").unwrap();
    assert!(status == 200 && text.starts_with("ready\n"), "{text}");
    assert!(text.contains("opened by the file that --dev made: unprotected"), "{text}");
}

/// The name of the file is gone, or names another file: changes of the daemon would be lost when
/// the daemon ends.
#[test]
fn no_change_is_written_to_a_store_that_is_gone() {
    for how in ["removed", "replaced"] {
        let mut daemon = Daemon::dev("");
        for label in ["shop", "stays"] {
            daemon.succeed(&["key", "generate", label, "--type", "p256"]);
        }
        let store = daemon.path("state/keys.redb");
        let copy = fs::read(&store).unwrap();
        fs::remove_file(&store).unwrap();
        if how == "replaced" {
            fs::write(&store, &copy).unwrap();
        }
        let (status, line) = daemon.fail(&["key", "generate", "new", "--type", "p256"]);
        assert!(status == 74 && line.contains("is gone, or another file is in its place"), "{status} {line}");
        assert!(line.contains("keyward backup FILE") && line.contains("keyward restore FILE"), "{line}");
        let (status, ready) = daemon.http("GET", "/ready", "").unwrap();
        assert!(status == 503 && ready.contains("is gone"), "{status} {ready}");
        // Signatures and disabling a key work without the disk.
        assert_eq!(daemon.outcome("stays", &certificate_verify()), Outcome::Done);
        let (status, line) = daemon.fail(&["key", "disable", "shop"]);
        assert!(status == 74 && line.contains("a restart undoes it"), "{status} {line}");
        assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::KeyDisabled);
        daemon.end(Signal::TERM);
        assert!(daemon.log().contains("the next start reverts the change key=\"shop\""), "{}", daemon.log());
    }
}

/// A reader of the note does not wait for the owner of the directory.
#[test]
fn a_note_that_is_not_a_file_is_ignored() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    let note = daemon.path("state/keys.known");
    for script in ["mkfifo \"$0\"", "ln -s /dev/zero \"$0\"", "mkdir \"$0\""] {
        let _ = fs::remove_file(&note);
        assert!(Command::new("sh").args(["-c", script]).arg(&note).status().unwrap().success());
        let checked = daemon.serve(&["--check-config"]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
    fs::remove_dir(&note).unwrap();
    daemon.start(&[]);
    assert!(note.is_file(), "it is made again");
}

/// Disabling a key must work at once, even on a full disk.
#[test]
fn keys_are_disabled_and_deleted_on_a_full_disk() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    fs::create_dir(daemon.path("state")).unwrap();
    daemon.start_as(&mut on_a_disk_of(&daemon, "3m"));
    for label in ["shop", "old", "late"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    let pid = daemon.pid().as_raw_nonzero().to_string();
    let on_its_disk = |script: &str| {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid, "sh", "-c", script]).arg(daemon.path("state"));
        assert!(command.status().unwrap().success(), "{script}");
    };
    on_its_disk("dd if=/dev/zero of=$0/junk bs=4k 2>/dev/null || true");
    // There is space for these changes.
    daemon.succeed(&["key", "disable", "shop"]);
    daemon.succeed(&["key", "delete", "old", "--yes"]);
    // Now there is no space at all.
    on_its_disk("rm -f $0/keys.room; cat /dev/zero > $0/more 2>/dev/null || true");
    // The file of the store may have room for some keys.
    let generate = |number| daemon.keyward(&["key", "generate", &format!("new{number}"), "--type", "p256"]);
    let mut refused = (0..500).map(generate).find(|output| !output.status.success()).expect("no room");
    assert_eq!(refused.status.code(), Some(74), "no room");
    refused = daemon.keyward(&["key", "disable", "late"]);
    let (status, line) = failure_of(&refused);
    assert!(status == 74 && line.contains("key late is disabled in the running daemon"), "{status} {line}");
    assert_eq!(daemon.outcome("late", &certificate_verify()), Outcome::KeyDisabled);
    // A stronger change of a key whose change is in memory only.
    refused = daemon.keyward(&["key", "compromise", "late"]);
    let (status, line) = failure_of(&refused);
    assert!(
        status == 74 && line.contains("key late is compromised in the running daemon"),
        "{status} {line}"
    );
    let listed: Value = serde_json::from_str(&daemon.succeed(&["key", "list", "--json"])).unwrap();
    let keys = listed.as_array().unwrap().iter();
    let keys = keys.filter(|key| !key["label"].as_str().unwrap().starts_with("new"));
    let states: Vec<_> = keys.map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["compromised", "deleted", "disabled"], "{listed}");
    // A copy needs no space on this disk.
    let copy = daemon.path("copy").display().to_string();
    daemon.succeed(&["backup", &copy]);
    let (_, status) = daemon.http("GET", "/v1/status", "").unwrap();
    assert!(
        status.contains("disabled or deleted in the running daemon alone") && status.contains("late"),
        "{status}"
    );
    // The daemon does not execute a new program, which would not know of the change.
    daemon.signal(Signal::USR2);
    daemon.await_log("not upgraded: the key store does not have the disabled or deleted state");
    // When there is room, it is written.
    on_its_disk("rm -f $0/junk $0/more");
    daemon.await_log("the key store has the disabled or deleted state");
    let (status, problems) = daemon.http("GET", "/v1/status", "").unwrap();
    assert!(status == 200 && !problems.contains("in the running daemon alone"), "{problems}");
    let shown: Value = serde_json::from_str(&daemon.succeed(&["key", "show", "late", "--json"])).unwrap();
    assert_eq!(shown["state"], "compromised");
}

/// Command of a daemon whose state directory is on a disk of its own. The audit trail has another
/// one, because acts that cannot be recorded are refused.
fn on_a_disk_of(daemon: &Daemon, size: &str) -> Command {
    let serve = daemon.serve(&["--dev"]);
    let mut shell = Command::new("unshare");
    let script = format!(
        "mount -t tmpfs -o size={size},mode=700 none \"$0\" && mkdir -m 700 \"$0/audit\" && mount -t tmpfs -o mode=700 none \"$0/audit\" && exec \"$@\""
    );
    shell.args(["--mount", "sh", "-c", &script]).arg(daemon.path("state"));
    shell.arg(serve.get_program()).args(serve.get_args());
    shell
}

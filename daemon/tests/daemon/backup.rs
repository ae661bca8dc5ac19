//! Copies of a key store: made while keys change, checked with the master key, and restored.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, PROGRAM, certificate_verify, failure_of, has_root};

#[test]
fn a_copy_that_is_made_while_keys_change_is_complete() {
    let daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "rsa2048"]);
    daemon.succeed(&["key", "generate", "other", "--type", "p256"]);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let wanted = format!(r#"{{"label":"key-{number}","type":"p256","uses":[]}}"#);
                assert_eq!(daemon.http("POST", "/v1/keys", &wanted).unwrap().0, 201);
                daemon.http("POST", "/v1/keys/other/rotate", "").unwrap();
            }
        });
        for round in 0..4 {
            let copy = daemon.path(&format!("copy-{round}")).display().to_string();
            let made: Value = serde_json::from_str(&daemon.succeed(&["backup", &copy, "--json"])).unwrap();
            assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
            let checked: Value = serde_json::from_slice(&check(&daemon, &copy, &["--json"]).stdout).unwrap();
            assert_eq!(checked["keys"], made["keys"], "{checked}");
            assert!(checked["unwrapped"].as_u64() >= checked["keys"].as_u64(), "{checked}");
            assert_eq!(checked["master_key"], made["master_key"]);
        }
        ended.store(true, Ordering::Relaxed);
    });
    // No file is overwritten.
    let copy = daemon.path("copy-0").display().to_string();
    let before = fs::read(&copy).unwrap();
    let (status, line) = daemon.fail(&["backup", &copy]);
    assert!(status == 73 && line.contains("exists already"), "{status} {line}");
    assert!(fs::read(&copy).unwrap() == before);
}

#[test]
fn a_copy_for_another_master_key_or_a_damaged_copy_is_reported() {
    let daemon = Daemon::production(&[("*", "tls-server")]);
    for number in 0..20 {
        let wanted = format!(r#"{{"label":"key-{number}","type":"p256","uses":[]}}"#);
        assert_eq!(daemon.http("POST", "/v1/keys", &wanted).unwrap().0, 201);
    }
    let copy = daemon.path("my copy").display().to_string();
    let text = daemon.succeed(&["backup", &copy]);
    // The command in the message runs exactly as printed, with the configuration of this daemon.
    let command = text.trim_end().rsplit_once("the key opens the copy: ").unwrap().1;
    let path = std::path::Path::new(PROGRAM).parent().unwrap();
    let output = Command::new("sh")
        .args(["-c", command])
        .env("PATH", format!("{}:/usr/bin:/bin", path.display()))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("is complete: 20 keys") && text.contains("20 private keys open"), "{text}");

    daemon.new_key("other.key");
    let other = daemon.path("other.key").display().to_string();
    let (status, line) = failure_of(&check(&daemon, &copy, &["--master-key", &other]));
    assert!(status == 78 && line.contains("do not belong together"), "{status} {line}");
    let whole = fs::read(&copy).unwrap();
    let damaged = |name: &str, bytes: &[u8]| {
        let path = daemon.path(name);
        fs::write(&path, bytes).unwrap();
        let checked = failure_of(&check(&daemon, path.to_str().unwrap(), &[]));
        assert_eq!(checked.0, 65, "{name}: {}", checked.1);
        assert!(checked.1.contains(name) && !checked.1.contains("panicked"), "{}", checked.1);
    };
    damaged("empty", b"");
    damaged("text", b"no key store");
    damaged("half", &whole[..whole.len() / 2]);
    // Each part of the record that is in the clear in the copy.
    let label = whole.windows(6).position(|part| part == b"key-12").unwrap();
    for offset in [0, 40, 200] {
        let mut altered = whole.clone();
        altered[label + offset] ^= 1;
        damaged(&format!("altered-{offset}"), &altered);
    }
    let (status, _) = failure_of(&check(&daemon, "/no/such/copy", &[]));
    assert_eq!(status, 66);
}

#[test]
fn a_copy_is_restored_where_there_is_no_store() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let copy = daemon.path("copy").display().to_string();
    daemon.succeed(&["backup", &copy]);
    let (status, line) = failure_of(&restore(&daemon, &copy));
    assert!(status == 69 && line.contains("the daemon is running"), "{status} {line}");
    daemon.end(Signal::TERM);
    let (status, line) = failure_of(&restore(&daemon, &copy));
    assert!(status == 73 && line.contains("there is a key store with keys"), "{status} {line}");
    // The command in the message moves the store away.
    let command = line.trim_end().rsplit_once("move the store away: ").unwrap().1;
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    assert!(restore(&daemon, &copy).status.success());
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);

    // The file of a running daemon is deleted, and the daemon can still make a copy.
    fs::remove_file(daemon.path("state/keys.redb")).unwrap();
    let copy = daemon.path("second").display().to_string();
    daemon.succeed(&["backup", &copy]);
    daemon.end(Signal::TERM);
    assert!(restore(&daemon, &copy).status.success());
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    assert_eq!(daemon.http("GET", "/ready", "").unwrap().0, 200);
    daemon.end(Signal::TERM);

    // A machine without a key store.
    daemon.start(&[]);
    let recovery = daemon.path("recovery").display().to_string();
    daemon.succeed(&["backup", "--recovery", &recovery]);
    daemon.end(Signal::TERM);
    fs::remove_dir_all(daemon.path("state")).unwrap();
    let (status, line) = failure_of(&restore(&daemon, &copy));
    assert!(status == 78 && line.contains("name the recovery file of the same time"), "{status} {line}");
    assert!(!daemon.path("state/keys.redb").exists());
    for junk in ["", "no key store"] {
        fs::write(daemon.path("junk"), junk).unwrap();
        let (status, line) = failure_of(&restore(&daemon, daemon.path("junk").to_str().unwrap()));
        assert!(status == 65 && !daemon.path("state/keys.redb").exists(), "{status} {line}");
    }
    // A copy that can be read only once, such as the output of a program that decrypts it.
    let script =
        "\"$0\" restore <(cat \"$1\") --recovery <(cat \"$4\") --state-dir \"$2\" --runtime-dir \"$3\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", script, PROGRAM, &copy]).arg(daemon.path("state")).arg(daemon.path("run")).arg(recovery);
    assert!(bash.status().unwrap().success());
    assert_eq!(fs::metadata(daemon.path("state")).unwrap().permissions().mode() & 0o777, 0o700);
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
}

/// Root restores a store that the user of the daemon must be able to open.
#[test]
fn a_copy_that_root_restores_is_for_the_user_of_the_daemon() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    let copy = daemon.path("copy").display().to_string();
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.succeed(&["backup", &copy]);
    let recovery = daemon.path("recovery").display().to_string();
    daemon.succeed(&["backup", "--recovery", &recovery]);
    daemon.end(Signal::TERM);
    fs::remove_file(daemon.path("state/keys.redb")).unwrap();
    fs::remove_dir_all(daemon.path("state/shred")).unwrap();
    std::os::unix::fs::chown(daemon.path("state"), Some(7003), Some(7003)).unwrap();
    // Root does not write into a directory of another user.
    let (status, line) = failure_of(&restore(&daemon, &copy));
    assert!(status == 73 && line.contains("belongs to user id 7003"), "{status} {line}");
    let script =
        "mount -t tmpfs none /etc && echo keyward:x:7003:7003::/:/bin/false >/etc/passwd && exec \"$@\"";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", script, "sh", PROGRAM, "restore", &copy, "--recovery"]);
    shell.args([&recovery, "--state-dir"]);
    let output =
        shell.arg(daemon.path("state")).arg("--runtime-dir").arg(daemon.path("run")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let secret = fs::read_dir(daemon.path("state/shred")).unwrap().next().unwrap().unwrap().path();
    for (path, mode) in
        [(daemon.path("state/keys.redb"), 0o600), (daemon.path("state/shred"), 0o700), (secret, 0o600)]
    {
        let found = fs::metadata(path).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (7003, 7003, mode));
    }
}

/// The store of remote units has a store key in a file.
#[test]
fn a_copy_of_a_store_of_remote_keys_is_checked_with_its_store_key() {
    let mut daemon = Daemon::prepare("");
    daemon.new_key("store.key");
    let unit = "[grep11.hsm]\nendpoints = [\"localhost:1\"]\nplaintext = true\n";
    let store = format!("{unit}[store]\nkey = {:?}\n", daemon.path("store.key"));
    daemon.configure(&store);
    daemon.start(&[]);
    let copy = daemon.path("copy").display().to_string();
    daemon.succeed(&["backup", &copy]);
    let output = check(&daemon, &copy, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    daemon.new_key("other.key");
    daemon.configure(&store.replace("store.key", "other.key"));
    let (status, line) = failure_of(&check(&daemon, &copy, &[]));
    assert!(status == 78 && line.contains("another store key"), "{status} {line}");
}

fn check(daemon: &Daemon, copy: &str, more: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["backup", "check", copy]).args(more).arg("--config").arg(daemon.path("keyward.toml"));
    command.arg("--state-dir").arg(daemon.path("state")).output().unwrap()
}

fn restore(daemon: &Daemon, copy: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["restore", copy, "--state-dir"]).arg(daemon.path("state"));
    command.arg("--runtime-dir").arg(daemon.path("run")).output().unwrap()
}

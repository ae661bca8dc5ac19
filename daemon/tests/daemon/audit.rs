//! The audit trail of the daemon: every use of a key and every act of an administrator.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, PROGRAM, certificate_verify};

/// The records of all files, in their order.
fn records(daemon: &Daemon) -> Vec<Value> {
    let mut lines = Vec::new();
    for path in files(daemon) {
        let text = fs::read_to_string(path).unwrap();
        lines.extend(text.lines().map(|line| serde_json::from_str(line).unwrap()));
    }
    lines
}

fn files(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = fs::read_dir(daemon.path("state/audit")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    files.sort();
    files
}

/// Exit status and output of `keyward audit verify`.
fn verify(daemon: &Daemon) -> (i32, String) {
    let directory = daemon.path("state/audit");
    let mut command = std::process::Command::new(PROGRAM);
    command.args(["audit", "verify", "--dir"]).arg(&directory).arg("--key").arg(directory.join("key.pem"));
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Waits for something that happens within a second or so.
fn await_some<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match ask() {
            Some(found) => return found,
            None => assert!(Instant::now() < end, "waited in vain"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn uses_and_acts_are_on_record_and_signed_at_the_end() {
    let mut daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let message = certificate_verify();
    for _ in 0..20 {
        assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    }
    assert_eq!(daemon.outcome("nothing", &message), Outcome::UnknownKey);
    daemon.succeed(&["key", "disable", "shop"]);
    // An act is signed soon. Uses after the act are not.
    await_some(|| daemon.path("state/audit/head").exists().then_some(()));
    await_some(|| {
        assert_eq!(daemon.outcome("shop", &message), Outcome::KeyDisabled);
        (verify(&daemon).0 == 2).then_some(())
    });
    assert!(daemon.end(Signal::TERM).success());
    let (status, text) = verify(&daemon);
    assert_eq!(status, 0, "{text}");

    let records = records(&daemon);
    let uses = |key: &str, outcome: &str| {
        let of = |record: &&Value| record["action"] == "keyward.key.use" && record["key"] == key;
        records.iter().filter(of).filter(|record| record["outcome"] == outcome).count()
    };
    assert_eq!(uses("shop", "done"), 20, "{records:#?}");
    assert_eq!(uses("nothing", "unknown-key"), 1, "{records:#?}");
    assert!(uses("shop", "key-disabled") > 0, "{records:#?}");
    let acts: Vec<_> = records.iter().filter(|record| record["actor"].is_object()).collect();
    assert_eq!(
        acts.iter().map(|act| &act["action"]).collect::<Vec<_>>(),
        ["keyward.key.generate", "keyward.key.change"]
    );
    let used =
        records.iter().find(|record| record["outcome"] == "done" && record["message"].is_string()).unwrap();
    assert_eq!(used["message"].as_str().unwrap(), sha256(&message), "{used}");
    assert_eq!(used["peer"]["pid"], std::process::id(), "{used}");
    assert_eq!(used["purpose"], "tls13-server", "{used}");

    // A record is changed.
    let path = &files(&daemon)[0];
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, text.replacen("\"outcome\":\"key-disabled\"", "\"outcome\":\"done\"", 1)).unwrap();
    let (status, text) = verify(&daemon);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains(&path.display().to_string()), "{text}");
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A daemon that is killed loses at most the last moment, and goes on with the same chain.
#[test]
fn a_killed_daemon_goes_on_with_the_trail() {
    let mut daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert!(!daemon.end(Signal::KILL).success());
    daemon.start(&["--dev"]);
    daemon.succeed(&["key", "disable", "shop"]);
    assert!(daemon.end(Signal::TERM).success());
    let (status, text) = verify(&daemon);
    assert_eq!(status, 0, "{text}");
    let acts = records(&daemon).iter().filter(|record| record["actor"].is_object()).count();
    assert_eq!(acts, 2, "an act that was answered is never missing");
}

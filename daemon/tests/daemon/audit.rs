//! The audit trail of the daemon: every use of a key and every act of an administrator.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, PROGRAM, certificate_verify, failure_of};

/// The records of all files, in their order.
pub(crate) fn records(daemon: &Daemon) -> Vec<Value> {
    records_in(&daemon.path("state/audit"))
}

pub(crate) fn records_in(directory: &Path) -> Vec<Value> {
    let mut command = Command::new(PROGRAM);
    let output = command.args(["audit", "show", "--json", "--dir"]).arg(directory).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn files(daemon: &Daemon) -> Vec<PathBuf> {
    files_in(&daemon.path("state/audit"))
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    files.sort();
    files
}

/// Exit status and output of `keyward audit verify`.
pub(crate) fn verify(daemon: &Daemon) -> (i32, String) {
    verify_in(&daemon.path("state/audit"))
}

pub(crate) fn verify_in(directory: &Path) -> (i32, String) {
    let mut command = Command::new(PROGRAM);
    command.args(["audit", "verify", "--dir"]).arg(directory).arg("--key").arg(directory.join("key.pem"));
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Waits for something that happens within a second or so.
pub(crate) fn await_some<T>(mut ask: impl FnMut() -> Option<T>) -> T {
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
    let loaded = "keyward.configuration.load";
    assert_eq!((&acts[0]["action"], &acts[0]["actor"]["role"]), (&loaded.into(), &"daemon".into()));
    assert!(acts[0]["details"]["fingerprint"].is_string(), "{}", acts[0]);
    assert_eq!(acts[0]["details"]["roles"], 0, "{}", acts[0]);
    assert_eq!(
        acts[1..].iter().map(|act| format!("{} {}", act["action"], act["outcome"])).collect::<Vec<_>>(),
        [
            "\"keyward.key.generate\" \"begun\"",
            "\"keyward.key.generate\" \"done\"",
            "\"keyward.key.disable\" \"begun\"",
            "\"keyward.key.disable\" \"done\"",
        ]
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

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The command of the page finds that the end was removed, and `head` replaced by an older one.
#[test]
fn a_copy_of_head_shows_a_missing_end() {
    let mut daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert!(daemon.end(Signal::TERM).success());
    let (trail, older) = (daemon.path("state/audit"), daemon.path("older"));
    let copy = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    copy(&trail, &older);
    daemon.start(&["--dev"]);
    daemon.succeed(&["key", "disable", "shop"]);
    assert!(daemon.end(Signal::TERM).success());
    copy(&trail.join("key.pem"), &daemon.path("audit.pem"));
    copy(&trail.join("head"), &daemon.path("head.copy"));

    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/audit.md")).unwrap();
    let documented =
        page.lines().find(|line| line.contains("verify --key") && line.contains("--head")).unwrap();
    let words = documented.trim().strip_prefix("keyward ").unwrap().split(' ');
    let run = |directory: &Path| {
        let mut command = Command::new(PROGRAM);
        command.args(words.clone()).arg("--dir").arg(directory).current_dir(daemon.path(""));
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, text) = run(&trail);
    assert!(status == 0 && text.contains("is the one that head.copy covers"), "{status} {text}");
    assert_eq!(verify_in(&older).0, 0, "without a copy, nothing shows it");
    let (status, text) = run(&older);
    assert!(status == 1 && text.starts_with("head.copy:1: the trail went beyond record"), "{status} {text}");
    fs::write(daemon.path("head.copy"), "{}").unwrap();
    let (status, line) =
        failure_of(&Command::new(PROGRAM).args(words).current_dir(daemon.path("")).output().unwrap());
    assert!(status == 65 && line.contains("cannot read head.copy: not a checkpoint"), "{status} {line}");
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
    assert_eq!(acts, 4 + 2, "an act that was answered is never missing, and each start has one");
}

#[test]
fn the_trail_answers_the_questions_that_people_ask() {
    let mut daemon = Daemon::dev("");
    for label in ["shop", "mail"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    let mut follow = Command::new(PROGRAM);
    follow.args(["audit", "tail", "--follow", "--key", "shop", "--runtime-dir"]).arg(daemon.path("run"));
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut followed = BufReader::new(follow.stdout.take().unwrap()).lines();
    assert!(followed.next().unwrap().unwrap().ends_with("key.generate  shop  begun"));

    let message = certificate_verify();
    for _ in 0..30 {
        assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    }
    for _ in 0..30 {
        assert_eq!(daemon.outcome("mail", b"no handshake"), Outcome::UseRefused);
    }
    let uses =
        followed.map_while(Result::ok).filter(|line| line.contains("key.use  shop v1  tls13-server  done"));
    assert_eq!(uses.take(30).count(), 30);
    follow.kill().unwrap();
    follow.wait().unwrap();

    let json = |words: &[&str]| -> Value {
        serde_json::from_str(&daemon.succeed(&[&["audit"], words, &["--json"]].concat())).unwrap()
    };
    let users = json(&["users", "shop"]);
    assert_eq!((users[0]["times"].as_u64(), users.as_array().unwrap().len()), (Some(30), 1), "{users}");
    assert_eq!(json(&["users", "mail"]), serde_json::json!([]));
    let unused = daemon.keyward(&["audit", "unused", "--for", "1h"]);
    let text = String::from_utf8(unused.stdout).unwrap();
    assert!(text.contains("mail") && !text.contains("shop"), "{text}");
    let note = String::from_utf8(unused.stderr).unwrap();
    assert!(note.contains("the audit trail begins at"), "{note}");
    // Beyond ten in a second, refusals are counted when the second is over.
    let refusals = await_some(|| {
        let rows = json(&["refusals"]);
        let count = |row: &Value| row["times"].as_u64().filter(|_| row["outcome"] == "use-refused");
        let refused: u64 = rows.as_array().unwrap().iter().filter_map(count).sum();
        (refused == 30).then_some(rows)
    });
    assert_eq!(refusals[0]["uid"], rustix::process::getuid().as_raw(), "{refusals}");

    let shown = daemon.succeed(&["audit", "show", "--key", "shop", "--outcome", "done", "--since", "1h"]);
    assert_eq!(shown.lines().count(), 31, "{shown}");
    let none = daemon.succeed(&["audit", "show", "--until", "2026-01-01"]);
    assert_eq!(none, "");
    let wrong = daemon.keyward(&["audit", "show", "--since", "yesterday"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("a time before now such as 7d"));

    // The copy is verified as the command says, with a copy of the key that was kept elsewhere.
    let key = daemon.path("audit.pem");
    await_some(|| fs::copy(daemon.path("state/audit/key.pem"), &key).ok());
    let copy = daemon.path("copy.tar").display().to_string();
    let said = daemon.succeed(&["audit", "export", &copy]);
    assert!(
        said.contains(&format!("tar -xf {copy} && keyward audit verify --dir audit --key KEY.pem")),
        "{said}"
    );
    let twice = daemon.fail(&["audit", "export", &copy]);
    assert!(twice.1.contains("exists"), "{twice:?}");
    let here = daemon.path("elsewhere");
    fs::create_dir(&here).unwrap();
    assert!(Command::new("tar").arg("-xf").arg(&copy).current_dir(&here).status().unwrap().success());
    let mut verify = Command::new(PROGRAM);
    verify.args(["audit", "verify", "--dir", "audit", "--key"]).arg(&key).current_dir(&here);
    assert_eq!(verify.status().unwrap().code(), Some(2), "uses are not signed yet");
    let mut offline = Command::new(PROGRAM);
    offline.args(["audit", "users", "shop", "--dir", "audit"]).current_dir(&here);
    let text = String::from_utf8(offline.output().unwrap().stdout).unwrap();
    assert!(text.contains(" 30 "), "{text}");

    // A reader who follows does not delay the end.
    let mut follow = Command::new(PROGRAM);
    follow.args(["audit", "tail", "--follow", "--runtime-dir"]).arg(daemon.path("run"));
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(follow.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(daemon.end(Signal::TERM).success());
    assert!(!daemon.log().contains("gave up requests of administrators"), "{}", daemon.log());
    follow.wait().unwrap();
}

/// An auditor cannot take the threads that serve administrators.
#[test]
fn readers_of_one_user_are_limited() {
    let daemon = Daemon::dev("");
    let follow = || {
        let mut follow = Command::new(PROGRAM);
        follow.args(["audit", "tail", "--follow", "--runtime-dir"]).arg(daemon.path("run"));
        let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        BufReader::new(follow.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        follow
    };
    let mut readers = [follow(), follow()];
    let (status, line) = daemon.fail(&["audit", "show"]);
    assert!(status == 69 && line.contains("too many readers of the audit trail; try again"), "{line}");
    assert_eq!(daemon.http("GET", "/v1/audit/files", "").unwrap().0, 503);
    readers[0].kill().unwrap();
    await_some(|| daemon.keyward(&["audit", "show"]).status.success().then_some(()));
    for mut reader in readers {
        let _ended = reader.kill();
        reader.wait().unwrap();
    }
}

/// One damaged line hides no record after it.
#[test]
fn a_line_that_is_no_record_is_passed_over_and_named() {
    let mut daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let path = files(&daemon).remove(0);
    let text = fs::read_to_string(&path).unwrap();
    let damaged = OpenOptions::new().write(true).open(&path).unwrap();
    damaged.write_all_at(b"x", text.find("{\"seq\":2,").unwrap() as u64 + 7).unwrap();
    let directory = daemon.path("state/audit").display().to_string();
    let first = format!("at {}:2", path.display());
    let mut offline = Command::new(PROGRAM);
    offline.args(["audit", "show", "--key", "shop", "--dir", &directory]);
    let answers = [
        (daemon.keyward(&["audit", "show", "--key", "shop"]), "before the first record of the answer"),
        (offline.output().unwrap(), &first),
    ];
    for (output, place) in answers {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.lines().filter(|line| line.contains("key.generate  shop")).count(), 2, "{text}");
        let (status, line) = failure_of(&output);
        let words =
            format!("1 line of the audit trail is no record and was passed over, the first one {place};");
        assert!(status == 65 && line.contains(&words), "{line}");
    }
    assert!(daemon.end(Signal::TERM).success());
}

//! Limits of what users write to the audit trail.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, certificate_verify, failure_of, has_root};
use crate::users::{ALICE, MALLORY, as_user, keyward_as};

/// A daemon whose trail is in memory, since each act waits for the disk.
fn daemon(configuration: &str) -> Daemon {
    let mut daemon = Daemon::prepare(configuration);
    fs::create_dir_all(daemon.path("state/audit")).unwrap();
    fs::set_permissions(daemon.path("state"), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
    daemon.start_as(&mut daemon.serve_on_disk("state/audit", "100m"));
    daemon
}

/// Asks for an act many times, on several connections in turn: the daemon signs the trail once for
/// acts that come together. Returns the status of each answer.
fn repeat(daemon: &Daemon, method: &str, path: &str, body: &str, times: usize) -> Vec<u16> {
    let connect = |_| UnixStream::connect(daemon.path("run/admin.sock")).unwrap();
    let mut streams: Vec<_> = (0..CONNECTIONS.min(times)).map(connect).collect();
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
    let mut statuses = Vec::new();
    while statuses.len() < times {
        let together = (times - statuses.len()).min(CONNECTIONS);
        for stream in &mut streams[..together] {
            stream.write_all(request.as_bytes()).unwrap();
        }
        statuses.extend(streams[..together].iter_mut().map(status_of_answer));
    }
    statuses
}

/// Reads an answer whose body is an object without another one in it.
fn status_of_answer(stream: &mut UnixStream) -> u16 {
    let (mut answer, mut buffer) = (String::new(), [0; 4096]);
    while !answer.ends_with('}') {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "{answer}");
        answer += core::str::from_utf8(&buffer[..length]).unwrap();
    }
    answer["HTTP/1.1 ".len()..][..3].parse().unwrap()
}

fn records(daemon: &Daemon, words: &[&str]) -> Vec<Value> {
    let text = daemon.succeed(&[&["audit", "show", "--json"], words].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_user_cannot_fill_the_trail_with_acts_but_can_stop_keys() {
    if !has_root() {
        return;
    }
    let operators = [ALICE, MALLORY].map(|uid| format!("[[role]]\nrole = \"operator\"\nuid = {uid}\n"));
    let daemon = daemon(&operators.concat());
    for label in ["gone", "shop", "mail"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.succeed(&["key", "compromise", "gone"]);
    let enable = |times| repeat(&daemon, "PATCH", "/v1/keys/gone", r#"{"state": "enabled"}"#, times);
    // Each of these acts has two records, as it begins and as it fails.
    let begin = Instant::now();
    let statuses = as_user(ALICE, || enable(10_000));
    assert!(statuses.iter().all(|status| *status == 409), "10,000 acts are possible at once");
    let more = as_user(ALICE, || enable(begin.elapsed().as_secs() as usize + 20));
    let refused = more.iter().filter(|status| **status == 429).count();
    assert!(refused >= 10, "{refused} refusals in {more:?}");

    // Some acts more are possible by now, each of which a second has made possible.
    let refusal = loop {
        let output = keyward_as(&daemon, ALICE, &["key", "enable", "gone"]);
        let (status, line) = failure_of(&output);
        if status != 73 {
            break (status, line);
        }
    };
    assert!(refusal.0 == 75 && refusal.1.contains("may carry out one each second for now"), "{refusal:?}");
    for stop in [["key", "disable", "shop"], ["key", "compromise", "mail"]] {
        assert!(keyward_as(&daemon, ALICE, &stop).status.success());
    }
    let other = as_user(MALLORY, || enable(1));
    assert_eq!(other, [409], "another user");
    // Root can fill the file system of the trail without the daemon.
    let of_root = enable(10_100);
    assert!(of_root.iter().all(|status| *status == 409), "root has no limit");

    let refusals = records(&daemon, &["--action", "keyward.admin.refused"]);
    assert!(!refusals.is_empty());
    for record in &refusals {
        assert_eq!(record["details"]["act"], "keyward.key.enable", "{record}");
        assert_eq!((&record["actor"]["uid"], &record["key"]), (&ALICE.into(), &"gone".into()), "{record}");
    }
    for action in ["keyward.key.disable", "keyward.key.compromise"] {
        let acts = records(&daemon, &["--action", action]);
        assert_eq!(acts.last().map(|record| &record["outcome"]), Some(&"done".into()), "{acts:?}");
    }
}

/// Uses and acts while the trail is not open are counted by the trail when it is.
#[test]
fn a_trail_that_opens_later_counts_what_it_missed() {
    let mut daemon = Daemon::dev("");
    for label in ["shop", "mail"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    assert!(daemon.end(Signal::TERM).success());
    let (place, elsewhere) = (daemon.path("state/audit"), daemon.path("audit"));
    fs::rename(&place, &elsewhere).unwrap();
    fs::write(&place, "no directory").unwrap();
    daemon.start(&["--dev"]);
    let message = certificate_verify();
    for _ in 0..5 {
        assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    }
    daemon.succeed(&["key", "disable", "mail"]);
    daemon.fail(&["key", "disable", "mail"]);
    daemon.fail(&["key", "rotate", "shop"]);
    // Another user, whose act is refused.
    let mut refused = 0;
    if has_root() {
        fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
        let (status, text) = as_user(ALICE, || daemon.http("POST", "/v1/reload", "")).unwrap();
        assert_eq!(status, 403, "{text}");
        refused = 1;
    }
    fs::remove_file(&place).unwrap();
    fs::rename(&elsewhere, &place).unwrap();
    daemon.await_log("the audit trail is open now");
    assert!(daemon.end(Signal::TERM).success());
    daemon.start(&["--dev"]);
    let gaps = records(&daemon, &["--action", "keyward.audit.gap"]);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((&gaps[0]["uses"], &gaps[0]["acts"]), (&(5 + refused).into(), &2.into()), "begun and done");
}

/// Acts that come together. The daemon gains nothing from more.
const CONNECTIONS: usize = 8;

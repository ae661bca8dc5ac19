//! What the disk can do to the keys.

use std::collections::HashSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use keyward_proto::Outcome;
use redb::{Database, ReadableDatabase, TableDefinition};
use rustix::process::{Resource, Rlimit, Signal, prlimit};

use crate::fixture::{Daemon, certificate_verify};

#[test]
fn every_key_that_was_acknowledged_survives_kill_9() {
    let mut daemon = Daemon::dev("");
    let acknowledged = Mutex::new(Vec::new());
    let next = AtomicU32::new(0);
    for round in 1..=3 {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let label = format!("key-{}", next.fetch_add(1, Ordering::Relaxed));
                        let wanted = format!(r#"{{"label":"{label}","type":"p256","uses":[]}}"#);
                        match daemon.http("POST", "/v1/keys", &wanted) {
                            Ok((201, _)) => acknowledged.lock().unwrap().push(label),
                            Ok((status, answer)) => panic!("{status}: {answer}"),
                            Err(_) => return,
                        }
                    }
                });
            }
            while acknowledged.lock().unwrap().len() < 300 * round {
                thread::yield_now();
            }
            daemon.signal(Signal::KILL);
        });
        daemon.end(Signal::KILL);
        daemon.start(&["--dev"]);
        let listed = daemon.succeed(&["key", "list"]);
        let listed: HashSet<_> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
        for label in acknowledged.lock().unwrap().iter() {
            assert!(listed.contains(label.as_str()), "{label} is lost after kill {round}");
        }
    }
    let last = acknowledged.lock().unwrap().last().unwrap().clone();
    assert_eq!(daemon.outcome(&last, &certificate_verify()), Outcome::Done);
}

#[test]
fn a_file_that_may_not_grow_costs_the_write_and_nothing_else() {
    let mut daemon = Daemon::prepare("");
    // A shell sets the limit, and keeps its signal from killing.
    let serve = daemon.serve(&["--dev"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -S -f 300; exec \"$@\"", "sh"])
        .arg(serve.get_program())
        .args(serve.get_args());
    daemon.start_as(&mut shell);
    let pid = daemon.pid();
    fill(&daemon, || {
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    });
}

#[test]
fn a_full_disk_costs_the_write_and_nothing_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    std::fs::create_dir(daemon.path("state")).unwrap();
    // A disk of its own, seen by the daemon alone and gone with it.
    let serve = daemon.serve(&["--dev"]);
    let mut shell = Command::new("unshare");
    shell
        .args(["--mount", "sh", "-c", "mount -t tmpfs -o size=2m,mode=700 none \"$0\" && exec \"$@\""])
        .arg(daemon.path("state"))
        .arg(serve.get_program())
        .args(serve.get_args());
    daemon.start_as(&mut shell);
    let pid = daemon.pid().to_string();
    fill(&daemon, || {
        let mut mount = Command::new("nsenter");
        mount.args(["--mount", "--target", &pid, "mount", "-o", "remount,size=8m"]).arg(daemon.path("state"));
        assert!(mount.status().unwrap().success());
    });
}

/// Makes keys until there is no room, and again when there is.
fn fill(daemon: &Daemon, make_room: impl FnOnce()) {
    let generate = |number: u32| {
        let wanted = format!(r#"{{"label":"key-{number}","type":"p256","uses":[]}}"#);
        daemon.http("POST", "/v1/keys", &wanted).unwrap()
    };
    let mut made = 0;
    let refused = loop {
        let (status, answer) = generate(made);
        if status != 201 {
            break (status, answer);
        }
        made += 1;
        assert!(made < 2000, "the limit was never reached");
    };
    assert_eq!(refused.0, 507, "{}", refused.1);
    assert!(made > 0);

    let message = certificate_verify();
    for number in 0..made {
        assert_eq!(daemon.outcome(&format!("key-{number}"), &message), Outcome::Done, "key {number}");
    }
    assert_eq!(daemon.outcome(&format!("key-{made}"), &message), Outcome::UnknownKey);
    assert_eq!(generate(made).0, 507, "still full");

    make_room();
    assert_eq!(generate(made).0, 201, "there is room again, and no restart was needed");
    let count = daemon.succeed(&["key", "list"]).lines().count();
    assert_eq!(count as u32, made + 2, "title and keys");
}

#[test]
fn a_damaged_blob_is_told_from_one_of_another_master_key() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    for label in ["sound", "hurt"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.end(Signal::TERM);
    damage(&daemon, "hurt");
    daemon.start(&[]);
    let message = certificate_verify();
    assert_eq!(daemon.outcome("sound", &message), Outcome::Done);
    assert_eq!(daemon.outcome("hurt", &message), Outcome::BlobDamaged);
    assert!(daemon.log().contains("its blob is damaged"), "{}", daemon.log());

    let (_, status) = daemon.http("GET", "/v1/status", "").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let old = status["backends"][0]["wkid"].as_str().unwrap().to_owned();
    daemon.end(Signal::TERM);
    daemon.new_master_key();
    daemon.start(&[]);
    assert_eq!(daemon.outcome("sound", &message), Outcome::OtherMasterKey);
    let (_, status) = daemon.http("GET", "/v1/status", "").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let new = status["backends"][0]["wkid"].as_str().unwrap();
    assert!(
        daemon.log().lines().any(|line| line.contains("WARN") && line.contains(&old) && line.contains(new)),
        "{}",
        daemon.log()
    );
    daemon.succeed(&["key", "generate", "fresh", "--type", "p256"]);
    assert_eq!(daemon.outcome("fresh", &message), Outcome::Done);
}

/// Changes one character in the middle of the blob of a key.
fn damage(daemon: &Daemon, label: &str) {
    const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let stored = {
        let table = database.begin_read().unwrap().open_table(KEYS).unwrap();
        table.get(label).unwrap().unwrap().value().to_vec()
    };
    let mut record: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    let blob = record["versions"][0]["blob"].as_str().unwrap().to_owned();
    let middle = blob.len() / 2;
    let other = if blob.as_bytes()[middle] == b'A' { "B" } else { "A" };
    record["versions"][0]["blob"] = format!("{}{other}{}", &blob[..middle], &blob[middle + 1..]).into();
    let transaction = database.begin_write().unwrap();
    let bytes = serde_json::to_vec(&record).unwrap();
    transaction.open_table(KEYS).unwrap().insert(label, bytes.as_slice()).unwrap();
    transaction.commit().unwrap();
}

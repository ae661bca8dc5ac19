//! The audit trail over a month: administrators, nginx and curl. The clock of the daemon is moved.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_tests::attacker::uid_of;
use keyward_tests::client::{WISHES, curl, curl_command};
use keyward_tests::server::Site;
use keyward_tests::tool::{as_user, fail, of_clock, run, succeed, wait_for};
use keyward_tests::{Daemon, Nginx, Pki, built, has_root};
use serde_json::Value;

/// Debian has these users, who run no programs. Two managers, because one key needs two.
const MANAGERS: [&str; 2] = ["man", "lp"];
const AUDITOR: &str = "mail";
const PURGER: &str = "news";

/// A month in the life of two keys.
struct Month {
    daemon: Daemon,
    /// Acts that were answered: user, action, key.
    acts: BTreeSet<(u32, String, String)>,
}

impl Month {
    fn begin() -> Self {
        let role = |role: &str, user: &str| format!("[[role]]\nrole = {role:?}\nuser = {user:?}\n");
        let roles: String = MANAGERS.map(|user| role("manager", user)).concat();
        let roles = roles + &role("auditor", AUDITOR) + &role("purger", PURGER);
        let mut daemon = Daemon::prepare(&roles);
        for (name, value) in of_clock(&daemon.path("clock")) {
            daemon.set_variable(name, value);
        }
        let month = Self { daemon, acts: BTreeSet::new() };
        month.set_day(0);
        month
    }

    /// Sets the clock of the daemon to a day, counted from today.
    fn set_day(&self, day: u32) {
        let new = self.daemon.path("clock.new");
        fs::write(&new, format!("+{day}d\n")).unwrap();
        fs::rename(new, self.daemon.path("clock")).unwrap();
    }

    /// Has a user carry out an act on a key.
    fn act(&mut self, user: &str, verb: &str, key: &str, more: &[&str]) -> String {
        let words = [&["key", verb, key], more].concat();
        let output = succeed(&mut as_user(user, &self.daemon.keyward(&words)));
        self.acts.insert((uid_of(user), format!("keyward.key.{verb}"), key.to_owned()));
        output
    }

    /// The records, as the auditor reads them.
    fn records(&self, more: &[&str]) -> Vec<Value> {
        let words = [&["audit", "show", "--json"], more].concat();
        let text = succeed(&mut as_user(AUDITOR, &self.daemon.keyward(&words)));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn a_month_is_on_record_and_every_change_of_the_record_is_found() {
    if !has_root() {
        return;
    }
    let mut month = Month::begin();
    month.daemon.resume();
    let [first, second] = MANAGERS;
    month.act(first, "generate", "shop", &["--type", "p256"]);
    month.act(first, "generate", "robot", &["--type", "p256", "--use", "tls-client"]);
    month.act(second, "generate", "old", &["--type", "p256"]);
    let pki = Pki::new(month.daemon.directory());
    let site = Site::with_key(&month.daemon, &pki, "shop");
    let robot = Site::with_key(&month.daemon, &pki, "robot");
    let protected = Site::for_certified_clients(&month.daemon, &pki);
    let nginx = Nginx::start(&month.daemon, &[site.clone(), protected.clone()]);
    let ask_as_robot = |daemon: &Daemon| {
        let mut command = curl_command(&pki, protected.address, WISHES[3]);
        command.arg("--cert").arg(&robot.certificate).arg("--key").arg(&robot.key);
        command.env("OPENSSL_CONF", daemon.openssl_conf());
        command
    };
    let (mut of_shop, mut of_robot) = (0, 0);
    for day in 1..=30 {
        month.set_day(day);
        for wish in WISHES {
            assert_eq!(curl(&pki, site.address, wish), "served\n");
            of_shop += 1;
        }
        if day < 20 {
            assert_eq!(succeed(&mut ask_as_robot(&month.daemon)), "served\n");
            of_robot += 1;
        }
        // The uses are written on their day, and begin its file.
        let trail = month.daemon.path("state/audit");
        wait_for("the file of the day", || (files(&trail).len() > day as usize).then_some(()));
        match day {
            3 => drop(month.act(second, "disable", "old", &[])),
            4 => drop(month.act(first, "enable", "old", &[])),
            6 => drop(month.act(first, "set-uses", "old", &["--use", "csr"])),
            8 => drop(month.act(second, "rotate", "old", &[])),
            9 => drop(month.act(first, "set-deletion", "old", &["--dual"])),
            10 => {
                month.act(first, "delete", "old", &["--yes"]);
                let again = month.daemon.keyward(&["key", "delete", "old", "--yes"]);
                fail(&mut as_user(first, &again));
            }
            12 => drop(month.act(second, "delete", "old", &["--yes"])),
            14 => drop(month.act(first, "restore", "old", &[])),
            16 => drop(month.act(first, "set-dates", "old", &["--not-after", "2999-01-01"])),
            20 => {
                month.act(second, "compromise", "robot", &[]);
                fail(&mut ask_as_robot(&month.daemon));
            }
            22 => drop(month.act(second, "delete", "old", &["--yes"])),
            23 => drop(month.act(first, "delete", "old", &["--yes"])),
            24 => {
                // Those who may delete may not purge, and the auditor may only look.
                for (user, words) in [
                    (first, &["key", "purge", "old", "--yes"][..]),
                    (AUDITOR, &["key", "disable", "shop"]),
                    (PURGER, &["audit", "show"]),
                ] {
                    let (status, text) = fail(&mut as_user(user, &month.daemon.keyward(words)));
                    assert_eq!(status.code(), Some(77), "{text}");
                }
                month.act(PURGER, "purge", "old", &["--yes"]);
            }
            _ => {}
        }
    }
    let is_use = |record: &&Value, key: &str, purpose: &str| {
        record["key"] == key && record["purpose"].as_str().is_some_and(|has| has.starts_with(purpose))
    };
    let records = wait_for("the last handshake on record", || {
        let records = month.records(&["--outcome", "done"]);
        let uses = |key, purpose| records.iter().filter(|record| is_use(record, key, purpose)).count();
        let all = (uses("shop", "tls1"), uses("robot", "tls1")) == (of_shop, of_robot);
        all.then_some(records)
    });
    let workers: BTreeSet<_> = nginx.workers().into_iter().collect();
    for record in records.iter().filter(|record| is_use(record, "shop", "tls1")) {
        let peer = &record["peer"];
        assert!(workers.contains(&u32::try_from(peer["pid"].as_u64().unwrap()).unwrap()), "{record}");
        assert_eq!((&peer["command"], &peer["uid"]), (&"nginx".into(), &uid_of("www-data").into()));
    }
    for record in records.iter().filter(|record| is_use(record, "robot", "tls13-client")) {
        assert_eq!((&record["peer"]["command"], &record["peer"]["uid"]), (&"curl".into(), &0.into()));
    }
    for outcome in ["begun", "done"] {
        let records = month.records(&["--action", "keyward.key", "--outcome", outcome]);
        let acts: BTreeSet<_> =
            records.iter().filter(|record| record["actor"].is_object()).map(act_of).collect();
        let missing: Vec<_> = month.acts.difference(&acts).collect();
        assert!(missing.is_empty(), "{outcome}: {missing:?} in {acts:?}");
    }
    let refused = month.records(&["--outcome", "refused"]);
    let who: Vec<_> = refused.iter().map(|record| record["actor"]["uid"].as_u64().unwrap()).collect();
    assert_eq!(who, [first, AUDITOR, PURGER].map(|user| u64::from(uid_of(user))));
    let users =
        succeed(&mut as_user(AUDITOR, &month.daemon.keyward(&["audit", "users", "shop", "--since", "1d"])));
    assert!(users.contains("www-data") && users.contains(&of_shop.to_string()), "{users}");

    let trail = month.daemon.path("state/audit");
    assert_eq!(verify(&trail).0, Some(2), "the daemon runs");
    drop(nginx);
    assert!(month.daemon.stop().success());
    let (status, text) = verify(&trail);
    assert_eq!(status, Some(0), "{text}");
    assert!(files(&trail).len() >= 30, "a file a day: {:?}", files(&trail));
    alter(&month.daemon, &trail);
}

fn act_of(record: &Value) -> (u32, String, String) {
    let uid = u32::try_from(record["actor"]["uid"].as_u64().unwrap()).unwrap();
    let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
    (uid, text("action"), text("key"))
}

/// Exit status and output of the verification with the key that was kept elsewhere.
fn verify(trail: &Path) -> (Option<i32>, String) {
    let key = trail.with_file_name("audit.pem");
    if !key.exists() {
        fs::copy(trail.join("key.pem"), &key).unwrap();
    }
    let mut command = Command::new(built("keyward"));
    let output = run(command.args(["audit", "verify", "--dir"]).arg(trail).arg("--key").arg(key));
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn files(trail: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(trail).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.filter(|path| path.to_string_lossy().contains(".jsonl")).collect();
    files.sort();
    files
}

/// Changes copies of the trail in every way, and expects the place of each change.
fn alter(daemon: &Daemon, trail: &Path) {
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change); 7] = [
        ("edit", |one, _| {
            on_lines(one, |lines| lines[1] = lines[1].replacen("\"time\":\"2", "\"time\":\"3", 1))
        }),
        ("delete", |one, _| on_lines(one, |lines| drop(lines.remove(1)))),
        ("insert", |one, _| on_lines(one, |lines| lines.insert(1, lines[2].clone()))),
        ("reorder", |one, _| on_lines(one, |lines| lines.swap(1, 2))),
        ("truncate", |one, _| on_lines(one, |lines| lines.truncate(2))),
        ("swap", |one, other| {
            let text = fs::read(one).unwrap();
            fs::copy(other, one).unwrap();
            fs::write(other, text).unwrap();
        }),
        ("replay", |one, other| {
            fs::copy(other, one).unwrap();
        }),
    ];
    // Files of a day are short, and short files are not compressed.
    let plain: Vec<_> =
        files(trail).into_iter().filter(|path| path.extension().unwrap() == "jsonl").collect();
    let long = |path: &&PathBuf| fs::read_to_string(path).unwrap().lines().count() > 3;
    let long: Vec<_> = plain.iter().filter(long).filter_map(|path| path.file_name()).collect();
    let [one, other] = [long[long.len() / 2], long[long.len() / 2 - 1]];
    for (name, change) in changes {
        let copy = daemon.path(&format!("state/{name}"));
        succeed(Command::new("cp").arg("-r").arg(trail).arg(&copy));
        let (one, other) = (copy.join(one), copy.join(other));
        change(&one, &other);
        let (status, text) = verify(&copy);
        assert_eq!(status, Some(1), "{name}: {text}");
        let place = if name == "swap" { &other } else { &one };
        // A file that ends early is found by the next one.
        let is_there = text.contains(&format!("{}:", place.display())) || name == "truncate";
        assert!(is_there, "{name}: {text} is not about {}", place.display());
    }
    // The end is cut off: the head knows of it.
    let copy = daemon.path("state/end");
    succeed(Command::new("cp").arg("-r").arg(trail).arg(&copy));
    fs::remove_file(files(&copy).pop().unwrap()).unwrap();
    let (status, text) = verify(&copy);
    assert!(status == Some(1) && text.contains("head"), "{text}");
}

fn on_lines(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines: Vec<String> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    change(&mut lines);
    fs::write(path, lines.join("\n") + "\n").unwrap();
}

//! The life of a key: dates, compromise, deletion, restoration and destruction.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyward_client::KeyState;
use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, FAKETIME, PROGRAM, certificate_verify, failure_of, has_root, label_of};
use crate::users::ALICE;

#[test]
fn a_key_signs_between_its_dates() {
    let daemon = Daemon::dev("");
    let message = certificate_verify();
    generate(&daemon, "shop", &["--use", "csr", "--use", "tls-server"]);
    let sets = |option: &str, date: &str| daemon.succeed(&["key", "set-dates", "shop", option, date]);

    let shown = sets("--not-before", "2999-01-31");
    assert!(shown.contains("state       pre-active\n"), "{shown}");
    assert!(shown.contains("not before  2999-01-31T00:00:00Z (in "), "{shown}");
    assert_eq!(daemon.outcome("shop", &message), Outcome::KeyDisabled);
    let access = format!("/v1/keys/shop/access?uid={}&gid=0", own_uid());
    let refusals = || -> Vec<Value> {
        let (_, answer) = daemon.http("GET", &access, "").unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["uses"].as_array().unwrap().iter().map(|one| one["refusal"].clone()).collect()
    };
    assert_eq!(refusals(), ["key-disabled"]);
    assert_eq!(daemon.client().describe(&label_of("shop"), 0).unwrap().state, Some(KeyState::Disabled));
    daemon.await_log("state=\"pre-active\"");
    let csr = ["csr", "shop", "--subject", "CN=shop"];
    let (status, line) = daemon.fail(&csr);
    assert!(status == 77 && line.contains("signs from 2999-01-31T00:00:00Z, not before"), "{line}");
    run_the_last_command(&daemon, &line);
    daemon.succeed(&csr);
    assert_eq!((daemon.outcome("shop", &message), refusals()), (Outcome::Done, vec![Value::Null]));

    // Dates take effect without an act of anybody.
    sets("--not-before", &from_now(5));
    assert_eq!(daemon.outcome("shop", &message), Outcome::KeyDisabled);
    wait_for(|| daemon.outcome("shop", &message) == Outcome::Done);
    sets("--not-after", &from_now(5));
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    wait_for(|| daemon.outcome("shop", &message) == Outcome::KeyDisabled);
    assert_eq!(state(&daemon, "shop"), "deactivated");
    let (status, line) = daemon.fail(&csr);
    assert!(status == 77 && line.contains("the last date of key shop has passed"), "{line}");
    run_the_last_command(&daemon, &line);
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);

    let dates = ["--not-before", "2030-01-02", "--not-after", "2030-01-01"];
    let (status, line) = daemon.fail(&[&["key", "set-dates", "shop"], &dates[..]].concat());
    assert!(status == 64 && line.contains("until 2030-01-01T00:00:00Z, which is not later"), "{line}");
    run_the_last_command(&daemon, &line.replacen("DATE", "2020-01-01", 1).replace("DATE", "2999-01-01"));
    for wrong in [&["--not-after", "tomorrow"][..], &[]] {
        assert_eq!(daemon.fail(&[&["key", "set-dates", "shop"], wrong].concat()).0, 64);
    }
    let (status, _) = daemon.http("PATCH", "/v1/keys/shop", r#"{"state": "compromised"}"#).unwrap();
    assert_eq!((status, daemon.outcome("shop", &message)), (400, Outcome::Done));
}

#[test]
fn a_compromised_key_never_signs_again() {
    let mut daemon = Daemon::dev("");
    let message = certificate_verify();
    generate(&daemon, "shop", &["--use", "csr", "--use", "tls-server"]);
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    let shown = daemon.succeed(&["key", "compromise", "shop"]);
    assert!(shown.contains("state       compromised\n"), "{shown}");
    assert_eq!(daemon.outcome("shop", &message), Outcome::KeyDisabled);
    for (number, words) in [
        &["key", "enable", "shop"][..],
        &["key", "disable", "shop"],
        &["key", "rotate", "shop"],
        &["key", "set-dates", "shop", "--not-after", "none"],
        &["csr", "shop", "--subject", "CN=shop"],
    ]
    .into_iter()
    .enumerate()
    {
        let (code, line) = daemon.fail(words);
        assert!(code == 73 && line.contains("is compromised, which cannot be undone"), "{words:?}: {line}");
        let command = line.trim_end().rsplit_once(": keyward ").unwrap().1;
        let command = command.replace("LABEL", &format!("new-{number}")).replace("TYPE", "p256");
        daemon.succeed(&command.split(' ').collect::<Vec<_>>());
    }
    // A deletion and its restoration leave the key compromised, and so does a restart.
    daemon.succeed(&["key", "delete", "shop", "--yes", "--force"]);
    daemon.succeed(&["key", "restore", "shop"]);
    daemon.end(Signal::TERM);
    daemon.start(&["--dev"]);
    assert_eq!(
        (&*state(&daemon, "shop"), daemon.outcome("shop", &message)),
        ("compromised", Outcome::KeyDisabled)
    );

    // A deleted key can be compromised.
    generate(&daemon, "mail", &[]);
    daemon.succeed(&["key", "delete", "mail", "--yes"]);
    daemon.succeed(&["key", "compromise", "mail"]);
    assert_eq!(state(&daemon, "mail"), "deleted");
    daemon.succeed(&["key", "restore", "mail"]);
    assert_eq!(state(&daemon, "mail"), "compromised");
}

#[test]
fn a_deleted_key_can_be_restored_until_it_is_destroyed() {
    let daemon = Daemon::dev("");
    let message = certificate_verify();
    generate(&daemon, "shop", &["--use", "csr", "--use", "tls-server"]);
    let reference = daemon.succeed(&["key", "reference", "shop"]);
    let chain = daemon.path("chain");
    fs::write(&chain, "").unwrap();

    let told = daemon.succeed(&["key", "delete", "shop", "--yes"]);
    assert!(told.contains("key shop is deleted, and will be destroyed at "), "{told}");
    let restore = told.trim_end().rsplit_once(": keyward ").unwrap().1;
    let restore: Vec<_> = restore.split(' ').collect();
    assert!(Command::new(PROGRAM).args(&restore).status().unwrap().success(), "{told}");
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    daemon.succeed(&["key", "delete", "shop", "--yes", "--force"]);
    assert_eq!(daemon.outcome("shop", &message), Outcome::KeyDisabled);
    daemon.await_log("state=\"deleted\"");
    let shown: Value = show(&daemon, "shop");
    let deletion = &shown["deletion"];
    assert_eq!((&shown["state"], &shown["standing"]), (&"deleted".into(), &"deleted".into()));
    let wait = deletion["destroy_at"].as_u64().unwrap() - deletion["at"].as_u64().unwrap();
    assert_eq!((wait, deletion["by"].as_u64().unwrap()), (30 * 86_400, u64::from(own_uid())));
    let listed = daemon.succeed(&["key", "list"]);
    assert!(listed.contains("deleted, destroyed in "), "{listed}");
    assert!(daemon.succeed(&["key", "show", "shop"]).contains(" by user "), "the user who deleted the key");

    // The record is there, and the label is taken.
    for words in [
        &["key", "enable", "shop"][..],
        &["key", "disable", "shop"],
        &["key", "rotate", "shop"],
        &["key", "reference", "shop"],
        &["key", "set-uses", "shop", "--use", "csr"],
        &["key", "set-dates", "shop", "--not-after", "none"],
        &["key", "set-deletion", "shop", "--dual"],
        &["key", "delete", "shop", "--yes"],
        &["csr", "shop", "--subject", "CN=shop"],
        &["cert", "detach", "shop"],
        &["key", "generate", "shop", "--type", "p256"],
    ] {
        let (code, line) = daemon.fail(words);
        assert!(code == 73 && line.contains("keyward key restore shop"), "{words:?}: {code} {line}");
        assert_eq!(line.contains("keyward key purge shop --yes"), words.contains(&"generate"), "{line}");
    }
    daemon.succeed(&["key", "restore", "shop"]);
    assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    assert_eq!(daemon.succeed(&["key", "reference", "shop"]), reference);
    let (code, line) = daemon.fail(&["key", "restore", "shop"]);
    assert!(code == 73 && line.contains("is not deleted, so there is nothing to restore"), "{line}");
    run_the_last_command(&daemon, &line);
    let (code, line) = daemon.fail(&["key", "purge", "shop", "--yes"]);
    assert!(code == 73 && line.contains("only a deleted key can be destroyed"), "{line}");
    // The key was used just now, so the command of the error needs --force.
    let command = line.trim_end().rsplit_once(": keyward ").unwrap().1;
    let (code, line) = daemon.fail(&command.split(' ').collect::<Vec<_>>());
    assert!(code == 75 && state(&daemon, "shop") == "enabled", "{line}");

    // Both commands of the error free the label.
    daemon.succeed(&["key", "delete", "shop", "--yes", "--force", "--after", "1h"]);
    let (_, line) = daemon.fail(&["key", "generate", "shop", "--type", "p256"]);
    let (code, refused) = daemon.fail(&["key", "purge", "shop"]);
    assert!(code == 64 && refused.contains("a destroyed key cannot be brought back"), "{refused}");
    assert!(refused.contains("run: keyward key purge shop --yes --runtime-dir "), "{refused}");
    run_the_last_command(&daemon, &line);
    assert_eq!(daemon.outcome("shop", &message), Outcome::UnknownKey);
    generate(&daemon, "shop", &[]);
    assert_ne!(daemon.succeed(&["key", "reference", "shop"]), reference);
    for after in ["59m", "0s"] {
        let (code, line) = daemon.fail(&["key", "delete", "shop", "--yes", "--after", after]);
        assert!(code == 64 && line.contains("has at least one hour"), "{line}");
    }
    assert_eq!(state(&daemon, "shop"), "enabled");
}

#[test]
fn a_key_in_use_is_not_deleted_and_its_users_are_named() {
    let mut daemon = Daemon::dev("");
    let message = certificate_verify();
    for label in ["shop", "idle"] {
        generate(&daemon, label, &[]);
    }
    assert!(show(&daemon, "shop")["last_used"].is_null());
    assert!(
        daemon.succeed(&["key", "show", "shop"]).contains("last use    none since "),
        "nothing is claimed"
    );
    for _ in 0..3 {
        assert_eq!(daemon.outcome("shop", &message), Outcome::Done);
    }
    // A refused request is no use.
    assert_eq!(daemon.outcome("idle", b"invoice"), Outcome::UseRefused);
    assert!(show(&daemon, "idle")["last_used"].is_null());

    let shown = show(&daemon, "shop");
    let peers = shown["peers"].as_array().unwrap();
    let counts: u64 = peers.iter().map(|peer| peer["count"].as_u64().unwrap()).sum();
    assert!(counts == 3 && peers[0]["uid"] == own_uid(), "{shown}");
    let command = peers[0]["command"].as_str().unwrap().to_owned();
    let text = daemon.succeed(&["key", "show", "shop"]);
    assert!(text.contains("last use    ") && text.contains(&command) && text.contains("(id "), "{text}");
    let listed = daemon.succeed(&["key", "list"]);
    assert!(listed.contains("LAST USE") && listed.contains("0 minutes ago"), "{listed}");

    // The last uses are known after a restart, too.
    for _ in 0..2 {
        let (code, line) = daemon.fail(&["key", "delete", "shop", "--yes"]);
        assert!(code == 75 && line.contains("key shop is in use: user "), "{code} {line}");
        assert!(
            line.contains(&format!("with {command}")) && line.contains(" ago; stop this use first"),
            "{line}"
        );
        assert_eq!(state(&daemon, "shop"), "enabled");
        daemon.end(Signal::TERM);
        daemon.start(&["--dev"]);
    }
    let (_, line) = daemon.fail(&["key", "delete", "shop", "--yes", "--after", "7d"]);
    assert!(line.contains(" --after 7days "), "{line}");
    run_the_last_command(&daemon, &line);
    let deletion = &show(&daemon, "shop")["deletion"];
    let wait = deletion["destroy_at"].as_u64().unwrap() - deletion["at"].as_u64().unwrap();
    assert_eq!(wait, 7 * 86_400);

    // A daemon that is killed loses uses, so the next one does not know whether there were some.
    let made = show(&daemon, "idle")["versions"][0]["created"].as_u64().unwrap();
    assert!(show(&daemon, "idle")["usage_since"].as_u64().unwrap() <= made);
    wait_for(|| seconds() > made);
    daemon.end(Signal::KILL);
    daemon.start(&["--dev"]);
    assert!(show(&daemon, "idle")["usage_since"].as_u64().unwrap() > made);
    generate(&daemon, "new", &[]);
    daemon.succeed(&["key", "delete", "new", "--yes"]);
    let (code, line) = daemon.fail(&["key", "delete", "idle", "--yes"]);
    assert!(code == 75 && line.contains("not known whether key idle was used before "), "{code} {line}");
    assert_eq!(state(&daemon, "idle"), "enabled");
    run_the_last_command(&daemon, &line);
    assert_eq!(state(&daemon, "idle"), "deleted");
}

#[test]
fn acts_on_a_label_without_a_key_leave_no_record() {
    let daemon = Daemon::dev("");
    for words in [
        &["enable", "nope"][..],
        &["disable", "nope"],
        &["compromise", "nope"],
        &["delete", "nope", "--yes"],
        &["restore", "nope"],
        &["purge", "nope", "--yes"],
        &["set-uses", "nope", "--use", "csr"],
    ] {
        let (code, line) = daemon.fail(&[&["key"], words].concat());
        assert!(code == 66, "{words:?}: {code} {line}");
    }
    generate(&daemon, "shop", &[]);
    let directory = daemon.path("state/audit").display().to_string();
    let show = ["audit", "show", "--json", "--dir", &directory];
    let shown = Command::new(PROGRAM).args(show).output().unwrap().stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("\"shop\"") && !shown.contains("\"nope\""), "{shown}");
}

#[test]
fn a_second_user_deletes_a_key_that_asks_for_two() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    fs::set_permissions(daemon.path(""), Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(daemon.path("notify"), Permissions::from_mode(0o777)).unwrap();
    for directory in ["state", "run"] {
        fs::create_dir(daemon.path(directory)).unwrap();
        chown(daemon.path(directory), Some(ALICE), Some(ALICE)).unwrap();
    }
    let mut serve = daemon.serve(&["--dev"]);
    daemon.start_as(serve.uid(ALICE).gid(ALICE));
    let alice = |words: &[&str]| -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(words).arg("--runtime-dir").arg(daemon.path("run")).uid(ALICE);
        command.output().unwrap()
    };
    let succeed = |words: &[&str]| {
        let output = alice(words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // The command line of root does not trust a daemon of Alice.
    let root = |method: &str, path: &str| daemon.http(method, path, "").unwrap();
    succeed(&["key", "generate", "shop", "--type", "p256"]);
    let shown = succeed(&["key", "set-deletion", "shop", "--dual"]);
    assert!(shown.contains("deletion    needs two users"), "{shown}");
    let (status, told) = daemon.http("PATCH", "/v1/keys/shop", r#"{"dual": false}"#).unwrap();
    assert!(status == 400 && told.contains("for ever"), "{told}");

    let told = succeed(&["key", "delete", "shop", "--yes"]);
    assert!(told.contains("is not deleted yet") && told.contains("another user must ask until"), "{told}");
    let state = || -> Value { serde_json::from_str(&succeed(&["key", "show", "shop", "--json"])).unwrap() };
    assert_eq!((&state()["state"], &state()["approval"]["by"]), (&"enabled".into(), &ALICE.into()));
    let (code, line) = failure_of(&alice(&["key", "delete", "shop", "--yes"]));
    assert!(code == 77 && line.contains("user id 7002 has asked already; another user"), "{code} {line}");
    // Alice withdraws, as the message says, so root is the first user now.
    let command = line.trim_end().rsplit_once(": keyward ").unwrap().1;
    succeed(&command.split(' ').collect::<Vec<_>>());
    assert!(state()["approval"].is_null());
    let (status, answer) = root("DELETE", "/v1/keys/shop");
    assert!(status == 200 && answer.contains("\"approval\":{\"by\":0"), "{answer}");
    assert_eq!(state()["state"], "enabled");
    assert_eq!(root("DELETE", "/v1/keys/shop").0, 403, "the same user");
    let told = succeed(&["key", "delete", "shop", "--yes"]);
    assert!(told.contains("key shop is deleted"), "{told}");
    let trail = succeed(&["audit", "show", "--key", "shop", "--outcome", "done", "--json"]);
    for (action, effect) in [("delete", "approved"), ("restore", "withdrawn")] {
        let has = |line: &str| line.contains(&format!("keyward.key.{action}")) && line.contains(effect);
        assert!(trail.lines().any(has), "{action} in {trail}");
    }
}

/// libfaketime sets the clock of the daemon, which looks at the clock after each change of a key.
#[test]
fn the_daemon_destroys_a_key_after_its_waiting_period() {
    let mut clock = Clock::new();
    clock.daemon.start_as(&mut clock.serve());
    let daemon = &clock.daemon;
    for label in ["shop", "kept", "later", "poke"] {
        generate(daemon, label, &[]);
    }
    for label in ["shop", "kept"] {
        daemon.succeed(&["key", "delete", label, "--yes", "--after", "1h"]);
    }
    daemon.succeed(&["key", "delete", "later", "--yes", "--after", "100h"]);

    // The first look holds destructions for an hour, which libfaketime does not shorten, and which
    // a restart does not end. With the time of an earlier look, there is no hold.
    clock.daemon.end(Signal::TERM);
    let last_look = clock.daemon.path("state/clock");
    assert!(!last_look.exists());
    fs::write(&last_look, clock.now.to_string()).unwrap();
    clock.daemon.start_as(&mut clock.serve());
    clock.advance(50);
    assert_eq!(state(&clock.daemon, "shop"), "deleted");
    clock.daemon.succeed(&["key", "restore", "kept"]);
    clock.advance(20);
    wait_for(|| !exists(&clock.daemon, "shop"));
    clock.daemon.await_log("key destroyed key=\"shop\"");
    assert!(clock.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]).contains("enabled"));
    assert_eq!(state(&clock.daemon, "kept"), "enabled");
    assert_eq!(state(&clock.daemon, "later"), "deleted");

    // A period that ends while no daemon runs. The copy still has the key.
    clock.daemon.succeed(&["key", "delete", "shop", "--yes", "--after", "1h"]);
    // The secret is replaced after the destruction above. The copy and its recovery file are of the
    // same time.
    wait_for(|| {
        let status = clock.daemon.succeed(&["status", "--json"]);
        serde_json::from_str::<Value>(&status).unwrap()["purges"]["final"] == true
    });
    let copy = clock.daemon.path("copy").display().to_string();
    clock.daemon.succeed(&["backup", &copy]);
    let recovery = clock.daemon.path("recovery").display().to_string();
    clock.daemon.succeed(&["backup", "--recovery", &recovery]);
    for _ in 0..2 {
        clock.daemon.end(Signal::TERM);
        // Daemons write the time once a minute, which libfaketime does not shorten.
        fs::write(&last_look, clock.now.to_string()).unwrap();
        clock.set(clock.now + 59 * 60);
        clock.daemon.start_as(&mut clock.serve());
    }
    wait_for(|| !exists(&clock.daemon, "shop"));

    // A clock that jumps destroys nothing at once.
    clock.advance(200 * 60);
    clock.daemon.await_log("deleted keys are not destroyed for an hour");
    assert_eq!(state(&clock.daemon, "later"), "deleted");
    clock.daemon.succeed(&["key", "restore", "later"]);
    assert_eq!(state(&clock.daemon, "later"), "enabled");

    // The copy has a key whose period has ended. After the restore there is time to keep the key.
    clock.daemon.end(Signal::TERM);
    fs::remove_file(clock.daemon.path("state/keys.redb")).unwrap();
    let state_dir = clock.daemon.path("state").display().to_string();
    clock.daemon.succeed(&["restore", &copy, "--recovery", &recovery, "--state-dir", &state_dir]);
    clock.daemon.start_as(&mut clock.serve());
    clock.daemon.await_log_times("deleted keys are not destroyed for an hour", 2);
    clock.daemon.succeed(&["key", "restore", "shop"]);
    assert_eq!(state(&clock.daemon, "shop"), "enabled");
}

/// A daemon whose clock the test sets.
struct Clock {
    daemon: Daemon,
    file: PathBuf,
    /// In seconds since 1970.
    now: u64,
}

impl Clock {
    fn new() -> Self {
        let daemon = Daemon::prepare("");
        let file = daemon.path("time");
        let now = seconds();
        let clock = Self { daemon, file, now };
        fs::write(&clock.file, text(now)).unwrap();
        clock
    }

    fn serve(&self) -> Command {
        assert!(Path::new(FAKETIME).exists(), "the package faketime is missing");
        let mut serve = self.daemon.serve(&["--dev"]);
        serve.env("LD_PRELOAD", FAKETIME).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        serve.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("TZ", "UTC");
        serve
    }

    fn set(&mut self, now: u64) {
        self.now = now;
        let new = self.daemon.path("time.new");
        fs::write(&new, text(now)).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    /// Sets the clock some minutes ahead, and has the daemon look at it. A record that is not
    /// signed, and the last look of the thread that writes the trail, are not older for that.
    fn advance(&mut self, minutes: u64) {
        self.set(self.now + 60 * minutes);
        let status = self.daemon.succeed(&["status", "--json"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["audit"]["failure"], Value::Null, "{status}");
        let verb = if state(&self.daemon, "poke") == "enabled" { "disable" } else { "enable" };
        self.daemon.succeed(&["key", verb, "poke"]);
    }
}

/// An absolute time in the form of libfaketime.
fn text(seconds: u64) -> String {
    time(seconds).replace('T', " ").replace('Z', "\n")
}

fn time(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

fn from_now(later: u64) -> String {
    time(seconds() + later)
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn generate(daemon: &Daemon, label: &str, more: &[&str]) {
    daemon.succeed(&[&["key", "generate", label, "--type", "p256"], more].concat());
}

fn show(daemon: &Daemon, label: &str) -> Value {
    serde_json::from_str(&daemon.succeed(&["key", "show", label, "--json"])).unwrap()
}

fn state(daemon: &Daemon, label: &str) -> String {
    show(daemon, label)["state"].as_str().unwrap().to_owned()
}

fn exists(daemon: &Daemon, label: &str) -> bool {
    daemon.keyward(&["key", "show", label]).status.success()
}

/// Runs the command at the end of an error.
fn run_the_last_command(daemon: &Daemon, line: &str) {
    let command = line.trim_end().rsplit_once(": keyward ").unwrap().1;
    daemon.succeed(&command.split(' ').collect::<Vec<_>>());
}

fn wait_for(mut ask: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !ask() {
        assert!(Instant::now() < end, "nothing happened before the time limit");
        std::thread::sleep(Duration::from_millis(10));
    }
}

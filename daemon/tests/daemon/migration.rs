//! Migration of key stores of the old format.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use keyward_proto::Outcome;
use redb::{Database, ReadableTable};
use rustix::process::Signal;
use serde_json::Value;

use crate::altered_store::{INDEX, KEYS, MAC, META};
use crate::fixture::{Daemon, PROGRAM, certificate_verify, failure_of, has_root};
use crate::shred;

#[test]
fn a_store_of_the_old_format_is_migrated_on_request() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    for label in ["shop", "other", "off"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.succeed(&["key", "disable", "off"]);
    let listed = daemon.succeed(&["key", "list", "--json"]);
    daemon.end(Signal::TERM);
    make_old(&daemon, 0);
    let old = std::fs::read(daemon.path("state/keys.redb")).unwrap();

    let checked = failure_of(&daemon.serve(&["--check-config"]).output().unwrap());
    assert!(std::fs::read(daemon.path("state/keys.redb")).unwrap() == old, "a look changes nothing");
    let (status, line) = failure_of(&daemon.serve(&[]).output().unwrap());
    assert_eq!(status, 78, "{line}");
    assert_eq!((checked.0, checked.1.lines().last()), (78, line.lines().last()));
    let command = line.trim_end().rsplit_once("run, as the user who ran this: ").unwrap().1;
    assert!(command.starts_with("keyward serve --migrate-store --state-dir"), "{line}");
    // The command in the message runs exactly as printed.
    let path = std::path::Path::new(PROGRAM).parent().unwrap();
    let output = Command::new("/bin/sh").args(["-c", command]).env("PATH", path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let copy = daemon.path("state/keys.redb.before-format-2");
    let keys = "  off: disabled, tls-server\n  other: enabled, tls-server\n  shop: enabled, tls-server\n";
    assert!(text.contains(keys), "{text}");
    assert!(text.contains("its 3 keys") && text.contains(copy.to_str().unwrap()), "{text}");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    // A store of the second format is refused as well, until the command permits its migration.
    let permit = daemon.path("state/keys.redb.migrate");
    std::fs::remove_file(&permit).unwrap();
    for more in [&["--check-config"][..], &[]] {
        let (status, line) = failure_of(&daemon.serve(more).output().unwrap());
        assert!(status == 78 && line.contains("has format 2 of an older version"), "{line}");
        assert!(line.trim_end().ends_with(command), "{line}");
    }
    let output = Command::new("/bin/sh").args(["-c", command]).env("PATH", path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("permitted: the next start"), "{text}");
    assert!(permit.exists());

    daemon.start(&[]);
    assert!(!permit.exists(), "the permit is for one file");
    assert_eq!(daemon.succeed(&["key", "list", "--json"]), listed);
    for label in ["shop", "other"] {
        assert_eq!(daemon.outcome(label, &certificate_verify()), Outcome::Done);
    }
    assert_eq!(daemon.outcome("off", &certificate_verify()), Outcome::KeyDisabled);
    daemon.end(Signal::TERM);
    let again = daemon.serve(&["--migrate-store"]).output().unwrap();
    assert!(String::from_utf8(again.stdout).unwrap().contains("already"));

    // An old store in the place of a migrated store is refused, also by the command.
    let refused = |daemon: &Daemon| {
        for (more, expected) in [(&["--migrate-store"][..], 65), (&[], 78)] {
            let (status, line) = failure_of(&daemon.serve(more).output().unwrap());
            assert_eq!(status, expected, "{line}");
            assert!(line.contains("it was migrated before") && !line.contains("--migrate-store"), "{line}");
        }
    };
    std::fs::copy(&copy, daemon.path("state/keys.redb")).unwrap();
    refused(&daemon);
    std::fs::write(daemon.path("state/keys.redb"), old).unwrap();
    make_old(&daemon, 1);
    refused(&daemon);
}

/// Earlier versions accepted any master key, and only the same master key opens their stores.
#[test]
fn a_weak_master_key_opens_an_old_store_and_makes_no_new_one() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    make_old(&daemon, 0);
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("wkid", WKID_OF_5A).unwrap();
    transaction.commit().unwrap();
    drop(database);
    std::fs::write(daemon.path("master.key"), "5a".repeat(32)).unwrap();
    std::fs::remove_dir_all(daemon.path("state/unit")).unwrap();
    let migrated = daemon.serve(&["--migrate-store"]).output().unwrap();
    let text = String::from_utf8(migrated.stdout).unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    assert!(text.starts_with("warning: THE MASTER KEY CAN BE GUESSED"), "{text}");
    let checked = daemon.serve(&["--check-config"]).output().unwrap();
    let warnings = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.success() && warnings.contains("THE MASTER KEY CAN BE GUESSED"), "{warnings}");
    daemon.start(&[]);
    assert!(daemon.log().contains("THE MASTER KEY CAN BE GUESSED"), "{}", daemon.log());
    daemon.succeed(&["key", "generate", "other", "--type", "p256"]);
    assert_eq!(daemon.outcome("other", &certificate_verify()), Outcome::Done);
    daemon.end(Signal::TERM);

    std::fs::rename(daemon.path("state"), daemon.path("away")).unwrap();
    for more in [&["--check-config"][..], &[]] {
        let (status, line) = failure_of(&daemon.serve(more).output().unwrap());
        assert!(status == 78 && line.contains("its bytes follow a pattern"), "{line}");
    }
}

#[test]
fn without_a_store_the_migration_makes_none() {
    let daemon = Daemon::prepare("");
    daemon.new_master_key();
    daemon.configure(&daemon.production_configuration(&[]));
    let refused = || {
        let (status, line) = failure_of(&daemon.serve(&["--migrate-store"]).output().unwrap());
        assert_eq!(status, 66, "{line}");
        let state = daemon.path("state");
        assert!(line.contains(&format!("there is no key store in {}", state.display())), "{line}");
    };
    refused();
    assert!(!daemon.path("state").exists());
    std::fs::create_dir(daemon.path("state")).unwrap();
    refused();
    assert_eq!(std::fs::read_dir(daemon.path("state")).unwrap().count(), 0);
}

/// The documentation has administrators run the command as root, in a shell without credentials.
#[test]
fn only_the_user_of_the_daemon_migrates_its_store() {
    if !has_root() {
        return;
    }
    let service = Some(7003);
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    make_old(&daemon, 0);
    let [state, store] = [daemon.path("state"), daemon.path("state/keys.redb")];
    let old = std::fs::read(&store).unwrap();
    let entries = || std::fs::read_dir(&state).unwrap().count();
    let before = entries();
    let refused = |line: String| {
        assert!(line.contains("belongs to user id 7003"), "{line}");
        assert!(line.contains("run, as user id 7003: keyward serve --migrate-store"), "{line}");
        assert!(!line.contains("chown") && !line.contains("openssl rand"), "{line}");
        assert!(std::fs::read(&store).unwrap() == old, "the store was changed");
        assert_eq!(entries(), before);
    };
    for path in [&state, &store] {
        std::os::unix::fs::chown(path, service, None).unwrap();
        let (status, line) = failure_of(&daemon.serve(&["--migrate-store"]).output().unwrap());
        assert_eq!(status, 77, "{line}");
        refused(line);
        std::os::unix::fs::chown(path, Some(0), None).unwrap();
    }
}

/// A new master key that replaces the only master key would lose every key.
#[test]
fn nobody_is_advised_to_make_another_master_key_for_a_store_that_has_one() {
    let mut daemon = Daemon::prepare("");
    let checked = daemon.serve(&["--check-config"]).output().unwrap();
    let line = String::from_utf8(checked.stderr).unwrap();
    assert!(line.contains("warning: ") && line.contains("run keyward setup"), "{line}");
    daemon.configure(&daemon.production_configuration(&[]));
    for more in [&[][..], &["--check-config"]] {
        let (status, line) = failure_of(&daemon.serve(more).output().unwrap());
        assert!(status == 78 && line.contains("openssl rand"), "{line}");
    }
    // The command makes a master key, and never replaces an existing file.
    let (_, line) = failure_of(&daemon.serve(&[]).output().unwrap());
    let command = line.trim_end().rsplit_once("make the file with: ").unwrap().1;
    let made = || {
        let status = Command::new("/bin/sh").args(["-c", command]).stderr(Stdio::null()).status().unwrap();
        (status.success(), std::fs::read(daemon.path("master.key")).unwrap())
    };
    let (first, second) = (made(), made());
    assert_eq!((first.0, second.0, first.1.len()), (true, false, 65));
    assert!(first.1 == second.1, "the key was overwritten");
    daemon.start(&[]);
    daemon.end(Signal::TERM);
    let told_by = |daemon: &Daemon, old: bool| {
        let more = if old { "--migrate-store" } else { "--check-config" };
        let (status, line) = failure_of(&daemon.serve(&[more]).output().unwrap());
        assert_eq!(status, 78, "{line}");
        assert!(line.contains("cannot read the master key in"), "{line}");
        assert!(!line.contains("openssl rand"), "{line}");
    };
    let [key, away] = [daemon.path("master.key"), daemon.path("away")];
    std::fs::rename(&key, &away).unwrap();
    told_by(&daemon, false);
    std::os::unix::fs::symlink("master.key", &key).unwrap();
    let (_, line) = failure_of(&daemon.serve(&["--check-config"]).output().unwrap());
    assert!(!line.contains("openssl rand"), "{line}");
    std::fs::remove_file(&key).unwrap();
    std::fs::rename(&away, &key).unwrap();
    daemon.start(&[]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    make_old(&daemon, 0);
    std::fs::rename(&key, &away).unwrap();
    told_by(&daemon, true);
    daemon.configure("");
    let (_, line) = failure_of(&daemon.serve(&["--migrate-store"]).output().unwrap());
    assert!(line.contains("no master key") && !line.contains("openssl rand"), "{line}");
}

#[test]
fn a_migration_that_was_killed_can_be_started_again() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    make_old(&daemon, 2000);
    let old = std::fs::read(daemon.path("state/keys.redb")).unwrap();
    // Time of a migration that is not interrupted.
    let begin = Instant::now();
    assert!(daemon.serve(&["--migrate-store"]).output().unwrap().status.success());
    let whole = begin.elapsed();
    std::fs::remove_file(daemon.path("state/keys.redb.before-format-2")).unwrap();
    std::fs::write(daemon.path("state/keys.redb"), old).unwrap();
    let mut kills = 0;
    // Most of the kills come early: on a busy machine the next migration may be much faster than
    // the first.
    for part in (0..8).chain((8..64).step_by(6)) {
        let mut migration = daemon.serve(&["--migrate-store"]).stdout(Stdio::null()).spawn().unwrap();
        // The test varies the moment of the kill, so it sleeps and waits for no event.
        thread::sleep(whole * part / 48);
        kills += u32::from(migration.try_wait().unwrap().is_none());
        migration.kill().unwrap();
        migration.wait().unwrap();
    }
    assert!(kills > 3, "killed {kills} times");
    let last = daemon.serve(&["--migrate-store"]).output().unwrap();
    assert!(last.status.success(), "{last:?}");
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    assert_eq!(daemon.outcome("copy-1999", &certificate_verify()), Outcome::Done);
    let (_, status) = daemon.http("GET", "/v1/status", "").unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["keys"], 2001);
    assert!(daemon.path("state/keys.redb.before-format-2").exists());
    assert!(!daemon.path("state/keys.redb.before-format-2.part").exists());
}

/// Turns the store into a store of the version before the MACs, with `copies` copies of the key
/// `shop`.
pub(crate) fn make_old(daemon: &Daemon, copies: u32) {
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut keys = transaction.open_table(KEYS).unwrap();
        let rows = keys.iter().unwrap().map(Result::unwrap);
        let rows: Vec<_> = rows.map(|row| (row.0.value().to_owned(), row.1.value().to_vec())).collect();
        for (label, row) in &rows {
            // A MAC may begin with any byte.
            let is_old = serde_json::from_slice::<Value>(row).is_ok();
            let record = if is_old {
                row.clone()
            } else {
                shred::unwrapped(&daemon.path("state/shred"), label, &row[MAC..])
            };
            keys.insert(label.as_str(), record.as_slice()).unwrap();
        }
        let shop = keys.get("shop").unwrap().unwrap().value().to_vec();
        for number in 0..copies {
            keys.insert(format!("copy-{number}").as_str(), shop.as_slice()).unwrap();
        }
        let mut meta = transaction.open_table(META).unwrap();
        for name in ["seal", "store-key", "store-key-name", "shred-secret"] {
            meta.remove(name).unwrap();
        }
        meta.insert("format", "1").unwrap();
        meta.insert("rejection-secret", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
    }
    transaction.delete_table(INDEX).unwrap();
    transaction.commit().unwrap();
    let _absent = std::fs::remove_dir_all(daemon.path("state/shred"));
}

/// Name of the master key whose bytes are all 0x5a.
const WKID_OF_5A: &str = "2be781505e2decbfac71fc4ea64e6b81";

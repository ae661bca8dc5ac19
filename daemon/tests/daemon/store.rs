//! The key store: faults of the disk, a file that somebody else has written to, older formats.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use keyward_proto::Outcome;
use redb::{Database, ReadableTable, Table, TableDefinition};
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::Value;

use crate::fixture::{Daemon, PROGRAM, certificate_verify, has_root, told};

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
    if !has_root() {
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

/// Write access to the file, without the master key, gets nothing signed.
#[test]
fn a_record_that_was_edited_is_refused_and_no_other() {
    let mut daemon = Daemon::production(&[("*", "any")]);
    for label in ["sound", "edited", "swapped", "other", "gone"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.succeed(&["key", "disable", "other"]);
    let reference = daemon.path("edited.pem");
    std::fs::write(&reference, daemon.succeed(&["key", "reference", "edited"])).unwrap();
    daemon.end(Signal::TERM);
    alter(&daemon, |keys| {
        let row = |label| keys.get(label).unwrap().unwrap().value().to_vec();
        let (edited, swapped, other) = (row("edited"), row("swapped"), row("other"));
        let blob = |row: &[u8]| record(row)["versions"][0]["blob"].clone();
        let mut more = record(&edited);
        more["uses"] = "any".split(' ').collect::<Vec<_>>().into();
        keys.insert("edited", with_record(&edited, &more).as_slice()).unwrap();
        let mut moved = record(&swapped);
        moved["versions"][0]["blob"] = blob(&other);
        keys.insert("swapped", with_record(&swapped, &moved).as_slice()).unwrap();
        keys.remove("gone").unwrap();
    });
    daemon.start(&[]);
    // Before anybody asks.
    assert!(daemon.log().contains("the records of 3 keys in the key store were altered"), "{}", daemon.log());
    assert!(
        daemon.log().contains("edited, gone, swapped; find out who wrote to the store"),
        "{}",
        daemon.log()
    );
    let altered = |count: u32| {
        let metrics = daemon.http("GET", "/metrics", "").unwrap().1;
        assert!(metrics.lines().any(|line| line == format!("keyward_keys_altered {count}")), "{metrics}");
    };
    altered(3);
    assert_eq!(daemon.outcome("sound", &certificate_verify()), Outcome::Done);
    for label in ["edited", "swapped", "gone"] {
        for message in [&certificate_verify()[..], b"any text"] {
            assert_eq!(daemon.outcome(label, message), Outcome::BlobDamaged, "{label}");
        }
        let (_, line) = daemon.fail(&["key", "show", label]);
        assert!(line.contains(&format!("the record of key {label} in the key store was altered")), "{line}");
        assert!(line.contains("restore the store from a backup"), "{line}");
    }
    assert!(
        daemon.log().contains("the record of key edited in the key store was altered"),
        "{}",
        daemon.log()
    );

    let listed = daemon.keyward(&["key", "list"]);
    let text = String::from_utf8(listed.stdout).unwrap();
    let state = |label: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(label)).unwrap();
        ["enabled", "disabled", "altered"].into_iter().find(|state| line.contains(state)).unwrap()
    };
    assert_eq!((state("sound"), state("other")), ("enabled", "disabled"));
    assert_eq!((state("edited"), state("swapped"), state("gone")), ("altered", "altered", "altered"));
    assert_eq!(String::from_utf8(listed.stderr).unwrap().lines().count(), 3);
    let certificates = daemon.keyward(&["cert", "list"]);
    assert_eq!(String::from_utf8(certificates.stderr).unwrap().lines().count(), 3);
    let doctor = daemon.keyward(&["doctor", "--reference", reference.to_str().unwrap()]);
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert!(!doctor.status.success() && text.contains("edited, gone, swapped"), "{text}");
    assert!(
        text.contains("restore it from a backup, or give each key up with: keyward key delete"),
        "{text}"
    );
    assert!(text.contains("find out who wrote to the key store before anything else"), "{text}");
    assert!(!text.contains("generate or import"), "{text}");
    // The message says so.
    daemon.succeed(&["key", "delete", "edited"]);
    altered(2);
    daemon.succeed(&["key", "generate", "edited", "--type", "p256"]);
    assert_eq!(daemon.outcome("edited", &certificate_verify()), Outcome::Done);
}

/// Two edits in place leave nothing of the key that has its label.
#[test]
fn a_key_that_has_vanished_is_missed() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    for label in ["shop", "other"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.end(Signal::TERM);
    alter(&daemon, |keys| {
        let row = keys.remove("shop").unwrap().unwrap().value().to_vec();
        keys.insert("s!op", row.as_slice()).unwrap();
    });
    flip_a_bit_of_the_list_of(&daemon, "shop");
    daemon.start(&[]);
    let problem = "1 lists of the index of the key store were altered";
    let log = daemon.log();
    assert!(log.contains(problem) && log.contains("1 records in the key store have names"), "{log}");
    let metrics = daemon.http("GET", "/metrics", "").unwrap().1;
    assert!(metrics.lines().any(|line| line == "keyward_keys_altered 2"), "{metrics}");
    assert_eq!(daemon.http("GET", "/ready", "").unwrap().0, 200, "other keys sign");
    assert_eq!(daemon.outcome("other", &certificate_verify()), Outcome::Done);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::BlobDamaged);

    for more in [&[][..], &["--json"]] {
        let listed = daemon.keyward(&[&["key", "list"], more].concat());
        let (status, warning) = told(&listed);
        assert!(status == 65 && warning.contains(problem), "{status} {warning}");
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(text.contains("other") && !text.contains("shop"), "{text}");
    }
    let doctor = daemon.keyward(&["doctor"]);
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.status.code() == Some(78) && text.contains(problem), "{text}");
    let (_, line) = daemon.fail(&["key", "generate", "shop", "--type", "p256"]);
    assert!(line.contains("the list of the key store that vouches for key shop was altered"), "{line}");
    let repaired = daemon.succeed(&["key", "repair", "--json"]);
    let repaired: Value = serde_json::from_str(&repaired).unwrap();
    assert_eq!((&repaired["lists"], &repaired["nameless"]), (&1.into(), &1.into()), "{repaired}");
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::UnknownKey);
}

/// Whatever was altered, the commands that `key list` names are all that it takes.
#[test]
fn each_command_that_is_advised_does_what_it_says() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    type Alteration = fn(&Daemon);
    fn list(daemon: &Daemon) {
        flip_a_bit_of_the_list_of(daemon, "shop");
    }
    fn edited(daemon: &Daemon) {
        alter(daemon, |keys| {
            let row = keys.get("shop").unwrap().unwrap().value().to_vec();
            let mut more = record(&row);
            more["uses"] = vec!["any"].into();
            keys.insert("shop", with_record(&row, &more).as_slice()).unwrap();
        });
    }
    fn gone(daemon: &Daemon) {
        alter(daemon, |keys| drop(keys.remove("shop").unwrap()));
    }
    fn renamed(daemon: &Daemon) {
        alter(daemon, |keys| {
            let row = keys.remove("shop").unwrap().unwrap().value().to_vec();
            keys.insert("s!op", row.as_slice()).unwrap();
        });
    }
    /// What is left of the key by the commands: nothing, or a key that is disabled.
    const NOTHING: Outcome = Outcome::UnknownKey;
    let cases: [(&str, &[Alteration], Outcome); 8] = [
        ("list", &[list], Outcome::KeyDisabled),
        ("edited", &[edited], NOTHING),
        ("gone", &[gone], NOTHING),
        ("renamed", &[renamed], NOTHING),
        ("list and edited", &[list, edited], NOTHING),
        ("list and gone", &[list, gone], NOTHING),
        ("list and renamed", &[list, renamed], NOTHING),
        (
            "all records",
            &[list, |daemon| {
                alter(daemon, |keys| drop(keys.insert("other", [7; 90].as_slice()).unwrap()));
            }],
            Outcome::KeyDisabled,
        ),
    ];
    for (what, alterations, outcome) in cases {
        for label in ["shop", "other"] {
            daemon.succeed(&["key", "generate", label, "--type", "p256"]);
        }
        daemon.end(Signal::TERM);
        alterations.iter().for_each(|alteration| alteration(&daemon));
        daemon.start(&[]);
        let mut commands = 0;
        loop {
            let listed = daemon.keyward(&["key", "list"]);
            if listed.status.success() {
                break;
            }
            let (status, warnings) = told(&listed);
            let command = warnings.lines().next().unwrap().rsplit_once("with: keyward ").unwrap().1;
            assert!(status == 65 && commands < 3, "{what}: {warnings}");
            daemon.succeed(&command.split(' ').collect::<Vec<_>>());
            commands += 1;
        }
        assert_eq!(daemon.outcome("shop", &certificate_verify()), outcome, "{what}");
        let metrics = daemon.http("GET", "/metrics", "").unwrap().1;
        assert!(metrics.lines().any(|line| line == "keyward_keys_altered 0"), "{what}: {metrics}");
        for label in ["shop", "other"] {
            let _ = daemon.keyward(&["key", "delete", label, "--yes"]);
        }
    }
}

/// Some kinds of damage have the library of the store panic, which is of no use to anybody who
/// reads the log.
#[test]
fn a_damaged_store_is_told_in_one_line() {
    let mut daemon = Daemon::dev("");
    for label in ["shop", "mail"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    assert!(daemon.end(Signal::TERM).success());
    let file = daemon.path("state/keys.redb");
    let sound = std::fs::read(&file).unwrap();
    // The first page is the header, each of the others a node of a tree or free.
    for offset in [0, 8, 100] {
        let mut damaged = sound.clone();
        for page in damaged.chunks_mut(4096).skip(1) {
            page[offset..offset + 60].iter_mut().for_each(|byte| *byte ^= 0xff);
        }
        std::fs::write(&file, damaged).unwrap();
        for more in ["--check-config", "--dev"] {
            let mut serve = daemon.serve(&[more]);
            let output = serve.env("RUST_BACKTRACE", "1").output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(!text.contains("panicked") && text.lines().count() <= 1, "{offset}: {text}");
            if more == "--dev" {
                assert_eq!(output.status.code(), Some(65), "{offset}: {text}");
                assert!(text.contains("keys.redb is damaged; restore it from a backup"), "{text}");
            }
        }
    }
}

/// As when its disk is not mounted. Said once, at the start that nobody has watched, it would be
/// said to nobody.
#[test]
fn an_empty_state_directory_is_told_until_there_is_a_key() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let finding = |daemon: &Daemon| {
        let told = daemon.keyward(&["doctor"]).stdout;
        let text = String::from_utf8(told).unwrap();
        assert!(text.contains("key store made at 20"), "{text}");
        text.contains(
            "warn  key store: there is no key, and there are grants (1); the key store was made at 20",
        )
    };
    assert!(!finding(&daemon));
    daemon.end(Signal::TERM);
    std::fs::remove_dir_all(daemon.path("state")).unwrap();
    daemon.start(&[]);
    daemon.end(Signal::TERM);
    let warning = "has no key, and there are grants; it was made at 20";
    assert!(daemon.log().contains("made a new key store") && !daemon.log().contains(warning));
    daemon.start(&[]);
    assert!(daemon.log().contains(warning), "{}", daemon.log());
    assert!(finding(&daemon));
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    assert!(!finding(&daemon));
}

#[test]
fn an_old_copy_of_a_record_does_not_enable_a_key() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    for label in ["shop", "other"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.end(Signal::TERM);
    let mut old = Vec::new();
    alter(&daemon, |keys| old = keys.get("shop").unwrap().unwrap().value().to_vec());
    daemon.start(&[]);
    daemon.succeed(&["key", "disable", "shop"]);
    daemon.end(Signal::TERM);
    alter(&daemon, |keys| drop(keys.insert("shop", old.as_slice()).unwrap()));
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::BlobDamaged);
    assert_eq!(daemon.outcome("other", &certificate_verify()), Outcome::Done);
}

#[test]
fn a_store_of_development_is_none_of_production() {
    let mut daemon = Daemon::dev("");
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("dev", "no").unwrap();
    transaction.commit().unwrap();
    drop(database);
    std::fs::copy(daemon.path("state/dev-master.key"), daemon.path("master.key")).unwrap();
    daemon.configure(&daemon.production_configuration(&[("*", "any")]));
    let (status, line) = told(&daemon.serve(&[]).output().unwrap());
    assert_eq!(status, 65, "{line}");
    assert!(line.contains("keys.redb was altered by something else than keyward"), "{line}");
}

#[test]
fn without_a_master_key_the_store_has_a_key_of_its_own() {
    let mut daemon = Daemon::prepare("");
    let unit = "[grep11.hsm]\nendpoints = [\"localhost:1\"]\nplaintext = true\n";
    let refused = |daemon: &Daemon, more: &str, part: &str| {
        daemon.configure(&format!("{unit}{more}"));
        let mut serve = daemon.serve(&[]);
        let (status, line) = told(&serve.env_remove("CREDENTIALS_DIRECTORY").output().unwrap());
        assert!(status == 78 && line.contains(part), "{status} {line}");
    };
    refused(&daemon, "", "set key in section [store] of the configuration to a file made with (umask 077;");
    let output = daemon.serve(&["--check-config"]).output().unwrap();
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && warning.contains("warning: no store key"), "{warning}");

    let store = |path: &str| format!("[store]\nkey = {:?}\n", daemon.path(path));
    let (good, beside) = (store("store.key"), store("state/store.key"));
    daemon.new_key("store.key");
    refused(&daemon, &store("none.key"), "cannot read the store key");
    daemon.configure(&format!("{unit}{good}"));
    daemon.start(&[]);
    daemon.end(Signal::TERM);
    daemon.start(&[]);
    daemon.end(Signal::TERM);
    daemon.new_key("state/store.key");
    refused(&daemon, &beside, "it lies in the state directory");
    daemon.new_key("other.key");
    refused(&daemon, &format!("[store]\nkey = {:?}\n", daemon.path("other.key")), "another store key");
    refused(&daemon, "", "it was made with a store key in a file");
    let check = daemon.serve(&["--check-config"]).env_remove("CREDENTIALS_DIRECTORY").output().unwrap();
    let warning = String::from_utf8(check.stderr).unwrap();
    assert!(warning.contains("it was made with a store key in a file"), "{warning}");

    // As systemd passes it.
    std::fs::create_dir(daemon.path("credentials")).unwrap();
    std::fs::rename(daemon.path("store.key"), daemon.path("credentials/store-key")).unwrap();
    daemon.configure(unit);
    let mut serve = daemon.serve(&[]);
    serve.env("CREDENTIALS_DIRECTORY", daemon.path("credentials"));
    daemon.start_as(&mut serve);
}

#[test]
fn a_store_of_the_old_format_is_migrated_when_that_is_asked_for() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    for label in ["shop", "other", "off"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.succeed(&["key", "disable", "off"]);
    let listed = daemon.succeed(&["key", "list", "--json"]);
    daemon.end(Signal::TERM);
    make_old(&daemon, 0);
    let old = std::fs::read(daemon.path("state/keys.redb")).unwrap();

    let checked = told(&daemon.serve(&["--check-config"]).output().unwrap());
    assert!(std::fs::read(daemon.path("state/keys.redb")).unwrap() == old, "a look changes nothing");
    let (status, line) = told(&daemon.serve(&[]).output().unwrap());
    assert_eq!(status, 78, "{line}");
    assert_eq!((checked.0, checked.1.lines().last()), (78, line.lines().last()));
    let command = line.trim_end().rsplit_once("run, as the user who ran this: ").unwrap().1;
    assert!(command.starts_with("keyward serve --migrate-store --state-dir"), "{line}");
    // The command runs as it stands there.
    let path = std::path::Path::new(PROGRAM).parent().unwrap();
    let output = Command::new("/bin/sh").args(["-c", command]).env("PATH", path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let copy = daemon.path("state/keys.redb.before-format-2");
    let keys = "  off: disabled, tls-server\n  other: enabled, tls-server\n  shop: enabled, tls-server\n";
    assert!(text.contains(keys), "{text}");
    assert!(text.contains("its 3 keys") && text.contains(copy.to_str().unwrap()), "{text}");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    let again = daemon.serve(&["--migrate-store"]).output().unwrap();
    assert!(String::from_utf8(again.stdout).unwrap().contains("already"));

    daemon.start(&[]);
    assert_eq!(daemon.succeed(&["key", "list", "--json"]), listed);
    for label in ["shop", "other"] {
        assert_eq!(daemon.outcome(label, &certificate_verify()), Outcome::Done);
    }
    assert_eq!(daemon.outcome("off", &certificate_verify()), Outcome::KeyDisabled);
    daemon.end(Signal::TERM);

    // An old store in the place of a migrated one is refused, also by the command.
    let refused = |daemon: &Daemon| {
        for (more, expected) in [(&["--migrate-store"][..], 65), (&[], 78)] {
            let (status, line) = told(&daemon.serve(more).output().unwrap());
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

/// Versions before this one took any master key, and no other one opens what was made with it.
#[test]
fn a_store_that_was_made_with_a_master_key_of_a_pattern_is_used_and_a_new_one_is_not() {
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
        let (status, line) = told(&daemon.serve(more).output().unwrap());
        assert!(status == 78 && line.contains("its bytes follow a pattern"), "{line}");
    }
}

#[test]
fn where_there_is_no_store_none_is_made_for_the_migration() {
    let daemon = Daemon::prepare("");
    daemon.new_master_key();
    daemon.configure(&daemon.production_configuration(&[]));
    let refused = || {
        let (status, line) = told(&daemon.serve(&["--migrate-store"]).output().unwrap());
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

/// As the administrator does it who reads the pages: as root, in a shell without credentials.
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
        let (status, line) = told(&daemon.serve(&["--migrate-store"]).output().unwrap());
        assert_eq!(status, 77, "{line}");
        refused(line);
        std::os::unix::fs::chown(path, Some(0), None).unwrap();
    }
}

/// A new master key in the place of the only one would lose every key.
#[test]
fn nobody_is_told_to_make_another_master_key_for_a_store_that_has_one() {
    let mut daemon = Daemon::prepare("");
    let unconfigured = || daemon.serve(&[]).output().unwrap();
    let (_, line) = told(&unconfigured());
    assert!(line.contains("openssl rand"), "{line}");
    daemon.configure(&daemon.production_configuration(&[]));
    for more in [&[][..], &["--check-config"]] {
        let (status, line) = told(&daemon.serve(more).output().unwrap());
        assert!(status == 78 && line.contains("openssl rand"), "{line}");
    }
    // The command makes a key, and never in the place of another one.
    let (_, line) = told(&daemon.serve(&[]).output().unwrap());
    let command = line.trim_end().rsplit_once("make it with: ").unwrap().1;
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
        let (status, line) = told(&daemon.serve(&[more]).output().unwrap());
        assert_eq!(status, 78, "{line}");
        assert!(line.contains("cannot read the master key in"), "{line}");
        assert!(!line.contains("openssl rand"), "{line}");
    };
    let [key, away] = [daemon.path("master.key"), daemon.path("away")];
    std::fs::rename(&key, &away).unwrap();
    told_by(&daemon, false);
    std::os::unix::fs::symlink("master.key", &key).unwrap();
    let (_, line) = told(&daemon.serve(&["--check-config"]).output().unwrap());
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
    let (_, line) = told(&daemon.serve(&["--migrate-store"]).output().unwrap());
    assert!(line.contains("no master key") && !line.contains("openssl rand"), "{line}");
}

#[test]
fn a_migration_that_is_killed_is_begun_again() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    make_old(&daemon, 2000);
    let old = std::fs::read(daemon.path("state/keys.redb")).unwrap();
    // The time of a migration that nobody disturbs.
    let begin = Instant::now();
    assert!(daemon.serve(&["--migrate-store"]).output().unwrap().status.success());
    let whole = begin.elapsed();
    std::fs::remove_file(daemon.path("state/keys.redb.before-format-2")).unwrap();
    std::fs::write(daemon.path("state/keys.redb"), old).unwrap();
    let mut kills = 0;
    // Most of them early: on a busy machine the next one may be much quicker than the first was.
    for part in (0..8).chain((8..64).step_by(6)) {
        let mut migration = daemon.serve(&["--migrate-store"]).stdout(Stdio::null()).spawn().unwrap();
        // The moment is what is tried out, not what is waited for.
        thread::sleep(whole * part / 48);
        kills += u32::from(migration.try_wait().unwrap().is_none());
        migration.kill().unwrap();
        migration.wait().unwrap();
    }
    assert!(kills > 3, "killed {kills} times");
    assert!(daemon.serve(&["--migrate-store"]).output().unwrap().status.success());
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    assert_eq!(daemon.outcome("copy-1999", &certificate_verify()), Outcome::Done);
    let (_, status) = daemon.http("GET", "/v1/status", "").unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["keys"], 2001);
    assert!(daemon.path("state/keys.redb.before-format-2").exists());
    assert!(!daemon.path("state/keys.redb.before-format-2.part").exists());
}

/// The record in a row: what stands after the MAC.
fn record(row: &[u8]) -> Value {
    serde_json::from_slice(&row[MAC..]).unwrap()
}

/// A row with the same MAC and another record.
fn with_record(row: &[u8], record: &Value) -> Vec<u8> {
    [&row[..MAC], &serde_json::to_vec(record).unwrap()].concat()
}

/// Changes the records behind the back of the daemon.
fn alter(daemon: &Daemon, f: impl FnOnce(&mut Table<'_, &'static str, &'static [u8]>)) {
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    f(&mut transaction.open_table(KEYS).unwrap());
    transaction.commit().unwrap();
}

/// Changes one bit of the list of the index that has a label, behind the back of the daemon.
fn flip_a_bit_of_the_list_of(daemon: &Daemon, label: &str) {
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut index = transaction.open_table(INDEX).unwrap();
        let rows = index.iter().unwrap().map(Result::unwrap);
        let rows: Vec<_> = rows.map(|row| (row.0.value(), row.1.value().to_vec())).collect();
        // Each label with its length before it; the root has none.
        let entry = [&[label.len() as u8], label.as_bytes()].concat();
        let found = rows.into_iter().find(|row| row.1.windows(entry.len()).any(|part| part == entry));
        let (number, mut list) = found.unwrap();
        *list.last_mut().unwrap() ^= 1;
        index.insert(number, list.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

/// Makes the store what the version before the MACs had written, with so many copies of the key
/// `shop`.
fn make_old(daemon: &Daemon, copies: u32) {
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut keys = transaction.open_table(KEYS).unwrap();
        let rows = keys.iter().unwrap().map(Result::unwrap);
        let rows: Vec<_> = rows.map(|row| (row.0.value().to_owned(), row.1.value().to_vec())).collect();
        for (label, row) in &rows {
            let record = if row[0] == b'{' { row } else { &row[MAC..] };
            keys.insert(label.as_str(), record).unwrap();
        }
        let shop = keys.get("shop").unwrap().unwrap().value().to_vec();
        for number in 0..copies {
            keys.insert(format!("copy-{number}").as_str(), shop.as_slice()).unwrap();
        }
        let mut meta = transaction.open_table(META).unwrap();
        for name in ["seal", "store-key", "store-key-name"] {
            meta.remove(name).unwrap();
        }
        meta.insert("format", "1").unwrap();
        meta.insert("rejection-secret", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
    }
    transaction.delete_table(INDEX).unwrap();
    transaction.commit().unwrap();
}

const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
const INDEX: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("index");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// The name of the master key whose bytes are 0x5a, as the unit has it.
const WKID_OF_5A: &str = "2be781505e2decbfac71fc4ea64e6b81";
/// Length of the MAC of a record.
const MAC: usize = 32;

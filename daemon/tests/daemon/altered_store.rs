//! The key store after another program has written to the file: the daemon finds every alteration,
//! and refuses only the altered keys.

use keyward_proto::Outcome;
use redb::{Database, ReadableTable, Table, TableDefinition};
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, certificate_verify, failure_of};

/// A name of the master key that cannot be read stops the check of the configuration and the start.
#[test]
fn an_altered_name_of_the_master_key_is_found_before_the_start() {
    let mut daemon = Daemon::production(&[("*", "any")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    daemon.end(Signal::TERM);
    assert!(daemon.serve(&["--check-config"]).status().unwrap().success());
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("wkid", "no name").unwrap();
    transaction.commit().unwrap();
    drop(database);
    let (status, line) = failure_of(&daemon.serve(&["--check-config"]).output().unwrap());
    assert!(status == 78 && line.contains("keys.redb was altered"), "{status} {line}");
    let (status, line) = failure_of(&daemon.serve(&[]).output().unwrap());
    assert!(status == 65 && line.contains("keys.redb was altered"), "{status} {line}");
}

/// Write access to the file without the master key gives no signature.
#[test]
fn an_edited_record_is_refused_and_no_other() {
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
    // The report comes before anybody asks for the key.
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
    assert!(text.contains("restore it from a backup, or delete each key: keyward key delete"), "{text}");
    assert!(text.contains("find out who wrote to the key store before anything else"), "{text}");
    assert!(!text.contains("generate or import"), "{text}");
    // The message names this.
    daemon.succeed(&["key", "delete", "edited"]);
    altered(2);
    daemon.succeed(&["key", "generate", "edited", "--type", "p256"]);
    assert_eq!(daemon.outcome("edited", &certificate_verify()), Outcome::Done);
}

/// Two edits in place remove every trace of the label of the key.
#[test]
fn a_key_that_was_removed_is_reported() {
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
        let (status, warning) = failure_of(&listed);
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

/// The commands that `key list` names repair every alteration.
#[test]
fn each_advised_command_repairs_the_store() {
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
    /// Outcome after the commands: the key is gone, or is disabled.
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
            let (status, warnings) = failure_of(&listed);
            let command = warnings.lines().next().unwrap().rsplit_once(": keyward ").unwrap().1;
            assert!(status == 65 && commands < 3, "{what}: {warnings}");
            daemon.succeed(&command.split(' ').collect::<Vec<_>>());
            commands += 1;
        }
        assert_eq!(daemon.outcome("shop", &certificate_verify()), outcome, "{what}");
        let metrics = daemon.http("GET", "/metrics", "").unwrap().1;
        assert!(metrics.lines().any(|line| line == "keyward_keys_altered 0"), "{what}: {metrics}");
        for label in ["shop", "other"] {
            let _ = daemon.keyward(&["key", "delete", label, "--yes", "--force"]);
            let _ = daemon.keyward(&["key", "purge", label, "--yes"]);
        }
    }
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
fn a_store_of_a_development_daemon_is_refused_in_production() {
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
    let (status, line) = failure_of(&daemon.serve(&[]).output().unwrap());
    assert_eq!(status, 65, "{line}");
    assert!(line.contains("keys.redb was altered by a program other than keyward"), "{line}");
}

/// The record in a row, which follows the MAC.
fn record(row: &[u8]) -> Value {
    serde_json::from_slice(&row[MAC..]).unwrap()
}

/// A row with the same MAC and another record.
fn with_record(row: &[u8], record: &Value) -> Vec<u8> {
    [&row[..MAC], &serde_json::to_vec(record).unwrap()].concat()
}

/// Changes the records without the daemon.
fn alter(daemon: &Daemon, f: impl FnOnce(&mut Table<'_, &'static str, &'static [u8]>)) {
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    f(&mut transaction.open_table(KEYS).unwrap());
    transaction.commit().unwrap();
}

/// Changes one bit of the list of the index that has a label, without the daemon.
fn flip_a_bit_of_the_list_of(daemon: &Daemon, label: &str) {
    let database = Database::open(daemon.path("state/keys.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut index = transaction.open_table(INDEX).unwrap();
        let rows = index.iter().unwrap().map(Result::unwrap);
        let rows: Vec<_> = rows.map(|row| (row.0.value(), row.1.value().to_vec())).collect();
        // Each label follows its length byte; the root has no labels.
        let entry = [&[label.len() as u8], label.as_bytes()].concat();
        let found = rows.into_iter().find(|row| row.1.windows(entry.len()).any(|part| part == entry));
        let (number, mut list) = found.unwrap();
        *list.last_mut().unwrap() ^= 1;
        index.insert(number, list.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

pub(crate) const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
pub(crate) const INDEX: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("index");
pub(crate) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// Length of the MAC of a record.
pub(crate) const MAC: usize = 32;

//! Purged keys are gone from every copy of the key store: what an attacker with all copies can do,
//! and what becomes of a daemon that is killed, loses its secrets, or has a full disk meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Outcome;
use redb::{Database, ReadableDatabase, ReadableTable};
use rustix::process::Signal;
use serde_json::Value;

use crate::altered_store::{KEYS, MAC};
use crate::fixture::{Daemon, PROGRAM, certificate_verify, failure_of, has_root};

/// Somebody has the master key, each copy of the key store and of the state of the unit that was
/// ever made, the secret in force and the recovery file.
#[test]
fn a_purged_key_is_in_no_copy() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    for label in ["kept", "purged", "other"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    let directory = daemon.path("");
    let path = |name: &str| directory.join(name).display().to_string();
    daemon.succeed(&["backup", &path("old")]);
    daemon.succeed(&["backup", "--recovery", &path("old-recovery")]);
    let taken = copies(&daemon, "state");
    let blob = blobs_of(&daemon, "purged").remove(0);

    daemon.succeed(&["key", "delete", "purged", "--yes"]);
    daemon.succeed(&["backup", &path("deleted")]);
    let told = daemon.succeed(&["key", "purge", "purged", "--yes"]);
    assert!(told.contains("not final yet") && told.contains("destroy the old ones"), "{told}");
    await_final(&daemon);
    assert!(daemon.log().contains("purges are final"), "{}", daemon.log());
    daemon.succeed(&["backup", &path("new")]);
    daemon.succeed(&["backup", "--recovery", &path("recovery")]);
    let records = daemon.http("GET", "/v1/status", "").unwrap().1;
    let status: Value = serde_json::from_str(&records).unwrap();
    assert_eq!((&status["purges"]["final"], &status["recovery"]["current"]), (&true.into(), &true.into()));
    daemon.end(Signal::TERM);

    // The blob as the unit made it is in no file, in no form.
    let mut seen = taken;
    seen.extend(copies(&daemon, "state"));
    for name in ["old", "deleted", "new", "old-recovery", "recovery"] {
        seen.push((name.to_owned(), fs::read(daemon.path(name)).unwrap()));
    }
    for (name, bytes) in &seen {
        // All blobs of a master key begin with the same bytes.
        let text = STANDARD.encode(&blob);
        for part in [&blob[blob.len() - 20..], &text.as_bytes()[text.len() - 28..text.len() - 8]] {
            assert!(!bytes.windows(part.len()).any(|window| window == part), "{name}");
        }
    }
    // Every copy of the store, with every secret that there is now.
    let stores: Vec<_> = seen.iter().filter(|(_, bytes)| bytes.starts_with(b"redb")).collect();
    assert_eq!(stores.len(), 5);
    for (name, bytes) in stores {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().join("keys.redb");
        fs::write(&store, bytes).unwrap();
        let records = records_of(&store);
        let secrets = daemon.path("state/shred");
        if let Some(record) = records.get("purged") {
            assert!(blobs_in(&secrets, "purged", record).is_none(), "{name}");
        }
    }
    // Each combination of copies and recovery files, as the commands put them together.
    for (copy, recovery, keys) in [
        ("old", "recovery", None),
        ("old", "old-recovery", Some("kept other purged")),
        ("deleted", "recovery", None),
        ("new", "recovery", Some("kept other")),
        ("new", "old-recovery", None),
    ] {
        let state = daemon.path("elsewhere");
        let _ = fs::remove_dir_all(&state);
        let restored = restore(&daemon, &[&path(copy), "--recovery", &path(recovery)], "elsewhere");
        let checked = check(&daemon, &path(copy), &path(recovery));
        assert_eq!(checked.status.success(), keys.is_some(), "{copy} {recovery}");
        let Some(keys) = keys else {
            for output in [restored, checked] {
                let (status, line) = failure_of(&output);
                let age = if copy == "new" { "older" } else { "newer" };
                assert!(
                    status == 78 && line.contains(&format!("it is {age}: ")),
                    "{copy} {recovery}: {line}"
                );
            }
            assert!(!state.join("keys.redb").exists());
            continue;
        };
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        let _ = fs::remove_dir_all(daemon.path("before"));
        fs::rename(daemon.path("state"), daemon.path("before")).unwrap();
        fs::rename(&state, daemon.path("state")).unwrap();
        daemon.start(&[]);
        for label in keys.split(' ') {
            assert_eq!(
                daemon.outcome(label, &certificate_verify()),
                Outcome::Done,
                "{copy} {recovery} {label}"
            );
        }
        assert_eq!(
            daemon.succeed(&["key", "list", "--json"]).matches("\"label\"").count(),
            keys.split(' ').count()
        );
        daemon.end(Signal::TERM);
        fs::remove_dir_all(daemon.path("state")).unwrap();
        fs::rename(daemon.path("before"), daemon.path("state")).unwrap();
    }
}

/// A purge is answered at once, the keys are wrapped anew in the background, and handshakes go on,
/// also if the daemon is killed again and again.
#[test]
fn many_keys_are_wrapped_anew_while_they_sign() {
    let is_long = std::env::var_os("KEYWARD_SOAK").is_some();
    let (count, kills) = if is_long { (100_000, 20_u32) } else { (4000, 4) };
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    for label in ["shop", "purged", "late", "changed"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.end(Signal::TERM);
    crate::migration::make_old(&daemon, count);
    assert!(daemon.serve(&["--migrate-store"]).output().unwrap().status.success());
    daemon.start(&[]);
    for label in ["purged", "late"] {
        daemon.succeed(&["key", "delete", label, "--yes", "--force"]);
    }
    let first = secrets(&daemon);
    let (ended, signed) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut longest = Duration::ZERO;
    thread::scope(|scope| {
        let (daemon, ended, signed) = (&daemon, &ended, &signed);
        let servers: Vec<_> = (0..2)
            .map(|server| {
                scope.spawn(move || {
                    let mut longest = Duration::ZERO;
                    for number in (0..).map(|number: u32| (number * 7 + server) % count) {
                        if ended.load(Ordering::Relaxed) {
                            return longest;
                        }
                        let started = Instant::now();
                        // Most of these keys are not in memory.
                        let label = format!("copy-{number}");
                        assert_eq!(daemon.outcome(&label, &certificate_verify()), Outcome::Done, "{label}");
                        longest = longest.max(started.elapsed());
                        signed.fetch_add(1, Ordering::Relaxed);
                    }
                    unreachable!()
                })
            })
            .collect();
        let started = Instant::now();
        let (status, answer) = daemon.http("POST", "/v1/keys/purged/purge", "").unwrap();
        assert!(status == 200 && answer.contains(r#""final":false"#), "{status} {answer}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        // Another purge while the first one is not final.
        daemon.succeed(&["key", "purge", "late", "--yes"]);
        // Others can change keys meanwhile.
        daemon.succeed(&["key", "disable", "changed"]);
        let before = signed.load(Ordering::Relaxed);
        await_final(daemon);
        assert!(signed.load(Ordering::Relaxed) > before, "no signature meanwhile");
        ended.store(true, Ordering::Relaxed);
        for server in servers {
            longest = longest.max(server.join().unwrap());
        }
    });
    eprintln!("{} signatures meanwhile, the longest took {longest:?}", signed.into_inner());
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    let last = secrets(&daemon);
    assert!(last.len() == 1 && last != first);
    // Killed and upgraded within the wrapping, again and again.
    daemon.succeed(&["key", "delete", "copy-1", "--yes", "--force"]);
    daemon.succeed(&["key", "purge", "copy-1", "--yes"]);
    for kill in 0..kills {
        // Each time after a longer part of the work.
        thread::sleep(Duration::from_millis(20) * kill);
        match kill % 2 {
            0 => {
                daemon.end(Signal::KILL);
                daemon.start(&[]);
            }
            _ => {
                daemon.signal(Signal::USR2);
                daemon.await_ready();
            }
        }
        assert_eq!(daemon.outcome(&format!("copy-{}", count - 1), &certificate_verify()), Outcome::Done);
    }
    await_final(&daemon);
    assert!(secrets(&daemon).len() == 1 && secrets(&daemon) != last);
    for number in (0..count).filter(|number| *number != 1).step_by(count as usize / 50) {
        assert_eq!(daemon.outcome(&format!("copy-{number}"), &certificate_verify()), Outcome::Done);
    }
    assert_eq!(daemon.outcome("copy-1", &certificate_verify()), Outcome::UnknownKey);
}

/// Careless administrators: the directory of the secrets is lost, or belongs to another store.
#[test]
fn a_daemon_without_its_secret_asks_for_the_recovery_file() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    let path = |daemon: &Daemon, name: &str| daemon.path(name).display().to_string();
    let recovery = path(&daemon, "recovery");
    let (status, line) = daemon.fail(&["backup", "--recovery", &recovery]);
    assert!(line.contains("has had no key yet"), "{status} {line}");
    assert!(!daemon.path("recovery").exists());
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    let text = daemon.succeed(&["status"]);
    assert!(
        text.contains("no recovery file is known") && text.contains("keyward backup --recovery FILE"),
        "{text}"
    );
    // A client that reads the secret, and does not say that there is a file.
    assert!(daemon.http("GET", "/v1/recovery", "").unwrap().1.starts_with("keyward recovery file 1"));
    assert!(daemon.succeed(&["status"]).contains("no recovery file is known"));
    for (secret, expected) in [("1 0123456789abcdef", 409), ("1", 400)] {
        let note = format!(r#"{{"secret": "{secret}", "has_old": false}}"#);
        assert_eq!(daemon.http("POST", "/v1/recovery", &note).unwrap().0, expected);
    }
    let written = daemon.succeed(&["backup", "--recovery", &recovery]);
    assert!(written.contains("keep the three apart"), "{written}");
    assert!(!daemon.succeed(&["status"]).contains("recovery"));
    let (status, line) = daemon.fail(&["backup", "--recovery", &recovery]);
    assert!(status == 73 && line.contains("exists already"), "{status} {line}");

    // Removed or damaged while the daemon runs.
    let file = daemon.path("state/shred").join(secrets(&daemon).pop().unwrap());
    let bytes = fs::read(&file).unwrap();
    fs::remove_dir_all(daemon.path("state/shred")).unwrap();
    daemon.await_log("had removed or changed the file of the secret");
    assert!(fs::read(&file).unwrap() == bytes);
    // A new program finds the file, too.
    fs::write(&file, "damaged").unwrap();
    daemon.signal(Signal::USR2);
    daemon.await_ready();
    assert!(fs::read(&file).unwrap() == bytes, "{}", daemon.log());
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    daemon.end(Signal::TERM);

    // Gone at a start.
    fs::remove_dir_all(daemon.path("state/shred")).unwrap();
    let (_, line) = failure_of(&daemon.serve(&["--check-config"]).output().unwrap());
    assert!(line.contains("restore --recovery FILE"), "{line}");
    let (status, line) = failure_of(&daemon.serve(&[]).output().unwrap());
    assert_eq!(status, 65, "{line}");
    let command = line.trim_end().rsplit_once("from the recovery file: ").unwrap().1;
    let program = Path::new(PROGRAM).parent().unwrap();
    let run = |command: &str| {
        let words = command.replace("FILE", &recovery).replace(
            "keyward restore",
            &format!("{}/keyward restore --runtime-dir {}", program.display(), daemon.path("run").display()),
        );
        Command::new("sh").args(["-c", &words]).output().unwrap()
    };
    // A recovery file that is none.
    for (garbage, words) in [
        (vec![b'x'; 100_000], "it is not a recovery file"),
        (Vec::new(), "it is not a recovery file"),
        (fs::read(&recovery).unwrap()[..80].to_vec(), "the recovery file is damaged"),
    ] {
        fs::write(daemon.path("garbage"), garbage).unwrap();
        let (status, line) =
            failure_of(&restore(&daemon, &["--recovery", &path(&daemon, "garbage")], "state"));
        assert!(status == 65 && line.contains(words), "{status} {line}");
    }
    let text = fs::read_to_string(&recovery).unwrap();
    let wrong = text.replace("check ", "check 0");
    fs::write(daemon.path("garbage"), wrong).unwrap();
    assert!(
        failure_of(&restore(&daemon, &["--recovery", &path(&daemon, "garbage")], "state"))
            .1
            .contains("damaged")
    );
    let output = run(command);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(&file).unwrap() == bytes);
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    let (status, line) = failure_of(&restore(&daemon, &["--recovery", &recovery], "state"));
    assert!(status == 69 && line.contains("the daemon is running"), "{status} {line}");

    // An old file of the store in the place of the store, beside a newer secret; and the reverse.
    let old = fs::read(daemon.path("state/keys.redb")).unwrap();
    daemon.succeed(&["key", "generate", "purged", "--type", "p256"]);
    daemon.destroy("purged");
    await_final(&daemon);
    daemon.end(Signal::TERM);
    let new = fs::read(daemon.path("state/keys.redb")).unwrap();
    fs::write(daemon.path("state/keys.redb"), old).unwrap();
    let (status, line) = failure_of(&daemon.serve(&[]).output().unwrap());
    assert!(status == 65 && line.contains("restore --recovery"), "{status} {line}");
    let output = restore(&daemon, &["--recovery", &recovery], "state");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    daemon.end(Signal::TERM);
    let names = secrets(&daemon);
    assert_eq!(names.len(), 2, "the newer secret is left alone");
    let newer = names.into_iter().find(|name| !file.ends_with(name)).unwrap();
    fs::remove_file(daemon.path("state/shred").join(newer)).unwrap();
    fs::write(daemon.path("state/keys.redb"), new).unwrap();
    let (status, line) = failure_of(&restore(&daemon, &["--recovery", &recovery], "state"));
    assert!(status == 78 && line.contains("it is older"), "{status} {line}");
    // No store at all.
    fs::remove_file(daemon.path("state/keys.redb")).unwrap();
    let (status, line) = failure_of(&restore(&daemon, &["--recovery", &recovery], "state"));
    assert!(status == 66 && line.contains("restore COPY --recovery FILE"), "{status} {line}");
}

/// Only the running daemon has the keys: nobody else can save them, even without an audit trail.
#[test]
fn keys_are_saved_when_the_state_directory_is_gone() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
    fs::rename(daemon.path("state"), daemon.path("away")).unwrap();
    fs::remove_dir_all(daemon.path("away/shred")).unwrap();
    let [copy, recovery] = ["copy", "recovery"].map(|name| daemon.path(name).display().to_string());
    daemon.succeed(&["backup", &copy]);
    let (_, line) = daemon.fail(&["backup", "--recovery", &recovery]);
    assert!(line.contains("is written, but cannot tell the daemon"), "{line}");
    daemon.end(Signal::TERM);
    let _ = fs::remove_dir_all(daemon.path("state"));
    let output = restore(&daemon, &[&copy, "--recovery", &recovery], "state");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(daemon.path("away/unit"), daemon.path("state/unit")).unwrap();
    daemon.start(&[]);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
}

/// Files by which purged keys come back from old copies are said, though the purge is final.
#[test]
fn the_status_names_what_a_purge_does_not_reach() {
    let daemon = Daemon::production(&[("*", "tls-server")]);
    for label in ["shop", "purged"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    let old = secrets(&daemon).pop().unwrap();
    let bytes = fs::read(daemon.path("state/shred").join(&old)).unwrap();
    let copy = daemon.path("state/keys.redb.before-format-2");
    fs::write(&copy, "of before").unwrap();
    assert!(!daemon.succeed(&["status"]).contains("do not reach"));
    daemon.destroy("purged");
    await_final(&daemon);
    // As an old copy of the directory brings it back.
    fs::write(daemon.path("state/shred").join(&old), bytes).unwrap();
    let told = daemon.succeed(&["status"]);
    for path in [daemon.path("state/shred").join(&old), copy] {
        let line =
            format!("purges      do not reach copies of before, as long as there is {}", path.display());
        assert!(told.contains(&line), "{told}");
    }
}

/// Without room for a new secret, the key is destroyed, and the purge waits and says so.
#[test]
fn a_purge_without_room_for_a_secret_is_not_final() {
    let mut daemon = Daemon::production(&[("*", "tls-server")]);
    for label in ["shop", "purged"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.succeed(&["key", "delete", "purged", "--yes"]);
    let (shred, away) = (daemon.path("state/shred"), daemon.path("state/away"));
    fs::rename(&shred, &away).unwrap();
    fs::write(&shred, "no directory").unwrap();
    daemon.succeed(&["key", "purge", "purged", "--yes"]);
    daemon.await_log("purges are not final: ");
    let output = daemon.keyward(&["status"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && text.contains("purges      not final"), "{text}");
    let metrics = daemon.http("GET", "/metrics", "").unwrap().1;
    assert!(metrics.contains("keyward_purges_not_final 1\n"), "{metrics}");
    assert_eq!(daemon.outcome("purged", &certificate_verify()), Outcome::UnknownKey);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    // The secret that the recovery file gets still wraps the purged key.
    let recovery = |name: &str, more: &[&str]| {
        let path = daemon.path(name).display().to_string();
        daemon.succeed(&[&["backup", "--recovery", &path], more].concat())
    };
    assert!(recovery("recovery", &[]).contains("A purge is not final"));
    assert!(recovery("recovery.json", &["--json"]).contains("\"final\": false"));
    fs::remove_file(&shred).unwrap();
    fs::rename(&away, &shred).unwrap();
    // The next purge does not wait for a minute.
    daemon.succeed(&["key", "generate", "next", "--type", "p256"]);
    daemon.destroy("next");
    await_final(&daemon);
    assert!(daemon.http("GET", "/metrics", "").unwrap().1.contains("keyward_purges_not_final 0\n"));
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
    daemon.end(Signal::TERM);
}

/// The disk has no room at all, as seen by a daemon on a small disk.
#[test]
fn a_purge_on_a_full_disk_is_refused_or_is_made_final_later() {
    if !has_root() {
        return;
    }
    let mut daemon = Daemon::prepare("");
    fs::create_dir(daemon.path("state")).unwrap();
    daemon.start_as(&mut daemon.serve_on_disk("state", "8M"));
    for label in ["shop", "purged"] {
        daemon.succeed(&["key", "generate", label, "--type", "p256"]);
    }
    daemon.succeed(&["key", "delete", "purged", "--yes"]);
    let root = format!("/proc/{}/root{}", daemon.pid().as_raw_nonzero(), daemon.path("state").display());
    let fill = Path::new(&root).join("fill");
    let _full = fs::write(&fill, vec![1; 8 << 20]);
    let purged = daemon.keyward(&["key", "purge", "purged", "--yes"]);
    // The record of the act may find no room, either.
    if !purged.status.success() {
        let line = String::from_utf8_lossy(&purged.stderr);
        assert!(
            line.contains("No space left") || line.contains("no room") || line.contains("audit"),
            "{line}"
        );
    }
    fs::remove_file(&fill).unwrap();
    if !purged.status.success() {
        daemon.succeed(&["key", "purge", "purged", "--yes"]);
    }
    daemon.succeed(&["key", "generate", "next", "--type", "p256"]);
    daemon.destroy("next");
    await_final(&daemon);
    assert_eq!(daemon.outcome("shop", &certificate_verify()), Outcome::Done);
}

/// The record of a key with its blobs as the unit made them, unwrapped apart from the code of the
/// daemon.
pub(crate) fn unwrapped(secrets: &Path, label: &str, record: &[u8]) -> Vec<u8> {
    let mut json: Value = serde_json::from_slice(record).unwrap();
    for version in json["versions"].as_array_mut().unwrap() {
        let number = u32::try_from(version["number"].as_u64().unwrap()).unwrap();
        let blob = STANDARD.decode(version["blob"].as_str().unwrap()).unwrap();
        version["blob"] = STANDARD.encode(blob_in(secrets, label, number, &blob).unwrap()).into();
    }
    serde_json::to_vec(&json).unwrap()
}

/// A blob that a secret in a directory has wrapped; `None` if there is no such secret.
fn blob_in(secrets: &Path, label: &str, number: u32, wrapped: &[u8]) -> Option<Vec<u8>> {
    let (id, rest) = wrapped.split_first_chunk::<8>().unwrap();
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let secret = fs::read(secrets.join(id)).ok()?;
    let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"keyward shred 1").extract(&secret);
    let mut key = [0; 32];
    root.expand(&[b"blobs"], hkdf::HKDF_SHA256).unwrap().fill(&mut key).unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let (nonce, text) = rest.split_first_chunk::<12>().unwrap();
    let place = [label.as_bytes(), &[0], &number.to_be_bytes(), &[0]].concat();
    let mut text = text.to_vec();
    let blob = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place), &mut text).unwrap();
    Some(blob.to_vec())
}

fn blobs_in(secrets: &Path, label: &str, record: &[u8]) -> Option<Vec<Vec<u8>>> {
    let json: Value = serde_json::from_slice(record).unwrap();
    let versions = json["versions"].as_array().unwrap().iter();
    let blob = |version: &Value| STANDARD.decode(version["blob"].as_str().unwrap()).unwrap();
    versions
        .map(|version| {
            blob_in(secrets, label, version["number"].as_u64().unwrap().try_into().unwrap(), &blob(version))
        })
        .collect()
}

/// The blobs of a key, from a copy of the store and the secrets of the daemon.
fn blobs_of(daemon: &Daemon, label: &str) -> Vec<Vec<u8>> {
    let copy = daemon.path("look");
    daemon.succeed(&["backup", copy.to_str().unwrap()]);
    let blobs = blobs_in(&daemon.path("state/shred"), label, &records_of(&copy)[label]);
    fs::remove_file(copy).unwrap();
    blobs.unwrap()
}

/// The records in a copy of the store, by label.
fn records_of(copy: &Path) -> BTreeMap<String, Vec<u8>> {
    let database = Database::create(copy).unwrap();
    let keys = database.begin_read().unwrap().open_table(KEYS).unwrap();
    let rows = keys.iter().unwrap().map(Result::unwrap);
    rows.map(|(label, row)| (label.value().to_owned(), row.value()[MAC..].to_vec())).collect()
}

/// Every file below a directory of the daemon.
fn copies(daemon: &Daemon, directory: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(daemon.path(directory)).unwrap().map(Result::unwrap) {
        let name = format!("{directory}/{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(copies(daemon, &name)),
            false => found.push((name, fs::read(entry.path()).unwrap())),
        }
    }
    found
}

/// Names of the secrets in the state directory.
fn secrets(daemon: &Daemon) -> Vec<String> {
    let files = fs::read_dir(daemon.path("state/shred")).unwrap().map(Result::unwrap);
    files.map(|file| file.file_name().into_string().unwrap()).collect()
}

/// Waits until the status of the daemon says that each purge is final.
fn await_final(daemon: &Daemon) {
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        let (_, status) = daemon.http("GET", "/v1/status", "").unwrap();
        let status: Value = serde_json::from_str(&status).unwrap();
        if status["purges"]["final"] == true {
            return;
        }
        assert!(Instant::now() < deadline, "{status} {}", daemon.log());
        thread::sleep(Duration::from_millis(10));
    }
}

fn restore(daemon: &Daemon, words: &[&str], state: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("restore").args(words).arg("--state-dir").arg(daemon.path(state));
    command.arg("--runtime-dir").arg(daemon.path("run")).output().unwrap()
}

/// Checks a copy without the state directory of the daemon.
fn check(daemon: &Daemon, copy: &str, recovery: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["backup", "check", copy, "--recovery", recovery, "--state-dir"]).arg(daemon.path("none"));
    command.arg("--config").arg(daemon.path("keyward.toml")).output().unwrap()
}

//! A trail is written, and then changed in every way that must be found.

use core::time::Duration;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Instant, SystemTime};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use crate::files::{HEAD, list};
use crate::reading::{is_compressed, open};
use crate::verify::verify_within;
use crate::*;

struct Unit(EcdsaKeyPair);

impl Unit {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    fn key(&self) -> AuditKey {
        let spki: PublicKeyX509Der<'_> = self.0.public_key().as_der().unwrap();
        AuditKey::from_spki(spki.as_ref()).unwrap()
    }

    fn again(&self) -> Self {
        let pkcs8 = self.0.to_pkcs8v1().unwrap();
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap())
    }
}

impl Signer for Unit {
    fn sign(&self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(Some(self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()))
    }
}

/// A unit that signs nothing.
struct Down;

impl Signer for Down {
    fn sign(&self, _message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Err("the unit is down".into())
    }
}

struct Scene {
    directory: tempfile::TempDir,
    unit: Unit,
}

impl Scene {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), unit: Unit::new() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Files of 4 KiB, and a checkpoint after ten records.
    fn settings(&self) -> Settings {
        Settings {
            directory: self.path().to_owned(),
            threads: 2,
            checkpoint_interval: Duration::from_secs(60),
            checkpoint_records: 10,
            policy: Policy { rotate_at: 4096, ..Policy::default() },
        }
    }

    fn open(&self) -> Trail {
        Trail::open(&self.settings(), Some(Box::new(self.unit.again()))).unwrap()
    }

    /// Writes two runs of a daemon with 40 uses and an act each.
    fn write(&self) {
        for run in 0..2 {
            let trail = self.open();
            for number in 0..40 {
                trail.record_use(key_use(&format!("key-{run}-{number}")));
                if number % 13 == 0 {
                    act(&trail, Phase::Done).unwrap();
                }
            }
        }
    }

    fn verify(&self) -> Result<Report, Fault> {
        verify(self.path(), &self.unit.key()).unwrap()
    }

    fn text(&self) -> String {
        self.files().iter().map(|path| read(path)).collect()
    }

    /// Compresses all files, or none of them.
    fn set_form(&self, is_compressed: bool) {
        for path in self.files() {
            let text = read(&path);
            fs::remove_file(&path).unwrap();
            let plain = path.to_str().unwrap().trim_end_matches(".zst");
            write(Path::new(&format!("{plain}{}", if is_compressed { ".zst" } else { "" })), text.as_bytes());
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        list(self.path()).unwrap().into_iter().map(|(_, path)| path).collect()
    }
}

/// Contents of a file, which may be compressed.
fn read(path: &Path) -> String {
    let mut text = String::new();
    open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Writes a file in the form that its name says.
fn write(path: &Path, text: &[u8]) {
    let bytes = if is_compressed(path) { zstd::encode_all(text, 3).unwrap() } else { text.to_vec() };
    fs::write(path, bytes).unwrap();
}

fn key_use(key: &str) -> KeyUse {
    KeyUse {
        time: SystemTime::now(),
        peer: Peer {
            uid: 33,
            gid: 33,
            pid: 4711,
            command: Some("ng\"inx\n".into()),
            unit: Some("nginx.service".into()),
        },
        key: Name::of(key),
        version: 1,
        fingerprint: Some(0x0123_4567_89ab_cdef),
        purpose: Some("tls13-server"),
        scheme: Some("ecdsa_secp256r1_sha256"),
        message: Hash::of(key.as_bytes()),
        outcome: "done",
        request: 7,
    }
}

/// Records an act, and waits until the record is on the disk.
fn act(trail: &Trail, phase: Phase) -> Result<(), Unwritten> {
    let (sender, receiver) = mpsc::channel();
    let act = Act {
        action: "keyward.key.disable",
        phase,
        actor: Actor { uid: 0, pid: 1 },
        key: Some("shop".into()),
        version: None,
        details: serde_json::Map::new(),
    };
    trail.record_act(act, move |written| sender.send(written).unwrap());
    receiver.recv().unwrap()
}

#[test]
fn every_record_is_there_and_signed() {
    let scene = Scene::new();
    scene.write();
    let report = scene.verify().unwrap();
    assert!(report.is_whole(), "{report:?}");
    // With no hash in memory but that of the last record.
    assert_eq!(verify_within(1, scene.path(), &scene.unit.key()).unwrap().unwrap(), report);
    let head = fs::metadata(scene.path().join(HEAD)).unwrap();
    assert_eq!(head.mode() & 0o777, 0o600);
    assert!(scene.files().len() > 3, "{:?}", scene.files());
    let text = scene.text();
    for run in 0..2 {
        for number in 0..40 {
            assert_eq!(text.matches(&format!("\"key\":\"key-{run}-{number}\"")).count(), 1, "{run} {number}");
        }
    }
    assert_eq!(text.matches("keyward.key.disable").count(), 8);
    assert_eq!(text.matches("keyward.audit.start").count(), 2);
    assert_eq!(text.lines().count() as u64, report.records);
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(humantime::parse_rfc3339(record["time"].as_str().unwrap()).is_ok(), "{line}");
    }
}

/// Each change of each line is found, at that line or at the next one.
#[test]
fn a_change_has_its_place() {
    let scene = Scene::new();
    scene.write();
    for is_compressed in [false, true] {
        scene.set_form(is_compressed);
        change_each_line(&scene);
    }
}

fn change_each_line(scene: &Scene) {
    for path in scene.files() {
        let text = read(&path);
        let lines: Vec<_> = text.lines().collect();
        for number in 0..lines.len() {
            let mut edited = lines.clone();
            let other = lines[number].replacen("\"time\":\"20", "\"time\":\"19", 1);
            edited[number] = &other;
            let mut deleted = lines.clone();
            deleted.remove(number);
            let mut inserted = lines.clone();
            inserted.insert(number, lines[number]);
            let mut changes = vec![("edit", edited), ("delete", deleted), ("insert", inserted)];
            if number + 1 < lines.len() {
                let mut exchanged = lines.clone();
                exchanged.swap(number, number + 1);
                changes.push(("reorder", exchanged));
            }
            for (what, changed) in changes {
                let changed: String = changed.iter().map(|line| format!("{line}\n")).collect();
                write(&path, changed.as_bytes());
                let fault = scene.verify().expect_err(what);
                let near = (number as u64..=number as u64 + 3).contains(&fault.place.line);
                let is_here = fault.place.path == path && near;
                // The last line of a file is missed at the first line of the next one or of `head`.
                let is_next = number + 1 >= lines.len() && fault.place.line == 1;
                assert!(is_here || is_next, "{what} of line {} of {}: {fault}", number + 1, path.display());
            }
        }
        write(&path, text.as_bytes());
    }
    assert!(scene.verify().unwrap().is_whole());
}

#[test]
fn files_are_missing_exchanged_or_old() {
    let scene = Scene::new();
    scene.write();
    for is_compressed in [false, true] {
        scene.set_form(is_compressed);
        exchange_files(&scene);
    }
}

fn exchange_files(scene: &Scene) {
    let files = scene.files();
    let (first, second) = (fs::read(&files[1]).unwrap(), fs::read(&files[2]).unwrap());
    fs::write(&files[1], &second).unwrap();
    fs::write(&files[2], &first).unwrap();
    assert_eq!(scene.verify().unwrap_err().place, Place { path: files[1].clone(), line: 1 });
    fs::write(&files[1], &first).unwrap();
    // An old file in the place of a newer one.
    assert_eq!(scene.verify().unwrap_err().place, Place { path: files[2].clone(), line: 1 });
    fs::write(&files[2], &second).unwrap();
    for path in &files {
        let text = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        scene.verify().expect_err("a file is missing");
        fs::write(path, text).unwrap();
    }
    assert!(scene.verify().unwrap().is_whole());
    let head = fs::read(scene.path().join(HEAD)).unwrap();
    fs::remove_file(scene.path().join(HEAD)).unwrap();
    scene.verify().expect_err("no head");
    fs::write(scene.path().join(HEAD), head).unwrap();
    // Another key has signed another trail.
    let other = Scene::new();
    let fault = verify(scene.path(), &other.unit.key()).unwrap().unwrap_err();
    assert!(fault.problem.contains("not signed by the audit key"), "{fault}");
}

/// Somebody who can write the files makes a chain that fits. The next signature does not.
#[test]
fn a_new_chain_has_no_signature() {
    let scene = Scene::new();
    scene.write();
    let forger = Scene::new();
    let trail = forger.open();
    for number in 0..200 {
        trail.record_use(key_use(&format!("forged-{number}")));
    }
    drop(trail);
    for path in scene.files() {
        fs::remove_file(path).unwrap();
    }
    for path in forger.files() {
        fs::copy(&path, scene.path().join(path.file_name().unwrap())).unwrap();
    }
    scene.verify().unwrap_err();
}

#[test]
fn the_end_is_unsigned_while_a_unit_is_down_or_after_a_kill() {
    let scene = Scene::new();
    scene.write();
    let whole = scene.verify().unwrap();
    let trail = Trail::open(&scene.settings(), Some(Box::new(Down))).unwrap();
    for _ in 0..5 {
        trail.record_use(key_use("shop"));
    }
    act(&trail, Phase::Begun).unwrap();
    drop(trail);
    let report = scene.verify().unwrap();
    // The record of the start, five uses and an act.
    assert_eq!(report, Report { records: whole.records + 7, last: whole.last + 7, unsigned: 7, ..whole });
    // A process that was killed while it wrote.
    let path = scene.files().pop().unwrap();
    let mut text = fs::read(&path).unwrap();
    text.extend_from_slice(b"{\"seq\":");
    fs::write(&path, text).unwrap();
    assert_eq!(scene.verify().unwrap(), Report { partial: 7, ..report });
    drop(scene.open());
    let report = scene.verify().unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(scene.text().matches("\"lost\":7").count(), 1);
}

/// 100,000 refusals in a second of a user without a grant, beside one of another user.
#[test]
fn refusals_do_not_fill_the_disk() {
    let scene = Scene::new();
    let trail = scene.open();
    for number in 0..100_000 {
        let mut refused = key_use("shop");
        refused.outcome = "no-grant";
        if number == 50_000 {
            refused.peer.uid = 34;
        }
        trail.record_use(refused);
    }
    drop(trail);
    let text = scene.text();
    let of = |uid: u64| {
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        records
            .filter(|record| record["uid"] == uid || record["peer"]["uid"] == uid)
            .map(|record| record["refusals"].as_u64().unwrap_or(1))
            .sum::<u64>()
    };
    assert_eq!((of(33), of(34)), (99_999, 1));
    assert!(text.len() < 100_000, "{}", text.len());
}

/// An end that is cut off is found by the head, and not by the chain.
#[test]
fn a_trail_without_its_end() {
    let scene = Scene::new();
    scene.write();
    let path = scene.files().pop().unwrap();
    let text = read(&path);
    let lines: Vec<_> = text.lines().collect();
    let rest: String = lines[..lines.len() - 1].iter().map(|line| format!("{line}\n")).collect();
    write(&path, rest.as_bytes());
    let fault = scene.verify().unwrap_err();
    assert!(fault.problem.contains("its end is missing"), "{fault}");
}

#[test]
fn uses_without_room_are_counted() {
    let scene = Scene::new();
    let trail = scene.open();
    let begin = Instant::now();
    let mut uses = 0;
    while trail.unwritten() == 0 && begin.elapsed() < Duration::from_secs(20) {
        trail.record_use(key_use("shop"));
        uses += 1;
    }
    drop(trail);
    let text = scene.text();
    let written = text.matches("keyward.key.use").count();
    let counted: u64 = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["uses"].as_u64())
        .sum();
    assert_eq!(written as u64 + counted, uses);
    assert!(scene.verify().unwrap().is_whole());
}

/// A file is closed by its age, and each closed file is signed although neither the interval nor
/// the number of records asks for it.
#[test]
fn files_have_an_age_and_are_signed_when_they_are_closed() {
    let scene = Scene::new();
    let settings = Settings { checkpoint_records: 1_000_000, ..scene.settings() };
    let policy = |rotate_after| Policy { rotate_at: 1 << 30, rotate_after };
    let settings = Settings { policy: policy(Duration::MAX), ..settings };
    let trail = Trail::open(&settings, Some(Box::new(scene.unit.again()))).unwrap();
    act(&trail, Phase::Done).unwrap();
    assert_eq!(scene.files().len(), 1);
    trail.set_policy(policy(Duration::ZERO));
    trail.record_use(key_use("shop"));
    act(&trail, Phase::Done).unwrap();
    assert!(scene.files().len() > 1);
    let through = || serde_json::from_slice::<Checkpoint>(&fs::read(scene.path().join(HEAD)).ok()?).ok();
    trail.set_policy(policy(Duration::MAX));
    await_state(|| through().is_some_and(|head| head.through >= 3));
    drop(trail);
    assert!(scene.verify().unwrap().is_whole());
}

/// Closed files are compressed, whatever a process that was killed has left, and records go on
/// after a file that is compressed.
#[test]
fn closed_files_are_compressed() {
    let scene = Scene::new();
    scene.write();
    scene.set_form(true);
    let first = scene.files().remove(0);
    let plain = first.with_extension("");
    fs::write(&plain, read(&first)).unwrap();
    fs::write(&first, "of a process that was killed").unwrap();
    assert!(scene.verify().unwrap().is_whole(), "the form that is not compressed goes first");
    fs::write(plain.with_extension("jsonl.zst.new"), "of a process that was killed").unwrap();
    let trail = scene.open();
    await_state(|| {
        let names = fs::read_dir(scene.path()).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|end| end == "jsonl" || end == "new")).count() == 1
    });
    drop(trail);
    let text = scene.text();
    assert_eq!(text.matches("keyward.audit.start").count(), 3);
    let report = scene.verify().unwrap();
    assert!(report.is_whole(), "{report:?}");
    let mode = fs::metadata(&first).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A file that is damaged is a fault, and no error.
    let bytes = fs::read(&first).unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &[bytes.as_slice(), b"x"].concat(), b"", b"x"] {
        fs::write(&first, damaged).unwrap();
        scene.verify().unwrap_err();
    }
}

/// Waits for a state that another thread brings about.
fn await_state(mut is_there: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_there() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the state does not come");
        std::thread::yield_now();
    }
}

//! A trail in a directory, as a daemon writes it.

mod attacks;
mod copies;
mod disk;
mod files;
mod load;
mod status;

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
use crate::surroundings::Surroundings;
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
            copy: None,
            policy: Policy { rotate_at: 4096, ..Policy::default() },
        }
    }

    fn open(&self) -> Trail {
        self.open_with(self.settings())
    }

    fn open_with(&self, settings: Settings) -> Trail {
        open_trail(settings, self.unit.again())
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
        verify(self.path(), &self.unit.key(), None).unwrap()
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

/// Opens a trail in a file system that is half full.
fn open_trail(settings: Settings, signer: impl Signer + 'static) -> Trail {
    let surroundings = Surroundings { free: Box::new(|_| Ok(50)), ..Surroundings::default() };
    Trail::open_in(surroundings, &settings, Some(Box::new(signer))).unwrap()
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

pub(crate) fn key_use(key: &str) -> KeyUse {
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

fn an_act(phase: Phase) -> Act {
    Act {
        action: "keyward.key.disable",
        phase,
        actor: Actor { uid: 0, pid: 1, role: "manager" },
        key: Some("shop".into()),
        version: None,
        details: serde_json::Map::new(),
    }
}

/// Records an act, and waits until the record is on the disk.
fn act(trail: &Trail, phase: Phase) -> Result<(), Unwritten> {
    let (sender, receiver) = mpsc::channel();
    trail.record_act(an_act(phase), move |written| sender.send(written).unwrap());
    receiver.recv().unwrap()
}

#[test]
fn every_record_is_there_and_signed() {
    let scene = Scene::new();
    scene.write();
    let report = scene.verify().unwrap();
    assert!(report.is_whole(), "{report:?}");
    // With no hash in memory but that of the last record.
    assert_eq!(verify_within(1, scene.path(), &scene.unit.key(), None).unwrap().unwrap(), report);
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
    let mut reader = Reader::new(scene.path(), Filter::default());
    let lines = core::iter::from_fn(|| reader.next().unwrap()).map(|line| line.text);
    assert!(lines.eq(text.lines().map(str::as_bytes)), "compressed or not");
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(humantime::parse_rfc3339(record["time"].as_str().unwrap()).is_ok(), "{line}");
    }
}

#[test]
fn the_end_is_unsigned_while_a_unit_is_down_or_after_a_kill() {
    let scene = Scene::new();
    scene.write();
    let whole = scene.verify().unwrap();
    let trail = open_trail(scene.settings(), Down);
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

/// A trail whose oldest files were removed, with copies of them.
fn shortened() -> (Scene, Vec<(PathBuf, Vec<u8>)>) {
    let scene = Scene::new();
    scene.write();
    scene.set_form(true);
    let copies: Vec<_> =
        scene.files().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let trail = scene.open();
    let bytes = copies.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    // The open file counts too.
    trail.set_policy(Policy { keep_size: Some(bytes / 2 + 2000), ..scene.settings().policy });
    act(&trail, Phase::Done).unwrap();
    await_state(|| !copies[1].0.exists());
    drop(trail);
    (scene, copies.into_iter().filter(|(path, _)| !path.exists()).collect())
}

/// Waits for a state that another thread brings about.
fn await_state(mut is_there: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_there() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the state does not come");
        std::thread::yield_now();
    }
}

//! Files are closed, compressed and removed.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;

/// A file is closed by its age, and each closed file is signed although neither the interval nor
/// the number of records asks for it.
#[test]
fn files_have_an_age_and_are_signed_when_they_are_closed() {
    let scene = Scene::new();
    let settings = Settings { checkpoint_records: 1_000_000, ..scene.settings() };
    let policy = |rotate_after| Policy { rotate_at: 1 << 30, rotate_after, ..Policy::default() };
    let settings = Settings { policy: policy(Duration::MAX), ..settings };
    let trail = scene.open_with(settings);
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
    // A file that somebody has put beside the compressed one removes nothing.
    fs::write(&plain, "{}\n").unwrap();
    let trail = scene.open();
    act(&trail, Phase::Done).unwrap();
    drop(trail);
    assert!(plain.exists() && first.exists());
    scene.verify().unwrap_err();
    fs::remove_file(&plain).unwrap();
    // A file that is damaged is a fault, and no error.
    let bytes = fs::read(&first).unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &[bytes.as_slice(), b"x"].concat(), b"", b"x"] {
        fs::write(&first, damaged).unwrap();
        scene.verify().unwrap_err();
    }
}

#[test]
fn the_oldest_files_are_removed_and_the_rest_is_whole() {
    let (scene, gone) = shortened();
    let report = scene.verify().unwrap();
    assert!(report.is_whole() && report.first > 1, "{report:?}");
    assert_eq!(report.records, report.last - report.first + 1);
    let text = scene.text();
    // Another file may have been closed and removed meanwhile.
    let removals = text.lines().filter(|line| line.contains("keyward.audit.removal"));
    let removals: Vec<serde_json::Value> = removals.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&removals[0]["first"], &removals[0]["reason"]), (&1.into(), &"keep-size".into()));
    assert_eq!(removals[removals.len() - 1]["last"].as_u64().unwrap(), report.first - 1);
    // A process that was killed has left the newest file of them.
    let (path, bytes) = gone.last().unwrap();
    fs::write(path, bytes).unwrap();
    let report = scene.verify().unwrap();
    assert!(report.is_whole(), "{report:?}");
    fs::remove_file(path).unwrap();
    // The oldest alone does not fit.
    let (path, bytes) = gone.first().unwrap();
    fs::write(path, bytes).unwrap();
    scene.verify().unwrap_err();
}

#[test]
fn nothing_is_removed_without_a_signature() {
    let scene = Scene::new();
    scene.write();
    let files = scene.files().len();
    let policy = Policy { keep: Some(Duration::ZERO), keep_size: Some(1), ..scene.settings().policy };
    let settings = Settings { policy: policy.clone(), ..scene.settings() };
    let trail = open_trail(settings.clone(), Down);
    act(&trail, Phase::Done).unwrap();
    trail.set_policy(policy);
    act(&trail, Phase::Done).unwrap();
    drop(trail);
    assert_eq!(scene.files().len(), files + 1);
    assert!(!scene.text().contains("keyward.audit.removal"));
    // A unit that signs again has them removed by their age.
    let trail = scene.open_with(settings);
    act(&trail, Phase::Done).unwrap();
    await_state(|| scene.files().len() == 1);
    drop(trail);
    assert!(scene.text().contains(r#""reason":"keep"#));
    let report = scene.verify().unwrap();
    assert!(report.is_whole(), "{report:?}");
}

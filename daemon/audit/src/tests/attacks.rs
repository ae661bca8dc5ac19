//! A trail is written, and then changed in every way that must be found.

use std::fs;

use super::*;

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
    let fault = verify(scene.path(), &other.unit.key(), None).unwrap().unwrap_err();
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

/// Each change of `head`, and the heads of other trails.
#[test]
fn the_head_is_exchanged() {
    let scene = Scene::new();
    scene.write();
    let path = scene.path().join(HEAD);
    let head = fs::read(&path).unwrap();
    for place in 0..head.len() - 1 {
        let mut changed = head.clone();
        changed[place] ^= 1;
        fs::write(&path, &changed).unwrap();
        scene.verify().expect_err(&String::from_utf8_lossy(&changed));
    }
    // The same unit has signed another trail, which is shorter.
    let other = Scene { directory: tempfile::tempdir().unwrap(), unit: scene.unit.again() };
    drop(other.open());
    fs::copy(other.path().join(HEAD), &path).unwrap();
    let fault = scene.verify().unwrap_err();
    assert_eq!(fault.place, Place { path, line: 1 });
    assert!(fault.problem.contains("covers another record"), "{fault}");
    // A head from before the oldest files were removed.
    let (scene, gone) = shortened();
    let text = String::from_utf8(zstd::decode_all(gone[0].1.as_slice()).unwrap()).unwrap();
    let first = Hash::of(text.lines().next().unwrap().as_bytes());
    let checkpoint = Checkpoint::make(&scene.unit, 1, first).unwrap().unwrap();
    fs::write(scene.path().join(HEAD), serde_json::to_vec(&checkpoint).unwrap()).unwrap();
    let fault = scene.verify().unwrap_err();
    assert!(fault.problem.contains("older than the trail"), "{fault}");
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

/// An end that is cut off together with the head is found by a copy of the head.
#[test]
fn a_copy_of_the_head_shows_that_the_end_and_the_head_were_exchanged() {
    let scene = Scene::new();
    let verify_with = |scene: &Scene, checkpoint: &Checkpoint| {
        let kept = Head { path: "/elsewhere/head".into(), checkpoint: checkpoint.clone() };
        verify(scene.path(), &scene.unit.key(), Some(&kept)).unwrap()
    };
    let head = |scene: &Scene| Checkpoint::read(fs::File::open(scene.path().join(HEAD)).unwrap()).unwrap();
    scene.write();
    let copy_of = |path: PathBuf| (fs::read(&path).unwrap(), path);
    let before: Vec<_> = scene.files().into_iter().chain([scene.path().join(HEAD)]).map(copy_of).collect();
    let older = head(&scene);
    scene.write();
    let newer = head(&scene);
    for kept in [&older, &newer] {
        let report = verify_with(&scene, kept).unwrap();
        assert!(report.is_whole() && report.has_kept == Some(true), "{report:?}");
    }
    assert_eq!(scene.verify().unwrap().has_kept, None);
    // A change of the copy, and the copy of another trail.
    let fault = verify_with(&scene, &Checkpoint { through: newer.through - 1, ..newer.clone() }).unwrap_err();
    assert!(fault.problem.contains("not signed by the audit key"), "{fault}");
    let other = Checkpoint::make(&scene.unit, 5, Hash::of(b"another")).unwrap().unwrap();
    let fault = verify_with(&scene, &other).unwrap_err();
    assert!(fault.problem.contains("covers another record 5"), "{fault}");

    scene.files().iter().for_each(|path| fs::remove_file(path).unwrap());
    before.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    assert!(scene.verify().unwrap().is_whole(), "nothing in the directory shows it");
    assert_eq!(verify_with(&scene, &older).unwrap().has_kept, Some(true));
    let fault = verify_with(&scene, &newer).unwrap_err();
    assert_eq!(fault.place, Place { path: "/elsewhere/head".into(), line: 1 });
    assert!(fault.problem.contains("its end is missing"), "{fault}");

    // The record of the copy was removed, because of its age.
    let (scene, _) = shortened();
    let first = scene.verify().unwrap().first;
    let text = read(&scene.files()[0]);
    let record: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let removed: Hash = serde_json::from_value(record["prev"].clone()).unwrap();
    for (through, hash, has_kept) in [
        (1, Hash::of(b"any"), Ok(Some(false))),
        (first - 1, removed, Ok(Some(false))),
        (first - 1, Hash::of(b"another"), Err(())),
    ] {
        let kept = Checkpoint::make(&scene.unit, through, hash).unwrap().unwrap();
        let found = verify_with(&scene, &kept).map_err(|_| ());
        assert!(
            found.as_ref().is_ok_and(|report| !report.is_whole()) || has_kept.is_err(),
            "record {through}"
        );
        assert_eq!(found.map(|report| report.has_kept), has_kept, "record {through}");
    }
}

#[test]
fn nobody_else_removes_a_beginning() {
    // Nothing says that files were removed.
    let scene = Scene::new();
    scene.write();
    fs::remove_file(scene.files().remove(0)).unwrap();
    let fault = scene.verify().unwrap_err();
    assert!(fault.problem.contains("no signed record says"), "{fault}");
    assert_eq!(fault.place, Place { path: scene.files().remove(0), line: 1 });
    // A record that says so, and fits, but is not signed.
    let first: serde_json::Value =
        serde_json::from_str(read(&scene.files()[0]).lines().next().unwrap()).unwrap();
    let (seq, prev) = (first["seq"].as_u64().unwrap(), first["prev"].as_str().unwrap());
    let (path, last) = (scene.files().pop().unwrap(), scene.text().lines().last().unwrap().to_owned());
    let next = serde_json::from_str::<serde_json::Value>(&last).unwrap()["seq"].as_u64().unwrap() + 1;
    let forged = format!(
        r#"{{"seq":{next},"time":"2026-01-01T00:00:00.000000Z","action":"keyward.audit.removal","first":1,"last":{},"hash":"{prev}","reason":"keep","prev":"{}"}}"#,
        seq - 1,
        Hash::of(last.as_bytes())
    );
    write(&path, format!("{}{forged}\n", read(&path)).as_bytes());
    let fault = scene.verify().unwrap_err();
    assert!(fault.problem.contains("no signed record says"), "{fault}");
    // More is gone than the record says.
    let (scene, _) = shortened();
    fs::remove_file(scene.files().remove(0)).unwrap();
    let fault = scene.verify().unwrap_err();
    assert!(fault.problem.contains("no signed record says"), "{fault}");
}

/// Somebody writes the files while the daemon is down, and the daemon goes on with them.
#[test]
fn the_daemon_vouches_for_nothing_that_was_changed_while_it_was_down() {
    let unsigned_removal = |text: &str, seq: u64, last: u64, hash: &Hash, prev: &Hash| {
        format!(
            "{text}{{\"seq\":{seq},\"time\":\"2026-01-01T00:00:00.000000Z\",\"action\":\"keyward.audit.removal\",\"first\":1,\"last\":{last},\"hash\":\"{hash}\",\"reason\":\"keep\",\"prev\":\"{prev}\"}}\n"
        )
    };
    // The beginning is cut off, with a record that says so.
    let scene = Scene::new();
    scene.write();
    scene.set_form(false);
    let files = scene.files();
    let (first, newest) = (&files[0], files.last().unwrap());
    let beginning = fs::read_to_string(first).unwrap();
    let removed = beginning.lines().last().unwrap();
    let (last, hash) = (beginning.lines().count() as u64, Hash::of(removed.as_bytes()));
    let text = fs::read_to_string(newest).unwrap();
    let prev = Hash::of(text.lines().last().unwrap().as_bytes());
    let seq = scene.verify().unwrap().last + 1;
    fs::write(newest, unsigned_removal(&text, seq, last, &hash, &prev)).unwrap();
    fs::remove_file(first).unwrap();
    scene.verify().unwrap_err();
    drop(scene.open());
    let fault = scene.verify().unwrap_err();
    assert!(fault.problem.contains("no signed record says that earlier ones were removed"), "{fault}");

    // The end is cut off, in a file with some records.
    let scene = Scene::new();
    scene.write();
    scene.set_form(false);
    let mut files = scene.files();
    let kept = loop {
        let newest = files.pop().unwrap();
        let text = fs::read_to_string(&newest).unwrap();
        let lines: Vec<_> = text.lines().collect();
        fs::remove_file(&newest).unwrap();
        if let [kept @ .., _, _, _] = lines.as_slice()
            && !kept.is_empty()
        {
            break (newest, kept.join("\n") + "\n");
        }
    };
    fs::write(kept.0, kept.1).unwrap();
    let trail = scene.open();
    assert!(trail.status().rewound.is_some());
    drop(trail);
    let fault = scene.verify().unwrap_err();
    assert!(fault.problem.contains("the end was cut off or replaced"), "{fault}");
}

#[test]
fn a_directory_without_a_signature_is_not_whole() {
    let scene = Scene::new();
    let report = scene.verify().unwrap();
    assert!(!report.is_whole() && report.checkpoints == 0, "{report:?}");
    drop(open_trail(scene.settings(), Down));
    assert!(!scene.verify().unwrap().is_whole());
}

#[test]
fn a_file_that_is_not_in_its_place_is_a_failure() {
    let scene = Scene::new();
    let surroundings = Surroundings { look_every: Duration::ZERO, ..Surroundings::default() };
    let trail = Trail::open_in(surroundings, &scene.settings(), Some(Box::new(scene.unit.again()))).unwrap();
    act(&trail, Phase::Done).unwrap();
    let file = scene.files().pop().unwrap();
    let elsewhere = scene.path().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    await_state(|| trail.has_failed());
    act(&trail, Phase::Done).unwrap_err();
    fs::rename(&elsewhere, &file).unwrap();
    await_state(|| !trail.has_failed());
    act(&trail, Phase::Done).unwrap();
    drop(trail);
    assert!(scene.verify().unwrap().is_whole());
}

/// Somebody who can write to the directory does not have the daemon remove records: neither with a
/// large file of another name, nor with a hole in a file.
#[test]
fn a_large_file_removes_no_records() {
    let scene = Scene::new();
    scene.write();
    let files = scene.files();
    let second_form = PathBuf::from(format!("{}.zst", files[0].display()));
    for path in [files[0].with_file_name("large"), second_form.clone()] {
        fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    }
    let trail = scene.open();
    trail.set_policy(Policy { keep_size: Some(1 << 30), ..scene.settings().policy });
    await_state(|| trail.status().extent.is_some_and(|extent| extent.bytes > 1 << 40));
    act(&trail, Phase::Done).unwrap();
    drop(trail);
    assert!(!scene.text().contains("keyward.audit.removal"));
    assert!(files.iter().all(|path| path.exists() || second_form.exists()));
}

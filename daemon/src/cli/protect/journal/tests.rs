//! Every file can be put back after a stop at any moment.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::key_file::Facts;
use super::*;

#[test]
fn files_are_put_back_after_a_stop_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.conf"), "first").unwrap();
    fs::set_permissions(path("a.conf"), Permissions::from_mode(0o640)).unwrap();
    let at = path("a.conf").metadata().unwrap().modified().unwrap();
    let files: BTreeMap<_, _> =
        [(path("a.conf"), b"second".to_vec()), (path("new.d/b.conf"), b"new".to_vec())].into_iter().collect();
    let texts: BTreeMap<_, _> = [(path("a.conf"), "first".to_owned())].into_iter().collect();
    for written in 0..=files.len() {
        let mut journal = Journal::open(&path("journal")).unwrap();
        journal.begin_run().unwrap();
        journal.keep(&files, &texts, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        for (path, contents) in files.iter().take(written) {
            journal.write(path, contents).unwrap();
        }
        drop(journal);
        let mut journal = Journal::open(&path("journal")).unwrap();
        assert_eq!(journal.phase(), Some(Phase::Writing));
        assert!(journal.adopt_changes().unwrap().is_empty());
        journal.put_back().unwrap();
        // Twice, as after a stop.
        journal.put_back().unwrap();
        journal.forget_run().unwrap();
        journal.remove().unwrap();
        assert_eq!(fs::read(path("a.conf")).unwrap(), b"first");
        let found = path("a.conf").metadata().unwrap();
        assert_eq!((found.mode() & 0o7777, found.modified().unwrap()), (0o640, at));
        assert!(!path("new.d").exists() && !path("journal").exists());
    }
}

/// A list of access control that lets the user 1234 read, as the system stores it: version 2, then
/// tag, permissions and id of each entry (acl(5), linux/posix_acl_xattr.h).
fn access_control() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, u32::MAX), (2, 4, 1234), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let bytes = entries.map(|(tag, permissions, id)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    [&2_u32.to_le_bytes()[..], &bytes.concat()].concat()
}

#[test]
fn attributes_and_access_control_stay_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let attributes = |name: &str| attributes::of(&File::open(path(name)).unwrap()).unwrap();
    fs::write(path("a"), "first").unwrap();
    fs::write(path("key"), "secret").unwrap();
    let none = attributes("a");
    for name in ["a", "key"] {
        let file = File::open(path(name)).unwrap();
        let mut wanted = attributes(name);
        wanted.insert("user.note".into(), b"\x00\xffkept".to_vec());
        wanted.insert("system.posix_acl_access".into(), access_control());
        attributes::give(&file, &path(name), &wanted).unwrap();
        assert_eq!(attributes(name), wanted, "the file system has attributes");
    }
    // New files in the directory get a list of their own, which these files do not have.
    let file = File::open(directory.path()).unwrap();
    let mut default = attributes::of(&file).unwrap();
    default.insert("system.posix_acl_default".into(), access_control());
    attributes::give(&file, directory.path(), &default).unwrap();
    fs::write(path("plain"), "first").unwrap();
    attributes::give(&File::open(path("plain")).unwrap(), &path("plain"), &none).unwrap();
    let names = ["a", "key", "plain"];
    let state = || names.map(|name| (attributes(name), path(name).metadata().unwrap().mode()));
    let before = state();
    let files: BTreeMap<_, _> = names.into_iter().map(|name| (path(name), b"second".to_vec())).collect();
    let replaced: BTreeMap<_, _> = [(path("key"), path(".key.before"))].into_iter().collect();

    let mut journal = Journal::open(&path("journal")).unwrap();
    journal.begin_run().unwrap();
    journal.keep(&files, &BTreeMap::new(), &BTreeMap::new(), &replaced).unwrap();
    journal.write(&path("a"), b"second").unwrap();
    journal.write(&path("plain"), b"second").unwrap();
    journal.replace(&path("key"), b"second").unwrap();
    assert_eq!(state(), before);
    // The attributes come back also if somebody has removed them meanwhile.
    attributes::give(&File::open(path("a")).unwrap(), &path("a"), &none).unwrap();
    drop(journal);
    let mut journal = Journal::open(&path("journal")).unwrap();
    journal.put_back().unwrap();
    assert_eq!(state(), before);
    assert_eq!(fs::read(path("a")).unwrap(), b"first");
    journal.forget_run().unwrap();
    journal.remove().unwrap();
}

#[test]
fn key_files_take_their_paths_again_after_a_stop_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("key"), "secret").unwrap();
    std::os::unix::fs::symlink("key", path("link")).unwrap();
    let at = |name: &str| path(name).symlink_metadata().map(|found| (found.ino(), found.mode())).unwrap();
    let before = ["key", "link"].map(at);
    let files: BTreeMap<_, _> =
        ["key", "link"].into_iter().map(|name| (path(name), b"reference".to_vec())).collect();
    let replaced: BTreeMap<_, _> =
        ["key", "link"].into_iter().map(|name| (path(name), path(&format!(".{name}.before")))).collect();
    for step in 0..5 {
        let mut journal = Journal::open(&path("journal")).unwrap();
        journal.begin_run().unwrap();
        journal.keep(&files, &BTreeMap::new(), &BTreeMap::new(), &replaced).unwrap();
        let linked = |name: &str| fs::hard_link(path(name), path(&format!(".{name}.before"))).unwrap();
        match step {
            1 => linked("key"),
            2 => journal.replace(&path("key"), b"reference").unwrap(),
            3 => {
                journal.replace(&path("key"), b"reference").unwrap();
                linked("link");
            }
            4 => files.iter().for_each(|(path, contents)| journal.replace(path, contents).unwrap()),
            _ => {}
        }
        if step == 4 {
            assert_eq!(fs::read(path("link")).unwrap(), b"reference");
            assert_eq!(fs::read(path(".key.before")).unwrap(), b"secret");
            assert!(!path("link").is_symlink() && path(".link.before").is_symlink());
            let other = fs::read(path("link")).unwrap();
            fs::write(path("link"), "renewed").unwrap();
            let refused = journal.adopt_changes().unwrap_err().into_reason();
            assert!(refused.contains("link.changed), and run the command again"), "{refused}");
            fs::write(path("link"), other).unwrap();
        }
        assert!(journal.adopt_changes().unwrap().is_empty(), "{step}");
        drop(journal);
        let mut journal = Journal::open(&path("journal")).unwrap();
        journal.put_back().unwrap();
        journal.put_back().unwrap();
        assert_eq!(["key", "link"].map(at), before, "{step}");
        assert_eq!(fs::read(path("link")).unwrap(), b"secret");
        assert!(!path(".key.before").exists() && !path(".link.before").is_symlink());
        journal.forget_run().unwrap();
        journal.remove().unwrap();
    }
}

#[test]
fn runs_are_undone_one_by_one_and_foreign_changes_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a"), "first").unwrap();
    let mut journal = Journal::open(&path("journal")).unwrap();
    assert!(Journal::open(&path("journal")).is_err(), "held twice");
    let mut before = "first";
    for contents in ["second", "third"] {
        let files = [(path("a"), contents.as_bytes().to_vec())].into_iter().collect();
        journal.begin_run().unwrap();
        let other = [(path("a"), "other".to_owned())].into_iter().collect();
        let none = BTreeMap::new();
        assert!(journal.keep(&files, &other, &BTreeMap::new(), &none).is_err(), "changed since the plan");
        let texts = [(path("a"), before.to_owned())].into_iter().collect();
        let edits = vec![Replaced { old: before.to_owned(), new: contents.to_owned() }];
        let edits = [(path("a"), edits)].into_iter().collect();
        journal.keep(&files, &texts, &edits, &none).unwrap();
        journal.write(&path("a"), contents.as_bytes()).unwrap();
        journal.enter(Phase::Done).unwrap();
        before = contents;
    }
    drop(journal);
    let mut journal = Journal::open(&path("journal")).unwrap();
    fs::write(path("a"), "third, edited").unwrap();
    for expected in ["second, edited", "first, edited"] {
        assert_eq!(journal.adopt_changes().unwrap(), [path("a")]);
        journal.put_back().unwrap();
        journal.forget_run().unwrap();
        assert_eq!(fs::read_to_string(path("a")).unwrap(), expected);
    }
    assert_eq!(journal.phase(), None);
}

#[test]
fn only_the_file_that_was_imported_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("real"), "key").unwrap();
    std::os::unix::fs::symlink("real", path("link")).unwrap();
    let note = |journal: &mut Journal| {
        let facts = Facts::of(&path("link").metadata().unwrap());
        journal.note_key_file(KeyFile::new(&path("link"), "shop", "00".into(), facts, None)).unwrap();
    };
    let mut journal = Journal::open(&path("journal")).unwrap();
    journal.begin_run().unwrap();
    note(&mut journal);
    assert!(journal.key_files()[0].is_same() && !journal.is_final());
    fs::write(path("other"), "new").unwrap();
    fs::rename(path("other"), path("real")).unwrap();
    assert!(!journal.key_files()[0].is_same());
    assert!(journal.remove_key_file().is_err());
    assert_eq!(fs::read(path("real")).unwrap(), b"new");
    note(&mut journal);
    assert_eq!(journal.key_files()[0].names(), 1);
    assert_eq!(journal.remove_key_file().unwrap(), Some(path("link")));
    assert!(!path("real").exists() && path("link").symlink_metadata().is_err() && journal.is_final());
    // Another key at the same place is not of this journal.
    fs::write(path("link"), "another").unwrap();
    assert_eq!(journal.remove_key_file().unwrap(), None);
    assert_eq!(fs::read(path("link")).unwrap(), b"another");
}

/// Several paths lead to a file, through a link to its directory, too; and one was removed by hand.
#[test]
fn a_file_with_several_paths_is_removed_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("private")).unwrap();
    std::os::unix::fs::symlink("private", path("link")).unwrap();
    let names = ["link/a", "private/a", "link/b", "private/c", "private/d"];
    ["a", "b", "c", "d"].iter().for_each(|name| fs::write(path("private").join(name), "key").unwrap());
    std::os::unix::fs::symlink("private/d", path("link-to-d")).unwrap();
    let mut journal = Journal::open(&path("journal")).unwrap();
    journal.begin_run().unwrap();
    for name in names.into_iter().chain(["link-to-d"]) {
        let facts = Facts::of(&path(name).metadata().unwrap());
        journal.note_key_file(KeyFile::new(&path(name), "shop", "00".into(), facts, None)).unwrap();
    }
    fs::remove_file(path("private/c")).unwrap();
    // The link leads elsewhere now, and the file is there.
    fs::remove_file(path("link-to-d")).unwrap();
    assert!(journal.key_files().iter().all(|file| file.is_same() && file.check_writable().is_ok()));
    let mut removed = Vec::new();
    while let Some(path) = journal.remove_key_file().unwrap() {
        removed.push(path);
    }
    assert_eq!(removed, [path("link/a"), path("link/b"), path("private/d")]);
    assert_eq!(fs::read_dir(path("private")).unwrap().count(), 0);
    assert!(path("link").is_symlink() && journal.key_files().is_empty());
}

/// The file cannot be removed at first, or the command was stopped: the next one goes on.
#[test]
fn a_removal_that_has_failed_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("key"), "key").unwrap();
    let mut journal = Journal::open(&path("journal")).unwrap();
    journal.begin_run().unwrap();
    let facts = Facts::of(&path("key").metadata().unwrap());
    journal.note_key_file(KeyFile::new(&path("key"), "shop", "00".into(), facts, None)).unwrap();
    // Others could exchange the file, so it is not touched.
    fs::set_permissions(path("key"), Permissions::from_mode(0o666)).unwrap();
    assert!(journal.remove_key_file().is_err());
    assert!(!journal.is_final(), "the file is whole");
    drop(journal);
    let mut journal = Journal::open(&path("journal")).unwrap();
    assert_eq!(journal.key_files().len(), 1);
    fs::set_permissions(path("key"), Permissions::from_mode(0o600)).unwrap();
    // As after a stop in the middle.
    fs::write(path("key"), [0; 3]).unwrap();
    assert!(journal.is_final());
    assert_eq!(journal.remove_key_file().unwrap(), Some(path("key")));
    assert!(!path("key").exists());
}

/// Grants that a later step adds go back with the run, and edits of others between stay.
#[test]
fn texts_that_are_added_to_a_run_go_back_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let none = BTreeMap::new();
    let keep = |journal: &mut Journal, before: &str, text: &str| {
        let files = [(path("grants"), format!("{before}{text}").into_bytes())].into_iter().collect();
        let edits = vec![Replaced { old: String::new(), new: text.to_owned() }];
        let texts = [(path("grants"), before.to_owned())].into_iter().collect();
        journal.keep(&files, &texts, &[(path("grants"), edits)].into_iter().collect(), &none).unwrap();
        files.iter().for_each(|(path, contents)| journal.write(path, contents).unwrap());
    };
    for edit in ["", "mine\n"] {
        let mut journal = Journal::open(&path("journal")).unwrap();
        journal.begin_run().unwrap();
        keep(&mut journal, "", "first\n");
        journal.enter(Phase::Done).unwrap();
        fs::write(path("grants"), format!("{edit}first\n")).unwrap();
        keep(&mut journal, &format!("{edit}first\n"), "second\n");
        assert_eq!(journal.adopt_changes().unwrap().is_empty(), edit.is_empty());
        journal.put_back().unwrap();
        assert_eq!(fs::read_to_string(path("grants")).unwrap_or_default(), edit);
        journal.forget_run().unwrap();
        journal.remove().unwrap();
        fs::remove_file(path("grants")).ok();
    }
    // The file is lost, and comes again with other texts.
    let mut journal = Journal::open(&path("journal")).unwrap();
    journal.begin_run().unwrap();
    keep(&mut journal, "", "first\n");
    journal.note_user("shop", BTreeSet::new()).unwrap();
    journal.note_user("shop", BTreeSet::new()).unwrap();
    assert_eq!(journal.uses().len(), 1);
    assert_eq!(journal.labels_of_last(), BTreeSet::from(["shop".to_owned()]));
    fs::remove_file(path("grants")).unwrap();
    keep(&mut journal, "", "second\n");
    assert!(journal.adopt_changes().unwrap().is_empty());
    assert!(journal.put_back().unwrap().is_whole());
    assert!(!path("grants").exists());
}

/// Two servers name one reference: the last one that goes back removes the file.
#[test]
fn a_file_that_two_servers_have_got_stays_until_both_go_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let files: BTreeMap<_, _> = [(path("key.pem"), b"reference".to_vec())].into_iter().collect();
    let protect = |name: &str| {
        let mut journal = Journal::open(&path("journals").join(name)).unwrap();
        journal.begin_run().unwrap();
        journal.keep(&files, &BTreeMap::new(), &BTreeMap::new(), &BTreeMap::new()).unwrap();
        journal.write(&path("key.pem"), b"reference").unwrap();
        journal.enter(Phase::Done).unwrap();
    };
    let undo = |name: &str| {
        let mut journal = Journal::open(&path("journals").join(name)).unwrap();
        journal.put_back().unwrap();
        journal.forget_run().unwrap();
        journal.remove().unwrap();
    };
    for [first, second] in [["nginx", "apache"], ["apache", "nginx"]] {
        protect("nginx");
        protect("apache");
        undo(first);
        assert_eq!(fs::read(path("key.pem")).unwrap(), b"reference");
        undo(second);
        assert!(!path("key.pem").exists());
    }
    // A reference in other words: the former one comes back.
    protect("nginx");
    let other = [(path("key.pem"), b"other".to_vec())].into_iter().collect();
    let mut journal = Journal::open(&path("journals/apache")).unwrap();
    journal.begin_run().unwrap();
    journal.keep(&other, &BTreeMap::new(), &BTreeMap::new(), &BTreeMap::new()).unwrap();
    journal.write(&path("key.pem"), b"other").unwrap();
    journal.put_back().unwrap();
    assert_eq!(fs::read(path("key.pem")).unwrap(), b"reference");
}

/// An administrator retires sites after the change: their files do not come back, whether the
/// server takes the way back or refuses it.
#[test]
fn files_that_somebody_has_removed_stay_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let names = ["site", "retired", "shop.pem", "gone.pem", "reference", "unused"];
    let originals = [("site", "key"), ("retired", "key"), ("shop.pem", "shop"), ("gone.pem", "gone")];
    originals.iter().for_each(|(name, text)| fs::write(path(name), text).unwrap());
    let files: BTreeMap<_, _> = names.into_iter().map(|name| (path(name), b"new".to_vec())).collect();
    let hidden = |name: &str| path(&format!(".{name}.before"));
    let replaced: BTreeMap<_, _> =
        ["shop.pem", "gone.pem"].into_iter().map(|name| (path(name), hidden(name))).collect();
    let mut journal = Journal::open(&path("journal")).unwrap();
    journal.begin_run().unwrap();
    journal.keep(&files, &BTreeMap::new(), &BTreeMap::new(), &replaced).unwrap();
    for (path, contents) in &files {
        match replaced.contains_key(path) {
            true => journal.replace(path, contents).unwrap(),
            false => journal.write(path, contents).unwrap(),
        }
    }
    journal.enter(Phase::Done).unwrap();
    ["retired", "gone.pem", "unused"].iter().for_each(|name| fs::remove_file(path(name)).unwrap());
    let now = || names.map(|name| fs::read_to_string(path(name)).ok());
    let retired = now();
    assert!(journal.adopt_changes().unwrap().is_empty());
    let done = journal.put_back().unwrap();
    let back = ["key", "", "shop", "", "", ""].map(|text| (!text.is_empty()).then(|| text.to_owned()));
    assert_eq!(now(), back);
    assert!(!done.is_whole());
    journal.write_again(&done).unwrap();
    assert_eq!(now(), retired);
    assert_eq!(fs::read(hidden("gone.pem")).unwrap(), b"gone");
    // Once more, with a stop between.
    journal.put_back().unwrap();
    assert!(!journal.put_back().unwrap().is_whole());
    assert_eq!(now(), back);
}

/// An administrator edits files after the change: the way back takes its own texts out of them.
#[test]
fn changes_of_others_stay_and_texts_of_the_run_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let edit = |old: &str, new: &str| vec![Replaced { old: old.into(), new: new.into() }];
    fs::write(path("site"), "key a.key;\n").unwrap();
    let files: BTreeMap<_, _> =
        [("site", "key a.pem;\n"), ("grants", "ours\n"), ("drop-in", "ours\n"), ("a.pem", "reference")]
            .map(|(name, text)| (path(name), text.as_bytes().to_vec()))
            .into_iter()
            .collect();
    let edits =
        [("site", edit("a.key", "a.pem")), ("grants", edit("", "ours\n")), ("drop-in", edit("", "ours\n"))];
    let edits = edits.map(|(name, edits)| (path(name), edits)).into_iter().collect();
    let mut journal = Journal::open(&path("journal")).unwrap();
    journal.begin_run().unwrap();
    journal.keep(&files, &BTreeMap::new(), &edits, &BTreeMap::new()).unwrap();
    files.iter().for_each(|(path, contents)| journal.write(path, contents).unwrap());
    journal.enter(Phase::Done).unwrap();
    assert!(journal.adopt_changes().unwrap().is_empty());
    let changed = [
        ("site", "# mine\nkey a.pem;\n"),
        ("grants", "mine\nours\n"),
        ("drop-in", "ours\n\n"),
        ("a.pem", "rotated"),
    ];
    let now = || changed.map(|(name, _)| fs::read_to_string(path(name)).unwrap_or_default());
    changed.iter().for_each(|(name, text)| fs::write(path(name), text).unwrap());
    fs::set_permissions(path("site"), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(journal.adopt_changes().unwrap().len(), 4);
    assert!(journal.adopt_changes().unwrap().is_empty());
    let done = journal.put_back().unwrap();
    let back = ["# mine\nkey a.key;\n", "mine\n", "", "rotated"];
    assert_eq!(now(), back);
    assert!(!path("drop-in").exists());
    assert_eq!(path("site").metadata().unwrap().mode() & 0o7777, 0o600);
    // The server refuses that: the files are again as the administrator has left them.
    journal.write_again(&done).unwrap();
    assert_eq!(now(), changed.map(|(_, text)| text));
    // After a stop, too.
    drop(journal);
    let mut journal = Journal::open(&path("journal")).unwrap();
    assert!(journal.adopt_changes().unwrap().is_empty());
    // The texts of the run alone, as before the edits.
    files.iter().for_each(|(path, contents)| fs::write(path, contents).unwrap());
    assert_eq!(journal.adopt_changes().unwrap().len(), 4);
    journal.put_back().unwrap();
    assert_eq!(now(), ["key a.key;\n", "", "", "reference"]);
    assert!(!path("grants").exists() && !path("drop-in").exists());
}

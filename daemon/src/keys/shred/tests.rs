use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Label;
use redb::{Database, ReadableDatabase};

use super::super::tests::{key, store_key, unlocked};
use super::super::{Key, State};
use super::*;
use crate::store::metadata::{BARE_FORMAT, FORMAT};
use crate::store::{FILE, Format, Look, OldStore, look, permit};

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

/// A key whose blob is some bytes that no other file has.
fn with_blob(name: &str, byte: u8) -> Key {
    let mut key = key(name);
    key.versions[0].blob = vec![byte; 40];
    key
}

/// A store with a key that will be purged, and keys in several lists.
fn scene() -> (tempfile::TempDir, KeyStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = unlocked(dir.path());
    store.put(with_blob("purged", 0xa7)).unwrap();
    for number in 0..5 {
        store.put(with_blob(&format!("key-{number}"), number)).unwrap();
    }
    (dir, store)
}

/// Checks that every key but the purged one is there, with its blob.
fn assert_whole(store: &KeyStore) {
    for number in 0..5 {
        let key = store.get(&label(&format!("key-{number}"))).unwrap().unwrap();
        assert_eq!(key.versions[0].blob, [number; 40]);
    }
    assert_eq!(store.list(None, 100).unwrap().len() as u64, store.count().unwrap());
}

fn rewrap(store: &KeyStore, lists: impl Iterator<Item = u32>) {
    for list in lists {
        store.rewrap_list(list).unwrap();
    }
}

fn make_final(store: &KeyStore) {
    while !store.shred().unwrap().is_final() {
        store.renew_secret().unwrap();
        rewrap(store, lists());
        store.erase_old_secret().unwrap();
    }
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir.join("shred")).unwrap().map(Result::unwrap);
    files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The blob of a key in a copy of the store, for somebody with the store key and some secrets.
fn opens(copy: &[u8], secrets: &[Vec<u8>], name: &str) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), copy).unwrap();
    let store = KeyStore::without_secrets(Arc::new(RedbStore::open(dir.path()).unwrap()));
    let known = secrets.iter().filter_map(|bytes| ShredSecret::from_bytes(bytes)).map(Arc::new);
    store.secrets.store(Arc::new(Secrets(known.collect())));
    store.unlock(&store_key(), None).unwrap();
    store.get(&label(name)).ok().flatten().map(|key| key.versions[0].blob.clone())
}

#[test]
fn a_purge_that_is_interrupted_anywhere_goes_on() {
    type Step = fn(&Path, &KeyStore);
    let half = |store: &KeyStore| rewrap(store, lists().take(128));
    let steps: [Step; 7] = [
        |_, store| store.delete(&label("purged")).unwrap(),
        // Killed when the file of the new secret was written, and the secret was not in force.
        |_, store| {
            let secret = ShredSecret::generate().unwrap();
            store.secret_files().write(&secret, None).unwrap();
            store.store.set_metadata(&[(NEW_SECRET, Some(&secret.id().to_string()))]).unwrap();
        },
        |_, store| store.renew_secret().unwrap(),
        |_, store| rewrap(store, lists().take(128)),
        |_, store| rewrap(store, lists().skip(128)),
        // Killed when the file of the old secret was overwritten, or removed, and not after.
        |dir, store| {
            let old = store.shred().unwrap().old.unwrap().id.to_string();
            fs::write(dir.join("shred").join(old), [0; 32]).unwrap();
        },
        |dir, store| {
            let old = store.shred().unwrap().old.unwrap().id.to_string();
            fs::remove_file(dir.join("shred").join(old)).unwrap();
        },
    ];
    for killed_after in 0..=steps.len() {
        let (dir, mut store) = scene();
        let first = store.shred().unwrap().in_force.unwrap();
        for step in &steps[..killed_after] {
            step(dir.path(), &store);
            drop(store);
            store = unlocked(dir.path());
            assert_whole(&store);
            assert!(files(dir.path()).len() <= 2);
        }
        assert_eq!(store.shred().unwrap().is_final(), killed_after == 0);
        // A key that is made while two secrets are there.
        store.put(with_blob("new", 9)).unwrap();
        // Killed in the middle of each pass, over and over.
        half(&store);
        drop(store);
        let store = unlocked(dir.path());
        make_final(&store);
        assert_whole(&store);
        drop(store);
        let store = unlocked(dir.path());
        assert_whole(&store);
        let shred = store.shred().unwrap();
        assert!(shred.is_final() && (shred.in_force == Some(first)) == (killed_after == 0));
        assert_eq!(
            files(dir.path()).into_keys().collect::<Vec<_>>(),
            [shred.in_force.unwrap().id.to_string()]
        );
        assert_eq!(store.get(&label("new")).unwrap().unwrap().versions[0].blob, [9; 40]);
    }
}

#[test]
fn a_purged_key_is_in_no_old_copy_when_the_purge_is_final() {
    let (dir, store) = scene();
    let mut copies = Vec::new();
    let copy = |copies: &mut Vec<Vec<u8>>| copies.push(fs::read(dir.path().join(FILE)).unwrap());
    let old_recovery = store.recovery().unwrap().unwrap();
    let old: Vec<_> = old_recovery.into_secrets().map(|(_, secret)| secret.as_bytes().to_vec()).collect();
    copy(&mut copies);
    store.delete(&label("purged")).unwrap();
    copy(&mut copies);
    store.renew_secret().unwrap();
    for list in lists() {
        store.rewrap_list(list).unwrap();
        if list % 64 == 0 {
            copy(&mut copies);
        }
    }
    copy(&mut copies);
    store.erase_old_secret().unwrap();
    copy(&mut copies);
    let recovery = store.recovery().unwrap().unwrap();
    let mut now: Vec<_> = files(dir.path()).into_values().collect();
    now.extend(recovery.into_secrets().map(|(_, secret)| secret.as_bytes().to_vec()));
    assert!(old.iter().all(|secret| !now.contains(secret)));
    for (number, copy) in copies.iter().enumerate() {
        assert_eq!(opens(copy, &now, "purged"), None, "copy {number}");
        let blob = STANDARD.encode([0xa7; 40]);
        assert!(!has(copy, &[0xa7; 8]) && !has(copy, &blob.as_bytes()[..8]), "the blob in copy {number}");
        assert!(old.iter().chain(&now).all(|secret| !has(copy, secret)), "a secret in copy {number}");
    }
    assert_eq!(opens(&copies[0], &old, "purged"), Some(vec![0xa7; 40]), "with the recovery file of then");
    assert_eq!(opens(copies.last().unwrap(), &now, "key-0"), Some(vec![0; 40]));
    assert_eq!(opens(copies.last().unwrap(), &old, "key-0"), None);
}

#[test]
fn a_purge_during_another_makes_two_secrets_and_not_three() {
    let (dir, store) = scene();
    store.delete(&label("purged")).unwrap();
    store.renew_secret().unwrap();
    rewrap(&store, lists().take(100));
    let second = store.shred().unwrap().in_force;
    for number in 0..3 {
        store.put(with_blob(&format!("late-{number}"), 0xb6)).unwrap();
        store.delete(&label(&format!("late-{number}"))).unwrap();
        store.renew_secret().unwrap();
    }
    assert!(store.shred().unwrap().in_force == second && files(dir.path()).len() == 2);
    rewrap(&store, lists());
    let copy = fs::read(dir.path().join(FILE)).unwrap();
    store.erase_old_secret().unwrap();
    let shred = store.shred().unwrap();
    assert!(!shred.is_final() && shred.old.is_none(), "the keys of meanwhile were wrapped by the second");
    make_final(&store);
    let shred = store.shred().unwrap();
    assert_eq!((shred.is_final(), shred.in_force.unwrap().number), (true, 3));
    let now: Vec<_> = files(dir.path()).into_values().collect();
    assert!(now.len() == 1 && opens(&copy, &now, "late-0").is_none());
    // Nothing was destroyed since, so nothing is made.
    store.renew_secret().unwrap();
    assert_eq!(store.shred().unwrap().in_force, shred.in_force);
}

/// A record that was altered keeps a blob of the old secret for ever. A daemon that is killed after
/// it has erased that secret does not ask for it.
#[test]
fn a_secret_that_only_an_altered_record_needs_is_not_asked_for() {
    let (dir, store) = scene();
    let row = record_of(dir.path(), store, "key-1");
    let store = unlocked(dir.path());
    store.delete(&label("purged")).unwrap();
    store.renew_secret().unwrap();
    rewrap(&store, lists());
    drop(store);
    let redb = Arc::new(RedbStore::open(dir.path()).unwrap());
    redb.alter(|tables| drop(tables.keys.insert("key-1", row.as_slice()).unwrap()));
    drop(redb);
    let store = unlocked(dir.path());
    let old = store.shred().unwrap().old.unwrap();
    let needed = |dir: &Path| KeyStore::needed_secrets(dir).unwrap().contains(&old);
    // The two steps of `erase_old_secret` before the last one.
    store.store.set_metadata(&[(OLD_UNUSED, Some(YES))]).unwrap();
    store.secret_files().erase(old.id).unwrap();
    drop(store);
    assert!(!needed(dir.path()));
    let store = unlocked(dir.path());
    make_final(&store);
    assert!(
        store.shred().unwrap().is_final()
            && matches!(store.get(&label("key-1")), Err(StoreError::Altered(_)))
    );
    assert!(store.get(&label("key-2")).unwrap().is_some());
}

/// The row of a key as it is in the file.
fn record_of(dir: &Path, store: KeyStore, name: &str) -> Vec<u8> {
    drop(store);
    let database = Database::open(dir.join(FILE)).unwrap();
    let rows = database.begin_read().unwrap().open_table(crate::store::KEYS).unwrap();
    rows.get(name).unwrap().unwrap().value().to_vec()
}

#[test]
fn a_repair_that_removes_keys_is_a_destruction() {
    let dir = tempfile::tempdir().unwrap();
    let redb = Arc::new(RedbStore::open(dir.path()).unwrap());
    let store = KeyStore::over(Arc::clone(&redb) as Arc<dyn crate::store::Store>, Vec::new()).unwrap();
    store.unlock(&store_key(), None).unwrap();
    store.put(with_blob("shop", 1)).unwrap();
    let list = crate::store::index::list_of("shop");
    redb.alter(|tables| drop(tables.index.remove(list).unwrap()));
    store.check().unwrap();
    assert!(matches!(store.rewrap_list(list), Err(StoreError::UnlistedKeys(_))));
    // The key stays, disabled. Nothing is destroyed.
    store.rebuild().unwrap();
    assert!(store.get(&label("shop")).unwrap().is_some() && store.shred().unwrap().is_final());
    redb.alter(|tables| {
        tables.keys.insert("shop", &b"forged, and long enough for a MAC and a record"[..]).unwrap();
        tables.index.remove(list).unwrap();
    });
    store.rebuild().unwrap();
    assert!(store.get(&label("shop")).unwrap().is_none() && !store.shred().unwrap().is_final());
}

#[test]
fn a_secret_that_is_lost_is_asked_for_and_one_that_is_removed_is_mended() {
    let (dir, store) = scene();
    let id = store.shred().unwrap().in_force.unwrap().id;
    let path = dir.path().join("shred").join(id.to_string());
    let bytes = fs::read(&path).unwrap();
    let stranger = dir.path().join("shred/stranger");
    fs::write(&stranger, "left alone").unwrap();
    assert!(store.mend_secrets().unwrap().is_empty());
    for damage in [None, Some(&bytes[1..])] {
        fs::remove_file(&path).unwrap();
        damage.iter().for_each(|damage| fs::write(&path, damage).unwrap());
        assert_eq!(store.mend_secrets().unwrap(), [id]);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::remove_dir_all(dir.path().join("shred")).unwrap();
    assert_eq!(store.mend_secrets().unwrap(), [id]);
    // The old secret is lost in the middle.
    store.delete(&label("purged")).unwrap();
    store.renew_secret().unwrap();
    rewrap(&store, lists().take(20));
    let needed = |dir: &Path| KeyStore::needed_secrets(dir).unwrap();
    drop(store);
    assert_eq!(needed(dir.path()).len(), 2);
    fs::remove_file(&path).unwrap();
    let gone = KeyStore::open(dir.path()).err().unwrap();
    assert!(matches!(gone, StoreError::SecretGone { .. }));
    assert!(gone.to_string().contains(&id.to_string()) && gone.to_string().contains("restore --recovery"));
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let store = unlocked(dir.path());
    make_final(&store);
    assert_whole(&store);
    drop(store);
    assert_eq!(needed(dir.path()).len(), 1);
    fs::remove_dir_all(dir.path().join("shred")).unwrap();
    assert!(matches!(KeyStore::open(dir.path()), Err(StoreError::SecretGone { .. })));
}

/// A disk that takes no new file keeps nobody from destroying a key.
#[test]
fn without_room_for_a_secret_a_key_is_destroyed_and_the_purge_waits() {
    let (dir, store) = scene();
    let (shred, away) = (dir.path().join("shred"), dir.path().join("away"));
    fs::rename(&shred, &away).unwrap();
    fs::write(&shred, "no directory").unwrap();
    store.delete(&label("purged")).unwrap();
    let before = store.shred().unwrap().in_force;
    for _ in 0..3 {
        assert!(matches!(store.renew_secret(), Err(StoreError::Secret(..))));
    }
    assert!(store.get(&label("purged")).unwrap().is_none());
    assert!(!store.shred().unwrap().is_final() && store.shred().unwrap().in_force == before);
    assert_whole(&store);
    store.put(with_blob("new", 9)).unwrap();
    fs::remove_file(&shred).unwrap();
    fs::rename(&away, &shred).unwrap();
    make_final(&store);
    assert_whole(&store);
    assert_eq!(files(dir.path()).len(), 1, "no secret remains of the attempts");
}

/// If the store does not take the name of a new secret, the secret does not remain.
#[test]
fn a_secret_that_the_store_does_not_name_is_erased() {
    let (dir, store) = scene();
    store.delete(&label("purged")).unwrap();
    // The file of the store is gone, so the store takes no change.
    let (file, away) = (dir.path().join(FILE), dir.path().join("away"));
    fs::rename(&file, &away).unwrap();
    assert!(matches!(store.renew_secret(), Err(StoreError::Gone(_))));
    fs::rename(&away, &file).unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    make_final(&store);
    assert_whole(&store);
}

#[test]
fn keys_are_read_and_changed_while_others_are_purged() {
    let (_dir, store) = scene();
    store.delete(&label("purged")).unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..2 {
            let (store, ended) = (&store, &ended);
            scope.spawn(move || {
                let name = label(&format!("key-{number}"));
                while !ended.load(Ordering::Relaxed) {
                    let key = store.get(&name).unwrap().unwrap();
                    assert_eq!(key.versions[0].blob, [number; 40]);
                    let state = if key.state == State::Enabled { State::Disabled } else { State::Enabled };
                    store.put(Key { state, ..key }).unwrap();
                    let listed = store.list(None, 100).unwrap().into_iter().map(|key| key.key().unwrap());
                    assert_eq!(listed.filter(|key| key.label.as_str().starts_with("key-")).count(), 5);
                }
            });
        }
        for _ in 0..5 {
            store.put(with_blob("extra", 8)).unwrap();
            store.delete(&label("extra")).unwrap();
            make_final(&store);
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert_whole(&store);
}

#[test]
fn a_revision_outlives_the_wrapping() {
    let (_dir, store) = scene();
    let before = store.get(&label("key-1")).unwrap().unwrap();
    store.delete(&label("purged")).unwrap();
    make_final(&store);
    assert_eq!(store.get(&label("key-1")).unwrap().unwrap().revision, before.revision);
    store.put(Key { state: State::Disabled, ..before }).unwrap();
}

#[test]
fn the_store_knows_the_last_recovery_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = unlocked(dir.path());
    assert!(store.recovery().unwrap().is_none() && !store.shred().unwrap().has_recovery());
    store.put(key("shop")).unwrap();
    store.put(key("purged")).unwrap();
    assert!(!store.shred().unwrap().has_recovery());
    let note = |store: &KeyStore, recovery: &Recovery| {
        store.note_recovery(recovery.in_force.0, recovery.old.is_some()).unwrap()
    };
    let first = store.recovery().unwrap().unwrap();
    assert!(first.old.is_none() && !store.shred().unwrap().has_recovery(), "nobody has written a file");
    assert!(note(&store, &first) && store.shred().unwrap().has_recovery());
    store.delete(&label("purged")).unwrap();
    store.renew_secret().unwrap();
    assert!(!store.shred().unwrap().has_recovery());
    let both = store.recovery().unwrap().unwrap();
    assert!(both.old.is_some() && note(&store, &both) && store.shred().unwrap().has_recovery());
    assert!(!note(&store, &first), "the secret is not in force");
    // Somebody leaves out that the file has both: every file of this time has.
    assert!(store.note_recovery(both.in_force.0, false).unwrap());
    make_final(&store);
    assert!(!store.shred().unwrap().has_recovery(), "the file has the secret that was erased");
    assert!(note(&store, &store.recovery().unwrap().unwrap()) && store.shred().unwrap().has_recovery());
    drop(store);
    let locked = KeyStore::open(dir.path()).unwrap();
    assert!(matches!(locked.recovery(), Err(StoreError::Locked(_))));
    assert!(matches!(locked.note_recovery(both.in_force.0, false), Err(StoreError::Locked(_))));
    assert!(locked.shred().unwrap().has_recovery());
}

/// Turns a store into one of the format before. Returns its keys.
fn make_bare(dir: &Path) {
    let store = unlocked(dir);
    let keys: Vec<Key> = store.list(None, 100).unwrap().into_iter().map(|key| key.key().unwrap()).collect();
    drop(store);
    fs::remove_file(dir.join(FILE)).unwrap();
    fs::remove_dir_all(dir.join("shred")).unwrap();
    let database = Database::create(dir.join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(crate::store::KEYS).unwrap();
        for key in &keys {
            table.insert(key.label.as_str(), record::encode_bare(key).unwrap().as_slice()).unwrap();
        }
        let mut meta = transaction.open_table(crate::store::META).unwrap();
        for (name, value) in [(FORMAT, "1"), ("dev", "no"), ("revision", "99")] {
            meta.insert(name, value).unwrap();
        }
    }
    transaction.commit().unwrap();
    drop(database);
    let _ = fs::remove_file(dir.join("keys.redb.before-format-2"));
    let Format::First(old) = OldStore::open(dir).unwrap() else { panic!("another format") };
    super::super::migrate(&old, &store_key(), None).unwrap();
}

#[test]
fn a_store_of_the_format_before_has_its_blobs_wrapped() {
    let (dir, store) = scene();
    drop(store);
    make_bare(dir.path());
    let file = dir.path().join(FILE);
    assert!(has(&fs::read(&file).unwrap(), b"AAAAAAAAAAAA"), "a blob of zeros in base64");
    // The rest of a daemon that was killed meanwhile.
    fs::write(dir.path().join("keys.redb.new"), "half a store").unwrap();
    assert!(matches!(KeyStore::open(dir.path()), Err(StoreError::OldFormat(_, BARE_FORMAT))));
    assert_eq!(look(dir.path()), Look::Old(BARE_FORMAT));
    permit::give(&file).unwrap();
    assert_eq!(look(dir.path()), Look::Used(None));
    assert!(KeyStore::needed_secrets(dir.path()).unwrap().is_empty());
    let store = KeyStore::open(dir.path()).unwrap();
    assert_eq!(store.store.metadata(FORMAT).unwrap().as_deref(), Some(BARE_FORMAT));
    store.unlock(&store_key(), None).unwrap();
    assert_whole(&store);
    assert!(!dir.path().join("keys.redb.new").exists() && !permit::is_given(&file));
    assert_eq!(store.put(with_blob("new", 9)).unwrap().revision, 100);
    drop(store);
    let bytes = fs::read(&file).unwrap();
    assert!(!has(&bytes, b"AAAAAAAAAAAA"), "no free part of the file has the blob");
    let store = unlocked(dir.path());
    assert_whole(&store);
    assert_eq!(store.check().unwrap().total(), 0);
    assert_eq!(store.shred().unwrap().in_force.unwrap().number, 1);
    assert_eq!(store.is_dev().unwrap(), Some(false));
}

/// A permit is for one file: another one that takes its name is refused.
#[test]
fn a_permit_is_for_one_file() {
    let (dir, store) = scene();
    drop(store);
    make_bare(dir.path());
    let file = dir.path().join(FILE);
    permit::give(&file).unwrap();
    assert!(permit::is_given(&file));
    let copy = dir.path().join("copy");
    fs::copy(&file, &copy).unwrap();
    fs::rename(&copy, &file).unwrap();
    assert!(!permit::is_given(&file));
    assert!(matches!(KeyStore::open(dir.path()), Err(StoreError::OldFormat(_, BARE_FORMAT))));
}

/// Somebody puts another file in the place of the store, before the store is unlocked.
#[test]
fn an_upgrade_replaces_no_other_file() {
    let (dir, store) = scene();
    drop(store);
    make_bare(dir.path());
    let file = dir.path().join(FILE);
    permit::give(&file).unwrap();
    let store = KeyStore::open(dir.path()).unwrap();
    fs::rename(&file, dir.path().join("away")).unwrap();
    fs::write(&file, "restored").unwrap();
    assert!(matches!(store.unlock(&store_key(), None), Err(StoreError::Gone(_))));
    assert_eq!(fs::read(&file).unwrap(), b"restored");
}

#[test]
fn an_upgrade_that_fails_leaves_the_store_as_it_was() {
    let (dir, store) = scene();
    drop(store);
    make_bare(dir.path());
    let shred = dir.path().join("shred");
    fs::write(&shred, "no directory").unwrap();
    permit::give(&dir.path().join(FILE)).unwrap();
    let store = KeyStore::open(dir.path()).unwrap();
    assert!(matches!(store.unlock(&store_key(), None), Err(StoreError::Secret(..))));
    assert_eq!(store.store.metadata(FORMAT).unwrap().as_deref(), Some(BARE_FORMAT));
    assert!(store.is_locked() && !dir.path().join("keys.redb.new").exists());
    drop(store);
    fs::remove_file(&shred).unwrap();
    // A directory in the place of the new file.
    fs::create_dir(dir.path().join("keys.redb.new")).unwrap();
    let store = KeyStore::open(dir.path()).unwrap();
    assert!(matches!(store.unlock(&store_key(), None), Err(StoreError::Io(..))));
    drop(store);
    fs::remove_dir(dir.path().join("keys.redb.new")).unwrap();
    assert_whole(&unlocked(dir.path()));
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn an_upgrade_trusts_no_row_that_was_not_trusted_before() {
    let (dir, store) = scene();
    drop(store);
    make_bare(dir.path());
    permit::give(&dir.path().join(FILE)).unwrap();
    let list = crate::store::index::list_of("key-0");
    assert_ne!(list, crate::store::index::list_of("key-1"));
    {
        let database = crate::store::open_existing(&dir.path().join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut tables = crate::store::Writing::open(&transaction).unwrap();
        tables.index.remove(list).unwrap();
        tables.keys.insert("key-1", &[b'x'; 60][..]).unwrap();
        tables.keys.insert("no label", &[b'x'; 60][..]).unwrap();
        drop(tables);
        transaction.commit().unwrap();
    }
    let store = unlocked(dir.path());
    assert!(matches!(store.get(&label("key-0")), Err(StoreError::Unlisted(_))));
    assert!(matches!(store.get(&label("key-1")), Err(StoreError::Altered(_))));
    // The list, both of its keys, and the record without a label.
    assert_eq!(store.check().unwrap().total(), 4);
    store.rebuild().unwrap();
    let repaired = store.get(&label("key-0")).unwrap().unwrap();
    assert_eq!((repaired.state, &repaired.versions[0].blob[..]), (State::Disabled, &[0; 40][..]));
}

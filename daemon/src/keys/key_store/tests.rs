use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicBool, Ordering};

use redb::{ReadableDatabase, ReadableTable};

use super::super::tests::{key, store_key, unlocked};
use super::super::{Deletion, Keys};
use super::*;
use crate::store::{Reading, Writing, index, open_existing};

mod long_lists;

/// Master key whose name repeats a byte.
fn named(byte: u8) -> Wkid {
    Wkid::from_bytes([byte; 16])
}

fn store() -> (tempfile::TempDir, KeyStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = unlocked(dir.path());
    (dir, store)
}

/// A store, and the store of redb below the keys.
fn over_redb() -> (tempfile::TempDir, Arc<RedbStore>, KeyStore) {
    let dir = tempfile::tempdir().unwrap();
    let redb = Arc::new(RedbStore::open(dir.path()).unwrap());
    let store = KeyStore::over(Arc::clone(&redb) as Arc<dyn Store>, Vec::new()).unwrap();
    store.unlock(&store_key(), None).unwrap();
    (dir, redb, store)
}

#[test]
fn a_key_survives_closing_and_opening() {
    let (dir, store) = store();
    store.set_dev(true).unwrap();
    store.set_wkid("embedded", named(0xab), None).unwrap();
    store.set_wkid("hsm", named(0xcd), None).unwrap();
    let stored = store.put(key("shop")).unwrap();
    drop(store);
    let store = unlocked(dir.path());
    assert_eq!(store.is_dev().unwrap(), Some(true));
    let wkid = |backend| store.wkid(backend).unwrap();
    assert_eq!((wkid("embedded"), wkid("hsm")), (Some(named(0xab)), Some(named(0xcd))));
    assert_eq!(wkid("other"), None);
    assert_eq!(store.remote_backends().unwrap(), ["hsm"]);
    store.set_next_wkid("hsm", named(0xef)).unwrap();
    assert_eq!(store.next_wkid("hsm").unwrap(), Some(named(0xef)));
    store.set_wkid("hsm", named(0xef), None).unwrap();
    assert_eq!((wkid("hsm"), store.next_wkid("hsm").unwrap()), (Some(named(0xef)), None));
    assert_eq!(store.get(&stored.label).unwrap().unwrap().revision, stored.revision);
    assert_eq!(store.count().unwrap(), 1);
}

#[test]
fn only_the_latest_revision_can_be_changed() {
    let (_dir, store) = store();
    let first = store.put(key("shop")).unwrap();
    assert!(matches!(store.put(key("shop")), Err(StoreError::Exists(_))));
    let second = store.put(Key { state: State::Disabled, ..first.clone() }).unwrap();
    assert!(second.revision > first.revision);
    assert!(matches!(store.put(first.clone()), Err(StoreError::Changed(_))));
    store.delete(&second.label).unwrap();
    assert!(matches!(store.delete(&second.label), Err(StoreError::Unknown(_))));
    store.put(key("shop")).unwrap();
    assert!(matches!(store.put(first), Err(StoreError::Changed(_))), "a revision of the deleted key");
}

#[test]
fn lists_come_in_order_and_in_pages() {
    let (_dir, store) = store();
    for label in ["b", "a", "d", "c"] {
        store.put(key(label)).unwrap();
    }
    let labels = |after, limit| -> Vec<String> {
        store.list(after, limit).unwrap().iter().map(|key| key.label().to_string()).collect()
    };
    assert_eq!(labels(None, 3), ["a", "b", "c"]);
    assert_eq!(labels(Some("c"), 3), ["d"]);
    assert!(labels(Some("d"), 3).is_empty());
}

/// Changes the file without the daemon.
fn alter(dir: &Path, f: impl FnOnce(&mut Writing<'_>)) {
    let database = open_existing(&dir.join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    f(&mut Writing::open(&transaction).unwrap());
    transaction.commit().unwrap();
}

/// The rows of a store.
struct Rows {
    keys: Vec<(String, Vec<u8>)>,
    index: Vec<(u32, Vec<u8>)>,
    facts: Vec<(String, String)>,
}

fn rows(dir: &Path) -> Rows {
    let database = open_existing(&dir.join(FILE)).unwrap();
    let tables = Reading::open(&database.begin_read().unwrap()).unwrap();
    let keys = tables.keys.iter().unwrap().map(Result::unwrap);
    let index = tables.index.iter().unwrap().map(Result::unwrap);
    Rows {
        keys: keys.map(|(label, row)| (label.value().into(), row.value().to_vec())).collect(),
        index: index.map(|(number, row)| (number.value(), row.value().to_vec())).collect(),
        facts: tables.metadata().unwrap().into_iter().collect(),
    }
}

/// Keys in different lists of the index. One of them was disabled after the rows were copied.
fn scene() -> (tempfile::TempDir, Rows) {
    let (dir, store) = store();
    store.set_dev(false).unwrap();
    for label in ["shop", "other", "third"] {
        store.put(key(label)).unwrap();
    }
    drop(store);
    let before = rows(dir.path());
    let store = unlocked(dir.path());
    let shop = store.get(&"shop".parse().unwrap()).unwrap().unwrap();
    store.put(Key { state: State::Disabled, ..shop }).unwrap();
    store.put(key("fourth")).unwrap();
    (dir, before)
}

/// State of each key of [`scene`], or the alteration that was found.
fn told(dir: &Path) -> Vec<(String, &'static str)> {
    let store = unlocked(dir);
    let listed = store.list(None, 10).unwrap();
    let altered = listed.iter().filter(|listed| matches!(listed, Listed::Altered { .. })).count();
    assert_eq!(store.check().unwrap().count, altered, "the check at the start and the list differ");
    let told = |listed: &Listed| match (listed, store.get(listed.label())) {
        (Listed::Key(key), Ok(Some(found))) if key.revision == found.revision => key.state.name(),
        (Listed::Altered { reason, .. }, Err(found)) if reason.to_string() == found.to_string() => {
            match found {
                StoreError::Altered(_) => "altered",
                StoreError::Unlisted(_) => "unlisted",
                _ => "not read",
            }
        }
        _ => "the list and the key differ",
    };
    listed.iter().map(|listed| (listed.label().to_string(), told(listed))).collect()
}

fn expected(shop: &'static str) -> Vec<(String, &'static str)> {
    [("fourth", "enabled"), ("other", "enabled"), ("shop", shop), ("third", "enabled")]
        .map(|(label, state)| (label.to_owned(), state))
        .to_vec()
}

/// Each alteration is found, and affects no other key.
#[test]
fn a_record_that_was_altered_is_refused() {
    let edit = |from: &'static str, to: &'static str| {
        move |tables: &mut Writing<'_>| {
            let row = tables.keys.get("shop").unwrap().unwrap().value().to_vec();
            let (mac, record) = row.split_at(32);
            let edited = str::from_utf8(record).unwrap().replace(from, to);
            assert_ne!(edited.as_bytes(), record, "{from}");
            tables.keys.insert("shop", [mac, edited.as_bytes()].concat().as_slice()).unwrap();
        }
    };
    let copy = |from: &'static str| {
        move |tables: &mut Writing<'_>| {
            let row = tables.keys.get(from).unwrap().unwrap().value().to_vec();
            tables.keys.insert("shop", row.as_slice()).unwrap();
        }
    };
    type Alteration = Box<dyn Fn(&mut Writing<'_>)>;
    let alterations: [(&str, Alteration); 10] = [
        ("uses", Box::new(edit("tls-server", "any"))),
        ("state", Box::new(edit("disabled", "enabled"))),
        ("backend", Box::new(edit("embedded", "hsm"))),
        ("blob", Box::new(edit("\"blob\":\"", "\"blob\":\"AAAA"))),
        ("next blob", Box::new(edit("\"public_key\"", "\"next_blob\":\"AQID\",\"public_key\""))),
        ("certificates", Box::new(edit("1700000000", "1700000000,\"certificates\":[\"AQID\"]"))),
        ("created", Box::new(edit("1700000000", "1700000001"))),
        ("the record of another key", Box::new(copy("other"))),
        ("removed", Box::new(|tables| drop(tables.keys.remove("shop").unwrap()))),
        ("garbage", Box::new(|tables| drop(tables.keys.insert("shop", [7; 9].as_slice()).unwrap()))),
    ];
    for (what, alteration) in alterations {
        let (dir, _) = scene();
        assert_eq!(told(dir.path()), expected("disabled"));
        alter(dir.path(), alteration);
        assert_eq!(told(dir.path()), expected("altered"), "{what}");

        let store = unlocked(dir.path());
        let shop: Label = "shop".parse().unwrap();
        assert!(matches!(store.put(key("shop")), Err(StoreError::Altered(_))), "{what}");
        store.delete(&shop).unwrap();
        assert!(store.get(&shop).unwrap().is_none());
        store.put(key("shop")).unwrap();
        drop(store);
        assert_eq!(told(dir.path()), expected("enabled"), "{what}");
    }
}

#[test]
fn an_old_copy_of_a_record_is_refused() {
    let (dir, before) = scene();
    let put_back = |tables: &mut Writing<'_>, before: &Rows| {
        let (label, old) = before.keys.iter().find(|(label, _)| label == "shop").unwrap();
        tables.keys.insert(label.as_str(), old.as_slice()).unwrap();
    };
    alter(dir.path(), |tables| put_back(tables, &before));
    assert_eq!(told(dir.path()), expected("altered"));
    // With the list of the index of that time.
    let (dir, before) = scene();
    let list = index::list_of("shop");
    alter(dir.path(), |tables| {
        put_back(tables, &before);
        let (_, old) = before.index.iter().find(|(number, _)| *number == list).unwrap();
        tables.index.insert(list, old.as_slice()).unwrap();
    });
    assert_eq!(told(dir.path()), expected("unlisted"));
    // With the whole index of that time. The key that was made later is unlisted.
    let (dir, before) = scene();
    alter(dir.path(), |tables| {
        put_back(tables, &before);
        for (number, old) in &before.index {
            tables.index.insert(number, old.as_slice()).unwrap();
        }
        for (name, value) in &before.facts {
            tables.meta.insert(name.as_str(), value.as_str()).unwrap();
        }
    });
    let told = told(dir.path());
    assert!(told.contains(&("fourth".into(), "unlisted")), "{told:?}");
}

#[test]
fn a_record_that_was_deleted_does_not_come_back() {
    let (dir, _) = scene();
    let before = rows(dir.path());
    unlocked(dir.path()).delete(&"shop".parse().unwrap()).unwrap();
    alter(dir.path(), |tables| {
        for (label, row) in &before.keys {
            tables.keys.insert(label.as_str(), row.as_slice()).unwrap();
        }
        // Names that no key can have are not listed, and do not hide other keys.
        for number in 0..20 {
            tables.keys.insert(format!("!{number}").as_str(), [7; 50].as_slice()).unwrap();
        }
    });
    assert_eq!(told(dir.path()), expected("altered"));
    assert_eq!(unlocked(dir.path()).check().unwrap().nameless, 20);
}

#[test]
fn the_metadata_are_authenticated() {
    type Alteration = Box<dyn Fn(&mut Writing<'_>)>;
    let alterations: [(&str, Alteration); 8] = [
        ("a store of --dev", Box::new(|tables| drop(tables.meta.insert("dev", "yes").unwrap()))),
        ("nobody's", Box::new(|tables| drop(tables.meta.remove("dev").unwrap()))),
        ("another master key", Box::new(|tables| drop(tables.meta.insert("wkid", "00").unwrap()))),
        ("made earlier", Box::new(|tables| drop(tables.meta.insert("created", "1").unwrap()))),
        ("older", Box::new(|tables| drop(tables.meta.insert("revision", "1").unwrap()))),
        ("no seal", Box::new(|tables| drop(tables.meta.remove("seal").unwrap()))),
        ("no store key", Box::new(|tables| drop(tables.meta.remove("store-key-name").unwrap()))),
        ("another root", Box::new(|tables| drop(tables.index.insert(256, [0; 8192].as_slice()).unwrap()))),
    ];
    for (what, alteration) in alterations {
        let (dir, _) = scene();
        alter(dir.path(), alteration);
        let store = KeyStore::open(dir.path()).unwrap();
        let refused = store.unlock(&store_key(), None);
        assert!(matches!(refused, Err(StoreError::AlteredStore(_))), "{what}");
        assert!(matches!(store.list(None, 1), Err(StoreError::Locked(_))), "{what}");
    }
}

#[test]
fn an_altered_list_of_the_index_affects_only_its_own_keys() {
    let (dir, _) = scene();
    alter(dir.path(), |tables| drop(tables.index.remove(index::list_of("shop")).unwrap()));
    assert_eq!(told(dir.path()), expected("unlisted"));
}

/// Two edits in place, without a change of length, remove every trace of the label.
#[test]
fn a_key_does_not_vanish_with_its_list_and_its_name() {
    let (dir, _) = scene();
    alter(dir.path(), |tables| {
        let number = index::list_of("shop");
        let mut list = tables.index.get(number).unwrap().unwrap().value().to_vec();
        *list.last_mut().unwrap() ^= 1;
        tables.index.insert(number, list.as_slice()).unwrap();
        let row = tables.keys.remove("shop").unwrap().unwrap().value().to_vec();
        tables.keys.insert("s!op", row.as_slice()).unwrap();
    });
    let store = unlocked(dir.path());
    assert!(matches!(store.get(&"shop".parse().unwrap()), Err(StoreError::Unlisted(_))));
    let altered = store.check().unwrap();
    assert_eq!((altered.count, altered.lists, altered.nameless, altered.total()), (0, 1, 1, 2));
    let (told, _) = altered.problem().unwrap();
    assert!(told.starts_with("1 lists of the index") && told.contains("; 1 records in the key"), "{told}");
    drop(store);
    // A daemon that runs finds the alteration when somebody lists the keys.
    let store = unlocked(dir.path());
    assert_eq!((store.list(None, 10).unwrap().len(), store.known_altered().lists), (3, 1));
}

#[test]
fn an_altered_list_is_rebuilt_and_its_keys_are_disabled() {
    let (dir, before) = scene();
    let shop: Label = "shop".parse().unwrap();
    alter(dir.path(), |tables| {
        // The key is enabled in this copy, and was disabled since.
        let (_, old) = before.keys.iter().find(|(label, _)| label == "shop").unwrap();
        tables.keys.insert("shop", old.as_slice()).unwrap();
        tables.keys.insert("other", [7; 50].as_slice()).unwrap();
        tables.keys.insert("!other", [7; 50].as_slice()).unwrap();
        for label in ["shop", "other"] {
            tables.index.remove(index::list_of(label)).unwrap();
        }
    });
    let store = unlocked(dir.path());
    for refused in [store.put(key("shop")).map(drop), store.delete(&shop)] {
        let told = refused.unwrap_err().to_string();
        assert!(told.ends_with(": keyward key repair"), "{told}");
    }
    let (_, advice) = store.check().unwrap().problem().unwrap();
    assert!(advice.ends_with(": keyward key repair"), "{advice}");
    let rebuilt = store.rebuild().unwrap();
    let labels = |labels: &[Label]| labels.iter().map(Label::to_string).collect::<Vec<_>>();
    assert_eq!(
        (labels(&rebuilt.kept), labels(&rebuilt.removed)),
        (vec!["shop".into()], vec!["other".into()])
    );
    assert_eq!((rebuilt.lists.len(), rebuilt.nameless), (2, 1));
    assert_eq!(store.known_altered().total(), 0);
    let found = store.get(&shop).unwrap().unwrap();
    assert!(found.state == State::Disabled && found.revision > 5, "{}", found.revision);
    store.put(key("other")).unwrap();
    store.delete(&shop).unwrap();
    drop(store);
    assert_eq!(told(dir.path()).len(), 3);
    assert!(unlocked(dir.path()).rebuild().unwrap().lists.is_empty());
}

#[tokio::test]
async fn a_key_in_memory_is_disabled_with_its_list() {
    let (_dir, redb, store) = over_redb();
    let keys = Keys::new(store, NonZeroUsize::MIN);
    let shop = keys.put(key("shop")).await.unwrap().label.clone();
    assert!(keys.get(&shop).await.unwrap().unwrap().state == State::Enabled);
    redb.alter(|tables| drop(tables.index.remove(index::list_of("shop")).unwrap()));
    assert!(keys.cached("shop").is_some());
    assert_eq!(keys.repair().await.unwrap().disabled, std::slice::from_ref(&shop));
    assert!(keys.get(&shop).await.unwrap().unwrap().state == State::Disabled);
}

/// A record may be an old one: a deletion in it may have been undone, and no record undoes a
/// compromise.
#[test]
fn a_rebuilt_list_has_compromised_keys_and_no_deletions() {
    let (_dir, redb, store) = over_redb();
    let deletion = Some(Deletion { by: 7, at: 3, destroy_at: 4 });
    let life = Life { not_after: Some(9), deletion, dual: true, ..Life::default() };
    store.put(Key { state: State::Compromised, life: life.clone(), ..key("shop") }).unwrap();
    redb.alter(|tables| drop(tables.index.remove(index::list_of("shop")).unwrap()));
    store.rebuild().unwrap();
    let found = store.get(&"shop".parse().unwrap()).unwrap().unwrap();
    assert_eq!((found.state, found.life), (State::Compromised, Life { deletion: None, ..life }));
}

#[test]
fn only_its_own_key_unlocks_a_store() {
    let (dir, store) = store();
    store.put(key("shop")).unwrap();
    drop(store);
    let store = KeyStore::open(dir.path()).unwrap();
    assert!(matches!(store.get(&"shop".parse().unwrap()), Err(StoreError::Locked(_))));
    let other = store.unlock(&StoreKey::from_bytes(&[8; 32]).unwrap(), None);
    assert!(matches!(other, Err(StoreError::OtherStoreKey(_))));
}

#[test]
fn many_keys_are_listed_completely() {
    let (_dir, store) = store();
    let labels: Vec<_> = (0..700).map(|number| format!("key-{number:03}")).collect();
    for label in &labels {
        store.put(key(label)).unwrap();
    }
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let page = store.list(after.as_deref(), 64).unwrap();
        seen.extend(page.into_iter().map(|listed| listed.key().unwrap().label.to_string()));
        if after.as_ref() == seen.last() {
            break;
        }
        after = seen.last().cloned();
    }
    assert_eq!(seen, labels);
}

/// The daemon that runs has not looked at all records since then.
#[test]
fn a_record_that_is_removed_meanwhile_is_missed_in_the_list() {
    let (_dir, redb, store) = over_redb();
    for label in ["a", "b", "c"] {
        store.put(key(label)).unwrap();
    }
    redb.alter(|tables| drop(tables.keys.remove("b").unwrap()));
    assert_eq!(store.list(Some("c"), 10).unwrap().len(), 0);
    let listed = store.list(None, 1).unwrap();
    assert_eq!(listed[0].label().as_str(), "a");
    let listed = store.list(Some("a"), 10).unwrap();
    assert!(matches!(&listed[0], Listed::Altered { label, .. } if label.as_str() == "b"), "{}", listed.len());
    // With another record in its place, the altered one leads to the missing one.
    redb.alter(|tables| drop(tables.keys.insert("d", [7; 50].as_slice()).unwrap()));
    let altered = |store: &KeyStore| {
        let listed = store.list(None, 10).unwrap();
        let altered = listed.iter().filter(|one| matches!(one, Listed::Altered { .. }));
        altered.map(|one| one.label().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(altered(&store), ["b", "d"]);
}

/// A page in the middle looks complete. The last one leads to the record that it lacks.
#[test]
fn a_record_that_is_missing_in_an_earlier_page_is_found_with_the_last_page() {
    let (_dir, redb, store) = over_redb();
    for label in ["a", "b", "c"] {
        store.put(key(label)).unwrap();
    }
    redb.alter(|tables| {
        tables.keys.remove("b").unwrap();
        tables.keys.insert("~", [7; 50].as_slice()).unwrap();
    });
    assert_eq!(store.list(Some("a"), 1).unwrap()[0].label().as_str(), "c");
    assert_eq!(store.known_altered().total(), 0);
    assert!(store.list(Some("c"), 1).unwrap().is_empty());
    let known = store.known_altered();
    assert_eq!((known.first, known.nameless), (vec!["b".to_owned()], 1));
    assert!(
        matches!(&store.list(Some("a"), 1).unwrap()[0], Listed::Altered { label, .. } if label.as_str() == "b")
    );
}

#[test]
fn an_altered_list_without_records_is_found() {
    let (_dir, redb, store) = over_redb();
    store.put(key("shop")).unwrap();
    assert_eq!(store.check().unwrap().total(), 0);
    let other = index::list_of("shop") ^ 1;
    redb.alter(|tables| drop(tables.index.insert(other, [7; 9].as_slice()).unwrap()));
    assert_eq!(store.check().unwrap().lists, 1);
}

#[test]
fn one_daemon_at_a_time() {
    let (dir, _store) = store();
    assert!(matches!(KeyStore::open(dir.path()), Err(StoreError::InUse(_))));
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), [7; 5000]).unwrap();
    assert!(matches!(KeyStore::open(dir.path()), Err(StoreError::Damaged(_))));
}

#[test]
fn an_unusable_database_is_opened_again() {
    let (_dir, redb, store) = over_redb();
    store.put(key("shop")).unwrap();
    redb.close();
    assert_eq!(store.list(None, 10).unwrap().len(), 1);
    store.put(key("other")).unwrap();
}

/// A key that was disabled or deleted in memory only stays disabled or deleted, even for a task
/// that has read the key before.
#[test]
fn an_unwritten_deletion_or_disabling_is_not_undone() {
    let (dir, store) = store();
    let [path, away] = ["keys.redb", "away"].map(|name| dir.path().join(name));
    let shop = store.put(key("shop")).unwrap();
    let old = store.put(key("old")).unwrap();
    std::fs::rename(&path, &away).unwrap();
    let disabled = Key { state: State::Disabled, ..shop.clone() };
    assert!(matches!(store.put(disabled), Err(StoreError::NotDurable { .. })));
    assert!(matches!(store.delete(&old.label), Err(StoreError::NotDurable { .. })));
    std::fs::rename(&away, &path).unwrap();

    assert!(matches!(store.put(shop.clone()), Err(StoreError::Changed(_))));
    assert!(matches!(store.put(old.clone()), Err(StoreError::Unknown(_))));
    assert!(store.get(&old.label).unwrap().is_none());
    assert_eq!(store.pending().len(), 2);
    let read = store.get(&shop.label).unwrap().unwrap();
    assert_eq!(read.state, State::Disabled);
    // A task that has seen the change may write, and a new key may have the name.
    let stored = store.put(read).unwrap();
    assert_eq!(
        (stored.state, stored.revision > shop.revision, stored.revision >> 63),
        (State::Disabled, true, 0)
    );
    store.put(key("old")).unwrap();
    assert!(store.pending().is_empty() && store.write_pending().is_empty());
    assert!(store.put(Key { state: State::Enabled, ..stored }).is_ok());
}

/// A reader that has read the old record finds the change in memory, even if the change is written
/// meanwhile.
#[test]
fn a_reader_never_sees_a_stopped_key_enabled() {
    let (_dir, store) = store();
    let shop = store.put(key("shop")).unwrap().label;
    for round in 0..50 {
        let before = store.get(&shop).unwrap().unwrap();
        store.put(Key { state: State::Enabled, ..before }).unwrap();
        let stopped = Unwritten::Stopped(State::Disabled, Life::default());
        store.unwritten.lock().unwrap().insert(shop.clone(), stopped);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(store.get(&shop).unwrap().unwrap().state, State::Disabled);
                }
            });
            assert_eq!(store.write_pending().len(), 1, "round {round}");
            is_over.store(true, Ordering::Relaxed);
        });
    }
}

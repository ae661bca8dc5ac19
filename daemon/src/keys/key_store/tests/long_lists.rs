//! Lists of the index that are so long that they are split.

use super::*;

/// Labels that all belong to the list of `shop`.
fn of_one_list(count: usize) -> Vec<Label> {
    let list = index::list_of("shop");
    let labels = (0..).map(|number| format!("key-{number}")).filter(|label| index::list_of(label) == list);
    labels.take(count).map(|label| label.parse().unwrap()).collect()
}

/// A list so long that it is split. Keys were made and deleted one by one since.
fn long_list() -> (tempfile::TempDir, Vec<Label>) {
    let (dir, store) = store();
    let labels = of_one_list(index::LONGEST + 20);
    let (first, last) = labels.split_at(index::LONGEST - 1);
    let made = store.put_new(&first.iter().map(|label| key(label.as_str())).collect::<Vec<_>>());
    assert!(made.into_iter().all(|made| made.is_ok()));
    drop(store);
    assert!(rows(dir.path()).index.len() < 4, "the list, the root, and nothing else");
    let store = unlocked(dir.path());
    last.iter().for_each(|label| drop(store.put(key(label.as_str())).unwrap()));
    store.put(key("shop")).unwrap();
    for label in &labels[..10] {
        store.delete(label).unwrap();
    }
    (dir, labels[10..].to_vec())
}

#[test]
fn a_long_list_is_split_and_keeps_every_key() {
    let (dir, mut labels) = long_list();
    let list = index::list_of("shop");
    let found = rows(dir.path());
    let parts = (0..index::PARTS).map(|part| index::row_of(list, part));
    assert!(parts.into_iter().all(|part| found.index.iter().any(|(number, _)| *number == part)));
    let store = unlocked(dir.path());
    assert_eq!(store.check().unwrap().total(), 0);
    labels.push("shop".parse().unwrap());
    labels.sort();
    let listed: Vec<_> = store.list(None, 1000).unwrap().into_iter().map(|one| one.key().unwrap()).collect();
    assert!(listed.iter().map(|key| &key.label).eq(&labels));
    for key in listed {
        assert_eq!(store.get(&key.label).unwrap().unwrap().revision, key.revision);
    }
    assert!(matches!(store.put(key(labels[0].as_str())), Err(StoreError::Exists(_))));
    assert!(store.get(&of_one_list(1)[0]).unwrap().is_none());
}

/// The whole list is rebuilt, since a key of the altered part may have left no other trace.
#[test]
fn an_altered_part_of_a_list_affects_only_its_own_keys() {
    let (dir, labels) = long_list();
    let part = index::row_of(index::list_of("shop"), index::part_of("shop"));
    let before = rows(dir.path());
    let shop = |store: &KeyStore| store.get(&"shop".parse().unwrap());
    let store = unlocked(dir.path());
    let enabled = shop(&store).unwrap().unwrap();
    store.put(Key { state: State::Disabled, ..enabled }).unwrap();
    drop(store);
    // The record and the part of that time.
    alter(dir.path(), |tables| {
        let (_, old) = before.keys.iter().find(|(label, _)| label == "shop").unwrap();
        tables.keys.insert("shop", old.as_slice()).unwrap();
        let (_, old) = before.index.iter().find(|(number, _)| *number == part).unwrap();
        tables.index.insert(part, old.as_slice()).unwrap();
    });
    let store = unlocked(dir.path());
    assert!(matches!(shop(&store), Err(StoreError::Unlisted(_))));
    let is_near = |label: &&Label| index::part_of(label.as_str()) == index::part_of("shop");
    for label in &labels {
        assert_eq!(store.get(label).is_ok(), !is_near(&label), "{label}");
    }
    let altered = store.check().unwrap();
    assert_eq!((altered.lists, altered.count), (1, labels.iter().filter(is_near).count() + 1));
    let listed = store.list(None, 1000).unwrap();
    let refused = listed.iter().filter(|listed| matches!(listed, Listed::Altered { .. })).count();
    assert_eq!((listed.len(), refused), (labels.len() + 1, altered.count));
    let rebuilt = store.rebuild().unwrap();
    assert_eq!((rebuilt.kept.len(), rebuilt.removed.len()), (labels.len() + 1, 0));
    assert!(shop(&store).unwrap().unwrap().state == State::Disabled);
    assert_eq!(store.check().unwrap().total(), 0);
}

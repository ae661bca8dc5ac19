//! The contract of [`Store`]: one test body for every implementation.

use super::*;

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

/// The smallest record that the store accepts.
fn record(revision: u64, _: &str) -> Option<Vec<u8>> {
    Some(format!(r#"{{"revision":{revision}}}"#).into_bytes())
}

fn put(store: &dyn Store, text: &str, expected: u64, record: &Encode<'_>) -> Result<u64, StoreError> {
    store.put(&Put { label: &label(text), expected, record })
}

fn keeps_the_contract(store: &dyn Store) {
    assert!(store.is_new().unwrap() && store.is_locked());
    assert!(matches!(store.get(&label("a")), Err(StoreError::Locked(_))));
    assert!(matches!(put(store, "a", 0, &record), Err(StoreError::Locked(_))));
    let upgrade = Upgrade { secret: &|| panic!("not needed"), rewrite: &|_, _, _| None };
    store.unlock(&StoreKey::from_bytes(&[7; 32]).unwrap(), Some(b"wrapped"), &upgrade).unwrap();
    assert!(!store.is_new().unwrap() && !store.is_locked());
    assert_eq!(store.rejection_secret().unwrap().len(), 32);

    // Put if the revision is the expected one. No revision comes twice.
    assert!(matches!(put(store, "a", 1, &record), Err(StoreError::Changed(_))));
    let first = put(store, "a", 0, &record).unwrap();
    assert!(matches!(put(store, "a", 0, &record), Err(StoreError::Exists(_))));
    let second = put(store, "a", first, &record).unwrap();
    assert!(second > first && store.get(&label("a")).unwrap() == record(second, ""));
    store.delete(&label("a")).unwrap();
    assert!(matches!(store.delete(&label("a")), Err(StoreError::Unknown(_))));
    assert!(store.get(&label("a")).unwrap().is_none());
    assert!(put(store, "a", 0, &record).unwrap() > second);
    assert!(matches!(put(store, "x", 0, &|_, _| None), Err(StoreError::Damaged(_))));
    assert!(store.get(&label("x")).unwrap().is_none(), "a refusal changes nothing");

    // Lists come in order and in pages.
    for text in ["c", "b"] {
        put(store, text, 0, &record).unwrap();
    }
    let labels = |after, limit| -> Vec<String> {
        let page = store.list(after, limit, false).unwrap();
        assert!(page.altered_lists.is_empty() && page.entries.iter().all(|entry| entry.record.is_ok()));
        page.entries.iter().map(|entry| entry.label.to_string()).collect()
    };
    assert_eq!((labels(None, 2), labels(Some("b"), 2)), (vec!["a".into(), "b".into()], vec!["c".into()]));
    assert_eq!(store.count().unwrap(), 3);

    // Metadata are set together.
    store.set_metadata(&[(metadata::WKID, Some("ab")), (metadata::DEV, Some("no"))]).unwrap();
    store.set_metadata(&[(metadata::WKID, None), (metadata::DEV, Some("yes"))]).unwrap();
    assert_eq!(store.metadata(metadata::WKID).unwrap(), None);
    assert_eq!(store.metadata(metadata::DEV).unwrap().as_deref(), Some("yes"));
    assert!(store.metadata(metadata::STORE_KEY).unwrap().is_some());
    let names = store.metadata_names().unwrap();
    assert!(names.iter().any(|name| name == metadata::DEV) && !names.contains(&metadata::WKID.into()));

    // Records are rewritten without a change of their revisions, under the secret of the store.
    store.set_metadata(&[(metadata::SECRET, Some("7 ff"))]).unwrap();
    let rewrite = |label: &Label, record: &[u8], secret: &str| {
        let text = str::from_utf8(record).unwrap();
        let is_new = label.as_str() == "b" && !text.contains(secret);
        is_new.then(|| text.replace('}', &format!(r#","secret":"{secret}"}}"#)).into_bytes())
    };
    let before = store.get(&label("b")).unwrap().unwrap();
    let lists = || (0..LISTS).map(|list| store.rewrite(list, &rewrite).unwrap().unwrap()).sum::<u64>();
    assert_eq!((lists(), lists()), (3, 3));
    let after = store.get(&label("b")).unwrap().unwrap();
    assert_eq!(revision_of(&after), revision_of(&before));
    assert!(String::from_utf8(after).unwrap().ends_with(r#""secret":"7 ff"}"#));
    assert!(store.metadata(metadata::DESTROYED).unwrap().is_some(), "a record was deleted");

    // Nothing was altered, so nothing is rebuilt.
    assert_eq!(Altered::from(&store.check().unwrap()).total(), 0);
    let rebuilt = store.rebuild(&|_, _, _, _| None).unwrap();
    assert!(rebuilt.lists.is_empty() && rebuilt.removed.is_empty() && rebuilt.nameless == 0);
    assert_eq!((store.count().unwrap(), store.problem()), (3, None));
}

#[test]
fn one_file_of_redb_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    keeps_the_contract(&RedbStore::open(dir.path()).unwrap());
}

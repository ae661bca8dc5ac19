use std::path::Path;

use keyward_proto::{Fingerprint, KeyType, Use};

use super::*;
use crate::store::Put;

pub(crate) fn key(label: &str) -> Key {
    let version = Version {
        number: 1,
        key_type: KeyType::P256,
        blob: vec![1, 2, 3],
        next_blob: None,
        spki: vec![4, 5],
        fingerprint: Fingerprint::of(&[4, 5]),
        created: 1_700_000_000,
        certificates: Vec::new(),
    };
    Key {
        label: label.parse().unwrap(),
        state: State::Enabled,
        life: Life::default(),
        uses: vec![Use::TlsServer],
        backend: "embedded".into(),
        current: 1,
        versions: vec![version],
        revision: 0,
        unverified: false,
    }
}

/// Store of a directory, with a store key that is always the same.
pub(crate) fn unlocked(state_dir: &Path) -> KeyStore {
    let store = KeyStore::open(state_dir).unwrap();
    store.unlock(&store_key(), None).unwrap();
    store
}

/// Stores a record that is authentic, and not a key.
pub(crate) fn put_unreadable(store: &KeyStore, label: &Label) {
    let record = |revision, _: &str| Some(format!(r#"{{"revision":{revision}}}"#).into_bytes());
    store.store.put(&Put { label, expected: 0, record: &record }).unwrap();
}

pub(crate) fn store_key() -> StoreKey {
    StoreKey::from_bytes(&[7; 32]).unwrap()
}

fn keys(dir: &tempfile::TempDir, cached: usize) -> Keys {
    Keys::new(unlocked(dir.path()), NonZeroUsize::new(cached).unwrap())
}

#[tokio::test]
async fn a_change_is_visible_after_it_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(&dir, 2);
    let label = "shop".parse().unwrap();
    assert!(keys.get(&label).await.unwrap().is_none());
    let stored = keys.put(key("shop")).await.unwrap();
    assert_eq!(keys.get(&label).await.unwrap().unwrap().revision, stored.revision);
    assert!(keys.cached("shop").is_some());

    keys.put(Key { state: State::Disabled, ..(*stored).clone() }).await.unwrap();
    assert_eq!(keys.get(&label).await.unwrap().unwrap().state, State::Disabled);
    keys.delete(&label).await.unwrap();
    assert!(keys.get(&label).await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_is_complete_even_if_its_task_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(&dir, 2);
    let label = "shop".parse().unwrap();
    let stored = keys.put(key("shop")).await.unwrap();
    keys.get(&label).await.unwrap();
    let change = keys.put(Key { state: State::Disabled, ..(*stored).clone() });
    tokio::select! {
        biased;
        // The change begins, and its task is dropped before the end.
        done = change => panic!("done at once: {}", done.is_ok()),
        () = core::future::ready(()) => {}
    }
    let seen = async {
        while keys.get(&label).await.unwrap().unwrap().state != State::Disabled {
            tokio::task::yield_now().await;
        }
    };
    let limit = core::time::Duration::from_secs(10);
    tokio::time::timeout(limit, seen).await.expect("the key in memory is the one on the disk");
}

#[tokio::test]
async fn a_change_that_another_change_overtook_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Arc::new(keys(&dir, 2));
    let label: Label = "shop".parse().unwrap();
    let add = async |number: usize| {
        let add = |key: &mut Key| {
            key.versions[0].certificates.push(vec![u8::try_from(number).unwrap()]);
            Ok::<_, StoreError>(())
        };
        keys.update(&label, add).await
    };
    assert!(matches!(add(0).await, Err(StoreError::Unknown(_))));
    keys.put(key("shop")).await.unwrap();
    let (first, second, third) = tokio::join!(add(1), add(2), add(3));
    assert!([first, second, third].iter().all(Result::is_ok));
    let mut stored = keys.get(&label).await.unwrap().unwrap().versions[0].certificates.clone();
    stored.sort();
    assert_eq!(stored, [[1], [2], [3]]);

    let refused = keys.update(&label, |key| {
        key.state = State::Disabled;
        Err::<(), _>(StoreError::Locked("/".into()))
    });
    assert!(matches!(refused.await, Err(StoreError::Locked(_))));
    assert_eq!(keys.get(&label).await.unwrap().unwrap().state, State::Enabled);
}

#[tokio::test]
async fn memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let keys = keys(&dir, 2);
    for label in ["a", "b", "c"] {
        keys.put(key(label)).await.unwrap();
        keys.get(&label.parse().unwrap()).await.unwrap();
    }
    assert!(keys.cached("a").is_none());
    assert!(keys.cached("c").is_some());
    assert!(keys.get(&"a".parse().unwrap()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_key_never_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Arc::new(keys(&dir, 2));
    let label: Label = "shop".parse().unwrap();
    let mut latest = (*keys.put(key("shop")).await.unwrap()).clone();
    let reader = tokio::spawn({
        let (keys, label) = (Arc::clone(&keys), label.clone());
        async move {
            loop {
                let _ = keys.get(&label).await;
                tokio::task::yield_now().await;
            }
        }
    });
    for round in 0..50 {
        let state = if round % 2 == 0 { State::Disabled } else { State::Enabled };
        latest = (*keys.put(Key { state, ..latest }).await.unwrap()).clone();
        assert_eq!(keys.get(&label).await.unwrap().unwrap().state, state, "round {round}");
    }
    reader.abort();
}

//! New keys that are made at the same time: they are stored together, and wait for the disk once.

use core::cell::Cell;
use core::mem;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::{Key, Keys, StoreError, forget, lock, retire_unused};

/// A new key, and the sender to the task that waits for the key to be stored.
type New = (Key, oneshot::Sender<Result<Arc<Key>, StoreError>>);

/// New keys that wait to be stored.
#[derive(Default)]
pub(super) struct NewKeys {
    waiting: Vec<New>,
    /// True while a thread stores keys, or is about to begin.
    are_stored: bool,
}

/// The turn of a thread to store new keys.
struct Turn {
    new: Arc<Mutex<NewKeys>>,
    is_over: Cell<bool>,
}

impl Turn {
    /// The next keys to store together. `None` ends the turn: the next key begins another one.
    fn next(&self) -> Option<Vec<New>> {
        let mut new = lock(&self.new);
        let count = new.waiting.len().min(MOST_TOGETHER);
        new.are_stored = count > 0;
        self.is_over.set(count == 0);
        (count > 0).then(|| new.waiting.drain(..count).collect())
    }
}

impl Drop for Turn {
    /// Gives up the keys that wait, if the thread has panicked, or could not begin.
    fn drop(&mut self) {
        if !self.is_over.get() {
            *lock(&self.new) = NewKeys::default();
        }
    }
}

impl Keys {
    /// Stores a new key together with the others that wait for their turn by then: keys that are
    /// made at the same time wait for the disk once.
    pub(super) async fn add(&self, key: Key) -> Result<Arc<Key>, StoreError> {
        let (sender, stored) = oneshot::channel();
        let is_first = {
            let mut new = lock(&self.new);
            new.waiting.push((key, sender));
            !mem::replace(&mut new.are_stored, true)
        };
        if is_first {
            self.store_new();
        }
        stored.await.unwrap_or_else(|_| Err(self.lost()))
    }

    /// Stores the new keys that wait, and the ones that come meanwhile, on another thread.
    fn store_new(&self) {
        let turn = Turn { new: Arc::clone(&self.new), is_over: Cell::new(false) };
        let store = Arc::clone(&self.store);
        let (cache, changes) = (Arc::clone(&self.cache), Arc::clone(&self.changes));
        let (unit, changing) = (self.unit.clone(), Arc::clone(&self.changing));
        drop(tokio::task::spawn_blocking(move || {
            loop {
                // Other changes have their turn between.
                let _changing = changing.blocking_lock();
                let Some(some) = turn.next() else { return };
                let (keys, senders): (Vec<_>, Vec<_>) = some.into_iter().unzip();
                for ((result, key), sender) in store.put_new(&keys).into_iter().zip(keys).zip(senders) {
                    let in_memory = forget(&cache, &changes, key.label.clone());
                    if let Some(unit) = &unit {
                        let now = match &result {
                            Ok(stored) => Ok(Some(stored.clone())),
                            Err(_) => store.get(&key.label),
                        };
                        retire_unused(unit, &in_memory.as_deref().into_iter().collect::<Vec<_>>(), now);
                    }
                    // The task may have ended.
                    let _ = sender.send(result.map(Arc::new));
                }
            }
        }));
    }
}

/// New keys that are stored together, at most.
const MOST_TOGETHER: usize = 256;

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;
    use std::sync::mpsc::channel;

    use super::super::tests::{key, unlocked};
    use super::*;

    /// Keys that are made at the same time become durable together; the label that is taken is
    /// refused alone.
    #[tokio::test]
    async fn new_keys_are_stored_together() {
        let dir = tempfile::tempdir().unwrap();
        let store = unlocked(dir.path());
        let keys = Arc::new(Keys::new(store, NonZeroUsize::MIN));
        keys.put(key("key-7")).await.unwrap();
        let (changing, (go_on, wait), (held, is_held)) = (Arc::clone(&keys.changing), channel(), channel());
        let holder = std::thread::spawn(move || {
            let _held = changing.blocking_lock();
            held.send(()).unwrap();
            wait.recv()
        });
        is_held.recv().unwrap();
        let added: Vec<_> = (0..40)
            .map(|number| {
                let keys = Arc::clone(&keys);
                tokio::spawn(async move { keys.put(key(&format!("key-{}", number % 39))).await })
            })
            .collect();
        while lock(&keys.new).waiting.len() < 40 {
            tokio::task::yield_now().await;
        }
        go_on.send(()).unwrap();
        holder.join().unwrap().unwrap();
        let mut refused = Vec::new();
        for (number, added) in added.into_iter().enumerate() {
            match added.await.unwrap() {
                Ok(stored) => assert_eq!(stored.label.as_str(), format!("key-{number}")),
                Err(StoreError::Exists(label)) => refused.push(label.to_string()),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(refused, ["key-7", "key-0"]);
        assert_eq!(keys.count().await.unwrap(), 39);
        drop(keys);
        let store = unlocked(dir.path());
        let mut revisions: Vec<_> =
            store.list(None, 100).unwrap().into_iter().map(|one| one.key().unwrap().revision).collect();
        revisions.sort_unstable();
        revisions.dedup();
        assert_eq!(revisions.len(), 39, "no revision comes twice");
    }
}

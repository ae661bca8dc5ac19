//! Requests that wait for a unit, and whose turn it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward_unit::Wkid;

/// Requests in lines: one for each choice of master keys, so that those which no free unit can serve are no others' turn.
/// The room is for all of them together.
pub(super) struct Queue {
    lines: Mutex<Lines>,
    most: usize,
}

#[derive(Default)]
struct Lines {
    /// How many wait in all of them.
    waiting: usize,
    by_wkids: HashMap<Box<[Wkid]>, Line>,
}

#[derive(Default)]
struct Line {
    length: usize,
    /// Held by the first; the others wait for it in the order in which they came.
    first: Arc<tokio::sync::Mutex<()>>,
}

impl Queue {
    /// A queue with room for so many requests.
    pub(super) fn new(most: usize) -> Self {
        Self { lines: Mutex::default(), most }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.lines().waiting
    }

    /// Whether someone waits for a unit with one of these master keys.
    pub(super) fn has_line(&self, wkids: &[Wkid]) -> bool {
        let lines = self.lines();
        lines.waiting > 0 && lines.by_wkids.contains_key(wkids)
    }

    /// A place at the end of a line; `None` if there is no room.
    pub(super) fn join<'a>(&'a self, wkids: &'a [Wkid]) -> Option<Place<'a>> {
        let mut lines = self.lines();
        if lines.waiting >= self.most {
            return None;
        }
        lines.waiting += 1;
        let line = lines.by_wkids.entry(wkids.into()).or_default();
        line.length += 1;
        Some(Place { queue: self, wkids, first: Arc::clone(&line.first) })
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a line, which is left when this is dropped.
pub(super) struct Place<'a> {
    queue: &'a Queue,
    wkids: &'a [Wkid],
    /// Locked by whoever is first.
    pub(super) first: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut lines = self.queue.lines();
        lines.waiting = lines.waiting.saturating_sub(1);
        if let Some(line) = lines.by_wkids.get_mut(self.wkids) {
            line.length = line.length.saturating_sub(1);
            if line.length == 0 {
                lines.by_wkids.remove(self.wkids);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wkid(byte: u8) -> Wkid {
        format!("{byte:02x}").repeat(16).parse().unwrap()
    }

    #[test]
    fn lines_come_and_go_and_the_room_is_for_all_of_them() {
        let (one, other) = ([wkid(1)], [wkid(1), wkid(2)]);
        let queue = Queue::new(3);
        let first = queue.join(&one).unwrap();
        let second = queue.join(&one).unwrap();
        let third = queue.join(&other).unwrap();
        assert!(queue.join(&other).is_none() && queue.waiting() == 3);
        assert!(Arc::ptr_eq(&first.first, &second.first) && !Arc::ptr_eq(&first.first, &third.first));
        drop(first);
        assert!(queue.has_line(&one) && queue.has_line(&other));
        drop(second);
        assert!(!queue.has_line(&one) && queue.has_line(&other));
        drop(third);
        assert!(queue.waiting() == 0 && queue.lines().by_wkids.is_empty());
    }
}

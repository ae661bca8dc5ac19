//! The change feed, for peers that watch keys.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::{Label, message};
use tokio::sync::watch;

/// The last changes of keys and grants, each with a revision. Shared by reference between tasks.
pub(crate) struct Changes {
    log: Mutex<Log>,
    /// The last revision, for tasks that wait for a change.
    revision: watch::Sender<u64>,
}

struct Log {
    /// Ascending by revision, without gaps.
    changes: VecDeque<Change>,
    /// Revision of the last change that was removed from `changes`.
    forgotten: u64,
}

/// The key that was changed; `None` if any key may have changed.
type Change = Option<Label>;

impl Changes {
    /// An empty feed for a daemon that starts now. Revisions begin with the time in nanoseconds
    /// since 1970, so they are higher than the revisions of every daemon before, unless the clock
    /// was set back. A peer with a revision of an earlier daemon learns that everything may have
    /// changed.
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // 64 bits last for 500 years.
        Self::from(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2).max(1))
    }

    fn from(forgotten: u64) -> Self {
        let log = Log { changes: VecDeque::new(), forgotten };
        Self { log: Mutex::new(log), revision: watch::Sender::new(forgotten) }
    }

    /// Records that a key was made, changed or deleted.
    pub(crate) fn of_key(&self, label: Label) {
        self.note(Some(label));
    }

    /// Records that peers may be allowed to see other keys than before.
    pub(crate) fn of_grants(&self) {
        self.note(None);
    }

    fn note(&self, change: Change) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.changes.push_back(change);
        if log.changes.len() > REMEMBERED {
            log.changes.pop_front();
            log.forgotten += 1;
        }
        self.revision.send_replace(log.revision());
    }

    /// Keys that were changed after a revision, except for keys that `may_know` excludes.
    pub(crate) fn since(&self, after: u64, may_know: impl Fn(&Label) -> bool) -> message::Changes {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = log.revision();
        let new = (log.forgotten..=revision).contains(&after).then(|| {
            // The difference fits: no more than `REMEMBERED` changes are in the log.
            let seen = usize::try_from(after - log.forgotten).unwrap_or(usize::MAX);
            log.changes.range(seen.min(log.changes.len())..)
        });
        let labels: Option<HashSet<&Label>> = new.and_then(|new| new.map(Option::as_ref).collect());
        let everything = labels.is_none();
        let labels = labels.into_iter().flatten().filter(|label| may_know(label)).map(Label::to_string);
        message::Changes { revision, labels: labels.collect(), everything }
    }

    /// A receiver that learns of each new revision.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

impl Log {
    fn revision(&self) -> u64 {
        self.forgotten + self.changes.len() as u64
    }
}

/// True if an answer names no change.
pub(crate) fn is_empty(changes: &message::Changes) -> bool {
    changes.labels.is_empty() && !changes.everything
}

/// Number of changes in the log. Their labels fit one frame.
const REMEMBERED: usize = 1024;

#[cfg(test)]
mod tests {
    use keyward_proto::frame;
    use keyward_proto::message::{Response, response};

    use super::*;

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    fn labels(changes: &message::Changes) -> Vec<&str> {
        let mut labels: Vec<_> = changes.labels.iter().map(String::as_str).collect();
        labels.sort_unstable();
        labels
    }

    #[test]
    fn changes_after_a_revision_name_each_key_once() {
        let changes = Changes::from(100);
        let all = |_: &Label| true;
        assert!(changes.since(0, all).everything, "the first time");
        assert!(is_empty(&changes.since(100, all)));
        for key in ["a", "b", "a"] {
            changes.of_key(label(key));
        }
        let seen = changes.since(100, all);
        assert_eq!((seen.revision, labels(&seen), seen.everything), (103, vec!["a", "b"], false));
        assert_eq!(labels(&changes.since(101, all)), ["a", "b"]);
        assert_eq!(labels(&changes.since(102, all)), ["a"]);
        assert!(is_empty(&changes.since(103, all)));
        assert_eq!(labels(&changes.since(100, |label| label.as_str() == "b")), ["b"]);
        assert!(is_empty(&changes.since(100, |_| false)));
    }

    #[test]
    fn a_revision_that_is_not_in_the_log_stands_for_everything() {
        let changes = Changes::from(100);
        let everything = |after| changes.since(after, |_| false).everything;
        assert!(everything(99), "a revision of an earlier daemon");
        assert!(everything(101), "a revision of the future");
        changes.of_key(label("a"));
        assert!(!everything(100));
        changes.of_grants();
        assert!(everything(100) && everything(101) && !everything(102));
        for _ in 0..REMEMBERED {
            changes.of_key(label("a"));
        }
        assert!(everything(101) && !everything(102), "forgotten, and remembered");
        assert!(Changes::new().revision.borrow().ge(&1_700_000_000_000_000_000));
    }

    #[test]
    fn all_changes_of_the_log_fit_a_frame() {
        let changes = Changes::from(100);
        for number in 0..REMEMBERED {
            changes.of_key(label(&format!("{number:0>128}")));
        }
        let seen = changes.since(100, |_| true);
        assert_eq!(seen.labels.len(), REMEMBERED);
        let body = Some(response::Body::Changes(seen));
        assert!(frame::encode(&Response { id: u64::MAX, outcome: 1, body }).is_ok());
    }
}

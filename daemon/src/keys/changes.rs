//! What has changed of late, for peers that watch.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::{Label, message};
use tokio::sync::watch;

/// The last changes of keys and grants, each with a revision of its own. Shared by reference between tasks.
pub(crate) struct Changes {
    log: Mutex<Log>,
    /// The last revision, for those who wait.
    revision: watch::Sender<u64>,
}

struct Log {
    /// Ascending by revision, without gaps.
    changes: VecDeque<Change>,
    /// The revision of the last change that is not in `changes` any more.
    forgotten: u64,
}

/// A key that was changed; none if anything may have been.
type Change = Option<Label>;

impl Changes {
    /// Of a daemon that starts now. Its revisions are greater than those of any that ran before, unless a clock has gone back or
    /// there was a change each nanosecond: who has seen the past of another daemon is told that everything may have changed.
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Enough for some 500 years.
        Self::from(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2).max(1))
    }

    fn from(forgotten: u64) -> Self {
        let log = Log { changes: VecDeque::new(), forgotten };
        Self { log: Mutex::new(log), revision: watch::Sender::new(forgotten) }
    }

    /// Notes that a key was made, changed or deleted.
    pub(crate) fn of_key(&self, label: Label) {
        self.note(Some(label));
    }

    /// Notes that peers may be allowed to see other keys than before.
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

    /// What has changed behind a revision, of those keys that somebody may know of.
    pub(crate) fn since(&self, after: u64, may_know: impl Fn(&Label) -> bool) -> message::Changes {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = log.revision();
        let new = (log.forgotten..=revision).contains(&after).then(|| {
            // Fits: there are no more than are remembered.
            let seen = usize::try_from(after - log.forgotten).unwrap_or(usize::MAX);
            log.changes.range(seen.min(log.changes.len())..)
        });
        let labels: Option<HashSet<&Label>> = new.and_then(|new| new.map(Option::as_ref).collect());
        let everything = labels.is_none();
        let labels = labels.into_iter().flatten().filter(|label| may_know(label)).map(Label::to_string);
        message::Changes { revision, labels: labels.collect(), everything }
    }

    /// Tells when there are more.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

impl Log {
    fn revision(&self) -> u64 {
        self.forgotten + self.changes.len() as u64
    }
}

/// Whether there is nothing in an answer.
pub(crate) fn is_empty(changes: &message::Changes) -> bool {
    changes.labels.is_empty() && !changes.everything
}

/// How many changes are remembered: their labels fit a frame.
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
    fn changes_behind_a_revision_each_key_once() {
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
    fn what_is_not_known_is_everything() {
        let changes = Changes::from(100);
        let everything = |after| changes.since(after, |_| false).everything;
        assert!(everything(99), "of a daemon before");
        assert!(everything(101), "of the future");
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
    fn as_many_as_are_remembered_fit_a_frame() {
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

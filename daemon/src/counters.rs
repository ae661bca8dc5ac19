//! What the daemon counts.

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;

use keyward_proto::Outcome;

use crate::purpose::Purpose;

/// Numbers since the start of the daemon.
#[derive(Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    outcomes: [AtomicU64; OUTCOMES],
    purposes: [AtomicU64; Purpose::ALL.len()],
    garbage: AtomicU64,
    crowded: AtomicU64,
}

impl Counters {
    /// A request of any kind arrived.
    pub(crate) fn request(&self) {
        add(&self.requests);
    }

    /// Requests of every kind.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A request for a signature came to an end; `purpose` if it came as far as knowing it.
    pub(crate) fn signature(&self, outcome: Outcome, purpose: Option<Purpose>) {
        if let Some(count) = usize::try_from(i32::from(outcome)).ok().and_then(|i| self.outcomes.get(i)) {
            add(count);
        }
        let index = purpose.and_then(|purpose| Purpose::ALL.iter().position(|one| *one == purpose));
        if let Some(count) = index.and_then(|index| self.purposes.get(index)) {
            add(count);
        }
    }

    /// A connection was closed for what came over it.
    pub(crate) fn garbage(&self) {
        add(&self.garbage);
    }

    /// A connection was closed for being one too many.
    pub(crate) fn crowded(&self) {
        add(&self.crowded);
    }

    /// Signatures by outcome, those that occurred.
    pub(crate) fn outcomes(&self) -> BTreeMap<String, u64> {
        let name = |i: usize| {
            let outcome = i32::try_from(i).ok().and_then(|i| Outcome::try_from(i).ok());
            outcome.unwrap_or_default().name().to_owned()
        };
        occurred(self.outcomes.iter().enumerate().map(|(i, count)| (name(i), count)))
    }

    /// Signatures by purpose, those that occurred.
    pub(crate) fn purposes(&self) -> BTreeMap<String, u64> {
        occurred(Purpose::ALL.iter().map(|purpose| purpose.name().to_owned()).zip(&self.purposes))
    }

    /// Connections closed for garbage, and for being too many.
    pub(crate) fn closed(&self) -> (u64, u64) {
        (self.garbage.load(Ordering::Relaxed), self.crowded.load(Ordering::Relaxed))
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn occurred<'a>(counts: impl Iterator<Item = (String, &'a AtomicU64)>) -> BTreeMap<String, u64> {
    counts
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// As many as keyward.proto has.
const OUTCOMES: usize = 16;

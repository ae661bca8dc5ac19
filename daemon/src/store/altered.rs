//! Reports the parts of the store that are not authentic.

use std::collections::BTreeSet;

use keyward_proto::Label;
use serde::{Deserialize, Serialize};

/// The parts of a store that are not as the daemon wrote them last.
#[derive(Default)]
pub(crate) struct Alterations {
    /// Labels of records, including records without a list that vouches for them.
    pub(crate) labels: BTreeSet<Label>,
    /// Numbers of lists of the index.
    pub(crate) lists: BTreeSet<u32>,
    /// Number of records under names that no key can have.
    pub(crate) nameless: usize,
}

/// Summary of [`Alterations`] for the admin interface.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Altered {
    /// Number of keys whose record was altered or is gone.
    pub(crate) count: usize,
    /// The first labels of these keys.
    pub(crate) first: Vec<String>,
    /// Number of lists of the index that were altered. A key of such a list can be gone without
    /// another trace.
    #[serde(default)]
    pub(crate) lists: usize,
    /// Number of records under names that no key can have.
    #[serde(default)]
    pub(crate) nameless: usize,
}

impl Altered {
    /// Number of keys, lists and records without a label together.
    pub(crate) fn total(&self) -> usize {
        self.count + self.lists + self.nameless
    }

    /// A sentence that says which parts were altered, and advice; `None` if nothing was altered.
    pub(crate) fn problem(&self) -> Option<(String, &'static str)> {
        let more = if self.count > self.first.len() { ", ..." } else { "" };
        let problems = [
            (self.count > 0).then(|| {
                format!(
                    "the records of {} keys in the key store were altered, are old copies, or are gone: {}{more}",
                    self.count,
                    self.first.join(", ")
                )
            }),
            (self.lists > 0).then(|| {
                format!(
                    "{} lists of the index of the key store were altered: the keys in these lists are not known, and more keys than listed may be gone",
                    self.lists
                )
            }),
            (self.nameless > 0)
                .then(|| format!("{} records in the key store have names that no key can have", self.nameless)),
        ];
        let problems: Vec<_> = problems.into_iter().flatten().collect();
        let advice = if self.lists + self.nameless > 0 { INDEX_ADVICE } else { ALTERED_ADVICE };
        (!problems.is_empty()).then(|| (problems.join("; "), advice))
    }
}

impl From<&Alterations> for Altered {
    fn from(found: &Alterations) -> Self {
        Self {
            count: found.labels.len(),
            first: found.labels.iter().take(SHOWN).map(Label::to_string).collect(),
            lists: found.lists.len(),
            nameless: found.nameless,
        }
    }
}

/// Maximum number of labels in a summary.
const SHOWN: usize = 5;
const ALTERED_ADVICE: &str = "find out who wrote to the store, then restore it from a backup, or delete each key: keyward key delete LABEL";
const INDEX_ADVICE: &str = "find out who wrote to the store, then restore it from a backup, or rebuild the lists, which disables their keys: keyward key repair";

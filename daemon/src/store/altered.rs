use serde::{Deserialize, Serialize};

/// What in the store is not as this daemon wrote it last.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Altered {
    /// How many keys have other records, or none.
    pub(crate) count: usize,
    /// The first labels of these.
    pub(crate) first: Vec<String>,
    /// How many lists of the index are other ones. A key of such a list may be in no record either.
    #[serde(default)]
    pub(crate) lists: usize,
    /// How many records have names that no key can have.
    #[serde(default)]
    pub(crate) nameless: usize,
}

impl Altered {
    /// How many keys, lists and records without a name there are.
    pub(crate) fn total(&self) -> usize {
        self.count + self.lists + self.nameless
    }

    /// What was altered, and what to do; `None` if nothing was.
    pub(crate) fn problem(&self) -> Option<(String, &'static str)> {
        let more = if self.count > self.first.len() { ", ..." } else { "" };
        let told = [
            (self.count > 0).then(|| {
                format!(
                    "the records of {} keys in the key store were altered, are old copies, or are gone: {}{more}",
                    self.count,
                    self.first.join(", ")
                )
            }),
            (self.lists > 0).then(|| {
                format!(
                    "{} lists of the index of the key store were altered: nothing tells which keys they had, and more keys than are listed may be gone",
                    self.lists
                )
            }),
            (self.nameless > 0)
                .then(|| format!("{} records in the key store have names that no key can have", self.nameless)),
        ];
        let told: Vec<_> = told.into_iter().flatten().collect();
        let advice = if self.lists + self.nameless > 0 { INDEX_ADVICE } else { ALTERED_ADVICE };
        (!told.is_empty()).then(|| (told.join("; "), advice))
    }
}

pub(crate) const ALTERED_SHOWN: usize = 5;
const ALTERED_ADVICE: &str = "find out who wrote to the store, then restore it from a backup, or give each key up with: keyward key delete LABEL";
const INDEX_ADVICE: &str = "find out who wrote to the store, then restore it from a backup, or have the lists made anew, which disables their keys, with: keyward key repair";

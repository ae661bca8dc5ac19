//! Uses that runs have added to keys, and that the way back takes from them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Entries, Journal};
use crate::cli::failure::Failure;

/// The uses of a key at a run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(in crate::cli::protect) struct KeyUses {
    pub(in crate::cli::protect) label: String,
    /// Uses that the server needs.
    pub(in crate::cli::protect) needed: BTreeSet<String>,
    /// Uses among these that this run has added to the key, or another run that is not undone.
    pub(in crate::cli::protect) added: BTreeSet<String>,
}

impl Journal {
    /// Notes the uses of a key that the run is about to add. `had` are the uses of the key until
    /// then.
    ///
    /// # Errors
    /// [`Failure`] if the journal cannot be written.
    pub(in crate::cli::protect) fn note_uses(
        &mut self,
        label: &str,
        needed: &BTreeSet<String>,
        had: &[String],
    ) -> Result<(), Failure> {
        // The run that has added a use may be undone before this one.
        let others = self.other_runs();
        let of_others = others.iter().flat_map(|run| &run.uses).filter(|one| one.label == label);
        let added_by_others: BTreeSet<_> = of_others.flat_map(|one| &one.added).collect();
        let added = needed.iter().filter(|one| !had.contains(one) || added_by_others.contains(one));
        let added = added.cloned().collect();
        let run = self.last()?;
        run.entries.uses.push(KeyUses { label: label.to_owned(), needed: needed.clone(), added });
        run.save()
    }

    /// Notes that the server uses a key whose uses the last run leaves as they are.
    ///
    /// # Errors
    /// [`Failure`] if the journal cannot be written.
    pub(in crate::cli::protect) fn note_user(
        &mut self,
        label: &str,
        needed: BTreeSet<String>,
    ) -> Result<(), Failure> {
        let is_noted = self.last()?.entries.labels().any(|known| known == label);
        match is_noted {
            true => Ok(()),
            false => self.note_uses(label, &needed, &needed.iter().cloned().collect::<Vec<_>>()),
        }
    }

    /// Uses of the keys of the last run.
    pub(in crate::cli::protect) fn uses(&self) -> &[KeyUses] {
        self.runs.last().map(|run| run.entries.uses.as_slice()).unwrap_or_default()
    }

    /// Uses of a key that runs before the last one need, or runs of other servers. `None` if such a
    /// run does not say, as one of an earlier version.
    pub(in crate::cli::protect) fn needed_by_others(&self, label: &str) -> Option<BTreeSet<String>> {
        let mut needed = BTreeSet::new();
        for run in self.other_runs() {
            let mut own = run.uses.iter().filter(|one| one.label == label).peekable();
            if own.peek().is_none() && run.key_files.iter().any(|file| file.label == label) {
                return None;
            }
            needed.extend(own.flat_map(|one| one.needed.iter().cloned()));
        }
        Some(needed)
    }

    /// The runs before the last one, and the runs of other servers.
    fn other_runs(&self) -> Vec<Entries> {
        let earlier = self.runs.split_last().map(|(_, earlier)| earlier).unwrap_or_default();
        let earlier = earlier.iter().map(|run| run.entries.clone());
        earlier.chain(self.runs_of_others()).collect()
    }
}

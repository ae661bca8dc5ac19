//! The writer's part of retention: a removal is recorded and signed before files go.

use core::time::Duration;
use std::time::{Instant, SystemTime};

use crate::housekeeper::{Job, Tidied};
use crate::line::Content;
use crate::reserve::Room;
use crate::retention::Removal;
use crate::signing::Signing;
use crate::writer::Writer;

/// Removals that are under way.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    /// When closed files were last looked at.
    looked: Option<Instant>,
    /// Number of the record of a removal that no checkpoint covers yet, and the number of the last
    /// record that is removed.
    unsigned: Option<(u64, u64)>,
    /// True if the log says that files cannot be removed.
    has_warned: bool,
}

impl Writer {
    /// Has closed files looked after, and files removed that end with a record up to `remove`.
    pub(crate) fn tidy(&mut self, remove: u64) {
        self.removals.looked = Some(Instant::now());
        let job = Job { current: self.files.first, remove, policy: self.settings.policy.clone() };
        if let Some(housekeeper) = &mut self.housekeeper {
            housekeeper.ask(job);
        }
    }

    /// Has closed files looked after, because they become older.
    pub(crate) fn tidy_if_due(&mut self) {
        if self.removals.looked.is_none_or(|looked| looked.elapsed() >= INTERVAL) {
            self.tidy(0);
        }
    }

    /// Goes on after the work of the housekeeper.
    pub(crate) fn tidied(&mut self, tidied: Tidied) {
        if let Some(housekeeper) = &mut self.housekeeper {
            housekeeper.done();
        }
        if tidied.extent.is_some() {
            self.shared.tell(|status| status.extent = tidied.extent);
        }
        if let Some(removal) = tidied.removal
            && self.removals.unsigned.is_none()
        {
            self.record_removal(&removal);
        }
    }

    /// Records that files will be removed. Without a signature nothing is recorded, because nothing
    /// can be removed.
    fn record_removal(&mut self, removal: &Removal) {
        if self.signed.state != Signing::Works {
            if self.signatures.is_none() || self.signed.state != Signing::NotAsked {
                self.warn_of_removal("no unit signs the record of their removal");
            }
            return;
        }
        // The removal makes room.
        let written = self.write_in(Room::Reserved, SystemTime::now(), &[Content::Removal(removal)]);
        let record = self.last();
        match written.and_then(|()| self.sync()) {
            Ok(()) => {
                self.removals.unsigned = Some((record, removal.last));
                self.removals.has_warned = false;
                let Removal { first, last, reason, .. } = *removal;
                tracing::info!(first, last, reason, "old records of the audit trail are removed");
                self.owes_checkpoint = true;
            }
            Err(error) => self.warn_of_removal(&error.to_string()),
        }
    }

    /// Has files removed if a checkpoint covers the record of their removal.
    pub(crate) fn remove_what_is_signed(&mut self, through: u64) {
        if let Some((_, last)) = self.removals.unsigned.take_if(|(record, _)| *record <= through) {
            self.tidy(last);
        }
    }

    fn warn_of_removal(&mut self, reason: &str) {
        if !self.removals.has_warned {
            tracing::warn!("old files of the audit trail are not removed: {reason}");
        }
        self.removals.has_warned = true;
    }
}

/// Time between two looks at closed files.
const INTERVAL: Duration = Duration::from_secs(60);

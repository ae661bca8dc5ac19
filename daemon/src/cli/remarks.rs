//! Remarks about a configuration.

use core::fmt::Display;

/// Warnings and notes about a configuration, whether or not the daemon can use it.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// Doubtful settings.
    pub(super) warnings: Vec<String>,
    /// Useful facts about valid settings.
    pub(super) notes: Vec<String>,
}

impl Remarks {
    pub(super) fn warn(&mut self, text: impl Display) {
        self.warnings.push(text.to_string());
    }

    pub(super) fn note(&mut self, text: impl Display) {
        self.notes.push(text.to_string());
    }
}

//! The report of a setup.

use std::path::PathBuf;

use serde::Serialize;

use super::choice::Way;
use super::credential::Binding;
use crate::cli::failure::Failure;
use crate::cli::output;

/// The report of a setup, which is also its form for scripts.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The way in which the unit gets its master key.
    pub(super) unseal: Way,
    /// The key that encrypts a credential, if this run has made one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bound_to: Option<Binding>,
    /// The file with the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<PathBuf>,
    /// The file that says so to the daemon: a drop-in or the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) configured_by: Option<PathBuf>,
    /// The files that this run has made or changed. Empty if the setup was finished before.
    pub(super) made: Vec<PathBuf>,
    /// The line that this run has added to the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<String>,
    /// The copy of the secret for another place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) recovery: Option<PathBuf>,
    /// The command that makes the credential again of that copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) restore: Option<String>,
    /// True if this run has started the service, or found it started.
    pub(super) started: bool,
    /// The next commands for a person.
    pub(super) next: Vec<String>,
}

impl Report {
    /// A report without files.
    pub(super) fn new(unseal: Way) -> Self {
        Self {
            unseal,
            bound_to: None,
            secret: None,
            configured_by: None,
            made: Vec::new(),
            line: None,
            recovery: None,
            restore: None,
            started: false,
            next: Vec::new(),
        }
    }

    /// Prints the report.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub(super) fn print(&self, as_json: bool) -> Result<(), Failure> {
        if as_json { output::print_json(self) } else { output::print(&self.text()) }
    }

    fn text(&self) -> String {
        let mut text = row("unit", &format!("gets its master key {}", self.unseal.described()));
        let mut add = |name: &str, value: &str| text += &row(name, value);
        if let Some(binding) = self.bound_to {
            add("bound to", binding.described());
        }
        if let Some(secret) = &self.secret {
            add("secret", &secret.display().to_string());
        }
        if let Some(by) = &self.configured_by {
            add("named in", &by.display().to_string());
        }
        if let Some(line) = &self.line {
            add("line", line);
        }
        for made in &self.made {
            add("made", &made.display().to_string());
        }
        if self.made.is_empty() {
            add("made", "nothing: it was there already");
        }
        if let Some(recovery) = &self.recovery {
            add("recovery", &recovery.display().to_string());
        }
        if let Some(restore) = &self.restore {
            add("restore", restore);
        }
        if self.started {
            add("service", "runs, and starts at each boot");
        }
        for next in &self.next {
            add("next", next);
        }
        text
    }
}

fn row(name: &str, value: &str) -> String {
    format!("{name:<12}{value}\n")
}

//! Reasons why a configuration is refused.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Reason why a configuration is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        reason: io::Error,
    },
    /// A user other than root and the user of this process can change the file.
    #[error("refused the configuration: {0}")]
    Refused(String),
    /// Not TOML, an unknown setting, or a wrong type.
    #[error("configuration {}{}: {reason}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: Option<usize>,
        /// Mistake, and how to correct the mistake.
        reason: String,
    },
    /// A value that is not allowed.
    #[error("configuration {}: {setting}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Setting that has the value.
        setting: String,
        /// Reason why the value is refused.
        reason: String,
    },
    /// A value in two drop-ins.
    #[error("configuration {}: {setting}: the drop-in {} sets this, too; keep one of the two lines", second.display(), first.display())]
    Twice {
        /// Name of the setting, with its section.
        setting: String,
        /// The drop-in that counts first.
        first: PathBuf,
        /// The other drop-in.
        second: PathBuf,
    },
}

/// A setting whose value is not allowed. [`ConfigError::Value`] adds the file.
#[derive(Debug)]
pub(super) struct InvalidSetting {
    /// Name of the setting, with its section.
    pub(super) setting: String,
    /// Reason why the value is refused.
    pub(super) reason: String,
}

impl InvalidSetting {
    pub(super) fn new(setting: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { setting: setting.into(), reason: reason.into() }
    }
}

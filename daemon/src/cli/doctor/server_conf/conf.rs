//! Configuration of a server: its keys, and the limits for reading its files.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::ground::ownership;

/// Configuration of a server, as far as its keys need it.
#[derive(Debug, Default)]
pub(in crate::cli::doctor) struct ServerConf {
    /// The first file of the configuration.
    pub(in crate::cli::doctor) file: PathBuf,
    pub(in crate::cli::doctor) keys: Vec<ConfiguredKey>,
    /// Parts that were not read, with the reasons.
    pub(in crate::cli::doctor) unread: Vec<String>,
    /// For nginx: the text of all files, in the form of `nginx -T`.
    pub(in crate::cli::doctor) dump: String,
    /// Environment of a mail server; `None` for other servers.
    pub(in crate::cli::doctor) mail: Option<MailEnvironment>,
    bytes_read: u64,
    opened: HashSet<PathBuf>,
}

/// A key and its certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::cli::doctor) struct ConfiguredKey {
    pub(in crate::cli::doctor) source: KeySource,
    pub(in crate::cli::doctor) certificate: Option<PathBuf>,
}

/// Place of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::cli::doctor) enum KeySource {
    File(PathBuf),
    /// The label in a URI `keyward:LABEL`.
    Label(String),
}

/// Environment that a mail server gives its processes.
#[derive(Debug)]
pub(in crate::cli::doctor) struct MailEnvironment {
    /// User of the processes that make handshakes.
    pub(in crate::cli::doctor) user: &'static str,
    /// Words of `import_environment`.
    words: Vec<String>,
}

impl MailEnvironment {
    pub(super) fn parse(user: &'static str, text: &str) -> Self {
        let words = text.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        Self { user, words: words.map(str::to_owned).collect() }
    }

    /// Value of a variable: the value in `import_environment`, or the value `of_main` in the first
    /// process if the variable is only passed on.
    pub(in crate::cli::doctor) fn value<'a>(
        &'a self,
        name: &str,
        of_main: Option<&'a str>,
    ) -> Option<&'a str> {
        let passed = self.words.iter().rev().find_map(|word| word.strip_prefix(name))?;
        if passed.is_empty() { of_main } else { passed.strip_prefix('=') }
    }
}

impl ServerConf {
    pub(super) fn add(&mut self, source: KeySource, certificate: Option<PathBuf>) {
        let key = ConfiguredKey { source, certificate };
        if self.keys.len() >= MOST_KEYS {
            self.unread.push(format!("keys beyond the first {MOST_KEYS}"));
        } else if !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }

    /// The files that match a pattern, sorted by name.
    pub(super) fn files(&mut self, pattern: &Path) -> Vec<PathBuf> {
        let text = pattern.to_string_lossy();
        let found = match text.contains("**") {
            true => None,
            false => glob::glob(&text).ok(),
        };
        let Some(found) = found else {
            self.unread.push(format!("the files {text}"));
            return Vec::new();
        };
        let mut found: Vec<_> = found.flatten().take(MOST_FILES + 1).collect();
        if found.len() > MOST_FILES {
            self.unread.push(format!("files beyond the first {MOST_FILES} of {text}"));
            found.truncate(MOST_FILES);
        }
        found.retain(|path| !path.is_dir());
        found
    }

    /// The text of a file that only root and this user can change; `None` if the file was read
    /// before, or cannot be read.
    pub(super) fn text(&mut self, path: &Path) -> Option<String> {
        if !self.opened.insert(path.canonicalize().unwrap_or_else(|_| path.to_owned())) {
            return None;
        }
        if self.opened.len() > MOST_FILES || self.bytes_read > LONGEST {
            self.unread.push(format!("{} and further files: the configuration is too large", path.display()));
            return None;
        }
        let mut bytes = Vec::new();
        let read = ownership::open(path).map_err(|error| error.to_string()).and_then(|file| {
            let is_file = file.metadata().is_ok_and(|found| found.is_file());
            let read = if is_file { file.take(LONGEST).read_to_end(&mut bytes) } else { Ok(0) };
            read.map_err(|error| format!("cannot read {}: {error}", path.display()))
        });
        self.bytes_read += bytes.len() as u64;
        match read {
            Ok(_) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Err(why) => {
                self.unread.push(why);
                None
            }
        }
    }
}

/// The word after an option.
pub(super) fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.windows(2).find(|two| two[0] == name).map(|two| two[1])
}

/// The label in a URI `keyward:LABEL`.
pub(super) fn label(value: &str) -> Option<String> {
    let uri = value.strip_prefix("store:").unwrap_or(value).strip_prefix("keyward:")?;
    let label = uri.split('?').next().unwrap_or_default();
    (!label.contains('$')).then(|| label.to_owned())
}

/// Maximum number of keys of a server.
const MOST_KEYS: usize = 1000;
/// Maximum number of files of a configuration.
const MOST_FILES: usize = 2000;
/// Maximum length of all files of a configuration together, in bytes (16 MiB).
const LONGEST: u64 = 16 * 1024 * 1024;

//! The settings of an OpenSSL configuration (config(5)), as far as a file says them itself.
//!
//! Files that it includes are not followed, and variables are left as they are written.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Sections with their settings, of which a name stands once, where it was given last.
#[derive(Debug, Default)]
pub(super) struct Settings {
    sections: HashMap<String, Vec<(String, String)>>,
    includes: bool,
}

impl Settings {
    /// What stands before the first section belongs to a section of this name.
    pub(super) const TOP: &str = "default";

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is not text, or is longer than a configuration can be.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        read_text(path).map(|text| Self::read(&text))
    }

    fn read(text: &str) -> Self {
        let mut settings = Self::default();
        let mut section = Self::TOP.to_owned();
        let mut begun = String::new();
        for line in text.lines() {
            let line = [&begun, without_comment(line)].concat();
            begun.clear();
            if let Some(start) = line.strip_suffix('\\').filter(|start| !start.ends_with('\\')) {
                begun = start.into();
                continue;
            }
            let line = line.trim();
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.trim().into();
            } else if line.starts_with(".include") {
                settings.includes = true;
            } else if let Some((name, value)) = line.split_once('=') {
                // A name can have its section before it.
                let (of, name) = name.trim().split_once("::").unwrap_or((&section, name.trim()));
                let values = settings.sections.entry(of.to_owned()).or_default();
                values.retain(|(known, _)| known != name);
                values.push((name.to_owned(), plain(value.trim())));
            }
        }
        settings
    }

    /// Whether there are settings in other files.
    pub(super) fn has_includes(&self) -> bool {
        self.includes
    }

    /// The settings of a section in their order; `None` if there are none.
    pub(super) fn section(&self, name: &str) -> Option<&[(String, String)]> {
        self.sections.get(name).map(Vec::as_slice)
    }

    /// A setting.
    pub(super) fn value(&self, section: &str, name: &str) -> Option<&str> {
        let found = self.section(section)?.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Every section that has a setting, with that, in the order of the sections' names.
    pub(super) fn with(&self, name: &str) -> Vec<(&str, &str)> {
        let mut found: Vec<_> = self
            .sections
            .keys()
            .filter_map(|section| Some((section.as_str(), self.value(section, name)?)))
            .collect();
        found.sort_unstable();
        found
    }
}

/// The text of a file that is no longer than a configuration can be.
///
/// # Errors
/// If it is longer, cannot be read, or is no text.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    match text.len() as u64 > LONGEST {
        true => Err(io::Error::other(format!("longer than {LONGEST} bytes"))),
        false => Ok(text),
    }
}

/// The part of a line before a number sign that is neither quoted nor behind a backslash.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut escaped) = (None, false);
    let begins = |c: char| {
        let begins = c == '#' && quote.is_none() && !escaped;
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && QUOTES.contains(&c) {
            quote = Some(c);
        }
        begins
    };
    line.find(begins).map_or(line, |at| &line[..at])
}

/// A value without its quotes and backslashes.
fn plain(value: &str) -> String {
    let (mut plain, mut quote) = (String::with_capacity(value.len()), None);
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        if c == '\\' {
            plain.extend(rest.next());
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && QUOTES.contains(&c) {
            quote = Some(c);
        } else {
            plain.push(c);
        }
    }
    plain
}

const QUOTES: [char; 3] = ['"', '\'', '`'];

/// Longest configuration, in bytes (1 MiB).
const LONGEST: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sections_comments_quotes_and_long_lines() {
        let settings = Settings::read(
            "openssl_conf = init # comment\n.include /etc/other.cnf\n[ init ]\nproviders=p\n\n[p]\n\
             default = d\nkeyward = k\n# keyward = x\n[k]\nmodule = \"/a b/#1\" # there\n\
             socket = /run\\\n/keyward.sock\nname = a\\#b'c'\nd::activate = 1\n",
        );
        let list = settings.section("p").unwrap();
        assert_eq!(list, [("default".into(), "d".into()), ("keyward".into(), "k".into())]);
        for (section, name, value) in [
            ("default", "openssl_conf", "init"),
            ("init", "providers", "p"),
            ("k", "module", "/a b/#1"),
            ("k", "socket", "/run/keyward.sock"),
            ("k", "name", "a#bc"),
            ("d", "activate", "1"),
        ] {
            assert_eq!(settings.value(section, name), Some(value), "{section} {name}");
        }
        assert!(settings.has_includes());
        assert_eq!(settings.value("k", "activate"), None);
        assert_eq!(settings.with("activate"), [("d", "1")]);
    }

    #[test]
    fn the_last_of_a_name_counts_and_stands_where_it_is() {
        let settings = Settings::read("[p]\nkeyward = a\ndefault = d\nkeyward = k\n");
        let list = settings.section("p").unwrap();
        assert_eq!(list, [("default".into(), "d".into()), ("keyward".into(), "k".into())]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[ -~\n\\\\\"'=#\\[\\]]{0,200}") {
            Settings::read(&text);
        }
    }
}

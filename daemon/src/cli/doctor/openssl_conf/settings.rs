//! Settings of an OpenSSL configuration (config(5)).
//!
//! Included files are not followed, and variables are not replaced by their values.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use crate::cli::doctor::files::read_text;

/// Sections with their settings. A name is in a section once, with the value and place of its last
/// occurrence.
#[derive(Debug, Default)]
pub(super) struct Settings {
    sections: HashMap<String, Section>,
    includes: Vec<String>,
}

#[derive(Debug, Default)]
struct Section {
    settings: Vec<(String, String)>,
    /// Index of each name in `settings`.
    places: HashMap<String, usize>,
}

impl Settings {
    /// Name of the section for settings before the first section.
    pub(super) const TOP: &str = "default";

    /// Reads a file.
    ///
    /// # Errors
    /// If the file cannot be read, or is longer than a configuration can be.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        read_text(path).map(|text| Self::read(&text))
    }

    pub(super) fn read(text: &str) -> Self {
        let mut settings = Self::default();
        let mut section = Self::TOP.to_owned();
        for line in lines(text.strip_prefix(MARK).unwrap_or(text)) {
            let line = without_comment(&line).trim();
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.trim().into();
            } else if let Some(file) = line.strip_prefix(".include") {
                let file = file.trim();
                settings.includes.push(plain(file.strip_prefix('=').unwrap_or(file).trim()));
            } else if let Some((name, value)) = line.split_once('=') {
                // The form SECTION::NAME.
                let (of, name) = name.trim().split_once("::").unwrap_or((&section, name.trim()));
                let values = &mut settings.sections.entry(of.to_owned()).or_default().settings;
                values.push((name.to_owned(), plain(value.trim())));
            }
        }
        settings.sections.values_mut().for_each(Section::keep_the_last);
        settings
    }

    /// Names of the included files, as they are written.
    pub(super) fn includes(&self) -> &[String] {
        &self.includes
    }

    /// Settings of a section in their order; `None` if there are none.
    pub(super) fn section(&self, name: &str) -> Option<&[(String, String)]> {
        self.sections.get(name).map(|section| section.settings.as_slice())
    }

    /// Value of a setting.
    pub(super) fn value(&self, section: &str, name: &str) -> Option<&str> {
        let section = self.sections.get(section)?;
        let (_, value) = section.settings.get(*section.places.get(name)?)?;
        Some(value)
    }

    /// Every section that has a setting, with its value, sorted by section name.
    pub(super) fn sections_with(&self, name: &str) -> Vec<(&str, &str)> {
        let mut found: Vec<_> = self
            .sections
            .keys()
            .filter_map(|section| Some((section.as_str(), self.value(section, name)?)))
            .collect();
        found.sort_unstable();
        found
    }
}

impl Section {
    /// Keeps the last setting of each name.
    fn keep_the_last(&mut self) {
        let mut known = HashSet::new();
        self.settings.reverse();
        self.settings.retain(|(name, _)| known.insert(name.clone()));
        self.settings.reverse();
        let places = self.settings.iter().enumerate().map(|(place, (name, _))| (name.clone(), place));
        self.places = places.collect();
    }
}

/// Logical lines: a backslash at the end joins a line with the next one, in comments too.
fn lines(text: &str) -> Vec<String> {
    let (mut lines, mut begun) = (Vec::new(), String::new());
    for line in text.lines() {
        match line.strip_suffix('\\').filter(|start| !start.ends_with('\\')) {
            Some(start) => begun.push_str(start),
            None => {
                begun.push_str(line);
                lines.push(core::mem::take(&mut begun));
            }
        }
    }
    lines.push(begun);
    lines
}

/// The part of a line before the first number sign that is neither quoted nor escaped.
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

/// Byte order mark: some editors put it before a text, and OpenSSL skips it.
const MARK: char = '\u{feff}';

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::doctor::files::LONGEST;

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
        assert_eq!(settings.includes(), ["/etc/other.cnf"]);
        assert_eq!(Settings::read(".include = '/a b.cnf' # there\n").includes(), ["/a b.cnf"]);
        assert_eq!(settings.value("k", "activate"), None);
        assert_eq!(settings.sections_with("activate"), [("d", "1")]);
    }

    #[test]
    fn the_last_setting_of_a_name_counts_at_its_place() {
        let settings = Settings::read("[p]\nkeyward = a\ndefault = d\nkeyward = k\n");
        let list = settings.section("p").unwrap();
        assert_eq!(list, [("default".into(), "d".into()), ("keyward".into(), "k".into())]);
    }

    #[test]
    fn text_is_read_as_openssl_reads_it() {
        for (text, read) in [
            ("a = 1\n", Some("1")),
            ("\u{feff}a = 1\n", Some("1")),
            ("# goes on \\\na = 1\n", None),
            ("# does not \\\\\na = 1\n", Some("1")),
            ("b = '\\\n# no comment'\na = 1\n", Some("1")),
            ("a = 1\\", Some("1")),
            ("a = \\\r\n1\r\n", Some("1")),
        ] {
            assert_eq!(Settings::read(text).value(Settings::TOP, "a"), read, "{text:?}");
        }
    }

    #[test]
    fn a_file_is_read_up_to_a_length_in_any_encoding() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = b"a = 1 # f\xfcr\n".to_vec();
        // One long line and as many names as fit take no more work than other text of that length.
        bytes.extend(b"long = \\\n".iter().chain(b"x\\\n".repeat(100_000).iter()).chain(b"\n"));
        for number in 0..60_000 {
            bytes.extend(format!("{number}={number}\n").bytes());
        }
        assert!(bytes.len() as u64 <= LONGEST, "{}", bytes.len());
        bytes.resize(LONGEST as usize, b'\n');
        std::fs::write(&file, &bytes).unwrap();
        let settings = Settings::open(file.path()).unwrap();
        assert_eq!(settings.value(Settings::TOP, "a"), Some("1"));
        assert_eq!(settings.value(Settings::TOP, "long").map(str::len), Some(100_000));
        for number in (0..60_000).map(|number| number.to_string()) {
            assert_eq!(settings.value(Settings::TOP, &number), Some(&*number));
        }

        bytes.push(b'\n');
        std::fs::write(&file, &bytes).unwrap();
        assert!(Settings::open(file.path()).unwrap_err().to_string().contains("longer than"));
        assert!(Settings::open(Path::new("/dev/zero")).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "([a-c]{0,2}(::|=|\\[|\\]|#|\\\\|['\"`]|\\$|\r|\n|\\.include| ){0,2}){0,60}".prop_map(String::into_bytes),
        ]) {
            let text = String::from_utf8_lossy(&bytes);
            let settings = Settings::read(&text);
            let mut length = 0;
            for section in settings.sections.keys() {
                let list = settings.section(section).unwrap();
                prop_assert!(!list.is_empty());
                for (name, value) in list {
                    prop_assert_eq!(settings.value(section, name), Some(value.as_str()));
                    prop_assert!(!name.contains('\n') && !value.contains('\n'));
                    length += name.len() + value.len();
                }
            }
            prop_assert!(length <= text.len());
        }

        #[test]
        fn written_settings_are_read_back(
            written in prop::collection::vec(("[a-c]", "[d-f]", "[ -~]{0,20}", 0..4_usize), 0..30)
        ) {
            let (mut text, mut expected) = (String::new(), HashMap::new());
            for (section, name, value, form) in written {
                let escaped: String = value.chars().flat_map(|c| ['\\', c]).collect();
                text += &match form {
                    0 => format!("[{section}]\n{name} = '{escaped}' # [x] y = z\n"),
                    1 => format!("[ {section} ]\r\n\t{name}='{escaped}'\r\n"),
                    2 => format!("{section}::{name} = \\\n'{escaped}'\n"),
                    _ => format!("# {name} = x\n[{section}] # \\\n y = z\n\n{name} = \"{escaped}\"\n"),
                };
                expected.insert((section, name), value);
            }
            let settings = Settings::read(&text);
            for ((section, name), value) in &expected {
                prop_assert_eq!(settings.value(section, name), Some(value.as_str()), "{}", text);
            }
            let count: usize = settings.sections.values().map(|section| section.settings.len()).sum();
            prop_assert_eq!(count, expected.len(), "{}", text);
        }
    }
}

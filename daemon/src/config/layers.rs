//! The files of one configuration: `keyward.toml`, and the drop-ins `keyward.d/*.toml` beside it.
//!
//! Drop-ins count in the order of the bytes of their names. Tables merge. A list of sections, such
//! as `[[grant]]`, gets longer. Any other value replaces the value of `keyward.toml`. Two drop-ins
//! that set one value are a mistake: one of them would have no effect, and nobody would see that.

use core::fmt::Write;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::InvalidSetting;
use super::raw::Raw;
use super::syntax::{explained, one_line};
use super::{Config, ConfigError};
use crate::ground::ownership;

/// The files that a configuration was read from, and the file of each of its values.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sources {
    /// The files, in the order in which they count.
    pub files: Vec<PathBuf>,
    /// Files in the directory of the drop-ins that do not count, because of their names.
    pub skipped: Vec<PathBuf>,
    /// Numbers in `files`, by the name of a value.
    values: BTreeMap<String, usize>,
    /// For each list of sections, the number in `files` of each section.
    lists: BTreeMap<String, Vec<usize>>,
}

/// The directory of the drop-ins of a configuration file: `keyward.d` beside `keyward.toml`.
pub fn drop_in_directory(file: &Path) -> PathBuf {
    file.with_extension("d")
}

/// The drop-ins of a configuration file, and the files beside them that do not count.
///
/// # Errors
/// [`ConfigError`] if the directory cannot be read, or if others can change it.
pub fn drop_ins(file: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ConfigError> {
    let directory = drop_in_directory(file);
    let failed = |reason| ConfigError::Read { path: directory.clone(), reason };
    let entries = match fs::read_dir(&directory) {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok((Vec::new(), Vec::new()));
        }
        entries => entries.map_err(failed)?,
    };
    ownership::check_directory(&directory, ownership::Owners::Own)
        .map_err(|error| refused(error, &directory))?;
    let mut paths = Vec::new();
    for entry in entries.take(MOST_FILES + 1) {
        paths.push(entry.map_err(failed)?.path());
    }
    if paths.len() > MOST_FILES {
        return Err(failed(io::Error::other(format!("it has more than {MOST_FILES} files"))));
    }
    paths.sort_by(|one, other| one.as_os_str().as_bytes().cmp(other.as_os_str().as_bytes()));
    Ok(paths.into_iter().partition(|path| is_drop_in(path)))
}

/// True for a file that counts. Editors and packages leave copies beside it, with other names.
fn is_drop_in(path: &Path) -> bool {
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    name.ends_with(b".toml") && !name.starts_with(b".")
}

/// Reads and checks a configuration file with its drop-ins.
///
/// # Errors
/// [`ConfigError`] names the file, and the line where there is one.
pub(super) fn load(path: &Path) -> Result<(Config, Sources), ConfigError> {
    parse(&read(path)?, path)
}

/// Checks a text in the place of a configuration file, with the drop-ins of that file.
///
/// # Errors
/// See [`load`].
pub(super) fn parse(text: &str, path: &Path) -> Result<(Config, Sources), ConfigError> {
    let (drop_ins, skipped) = drop_ins(path)?;
    let mut texts = vec![(path.to_owned(), text.to_owned())];
    let mut left = MAX_ALL;
    for path in drop_ins {
        let text = read(&path)?;
        left = left.checked_sub(text.len()).ok_or_else(|| ConfigError::Read {
            path: path.clone(),
            reason: io::Error::other("the drop-ins are longer than 16 MiB together"),
        })?;
        texts.push((path, text));
    }
    let (config, sources) = merged(texts)?;
    Ok((config, Sources { skipped, ..sources }))
}

/// Checks the texts of files that are one configuration.
pub(super) fn merged(texts: Vec<(PathBuf, String)>) -> Result<(Config, Sources), ConfigError> {
    let mut sources = Sources::default();
    let mut merged = Table::new();
    for (path, text) in &texts {
        sources.add(&mut merged, path, text)?;
    }
    // Each file alone has passed this already.
    let raw = Value::Table(merged).try_into::<Raw>().map_err(|error| ConfigError::Syntax {
        path: sources.files.first().cloned().unwrap_or_default(),
        line: None,
        reason: one_line(error.message()),
    })?;
    let config = raw.check().map_err(|invalid| sources.located(invalid))?;
    Ok((config, sources))
}

/// Reads the text of one file.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |reason| ConfigError::Read { path: path.to_owned(), reason };
    let mut text = String::new();
    let file = ownership::open(path).map_err(|error| refused(error, path))?;
    // A pipe that nobody has written to yet would count as an empty file.
    if file.metadata().map_err(failed)?.file_type().is_fifo() {
        return Err(failed(io::Error::other("it is a pipe, and a configuration must be a file")));
    }
    let mut file = file.take(MAX_FILE + 1);
    file.read_to_string(&mut text).map_err(failed)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(failed(io::Error::other("it is longer than 1 MiB"))),
        false => Ok(text),
    }
}

fn refused(error: ownership::OwnershipError, path: &Path) -> ConfigError {
    match error.into_io() {
        Ok(reason) => ConfigError::Read { path: path.to_owned(), reason },
        Err(error) => ConfigError::Refused(error.to_string()),
    }
}

/// Checks the form of a text alone, so that a mistake has the line of its own file.
fn syntax(text: &str, path: &Path) -> Result<Table, ConfigError> {
    let wrong = |error: toml::de::Error| {
        let start = error.span().map(|span| span.start);
        let line = start.map(|start| 1 + text.bytes().take(start).filter(|b| *b == b'\n').count());
        let reason = explained(&one_line(error.message()), text, start.unwrap_or_default());
        ConfigError::Syntax { path: path.to_owned(), line, reason }
    };
    toml::from_str::<Raw>(text).map_err(wrong)?;
    toml::from_str(text).map_err(wrong)
}

impl Sources {
    /// True if no file has a setting.
    pub fn is_blank(&self) -> bool {
        self.values.is_empty() && self.lists.is_empty()
    }

    /// Adds the values of a file to those of the files before it.
    fn add(&mut self, merged: &mut Table, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table = syntax(text, path)?;
        self.files.push(path.to_owned());
        self.merge(merged, table, "")
    }

    fn merge(&mut self, into: &mut Table, from: Table, section: &str) -> Result<(), ConfigError> {
        let number = self.files.len() - 1;
        for (name, value) in from {
            let setting = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            match (into.get_mut(&name), value) {
                (Some(Value::Table(into)), Value::Table(from)) => self.merge(into, from, &setting)?,
                (None, Value::Table(from)) => {
                    let mut table = Table::new();
                    self.merge(&mut table, from, &setting)?;
                    into.insert(name, Value::Table(table));
                }
                (before, Value::Array(more)) if is_sections(&more) => {
                    let numbers = self.lists.entry(setting).or_default();
                    numbers.extend(more.iter().map(|_| number));
                    match before {
                        Some(Value::Array(all)) => all.extend(more),
                        _ => drop(into.insert(name, Value::Array(more))),
                    }
                }
                (_, value) => {
                    match self.values.insert(setting.clone(), number) {
                        Some(before) if before > 0 => {
                            let file = |number: usize| self.files.get(number).cloned().unwrap_or_default();
                            return Err(ConfigError::Twice {
                                setting,
                                first: file(before),
                                second: file(number),
                            });
                        }
                        _ => into.insert(name, value),
                    };
                }
            }
        }
        Ok(())
    }

    /// The error for a setting, with the file that has the setting. A section is numbered as in its
    /// file.
    fn located(&self, invalid: InvalidSetting) -> ConfigError {
        let InvalidSetting { setting, reason } = invalid;
        let (number, setting) = self.place_of(&setting).unwrap_or((0, setting));
        let path = self.files.get(number).cloned().unwrap_or_default();
        ConfigError::Value { path, setting, reason }
    }

    /// Number of the file of a setting, and the name of the setting in that file.
    fn place_of(&self, setting: &str) -> Option<(usize, String)> {
        let numbered = setting.split_once(" number ");
        if let Some((list, number)) = numbered {
            let index = number.parse::<usize>().ok()?.checked_sub(1)?;
            let numbers = self.lists.get(list)?;
            let file = *numbers.get(index)?;
            let before = numbers.iter().take(index).filter(|other| **other == file).count();
            return Some((file, format!("{list} number {}", before + 1)));
        }
        // The last of several sections with the same name is the one too many.
        if let Some((list, _)) = setting.split_once(" \"") {
            return Some((*self.lists.get(list)?.last()?, setting.to_owned()));
        }
        let exact = self.values.get(setting).copied();
        let below = || self.values.iter().filter(|(name, _)| name.starts_with(&format!("{setting}.")));
        Some((exact.or_else(|| below().map(|(_, number)| *number).max())?, setting.to_owned()))
    }

    /// The text of [`Config::to_effective_toml`], with comments that name the file of each value
    /// that is not a default.
    pub fn shown_in(&self, config: &Config) -> String {
        let effective = config.to_effective_toml();
        let shown = self.commented(&effective);
        // A comment within a text of several lines would be a part of that text.
        match Config::parse(&shown, Path::new("")) {
            Ok(same) if same == *config => shown,
            _ => effective,
        }
    }

    fn commented(&self, effective: &str) -> String {
        let mut text = String::new();
        for (number, path) in self.files.iter().enumerate() {
            let _ = writeln!(text, "# {}: {}", mark(number), path.display());
        }
        let (mut section, mut counts) = (String::new(), BTreeMap::<&str, usize>::new());
        for line in effective.lines() {
            let mut number = None;
            if let Some(name) = line.strip_prefix("[[").and_then(|line| line.strip_suffix("]]")) {
                let count = counts.entry(name).or_default();
                number = self.lists.get(name).and_then(|numbers| numbers.get(*count)).copied();
                *count += 1;
                section = String::new();
            } else if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = format!("{name}.");
            } else if let Some((name, _)) = line.split_once(" = ") {
                number = self.values.get(&format!("{section}{name}")).copied();
            }
            let _ = match number {
                Some(number) => writeln!(text, "{line}  # {}", mark(number)),
                None => writeln!(text, "{line}"),
            };
        }
        text
    }
}

/// The mark of a file in the text of a configuration.
fn mark(number: usize) -> String {
    format!("file {}", number + 1)
}

fn is_sections(values: &[Value]) -> bool {
    !values.is_empty() && values.iter().all(Value::is_table)
}

/// Longest file, in bytes (1 MiB).
const MAX_FILE: u64 = 1 << 20;
/// Longest text of all drop-ins together, in bytes (16 MiB).
const MAX_ALL: usize = 16 << 20;
/// Maximum number of files in the directory of the drop-ins.
const MOST_FILES: usize = 1000;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Files below a directory, `keyward.toml` among them.
    fn read_files(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<(Config, Sources), String>) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("keyward.d")).unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let main = directory.path().join("keyward.toml");
        let result = Config::load_with_sources(&main)
            .map_err(|error| error.to_string().replace(&directory.path().display().to_string(), "DIR"));
        (directory, result)
    }

    #[test]
    fn drop_ins_add_sections_and_replace_values() {
        let (directory, result) = read_files(&[
            (
                "keyward.toml",
                "log = \"warn\"\n[socket]\nconnections = 9\nconnections-per-user = 3\nalso = [\"@a\"]\n[[grant]]\nuid = 1\nkeys = [\"a\"]\n",
            ),
            ("keyward.d/20-b.toml", "[socket]\nalso = [\"@b\"]\n[[grant]]\nuid = 3\nkeys = [\"c\"]\n"),
            (
                "keyward.d/10-a.toml",
                "[socket]\nconnections = 8\n[[grant]]\nuid = 2\nkeys = [\"b\"]\n[grep11.hsm]\nendpoints = [\"127.0.0.1:1\"]\nplaintext = true\n",
            ),
            ("keyward.d/30-c.toml", "[grep11.other]\nendpoints = [\"127.0.0.1:2\"]\nplaintext = true\n"),
            ("keyward.d/.hidden.toml", "no"),
            ("keyward.d/10-a.toml~", "no"),
            ("keyward.d/10-a.toml.dpkg-old", "no"),
        ]);
        let (config, sources) = result.unwrap();
        assert_eq!((config.socket.connections, config.socket.connections_per_user), (8, 3));
        assert_eq!(config.socket.extra[0].to_string(), "@b");
        let uids: Vec<_> = config.grants.iter().filter_map(|grant| grant.who.uid).collect();
        assert_eq!(uids, [1, 2, 3]);
        assert_eq!(config.grep11.keys().collect::<Vec<_>>(), ["hsm", "other"]);
        let names = |paths: &[PathBuf]| {
            paths
                .iter()
                .map(|path| path.strip_prefix(directory.path()).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(&sources.files),
            ["keyward.toml", "keyward.d/10-a.toml", "keyward.d/20-b.toml", "keyward.d/30-c.toml"]
        );
        assert_eq!(
            names(&sources.skipped),
            ["keyward.d/.hidden.toml", "keyward.d/10-a.toml.dpkg-old", "keyward.d/10-a.toml~"]
        );
        let shown = sources.shown_in(&config);
        for line in [
            "log = \"warn\"  # file 1",
            "connections = 8  # file 2",
            "connections-per-user = 3  # file 1",
            "also = [\"@b\"]  # file 3",
            "[[grant]]  # file 1\nuid = 1",
            "[[grant]]  # file 2\nuid = 2",
            "[[grant]]  # file 3\nuid = 3",
            "endpoints = [\"127.0.0.1:2\"]  # file 4",
            "request-timeout = \"5s\"\n",
        ] {
            assert!(shown.contains(line), "{shown} lacks {line}");
        }
        assert_eq!(Config::parse(&shown, Path::new("shown")).unwrap(), config);
    }

    #[test]
    fn a_text_of_several_lines_gets_no_comment() {
        let (_directory, result) = read_files(&[(
            "keyward.toml",
            "[store]\nkey = \"/x\\nlog = 1\\ny\"\n[limits]\ndrain-timeout = \"3s\"\n",
        )]);
        let (config, sources) = result.unwrap();
        assert_eq!(Config::parse(&sources.shown_in(&config), Path::new("shown")).unwrap(), config);
    }

    #[test]
    fn a_mistake_names_its_own_file() {
        let grant = "[[grant]]\nuid = 1\nkeys = [\"a\"]\n";
        for (main, first, second, words) in [
            (
                "",
                "log = \"warn\"",
                "\nlog = \"info\"",
                "DIR/keyward.d/b.toml: log: the drop-in DIR/keyward.d/a.toml sets this, too",
            ),
            (
                "",
                "[socket]\nconnections = 1",
                "[socket]\nconnections = 2",
                "b.toml: socket.connections: the drop-in",
            ),
            ("", "", "[socket]\nconnection = 2", "DIR/keyward.d/b.toml, line 2: unknown field `connection`"),
            (
                "",
                "",
                "[socket]\nconnections = 0",
                "DIR/keyward.d/b.toml: socket.connections: 0 is not between",
            ),
            (
                grant,
                grant,
                &format!("{grant}[[grant]]\nkeys = [\"a\"]\n"),
                "DIR/keyward.d/b.toml: grant number 2: name at least",
            ),
            (
                grant,
                "[[grant]]\nuid = 1\nkeys = []\n",
                grant,
                "DIR/keyward.d/a.toml: grant number 1: keys and uses",
            ),
            (
                "",
                "[[role]]\nrole = \"king\"\nuid = 1\n",
                "",
                "DIR/keyward.d/a.toml: role number 1: \"king\" is no role",
            ),
            ("default-backend = \"hsm\"\n", "", "", "DIR/keyward.toml: default-backend"),
            ("", "[grep11.hsm]\nendpoints = []\n", "", "DIR/keyward.d/a.toml: grep11.hsm"),
            (
                "",
                "[[watch]]\nname = \"m\"\nfile = \"/a\"\n",
                "[[watch]]\nname = \"m\"\nfile = \"/b\"\n",
                "DIR/keyward.d/b.toml: watch \"m\": two sections",
            ),
        ] {
            let (_directory, result) = read_files(&[
                ("keyward.toml", main),
                ("keyward.d/a.toml", first),
                ("keyward.d/b.toml", second),
            ]);
            let error = result.unwrap_err();
            assert!(error.contains(words), "{error} lacks {words}");
        }
    }

    #[test]
    fn drop_ins_that_others_can_change_are_refused() {
        let (directory, result) = read_files(&[("keyward.toml", ""), ("keyward.d/a.toml", "log = \"warn\"")]);
        result.unwrap();
        let main = directory.path().join("keyward.toml");
        let mode = |path: &str, mode| {
            fs::set_permissions(directory.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("keyward.d/a.toml", 0o666);
        let error = Config::load(&main).unwrap_err().to_string();
        assert!(error.contains("a.toml"), "{error}");
        mode("keyward.d/a.toml", 0o644);
        mode("keyward.d", 0o777);
        let error = Config::load(&main).unwrap_err().to_string();
        assert!(error.contains("keyward.d"), "{error}");
        mode("keyward.d", 0o755);
        fs::write(directory.path().join("keyward.d/b.toml"), vec![b'#'; 1 + (1 << 20)]).unwrap();
        assert!(Config::load(&main).unwrap_err().to_string().contains("b.toml: it is longer than 1 MiB"));
    }
}

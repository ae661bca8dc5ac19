//! HAProxy: the program of a running one, and its configuration.

mod conf;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::processes::{Master, values};
use crate::ground::ownership;
use conf::parse;
pub(crate) use conf::{Line, Word};

/// The configuration of a running HAProxy.
pub(crate) struct Configuration {
    pub(crate) files: Vec<ConfigurationFile>,
    pub(crate) lines: Vec<Line>,
    /// Directory from which relative paths count.
    directory: PathBuf,
}

/// A file of a configuration.
pub(crate) struct ConfigurationFile {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Configuration {
    /// Reads the configuration of a running HAProxy.
    ///
    /// # Errors
    /// See [`Self::of_arguments`].
    pub(crate) fn read(master: &Master) -> Result<Self, String> {
        let variables = super::processes::environment(master.pid).into_iter().collect();
        Self::of_arguments(&master.arguments, &master.directory, variables)
    }

    /// Reads the configuration of an HAProxy that was started with these arguments, working
    /// directory and environment.
    ///
    /// # Errors
    /// The reason as a sentence: no file is named, or a file cannot be read, is too long, or others
    /// can change it.
    pub(crate) fn of_arguments(
        arguments: &[String],
        working_directory: &Path,
        mut variables: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let directory = directory(arguments, working_directory);
        let mut conf = Self { files: Vec::new(), lines: Vec::new(), directory };
        for named in named_files(arguments) {
            let path = conf.directory.join(named);
            let files = match path.is_dir() {
                true => files_of(&path)?,
                false => vec![path],
            };
            for path in files {
                let text = text(&path)?;
                let mut lines = parse(&text, conf.files.len());
                lines.iter_mut().for_each(|line| line.expand(&mut variables));
                conf.lines.extend(lines);
                conf.files.push(ConfigurationFile { path, text });
            }
        }
        match conf.files.is_empty() {
            true => Err("the arguments of HAProxy name no file of its configuration".into()),
            false => Ok(conf),
        }
    }

    /// The configuration of one file with a text.
    #[cfg(test)]
    pub(crate) fn of_text(text: &str) -> Self {
        let file = ConfigurationFile { path: "/etc/haproxy/haproxy.cfg".into(), text: text.into() };
        Self { files: vec![file], lines: parse(text, 0), directory: "/etc/haproxy".into() }
    }

    /// Lines of the section `global` with a keyword.
    pub(crate) fn global(&self, keyword: &str) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.is_in("global") && line.keyword() == keyword)
    }

    /// The path that a word of a line names. `base` is a keyword of the section `global` with the
    /// directory for such paths, as `crt-base`.
    pub(crate) fn path(&self, line: &Line, word: &str, base: &str) -> PathBuf {
        let base = self.global(base).last().map(|line| line.word(1)).unwrap_or_default();
        let file = self.files.get(line.file).and_then(|file| file.path.parent()).unwrap_or(Path::new("/"));
        // Configuration Manual, default-path
        let from = self.global("default-path").last();
        let directory = match from.map(|line| line.word(1)) {
            Some("config") => file.to_owned(),
            Some("parent") => file.parent().unwrap_or(file).to_owned(),
            Some("origin") => self.directory.join(from.map(|line| line.word(2)).unwrap_or_default()),
            _ => self.directory.clone(),
        };
        directory.join(base).join(word)
    }

    /// The files of certificates that a word behind `crt` names: a file, the files of a directory,
    /// or a bundle whose files have the kinds of keys for endings. None if no such file is there.
    ///
    /// # Errors
    /// The reason as a sentence: a directory that cannot be read.
    pub(crate) fn certificate_files(&self, line: &Line, word: &Word) -> Result<Vec<PathBuf>, String> {
        let path = self.path(line, &word.text, "crt-base");
        if path.is_dir() {
            return files_of_directory(&path);
        }
        if path.is_file() {
            return Ok(vec![path]);
        }
        let bundle = ["rsa", "ecdsa", "dsa"].map(|kind| appended(&path, kind));
        Ok(bundle.into_iter().filter(|file| file.is_file()).collect())
    }

    /// The file beside the file of a certificate in which HAProxy looks for the key if the
    /// certificate comes without one (Configuration Manual, ssl-load-extra-files).
    pub(crate) fn key_beside(&self, certificate: &Path) -> PathBuf {
        match self.global("ssl-load-extra-del-ext").next() {
            None => appended(certificate, "key"),
            Some(_) => certificate.with_extension("key"),
        }
    }

    /// Every file that a word of the configuration names, or a line of a list of certificates.
    ///
    /// # Errors
    /// The reason as a sentence: a file of certificates or keys whose name has an unknown variable.
    pub(crate) fn files_in_use(&self) -> Result<BTreeSet<PathBuf>, String> {
        let mut files = BTreeSet::new();
        for line in &self.lines {
            for (option, word) in line.words.iter().zip(line.words.iter().skip(1)) {
                if word.has_variable && FILE_OPTIONS.contains(&&*option.text) {
                    return Err(format!("{}: nobody knows which file {} is", self.place(line), word.text));
                }
                self.add_files(line, word, &mut files);
            }
            for list in line.values("crt-list").filter(|list| !list.has_variable) {
                for entry in certificate_list(&self.path(line, &list.text, ""))? {
                    self.add_files(line, &entry.file, &mut files);
                }
            }
        }
        Ok(files)
    }

    /// Adds the files that a word may name, with the files that HAProxy looks for beside them.
    fn add_files(&self, line: &Line, word: &Word, files: &mut BTreeSet<PathBuf>) {
        for base in ["", "crt-base", "key-base", "ca-base"] {
            let path = self.path(line, &word.text, base);
            if path.is_dir() && line.values("crt").any(|crt| crt == word) {
                files.extend(files_of_directory(&path).unwrap_or_default());
            }
            for ending in ["", ".key", ".rsa", ".ecdsa", ".dsa"] {
                let mut name = path.clone().into_os_string();
                name.push(ending);
                files.extend(Some(PathBuf::from(name)).filter(|path| path.is_file()));
            }
        }
    }

    /// A place in a file, for people.
    pub(crate) fn place(&self, line: &Line) -> String {
        let path = self.files.get(line.file).map(|file| file.path.display().to_string());
        format!("{}, line {}", path.unwrap_or_default(), line.number)
    }
}

/// The directory to which an HAProxy with this file changes its root, if it does.
pub(crate) fn chroot(file: &Path) -> Option<PathBuf> {
    let lines = parse(&text(file).ok()?, 0);
    let mut chroots = lines.iter().filter(|line| line.is_in("global") && line.keyword() == "chroot");
    chroots.next_back().map(|line| PathBuf::from(line.word(1))).filter(|path| path.is_absolute())
}

/// The certificates of a list behind `crt-list`, each with the options in its brackets and the
/// names behind them (Configuration Manual, crt-list).
///
/// # Errors
/// The reason as a sentence: a file that cannot be read, is too long, or that others can change.
pub(crate) fn certificate_list(path: &Path) -> Result<Vec<ListEntry>, String> {
    let entry = |line: Line| {
        let (mut options, mut names, mut is_inside) = (vec![Word::plain("")], Vec::new(), false);
        for word in line.words.iter().skip(1) {
            let begins = word.text.starts_with('[');
            is_inside |= begins;
            let ends = is_inside && word.text.ends_with(']');
            let text = word.text.strip_prefix('[').unwrap_or(&word.text);
            let text = if ends { text.strip_suffix(']').unwrap_or(text) } else { text };
            match is_inside {
                true => options.push(Word::plain(text)),
                false => names.push(word.text.clone()),
            }
            is_inside &= !ends;
        }
        let file = line.words.first().cloned()?;
        Some(ListEntry { file, names, line: Line { words: options, ..line } })
    };
    Ok(parse(&text(path)?, 0).into_iter().filter_map(entry).collect())
}

/// A line of a list of certificates.
#[derive(Debug)]
pub(crate) struct ListEntry {
    pub(crate) file: Word,
    /// Names of servers.
    pub(crate) names: Vec<String>,
    /// The options of the line, behind an empty word.
    pub(crate) line: Line,
}

/// The files that HAProxy loads of a directory behind `crt`: all but hidden ones, and such as
/// belong to others (Configuration Manual, crt).
pub(crate) fn files_of_directory(path: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("cannot read {}: {error}", path.display());
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let is_other = [".key", ".issuer", ".ocsp", ".sctl"].iter().any(|end| name.ends_with(end.as_bytes()));
        if !name.starts_with(b".") && !is_other && path.is_file() {
            files.insert(path);
        }
    }
    Ok(files.into_iter().collect())
}

/// The program of HAProxy, with the environment of a running one.
pub fn command(master: &Master) -> Command {
    let mut command = Command::new(&master.program);
    command.current_dir(&master.directory);
    // The master tells its own children by these, for example that it has started again.
    let own = |name: &str| name.starts_with("HAPROXY_") || name == "NOTIFY_SOCKET";
    command
        .env_clear()
        .envs(super::processes::environment(master.pid).into_iter().filter(|(name, _)| !own(name)));
    command
}

/// A path with an ending after a point.
fn appended(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// The arguments by which another process of HAProxy reads the configuration of a running one.
pub fn arguments(master: &Master) -> Vec<String> {
    let directory = directory(&master.arguments, &master.directory);
    let files = named_files(&master.arguments).into_iter();
    files.flat_map(|file| ["-f".to_owned(), directory.join(file).display().to_string()]).collect()
}

/// True if a running HAProxy has a master process, which reads the configuration again.
pub fn has_master_process(haproxy: &Master) -> bool {
    haproxy.arguments.iter().any(|word| word.starts_with("-W"))
}

/// Files and directories behind `-f`, and files behind `--`.
fn named_files(arguments: &[String]) -> Vec<&str> {
    let behind = arguments.iter().skip_while(|word| *word != "--").skip(1).map(String::as_str);
    values(arguments, "-f").chain(behind.filter(|word| !word.is_empty())).collect()
}

/// A path of a running HAProxy.
pub fn path(master: &Master, text: &str) -> PathBuf {
    directory(&master.arguments, &master.directory).join(text)
}

/// The directory of `-C`, to which HAProxy changes first.
fn directory(arguments: &[String], working_directory: &Path) -> PathBuf {
    working_directory.join(values(arguments, "-C").last().unwrap_or_default())
}

/// The files of a directory behind `-f`, in the order in which HAProxy reads them.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("cannot read {}: {error}", directory.display());
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.ends_with(b".cfg") && !name.starts_with(b".") && path.is_file() {
            files.insert(path);
        }
    }
    Ok(files.into_iter().collect())
}

/// Text of a file that nobody else can change.
fn text(path: &Path) -> Result<String, String> {
    let failed = |error: &dyn core::fmt::Display| format!("cannot read {}: {error}", path.display());
    let file = ownership::open(path).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > LONGEST {
        return Err(failed(&format_args!("it is longer than {} MiB", LONGEST >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| failed(&"it is not text in UTF-8"))
}

impl Word {
    fn plain(text: &str) -> Self {
        Self { text: text.to_owned(), has_variable: false }
    }
}

/// Options with the name of a file of certificates or keys.
const FILE_OPTIONS: [&str; 6] = ["crt", "crt-list", "key", "ca-file", "ca-sign-file", "ssl-dh-param-file"];
/// Longest file of a configuration, in bytes (16 MiB).
const LONGEST: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_of_lists_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        std::fs::write(
            &list,
            "# no\na.pem\nb.pem [ssl-min-ver TLSv1.3 alpn h2] b.example !c.b.example\nc.pem [no-tlsv13] *.c.example\n",
        )
        .unwrap();
        let found = certificate_list(&list).unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|entry| (entry.file.text.as_str(), entry.names.join(" "), entry.line.value("ssl-min-ver")))
            .collect();
        let expected = [
            ("a.pem", String::new(), None),
            ("b.pem", "b.example !c.b.example".to_owned(), Some("TLSv1.3")),
            ("c.pem", "*.c.example".to_owned(), None),
        ];
        assert_eq!(shown, expected);
        assert!(found[2].line.has("no-tlsv13"));
        for name in ["b.pem", "a.pem", "a.pem.ocsp", "a.pem.key", ".c.pem"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let files = files_of_directory(directory.path()).unwrap();
        let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.pem", "b.pem", "list"]);
    }
}

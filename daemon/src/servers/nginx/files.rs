//! The files of a configuration of nginx, with each included file in the place of its directive.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use glob::MatchOptions;

use super::super::processes::Master;
use super::conf::{DUMP, Directive, NginxConf, parse};
use super::words;
use crate::ground::ownership;

/// A configuration of nginx, with its files.
pub(crate) struct Configuration {
    pub(crate) conf: NginxConf,
    /// The files; each directive has the number of its file.
    pub(crate) files: Vec<ConfigurationFile>,
    /// The directory from which relative paths of certificates and keys count.
    pub(crate) base: PathBuf,
}

/// A file of a configuration.
pub(crate) struct ConfigurationFile {
    /// The path by which nginx reads the file.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// First file of the configuration of a running nginx. `built` is the output of `nginx -V`, which
/// names the defaults of the program.
pub(crate) fn first_file(master: &Master, built: &str) -> PathBuf {
    let default = |name: &str| {
        let mut words = built.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    let shown = words(master);
    let option = |name: &str| super::option(&shown, name).map(str::to_owned);
    let prefix = option("-p").or_else(|| default("--prefix")).unwrap_or_else(|| "/usr/share/nginx".into());
    let prefix = shown.path(&prefix);
    let file = option("-c").or_else(|| default("--conf-path")).unwrap_or_else(|| "conf/nginx.conf".into());
    prefix.join(file)
}

impl Configuration {
    /// Reads a configuration from its first file on. `dump` is the output of `nginx -T`: both must
    /// name the same files.
    ///
    /// # Errors
    /// The reason as a sentence: a file that cannot be read, that others can change, or that only
    /// one of the two knows.
    pub(crate) fn read(first: &Path, dump: &str) -> Result<Self, String> {
        let base = first.parent().unwrap_or(Path::new("/")).to_owned();
        let mut reader = Reader { base, ..Reader::default() };
        reader.add(first, &[])?;
        let listed: BTreeSet<&str> =
            dump.lines().filter_map(|line| line.strip_prefix(DUMP)?.strip_suffix(':')).collect();
        let read: BTreeSet<String> =
            reader.files.iter().map(|file| file.path.display().to_string()).collect();
        let other = listed.iter().find(|path| !read.contains(**path)).map(|path| (*path).to_owned());
        let other = other.or_else(|| read.iter().find(|path| !listed.contains(path.as_str())).cloned());
        match other {
            Some(path) => Err(format!(
                "nginx and this command do not read the same files: they differ about {path}; if a file was changed just now, run the command again"
            )),
            None => Ok(Self {
                conf: NginxConf::of_parts(reader.directives, reader.blocks),
                files: reader.files,
                base: reader.base,
            }),
        }
    }

    /// The line of a place in a file, from 1.
    pub(crate) fn line(&self, directive: &Directive) -> usize {
        let start = directive.places.first().map_or(0, |place| place.start);
        let text = self.files.get(directive.file).map_or("", |file| &file.text);
        1 + text.get(..start).unwrap_or_default().matches('\n').count()
    }
}

#[derive(Default)]
struct Reader {
    directives: Vec<Directive>,
    blocks: Vec<Vec<String>>,
    files: Vec<ConfigurationFile>,
    base: PathBuf,
    /// Length of all files, in bytes.
    length: usize,
    /// Number of files that include each other, the last one inside of all others.
    depth: usize,
}

impl Reader {
    /// Adds a file. `within` are the blocks around the directive that includes it.
    fn add(&mut self, path: &Path, within: &[usize]) -> Result<(), String> {
        let text = read(path)?;
        self.length += text.len();
        if self.files.len() >= MOST_FILES || self.length > LONGEST || self.depth >= DEEPEST {
            return Err(format!(
                "the configuration of nginx is too large at {}: at most {MOST_FILES} files, 16 MiB, and {DEEPEST} files that include each other",
                path.display()
            ));
        }
        let (directives, blocks) = parse(&text);
        let (number, first) = (self.files.len(), self.blocks.len());
        self.files.push(ConfigurationFile { path: path.to_owned(), text });
        self.blocks.extend(blocks);
        self.depth += 1;
        for directive in directives {
            let inside = directive.within.iter().map(|block| block + first);
            let within: Vec<_> = within.iter().copied().chain(inside).collect();
            match directive.words.get(1).filter(|_| directive.is("include")) {
                Some(pattern) => {
                    for path in included(&self.base.join(pattern))? {
                        self.add(&path, &within)?;
                    }
                }
                None => self.directives.push(Directive { within, file: number, ..directive }),
            }
        }
        self.depth -= 1;
        Ok(())
    }
}

/// The files of an include, in the order of glob(3).
fn included(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let text = pattern.display().to_string();
    if !text.contains(['*', '?', '[']) {
        return Ok(vec![pattern.to_owned()]);
    }
    let options = MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..MatchOptions::default()
    };
    let found =
        glob::glob_with(&text, options).map_err(|error| format!("cannot read the files {text}: {error}"))?;
    let found: Result<Vec<_>, _> = found.take(MOST_FILES + 1).collect();
    found.map_err(|error| format!("cannot read the files {text}: {error}"))
}

fn read(path: &Path) -> Result<String, String> {
    let file = ownership::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let read = file.take(LONGEST as u64).read_to_string(&mut text);
    read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(text)
}

/// Maximum number of files.
const MOST_FILES: usize = 2000;
/// Longest text of all files, in bytes (16 MiB).
const LONGEST: usize = 16 << 20;
/// Maximum number of files that include each other.
const DEEPEST: usize = 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn included_files_stand_in_their_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let write = |name: &str, text: &str| {
            fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
            fs::write(path.join(name), text).unwrap();
        };
        write(
            "nginx.conf",
            "events {}\nhttp {\n ssl_protocols TLSv1.3;\n include sites/*;\n include snippet;\n}\n",
        );
        write("sites/b", "server { ssl_certificate b; }\n");
        write("sites/a", "\nserver {\n include snippet; ssl_certificate a; }\n");
        write("sites/.hidden", "server { ssl_certificate no; }\n");
        write("snippet", "ssl_protocols TLSv1.2;");
        let main = path.join("nginx.conf");
        let names = ["nginx.conf", "sites/a", "snippet", "sites/b"];
        let dump: String =
            names.iter().map(|name| format!("{DUMP}{}:\ntext\n", path.join(name).display())).collect();
        let read = Configuration::read(&main, &dump).unwrap();
        let servers: Vec<_> = read.conf.blocks_of("server").collect();
        let of = |server: usize, name: &str| {
            let found = read.conf.inherited(server, name);
            found.into_iter().map(|words| words[1].clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            (of(servers[0], "ssl_certificate"), of(servers[0], "ssl_protocols")),
            (vec!["a".into()], vec!["TLSv1.2".into()])
        );
        assert_eq!(of(servers[1], "ssl_certificate"), ["b"]);
        assert_eq!(of(servers[1], "ssl_protocols"), ["TLSv1.3", "TLSv1.2"]);
        let a = read.conf.directives.iter().find(|one| one.words[1] == "a").unwrap();
        assert_eq!((read.files[a.file].path.clone(), read.line(a)), (path.join("sites/a"), 3));

        for (dump, named) in [(dump.replace("sites/b", "sites/c"), "sites/c"), (String::new(), "nginx.conf")]
        {
            let error = Configuration::read(&main, &dump).err().unwrap();
            assert!(error.contains("do not read the same files") && error.contains(named), "{error}");
        }
        write("snippet", "include snippet;");
        assert!(Configuration::read(&main, &dump).err().unwrap().contains("too large"));
    }
}

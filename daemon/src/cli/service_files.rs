//! The unit file of the service and its drop-ins, as systemd reads them (systemd.unit(5)).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// True if systemd is the init system that runs (sd_booted(3)).
pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A credential that the service passes to the daemon.
pub(super) struct Credential {
    pub(super) name: String,
    /// The file, as the setting has it.
    pub(super) file: PathBuf,
    pub(super) is_encrypted: bool,
    /// The unit file or drop-in with the setting.
    pub(super) by: PathBuf,
}

/// Finds the credentials that the service passes to the daemon (systemd.exec(5)). `root` is the
/// root directory.
pub(super) fn credentials(root: &Path) -> Vec<Credential> {
    let mut found = Vec::new();
    for (by, text) in read(root) {
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let is_encrypted = match key.trim() {
                "LoadCredential" => false,
                "LoadCredentialEncrypted" => true,
                _ => continue,
            };
            let (name, file) = value.trim().split_once(':').unwrap_or((value.trim(), ""));
            match name {
                // An empty value takes back the settings before.
                "" => found.clear(),
                name => {
                    found.push(Credential {
                        name: name.into(),
                        file: file.into(),
                        is_encrypted,
                        by: by.clone(),
                    });
                }
            }
        }
    }
    found
}

/// Reads the unit file and then its drop-ins, in the order in which they apply. A file that cannot
/// be read is left out. `root` is the root directory.
pub(super) fn read(root: &Path) -> Vec<(PathBuf, String)> {
    let directories = DIRECTORIES.map(|directory| root.join(directory));
    let whole = directories.iter().map(|directory| directory.join(SERVICE)).find(|file| file.exists());
    // Of drop-ins with one name, the first counts. Drop-ins apply in the order of their names.
    let mut drop_ins = BTreeMap::<OsString, PathBuf>::new();
    for directory in &directories {
        let listed = fs::read_dir(directory.join(format!("{SERVICE}.d")));
        for file in listed.into_iter().flatten().flatten().take(MOST) {
            if file.path().extension().is_some_and(|extension| extension == "conf") {
                drop_ins.entry(file.file_name()).or_insert(file.path());
            }
        }
    }
    let files = whole.into_iter().chain(drop_ins.into_values());
    files.filter_map(|file| text(&file).map(|text| (file, text))).collect()
}

/// True if systemd would find a file of a unit, or of its template (systemd.unit(5)). `root` is the
/// root directory.
pub(super) fn has_unit(root: &Path, unit: &str) -> bool {
    // A template has no name of an instance.
    let template = unit.split_once('@').and_then(|(name, rest)| {
        let (_, ending) = rest.rsplit_once('.')?;
        Some(format!("{name}@.{ending}"))
    });
    let names = [Some(unit.to_owned()), template];
    let mut names = names.into_iter().flatten();
    let all = DIRECTORIES.iter().chain(&OTHER_DIRECTORIES);
    let is_in = |name: &str| all.clone().any(|directory| root.join(directory).join(name).exists());
    names.any(|name| is_in(&name))
}

fn text(file: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(file).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Name of the service of the daemon.
pub(super) const SERVICE: &str = "keyward.service";
/// Directories in which systemd looks for unit files, by precedence.
const DIRECTORIES: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// Further directories, for units of administrators, of programs and of generators.
const OTHER_DIRECTORIES: [&str; 5] = [
    "usr/local/lib/systemd/system",
    "run/systemd/transient",
    "run/systemd/generator",
    "run/systemd/generator.early",
    "run/systemd/generator.late",
];
/// Maximum number of drop-ins that are read of a directory.
const MOST: usize = 100;
/// Maximum length of a file, in bytes.
const MAX_FILE: u64 = 1 << 20;

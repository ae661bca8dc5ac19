//! The unit file of the service and its drop-ins, as systemd reads them (systemd.unit(5)).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

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

fn text(file: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(file).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

const SERVICE: &str = "keyward.service";
/// Directories in which systemd looks for unit files, by precedence.
const DIRECTORIES: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// Maximum number of drop-ins that are read of a directory.
const MOST: usize = 100;
/// Maximum length of a file, in bytes.
const MAX_FILE: u64 = 1 << 20;

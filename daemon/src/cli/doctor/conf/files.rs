//! The files that OpenSSL reads and loads by an openssl.cnf: whose they are, and whether they can
//! be read.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use super::super::openssl;
use super::super::settings::Settings;
use crate::ground::ownership::{self, OwnershipError};

/// Checks, for root, that nobody else can change the file, those that it includes, or a module that
/// any of them names: their code would run with the rights of root.
///
/// # Errors
/// Which other user can change which of them.
pub(in crate::cli) fn check_owners(conf: &Path) -> Result<(), OwnershipError> {
    match geteuid().is_root() {
        true => check(conf, MAX_DEPTH),
        false => Ok(()),
    }
}

fn check(conf: &Path, depth: u8) -> Result<(), OwnershipError> {
    // What is not there is not loaded, and nobody else can put anything in its place.
    let passing_over = |checked: Result<(), OwnershipError>| match checked.map_err(OwnershipError::into_io) {
        Err(Err(foreign)) => Err(foreign),
        Ok(()) | Err(Ok(_)) => Ok(()),
    };
    ownership::open(conf)?;
    let Ok(settings) = refuse_pipe(conf).and_then(|()| Settings::open(conf)) else { return Ok(()) };
    for name in ["module", "dynamic_path"] {
        for (_, module) in settings.with(name) {
            let Some(file) = module_file(module) else { continue };
            passing_over(ownership::open(&file).map(drop))?;
        }
    }
    for include in settings.includes().iter().filter(|_| depth > 0) {
        let include = Path::new(include);
        if include.is_dir() {
            ownership::check_directory(include, ownership::Owners::Own)?;
            let entries = fs::read_dir(include).into_iter().flatten().flatten();
            for file in entries.map(|entry| entry.path()).filter(|path| path.is_file()) {
                passing_over(check(&file, depth - 1))?;
            }
        } else {
            passing_over(check(include, depth - 1))?;
        }
    }
    Ok(())
}

/// Where OpenSSL looks for a module.
pub(super) fn module_file(name: &str) -> Option<PathBuf> {
    match name.starts_with('/') {
        true => Some(name.into()),
        false => Some(openssl::modules()?.join(name)),
    }
}

/// Refuses what would keep its reader waiting for somebody else.
///
/// # Errors
/// If it is neither a file nor a device such as /dev/null, or is not there.
pub(super) fn refuse_pipe(path: &Path) -> io::Result<()> {
    let kind = fs::metadata(path)?.file_type();
    match kind.is_file() || kind.is_char_device() {
        true => Ok(()),
        false => Err(io::Error::other("not a file")),
    }
}

/// The first file with a mistake in how it is written, and the mistake: OpenSSL then passes over
/// all of the settings.
pub(super) fn syntax_error(conf: &Path, includes: &[String]) -> Option<String> {
    // A mistake in an included file would be told with the line of the including one.
    let mut files = includes.iter().map(Path::new).filter(|file| file.is_file()).chain([conf]);
    files.find_map(|file| {
        // The one command that reads any openssl.cnf, and tells what it cannot read; it then misses
        // a setting of its own.
        let mut parse = Command::new("openssl");
        parse.args(["asn1parse", "-noout", "-genconf"]).arg(file).env("OPENSSL_CONF", "/dev/null");
        let output = parse.stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find_map(|line| line.split_once("Error on line ")?.1.split(' ').next())?;
        let counted = if file == conf && !includes.is_empty() { ", included lines counted," } else { "," };
        let file = file.display();
        Some(format!("{file} has a mistake in line {line}{counted} so all of the settings are void"))
    })
}

/// How deep files are followed that include others.
const MAX_DEPTH: u8 = 8;

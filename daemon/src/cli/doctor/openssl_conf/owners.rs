//! Owners of the files that OpenSSL reads and loads by an openssl.cnf.

use std::fs;
use std::path::Path;

use rustix::process::geteuid;

use super::files::{module_file, refuse_pipe};
use super::settings::Settings;
use crate::ground::ownership::{self, OwnershipError};

/// Checks, for root, that no other user can change the file, its included files, or a module that
/// any of them names. OpenSSL would run the code of those files with the rights of root.
///
/// # Errors
/// The first file that another user can change, and that user.
pub(in crate::cli) fn check_owners(conf: &Path) -> Result<(), OwnershipError> {
    match geteuid().is_root() {
        true => check(conf, MAX_DEPTH),
        false => Ok(()),
    }
}

fn check(conf: &Path, depth: u8) -> Result<(), OwnershipError> {
    // OpenSSL does not load a missing file, and no other user can create one there.
    let ignore_missing = |checked: Result<(), OwnershipError>| match checked.map_err(OwnershipError::into_io)
    {
        Err(Err(foreign)) => Err(foreign),
        Ok(()) | Err(Ok(_)) => Ok(()),
    };
    ownership::open(conf)?;
    let Ok(settings) = refuse_pipe(conf).and_then(|()| Settings::open(conf)) else { return Ok(()) };
    for name in ["module", "dynamic_path"] {
        for (_, module) in settings.sections_with(name) {
            let Some(file) = module_file(module) else { continue };
            ignore_missing(ownership::open(&file).map(drop))?;
        }
    }
    for include in settings.includes().iter().filter(|_| depth > 0) {
        let include = Path::new(include);
        if include.is_dir() {
            ownership::check_directory(include, ownership::Owners::Own)?;
            let entries = fs::read_dir(include).into_iter().flatten().flatten();
            for file in entries.map(|entry| entry.path()).filter(|path| path.is_file()) {
                ignore_missing(check(&file, depth - 1))?;
            }
        } else {
            ignore_missing(check(include, depth - 1))?;
        }
    }
    Ok(())
}

/// Depth to which included files are followed.
const MAX_DEPTH: u8 = 8;

//! Extended attributes of files: access control lists, labels of security modules, and those of
//! users (xattr(7)).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::cli::output;

/// Extended attributes of a file, by name. A value has any bytes, at most 64 KiB.
pub(super) type Attributes = BTreeMap<String, Vec<u8>>;

/// The attributes of a file; none on a file system without attributes.
///
/// # Errors
/// The error of the system.
pub(super) fn of(file: &File) -> io::Result<Attributes> {
    let mut buffer = vec![0; LONGEST];
    let length = match flistxattr(file, buffer.as_mut_slice()) {
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    let names = buffer.get(..length).unwrap_or_default().to_vec();
    let mut all = Attributes::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match fgetxattr(file, name, buffer.as_mut_slice()) {
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            length => {
                let value = buffer.get(..length?).unwrap_or_default().to_vec();
                all.insert(String::from_utf8_lossy(name).into_owned(), value);
            }
        }
    }
    Ok(all)
}

/// Gives a new file these attributes and no others, after its mode: a list of access control has
/// the mode, too. `path` is the future path of the file, for people. An attribute that the system
/// refuses is named in a warning.
///
/// # Errors
/// The error of the system if the attributes of the new file cannot be read.
pub(super) fn give(file: &File, path: &Path, wanted: &Attributes) -> io::Result<()> {
    let has = of(file)?;
    let lost = |verb: &str, name: &str, error: Errno| {
        output::warn(format_args!(
            "cannot {verb} the attribute {name} of {}: {error}; getfattr and setfattr show and set attributes",
            path.display()
        ));
    };
    for (name, value) in wanted.iter().filter(|(name, value)| has.get(*name) != Some(value)) {
        if let Err(error) = fsetxattr(file, name.as_str(), value, XattrFlags::empty()) {
            lost("keep", name, error);
        }
    }
    // The directory may have given the new file a list of access control.
    for name in has.keys().filter(|name| !wanted.contains_key(*name)) {
        if let Err(error) = fremovexattr(file, name.as_str()) {
            lost("remove", name, error);
        }
    }
    Ok(())
}

/// Most bytes of a value, and of all names of a file (linux/limits.h, `XATTR_SIZE_MAX` and
/// `XATTR_LIST_MAX`).
const LONGEST: usize = 1 << 16;

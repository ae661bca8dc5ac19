//! Ownership checks: a program trusts a file or directory only if nobody except root and the user
//! who runs the program can change it.
//!
//! Every directory and every symbolic link on a path can redirect the path. So all of them are
//! checked, from the root down. After a successful check, no other user can exchange the file.

use core::fmt;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Uid};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;
use zeroize::Zeroizing;

use super::names;
use super::text::quoted;

/// Users who may own a trusted file or directory.
#[derive(Clone, Copy, Debug)]
pub enum Owners {
    /// Every user: for the directory of one server, which that server may own.
    Any,
    /// Root, and the user who runs this program.
    Own,
    /// Root, the user who runs this program, and [`SERVICE`].
    OwnOrService,
    /// Root, the user who runs this program, and the user with this number.
    OwnOr(u32),
}

impl Owners {
    /// True if a user is one of these owners.
    pub fn contains(self, uid: u32) -> bool {
        let own = || [0, rustix::process::geteuid().as_raw()].contains(&uid);
        match self {
            Self::Any => true,
            Self::Own => own(),
            Self::OwnOrService => own() || is_service(uid),
            Self::OwnOr(other) => own() || uid == other,
        }
    }
}

/// Checks a directory and the path to it.
///
/// # Errors
/// [`OwnershipError`] if another user can change the directory or a part of the path.
pub fn check_directory(path: &Path, owners: Owners) -> Result<(), OwnershipError> {
    let (found, metadata) = walk(path, owners)?;
    match metadata.is_dir() {
        // In a sticky directory, no user can remove the files of others, but every user can make a
        // file first.
        true => refuse_writable(&found, &metadata),
        false => Err(unreachable(&found, io::ErrorKind::NotADirectory.into())),
    }
}

/// Makes the missing directories of a path with mode 0755, whatever the umask is.
///
/// # Errors
/// [`OwnershipError`] if a directory cannot be made, or another user could exchange it meanwhile.
pub fn make_directories(path: &Path) -> Result<(), OwnershipError> {
    make_below(path, 0o755)
}

/// Makes a directory with mode 0700, unless it exists. Makes the directories above it as
/// [`make_directories`] does.
///
/// # Errors
/// See [`make_directories`].
pub fn make_private_directory(path: &Path) -> Result<(), OwnershipError> {
    make_below(path, 0o700)
}

/// Checks that this process can make files in a directory. `mode` is the mode for the advice in the
/// error.
///
/// # Errors
/// [`OwnershipError::Foreign`] if the directory is for another user, as after a first start as
/// root.
pub fn check_writable(path: &Path, mode: u32) -> Result<(), OwnershipError> {
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    match rustix::fs::accessat(CWD, path, wanted, AtFlags::EACCESS) {
        Err(Errno::ACCESS) => Err(OwnershipError::Foreign { path: path.to_owned(), mode }),
        // Any other error shows when a file is made.
        _ => Ok(()),
    }
}

fn make_below(path: &Path, mode: u32) -> Result<(), OwnershipError> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_below(parent, 0o755)?;
    // After this check, only this user and root can exchange the new directory, so its mode can be
    // set by its name.
    walk(parent, Owners::Own)?;
    let made = DirBuilder::new().mode(0o700).create(path);
    made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode))).map_err(|reason| match reason
        .kind()
    {
        io::ErrorKind::PermissionDenied => OwnershipError::Foreign { path: path.to_owned(), mode },
        _ => unreachable(path, reason),
    })
}

/// Opens a file for reading that only root and the user who runs this program can change.
///
/// # Errors
/// [`OwnershipError`] if another user owns the file, can write to it, or can exchange it.
pub fn open(path: &Path) -> Result<File, OwnershipError> {
    open_for(path, OFlags::RDONLY, Owners::Own)
}

/// Opens a file for reading that may belong to one of `owners`, with the checks of [`open`].
///
/// # Errors
/// See [`open`].
pub fn open_of(path: &Path, owners: Owners) -> Result<File, OwnershipError> {
    open_for(path, OFlags::RDONLY, owners)
}

/// Reads a file of certificates, keys or tokens. The contents may be secret.
///
/// # Errors
/// The error of the system, or an error for a file of more than 1 MiB.
pub fn read_all(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_LENGTH {
        true => Err(io::Error::other("it is longer than 1 MiB; check that it is the right file")),
        false => Ok(bytes),
    }
}

/// Opens a file for reading and writing, with the checks of [`open`].
///
/// # Errors
/// See [`open`].
pub fn open_to_write(path: &Path) -> Result<File, OwnershipError> {
    open_to_write_of(path, Owners::Own)
}

/// Opens a file for reading and writing that may belong to one of `owners`.
///
/// # Errors
/// See [`open`].
pub fn open_to_write_of(path: &Path, owners: Owners) -> Result<File, OwnershipError> {
    open_for(path, OFlags::RDWR, owners)
}

/// Makes an empty file with mode 0600, in a directory that passes the checks of [`open`]. Does
/// nothing if the file exists.
///
/// # Errors
/// See [`open`].
pub fn make_file(path: &Path) -> Result<(), OwnershipError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(unreachable(path, io::ErrorKind::InvalidInput.into()));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let (directory, _) = walk(parent, Owners::Own)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::open(directory.join(name), flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(reason) => Err(unreachable(path, reason.into())),
    }
}

fn open_for(path: &Path, access: OFlags, owners: Owners) -> Result<File, OwnershipError> {
    let (found, _) = walk(path, owners)?;
    // NONBLOCK: the open of a pipe must not wait for its other end. NOFOLLOW: `found` has no
    // symbolic link any more.
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(&found, flags, Mode::empty());
    let file = File::from(file.map_err(|reason| unreachable(&found, reason.into()))?);
    // Check the open file: by now its name may lead to another file.
    let metadata = file.metadata().map_err(|reason| unreachable(&found, reason))?;
    if metadata.is_dir() {
        return Err(unreachable(&found, io::ErrorKind::IsADirectory.into()));
    }
    refuse_owner(&found, &metadata, owners)?;
    // A write to a character device such as /dev/null does not change what is read from it.
    if !metadata.file_type().is_char_device() {
        refuse_writable(&found, &metadata)?;
    }
    Ok(file)
}

/// True if users other than the owner and the group have a permission for an open file.
///
/// # Errors
/// The error of the system.
pub fn is_for_others(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.mode() & 0o007 != 0)
}

/// Reason why a file or directory is not trusted.
#[derive(Debug, Error)]
pub enum OwnershipError {
    /// The user who runs this program cannot make the file or directory, or files in it.
    #[error("{}", foreign_message(path, *mode))]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// The mode that the file or directory should have.
        mode: u32,
    },
    /// The file or directory belongs to another user.
    #[error(
        "{path} belongs to {owner}, who can change it, and only {own} may; {advice}",
        path = path.display(),
        owner = Name(*uid),
        own = own_name(),
        advice = owner_advice(path, *uid, *is_directory)
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// The owner.
        uid: u32,
        /// True for a directory.
        is_directory: bool,
    },
    /// Every user can make files in the directory.
    #[error(
        "every user can make files in {path}; use a directory of your own below it, such as {}",
        path.join(SERVICE).display(),
        path = path.display()
    )]
    Shared {
        /// The directory.
        path: PathBuf,
    },
    /// The system refuses access.
    #[error("cannot use {}: {reason}", path.display())]
    Unreachable {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        #[source]
        reason: io::Error,
    },
    /// Other users can write to the file or directory.
    #[error(
        "others than its owner can write to {path}; {}run: chmod go-w {}",
        if *is_directory { "use another directory, or, if no other program needs this permission, " } else { "" },
        quoted(path),
        path = path.display()
    )]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// True for a directory.
        is_directory: bool,
    },
}

impl OwnershipError {
    /// The error of the system. Returns `self` for any other reason.
    pub fn into_io(self) -> Result<io::Error, Self> {
        match self {
            Self::Unreachable { reason, .. } => Ok(reason),
            other => Err(other),
        }
    }
}

fn foreign_message(path: &Path, mode: u32) -> String {
    let (user, group) = own_names();
    let what = match path.symlink_metadata() {
        Ok(found) => format!("{} belongs to {}", path.display(), Name(found.uid())),
        Err(_) => format!("{} does not exist", path.display()),
    };
    let path = quoted(path);
    format!(
        "{what}, and this program runs as user {user}: as root, run: install -d -m {mode:o} -o {user} -g {group} {path}"
    )
}

/// Advice for a wrong owner. The owner of a directory stays: the service and other programs of that
/// user need the directory.
fn owner_advice(path: &Path, uid: u32, is_directory: bool) -> String {
    let own = rustix::process::geteuid().as_raw();
    if is_service(uid) {
        return format!("run this as user {SERVICE}, as the service does");
    }
    if is_directory {
        let own = own_name();
        return format!(
            "if that is the user of the daemon, run this as that user, or else use a directory of {own}"
        );
    }
    let name = names::user_by_id(own).ok().flatten().map_or(own.to_string(), |user| user.name);
    format!("check its contents, then, as root, run: chown -h {name} {}", quoted(path))
}

fn is_service(uid: u32) -> bool {
    names::user_by_name(SERVICE).is_ok_and(|user| user.is_some_and(|user| user.uid == uid))
}

fn own_name() -> String {
    match rustix::process::geteuid().as_raw() {
        0 => "root".into(),
        own => format!("root and {}", Name(own)),
    }
}

/// Names of the user and the group of this process, or their numbers, for chown.
pub fn own_names() -> (String, String) {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let user = names::user_by_id(uid.as_raw()).ok().flatten().map_or(uid.to_string(), |user| user.name);
    let group = names::group_by_id(gid.as_raw()).ok().flatten().map_or(gid.to_string(), |group| group.name);
    (user, group)
}

/// Formats a user for a message: name and number.
pub struct Name(pub u32);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match names::user_by_id(self.0) {
            Ok(Some(user)) => write!(f, "user {} (id {})", user.name, self.0),
            _ => write!(f, "user id {}", self.0),
        }
    }
}

/// Checks every part of a path, and follows symbolic links. A directory at the end is checked too.
/// Returns the final path without links, and its metadata.
fn walk(path: &Path, owners: Owners) -> Result<(PathBuf, Metadata), OwnershipError> {
    let absolute = std::path::absolute(path).map_err(|reason| unreachable(path, reason))?;
    let mut found = PathBuf::from("/");
    let mut metadata = checked_metadata(&found, owners)?;
    let mut remaining: VecDeque<OsString> = names(&absolute).collect();
    let mut links = 0;
    while let Some(name) = remaining.pop_front() {
        if !metadata.is_dir() {
            return Err(unreachable(&found, io::ErrorKind::NotADirectory.into()));
        }
        refuse_exchange(&found, &metadata)?;
        let next = if name == ".." { parent(&found) } else { found.join(name) };
        let next_metadata = checked_metadata(&next, owners)?;
        if !next_metadata.is_symlink() {
            (found, metadata) = (next, next_metadata);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(unreachable(path, Errno::LOOP.into()));
        }
        let target = fs::read_link(&next).map_err(|reason| unreachable(&next, reason))?;
        if target.is_absolute() {
            found = PathBuf::from("/");
            metadata = checked_metadata(&found, owners)?;
        }
        for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
            remaining.push_front(name);
        }
    }
    refuse_exchange(&found, &metadata)?;
    Ok((found, metadata))
}

fn checked_metadata(path: &Path, owners: Owners) -> Result<Metadata, OwnershipError> {
    let metadata = fs::symlink_metadata(path).map_err(|reason| unreachable(path, reason))?;
    refuse_owner(path, &metadata, owners)?;
    Ok(metadata)
}

fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::Prefix(_) | Component::RootDir => None,
    })
}

/// Parent directory. The parent of the root is the root, as for the kernel.
fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

fn refuse_owner(path: &Path, metadata: &Metadata, owners: Owners) -> Result<(), OwnershipError> {
    match owners.contains(metadata.uid()) {
        true => Ok(()),
        false => Err(OwnershipError::Owner {
            path: path.to_owned(),
            uid: metadata.uid(),
            is_directory: metadata.is_dir(),
        }),
    }
}

/// Refuses a directory in which other users can exchange files. In a sticky directory, every user
/// can make files, but nobody can remove the files of others.
fn refuse_exchange(path: &Path, metadata: &Metadata) -> Result<(), OwnershipError> {
    match metadata.is_dir() && metadata.mode() & STICKY == 0 {
        true => refuse_writable(path, metadata),
        false => Ok(()),
    }
}

/// Refuses a file or directory that others can write to. An access control list that lets others
/// write shows in the mode bits of the group (acl(5)).
fn refuse_writable(path: &Path, metadata: &Metadata) -> Result<(), OwnershipError> {
    match metadata.mode() & 0o022 {
        0 => Ok(()),
        _ if metadata.is_dir() && metadata.mode() & STICKY != 0 => {
            Err(OwnershipError::Shared { path: path.to_owned() })
        }
        _ => Err(OwnershipError::Writable { path: path.to_owned(), is_directory: metadata.is_dir() }),
    }
}

fn unreachable(path: &Path, reason: io::Error) -> OwnershipError {
    OwnershipError::Unreachable { path: path.to_owned(), reason }
}

/// User of the service, see conf/systemd/keyward.sysusers.
pub const SERVICE: &str = "keyward";

/// S_ISVTX (inode(7)).
const STICKY: u32 = 0o1000;

/// Maximum number of symbolic links on a path, the same as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Maximum length of a file, in bytes. The CA certificates of a system have a quarter of it.
const MAX_LENGTH: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_a_maximum_length() {
        let (directory, longest) = (tempfile::tempdir().unwrap(), usize::try_from(MAX_LENGTH).unwrap());
        let path = directory.path().join("file");
        for (length, read) in [(0, true), (longest, true), (longest + 1, false)] {
            fs::write(&path, vec![7; length]).unwrap();
            let bytes = read_all(File::open(&path).unwrap());
            assert_eq!(bytes.ok().map(|bytes| bytes.len()), read.then_some(length));
        }
        assert!(read_all(File::open("/dev/zero").unwrap()).is_err());
    }

    #[test]
    fn commands_quote_paths() {
        let path = PathBuf::from("/srv/my keys/it's");
        let quoted = r"'/srv/my keys/it'\''s'";
        let refused = [
            OwnershipError::Writable { path: path.clone(), is_directory: false },
            OwnershipError::Owner { path, uid: 7001, is_directory: false },
        ];
        for (error, command) in refused.iter().zip(["chmod go-w", "chown -h"]) {
            let message = error.to_string();
            let (_, words) = message.split_once(&format!("run: {command} ")).unwrap();
            assert!(words.ends_with(quoted), "{message}");
        }
    }
}

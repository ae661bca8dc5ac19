//! Whose files and directories are relied on: those that nobody but root and the user who runs this can change.
//!
//! A path is as good as each directory and each symbolic link on it, so all of them are looked at, from the
//! root down. Once they are found in order, no other user can put something else in the place of what was
//! looked at.

use core::fmt;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;
use zeroize::Zeroizing;

use super::text::quoted;

/// The users who may own what is relied on.
#[derive(Clone, Copy, Debug)]
pub enum Owners {
    /// Anybody, as with a directory that is meant for one server and is its own.
    Any,
    /// Root, and the user who runs this.
    Own,
    /// These, and the user that the service runs as, as the package makes it.
    OwnOrService,
    /// Root, the user who runs this, and another one.
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
/// [`OwnershipError`] if another user can change anything in it or on the way.
pub fn check_directory(path: &Path, owners: Owners) -> Result<(), OwnershipError> {
    let (found, metadata) = walk(path, owners)?;
    match metadata.is_dir() {
        // In a sticky directory nobody can remove what is there, but anybody can be there first.
        true => refuse_writable(&found, &metadata),
        false => Err(unreachable(&found, io::ErrorKind::NotADirectory.into())),
    }
}

/// Makes those directories of a path that do not exist, open to every user, whatever the umask is.
///
/// # Errors
/// [`OwnershipError`] if one cannot be made, or another user could put something else in its place meanwhile.
pub fn make_directories(path: &Path) -> Result<(), OwnershipError> {
    make_below(path, 0o755)
}

/// Makes a directory that its owner alone can enter, if it does not exist, and those above it as
/// [`make_directories`] does.
///
/// # Errors
/// As there.
pub fn make_private_directory(path: &Path) -> Result<(), OwnershipError> {
    make_below(path, 0o700)
}

/// Checks that this process can make files in a directory, which is to have a mode.
///
/// # Errors
/// [`OwnershipError::Foreign`] if it is for somebody else, as after a first start as root.
pub fn check_writable(path: &Path, mode: u32) -> Result<(), OwnershipError> {
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    match rustix::fs::accessat(CWD, path, wanted, AtFlags::EACCESS) {
        Err(Errno::ACCESS) => Err(OwnershipError::Foreign { path: path.to_owned(), mode }),
        // Whatever else there is shows when a file is made.
        _ => Ok(()),
    }
}

fn make_below(path: &Path, mode: u32) -> Result<(), OwnershipError> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_below(parent, 0o755)?;
    // Then what is made here is ours until the end, and can be changed by its name.
    walk(parent, Owners::Own)?;
    let made = DirBuilder::new().mode(0o700).create(path);
    made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode))).map_err(|reason| match reason
        .kind()
    {
        io::ErrorKind::PermissionDenied => OwnershipError::Foreign { path: path.to_owned(), mode },
        _ => unreachable(path, reason),
    })
}

/// Opens a file for reading that only root and the user who runs this can change.
///
/// # Errors
/// [`OwnershipError`] if another user owns it, can write to it, or can put another one in its place.
pub fn open(path: &Path) -> Result<File, OwnershipError> {
    open_for(path, OFlags::RDONLY, Owners::Own)
}

/// The contents of a file of certificates, keys or tokens, which may be secret.
///
/// # Errors
/// Those of reading, and that it is longer than any such file.
pub fn read_all(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LONGEST {
        true => Err(io::Error::other("it is longer than 1 MiB; see whether it is the right file")),
        false => Ok(bytes),
    }
}

/// Opens a file for reading and writing, as [`open`] does for reading.
///
/// # Errors
/// As there.
pub fn open_to_write(path: &Path) -> Result<File, OwnershipError> {
    open_to_write_of(path, Owners::Own)
}

/// Opens a file for reading and writing that may be of other owners.
///
/// # Errors
/// As [`open`].
pub fn open_to_write_of(path: &Path, owners: Owners) -> Result<File, OwnershipError> {
    open_for(path, OFlags::RDWR, owners)
}

/// Makes an empty file for its owner alone, in a directory that is checked as [`open`] does. Does
/// nothing if there is a file.
///
/// # Errors
/// As there.
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
    // Nobody waits for the other end of a pipe; and `found` has no link in it any more.
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(&found, flags, Mode::empty());
    let file = File::from(file.map_err(|reason| unreachable(&found, reason.into()))?);
    // The open file counts, and not what its name leads to.
    let metadata = file.metadata().map_err(|reason| unreachable(&found, reason))?;
    if metadata.is_dir() {
        return Err(unreachable(&found, io::ErrorKind::IsADirectory.into()));
    }
    refuse_owner(&found, &metadata, owners)?;
    // Writing to /dev/null does not change what is read from it.
    if !metadata.file_type().is_char_device() {
        refuse_writable(&found, &metadata)?;
    }
    Ok(file)
}

/// Whether users beside the owner and the group can read an open file.
pub fn is_for_others(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.mode() & 0o007 != 0)
}

/// Why something is not relied on.
#[derive(Debug, Error)]
pub enum OwnershipError {
    /// Who runs this cannot make it, or make files in it.
    #[error("{}", of_foreign(path, *mode))]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// The mode that the file or directory should have.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "{path} belongs to {owner}, who can change it, and only {own} may; {advice}",
        path = path.display(),
        owner = Name(*uid),
        own = own_name(),
        advice = of_owner(path, *uid, *is_directory)
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// The owner.
        uid: u32,
        /// True for a directory.
        is_directory: bool,
    },
    /// Every user can make names in it.
    #[error(
        "every user can make files in {path}; name a directory of your own below it, such as {}",
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
        if *is_directory { "name a directory elsewhere, or, if no other program needs that, " } else { "" },
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
    /// What the system said, if it was that.
    pub fn into_io(self) -> Result<io::Error, Self> {
        match self {
            Self::Unreachable { reason, .. } => Ok(reason),
            other => Err(other),
        }
    }
}

fn of_foreign(path: &Path, mode: u32) -> String {
    let (user, group) = own_names();
    let what = match path.symlink_metadata() {
        Ok(found) => format!("{} belongs to {}", path.display(), Name(found.uid())),
        Err(_) => format!("{} does not exist", path.display()),
    };
    let path = quoted(path);
    format!(
        "{what}, and user {user} runs this: as root, run: install -d -m {mode:o} -o {user} -g {group} {path}"
    )
}

/// Directories stay with their owner: the service and the other programs of that user need them.
fn of_owner(path: &Path, uid: u32, is_directory: bool) -> String {
    let own = rustix::process::geteuid().as_raw();
    if is_service(uid) {
        return format!("run this as user {SERVICE}, as the service does");
    }
    if is_directory {
        let own = own_name();
        return format!(
            "if that is the user of the daemon, run this as that user, or else name a directory of {own}"
        );
    }
    let name = User::from_uid(Uid::from_raw(own)).ok().flatten().map_or(own.to_string(), |user| user.name);
    format!("look what is in it, then, as root, run: chown -h {name} {}", quoted(path))
}

fn is_service(uid: u32) -> bool {
    User::from_name(SERVICE).is_ok_and(|user| user.is_some_and(|user| user.uid.as_raw() == uid))
}

fn own_name() -> String {
    match rustix::process::geteuid().as_raw() {
        0 => "root".into(),
        own => format!("root and {}", Name(own)),
    }
}

/// The names of the user and the group that run this, or their numbers, as chown takes them.
pub fn own_names() -> (String, String) {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let user = User::from_uid(uid).ok().flatten().map_or(uid.to_string(), |user| user.name);
    let group = Group::from_gid(gid).ok().flatten().map_or(gid.to_string(), |group| group.name);
    (user, group)
}

/// A user, for a person.
pub struct Name(pub u32);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match User::from_uid(Uid::from_raw(self.0)) {
            Ok(Some(user)) => write!(f, "user {} (id {})", user.name, self.0),
            _ => write!(f, "user id {}", self.0),
        }
    }
}

/// Looks at everything on a path, links followed, a directory at its end included; returns where it ends, without
/// a link, and what is there.
fn walk(path: &Path, owners: Owners) -> Result<(PathBuf, Metadata), OwnershipError> {
    let absolute = std::path::absolute(path).map_err(|reason| unreachable(path, reason))?;
    let mut found = PathBuf::from("/");
    let mut metadata = look(&found, owners)?;
    let mut ahead: VecDeque<OsString> = names(&absolute).collect();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if !metadata.is_dir() {
            return Err(unreachable(&found, io::ErrorKind::NotADirectory.into()));
        }
        refuse_exchange(&found, &metadata)?;
        let next = if name == ".." { parent(&found) } else { found.join(name) };
        let seen = look(&next, owners)?;
        if !seen.is_symlink() {
            (found, metadata) = (next, seen);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(unreachable(path, Errno::LOOP.into()));
        }
        let target = fs::read_link(&next).map_err(|reason| unreachable(&next, reason))?;
        if target.is_absolute() {
            found = PathBuf::from("/");
            metadata = look(&found, owners)?;
        }
        for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
            ahead.push_front(name);
        }
    }
    refuse_exchange(&found, &metadata)?;
    Ok((found, metadata))
}

fn look(path: &Path, owners: Owners) -> Result<Metadata, OwnershipError> {
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

/// As the kernel has it: above the root there is the root.
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

/// Anybody may make names in a sticky directory, but nobody can take away those of others.
fn refuse_exchange(path: &Path, metadata: &Metadata) -> Result<(), OwnershipError> {
    match metadata.is_dir() && metadata.mode() & STICKY == 0 {
        true => refuse_writable(path, metadata),
        false => Ok(()),
    }
}

/// An access control list that lets others write shows in the bits of the group (acl(5)).
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

/// The user of conf/systemd/keyward.sysusers.
pub const SERVICE: &str = "keyward";

/// S_ISVTX (inode(7)).
const STICKY: u32 = 0o1000;

/// As many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// In bytes. The authorities of a whole system have a quarter.
const LONGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_a_length() {
        let (directory, longest) = (tempfile::tempdir().unwrap(), usize::try_from(LONGEST).unwrap());
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
            let told = error.to_string();
            let (_, words) = told.split_once(&format!("run: {command} ")).unwrap();
            assert!(words.ends_with(quoted), "{told}");
        }
    }
}

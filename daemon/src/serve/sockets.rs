//! The sockets of the daemon: passed by systemd, or bound here.
//!
//! A socket appears under its name with its final permissions, never for a moment with others: it is bound
//! inside a directory that is closed to everyone else and moved from there. That directory is held by a
//! descriptor all the time: who owns the directory around it, as with one that is the root of a server, can put
//! links under its name, and nothing that we do is led astray.

use core::fmt;
use std::env;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process;

use keyward_client::Address;
use listenfd::ListenFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::ground::ownership::{self, Name, Owners, OwnershipError};
use crate::ground::text::quoted;

/// Where the daemon listens. The listeners themselves are with those who accept.
pub(crate) struct Sockets {
    runtime_dir: PathBuf,
    places: Vec<Place>,
}

/// A listener that is new, for whom it is, and the token that says that it is of no use any more.
pub(crate) struct Opened {
    pub(crate) listener: UnixListener,
    pub(crate) role: Role,
    pub(crate) replaced: CancellationToken,
}

/// For whom a socket is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Peers,
    Administrators,
}

impl Sockets {
    /// Takes the sockets that systemd passed; binds those that it did not, and the extra ones.
    ///
    /// # Errors
    /// [`SocketError`] says which socket is out of reach and why.
    pub(crate) fn open(runtime_dir: &Path, extra: &[Address]) -> Result<(Self, Vec<Opened>), SocketError> {
        let (mut opened, mut places) = (Vec::new(), Vec::new());
        let (mut kept, goes_on) = (Vec::new(), env::var_os(PLACES).is_some());
        for Passed { listener, role, at } in passed()? {
            if let Some((at, file)) = at {
                kept.push(Kept { listener, at, file });
                continue;
            }
            let path = listener.local_addr().ok().and_then(|at| at.as_pathname().map(Into::into));
            let mut place = Place { role, at: At::Passed(path), bound: None };
            opened.push(place.takes(listener, None)?);
            places.push(place);
        }
        for (role, name) in [(Role::Peers, PEERS), (Role::Administrators, ADMIN)] {
            if opened.iter().any(|passed: &Opened| passed.role == role) {
                continue;
            }
            let mut place = Place { role, at: At::Runtime(runtime_dir.join(name)), bound: None };
            opened.push(place.keep_or_bind(&mut kept, runtime_dir)?);
            places.push(place);
        }
        for address in extra {
            let mut place = Place { role: Role::Peers, at: At::Extra(address.to_string()), bound: None };
            match place.keep_or_bind(&mut kept, runtime_dir) {
                Ok(extra) => opened.push(extra),
                Err(error @ SocketError::Exposed { .. }) if !goes_on => return Err(error),
                // The owner of its directory can put something in the way, and must not stop the
                // daemon by that. Nor is one socket worth the others when the daemon has become
                // another program.
                Err(error) => tracing::error!("{error}; the other sockets are served"),
            }
            places.push(place);
        }
        // They are not configured any more.
        kept.iter().for_each(Kept::remove);
        Ok((Self { runtime_dir: runtime_dir.to_owned(), places }, opened))
    }

    /// Binds those again whose files are gone, as after somebody has cleaned the directory, and
    /// those that could not be bound before.
    pub(crate) fn reopen(&mut self) -> Vec<Opened> {
        let mut opened = Vec::new();
        for place in self.places.iter_mut().filter(|place| place.is_lost()) {
            if let At::Passed(Some(path)) = &place.at {
                tracing::error!(
                    "the socket {} is gone, and can be made again by systemd alone, which passed it: systemctl restart keyward.socket keyward-admin.socket keyward.service",
                    path.display()
                );
                continue;
            }
            match place.bind(&self.runtime_dir) {
                Ok(again) => {
                    tracing::info!(socket = %place.at, "bound again");
                    opened.push(again);
                }
                Err(error) => tracing::error!("{error}; the other sockets are served"),
            }
        }
        opened
    }

    /// All of them, for the program that is to take the place of this one.
    pub(crate) fn hand_over(self) -> Vec<HandedOver> {
        let handed = self.places.into_iter().filter_map(|place| {
            let file = place.bound.as_ref().and_then(|bound| bound.file);
            let at = match &place.at {
                At::Passed(_) => String::new(),
                at => written(at, file),
            };
            let name = if place.role == Role::Administrators { ADMINISTRATORS } else { "peers" };
            Some(HandedOver { listener: place.bound?.listener, name, at })
        });
        handed.collect()
    }
}

/// A socket for the program that is to take the place of this one.
pub(crate) struct HandedOver {
    pub(crate) listener: UnixListener,
    /// Its name for sd_listen_fds_with_names(3).
    pub(crate) name: &'static str,
    /// Where the daemon has bound it; empty for one that systemd has.
    pub(crate) at: String,
}

/// A socket that the daemon had bound before it became this program.
struct Kept {
    listener: UnixListener,
    at: String,
    /// The file that it was bound to; another one may have taken the name since.
    file: Option<FileId>,
}

impl Kept {
    /// Removes the file, if that is still the same one.
    fn remove(&self) {
        let path = Path::new(&self.at);
        let (Some(parent), Some(name), Some(file)) = (path.parent(), path.file_name(), self.file) else {
            return;
        };
        // Who owns the directory could put a link to another one in its place meanwhile.
        let Ok(parent) = open_directory(parent) else { return };
        let found = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == file) {
            let _ = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
        }
    }
}

/// A place in a line: the device and the inode of its file, zeros for one without, and where it is.
fn written(at: &At, file: Option<FileId>) -> String {
    let (device, inode) = file.unwrap_or_default();
    format!("{device} {inode} {}", line(at))
}

/// A place without line breaks: the runtime directory may have some.
fn line(at: &At) -> String {
    at.to_string().replace('\n', " ")
}

/// Reads what [`written`] gave.
fn read_place(line: &str) -> Option<(String, Option<FileId>)> {
    let mut parts = line.splitn(3, ' ');
    let file = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((parts.next()?.to_owned(), Some(file).filter(|file| *file != FileId::default())))
}

/// A socket that was passed to this process.
struct Passed {
    listener: UnixListener,
    role: Role,
    /// Where the daemon had bound it before it became this program, and its file.
    at: Option<(String, Option<FileId>)>,
}

/// The sockets of sd_listen_fds(3). One that is named `admin` is for administrators.
fn passed() -> Result<Vec<Passed>, SocketError> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<_> = names.split(':').collect();
    let places = env::var(PLACES).unwrap_or_default();
    let places: Vec<_> = places.split('\n').collect();
    let mut descriptors = ListenFd::from_env();
    let mut passed = Vec::new();
    for index in 0..descriptors.len() {
        let listener = descriptors.take_unix_listener(index).map_err(SocketError::Passed)?;
        let Some(listener) = listener else { continue };
        let role = match names.get(index) {
            Some(&ADMINISTRATORS) => Role::Administrators,
            _ => Role::Peers,
        };
        let at = places.get(index).and_then(|line| read_place(line));
        passed.push(Passed { listener, role, at });
    }
    Ok(passed)
}

/// Name of the socket for administrators in sd_listen_fds_with_names(3).
const ADMINISTRATORS: &str = "admin";

/// Variable of the environment with the place of each socket that is passed, a line each: empty for
/// one that the daemon has not bound.
pub(crate) const PLACES: &str = "KEYWARD_LISTEN_PLACES";

/// A place where the daemon is to listen.
struct Place {
    role: Role,
    at: At,
    /// What it listens on there, if it could.
    bound: Option<Bound>,
}

enum At {
    /// Wherever systemd has bound it: at a path, or under an abstract name.
    Passed(Option<PathBuf>),
    /// In the runtime directory.
    Runtime(PathBuf),
    /// Elsewhere, as the configuration says.
    Extra(String),
}

struct Bound {
    /// The same socket that somebody accepts at.
    listener: UnixListener,
    /// The file, if there is one, and we made it.
    file: Option<FileId>,
    replaced: CancellationToken,
}

/// What a file is told from others by, whatever its name: device and inode.
type FileId = (u64, u64);

impl Place {
    fn bind(&mut self, runtime_dir: &Path) -> Result<Opened, SocketError> {
        let (listener, file) = match &self.at {
            At::Passed(_) => return Err(SocketError::Passed(io::ErrorKind::InvalidInput.into())),
            At::Runtime(path) => {
                // Peers of every user must get through, and none of them may put another socket in
                // the place of ours.
                ownership::make_directories(runtime_dir)
                    .and_then(|()| ownership::check_directory(runtime_dir, Owners::Own))
                    .and_then(|()| ownership::check_writable(runtime_dir, 0o755))
                    .map_err(|reason| SocketError::RuntimeDir { path: runtime_dir.to_owned(), reason })?;
                // Anybody may knock at that for peers: who may do what is settled by grants.
                let mode = if self.role == Role::Peers { 0o666 } else { 0o600 };
                bind(path, mode).map(|(listener, file)| (listener, Some(file)))?
            }
            At::Extra(text) => match text.strip_prefix('@') {
                Some(name) => (bind_abstract(text, name)?, None),
                None => bind_extra(Path::new(text)).map(|(listener, file)| (listener, Some(file)))?,
            },
        };
        self.takes(listener, file)
    }

    /// Goes on with a socket that the daemon had bound before it became this program, or binds one.
    fn keep_or_bind(&mut self, kept: &mut Vec<Kept>, runtime_dir: &Path) -> Result<Opened, SocketError> {
        let at = line(&self.at);
        match kept.iter().position(|kept| kept.at == at) {
            Some(index) => {
                let Kept { listener, file, .. } = kept.swap_remove(index);
                self.takes(listener, file)
            }
            None => self.bind(runtime_dir),
        }
    }

    fn takes(&mut self, listener: UnixListener, file: Option<FileId>) -> Result<Opened, SocketError> {
        let replaced = CancellationToken::new();
        let same = listener.try_clone().map_err(SocketError::Passed)?;
        let bound = Bound { listener: same, file, replaced: replaced.clone() };
        if let Some(old) = self.bound.replace(bound) {
            old.replaced.cancel();
        }
        Ok(Opened { listener, role: self.role, replaced })
    }

    /// Whether nobody can connect there any more.
    fn is_lost(&self) -> bool {
        let Some(bound) = &self.bound else { return true };
        match (&self.at, bound.file) {
            // One that this user only cannot see is there for others.
            (At::Passed(path), _) => path.as_deref().is_some_and(|path| {
                let found = fs::symlink_metadata(path);
                found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            }),
            (At::Runtime(path), file) => file_id(path) != file,
            (At::Extra(text), Some(file)) => file_id(Path::new(text)) != Some(file),
            // An abstract name cannot be taken away.
            (At::Extra(_), None) => false,
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(path) => write!(f, "{}", path.as_deref().unwrap_or(Path::new("@")).display()),
            Self::Runtime(path) => write!(f, "{}", path.display()),
            Self::Extra(text) => f.write_str(text),
        }
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Name of the peers' socket in the runtime directory.
pub(crate) const PEERS: &str = "keyward.sock";

/// Name of the administrators' socket in the runtime directory.
pub(crate) const ADMIN: &str = "admin.sock";

/// Why there is no socket to listen on.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    #[error("cannot listen on {}: {reason}", path.display())]
    Bind { path: PathBuf, reason: io::Error },
    #[error(
        "cannot listen on {}: there is a socket of {}; if no daemon of that user runs, as root, run: rm {}",
        path.display(), Name(*uid), quoted(path)
    )]
    Foreign { path: PathBuf, uid: u32 },
    #[error("cannot listen on {}: another daemon answers there", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {}: {reason}", path.display())]
    Exposed { path: PathBuf, reason: OwnershipError },
    #[error("cannot listen on {}: there is something that is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot use a socket that was passed in LISTEN_FDS: {0}")]
    Passed(io::Error),
    #[error("cannot use the runtime directory {}: {reason}", path.display())]
    RuntimeDir { path: PathBuf, reason: OwnershipError },
}

/// What is known of a socket under a name, without waiting for somebody who is too busy to accept.
fn connect(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

/// Binds a socket in a directory that is meant for a server, and may be its own: that server can
/// only deceive itself. Where every user can write, each could deceive it, and be there first in a
/// sticky directory.
fn bind_extra(path: &Path) -> Result<(UnixListener, FileId), SocketError> {
    check_extra(path).map_err(|reason| SocketError::Exposed { path: path.to_owned(), reason })?;
    bind(path, 0o666)
}

/// Checks the directory of an extra socket.
///
/// # Errors
/// [`OwnershipError`] if the daemon would not bind one there.
pub(crate) fn check_extra(path: &Path) -> Result<(), OwnershipError> {
    ownership::check_directory(path.parent().unwrap_or(Path::new("/")), Owners::Any)
}

fn bind(path: &Path, mode: u32) -> Result<(UnixListener, FileId), SocketError> {
    let failed = |reason| SocketError::Bind { path: path.to_owned(), reason };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(found) => match connect(path) {
            // Only a socket that nobody listens on refuses.
            Err(Errno::CONNREFUSED) => {}
            Err(Errno::ACCESS) => {
                return Err(SocketError::Foreign { path: path.to_owned(), uid: found.uid() });
            }
            // Whatever else happens, somebody is there.
            _ => return Err(SocketError::InUse(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let parent = open_directory(parent).map_err(|error| failed(error.into()))?;
    let private = PrivateDirectory::make(parent.as_fd()).map_err(failed)?;
    private.bind(Path::new(name), Mode::from_raw_mode(mode)).map_err(failed)
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A directory inside of another one, closed to everyone else, that nobody can exchange.
struct PrivateDirectory<'a> {
    parent: BorrowedFd<'a>,
    name: String,
    directory: OwnedFd,
}

impl<'a> PrivateDirectory<'a> {
    fn make(parent: BorrowedFd<'a>) -> io::Result<Self> {
        let name = format!(".{}", process::id());
        // A process of the same number, as there are in containers, may have been killed before it removed this.
        if let Ok(directory) = Self::open(parent, &name) {
            empty(&directory);
            rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
        }
        rustix::fs::mkdirat(parent, &name, Mode::RWXU)?;
        // Once it is open, it does not matter what its name leads to.
        let directory = Self::open(parent, &name)?;
        Ok(Self { parent, name, directory })
    }

    /// Opens one, if it is ours and closed.
    fn open(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let found = rustix::fs::fstat(&directory)?;
        let is_ours = found.st_uid == rustix::process::geteuid().as_raw();
        match is_ours && !Mode::from_raw_mode(found.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
            true => Ok(directory),
            false => Err(io::Error::other("somebody else makes directories there")),
        }
    }

    /// Binds a socket and moves it to its name in the directory around this one.
    fn bind(self, name: &Path, mode: Mode) -> io::Result<(UnixListener, FileId)> {
        let listener = UnixListener::bind(path_of(&self.directory).join(name))?;
        rustix::fs::chmodat(&self.directory, name, mode, AtFlags::empty())?;
        let file = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::renameat(&self.directory, name, self.parent, name)?;
        Ok((listener, (file.st_dev, file.st_ino)))
    }
}

impl Drop for PrivateDirectory<'_> {
    fn drop(&mut self) {
        empty(&self.directory);
        let _ = rustix::fs::unlinkat(self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

/// Removes the socket that may be left in a directory.
fn empty(directory: &OwnedFd) {
    for entry in fs::read_dir(path_of(directory)).into_iter().flatten().flatten() {
        let _ = rustix::fs::unlinkat(directory, entry.file_name(), AtFlags::empty());
    }
}

/// A path to an open directory, whatever has become of its name.
fn path_of(directory: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", directory.as_raw_fd()).into()
}

fn bind_abstract(address: &str, name: &str) -> Result<UnixListener, SocketError> {
    let bound = SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
    bound.map_err(|reason| match reason.kind() {
        io::ErrorKind::AddrInUse => SocketError::InUse(address.into()),
        _ => SocketError::Bind { path: address.into(), reason },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn sockets_have_their_permissions_and_leave_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = dir.path().join("a/run");
        let (mut sockets, opened) = Sockets::open(&runtime_dir, &[]).unwrap();
        assert_eq!(mode(&runtime_dir), 0o755);
        assert_eq!(mode(&runtime_dir.join(PEERS)), 0o666);
        assert_eq!(mode(&runtime_dir.join(ADMIN)), 0o600);
        assert_eq!(fs::read_dir(&runtime_dir).unwrap().count(), 2);
        assert!(sockets.reopen().is_empty() && opened.iter().all(|one| !one.replaced.is_cancelled()));
    }

    #[test]
    fn a_socket_in_the_place_of_a_lost_one_has_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let (mut sockets, opened) = Sockets::open(dir.path(), &[]).unwrap();
        let path = dir.path().join(ADMIN);
        fs::remove_file(&path).unwrap();
        let again = sockets.reopen();
        assert_eq!(again.iter().map(|one| one.role).collect::<Vec<_>>(), [Role::Administrators]);
        assert_eq!(mode(&path), 0o600);
        let replaced: Vec<_> = opened.iter().map(|one| one.replaced.is_cancelled()).collect();
        assert_eq!(replaced, [false, true]);
        // Somebody else has taken the place.
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        assert!(sockets.reopen().is_empty() && !again[0].replaced.is_cancelled());
        fs::remove_file(&path).unwrap();
        assert_eq!(sockets.reopen().len(), 1);
    }

    #[test]
    fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = bind(&path, 0o666).unwrap();
        assert!(matches!(bind(&path, 0o666), Err(SocketError::InUse(_))));
        drop(listener);
        // As a daemon leaves it that is killed in the middle of this.
        let left = dir.path().join(format!(".{}", process::id()));
        fs::DirBuilder::new().mode(0o700).create(&left).unwrap();
        drop(UnixListener::bind(left.join("s")).unwrap());
        let _listener = bind(&path, 0o666).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, 0o666), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}

//! Whether servers can reach the socket: from where they are, and as the user that they run as.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use keyward_client::{Address, Client, Error, InvalidAddress};
use nix::unistd::{Uid, User, getgrouplist};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;

use super::grants::Credentials;
use super::{Finding, Verdict, environment};
use crate::ground::text::quoted;

/// Where servers are told that the socket is.
#[derive(Clone)]
pub(super) struct Told {
    /// An address, as the provider takes it.
    pub(super) socket: String,
    /// The setting that says so.
    pub(super) setting: &'static str,
    /// The same, and where it stands.
    pub(super) source: String,
}

/// Whether the sockets answer: that in the runtime directory, and that which servers are told to use, with the eyes of
/// the user of a server where one is named.
pub(super) fn sockets(
    own: &Path,
    told: Option<&Told>,
    chroot: Option<&Path>,
    person: Option<&Person>,
) -> Vec<Finding> {
    const CHECK: &str = "socket";
    let own = own.display().to_string();
    let socket = told.map_or(&*own, |told| &told.socket);
    let source = told.map_or(String::new(), |told| format!(" ({})", told.source));
    let answer = |address: &str, source: &str, mend: &str| match answers(address) {
        Ok(uid) => Finding::ok(CHECK, format!("{address} answers, to user id {uid}{source}")),
        Err(error) => Finding::fail(CHECK, format!("{error}{source}"), mend),
    };
    let same = if socket == own { &*source } else { "" };
    let mut findings = vec![answer(&own, same, "start the daemon, or look at its log if it runs")];
    let elsewhere = || {
        let setting = told.map_or("socket in openssl.cnf", |told| told.setting);
        let mend = format!(
            "let {setting} name a socket of the daemon, or add it to [socket] also; if the server is in a chroot, \
             say in which: --chroot DIR"
        );
        answer(socket, &source, &mend)
    };
    match chroot {
        // A name in the abstract namespace stands in no directory (unix(7)).
        _ if socket.starts_with('@') => findings.push(elsewhere()),
        Some(root) => findings.push(inside(root, socket, &source, person)),
        None => {
            if socket != own {
                findings.push(elsewhere());
            }
            findings.extend(person.map(|person| check(person, Path::new(socket), Path::new("/"))));
        }
    }
    findings
}

/// Whether a server that looks for the daemon at an address reaches this one. `own` is the socket
/// in the runtime directory, `root` the directory that the server has gone into.
pub(super) fn of_server(own: &Path, told: &Told, root: Option<&Path>, person: &Person) -> Vec<Finding> {
    let (socket, source) = (&*told.socket, format!(" ({})", told.source));
    if let Some(root) = root.filter(|_| !socket.starts_with('@')) {
        return vec![inside(root, socket, &source, Some(person))];
    }
    let by_itself = match answers(socket) {
        Ok(_) => Finding::ok("socket", format!("{socket} answers{source}")),
        Err(error) => Finding::fail(
            "socket",
            format!("{error}{source}"),
            format!("let {} name a socket of the daemon, such as {}", told.setting, own.display()),
        ),
    };
    let is_path = socket.starts_with('/');
    [by_itself].into_iter().chain(is_path.then(|| check(person, Path::new(socket), Path::new("/")))).collect()
}

/// Whether the process that listens on an address is that on our own socket: the daemon, or systemd
/// for it.
pub(super) fn is_of_daemon(own: &Path, address: &str) -> bool {
    let own = own.to_string_lossy();
    address == own || listener(&own).is_some_and(|own| listener(address) == Some(own))
}

/// Whether anybody listens on an address.
pub(super) fn is_listened_on(address: &str) -> bool {
    listener(address).is_some()
}

/// The process that listens on an address.
fn listener(address: &str) -> Option<Pid> {
    let name = match address.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?,
        None => SocketAddrUnix::new(address).ok()?,
    };
    // Of somebody who accepts nothing, nobody waits for an answer.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    rustix::net::connect(&stream, &name).ok()?;
    rustix::net::sockopt::socket_peercred(&stream).ok().map(|peer| peer.pid)
}

/// Whether a daemon is on the other end of a socket, and as which user it sees us; otherwise why not.
fn answers(address: &str) -> Result<u32, String> {
    let address: Address = address.parse().map_err(|error: InvalidAddress| error.to_string())?;
    let status = Client::new(address, Client::DEFAULT_TIMEOUT).status();
    status.map(|status| status.peer_uid).map_err(|error: Error| error.to_string())
}

/// Whether a process that has gone into a chroot finds a socket there. `source` says who told it to look for this one.
fn inside(root: &Path, socket: &str, source: &str, person: Option<&Person>) -> Finding {
    let there_is_none = match fs::metadata(root) {
        Ok(found) => !found.is_dir(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if there_is_none {
        let detail = format!("there is no directory {}", root.display());
        return Finding::fail(CHROOT, detail, "name the one that the server goes into: --chroot DIR");
    }
    let outside = root.join(socket.trim_start_matches('/'));
    let shown = outside.display();
    let fail = |why: String| {
        Finding::fail(
            CHROOT,
            format!("from inside {} the socket {socket}{source} cannot be reached: {why}", root.display()),
            format!(
                "give the daemon one there: also = [\"{shown}\"] under [socket] of keyward.toml, or with systemd \
                 ListenStream={shown} for keyward.socket; and have the server look for it: socket = {socket} in its \
                 openssl.cnf, or KEYWARD_SOCKET={socket} in its environment"
            ),
        )
    };
    let found = match fs::metadata(&outside) {
        Ok(found) => found,
        Err(error) => return fail(format!("cannot look at {shown}: {error}")),
    };
    if !found.file_type().is_socket() {
        return fail(format!("{shown} is no socket"));
    }
    let within = |path: &Path| path.canonicalize().ok().zip(root.canonicalize().ok());
    if !within(&outside).is_some_and(|(path, root)| path.starts_with(root)) {
        return fail(format!("{shown} leads out of it, by a symbolic link"));
    }
    if let Some(person) = person {
        let finding = check(person, &outside, root);
        if finding.verdict == Verdict::Fail {
            return finding;
        }
    }
    match answers(&outside.display().to_string()) {
        Ok(_) => {
            Finding::ok(CHROOT, format!("from inside {} the socket {socket} answers{source}", root.display()))
        }
        Err(error) => fail(error),
    }
}

/// Follows the path to the socket as the user would, by owners and modes, from a directory on.
fn check(person: &Person, socket: &Path, from: &Path) -> Finding {
    let name = &person.name;
    match person.passes(socket, from) {
        Ok(()) => {}
        Err(Obstacle::Closed(directory, mode)) => {
            return Finding::fail(
                CHECK,
                format!("{name} cannot pass {} (mode {mode:o})", directory.display()),
                format!(
                    "chmod a+x {}, or add a socket where {name} can go to [socket] also",
                    quoted(directory)
                ),
            );
        }
        Err(Obstacle::Unknown(directory, error)) => {
            let detail = format!("cannot look at {}: {error}", directory.display());
            return Finding::fail(CHECK, detail, "start the daemon");
        }
    }
    match fs::metadata(socket) {
        Ok(found) if person.may(&found, WRITE) => {
            Finding::ok(CHECK, format!("{name} can reach {}", socket.display()))
        }
        Ok(found) => Finding::fail(
            CHECK,
            format!("{name} may not write to {} (mode {:o})", socket.display(), found.mode() & 0o7777),
            format!("chmod a+w {}; who may do what is settled by grants", quoted(socket)),
        ),
        Err(error) => {
            Finding::fail(CHECK, format!("cannot look at {}: {error}", socket.display()), "start the daemon")
        }
    }
}

/// A user and all groups of theirs.
pub(super) struct Person {
    name: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// What is in the way to a file.
enum Obstacle<'a> {
    /// A directory that the user may not pass, by its mode.
    Closed(&'a Path, u32),
    /// A directory that cannot be looked at.
    Unknown(&'a Path, io::Error),
}

impl Person {
    /// The user of a name.
    ///
    /// # Errors
    /// That there is none, as a finding.
    pub(super) fn of_name(name: &str) -> Result<Self, Finding> {
        let user = match User::from_name(name) {
            Ok(Some(user)) => user,
            Ok(None) => {
                let detail = format!("there is no user {name}");
                return Err(Finding::fail(CHECK, detail, "name the user that the server runs as"));
            }
            Err(error) => {
                let detail = format!("cannot look up user {name}: {error}");
                return Err(Finding::fail(CHECK, detail, "see nsswitch.conf(5)"));
            }
        };
        let groups =
            CString::new(name).ok().and_then(|name| getgrouplist(&name, user.gid).ok()).unwrap_or_default();
        Ok(Self {
            name: name.into(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.iter().map(|gid| gid.as_raw()).chain([user.gid.as_raw()]).collect(),
        })
    }

    /// The user of a process, with the groups that it has.
    pub(super) fn of_process(pid: u32) -> Option<Self> {
        let status = environment::read(pid, "status").ok()?;
        let credentials = Credentials::of_status(&String::from_utf8_lossy(&status))?;
        let uid = credentials.uid();
        let (gid, groups) = credentials.groups();
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name = user.map_or_else(|| format!("user id {uid}"), |user| user.name);
        Some(Self { name, uid, gid, groups: groups.iter().copied().chain([gid]).collect() })
    }

    /// The line of a grant that names them.
    pub(super) fn in_grant(&self) -> String {
        match User::from_name(&self.name) {
            Ok(Some(_)) => format!("user = {:?}", self.name),
            _ => format!("uid = {}", self.uid),
        }
    }

    /// What they are called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Their number.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// The number of their first group.
    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    /// Why the user cannot read a file that is there; `None` if they can.
    pub(super) fn cannot_read(&self, file: &Path) -> Option<String> {
        let (name, shown) = (&self.name, file.display());
        let whole = std::path::absolute(file).ok()?;
        if let Err(Obstacle::Closed(directory, mode)) = self.passes(&whole, Path::new("/")) {
            return Some(format!("{name} cannot pass {} (mode {mode:o})", directory.display()));
        }
        let found = fs::metadata(file).ok().filter(|found| !self.may(found, READ))?;
        Some(format!("{name} may not read {shown} (mode {:o})", found.mode() & 0o7777))
    }

    /// Whether the user may pass every directory on the way to a file, from one of them on.
    fn passes<'a>(&self, file: &'a Path, from: &Path) -> Result<(), Obstacle<'a>> {
        let mut directories: Vec<_> =
            file.ancestors().skip(1).filter(|directory| directory.starts_with(from)).collect();
        directories.reverse();
        for directory in directories {
            let found = fs::metadata(directory).map_err(|error| Obstacle::Unknown(directory, error))?;
            if !self.may(&found, EXECUTE) {
                return Err(Obstacle::Closed(directory, found.mode() & 0o7777));
            }
        }
        Ok(())
    }

    /// Whether the mode gives a permission, which is one of the bits of "others" (path_resolution(7)).
    fn may(&self, file: &Metadata, permission: u32) -> bool {
        self.may_by(file.uid(), file.gid(), file.mode(), permission)
    }

    fn may_by(&self, owner: u32, group: u32, mode: u32, permission: u32) -> bool {
        let class = if self.uid == owner {
            6
        } else if self.groups.contains(&group) {
            3
        } else {
            0
        };
        self.uid == 0 || (mode >> class) & permission != 0
    }
}

const CHECK: &str = "user";
pub(super) const CHROOT: &str = "chroot";

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const EXECUTE: u32 = 0o1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let person = Person { name: "www".into(), uid: 33, gid: 33, groups: vec![33, 50] };
        assert!(person.may_by(33, 0, 0o100, EXECUTE));
        assert!(!person.may_by(33, 0, 0o011, EXECUTE), "the owner has no part in what others may");
        assert!(person.may_by(0, 50, 0o010, EXECUTE));
        assert!(!person.may_by(0, 50, 0o001, EXECUTE));
        assert!(person.may_by(0, 0, 0o666, WRITE));
        assert!(!person.may_by(0, 0, 0o660, WRITE));
        let root = Person { name: "root".into(), uid: 0, gid: 0, groups: vec![0] };
        assert!(root.may_by(33, 33, 0, WRITE));
    }
}

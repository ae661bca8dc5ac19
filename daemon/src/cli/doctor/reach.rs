//! Whether a user can reach the socket.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{User, getgrouplist};

use super::Finding;

/// Follows the path to the socket as the user would, by owners and modes.
pub(super) fn check(person: &Person, socket: &Path) -> Finding {
    let name = &person.name;
    match person.passes(socket) {
        Ok(()) => {}
        Err(Obstacle::Closed(directory, mode)) => {
            let directory = directory.display();
            return Finding::fail(
                CHECK,
                format!("{name} cannot pass {directory} (mode {mode:o})"),
                format!("chmod a+x {directory}, or add a socket where {name} can go to [socket] also"),
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
            format!("chmod a+w {}; who may do what is settled by grants", socket.display()),
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
            groups: groups.iter().map(|gid| gid.as_raw()).chain([user.gid.as_raw()]).collect(),
        })
    }

    /// Why the user cannot read a file that is there; `None` if they can.
    pub(super) fn cannot_read(&self, file: &Path) -> Option<String> {
        let (name, shown) = (&self.name, file.display());
        if let Err(Obstacle::Closed(directory, mode)) = self.passes(file) {
            return Some(format!("{name} cannot pass {} (mode {mode:o})", directory.display()));
        }
        let found = fs::metadata(file).ok().filter(|found| !self.may(found, READ))?;
        Some(format!("{name} may not read {shown} (mode {:o})", found.mode() & 0o7777))
    }

    /// Whether the user may pass every directory on the way to a file.
    fn passes<'a>(&self, file: &'a Path) -> Result<(), Obstacle<'a>> {
        let mut directories: Vec<_> = file.ancestors().skip(1).collect();
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

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const EXECUTE: u32 = 0o1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let person = Person { name: "www".into(), uid: 33, groups: vec![33, 50] };
        assert!(person.may_by(33, 0, 0o100, EXECUTE));
        assert!(!person.may_by(33, 0, 0o011, EXECUTE), "the owner has no part in what others may");
        assert!(person.may_by(0, 50, 0o010, EXECUTE));
        assert!(!person.may_by(0, 50, 0o001, EXECUTE));
        assert!(person.may_by(0, 0, 0o666, WRITE));
        assert!(!person.may_by(0, 0, 0o660, WRITE));
        let root = Person { name: "root".into(), uid: 0, groups: vec![0] };
        assert!(root.may_by(33, 33, 0, WRITE));
    }
}

//! User accounts, and the files that their permissions let them reach.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::finding::Finding;
use super::proc::{self, Credentials};
use crate::ground::text::quoted;

/// A user with all groups.
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    groups: Vec<u32>,
}

/// Reason why an account does not reach a file.
pub(super) enum Obstacle<'a> {
    /// A directory that the account may not pass, and its mode.
    Closed(&'a Path, u32),
    /// A directory that this process cannot examine.
    Unknown(&'a Path, io::Error),
}

impl Account {
    /// The account with a name, and its groups in the group database.
    ///
    /// # Errors
    /// A finding, if there is no such account.
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

    /// The account with a number, and its groups in the group database. A number without a name has
    /// no group of another number.
    pub(super) fn of_uid(uid: u32) -> Self {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        user.and_then(|user| Self::of_name(&user.name).ok()).unwrap_or_else(|| Self {
            name: format!("user id {uid}"),
            uid,
            gid: uid,
            groups: vec![uid],
        })
    }

    /// The account that a process runs as, with the groups of the process.
    pub(super) fn of_process(pid: u32) -> Option<Self> {
        let status = proc::read(pid, "status").ok()?;
        let Credentials { uid, gid, groups } = Credentials::of_status(&String::from_utf8_lossy(&status))?;
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name = user.map_or_else(|| format!("user id {uid}"), |user| user.name);
        Some(Self { name, uid, gid, groups: groups.into_iter().chain([gid]).collect() })
    }

    /// The line of a grant that names the account.
    pub(super) fn grant_line(&self) -> String {
        match User::from_name(&self.name) {
            Ok(Some(_)) => format!("user = {:?}", self.name),
            _ => format!("uid = {}", self.uid),
        }
    }

    /// Reason why the account cannot read an existing file; `None` if the account can.
    pub(super) fn cannot_read(&self, file: &Path) -> Option<String> {
        self.closed_to_reader(file).map(|(reason, _)| reason)
    }

    /// Reason why the account cannot read an existing file, or list a directory, and the command
    /// that lets its group do so.
    pub(super) fn closed_to_reader(&self, file: &Path) -> Option<(String, String)> {
        let name = &self.name;
        let group = Group::from_gid(Gid::from_raw(self.gid)).ok().flatten();
        let group = group.map_or_else(|| self.gid.to_string(), |group| group.name);
        let command = |path: &Path, bits: &str| {
            let path = quoted(path);
            format!("chgrp {group} {path} && chmod g+{bits} {path}")
        };
        let whole = std::path::absolute(file).ok()?;
        if let Err(Obstacle::Closed(directory, mode)) = self.passes(&whole, Path::new("/")) {
            let reason = format!("{name} cannot pass {} (mode {mode:o})", directory.display());
            return Some((reason, command(directory, "rx")));
        }
        let found = fs::metadata(file).ok().filter(|found| !self.may(found, READ))?;
        let reason = format!("{name} may not read {} (mode {:o})", file.display(), found.mode() & 0o7777);
        Some((reason, command(file, if found.is_dir() { "rx" } else { "r" })))
    }

    /// Checks that the account may pass every directory of a path, from the directory `from` on.
    ///
    /// # Errors
    /// The first directory that the account cannot pass.
    pub(super) fn passes<'a>(&self, file: &'a Path, from: &Path) -> Result<(), Obstacle<'a>> {
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

    /// True if the mode of the file lets the account write to it.
    pub(super) fn may_write(&self, file: &Metadata) -> bool {
        self.may(file, WRITE)
    }

    /// True if the mode gives a permission, which is one of the bits of "others"
    /// (path_resolution(7)).
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

pub(super) const CHECK: &str = "user";

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const EXECUTE: u32 = 0o1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let account = Account { name: "www".into(), uid: 33, gid: 33, groups: vec![33, 50] };
        assert!(account.may_by(33, 0, 0o100, EXECUTE));
        assert!(!account.may_by(33, 0, 0o011, EXECUTE), "the bits of others do not count for the owner");
        assert!(account.may_by(0, 50, 0o010, EXECUTE));
        assert!(!account.may_by(0, 50, 0o001, EXECUTE));
        assert!(account.may_by(0, 0, 0o666, WRITE));
        assert!(!account.may_by(0, 0, 0o660, WRITE));
        let root = Account { name: "root".into(), uid: 0, gid: 0, groups: vec![0] };
        assert!(root.may_by(33, 33, 0, WRITE));
    }
}

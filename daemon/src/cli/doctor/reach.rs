//! Whether a user can reach the socket.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{User, getgrouplist};

use super::Finding;

/// Follows the path to the socket as the user would, by owners and modes.
pub(super) fn check(name: &str, socket: &Path) -> Finding {
    let check = "user";
    let user = match User::from_name(name) {
        Ok(Some(user)) => user,
        Ok(None) => {
            return Finding::fail(
                check,
                format!("there is no user {name}"),
                "name the user that the server runs as",
            );
        }
        Err(error) => {
            return Finding::fail(
                check,
                format!("cannot look up user {name}: {error}"),
                "see nsswitch.conf(5)",
            );
        }
    };
    let groups =
        CString::new(name).ok().and_then(|name| getgrouplist(&name, user.gid).ok()).unwrap_or_default();
    let person = Person {
        uid: user.uid.as_raw(),
        groups: groups.iter().map(|gid| gid.as_raw()).chain([user.gid.as_raw()]).collect(),
    };
    let mut directories: Vec<_> = socket.ancestors().skip(1).collect();
    directories.reverse();
    for directory in directories {
        match fs::metadata(directory) {
            Ok(found) if person.may(&found, EXECUTE) => {}
            Ok(found) => {
                return Finding::fail(
                    check,
                    format!("{name} cannot pass {} (mode {:o})", directory.display(), found.mode() & 0o7777),
                    format!(
                        "chmod a+x {}, or add a socket where {name} can go to [socket] also",
                        directory.display()
                    ),
                );
            }
            Err(error) => {
                return Finding::fail(
                    check,
                    format!("cannot look at {}: {error}", directory.display()),
                    "start the daemon",
                );
            }
        }
    }
    match fs::metadata(socket) {
        Ok(found) if person.may(&found, WRITE) => {
            Finding::ok(check, format!("{name} can reach {}", socket.display()))
        }
        Ok(found) => Finding::fail(
            check,
            format!("{name} may not write to {} (mode {:o})", socket.display(), found.mode() & 0o7777),
            format!("chmod a+w {}; who may do what is settled by grants", socket.display()),
        ),
        Err(error) => {
            Finding::fail(check, format!("cannot look at {}: {error}", socket.display()), "start the daemon")
        }
    }
}

struct Person {
    uid: u32,
    groups: Vec<u32>,
}

impl Person {
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

const WRITE: u32 = 0o2;
const EXECUTE: u32 = 0o1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let person = Person { uid: 33, groups: vec![33, 50] };
        assert!(person.may_by(33, 0, 0o100, EXECUTE));
        assert!(!person.may_by(33, 0, 0o011, EXECUTE), "the owner has no part in what others may");
        assert!(person.may_by(0, 50, 0o010, EXECUTE));
        assert!(!person.may_by(0, 50, 0o001, EXECUTE));
        assert!(person.may_by(0, 0, 0o666, WRITE));
        assert!(!person.may_by(0, 0, 0o660, WRITE));
        assert!(Person { uid: 0, groups: vec![0] }.may_by(33, 33, 0, WRITE));
    }
}

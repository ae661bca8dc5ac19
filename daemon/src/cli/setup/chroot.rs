//! The socket for an HAProxy that changes its root: a drop-in of keyward.socket. A socket cannot be
//! added without a restart later, so the first start of the service gets it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::files;
use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::peers;
use crate::servers::haproxy;

/// Writes the drop-in, if the HAProxy of this host has a `chroot` and the drop-in is missing.
/// Returns its path. `root` is the root directory.
///
/// # Errors
/// [`Failure`] if the drop-in cannot be made.
pub(super) fn add_socket(root: &Path) -> Result<Option<PathBuf>, Failure> {
    let chroot = haproxy::chroot(&root.join(HAPROXY)).filter(|chroot| chroot != Path::new("/"));
    let Some(chroot) = chroot.filter(|chroot| root.join(chroot.strip_prefix("/").unwrap_or(chroot)).is_dir())
    else {
        return Ok(None);
    };
    let directory = root.join(DROP_INS);
    let file = directory.join(FILE);
    if file.exists() {
        return Ok(None);
    }
    let made = DirBuilder::new().mode(0o755).create(&directory);
    let made = made.or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    });
    // The umask of this process is strict.
    made.and_then(|()| fs::set_permissions(&directory, Permissions::from_mode(0o755))).map_err(|reason| {
        Failure::new(exit::CANNOT_CREATE, format_args!("cannot make {}: {reason}", directory.display()))
    })?;
    let socket = chroot.join(peers::SOCKET);
    let text = format!(
        "# HAProxy sees no other directory. Written by keyward setup.\n[Socket]\nListenStream={}\n",
        socket.display()
    );
    files::make(&file, text.as_bytes(), 0o644, None)?;
    Ok(Some(file))
}

const HAPROXY: &str = "etc/haproxy/haproxy.cfg";
const DROP_INS: &str = "etc/systemd/system/keyward.socket.d";
const FILE: &str = "haproxy.conf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chroot_gets_a_socket_once() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        assert_eq!(add_socket(root.path()).unwrap(), None, "no HAProxy");
        for directory in ["etc/haproxy", "etc/systemd/system"] {
            fs::create_dir_all(path(directory)).unwrap();
        }
        fs::write(path(HAPROXY), "global\n\tlog /dev/log local0\n\tchroot /var/lib/haproxy # here\n")
            .unwrap();
        assert_eq!(add_socket(root.path()).unwrap(), None, "no such directory");
        fs::create_dir_all(path("var/lib/haproxy")).unwrap();
        let file = add_socket(root.path()).unwrap().unwrap();
        assert_eq!(file, path(DROP_INS).join(FILE));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.ends_with("[Socket]\nListenStream=/var/lib/haproxy/keyward.sock\n"), "{text}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(add_socket(root.path()).unwrap(), None, "it is there");
        fs::write(path(HAPROXY), "global\n\tchroot /\n").unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(add_socket(root.path()).unwrap(), None, "the root is no chroot");
    }
}

use core::fmt;
use core::str::FromStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::net::SocketAddrUnix;
use thiserror::Error;

/// Where the daemon listens: a path, or `@name` for a name in the abstract namespace (see unix(7)).
#[derive(Clone, Eq, PartialEq)]
pub struct Address {
    text: PathBuf,
    socket: SocketAddrUnix,
}

impl Address {
    /// Where a daemon listens that was started without `--runtime-dir`.
    pub const DEFAULT: &str = "/run/keyward/keyward.sock";

    /// The address of a socket in the file system.
    ///
    /// # Errors
    /// [`InvalidAddress`] if the path is relative or longer than the 107 bytes of unix(7).
    pub fn from_path(path: &Path) -> Result<Self, InvalidAddress> {
        // A relative path would mean something else in each process that changes its directory.
        let socket = Some(path)
            .filter(|path| path.is_absolute())
            .and_then(|path| SocketAddrUnix::new(path).ok())
            .ok_or_else(|| InvalidAddress(path.display().to_string()))?;
        Ok(Self { text: path.to_owned(), socket })
    }

    pub(crate) fn socket(&self) -> &SocketAddrUnix {
        &self.socket
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let Some(name) = text.strip_prefix('@').filter(|name| !name.is_empty()) else {
            return Self::from_path(Path::new(text));
        };
        let socket = SocketAddrUnix::new_abstract_name(name.as_bytes());
        let socket = socket.map_err(|_| InvalidAddress(text.to_owned()))?;
        Ok(Self { text: text.into(), socket })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.display().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.as_os_str().as_bytes().escape_ascii().fmt(f)
    }
}

/// A text that is not the address of a socket.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[error("not the address of a socket: {0:?}; give an absolute path of at most 107 bytes, or @name")]
pub struct InvalidAddress(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_abstract_names() {
        assert_eq!("/run/k.sock".parse::<Address>().unwrap().to_string(), "/run/k.sock");
        let name = "@keyward".parse::<Address>().unwrap();
        assert_eq!(name.socket().abstract_name(), Some(&b"keyward"[..]));
        for bad in ["", "@", "run/k.sock", &format!("/{}", "x".repeat(108))] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }
}

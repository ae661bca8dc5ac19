use core::fmt;
use core::str::FromStr;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use thiserror::Error;

/// Address of the daemon's socket: an absolute path of at most 107 bytes, or `@name` in the
/// abstract namespace (unix(7)).
///
/// ```
/// use std::path::Path;
///
/// use keyward_client::Address;
///
/// let address: Address = "/run/keyward/keyward.sock".parse()?;
/// assert_eq!(address, Address::DEFAULT);
/// assert_eq!(address, Address::try_from(Path::new("/run/keyward/keyward.sock"))?);
/// # Ok::<(), keyward_client::InvalidAddress>(())
/// ```
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Address(Cow<'static, [u8]>);

impl Address {
    /// Address of a daemon that was started without `--runtime-dir`: `/run/keyward/keyward.sock`.
    pub const DEFAULT: Self = Self(Cow::Borrowed(b"/run/keyward/keyward.sock"));

    fn new(text: &[u8]) -> Result<Self, InvalidAddress> {
        let address = Self(Cow::Owned(text.to_vec()));
        // A relative path would mean another file in each process that changes its directory.
        let is_full = text.starts_with(b"/") || (text.starts_with(b"@") && text.len() > 1);
        match is_full && address.socket().is_ok() {
            true => Ok(address),
            false => Err(InvalidAddress(address.to_string())),
        }
    }

    /// The address as the kernel takes it.
    pub(crate) fn socket(&self) -> Result<SocketAddrUnix, Errno> {
        match self.0.strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name),
            None => SocketAddrUnix::new(&*self.0),
        }
    }
}

impl Default for Address {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        Self::new(text.as_bytes())
    }
}

impl TryFrom<&Path> for Address {
    type Error = InvalidAddress;

    /// Takes the address of a socket in the file system, whose path need not be UTF-8.
    fn try_from(path: &Path) -> Result<Self, InvalidAddress> {
        match path.is_absolute() {
            true => Self::new(path.as_os_str().as_bytes()),
            false => Err(InvalidAddress(path.display().to_string())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OsStr::from_bytes(&self.0).display().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
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
        assert_eq!(name.socket().unwrap().abstract_name(), Some(&b"keyward"[..]));
        for bad in ["", "@", "run/k.sock", "/a\0b", &format!("/{}", "x".repeat(108))] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_is_never_an_abstract_name() {
        assert!(Address::try_from(Path::new("@keyward")).is_err());
        let path = Path::new(OsStr::from_bytes(b"/run/\xff.sock"));
        let socket = Address::try_from(path).unwrap().socket().unwrap();
        assert_eq!(socket.path_bytes(), Some(&b"/run/\xff.sock"[..]));
    }

    #[test]
    fn the_default_can_be_connected_to() {
        assert!(Address::DEFAULT.socket().is_ok());
    }
}

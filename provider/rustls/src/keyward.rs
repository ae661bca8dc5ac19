use core::fmt;
use core::time::Duration;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use keyward_client::{Address, Client, Description};
use keyward_proto::{Label, Reference};

use crate::{Error, Key, Resolver, ResolverBuilder};

/// The Keyward daemon, where keys come from. Cheap to clone; clones, and the keys that come from
/// them, share their connections.
/// Making a `Keyward` does no I/O: the first request connects, and a later request connects again
/// if necessary. Connections belong to the process that opened them, so a program may make a
/// `Keyward` before a fork.
#[derive(Clone)]
pub struct Keyward {
    pub(crate) client: Client,
}

impl Keyward {
    /// The daemon at the socket that the variable `KEYWARD_SOCKET` names; without the variable, at
    /// `/run/keyward/keyward.sock`. The OpenSSL provider does the same. A request takes at most 5
    /// seconds.
    ///
    /// # Errors
    /// [`Error::Address`] if the variable does not name a socket.
    pub fn from_env() -> Result<Self, Error> {
        let address = match env::var_os("KEYWARD_SOCKET") {
            None => Address::DEFAULT,
            Some(socket) => match socket.to_str() {
                Some(socket) => socket.parse()?,
                None => Path::new(&socket).try_into()?,
            },
        };
        Ok(Self::new(address, Client::DEFAULT_TIMEOUT))
    }

    /// The daemon at a socket: an absolute path of at most 107 bytes, or `@name` for a socket in
    /// the abstract namespace. A request takes at most 5 seconds.
    ///
    /// # Errors
    /// [`Error::Address`] if `socket` is neither.
    pub fn at(socket: &str) -> Result<Self, Error> {
        Ok(Self::new(socket.parse()?, Client::DEFAULT_TIMEOUT))
    }

    /// Sets another time limit for each request, connecting included: at most an hour. A handshake
    /// fails if its signature has not come in that time.
    ///
    /// The result has its own connections. Clones and keys made before keep their limit and their
    /// connections.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self::new(self.client.address().clone(), timeout)
    }

    /// A key by its reference, which `keyward key reference LABEL` prints. Does no I/O, because the
    /// reference has the public key. So a server starts while the daemon is down.
    ///
    /// # Errors
    /// [`Error::Reference`] if `pem` is not a reference.
    pub fn key_from_pem(&self, pem: &str) -> Result<Key, Error> {
        Ok(Key::new(self.clone(), Reference::from_pem(pem)?))
    }

    /// A key by its reference in a file; see [`Keyward::key_from_pem`].
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read or is not a reference.
    pub fn key_from_pem_file(&self, path: impl AsRef<Path>) -> Result<Key, Error> {
        let path = path.as_ref();
        let file = |source| Error::File { path: path.to_owned(), source };
        let pem = read(path).map_err(file)?;
        let invalid = |error| file(io::Error::new(io::ErrorKind::InvalidData, error));
        Ok(Key::new(self.clone(), Reference::from_pem(&pem).map_err(invalid)?))
    }

    /// The current version of a key. The returned key stays at this version: after a rotation the
    /// old version still signs.
    ///
    /// # Blocks
    /// Asks the daemon for the public key and waits for the answer, up to the time limit.
    ///
    /// # Errors
    /// [`Error::Label`] if `label` is not a label. [`Error::Refused`] if there is no such key, or
    /// no grant for it. [`Error::Unavailable`] if the daemon does not answer.
    /// [`Error::UnknownType`] if this crate does not know the type of the key.
    pub fn key(&self, label: &str) -> Result<Key, Error> {
        let label = parse(label)?;
        let described = self.client.describe(&label, 0);
        let described = described.map_err(|error| Error::of_request("ask for", &label, error))?;
        self.described(&label, described)
    }

    /// Begins a [`Resolver`] with several names, or with certificates that change.
    pub fn resolver(&self) -> ResolverBuilder {
        ResolverBuilder::new(self.clone())
    }

    /// A key with the certificates that the daemon holds for it, for a server under every name, or
    /// for a client. New certificates are used as soon as they are attached. Short for
    /// [`ResolverBuilder::fallback`] and [`ResolverBuilder::build_following`].
    ///
    /// # Blocks
    /// Waits for the first answer of the daemon, up to the time limit.
    ///
    /// # Errors
    /// The errors of [`ResolverBuilder::build_following`].
    pub fn follow(&self, label: &str) -> Result<Arc<Resolver>, Error> {
        self.resolver().fallback(label).build_following()
    }

    /// The version of a key that the daemon has described.
    pub(crate) fn described(&self, label: &Label, described: Description) -> Result<Key, Error> {
        let reference = Reference::new(label.clone(), described.version, described.public_key);
        let reference = reference.map_err(|_| Error::UnknownType(label.to_string()))?;
        Ok(Key::new(self.clone(), reference))
    }

    fn new(address: Address, timeout: Duration) -> Self {
        Self { client: Client::new(address, timeout) }
    }
}

impl fmt::Debug for Keyward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyward").field("socket", self.client.address()).finish_non_exhaustive()
    }
}

/// Reads a label.
pub(crate) fn parse(label: &str) -> Result<Label, Error> {
    label.parse().map_err(|source| Error::Label { text: label.to_owned(), source })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than the longest reference is enough to see that the file is no reference.
    File::open(path)?.take(Reference::MAX_PEM as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

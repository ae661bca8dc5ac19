use core::fmt;
use core::time::Duration;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use keyward_client::{Address, Client, Description};
use keyward_proto::{Label, Reference};

use crate::{Error, Resolver, ResolverBuilder, SigningKey};

/// The daemon that holds the keys. Cheap to clone; clones and the keys that come from them share their connections.
///
/// Making one does no I/O: it connects when it is first asked for something, and anew whenever that is needed. Connections
/// belong to the process that opened them, so it may be made before a fork.
#[derive(Clone)]
pub struct Daemon {
    pub(crate) client: Client,
}

impl Daemon {
    /// The daemon at the socket that the variable `KEYWARD_SOCKET` names, as for the OpenSSL provider; without it that at
    /// `/run/keyward/keyward.sock`. A request to it may take 5 seconds.
    ///
    /// # Errors
    /// [`Error::Address`] if what the variable holds names no socket.
    pub fn from_env() -> Result<Self, Error> {
        match env::var_os("KEYWARD_SOCKET") {
            None => Ok(Self::of(Address::DEFAULT, Client::DEFAULT_TIMEOUT)),
            Some(socket) => match socket.to_str() {
                Some(socket) => Self::at(socket),
                None => Ok(Self::of(Path::new(&socket).try_into()?, Client::DEFAULT_TIMEOUT)),
            },
        }
    }

    /// The daemon at a socket: an absolute path of at most 107 bytes, or `@name` for one in the abstract namespace. A request
    /// to it may take 5 seconds.
    ///
    /// # Errors
    /// [`Error::Address`] if it is neither.
    pub fn at(socket: &str) -> Result<Self, Error> {
        Ok(Self::of(socket.parse()?, Client::DEFAULT_TIMEOUT))
    }

    /// The same daemon, with another limit on the time of one request, connecting included: an hour at most. A handshake fails
    /// if its signature has not come by then.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self::of(self.client.address().clone(), timeout)
    }

    /// A key by its reference, which `keyward key reference LABEL` prints. Does no I/O, since the reference has the public
    /// key: a server starts while the daemon is down.
    ///
    /// # Errors
    /// [`Error::Reference`] if `pem` is none.
    pub fn key_from_pem(&self, pem: &str) -> Result<SigningKey, Error> {
        Ok(SigningKey::new(self.clone(), Reference::from_pem(pem)?))
    }

    /// As [`Daemon::key_from_pem`], from a file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or holds none.
    pub fn key_from_pem_file(&self, path: impl AsRef<Path>) -> Result<SigningKey, Error> {
        let path = path.as_ref();
        let file = |reason| Error::File { path: path.to_owned(), reason };
        let pem = read(path).map_err(file)?;
        let invalid = |reason| file(io::Error::new(io::ErrorKind::InvalidData, reason));
        Ok(SigningKey::new(self.clone(), Reference::from_pem(&pem).map_err(invalid)?))
    }

    /// The current version of a key, for good: when another version becomes the current one, this one goes on to sign.
    /// Asks the daemon for the public key, and waits for the answer.
    ///
    /// # Errors
    /// [`Error::Label`] if `label` cannot be one, [`Error::Refused`] if there is no such key or no grant for it,
    /// [`Error::Unavailable`] if the daemon does not answer, [`Error::UnknownType`].
    pub fn key(&self, label: &str) -> Result<SigningKey, Error> {
        let label = parse(label)?;
        let described = self.client.describe(&label, 0);
        let described = described.map_err(|reason| Error::of_request("ask for", &label, reason))?;
        self.described(&label, described)
    }

    /// The start of a [`Resolver`], for several names, or for certificates that change.
    pub fn resolver(&self) -> ResolverBuilder {
        ResolverBuilder::new(self.clone())
    }

    /// A key with the certificates that the daemon holds for it, for whatever name clients ask, or for a client; new ones are
    /// taken as they are attached. The short form of [`ResolverBuilder::otherwise`] and [`ResolverBuilder::follow`].
    ///
    /// # Errors
    /// As [`ResolverBuilder::follow`].
    pub fn follow(&self, label: &str) -> Result<Arc<Resolver>, Error> {
        self.resolver().otherwise(label).follow()
    }

    /// The version of a key that the daemon has described.
    pub(crate) fn described(&self, label: &Label, described: Description) -> Result<SigningKey, Error> {
        let reference = Reference::new(label.clone(), described.version, described.public_key);
        let reference = reference.map_err(|_| Error::UnknownType(label.to_string()))?;
        Ok(SigningKey::new(self.clone(), reference))
    }

    fn of(address: Address, timeout: Duration) -> Self {
        Self { client: Client::new(address, timeout) }
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("socket", self.client.address()).finish_non_exhaustive()
    }
}

/// The label that a text is.
pub(crate) fn parse(label: &str) -> Result<Label, Error> {
    label.parse().map_err(|reason| Error::Label { text: label.to_owned(), reason })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than a reference can have is enough to tell that it is none.
    File::open(path)?.take(Reference::MAX_PEM as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

//! The configuration file `keyward.toml`: read as text, and checked once to a value of checked
//! types.
//!
//! [`raw`] has the tables of the file as text, and [`Config`] is the checked value.

mod advice;
mod audit;
mod authority;
mod error;
mod grant;
mod grep11;
mod identifier;
mod names;
mod plan;
mod raw;
mod role;
mod syntax;
mod times;
mod watch;

use core::num::NonZeroUsize;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use keyward_client::Address;
pub(crate) use keyward_plans::origin;
use sha2::{Digest, Sha256};
use tracing_subscriber::filter::LevelFilter;

use crate::ground::ownership;
use crate::policy::authorise::Grants;
use crate::policy::roles::Roles;
pub use audit::Audit;
pub use authority::{Authority, Binding};
pub use error::ConfigError;
pub(crate) use grep11::EMBEDDED;
pub use grep11::{Auth, Dialect, Endpoint, Grep11, Tls};
pub use identifier::Identifier;
pub use plan::{Challenge, Issuer, Plan, Server};
use raw::Raw;
use syntax::{explained, one_line};
pub use watch::{Place, Watch};

/// Checked settings of the daemon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Level of the log. At `debug` the log has one line for each signature, with peer, key and
    /// purpose.
    pub log: LevelFilter,
    /// The sockets for peers.
    pub socket: SocketSettings,
    /// Longest time for a request, and for the transfer of one frame.
    pub request_timeout: Duration,
    /// Longest time for the requests that are in flight at SIGTERM.
    pub drain_timeout: Duration,
    /// Number of keys whose records are kept in memory.
    pub cached_records: NonZeroUsize,
    /// The software crypto unit.
    pub embedded: Embedded,
    /// File that holds the store key, for a daemon without a software crypto unit.
    pub store_key: Option<PathBuf>,
    /// The backends that reach their units over GREP11, by name.
    pub grep11: BTreeMap<String, Grep11>,
    /// Backend for new keys whose request names no backend; `None` if there is only one backend.
    pub default_backend: Option<String>,
    /// Grants of peers.
    pub grants: Grants,
    /// The audit trail.
    pub audit: Audit,
    /// Roles of administrators.
    pub roles: Roles,
    /// Authorities that issue certificates, by name.
    pub authorities: BTreeMap<String, Authority>,
    /// Certificates that renew themselves.
    pub plans: Vec<Plan>,
    /// Certificates that somebody else renews.
    pub watches: Vec<Watch>,
}

/// The sockets for peers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketSettings {
    /// Sockets in addition to the socket in the runtime directory, for example inside a chroot.
    pub extra: Vec<Address>,
    /// Maximum number of connections at a time.
    pub connections: usize,
    /// Maximum number of connections of one user at a time.
    pub connections_per_user: usize,
}

/// The software crypto unit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Embedded {
    /// File that holds the master key.
    pub master_key: Option<PathBuf>,
    /// File with 64 hexadecimal digits that unseal the unit at each start.
    pub unseal_key: Option<PathBuf>,
    /// File with a passphrase that unseals the unit at each start.
    pub unseal_passphrase: Option<PathBuf>,
    /// Number of unwrapped keys that are kept in memory.
    pub cached_keys: NonZeroUsize,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and the line where there is one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |reason| ConfigError::Read { path: path.to_owned(), reason };
        let mut text = String::new();
        let file = ownership::open(path).map_err(|error| match error.into_io() {
            Ok(reason) => failed(reason),
            Err(error) => ConfigError::Refused(error.to_string()),
        })?;
        // A pipe that nobody has written to yet would count as an empty file.
        if file.metadata().map_err(failed)?.file_type().is_fifo() {
            return Err(failed(io::Error::other("it is a pipe, and a configuration must be a file")));
        }
        let mut file = file.take(MAX_FILE + 1);
        file.read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_FILE {
            return Err(failed(io::Error::other("it is longer than 1 MiB")));
        }
        Self::parse(&text, path)
    }

    /// Checks the text of a configuration. Errors name `origin` as the file.
    ///
    /// # Errors
    /// [`ConfigError`] names the origin, and the line where there is one.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, ConfigError> {
        let raw: Raw = toml::from_str(text).map_err(|error| {
            let start = error.span().map(|span| span.start);
            let line = start.map(|start| 1 + text.bytes().take(start).filter(|b| *b == b'\n').count());
            let reason = explained(&one_line(error.message()), text, start.unwrap_or_default());
            ConfigError::Syntax { path: origin.to_owned(), line, reason }
        })?;
        raw.check().map_err(|invalid| ConfigError::Value {
            path: origin.to_owned(),
            setting: invalid.setting,
            reason: invalid.reason,
        })
    }

    /// SHA-256 of [`Self::to_effective_toml`], in hexadecimal digits. Two configurations with the
    /// same settings have the same fingerprint.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(self.to_effective_toml());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The configuration as a file that names every setting, defaults included.
    pub fn to_effective_toml(&self) -> String {
        // Fails only for types that TOML cannot express. `Raw` has no such type.
        toml::to_string(&Raw::of(self)).unwrap_or_default()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: LevelFilter::INFO,
            socket: SocketSettings { extra: Vec::new(), connections: 4096, connections_per_user: 1024 },
            request_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
            cached_records: CACHED_RECORDS,
            embedded: Embedded {
                master_key: None,
                unseal_key: None,
                unseal_passphrase: None,
                cached_keys: CACHED_KEYS,
            },
            store_key: None,
            grep11: BTreeMap::new(),
            default_backend: None,
            grants: Grants::default(),
            audit: Audit::default(),
            roles: Roles::default(),
            authorities: authority::known(),
            plans: Vec::new(),
            watches: Vec::new(),
        }
    }
}

const CACHED_KEYS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
const CACHED_RECORDS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// Longest file, in bytes (1 MiB).
const MAX_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests;

//! The configuration, `keyward.toml` with its drop-ins: read as text, and checked once to a value
//! of checked types.
//!
//! [`layers`] makes one table of the files, [`raw`] has the tables as text, and [`Config`] is the
//! checked value.

mod advice;
mod audit;
mod authority;
mod error;
mod grant;
mod grep11;
mod identifier;
mod layers;
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
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use keyward_client::Address;
pub(crate) use keyward_plans::origin;
use sha2::{Digest, Sha256};
use tracing_subscriber::filter::LevelFilter;

use crate::ground::log::LogFormat;
use crate::policy::authorise::Grants;
use crate::policy::roles::Roles;
pub use audit::Audit;
pub use authority::{Authority, Binding};
pub use error::ConfigError;
pub(crate) use grep11::EMBEDDED;
pub use grep11::{Auth, Dialect, Endpoint, Grep11, Tls};
pub use identifier::Identifier;
pub use layers::{Sources, drop_in_directory, drop_ins};
pub use plan::{Challenge, Issuer, Plan, Server};
use raw::Raw;
pub use watch::{Place, Watch};

/// Checked settings of the daemon.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Level of the log. At `debug` the log has one line for each signature, with peer, key and
    /// purpose.
    pub log: LevelFilter,
    /// Form of the lines of the log.
    pub log_format: LogFormat,
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
    /// Loopback address at which the metrics are served over TCP.
    pub metrics: Option<SocketAddr>,
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
    /// Reads and checks a file, with its drop-ins.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, and the line where there is one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with_sources(path).map(|(config, _)| config)
    }

    /// Reads and checks a file, with its drop-ins. Returns the files and skipped files, too.
    ///
    /// # Errors
    /// See [`Self::load`].
    pub fn load_with_sources(path: &Path) -> Result<(Self, Sources), ConfigError> {
        layers::load(path)
    }

    /// Checks a text in the place of a file, with the drop-ins of that file.
    ///
    /// # Errors
    /// See [`Self::load`].
    pub fn parse_with_drop_ins(text: &str, path: &Path) -> Result<Self, ConfigError> {
        layers::parse(text, path).map(|(config, _)| config)
    }

    /// Checks the text of a configuration without drop-ins. Errors name `origin` as the file.
    ///
    /// # Errors
    /// See [`Self::load`].
    pub fn parse(text: &str, origin: &Path) -> Result<Self, ConfigError> {
        layers::merged(vec![(origin.to_owned(), text.to_owned())]).map(|(config, _)| config)
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
            log_format: LogFormat::Text,
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
            metrics: None,
            roles: Roles::default(),
            authorities: authority::known(),
            plans: Vec::new(),
            watches: Vec::new(),
        }
    }
}

const CACHED_KEYS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
const CACHED_RECORDS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

#[cfg(test)]
mod tests;

//! The way in which a unit gets its master key after a start.

use std::path::Path;

use crate::master_key::{CREDENTIAL, PASSPHRASE_CREDENTIAL, UNSEAL_CREDENTIAL, credential};

/// The way in which a unit gets its master key after a start. A unit with several ways has the one
/// that protects least.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opening {
    /// Owners bring their parts.
    Owners,
    /// From a credential of systemd.exec(5). Only the service manager knows whether the credential
    /// is encrypted.
    Credential,
    /// By a passphrase in a file.
    Passphrase,
    /// From a plain file: anybody with a copy of the disk has the keys.
    Unprotected,
    /// From the file that `--dev` has made beside the keys.
    Development,
}

impl Opening {
    /// The way that the files of a configuration, and the credentials of this process, make.
    pub fn of(master_key: Option<&Path>, unseal_key: Option<&Path>, passphrase: Option<&Path>) -> Self {
        let is_plain = std::env::var_os(UNSEAL).is_some_and(|word| word == PLAIN);
        if master_key.or(unseal_key).is_some() || is_plain {
            Self::Unprotected
        } else if passphrase.is_some() || credential(PASSPHRASE_CREDENTIAL).is_some() {
            Self::Passphrase
        } else if [CREDENTIAL, UNSEAL_CREDENTIAL].into_iter().any(|name| credential(name).is_some()) {
            Self::Credential
        } else {
            Self::Owners
        }
    }

    /// The word for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Owners => "owners",
            Self::Credential => "credential",
            Self::Passphrase => "passphrase",
            Self::Unprotected => "unprotected",
            Self::Development => "dev",
        }
    }
}

/// Environment variable by which the service tells how its credential is protected.
pub const UNSEAL: &str = "KEYWARD_UNSEAL";
/// Value of [`UNSEAL`] for a credential from a plain file.
pub const PLAIN: &str = "unprotected";

/// The words for people, of a [`Opening::name`].
pub fn described(name: &str) -> &str {
    match name {
        "owners" => "by its owners after each start",
        "credential" => "by a credential of systemd at each start",
        "passphrase" => "by a passphrase in a file at each start",
        "unprotected" => "by a plain file at each start: unprotected",
        "dev" => "by the file that --dev made: unprotected",
        other => other,
    }
}

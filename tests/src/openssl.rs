//! The versions of OpenSSL that load the provider.

use std::path::PathBuf;
use std::process::Command;

use crate::{KEY_TYPES, ML_DSA, built, target};

/// An OpenSSL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenSsl {
    /// The OpenSSL of the system, which all programs use.
    System,
    /// OpenSSL 3.5, built by `tests/openssl/build`.
    V3_5,
    /// OpenSSL 4.0. Its libraries have other names, so it needs another build of the provider:
    /// `make test-openssl-4`.
    V4_0,
}

impl OpenSsl {
    /// The versions on which every test of the provider itself runs.
    #[cfg(not(feature = "openssl-4"))]
    pub const ALL: [Self; 2] = [Self::System, Self::V3_5];
    /// The versions on which every test of the provider itself runs.
    #[cfg(feature = "openssl-4")]
    pub const ALL: [Self; 3] = [Self::System, Self::V3_5, Self::V4_0];

    /// The key types that this version knows.
    pub fn key_types(self) -> impl Iterator<Item = &'static str> {
        let newer = if self == Self::System { &[][..] } else { &ML_DSA };
        KEY_TYPES.iter().chain(newer).copied()
    }

    /// The versions in [`Self::ALL`] that know a key type.
    pub fn that_know(key_type: &str) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |openssl| openssl.key_types().any(|known| known == key_type))
    }

    /// The openssl program of this version, with arguments and without a configuration.
    pub fn program(self, words: &[&str]) -> Command {
        let name = self.home().map_or_else(|| "openssl".into(), |home| home.join("bin/openssl"));
        let mut command = Command::new(name);
        command.args(words).env("OPENSSL_CONF", "/dev/null");
        self.load_into(&mut command);
        command
    }

    /// Makes a program use this version, whatever version it was linked with.
    pub fn load_into(self, command: &mut Command) {
        if let Some(home) = self.home() {
            command.env("LD_LIBRARY_PATH", home.join("lib"));
        }
    }

    /// The provider for this version.
    pub fn provider(self) -> PathBuf {
        match self {
            Self::System | Self::V3_5 => built("libkeyward_openssl.so"),
            Self::V4_0 => built("../for-openssl-4.0/release/libkeyward_openssl.so"),
        }
    }

    /// The major version, which is in the names of the libraries.
    pub fn major(self) -> u8 {
        match self {
            Self::System | Self::V3_5 => 3,
            Self::V4_0 => 4,
        }
    }

    /// The directory with `lib` and `include`; `None` for the system's OpenSSL.
    pub fn home(self) -> Option<PathBuf> {
        let version = match self {
            Self::System => return None,
            Self::V3_5 => "3.5",
            Self::V4_0 => "4.0",
        };
        let home = target().join(format!("openssl-{version}"));
        assert!(home.join("built-from").exists(), "first run: tests/openssl/build {version}");
        Some(home)
    }
}

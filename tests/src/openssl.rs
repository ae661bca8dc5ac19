//! The versions of OpenSSL that the provider is loaded into.

use std::path::PathBuf;
use std::process::Command;

use crate::{KEY_TYPES, ML_DSA, built, target};

/// An OpenSSL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenSsl {
    /// That of the system, with all programs that use it.
    System,
    /// 3.5, which `tests/openssl/build` has built.
    V3_5,
    /// 4.0, which needs a provider of its own, since its libraries have other names: `make
    /// test-openssl-4`.
    V4_0,
}

impl OpenSsl {
    /// Versions on which every test of the provider itself runs.
    #[cfg(not(feature = "openssl-4"))]
    pub const ALL: [Self; 2] = [Self::System, Self::V3_5];
    /// Versions on which every test of the provider itself runs.
    #[cfg(feature = "openssl-4")]
    pub const ALL: [Self; 3] = [Self::System, Self::V3_5, Self::V4_0];

    /// The key types that it knows.
    pub fn key_types(self) -> impl Iterator<Item = &'static str> {
        let newer = if self == Self::System { &[][..] } else { &ML_DSA };
        KEY_TYPES.iter().chain(newer).copied()
    }

    /// The versions of [`Self::ALL`] that know a key type.
    pub fn that_know(key_type: &str) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |openssl| openssl.key_types().any(|known| known == key_type))
    }

    /// The openssl program of this version, with arguments. It needs no configuration.
    pub fn program(self, words: &[&str]) -> Command {
        let name = self.home().map_or_else(|| "openssl".into(), |home| home.join("bin/openssl"));
        let mut command = Command::new(name);
        command.args(words).env("OPENSSL_CONF", "/dev/null");
        self.load_into(&mut command);
        command
    }

    /// Has a program use this one, whatever it was linked with.
    pub fn load_into(self, command: &mut Command) {
        if let Some(home) = self.home() {
            command.env("LD_LIBRARY_PATH", home.join("lib"));
        }
    }

    /// The provider for it.
    pub fn provider(self) -> PathBuf {
        match self {
            Self::System | Self::V3_5 => built("libkeyward_openssl.so"),
            Self::V4_0 => built("../for-openssl-4.0/release/libkeyward_openssl.so"),
        }
    }

    /// The major version, by which its libraries are named.
    pub fn major(self) -> u8 {
        match self {
            Self::System | Self::V3_5 => 3,
            Self::V4_0 => 4,
        }
    }

    /// Directory with `lib` and `include`; `None` for the system's OpenSSL.
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

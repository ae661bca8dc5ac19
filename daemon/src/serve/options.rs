//! Options of `keyward serve` and `keyward unit serve`.

use std::path::{Path, PathBuf};

use keyward_unit::Profile;

use crate::config::{self, Config, ConfigError, Sources};
use crate::serve::configuration;

/// Options of `keyward serve` or `keyward unit serve` on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Configuration file; `None` for the default file if that file exists, or else the default
    /// configuration.
    pub config: Option<PathBuf>,
    /// Directory of the key store.
    pub state_dir: PathBuf,
    /// Directory of the sockets.
    pub runtime_dir: PathBuf,
    /// True for development: makes a master key, and gives the user who started the daemon all
    /// rights.
    pub dev: bool,
    /// Options of a unit that serves GREP11 instead of peers.
    pub unit: Option<UnitOptions>,
}

/// Options of `keyward unit serve`.
#[derive(Clone, Debug)]
pub struct UnitOptions {
    /// The server.
    pub server: keyward_unit_server::Options,
    /// File of the master key, in the place of `master-key` in the configuration.
    pub master_key: Option<PathBuf>,
    /// Control points of the unit until somebody owns the unit.
    pub control_points: Profile,
    /// File of the next master key of a simulated unit of another maker.
    pub next_master_key: Option<PathBuf>,
}

impl Options {
    /// The configuration file, if there is one.
    pub(crate) fn config_file(&self) -> Option<&Path> {
        let default = match self.unit {
            None => DEFAULT_CONFIG,
            Some(_) => DEFAULT_UNIT_CONFIG,
        };
        // Drop-ins without their file are a mistake that must not stay without a word. So is a file
        // that this user may not look at.
        let is_there = |file: &&Path| {
            file.try_exists().unwrap_or(true)
                || config::drop_ins(file).is_ok_and(|(found, _)| !found.is_empty())
        };
        self.config.as_deref().or_else(|| Some(Path::new(default)).filter(is_there))
    }

    /// Reads the configuration, with the settings of the command line. Without a file, returns the
    /// default.
    ///
    /// # Errors
    /// [`ConfigError`] says where the configuration is wrong.
    pub fn read_config(&self) -> Result<Config, ConfigError> {
        self.read_config_with_sources().map(|(config, _)| config)
    }

    /// Reads the configuration as [`Self::read_config`] does, and returns its files, too.
    ///
    /// # Errors
    /// See [`Self::read_config`].
    pub(crate) fn read_config_with_sources(&self) -> Result<(Config, Sources), ConfigError> {
        let (mut config, sources) = configuration::read(self.config_file())?;
        if let Some(unit) = &self.unit {
            configuration::check_unit(&config, self.config_file())?;
            config.embedded.master_key = unit.master_key.clone().or(config.embedded.master_key);
        }
        Ok((config, sources))
    }
}

/// Configuration file of `keyward serve` if no other file is named.
pub const DEFAULT_CONFIG: &str = "/etc/keyward/keyward.toml";
/// Configuration file of `keyward unit serve` if no other file is named.
const DEFAULT_UNIT_CONFIG: &str = "/etc/keyward/unit.toml";

//! Configuration file of the daemon.

use std::path::Path;

use crate::config::{Config, ConfigError};
use crate::peers::service;

/// Configuration file that is used if it exists and no other file is named.
pub const DEFAULT_CONFIG: &str = "/etc/keyward/keyward.toml";

/// Returns the file that `--config` names, or else [`DEFAULT_CONFIG`] if that file exists.
pub(crate) fn config_file(path: Option<&Path>) -> Option<&Path> {
    let default = Path::new(DEFAULT_CONFIG);
    path.or_else(|| default.exists().then_some(default))
}

/// Reads the configuration from the file of [`config_file`]. Without a file, returns the default.
///
/// # Errors
/// [`ConfigError`] says where the configuration is wrong.
pub fn read_config(path: Option<&Path>) -> Result<Config, ConfigError> {
    match config_file(path) {
        Some(path) => Config::load(path),
        None => Ok(Config::default()),
    }
}

/// Reads the configuration, and logs its warnings.
///
/// # Errors
/// See [`read_config`].
pub(super) fn load_config(path: Option<&Path>) -> Result<Config, ConfigError> {
    let config = read_config(path)?;
    for warning in warnings(&config) {
        tracing::warn!("configuration: {warning}");
    }
    Ok(config)
}

/// Returns warnings about settings that are legal but probably mistakes, or that this system does
/// not support.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let by_service = config.grants.iter().any(|grant| grant.who.service.is_some());
    let obstacle = service::obstacle().filter(|_| by_service).map(|why| {
        format!("no grant with unit = ... applies, because services are identified by their cgroup: {why}")
    });
    config.warnings().into_iter().chain(obstacle).collect()
}

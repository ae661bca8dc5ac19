//! Configuration file of the daemon.

use std::path::Path;

use super::options::Options;
use crate::config::{Config, ConfigError, Sources};
use crate::peers::service;

/// Reads a configuration and its drop-ins. Without a file, returns the default.
///
/// # Errors
/// [`ConfigError`] says where the configuration is wrong.
pub(super) fn read(path: Option<&Path>) -> Result<(Config, Sources), ConfigError> {
    path.map_or_else(|| Ok((Config::default(), Sources::default())), Config::load_with_sources)
}

/// Refuses settings that `keyward unit serve` does not have: somebody has named the configuration
/// of a daemon.
///
/// # Errors
/// [`ConfigError::Value`] names the setting.
pub(super) fn check_unit(config: &Config, path: Option<&Path>) -> Result<(), ConfigError> {
    let setting = match (config.grants.iter().next(), config.grep11.keys().next()) {
        (Some(_), _) => "grant".to_owned(),
        (None, Some(name)) => format!("grep11.{name}"),
        (None, None) => return Ok(()),
    };
    let reason =
        "a unit that serves GREP11 has no peers and no backends; give it a configuration of its own".into();
    Err(ConfigError::Value { path: path.unwrap_or(Path::new("")).to_owned(), setting, reason })
}

/// Reads the configuration of these options with its files, and logs its warnings.
///
/// # Errors
/// See [`Options::read_config`].
pub(super) fn load_config(options: &Options) -> Result<(Config, Sources), ConfigError> {
    let (config, sources) = options.read_config_with_sources()?;
    log_warnings(&config, &sources);
    Ok((config, sources))
}

/// Logs the warnings of a configuration.
pub(super) fn log_warnings(config: &Config, sources: &Sources) {
    for warning in warnings(config) {
        tracing::warn!("configuration: {warning}");
    }
    for file in &sources.skipped {
        tracing::info!("configuration: {}", skipped(file));
    }
}

/// The note about a file that does not count.
pub(crate) fn skipped(file: &Path) -> String {
    format!(
        "{} does not count: a drop-in has a name that ends in .toml and does not begin with a point",
        file.display()
    )
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

//! Reload of the configuration.

use core::fmt::Display;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::configuration::load_config;
use super::embedded_unit;
use super::options::Options;
use super::{audit, confinement};
use crate::backend::host_secrets;
use crate::config::{self, Config};
use crate::daemon::{Daemon, Reload};
use crate::ground::confinement::is_out_of_reach;
use crate::ground::log::Log;
use crate::lifecycle;
use crate::peers::shared::Shared;

/// Reads the configuration and the files of the backends again, and logs the result. `at_start` is
/// the configuration of the start. A file that is gone, or empty while there are grants or roles,
/// is taken for a mistake: an editor may be about to write the file.
///
/// # Errors
/// The reason why the old configuration stays in force.
pub(super) async fn reload(
    peers: &Shared,
    options: &Options,
    at_start: &Config,
    log: &Log,
) -> Result<Reload, String> {
    let daemon = &*peers.daemon;
    let mut problems = Vec::new();
    for backend in daemon.backends.iter() {
        let problem = backend.reread_files().await;
        problems.extend(problem.map(|problem| format!("backend {}: {problem}", backend.name())));
    }
    let file = daemon.config_file.clone().or_else(|| options.config.clone());
    let options = Options { config: file.clone(), ..options.clone() };
    // Names of users may come from a directory service that takes its time.
    let read = options.clone();
    let config = tokio::task::spawn_blocking(move || load_config(&read)).await;
    let (config, sources) = config.map_err(|error| refused(&error))?.map_err(|error| {
        match file.as_deref().is_some_and(is_out_of_reach) {
            true => refused(&format!("{error}; the file is in a directory that the daemon did not know at its start: restart the daemon")),
            false => refused(&error),
        }
    })?;
    if let Some(file) = file.as_deref().filter(|_| sources.is_blank() && daemon.is_configured()) {
        return Err(refused(&format!(
            "{} has no setting, and would take away all grants and roles; if that is the purpose, restart the daemon",
            file.display()
        )));
    }
    let out_of_reach = confinement::out_of_reach(&config);
    let waiting: Vec<_> =
        waiting_for_restart(at_start, &config).into_iter().chain(out_of_reach.clone()).collect();
    // A state that is not the one of the owners is not opened by a secret of the host.
    if let Some(embedded) =
        daemon.backends.embedded().filter(|embedded| !embedded.is_lost() && out_of_reach.is_none())
    {
        problems.extend(embedded_unit::keep_again(embedded.custodian(), &options, &config).await);
        embedded.set_opening(host_secrets::opening(options.dev, &config));
    }
    log.set(config.log, config.log_format);
    daemon.set_config(config);
    peers.apply_grants(&daemon.config());
    lifecycle::mend_state(daemon).await;
    lifecycle::look_at_next_start(daemon).await;
    audit::reload(daemon);
    daemon.waiting_for_restart.store(Arc::new(waiting.clone()));
    match waiting.is_empty() {
        true => tracing::info!("configuration reloaded"),
        false => tracing::warn!(
            "configuration reloaded, except for settings that need a restart of the daemon: {}",
            waiting.join(", ")
        ),
    }
    Ok(Reload { loaded: daemon.loaded(), waiting_for_restart: waiting, problems })
}

/// Logs the reason why the old configuration stays in force.
fn refused(reason: &dyn Display) -> String {
    tracing::error!("not reloaded, the old configuration stays in force: {reason}");
    reason.to_string()
}

/// Records the present configuration in the audit trail. If that fails, the log says so, and the
/// configuration is in force all the same: a reload may be what makes room.
pub(super) async fn record(daemon: &Daemon) {
    if let Err(error) = lifecycle::configuration_loaded(daemon).await {
        tracing::error!("the configuration is in force, but not on record: {error}");
    }
}

/// True if a change of the section takes effect only with a restart. The secrets that keep the
/// master key are read again.
fn needs_restart(now: &config::Embedded, before: &config::Embedded) -> bool {
    let secrets = |of: &config::Embedded| (of.unseal_key.clone(), of.unseal_passphrase.clone());
    let (unseal_key, unseal_passphrase) = secrets(before);
    config::Embedded { unseal_key, unseal_passphrase, ..now.clone() } != *before
}

/// Returns the names of changed settings that take effect only with a restart.
fn waiting_for_restart(at_start: &Config, config: &Config) -> Vec<String> {
    let changed = [
        ("socket.also", config.socket.extra != at_start.socket.extra),
        ("[embedded]", needs_restart(&config.embedded, &at_start.embedded)),
        ("store.key", config.store_key != at_start.store_key),
        ("metrics.listen", config.metrics != at_start.metrics),
        ("audit.copy-to", config.audit.copy_to != at_start.audit.copy_to),
        ("limits.cached-records", config.cached_records != at_start.cached_records),
    ];
    let changed = changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name.to_owned());
    let names: BTreeSet<_> = at_start.grep11.keys().chain(config.grep11.keys()).collect();
    let backends = names.into_iter().filter_map(|name| {
        let change = match (at_start.grep11.get(name), config.grep11.get(name)) {
            (None, _) => "new",
            (_, None) => "gone",
            (before, now) if before == now => return None,
            _ => "changed",
        };
        Some(format!("[grep11.{name}] ({change})"))
    });
    changed.chain(backends).collect()
}

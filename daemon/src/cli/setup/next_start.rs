//! Whether the secret of a daemon that runs would open its unit at the next start. The unit is open
//! until then, so the daemon itself does not miss the secret.

use std::path::{Path, PathBuf};

use super::found::Found;
use super::place::Place;
use crate::admin::status_view::StatusView;
use crate::cli::failure::Failure;
use crate::cli::service_files::SERVICE;
use crate::config::EMBEDDED;
use crate::serve::DEFAULT_CONFIG;
use crate::servers::processes;

/// Reason why the next start of the daemon would not open its unit, with what to do. `None` if the
/// secret opens the unit, if no secret is configured, or if this user cannot read the secret.
pub(in crate::cli) fn fault_of_secret(status: &StatusView) -> Option<String> {
    if status.dev || !status.backends.iter().any(|backend| backend.name == EMBEDDED) {
        return None;
    }
    let config = status.config_file.clone().unwrap_or_else(|| DEFAULT_CONFIG.into());
    let place = Place {
        dir: config.parent()?.to_owned(),
        config,
        state_dir: status.state_dir.clone(),
        runtime_dir: PathBuf::new(),
        has_systemd: is_service(status.pid),
    };
    if place.daemon().is_some() && !rustix::process::geteuid().is_root() {
        return None;
    }
    let reason = Found::look(&place).ok()?.fault(&place).map(Failure::into_reason)?;
    Some(format!("the next start of the daemon would leave its unit sealed: {reason}"))
}

/// True if a process has credentials of keyward.service (systemd.exec(5)): the files of that
/// service name them.
fn is_service(pid: u32) -> bool {
    let variables = processes::environment(pid.cast_signed());
    let directory = variables.into_iter().find(|(name, _)| name == CREDENTIALS_DIRECTORY);
    directory.is_some_and(|(_, path)| Path::new(&path).ends_with(SERVICE))
}

/// Variable with the directory of the credentials of a service.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

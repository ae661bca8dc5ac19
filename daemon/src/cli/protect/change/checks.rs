//! Checks before, in and after a change: of the daemon, of the grants, and of the certificates that
//! listeners show.

use std::collections::{BTreeMap, BTreeSet};

use super::super::plan::{Plan, Probe};
use super::Change;
use crate::admin::api::User;
use crate::cli::doctor;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::config::Config;
use crate::ground::exit;
use crate::peers;
use crate::servers::served;

/// Certificates that listeners show, by SHA-256.
pub(super) type Shown = BTreeMap<Probe, String>;

impl Change<'_> {
    /// Checks that the daemon can take keys, and has the configuration that gets the grants.
    pub(super) fn check_daemon(&self) -> Result<(), Failure> {
        self.check_in_force()?;
        let status = self.admin.status()?;
        match status.backends.iter().find(|backend| !backend.ready) {
            Some(backend) if !status.backends.iter().any(|backend| backend.ready) => {
                let why = status.problems.first().map_or("see keyward status", String::as_str);
                Err(Failure::new(
                    exit::UNAVAILABLE,
                    format_args!("the backend {} of the daemon is not ready: {why}", backend.name),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Puts the configuration of the daemon in force.
    pub(super) fn reload_daemon(&self) -> Result<(), Failure> {
        let reloaded = self.admin.reload()?;
        for problem in &reloaded.problems {
            output::warn(problem);
        }
        self.check_in_force()
    }

    /// Checks that the daemon has read the configuration file as it is now.
    fn check_in_force(&self) -> Result<(), Failure> {
        let file = &self.options.config;
        let config = Config::load(file).map_err(|error| Failure::new(exit::CONFIG, error))?;
        match self.admin.status()?.config.is_none_or(|in_force| in_force == config.fingerprint()) {
            true => Ok(()),
            false => Err(Failure::new(
                exit::CONFIG,
                format_args!(
                    "the daemon has another configuration than {}; if that is its file, run keyward reload, or else name the file with --config",
                    file.display()
                ),
            )),
        }
    }

    /// Checks that the workers of the server may use each key.
    pub(super) fn check_grants(&self, plan: &Plan) -> Result<(), Failure> {
        let workers = self.server.workers();
        let service = Some(workers.service.clone().unwrap_or_default());
        let user = User { uid: workers.uid, gid: workers.gid, groups: None, service };
        for key in &plan.keys.planned {
            let access = self.admin.access(key.label.as_str(), &user)?;
            let is_granted = |name: &str| access.granted.iter().any(|known| known == name);
            if let Some(missing) = key.uses.iter().find(|one| !is_granted(one.name())) {
                let why = access.obstacle.unwrap_or_else(|| "no grant covers it".into());
                return Err(Failure::new(
                    exit::CONFIG,
                    format_args!(
                        "the workers of {} may not use key {} for {missing}: {why}",
                        self.options.server.title(),
                        key.label
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Checks that the workers reach this daemon at the address that the provider will use. A wrong
    /// address would cost handshakes until the way back.
    pub(super) fn try_socket(&self, plan: &Plan) -> Result<(), Failure> {
        let own = self.options.client.runtime_dir.join(peers::SOCKET);
        let own = std::path::absolute(&own).unwrap_or(own);
        let workers = self.server.workers();
        let address = plan.socket.as_deref();
        let faults = doctor::faults_of_socket(&own, address, &self.options.openssl_conf, workers.pid);
        match faults.first() {
            None => Ok(()),
            Some(fault) => {
                let title = self.options.server.title();
                let reason = format_args!("the workers of {title} do not reach the daemon: {fault}");
                Err(Failure::new(exit::CONFIG, reason))
            }
        }
    }
}

/// Shakes hands with each listener. Those that do not answer are left out.
pub(super) fn shown(probes: &BTreeSet<Probe>) -> Result<Shown, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(exit::OS, error))?;
    let mut shown = Shown::new();
    for probe in probes {
        let found = runtime.block_on(served::certificate_of(probe.at, &probe.name, Some(probe.client)));
        if let Ok(certificate) = found {
            shown.insert(probe.clone(), certificate.fingerprint());
        }
    }
    Ok(shown)
}

/// Compares the certificates that listeners show with those of before.
///
/// # Errors
/// [`Failure`] names the first listener with another certificate, or without one.
pub(super) fn compare(before: &Shown, after: &Shown) -> Result<(), Failure> {
    let other = before.iter().find(|(probe, certificate)| after.get(probe) != Some(*certificate));
    let Some((probe, _)) = other else { return Ok(()) };
    let how = match after.contains_key(probe) {
        true => {
            "shows another certificate than before; if the server had not yet read files that were renewed, reload it first"
        }
        false => "does not shake hands any more; the log of the daemon (keyward audit tail) may say why",
    };
    Err(Failure::new(exit::UNAVAILABLE, format_args!("the listener {} {how}, for {}", probe.at, probe.name)))
}

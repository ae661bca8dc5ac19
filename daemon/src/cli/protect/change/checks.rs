//! Checks before, in and after a change: of the daemon, of the grants, and of the certificates that
//! listeners show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::super::grants;
use super::super::plan::{Plan, Probe};
use super::Change;
use crate::cli::doctor;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::config::Config;
use crate::ground::exit;
use crate::peers;
use crate::servers::served;

/// Certificates that listeners show.
pub(super) type Shown = BTreeMap<Probe, Seen>;

/// A certificate that a listener shows.
#[derive(Eq, PartialEq)]
pub(super) struct Seen {
    /// SHA-256 of the certificate, in hexadecimal digits.
    fingerprint: String,
    /// SubjectPublicKeyInfo in DER.
    spki: Vec<u8>,
}

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

    /// Says which handshakes fail already, and which keys no handshake shows: nobody compares their
    /// certificates. Asks whether to go on if that are all keys.
    pub(super) fn check_comparison(&self, plan: &Plan, before: &Shown) -> Result<(), Failure> {
        for name in plan.unseen(before.keys()) {
            output::warn(format_args!(
                "{name} does not shake hands now, so nobody can compare its certificate"
            ));
        }
        let is_seen = |spki: &[u8]| before.values().any(|seen| seen.spki == spki);
        let (seen, unseen): (Vec<_>, Vec<_>) = plan.keys.planned.iter().partition(|key| is_seen(key.spki()));
        for key in &unseen {
            let files: Vec<_> = key.files.iter().map(|file| file.display().to_string()).collect();
            output::warn(format_args!(
                "no handshake shows a certificate of the key in {}, so nobody checks that it works after the change",
                files.join(" and ")
            ));
        }
        match seen.is_empty() && !self.options.unchecked {
            false => Ok(()),
            true => self.options.ask_for_unchecked(),
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
        for (label, uses) in &plan.granted {
            let (missing, obstacle) = grants::missing(self.admin, self.server, label, uses)?;
            if let Some(missing) = missing.first() {
                let why = obstacle.unwrap_or_else(|| "no grant covers it".into());
                return Err(Failure::new(
                    exit::CONFIG,
                    format_args!(
                        "the workers of {} may not use key {label} for {missing}: {why}",
                        self.options.server.title()
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
        let address = plan.socket.as_deref();
        let title = self.options.server.title();
        for _ in 0..MOST_WORKERS {
            // A server may end a worker that it does not need any more.
            let found = self.options.server.find(Some(self.server.pid()))?;
            let workers = found.workers();
            let faults = doctor::faults_of_socket(&own, address, &self.options.openssl_conf, workers.pid);
            match faults.first() {
                None => return Ok(()),
                Some(fault) if Path::new("/proc").join(workers.pid.to_string()).exists() => {
                    let reason = format_args!("the workers of {title} do not reach the daemon: {fault}");
                    return Err(Failure::new(exit::CONFIG, reason));
                }
                Some(_) => {}
            }
        }
        let reason = format_args!("the workers of {title} end too soon to see whether they reach the daemon");
        Err(Failure::new(exit::UNAVAILABLE, reason))
    }
}

/// Shakes hands with each listener. Those that do not answer are left out.
pub(super) fn shown(probes: &BTreeSet<Probe>) -> Result<Shown, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(exit::OS, error))?;
    let mut shown = Shown::new();
    for probe in probes {
        let found = runtime.block_on(served::certificate_of(&probe.at, &probe.name, Some(probe.client)));
        if let Ok(certificate) = found {
            let seen = Seen { fingerprint: certificate.fingerprint(), spki: certificate.spki().to_vec() };
            shown.insert(probe.clone(), seen);
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

/// Number of workers of a server that are looked at, if each has ended just then.
const MOST_WORKERS: usize = 5;

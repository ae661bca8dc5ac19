//! Whether the next start can open the embedded unit. A secret of the host that is gone is noticed
//! while the unit still has its master key, and everything can be put right.

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;

use keyward_unit::administration::{Custodian, KeepingSecret, Register};

use super::Error;
use crate::backend::host_secrets;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::ground::opening::Opening;
use crate::ground::unit_state::UnitStateFile;

/// Looks whether the next start can open the unit again each [`INTERVAL`]. Never returns.
pub(crate) async fn follow(daemon: &Daemon) {
    loop {
        look(daemon).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Looks whether the next start can open the unit, and notes the problem for the status. Reads the
/// files of the host, and stretches a passphrase.
pub(crate) async fn look(daemon: &Daemon) -> Option<String> {
    let embedded = daemon.backends.embedded()?;
    let custodian = Arc::clone(embedded.custodian());
    let (dev, state_dir) = (daemon.dev, daemon.keys.state_dir().to_owned());
    let config = Arc::clone(&daemon.config());
    let looked =
        tokio::task::spawn_blocking(move || problem(&custodian, &config, dev, &state_dir).map(with_advice));
    // A look that was broken off by the end of the daemon says nothing.
    let problem = looked.await.ok()?;
    daemon.set_next_start(problem.clone());
    problem
}

/// Has the unit write its state again if another program has removed or changed the file.
pub(crate) async fn mend_state(daemon: &Daemon) {
    let Some(embedded) = daemon.backends.embedded() else { return };
    let custodian = Arc::clone(embedded.custodian());
    let file = UnitStateFile::of(daemon.keys.state_dir());
    let mended = tokio::task::spawn_blocking(move || custodian.mend()).await;
    let problem = match mended {
        Ok(Ok(true)) => {
            tracing::error!(
                "another program had removed or changed {} while the unit runs: the unit has written its state again; if there was another file, it is {}.found-1, or has the next number: to go back to it, stop the daemon, rename the file, and start the daemon",
                file.path().display(),
                file.path().display()
            );
            None
        }
        Ok(Ok(false)) | Err(_) => None,
        Ok(Err(error)) => Some(error.to_string()),
    };
    daemon.set_unit_state(problem);
}

/// Refuses a change of a master key that the next start would lose.
///
/// # Errors
/// [`Error::NextStart`] with the reason.
pub(super) async fn refuse_to_lose(daemon: &Daemon) -> Result<(), Error> {
    match look(daemon).await {
        None => Ok(()),
        Some(problem) => Err(Error::NextStart(problem)),
    }
}

/// Reason why the next start cannot open the unit without people, if it should.
fn problem(custodian: &Custodian, config: &Config, dev: bool, state_dir: &Path) -> Option<String> {
    let custody = custodian.custody();
    let current = custody.state.current().contents()?;
    let needs_people = current.origin.needed() > 0;
    // A sealed unit has a problem of its own, or waits for its owners.
    if custody.is_sealed || host_secrets::opening(dev, config) == Opening::Owners && needs_people {
        return None;
    }
    let (mut secrets, mut reasons) = (Vec::new(), Vec::new());
    for secret in host_secrets::read(config) {
        match secret {
            Ok(secret) => secrets.push(secret),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    match host_secrets::master_key(dev, state_dir, config, false) {
        Ok(Some(key)) if key.wkid() == current.wkid && *custody.state.new_register() == Register::Empty => {
            return None;
        }
        Ok(Some(key)) => secrets.push(KeepingSecret::of_key(&key)),
        Err(error) if config.embedded.master_key.is_some() || dev => reasons.push(error.to_string()),
        // No file is configured.
        Ok(None) | Err(_) => {}
    }
    match custodian.is_kept_by(&secrets) {
        Ok(true) => None,
        Ok(false) if reasons.is_empty() => Some("no secret of this host opens its master key".into()),
        Ok(false) => Some(reasons.join("; ")),
        Err(error) => Some(error.to_string()),
    }
}

fn with_advice(reason: String) -> String {
    format!(
        "the next start cannot open the embedded unit: {reason}; put the secret back, or replace it by a new one, and run: keyward reload"
    )
}

/// Time between two looks. A passphrase is stretched at each.
const INTERVAL: Duration = Duration::from_secs(300);

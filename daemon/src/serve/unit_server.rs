//! The embedded unit as a GREP11 server: `keyward unit serve`.

use std::sync::Arc;

use keyward_unit_server::{UnitServer, UnitServerError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::ServeError;
use super::options::Options;
use crate::backend::Backends;
use crate::daemon::Daemon;
use crate::ground::master_key::{self, Patterns};

/// Reads the files of the server, and listens. `None` for a daemon that serves peers.
///
/// # Errors
/// [`ServeError`] says which file cannot be used, or why the address is not free.
pub(super) fn open(options: &Options) -> Result<Option<Arc<UnitServer>>, ServeError> {
    let Some(unit) = &options.unit else { return Ok(None) };
    if options.dev {
        tracing::warn!(
            "DEVELOPMENT MODE (--dev): the master key is in {}; not for production",
            options.state_dir.display()
        );
    }
    Ok(Some(Arc::new(UnitServer::open(unit.server.clone())?)))
}

/// Gives the unit the next master key of a simulation, if there is one.
///
/// # Errors
/// [`ServeError`] says what is wrong with the file.
pub(super) fn simulate(options: &Options, backends: &Backends) -> Result<(), ServeError> {
    let next = options.unit.as_ref().and_then(|unit| unit.next_master_key.as_deref());
    if let (Some(next), Some(unit)) = (next, backends.embedded_unit()) {
        unit.simulate_next_master_key(&master_key::load(Some(next), Patterns::Refused)?);
    }
    Ok(())
}

/// Starts to serve the embedded unit, until `stop`.
pub(super) fn serve(
    server: &Arc<UnitServer>,
    daemon: &Daemon,
    stop: &CancellationToken,
) -> JoinHandle<Result<(), UnitServerError>> {
    let (server, stop) = (Arc::clone(server), stop.clone());
    let unit = daemon.backends.embedded_unit();
    tokio::spawn(async move {
        let unit = unit.ok_or_else(|| UnitServerError::Ended("there is no embedded unit".into()))?;
        server.serve(unit, stop).await
    })
}

/// Waits for the end of the server. Never returns without one.
///
/// # Errors
/// [`ServeError::UnitServer`] if the server has ended before it was asked to.
pub(super) async fn ended(calls: Option<JoinHandle<Result<(), UnitServerError>>>) -> Result<(), ServeError> {
    let Some(calls) = calls else { return core::future::pending().await };
    match calls.await {
        Ok(ended) => Ok(ended?),
        Err(error) => Err(UnitServerError::Ended(error.to_string()).into()),
    }
}

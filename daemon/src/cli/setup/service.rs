//! Starts the service, and waits until its unit is as the setup has chosen.

use super::choice::Way;
use super::place::Place;
use crate::admin::client::AdminClient;
use crate::admin::status_view::{BackendView, StatusView};
use crate::cli::failure::Failure;
use crate::cli::program;
use crate::config::EMBEDDED;
use crate::ground::exit;
use crate::ground::opening::Opening;

/// Enables and starts the service, and asks the daemon for its state. The unit of a daemon that
/// runs already, without the secret, gets the secret by a restart.
///
/// # Errors
/// [`Failure`] if the service does not start, or its unit cannot be used.
pub(super) fn start(place: &Place, way: Way) -> Result<(), Failure> {
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", "keyward.socket", "keyward-admin.socket", "keyward.service"])?;
    let mut status = status(place)?;
    if way != Way::Owners && !has_secret(&status) {
        systemctl(&["restart", "keyward.service"])?;
        status = self::status(place)?;
    }
    // Owners have not brought their parts yet.
    if way == Way::Owners || unit(&status).is_some_and(|unit| unit.ready) {
        return Ok(());
    }
    let problems = match status.problems.is_empty() {
        true => "it has no master key".to_owned(),
        false => status.problems.join("; "),
    };
    Err(Failure::new(
        exit::UNAVAILABLE,
        format_args!("the service runs, but the embedded unit is not ready: {problems}; see: keyward status"),
    ))
}

/// True if the daemon has a secret that opens its unit.
fn has_secret(status: &StatusView) -> bool {
    let opening = unit(status).and_then(|unit| unit.opening.as_deref());
    opening.is_some_and(|opening| opening != Opening::Owners.name())
}

fn unit(status: &StatusView) -> Option<&BackendView> {
    status.backends.iter().find(|backend| backend.name == EMBEDDED)
}

fn status(place: &Place) -> Result<StatusView, Failure> {
    AdminClient::new(&place.runtime_dir).and_then(|admin| admin.status()).map_err(|error| {
        Failure::from(error).while_trying(
            "the service was started, but does not answer; its log says more: journalctl --unit keyward",
        )
    })
}

fn systemctl(words: &[&str]) -> Result<(), Failure> {
    program::run("systemctl", words, b"").map(drop).map_err(|error| {
        Failure::new(
            exit::UNAVAILABLE,
            format_args!(
                "cannot start the service with systemctl {}: {error}; the choice is kept: when this is mended (journalctl --unit keyward), run keyward setup again",
                words.join(" ")
            ),
        )
    })
}

/// The command for a person who starts the service.
pub(super) const COMMAND: &str =
    "systemctl daemon-reload && systemctl enable --now keyward.socket keyward-admin.socket keyward.service";

//! Answers about purges and the recovery file in JSON, for the daemon and for the client.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::daemon::Daemon;
use crate::ground::text::time;
use crate::keys::StoreError;
use crate::keys::shred::Shred;

/// Whether keys that were destroyed can come back from copies of the key store.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PurgesView {
    /// False until every other key is wrapped by a new secret, and the old secret is erased.
    pub(crate) r#final: bool,
    /// Number of keys that are left to wrap.
    pub(crate) keys_left: u64,
    /// Files in the state directory by which copies open that a purge does not reach.
    #[serde(default)]
    pub(crate) leftovers: Vec<PathBuf>,
}

impl PurgesView {
    pub(crate) async fn of(daemon: &Daemon, shred: &Shred) -> Result<Self, StoreError> {
        let keys_left = match (!shred.needs_round(), daemon.shredding.left()) {
            (true, _) => 0,
            (false, Some(left)) => left,
            (false, None) => daemon.keys.count().await?,
        };
        Ok(Self { r#final: shred.is_final(), keys_left, leftovers: daemon.keys.leftovers().await? })
    }
}

/// The recovery file of the key store.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RecoveryView {
    /// Number and id of the secret in force.
    pub(crate) secret: String,
    /// True if the last recovery file has the secret in force and no other.
    pub(crate) current: bool,
    /// True if the last recovery file has the secret in force, and one that was erased since.
    #[serde(default)]
    pub(crate) has_erased: bool,
    /// Time when the last recovery file was made, in seconds since 1970; none if none was made.
    pub(crate) written: Option<u64>,
}

/// A recovery file that is on a disk.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecoveryNote {
    /// Number and id of the secret in the line `secret`.
    pub(crate) secret: String,
    /// True if the file has a line `old`.
    pub(crate) has_old: bool,
}

impl RecoveryView {
    pub(crate) fn of(shred: &Shred) -> Option<Self> {
        Some(Self {
            secret: shred.in_force?.to_string(),
            current: shred.has_recovery(),
            has_erased: !shred.has_recovery()
                && shred.recovery.is_some_and(|written| Some(written.secret) == shred.in_force),
            written: shred.recovery.map(|written| written.at),
        })
    }

    /// Warning for a person, if a loss of the state directory would lose the keys.
    pub(crate) fn warning(&self) -> Option<String> {
        const LOSS: &str = "without the state directory, a backup of the key store of now does not open";
        Some(match (self.current, self.has_erased, self.written) {
            (true, ..) => return None,
            (false, _, None) => format!("no recovery file is known: {LOSS}"),
            (false, true, Some(at)) => format!(
                "the recovery file of {} also has a secret that was erased since, by which purged keys open in old copies: make another one, and destroy that one",
                time(at)
            ),
            (false, false, Some(at)) => {
                format!("the recovery file of {} has the secret of before a purge: {LOSS}", time(at))
            }
        })
    }
}

//! Answers about purges and the recovery file in JSON, for the daemon and for the client.

use serde::{Deserialize, Serialize};

use crate::daemon::Daemon;
use crate::ground::text::time;
use crate::keys::StoreError;
use crate::keys::shred::Shred;

/// Whether keys that were destroyed can come back from copies of the key store.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct PurgesView {
    /// False until every other key is wrapped by a new secret, and the old secret is erased.
    pub(crate) r#final: bool,
    /// Number of keys that are left to wrap.
    pub(crate) keys_left: u64,
}

impl PurgesView {
    pub(crate) async fn of(daemon: &Daemon, shred: &Shred) -> Result<Self, StoreError> {
        let keys_left = match (!shred.needs_round(), daemon.shredding.left()) {
            (true, _) => 0,
            (false, Some(left)) => left,
            (false, None) => daemon.keys.count().await?,
        };
        Ok(Self { r#final: shred.is_final(), keys_left })
    }
}

/// The recovery file of the key store.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RecoveryView {
    /// Number and id of the secret in force.
    pub(crate) secret: String,
    /// True if the last recovery file has the secret in force and no other.
    pub(crate) current: bool,
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
            written: shred.recovery.map(|written| written.at),
        })
    }

    /// Warning for a person, if a loss of the state directory would lose the keys.
    pub(crate) fn warning(&self) -> Option<String> {
        let why = match (self.current, self.written) {
            (true, _) => return None,
            (false, None) => "there is no recovery file".to_owned(),
            (false, Some(at)) => {
                format!("the recovery file of {} does not have the present secret alone", time(at))
            }
        };
        Some(format!("{why}: without the state directory, no backup of the key store opens"))
    }
}

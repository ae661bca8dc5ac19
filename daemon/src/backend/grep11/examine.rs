//! Whether a unit signs as it should, where one key alone cannot tell: what is wrong may be the key.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::{KeyType, Scheme};
use keyward_unit::Input;

use super::failure::Failure;
use super::job::Job;
use super::trace::{Trace, random};
use super::unit::Unit;
use crate::keys::Version;

impl Unit {
    /// Has the unit make a key and sign with it, unless it was examined a moment ago. If that signature does not verify
    /// either, the unit is out of order.
    pub(super) fn examine(self: &Arc<Self>) {
        let now = Instant::now();
        let due = self.with(|state| {
            let due = state.examined.is_none_or(|at| now.saturating_duration_since(at) >= INTERVAL);
            if due {
                state.examined = Some(now);
            }
            due
        });
        if due {
            // Whoever asked has the answer already.
            let unit = Arc::clone(self);
            tokio::spawn(async move {
                let signed = tokio::time::timeout(unit.timeout, unit.sign_with_a_new_key()).await;
                if let Ok(Err(failure @ Failure::WrongSignature)) = signed {
                    unit.failed(&failure, true, None);
                }
            });
        }
    }

    async fn sign_with_a_new_key(self: &Arc<Self>) -> Result<(), Failure> {
        let connection = self.connection().await?;
        let pair = connection.generate(KEY_TYPE).await?;
        let version = Version {
            number: 1,
            key_type: KEY_TYPE,
            blob: pair.blob,
            next_blob: None,
            spki: pair.spki,
            created: 0,
        };
        let message = Input::Message(b"keyward: signature of a unit in doubt");
        let job = Job::new(&version, SCHEME, message).map_err(Failure::severe)?;
        let raw = job.sign_over(&connection, self, &Trace::new(random(), 0)).await?;
        job.checked(raw).map(drop)
    }
}

/// The type that is made fastest, and its scheme.
const KEY_TYPE: KeyType = KeyType::P256;
const SCHEME: Scheme = Scheme::EcdsaSecp256r1Sha256;
/// How long nobody examines a unit again: it has better things to do.
const INTERVAL: Duration = Duration::from_secs(1);

//! Whether a unit signs as it should, where one key alone cannot tell: what is wrong may be the key.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::{KeyType, Scheme};
use keyward_unit::Input;

use super::job::Job;
use crate::backend::pool::failure::Failure;
use crate::backend::pool::unit::Unit;
use crate::backend::{Abilities, KeyMaterial, Trace, random};

impl Unit {
    /// Has the unit make a key and sign with it, unless it was examined of late. If that signature does not verify either,
    /// the unit is out of order.
    pub(in crate::backend) fn examine(self: &Arc<Self>) {
        let now = Instant::now();
        let epoch = self.with(|state| {
            let due = state.examined.is_none_or(|until| now >= until);
            if due {
                state.examined = Some(now + INTERVAL);
            }
            due.then_some(state.epoch)
        });
        let Some(epoch) = epoch else { return };
        // Whoever asked has the answer already.
        let unit = Arc::clone(self);
        tokio::spawn(async move {
            let signed = tokio::time::timeout(PATIENCE, unit.sign_with_a_new_key()).await;
            let found = match signed.unwrap_or(Err(Failure::Late)) {
                Ok(()) => {
                    unit.with(|state| state.examined = Some(Instant::now() + LONG_INTERVAL));
                    "it signs with a new key as it should, so the key is damaged".into()
                }
                Err(failure @ Failure::WrongSignature) => {
                    unit.failed(&failure, true, Some(epoch));
                    return;
                }
                Err(failure) => format!("whether it or the key is damaged cannot be found out: {failure}"),
            };
            tracing::warn!(backend = unit.backend, unit = %unit.endpoint, "a signature did not verify; {found}");
        });
    }

    async fn sign_with_a_new_key(self: &Arc<Self>) -> Result<(), Failure> {
        let connection = self.connection().await?;
        let pair = connection.generate(KEY_TYPE, Abilities::SIGNS).await?;
        let key = KeyMaterial { key_type: KEY_TYPE, spki: &pair.spki, blob: &pair.blob, next_blob: None };
        let message = Input::Message(b"keyward: signature of a unit in doubt");
        let job = Job::to_sign(key, SCHEME, message).map_err(Failure::severe)?;
        let raw = job.ask(&connection, self, &Trace::new(random(), 0)).await?;
        job.checked(raw).map(drop)
    }
}

/// The type that is made fastest, and its scheme.
const KEY_TYPE: KeyType = KeyType::P256;
const SCHEME: Scheme = Scheme::EcdsaSecp256r1Sha256;
/// How long it may take: longer than a signature, since a key is made and a connection may have to be.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody examines a unit again: it has better things to do.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same for one that has passed.
const LONG_INTERVAL: Duration = Duration::from_secs(60);

//! Certificates of a plan that a person may have revoked.

use std::sync::Arc;

use keyward_plans::Revocable;

use super::state::{self, PlanState};
use crate::daemon::Daemon;
use crate::keys::certificates::Certificate;
use crate::keys::{Key, now};
use crate::lifecycle::Error;
use crate::renewal::known::digest;

/// A certificate that has not expired.
pub(super) struct Found {
    pub(super) key: Arc<Key>,
    /// Number of the version of the key.
    pub(super) version: u32,
    pub(super) certificate: Certificate,
}

/// The certificates of the key of a plan, whatever names they are for, the oldest version first;
/// and the one that servers have, also if that one is for a key that the plan had before. Expired
/// ones are left out, because nobody revokes these.
///
/// # Errors
/// The key store cannot be read.
pub(super) async fn found(daemon: &Daemon, state: &PlanState) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    if let Some(key) = &state.key {
        for version in &key.versions {
            let Some(certificate) = state::of_version(version) else { continue };
            found.push(Found { key: Arc::clone(key), version: version.number, certificate });
        }
    }
    let deployed = state.progress.deployed.as_ref();
    let former = deployed.and_then(|one| Some((one, one.key.as_ref()?.parse().ok()?)));
    if let Some((deployed, label)) = former.filter(|(_, label)| *label != state.plan.key)
        && let Some(key) = daemon.keys.get(&label).await?
        && let Some((version, certificate)) = state::with_certificate(&key, &deployed.certificate)
    {
        let version = version.number;
        found.push(Found { key, version, certificate });
    }
    found.retain(|one| one.certificate.not_after() > now());
    Ok(found)
}

/// The certificates of a plan that a person may have revoked, for people.
///
/// # Errors
/// The key store cannot be read.
pub(crate) async fn revocable(daemon: &Daemon, state: &PlanState) -> Result<Vec<Revocable>, Error> {
    let in_use = state.progress.deployed.as_ref().map(|deployed| &deployed.certificate);
    let shown = |one: Found| {
        let certificate = one.certificate.fingerprint();
        Revocable {
            key: one.key.label.to_string(),
            version: one.version,
            names: one.certificate.names().to_vec(),
            not_after: one.certificate.not_after(),
            is_in_use: in_use == Some(&certificate),
            is_revoked: state.known.is_revoked(&one.certificate),
            is_compromised: state.known.is_compromised(&digest(one.certificate.spki())),
            certificate,
        }
    };
    Ok(found(daemon, state).await?.into_iter().map(shown).collect())
}

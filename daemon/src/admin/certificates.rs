//! Certificates, attached to the versions of keys that they are for.

use axum::Json;
use axum::extract::{Extension, Path, Query, State};

use super::keys::{label, version_of};
use super::{Admin, AdminError, Administrator, Answer, Body};
use crate::admin::api::{Certified, KeyView};
use crate::keys::certificates::{Certificate, Chain};
use crate::keys::{Key, StoreError};

/// Attaches the certificates in the body, in the place of those that were there. The version is the one that has the public
/// key of the first certificate.
pub(super) async fn attach(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
    body: Body,
) -> Answer<Certified> {
    let label = label(&text)?;
    let chain = Chain::read(&body?).map_err(|error| AdminError::Unfit(error.to_string()))?;
    loop {
        let mut key = admin
            .daemon
            .keys
            .get(&label)
            .await?
            .map(|key| (*key).clone())
            .ok_or_else(|| StoreError::Unknown(label.clone()))?;
        let number = of_version(&mut key, &chain)?;
        match admin.daemon.keys.put(key).await {
            Ok(key) => {
                let not_after = chain.certificates.iter().map(Certificate::not_after).min();
                tracing::info!(
                    key = label.as_str(),
                    version = number,
                    not_after,
                    uid = who.uid,
                    "certificate attached"
                );
                let view = KeyView::of(&key, &admin.daemon.backends);
                let attached = Certified::all_of(view).find(|certified| certified.version == number);
                return attached.map(Json).ok_or_else(|| StoreError::Changed(label).into());
            }
            // Someone else changed it in between; every round means that one change succeeded.
            Err(StoreError::Changed(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the certificates of a version away, the current one where none is named, and answers with
/// the first of them.
pub(super) async fn detach(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer<Certified> {
    let label = label(&text)?;
    let number = version_of(query)?;
    loop {
        let old = admin.daemon.keys.get(&label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
        let mut key = (*old).clone();
        let number = if number == 0 { key.current } else { number };
        let version = key.versions.iter_mut().find(|version| version.number == number);
        let version =
            version.ok_or_else(|| AdminError::NoVersion(format!("key {label} has no version {number}")))?;
        if version.certificates.is_empty() {
            return Err(AdminError::NoVersion(without_certificate(&old, number)));
        }
        version.certificates.clear();
        match admin.daemon.keys.put(key).await {
            Ok(_) => {
                tracing::info!(key = label.as_str(), version = number, uid = who.uid, "certificate detached");
                let view = KeyView::of(&old, &admin.daemon.backends);
                let detached = Certified::all_of(view).find(|certified| certified.version == number);
                return detached.map(Json).ok_or_else(|| StoreError::Changed(label).into());
            }
            // Someone else changed it in between; every round means that one change succeeded.
            Err(StoreError::Changed(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Says which versions have certificates, where the one that was meant has none.
fn without_certificate(key: &Key, number: u32) -> String {
    let certified = key.versions.iter().filter(|version| !version.certificates.is_empty());
    let certified: Vec<_> = certified.map(|version| version.number.to_string()).collect();
    let others = match certified.is_empty() {
        true => "nor has any other".into(),
        false => format!("name one that has with --version: {}", certified.join(", ")),
    };
    format!("version {number} of key {} has no certificate; {others}", key.label)
}

/// Puts a chain where it belongs, and returns which version that is.
fn of_version(key: &mut Key, chain: &Chain) -> Result<u32, AdminError> {
    let certificates = &chain.certificates;
    let spkis: Vec<_> = certificates.iter().map(Certificate::spki).collect();
    let at = key.versions.iter().position(|version| spkis.first() == Some(&version.spki.as_slice()));
    let Some(version) = at.and_then(|at| key.versions.get_mut(at)) else {
        let label = &key.label;
        let is_ours = |spki: &&[u8]| key.versions.iter().any(|version| version.spki == **spki);
        return Err(AdminError::Unfit(match spkis.iter().position(is_ours) {
            Some(at) => {
                format!(
                    "the certificate of key {label} is number {} in the file, and has to come first",
                    at + 1
                )
            }
            None => {
                format!(
                    "no version of key {label} has the public key of the first certificate in the file; have one issued for it: keyward csr {label}"
                )
            }
        }));
    };
    chain.check().map_err(|error| AdminError::Unfit(error.to_string()))?;
    version.certificates = certificates.iter().map(|certificate| certificate.der().to_vec()).collect();
    Ok(version.number)
}

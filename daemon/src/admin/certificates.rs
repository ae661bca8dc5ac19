//! Certificates, attached to the versions of keys.

use axum::Json;
use axum::extract::{Extension, State};

use super::parse::{OfKey, OfVersion, Parameters};
use super::{Admin, AdminError, Administrator, Answer, Body};
use crate::admin::api::{Certified, KeyView};
use crate::keys::certificates::Chain;
use crate::keys::{Key, StoreError};
use crate::lifecycle;

/// Attaches the certificates in the body, and answers with the certificate of the key.
pub(super) async fn attach(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
    body: Body,
) -> Answer<Certified> {
    let chain = Chain::read(&body?).map_err(lifecycle::Error::from)?;
    let (key, number) = lifecycle::attach(&admin.daemon, actor, &label, &chain).await?;
    certified(&admin, &key, number)
}

/// Removes the certificates of a version, and answers with the certificate of the key.
pub(super) async fn detach(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
    Parameters(OfVersion { version }): Parameters<OfVersion>,
) -> Answer<Certified> {
    let (before, number) = lifecycle::detach(&admin.daemon, actor, &label, version).await?;
    certified(&admin, &before, number)
}

fn certified(admin: &Admin, key: &Key, number: u32) -> Answer<Certified> {
    let view = KeyView::of(key, &admin.daemon);
    let certified = Certified::all_of(view).find(|certified| certified.version == number);
    let changed = || AdminError::from(StoreError::Changed(key.label.clone()));
    certified.map(Json).ok_or_else(changed)
}

//! Certificate requests, signed for administrators.

use axum::Json;
use axum::extract::{Extension, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::parse::{OfKey, OfVersion, Parameters};
use super::{Admin, Administrator, Answer, Body};
use crate::admin::api::RequestSignature;
use crate::lifecycle::{self, SignedRequest};

/// Signs the CertificationRequestInfo in the body.
pub(super) async fn sign(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    OfKey(label): OfKey,
    Parameters(OfVersion { version }): Parameters<OfVersion>,
    body: Body,
) -> Answer<RequestSignature> {
    let signed = lifecycle::sign_request(&admin.daemon, actor, &label, version, &body?).await?;
    let SignedRequest { version, scheme, signature } = signed;
    let signature = STANDARD.encode(signature);
    Ok(Json(RequestSignature { version, scheme: scheme.name().into(), signature }))
}

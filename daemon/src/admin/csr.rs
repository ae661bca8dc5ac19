//! Certificate requests, signed for administrators: the one kind of message that is signed over this socket.

use std::time::Instant;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::{KeyType, Outcome, PublicKey, Scheme, Use};

use super::keys::{label, version_of};
use super::{Admin, AdminError, Administrator, Answer, Body};
use crate::admin::api::RequestSignature;
use crate::backend::grep11::{Trace, random};
use crate::backend::{Asked, BackendError, Input, Times};
use crate::ground::fair::NOBODY;
use crate::keys::{self, StoreError, Version};
use crate::lifecycle::set_uses_command;
use crate::policy::act::Act;
use crate::policy::purpose::{Purpose, classify};

/// Signs the CertificationRequestInfo that is the body. No grant is asked for: who may call here may change the uses
/// of the key, and those must include requests.
pub(super) async fn sign(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    body: Body,
) -> Answer<RequestSignature> {
    let info = body?;
    let label = label(&text)?;
    let number = version_of(query)?;
    let daemon = &admin.daemon;
    let key = daemon.keys.get(&label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
    let version = key
        .version(number)
        .ok_or_else(|| AdminError::NoVersion(format!("key {label} has no version {number}")))?;
    if key.state == keys::State::Disabled {
        let reason = format!(
            "key {label} is disabled; ask who disabled it, and why; then: keyward key enable {label}"
        );
        return Err(AdminError::NotAllowed(reason));
    }
    if !Act::Sign(Purpose::CertificateRequest).is_admitted_by(&key.uses) {
        let uses = key.uses.iter().map(|u| u.name()).collect::<Vec<_>>().join(", ");
        let reason = format!(
            "the uses of key {label} are {uses}, without csr; allow it first: {}",
            set_uses_command(label.as_str(), &[&*key.uses, &[Use::Csr]].concat())
        );
        return Err(AdminError::NotAllowed(reason));
    }
    if classify(&info, &version.spki) != Purpose::CertificateRequest {
        let number = version.number;
        return Err(AdminError::Unfit(format!(
            "what is to be signed is no CertificationRequestInfo for the public key of key {label} version {number}"
        )));
    }
    let backend = daemon.backends.get(&key.backend).ok_or_else(|| {
        AdminError::Unfit(format!("the backend {} of key {label} is not configured", key.backend))
    })?;
    let scheme = scheme(version);
    let asked = Asked {
        deadline: Instant::now() + daemon.config().request_timeout,
        trace: Trace::new(random(), 0),
        user: NOBODY,
    };
    let mut times = Times::default();
    let signed = backend.sign(version, scheme, Input::Message(&info), &asked, &mut times).await;
    let outcome = signed.as_ref().err().map_or(Outcome::Done, BackendError::outcome);
    daemon.metrics.signature(outcome, Some(Purpose::CertificateRequest));
    daemon.metrics.times(backend, scheme, outcome, &times);
    let signature = signed?;
    tracing::info!(
        key = label.as_str(),
        version = version.number,
        scheme = scheme.name(),
        uid = who.uid,
        "certificate request signed"
    );
    Ok(Json(RequestSignature {
        version: version.number,
        scheme: scheme.name().into(),
        signature: STANDARD.encode(signature),
    }))
}

/// The preferred scheme of a key, except for RSA that is not bound to RSASSA-PSS: not every authority takes that.
fn scheme(version: &Version) -> Scheme {
    let schemes = PublicKey::from_spki(&version.spki).map_or(version.key_type.schemes(), |key| key.schemes());
    match (version.key_type, schemes.first()) {
        (KeyType::Rsa(_), _) | (_, None) => Scheme::RsaPkcs1Sha256,
        (_, Some(preferred)) => *preferred,
    }
}

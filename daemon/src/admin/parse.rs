//! Parts of a request as typed values.

use std::error::Error;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use keyward_proto::Label;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use super::AdminError;

/// The label in the path of a request.
pub(super) struct OfKey(pub(super) Label);

impl<S: Send + Sync> FromRequestParts<S> for OfKey {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|rejection| AdminError::Invalid(rejection.body_text()))?;
        let label = text.parse().map_err(|error| AdminError::Invalid(format!("{text:?} is {error}")))?;
        Ok(Self(label))
    }
}

/// The parameters in the query of a request.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let Query(parameters) = query.map_err(|rejection| {
            let reason = rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
            // serde calls a parameter a field, as in a struct of Rust.
            let reason = reason.replacen("unknown field", "unknown parameter", 1);
            AdminError::Invalid(reason.replacen("missing field", "missing parameter", 1))
        })?;
        Ok(Self(parameters))
    }
}

/// The body of a request, in JSON. Its Content-Type does not matter.
pub(super) struct Document<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Document<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        let body = Bytes::from_request(request, state).await?;
        let document = serde_json::from_slice(&body);
        let document =
            document.map_err(|error| AdminError::Invalid(format!("not the JSON expected: {error}")))?;
        Ok(Self(document))
    }
}

/// The query of a request about a version of a key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfVersion {
    /// Number of the version; 0 for the current version.
    #[serde(default, deserialize_with = "number")]
    pub(super) version: u32,
}

/// A number in a query.
pub(super) fn number<'de, D: Deserializer<'de>, N: FromStr>(from: D) -> Result<N, D::Error> {
    String::deserialize(from)?.parse().map_err(|_| D::Error::custom("not a number"))
}

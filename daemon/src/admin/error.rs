//! Errors as answers: the HTTP status of each error.

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use keyward_proto::Outcome;
use keyward_unit::ImportError;
use keyward_unit::administration::CustodyError;
use thiserror::Error;

use super::audit::{MAX_READERS, MAX_READERS_OF_USER};
use super::rights::NeedsRole;
use crate::admin::api::{MAX_KEY_FILE, Refusal};
use crate::audit::Unwritten;
use crate::backend::BackendError;
use crate::ground::text::printable;
use crate::keys::StoreError;
use crate::lifecycle;
use crate::lifecycle::renewal::RenewalError;

/// Reason why a request was refused.
#[derive(Debug, Error)]
pub(super) enum AdminError {
    #[error("the body cannot be read: {}", .0.body_text())]
    Body(#[from] BytesRejection),
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Lifecycle(#[from] lifecycle::Error),
    #[error(
        "too many readers of the audit trail; try again when one of them has ended: {MAX_READERS_OF_USER} of one user and {MAX_READERS} in all are the most"
    )]
    ManyReaders,
    #[error("{0}; see the log of the daemon")]
    NoTrail(Unwritten),
    #[error("there is no such route; docs/admin-api.md has the routes")]
    NoRoute,
    #[error("{0}")]
    NeedsRole(Box<NeedsRole>),
    #[error(
        "the request comes from a web page, which may neither change anything here nor read for another site; use the commands of keyward"
    )]
    OfWebPage,
    #[error(
        "the request is for the server {0:?}, which this socket is not; ask for http://localhost, with any port"
    )]
    OtherHost(String),
    #[error("the daemon still reads its keys, of which there are very many; ask again in a minute")]
    StillReading,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the key file is too long: at most {MAX_KEY_FILE} bytes are read; send a file with only the private key and its certificates"
    )]
    TooLong,
}

impl AdminError {
    /// Logs a failure of the daemon.
    pub(super) fn log(&self) {
        // Readers who ask again and again must not fill the log.
        if self.status().is_server_error() && !matches!(self, Self::ManyReaders | Self::StillReading) {
            tracing::error!("administrator's request failed: {self}");
        }
    }

    /// Status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Body(rejection) => rejection.status(),
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Lifecycle(error) => lifecycle_status(error),
            Self::ManyReaders => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoTrail(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NeedsRole(_) | Self::OfWebPage => StatusCode::FORBIDDEN,
            Self::OtherHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::StillReading => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(error) => store_status(error),
        }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = self.status();
        self.log();
        let refusal = Refusal { error: printable(&self.to_string()) };
        let mut response = (status, Json(&refusal)).into_response();
        // The status page tells a person the same.
        response.extensions_mut().insert(refusal);
        response
    }
}

fn renewal_status(error: &RenewalError) -> StatusCode {
    match error {
        RenewalError::NoPlan(_) | RenewalError::NoCertificate(_) | RenewalError::NotRevocable { .. } => {
            StatusCode::NOT_FOUND
        }
        RenewalError::OtherUrl { .. } | RenewalError::Nonce | RenewalError::NothingMeant => {
            StatusCode::BAD_REQUEST
        }
        RenewalError::NotDue { .. } | RenewalError::Ordered(_) | RenewalError::NotRevoked(_) => {
            StatusCode::LOCKED
        }
        RenewalError::ManyOrders { .. } => StatusCode::TOO_MANY_REQUESTS,
        RenewalError::Progress(_) => StatusCode::INSUFFICIENT_STORAGE,
        RenewalError::Binding(..) | RenewalError::BindingForm(_) | RenewalError::Encoding(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::CONFLICT,
    }
}

fn lifecycle_status(error: &lifecycle::Error) -> StatusCode {
    use lifecycle::Error;

    match error {
        Error::Backend(error) => backend_status(error),
        Error::Store(error) => store_status(error),
        Error::BackendAfterRestart { .. }
        | Error::BackendWithoutKeys(_)
        | Error::DatesReversed { .. }
        | Error::Incapable { .. }
        | Error::InvalidCommands(_)
        | Error::NotAdoptable
        | Error::SeveralBackends(_)
        | Error::LongWait(_)
        | Error::ShortWait(_)
        | Error::SignsAndDecrypts(_)
        | Error::UnknownBackend { .. }
        | Error::UselessDecryption(_) => StatusCode::BAD_REQUEST,
        Error::Deactivated { .. }
        | Error::Disabled(_)
        | Error::NeedsRoot
        | Error::NotForRequests { .. }
        | Error::PreActive { .. }
        | Error::SameUser { .. } => StatusCode::FORBIDDEN,
        Error::Renewal(error) => renewal_status(error),
        Error::InUse { .. } | Error::UseNotKnown { .. } => StatusCode::LOCKED,
        Error::Custody(error) => custody_status(error),
        Error::OfCommand { reason, .. } => lifecycle_status(reason),
        Error::NoReloadNow => StatusCode::SERVICE_UNAVAILABLE,
        Error::NotRecorded(_) | Error::DoneNotRecorded(_) => StatusCode::INSUFFICIENT_STORAGE,
        Error::NotRepeated { reason, .. } => lifecycle_status(reason),
        Error::ManyActs => StatusCode::TOO_MANY_REQUESTS,
        Error::NoCertificate { .. } | Error::NoVersion { .. } => StatusCode::NOT_FOUND,
        Error::Compromised(_)
        | Error::Deleted { .. }
        | Error::LabelOfDeleted { .. }
        | Error::NoChange
        | Error::NextStart(_)
        | Error::NobodyUnseals
        | Error::NoSecret
        | Error::NoUnitHere
        | Error::OwnersActivate
        | Error::SecretReplaced
        | Error::StoreIncomplete(_)
        | Error::StoreNeedsNew
        | Error::StoreNeedsOther { .. }
        | Error::NothingCommitted(_)
        | Error::NothingToSeal
        | Error::OwnersCommit(_)
        | Error::NoUnit { .. }
        | Error::NotDeleted(_)
        | Error::NotDeletedYet(_)
        | Error::NotRewrapped { .. }
        | Error::NothingRewrapped { .. }
        | Error::OtherMasterKeyAtUnits { .. }
        | Error::Proof { .. }
        | Error::ProofGivenUp
        | Error::StoreAltered => StatusCode::CONFLICT,
        Error::BackendGone { .. }
        | Error::CertificateNotFirst { .. }
        | Error::CertificateOfOtherKey(_)
        | Error::Chain(_)
        | Error::ManyVersions { .. }
        | Error::NotARequest { .. }
        | Error::NotGenerated(_)
        | Error::NotReloaded(_)
        | Error::OtherMasterKey { .. }
        | Error::SameKey { .. } => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn store_status(error: &StoreError) -> StatusCode {
    match error {
        StoreError::Unknown(_) => StatusCode::NOT_FOUND,
        StoreError::Exists(_) | StoreError::Changed(_) => StatusCode::CONFLICT,
        StoreError::Locked(_) => StatusCode::FAILED_DEPENDENCY,
        StoreError::Altered(_) | StoreError::Unlisted(_) => StatusCode::UNPROCESSABLE_ENTITY,
        StoreError::Copy(_)
        | StoreError::Gone(_)
        | StoreError::Io(..)
        | StoreError::NotDurable { .. }
        | StoreError::Secret(..) => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn custody_status(error: &CustodyError) -> StatusCode {
    match error {
        CustodyError::Refused(_) => StatusCode::CONFLICT,
        CustodyError::Write(_) => StatusCode::INSUFFICIENT_STORAGE,
        CustodyError::Altered | CustodyError::Damaged | CustodyError::Unit(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn backend_status(error: &BackendError) -> StatusCode {
    match error {
        BackendError::Import(ImportError::Unit(_)) | BackendError::GivenUp => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        BackendError::Unit(_) if !error.is_of_the_peer() => StatusCode::INTERNAL_SERVER_ERROR,
        BackendError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        BackendError::Import(_) => StatusCode::UNPROCESSABLE_ENTITY,
        // The unit has the master key of another store: the configuration is wrong.
        BackendError::Unusable(_) => StatusCode::FAILED_DEPENDENCY,
        // Most likely the public key that came with an adoption is of another key.
        BackendError::WrongSignature { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        _ => match error.outcome() {
            Outcome::UnitUnavailable | Outcome::DeadlineExceeded | Outcome::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        },
    }
}

//! How a command fails.

use core::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use hyper::StatusCode;

use crate::admin::client::AdminClientError;
use crate::ground::exit;
use crate::ground::text::printable;

/// Why a command failed, in one line, and the status that the process ends with.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    /// `None` if everything is said already.
    reason: Option<String>,
}

impl Failure {
    pub(crate) fn new(status: u8, reason: impl Display) -> Self {
        Self { status, reason: Some(reason.to_string()) }
    }

    /// A failure that the output of the command tells by itself.
    pub(crate) fn silent(status: u8) -> Self {
        Self { status, reason: None }
    }

    /// A file that could not be read.
    pub(crate) fn reading(path: &Path, reason: &io::Error) -> Self {
        let status = match reason.kind() {
            io::ErrorKind::NotFound => exit::NO_INPUT,
            io::ErrorKind::PermissionDenied => exit::NO_PERMISSION,
            _ => exit::IO,
        };
        Self::new(status, format_args!("cannot read {}: {reason}", path.display()))
    }

    /// Says it on standard error.
    pub(crate) fn tell(self) -> ExitCode {
        if let Some(reason) = self.reason {
            eprintln!("keyward: {}", printable(&reason));
        }
        self.status.into()
    }

    /// Why the command failed.
    pub(crate) fn into_reason(self) -> String {
        self.reason.unwrap_or_default()
    }

    /// The same failure, told as part of `attempt`.
    pub(crate) fn while_trying(self, attempt: impl Display) -> Self {
        Self { reason: self.reason.map(|reason| format!("{attempt}: {reason}")), ..self }
    }
}

impl From<AdminClientError> for Failure {
    fn from(error: AdminClientError) -> Self {
        let status = match &error {
            AdminClientError::Garbled(_) | AdminClientError::Runtime(_) => exit::SOFTWARE,
            AdminClientError::Exposed { .. } | AdminClientError::Impostor { .. } => exit::NO_PERMISSION,
            AdminClientError::Write(_) => exit::IO,
            AdminClientError::Late(_) | AdminClientError::Lost { .. } => exit::UNAVAILABLE,
            AdminClientError::Refused { status, .. } => match *status {
                StatusCode::BAD_REQUEST => exit::USAGE,
                StatusCode::FORBIDDEN => exit::NO_PERMISSION,
                StatusCode::NOT_FOUND => exit::NO_INPUT,
                StatusCode::CONFLICT => exit::CANNOT_CREATE,
                StatusCode::FAILED_DEPENDENCY => exit::CONFIG,
                StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => exit::DATA,
                StatusCode::SERVICE_UNAVAILABLE => exit::UNAVAILABLE,
                StatusCode::INSUFFICIENT_STORAGE => exit::IO,
                _ => exit::SOFTWARE,
            },
            AdminClientError::Unreachable { reason, .. } => match reason.kind() {
                io::ErrorKind::PermissionDenied => exit::NO_PERMISSION,
                _ => exit::UNAVAILABLE,
            },
        };
        Self::new(status, error)
    }
}

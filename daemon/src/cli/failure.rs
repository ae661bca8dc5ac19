//! Failure of a command: one line and an exit status.

use core::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use hyper::StatusCode;

use super::client::RUNTIME_DIR;
use super::setup;
use crate::admin::client::AdminClientError;
use crate::ground::exit;
use crate::ground::text::{printable, quoted};

/// Reason why a command failed, in one line, and the exit status of the process (sysexits(3)).
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    /// `None` if the output has the reason.
    reason: Option<String>,
}

impl Failure {
    pub(crate) fn new(status: u8, reason: impl Display) -> Self {
        Self { status, reason: Some(reason.to_string()) }
    }

    /// A failure whose reason the output of the command has.
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

    /// Prints the reason on standard error.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(reason) = self.reason {
            eprintln!("keyward: {}", printable(&reason));
        }
        self.status.into()
    }

    /// Exit status.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }

    /// The reason why the command failed.
    pub(crate) fn into_reason(self) -> String {
        self.reason.unwrap_or_default()
    }

    /// Says how the commands that the reason advises reach the daemon with this runtime directory.
    pub(crate) fn at(self, runtime_dir: &Path) -> Self {
        let advises = |reason: &String| reason.contains("keyward unit ") && !reason.contains("--runtime-dir");
        match &self.reason {
            Some(reason) if runtime_dir != Path::new(RUNTIME_DIR) && advises(reason) => {
                let reason =
                    format!("{reason}; with each command here, use --runtime-dir {}", quoted(runtime_dir));
                Self { reason: Some(reason), ..self }
            }
            _ => self,
        }
    }

    /// Puts another way behind the reason.
    pub(crate) fn or_else(self, way: &str) -> Self {
        Self { reason: self.reason.map(|reason| format!("{reason}; {way}")), ..self }
    }

    /// Puts the attempt that failed before the reason.
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
            AdminClientError::Late { .. } | AdminClientError::Lost { .. } => exit::UNAVAILABLE,
            AdminClientError::Refused { status, .. } => match *status {
                StatusCode::BAD_REQUEST => exit::USAGE,
                StatusCode::FORBIDDEN => exit::NO_PERMISSION,
                StatusCode::NOT_FOUND => exit::NO_INPUT,
                StatusCode::CONFLICT => exit::CANNOT_CREATE,
                StatusCode::LOCKED | StatusCode::TOO_MANY_REQUESTS => exit::IN_USE,
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
        match &error {
            AdminClientError::Unreachable { socket, .. }
                if status == exit::UNAVAILABLE && is_to_be_set_up(socket) =>
            {
                Self::new(status, format_args!("{error} {SETUP}"))
            }
            _ => Self::new(status, error),
        }
    }
}

/// True if no daemon has this socket, because the service is not set up yet.
pub(super) fn is_to_be_set_up(socket: &Path) -> bool {
    socket.parent() == Some(Path::new(RUNTIME_DIR)) && setup::is_due(Path::new("/"))
}

/// Advice for a service that is not set up.
pub(super) const SETUP: &str = "The service is not set up yet: run keyward setup";

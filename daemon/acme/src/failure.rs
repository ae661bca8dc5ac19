//! Reasons why an attempt has failed, in the words of the authority where it has spoken.

use keyward_plans::{ClientError, Report};
use serde_json::Value;
use thiserror::Error;

use super::http::Answer;

/// Reason why an attempt has failed.
#[derive(Debug, Error)]
#[error("{detail}")]
pub(crate) struct Failure {
    /// Type of the error of ACME without its prefix, or a word of the agent.
    pub(crate) kind: String,
    pub(crate) detail: String,
    /// Seconds until the next attempt, as the authority wants it.
    pub(crate) retry_after: Option<u64>,
}

impl Failure {
    pub(crate) fn new(kind: &str, detail: impl ToString) -> Self {
        Self { kind: kind.to_owned(), detail: detail.to_string(), retry_after: None }
    }

    /// The error in an answer of an authority (RFC 8555, 6.7).
    pub(crate) fn of_answer(answer: &Answer, url: &str) -> Self {
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        Self {
            retry_after: answer.retry_after,
            ..Self::of_problem(&problem, &format!("{url} answered {}", answer.status))
        }
    }

    /// An error of ACME, in the words of the authority, or else `instead`.
    pub(crate) fn of_problem(problem: &Value, instead: &str) -> Self {
        let kind = problem["type"].as_str().and_then(|kind| kind.strip_prefix("urn:ietf:params:acme:error:"));
        let words = problem["detail"].as_str();
        let parts = problem["subproblems"].as_array().into_iter().flatten();
        let parts = parts.filter_map(|part| {
            Some(format!("{}: {}", part["identifier"]["value"].as_str()?, part["detail"].as_str()?))
        });
        let parts: Vec<_> = parts.collect();
        let mut detail = words.unwrap_or(instead).to_owned();
        if !parts.is_empty() {
            detail += &format!(" ({})", parts.join("; "));
        }
        Self {
            kind: kind.unwrap_or("authority").to_owned(),
            detail: detail.chars().take(MAX_DETAIL).collect(),
            retry_after: None,
        }
    }

    pub(crate) fn report(&self) -> Report {
        Report::Failed { kind: self.kind.clone(), detail: self.detail.clone(), retry_after: self.retry_after }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            ClientError::NotNow(_) => NOT_NOW,
            ClientError::Away(_) => "unit",
            _ => "daemon",
        };
        Self::new(kind, error)
    }
}

/// Kind of a failure that is none: another agent does the work.
pub(crate) const NOT_NOW: &str = "not-now";

/// Longest description that is kept, in characters.
const MAX_DETAIL: usize = 2000;

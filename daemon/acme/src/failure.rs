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
    /// True if the authority has refused the message, in words of ACME.
    pub(crate) is_refusal: bool,
}

impl Failure {
    pub(crate) fn new(kind: &str, detail: impl ToString) -> Self {
        Self { kind: kind.to_owned(), detail: detail.to_string(), retry_after: None, is_refusal: false }
    }

    /// The error in the answer of an authority to a message.
    pub(crate) fn of_message(answer: &Answer, url: &str) -> Self {
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let is_acme = problem["type"].as_str().is_some_and(|kind| kind.starts_with(PREFIX));
        let is_refusal = (400..500).contains(&answer.status) && is_acme;
        Self { is_refusal, ..Self::of_answer(answer, url) }
    }

    /// The error in an answer of an authority (RFC 8555, 6.7).
    pub(crate) fn of_answer(answer: &Answer, url: &str) -> Self {
        let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let failure = Self::of_problem(&problem, &format!("{url} answered {}", answer.status));
        // A machine before the authority may have answered, without the words of ACME.
        let kind = match answer.status {
            404 | 410 if failure.kind == UNKNOWN => GONE.to_owned(),
            429 if failure.kind == UNKNOWN => "rateLimited".to_owned(),
            500.. if failure.kind == UNKNOWN => "serverInternal".to_owned(),
            _ => failure.kind,
        };
        Self { kind, retry_after: answer.retry_after, ..failure }
    }

    /// An error of ACME, in the words of the authority, or else `instead`.
    pub(crate) fn of_problem(problem: &Value, instead: &str) -> Self {
        let kind = problem["type"].as_str().and_then(|kind| kind.strip_prefix(PREFIX));
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
            kind: kind.unwrap_or(UNKNOWN).to_owned(),
            detail: detail.chars().take(MAX_DETAIL).collect(),
            retry_after: None,
            is_refusal: false,
        }
    }

    /// The report of a revocation that has failed.
    pub(crate) fn of_revocation(&self) -> Report {
        Report::NotRevoked {
            kind: self.kind.clone(),
            detail: self.detail.clone(),
            retry_after: self.retry_after,
            is_answered: self.is_refusal,
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

/// Beginning of the types of errors of ACME (RFC 8555, 6.7).
const PREFIX: &str = "urn:ietf:params:acme:error:";
/// Kind of a failure: there is no such resource.
pub(crate) const GONE: &str = "gone";
/// Kind of a failure without a word of ACME.
const UNKNOWN: &str = "authority";
/// Longest description that is kept, in characters.
const MAX_DETAIL: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_words_of_acme_is_judged_by_its_status() {
        let of = |status: u16, body: &str| {
            let answer =
                Answer { status, body: body.to_owned().into(), retry_after: Some(3600), ..Answer::default() };
            let failure = Failure::of_answer(&answer, "https://ca.example/order/1");
            assert_eq!(failure.retry_after, Some(3600));
            failure.kind
        };
        assert_eq!(of(503, "<html>maintenance</html>"), "serverInternal");
        assert_eq!(of(429, ""), "rateLimited");
        assert_eq!((of(404, "not found"), of(400, "")), (GONE.to_owned(), UNKNOWN.to_owned()));
        assert_eq!(of(500, r#"{"type":"urn:ietf:params:acme:error:caa"}"#), "caa");
    }
}

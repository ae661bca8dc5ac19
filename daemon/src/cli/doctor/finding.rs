//! Findings: the results of checks, for people and for programs.

use serde::Serialize;

use crate::ground::text::printable;

/// Result of one check.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Subject of the check, such as `socket`.
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    /// The state that the check found, in one sentence.
    pub(super) detail: String,
    /// The action to take; none for the verdicts `ok` and `note`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
    /// Nothing was checked, or nothing can be right or wrong.
    Note,
}

impl Finding {
    pub(super) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, detail: detail.into(), fix: None }
    }

    pub(super) fn warn(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, detail: detail.into(), fix: Some(fix.into()) }
    }

    pub(super) fn fail(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, detail: detail.into(), fix: Some(fix.into()) }
    }

    pub(super) fn note(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Note, detail: detail.into(), fix: None }
    }

    /// Puts the name of the checked thing before the detail.
    pub(super) fn about(self, name: &str) -> Self {
        Self { detail: format!("{name}: {}", self.detail), ..self }
    }

    /// Limits the severity of the finding, where the fault may not matter.
    pub(super) fn at_most(self, verdict: Verdict) -> Self {
        match (self.verdict, verdict) {
            (Verdict::Fail | Verdict::Warn, Verdict::Warn) => Self { verdict, ..self },
            (_, Verdict::Note) => Self { verdict, ..self },
            _ => self,
        }
    }

    /// Text for a person: one line for the detail, and one line for the fix.
    pub(super) fn lines(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
            Verdict::Note => "note",
        };
        // A name in the text must not start a new line.
        let fix = self.fix.as_ref().map(|fix| format!("      fix: {}\n", printable(fix)));
        format!("{verdict}  {}: {}\n{}", self.check, printable(&self.detail), fix.unwrap_or_default())
    }
}

/// Keeps a value to go on with; an error becomes a finding.
pub(super) fn or_report<T>(findings: &mut Vec<Finding>, value: Option<Result<T, Finding>>) -> Option<T> {
    value?.map_err(|finding| findings.push(finding)).ok()
}

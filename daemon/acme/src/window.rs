//! The window in which the authority suggests to renew a certificate (ARI, RFC 9773).

use std::time::UNIX_EPOCH;

use keyward_plans::{Acme, Certificate, Client, Report, Task};
use serde_json::Value;

use super::failure::Failure;
use super::http::Http;
use super::order::tell;

/// Asks the authority for the window of a certificate, and tells the daemon. Does nothing if the
/// authority has no windows.
///
/// # Errors
/// The authority does not answer. The daemon goes by the lifetime of the certificate then.
pub(crate) async fn look(
    daemon: &Client,
    task: &Task,
    acme: &Acme,
    certificate: &Certificate,
) -> Result<(), Failure> {
    let Some(id) = &certificate.id else { return Ok(()) };
    let http = Http::new(acme.root.as_deref())?;
    let directory = http.get(&acme.directory).await?;
    let directory: Value = serde_json::from_slice(&directory.body).unwrap_or_default();
    let none = |retry_after| Report::Window {
        certificate: id.clone(),
        start: 0,
        end: 0,
        explanation: None,
        retry_after,
    };
    let Some(url) = directory["renewalInfo"].as_str() else {
        // A window without a length counts as no answer. The next look is after a day.
        return tell(daemon, task, &none(Some(24 * 3600))).await;
    };
    let url = format!("{}/{id}", url.trim_end_matches('/'));
    let answer = http.get(&url).await?;
    if answer.status != 200 {
        return tell(daemon, task, &none(answer.retry_after)).await;
    }
    let info: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let window = &info["suggestedWindow"];
    let time = |field: &str| {
        let at = humantime::parse_rfc3339_weak(window[field].as_str()?).ok()?;
        Some(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    };
    let (Some(start), Some(end)) = (time("start"), time("end")) else {
        return tell(daemon, task, &none(answer.retry_after)).await;
    };
    let explanation = info["explanationURL"].as_str().map(|url| url.chars().take(500).collect());
    let report =
        Report::Window { certificate: id.clone(), start, end, explanation, retry_after: answer.retry_after };
    tell(daemon, task, &report).await
}

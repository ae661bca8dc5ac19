//! The window in which the authority suggests to renew a certificate (ARI, RFC 9773).

use std::time::UNIX_EPOCH;

use keyward_plans::{Acme, Certificate, Client, Report, Task};
use serde_json::Value;

use super::failure::Failure;
use super::http::Http;
use super::order::tell;
use super::server::tell_clock;

/// Asks the authority for the window of a certificate, and tells the daemon. Does nothing if the
/// authority has no windows.
///
/// # Errors
/// The authority does not answer. The daemon goes by what it knows then, and the next look is
/// hours later.
pub(crate) async fn look(
    daemon: &Client,
    task: &Task,
    acme: &Acme,
    certificate: &Certificate,
) -> Result<(), Failure> {
    let looked = ask(daemon, task, acme, certificate).await;
    if let (Err(failure), Some(id)) = (&looked, &certificate.id) {
        let none = Report::NoWindow { certificate: id.clone(), retry_after: failure.retry_after };
        tell(daemon, task, &none).await?;
    }
    looked
}

async fn ask(daemon: &Client, task: &Task, acme: &Acme, certificate: &Certificate) -> Result<(), Failure> {
    let Some(id) = &certificate.id else { return Ok(()) };
    let http = Http::new(&acme.directory, acme.root.as_deref())?;
    let directory = http.get(&acme.directory).await?;
    tell_clock(daemon, &task.plan, &directory).await?;
    let directory: Value = serde_json::from_slice(&directory.body).unwrap_or_default();
    let none = |retry_after| Report::NoWindow { certificate: id.clone(), retry_after };
    let Some(url) = directory["renewalInfo"].as_str() else {
        // An authority without windows is asked again after a day.
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

//! `keyward status`: the state of the daemon in a few lines.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::key::for_daemon;
use super::output::{print, print_json};
use crate::admin::api::{MeasureView, StatusView};
use crate::admin::client::AdminClient;
use crate::ground::opening::{Opening, described};

/// Exits with 1 if there is a problem.
#[derive(Args, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    client: Client,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let status = AdminClient::new(&self.client.runtime_dir)
            .and_then(|admin| admin.status())
            .map_err(|error| Failure::from(error).while_trying("cannot ask the daemon for its state"))?;
        if self.client.json {
            print_json(&status)?;
        } else {
            print(&text(&status, &self.client.runtime_dir))?;
        }
        let is_well = problems(&status).is_empty() && status.backends.iter().all(|backend| backend.ready);
        if is_well { Ok(()) } else { Err(Failure::silent(PROBLEM)) }
    }
}

fn text(status: &StatusView, runtime_dir: &Path) -> String {
    let StatusView { version, pid, uptime_seconds, keys, grants, connections, .. } = status;
    let up = humantime::format_duration(core::time::Duration::from_secs(*uptime_seconds));
    let mut text = format!(
        "daemon      {version}, process {pid}, up {up}\nkeys        {keys}\ngrants      {grants}\nconnections {connections}\n"
    );
    for backend in &status.backends {
        let ready = if backend.ready { "ready" } else { "not ready" };
        text += &format!("backend     {} ({}): {ready}\n", backend.name, backend.unit);
        if let Some(opening) = &backend.opening {
            text +=
                &format!("            opened {}\n", opened(opening, backend.ready, backend.next_start_fails));
        }
    }
    if let Some(audit) = &status.audit {
        let signed = audit.checkpoint.as_ref().map_or_else(
            || "not signed yet".into(),
            |checkpoint| format!("signed to {} at {}", checkpoint.through, checkpoint.time),
        );
        text += &format!("audit trail {} records, {signed}\n", audit.last);
        if audit.unwritten > 0 {
            text += &format!("            {} uses without a record since the start\n", audit.unwritten);
        }
        if let (Some(files), Some(bytes), Some(free)) = (audit.files, audit.bytes, audit.free) {
            text += &format!(
                "            {files} files, {} MiB, {free} % of the file system free\n",
                bytes >> 20
            );
        }
    }
    for MeasureView { measure, in_force, detail } in &status.confinement {
        let label = if *in_force { "confined" } else { "unconfined" };
        text += &format!("{label:<12}{measure}: {detail}\n");
    }
    for path in status.purges.iter().flat_map(|purges| &purges.leftovers) {
        let path = path.display();
        text += &format!("purges      do not reach copies of before, as long as there is {path}\n");
    }
    if let Some(purges) = status.purges.as_ref().filter(|purges| !purges.r#final) {
        text += &match purges.keys_left {
            0 => "purges      not final: no key is left to wrap anew, but a file cannot be written yet\n"
                .to_owned(),
            keys => format!("purges      not final: {keys} keys are left to wrap anew\n"),
        };
    }
    if let Some(warning) = status.recovery_warning() {
        let command = for_daemon("keyward backup --recovery FILE".into(), runtime_dir);
        text += &format!("recovery    {warning}; run: {command}\n");
    }
    for setting in &status.waiting_for_restart {
        text += &format!("restart     needed for {setting}\n");
    }
    for problem in problems(status) {
        text += &format!("problem     {problem}\n");
    }
    text
}

/// The words for the way in which the embedded unit is opened at a start, if the way works.
pub(super) fn opened(opening: &str, is_open: bool, next_start_fails: bool) -> &str {
    match (is_open, next_start_fails) {
        (_, true) => "not at the next start",
        (false, _) if opening != Opening::Owners.name() => "not at this start",
        _ => described(opening),
    }
}

/// Everything that an administrator must know of.
fn problems(status: &StatusView) -> Vec<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let of_trail = status.audit.iter().flat_map(|audit| audit.problems(now));
    status.problems.iter().cloned().chain(of_trail).collect()
}

/// Exit status if there is a problem.
const PROBLEM: u8 = 1;

//! The loop of the agent: asks the daemon for work, and does the work that is due.

use core::time::Duration;
use std::collections::HashMap;
use std::path::Path;

use keyward_plans::{Client, Issuer, Task, Tasks};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::failure::Failure;
use super::order::Done;
use super::{order, program, window};

/// Does the work of the agent. Never returns.
pub(crate) async fn run(runtime_dir: &Path) {
    let daemon = Client::new(runtime_dir);
    let mut states = HashMap::new();
    let mut was_away = false;
    loop {
        let pause = match daemon.get::<Tasks>("/v1/tasks").await {
            Ok(tasks) => {
                if was_away {
                    tracing::info!("the daemon answers again");
                }
                was_away = false;
                work(&daemon, &tasks, &mut states).await
            }
            Err(error) => {
                if !was_away {
                    tracing::warn!("{error}");
                }
                was_away = true;
                LONGEST_PAUSE
            }
        };
        sleep(pause).await;
    }
}

/// Does what is due now. Returns the time until the next look.
async fn work(daemon: &Client, all: &Tasks, states: &mut HashMap<String, String>) -> Duration {
    let mut next = LONGEST_PAUSE;
    for task in &all.tasks {
        notify(task, states).await;
        // One after the other: an authority does not see many orders at once.
        if let Err(failure) = step(daemon, task, all.now).await {
            // Another agent does it.
            if failure.kind == "daemon" && failure.detail.starts_with("there is an order under way") {
                continue;
            }
            tracing::warn!(plan = task.plan, kind = failure.kind, "{failure}");
            if let Err(error) = order::tell(daemon, task, &failure.report()).await {
                tracing::warn!(plan = task.plan, "cannot tell the daemon: {error}");
            }
        }
        next = next.min(Duration::from_secs(task.due.saturating_sub(all.now)).max(SHORTEST_PAUSE));
    }
    next
}

async fn step(daemon: &Client, task: &Task, now: u64) -> Result<(), Failure> {
    match &task.issuer {
        Issuer::Command(command) if task.due <= now => issue(daemon, task, command).await,
        Issuer::Command(_) => Ok(()),
        Issuer::Acme(acme) => {
            if task.revokes.is_some() {
                return order::revoke(daemon, task, acme).await;
            }
            if let Some(certificate) = &task.certificate
                && acme.next_look <= now
                && certificate.not_after > now
                && let Err(failure) = window::look(daemon, task, acme, certificate).await
            {
                // Without a window, the lifetime decides.
                tracing::info!(
                    plan = task.plan,
                    "the authority has no window for the certificate: {failure}"
                );
            }
            match task.due <= now {
                true => {
                    if order::advance(daemon, task, acme).await? == Done::Certificate {
                        tracing::info!(plan = task.plan, "certificate renewed");
                    }
                    Ok(())
                }
                false => Ok(()),
            }
        }
    }
}

/// Has a program issue the certificate.
async fn issue(daemon: &Client, task: &Task, command: &[String]) -> Result<(), Failure> {
    let request: Value = daemon.post(&format!("/v1/plans/{}/request", task.plan), &json!({})).await?;
    let pem = request["pem"].as_str().unwrap_or_default();
    let chain = program::run(&task.plan, command, &[], pem.as_bytes()).await?;
    let accepted = daemon.send::<Value>(&format!("/v1/plans/{}/chain", task.plan), chain).await;
    accepted.map_err(|error| Failure::new("chain", error))?;
    tracing::info!(plan = task.plan, "certificate renewed");
    Ok(())
}

/// Tells the program of the owner that the state of a plan has changed.
async fn notify(task: &Task, states: &mut HashMap<String, String>) {
    let before = states.insert(task.plan.clone(), task.state.clone());
    let Some(command) = task.notify.as_ref().filter(|_| before.is_some_and(|before| before != task.state))
    else {
        return;
    };
    let told = json!({
        "plan": task.plan,
        "state": task.state,
        "names": task.names.iter().map(|name| &name.value).collect::<Vec<_>>(),
        "not_after": task.certificate.as_ref().map(|certificate| certificate.not_after),
        "last_error": task.last_error,
    });
    if let Err(failure) = program::run(&task.plan, command, &[], told.to_string().as_bytes()).await {
        tracing::warn!(plan = task.plan, "the notification has failed: {failure}");
    }
}

/// Longest time between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

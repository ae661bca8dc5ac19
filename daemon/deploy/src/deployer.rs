//! The loop of the deployer: files first, then the check of the server, then its reload, then the
//! certificate that it shows. A server that refuses the new files keeps the old ones.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use keyward::config::{Config, Plan};
use keyward_plans::{Client, Deployed, Files, PlanView, Shown};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::sleep;

use super::live::{self, Generation};
use super::program;
use super::served;
use super::servers::{self, Running};
use super::watched;

/// A plan whose files were changed.
struct Changed {
    plan: Plan,
    files: Files,
    generation: Generation,
    /// The generation before, to go back to.
    before: Option<PathBuf>,
    problem: Option<String>,
}

/// Facts that the deployer remembers between two rounds, by the name of a plan.
#[derive(Default)]
struct Known {
    /// The configuration, and the file that it was read from.
    config: Option<(Written, Config)>,
    /// The plans, as the daemon has last said, and the tag of that answer.
    views: Vec<PlanView>,
    tag: String,
    /// Time of the last look at the certificates of others.
    watched: Option<Instant>,
    /// Time of the last look at the listeners.
    looked: BTreeMap<String, Instant>,
    /// Certificate that the daemon had then.
    present: BTreeMap<String, Option<String>>,
    /// Plans whose files were not put in use.
    refused: BTreeMap<String, Refused>,
}

/// Files that were not put in use.
struct Refused {
    certificate: String,
    at: Instant,
    problem: String,
}

/// Facts by which a file that was written is told from the file before: device, inode, length, and
/// time of the last change in seconds and nanoseconds.
type Written = (u64, u64, u64, i64, i64);

impl Known {
    /// Reads the configuration, if its file was written since.
    fn read(&mut self, path: &Path) -> Result<Config, String> {
        let found = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let written = (found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec());
        if let Some((_, config)) = self.config.as_ref().filter(|(before, _)| *before == written) {
            return Ok(config.clone());
        }
        let config = Config::load(path).map_err(|error| error.to_string())?;
        // Another file may have other listeners.
        self.looked.clear();
        self.watched = None;
        self.config = Some((written, config.clone()));
        Ok(config)
    }
}

/// Does the work of the deployer. Never returns.
pub(crate) async fn run(config: &Path, runtime_dir: &Path, live: &Path) {
    let daemon = Client::new(runtime_dir);
    let mut told = String::new();
    let mut known = Known::default();
    loop {
        let problem = match known.read(config) {
            Ok(config) => round(&daemon, &config, live, &mut known).await.err(),
            Err(error) => Some(error),
        };
        // Each problem once.
        let problem = problem.unwrap_or_default();
        if problem != told {
            match problem.is_empty() {
                true => tracing::info!("deploying again"),
                false => tracing::error!("{problem}"),
            }
            told = problem;
        }
        sleep(PAUSE).await;
    }
}

/// Brings every plan of the configuration up to date.
async fn round(daemon: &Client, config: &Config, live: &Path, known: &mut Known) -> Result<(), String> {
    let mut changed = Vec::new();
    let mut problem = None;
    let views = daemon.get_new("/v1/plans", &known.tag).await.map_err(|error| error.to_string())?;
    if let Some((views, tag)) = views {
        (known.views, known.tag) = (views, tag);
    }
    if known.watched.is_none_or(|at| at.elapsed() >= LOOK) && !config.watches.is_empty() {
        known.watched = Some(Instant::now());
        let mut seen = Vec::new();
        for watch in &config.watches {
            seen.push(watched::look(watch).await);
        }
        let told = daemon.post::<Value>("/v1/watched", &seen).await;
        drop(told.map_err(|error| error.to_string())?);
    }
    let to_deploy = config
        .plans
        .iter()
        .filter(|plan| !plan.servers.is_empty() || plan.hook.is_some() || !plan.listeners.is_empty());
    for plan in to_deploy {
        // The certificate that the daemon has for the plan; none before the first one.
        let view = known.views.iter().find(|view| view.plan == plan.name.as_str());
        let present = view.and_then(|view| view.certificate.as_ref()).map(|one| one.fingerprint.clone());
        let is_looked_at = known.looked.get(plan.name.as_str()).is_some_and(|at| at.elapsed() < LOOK);
        if is_looked_at && known.present.get(plan.name.as_str()) == Some(&present) {
            continue;
        }
        let files: Files = match daemon.get(&format!("/v1/plans/{}/files", plan.name)).await {
            Ok(files) => files,
            Err(error) => {
                problem = Some(error.to_string());
                continue;
            }
        };
        // What has failed is tried again after a while.
        let refused = known.refused.get(plan.name.as_str());
        if let Some(refused) =
            refused.filter(|one| one.certificate == files.certificate && one.at.elapsed() < LOOK)
        {
            problem = Some(refused.problem.clone());
            continue;
        }
        known.refused.remove(plan.name.as_str());
        match written(plan, &files, live) {
            Ok(Some((generation, before))) => {
                known.present.insert(plan.name.to_string(), present);
                changed.push(Changed { plan: plan.clone(), files, generation, before, problem: None });
            }
            Ok(None) => {
                look(daemon, plan, &files, None).await?;
                known.looked.insert(plan.name.to_string(), Instant::now());
                known.present.insert(plan.name.to_string(), present);
            }
            Err(error) => {
                report(daemon, plan, &files, BTreeMap::new(), Some(error.clone())).await?;
                let error = format!("plan {}: {error}", plan.name);
                problem = Some(error.clone());
                let refused = Refused { certificate: files.certificate, at: Instant::now(), problem: error };
                known.refused.insert(plan.name.to_string(), refused);
            }
        }
    }
    if changed.is_empty() {
        return problem.map_or(Ok(()), Err);
    }
    pick_up(&mut changed, live).await;
    for one in changed {
        live::clean(live, &one.plan.name);
        look(daemon, &one.plan, &one.files, one.problem.clone()).await?;
        let name = one.plan.name.to_string();
        match one.problem {
            None => drop(known.looked.insert(name, Instant::now())),
            Some(error) => {
                let error = format!("plan {name}: {error}");
                problem = Some(error.clone());
                let refused =
                    Refused { certificate: one.files.certificate, at: Instant::now(), problem: error };
                known.refused.insert(name, refused);
            }
        }
    }
    problem.map_or(Ok(()), Err)
}

/// Writes the files of a plan if they differ from those in use. Returns the new generation, and the
/// one before.
fn written(plan: &Plan, files: &Files, live: &Path) -> Result<Option<(Generation, Option<PathBuf>)>, String> {
    let generation = Generation::of(files, &plan.key).map_err(|error| error.to_string())?;
    // A placeholder is only there until the first certificate.
    let has_files = live.join(plan.name.as_str()).exists();
    if generation.is_in_use(live, &plan.name) || files.is_placeholder && has_files {
        return Ok(None);
    }
    let before = generation.put(live, &plan.name).map_err(|error| error.to_string())?;
    tracing::info!(plan = plan.name.as_str(), certificate = files.certificate, "files written");
    Ok(Some((generation, before)))
}

/// Has each server check and read the new files: once for all plans that changed together. Plans
/// that a server refuses get their old files back.
async fn pick_up(changed: &mut [Changed], live: &Path) {
    let kinds: BTreeSet<_> = changed.iter().flat_map(|one| one.plan.servers.iter().copied()).collect();
    for kind in kinds {
        let running = servers::running(kind).await;
        for server in &running {
            let uses: Vec<_> = (0..changed.len())
                .filter(|at| {
                    let one = &changed[*at];
                    one.problem.is_none()
                        && one.plan.servers.contains(&kind)
                        && server.uses(&live.join(one.plan.name.as_str()))
                })
                .collect();
            if uses.is_empty() {
                continue;
            }
            if let Err(error) = told(server, changed, &uses, live).await {
                for at in uses {
                    undo(&mut changed[at], live, &error);
                }
            }
        }
    }
    for one in changed.iter_mut().filter(|one| one.problem.is_none()) {
        if let Some(hook) = &one.plan.hook {
            let mut command = Command::new(hook.first().map(String::as_str).unwrap_or_default());
            command.args(hook.iter().skip(1));
            command
                .env("KEYWARD_PLAN", one.plan.name.as_str())
                .env("KEYWARD_LIVE", live.join(one.plan.name.as_str()));
            one.problem = program::run(&mut command).await.err();
        }
    }
}

async fn told(server: &Running, changed: &[Changed], uses: &[usize], live: &Path) -> Result<(), String> {
    server.check().await?;
    let contents: Vec<_> = uses
        .iter()
        .map(|at| &changed[*at])
        .map(|one| (live.join(one.plan.name.as_str()), one.generation.combined()))
        .collect();
    server.reload(&contents).await?;
    tracing::info!(pid = server.pid(), "server reads the new files");
    Ok(())
}

/// Gives a plan its old files back.
fn undo(one: &mut Changed, live: &Path, error: &str) {
    let back = one.before.as_ref().map(|before| live::point(live, &one.plan.name, before));
    one.problem = Some(match back {
        Some(Ok(())) => {
            format!("the server refused the new files, so the old ones are in use again: {error}")
        }
        Some(Err(reason)) => format!(
            "the server refused the new files: {error}; and the old ones cannot be put back: {reason}"
        ),
        None => format!("the server refused the files: {error}"),
    });
}

/// Looks at the listeners of a plan until they show its certificate, and tells the daemon.
async fn look(daemon: &Client, plan: &Plan, files: &Files, problem: Option<String>) -> Result<(), String> {
    let mut listeners = BTreeMap::new();
    let deadline = Instant::now() + if problem.is_none() { PICK_UP } else { Duration::ZERO };
    for at in &plan.listeners {
        let shown = loop {
            let shown = match served::certificate(*at, &files.server_name).await {
                Ok(found) => {
                    let is_ours = found.fingerprint() == files.certificate;
                    let other = || format!("shows another certificate, with SHA-256 {}", found.fingerprint());
                    Shown { not_after: Some(found.not_after()), problem: (!is_ours).then(other) }
                }
                Err(error) => Shown { not_after: None, problem: Some(error) },
            };
            if shown.problem.is_none() || Instant::now() >= deadline {
                break shown;
            }
            sleep(Duration::from_millis(100)).await;
        };
        listeners.insert(*at, shown);
    }
    report(daemon, plan, files, listeners, problem).await
}

async fn report(
    daemon: &Client,
    plan: &Plan,
    files: &Files,
    listeners: BTreeMap<std::net::SocketAddr, Shown>,
    problem: Option<String>,
) -> Result<(), String> {
    let deployed = Deployed { certificate: files.certificate.clone(), listeners, problem };
    let told = daemon.post::<Value>(&format!("/v1/plans/{}/deployed", plan.name), &deployed).await;
    told.map(drop).map_err(|error| error.to_string())
}

/// Time between two rounds.
const PAUSE: Duration = Duration::from_millis(500);
/// Time between two looks at listeners whose files have not changed.
const LOOK: Duration = Duration::from_secs(60);
/// Longest time until a server that was told shows the new certificate.
const PICK_UP: Duration = Duration::from_secs(10);

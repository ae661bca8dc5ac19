//! The loop of the deployer: files first, then the check of the server, then its reload, then the
//! hook, then the certificate that listeners show. A server that refuses the new files keeps the
//! old ones. Hooks and looks are work of their own, so one that takes long delays no other plan.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use keyward::config::{self, Config, Plan, Server};
use keyward::servers::served;
use keyward_plans::{Client, Deployed, Files, PlanView, Shown, Watched};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::live::{self, Generation, Told};
use super::program;
use super::servers::{self, Running};
use super::watched;

/// Does the work of the deployer. Never returns.
pub(crate) async fn run(config: &Path, runtime_dir: &Path, live: &Path) {
    let mut deployer = Deployer::of(Client::new(runtime_dir), live);
    let mut told = String::new();
    loop {
        let problem = match deployer.read(config) {
            Ok(config) => deployer.round(&config).await.err(),
            Err(error) => Some(error),
        };
        // Each problem once.
        let problem = problem.unwrap_or_default();
        if problem != told {
            match problem.is_empty() {
                true => tracing::info!("the daemon answers again"),
                false => tracing::error!("{problem}"),
            }
            told = problem;
        }
        deployer.wait().await;
    }
}

/// The deployer between two rounds.
struct Deployer {
    daemon: Client,
    live: PathBuf,
    /// The configuration, and the file that it was read from.
    config: Option<(Vec<Written>, Arc<Config>)>,
    /// The plans, as the daemon has last said, and the tag of that answer.
    views: Vec<PlanView>,
    tag: String,
    plans: BTreeMap<String, State>,
    /// Time of the last look at the certificates of others.
    watched: Option<Instant>,
    work: JoinSet<Done>,
    /// True while servers are told of files: those that change meanwhile wait, so that a server
    /// reads files once for all plans.
    is_telling: bool,
    /// True while the certificates of others are looked at.
    is_watching: bool,
    /// How many hooks and looks there are at a time.
    gate: Arc<Semaphore>,
}

/// Facts by which a file that was written is told from the file before: device, inode, length, and
/// time of the last change in seconds and nanoseconds.
type Written = (u64, u64, u64, i64, i64);

/// A plan between two rounds.
#[derive(Default)]
struct State {
    /// Certificate that the daemon had at the last look; none before the first one.
    present: Option<Option<String>>,
    /// Time of the last look at the listeners.
    looked: Option<Instant>,
    /// Why the files are not in use, and when that is tried again.
    problem: Option<(String, Instant)>,
    /// True while its hook runs, or its listeners are looked at.
    is_busy: bool,
}

/// Work that has ended.
enum Done {
    /// Servers were told of the files of these plans.
    Tell(Vec<Changed>),
    /// The listeners of a plan were looked at.
    Look(String),
    /// The hook of a plan has ended.
    Hook(Box<Plan>, Box<Files>, Result<(), String>),
    Watch,
}

/// A plan whose servers are told.
struct Changed {
    plan: Plan,
    files: Files,
    /// The files as one text, for HAProxy.
    combined: String,
    /// The generation to go back to, if servers were not told of the files yet.
    before: Option<PathBuf>,
    /// Kinds of servers that were not told of the files yet.
    kinds: BTreeSet<Server>,
    /// Kinds of servers that use the files, and those that read them.
    found: BTreeSet<Server>,
    read: BTreeSet<Server>,
    /// Words of the server that has refused the files.
    refusal: Option<String>,
}

impl Deployer {
    fn of(daemon: Client, live: &Path) -> Self {
        Self {
            daemon,
            live: live.to_owned(),
            config: None,
            views: Vec::new(),
            tag: String::new(),
            plans: BTreeMap::new(),
            watched: None,
            work: JoinSet::new(),
            is_telling: false,
            is_watching: false,
            gate: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }

    /// Reads the configuration, if its file was written since.
    fn read(&mut self, path: &Path) -> Result<Arc<Config>, String> {
        let written = files_written(path)?;
        if let Some((_, config)) = self.config.as_ref().filter(|(before, _)| *before == written) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(Config::load(path).map_err(|error| error.to_string())?);
        // Another file may have other listeners and hooks.
        self.plans.values_mut().for_each(|state| (state.looked, state.present) = (None, None));
        self.plans.retain(|name, state| {
            state.is_busy || config.plans.iter().any(|plan| plan.name.as_str() == name)
        });
        self.watched = None;
        self.config = Some((written, Arc::clone(&config)));
        Ok(config)
    }

    /// Waits for the next round, and for work that ends meanwhile.
    async fn wait(&mut self) {
        let until = Instant::now() + PAUSE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.work.is_empty() {
                return sleep(left).await;
            }
            match timeout(left, self.work.join_next()).await {
                Ok(Some(Ok(done))) => self.end(done),
                // Work that has panicked is begun again.
                Ok(Some(Err(_))) => {
                    (self.is_telling, self.is_watching) = (false, false);
                    self.plans.values_mut().for_each(|state| state.is_busy = false);
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn end(&mut self, done: Done) {
        match done {
            Done::Look(plan) => {
                if let Some(state) = self.plans.get_mut(&plan) {
                    state.is_busy = false;
                }
            }
            Done::Hook(plan, files, result) => {
                let state = self.plans.entry(plan.name.to_string()).or_default();
                state.is_busy = false;
                // The configuration may name another hook by now, which is run next.
                let noted = result.and_then(|()| {
                    let told = Told { hook: plan.hook.clone(), ..Told::read(&self.live, &plan.name) };
                    told.write(&self.live, &plan.name).map_err(|error| untold(&error))
                });
                match noted {
                    Ok(()) => self.finish(*plan, *files),
                    Err(error) => self.fail(*plan, *files, error, AFTER_REFUSAL),
                }
            }
            Done::Tell(changed) => {
                self.is_telling = false;
                for one in changed {
                    self.told(one);
                }
            }
            Done::Watch => self.is_watching = false,
        }
    }

    /// Brings every plan of the configuration up to date.
    async fn round(&mut self, config: &Config) -> Result<(), String> {
        let words = |error: keyward_plans::ClientError| error.to_string();
        if let Some((views, tag)) = self.daemon.get_new("/v1/plans", &self.tag).await.map_err(words)? {
            (self.views, self.tag) = (views, tag);
        }
        self.watch(config);
        let mut problem = None;
        let (mut changed, mut looks) = (Vec::new(), Vec::new());
        for plan in config.plans.iter().filter(|plan| plan.is_deployed()) {
            let Some(present) = self.wanted(plan) else { continue };
            let files: Files = match self.daemon.get(&format!("/v1/plans/{}/files", plan.name)).await {
                Ok(files) => files,
                Err(error) => {
                    problem = Some(format!("plan {}: {error}", plan.name));
                    continue;
                }
            };
            let state = self.plans.entry(plan.name.to_string()).or_default();
            state.present = Some(present);
            match written(plan, &files, &self.live) {
                Ok(true) => {}
                Ok(false) if is_pending(plan, &Told::read(&self.live, &plan.name)) => {}
                Ok(false) => {
                    looks.push((plan, files));
                    continue;
                }
                Err(error) => {
                    self.fail(plan.clone(), files, error, AFTER_REFUSAL);
                    continue;
                }
            }
            // The files in use, which those of the daemon may not have replaced.
            match live::combined(&self.live, &plan.name) {
                Ok(combined) => changed.push(Changed {
                    kinds: missing(plan, &Told::read(&self.live, &plan.name)),
                    before: live::before(&self.live, &plan.name),
                    plan: plan.clone(),
                    files,
                    combined,
                    found: BTreeSet::new(),
                    read: BTreeSet::new(),
                    refusal: None,
                }),
                Err(error) => self.fail(plan.clone(), files, error.to_string(), AFTER_REFUSAL),
            }
        }
        for (plan, files) in looks {
            // The files in use are those of the daemon, and everybody was told: nothing is wrong.
            self.plans.entry(plan.name.to_string()).or_default().problem = None;
            self.look(plan.clone(), files, None, false);
        }
        self.tell(changed);
        problem.map_or(Ok(()), Err)
    }

    /// The certificate that the daemon has for a plan, if there is work for the plan now.
    fn wanted(&mut self, plan: &Plan) -> Option<Option<String>> {
        let view = self.views.iter().find(|view| view.plan == plan.name.as_str())?;
        let present = view.certificate.as_ref().map(|one| one.fingerprint.clone());
        let has_files = self.live.join(plan.name.as_str()).join("key.pem").exists();
        let state = self.plans.entry(plan.name.to_string()).or_default();
        if state.is_busy || self.is_telling && !plan.servers.is_empty() {
            return None;
        }
        let now = Instant::now();
        let is_gone = !has_files && state.problem.is_none();
        let is_new = state.present.as_ref() != Some(&present) || is_gone;
        let is_due = match &state.problem {
            Some((_, again)) => *again <= now,
            // A daemon that was started again knows nothing of the looks before.
            None => {
                let least = if view.looked_at.is_none() { AFTER_START } else { LOOK };
                state.looked.is_none_or(|at| at.elapsed() >= least)
            }
        };
        (is_new || is_due).then_some(present)
    }

    /// Has each server check and read the new files: once for all plans that changed together.
    fn tell(&mut self, changed: Vec<Changed>) {
        let (to_tell, others): (Vec<_>, Vec<_>) = changed.into_iter().partition(|one| !one.kinds.is_empty());
        others.into_iter().for_each(|one| self.told(one));
        if to_tell.is_empty() {
            return;
        }
        self.is_telling = true;
        for one in &to_tell {
            self.plans.entry(one.plan.name.to_string()).or_default().is_busy = true;
        }
        let live = self.live.clone();
        self.work.spawn(async move { Done::Tell(told_by_servers(to_tell, &live).await) });
    }

    /// Goes on with a plan whose servers were asked.
    fn told(&mut self, one: Changed) {
        let Changed { plan, files, before, kinds, found, read, refusal, .. } = one;
        let state = self.plans.entry(plan.name.to_string()).or_default();
        state.is_busy = false;
        if let Some(error) = refusal {
            let error = match before.map(|before| live::undo(&self.live, &plan.name, &before)) {
                Some(Ok(())) => {
                    format!("the server refused the new files, so the old ones are in use again: {error}")
                }
                Some(Err(reason)) => {
                    format!(
                        "the server refused the new files: {error}; and the old ones cannot be put back: {reason}"
                    )
                }
                None => format!("the server refused the files: {error}"),
            };
            return self.fail(plan, files, error, AFTER_REFUSAL);
        }
        live::clean(&self.live, &plan.name);
        // Also if another kind is missing: the servers that read the files need not read them
        // again.
        let mut told = Told::read(&self.live, &plan.name);
        told.servers.retain(|name| plan.servers.iter().any(|kind| kind.name() == name));
        told.servers.extend(read.iter().map(|kind| kind.name().to_owned()));
        if let Err(error) = told.write(&self.live, &plan.name) {
            return self.fail(plan, files, untold(&error), AFTER_REFUSAL);
        }
        if let Some(kind) = kinds.difference(&found).next() {
            let live = self.live.join(plan.name.as_str());
            let advice = match kind {
                Server::Haproxy => {
                    "start it with -W as root, or name the files in its configuration and reload it"
                }
                _ => "start it, or name the files in its configuration",
            };
            let error = format!(
                "no {} that runs on this host names the files in {}: {advice}",
                kind.name(),
                live.display()
            );
            return self.fail(plan, files, error, AFTER_NOBODY);
        }
        let Some(hook) = plan.hook.clone().filter(|hook| told.hook.as_ref() != Some(hook)) else {
            return self.finish(plan, files);
        };
        state.is_busy = true;
        let (gate, live) = (Arc::clone(&self.gate), self.live.join(plan.name.as_str()));
        self.work.spawn(async move {
            // A semaphore that nobody closes always gives.
            let _permit = gate.acquire().await;
            let mut command = Command::new(hook.first().map(String::as_str).unwrap_or_default());
            command
                .args(hook.iter().skip(1))
                .env("KEYWARD_PLAN", plan.name.as_str())
                .env("KEYWARD_LIVE", live);
            let result = program::run(&mut command).await.map(drop);
            Done::Hook(Box::new(plan), Box::new(files), result)
        });
    }

    /// Everybody was told of the files of a plan.
    fn finish(&mut self, plan: Plan, files: Files) {
        let state = self.plans.entry(plan.name.to_string()).or_default();
        if state.problem.take().is_some() {
            tracing::info!(plan = plan.name.as_str(), "the files are in use now");
        }
        self.look(plan, files, None, true);
    }

    /// The files of a plan are not in use.
    fn fail(&mut self, plan: Plan, files: Files, error: String, pause: Duration) {
        let state = self.plans.entry(plan.name.to_string()).or_default();
        // Each problem once.
        if state.problem.as_ref().is_none_or(|(before, _)| *before != error) {
            tracing::error!(plan = plan.name.as_str(), "{error}");
        }
        state.problem = Some((error.clone(), Instant::now() + pause));
        self.look(plan, files, Some(error), false);
    }

    /// Looks at the listeners of a plan, and tells the daemon. `is_new` waits until the servers
    /// show new files.
    fn look(&mut self, plan: Plan, files: Files, problem: Option<String>, is_new: bool) {
        let state = self.plans.entry(plan.name.to_string()).or_default();
        (state.is_busy, state.looked) = (true, Some(Instant::now()));
        let (daemon, gate) = (self.daemon.clone(), Arc::clone(&self.gate));
        // The files of the daemon may replace nothing, and a server may have refused them.
        let in_use = live::certificate(&self.live, &plan.name);
        let is_placeholder = in_use.as_ref().is_some_and(live::is_placeholder);
        let in_use = in_use.map(|one| one.fingerprint()).unwrap_or_default();
        self.work.spawn(async move {
            let _permit = gate.acquire().await;
            let limit = if is_new { PICK_UP } else { Duration::ZERO };
            let mut looks = JoinSet::new();
            for at in plan.listeners.iter().copied() {
                let (name, certificate) = (files.server_name.clone(), in_use.clone());
                looks.spawn(async move { (at, shown(at, &name, &certificate, limit).await) });
            }
            let listeners = looks.join_all().await.into_iter().collect();
            let deployed = Deployed { certificate: in_use, is_placeholder, listeners, problem };
            let path = format!("/v1/plans/{}/deployed", plan.name);
            if let Err(error) = daemon.post::<Value>(&path, &deployed).await {
                tracing::debug!(plan = plan.name.as_str(), "cannot tell the daemon: {error}");
            }
            Done::Look(plan.name.to_string())
        });
    }

    /// Looks at the certificates of others now and then.
    fn watch(&mut self, config: &Config) {
        let is_due = self.watched.is_none_or(|at| at.elapsed() >= LOOK);
        if config.watches.is_empty() || self.is_watching || !is_due {
            return;
        }
        (self.watched, self.is_watching) = (Some(Instant::now()), true);
        // Many of these do not keep plans waiting.
        let gate = Arc::new(Semaphore::new(AT_A_TIME));
        let (daemon, watches) = (self.daemon.clone(), config.watches.clone());
        self.work.spawn(async move {
            let mut looks = JoinSet::new();
            for watch in watches {
                let gate = Arc::clone(&gate);
                looks.spawn(async move {
                    let _permit = gate.acquire().await;
                    watched::look(&watch).await
                });
            }
            let seen: Vec<Watched> = looks.join_all().await;
            // A body has a limit.
            for part in seen.chunks(WATCHES_AT_A_TIME) {
                if let Err(error) = daemon.post::<Value>("/v1/watched", &part).await {
                    tracing::warn!("cannot tell the daemon of the certificates that others renew: {error}");
                }
            }
            Done::Watch
        });
    }
}

/// When the files of the configuration were written.
fn files_written(path: &Path) -> Result<Vec<Written>, String> {
    let (drop_ins, _) = config::drop_ins(path).map_err(|error| error.to_string())?;
    let all = [path.to_owned()].into_iter().chain(drop_ins);
    all.map(|path| {
        let found = fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok((found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
    })
    .collect()
}

/// Writes the files of a plan if they differ from those in use. True if they do.
fn written(plan: &Plan, files: &Files, live: &Path) -> Result<bool, String> {
    let in_use = live::certificate(live, &plan.name);
    if live::keeps_what_is_there(files, in_use.as_ref()) {
        return Ok(false);
    }
    let generation = Generation::of(files, &plan.key).map_err(|error| error.to_string())?;
    if generation.is_in_use(live, &plan.name) {
        return Ok(false);
    }
    generation.put(live, &plan.name).map_err(|error| error.to_string())?;
    tracing::info!(plan = plan.name.as_str(), certificate = files.certificate, "files written");
    Ok(true)
}

/// Has servers check the files of some plans, all servers before one of them reads the files. Then
/// has them read the files, first those that may still refuse them.
async fn told_by_servers(mut changed: Vec<Changed>, live: &Path) -> Vec<Changed> {
    let kinds: BTreeSet<_> = changed.iter().flat_map(|one| one.kinds.iter().copied()).collect();
    let mut tasks: Vec<(Running, Vec<usize>)> = Vec::new();
    for kind in kinds {
        for server in servers::running(kind).await {
            let is_of =
                |one: &Changed| one.kinds.contains(&kind) && server.uses(&live.join(one.plan.name.as_str()));
            let uses: Vec<_> = (0..changed.len()).filter(|at| is_of(&changed[*at])).collect();
            for at in &uses {
                changed[*at].found.insert(kind);
            }
            if !uses.is_empty() {
                tasks.push((server, uses));
            }
        }
    }
    tasks.sort_by_key(|(server, _)| !server.can_refuse());
    for (server, uses) in &tasks {
        if let Err(error) = server.check().await {
            refuse(&mut changed, uses, &error);
        }
    }
    for (server, uses) in &tasks {
        let uses: Vec<_> = uses.iter().copied().filter(|at| changed[*at].refusal.is_none()).collect();
        let one = |at: &usize| {
            let one = &changed[*at];
            (live.join(one.plan.name.as_str()), one.combined.clone())
        };
        let contents: Vec<_> = uses.iter().map(one).collect();
        if contents.is_empty() {
            continue;
        }
        for (at, result) in uses.iter().zip(server.reload(&contents).await) {
            match result {
                Ok(()) => {
                    changed[*at].read.insert(server.kind());
                    tracing::info!(
                        pid = server.pid(),
                        plan = changed[*at].plan.name.as_str(),
                        "server reads the new files"
                    );
                }
                Err(error) => refuse(&mut changed, &[*at], &error),
            }
        }
    }
    changed
}

/// Kinds of servers of a plan that were not told of its files.
fn missing(plan: &Plan, told: &Told) -> BTreeSet<Server> {
    plan.servers.iter().copied().filter(|kind| !told.servers.contains(kind.name())).collect()
}

/// True if servers or the hook of a plan were not told of its files.
fn is_pending(plan: &Plan, told: &Told) -> bool {
    !missing(plan, told).is_empty() || plan.hook.is_some() && plan.hook != told.hook
}

fn untold(error: &std::io::Error) -> String {
    format!("cannot note that the servers were told: {error}")
}

fn refuse(changed: &mut [Changed], uses: &[usize], error: &str) {
    for at in uses {
        changed[*at].refusal.get_or_insert_with(|| error.to_owned());
    }
}

/// A look at a listener, which may take this long to show a certificate.
async fn shown(at: std::net::SocketAddr, server_name: &str, certificate: &str, limit: Duration) -> Shown {
    let deadline = Instant::now() + limit;
    loop {
        let shown = match served::certificate(at, server_name).await {
            Ok(found) => {
                let is_ours = found.fingerprint() == certificate;
                let other = || format!("shows another certificate, with SHA-256 {}", found.fingerprint());
                Shown { not_after: Some(found.not_after()), problem: (!is_ours).then(other) }
            }
            Err(error) => Shown { not_after: None, problem: Some(error) },
        };
        if shown.problem.is_none() || Instant::now() >= deadline {
            return shown;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Time between two rounds.
const PAUSE: Duration = Duration::from_millis(500);
/// Time between two looks at listeners whose files have not changed.
const LOOK: Duration = Duration::from_secs(60);
/// Time between two looks while a daemon that was started again knows of none.
const AFTER_START: Duration = Duration::from_secs(2);
/// Time until files that a server or a hook has refused are tried again.
const AFTER_REFUSAL: Duration = Duration::from_secs(60);
/// Time until a server is looked for again that was not there.
const AFTER_NOBODY: Duration = Duration::from_secs(5);
/// Longest time until a server that was told shows the new certificate.
const PICK_UP: Duration = Duration::from_secs(10);
/// Most hooks and looks at a time.
const AT_A_TIME: usize = 32;
/// Most certificates of others in one message to the daemon: each has up to five names.
const WATCHES_AT_A_TIME: usize = 10;

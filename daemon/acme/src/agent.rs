//! The loop of the agent: asks the daemon for work, and does the work that is due.
//!
//! Each plan is worked on by itself, so a program that hangs or an authority that is slow delays no
//! other plan. An authority sees a few orders at a time.

use core::time::Duration;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use keyward_plans::{Client, Issuer, Report, Task, Tasks};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::failure::{Failure, NOT_NOW};
use super::order::Done;
use super::{order, program, window};

/// Does the work of the agent. Never returns.
pub(crate) async fn run(runtime_dir: &Path) {
    let mut agent = Agent::of(Client::new(runtime_dir));
    let mut was_away = false;
    loop {
        let pause = match agent.look().await {
            Ok(()) => {
                if was_away {
                    tracing::info!("the daemon answers again");
                }
                was_away = false;
                agent.begin()
            }
            Err(error) => {
                if !was_away {
                    tracing::warn!("{error}");
                }
                was_away = true;
                LONGEST_PAUSE
            }
        };
        agent.wait(pause).await;
    }
}

/// The agent between two looks.
struct Agent {
    daemon: Client,
    /// The work, as the daemon has last said it, and the tag of that answer.
    tasks: Vec<Arc<Task>>,
    tag: String,
    /// Time at the daemon when it said so, and the time since.
    read: (u64, Instant),
    /// Work under way: it gives the name of its plan, and whether the daemon knows its end.
    work: JoinSet<(String, bool)>,
    /// Plans whose work is under way, with the task that does the work.
    busy: HashMap<String, Id>,
    /// Plans that another agent works on, or whose end the daemon could not be told, until they are
    /// tried again.
    resting: HashMap<String, Instant>,
    /// Notifications under way: each gives its state.
    notices: JoinSet<String>,
    /// Plans whose notification is under way.
    notified: HashMap<Id, String>,
    /// State of each plan that the owner knows; none while a notification is under way.
    told: HashMap<String, Option<String>>,
    /// How many orders each authority, and how many runs each program, may have at a time.
    gates: HashMap<String, Arc<Semaphore>>,
}

impl Agent {
    fn of(daemon: Client) -> Self {
        Self {
            daemon,
            tasks: Vec::new(),
            tag: String::new(),
            read: (0, Instant::now()),
            work: JoinSet::new(),
            busy: HashMap::new(),
            resting: HashMap::new(),
            notices: JoinSet::new(),
            notified: HashMap::new(),
            told: HashMap::new(),
            gates: HashMap::new(),
        }
    }

    /// Asks the daemon for the work. Work that has ended until now is not busy any more; work that
    /// ends later is, because the answer may be older than its end.
    async fn look(&mut self) -> Result<(), keyward_plans::ClientError> {
        while let Some(done) = self.work.try_join_next() {
            self.end(done);
        }
        while let Some(done) = self.notices.try_join_next_with_id() {
            let (id, state) = match done {
                Ok((id, state)) => (id, Some(state)),
                // One that has panicked is not under way any more.
                Err(error) => (error.id(), None),
            };
            let plan = self.notified.remove(&id).unwrap_or_default();
            match state {
                Some(state) => drop(self.told.insert(plan, Some(state))),
                None => drop(self.told.remove(&plan)),
            }
        }
        if let Some((tasks, tag)) = self.daemon.get_new::<Tasks>("/v1/tasks", &self.tag).await? {
            self.read = (tasks.now, Instant::now());
            self.tasks = tasks.tasks.into_iter().map(Arc::new).collect();
            self.tag = tag;
        }
        Ok(())
    }

    fn end(&mut self, done: Result<(String, bool), JoinError>) {
        let (plan, is_known) = match done {
            Ok(done) => done,
            // Work that has panicked is begun again.
            Err(error) => {
                let of_task = self.busy.iter().find(|(_, task)| **task == error.id());
                let Some(plan) = of_task.map(|(plan, _)| plan.clone()) else { return };
                (plan, false)
            }
        };
        self.busy.remove(&plan);
        if !is_known {
            self.resting.insert(plan, Instant::now() + LONGEST_PAUSE);
        }
    }

    /// Begins what is due now. Returns the time until the next look.
    fn begin(&mut self) -> Duration {
        let now = self.read.0.saturating_add(self.read.1.elapsed().as_secs());
        self.resting.retain(|_, until| *until > Instant::now());
        let mut next = LONGEST_PAUSE;
        for task in self.tasks.clone() {
            self.notify(&task);
            if self.busy.contains_key(&task.plan) || self.resting.contains_key(&task.plan) {
                continue;
            }
            let at = wanted_at(&task, now);
            if at > now {
                next = next.min(Duration::from_secs(at - now));
                continue;
            }
            let gate = self.gate(match &task.issuer {
                Issuer::Command(command) => command.first().map(String::as_str).unwrap_or_default(),
                Issuer::Acme(acme) => &acme.directory,
            });
            let (daemon, plan) = (self.daemon.clone(), task.plan.clone());
            let task = self.work.spawn(async move {
                // A semaphore that nobody closes always gives.
                let _permit = gate.acquire().await;
                let is_known = work(&daemon, &task, now).await;
                (task.plan.clone(), is_known)
            });
            self.busy.insert(plan, task.id());
        }
        next
    }

    fn gate(&mut self, name: &str) -> Arc<Semaphore> {
        let gate = self.gates.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME)));
        Arc::clone(gate)
    }

    /// Waits for the end of some work, but not longer than this.
    async fn wait(&mut self, pause: Duration) {
        // Work that ends at once, over and over, does not use up a processor.
        sleep(SHORTEST_PAUSE.min(pause)).await;
        if self.work.is_empty() {
            return sleep(pause).await;
        }
        if let Ok(Some(done)) = timeout(pause, self.work.join_next()).await {
            self.end(done);
        }
    }

    /// Tells the program of the owner that the state of a plan has changed. After a start, only
    /// failures are news.
    fn notify(&mut self, task: &Task) {
        let before = match self.told.get(&task.plan) {
            Some(before) => before.clone(),
            None => {
                let is_news = ["failing", "expired"].contains(&task.state.as_str());
                let known = if is_news { String::new() } else { task.state.clone() };
                self.told.insert(task.plan.clone(), Some(known.clone()));
                Some(known)
            }
        };
        // A notification that is under way ends first.
        let Some(command) = task.notify.clone().filter(|_| before.is_some_and(|before| before != task.state))
        else {
            return;
        };
        self.told.insert(task.plan.clone(), None);
        let gate = self.gate(command.first().map(String::as_str).unwrap_or_default());
        let (plan, state) = (task.plan.clone(), task.state.clone());
        let told = json!({
            "plan": plan,
            "state": state,
            "names": task.names.iter().map(|name| &name.value).collect::<Vec<_>>(),
            "not_after": task.certificate.as_ref().map(|certificate| certificate.not_after),
            "last_error": task.last_error,
        });
        let notice = self.notices.spawn(async move {
            let _permit = gate.acquire().await;
            if let Err(failure) = program::run(&plan, &command, &[], told.to_string().as_bytes()).await {
                tracing::warn!(plan, "the notification has failed: {failure}");
            }
            state
        });
        self.notified.insert(notice.id(), task.plan.clone());
    }
}

/// Time at which there is work for a plan, in seconds since 1970.
fn wanted_at(task: &Task, now: u64) -> u64 {
    let Issuer::Acme(acme) = &task.issuer else { return task.due };
    if !task.former_orders.is_empty() {
        return now;
    }
    let mut at = task.due;
    if task.revokes.is_some() {
        // The daemon says when a revocation that has failed is tried again.
        at = at.min(acme.next_try);
    }
    let has_window = task.certificate.as_ref().is_some_and(|one| one.id.is_some() && one.not_after > now);
    at.min(if has_window { acme.next_look } else { u64::MAX })
}

/// Works on a plan, if no other agent does. True if the daemon knows the end.
async fn work(daemon: &Client, task: &Task, now: u64) -> bool {
    let mut task = task.clone();
    let worked = match order::begin(daemon, &mut task).await {
        // Another agent works on the plan.
        Err(failure) if failure.kind == NOT_NOW => return false,
        Err(failure) => Err(failure),
        Ok(()) => step(daemon, &task, now).await,
    };
    let task = &task;
    let end = match worked {
        Ok(()) => Report::End,
        // The plan is not due any more, as after a change of its window.
        Err(failure) if failure.kind == NOT_NOW => Report::End,
        Err(failure) => {
            tracing::warn!(plan = task.plan, kind = failure.kind, "{failure}");
            failure.report()
        }
    };
    let told = order::tell(daemon, task, &end).await;
    if let Err(error) = &told {
        tracing::warn!(plan = task.plan, "cannot tell the daemon: {error}");
    }
    told.is_ok()
}

async fn step(daemon: &Client, task: &Task, now: u64) -> Result<(), Failure> {
    let acme = match &task.issuer {
        Issuer::Command(command) => return issue(daemon, task, command).await,
        Issuer::Acme(acme) => acme,
    };
    for order in &task.former_orders {
        // The daemon says when to look again.
        if let Err(failure) = order::bring_former(daemon, task, acme, order).await {
            tracing::info!(plan = task.plan, order, "no certificate to be revoked: {failure}");
        }
    }
    if task.revokes.is_some() && acme.next_try <= now {
        match order::revoke(daemon, task, acme).await {
            Ok(()) => return Ok(()),
            // A person has given the revocation up meanwhile.
            Err(failure) if failure.kind == NOT_NOW => {}
            // A revocation that has failed does not keep the certificate from being renewed.
            Err(failure) => {
                tracing::warn!(plan = task.plan, kind = failure.kind, "not revoked: {failure}");
                order::tell(daemon, task, &failure.of_revocation()).await?;
            }
        }
    }
    if let Some(certificate) = &task.certificate
        && acme.next_look <= now
        && certificate.not_after > now
        && let Err(failure) = window::look(daemon, task, acme, certificate).await
    {
        // Without a window, the lifetime decides.
        tracing::info!(plan = task.plan, "the authority has no window for the certificate: {failure}");
    }
    if task.due <= now && order::advance(daemon, task, acme).await? == Done::Certificate {
        tracing::info!(plan = task.plan, "certificate renewed");
    }
    Ok(())
}

/// Has a program issue the certificate.
async fn issue(daemon: &Client, task: &Task, command: &[String]) -> Result<(), Failure> {
    let request: Value = daemon.post(&format!("/v1/plans/{}/request", task.plan), &json!({})).await?;
    let pem = request["pem"].as_str().unwrap_or_default();
    let chain = program::run(&task.plan, command, &[], pem.as_bytes()).await?;
    let accepted = daemon.send::<Value>(&format!("/v1/plans/{}/chain", task.plan), chain).await;
    accepted.map_err(|error| match error {
        keyward_plans::ClientError::Refused(_) => Failure::new("chain", error),
        error => error.into(),
    })?;
    tracing::info!(plan = task.plan, "certificate renewed");
    Ok(())
}

/// Longest time between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Most orders of an authority at a time, and most runs of a program.
const AT_A_TIME: usize = 32;

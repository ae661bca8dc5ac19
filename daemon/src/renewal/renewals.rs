//! The file of the progress of all plans, beside the key store, so that a daemon or an agent that
//! is killed goes on where it was. The file has no secret. Without the file, plans begin anew. And
//! the facts that are known of agents and deployers since the start.

use core::sync::atomic::{self, AtomicI64, AtomicU64};
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use keyward_plans::Watched;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::progress::{Hold, Progress};
use crate::ground::replace::replace;
use crate::keys::now;

/// The progress of all plans, and the accounts at authorities. Shared by reference between tasks.
#[derive(Debug)]
pub(crate) struct Renewals {
    file: PathBuf,
    stored: Mutex<Stored>,
    /// The placeholder of each plan, by its name: version of the key, and certificate in DER.
    placeholders: Mutex<BTreeMap<String, (u32, Vec<u8>)>>,
    /// Time of the start.
    started: Instant,
    /// Time at which each agent last asked for work, by its process id.
    agents: Mutex<BTreeMap<i32, Instant>>,
    /// Time at which an agent has begun to work on each plan.
    taken: Mutex<BTreeMap<String, Instant>>,
    /// Seconds by which this clock is ahead of the clock of an authority; [`UNKNOWN`] at first.
    clock_ahead: AtomicI64,
    /// Time at which the deployer has last looked at the listeners of each plan.
    looked: Mutex<BTreeMap<String, Instant>>,
    /// Certificates that somebody else renews, by the name of their section.
    watched: Mutex<BTreeMap<String, Watched>>,
    /// Number of changes since the start.
    changes: AtomicU64,
    /// Why the file could not be written the last time, if it could not.
    problem: Mutex<Option<String>>,
    /// The damage of the file at the start, if there was one.
    damage: Option<String>,
}

/// Form of the file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Stored {
    /// Account at each directory and of each key: the URL, a space, and the thumbprint.
    accounts: BTreeMap<String, Account>,
    /// Progress by the name of the plan.
    plans: BTreeMap<String, Progress>,
}

/// Form of a file of which a part may be damaged.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parts {
    accounts: BTreeMap<String, Value>,
    plans: BTreeMap<String, Value>,
}

impl Stored {
    /// Reads a file. Returns the damage of a file that cannot be understood as a whole.
    fn read(bytes: &[u8]) -> (Self, Option<String>) {
        let whole = match serde_json::from_slice(bytes) {
            Ok(stored) => return (stored, None),
            Err(error) => error.to_string(),
        };
        let Ok(parts) = serde_json::from_slice::<Parts>(bytes) else {
            return (Self::default(), Some(format!("{whole}; all plans begin anew")));
        };
        let (mut stored, mut lost) = (Self::default(), Vec::new());
        for (name, part) in parts.accounts {
            match serde_json::from_value(part) {
                Ok(account) => drop(stored.accounts.insert(name, account)),
                Err(_) => lost.push(format!("the account at {name}")),
            }
        }
        for (name, part) in parts.plans {
            let (progress, damaged) = Progress::salvaged(part);
            lost.extend(damaged.into_iter().map(|field| format!("{field} of the plan {name}")));
            stored.plans.insert(name, progress);
        }
        (stored, Some(format!("{whole}; lost are: {}", lost.join(", "))))
    }
}

/// An account at an authority.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Account {
    /// URL of the account (RFC 8555, 7.3); `None` if the authority does not know the account any
    /// more.
    pub(crate) url: Option<String>,
    /// URL of the account before, and the time until which the daemon knew it.
    pub(crate) former: Option<(String, u64)>,
}

impl Renewals {
    /// Progress in the file of a state directory. A file that is missing or damaged counts as
    /// empty: the accounts and certificates are found again. Of a file that is damaged in parts,
    /// the other parts count. The damaged file is kept under another name.
    pub(crate) fn load(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let mut damage = None;
        let stored = match fs::read(&file).map(|bytes| Stored::read(&bytes)) {
            Ok((stored, None)) => stored,
            Ok((stored, Some(found))) => {
                // The copy of an earlier damage stays.
                let numbered = (1..).map(|number| file.with_extension(format!("json.damaged.{number}")));
                let kept = [file.with_extension("json.damaged")]
                    .into_iter()
                    .chain(numbered)
                    .find(|path| !path.exists());
                let kept = kept.unwrap_or_else(|| file.with_extension("json.damaged"));
                let text = format!(
                    "the progress of renewals in {} was damaged: {found}; a copy is in {}; look at each plan (keyward cert status), and ask again for what is missing",
                    file.display(),
                    kept.display()
                );
                tracing::error!("{text}");
                if let Err(error) = fs::copy(&file, &kept) {
                    tracing::warn!("cannot keep the damaged file: {error}");
                }
                damage = Some(text);
                stored
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("cannot read the progress of renewals in {}: {error}", file.display());
                }
                Stored::default()
            }
        };
        Self {
            file,
            stored: Mutex::new(stored),
            placeholders: Mutex::default(),
            started: Instant::now(),
            agents: Mutex::default(),
            taken: Mutex::default(),
            clock_ahead: AtomicI64::new(UNKNOWN),
            looked: Mutex::default(),
            watched: Mutex::default(),
            changes: AtomicU64::new(0),
            problem: Mutex::default(),
            damage,
        }
    }

    /// Why the file could not be written the last time, if it could not, or its damage at the
    /// start.
    pub(crate) fn problem(&self) -> Option<String> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        problem.or_else(|| self.damage.clone())
    }

    /// Number of changes since the start.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(atomic::Ordering::Acquire)
    }

    /// Notes by how many seconds this clock is ahead of the clock of an authority.
    pub(crate) fn note_clock(&self, ahead: i64) {
        self.clock_ahead.store(ahead, atomic::Ordering::Relaxed);
    }

    /// Seconds by which this clock is ahead of the clock of an authority; `None` if nobody has
    /// compared them since the start.
    pub(crate) fn clock_ahead(&self) -> Option<i64> {
        Some(self.clock_ahead.load(atomic::Ordering::Relaxed)).filter(|ahead| *ahead != UNKNOWN)
    }

    /// Notes that the deployer has looked at the listeners of a plan.
    pub(crate) fn note_look(&self, plan: &str) {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).insert(plan.to_owned(), Instant::now());
    }

    /// Time at which the deployer has last looked at the listeners of a plan, in seconds since
    /// 1970; `None` if it has not since the start.
    pub(crate) fn looked(&self, plan: &str) -> Option<u64> {
        let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.get(plan).map(|at| now().saturating_sub(at.elapsed().as_secs()))
    }

    /// Number of plans whose listeners the deployer has looked at since the start.
    pub(crate) fn looked_at(&self) -> usize {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Notes the look at certificates that somebody else renews. The caller takes only sections of
    /// the configuration.
    pub(crate) fn see_watched(&self, watched: impl Iterator<Item = Watched>) {
        let mut known = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(watched.map(|one| (one.name.clone(), one)));
    }

    /// A certificate that somebody else renews, as the deployer has last seen it.
    pub(crate) fn watched(&self, name: &str) -> Option<Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Notes that an agent has asked for work. These times do not depend on the clock of the host.
    pub(crate) fn see_agent(&self, pid: i32) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if agents.len() >= MAX_AGENTS {
            agents.retain(|_, seen| seen.elapsed() < AGENT_LIFE);
        }
        if agents.len() < MAX_AGENTS || agents.contains_key(&pid) {
            agents.insert(pid, Instant::now());
        }
    }

    /// Time at which an agent last asked for work, in seconds since 1970.
    pub(crate) fn agent_seen(&self) -> Option<u64> {
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.values().max().map(|seen| now().saturating_sub(seen.elapsed().as_secs()))
    }

    /// Notes that an agent begins to work on a plan.
    pub(crate) fn take(&self, plan: &str) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(plan.to_owned(), Instant::now());
    }

    /// True if an agent that is there works on a plan.
    pub(crate) fn is_worked_on(&self, plan: &str) -> bool {
        self.of(plan).held.is_some_and(|hold| self.is_there(plan, &hold))
    }

    /// True if the agent that works on a plan is there: it asks for work all the time. After a
    /// start of the daemon, it gets the time to ask.
    pub(crate) fn is_there(&self, plan: &str, hold: &Hold) -> bool {
        let seen = self.agents.lock().unwrap_or_else(PoisonError::into_inner).get(&hold.pid).copied();
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).get(plan).copied();
        seen.max(taken).max(Some(self.started)).is_some_and(|last| last.elapsed() < AGENT_LIFE)
    }

    /// The placeholder that was made for a version of a key.
    pub(crate) fn placeholder(&self, plan: &str, version: u32) -> Option<Vec<u8>> {
        let placeholders = self.placeholders.lock().unwrap_or_else(PoisonError::into_inner);
        let (made_for, der) = placeholders.get(plan)?;
        (*made_for == version).then(|| der.clone())
    }

    /// Keeps a placeholder.
    pub(crate) fn keep_placeholder(&self, plan: &str, version: u32, der: Vec<u8>) {
        let mut placeholders = self.placeholders.lock().unwrap_or_else(PoisonError::into_inner);
        placeholders.insert(plan.to_owned(), (version, der));
    }

    /// Progress of a plan.
    pub(crate) fn of(&self, plan: &str) -> Progress {
        self.with(|stored| stored.plans.get(plan).cloned().unwrap_or_default()).at(now())
    }

    /// The account of a key at a directory.
    pub(crate) fn account(&self, directory: &str, thumbprint: &str) -> Option<Account> {
        self.with(|stored| stored.accounts.get(&format!("{directory} {thumbprint}")).cloned())
    }

    /// Sets or forgets the account of a key at a directory. Returns the account before, if it was
    /// another one. Waits for the disk.
    ///
    /// # Errors
    /// The file cannot be written; nothing is changed.
    pub(crate) fn set_account(
        &self,
        directory: &str,
        thumbprint: &str,
        url: Option<String>,
    ) -> io::Result<Option<String>> {
        self.change(|stored| {
            let none = || Account { url: None, former: None };
            let account = stored.accounts.entry(format!("{directory} {thumbprint}")).or_insert_with(none);
            let before = core::mem::replace(&mut account.url, url);
            if let Some(before) = before.filter(|before| Some(before) != account.url.as_ref()) {
                account.former = Some((before, now()));
            }
            let former = account.former.as_ref().map(|(former, _)| former.clone());
            Ok(former.filter(|former| account.url.as_ref().is_some_and(|url| url != former)))
        })
    }

    /// Changes the progress of a plan. Waits for the disk.
    ///
    /// # Errors
    /// The error of `change`, or the file cannot be written; nothing is changed.
    pub(crate) fn update<T, E: From<io::Error>>(
        &self,
        plan: &str,
        change: impl FnOnce(&mut Progress) -> Result<T, E>,
    ) -> Result<T, E> {
        self.change(|stored| {
            let progress = stored.plans.entry(plan.to_owned()).or_default();
            *progress = progress.clone().at(now());
            change(progress)
        })
    }

    fn change<T, E: From<io::Error>>(
        &self,
        change: impl FnOnce(&mut Stored) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = stored.clone();
        let done = change(&mut new)?;
        let written = replace(&self.file, &serde_json::to_vec(&new).map_err(io::Error::from)?, 0o600);
        let problem = written.as_ref().err().map(|error| {
            format!("the progress of renewals cannot be written to {}: {error}; no certificate is renewed until it can", self.file.display())
        });
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        written?;
        *stored = new;
        self.changes.fetch_add(1, atomic::Ordering::Release);
        Ok(done)
    }

    fn with<T>(&self, f: impl FnOnce(&Stored) -> T) -> T {
        f(&self.stored.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Time after which an agent that asks for no work is gone. It asks every two seconds.
const AGENT_LIFE: Duration = Duration::from_secs(6);
/// Most agents that are remembered.
const MAX_AGENTS: usize = 64;
/// A clock that nobody has compared.
const UNKNOWN: i64 = i64::MIN;
/// Name of the file in the state directory.
const FILE: &str = "renewals.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_outlives_the_process_and_a_change_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let renewals = Renewals::load(dir.path());
        let order = |text: &str| Some(text.to_owned());
        renewals
            .update("shop", |progress| {
                progress.order = order("https://ca/1");
                Ok::<_, io::Error>(())
            })
            .unwrap();
        let url = |number: u32| Some(format!("https://ca/account/{number}"));
        let set = |url| renewals.set_account("https://ca/directory", "t", url).unwrap();
        assert_eq!([set(url(1)), set(url(1)), set(None)], [None, None, None]);
        assert_eq!(set(url(2)), url(1), "the one before");
        let failed = renewals.update("shop", |progress| {
            progress.order = None;
            Err::<(), _>(io::Error::other("no"))
        });
        assert!(failed.is_err() && renewals.of("shop").order == order("https://ca/1"));
        let again = Renewals::load(dir.path());
        assert_eq!(again.of("shop"), renewals.of("shop"));
        let account = again.account("https://ca/directory", "t").unwrap();
        assert_eq!((account.url, account.former.map(|(former, _)| former)), (url(2), url(1)));
        assert!(again.account("https://ca/directory", "other").is_none());
        assert_eq!(again.of("other"), Progress::default());
        // A part that cannot be understood takes nothing from the others.
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let damaged = "\"plans\":{\"a\":{\"failures\":\"x\",\"newer_than\":3,\"unknown\":[]},";
        let text = text.replacen("\"plans\":{", damaged, 1).replacen(
            "\"accounts\":{",
            "\"accounts\":{\"x y\":1,",
            1,
        );
        let (_, damage) = Stored::read(text.as_bytes());
        let damage = damage.unwrap();
        assert!(damage.ends_with("lost are: the account at x y, failures of the plan a"), "{damage}");
        fs::write(dir.path().join(FILE), text).unwrap();
        let partly = Renewals::load(dir.path());
        let kept = Progress { newer_than: Some(3), ..Progress::default() };
        assert_eq!((partly.of("shop"), partly.of("a")), (renewals.of("shop"), kept));
        assert!(partly.account("https://ca/directory", "t").is_some());
        assert!(dir.path().join("renewals.json.damaged").exists());
        fs::write(dir.path().join(FILE), "damaged").unwrap();
        assert_eq!(Renewals::load(dir.path()).of("shop"), Progress::default());
        let now = now();
        let wrong = Progress {
            next_try: now + 365 * 86_400,
            renewed_at: Some(now + 365 * 86_400),
            orders: vec![now - 5, now + 365 * 86_400],
            ..Progress::default()
        };
        let right = Progress { next_try: 0, renewed_at: None, orders: vec![now - 5], ..Progress::default() };
        assert_eq!(wrong.at(now), right, "of a clock that was a year ahead");
        assert_eq!(fs::read(dir.path().join("renewals.json.damaged.1")).unwrap(), b"damaged");
    }
}

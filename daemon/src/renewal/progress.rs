//! How far each plan is: a file beside the key store, so that a daemon or an agent that is killed
//! goes on where it was. The file has no secret. Without it, plans begin anew.

use core::sync::atomic::{self, AtomicI64, AtomicU64};
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use keyward_plans::{Shown, Watched};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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

/// Progress of a plan. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Progress {
    /// URL of the order that is under way.
    pub(crate) order: Option<String>,
    /// The agent that works on the plan, until it has said how the work ended.
    pub(crate) held: Option<Hold>,
    /// Times of the last orders.
    pub(crate) orders: Vec<u64>,
    /// Times of the last messages that order the same again, with another nonce.
    pub(crate) nonces: Vec<u64>,
    /// Version of the key that the order under way is for, once its request was signed.
    pub(crate) version: Option<u32>,
    /// Time of the last success.
    pub(crate) renewed_at: Option<u64>,
    /// Failures since then.
    pub(crate) failures: u32,
    /// Time before which nothing is tried.
    pub(crate) next_try: u64,
    /// The last failure, in the words of the authority.
    pub(crate) last_error: Option<Failed>,
    /// Time at which a person asked for a renewal that has not succeeded yet.
    pub(crate) asked_at: Option<u64>,
    /// True if the authority refused that the order replaces the present certificate.
    pub(crate) is_replaced: bool,
    /// Number of wishes of people for a renewal or a revocation so far. An attempt that began
    /// before the last one does not fulfil that wish.
    pub(crate) wishes: u64,
    /// Number of wishes when the last attempt began. Its order and its version of the key are of no
    /// use for a later wish.
    pub(crate) worked_for: u64,
    /// The last certificates that an issuer gave, and where they came from, the last one last.
    pub(crate) issued: Vec<Issued>,
    /// SHA-256 of the certificates that an authority has revoked, the last one last.
    pub(crate) revoked: Vec<String>,
    /// The newest version of the key that the authority has refused.
    pub(crate) refused_version: Option<u32>,
    /// The next certificate is for a newer version of the key than this one, which the authority or
    /// a person has refused. Counts until a newer version is current.
    pub(crate) newer_than: Option<u32>,
    /// Certificates that a person asked to revoke, the first one first.
    pub(crate) revocations: Vec<Revocation>,
    /// The revocation whose message the agent has.
    pub(crate) revoking: Option<Revocation>,
    /// Label of the key that the numbers of versions here are about.
    pub(crate) key: Option<String>,
    /// The newest version of the key that a person has called compromised. It gets no certificate
    /// any more.
    pub(crate) compromised: Option<u32>,
    /// Failures of revocations since the last success, and the time before which none is tried.
    pub(crate) revocation_failures: u32,
    pub(crate) next_revocation: u64,
    /// The last failure of a revocation.
    pub(crate) revocation_error: Option<Failed>,
    /// The window that the authority suggested last.
    pub(crate) window: Option<Window>,
    /// Result of the last deployment.
    pub(crate) deployed: Option<Deployed>,
}

/// An agent that works on a plan. Another one waits.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Hold {
    /// Process id of the agent.
    pub(crate) pid: i32,
    /// Time at which it began.
    pub(crate) since: u64,
    /// Number of messages for the same order: the authority may want another nonce.
    pub(crate) messages: u32,
    /// Number of wishes of people when it began.
    #[serde(default)]
    pub(crate) wishes: u64,
}

/// A certificate that an issuer gave.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Issued {
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub(crate) certificate: String,
    /// URL of the directory of its authority; `None` for a program.
    pub(crate) directory: Option<String>,
}

/// A certificate to be revoked: another one may be there before the authority has done it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Revocation {
    /// Reason (RFC 5280, 5.3.1).
    pub(crate) reason: u8,
    /// The certificate in DER, in base64url.
    pub(crate) certificate: String,
    /// URL of the directory of the authority that has issued the certificate.
    pub(crate) directory: String,
    /// End of the certificate, in seconds since 1970. Nobody revokes an expired one.
    #[serde(default = "never")]
    pub(crate) not_after: u64,
    /// True if the agent got the message for the authority, which may have carried it out, and has
    /// not refused it.
    #[serde(default)]
    pub(crate) is_sent: bool,
}

const fn never() -> u64 {
    u64::MAX
}

impl Revocation {
    /// True for the same certificate and reason.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.certificate, self.reason) == (&other.certificate, other.reason)
    }
}

/// A failure.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Failed {
    pub(crate) at: u64,
    /// Kind of the failure: the type of the error of ACME without its prefix, or a word of the
    /// agent.
    pub(crate) kind: String,
    pub(crate) detail: String,
}

/// A window for the renewal of a certificate (RFC 9773).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Window {
    /// Id of the certificate that the window is for.
    pub(crate) certificate: String,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Time in the window that was chosen; `None` if the window has no length.
    pub(crate) chosen: Option<u64>,
    /// Page that says why the authority suggests this.
    pub(crate) explanation: Option<String>,
    /// Time of the next question for the window.
    pub(crate) next_look: u64,
}

/// Result of a deployment.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Deployed {
    /// SHA-256 of the certificate in the files, in hexadecimal digits.
    pub(crate) certificate: String,
    /// The certificate at each listener.
    pub(crate) listeners: BTreeMap<SocketAddr, Shown>,
    /// Why the files are not in use, if they are not.
    pub(crate) problem: Option<String>,
}

impl Progress {
    /// The fields of a damaged progress that can be understood, and the names of the others.
    fn salvaged(part: Value) -> (Self, Vec<String>) {
        let Value::Object(fields) = part else { return (Self::default(), vec!["everything".into()]) };
        let (mut kept, mut lost) = (Map::new(), Vec::new());
        for (name, mut value) in fields {
            if let (Some(asked), "revocations") = (value.as_array_mut(), name.as_str()) {
                let before = asked.len();
                asked.retain(|one| Revocation::deserialize(one).is_ok());
                if asked.len() < before {
                    lost.push("some revocations".into());
                }
            }
            kept.insert(name.clone(), value);
            if Self::deserialize(Value::Object(kept.clone())).is_err() {
                kept.remove(&name);
                lost.push(name);
            }
        }
        (Self::deserialize(Value::Object(kept)).unwrap_or_default(), lost)
    }

    /// The progress as it counts now. Times that lie farther in the future than this daemon ever
    /// sets them come from a clock that was wrong, and count for nothing.
    fn at(mut self, now: u64) -> Self {
        let is_sane = |at: u64, longest: u64| at <= now.saturating_add(longest);
        if !is_sane(self.next_try, MAX_WAIT) {
            self.next_try = 0;
        }
        self.renewed_at = self.renewed_at.filter(|at| is_sane(*at, SLACK));
        self.held = self.held.filter(|hold| is_sane(hold.since, SLACK));
        self.orders.retain(|at| is_sane(*at, SLACK));
        self.nonces.retain(|at| is_sane(*at, SLACK));
        self.asked_at = self.asked_at.map(|at| at.min(now));
        if !is_sane(self.next_revocation, MAX_WAIT) {
            self.next_revocation = 0;
        }
        let before = self.revocations.len();
        self.revocations.retain(|asked| asked.not_after > now);
        if self.revocations.is_empty() && before > 0 {
            self.forget_revocation_failures();
        }
        if let Some(window) = self.window.as_mut().filter(|window| !is_sane(window.next_look, MAX_LOOK)) {
            window.next_look = 0;
        }
        self
    }

    /// True if a person has asked for something since the agent has begun to work on the plan.
    pub(crate) fn has_new_wish(&self) -> bool {
        self.held.as_ref().is_some_and(|hold| hold.wishes < self.wishes)
    }

    /// Takes the numbers of versions for those of this key. Numbers of another key count for
    /// nothing.
    pub(crate) fn take_key(&mut self, label: &str) {
        if self.key.as_deref().is_some_and(|known| known != label) {
            (self.compromised, self.newer_than, self.refused_version) = (None, None, None);
            (self.order, self.version) = (None, None);
        }
        self.key = Some(label.to_owned());
    }

    /// Notes that an agent begins to work on the plan.
    pub(crate) fn begin(&mut self, pid: i32, now: u64) {
        if self.worked_for < self.wishes {
            (self.order, self.version) = (None, None);
        }
        self.worked_for = self.wishes;
        // Of a message of an attempt without an end, nobody knows what has become.
        self.revoking = None;
        self.held = Some(Hold { pid, since: now, messages: 0, wishes: self.wishes });
    }

    /// Notes that people ask for something: failures of before do not count.
    pub(crate) fn forget_failures(&mut self) {
        (self.failures, self.next_try, self.last_error) = (0, 0, None);
        self.forget_revocation_failures();
    }

    pub(crate) fn forget_revocation_failures(&mut self) {
        (self.revocation_failures, self.next_revocation, self.revocation_error) = (0, 0, None);
    }

    /// Versions of the key up to this one get no certificate.
    pub(crate) fn refused(&self) -> Option<u32> {
        self.newer_than.max(self.compromised)
    }

    /// Notes a certificate that an issuer gave.
    pub(crate) fn note_issued(&mut self, issued: Issued) {
        self.issued.retain(|known| known.certificate != issued.certificate);
        self.issued.push(issued);
        let surplus = self.issued.len().saturating_sub(MOST_NOTED);
        self.issued.drain(..surplus);
    }

    /// Notes a certificate that an authority has revoked.
    pub(crate) fn note_revoked(&mut self, fingerprint: String) {
        self.revoked.retain(|known| *known != fingerprint);
        self.revoked.push(fingerprint);
        let surplus = self.revoked.len().saturating_sub(MOST_NOTED);
        self.revoked.drain(..surplus);
    }

    /// Asks for a revocation. Another reason for the same certificate replaces the one before.
    /// False if there are too many.
    pub(crate) fn revoke(&mut self, revocation: Revocation) -> bool {
        let is_same = |asked: &Revocation| asked.certificate == revocation.certificate;
        // The authority may have carried out the one before.
        let is_sent = self.revocations.iter().any(|asked| is_same(asked) && asked.is_sent);
        self.revocations.retain(|asked| !is_same(asked));
        let revocation = Revocation { is_sent, ..revocation };
        let has_room = self.revocations.len() < MOST_REVOCATIONS;
        if has_room {
            self.revocations.push(revocation);
        }
        has_room
    }

    /// Notes that a version of the key is current: a refusal of an older one is of the past.
    pub(crate) fn note_current(&mut self, number: u32) {
        self.newer_than = self.newer_than.filter(|refused| number <= *refused);
    }
}

impl Deployed {
    /// True if every listener shows the certificate.
    pub(crate) fn is_served(&self) -> bool {
        self.problem.is_none() && self.listeners.values().all(|shown| shown.problem.is_none())
    }
}

impl Renewals {
    /// Progress in the file of a state directory. A file that is missing or damaged counts as
    /// empty: the accounts and certificates are found again. In a file that can be read, only a
    /// plan that cannot be understood begins anew. The damaged file is kept under another name.
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
/// Longest time until the next attempt: a week, with its spread.
const MAX_WAIT: u64 = 8 * 86_400;
/// Longest time until the next question for a window.
const MAX_LOOK: u64 = 2 * 86_400;
/// Seconds by which a clock is set back in daily use.
const SLACK: u64 = 60;
/// Maximum number of revocations of a plan that the authorities have not carried out yet.
pub(crate) const MOST_REVOCATIONS: usize = 16;
/// Most certificates of a plan whose issuers, or whose revocations, are remembered.
const MOST_NOTED: usize = 64;
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

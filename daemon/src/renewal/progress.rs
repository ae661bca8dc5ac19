//! How far each plan is: a file beside the key store, so that a daemon or an agent that is killed
//! goes on where it was. The file has no secret. Without it, plans begin anew.

use core::sync::atomic::{self, AtomicU64};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::ground::replace::replace;

/// The progress of all plans, and the accounts at authorities. Shared by reference between tasks.
#[derive(Debug)]
pub(crate) struct Renewals {
    file: PathBuf,
    stored: Mutex<Stored>,
    /// The placeholder of each plan, by its name: version of the key, and certificate in DER.
    placeholders: Mutex<BTreeMap<String, (u32, Vec<u8>)>>,
    /// Time at which an agent last asked for work, in seconds since 1970; 0 for never.
    agent_seen: AtomicU64,
}

/// Form of the file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Stored {
    /// URL of the account at each directory.
    accounts: BTreeMap<String, Account>,
    /// Progress by the name of the plan.
    plans: BTreeMap<String, Progress>,
}

/// An account at an authority.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Account {
    /// URL of the account (RFC 8555, 7.3).
    pub(crate) url: String,
    /// Thumbprint of its key: another key has another account.
    pub(crate) thumbprint: String,
}

/// Progress of a plan. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Progress {
    /// URL of the order that is under way.
    pub(crate) order: Option<String>,
    /// The agent that orders now, until it has said how the order ended.
    pub(crate) ordering: Option<Ordering>,
    /// Times of the last orders.
    pub(crate) orders: Vec<u64>,
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
    /// True if a person asked for a renewal that has not succeeded yet.
    pub(crate) is_asked_for: bool,
    /// True if the authority refused that the order replaces the present certificate.
    pub(crate) is_replaced: bool,
    /// Reason for which a person asked to revoke the certificate (RFC 5280, 5.3.1).
    pub(crate) revokes: Option<u8>,
    /// The window that the authority suggested last.
    pub(crate) window: Option<Window>,
    /// Result of the last deployment.
    pub(crate) deployed: Option<Deployed>,
}

/// An agent that orders a certificate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Ordering {
    /// Process id of the agent.
    pub(crate) pid: i32,
    /// Time of its first message.
    pub(crate) since: u64,
    /// Number of messages: the authority may want another nonce.
    pub(crate) messages: u32,
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
    pub(crate) at: u64,
    /// For each listener, whether it shows this certificate: nothing, or what it shows instead.
    pub(crate) listeners: BTreeMap<SocketAddr, Option<String>>,
    /// Why the files are not in use, if they are not.
    pub(crate) problem: Option<String>,
}

impl Deployed {
    /// True if every listener shows the certificate.
    pub(crate) fn is_served(&self) -> bool {
        self.problem.is_none() && self.listeners.values().all(Option::is_none)
    }
}

impl Renewals {
    /// Progress in the file of a state directory. A file that is missing or damaged counts as
    /// empty: the accounts and certificates are found again.
    pub(crate) fn load(state_dir: &Path) -> Self {
        let file = state_dir.join(FILE);
        let stored = match fs::read(&file).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(stored)) => stored,
            Ok(Err(error)) => {
                tracing::warn!(
                    "the progress of renewals in {} is damaged, and begins anew: {error}",
                    file.display()
                );
                Stored::default()
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
            agent_seen: AtomicU64::new(0),
        }
    }

    /// Notes that an agent has asked for work.
    pub(crate) fn see_agent(&self, now: u64) {
        self.agent_seen.store(now, atomic::Ordering::Relaxed);
    }

    /// Time at which an agent last asked for work.
    pub(crate) fn agent_seen(&self) -> Option<u64> {
        Some(self.agent_seen.load(atomic::Ordering::Relaxed)).filter(|at| *at > 0)
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
        self.with(|stored| stored.plans.get(plan).cloned().unwrap_or_default())
    }

    /// The account at a directory.
    pub(crate) fn account(&self, directory: &str) -> Option<Account> {
        self.with(|stored| stored.accounts.get(directory).cloned())
    }

    /// Sets or forgets the account at a directory. Waits for the disk.
    ///
    /// # Errors
    /// The file cannot be written; nothing is changed.
    pub(crate) fn set_account(&self, directory: &str, account: Option<Account>) -> io::Result<()> {
        self.change(|stored| {
            match account {
                Some(account) => drop(stored.accounts.insert(directory.to_owned(), account)),
                None => drop(stored.accounts.remove(directory)),
            }
            Ok(())
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
        self.change(|stored| change(stored.plans.entry(plan.to_owned()).or_default()))
    }

    fn change<T, E: From<io::Error>>(
        &self,
        change: impl FnOnce(&mut Stored) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = stored.clone();
        let done = change(&mut new)?;
        replace(&self.file, &serde_json::to_vec(&new).map_err(io::Error::from)?, 0o600)?;
        *stored = new;
        Ok(done)
    }

    fn with<T>(&self, f: impl FnOnce(&Stored) -> T) -> T {
        f(&self.stored.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

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
        let account = Account { url: "https://ca/account".into(), thumbprint: "t".into() };
        renewals.set_account("https://ca/directory", Some(account.clone())).unwrap();
        let failed = renewals.update("shop", |progress| {
            progress.order = None;
            Err::<(), _>(io::Error::other("no"))
        });
        assert!(failed.is_err() && renewals.of("shop").order == order("https://ca/1"));
        let again = Renewals::load(dir.path());
        assert_eq!(again.of("shop"), renewals.of("shop"));
        assert_eq!(again.account("https://ca/directory"), Some(account));
        assert_eq!(again.of("other"), Progress::default());
        fs::write(dir.path().join(FILE), "damaged").unwrap();
        assert_eq!(Renewals::load(dir.path()).of("shop"), Progress::default());
    }
}

//! The file of the progress of all plans, beside the key store, so that a daemon or an agent that
//! is killed goes on where it was. The file has no secret. Without the file, plans begin anew, and
//! the key store knows whether there was one. And the facts that are known of agents and deployers
//! since the start.

use core::ops::Deref;
use core::sync::atomic::{self, AtomicBool, AtomicU64};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use keyward_plans::Watched;

use super::known::Known;
use super::progress::{Hold, Progress};
use super::stored::{Account, Damage, Stored};
use crate::ground::replace::replace;
use crate::keys::{Key, KeyStore, now};

/// The progress of all plans, and the accounts at authorities. Shared by reference between tasks.
pub(crate) struct Renewals {
    file: PathBuf,
    /// Knows whether the file was written once; `None` in tests of this module.
    store: Option<Arc<KeyStore>>,
    /// True if the store knows.
    is_noted: AtomicBool,
    contents: Mutex<Contents>,
    /// The placeholder of each plan, by its name: version of the key, and certificate in DER.
    placeholders: Mutex<BTreeMap<String, (u32, Vec<u8>)>>,
    /// Time of the start.
    started: Instant,
    /// Time at which each agent last asked for work, by its process id.
    agents: Mutex<BTreeMap<i32, Instant>>,
    /// Time at which an agent has begun to work on each plan.
    taken: Mutex<BTreeMap<String, Instant>>,
    /// Seconds by which this clock is ahead of the clock of each authority, by its directory.
    clocks: Mutex<BTreeMap<String, i64>>,
    /// Time at which the deployer has last looked at the listeners of each plan.
    looked: Mutex<BTreeMap<String, Instant>>,
    /// Certificates that somebody else renews, by the name of their section.
    watched: Mutex<BTreeMap<String, Watched>>,
    /// Number of changes since the start.
    changes: AtomicU64,
    /// Why the file could not be written the last time, if it could not.
    problem: Mutex<Option<String>>,
}

/// Contents of the file.
#[derive(Debug)]
struct Contents {
    stored: Arc<Stored>,
    /// Why the file could not be read, if it could not: nothing is written then.
    unreadable: Option<String>,
    /// The damage of the file when it was read, or at an earlier time.
    damage: Option<Damage>,
}

impl Contents {
    /// `was_written` is true if the file was there before.
    fn open(file: &Path, was_written: bool) -> Self {
        match Stored::open(file, was_written) {
            Ok((stored, damage)) => {
                if let Some(damage) = &damage {
                    tracing::error!("{}", damage.words);
                }
                Self { stored: Arc::new(stored), unreadable: None, damage }
            }
            Err(reason) => Self { stored: Arc::default(), unreadable: Some(reason), damage: None },
        }
    }
}

impl Renewals {
    /// Name of the file in the state directory.
    pub(crate) const FILE: &str = "renewals.json";

    /// Progress in the file of a state directory. See [`Stored::open`]. `store` notes that the file
    /// was written.
    pub(crate) fn load(state_dir: &Path, store: Option<Arc<KeyStore>>) -> Self {
        let file = state_dir.join(Self::FILE);
        // If the store does not say it, a missing file is no news that anybody could use.
        let was_written = store.as_ref().is_some_and(|store| store.has_progress().unwrap_or(false));
        let contents = Contents::open(&file, was_written);
        if let Some(reason) = &contents.unreadable {
            tracing::error!("{reason}");
        }
        Self {
            file,
            is_noted: AtomicBool::new(was_written || store.is_none()),
            store,
            contents: Mutex::new(contents),
            placeholders: Mutex::default(),
            started: Instant::now(),
            agents: Mutex::default(),
            taken: Mutex::default(),
            clocks: Mutex::default(),
            looked: Mutex::default(),
            watched: Mutex::default(),
            changes: AtomicU64::new(0),
            problem: Mutex::default(),
        }
    }

    /// Why the file cannot be read or could not be written the last time, or its damage, until a
    /// person has removed the copy of the damaged file.
    pub(crate) fn problem(&self) -> Option<String> {
        let (unreadable, damage) = {
            let contents = self.contents();
            (contents.unreadable.clone(), contents.damage.clone())
        };
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let damage = damage.filter(|damage| damage.copy.exists()).map(|damage| damage.words);
        unreadable.or(problem).or(damage)
    }

    /// The problem that certificates are to be revoked, in a configuration without plans: no agent
    /// has anything to do then.
    pub(crate) fn orphans(&self) -> Option<String> {
        let known = self.known();
        let of_orders = known.former_orders().iter().map(|order| &order.plan);
        let plan = known.revocations(now()).map(|asked| &asked.plan).chain(of_orders).next()?;
        Some(format!(
            "the certificate of plan {plan} that a person asked to revoke is not revoked, and no plan is left by which keyward-acme does it; make a plan at the same authority, which does it, or give it up: keyward cert revoke {plan} --cancel"
        ))
    }

    /// Refuses what must not be done without the facts in the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.contents().unreadable.clone().map_or(Ok(()), |reason| Err(io::Error::other(reason)))
    }

    /// Number of changes since the start.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(atomic::Ordering::Acquire)
    }

    /// Notes by how many seconds this clock is ahead of the clock of the authority with a
    /// directory.
    pub(crate) fn note_clock(&self, directory: &str, ahead: i64) {
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.insert(directory.to_owned(), ahead.clamp(-MOST_AHEAD, MOST_AHEAD));
    }

    /// Seconds by which this clock is ahead of the clock of the authority with a directory; `None`
    /// if nobody has compared them since the start.
    pub(crate) fn clock_ahead(&self, directory: &str) -> Option<i64> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner).get(directory).copied()
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
        self.look(plan, None).0
    }

    /// Progress of a plan, and the facts about keys and certificates. If a file of before has
    /// numbers of versions of the key of the plan, public keys take their place.
    pub(crate) fn look(&self, plan: &str, key: Option<&Key>) -> (Progress, Looked) {
        let mut stored = Arc::clone(&self.contents().stored);
        if let Some(key) = key.filter(|key| stored.has_numbers_of(plan, key)) {
            let convert = |stored: &mut Stored| {
                stored.convert(plan, key, now());
                Ok::<_, io::Error>(())
            };
            // Another program may have written a record that is not verified. The problem of a disk
            // is noted. Until either is gone, this look alone has the public keys.
            match !key.unverified && self.change(convert).is_ok() {
                true => stored = Arc::clone(&self.contents().stored),
                false => Arc::make_mut(&mut stored).convert(plan, key, now()),
            }
        }
        let progress = stored.plans.get(plan).cloned().unwrap_or_default().at(now());
        (progress, Looked(stored))
    }

    /// Facts about keys and certificates.
    pub(crate) fn known(&self) -> Looked {
        Looked(Arc::clone(&self.contents().stored))
    }

    /// The account of a key at a directory.
    pub(crate) fn account(&self, directory: &str, thumbprint: &str) -> Option<Account> {
        self.contents().stored.accounts.get(&format!("{directory} {thumbprint}")).cloned()
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

    /// Changes the progress of a plan, and the facts about keys and certificates. Waits for the
    /// disk.
    ///
    /// # Errors
    /// The error of `change`, or the file cannot be read or written; nothing is changed.
    pub(crate) fn update<T, E: From<io::Error>>(
        &self,
        plan: &str,
        change: impl FnOnce(&mut Progress, &mut Known) -> Result<T, E>,
    ) -> Result<T, E> {
        self.change(|stored| {
            let progress = stored.plans.entry(plan.to_owned()).or_default();
            *progress = progress.clone().at(now());
            change(progress, &mut stored.known)
        })
    }

    fn change<T, E: From<io::Error>>(
        &self,
        change: impl FnOnce(&mut Stored) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut contents = self.contents();
        if let Some(reason) = &contents.unreadable {
            return Err(io::Error::other(reason.clone()).into());
        }
        let mut new = Stored::clone(&contents.stored);
        let done = change(&mut new)?;
        if let Some(store) = self.store.as_ref().filter(|_| !self.is_noted.load(atomic::Ordering::Relaxed)) {
            store.note_progress().map_err(io::Error::other)?;
            self.is_noted.store(true, atomic::Ordering::Relaxed);
        }
        let written = replace(&self.file, &serde_json::to_vec(&new).map_err(io::Error::from)?, 0o600);
        let problem = written.as_ref().err().map(|error| {
            format!("the progress of renewals cannot be written to {}: {error}; no certificate is renewed until it can", self.file.display())
        });
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        written?;
        contents.stored = Arc::new(new);
        self.changes.fetch_add(1, atomic::Ordering::Release);
        Ok(done)
    }

    /// The contents of the file. A file that could not be read is read again.
    fn contents(&self) -> MutexGuard<'_, Contents> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        if contents.unreadable.is_some() {
            *contents = Contents::open(&self.file, self.is_noted.load(atomic::Ordering::Relaxed));
            if contents.unreadable.is_none() {
                self.changes.fetch_add(1, atomic::Ordering::Release);
            }
        }
        contents
    }
}

/// The facts about keys and certificates at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Looked(Arc<Stored>);

impl Deref for Looked {
    type Target = Known;

    fn deref(&self) -> &Known {
        &self.0.known
    }
}

/// Time after which an agent that asks for no work is gone. It asks every two seconds.
const AGENT_LIFE: Duration = Duration::from_secs(6);
/// Most agents that are remembered.
const MAX_AGENTS: usize = 64;
/// Most seconds that a clock can be wrong, ahead or behind (a century).
const MOST_AHEAD: i64 = 100 * 365 * 86_400;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::known::tests::key_of;
    use super::super::revocation::Revocation;
    use super::super::revocation::tests::revocation;
    use super::super::stored::MISSING;
    use super::*;
    use crate::keys::tests::store_key;

    #[test]
    fn progress_outlives_the_process_and_a_change_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let renewals = Renewals::load(dir.path(), None);
        let order = |text: &str| Some(text.to_owned());
        renewals
            .update("shop", |progress, _| {
                progress.order = order("https://ca/1");
                Ok::<_, io::Error>(())
            })
            .unwrap();
        let url = |number: u32| Some(format!("https://ca/account/{number}"));
        let set = |url| renewals.set_account("https://ca/directory", "t", url).unwrap();
        assert_eq!([set(url(1)), set(url(1)), set(None)], [None, None, None]);
        assert_eq!(set(url(2)), url(1), "the one before");
        let failed = renewals.update("shop", |progress, _| {
            progress.order = None;
            Err::<(), _>(io::Error::other("no"))
        });
        assert!(failed.is_err() && renewals.of("shop").order == order("https://ca/1"));
        let again = Renewals::load(dir.path(), None);
        assert_eq!(again.of("shop"), renewals.of("shop"));
        let account = again.account("https://ca/directory", "t").unwrap();
        assert_eq!((account.url, account.former.map(|(former, _)| former)), (url(2), url(1)));
        assert!(again.account("https://ca/directory", "other").is_none());
        assert_eq!(again.of("other"), Progress::default());
        // A part that cannot be understood takes nothing from the others.
        let text = fs::read_to_string(dir.path().join(Renewals::FILE)).unwrap();
        let damaged = "\"plans\":{\"a\":{\"failures\":\"x\",\"wishes\":3,\"unknown\":[]},";
        let text = text.replacen("\"plans\":{", damaged, 1).replacen(
            "\"accounts\":{",
            "\"accounts\":{\"x y\":1,",
            1,
        );
        let (_, damage) = Stored::read(text.as_bytes());
        assert_eq!(damage.unwrap(), "lost are: the account at x y, failures of the plan a");
        fs::write(dir.path().join(Renewals::FILE), text).unwrap();
        let partly = Renewals::load(dir.path(), None);
        let kept = Progress { wishes: 3, ..Progress::default() };
        assert_eq!((partly.of("shop"), partly.of("a")), (renewals.of("shop"), kept));
        assert!(partly.account("https://ca/directory", "t").is_some());
        let now = now();
        let wrong = Progress {
            next_try: now + 365 * 86_400,
            renewed_at: Some(now + 365 * 86_400),
            orders: vec![now - 5, now + 365 * 86_400],
            ..Progress::default()
        };
        let right = Progress { next_try: 0, renewed_at: None, orders: vec![now - 5], ..Progress::default() };
        assert_eq!(wrong.at(now), right, "of a clock that was a year ahead");
    }

    #[test]
    fn damage_is_a_problem_until_a_person_has_removed_its_copy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(Renewals::FILE);
        let copies = || {
            let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
            names.filter(|name| name.to_string_lossy().contains("damaged")).collect::<Vec<_>>()
        };
        let mut problems = Vec::new();
        for _ in 0..3 {
            fs::write(&file, "damaged").unwrap();
            problems.push(Renewals::load(dir.path(), None).problem().unwrap());
        }
        assert!(problems.iter().all(|problem| problem.contains("was damaged") && *problem == problems[0]));
        let [copy] = copies().try_into().unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"damaged");
        let renewals = Renewals::load(dir.path(), None);
        renewals.update("shop", nothing).unwrap();
        // The file is whole now, and nobody has looked at each plan.
        let again = Renewals::load(dir.path(), None);
        let problem = again.problem().unwrap();
        assert!(problem.contains(&copy.display().to_string()), "{problem}");
        fs::remove_file(&copy).unwrap();
        assert_eq!((again.problem(), renewals.problem()), (None, None));
        // A copy that cannot be written leaves nothing behind, however often the file is read.
        fs::write(&file, "damaged").unwrap();
        fs::create_dir_all(copy.join("x")).unwrap();
        fs::remove_dir(copy.join("x")).unwrap();
        assert_eq!(Renewals::load(dir.path(), None).problem().unwrap(), problems[0]);
        fs::remove_dir(&copy).unwrap();
        fs::create_dir(copy.with_added_extension("new")).unwrap();
        let full = Renewals::load(dir.path(), None);
        assert!((0..3).all(|_| full.check().is_err()));
        assert_eq!(copies(), [copy.with_added_extension("new")]);
    }

    #[test]
    fn a_file_that_is_missing_is_a_loss_once_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(Renewals::FILE);
        let open = || {
            let store = KeyStore::open(dir.path()).unwrap();
            store.unlock(&store_key(), None).unwrap();
            Renewals::load(dir.path(), Some(Arc::new(store)))
        };
        assert_eq!(open().problem(), None);
        assert_eq!(open().problem(), None, "nothing was written");
        let renewals = open();
        renewals.update("shop", nothing).unwrap();
        drop(renewals);
        assert_eq!(open().problem(), None);
        fs::remove_file(&file).unwrap();
        let problem = open().problem().unwrap();
        assert!(problem.contains("is missing"), "{problem}");
        let renewals = open();
        assert!(renewals.problem().is_some(), "nobody has looked");
        renewals.update("shop", nothing).unwrap();
        assert!(renewals.problem().is_some());
        fs::remove_file(file.with_added_extension(MISSING)).unwrap();
        assert_eq!(renewals.problem(), None);
        drop(renewals);
        assert_eq!(open().problem(), None);
    }

    fn nothing(_: &mut Progress, _: &mut Known) -> io::Result<()> {
        Ok(())
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(Renewals::FILE);
        // Root may read any file, and no link that leads to itself.
        symlink(Renewals::FILE, &file).unwrap();
        let renewals = Renewals::load(dir.path(), None);
        let problem = renewals.problem().unwrap();
        assert!(problem.contains("cannot be read") && !problem.contains("chown"), "{problem}");
        assert!(renewals.check().is_err() && renewals.update("shop", nothing).is_err());
        assert!(renewals.set_account("https://ca/directory", "t", None).is_err());
        assert!(file.is_symlink());
        // The file is there again, without a start.
        fs::remove_file(&file).unwrap();
        fs::write(&file, "{\"plans\":{\"shop\":{\"wishes\":3}}}").unwrap();
        assert_eq!(renewals.of("shop").wishes, 3);
        assert_eq!(renewals.problem(), None);
        renewals.update("shop", nothing).unwrap();
        assert_eq!(Renewals::load(dir.path(), None).of("shop").wishes, 3);
    }

    #[test]
    fn a_wrong_clock_takes_nothing_away() {
        let (certificate, asked) = revocation(4);
        let dir = tempfile::tempdir().unwrap();
        let renewals = Renewals::load(dir.path(), None);
        // To this clock, the certificate expired years ago.
        let past = Revocation { not_after: 5, ..asked };
        let note = |_: &mut Progress, known: &mut Known| {
            known.note_revoked(&past);
            known.revoke(past.clone());
            Ok::<_, io::Error>(())
        };
        renewals.update("shop", note).unwrap();
        // Whatever an agent says about the clock of the authority.
        for ahead in [None, Some(365 * 86_400), Some(-365 * 86_400), Some(0)] {
            ahead.into_iter().for_each(|ahead| renewals.note_clock("https://ca/dir", ahead));
            renewals.update("shop", nothing).unwrap();
            let known = Renewals::load(dir.path(), None).known();
            assert!(known.is_revoked(&certificate));
            assert_eq!((known.revocations(0).count(), known.revocations(now()).count()), (1, 0), "{ahead:?}");
        }
    }

    #[test]
    fn each_authority_has_a_clock() {
        let dir = tempfile::tempdir().unwrap();
        let renewals = Renewals::load(dir.path(), None);
        renewals.note_clock("https://wrong/dir", i64::MIN);
        renewals.note_clock("https://right/dir", -1);
        let ahead =
            ["wrong", "right", "other"].map(|host| renewals.clock_ahead(&format!("https://{host}/dir")));
        assert_eq!(ahead, [Some(-MOST_AHEAD), Some(-1), None]);
    }

    #[test]
    fn public_keys_take_the_place_of_numbers_also_without_a_disk() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(Renewals::FILE);
        fs::write(&file, "{\"plans\":{\"shop\":{\"compromised\":1}}}").unwrap();
        let renewals = Renewals::load(dir.path(), None);
        let key = key_of("shop", &[1, 2]);
        // Nothing can be written in the place of a directory.
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(renewals.look("shop", Some(&key)).1.compromised(&key), Some(1));
        assert!(renewals.problem().is_some());
        assert_eq!(renewals.known().compromised(&key), None);
        fs::remove_dir(&file).unwrap();
        let unverified = Key { unverified: true, ..key.clone() };
        assert_eq!(renewals.look("shop", Some(&unverified)).1.compromised(&key), Some(1));
        assert_eq!(renewals.known().compromised(&key), None);
        assert_eq!(renewals.look("shop", Some(&key)).1.compromised(&key), Some(1));
        assert_eq!(Renewals::load(dir.path(), None).known().compromised(&key), Some(1));
        assert_eq!(renewals.problem(), None);
    }

    #[test]
    fn a_message_that_nobody_wants_any_more_is_not_sent() {
        let (certificate, asked) = revocation(4);
        let (mut progress, mut known) = (Progress::default(), Known::default());
        // A person has given it up while the message was signed.
        assert!(!progress.send(&mut known, &asked) && progress.revoking.is_none());
        known.revoke(Revocation { reason: 1, ..asked.clone() });
        assert!(progress.send(&mut known, &asked), "another reason");
        known.give_up(&asked);
        assert!(known.is_revoked(&certificate));
        progress.begin(&mut known, 1, 5);
        assert!(progress.revoking.is_none());
    }
}

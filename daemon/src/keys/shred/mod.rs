//! The shred secret of a key store: it wraps each blob once more, so that a purged key is gone from
//! every copy of the store once the secret is gone.
//!
//! The store names the secret in force. A destruction of a key only notes in its transaction that a
//! new secret is due. Then, in steps that can be interrupted anywhere:
//!
//! 1. [`KeyStore::renew_secret`] writes a new secret to a file, and one transaction puts the new
//!    secret in force and names the old one. A transaction before has the id of the new secret, so
//!    that its file does not remain if the daemon is killed in between.
//! 2. [`KeyStore::rewrap_list`] wraps the blobs of each list of the index anew.
//! 3. [`KeyStore::erase_old_secret`] notes that the old secret wraps nothing any more, overwrites
//!    and removes the files of all secrets but the one in force, and then the store names the old
//!    one no more.
//!
//! A key that is destroyed meanwhile makes another secret due. So there are two secrets at most.

mod files;
mod progress;
mod recovery;
mod secret;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

pub(crate) use files::SecretFiles;
pub(crate) use progress::Shredding;
pub(crate) use recovery::{MAX_FILE as MAX_RECOVERY, Recovery, RecoveryError};
pub(crate) use secret::{Named, Place, SecretId, Secrets, ShredSecret};

use super::{KeyStore, Keys, StoreError, StoreKey, now, record};
use crate::ground::ownership::Owners;
use crate::store::metadata::{DESTROYED, NEW_SECRET, OLD_SECRET, OLD_UNUSED, RECOVERY, SECRET, YES};
use crate::store::{LISTS, NamedSecrets, RedbStore, SECRETS, Upgrade, copy_of_migration, secrets_of};

/// State of the shred secrets, as the store names them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shred {
    /// Secret that wraps new blobs; `None` before the first key.
    pub(crate) in_force: Option<Named>,
    /// The secret before, while blobs are wrapped anew.
    pub(crate) old: Option<Named>,
    /// True if a key was destroyed since the secret in force was made.
    pub(crate) is_due: bool,
    /// True if the record of a destroyed key is still in the store, which cannot be written.
    pub(crate) is_unwritten: bool,
    /// The last recovery file.
    pub(crate) recovery: Option<Written>,
}

impl Shred {
    /// True if every key that was destroyed is gone from copies of the store.
    pub(crate) fn is_final(&self) -> bool {
        !self.needs_round() && !self.is_unwritten
    }

    /// True if blobs must be wrapped anew, or an old secret must be erased.
    pub(crate) fn needs_round(&self) -> bool {
        self.old.is_some() || self.is_due
    }

    /// True if a recovery file has the secret in force, and no secret that was erased since.
    pub(crate) fn has_recovery(&self) -> bool {
        let is_present = |written: Written| {
            Some(written.secret) == self.in_force && (!written.has_old || self.old.is_some())
        };
        self.recovery.is_some_and(is_present)
    }
}

/// A recovery file that was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Written {
    /// Secret that was in force.
    pub(crate) secret: Named,
    /// In seconds since 1970.
    pub(crate) at: u64,
    /// True if the file has the secret before, too.
    pub(crate) has_old: bool,
}

impl Written {
    fn parse(text: &str) -> Option<Self> {
        let (rest, has_old) = match text.strip_suffix(YES) {
            Some(rest) => (rest.strip_suffix(' ')?, true),
            None => (text, false),
        };
        let (secret, at) = rest.rsplit_once(' ')?;
        Some(Self { secret: secret.parse().ok()?, at: at.parse().ok()?, has_old })
    }

    fn to_text(self) -> String {
        let Self { secret, at, has_old } = self;
        format!("{secret} {at}{}", if has_old { format!(" {YES}") } else { String::new() })
    }
}

impl KeyStore {
    /// State of the shred secrets. Not authenticated while the store is locked.
    pub(crate) fn shred(&self) -> Result<Shred, StoreError> {
        let altered = || StoreError::AlteredStore(self.path().to_owned());
        let named = |name| -> Result<Option<Named>, StoreError> {
            self.store.metadata(name)?.map(|text| text.parse().map_err(|()| altered())).transpose()
        };
        let recovery = self.store.metadata(RECOVERY)?;
        Ok(Shred {
            in_force: named(SECRET)?,
            old: named(OLD_SECRET)?,
            is_due: self.store.metadata(DESTROYED)?.is_some(),
            is_unwritten: self.has_unwritten_destruction(),
            recovery: recovery.and_then(|text| Written::parse(&text)),
        })
    }

    /// Secrets without which the blobs of the store in a directory do not open: the one in force,
    /// and the old one if a record has a blob under it.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) fn needed_secrets(directory: &Path) -> Result<Vec<Named>, StoreError> {
        let store = Self::without_secrets(Arc::new(RedbStore::open(directory)?));
        let Shred { in_force, old, .. } = store.shred()?;
        let old = match old {
            Some(old) if store.needs_old(old.id)? => Some(old),
            _ => None,
        };
        Ok(in_force.into_iter().chain(old).collect())
    }

    /// Checks that the files of the secrets are there for the next start. Returns a warning if the
    /// store cannot be read without a change, or if only the start can tell whether it needs a
    /// file.
    ///
    /// # Errors
    /// [`StoreError::Secret`] or [`StoreError::SecretGone`], as a start would say.
    pub(crate) fn check_secrets(state_dir: &Path, owners: Owners) -> Result<Option<String>, StoreError> {
        let store = state_dir.join(Self::FILE);
        let (in_force, old) = match secrets_of(state_dir) {
            NamedSecrets::None => return Ok(None),
            NamedSecrets::Known { in_force, old } => (in_force, old),
            NamedSecrets::Unknown => {
                return Ok(Some(format!(
                    "the secret of the key store {} was not checked, because the store was not closed by its last daemon; the next start looks for it in {}",
                    store.display(),
                    state_dir.join(SECRETS).display()
                )));
            }
        };
        let files = SecretFiles::of(state_dir, owners);
        let missing = |name: Option<String>| -> Result<Option<StoreError>, StoreError> {
            let Some(named) = name.and_then(|name| name.parse::<Named>().ok()) else { return Ok(None) };
            let (file, store) = (files.path(named.id), store.clone());
            match files.read(named.id).map_err(|reason| StoreError::Secret(file.clone(), reason))? {
                Some(_) => Ok(None),
                None => Ok(Some(StoreError::SecretGone { store, secret: named.to_string(), file })),
            }
        };
        if let Some(gone) = missing(in_force)? {
            return Err(gone);
        }
        let warning = missing(old)?.map(|gone| format!("if keys are not wrapped anew yet: {gone}"));
        Ok(warning)
    }

    /// Reads the secrets that the store names, and are not in memory yet.
    ///
    /// # Errors
    /// [`StoreError::SecretGone`] if one is missing, and blobs need it.
    pub(super) fn load_secrets(&self) -> Result<(), StoreError> {
        let Shred { in_force, old, .. } = self.shred()?;
        for named in in_force.into_iter().chain(old) {
            let files = self.secret_files();
            if self.secrets().get(named.id).is_some() {
                continue;
            }
            let file = files.path(named.id);
            let read = files.read(named.id).map_err(|reason| StoreError::Secret(file.clone(), reason))?;
            match read {
                Some(secret) => self.change_secrets(|secrets| secrets.push(Arc::new(secret))),
                // The daemon was killed after it had erased the file.
                None if Some(named) == old && !self.needs_old(named.id)? => {}
                None => {
                    let (store, secret) = (self.path().to_owned(), named.to_string());
                    return Err(StoreError::SecretGone { store, secret, file });
                }
            }
        }
        Ok(())
    }

    /// Unlocks the store. A store of the format before gets its first secret.
    pub(super) fn unlock_store(&self, key: &StoreKey, wrapped: Option<&[u8]>) -> Result<(), StoreError> {
        let upgrade = Upgrade {
            secret: &|| {
                let files = self.secret_files();
                Ok(self.keep_secret(&files, Self::new_secret(&files)?, 1)?.to_string())
            },
            rewrite: &|label, record, secret| {
                let key = record::decode_bare(label.clone(), record)?;
                record::encode(&key, self.secrets().named(secret)?)
            },
        };
        let unlocked = self.store.unlock(key, wrapped, &upgrade);
        if unlocked.is_err() && self.shred().is_ok_and(|shred| shred.in_force.is_none()) {
            self.forget_unnamed(&self.secret_files());
        }
        unlocked
    }

    /// Makes the first secret of a store.
    pub(super) fn make_first_secret(&self) -> Result<(), StoreError> {
        match self.secrets().0.is_empty() && !self.is_locked() {
            true => self.renew_secret_if(|shred| shred.in_force.is_none()),
            false => Ok(()),
        }
    }

    /// Puts a new secret in force, if one is due and blobs are not wrapped anew already.
    ///
    /// # Errors
    /// [`StoreError::Secret`] if the secret cannot be written; errors of the store.
    pub(crate) fn renew_secret(&self) -> Result<(), StoreError> {
        self.renew_secret_if(|shred| shred.is_due && shred.old.is_none())
    }

    fn renew_secret_if(&self, is_wanted: impl Fn(&Shred) -> bool) -> Result<(), StoreError> {
        let files = self.secret_files();
        let shred = self.shred()?;
        if !is_wanted(&shred) {
            return Ok(());
        }
        // The secret of a daemon that was killed before the secret was in force.
        if let Some(id) = self.store.metadata(NEW_SECRET)?.and_then(|id| id.parse().ok()) {
            files.erase(id).map_err(|reason| StoreError::Secret(files.path(id), reason))?;
        }
        let secret = Self::new_secret(&files)?;
        self.store.set_metadata(&[(NEW_SECRET, Some(&secret.id().to_string()))])?;
        let number = shred.in_force.map_or(1, |named| named.number + 1);
        let new = self.keep_secret(&files, secret, number)?.to_string();
        let old = shred.in_force.map(|named| named.to_string());
        let changes = [
            (SECRET, Some(new.as_str())),
            (OLD_SECRET, old.as_deref()),
            (DESTROYED, None),
            (NEW_SECRET, None),
        ];
        // After a fault, the change may have happened or not.
        self.store.set_metadata(&changes).inspect_err(|_| self.forget_unnamed(&files))
    }

    fn new_secret(files: &SecretFiles) -> Result<ShredSecret, StoreError> {
        let reason = || io::Error::other("the system gave no random numbers");
        ShredSecret::generate().ok_or_else(|| StoreError::Secret(files.directory().to_owned(), reason()))
    }

    /// Keeps a new secret in its file and in memory.
    fn keep_secret(
        &self,
        files: &SecretFiles,
        secret: ShredSecret,
        number: u64,
    ) -> Result<Named, StoreError> {
        let failed = |reason| StoreError::Secret(files.directory().to_owned(), reason);
        let named = Named { number, id: secret.id() };
        files.write(&secret, None).map_err(failed)?;
        self.change_secrets(|secrets| secrets.push(Arc::new(secret)));
        Ok(named)
    }

    /// Erases the secrets that the store does not name. Leaves them if the store cannot be read.
    fn forget_unnamed(&self, files: &SecretFiles) {
        let Ok(Shred { in_force, old, .. }) = self.shred() else { return };
        let is_named = |id| [in_force, old].iter().flatten().any(|named| named.id == id);
        for secret in self.secrets().0.iter().filter(|secret| !is_named(secret.id())) {
            self.change_secrets(|secrets| secrets.retain(|other| other.id() != secret.id()));
            let _ = files.erase(secret.id());
        }
    }

    /// Wraps the blobs in one list of the index by the secret in force. Returns the number of keys
    /// in the list. Revisions stay as they are, so keys in memory stay right.
    ///
    /// # Errors
    /// [`StoreError::UnlistedKeys`] if the list was altered; errors of the store.
    pub(crate) fn rewrap_list(&self, list: u32) -> Result<u64, StoreError> {
        let rewrite = |label: &_, record: &[u8], name: &str| {
            let secrets = self.secrets();
            let secret = secrets.named(name)?;
            let is_old = |blob: &Vec<u8>| SecretId::of_wrapped(blob) != Some(secret.id());
            if !record::blobs(record).iter().any(is_old) {
                return None;
            }
            record::encode(&record::decode(Clone::clone(label), record, &secrets)?, secret)
        };
        self.store.rewrite(list, &rewrite)?.ok_or_else(|| StoreError::UnlistedKeys(self.path().to_owned()))
    }

    /// Erases the old secret, after all lists were wrapped anew, and all secrets of other stores.
    /// Returns the secrets of other stores. Does nothing if there is no old secret.
    ///
    /// # Errors
    /// [`StoreError::Secret`] if the file cannot be removed; errors of the store.
    pub(crate) fn erase_old_secret(&self) -> Result<Vec<SecretId>, StoreError> {
        let files = self.secret_files();
        let Some(old) = self.shred()?.old else { return Ok(Vec::new()) };
        // An altered record may have a blob under it for ever. No start needs the secret for that.
        self.store.set_metadata(&[(OLD_UNUSED, Some(YES))])?;
        self.change_secrets(|secrets| secrets.retain(|secret| secret.id() != old.id));
        let failed = |reason| StoreError::Secret(files.path(old.id), reason);
        files.erase(old.id).map_err(failed)?;
        // Others are of stores that were here before: copies of them may have a purged key.
        let in_force = self.shred()?.in_force.map(|named| named.id);
        let others = files.erase_all_but(in_force).map_err(failed)?;
        self.store.set_metadata(&[(OLD_SECRET, None), (OLD_UNUSED, None)])?;
        Ok(others)
    }

    /// Files in the state directory by which copies open that a purge does not reach: other
    /// secrets, and the copy of a migration. None before the first purge.
    pub(crate) fn leftovers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let files = self.secret_files();
        let Shred { in_force, old, .. } = self.shred()?;
        if old.is_some() || in_force.is_none_or(|named| named.number < 2) {
            return Ok(Vec::new());
        }
        let failed = |reason| StoreError::Secret(files.directory().to_owned(), reason);
        let others = files.all_but(in_force.map(|named| named.id)).map_err(failed)?;
        let others = others.into_iter().map(|id| files.path(id));
        let copy = copy_of_migration(self.path());
        Ok(others.chain(Some(copy).filter(|copy| copy.symlink_metadata().is_ok())).collect())
    }

    /// True if blobs need the old secret.
    fn needs_old(&self, id: SecretId) -> Result<bool, StoreError> {
        Ok(self.store.metadata(OLD_UNUSED)?.is_none() && self.has_blobs_of(id)?)
    }

    /// Writes the files of secrets again that another program has removed or changed. Returns the
    /// ids of these secrets.
    ///
    /// # Errors
    /// [`StoreError::Secret`] if a file cannot be written, or another user can change it.
    pub(crate) fn mend_secrets(&self) -> Result<Vec<SecretId>, StoreError> {
        let files = self.secret_files();
        let secrets = self.secrets();
        let (mut mended, mut problem) = (Vec::new(), None);
        for secret in &secrets.0 {
            let mend = || match files.read(secret.id()) {
                Ok(Some(_)) => Ok(false),
                // Also a file with another mode, which this process replaces.
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
                Ok(None) | Err(_) => files.write(secret, None).map(|()| true),
            };
            match mend() {
                Ok(true) => mended.push(secret.id()),
                Ok(false) => {}
                Err(reason) => problem = Some(StoreError::Secret(files.path(secret.id()), reason)),
            }
        }
        problem.map_or(Ok(mended), Err)
    }

    /// The secrets, for a recovery file. `None` before the first key.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if nothing authenticates the names of the secrets; errors of the
    /// store.
    pub(crate) fn recovery(&self) -> Result<Option<Recovery>, StoreError> {
        if self.is_locked() {
            return Err(StoreError::Locked(self.path().to_owned()));
        }
        // No secret is made or erased meanwhile.
        let _files = self.secret_files();
        let Shred { in_force, old, .. } = self.shred()?;
        let secrets = self.secrets();
        let copy = |named: Named| {
            let secret = ShredSecret::from_bytes(secrets.get(named.id)?.as_bytes())?;
            Some((named, secret))
        };
        let Some(secret) = in_force else { return Ok(None) };
        let in_force = copy(secret).ok_or_else(|| self.damaged())?;
        Ok(Some(Recovery { in_force, old: old.and_then(copy) }))
    }

    /// Notes that a recovery file is on a disk: with a secret, and with the secret before if
    /// `has_old`. Returns false and notes nothing if the secret is not in force. As long as there
    /// is a secret before, every file has it.
    ///
    /// # Errors
    /// [`StoreError`] if the store is locked, or cannot be written.
    pub(crate) fn note_recovery(&self, secret: Named, has_old: bool) -> Result<bool, StoreError> {
        // No secret is made or erased meanwhile.
        let _files = self.secret_files();
        let shred = self.shred()?;
        if shred.in_force != Some(secret) {
            return Ok(false);
        }
        let written = Written { secret, at: now(), has_old: has_old || shred.old.is_some() };
        self.store.set_metadata(&[(RECOVERY, Some(&written.to_text()))])?;
        Ok(true)
    }

    /// True if a record has a blob under a secret. Works while the store is locked.
    fn has_blobs_of(&self, id: SecretId) -> Result<bool, StoreError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.store.list_unverified(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(false) };
            after = Some(last.label.to_string());
            let records = page.iter().filter_map(|entry| entry.record.as_ref().ok());
            let mut blobs = records.flat_map(|record| record::blobs(record));
            if blobs.any(|blob| SecretId::of_wrapped(&blob) == Some(id)) {
                return Ok(true);
            }
        }
    }

    /// Reads records, together with the secrets that unwrap their blobs.
    pub(super) fn with_secrets<T>(
        &self,
        read: impl Fn() -> Result<T, StoreError>,
    ) -> Result<(T, Arc<Secrets>), StoreError> {
        loop {
            let before = self.secrets();
            let records = read()?;
            // A secret that was erased meanwhile may be the one of these records.
            if Arc::ptr_eq(&before, &self.secrets.load()) {
                return Ok((records, before));
            }
        }
    }

    pub(super) fn secrets(&self) -> Arc<Secrets> {
        self.secrets.load_full()
    }

    fn change_secrets(&self, change: impl FnOnce(&mut Vec<Arc<ShredSecret>>)) {
        let mut secrets = Secrets::clone(&self.secrets());
        change(&mut secrets.0);
        self.secrets.store(Arc::new(secrets));
    }

    fn secret_files(&self) -> MutexGuard<'_, SecretFiles> {
        self.secret_files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    /// State of the shred secrets.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn shred(&self) -> Result<Shred, StoreError> {
        self.in_store(KeyStore::shred).await
    }

    /// Does what [`KeyStore::renew_secret`] does.
    ///
    /// # Errors
    /// See there.
    pub(crate) async fn renew_secret(&self) -> Result<(), StoreError> {
        self.in_store(KeyStore::renew_secret).await
    }

    /// Does what [`KeyStore::rewrap_list`] does.
    ///
    /// # Errors
    /// See there.
    pub(crate) async fn rewrap_list(&self, list: u32) -> Result<u64, StoreError> {
        self.in_store(move |store| store.rewrap_list(list)).await
    }

    /// Does what [`KeyStore::erase_old_secret`] does.
    ///
    /// # Errors
    /// See there.
    pub(crate) async fn erase_old_secret(&self) -> Result<Vec<SecretId>, StoreError> {
        self.in_store(KeyStore::erase_old_secret).await
    }

    /// Does what [`KeyStore::leftovers`] does.
    ///
    /// # Errors
    /// See there.
    pub(crate) async fn leftovers(&self) -> Result<Vec<PathBuf>, StoreError> {
        self.in_store(KeyStore::leftovers).await
    }

    /// Does what [`KeyStore::mend_secrets`] does.
    ///
    /// # Errors
    /// See there.
    pub(crate) async fn mend_secrets(&self) -> Result<Vec<SecretId>, StoreError> {
        self.in_store(KeyStore::mend_secrets).await
    }

    /// Does what [`KeyStore::recovery`] does.
    ///
    /// # Errors
    /// See there.
    pub(crate) async fn recovery(&self) -> Result<Option<Recovery>, StoreError> {
        self.in_store(KeyStore::recovery).await
    }

    /// Does what [`KeyStore::note_recovery`] does.
    ///
    /// # Errors
    /// See there.
    pub(crate) async fn note_recovery(&self, secret: Named, has_old: bool) -> Result<bool, StoreError> {
        self.in_store(move |store| store.note_recovery(secret, has_old)).await
    }
}

/// Numbers of the lists of the index.
pub(crate) fn lists() -> core::ops::Range<u32> {
    0..LISTS
}

/// Number of records that are read in one transaction.
const PAGE: usize = 1000;

#[cfg(test)]
mod tests;

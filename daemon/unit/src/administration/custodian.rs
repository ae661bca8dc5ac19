//! The custodian of a unit: carries out commands, collects parts, and keeps state and unit in step.
//!
//! Each change is on the disk before the unit follows. A process that is killed in between starts
//! with the state after the change, or with the one before.

mod authenticated;
mod inner;
mod unowned;

use core::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use thiserror::Error;
use zeroize::Zeroizing;

use super::command::{RegisterName, UnitId};
use super::importer::OwnImporter;
use super::keeping::KeepingSecret;
use super::pattern::Pattern;
use super::register::{Origin, SealedShare};
use super::rules::Refusal;
use super::signed::SignedCommand;
use super::state::State;
use crate::error::UnitError;
use crate::master_key::MasterKey;
use crate::profile::Profile;
use crate::unit::Unit;
use authenticated::Authenticated;
use inner::Inner;

/// The place of the state of a unit.
pub trait StateFile: Send {
    /// Replaces the file: after a fault, the file is the old one or the new one. The file is on the
    /// disk when the call returns. The text contains the private key of the unit.
    ///
    /// # Errors
    /// The error of the system; the old file stays.
    fn replace(&self, text: &str) -> io::Result<()>;

    /// Reads the file. `None` if there is none.
    ///
    /// # Errors
    /// The error of the system, or a reason why the file must not be used.
    fn read(&self) -> io::Result<Option<Zeroizing<String>>>;

    /// Gives the file another name, which no other file has.
    ///
    /// # Errors
    /// The error of the system; the file stays.
    fn set_aside(&self) -> io::Result<()>;
}

/// The custodian of a unit. Threads share it by reference.
pub struct Custodian {
    unit: Arc<Unit>,
    /// Locked while a change is written: only methods that say so wait for the disk.
    inner: Mutex<Inner>,
    /// The custody after the last change.
    published: RwLock<Arc<Custody>>,
}

/// The state of a unit at one moment, and the parts that the unit waits for.
#[derive(Clone, Debug)]
pub struct Custody {
    /// The state.
    pub state: State,
    /// True if the current register has a master key that is not in memory.
    pub is_sealed: bool,
    /// The control points in force.
    pub profile: Profile,
    /// Parts and shares that the unit waits for: the register, how its master key is put together,
    /// and the patterns of those that have arrived.
    pub awaited: Vec<(RegisterName, Origin, Vec<Pattern>)>,
}

/// The outcome of a command.
#[derive(Debug)]
pub enum Done {
    /// The command is carried out.
    Command,
    /// The unit waits for the parts or shares of the new register.
    Expects(Origin),
    /// The unit has made a master key. Each owner gets a share, encrypted to the owner.
    Shares(Vec<SealedShare>),
}

/// The outcome of a part or share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Taken {
    /// The register that the piece belongs to.
    pub register: RegisterName,
    /// Fingerprint of the piece.
    pub pattern: Pattern,
    /// Number of parts or shares that are still missing. With 0, the register has its master key.
    pub missing: usize,
}

impl Custodian {
    /// The custodian of a unit with the state in a text, as [`StateFile::replace`] was given it;
    /// without a text, of a unit that nobody owns yet. The unit is sealed.
    ///
    /// # Errors
    /// [`CustodyError::Damaged`] if the text is damaged.
    pub fn open(unit: Arc<Unit>, text: Option<&str>, file: Box<dyn StateFile>) -> Result<Self, CustodyError> {
        unit.seal();
        let (state, read) = match text {
            Some(text) => {
                let (state, read) = Authenticated::read(text).ok_or(CustodyError::Damaged)?;
                (state, Some(read))
            }
            None => (State::new()?, None),
        };
        let inner = Inner {
            file,
            state,
            read,
            current: None,
            new: None,
            loading: None,
            unsealing: Vec::new(),
            importer: None,
            keeper: None,
            is_put_away: false,
            forgets_kept: false,
            host_profile: None,
        };
        if text.is_none() {
            match inner.write(inner.state.clone(), [None, None]) {
                // A new unit has nothing to lose: the next change, or the next start, writes.
                Ok(_) | Err(CustodyError::Write(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut inner = inner;
        let published = RwLock::new(Arc::new(inner.custody()));
        Ok(Self { unit, inner: Mutex::new(inner), published })
    }

    /// The unit serves GREP11. Until somebody owns the unit, its control points are those of the
    /// host; then those that the owners set, at first [`Profile::Strict`].
    pub fn serve_grep11(&self, host: Profile) {
        let mut inner = self.lock();
        inner.host_profile = Some(host);
        self.follow(&mut inner);
    }

    /// Unseals the unit by the first of some secrets that opens the master keys in the state. From
    /// now on, the first secret keeps the master keys. Waits for the disk. Returns false if the
    /// state keeps no master key, or somebody has sealed the unit since its start: the unit stays
    /// sealed, if it was.
    ///
    /// # Errors
    /// [`CustodyError::OtherKeeper`] if none of these secrets keeps the master keys. The first one
    /// will, when all of them are in memory.
    pub fn keep_by(&self, secrets: &[KeepingSecret]) -> Result<bool, CustodyError> {
        let mut inner = self.lock();
        let kept = inner.keep_by(secrets);
        self.follow(&mut inner);
        kept
    }

    /// Keeps the master keys by no secret any more: the state forgets them as soon as their owners
    /// have brought them. A master key without owners stays as it is. Waits for the disk.
    ///
    /// # Errors
    /// [`CustodyError::Write`] if the state cannot be written: it keeps the master keys.
    pub fn keep_no_more(&self) -> Result<(), CustodyError> {
        let mut inner = self.lock();
        (inner.keeper, inner.forgets_kept) = (None, true);
        inner.keep_if_due()
    }

    /// Writes the state again if another program has removed or changed the file while the unit
    /// runs: without the file, the next start would not have the master keys. Another file that is
    /// there is kept beside it. Waits for the disk. Returns true if the state was written.
    ///
    /// # Errors
    /// [`CustodyError::Removed`] if a master key is not in memory, or the unit has none: then the
    /// file may be the better one. [`CustodyError::Write`] if the disk does not take the state.
    pub fn mend(&self) -> Result<bool, CustodyError> {
        let mut inner = self.lock();
        if inner.is_in_file() {
            return Ok(false);
        }
        let is_there = !matches!(inner.file.read(), Ok(None));
        if !inner.has_all() && (is_there || !inner.is_empty()) {
            return Err(CustodyError::Removed);
        }
        if is_there {
            inner.file.set_aside().map_err(CustodyError::Write)?;
        }
        inner.write_again()?;
        Ok(true)
    }

    /// True if one of some secrets opens the master keys that the state keeps. Stretches a
    /// passphrase.
    ///
    /// # Errors
    /// [`CustodyError::Unit`] if the crypto library fails.
    pub fn is_kept_by(&self, secrets: &[KeepingSecret]) -> Result<bool, CustodyError> {
        let state = self.custody().state.clone();
        let Some(kept) = state.kept else { return Ok(false) };
        for secret in secrets {
            if secret.keeper_of(&kept)?.is_some_and(|keeper| keeper.open(state.unit, &kept).is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The master keys in memory, for the program that goes on with this unit in this process: for
    /// each register whether it has one, and 32 bytes. Waits for a change that is being written.
    pub fn hand_over(&self) -> Zeroizing<Vec<u8>> {
        let inner = self.lock();
        let mut bytes = Zeroizing::new(Vec::with_capacity(HANDED_OVER));
        for key in [&inner.current, &inner.new] {
            bytes.push(u8::from(key.is_some()));
            bytes.extend_from_slice(key.as_ref().map_or(&[0; 32], MasterKey::bytes).as_slice());
        }
        bytes
    }

    /// Takes over the output of [`Self::hand_over`].
    ///
    /// # Errors
    /// [`CustodyError`] if these are not the master keys of the unit.
    pub fn take_over(&self, bytes: &[u8]) -> Result<(), CustodyError> {
        let mut inner = self.lock();
        let (keys, _) = bytes.as_chunks::<33>();
        for (register, [has_key, bytes @ ..]) in
            [RegisterName::Current, RegisterName::New].into_iter().zip(keys)
        {
            if *has_key != 0 {
                let mut key = MasterKey::zeros();
                key.bytes_mut().copy_from_slice(bytes);
                inner.put(register, key)?;
            }
        }
        self.follow(&mut inner);
        Ok(())
    }

    /// Unseals the unit by its master key in a file. A unit that nobody owns, and that never had
    /// owners, takes the master key if it has none. Waits for the disk.
    ///
    /// # Errors
    /// [`CustodyError::OtherMasterKey`] if the unit has another master key, and
    /// [`CustodyError::NeedsOwners`] if it has none and only owners may load one. After
    /// [`CustodyError::Write`], the unit has the master key, and the state is not on the disk.
    pub fn unseal_by_file(&self, key: MasterKey) -> Result<(), CustodyError> {
        let mut inner = self.lock();
        let pattern = key.pattern();
        let unsealed = match inner.state.current.pattern() {
            Some(has) if has != pattern => Err(CustodyError::OtherMasterKey { has, file: pattern }),
            Some(_) => inner.put(RegisterName::Current, key),
            None => inner.start_with_file(key),
        };
        self.follow(&mut inner);
        unsealed
    }

    /// Makes the first master key of a unit that nobody owns, which a secret keeps. Waits for the
    /// disk.
    ///
    /// # Errors
    /// [`CustodyError::NeedsOwners`] if only owners may load a master key, and
    /// [`CustodyError::NotKept`] if the master key would be lost at the next start.
    pub fn make_master_key(&self) -> Result<(), CustodyError> {
        let mut inner = self.lock();
        inner.needs_keeper()?;
        inner.start_with(MasterKey::generate()?)?;
        self.follow(&mut inner);
        Ok(())
    }

    /// Makes the next master key of a unit that nobody owns, in the new register. Nothing happens
    /// if there is one. Waits for the disk.
    ///
    /// # Errors
    /// The errors of [`Self::make_master_key`], and [`Refusal::Sealed`].
    pub fn make_next_master_key(&self) -> Result<(), CustodyError> {
        let mut inner = self.lock();
        inner.make_next()?;
        self.follow(&mut inner);
        Ok(())
    }

    /// Puts the next master key of a unit that nobody owns in force. Waits for the disk.
    ///
    /// # Errors
    /// [`CustodyError::NeedsOwners`] if owners must sign a command for that.
    pub fn activate_next_master_key(&self) -> Result<(), CustodyError> {
        let mut inner = self.lock();
        inner.activate_next()?;
        self.follow(&mut inner);
        Ok(())
    }

    /// Gives up the next master key of a unit that nobody owns. Waits for the disk.
    ///
    /// # Errors
    /// [`CustodyError::NeedsOwners`] if owners must sign a command for that.
    pub fn forget_next_master_key(&self) -> Result<(), CustodyError> {
        let mut inner = self.lock();
        inner.forget_next()?;
        self.follow(&mut inner);
        Ok(())
    }

    /// The custody after the last change. Never waits for the disk.
    pub fn custody(&self) -> Arc<Custody> {
        Arc::clone(&self.published.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The importer key, signed by the unit: see [`Importer::read`](super::Importer::read). It
    /// stays the same until the unit has all parts that it waits for, or the process ends. Waits
    /// for a change that is being written.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the crypto library fails.
    pub fn importer(&self) -> Result<String, UnitError> {
        let mut inner = self.lock();
        let unit = inner.state.unit;
        if inner.importer.is_none() {
            inner.importer = Some(OwnImporter::generate(unit)?);
        }
        let importer = inner.importer.as_ref().ok_or(UnitError::Crypto("make an importer key"))?;
        importer.signed_by(&inner.state.key)
    }

    /// Checks that the unit would carry out a command now.
    ///
    /// # Errors
    /// [`CustodyError::Refused`] says why not.
    pub fn check(&self, signed: &SignedCommand, now: u64) -> Result<(), CustodyError> {
        let inner = self.lock();
        inner.state.apply(signed, inner.surroundings(now))?;
        Ok(())
    }

    /// Carries out a command. Before an activation the caller has wrapped all blobs by the new
    /// master key: the unit does not know who has blobs. Waits for the disk.
    ///
    /// # Errors
    /// [`CustodyError`] says why the command was refused, or that its state cannot be written.
    pub fn command(&self, signed: &SignedCommand, now: u64) -> Result<Done, CustodyError> {
        let mut inner = self.lock();
        let (state, effect) = inner.state.apply(signed, inner.surroundings(now))?;
        let done = inner.carry_out(state, effect)?;
        self.follow(&mut inner);
        Ok(done)
    }

    /// Takes a part or share that its owner has encrypted to the importer key. Waits for the disk.
    ///
    /// # Errors
    /// [`CustodyError`] says why the piece is not one that the unit waits for.
    pub fn take(&self, sealed: &[u8]) -> Result<Taken, CustodyError> {
        let mut inner = self.lock();
        inner.await_pieces();
        let opened = inner.importer.as_ref().and_then(|importer| importer.open(sealed));
        let (aim, piece) = opened.ok_or_else(|| inner.no_such_importer())?;
        let taken = inner.take(aim, piece);
        // The unit is unsealed even if the disk does not take the kept master keys.
        let kept = inner.keep_if_due();
        self.follow(&mut inner);
        kept.and(taken)
    }

    /// Takes all master keys out of memory, until their owners bring their parts again. Waits for a
    /// change that is being written.
    pub fn seal(&self) {
        let mut inner = self.lock();
        inner.forget();
        inner.is_put_away = true;
        self.follow(&mut inner);
    }

    /// Gives the unit the master keys that it should have, and publishes the custody.
    fn follow(&self, inner: &mut Inner) {
        inner.follow(&self.unit);
        let custody = Arc::new(inner.custody());
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = custody;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unawaited {
    fn told(self, pattern: &Pattern) -> String {
        let piece = format!("the part or share with the pattern {pattern}");
        match self {
            Self::Nothing => {
                format!(
                    "{piece} is not one that the unit waits for: the unit has its master key, and needs no part"
                )
            }
            Self::NothingToLoad => format!(
                "{piece} is not one that the unit waits for: no parts are to be loaded now; an administrator names the parts first, again after each start: keyward unit load"
            ),
            Self::Other => format!(
                "{piece} is not one that the unit waits for; to see the patterns of those: keyward unit status"
            ),
            Self::ToLoad => format!(
                "the unit waits for {piece} to load the new register, and it was not brought for that; if the load was agreed, add --load (for an encrypted part: to keyward unit part encrypt)"
            ),
            Self::ToUnseal => format!(
                "the unit waits for {piece} to get a master key back that it has had, not to load one; bring it without --load"
            ),
        }
    }
}

impl fmt::Debug for Custodian {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Custodian({})", self.custody().state.unit())
    }
}

/// Reason why a unit does not wait for a part or share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unawaited {
    /// The unit waits for nothing.
    Nothing,
    /// The piece is to load the new register, and no command says so.
    NothingToLoad,
    /// The unit waits for others.
    Other,
    /// The unit waits for this piece to load the new register, and its owner has not agreed.
    ToLoad,
    /// The unit waits for this piece, but not to load the new register.
    ToUnseal,
}

/// Reason why a unit did not do what it was asked.
#[derive(Debug, Error)]
pub enum CustodyError {
    /// Another program has written the file.
    #[error(
        "the state of the unit was altered by another program since the unit wrote it: somebody may have made himself an administrator; restore the state from a backup"
    )]
    Altered,
    /// The file is damaged.
    #[error(
        "the state of the unit is damaged, or of another version of the program; restore it from a backup"
    )]
    Damaged,
    /// The master key of the parts can be guessed.
    #[error(
        "the parts make a master key whose bytes follow a pattern, so it can be guessed; make new, random parts"
    )]
    Guessable,
    /// Only the owners of the unit may do this.
    #[error(
        "the unit has owners, or had some until it was zeroized: only commands that they sign change its master keys; see docs/ceremony.md"
    )]
    NeedsOwners,
    /// No secret keeps the master keys, which would be lost at the next start.
    #[error(
        "no secret keeps the master keys of the unit for the next start; set unseal-key or unseal-passphrase in section [embedded] of the configuration, or give the unit owners: keyward unit claim"
    )]
    NotKept,
    /// The unit waits for no such part.
    #[error("{}", .1.told(.0))]
    NotAwaited(Pattern, Unawaited),
    /// The piece was encrypted to another key, and the unit waits for none.
    #[error("this unit, {0}, waits for no part: it has its master key already, or none is to be loaded")]
    NoneAwaited(UnitId),
    /// The piece was encrypted to another key.
    #[error(
        "the part was not encrypted to the present importer key of this unit, {0}: it is for another unit, or for this one before its last start or before its last parts were complete; if it is for this unit, encrypt it again to the output of: keyward unit importer"
    )]
    OtherImporter(UnitId),
    /// Another secret keeps the master keys.
    #[error(
        "the secret does not open the master keys that the unit keeps: it is another secret, or the state was altered"
    )]
    OtherKeeper,
    /// The file has another master key than the unit.
    #[error("the unit has the master key {has}, and the file has {file}")]
    OtherMasterKey {
        /// Pattern of the master key of the unit.
        has: Pattern,
        /// Pattern of the master key in the file.
        file: Pattern,
    },
    /// The pieces do not make the master key of the register.
    #[error("the parts do not make the master key of the register; bring all of them again")]
    OtherSum,
    /// Another program has removed or changed the file.
    #[error(
        "the state of the unit was removed or changed by another program while the unit runs; if somebody has restored it, restart the daemon; otherwise restore it from a backup, or have the owners bring their parts: then the unit writes its state again"
    )]
    Removed,
    /// The command breaks a rule.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The crypto library failed.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The state cannot be written.
    #[error("cannot write the state of the unit: {0}")]
    Write(#[source] io::Error),
}

/// Length of the output of [`Custodian::hand_over`], in bytes.
pub const HANDED_OVER: usize = 2 * 33;

#[cfg(test)]
mod tests;

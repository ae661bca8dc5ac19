//! The custodian of a unit: carries out commands, collects parts, and keeps state and unit in step.
//!
//! Each change is on the disk before the unit follows. A process that is killed in between starts
//! with the state after the change, or with the one before.

use core::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aws_lc_rs::hmac;
use thiserror::Error;
use zeroize::Zeroizing;

use super::command::RegisterName;
use super::importer::{Aim, OwnImporter, Piece};
use super::keeping::{Keeper, KeepingSecret};
use super::part::{self, Part};
use super::pattern::Pattern;
use super::person::Person;
use super::register::{Contents, Origin, Register, SealedShare};
use super::rules::{Effect, Refusal, Surroundings};
use super::shares::{self, Share};
use super::signed::SignedCommand;
use super::state::State;
use crate::error::UnitError;
use crate::master_key::{MasterKey, WrappingKeys};
use crate::unit::Unit;

/// The place of the state of a unit.
pub trait StateFile: Send {
    /// Replaces the file: after a fault, the file is the old one or the new one. The file is on the
    /// disk when the call returns. The text contains the private key of the unit.
    ///
    /// # Errors
    /// The error of the system; the old file stays.
    fn replace(&self, text: &str) -> io::Result<()>;
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
    /// Parts and shares that the unit waits for: the register, how its master key is put together,
    /// and the patterns of those that have arrived.
    pub awaited: Vec<(RegisterName, Origin, Vec<Pattern>)>,
}

struct Inner {
    file: Box<dyn StateFile>,
    state: State,
    /// The line of the file that the MAC authenticates, and the MAC, until the master key is there.
    unverified: Option<(Zeroizing<String>, Option<[u8; 32]>)>,
    current: Option<MasterKey>,
    new: Option<MasterKey>,
    /// Parts of the new register, after a command to load it.
    loading: Option<Collection>,
    /// Parts of the registers whose master keys are not in memory.
    unsealing: Vec<(RegisterName, Collection)>,
    importer: Option<OwnImporter>,
    keeper: Option<Keeper>,
}

/// Parts or shares that have arrived.
struct Collection {
    origin: Origin,
    pieces: Vec<Piece>,
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
    /// [`CustodyError`] if the text is damaged, or a new state cannot be written.
    pub fn open(unit: Arc<Unit>, text: Option<&str>, file: Box<dyn StateFile>) -> Result<Self, CustodyError> {
        unit.seal();
        let (state, unverified) = match text {
            Some(text) => {
                let (state, line, mac) = read(text).ok_or(CustodyError::Damaged)?;
                let has_key = state.current != Register::Empty || state.new != Register::Empty;
                (state, has_key.then_some((line, mac)))
            }
            None => (State::new()?, None),
        };
        let inner = Inner {
            file,
            state,
            unverified,
            current: None,
            new: None,
            loading: None,
            unsealing: Vec::new(),
            importer: None,
            keeper: None,
        };
        if text.is_none() {
            inner.write(inner.state.clone(), [None, None])?;
        }
        let mut inner = inner;
        let published = RwLock::new(Arc::new(inner.custody()));
        Ok(Self { unit, inner: Mutex::new(inner), published })
    }

    /// Unseals the unit by a secret that keeps its master keys, and keeps them by it from now on.
    /// Waits for the disk. Returns false if the state keeps no master key: the unit stays sealed,
    /// if it was.
    ///
    /// # Errors
    /// [`CustodyError::OtherKeeper`] if another secret keeps the master keys. This secret replaces
    /// the other one when the owners have brought their parts.
    pub fn keep_by(&self, secret: &KeepingSecret) -> Result<bool, CustodyError> {
        let mut inner = self.lock();
        let Some(kept) = inner.state.kept.clone() else {
            inner.keeper = Some(secret.new_keeper()?);
            let is_open = inner.current.is_some() || inner.new.is_some();
            if is_open {
                inner.write_again()?;
            }
            return Ok(is_open);
        };
        let keeper = secret.keeper_of(&kept)?;
        let opened = keeper.and_then(|keeper| Some((keeper.open(inner.state.unit, &kept)?, keeper)));
        let Some(([current, new], keeper)) = opened else {
            // Once the owners have brought their parts, this secret keeps the master keys.
            inner.keeper = Some(secret.new_keeper()?);
            inner.state.kept = None;
            return Err(CustodyError::OtherKeeper);
        };
        inner.keeper = Some(keeper);
        for (register, key) in [(RegisterName::Current, current), (RegisterName::New, new)] {
            if let Some(key) = key {
                inner.put(register, key)?;
            }
        }
        self.follow(&mut inner);
        Ok(true)
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

    /// Unseals the unit by its master key in a file. A unit without a master key takes it: such a
    /// master key has no owners.
    ///
    /// # Errors
    /// [`CustodyError::OtherMasterKey`] if the unit has another master key.
    pub fn unseal_by_file(&self, key: MasterKey) -> Result<(), CustodyError> {
        let mut inner = self.lock();
        let pattern = key.pattern();
        match inner.state.current.pattern() {
            Some(has) if has != pattern => return Err(CustodyError::OtherMasterKey { has, file: pattern }),
            Some(_) => inner.put(RegisterName::Current, key)?,
            None => {
                let contents =
                    Contents { pattern, wkid: key.wkid(), origin: Origin::File, shares: Vec::new() };
                let state = State { current: Register::Valid(contents), ..inner.state.clone() };
                inner.state = inner.write(state, [Some(&key), inner.new.as_ref()])?;
                inner.current = Some(key);
            }
        }
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

    /// Checks that the unit would carry out a command now, if no blob is left behind.
    ///
    /// # Errors
    /// [`CustodyError::Refused`] says why not.
    pub fn check(&self, signed: &SignedCommand, now: u64) -> Result<(), CustodyError> {
        let inner = self.lock();
        inner.state.apply(signed, inner.surroundings(now, 0))?;
        Ok(())
    }

    /// Carries out a command. `left_behind` is the number of blobs that only the master key in
    /// force unwraps. Waits for the disk.
    ///
    /// # Errors
    /// [`CustodyError`] says why the command was refused, or that its state cannot be written.
    pub fn command(&self, signed: &SignedCommand, now: u64, left_behind: u64) -> Result<Done, CustodyError> {
        let mut inner = self.lock();
        let (state, effect) = inner.state.apply(signed, inner.surroundings(now, left_behind))?;
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
        let (aim, piece) = opened.ok_or(CustodyError::OtherImporter)?;
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

impl Inner {
    fn custody(&mut self) -> Custody {
        self.await_pieces();
        let loading = self.loading.iter().map(|collection| (RegisterName::New, collection));
        let unsealing = self.unsealing.iter().map(|(register, collection)| (*register, collection));
        let awaited = unsealing.chain(loading).map(|(register, collection)| {
            let arrived = collection.pieces.iter().map(Piece::pattern).collect();
            (register, collection.origin.clone(), arrived)
        });
        Custody {
            awaited: awaited.collect(),
            is_sealed: self.state.current != Register::Empty && self.current.is_none(),
            state: self.state.clone(),
        }
    }

    fn surroundings(&self, now: u64, left_behind: u64) -> Surroundings {
        let (has_current, has_new) = (self.current.is_some(), self.new.is_some());
        Surroundings { now, has_current, has_new, left_behind }
    }

    fn carry_out(&mut self, state: State, effect: Effect) -> Result<Done, CustodyError> {
        match effect {
            Effect::None => self.state = self.write(state, [self.current.as_ref(), self.new.as_ref()])?,
            Effect::Activate => {
                self.state = self.write(state, [self.new.as_ref(), None])?;
                self.current = self.new.take();
            }
            Effect::Clear(RegisterName::New) => {
                self.state = self.write(state, [self.current.as_ref(), None])?;
                (self.new, self.loading) = (None, None);
            }
            Effect::Clear(RegisterName::Current) => {
                self.state = self.write(state, [None, self.new.as_ref()])?;
                (self.current, self.unverified) = (None, None);
            }
            Effect::Expect(origin) => {
                self.state = self.write(state, [self.current.as_ref(), self.new.as_ref()])?;
                self.loading = Some(Collection { origin: origin.clone(), pieces: Vec::new() });
                return Ok(Done::Expects(origin));
            }
            Effect::Generate { needed, owners } => return self.generate(state, needed, owners),
            Effect::Zeroize => {
                // Another identity: no command of before is one for this unit.
                self.state = self.write(State::new()?, [None, None])?;
                self.forget();
                self.unverified = None;
            }
        }
        Ok(Done::Command)
    }

    /// Makes a master key for the new register, and splits it among owners.
    fn generate(&mut self, state: State, needed: u8, owners: Vec<Person>) -> Result<Done, CustodyError> {
        let key = MasterKey::generate()?;
        // The text of a command has at most 16 owners.
        let number = u8::try_from(owners.len()).unwrap_or(u8::MAX);
        let shares = shares::split(&key, needed, number)?;
        let patterns = shares.iter().map(|share| (share.index(), share.pattern())).collect();
        let origin = Origin::Shares { needed, shares: patterns };
        let seal = |(owner, share): (Person, Share)| {
            let (index, pattern) = (share.index(), share.pattern());
            let sealed = state.seal_share(share, &owner.key)?;
            Ok::<_, UnitError>(SealedShare { owner, needed, index, pattern, sealed })
        };
        let sealed: Vec<_> = owners.into_iter().zip(shares).map(seal).collect::<Result<_, _>>()?;
        let (pattern, wkid, shares) = (key.pattern(), key.wkid(), sealed.clone());
        let state = state.loaded(Contents { pattern, wkid, origin, shares })?;
        self.state = self.write(state, [self.current.as_ref(), Some(&key)])?;
        self.new = Some(key);
        Ok(Done::Shares(sealed))
    }

    fn take(&mut self, aim: Aim, piece: Piece) -> Result<Taken, CustodyError> {
        let pattern = piece.pattern();
        let belongs = |collection: &Collection| collection.origin.patterns().contains(&pattern);
        let (register, collection) = match aim {
            Aim::Load => (RegisterName::New, self.loading.as_mut().filter(|loading| belongs(loading))),
            Aim::Unseal => {
                let found = self.unsealing.iter_mut().find(|(_, collection)| belongs(collection));
                let (register, collection) = found.ok_or(CustodyError::NotAwaited(pattern))?;
                (*register, Some(collection))
            }
        };
        let collection = collection.ok_or(CustodyError::NotAwaited(pattern))?;
        if collection.pieces.iter().all(|other| other.pattern() != pattern) {
            collection.pieces.push(piece);
        }
        let missing = collection.origin.needed().saturating_sub(collection.pieces.len());
        if missing > 0 {
            return Ok(Taken { register, pattern, missing });
        }
        let (origin, key) = (collection.origin.clone(), collection.combine());
        // The pieces stay until the master key is in its register: the disk may be full now.
        let put = key.ok_or(CustodyError::OtherSum).and_then(|key| match aim {
            Aim::Load => self.load(origin, key),
            Aim::Unseal => self.put(register, key),
        });
        match (&put, aim) {
            (Err(CustodyError::Write(_)), _) => {
                // The owner of the last piece brings it again.
                self.collection(aim, register).map(|collection| collection.pieces.pop());
            }
            (_, Aim::Load) => self.loading = None,
            (_, Aim::Unseal) => self.unsealing.retain(|(waiting, _)| *waiting != register),
        }
        put?;
        self.await_pieces();
        if self.unsealing.is_empty() && self.loading.is_none() {
            self.importer = None;
        }
        Ok(Taken { register, pattern, missing })
    }

    fn collection(&mut self, aim: Aim, register: RegisterName) -> Option<&mut Collection> {
        match aim {
            Aim::Load => self.loading.as_mut(),
            Aim::Unseal => {
                let mut unsealing = self.unsealing.iter_mut();
                unsealing.find(|(waiting, _)| *waiting == register).map(|(_, collection)| collection)
            }
        }
    }

    /// Loads the new register with a master key of parts or shares.
    fn load(&mut self, origin: Origin, key: MasterKey) -> Result<(), CustodyError> {
        if key.follows_a_pattern() {
            return Err(CustodyError::Guessable);
        }
        let contents = Contents { pattern: key.pattern(), wkid: key.wkid(), origin, shares: Vec::new() };
        let state = self.state.loaded(contents)?;
        self.state = self.write(state, [self.current.as_ref(), Some(&key)])?;
        self.new = Some(key);
        Ok(())
    }

    /// Puts the master key of a register into memory, if it is the one of the register.
    fn put(&mut self, register: RegisterName, key: MasterKey) -> Result<(), CustodyError> {
        let expected = match register {
            RegisterName::Current => self.state.current.pattern(),
            RegisterName::New => self.state.new.pattern(),
        };
        if expected != Some(key.pattern()) {
            return Err(CustodyError::OtherSum);
        }
        // The MAC is one under the master key in force, or else under the one that is loaded.
        let is_of_mac = register == RegisterName::Current || self.state.current == Register::Empty;
        if let Some((line, mac)) = self.unverified.as_ref().filter(|_| is_of_mac) {
            let state_key = WrappingKeys::derive(&key).unit_state;
            let is_genuine = mac.is_some_and(|mac| hmac::verify(&state_key, line.as_bytes(), &mac).is_ok());
            if !is_genuine {
                return Err(CustodyError::Altered);
            }
            self.unverified = None;
        }
        match register {
            RegisterName::Current => self.current = Some(key),
            RegisterName::New => self.new = Some(key),
        }
        Ok(())
    }

    /// Begins to wait for the parts of each register whose master key is not in memory, and ends to
    /// wait for others.
    fn await_pieces(&mut self) {
        let registers = [
            (RegisterName::Current, &self.state.current, self.current.is_none()),
            (RegisterName::New, &self.state.new, self.new.is_none()),
        ];
        for (name, register, is_missing) in registers {
            let origin = register.contents().map(|contents| &contents.origin);
            let origin = origin.filter(|origin| is_missing && origin.needed() > 0);
            let waits = |(waiting, collection): &(RegisterName, Collection)| {
                *waiting == name && Some(&collection.origin) == origin
            };
            if !self.unsealing.iter().any(waits) {
                self.unsealing.retain(|(waiting, _)| *waiting != name);
                let collection =
                    origin.map(|origin| Collection { origin: origin.clone(), pieces: Vec::new() });
                self.unsealing.extend(collection.map(|collection| (name, collection)));
            }
        }
    }

    /// Writes a state for a unit that has these master keys then: of the current register and of
    /// the new one. Returns the state as it is on the disk.
    fn write(&self, state: State, keys: [Option<&MasterKey>; 2]) -> Result<State, CustodyError> {
        let kept = match (&self.keeper, keys) {
            (Some(keeper), [Some(_), _] | [_, Some(_)]) => Some(keeper.keep(state.unit, keys)?),
            _ => None,
        };
        let state = State { kept, ..state };
        let line = state.to_json();
        let mac = match keys[0].or(keys[1]) {
            Some(key) => {
                let state_key = WrappingKeys::derive(key).unit_state;
                base16ct::lower::encode_string(hmac::sign(&state_key, line.as_bytes()).as_ref())
            }
            None => NO_MAC.to_owned(),
        };
        let text = Zeroizing::new(format!("{}\n{MAC}{mac}\n", *line));
        self.file.replace(&text).map_err(CustodyError::Write)?;
        Ok(state)
    }

    /// Writes the present state again, for another secret that keeps the master keys.
    fn write_again(&mut self) -> Result<(), CustodyError> {
        self.state = self.write(self.state.clone(), [self.current.as_ref(), self.new.as_ref()])?;
        Ok(())
    }

    /// Writes the master keys encrypted, if there is a secret for that and they are not kept yet.
    fn keep_if_due(&mut self) -> Result<(), CustodyError> {
        match self.keeper.is_some() && self.state.kept.is_none() && self.current.is_some() {
            true => self.write_again(),
            false => Ok(()),
        }
    }

    /// Forgets all master keys, parts and shares.
    fn forget(&mut self) {
        (self.current, self.new, self.loading, self.importer) = (None, None, None, None);
        self.unsealing.clear();
    }

    /// Gives the unit the master keys that it should have: the one in force, and the next one once
    /// the quorum has agreed to it.
    fn follow(&self, unit: &Unit) {
        let next = self.new.as_ref().filter(|_| matches!(self.state.new, Register::Committed(_)));
        match &self.current {
            None if unit.is_sealed() => {}
            None => unit.seal(),
            Some(key) if unit.wkid() == Some(key.wkid()) => {}
            Some(key) if unit.other_wkid() == Some(key.wkid()) => unit.activate(),
            Some(key) => unit.unseal(key),
        }
        let has = unit.other_wkid();
        if has.is_some() && has != next.map(MasterKey::wkid) {
            unit.forget_next();
        }
        if let Some(next) = next.filter(|_| self.current.is_some()) {
            unit.accept(next);
        }
    }
}

impl Collection {
    /// The master key of the pieces, once there are enough.
    fn combine(&self) -> Option<MasterKey> {
        let (mut parts, mut shares) = (Vec::<&Part>::new(), Vec::<&Share>::new());
        for piece in &self.pieces {
            match piece {
                Piece::Part(part) => parts.push(part),
                Piece::Share(share) => shares.push(share),
            }
        }
        match &self.origin {
            Origin::Parts(expected) if parts.len() == expected.len() => Some(part::combine(parts)),
            Origin::Shares { needed, .. } => {
                shares.truncate(usize::from(*needed));
                shares::combine(&shares)
            }
            Origin::Parts(_) | Origin::File => None,
        }
    }
}

/// The line of the state, the state, and its MAC. `None` if the text is not a file of a state.
fn read(text: &str) -> Option<(State, Zeroizing<String>, Option<[u8; 32]>)> {
    let (line, mac) = text.strip_suffix('\n')?.split_once('\n')?;
    let mac = match mac.strip_prefix(MAC)? {
        NO_MAC => None,
        digits => {
            let mut mac = [0; 32];
            let read = base16ct::lower::decode(digits, &mut mac).ok()?.len();
            Some(mac).filter(|mac| mac.len() == read)
        }
    };
    Some((State::from_json(line).ok()?, Zeroizing::new(line.to_owned()), mac))
}

impl fmt::Debug for Custodian {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Custodian({})", self.custody().state.unit())
    }
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
    /// The unit waits for no such part.
    #[error("the part or share with the pattern {0} is not one that the unit waits for")]
    NotAwaited(Pattern),
    /// The piece was encrypted to another key.
    #[error(
        "the part was not encrypted to the present importer key of the unit, which changes when the unit starts; encrypt it again"
    )]
    OtherImporter,
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
const MAC: &str = "mac ";
const NO_MAC: &str = "-";

#[cfg(test)]
mod tests;

//! The custody behind the lock of the custodian: how commands and parts change it.

use super::super::command::RegisterName;
use super::super::importer::{Aim, OwnImporter, Piece};
use super::super::keeping::Keeper;
use super::super::part::{self, Part};
use super::super::person::Person;
use super::super::register::{Contents, Origin, Register, SealedShare};
use super::super::rules::{Effect, Refusal, Surroundings};
use super::super::shares::{self, Share};
use super::super::state::State;
use super::authenticated::Authenticated;
use super::{Custody, CustodyError, Done, StateFile, Taken, Unawaited};
use crate::error::UnitError;
use crate::master_key::MasterKey;
use crate::profile::Profile;
use crate::unit::Unit;

/// Custody of a unit: the state, the master keys that are in memory, and the parts on their way.
pub(super) struct Inner {
    pub(super) file: Box<dyn StateFile>,
    pub(super) state: State,
    /// The file as it was read, until this process has written another one.
    pub(super) read: Option<Authenticated>,
    pub(super) current: Option<MasterKey>,
    pub(super) new: Option<MasterKey>,
    /// Parts of the new register, after a command to load it.
    pub(super) loading: Option<Collection>,
    /// Parts of the registers whose master keys are not in memory.
    pub(super) unsealing: Vec<(RegisterName, Collection)>,
    pub(super) importer: Option<OwnImporter>,
    pub(super) keeper: Option<Keeper>,
    /// True if somebody has sealed the unit: only its owners open it again before the next start.
    pub(super) is_put_away: bool,
    /// True if no secret of the host is to keep master keys any more.
    pub(super) forgets_kept: bool,
    /// The control points of the host for a unit that nobody owns; `None` if the unit does not
    /// serve GREP11.
    pub(super) host_profile: Option<Profile>,
}

/// Parts or shares that have arrived.
pub(super) struct Collection {
    origin: Origin,
    pieces: Vec<Piece>,
}

impl Inner {
    pub(super) fn custody(&mut self) -> Custody {
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
            profile: self.profile(),
        }
    }

    pub(super) fn surroundings(&self, now: u64) -> Surroundings {
        Surroundings {
            now,
            has_current: self.current.is_some(),
            has_new: self.new.is_some(),
            serves_grep11: self.host_profile.is_some(),
        }
    }

    pub(super) fn carry_out(&mut self, state: State, effect: Effect) -> Result<Done, CustodyError> {
        match effect {
            Effect::None => self.adopt(self.write(state, [self.current.as_ref(), self.new.as_ref()])?),
            Effect::Activate => {
                self.adopt(self.write(state, [self.new.as_ref(), None])?);
                self.current = self.new.take();
            }
            Effect::Clear(RegisterName::New) => {
                self.adopt(self.write(state, [self.current.as_ref(), None])?);
                (self.new, self.loading) = (None, None);
            }
            Effect::Clear(RegisterName::Current) => {
                let state = State { kept: None, ..state };
                let new = self.new.as_ref().filter(|_| state.new != Register::Empty);
                self.adopt(self.write(state, [None, new])?);
                self.current = None;
                if self.state.new == Register::Empty {
                    (self.new, self.loading) = (None, None);
                }
            }
            Effect::Expect(origin) => {
                self.adopt(self.write(state, [self.current.as_ref(), self.new.as_ref()])?);
                self.loading = Some(Collection { origin: origin.clone(), pieces: Vec::new() });
                return Ok(Done::Expects(origin));
            }
            Effect::Generate { needed, owners } => return self.generate(state, needed, owners),
            Effect::Zeroize => {
                // Another identity: no command of before is one for this unit.
                self.adopt(self.write(State { erased: true, ..State::new()? }, [None, None])?);
                self.forget();
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
        self.adopt(self.write(state, [self.current.as_ref(), Some(&key)])?);
        self.new = Some(key);
        Ok(Done::Shares(sealed))
    }

    pub(super) fn take(&mut self, aim: Aim, piece: Piece) -> Result<Taken, CustodyError> {
        let pattern = piece.pattern();
        let belongs = |collection: &Collection| collection.origin.patterns().contains(&pattern);
        let loads = self.loading.as_ref().is_some_and(belongs);
        let unseals = self.unsealing.iter().any(|(_, collection)| belongs(collection));
        let unawaited = match aim {
            Aim::Load if unseals => Unawaited::ToUnseal,
            Aim::Load if self.loading.is_none() => Unawaited::NothingToLoad,
            Aim::Unseal if loads => Unawaited::ToLoad,
            Aim::Unseal if self.loading.is_none() && self.unsealing.is_empty() => match self.current {
                Some(_) => Unawaited::Nothing,
                None => Unawaited::NothingToLoad,
            },
            Aim::Load | Aim::Unseal => Unawaited::Other,
        };
        let found = match aim {
            Aim::Load => self.loading.as_mut().map(|loading| (RegisterName::New, loading)),
            Aim::Unseal => {
                let mut unsealing = self.unsealing.iter_mut().map(|(register, waiting)| (*register, waiting));
                unsealing.find(|(_, collection)| belongs(collection))
            }
        };
        let found = found.filter(|(_, collection)| belongs(collection));
        let (register, collection) = found.ok_or(CustodyError::NotAwaited(pattern, unawaited))?;
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
        self.is_put_away = false;
        self.await_pieces();
        if self.unsealing.is_empty() && self.loading.is_none() {
            self.importer = None;
        }
        Ok(Taken { register, pattern, missing })
    }

    /// The refusal of a piece that was not encrypted to the importer key.
    pub(super) fn no_such_importer(&self) -> CustodyError {
        let unit = self.state.unit;
        match self.loading.is_none() && self.unsealing.is_empty() {
            true => CustodyError::NoneAwaited(unit),
            false => CustodyError::OtherImporter(unit),
        }
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
        self.adopt(self.write(state, [self.current.as_ref(), Some(&key)])?);
        self.new = Some(key);
        Ok(())
    }

    /// Puts the master key of a register into memory, if it is the one of the register.
    pub(super) fn put(&mut self, register: RegisterName, key: MasterKey) -> Result<(), CustodyError> {
        let expected = match register {
            RegisterName::Current => self.state.current.pattern(),
            RegisterName::New => self.state.new.pattern(),
        };
        if expected != Some(key.pattern()) {
            return Err(CustodyError::OtherSum);
        }
        if self.read.as_ref().is_some_and(|read| !read.is_genuine(register, &key)) {
            return Err(CustodyError::Altered);
        }
        match register {
            RegisterName::Current => self.current = Some(key),
            RegisterName::New => self.new = Some(key),
        }
        Ok(())
    }

    /// Begins to wait for the parts of each register whose master key is not in memory, and ends to
    /// wait for others.
    pub(super) fn await_pieces(&mut self) {
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
    /// the new one. Returns the state as it is on the disk. The master key of each register
    /// authenticates the state: without one of them, nothing is written.
    pub(super) fn write(&self, state: State, keys: [Option<&MasterKey>; 2]) -> Result<State, CustodyError> {
        let [current, new] = [&state.current, &state.new].map(|register| *register != Register::Empty);
        match keys {
            [None, _] if current => return Err(Refusal::Sealed.into()),
            [_, None] if new => return Err(Refusal::NewSealed.into()),
            _ => {}
        }
        let kept = match &self.keeper {
            _ if !current && !new => None,
            Some(keeper) => Some(keeper.keep(state.unit, keys)?),
            None if self.forgets_kept && is_of_owners(&state) => None,
            None => state.kept.clone(),
        };
        let state = State { kept, ..state };
        let line = state.to_json();
        let keys = [keys[0].filter(|_| current), keys[1].filter(|_| new)];
        let text = Authenticated::text(&line, keys);
        self.file.replace(&text).map_err(CustodyError::Write)?;
        Ok(state)
    }

    /// Goes on with a state that was written.
    pub(super) fn adopt(&mut self, state: State) {
        self.state = state;
        self.read = None;
    }

    /// True if no register has a master key.
    pub(super) fn is_empty(&self) -> bool {
        self.state.current == Register::Empty && self.state.new == Register::Empty
    }

    /// True if the file has the present state. Without the master keys, the MACs are not compared.
    pub(super) fn is_in_file(&self) -> bool {
        let Ok(Some(text)) = self.file.read() else { return false };
        let line = self.state.to_json();
        match self.has_all() {
            true => *text == *Authenticated::text(&line, [self.current.as_ref(), self.new.as_ref()]),
            false => text.lines().next() == Some(&line),
        }
    }

    /// Writes the present state again, for another secret that keeps the master keys.
    pub(super) fn write_again(&mut self) -> Result<(), CustodyError> {
        self.adopt(self.write(self.state.clone(), [self.current.as_ref(), self.new.as_ref()])?);
        Ok(())
    }

    /// Writes the master keys encrypted, if there is a secret for that and it does not keep them
    /// yet. Forgets those that a former secret keeps, if there is no secret any more.
    pub(super) fn keep_if_due(&mut self) -> Result<(), CustodyError> {
        let is_due = match (&self.keeper, &self.state.kept) {
            (Some(keeper), Some(kept)) => !keeper.keeps(kept),
            (Some(_), None) => true,
            (None, kept) => kept.is_some() && self.forgets_kept && is_of_owners(&self.state),
        };
        if is_due && self.has_all() { self.write_again() } else { Ok(()) }
    }

    /// True if the master key of each register is in memory.
    pub(super) fn has_all(&self) -> bool {
        let current = self.state.current == Register::Empty || self.current.is_some();
        let new = self.state.new == Register::Empty || self.new.is_some();
        current && new && (self.current.is_some() || self.new.is_some())
    }

    /// Forgets all master keys, parts and shares.
    pub(super) fn forget(&mut self) {
        (self.current, self.new, self.loading, self.importer) = (None, None, None, None);
        self.unsealing.clear();
    }

    /// The control points: those of the host if nobody owns the unit, otherwise those that the
    /// owners have set.
    pub(super) fn profile(&self) -> Profile {
        match self.host_profile {
            None => Profile::Tls,
            Some(host) if self.state.is_unowned() => host,
            Some(_) => self.state.profile.unwrap_or(Profile::Strict),
        }
    }

    /// Gives the unit its control points, and the master keys that it should have: the one in
    /// force, and the next one once the quorum has agreed to it.
    pub(super) fn follow(&self, unit: &Unit) {
        unit.set_profile(self.profile());
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
            Origin::Parts(_) | Origin::Machine => None,
        }
    }
}

/// True if owners can bring the master key of each register again.
fn is_of_owners(state: &State) -> bool {
    let mut keys = [&state.current, &state.new].into_iter().filter_map(|register| register.contents());
    keys.all(|key| key.origin.needed() > 0)
}

//! Master keys of a unit that nobody owns: from a file, or made by the unit. A secret of the host
//! keeps them for the next start.

use super::super::command::RegisterName;
use super::super::keeping::KeepingSecret;
use super::super::register::{Contents, Origin, Register};
use super::super::rules::Refusal;
use super::super::state::State;
use super::CustodyError;
use super::inner::Inner;
use crate::master_key::MasterKey;

impl Inner {
    /// Unseals by the first secret that opens the kept master keys, and keeps them by the first
    /// one.
    pub(super) fn keep_by(&mut self, secrets: &[KeepingSecret]) -> Result<bool, CustodyError> {
        let Some(first) = secrets.first().filter(|_| !self.is_put_away) else { return Ok(false) };
        self.forgets_kept = false;
        let Some(kept) = self.state.kept.clone() else {
            return self.keep_anew(first);
        };
        for (place, secret) in secrets.iter().enumerate() {
            let Some(keeper) = secret.keeper_of(&kept)? else { continue };
            let Some(keys) = keeper.open(self.state.unit, &kept) else { continue };
            for (register, key) in [RegisterName::Current, RegisterName::New].into_iter().zip(keys) {
                if let Some(key) = key {
                    self.put(register, key)?;
                }
            }
            if place > 0 {
                return self.keep_anew(first);
            }
            self.keeper = Some(keeper);
            return Ok(true);
        }
        match self.keep_anew(first)? {
            true => Ok(true),
            false => Err(CustodyError::OtherKeeper),
        }
    }

    /// Keeps the master keys by a secret from now on, or as soon as all of them are in memory.
    fn keep_anew(&mut self, secret: &KeepingSecret) -> Result<bool, CustodyError> {
        self.keeper = Some(secret.new_keeper()?);
        self.keep_if_due()?;
        Ok(self.has_all())
    }

    /// The first master key of a unit that nobody owns, made by the unit.
    pub(super) fn start_with(&mut self, key: MasterKey) -> Result<(), CustodyError> {
        let state = self.with_first(&key)?;
        self.adopt(self.write(state, [Some(&key), self.new.as_ref()])?);
        self.current = Some(key);
        Ok(())
    }

    /// The first master key of a unit that nobody owns, from a file that each start reads. So the
    /// unit has it also if the disk does not take the state.
    pub(super) fn start_with_file(&mut self, key: MasterKey) -> Result<(), CustodyError> {
        let state = self.with_first(&key)?;
        let written = self.write(state.clone(), [Some(&key), self.new.as_ref()]);
        let (state, written) = match written {
            Ok(state) => (state, Ok(())),
            Err(error @ CustodyError::Write(_)) => (state, Err(error)),
            Err(error) => return Err(error),
        };
        self.adopt(state);
        self.current = Some(key);
        written
    }

    /// The state with a first master key.
    fn with_first(&self, key: &MasterKey) -> Result<State, CustodyError> {
        self.needs_nobody()?;
        match self.state.current.pattern() {
            Some(pattern) => Err(Refusal::InForce(pattern).into()),
            None => Ok(State { current: Register::Valid(contents_of(key)), ..self.state.clone() }),
        }
    }

    pub(super) fn make_next(&mut self) -> Result<(), CustodyError> {
        self.needs_nobody()?;
        self.needs_keeper()?;
        if self.current.is_none() {
            return Err(Refusal::Sealed.into());
        }
        if self.state.new != Register::Empty {
            return Ok(());
        }
        let key = MasterKey::generate()?;
        let state = State { new: Register::Committed(contents_of(&key)), ..self.state.clone() };
        self.adopt(self.write(state, [self.current.as_ref(), Some(&key)])?);
        self.new = Some(key);
        Ok(())
    }

    pub(super) fn activate_next(&mut self) -> Result<(), CustodyError> {
        self.needs_nobody()?;
        let Register::Committed(contents) = &self.state.new else {
            return Err(Refusal::NotCommitted.into());
        };
        if self.new.is_none() {
            return Err(Refusal::NewSealed.into());
        }
        let current = Register::Valid(contents.clone());
        let state = State { current, new: Register::Empty, ..self.state.clone() };
        self.adopt(self.write(state, [self.new.as_ref(), None])?);
        self.current = self.new.take();
        Ok(())
    }

    pub(super) fn forget_next(&mut self) -> Result<(), CustodyError> {
        self.needs_nobody()?;
        if self.current.is_none() {
            return Err(Refusal::Sealed.into());
        }
        let state = State { new: Register::Empty, ..self.state.clone() };
        self.adopt(self.write(state, [self.current.as_ref(), None])?);
        self.new = None;
        Ok(())
    }

    fn needs_nobody(&self) -> Result<(), CustodyError> {
        match self.state.is_unowned() && !self.state.is_erased() {
            true => Ok(()),
            false => Err(CustodyError::NeedsOwners),
        }
    }

    pub(super) fn needs_keeper(&self) -> Result<(), CustodyError> {
        if self.keeper.is_some() { Ok(()) } else { Err(CustodyError::NotKept) }
    }
}

fn contents_of(key: &MasterKey) -> Contents {
    Contents { pattern: key.pattern(), wkid: key.wkid(), origin: Origin::Machine, shares: Vec::new() }
}

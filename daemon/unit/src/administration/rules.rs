//! The rules of a unit: the effect of each command on the state, and who may command it.

use core::time::Duration;
use std::time::UNIX_EPOCH;

use thiserror::Error;

use super::command::{Instruction, MAX_ADMINISTRATORS, RegisterName, Thresholds, UnitId};
use super::pattern::Pattern;
use super::person::{Person, PersonName, Ski};
use super::register::{Contents, Origin, Register};
use super::signed::{SignatureFault, SignedCommand};
use super::state::{State, can_own};

/// The surroundings of a command.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Seconds since 1970.
    pub now: u64,
    /// True if the master key of the current register is in memory.
    pub has_current: bool,
    /// True if the master key of the new register is in memory.
    pub has_new: bool,
    /// True if the unit serves GREP11, so that its control points can be set.
    pub serves_grep11: bool,
}

/// Work that the unit has to do for a command, once the new state is on the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// The new register takes its key to the current register.
    Activate,
    /// A register is emptied.
    Clear(RegisterName),
    /// The new register waits for its parts or shares.
    Expect(Origin),
    /// The unit makes a master key, and splits it.
    Generate {
        /// Number of shares that make the key.
        needed: u8,
        /// The owners of shares 1, 2, and so on.
        owners: Vec<Person>,
    },
    /// Nothing besides the state.
    None,
    /// Everything is erased.
    Zeroize,
}

impl State {
    /// Carries out a command. Returns the state after it, and the work to do. Neither the state nor
    /// the unit is changed here.
    ///
    /// # Errors
    /// [`Refusal`] is the first rule that the command breaks.
    pub fn apply(&self, signed: &SignedCommand, here: Surroundings) -> Result<(Self, Effect), Refusal> {
        self.admit(signed, here)?;
        let mut state = self.clone();
        state.counter = signed.command().counter;
        let effect = state.carry_out(&signed.command().instruction, here)?;
        Ok((state, effect))
    }

    /// Checks everything that does not depend on what the command does.
    fn admit(&self, signed: &SignedCommand, here: Surroundings) -> Result<(), Refusal> {
        let command = signed.command();
        if command.unit != self.unit {
            return Err(Refusal::OtherUnit { of: command.unit, this: self.unit });
        }
        if command.expires <= here.now {
            return Err(Refusal::Expired(command.expires));
        }
        if command.expires > here.now.saturating_add(LONGEST_LIFE) {
            return Err(Refusal::ExpiresLate(command.expires));
        }
        let next = self.next_counter();
        if command.counter < next {
            return Err(Refusal::Repeated { counter: command.counter, next });
        }
        if command.counter > next {
            return Err(Refusal::TooEarly { counter: command.counter, next });
        }
        let is_sealed = self.is_sealed(here);
        match (&self.claim, &command.instruction) {
            (Some(secret), Instruction::Claim { administrators, thresholds }) => {
                if !signed.claims_with(secret) {
                    return Err(Refusal::NoClaimSecret);
                }
                let have = signed.count(administrators)?;
                enough(have, thresholds.signature)?;
                // The state is authenticated by the master key, if there is one.
                return if is_sealed { Err(Refusal::Sealed) } else { Ok(()) };
            }
            (Some(_), _) => return Err(Refusal::Unowned),
            (None, Instruction::Claim { .. }) => return Err(Refusal::Owned),
            (None, _) => {}
        }
        let have = signed.count(&self.administrators)?;
        enough(have, self.needed_for(&command.instruction))?;
        let may_be_sealed = match command.instruction {
            Instruction::Zeroize | Instruction::Clear(RegisterName::Current, _) => true,
            Instruction::Clear(RegisterName::New, _) => self.current == Register::Empty,
            _ => false,
        };
        match is_sealed && !may_be_sealed {
            true => Err(Refusal::Sealed),
            false => Ok(()),
        }
    }

    /// True if the master key that authenticates the state is not in memory.
    fn is_sealed(&self, here: Surroundings) -> bool {
        match (&self.current, &self.new) {
            (Register::Empty, Register::Empty) => false,
            (Register::Empty, _) => !here.has_new,
            _ => !here.has_current,
        }
    }

    /// Number of signatures that an instruction needs. To destroy needs one signature: in an
    /// emergency there is no time for a quorum. To destroy a master key that nobody can bring again
    /// needs the quorum, and an activation destroys the master key in force.
    pub fn needed_for(&self, instruction: &Instruction) -> u8 {
        let is_for_good = self.current.contents().is_some_and(|key| key.origin.needed() == 0);
        match instruction {
            Instruction::Activate(_)
            | Instruction::Clear(RegisterName::Current, _)
            | Instruction::Zeroize
                if is_for_good =>
            {
                self.thresholds.signature
            }
            Instruction::AddAdministrator(_)
            | Instruction::Commit(_)
            | Instruction::GenerateShares { .. }
            | Instruction::SetControlPoints(_)
            | Instruction::SetThresholds(_) => self.thresholds.signature,
            Instruction::RemoveAdministrator { .. } => self.thresholds.revocation,
            Instruction::Claim { thresholds, .. } => thresholds.signature,
            Instruction::Activate(_)
            | Instruction::Clear(..)
            | Instruction::LoadParts(_)
            | Instruction::LoadShares { .. }
            | Instruction::Zeroize => 1,
        }
    }

    fn carry_out(&mut self, instruction: &Instruction, here: Surroundings) -> Result<Effect, Refusal> {
        match instruction {
            Instruction::Activate(pattern) => return self.activate(*pattern, here),
            Instruction::AddAdministrator(person) => self.add_administrator(person)?,
            Instruction::Claim { administrators, thresholds } => {
                if !can_own(administrators, *thresholds) {
                    return Err(Refusal::Owners);
                }
                // No quorum has agreed to the next master key.
                if self.new != Register::Empty {
                    return Err(Refusal::ChangeUnderWay);
                }
                (self.claim, self.administrators, self.thresholds) =
                    (None, administrators.clone(), *thresholds);
                // Nobody who owns the unit has set any.
                self.profile = None;
            }
            Instruction::Clear(name, pattern) => {
                let register = match name {
                    RegisterName::Current => &mut self.current,
                    RegisterName::New => &mut self.new,
                };
                if register.pattern() != Some(*pattern) {
                    return Err(Refusal::OtherPattern { register: *name, has: register.pattern() });
                }
                *register = Register::Empty;
                // No master key would authenticate the rest of the state.
                if *name == RegisterName::Current && !here.has_new {
                    self.new = Register::Empty;
                }
                return Ok(Effect::Clear(*name));
            }
            Instruction::Commit(pattern) => self.commit(*pattern, here)?,
            Instruction::GenerateShares { needed, owners } => {
                self.needs_empty_new()?;
                return Ok(Effect::Generate { needed: *needed, owners: owners.clone() });
            }
            Instruction::LoadParts(parts) => {
                self.needs_empty_new()?;
                return Ok(Effect::Expect(Origin::Parts(parts.clone())));
            }
            Instruction::LoadShares { needed, shares } => {
                self.needs_empty_new()?;
                return Ok(Effect::Expect(Origin::Shares { needed: *needed, shares: shares.clone() }));
            }
            Instruction::RemoveAdministrator { ski, name } => self.remove_administrator(*ski, name)?,
            Instruction::SetControlPoints(profile) => {
                if !here.serves_grep11 {
                    return Err(Refusal::ServesTls);
                }
                if self.current == Register::Empty {
                    return Err(Refusal::WithoutMasterKey);
                }
                self.profile = Some(*profile);
            }
            Instruction::SetThresholds(thresholds) => {
                if !can_own(&self.administrators, *thresholds) {
                    return Err(Refusal::Thresholds {
                        asked: *thresholds,
                        administrators: self.administrators.len(),
                    });
                }
                self.thresholds = *thresholds;
            }
            Instruction::Zeroize => return Ok(Effect::Zeroize),
        }
        Ok(Effect::None)
    }

    fn activate(&mut self, pattern: Pattern, here: Surroundings) -> Result<Effect, Refusal> {
        let contents = match &self.new {
            Register::Committed(contents) if contents.pattern == pattern => contents.clone(),
            Register::Uncommitted(_) => return Err(Refusal::NotCommitted),
            new => return Err(Refusal::OtherPattern { register: RegisterName::New, has: new.pattern() }),
        };
        if !here.has_new {
            return Err(Refusal::NewSealed);
        }
        (self.current, self.new) = (Register::Valid(contents), Register::Empty);
        Ok(Effect::Activate)
    }

    fn commit(&mut self, pattern: Pattern, here: Surroundings) -> Result<(), Refusal> {
        self.new = match &self.new {
            Register::Uncommitted(contents) if contents.pattern == pattern => {
                Register::Committed(contents.clone())
            }
            Register::Committed(contents) if contents.pattern == pattern => {
                return Err(Refusal::AlreadyCommitted);
            }
            new => return Err(Refusal::OtherPattern { register: RegisterName::New, has: new.pattern() }),
        };
        if here.has_new { Ok(()) } else { Err(Refusal::NewSealed) }
    }

    fn add_administrator(&mut self, person: &Person) -> Result<(), Refusal> {
        if self.administrators.len() >= MAX_ADMINISTRATORS {
            return Err(Refusal::ManyAdministrators);
        }
        let same = |other: &&Person| other.name == person.name || other.key == person.key;
        if let Some(known) = self.administrators.iter().find(same) {
            return Err(Refusal::Known(known.name.clone()));
        }
        self.administrators.push(person.clone());
        Ok(())
    }

    fn remove_administrator(&mut self, ski: Ski, name: &PersonName) -> Result<(), Refusal> {
        let before = self.administrators.len();
        // People have signed the name; the identity alone tells them nothing.
        let same = |person: &Person| person.key.ski() == ski && person.name == *name;
        let removed = self.administrators.iter().position(same);
        self.administrators.remove(removed.ok_or_else(|| Refusal::NoAdministrator(ski, name.clone()))?);
        match can_own(&self.administrators, self.thresholds) {
            true => Ok(()),
            false => Err(Refusal::LastAdministrators { thresholds: self.thresholds, administrators: before }),
        }
    }

    fn needs_empty_new(&self) -> Result<(), Refusal> {
        match self.new.pattern() {
            None => Ok(()),
            Some(pattern) => Err(Refusal::NotEmpty(pattern)),
        }
    }

    /// The state after the new register was loaded with a master key.
    ///
    /// # Errors
    /// [`Refusal`] if the register is not empty, or the key is in force already.
    pub(crate) fn loaded(&self, contents: Contents) -> Result<Self, Refusal> {
        self.needs_empty_new()?;
        if self.current.pattern() == Some(contents.pattern) {
            return Err(Refusal::InForce(contents.pattern));
        }
        // Without a master key, nothing has authenticated the control points in the state.
        let profile = self.profile.filter(|_| self.current != Register::Empty);
        Ok(Self { new: Register::Uncommitted(contents), profile, ..self.clone() })
    }
}

fn enough(have: usize, needed: u8) -> Result<(), Refusal> {
    match have >= usize::from(needed) {
        true => Ok(()),
        false => Err(Refusal::FewSignatures { have, needed }),
    }
}

/// Reason why a unit refuses a command.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
pub enum Refusal {
    /// The master key in the new register is committed.
    #[error("the master key in the new register is committed already")]
    AlreadyCommitted,
    /// The unit changes its master key.
    #[error(
        "the unit changes its master key; first finish the change: keyward unit rotate; or give it up: keyward unit rotate --abandon"
    )]
    ChangeUnderWay,
    /// The command has expired.
    #[error("the command has expired, at {}; make and sign a new one", time(*.0))]
    Expired(u64),
    /// The command would be valid for too long.
    #[error("the command would be valid until {}; a command is valid for at most 30 days", time(*.0))]
    ExpiresLate(u64),
    /// The command has too few signatures.
    #[error(
        "the command has {have} signature{} of administrators, and needs {needed}: sign it with more keys (--key FILE for each), or write it to a file for the others (--out FILE), who sign with: keyward unit sign FILE --key KEY",
        if *have == 1 { "" } else { "s" }
    )]
    FewSignatures {
        /// Number of genuine signatures.
        have: usize,
        /// Number that is needed.
        needed: u8,
    },
    /// The master key to load is in force already.
    #[error("the master key {0} is in force already")]
    InForce(Pattern),
    /// There is such an administrator.
    #[error("{0} is an administrator with this name or this key already")]
    Known(PersonName),
    /// Too few administrators would remain.
    #[error(
        "{} administrators are needed, since the thresholds are {} and {}, and there are {administrators}; add an administrator first, or lower the thresholds",
        thresholds.signature.max(thresholds.revocation), thresholds.signature, thresholds.revocation
    )]
    LastAdministrators {
        /// The thresholds.
        thresholds: Thresholds,
        /// Number of administrators.
        administrators: usize,
    },
    /// The unit has as many administrators as a unit can have.
    #[error("a unit has at most {MAX_ADMINISTRATORS} administrators")]
    ManyAdministrators,
    /// The new register has a key, but the unit does not have it in memory.
    #[error(
        "the unit does not have the master key of the new register since its start; its owners must bring their parts: keyward unit unseal FILE --unit-key FINGERPRINT"
    )]
    NewSealed,
    /// No administrator has this identity and this name.
    #[error("there is no administrator {1} with the identity {0}; see: keyward unit admin list")]
    NoAdministrator(Ski, PersonName),
    /// The claim was not made with the claim secret.
    #[error(
        "the claim was not made with the claim secret of the unit; root sees the secret with: keyward unit claim --show"
    )]
    NoClaimSecret,
    /// The quorum has not agreed to the master key.
    #[error("the master key in the new register is not committed yet")]
    NotCommitted,
    /// The new register has a master key.
    #[error("the new register has the master key {0}; activate that key, or clear the register first")]
    NotEmpty(Pattern),
    /// A register has another master key than the command names, or none.
    #[error("the {} register has {}, not the master key that the command names", register.name(), named(*has))]
    OtherPattern {
        /// The register.
        register: RegisterName,
        /// Master key of the register.
        has: Option<Pattern>,
    },
    /// The command is for another unit.
    #[error("the command is for the unit {of}, and this is the unit {this}")]
    OtherUnit {
        /// The unit of the command.
        of: UnitId,
        /// This unit.
        this: UnitId,
    },
    /// Somebody owns the unit.
    #[error("the unit has owners already")]
    Owned,
    /// These administrators cannot own a unit.
    #[error(
        "a unit needs 1 to {MAX_ADMINISTRATORS} administrators of different names and keys, and thresholds of at least 1 that they can reach"
    )]
    Owners,
    /// The command was carried out, or its place was taken by another command.
    #[error(
        "the command has the counter {counter}, and the unit has gone on to {next}: it was carried out already, or another command was"
    )]
    Repeated {
        /// Counter of the command.
        counter: u64,
        /// Counter of the next command.
        next: u64,
    },
    /// The unit does not have its master key.
    #[error(
        "the unit is sealed: its owners must bring their parts first: keyward unit unseal FILE --unit-key FINGERPRINT"
    )]
    Sealed,
    /// The unit has no clients of GREP11.
    #[error(
        "the control points of this unit are tls, and nobody can change them: only keyward unit serve has others"
    )]
    ServesTls,
    /// A signature does not count.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// The administrators cannot reach the thresholds.
    #[error(
        "thresholds of {} and {} are not possible: both must be at least 1, and at most the {administrators} administrators",
        asked.signature, asked.revocation
    )]
    Thresholds {
        /// The thresholds of the command.
        asked: Thresholds,
        /// Number of administrators.
        administrators: usize,
    },
    /// Commands before this one are missing.
    #[error(
        "the command has the counter {counter}, and the unit waits for {next}: send the commands in their order"
    )]
    TooEarly {
        /// Counter of the command.
        counter: u64,
        /// Counter of the next command.
        next: u64,
    },
    /// Nothing would authenticate the control points in the state.
    #[error(
        "the unit has no master key yet, which authenticates its control points; first put one in force: keyward unit load"
    )]
    WithoutMasterKey,
    /// Nobody owns the unit.
    #[error("nobody owns the unit yet, so it takes no commands; first run, as root: keyward unit claim")]
    Unowned,
}

fn time(second: u64) -> String {
    // A later time than a program can express is far away too.
    let time = UNIX_EPOCH + Duration::from_secs(second.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}

fn named(pattern: Option<Pattern>) -> String {
    pattern.map_or("no master key".into(), |pattern| format!("the master key {pattern}"))
}

/// Longest time for which a command is valid, in seconds: 30 days.
pub const LONGEST_LIFE: u64 = 30 * 24 * 3600;

#[cfg(test)]
mod tests;

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
    /// Number of blobs that only the master key of the current register unwraps.
    pub left_behind: u64,
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
        match (&self.claim, &command.instruction) {
            (Some(secret), Instruction::Claim { administrators, thresholds }) => {
                if !signed.claims_with(secret) {
                    return Err(Refusal::NoClaimSecret);
                }
                let have = signed.count(administrators)?;
                return enough(have, thresholds.signature);
            }
            (Some(_), _) => return Err(Refusal::Unowned),
            (None, Instruction::Claim { .. }) => return Err(Refusal::Owned),
            (None, _) => {}
        }
        let have = signed.count(&self.administrators)?;
        enough(have, self.needed_for(&command.instruction))?;
        let may_be_sealed = matches!(
            command.instruction,
            Instruction::Zeroize | Instruction::Clear(RegisterName::Current, _)
        );
        match self.current != Register::Empty && !here.has_current && !may_be_sealed {
            true => Err(Refusal::Sealed),
            false => Ok(()),
        }
    }

    /// Number of signatures that an instruction needs. To destroy needs one signature: in an
    /// emergency there is no time for a quorum.
    pub fn needed_for(&self, instruction: &Instruction) -> u8 {
        match instruction {
            Instruction::AddAdministrator(_)
            | Instruction::Commit(_)
            | Instruction::GenerateShares { .. }
            | Instruction::SetThresholds(_) => self.thresholds.signature,
            Instruction::RemoveAdministrator(_) => self.thresholds.revocation,
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
                (self.claim, self.administrators, self.thresholds) =
                    (None, administrators.clone(), *thresholds);
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
            Instruction::RemoveAdministrator(ski) => self.remove_administrator(*ski)?,
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
        if here.left_behind > 0 {
            return Err(Refusal::LeftBehind(here.left_behind));
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

    fn remove_administrator(&mut self, ski: Ski) -> Result<(), Refusal> {
        let before = self.administrators.len();
        let removed = self.administrators.iter().position(|person| person.key.ski() == ski);
        self.administrators.remove(removed.ok_or(Refusal::NoAdministrator(ski))?);
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
        Ok(Self { new: Register::Uncommitted(contents), ..self.clone() })
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
    /// The command has expired.
    #[error("the command has expired, at {}; make and sign a new one", time(*.0))]
    Expired(u64),
    /// The command would be valid for too long.
    #[error("the command would be valid until {}; a command is valid for at most 30 days", time(*.0))]
    ExpiresLate(u64),
    /// The command has too few signatures.
    #[error("the command has {have} signatures of administrators, and needs {needed}")]
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
    /// Blobs would be lost.
    #[error("{0} blobs are not wrapped by the new master key yet; first run: keyward unit rotate")]
    LeftBehind(u64),
    /// The unit has as many administrators as a unit can have.
    #[error("a unit has at most {MAX_ADMINISTRATORS} administrators")]
    ManyAdministrators,
    /// The new register has a key, but the unit does not have it in memory.
    #[error(
        "the unit does not have the master key of the new register since its start; its owners must bring their parts: keyward unit unseal FILE --unit-key FINGERPRINT"
    )]
    NewSealed,
    /// No administrator has this identity.
    #[error("there is no administrator {0}")]
    NoAdministrator(Ski),
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
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::EcdsaKeyPair;

    use super::super::command::Command;
    use super::super::command::tests::person;
    use super::*;
    use crate::wkid::Wkid;

    const NOW: u64 = 1_800_000_000;
    const HERE: Surroundings = Surroundings { now: NOW, has_current: true, has_new: true, left_behind: 0 };

    /// Three administrators; the thresholds are 2 and 3.
    struct Owned {
        state: State,
        people: Vec<(Person, EcdsaKeyPair)>,
    }

    impl Owned {
        fn new() -> Self {
            let people: Vec<_> = ["alice", "bob", "carol"].map(person).into();
            let state = State::new().unwrap();
            let administrators = people.iter().map(|(person, _)| person.clone()).collect();
            let thresholds = Thresholds { signature: 2, revocation: 3 };
            let claim = Instruction::Claim { administrators, thresholds };
            let mut owned = Self { state, people };
            let signed = owned.signed(claim, &[0, 1]).with_claim_of(owned.state.claim_secret().unwrap());
            owned.state = owned.state.apply(&signed, HERE).unwrap().0;
            owned
        }

        fn command(&self, instruction: Instruction) -> Command {
            let (unit, counter) = (self.state.unit(), self.state.next_counter());
            Command { unit, counter, expires: NOW + 3600, instruction }
        }

        fn sign(&self, command: Command, signers: &[usize]) -> SignedCommand {
            let mut signed = SignedCommand::new(command);
            for signer in signers {
                let (person, pair) = &self.people[*signer];
                let signature =
                    pair.sign(&SystemRandom::new(), signed.command().to_text().as_bytes()).unwrap();
                signed.add(person, signature.as_ref().to_vec()).unwrap();
            }
            signed
        }

        fn signed(&self, instruction: Instruction, signers: &[usize]) -> SignedCommand {
            self.sign(self.command(instruction), signers)
        }

        fn try_to(&self, instruction: Instruction, signers: &[usize]) -> Result<(State, Effect), Refusal> {
            self.state.apply(&self.signed(instruction, signers), HERE)
        }

        fn succeed(&mut self, instruction: Instruction, signers: &[usize]) -> Effect {
            let (state, effect) = self.try_to(instruction, signers).unwrap();
            assert_eq!(state.counter, self.state.counter + 1);
            self.state = state;
            effect
        }
    }

    fn pattern(byte: u8) -> Pattern {
        Pattern::of_key(&[byte; 32])
    }

    fn contents(byte: u8) -> Contents {
        let origin = Origin::Parts(vec![pattern(10), pattern(11)]);
        let (pattern, wkid) = (pattern(byte), Wkid::from_bytes([byte; 16]));
        Contents { pattern, wkid, origin, shares: Vec::new() }
    }

    #[test]
    fn a_claim_needs_the_secret_and_the_quorum_that_it_sets() {
        let people: Vec<_> = ["alice", "bob", "carol"].map(person).into();
        let owned = Owned { state: State::new().unwrap(), people };
        let persons: Vec<_> = owned.people.iter().map(|(person, _)| person.clone()).collect();
        let claim = |administrators: &[Person], signature, revocation| Instruction::Claim {
            administrators: administrators.to_vec(),
            thresholds: Thresholds { signature, revocation },
        };
        let secret = owned.state.claim_secret().unwrap();
        let refused = |instruction, signers: &[usize], with_secret| {
            let signed = owned.signed(instruction, signers);
            let signed = if with_secret { signed.with_claim_of(secret) } else { signed };
            owned.state.apply(&signed, HERE).unwrap_err()
        };
        assert_eq!(refused(claim(&persons, 2, 2), &[0, 1], false), Refusal::NoClaimSecret);
        assert_eq!(refused(claim(&persons, 2, 2), &[0], true), Refusal::FewSignatures { have: 1, needed: 2 });
        let outsider = owned.people[2].0.key.ski();
        assert_eq!(
            refused(claim(&persons[..2], 2, 2), &[0, 2], true),
            Refusal::Signature(SignatureFault::Unknown(outsider))
        );
        for (administrators, signature, revocation) in
            [(&persons[..], 4, 1), (&persons[..], 1, 4), (&persons[..], 1, 0), (&persons[..], 0, 1)]
        {
            let error = refused(claim(administrators, signature, revocation), &[0, 1, 2], true);
            assert!(matches!(error, Refusal::Owners | Refusal::FewSignatures { .. }), "{error}");
        }
        let twice = [persons[0].clone(), persons[0].clone()];
        assert_eq!(refused(claim(&twice, 1, 1), &[0], true), Refusal::Owners);
        assert_eq!(refused(Instruction::Commit(pattern(1)), &[0, 1], true), Refusal::Unowned);
        let owned = Owned::new();
        assert!(!owned.state.is_unowned() && owned.state.claim_secret().is_none());
        let again = claim(&persons, 1, 1);
        assert_eq!(owned.try_to(again, &[0, 1]).unwrap_err(), Refusal::Owned);
    }

    #[test]
    fn each_way_to_misuse_a_command_has_its_own_error() {
        let owned = Owned::new();
        let commit = || owned.command(Instruction::SetThresholds(Thresholds { signature: 1, revocation: 1 }));
        let next = owned.state.next_counter();
        let other = State::new().unwrap();
        let apply = |command| owned.state.apply(&owned.sign(command, &[0, 1]), HERE);
        assert!(apply(commit()).is_ok());
        let redirected = Command { unit: other.unit(), ..commit() };
        assert!(matches!(apply(redirected).unwrap_err(), Refusal::OtherUnit { .. }));
        assert_eq!(apply(Command { expires: NOW, ..commit() }).unwrap_err(), Refusal::Expired(NOW));
        let late = NOW + LONGEST_LIFE + 1;
        assert_eq!(apply(Command { expires: late, ..commit() }).unwrap_err(), Refusal::ExpiresLate(late));
        let replayed = Refusal::Repeated { counter: next - 1, next };
        assert_eq!(apply(Command { counter: next - 1, ..commit() }).unwrap_err(), replayed);
        let reordered = Refusal::TooEarly { counter: next + 1, next };
        assert_eq!(apply(Command { counter: next + 1, ..commit() }).unwrap_err(), reordered);
        // Tampered: the signatures are of another text.
        let text = owned.sign(commit(), &[0, 1]).to_text();
        let tampered = text.replace("signature-threshold: 1", "signature-threshold: 3");
        let tampered = SignedCommand::read_all(&tampered).unwrap().remove(0);
        let wrong = Refusal::Signature(SignatureFault::Wrong(owned.people[0].0.key.ski()));
        assert_eq!(owned.state.apply(&tampered, HERE).unwrap_err(), wrong);
        let few = Refusal::FewSignatures { have: 1, needed: 2 };
        assert_eq!(owned.state.apply(&owned.sign(commit(), &[2]), HERE).unwrap_err(), few);
    }

    #[test]
    fn administrators_come_and_go_with_their_quorums() {
        let mut owned = Owned::new();
        let (dave, pair) = person("dave");
        owned.people.push((dave.clone(), pair));
        let skis: Vec<_> = owned.people.iter().map(|(person, _)| person.key.ski()).collect();
        let add = || Instruction::AddAdministrator(dave.clone());
        let remove = |at: usize| Instruction::RemoveAdministrator(skis[at]);
        let outsider = Refusal::Signature(SignatureFault::Unknown(skis[3]));
        assert_eq!(owned.try_to(add(), &[0, 3]).unwrap_err(), outsider, "nobody adds himself");
        // The revocation threshold is 3, and three administrators are needed for it.
        assert!(matches!(
            owned.try_to(remove(2), &[0, 1, 2]).unwrap_err(),
            Refusal::LastAdministrators { administrators: 3, .. }
        ));
        owned.succeed(add(), &[0, 1]);
        assert_eq!(owned.try_to(add(), &[0, 1]).unwrap_err(), Refusal::Known(dave.name.clone()));
        let few = Refusal::FewSignatures { have: 2, needed: 3 };
        assert_eq!(owned.try_to(remove(2), &[0, 1]).unwrap_err(), few);
        owned.succeed(remove(2), &[0, 1, 3]);
        assert_eq!(owned.try_to(remove(2), &[0, 1, 3]).unwrap_err(), Refusal::NoAdministrator(skis[2]));
        assert_eq!(
            owned.try_to(add(), &[0, 2]).unwrap_err(),
            Refusal::Signature(SignatureFault::Unknown(skis[2])),
            "a removed administrator signs nothing more"
        );
        let thresholds =
            |signature, revocation| Instruction::SetThresholds(Thresholds { signature, revocation });
        for (signature, revocation) in [(0, 1), (1, 0), (4, 1), (1, 4)] {
            let error = owned.try_to(thresholds(signature, revocation), &[0, 1]).unwrap_err();
            assert!(matches!(error, Refusal::Thresholds { administrators: 3, .. }), "{error}");
        }
        owned.succeed(thresholds(3, 1), &[0, 1]);
        let few = Refusal::FewSignatures { have: 2, needed: 3 };
        assert_eq!(owned.try_to(thresholds(1, 1), &[0, 1]).unwrap_err(), few, "the old threshold counts");
        for number in 4..=8 {
            let (more, pair) = person(&format!("more{number}"));
            owned.succeed(Instruction::AddAdministrator(more.clone()), &[0, 1, 3]);
            owned.people.push((more, pair));
        }
        let ninth = Instruction::AddAdministrator(person("ninth").0);
        assert_eq!(owned.try_to(ninth, &[0, 1, 3]).unwrap_err(), Refusal::ManyAdministrators);
    }

    #[test]
    fn a_master_key_goes_through_the_registers() {
        let mut owned = Owned::new();
        let parts = vec![pattern(10), pattern(11)];
        let load = || Instruction::LoadParts(parts.clone());
        assert_eq!(owned.succeed(load(), &[0]), Effect::Expect(Origin::Parts(parts.clone())));
        assert_eq!(owned.state.new, Register::Empty, "until the parts are there");
        owned.state = owned.state.loaded(contents(1)).unwrap();
        assert_eq!(owned.try_to(load(), &[0]).unwrap_err(), Refusal::NotEmpty(pattern(1)));
        assert_eq!(owned.state.loaded(contents(2)).unwrap_err(), Refusal::NotEmpty(pattern(1)));
        let activate = |byte| Instruction::Activate(pattern(byte));
        assert_eq!(owned.try_to(activate(1), &[0]).unwrap_err(), Refusal::NotCommitted);
        let other = Refusal::OtherPattern { register: RegisterName::New, has: Some(pattern(1)) };
        assert_eq!(owned.try_to(Instruction::Commit(pattern(2)), &[0, 1]).unwrap_err(), other);
        let few = Refusal::FewSignatures { have: 1, needed: 2 };
        assert_eq!(owned.try_to(Instruction::Commit(pattern(1)), &[0]).unwrap_err(), few);
        owned.succeed(Instruction::Commit(pattern(1)), &[0, 1]);
        let again = owned.try_to(Instruction::Commit(pattern(1)), &[0, 1]).unwrap_err();
        assert_eq!(again, Refusal::AlreadyCommitted);
        assert_eq!(owned.try_to(activate(2), &[0]).unwrap_err(), other);
        assert_eq!(owned.succeed(activate(1), &[0]), Effect::Activate);
        assert_eq!(owned.state.current, Register::Valid(contents(1)));
        assert_eq!(owned.state.new, Register::Empty);

        // The next key, with blobs to wrap.
        assert_eq!(owned.state.loaded(contents(1)).unwrap_err(), Refusal::InForce(pattern(1)));
        owned.state = owned.state.loaded(contents(2)).unwrap();
        owned.succeed(Instruction::Commit(pattern(2)), &[1, 2]);
        let signed = owned.signed(activate(2), &[2]);
        let busy = Surroundings { left_behind: 7, ..HERE };
        assert_eq!(owned.state.apply(&signed, busy).unwrap_err(), Refusal::LeftBehind(7));
        let restarted = Surroundings { has_new: false, ..HERE };
        assert_eq!(owned.state.apply(&signed, restarted).unwrap_err(), Refusal::NewSealed);
        let clear = |register, byte| Instruction::Clear(register, pattern(byte));
        let other = Refusal::OtherPattern { register: RegisterName::New, has: Some(pattern(2)) };
        assert_eq!(owned.try_to(clear(RegisterName::New, 1), &[0]).unwrap_err(), other);
        let effect = owned.succeed(clear(RegisterName::New, 2), &[0]);
        assert_eq!((effect, &owned.state.new), (Effect::Clear(RegisterName::New), &Register::Empty));
        owned.succeed(clear(RegisterName::Current, 1), &[2]);
        assert_eq!(owned.state.current, Register::Empty);
        assert_eq!(owned.state.administrators.len(), 3, "a cleared unit keeps its owners");
    }

    #[test]
    fn a_sealed_unit_can_only_be_destroyed() {
        let mut owned = Owned::new();
        owned.state = owned.state.loaded(contents(1)).unwrap();
        owned.succeed(Instruction::Commit(pattern(1)), &[0, 1]);
        owned.succeed(Instruction::Activate(pattern(1)), &[0]);
        let sealed = Surroundings { has_current: false, has_new: false, ..HERE };
        let (dave, _) = person("dave");
        for instruction in [
            Instruction::AddAdministrator(dave),
            Instruction::SetThresholds(Thresholds { signature: 1, revocation: 1 }),
            Instruction::LoadParts(vec![pattern(10), pattern(11)]),
        ] {
            let signed = owned.signed(instruction, &[0, 1, 2]);
            assert_eq!(owned.state.apply(&signed, sealed).unwrap_err(), Refusal::Sealed);
        }
        let clear = owned.signed(Instruction::Clear(RegisterName::Current, pattern(1)), &[0]);
        assert!(owned.state.apply(&clear, sealed).is_ok());
        let zeroize = owned.signed(Instruction::Zeroize, &[1]);
        assert_eq!(owned.state.apply(&zeroize, sealed).unwrap().1, Effect::Zeroize);
        let unsigned = owned.signed(Instruction::Zeroize, &[]);
        let few = Refusal::FewSignatures { have: 0, needed: 1 };
        assert_eq!(owned.state.apply(&unsigned, sealed).unwrap_err(), few);
        // Nobody may change the identity of a unit that nobody owns: people have written it down.
        let unowned = Owned { state: State::new().unwrap(), people: Vec::new() };
        assert_eq!(unowned.try_to(Instruction::Zeroize, &[]).unwrap_err(), Refusal::Unowned);
    }

    #[test]
    fn shares_are_split_by_the_quorum_and_loaded_by_one() {
        let owned = Owned::new();
        let owners: Vec<_> = ["eve", "frank"].map(|name| person(name).0).into();
        let generate = || Instruction::GenerateShares { needed: 2, owners: owners.clone() };
        let few = Refusal::FewSignatures { have: 1, needed: 2 };
        assert_eq!(owned.try_to(generate(), &[0]).unwrap_err(), few);
        let effect = owned.try_to(generate(), &[0, 1]).unwrap().1;
        assert_eq!(effect, Effect::Generate { needed: 2, owners });
        let shares = vec![(1, pattern(1)), (2, pattern(2)), (3, pattern(3))];
        let load = Instruction::LoadShares { needed: 2, shares: shares.clone() };
        let effect = owned.try_to(load, &[0]).unwrap().1;
        assert_eq!(effect, Effect::Expect(Origin::Shares { needed: 2, shares }));
    }
}

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;

use super::super::command::Command;
use super::super::command::tests::person;
use super::*;
use crate::profile::Profile;
use crate::wkid::Wkid;

const NOW: u64 = 1_800_000_000;
const HERE: Surroundings = Surroundings { now: NOW, has_current: true, has_new: true, serves_grep11: true };

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
            let signature = pair.sign(&SystemRandom::new(), signed.command().to_text().as_bytes()).unwrap();
            signed.add(&person.key, signature.as_ref().to_vec()).unwrap();
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
fn the_quorum_sets_the_control_points_of_a_unit_that_serves_grep11() {
    let mut owned = Owned::new();
    let set = || Instruction::SetControlPoints(Profile::Open);
    // Nothing would authenticate them.
    assert_eq!(owned.try_to(set(), &[0, 1]).unwrap_err(), Refusal::WithoutMasterKey);
    let unauthenticated = State { profile: Some(Profile::Open), ..owned.state.clone() };
    assert_eq!(unauthenticated.loaded(contents(1)).unwrap().profile(), None);
    owned.state.current = Register::Valid(contents(1));
    assert_eq!(owned.try_to(set(), &[0]).unwrap_err(), Refusal::FewSignatures { have: 1, needed: 2 });
    let (state, effect) = owned.try_to(set(), &[0, 1]).unwrap();
    assert_eq!((state.profile(), effect), (Some(Profile::Open), Effect::None));
    let here = Surroundings { serves_grep11: false, ..HERE };
    let refused = owned.state.apply(&owned.signed(set(), &[0, 1]), here).unwrap_err();
    assert_eq!(refused, Refusal::ServesTls);
}

#[test]
fn a_claim_takes_no_control_points_over() {
    let text = State::new().unwrap().to_json();
    let planted = text.replacen('{', "{\"control_points\":\"open\",", 1);
    assert!(State::from_json(&text).is_ok() && State::from_json(&planted).is_err());
    let mut unowned = State::new().unwrap();
    unowned.profile = Some(Profile::Open);
    let owned = Owned { state: unowned, people: ["alice", "bob", "carol"].map(person).into() };
    let administrators = owned.people.iter().map(|(person, _)| person.clone()).collect();
    let claim = Instruction::Claim { administrators, thresholds: Thresholds { signature: 2, revocation: 2 } };
    let signed = owned.signed(claim, &[0, 1]).with_claim_of(owned.state.claim_secret().unwrap());
    assert_eq!(owned.state.apply(&signed, HERE).unwrap().0.profile(), None);
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
    let names: Vec<_> = owned.people.iter().map(|(person, _)| person.name.clone()).collect();
    let remove = |at: usize| Instruction::RemoveAdministrator { ski: skis[at], name: names[at].clone() };
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
    // People sign the name. With the identity of somebody else, the command removes nobody.
    let other = Instruction::RemoveAdministrator { ski: skis[2], name: names[1].clone() };
    let nobody = Refusal::NoAdministrator(skis[2], names[1].clone());
    assert_eq!(owned.try_to(other, &[0, 1, 3]).unwrap_err(), nobody);
    owned.succeed(remove(2), &[0, 1, 3]);
    let gone = Refusal::NoAdministrator(skis[2], names[2].clone());
    assert_eq!(owned.try_to(remove(2), &[0, 1, 3]).unwrap_err(), gone);
    assert_eq!(
        owned.try_to(add(), &[0, 2]).unwrap_err(),
        Refusal::Signature(SignatureFault::Unknown(skis[2])),
        "a removed administrator signs nothing more"
    );
    let thresholds = |signature, revocation| Instruction::SetThresholds(Thresholds { signature, revocation });
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

mod altered;
mod unowned;

use core::num::NonZeroUsize;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use keyward_proto::{KeyType, Scheme};

use super::super::command::tests::person;
use super::super::command::{Command, Instruction, Thresholds};
use super::super::importer::{Aim, Importer, OwnerKey, Piece};
use super::super::part::{self, Part};
use super::super::person::{Person, Ski};
use super::super::register::Register;
use super::super::shares::Share;
use super::*;
use crate::key::SigningInput;

const NOW: u64 = 1_800_000_000;

/// All texts that were written, the last one last. Refuses to write while `is_full`.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<String>, bool)>>);

impl Disk {
    fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().0.clone()
    }

    fn set_full(&self, is_full: bool) {
        self.0.lock().unwrap().1 = is_full;
    }
}

impl StateFile for Disk {
    fn replace(&self, text: &str) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        if disk.1 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.0.push(text.into());
        Ok(())
    }

    fn read(&self) -> io::Result<Option<Zeroizing<String>>> {
        Ok(self.0.lock().unwrap().0.last().map(|text| Zeroizing::new(text.clone())))
    }

    fn set_aside(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A unit with three administrators (thresholds 2 and 2).
struct House {
    disk: Disk,
    unit: Arc<Unit>,
    custodian: Custodian,
    people: Vec<(Person, EcdsaKeyPair)>,
    /// Fingerprint of the unit, as the owners know it.
    fingerprint: Ski,
}

fn open(disk: &Disk, text: Option<&str>) -> Result<(Arc<Unit>, Custodian), CustodyError> {
    let unit = Arc::new(Unit::sealed(NonZeroUsize::MIN));
    let custodian = Custodian::open(Arc::clone(&unit), text, Box::new(disk.clone()))?;
    Ok((unit, custodian))
}

impl House {
    fn unowned() -> Self {
        let disk = Disk::default();
        let (unit, custodian) = open(&disk, None).unwrap();
        let fingerprint = custodian.custody().state.unit_key().ski();
        Self { disk, unit, custodian, people: ["alice", "bob", "carol"].map(person).into(), fingerprint }
    }

    fn new() -> Self {
        let house = Self::unowned();
        house.claim();
        house
    }

    fn claim(&self) {
        self.try_claim().unwrap();
    }

    fn try_claim(&self) -> Result<(), CustodyError> {
        let administrators = self.people.iter().map(|(person, _)| person.clone()).collect();
        let thresholds = Thresholds { signature: 2, revocation: 2 };
        let signed = self.signed(Instruction::Claim { administrators, thresholds }, &[0, 1]);
        let signed = signed.with_claim_of(self.custodian.custody().state.claim_secret().unwrap());
        self.custodian.command(&signed, NOW).map(|_| ())
    }

    fn signed(&self, instruction: Instruction, signers: &[usize]) -> SignedCommand {
        let state = self.custodian.custody().state.clone();
        let (unit, counter) = (state.unit(), state.next_counter());
        let mut signed = SignedCommand::new(Command { unit, counter, expires: NOW + 60, instruction });
        for signer in signers {
            let (person, pair) = &self.people[*signer];
            let signature = pair.sign(&SystemRandom::new(), signed.command().to_text().as_bytes()).unwrap();
            signed.add(&person.key, signature.as_ref().to_vec()).unwrap();
        }
        signed
    }

    fn command(&self, instruction: Instruction, signers: &[usize]) -> Result<Done, CustodyError> {
        self.custodian.command(&self.signed(instruction, signers), NOW)
    }

    fn bring(&self, piece: &Piece) -> Result<Taken, CustodyError> {
        self.bring_to(Aim::Unseal, piece)
    }

    fn bring_to(&self, aim: Aim, piece: &Piece) -> Result<Taken, CustodyError> {
        let importer = Importer::read(&self.custodian.importer().unwrap(), self.fingerprint).unwrap();
        self.custodian.take(&importer.seal(piece, aim).unwrap())
    }

    /// Loads the new register with parts.
    fn load(&self, parts: &[Part]) -> Pattern {
        let patterns = parts.iter().map(Part::pattern).collect();
        self.command(Instruction::LoadParts(patterns), &[0]).unwrap();
        for (left, part) in (0..parts.len()).rev().zip(parts) {
            assert_eq!(self.bring_to(Aim::Load, &again(part)).unwrap().missing, left);
        }
        self.custodian.custody().state.new_register().pattern().unwrap()
    }

    /// Puts a master key of parts in force.
    fn put_in_force(&self, parts: &[Part]) -> Pattern {
        let pattern = self.load(parts);
        self.command(Instruction::Commit(pattern), &[1, 2]).unwrap();
        self.command(Instruction::Activate(pattern), &[2]).unwrap();
        pattern
    }

    /// The unit after a restart of its process.
    fn restart(&mut self) {
        let text = self.disk.texts().pop().unwrap();
        self.restart_with(&text);
    }

    fn restart_with(&mut self, text: &str) {
        (self.unit, self.custodian) = open(&self.disk, Some(text)).unwrap();
    }

    fn signs(&self, blob: &[u8]) -> Result<(), UnitError> {
        let input = SigningInput::Message(b"m");
        self.unit.sign(blob, Scheme::EcdsaSecp256r1Sha256, input).map(|_| ())
    }
}

fn parts<const N: usize>() -> [Part; N] {
    core::array::from_fn(|_| Part::generate().unwrap())
}

/// The part as its owner reads it again.
fn again(part: &Part) -> Piece {
    Piece::Part(Part::from_hex(&part.to_hex()).unwrap())
}

#[test]
fn owners_load_activate_restart_and_unseal() {
    let mut house = House::unowned();
    assert!(
        house.custodian.custody().state.is_unowned()
            && !house.custodian.custody().is_sealed
            && house.unit.is_sealed()
    );
    house.claim();
    let mine = parts::<3>();
    let pattern = house.put_in_force(&mine);
    assert_eq!(house.unit.wkid(), house.custodian.custody().state.current().contents().map(|key| key.wkid));
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    house.signs(&blob).unwrap();

    house.restart();
    assert!(house.custodian.custody().is_sealed);
    assert_eq!(house.signs(&blob), Err(UnitError::Sealed));
    let refused = house.command(Instruction::Commit(pattern), &[0, 1]).unwrap_err();
    assert!(matches!(refused, CustodyError::Refused(Refusal::Sealed)));
    let awaited = house.custodian.custody().awaited.clone();
    assert!(matches!(&awaited[..], [(RegisterName::Current, Origin::Parts(parts), arrived)]
        if parts.len() == 3 && arrived.is_empty()));
    // In another order, one of them twice.
    for (part, missing) in [(&mine[2], 2), (&mine[2], 2), (&mine[0], 1), (&mine[1], 0)] {
        assert_eq!(house.bring(&again(part)).unwrap().missing, missing);
    }
    house.signs(&blob).unwrap();
    house.custodian.seal();
    assert!(house.custodian.custody().is_sealed);
    assert_eq!(house.signs(&blob), Err(UnitError::Sealed));
    for part in &mine {
        house.bring(&again(part)).unwrap();
    }
    house.signs(&blob).unwrap();
}

#[test]
fn a_wrong_part_is_named_and_spoils_nothing() {
    let mut house = House::new();
    let mine = parts::<2>();
    house.put_in_force(&mine);
    house.restart();
    house.bring(&again(&mine[0])).unwrap();
    let [wrong] = parts::<1>();
    let refused = house.bring(&again(&wrong)).unwrap_err();
    assert!(
        matches!(refused, CustodyError::NotAwaited(pattern, Unawaited::Other) if pattern == wrong.pattern())
    );
    let importer = Importer::read(&house.custodian.importer().unwrap(), house.fingerprint).unwrap();
    let sealed = importer.seal(&again(&mine[1]), Aim::Unseal).unwrap();
    let unit = house.custodian.custody().state.unit();
    let refused = house.custodian.take(&sealed[1..]).unwrap_err();
    assert!(matches!(refused, CustodyError::OtherImporter(of) if of == unit));
    assert_eq!(house.custodian.take(&sealed).unwrap().missing, 0);
    let refused = house.custodian.take(&sealed).unwrap_err();
    assert!(matches!(refused, CustodyError::NoneAwaited(of) if of == unit), "{refused}");
    let unawaited = |aim| match house.bring_to(aim, &again(&mine[1])) {
        Err(CustodyError::NotAwaited(_, reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(unawaited(Aim::Unseal), Unawaited::Nothing);
    assert_eq!(unawaited(Aim::Load), Unawaited::NothingToLoad);
    house.restart();
    let refused = house.bring_to(Aim::Load, &again(&mine[1])).unwrap_err();
    assert!(matches!(refused, CustodyError::NotAwaited(_, Unawaited::ToUnseal)), "{refused}");
}

#[test]
fn the_master_key_is_rotated_and_the_change_can_be_given_up() {
    let mut house = House::new();
    let (old, next, other) = (parts::<2>(), parts::<3>(), parts::<2>());
    house.put_in_force(&old);
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    let given_up = house.load(&other);
    assert_eq!(house.unit.other_wkid(), None, "not before the quorum has agreed");
    house.command(Instruction::Commit(given_up), &[0, 1]).unwrap();
    assert!(house.unit.other_wkid().is_some());
    house.command(Instruction::Clear(RegisterName::New, given_up), &[0]).unwrap();
    assert_eq!(house.unit.other_wkid(), None);
    house.signs(&blob).unwrap();

    let pattern = house.load(&next);
    house.command(Instruction::Commit(pattern), &[0, 2]).unwrap();
    let rewrapped = house.unit.rewrap(&blob, house.unit.other_wkid().unwrap()).unwrap();
    // A restart in the middle: both registers need their owners.
    house.restart();
    for part in &old {
        house.bring(&again(part)).unwrap();
    }
    house.signs(&blob).unwrap();
    assert!(house.signs(&rewrapped).is_err());
    let activate = house.signed(Instruction::Activate(pattern), &[0]);
    let refused = house.custodian.command(&activate, NOW).unwrap_err();
    assert!(matches!(refused, CustodyError::Refused(Refusal::NewSealed)));
    for part in &next {
        house.bring(&again(part)).unwrap();
    }
    house.signs(&blob).unwrap();
    house.signs(&rewrapped).unwrap();
    house.custodian.command(&activate, NOW).unwrap();
    house.signs(&rewrapped).unwrap();
    assert!(matches!(house.signs(&blob), Err(UnitError::OtherMasterKey { .. })));
    house.restart();
    for part in &next {
        house.bring(&again(part)).unwrap();
    }
    house.signs(&rewrapped).unwrap();
}

#[test]
fn shares_of_the_unit_unseal_it_and_another_unit() {
    let mut house = House::new();
    let owners: Vec<_> = (0..5).map(|_| OwnerKey::generate().unwrap()).collect();
    let persons = owners.iter().zip(1..).map(|(owner, number)| Person {
        name: format!("owner{number}").parse().unwrap(),
        key: owner.public(),
    });
    let generate = Instruction::GenerateShares { needed: 3, owners: persons.collect() };
    let Done::Shares(sealed) = house.command(generate, &[0, 1]).unwrap() else { panic!() };
    let unit = house.custodian.custody().state.unit();
    let piece = |at: usize| Piece::Share(owners[at].open(unit, &sealed[at].sealed).unwrap());
    assert!(owners[1].open(unit, &sealed[0].sealed).is_none());
    let pattern = house.custodian.custody().state.new_register().pattern().unwrap();
    house.command(Instruction::Commit(pattern), &[0, 1]).unwrap();
    house.command(Instruction::Activate(pattern), &[0]).unwrap();
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    for chosen in [[0, 1, 2], [4, 2, 0], [1, 3, 4]] {
        house.restart();
        let wrong = Piece::Share(Share::new(3, 2, &[1; 32]).unwrap());
        assert!(matches!(house.bring(&wrong), Err(CustodyError::NotAwaited(..))), "a wrong share is named");
        for (missing, at) in [2, 1, 0].into_iter().zip(chosen) {
            assert_eq!(house.bring(&piece(at)).unwrap().missing, missing);
        }
        house.signs(&blob).unwrap();
    }
    // The shares are a backup of the key: they load another unit.
    let other = House::new();
    let shares = sealed.iter().map(|share| (share.index, share.pattern)).collect();
    other.command(Instruction::LoadShares { needed: 3, shares }, &[0]).unwrap();
    for at in [3, 1, 0] {
        other.bring_to(Aim::Load, &piece(at)).unwrap();
    }
    other.command(Instruction::Commit(pattern), &[0, 1]).unwrap();
    other.command(Instruction::Activate(pattern), &[0]).unwrap();
    other.signs(&blob).unwrap();
}

#[test]
fn a_zeroized_unit_comes_back_with_its_parts_only() {
    let house = House::new();
    let mine = parts::<2>();
    let pattern = house.put_in_force(&mine);
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    let before = house.custodian.custody().state.clone();
    let old_command = house.signed(Instruction::Zeroize, &[0]);
    house.command(Instruction::Zeroize, &[1]).unwrap();
    let state = house.custodian.custody().state.clone();
    assert!(state.is_unowned() && state.unit() != before.unit() && state.unit_key() != before.unit_key());
    assert_eq!(house.signs(&blob), Err(UnitError::Sealed));
    let refused = house.custodian.command(&old_command, NOW).unwrap_err();
    assert!(matches!(refused, CustodyError::Refused(Refusal::OtherUnit { .. })));
    house.claim();
    let house = House { fingerprint: state.unit_key().ski(), ..house };
    assert_eq!(house.put_in_force(&mine), pattern);
    house.signs(&blob).unwrap();
}

/// The file after each step is whole: a process that is killed starts with one of them.
#[test]
fn every_state_on_the_disk_can_be_started_with() {
    let house = House::new();
    let (old, next) = (parts::<2>(), parts::<2>());
    house.put_in_force(&old);
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    let pattern = house.load(&next);
    house.command(Instruction::Commit(pattern), &[0, 1]).unwrap();
    let rewrapped = house.unit.rewrap(&blob, house.unit.other_wkid().unwrap()).unwrap();
    house.command(Instruction::Activate(pattern), &[0]).unwrap();
    let texts = house.disk.texts();
    assert_eq!(texts.len(), 10);
    let mut works = Vec::new();
    for text in &texts {
        let disk = Disk::default();
        let (unit, custodian) = open(&disk, Some(text)).unwrap();
        let killed = House { disk, unit, custodian, people: Vec::new(), ..House::unowned() };
        let killed = House { fingerprint: house.fingerprint, ..killed };
        for part in old.iter().chain(&next) {
            // Each start takes the parts that it waits for.
            let _ = killed.bring(&again(part));
        }
        works.push((killed.signs(&blob).is_ok(), killed.signs(&rewrapped).is_ok()));
    }
    let (nothing, old_one, both, new_one) = ((false, false), (true, false), (true, true), (false, true));
    // New, claimed, load, loaded, committed; active, load, loaded; committed; active.
    let expected = [nothing, nothing, nothing, nothing, nothing, old_one, old_one, old_one, both, new_one];
    assert_eq!(works, expected);
}

/// Somebody who replaces the whole state has a unit of his own. An owner who only wants to unseal
/// the unit does not load it.
#[test]
fn a_part_that_unseals_does_not_load() {
    let house = House::new();
    let mine = parts::<2>();
    house.command(Instruction::LoadParts(mine.iter().map(Part::pattern).collect()), &[0]).unwrap();
    let refused = house.bring(&again(&mine[0])).unwrap_err();
    assert!(matches!(refused, CustodyError::NotAwaited(_, Unawaited::ToLoad)), "{refused}");
    house.bring_to(Aim::Load, &again(&mine[0])).unwrap();
    // The disk is full when the last part comes: the parts are kept, and the last one comes again.
    house.disk.set_full(true);
    assert!(matches!(house.bring_to(Aim::Load, &again(&mine[1])), Err(CustodyError::Write(_))));
    house.disk.set_full(false);
    let arrived = &house.custodian.custody().awaited[0].2;
    assert_eq!(arrived.len(), 1);
    assert_eq!(house.bring_to(Aim::Load, &again(&mine[1])).unwrap().missing, 0);
}

#[test]
fn a_disk_that_is_full_changes_nothing() {
    let house = House::new();
    let (old, next) = (parts::<2>(), parts::<2>());
    house.put_in_force(&old);
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    let pattern = house.load(&next);
    house.disk.set_full(true);
    let before = house.custodian.custody().state.to_json();
    for instruction in [
        Instruction::Commit(pattern),
        Instruction::Clear(RegisterName::New, pattern),
        Instruction::Zeroize,
        Instruction::SetThresholds(Thresholds { signature: 1, revocation: 1 }),
    ] {
        assert!(matches!(house.command(instruction, &[0, 1]), Err(CustodyError::Write(_))));
        assert_eq!(*house.custodian.custody().state.to_json(), *before);
        house.signs(&blob).unwrap();
    }
    house.disk.set_full(false);
    house.command(Instruction::Commit(pattern), &[0, 1]).unwrap();
    house.disk.set_full(true);
    assert!(matches!(house.command(Instruction::Activate(pattern), &[0]), Err(CustodyError::Write(_))));
    house.signs(&blob).unwrap();
    house.disk.set_full(false);
    house.command(Instruction::Activate(pattern), &[0]).unwrap();
}

#[test]
fn the_owners_set_the_control_points_and_not_the_host() {
    let mut house = House::unowned();
    house.custodian.serve_grep11(Profile::Open);
    assert_eq!(house.unit.profile(), Profile::Open, "nobody owns the unit");
    house.claim();
    assert_eq!(house.unit.profile(), Profile::Strict, "from the moment that somebody owns the unit");
    let parts = parts::<2>();
    house.put_in_force(&parts);
    let error = house.command(Instruction::SetControlPoints(Profile::Open), &[0]).unwrap_err();
    assert!(matches!(error, CustodyError::Refused(Refusal::FewSignatures { .. })));
    house.command(Instruction::SetControlPoints(Profile::Tls), &[0, 1]).unwrap();
    assert_eq!((house.unit.profile(), house.custodian.custody().profile), (Profile::Tls, Profile::Tls));
    house.restart();
    house.custodian.serve_grep11(Profile::Open);
    for part in &parts {
        house.bring(&again(part)).unwrap();
    }
    assert_eq!(house.unit.profile(), Profile::Tls, "after a restart");
    // The control points are under the MAC of the state.
    let text = house
        .disk
        .texts()
        .pop()
        .unwrap()
        .replace("\"control_points\":\"tls\"", "\"control_points\":\"open\"");
    assert!(text.contains("\"open\""));
    house.restart_with(&text);
    house.custodian.serve_grep11(Profile::Open);
    let brought: Vec<_> = parts.iter().map(|part| house.bring(&again(part))).collect();
    assert!(matches!(brought.last(), Some(Err(CustodyError::Altered))), "{brought:?}");
    assert!(house.unit.is_sealed());
    house.restart();
    house.command(Instruction::Zeroize, &[0]).unwrap();
    house.custodian.serve_grep11(Profile::Open);
    assert_eq!(house.unit.profile(), Profile::Open, "nobody owns the unit any more, and its keys are gone");
}

#[test]
fn a_unit_without_clients_of_grep11_has_the_control_points_of_tls() {
    let house = House::new();
    house.put_in_force(&parts::<2>());
    let refused = house.command(Instruction::SetControlPoints(Profile::Open), &[0, 1]).unwrap_err();
    assert!(matches!(refused, CustodyError::Refused(Refusal::ServesTls)), "{refused}");
    assert_eq!(house.unit.profile(), Profile::Tls);
}

#[test]
fn a_secret_keeps_the_master_keys_over_a_restart() {
    let mut house = House::new();
    let secret = || KeepingSecret::random(&[b'5'; 32]).unwrap();
    assert!(!house.custodian.keep_by(&[secret()]).unwrap());
    let (old, next) = (parts::<2>(), parts::<2>());
    house.put_in_force(&old);
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    let pattern = house.load(&next);
    house.command(Instruction::Commit(pattern), &[0, 1]).unwrap();
    let rewrapped = house.unit.rewrap(&blob, house.unit.other_wkid().unwrap()).unwrap();
    house.restart();
    let other = || KeepingSecret::random(&[b'6'; 32]).unwrap();
    assert!(matches!(house.custodian.keep_by(&[other()]), Err(CustodyError::OtherKeeper)));
    assert_eq!(house.signs(&blob), Err(UnitError::Sealed));
    house.restart();
    assert!(house.custodian.keep_by(&[secret()]).unwrap());
    house.signs(&blob).unwrap();
    house.signs(&rewrapped).unwrap();
    house.command(Instruction::Activate(pattern), &[0]).unwrap();
    house.restart();
    assert!(house.custodian.keep_by(&[secret()]).unwrap());
    house.signs(&rewrapped).unwrap();
    assert!(house.signs(&blob).is_err());
    // Another secret replaces the first one once the owners have come.
    house.restart();
    assert!(matches!(house.custodian.keep_by(&[other()]), Err(CustodyError::OtherKeeper)));
    for part in &next {
        house.bring(&again(part)).unwrap();
    }
    house.restart();
    assert!(house.custodian.keep_by(&[other()]).unwrap());
    house.signs(&rewrapped).unwrap();
    // The state alone, as a thief has it, opens nothing.
    house.restart();
    assert!(house.custodian.custody().is_sealed && house.signs(&rewrapped).is_err());
}

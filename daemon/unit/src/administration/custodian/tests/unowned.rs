//! Master keys of units that nobody owns.

use super::*;

#[test]
fn the_master_key_of_a_file_has_no_owners_until_it_is_replaced() {
    let mut house = House::unowned();
    let digits = MasterKey::generate().unwrap().to_hex();
    let file = || MasterKey::from_hex(&digits).unwrap();
    house.custodian.unseal_by_file(file()).unwrap();
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    house.restart();
    assert!(house.custodian.custody().is_sealed && house.custodian.custody().awaited.clone().is_empty());
    let other = MasterKey::generate().unwrap();
    assert!(matches!(house.custodian.unseal_by_file(other), Err(CustodyError::OtherMasterKey { .. })));
    house.custodian.unseal_by_file(file()).unwrap();
    house.signs(&blob).unwrap();
    // Its owners claim the unit, and replace the key.
    house.claim();
    let pattern = house.load(&parts::<2>());
    house.command(Instruction::Commit(pattern), &[0, 1]).unwrap();
    let rewrapped = house.unit.rewrap(&blob, house.unit.other_wkid().unwrap()).unwrap();
    // The activation destroys a master key that nobody can bring again.
    let refused = house.command(Instruction::Activate(pattern), &[0]).unwrap_err();
    let few = Refusal::FewSignatures { have: 1, needed: 2 };
    assert!(matches!(refused, CustodyError::Refused(refused) if refused == few));
    house.command(Instruction::Activate(pattern), &[0, 1]).unwrap();
    house.signs(&rewrapped).unwrap();
    assert!(matches!(house.custodian.unseal_by_file(file()), Err(CustodyError::OtherMasterKey { .. })));
}

#[test]
fn a_unit_that_nobody_owns_makes_and_changes_its_master_key() {
    let mut house = House::unowned();
    let secret = |byte| KeepingSecret::random(&[byte; 32]).unwrap();
    assert!(matches!(house.custodian.make_master_key(), Err(CustodyError::NotKept)));
    assert!(!house.custodian.keep_by(&[secret(b'1')]).unwrap());
    house.custodian.make_master_key().unwrap();
    assert!(house.custodian.make_master_key().is_err(), "there is one already");
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    house.restart();
    assert!(matches!(house.custodian.make_next_master_key(), Err(CustodyError::NotKept)));
    // The second secret opens the unit, and the first one keeps its master keys from now on.
    assert!(house.custodian.keep_by(&[secret(b'2'), secret(b'1')]).unwrap());
    house.custodian.make_next_master_key().unwrap();
    let next = house.custodian.custody().state.new_register().pattern();
    house.custodian.make_next_master_key().unwrap();
    assert_eq!(house.custodian.custody().state.new_register().pattern(), next, "once");
    let rewrapped = house.unit.rewrap(&blob, house.unit.other_wkid().unwrap()).unwrap();
    house.restart();
    assert!(matches!(house.custodian.keep_by(&[secret(b'1')]), Err(CustodyError::OtherKeeper)));
    house.restart();
    assert!(house.custodian.keep_by(&[secret(b'2')]).unwrap());
    house.signs(&blob).unwrap();
    house.signs(&rewrapped).unwrap();
    house.custodian.forget_next_master_key().unwrap();
    assert!(house.signs(&rewrapped).is_err());
    assert!(house.custodian.activate_next_master_key().is_err(), "there is none");
    house.custodian.make_next_master_key().unwrap();
    let rewrapped = house.unit.rewrap(&blob, house.unit.other_wkid().unwrap()).unwrap();
    house.custodian.activate_next_master_key().unwrap();
    house.signs(&rewrapped).unwrap();
    assert!(house.signs(&blob).is_err());
    // Its owners alone decide from now on.
    house.claim();
    assert!(matches!(house.custodian.make_next_master_key(), Err(CustodyError::NeedsOwners)));
    assert!(house.command(Instruction::Zeroize, &[0]).is_err(), "nobody could bring the master key again");
    house.command(Instruction::Zeroize, &[0, 1]).unwrap();
    house.restart();
    assert!(matches!(house.custodian.make_master_key(), Err(CustodyError::NotKept)));
    assert!(!house.custodian.keep_by(&[secret(b'2')]).unwrap());
    assert!(matches!(house.custodian.make_master_key(), Err(CustodyError::NeedsOwners)));
    let file = MasterKey::generate().unwrap();
    assert!(matches!(house.custodian.unseal_by_file(file), Err(CustodyError::NeedsOwners)));
}

/// Who claims a sealed unit would leave a state that its master key does not authenticate.
#[test]
fn a_sealed_unit_is_not_claimed() {
    let mut house = House::unowned();
    let digits = MasterKey::generate().unwrap().to_hex();
    let file = || MasterKey::from_hex(&digits).unwrap();
    house.custodian.unseal_by_file(file()).unwrap();
    house.restart();
    assert!(matches!(house.try_claim(), Err(CustodyError::Refused(Refusal::Sealed))));
    house.custodian.unseal_by_file(file()).unwrap();
    house.claim();
    house.restart();
    house.custodian.unseal_by_file(file()).unwrap();
}

/// A daemon with a master key file starts on a full disk.
#[test]
fn a_full_disk_keeps_no_unit_from_its_master_key_in_a_file() {
    let digits = MasterKey::generate().unwrap().to_hex();
    let file = || MasterKey::from_hex(&digits).unwrap();
    let secret = || KeepingSecret::random(digits.as_bytes()).unwrap();
    let disk = Disk::default();
    disk.set_full(true);
    let (unit, custodian) = open(&disk, None).unwrap();
    assert!(matches!(custodian.unseal_by_file(file()), Err(CustodyError::Write(_))));
    let blob = unit.generate(KeyType::P256).unwrap().blob;
    assert!(matches!(custodian.keep_by(&[secret()]), Err(CustodyError::Write(_))));
    assert!(unit.public_key(&blob).is_ok());
    assert!(custodian.make_next_master_key().is_err() && unit.other_wkid().is_none());
    disk.set_full(false);
    assert!(custodian.keep_by(&[secret()]).unwrap());
    custodian.make_next_master_key().unwrap();
    let rewrapped = unit.rewrap(&blob, unit.other_wkid().unwrap()).unwrap();
    disk.set_full(true);
    assert!(matches!(custodian.activate_next_master_key(), Err(CustodyError::Write(_))));
    assert!(unit.public_key(&blob).is_ok() && unit.public_key(&rewrapped).is_ok(), "both, as before");
    let texts = disk.texts();
    let (unit, custodian) = open(&disk, texts.last().map(String::as_str)).unwrap();
    custodian.unseal_by_file(file()).unwrap();
    assert!(custodian.keep_by(&[secret()]).unwrap());
    assert!(unit.public_key(&blob).is_ok() && unit.public_key(&rewrapped).is_ok());
}

/// The state keeps a master key that no secret of this start opens.
#[test]
fn a_start_without_the_secret_loses_no_master_key() {
    let mut house = House::unowned();
    let digits = MasterKey::generate().unwrap().to_hex();
    let file = || MasterKey::from_hex(&digits).unwrap();
    let of_file = || KeepingSecret::random(digits.as_bytes()).unwrap();
    let secret = || KeepingSecret::random(&[b'1'; 32]).unwrap();
    house.custodian.unseal_by_file(file()).unwrap();
    house.custodian.keep_by(&[secret(), of_file()]).unwrap();
    house.custodian.make_next_master_key().unwrap();
    let blob = house.unit.generate(KeyType::P256).unwrap().blob;
    let rewrapped = house.unit.rewrap(&blob, house.unit.other_wkid().unwrap()).unwrap();
    for secrets in [vec![of_file()], Vec::new(), vec![KeepingSecret::random(&[b'2'; 32]).unwrap()]] {
        house.restart();
        house.custodian.unseal_by_file(file()).unwrap();
        let kept = house.custodian.keep_by(&secrets);
        assert!(secrets.is_empty() || matches!(kept, Err(CustodyError::OtherKeeper)), "{kept:?}");
        house.signs(&blob).unwrap();
        assert!(house.signs(&rewrapped).is_err());
    }
    house.restart();
    assert!(house.custodian.keep_by(&[secret()]).unwrap());
    house.signs(&blob).unwrap();
    house.signs(&rewrapped).unwrap();
    // Nobody claims the unit in the middle of a change to which no quorum has agreed.
    assert!(matches!(house.try_claim(), Err(CustodyError::Refused(Refusal::ChangeUnderWay))));
    house.custodian.forget_next_master_key().unwrap();
    house.claim();
}

/// Honest people do not write a state that no master key authenticates.
#[test]
fn a_state_is_written_with_the_master_key_that_authenticates_it() {
    let mut house = House::new();
    let (first, second) = (parts::<2>(), parts::<2>());
    house.load(&first);
    house.restart();
    let thresholds = Instruction::SetThresholds(Thresholds { signature: 2, revocation: 2 });
    assert!(matches!(house.command(thresholds, &[0, 1]), Err(CustodyError::Refused(Refusal::Sealed))));
    for part in &first {
        house.bring(&again(part)).unwrap();
    }
    let pattern = house.custodian.custody().state.new_register().pattern().unwrap();
    house.command(Instruction::Commit(pattern), &[0, 1]).unwrap();
    house.command(Instruction::Activate(pattern), &[0]).unwrap();
    let next = house.load(&second);
    house.command(Instruction::Commit(next), &[0, 1]).unwrap();
    house.restart();
    for part in &second {
        house.bring(&again(part)).unwrap();
    }
    assert!(!house.custodian.keep_by(&[KeepingSecret::random(&[b'1'; 32]).unwrap()]).unwrap());
    house.restart();
    for part in &first {
        house.bring(&again(part)).unwrap();
    }
    assert!(!house.unit.is_sealed());
}

/// Who has sealed a unit does not want a reload to open it.
#[test]
fn a_secret_does_not_open_a_unit_that_somebody_has_sealed() {
    let mut house = House::new();
    let mine = parts::<2>();
    let secret = || KeepingSecret::random(&[b'1'; 32]).unwrap();
    house.custodian.keep_by(&[secret()]).unwrap();
    house.put_in_force(&mine);
    house.custodian.seal();
    assert!(!house.custodian.keep_by(&[secret()]).unwrap() && house.unit.is_sealed());
    for part in &mine {
        house.bring(&again(part)).unwrap();
    }
    assert!(house.custodian.keep_by(&[secret()]).unwrap() && !house.unit.is_sealed());
    house.custodian.seal();
    house.restart();
    assert!(house.custodian.keep_by(&[secret()]).unwrap() && !house.unit.is_sealed());
}

/// A unit without a master key in memory leaves the file of another program as it is.
#[test]
fn only_a_unit_with_its_master_key_writes_over_another_file() {
    let house = House::new();
    let mine = parts::<2>();
    house.put_in_force(&mine);
    let restored = house.disk.texts().pop().unwrap();
    let old = house.disk.texts().swap_remove(0);
    house.disk.replace(&old).unwrap();
    assert!(house.custodian.mend().unwrap() && !house.custodian.mend().unwrap());
    assert_eq!(house.disk.texts().pop().unwrap(), restored);
    house.custodian.seal();
    assert!(!house.custodian.mend().unwrap());
    house.disk.replace(&old).unwrap();
    assert!(matches!(house.custodian.mend(), Err(CustodyError::Removed)));
    // A unit that was started without its state, which somebody restores.
    let house = House::unowned();
    house.disk.replace(&restored).unwrap();
    assert!(matches!(house.custodian.mend(), Err(CustodyError::Removed)));
    assert_eq!(house.disk.texts().pop().unwrap(), restored);
}

/// A host that no longer starts alone forgets the master key.
#[test]
fn without_a_secret_the_state_forgets_what_it_kept() {
    let mut house = House::new();
    let mine = parts::<2>();
    let secret = || KeepingSecret::random(&[b'1'; 32]).unwrap();
    house.custodian.keep_by(&[secret()]).unwrap();
    house.put_in_force(&mine);
    house.restart();
    house.custodian.keep_no_more().unwrap();
    for part in &mine {
        house.bring(&again(part)).unwrap();
    }
    house.restart();
    assert!(!house.custodian.keep_by(&[secret()]).unwrap() && house.unit.is_sealed());
}

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
    house.command(Instruction::Activate(pattern), &[0]).unwrap();
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
    house.command(Instruction::Zeroize, &[0]).unwrap();
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

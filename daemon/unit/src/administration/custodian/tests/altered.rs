//! Files of states that another program has written, without the master keys of the owners.

use aws_lc_rs::hmac;

use super::*;
use crate::administration::Contents;
use crate::master_key::WrappingKeys;

/// A unit in the middle of a change: the parts of the master key in force, and of the next one.
fn in_a_change() -> (House, [Part; 2], [Part; 2]) {
    let house = House::new();
    let (old, next) = (parts(), parts());
    house.put_in_force(&old);
    let pattern = house.load(&next);
    house.command(Instruction::Commit(pattern), &[0, 1]).unwrap();
    (house, old, next)
}

/// The state on the disk, and its line of MACs.
fn on_disk(house: &House) -> (State, String) {
    let text = house.disk.texts().pop().unwrap();
    let (line, macs) = text.trim_end().split_once('\n').unwrap();
    (State::from_json(line).unwrap(), macs.to_owned())
}

/// Mallory makes himself the only administrator of a house.
fn taken_over(house: &mut House, state: State) -> State {
    let (mallory, pair) = person("mallory");
    house.people = vec![(mallory.clone(), pair)];
    State { administrators: vec![mallory], thresholds: Thresholds { signature: 1, revocation: 1 }, ..state }
}

fn restart_with(house: &mut House, state: &State, macs: &str) {
    house.restart_with(&format!("{}\n{macs}\n", *state.to_json()));
}

fn bring_all(house: &House, parts: &[Part]) {
    for part in parts {
        house.bring(&again(part)).unwrap();
    }
}

fn mac(key: &MasterKey, state: &State) -> String {
    let mac = hmac::sign(&WrappingKeys::derive(key).unit_state, state.to_json().as_bytes());
    base16ct::lower::encode_string(mac.as_ref())
}

#[test]
fn who_writes_the_file_without_the_master_key_is_noticed() {
    let mut house = House::new();
    let mine = parts::<2>();
    house.put_in_force(&mine);
    let (state, macs) = on_disk(&house);
    let state = taken_over(&mut house, state);
    // The same with the master key in the new register, as if it was never in force.
    let contents = state.current.contents().unwrap().clone();
    let moved = State { current: Register::Empty, new: Register::Committed(contents), ..state.clone() };
    for state in [state, moved] {
        for macs in [macs.as_str(), "macs - -"] {
            restart_with(&mut house, &state, macs);
            house.bring(&again(&mine[0])).unwrap();
            assert!(matches!(house.bring(&again(&mine[1])), Err(CustodyError::Altered)));
            assert!(house.unit.is_sealed());
        }
    }
    let text = house.disk.texts().pop().unwrap();
    for damaged in ["", "\n", "{}\nmacs - -\n", text.trim_end(), &text[1..], &format!("{text}\n")] {
        assert!(matches!(open(&Disk::default(), Some(damaged)), Err(CustodyError::Damaged)), "{damaged}");
    }
}

/// The writer has a master key in force, which authenticates the file, and waits for the one of the
/// owners as if the unit was to change to it.
#[test]
fn a_master_key_of_the_writer_authenticates_nothing_for_the_owners() {
    let mut house = House::new();
    let (mine, his) = (parts::<2>(), parts::<2>());
    house.put_in_force(&mine);
    let (state, _) = on_disk(&house);
    let state = taken_over(&mut house, state);
    let key = part::combine(&his);
    let current = Register::Valid(Contents {
        pattern: key.pattern(),
        wkid: key.wkid(),
        origin: Origin::Parts(his.iter().map(Part::pattern).collect()),
        shares: Vec::new(),
    });
    let new = Register::Committed(state.current.contents().unwrap().clone());
    let state = State { current, new, ..state };
    let mac = mac(&key, &state);
    restart_with(&mut house, &state, &format!("macs {mac} {mac}"));
    bring_all(&house, &his);
    assert!(!house.unit.is_sealed());
    house.bring(&again(&mine[0])).unwrap();
    assert!(matches!(house.bring(&again(&mine[1])), Err(CustodyError::Altered)));
    let pattern = state.new.pattern().unwrap();
    let refused = house.command(Instruction::Activate(pattern), &[0]).unwrap_err();
    assert!(matches!(refused, CustodyError::Refused(Refusal::NewSealed)), "{refused}");
}

/// The writer waits for the parts of the next master key, and clears the register that would tell.
#[test]
fn a_cleared_register_does_not_hide_an_altered_state() {
    let (mut house, old, next) = in_a_change();
    let (state, macs) = on_disk(&house);
    let state = taken_over(&mut house, state);
    for of_new in [true, false] {
        restart_with(&mut house, &state, &macs);
        house.bring(&again(&next[0])).unwrap();
        if of_new {
            assert!(matches!(house.bring(&again(&next[1])), Err(CustodyError::Altered)));
        }
        house
            .command(Instruction::Clear(RegisterName::Current, state.current.pattern().unwrap()), &[0])
            .unwrap();
        // Without the next master key in memory, both registers go.
        let custody = house.custodian.custody();
        let registers = (custody.state.current(), custody.state.new_register());
        assert_eq!(registers, (&Register::Empty, &Register::Empty));
        for part in old.iter().chain(&next) {
            assert!(matches!(house.bring(&again(part)), Err(CustodyError::NotAwaited(..))));
        }
    }
}

/// A state that not every master key would authenticate is not written.
#[test]
fn in_a_change_each_command_needs_both_master_keys() {
    let (mut house, old, next) = in_a_change();
    let pattern = house.custodian.custody().state.new_register().pattern().unwrap();
    house.restart();
    bring_all(&house, &old);
    let thresholds = || Instruction::SetThresholds(Thresholds { signature: 1, revocation: 1 });
    let written = house.disk.texts().len();
    let refused = house.command(thresholds(), &[0, 1]).unwrap_err();
    assert!(matches!(refused, CustodyError::Refused(Refusal::NewSealed)), "{refused}");
    assert_eq!(house.disk.texts().len(), written);
    bring_all(&house, &next);
    house.command(thresholds(), &[0, 1]).unwrap();
    // The owners of the next master key may be out of reach for ever.
    house.restart();
    bring_all(&house, &old);
    house.command(Instruction::Clear(RegisterName::New, pattern), &[0]).unwrap();
    house.command(thresholds(), &[0]).unwrap();
}

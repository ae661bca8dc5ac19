//! Administrators agree to the master key in the new register, and put it in force.

use keyward_unit::administration::{Instruction, Pattern, RegisterName};

use super::super::registers;
use super::Session;
use super::dialogue::{agreed, compared, say, step};
use super::orders::Order;
use crate::admin::unit_view::OwnedUnitView;
use crate::cli::failure::Failure;
use crate::ground::exit;

impl Session {
    /// Has the people compare the pattern of the new register, and a quorum agree to it.
    pub(super) fn commit(&mut self, unit: &OwnedUnitView) -> Result<(), Failure> {
        step(
            "Agree to the master key",
            &format!("everybody; {}, to sign", administrators(unit.signature_threshold)),
        )?;
        let pattern = new_pattern(unit)?;
        say(format_args!(
            "This is the pattern of the master key. Everybody writes it down, or compares\nall its digits with the paper:\n{pattern}"
        ))?;
        compared("One of you", "the pattern", &pattern.to_string())?;
        self.order(Order {
            instruction: Instruction::Commit(pattern),
            needed: unit.signature_threshold,
            administrators: &unit.administrators,
            secret: None,
        })
    }

    /// Has the new register cleared, whose master key is not the one that the key store needs.
    pub(super) fn clear_new(&mut self, unit: &OwnedUnitView) -> Result<(), Failure> {
        step("Clear the new register", "1 administrator, to sign")?;
        let (pattern, needed) = (new_pattern(unit)?, unit.store_needs.as_deref().unwrap_or_default());
        say(format_args!(
            "The key store has keys of the master key {needed}.\nThe new register has another master key, which would open none of them:\n{pattern}"
        ))?;
        if !agreed("Clear the new register, and bring the former parts?")? {
            return Err(Failure::new(
                exit::DATA,
                "the new register has another master key than the key store",
            ));
        }
        self.order(Order {
            instruction: Instruction::Clear(RegisterName::New, pattern),
            needed: 1,
            administrators: &unit.administrators,
            secret: None,
        })
    }

    /// Wraps the keys by the committed master key, and has it put in force.
    pub(super) fn activate(&mut self, unit: &OwnedUnitView) -> Result<(), Failure> {
        let needed = needed_to_activate(unit);
        step("Put the master key in force", &format!("{}, to sign", administrators(needed)))?;
        let pattern = new_pattern(unit)?;
        // The keys of the store are wrapped by the master key in force.
        if unit.current.pattern.is_some() {
            let (keys, _) = registers::rotate(&self.admin)?;
            say(format_args!("{keys} keys are wrapped by the new master key, too."))?;
            if unit.serves_grep11 && !agreed(CLIENTS)? {
                return Err(Failure::new(
                    exit::UNAVAILABLE,
                    "keys that are not rewrapped would be lost; run on the machine of each daemon that uses this unit: keyward key rewrap --backend NAME",
                ));
            }
        }
        // Before the command: the ceremony has ended once this master key is in force.
        self.notes.agreed = Some(pattern.to_string());
        self.notes.save()?;
        self.order(Order {
            instruction: Instruction::Activate(pattern),
            needed,
            administrators: &unit.administrators,
            secret: None,
        })
    }
}

/// Number of administrators who sign an activation. It destroys the master key in force: one
/// without parts is gone for good.
pub(super) fn needed_to_activate(unit: &OwnedUnitView) -> u8 {
    if unit.current.needed == Some(0) { unit.signature_threshold } else { 1 }
}

/// A number of administrators, in words.
pub(super) fn administrators(number: u8) -> String {
    if number == 1 { "1 administrator".into() } else { format!("{number} administrators") }
}

/// The unit does not know the keys of its clients.
const CLIENTS: &str = "Daemons that use this unit have keys of their own here. Each daemon must have\nrewrapped its keys: keyward key rewrap --backend NAME. Have all of them?";

fn new_pattern(unit: &OwnedUnitView) -> Result<Pattern, Failure> {
    let pattern = unit.new.pattern.as_ref().and_then(|pattern| pattern.parse().ok());
    pattern.ok_or_else(|| Failure::new(exit::SOFTWARE, "the daemon names no pattern of the new register"))
}

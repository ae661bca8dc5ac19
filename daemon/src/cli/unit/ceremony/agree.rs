//! Administrators agree to the master key in the new register, and put it in force.

use keyward_unit::administration::{Instruction, Pattern};

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
            &format!("everybody; {} administrators sign", unit.signature_threshold),
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

    /// Wraps the keys by the committed master key, and has it put in force.
    pub(super) fn activate(&mut self, unit: &OwnedUnitView) -> Result<(), Failure> {
        // An activation destroys the master key in force. One without parts is gone for good.
        let needed = if unit.current.needed == Some(0) { unit.signature_threshold } else { 1 };
        let s = if needed == 1 { "" } else { "s" };
        step("Put the master key in force", &format!("{needed} administrator{s}, to sign"))?;
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

/// The unit does not know the keys of its clients.
const CLIENTS: &str = "Daemons that use this unit have keys of their own here. Each daemon must have\nrewrapped its keys: keyward key rewrap --backend NAME. Have all of them?";

fn new_pattern(unit: &OwnedUnitView) -> Result<Pattern, Failure> {
    let pattern = unit.new.pattern.as_ref().and_then(|pattern| pattern.parse().ok());
    pattern.ok_or_else(|| Failure::new(exit::SOFTWARE, "the daemon names no pattern of the new register"))
}

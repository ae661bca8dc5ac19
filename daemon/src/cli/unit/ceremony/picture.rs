//! The picture of the unit at each step: the registers, and who is still missing.

use super::Session;
use super::agree::{administrators, needed_to_activate};
use super::bring::missing;
use crate::admin::unit_view::{AwaitedView, OwnedUnitView, RegisterView};
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_table, table};

impl Session {
    /// Shows the registers, and who is missing to go on.
    pub(super) fn show(&self, unit: &OwnedUnitView) -> Result<(), Failure> {
        let mut rows = table(&["REGISTER", "STATE", "MASTER KEY", "WHO IS MISSING"]);
        for (name, register) in [("current", &unit.current), ("new", &unit.new)] {
            let awaited = unit.awaited.iter().find(|awaited| awaited.register == name);
            let state = match awaited {
                Some(_) => "waits for parts",
                None => &register.state,
            };
            let pattern = register.pattern.as_deref().map_or_else(|| "-".into(), short);
            let missing = match awaited {
                Some(awaited) => self.owners_missing(awaited),
                None => signers_missing(name, unit, register),
            };
            rows.add_row([name, state, &pattern, &missing]);
        }
        print("\n")?;
        print_table(&rows)
    }

    fn owners_missing(&self, awaited: &AwaitedView) -> String {
        let name = |pattern: &str| {
            self.notes.owners.get(pattern).cloned().unwrap_or_else(|| format!("part {}", short(pattern)))
        };
        let names: Vec<_> = missing(awaited).into_iter().map(name).collect();
        let more = awaited.needed.saturating_sub(awaited.arrived.len());
        match more == names.len() {
            true => names.join(", "),
            false => format!("{more} of {}", names.join(", ")),
        }
    }
}

fn signers_missing(name: &str, unit: &OwnedUnitView, register: &RegisterView) -> String {
    match register.state.as_str() {
        "empty" if name == "new" && unit.current.pattern.is_none() => "the owners, to load it".into(),
        "uncommitted" => format!("{}, to agree", administrators(unit.signature_threshold)),
        "committed" => format!("{}, to put it in force", administrators(needed_to_activate(unit))),
        _ => "-".into(),
    }
}

/// The first eight digits, for a table.
fn short(digits: &str) -> String {
    digits.chars().take(8).collect()
}

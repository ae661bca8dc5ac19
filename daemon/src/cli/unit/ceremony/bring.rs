//! Owners bring their parts or shares: to load the new register, or after a start.

use std::path::PathBuf;

use keyward_unit::administration::{Aim, OwnerKey, PersonName, ShareFile, pattern_of_part_file};

use super::super::parts::PieceFile;
use super::Session;
use super::dialogue::{ask, ask_or, compared, did_not_work, say, step};
use super::people::search;
use crate::admin::unit_view::{AwaitedView, OwnedUnitView};
use crate::cli::failure::Failure;

impl Session {
    /// Has the owner of a part or share bring it.
    pub(super) fn bring(&mut self, unit: &OwnedUnitView, awaited: &AwaitedView) -> Result<(), Failure> {
        let missing = missing(awaited);
        let known = missing.iter().find_map(|pattern| self.notes.owners.get(*pattern).cloned());
        let more = awaited.needed.saturating_sub(awaited.arrived.len());
        if awaited.arrived.is_empty() {
            step("Owners bring their parts", &format!("{more} owners"))?;
            say(format_args!(
                "Each part is encrypted to a fresh key, which the unit with this key has signed:\n{}",
                unit.unit_key
            ))?;
        }
        say(format_args!("\nThe {} register waits for {more} more.", awaited.register))?;
        let name = match known {
            Some(name) => ask_or("Which owner comes now", &name)?,
            None => ask("Which owner comes now? Name:")?,
        };
        if name.parse::<PersonName>().is_err() {
            return say("This is not the name of a person.");
        }
        let (piece, owner_key) = self.files_of(&name, &missing)?;
        compared(&name, "the unit key", &unit.unit_key)?;
        let (admin, unit_key, aim) = (&self.admin, self.unit_key, aim(unit, awaited));
        let file = PieceFile { file: &piece, owner_key: owner_key.as_deref(), passphrase: &self.passphrase };
        match file.bring(admin, unit_key, aim) {
            Ok(taken) => {
                self.notes.owners.insert(taken.pattern, name.clone());
                self.notes.save()?;
                say(format_args!("The unit has taken the part of {name}."))
            }
            // The state of the unit says which parts the unit waits for now.
            Err(failure) => did_not_work(failure),
        }
    }

    /// Files of an owner: the part; or the share, and the key of the owner.
    fn files_of(&mut self, name: &str, missing: &[&str]) -> Result<(PathBuf, Option<PathBuf>), Failure> {
        // All pieces of a master key are of one kind. The kind is known by the files of the owner.
        let mut place = self.known_place(name);
        loop {
            let part = search(&place, name, "part", |text| {
                let (_, pattern) = pattern_of_part_file(text).ok()?;
                missing.contains(&pattern.to_string().as_str()).then_some(())
            });
            if let Some((part, ())) = part {
                return Ok((part, None));
            }
            let share = search(&place, name, "share", |text| {
                let share = ShareFile::from_text(text).ok()?.share;
                missing.contains(&share.pattern.to_string().as_str()).then_some(share.owner)
            });
            let Some((share, owner)) = share else {
                say(format_args!("{} has no part or share of {name} for this.", place.display()))?;
                place = self.ask_place(name)?;
                continue;
            };
            let (key, ()) = self.find(name, "key", "key", |text| {
                let person = OwnerKey::person_of_file(text).ok()?;
                (person.key == owner.key).then_some(())
            })?;
            return Ok((share, Some(key)));
        }
    }
}

/// Patterns of the parts or shares that have not arrived.
pub(super) fn missing(awaited: &AwaitedView) -> Vec<&str> {
    let missing = awaited.parts.iter().filter(|part| !awaited.arrived.contains(part));
    missing.map(String::as_str).collect()
}

/// Purpose for which the unit takes a part: it has had the master key of a register that is full.
fn aim(unit: &OwnedUnitView, awaited: &AwaitedView) -> Aim {
    match awaited.register == "new" && unit.new.pattern.is_none() {
        true => Aim::Load,
        false => Aim::Unseal,
    }
}

//! The new register gets a master key: of parts, or of shares that the unit makes.

use keyward_unit::administration::{Instruction, MAX_SHARES, PARTS, Pattern, Person, PersonName, ShareFile};

use super::super::issue::write_new;
use super::Session;
use super::dialogue::{again, compared, names, number, parsed, say, step};
use super::orders::Order;
use super::people::{OWNER, PART, free, make_directory, search};
use crate::admin::unit_view::{OwnedUnitView, ShareView};
use crate::cli::failure::Failure;
use crate::ground::exit;

impl Session {
    /// Loads the new register, or has it wait for the parts of its owners.
    pub(super) fn load(&mut self, unit: &OwnedUnitView) -> Result<(), Failure> {
        step("A master key", "all owners, and administrators to sign")?;
        if let Some(needed) = &unit.store_needs {
            say(format_args!(
                "The key store has keys of the master key {needed}.\nNo other master key opens them. So the owners bring the parts of that master\nkey: new parts would be of no use. If the master key has shares, stop with\nCtrl-C, and load the shares with keyward unit load --share, as docs/ceremony.md\ndescribes; then run this command again."
            ))?;
            return self.load_parts(unit);
        }
        say(
            "With parts, all 2 or 3 owners must come after each start. With shares, the\nunit makes the master key, and some of up to 16 owners are enough.",
        )?;
        let is_of_parts = parsed("Parts or shares", Some("parts"), |answer| match answer {
            "parts" => Ok(true),
            "shares" => Ok(false),
            _ => Err("type parts or shares".into()),
        })?;
        match is_of_parts {
            true => self.load_parts(unit),
            false => self.load_shares(unit),
        }
    }

    fn load_parts(&mut self, unit: &OwnedUnitView) -> Result<(), Failure> {
        let owners: Vec<PersonName> =
            names("Names of the owners of the parts", *PARTS.start(), *PARTS.end())?;
        let mut parts = Vec::new();
        for owner in &owners {
            // The part of another master key would make the same master key again.
            let is_unfit = |pattern: &Pattern| {
                parts.contains(pattern) || unit.current.parts.contains(&pattern.to_string())
            };
            let may_make = unit.store_needs.is_none();
            let pattern = self.obtain(&PART, owner, may_make, is_unfit)?;
            parts.push(pattern);
            self.notes.owners.insert(pattern.to_string(), owner.to_string());
            self.notes.save()?;
        }
        say("\nThe owners compare the patterns below with their papers.")?;
        self.order(Order {
            instruction: Instruction::LoadParts(parts),
            needed: 1,
            administrators: &unit.administrators,
            secret: None,
        })
    }

    fn load_shares(&mut self, unit: &OwnedUnitView) -> Result<(), Failure> {
        let owners: Vec<PersonName> = names("Names of the owners of the shares", 2, usize::from(MAX_SHARES))?;
        let needed = number("How many owners are enough", 2, owners.len(), 2)?;
        let mut people: Vec<Person> = Vec::new();
        for owner in &owners {
            let is_unfit = |person: &Person| people.iter().any(|other| other.key == person.key);
            people.push(self.obtain(&OWNER, owner, true, is_unfit)?);
        }
        say("\nThe owners compare the identities below with their papers.")?;
        self.order(Order {
            instruction: Instruction::GenerateShares { needed, owners: people },
            needed: unit.signature_threshold,
            administrators: &unit.administrators,
            secret: None,
        })
    }

    /// Writes each share that the unit has made into the directory of its owner, unless the share
    /// is there.
    pub(super) fn hand_out(&mut self, shares: &[ShareView]) -> Result<(), Failure> {
        for share in shares {
            let pattern = ShareFile::from_text(&share.file).map(|file| file.share.pattern);
            let pattern = pattern.map_err(|error| {
                Failure::new(
                    exit::SOFTWARE,
                    format_args!("cannot read the share of {}: {error}", share.owner),
                )
            })?;
            self.notes.owners.insert(pattern.to_string(), share.owner.clone());
            let place = self.place(&share.owner)?;
            let directory = if place.is_file() { place.parent().unwrap_or(&place).to_owned() } else { place };
            if search(&directory, &share.owner, "share", |text| (text == share.file).then_some(())).is_some()
            {
                continue;
            }
            let path = free(&directory, &share.owner, "share");
            again(|| {
                make_directory(&directory)?;
                write_new(&path, share.file.as_bytes(), 0o644)
            })?;
            let owner = &share.owner;
            say(format_args!(
                "\n{owner}, {} is your share, encrypted to your key.\nWrite its pattern on your paper:\n{pattern}",
                path.display()
            ))?;
            compared(owner, "the pattern", &pattern.to_string())?;
        }
        self.notes.save()
    }
}

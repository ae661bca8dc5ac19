//! Notes for a ceremony that is interrupted: who has files where, and the commands so far.
//!
//! The unit decides where the ceremony goes on. The notes only save people from typing answers
//! again, and keep the signers of commands for the record. They have no secret.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::issue::{read, rewrite, write_new};
use crate::admin::unit_view::OwnedUnitView;
use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::ground::ownership;

/// Notes, and their file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notes {
    #[serde(skip)]
    file: PathBuf,
    unit: String,
    /// Counter of the first command of the ceremony.
    pub(super) first: u64,
    /// Directory or file of each person, by name.
    pub(super) places: BTreeMap<String, PathBuf>,
    /// Names of the owners, by the patterns of their parts or shares.
    pub(super) owners: BTreeMap<String, String>,
    /// Pattern of the master key to which the administrators have agreed.
    pub(super) agreed: Option<String>,
    pub(super) commands: Vec<Noted>,
}

/// A command that the unit has carried out.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Noted {
    pub(super) command: String,
    pub(super) counter: u64,
    /// In seconds since 1970.
    pub(super) time: u64,
    /// Names of the administrators who have signed.
    pub(super) signers: Vec<String>,
}

impl Notes {
    /// The notes of the ceremony of a unit, or new ones. The file is in the working directory.
    pub(super) fn open(unit: &OwnedUnitView) -> Result<Self, Failure> {
        let file = PathBuf::from(format!("ceremony-{}.notes", unit.unit));
        if !file.exists() {
            return Ok(Self {
                file,
                unit: unit.unit.clone(),
                first: unit.next_counter,
                places: BTreeMap::new(),
                owners: BTreeMap::new(),
                agreed: None,
                commands: Vec::new(),
            });
        }
        // Another user could name directories of his own for the keys and parts of people.
        ownership::open(&file).map_err(|error| {
            Failure::new(
                exit::NO_PERMISSION,
                format_args!(
                    "cannot go on with the notes of a ceremony: {error}; move the file away, or work in a directory of your own"
                ),
            )
        })?;
        let notes: Option<Self> = serde_json::from_str(&read(&file)?).ok();
        let notes = notes.filter(|notes| notes.unit == unit.unit);
        notes.map(|notes| Self { file: file.clone(), ..notes }).ok_or_else(|| {
            Failure::new(
                exit::DATA,
                format_args!(
                    "cannot read {}: these are not the notes of a ceremony of this unit; move the file away",
                    file.display()
                ),
            )
        })
    }

    /// Writes the notes.
    pub(super) fn save(&self) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        match self.file.exists() {
            true => rewrite(&self.file, &text),
            false => write_new(&self.file, text.as_bytes(), 0o600),
        }
    }

    /// Removes the file at the end of the ceremony.
    pub(super) fn remove(&self) -> Result<(), Failure> {
        match self.file.exists() {
            true => fs::remove_file(&self.file).map_err(|error| {
                Failure::new(exit::IO, format_args!("cannot remove {}: {error}", self.file.display()))
            }),
            false => Ok(()),
        }
    }
}
